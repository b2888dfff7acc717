"""What a test reads from the database itself, and what must hold when all is over."""

from dataclasses import dataclass
from typing import Any

import asyncpg

from tests.fault.processes import Deployment
from tests.support.service import Service
from tests.support.wait import wait_until


@dataclass(frozen=True, slots=True)
class Database:
    """Plain SQL on the test's database; connects anew each time, since the server may restart."""

    url: str

    async def rows(self, query: str, *arguments: Any) -> list[asyncpg.Record]:
        connection = await asyncpg.connect(self.url.replace("+asyncpg", ""))
        try:
            return await connection.fetch(query, *arguments)
        finally:
            await connection.close()

    async def attempts(self) -> dict[str, tuple[str, int]]:
        """Return each lecture's status and attempt, by id."""
        found = await self.rows("SELECT id::text, status::text, attempt FROM lectures")
        return {row[0]: (row[1], row[2]) for row in found}


async def all_ended(database: Database, count: int, timeout_seconds: float = 120) -> None:
    """Wait until there are so many lectures, each COMPLETED or FAILED."""

    async def ended() -> bool:
        states = [status for status, _ in (await database.attempts()).values()]
        return len(states) == count and set(states) <= {"completed", "failed"}

    await wait_until(ended, f"all {count} lectures have ended", timeout_seconds=timeout_seconds)


async def assert_one_effect(service: Service, deployment: Deployment, database: Database) -> None:
    """Every lecture is COMPLETED with one audio object; nothing else is left, nor any process."""
    lectures = await database.rows(
        """
        SELECT l.id::text, l.status::text, l.attempt, l.audio_storage_key,
               (SELECT sum(crashes + attempt + 1) FROM jobs
                WHERE subject_id = l.id AND kind = 'download_lecture') AS claims
        FROM lectures AS l
        """
    )
    failed = await database.rows(
        """
        SELECT l.failure::text, l.error_message, l.attempt, jobs.crashes
        FROM lectures AS l JOIN jobs ON subject_id = l.id WHERE status <> 'completed'
        """
    )
    assert not failed, failed
    for row in lectures:
        assert 1 <= row["attempt"] <= row["claims"], dict(row)
    open_jobs = "SELECT * FROM jobs WHERE state IN ('queued', 'running') AND kind <> 'sweep'"

    async def is_over() -> bool:
        return not await database.rows(open_jobs)

    await wait_until(is_over, "all work is done")
    expected = {row["audio_storage_key"] for row in lectures}
    documents = await database.rows("SELECT storage_key FROM documents")
    expected |= {row["storage_key"] for row in documents}
    description = "the sweep has left one object for each row"
    await wait_until(lambda: service.stored() == expected, description)
    assert deployment.strays() == []
