"""The embedded servers: they keep their data, end with their owner, and change nothing else."""

import json
import os
import pwd
import signal
import stat
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import asyncpg
import pytest
import redis.asyncio
from sqlalchemy.engine import make_url

from app.embedded.postgres import EmbeddedPostgres
from app.embedded.servers import EmbeddedServers
from app.errors import ConfigurationError
from app.settings import load_settings
from tests.support.wait import wait_until

OWNER = """
import json, sys
from app.embedded.servers import EmbeddedServers
from app.settings import load_settings

with EmbeddedServers(load_settings()) as servers:
    pids = {name: server.pid for name, server in servers._started.items()}
    print(json.dumps({
        "database_url": servers.settings.database_url,
        "redis_url": servers.settings.redis_url,
        "owns_database": servers.owns_database,
        "pids": pids,
    }), flush=True)
    sys.stdin.read()
"""

as_root = pytest.mark.skipif(os.geteuid() != 0, reason="only root can become somebody else")


@pytest.fixture
def place() -> Iterator[Path]:
    """A directory that only this user can enter, as `mktemp -d` makes them."""
    # Servers whose owner was killed may still be ending, and write, while this is removed.
    with tempfile.TemporaryDirectory(prefix="sb-", ignore_cleanup_errors=True) as directory:
        yield Path(directory)


class Process:
    """A process that has the servers of a DATA_DIR, its own or another's."""

    def __init__(self, process: "subprocess.Popen[str]") -> None:
        self._process = process
        assert process.stdout
        line = process.stdout.readline()
        assert line, "it did not start"
        answer = json.loads(line)
        self.database_url: str = answer["database_url"]
        self.redis_url: str = answer["redis_url"]
        self.owns_database: bool = answer["owns_database"]
        self.pids: dict[str, int] = answer["pids"]

    def kill(self) -> None:
        self._process.kill()
        self._process.wait()

    def leave(self) -> None:
        self._process.communicate("")
        assert self._process.returncode == 0


@contextmanager
def launched(
    data_directory: Path, *, python: str = sys.executable, **options: Any
) -> "Iterator[subprocess.Popen[str]]":
    environment = os.environ | {
        "DATA_DIR": str(data_directory),
        "PYTHONPATH": os.pathsep.join(path for path in sys.path if path),
    }
    with subprocess.Popen(
        [python, "-c", OWNER],
        env=environment,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        **options,
    ) as process:
        try:
            yield process
        finally:
            if process.poll() is None:
                process.kill()


@contextmanager
def entered(data_directory: Path, **options: Any) -> Iterator[Process]:
    with launched(data_directory, **options) as process:
        yield Process(process)


async def write(process: Process) -> None:
    connection = await connected(process.database_url)
    await connection.execute("CREATE TABLE kept (word text)")
    await connection.execute("INSERT INTO kept VALUES ('here')")
    await connection.close()
    client = redis.asyncio.Redis.from_url(process.redis_url)
    await client.set("kept", "here")
    await client.aclose()


async def read(process: Process) -> tuple[str, bytes]:
    connection = await connected(process.database_url)
    row = await connection.fetchval("SELECT word FROM kept")
    await connection.close()
    client = redis.asyncio.Redis.from_url(process.redis_url)
    value = await client.get("kept")
    await client.aclose()
    return row, value


async def connected(url: str) -> asyncpg.Connection:
    return await asyncpg.connect(make_url(url).set(drivername="postgresql").render_as_string())


