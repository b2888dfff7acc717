"""What a feature keeps in storage, declared once for the sweep, the doctor and the inventory."""

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any

from sqlalchemy.orm import InstrumentedAttribute

from app.db.models import Document, Lecture, Transcription
from app.domain import JobKind
from app.services.kernel.links import Shared


@dataclass(frozen=True, slots=True)
class StoredItem:
    """An object that a row points at; size and checksum (SHA-256, hex) where the row has them."""

    key: str
    size_bytes: int | None = None
    checksum: str | None = None


@dataclass(frozen=True, slots=True)
class StoredAudio(StoredItem):
    """A recording's audio, and how long the row says that it is."""

    duration_seconds: int | None = None


@dataclass(frozen=True, slots=True)
class Stored:
    """Rows that point at objects.

    ``folders`` are theirs alone, but for those of features that are registered before; the id of
    the row is in each name there, but in that of an upload which was sent again.  ``keys`` are the
    columns that name objects, ``beside`` are the keys that go with one; ``items`` says of a row of
    them what is known of each.  ``shared`` is None where rows go with those of another feature.
    ``job`` is the work whose open job may need objects of its own.
    """

    name: str
    folders: tuple[str, ...]
    table: type[Lecture] | type[Document] | type[Transcription]
    keys: tuple[InstrumentedAttribute[Any], ...]
    known: tuple[InstrumentedAttribute[Any], ...]
    items: Callable[[Any], Iterable[StoredItem]]
    job: JobKind
    shared: Shared | None = None
    beside: Callable[[str], tuple[str, ...]] = lambda _: ()
