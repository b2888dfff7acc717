"""Searching: rank the viewer's chunks by words and by meaning, merge neighbours, show a page."""

import base64
import binascii
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any
from uuid import UUID

from sqlalchemy import Row, func, null, select, text
from sqlalchemy.ext.asyncio import AsyncSession

from app.auth.viewer import Viewer
from app.db.models import Lecture
from app.db.vectors import Extensions, extensions
from app.domain import SearchMode
from app.embedder.embedder import Embedder
from app.errors import BadUserInput
from app.services.documents.read import OwnDocument, get_documents
from app.services.kernel.keyset import Page, page_size
from app.services.lectures.read import get_lectures, real_id
from app.services.search import statements
from app.services.search.index import as_text
from app.services.search.query import MOST_CHARACTERS, TypedQuery, parse_query
from app.services.search.sentences import best_start

if TYPE_CHECKING:
    from app.embedder.embedder import Vectors

EXACT_CHUNKS = 100_000
"""Up to which a viewer's chunks are all looked at: 700 lectures of an hour (docs/search.md)."""

_AS_NEAR = 0.8
"""Of the best one's nearness: what means the same, not only something alike."""


@dataclass(frozen=True, slots=True)
class SearchFilter:
    """Where to look; None is everywhere.  A topic has lectures alone."""

    course_id: UUID | None = None
    lecture_id: UUID | None = None
    document_id: UUID | None = None
    topic_id: UUID | None = None
    collection_id: UUID | None = None


@dataclass(frozen=True, slots=True)
class Hit:
    """A passage that was found: of a lecture, with seconds, or of a document, with its page.

    ``highlights`` are code points of ``text``, end excluded.
    """

    subject: Lecture | OwnDocument
    score: float
    text: str
    highlights: tuple[tuple[int, int], ...]
    start_seconds: float
    end_seconds: float
    page: int


@dataclass(frozen=True, slots=True)
class _Ranked:
    """A chunk that was found, or the best of several that follow each other."""

    lecture_id: UUID | None
    parent_id: UUID
    page: int
    chunk_index: int
    score: float
    has_words: bool
    nearness: float = 0.0

    @property
    def key(self) -> list[Any]:
        """What names it in a cursor."""
        return [self.parent_id.hex, self.page, self.chunk_index]


async def search(
    session: AsyncSession,
    embedder: Embedder | None,
    viewer: Viewer,
    typed: str,
    mode: SearchMode,
    where: SearchFilter,
    first: int | None,
    after: str | None,
) -> Page[Hit]:
    """Return a page of what the viewer's lectures and documents say about the query.

    Raises `BadUserInput` for a query that is empty or over 500 characters, a page that is none, and
    for SEMANTIC where nothing compares meaning.
    """
    size = page_size(first)
    if not 1 <= len(typed) <= MOST_CHARACTERS:
        raise BadUserInput(f"`query` must have 1 to {MOST_CHARACTERS} characters.", "query")
    real = null() if where.lecture_id is None else real_id(where.lecture_id)
    now, lecture_id = (await session.execute(select(func.now(), real))).one()
    as_of, behind = _decode(after) if after is not None else (now, None)
    able = await extensions(session)
    meant = embedder if able.vectors and mode is not SearchMode.KEYWORD else None
    if meant is None and mode is SearchMode.SEMANTIC:
        raise BadUserInput("This service searches by words alone: use KEYWORD.", "mode")
    searching = _Search(session, viewer, replace(where, lecture_id=lecture_id), as_of)
    vector = None if meant is None or not typed.strip() else await meant.embed_query(typed)
    query, ranked = await searching.rank(parse_query(typed), mode, meant, vector, able)
    merged = merge_neighbours(ranked)[: statements.RANKED]
    start = next((n + 1 for n, each in enumerate(merged) if each.key == behind), 0)
    if behind is not None and start == 0:
        raise BadUserInput("`after` is not a cursor of this search, or its hit is gone.", "after")
    shown = merged[start : start + size]
    hits = await searching.details(viewer, query, shown, vector) if shown else {}
    kept = [(each, hits[n]) for n, each in enumerate(shown) if n in hits]
    return Page(
        tuple(hit for _, hit in kept),
        tuple(_encode(as_of, each) for each, _ in kept),
        has_next=len(merged) > start + size,
        has_previous=after is not None,
    )


