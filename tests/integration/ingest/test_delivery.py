"""What DeliveryInfo is asked, and what its answers mean, told by a tenant of a few lines."""

import codecs
import json
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Any
from uuid import uuid4

import pytest
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import HTMLResponse, JSONResponse, RedirectResponse, Response
from starlette.routing import Route

from app.domain import LectureFailure
from app.errors import IngestFailed, NotReadyYet
from app.ingest.failures import LOGIN_ADVICE
from app.ingest.model import Edit
from app.ingest.net.guard import GuardedClient
from app.ingest.sources.panopto.delivery import Delivery, ask_delivery
from app.ingest.sources.panopto.links import RecordingLink
from tests.support.loop import MOST_SECONDS, ticking
from tests.support.serving import serving

PATH = "/Panopto/Pages/Viewer/DeliveryInfo.aspx"
GUID = str(uuid4())
STREAM = {"Tag": "DV", "StreamUrl": "https://media.example/a/master.m3u8"}
FORM = {
    "responseType": "json",
    "isEmbed": "true",
    "invocationId": "",
    "isLiveNotes": "false",
    "refreshAuthCookie": "true",
    "isActiveBroadcast": "false",
    "isEditing": "false",
    "isKollectiveAgentInstalled": "false",
}


def answer(streams: list[dict[str, Any]] | None = None, **delivery: Any) -> dict[str, Any]:
    """Return an answer with what is told of the session; all else is missing."""
    told = {"PublicID": GUID, "Streams": [STREAM] if streams is None else streams, **delivery}
    return {"SessionId": str(uuid4()), "Delivery": told}


class Tenant:
    """Answers with ``content``, or with what ``respond`` makes of the request."""

    def __init__(self) -> None:
        self.content: Any = answer()
        self.respond: Callable[[Request], Response | None] = lambda _: None
        self.asked: list[tuple[str, dict[str, str]]] = []
        self.base_url = ""
        self._client: GuardedClient | None = None

    @asynccontextmanager
    async def running(self) -> AsyncIterator["Tenant"]:
        routes = [Route("/{path:path}", self._answer, methods=["GET", "POST"])]
        async with serving(Starlette(routes=routes)) as server:
            self.base_url = server.url
            named = f"localhost:{server.port}"
            self._client = GuardedClient([f"127.0.0.1:{server.port}", named])
            yield self
            await self._client.close()

    async def ask(self, *, tid: str | None = None) -> Delivery:
        assert self._client
        link = RecordingLink(self.base_url, None if tid else GUID, tid)
        return await ask_delivery(self._client, link)

    async def refuses(self) -> IngestFailed:
        with pytest.raises(IngestFailed) as failure:
            await self.ask()
        return failure.value

    async def _answer(self, request: Request) -> Response:
        given = request.query_params if request.method == "GET" else await request.form()
        self.asked.append((request.method, {name: str(given[name]) for name in given}))
        return self.respond(request) or JSONResponse(self.content)


@pytest.fixture
async def tenant() -> AsyncIterator[Tenant]:
    async with Tenant().running() as tenant:
        yield tenant


async def test_it_is_asked_by_get_with_every_field(tenant: Tenant) -> None:
    await tenant.ask()
    await tenant.ask(tid="a b")
    assert tenant.asked == [
        ("GET", {"deliveryId": GUID, **FORM}),
        ("GET", {"tid": "a b", **FORM}),
    ]


async def test_it_is_asked_by_post_where_get_is_not_allowed(tenant: Tenant) -> None:
    tenant.respond = lambda request: Response("", 405) if request.method == "GET" else None
    assert (await tenant.ask()).session_id == GUID
    assert tenant.asked[1] == ("POST", {"deliveryId": GUID, **FORM})


@pytest.mark.parametrize("wrap", [lambda found: found, lambda found: {"d": found}])
async def test_an_answer_may_be_wrapped(
    tenant: Tenant, wrap: Callable[[dict[str, Any]], dict[str, Any]]
) -> None:
    tenant.content = wrap(answer(SessionName=" Algebra\n1 ", Duration=12.5))
    delivery = await tenant.ask()
    assert (delivery.title, delivery.duration_seconds) == (" Algebra\n1 ", 12.5)
    tenant.content = wrap({"ErrorCode": 2, "ErrorMessage": "Sign in."})
    failure = await tenant.refuses()
    assert (failure.failure, failure.transient) == (LectureFailure.LOGIN_REQUIRED, False)
    assert failure.message == LOGIN_ADVICE
    tenant.content = wrap(answer(IsActiveBroadcast=True))
    with pytest.raises(NotReadyYet):
        await tenant.ask()


