"""Asking for a lecture's audio: request, retry, cancel.

Each is one transaction that takes the lecture's row lock, so that requests, retries, cancels and
unlinks of one lecture happen one after the other.
"""

from contextlib import suppress
from dataclasses import dataclass
from uuid import UUID

from sqlalchemy import ColumnElement, Select, and_, delete, exists, func, or_, select
from sqlalchemy.dialects.postgresql import insert
from sqlalchemy.exc import IntegrityError
from sqlalchemy.ext.asyncio import AsyncSession

from app.auth.viewer import Viewer
from app.db import ledger
from app.db.models import Lecture, LectureAlias, UserLecture
from app.domain import FieldErrorCode, JobKind, LectureFailure, LectureStatus
from app.errors import Conflict, InvalidInput, NotFound
from app.ingest.model import SourceIdentity
from app.ingest.net.urls import parse_web_url
from app.ingest.sources.panopto.links import identify
from app.services.kernel.objects import delete_objects
from app.services.kernel.quotas import Allowance, Quota
from app.services.kernel.text import is_storable, readable
from app.services.kernel.unit_of_work import UnitOfWork, Work
from app.services.kernel.users import ensure_user
from app.services.lectures import states
from app.services.lectures.attempt_files import kept_keys
from app.services.lectures.read import get_lecture, linked, real_id
from app.services.lectures.unconfirmed import unconfirmed
from app.storage.protocol import ObjectStore

MAX_TITLE_CHARACTERS = 500


@dataclass(frozen=True, slots=True)
class DownloadRequest:
    """What a student pasted."""

    course_id: UUID
    panopto_url: str
    stream_url: str | None = None
    title: str | None = None


@dataclass(frozen=True, slots=True)
class RequestedLecture:
    """The lecture that the viewer is now linked to; ``created`` where this request made it."""

    lecture: Lecture
    created: bool


async def request_download(
    work: Work,
    viewer: Viewer,
    request: DownloadRequest,
    panopto_hosts: tuple[str, ...],
    allowance: Allowance,
) -> RequestedLecture:
    """Link the viewer to the course's recording, making and queueing it where it is new.

    Idempotent per (course, recording), and per stream where one is brought.  A FAILED lecture is
    queued again, with the new stream URL in place of the old; anything else stays as it stands.
    What a stream brings is shared with nobody who has not named that very stream, until it is
    confirmed (`unconfirmed`): where others have failed too, they keep their failure.
    """
    identity = identify(request.panopto_url, panopto_hosts)
    values = _checked(request, identity)
    await allowance.spend(Quota.DOWNLOADS)
    async with work.begin() as unit:
        await ensure_user(unit.session, viewer)
        lecture, created = await _lecture_for(unit, viewer, request.course_id, identity, values)
        await _link(unit.session, viewer, lecture.id)
        if lecture.status is LectureStatus.FAILED:
            states.queue_again(lecture)
        if created or lecture.status is LectureStatus.PENDING:
            await enqueue(unit, lecture, viewer)
        return RequestedLecture(await _changed(unit, viewer, lecture), created)


async def retry_download(
    work: Work, viewer: Viewer, lecture_id: UUID, allowance: Allowance
) -> Lecture:
    """Put a FAILED lecture back to PENDING and queue it; `Conflict` in any other state."""
    async with work.begin() as unit:
        lecture = await lock_lecture(unit.session, viewer, lecture_id)
        if lecture.status is not LectureStatus.FAILED:
            raise Conflict("Only a lecture that has failed can be tried again.")
        await allowance.spend(Quota.DOWNLOADS)
        states.queue_again(lecture)
        await ensure_user(unit.session, viewer)
        await enqueue(unit, lecture, viewer)
        return await _changed(unit, viewer, lecture)


async def cancel_download(
    work: Work, scratch: ObjectStore, viewer: Viewer, lecture_id: UUID
) -> Lecture:
    """Stop a PENDING or DOWNLOADING lecture: FAILED with CANCELLED; its worker is rung.

    What its worker has fetched is the worker's to delete; what waited for the next attempt goes
    here, or with the sweep where it is on another machine's disk.
    """
    async with work.begin() as unit:
        lecture = await lock_lecture(unit.session, viewer, lecture_id)
        if lecture.status not in states.RUNNING:
            raise Conflict("Only a lecture that waits or is being downloaded can be cancelled.")
        if not viewer.is_admin and await _others_linked(unit.session, viewer, lecture.id):
            raise Conflict("Others use this lecture too: unlink it instead.")
        await stop_job(unit, lecture.id)
        states.fail(lecture, LectureFailure.CANCELLED, "The download was cancelled.")
        cancelled = await _changed(unit, viewer, lecture)
    await delete_objects(scratch, kept_keys(cancelled.id))
    return cancelled


