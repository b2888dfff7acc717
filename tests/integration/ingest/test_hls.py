import asyncio
from collections.abc import Callable
from pathlib import Path

import av
import pytest
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import FileResponse, Response
from starlette.routing import Route

from app.domain import LectureFailure
from app.embedded.panopto import PanoptoSimulator, Recording
from app.embedded.sample_media import media_duration_seconds
from app.errors import IngestFailed, NotReadyYet
from app.ingest.extract import PyAvAudioExtractor
from app.ingest.fetch.hls import fetch_stream
from app.ingest.fetch.part import FetchedFile
from app.ingest.fetch.playlist import ByteRange, MediaPlaylist, parse_playlist
from app.ingest.model import Attempt, MediaLocation, Progress
from app.ingest.net.guard import GuardedClient
from app.ingest.net.retries import Patience
from app.storage.local import LocalStorage
from tests.support.panopto import IMPATIENT, MIB, Reports, files_in, open_stream
from tests.support.serving import serving
from tests.support.wait import wait_until

STEM = "audio/one_source.1"
URL = "https://media.example/a/b/index.m3u8"
HEAD = "#EXTM3U\n#EXT-X-TARGETDURATION:6\n"


class Hls:
    """The fetch of one playlist, as each test wants it."""

    def __init__(self, client: GuardedClient, scratch: LocalStorage) -> None:
        self.client, self.scratch, self.reports = client, scratch, Reports()

    async def __call__(
        self, url: str, max_bytes: int = 64 * MIB, cookie: str | None = None
    ) -> FetchedFile:
        stream = await open_stream(self.client, MediaLocation("hls", url, cookie_header=cookie))
        fetched = await fetch_stream(
            self.client,
            stream,
            Attempt(self.scratch, STEM, self.reports),
            max_bytes=max_bytes,
            patience=IMPATIENT,
        )
        return fetched.file

    async def fails(self, url: str, max_bytes: int = 64 * MIB) -> IngestFailed:
        """Expect a failure that leaves nothing."""
        with pytest.raises(IngestFailed) as failure:
            await self(url, max_bytes)
        assert await files_in(self.scratch) == []
        return failure.value


@pytest.fixture
def hls(client: GuardedClient, scratch: LocalStorage) -> Hls:
    return Hls(client, scratch)


def tracks(path: Path) -> list[str]:
    with av.open(str(path)) as container:
        return sorted(stream.type for stream in container.streams)


def decoded_seconds(path: Path) -> float:
    with av.open(str(path)) as container:
        return sum(frame.samples / frame.sample_rate for frame in container.decode(audio=0))


@pytest.mark.parametrize("encrypted", [False, True])
@pytest.mark.parametrize("fragmented", [False, True])
@pytest.mark.parametrize("rendition", [False, True])
async def test_a_stream_becomes_one_playable_file(
    hls: Hls,
    simulator: PanoptoSimulator,
    recording: Recording,
    rendition: bool,
    fragmented: bool,
    encrypted: bool,
) -> None:
    recording.hls_audio_rendition = rendition
    recording.hls_fragmented_mp4 = fragmented
    recording.hls_encrypted = encrypted
    meta = await hls(simulator.hls_url(recording))
    path = hls.scratch.path_of(meta.key)
    assert decoded_seconds(path) == pytest.approx(30, abs=0.1)
    assert media_duration_seconds(path) == pytest.approx(30, abs=0.1)
    assert tracks(path) == (["audio"] if rendition else ["audio", "video"])
    fetched = {each.path.rpartition("/")[2] for each in simulator.media_requests(recording)}
    assert "high.m3u8" not in fetched
    assert hls.reports.all[-1].downloaded_bytes >= meta.size_bytes


async def test_the_variant_of_the_lowest_bandwidth_is_taken(
    hls: Hls, simulator: PanoptoSimulator, recording: Recording
) -> None:
    recording.hls_audio_rendition = False
    await hls(simulator.hls_url(recording))
    asked = [each.path.rpartition("/")[2] for each in simulator.media_requests(recording)]
    assert asked[:2] == ["master.m3u8", "low.m3u8"]


