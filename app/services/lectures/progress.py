"""Progress on its way to the row: at most one write a second, and only under the lease."""

import asyncio
from types import TracebackType
from typing import Self

import structlog
from sqlalchemy import text

from app.cancellation import ended
from app.db.ledger import Lease
from app.db.outages import is_outage
from app.errors import LeaseLost
from app.ingest.model import Progress
from app.services.kernel.unit_of_work import Work

log = structlog.get_logger()

INTERVAL_SECONDS = 1.0

_WRITE = text(
    """
    UPDATE lectures
    SET stage = CAST(:stage AS download_stage), downloaded_bytes = :downloaded_bytes,
        total_bytes = :total_bytes
    WHERE id = :lecture_id AND status = 'downloading'
      AND EXISTS (SELECT FROM jobs WHERE jobs.id = :job_id AND jobs.lease_token = :token)
    RETURNING ARRAY(SELECT user_id FROM user_lectures WHERE lecture_id = lectures.id)
    """
)


class ProgressWriter:
    """Takes reports as they come and writes the newest of them once a second, while it changes."""

    def __init__(self, work: Work, lease: Lease) -> None:
        self._work = work
        self._lease = lease
        self._newest: Progress | None = None
        self._reported = asyncio.Event()
        self._task: asyncio.Task[None] | None = None

    async def __aenter__(self) -> Self:
        self._task = asyncio.create_task(self._write_forever())
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        await self.stop()

    async def report(self, progress: Progress) -> None:
        """Note the progress; raises what the writing ran into, `LeaseLost` above all."""
        if self._task is not None and self._task.done() and not self._task.cancelled():
            self._task.result()
        self._newest = progress
        self._reported.set()

    async def stop(self) -> None:
        """Write no more."""
        task, self._task = self._task, None
        if task is not None:
            task.cancel()
            await ended(task)

    async def _write_forever(self) -> None:
        while True:
            await asyncio.sleep(INTERVAL_SECONDS)
            await self._reported.wait()
            self._reported.clear()
            if self._newest is not None:
                await self._write_if_possible(self._newest)

    async def _write_if_possible(self, progress: Progress) -> None:
        """Write; a database that is away for a while misses this one and no more."""
        try:
            await self._write(progress)
        except Exception as error:
            if not is_outage(error):
                raise
            log.warning("progress_unwritten", reason=type(error).__name__)

    async def _write(self, progress: Progress) -> None:
        parameters = {
            "stage": progress.stage.value,
            "downloaded_bytes": progress.downloaded_bytes,
            "total_bytes": progress.total_bytes,
            "lecture_id": self._lease.subject_id,
            "job_id": self._lease.job_id,
            "token": self._lease.token,
        }
        async with self._work.begin() as unit:
            # One statement that holds no lock longer than it takes.
            await unit.session.connection(execution_options={"isolation_level": "AUTOCOMMIT"})
            users = (await unit.session.execute(_WRITE, parameters)).scalar_one_or_none()
            if users is None:
                raise LeaseLost
            unit.wake("lecture", self._lease.subject_id, *users)
