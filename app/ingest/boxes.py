"""The boxes of an MP4 file (ISO/IEC 14496-12, 4.2).  The standard library alone."""

import struct
from typing import NamedTuple

HEADER_BYTES = 16
"""The longest header of a box."""


class Box(NamedTuple):
    """A box's type, and at which bytes it starts, its content starts, and it ends."""

    kind: bytes
    start: int
    body: int
    end: int


def box_at(start: int, header: bytes, limit: int) -> Box | None:
    """Return the box that starts there, or None where it is none.

    ``header`` is what is there from its start on: `HEADER_BYTES`, fewer where no more are left
    before ``limit``, the end of whatever the box is in.  The box may claim to end behind that.
    """
    if len(header) < 8:
        return None
    length, kind = struct.unpack_from(">I4s", header)
    body = start + 8
    if length == 0:
        length = limit - start
    elif length == 1 and len(header) >= HEADER_BYTES:
        (length,) = struct.unpack_from(">Q", header, 8)
        body = start + HEADER_BYTES
    end = start + length
    return Box(kind, start, body, end) if body <= end else None
