"""What lectures keep in storage."""

from collections.abc import Iterator
from typing import Any

from app.db.models import Lecture
from app.domain import JobKind
from app.services.kernel.stored import Stored, StoredAudio, StoredItem
from app.services.lectures.remove import SHARED


def _items(row: Any) -> Iterator[StoredItem]:
    if row.audio_storage_key is not None:
        yield StoredAudio(
            row.audio_storage_key, row.audio_bytes, duration_seconds=row.duration_seconds
        )
    if row.upload_storage_key is not None:
        yield StoredItem(row.upload_storage_key, row.upload_bytes, row.checksum)
    if row.transcript_storage_key is not None:
        yield StoredItem(row.transcript_storage_key)
        yield from map(StoredItem, _beside(row.transcript_storage_key))


def _beside(key: str) -> tuple[str, ...]:
    """A current transcript lies there as WebVTT too."""
    return (f"{key.removesuffix('.json')}.vtt",) if key.endswith(".json") else ()


LECTURES = Stored(
    name="lecture",
    folders=("audio/", "transcripts/", "uploads/"),
    table=Lecture,
    keys=(Lecture.audio_storage_key, Lecture.transcript_storage_key, Lecture.upload_storage_key),
    known=(Lecture.duration_seconds, Lecture.audio_bytes, Lecture.upload_bytes, Lecture.checksum),
    items=_items,
    shared=SHARED,
    job=JobKind.DOWNLOAD_LECTURE,
    beside=_beside,
)
