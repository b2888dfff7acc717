"""What a `LectureDownloader` promises, asked of `MediaDownloader` over real sockets."""

from pathlib import Path
from uuid import uuid4

import av
import pytest

from app.domain import LectureFailure
from app.embedded.panopto import PanoptoSimulator, Recording
from app.embedded.panopto.server import COOKIE
from app.embedded.sample_media import make_audio
from app.errors import IngestFailed, NotReadyYet
from app.ingest.extract import PyAvAudioExtractor
from app.ingest.fetch.downloader import MediaDownloader
from app.ingest.model import (
    Attempt,
    DownloadedSource,
    Edit,
    LectureDownloader,
    LectureRequest,
    ResolvedLecture,
)
from app.ingest.net.guard import GuardedClient
from app.ingest.pipeline import AudioPipeline
from app.settings import load_settings
from app.storage.local import LocalStorage
from tests.support.panopto import MIB, Reports, download_first, files_in, request_for

STEM = "audio/one_source.1"


class Lectures:
    """A downloader with a place to put things."""

    def __init__(
        self,
        downloader: LectureDownloader,
        scratch: LocalStorage,
        simulator: PanoptoSimulator,
    ) -> None:
        self.downloader, self.scratch, self.simulator = downloader, scratch, simulator

    async def get(self, request: LectureRequest) -> tuple[ResolvedLecture, DownloadedSource]:
        """Resolve and download; the source has sound."""
        lecture = await self.downloader.resolve(request)
        attempt = Attempt(self.scratch, STEM, Reports())
        source = await download_first(self.downloader, lecture, attempt)
        assert source.key.startswith(f"{STEM}.")
        assert await files_in(self.scratch) == [source.key]
        with av.open(str(self.scratch.path_of(source.key))) as container:
            assert len(container.streams.audio) == 1
        return lecture, source

    async def fails(self, request: LectureRequest) -> IngestFailed:
        """Expect a failure that leaves nothing."""
        with pytest.raises(IngestFailed) as failure:
            await self.get(request)
        assert await files_in(self.scratch) == []
        return failure.value

    async def waits(self, request: LectureRequest) -> None:
        """Expect to be told to come again, with nothing left."""
        with pytest.raises(NotReadyYet):
            await self.get(request)
        assert await files_in(self.scratch) == []


@pytest.fixture
def lectures(
    downloader: MediaDownloader, scratch: LocalStorage, simulator: PanoptoSimulator
) -> Lectures:
    return Lectures(downloader, scratch, simulator)


async def test_a_viewer_link_becomes_its_audio_rendition(
    lectures: Lectures, simulator: PanoptoSimulator, recording: Recording
) -> None:
    lecture, source = await lectures.get(request_for(simulator, recording))
    assert lecture.session_id == recording.guid
    assert lecture.title == "Linear Algebra 1"
    assert lecture.duration_seconds == pytest.approx(30)
    assert source.key == f"{STEM}.ts"
    assert source.duration_seconds == pytest.approx(30, abs=0.1)
    assert source.edits == ()
    assert source.size_bytes < recording.media.stat().st_size / 3


async def test_without_hls_it_is_the_mp4(
    lectures: Lectures, simulator: PanoptoSimulator, recording: Recording
) -> None:
    recording.offers = ("mp4",)
    _, source = await lectures.get(request_for(simulator, recording))
    assert source.key == f"{STEM}.mp4"
    stored = lectures.scratch.path_of(source.key).read_bytes()
    assert stored == recording.media.read_bytes()


async def test_a_download_link_gets_the_tenants_cookie(
    lectures: Lectures, simulator: PanoptoSimulator, recording: Recording
) -> None:
    recording.offers = ("download",)
    _, source = await lectures.get(request_for(simulator, recording))
    assert source.size_bytes == recording.media.stat().st_size


@pytest.mark.parametrize("offers", [("hls",), ("mp4",)])
async def test_the_tenants_cookie_goes_to_its_own_host_alone(
    simulator: PanoptoSimulator,
    recording: Recording,
    scratch: LocalStorage,
    offers: tuple[str, ...],
) -> None:
    port = simulator.host_port.partition(":")[2]
    client = GuardedClient([simulator.host_port, f"localhost:{port}"])
    downloader = MediaDownloader(
        client, panopto_hosts=(simulator.host_port,), max_source_bytes=64 * MIB
    )
    lectures = Lectures(downloader, scratch, simulator)
    recording.offers = offers
    for media_base_url, expected in ((None, COOKIE), (f"http://localhost:{port}", None)):
        recording.media_base_url = media_base_url
        simulator.requests.clear()
        _, source = await lectures.get(request_for(simulator, recording))
        assert {each.cookie for each in simulator.media_requests(recording)} == {expected}
        await scratch.delete_file(source.key)
    await downloader.close()


