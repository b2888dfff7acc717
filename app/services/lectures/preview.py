"""What a link is, before anything is asked for: its source is asked, and nothing is stored."""

import asyncio
from dataclasses import dataclass
from typing import Protocol
from uuid import UUID, uuid4
from weakref import WeakValueDictionary

from sqlalchemy import or_, select
from sqlalchemy.ext.asyncio import AsyncSession

from app.auth.viewer import Viewer
from app.db.models import Lecture, UserLecture
from app.domain import LectureFailure, LectureStatus
from app.errors import FieldProblem, IngestFailed, InvalidInput, NotReadyYet
from app.ingest.model import LectureRequest, MediaLocation, ResolvedLecture, SourceIdentity
from app.ingest.sandbox.run import ChildKilled
from app.ingest.sources.panopto.links import identify
from app.services.lectures.read import get_lecture

PREVIEWS_AT_ONCE = 4
"""In a process: each may hold a child and a connection."""
_PREVIEWS_AT_ONCE_OF_ONE = 2
"""Of one user: slow links that one pastes hold up nobody else's."""
_SECONDS = 20.0


class Resolver(Protocol):
    """Says what and where the recording behind a link is."""

    async def resolve(self, request: LectureRequest) -> ResolvedLecture:
        """Ask its source; raises `IngestFailed` or `NotReadyYet`."""
        ...

    async def require_reachable(self, location: MediaLocation) -> None:
        """Raise `IngestFailed` where the medium cannot be had."""
        ...


@dataclass(frozen=True, slots=True)
class Preview:
    """What the source says; a live one tells nothing more."""

    platform: str
    title: str | None = None
    duration_seconds: int | None = None
    is_live: bool = False


class Previews:
    """Asks sources for people who look at links; a few at once, and not for long."""

    def __init__(self, resolver: Resolver, panopto_hosts: tuple[str, ...]) -> None:
        self._resolver = resolver
        self._panopto_hosts = panopto_hosts
        self._turns = asyncio.Semaphore(PREVIEWS_AT_ONCE)
        self._own_turns: WeakValueDictionary[UUID, asyncio.Semaphore] = WeakValueDictionary()

    def identity_of(self, url: str) -> SourceIdentity:
        """Return which recording the URL names, or raise `InvalidInput` for the argument."""
        try:
            return identify(url, self._panopto_hosts)
        except InvalidInput as error:
            problem = error.problems[0]
            raise InvalidInput(FieldProblem(("url",), problem.message, problem.code)) from None

    async def look(self, viewer: Viewer, url: str, identity: SourceIdentity) -> Preview:
        """Return what the link is within 20 s, or raise `IngestFailed` with why it is refused."""
        turns_of_one = asyncio.Semaphore(_PREVIEWS_AT_ONCE_OF_ONE)
        own_turns = self._own_turns.setdefault(viewer.id, turns_of_one)
        request = LectureRequest(uuid4(), url.strip(), identity.session_id, None)
        try:
            async with asyncio.timeout(_SECONDS), own_turns, self._turns:
                found = await self._resolver.resolve(request)
                if found.platform == "direct":  # Nobody was asked: its name told all.
                    await self._resolver.require_reachable(found.media[0])
        except NotReadyYet:
            return Preview(_platform_of(identity), is_live=True)
        except TimeoutError:
            message = "The source did not answer in time."
            raise IngestFailed(LectureFailure.TIMEOUT, message) from None
        except (OSError, ChildKilled):
            message = "The link could not be looked at."
            raise IngestFailed(LectureFailure.INTERNAL, message) from None
        seconds = found.duration_seconds
        return Preview(
            found.platform or _platform_of(identity),
            found.title or None,
            None if seconds is None else round(seconds),
        )


async def own_lecture(
    session: AsyncSession, viewer: Viewer, identity: SourceIdentity
) -> Lecture | None:
    """Return the lecture that the viewer has of the recording, in any course; the best one."""
    named = Lecture.canonical_url == identity.canonical_url
    if identity.session_id is not None:
        named = or_(named, Lecture.panopto_session_id == identity.session_id)
    mine = select(Lecture.id).join(UserLecture, UserLecture.lecture_id == Lecture.id)
    mine = mine.where(UserLecture.user_id == viewer.id, named).order_by(
        (Lecture.status == LectureStatus.COMPLETED).desc(), Lecture.created_at
    )
    lecture_id = await session.scalar(mine.limit(1))
    return None if lecture_id is None else await get_lecture(session, viewer, lecture_id)


def _platform_of(identity: SourceIdentity) -> str:
    return "panopto" if identity.session_id else identity.host
