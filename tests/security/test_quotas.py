"""Quotas end to end: what counts, what is told, what is refused and leaves nothing behind."""

import asyncio
import json
import socket
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any
from uuid import uuid4

import httpx
import pytest
from redis.asyncio import Redis

from app.embedded.panopto import PanoptoSimulator
from app.settings import Settings, load_settings
from tests.support.pdfs import make_pdf
from tests.support.service import UPLOAD, Client, Service, running_service
from tests.support.wait import wait_until

VIEWER = "{ viewer { storedBytes storedBytesLimit } }"
REQUEST = """mutation ($input: RequestLectureDownloadInput!) {
  requestLectureDownload(input: $input) {
    __typename ... on RequestLectureDownloadPayload { created lecture { id } }
  ... on RateLimitedError { message retryAfterSeconds } } }"""
RETRY = """mutation ($id: ID!) { retryLectureDownload(id: $id) {
  __typename ... on LecturePayload { lecture { id } }
  ... on RateLimitedError { retryAfterSeconds } } }"""
CANCEL = "mutation ($id: ID!) { cancelLectureDownload(id: $id) { __typename } }"
LECTURES = "{ lectures { totalCount } }"
UPLOADED, REFUSED = "UploadDocumentPayload", "InvalidInputError"


@asynccontextmanager
async def serving(
    settings: Settings, simulator: PanoptoSimulator, *, worker: bool = False, **changes: Any
) -> AsyncIterator[Service]:
    changed = load_settings(**{**settings.model_dump(exclude_unset=True), **changes})
    async with running_service(changed, simulator, worker=worker) as service:
        yield service


def url(simulator: PanoptoSimulator) -> str:
    return f"http://{simulator.host_port}/Panopto/Pages/Viewer.aspx?id={uuid4()}"


async def ask(user: Client, course: object, link: str) -> httpx.Response:
    return await user.post(REQUEST, {"input": {"courseId": str(course), "panoptoUrl": link}})


def value(response: httpx.Response) -> dict[str, Any]:
    assert response.status_code == 200, response.text
    (found,) = response.json()["data"].values()
    assert isinstance(found, dict)
    return found


@pytest.fixture(autouse=True)
def _patience(monkeypatch: pytest.MonkeyPatch) -> None:
    """Late answers of Redis let requests through uncounted; a busy machine's are late as well."""
    monkeypatch.setattr("app.services.kernel.quotas._PATIENCE_SECONDS", 30.0)


async def test_accepted_downloads_count_and_the_answer_tells_what_is_left(
    service_settings: Settings, simulator: PanoptoSimulator
) -> None:
    async with serving(service_settings, simulator, rate_limit_downloads="3/hour") as service:
        ada, bob = service.user("ada"), service.user("bob")
        refused = await ask(ada, service.course, "ftp://example.org/")
        assert value(refused)["__typename"] == "InvalidInputError"
        assert "ratelimit-limit" not in refused.headers  # it did not count
        for left in (2, 1, 0):
            response = await ask(ada, service.course, url(simulator))
            assert value(response)["created"] is True
            assert response.headers["ratelimit-limit"] == "3"
            assert response.headers["ratelimit-policy"] == "3;w=3600"
            assert response.headers["ratelimit-remaining"] == str(left)
            assert 3590 <= int(response.headers["ratelimit-reset"]) <= 3600
            assert "retry-after" not in response.headers
        response = await ask(ada, service.course, url(simulator))
        error = value(response)
        assert error["__typename"] == "RateLimitedError"
        assert 3590 <= error["retryAfterSeconds"] <= 3600
        assert response.headers["retry-after"] == str(error["retryAfterSeconds"])
        assert (await ada.run(LECTURES))["totalCount"] == 3
        assert value(await ask(bob, service.course, url(simulator)))["created"] is True


