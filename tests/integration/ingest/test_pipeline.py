"""Which of a recording's media becomes its audio, where several are offered and some are bad."""

from dataclasses import replace
from pathlib import Path

import pytest

from app.domain import LectureFailure
from app.embedded.panopto import PanoptoSimulator, Recording
from app.embedded.sample_media import make_lecture
from app.errors import IngestFailed
from app.ingest.extract import PyAvAudioExtractor
from app.ingest.fetch.downloader import MediaDownloader
from app.ingest.model import Attempt, MediaLocation, ResolvedLecture
from app.ingest.net.guard import GuardedClient
from app.ingest.pipeline import AudioPipeline
from app.storage.local import LocalStorage
from tests.support.media import hertz_of
from tests.support.panopto import IMPATIENT, MIB, Reports, files_in

STEM = "audio/one_source.1"


class Offer:
    """Media of one recording of 30 s, and what the pipeline makes of them."""

    def __init__(
        self,
        simulator: PanoptoSimulator,
        downloader: MediaDownloader,
        scratch: LocalStorage,
        whole: Path,
        folder: Path,
    ) -> None:
        self.simulator, self.scratch, self.downloader = simulator, scratch, downloader
        self.pipeline = AudioPipeline(downloader, PyAvAudioExtractor(), 60)
        self.whole = simulator.add(Recording(whole))
        short = make_lecture(folder / "short.mp4", 12, size_bytes=MIB)
        self.short = simulator.add(Recording(short))
        self.rest = simulator.add(
            Recording(make_lecture(folder / "rest.mp4", 18, size_bytes=MIB), offers=("hls", "mp4"))
        )
        cut = folder / "cut.mp4"
        cut.write_bytes(whole.read_bytes()[: whole.stat().st_size // 2])
        self.cut = simulator.add(Recording(cut, offers=("mp4",)))

    def place(self, name: str) -> MediaLocation:
        """Return ``whole.hls`` and the like as a location; what goes on at 12 s behind a plus."""
        name, _, following = name.partition("+")
        if following:
            return replace(self.place(name), then=((12.0, self.place(following)),))
        which, _, kind = name.partition(".")
        if which == "gone":
            return MediaLocation("mp4", f"{self.simulator.base_url}/gone.mp4")
        recording = getattr(self, which)
        url = self.simulator.hls_url if kind == "hls" else self.simulator.media_url
        return MediaLocation(kind, url(recording))

    async def seconds(self, *names: str, failed_before: int = 0) -> float:
        media = tuple(self.place(name) for name in names)
        lecture = ResolvedLecture(None, None, 30.0, media)
        attempt = Attempt(self.scratch, STEM, Reports(), failed_before, failed_before == 4)
        async with self.pipeline.audio_of(lecture, attempt) as audio:
            return audio.duration_seconds

    async def fails(self, *names: str, failed_before: int = 0) -> IngestFailed:
        with pytest.raises(IngestFailed) as failure:
            await self.seconds(*names, failed_before=failed_before)
        return failure.value


@pytest.fixture
def offer(
    simulator: PanoptoSimulator,
    downloader: MediaDownloader,
    scratch: LocalStorage,
    lecture_mp4: Path,
    tmp_path: Path,
) -> Offer:
    return Offer(simulator, downloader, scratch, lecture_mp4, tmp_path)


@pytest.mark.parametrize(
    "names",
    [
        ("short.hls", "whole.mp4"),
        ("short.podcast", "whole.hls"),
        ("cut.mp4", "short.mp4", "whole.hls"),
        ("gone.mp4", "short.hls", "whole.mp4"),
        ("short.hls+rest.hls",),
        ("short.mp4+rest.mp4",),
        ("short.hls+rest.mp4",),
        ("short.mp4+cut.mp4", "short.mp4+gone.mp4", "short.mp4+short.hls", "short.mp4+rest.mp4"),
    ],
)
async def test_what_is_not_whole_leads_to_the_next(offer: Offer, names: tuple[str, ...]) -> None:
    assert await offer.seconds(*names) == pytest.approx(30, abs=0.2)
    assert await files_in(offer.scratch) == []


async def test_what_goes_on_later_stands_in_its_place(offer: Offer) -> None:
    """And there is silence before it."""
    location = replace(offer.place("short.mp4"), then=((15.0, offer.place("short.hls")),))
    lecture = ResolvedLecture(None, None, 27.0, (location,))
    async with offer.pipeline.audio_of(lecture, Attempt(offer.scratch, STEM, Reports())) as audio:
        assert audio.duration_seconds == pytest.approx(27, abs=0.1)
        # The tone is 110 Hz higher with each second, eight in turn, from 440 Hz.
        for at_seconds, second in ((2.5, 2), (10.5, 10), (15.5, 0), (20.5, 5)):
            hertz = hertz_of(audio.path, at_seconds)
            assert hertz == pytest.approx(440 + 110 * (second % 8), abs=15)
    assert await files_in(offer.scratch) == []


@pytest.mark.parametrize("kind", ["podcast", "mp4", "hls"])
async def test_what_is_joined_may_be_no_larger_together_than_one_medium(
    offer: Offer, client: GuardedClient, kind: str
) -> None:
    names = f"short.{kind}", f"rest.{kind}"
    together = 0
    for name in names:
        lecture = ResolvedLecture(None, None, None, (place := offer.place(name),))
        attempt = Attempt(offer.scratch, STEM, Reports())
        source = await offer.downloader.download(lecture, place, attempt)
        together += source.size_bytes
        await offer.scratch.delete_file(source.key)
    for max_source_bytes in (together, together - 1):
        downloader = MediaDownloader(client, max_source_bytes=max_source_bytes, patience=IMPATIENT)
        offer.pipeline = AudioPipeline(downloader, PyAvAudioExtractor(), 60)
        if max_source_bytes == together:
            assert await offer.seconds("+".join(names)) == pytest.approx(30, abs=0.2)
        else:
            error = await offer.fails("+".join(names))
            assert error.failure is LectureFailure.TOO_LARGE
        assert await files_in(offer.scratch) == []


@pytest.mark.parametrize(
    ("names", "failure", "message"),
    [
        (("short.hls", "gone.mp4"), LectureFailure.TRUNCATED, "lasts 30 s, but 12 s"),
        (("gone.mp4", "short.mp4"), LectureFailure.TRUNCATED, "lasts 30 s, but 12 s"),
        (("short.mp4+gone.mp4",), LectureFailure.SOURCE_NOT_FOUND, ""),
        (("short.mp4+short.mp4",), LectureFailure.TRUNCATED, "lasts 30 s, but 24 s"),
        (("cut.mp4",), LectureFailure.TRUNCATED, "shorter than it says"),
        (("gone.mp4",), LectureFailure.SOURCE_NOT_FOUND, ""),
        ((), LectureFailure.SOURCE_NOT_FOUND, ""),
    ],
)
async def test_where_none_is_whole_the_failure_says_what_was_had(
    offer: Offer, names: tuple[str, ...], failure: LectureFailure, message: str
) -> None:
    error = await offer.fails(*names)
    assert (error.failure, error.transient) == (failure, False)
    assert message in error.message
    assert await files_in(offer.scratch) == []


async def test_a_passing_failure_leads_to_the_next_after_another_attempt(offer: Offer) -> None:
    offer.cut.faults.media_status = 503
    offer.simulator.requests.clear()
    assert (await offer.fails("cut.mp4", "whole.hls")).transient
    assert offer.simulator.media_requests(offer.whole) == []
    seconds = await offer.seconds("cut.mp4", "whole.hls", failed_before=1)
    assert seconds == pytest.approx(30, abs=0.2)
    assert await files_in(offer.scratch) == []


async def test_a_part_is_gone_on_with_before_others_are_tried(offer: Offer) -> None:
    faults = offer.whole.faults
    faults.bad_segment, faults.bad_segment_times = 3, None
    names = "whole.hls", "rest.mp4"
    for failed_before in range(4):
        assert (await offer.fails(*names, failed_before=failed_before)).transient
        assert await files_in(offer.scratch) != []
    assert offer.simulator.media_requests(offer.rest) == []
    error = await offer.fails(*names, failed_before=4)
    assert (error.failure, error.transient) == (LectureFailure.TRUNCATED, False)
    assert await files_in(offer.scratch) == []


@pytest.mark.parametrize(
    ("failed_before", "names", "failure", "transient"),
    [
        (1, ("cut.mp4", "gone.mp4"), LectureFailure.NETWORK, True),
        (1, ("gone.mp4", "cut.mp4"), LectureFailure.NETWORK, True),
        (1, ("cut.mp4", "short.hls"), LectureFailure.NETWORK, True),
        (4, ("cut.mp4", "short.hls"), LectureFailure.TRUNCATED, False),
        (4, ("gone.mp4", "cut.mp4"), LectureFailure.NETWORK, True),
    ],
)
async def test_what_is_busy_tells_more_than_what_is_not_there(
    offer: Offer,
    failed_before: int,
    names: tuple[str, ...],
    failure: LectureFailure,
    transient: bool,
) -> None:
    """And while there are attempts, it passes."""
    offer.cut.faults.media_status = 503
    error = await offer.fails(*names, failed_before=failed_before)
    assert (error.failure, error.transient) == (failure, transient)
    assert await files_in(offer.scratch) == []


async def test_the_next_attempt_goes_on_with_the_medium_that_was_begun(offer: Offer) -> None:
    faults = offer.whole.faults
    faults.bad_segment, faults.bad_segment_times = 3, None
    assert (await offer.fails("short.mp4", "whole.hls")).transient
    assert await files_in(offer.scratch) != []
    faults.bad_segment = None
    offer.simulator.requests.clear()
    assert await offer.seconds("short.mp4", "whole.hls") == pytest.approx(30, abs=0.2)
    assert offer.simulator.media_requests(offer.short) == []
    segments = [each.path for each in offer.simulator.media_requests(offer.whole)]
    assert not [path for path in segments if path.endswith(("-0.ts", "-1.ts"))]
    assert await files_in(offer.scratch) == []
