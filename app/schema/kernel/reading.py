"""What shapes read where a field is asked for, by the context of the operation."""

from typing import Protocol
from uuid import UUID

import strawberry

from app.loaders import Loaders
from app.services.transcripts.text import TranscriptText


class Reading(Protocol):
    """What shapes need of an operation's context."""

    @property
    def loaders(self) -> Loaders:
        """What many fields of the answer ask for, read together."""
        ...

    def text_of(self, storage_key: str | None) -> TranscriptText:
        """Return what reads a transcription's text where it is asked for."""
        ...

    def sign_file(self, kind: str, item_id: UUID, ttl_seconds: int) -> tuple[str, int]:
        """Return the query of a signed link of the viewer's, and when it ends (since the epoch)."""
        ...


Asked = strawberry.Info[Reading, None]
