"""The whole service with its files in a bucket: the same checks, then what only a bucket can do.

Between service and bucket is a proxy that drops, delays and refuses on request.
"""

import asyncio
import contextlib
import os
import re
import socket
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import fields
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, urlsplit
from uuid import uuid4

import asyncpg
import httpx
import pytest

from app.auth.issuer import DevelopmentIssuer
from app.embedded.panopto import PanoptoSimulator, Recording
from app.services.kernel.storage_keys import is_temporary
from app.settings import Settings
from app.storage.copy_command import copy_storage
from tests.acceptance import test_documents, test_lectures
from tests.support.pdfs import make_pdf
from tests.support.s3 import Fault, FaultyProxy, S3Service, open_uploads, s3_settings
from tests.support.service import Client, Service, running_service
from tests.support.wait import wait_until

MIB = 1024 * 1024

# The very checks that pass on a local disk.
test_a_pdf = test_documents.test_a_pdf_comes_back_byte_for_byte
test_50_uploads = test_documents.test_50_uploads_of_the_same_bytes_are_one_document
test_refusals = test_documents.test_what_is_no_pdf_is_refused_and_nothing_is_stored
test_last_document_link = test_documents.test_the_last_one_out_removes_the_file
test_a_lost_object = test_documents.test_an_upload_brings_back_an_object_that_was_lost
test_races = test_documents.test_links_and_unlinks_at_once_never_end_at_a_deleted_row
test_a_lecture = test_lectures.test_a_pasted_link_becomes_audio
test_cancel = test_lectures.test_cancel_stops_the_work_and_leaves_nothing
test_last_lecture_link = test_lectures.test_the_last_one_out_removes_everything
test_unlinking = test_lectures.test_unlinking_stops_a_running_download


@pytest.fixture
async def proxy(s3_endpoint: str) -> AsyncIterator[FaultyProxy]:
    async with FaultyProxy(s3_endpoint).running() as proxy:
        yield proxy


@pytest.fixture
def changes() -> dict[str, Any]:
    """Settings that a test changes by parametrising this."""
    return {}


@pytest.fixture
def service_settings(
    service_settings: Settings, proxy: FaultyProxy, changes: dict[str, Any]
) -> Settings:
    return s3_settings(proxy.url, service_settings, **changes)


@pytest.fixture
async def service(
    service_settings: Settings, simulator: PanoptoSimulator, s3_endpoint: str
) -> AsyncIterator[S3Service]:
    async with running_service(service_settings, simulator) as service:
        # moto dates unfinished uploads 2010: the first sweep would take one that is under way.
        swept = "SELECT 1 FROM jobs WHERE kind = 'sweep' AND state = 'queued' AND run_at > now()"
        async with connected(service.settings) as database:
            looked = lambda: database.fetch(swept)  # noqa: E731
            await wait_until(looked, "the first sweep is over", poll_seconds=0.05)
        yield in_bucket(service, s3_endpoint)


@asynccontextmanager
async def connected(settings: Settings) -> AsyncIterator[asyncpg.Connection]:
    connection = await asyncpg.connect((settings.database_url or "").replace("+asyncpg", ""))
    try:
        yield connection
    finally:
        await connection.close()


def in_bucket(service: Service, endpoint: str) -> S3Service:
    values = {field.name: getattr(service, field.name) for field in fields(service)}
    return S3Service(**values, endpoint=endpoint)


async def test_only_the_finished_audio_goes_to_the_bucket(
    service: S3Service, ada: Client, recording: Recording, proxy: FaultyProxy
) -> None:
    answer = await ada.request(service.course, service.simulator.viewer_url(recording))
    lecture = await ada.until(answer["lecture"]["id"], "COMPLETED", "FAILED")
    assert lecture["status"] == "COMPLETED"
    written = {urlsplit(r.target).path for r in proxy.requests if r.method == "PUT"}
    place, beside = sorted(path.rpartition("/audio/")[2] for path in written)
    assert place == f"{lecture['id']}.m4a"
    assert re.fullmatch(rf"{lecture['id']}_source\.1\.\w{{8}}\.m4a", beside)
    assert service.stored() == {f"audio/{place}"}
    assert not [r for r in proxy.requests if r.method == "GET" and ".m4a" in r.target]