async def test_a_retry_counts_as_a_download_and_a_refused_one_changes_nothing(
    service_settings: Settings, simulator: PanoptoSimulator
) -> None:
    async with serving(service_settings, simulator, rate_limit_downloads="2/hour") as service:
        ada = service.user("ada")
        lecture = value(await ask(ada, service.course, url(simulator)))["lecture"]["id"]
        conflict = await ada.post(RETRY, {"id": lecture})
        assert value(conflict)["__typename"] == "ConflictError"
        assert "ratelimit-remaining" not in conflict.headers
        await ada.run(CANCEL, id=lecture)
        assert (await ada.run(RETRY, id=lecture))["__typename"] == "LecturePayload"
        await ada.run(CANCEL, id=lecture)
        assert (await ada.run(RETRY, id=lecture))["__typename"] == "RateLimitedError"
        assert (await ada.lecture(lecture))["status"] == "FAILED"


async def test_requests_at_once_never_exceed_the_quota(
    service_settings: Settings, simulator: PanoptoSimulator
) -> None:
    limits = {"rate_limit_downloads": "5/minute", "rate_limit_uploads": "5/minute"}
    async with serving(service_settings, simulator, **limits) as service:
        ada = service.user("ada")
        asked = await asyncio.gather(
            *(ask(ada, service.course, url(simulator)) for _ in range(20)),
        )
        kinds = [value(response)["__typename"] for response in asked]
        assert kinds.count("RequestLectureDownloadPayload") == 5
        assert kinds.count("RateLimitedError") == 15
        pdfs = [make_pdf(1) + b"%%%d" % n for n in range(20)]
        sent = await asyncio.gather(*(ada.upload(service.course, pdf) for pdf in pdfs))
        assert [answer["__typename"] for answer in sent].count(UPLOADED) == 5
        assert len(service.stored()) == 5


async def test_an_upload_over_the_quota_is_refused_before_its_body_is_read(
    service_settings: Settings, simulator: PanoptoSimulator
) -> None:
    async with serving(service_settings, simulator, rate_limit_uploads="1/hour") as service:
        ada = service.user("ada")
        assert (await ada.upload(service.course, b"no PDF"))["__typename"] == REFUSED
        assert (await ada.upload(service.course, make_pdf(1)))["__typename"] == UPLOADED
        response = await ada.post_upload(
            service.course, make_pdf(2), "notes.pdf", "application/pdf"
        )
        assert value(response)["__typename"] == "RateLimitedError"
        assert int(response.headers["retry-after"]) > 3500
        assert len(service.stored()) == 1

        # Only the head of an endless file is sent, and the answer is there.
        reader, writer = await asyncio.open_connection(*_host_port(service))
        head = _form(ada, UPLOAD, str(service.course))
        writer.write(head + b"%PDF-1.7")
        answer = await asyncio.wait_for(reader.readuntil(b"\r\n\r\n"), 5)
        assert b" 200 " in answer.splitlines()[0] + b" "
        assert b"retry-after" in answer.lower()
        writer.close()


async def test_without_redis_nothing_is_refused(
    service_settings: Settings, simulator: PanoptoSimulator, capsys: pytest.CaptureFixture[str]
) -> None:
    with socket.socket() as reserved:
        reserved.bind(("127.0.0.1", 0))  # bound and not listening: nobody answers
        dead = f"redis://127.0.0.1:{reserved.getsockname()[1]}/0"
        changes = {"redis_url": dead, "rate_limit_downloads": "1/hour"}
        async with serving(service_settings, simulator, **changes) as service:
            ada = service.user("ada")
            for _ in range(3):
                response = await ask(ada, service.course, url(simulator))
                assert value(response)["created"] is True
                assert "ratelimit-limit" not in response.headers
    assert "quota.unchecked" in capsys.readouterr().err


async def test_counters_leave_no_key_without_expiry(
    service_settings: Settings, simulator: PanoptoSimulator, redis_url: str
) -> None:
    async with serving(service_settings, simulator, rate_limit_downloads="9/day") as service:
        await ask(service.user("ada"), service.course, url(simulator))
        async with Redis.from_url(redis_url) as redis:
            keys = [key async for key in redis.scan_iter("studybuddy:quota*")]
            assert len(keys) == 1
            assert 0 < await redis.ttl(keys[0]) <= 86_400


