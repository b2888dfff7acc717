"""Names, types and told lengths are hints: the bytes tell what is at a link, and how long it is."""

import math
import re
from collections.abc import AsyncIterator, Callable
from uuid import uuid4

import pytest
from starlette.responses import RedirectResponse, Response

from app.domain import LectureFailure
from app.embedded.panopto.packager import Shape, package
from app.embedded.sample_media import make_audio, make_lecture
from app.errors import IngestFailed
from app.ingest.extract import PyAvAudioExtractor
from app.ingest.fetch.downloader import MediaDownloader
from app.ingest.model import Attempt, ExtractedAudio, LectureRequest, MediaLocation, ResolvedLecture
from app.ingest.net.guard import GuardedClient
from app.ingest.pipeline import AudioPipeline
from app.ingest.sources.direct import DirectSource
from app.storage.local import LocalStorage
from tests.support.panopto import IMPATIENT, MIB, Reports, files_in
from tests.support.sites import Site, open_site

SECONDS = 14
PAGE = b"\r\n<!DOCTYPE html><html><title>Sign in</title></html>"


@pytest.fixture
async def site() -> AsyncIterator[Site]:
    async with open_site() as site:
        yield site


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> dict[str, bytes]:
    """A lecture as MP4, MP3 and HLS, and one of pictures alone (``silent-…``) as HLS."""
    folder = tmp_path_factory.mktemp("media")
    mp4 = make_lecture(folder / "lecture.mp4", SECONDS)
    mp3 = make_audio(folder / "lecture.mp3", SECONDS, "mp3")
    package(mp4, folder / "hls", Shape())
    package(mp4, folder / "runs", Shape(discontinuity=1))
    silent = make_lecture(folder / "silent.mp4", SECONDS, audio=False)
    package(silent, folder / "silent", Shape())
    made = {path.name: path.read_bytes() for path in (mp4, mp3, *(folder / "hls").iterdir())}
    for path in (folder / "runs").iterdir():
        made[f"runs-{path.name}"] = path.read_bytes().replace(b"audio-", b"runs-audio-")
    for path in (folder / "silent").iterdir():
        content = path.read_bytes()
        is_list = path.suffix == ".m3u8"
        made[f"silent-{path.name}"] = (
            content.replace(b"low-", b"silent-low-") if is_list else content
        )
    return made


class Links:
    """The whole way from what a host answers at a link to the sound."""

    def __init__(self, site: Site, files: dict[str, bytes], scratch: LocalStorage) -> None:
        self.site, self.files, self.scratch = site, files, scratch
        self.client = GuardedClient([site.host_port])
        self.downloader = MediaDownloader(
            self.client,
            max_source_bytes=64 * MIB,
            patience=IMPATIENT,
            sources=(DirectSource(self.client),),
        )
        self.pipeline = AudioPipeline(self.downloader, PyAvAudioExtractor(), 60)

    def put(self, path: str, content: bytes, media_type: str | None) -> str:
        """Have the host answer so, and return the link."""
        self.site.pages[path] = lambda _: Response(content, media_type=media_type)
        return self.site.url + path

    def put_hls(self, **changes: bytes | str) -> None:
        """Have all files under ``/hls/``, with these in place of theirs."""
        for name, content in {**self.files, **changes}.items():
            body = content.encode() if isinstance(content, str) else content
            self.put(f"/hls/{name}", body, "application/octet-stream")

    async def seconds(self, url: str, kind: str | None = None) -> float:
        """Return how long the sound at the link is; ``kind`` is what another source calls it."""
        lecture = await self.pipeline.resolve(LectureRequest(uuid4(), url, None, None), Reports())
        if kind:
            lecture = ResolvedLecture(None, None, None, (MediaLocation(kind, url),))
        attempt = Attempt(self.scratch, "audio/one.1", Reports())
        async with self.pipeline.audio_of(lecture, attempt) as audio:
            assert isinstance(audio, ExtractedAudio)
        assert await files_in(self.scratch) == []
        return audio.duration_seconds

    async def fails(self, url: str, kind: str | None = None) -> IngestFailed:
        """Expect a failure that leaves nothing."""
        with pytest.raises(IngestFailed) as failure:
            await self.seconds(url, kind)
        assert await files_in(self.scratch) == []
        return failure.value


