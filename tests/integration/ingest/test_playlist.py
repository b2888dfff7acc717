"""What playlists say (RFC 8216), however they are written."""

import pytest
from cryptography.hazmat.primitives.ciphers import Cipher, algorithms, modes
from cryptography.hazmat.primitives.padding import PKCS7
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from app.domain import LectureFailure
from app.errors import IngestFailed
from app.ingest.fetch.hls import fetch_stream
from app.ingest.fetch.playlist import (
    ByteRange,
    MasterPlaylist,
    MediaPlaylist,
    Piece,
    parse_playlist,
)
from app.ingest.model import Attempt, MediaLocation, RunStart
from app.ingest.net.guard import GuardedClient
from app.storage.local import LocalStorage
from tests.support.panopto import MIB, Reports, open_stream
from tests.support.serving import serving

URL = "https://media.example/a/index.m3u8"


async def playlist_of(lines: str) -> MediaPlaylist:
    text = f"#EXTM3U\n#EXT-X-TARGETDURATION:6\n{lines}\n#EXT-X-ENDLIST\n"
    playlist = await parse_playlist(text, URL)
    assert isinstance(playlist, MediaPlaylist)
    return playlist


async def pieces_of(lines: str) -> tuple[Piece, ...]:
    return (await playlist_of(lines)).pieces


def names_of(pieces: tuple[Piece, ...]) -> list[str]:
    """Return the files' names, with a bar before those that start a run."""
    return [("|" if piece.starts_run else "") + piece.url.rpartition("/")[2] for piece in pieces]


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
    assert names_of(await pieces_of(lines)) == names


async def test_a_section_in_another_range_of_the_file_is_another_one() -> None:
    pieces = await pieces_of(
        '#EXT-X-MAP:URI="a",BYTERANGE="10@0"\n#EXTINF:1,\n#EXT-X-BYTERANGE:5@10\na\n'
        '#EXT-X-DISCONTINUITY\n#EXT-X-MAP:URI="a",BYTERANGE="9@15"\n'
        "#EXTINF:1,\n#EXT-X-BYTERANGE:6@24\na\n#EXTINF:1,\n#EXT-X-BYTERANGE:7\na"
    )
    assert [piece.byte_range for piece in pieces] == [
        ByteRange(0, 10),
        ByteRange(10, 5),
        ByteRange(15, 9),
        ByteRange(24, 6),
        ByteRange(30, 7),
    ]
    assert [piece.starts_run for piece in pieces] == [False, False, True, False, False]


async def test_keys_change_and_a_section_keeps_the_one_that_it_was_named_under() -> None:
    pieces = await pieces_of(
        '#EXT-X-MEDIA-SEQUENCE:4\n#EXT-X-KEY:METHOD=AES-128,URI="k1",IV=0X0a\n'
        '#EXT-X-MAP:URI="a"\n#EXTINF:1,\n1\n'
        '#EXT-X-KEY:METHOD=AES-128,URI="k2"\n#EXTINF:1,\n2\n'
        "#EXT-X-DISCONTINUITY\n#EXTINF:1,\n3\n#EXT-X-KEY:METHOD=NONE\n#EXTINF:1,\n4"
    )
    keys = [
        piece.key and (piece.key.url.rpartition("/")[2], int(piece.key.iv, 16)) for piece in pieces
    ]
    assert names_of(pieces) == ["a", "1", "2", "|a", "3", "4"]
    assert keys == [("k1", 10), ("k1", 10), ("k2", 5), ("k1", 10), ("k2", 6), None]


