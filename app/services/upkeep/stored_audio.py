"""How long a stored recording is, read off the outline of its file: a few ranges, and no sound.

The file is an MP4 as the pipeline writes it (ISO/IEC 14496-12, 4.2 and 8.2.2).
"""

import struct
from dataclasses import dataclass, field

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
    boxes = dict(await _boxes(reader, range(size_bytes)))
    if next(iter(boxes), None) != b"ftyp" or not boxes.keys() >= {b"moov", b"mdat"}:
        return None
    index = dict(await _boxes(reader, boxes[b"moov"]))
    if b"mvhd" not in index:
        return None
    return _duration_in(await reader.read(index[b"mvhd"].start, 32))


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


async def _boxes(reader: _Reader, inside: range) -> list[tuple[bytes, range]]:
    """Return each box's kind and where its content is; none where one makes no sense."""
    found: list[tuple[bytes, range]] = []
    at = inside.start
    while at < inside.stop:
        box = _box_at(at, await reader.read(at, 16), inside.stop)
        if box is None or len(found) == _MOST_BOXES:
            return []
        found.append(box)
        at = box[1].stop
    return found


def _box_at(at: int, header: bytes, limit: int) -> tuple[bytes, range] | None:
    """Return the box that begins there, or None where it is none or goes past the limit."""
    if len(header) < 8:
        return None
    length, kind = struct.unpack(">I4s", header[:8])
    content = 8
    if length == 0:
        length = limit - at
    elif length == 1 and len(header) == 16:
        (length,) = struct.unpack(">Q", header[8:])
        content = 16
    if length < content or at + length > limit:
        return None
    return kind, range(at + content, at + length)


def _duration_in(header: bytes) -> float | None:
    """Return the seconds that an ``mvhd`` tells of: its version decides how wide the fields are."""
    form, at = (">IQ", 20) if header[:1] == b"\1" else (">II", 12)
    if len(header) < at + struct.calcsize(form):
        return None
    scale, duration = struct.unpack_from(form, header, at)
    return duration / scale if scale else None
