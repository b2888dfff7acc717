"""The job ledger: one open row per (kind, subject), claimed under a lease with a fencing token.

    queued --claim--> running --finish--> done | failed
      ^                  |  \
      +----- requeue ----+   +-- close (by the subject's owner) --> cancelled

Every claim writes a new ``lease_token``; every later statement of the holder names it, so a worker
that was taken over matches no row.  All of it is single statements in ordinary transactions: no
session state, so a transaction-mode PgBouncer may stand in between.
"""

from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from uuid import UUID, uuid4

from sqlalchemy import CursorResult, func, select, text, update
from sqlalchemy.dialects.postgresql import insert
from sqlalchemy.ext.asyncio import AsyncSession

from app.db.models import NOBODY, Job
from app.db.turns import CLAIM, NEVER_PUT_OFF
from app.domain import JobKind, JobState
from app.errors import LeaseLost

LEASE_SECONDS = 6.0
MAX_CRASHES = 10
"""How many workers may die with a job in hand, before it counts as what they die of."""
_PATIENT_CRASHES = 2
"""After how many of them it waits before it is worked on again, twice as long each time ..."""
_LONGEST_WAIT_SECONDS = 8
"""... up to this, so that work that is merely unlucky goes on in time."""
USERS_LOOKED_AT = 64
JOBS_LOOKED_AT = 10
PUT_OFF_LOOKED_AT = 500
_UNBOUNDED = 2**31 - 1
_OPEN = text("state IN ('queued', 'running')")


@dataclass(frozen=True, slots=True, weakref_slot=True)
class Lease:
    """A claimed job: what to do, how it went so far, and the token that proves the claim.

    ``attempt`` counts earlier transient failures, ``crashes`` the workers that died holding it.
    """

    job_id: UUID
    kind: JobKind
    subject_id: UUID
    token: UUID
    attempt: int
    crashes: int

    @property
    def is_hopeless(self) -> bool:
        """Whether so many workers died with it that it is not tried again."""
        return self.crashes >= MAX_CRASHES


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


_MOVE_UP = text(
    f"""
    UPDATE jobs SET user_id = :user_id
    WHERE kind = :kind AND subject_id = :subject_id AND state = 'queued' AND user_id <> :user_id
      AND NOT EXISTS (SELECT FROM jobs WHERE {NEVER_PUT_OFF} AND kind = :kind
                      AND user_id = :user_id)
    """  # noqa: S608 - its parts are the module's own
)


async def move_up(session: AsyncSession, kind: JobKind, subject_id: UUID, user_id: UUID) -> None:
    """Let the subject's job, where it still waits, take the turn of another who asked for it too.

    Only where that user's turn is free: nothing else of theirs waits for it.
    """
    parameters = {"kind": kind.value, "subject_id": subject_id, "user_id": user_id}
    await session.execute(_MOVE_UP, parameters)


async def close_job(session: AsyncSession, kind: JobKind, subject_id: UUID) -> UUID | None:
    """Cancel the open job of the subject, if any; return its id so that its holder can be rung."""
    closed = await close_jobs(session, kind, [subject_id])
    return closed[0] if closed else None


async def close_jobs(
    session: AsyncSession, kind: JobKind, subject_ids: Collection[UUID]
) -> Sequence[UUID]:
    """Cancel the open jobs of the subjects; return their ids so that their holders can be rung.

    Locks them in the order of their ids, as a heartbeat does, so that the two wait in no ring.
    """
    if not subject_ids:
        return []
    open_jobs = select(Job.id).where(Job.kind == kind, Job.subject_id.in_(subject_ids), _OPEN)
    ids = (await session.scalars(open_jobs.order_by(Job.id).with_for_update())).all()
    if ids:
        closed = update(Job).where(Job.id.in_(ids))
        values = {"state": JobState.CANCELLED, "lease_token": None, "lease_until": None}
        await session.execute(closed.values(values))
    return ids


_CLAIM = text(CLAIM)


async def claim(
    session: AsyncSession,
    kinds: Sequence[JobKind],
    limit: int,
    lease_seconds: float = LEASE_SECONDS,
    *,
    holder: str | None = None,
    recovery_slots: int = 0,
    most_per_user: int | None = None,
) -> list[Lease]:
    """Claim up to ``limit`` due jobs: queued ones, and ones that an ended holder has left behind.

    The latter may exceed the limit by ``recovery_slots``.  ``most_per_user`` is how many of the
    kinds may run for one user at once.  ``holder`` names the claiming process to
    those that may learn of its end before the lease tells.
    """
    parameters = claim_parameters(
        kinds, limit, lease_seconds, holder, recovery_slots, most_per_user
    )
    rows = await session.execute(_CLAIM, parameters)
    return [Lease(row[0], JobKind(row[1]), *row[2:]) for row in rows]


