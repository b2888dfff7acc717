"""What transcriptions keep in storage besides the lecture's current one."""

from collections.abc import Iterator
from typing import Any

from app.db.models import Transcription
from app.domain import JobKind
from app.services.kernel.stored import Stored, StoredItem


def _items(row: Any) -> Iterator[StoredItem]:
    if row.storage_key is not None:
        yield StoredItem(row.storage_key)


TRANSCRIPTIONS = Stored(
    name="transcription",
    folders=("transcripts/each/",),
    table=Transcription,
    keys=(Transcription.storage_key,),
    known=(),
    items=_items,
    job=JobKind.TRANSCRIBE,
)