@pytest.fixture
async def links(site: Site, files: dict[str, bytes], scratch: LocalStorage) -> AsyncIterator[Links]:
    links = Links(site, files, scratch)
    yield links
    await links.client.close()


TYPES = ("text/html; charset=utf-8", "text/plain", None)


@pytest.mark.parametrize("media_type", TYPES)
@pytest.mark.parametrize("path", ["/watch/7", "/7.mp4", "/7.php"])
async def test_a_file_is_one_under_any_name_and_type(
    links: Links, path: str, media_type: str | None
) -> None:
    url = links.put(path, links.files["lecture.mp3"], media_type)
    assert await links.seconds(url) == pytest.approx(SECONDS, abs=0.2)


@pytest.mark.parametrize("media_type", [*TYPES, "video/mp4", "binary/octet-stream"])
@pytest.mark.parametrize("path", ["/hls/7", "/hls/7.mp4", "/hls/7.panobf2", "/hls/7.m3u8"])
async def test_a_playlist_is_one_under_any_name_and_type(
    links: Links, path: str, media_type: str | None
) -> None:
    links.put_hls()
    playlist = b"\xef\xbb\xbf\r\n" + links.files["audio.m3u8"]
    url = links.put(path, playlist, media_type)
    assert await links.seconds(url) == pytest.approx(SECONDS, abs=0.2)


@pytest.mark.parametrize("kind", ["mp4", "podcast", "hls"])
@pytest.mark.parametrize("name", ["lecture.mp4", "lecture.mp3", "master.m3u8"])
async def test_what_a_source_calls_it_is_a_hint(links: Links, name: str, kind: str) -> None:
    links.put_hls()
    url = links.put("/hls/stream.bin", links.files[name], "binary/octet-stream")
    assert await links.seconds(url, kind) == pytest.approx(SECONDS, abs=0.2)


@pytest.mark.parametrize("kind", ["mp4", "podcast", "hls"])
async def test_a_file_too_large_for_a_playlist_is_a_file(links: Links, kind: str) -> None:
    free = (9 * MIB).to_bytes(4) + b"free" + bytes(9 * MIB - 8)
    url = links.put("/stream", links.files["lecture.mp4"] + free, "video/mp4")
    assert await links.seconds(url, kind) == pytest.approx(SECONDS, abs=0.2)


@pytest.mark.parametrize("kind", [None, "mp4", "podcast", "hls"])
@pytest.mark.parametrize("media_type", ["text/html", "video/mp4", None])
@pytest.mark.parametrize("path", ["/watch/7", "/7.mp4", "/7.m3u8"])
async def test_a_page_is_a_page(
    links: Links, path: str, media_type: str | None, kind: str | None
) -> None:
    if kind and path == "/watch/7":
        path = "/named.mp4"
    failure = await links.fails(links.put(path, PAGE, media_type), kind)
    assert failure.failure is LectureFailure.SOURCE_NOT_FOUND
    assert "web page" in failure.message
    links.put("/cas/login", PAGE, media_type)
    links.site.pages[path] = lambda _: RedirectResponse("/cas/login")
    assert (await links.fails(links.site.url + path, kind)).failure is LectureFailure.LOGIN_REQUIRED


async def test_what_is_nothing_known_is_no_recording(links: Links) -> None:
    for content in (b"", b"Words.", b"%PDF-1.7\n", b'{"a": 1}', b"\xff\xfeW\0"):
        failure = await links.fails(links.put("/7", content, "text/plain"))
        assert failure.failure is LectureFailure.SOURCE_NOT_FOUND
        assert "No recording" in failure.message


ONE, TWO = "#EXT-X-STREAM-INF:BANDWIDTH=1\n{}\n", "#EXT-X-STREAM-INF:BANDWIDTH=2\n{}\n"
SOUND = '#EXT-X-MEDIA:TYPE=AUDIO,GROUP-ID="{0}",NAME="{0}",URI="{0}"\n'
MISSING = "#EXTM3U\n#EXTINF:6,\nmissing.ts\n#EXT-X-ENDLIST\n"


