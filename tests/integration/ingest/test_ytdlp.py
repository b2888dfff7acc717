"""A real extractor of yt-dlp in its child, whose only way out is the guard, over real sockets."""

import asyncio
import gzip
import json
import os
from collections.abc import AsyncIterator
from pathlib import Path
from uuid import uuid4

import pytest
from starlette.requests import Request
from starlette.responses import FileResponse, HTMLResponse, Response, StreamingResponse

from app.domain import LectureFailure
from app.errors import ConfigurationError, IngestFailed
from app.ingest.captions import fetch_captions
from app.ingest.model import LectureRequest, ResolvedLecture
from app.ingest.net.guard import GuardedClient
from app.ingest.sources.ytdlp.source import Budget, YtDlpSource, require_known
from tests.support.sites import Site, open_site
from tests.support.wait import wait_until

MIB = 1024 * 1024
DRIVE_ID = "0ByeS4oOUV-49Zzh4R1J6R09zazQ"


@pytest.fixture
async def site() -> AsyncIterator[Site]:
    """A site that may be reached."""
    async with open_site() as site:
        yield site


@pytest.fixture
async def canary() -> AsyncIterator[Site]:
    """A site that may not: whoever asks it for anything has come too far."""
    async with open_site() as canary:
        yield canary
        assert canary.asked == []


@pytest.fixture
async def client(site: Site) -> AsyncIterator[GuardedClient]:
    client = GuardedClient([site.host_port])
    yield client
    await client.close()


@pytest.fixture
def generic(client: GuardedClient) -> YtDlpSource:
    return YtDlpSource(client, ("generic",))


@pytest.fixture(autouse=True)
async def _no_child_is_left() -> AsyncIterator[None]:
    yield
    assert children() == []


def children() -> list[int]:
    listed = Path(f"/proc/self/task/{os.getpid()}/children").read_text()
    return [
        pid
        for pid in map(int, listed.split())
        if b"app.ingest.sandbox.child" in Path(f"/proc/{pid}/cmdline").read_bytes()
    ]


def asking(url: str, *, stream_url: str | None = None) -> LectureRequest:
    return LectureRequest(uuid4(), url, None, stream_url)


async def found(source: YtDlpSource, url: str) -> ResolvedLecture:
    lecture = await source.resolve(asking(url))
    assert lecture is not None
    return lecture


async def fails(source: YtDlpSource, url: str) -> IngestFailed:
    with pytest.raises(IngestFailed) as raised:
        await source.resolve(asking(url))
    for secret in ("127.0.0.1", "http", "/", "yt"):
        assert secret not in raised.value.message
    return raised.value


async def test_a_page_with_subtitles(site: Site, client: GuardedClient) -> None:
    track = '<track kind="subtitles" srclang="de" src="/media/de.vtt">'
    url = site.page("/week1", f'<video src="/media/a.mp4">{track}</video>')
    site.pages["/media/de.vtt"] = lambda _: Response("WEBVTT\n\n00:01.000 --> 00:02.000\nHallo")
    lecture = await found(YtDlpSource(client, ("generic",)), url)
    transcript = await fetch_captions(client, lecture.captions, 10)
    assert transcript is not None
    assert (transcript.language, transcript.text) == ("de", "Hallo")


async def test_a_page_with_a_video(site: Site, generic: YtDlpSource) -> None:
    url = site.page("/week1", '<video src="/media/a.mp4"></video>', title="Alge\tbra")
    lecture = await found(generic, url)
    assert lecture.title is not None
    assert "Alge" in lecture.title
    (medium,) = lecture.media
    assert (medium.kind, medium.url) == ("mp4", f"{site.url}/media/a.mp4")
    assert site.paths == ["/week1"]


