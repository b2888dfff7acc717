"""The `studybuddy` command as people use it: a process, its lines, its exit code."""

import os
import signal
import socket
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import httpx
import pytest

from app.supervisor import Address, free_address
from tests.support.wait import wait_until

STUDYBUDDY = str(Path(sys.executable).with_name("studybuddy"))


@pytest.fixture
def place() -> Iterator[Path]:
    # Servers whose owner was killed may still be ending, and write, while this is removed.
    with tempfile.TemporaryDirectory(prefix="sb-", ignore_cleanup_errors=True) as directory:
        yield Path(directory)


def studybuddy(*arguments: str, **environment: str) -> "subprocess.CompletedProcess[str]":
    return subprocess.run(
        [STUDYBUDDY, *arguments],
        env=os.environ | environment,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )


@contextmanager
def whole_service(place: Path) -> "Iterator[tuple[subprocess.Popen[bytes], Address]]":
    address = free_address("127.0.0.1", 0)
    environment = os.environ | {"DATA_DIR": str(place / "data"), "PORT": str(address.port)}
    log = place / "log"
    with (
        log.open("wb") as output,
        subprocess.Popen([STUDYBUDDY, "run"], env=environment, stdout=output, stderr=output) as run,
    ):
        try:
            yield run, address
        finally:
            if run.poll() is None:
                run.kill()


async def ready(run: "subprocess.Popen[bytes]", address: Address, log: Path) -> None:
    line = f"StudyBuddy is ready at {address.url}/graphql\n"

    def announced() -> bool:
        assert run.poll() is None, log.read_text()
        return line in log.read_text()

    await wait_until(announced, "the service says that it is ready", timeout_seconds=30)
    assert httpx.get(f"{address.url}/health/ready").status_code == 200


def status_of(pid: int) -> dict[str, str]:
    """What /proc tells of a process that runs, else nothing."""
    try:
        text = Path(f"/proc/{pid}/status").read_text()
    except (FileNotFoundError, ProcessLookupError):
        return {}
    status = dict(line.split(":\t", 1) for line in text.splitlines() if ":\t" in line)
    return {} if status["State"].startswith("Z") else status


def children(pid: int) -> dict[int, str]:
    """The running children of a process, and the last words of their command lines."""
    numbers = [int(path.name) for path in Path("/proc").iterdir() if path.name.isdigit()]
    found = [n for n in numbers if status_of(n).get("PPid", "").strip() == str(pid)]
    return {n: _command(n) for n in found}


def _command(pid: int) -> str:
    try:
        return Path(f"/proc/{pid}/cmdline").read_bytes().rstrip(b"\0").decode().replace("\0", " ")
    except (FileNotFoundError, ProcessLookupError):
        return ""


def child(pid: int, ending: str) -> int | None:
    return next((n for n, command in children(pid).items() if command.endswith(ending)), None)


async def test_run_serves_keeps_its_children_alive_and_stops_in_order(place: Path) -> None:
    with whole_service(place) as (run, address):
        await ready(run, address, place / "log")
        for name in ("api", "worker"):
            first = child(run.pid, f"app.cli {name}")
            assert first is not None
            os.kill(first, signal.SIGKILL)
            await wait_until(
                lambda name=name, first=first: (
                    child(run.pid, f"app.cli {name}") not in {None, first}
                ),
                f"another {name}",
            )
        await wait_until(lambda: _is_ready(address), "ready again", timeout_seconds=20)
        second_shell = studybuddy("migrate", DATA_DIR=str(place / "data"))
        assert (second_shell.returncode, second_shell.stderr) == (0, "")
        family = children(run.pid)
        assert len(family) == 4
        run.terminate()
        assert run.wait(20) == 0
        assert not any(map(status_of, family))
    assert not (place / "data" / "embedded.json").exists()


async def test_a_killed_run_leaves_no_process(place: Path) -> None:
    with whole_service(place) as (run, address):
        await ready(run, address, place / "log")
        family = children(run.pid)
        assert len(family) == 4
        run.kill()
        run.wait()
        await wait_until(
            lambda: not any(map(status_of, family)), "all have ended", timeout_seconds=20
        )


def _is_ready(address: Address) -> bool:
    try:
        return httpx.get(f"{address.url}/health/ready").status_code == 200
    except httpx.TransportError:
        return False


@pytest.mark.parametrize("command", ["run", "api"])
def test_a_taken_port_is_one_line_and_nothing_is_started(place: Path, command: str) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = str(taken.getsockname()[1])
        answer = studybuddy(command, DATA_DIR=str(place / "data"), PORT=port)
    assert answer.returncode == 1
    assert answer.stderr.splitlines() == [
        f"studybuddy: PORT: {port} on 127.0.0.1 is already in use; choose another"
    ]
    assert not (place / "data").exists()


def test_a_host_that_is_not_ours_is_one_line(place: Path) -> None:
    answer = studybuddy("run", DATA_DIR=str(place / "data"), HOST="no.such.host.invalid")
    assert (answer.returncode, len(answer.stderr.splitlines())) == (1, 1)
    assert "HOST: " in answer.stderr


@pytest.mark.parametrize("command", ["run", "api", "worker", "migrate"])
def test_a_wrong_setting_is_one_line(place: Path, command: str) -> None:
    answer = studybuddy(command, DATA_DIR=str(place / "data"), WORKER_CONCURRENCY="many")
    assert answer.returncode == 2
    assert len(answer.stderr.splitlines()) == 1
    assert answer.stderr.startswith("studybuddy: WORKER_CONCURRENCY: ")
    assert not (place / "data").exists()


def test_a_database_that_does_not_answer_is_one_line(place: Path) -> None:
    answer = studybuddy(
        "migrate",
        DATA_DIR=str(place / "data"),
        DATABASE_URL=f"postgresql://me@/none?host={place}",
        REDIS_URL="redis://127.0.0.1:1",
    )
    assert (answer.returncode, len(answer.stderr.splitlines())) == (1, 1)
    assert answer.stderr.startswith("studybuddy: DATABASE_URL: ")


def test_token_prints_a_token_and_says_where_its_key_is_new(place: Path) -> None:
    first, second = (
        studybuddy("token", "--user", "ann", "--ttl", "60", DATA_DIR=str(place / "data"))
        for _ in range(2)
    )
    assert (first.returncode, len(first.stderr.splitlines())) == (0, 1)
    assert f"DATA_DIR: a new signing key is made in {place / 'data'}" in first.stderr
    assert (second.returncode, second.stderr) == (0, "")
    for answer in (first, second):
        assert answer.stdout.count(".") == 2
        assert len(answer.stdout.split()) == 1
    assert (place / "data").stat().st_mode & 0o777 == 0o700


def test_token_refuses_where_another_issues_them(place: Path) -> None:
    answer = studybuddy(
        "token",
        "--user",
        "ann",
        DATA_DIR=str(place / "data"),
        AUTH_ISSUER="https://clerk.example.org",
    )
    assert (answer.returncode, answer.stdout) == (2, "")
    assert answer.stderr.startswith("studybuddy: AUTH_ISSUER: ")
    assert len(answer.stderr.splitlines()) == 1
    assert not (place / "data").exists()


def test_production_starts_nothing_embedded(place: Path) -> None:
    answer = studybuddy("run", DATA_DIR=str(place / "data"), ENVIRONMENT="production")
    assert answer.returncode == 2
    assert answer.stderr.startswith("studybuddy: DATABASE_URL ")
    assert not (place / "data").exists()
