"""Captions of sources: read whatever they look like, and put where the audio has them."""

import json
from typing import Any
from uuid import uuid4

import httpx
import pytest
from starlette.responses import JSONResponse, Response

from app.domain import TranscriptionSource
from app.embedded.panopto import PanoptoSimulator, Recording
from app.ingest.captions import fetch_captions, placed
from app.ingest.fetch.downloader import MediaDownloader
from app.ingest.model import CaptionSource, Edit
from app.ingest.net.guard import GuardedClient
from app.ingest.sources.panopto.delivery import ask_delivery
from app.ingest.sources.panopto.links import RecordingLink
from app.ingest.sources.ytdlp.subtitles import captions_of
from app.transcript.model import Transcript
from tests.support.panopto import IMPATIENT, MIB, request_for
from tests.support.sites import open_site

ROLLING = """WEBVTT
Kind: captions

00:00:00.000 --> 00:00:02.000 align:start position:0%
 \nhello<00:00:00.500><c> and</c><00:00:01.000><c> welcome</c>

00:00:02.000 --> 00:00:02.010
hello and welcome
 \n
00:00:02.010 --> 00:00:04.000
hello and welcome
to<00:00:03.000><c> algebra</c>

00:00:04.000 --> 00:00:04.010
to algebra
 \n
00:00:04.010 --> 00:00:06.000
to algebra
today
"""


async def heard(content: str | bytes, *edits: Edit, seconds: float = 100) -> Transcript | None:
    """Return what is made of a file of captions on some site."""
    async with open_site() as site:
        site.pages["/captions"] = lambda _: Response(content)
        client = GuardedClient([site.host_port])
        try:
            source = CaptionSource(f"{site.url}/captions", "en", edits)
            return await fetch_captions(client, (source,), seconds)
        finally:
            await client.close()


def lines(transcript: Transcript | None) -> list[tuple[float, float, str]]:
    found = transcript.segments if transcript else ()
    return [(round(each.start, 3), round(each.end, 3), each.text) for each in found]


@pytest.mark.parametrize(
    ("content", "expected"),
    [
        (
            "WEBVTT\n\nNOTE no\n\n1\n00:01.000 --> 00:02.000 line:0\n"
            "<v Ada>a &lt; b &amp; <i>c</i>",
            [(1, 2, "a < b & c")],
        ),
        (
            "\ufeff1\r\n00:00:01,000 --> 00:00:02,000\r\n<i>One</i>\r\ntwo, 1 < 2\r\n\r\n",
            [(1, 2, "One two, 1 < 2")],
        ),
        (
            "WEBVTT\n\n00:03.000 --> 00:05.000\nb\n\n00:01.000 --> 00:04.000\na",
            [(1, 3, "a"), (3, 5, "b")],
        ),
        ("WEBVTT\n\n00:01.000 --> 00:02.000\ncafe\u0301", [(1, 2, "caf\u00e9")]),
        ("WEBVTT\n\n00:03.000 --> 00:02.000\nodd", [(3, 8, "odd")]),
        ("WEBVTT\n\n01:39.000 --> 09:00.000\nlate", [(99, 100, "late")]),
        ("WEBVTT\n\n05:00.000 --> 06:00.000\nbehind the end", []),
        (ROLLING, [(0, 2, "hello and welcome"), (2.01, 4, "to algebra"), (4.01, 6, "today")]),
        (
            "WEBVTT\n\n00:00.000 --> 00:01.000\nno\n\n00:01.000 --> 00:02.000\nno\n\n"
            "00:02.000 --> 00:03.000\nyes\n\n00:03.000 --> 00:04.000\nwell",
            [(0, 1, "no"), (1, 2, "no"), (2, 3, "yes"), (3, 4, "well")],
        ),
    ],
)
async def test_captions_are_read(content: str, expected: list[tuple[float, float, str]]) -> None:
    assert lines(await heard(content)) == expected


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"\0" * 1000,
        b"\xff\xfe\x00",
        b"<!doctype html><title>Sign in</title>",
        b"WEBVTT",
        b"WEBVTT\n\n--> --> -->\n<<<<",
        b"1\n99999999999999:99:99,999 --> 00:00:00,000\nx",
        b"[" * 100_000,
        b"<" * 1_000_000,
        b"WEBVTT\n\n" + b"-->" * 1_000_000,
        b'[{"Caption": {}, "Time": "NaN"}, null, 7, {"Time": -1, "Caption": "x"}]',
        b'{"ErrorCode": 2, "ErrorMessage": "Sign in."}',
        b"WEBVTT\n\n" + b"x" * (9 * MIB),
    ],
)
async def test_hostile_captions_are_none(content: bytes) -> None:
    assert await heard(content) is None


