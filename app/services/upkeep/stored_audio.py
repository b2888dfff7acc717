"""How long a stored recording is, read off the outline of its file: a few ranges, and no sound.

The file is an MP4 as the pipeline writes it (ISO/IEC 14496-12, 4.2 and 8.2.2).
"""

import struct
from dataclasses import dataclass, field

from app.ingest.boxes import HEADER_BYTES, Box, box_at
from app.storage.protocol import ObjectStore

LEAST_BYTES = 500
"""What the boxes of an MP4 with one track of sound take, before any sound."""

_READ_BYTES = 4096
_MOST_BOXES = 64


async def read_duration(storage: ObjectStore, key: str) -> float | None:
    """Return the seconds that the file says it lasts, or None where it is no whole MP4.

    That is one without ``ftyp``, ``moov`` or ``mdat``, or whose last box goes past its end.  Raises
    `ObjectNotFound` and `StorageError`.
    """
    size_bytes = (await storage.stat_file(key)).size_bytes
    reader = _Reader(storage, key)
    boxes = await _boxes(reader, 0, size_bytes)
    if next(iter(boxes), None) != b"ftyp" or not boxes.keys() >= {b"moov", b"mdat"}:
        return None
    moov = boxes[b"moov"]
    index = await _boxes(reader, moov.body, moov.end)
    if b"mvhd" not in index:
        return None
    return _duration_in(await reader.read(index[b"mvhd"].body, 32))


@dataclass(slots=True)
class _Reader:
    """The object's bytes, asked for in pieces that hold more than one box's head."""

    storage: ObjectStore
    key: str
    _start: int = 0
    _held: bytes = field(default=b"")

    async def read(self, start: int, count: int) -> bytes:
        """Return the bytes from ``start`` on, fewer at the object's end."""
        if not self._start <= start <= start + count <= self._start + len(self._held):
            ending = start + _READ_BYTES
            async with self.storage.open_file(self.key, start, ending) as opened:
                self._held = b"".join([chunk async for chunk in opened.chunks])
            self._start = start
        return self._held[start - self._start :][:count]


async def _boxes(reader: _Reader, start: int, end: int) -> dict[bytes, Box]:
    """Return the boxes by their kind; none where one makes no sense or there are too many."""
    found: list[Box] = []
    while start < end:
        header = await reader.read(start, min(HEADER_BYTES, end - start))
        box = box_at(start, header, end)
        if box is None or box.end > end or len(found) == _MOST_BOXES:
            return {}
        found.append(box)
        start = box.end
    return {box.kind: box for box in found}


def _duration_in(header: bytes) -> float | None:
    """Return the seconds that an ``mvhd`` tells of: its version decides how wide the fields are."""
    form, at = (">IQ", 20) if header[:1] == b"\1" else (">II", 12)
    if len(header) < at + struct.calcsize(form):
        return None
    scale, duration = struct.unpack_from(form, header, at)
    return duration / scale if scale else None