PLAIN = "#EXTINF:6.016,\n1\n#EXTINF:4.5,\n2"
UNNEEDED = [
    "#EXT-X-TARGETDURATION:6.5",
    "#EXT-X-TARGETDURATION:",
    "#EXT-X-VERSION:3.0",
    "#EXT-X-VERSION:seven",
    "#EXT-X-MEDIA-SEQUENCE:0.0",
    "#EXT-X-MEDIA-SEQUENCE:",
    "#EXT-X-MEDIA-SEQUENCE:-1",
    "#EXT-X-MEDIA-SEQUENCE:" + "9" * 5000,
    "#EXT-X-DISCONTINUITY-SEQUENCE:x",
    "#EXT-X-PROGRAM-DATE-TIME:",
    "#EXT-X-PROGRAM-DATE-TIME:2024-10-20T11:48:60Z",
    "#EXT-X-PROGRAM-DATE-TIME:Sun, 20 Oct 2024 11:48:18 GMT",
    "#EXT-X-DATERANGE:",
    '#EXT-X-DATERANGE:ID="a,b",START-DATE="never",DURATION=x,X-COM="\\"",END-ON-NEXT=MAYBE',
    "#EXT-X-START:TIME-OFFSET=abc",
    "#EXT-X-BITRATE:abc",
    "#EXT-X-ALLOW-CACHE:MAYBE",
    "#EXT-X-SERVER-CONTROL:PART-HOLD-BACK=x",
    "#EXT-X-PART-INF:PART-TARGET=x",
    "#EXT-X-PART:DURATION=x",
    "#EXT-X-PRELOAD-HINT:TYPE=?",
    "#EXT-X-RENDITION-REPORT:",
    "#EXT-X-CUE-OUT:DURATION=",
    "#EXT-X-CUE-OUT-CONT:x/y",
    "#EXT-OATCLS-SCTE35:%%%",
    "#EXT-X-SCTE35:",
    "#EXT-X-ASSET:CAID=",
    "#EXT-X-KEY:METHOD=NONE,IV=nothing",
    "#EXT-X-KEY:METHOD = NONE",
    '#EXT-X-SESSION-KEY:METHOD=SAMPLE-AES,URI="skd://x"',
    "#EXT-X-PLAYLIST-TYPE:EVENT",
    "#EXT-X-PLAYLIST-TYPE:",
    "#EXT-X-INDEPENDENT-SEGMENTS:YES",
    "# a comment: with, a colon",
    "#KEY:METHOD=AES-128",
    "#",
    "#EXT",
    "#EXTM3U",
    "#EXTVLCOPT:http-user-agent=x",
]


@pytest.mark.parametrize("tag", UNNEEDED, ids=lambda tag: tag[:60])
async def test_a_tag_that_no_download_needs_costs_nothing(tag: str) -> None:
    assert await pieces_of(f"{tag}\n{PLAIN}") == await pieces_of(PLAIN)
    assert await pieces_of(PLAIN.replace("1\n", f"1\n{tag}\n")) == await pieces_of(PLAIN)


@pytest.mark.parametrize(
    ("extinf", "seconds", "slack_seconds"),
    [
        ("#EXTINF:6.016,", 6.016, 0.001),
        ("#EXTINF:6.016000,title", 6.016, 0),
        ("#EXTINF: 6.016 ,", 6.016, 0.001),
        ("#EXTINF:6.016", 6.016, 0.001),
        ("#EXTINF:6.016s,", 6.016, 0.001),
        ("#EXTINF:6.016;title", 6.016, 0.001),
        ('#EXTINF:6.016 tvg-id="x",a title, with a comma', 6.016, 0.001),
        ("#extinf:6.016,", 6.016, 0.001),
        ("  #EXTINF:6.016,", 6.016, 0.001),
        ("#EXTINF:6.,", 6, 1),
        ("#EXTINF:6,", 6, 1),
        ("#EXTINF:6,5,", 6, 1),
        ("#EXTINF:6.5,", 6.5, 0.1),
        ("#EXTINF:0,", 0, 1),
    ],
)
async def test_a_duration_is_as_exact_as_it_is_written(
    extinf: str, seconds: float, slack_seconds: float
) -> None:
    playlist = await playlist_of(f"{extinf}\n1\n#EXTINF:1.000000,\n2")
    assert playlist.duration_seconds == pytest.approx(seconds + 1)
    assert playlist.slack_seconds == pytest.approx(slack_seconds, abs=1e-5)


@pytest.mark.parametrize(
    "extinf", ["#EXTINF:abc,", "#EXTINF:nan,", "#EXTINF:inf,", "#EXTINF:-1,", "#EXTINF:1e9,", ""]
)
async def test_a_duration_that_is_not_told_is_the_medias_own(extinf: str) -> None:
    extinf = extinf.replace("1e9", "9" * 400)
    playlist = await playlist_of(f"{extinf}\n1\n#EXTINF:4,\n2")
    assert names_of(playlist.pieces) == ["1", "2"]
    assert playlist.duration_seconds is None


async def test_the_last_of_the_segments_in_whole_seconds_may_be_any_rest() -> None:
    playlist = await playlist_of("#EXTINF:6,\n1\n#EXTINF:6,\n2\n#EXTINF:6,\n3")
    assert (playlist.duration_seconds, playlist.slack_seconds) == (18, 8)


