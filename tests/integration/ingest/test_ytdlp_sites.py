"""yt-dlp's own extractors of sites, run in the child, with answers of those sites written here."""

import json
from collections.abc import Callable, Mapping
from typing import Any
from urllib.parse import parse_qs, urlsplit

import pytest
from yt_dlp.cookies import YoutubeDLCookieJar
from yt_dlp.extractor.common import InfoExtractor
from yt_dlp.networking.exceptions import RequestError, TransportError
from yt_dlp.utils import ExtractorError, GeoRestrictedError, UnsupportedError, UserNotLive

from app.ingest.sandbox.channel import Message, answering
from app.ingest.sandbox.child import Refused
from app.ingest.sandbox.run import ChildRefused, run_child
from app.ingest.sources.ytdlp.extraction import (
    LoginRequired,
    Protected,
    _code_of,
    _recording,
    _teach_patience,
)
from app.ingest.sources.ytdlp.source import _LIMITS, _Recording

DRIVE_ID = "0ByeS4oOUV-49Zzh4R1J6R09zazQ"
DRIVE = f"https://drive.google.com/file/d/{DRIVE_ID}/view"
VIDEO_ID = "dQw4w9WgXcQ"
YOUTUBE = f"https://youtu.be/{VIDEO_ID}"
MEDIA = "https://media.example.org"
Answers = Callable[[str, str], tuple[int, str]]


async def extracted(url: str, extractor: str, answers: Answers) -> dict[str, Any]:
    """Run the extractor with these answers to method and URL: a status and a text."""

    async def answer(head: bytes, _: bytes) -> Message:
        question = json.loads(head)
        status, text = answers(question["method"], question["url"])
        kind = "application/json" if text.startswith("{") else "text/html; charset=utf-8"
        headers = [["Content-Type", kind], ["Set-Cookie", "NID=5; Domain=.google.com"]]
        return json.dumps({"status": status, "headers": headers, "cut": False}).encode(), (
            text.encode()
        )

    async with answering(answer) as channel:
        return await run_child(
            "app.ingest.sandbox.tasks.ytdlp",
            {"url": url, "extractors": [extractor], "channel": channel},
            limits=_LIMITS,
            timeout_seconds=60,
            descriptors=(channel,),
        )


async def refused(url: str, extractor: str, answers: Answers) -> str:
    with pytest.raises(ChildRefused) as raised:
        await extracted(url, extractor, answers)
    return raised.value.code


def drive(transcodes: Mapping[str, object]) -> Answers:
    """A file whose original cannot be had, so that its transcodes count."""
    playback = {
        "mediaMetadata": {"title": "Week 1.mp4", "duration": "45.069s"},
        "mediaStreamingData": {"formatStreamingData": transcodes},
    }

    def answers(_: str, url: str) -> tuple[int, str]:
        parts = urlsplit(url)
        if parts.hostname == "content-workspacevideo-pa.googleapis.com":
            return 200, json.dumps(playback)
        return 404, ""

    return answers


def transcode(name: str, **codecs: str) -> dict[str, object]:
    return {
        "url": f"{MEDIA}/{name}",
        "itag": 1,
        "transcodeMetadata": {"mimeType": "video/mp4", "contentLength": "900", **codecs},
    }


async def test_drive_gives_its_sound_alone() -> None:
    answers = drive(
        {
            "adaptiveTranscodes": [
                transcode("picture", videoCodecString="avc1"),
                transcode("sound", audioCodecString="mp4a.40.2"),
            ],
            "progressiveTranscodes": [
                transcode("both", audioCodecString="mp4a.40.2", videoCodecString="avc1")
            ],
        }
    )
    recording = await extracted(DRIVE, "googledrive", answers)
    assert recording["title"] == "Week 1.mp4"
    assert recording["duration_seconds"] == pytest.approx(45.069)
    media = [(each["kind"], each["url"]) for each in recording["media"]]
    assert media == [("podcast", f"{MEDIA}/sound"), ("mp4", f"{MEDIA}/both")]
    assert [each["cookie_header"] for each in recording["media"]] == [None, None]


async def test_drive_without_sound() -> None:
    answers = drive({"adaptiveTranscodes": [transcode("picture", videoCodecString="avc1")]})
    assert await refused(DRIVE, "googledrive", answers) == "silent"


async def test_a_site_that_answers_otherwise_than_it_used_to() -> None:
    assert await refused(DRIVE, "googledrive", lambda *_: (200, "<html></html>")) in {
        "broken",
        "unavailable",
    }


async def test_a_private_file() -> None:
    assert await refused(DRIVE, "googledrive", lambda *_: (403, "")) == "request"


def youtube(player: Mapping[str, object]) -> Answers:
    """A video whose player answers so, whichever of YouTube's clients asks."""
    details = {"videoId": VIDEO_ID, "title": "Limits", "lengthSeconds": "61", "author": "A"}

    def answers(_: str, url: str) -> tuple[int, str]:
        if urlsplit(url).path == "/youtubei/v1/player":
            return 200, json.dumps({"videoDetails": details, **player})
        return 200, "<html><body></body></html>"

    return answers


def adaptive(itag: int, kind: str, **more: object) -> dict[str, object]:
    return {
        "itag": itag,
        "url": f"{MEDIA}/{itag}?expire=1",
        "mimeType": kind,
        "bitrate": 130_000,
        "contentLength": "990000",
        "approxDurationMs": "61000",
        **more,
    }


