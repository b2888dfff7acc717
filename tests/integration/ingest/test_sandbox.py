"""What a child process may and may not do, and that none is ever left."""

import asyncio
import importlib
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from app.ingest.sandbox import child as child_process
from app.ingest.sandbox.run import (
    _ENVIRONMENT,
    ChildCrashed,
    ChildKilled,
    ChildRefused,
    ChildTimedOut,
    Limits,
    run_child,
)
from tests.support.children import media_children
from tests.support.media import write_silence
from tests.support.pdfs import make_pdf
from tests.support.wait import wait_until

LIMITS = Limits(memory_bytes=1024**3, cpu_seconds=10, file_bytes=1024**2)
AUDIO = "app.ingest.sandbox.tasks.audio"
PAGES = "app.ingest.sandbox.tasks.pages"


@pytest.fixture(autouse=True)
async def _nothing_is_left() -> None:
    yield
    assert media_children() == []


@pytest.fixture
def pdf(tmp_path: Path) -> Path:
    path = tmp_path / "in.pdf"
    path.write_bytes(make_pdf(2))
    return path


@pytest.fixture
def pipe(tmp_path: Path) -> Path:
    """A file whose reader waits for ever: it stands for a parser that hangs."""
    path = tmp_path / "pipe"
    os.mkfifo(path)
    return path


async def count(path: Path, *, limits: Limits = LIMITS, timeout_seconds: float = 10) -> object:
    return await run_child(
        PAGES, {"path": str(path)}, limits=limits, timeout_seconds=timeout_seconds
    )


async def hang(pipe: Path, *, timeout_seconds: float = 10) -> object:
    arguments = {"source": str(pipe), "target": f"{pipe}.m4a", "edits": [], "runs": []}
    return await run_child(AUDIO, arguments, limits=LIMITS, timeout_seconds=timeout_seconds)


async def test_a_result(pdf: Path) -> None:
    assert await count(pdf) == {"pages": 2}


async def test_many_at_once(pdf: Path) -> None:
    assert await asyncio.gather(*[count(pdf) for _ in range(6)]) == [{"pages": 2}] * 6


async def test_a_refusal(tmp_path: Path) -> None:
    (tmp_path / "in.pdf").write_bytes(b"no pdf")
    with pytest.raises(ChildRefused) as raised:
        await count(tmp_path / "in.pdf")
    assert raised.value.code == "unreadable"


async def test_an_exception_is_a_crash_with_its_traceback() -> None:
    with pytest.raises(ChildCrashed) as raised:
        await run_child(PAGES, {}, limits=LIMITS, timeout_seconds=10)
    assert raised.value.return_code == 1
    assert "KeyError" in raised.value.errors
    assert "KeyError" not in str(raised.value)


async def test_only_known_tasks_run() -> None:
    with pytest.raises(ChildCrashed):
        await run_child("os", {}, limits=LIMITS, timeout_seconds=10)


async def test_the_wall_clock(pipe: Path) -> None:
    with pytest.raises(ChildTimedOut):
        await hang(pipe, timeout_seconds=0.5)


async def test_the_cpu_clock(tmp_path: Path) -> None:
    source = write_silence(tmp_path / "in.mkv", 1800)
    arguments = {
        "source": str(source),
        "target": str(tmp_path / "out.m4a"),
        "edits": [],
        "runs": [],
    }
    limits = Limits(memory_bytes=1024**3, cpu_seconds=1, file_bytes=1024**3)
    with pytest.raises(ChildTimedOut):
        await run_child(AUDIO, arguments, limits=limits, timeout_seconds=60)


async def test_memory(pdf: Path) -> None:
    limits = Limits(memory_bytes=16 * 1024**2, cpu_seconds=10, file_bytes=0)
    with pytest.raises((ChildCrashed, ChildRefused)):
        await count(pdf, limits=limits)


async def test_a_signal_is_a_crash(pipe: Path) -> None:
    counting = asyncio.create_task(hang(pipe))
    await wait_until(media_children, "the child runs")
    os.kill(media_children()[0], signal.SIGSEGV)
    with pytest.raises(ChildCrashed) as raised:
        await counting
    assert raised.value.return_code == -signal.SIGSEGV


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM])
async def test_who_is_killed_from_outside_is_not_to_blame(pipe: Path, number: int) -> None:
    counting = asyncio.create_task(hang(pipe))
    await wait_until(media_children, "the child runs")
    os.kill(media_children()[0], number)
    with pytest.raises(ChildKilled):
        await counting


