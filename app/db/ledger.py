"""The job ledger: one open row per (kind, subject), claimed under a lease with a fencing token.

    queued --claim--> running --finish--> done | failed
      ^                  |  \
      +----- requeue ----+   +-- close (by the subject's owner) --> cancelled

Every claim writes a new ``lease_token``; every later statement of the holder names it, so a worker
that was taken over matches no row.  All of it is single statements in ordinary transactions: no
session state, so a transaction-mode PgBouncer may stand in between.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import timedelta
from uuid import UUID

from sqlalchemy import CursorResult, func, text, update
from sqlalchemy.dialects.postgresql import insert
from sqlalchemy.ext.asyncio import AsyncSession

from app.db.models import Job
from app.domain import JobKind, JobState
from app.errors import LeaseLost

LEASE_SECONDS = 6.0
_OPEN = text("state IN ('queued', 'running')")


@dataclass(frozen=True, slots=True)
class Lease:
    """A claimed job: what to do, for how long it has failed, and the token that proves the claim.

    ``attempt`` counts earlier transient failures, ``crashes`` the workers that died holding it, and
    ``age`` is how long ago it was opened.
    """

    job_id: UUID
    kind: JobKind
    subject_id: UUID
    token: UUID
    attempt: int
    crashes: int
    age: timedelta


async def open_job(
    session: AsyncSession, kind: JobKind, subject_id: UUID, user_id: UUID | None
) -> bool:
    """Queue the work unless it is open already; return whether a row was made."""
    statement = (
        insert(Job)
        .values(kind=kind, subject_id=subject_id, user_id=user_id)
        .on_conflict_do_nothing(index_elements=["kind", "subject_id"], index_where=_OPEN)
        .returning(Job.id)
    )
    return (await session.execute(statement)).scalar() is not None


async def close_job(session: AsyncSession, kind: JobKind, subject_id: UUID) -> UUID | None:
    """Cancel the open job of the subject, if any; return its id so that its holder can be rung."""
    statement = (
        update(Job)
        .where(Job.kind == kind, Job.subject_id == subject_id, _OPEN)
        .values(state=JobState.CANCELLED, lease_token=None, lease_until=None)
        .returning(Job.id)
    )
    return (await session.execute(statement)).scalar()


# Turns go over users: a job's rank is how many of its user's jobs run or wait before it, so a
# user's first link goes before another's second.  Rows that another worker is claiming are skipped.
_CLAIM = text(
    """
    WITH ranked AS (
        SELECT id, run_at,
               row_number() OVER (
                   PARTITION BY user_id ORDER BY (state = 'running') DESC, run_at, id
               ) AS turn
        FROM (
            SELECT id, user_id, state, run_at FROM jobs
            WHERE kind = ANY(:kinds) AND state = 'queued' AND run_at <= now()
            UNION ALL
            SELECT id, user_id, state, run_at FROM jobs
            WHERE kind = ANY(:kinds) AND state = 'running' AND lease_until >= now()
            UNION ALL
            SELECT id, user_id, 'queued', run_at FROM jobs
            WHERE kind = ANY(:kinds) AND state = 'running' AND lease_until < now()
        ) AS open_jobs
    ), claimed AS (
        SELECT jobs.id, jobs.state = 'running' AS crashed
        FROM jobs JOIN ranked USING (id)
        WHERE jobs.kind = ANY(:kinds)
          AND ((jobs.state = 'queued' AND jobs.run_at <= now())
               OR (jobs.state = 'running' AND jobs.lease_until < now()))
        ORDER BY ranked.turn, jobs.run_at, jobs.id
        LIMIT :limit
        FOR UPDATE OF jobs SKIP LOCKED
    )
    UPDATE jobs
    SET state = 'running', lease_token = gen_random_uuid(),
        lease_until = now() + make_interval(secs => :lease_seconds),
        crashes = jobs.crashes + claimed.crashed::int
    FROM claimed WHERE jobs.id = claimed.id
    RETURNING jobs.id, jobs.kind, jobs.subject_id, jobs.lease_token, jobs.attempt, jobs.crashes,
              now() - jobs.created_at
    """
)


async def claim(
    session: AsyncSession,
    kinds: Sequence[JobKind],
    limit: int,
    lease_seconds: float = LEASE_SECONDS,
) -> list[Lease]:
    """Claim up to ``limit`` due jobs: queued ones, and ones whose holder let the lease run out."""
    parameters = {
        "kinds": [kind.value for kind in kinds],
        "limit": limit,
        "lease_seconds": lease_seconds,
    }
    rows = await session.execute(_CLAIM, parameters)
    return [Lease(row[0], JobKind(row[1]), *row[2:]) for row in rows]


_HEARTBEAT = text(
    """
    UPDATE jobs SET lease_until = now() + make_interval(secs => :lease_seconds)
    FROM unnest(CAST(:ids AS uuid[]), CAST(:tokens AS uuid[])) AS held (id, token)
    WHERE jobs.id = held.id AND jobs.lease_token = held.token
    RETURNING jobs.id
    """
)


async def heartbeat(
    session: AsyncSession, leases: Iterable[Lease], lease_seconds: float = LEASE_SECONDS
) -> set[UUID]:
    """Renew all leases in one statement and return the ids of the jobs that are still held."""
    held = list(leases)
    parameters = {
        "ids": [lease.job_id for lease in held],
        "tokens": [lease.token for lease in held],
        "lease_seconds": lease_seconds,
    }
    return set((await session.execute(_HEARTBEAT, parameters)).scalars())


async def require_lease(session: AsyncSession, lease: Lease) -> None:
    """Raise `LeaseLost` where the job was taken over, cancelled or finished."""
    held = await session.get(Job, lease.job_id, populate_existing=True)
    if held is None or held.lease_token != lease.token:
        raise LeaseLost


async def finish(
    session: AsyncSession, lease: Lease, state: JobState = JobState.DONE, error: str | None = None
) -> None:
    """Close the job under its lease, or raise `LeaseLost`."""
    await _release(session, lease, state=state, last_error=error)


async def requeue(
    session: AsyncSession,
    lease: Lease,
    *,
    delay: timedelta = timedelta(0),
    attempt: int,
    error: str | None = None,
) -> None:
    """Put the job back for a later (or another) worker, or raise `LeaseLost`."""
    await _release(
        session,
        lease,
        state=JobState.QUEUED,
        run_at=func.now() + delay,
        attempt=attempt,
        last_error=error,
    )


async def _release(session: AsyncSession, lease: Lease, **values: object) -> None:
    statement = (
        update(Job)
        .where(Job.id == lease.job_id, Job.lease_token == lease.token)
        .values(lease_token=None, lease_until=None, **values)
    )
    result = await session.execute(statement, execution_options={"synchronize_session": False})
    if isinstance(result, CursorResult) and result.rowcount != 1:
        raise LeaseLost


async def prune(session: AsyncSession, older_than: timedelta) -> int:
    """Delete closed rows that old; return how many."""
    statement = text(
        "DELETE FROM jobs WHERE state IN ('done', 'failed', 'cancelled')"
        " AND updated_at < now() - CAST(:age AS interval) RETURNING id"
    )
    return len((await session.execute(statement, {"age": older_than})).all())