async def test_a_passing_failure_does_not_lead_to_a_dearer_medium(
    lectures: Lectures, simulator: PanoptoSimulator, recording: Recording
) -> None:
    recording.faults.media_status, recording.faults.media_status_times = 503, 1
    failure = await lectures.fails(request_for(simulator, recording))
    assert failure.transient
    assert len(simulator.media_requests(recording)) == 1


@pytest.mark.parametrize("shape", ["wrapped", "refuse_get", "tid"])
async def test_every_form_of_delivery_info_is_understood(
    lectures: Lectures, simulator: PanoptoSimulator, recording: Recording, shape: str
) -> None:
    recording.wrapped = shape == "wrapped"
    recording.faults.refuse_get = shape == "refuse_get"
    tid = f"{simulator.base_url}/Panopto/Pages/Viewer.aspx?tid={recording.tid}"
    request = request_for(simulator, recording, url=tid if shape == "tid" else None)
    lecture, _ = await lectures.get(request)
    assert lecture.session_id == recording.guid


async def test_a_raw_stream_is_to_be_cut_to_the_edit(
    lectures: Lectures, simulator: PanoptoSimulator, recording: Recording
) -> None:
    recording.edits = ((12.0, 28.0), (2.0, 7.0))
    lecture, source = await lectures.get(request_for(simulator, recording))
    assert lecture.duration_seconds == source.duration_seconds == 21
    assert source.edits == (Edit(12, 28), Edit(2, 7))
    recording.edits = ((0.0, 30.0),)
    _, whole = await lectures.get(request_for(simulator, recording))
    assert whole.edits == ()


async def test_silent_slides_are_passed_over(
    lectures: Lectures, simulator: PanoptoSimulator, recording: Recording, silent_mp4: Path
) -> None:
    recording.slides = silent_mp4
    await lectures.get(request_for(simulator, recording))
    assert not [each for each in simulator.requests if "/slides/" in each.path]


async def test_a_silent_stream_is_left_for_the_next_with_sound(
    lectures: Lectures, simulator: PanoptoSimulator, lecture_mp4: Path, silent_mp4: Path
) -> None:
    mistagged = Recording(silent_mp4, slides=lecture_mp4, offers=("hls",))
    simulator.add(mistagged)
    await lectures.get(request_for(simulator, mistagged))


@pytest.mark.parametrize("offers", [("hls",), ("mp4",), ("hls", "mp4")])
async def test_a_silent_medium_is_left_for_the_next_with_sound(
    lectures: Lectures,
    simulator: PanoptoSimulator,
    lecture_mp4: Path,
    silent_mp4: Path,
    offers: tuple[str, ...],
) -> None:
    mistagged = simulator.add(Recording(silent_mp4, slides=lecture_mp4, offers=offers))
    pipeline = AudioPipeline(lectures.downloader, PyAvAudioExtractor(), 60)
    lecture = await pipeline.resolve(request_for(simulator, mistagged), Reports())
    async with pipeline.audio_of(lecture, Attempt(lectures.scratch, STEM, Reports())) as audio:
        assert audio.duration_seconds == pytest.approx(30, abs=0.2)
    assert await files_in(lectures.scratch) == []


@pytest.mark.parametrize("offers", [("hls",), ("mp4",), ("hls", "mp4")])
async def test_a_recording_without_sound_is_no_audio(
    lectures: Lectures, simulator: PanoptoSimulator, silent_mp4: Path, offers: tuple[str, ...]
) -> None:
    silent = simulator.add(Recording(silent_mp4, offers=offers))
    pipeline = AudioPipeline(lectures.downloader, PyAvAudioExtractor(), 60)
    lecture = await pipeline.resolve(request_for(simulator, silent), Reports())
    with pytest.raises(IngestFailed) as raised:
        async with pipeline.audio_of(lecture, Attempt(lectures.scratch, STEM, Reports())):
            pass
    assert await files_in(lectures.scratch) == []
    failure = raised.value
    assert (failure.failure, failure.transient) == (LectureFailure.NO_AUDIO, False)


async def test_a_recording_that_is_not_ready_is_waited_for(
    lectures: Lectures, simulator: PanoptoSimulator, recording: Recording
) -> None:
    recording.faults.not_encoded_times = 2
    for _ in range(2):
        await lectures.waits(request_for(simulator, recording))
    await lectures.get(request_for(simulator, recording))
    recording.faults.live = True
    await lectures.scratch.delete_file(f"{STEM}.ts")
    await lectures.waits(request_for(simulator, recording))


