"""What every source promises, and the README's example of one, over real sockets."""

import re
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from uuid import uuid4

import pytest
from starlette.responses import FileResponse, PlainTextResponse

from app.domain import LectureFailure
from app.embedded.panopto import PanoptoSimulator, Recording
from app.embedded.sample_media import make_audio
from app.errors import IngestFailed, NotReadyYet
from app.ingest.extract import PyAvAudioExtractor
from app.ingest.fetch.downloader import MediaDownloader
from app.ingest.model import Attempt, LectureRequest, LectureSource, ResolvedLecture
from app.ingest.net.guard import GuardedClient
from app.ingest.pipeline import AudioPipeline
from app.ingest.sources.direct import DirectSource
from app.ingest.sources.panopto.source import PanoptoSource
from app.ingest.sources.registry import resolve_by, sources_of
from app.ingest.sources.ytdlp.source import YtDlpSource
from app.settings import load_settings
from app.storage.local import LocalStorage
from tests.support.panopto import IMPATIENT, MIB, Reports, download_first, files_in
from tests.support.sites import Site, open_site

README = Path(__file__).resolve().parents[3] / "README.md"
NOT_FOUND = "/nothing/here"


@pytest.fixture
async def site() -> AsyncIterator[Site]:
    async with open_site() as site:
        yield site


@pytest.fixture
async def client(site: Site, simulator: PanoptoSimulator) -> AsyncIterator[GuardedClient]:
    client = GuardedClient([site.host_port, simulator.host_port])
    yield client
    await client.close()


@pytest.fixture
def sound(site: Site, tmp_path: Path) -> Path:
    """An MP3 of 3 s at ``/sound/7.mp3``."""
    path = make_audio(tmp_path / "a.mp3", 3, "mp3")
    site.pages["/sound/7.mp3"] = lambda _: FileResponse(path, media_type="audio/mpeg")
    return path


def campus_radio(client: GuardedClient) -> LectureSource:
    """Make the source out of the README's own text."""
    (program,) = re.findall(r"```python\n(.*?)```", README.read_text(), re.DOTALL)
    names: dict[str, Callable[[GuardedClient], LectureSource]] = {}
    exec(program, names)
    return names["CampusRadio"](client)


def asking(url: str) -> LectureRequest:
    return LectureRequest(uuid4(), url, None, None)


# How each source is made, a link of its own, and one of its own that leads to nothing.
MAKE: dict[str, Callable[[GuardedClient, PanoptoSimulator], LectureSource]] = {
    "panopto": lambda client, tenant: PanoptoSource(client, (tenant.host_port,)),
    "ytdlp": lambda client, _: YtDlpSource(client, ("generic",)),
    "direct": lambda client, _: DirectSource(client),
    "example": lambda client, _: campus_radio(client),
}


class Links:
    """A link of each source's own, one of its own that leads to nothing, and a stranger's."""

    def __init__(self, site: Site, tenant: PanoptoSimulator, recording: Recording) -> None:
        site.page("/watch", '<audio src="/sound/7.mp3"></audio>')
        site.pages["/episodes/7.txt"] = lambda _: PlainTextResponse("Waves")
        missing = f"{tenant.base_url}/Panopto/Pages/Viewer.aspx?id={uuid4()}"
        self.good = {
            "panopto": tenant.viewer_url(recording),
            "ytdlp": f"{site.url}/watch",
            "direct": f"{site.url}/sound/7.mp3",
            "example": f"{site.url}/episodes/7",
        }
        self.missing = {
            "panopto": missing,
            "ytdlp": site.url + NOT_FOUND,
            "direct": site.url + NOT_FOUND,
            "example": f"{site.url}/episodes/8",
        }
        self.foreign = site.page("/essay", "<p>Words.</p>")


@pytest.fixture
def links(site: Site, simulator: PanoptoSimulator, recording: Recording, sound: Path) -> Links:
    return Links(site, simulator, recording)


@pytest.mark.parametrize("name", MAKE)
async def test_a_source_says_what_and_where(
    name: str, client: GuardedClient, simulator: PanoptoSimulator, links: Links, site: Site
) -> None:
    source = MAKE[name](client, simulator)
    lecture = await source.resolve(asking(links.good[name]))
    assert isinstance(lecture, ResolvedLecture)
    assert lecture.media
    assert all(each.kind in {"mp4", "podcast", "hls"} for each in lecture.media)
    assert "/sound/7.mp3" not in site.paths  # Media are the downloader's.


@pytest.mark.parametrize("name", MAKE)
async def test_what_a_source_knows_and_cannot_have_is_a_failure(
    name: str, client: GuardedClient, simulator: PanoptoSimulator, links: Links
) -> None:
    with pytest.raises((IngestFailed, NotReadyYet)) as raised:
        await MAKE[name](client, simulator).resolve(asking(links.missing[name]))
    assert isinstance(raised.value, IngestFailed)
    assert raised.value.failure is LectureFailure.SOURCE_NOT_FOUND
    assert "127.0.0.1" not in raised.value.message


