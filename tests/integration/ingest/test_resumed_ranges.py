"""Audio by Range across attempts: samples that a killed worker had are not fetched again."""

import asyncio
from pathlib import Path

import pytest

from app.embedded.panopto import Link, PanoptoSimulator, Recording, RequestRecord
from app.embedded.sample_media import make_lecture
from app.errors import IngestFailed, StorageError
from app.ingest.fetch.downloader import MediaDownloader
from app.ingest.fetch.ranges.index import read_audio_index
from app.ingest.fetch.ranges.plan import left_of
from app.ingest.fetch.ranges.source import RangesRefused
from app.ingest.model import MediaLocation, Tier
from app.ingest.net.guard import GuardedClient
from app.storage.local import LocalStorage
from tests.support.attempts import NEW, Attempts, packets
from tests.support.panopto import MIB, files_in
from tests.support.wait import wait_until

AUDIO_SECONDS = 240


@pytest.fixture(autouse=True)
def _unhurried(monkeypatch: pytest.MonkeyPatch) -> None:
    """A machine that stalls for a second is no reason to take the whole file instead."""
    monkeypatch.setattr("app.ingest.fetch.ranges.audio._SECONDS_BEFORE_JUDGED", float("inf"))


@pytest.fixture(scope="module")
def slow_mp4(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """2 MB of sound in 14 MB, by turns of 2 s."""
    path = tmp_path_factory.mktemp("media") / "slow.mp4"
    return make_lecture(path, AUDIO_SECONDS, size_bytes=12_000_000, chunk_seconds=2)


@pytest.fixture
def attempts(client: GuardedClient, scratch: LocalStorage, simulator: PanoptoSimulator) -> Attempts:
    return Attempts(client, scratch, simulator)


def slow(simulator: PanoptoSimulator, media: Path) -> Recording:
    link = Link(bytes_per_second=1_500_000, round_trip_seconds=0.02)
    return simulator.add(Recording(media, offers=("mp4",), link=link))


async def test_ranges_go_on_with_the_next_sample(
    attempts: Attempts, simulator: PanoptoSimulator, slow_mp4: Path
) -> None:
    recording = slow(simulator, slow_mp4)
    async with attempts.overtaken_ranges(recording):
        pass
    kept = attempts.size_of(f"{NEW}.part")
    simulator.requests.clear()
    attempts.reports.all.clear()
    resumed = await attempts.ranges(recording)
    assert packets(attempts.scratch.path_of(resumed.key)) == packets(slow_mp4)
    # What the predecessor asked for last may only arrive now.
    assert resumed.fetched_bytes <= attempts.sent_bytes(recording, ".mp4")
    assert await files_in(attempts.scratch) == [resumed.key]

    content = slow_mp4.read_bytes()
    at = content.index(b"moov") - 4
    moov = content[at : at + int.from_bytes(content[at : at + 4], "big")]
    index = await read_audio_index(moov, len(content))
    left = list(left_of(index.spans, kept - len(index.header)))
    head, *samples = [_asked_for(each) for each in simulator.media_requests(recording)]
    assert head == (0, 512 * 1024 - 1)
    assert min(samples)[0] == left[0].start
    assert resumed.size_bytes == len(index.header) + index.audio_bytes

    first, last = attempts.reports.all[0], attempts.reports.all[-1]
    assert first.downloaded_bytes > kept
    assert first.total_bytes is not None
    assert first.total_bytes < resumed.size_bytes * 1.5
    assert last.downloaded_bytes == last.total_bytes == kept + resumed.fetched_bytes


async def test_ranges_and_their_predecessor_write_the_same_bytes(
    attempts: Attempts, simulator: PanoptoSimulator, slow_mp4: Path
) -> None:
    recording = slow(simulator, slow_mp4)
    async with attempts.overtaken_ranges(recording) as predecessor:
        resumed = await attempts.ranges(recording)
        with pytest.raises(StorageError):
            await predecessor
    assert packets(attempts.scratch.path_of(resumed.key)) == packets(slow_mp4)
    assert await files_in(attempts.scratch) == [resumed.key]


@pytest.mark.parametrize("spoilt", ["etag", "media", "note"])
async def test_ranges_of_another_version_are_begun_anew(
    attempts: Attempts,
    simulator: PanoptoSimulator,
    slow_mp4: Path,
    tmp_path: Path,
    spoilt: str,
) -> None:
    recording = slow(simulator, slow_mp4)
    async with attempts.overtaken_ranges(recording):
        pass
    kept = attempts.size_of(f"{NEW}.part")
    if spoilt == "note":
        attempts.scratch.path_of(f"{NEW}.note").write_text("{}")
    if spoilt == "etag":
        recording.version += 1
    if spoilt == "media":  # The same ETag, but another file.
        recording.media = make_lecture(
            tmp_path / "a.mp4", AUDIO_SECONDS, size_bytes=13_000_000, chunk_seconds=3
        )
    resumed = await attempts.ranges(recording)
    assert packets(attempts.scratch.path_of(resumed.key)) == packets(recording.media)
    assert resumed.fetched_bytes > resumed.size_bytes > kept
    assert await files_in(attempts.scratch) == [resumed.key]


@pytest.mark.parametrize("ends", ["busy", "cancelled"])
async def test_ranges_that_are_called_off_go_on_where_they_stopped(
    attempts: Attempts, simulator: PanoptoSimulator, slow_mp4: Path, ends: str
) -> None:
    recording = slow(simulator, slow_mp4)
    fetching = asyncio.create_task(attempts.ranges(recording))
    await wait_until(lambda: attempts.size_of(f"{NEW}.part") >= MIB, "half is there")
    if ends == "cancelled":
        fetching.cancel()
    recording.faults.media_status, recording.faults.retry_after = 503, "60"
    with pytest.raises((asyncio.CancelledError, IngestFailed)):
        await fetching
    assert sorted(await files_in(attempts.scratch)) == [f"{NEW}.note", f"{NEW}.part"]
    kept = attempts.size_of(f"{NEW}.part")

    recording.faults.media_status = None
    resumed = await attempts.ranges(recording)
    assert packets(attempts.scratch.path_of(resumed.key)) == packets(slow_mp4)
    assert resumed.fetched_bytes < resumed.size_bytes - kept + MIB
    assert await files_in(attempts.scratch) == [resumed.key]


async def test_ranges_whose_source_fails_leave_nothing(
    attempts: Attempts, simulator: PanoptoSimulator, slow_mp4: Path
) -> None:
    recording = slow(simulator, slow_mp4)
    async with attempts.overtaken_ranges(recording):
        pass
    recording.faults.media_status = 404
    with pytest.raises(RangesRefused):
        await attempts.ranges(recording)
    assert await files_in(attempts.scratch) == []


async def test_a_part_of_one_way_is_nothing_for_another(
    attempts: Attempts,
    downloader: MediaDownloader,
    simulator: PanoptoSimulator,
    slow_mp4: Path,
) -> None:
    recording = slow(simulator, slow_mp4)
    hls = MediaLocation("hls", simulator.hls_url(recording))
    podcast = MediaLocation("podcast", simulator.media_url(recording))
    link = recording.link
    for location, tier in ((hls, Tier.HLS_AUDIO), (podcast, Tier.AUDIO_PODCAST)):
        recording.link = link
        async with attempts.overtaken_ranges(recording):
            recording.link = None
        source = await attempts.get(downloader, location)
        assert source.tier is tier
        # In a stream, each packet has a header of its own.
        assert packets(attempts.scratch.path_of(source.key))[-1].endswith(packets(slow_mp4)[-1])
        assert await files_in(attempts.scratch) == [source.key]
        await attempts.scratch.delete_file(source.key)


async def test_a_part_outlives_the_ways_that_fail_before_its_own(
    attempts: Attempts,
    downloader: MediaDownloader,
    simulator: PanoptoSimulator,
    slow_mp4: Path,
) -> None:
    recording = slow(simulator, slow_mp4)
    async with attempts.overtaken_ranges(recording):
        pass
    kept = attempts.size_of(f"{NEW}.part")
    missing = simulator.media_url(recording).replace("/main/", "/none/")
    source = await attempts.get(
        downloader,
        MediaLocation("podcast", missing),
        MediaLocation("hls", missing),
        MediaLocation("mp4", simulator.media_url(recording)),
    )
    assert source.tier is Tier.AUDIO_RANGES
    assert source.fetched_bytes < source.size_bytes - kept + MIB
    assert await files_in(attempts.scratch) == [source.key]


@pytest.mark.parametrize(
    ("failed_before", "has_part", "tier"),
    [
        (1, True, Tier.AUDIO_RANGES),
        (1, False, Tier.WHOLE_FILE),
        (2, True, Tier.WHOLE_FILE),
    ],
)
async def test_an_attempt_after_a_failed_one_takes_the_whole_file(
    attempts: Attempts,
    downloader: MediaDownloader,
    simulator: PanoptoSimulator,
    slow_mp4: Path,
    failed_before: int,
    has_part: bool,
    tier: Tier,
) -> None:
    recording = slow(simulator, slow_mp4)
    if has_part:
        async with attempts.overtaken_ranges(recording):
            pass
    location = MediaLocation("mp4", simulator.media_url(recording))
    source = await attempts.get(downloader, location, failed_before=failed_before)
    assert source.tier is tier
    assert await files_in(attempts.scratch) == [source.key]


def _asked_for(record: RequestRecord) -> tuple[int, int]:
    assert record.range is not None
    start, end = record.range.removeprefix("bytes=").split("-")
    return int(start), int(end)
