import asyncio
import resource
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from app.domain import DownloadStage, LectureFailure
from app.embedded.panopto import PanoptoSimulator, Recording
from app.errors import IngestFailed, LeaseLost, StorageFull
from app.ingest.fetch.file import FetchedFile, fetch_file, whole_file_of
from app.ingest.fetch.part import PartFile, Version
from app.ingest.model import Attempt, MediaLocation, Progress
from app.ingest.net.guard import GuardedClient
from app.storage.local import LocalStorage
from tests.support.panopto import IMPATIENT, MIB, Reports, files_in
from tests.support.serving import serving
from tests.support.wait import wait_until

STEM = "audio/one_source.1"
KEY = f"{STEM}.mp4"
LEFT = [f"{STEM}.note", f"{STEM}.part"]


class Fetch:
    """The fetch of one recording's MP4, as each test wants it."""

    def __init__(
        self, client: GuardedClient, simulator: PanoptoSimulator, scratch: LocalStorage
    ) -> None:
        self.client, self.simulator, self.scratch = client, simulator, scratch
        self.reports = Reports()

    async def __call__(
        self, recording: Recording, max_bytes: int = 64 * MIB, report: Reports | None = None
    ) -> FetchedFile:
        location = MediaLocation("mp4", self.simulator.media_url(recording))
        return await fetch_file(
            self.client,
            location,
            Attempt(self.scratch, STEM, report or self.reports),
            max_bytes=max_bytes,
            patience=IMPATIENT,
        )

    async def fails(
        self, recording: Recording, max_bytes: int = 64 * MIB, *, kept: int = 0
    ) -> IngestFailed:
        """Expect a failure that leaves so many bytes to go on with."""
        with pytest.raises(IngestFailed) as failure:
            await self(recording, max_bytes)
        self.simulator.requests.clear()
        assert sorted(await files_in(self.scratch)) == (LEFT if kept else [])
        if kept:
            assert self.scratch.path_of(f"{STEM}.part").stat().st_size == kept
        return failure.value

    async def goes_on(self, recording: Recording, kept: int) -> None:
        """Expect an attempt that asks for the rest alone."""
        recording.faults = type(recording.faults)()
        await self(recording)
        (asked,) = self.simulator.media_requests(recording)
        assert (asked.status, asked.range) == (206, f"bytes={kept}-")
        assert stored(self) == recording.media.read_bytes()
        assert await files_in(self.scratch) == [KEY]


@pytest.fixture
def fetch(client: GuardedClient, simulator: PanoptoSimulator, scratch: LocalStorage) -> Fetch:
    return Fetch(client, simulator, scratch)


def stored(fetch: Fetch) -> bytes:
    return fetch.scratch.path_of(KEY).read_bytes()


async def test_a_file_arrives_whole_with_progress(fetch: Fetch, recording: Recording) -> None:
    meta = await fetch(recording)
    content = recording.media.read_bytes()
    assert (meta.key, meta.size_bytes) == (KEY, len(content))
    assert stored(fetch) == content
    assert {report.stage for report in fetch.reports.all} == {DownloadStage.FETCHING}
    assert {report.total_bytes for report in fetch.reports.all} == {len(content)}
    counts = [report.downloaded_bytes for report in fetch.reports.all]
    assert counts == sorted(counts)
    assert counts[-1] == len(content)


async def test_a_dropped_connection_is_resumed_where_it_stopped(
    fetch: Fetch, recording: Recording
) -> None:
    recording.faults.cut_after_bytes, recording.faults.cut_times = 900_000, 2
    await fetch(recording)
    assert stored(fetch) == recording.media.read_bytes()
    asked = fetch.simulator.media_requests(recording)
    assert [request.status for request in asked] == [200, 206, 206]
    assert [request.range for request in asked] == [None, "bytes=900000-", "bytes=1800000-"]
    assert sum(request.sent_bytes for request in asked) == recording.media.stat().st_size


async def test_many_drops_are_borne_while_there_is_progress(
    fetch: Fetch, recording: Recording
) -> None:
    recording.faults.cut_after_bytes, recording.faults.cut_times = 200_000, None
    await fetch(recording)
    assert stored(fetch) == recording.media.read_bytes()


