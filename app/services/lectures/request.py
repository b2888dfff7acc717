"""Asking for a lecture's audio: request, retry, cancel.

Each is one transaction that takes the lecture's row lock, so that requests, retries, cancels and
unlinks of one lecture happen one after the other.
"""

from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from uuid import UUID

from sqlalchemy import ColumnElement, Select, and_, delete, exists, func, or_, select
from sqlalchemy.dialects.postgresql import insert
from sqlalchemy.exc import IntegrityError
from sqlalchemy.ext.asyncio import AsyncSession

from app.auth.viewer import Viewer
from app.db import ledger
from app.db.models import CollectionItem, Lecture, LectureAlias, UserLecture
from app.domain import FieldErrorCode, JobKind, LectureFailure, LectureSource, LectureStatus
from app.errors import Conflict, InvalidInput, NotFound, RateLimited
from app.ingest.model import SourceIdentity
from app.ingest.net.urls import parse_web_url
from app.ingest.sources.panopto.links import identify
from app.services.collections.change import leave_collections
from app.services.kernel.objects import delete_objects
from app.services.kernel.quotas import Allowance, Quota
from app.services.kernel.text import is_storable, readable
from app.services.kernel.unit_of_work import UnitOfWork, Work
from app.services.kernel.users import ensure_user
from app.services.lectures import states
from app.services.lectures.attempt_files import kept_keys
from app.services.lectures.read import get_lecture, linked, real_id
from app.services.lectures.unconfirmed import recording_name, unconfirmed
from app.services.topics.change import judge_what_came
from app.storage.protocol import ObjectStore

MAX_TITLE_CHARACTERS = 500
MAX_LINKS = 50


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
    values = _checked(request)
    await allowance.spend(Quota.DOWNLOADS)
    async with work.begin() as unit:
        await ensure_user(unit.session, viewer)
        lecture, created = await _lecture_for(unit, viewer, request.course_id, identity, values)
        await _link(unit.session, viewer, lecture.id)
        if not created:
            await judge_what_came(unit, viewer)
        if lecture.status is LectureStatus.FAILED:
            states.queue_again(lecture)
        if created or lecture.status is LectureStatus.PENDING:
            await enqueue(unit, lecture, viewer)
        return RequestedLecture(await changed(unit, viewer, lecture), created)


async def request_downloads(
    work: Work,
    viewer: Viewer,
    requests: Sequence[DownloadRequest],
    panopto_hosts: tuple[str, ...],
    allowance: Allowance,
) -> list[RequestedLecture | InvalidInput | RateLimited]:
    """Do what `request_download` does for each, one after the other; return what became of each.

    The quota is spent for those that are accepted.
    """
    if not 1 <= len(requests) <= MAX_LINKS:
        message = f"Name 1 to {MAX_LINKS} links."
        code = FieldErrorCode.TOO_MANY if requests else FieldErrorCode.REQUIRED
        raise InvalidInput.at("links", message, code)
    outcomes: list[RequestedLecture | InvalidInput | RateLimited] = []
    for number, request in enumerate(requests):
        try:
            done = await request_download(work, viewer, request, panopto_hosts, allowance)
        except InvalidInput as error:
            outcomes.append(error.within("links", number))
        except RateLimited as error:
            outcomes.append(error)
        else:
            outcomes.append(done)
    return outcomes


async def retry_download(
    work: Work, viewer: Viewer, lecture_id: UUID, allowance: Allowance
) -> Lecture:
    """Put a FAILED lecture back to PENDING and queue it; `Conflict` in any other state."""
    async with work.begin() as unit:
        lecture = await lock_lecture(unit.session, viewer, lecture_id)
        if lecture.status is not LectureStatus.FAILED:
            raise Conflict("Only a lecture that has failed can be tried again.")
        if lecture.source is LectureSource.UPLOAD:
            raise Conflict("The uploaded file is gone: upload it again.")
        await allowance.spend(Quota.DOWNLOADS)
        states.queue_again(lecture)
        await ensure_user(unit.session, viewer)
        await enqueue(unit, lecture, viewer)
        return await changed(unit, viewer, lecture)


async def cancel_download(
    work: Work, storage: ObjectStore, scratch: ObjectStore, viewer: Viewer, lecture_id: UUID
) -> Lecture:
    """Stop a PENDING or DOWNLOADING lecture: FAILED with CANCELLED; its worker is rung.

    An uploaded file goes: who wants it after all uploads it again.  What its worker has fetched is
    the worker's to delete; what waited for the next attempt goes here, or with the sweep where it
    is on another machine's disk.
    """
    async with work.begin() as unit:
        lecture = await lock_lecture(unit.session, viewer, lecture_id)
        if lecture.status not in states.RUNNING:
            raise Conflict("Only a lecture that waits or is being downloaded can be cancelled.")
        if not viewer.is_admin and await _others_linked(unit.session, viewer, lecture.id):
            raise Conflict("Others use this lecture too: unlink it instead.")
        await stop_job(unit, lecture.id)
        states.fail(lecture, LectureFailure.CANCELLED, "The download was cancelled.")
        garbage = states.forget_upload(lecture)
        cancelled = await changed(unit, viewer, lecture)
    await delete_objects(storage, garbage)
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