@pytest.mark.parametrize(
    "text",
    [
        f"#EXTM3U\n{PLAIN}\n#EXT-X-ENDLIST",
        f"#EXTM3U\r\n\r\n{PLAIN}\r\n#EXT-X-ENDLIST\r\n".replace("\n1\n", "\n1 \r\n"),
        f"#EXTM3U\n{PLAIN}\n#EXT-X-ENDLIST".replace("\n", "\r"),
        f"#EXTM3U\n#EXT-X-PLAYLIST-TYPE:VOD\n{PLAIN}",
        f"#EXTM3U\n#EXT-X-PLAYLIST-TYPE: vod\n{PLAIN}",
        f"#EXTM3U\n#EXT-X-PLAYLIST-TYPE:VOD#EXT-X-ALLOW-CACHE:YES\n{PLAIN}",
        f"#EXTM3U\n#EXT-X-ENDLIST\n{PLAIN}",
        f"#EXT-X-VERSION:3\n{PLAIN}\n#ext-x-endlist",
    ],
)
async def test_the_end_is_said_in_many_ways(text: str) -> None:
    playlist = await parse_playlist(text, URL)
    assert isinstance(playlist, MediaPlaylist)
    assert playlist.ended
    assert playlist.pieces == await pieces_of(PLAIN)


async def test_without_an_end_more_may_come() -> None:
    for kind in ("", "#EXT-X-PLAYLIST-TYPE:EVENT\n", "#EXT-X-PLAYLIST-TYPE:LIVE\n"):
        playlist = await parse_playlist(f"#EXTM3U\n{kind}{PLAIN}\n", URL)
        assert isinstance(playlist, MediaPlaylist)
        assert not playlist.ended


@pytest.mark.parametrize(
    ("written", "url"),
    [
        ("1.ts?a=b,c#t", "https://media.example/a/1.ts?a=b,c#t"),
        ("/1.ts", "https://media.example/1.ts"),
        ("//cdn.example/1.ts", "https://cdn.example/1.ts"),
        ("../b c.ts", "https://media.example/b%20c.ts"),
        ("  1.ts\t", "https://media.example/a/1.ts"),
        ("?part=1", "https://media.example/a/index.m3u8?part=1"),
    ],
)
async def test_addresses_are_relative_to_the_playlist(written: str, url: str) -> None:
    (piece,) = await pieces_of(f"#EXTINF:1,\n{written}")
    assert piece.url == url


async def test_ranges_follow_each_other_in_each_file() -> None:
    pieces = await pieces_of(
        '#EXT-X-MAP:BYTERANGE="10", URI = "a"\n#EXT-X-BYTERANGE:5\n#EXTINF:1,\na\n'
        "#EXTINF:1,\n#EXT-X-BYTERANGE: 6@2\nb\n#EXTINF:1,\n#EXT-X-BYTERANGE:7\na\n"
        '#EXTINF:1,\n#EXT-X-BYTERANGE:"8"\nb'
    )
    assert [(piece.url[-1], piece.byte_range) for piece in pieces] == [
        ("a", ByteRange(0, 10)),
        ("a", ByteRange(10, 5)),
        ("b", ByteRange(2, 6)),
        ("a", ByteRange(15, 7)),
        ("b", ByteRange(8, 8)),
    ]


OF_FAIRPLAY = (
    '#EXT-X-KEY:METHOD=SAMPLE-AES,URI="skd://x",KEYFORMAT="com.apple.streamingkeydelivery"'
)


@pytest.mark.parametrize(
    "tags",
    [
        '#EXT-X-KEY:METHOD=AES-128,URI="k,1",IV=0xA',
        '#EXT-X-KEY: METHOD = AES-128 , URI = "k,1" , IV = 0XA',
        '#EXT-X-KEY:METHOD=aes-128,URI="k,1",IV="a",KEYFORMAT="identity",KEYFORMATVERSIONS="1"',
        f'{OF_FAIRPLAY}\n#EXT-X-KEY:METHOD=AES-128,URI="k,1",IV=0x0A',
        f'#EXT-X-KEY:METHOD=AES-128,URI="k,1",IV=0x0A\n{OF_FAIRPLAY}',
        f'{OF_FAIRPLAY}\n#EXT-X-KEY:METHOD=NONE\n#EXT-X-KEY:METHOD=AES-128,URI="k,1",IV=10',
        '#EXT-X-MEDIA-SEQUENCE:10x\n#EXT-X-KEY:METHOD=AES-128,URI="k,1",IV=',
    ],
)
async def test_a_key_that_is_given_away_is_found(tags: str) -> None:
    (piece,) = await pieces_of(f"{tags.replace('IV=10', 'IV=0a')}\n#EXTINF:1,\n1")
    assert piece.key
    assert (piece.key.url, int(piece.key.iv, 16)) == ("https://media.example/a/k,1", 10)