def test_the_advice_tells_what_helps() -> None:
    for word in ("login", "signed-in browser", "stream", "request the lecture again"):
        assert word in LOGIN_ADVICE


async def test_a_late_identity_is_the_public_id(tenant: Tenant) -> None:
    tenant.content = answer(PublicID=f"{{{GUID.upper()}}}")
    assert (await tenant.ask(tid=str(uuid4()))).session_id == GUID
    tenant.content = answer(PublicID=None)
    delivery = await tenant.ask(tid=str(uuid4()))
    assert delivery.session_id == tenant.content["SessionId"]


@pytest.mark.parametrize("code", [1, 3, 4, -1, 1_000_000, "5"])
async def test_another_code_is_a_refusal(tenant: Tenant, code: object) -> None:
    tenant.content = {"ErrorCode": code, "ErrorMessage": "C:\\inetpub\\secret", **answer()}
    failure = await tenant.refuses()
    assert (failure.failure, failure.transient) == (LectureFailure.SOURCE_NOT_FOUND, False)
    assert failure.message == "Panopto does not have the recording."


@pytest.mark.parametrize(
    "content",
    [
        {},
        {"d": None},
        {"d": "text"},
        {"Delivery": None},
        {"Delivery": []},
        [],
        None,
        "text",
        answer(IsPurgedEncode=True),
        answer(streams=[]),
        answer(streams=[{"Tag": "DV", "StreamUrl": None, "StreamHttpUrl": None}]),
        answer(streams=[{"Tag": "DV", "StreamUrl": "http://[/x.m3u8"}]),
        answer(streams=[{"StreamUrl": "https://media.example/" + "x" * 20_000}]),
        answer(streams=["https://media.example/x.m3u8", 1, None]),
    ],
)
async def test_an_answer_that_names_nothing_is_not_found(tenant: Tenant, content: Any) -> None:
    tenant.content = content
    assert (await tenant.refuses()).failure is LectureFailure.SOURCE_NOT_FOUND


def as_bytes(**told: Any) -> bytes:
    return json.dumps(answer(**told)).encode()


@pytest.mark.parametrize(
    ("body", "title"),
    [
        (as_bytes(SessionName="Alg \ud83d"), "Alg "),
        (as_bytes(SessionName="\U0001f600"), "\U0001f600"),
        (codecs.BOM_UTF8 + as_bytes(SessionName="T"), "T"),
        (as_bytes(SessionName="T").decode().encode("utf-16"), "T"),
        (as_bytes(SessionName="#bung").replace(b"#", b"\xdc"), "\xdcbung"),
        (as_bytes(SessionName="#\u00e9").replace(b"\\u00e9", b"\xc3\xa9\xe2\x82"), "#\xe9\ufffd"),
        (as_bytes(SessionName="a#b").replace(b"#", b"\n"), "a\nb"),
        (b"callback(" + as_bytes(SessionName="T") + b");", "T"),
        (b")]}',\n" + as_bytes(SessionName="T"), "T"),
        (b"<html><pre>" + as_bytes(SessionName="T") + b"</pre>", "T"),
        (json.dumps({"d": json.dumps(answer(SessionName="T"))}).encode(), "T"),
        (as_bytes(SessionName="T", Extra=[1e400, float("nan"), 7]).replace(b"7", b"9" * 5000), "T"),
        (as_bytes(SessionName=101), "101"),
        (as_bytes(SessionName=["T"]), None),
        (as_bytes(SessionName=True), None),
    ],
)
async def test_a_name_is_read_however_it_is_sent(
    tenant: Tenant, body: bytes, title: str | None
) -> None:
    tenant.respond = lambda _: Response(body, media_type="application/json; charset=utf-8")
    delivery = await tenant.ask()
    assert delivery.title == title
    assert [place.url for place in delivery.media] == [STREAM["StreamUrl"]]


@pytest.mark.parametrize(
    ("told", "seconds"),
    [
        (12, 12), ("12.5", 12.5), (" 12 ", 12), (0, None), (-1, None), ("", None), ("soon", None),
        (None, None), (True, None), ([12], None), ({}, None), ("NaN", None), ("Infinity", None),
        (1e300, None), ("1" * 400, None),
    ],
)  # fmt: skip
async def test_an_odd_duration_is_none(tenant: Tenant, told: Any, seconds: float | None) -> None:
    tenant.content = answer(Duration=told)
    assert (await tenant.ask()).duration_seconds == seconds