async def test_stored_bytes_are_limited_and_told(
    service_settings: Settings, simulator: PanoptoSimulator
) -> None:
    small, other = make_pdf(1), make_pdf(2)
    limit = len(small) + len(other)
    async with serving(service_settings, simulator, max_user_bytes=limit) as service:
        ada, bob = service.user("ada"), service.user("bob")
        assert await ada.run(VIEWER) == {"storedBytes": 0, "storedBytesLimit": limit}
        document = (await ada.upload(service.course, small))["document"]
        assert (await ada.run(VIEWER))["storedBytes"] == len(small)
        for content in (other + b"\n\n", small + b" " * limit):
            refused = await ada.upload(service.course, content)
            assert refused["__typename"] == REFUSED
            assert refused["fieldErrors"][0]["path"] == ["input", "file"]
            assert refused["fieldErrors"][0]["code"] == "QUOTA"
            assert str(limit) in refused["message"]
            assert service.stored() == {f"documents/{document['id']}.pdf"}
        assert (await ada.upload(service.course, other))["__typename"] == UPLOADED
        # It is full now: the same bytes again take no room, anything else does.
        again = await ada.upload(service.course, other, "renamed.pdf")
        assert again["created"] is False
        assert (await ada.upload(service.course, make_pdf(3)))["__typename"] == REFUSED
        assert (await ada.upload(uuid4(), small))["__typename"] == REFUSED
        assert (await bob.upload(service.course, small))["created"] is False
        assert (await bob.run(VIEWER))["storedBytes"] == len(small)
        await ada.run("mutation($id:ID!){unlinkDocument(id:$id){__typename}}", id=document["id"])
        assert (await ada.run(VIEWER))["storedBytes"] == len(other)
        assert (await ada.upload(service.course, small))["__typename"] == UPLOADED


async def test_uploads_at_once_never_exceed_the_room(
    service_settings: Settings, simulator: PanoptoSimulator
) -> None:
    pdfs = [make_pdf(1) + b"%%%02d" % n for n in range(12)]
    limit = 4 * len(pdfs[0]) + 1
    async with serving(service_settings, simulator, max_user_bytes=limit) as service:
        ada = service.user("ada")
        sent = await asyncio.gather(*(ada.upload(service.course, pdf) for pdf in pdfs))
        assert [answer["__typename"] for answer in sent].count(UPLOADED) == 4
        assert (await ada.run(VIEWER))["storedBytes"] == 4 * len(pdfs[0])
        await wait_until(lambda: len(service.stored()) == 4, "only what was accepted is stored")


async def test_without_a_limit_there_is_none(ada: Client) -> None:
    assert await ada.run(VIEWER) == {"storedBytes": 0, "storedBytesLimit": None}


def _host_port(service: Service) -> tuple[str, int]:
    host, _, port = service.address.removeprefix("http://").partition(":")
    return host, int(port)


def _form(user: Client, query: str, course: str) -> bytes:

    operations = {"query": query, "variables": {"input": {"courseId": course, "file": None}}}
    parts = (
        '--b\r\nContent-Disposition: form-data; name="operations"\r\n\r\n'
        f"{json.dumps(operations)}\r\n"
        '--b\r\nContent-Disposition: form-data; name="map"\r\n\r\n'
        '{"0":["variables.input.file"]}\r\n'
        '--b\r\nContent-Disposition: form-data; name="0"; filename="a.pdf"\r\n'
        "Content-Type: application/pdf\r\n\r\n"
    )
    head = (
        "POST /graphql HTTP/1.1\r\nHost: test\r\nContent-Length: 1000000\r\n"
        f"Authorization: Bearer {user.token}\r\n"
        "Content-Type: multipart/form-data; boundary=b\r\n\r\n"
    )
    return (head + parts).encode()
