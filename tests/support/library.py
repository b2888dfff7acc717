"""A library to search: transcripts and PDFs by the real job, without audio that must be heard."""

import math
import re
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from functools import cache
from uuid import UUID, uuid4

from sqlalchemy import func

from app.auth.viewer import Viewer
from app.backends import Backends, open_backends
from app.db import ledger
from app.db.models import Document, Lecture, Transcription, User, UserDocument, UserLecture
from app.domain import (
    JobKind,
    LectureStatus,
    SearchMode,
    TranscriptionSource,
    TranscriptionStatus,
)
from app.embedder.assets import MODEL_DIRECTORY
from app.embedder.embedder import Embedder
from app.embedder.folder import read_folder
from app.embedder.onnx import OnnxEmbedder
from app.ingest.pdf import page_texts
from app.services.kernel.keyset import Page
from app.services.search.index import Indexing
from app.services.search.read import Hit, SearchFilter, search
from app.services.transcripts.payload import store
from app.settings import Settings
from app.transcript.model import Segment, Transcript, Word
from tests.support.pdfs import make_text_pdf

SECONDS_A_WORD = 0.4


def spoken(text: str, *, language: str | None = "en", model: str = "base") -> Transcript:
    """The text as a transcript: a word in 0.4 s, a pause behind each sentence, 10 s at a ``|``."""
    segments, now = [], 0.0
    for passage in text.split("|"):
        for sentence in re.findall(r"\S.*?(?:[.?!](?=\s|$)|$)", passage, re.DOTALL):
            words = []
            for word in sentence.split():
                words.append(Word(now, now + SECONDS_A_WORD - 0.05, word, 0.9))
                now += SECONDS_A_WORD
            joined = " ".join(word.text for word in words)
            segments.append(Segment(words[0].start, words[-1].end, joined, 0.9, tuple(words)))
            now += 0.6
        now += 10.0
    source = TranscriptionSource.SPEECH_RECOGNITION
    return Transcript(source, language, model, now, tuple(segments))


class Library:
    """What is there to search, and searching it."""

    def __init__(self, backends: Backends, embedder: Embedder | None) -> None:
        self.backends = backends
        self.embedder = embedder
        self.course_id = uuid4()

    async def viewer(self, *, is_admin: bool = False) -> Viewer:
        subject = uuid4().hex
        async with self.backends.sessions.begin() as session:
            user = User(issuer="https://issuer.test", subject=subject)
            session.add(user)
            await session.flush()
            return Viewer(user.id, user.issuer, subject, is_admin, math.inf)

    async def lecture(
        self,
        transcript: Transcript | str,
        *viewers: Viewer,
        course_id: UUID | None = None,
        lecture_id: UUID | None = None,
    ) -> UUID:
        """Add a COMPLETED lecture with its transcription, not indexed yet; or only the latter."""
        if isinstance(transcript, str):
            transcript = spoken(transcript)
        row_id, url = uuid4(), f"https://site.test/{uuid4()}"
        key = await store(self.backends.storage, row_id, transcript)
        async with self.backends.sessions.begin() as session:
            if lecture_id is None:
                lecture = Lecture(
                    course_id=course_id or self.course_id,
                    panopto_url=url,
                    canonical_url=url,
                    status=LectureStatus.COMPLETED,
                )
                session.add(lecture)
                await session.flush()
                lecture_id = lecture.id
                session.add_all(
                    UserLecture(user_id=each.id, lecture_id=lecture_id) for each in viewers
                )
            transcription = Transcription(
                id=row_id,
                lecture_id=lecture_id,
                source=transcript.source,
                model_name=transcript.model,
                language=transcript.language,
                status=TranscriptionStatus.COMPLETED,
                storage_key=key,
                completed_at=func.now(),
            )
            session.add(transcription)
            await ledger.open_job(session, JobKind.INDEX, row_id, None)
        return lecture_id

    async def document(
        self, pages: Sequence[str] | bytes, *viewers: Viewer, course_id: UUID | None = None
    ) -> UUID:
        """Add an UPLOADED document, not indexed yet."""
        content = pages if isinstance(pages, bytes) else make_text_pdf(pages)
        document_id = uuid4()

        async def chunks() -> AsyncIterator[bytes]:
            yield content

        stored = await self.backends.storage.store_file(f"documents/{document_id}.pdf", chunks())
        async with self.backends.sessions.begin() as session:
            session.add(
                Document(
                    id=document_id,
                    course_id=course_id or self.course_id,
                    filename="notes.pdf",
                    storage_key=stored.key,
                    checksum=stored.checksum,
                    mime_type="application/pdf",
                    size_bytes=stored.size_bytes,
                )
            )
            await session.flush()
            session.add_all(
                UserDocument(user_id=each.id, document_id=document_id, filename="notes.pdf")
                for each in viewers
            )
            await ledger.open_job(session, JobKind.INDEX, document_id, None)
        return document_id

    async def index(self) -> list[str]:
        """Do all index jobs that are due, and return how each ended."""
        backends = self.backends
        handler = Indexing(
            backends.work, backends.storage, backends.scratch, self.embedder, page_texts
        )
        async with backends.sessions.begin() as session:
            leases = await ledger.claim(session, [JobKind.INDEX], 100, 600)
        return [await handler.run(lease) for lease in leases]

    async def search(
        self,
        viewer: Viewer,
        query: str,
        mode: SearchMode = SearchMode.HYBRID,
        first: int = 20,
        after: str | None = None,
        **where: UUID,
    ) -> Page[Hit]:
        return await search(
            self.backends.sessions,
            self.embedder,
            viewer,
            query,
            mode,
            SearchFilter(**where),
            first,
            after,
        )


@cache
def installed_embedder() -> Embedder:
    """The installed embedder, loaded once for all tests."""
    return OnnxEmbedder(read_folder(MODEL_DIRECTORY))


@asynccontextmanager
async def open_library(settings: Settings) -> AsyncIterator[Library]:
    """A library on the test's own servers."""
    async with open_backends(settings) as backends:
        yield Library(backends, installed_embedder())