def running(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except FileNotFoundError:
        return False


def modes(path: Path) -> dict[Path, int]:
    return {parent: stat.S_IMODE(parent.stat().st_mode) for parent in (path, *path.parents)}


async def test_a_second_start_keeps_all_data(place: Path) -> None:
    with entered(place / "data") as first:
        await write(first)
        first.leave()
    assert not any(map(running, first.pids.values()))
    with entered(place / "data") as second:
        assert await read(second) == ("here", b"here")


async def test_a_killed_owner_takes_its_servers_with_it_and_the_next_start_works(
    place: Path,
) -> None:
    with entered(place / "data") as first:
        await write(first)
        first.kill()
    with entered(place / "data") as second:  # at once: the killed one's may still be ending
        assert await read(second) == ("here", b"here")
        assert second.owns_database
    for pid in first.pids.values():
        await wait_until(lambda pid=pid: not running(pid), f"server {pid} has ended")


async def test_servers_killed_themselves_leave_nothing_that_blocks_the_next_start(
    place: Path,
) -> None:
    with entered(place / "data") as first:
        await write(first)
        for pid in first.pids.values():
            os.kill(pid, signal.SIGKILL)
        first.kill()
    pid_file = place / "data" / "postgres" / "postmaster.pid"
    lines = pid_file.read_text().splitlines()
    pid_file.write_text("\n".join([str(os.getpid()), *lines[1:]]) + "\n")  # a number used again
    with entered(place / "data") as second:
        assert await read(second) == ("here", b"here")


@pytest.mark.parametrize("name", ["with a space, 100% ü & more?", "x" * 120])
async def test_any_path_will_do_and_no_mode_above_it_changes(place: Path, name: str) -> None:
    parent = place / name
    parent.mkdir(mode=0o700)
    before = modes(parent)
    with entered(parent / "data") as process:
        await write(process)
        assert await read(process) == ("here", b"here")
        process.leave()
    assert modes(parent) == before
    assert stat.S_IMODE((parent / "data").stat().st_mode) == 0o700
    assert stat.S_IMODE((parent / "data" / "postgres").stat().st_mode) == 0o700


async def test_a_second_process_uses_the_first_ones_servers(place: Path) -> None:
    with entered(place / "data") as first:
        await write(first)
        with entered(place / "data") as second:
            assert await read(second) == ("here", b"here")
            assert (second.owns_database, second.pids) == (False, {})
            second.leave()
        assert await read(first) == ("here", b"here")


async def test_two_that_start_at_once_share_one_pair_of_servers(place: Path) -> None:
    with launched(place / "data") as first, launched(place / "data") as second:
        one, other = Process(first), Process(second)
        assert sorted([one.owns_database, other.owns_database]) == [False, True]
        assert one.database_url == other.database_url


async def test_a_server_that_died_is_started_again_where_it_was(place: Path) -> None:
    with EmbeddedServers(load_settings(data_dir=place / "with a space")) as servers:
        server = next(iter(servers._started.values()))
        pid = server.pid
        assert pid is not None
        os.kill(pid, signal.SIGKILL)
        await wait_until(lambda: not server.alive, "the server is dead")
        servers.revive()
        assert server.alive
        assert servers.settings.database_url is not None
        connection = await connected(servers.settings.database_url)
        await connection.close()


def test_only_what_is_unset_is_started(place: Path) -> None:
    settings = load_settings(data_dir=place / "data", database_url="postgresql://db/elsewhere")
    with EmbeddedServers(settings) as servers:
        assert servers.settings.database_url == "postgresql://db/elsewhere"
        assert not servers.owns_database
        assert not (place / "data" / "postgres").exists()
        with pytest.raises(ConfigurationError, match=r"^DATABASE_URL: "):
            EmbeddedServers(load_settings(data_dir=place / "data")).__enter__()


def test_nothing_is_started_where_all_is_set(place: Path) -> None:
    settings = load_settings(
        data_dir=place / "data", database_url="postgresql://db/x", redis_url="redis://r"
    )
    with EmbeddedServers(settings) as servers:
        assert servers.settings == settings
    assert not (place / "data").exists()


def test_production_refuses_them(place: Path) -> None:
    settings = load_settings(data_dir=place / "data").model_copy(
        update={"environment": "production"}
    )
    with pytest.raises(ConfigurationError, match=r"^DATABASE_URL and REDIS_URL: "):
        EmbeddedServers(settings).__enter__()
    assert not (place / "data").exists()


def test_a_data_directory_that_cannot_be_made_is_named(place: Path) -> None:
    (place / "file").touch()
    with pytest.raises(ConfigurationError, match=r"^DATA_DIR: "):
        EmbeddedServers(load_settings(data_dir=place / "file" / "data")).__enter__()


@as_root
async def test_root_s_database_runs_as_somebody_else(place: Path) -> None:
    with entered(place / "data") as process:
        owner = Path(f"/proc/{process.pids['database_url']}").stat().st_uid
        assert owner != 0
        assert owner == (place / "data" / "postgres").stat().st_uid
        assert (place / "data").stat().st_uid == 0


@as_root
async def test_a_data_directory_that_root_copied_is_given_back(place: Path) -> None:
    with entered(place / "data") as process:
        await write(process)
        process.leave()
    subprocess.run(["chown", "-R", "0:0", place / "data"], check=True)
    with entered(place / "data") as process:
        assert await read(process) == ("here", b"here")


@pytest.fixture
def strict_umask() -> Iterator[None]:
    before = os.umask(0o077)
    yield
    os.umask(before)


@as_root
@pytest.mark.usefixtures("strict_umask")
async def test_binaries_that_the_account_cannot_reach_are_copied_once(
    place: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("app.embedded.postgres._CACHE", place / "cache")
    monkeypatch.setattr("app.embedded.postgres._open_to_all", lambda _: False)
    place.chmod(0o711)  # so that the cache can be reached, as /var/cache can
    for name in ("one", "two"):
        server = EmbeddedPostgres(place / name, durable=False)
        server.start()
        try:
            connection = await connected(server.url)
            await connection.execute("CREATE EXTENSION pg_trgm")
            await connection.close()
        finally:
            server.stop()
    copies = list((place / "cache").iterdir())
    assert len(copies) == 1
    assert all(path.stat().st_uid == 0 for path in copies[0].rglob("*"))


@as_root
async def test_an_ordinary_user_s_servers_are_the_user_s_own(place: Path) -> None:
    python = _python_for_everyone()
    user = pwd.getpwnam("nobody")
    home = place / "home"
    home.mkdir(mode=0o700)
    os.chown(home, user.pw_uid, user.pw_gid)
    place.chmod(0o711)
    options = {"user": user.pw_uid, "group": user.pw_gid, "extra_groups": [], "cwd": home}
    with entered(home / "data", python=python, **options) as process:
        await write(process)
        assert {Path(f"/proc/{pid}").stat().st_uid for pid in process.pids.values()} == {
            user.pw_uid
        }
        process.leave()
    with entered(home / "data") as process:  # root, later, on the user's data
        assert await read(process) == ("here", b"here")
        assert Path(f"/proc/{process.pids['database_url']}").stat().st_uid == user.pw_uid
        process.leave()
    assert home.stat().st_uid == user.pw_uid


def _python_for_everyone() -> str:
    version = f"python{sys.version_info.major}.{sys.version_info.minor}"
    for python in (Path(sys.executable).resolve(), Path("/usr/bin") / version):
        reachable = all(parent.stat().st_mode & stat.S_IXOTH for parent in python.parents)
        if reachable and python.exists():
            return str(python)
    pytest.skip("no Python here that an ordinary user can reach")
