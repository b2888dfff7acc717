"""Real lectures made on the spot: H.264 and AAC whose tone tells the second that it belongs to.

Twenty-four seconds are encoded once per process; every length and size is those packets again with
later timestamps, so that an hour of 100 MB takes about two seconds.
"""

import array
import io
import math
from collections.abc import Iterator
from dataclasses import dataclass
from fractions import Fraction
from functools import lru_cache
from heapq import merge
from pathlib import Path
from typing import Any

import av

AUDIO_BIT_RATE = 64_000
_SAMPLE_RATE = 48_000
_AAC_FRAME = 1024
_FRAMES_PER_SECOND = 5
_LOOP_SECONDS = 24  # whole AAC frames, whole pictures, and whole rounds of tones
_TONES = 8
_WIDTH, _HEIGHT = 320, 180
_FILLER_NAL = 12


@dataclass(frozen=True, slots=True)
class _Sample:
    """A packet that plays in any round of the loop."""

    kind: str
    content: bytes
    is_key: bool


def make_lecture(
    path: Path,
    duration_seconds: float = 60,
    *,
    size_bytes: int = 0,
    audio: bool = True,
    video: bool = True,
    faststart: bool = True,
    chunk_seconds: float = 0,
    fragmented: bool = False,
    audio_bit_rate: int = AUDIO_BIT_RATE,
) -> Path:
    """Write an MP4 with the tracks asked for, of at least ``size_bytes``, and return its path.

    Pictures and sound take turns with every picture, or each ``chunk_seconds``; the sound has about
    ``audio_bit_rate`` bits per second.

    Its tracks end within an AAC frame (21 ms) and a picture (200 ms) of the duration.
    """
    kinds = [kind for kind, wanted in (("audio", audio), ("video", video)) if wanted]
    pictures = math.ceil(duration_seconds * _FRAMES_PER_SECOND)
    filler = _filler(math.ceil(size_bytes / pictures)) if size_bytes else b""
    options = {"movflags": "+faststart"} if faststart else {}
    if fragmented:
        options = {"movflags": "frag_keyframe+empty_moov"}
    if chunk_seconds:
        options["chunk_duration"] = str(round(chunk_seconds * 1_000_000))
    with (
        av.open(io.BytesIO(_loop_file(audio_bit_rate))) as source,
        av.open(str(path), "w", format="mp4", options=options) as target,
    ):
        streams = {
            kind: target.add_stream_from_template(getattr(source.streams, kind)[0])
            for kind in kinds
        }
        for number, sample in _rounds(kinds, duration_seconds, audio_bit_rate):
            extra = filler if sample.kind == "video" else b""
            target.mux(_packet(sample, number, streams[sample.kind], extra))
    return path


def make_long_lecture(
    path: Path, duration_seconds: float = 3600, size_bytes: int = 105_000_000
) -> Path:
    """Write a lecture of an hour and more than 100 MB, and return its path."""
    return make_lecture(path, duration_seconds, size_bytes=size_bytes)


def make_audio(path: Path, duration_seconds: float = 10, codec: str = "libopus") -> Path:
    """Write sound alone, encoded anew (``libopus`` into .webm, ``libmp3lame`` into .mp3, …)."""
    with av.open(str(path), "w") as target:
        stream: Any = target.add_stream(codec, rate=_SAMPLE_RATE, layout="mono")
        for frame in _sound(duration_seconds):
            target.mux(stream.encode(frame))
        target.mux(stream.encode(None))
    return path


def make_spoken_lecture(path: Path, speech: Path) -> Path:
    """Write a lecture whose sound is that of the file, and return its path."""
    with (
        av.open(str(speech)) as source,
        av.open(str(path), "w", format="mp4", options={"movflags": "+faststart"}) as target,
    ):
        stream: Any = target.add_stream("aac", rate=_SAMPLE_RATE, layout="mono")
        stream.bit_rate = AUDIO_BIT_RATE
        video: Any = target.add_stream("libx264", rate=_FRAMES_PER_SECOND)
        video.width, video.height, video.pix_fmt = _WIDTH, _HEIGHT, "yuv420p"
        video.options = {"preset": "ultrafast", "crf": "40"}
        resampler = av.AudioResampler("fltp", "mono", _SAMPLE_RATE)
        frames = (out for frame in source.decode(audio=0) for out in resampler.resample(frame))
        sound = (packet for frame in frames for packet in stream.encode(frame))
        seconds = math.ceil(media_duration_seconds(speech))
        pictures = (packet for each in _pictures(seconds) for packet in video.encode(each))
        for packet in merge(sound, pictures, key=lambda each: each.pts * each.time_base):
            target.mux(packet)
        for each in (stream, video):
            target.mux(each.encode(None))
    return path


def make_truncated(path: Path, source: Path, ratio: float = 0.6) -> Path:
    """Write the first part of the source's bytes, and return its path."""
    content = source.read_bytes()
    path.write_bytes(content[: int(len(content) * ratio)])
    return path