# --- faults between service and bucket --------------------------------------------------------


@pytest.mark.parametrize(
    "fault",
    [
        Fault(status=500),
        Fault(status=503),
        Fault(cut_request_after=1000),
        Fault(cut_response_after=0),
        Fault(delay_seconds=0.5),
    ],
    ids=["500", "slow down", "cut", "no answer", "slow"],
)
async def test_trouble_that_passes_is_not_noticed(
    service: S3Service, ada: Client, proxy: FaultyProxy, fault: Fault
) -> None:
    large = make_pdf(1) + bytes(7 * MIB)
    for method, target, content in (
        ("PUT", "documents/", make_pdf(1)),
        ("PUT", "partNumber=2", large),
        ("POST", "uploads", large),
    ):
        proxy.fail(2, fault, method, target)
        answer = await ada.upload(service.course, content + method.encode())
        assert answer["created"] is True
        url = answer["document"]["fileUrl"]
        assert (await ada.get(url)).content == content + method.encode()
    # Where the answer to the start of an upload was lost, the upload is the sweep's.
    assert len({key for key in service.stored() if not key.startswith("unfinished ")}) == 3


@pytest.mark.parametrize("size_bytes", [0, 12 * MIB], ids=["one request", "parts"])
async def test_an_upload_that_cannot_be_stored_is_an_error_and_stores_nothing(
    service: S3Service, ada: Client, proxy: FaultyProxy, size_bytes: int
) -> None:
    content = make_pdf(1) + bytes(size_bytes)
    proxy.fail(100, Fault(status=500), "PUT", "documents/")
    response = await ada.post_upload(service.course, content, "a.pdf", "application/pdf")
    (error,) = response.json()["errors"]
    assert error["extensions"]["code"] == "INTERNAL_SERVER_ERROR"
    assert error["extensions"]["requestId"] == response.headers["x-request-id"]
    assert "127.0.0.1" not in response.text
    assert (await ada.run(test_documents.LIST))["totalCount"] == 0
    await wait_until(
        lambda: not service.stored(), "nothing is left in the bucket", poll_seconds=0.1
    )
    proxy.heal()
    assert (await ada.upload(service.course, content))["created"] is True