async def test_youtube_gives_aac_without_a_javascript_runtime() -> None:
    formats = [
        adaptive(137, 'video/mp4; codecs="avc1.640028"', height=1080, width=1920),
        adaptive(140, 'audio/mp4; codecs="mp4a.40.2"', audioChannels=2),
        adaptive(251, 'audio/webm; codecs="opus"', audioChannels=2),
    ]
    player = {
        "playabilityStatus": {"status": "OK"},
        "streamingData": {"adaptiveFormats": formats, "expiresInSeconds": "20000"},
    }
    recording = await extracted(YOUTUBE, "youtube", youtube(player))
    assert (recording["title"], recording["duration_seconds"]) == ("Limits", 61)
    (medium,) = recording["media"]
    assert medium["kind"] == "podcast"
    assert urlsplit(medium["url"]).path == "/140"
    assert parse_qs(urlsplit(medium["url"]).query)["expire"] == ["1"]


@pytest.mark.parametrize(
    ("player", "code"),
    [
        (
            {
                "playabilityStatus": {"status": "LIVE_STREAM_OFFLINE", "reason": "Soon."},
                "videoDetails": {"videoId": VIDEO_ID, "title": "T", "isUpcoming": True},
            },
            "not_ready",
        ),
        ({"playabilityStatus": {"status": "ERROR", "reason": "Video unavailable"}}, "unavailable"),
        ({"playabilityStatus": {"status": "LOGIN_REQUIRED", "reason": "A bot?"}}, "unavailable"),
        (
            {
                "playabilityStatus": {"status": "OK"},
                "streamingData": {
                    "adaptiveFormats": [
                        adaptive(140, 'audio/mp4; codecs="mp4a.40.2"', drmFamilies=["WIDEVINE"])
                    ]
                },
            },
            "protected",
        ),
    ],
)
async def test_what_youtube_says(player: Mapping[str, object], code: str) -> None:
    assert await refused(YOUTUBE, "youtube", youtube(player)) == code


@pytest.mark.parametrize(
    ("info", "code"),
    [
        ({"live_status": "is_live", "url": "https://a.org/a.m3u8"}, "not_ready"),
        ({"live_status": "is_upcoming"}, "not_ready"),
        ({"live_status": "post_live"}, "not_ready"),
        ({"availability": "needs_auth"}, "login"),
        ({"availability": "private", "formats": []}, "login"),
        ({"availability": "public"}, "unavailable"),
        ({"_has_drm": True}, "protected"),
        ({"formats": [{"protocol": "https", "acodec": "none"}]}, "silent"),
    ],
)
def test_fields_that_tell_why_there_is_nothing(info: dict[str, Any], code: str) -> None:
    with pytest.raises(Refused) as raised:
        _recording(info, YoutubeDLCookieJar())
    assert raised.value.code == code


SOUND = {"url": f"{MEDIA}/a", "protocol": "https"}


def test_a_clip_is_a_stretch_of_its_recording() -> None:
    info = {**SOUND, "section_start": 5, "section_end": 9.5}
    assert _recording(info, YoutubeDLCookieJar())["segment"] == [5, 9.5]


@pytest.mark.parametrize("odd", [None, -1, float("nan"), float("inf"), "x", [], {}, True, 1e300])
def test_what_is_not_needed_of_a_page_costs_nothing(odd: object) -> None:
    sizes = dict.fromkeys(("filesize", "filesize_approx", "tbr"), odd)
    info = {"formats": [SOUND | sizes, SOUND], "title": odd, "duration": odd}
    info |= {"section_start": 3, "section_end": odd}
    recording = _Recording.model_validate(_recording(info, YoutubeDLCookieJar()))
    assert (recording.duration_seconds, recording.segment) == (0, None)
    assert len(recording.media) == 2


def test_a_title_cut_within_an_emoji_is_a_title() -> None:
    info = {**SOUND, "title": "Week \ud83d"}
    assert _Recording.model_validate(_recording(info, YoutubeDLCookieJar())).title == "Week "


def test_media_with_an_address_or_a_header_beyond_all_measure_cost_themselves_alone() -> None:
    long = {**SOUND, "url": f"{MEDIA}/{'a' * 20_000}"}
    talkative = {**SOUND, "http_headers": {"Referer": "r", "X-Long": "a" * 9000, "X-Odd": 1}}
    recording = _recording({"formats": [long, talkative]}, YoutubeDLCookieJar())
    (medium,) = _Recording.model_validate(recording).media
    assert (medium.url, medium.headers) == (SOUND["url"], {"Referer": "r"})


@pytest.mark.parametrize(
    ("error", "code"),
    [
        (LoginRequired("a"), "login"),
        (Protected("a"), "protected"),
        (GeoRestrictedError("a"), "elsewhere"),
        (UserNotLive(), "unavailable"),
        (ExtractorError("login required", expected=True), "unavailable"),
        (ExtractorError("a"), "broken"),
        (ExtractorError("a", cause=TransportError("b")), "request"),
        (ExtractorError("a", cause=ExtractorError("b", cause=TransportError("c"))), "request"),
        (RequestError("a"), "request"),
        (UnsupportedError("a"), "unsupported"),
    ],
)
def test_classes_of_errors_that_tell_what_went_wrong(error: Exception, code: str) -> None:
    assert _code_of(error, "https://example.org/", ["youtube"]) == code


def test_what_goes_wrong_with_subtitles_costs_them_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    class Site(InfoExtractor):  # type: ignore[misc]
        def _get_subtitles(self) -> object:
            raise KeyError("tracks")

        def _get_automatic_captions(self) -> object:
            raise ExtractorError("changed")

        def get_param(self, *_: object, **__: object) -> bool:
            return True

    for name in ("extract_subtitles", "extract_automatic_captions"):
        monkeypatch.setattr(InfoExtractor, name, getattr(InfoExtractor, name))  # Put back after.
    _teach_patience()
    assert Site().extract_subtitles() == {}
    assert Site().extract_automatic_captions() == {}
