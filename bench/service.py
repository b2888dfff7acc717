"""The service as it is deployed, API and worker in processes of their own, for a measurement."""

import signal
import tempfile
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path

import httpx

from app.auth.issuer import DevelopmentIssuer
from app.embedded.process import stop
from app.embedded.servers import EmbeddedServers
from app.settings import Settings, load_settings
from app.supervisor import free_address, run_command

START_SECONDS = 60


@dataclass(frozen=True)
class BenchedService:
    """Where it answers, as whom, and which process is which."""

    address: str
    settings: Settings
    api_pid: int
    worker_pid: int

    def token(self, user: str) -> str:
        """Return a session token."""
        return DevelopmentIssuer.load(self.settings.data_path).issue(user)

    def client(self, user: str = "bench") -> httpx.Client:
        """Return a signed-in client."""
        headers = {"Authorization": f"Bearer {self.token(user)}"}
        return httpx.Client(base_url=self.address, headers=headers, timeout=60, trust_env=False)

    @property
    def dsn(self) -> str:
        """The database, as asyncpg takes it."""
        return (self.settings.database_url or "").replace("+asyncpg", "")


@contextmanager
def benched_service(**environment: str) -> Iterator[BenchedService]:
    """Start the service in a directory of its own, and end it."""
    with ExitStack() as stack:
        folder = stack.enter_context(tempfile.TemporaryDirectory(prefix="bench-"))
        given = load_settings(data_dir=Path(folder) / "data")
        servers = stack.enter_context(EmbeddedServers(given))
        settings = servers.settings
        address = free_address("127.0.0.1", 0)
        variables = {
            "DATA_DIR": str(settings.data_path),
            "DATABASE_URL": settings.database_url or "",
            "REDIS_URL": settings.redis_url or "",
            "PORT": str(address.port),
            "LOG_LEVEL": "WARNING",
            **environment,
        }
        migrating = run_command("migrate", variables)
        if migrating.wait():
            raise RuntimeError("the database could not be migrated")
        pids = []
        for name in ("api", "worker"):
            process = run_command(name, variables)
            stack.callback(stop, process, signal.SIGTERM, timeout_seconds=15)
            pids.append(process.pid)
        _wait_until_ready(address.url)
        yield BenchedService(address.url, settings, *pids)


def resident_bytes(pid: int, name: str = "VmRSS") -> int:
    """Return a process's resident memory now, or with `VmHWM` at its peak."""
    for line in Path(f"/proc/{pid}/status").read_text().splitlines():
        if line.startswith(f"{name}:"):
            return int(line.split()[1]) * 1024
    raise ValueError(name)


def _wait_until_ready(address: str) -> None:
    deadline = time.monotonic() + START_SECONDS
    with httpx.Client(trust_env=False, timeout=2) as client:
        while time.monotonic() < deadline:
            try:
                if client.get(f"{address}/health/ready").is_success:
                    return
            except httpx.TransportError:
                pass
            time.sleep(0.05)
    raise RuntimeError("the service was not ready in time")
