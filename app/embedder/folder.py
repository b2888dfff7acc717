"""A model's folder: ``model.onnx``, ``tokenizer.json`` and ``manifest.json`` (docs/search.md)."""

import hashlib
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from app.embedder.embedder import EmbedderFailed

_FILES = ("model.onnx", "tokenizer.json", "manifest.json")
_POINTER = b"version https://git-lfs"


class Manifest(BaseModel):
    """How the model is used: its name, how a text's tokens become one vector, what goes before.

    ``sha256`` is what files must hash to, by their names.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    name: Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]{0,63}$")]
    pooling: Literal["mean", "cls"] = "mean"
    max_tokens: Annotated[int, Field(ge=16, le=2048)] = 256
    least_similarity: Annotated[float, Field(ge=-1, le=1)] = 0.0
    query_prefix: Annotated[str, Field(max_length=1000)] = ""
    passage_prefix: Annotated[str, Field(max_length=1000)] = ""
    sha256: dict[str, str] = {}


@dataclass(frozen=True, slots=True)
class ModelFolder:
    """A folder whose files are there, and the id that tells its vectors from those of others."""

    folder: Path
    manifest: Manifest
    model: str
    weights_bytes: int


def read_folder(folder: Path) -> ModelFolder:
    """Return what the folder holds, or raise `EmbedderFailed` with what is wrong with it."""
    if not folder.is_dir():
        raise EmbedderFailed("there is no such folder")
    missing = [name for name in _FILES if not (folder / name).is_file()]
    if missing:
        raise EmbedderFailed(f"it has no {', no '.join(missing)}")
    try:
        manifest = Manifest.model_validate_json((folder / "manifest.json").read_bytes())
        # Weights may lie in a second file, `model.onnx_data` or `model.onnx.data`.
        weights = sorted(folder.glob("model.onnx*"))
        files = [*weights, folder / "tokenizer.json", folder / "manifest.json"]
        hashes = {path.name: _hash(path) for path in files}
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(map(str, first["loc"]))
        reason = " ".join(f"{where} {first['msg']}".split())
        raise EmbedderFailed(f"manifest.json: {reason[:300]}") from error
    except OSError as error:
        name = Path(error.filename or folder).name
        raise EmbedderFailed(f"{name} cannot be read ({error.strerror})") from error
    for name, wanted in manifest.sha256.items():
        if hashes.get(name) != wanted.lower():
            raise EmbedderFailed(f"{name[:80]} has not the SHA-256 that manifest.json gives")
    digest = hashlib.sha256("".join(hashes.values()).encode()).hexdigest()
    weights_bytes = sum(path.stat().st_size for path in weights)
    return ModelFolder(folder, manifest, f"{manifest.name}-{digest[:12]}", weights_bytes)


def _hash(path: Path) -> str:
    with path.open("rb") as content:
        if content.read(len(_POINTER)) == _POINTER:
            raise EmbedderFailed(f"{path.name} is a pointer of Git LFS, not the file")
        content.seek(0)
        return hashlib.file_digest(content, "sha256").hexdigest()
