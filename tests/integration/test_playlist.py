"""What a media playlist says of runs, initialisation sections and keys (RFC 8216)."""

import pytest
from cryptography.hazmat.primitives.ciphers import Cipher, algorithms, modes
from cryptography.hazmat.primitives.padding import PKCS7
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from app.ingest.guard import GuardedClient
from app.ingest.hls import fetch_stream, open_stream
from app.ingest.playlist import ByteRange, MediaPlaylist, Part, parse_playlist
from app.ingest.protocols import MediaLocation, Run
from app.storage.local import LocalStorage
from tests.panopto import MIB, Reports
from tests.serving import serving

URL = "https://media.example/a/index.m3u8"


async def parts_of(lines: str) -> tuple[Part, ...]:
    text = f"#EXTM3U\n#EXT-X-TARGETDURATION:6\n{lines}\n#EXT-X-ENDLIST\n"
    playlist = await parse_playlist(text, URL)
    assert isinstance(playlist, MediaPlaylist)
    return playlist.parts


def names_of(parts: tuple[Part, ...]) -> list[str]:
    """Return the files' names, with a bar before those that start a run."""
    return [("|" if part.starts_run else "") + part.url.rpartition("/")[2] for part in parts]


@pytest.mark.parametrize(
    ("lines", "names"),
    [
        ("#EXTINF:1,\n1\n#EXTINF:1,\n2", ["1", "2"]),
        ("#EXT-X-DISCONTINUITY\n#EXTINF:1,\n1", ["1"]),
        ("#EXTINF:1,\n1\n#EXT-X-DISCONTINUITY\n#EXTINF:1,\n2\n#EXTINF:1,\n3", ["1", "|2", "3"]),
        (
            '#EXT-X-MAP:URI="a"\n#EXTINF:1,\n1\n#EXT-X-DISCONTINUITY\n#EXT-X-MAP:URI="b"\n'
            "#EXTINF:1,\n2\n#EXTINF:1,\n3",
            ["a", "1", "|b", "2", "3"],
        ),
        (
            '#EXT-X-MAP:URI="a"\n#EXTINF:1,\n1\n#EXT-X-DISCONTINUITY\n#EXTINF:1,\n2',
            ["a", "1", "|a", "2"],
        ),
        (
            '#EXT-X-MAP:URI="a"\n#EXTINF:1,\n1\n#EXT-X-MAP:URI="b"\n#EXTINF:1,\n2',
            ["a", "1", "|b", "2"],
        ),
        (
            '#EXT-X-MAP:URI="a"\n#EXTINF:1,\n1\n#EXT-X-MAP:URI="a"\n#EXTINF:1,\n2',
            ["a", "1", "2"],
        ),
    ],
)
async def test_a_discontinuity_starts_a_run_that_can_be_read_by_itself(
    lines: str, names: list[str]
) -> None:
    assert names_of(await parts_of(lines)) == names


async def test_a_section_in_another_range_of_the_file_is_another_one() -> None:
    parts = await parts_of(
        '#EXT-X-MAP:URI="a",BYTERANGE="10@0"\n#EXTINF:1,\n#EXT-X-BYTERANGE:5@10\na\n'
        '#EXT-X-DISCONTINUITY\n#EXT-X-MAP:URI="a",BYTERANGE="9@15"\n'
        "#EXTINF:1,\n#EXT-X-BYTERANGE:6@24\na\n#EXTINF:1,\n#EXT-X-BYTERANGE:7\na"
    )
    assert [part.byte_range for part in parts] == [
        ByteRange(0, 10),
        ByteRange(10, 5),
        ByteRange(15, 9),
        ByteRange(24, 6),
        ByteRange(30, 7),
    ]
    assert [part.starts_run for part in parts] == [False, False, True, False, False]


async def test_keys_change_and_a_section_keeps_the_one_that_it_was_named_under() -> None:
    parts = await parts_of(
        '#EXT-X-MEDIA-SEQUENCE:4\n#EXT-X-KEY:METHOD=AES-128,URI="k1",IV=0X0a\n'
        '#EXT-X-MAP:URI="a"\n#EXTINF:1,\n1\n'
        '#EXT-X-KEY:METHOD=AES-128,URI="k2"\n#EXTINF:1,\n2\n'
        "#EXT-X-DISCONTINUITY\n#EXTINF:1,\n3\n#EXT-X-KEY:METHOD=NONE\n#EXTINF:1,\n4"
    )
    keys = [part.key and (part.key.url.rpartition("/")[2], int(part.key.iv, 16)) for part in parts]
    assert names_of(parts) == ["a", "1", "2", "|a", "3", "4"]
    assert keys == [("k1", 10), ("k1", 10), ("k2", 5), ("k1", 10), ("k2", 6), None]


def encrypted(content: bytes, key: bytes, iv: int) -> bytes:
    padder = PKCS7(128).padder()
    cipher = Cipher(algorithms.AES128(key), modes.CBC(iv.to_bytes(16)))
    return cipher.encryptor().update(padder.update(content) + padder.finalize())


async def test_every_part_is_decrypted_with_its_own_key_and_iv(scratch: LocalStorage) -> None:
    """Keys change, the IV is named or is the number, sections are encrypted or are not."""
    one, two = b"1" * 16, b"2" * 16
    section = b"\0\0\0\x10ftyp" + b"f" * 8
    files = {
        "k1": one,
        "k2": two,
        "hidden": encrypted(section, one, 10),
        "open": section,
        "7": encrypted(b"seven", one, 10),
        "8": encrypted(b"eight", two, 8),
        "9": encrypted(b"nine", two, 9),
        "10": b"ten",
        "index.m3u8": (
            b"#EXTM3U\n#EXT-X-TARGETDURATION:2\n#EXT-X-MEDIA-SEQUENCE:7\n"
            b'#EXT-X-KEY:METHOD=AES-128,URI="k1",IV=0x0A\n#EXT-X-MAP:URI="hidden"\n'
            b'#EXTINF:1,\n7\n#EXT-X-KEY:METHOD=AES-128,URI="k2"\n#EXTINF:1.5,\n8\n'
            b'#EXT-X-DISCONTINUITY\n#EXT-X-MAP:URI="open"\n#EXTINF:1,\n9\n'
            b"#EXT-X-KEY:METHOD=NONE\n#EXTINF:1,\n10\n#EXT-X-ENDLIST\n"
        ),
    }

    async def file(request: Request) -> Response:
        return Response(files[request.path_params["name"]], media_type="application/octet-stream")

    async with serving(Starlette(routes=[Route("/{name}", file)])) as server:
        client = GuardedClient([f"127.0.0.1:{server.port}"])
        stream = await open_stream(client, MediaLocation("hls", f"{server.url}/index.m3u8"))
        stem, reports = "audio/one_source.1", Reports()
        fetched = await fetch_stream(client, stream, scratch, stem, reports, max_bytes=MIB)
        await client.close()
    stored = scratch.path_of(fetched.file.key).read_bytes()
    assert stored == section + b"seveneight" + section + b"nineten"
    assert fetched.runs == (Run(len(section) + len(b"seveneight"), 2.5),)
