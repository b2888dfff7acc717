"""The ledger against a real PostgreSQL: who gets a job, who keeps it, and who has lost it."""

import asyncio
from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import UUID, uuid4

import pytest
from sqlalchemy import select, text, update
from sqlalchemy.ext.asyncio import AsyncSession, async_sessionmaker

from app.db import ledger
from app.db.ledger import Held, Lease
from app.db.models import NOBODY, Job
from app.domain import JobKind, JobState
from app.errors import LeaseLost
from tests.support.wait import wait_until

Sessions = async_sessionmaker[AsyncSession]
DOWNLOAD = JobKind.DOWNLOAD_LECTURE
_ALWAYS = datetime.max.replace(tzinfo=UTC)


async def queue(
    sessions: Sessions, user_id: UUID | None = None, subject: UUID | None = None
) -> UUID:
    subject = subject or uuid4()
    async with sessions.begin() as session:
        await ledger.open_job(session, DOWNLOAD, subject, user_id)
    return subject


async def claim(
    sessions: Sessions,
    limit: int = 10,
    lease_seconds: float = ledger.LEASE_SECONDS,
    *,
    trusted_until: datetime | None = _ALWAYS,
    **named: Any,
) -> list[Lease]:
    """Look and claim, as one who has been in touch with the database all along unless told else."""
    async with sessions.begin() as session:
        await ledger.end_leases(session, trusted_until=trusted_until)
        return await ledger.claim(session, [DOWNLOAD], limit, lease_seconds, **named)


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
    (heir,) = await claim(sessions)
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


async def test_who_has_not_seen_the_database_takes_over_what_is_known_to_be_left(
    sessions: Sessions,
) -> None:
    """A lease that ran out while nobody could renew it tells nothing of its holder."""
    await queue(sessions)
    (held,) = await claim(sessions, lease_seconds=-1, holder="somebody")
    for trusted_until in (None, await _database_time(sessions)):
        assert await claim(sessions, trusted_until=trusted_until) == []
    async with sessions.begin() as session:
        assert await ledger.end_leases(session, ["somebody else"]) == 0
        assert await ledger.end_leases(session, ["somebody"]) == 1
        assert await ledger.end_leases(session, ["somebody"]) == 0, "it is ended once"
    (heir,) = await claim(sessions, trusted_until=None)
    assert (heir.job_id, heir.crashes) == (held.job_id, 1)


async def test_who_has_seen_the_database_takes_over_what_ran_out(sessions: Sessions) -> None:
    await queue(sessions)
    await claim(sessions, lease_seconds=-1)
    trusted_until = await _database_time(sessions) + timedelta(seconds=60)
    assert [lease.crashes for lease in await claim(sessions, trusted_until=trusted_until)] == [1]


async def _database_time(sessions: Sessions) -> datetime:
    async with sessions.begin() as session:
        return (await ledger.look(session))[0]


async def test_everyone_sees_who_holds_what(sessions: Sessions) -> None:
    await queue(sessions)
    await queue(sessions)
    (lease,) = await claim(sessions, 1, holder="somebody")
    async with sessions.begin() as session:
        _, held = await ledger.look(session)
    assert held == [Held(lease.job_id, lease.token, "somebody", has_run_out=False)]


async def test_an_unknown_claim_is_given_back_as_if_not_made(sessions: Sessions) -> None:
    await queue(sessions)
    (lease,) = await claim(sessions, holder="me")
    unknown = Held(lease.job_id, lease.token, "me", has_run_out=False)
    async with sessions.begin() as session:
        assert await ledger.give_back(session, [unknown]) == 1
    waiting = await state(sessions, lease.job_id)
    assert (waiting.state, waiting.attempt, waiting.crashes) == (JobState.QUEUED, 0, 0)
    (again,) = await claim(sessions)
    async with sessions.begin() as session:
        assert await ledger.give_back(session, [unknown]) == 0, "it has another token by now"
        assert await ledger.heartbeat(session, [again]) == {again.token}


