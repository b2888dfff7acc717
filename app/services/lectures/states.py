"""Every transition of a lecture, as `docs/states.md` draws them; nothing else sets its status.

Each changes a row that its caller has locked, in the caller's transaction.
"""

from datetime import timedelta

from sqlalchemy import func

from app.db.models import Lecture
from app.domain import DownloadStage, LectureFailure, LectureStatus

RUNNING = (LectureStatus.PENDING, LectureStatus.DOWNLOADING)
ENDED = (LectureStatus.COMPLETED, LectureStatus.FAILED)


def queue_again(lecture: Lecture) -> None:
    """FAILED -> PENDING, with nothing left of its failure."""
    _forget_progress(lecture)
    lecture.status = LectureStatus.PENDING
    lecture.failure = lecture.error_message = lecture.next_attempt_at = None
    lecture.started_at = None


def begin_attempt(lecture: Lecture) -> None:
    """PENDING, or DOWNLOADING under a worker that is gone -> DOWNLOADING."""
    _forget_progress(lecture)
    lecture.status = LectureStatus.DOWNLOADING
    lecture.stage = DownloadStage.RESOLVING
    lecture.attempt += 1
    lecture.started_at = lecture.started_at or func.now()
    lecture.failure = lecture.error_message = lecture.next_attempt_at = None


def take_attempt_back(lecture: Lecture, attempts_before: int | None) -> None:
    """DOWNLOADING -> PENDING, as if the attempt had not been begun; None: it was not."""
    _forget_progress(lecture)
    lecture.status = LectureStatus.PENDING
    if attempts_before is not None:
        lecture.attempt = attempts_before


def postpone(lecture: Lecture, delay: timedelta, message: str) -> None:
    """DOWNLOADING -> PENDING until an attempt after the delay; the message says why."""
    _forget_progress(lecture)
    lecture.status = LectureStatus.PENDING
    lecture.next_attempt_at = func.now() + delay
    lecture.error_message = message


def complete(lecture: Lecture, audio_key: str, audio_bytes: int, duration_seconds: float) -> None:
    """DOWNLOADING -> COMPLETED, with the audio in its place."""
    _forget_progress(lecture)
    lecture.status = LectureStatus.COMPLETED
    lecture.audio_storage_key, lecture.audio_bytes = audio_key, audio_bytes
    lecture.duration_seconds = round(duration_seconds)
    lecture.completed_at = func.now()


def fail(lecture: Lecture, failure: LectureFailure, message: str) -> None:
    """PENDING or DOWNLOADING -> FAILED, with what clients switch on and what they show."""
    _forget_progress(lecture)
    lecture.status = LectureStatus.FAILED
    lecture.failure, lecture.error_message = failure, message
    lecture.next_attempt_at = None


def forget_upload(lecture: Lecture) -> list[str]:
    """Take the uploaded file from the row; return the keys to delete after the commit."""
    key, lecture.upload_storage_key = lecture.upload_storage_key, None
    return [] if key is None else [key]


def _forget_progress(lecture: Lecture) -> None:
    """Forget the progress of the attempt that has ended."""
    lecture.stage = lecture.total_bytes = None
    lecture.downloaded_bytes = 0
