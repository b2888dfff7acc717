"""Servers that neither answer nor go away: a process that is asked to end does so all the same."""

import asyncio
import contextlib
import os
import signal
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import httpx
import pytest

from app.db.ledger import LEASE_SECONDS
from app.embedded.panopto import Recording
from app.embedded.postgres import EmbeddedPostgres
from app.embedded.process import ServerProcess
from app.embedded.redis import EmbeddedRedis
from tests.fault.ledger_state import Database, all_ended
from tests.fault.processes import Deployment
from tests.support.service import Service
from tests.support.wait import wait_until

ENDS_WITHIN_SECONDS = 12.0
AN_IDLE_ONE_WITHIN_SECONDS = 4.0
ANY = "{ lectures(first: 1) { totalCount } }"


async def test_a_hung_postgres_does_not_keep_an_idle_api(
    service: Service, deployment: Deployment, postgres_server: EmbeddedPostgres
) -> None:
    ada = service.user("ada")
    await asyncio.gather(*(ada.post(ANY) for _ in range(10)))  # as many connections as it may have
    with hung(postgres_server):
        assert await deployment.terminate("api", AN_IDLE_ONE_WITHIN_SECONDS) == 0


@pytest.mark.fault_long
async def test_a_hung_postgres_does_not_keep_a_busy_api(
    service: Service, deployment: Deployment, postgres_server: EmbeddedPostgres
) -> None:
    ada = service.user("ada")
    await asyncio.gather(*(ada.post(ANY) for _ in range(10)))
    with hung(postgres_server):
        asking = [asyncio.create_task(ada.post(ANY)) for _ in range(20)]
        done, _ = await asyncio.wait(asking, timeout=1)
        assert done == set()
        assert await deployment.terminate("api", ENDS_WITHIN_SECONDS) == 0
        answers = await asyncio.gather(*asking)
    assert {_code(each) for each in answers} == {"INTERNAL_SERVER_ERROR"}


@pytest.mark.fault_long
async def test_a_postgres_that_hangs_again_and_again_costs_no_attempt(
    service: Service, deployment: Deployment, media: Path, postgres_server: EmbeddedPostgres
) -> None:
    """Every lease runs out in each hang, and no worker is the less alive for it."""
    database, ada = Database(service.settings.database_url or ""), service.user("ada")
    deployment.start("worker-2")
    await deployment.ready("worker-2")
    for _ in range(6):
        recording = service.simulator.add(Recording(media, offers=("mp4",)))
        recording.faults.bytes_per_second = 12_000
        await ada.request(service.course, service.simulator.viewer_url(recording))

    async def all_run() -> bool:
        return {state for state, _ in (await database.attempts()).values()} == {"downloading"}

    await wait_until(all_run, "all are being downloaded")
    for _ in range(3):
        with hung(postgres_server):
            await asyncio.sleep(LEASE_SECONDS + 3)  # the fault itself
        await asyncio.sleep(2)  # in which whoever is wrong would take over
    await all_ended(database, 6)
    assert set((await database.attempts()).values()) == {("completed", 1)}
    crashed = "SELECT 1 FROM jobs WHERE crashes > 0"
    assert await database.rows(crashed) == []


async def test_a_hung_redis_keeps_neither_status_nor_processes(
    service: Service, deployment: Deployment, media: Path, redis_server: EmbeddedRedis
) -> None:
    ada = service.user("ada")
    recording = service.simulator.add(Recording(media, offers=("mp4",)))
    with hung(redis_server):
        url = service.simulator.viewer_url(recording)
        lecture_id = (await ada.request(service.course, url))["lecture"]["id"]
        await ada.until(lecture_id, "COMPLETED")
        for name in ("api", "worker"):
            assert await deployment.terminate(name, AN_IDLE_ONE_WITHIN_SECONDS) == 0


def _code(answer: httpx.Response) -> str:
    (error,) = answer.json()["errors"]
    return str(error["extensions"]["code"])


@contextmanager
def hung(server: ServerProcess) -> Iterator[None]:
    """Stop all processes of the server while the block runs."""
    pids = list(_family(server.pid))
    _signal(pids, signal.SIGSTOP)
    try:
        yield
    finally:
        _signal(pids, signal.SIGCONT)


def _signal(pids: list[int], number: signal.Signals) -> None:
    for pid in pids:
        with contextlib.suppress(ProcessLookupError):  # one of the server's own may have ended
            os.kill(pid, number)


def _family(pid: int | None) -> Iterator[int]:
    assert pid is not None
    yield pid
    for folder in Path("/proc").iterdir():
        if folder.name.isdigit():
            with contextlib.suppress(FileNotFoundError, ProcessLookupError):
                after_name = (folder / "stat").read_text().rpartition(")")[2].split()
                if int(after_name[1]) == pid:
                    yield int(folder.name)
