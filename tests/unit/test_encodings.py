"""Compressed answers: undone, bounded, and refused where they are not what they say."""

import gzip
import zlib

import pytest

from app.ingest.net.encodings import TooLarge, UnknownEncoding, plain

TEXT = b"#EXTM3U\n" * 1000


@pytest.mark.parametrize(
    ("encoding", "content"),
    [
        (None, TEXT),
        ("identity", TEXT),
        ("gzip", gzip.compress(TEXT, mtime=0)),
        (" GZip", gzip.compress(TEXT, mtime=0)),
        ("deflate", zlib.compress(TEXT)),
        ("gzip", b""),
    ],
    ids=["none", "identity", "gzip", "spelled otherwise", "deflate", "empty"],
)
def test_what_is_known_is_undone(encoding: str | None, content: bytes) -> None:
    assert plain(content, encoding, len(TEXT)) == (TEXT if content else b"")


@pytest.mark.parametrize(
    ("encoding", "content"),
    [
        ("br", TEXT),
        ("gzip", TEXT),
        ("gzip", gzip.compress(TEXT, mtime=0)[:-9]),
        ("gzip, gzip", gzip.compress(gzip.compress(TEXT, mtime=0), mtime=0)),
    ],
    ids=["unknown", "not gzip", "cut short", "twice"],
)
def test_what_is_not_known_is_refused(encoding: str, content: bytes) -> None:
    with pytest.raises(UnknownEncoding):
        plain(content, encoding, len(TEXT))


def test_a_bomb_is_not_unpacked() -> None:
    with pytest.raises(TooLarge):
        plain(gzip.compress(bytes(100_000_000)), "gzip", 1000)
