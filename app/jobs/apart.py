"""Work on a job in a process of its own, for a worker that may die of it.

Of a worker that died with several jobs in hand nobody can tell which of them it died of.  Here it
can be told: the process has one job, and its worker looks on.  `app.job_process` is the other side.

The worker writes lines: settings and lease first, then the name of a `JobHandler`'s method for each
call, or ``cancel`` to cut it short.  Each call is answered by a line: ``returned`` with the value,
or what was raised.  Lines that say ``alive`` come every second, unless the process is stuck.
"""

import asyncio
import contextlib
import json
import os
import signal
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
        self, settings: Settings, sessions: async_sessionmaker[AsyncSession], handler: JobHandler
    ) -> None:
        self._settings = settings
        self._sessions = sessions
        self._handler = handler
        self._process: _JobProcess | None = None

    @property
    def kind(self) -> JobKind:
        """The kind it handles."""
        return self._handler.kind

    async def run(self, lease: Lease) -> str:
        """Do what the handler does, over there."""
        self._process = await _started(self._settings, lease)
        log.info("job_apart", process=self._process.pid, crashes=lease.crashes)
        try:
            outcome = await self._process.call("run")
        except asyncio.CancelledError:
            with contextlib.suppress(_Died):
                await self._process.cancel()
            raise
        except _Died as end:
            log.error("job_killed_its_process", code=end.return_code)
            async with self._sessions.begin() as session:
                await ledger.convict(session, lease)
            raise LeaseLost from None
        await self._process.end()
        return outcome

    async def abandon(self, lease: Lease) -> None:
        """Close the job, over here."""
        if self._process is not None:
            await self._process.end()
        await self._handler.abandon(lease)

    async def hand_back(self, lease: Lease) -> None:
        """Put the job back; what was fetched is known to the process alone."""
        if not await self._called("hand_back"):
            await self._handler.hand_back(lease)

    async def forget(self, lease: Lease) -> None:
        """Delete what the process has left of work on a job that was taken away."""
        if not await self._called("forget"):
            await self._handler.forget(lease)

    async def _called(self, method: str) -> bool:
        """Make the last call to the process; return whether it was there to answer."""
        process, self._process = self._process, None
        if process is None:
            return False
        try:
            await process.call(method)
        except _Died:
            return False
        finally:
            await process.end()
        return True


class _Died(Exception):
    """The process has ended, or was stuck and is ended now."""

    def __init__(self, return_code: int | None) -> None:
        super().__init__(f"the process ended with code {return_code}")
        self.return_code = return_code


async def _started(settings: Settings, lease: Lease) -> "_JobProcess":
    """Start the process; if this is cancelled, none is left."""
    starting = asyncio.ensure_future(
        asyncio.create_subprocess_exec(
            *(sys.executable, "-I", "-c", _PROGRAM, str(os.getpid())),
            stdin=asyncio.subprocess.PIPE,
            stdout=asyncio.subprocess.PIPE,
            start_new_session=True,
        )
    )
    try:
        process = _JobProcess(await asyncio.shield(starting))
    except asyncio.CancelledError:
        await ended(starting)
        if not starting.exception():
            await _JobProcess(starting.result()).kill()
        raise
    values = settings.model_dump(mode="json", exclude_unset=True)
    process.say(json.dumps({"settings": values, "lease": asdict(lease)}, default=str))
    return process


class _JobProcess:
    """The process, as its worker sees it."""

    def __init__(self, process: asyncio.subprocess.Process) -> None:
        if process.stdin is None or process.stdout is None:
            raise ValueError("The process must be spoken to and listened to.")
        self.pid = process.pid
        self._process = process
        self._stdin, self._stdout = process.stdin, process.stdout
        self._patience_seconds = _START_SECONDS

    def say(self, line: str) -> None:
        """Write a line; one that nobody reads shows when the answer does not come."""
        with contextlib.suppress(OSError):
            self._stdin.write(line.encode() + b"\n")

    async def call(self, method: str) -> str:
        """Call a method and return what it returned, or raise what it raised, or `_Died`."""
        self.say(method)
        match (await self._answer()).split():
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
        self._stdin.close()
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(_END_SECONDS):
                await self._process.wait()
        await self.kill()

    async def kill(self) -> None:
        """End the process and whatever it has started."""
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self.pid, signal.SIGKILL)
        await self._process.wait()

    async def _answer(self) -> str:
        while (line := await self._line()) == "alive":
            pass
        return line

    async def _line(self) -> str:
        """Return the next line.  It is waited for by steps: a freeze of the machine is but one."""
        for _ in range(round(self._patience_seconds / _WAIT_SECONDS)):
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(_WAIT_SECONDS):
                    line = await self._stdout.readline()
                self._patience_seconds = _SILENT_SECONDS
                if line.endswith(b"\n"):
                    return line.decode().strip()
                break
        await self.kill()
        raise _Died(self._process.returncode)
