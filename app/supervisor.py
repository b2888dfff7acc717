"""`studybuddy run`: the API and a worker as two processes, kept alive and stopped together.

It gives up on what never said that it had started: that cannot run as things are.  What has run
once is started again for ever, be it ever so often, at longer and longer intervals.

Light on purpose: it imports nothing of what it runs, and holds no connection.
"""

import errno
import http.client
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterable, Mapping
from contextlib import suppress
from dataclasses import dataclass, field

from app.embedded.process import spawn
from app.errors import ConfigurationError
from app.started import VARIABLE

READY_PATH = "/health/ready"

_TICK_SECONDS = 0.1
_STOP_SECONDS = 12.0  # the API gives its requests ten
_STOP_SIGNALS = frozenset({signal.SIGTERM, signal.SIGINT, signal.SIGHUP})
_WATCHED = _STOP_SIGNALS | {signal.SIGCHLD}
_STEADY_SECONDS = 10.0  # a child that has lived this long was started well
_MAX_FALSE_STARTS = 3
_FIRST_PAUSE_SECONDS = 0.5
_LONGEST_PAUSE_SECONDS = 8.0
_MAX_DOUBLINGS = 4
_CONFIGURATION_EXIT = 2


class CannotRun(Exception):
    """The service cannot start or stay up; the message is one line for the operator."""

    def __init__(self, message: str, exit_code: int = 1) -> None:
        super().__init__(message)
        self.exit_code = exit_code


@dataclass(frozen=True, slots=True)
class Address:
    """Where the API listens, and how this machine reaches it."""

    host: str
    port: int

    @property
    def local_host(self) -> str:
        """The host to connect to: a wildcard is reached over loopback."""
        return {"0.0.0.0": "127.0.0.1", "::": "::1"}.get(self.host, self.host)  # noqa: S104

    @property
    def url(self) -> str:
        """The root URL, without a slash at its end."""
        host = f"[{self.local_host}]" if ":" in self.local_host else self.local_host
        return f"http://{host}:{self.port}"


def free_address(host: str, port: int) -> Address:
    """Return the address with port 0 replaced by a free one; `CannotRun` where it is taken."""
    try:
        family, _, _, _, place = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
    except OSError as error:
        raise CannotRun(f"HOST: {host} is no address of this machine ({error.strerror})") from error
    try:
        with socket.create_server(place[:2], family=family) as server:
            return Address(host, server.getsockname()[1])
    except OSError as error:
        if error.errno == errno.EADDRNOTAVAIL:
            raise CannotRun(f"HOST: {host} is no address of this machine") from error
        taken = error.errno == errno.EADDRINUSE
        reason = "is already in use" if taken else f"cannot be used ({error.strerror})"
        raise CannotRun(f"PORT: {port} on {host} {reason}; choose another") from error


def run_command(
    name: str, environment: Mapping[str, str], keep: Iterable[int] = ()
) -> subprocess.Popen[bytes]:
    """Start ``studybuddy name`` as a child that ends with this process."""
    # -P: the folder we happen to be in may hold another package named app.
    command = [sys.executable, "-P", "-m", "app.cli", name]
    whole = {**os.environ, **environment}
    return spawn(command, death_signal=signal.SIGTERM, environment=whole, keep=keep)


Start = Callable[[str, Mapping[str, str], Iterable[int]], subprocess.Popen[bytes]]


