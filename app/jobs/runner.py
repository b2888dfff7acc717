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
from app.db.ledger import Lease
from app.domain import JobKind
from app.errors import LeaseLost
from app.events.wakeups import Wakeups
from app.services.retry_policy import MAX_CRASHES

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

    async def run(self, lease: Lease) -> None:
        """Do the work and close or requeue the job; cancelled, leave nothing behind."""
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


@dataclass(slots=True)
class _Running:
    lease: Lease
    handler: JobHandler
    task: "asyncio.Task[None]"
    lost: bool = False


@dataclass(slots=True)
class JobRunner:
    """Claims jobs for its lanes and runs each in a task of its own, until `stop`."""

    sessions: async_sessionmaker[AsyncSession]
    wakeups: Wakeups
    lanes: Sequence[Lane]
    _wanted: asyncio.Event = field(default_factory=asyncio.Event)
    _running: dict[UUID, _Running] = field(default_factory=dict)
    _stopping: bool = False

    def ring(self) -> None:
        """Look for work now."""
        self._wanted.set()

    async def run(self) -> None:
        """Work until `stop`; outlives any trouble with the database."""
        heartbeat = asyncio.create_task(self._heartbeat_forever())
        try:
            while not self._stopping:
                await self._claim_for_all_lanes()
                await self._wait_for_ring()
        finally:
            await self._hand_everything_back()
            heartbeat.cancel()
            await asyncio.wait([heartbeat])

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
        except DATABASE_TROUBLE:
            log.warning("claim_failed", exc_info=True)
            await asyncio.sleep(RECOVERY_SECONDS)

    async def _claim_for(self, lane: Lane) -> None:
        handlers: Mapping[JobKind, JobHandler] = {h.kind: h for h in lane.handlers}
        held = sum(running.lease.kind in handlers for running in self._running.values())
        if held >= lane.slots or self._stopping:
            return
        async with self.sessions.begin() as session:
            leases = await ledger.claim(session, list(handlers), lane.slots - held)
        for lease in leases:
            self._start(lease, handlers[lease.kind])

    def _start(self, lease: Lease, handler: JobHandler) -> None:
        task = asyncio.create_task(self._work_on(lease, handler))
        self._running[lease.job_id] = _Running(lease, handler, task)

    async def _work_on(self, lease: Lease, handler: JobHandler) -> None:
        structlog.contextvars.bind_contextvars(job_id=str(lease.job_id), kind=lease.kind.value)
        log.info("job_claimed", subject_id=str(lease.subject_id), attempt=lease.attempt)
        try:
            await self._run_until_called_off(lease, handler)
            log.info("job_ended")
        except LeaseLost:
            log.info("job_lost")
        except asyncio.CancelledError:
            if not self._running[lease.job_id].lost:
                await self._hand_back(lease, handler)
        except DATABASE_TROUBLE:
            log.warning("job_interrupted", exc_info=True)
            await self._hand_back(lease, handler)
        finally:
            del self._running[lease.job_id]
            self.ring()

    async def _run_until_called_off(self, lease: Lease, handler: JobHandler) -> None:
        """Run the job, with an ear for whoever cancels it."""
        ear = asyncio.create_task(self._listen_for_cancel(lease))
        try:
            if lease.crashes >= MAX_CRASHES:
                log.error("job_kills_its_workers", crashes=lease.crashes)
                await handler.abandon(lease)
                return
            await handler.run(lease)
        except (LeaseLost, *DATABASE_TROUBLE):
            raise
        except Exception:
            log.exception("job_broke")
            await handler.abandon(lease)
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
            leases = [running.lease for running in self._running.values()]
            if leases:
                await self._renew(leases)

    async def _renew(self, leases: Sequence[Lease]) -> None:
        try:
            async with self.sessions.begin() as session:
                held = await ledger.heartbeat(session, leases)
        except DATABASE_TROUBLE:
            log.warning("heartbeat_failed", exc_info=True)
            return
        for lease in leases:
            running = self._running.get(lease.job_id)
            if lease.job_id not in held and running is not None and running.lease is lease:
                running.lost = True
                running.task.cancel()

    async def _hand_everything_back(self) -> None:
        tasks = [running.task for running in self._running.values()]
        for task in tasks:
            task.cancel()
        if tasks:
            await asyncio.wait(tasks)

    async def _hand_back(self, lease: Lease, handler: JobHandler) -> None:
        """Put the job back, however long the database is away; a lost lease ends the trying."""
        while True:
            try:
                await handler.hand_back(lease)
                return
            except LeaseLost:
                return
            except DATABASE_TROUBLE:
                if self._stopping:
                    return
                await asyncio.sleep(RECOVERY_SECONDS)
