"""The index job: the chunks of a transcription or of a document, as search finds them.

Everything is made before the transaction that puts it in the place of what was there, so that
search has the old chunks or the new ones.
"""

import asyncio
import re
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import structlog
from sqlalchemy import cast, delete, func, select, text
from sqlalchemy.dialects.postgresql import REGCONFIG, insert
from sqlalchemy.ext.asyncio import AsyncSession

from app.db import ledger
from app.db.ledger import Lease
from app.db.models import Document, DocumentPage, Transcription, TranscriptionChunk
from app.db.outages import is_outage
from app.db.vectors import extensions
from app.domain import JobKind, JobState, SummarySource, TranscriptionStatus
from app.embedder.embedder import Embedder, EmbedderFailed
from app.embedder.keywords import keywords
from app.errors import StorageError
from app.ingest.sandbox.run import ChildKilled
from app.llm.client import LanguageModel
from app.passages.central import central_sentences
from app.passages.pages import split_page
from app.passages.windows import windows
from app.services.kernel.jobs import JobHandler, Lane, open_topic_job
from app.services.kernel.local_copy import as_local_file
from app.services.kernel.retry_policy import MAX_ATTEMPTS, backoff
from app.services.kernel.unit_of_work import Work
from app.services.search.languages import config_of_language, config_of_text
from app.services.search.sentences import pack, places
from app.services.search.summarize import open_summary_job
from app.services.transcripts.payload import load
from app.services.transcripts.request import wake
from app.storage.protocol import LocalFiles, ObjectStore

if TYPE_CHECKING:
    from app.embedder.embedder import Vectors

log = structlog.get_logger()

PageTexts = Callable[[Path, Path], Awaitable[list[str] | None]]
_WORDS = re.compile(r"[^\W\d_]{4,40}")
_MOST_WORDS = 20_000
_ROWS_AT_ONCE = 500
_KEYS = {"transcription_id", "document_id", "page", "chunk_index"}
_TRANSCRIPTION_VECTORS = text(
    """
    INSERT INTO transcription_vectors (transcription_id, chunk_index, embedding)
    VALUES (:transcription_id, :chunk_index, CAST(:embedding AS halfvec))
    """
)
_PAGE_VECTORS = text(
    """
    INSERT INTO page_vectors (document_id, page, chunk_index, embedding)
    VALUES (:document_id, :page, :chunk_index, CAST(:embedding AS halfvec))
    """
)


@dataclass(frozen=True, slots=True)
class _Chunks:
    """What is put in the place of a subject's chunks: rows, and a vector for each, if any.

    ``extract`` are the most central sentences of what was said.
    """

    rows: list[dict[str, Any]]
    vectors: "Vectors | None"
    extract: str | None = None

    @property
    def text(self) -> str:
        return "\n".join(row["text"] for row in self.rows)