async def test_a_changed_file_is_begun_again(
    fetch: Fetch, recording: Recording, silent_mp4: Path
) -> None:
    recording.faults.cut_after_bytes = 1_000_000

    class Replacing(Reports):
        async def __call__(self, progress: Progress) -> None:
            if progress.downloaded_bytes == 1_000_000 and recording.version == 1:
                recording.media, recording.version = silent_mp4, 2

    await fetch(recording, report=Replacing())
    assert stored(fetch) == silent_mp4.read_bytes()
    assert [each.status for each in fetch.simulator.media_requests(recording)] == [200, 200, 200]


async def test_a_file_that_always_changes_is_given_up(fetch: Fetch, recording: Recording) -> None:
    recording.faults.etag_changes = True
    recording.faults.cut_after_bytes, recording.faults.cut_times = 1_000_000, None
    failure = await fetch.fails(recording)
    assert (failure.failure, failure.transient) == (LectureFailure.NETWORK, True)


async def test_without_range_a_drop_begins_again(fetch: Fetch, recording: Recording) -> None:
    recording.faults.no_range = True
    recording.faults.cut_after_bytes = 1_000_000
    await fetch(recording)
    assert stored(fetch) == recording.media.read_bytes()
    assert {each.status for each in fetch.simulator.media_requests(recording)} == {200}


async def test_a_source_that_keeps_ending_early_is_truncated(
    fetch: Fetch, recording: Recording
) -> None:
    recording.faults.ends_at_byte = 1_500_000
    failure = await fetch.fails(recording, kept=1_500_000)
    assert (failure.failure, failure.transient) == (LectureFailure.TRUNCATED, True)
    await fetch.goes_on(recording, 1_500_000)


async def test_a_busy_server_passes_on_its_wish(fetch: Fetch, recording: Recording) -> None:
    recording.faults.media_status, recording.faults.retry_after = 429, "120"
    with pytest.raises(IngestFailed) as failure:
        await fetch(recording)
    assert (failure.value.failure, failure.value.transient) == (LectureFailure.NETWORK, True)
    assert failure.value.retry_after_seconds == 120
    assert len(fetch.simulator.media_requests(recording)) == 1
    assert await files_in(fetch.scratch) == []


class Failing(Reports):
    """Lets a source answer with a status once so much has come."""

    def __init__(self, recording: Recording, status: int, retry_after: str | None = None) -> None:
        super().__init__()
        self._faults, self._status, self._retry_after = recording.faults, status, retry_after

    async def __call__(self, progress: Progress) -> None:
        if progress.downloaded_bytes >= 1_000_000:
            self._faults.media_status = self._status
            self._faults.retry_after = self._retry_after


@pytest.mark.parametrize(("status", "retry_after"), [(503, None), (429, "120"), (503, "0")])
async def test_what_came_before_a_source_was_busy_is_not_asked_for_again(
    fetch: Fetch, recording: Recording, status: int, retry_after: str | None
) -> None:
    """A batch is more than what came: the last bytes count, however few."""
    recording.faults.cut_after_bytes = 1_000_000
    fetch.reports = Failing(recording, status, retry_after)
    failure = await fetch.fails(recording, kept=1_000_000)
    assert failure.transient
    fetch.reports = Reports()
    await fetch.goes_on(recording, 1_000_000)


async def test_a_source_that_never_lets_more_than_a_little_through_is_had_in_the_end(
    fetch: Fetch, recording: Recording
) -> None:
    size, kept = recording.media.stat().st_size, 0
    for _ in range(4):
        recording.faults.media_status, recording.faults.cut_after_bytes = None, 300_000
        recording.faults.cut_times = 1

        class Limiting(Reports):
            async def __call__(self, progress: Progress) -> None:
                recording.faults.media_status, recording.faults.retry_after = 429, "60"

        fetch.reports, kept = Limiting(), kept + 300_000
        await fetch.fails(recording, kept=kept)
    assert kept < size
    fetch.reports = Reports()
    await fetch.goes_on(recording, kept)


