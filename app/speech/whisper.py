"""`Transcriber` by faster-whisper: a child process for each recording, killed to cancel."""

import asyncio
import json
from collections.abc import AsyncGenerator, Awaitable, Callable, Sequence
from pathlib import Path
from typing import Any

import structlog

from app.cancellation import ended
from app.domain import TranscriptionFailure
from app.errors import ConfigurationError
from app.ingest.sandbox.channel import answering
from app.ingest.sandbox.run import (
    ChildCrashed,
    ChildError,
    ChildKilled,
    ChildRefused,
    ChildTimedOut,
    Limits,
    run_child,
)
from app.settings import Settings
from app.speech.assets import speech_sample
from app.speech.languages import code_of
from app.speech.models import ModelFolder, folders_of, problem_with_files
from app.speech.transcriber import (
    OPENING,
    WINDOW,
    Heard,
    Opening,
    SpeechFailed,
    SpeechModel,
    Window,
)

log = structlog.get_logger(__name__)

_GIB = 1024**3
_LEAST_MEMORY_BYTES = 2 * _GIB
"""Of address space, a third of which the base model ever touches; a larger one needs more."""
_WEIGHTS_COPIES = 3
_THREAD_BYTES = 128 * 1024**2
"""The addresses that each further thread takes: its stack, and a heap of its own."""
_UNBOUNDED_BYTES = 1 << 46
"""A GPU's driver maps more addresses than there is memory."""
_SOUND_BYTES = 3 * _GIB
"""A day of 16,000 samples a second, which the child keeps on disk."""
_CHECK_SECONDS = 300

_REFUSALS = {
    "no_audio": (TranscriptionFailure.NO_AUDIO, "The audio has no sound that can be read."),
    "unreadable": (TranscriptionFailure.NO_AUDIO, "The audio cannot be read."),
    "truncated": (TranscriptionFailure.NO_AUDIO, "The audio is damaged."),
    "too_long": (TranscriptionFailure.TIMEOUT, "Recordings of over 24 hours are not transcribed."),
    "bad_model": (TranscriptionFailure.BAD_MODEL, "The model cannot be used at the moment."),
}


