"""Runs claimed jobs: lanes of limited width, one heartbeat for all, and a clean way out.

The runner is rung by the doorbell and looks for itself every `SWEEP_SECONDS`, so that work whose
ring was lost, whose time has come, or whose worker died is found without anyone telling.
"""

import asyncio
import contextlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import timedelta
from uuid import UUID, uuid4

import structlog
from sqlalchemy.exc import SQLAlchemyError
from sqlalchemy.ext.asyncio import AsyncSession, async_sessionmaker

from app.db import ledger
from app.db.contact import Contact, prolonged
from app.db.ledger import LEASE_SECONDS, Held, Lease
from app.db.outages import is_outage
from app.db.silence import end_silent_clients
from app.domain import JobKind, JobState
from app.errors import LeaseLost
from app.events.wakeups import Wakeups
from app.jobs.processes import ProcessName
from app.services.kernel.jobs import JobHandler

log = structlog.get_logger()

SWEEP_SECONDS = 1.0
HEARTBEAT_SECONDS = 2.0
HEARTBEAT_RETRY_SECONDS = 0.5
RECOVERY_SECONDS = 1.0
HAND_BACK_SECONDS = 4.0
_END_SECONDS = 1.0
DATABASE_TROUBLE = (SQLAlchemyError, OSError)


@dataclass(frozen=True, slots=True)
class Slots:
    """How many jobs of the handlers' kinds are worked on at once; others do not wait for them."""

    handlers: Sequence[JobHandler]
    count: int
    most_per_user: int | None = None


@dataclass(slots=True, eq=False)
class _Running:
    lease: Lease
    handler: JobHandler
    outcome: str = "lost"
    lost: bool = False
    begun: bool = False
    leaving: bool = False
    task: "asyncio.Task[None] | None" = None

    def lose(self) -> None:
        """Stop the work, once: a second cancellation would cut the cleaning-up short."""
        if not self.lost and self.task is not None:
            self.lost = True
            self.give_up()

    def give_up(self) -> None:
        """Stop the work so that it is handed back."""
        if self.task is not None and not self.leaving:
            self.leaving = True
            if self.begun:
                self.task.cancel()

    def begin(self) -> None:
        """Take the first step, which a task that is cancelled before it never takes."""
        self.begun = True
        if self.leaving:
            raise asyncio.CancelledError


