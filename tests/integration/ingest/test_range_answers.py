"""What hosts answer to a Range: used where it is honest, else the whole file is the last resort."""

import asyncio
import re
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager

import pytest
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import RedirectResponse, Response, StreamingResponse
from starlette.routing import Route

from app.domain import LectureFailure
from app.errors import IngestFailed
from app.ingest.fetch.downloader import MediaDownloader
from app.ingest.fetch.file import fetch_file
from app.ingest.fetch.playlist import ByteRange
from app.ingest.fetch.ranges.source import RangeSource, RangesRefused, SourceChanged
from app.ingest.model import Attempt, MediaLocation, ResolvedLecture, Tier
from app.ingest.net.guard import GuardedClient
from app.ingest.net.retries import Patience
from app.storage.local import LocalStorage
from tests.support.panopto import IMPATIENT, MIB, Reports, files_in
from tests.support.serving import serving
from tests.support.wait import wait_until

STEM = "audio/one_source.1"
CONTENT = b"\x00\x00\x00\x18ftypmp42" + bytes(range(256)) * 64
SIZE = len(CONTENT)
Answer = Callable[[Request, int, int], Response]


def part(start: int, end: int, status: int = 206, **headers: str) -> Response:
    """What an honest server answers, but for the headers that are given."""
    told = {
        "content-range": f"bytes {start}-{end - 1}/{SIZE}",
        "etag": '"1"',
        "content-type": "video/mp4",
        **{name.replace("_", "-"): value for name, value in headers.items()},
    }
    return Response(CONTENT[start:end], status, {k: v for k, v in told.items() if v})


def whole(status: int = 200, **headers: str) -> Response:
    return part(0, SIZE, status, **{"content_range": "", **headers})


async def in_chunks(start: int, end: int) -> AsyncIterator[bytes]:
    yield CONTENT[start:end]


def asked_of(request: Request) -> tuple[int, int]:
    start, _, last = request.headers["range"].removeprefix("bytes=").partition("-")
    return int(start), min(int(last or SIZE) + 1, SIZE)


@asynccontextmanager
async def answering(
    answer: Callable[[Request], Awaitable[Response]],
) -> AsyncIterator[tuple[GuardedClient, MediaLocation]]:
    app = Starlette(routes=[Route("/{path:path}", answer)])
    async with serving(app) as server:
        client = GuardedClient([f"127.0.0.1:{server.port}"])
        try:
            yield client, MediaLocation("mp4", f"{server.url}/v.mp4")
        finally:
            await client.close()


FIRST: dict[str, Answer] = {
    "400": lambda *_: Response(status_code=400),
    "401": lambda *_: Response(status_code=401),
    "403": lambda *_: Response(status_code=403),
    "404": lambda *_: Response(status_code=404),
    "405": lambda *_: Response(status_code=405),
    "416": lambda *_: Response(status_code=416),
    "416 with a size": lambda *_: Response(
        status_code=416, headers={"content-range": f"bytes */{SIZE}"}
    ),
    "500": lambda *_: Response(status_code=500),
    "501": lambda *_: Response(status_code=501),
    "502": lambda *_: Response(status_code=502),
    "everything as a 200": lambda *_: whole(),
    "everything as a 206": lambda *_: part(0, SIZE),
    "everything without a Content-Range": lambda *_: whole(206),
    "a 206 of nothing": lambda *_: part(0, 0, content_range=f"bytes */{SIZE}"),
    "another range": lambda _, start, end: part(start + 10, end),
    "a range that cannot be": lambda _, start, end: part(
        start, end, content_range=f"bytes 9-3/{SIZE}"
    ),
    "more than it tells": lambda *_: Response(
        CONTENT[:100] + b"-" * 900, 206, {"etag": '"1"', "content-range": f"bytes 0-99/{SIZE}"}
    ),
    "parts of parts": lambda *_: part(
        0, 10, content_range="", content_type="multipart/byteranges; boundary=x"
    ),
    "no size": lambda _, start, end: part(start, end, content_range=f"bytes {start}-{end - 1}/*"),
    "no validator": lambda _, start, end: part(start, end, etag=""),
    "a weak validator": lambda _, start, end: part(start, end, etag='W/"1"'),
    "a page": lambda *_: Response("<!doctype html>", 206, {"content-range": "bytes 0-14/15"}),
}


