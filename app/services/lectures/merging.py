"""Two lectures that prove to be one recording become one, users and all.

A ``tid`` link names its recording only once the source was asked, and a stream that somebody
brought is the recording only once its audio was judged (`unconfirmed`): until then a course can
hold the same recording twice.
"""

from uuid import UUID

from sqlalchemy import and_, delete, exists, literal, or_, select, update
from sqlalchemy.dialects.postgresql import insert
from sqlalchemy.exc import IntegrityError
from sqlalchemy.ext.asyncio import AsyncSession
from sqlalchemy.orm import aliased

from app.db import ledger
from app.db.ledger import Lease
from app.db.models import Lecture, LectureAlias, Transcription, TranscriptionTopic, UserLecture
from app.domain import LectureStatus, TopicReview
from app.services.collections.change import take_place
from app.services.kernel.unit_of_work import UnitOfWork
from app.services.lectures.request import stop_job

_PREFERENCE = (
    LectureStatus.COMPLETED,
    LectureStatus.DOWNLOADING,
    LectureStatus.PENDING,
    LectureStatus.FAILED,
)


async def settle_identity(
    unit: UnitOfWork, lease: Lease, session_id: str, *, is_done: bool = False
) -> Lecture | None:
    """Give the leased lecture its session, or merge it with the one that has it; return who stays.

    ``is_done``: this transaction completes the leased one, which yields to a COMPLETED one alone.
    None where the lecture is gone; `LeaseLost` where the lease is.  Rows are locked in the order of
    their ids, so that two merges cannot wait for each other; a request that takes the session in
    between makes it look again.
    """
    lecture_id = lease.subject_id
    while True:
        lectures = await _lock_both(unit.session, lecture_id, session_id)
        mine = next((row for row in lectures if row.id == lecture_id), None)
        if mine is None:
            return None
        await ledger.require_lease(unit.session, lease)
        if len(lectures) > 1:
            loser, survivor = sorted(lectures, key=_rank, reverse=True)
            if is_done and survivor.status is not LectureStatus.COMPLETED:
                loser, survivor = next(row for row in lectures if row is not mine), mine
            await _merge(unit, survivor, loser)
            return survivor
        if await _take_session(unit.session, mine, session_id):
            return mine


async def _lock_both(session: AsyncSession, lecture_id: UUID, session_id: str) -> list[Lecture]:
    course = select(Lecture.course_id).where(Lecture.id == lecture_id).scalar_subquery()
    query = (
        select(Lecture)
        .where(
            Lecture.course_id == course,
            or_(Lecture.id == lecture_id, Lecture.panopto_session_id == session_id),
        )
        .order_by(Lecture.id)
        .with_for_update()
        .execution_options(populate_existing=True)
    )
    return list(await session.scalars(query))


async def _take_session(session: AsyncSession, lecture: Lecture, session_id: str) -> bool:
    try:
        async with session.begin_nested():
            lecture.panopto_session_id = session_id
            await session.flush()
    except IntegrityError:
        return False
    return True


def _rank(lecture: Lecture) -> tuple[int, object, UUID]:
    return (_PREFERENCE.index(lecture.status), lecture.created_at, lecture.id)


async def _move_transcriptions(session: AsyncSession, survivor: Lecture, loser: Lecture) -> None:
    """Give the survivor those of the loser that it has none like; the rest goes with the loser.

    What is said of the topics of the rest holds for those that it has instead, unless a user has
    said something of them.
    """
    mine, theirs, said = aliased(Transcription), Transcription, TranscriptionTopic
    alike = and_(
        mine.lecture_id == survivor.id,
        mine.source == theirs.source,
        mine.model_name.is_not_distinct_from(theirs.model_name),
        mine.forced_language.is_not_distinct_from(theirs.forced_language),
    )
    columns = (said.topic_id, said.ai_confidence, said.ai_reasoning, said.assigned_by, said.review)
    twins = (
        select(mine.id, *columns)
        .select_from(said)
        .join(theirs, theirs.id == said.transcription_id)
        .join(mine, alike)
        .where(theirs.lecture_id == loser.id)
    )
    names = ["transcription_id", *(column.key for column in columns)]
    copied = insert(said).from_select(names, twins)
    settled = copied.on_conflict_do_update(
        index_elements=names[:2],
        set_={name: copied.excluded[name] for name in names[2:]},
        where=said.review == TopicReview.UNREVIEWED,
    )
    await session.execute(settled)
    moved = update(theirs).where(theirs.lecture_id == loser.id, ~exists().where(alike))
    await session.execute(moved.values(lecture_id=survivor.id))


async def _merge(unit: UnitOfWork, survivor: Lecture, loser: Lecture) -> None:
    """Move what hangs on the loser to the survivor, stop its work, and keep its id as an alias."""
    session = unit.session
    await unit.wake_lecture(loser.id)
    session_id = survivor.panopto_session_id or loser.panopto_session_id
    title = survivor.title or loser.title
    # Who watched the loser goes on with the survivor, and its revisions must go on rising.
    revision = max(survivor.revision, loser.revision)
    alias = {
        "id": loser.id,
        "lecture_id": survivor.id,
        "course_id": loser.course_id,
        "canonical_url": loser.canonical_url,
    }
    links = select(UserLecture.user_id, literal(survivor.id), UserLecture.created_at).where(
        UserLecture.lecture_id == loser.id
    )
    moved = insert(UserLecture).from_select(["user_id", "lecture_id", "created_at"], links)
    await session.execute(moved.on_conflict_do_nothing())
    repointed = update(LectureAlias).where(LectureAlias.lecture_id == loser.id)
    await session.execute(repointed.values(lecture_id=survivor.id))
    await _move_transcriptions(session, survivor, loser)
    await take_place(session, survivor.id, loser.id)
    await stop_job(unit, loser.id)
    await session.execute(delete(Lecture).where(Lecture.id == loser.id))
    await session.execute(insert(LectureAlias).values(alias).on_conflict_do_nothing())
    survivor.panopto_session_id, survivor.title = session_id, title
    survivor.revision = revision
    await session.flush()
    await unit.wake_lecture(survivor.id)
