"""`studybuddy` processes of one test: started, told apart by name, and seen to their end.

They are forked from one process that has imported the program, which is most of what a start costs;
nothing has run there.  All of them end with the tests, however these end.
"""

import ctypes
import multiprocessing
import os
import select
import signal
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from multiprocessing.process import BaseProcess
from pathlib import Path

import httpx

from app.settings import Settings
from tests.support.wait import wait_until

_FORKS = multiprocessing.get_context("forkserver")
_FORKS.set_forkserver_preload(["app.cli", "app.main", "app.worker", "tests.fault.processes"])
_PR_SET_PDEATHSIG = 1
_PROGRAM = "app.ingest.sandbox.child"


def _run(command: str, environment: Mapping[str, str], log: Path) -> None:
    """Be `studybuddy COMMAND`, in a session of its own, with the log for both outputs."""
    from app.cli import main

    os.setsid()
    ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
    nothing, output = os.open(os.devnull, os.O_RDONLY), os.open(log, os.O_WRONLY | os.O_APPEND)
    for number, file in enumerate((nothing, output, output)):
        os.dup2(file, number)
    os.closerange(3, os.sysconf("SC_OPEN_MAX"))  # as after exec; what they forked from ends with us
    os.environ.clear()
    os.environ.update(environment)
    sys.exit(main([command]))


def _as_text(value: object) -> str:
    """Write a setting as the environment has it: lists with commas, pairs with an equals sign."""
    if not isinstance(value, tuple):
        return str(value)
    return ",".join("=".join(map(str, e)) if isinstance(e, tuple) else str(e) for e in value)


@dataclass
class Deployment:
    """Processes that share one database, one Redis and one DATA_DIR."""

    settings: Settings
    logs: Path
    running: dict[str, BaseProcess] = field(default_factory=dict)
    pids: set[int] = field(default_factory=set)

    def start(self, name: str, **environment: str) -> None:
        """Start ``api``, ``worker``, or another worker as ``worker-2``."""
        self.logs.mkdir(exist_ok=True)
        self._log(name).touch()
        whole = {**os.environ, **self._environment(), **environment}
        process = _FORKS.Process(target=_run, args=(name.partition("-")[0], whole, self._log(name)))
        process.start()
        self.running[name] = process
        self.pids.add(self.pid_of(name))

    def pid_of(self, name: str) -> int:
        """Return the process id of one that was started."""
        pid = self.running[name].pid
        assert pid is not None
        return pid

    async def ready(self, name: str) -> None:
        """Wait until the process does its work."""
        if name == "api":
            await wait_until(self._api_is_ready, "the API is ready")
        else:
            started = "the worker has started"
            await wait_until(lambda: self.says(name, "worker_started"), started)

    async def restart(self, name: str) -> None:
        """Start it again after its end, and wait until it does its work."""
        self._log(name).unlink()
        self.start(name)
        await self.ready(name)

    def says(self, name: str, word: str) -> bool:
        """Whether the process has logged the word."""
        return word in self._log(name).read_text()

    def log_of(self, name: str) -> str:
        return self._log(name).read_text()

    def kill(self, name: str) -> None:
        """SIGKILL it and wait for its end."""
        process = self.running.pop(name)
        process.kill()
        process.join()

    async def terminate(self, name: str, timeout_seconds: float) -> int:
        """SIGTERM it, wait for its end, and return its exit code."""
        process = self.running.pop(name)
        process.terminate()
        try:
            ended = lambda: process.exitcode is not None  # noqa: E731
            await wait_until(ended, f"{name} has ended", timeout_seconds=timeout_seconds)
        finally:
            process.kill()
            process.join()
        assert process.exitcode is not None
        return process.exitcode

    @contextmanager
    def paused(self, name: str) -> Iterator[None]:
        """SIGSTOP it while the block runs."""
        pid = self.pid_of(name)
        os.kill(pid, signal.SIGSTOP)
        try:
            yield
        finally:
            os.kill(pid, signal.SIGCONT)

    def kill_all(self) -> None:
        for name in list(self.running):
            self.kill(name)

    def strays(self) -> list[str]:
        """Return the children that outlive their parent, one of ours, by three seconds.

        The parent's death ends them at once, but for one whose interpreter is just starting.
        """
        gone = self.pids - {process.pid for process in self.running.values()}
        orphans = [child for child in _children() if child.parent in gone]
        return [
            f"{child.pid} {child.line}" for child in orphans if not child.ends(within_seconds=3)
        ]

    def _log(self, name: str) -> Path:
        return self.logs / f"{name}.log"

    def _environment(self) -> dict[str, str]:
        values = self.settings.model_dump(exclude_unset=True)
        return {
            name.upper(): _as_text(value) for name, value in values.items() if value is not None
        }

    async def _api_is_ready(self) -> bool:
        url = f"http://127.0.0.1:{self.settings.port}/health/ready"
        async with httpx.AsyncClient(trust_env=False, verify=False) as client:
            try:
                return (await client.get(url)).status_code == 200
            except httpx.HTTPError:
                return False


@dataclass(frozen=True)
class _Child:
    pid: int
    parent: int  # as its command line tells it
    line: str

    def ends(self, within_seconds: float) -> bool:
        """Wait for its end; ``False`` where it did not come in time."""
        try:
            process = os.pidfd_open(self.pid)
        except ProcessLookupError:
            return True
        try:
            return bool(select.select([process], [], [], within_seconds)[0])
        finally:
            os.close(process)


def _children() -> Iterator[_Child]:
    """Yield every sandbox child and every process for a single job of this machine."""
    for folder in Path("/proc").iterdir():
        if folder.name.isdigit():
            try:
                words = (folder / "cmdline").read_text().split("\0")[:-1]
            except (FileNotFoundError, ProcessLookupError):
                continue
            if _PROGRAM in " ".join(words) and words[-1].isdigit():
                yield _Child(int(folder.name), int(words[-1]), " ".join(words))
