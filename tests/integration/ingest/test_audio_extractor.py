"""From any recording to an m4a, and never further than the file itself."""

import asyncio
import os
import signal
import socket
from itertools import accumulate
from pathlib import Path

import av
import pytest

from app.domain import LectureFailure
from app.errors import IngestFailed, StorageFull
from app.ingest import extract as audio
from app.ingest.extract import PyAvAudioExtractor
from app.ingest.model import Edit, ExtractedAudio, RunStart
from tests.support.media import (
    RATE,
    duration_of,
    hertz_of,
    tone,
    write_audio,
    write_silence,
    write_video,
)
from tests.support.wait import wait_until


async def extract(source: Path, *edits: Edit, timeout_seconds: float = 30) -> ExtractedAudio:
    target = source.with_name("target.m4a")
    return await PyAvAudioExtractor().extract(
        source, target, edits, timeout_seconds=timeout_seconds
    )


async def refusal(source: Path, *edits: Edit, timeout_seconds: float = 30) -> IngestFailed:
    """Return why the extraction failed; nothing but the source may be left."""
    before = set(source.parent.iterdir())
    with pytest.raises(IngestFailed) as raised:
        await extract(source, *edits, timeout_seconds=timeout_seconds)
    assert set(source.parent.iterdir()) == before
    assert str(source.parent) not in raised.value.message
    return raised.value


def assert_is_m4a(made: ExtractedAudio, seconds: float, *, channels: int = 2) -> None:
    assert made.duration_seconds == pytest.approx(seconds, abs=0.06)
    assert made.size_bytes == made.path.stat().st_size
    head = made.path.read_bytes()[:4096]
    assert head[4:12] == b"ftypM4A "
    assert b"moov" in head
    with av.open(str(made.path)) as result:
        assert [stream.type for stream in result.streams] == ["audio"]
        assert result.streams.audio[0].codec_context.name == "aac"
        assert result.streams.audio[0].codec_context.channels == channels
        assert result.start_time == 0
        assert result.duration / av.time_base == pytest.approx(made.duration_seconds, abs=0.03)
    assert duration_of(made.path) == pytest.approx(seconds, abs=0.08)


def aac_packets(path: Path) -> list[bytes]:
    with av.open(str(path)) as source:
        return [bytes(packet) for packet in source.demux(audio=0) if packet.size]


@pytest.mark.parametrize("options", [{}, {"movflags": "+faststart"}])
async def test_aac_of_an_mp4_is_copied(tmp_path: Path, options: dict[str, str]) -> None:
    source = write_video(tmp_path / "in.mp4", 3, options=options)
    made = await extract(source)
    assert_is_m4a(made, 3)
    assert aac_packets(made.path) == aac_packets(source)


@pytest.mark.parametrize(
    ("name", "container"), [("in.ts", "mpegts"), ("in.aac", "adts"), ("in.mkv", "matroska")]
)
async def test_aac_of_other_containers_is_copied(tmp_path: Path, name: str, container: str) -> None:
    source = write_audio(tmp_path / name, 3, container=container)
    made = await extract(source)
    assert_is_m4a(made, 3)
    assert len(aac_packets(made.path)) == len(aac_packets(source))
    assert hertz_of(made.path, 2.5) == pytest.approx(500, abs=15)


async def test_video_in_mpeg_ts(tmp_path: Path) -> None:
    made = await extract(write_video(tmp_path / "in.ts", 3, container="mpegts"))
    assert_is_m4a(made, 3)


@pytest.mark.parametrize(
    ("name", "codec", "rate", "channels"),
    [
        ("in.mp3", "libmp3lame", 44_100, 2),
        ("in.mp3", "libmp3lame", 16_000, 1),
        ("in.webm", "libopus", 48_000, 2),
        ("in.mkv", "pcm_s16le", 96_000, 1),
        ("in.mkv", "flac", 44_100, 2),
        ("in.wav", "pcm_s16le", 44_100, 2),
        ("in.wav", "pcm_f32le", 8_000, 1),
        ("in.flac", "flac", 44_100, 2),
        ("in.ogg", "libopus", 48_000, 2),
        ("in.oga", "flac", 44_100, 1),
        ("in.opus", "libopus", 48_000, 1),
        ("in.weba", "libopus", 48_000, 2),
        ("in.mka", "libopus", 48_000, 2),
        ("in.mov", "pcm_s16le", 44_100, 2),
        ("in.m4a", "alac", 44_100, 2),
        ("in.ac3", "ac3", 48_000, 2),
        ("in.eac3", "eac3", 48_000, 2),
        ("in.ts", "mp2", 48_000, 2),
        ("in.ts", "ac3", 48_000, 2),
        ("in.ts", "eac3", 48_000, 2),
        ("in.ts", "libopus", 48_000, 2),
    ],
)
async def test_all_else_is_encoded(
    tmp_path: Path, name: str, codec: str, rate: int, channels: int
) -> None:
    container = {"weba": "webm", "mka": "matroska", "ts": "mpegts"}.get(name[3:])
    source = write_audio(
        tmp_path / name, 3, codec=codec, container=container, rate=rate, channels=channels
    )
    made = await extract(source)
    assert_is_m4a(made, 3, channels=channels)
    assert hertz_of(made.path, 0.5) == pytest.approx(300, abs=15)
    assert hertz_of(made.path, 2.5) == pytest.approx(500, abs=15)


