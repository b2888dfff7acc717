"""Work on a job in a process of its own, for a worker that may die of it.

Of a worker that died with several jobs in hand nobody can tell which of them it died of.  Here it
can be told: the process has one job, and its worker looks on.  `app.job_process` is the other side.

The processes are forked, in some milliseconds each, by one that has imported the program.  To that
one the worker sends a socket for each; over the socket it writes lines: settings and lease first,
then the name of a `JobHandler`'s method for each call, or ``cancel`` to cut it short.  Each call is
answered by a line: ``returned`` with the value, or what was raised.  Lines that say ``alive`` and
the process's id come every second, unless it is stuck.
"""

import asyncio
import contextlib
import json
import os
import signal
import socket
import sys
from dataclasses import asdict

import structlog
from sqlalchemy.ext.asyncio import AsyncSession, async_sessionmaker

from app.cancellation import ended
from app.db import ledger
from app.db.ledger import Lease
from app.domain import JobKind
from app.errors import LeaseLost
from app.jobs.runner import JobHandler
from app.settings import Settings

log = structlog.get_logger()

ALIVE_SECONDS = 1.0
_START_SECONDS = 30.0
_SILENT_SECONDS = 10.0
_WAIT_SECONDS = 2.0
_END_SECONDS = 2.0
_PROGRAM = "from app.job_process import main; main()"


class Apart:
    """`JobHandler`: ``handler`` in a process of its own, for one job.

    An end of that process is blamed on the job, which is left to whoever claims it next.
    """

    def __init__(
        self,
        processes: "JobProcesses",
        sessions: async_sessionmaker[AsyncSession],
        handler: JobHandler,
    ) -> None:
        self._processes = processes
        self._sessions = sessions
        self._handler = handler
        self._process: JobProcess | None = None

    @property
    def kind(self) -> JobKind:
        """The kind it handles."""
        return self._handler.kind

    async def run(self, lease: Lease) -> str:
        """Do what the handler does, over there."""
        log.info("job_apart", crashes=lease.crashes)
        process = self._process = await self._processes.start(lease)
        try:
            outcome = await process.call("run")
        except asyncio.CancelledError:
            with contextlib.suppress(_Died):
                await process.cancel()
            raise
        except _Died:
            if not process.has_begun or process.has_lost_its_forker:
                raise ConnectionError("The process was not let work.") from None
            log.error("job_killed_its_process")
            async with self._sessions.begin() as session:
                await ledger.convict(session, lease)
            raise LeaseLost from None
        # The job is closed, which a heartbeat may take for its loss: too late to be called off.
        self._process = None
        await ended(asyncio.ensure_future(process.end()))
        return outcome

    async def abandon(self, lease: Lease) -> None:
        """Close the job, over here."""
        if self._process is not None:
            await self._process.end()
        await self._handler.abandon(lease)

    async def hand_back(self, lease: Lease) -> None:
        """Put the job back; what was fetched is known to the process alone."""
        # An outage is tried again, and a lost lease forgotten: both by the same process.
        if not await self._called("hand_back", last_unless=(ConnectionError, LeaseLost)):
            await self._handler.hand_back(lease)

    async def forget(self, lease: Lease) -> None:
        """Delete what the process has left of work on a job that was taken away."""
        if not await self._called("forget"):
            await self._handler.forget(lease)

    async def _called(self, method: str, *, last_unless: tuple[type[Exception], ...] = ()) -> bool:
        """Make the last call to the process; return whether it was there to answer."""
        if (process := self._process) is None:
            return False
        try:
            await process.call(method)
        except last_unless:
            raise
        except _Died:
            return False
        except BaseException:
            await process.end()
            raise
        self._process = None
        await process.end()
        return True


class _Died(Exception):
    """The process has ended, or was stuck and is ended now."""


