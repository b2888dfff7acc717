"""The summary job: what a language model says of a lecture or a document that was indexed.

Nothing waits for it, and what fails leaves everything as it was.
"""

from dataclasses import dataclass
from uuid import UUID

import structlog
from sqlalchemy import select, update

from app.db import ledger
from app.db.ledger import Lease
from app.db.models import Document, DocumentPage, Transcription, TranscriptionChunk
from app.domain import JobKind, JobState, SummarySource
from app.llm.client import LanguageModel, LanguageModelFailed
from app.llm.summaries import Summary, summarize_document, summarize_lecture, written_by
from app.services.kernel.jobs import JobHandler, Lane
from app.services.kernel.retry_policy import MAX_ATTEMPTS, backoff
from app.services.kernel.text import readable
from app.services.kernel.unit_of_work import UnitOfWork, Work
from app.services.transcripts.request import wake

log = structlog.get_logger()


@dataclass(frozen=True, slots=True)
class _Passages:
    """What is read of a subject: its chunks' texts, in order."""

    is_document: bool
    texts: list[str]


async def open_summary_job(
    unit: UnitOfWork, row: Transcription | Document, model: LanguageModel | None
) -> None:
    """Queue the summary of what was just indexed, unless the model has written it already."""
    by = row.description_by if isinstance(row, Document) else row.summary_by
    if model is not None and row.chunk_count and by != written_by(model):
        await ledger.open_job(unit.session, JobKind.SUMMARIZE, row.id, None)
        unit.ring()


class Summaries(JobHandler):
    """What a worker with a language model does with a claimed summary."""

    kind = JobKind.SUMMARIZE
    lane = Lane.SUMMARIES

    def __init__(self, work: Work, model: LanguageModel | None, most_tokens: int) -> None:
        super().__init__(work)
        self._model = model
        self._most_tokens = most_tokens

    async def run(self, lease: Lease) -> str:
        """Have the subject summed up; what is gone or has no text needs nothing."""
        passages = await self._read(lease.subject_id)
        if self._model is None or passages is None:
            async with self._work.begin() as unit:
                await ledger.finish(unit.session, lease)
            return JobState.DONE
        summarize = summarize_document if passages.is_document else summarize_lecture
        try:
            summary = await summarize(self._model, passages.texts, self._most_tokens)
            text = readable(summary.text)
            if text is None:
                raise LanguageModelFailed("The language model's answer shows no text.")
        except LanguageModelFailed as failure:
            return await self._retry_or_fail(lease, failure)
        by = written_by(self._model)
        if passages.is_document:
            await self._keep_description(lease, text, by)
        else:
            await self._keep_summary(lease, text, by, summary, passages.texts)
        return JobState.DONE

    async def _read(self, subject_id: UUID) -> _Passages | None:
        chunks = select(TranscriptionChunk.text).order_by(TranscriptionChunk.chunk_index)
        pages = select(DocumentPage.text).order_by(DocumentPage.page, DocumentPage.chunk_index)
        async with self._work.sessions() as session:
            said = chunks.where(TranscriptionChunk.transcription_id == subject_id)
            if texts := list(await session.scalars(said)):
                return _Passages(False, texts)
            written = pages.where(DocumentPage.document_id == subject_id)
            if texts := list(await session.scalars(written)):
                return _Passages(True, texts)
        return None

    async def _keep_summary(
        self, lease: Lease, text: str, by: str, summary: Summary, texts: list[str]
    ) -> None:
        async with self._work.begin() as unit:
            query = select(Transcription).where(Transcription.id == lease.subject_id)
            row = await unit.session.scalar(query.with_for_update())
            if row is not None:
                row.summary, row.summary_source, row.summary_by = text, SummarySource.MODEL, by
                await unit.session.flush()
                for number, topic in summary.topics.items():
                    # By its text too: it may have been indexed anew since it was read.
                    chunk = update(TranscriptionChunk).where(
                        TranscriptionChunk.transcription_id == row.id,
                        TranscriptionChunk.chunk_index == number,
                        TranscriptionChunk.text == texts[number],
                    )
                    await unit.session.execute(chunk.values(topic_summary=readable(topic)))
                await wake(unit, row)
            await ledger.finish(unit.session, lease)

    async def _keep_description(self, lease: Lease, text: str, by: str) -> None:
        async with self._work.begin() as unit:
            query = select(Document).where(Document.id == lease.subject_id)
            row = await unit.session.scalar(query.with_for_update())
            if row is not None:
                row.description, row.description_source = text, SummarySource.MODEL
                row.description_by = by
                await unit.session.flush()
                await unit.wake_document(row.id)
            await ledger.finish(unit.session, lease)

    async def _retry_or_fail(self, lease: Lease, failure: LanguageModelFailed) -> str:
        """Try again what passes by itself; an extract that is there stays."""
        log.warning("summary_failed", subject_id=str(lease.subject_id), reason=failure.message)
        attempts = lease.attempt + 1
        async with self._work.begin() as unit:
            if failure.transient and attempts < MAX_ATTEMPTS:
                delay = backoff(lease.attempt, failure.retry_after_seconds)
                await ledger.requeue(
                    unit.session, lease, delay=delay, attempt=attempts, error=failure.message
                )
                return "retried"
            await ledger.finish(unit.session, lease, JobState.FAILED, failure.message)
        return JobState.FAILED