async def test_webm_with_video(tmp_path: Path) -> None:
    source = write_video(tmp_path / "in.webm", 3, audio="libopus", video="libvpx", container="webm")
    assert_is_m4a(await extract(source), 3)


@pytest.mark.parametrize(("name", "codec"), [("in.mp4", "aac"), ("in.webm", "libopus")])
async def test_edits_are_cut_and_joined(tmp_path: Path, name: str, codec: str) -> None:
    source = write_audio(
        tmp_path / name, 5, codec=codec, rate=48_000 if codec == "libopus" else RATE
    )
    made = await extract(source, Edit(3, 4.5), Edit(1, 2))
    assert_is_m4a(made, 2.5)
    assert hertz_of(made.path, 0.5) == pytest.approx(400, abs=15)
    assert hertz_of(made.path, 1.5) == pytest.approx(600, abs=15)
    assert hertz_of(made.path, 2.2) == pytest.approx(700, abs=15)


async def test_edits_count_from_the_recording_not_from_zero(tmp_path: Path) -> None:
    source = write_audio(tmp_path / "in.ts", 4, container="mpegts", first_seconds=100)
    made = await extract(source, Edit(1, 3))
    assert_is_m4a(made, 2)
    assert hertz_of(made.path, 0.5) == pytest.approx(400, abs=15)


async def test_audio_that_begins_late_begins_at_zero(tmp_path: Path) -> None:
    source = write_audio(tmp_path / "in.ts", 2, container="mpegts", first_seconds=60)
    assert_is_m4a(await extract(source), 2)


@pytest.mark.parametrize("name", ["in.mp4", "in.mkv", "in.ts"])
@pytest.mark.parametrize(("late_seconds", "heard_seconds"), [(0.2, 0.0), (1.5, 1.5)])
async def test_sound_that_begins_after_the_pictures_is_silent_before(
    tmp_path: Path, name: str, late_seconds: float, heard_seconds: float
) -> None:
    source = tmp_path / name
    with (
        av.open(str(write_video(tmp_path / "both.mp4", 3))) as given,
        av.open(str(source), "w", "mpegts" if name == "in.ts" else None) as target,
    ):
        streams = {each.index: target.add_stream_from_template(each) for each in given.streams}
        for packet in given.demux():
            if packet.dts is None:
                continue
            shift = late_seconds if packet.stream.type == "audio" else 0
            packet.pts += round(shift / packet.time_base)
            packet.dts += round(shift / packet.time_base)
            packet.stream = streams[packet.stream.index]
            target.mux(packet)
    made = await extract(source)
    assert made.duration_seconds == pytest.approx(3 + heard_seconds, abs=0.1)
    assert hertz_of(made.path, heard_seconds + 2.5) == pytest.approx(500, abs=15)


async def test_a_recording_that_says_nothing_of_its_length(tmp_path: Path) -> None:
    """A stream as a recorder leaves it that could not go back to the header."""
    source = write_audio(tmp_path / "in.wav", 3, codec="pcm_s16le")
    content = source.read_bytes()
    at = content.index(b"data") + 4
    source.write_bytes(content[:at] + b"\xff" * 4 + content[at + 4 :])
    assert_is_m4a(await extract(source), 3)


async def test_a_clock_that_restarts(tmp_path: Path) -> None:
    """Two MPEG-TS pieces joined, as an HLS discontinuity leaves them."""
    first = write_audio(tmp_path / "1.ts", 2, container="mpegts", first_seconds=3000)
    second = write_audio(tmp_path / "2.ts", 2, container="mpegts", first_seconds=5)
    source = tmp_path / "in.ts"
    source.write_bytes(first.read_bytes() + second.read_bytes())
    made = await extract(source)
    assert made.duration_seconds == pytest.approx(4, abs=0.15)
    assert duration_of(made.path) == pytest.approx(4, abs=0.15)


