"""The sentences of a chunk, kept with it to find the best one where the chunk was found.

Vectors are kept as bytes, a signed one for each dimension (127 is 1): that is near enough to tell
which of a handful is the nearest.
"""

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from app.db.models import TranscriptionChunk
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
    chunk: TranscriptionChunk,
    query: "Vectors | None",
    highlights: Sequence[tuple[int, int]],
) -> float:
    """Return when the sentence begins that has most to do with the query, else the chunk."""
    starts = [place for place, _ in chunk.sentences]
    if not starts:
        return chunk.start_time
    counts = [0.0] * len(starts)
    for start, _ in highlights:
        number = max((n for n, place in enumerate(starts) if place <= start), default=0)
        counts[number] += 1
    scores = [_WORD_WEIGHT * min(count, 3) for count in counts]
    if query is not None and chunk.sentence_vectors:
        import numpy as np

        kept = np.frombuffer(chunk.sentence_vectors, np.int8).reshape(-1, DIMENSIONS)
        if len(kept) == len(scores):
            nearness = kept.astype(np.float32) @ query / 127
            scores = [score + float(near) for score, near in zip(scores, nearness, strict=True)]
    best = max(range(len(scores)), key=lambda number: (scores[number], -number))
    seconds: float = chunk.sentences[best][1]
    return seconds
