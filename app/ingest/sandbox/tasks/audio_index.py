"""The child's task that finds the audio samples of an MP4 and writes an index for them alone.

Boxes and tables are those of ISO/IEC 14496-12, sections 4.2 and 8.  The standard library alone.
What is unusual is refused by a name: the file is then fetched whole, and FFmpeg has the last word.
"""

import base64
import struct
import sys
from array import array
from collections.abc import Sequence
from itertools import accumulate
from typing import Any

from app.ingest.boxes import HEADER_BYTES, Box, box_at
from app.ingest.sandbox.child import Refused

_MAX_BOXES = 4096
# A day of sound: 50 samples a second; its stretches are worth no range where they are shorter than
# these make them.  More would be the parent's work, at a stranger's wish.
_MAX_SAMPLES = 5_000_000
_MAX_CHUNKS = 500_000
_MAX_SPANS = 50_000
_CODECS = frozenset({b"mp4a", b"Opus", b"ac-3", b"ec-3", b"fLaC", b"alac", b".mp3"})
_ENABLED = 1
_SELF_CONTAINED = 1
_FTYP = struct.pack(">I4s4sI4s4s", 24, b"ftyp", b"isom", 512, b"isom", b"mp41")
_MDAT_HEADER_BYTES = 16
# Boxes of a track that point at other tracks or into the file, or that nobody needs.
_LEFT_OUT = frozenset({b"tref", b"udta", b"meta", b"saiz", b"saio", b"stco", b"co64"})


def run(arguments: dict[str, Any]) -> dict[str, Any]:
    """Return ``{"header", "spans", "starts_late_seconds"}`` for ``content``, the ``moov`` box.

    ``header`` (base64) and the bytes of ``spans`` (``[start, length]``) are an MP4.
    """
    index = _Index(arguments["content"])
    track = index.audio_track()
    offsets = track.chunk_offsets()
    lengths = track.chunk_lengths(len(offsets))
    order = sorted(range(len(offsets)), key=offsets.__getitem__)
    spans = _spans(offsets, lengths, order, arguments["size_bytes"])
    return {
        "header": base64.b64encode(_header(index, track, lengths, order)).decode(),
        "spans": spans,
        "starts_late_seconds": index.late_seconds(track),
    }


class _Index:
    """The ``moov`` box."""

    def __init__(self, content: bytes) -> None:
        self._content = content
        (self._moov,) = _boxes(content, 0, len(content))
        children = _boxes(content, self._moov.body, self._moov.end)
        kinds = {box.kind for box in children}
        if b"mvex" in kinds:
            raise Refused("fragmented")
        if self._moov.kind != b"moov" or b"cmov" in kinds:
            raise Refused("index_unusual")
        self.mvhd = next(box for box in children if box.kind == b"mvhd")
        self.tracks = [_Track(content, box) for box in children if box.kind == b"trak"]

    def audio_track(self) -> "_Track":
        """Return the track that the extractor would choose: the first enabled one, else any."""
        tracks = [track for track in self.tracks if track.handler == b"soun"]
        if not tracks:
            raise Refused("no_audio_track")
        track = max(tracks, key=lambda track: track.is_enabled)
        track.require_usual()
        return track

    def late_seconds(self, audio: "_Track") -> float:
        """Return how much later than the first track the audio begins, by their edit lists."""
        version = self._content[self.mvhd.body]
        at = self.mvhd.body + (20 if version == 1 else 12)
        timescale: int = struct.unpack_from(">I", self._content, at)[0]
        earliest = min(track.empty_edit() for track in self.tracks)
        return (audio.empty_edit() - earliest) / max(timescale, 1)

    def with_track(self, track: bytes) -> bytes:
        """Return a ``moov`` of the movie header and one track."""
        return _box(b"moov", self._content[self.mvhd.start : self.mvhd.end] + track)