class _Search:
    """One search: all its statements see the same scope."""

    def __init__(
        self, session: AsyncSession, viewer: Viewer, where: SearchFilter, as_of: datetime
    ) -> None:
        self._session = session
        self._where = where
        self._scope: dict[str, Any] = {
            "viewer_id": viewer.id,
            "as_of": as_of,
            "course_id": where.course_id,
            "lecture_id": where.lecture_id,
            "document_id": where.document_id,
            "topic_id": where.topic_id,
            "collection_id": where.collection_id,
        }
        self._configs: Sequence[str] = ()

    async def rank(
        self,
        query: TypedQuery,
        mode: SearchMode,
        embedder: Embedder | None,
        vector: "Vectors | None",
        able: Extensions,
    ) -> tuple[TypedQuery, list[_Ranked]]:
        """Return the chunks, the best first, and the query: respelled, where that found some."""
        size = (await self._session.execute(statements.SIZE, self._scope)).one()
        by_words = mode is not SearchMode.SEMANTIC
        if size.chunks == 0 or (vector is None and not by_words):
            return query, []
        self._configs = size.configs
        indexed = size.chunks > EXACT_CHUNKS
        if indexed:
            for setting in statements.INDEXED_SETTINGS:
                await self._session.execute(text(setting))
        parameters: dict[str, Any] = {"ranked": statements.RANKED}
        if embedder is not None and vector is not None:
            parameters["embedding"] = as_text(vector)
            parameters["embedder"] = embedder.model
            parameters["farthest"] = 1.0 - embedder.least_similarity
        statement = statements.ranking(
            words=by_words, meaning="embedding" in parameters, indexed=indexed
        )
        ranked = await self._ranked(statement, query, parameters)
        if by_words and able.likeness and not any(each.has_words for each in ranked):
            respelled = await self._respelled(query)
            if respelled != query:
                again = await self._ranked(statement, respelled, parameters)
                if any(each.has_words for each in again):
                    return respelled, again
        return query, ranked

    async def _ranked(
        self, statement: Any, query: TypedQuery, parameters: Mapping[str, Any]
    ) -> list[_Ranked]:
        given = {**self._scope, **query.parameters, "configs": self._configs, **parameters}
        rows = await self._session.execute(statement, given)
        return [
            _Ranked(
                row.lecture_id,
                row.parent_id,
                row.page,
                row.chunk_index,
                float(row.score),
                row.has_words,
                float(row.nearness),
            )
            for row in rows
        ]

    async def _respelled(self, query: TypedQuery) -> TypedQuery:
        parameters = {**self._scope, "typed": query.words}
        rows = await self._session.execute(statements.RESPELLINGS, parameters)
        return query.respelled({row.typed: row.word for row in rows})

    async def details(
        self,
        viewer: Viewer,
        query: TypedQuery,
        shown: Sequence[_Ranked],
        vector: "Vectors | None",
    ) -> dict[int, Hit]:
        """Return what is shown of the chunks, by their places; none of what is gone meanwhile."""
        parameters = {
            **self._scope,
            **query.parameters,
            "configs": self._configs,
            "numbers": list(range(len(shown))),
            "parent_ids": [each.parent_id for each in shown],
            "pages": [each.page for each in shown],
            "chunk_indexes": [each.chunk_index for each in shown],
            "has_words": [each.has_words for each in shown],
        }
        rows = (await self._session.execute(statements.DETAILS, parameters)).all()
        lecture_ids = {each.lecture_id for each in shown if each.lecture_id}
        document_ids = {each.parent_id for each in shown if each.lecture_id is None}
        subjects: dict[UUID, Lecture | OwnDocument] = {
            **(await get_lectures(self._session, viewer, lecture_ids)),
            **(await get_documents(self._session, viewer, document_ids)),
        }
        hits = {}
        for row in rows:
            ranked = shown[row.number]
            subject = subjects.get(ranked.lecture_id or ranked.parent_id)
            if subject is not None:
                hits[row.number] = _hit(subject, ranked, row, vector)
        return hits


def merge_neighbours(ranked: Sequence[_Ranked]) -> list[_Ranked]:
    """Return the chunks without those that go on, in the same lecture, with a better one.

    Chunks that follow each other are one hit, shown by the best of them.  One that merely means
    something alike goes with its neighbour, but does not lead on to the next: in a lecture about
    one thing everything is alike.
    """
    runs: dict[tuple[UUID, int], _Ranked] = {}
    kept = []
    for each in ranked:
        place = each.parent_id, each.chunk_index
        sides = ((each.parent_id, each.chunk_index + side) for side in (-1, 1))
        best = next((runs[side] for side in sides if side in runs), None)
        if each.lecture_id is None or best is None:
            kept.append(each)
        if best is None or each.has_words or each.nearness >= _AS_NEAR * best.nearness > 0:
            runs[place] = best or each
    return kept


def _hit(
    subject: Lecture | OwnDocument, ranked: _Ranked, row: Row[Any], vector: "Vectors | None"
) -> Hit:
    highlights = tuple(_ranges(row.marked)) if row.marked else ()
    start = end = 0.0
    if row.sentences is not None:
        start = best_start(row.sentences, row.sentence_vectors, vector, highlights)
        end = max(start, row.end_time)
    return Hit(subject, ranked.score, row.text, highlights, start, end, ranked.page)


def _ranges(marked: str) -> list[tuple[int, int]]:
    """Return where the marks of the statement stand, as if they did not."""
    ranges, place, start = [], 0, 0
    for char in marked:
        if char == "\x02":
            start = place
        elif char == "\x03":
            ranges.append((start, place))
        else:
            place += 1
    return ranges


def _encode(as_of: datetime, each: _Ranked) -> str:
    payload = json.dumps([as_of.isoformat(), *each.key], separators=(",", ":"))
    return base64.urlsafe_b64encode(payload.encode()).decode().rstrip("=")


def _decode(cursor: str) -> tuple[datetime, list[Any]]:
    """Return when the first page was read, and behind which hit to go on."""
    try:
        padded = cursor[:500] + "=" * (-len(cursor[:500]) % 4)
        at, *key = json.loads(base64.b64decode(padded, altchars=b"-_", validate=True))
        as_of = datetime.fromisoformat(at)
        if as_of.tzinfo is None or len(key) != 3:
            raise ValueError
        return as_of.astimezone(UTC), key
    except (ValueError, TypeError, OverflowError, binascii.Error, RecursionError):
        raise BadUserInput("`after` is not a cursor of this search.", "after") from None
