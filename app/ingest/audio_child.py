"""The child's task that turns a media file into an ``.m4a``: AAC is copied, the rest encoded.

FFmpeg opens playlists and scripts whatever their name and follows them to files and hosts: the
formats and protocols below are all that it may use.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from contextlib import suppress
from fractions import Fraction
from itertools import chain
from pathlib import Path
from typing import Any

import av
from av.audio.stream import AudioStream
from av.container import InputContainer, OutputContainer
from av.packet import Packet
from av.stream import Discard, Disposition

from app.ingest.audio_encoder import AacEncoder
from app.ingest.child_process import Refused
from app.ingest.mp4_boxes import ends_inside_a_box
from app.ingest.timeline import Timeline

_INPUT = {
    "format_whitelist": "mov,mp4,m4a,3gp,3g2,mj2,matroska,webm,mpegts,mp3,aac",
    "protocol_whitelist": "file",
}
_OUTPUT = {"movflags": "+faststart"}
_CLOCKS_RESTART = 0x0200
"""FFmpeg's AVFMT_TS_DISCONT: the format's timestamps may jump."""
_TRIES_TO_DECODE = 200
_TOLERANCE = 0.005
_TOLERANCE_SECONDS = 1.0


def run(arguments: dict[str, Any]) -> dict[str, Any]:
    """Write ``target`` from ``source`` and return ``{"duration_seconds", "size_bytes"}``.

    ``segments`` is a list of ``[start, end]`` in seconds, empty for all.  Refuses as
    ``no_audio``, ``unreadable`` or ``truncated``; nothing is left then.
    """
    # Absolute, so that FFmpeg takes neither for a URL.
    source, target = Path(arguments["source"]).absolute(), Path(arguments["target"]).absolute()
    try:
        duration_seconds = _extract(source, target, arguments["segments"])
        _sync(target)
    except BaseException:
        target.unlink(missing_ok=True)
        raise
    return {"duration_seconds": duration_seconds, "size_bytes": target.stat().st_size}


def _extract(source: Path, target: Path, segments: list[list[float]]) -> float:
    with suppress(_CannotCopy):
        return _write(_copy, source, target, segments)
    return _write(_encode, source, target, segments)


def _write(
    move: Callable[[_Track, OutputContainer], None],
    source_path: Path,
    target_path: Path,
    segments: list[list[float]],
) -> float:
    """Move the track from one file to the other and return its length in seconds."""
    with _open(source_path) as source:
        track = _Track(source, [(start, end) for start, end in segments])
        with av.open(str(target_path), "w", format="ipod", options=_OUTPUT) as target:
            move(track, target)
        track.require_whole()
        return track.timeline.end / track.rate


def _open(path: Path) -> InputContainer:
    try:
        return av.open(str(path), "r", options=_INPUT, metadata_errors="replace")
    except MemoryError:
        raise
    except av.FFmpegError:
        raise Refused("truncated" if ends_inside_a_box(path) else "unreadable") from None


class _Track:
    """The audio stream of a source, read in order, and what the source says of its length."""

    def __init__(self, source: InputContainer, segments: list[tuple[float, float]]) -> None:
        self._source = source
        self._segments = segments
        self._broken = False
        self._others_end_seconds = 0.0
        self.stream = _best_audio(source)
        self.rate = self.stream.codec_context.sample_rate
        self._samples = self.stream.codec_context.frame_size or 1024
        self._base = self.stream.time_base or Fraction(1, self.rate)
        # Whole numbers: a Fraction for each packet of an hour would cost more than all the rest.
        self._scale_up, self._scale_down = (self._base * self.rate).as_integer_ratio()
        self._origin = self._origin_of_stamps()
        clocks_restart = bool(source.format.flags & _CLOCKS_RESTART)
        self.timeline = Timeline(self.rate, segments, clocks_restart=clocks_restart)

    def packets(self) -> Iterator[Packet[AudioStream]]:
        """Yield the track's packets up to its end, the last one wanted, or what is broken."""
        for packet in self._demux():
            if packet.stream_index != self.stream.index:
                self._note_end(packet)
            elif packet.size and not packet.is_corrupt:
                yield packet
            if self.timeline.complete:
                return

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

    def _scaled(self, ticks: int) -> int:
        """Return the stream's ticks in samples, to the nearest."""
        return (2 * ticks * self._scale_up + self._scale_down) // (2 * self._scale_down)

    def require_whole(self) -> None:
        """Refuse where much less was read than the source says there is, or nothing at all."""
        if not self.timeline.complete and self._is_cut():
            raise Refused("truncated")
        if self.timeline.end <= 0:
            raise Refused("no_audio")

    def _is_cut(self) -> bool:
        wanted_seconds = self._wanted_seconds()
        if wanted_seconds is None:
            return self._broken
        read_seconds = max(self.timeline.source_end / self.rate, self._others_end_seconds)
        return read_seconds < wanted_seconds - max(_TOLERANCE_SECONDS, _TOLERANCE * wanted_seconds)

    def _demux(self) -> Iterator[Packet[Any]]:
        """Yield the packets up to the end, or to where the source is broken."""
        while True:
            try:
                yield from self._source.demux(*self._wanted_streams())
            except IndexError:
                # PyAV trips over a stream that appears midway; the next demux knows of it.
                continue
            except MemoryError:
                raise
            except av.FFmpegError:
                self._broken = True
            return

    def _wanted_streams(self) -> list[Any]:
        """Return what to read: in Matroska all, elsewhere the track, the rest being skipped."""
        if self._is_matroska:
            return list(self._source.streams)
        for stream in self._source.streams:
            if stream.index != self.stream.index:
                stream.discard = Discard.all
        return [self.stream]

    @property
    def _is_matroska(self) -> bool:
        return "matroska" in self._source.format.name

    def _origin_of_stamps(self) -> int:
        """Return the stamp that is 0 s: the track's begin, or the recording's for segments."""
        start = self.stream.start_time or 0
        if not self._segments or self._source.start_time is None:
            return start
        return round(Fraction(self._source.start_time, av.time_base) / self._base)

    def _note_end(self, packet: Packet[Any]) -> None:
        if packet.pts is not None:
            end = float((packet.pts + (packet.duration or 0)) * packet.time_base)
            self._others_end_seconds = max(self._others_end_seconds, end)

    def _wanted_seconds(self) -> float | None:
        """Return up to where the source must be read, None where its header tells nothing.

        MPEG-TS, MP3 and ADTS only estimate their length.  Matroska tells one length for all its
        tracks, so what counts is how far any of them was read.
        """
        if self._segments:
            return max(end for _, end in self._segments)
        if self._is_matroska:
            total = self._source.duration
            return None if total is None else total / av.time_base
        if "mp4" in self._source.format.name and self.stream.duration is not None:
            return float(self.stream.duration * self._base)
        return None


