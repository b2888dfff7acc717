"""The child's task that turns a media file into an ``.m4a``: AAC is copied, the rest encoded."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from fractions import Fraction
from itertools import chain
from pathlib import Path
from typing import Any

import av
from av.audio.stream import AudioStream
from av.container import InputContainer, OutputContainer
from av.packet import Packet

from app.ingest.sandbox.child import Refused
from app.ingest.sandbox.media.encoder import LEAST_SILENCE_SECONDS, AacEncoder
from app.ingest.sandbox.media.silence import FRAME_SAMPLES, silence_like
from app.ingest.sandbox.media.timeline import Timeline
from app.ingest.sandbox.media.track import Run, Track, decoded, is_short, runs_of

_OUTPUT = {"movflags": "+faststart"}
_TRIES_TO_DECODE = 200

_Edits = list[tuple[float, float, float | None]]


def run(arguments: dict[str, Any]) -> dict[str, Any]:
    """Write ``target`` from ``source`` and return ``{"duration_seconds", "size_bytes"}``.

    ``edits`` is a list of ``[start, end, place in the output or None]`` in seconds, empty for
    all; ``runs`` one of ``[first byte, seconds, slack in seconds]``: where the file goes on with
    clocks and codec settings of their own.  Refuses as ``no_audio``, ``unreadable`` or
    ``truncated``; nothing is left then.
    """
    # Absolute, so that FFmpeg takes neither for a URL.
    source, target = Path(arguments["source"]).absolute(), Path(arguments["target"]).absolute()
    edits = [(start, end, place) for start, end, place in arguments["edits"]]
    runs = runs_of(source, arguments["runs"])
    try:
        try:
            duration_seconds = _write(_copy, _Sound(runs, edits), target)
        except _CannotCopy:
            duration_seconds = _write(_encode, _Sound(runs, edits), target)
        with target.open("rb") as written:
            os.fsync(written.fileno())
    except BaseException:
        target.unlink(missing_ok=True)
        raise
    return {"duration_seconds": duration_seconds, "size_bytes": target.stat().st_size}


def _write(
    move: Callable[[_Sound, OutputContainer], None], sound: _Sound, target_path: Path
) -> float:
    """Move the sound into the file and return its length in seconds."""
    with av.open(str(target_path), "w", format="ipod", options=_OUTPUT) as target:
        move(sound, target)
        return sound.length_seconds()


class _Sound:
    """The sound of a source's runs, one behind the other, on one timeline cut to the edits."""

    def __init__(self, runs: list[Run], edits: _Edits) -> None:
        self._runs = runs
        self._edits = edits
        self._timeline: Timeline | None = None

    def tracks(self) -> Iterator[tuple[Track, Timeline]]:
        """Yield the track of each run that has one; all count samples at the first one's rate."""
        for run in self._runs:
            if self._timeline and self._timeline.complete:
                return
            with run.opened() as source:
                # A picture that stands while nobody speaks is silence, unless it is all there is.
                if source.streams.audio or len(self._runs) == 1:
                    yield from self._track(run, source)

    def length_seconds(self) -> float:
        """Return how long the output is; refuses where nothing, or too little, was found."""
        timeline = self._timeline
        if timeline is None or timeline.end <= 0:
            raise Refused("truncated" if self._is_cut() else "no_audio")
        if self._is_cut():
            raise Refused("truncated")
        return timeline.end / timeline.rate

    def _track(self, run: Run, source: InputContainer) -> Iterator[tuple[Track, Timeline]]:
        first = run is self._runs[0]
        clock_rate = self._timeline.rate if self._timeline else None
        counts_all = bool(self._edits) or not first
        track = Track(source, clock_rate=clock_rate, counts_all=counts_all)
        timeline = self._timeline = self._timeline or Timeline(
            track.rate, self._edits, clocks_restart=track.clocks_restart
        )
        begun = timeline.source_end
        if not first:
            timeline.start_run(run.seconds, run.slack_seconds)
        yield track, timeline
        read_seconds = (timeline.source_end - begun) / timeline.rate
        if not self._edits and track.is_cut(read_seconds):
            raise Refused("truncated")

    def _is_cut(self) -> bool:
        """Tell whether the source ends before the last edit does."""
        if not self._edits or self._timeline is None or self._timeline.complete:
            return False
        wanted_seconds = max(end for _, end, _ in self._edits)
        return is_short(self._timeline.source_end / self._timeline.rate, wanted_seconds)


