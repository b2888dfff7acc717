"""Where objects lie: logical keys, the same on disk and in a bucket."""

import re
from uuid import UUID

from app.db.ledger import Lease

_TEMPORARY = re.compile(r"audio/[^/]+_source\.(\d{1,9})\.[^/]+")


def audio_key(lecture_id: UUID) -> str:
    """Return the key of a lecture's finished audio."""
    return f"audio/{lecture_id}.m4a"


def source_stem(lecture_id: UUID, attempt: int, lease: Lease) -> str:
    """Return the stem of an attempt's temporary objects.

    It carries the attempt and a part of its fencing token, so that a late clean-up cannot touch a
    successor's files.
    """
    return f"audio/{lecture_id}_source.{attempt}.{lease.token.hex[:8]}"


def kept_stem(lecture_id: UUID) -> str:
    """Return the stem of what an attempt that ended in order has kept for the next one."""
    return f"audio/{lecture_id}_source.0.kept"


def attempt_of(key: str) -> int | None:
    """Return the attempt that a temporary object is of, 0 for what was kept; None for others."""
    match = _TEMPORARY.fullmatch(key)
    return int(match[1]) if match else None


def is_temporary(key: str) -> bool:
    """Tell whether the key is of an attempt's temporary object, made with `source_stem`."""
    return key.startswith("audio/") and "_source." in key


def upload_key(lecture_id: UUID) -> str:
    """Return the key of an uploaded recording, until its audio is made.

    One that is sent again after a failure lies under an id that was drawn for it.
    """
    return f"uploads/{lecture_id}"


def transcript_keys(lecture_id: UUID) -> tuple[str, str]:
    """Return the keys of a lecture's current transcript: its payload, and as WebVTT."""
    return f"transcripts/{lecture_id}.json", f"transcripts/{lecture_id}.vtt"


def transcription_key(transcription_id: UUID) -> str:
    """Return the key of a transcription's payload, current or not."""
    return f"transcripts/each/{transcription_id}.json"


def document_key(document_id: UUID) -> str:
    """Return the key of a document's PDF."""
    return f"documents/{document_id}.pdf"
