"""What a reader of a stored file gets to know about it."""

from dataclasses import dataclass
from datetime import datetime
from uuid import UUID

from app.auth.viewer import Viewer

DOCUMENT_FILE = "document"
LECTURE_AUDIO = "audio"
"""The kinds of file: a signed link for one is good for no other."""

Reader = Viewer | UUID
"""A verified session, or the id of the user whom a signed link stands in for."""


@dataclass(frozen=True, slots=True)
class FileGrant:
    """The right to read one stored file, and how to present it.

    ``filename`` is the reader's own name for it; ``size_bytes`` None where the store has to tell.
    ``etag_seed`` changes whenever the bytes do; the ETag is a digest of it, so it never shows.
    ``modified_at`` carries a time zone.
    """

    storage_key: str
    filename: str
    mime_type: str
    size_bytes: int | None
    etag_seed: str
    modified_at: datetime