async def test_a_download_that_is_cut_is_whole_or_visibly_short(
    service: S3Service, ada: Client, proxy: FaultyProxy
) -> None:
    content = make_pdf(1) + bytes(range(256)) * (4 * MIB // 256)
    url = (await ada.upload(service.course, content))["document"]["fileUrl"]
    proxy.fail(1, Fault(cut_response_after=MIB), "GET", "documents/")
    assert (await ada.get(url)).content == content  # obstore goes on where it was cut


async def test_a_lecture_waits_out_a_bucket_that_is_down(
    service: S3Service, ada: Client, proxy: FaultyProxy, recording: Recording
) -> None:
    proxy.fail(5, Fault(status=500), "PUT", "audio/")  # one more than obstore's own retries
    answer = await ada.request(service.course, service.simulator.viewer_url(recording))
    lecture = await ada.until(answer["lecture"]["id"], "COMPLETED", "FAILED", timeout_seconds=40)
    assert (lecture["status"], lecture["attempt"]) == ("COMPLETED", 2)
    assert service.stored() == {f"audio/{lecture['id']}.m4a"}


@pytest.mark.parametrize("changes", [{"sweep_grace_seconds": 1}])
async def test_an_unfinished_upload_is_swept(
    service: S3Service, ada: Client, proxy: FaultyProxy, s3_endpoint: str
) -> None:
    # Neither the parts nor the abort get through, as when the process dies.
    proxy.plan = lambda r: Fault(status=500) if "uploadId=" in r.target else None
    content = make_pdf(1) + bytes(12 * MIB)
    response = await ada.post_upload(service.course, content, "a.pdf", "application/pdf")
    assert response.json()["errors"]
    (left,) = open_uploads(s3_endpoint, service.settings)
    assert "/documents/" in left
    proxy.heal()
    await wait_until(lambda: not service.stored(), "the upload is swept", poll_seconds=0.1)


@pytest.mark.parametrize("changes", [{"sweep_grace_seconds": 1}])
async def test_a_machine_sweeps_its_own_scratch_folder(service: S3Service) -> None:
    put_off = "UPDATE jobs SET run_at = 'infinity' WHERE kind = 'sweep' AND state = 'queued'"
    async with connected(service.settings) as database:

        async def another_machine_draws_the_sweep() -> bool:
            return await database.execute(put_off) == "UPDATE 1"

        await wait_until(another_machine_draws_the_sweep, "the sweep is put off", poll_seconds=0.1)
    scratch = service.settings.data_path / "scratch" / "audio"
    scratch.mkdir(parents=True, exist_ok=True)
    left = [scratch / f"{uuid4()}_source.1.abcd1234.{suffix}" for suffix in ("mp4", "part")]
    for path in left:
        path.write_bytes(b"x")
    gone = lambda: not any(path.exists() for path in left)  # noqa: E731
    await wait_until(gone, "what a killed worker left is swept", poll_seconds=0.1)


# --- straight from the bucket -------------------------------------------------------------------


@pytest.mark.parametrize("changes", [{"file_delivery": "redirect"}])
async def test_a_file_is_read_from_the_bucket_itself(
    service: S3Service, ada: Client, bob: Client, proxy: FaultyProxy
) -> None:
    pdf = make_pdf(2)
    document = (await ada.upload(service.course, pdf, 'Über "uns".pdf'))["document"]
    for link in (document["fileUrl"], document["signedFileUrl"]):
        redirect = await ada.get(link)
        assert (redirect.status_code, redirect.content) == (307, b"")
    assert redirect.headers["cache-control"] == "no-store"
    location = redirect.headers["location"]
    query = parse_qs(urlsplit(location).query)
    assert query["X-Amz-Expires"] == ["60"]
    assert query["response-content-type"] == ["application/pdf"]
    elsewhere = {name: text for name, text in redirect.headers.items() if name != "location"}
    assert f"documents/{document['id']}" not in str(elsewhere)

    whole = await service.http.get(location)
    assert (whole.status_code, whole.content) == (200, pdf)
    assert whole.headers["content-type"] == "application/pdf"
    assert whole.headers["content-disposition"].startswith('inline; filename="Uber')
    redirect = await ada.get(document["fileUrl"] + "?download=1")
    saved = await service.http.get(redirect.headers["location"])
    assert saved.headers["content-disposition"].startswith('attachment; filename="Uber')
    part = await service.http.get(location, headers={"Range": "bytes=0-4"})
    assert (part.status_code, part.content) == (206, b"%PDF-")
    head = await service.http.head(document["signedFileUrl"])
    assert head.status_code == 307
    assert head.headers["location"] != location  # a signature is for one method
    assert (await service.http.head(head.headers["location"])).status_code == 200

    asked = len(proxy.requests)
    assert (await bob.get(document["fileUrl"])).status_code == 404
    assert (await service.http.get(document["fileUrl"])).status_code == 401
    assert len(proxy.requests) == asked


# --- from disk to bucket ------------------------------------------------------------------------


async def test_moving_to_a_bucket_under_traffic_loses_nothing(
    settings: Settings,
    simulator: PanoptoSimulator,
    s3_endpoint: str,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """Copy, switch, copy again, as docs/spaces.md tells it, while students go on uploading."""
    bucket = s3_settings(s3_endpoint, settings)
    urls = settings.resolved_storage_url, bucket.resolved_storage_url
    uploaded: dict[str, bytes] = {}

    async def traffic(service: Service, stop: asyncio.Event) -> None:
        ada = service.user("ada")
        while not stop.is_set():
            pdf = make_pdf(1) + b"%" + str(len(uploaded)).encode()
            document = (await ada.upload(service.course, pdf))["document"]
            uploaded[document["id"]] = pdf

    async def copy_during(service: Service) -> None:
        stop, before = asyncio.Event(), len(uploaded)
        running = asyncio.create_task(traffic(service, stop))
        await wait_until(lambda: len(uploaded) > before + 3 or running.done(), "uploads flow")
        assert await copy(bucket, *urls) == 0
        after = len(uploaded)
        await wait_until(lambda: len(uploaded) > after or running.done(), "uploads go on")
        stop.set()
        await running

    async with running_service(settings, simulator) as on_disk:
        await copy_during(on_disk)
    async with running_service(bucket, simulator) as in_cloud:
        await copy_during(in_cloud)
        ada = in_cloud.user("ada")
        for document_id, pdf in uploaded.items():
            assert (await ada.get(f"/api/documents/{document_id}/file")).content == pdf
        stored = in_bucket(in_cloud, s3_endpoint).stored()
        assert stored == {f"documents/{document_id}.pdf" for document_id in uploaded}

        async def all_counted() -> bool:
            return all([(await ada.document(one))["pageCount"] == 1 for one in uploaded])

        await wait_until(all_counted, "every page count is there", poll_seconds=0.1)
    capsys.readouterr()
    assert await copy(bucket, *urls, dry_run=True) == 0
    assert capsys.readouterr().out.startswith("0 to copy")


async def copy(settings: Settings, source: str, target: str, *, dry_run: bool = False) -> int:
    return await copy_storage(
        settings,
        source,
        target,
        concurrency=4,
        dry_run=dry_run,
        compare=False,
        is_left_out=is_temporary,
    )


# --- memory -------------------------------------------------------------------------------------


async def test_memory_stays_flat_under_100_mib_up_and_down(
    settings: Settings, s3_endpoint: str
) -> None:
    """An API process of its own; what it grows by at its worst is the kernel's figure."""
    bucket = s3_settings(s3_endpoint, settings)
    content = make_pdf(1) + bytes(100 * MIB)
    async with api_process(bucket) as (process, http):
        token = DevelopmentIssuer.load(bucket.data_path).issue("ada")
        ada = Client("ada", token, http, str(http.base_url))
        warm = (await ada.upload(uuid4(), make_pdf(2)))["document"]
        await ada.get(warm["fileUrl"])
        before = resident(process.pid, "VmRSS")
        Path(f"/proc/{process.pid}/clear_refs").write_text("5")
        document = (await ada.upload(uuid4(), content))["document"]
        while_uploading = resident(process.pid, "VmHWM") - before
        Path(f"/proc/{process.pid}/clear_refs").write_text("5")
        assert (await ada.get(document["fileUrl"])).content == content
        while_reading = resident(process.pid, "VmHWM") - before
    print(f"growth: {while_uploading / MIB:.1f} MiB up, {while_reading / MIB:.1f} MiB down")
    assert while_uploading < 64 * MIB
    assert while_reading < 64 * MIB


@asynccontextmanager
async def api_process(
    settings: Settings,
) -> AsyncIterator[tuple[asyncio.subprocess.Process, httpx.AsyncClient]]:
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    values = settings.model_dump(exclude_unset=True, mode="json") | {"port": port}
    environment = {name.upper(): str(value) for name, value in values.items()}
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-m", "app.cli", "api", env={**os.environ, **environment}
    )
    http = httpx.AsyncClient(base_url=f"http://127.0.0.1:{port}", timeout=60, trust_env=False)

    async def ready() -> bool:
        with contextlib.suppress(httpx.ConnectError):
            return (await http.get("/health/ready")).status_code == 200
        return False

    try:
        async with http:
            await wait_until(ready, "the API is ready", poll_seconds=0.1)
            yield process, http
    finally:
        process.terminate()
        await process.wait()


def resident(pid: int, name: str) -> int:
    """Return a figure of the process's memory in bytes (proc(5), status)."""
    status = Path(f"/proc/{pid}/status").read_text()
    (line,) = (line for line in status.splitlines() if line.startswith(f"{name}:"))
    return int(line.split()[1]) * 1024
