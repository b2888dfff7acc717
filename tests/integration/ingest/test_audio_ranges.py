"""The audio of an MP4 alone, by Range, from a tenant behind a slow line."""

import asyncio
import struct
from pathlib import Path

import av
import pytest
from structlog.testing import capture_logs

from app.embedded.panopto import Link, PanoptoSimulator, Recording
from app.embedded.sample_media import make_lecture
from app.errors import IngestFailed
from app.ingest.extract import PyAvAudioExtractor
from app.ingest.fetch.downloader import MediaDownloader
from app.ingest.fetch.ranges.index import NoAudioIndex, read_audio_index
from app.ingest.fetch.ranges.plan import IN_FLIGHT
from app.ingest.model import Attempt, DownloadedSource, Edit, Progress, Tier
from app.ingest.sandbox.child import Refused
from app.ingest.sandbox.tasks import audio_index as audio_index_child
from app.storage.local import LocalStorage
from tests.support.loop import MOST_SECONDS, ticking
from tests.support.media import hertz_of
from tests.support.panopto import Reports, download_first, files_in, request_for
from tests.support.wait import wait_until

STEM = "audio/one_source.1"
SECONDS = 40


@pytest.fixture(autouse=True)
def _unhurried(monkeypatch: pytest.MonkeyPatch) -> None:
    """A machine that stalls makes a line look slow, and what has piled up meanwhile a fast one."""
    monkeypatch.setattr("app.ingest.fetch.ranges.audio._SECONDS_BEFORE_JUDGED", float("inf"))
    monkeypatch.setattr("app.ingest.fetch.ranges.audio._LEAST_WHOLE_SECONDS", 0.0)


