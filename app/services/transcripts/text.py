"""A transcription's text for an answer: read from storage once, where something asks for it."""

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass
from uuid import UUID

from app.errors import BadUserInput, ObjectNotFound
from app.services.kernel.keyset import CodeKey, Page, decode_code, make_page, page_size
from app.services.transcripts.payload import load
from app.storage.protocol import ObjectStore
from app.transcript.model import Segment, Transcript

READS_AT_ONCE = 4
"""Of all answers of a process: each holds a whole transcript while it is parsed."""
_NOWHERE = UUID(int=0)


@dataclass(frozen=True, slots=True)
class LoadedText:
    """The payload as it is stored, and what it says."""

    payload: bytes
    transcript: Transcript


class TranscriptText:
    """The text of one transcription in one answer; ``storage_key`` is None until COMPLETED."""

    def __init__(
        self, storage: ObjectStore, turns: asyncio.Semaphore, storage_key: str | None
    ) -> None:
        self._storage = storage
        self._turns = turns
        self._key = storage_key
        self._loading: asyncio.Task[LoadedText | None] | None = None

    async def load(self) -> LoadedText | None:
        """Return the text; None until COMPLETED, or where it was deleted a moment ago."""
        if self._key is None:
            return None
        if self._loading is None:
            self._loading = asyncio.ensure_future(self._load(self._key))
        return await asyncio.shield(self._loading)

    async def _load(self, key: str) -> LoadedText | None:
        async with self._turns:
            try:
                return LoadedText(*await load(self._storage, key))
            except ObjectNotFound:
                return None


def page_of_segments(
    segments: Sequence[Segment], first: int | None, after: str | None
) -> Page[tuple[int, Segment]]:
    """Return the page of the segments, each with its index, behind the one that a cursor names."""
    size, position = page_size(first), decode_code(after)
    start = 0
    if position is not None:
        if not (position.code.isascii() and position.code.isdigit() and len(position.code) < 10):
            raise BadUserInput("`after` is not a cursor of this list.", "after")
        start = int(position.code) + 1
    rows = list(enumerate(segments[start : start + size + 1], start))
    keys = [CodeKey(str(index), _NOWHERE) for index, _ in rows]
    return make_page(rows, keys, size, after=after)