async def test_cues_beyond_number_are_cut() -> None:
    cues = "".join(f"00:00.{n % 1000:03} --> 00:01.000\nx\n\n" for n in range(60_000))
    assert await heard(f"WEBVTT\n\n{cues}") is not None


def test_edits_cut_and_move_captions_and_keep_each_once() -> None:
    cues = [
        (0.0, 4.0, "cut"),
        (4.0, 8.0, "across"),
        (12.0, 13.0, "a"),
        (29.0, 31.5, "end"),
        (40.0, 41.0, "b"),
    ]
    edits = Edit(5, 15), Edit(30, 50)
    assert [(each.start, each.end, each.text) for each in placed(cues, edits, 30)] == [
        (0, 3, "across"),
        (7, 8, "a"),
        (10, 11.5, "end"),
        (20, 21, "b"),
    ]


def told(*entries: tuple[float, float, str]) -> list[dict[str, Any]]:
    names = "Time", "CaptionDuration", "Caption"
    return [dict(zip(names, entry, strict=True)) for entry in entries]


async def test_panopto_captions_follow_the_edits(
    simulator: PanoptoSimulator, recording: Recording, downloader: MediaDownloader
) -> None:
    recording.edits, recording.edit_places = ((5, 15), (20, 25)), (0, 12)
    recording.captions = {
        4: told((1, 2, "weg"), (6, 2, "Guten"), (21, 1, "Tag")),
        0: told((6, 1, "x")),
    }
    lecture = await downloader.resolve(request_for(simulator, recording))
    captions = await downloader.captions_of(lecture, 17)
    assert captions is not None
    assert (captions.language, captions.source) == ("de-DE", TranscriptionSource.CAPTIONS)
    assert (captions.model, captions.duration_seconds) == (None, 17)
    assert lines(captions) == [(1, 3, "Guten"), (13, 14, "Tag")]


async def test_an_unedited_stream_that_begins_late_moves_nothing(
    simulator: PanoptoSimulator, recording: Recording, downloader: MediaDownloader
) -> None:
    recording.starts_at_seconds, recording.captions = 5, {0: told((6, 2, "Hello"))}
    lecture = await downloader.resolve(request_for(simulator, recording))
    assert lines(await downloader.captions_of(lecture, 35)) == [(6, 8, "Hello")]


async def test_streams_that_follow_each_other_are_one_clock() -> None:
    def stream(start: float, end: float, *kept: tuple[float, float]) -> dict[str, Any]:
        cuts = [{"Start": first, "End": last} for first, last in kept]
        times = {"RelativeStart": start, "RelativeEnd": end, "RelativeSegments": cuts}
        return {"Tag": "DV", "StreamHttpUrl": f"/{start}.mp4", **times}

    session = {
        "Duration": 40,
        "AvailableLanguages": ["1", 1, None, "x", -1],
        "Streams": [stream(0, 20, (5, 15)), stream(20, 40, (2, 10))],
    }
    async with open_site() as site:
        path = "/Panopto/Pages/Viewer/DeliveryInfo.aspx"
        site.pages[path] = lambda _: JSONResponse({"Delivery": session})
        client = GuardedClient([site.host_port])
        delivery = await ask_delivery(client, RecordingLink(site.url, str(uuid4())))
        await client.close()
    (captions,) = delivery.captions
    assert captions.language == "en-GB"
    assert captions.edits == (Edit(5, 15, 0), Edit(22, 30, 20))


