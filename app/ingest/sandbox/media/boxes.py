"""The outermost layer of an MP4 file (ISO/IEC 14496-12, 4.2).  The standard library alone."""

import struct
from pathlib import Path

_MOST_BOXES = 10_000


def ends_inside_a_box(path: Path) -> bool:
    """Tell whether the file is an MP4 whose last box is longer than what there is of it.

    An MP4 with its index at the end cannot even be opened when it is cut: this tells it from a
    file that never was a recording.
    """
    size_bytes, at = path.stat().st_size, 0
    with path.open("rb") as content:
        for number in range(_MOST_BOXES):
            content.seek(at)
            header = content.read(16)
            if number == 0 and header[4:8] != b"ftyp":
                return False
            length = _length_of(header, size_bytes - at)
            if length is None:
                return False
            at += length
            if at >= size_bytes:
                return at > size_bytes
    return False


def _length_of(header: bytes, rest_bytes: int) -> int | None:
    """Return a box's length, None where it is no box; a header that is cut goes past the end."""
    if len(header) < 8:
        return rest_bytes + 1
    (length,) = struct.unpack(">I", header[:4])
    if length == 0:
        return rest_bytes
    if length == 1 and len(header) == 16:
        (length,) = struct.unpack(">Q", header[8:])
    return length if length >= 8 else None
