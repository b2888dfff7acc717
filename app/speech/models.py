"""The models that the configuration names, as folders of CTranslate2."""

import hashlib
import json
from dataclasses import dataclass
from pathlib import Path

from app.speech.assets import MODEL_DIRECTORY
from app.speech.languages import CODES
from app.speech.transcriber import SpeechModel

_WEIGHTS = "model.bin"
_NEEDED = (_WEIGHTS, "config.json", "tokenizer.json")
_VOCABULARIES = ("vocabulary.json", "vocabulary.txt")
_ENGLISH_ONLY_TOKENS = 51_864
"""Whisper's English-only models have no tokens for languages, and one token less than any other."""
_TOKENS_WITHOUT_CANTONESE = 51_865
"""Models before large-v3 do not know it, and write something else where they are told to."""
_LEAST_WEIGHTS_BYTES = 1024 * 1024
_SAMPLE_BYTES = 1024 * 1024


@dataclass(frozen=True, slots=True)
class ModelFolder:
    """A model, where it lies, and the languages that it can be told, by the engine's codes."""

    model: SpeechModel
    folder: Path
    codes: frozenset[str]
    weights_bytes: int


def problem_with_files(folder: Path) -> str | None:
    """Return what is wrong with the folder, as far as its files tell without loading them."""
    if not folder.is_dir():
        return "there is no such folder"
    missing = [name for name in _NEEDED if not (folder / name).is_file()]
    if not any((folder / name).is_file() for name in _VOCABULARIES):
        missing.append(" or ".join(_VOCABULARIES))
    if missing:
        return f"it has no {', no '.join(missing)}"
    weights = folder / _WEIGHTS
    with weights.open("rb") as content:
        if content.read(8) == b"version ":
            return f"{_WEIGHTS} is a pointer of Git LFS, not the weights"
    if weights.stat().st_size < _LEAST_WEIGHTS_BYTES:
        return f"{_WEIGHTS} is too small to be weights"
    if not _tokens(folder):
        return "its vocabulary has no words"
    return None


def folders_of(configured: tuple[tuple[str, Path], ...] | None) -> list[ModelFolder]:
    """Return the configured models, the default first; the installed one where none are configured.

    A folder that is not on this machine, as where only workers have them, is taken to be what its
    name says: one that ends with ``.en`` knows English alone.
    """
    if configured is None:
        configured = (("base", MODEL_DIRECTORY),) if MODEL_DIRECTORY.is_dir() else ()
    return [_folder(name, folder) for name, folder in configured]


def _folder(name: str, folder: Path) -> ModelFolder:
    version, weights_bytes = "", 0
    is_english, codes = name.endswith(".en"), frozenset(CODES.values())
    if problem_with_files(folder) is None:
        tokens = _tokens(folder)
        version, weights_bytes = _version(folder), (folder / _WEIGHTS).stat().st_size
        is_english = tokens <= _ENGLISH_ONLY_TOKENS
        codes -= {"yue"} if tokens <= _TOKENS_WITHOUT_CANTONESE else set()
    if is_english:
        codes = frozenset({"en"})
    model = SpeechModel(name, version, ("en",) if is_english else ())
    return ModelFolder(model, folder, codes, weights_bytes)


def _tokens(folder: Path) -> int:
    """Return how many tokens the model's vocabulary has, 0 for what is no vocabulary."""
    text = folder / "vocabulary.txt"
    if text.is_file():
        return text.read_bytes().count(b"\n")
    try:
        words = json.loads((folder / "vocabulary.json").read_bytes())
    except ValueError:
        return 0
    return len(words) if isinstance(words, list) else 0


def _version(folder: Path) -> str:
    """Return what changes with the weights: a hash of their size, beginning and end."""
    with (folder / _WEIGHTS).open("rb") as weights:
        size_bytes = weights.seek(0, 2)
        digest = hashlib.sha256(str(size_bytes).encode())
        for start in (0, max(0, size_bytes - _SAMPLE_BYTES)):
            weights.seek(start)
            digest.update(weights.read(_SAMPLE_BYTES))
    return digest.hexdigest()[:12]
