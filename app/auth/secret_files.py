"""Secrets of a development installation: files under DATA_DIR that are made once."""

import os
import secrets
from collections.abc import Callable
from pathlib import Path

from app.errors import ConfigurationError


def read_or_create(path: Path, make: Callable[[], bytes]) -> bytes:
    """Return the file's bytes; where there is no file, make it first, mode 0600.

    Of processes that do this at once, all return the same bytes.  Raises `ConfigurationError`
    where the file can be neither read nor made.
    """
    try:
        if not path.exists():
            path.parent.mkdir(parents=True, exist_ok=True)
            _publish(path, make())
        path.chmod(0o600)
        return path.read_bytes()
    except OSError as error:
        reason = os.strerror(error.errno) if error.errno else "unreadable"
        raise ConfigurationError(f"DATA_DIR: {path.name} cannot be used ({reason})") from None


def _publish(path: Path, content: bytes) -> None:
    """Put the whole content at the path, or leave what another process put there first."""
    draft = path.with_name(f".{path.name}.{secrets.token_hex(8)}")
    descriptor = os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
    try:
        with os.fdopen(descriptor, "wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        # A link, unlike a rename, fails where the name is taken: the first one wins.
        os.link(draft, path)
    except FileExistsError:
        return
    finally:
        draft.unlink()
