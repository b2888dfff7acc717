"""Who starts the embedded servers, and who just uses them.

The first process on a DATA_DIR owns its servers: it starts what the settings leave unset, and the
servers end with it.  A later process on the same DATA_DIR attaches: `studybuddy run` in one
terminal, `studybuddy worker` or `migrate` in another.  A lock tells which one it is, and the file
`embedded.json` where the owner's servers answer.
"""

import json
import os
import socket
import time
from contextlib import ExitStack
from pathlib import Path
from types import TracebackType
from typing import Self

from app.embedded.postgres import EmbeddedPostgres
from app.embedded.process import ServerProcess, lock
from app.embedded.redis import EmbeddedRedis
from app.errors import ConfigurationError
from app.settings import Settings

_ATTACH_SECONDS = 90.0
_POLL_SECONDS = 0.05


class EmbeddedServers:
    """A context in which `settings` has a DATABASE_URL and a REDIS_URL that answer.

    Enter it from the main thread: the servers end with the thread that started them.  Raises
    `ConfigurationError` where that cannot be had, and always where it would be needed in
    production.  ``owns_database`` tells whether the PostgreSQL was started here.
    """

    def __init__(self, settings: Settings) -> None:
        self.settings = settings
        self.owns_database = False
        self._started: dict[str, ServerProcess] = {}
        self._stack = ExitStack()

    def __enter__(self) -> Self:
        names = ("database_url", "redis_url")
        missing = {name for name in names if not getattr(self.settings, name)}
        if missing and self.settings.production:
            unset = " and ".join(sorted(name.upper() for name in missing))
            raise ConfigurationError(f"{unset}: required where ENVIRONMENT is production")
        if missing:
            make_data_directory(self.settings.data_path)
            with self._stack as stack:
                urls = self._own_or_attach(missing)
                self._stack = stack.pop_all()
            self.settings = self.settings.model_copy(update=urls)
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._stack.close()

    def revive(self) -> None:
        """Start again, on its data, any server of ours that has died."""
        for server in self._started.values():
            if not server.alive:
                server.start()

    def _own_or_attach(self, missing: set[str]) -> dict[str, str]:
        directory = self.settings.data_path
        deadline = time.monotonic() + _ATTACH_SECONDS
        while time.monotonic() < deadline:
            descriptor = lock(directory / "embedded.lock", timeout_seconds=0)
            if descriptor is not None:
                self._stack.callback(os.close, descriptor)
                return self._own(missing)
            urls = _running(directory)
            if urls is not None:
                if absent := sorted(name.upper() for name in missing - urls.keys()):
                    raise ConfigurationError(
                        f"{absent[0]}: the studybuddy process that holds this DATA_DIR has it set; "
                        "set it here as well"
                    )
                return {name: urls[name] for name in missing}
            time.sleep(_POLL_SECONDS)
        raise ConfigurationError(
            "DATA_DIR: another studybuddy process holds it, but its servers do not answer"
        )

    def _own(self, missing: set[str]) -> dict[str, str]:
        directory = self.settings.data_path
        servers: dict[str, ServerProcess] = {
            "database_url": EmbeddedPostgres(database_directory(self.settings)),
            "redis_url": EmbeddedRedis(directory / "redis"),
        }
        record = directory / "embedded.json"
        record.unlink(missing_ok=True)
        for name in sorted(missing):
            servers[name].start()
            self._stack.callback(servers[name].stop)
            self._started[name] = servers[name]
        self.owns_database = "database_url" in self._started
        answers = {
            name: {"url": server.url, "socket": str(server.socket_path)}
            for name, server in self._started.items()
        }
        part = record.with_suffix(".part")
        part.write_text(json.dumps(answers))
        part.rename(record)
        self._stack.callback(record.unlink, missing_ok=True)
        return {name: server.url for name, server in self._started.items()}


def database_directory(settings: Settings) -> Path:
    """Return where the embedded PostgreSQL keeps its data; nothing is there before its start."""
    return settings.data_path / "postgres"


def make_data_directory(path: Path) -> None:
    """Make DATA_DIR, for this user alone; one that exists keeps its mode."""
    try:
        path.mkdir(mode=0o700, parents=True, exist_ok=True)
    except OSError as error:
        raise ConfigurationError(f"DATA_DIR: cannot make it: {error.strerror}") from error
    if not os.access(path, os.R_OK | os.W_OK | os.X_OK):
        raise ConfigurationError("DATA_DIR: it is not this user's to write in")


def _running(directory: Path) -> dict[str, str] | None:
    """The URLs of the servers that the owner has announced and that answer, else None."""
    try:
        servers = json.loads((directory / "embedded.json").read_text())
    except FileNotFoundError:
        return None
    for server in servers.values():
        try:
            with socket.socket(socket.AF_UNIX) as client:
                client.connect(server["socket"])
        except OSError:
            return None
    return {name: server["url"] for name, server in servers.items()}