async def lock_lecture(session: AsyncSession, viewer: Viewer, lecture_id: UUID) -> Lecture:
    """Return the lecture, its row locked; `NotFound` unless the viewer is linked or an admin."""
    query = select(Lecture).where(Lecture.id == real_id(lecture_id)).with_for_update()
    if not viewer.is_admin:
        query = query.where(linked(viewer))
    # Twice: a lecture that is merged away while this waits for its lock goes by another id now.
    lecture = await session.scalar(query) or await session.scalar(query)
    if lecture is None:
        raise NotFound("lecture", lecture_id)
    return lecture


async def _changed(unit: UnitOfWork, viewer: Viewer, lecture: Lecture) -> Lecture:
    """Announce the change, and return the lecture as this transaction leaves it.

    It is read here and not after the commit, when it may be gone again.
    """
    await unit.session.flush()
    await unit.wake_lecture(lecture.id)
    read = await get_lecture(unit.session, viewer, lecture.id)
    if read is None:
        raise NotFound("lecture", lecture.id)
    return read


async def enqueue(unit: UnitOfWork, lecture: Lecture, viewer: Viewer) -> None:
    """Open the download job in this transaction, and ring after it.

    One that is open already need not wait behind all else that its first requester asked for.
    """
    if await ledger.open_job(unit.session, JobKind.DOWNLOAD_LECTURE, lecture.id, viewer.id):
        unit.ring()
    else:
        await ledger.move_up(unit.session, JobKind.DOWNLOAD_LECTURE, lecture.id, viewer.id)


async def stop_job(unit: UnitOfWork, lecture_id: UUID) -> None:
    """Close the lecture's open job and ring its holder."""
    job_id = await ledger.close_job(unit.session, JobKind.DOWNLOAD_LECTURE, lecture_id)
    if job_id is not None:
        unit.wake("job", job_id)


async def _lecture_for(
    unit: UnitOfWork,
    viewer: Viewer,
    course_id: UUID,
    identity: SourceIdentity,
    values: dict[str, str | None],
) -> tuple[Lecture, bool]:
    """Return the lecture that the request leads to, its row locked, and whether it was made here.

    The viewer's own of that recording, else the course's; one of these that has failed helps nobody
    who brings a stream, unless it is theirs alone and can take the stream.
    """
    session, stream_url = unit.session, values["stream_url"]
    if stream_url is None:
        own = await session.scalar(_own(viewer, course_id, identity))
        return (own, False) if own else await _find_or_create(session, course_id, identity, values)
    brought, failed_id = unconfirmed(identity, stream_url), None
    # Undone where it leads nowhere: to hold two lectures at once is to wait in a ring with a merge.
    with suppress(IntegrityError, _OthersFailed):
        async with session.begin_nested():
            known = await session.scalar(_own(viewer, course_id, identity))
            known = known or await session.scalar(_by_identity(course_id, identity))
            if known is not None and known.status is LectureStatus.FAILED:
                failed_id = known.id
                await _bring(session, viewer, known, brought, stream_url)
            if known is not None:
                return known, False
    values = {**values, "panopto_session_id": None, "canonical_url": brought.canonical_url}
    lecture, created = await _find_or_create(session, course_id, brought, values)
    if failed_id is not None and failed_id != lecture.id:
        # The viewer has the recording in another way now; without a link, the sweep has the row.
        link = delete(UserLecture).where(UserLecture.lecture_id == failed_id)
        await session.execute(link.where(UserLecture.user_id == viewer.id))
        unit.wake("lecture", failed_id, viewer.id)
    return lecture, created


class _OthersFailed(Exception):
    """Others are linked to what has failed, and have not asked for what the viewer brings."""