async def test_a_cancellation_kills_the_group(pipe: Path) -> None:
    counting = asyncio.create_task(hang(pipe))
    (child,) = await wait_until(media_children, "the child runs")
    assert os.getsid(child) == child
    counting.cancel()
    with pytest.raises(asyncio.CancelledError):
        await counting
    with pytest.raises(ProcessLookupError):
        os.kill(child, 0)


@pytest.mark.parametrize("steps", range(0, 12, 2))
async def test_cancellations_while_it_starts_do_not_leave_it(pipe: Path, steps: int) -> None:
    counting = asyncio.create_task(hang(pipe))
    for _ in range(steps):
        await asyncio.sleep(0)
    while not counting.done():
        counting.cancel()
        await asyncio.sleep(0)
    assert media_children() == []


async def test_cancellations_while_it_ends_do_not_leave_it(pipe: Path) -> None:
    counting = asyncio.create_task(hang(pipe))
    await wait_until(media_children, "the child runs")
    while not counting.done():
        counting.cancel()
        await asyncio.sleep(0)
    assert media_children() == []


async def test_a_child_dies_with_its_parent(pipe: Path) -> None:
    program = (
        "import asyncio, sys\n"
        "from pathlib import Path\n"
        "from app.ingest.extract import PyAvAudioExtractor\n"
        "path = Path(sys.argv[1])\n"
        "work = PyAvAudioExtractor().extract(path, path, timeout_seconds=60)\n"
        "asyncio.run(work)\n"
    )
    parent = subprocess.Popen([sys.executable, "-c", program, str(pipe)])
    listed = Path(f"/proc/{parent.pid}/task/{parent.pid}/children")

    child = await wait_until(lambda: listed.read_text().split(), "the child runs")
    parent.kill()
    await asyncio.to_thread(parent.wait)
    await wait_until(lambda: not alive(int(child[0])), "the child is dead")


def alive(pid: int) -> bool:
    try:
        return "\nState:\tZ" not in Path(f"/proc/{pid}/status").read_text()
    except FileNotFoundError:
        return False


async def test_the_limits_are_in_place(pipe: Path) -> None:
    counting = asyncio.create_task(hang(pipe))
    (child,) = await wait_until(media_children, "the child runs")
    status = Path(f"/proc/{child}/status")
    limits = Path(f"/proc/{child}/limits")
    await wait_until(lambda: f"{1024**3}" in limits.read_text(), "memory is limited")
    await wait_until(lambda: "Max open files            64" in limits.read_text(), "files are")
    assert "NoNewPrivs:\t1" in status.read_text()
    assert "Max core file size        0 " in limits.read_text()
    environment = Path(f"/proc/{child}/environ").read_bytes()
    assert {part.split(b"=")[0] for part in environment.split(b"\0") if part} <= {
        b"PATH",
        b"LC_ALL",
        b"OPENBLAS_NUM_THREADS",
    }
    counting.cancel()
    await asyncio.wait([counting])


@pytest.mark.parametrize("module", child_process._TASKS)
def test_a_child_imports_little(module: str) -> None:
    """Its start is paid for each lecture: no web framework, no database, no event loop.

    What loads a model brings the engine's own.
    """
    assert importlib.import_module(module).run
    program = f"import sys, {module}; print(*sys.modules)"
    modules = subprocess.run(
        [sys.executable, "-I", "-c", program], check=True, capture_output=True, text=True
    ).stdout.split()
    heavy = {"strawberry", "structlog", "sqlalchemy", "obstore"}
    if not module.startswith(("app.embedder.", "app.speech.")):
        heavy |= {"asyncio", "pydantic"}
    assert not heavy & set(modules)


def test_a_child_can_open_no_socket() -> None:
    program = (
        "import os, socket\n"
        "from app.ingest.sandbox import child\n"
        "child.die_with_parent(os.getppid())\n"
        "child._refuse_sockets()\n"
        "socket.socketpair()\n"  # What its questions go over.
        "socket.socket()\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, timeout=20, check=False
    )
    assert "PermissionError" in done.stderr.splitlines()[-1]


def test_numpy_starts_no_thread_for_each_core() -> None:
    program = "import numpy, os; print(len(os.listdir('/proc/self/task')))"
    command = [sys.executable, "-I", "-c", program]
    done = subprocess.run(command, env=_ENVIRONMENT, capture_output=True, check=True)
    assert done.stdout == b"1\n"