async def test_a_mute_stretch_keeps_its_length(tmp_path: Path) -> None:
    source = tmp_path / "in.mkv"
    with av.open(str(source), "w") as output:
        stream = output.add_stream("pcm_s16le", rate=RATE)
        stream.layout = "stereo"
        for frame in tone(2):
            if frame.pts >= RATE:
                frame.pts += 3 * RATE
            output.mux(stream.encode(frame))
    made = await extract(source)
    assert_is_m4a(made, 5)
    assert hertz_of(made.path, 2.5) == 0
    assert hertz_of(made.path, 4.6) == pytest.approx(400, abs=15)


@pytest.mark.parametrize(("name", "container"), [("in.ts", "mpegts"), ("in.mkv", "matroska")])
@pytest.mark.parametrize("channels", [1, 2])
async def test_a_gap_between_copied_packets_is_silence(
    tmp_path: Path, name: str, container: str, channels: int
) -> None:
    source = tmp_path / name
    with av.open(str(source), "w", format=container) as output:
        stream = output.add_stream("aac", rate=RATE)
        stream.layout = "stereo" if channels == 2 else "mono"
        for frame in (*tone(2, channels=channels), None):
            for packet in stream.encode(frame):
                if packet.pts >= RATE:
                    packet.pts, packet.dts = packet.pts + 3 * RATE, packet.dts + 3 * RATE
                output.mux(packet)
    made = await extract(source)
    assert_is_m4a(made, 5, channels=channels)
    assert hertz_of(made.path, 2.5) == 0
    assert hertz_of(made.path, 4.6) == pytest.approx(400, abs=15)
    header = 7 if container == "mpegts" else 0
    copied = [packet[header:] for packet in aac_packets(source)]
    found = aac_packets(made.path)
    assert [packet for packet in found if packet in copied] == copied
    assert len(set(found) - set(copied)) == 1, "all else is one silent frame again and again"


async def test_runs_of_other_settings_are_one_sound(tmp_path: Path) -> None:
    pieces = [
        write_audio(tmp_path / "1.ts", 2, container="mpegts", first_seconds=3000),
        write_audio(tmp_path / "2.ts", 2, container="mpegts", rate=48_000, channels=1),
        write_audio(tmp_path / "3.mp4", 2, options={"movflags": "frag_keyframe+empty_moov"}),
    ]
    contents = [piece.read_bytes() for piece in pieces]
    source = tmp_path / "in.ts"
    source.write_bytes(b"".join(contents))
    ends = list(accumulate(map(len, contents)))
    runs = (RunStart(ends[0], 2.0), RunStart(ends[1], 7.0))
    target = tmp_path / "target.m4a"
    made = await PyAvAudioExtractor().extract(source, target, runs=runs, timeout_seconds=30)
    assert_is_m4a(made, 9)
    heard = [hertz_of(made.path, at) for at in (0.5, 1.5, 2.5, 3.5, 5.5, 7.5, 8.5)]
    assert heard == pytest.approx([300, 400, 300, 400, 0, 300, 400], abs=15)


@pytest.mark.parametrize("broken", [0, 1])
async def test_a_run_that_cannot_be_read_is_no_recording(tmp_path: Path, broken: int) -> None:
    whole = write_audio(tmp_path / "1.ts", 2, container="mpegts").read_bytes()
    contents = [whole, whole]
    contents[broken] = b"<html><body>Log in</body></html>" * 50
    source = tmp_path / "in.ts"
    source.write_bytes(b"".join(contents))
    target = tmp_path / "target.m4a"
    runs = (RunStart(len(contents[0]), 2.0),)
    with pytest.raises(IngestFailed) as raised:
        await PyAvAudioExtractor().extract(source, target, runs=runs, timeout_seconds=30)
    assert raised.value.failure is LectureFailure.NO_AUDIO
    assert not target.exists()


async def test_a_layout_that_changes_midway(tmp_path: Path) -> None:
    pieces = [
        write_audio(tmp_path / f"{n}.mp3", 1, codec="libmp3lame", channels=n, rate=rate)
        for n, rate in ((1, 44_100), (2, 48_000))
    ]
    source = tmp_path / "in.mp3"
    source.write_bytes(b"".join(piece.read_bytes() for piece in pieces))
    made = await extract(source)
    assert made.duration_seconds == pytest.approx(2, abs=0.2)
    assert duration_of(made.path) == pytest.approx(2, abs=0.2)


