"""Runs claimed jobs: lanes of limited width, one heartbeat for all, and a clean way out.

The runner is rung by the doorbell and looks for itself every `SWEEP_SECONDS`, so that work whose
ring was lost, whose time has come, or whose worker died is found without anyone telling.
"""

import asyncio
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Protocol
from uuid import UUID

import structlog
from sqlalchemy.exc import SQLAlchemyError
from sqlalchemy.ext.asyncio import AsyncSession, async_sessionmaker

from app.db import ledger
from app.db.ledger import MAX_CRASHES, Lease
from app.db.outages import is_outage
from app.domain import JobKind, JobState
from app.errors import LeaseLost
from app.events.wakeups import Wakeups
from app.jobs.processes import ProcessName
from app.observability import JOB_SECONDS, JOBS_CLAIMED, JOBS_FINISHED

log = structlog.get_logger()

SWEEP_SECONDS = 1.0
HEARTBEAT_SECONDS = 2.0
RECOVERY_SECONDS = 1.0
DATABASE_TROUBLE = (SQLAlchemyError, OSError)


class JobHandler(Protocol):
    """What is done with one kind of job.  Every method may raise `LeaseLost`."""

    @property
    def kind(self) -> JobKind:
        """The kind it handles."""
        ...

    async def run(self, lease: Lease) -> str:
        """Do the work, close or requeue the job, and return which: done, failed or retried.

        Cancelled, it leaves nothing behind.
        """
        ...

    async def abandon(self, lease: Lease) -> None:
        """Close a job that cannot be worked on: it killed its workers, or hit a fault of ours."""
        ...

    async def hand_back(self, lease: Lease) -> None:
        """Put the job back, as if it had not been taken up."""
        ...


@dataclass(frozen=True, slots=True)
class Lane:
    """Kinds that share a number of slots; lanes do not wait for each other."""

    handlers: Sequence[JobHandler]
    slots: int


@dataclass(slots=True, eq=False)
class _Running:
    lease: Lease
    handler: JobHandler
    outcome: str = "lost"
    lost: bool = False
    leaving: bool = False
    task: "asyncio.Task[None] | None" = None

    def lose(self) -> None:
        """Stop the work, once: a second cancellation would cut the cleaning-up short."""
        if not self.lost and self.task is not None:
            self.lost = True
            self._interrupt()

    def give_up(self) -> None:
        """Stop the work so that it is handed back."""
        self._interrupt()

    def _interrupt(self) -> None:
        if self.task is not None and not self.leaving:
            self.leaving = True
            self.task.cancel()


