"""The file route over a real socket and real storage, behind the whole edge of the service."""

import asyncio
import hashlib
import os
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, Literal
from uuid import UUID, uuid4

import httpx
import pytest
from starlette.applications import Starlette
from structlog.testing import capture_logs

from app.auth.issuer import DEVELOPMENT_ISSUER, DevelopmentIssuer
from app.auth.links import LinkSigner
from app.auth.tokens import TokenVerifier
from app.auth.viewer import Viewer, user_id
from app.errors import StorageError
from app.http.edge.security import install_middleware
from app.http.files.routes import FileAccess, file_routes
from app.services.kernel.file_grants import DOCUMENT_FILE, FileGrant, Reader
from app.settings import load_settings
from app.storage.local import LocalStorage
from app.storage.memory import MemoryStorage
from app.storage.protocol import ObjectStore, Presentation
from tests.support.serving import Serving, issuer_directory, new_client, serving
from tests.support.wait import wait_until

CONTENT = b"%PDF-1.7\n" + os.urandom(3 * 1024 * 1024) + b"\n%%EOF"
SIZE = len(CONTENT)
CHANGED = datetime(2026, 3, 1, 12, tzinfo=UTC)
SAME = "Sun, 01 Mar 2026 12:00:00 GMT"
ADA = user_id(DEVELOPMENT_ISSUER, "ada")
DOCUMENT = UUID("0f0e0d0c-0b0a-4908-8706-050403020100")
KEY = f"documents/{DOCUMENT}.pdf"
ORIGIN = "https://app.example.org"


@dataclass
class House:
    """One document of Ada's, and who is asking for it."""

    serving: Serving
    client: httpx.AsyncClient
    storage: ObjectStore
    signer: LinkSigner
    issuer: DevelopmentIssuer
    grants: dict[tuple[UUID, UUID], FileGrant]
    lookups: list[Reader]

    def bearer(self, user: str = "ada") -> dict[str, str]:
        return {"Authorization": f"Bearer {self.issuer.issue(user)}"}

    def cookie(self, user: str = "ada") -> dict[str, str]:
        return {"Cookie": f"theme=dark; __session={self.issuer.issue(user)}"}

    def link(self, expires_in: float = 60, user: UUID = ADA) -> str:
        expires_at = int((datetime.now(UTC) + timedelta(seconds=expires_in)).timestamp())
        return f"{path()}?{self.signer.sign(DOCUMENT_FILE, DOCUMENT, user, expires_at)}"

    async def get(self, url: str | None = None, **headers: str) -> httpx.Response:
        named = {name.replace("_", "-"): value for name, value in headers.items()}
        return await self.client.get(url or path(), headers=self.bearer() | named)


def path(document_id: object = DOCUMENT) -> str:
    return f"/api/documents/{document_id}/file"


async def _stream(content: bytes) -> AsyncIterator[bytes]:
    yield content


async def _answers(scope: Any, receive: Any, send: Any) -> None:
    raise AssertionError("no other route is asked for")


@asynccontextmanager
async def opened(
    storage: ObjectStore, delivery: Literal["proxy", "redirect"] = "proxy", **server: Any
) -> AsyncIterator[House]:
    settings = load_settings(data_dir=issuer_directory(), allowed_origins=ORIGIN)
    signer = LinkSigner(b"a secret of this test")
    grant = FileGrant(KEY, "Über uns.pdf", "application/pdf", SIZE, "seed", CHANGED)
    grants = {(ADA, DOCUMENT): grant}
    lookups: list[Reader] = []

    async def lookup(kind: str, reader: Reader, document_id: UUID) -> FileGrant | None:
        assert kind == DOCUMENT_FILE
        lookups.append(reader)
        user = reader.id if isinstance(reader, Viewer) else reader
        return grants.get((user, document_id))

    access = FileAccess(lookup, storage, signer, delivery)
    app = Starlette(routes=[*file_routes(lambda request: access)])
    verifier = TokenVerifier.from_settings(settings)
    install_middleware(app, settings, verifier)
    issuer = DevelopmentIssuer.load(settings.data_path)
    async with (
        serving(app, **server) as address,
        new_client(address.url) as client,
    ):
        yield House(address, client, storage, signer, issuer, grants, lookups)


