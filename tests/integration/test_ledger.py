"""The ledger against a real PostgreSQL: who gets a job, who keeps it, and who has lost it."""

import asyncio
from datetime import timedelta
from typing import Any
from uuid import UUID, uuid4

import pytest
from sqlalchemy import select, text
from sqlalchemy.ext.asyncio import AsyncSession, async_sessionmaker

from app.db import ledger
from app.db.ledger import Lease
from app.db.models import Job
from app.domain import JobKind, JobState
from app.errors import LeaseLost
from tests.wait import wait_until

Sessions = async_sessionmaker[AsyncSession]
DOWNLOAD = JobKind.DOWNLOAD_LECTURE


async def queue(
    sessions: Sessions, user_id: UUID | None = None, subject: UUID | None = None
) -> UUID:
    subject = subject or uuid4()
    async with sessions.begin() as session:
        await ledger.open_job(session, DOWNLOAD, subject, user_id)
    return subject


async def claim(
    sessions: Sessions, limit: int = 10, lease_seconds: float = ledger.LEASE_SECONDS
) -> list[Lease]:
    async with sessions.begin() as session:
        return await ledger.claim(session, [DOWNLOAD], limit, lease_seconds)


async def take_over(sessions: Sessions) -> list[Lease]:
    """Claim; a server that started a moment ago gives holders the time of a lease first."""
    return await wait_until(lambda: claim(sessions), "a job is taken over")


async def state(sessions: Sessions, job_id: UUID) -> Job:
    async with sessions() as session:
        return (await session.scalars(select(Job).where(Job.id == job_id))).one()


async def test_a_subject_has_one_open_job(sessions: Sessions) -> None:
    subject = uuid4()
    made = await asyncio.gather(*(_open(sessions, subject) for _ in range(10)))
    assert sorted(made) == [False] * 9 + [True]
    (lease,) = await claim(sessions)
    assert not await _open(sessions, subject), "running is open too"
    async with sessions.begin() as session:
        await ledger.finish(session, lease)
    assert await _open(sessions, subject)


async def _open(sessions: Sessions, subject: UUID) -> bool:
    async with sessions.begin() as session:
        return await ledger.open_job(session, DOWNLOAD, subject, None)


async def test_concurrent_claims_share_no_job(sessions: Sessions) -> None:
    subjects = {await queue(sessions) for _ in range(20)}
    batches = await asyncio.gather(*(claim(sessions, 3) for _ in range(10)))
    claimed = [lease.subject_id for batch in batches for lease in batch]
    while batch := await claim(sessions, 3):
        claimed += [lease.subject_id for lease in batch]
    assert len(claimed) == 20
    assert set(claimed) == subjects


async def test_another_kind_is_not_claimed(sessions: Sessions) -> None:
    await queue(sessions)
    async with sessions.begin() as session:
        assert await ledger.claim(session, [JobKind.COUNT_PAGES], 10) == []


async def test_users_take_turns(sessions: Sessions) -> None:
    busy, modest = uuid4(), uuid4()
    for _ in range(50):
        await queue(sessions, busy)
    wanted = await queue(sessions, modest)
    first_two = {lease.subject_id for lease in await claim(sessions, 2)}
    assert wanted in first_two
    # Now one of the busy user's runs: a newcomer's first goes before the busy one's second.
    newcomer = await queue(sessions, uuid4())
    (lease,) = await claim(sessions, 1)
    assert lease.subject_id == newcomer


async def test_a_job_waits_for_its_time(sessions: Sessions) -> None:
    await queue(sessions)
    (lease,) = await claim(sessions)
    async with sessions.begin() as session:
        await ledger.requeue(session, lease, delay=timedelta(hours=1), attempt=1, error="later")
    assert await claim(sessions) == []
    waiting = await state(sessions, lease.job_id)
    assert (waiting.state, waiting.attempt, waiting.last_error) == (JobState.QUEUED, 1, "later")
    assert waiting.lease_token is None


async def test_an_expired_lease_is_taken_over_and_fences_its_holder(sessions: Sessions) -> None:
    await queue(sessions)
    (dead,) = await claim(sessions, lease_seconds=-1)
    (heir,) = await take_over(sessions)
    assert (heir.job_id, heir.crashes) == (dead.job_id, 1)
    assert heir.token != dead.token
    async with sessions.begin() as session:
        assert await ledger.heartbeat(session, [dead]) == set()
        with pytest.raises(LeaseLost):
            await ledger.require_lease(session, dead)
    for late in (ledger.finish, _requeue):
        with pytest.raises(LeaseLost):
            async with sessions.begin() as session:
                await late(session, dead)
    assert (await state(sessions, heir.job_id)).state is JobState.RUNNING
    async with sessions.begin() as session:
        await ledger.require_lease(session, heir)
        await ledger.finish(session, heir)