@pytest.mark.parametrize(
    ("fault", "value", "expected", "transient"),
    [
        ("login_required", True, LectureFailure.LOGIN_REQUIRED, False),
        ("login_redirect", True, LectureFailure.LOGIN_REQUIRED, False),
        ("error_code", 3, LectureFailure.SOURCE_NOT_FOUND, False),
        ("html_delivery", True, LectureFailure.SOURCE_NOT_FOUND, False),
        ("delivery_status", 404, LectureFailure.SOURCE_NOT_FOUND, False),
        ("delivery_status", 503, LectureFailure.NETWORK, True),
        ("media_status", 404, LectureFailure.SOURCE_NOT_FOUND, False),
        ("media_status", 403, LectureFailure.LOGIN_REQUIRED, False),
        ("media_status", 500, LectureFailure.NETWORK, True),
        ("redirect_media_to", "http://10.0.0.1/", LectureFailure.BLOCKED_URL, False),
        ("html_media", True, LectureFailure.SOURCE_NOT_FOUND, False),
    ],
)
async def test_what_goes_wrong_has_a_name(
    lectures: Lectures,
    simulator: PanoptoSimulator,
    recording: Recording,
    fault: str,
    value: object,
    expected: LectureFailure,
    transient: bool,
) -> None:
    setattr(recording.faults, fault, value)
    failure = await lectures.fails(request_for(simulator, recording))
    assert (failure.failure, failure.transient) == (expected, transient)
    for secret in ("127.0.0.1", recording.guid, "/", "http"):
        assert secret not in failure.message


async def test_an_unknown_recording_is_not_found(
    lectures: Lectures, simulator: PanoptoSimulator
) -> None:
    url = f"{simulator.base_url}/Panopto/Pages/Viewer.aspx?id={uuid4()}"
    failure = await lectures.fails(LectureRequest(uuid4(), url, None, None))
    assert failure.failure is LectureFailure.SOURCE_NOT_FOUND


@pytest.mark.parametrize("form", ["media_url", "hls_url"])
async def test_a_given_stream_is_used_and_delivery_info_tells_the_rest(
    lectures: Lectures, simulator: PanoptoSimulator, recording: Recording, form: str
) -> None:
    stream_url = getattr(simulator, form)(recording) + "?signature=x"
    request = request_for(simulator, recording, stream_url=stream_url)
    lecture, _ = await lectures.get(request)
    assert lecture.title == "Linear Algebra 1"
    assert lecture.duration_seconds == pytest.approx(30)
    assert [location.url for location in lecture.media] == [stream_url]
    recording.edits = ((3.0, 9.0),)
    lecture = await lectures.downloader.resolve(request)
    assert lecture.media[0].edits == (Edit(3, 9),)


@pytest.mark.parametrize(
    "fault", ["login_required", "html_delivery", "login_redirect", "delivery_status"]
)
async def test_a_given_stream_works_where_delivery_info_does_not(
    lectures: Lectures, simulator: PanoptoSimulator, recording: Recording, fault: str
) -> None:
    setattr(recording.faults, fault, 500 if fault == "delivery_status" else True)
    stream_url = simulator.media_url(recording)
    lecture, source = await lectures.get(
        request_for(simulator, recording, stream_url=stream_url, session_id=recording.guid)
    )
    assert (lecture.session_id, lecture.duration_seconds) == (recording.guid, None)
    assert source.duration_seconds is None


async def test_a_link_that_is_media_itself_is_fetched(
    lectures: Lectures, simulator: PanoptoSimulator, recording: Recording, tmp_path: Path
) -> None:
    for url in (simulator.media_url(recording), simulator.hls_url(recording)):
        _, source = await lectures.get(LectureRequest(uuid4(), url, None, None))
        await lectures.scratch.delete_file(source.key)
    opus = simulator.add(Recording(make_audio(tmp_path / "sound.webm", 2)))
    await lectures.get(LectureRequest(uuid4(), simulator.media_url(opus), None, None))


@pytest.mark.parametrize("path", ["/Panopto/Pages/Home.aspx", "/Panopto/Pages/Auth/Login.aspx"])
async def test_a_page_is_no_recording(
    lectures: Lectures, simulator: PanoptoSimulator, path: str
) -> None:
    request = LectureRequest(uuid4(), simulator.base_url + path, None, None)
    failure = await lectures.fails(request)
    assert failure.failure in (LectureFailure.SOURCE_NOT_FOUND, LectureFailure.LOGIN_REQUIRED)


async def test_a_private_address_is_blocked_without_the_exception(
    simulator: PanoptoSimulator, recording: Recording, scratch: LocalStorage
) -> None:
    settings = load_settings(panopto_hosts=simulator.host_port)
    downloader = MediaDownloader.from_settings(settings)
    lectures = Lectures(downloader, scratch, simulator)
    failure = await lectures.fails(request_for(simulator, recording))
    await downloader.close()
    assert failure.failure is LectureFailure.BLOCKED_URL
    assert simulator.requests == []
