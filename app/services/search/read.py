"""Searching: rank the viewer's chunks by words and by meaning, merge neighbours, show a page."""

import asyncio
import base64
import binascii
import json
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractAsyncContextManager
from dataclasses import asdict, dataclass, replace
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any
from uuid import UUID

from sqlalchemy import Row, TextClause, text
from sqlalchemy.ext.asyncio import AsyncSession

from app.auth.viewer import Viewer
from app.db.models import Lecture
from app.domain import SearchMode
from app.embedder.embedder import Embedder
from app.errors import BadUserInput
from app.services.documents.read import OwnDocument, get_documents
from app.services.kernel.keyset import Page, page_size
from app.services.lectures.read import get_lectures
from app.services.search import statements
from app.services.search.index import as_text
from app.services.search.query import MOST_CHARACTERS, TypedQuery, parse_query
from app.services.search.sentences import best_start

if TYPE_CHECKING:
    from app.embedder.embedder import Vectors

OpenSession = Callable[[], AbstractAsyncContextManager[AsyncSession]]

EXACT_CHUNKS = 100_000
"""Up to which a viewer's chunks are all looked at: 700 lectures of an hour (docs/search.md)."""
RANKED = 200
"""How many chunks each way of searching ranks, and how many hits an answer has at most."""
_RRF = 60
"""The constant of reciprocal rank fusion (Cormack, Clarke and Büttcher, SIGIR 2009)."""
_AS_NEAR = 0.8
"""Of the best one's nearness: what means the same, not only something alike."""


@dataclass(frozen=True, slots=True)
class SearchFilter:
    """Where to look; None is everywhere."""

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
class Ranked:
    """A chunk that was found, or the best of several that follow each other."""

    lecture_id: UUID | None
    parent_id: UUID
    page: int
    chunk_index: int
    nearness: float
    has_words: bool = False
    score: float = 0.0

    @property
    def key(self) -> tuple[str, int, int]:
        """What names it in a cursor."""
        return self.parent_id.hex, self.page, self.chunk_index