@pytest.mark.parametrize("name", FIRST)
async def test_whatever_the_first_range_is_answered_the_file_is_had(
    name: str, scratch: LocalStorage
) -> None:
    asked: list[str | None] = []

    async def answer(request: Request) -> Response:
        asked.append(request.headers.get("range"))
        return FIRST[name](request, *asked_of(request)) if asked[-1] else whole()

    async with answering(answer) as (client, location):
        downloader = MediaDownloader(client, max_source_bytes=MIB, patience=IMPATIENT)
        lecture = ResolvedLecture(None, None, None, (location,))
        source = await downloader.download(lecture, location, Attempt(scratch, STEM, Reports()))
    assert source.tier is Tier.WHOLE_FILE
    assert scratch.path_of(source.key).read_bytes() == CONTENT
    assert len(asked) <= 2


@pytest.mark.parametrize(
    ("status", "headers", "fine"),
    [
        (200, {}, True),
        (203, {}, True),
        (206, {"content_range": f"bytes 0-{SIZE - 1}/{SIZE}"}, True),
        (206, {"content_range": f"bytes 0-{SIZE - 1}/*"}, True),
        (206, {"content_range": f"bytes 1-{SIZE - 1}/{SIZE}"}, False),
        (206, {}, False),
        (204, {}, False),
        (300, {}, False),
        (404, {}, False),
    ],
)
async def test_what_counts_as_a_whole_file(
    status: int, headers: dict[str, str], fine: bool, scratch: LocalStorage
) -> None:
    async def answer(request: Request) -> Response:
        if "range" in request.headers:
            return Response(status_code=400)
        return Response(status_code=204) if status == 204 else whole(status, **headers)

    async with answering(answer) as (client, location):
        downloader = MediaDownloader(client, max_source_bytes=MIB, patience=IMPATIENT)
        lecture = ResolvedLecture(None, None, None, (location,))
        downloading = downloader.download(lecture, location, Attempt(scratch, STEM, Reports()))
        if fine:
            source = await downloading
            assert scratch.path_of(source.key).read_bytes() == CONTENT
        else:
            with pytest.raises(IngestFailed) as failure:
                await downloading
            assert failure.value.failure is LectureFailure.SOURCE_NOT_FOUND
            assert await files_in(scratch) == []


USED: dict[str, Answer] = {
    "all of it": lambda _, start, end: part(start, end),
    "less": lambda _, start, end: part(start, min(end, start + 700)),
    "no size": lambda _, start, end: part(start, end, content_range=f"bytes {start}-{end - 1}/*"),
    "no unit": lambda _, start, end: part(start, end, content_range=f"{start}-{end - 1}/{SIZE}"),
    "no validator": lambda _, start, end: part(start, end, etag=""),
}
REFUSED: dict[str, Answer] = {
    "nothing": lambda _, start, end: part(start, start, content_range="bytes 0-0/0"),
    "another range": lambda _, start, end: part(start + 1, end),
    "more": lambda _, start, end: part(start, SIZE),
    "less than it says": lambda _, start, end: part(
        start, end - 5, content_range=f"bytes {start}-{end - 1}/{SIZE}"
    ),
    "no Content-Range": lambda _, start, end: part(start, end, content_range=""),
    "no length": lambda _, start, end: StreamingResponse(
        in_chunks(start, end), 206, {"content-range": f"bytes {start}-{end - 1}/{SIZE}"}
    ),
    "everything": lambda *_: whole(),
    "400": lambda *_: Response(status_code=400),
    "404": lambda *_: Response(status_code=404),
    "416": lambda *_: Response(status_code=416, headers={"content-range": f"bytes */{SIZE}"}),
    "500": lambda *_: Response(status_code=500),
}
CHANGED: dict[str, Answer] = {
    "another validator": lambda _, start, end: part(start, end, etag='"2"'),
    "another size": lambda _, start, end: part(
        start, end, content_range=f"bytes {start}-{end - 1}/{SIZE + 9}"
    ),
    "everything of another": lambda *_: whole(etag='"2"'),
    "everything of who knows what": lambda *_: whole(etag=""),
    "a file that ends before": lambda *_: Response(
        status_code=416, headers={"content-range": "bytes */9"}
    ),
}
LATER: dict[str, tuple[Answer, type[Exception] | None]] = {
    **{name: (answer, None) for name, answer in USED.items()},
    **{name: (answer, RangesRefused) for name, answer in REFUSED.items()},
    **{name: (answer, SourceChanged) for name, answer in CHANGED.items()},
    "403": (lambda *_: Response(status_code=403), IngestFailed),
    "503": (lambda *_: Response(status_code=503), IngestFailed),
}


