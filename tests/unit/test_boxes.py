"""The boxes of an MP4, walked one after the other."""

import struct
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from app.ingest.boxes import HEADER_BYTES, Box, box_at
from app.ingest.sandbox.media.track import ends_inside_a_box

KINDS = st.binary(min_size=4, max_size=4)


def written(kind: bytes, body: bytes, form: str) -> bytes:
    """Return a box with its length in 32 or 64 bits, or with none: up to the end."""
    if form == "long":
        return struct.pack(">I4sQ", 1, kind, 16 + len(body)) + body
    return struct.pack(">I4s", 0 if form == "last" else 8 + len(body), kind) + body


def walked(content: bytes) -> list[Box | None]:
    found: list[Box | None] = []
    at = 0
    while at < len(content):
        box = box_at(at, content[at : at + HEADER_BYTES], len(content))
        found.append(box)
        if box is None:
            break
        at = box.end
    return found


@given(
    st.lists(st.tuples(KINDS, st.binary(max_size=40), st.sampled_from(["short", "long"]))),
    st.none() | st.tuples(KINDS, st.binary(max_size=40), st.just("last")),
)
def test_what_is_written_is_found(
    boxes: list[tuple[bytes, bytes, str]], last: tuple[bytes, bytes, str] | None
) -> None:
    boxes = [*boxes, *([last] if last else [])]
    content = b"".join(written(*each) for each in boxes)
    found = [box for box in walked(content) if box]
    assert [(box.kind, content[box.body : box.end]) for box in found] == [
        (kind, body) for kind, body, _ in boxes
    ]
    starts = [box.start for box in found]
    assert [*starts, len(content)] == [0, *(box.end for box in found)]


@given(st.binary(max_size=200))
def test_any_bytes_are_walked_to_an_end(content: bytes) -> None:
    for box in walked(content):
        if box is not None:
            assert box.start + 8 <= box.body <= box.end


def test_a_length_in_64_bits_that_is_cut_is_none() -> None:
    assert box_at(0, written(b"mdat", b"", "long")[:12], 12) is None
    assert box_at(0, b"\0\0\0\7moov", 8) is None


@pytest.mark.parametrize(
    ("content", "is_cut"),
    [
        (written(b"ftyp", b"isom", "short") + written(b"mdat", b"abc", "long"), False),
        (written(b"ftyp", b"isom", "short") + written(b"mdat", b"abc", "last"), False),
        (written(b"ftyp", b"isom", "short") + written(b"mdat", b"abc", "long")[:-1], True),
        (written(b"ftyp", b"isom", "short") + b"\0\0\0", True),
        (written(b"free", b"isom", "short")[:-1], False),
        (written(b"ftyp", b"isom", "short") + b"\0\0\0\3moov", False),
        (b"", False),
    ],
)
def test_a_file_that_ends_inside_a_box(tmp_path: Path, content: bytes, is_cut: bool) -> None:
    path = tmp_path / "file.mp4"
    path.write_bytes(content)
    assert ends_inside_a_box(path) is is_cut