async def test_a_stream_without_sound_is_no_audio(
    hls: Hls, simulator: PanoptoSimulator, silent_mp4: Path
) -> None:
    silent = simulator.add(Recording(silent_mp4))
    assert (await hls.fails(simulator.hls_url(silent))).failure is LectureFailure.NO_AUDIO


async def test_a_live_stream_is_not_ready(
    hls: Hls, simulator: PanoptoSimulator, recording: Recording
) -> None:
    recording.faults.live = True
    with pytest.raises(NotReadyYet):
        await hls(simulator.hls_url(recording))
    assert await files_in(hls.scratch) == []


async def test_each_segment_is_retried_by_itself(
    hls: Hls, simulator: PanoptoSimulator, recording: Recording
) -> None:
    await hls(simulator.hls_url(recording))
    whole = hls.scratch.path_of(f"{STEM}.ts").read_bytes()
    stream = await open_stream(hls.client, MediaLocation("hls", simulator.hls_url(recording)))
    recording.faults.cut_after_bytes, recording.faults.cut_times = 20_000, 2
    recording.faults.media_status, recording.faults.media_status_times = 503, 1
    await fetch_stream(
        hls.client,
        stream,
        Attempt(hls.scratch, "audio/two_source.1", hls.reports),
        max_bytes=MIB,
        patience=IMPATIENT,
    )
    assert hls.scratch.path_of("audio/two_source.1.ts").read_bytes() == whole


@pytest.mark.parametrize("comes", [0, 1])
async def test_a_busy_source_is_not_asked_for_each_segment_again_and_again(
    hls: Hls, simulator: PanoptoSimulator, recording: Recording, comes: int
) -> None:
    """The first segment is asked for alone, and all of them share the tries.

    One that is tried again while a late one is still asked for the first time may be refused for
    that: such a refusal counts for no try.
    """
    stream = await open_stream(hls.client, MediaLocation("hls", simulator.hls_url(recording)))
    simulator.requests.clear()

    class Closing(Reports):
        async def __call__(self, progress: Progress) -> None:
            recording.faults.media_status = 503

    attempt = Attempt(hls.scratch, STEM, Closing())
    patience = Patience(first_wait_seconds=0.1)
    if not comes:
        recording.faults.media_status = 503
    with pytest.raises(IngestFailed) as failure:
        await fetch_stream(hls.client, stream, attempt, max_bytes=MIB, patience=patience)
    assert failure.value.transient
    refused = [each for each in simulator.media_requests(recording) if each.status == 503]
    others = len(stream.playlist.pieces) - 1 if comes else 1
    assert 0 <= len(refused) - others - patience.tries_without_progress < others


async def test_bytes_that_come_again_count_once(
    hls: Hls, simulator: PanoptoSimulator, recording: Recording
) -> None:
    stored = await hls(simulator.hls_url(recording))
    size = hls.scratch.path_of(stored.key).stat().st_size
    recording.faults.cut_after_bytes, recording.faults.cut_times = 20_000, 2
    await hls(simulator.hls_url(recording), max_bytes=size)
    assert hls.scratch.path_of(stored.key).stat().st_size == size


async def test_a_missing_stream_is_not_found(
    hls: Hls, simulator: PanoptoSimulator, recording: Recording
) -> None:
    recording.faults.media_status = 404
    failure = await hls.fails(simulator.hls_url(recording))
    assert (failure.failure, failure.transient) == (LectureFailure.SOURCE_NOT_FOUND, False)


async def test_a_stream_over_the_limit_is_too_large(
    hls: Hls, simulator: PanoptoSimulator, recording: Recording
) -> None:
    failure = await hls.fails(simulator.hls_url(recording), max_bytes=100_000)
    assert failure.failure is LectureFailure.TOO_LARGE


