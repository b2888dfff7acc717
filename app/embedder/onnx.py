"""`Embedder` by onnxruntime, in a thread of its own: it holds no lock of the interpreter's.

The files are the operator's, so a thread will do, where strangers' bytes get a child process
(decision 0014).  Needs nothing of the extra ``search`` until there is a model to load.
"""

import asyncio
from collections import OrderedDict
from collections.abc import AsyncIterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager
from functools import cached_property
from importlib.util import find_spec
from typing import TYPE_CHECKING

from app.embedder.assets import MODEL_DIRECTORY
from app.embedder.embedder import DIMENSIONS, EmbedderFailed
from app.embedder.folder import ModelFolder, read_folder
from app.errors import ConfigurationError
from app.ingest.sandbox.run import (
    ChildCrashed,
    ChildError,
    ChildKilled,
    ChildTimedOut,
    Limits,
    run_child,
)
from app.settings import Settings

if TYPE_CHECKING:
    from app.embedder.embedder import Vectors
    from app.embedder.model import OnnxModel

_BATCH = 4
"""A third more short texts a second than one at a time; of passages sixteen are slower than one."""
_REMEMBERED = 1000
_LONGEST_REMEMBERED = 1000
_GIB = 1024**3
_WEIGHTS_COPIES = 3
_CHECK_SECONDS = 120


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
        """As `Embedder.embed`; others get their turn after every four texts."""
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
        if text in self._queries:
            self._queries.move_to_end(text)
            return self._queries[text]
        vector: Vectors = (await self._run([self._files.manifest.query_prefix + text]))[0]
        vector.flags.writeable = False  # It is handed out again.
        if len(text) <= _LONGEST_REMEMBERED:
            self._queries[text] = vector
        if len(self._queries) > _REMEMBERED:
            self._queries.popitem(last=False)
        return vector

    async def load(self) -> None:
        """Load the model now, so that no text has to wait for it.  Raises `EmbedderFailed`."""
        await self._run(["loaded?"])

    def close(self) -> None:
        """Let the thread end with what it is at."""
        self._thread.shutdown(wait=False, cancel_futures=True)

    async def _run(self, texts: list[str]) -> "Vectors":
        loop = asyncio.get_running_loop()
        vectors: Vectors = await loop.run_in_executor(
            self._thread, lambda: self._loaded.embed(texts)
        )
        return vectors

    @cached_property
    def _loaded(self) -> "OnnxModel":
        from app.embedder.model import OnnxModel

        return OnnxModel(self._files)


@asynccontextmanager
async def open_embedder(settings: Settings) -> AsyncIterator[OnnxEmbedder | None]:
    """Open the configured embedder, the installed one where none is; None where there is none.

    A folder that is configured is tried in a child; the installed one was checked by its hash.
    Raises `ConfigurationError` with one line where EMBEDDER names what cannot be used.
    """
    named = settings.embedder
    has_engine = all(map(find_spec, ("numpy", "onnxruntime", "tokenizers")))
    if named == "off" or (named is None and not (has_engine and MODEL_DIRECTORY.is_dir())):
        yield None
        return
    try:
        if not has_engine:
            raise EmbedderFailed("it needs the extra, studybuddy[search]")
        files = await asyncio.to_thread(read_folder, named or MODEL_DIRECTORY)
        if named:
            await _try(files)
        embedder = OnnxEmbedder(files)
        if settings.production:  # Elsewhere most processes end before the first search.
            await embedder.load()
    except EmbedderFailed as error:
        raise ConfigurationError(f"EMBEDDER: {error}") from error
    try:
        yield embedder
    finally:
        embedder.close()


async def _try(files: ModelFolder) -> None:
    """Let the model find known answers in a child, or raise `EmbedderFailed`."""
    memory_bytes = 2 * _GIB + _WEIGHTS_COPIES * files.weights_bytes
    try:
        answer = await run_child(
            "app.embedder.child.check",
            {"folder": str(files.folder)},
            limits=Limits(memory_bytes, _CHECK_SECONDS, file_bytes=0),
            timeout_seconds=_CHECK_SECONDS,
        )
    except ChildCrashed as error:
        errors = " ".join(error.errors.split())[-300:]
        message = f"loading it ended with code {error.return_code}: {errors}"
        raise EmbedderFailed(message) from None
    except ChildTimedOut:
        raise EmbedderFailed(f"it did not embed ten texts in {_CHECK_SECONDS} s") from None
    except (ChildError, ChildKilled) as error:
        raise EmbedderFailed(f"it cannot be loaded ({error})") from None
    if answer["problem"]:
        raise EmbedderFailed(answer["problem"])