async def search(
    sessions: OpenSession,
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
    as_of, behind = (None, None) if after is None else _decode(after)
    scope = {"viewer_id": viewer.id, "as_of": as_of, **asdict(where)}
    async with sessions() as session:
        around = (await session.execute(statements.SIZE, scope)).one()
    if mode is SearchMode.SEMANTIC and (embedder is None or not around.vectors):
        raise BadUserInput("This service searches by words alone: use KEYWORD.", "mode")
    used = embedder if around.vectors and mode is not SearchMode.KEYWORD else None
    searching = _Search(sessions, viewer, used, {**scope, "as_of": as_of or around.now}, around)
    query = parse_query(typed)
    query, ranked = await searching.rank(query, typed, by_words=mode is not SearchMode.SEMANTIC)
    merged = merge_neighbours(ranked)[:RANKED]
    start = next((n + 1 for n, each in enumerate(merged) if each.key == behind), 0)
    if behind is not None and start == 0:
        raise BadUserInput("`after` is not a cursor of this search, or its hit is gone.", "after")
    shown = merged[start : start + size]
    hits = await searching.details(query, shown) if shown else {}
    kept = [(each, hits[number]) for number, each in enumerate(shown) if number in hits]
    return Page(
        tuple(hit for _, hit in kept),
        tuple(_encode(as_of or around.now, each) for each, _ in kept),
        has_next=len(merged) > start + size,
        has_previous=after is not None,
    )


class _Search:
    """One search: all its statements look through the same scope.

    ``around`` tells how much that is, in which configurations, and what the database can do.
    """

    def __init__(
        self,
        sessions: OpenSession,
        viewer: Viewer,
        embedder: Embedder | None,
        scope: Mapping[str, Any],
        around: Row[Any],
    ) -> None:
        self._sessions = sessions
        self._viewer = viewer
        self._embedder = embedder
        self._given = {**scope, "ranked": RANKED, "configs": around.configs}
        self._chunks: int = around.chunks
        self._has_likeness: bool = around.likeness
        self._vector: Vectors | None = None

    async def rank(
        self, query: TypedQuery, typed: str, *, by_words: bool
    ) -> tuple[TypedQuery, list[Ranked]]:
        """Return the chunks, the best first, and the query: respelled, where that found some."""
        if self._chunks == 0:
            return query, []
        async with asyncio.TaskGroup() as group:  # Each takes a processor of the database's.
            near = group.create_task(self._by_meaning(typed))
            worded = group.create_task(self._by_words(query)) if by_words else None
        found = worded.result() if worded else []
        if by_words and not found and self._has_likeness:
            async with self._sessions() as session:
                given = {**self._given, "typed": query.words}
                rows = await session.execute(statements.RESPELLINGS, given)
                respelled = query.respelled({row.typed: row.word for row in rows})
            if respelled != query:
                query, found = respelled, await self._by_words(respelled)
        return query, fuse(found, near.result())

    async def _by_words(self, query: TypedQuery) -> list[Ranked]:
        exact, indexed = statements.BY_WORDS, statements.BY_WORDS_INDEXED
        return await self._ranked(exact, indexed, query.parameters)

    async def _by_meaning(self, typed: str) -> list[Ranked]:
        if self._embedder is None or not typed.strip():
            return []
        self._vector = await self._embedder.embed_query(typed)
        given = {
            "embedding": as_text(self._vector),
            "embedder": self._embedder.model,
            "farthest": 1.0 - self._embedder.least_similarity,
        }
        return await self._ranked(statements.BY_MEANING, statements.BY_MEANING_INDEXED, given)

    async def _ranked(
        self, exact: TextClause, indexed: TextClause, given: Mapping[str, Any]
    ) -> list[Ranked]:
        is_exact = self._chunks <= EXACT_CHUNKS
        async with self._sessions() as session:
            for setting in () if is_exact else statements.INDEXED_SETTINGS:
                await session.execute(text(setting))
            rows = await session.execute(exact if is_exact else indexed, {**self._given, **given})
            return [
                Ranked(row.lecture_id, row.parent_id, row.page, row.chunk_index, row.nearness)
                for row in rows
            ]

    async def details(self, query: TypedQuery, shown: Sequence[Ranked]) -> dict[int, Hit]:
        """Return what is shown of the chunks, by their places; none of what is gone meanwhile."""
        given = {
            **query.parameters,
            "configs": self._given["configs"],
            "numbers": list(range(len(shown))),
            "parent_ids": [each.parent_id for each in shown],
            "pages": [each.page for each in shown],
            "chunk_indexes": [each.chunk_index for each in shown],
            "has_words": [each.has_words for each in shown],
        }
        lecture_ids = {each.lecture_id for each in shown if each.lecture_id}
        document_ids = {each.parent_id for each in shown if each.lecture_id is None}
        subjects: dict[UUID, Lecture | OwnDocument] = {}
        async with self._sessions() as session:
            rows = (await session.execute(statements.DETAILS, given)).all()
            if lecture_ids:
                subjects.update(await get_lectures(session, self._viewer, lecture_ids))
            if document_ids:
                subjects.update(await get_documents(session, self._viewer, document_ids))
        hits = {}
        for row in rows:
            ranked = shown[row.number]
            subject = subjects.get(ranked.lecture_id or ranked.parent_id)
            if subject is not None:
                hits[row.number] = _hit(subject, ranked, row, self._vector)
        return hits


def fuse(by_words: Sequence[Ranked], by_meaning: Sequence[Ranked]) -> list[Ranked]:
    """Return what either has found, by reciprocal rank fusion; ties by their keys."""
    fused: dict[tuple[str, int, int], Ranked] = {}
    for has_words, ranked in ((True, by_words), (False, by_meaning)):
        for place, each in enumerate(ranked, start=1):
            before = fused.get(each.key, each)
            fused[each.key] = replace(
                before,
                nearness=max(before.nearness, each.nearness),
                has_words=before.has_words or has_words,
                score=before.score + 1 / (_RRF + place),
            )
    return sorted(fused.values(), key=lambda each: (-each.score, each.key))


def merge_neighbours(ranked: Sequence[Ranked]) -> list[Ranked]:
    """Return the chunks without those that go on, in the same lecture, with a better one.

    Chunks that follow each other are one hit, shown by the best of them.  One that merely means
    something alike goes with its neighbour, but does not lead on to the next: in a lecture about
    one thing everything is alike.
    """
    runs: dict[tuple[UUID, int], Ranked] = {}
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
    subject: Lecture | OwnDocument, ranked: Ranked, row: Row[Any], vector: "Vectors | None"
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


def _encode(as_of: datetime, each: Ranked) -> str:
    payload = json.dumps([as_of.isoformat(), *each.key], separators=(",", ":"))
    return base64.urlsafe_b64encode(payload.encode()).decode().rstrip("=")


def _decode(cursor: str) -> tuple[datetime, tuple[Any, ...]]:
    """Return when the first page was read, and behind which hit to go on."""
    try:
        padded = cursor[:500] + "=" * (-len(cursor[:500]) % 4)
        at, *key = json.loads(base64.b64decode(padded, altchars=b"-_", validate=True))
        as_of = datetime.fromisoformat(at)
        if as_of.tzinfo is None or len(key) != 3:
            raise ValueError
        return as_of.astimezone(UTC), tuple(key)
    except (ValueError, TypeError, OverflowError, binascii.Error, RecursionError):
        raise BadUserInput("`after` is not a cursor of this search.", "after") from None
