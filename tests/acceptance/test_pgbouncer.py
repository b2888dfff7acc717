"""The whole service behind a PgBouncer in transaction mode; skipped where none is installed."""

import os
import shutil
import signal
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest
from sqlalchemy.engine import make_url

from app.embedded.panopto import PanoptoSimulator, Recording
from app.embedded.postgres import EmbeddedPostgres
from app.embedded.process import Account, spawn, stop
from app.settings import Settings, load_settings
from tests.support.pdfs import make_pdf
from tests.support.service import running_service, running_worker
from tests.support.wait import wait_until

PROGRAM = shutil.which("pgbouncer", path=f"{os.environ.get('PATH', '')}:/usr/sbin")
SERVER_CONNECTIONS = 3
"""Fewer than the clients' by far: every transaction gets another's connection."""


@pytest.fixture
def pooled_url(
    postgres_server: EmbeddedPostgres, database_url: str, server_directory: Path
) -> Iterator[str]:
    """The test's database, by way of PgBouncer."""
    if PROGRAM is None:
        pytest.skip("there is no pgbouncer on this machine")
    owner = postgres_server.directory.stat()
    directory = Path(tempfile.mkdtemp(prefix="sb-pool-"))
    os.chown(directory, owner.st_uid, owner.st_gid)
    server_directory.chmod(0o711)  # PgBouncer refuses to run as root, and must reach the server
    settings = directory / "pgbouncer.ini"
    settings.write_text(
        f"""
        [databases]
        * = host={postgres_server.socket_directory} user=studybuddy
        [pgbouncer]
        unix_socket_dir = {directory}
        listen_port = 6432
        auth_type = any
        pool_mode = transaction
        default_pool_size = {SERVER_CONNECTIONS}
        max_client_conn = 200
        logfile = {directory}/log
        """.replace("\n        ", "\n")
    )
    account = Account(owner.st_uid, owner.st_gid) if os.getuid() == 0 else None
    with (directory / "output").open("wb") as output:
        process = spawn(
            [PROGRAM, settings], death_signal=signal.SIGKILL, account=account, output=output
        )
    name = make_url(database_url).database
    yield f"postgresql+asyncpg://studybuddy@/{name}?host={directory}&port=6432"
    stop(process, signal.SIGINT, 10)
    server_directory.chmod(0o700)
    shutil.rmtree(directory)


async def test_lectures_documents_and_live_status(
    service_settings: Settings, pooled_url: str, simulator: PanoptoSimulator, lecture_mp4: Path
) -> None:
    values = service_settings.model_dump(exclude_unset=True)
    settings = load_settings(**values | {"database_url": pooled_url})
    socket = Path(make_url(pooled_url).query["host"]) / ".s.PGSQL.6432"
    await wait_until(socket.exists, "PgBouncer listens")
    async with running_service(settings, simulator) as service, running_worker(settings):
        users = [service.user(f"user-{number}") for number in range(6)]
        asked = []
        for user in users:
            recording = simulator.add(Recording(lecture_mp4, offers=("mp4",)))
            answer = await user.request(service.course, simulator.viewer_url(recording))
            asked.append((user, answer["lecture"]["id"]))
        for user, lecture_id in asked:
            lecture = await user.until(lecture_id, "COMPLETED", "FAILED")
            assert (lecture["status"], lecture["attempt"]) == ("COMPLETED", 1)
        document = (await users[0].upload(service.course, make_pdf(3)))["document"]

        async def counted() -> bool:
            return (await users[0].document(document["id"]))["pageCount"] == 3

        await wait_until(counted, "its pages are counted")
    assert f"{make_url(pooled_url).database}/studybuddy" in socket.with_name("log").read_text()
