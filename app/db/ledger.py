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
from uuid import UUID, uuid4

from sqlalchemy import CursorResult, func, select, text, update
from sqlalchemy.dialects.postgresql import insert
from sqlalchemy.ext.asyncio import AsyncSession

from app.db.models import NOBODY, Job
from app.domain import JobKind, JobState
from app.errors import LeaseLost

LEASE_SECONDS = 6.0
MAX_CRASHES = 3
"""How many workers may die holding a job before it counts as the one that kills them."""
USERS_LOOKED_AT = 64
JOBS_LOOKED_AT = 10
_OPEN = text("state IN ('queued', 'running')")


@dataclass(frozen=True, slots=True, weakref_slot=True)
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

    @property
    def is_suspect(self) -> bool:
        """Whether one more dead worker closes the job for good."""
        return self.crashes == MAX_CRASHES - 1


async def open_job(
    session: AsyncSession, kind: JobKind, subject_id: UUID, user_id: UUID | None
) -> bool:
    """Queue the work unless it is open already; return whether a row was made.

    ``user_id`` is whose turn it takes; None for work that is nobody's.
    """
    statement = (
        insert(Job)
        .values(kind=kind, subject_id=subject_id, user_id=user_id or NOBODY)
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


# Turns go over users: a job's turn is its place among its user's waiting jobs, after those of that
# user that run, so a user's first link goes before another's second.  Up to `USERS_LOOKED_AT` users
# with waiting work are compared, from a random one on, and `JOBS_LOOKED_AT` jobs of each: the cost
# does not grow with the queue, and among more users than that the lot decides.
#
# What an ended worker left goes first, except where the server has only just started: the holders
# could not renew their leases while it was away, and have the time of one lease to come back.  That
# does not hold for a lease that `end_leases_of` has ended: its holder will not come back.
#
# A job that would be closed for good by one more crash is a suspect: no worker has two of them at a
# time, so that the one which kills its workers takes no innocent with it.
def _next_user(kind: str, after: str) -> str:
    """Return SQL for the next user with waiting work, going round: one probe of the index."""
    waiting = f"SELECT user_id FROM jobs WHERE state = 'queued' AND kind = {kind}"  # noqa: S608
    first = "ORDER BY user_id LIMIT 1"
    return f"coalesce(({waiting} AND user_id > {after} {first}), ({waiting} {first}))"


_CLAIM = text(
    f"""
    WITH RECURSIVE waiting AS (
        SELECT wanted.kind, first.user_id AS first, first.user_id, 1 AS looked_at
        FROM unnest(CAST(:kinds AS text[])) AS wanted (kind),
             LATERAL (SELECT {_next_user("wanted.kind", ":from_user")} AS user_id) AS first
        WHERE first.user_id IS NOT NULL
        UNION ALL
        SELECT kind, first, next.user_id, looked_at + 1
        FROM waiting,
             LATERAL (SELECT {_next_user("waiting.kind", "waiting.user_id")} AS user_id) AS next
        WHERE next.user_id <> first AND looked_at < :users
    ), busy AS (
        SELECT kind, user_id, count(*) AS jobs FROM jobs
        WHERE state = 'running' AND kind = ANY(:kinds) AND lease_until >= now()
        GROUP BY kind, user_id
    ), due AS (
        SELECT job.id, job.run_at, job.crashes, coalesce(busy.jobs, 0) + job.place AS turn
        FROM waiting
        CROSS JOIN LATERAL (
            SELECT id, run_at, crashes, row_number() OVER (ORDER BY run_at, id) AS place FROM jobs
            WHERE state = 'queued' AND kind = waiting.kind AND user_id = waiting.user_id
              AND run_at <= now()
            ORDER BY run_at, id LIMIT :jobs
        ) AS job
        LEFT JOIN busy USING (kind, user_id)
        UNION ALL
        SELECT id, run_at, crashes + 1, 0 FROM jobs
        WHERE state = 'running' AND kind = ANY(:kinds) AND lease_until < now()
          AND (pg_postmaster_start_time() < now() - make_interval(secs => :lease_seconds)
               OR lease_until = to_timestamp(0))
    ), ranked AS (
        SELECT id, run_at, turn, crashes = :suspect_at AS suspect,
               row_number() OVER (PARTITION BY crashes = :suspect_at ORDER BY turn, run_at) AS place
        FROM due
    ), candidates AS (
        SELECT id, run_at, turn FROM ranked
        WHERE NOT suspect OR (place = 1 AND NOT :has_suspect)
        ORDER BY turn, run_at LIMIT :jobs
    ), claimed AS (
        SELECT jobs.id, jobs.state = 'running' AS crashed
        FROM jobs JOIN candidates USING (id)
        WHERE (jobs.state = 'queued' AND jobs.run_at <= now())
           OR (jobs.state = 'running' AND jobs.lease_until < now())
        ORDER BY turn, candidates.run_at, id
        LIMIT :limit
        FOR UPDATE OF jobs SKIP LOCKED
    )
    UPDATE jobs
    SET state = 'running', lease_token = gen_random_uuid(), holder = :holder,
        lease_until = now() + make_interval(secs => :lease_seconds),
        crashes = jobs.crashes + claimed.crashed::int
    FROM claimed WHERE jobs.id = claimed.id
    RETURNING jobs.id, jobs.kind, jobs.subject_id, jobs.lease_token, jobs.attempt, jobs.crashes,
              now() - jobs.created_at
    """  # noqa: S608 - its parts are the module's own
)


async def claim(
    session: AsyncSession,
    kinds: Sequence[JobKind],
    limit: int,
    lease_seconds: float = LEASE_SECONDS,
    *,
    has_suspect: bool = False,
    holder: str | None = None,
) -> list[Lease]:
    """Claim up to ``limit`` due jobs: queued ones, and ones whose holder let the lease run out.

    At most one of them is a suspect, and none where the worker has one already (``has_suspect``).
    ``holder`` names the claiming process to those that may learn of its end before the lease tells.
    """
    parameters = claim_parameters(
        kinds, limit, lease_seconds, has_suspect=has_suspect, holder=holder
    )
    rows = await session.execute(_CLAIM, parameters)
    return [Lease(row[0], JobKind(row[1]), *row[2:]) for row in rows]


def claim_parameters(
    kinds: Sequence[JobKind],
    limit: int,
    lease_seconds: float = LEASE_SECONDS,
    *,
    has_suspect: bool = False,
    holder: str | None = None,
) -> dict[str, object]:
    """Return what the claim's statement is run with."""
    return {
        "kinds": [kind.value for kind in kinds],
        "limit": limit,
        "lease_seconds": lease_seconds,
        "from_user": uuid4(),
        "users": USERS_LOOKED_AT,
        # More than the limit: another worker may be claiming the first of them right now.
        "jobs": limit + JOBS_LOOKED_AT,
        "suspect_at": MAX_CRASHES - 1,
        "has_suspect": has_suspect,
        "holder": holder,
    }


_HEARTBEAT = text(
    """
    UPDATE jobs SET lease_until = now() + make_interval(secs => :lease_seconds)
    FROM unnest(CAST(:ids AS uuid[]), CAST(:tokens AS uuid[])) AS held (id, token)
    WHERE jobs.id = held.id AND jobs.lease_token = held.token
    RETURNING held.token
    """
)


async def heartbeat(
    session: AsyncSession, leases: Iterable[Lease], lease_seconds: float = LEASE_SECONDS
) -> set[UUID]:
    """Renew all leases in one statement and return the tokens of those that still hold."""
    held = list(leases)
    parameters = {
        "ids": [lease.job_id for lease in held],
        "tokens": [lease.token for lease in held],
        "lease_seconds": lease_seconds,
    }
    return set((await session.execute(_HEARTBEAT, parameters)).scalars())


async def holders(session: AsyncSession) -> set[str]:
    """Return the names of the processes that hold a lease, as far as they are known."""
    query = select(Job.holder).where(Job.state == JobState.RUNNING, Job.holder.is_not(None))
    return {name for name in await session.scalars(query.distinct()) if name}


_END_LEASES = text(
    """
    UPDATE jobs SET lease_until = to_timestamp(0)
    WHERE state = 'running' AND holder = ANY(:names) AND lease_until <> to_timestamp(0)
    RETURNING id
    """
)


async def end_leases_of(session: AsyncSession, names: Iterable[str]) -> int:
    """End the leases of processes that are known to be gone; return how many those were.

    Their jobs are claimed like any whose lease has run out, at once.
    """
    return len((await session.execute(_END_LEASES, {"names": list(names)})).all())


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
    crashes: int | None = None,
    error: str | None = None,
) -> None:
    """Put the job back for a later (or another) worker, or raise `LeaseLost`.

    ``crashes`` stay as they are unless given: a job that is never done forgives them so.
    """
    await _release(
        session,
        lease,
        state=JobState.QUEUED,
        run_at=func.now() + delay,
        attempt=attempt,
        crashes=lease.crashes if crashes is None else crashes,
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
