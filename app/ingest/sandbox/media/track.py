"""The audio stream of a media file, or of one run of it, as the media child reads it.

FFmpeg opens playlists and scripts whatever their name and follows them to files and hosts: the
formats and protocols below are all that it may use.
"""

from __future__ import annotations

import array
import io
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from typing import Any, cast

import av
from av.audio.stream import AudioStream
from av.container import InputContainer
from av.packet import Packet
from av.stream import Discard, Disposition

from app.ingest.boxes import HEADER_BYTES, box_at
from app.ingest.sandbox.child import Refused

INPUT = {
    "format_whitelist": "mov,mp4,m4a,3gp,3g2,mj2,matroska,webm,mpegts,mp3,aac,ac3,eac3"
    ",ogg,flac,wav",
    "protocol_whitelist": "file",
}
_CODECS = frozenset(
    {"aac", "aac_latm", "ac3", "alac", "eac3", "flac", "mp1", "mp1float", "mp2", "mp2float"}
    | {"mp3", "mp3float", "opus", "libopus", "vorbis", "libvorbis"}
)
"""Beside PCM, what is decoded: FFmpeg's names of decoders."""
_LISTENED_SECONDS = 120.0
_QUIET = 33  # Of 32,767.
_CLOCKS_RESTART = 0x0200  # FFmpeg's AVFMT_TS_DISCONT.
_LATE_SECONDS = 0.5
"""Sound that begins so long after the pictures has a silence before it."""
_LATEST_SECONDS = 3600.0
_MOST_BOXES = 10_000
_TOLERANCE = 0.005
_TOLERANCE_SECONDS = 1.0


@dataclass(frozen=True, slots=True)
class Run:
    """A stretch of a file with clocks and codec settings of its own.

    ``first`` and ``end`` are in bytes, None being the file's end; ``seconds`` is where the source
    puts its beginning, off by no more than ``slack_seconds``.
    """

    path: Path
    first: int
    end: int | None
    seconds: float
    slack_seconds: float = 0.0

    @contextmanager
    def opened(self) -> Iterator[InputContainer]:
        """Open the stretch as a file of its own; refuses as ``unreadable`` or ``truncated``."""
        if self.first == 0 and self.end is None:
            with _open(str(self.path), self.path) as container:
                yield container
            return
        with (
            _Slice(self.path, self.first, self.end) as file,
            _open(file, self.path) as container,
        ):
            yield container


def runs_of(path: Path, later: Iterable[tuple[int, float, float]]) -> list[Run]:
    """Return the file's runs: what comes first, and the ``later`` ones.

    Of those the first byte is given, the seconds, and their slack.
    """
    begins = [(0, 0.0, 0.0), *later]
    ends = [*(first for first, _, _ in begins[1:]), None]
    return [
        Run(path, first, end, seconds, slack_seconds)
        for (first, seconds, slack_seconds), end in zip(begins, ends, strict=True)
        if first != end
    ]


def _open(file: Any, path: Path) -> InputContainer:
    try:
        container: InputContainer = av.open(file, "r", options=INPUT, metadata_errors="replace")
    except MemoryError:
        raise
    except av.FFmpegError:
        raise Refused("truncated" if ends_inside_a_box(path) else "unreadable") from None
    return container


def ends_inside_a_box(path: Path) -> bool:
    """Tell whether the file is an MP4 whose last box is longer than what there is of it.

    An MP4 with its index at the end cannot even be opened when it is cut: this tells it from a
    file that never was a recording.
    """
    size_bytes, at = path.stat().st_size, 0
    with path.open("rb") as content:
        for number in range(_MOST_BOXES):
            content.seek(at)
            header = content.read(HEADER_BYTES)
            if number == 0 and header[4:8] != b"ftyp":
                return False
            box = box_at(at, header, size_bytes)
            if box is None:
                return len(header) < 8
            at = box.end
            if at >= size_bytes:
                return at > size_bytes
    return False