@pytest.mark.parametrize("odd", [None, "", 0, "x", -1, 11, 1.5, True, [], [None], {}, {"a": 1}])
async def test_what_is_not_needed_costs_nothing(tenant: Tenant, odd: Any) -> None:
    fields = ("PublicID", "SessionName", "Duration", "IsAudioPodcastEncodeComplete")
    flags = ("IsPodcastEncodeComplete", "PodcastStreams", "Timestamps", "Contributors")
    of_stream = (
        "Tag",
        "ViewerMediaFileTypeName",
        "StreamHttpUrl",
        "RelativeSegments",
        "RelativeEnd",
    )
    told = answer(
        streams=[STREAM | dict.fromkeys(of_stream, odd), odd], **dict.fromkeys(fields, odd)
    )
    tenant.content = told | {"SessionId": odd, "DownloadUrl": odd, "ErrorMessage": odd}
    tenant.content["Delivery"] |= dict.fromkeys(flags, odd)
    media = (await tenant.ask()).media
    assert media[0].url == STREAM["StreamUrl"]
    assert media[0].edits == ()


@pytest.mark.parametrize("odd", [None, "", "x", 11, -1, 0.5, float("nan"), [], [None], {}])
async def test_a_flag_that_says_neither_is_no_reason_to_wait(tenant: Tenant, odd: Any) -> None:
    flags = ("IsActiveBroadcast", "IsViewerEncodeComplete", "IsPurgedEncode")
    body = json.dumps(answer(**dict.fromkeys(flags, odd)))
    tenant.respond = lambda _: Response(body, media_type="application/json")
    assert len((await tenant.ask()).media) == 1


@pytest.mark.parametrize("no", [False, 0, "false", "False", "0"])
async def test_a_flag_may_be_written_in_many_ways(tenant: Tenant, no: object) -> None:
    tenant.content = answer(IsViewerEncodeComplete=no)
    with pytest.raises(NotReadyYet):
        await tenant.ask()


@pytest.mark.parametrize("code", [None, "", 0, "0", 0.0, False, [], {}, "none"])
async def test_what_is_no_code_is_no_refusal(tenant: Tenant, code: object) -> None:
    tenant.content = answer() | {"ErrorCode": code}
    assert (await tenant.ask()).session_id == GUID


@pytest.mark.parametrize("code", [2, "2", 2.0])
async def test_a_login_is_told_by_its_code(tenant: Tenant, code: object) -> None:
    tenant.content = {"ErrorCode": code}
    assert (await tenant.refuses()).failure is LectureFailure.LOGIN_REQUIRED


async def test_one_stream_may_stand_where_a_list_should_be(tenant: Tenant) -> None:
    tenant.content = answer()
    tenant.content["Delivery"]["Streams"] = STREAM
    assert len((await tenant.ask()).media) == 1


@pytest.mark.parametrize(
    "body",
    [
        b'{"a":' * 500_000,
        b"[" + b"{}," * 2_500_000 + b"{}]",
        b'{"Delivery":{"Streams":[' + b'{"StreamUrl":"//[x"},' * 300_000 + b"null]}}",
        b'{"ErrorCode":' + b"9" * 4_000_000 + b"}",
    ],
    ids=["deep", "many", "streams", "digits"],
)
async def test_a_costly_answer_costs_the_loop_nothing(tenant: Tenant, body: bytes) -> None:
    tenant.respond = lambda _: Response(body, media_type="application/json")
    async with ticking() as ticks:
        assert (await tenant.refuses()).failure is LectureFailure.SOURCE_NOT_FOUND
    assert ticks.longest_seconds < MOST_SECONDS


async def test_what_goes_on_where_another_ended_is_the_rest_of_that_one(tenant: Tenant) -> None:
    def stream(name: str, start: float, end: float, tag: str = "DV") -> dict[str, Any]:
        url = f"https://media.example/{name}.m3u8"
        return {"Tag": tag, "StreamUrl": url, "RelativeStart": start, "RelativeEnd": end}

    tenant.content = answer(
        streams=[stream("a", 0, 12), stream("b", 12.02, 20), stream("c", 15, 20, "OBJECT")],
        Duration=20,
    )
    first, late = (await tenant.ask()).media
    assert [place.url[-6:] for place in (first, late)] == ["a.m3u8", "c.m3u8"]
    ((start, rest),) = first.then
    assert (start, rest.kind, rest.url[-6:], rest.edits) == (12.02, "hls", "b.m3u8", ())
    assert (late.edits, late.then) == ((Edit(0, 5, 15),), ())