class WhisperTranscriber:
    """`Transcriber` with the models of the configuration; safe for any number of tasks."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._folders = {each.model.name: each for each in folders_of(settings.whisper_models)}

    @property
    def models(self) -> Sequence[SpeechModel]:
        """Those that there are, the default first."""
        return [each.model for each in self._folders.values()]

    def supports(self, model: str, language: str) -> bool:
        """Whether the model can be told to hear that language (BCP 47)."""
        folder = self._folders.get(model)
        return folder is not None and code_of(language) in folder.codes

    async def check(self) -> None:
        """Let every model hear a sentence, or raise `ConfigurationError` with one line."""
        for each in self._folders.values():
            problem = await asyncio.to_thread(problem_with_files, each.folder)
            if problem is None and not speech_sample().is_file():
                problem = "the speech to try it with is missing; run python -m app.speech.assets"
            problem = problem or await self._problem_in_child(each)
            if problem:
                raise ConfigurationError(f"WHISPER_MODELS: {each.model.name}: {problem}")

    async def transcribe(
        self,
        audio: Path,
        *,
        model: str,
        language: str | None,
        heard: Heard,
        report: Callable[[float], Awaitable[None]],
    ) -> AsyncGenerator[Opening | Window, None]:
        """Yield the opening, where ``heard`` has none, then each window that it has not."""
        folder = self._folders.get(model)
        if folder is None:  # Another worker may have it still.
            message = "The model is not there any more."
            raise SpeechFailed(TranscriptionFailure.BAD_MODEL, message, transient=True)
        known = heard.opening.language if heard.opening else language
        arguments = {
            "audio": str(audio),
            "model": self._loading(folder),
            "language": known and code_of(known),
            "has_opening": heard.opening is not None,
            "start": heard.windows[-1].end if heard.windows else 0.0,
        }
        told: asyncio.Queue[Opening | Window | None] = asyncio.Queue()

        async def answer(question: bytes, body: bytes) -> tuple[bytes, bytes]:
            match json.loads(question):
                case {"tells": "opening"}:
                    told.put_nowait(OPENING.validate_json(body))
                case {"tells": "window"}:
                    told.put_nowait(WINDOW.validate_json(body))
                case {"heard": seconds}:
                    await report(seconds)
            return b"{}", b""

        async with answering(answer) as descriptor:
            child = asyncio.ensure_future(self._hear(arguments, descriptor, folder))
            child.add_done_callback(lambda _: told.put_nowait(None))
            try:
                while (each := await told.get()) is not None:
                    yield each
                child.result()
            finally:
                child.cancel()
                await ended(child)

    async def _hear(self, arguments: dict[str, Any], descriptor: int, folder: ModelFolder) -> None:
        seconds = self._settings.transcribe_timeout_seconds
        try:
            await run_child(
                "app.speech.child.hear",
                {**arguments, "descriptor": descriptor},
                limits=self._limits(folder, seconds),
                timeout_seconds=seconds,
                descriptors=(descriptor,),
            )
        except (ChildError, ChildKilled) as error:
            raise _failure_of(error) from None

    async def _problem_in_child(self, folder: ModelFolder) -> str | None:
        try:
            answer = await run_child(
                "app.speech.child.check",
                {"model": self._loading(folder), "speech": str(speech_sample())},
                limits=self._limits(folder, _CHECK_SECONDS),
                timeout_seconds=_CHECK_SECONDS,
            )
        except ChildCrashed as error:
            errors = " ".join(error.errors.split())[-300:]
            return f"loading it ended with code {error.return_code}: {errors}"
        except ChildTimedOut:
            return f"it did not hear four seconds of speech in {_CHECK_SECONDS} s"
        except (ChildError, ChildKilled) as error:
            return f"it cannot be loaded ({error})"
        problem: str | None = answer["problem"]
        return problem

    def _loading(self, folder: ModelFolder) -> dict[str, Any]:
        """Return the arguments of the child's `Recognizer`."""
        settings = self._settings
        on_gpu = settings.whisper_device == "cuda"
        return {
            "folder": str(folder.folder),
            "device": settings.whisper_device,
            "compute_type": settings.whisper_compute_type or ("float16" if on_gpu else "int8"),
            "threads": settings.whisper_threads,
            "batch_size": settings.whisper_batch_size or (8 if on_gpu else 1),
        }

    def _limits(self, folder: ModelFolder, seconds: float) -> Limits:
        memory_bytes = max(_LEAST_MEMORY_BYTES, _GIB // 2 + _WEIGHTS_COPIES * folder.weights_bytes)
        memory_bytes += (self._settings.whisper_threads - 1) * _THREAD_BYTES
        if self._settings.whisper_device != "cpu":
            memory_bytes = _UNBOUNDED_BYTES
        cpu_seconds = round(seconds * self._settings.whisper_threads) + 1
        return Limits(memory_bytes, cpu_seconds, _SOUND_BYTES)


def make_transcriber(settings: Settings) -> WhisperTranscriber:
    """Return the transcriber with what is configured; it has loaded nothing."""
    return WhisperTranscriber(settings)


def _failure_of(error: ChildError | ChildKilled) -> SpeechFailed:
    match error:
        case ChildTimedOut():
            return SpeechFailed(TranscriptionFailure.TIMEOUT, "The transcription took too long.")
        case ChildRefused(code=code) if code in _REFUSALS:
            failure, message = _REFUSALS[code]
            transient = failure is TranscriptionFailure.BAD_MODEL
            return SpeechFailed(failure, message, transient=transient)
        case ChildRefused(code=code):
            log.warning("speech_child_refused", code=code)
        case ChildCrashed():
            log.warning("speech_child_crashed", code=error.return_code, errors=error.errors)
    message = "The audio could not be transcribed."
    return SpeechFailed(TranscriptionFailure.INTERNAL, message, transient=True)
