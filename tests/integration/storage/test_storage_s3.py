"""What a bucket has that other stores have not: addresses, presentations, unfinished uploads."""

import asyncio
import os
import re
from collections.abc import AsyncIterator
from datetime import UTC, datetime, timedelta
from urllib.parse import parse_qs, urlsplit

import httpx
import obstore
import pytest
from starlette.requests import Request
from starlette.responses import Response
from structlog.testing import capture_logs

from app.errors import ConfigurationError, InvalidKey, StorageError
from app.settings import Settings
from app.storage.protocol import Presentation
from app.storage.s3 import S3Storage
from tests.support.s3 import BUCKET, Fault, FaultyProxy, open_uploads, plain_store, s3_settings
from tests.support.serving import serving
from tests.support.wait import wait_until

MIB = 1024 * 1024
AS_PDF = Presentation("application/pdf", 'inline; filename="a b.pdf"', "private")


@pytest.fixture
def endpoint(s3_endpoint: str) -> str:
    return s3_endpoint


@pytest.fixture
def bucket(endpoint: str) -> Settings:
    return s3_settings(endpoint)


@pytest.fixture
async def s3(bucket: Settings) -> AsyncIterator[S3Storage]:
    storage = S3Storage.from_settings(bucket)
    yield storage
    await storage.close()


async def stream(content: bytes) -> AsyncIterator[bytes]:
    for start in range(0, len(content), MIB):
        yield content[start : start + MIB]


async def read(storage: S3Storage, key: str) -> bytes:
    async with storage.open_file(key) as opened:
        return b"".join([chunk async for chunk in opened.chunks])


@pytest.mark.parametrize(
    ("endpoint_url", "virtual_hosted", "address"),
    [
        (None, False, "https://s3.fra1.amazonaws.com/studybuddy/p/k"),
        (None, True, "https://studybuddy.s3.fra1.amazonaws.com/p/k"),
        ("https://fra1.example.org/", False, "https://fra1.example.org/studybuddy/p/k"),
        ("https://fra1.example.org", True, "https://studybuddy.fra1.example.org/p/k"),
        ("https://studybuddy.fra1.example.org", True, "https://studybuddy.fra1.example.org/p/k"),
    ],
)
async def test_path_style_and_virtual_hosted(
    endpoint_url: str | None, virtual_hosted: bool, address: str
) -> None:
    settings = s3_settings(
        "", s3_endpoint_url=endpoint_url, s3_virtual_hosted=virtual_hosted, s3_region="fra1",
        storage_url=f"s3://{BUCKET}/p",
    )  # fmt: skip
    with_keys = S3Storage.from_settings(settings)
    url = await with_keys.get_file_url("k", 60)
    assert url is not None
    assert url.split("?")[0] == address
    await with_keys.close()


def test_a_redirect_needs_the_keys(endpoint: str) -> None:
    assert s3_settings(endpoint, file_delivery="redirect").has_s3_keys
    with pytest.raises(ConfigurationError, match=r"^FILE_DELIVERY: ") as raised:
        s3_settings(endpoint, file_delivery="redirect", s3_secret_access_key=None)
    assert "\n" not in raised.value.message


async def test_our_urls_are_those_of_obstore(
    bucket: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "key")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "secret")
    without = {"s3_access_key_id": None, "s3_secret_access_key": None}
    theirs = S3Storage.from_settings(bucket.model_copy(update=without))
    ours = S3Storage.from_settings(bucket)

    async def urls() -> list[str | None]:
        return [await store.get_file_url("a/b.pdf", 60) for store in (ours, theirs)]

    one, other = await urls()
    if one != other:  # the second turned in between
        one, other = await urls()
    assert one is not None
    assert other is not None
    assert parse_qs(urlsplit(one).query) == parse_qs(urlsplit(other).query)
    assert one.split("?")[0] == other.split("?")[0]
    assert await theirs.get_file_url("a/b.pdf", 60, presented_as=AS_PDF) is None
    assert [partial async for partial in theirs.list_partials()] == []


async def test_a_presentation_is_served(s3: S3Storage) -> None:
    await s3.store_file("a.pdf", stream(b"%PDF-"))
    url = await s3.get_file_url("a.pdf", 60, presented_as=AS_PDF)
    assert url is not None
    async with httpx.AsyncClient(trust_env=False) as http:
        response = await http.get(url)
    assert response.content == b"%PDF-"
    assert response.headers["content-type"] == "application/pdf"
    assert response.headers["content-disposition"] == 'inline; filename="a b.pdf"'
    assert response.headers["cache-control"] == "private"


async def test_unfinished_uploads_are_found_and_aborted(
    endpoint: str, bucket: Settings, s3: S3Storage
) -> None:
    prefix = urlsplit(bucket.resolved_storage_url).path
    async with httpx.AsyncClient(base_url=f"{endpoint}/{BUCKET}", trust_env=False) as http:
        for path in (f"{prefix}/documents/a.pdf", "/elsewhere/b.pdf"):
            begun = await http.post(f"{path}?uploads")
            (upload_id,) = re.findall("<UploadId>(.*?)</UploadId>", begun.text)
            await http.put(f"{path}?partNumber=1&uploadId={upload_id}", content=b"12345")

    (found,) = [partial async for partial in s3.list_partials()]
    assert found.size_bytes == 5
    assert datetime.now(UTC) - found.modified_at < timedelta(minutes=1)
    assert [info async for info in s3.list_files()] == []
    for key in ("", "documents/a.pdf", f"elsewhere/b.pdf?{upload_id}"):
        with pytest.raises(InvalidKey):
            await s3.delete_partial(key)
    await s3.delete_partial(found.key)
    await s3.delete_partial(found.key)
    assert [partial async for partial in s3.list_partials()] == []


