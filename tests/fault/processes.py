"""`studybuddy` processes of one test: started, told apart by name, and seen to their end."""

import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import httpx

from app.embedded.process import spawn
from app.settings import Settings
from tests.wait import wait_until


@dataclass
class Deployment:
    """Processes that share one database, one Redis and one DATA_DIR."""

    settings: Settings
    logs: Path
    running: dict[str, subprocess.Popen[bytes]] = field(default_factory=dict)
    pids: set[int] = field(default_factory=set)

    def start(self, name: str, **environment: str) -> subprocess.Popen[bytes]:
        """Start ``api``, ``worker``, or another worker as ``worker-2``."""
        self.logs.mkdir(exist_ok=True)
        with self._log(name).open("ab") as log:
            # Leashed: a pytest that is killed runs no clean-up.
            process = spawn(
                [sys.executable, "-m", "app.cli", name.partition("-")[0]],
                death_signal=signal.SIGKILL,
                environment={**os.environ, **self._environment(), **environment},
                output=log,
            )
        self.running[name] = process
        self.pids.add(process.pid)
        return process

    async def ready(self, name: str) -> None:
        """Wait until the process does its work."""
        if name == "api":
            await wait_until(self._api_is_ready, "the API is ready", timeout_seconds=30)
        else:
            started = "the worker has started"
            await wait_until(lambda: self.says(name, "worker_started"), started, timeout_seconds=30)

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
        process.wait()

    async def terminate(self, name: str, timeout_seconds: float) -> int:
        """SIGTERM it, wait for its end, and return its exit code."""
        process = self.running.pop(name)
        process.send_signal(signal.SIGTERM)
        try:
            ended = lambda: process.poll() is not None  # noqa: E731
            await wait_until(ended, f"{name} has ended", timeout_seconds=timeout_seconds)
        finally:
            process.kill()
            code = process.wait()
        return code

    @contextmanager
    def paused(self, name: str) -> Iterator[None]:
        """SIGSTOP it while the block runs."""
        pid = self.running[name].pid
        os.kill(pid, signal.SIGSTOP)
        try:
            yield
        finally:
            os.kill(pid, signal.SIGCONT)

    def kill_all(self) -> None:
        for name in list(self.running):
            self.kill(name)

    def strays(self) -> list[str]:
        """Return the command lines of media children whose parent, one of ours, is gone."""
        alive = {process.pid for process in self.running.values()}
        return [line for line, parent in _media_children() if parent in self.pids - alive]

    def _log(self, name: str) -> Path:
        return self.logs / f"{name}.log"

    def _environment(self) -> dict[str, str]:
        values = self.settings.model_dump(exclude_unset=True)
        return {
            name.upper(): ",".join(map(str, value)) if isinstance(value, tuple) else str(value)
            for name, value in values.items()
            if value is not None
        }

    async def _api_is_ready(self) -> bool:
        url = f"http://127.0.0.1:{self.settings.port}/health/ready"
        async with httpx.AsyncClient(trust_env=False, verify=False) as client:
            try:
                return (await client.get(url)).status_code == 200
            except httpx.HTTPError:
                return False


def _media_children() -> Iterator[tuple[str, int]]:
    """Yield the command line and the named parent of every sandbox child of this machine."""
    for folder in Path("/proc").iterdir():
        if folder.name.isdigit():
            try:
                words = (folder / "cmdline").read_text().split("\0")[:-1]
            except (FileNotFoundError, ProcessLookupError):
                continue
            if words and "app.ingest.child_process" in " ".join(words) and words[-1].isdigit():
                yield " ".join(words), int(words[-1])