@pytest.mark.parametrize(
    "lines",
    [
        f"{OF_FAIRPLAY}\n#EXTINF:1,\n1",
        '#EXT-X-KEY:METHOD=SAMPLE-AES,URI="k"\n#EXTINF:1,\n1',
        '#EXT-X-KEY:METHOD=AES-256,URI="k"\n#EXTINF:1,\n1',
        "#EXT-X-KEY:METHOD=AES-128\n#EXTINF:1,\n1",
        '#EXT-X-KEY:METHOD=AES-128,URI=""\n#EXTINF:1,\n1',
        "#EXT-X-KEY:\n#EXTINF:1,\n1",
        '#EXT-X-KEY:METHOD=AES-128,URI="k",IV=0xg\n#EXTINF:1,\n1',
        '#EXT-X-KEY:METHOD=AES-128,URI="k",IV=0x' + "f" * 40 + "\n#EXTINF:1,\n1",
        '#EXT-X-MEDIA-SEQUENCE:x\n#EXT-X-KEY:METHOD=AES-128,URI="k"\n#EXTINF:1,\n1',
        "#EXT-X-MAP:\n#EXTINF:1,\n1",
        '#EXT-X-MAP:URI="a",BYTERANGE="x"\n#EXTINF:1,\n1',
        "#EXTINF:1,\n#EXT-X-BYTERANGE:\n1",
        "#EXTINF:1,\n#EXT-X-BYTERANGE:x@y\n1",
        "#EXTINF:1,\n#EXT-X-BYTERANGE:0@0\n1",
        "#EXTINF:1,\n#EXT-X-BYTERANGE:5@-1\n1",
        f"#EXTINF:1,\n#EXT-X-BYTERANGE:5@{2**63}\n1",
        "#EXTINF:1,\n#EXT-X-BYTERANGE:5@" + "9" * 5000 + "\n1",
        "#EXTINF:1,\n#EXTINF:1,\n2",
        "#EXTINF:1,\n1\n#EXTINF:1,",
        "#EXTINF:1,\na.ts\n" * 50_001,
    ],
)
async def test_what_is_needed_and_wrong_costs_the_stream(lines: str) -> None:
    with pytest.raises(IngestFailed) as failure:
        await pieces_of(lines)
    assert failure.value.failure is LectureFailure.SOURCE_NOT_FOUND
    assert not failure.value.transient


SOUND = '#EXT-X-MEDIA:TYPE=AUDIO,GROUP-ID="s",NAME="a, b",DEFAULT=YES,URI="s"'
IN_PICTURES = '#EXT-X-MEDIA:TYPE=AUDIO,GROUP-ID="m",NAME="en",DEFAULT=YES'
COMMENT = '#EXT-X-MEDIA:TYPE=AUDIO,GROUP-ID="m",NAME="comment",URI="comment"'


