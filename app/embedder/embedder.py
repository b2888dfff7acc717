"""What search needs of a model of meaning."""

from collections.abc import Sequence
from typing import TYPE_CHECKING, Protocol, TypeAlias

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

Vectors: TypeAlias = "NDArray[np.float32]"
DIMENSIONS = 384


class EmbedderFailed(Exception):
    """The model cannot be used: it is not there, or not what it seemed."""


class Embedder(Protocol):
    """Turns texts into unit vectors of 384 dimensions, whose dot product is how near they are.

    Any text does; what is longer than the model's window is cut there.  Raises `EmbedderFailed`.
    """

    @property
    def model(self) -> str:
        """What is stored with each vector: it changes with whatever changes vectors."""
        ...

    @property
    def least_similarity(self) -> float:
        """Below it, two texts have nothing to do with each other."""
        ...

    async def embed(self, texts: Sequence[str]) -> "Vectors":
        """Return the passages' vectors, a row each (float32)."""
        ...

    async def embed_query(self, text: str) -> "Vectors":
        """Return the query's vector (float32), those of the last thousand from memory."""
        ...