def _best_audio(source: InputContainer) -> AudioStream:
    """Return the first audio stream marked as default, else the first that can be decoded."""
    streams = [
        stream
        for stream in source.streams.audio
        if stream.codec_context is not None and stream.codec_context.sample_rate
    ]
    if not streams:
        raise Refused("no_audio")
    return max(streams, key=lambda stream: bool(stream.disposition & Disposition.default))


class _CannotCopy(Exception):
    """The track is no AAC, or none that can lie in an m4a as it is (a damaged ADTS header)."""


def _copy(track: _Track, target: OutputContainer) -> None:
    """Move the AAC packets; the muxer strips ADTS headers by itself."""
    if track.stream.codec_context.name != "aac":
        raise _CannotCopy
    output = target.add_stream_from_template(track.stream)
    base = Fraction(1, track.rate)
    decodable = _Decodable()
    for packet in track.packets():
        stamp, samples = track.stamp_of(packet.pts), track.samples_of(packet)
        # What an edit list hides at the beginning is the encoder's priming, which must stay.
        if packet.is_discard and not (stamp is not None and -track.rate < stamp < 0):
            continue
        decodable.check(packet)
        position = track.timeline.place(stamp, samples)
        if position is None:
            continue
        packet.stream = output
        packet.time_base = base
        packet.pts = packet.dts = position
        packet.duration = samples
        try:
            target.mux_one(packet)
        except av.FFmpegError as error:
            if isinstance(error, OSError | MemoryError):
                raise
            raise _CannotCopy from None
    decodable.require()


class _Decodable:
    """Tells noise that happens to look like AAC from AAC, by decoding up to the first frame."""

    def __init__(self) -> None:
        self._tries = 0
        self._proved = False

    def check(self, packet: Packet[AudioStream]) -> None:
        """Decode the packet unless one was decoded already."""
        if self._proved:
            return
        self._tries += 1
        self._proved = bool(_decoded(packet.stream, packet))
        if self._tries >= _TRIES_TO_DECODE:
            self.require()

    def require(self) -> None:
        """Refuse where nothing could be decoded."""
        if not self._proved:
            raise Refused("no_audio")


def _encode(track: _Track, target: OutputContainer) -> None:
    """Decode and encode; a gap of the source is silence in the output."""
    encoder = AacEncoder(target, track.stream.codec_context)
    for packet in chain(track.packets(), [None]):
        for frame in _decoded(track.stream, packet):
            samples = frame.samples * track.rate // frame.sample_rate
            position = track.timeline.place(track.stamp_of(frame.pts), samples)
            if position is not None:
                encoder.write(frame, Fraction(max(position, 0), track.rate))
    encoder.close()


def _decoded(stream: AudioStream, packet: Packet[AudioStream] | None) -> list[av.AudioFrame]:
    """Return the packet's frames, none where it is damaged: the next one may be sound.

    No packet is the end: what the decoder has held back.
    """
    try:
        return stream.decode(packet)
    except MemoryError:
        raise
    except av.FFmpegError:
        return []


def _sync(path: Path) -> None:
    with path.open("rb") as written:
        os.fsync(written.fileno())
