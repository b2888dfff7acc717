"""How much a transcript has to do with each of a user's topics, as numbers alone.

Measured on lectures with all-MiniLM-L6-v2: the similarity of a topic with the best third of the
chunks was 0.49 to 0.56 where it was right, and 0.25 at most where it was not.
"""

from collections.abc import Sequence
from textwrap import shorten
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from app.embedder.embedder import Vectors

LEAD = 0.1
"""What a topic's confidence must be ahead of those that are not assigned."""

_ABOVE_LEAST = 0.15
_STEEPNESS = 0.05
_MOST_CHARACTERS = 300


def question(name: str, description: str | None) -> str:
    """Return the text whose vector is the topic's."""
    return f"A lecture about {name}: {description}" if description else f"A lecture about {name}"


def judge(
    topics: "Vectors", chunks: "Vectors", least_similarity: float
) -> tuple[list[float], list[int]]:
    """Return for each topic its confidence (0 to 1), and which chunk speaks most for it.

    Both are unit vectors, a row each, one of either at least.  ``least_similarity`` is the
    embedder's: a confidence of a half is 0.15 above it.
    """
    import numpy as np

    nearness = topics @ chunks.T
    best_third = np.sort(nearness, axis=1)[:, -((len(chunks) + 2) // 3) :]
    distance = (best_third.mean(axis=1) - (least_similarity + _ABOVE_LEAST)) / _STEEPNESS
    confidences = 1 / (1 + np.exp(-distance.astype(np.float64)))
    return confidences.tolist(), nearness.argmax(axis=1).tolist()


def standing_out(confidences: Sequence[float], threshold: float) -> list[int]:
    """Return which of them are at the threshold or above, and ahead of all that are below it.

    Two topics that a lecture is about do not stand in each other's way.
    """
    others = max((each for each in confidences if each < threshold), default=0.0)
    least = max(threshold, others + LEAD)
    return [number for number, each in enumerate(confidences) if each >= least]


def reasoning(text: str, start_seconds: float) -> str:
    """Return the passage with its time, as people read it."""
    minutes, seconds = divmod(int(start_seconds), 60)
    hours, minutes = divmod(minutes, 60)
    at = f"{hours}:{minutes:02}:{seconds:02}" if hours else f"{minutes}:{seconds:02}"
    return f"{at} {shorten(text, _MOST_CHARACTERS, placeholder=' …')}"