@pytest.mark.parametrize("name", LATER)
async def test_a_later_part_is_honest_or_refused(name: str) -> None:
    later, expected = LATER[name]
    asked: list[int] = []

    async def answer(request: Request) -> Response:
        start, end = asked_of(request)
        asked.append(start)
        return later(request, start, end) if start else part(start, end)

    async with answering(answer) as (client, location):
        source = RangeSource(client, location, IMPATIENT)
        await source.read_head(1000)
        reading = source.read(ByteRange(5000, 3000))
        if expected is None:
            assert await reading == CONTENT[5000:8000]
        else:
            with pytest.raises(expected) as failure:
                await reading
            assert not isinstance(failure.value, IngestFailed) or failure.value.transient
            assert len(asked) <= 2 + IMPATIENT.tries_without_progress
        await source.close()


@pytest.mark.parametrize("odd", ["another range", "no Content-Range", "everything"])
async def test_an_odd_answer_is_asked_for_anew(odd: str) -> None:
    asked: list[int] = []

    async def answer(request: Request) -> Response:
        start, end = asked_of(request)
        asked.append(start)
        return REFUSED[odd](request, start, end) if len(asked) == 2 else part(start, end)

    async with answering(answer) as (client, location):
        source = RangeSource(client, location, IMPATIENT)
        await source.read_head(1000)
        assert await source.read(ByteRange(5000, 3000)) == CONTENT[5000:8000]
        await source.close()
    assert asked == [0, 5000, 5000]


@pytest.mark.parametrize("gone", [401, 403, 404, 410, 302])
@pytest.mark.parametrize("side_by_side", [1, 8])
async def test_a_signed_address_is_got_anew_where_it_came_from(
    gone: int, side_by_side: int
) -> None:
    """Each is good for five parts, and wants the cookie that came with it."""
    signed, left, refused = 0, 0, 0

    async def answer(request: Request) -> Response:
        nonlocal signed, left, refused
        if not request.url.path.startswith("/signed"):
            signed, left = signed + 1, 5
            redirect = RedirectResponse(f"/signed/{signed}")
            redirect.set_cookie("key", str(signed))
            return redirect
        is_current = request.url.path == f"/signed/{signed}"
        left -= is_current
        is_good = is_current and left >= 0
        if not is_good or request.cookies.get("key") != str(signed):
            refused += 1
            return RedirectResponse("/sorry") if gone == 302 else Response(status_code=gone)
        return part(*asked_of(request))

    async with answering(answer) as (client, location):
        source = RangeSource(client, location, IMPATIENT)
        await source.read_head(100)
        wanted = [ByteRange(start, 100) for start in range(100, 4100, 100)]
        for at in range(0, len(wanted), side_by_side):
            some = wanted[at : at + side_by_side]
            parts = await asyncio.gather(*map(source.read, some))
            assert parts == [CONTENT[each.start : each.end] for each in some]
        assert source.received_bytes == 4100
        await source.close()
    assert refused > 0