async def _bring(
    session: AsyncSession,
    viewer: Viewer,
    failed: Lecture,
    brought: SourceIdentity,
    stream_url: str,
) -> None:
    """Make the failed lecture the stream's.

    Raises `_OthersFailed`, or `IntegrityError` where the stream has a lecture already.
    """
    if await _others_linked(session, viewer, failed.id):
        raise _OthersFailed
    failed.panopto_session_id = None
    failed.canonical_url, failed.stream_url = brought.canonical_url, stream_url
    await session.flush()


def _own(viewer: Viewer, course_id: UUID, identity: SourceIdentity) -> Select[Lecture]:
    """Select what the viewer has of the recording already, whoever's stream it is from."""
    same = func.split_part(Lecture.canonical_url, "#", 1) == identity.canonical_url
    if identity.session_id is not None:
        same = or_(same, Lecture.panopto_session_id == identity.session_id)
    query = select(Lecture).where(Lecture.course_id == course_id, same, linked(viewer))
    by_use = (Lecture.status == LectureStatus.FAILED, Lecture.created_at)
    return query.order_by(*by_use).limit(1).with_for_update()


async def _find_or_create(
    session: AsyncSession, course_id: UUID, identity: SourceIdentity, values: dict[str, str | None]
) -> tuple[Lecture, bool]:
    """Return the recording's lecture with its row locked, and whether it was made here.

    An insert that conflicts waits for the other transaction, so the select after it sees the row;
    unless that row was deleted in between, and then the insert is tried again.  One that succeeds
    may have waited for a merge, which has left another lecture under the same spelling.
    """
    while True:
        if identity.session_id is None:
            known = await session.scalar(_by_identity(course_id, identity))
            if known is not None:
                return known, False
        statement = insert(Lecture).values(course_id=course_id, **values)
        made = await session.scalar(statement.on_conflict_do_nothing().returning(Lecture))
        if made is not None and identity.session_id is not None:
            return made, True
        known = await session.scalar(_by_identity(course_id, identity, besides=made))
        if known is None and made is not None:
            return made, True
        if made is not None:
            await session.delete(made)
        if known is not None:
            return known, False


def _by_identity(
    course_id: UUID, identity: SourceIdentity, *, besides: Lecture | None = None
) -> Select[Lecture]:
    if identity.session_id is not None:
        same: ColumnElement[bool] = Lecture.panopto_session_id == identity.session_id
    else:
        merged = select(LectureAlias.lecture_id).where(
            LectureAlias.course_id == course_id,
            LectureAlias.canonical_url == identity.canonical_url,
        )
        same = or_(Lecture.canonical_url == identity.canonical_url, Lecture.id.in_(merged))
    query = select(Lecture).where(and_(Lecture.course_id == course_id, same))
    if besides is not None:
        query = query.where(Lecture.id != besides.id)
    return query.order_by(Lecture.created_at).limit(1).with_for_update()


async def _link(session: AsyncSession, viewer: Viewer, lecture_id: UUID) -> None:
    link = insert(UserLecture).values(user_id=viewer.id, lecture_id=lecture_id)
    await session.execute(link.on_conflict_do_nothing())


async def _others_linked(session: AsyncSession, viewer: Viewer, lecture_id: UUID) -> bool:
    others = exists().where(UserLecture.lecture_id == lecture_id, UserLecture.user_id != viewer.id)
    return bool(await session.scalar(select(others)))


def _checked(request: DownloadRequest, identity: SourceIdentity) -> dict[str, str | None]:
    """Return the columns of a new lecture, or raise `InvalidInput`."""
    return {
        "panopto_session_id": identity.session_id,
        "panopto_url": request.panopto_url.strip(),
        "canonical_url": identity.canonical_url,
        "stream_url": _checked_stream_url(request.stream_url),
        "title": _checked_title(request.title),
    }


def _checked_stream_url(url: str | None) -> str | None:
    if url is None:
        return None
    parse_web_url(url, "streamUrl")
    return url.strip()


def _checked_title(title: str | None) -> str | None:
    if title is not None and not is_storable(title):
        raise InvalidInput.at(
            "title", "The title has characters that are not text.", FieldErrorCode.MALFORMED
        )
    title = readable(title)
    if title is not None and len(title) > MAX_TITLE_CHARACTERS:
        message = f"The title is longer than {MAX_TITLE_CHARACTERS} characters."
        raise InvalidInput.at("title", message, FieldErrorCode.TOO_LONG)
    return title
