"""The sentences of a chunk, kept with it to find the best one where the chunk was found.

Vectors are kept as bytes, a signed one for each dimension (127 is 1): that is near enough to tell
which of a handful is the nearest.
"""

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from app.embedder.embedder import DIMENSIONS
from app.passages.windows import Window

if TYPE_CHECKING:
    from app.embedder.embedder import Vectors

_WORD_WEIGHT = 0.1
"""How much nearer a sentence is for each of the query's words in it, up to three."""


def places(window: Window) -> list[list[Any]]:
    """Return where each sentence begins in the window's text, and when."""
    return [
        [sentence.start_character - window.start_character, sentence.start_seconds]
        for sentence in window.sentences
    ]


def pack(vectors: "Vectors") -> bytes:
    """Return the vectors as they are kept."""
    import numpy as np

    return bytes(np.rint(vectors * 127).astype(np.int8).tobytes())


def best_start(
    sentences: Sequence[Sequence[Any]],
    vectors: bytes | None,
    query: "Vectors | None",
    highlights: Sequence[tuple[int, int]],
) -> float:
    """Return when the sentence begins that has most to do with the query.

    ``sentences`` and ``vectors`` are the chunk's, ``highlights`` the query's words in its text.
    """
    starts = [place for place, _ in sentences]
    words = [0] * len(starts)
    for start, _ in highlights:
        words[max((n for n, place in enumerate(starts) if place <= start), default=0)] += 1
    scores = [_WORD_WEIGHT * min(count, 3) for count in words]
    if query is not None and vectors:
        import numpy as np

        kept = np.frombuffer(vectors, np.int8).reshape(-1, DIMENSIONS).astype(np.float32)
        nearness = (kept @ query / 127).tolist()
        scores = [score + near for score, near in zip(scores, nearness, strict=True)]
    best = max(range(len(scores)), key=lambda number: (scores[number], -number))
    seconds: float = sentences[best][1]
    return seconds
