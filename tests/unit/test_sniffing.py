"""Bytes decide what an answer is; its type is a hint."""

import gzip
from pathlib import Path

import httpx
import pytest

from app.domain import LectureFailure
from app.errors import IngestFailed
from app.ingest.net.sniffing import form_of, form_of_file, media_chunks, require_media

MP4 = b"\x00\x00\x00\x20ftypisom" + bytes(500)
PAGE = b"<!DOCTYPE html><html><title>Sign in</title>" + b" " * 1000
GZIPPED = gzip.compress(MP4, mtime=0)
AT = "https://media.example/v.mp4"


@pytest.mark.parametrize(
    ("form", "heads"),
    {
        "playlist": [b"#EXTM3U\n", b"\xef\xbb\xbf\r\n #ext-x-version:3\n"],
        "page": [PAGE, b"<?xml version='1.0'?><MPD>", b" <!-- x --><p>", b"<br/>"],
        "media": [
            MP4,
            b"\x00\x00\x00\x18styp",
            b"\x00\x00\x01\x00moof<html>",
            b"G" + bytes(187) + b"G",
            b"\x1aE\xdf\xa3",
            b"OggS",
            b"fLaC",
            b"RIFF\x00\x00\x00\x00WAVE",
            b"ID3\x03",
            b"\xff\xfb\x90",
            b"\xff\xf1\x50",
            b"\x0bw",
        ],
        None: [b"", b"G", b"Gone.", b"\xff\xfe<\x00h\x00", b"#EX", b"< 5", b"<a\x00\x01", MP4[:7]],
    }.items(),
)
async def test_the_first_bytes_tell_what_it_is(
    form: str | None, heads: list[bytes], tmp_path: Path
) -> None:
    for head in heads:
        assert form_of(head) == form, head
        (tmp_path / "file").write_bytes(head)
        assert await form_of_file(tmp_path / "file") == form


@pytest.mark.parametrize("media_type", ["text/html", "application/xhtml+xml", "video/mp4", ""])
@pytest.mark.parametrize(
    "head",
    [
        MP4,
        MP4[:5],
        b"\xef\xbb\xbf\r\n#EXTM3U\n#EXT-X-VERSION:3\n",
        b"G" + bytes(range(256)),
        b"<a" + bytes(range(256)),
        b"ID3\x03\x00",
    ],
)
def test_media_is_media_whatever_its_label(media_type: str, head: bytes) -> None:
    require_media(media_type, AT, head)


@pytest.mark.parametrize(
    ("media_type", "head"),
    [
        ("text/html", PAGE),
        ("text/html", b"Not found."),
        ("text/html", b""),
        ("text/html", b"Gone."),
        ("application/xml", b"<Error><Code>AccessDenied</Code></Error>"),
        ("video/mp4", PAGE),
        ("", b"\xef\xbb\xbf \r\n<HTML lang=en>"),
        ("application/octet-stream", b"<!-- x --> <!-- y -->\n<head>"),
        ("text/xml", b'<?xml version="1.0"?>\n<!DOCTYPE html PUBLIC>'),
    ],
)
def test_a_page_is_a_page_whatever_its_label(media_type: str, head: bytes) -> None:
    for url, expected in (
        (AT, LectureFailure.SOURCE_NOT_FOUND),
        ("https://media.example/login", LectureFailure.LOGIN_REQUIRED),
    ):
        with pytest.raises(IngestFailed) as failure:
            require_media(media_type, url, head)
        assert failure.value.failure is expected


@pytest.mark.parametrize(
    ("encoding", "head", "fine"),
    [
        (None, MP4, True),
        ("identity", MP4, True),
        ("", MP4, True),
        ("utf-8", MP4, True),
        ("aws-chunked,", MP4, True),
        ("gzip", MP4, True),
        ("gzip", GZIPPED, False),
        ("aws-chunked, GZip", GZIPPED, False),
        ("br", MP4, False),
    ],
)
def test_a_label_that_names_no_compression_says_nothing(
    encoding: str | None, head: bytes, fine: bool
) -> None:
    if fine:
        require_media("video/mp4", AT, head, encoding)
    else:
        with pytest.raises(IngestFailed):
            require_media("video/mp4", AT, head, encoding)


@pytest.mark.parametrize("size", [1, 100, 10_000])
@pytest.mark.parametrize("label", ["text/html; charset=utf-8", "video/mp4"])
async def test_no_byte_is_lost_and_none_comes_of_a_page(size: int, label: str) -> None:
    assert await _chunks(MP4, size, label) == MP4
    assert await _chunks(b"\n" * 100 + MP4, size, label) == b"\n" * 100 + MP4
    with pytest.raises(IngestFailed):
        await _chunks(PAGE, size, label)


async def _chunks(body: bytes, size: int, label: str) -> bytes:
    async def pieces():  # type: ignore[no-untyped-def]
        for at in range(0, len(body), size):
            yield body[at : at + size]

    response = httpx.Response(
        200,
        headers={"content-type": label},
        content=pieces(),
        request=httpx.Request("GET", AT),
    )
    return b"".join([chunk async for chunk in media_chunks(response)])