class _CannotCopy(Exception):
    """The sound is no AAC, or none that can lie in an m4a as it is: damaged, or mixed."""


def _copy(sound: _Sound, target: OutputContainer) -> None:
    """Move the AAC packets; the muxer strips ADTS headers by itself."""
    output: AudioStream | None = None
    settings: tuple[object, ...] | None = None
    decodable = _Decodable()
    for track, timeline in sound.tracks():
        if track.stream.codec_context.name != "aac" or settings not in (None, track.settings):
            raise _CannotCopy
        settings = track.settings
        output = output or target.add_stream_from_template(track.stream)
        for packet in _placed_packets(track, timeline, decodable):
            packet.stream = output
            try:
                target.mux_one(packet)
            except (OSError, MemoryError):
                raise
            except av.FFmpegError:
                raise _CannotCopy from None
    decodable.require()


def _placed_packets(
    track: Track, timeline: Timeline, decodable: _Decodable
) -> Iterator[Packet[AudioStream]]:
    """Yield the packets that are wanted, stamped with their place in the output."""
    base = Fraction(1, timeline.rate)
    for packet in track.packets():
        stamp, samples = track.stamp_of(packet.pts), track.samples_of(packet)
        # What an edit list hides at the beginning is the encoder's priming, which must stay.
        if packet.is_discard and not (stamp is not None and -track.rate < stamp < 0):
            continue
        decodable.check(packet)
        end = timeline.end
        position = timeline.place(stamp, samples)
        if position is not None:
            if position - end > LEAST_SILENCE_SECONDS * timeline.rate:
                yield from _silence(packet, range(end, position), base)
            yield _stamped(packet, position, samples, base)
        if timeline.complete:
            return


def _silence(
    packet: Packet[AudioStream], gap: range, base: Fraction
) -> Iterator[Packet[AudioStream]]:
    """Yield silent packets that fill the gap before the packet, to the nearest whole one."""
    content = silence_like(packet.stream.codec_context, bytes(packet))
    if content is None:
        raise _CannotCopy
    for position in range(gap.start, gap.stop - FRAME_SAMPLES // 2, FRAME_SAMPLES):
        yield _stamped(Packet(content), position, FRAME_SAMPLES, base)


def _stamped(
    packet: Packet[Any], position: int, samples: int, base: Fraction
) -> Packet[AudioStream]:
    packet.time_base = base
    packet.pts = packet.dts = position
    packet.duration = samples
    return packet


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
        self._proved = bool(decoded(packet.stream, packet))
        if self._tries >= _TRIES_TO_DECODE:
            self.require()

    def require(self) -> None:
        """Refuse where nothing could be decoded."""
        if not self._proved:
            raise Refused("no_audio")


def _encode(sound: _Sound, target: OutputContainer) -> None:
    """Decode and encode; a gap of the source is silence in the output."""
    encoder: AacEncoder | None = None
    for track, timeline in sound.tracks():
        encoder = encoder or AacEncoder(target, track.stream.codec_context)
        for packet in chain(track.packets(), [None]):
            for frame in decoded(track.stream, packet):
                samples = frame.samples * timeline.rate // frame.sample_rate
                position = timeline.place(track.stamp_of(frame.pts), samples)
                if position is not None:
                    encoder.write(frame, Fraction(max(position, 0), timeline.rate))
            if timeline.complete:
                break
    if encoder:
        encoder.close()