async def test_cancelled_in_the_middle_nothing_is_left_and_nothing_goes_on(
    hls: Hls, simulator: PanoptoSimulator, recording: Recording
) -> None:
    stream = await open_stream(hls.client, MediaLocation("hls", simulator.hls_url(recording)))
    recording.faults.bytes_per_second = 20_000
    task = asyncio.create_task(
        fetch_stream(hls.client, stream, Attempt(hls.scratch, STEM, hls.reports), max_bytes=MIB)
    )
    await wait_until(lambda: hls.reports.all, "bytes flow")
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert await files_in(hls.scratch) == []
    assert asyncio.all_tasks() == {asyncio.current_task()}


def playlist(lines: str) -> str:
    return HEAD + lines + "\n#EXT-X-ENDLIST\n"


SEGMENT = "#EXTINF:6,\n{}"
KEY = '#EXT-X-KEY:METHOD=AES-128,URI="{}"\n#EXTINF:6,\nsegment.ts'
MAP = '#EXT-X-MAP:URI="{}"\n#EXTINF:6,\nsegment.ts'


@pytest.mark.parametrize(
    ("shape", "target"),
    [
        (SEGMENT, "file:///etc/passwd"),
        (SEGMENT, "http://169.254.169.254/latest/"),
        (SEGMENT, "concat:a.ts|/etc/passwd"),
        (SEGMENT, "http://["),
        (KEY, "http://127.0.0.1:1/a.ts"),
        (KEY, "file:///etc/passwd"),
        (MAP, "http://[::1]/a.mp4"),
    ],
)
async def test_no_playlist_leads_anywhere_but_out(
    scratch: LocalStorage, shape: str, target: str
) -> None:
    texts = {
        "index.m3u8": playlist(shape.format(target)),
        "master.m3u8": f"{HEAD}#EXT-X-STREAM-INF:BANDWIDTH=1\n{target}\n",
        "segment.ts": "G" * 188,
    }
    async with _serving_texts(texts) as server:
        client = GuardedClient([f"127.0.0.1:{server.port}"])
        hls = Hls(client, scratch)
        for name in ("index.m3u8", "master.m3u8"):
            failure = await hls.fails(f"{server.url}/{name}")
            assert failure.failure in (LectureFailure.BLOCKED_URL, LectureFailure.SOURCE_NOT_FOUND)
            assert not failure.transient
        await client.close()


async def test_byte_ranges_and_their_sum(
    scratch: LocalStorage, lecture_mp4: Path, tmp_path: Path
) -> None:
    (tmp_path / "all.ts").write_bytes(bytes(range(256)) * 10)
    text = playlist(
        '#EXT-X-MAP:URI="all.ts",BYTERANGE="10@0"\n'
        "#EXTINF:2,\n#EXT-X-BYTERANGE:20@100\nall.ts\n"
        "#EXTINF:3.5,\n#EXT-X-BYTERANGE:30\nall.ts"
    )
    async with _serving_texts({"index.m3u8": text}, tmp_path / "all.ts") as server:
        client = GuardedClient([f"127.0.0.1:{server.port}"])
        hls = Hls(client, scratch)
        meta = await hls(f"{server.url}/index.m3u8")
        await client.close()
    content = bytes(range(256))
    expected = content[:10] + content[100:120] + content[120:150]
    assert scratch.path_of(meta.key).read_bytes() == expected
    assert hls.reports.all[-1].total_bytes == 60


async def test_cookies_go_to_the_playlists_own_origin_alone(
    hls: Hls, simulator: PanoptoSimulator, recording: Recording
) -> None:
    folder = simulator.hls_url(recording).removesuffix("master.m3u8")
    await hls.client.read("GET", folder + "master.m3u8", max_bytes=MIB)  # So that it is made.
    simulator.requests.clear()
    elsewhere = playlist(f"#EXTINF:6,\n{folder}audio-00000.ts")
    async with _serving_texts({"index.m3u8": elsewhere}) as server:
        client = GuardedClient([f"127.0.0.1:{server.port}", simulator.host_port])
        await Hls(client, hls.scratch)(f"{server.url}/index.m3u8", cookie="a=b")
        await client.close()
    assert [each.cookie for each in simulator.media_requests(recording)] == [None]
    await hls(simulator.hls_url(recording), cookie="a=b")
    assert {each.cookie for each in simulator.media_requests(recording)[1:]} == {"a=b"}