@pytest.mark.parametrize("answer", [403, 503, [], {"ErrorCode": 2}, "<html>Sign in</html>", "[{"])
async def test_where_a_language_fails_the_next_is_taken(
    simulator: PanoptoSimulator, recording: Recording, downloader: MediaDownloader, answer: Any
) -> None:
    recording.captions = {0: answer, 4: {"d": told((1, 1, "Hallo"))}}
    lecture = await downloader.resolve(request_for(simulator, recording))
    captions = await downloader.captions_of(lecture, 30)
    assert captions is not None
    assert (captions.language, captions.text) == ("de-DE", "Hallo")
    recording.captions = {0: answer}
    lecture = await downloader.resolve(request_for(simulator, recording))
    assert await downloader.captions_of(lecture, 30) is None


async def test_a_brought_stream_that_may_be_another_recording_has_no_captions(
    simulator: PanoptoSimulator, recording: Recording, downloader: MediaDownloader
) -> None:
    recording.captions, recording.duration_seconds = {0: told((1, 1, "Hello"))}, 0
    other = simulator.add(Recording(recording.media))
    for stream, expected in ((recording, 1), (other, 0)):
        asked = request_for(simulator, recording, stream_url=simulator.media_url(stream))
        lecture = await downloader.resolve(asked)
        assert len(lecture.captions) == expected


async def test_turned_off_nothing_is_asked_for(
    simulator: PanoptoSimulator, recording: Recording, client: GuardedClient
) -> None:
    recording.captions = {0: told((1, 1, "Hello"))}
    downloader = MediaDownloader(
        client,
        panopto_hosts=(simulator.host_port,),
        max_source_bytes=MIB,
        patience=IMPATIENT,
        captions=False,
    )
    lecture = await downloader.resolve(request_for(simulator, recording))
    assert await downloader.captions_of(lecture, 30) is None
    assert not [each for each in simulator.requests if "getCaptions" in each.query]


async def test_the_guard_judges_where_captions_are(client: GuardedClient) -> None:
    source = CaptionSource("http://127.0.0.1:9/captions.vtt", "en")
    assert await fetch_captions(client, (source,), 30) is None


def tracks(*names: str) -> dict[str, Any]:
    return {
        name: [
            {"ext": "json3", "url": f"https://s.example/{name}.json3"},
            {"ext": "srt", "url": f"https://s.example/{name}.srt"},
            {"ext": "vtt", "url": f"https://s.example/{name}.vtt"},
        ]
        for name in names
    }


@pytest.mark.parametrize(
    ("tag", "language"),
    [
        ("en_US", "en-US"),
        ("zh-Hant-TW", "zh-Hant-TW"),
        ("en-x-autogen", "en-x-autogen"),
        ("en-ehkg1hFWq8A", "en"),
        ("en-US-ehkg1hFWq8A", "en-US"),
        ("English", None),
        ("", None),
        ("e\0n", None),
        ("en\0", "en"),
        ("\ud800", None),
    ],
)
def test_a_language_is_a_tag_of_bcp_47_or_none(tag: str, language: str | None) -> None:
    """Whatever else a site calls it has no place in a row, and is no reason to fail."""
    (found,) = captions_of({"subtitles": tracks(tag)}, lambda _: None)
    assert found["language"] == language


@pytest.mark.parametrize(
    ("info", "expected"),
    [
        ({}, []),
        ({"subtitles": [], "automatic_captions": None, "language": 7}, []),
        ({"language": "de", "subtitles": tracks("en", "de")}, ["de", "en"]),
        ({"language": "de", "subtitles": tracks("en", "de-AT")}, ["de-AT", "en"]),
        ({"subtitles": tracks("fr"), "automatic_captions": tracks("en-orig", "de")}, ["fr", "en"]),
        ({"language": "de", "automatic_captions": tracks("en", "de", "fr")}, ["de"]),
        ({"automatic_captions": tracks("en", "de")}, []),
        ({"subtitles": {"live_chat": [{"ext": "json", "url": "https://s.example/"}]}}, []),
        ({"subtitles": {"en": [{"ext": "vtt", "url": 7}, {"ext": "vtt"}, None]}}, []),
        (
            {"subtitles": {"en": [{"ext": "vtt", "url": "https://s/", "protocol": "m3u8_native"}]}},
            [],
        ),
    ],
)
def test_which_subtitles_of_a_site_are_taken(info: dict[str, Any], expected: list[str]) -> None:
    found = captions_of(json.loads(json.dumps(info)), lambda _: None)
    assert [each["language"] for each in found] == expected
    assert all(httpx.URL(each["url"]).path.endswith(".vtt") for each in found)