@dataclass(slots=True)
class JobRunner:
    """Claims jobs for its lanes and runs each in a task of its own, until `stop`.

    ``sessions`` are best not shared with the jobs: a heartbeat that waits for a connection is a
    lease that runs out.  ``name`` is this process's, for others of its machine to look for.
    """

    sessions: async_sessionmaker[AsyncSession]
    wakeups: Wakeups
    lanes: Sequence[Lane]
    name: ProcessName | None = field(default_factory=ProcessName.of_this_process)
    _wanted: asyncio.Event = field(default_factory=asyncio.Event)
    _running: dict[UUID, _Running] = field(default_factory=dict)
    """By lease token: a job can be taken over by this very worker, before its old task noticed."""
    _stopping: bool = False

    def ring(self) -> None:
        """Look for work now."""
        self._wanted.set()

    async def run(self) -> None:
        """Work until `stop`; outlives any trouble with the database."""
        heartbeat = asyncio.create_task(self._heartbeat_forever())
        watch = asyncio.create_task(self._watch_forever())
        try:
            while not self._stopping:
                await self._claim_for_all_lanes()
                await self._wait_for_ring()
        finally:
            watch.cancel()
            await self._hand_everything_back()
            heartbeat.cancel()
            await asyncio.wait([heartbeat, watch])

    def stop(self) -> None:
        """Claim no more; `run` hands back what it holds and returns."""
        self._stopping = True
        self._wanted.set()

    async def _wait_for_ring(self) -> None:
        try:
            async with asyncio.timeout(SWEEP_SECONDS):
                await self._wanted.wait()
        except TimeoutError:
            return
        self._wanted.clear()

    async def _claim_for_all_lanes(self) -> None:
        try:
            for lane in self.lanes:
                await self._claim_for(lane)
        except DATABASE_TROUBLE as error:
            log.warning("claim_failed", reason=type(error).__name__)
            await asyncio.sleep(RECOVERY_SECONDS)
            # What is held comes first: its leases may have run out while the database was away.
            await self._renew(self._held())

    async def _claim_for(self, lane: Lane) -> None:
        handlers: Mapping[JobKind, JobHandler] = {h.kind: h for h in lane.handlers}
        held = self._held()
        free = lane.slots - sum(lease.kind in handlers for lease in held)
        if free <= 0 or self._stopping:
            return
        has_suspect = any(lease.is_suspect for lease in held)
        async with self.sessions.begin() as session:
            leases = await ledger.claim(
                session,
                list(handlers),
                free,
                has_suspect=has_suspect,
                holder=str(self.name) if self.name else None,
            )
        for lease in leases:
            self._start(lease, handlers[lease.kind])

    def _held(self) -> list[Lease]:
        return [running.lease for running in self._running.values()]

    def _start(self, lease: Lease, handler: JobHandler) -> None:
        JOBS_CLAIMED.labels(lease.kind.value).inc()
        running = self._running[lease.token] = _Running(lease, handler)
        running.task = asyncio.create_task(self._work_on(running))

    async def _work_on(self, running: _Running) -> None:
        lease, kind = running.lease, running.lease.kind.value
        structlog.contextvars.bind_contextvars(job_id=str(lease.job_id), kind=kind)
        log.info("job_claimed", subject_id=str(lease.subject_id), attempt=lease.attempt)
        try:
            with JOB_SECONDS.labels(kind).time():
                running.outcome = await self._outcome_of(running)
        except Exception:
            # Not even its end could be written down: the lease runs out, and another takes over.
            log.exception("job_left")
            running.outcome = "lost"
        finally:
            del self._running[lease.token]
            JOBS_FINISHED.labels(kind, running.outcome).inc()
            log.info("job_ended", outcome=running.outcome)
            self.ring()

    async def _outcome_of(self, running: _Running) -> str:
        """Work, and say how it ended; what was interrupted is handed back."""
        try:
            return await self._run_until_called_off(running.lease, running.handler)
        except LeaseLost:
            return "lost"
        except asyncio.CancelledError:
            if running.lost:
                return "lost"
        except Exception as error:
            if not is_outage(error):
                raise
            log.warning("job_interrupted", exc_info=True)
            running.leaving = True
            await asyncio.sleep(RECOVERY_SECONDS)
        return await self._hand_back(running)

    async def _run_until_called_off(self, lease: Lease, handler: JobHandler) -> str:
        """Run the job, with an ear for whoever cancels it."""
        ear = asyncio.create_task(self._listen_for_cancel(lease))
        try:
            if lease.crashes >= MAX_CRASHES:
                log.error("job_kills_its_workers", crashes=lease.crashes)
                await handler.abandon(lease)
                return JobState.FAILED
            return await handler.run(lease)
        except LeaseLost:
            raise
        except Exception as error:
            if is_outage(error):
                raise
            log.exception("job_broke")
            await handler.abandon(lease)
            return JobState.FAILED
        finally:
            ear.cancel()
            await asyncio.wait([ear])

    async def _listen_for_cancel(self, lease: Lease) -> None:
        """Lose the job as soon as its subject's owner closes it; the heartbeat is the net."""
        with self.wakeups.listen(f"job:{lease.job_id}") as bell:
            while True:
                await bell.wait(None)
                await self._renew([lease])

    async def _heartbeat_forever(self) -> None:
        while True:
            await asyncio.sleep(HEARTBEAT_SECONDS)
            await self._renew(self._held())

    async def _watch_forever(self) -> None:
        """Look whether the other holders of this machine are there; do not wait for the lease."""
        while self.name is not None:
            try:
                await self._end_leases_of_the_gone(self.name)
            except DATABASE_TROUBLE as error:
                log.warning("watch_failed", reason=type(error).__name__)
            await asyncio.sleep(SWEEP_SECONDS)

    async def _end_leases_of_the_gone(self, me: ProcessName) -> None:
        async with self.sessions.begin() as session:
            gone = [name for name in await ledger.holders(session) if _is_gone(me, name)]
            if gone and await ledger.end_leases_of(session, gone):
                log.warning("holders_gone", processes=len(gone))
                self.ring()

    async def _renew(self, leases: Sequence[Lease]) -> None:
        if not leases:
            return
        try:
            async with self.sessions.begin() as session:
                held = await ledger.heartbeat(session, leases)
        except DATABASE_TROUBLE as error:
            log.warning("heartbeat_failed", reason=type(error).__name__)
            return
        for lease in leases:
            running = self._running.get(lease.token)
            if lease.token not in held and running is not None:
                running.lose()

    async def _hand_everything_back(self) -> None:
        running = list(self._running.values())
        for each in running:
            each.give_up()
        tasks = [each.task for each in running if each.task is not None]
        if tasks:
            await asyncio.wait(tasks)

    async def _hand_back(self, running: _Running) -> str:
        """Put the job back, however long the database is away; a lost lease ends the trying."""
        while True:
            try:
                await running.handler.hand_back(running.lease)
            except LeaseLost:
                return "lost"
            except Exception as error:
                if not is_outage(error) or self._stopping:
                    raise
                await asyncio.sleep(RECOVERY_SECONDS)
            else:
                return "handed_back"


def _is_gone(me: ProcessName, name: str) -> bool:
    other = ProcessName.parse(name)
    return other is not None and me.knows_gone(other)