async def test_a_media_playlist_is_read() -> None:
    found = await parse_playlist(
        playlist(
            '#EXT-X-MEDIA-SEQUENCE:7\n#EXT-X-KEY:METHOD=AES-128,URI="../k"\n#EXTINF:6.006,\n1.ts\n'
            '#EXT-X-KEY:METHOD=AES-128,URI="../k",IV=0x0F\n#EXTINF:5,\n//cdn.example/2.ts\n'
            "#EXT-X-KEY:METHOD=NONE\n#EXT-X-DISCONTINUITY\n#EXTINF:1,\n#EXT-X-BYTERANGE:5@6\n3.ts"
        ),
        URL,
    )
    assert isinstance(found, MediaPlaylist)
    assert found.ended
    assert [piece.starts_run for piece in found.pieces] == [False, False, True]
    assert found.duration_seconds == pytest.approx(12.006)
    assert [piece.url for piece in found.pieces] == [
        "https://media.example/a/b/1.ts",
        "https://cdn.example/2.ts",
        "https://media.example/a/b/3.ts",
    ]
    keys = [piece.key for piece in found.pieces]
    assert [key and (key.url, int(key.iv, 16)) for key in keys] == [
        ("https://media.example/a/k", 7),
        ("https://media.example/a/k", 15),
        None,
    ]
    assert found.pieces[2].byte_range == ByteRange(6, 5)


@pytest.mark.parametrize("text", ["", "<html></html>", playlist(""), "#EXTM3U\n"])
async def test_what_names_no_segments_is_refused(scratch: LocalStorage, text: str) -> None:
    async with _serving_texts({"index.m3u8": text}) as server:
        client = GuardedClient([f"127.0.0.1:{server.port}"])
        with pytest.raises((IngestFailed, NotReadyYet)):
            await Hls(client, scratch)(f"{server.url}/index.m3u8")
        await client.close()
    assert await files_in(scratch) == []


def _serving_texts(texts: dict[str, str], file: Path | None = None):  # type: ignore[no-untyped-def]
    async def text(request):  # type: ignore[no-untyped-def]
        found = texts.get(request.path_params["name"])
        if file and found is None:
            return FileResponse(file)
        return Response(found, 404 if found is None else 200, media_type="application/x-mpegurl")

    return serving(Starlette(routes=[Route("/{name}", text)]))


@pytest.mark.parametrize("fragmented", [False, True])
async def test_a_segment_that_fails_once_does_no_harm(
    hls: Hls, simulator: PanoptoSimulator, recording: Recording, fragmented: bool
) -> None:
    recording.hls_fragmented_mp4 = fragmented
    recording.faults.bad_segment = 3
    stored = await hls(simulator.hls_url(recording))
    assert decoded_seconds(hls.scratch.path_of(stored.key)) == pytest.approx(30, abs=0.1)
    failed = [each.path for each in simulator.media_requests(recording) if each.status == 503]
    assert len(failed) == 1
    again = [each.status for each in simulator.media_requests(recording) if each.path == failed[0]]
    assert again == [503, 200]


async def test_a_missing_segment_is_not_asked_for_and_keeps_its_time(
    hls: Hls, simulator: PanoptoSimulator, recording: Recording
) -> None:
    recording.hls_gap = 2
    stored = await hls(simulator.hls_url(recording))
    asked = [each.path for each in simulator.media_requests(recording)]
    assert not any("00002" in path for path in asked)
    stream = await open_stream(hls.client, MediaLocation("hls", simulator.hls_url(recording)))
    assert stream.is_rendition
    assert stream.playlist.duration_seconds == pytest.approx(30, abs=0.1)
    target = hls.scratch.path_of("audio/one.m4a")
    audio = await PyAvAudioExtractor().extract(
        hls.scratch.path_of(stored.key), target, timeout_seconds=30
    )
    assert audio.duration_seconds == pytest.approx(30, abs=0.2)


