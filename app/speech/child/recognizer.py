"""faster-whisper, and nothing else that knows of it: where there is speech, and which words.

Settings and reasons are in docs/transcripts.md: word times always, no text of before as a prompt
(loops spread by it), silence cut out before the model hears it (it writes text into silence).
"""

from __future__ import annotations

import sys
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from faster_whisper import WhisperModel
from faster_whisper.transcribe import BatchedInferencePipeline
from faster_whisper.vad import VadOptions, get_speech_timestamps

from app.ingest.sandbox.child import Refused
from app.speech.child.sound import RATE, Samples
from app.speech.segments import HeardWord

WINDOW_SECONDS = 30
"""What the model hears at once."""
_LONGEST_SPEECH_SECONDS = 60.0
_LEAST_SILENCE_MS = 500
_FIRST_TEMPERATURES = (0.0, 0.4)
_OTHER_TEMPERATURES = (0.6,)
_REPETITION_PENALTY = 1.2


@dataclass(frozen=True, slots=True)
class Passage:
    """A stretch of what was heard, in seconds of the samples that were given."""

    start: float
    end: float
    words: tuple[HeardWord, ...]
    log_probability: float
    compression_ratio: float
    no_speech_probability: float

    @property
    def text(self) -> str:
        """The words as they are written."""
        return "".join(word.text for word in self.words).strip()

    @property
    def confidence(self) -> float:
        """From 0 to 1, by the words' length."""
        seconds = sum(word.end - word.start for word in self.words)
        weighted = sum((word.end - word.start) * word.confidence for word in self.words)
        return weighted / seconds if seconds else 0.0


def speech_in(samples: Samples) -> list[tuple[int, int]]:
    """Return where there is speech, in samples, each stretch up to a minute long.

    Stretches are apart by half a second and more of silence, or cut at a shorter one.
    """
    options = VadOptions(
        max_speech_duration_s=_LONGEST_SPEECH_SECONDS,
        min_silence_duration_ms=_LEAST_SILENCE_MS,
        speech_pad_ms=0,
    )
    return [(each["start"], each["end"]) for each in get_speech_timestamps(samples, options)]


class Recognizer:
    """A model that is loaded.  ``batch_size`` over 1 hears so many windows at once, on a GPU."""

    def __init__(
        self, folder: str, *, device: str, compute_type: str, threads: int, batch_size: int = 1
    ) -> None:
        self._model = WhisperModel(
            folder,
            device=device,
            compute_type=compute_type,
            cpu_threads=threads,
            local_files_only=True,
        )
        self._batch_size = batch_size

    @property
    def is_multilingual(self) -> bool:
        """Whether it knows more than English."""
        return bool(self._model.model.is_multilingual)

    @property
    def has_fitting_features(self) -> bool:
        """Whether sound is prepared with as many frequency bands as the model was made for."""
        bands = self._model.feature_extractor.mel_filters.shape[0]
        return bool(bands == self._model.model.n_mels)

    def languages_of(self, samples: Samples) -> dict[str, float]:
        """Return how likely each language is for up to 30 s of speech, by the engine's codes."""
        if not self.is_multilingual:
            return {"en": 1.0}
        *_, probabilities = self._model.detect_language(samples[: WINDOW_SECONDS * RATE])
        return dict(probabilities)

    def passages(
        self,
        samples: Samples,
        language: str,
        *,
        differently: bool = False,
        most_tokens: int | None = None,
    ) -> Iterator[Passage]:
        """Yield what is heard in samples of speech alone, as it is heard.

        ``differently``: with more chance and less repetition, for what went wrong before.
        ``most_tokens`` ends each window there.
        """
        options: dict[str, Any] = {
            "language": language,
            "beam_size": 5,
            "temperature": _OTHER_TEMPERATURES if differently else _FIRST_TEMPERATURES,
            "repetition_penalty": _REPETITION_PENALTY if differently else 1.0,
            "condition_on_previous_text": False,
            "word_timestamps": True,
            "max_new_tokens": most_tokens,
            "vad_filter": False,
        }
        if self._batch_size > 1:
            found = self._in_batches(samples, options)
        else:
            found, _ = self._model.transcribe(samples, **options)
        for each in found:
            yield Passage(
                each.start,
                each.end,
                tuple(
                    HeardWord(word.start, word.end, word.word, word.probability)
                    for word in each.words or ()
                ),
                each.avg_logprob,
                each.compression_ratio,
                each.no_speech_prob,
            )

    def _in_batches(self, samples: Samples, options: dict[str, Any]) -> Iterable[Any]:
        """Hear windows side by side; fewer at once, from then on, where memory is too small."""
        options = {**options, "temperature": options["temperature"][0]}
        clips = _windows(samples)
        while True:
            try:
                pipeline = BatchedInferencePipeline(self._model)
                found, _ = pipeline.transcribe(
                    samples,
                    batch_size=self._batch_size,
                    clip_timestamps=[{"start": a / RATE, "end": b / RATE} for a, b in clips],
                    **options,
                )
                return list(found)
            except RuntimeError as error:
                if "out of memory" not in str(error) or self._batch_size == 1:
                    raise
                self._batch_size //= 2


def loaded(model: dict[str, Any]) -> Recognizer:
    """Return the model that the arguments of `Recognizer` name; refuses as ``bad_model``."""
    try:
        return Recognizer(**model)
    except MemoryError:
        raise
    except Exception as error:  # noqa: BLE001 - the engine's parts raise bare ones; each is told
        sys.stderr.write(f"{type(error).__name__}: {error}\n")
        raise Refused("bad_model") from None


def _windows(samples: Samples) -> Sequence[tuple[int, int]]:
    """Return windows that cover the samples, of 30 s at most, cut where it is quietest."""
    windows, start, most = [], 0, WINDOW_SECONDS * RATE
    while len(samples) - start > most:
        # The quietest tenth of a second in the window's last third.
        tail = samples[start + most * 2 // 3 : start + most]
        frames = tail[: len(tail) // (RATE // 10) * (RATE // 10)].reshape(-1, RATE // 10)
        quietest = int(np.argmin((frames**2).sum(axis=1)))
        stop = start + most * 2 // 3 + quietest * (RATE // 10) + RATE // 20
        windows.append((start, stop))
        start = stop
    return [*windows, (start, len(samples))]