async def test_what_came_before_a_source_was_gone_is_not_kept(
    fetch: Fetch, recording: Recording
) -> None:
    recording.faults.cut_after_bytes = 1_000_000
    fetch.reports = Failing(recording, 404)
    assert not (await fetch.fails(recording)).transient


@pytest.mark.parametrize("status", [429, 500, 502, 503, 504])
async def test_a_busy_source_is_asked_once(fetch: Fetch, recording: Recording, status: int) -> None:
    recording.faults.media_status = status
    with pytest.raises(IngestFailed) as failure:
        await fetch(recording)
    assert failure.value.transient
    assert len(fetch.simulator.media_requests(recording)) == 1


async def test_a_connection_that_drops_at_once_is_left_to_the_next_attempt(
    fetch: Fetch, recording: Recording
) -> None:
    """It refuses nothing: the whole file is not asked for."""
    recording.faults.ends_at_byte = 1_500_000
    await fetch.fails(recording, kept=1_500_000)
    failure = await fetch.fails(recording, kept=1_500_000)
    assert (failure.failure, failure.transient) == (LectureFailure.TRUNCATED, True)
    with pytest.raises(IngestFailed):
        await fetch(recording)
    (asked,) = fetch.simulator.media_requests(recording)
    assert (asked.range, asked.status, asked.sent_bytes) == ("bytes=1500000-", 206, 0)


async def test_a_source_that_drips_is_left_to_the_next_attempt(
    fetch: Fetch, recording: Recording
) -> None:
    """What is too little for a connection of its own stays all the same."""
    recording.faults.cut_after_bytes, recording.faults.cut_times = 100, None
    failure = await fetch.fails(recording, kept=400)
    assert failure.transient


async def test_a_short_outage_in_the_middle_is_waited_for(
    fetch: Fetch, recording: Recording
) -> None:
    recording.faults.cut_after_bytes = 1_000_000

    class Failing(Reports):
        async def __call__(self, progress: Progress) -> None:
            if progress.downloaded_bytes == 1_000_000 and not self.all:
                recording.faults.media_status, recording.faults.media_status_times = 503, 2
                self.all.append(progress)

    await fetch(recording, report=Failing())
    assert stored(fetch) == recording.media.read_bytes()
    statuses = [each.status for each in fetch.simulator.media_requests(recording)]
    assert statuses == [200, 503, 503, 206]


async def test_a_signed_url_that_runs_out_in_the_middle_passes(
    fetch: Fetch, recording: Recording
) -> None:
    recording.faults.cut_after_bytes = 1_000_000

    class Closing(Reports):
        async def __call__(self, progress: Progress) -> None:
            if progress.downloaded_bytes == 1_000_000:
                recording.faults.media_status = 403

    fetch.reports = Closing()
    failure = await fetch.fails(recording, kept=1_000_000)
    assert (failure.failure, failure.transient) == (LectureFailure.NETWORK, True)
    fetch.reports = Reports()
    await fetch.goes_on(recording, 1_000_000)


async def test_too_large_is_known_before_a_byte_flows(fetch: Fetch, recording: Recording) -> None:
    failure = await fetch.fails(recording, max_bytes=MIB)
    assert (failure.failure, failure.transient) == (LectureFailure.TOO_LARGE, False)
    assert fetch.reports.all == []


async def test_too_large_is_noticed_where_no_length_is_told(
    fetch: Fetch, recording: Recording
) -> None:
    recording.faults.no_length = True
    failure = await fetch.fails(recording, max_bytes=MIB)
    assert failure.failure is LectureFailure.TOO_LARGE


async def test_without_a_length_the_end_is_the_end(fetch: Fetch, recording: Recording) -> None:
    recording.faults.no_length = True
    await fetch(recording)
    assert stored(fetch) == recording.media.read_bytes()
    assert {report.total_bytes for report in fetch.reports.all} == {None}


@pytest.mark.parametrize(
    ("status", "expected"),
    [(404, LectureFailure.SOURCE_NOT_FOUND), (403, LectureFailure.LOGIN_REQUIRED)],
)
async def test_a_refusal_is_final(
    fetch: Fetch, recording: Recording, status: int, expected: LectureFailure
) -> None:
    recording.faults.media_status = status
    failure = await fetch.fails(recording)
    assert (failure.failure, failure.transient) == (expected, False)