async def test_an_address_that_leads_to_another_file_is_a_source_that_has_changed() -> None:
    asked: list[str] = []

    async def answer(request: Request) -> Response:
        asked.append(request.url.path)
        if not request.url.path.startswith("/signed"):
            return RedirectResponse(f"/signed/{len(asked)}")
        if len(asked) == 3:
            return Response(status_code=403)
        return part(*asked_of(request), etag='"1"' if len(asked) < 3 else '"2"')

    async with answering(answer) as (client, location):
        source = RangeSource(client, location, IMPATIENT)
        await source.read_head(100)
        with pytest.raises(SourceChanged):
            await source.read(ByteRange(5000, 100))
        await source.close()


@pytest.mark.parametrize("status", [403, 429, 503])
@pytest.mark.parametrize("most", [1, 6])
async def test_a_host_that_limits_requests_gives_every_part(status: int, most: int) -> None:
    working = refused = 0

    async def answer(request: Request) -> Response:
        nonlocal working, refused
        if working >= most:
            refused += 1
            return Response("busy", status)
        working += 1
        await asyncio.sleep(0.005)
        working -= 1
        return part(*asked_of(request))

    async with answering(answer) as (client, location):
        source = RangeSource(client, location, IMPATIENT)
        await source.read_head(100)
        wanted = [ByteRange(start, 100) for start in range(100, 6500, 100)]
        parts = await asyncio.gather(*map(source.read, wanted))
        assert parts == [CONTENT[each.start : each.end] for each in wanted]
        # The next download of that host keeps to what was learnt.
        refused = 0
        other = RangeSource(client, location, IMPATIENT)
        await other.read_head(100)
        await asyncio.gather(*map(other.read, wanted))
        assert refused <= 1
        await source.close()
        await other.close()


class Sockets:
    """A host that bears so many connections, drops any more, and answers each on the loop's time.

    ``behind`` follows every part, and belongs to none.
    """

    def __init__(self, most: int = 1000, behind: bytes = b"") -> None:
        self.most, self.behind = most, behind
        self.opened = self.open = self.refused = 0

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.opened += 1
        if self.open >= self.most:
            self.refused += 1
            writer.transport.abort()
            return
        self.open += 1
        try:
            while head := await reader.readuntil(b"\r\n\r\n"):
                await asyncio.sleep(0.002)
                wanted = re.search(rb"(?i)range: bytes=(\d+)-(\d*)", head)
                start = int(wanted[1]) if wanted else 0
                end = min(int(wanted[2]) + 1, SIZE) if wanted and wanted[2] else SIZE
                writer.write(
                    b'HTTP/1.1 %d OK\r\nETag: "1"\r\nContent-Length: %d\r\n'
                    b"Content-Range: bytes %d-%d/%d\r\n\r\n"
                    % (206 if wanted else 200, end - start, start, end - 1, SIZE)
                )
                writer.write(CONTENT[start:end] + self.behind)
        except (ConnectionError, asyncio.IncompleteReadError):
            pass  # The client has hung up.
        finally:
            self.open -= 1
            writer.close()

    @asynccontextmanager
    async def answering(self) -> AsyncIterator[tuple[GuardedClient, MediaLocation]]:
        async with await asyncio.start_server(self.serve, "127.0.0.1", 0) as server:
            port = server.sockets[0].getsockname()[1]
            client = GuardedClient([f"127.0.0.1:{port}"])
            yield client, MediaLocation("mp4", f"http://127.0.0.1:{port}/v.mp4")
            await client.close()
            await wait_until(lambda: not self.open, "every connection is closed")


async def test_a_host_that_limits_connections_gives_parts_and_whole_files(
    scratch: LocalStorage,
) -> None:
    host = Sockets(most=6)
    patience = Patience(first_wait_seconds=0.005, longest_wait_seconds=0.5)

    async def parts() -> bool:
        source = RangeSource(client, location, patience)
        await source.read_head(100)
        wanted = [ByteRange(start, 100) for start in range(100, 3300, 100)]
        bodies = await asyncio.gather(*map(source.read, wanted))
        await source.close()
        return bodies == [CONTENT[each.start : each.end] for each in wanted]

    async def whole_file(number: int) -> bool:
        stem = f"audio/{number}_source.1"
        fetched = await fetch_file(
            client, location, Attempt(scratch, stem, Reports()), max_bytes=MIB, patience=patience
        )
        return scratch.path_of(fetched.key).read_bytes() == CONTENT

    async with host.answering() as (client, location):
        together = [parts() for _ in range(4)] + [whole_file(number) for number in range(4)]
        assert all(await asyncio.gather(*together))
        assert host.refused
        assert client.limits.of(location.url).most_of(100) <= 6