async def test_a_page_with_sound(site: Site, generic: YtDlpSource) -> None:
    url = site.page("/week1", '<audio src="/a.mp3"></audio>')
    (medium,) = (await found(generic, url)).media
    assert (medium.kind, medium.url) == ("podcast", f"{site.url}/a.mp3")
    headers = dict(medium.headers)
    assert headers["Referer"] == url
    assert headers["User-Agent"].startswith("Mozilla/")
    assert set(headers) <= {"Accept", "Accept-Language", "Origin", "Referer", "User-Agent"}


async def test_a_page_that_tells_machines(site: Site, generic: YtDlpSource) -> None:
    body = {
        "@context": "https://schema.org",
        "@type": "VideoObject",
        "name": "Geometry",
        "contentUrl": f"{site.url}/g.mp4",
        "duration": "PT1M30S",
    }
    site.pages["/g.mp4"] = lambda _: Response(b"0" * 99, media_type="video/mp4")
    url = site.page("/g", f'<script type="application/ld+json">{json.dumps(body)}</script>')
    lecture = await found(generic, url)
    assert (lecture.title, lecture.duration_seconds) == ("Geometry", 90)
    assert [medium.url for medium in lecture.media] == [f"{site.url}/g.mp4"]


async def test_a_playlist_is_read_for_its_sound(site: Site, generic: YtDlpSource) -> None:
    master = (
        "#EXTM3U\n"
        '#EXT-X-MEDIA:TYPE=AUDIO,GROUP-ID="a",NAME="en",URI="sound.m3u8"\n'
        '#EXT-X-STREAM-INF:BANDWIDTH=900000,CODECS="avc1.4d401f,mp4a.40.2",AUDIO="a"\n'
        "picture.m3u8\n"
    )
    site.pages["/hls/master.m3u8"] = lambda _: Response(
        master, media_type="application/vnd.apple.mpegurl"
    )
    url = site.page("/h", '<video><source src="/hls/master.m3u8"></video>')
    medium = (await found(generic, url)).media[0]
    assert (medium.kind, medium.url) == ("hls", f"{site.url}/hls/sound.m3u8")


async def test_media_behind_a_link_without_a_name(
    site: Site, generic: YtDlpSource, tmp_path: Path
) -> None:
    """Of the file, only its head is fetched, however large it is."""
    sound = tmp_path / "a.mp3"
    sound.write_bytes(b"ID3" + bytes(32 * MIB))
    site.pages["/download"] = lambda _: FileResponse(sound, media_type="audio/mpeg")
    (medium,) = (await found(generic, f"{site.url}/download")).media
    assert (medium.kind, medium.url) == ("podcast", f"{site.url}/download")


async def test_redirects_are_followed_with_the_cookies_of_each_hop(
    site: Site, generic: YtDlpSource
) -> None:
    def welcome(_: Request) -> Response:
        answer = Response(status_code=302, headers={"Location": "/inside"})
        answer.set_cookie("seen", "1")
        return answer

    site.pages["/gate"] = welcome
    site.page("/inside", '<video src="/a.mp4"></video>')
    (medium,) = (await found(generic, f"{site.url}/gate")).media
    assert [each.headers.get("cookie") for each in site.asked][:2] == [None, "seen=1"]
    assert medium.cookie_header == "seen=1"


async def test_cookies_stay_with_their_host(site: Site) -> None:
    elsewhere = f"http://localhost:{site.port}"
    client = GuardedClient([site.host_port, f"localhost:{site.port}"])

    def away(_: Request) -> Response:
        answer = Response(status_code=302, headers={"Location": f"{elsewhere}/inside"})
        answer.set_cookie("seen", "1")
        return answer

    site.pages["/gate"] = away
    site.page("/inside", f'<video src="{elsewhere}/a.mp4"></video>')
    (medium,) = (await found(YtDlpSource(client, ("generic",)), f"{site.url}/gate")).media
    assert {each.headers.get("cookie") for each in site.asked} == {None}
    assert medium.cookie_header is None
    await client.close()