async def test_few_bytes_wait_behind_a_segment_that_lingers(scratch: LocalStorage) -> None:
    segment, count = bytes(12 * MIB), 8
    may_end = asyncio.Event()

    async def answer(request: Request) -> Response:
        name = request.path_params["name"]
        if name == "index.m3u8":
            lines = "\n".join(SEGMENT.format(f"{number}.ts") for number in range(count))
            return Response(playlist(lines), media_type="application/x-mpegurl")
        if name == "1.ts":
            await may_end.wait()
        return Response(segment, media_type="video/mp2t")

    async with serving(Starlette(routes=[Route("/{name}", answer)])) as server:
        client = GuardedClient([f"127.0.0.1:{server.port}"])
        hls = Hls(client, scratch)
        fetching = asyncio.create_task(hls(f"{server.url}/index.m3u8", max_bytes=200 * MIB))

        def received() -> int:
            return hls.reports.all[-1].downloaded_bytes if hls.reports.all else 0

        try:
            await wait_until(lambda: received() >= 44 * MIB, "as much has come as may wait")
            for _ in range(20):  # The others would go on meanwhile, if they could.
                await client.read("GET", f"{server.url}/index.m3u8", max_bytes=MIB)
            assert received() < 45 * MIB
        finally:
            may_end.set()
            stored = await fetching
            await client.close()
    assert stored.size_bytes == count * len(segment)


Answer = Callable[[bytes, str | None], Response]


class Host:
    """Files on a host that answers in ways of its own; ``asked`` are the paths."""

    def __init__(self, files: dict[str, bytes], answer: Answer | None = None) -> None:
        self.files, self.asked = files, list[str]()
        self._answer = answer

    async def answer(self, request: Request) -> Response:
        name = request.path_params["name"]
        self.asked.append(name)
        if name not in self.files:
            return Response(status_code=404)
        content, wanted = self.files[name], request.headers.get("range")
        if self._answer and not name.endswith("m3u8"):
            return self._answer(content, wanted)
        return Response(content, media_type="application/octet-stream")

    async def stored(self, scratch: LocalStorage, name: str = "index.m3u8") -> bytes:
        """Fetch the stream and return what was made of it."""
        async with serving(Starlette(routes=[Route("/{name}", self.answer)])) as server:
            client = GuardedClient([f"127.0.0.1:{server.port}"])
            try:
                stored = await Hls(client, scratch)(f"{server.url}/{name}")
            finally:
                await client.close()
        return scratch.path_of(stored.key).read_bytes()


def part_of(content: bytes, first: int, end: int, total: int | str | None = None) -> Response:
    told = f"bytes {first}-{end - 1}/{total or len(content)}"
    return Response(content[first:end], 206, {"Content-Range": told})


def asked_for(wanted: str) -> tuple[int, int]:
    first, _, last = wanted.removeprefix("bytes=").partition("-")
    return int(first), int(last) + 1