class _Slice(io.RawIOBase):
    """A stretch of a file, read as if it were all of it."""

    def __init__(self, path: Path, first: int, end: int | None) -> None:
        super().__init__()
        self._file = path.open("rb")
        self._first = first
        self._end = path.stat().st_size if end is None else end
        self.seek(0)

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def tell(self) -> int:
        return self._file.tell() - self._first

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        origins = {io.SEEK_SET: self._first, io.SEEK_CUR: self._file.tell(), io.SEEK_END: self._end}
        return self._file.seek(max(self._first, origins[whence] + offset)) - self._first

    def readinto(self, buffer: Any) -> int:
        view = memoryview(buffer)[: max(0, self._end - self._file.tell())]
        return self._file.readinto(view)

    def close(self) -> None:
        self._file.close()
        super().close()


class Track:
    """The audio stream of a source, read in order, and what the source says of its length.

    Stamps and samples are counted at ``clock_rate`` (by default the stream's own), from the track's
    beginning, or from that of all tracks where the source ``counts_all`` or the track begins late.
    """

    def __init__(
        self, source: InputContainer, *, clock_rate: int | None = None, counts_all: bool = False
    ) -> None:
        self._source = source
        self._counts_all = counts_all
        self._broken = False
        self._others_end_seconds = 0.0
        self.stream = _best_audio(source)
        self.rate = self.stream.codec_context.sample_rate
        self.clock_rate = clock_rate or self.rate
        self._samples = self.stream.codec_context.frame_size or 1024
        self._base = self.stream.time_base or Fraction(1, self.rate)
        # Whole numbers: a Fraction for each packet of an hour would cost more than all the rest.
        self._scale_up, self._scale_down = (self._base * self.clock_rate).as_integer_ratio()
        self._origin = self._origin_of_stamps()

    def packets(self) -> Iterator[Packet[AudioStream]]:
        """Yield the track's packets up to its end, or to where it is broken."""
        for packet in self._demux():
            if packet.stream_index != self.stream.index:
                if packet.pts is not None:
                    end = float((packet.pts + (packet.duration or 0)) * packet.time_base)
                    self._others_end_seconds = max(self._others_end_seconds, end)
            elif packet.size and not packet.is_corrupt:
                yield packet

    def stamp_of(self, pts: int | None) -> int | None:
        """Return a time stamp of the stream in samples from the recording's beginning."""
        if pts is None:
            return None
        return self._scaled(pts - self._origin)

    def samples_of(self, packet: Packet[AudioStream]) -> int:
        """Return how many samples a packet holds; coarse clocks (Matroska) cannot tell."""
        if not packet.duration or self._scale_up > self._scale_down:
            return self._samples
        return self._scaled(packet.duration)

    @property
    def clocks_restart(self) -> bool:
        """Whether the source's format is one whose time stamps may jump (MPEG-TS)."""
        return bool(self._source.format.flags & _CLOCKS_RESTART)

    @property
    def settings(self) -> tuple[object, ...]:
        """What must be the same for packets of two tracks to lie in one."""
        context = self.stream.codec_context
        return context.name, context.sample_rate, context.layout.name, context.extradata

    def is_cut(self, read_seconds: float) -> bool:
        """Tell whether what was read of the track is much less than its source says there is."""
        wanted_seconds = self._wanted_seconds()
        if wanted_seconds is None:
            return self._broken
        return is_short(max(read_seconds, self._others_end_seconds), wanted_seconds)

    def _scaled(self, ticks: int) -> int:
        """Return the stream's ticks in samples, to the nearest."""
        return (2 * ticks * self._scale_up + self._scale_down) // (2 * self._scale_down)

    def _demux(self) -> Iterator[Packet[Any]]:
        """Yield the packets up to the end, or to where the source is broken.

        In Matroska those of all streams, elsewhere the track's, the rest being skipped.
        """
        while True:
            if not self._is_matroska:
                for stream in self._source.streams:
                    if stream.index != self.stream.index:
                        stream.discard = Discard.all
            wanted = self._source.streams if self._is_matroska else [self.stream]
            try:
                yield from self._source.demux(*wanted)
            except IndexError:
                # PyAV trips over a stream that appears midway; the next demux knows of it.
                continue
            except MemoryError:
                raise
            except av.FFmpegError:
                self._broken = True
            return

    @property
    def _is_matroska(self) -> bool:
        return "matroska" in self._source.format.name

    def _origin_of_stamps(self) -> int:
        """Return the stamp that is 0 s: the track's begin, or that of all the source holds."""
        start = self.stream.start_time or 0
        if self._source.start_time is None:
            return start
        first = round(Fraction(self._source.start_time, av.time_base) / self._base)
        is_late = _LATE_SECONDS <= (start - first) * self._base <= _LATEST_SECONDS
        return first if self._counts_all or is_late else start

    def _wanted_seconds(self) -> float | None:
        """Return up to where the source must be read, None where its header tells nothing.

        MPEG-TS, MP3 and ADTS only estimate their length.  Matroska tells one length for all its
        tracks, so what counts is how far any of them was read.
        """
        if self._is_matroska:
            total = self._source.duration
            return None if total is None else total / av.time_base
        if "mp4" in self._source.format.name and self.stream.duration is not None:
            # What fragments tell as a duration is when they end; they may begin at any time.
            return float((self.stream.duration - max(0, self.stream.start_time or 0)) * self._base)
        return None