async def test_a_page_may_be_compressed(site: Site, generic: YtDlpSource) -> None:
    body = gzip.compress(b'<html><video src="/a.mp4"></video></html>')
    site.pages["/z"] = lambda _: HTMLResponse(body, headers={"Content-Encoding": "gzip"})
    assert (await found(generic, f"{site.url}/z")).media[0].url == f"{site.url}/a.mp4"


async def test_generic_is_off_unless_it_is_named(site: Site, client: GuardedClient) -> None:
    url = site.page("/week1", '<video src="/a.mp4"></video>')
    for extractors in (("youtube", "vimeo", "googledrive"), ("*",), ("g*",)):
        assert await YtDlpSource(client, extractors).resolve(asking(url)) is None
    assert site.asked == []


async def test_a_page_without_media_is_left_to_the_next(site: Site, generic: YtDlpSource) -> None:
    assert await generic.resolve(asking(site.page("/text", "<p>Nothing.</p>"))) is None


async def test_media_and_given_streams_cost_no_child(
    client: GuardedClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("app.ingest.sources.ytdlp.source.run_child", None)
    source = YtDlpSource(client, ("*", "generic"))
    assert await source.resolve(asking("https://example.org/a.MP3?x=1")) is None
    assert await source.resolve(asking("https://example.org/a/master.m3u8")) is None
    assert await source.resolve(asking("https://youtu.be/x", stream_url="https://a.org")) is None


@pytest.mark.parametrize(
    "body",
    [
        '<video src="/a.mp4"></video><video src="/b.mp4"></video>',
        '<video src="/a.mp4"></video><audio src="/b.mp3"></audio>',
    ],
)
async def test_several_recordings_are_none(site: Site, generic: YtDlpSource, body: str) -> None:
    failure = await fails(generic, site.page("/all", body))
    assert failure.failure is LectureFailure.SOURCE_NOT_FOUND
    assert "single recording" in failure.message
    assert site.paths == ["/all"]


@pytest.mark.parametrize(
    "url",
    [
        "https://www.youtube.com/playlist?list=PLxxxxxxxxxxxxxxxxx",
        "https://www.youtube.com/@someone",
        "https://vimeo.com/album/12345",
        f"https://drive.google.com/drive/folders/{DRIVE_ID}",
    ],
)
async def test_lists_of_allowed_sites_are_told_so_without_a_request(
    client: GuardedClient, url: str
) -> None:
    source = YtDlpSource(client, ("youtube", "vimeo", "googledrive"), Budget(requests=0))
    assert "single recording" in (await fails(source, url)).message


@pytest.mark.parametrize(
    "url",
    [
        "https://youtu.be/dQw4w9WgXcQ?list=PLxxxxxxxxxxxxxxxxx",
        "https://www.youtube.com/watch?v=dQw4w9WgXcQ&list=PLxxxxxxxxxxxxxxxxx&index=2",
        "https://www.youtube.com/live/dQw4w9WgXcQ",
        "https://vimeo.com/123456789",
        f"https://drive.google.com/file/d/{DRIVE_ID}/view",
    ],
)
async def test_one_recording_of_an_allowed_site_is_asked_for(
    client: GuardedClient, url: str
) -> None:
    """It gets as far as its first request, which the budget refuses."""
    source = YtDlpSource(client, ("youtube", "vimeo", "googledrive"), Budget(requests=0))
    assert (await fails(source, url)).failure is LectureFailure.TOO_LARGE


@pytest.mark.parametrize(
    ("status", "expected", "transient"),
    [
        (401, LectureFailure.LOGIN_REQUIRED, False),
        (403, LectureFailure.LOGIN_REQUIRED, False),
        (404, LectureFailure.SOURCE_NOT_FOUND, False),
        (410, LectureFailure.SOURCE_NOT_FOUND, False),
        (429, LectureFailure.NETWORK, True),
        (503, LectureFailure.NETWORK, True),
    ],
)
async def test_what_http_says(
    site: Site, generic: YtDlpSource, status: int, expected: LectureFailure, transient: bool
) -> None:
    site.pages["/w"] = lambda _: Response(status_code=status, headers={"Retry-After": "7"})
    failure = await fails(generic, f"{site.url}/w")
    assert (failure.failure, failure.transient) == (expected, transient)
    assert failure.retry_after_seconds == (7 if transient else None)


async def test_a_site_that_is_gone(site: Site) -> None:
    async with open_site() as gone:
        host_port = gone.host_port
    client = GuardedClient([host_port])
    failure = await fails(YtDlpSource(client, ("generic",)), f"http://{host_port}/w")
    assert (failure.failure, failure.transient) == (LectureFailure.NETWORK, True)
    await client.close()


async def test_redirects_without_end(site: Site, generic: YtDlpSource) -> None:
    failure = await fails(generic, site.redirect("/round", "/round"))
    assert failure.failure is LectureFailure.SOURCE_NOT_FOUND
    assert len(site.asked) <= 12


@pytest.mark.parametrize("way", ["link", "redirect", "playlist", "embed"])
async def test_an_inward_address_is_never_connected_to(
    site: Site, canary: Site, generic: YtDlpSource, way: str
) -> None:
    inward = f"{canary.url}/secret"
    if way == "link":
        failure = await fails(generic, inward)
    elif way == "redirect":
        failure = await fails(generic, site.redirect("/out", inward))
    elif way == "playlist":
        url = site.page("/p", f'<video><source src="{inward}.m3u8"></video>')
        failure = await fails(generic, url)
    else:
        url = site.page("/p", f'<meta http-equiv="refresh" content="0; url={inward}">')
        failure = await fails(generic, url)
    assert failure.failure is LectureFailure.BLOCKED_URL


@pytest.mark.parametrize(
    "target", ["file:///etc/passwd", "ftp://example.org/a", "gopher://x/", "http://10.0.0.1/"]
)
async def test_other_ways_out_are_refused(site: Site, generic: YtDlpSource, target: str) -> None:
    failure = await fails(generic, site.redirect("/out", target))
    assert failure.failure is LectureFailure.BLOCKED_URL


async def test_a_smuggled_message_to_an_extractor_is_dropped(
    site: Site, generic: YtDlpSource
) -> None:
    url = site.page("/w", '<video src="/a.mp4"></video>')
    smuggled = json.dumps({"referer": "https://evil.example.org/", "force_videoid": "evil"})
    await found(generic, f"{url}#__youtubedl_smuggle={smuggled.replace(' ', '')}")
    assert "evil" not in str(site.asked)


async def test_a_huge_page_is_bounded(site: Site, client: GuardedClient) -> None:
    async def long() -> AsyncIterator[bytes]:
        for _ in range(200):
            yield b"<p>" * (MIB // 3)
            await asyncio.sleep(0)

    site.pages["/huge"] = lambda _: StreamingResponse(long(), media_type="text/html")
    source = YtDlpSource(client, ("generic",), Budget(answer_bytes=2 * MIB))
    assert (await fails(source, f"{site.url}/huge")).failure is LectureFailure.TOO_LARGE
    assert site.paths == ["/huge"]


async def test_many_requests_are_bounded(site: Site, client: GuardedClient) -> None:
    site.redirect("/again", "/again")
    source = YtDlpSource(client, ("generic",), Budget(requests=3))
    failure = await fails(source, f"{site.url}/again")
    assert failure.failure is LectureFailure.TOO_LARGE
    assert len(site.asked) == 3


async def test_a_bomb_bursts_in_the_child(site: Site, generic: YtDlpSource) -> None:
    bomb = gzip.compress(bytes(256 * MIB), compresslevel=1)
    site.pages["/bomb"] = lambda _: HTMLResponse(bomb, headers={"Content-Encoding": "gzip"})
    failure = await fails(generic, f"{site.url}/bomb")
    assert failure.failure is LectureFailure.SOURCE_NOT_FOUND


async def test_a_slow_page_has_its_time(site: Site, client: GuardedClient) -> None:
    source = YtDlpSource(client, ("generic",), Budget(seconds=2))
    failure = await fails(source, f"{site.url}/stuck")
    assert (failure.failure, failure.transient) == (LectureFailure.TIMEOUT, True)


async def test_a_cancellation_leaves_no_process(site: Site, generic: YtDlpSource) -> None:
    asking_for_it = asyncio.create_task(generic.resolve(asking(f"{site.url}/stuck")))
    await wait_until(lambda: site.asked, "the page is asked for")
    (child,) = children()
    asking_for_it.cancel()
    with pytest.raises(asyncio.CancelledError):
        await asking_for_it
    with pytest.raises(ProcessLookupError):
        os.kill(child, 0)


async def test_the_child_has_no_connection_and_no_file_to_write(
    site: Site, generic: YtDlpSource
) -> None:
    asking_for_it = asyncio.create_task(generic.resolve(asking(f"{site.url}/stuck")))
    await wait_until(lambda: site.asked, "the page is asked for")
    (child,) = children()
    process = Path(f"/proc/{child}")
    targets = [str(entry.readlink()) for entry in (process / "fd").iterdir()]
    assert all(target.startswith(("socket:", "pipe:")) for target in targets), targets
    held = {target[8:-1] for target in targets if target.startswith("socket:")}
    for table in ("tcp", "tcp6", "udp", "udp6", "raw"):
        lines = (process / "net" / table).read_text().splitlines()[1:]
        assert not held & {line.split()[9] for line in lines}
    limits = (process / "limits").read_text()
    assert "Max file size             0 " in limits
    assert "NoNewPrivs:\t1" in (process / "status").read_text()
    site.page("/stuck", '<video src="/a.mp4"></video>')
    site.released.set()
    assert await asking_for_it is not None


async def test_nothing_is_written(site: Site, generic: YtDlpSource) -> None:
    homes = [Path.home() / ".cache" / "yt-dlp", Path.home() / ".config" / "yt-dlp"]
    before = [home.exists() for home in homes]
    here = sorted(Path.cwd().iterdir())
    await found(generic, site.page("/w", '<video src="/a.mp4"></video>'))
    assert [home.exists() for home in homes] == before
    assert sorted(Path.cwd().iterdir()) == here


async def test_plugins_and_configuration_of_the_account_are_not_read(
    site: Site, client: GuardedClient, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    plugin = tmp_path / "yt_dlp_plugins" / "extractor" / "evil.py"
    plugin.parent.mkdir(parents=True)
    plugin.write_text(f"open({str(tmp_path / 'made')!r}, 'w')")
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path))
    url = site.page("/w", '<video src="/a.mp4"></video>')
    await found(YtDlpSource(client, ("generic",)), url)
    assert not (tmp_path / "made").exists()


async def test_many_at_once(site: Site, generic: YtDlpSource) -> None:
    urls = [site.page(f"/w{n}", f'<video src="/{n}.mp4"></video>') for n in range(4)]
    lectures = await asyncio.gather(*[found(generic, url) for url in urls])
    assert [lecture.media[0].url[-6:] for lecture in lectures] == [f"/{n}.mp4" for n in range(4)]


async def test_the_names_of_extractors_are_checked_once_at_the_start() -> None:
    await require_known(("youtube", "vimeo", "googledrive", "*", "generic"))
    await require_known(("bbc*", "youtube:clip"))
    with pytest.raises(ConfigurationError) as raised:
        await require_known(("youtube", "youtub", "vimoe*"))
    assert raised.value.message == "SOURCES: yt-dlp has no extractor named youtub, vimoe*"


async def test_the_usual_names_are_extractors() -> None:
    """`require_known` takes them for granted."""
    await require_known(("[y]outube", "[v]imeo", "[g]oogledrive", "[g]eneric"))