def make_text(path: Path) -> Path:
    """Write a text file, whatever the name says, and return its path."""
    path.write_text("This is no recording.\n" * 100)
    return path


def media_duration_seconds(path: Path) -> float:
    """Return how long the file's container says that it lasts."""
    with av.open(str(path)) as container:
        return float(container.duration or 0) / av.time_base


def _rounds(
    kinds: list[str], duration_seconds: float, audio_bit_rate: int
) -> Iterator[tuple[int, _Sample]]:
    """Yield the packets of the whole lecture in order, each with its number in its track."""
    loop = _loop_samples(audio_bit_rate)

    def track(kind: str) -> Iterator[tuple[int, _Sample]]:
        samples = [sample for sample in loop if sample.kind == kind]
        for number in range(round(duration_seconds / _step(kind))):
            yield number, samples[number % len(samples)]

    return merge(
        *(track(kind) for kind in kinds),
        key=lambda item: item[0] * _step(item[1].kind),
    )


def _step(kind: str) -> Fraction:
    """Return how long one packet of the track lasts, in seconds."""
    return Fraction(_AAC_FRAME, _SAMPLE_RATE) if kind == "audio" else Fraction(1, 5)


def _packet(sample: _Sample, number: int, stream: Any, extra: bytes) -> Any:
    packet = av.Packet(sample.content + extra)
    packet.time_base = _step(sample.kind)
    packet.pts = packet.dts = number
    packet.duration = 1
    packet.is_keyframe = sample.is_key
    packet.stream = stream
    return packet


def _filler(size: int) -> bytes:
    """Return a NAL unit of filler data, length first: bytes that every decoder skips."""
    body = bytes([_FILLER_NAL]) + b"\xff" * max(size - 6, 1) + b"\x80"
    return len(body).to_bytes(4, "big") + body


@lru_cache(maxsize=2)
def _loop_samples(audio_bit_rate: int) -> list[_Sample]:
    """Return exactly one round of each track."""
    with av.open(io.BytesIO(_loop_file(audio_bit_rate)), "r") as source:
        samples = [
            _Sample(packet.stream.type, bytes(packet), packet.is_keyframe)
            for packet in source.demux()
            if packet.dts is not None and packet.pts is not None and packet.pts >= 0
        ]
    per_round = {"audio": _LOOP_SECONDS * _SAMPLE_RATE // _AAC_FRAME, "video": _LOOP_SECONDS * 5}
    return [
        sample
        for kind, count in per_round.items()
        for sample in [each for each in samples if each.kind == kind][:count]
    ]


@lru_cache(maxsize=2)
def _loop_file(audio_bit_rate: int) -> bytes:
    """Encode the pictures and the tones of one round, and a little more."""
    seconds = _LOOP_SECONDS + 1
    target = io.BytesIO()
    with av.open(target, "w", format="mp4") as container:
        video: Any = container.add_stream("libx264", rate=_FRAMES_PER_SECOND)
        video.width, video.height, video.pix_fmt = _WIDTH, _HEIGHT, "yuv420p"
        video.options = {"preset": "ultrafast", "tune": "zerolatency", "crf": "40", "g": "10"}
        sound: Any = container.add_stream("aac", rate=_SAMPLE_RATE, layout="mono")
        sound.bit_rate = audio_bit_rate
        for picture in _pictures(seconds):
            container.mux(video.encode(picture))
        for frame in _sound(seconds):
            container.mux(sound.encode(frame))
        container.mux(video.encode(None))
        container.mux(sound.encode(None))
    return target.getvalue()


def _pictures(seconds: int) -> Iterator[Any]:
    for number in range(seconds * _FRAMES_PER_SECOND):
        picture = av.VideoFrame(_WIDTH, _HEIGHT, "yuv420p")
        for plane, shade in zip(picture.planes, (40 + number * 7 % 170, 128, 128), strict=True):
            plane.update(bytes([shade]) * plane.buffer_size)
        picture.pts, picture.time_base = number, Fraction(1, _FRAMES_PER_SECOND)
        yield picture


def _sound(seconds: float) -> Iterator[Any]:
    """Yield frames of one second at most: the tone is 440 Hz and 110 Hz more for each of eight."""
    left = round(seconds * _SAMPLE_RATE)
    start = 0
    while left > 0:
        count = min(left, _SAMPLE_RATE)
        frame = av.AudioFrame("fltp", "mono", count)
        frame.planes[0].update(_tone(start // _SAMPLE_RATE % _TONES)[: count * 4])
        frame.sample_rate, frame.pts, frame.time_base = (
            _SAMPLE_RATE,
            start,
            Fraction(1, _SAMPLE_RATE),
        )
        yield frame
        start, left = start + count, left - count


@lru_cache(maxsize=_TONES)
def _tone(number: int) -> bytes:
    turn = 2 * math.pi * (440 + 110 * number) / _SAMPLE_RATE
    return array.array("f", (0.3 * math.sin(turn * at) for at in range(_SAMPLE_RATE))).tobytes()