async def changed(unit: UnitOfWork, viewer: Viewer, lecture: Lecture) -> Lecture:
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

    What is well goes before what has failed, and the viewer's own before the course's.  Whoever
    brings a stream is not led to what has failed, unless it is theirs alone and takes the stream.
    """
    session, stream_url = unit.session, values["stream_url"]
    if stream_url is None:
        lecture = await session.scalar(_known(viewer, course_id, identity))
        wanted = identity
    else:
        wanted = unconfirmed(identity, stream_url)
        lecture = await _taking(session, viewer, course_id, identity, wanted, stream_url)
    created = False
    if lecture is None:
        lecture, created = await _find_or_create(session, course_id, wanted, values)
    # They have the recording in another way than what has failed; without a link, the sweep has it.
    failed = select(Lecture.id).where(
        Lecture.course_id == course_id,
        _is_of(identity),
        Lecture.status == LectureStatus.FAILED,
        Lecture.id != lecture.id,
    )
    own_failed = select(UserLecture.lecture_id).where(
        UserLecture.user_id == viewer.id, UserLecture.lecture_id.in_(failed)
    )
    if leaving := (await session.scalars(own_failed)).all():
        await leave_collections(session, CollectionItem.lecture_id, leaving, viewer)
    own = delete(UserLecture).where(UserLecture.user_id == viewer.id)
    left = own.where(UserLecture.lecture_id.in_(failed)).returning(UserLecture.lecture_id)
    for lecture_id in await session.scalars(left):
        unit.wake("lecture", lecture_id, viewer.id)
    return lecture, created


class _CannotTake(Exception):
    """What has failed is others' too, or the stream has a lecture already."""


async def _taking(
    session: AsyncSession,
    viewer: Viewer,
    course_id: UUID,
    identity: SourceIdentity,
    brought: SourceIdentity,
    stream_url: str,
) -> Lecture | None:
    """Return what is known of the recording; None where it has failed and cannot take the stream.

    Undone in that case: to hold two lectures at once is to wait in a ring with a merge.
    """
    with suppress(_CannotTake, IntegrityError):
        async with session.begin_nested():
            known = await session.scalar(_known(viewer, course_id, identity))
            if known is None or known.status is not LectureStatus.FAILED:
                return known
            taken = exists().where(
                Lecture.course_id == course_id,
                Lecture.canonical_url == brought.canonical_url,
                Lecture.id != known.id,
            )
            others = await _others_linked(session, viewer, known.id)
            if others or await session.scalar(select(taken)):
                raise _CannotTake
            known.panopto_session_id = None
            known.canonical_url, known.stream_url = brought.canonical_url, stream_url
            await session.flush()
            return known
    return None


def _known(viewer: Viewer, course_id: UUID, identity: SourceIdentity) -> Select[Lecture]:
    """Select the course's lecture of the recording, or the viewer's own, whatever its stream."""
    own = linked(viewer)
    mine_or_shared = or_(_is_named(course_id, identity), and_(_is_of(identity), own))
    query = select(Lecture).where(Lecture.course_id == course_id, mine_or_shared)
    best = (Lecture.status == LectureStatus.FAILED, ~own, Lecture.created_at)
    return query.order_by(*best).limit(1).with_for_update()


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
        named = {"panopto_session_id": identity.session_id, "canonical_url": identity.canonical_url}
        statement = insert(Lecture).values(course_id=course_id, **named, **values)
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
    query = select(Lecture).where(Lecture.course_id == course_id, _is_named(course_id, identity))
    if besides is not None:
        query = query.where(Lecture.id != besides.id)
    return query.order_by(Lecture.created_at).limit(1).with_for_update()


def _is_named(course_id: UUID, identity: SourceIdentity) -> ColumnElement[bool]:
    """Return the condition that the lecture goes by the identity, or was merged from one that did.

    One that has taken a stream since then is nobody's who has not named that.
    """
    if identity.session_id is not None:
        return Lecture.panopto_session_id == identity.session_id
    merged = select(LectureAlias.lecture_id).where(
        LectureAlias.course_id == course_id,
        LectureAlias.canonical_url == identity.canonical_url,
    )
    has_no_stream = Lecture.stream_url.is_(None)
    return or_(
        Lecture.canonical_url == identity.canonical_url,
        and_(Lecture.id.in_(merged), has_no_stream),
    )


def _is_of(identity: SourceIdentity) -> ColumnElement[bool]:
    """Return the condition that the lecture is of the recording, whatever its stream."""
    name = func.split_part(Lecture.canonical_url, "#", 1) == recording_name(identity)
    if identity.session_id is None:
        return name
    return or_(name, Lecture.panopto_session_id == identity.session_id)


async def _link(session: AsyncSession, viewer: Viewer, lecture_id: UUID) -> None:
    link = insert(UserLecture).values(user_id=viewer.id, lecture_id=lecture_id)
    await session.execute(link.on_conflict_do_nothing())


async def _others_linked(session: AsyncSession, viewer: Viewer, lecture_id: UUID) -> bool:
    others = exists().where(UserLecture.lecture_id == lecture_id, UserLecture.user_id != viewer.id)
    return bool(await session.scalar(select(others)))


def _checked(request: DownloadRequest) -> dict[str, str | None]:
    """Return the columns of a new lecture, or raise `InvalidInput`."""
    return {
        "panopto_url": request.panopto_url.strip(),
        "stream_url": _checked_stream_url(request.stream_url),
        "title": checked_title(request.title),
    }


def _checked_stream_url(url: str | None) -> str | None:
    if url is None:
        return None
    parse_web_url(url, "streamUrl")
    return url.strip()


def checked_title(title: str | None) -> str | None:
    """Return the title as it can be stored and read, or raise `InvalidInput`."""
    if title is not None and not is_storable(title):
        raise InvalidInput.at(
            "title", "The title has characters that are not text.", FieldErrorCode.MALFORMED
        )
    title = readable(title)
    if title is not None and len(title) > MAX_TITLE_CHARACTERS:
        message = f"The title is longer than {MAX_TITLE_CHARACTERS} characters."
        raise InvalidInput.at("title", message, FieldErrorCode.TOO_LONG)
    return title