async def test_what_has_lost_two_workers_waits_ever_longer_up_to_eight_seconds(
    sessions: Sessions,
) -> None:
    await queue(sessions)
    waits = []
    for crashes in range(ledger.MAX_CRASHES):
        (lease,) = await claim(sessions, holder="dead")
        assert (lease.crashes, lease.is_hopeless) == (crashes, False)
        await _end_leases(sessions, "dead")
        async with sessions.begin() as session:
            wait = await session.scalar(select(Job.run_at - Job.updated_at)) or timedelta(0)
        waits.append(max(0, wait.total_seconds()))
        if waits[-1]:
            assert await claim(sessions) == []
            async with sessions.begin() as session:
                await session.execute(update(Job).values(run_at=Job.created_at))
    longest = [0, 0, 2, 4, 8, 8, 8, 8, 8, 8]
    assert all(most / 2 <= wait <= most for wait, most in zip(waits, longest, strict=True)), waits
    (lease,) = await claim(sessions)
    assert lease.is_hopeless


async def _end_leases(sessions: Sessions, holder: str) -> int:
    """Let it be known that the holder is gone."""
    async with sessions.begin() as session:
        return await ledger.end_leases(session, [holder])


async def test_what_was_left_behind_may_exceed_the_limit(sessions: Sessions) -> None:
    for _ in range(3):
        await queue(sessions)
    left = {lease.job_id for lease in await claim(sessions, holder="dead")}
    await _end_leases(sessions, "dead")
    fresh = await queue(sessions)
    recovered = await claim(sessions, 0, recovery_slots=2)
    assert len(recovered) == 2
    assert {lease.job_id for lease in recovered} < left
    assert await claim(sessions, -2, recovery_slots=2) == []
    # What is left behind goes first, and what waits has no more than the limit.
    last, waiting = sorted(
        await claim(sessions, 2, recovery_slots=2), key=lambda lease: lease.subject_id == fresh
    )
    assert last.job_id in left
    assert waiting.subject_id == fresh
    await queue(sessions)
    assert await claim(sessions, 0, recovery_slots=2) == []


async def test_who_waits_for_later_hides_nobody(sessions: Sessions) -> None:
    """A thousand users wait for another time, one has a backlog, and one a single link."""
    async with sessions.begin() as session:
        for users, jobs, due in ((1_000, 1_000, "1 h"), (1, 5_000, "0 s")):
            queue_of = {"users": users, "jobs": jobs, "made": "0 s", "due": due}
            await session.execute(_MAKE_QUEUE, queue_of)
    modest = await queue(sessions, uuid4())
    assert modest in {lease.subject_id for lease in await claim(sessions, 2)}


async def test_no_user_has_more_at_once_than_is_allowed(sessions: Sessions) -> None:
    ann, bob = uuid4(), uuid4()
    for user_id, count in ((ann, 5), (bob, 1), (None, 4)):
        for _ in range(count):
            await queue(sessions, user_id)
    leases = await claim(sessions, most_per_user=3)
    users = [await _user_of(sessions, lease.subject_id) for lease in leases]
    assert (users.count(ann), users.count(bob), users.count(NOBODY)) == (3, 1, 4)
    assert await claim(sessions, most_per_user=3) == []
    mine = next(lease for lease, user in zip(leases, users, strict=True) if user == ann)
    async with sessions.begin() as session:
        await ledger.finish(session, mine)
    (next_lease,) = await claim(sessions, most_per_user=3)
    assert await _user_of(sessions, next_lease.subject_id) == ann


async def test_what_was_put_off_takes_its_users_turn(sessions: Sessions) -> None:
    busy, modest = uuid4(), uuid4()
    retried = await queue(sessions, busy)
    (lease,) = await claim(sessions)
    async with sessions.begin() as session:
        await ledger.requeue(session, lease, attempt=1)
    await queue(sessions, busy)
    other = await queue(sessions, modest)
    assert {lease.subject_id for lease in await claim(sessions, 2)} == {retried, other}