def answering(shape: str) -> Answer:
    """Return how a host answers ranges: some are honest about it, some are not."""

    def answer(content: bytes, wanted: str | None) -> Response:
        if wanted is None:
            return Response(content)
        first, end = asked_for(wanted)
        match shape:
            case "good":
                return part_of(content, first, end)
            case "short":
                return part_of(content, first, first + max(1, (end - first) // 2))
            case "more":
                return part_of(content, max(0, first - 3), min(len(content), end + 5))
            case "unknown total":
                return part_of(content, first, end, "*")
            case "untold":
                return Response(content[first:end], 206)
            case "equals sign":
                told = {"Content-Range": f"bytes={first}-{end - 1}/{len(content)}"}
                return Response(content[first:end], 206, told)
            case "other":
                return part_of(content, 0, end - first)
            case "whole as 206":
                return part_of(content, 0, len(content))
            case "whole as 200":
                return Response(content)
            case "dishonest":
                told = {"Content-Range": f"bytes {first}-{end + 8}/{len(content)}"}
                return Response(content[first:end], 206, told)
            case "by the byte":
                return part_of(content, first, first + 1)
        return Response(status_code=int(shape))

    return answer


SINGLE = playlist(
    '#EXT-X-MAP:URI="all",BYTERANGE="10@0"\n#EXTINF:2,\n#EXT-X-BYTERANGE:100@100\nall\n'
    "#EXTINF:2,\n#EXT-X-BYTERANGE:50\nall\n#EXTINF:2,\n#EXT-X-BYTERANGE:40@10\nall"
)
HONEST = ("good", "short", "more", "unknown total", "untold", "equals sign")
WHOLE = ("other", "whole as 206", "whole as 200", "dishonest", "by the byte", "400", "403", "416")


@pytest.mark.parametrize("shape", [*HONEST, *WHOLE])
async def test_ranges_come_as_hosts_send_them(scratch: LocalStorage, shape: str) -> None:
    content = bytes(range(256)) * 4
    host = Host({"index.m3u8": SINGLE.encode(), "all": content}, answering(shape))
    stored = await host.stored(scratch)
    assert stored == content[:10] + content[100:250] + content[10:50]
    if shape in ("whole as 206", "whole as 200"):
        assert host.asked == ["index.m3u8", "all"]


@pytest.mark.parametrize("status", [401, 403, 429])
async def test_a_host_of_ranges_that_is_asked_too_much_is_not_asked_for_all(
    scratch: LocalStorage, status: int
) -> None:
    content = bytes(range(256)) * 4
    refused = list[str]()
    parts = "".join(f"#EXTINF:2,\n#EXT-X-BYTERANGE:50@{at}\nall\n" for at in range(0, 1000, 50))

    def answer(content: bytes, wanted: str | None) -> Response:
        assert wanted is not None
        if wanted.startswith("bytes=100-") and not refused:
            refused.append(wanted)
            return Response(status_code=status)
        return part_of(content, *asked_for(wanted))

    host = Host({"index.m3u8": playlist(parts).encode(), "all": content}, answer)
    assert await host.stored(scratch) == content[:1000]
    assert refused


async def test_a_file_that_ends_before_a_range_is_truncated(scratch: LocalStorage) -> None:
    host = Host({"index.m3u8": SINGLE.encode(), "all": bytes(90)}, answering("good"))
    with pytest.raises(IngestFailed) as failure:
        await host.stored(scratch)
    assert failure.value.failure is LectureFailure.TRUNCATED
    assert await files_in(scratch) == []


async def test_a_range_that_no_segment_is_as_large_as_is_not_asked_for(
    scratch: LocalStorage,
) -> None:
    text = playlist(f"#EXTINF:2,\n#EXT-X-BYTERANGE:{2**40}@0\nall")
    host = Host({"index.m3u8": text.encode(), "all": bytes(90)}, answering("short"))
    with pytest.raises(IngestFailed) as failure:
        await host.stored(scratch)
    assert failure.value.failure is LectureFailure.TOO_LARGE
    assert host.asked == ["index.m3u8"]


async def test_segments_that_are_a_page_are_no_recording(scratch: LocalStorage) -> None:
    text = playlist(SEGMENT.format("1.ts"))
    host = Host({"index.m3u8": text.encode(), "1.ts": b"<!DOCTYPE html><title>Sorry</title>"})
    with pytest.raises(IngestFailed) as failure:
        await host.stored(scratch)
    assert "web page" in failure.value.message
    assert await files_in(scratch) == []


@pytest.mark.parametrize("media_type", ["text/html", "text/plain", "image/png"])
async def test_bytes_tell_a_segment_from_a_page(scratch: LocalStorage, media_type: str) -> None:
    packet = b"G" + bytes(187)

    def answer(content: bytes, _: str | None) -> Response:
        return Response(content, media_type=media_type)

    text = playlist(SEGMENT.format("1.ts"))
    assert (
        await Host({"index.m3u8": text.encode(), "1.ts": packet}, answer).stored(scratch) == packet
    )


async def test_a_tag_of_packed_audio_is_no_sound(scratch: LocalStorage) -> None:
    tag = b"ID3\4\0\0\0\0\1\2" + bytes(130)
    text = playlist("#EXTINF:1,\n1\n#EXTINF:1,\n2")
    host = Host({"index.m3u8": text.encode(), "1": tag + b"one", "2": tag + b"two"})
    assert await host.stored(scratch) == b"onetwo"