async def test_each_rest_is_that_of_one_stream_and_a_chain_has_an_end(tenant: Tenant) -> None:
    def stream(name: str, start: float, end: float) -> dict[str, Any]:
        url = f"https://media.example/{name}"
        return {"Tag": "DV", "StreamUrl": url, "RelativeStart": start, "RelativeEnd": end}

    pieces = [stream(f"c{number}", 5 * number, 5 * number + 5) for number in range(2, 12)]
    tenant.content = answer(
        streams=[stream("a", 0, 10), stream("b", 0, 10), stream("b1", 10.01, 60), *pieces],
        Duration=60,
    )
    media = [
        [each.url.rpartition("/")[2] for each in (place, *(rest for _, rest in place.then))]
        for place in (await tenant.ask()).media
    ]
    assert media == [["a", *(f"c{number}" for number in range(2, 9))], ["b", "b1"]]


@pytest.mark.parametrize("heads", [8, 16, 24])
async def test_streams_that_may_be_joined_in_many_ways_cost_the_loop_nothing(
    tenant: Tenant, heads: int
) -> None:
    def stream(start: float, end: float) -> dict[str, Any]:
        kept = [piece(second, second + 0.5, second) for second in range(500)]
        url = f"https://media.example/{start}-{end}"
        places = {"StreamUrl": f"{url}.mp4", "StreamHttpUrl": f"{url}.m3u8"}
        told = {"RelativeStart": start, "RelativeEnd": end, "RelativeSegments": kept}
        return {"Tag": "DV", **places, **told}

    streams = [stream(number / 1000, 10) for number in range(heads)]
    streams += [stream(10 + 10 * number, 20 + 10 * number) for number in range(32 - heads)]
    body = json.dumps(answer(streams=streams, PodcastStreams=streams, Duration=600))
    tenant.respond = lambda _: Response(body, media_type="application/json")
    async with ticking() as ticks:
        assert len((await tenant.ask()).media) == 64
    assert ticks.longest_seconds < MOST_SECONDS


@pytest.mark.parametrize("body", [b"<!doctype html><title>Panopto</title>", b"", b"{", b"\xff{}"])
async def test_what_is_no_json_is_not_found_and_a_sign_in_page_a_login(
    tenant: Tenant, body: bytes
) -> None:
    tenant.respond = lambda _: HTMLResponse(body)
    assert (await tenant.refuses()).failure is LectureFailure.SOURCE_NOT_FOUND
    signing_in = "/Panopto/Pages/Auth/Login.aspx?ReturnUrl=x"
    tenant.respond = lambda request: (
        RedirectResponse(signing_in, 302) if request.url.path == PATH else HTMLResponse(body)
    )
    assert (await tenant.refuses()).failure is LectureFailure.LOGIN_REQUIRED


@pytest.mark.parametrize(
    ("delivery", "message"),
    [
        ({"IsActiveBroadcast": True}, "The recording is still live."),
        ({"IsActiveBroadcast": True, "IsViewerEncodeComplete": False}, "still live"),
        ({"IsViewerEncodeComplete": False}, "The recording is still being encoded."),
        ({"streams": [], "IsPodcastEncodeComplete": False}, "still being encoded"),
        ({"streams": [], "IsAudioPodcastEncodeComplete": False}, "still being encoded"),
    ],
)
async def test_what_is_not_ready_says_why(
    tenant: Tenant, delivery: dict[str, Any], message: str
) -> None:
    tenant.content = answer(**delivery)
    with pytest.raises(NotReadyYet, match=message):
        await tenant.ask()


async def test_flags_that_are_missing_or_of_other_media_are_no_reason_to_wait(
    tenant: Tenant,
) -> None:
    tenant.content = answer(IsPodcastEncodeComplete=False, IsAudioPodcastEncodeComplete=None)
    assert len((await tenant.ask()).media) == 1
    tenant.content = answer(IsBroadcast=True, IsActiveBroadcast=False, BroadcastEnded=True)
    assert len((await tenant.ask()).media) == 1


async def test_the_voice_comes_before_the_slides_and_each_place_once(tenant: Tenant) -> None:
    def stream(tag: str | None, name: str, **more: Any) -> dict[str, Any]:
        return {"Tag": tag, "StreamUrl": f"https://media.example/{name}", **more}

    tenant.content = answer(
        streams=[
            stream("OBJECT", "slides.m3u8"),
            stream(None, "unknown.m3u8"),
            stream("dv", "camera", ViewerMediaFileTypeName="hls"),
            stream("AUDIO", "voice.mp4", StreamHttpUrl="https://media.example/voice.mp4"),
        ],
        PodcastStreams=[stream(None, "podcast.mp4")],
    )
    media = (await tenant.ask()).media
    assert [(place.kind, place.url.rpartition("/")[2]) for place in media] == [
        ("hls", "camera"),
        ("hls", "unknown.m3u8"),
        ("mp4", "podcast.mp4"),
        ("mp4", "voice.mp4"),
        ("hls", "slides.m3u8"),
    ]