def decoded(stream: AudioStream, packet: Packet[AudioStream] | None) -> list[av.AudioFrame]:
    """Return the packet's frames, none where it is damaged: the next one may be sound.

    No packet is the end: what the decoder has held back.
    """
    try:
        return stream.decode(packet)
    except MemoryError:
        raise
    except av.FFmpegError:
        return []


def is_short(read_seconds: float, wanted_seconds: float) -> bool:
    """Tell whether less was read than wanted, by more than 1 s and 0.5 %."""
    return read_seconds < wanted_seconds - max(_TOLERANCE_SECONDS, _TOLERANCE * wanted_seconds)


def _best_audio(source: InputContainer) -> AudioStream:
    """Return the first audio stream marked as default, else the first, of those that are read.

    One that is silent for long is passed over where another has sound.
    """
    streams = [stream for stream in source.streams.audio if _is_read(stream)]
    if not streams:
        raise Refused("no_audio")
    streams.sort(key=lambda stream: not stream.disposition & Disposition.default)
    if len(streams) > 1:
        loud = _loud(source, streams)
        return next((stream for stream in streams if stream.index in loud), streams[0])
    return streams[0]


def _is_read(stream: AudioStream) -> bool:
    """Whether its codec is one of the list: FFmpeg's own whitelist lets others through."""
    context = stream.codec_context
    if context is None or not context.sample_rate:
        return False
    return context.name in _CODECS or context.name.startswith("pcm_")


def _loud(source: InputContainer, streams: list[AudioStream]) -> set[int]:
    """Return the indexes of the streams that have sound in their first minutes.

    They are read from the same source, which then is at its beginning again.
    """
    loud: set[int] = set()
    quiet = {stream.index: stream for stream in streams}
    begins = source.start_time or 0
    try:
        for packet in source.demux(*streams):
            at = begins if packet.pts is None else packet.pts * packet.time_base * av.time_base
            if not quiet or at - begins > _LISTENED_SECONDS * av.time_base:
                break
            stream = quiet.get(packet.stream_index)
            if stream and any(map(_has_sound, decoded(stream, cast(Any, packet)))):
                del quiet[packet.stream_index]
                loud.add(packet.stream_index)
    except MemoryError:
        raise
    except av.FFmpegError:
        pass  # Whoever reads it comes to the same place, and says so.
    source.seek(begins)
    for stream in streams:
        stream.codec_context.flush_buffers()
    return loud


def _has_sound(frame: av.AudioFrame) -> bool:
    """Whether any sample is louder than -60 dB."""
    for part in av.AudioResampler("s16", "mono", frame.sample_rate).resample(frame):
        samples = array.array("h", bytes(part.planes[0])[: part.samples * 2])
        if max(map(abs, samples), default=0) > _QUIET:
            return True
    return False
