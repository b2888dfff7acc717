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
    """How the model is used: its name, how a text's tokens become one vector, what goes before."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    name: Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]{0,63}$")]
    pooling: Literal["mean", "cls"] = "mean"
    max_tokens: Annotated[int, Field(ge=16, le=8192)] = 256
    least_similarity: Annotated[float, Field(ge=-1, le=1)] = 0.0
    query_prefix: str = ""
    passage_prefix: str = ""


@dataclass(frozen=True, slots=True)
class ModelFolder:
    """A folder whose files are there, and the id that tells its vectors from those of others."""

    folder: Path
    manifest: Manifest
    model: str


def read_folder(folder: Path) -> ModelFolder:
    """Return what the folder holds, or raise `EmbedderFailed` with what is wrong with it."""
    if not folder.is_dir():
        raise EmbedderFailed("there is no such folder")
    missing = [name for name in _FILES if not (folder / name).is_file()]
    if missing:
        raise EmbedderFailed(f"it has no {', no '.join(missing)}")
    digest = hashlib.sha256()
    for name in _FILES:
        with (folder / name).open("rb") as content:
            if content.read(len(_POINTER)) == _POINTER:
                raise EmbedderFailed(f"{name} is a pointer of Git LFS, not the file")
            content.seek(0)
            digest.update(hashlib.file_digest(content, "sha256").digest())
    try:
        manifest = Manifest.model_validate_json((folder / "manifest.json").read_bytes())
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(map(str, first["loc"]))
        raise EmbedderFailed(f"manifest.json: {where} {first['msg']}".strip()) from error
    return ModelFolder(folder, manifest, f"{manifest.name}-{digest.hexdigest()[:12]}")