async def test_a_page_is_no_recording(fetch: Fetch, recording: Recording) -> None:
    recording.faults.html_media = True
    assert (await fetch.fails(recording)).failure is LectureFailure.SOURCE_NOT_FOUND
    recording.faults.html_media = False
    recording.faults.redirect_media_to = "/Panopto/Pages/Auth/Login.aspx?ReturnUrl=x"
    assert (await fetch.fails(recording)).failure is LectureFailure.LOGIN_REQUIRED


async def test_a_redirect_inwards_is_blocked(fetch: Fetch, recording: Recording) -> None:
    recording.faults.redirect_media_to = "http://169.254.169.254/latest/meta-data/"
    failure = await fetch.fails(recording)
    assert (failure.failure, failure.transient) == (LectureFailure.BLOCKED_URL, False)


async def test_whoever_listens_can_stop_it(fetch: Fetch, recording: Recording) -> None:
    class Losing(Reports):
        async def __call__(self, progress: Progress) -> None:
            raise LeaseLost

    with pytest.raises(LeaseLost):
        await fetch(recording, report=Losing())
    assert await files_in(fetch.scratch) == []


async def test_a_cancelled_fetch_leaves_what_came_and_hangs_up(
    fetch: Fetch, recording: Recording
) -> None:
    recording.faults.bytes_per_second = 100_000
    task = asyncio.create_task(fetch(recording))
    await wait_until(lambda: len(fetch.reports.all) > 1, "bytes flow")
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    sent = fetch.simulator.media_requests(recording)[0].sent_bytes
    assert sent < recording.media.stat().st_size
    fetch.simulator.requests.clear()
    assert sorted(await files_in(fetch.scratch)) == LEFT
    kept = fetch.scratch.path_of(f"{STEM}.part").stat().st_size
    assert 0 < kept <= sent
    await fetch.goes_on(recording, kept)


async def test_a_full_disk_passes_through(fetch: Fetch, recording: Recording) -> None:
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (1_000_000, hard))
    try:
        with pytest.raises(StorageFull):
            await fetch(recording)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert await files_in(fetch.scratch) == []


@pytest.mark.parametrize(("shift", "complete"), [(0, True), (1, False)])
async def test_a_server_that_sends_a_little_at_a_time_is_asked_again(
    scratch: LocalStorage, shift: int, complete: bool
) -> None:
    content = bytes(range(256)) * 8

    async def answer(request: Request) -> Response:
        asked = request.headers.get("range")
        if asked is None:
            return Response(content[:100], 200, {"content-length": "2048", "etag": '"1"'})
        start = int(asked.removeprefix("bytes=").removesuffix("-")) + shift
        end = min(start + 500, len(content))
        headers = {"content-range": f"bytes {start}-{end - 1}/2048", "etag": '"1"'}
        return Response(content[start:end], 206, headers)

    async with serving(_cut_short(Starlette(routes=[Route("/a.mp4", answer)]))) as server:
        client = GuardedClient([f"127.0.0.1:{server.port}"])
        location = MediaLocation("mp4", f"{server.url}/a.mp4")
        fetching = fetch_file(
            client, location, Attempt(scratch, STEM, Reports()), max_bytes=MIB, patience=IMPATIENT
        )
        if complete:
            await fetching
            assert scratch.path_of(KEY).read_bytes() == content
        else:
            with pytest.raises(IngestFailed) as failure:
                await fetching
            assert failure.value.failure is LectureFailure.NETWORK
            assert await files_in(scratch) == []
        await client.close()


CONTENT = bytes(range(256)) * 8
KEPT = 500


class Grudging:
    """A source that answers every Range with an error, and the whole file as it may."""

    def __init__(self, refusal: int, etag: str = '"1"', status: int = 200) -> None:
        self.asked: list[str | None] = []
        self.most = len(CONTENT)
        self._refusal, self._etag, self._status = refusal, etag, status

    async def answer(self, request: Request) -> Response:
        asked = request.headers.get("range")
        self.asked.append(asked)
        if asked is not None:
            return Response(status_code=self._refusal)
        headers = {"content-length": str(len(CONTENT)), "etag": self._etag}
        return Response(CONTENT[: self.most], self._status, headers)