async def test_the_audio_podcast_is_first_and_belongs_to_who_answered(tenant: Tenant) -> None:
    """A tenant that answers under another name set its cookie for that one."""
    named = tenant.base_url.replace("127.0.0.1", "localhost")

    def moved(request: Request) -> Response:
        if request.url.hostname == "127.0.0.1":
            return RedirectResponse(f"{named}{PATH}?{request.url.query}", 301)
        return JSONResponse(tenant.content, headers={"set-cookie": ".ASPXAUTH=x; HttpOnly"})

    tenant.respond = moved
    tenant.content = answer(IsAudioPodcastEncodeComplete=True)
    tenant.content["DownloadUrl"] = "/Panopto/Podcast/Download/x.mp4"
    first, stream, last = (await tenant.ask()).media
    podcast = f"/Panopto/Podcast/Download/{GUID}.mp4?mediaTargetType=audioPodcast"
    assert (first.kind, first.url) == ("podcast", named + podcast)
    assert last.url == f"{named}/Panopto/Podcast/Download/x.mp4"
    assert (first.cookie_header, last.cookie_header) == (".ASPXAUTH=x", ".ASPXAUTH=x")
    assert stream.cookie_header is None


@pytest.mark.parametrize(
    ("gone", "sent"),
    [("", "first=1; x=2"), ("first=; Max-Age=0", "x=2"), ("=; é=1", "first=1; x=2")],
)
async def test_its_own_media_are_sent_what_its_chain_of_redirects_has_set(
    tenant: Tenant, gone: str, sent: str
) -> None:
    """But not what it has deleted since."""

    def with_cookie(request: Request) -> Response:
        if "first" not in request.cookies:
            return RedirectResponse(str(request.url), 302, headers={"set-cookie": "first=1"})
        response = JSONResponse(tenant.content)
        response.headers.append("set-cookie", "x=2; Path=/; HttpOnly")
        response.headers.append("set-cookie", gone)
        return response

    tenant.respond = with_cookie
    tenant.content = answer(streams=[{"Tag": "DV", "StreamUrl": "/voice.mp4"}])
    (place,) = (await tenant.ask()).media
    assert place.cookie_header == sent


def piece(start: object, end: object, place: object) -> dict[str, object]:
    return {"Start": start, "End": end, "RelativeStart": place}


@pytest.mark.parametrize(
    ("told", "edits"),
    [
        ({"RelativeSegments": [piece(272.022, 3469.773, 0)]}, [Edit(272.022, 3469.773)]),
        ({"RelativeSegments": [piece(272.022, 3469.773, 272.022)]}, [Edit(272.022, 3469.773)]),
        ({"RelativeSegments": [piece(0, 3595, 0)], "RelativeEnd": 3595}, []),
        ({"RelativeSegments": []}, []),
        ({"RelativeSegments": None}, []),
        ({"RelativeSegments": [None, "x", piece(None, None, 0), piece(9, "inf", 0)]}, []),
        ({"RelativeSegments": [None, piece("1", "2.5", None)]}, [Edit(1, 2.5)]),
        ({"RelativeSegments": piece(None, 10, "x")}, [Edit(0, 10)]),
        ({"RelativeStart": 0, "RelativeEnd": 3197.7}, []),
        (
            {"RelativeSegments": [piece(50, 60, 10), piece(0, 10, 0)]},
            [Edit(0, 10), Edit(50, 60)],
        ),
        (
            {"RelativeSegments": [piece(0, 10, 3), piece(50, 60, 20)]},
            [Edit(0, 10, 3), Edit(50, 60, 20)],
        ),
        (
            {"RelativeSegments": [piece(0, 10, None), piece(50, 60, 20)]},
            [Edit(0, 10), Edit(50, 60)],
        ),
        ({"RelativeSegments": [piece(0, 10, 3190)]}, [Edit(0, 10)]),
        ({"RelativeSegments": [piece(5, 5, 0), piece(-3, 10, 0)]}, [Edit(0, 10)]),
        ({"RelativeStart": 4.5, "RelativeEnd": 3197.7}, [Edit(0, 3193.2, 4.5)]),
    ],
)
async def test_a_raw_stream_is_cut_to_its_edits(
    tenant: Tenant, told: dict[str, Any], edits: list[Edit]
) -> None:
    tenant.content = answer(streams=[{**STREAM, **told}], Duration=3197.751)
    (place,) = (await tenant.ask()).media
    assert list(place.edits) == edits