@pytest.mark.parametrize("behind", [b"", b"HTTP/1.1 206 OK\r\n"])
async def test_a_connection_on_which_more_came_is_not_asked_again(behind: bytes) -> None:
    host = Sockets(behind=behind)
    async with host.answering() as (client, location):
        source = RangeSource(client, location, IMPATIENT)
        for start in range(0, 5000, 1000):
            assert await source.read(ByteRange(start, 50)) == CONTENT[start : start + 50]
        await source.close()
    assert host.opened == (5 if behind else 2)  # The first of all has its own.


@pytest.mark.parametrize("refusal", [400, 404, 405, 410, 416])
async def test_a_source_that_goes_on_with_no_file_is_asked_for_the_whole_once_more(
    scratch: LocalStorage, refusal: int
) -> None:
    asked: list[str | None] = []

    async def answer(request: Request) -> Response:
        asked.append(request.headers.get("range"))
        if asked[-1] is not None:
            return Response(status_code=refusal)
        if asked.count(None) > 1:
            return whole()
        # Cut short: the length is more than what comes.
        headers = {"etag": '"1"', "content-length": str(SIZE)}
        return StreamingResponse(in_chunks(0, 5000), 200, headers)

    async with answering(answer) as (client, location):
        fetched = await fetch_file(
            client, location, Attempt(scratch, STEM, Reports()), max_bytes=MIB, patience=IMPATIENT
        )
    assert scratch.path_of(fetched.key).read_bytes() == CONTENT
    assert asked[0] is None
    assert asked[-1] is None


WHOLE_RESTS: dict[str, tuple[Answer, bool]] = {
    "everything": (lambda *_: whole(), False),
    "everything of another": (lambda *_: whole(etag='"2"'), True),
    "more than it tells": (
        lambda _, start, end: part(0, SIZE, content_range=f"bytes {start}-{end - 1}/{SIZE}"),
        True,
    ),
}


@pytest.mark.parametrize("name", WHOLE_RESTS)
async def test_what_goes_on_with_the_whole_file_is_passed_over_or_begun_anew(
    scratch: LocalStorage, name: str
) -> None:
    rest, has_changed = WHOLE_RESTS[name]
    asked: list[str | None] = []

    async def answer(request: Request) -> Response:
        asked.append(request.headers.get("range"))
        if len(asked) == 1:  # Cut short: the length is more than what comes.
            headers = {"etag": '"1"', "content-length": str(SIZE)}
            return StreamingResponse(in_chunks(0, 5000), 200, headers)
        return rest(request, *asked_of(request)) if asked[-1] else whole()

    async with answering(answer) as (client, location):
        fetched = await fetch_file(
            client, location, Attempt(scratch, STEM, Reports()), max_bytes=MIB, patience=IMPATIENT
        )
    assert scratch.path_of(fetched.key).read_bytes() == CONTENT
    assert fetched.has_changed is has_changed
    assert asked == [None, "bytes=5000-", *([None] if has_changed else [])]
    assert has_changed or fetched.fetched_bytes == SIZE + 5000


async def test_a_part_that_was_not_asked_for_is_gone_on_with(scratch: LocalStorage) -> None:
    async def answer(request: Request) -> Response:
        if "range" not in request.headers:
            return part(0, 5000)
        return part(*asked_of(request))

    async with answering(answer) as (client, location):
        fetched = await fetch_file(
            client, location, Attempt(scratch, STEM, Reports()), max_bytes=MIB, patience=IMPATIENT
        )
    assert scratch.path_of(fetched.key).read_bytes() == CONTENT
