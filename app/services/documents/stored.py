"""What documents keep in storage."""

from collections.abc import Iterator
from typing import Any

from app.db.models import Document
from app.domain import JobKind
from app.services.documents.remove import SHARED
from app.services.kernel.stored import Stored, StoredItem


def _items(row: Any) -> Iterator[StoredItem]:
    yield StoredItem(row.storage_key, row.size_bytes, row.checksum)


DOCUMENTS = Stored(
    name="document",
    folders=("documents/",),
    table=Document,
    keys=(Document.storage_key,),
    known=(Document.size_bytes, Document.checksum),
    items=_items,
    shared=SHARED,
    job=JobKind.COUNT_PAGES,
)