class _Track:
    """One ``trak`` box."""

    def __init__(self, content: bytes, box: Box) -> None:
        self._content = content
        self._box = box

    @property
    def handler(self) -> bytes:
        box = self._found(b"mdia", b"hdlr")
        return self._content[box.body + 8 : box.body + 12] if box else b""

    @property
    def is_enabled(self) -> bool:
        header = self._needed(b"tkhd")
        return bool(self._content[header.body + 3] & _ENABLED)

    def require_usual(self) -> None:
        """Refuse codecs whose tables mean something else, and media in other files."""
        entries = self._needed(*_TABLES, b"stsd")
        references = self._needed(b"mdia", b"minf", b"dinf", b"dref")
        codecs = {box.kind for box in _boxes(self._content, entries.body + 8, entries.end)}
        places = _boxes(self._content, references.body + 8, references.end)
        outside = any(not self._content[box.body + 3] & _SELF_CONTAINED for box in places)
        if outside or not codecs or not codecs <= _CODECS:
            raise Refused("index_unusual")

    def empty_edit(self) -> int:
        """Return how long nothing plays at first, in the movie's time scale."""
        box = self._found(b"edts", b"elst")
        if box is None or self._number(box.body + 4) == 0:
            return 0
        layout = ">Qq" if self._content[box.body] == 1 else ">Ii"
        duration, media_time = struct.unpack_from(layout, self._content, box.body + 8)
        return int(duration) if media_time == -1 else 0

    def chunk_offsets(self) -> Sequence[int]:
        """Return where each chunk lies in the file."""
        box = self._found(*_TABLES, b"stco")
        if box is not None:
            return self._table(box.body + 4, box.end, "I", _MAX_CHUNKS)
        box = self._needed(*_TABLES, b"co64")
        return self._table(box.body + 4, box.end, "Q", _MAX_CHUNKS)

    def chunk_lengths(self, chunks: int) -> list[int]:
        """Return how many bytes each chunk has."""
        counts = self._samples_per_chunk(chunks)
        first_samples = [0, *accumulate(counts)]
        before = self._bytes_before(first_samples[-1])
        return [
            before[first + count] - before[first]
            for first, count in zip(first_samples, counts, strict=False)
        ]

    def rebuilt(self, offsets: Sequence[int]) -> bytes:
        """Return the track with its chunks at other places."""
        table = struct.pack(f">II{len(offsets)}Q", 0, len(offsets), *offsets)
        return self._rebuilt(self._box, _box(b"co64", table))

    def _rebuilt(self, box: Box, table: bytes) -> bytes:
        if box.kind not in _CONTAINERS:
            return self._content[box.start : box.end]
        kept = (
            child
            for child in _boxes(self._content, box.body, box.end)
            if child.kind not in _LEFT_OUT
        )
        parts = [self._rebuilt(child, table) for child in kept]
        return _box(box.kind, b"".join(parts) + (table if box.kind == b"stbl" else b""))

    def _samples_per_chunk(self, chunks: int) -> list[int]:
        box = self._needed(*_TABLES, b"stsc")
        entries = self._number(box.body + 4)
        if not 0 < entries <= chunks or box.body + 8 + 12 * entries > box.end:
            raise Refused("index_unusual")
        runs = list(struct.iter_unpack(">III", self._content[box.body + 8 :][: 12 * entries]))
        firsts = [first for first, _, _ in runs] + [chunks + 1]
        counts: list[int] = []
        for number, (first, samples, _) in enumerate(runs):
            if first != len(counts) + 1 or firsts[number + 1] <= first or samples > _MAX_SAMPLES:
                raise Refused("index_unusual")
            counts.extend([samples] * (firsts[number + 1] - first))
        return counts

    def _bytes_before(self, samples: int) -> Sequence[int]:
        """Return, for each sample and the end, how many bytes the samples before it have."""
        box = self._needed(*_TABLES, b"stsz")
        size = self._number(box.body + 4)
        if samples > _MAX_SAMPLES or samples != self._number(box.body + 8):
            raise Refused("index_unusual")
        if size:
            return range(0, (samples + 1) * size, size)
        return [0, *accumulate(self._table(box.body + 8, box.end, "I", _MAX_SAMPLES))]

    def _table(self, at: int, end: int, kind: str, most: int) -> Sequence[int]:
        """Return a table of numbers that its length precedes."""
        count, numbers = self._number(at), array(kind)
        if count > most or at + 4 + count * numbers.itemsize > end:
            raise Refused("index_unusual")
        numbers.frombytes(self._content[at + 4 :][: count * numbers.itemsize])
        if sys.byteorder == "little":
            numbers.byteswap()
        return numbers

    def _number(self, at: int) -> int:
        number: int = struct.unpack_from(">I", self._content, at)[0]
        return number

    def _needed(self, *path: bytes) -> Box:
        box = self._found(*path)
        if box is None:
            raise Refused("index_unusual")
        return box

    def _found(self, *path: bytes) -> Box | None:
        box: Box | None = self._box
        for kind in path:
            if box is None:
                return None
            children = _boxes(self._content, box.body, box.end)
            box = next((child for child in children if child.kind == kind), None)
        return box


_TABLES = (b"mdia", b"minf", b"stbl")
_CONTAINERS = frozenset({b"trak", *_TABLES})


def _spans(
    offsets: Sequence[int], lengths: list[int], order: list[int], size_bytes: int
) -> list[list[int]]:
    """Return the chunks in the order of the file, those that touch as one."""
    spans: list[list[int]] = []
    for chunk in order:
        start, length = offsets[chunk], lengths[chunk]
        end = sum(spans[-1]) if spans else 0
        if start < end or start + length > size_bytes:
            raise Refused("index_unusual")
        if spans and start == end:
            spans[-1][1] += length
        elif length:
            spans.append([start, length])
            if len(spans) > _MAX_SPANS:
                raise Refused("scattered")
    return spans


def _header(index: _Index, track: _Track, lengths: list[int], order: list[int]) -> bytes:
    """Return all that comes before the samples; chunks follow in the order given."""
    size = len(_FTYP) + len(index.with_track(track.rebuilt([0] * len(lengths))))
    at = size + _MDAT_HEADER_BYTES
    offsets = [0] * len(lengths)
    for chunk in order:
        offsets[chunk] = at
        at += lengths[chunk]
    mdat = struct.pack(">I4sQ", 1, b"mdat", at - size)
    return _FTYP + index.with_track(track.rebuilt(offsets)) + mdat


def _box(kind: bytes, body: bytes) -> bytes:
    return struct.pack(">I4s", 8 + len(body), kind) + body


def _boxes(content: bytes, start: int, end: int) -> list[Box]:
    boxes: list[Box] = []
    while start + 8 <= end:
        box = box_at(start, content[start : min(start + HEADER_BYTES, end)], end)
        if box is None or box.end > end or len(boxes) == _MAX_BOXES:
            raise Refused("index_unusual")
        boxes.append(box)
        start = box.end
    return boxes
