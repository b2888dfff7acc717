"""Every transition of a transcription (docs/states.md); nothing else sets its status.

Each changes a row that its caller has locked, in the caller's transaction.
"""

from sqlalchemy import func

from app.db.models import Transcription
from app.domain import TranscriptionFailure, TranscriptionStatus

RUNNING = (TranscriptionStatus.PENDING, TranscriptionStatus.PROCESSING)
ENDED = (TranscriptionStatus.COMPLETED, TranscriptionStatus.FAILED)


def queue_again(row: Transcription) -> None:
    """FAILED -> PENDING, with nothing left of its failure; what was heard is kept."""
    row.status = TranscriptionStatus.PENDING
    row.failure = row.error_message = row.progress = row.started_at = None


def begin(row: Transcription) -> None:
    """PENDING, or PROCESSING under a worker that is gone -> PROCESSING."""
    row.status = TranscriptionStatus.PROCESSING
    row.progress = row.progress or 0.0
    row.started_at = row.started_at or func.now()
    row.error_message = None


def postpone(row: Transcription, message: str | None = None) -> None:
    """PROCESSING -> PENDING; the message says why, None where it was merely handed back."""
    row.status = TranscriptionStatus.PENDING
    row.progress, row.error_message = None, message


def complete(
    row: Transcription, storage_key: str, text_length: int, confidence: float | None
) -> None:
    """PROCESSING -> COMPLETED, with the payload in its place."""
    row.status = TranscriptionStatus.COMPLETED
    row.storage_key, row.text_length, row.avg_confidence = storage_key, text_length, confidence
    row.progress = row.failure = row.error_message = None
    row.processing_seconds = func.extract("epoch", func.clock_timestamp() - row.started_at)
    row.completed_at = func.now()


def fail(row: Transcription, failure: TranscriptionFailure, message: str) -> None:
    """PENDING or PROCESSING -> FAILED, with what clients switch on and what they show."""
    row.status = TranscriptionStatus.FAILED
    row.failure, row.error_message, row.progress = failure, message, None