def claim_parameters(
    kinds: Sequence[JobKind],
    limit: int,
    lease_seconds: float = LEASE_SECONDS,
    holder: str | None = None,
    recovery_slots: int = 0,
    most_per_user: int | None = None,
) -> dict[str, object]:
    """Return what the claim's statement is run with."""
    recovery_limit = max(0, limit + recovery_slots)
    return {
        "kinds": [kind.value for kind in kinds],
        "limit": limit,
        "recovery_limit": recovery_limit,
        "lease_seconds": lease_seconds,
        "from_user": uuid4(),
        "users": USERS_LOOKED_AT,
        # More than the limit: another worker may be claiming the first of them right now.
        "jobs": recovery_limit + JOBS_LOOKED_AT,
        "put_off": PUT_OFF_LOOKED_AT,
        "holder": holder,
        "most_per_user": _UNBOUNDED if most_per_user is None else most_per_user,
    }


_HEARTBEAT = text(
    """
    UPDATE jobs SET lease_until = now() + make_interval(secs => :lease_seconds)
    FROM (
        SELECT jobs.id, held.token FROM jobs
        JOIN unnest(CAST(:ids AS uuid[]), CAST(:tokens AS uuid[])) AS held (id, token)
          ON jobs.id = held.id AND jobs.lease_token = held.token
        WHERE jobs.lease_until > to_timestamp(0)
        ORDER BY jobs.id FOR NO KEY UPDATE OF jobs
    ) AS held
    WHERE jobs.id = held.id
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


@dataclass(frozen=True, slots=True)
class Held:
    """A lease as everyone sees it: whose it is, as far as that is known, and whether it ran out."""

    job_id: UUID
    token: UUID
    holder: str | None
    has_run_out: bool


_LOOK = text(
    """
    SELECT now(), id, lease_token, holder, lease_until > to_timestamp(0) AND lease_until < now()
    FROM (SELECT) AS always LEFT JOIN jobs ON state = 'running'
    """
)


async def look(session: AsyncSession) -> tuple[datetime, list[Held]]:
    """Return the database's time and all leases, run out or not."""
    rows = (await session.execute(_LOOK)).all()
    return rows[0][0], [Held(*row[1:]) for row in rows if row[1] is not None]


_GIVE_BACK = text(
    """
    WITH given AS (
        SELECT jobs.id FROM jobs
        JOIN unnest(CAST(:ids AS uuid[]), CAST(:tokens AS uuid[])) AS held (id, token)
          ON jobs.id = held.id AND jobs.lease_token = held.token
        ORDER BY jobs.id FOR NO KEY UPDATE OF jobs
    )
    UPDATE jobs SET state = 'queued', lease_token = NULL, lease_until = NULL
    FROM given WHERE jobs.id = given.id
    RETURNING jobs.id
    """
)


async def give_back(session: AsyncSession, leases: Iterable[Held | Lease]) -> int:
    """Put claims back as if they had not been made; return how many those were."""
    given = list(leases)
    parameters = {"ids": [each.job_id for each in given], "tokens": [each.token for each in given]}
    return len((await session.execute(_GIVE_BACK, parameters)).all())


_END_LEASES = text(
    """
    WITH dead AS (
        SELECT id FROM jobs
        WHERE state = 'running' AND lease_until > to_timestamp(0)
          AND (holder = ANY(:gone)
               OR (lease_until < now() AND now() < CAST(:trusted_until AS timestamptz)))
        ORDER BY id FOR NO KEY UPDATE SKIP LOCKED
    )
    UPDATE jobs
    SET lease_until = to_timestamp(0), updated_at = now(), crashes = crashes + 1,
        run_at = CASE WHEN crashes < :patient THEN run_at ELSE
            now() + (0.5 + random() / 2)
                    * make_interval(secs => least(2.0 ^ (crashes + 1 - :patient), :longest)) END
    FROM dead WHERE jobs.id = dead.id
    RETURNING jobs.id
    """
)


async def end_leases(
    session: AsyncSession, gone: Iterable[str] = (), trusted_until: datetime | None = None
) -> int:
    """End the leases of workers that are gone, so that their jobs are claimed at once.

    ``gone`` names holders that are known to be.  That of others a lease has run out tells of their
    end only until ``trusted_until`` (`Contact.trusted_until`); with None it tells nothing.  The
    jobs have lost one more worker: from the third on, a job waits before it is claimed (2, 4, then
    8 s at most, at random from the half of it on), so that one which kills its workers leaves them
    time for the others, and does not come back with the same ones.  Returns how many jobs those
    were; one that is locked is left to the next look.
    """
    parameters = {
        "gone": list(gone),
        "trusted_until": trusted_until,
        "patient": _PATIENT_CRASHES,
        "longest": _LONGEST_WAIT_SECONDS,
    }
    return len((await session.execute(_END_LEASES, parameters)).all())


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
    forgive_crashes: bool = False,
    error: str | None = None,
) -> None:
    """Put the job back for a later (or another) worker, or raise `LeaseLost`."""
    await _release(
        session,
        lease,
        state=JobState.QUEUED,
        run_at=func.now() + delay,
        attempt=attempt,
        crashes=0 if forgive_crashes else lease.crashes,
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