@pytest.fixture(scope="module")
def slow_mp4(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """40 s and 8 MB, picture and sound by turns of a second, as tenants make them."""
    path = tmp_path_factory.mktemp("media") / "lecture.mp4"
    return make_lecture(path, SECONDS, size_bytes=8_000_000, chunk_seconds=1)


class Ranges:
    """Downloads over a line of 3 MB/s and 20 ms round trips, with what was logged and reported."""

    def __init__(
        self, downloader: MediaDownloader, scratch: LocalStorage, simulator: PanoptoSimulator
    ) -> None:
        self.downloader, self.scratch, self.simulator = downloader, scratch, simulator
        self.reports = Reports()
        self.refused: list[str] = []

    def recording(self, media: Path, **more: object) -> Recording:
        link = Link(bytes_per_second=3_000_000, round_trip_seconds=0.02)
        made = Recording(media, offers=("mp4",), link=link, **more)  # type: ignore[arg-type]
        return self.simulator.add(made)

    async def get(self, recording: Recording) -> DownloadedSource:
        lecture = await self.downloader.resolve(request_for(self.simulator, recording))
        with capture_logs() as logs:
            source = await download_first(
                self.downloader, lecture, Attempt(self.scratch, STEM, self.reports)
            )
        self.refused = [log["reason"] for log in logs if log["event"] == "audio_ranges_refused"]
        (fetched,) = (log for log in logs if log["event"] == "medium_fetched")
        assert (fetched["tier"], fetched["fetched_bytes"]) == (source.tier, source.fetched_bytes)
        assert await files_in(self.scratch) == [source.key]
        return source

    async def extract(self, source: DownloadedSource, target: Path) -> float:
        audio = await PyAvAudioExtractor().extract(
            self.scratch.path_of(source.key), target, source.edits, timeout_seconds=30
        )
        return audio.duration_seconds

    def sent_bytes(self, recording: Recording) -> int:
        return sum(each.sent_bytes for each in self.simulator.media_requests(recording))


@pytest.fixture
def ranges(
    downloader: MediaDownloader, scratch: LocalStorage, simulator: PanoptoSimulator
) -> Ranges:
    return Ranges(downloader, scratch, simulator)


def packets(path: Path) -> list[bytes]:
    with av.open(str(path)) as source:
        return [bytes(packet) for packet in source.demux(audio=0) if packet.size]


@pytest.mark.parametrize("faststart", [True, False])
async def test_the_audio_alone_is_fetched_wherever_the_index_stands(
    ranges: Ranges, tmp_path: Path, faststart: bool
) -> None:
    media = make_lecture(
        tmp_path / "a.mp4", SECONDS, size_bytes=8_000_000, chunk_seconds=1, faststart=faststart
    )
    recording = ranges.recording(media)
    source = await ranges.get(recording)
    assert (source.tier, ranges.refused) == (Tier.AUDIO_RANGES, [])
    assert packets(ranges.scratch.path_of(source.key)) == packets(media)
    audio_bytes = sum(map(len, packets(media)))
    # Besides the samples: the first 512 KiB, whole, where the index may be.
    assert ranges.sent_bytes(recording) == source.fetched_bytes
    assert source.fetched_bytes < 1.3 * audio_bytes + 512 * 1024 + 64 * 1024
    assert await ranges.extract(source, tmp_path / "a.m4a") == pytest.approx(SECONDS, abs=0.05)


async def test_progress_is_told_in_the_bytes_that_are_planned(
    ranges: Ranges, slow_mp4: Path
) -> None:
    source = await ranges.get(ranges.recording(slow_mp4))
    last: Progress = ranges.reports.all[-1]
    assert last.downloaded_bytes == last.total_bytes == source.fetched_bytes
    # Until there is a plan, the whole file's size stands for it.
    unplanned = {slow_mp4.stat().st_size}
    assert {each.total_bytes for each in ranges.reports.all} - unplanned == {last.total_bytes}


async def test_an_edit_is_cut_to_the_same_samples(
    ranges: Ranges, slow_mp4: Path, tmp_path: Path
) -> None:
    source = await ranges.get(ranges.recording(slow_mp4, edits=((5.0, 12.0), (20.0, 29.5))))
    assert source.tier is Tier.AUDIO_RANGES
    assert source.edits == (Edit(5, 12), Edit(20, 29.5))
    target = tmp_path / "a.m4a"
    assert await ranges.extract(source, target) == pytest.approx(16.5, abs=0.05)
    # The tone is 110 Hz higher with each second of the raw stream, eight in turn, from 440 Hz.
    for at_seconds, raw_second in ((0.5, 5), (6.5, 11), (7.5, 20), (15.5, 28)):
        assert hertz_of(target, at_seconds) == pytest.approx(440 + 110 * (raw_second % 8), abs=15)


@pytest.mark.parametrize(
    ("fault", "value", "reason"),
    [
        ("no_range", True, "no_ranges"),
        ("etag_changes", True, "source_changed"),
    ],
)
async def test_what_ranges_cannot_do_the_whole_file_does(
    ranges: Ranges, slow_mp4: Path, fault: str, value: object, reason: str
) -> None:
    recording = ranges.recording(slow_mp4)
    setattr(recording.faults, fault, value)
    source = await ranges.get(recording)
    assert (source.tier, ranges.refused) == (Tier.WHOLE_FILE, [reason])
    assert ranges.scratch.path_of(source.key).read_bytes() == slow_mp4.read_bytes()


async def test_small_gaps_make_the_whole_file_the_cheaper_way(
    ranges: Ranges, tmp_path: Path
) -> None:
    media = make_lecture(tmp_path / "a.mp4", SECONDS, size_bytes=4_000_000)
    recording = ranges.recording(media)
    # Turns of 0.2 s: a gap of 20 kB flows by faster than a request of its own takes.
    recording.link = Link(bytes_per_second=3_000_000, round_trip_seconds=0.5)
    source = await ranges.get(recording)
    assert (source.tier, ranges.refused) == (Tier.WHOLE_FILE, ["no_faster"])
    assert ranges.scratch.path_of(source.key).read_bytes() == media.read_bytes()
    # What was read of the beginning is not asked for again.
    assert ranges.sent_bytes(recording) == media.stat().st_size


async def test_a_fragmented_file_is_fetched_whole(ranges: Ranges, tmp_path: Path) -> None:
    media = make_lecture(tmp_path / "a.mp4", SECONDS, size_bytes=8_000_000, fragmented=True)
    source = await ranges.get(ranges.recording(media))
    assert (source.tier, ranges.refused) == (Tier.WHOLE_FILE, ["fragmented"])


async def test_parts_that_fail_are_asked_for_again(ranges: Ranges, slow_mp4: Path) -> None:
    recording = ranges.recording(slow_mp4)
    recording.faults.cut_after_bytes, recording.faults.cut_times = 5000, 2
    source = await ranges.get(recording)
    assert source.tier in (Tier.AUDIO_RANGES, Tier.WHOLE_FILE)
    wanted = packets(slow_mp4)
    assert packets(ranges.scratch.path_of(source.key)) == wanted


@pytest.mark.parametrize("fault", ["busy", "cut"])
async def test_a_source_in_trouble_is_not_asked_for_each_part_again_and_again(
    ranges: Ranges, slow_mp4: Path, fault: str
) -> None:
    recording = ranges.recording(slow_mp4)
    getting = asyncio.create_task(ranges.get(recording))

    def asked() -> int:
        return len(ranges.simulator.media_requests(recording))

    await wait_until(lambda: asked() > 2, "parts are asked for", poll_seconds=0.001)
    if fault == "busy":
        recording.faults.media_status = 503
    else:
        recording.faults.cut_after_bytes, recording.faults.cut_times = 100, None
    before = asked()
    with pytest.raises(IngestFailed) as failure:
        await getting
    assert failure.value.transient
    assert asked() - before < 1.5 * IN_FLIGHT


async def test_a_source_that_changes_meanwhile_is_begun_anew(
    ranges: Ranges, slow_mp4: Path
) -> None:
    recording = ranges.recording(slow_mp4)

    class Changing(Reports):
        async def __call__(self, progress: Progress) -> None:
            if not self.all:
                recording.version += 1
            self.all.append(progress)

    ranges.reports = Changing()
    source = await ranges.get(recording)
    assert (source.tier, ranges.refused) == (Tier.WHOLE_FILE, ["source_changed"])
    assert ranges.scratch.path_of(source.key).read_bytes() == slow_mp4.read_bytes()


async def test_the_audio_podcast_comes_first_and_for_the_cookie_alone(
    ranges: Ranges, slow_mp4: Path
) -> None:
    recording = ranges.recording(slow_mp4, audio_podcast=True)
    source = await ranges.get(recording)
    assert source.tier is Tier.AUDIO_PODCAST
    assert source.size_bytes < slow_mp4.stat().st_size / 5
    assert packets(ranges.scratch.path_of(source.key)) == packets(slow_mp4)


def index_of(path: Path) -> bytes:
    content = path.read_bytes()
    at = content.index(b"moov") - 4
    return content[at : at + int.from_bytes(content[at : at + 4], "big")]


async def test_an_index_of_64_bit_offsets_is_read_as_well(slow_mp4: Path, tmp_path: Path) -> None:
    size_bytes = slow_mp4.stat().st_size
    index = await read_audio_index(index_of(slow_mp4), size_bytes)
    content = slow_mp4.read_bytes()
    alone = tmp_path / "alone.mp4"
    alone.write_bytes(
        index.header + b"".join(content[span.start : span.end] for span in index.spans)
    )
    assert b"co64" in index.header
    again = await read_audio_index(index_of(alone), alone.stat().st_size)
    (span,) = again.spans
    assert (span.length, span.end) == (index.audio_bytes, alone.stat().st_size)
    assert packets(alone) == packets(slow_mp4)


async def test_no_index_of_a_stranger_leads_astray(slow_mp4: Path) -> None:
    moov, size_bytes = index_of(slow_mp4), slow_mp4.stat().st_size
    with pytest.raises(NoAudioIndex):
        await read_audio_index(moov, size_bytes // 2)
    for position in range(8, len(moov), 97):
        broken = bytearray(moov)
        broken[position] ^= 0xFF
        arguments = {"content": bytes(broken), "size_bytes": size_bytes}
        try:
            spans = audio_index_child.run(arguments)["spans"]
        except (Refused, ValueError, LookupError, StopIteration, struct.error):
            continue  # In its child, each of them is an answer.
        assert all(0 <= start < start + length <= size_bytes for start, length in spans)


def scattered(chunks: int, size_bytes: int) -> bytes:
    """Return an MP4 whose sound lies in so many chunks of one byte, none beside another."""

    def box(kind: bytes, *parts: bytes) -> bytes:
        body = b"".join(parts)
        return struct.pack(">I4s", 8 + len(body), kind) + body

    moov_bytes = 4 * chunks + 1000
    gap = (size_bytes - moov_bytes) // chunks
    offsets = (moov_bytes + gap * chunk for chunk in range(chunks))
    stbl = box(
        b"stbl",
        box(b"stsd", struct.pack(">II", 0, 1), box(b"mp4a", bytes(28))),
        box(b"stsc", struct.pack(">IIIII", 0, 1, 1, 1, 1)),
        box(b"stsz", struct.pack(">III", 0, 1, chunks)),
        box(b"stco", struct.pack(f">II{chunks}I", 0, chunks, *offsets)),
    )
    places = box(b"dinf", box(b"dref", struct.pack(">II", 0, 1), box(b"url ", b"\0\0\0\1")))
    handler = box(b"hdlr", bytes(8), b"soun", bytes(12))
    media = box(b"mdia", handler, box(b"minf", places, stbl))
    track = box(b"trak", box(b"tkhd", b"\0\0\0\1", bytes(80)), media)
    head = box(b"ftyp", b"isom", bytes(4)) + box(b"moov", box(b"mvhd", bytes(100)), track)
    return (
        head
        + struct.pack(">I4s", size_bytes - len(head), b"mdat")
        + bytes(size_bytes - len(head) - 8)
    )


@pytest.mark.parametrize(("chunks", "refused"), [(50_000, []), (500_000, ["scattered"])])
async def test_a_crafted_index_holds_nobody_else_up(
    ranges: Ranges, tmp_path: Path, chunks: int, refused: list[str]
) -> None:
    media = tmp_path / "scattered.mp4"
    media.write_bytes(scattered(chunks, size_bytes=8_000_000))
    async with ticking() as ticks:
        await ranges.get(ranges.recording(media))
    assert [each for each in ranges.refused if each != "no_faster"] == refused
    assert ticks.longest_seconds < MOST_SECONDS


async def test_empty_boxes_are_not_counted_for_long(
    ranges: Ranges, slow_mp4: Path, tmp_path: Path
) -> None:
    media = tmp_path / "boxes.mp4"
    media.write_bytes(struct.pack(">I4s", 8, b"free") * 60_000 + slow_mp4.read_bytes())
    async with ticking() as ticks:
        await ranges.get(ranges.recording(media))
    assert ranges.refused == ["no_index"]
    assert ticks.longest_seconds < MOST_SECONDS


async def test_a_recording_without_sound_has_no_audio_index(silent_mp4: Path) -> None:
    with pytest.raises(NoAudioIndex) as refusal:
        await read_audio_index(index_of(silent_mp4), silent_mp4.stat().st_size)
    assert refusal.value.reason == "no_audio_track"
