"""Child processes that end with us, and the life of a server that is one.

A leashed child must be started from a thread that lives as long as it should, in practice the main
thread: Linux counts the end of the thread that started a child as the end of its parent.
"""

import fcntl
import os
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from abc import ABC, abstractmethod
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import IO, ClassVar

from app.errors import ConfigurationError

_LEASH = Path(__file__).with_name("leash.py")
_READY_SECONDS = 60.0
_PREDECESSOR_SECONDS = 30.0
_POLL_SECONDS = 0.01
_LOG_LIMIT_BYTES = 5 * 1024 * 1024
_SOCKET_PATH_BYTES = 107  # what sockaddr_un holds, less the final zero
_PLAIN_PATH = re.compile(r"[A-Za-z0-9_./-]+")  # means the same in a URL, quoted or not


@dataclass(frozen=True, slots=True)
class Account:
    """Whom a process runs as."""

    uid: int
    gid: int


def spawn(
    command: Sequence[str | Path],
    *,
    death_signal: signal.Signals,
    cwd: Path | None = None,
    account: Account | None = None,
    environment: Mapping[str, str] | None = None,
    stdin: int = subprocess.DEVNULL,
    output: IO[bytes] | None = None,
    keep: Iterable[int] = (),
) -> subprocess.Popen[bytes]:
    """Start a child that gets ``death_signal`` when this process ends, in a session of its own.

    So Ctrl-C in a terminal reaches this process alone, which decides who stops when.  ``cwd`` need
    not be reachable by ``account``: it is entered before the change of user.
    """
    who = f"{account.uid}:{account.gid}" if account else "-"
    leash = [sys.executable, "-I", "-S", str(_LEASH), str(os.getpid()), str(int(death_signal)), who]
    return subprocess.Popen(  # noqa: S603
        [*leash, *map(str, command)],
        cwd=cwd,
        env=environment,
        stdin=stdin,
        stdout=output,
        stderr=output,
        pass_fds=tuple(keep),
        start_new_session=True,
    )


def stop(
    process: subprocess.Popen[bytes], stop_signal: signal.Signals, timeout_seconds: float
) -> None:
    """Ask the process to end, wait, and kill it where it has not ended in time."""
    process.send_signal(stop_signal)
    try:
        process.wait(timeout_seconds)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()


def lock(path: Path, *, timeout_seconds: float) -> int | None:
    """Lock the file for as long as the returned descriptor, or a copy of it, is open.

    None where somebody else still holds it after the timeout.
    """
    try:
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT, 0o600)
    except PermissionError as error:
        raise ConfigurationError(f"DATA_DIR: {path.name} in it is another user's") from error
    deadline = time.monotonic() + timeout_seconds
    while True:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            if time.monotonic() >= deadline:
                os.close(descriptor)
                return None
            time.sleep(_POLL_SECONDS)
        else:
            return descriptor


class ServerProcess(ABC):
    """A server with a directory of its own, which answers on a Unix socket in it.

    The server binds the socket by a path relative to that directory.  Clients need an absolute
    one, which is short and plain: the directory itself, else a link to it in a private directory
    of the system's temporary one, removed by `stop`.
    """

    name: ClassVar[str]
    socket_name: ClassVar[str]
    stop_signal: ClassVar[signal.Signals]
    stop_seconds: ClassVar[float] = 20.0

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.log_path = directory.with_name(f"{self.name}.log")
        self.socket_directory = directory
        self._process: subprocess.Popen[bytes] | None = None
        self._link: Path | None = None

    @property
    @abstractmethod
    def url(self) -> str:
        """Where clients connect; valid after the first `start`."""

    @abstractmethod
    def _launch(self, log: IO[bytes], lock_descriptor: int) -> subprocess.Popen[bytes]:
        """Make the directory fit and start the server.

        Nothing else uses the directory meanwhile.  Every child keeps ``lock_descriptor``, so that
        this stays so until the last of them is gone.
        """

    @abstractmethod
    def _ready(self) -> bool:
        """Tell whether clients are served."""

    @property
    def socket_path(self) -> Path:
        """The socket, by the path that clients use."""
        return self.socket_directory / self.socket_name

    @property
    def pid(self) -> int | None:
        """The server's process id while it runs."""
        return self._process.pid if self.alive and self._process else None

    @property
    def alive(self) -> bool:
        """Whether the process that `start` began still runs."""
        return self._process is not None and self._process.poll() is None

    def start(self) -> None:
        """Start the server and return once it serves; `ConfigurationError` where it cannot."""
        path = str(self.socket_path)
        plain = _PLAIN_PATH.fullmatch(path) and len(path) <= _SOCKET_PATH_BYTES
        try:
            if not plain and self._link is None:
                self._link = Path(tempfile.mkdtemp(prefix="studybuddy-")) / self.name
                self._link.symlink_to(self.directory)
                self.socket_directory = self._link
            self._process = self._launch_alone()
            deadline = time.monotonic() + _READY_SECONDS
            while not self._ready():
                if not self.alive or time.monotonic() > deadline:
                    raise ConfigurationError(
                        f"DATA_DIR: the embedded {self.name} server does not start; "
                        f"the end of {self.log_path.name} there tells why"
                    )
                time.sleep(_POLL_SECONDS)
        except BaseException:
            self.stop()
            raise

    def _launch_alone(self) -> subprocess.Popen[bytes]:
        # A server killed a moment ago may still have processes that write: wait for the last.
        path = self.directory.with_name(f"{self.name}.lock")
        descriptor = lock(path, timeout_seconds=_PREDECESSOR_SECONDS)
        if descriptor is None:
            raise ConfigurationError(f"DATA_DIR: another {self.name} server still uses it")
        try:
            flags = os.O_WRONLY | os.O_CREAT | os.O_APPEND
            if self.log_path.exists() and self.log_path.stat().st_size > _LOG_LIMIT_BYTES:
                flags |= os.O_TRUNC
            with os.fdopen(os.open(self.log_path, flags, 0o600), "ab") as log:
                return self._launch(log, descriptor)
        finally:
            os.close(descriptor)

    def stop(self) -> None:
        """Stop the server, keeping its data."""
        if self._process is not None:
            stop(self._process, self.stop_signal, self.stop_seconds)
            self._process = None
        if self._link is not None:
            shutil.rmtree(self._link.parent)
            self._link, self.socket_directory = None, self.directory
