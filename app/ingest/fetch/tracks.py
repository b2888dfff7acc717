"""Whether a fetched file names an audio track: enough to choose another medium in time.

Only the index is looked at: the ``hdlr`` boxes of an MP4 (ISO/IEC 14496-12) or the first program
map of a transport stream (ISO/IEC 13818-1).  Nothing is decoded; the extractor has the last word.
"""

import asyncio
import os
import struct
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO

_PACKET = 188
_PROBED_BYTES = 400 * _PACKET
_MAX_BOXES = 4096
_CONTAINERS = frozenset({b"moov", b"trak", b"mdia"})
_AUDIO_STREAM_TYPES = frozenset({0x03, 0x04, 0x0F, 0x11, 0x1C, 0x81, 0x87})
_PRIVATE_STREAM_TYPE = 0x06  # may be anything, sound included


async def has_audio_track(path: Path) -> bool | None:
    """Return whether the file has one; None where it is no MP4 or TS, or cannot be understood."""

    def look() -> bool | None:
        with path.open("rb") as file:
            return names_audio(file)

    return await asyncio.to_thread(look)


def names_audio(file: BinaryIO) -> bool | None:
    """Return the same of an open file, or of its beginning."""
    head = file.read(_PROBED_BYTES)
    if head[:1] == b"\x47" and head[_PACKET : _PACKET + 1] in (b"\x47", b""):
        return _ts_has_audio(head)
    if head[4:8] not in (b"ftyp", b"styp", b"moov", b"mdat", b"free", b"wide"):
        return None
    handlers = list(_handlers(file, file.seek(0, os.SEEK_END)))
    return b"soun" in handlers if handlers else None


def _handlers(file: BinaryIO, size: int) -> Iterator[bytes]:
    """Yield the handler type of every track; a stranger's file is read no further than so far."""
    pending = [(0, size)]
    for _ in range(_MAX_BOXES):
        if not pending:
            return
        start, end = pending.pop()
        box = _box(file, start, end)
        if box is None:
            continue
        kind, body, following = box
        pending.append((following, end))
        if kind in _CONTAINERS:
            pending.append((body, following))
        elif kind == b"hdlr":
            file.seek(body + 8)
            yield file.read(4)


def _box(file: BinaryIO, start: int, end: int) -> tuple[bytes, int, int] | None:
    """Return a box's type, where its body starts and where it ends; None where there is none."""
    if start + 8 > end:
        return None
    file.seek(start)
    size, kind = struct.unpack(">I4s", file.read(8))
    body = start + 8
    if size == 1 and body + 8 <= end:
        size, body = struct.unpack(">Q", file.read(8))[0], body + 8
    elif size == 0:
        size = end - start
    following = start + size
    return (kind, body, following) if body <= following <= end else None


def _ts_has_audio(head: bytes) -> bool | None:
    packets = [head[at : at + _PACKET] for at in range(0, len(head) - _PACKET + 1, _PACKET)]
    program_map = _program_map_pid(packets)
    for packet in packets:
        section = _section(packet)
        if _pid(packet) == program_map and section[:1] == b"\x02":
            types = set(_stream_types(section))
            if types & _AUDIO_STREAM_TYPES:
                return True
            return None if _PRIVATE_STREAM_TYPE in types or not types else False
    return None


def _program_map_pid(packets: list[bytes]) -> int | None:
    """Return the PID of the first program's map, out of the program association table."""
    for packet in packets:
        section = _section(packet)
        if _pid(packet) != 0 or section[:1] != b"\x00":
            continue
        length = int.from_bytes(section[1:3], "big") & 0x0FFF
        for at in range(8, min(len(section), length - 1) - 3, 4):
            if section[at : at + 2] != b"\x00\x00":  # Program 0 is the network's own table.
                return int.from_bytes(section[at + 2 : at + 4], "big") & 0x1FFF
    return None


def _pid(packet: bytes) -> int:
    return int.from_bytes(packet[1:3], "big") & 0x1FFF


def _section(packet: bytes) -> bytes:
    """Return the table section that starts in the packet, else nothing."""
    starts, has_payload, has_adaptation = packet[1] & 0x40, packet[3] & 0x10, packet[3] & 0x20
    at = 4 + (1 + packet[4] if has_adaptation else 0)
    if not (starts and has_payload) or at >= len(packet):
        return b""
    return packet[at + 1 + packet[at] :]


def _stream_types(section: bytes) -> Iterator[int]:
    if len(section) < 12:
        return
    end = min(len(section), 3 + (int.from_bytes(section[1:3], "big") & 0x0FFF) - 4)
    at = 12 + (int.from_bytes(section[10:12], "big") & 0x0FFF)
    while at + 5 <= end:
        yield section[at]
        at += 5 + (int.from_bytes(section[at + 3 : at + 5], "big") & 0x0FFF)
