"""A transcript as the JSON that is stored and exported: version 1 (docs/transcripts.md).

Whatever is read was written here, so that anything else is a fault.
"""

from typing import Annotated, Any, Literal

import orjson
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from app.domain import TranscriptionSource
from app.transcript.model import Segment, Transcript, Word

_Seconds = Annotated[float, Field(ge=0, allow_inf_nan=False)]
_Confidence = Annotated[float, Field(ge=0, le=1)] | None


class UnreadablePayload(ValueError):
    """The bytes are no transcript that was written here."""


class _Wire(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, strict=True)


class _Word(_Wire):
    start: _Seconds
    end: _Seconds
    word: str
    confidence: _Confidence


class _Segment(_Wire):
    start: _Seconds
    end: _Seconds
    text: str
    confidence: _Confidence
    words: list[_Word]


class _Payload(_Wire):
    version: Literal[1]
    language: str | None
    model: str | None
    source: Literal["CAPTIONS", "SPEECH_RECOGNITION"]
    duration_seconds: Annotated[_Seconds, Field(alias="durationSeconds")]
    text: str
    segments: list[_Segment]


def to_json(transcript: Transcript) -> bytes:
    """Return the transcript as UTF-8."""
    payload: dict[str, Any] = {
        "version": 1,
        "language": transcript.language,
        "model": transcript.model,
        "source": transcript.source.name,
        "durationSeconds": transcript.duration_seconds,
        "text": transcript.text,
        "segments": [
            {
                "start": segment.start,
                "end": segment.end,
                "text": segment.text,
                "confidence": segment.confidence,
                "words": [
                    {
                        "start": word.start,
                        "end": word.end,
                        "word": word.text,
                        "confidence": word.confidence,
                    }
                    for word in segment.words
                ],
            }
            for segment in transcript.segments
        ],
    }
    return orjson.dumps(payload)


def from_json(content: bytes) -> Transcript:
    """Return the transcript that `to_json` has written; anything else is `UnreadablePayload`."""
    try:
        payload = _Payload.model_validate_json(content)
    except ValidationError as error:
        raise UnreadablePayload("the transcript's payload has another shape") from error
    transcript = Transcript(
        TranscriptionSource[payload.source],
        payload.language,
        payload.model,
        payload.duration_seconds,
        tuple(
            Segment(
                each.start,
                each.end,
                each.text,
                each.confidence,
                tuple(Word(w.start, w.end, w.word, w.confidence) for w in each.words),
            )
            for each in payload.segments
        ),
    )
    if transcript.text != payload.text:
        raise UnreadablePayload("the transcript's text is not that of its segments")
    return transcript
