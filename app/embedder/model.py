"""A model of ONNX at work, with one thread: texts in, vectors out.

Whoever imports this needs the extra ``search``.
"""

import os
from collections.abc import Sequence

import numpy as np
import onnxruntime
from tokenizers import Tokenizer

from app.embedder.embedder import DIMENSIONS, EmbedderFailed, Vectors
from app.embedder.folder import ModelFolder

_CHARACTERS_A_TOKEN = 32
"""More than any text has: what lies beyond so many a token of the window is not looked at."""
_INPUTS = ("input_ids", "attention_mask", "token_type_ids")
_ERRORS_ONLY = 3


class OnnxModel:
    """A folder's model, loaded.  Its calls block, and let other threads run meanwhile.

    Raises `EmbedderFailed`.
    """

    def __init__(self, files: ModelFolder) -> None:
        # A few texts are no work for more than this thread.
        os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
        self._manifest = files.manifest
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = options.inter_op_num_threads = 1
        options.log_severity_level = _ERRORS_ONLY
        try:
            self._tokenizer = Tokenizer.from_file(str(files.folder / "tokenizer.json"))
            self._tokenizer.enable_truncation(files.manifest.max_tokens)
            self._tokenizer.no_padding()
            path = str(files.folder / "model.onnx")
            self._session = onnxruntime.InferenceSession(path, options, ["CPUExecutionProvider"])
        except Exception as error:  # Both libraries raise bare ones of their own.
            raise EmbedderFailed(_line(error)) from error
        self._wanted = {each.name for each in self._session.get_inputs()}
        if unknown := self._wanted - set(_INPUTS):
            raise EmbedderFailed(
                f"model.onnx wants an input that is not known: {min(unknown)[:80]}"
            )

    def embed(self, texts: Sequence[str]) -> Vectors:
        """Return the texts' vectors, a row each, of length one."""
        longest = self._manifest.max_tokens * _CHARACTERS_A_TOKEN
        # Halves of surrogate pairs are no text to the tokenizer.
        readable = [text[:longest].encode(errors="replace").decode() for text in texts]
        # Not `encode`, which keeps every other thread waiting for as long as it takes.
        encoded = self._tokenizer.encode_batch(readable)
        inputs = np.zeros((3, len(texts), max(len(each.ids) for each in encoded)), np.int64)
        for row, each in enumerate(encoded):
            inputs[0, row, : len(each.ids)] = each.ids
            inputs[1, row, : len(each.ids)] = each.attention_mask
            inputs[2, row, : len(each.ids)] = each.type_ids
        named = dict(zip(_INPUTS, inputs, strict=True))
        try:
            hidden = self._session.run(None, {name: named[name] for name in self._wanted})[0]
        except Exception as error:
            raise EmbedderFailed(_line(error)) from error
        if hidden.ndim != 3 or hidden.shape[-1] != DIMENSIONS:
            raise EmbedderFailed(f"its vectors are not of {DIMENSIONS} dimensions")
        if self._manifest.pooling == "cls":
            pooled = hidden[:, 0]
        else:
            mask = inputs[1][:, :, None]
            pooled = (hidden * mask).sum(axis=1) / np.maximum(mask.sum(axis=1), 1)
        length = np.linalg.norm(pooled, axis=1, keepdims=True)
        vectors: Vectors = (pooled / np.maximum(length, 1e-9)).astype(np.float32)
        return vectors


def _line(error: Exception) -> str:
    return " ".join(str(error).split())[:300] or type(error).__name__
