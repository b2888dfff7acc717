"""`Embedder` by onnxruntime, in a thread of its own: it holds no lock of the interpreter's.

The files are the operator's, so a thread will do, where strangers' bytes get a child process
(decision 0014).
"""

import asyncio
from collections import OrderedDict
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import cached_property
from importlib.util import find_spec
from typing import TYPE_CHECKING, Any

from app.embedder.assets import MODEL_DIRECTORY
from app.embedder.embedder import DIMENSIONS, EmbedderFailed
from app.embedder.folder import ModelFolder, read_folder
from app.errors import ConfigurationError
from app.settings import Settings

if TYPE_CHECKING:
    from app.embedder.embedder import Vectors

_BATCH = 16
_REMEMBERED = 1000
_MOST_CHARACTERS = 20_000
"""Of a text: far more than any window, and little enough for the tokenizer."""

_ALIKE = ("How do plants turn sunlight into food?", "Photosynthesis makes sugar with light.")
_OTHER = "The court dismissed the appeal on procedural grounds."


class OnnxEmbedder:
    """A folder's model, loaded with its first text."""

    def __init__(self, files: ModelFolder) -> None:
        self._files = files
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="embedder")
        self._queries: OrderedDict[str, Vectors] = OrderedDict()

    @property
    def model(self) -> str:
        """As `Embedder.model`."""
        return self._files.model

    @property
    def least_similarity(self) -> float:
        """As `Embedder.least_similarity`."""
        return self._files.manifest.least_similarity

    async def embed(self, texts: Sequence[str]) -> "Vectors":
        """As `Embedder.embed`; others get their turn after every 16 texts."""
        import numpy as np

        prefix = self._files.manifest.passage_prefix
        # Those of one length together: a batch is as long as its longest.
        order = sorted(range(len(texts)), key=lambda number: len(texts[number]))
        vectors = np.zeros((len(texts), DIMENSIONS), np.float32)
        for start in range(0, len(order), _BATCH):
            numbers = order[start : start + _BATCH]
            vectors[numbers] = await self._run([prefix + texts[number] for number in numbers])
        return vectors

    async def embed_query(self, text: str) -> "Vectors":
        """As `Embedder.embed_query`."""
        if text not in self._queries:
            (vector,) = await self._run([self._files.manifest.query_prefix + text])
            self._queries[text] = vector
            if len(self._queries) > _REMEMBERED:
                self._queries.popitem(last=False)
        self._queries.move_to_end(text)
        return self._queries[text]

    async def check(self) -> None:
        """Raise `EmbedderFailed` unless the model tells apart what has to do with each other."""
        near, far, other = await self.embed([*_ALIKE, _OTHER])
        if float(near @ far) <= float(near @ other):
            raise EmbedderFailed("it takes photosynthesis for a matter of courts")

    def close(self) -> None:
        """Let the thread end with what it is at."""
        self._thread.shutdown(wait=False, cancel_futures=True)

    async def _run(self, texts: list[str]) -> "Vectors":
        return await asyncio.get_running_loop().run_in_executor(self._thread, self._embed, texts)

    @cached_property
    def _loaded(self) -> tuple[Any, Any]:
        """The tokenizer and the session."""
        import onnxruntime
        from tokenizers import Tokenizer

        try:
            tokenizer = Tokenizer.from_file(str(self._files.folder / "tokenizer.json"))
            tokenizer.enable_truncation(self._files.manifest.max_tokens)
            tokenizer.no_padding()
            options = onnxruntime.SessionOptions()
            options.intra_op_num_threads = options.inter_op_num_threads = 1
            options.log_severity_level = 3
            path = str(self._files.folder / "model.onnx")
            session = onnxruntime.InferenceSession(path, options, ["CPUExecutionProvider"])
        except Exception as error:  # Both libraries raise bare ones of their own.
            raise EmbedderFailed(" ".join(str(error).split())[:300]) from error
        return tokenizer, session

    def _embed(self, texts: list[str]) -> "Vectors":
        import numpy as np

        tokenizer, session = self._loaded
        encoded = [
            tokenizer.encode(text[:_MOST_CHARACTERS].encode(errors="replace").decode())
            for text in texts
        ]
        longest = max(len(each.ids) for each in encoded)
        inputs = np.zeros((3, len(texts), max(1, longest)), np.int64)
        for row, each in enumerate(encoded):
            inputs[0, row, : len(each.ids)] = each.ids
            inputs[1, row, : len(each.ids)] = each.attention_mask
            inputs[2, row, : len(each.ids)] = each.type_ids
        named = dict(zip(("input_ids", "attention_mask", "token_type_ids"), inputs, strict=True))
        wanted = {each.name for each in session.get_inputs()}
        try:
            hidden = session.run(None, {name: named[name] for name in wanted})[0]
        except Exception as error:
            raise EmbedderFailed(" ".join(str(error).split())[:300]) from error
        if hidden.ndim != 3 or hidden.shape[-1] != DIMENSIONS:
            raise EmbedderFailed(f"its vectors are not of {DIMENSIONS} dimensions")
        if self._files.manifest.pooling == "cls":
            pooled = hidden[:, 0]
        else:
            mask = inputs[1][:, :, None]
            pooled = (hidden * mask).sum(axis=1) / np.maximum(mask.sum(axis=1), 1)
        length = np.linalg.norm(pooled, axis=1, keepdims=True)
        vectors: Vectors = (pooled / np.maximum(length, 1e-9)).astype(np.float32)
        return vectors


def make_embedder(settings: Settings) -> OnnxEmbedder | None:
    """Return the configured embedder, the installed one where none is, or None where there is none.

    Raises `ConfigurationError` where EMBEDDER names what is none.
    """
    if settings.embedder == "off":
        return None
    if settings.embedder is None:
        is_there = MODEL_DIRECTORY.is_dir() and all(map(find_spec, ("onnxruntime", "tokenizers")))
        return OnnxEmbedder(read_folder(MODEL_DIRECTORY)) if is_there else None
    try:
        return OnnxEmbedder(read_folder(settings.embedder))
    except EmbedderFailed as error:
        raise ConfigurationError(f"EMBEDDER: {error}") from error