@pytest.fixture(params=["local", "memory"])
async def storage(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[ObjectStore]:
    kinds: dict[str, Callable[[], ObjectStore]] = {
        "local": lambda: LocalStorage(tmp_path / "storage"),
        "memory": MemoryStorage,
    }
    storage = kinds[request.param]()
    await storage.store_file(KEY, _stream(CONTENT))
    yield storage
    await storage.close()


@pytest.fixture
async def house(storage: ObjectStore) -> AsyncIterator[House]:
    async with opened(storage) as house:
        yield house


async def test_the_whole_file_and_its_headers(house: House) -> None:
    response = await house.get()
    assert response.status_code == 200
    assert response.content == CONTENT
    headers = response.headers
    assert headers["content-type"] == "application/pdf"
    assert headers["content-length"] == str(SIZE)
    assert headers["x-content-type-options"] == "nosniff"
    assert headers["content-security-policy"] == "default-src 'none'"
    assert headers["cache-control"] == "private"
    assert headers["accept-ranges"] == "bytes"
    assert headers["last-modified"] == SAME
    assert headers["content-disposition"] == (
        "inline; filename=\"Uber uns.pdf\"; filename*=UTF-8''%C3%9Cber%20uns.pdf"
    )
    assert headers["referrer-policy"] == "no-referrer"
    assert "x-frame-options" not in headers
    assert headers["x-request-id"]
    assert headers["etag"].startswith('"')
    assert "seed" not in str(headers)
    assert hashlib.sha256(CONTENT).hexdigest() not in str(headers)
    assert hashlib.sha256(b"seed").hexdigest()[:32] not in headers["etag"]


async def test_head_tells_the_same_without_the_bytes(house: House) -> None:
    get = await house.get()
    for extra in ({}, {"Range": "bytes=0-1"}):
        head = await house.client.head(path(), headers=house.bearer() | extra)
        assert head.status_code == 200
        assert head.content == b""
        changing = {"date", "x-request-id"}
        assert {k: v for k, v in head.headers.items() if k not in changing} == {
            k: v for k, v in get.headers.items() if k not in changing
        }


@pytest.mark.parametrize(
    ("wanted", "start", "end"),
    [
        ("bytes=0-0", 0, 1),
        ("bytes=5-2000000", 5, 2_000_001),
        (f"bytes={SIZE - 1}-", SIZE - 1, SIZE),
        ("bytes=-7", SIZE - 7, SIZE),
        ("bytes=1048570-1048580", 1_048_570, 1_048_581),
    ],
)
async def test_a_range(house: House, wanted: str, start: int, end: int) -> None:
    response = await house.get(range=wanted)
    assert response.status_code == 206
    assert response.headers["content-range"] == f"bytes {start}-{end - 1}/{SIZE}"
    assert response.headers["content-length"] == str(end - start)
    assert response.content == CONTENT[start:end]


async def test_a_range_that_cannot_be_had(house: House) -> None:
    response = await house.get(range=f"bytes={SIZE}-")
    assert response.status_code == 416
    assert response.headers["content-range"] == f"bytes */{SIZE}"
    assert response.content == b""


@pytest.mark.parametrize("wanted", ["bytes=5-1", "lines=1-2", "bytes=0-1,5-6", "junk"])
async def test_other_ranges_get_the_whole(house: House, wanted: str) -> None:
    response = await house.get(range=wanted)
    assert (response.status_code, len(response.content)) == (200, SIZE)


async def test_validators(house: House) -> None:
    etag = (await house.get()).headers["etag"]
    for condition in ({"if_none_match": etag}, {"if_modified_since": SAME}):
        response = await house.get(**condition)
        assert (response.status_code, response.content) == (304, b"")
        assert response.headers["etag"] == etag
        assert "content-length" not in response.headers
    assert (await house.get(if_none_match='"other"')).status_code == 200
    assert (await house.get(if_match='"other"')).status_code == 412
    assert (await house.get(range="bytes=0-1", if_range=etag)).status_code == 206
    assert (await house.get(range="bytes=0-1", if_range='"other"')).status_code == 200


async def test_the_etag_changes_with_the_bytes_alone(house: House) -> None:
    first = (await house.get()).headers["etag"]
    grant = house.grants[ADA, DOCUMENT]
    house.grants[ADA, DOCUMENT] = replace(grant, filename="renamed.pdf")
    assert (await house.get()).headers["etag"] == first
    house.grants[ADA, DOCUMENT] = replace(grant, etag_seed="other")
    assert (await house.get()).headers["etag"] != first


def _error(response: httpx.Response) -> tuple[int, str]:
    assert response.headers["content-type"] == "application/json"
    assert response.headers["x-request-id"]
    return response.status_code, response.json()["errors"][0]["extensions"]["code"]


async def test_strangers_and_missing_documents_look_the_same(house: House) -> None:
    stranger = await house.client.get(path(), headers=house.bearer("eve"))
    missing = await house.get(path(uuid4()))
    assert _error(stranger) == _error(missing) == (404, "NOT_FOUND")
    assert stranger.json() == missing.json()


@pytest.mark.parametrize("text", ["x", "1", f"{DOCUMENT}0", DOCUMENT.hex, "%00", "..%2f..", "é"])
async def test_an_id_that_is_no_uuid_is_not_found(house: House, text: str) -> None:
    assert _error(await house.get(path(text))) == (404, "NOT_FOUND")
    assert house.lookups == []


async def test_without_a_session_nothing_is_looked_up(house: House) -> None:
    for headers in ({}, {"Authorization": "Bearer x"}, {"Cookie": "__session=x"}):
        response = await house.client.get(path(), headers=headers)
        assert _error(response) == (401, "UNAUTHENTICATED")
    bad_header = house.cookie() | {"Authorization": "Bearer x"}
    assert _error(await house.client.get(path(), headers=bad_header))[0] == 401
    assert house.lookups == []


async def test_other_methods_are_refused(house: House) -> None:
    response = await house.client.post(path(), headers=house.bearer())
    assert _error(response) == (405, "BAD_USER_INPUT")
    assert "GET" in response.headers["allow"]


async def test_a_signed_link_needs_nothing_else(house: House) -> None:
    for headers in ({}, {"Cookie": "__session=expired"}, {"Range": "bytes=0-9"}):
        response = await house.client.get(house.link(), headers=headers)
        assert response.is_success
        assert CONTENT.startswith(response.content)
    assert house.lookups == [ADA, ADA, ADA]
    assert (await house.client.head(house.link())).status_code == 200


async def test_a_link_loses_its_force_with_its_user(house: House) -> None:
    link = house.link()
    house.grants.clear()
    assert _error(await house.client.get(link)) == (404, "NOT_FOUND")


async def test_a_link_that_is_expired_or_forged_is_refused(house: House) -> None:
    good = house.link()
    other = path(uuid4()) + good.removeprefix(path())
    links = [house.link(-1), good[:-3] + "AAA", other, f"{path()}?signature=", f"{good}&user=x"]
    for link in links:
        # Not even a good session saves it: the link is what was asked for.
        response = await house.client.get(link, headers=house.cookie())
        assert _error(response) == (401, "UNAUTHENTICATED"), link
    assert house.lookups == []


@pytest.mark.parametrize(
    ("headers", "status"),
    [
        ({}, 200),
        ({"Sec-Fetch-Site": "same-origin"}, 200),
        ({"Sec-Fetch-Site": "same-site"}, 200),
        ({"Sec-Fetch-Site": "none"}, 200),
        ({"Sec-Fetch-Site": "cross-site", "Sec-Fetch-Mode": "no-cors"}, 403),
        (
            {
                "Sec-Fetch-Site": "cross-site",
                "Sec-Fetch-Mode": "navigate",
                "Sec-Fetch-Dest": "iframe",
            },
            403,
        ),
        (
            {
                "Sec-Fetch-Site": "cross-site",
                "Sec-Fetch-Mode": "navigate",
                "Sec-Fetch-Dest": "document",
            },
            200,
        ),
        ({"Origin": ORIGIN, "Sec-Fetch-Site": "cross-site"}, 200),
        ({"Origin": "https://evil.example.org"}, 403),
        ({"Origin": "null"}, 403),
    ],
)
async def test_reading_by_cookie(house: House, headers: dict[str, str], status: int) -> None:
    response = await house.client.get(path(), headers=house.cookie() | headers)
    assert response.status_code == status
    bearer = await house.client.get(path(), headers=house.bearer() | headers)
    assert bearer.status_code == 200


async def test_a_missing_object_is_not_found_and_logged(house: House) -> None:
    await house.storage.delete_file(KEY)
    with capture_logs() as logs:
        assert _error(await house.get()) == (404, "NOT_FOUND")
        head = await house.client.head(path(), headers=house.bearer())
    assert head.status_code == 404
    missing = [line for line in logs if line["event"] == "file.object_missing"]
    assert [line["item_id"] for line in missing] == [str(DOCUMENT)] * 2


async def test_an_object_of_another_size_is_not_served(house: House) -> None:
    await house.storage.store_file(KEY, _stream(b"%PDF-short"))
    assert _error(await house.get()) == (404, "NOT_FOUND")


# --- what a real server and a real disk add --------------------------------------------------


@pytest.fixture
async def local(tmp_path: Path) -> AsyncIterator[LocalStorage]:
    storage = LocalStorage(tmp_path / "storage")
    await storage.store_file(KEY, _stream(CONTENT))
    yield storage
    await storage.close()


@pytest.mark.parametrize("http", ["httptools", "h11"])
async def test_both_http_parsers(local: LocalStorage, http: str) -> None:
    async with opened(local, http=http) as house:
        assert (await house.get()).content == CONTENT
        assert (await house.get(range="bytes=1-3")).content == CONTENT[1:4]
        head = await house.client.head(path(), headers=house.bearer())
        assert head.headers["content-length"] == str(SIZE)


class SlowStorage(MemoryStorage):
    """Counts the chunks that were read and whether the object was closed."""

    def __init__(self) -> None:
        super().__init__()
        self.chunks = 0
        self.open = 0

    @asynccontextmanager
    async def open_file(self, key: str, start: int = 0, end: int | None = None) -> Any:
        async def endless() -> AsyncIterator[bytes]:
            while True:
                self.chunks += 1
                yield b"x" * 65536
                await asyncio.sleep(0)

        async with super().open_file(key, start, end) as whole:
            self.open += 1
            yield replace(whole, chunks=endless())
            self.open -= 1


async def test_reading_stops_when_the_client_goes() -> None:
    storage = SlowStorage()
    await storage.store_file(KEY, _stream(CONTENT))
    async with opened(storage) as house:
        async with house.client.stream("GET", path(), headers=house.bearer()) as response:
            assert response.status_code == 200
            await wait_until(lambda: storage.chunks > 1, "bytes flow")
            assert storage.open == 1
        await wait_until(lambda: storage.open == 0, "the object is closed")
        assert storage.chunks < 200


async def test_deleting_during_a_download_does_not_cut_it(local: LocalStorage) -> None:
    async with opened(local) as house:
        async with house.client.stream("GET", path(), headers=house.bearer()) as response:
            await local.delete_file(KEY)
            content = b"".join([chunk async for chunk in response.aiter_bytes()])
        assert content == CONTENT
        assert (await house.get()).status_code == 404


class BreakingStorage(MemoryStorage):
    """Fails in the middle of an object."""

    @asynccontextmanager
    async def open_file(self, key: str, start: int = 0, end: int | None = None) -> Any:
        async def broken() -> AsyncIterator[bytes]:
            yield CONTENT[:1000]
            raise StorageError("The store does not answer.")

        async with super().open_file(key, start, end) as whole:
            yield replace(whole, chunks=broken())


async def test_a_failure_in_the_middle_cuts_the_answer_short() -> None:
    storage = BreakingStorage()
    await storage.store_file(KEY, _stream(CONTENT))
    async with opened(storage) as house:
        with pytest.raises(httpx.RemoteProtocolError):
            await house.get()


class DownStorage(MemoryStorage):
    """Cannot be reached."""

    def open_file(self, key: str, start: int = 0, end: int | None = None) -> Any:
        raise StorageError("The store does not answer.")


async def test_a_store_that_is_down_is_a_masked_error() -> None:
    async with opened(DownStorage()) as house:
        response = await house.get()
        assert _error(response) == (500, "INTERNAL_SERVER_ERROR")
        extensions = response.json()["errors"][0]["extensions"]
        assert extensions["requestId"] == response.headers["x-request-id"]
        assert "store" not in response.text


# --- a store that serves files by itself ------------------------------------------------------


class LinkedStorage(MemoryStorage):
    """Has URLs, and notes what they were asked for."""

    def __init__(self) -> None:
        super().__init__()
        self.asked: list[tuple[str, int, str, Presentation | None]] = []

    async def get_file_url(
        self,
        key: str,
        expires_seconds: int,
        *,
        method: str = "GET",
        presented_as: Presentation | None = None,
    ) -> str | None:
        self.asked.append((key, expires_seconds, method, presented_as))
        return "https://bucket.example.org/x?signature=1"


async def test_a_redirect_pins_how_the_file_is_presented() -> None:
    storage = LinkedStorage()
    await storage.store_file(KEY, _stream(CONTENT))
    async with opened(storage, "redirect") as house:
        got = await house.get(range="bytes=0-4", if_none_match='"any"')
        head = await house.client.head(path(), headers=house.bearer())
        for response in (got, head):
            assert response.status_code == 307
            assert response.content == b""
            assert response.headers["location"] == "https://bucket.example.org/x?signature=1"
            assert response.headers["cache-control"] == "no-store"
            assert response.headers["referrer-policy"] == "no-referrer"
        as_pdf = Presentation(
            "application/pdf",
            "inline; filename=\"Uber uns.pdf\"; filename*=UTF-8''%C3%9Cber%20uns.pdf",
            "private",
        )
        assert storage.asked == [(KEY, 60, "GET", as_pdf), (KEY, 60, "HEAD", as_pdf)]


async def test_a_redirect_is_for_those_who_may_read_what_is_there() -> None:
    storage = LinkedStorage()
    async with opened(storage, "redirect") as house:
        assert _error(await house.get()) == (404, "NOT_FOUND")  # the object is missing
        storage.asked.clear()
        stranger = await house.client.get(path(), headers=house.bearer("eve"))
        assert _error(stranger) == (404, "NOT_FOUND")
        assert _error(await house.client.get(path())) == (401, "UNAUTHENTICATED")
        assert storage.asked == []


async def test_files_without_a_url_come_through_the_api_all_the_same(local: LocalStorage) -> None:
    async with opened(local, "redirect") as house:
        response = await house.get(range="bytes=1-3")
        assert (response.status_code, response.content) == (206, CONTENT[1:4])
