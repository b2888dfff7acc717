"""The job that judges topics: a transcription's, once it is indexed, or all of a user's.

Its subject is a transcription, for the topics of everyone who has its lecture; or a user one of
whose topics is new or has changed, for all of that user's transcriptions: whether a topic stands
out is a matter of the others too.
"""

from itertools import groupby
from uuid import UUID

import structlog
from sqlalchemy import exists, select
from sqlalchemy.ext.asyncio import AsyncSession

from app.db import ledger
from app.db.ledger import Lease
from app.db.models import Topic, Transcription, User, UserLecture
from app.domain import JobKind, JobState
from app.embedder.embedder import Embedder, EmbedderFailed
from app.services.kernel.jobs import JobHandler
from app.services.kernel.retry_policy import MAX_ATTEMPTS, backoff
from app.services.kernel.unit_of_work import Work
from app.services.topics.suggest import Suggestions

log = structlog.get_logger()


class TopicJudgements(JobHandler):
    """What a worker does with a claimed judgement; without an embedder: nothing."""

    kind = JobKind.JUDGE_TOPICS

    def __init__(self, work: Work, embedder: Embedder | None, threshold: float) -> None:
        super().__init__(work)
        self._embedder = embedder
        self._threshold = threshold

    async def run(self, lease: Lease) -> str:
        """Judge what there is; what has changed meanwhile is judged once more."""
        async with self._work.sessions() as session:
            state = await _state(session, lease.subject_id)
        try:
            if self._embedder is not None:
                await self._judge(self._embedder, lease)
        except EmbedderFailed as error:
            return await self._retry_or_fail(lease, error)
        async with self._work.begin() as unit:
            # Whoever changes it has the row until they have found this job open, or not.
            if await _state(unit.session, lease.subject_id, locked=True) == state:
                await ledger.finish(unit.session, lease)
                return JobState.DONE
            await ledger.requeue(unit.session, lease, attempt=0)
            unit.ring()
            return "retried"

    async def _judge(self, embedder: Embedder, lease: Lease) -> None:
        suggestions = Suggestions(self._work, embedder, self._threshold)
        async with self._work.sessions() as session:
            pairs = await _pairs(session, lease.subject_id, embedder.model)
        for user_id, own in groupby(pairs, key=lambda pair: pair[0]):
            topics = await suggestions.read_topics(user_id)
            for _, transcription_id in own:
                await suggestions.judge(topics, transcription_id, lease)

    async def _retry_or_fail(self, lease: Lease, error: EmbedderFailed) -> str:
        log.warning("topics_not_judged", subject_id=str(lease.subject_id), reason=str(error))
        message, attempts = "The topics could not be judged.", lease.attempt + 1
        async with self._work.begin() as unit:
            if attempts >= MAX_ATTEMPTS:
                await ledger.finish(unit.session, lease, JobState.FAILED, message)
                return JobState.FAILED
            delay = backoff(lease.attempt)
            await ledger.requeue(unit.session, lease, delay=delay, attempt=attempts, error=message)
        return "retried"


async def _pairs(session: AsyncSession, subject_id: UUID, model: str) -> list[tuple[UUID, UUID]]:
    """Return users with topics, and transcriptions of theirs that the model has indexed."""
    is_user = await session.get(User, subject_id) is not None
    query = (
        select(UserLecture.user_id, Transcription.id)
        .join(Transcription, Transcription.lecture_id == UserLecture.lecture_id)
        .where(
            (UserLecture.user_id if is_user else Transcription.id) == subject_id,
            Transcription.embedder == model,
            exists().where(Topic.user_id == UserLecture.user_id),
        )
        .order_by(UserLecture.user_id, Transcription.id)
    )
    return [(row[0], row[1]) for row in await session.execute(query)]


async def _state(session: AsyncSession, subject_id: UUID, *, locked: bool = False) -> object:
    """Return what changes where the subject is to be judged anew; lock its row if asked to."""
    user = select(User.id).where(User.id == subject_id)
    transcription = select(Transcription.indexed_at).where(Transcription.id == subject_id)
    if locked:
        user = user.with_for_update(key_share=True)
        transcription = transcription.with_for_update(read=True)
    if await session.scalar(user) is None:
        return await session.scalar(transcription)
    topics = select(Topic.id, Topic.updated_at).where(Topic.user_id == subject_id)
    return {(id_, changed_at) for id_, changed_at in await session.execute(topics)}