@pytest.mark.parametrize(
    "master",
    [
        ONE.format("gone.m3u8") + TWO.format("audio.m3u8"),
        ONE.format("empty") + TWO.format("audio.m3u8"),  # One of nothing.
        ONE.format("protected") + TWO.format("audio.m3u8"),
        ONE.format("missing") + TWO.format("audio.m3u8"),  # Its segments are gone.
        ONE.format("silent-low.m3u8") + TWO.format("audio.m3u8"),  # Nobody speaks in it.
        SOUND.format("missing") + SOUND.format("audio.m3u8"),
        SOUND.format("missing") + ONE.format("audio.m3u8"),
    ],
)
async def test_what_cannot_be_had_leads_to_the_next(links: Links, master: str) -> None:
    key = '#EXTM3U\n#EXT-X-KEY:METHOD=SAMPLE-AES,URI="k"\n#EXTINF:1,\n1.ts\n#EXT-X-ENDLIST\n'
    links.put_hls(missing=MISSING, empty="#EXTM3U\n#EXT-X-ENDLIST\n", protected=key)
    url = links.put("/hls/7.m3u8", b"#EXTM3U\n" + master.encode(), "text/plain")
    assert await links.seconds(url) == pytest.approx(SECONDS, abs=0.2)


@pytest.mark.parametrize(
    ("master", "failure"),
    [
        (ONE.format("missing") + TWO.format("gone.m3u8"), LectureFailure.SOURCE_NOT_FOUND),
        (ONE.format("silent-low.m3u8") + TWO.format("missing"), LectureFailure.NO_AUDIO),
        (SOUND.format("missing") + ONE.format("silent-low.m3u8"), LectureFailure.SOURCE_NOT_FOUND),
        (
            SOUND.format("gone.m3u8") + ONE.format("silent-low.m3u8"),
            LectureFailure.SOURCE_NOT_FOUND,
        ),
        ('#EXT-X-MEDIA:TYPE=SUBTITLES,URI="s"\n', LectureFailure.SOURCE_NOT_FOUND),
    ],
)
async def test_a_failure_is_that_of_the_best(
    links: Links, master: str, failure: LectureFailure
) -> None:
    links.put_hls(missing=MISSING)
    url = links.put("/hls/7.m3u8", b"#EXTM3U\n" + master.encode(), "text/plain")
    assert (await links.fails(url)).failure is failure


async def test_of_pictures_alone_no_more_than_one_segment_is_fetched(links: Links) -> None:
    segments = "".join(f"#EXTINF:6,\nsilent-low-00000.ts?{number}\n" for number in range(100))
    links.put_hls(pictures=f"#EXTM3U\n{segments}#EXT-X-ENDLIST\n")
    url = links.put("/hls/7.m3u8", b"#EXTM3U\n" + ONE.format("pictures").encode(), None)
    assert (await links.fails(url)).failure is LectureFailure.NO_AUDIO
    # The first is asked for alone; when it has told, the next ones may be on their way.
    assert links.site.paths.count("/hls/silent-low-00000.ts") <= 1 + 8


ROUNDED: dict[str, Callable[[float], str]] = {
    "up": lambda seconds: f"{math.ceil(seconds)},",
    "down": lambda seconds: f"{math.floor(seconds)},",
    "to the nearest": lambda seconds: f"{seconds:.0f},",
    "to tenths": lambda seconds: f"{math.ceil(seconds * 10) / 10},",
    "to the longest": lambda _: "6,",
    "untold": lambda _: ",",
}


@pytest.mark.parametrize("how", ROUNDED)
@pytest.mark.parametrize("name", ["audio.m3u8", "runs-audio.m3u8"])
async def test_rounded_lengths_are_the_medias_own(links: Links, name: str, how: str) -> None:
    text = re.sub(
        r"(?<=#EXTINF:)[0-9.]+,",
        lambda told: ROUNDED[how](float(told[0][:-1])),
        links.files[name].decode(),
    )
    links.put_hls(**{"rounded.m3u8": text})
    url = f"{links.site.url}/hls/rounded.m3u8"
    assert await links.seconds(url) == pytest.approx(SECONDS, abs=0.2)


async def test_exact_lengths_are_required(links: Links) -> None:
    text = links.files["audio.m3u8"].replace(b"#EXT-X-ENDLIST", b"#EXTINF:3.500,\nempty.ts\n")
    links.put_hls(**{"longer.m3u8": text + b"#EXT-X-ENDLIST\n", "empty.ts": b""})
    failure = await links.fails(f"{links.site.url}/hls/longer.m3u8")
    assert failure.failure is LectureFailure.TRUNCATED