async def test_a_second_requester_does_not_wait_behind_the_first_ones_backlog(
    sessions: Sessions,
) -> None:
    ann, bob, carl = uuid4(), uuid4(), uuid4()
    for _ in range(20):
        await queue(sessions, ann)
    shared, another = [await queue(sessions, ann) for _ in range(2)]
    await _move_up(sessions, shared, bob)
    assert await _user_of(sessions, shared) == bob
    await _move_up(sessions, another, bob)
    assert await _user_of(sessions, another) == ann, "one turn at a time"
    assert shared in {lease.subject_id for lease in await claim(sessions, 2)}
    await _move_up(sessions, shared, carl)
    assert await _user_of(sessions, shared) == bob, "it runs, and needs no turn"
    await _move_up(sessions, another, bob)
    assert await _user_of(sessions, another) == bob


async def _move_up(sessions: Sessions, subject: UUID, user_id: UUID) -> None:
    async with sessions.begin() as session:
        await ledger.move_up(session, DOWNLOAD, subject, user_id)


async def _user_of(sessions: Sessions, subject: UUID) -> UUID:
    async with sessions() as session:
        return (await session.scalars(select(Job.user_id).where(Job.subject_id == subject))).one()


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


@pytest.mark.parametrize("way", ["heartbeat", "close"])
async def test_many_jobs_are_locked_in_the_order_of_their_ids(sessions: Sessions, way: str) -> None:
    subjects = [await queue(sessions) for _ in range(8)]
    leases = sorted(await claim(sessions, limit=8), key=lambda lease: lease.job_id, reverse=True)

    async def lock_all() -> int:
        async with sessions.begin() as session:
            if way == "heartbeat":
                return len(await ledger.heartbeat(session, leases))
            return len(await ledger.close_jobs(session, DOWNLOAD, subjects[::-1]))

    async def waits() -> object:
        async with sessions() as session:
            waiting = "datname = current_database() AND wait_event_type = 'Lock'"
            return await session.scalar(text(f"SELECT pid FROM pg_stat_activity WHERE {waiting}"))

    async with sessions.begin() as session:
        first, *others = (lease.job_id for lease in reversed(leases))
        await session.get(Job, first, with_for_update=True)
        waiting = asyncio.create_task(lock_all())
        await wait_until(waits, "it waits for the first of them")
        for job_id in others:  # It holds none of these meanwhile, or the two would wait in a ring.
            await session.get(Job, job_id, with_for_update={"nowait": True})
    assert await waiting == 8


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


@pytest.mark.parametrize(
    ("users", "made", "due"),
    [
        pytest.param(1, "0 s", "0 s", id="one user's"),
        pytest.param(1_000, "0 s", "0 s", id="a thousand users'"),
        pytest.param(100_000, "0 s", "0 s", id="as many users'"),
        pytest.param(1, "-1 day", "-1 h", id="one user's, put off and due"),
        pytest.param(100_000, "-1 day", "-1 h", id="as many users', put off and due"),
        pytest.param(100_000, "0 s", "1 h", id="as many users', put off"),
    ],
)
async def test_a_claim_reads_little_however_long_the_queue(
    sessions: Sessions, users: int, made: str, due: str
) -> None:
    async with sessions.begin() as session:
        queue_of = {"users": users, "jobs": 100_000, "made": made, "due": due}
        await session.execute(_MAKE_QUEUE, queue_of)
    wanted = {await queue(sessions, uuid4()) for _ in range(5)}
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
    await _unclaim(sessions)
    claimed = {lease.subject_id for lease in await claim(sessions, 5)}
    assert len(claimed) == 5
    if due == "1 h":
        assert claimed == wanted


async def _unclaim(sessions: Sessions) -> None:
    """Put back what the explained claim has taken."""
    async with sessions.begin() as session:
        _, held = await ledger.look(session)
        await ledger.give_back(session, held)


_MAKE_QUEUE = text(
    """
    INSERT INTO jobs (kind, subject_id, user_id, created_at, run_at)
    SELECT 'download_lecture', gen_random_uuid(), md5((n % :users)::text)::uuid,
           now() + CAST(CAST(:made AS text) AS interval),
           now() + CAST(CAST(:due AS text) AS interval)
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