@dataclass
class Child:
    """One process that should always be there."""

    name: str
    environment: Mapping[str, str]
    start: Start = run_command
    process: subprocess.Popen[bytes] | None = None
    started_at: float = 0.0
    start_after: float = 0.0
    has_run: bool = False
    """Whether one of the processes has said that it had started."""
    early_exits: int = 0
    _ear: int | None = None

    def tend(self, now: float) -> None:
        """Start the process where it is not there, sooner or later as it behaved before.

        Raises `CannotRun` for one that has never got as far as to start.
        """
        if self._ear is not None:
            with suppress(BlockingIOError):  # it has said nothing yet
                self.has_run |= bool(os.read(self._ear, 1))
                self._stop_listening()
        if self.process is not None and self.process.poll() is not None:
            code, self.process = self.process.returncode, None
            if code == _CONFIGURATION_EXIT and not self.has_run:
                raise CannotRun(f"the {self.name} cannot run with these settings", code)
            self._mourn(now, f"exit code {code}" if code >= 0 else signal.Signals(-code).name)
        if self.process is None and now >= self.start_after:
            self.started_at = now
            self._stop_listening()
            try:
                self._ear, mouth = os.pipe2(os.O_CLOEXEC | os.O_NONBLOCK)
                try:
                    told = {**self.environment, VARIABLE: str(mouth)}
                    self.process = self.start(self.name, told, [mouth])
                finally:
                    os.close(mouth)
            except OSError as error:  # no memory, no process or no descriptor is left
                self._mourn(now, f"{error.strerror}")

    @property
    def alive(self) -> bool:
        """Whether the process runs."""
        return self.process is not None and self.process.poll() is None

    def end(self) -> None:
        """Ask the process to end, without waiting."""
        if self.process is not None:
            self.process.terminate()

    def kill(self) -> None:
        """End the process where it has not ended itself, and wait for that."""
        if self.process is not None:
            self.process.kill()
            self.process.wait()

    def _stop_listening(self) -> None:
        if self._ear is not None:
            os.close(self._ear)
            self._ear = None

    def _mourn(self, now: float, reason: str) -> None:
        early = now - self.started_at < _STEADY_SECONDS
        self.early_exits = self.early_exits + 1 if early or not self.has_run else 1
        if self.early_exits > _MAX_FALSE_STARTS and not self.has_run:
            raise CannotRun(
                f"the {self.name} ended {self.early_exits} times before it had started; "
                "its own messages above tell why"
            )
        pause = pause_after(self.early_exits)
        self.start_after = now + pause
        _say(f"the {self.name} ended ({reason}); starting it again in {pause:g} s")


def pause_after(failures: int) -> float:
    """Return the seconds to wait after so many failures in a row; they double up to a cap."""
    doublings = min(failures - 1, _MAX_DOUBLINGS)
    return min(_FIRST_PAUSE_SECONDS * float(2**doublings), _LONGEST_PAUSE_SECONDS)


@dataclass
class Supervisor:
    """Keeps ``children`` alive until a signal asks to stop.

    ``tend_servers`` is called several times a second, and ``announce`` once, when the API at
    ``address`` says that it is ready.  A server that cannot be had again is tried again, at longer
    and longer intervals.
    """

    children: list[Child]
    address: Address
    announce: Callable[[], None]
    tend_servers: Callable[[], None]
    _announced: bool = field(default=False, init=False)
    _failures: int = field(default=0, init=False)
    _tend_servers_after: float = field(default=0.0, init=False)

    def run(self) -> None:
        """Return after a signal, all children ended; raise `CannotRun` where one cannot live."""
        # Blocked and fetched, not handled: nothing is interrupted half way.
        before = signal.pthread_sigmask(signal.SIG_BLOCK, _WATCHED)
        try:
            self._tick()
            while not _asked_to_stop():
                self._tick()
        finally:
            for child in self.children:
                child.end()
            deadline = time.monotonic() + _STOP_SECONDS
            while any(child.alive for child in self.children) and time.monotonic() < deadline:
                if _asked_to_stop():  # again: somebody does not want to wait
                    break
            for child in self.children:
                child.kill()
            signal.pthread_sigmask(signal.SIG_SETMASK, before)

    def _tick(self) -> None:
        # The servers have run when this process started: what keeps one down will pass.
        if time.monotonic() >= self._tend_servers_after:
            try:
                self.tend_servers()
                self._failures = 0
            except (ConfigurationError, OSError) as error:
                self._failures += 1
                pause = pause_after(self._failures)
                self._tend_servers_after = time.monotonic() + pause
                _say(f"{error}; trying again in {pause:g} s")
        for child in self.children:
            child.tend(time.monotonic())
        if not self._announced and is_ready(self.address):
            self._announced = True
            self.announce()


def _asked_to_stop() -> bool:
    received = signal.sigtimedwait(_WATCHED, _TICK_SECONDS)
    return received is not None and received.si_signo in _STOP_SIGNALS


def is_ready(address: Address) -> bool:
    """Tell whether the API answers there, and has all that it needs."""
    connection = http.client.HTTPConnection(address.local_host, address.port, timeout=1)
    try:
        connection.request("GET", READY_PATH)
        return connection.getresponse().status == http.client.OK
    except (OSError, http.client.HTTPException):
        return False
    finally:
        connection.close()


def _say(text: str) -> None:
    sys.stderr.write(f"studybuddy: {text}\n")
