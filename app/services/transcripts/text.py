"""A transcription's text for an answer: read from storage once, where something asks for it."""

import asyncio
from collections.abc import Sequence
from dataclasses import replace
from typing import TypeVar

from app.domain import TranscriptFormat
from app.errors import ObjectNotFound
from app.services.kernel.keyset import Page, decode_number, make_page, number_key, page_size
from app.services.transcripts.payload import load_bytes
from app.storage.protocol import ObjectStore
from app.transcript.exports import to_srt, to_txt, to_vtt
from app.transcript.model import Transcript
from app.transcript.payload import from_json

READS_AT_ONCE = 4
"""Of all answers of a process: each holds a whole transcript while it is parsed."""
READS_AT_ONCE_OF_ONE = 2
"""Of one user's: a long list that one asks for holds up nobody else."""
Part = TypeVar("Part")

_WRITERS = {
    TranscriptFormat.SRT: to_srt,
    TranscriptFormat.VTT: to_vtt,
    TranscriptFormat.TXT: to_txt,
}


class TranscriptText:
    """The text of one transcription in one answer; ``storage_key`` is None until COMPLETED."""

    def __init__(
        self,
        storage: ObjectStore,
        own_turns: asyncio.Semaphore,
        turns: asyncio.Semaphore,
        storage_key: str | None,
    ) -> None:
        self._storage = storage
        self._own_turns = own_turns
        self._turns = turns
        self._key = storage_key
        self._loading: asyncio.Task[Transcript | None] | None = None

    async def load(self) -> Transcript | None:
        """Return the transcript without its words, read once; None where there is none (any more).

        An answer may have a hundred: the words of a lecture take a hundred times its text.
        """
        if self._loading is None:
            self._loading = asyncio.ensure_future(self._load())
        return await asyncio.shield(self._loading)

    async def export(self, form: TranscriptFormat) -> str | None:
        """Return the transcript in that form; None where there is none (any more)."""
        async with self._own_turns, self._turns:
            content = await self._read()
            if content is None:
                return None
            if form is TranscriptFormat.JSON:
                return content.decode()
            return await asyncio.to_thread(lambda: _WRITERS[form](from_json(content)))

    async def _load(self) -> Transcript | None:
        async with self._own_turns, self._turns:
            content = await self._read()
            return None if content is None else await asyncio.to_thread(_without_words, content)

    async def _read(self) -> bytes | None:
        if self._key is None:
            return None
        try:
            return await load_bytes(self._storage, self._key)
        except ObjectNotFound:  # Deleted a moment ago.
            return None


def _without_words(payload: bytes) -> Transcript:
    transcript = from_json(payload)
    segments = tuple(replace(segment, words=()) for segment in transcript.segments)
    return replace(transcript, segments=segments)


def page_of(parts: Sequence[Part], first: int | None, after: str | None) -> Page[tuple[int, Part]]:
    """Return the page of the parts, each with its index, behind the one that a cursor names."""
    size, start = page_size(first), 0 if after is None else decode_number(after) + 1
    rows = list(enumerate(parts[start : start + size + 1], start))
    return make_page(rows, [number_key(index) for index, _ in rows], size, after=after)