async def test_damage_costs_little_more_than_itself(tmp_path: Path) -> None:
    """A header that cannot be moved into an m4a: the rest is saved by encoding it."""
    source = write_audio(tmp_path / "in.aac", 6, container="adts")
    content = bytearray(source.read_bytes())
    header = content.index(b"\xff\xf1", len(content) // 2)
    content[header + 2 : header + 4] = b"\xff\xff"
    source.write_bytes(content)
    made = await extract(source)
    # The damaged header claims the next eight kilobytes too.
    assert made.duration_seconds == pytest.approx(6, abs=0.7)
    assert duration_of(made.path) == pytest.approx(made.duration_seconds, abs=0.1)


async def test_the_default_track_is_taken(tmp_path: Path) -> None:
    source = tmp_path / "in.mkv"
    with av.open(str(source), "w") as output:
        streams = [output.add_stream("aac", rate=RATE) for _ in range(2)]
        streams[1].disposition = av.stream.Disposition.default
        for stream, seconds in zip(streams, (1, 3), strict=True):
            for frame in tone(seconds):
                output.mux(stream.encode(frame))
            output.mux(stream.encode(None))
    assert_is_m4a(await extract(source), 3)


@pytest.mark.parametrize(
    ("container", "codec", "first_seconds"),
    [("matroska", "flac", 0), ("mpegts", "mp2", 0), ("mpegts", "aac", 0), ("mpegts", "aac", 9000)],
)
async def test_a_silent_first_track_is_passed_over(
    tmp_path: Path, container: str, codec: str, first_seconds: int
) -> None:
    """Wherever its clock begins; nothing of the one with sound is lost by listening first."""
    source = tmp_path / "in"
    with av.open(str(source), "w", format=container) as output:
        streams = [output.add_stream(codec, rate=RATE, layout="stereo") for _ in range(2)]
        for sound in tone(4):
            silence = av.AudioFrame(sound.format.name, sound.layout.name, sound.samples)
            for plane in silence.planes:
                plane.update(bytes(plane.buffer_size))
            silence.sample_rate = sound.sample_rate
            at = sound.pts + first_seconds * RATE
            for stream, frame in zip(streams, (silence, sound), strict=True):
                frame.pts, frame.time_base = at, sound.time_base
                output.mux(stream.encode(frame))
        for stream in streams:
            output.mux(stream.encode(None))
    made = await extract(source)
    assert_is_m4a(made, 4)
    with av.open(str(made.path)) as result:
        levels = [abs(frame.to_ndarray()).max() for frame in result.decode(audio=0)]
    assert min(levels[3:-3]) > 0.01


async def test_no_audio(tmp_path: Path) -> None:
    silent = write_video(tmp_path / "silent.mp4", 1, audio=None)
    assert (await refusal(silent)).failure is LectureFailure.NO_AUDIO


@pytest.mark.parametrize(
    "content",
    [b"", b"\0" * 10_000, b"<html><body>Log in</body></html>", os.urandom(100_000)],
    ids=["empty", "zeros", "html", "noise"],
)
async def test_no_recording(tmp_path: Path, content: bytes) -> None:
    source = tmp_path / "in.mp4"
    source.write_bytes(content)
    error = await refusal(source)
    assert (error.failure, error.transient) == (LectureFailure.NO_AUDIO, False)


async def test_noise_in_an_audio_container(tmp_path: Path) -> None:
    """ADTS headers with rubbish behind them: nothing that can be decoded is no audio."""
    source = tmp_path / "in.aac"
    header = bytes([0xFF, 0xF1, 0x50, 0x80, 0x20, 0x1F, 0xFC])
    source.write_bytes((header + b"\xff" * 249) * 400)
    assert (await refusal(source)).failure is LectureFailure.NO_AUDIO


@pytest.mark.parametrize(
    ("name", "options"),
    [
        ("in.mp4", {}),
        ("in.mp4", {"movflags": "+faststart"}),
        ("in.mp4", {"movflags": "+frag_keyframe+empty_moov"}),
        ("in.mkv", {}),
    ],
)
async def test_what_was_cut_short(tmp_path: Path, name: str, options: dict[str, str]) -> None:
    source = write_video(tmp_path / name, 6, options=options)
    source.write_bytes(source.read_bytes()[: round(source.stat().st_size * 0.6)])
    assert (await refusal(source)).failure is LectureFailure.TRUNCATED


async def test_edits_beyond_the_end(tmp_path: Path) -> None:
    source = write_video(tmp_path / "in.mp4", 3)
    error = await refusal(source, Edit(1, 60))
    assert error.failure is LectureFailure.TRUNCATED


async def test_audio_shorter_than_its_video_is_whole(tmp_path: Path) -> None:
    for name in ("in.mp4", "in.mkv"):
        source = write_video(tmp_path / name, 8, audio_seconds=4)
        assert_is_m4a(await extract(source), 4)


@pytest.mark.parametrize(
    "script",
    [
        "ffconcat version 1.0\nfile '{secret}'\n",
        "#EXTM3U\n#EXT-X-TARGETDURATION:9\n#EXTINF:9,\n{secret}\n#EXT-X-ENDLIST\n",
        "#EXTM3U\n#EXT-X-TARGETDURATION:9\n#EXTINF:9,\n{url}\n#EXT-X-ENDLIST\n",
        "[playlist]\nFile1={url}\n",
        '<?xml version="1.0"?><MPD><Period><BaseURL>{url}</BaseURL></Period></MPD>',
    ],
)
async def test_scripts_are_not_followed(tmp_path: Path, script: str) -> None:
    secret = write_audio(tmp_path / "secret.mp4", 2)
    source = tmp_path / "in.mp4"
    with socket.create_server(("127.0.0.1", 0)) as inward:
        inward.setblocking(False)
        url = "http://127.0.0.1:{1}/x.ts".format(*inward.getsockname())
        source.write_text(script.format(secret=secret, url=url))
        assert (await refusal(source)).failure is LectureFailure.NO_AUDIO
        with pytest.raises(BlockingIOError):
            inward.accept()


async def test_a_name_that_looks_like_a_url(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_audio(tmp_path / "real.mp4", 1)
    monkeypatch.chdir(tmp_path)
    (tmp_path / "concat:real.mp4").write_bytes(b"")
    with pytest.raises(IngestFailed):
        await PyAvAudioExtractor().extract(
            Path("concat:real.mp4"), tmp_path / "target.m4a", timeout_seconds=10
        )
    made = await PyAvAudioExtractor().extract(
        Path("real.mp4"), Path("file:target.m4a"), timeout_seconds=10
    )
    assert made.duration_seconds == pytest.approx(1, abs=0.05)
    assert (tmp_path / "file:target.m4a").exists()


async def test_a_missing_source(tmp_path: Path) -> None:
    assert (await refusal(tmp_path / "missing.mp4")).failure is LectureFailure.INTERNAL


async def test_time_runs_out(tmp_path: Path) -> None:
    error = await refusal(write_silence(tmp_path / "in.mkv", 1800), timeout_seconds=0.5)
    assert error.failure is LectureFailure.TIMEOUT
    assert children() == []


async def test_a_cancellation_leaves_nothing(tmp_path: Path) -> None:
    source = write_silence(tmp_path / "in.mkv", 1800)
    target = tmp_path / "target.m4a"
    working = asyncio.create_task(extract(source))
    await wait_until(target.exists, "the child has begun to write")
    working.cancel()
    with pytest.raises(asyncio.CancelledError):
        await working
    assert list(tmp_path.iterdir()) == [source]
    assert children() == []


async def test_a_crash_is_that_lectures_failure(tmp_path: Path) -> None:
    source = write_silence(tmp_path / "in.mkv", 1800)
    working = asyncio.create_task(refusal(source))
    await wait_until((tmp_path / "target.m4a").exists, "the child has begun to write")
    for child in children():
        os.kill(child, signal.SIGSEGV)
    error = await working
    assert (error.failure, error.transient) == (LectureFailure.INTERNAL, False)


async def test_a_full_disk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(audio, "_FILE_BYTES", 16 * 1024)
    source = write_audio(tmp_path / "in.mp4", 6)
    with pytest.raises(StorageFull):
        await extract(source)
    assert list(tmp_path.iterdir()) == [source]


async def test_too_little_memory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(audio, "_MEMORY_BYTES", 64 * 1024 * 1024)
    source = write_audio(tmp_path / "in.mp4", 2)
    assert (await refusal(source)).failure is LectureFailure.INTERNAL


def children() -> list[int]:
    """Return the processes that this one has started and not yet buried."""
    listed = Path(f"/proc/self/task/{os.getpid()}/children").read_text()
    return [pid for pid in map(int, listed.split()) if is_media_child(pid)]


def is_media_child(pid: int) -> bool:
    return b"app.ingest.sandbox.child" in Path(f"/proc/{pid}/cmdline").read_bytes()
