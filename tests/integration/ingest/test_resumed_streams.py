"""HLS across attempts: segments that a killed worker had are not fetched again."""

import asyncio
from pathlib import Path
from typing import Any

import pytest

from app.domain import LectureFailure
from app.embedded.panopto import PanoptoSimulator, Recording
from app.embedded.sample_media import make_lecture
from app.errors import IngestFailed, StorageError
from app.ingest.fetch.downloader import MediaDownloader
from app.ingest.model import MediaLocation, Progress, Tier
from app.ingest.net.guard import GuardedClient
from app.storage.local import LocalStorage
from tests.support.attempts import BAD, NEW, STUBBORN, Attempts
from tests.support.panopto import Reports, files_in
from tests.support.wait import wait_until

SEGMENTS = 16


@pytest.fixture(scope="module")
def long_mp4(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Sixteen segments of 6 s."""
    path = tmp_path_factory.mktemp("media") / "long.mp4"
    return make_lecture(path, SEGMENTS * 6, size_bytes=2_000_000)


@pytest.fixture
def attempts(client: GuardedClient, scratch: LocalStorage, simulator: PanoptoSimulator) -> Attempts:
    return Attempts(client, scratch, simulator)


def streamed(simulator: PanoptoSimulator, media: Path, **more: Any) -> Recording:
    return simulator.add(Recording(media, offers=("hls",), **more))


@pytest.mark.parametrize("shape", ["plain", "encrypted", "fragmented", "broken"])
async def test_a_stream_goes_on_after_its_last_whole_segment(
    attempts: Attempts, simulator: PanoptoSimulator, long_mp4: Path, shape: str
) -> None:
    recording = streamed(simulator, long_mp4)
    recording.hls_encrypted = shape == "encrypted"
    recording.hls_fragmented_mp4 = shape == "fragmented"
    recording.hls_discontinuity = BAD - 2 if shape == "broken" else None
    whole = await attempts.stream(recording, "audio/whole")
    async with attempts.overtaken_stream(recording):
        pass
    kept = attempts.size_of(f"{NEW}.part")
    simulator.requests.clear()
    attempts.reports.all.clear()
    resumed = await attempts.stream(recording)
    assert attempts.content(resumed.file.key) == attempts.content(whole.file.key)
    assert resumed.runs == whole.runs
    assert len(resumed.runs) == (shape == "broken")
    assert attempts.segments(recording) == list(range(BAD, SEGMENTS))
    assert resumed.file.fetched_bytes == attempts.sent_bytes(recording, ".ts", ".m4s")
    first, last = attempts.reports.all[0], attempts.reports.all[-1]
    assert first.downloaded_bytes > kept
    assert last.downloaded_bytes == kept + resumed.file.fetched_bytes
    assert last.total_bytes == pytest.approx(last.downloaded_bytes, rel=0.01)
    assert sorted(await files_in(attempts.scratch)) == sorted([whole.file.key, resumed.file.key])


async def test_a_silent_stream_is_found_out_where_only_its_settings_were_fetched_before(
    attempts: Attempts, simulator: PanoptoSimulator, silent_mp4: Path
) -> None:
    recording = streamed(simulator, silent_mp4, hls_fragmented_mp4=True)
    recording.faults.bad_segment, recording.faults.bad_segment_times = 0, None
    with pytest.raises(IngestFailed) as passing:
        await attempts.stream(recording)
    assert passing.value.transient
    assert len(attempts.ends(NEW)) == 1
    recording.faults.bad_segment = None
    with pytest.raises(IngestFailed) as found:
        await attempts.stream(recording)
    assert (found.value.failure, found.value.transient) == (LectureFailure.NO_AUDIO, False)
    assert await files_in(attempts.scratch) == []


@pytest.mark.parametrize("kind", ["mp4", "podcast"])
async def test_a_stream_that_is_said_to_be_a_file_goes_on_as_well(
    attempts: Attempts,
    downloader: MediaDownloader,
    simulator: PanoptoSimulator,
    long_mp4: Path,
    kind: str,
) -> None:
    recording = streamed(simulator, long_mp4)
    location = MediaLocation(kind, simulator.hls_url(recording))
    begun = await attempts.get(downloader, location)
    assert begun.tier is Tier.HLS_AUDIO
    whole = attempts.content(begun.key)
    async with attempts.overtaken_stream(recording):
        pass
    simulator.requests.clear()
    source = await attempts.get(downloader, location, failed_before=1)
    assert attempts.content(source.key) == whole
    assert attempts.segments(recording) == list(range(BAD, SEGMENTS))


async def test_a_file_that_is_said_to_be_a_stream_is_had_as_a_file(
    attempts: Attempts, downloader: MediaDownloader, simulator: PanoptoSimulator, long_mp4: Path
) -> None:
    recording = simulator.add(Recording(long_mp4))
    source = await attempts.get(downloader, MediaLocation("hls", simulator.media_url(recording)))
    assert source.tier in (Tier.AUDIO_RANGES, Tier.WHOLE_FILE)
    assert await files_in(attempts.scratch) == [source.key]


async def test_a_stream_and_its_predecessor_write_the_same_bytes(
    attempts: Attempts, simulator: PanoptoSimulator, long_mp4: Path
) -> None:
    recording = streamed(simulator, long_mp4)
    whole = await attempts.stream(recording, "audio/whole")
    async with attempts.overtaken_stream(recording) as predecessor:
        resumed = await attempts.stream(recording)
        with pytest.raises(StorageError):
            await predecessor
    assert attempts.content(resumed.file.key) == attempts.content(whole.file.key)
    assert sorted(await files_in(attempts.scratch)) == sorted([whole.file.key, resumed.file.key])


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("hls_discontinuity", 3),
        ("hls_encrypted", True),
        ("hls_audio_rendition", False),
    ],
)
async def test_another_playlist_is_begun_anew(
    attempts: Attempts, simulator: PanoptoSimulator, long_mp4: Path, name: str, value: object
) -> None:
    recording = streamed(simulator, long_mp4)
    async with attempts.overtaken_stream(recording):
        setattr(recording, name, value)
        resumed = await attempts.stream(recording)
    assert min(attempts.segments(recording)) <= 0
    whole = await attempts.stream(recording, "audio/whole")
    assert attempts.content(resumed.file.key) == attempts.content(whole.file.key)
    assert resumed.file.fetched_bytes == whole.file.fetched_bytes
    assert sorted(await files_in(attempts.scratch)) == sorted([whole.file.key, resumed.file.key])


async def test_a_torn_segment_is_fetched_again(
    attempts: Attempts, simulator: PanoptoSimulator, long_mp4: Path
) -> None:
    recording = streamed(simulator, long_mp4)
    async with attempts.overtaken_stream(recording):
        pass
    with attempts.scratch.path_of(f"{NEW}.part").open("ab") as part:
        part.write(b"\xff" * 3_000_000)
    resumed = await attempts.stream(recording)
    whole = await attempts.stream(recording, "audio/whole")
    assert attempts.content(resumed.file.key) == attempts.content(whole.file.key)


@pytest.mark.parametrize("rubbish", ["all", "too_many"])
async def test_a_rubbish_note_costs_a_new_beginning(
    attempts: Attempts, simulator: PanoptoSimulator, long_mp4: Path, rubbish: str
) -> None:
    recording = streamed(simulator, long_mp4)
    async with attempts.overtaken_stream(recording):
        pass
    note = attempts.scratch.path_of(f"{NEW}.note")
    if rubbish == "all":
        note.write_bytes(b"\xff\n" * 5000)
    else:
        note.write_bytes(note.read_bytes() + note.read_bytes()[-8:] * SEGMENTS)
    await attempts.stream(recording)
    assert set(range(SEGMENTS)) == set(attempts.segments(recording))
    assert await files_in(attempts.scratch) == [f"{NEW}.ts"]


async def test_a_stream_that_is_busy_or_cancelled_goes_on_where_it_stopped(
    attempts: Attempts, simulator: PanoptoSimulator, long_mp4: Path
) -> None:
    recording = streamed(simulator, long_mp4)
    faults = recording.faults
    whole = await attempts.stream(recording, "audio/whole")
    faults.bad_segment, faults.bad_segment_times = BAD, None
    with pytest.raises(IngestFailed) as failure:
        await attempts.stream(recording)
    assert failure.value.transient
    assert len(attempts.ends(NEW)) == BAD

    faults.bad_segment = BAD + 2
    simulator.requests.clear()
    successor = asyncio.create_task(attempts.stream(recording, NEW, STUBBORN))
    await wait_until(lambda: len(attempts.ends(NEW)) == BAD + 2, "two more are there")
    successor.cancel()
    with pytest.raises(asyncio.CancelledError):
        await successor
    assert min(attempts.segments(recording)) == BAD

    faults.bad_segment = None
    simulator.requests.clear()
    resumed = await attempts.stream(recording)
    assert attempts.segments(recording) == list(range(BAD + 2, SEGMENTS))
    assert attempts.content(resumed.file.key) == attempts.content(whole.file.key)
    assert sorted(await files_in(attempts.scratch)) == sorted([whole.file.key, resumed.file.key])


async def test_a_resumed_stream_that_fails_for_good_leaves_nothing(
    attempts: Attempts, simulator: PanoptoSimulator, long_mp4: Path
) -> None:
    recording = streamed(simulator, long_mp4)
    async with attempts.overtaken_stream(recording):
        pass

    class Ending(Reports):
        async def __call__(self, progress: Progress) -> None:
            recording.faults.media_status = 404

    attempts.reports = Ending()
    with pytest.raises(IngestFailed) as failure:
        await attempts.stream(recording)
    assert not failure.value.transient
    assert await files_in(attempts.scratch) == []
