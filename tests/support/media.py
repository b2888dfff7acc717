"""Small real recordings, made on the spot."""

import array
import itertools
import math
from collections.abc import Iterator
from fractions import Fraction
from pathlib import Path

import av

RATE = 44_100


def tone(seconds: float, *, rate: int = RATE, channels: int = 2) -> Iterator[av.AudioFrame]:
    """Yield frames of a sine tone of 300 Hz in the first second, 400 Hz in the next, and on."""
    total, done = round(seconds * rate), 0
    while done < total:
        count = min(1024, total - done)
        samples = array.array("h")
        for index in range(done, done + count):
            hertz = 300 + 100 * (index // rate)
            level = round(12_000 * math.sin(2 * math.pi * hertz * index / rate))
            samples.extend([level] * channels)
        frame = av.AudioFrame("s16", "stereo" if channels == 2 else "mono", count)
        frame.planes[0].update(samples.tobytes())
        frame.sample_rate, frame.pts, frame.time_base = rate, done, Fraction(1, rate)
        yield frame
        done += count


def write_audio(
    path: Path,
    seconds: float,
    *,
    codec: str = "aac",
    container: str | None = None,
    rate: int = RATE,
    channels: int = 2,
    options: dict[str, str] | None = None,
    first_seconds: float = 0.0,
) -> Path:
    """Write a tone alone; ``first_seconds`` is the timestamp at which it begins."""
    with av.open(str(path), "w", format=container, options=options or {}) as output:
        stream = output.add_stream(codec, rate=rate)
        stream.layout = "stereo" if channels == 2 else "mono"
        _encode(output, stream, tone(seconds, rate=rate, channels=channels), first_seconds)
    return path


def write_video(
    path: Path,
    seconds: float,
    *,
    audio: str | None = "aac",
    audio_seconds: float | None = None,
    video: str = "libx264",
    container: str | None = None,
    options: dict[str, str] | None = None,
) -> Path:
    """Write a small moving picture, interleaved with a tone unless ``audio`` is None."""
    with av.open(str(path), "w", format=container, options=options or {}) as output:
        picture = output.add_stream(video, rate=5)
        picture.width, picture.height, picture.pix_fmt = 64, 48, "yuv420p"
        picture.bit_rate = 50_000
        sound = None
        frames: Iterator[av.AudioFrame] = iter(())
        if audio:
            sound = output.add_stream(audio, rate=48_000 if audio == "libopus" else RATE)
            frames = tone(audio_seconds or seconds, rate=sound.rate)
        for number in range(round(seconds * 5)):
            output.mux(picture.encode(_picture(number)))
            for frame in frames:
                output.mux(sound.encode(frame))
                if frame.pts * frame.time_base > number / 5:
                    break
        for frame in frames:
            output.mux(sound.encode(frame))
        for stream in filter(None, (picture, sound)):
            output.mux(stream.encode(None))
    return path


def write_silence(path: Path, seconds: int) -> Path:
    """Write uncompressed silence: quick to make, and slow to encode where it is long."""
    with av.open(str(path), "w") as output:
        stream = output.add_stream("pcm_s16le", rate=48_000)
        stream.layout = "mono"
        frame = av.AudioFrame("s16", "mono", 48_000)
        frame.planes[0].update(bytes(frame.planes[0].buffer_size))
        frame.sample_rate, frame.time_base = 48_000, Fraction(1, 48_000)
        for second in range(seconds):
            frame.pts = second * 48_000
            output.mux(stream.encode(frame))
    return path


def write_marked(path: Path, seconds: float, marks: list[float]) -> Path:
    """Write a small moving picture, a key frame each 2 s, and silence with a beep at each mark."""
    rate, length = 48_000, round(seconds * 48_000)
    beep = array.array("f", (0.5 * math.sin(2 * math.pi * at / 48) for at in range(rate // 4)))
    sound = array.array("f", bytes(4 * length))
    for mark in marks:
        sound[round(mark * rate) : round(mark * rate) + len(beep)] = beep
    with av.open(str(path), "w") as output:
        picture = output.add_stream("libx264", rate=5, options={"g": "10", "bf": "0"})
        picture.width, picture.height, picture.pix_fmt = 64, 48, "yuv420p"
        voice = output.add_stream("aac", rate=rate)
        voice.layout, done = "mono", 0
        for number in range(round(seconds * 5)):
            output.mux(picture.encode(_picture(number)))
            while done < min(length, (number + 1) * rate // 5):
                frame = av.AudioFrame("fltp", "mono", min(1024, length - done))
                frame.planes[0].update(sound[done : done + frame.samples].tobytes())
                frame.sample_rate, frame.pts, frame.time_base = rate, done, Fraction(1, rate)
                output.mux(voice.encode(frame))
                done += frame.samples
        for stream in (picture, voice):
            output.mux(stream.encode(None))
    return path


def marks_of(path: Path) -> list[float]:
    """Decode all samples, and return the seconds at which sound begins after a silence."""
    marks, silent, position = [], 8000, 0
    with av.open(str(path)) as source:
        resampler = av.AudioResampler("flt", "mono", 8000)
        for frame in source.decode(audio=0):
            for part in resampler.resample(frame):
                levels = array.array("f", bytes(part.planes[0])[: part.samples * 4])
                loud = [at for at, level in enumerate(levels) if abs(level) > 0.1]
                if loud and silent + loud[0] > 800:
                    marks.append((position + loud[0]) / 8000)
                silent = len(levels) - loud[-1] if loud else silent + len(levels)
                position += len(levels)
    return marks


def duration_of(path: Path) -> float:
    """Decode the whole audio of a file and return its length in seconds."""
    with av.open(str(path)) as source:
        return sum(frame.samples / frame.sample_rate for frame in source.decode(audio=0))


def hertz_of(path: Path, at_seconds: float) -> float:
    """Decode and return the pitch heard around a point, by its zero crossings in 0.2 s."""
    samples = array.array("f")
    with av.open(str(path)) as source:
        resampler = av.AudioResampler("flt", "mono", 8000)
        for frame in source.decode(audio=0):
            for part in resampler.resample(frame):
                samples.frombytes(bytes(part.planes[0])[: part.samples * 4])
    heard = samples[round((at_seconds - 0.1) * 8000) : round((at_seconds + 0.1) * 8000)]
    return sum(a < 0 <= b for a, b in itertools.pairwise(heard)) / 0.2


def _picture(number: int) -> av.VideoFrame:
    frame = av.VideoFrame(64, 48, "yuv420p")
    for plane in frame.planes:
        plane.update(bytes([(number * 7) % 256]) * plane.buffer_size)
    frame.pts, frame.time_base = number, Fraction(1, 5)
    return frame


def _encode(
    output: av.container.OutputContainer,
    stream: av.AudioStream,
    frames: Iterator[av.AudioFrame],
    first_seconds: float,
) -> None:
    first = round(first_seconds * stream.rate)
    for frame in frames:
        frame.pts += first
        output.mux(stream.encode(frame))
    output.mux(stream.encode(None))