async def _requeue(session: AsyncSession, lease: Lease) -> None:
    await ledger.requeue(session, lease, attempt=0)


async def test_a_suspect_runs_beside_no_other(sessions: Sessions) -> None:
    for _ in range(3):
        await queue(sessions)
    for _ in range(2):
        await claim(sessions, lease_seconds=-1)
        await _expire_all(sessions)
    suspects = await take_over(sessions)
    assert [lease.crashes for lease in suspects] == [2]
    async with sessions.begin() as session:
        assert await ledger.claim(session, [DOWNLOAD], 10, has_suspect=True) == []
    fresh = await queue(sessions)
    async with sessions.begin() as session:
        (lease,) = await ledger.claim(session, [DOWNLOAD], 10, has_suspect=True)
    assert lease.subject_id == fresh
    # The next worker takes the next suspect, and what has killed three goes out at once.
    assert [lease.crashes for lease in await claim(sessions)] == [2]


async def _expire_all(sessions: Sessions) -> None:
    async with sessions.begin() as session:
        await session.execute(
            text("UPDATE jobs SET lease_until = now() - interval '1 s' WHERE state = 'running'")
        )


async def test_a_heartbeat_keeps_a_lease_alive(sessions: Sessions) -> None:
    await queue(sessions)
    (lease,) = await claim(sessions, lease_seconds=-1)
    async with sessions.begin() as session:
        assert await ledger.heartbeat(session, [lease]) == {lease.token}
    assert await claim(sessions) == []


async def test_a_closed_job_is_lost_to_its_holder(sessions: Sessions) -> None:
    subject = await queue(sessions)
    (lease,) = await claim(sessions)
    async with sessions.begin() as session:
        assert await ledger.close_job(session, DOWNLOAD, subject) == lease.job_id
        assert await ledger.close_job(session, DOWNLOAD, subject) is None
    async with sessions.begin() as session:
        assert await ledger.heartbeat(session, [lease]) == set()
    assert (await state(sessions, lease.job_id)).state is JobState.CANCELLED


async def test_heartbeats_change_nothing_that_is_indexed(sessions: Sessions) -> None:
    await queue(sessions)
    (lease,) = await claim(sessions)
    before = await state(sessions, lease.job_id)
    async with sessions.begin() as session:
        await ledger.heartbeat(session, [lease])
    after = await state(sessions, lease.job_id)
    assert after.updated_at == before.updated_at
    assert after.lease_until is not None
    assert before.lease_until is not None
    assert after.lease_until > before.lease_until


async def test_old_rows_are_pruned_and_open_ones_kept(sessions: Sessions) -> None:
    await queue(sessions)
    (lease,) = await claim(sessions)
    async with sessions.begin() as session:
        await ledger.finish(session, lease)
    await queue(sessions)
    async with sessions.begin() as session:
        assert await ledger.prune(session, timedelta(days=1)) == 0
        assert await ledger.prune(session, timedelta(0)) == 1
    async with sessions() as session:
        assert (await session.execute(text("SELECT count(*) FROM jobs"))).scalar() == 1


@pytest.mark.parametrize("users", [1, 1_000, 100_000])
async def test_a_claim_reads_little_however_long_the_queue(sessions: Sessions, users: int) -> None:
    async with sessions.begin() as session:
        await session.execute(_MAKE_QUEUE, {"users": users, "jobs": 100_000})
    async with sessions.begin() as session:
        await session.execute(text("ANALYZE jobs"))
    seen: list[dict[str, Any]] = []
    async with sessions.begin() as session:
        explain = text("EXPLAIN (ANALYZE, FORMAT JSON) " + ledger._CLAIM.text)
        plan = await session.scalar(explain, ledger.claim_parameters([DOWNLOAD], 5))
        _collect(plan[0]["Plan"], seen)
    scans = [node for node in seen if node.get("Relation Name") == "jobs"]
    assert scans
    assert not [node for node in scans if node["Node Type"] == "Seq Scan"]
    assert sum(_rows_read(node) for node in scans) < 5_000
    assert len(await claim(sessions, 5)) == 5


_MAKE_QUEUE = text(
    """
    INSERT INTO jobs (kind, subject_id, user_id)
    SELECT 'download_lecture', gen_random_uuid(), md5((n % :users)::text)::uuid
    FROM generate_series(1, :jobs) AS n
    """
)


def _collect(node: dict[str, Any], into: list[dict[str, Any]]) -> None:
    into.append(node)
    for child in node.get("Plans", []):
        _collect(child, into)


def _rows_read(node: dict[str, Any]) -> float:
    dropped = node.get("Rows Removed by Filter", 0) + node.get("Rows Removed by Index Recheck", 0)
    return (node["Actual Rows"] + dropped) * node["Actual Loops"]
