"""0:00 is the edited recording's start, in whatever shape the raw stream comes.

The media has a beep at known times; what was made of it is decoded, and the beeps are looked for.
"""

from pathlib import Path
from typing import Any

import pytest

from app.domain import LectureFailure
from app.embedded.panopto import PanoptoSimulator, Recording
from app.errors import IngestFailed
from app.ingest.extract import PyAvAudioExtractor
from app.ingest.fetch.downloader import MediaDownloader
from app.ingest.model import Attempt, LectureRequest
from app.ingest.pipeline import AudioPipeline
from app.storage.local import LocalStorage
from tests.support.media import marks_of, write_marked
from tests.support.panopto import Reports, files_in, request_for

SECONDS = 60
MARKS = [round(1 + 5.37 * number, 2) for number in range(11)]
EXACT_SECONDS = 0.05
MANY = tuple((start + 0.013, start + 2.5) for start in range(0, 60, 3))
FEW = ((7.3, 21.9), (30.25, 44.85), (50.1, 58.0))
FORMS: dict[str, dict[str, Any]] = {
    "mp4": {"offers": ("mp4",)},
    "rendition_ts": {},
    "rendition_fmp4": {"hls_fragmented_mp4": True},
    "variant_ts": {"hls_audio_rendition": False},
    "variant_fmp4": {"hls_audio_rendition": False, "hls_fragmented_mp4": True},
    "one_file": {"hls_single_file": True},
    "encrypted": {"hls_encrypted": True},
}
BROKEN = {
    f"{name}_in_two_runs": {**form, "hls_discontinuity": 4}
    for name, form in FORMS.items()
    if name != "mp4"
}


@pytest.fixture(scope="module")
def marked_mp4(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_marked(tmp_path_factory.mktemp("media") / "marked.mp4", SECONDS, MARKS)


class Audio:
    """The whole pipeline, and the beeps in what it makes."""

    def __init__(
        self, downloader: MediaDownloader, scratch: LocalStorage, simulator: PanoptoSimulator
    ) -> None:
        self.pipeline = AudioPipeline(downloader, PyAvAudioExtractor(), 60)
        self.scratch, self.simulator = scratch, simulator

    async def marks(self, recording: Recording) -> tuple[float, list[float]]:
        return await self.marks_for(request_for(self.simulator, recording))

    async def marks_for(self, request: LectureRequest) -> tuple[float, list[float]]:
        """Return how long the audio is, and where its beeps begin."""
        lecture = await self.pipeline.resolve(request, Reports())
        attempt = Attempt(self.scratch, "audio/one_source.1", Reports())
        async with self.pipeline.audio_of(lecture, attempt) as audio:
            return audio.duration_seconds, marks_of(audio.path)

    async def fails(self, request: LectureRequest) -> LectureFailure:
        """Expect a failure that leaves nothing."""
        with pytest.raises(IngestFailed) as failure:
            await self.marks_for(request)
        assert await files_in(self.scratch) == []
        return failure.value.failure


@pytest.fixture
def audio(downloader: MediaDownloader, scratch: LocalStorage, simulator: PanoptoSimulator) -> Audio:
    return Audio(downloader, scratch, simulator)


def edited(edits: tuple[tuple[float, float], ...]) -> list[float]:
    """Return where the beeps are in the edited recording, those cut into left out."""
    at, found = 0.0, []
    for start, end in edits:
        found += [at + mark - start for mark in MARKS if start + 0.15 < mark < end - 0.35]
        at += end - start
    return found


def assert_heard(marks: list[float], expected: list[float]) -> None:
    for mark in expected:
        nearest = min(marks, key=lambda heard: abs(heard - mark))
        assert nearest == pytest.approx(mark, abs=EXACT_SECONDS), (marks, expected)


@pytest.mark.parametrize(
    ("form", "edits"),
    [
        *((form, FEW) for form in (*FORMS, *BROKEN)),
        *((form, edits) for form in ("mp4", "variant_ts_in_two_runs") for edits in (MANY, ())),
    ],
)
async def test_every_beep_is_where_it_belongs(
    audio: Audio, marked_mp4: Path, form: str, edits: tuple[tuple[float, float], ...]
) -> None:
    recording = Recording(marked_mp4, edits=edits, **{**FORMS, **BROKEN}[form])
    seconds, marks = await audio.marks(audio.simulator.add(recording))
    wanted = sum(end - start for start, end in edits) if edits else SECONDS
    assert seconds == pytest.approx(wanted, abs=0.1)
    assert_heard(marks, edited(edits or ((0, SECONDS),)))


@pytest.mark.parametrize("form", ["mp4", "rendition_ts", "variant_fmp4_in_two_runs"])
async def test_a_stream_that_is_silent_for_a_while_keeps_its_place(
    audio: Audio, marked_mp4: Path, form: str
) -> None:
    """Of a microphone that was switched on late, and off for a minute."""
    recording = Recording(
        marked_mp4,
        edits=((7.3, 21.9), (30.25, 44.85)),
        edit_places=(4.0, 80.0),
        **{**FORMS, **BROKEN}[form],
    )
    seconds, marks = await audio.marks(audio.simulator.add(recording))
    assert seconds == pytest.approx(80 + 14.6, abs=0.1)
    inside = [mark for mark in MARKS if 7.5 < mark < 21.5], [m for m in MARKS if 30.5 < m < 44.5]
    expected = [mark - 7.3 + 4 for mark in inside[0]] + [mark - 30.25 + 80 for mark in inside[1]]
    assert_heard(marks, expected)


async def test_a_stream_that_begins_later_than_the_recording(
    audio: Audio, marked_mp4: Path
) -> None:
    recording = audio.simulator.add(Recording(marked_mp4, starts_at_seconds=12.5))
    seconds, marks = await audio.marks(recording)
    assert seconds == pytest.approx(SECONDS + 12.5, abs=0.1)
    assert_heard(marks, [mark + 12.5 for mark in MARKS])


@pytest.mark.parametrize("form", ["media_url", "hls_url"])
@pytest.mark.parametrize("edits", [(), FEW])
async def test_a_given_stream_is_cut_as_the_tenant_cuts_it(
    audio: Audio, marked_mp4: Path, form: str, edits: tuple[tuple[float, float], ...]
) -> None:
    recording = audio.simulator.add(Recording(marked_mp4, edits=edits))
    stream_url = getattr(audio.simulator, form)(recording)
    request = request_for(audio.simulator, recording, stream_url=stream_url)
    _, marks = await audio.marks_for(request)
    assert_heard(marks, edited(edits or ((0, SECONDS),)))


@pytest.mark.parametrize("seconds", [SECONDS - 5.0, SECONDS + 5.0])
async def test_a_given_stream_of_another_length_is_refused(
    audio: Audio, marked_mp4: Path, seconds: float
) -> None:
    recording = audio.simulator.add(Recording(marked_mp4, duration_seconds=seconds))
    stream_url = audio.simulator.media_url(recording)
    request = request_for(audio.simulator, recording, stream_url=stream_url)
    assert await audio.fails(request) is LectureFailure.TRUNCATED
    recording.duration_seconds = SECONDS + 0.8
    await audio.marks_for(request)