class Indexing(JobHandler):
    """What a worker does with a claimed index job."""

    kind = JobKind.INDEX
    lane = Lane.INDEXING

    def __init__(
        self,
        work: Work,
        storage: ObjectStore,
        scratch: LocalFiles,
        embedder: Embedder | None,
        page_texts: PageTexts,
        language_model: LanguageModel | None = None,
    ) -> None:
        super().__init__(work)
        self._storage = storage
        self._scratch = scratch
        self._embedder = embedder
        self._page_texts = page_texts
        self._language_model = language_model

    async def run(self, lease: Lease) -> str:
        """Index the subject; what is gone or not COMPLETED needs nothing."""
        async with self._work.sessions() as session:
            transcription = await session.get(Transcription, lease.subject_id)
            document = await session.get(Document, lease.subject_id)
            embedder = self._embedder if (await extensions(session)).vectors else None
        try:
            if transcription and transcription.status is TranscriptionStatus.COMPLETED:
                chunks = await self._chunks_of_transcription(transcription, embedder)
                return await self._put_transcription(lease, transcription, chunks, embedder)
            if document:
                chunks = await self._chunks_of_document(document, lease, embedder)
                return await self._put_document(lease, chunks, embedder)
        except (StorageError, OSError, ChildKilled, EmbedderFailed) as error:
            if is_outage(error):
                raise
            log.exception("indexing_failed", subject_id=str(lease.subject_id))
            return await self._retry_or_fail(lease, "The text could not be read or embedded.")
        return await self._finish(lease)

    async def _chunks_of_transcription(
        self, row: Transcription, embedder: Embedder | None
    ) -> _Chunks:
        _, transcript = await load(self._storage, row.storage_key or "")
        found = await asyncio.to_thread(windows, transcript)
        texts = [window.text for window in found]
        vectors = None if embedder is None else await embedder.embed(texts)
        tags = await keywords(texts, row.language, embedder, vectors)
        rows: list[dict[str, Any]] = [
            {
                "transcription_id": row.id,
                "chunk_index": number,
                "text": window.text,
                "start_time": window.start_seconds,
                "end_time": window.end_seconds,
                "start_char_pos": window.start_character,
                "end_char_pos": window.end_character,
                "confidence": window.confidence,
                "keywords": tags[number],
                "sentences": places(window),
                "sentence_vectors": None,
            }
            for number, window in enumerate(found)
        ]
        if embedder is None:
            return _Chunks(rows, None)
        parts = {each.start_character: each.text for window in found for each in window.sentences}
        order = {start: number for number, start in enumerate(parts)}
        spoken = list(parts.values())
        kept = await embedder.embed(spoken)
        extract = " ".join(spoken[number] for number in central_sentences(spoken, kept))
        for made, window in zip(rows, found, strict=True):
            numbers = [order[each.start_character] for each in window.sentences]
            made["sentence_vectors"] = pack(kept[numbers])
        return _Chunks(rows, vectors, extract or None)

    async def _chunks_of_document(
        self, row: Document, lease: Lease, embedder: Embedder | None
    ) -> _Chunks:
        copy = f"{row.storage_key}.{lease.token.hex[:8]}"
        output = self._scratch.path_of(f"{copy}.text")
        async with as_local_file(self._storage, self._scratch, row.storage_key, copy) as path:
            pages = await self._page_texts(path, output) or []
        rows = [
            {"document_id": row.id, "page": page, "chunk_index": number, "text": piece}
            for page, whole in enumerate(pages, start=1)
            for number, piece in enumerate(split_page(whole))
        ]
        if embedder is None:
            return _Chunks(rows, None)
        return _Chunks(rows, await embedder.embed([str(each["text"]) for each in rows]))

    async def _put_transcription(
        self, lease: Lease, read: Transcription, chunks: _Chunks, embedder: Embedder | None
    ) -> str:
        async with self._work.begin() as unit:
            session = unit.session
            query = select(Transcription).where(Transcription.id == lease.subject_id)
            row = await session.scalar(query.with_for_update())
            await ledger.require_lease(session, lease)
            if row is None:  # Deleted meanwhile.
                await ledger.finish(session, lease)
                return JobState.DONE
            config = await config_of_language(session, read.language)
            old = TranscriptionChunk.transcription_id == row.id
            # What a language model has said of a chunk holds for the same text.
            told = select(TranscriptionChunk.text, TranscriptionChunk.topic_summary).where(old)
            topics = dict((await session.execute(told)).all())
            for made in chunks.rows:
                made["topic_summary"] = topics.get(made["text"])
            await session.execute(delete(TranscriptionChunk).where(old))
            await _insert(session, TranscriptionChunk, chunks, config, _TRANSCRIPTION_VECTORS)
            _mark(row, chunks, config, embedder)
            if row.summary_source is not SummarySource.MODEL:
                row.summary = chunks.extract
                row.summary_source = SummarySource.EXTRACT if chunks.extract else None
            await open_summary_job(unit, row, self._language_model)
            await session.flush()
            await wake(unit, row)
            if embedder is not None:
                await open_topic_job(unit, row.id, row.requested_by)
            await ledger.finish(session, lease)
        return JobState.DONE

    async def _put_document(self, lease: Lease, chunks: _Chunks, embedder: Embedder | None) -> str:
        async with self._work.begin() as unit:
            session = unit.session
            query = select(Document).where(Document.id == lease.subject_id)
            row = await session.scalar(query.with_for_update())
            await ledger.require_lease(session, lease)
            if row is None:  # Deleted meanwhile.
                await ledger.finish(session, lease)
                return JobState.DONE
            config = await config_of_text(session, chunks.text)
            await session.execute(delete(DocumentPage).where(DocumentPage.document_id == row.id))
            await _insert(session, DocumentPage, chunks, config, _PAGE_VECTORS)
            _mark(row, chunks, config, embedder)
            row.has_text = bool(chunks.rows)
            await open_summary_job(unit, row, self._language_model)
            await session.flush()
            await unit.wake_document(row.id)
            await ledger.finish(session, lease)
        return JobState.DONE

    async def _retry_or_fail(self, lease: Lease, message: str) -> str:
        attempts = lease.attempt + 1
        if attempts >= MAX_ATTEMPTS:
            return await self._finish(lease, JobState.FAILED, message)
        async with self._work.begin() as unit:
            delay = backoff(lease.attempt)
            await ledger.requeue(unit.session, lease, delay=delay, attempt=attempts, error=message)
        return "retried"

    async def _finish(
        self, lease: Lease, state: JobState = JobState.DONE, message: str | None = None
    ) -> str:
        async with self._work.begin() as unit:
            await ledger.finish(unit.session, lease, state, message)
        return state


def _mark(
    row: Transcription | Document, chunks: _Chunks, config: str, embedder: Embedder | None
) -> None:
    row.indexed_at = func.now()
    row.embedder = None if embedder is None else embedder.model
    row.text_config, row.chunk_count = config, len(chunks.rows)
    row.words = sorted(set(_WORDS.findall(chunks.text.casefold())))[:_MOST_WORDS]


async def _insert(
    session: AsyncSession,
    table: type[TranscriptionChunk | DocumentPage],
    chunks: _Chunks,
    config: str,
    into_vectors: Any,
) -> None:
    for start in range(0, len(chunks.rows), _ROWS_AT_ONCE):
        rows = chunks.rows[start : start + _ROWS_AT_ONCE]
        values = [
            row | {"search": func.to_tsvector(cast(config, REGCONFIG), row["text"])} for row in rows
        ]
        await session.execute(insert(table).values(values))
        if chunks.vectors is not None:
            keys = [{name: row[name] for name in row if name in _KEYS} for row in rows]
            pairs = zip(keys, chunks.vectors[start : start + _ROWS_AT_ONCE], strict=True)
            named = [key | {"embedding": as_text(vector)} for key, vector in pairs]
            await session.execute(into_vectors, named)


def as_text(vector: "Vectors") -> str:
    """Return the vector as pgvector reads it."""
    return "[" + ",".join(f"{value:.5f}" for value in vector) + "]"