async def test_what_others_put_into_the_bucket_is_told_and_deleted(
    endpoint: str, bucket: Settings, s3: S3Storage
) -> None:
    names = {"audio/.hidden", "audio/a b%20c", ".partial/x", "audio/ä/b", "documents/a?b#c.pdf"}
    theirs = plain_store(endpoint, bucket)
    for name in names:
        await obstore.put_async(theirs, name, b"x")
    assert {info.key async for info in s3.list_all()} == names
    for name in names:
        with pytest.raises(InvalidKey):
            await s3.delete_file(name)
        await s3.delete_any(name)
        await s3.delete_any(name)
    assert [info async for info in s3.list_all()] == []


async def test_listings_go_through_all_pages() -> None:
    """A server that answers one entry at a time, as the API reference has it."""
    asked: list[dict[str, str]] = []
    entry = "<Upload><Key>p/{0}</Key><UploadId>{0}</UploadId><Initiated>2026-01-0{0}T00:00:00Z"

    async def app(scope: object, receive: object, send: object) -> None:
        request = Request(scope)  # type: ignore[arg-type]
        query = dict(request.query_params)
        asked.append(query)
        body = "<ListPartsResult xmlns='http://s3.amazonaws.com/doc/2006-03-01/'/>"
        if "uploads" in query:
            number = int(query.get("upload-id-marker", "0")) + 1
            body = (
                f"<R xmlns='urn:x'>{entry.format(number)}</Initiated></Upload>"
                f"<IsTruncated>{str(number < 3).lower()}</IsTruncated>"
                f"<NextKeyMarker>p/{number}</NextKeyMarker>"
                f"<NextUploadIdMarker>{number}</NextUploadIdMarker></R>"
            )
        await Response(body)(scope, receive, send)  # type: ignore[arg-type]

    async with serving(app) as server:  # type: ignore[arg-type]
        settings = s3_settings(server.url, storage_url=f"s3://{BUCKET}/p")
        storage = S3Storage.from_settings(settings)
        found = [partial async for partial in storage.list_partials()]
        await storage.close()
    assert [partial.key for partial in found] == ["p/1?1", "p/2?2", "p/3?3"]
    assert [partial.modified_at.day for partial in found] == [1, 2, 3]
    markers = [query.get("key-marker") for query in asked if "uploads" in query]
    assert markers == [None, "p/1", "p/2"]


async def test_keys_that_may_not_list_uploads_are_no_fault(endpoint: str) -> None:
    other = S3Storage.from_settings(s3_settings(endpoint, storage_url="s3://no-such-bucket/p"))
    with capture_logs() as logs:
        assert [partial async for partial in other.list_partials()] == []
    assert [line["event"] for line in logs] == ["unfinished_uploads_not_listed"]
    await other.close()


# --- a bucket that misbehaves -------------------------------------------------------------------


@pytest.fixture
async def proxy(endpoint: str) -> AsyncIterator[FaultyProxy]:
    async with FaultyProxy(endpoint).running() as proxy:
        yield proxy


@pytest.mark.parametrize("method", ["PUT", "POST"])
async def test_a_failed_write_leaves_the_old_object(
    endpoint: str, proxy: FaultyProxy, method: str
) -> None:
    settings = s3_settings(proxy.url)
    storage = S3Storage.from_settings(settings)
    await storage.store_file("a", stream(b"old"))
    proxy.fail(100, Fault(status=500), method, "uploadId=")
    with pytest.raises(StorageError) as raised:
        await storage.store_file("a", stream(os.urandom(11 * MIB)))
    assert "127.0.0.1" not in raised.value.message
    assert await read(storage, "a") == b"old"
    await wait_until(lambda: not open_uploads(endpoint, settings), "the upload is aborted")
    await storage.close()


async def test_a_cancelled_write_to_a_slow_bucket_leaves_nothing(
    endpoint: str, proxy: FaultyProxy
) -> None:
    settings = s3_settings(proxy.url)
    storage = S3Storage.from_settings(settings)
    proxy.fail(100, Fault(delay_seconds=0.3), "PUT")
    storing = asyncio.create_task(storage.store_file("a", stream(bytes(40 * MIB))))
    await wait_until(lambda: any("partNumber" in r.target for r in proxy.requests), "parts flow")
    storing.cancel()
    with pytest.raises(asyncio.CancelledError):
        await storing
    await wait_until(lambda: not open_uploads(endpoint, settings), "the upload is aborted")
    assert [info async for info in storage.list_files()] == []
    await storage.close()


async def test_a_read_that_is_cut_goes_on_or_fails(proxy: FaultyProxy) -> None:
    storage = S3Storage.from_settings(s3_settings(proxy.url))
    content = os.urandom(4 * MIB)
    await storage.store_file("a", stream(content))
    proxy.fail(1, Fault(cut_response_after=MIB), "GET")
    assert await read(storage, "a") == content
    proxy.fail(100, Fault(cut_response_after=1000), "GET")
    with pytest.raises(StorageError):
        await read(storage, "a")
    await storage.close()