@pytest.mark.parametrize("name", [name for name in MAKE if name != "direct"])
async def test_a_stranger_s_link_is_left_to_the_next(
    name: str, client: GuardedClient, simulator: PanoptoSimulator, links: Links
) -> None:
    assert await MAKE[name](client, simulator).resolve(asking(links.foreign)) is None


@pytest.mark.parametrize("name", ["ytdlp", "example"])
async def test_a_given_stream_is_for_others(
    name: str, client: GuardedClient, simulator: PanoptoSimulator, links: Links, site: Site
) -> None:
    request = LectureRequest(uuid4(), links.good[name], None, f"{site.url}/sound/7.mp3")
    assert await MAKE[name](client, simulator).resolve(request) is None
    assert site.asked == []


async def test_the_order(client: GuardedClient) -> None:
    def kinds(*extractors: str) -> list[type]:
        return [type(each) for each in sources_of(client, extractors=extractors)]

    assert kinds("youtube") == [PanoptoSource, YtDlpSource, DirectSource]
    assert kinds() == [PanoptoSource, DirectSource]


@pytest.mark.parametrize(("value", "finds"), [("", False), ("none", False), ("generic", True)])
async def test_settings_choose_the_extractors(
    monkeypatch: pytest.MonkeyPatch, site: Site, value: str, finds: bool
) -> None:
    monkeypatch.setenv("FETCH_ALLOWED_PRIVATE_HOSTS", site.host_port)
    monkeypatch.setenv("SOURCES", value)
    downloader = MediaDownloader.from_settings(load_settings())
    request = asking(site.page("/watch", '<audio src="/sound/7.mp3"></audio>'))
    if finds:
        assert (await downloader.resolve(request)).media
    else:
        with pytest.raises(IngestFailed, match="web page"):
            await downloader.resolve(request)
    await downloader.close()


async def test_with_no_source_nothing_is_found() -> None:
    with pytest.raises(IngestFailed):
        await resolve_by((), asking("https://example.org/"))


@pytest.mark.parametrize("name", MAKE)
async def test_from_link_to_sound(
    name: str,
    client: GuardedClient,
    simulator: PanoptoSimulator,
    links: Links,
    scratch: LocalStorage,
) -> None:
    """Whatever a source names, the downloader and the extractor can do with it."""
    downloader = MediaDownloader(
        client,
        max_source_bytes=64 * MIB,
        patience=IMPATIENT,
        sources=(MAKE[name](client, simulator),),
    )
    pipeline = AudioPipeline(downloader, PyAvAudioExtractor(), 30)
    lecture = await pipeline.resolve(asking(links.good[name]), Reports())
    async with pipeline.audio_of(lecture, Attempt(scratch, "one.1", Reports())) as audio:
        assert audio.duration_seconds == pytest.approx(30 if name == "panopto" else 3, abs=0.2)
    assert await files_in(scratch) == []


@pytest.mark.parametrize("path", ["/sound/7.mp3", "/lecture.mp4"])
async def test_media_get_the_headers_that_their_page_wants(
    client: GuardedClient,
    site: Site,
    sound: Path,
    lecture_mp4: Path,
    scratch: LocalStorage,
    path: str,
) -> None:
    """On every request of every way to fetch them, and nobody else does."""
    site.pages["/lecture.mp4"] = lambda _: FileResponse(lecture_mp4, media_type="video/mp4")
    downloader = MediaDownloader(
        client, max_source_bytes=4 * MIB, sources=(YtDlpSource(client, ("generic",)),)
    )
    page = site.page("/watch", f'<video src="{path}"></video>')
    lecture = await downloader.resolve(asking(page))
    await download_first(downloader, lecture, Attempt(scratch, "one.1", Reports()))
    media = [each for each in site.asked if each.path == path]
    assert len(media) > (path == "/lecture.mp4")
    assert {each.headers["referer"] for each in media} == {page}
    assert all(each.headers["user-agent"].startswith("Mozilla/") for each in media)
    await client.read("GET", page, max_bytes=MIB)
    assert site.asked[-1].headers["user-agent"] == "StudyBuddy"
    assert "referer" not in site.asked[-1].headers


@pytest.mark.parametrize("way", ["named", "redirected"])
async def test_media_at_an_inward_address_are_not_fetched(
    client: GuardedClient, site: Site, scratch: LocalStorage, way: str
) -> None:
    async with open_site() as canary:
        inward = f"{canary.url}/a.mp3"
        named = inward if way == "named" else site.redirect("/b.mp3", inward)
        url = site.page("/watch", f'<audio src="{named}"></audio>')
        downloader = MediaDownloader(
            client, max_source_bytes=MIB, sources=sources_of(client, extractors=("generic",))
        )
        lecture = await downloader.resolve(asking(url))
        with pytest.raises(IngestFailed) as raised:
            await download_first(downloader, lecture, Attempt(scratch, "one.1", Reports()))
        assert raised.value.failure is LectureFailure.BLOCKED_URL
        assert canary.asked == []
        assert await files_in(scratch) == []