@dataclass(slots=True)
class JobRunner:
    """Claims jobs for its lanes and runs each in a task of its own, until `stop`.

    ``sessions`` are best not shared with the jobs: a heartbeat that waits for a connection is a
    lease that runs out.  ``name`` is this process's, for others of its machine to look for.
    """

    sessions: async_sessionmaker[AsyncSession]
    wakeups: Wakeups
    lanes: Sequence[Slots]
    name: ProcessName | None = field(default_factory=ProcessName.of_this_process)
    _id: UUID = field(default_factory=uuid4)
    _wanted: asyncio.Event = field(default_factory=asyncio.Event)
    _running: dict[UUID, _Running] = field(default_factory=dict)
    """By lease token: a job can be taken over by this very worker, before its old task noticed."""
    _left: set[UUID] = field(default_factory=set)
    """Tokens of jobs that were let go as they were: their leases, if they still hold, run out."""
    _contact: Contact | None = None
    _seen: list[Held] = field(default_factory=list)
    """What this runner held when it looked last, whether it knows of it or not."""
    _stopped: asyncio.Event = field(default_factory=asyncio.Event)

    @property
    def holder(self) -> str:
        """What this runner's claims are signed with: the process, and which of its runners."""
        return f"{self.name or 'unnamed'} {self._id}"

    def ring(self) -> None:
        """Look for work now."""
        self._wanted.set()

    async def run(self) -> None:
        """Work until `stop`; outlives any trouble with the database, but no fault of ours.

        Whatever ends it, what is held is handed back, or left for its leases to run out where that
        takes more than `HAND_BACK_SECONDS`.
        """
        claims = asyncio.create_task(self._claim_forever())
        heartbeat = asyncio.create_task(self._heartbeat_forever())
        watch = asyncio.create_task(self._watch_forever())
        parts = [claims, heartbeat, watch]
        for part in parts:
            part.add_done_callback(lambda _: self.stop())
        try:
            await self._stopped.wait()
        finally:
            self.stop()
            watch.cancel()
            await self._hand_everything_back(claims)
            # Where the database hangs, some of it may go on.
            left = [*parts, *self._tasks()]
            last_word = asyncio.create_task(self._give_rest_back())
            for task in left:
                task.cancel()
            await asyncio.wait([*left, last_word], timeout=_END_SECONDS)
            last_word.cancel()
        for part in parts:
            if part.done() and not part.cancelled():
                part.result()

    def stop(self) -> None:
        """Claim no more; `run` hands back what it holds and returns."""
        self._stopped.set()
        self._wanted.set()

    async def _claim_forever(self) -> None:
        while not self._stopped.is_set():
            try:
                if self._contact is None:  # What was left behind goes first: look for it before.
                    await self._look_around()
                await self._give_unanswered_claims_back()
                for lane in self.lanes:
                    await self._claim_for(lane)
            except DATABASE_TROUBLE as error:
                log.warning("claim_failed", reason=type(error).__name__)
                await asyncio.sleep(RECOVERY_SECONDS)
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(SWEEP_SECONDS):
                    await self._wanted.wait()
            self._wanted.clear()

    async def _give_unanswered_claims_back(self) -> None:
        """Give back what was claimed by a statement whose answer was lost.

        No claim is under way now, so what is held by this runner's name and not known is that.
        """
        known = self._running.keys() | self._left
        unanswered = [each for each in self._seen if each.token not in known]
        if unanswered:
            async with self.sessions.begin() as session:
                if given := await ledger.give_back(session, unanswered):
                    log.warning("claims_given_back", jobs=given)
        self._seen = []

    async def _claim_for(self, lane: Slots) -> None:
        handlers: Mapping[JobKind, JobHandler] = {h.kind: h for h in lane.handlers}
        free = lane.count - sum(lease.kind in handlers for lease in self._held())
        # What an ended worker left need not wait for what has taken its place: for it the lane may
        # be twice as wide.
        if free + lane.count <= 0 or self._stopped.is_set():
            return
        async with self.sessions.begin() as session:
            leases = await ledger.claim(
                session,
                list(handlers),
                free,
                holder=self.holder,
                recovery_slots=lane.count,
                most_per_user=lane.most_per_user,
            )
        for lease in leases:
            self._start(lease, handlers[lease.kind])

    def _held(self) -> list[Lease]:
        return [running.lease for running in self._running.values()]

    def _start(self, lease: Lease, handler: JobHandler) -> None:
        running = self._running[lease.token] = _Running(lease, handler)
        running.task = asyncio.create_task(self._work_on(running))

    async def _work_on(self, running: _Running) -> None:
        lease = running.lease
        structlog.contextvars.bind_contextvars(job_id=str(lease.job_id), kind=lease.kind.value)
        log.info("job_claimed", subject_id=str(lease.subject_id), attempt=lease.attempt)
        try:
            running.outcome = await self._outcome_of(running)
            if running.outcome == "lost":
                await running.handler.forget(lease)
        except Exception:
            # Not even its end could be written down: the lease runs out, and another takes over.
            log.exception("job_left")
            running.outcome = "lost"
        finally:
            del self._running[lease.token]
            if running.outcome == "lost":
                self._left.add(lease.token)
            log.info("job_ended", outcome=running.outcome)
            self.ring()

    async def _outcome_of(self, running: _Running) -> str:
        """Work, and say how it ended; what was interrupted is handed back."""
        try:
            running.begin()
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
            if lease.is_hopeless:
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
        pause = HEARTBEAT_SECONDS
        while True:
            await asyncio.sleep(pause)
            renewed = await self._renew(self._held())
            pause = HEARTBEAT_SECONDS if renewed else HEARTBEAT_RETRY_SECONDS

    async def _watch_forever(self) -> None:
        """Look who holds what, whether those of this machine are there, and who says nothing."""
        while True:
            try:
                await self._look_around()
            except DATABASE_TROUBLE as error:
                log.warning("watch_failed", reason=type(error).__name__)
            await asyncio.sleep(SWEEP_SECONDS)

    async def _look_around(self) -> None:
        async with self.sessions.begin() as session:
            now, held = await ledger.look(session)
            self._contact = prolonged(self._contact, now)
            self._seen = [each for each in held if each.holder == self.holder]
            self._left &= {each.token for each in self._seen}
            holders = {each.holder for each in held if each.holder is not None}
            gone = [
                holder
                for holder in holders
                if (other := ProcessName.parse(holder))
                and self.name is not None
                and self.name.knows_gone(other)
            ]
            # Until when what has not been heard of is known to be gone; None if not yet.
            trusted_until = self._contact.trusted_until(timedelta(seconds=LEASE_SECONDS))
            if (gone or any(each.has_run_out for each in held)) and (
                left := await ledger.end_leases(session, gone, trusted_until)
            ):
                log.warning("holders_gone", jobs=left)
                self.ring()
            if trusted_until and (ended := await end_silent_clients(session, trusted_until)):
                log.warning("silent_clients_ended", transactions=ended)

    async def _renew(self, leases: Sequence[Lease]) -> bool:
        """Renew them and stop what was taken away; return whether the database has answered."""
        if not leases:
            return True
        try:
            async with self.sessions.begin() as session:
                held = await ledger.heartbeat(session, leases)
        except DATABASE_TROUBLE as error:
            log.warning("heartbeat_failed", reason=type(error).__name__)
            return False
        for lease in leases:
            running = self._running.get(lease.token)
            if lease.token not in held and running is not None:
                running.lose()
        return True

    async def _hand_everything_back(self, claims: "asyncio.Task[None]") -> None:
        """Hand back what is held, and what the last claim brings; leave it where time is up."""
        try:
            async with asyncio.timeout(HAND_BACK_SECONDS):
                self._give_up()
                await asyncio.wait([claims])
                self._give_up()
                if tasks := self._tasks():
                    await asyncio.wait(tasks)
        except TimeoutError:
            log.warning("not_handed_back", jobs=len(self._running))

    async def _give_rest_back(self) -> None:
        """Give back what could not be handed back in time: an end that we were told is no crash."""
        with contextlib.suppress(*DATABASE_TROUBLE):
            if rest := self._held():
                async with self.sessions.begin() as session:
                    await ledger.give_back(session, rest)

    def _give_up(self) -> None:
        for each in self._running.values():
            each.give_up()

    def _tasks(self) -> "list[asyncio.Task[None]]":
        return [each.task for each in self._running.values() if each.task is not None]

    async def _hand_back(self, running: _Running) -> str:
        """Put the job back, however long the database is away; a lost lease ends the trying."""
        while True:
            try:
                await running.handler.hand_back(running.lease)
            except LeaseLost:
                return "lost"
            except Exception as error:
                if not is_outage(error) or self._stopped.is_set():
                    raise
                await asyncio.sleep(RECOVERY_SECONDS)
            else:
                return "handed_back"