class JobProcesses:
    """Starts a process for each job that is to be apart."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings.model_dump(mode="json", exclude_unset=True)
        self._forker: asyncio.subprocess.Process | None = None
        self._line: socket.socket | None = None
        self._starting = asyncio.Lock()

    async def start(self, lease: Lease) -> "JobProcess":
        """Return the process for the job."""
        async with self._starting:
            if self._forker is None or self._forker.returncode is not None:
                await self._start_forker()
        if self._line is None:
            raise ConnectionError("The forking process could not be started.")
        ours, theirs = socket.socketpair()
        with theirs:
            socket.send_fds(self._line, [b"."], [theirs.fileno()])
        process = JobProcess(*await asyncio.open_connection(sock=ours), self._line)
        first = {"settings": self._settings, "lease": asdict(lease)}
        process.say(json.dumps(first, default=str))
        return process

    async def close(self) -> None:
        """End the forking process, and with it all that are left."""
        if self._line is not None:
            self._line.close()
        if self._forker is not None:
            with contextlib.suppress(ProcessLookupError):
                self._forker.kill()
            await self._forker.wait()

    async def _start_forker(self) -> None:
        """Start it once; where this is cancelled, it is there for the next."""
        ours, theirs = socket.socketpair()
        if self._line is not None:
            self._line.close()
        self._line = ours
        starting = asyncio.ensure_future(self._exec_forker(theirs))
        try:
            await asyncio.shield(starting)
        except asyncio.CancelledError:
            await ended(starting)
            raise

    async def _exec_forker(self, line: socket.socket) -> None:
        with line:
            self._forker = await asyncio.create_subprocess_exec(
                *(sys.executable, "-I", "-c", _PROGRAM, str(line.fileno()), str(os.getpid())),
                stdin=asyncio.subprocess.DEVNULL,
                pass_fds=[line.fileno()],
                start_new_session=True,
            )


class JobProcess:
    """The process, as its worker sees it."""

    def __init__(
        self, answers: asyncio.StreamReader, calls: asyncio.StreamWriter, forker: socket.socket
    ) -> None:
        self._answers, self._calls, self._forker = answers, calls, forker
        self._patience_seconds = _START_SECONDS
        self._pid: int | None = None

    @property
    def has_begun(self) -> bool:
        """Whether it has said that it is alive."""
        return self._pid is not None

    @property
    def has_lost_its_forker(self) -> bool:
        """Whether the one that it was forked from, whose end is its own, is gone."""
        try:
            return self._forker.recv(1, socket.MSG_PEEK | socket.MSG_DONTWAIT) == b""
        except BlockingIOError:
            return False
        except OSError:
            return True

    def say(self, line: str) -> None:
        """Write a line; one that nobody reads shows when the answer does not come."""
        self._calls.write(line.encode() + b"\n")

    async def call(self, method: str) -> str:
        """Call a method and return what it returned, or raise what it raised, or `_Died`."""
        self.say(method)
        match await self._answer():
            case ["returned", value]:
                return value
            case ["lost"]:
                raise LeaseLost
            case ["outage"]:
                raise ConnectionError("The database is away.")
        raise RuntimeError("The job broke in its process.")

    async def cancel(self) -> None:
        """Cut the call short and wait for its end."""
        self.say("cancel")
        await self._answer()

    async def end(self) -> None:
        """Let the process announce what it has done, and end; at the latest in a moment."""
        if self._calls.can_write_eof() and not self._calls.is_closing():
            with contextlib.suppress(OSError):
                self._calls.write_eof()
        with contextlib.suppress(TimeoutError, OSError):
            async with asyncio.timeout(_END_SECONDS):
                await self._answers.read()
        await self.kill()

    async def kill(self) -> None:
        """End the process and whatever it has started."""
        if self._pid is not None and not self._answers.at_eof():
            with contextlib.suppress(ProcessLookupError):
                os.killpg(self._pid, signal.SIGKILL)
            with contextlib.suppress(OSError):
                await self._answers.read()
        self._calls.close()

    async def _answer(self) -> list[str]:
        """Return the words of the next line that answers a call."""
        while True:
            words = (await self._next_line()).split()
            if words[:1] != ["alive"]:
                return words
            self._pid = int(words[1])

    async def _next_line(self) -> str:
        """Return the next line.  It is waited for by steps: a freeze of the machine is but one."""
        for _ in range(round(self._patience_seconds / _WAIT_SECONDS)):
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(_WAIT_SECONDS):
                    line = await self._line()
                self._patience_seconds = _SILENT_SECONDS
                if line:
                    return line
                break
        await self.kill()
        raise _Died

    async def _line(self) -> str:
        """Return a line, or nothing at the end of the process."""
        try:
            return (await self._answers.readuntil()).decode()
        except (asyncio.IncompleteReadError, OSError):
            return ""