@pytest.mark.parametrize(
    ("lines", "names"),
    [
        # The pictures of a sound that lies apart are no choice.
        (f'{SOUND}\n#EXT-X-STREAM-INF:BANDWIDTH=1,AUDIO="s"\npictures', ["s alone"]),
        # Elsewhere the sound may be with the pictures too.
        (
            f'{SOUND}\n#EXT-X-STREAM-INF:BANDWIDTH=1,AUDIO="s"\npictures\n'
            "#EXT-X-STREAM-INF:BANDWIDTH=2\nboth",
            ["s alone", "both"],
        ),
        # A group without a name is nobody's.
        (
            '#EXT-X-MEDIA:TYPE=AUDIO,URI="s"\n#EXT-X-STREAM-INF:BANDWIDTH=1\nboth',
            ["s alone", "both"],
        ),
        # A variant of sound alone is named beside its group.
        (
            f'{SOUND}\n#EXT-X-STREAM-INF:BANDWIDTH=1,AUDIO="s",CODECS="mp4a.40.2"\nvoice',
            ["s alone", "voice"],
        ),
        # The default is in the pictures, and a comment lies apart.
        (
            f'{IN_PICTURES}\n{COMMENT}\n#EXT-X-STREAM-INF:BANDWIDTH=9,AUDIO="m"\nhigh\n'
            '#EXT-X-STREAM-INF:BANDWIDTH=2,AUDIO="m"\nlow',
            ["low", "high", "comment alone"],
        ),
        # Codecs are often written badly, and sound is left out of them.
        (
            '#EXT-X-STREAM-INF:BANDWIDTH=1,CODECS="avc1.64"\nsilent\n'
            '#EXT-X-STREAM-INF:BANDWIDTH=3,CODECS="h264, AAC"\nloud\n'
            '#EXT-X-STREAM-INF:BANDWIDTH=2,CODECS=""\nunknown',
            ["unknown", "loud", "silent"],
        ),
        # A bandwidth that is not told comes last.
        (
            "#EXT-X-STREAM-INF:CODECS=x\n1\n#EXT-X-STREAM-INF:BANDWIDTH=x\n2\n"
            "#EXT-X-STREAM-INF:AVERAGE-BANDWIDTH=7.5\n# Notes\n\n3",
            ["3", "1", "2"],
        ),
        # An address that is none costs no other.
        (
            "#EXT-X-STREAM-INF:BANDWIDTH=1\nhttp://[\n#EXT-X-STREAM-INF:BANDWIDTH=2\n2",
            ["[", "2"],
        ),
        # Each once, spare hosts behind.
        (
            "#EXT-X-STREAM-INF:BANDWIDTH=1\n//a.example/1\n#EXT-X-STREAM-INF:BANDWIDTH=1\n"
            "//b.example/2\n#EXT-X-STREAM-INF:BANDWIDTH=1\n//a.example/1",
            ["1", "2"],
        ),
        # What needs no download is passed over, however it is written.
        (
            "#EXT-X-MEDIA:TYPE=SUBTITLES\n#EXT-X-MEDIA:\n#EXT-X-I-FRAME-STREAM-INF:BANDWIDTH=x\n"
            "#EXT-X-SESSION-DATA:DATA-ID\n#EXT-X-CONTENT-STEERING:\n#EXT-X-STREAM-INF:\n1",
            ["1"],
        ),
    ],
)
async def test_a_master_names_its_choices_best_first(lines: str, names: list[str]) -> None:
    master = await parse_playlist(f"#EXTM3U\n{lines}\n", URL)
    assert isinstance(master, MasterPlaylist)
    found = [(choice.url.rpartition("/")[2], choice.is_rendition) for choice in master.choices]
    assert [name + (" alone" if alone else "") for name, alone in found] == names


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
        fetched = await fetch_stream(client, stream, Attempt(scratch, stem, reports), max_bytes=MIB)
        await client.close()
    stored = scratch.path_of(fetched.file.key).read_bytes()
    assert stored == section + b"seveneight" + section + b"nineten"
    assert fetched.runs == (RunStart(len(section) + len(b"seveneight"), 2.5, slack_seconds=1.1),)


BOX = b"\0\0\0\xbcmoof" + bytes(range(180))
AES = b"k" * 16


@pytest.mark.parametrize(
    ("key", "segment"),
    [
        (AES + b"\n", encrypted(BOX, AES, 0)),
        (AES + b"\r\n", encrypted(BOX, AES, 0)),
        (AES, encrypted(BOX + bytes(4), AES, 0)[:192]),  # Not padded.
        (AES, BOX),  # Not encrypted.
        (AES, BOX + bytes(4)),  # Nor that, and of whole blocks.
    ],
)
async def test_media_are_taken_as_they_are(
    scratch: LocalStorage, key: bytes, segment: bytes
) -> None:
    stored = await stored_of(scratch, key, segment)
    assert stored[:188] == BOX


@pytest.mark.parametrize(
    ("key", "failure"),
    [
        (b"short", LectureFailure.SOURCE_NOT_FOUND),
        (AES + b"k", LectureFailure.SOURCE_NOT_FOUND),
        (b"x" * 16, LectureFailure.SOURCE_NOT_FOUND),
    ],
)
async def test_without_the_key_there_is_no_recording(
    scratch: LocalStorage, key: bytes, failure: LectureFailure
) -> None:
    with pytest.raises(IngestFailed) as raised:
        await stored_of(scratch, key, encrypted(BOX, AES, 0))
    assert raised.value.failure is failure


async def stored_of(scratch: LocalStorage, key: bytes, segment: bytes) -> bytes:
    text = '#EXTM3U\n#EXT-X-KEY:METHOD=AES-128,URI="key"\n#EXTINF:1,\n1\n#EXT-X-ENDLIST\n'
    files = {"index.m3u8": text.encode(), "key": key, "1": segment}

    async def file(request: Request) -> Response:
        # The type that a careless script sends.
        return Response(files[request.path_params["name"]], media_type="text/html")

    async with serving(Starlette(routes=[Route("/{name}", file)])) as server:
        client = GuardedClient([f"127.0.0.1:{server.port}"])
        try:
            stream = await open_stream(client, MediaLocation("hls", f"{server.url}/index.m3u8"))
            fetched = await fetch_stream(
                client, stream, Attempt(scratch, "audio/one_source.1", Reports()), max_bytes=MIB
            )
        finally:
            await client.close()
    return scratch.path_of(fetched.file.key).read_bytes()