@asynccontextmanager
async def resumed(
    scratch: LocalStorage, source: Grudging, old_content: bytes = CONTENT
) -> AsyncIterator["asyncio.Task[FetchedFile]"]:
    """A fetch of which 500 bytes are there from an attempt before."""
    async with serving(_cut_short(Starlette(routes=[Route("/a.mp4", source.answer)]))) as server:
        client = GuardedClient([f"127.0.0.1:{server.port}"])
        location = MediaLocation("mp4", f"{server.url}/a.mp4")
        part = PartFile(scratch, STEM)
        part.begin(Version(whole_file_of(location), '"1"', len(CONTENT)))
        part.append([old_content[:KEPT]])
        part.close()
        fetching = fetch_file(
            client, location, Attempt(scratch, STEM, Reports()), max_bytes=MIB, patience=IMPATIENT
        )
        yield asyncio.create_task(fetching)
        await client.close()


@pytest.mark.parametrize("refusal", [400, 403, 404, 429, 500, 503])
async def test_a_source_that_will_not_go_on_is_asked_for_the_whole(
    scratch: LocalStorage, refusal: int
) -> None:
    source = Grudging(refusal)
    async with resumed(scratch, source) as fetching:
        fetched = await fetching
    assert scratch.path_of(KEY).read_bytes() == CONTENT
    assert fetched.fetched_bytes == fetched.size_bytes == len(CONTENT)
    assert source.asked[-1] is None
    assert set(source.asked[:-1]) == {f"bytes={KEPT}-"}
    assert await files_in(scratch) == [KEY]


@pytest.mark.parametrize(("most", "kept"), [(KEPT - 100, KEPT), (KEPT + 100, KEPT + 100)])
async def test_a_source_that_will_not_go_on_and_ends_early_is_asked_for_the_whole_once(
    scratch: LocalStorage, most: int, kept: int
) -> None:
    source = Grudging(503)
    source.most = most
    async with resumed(scratch, source) as fetching:
        with pytest.raises(IngestFailed) as failure:
            await fetching
    assert failure.value.transient
    assert source.asked.count(None) == 1
    assert scratch.path_of(f"{STEM}.part").read_bytes() == CONTENT[:kept]


async def test_a_source_that_will_not_go_on_and_has_changed_is_begun_anew(
    scratch: LocalStorage,
) -> None:
    source = Grudging(503, etag='"2"')
    async with resumed(scratch, source, old_content=b"-" * KEPT) as fetching:
        await fetching
    assert scratch.path_of(KEY).read_bytes() == CONTENT
    assert source.asked[-2:] == [None, None]


@pytest.mark.parametrize(("status", "kept"), [(503, True), (403, False), (404, False)])
async def test_a_source_that_will_give_nothing_fails_as_it_says(
    scratch: LocalStorage, status: int, kept: bool
) -> None:
    source = Grudging(503, status=status)
    async with resumed(scratch, source) as fetching:
        with pytest.raises(IngestFailed) as failure:
            await fetching
    assert failure.value.transient is kept
    assert source.asked.count(None) == 1
    assert sorted(await files_in(scratch)) == (LEFT if kept else [])


async def test_a_source_that_names_a_time_is_not_asked_for_the_whole(
    scratch: LocalStorage, fetch: Fetch, recording: Recording
) -> None:
    recording.faults.cut_after_bytes = 1_000_000
    fetch.reports = Failing(recording, 429, "60")
    for _ in range(2):
        await fetch.fails(recording, kept=1_000_000)
    with pytest.raises(IngestFailed):
        await fetch(recording)
    assert [each.range for each in fetch.simulator.media_requests(recording)] == ["bytes=1000000-"]


def _cut_short(app: ASGIApp) -> ASGIApp:
    """Leave out the end of each body, so that a short one drops the connection."""

    async def cut(scope: Scope, receive: Receive, send: Send) -> None:
        async def unended(message: Message) -> None:
            await send({**message, "more_body": True} if message.get("body") else message)

        await app(scope, receive, unended)

    return cut
