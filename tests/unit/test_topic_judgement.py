"""What makes a topic stand out: numbers in, numbers out."""

import numpy as np
import pytest

from app.services.topics.judgement import judge, question, reasoning, standing_out

AXES = np.eye(4, dtype=np.float32)


def leaning(similarity: float) -> np.ndarray:
    """Return a unit vector of that similarity with the first axis."""
    return similarity * AXES[0] + np.sqrt(1 - similarity**2, dtype=np.float32) * AXES[3]


@pytest.mark.parametrize(
    ("similarity", "confidence"),
    [(0.56, 0.9945), (0.49, 0.978), (0.30, 0.5), (0.25, 0.269), (-1.0, 0.0)],
)
def test_confidence_is_what_was_measured(similarity: float, confidence: float) -> None:
    confidences, best = judge(AXES[:1], np.array([leaning(similarity)]), 0.15)
    assert confidences == [pytest.approx(confidence, abs=0.001)]
    assert best == [0]


def test_the_best_third_counts_and_the_best_chunk_is_told() -> None:
    chunks = np.array([AXES[1], leaning(0.4), leaning(0.6), AXES[1], AXES[2], AXES[2]])
    third, best = judge(AXES[:2], chunks, 0.15)
    alone, _ = judge(AXES[:1], np.array([leaning(0.5)]), 0.15)
    assert third[0] == pytest.approx(alone[0], abs=1e-5)
    assert best == [2, 0]
    # Of four chunks two are the best third.
    four, _ = judge(AXES[:1], chunks[:4], 0.15)
    assert four == [pytest.approx(alone[0], abs=1e-5)]


@pytest.mark.parametrize(
    ("confidences", "stand_out"),
    [
        ([], []),
        ([0.6], [0]),
        ([0.59], []),
        ([0.2, 0.9, 0.1], [1]),
        ([0.95, 0.9, 0.3], [0, 1]),  # about both
        ([0.65, 0.58], []),  # no lead
        ([0.7, 0.59], [0]),
        ([0.9, 0.65, 0.58], [0]),
    ],
)
def test_what_stands_out(confidences: list[float], stand_out: list[int]) -> None:
    assert standing_out(confidences, 0.6) == stand_out


def test_what_people_read() -> None:
    assert question("Waves", None) == "A lecture about Waves"
    assert question("Waves", "of light") == "A lecture about Waves: of light"
    assert reasoning("Light is a wave.", 75.9) == "1:15 Light is a wave."
    assert reasoning("Light is a wave.", 3661) == "1:01:01 Light is a wave."
    long = reasoning("word " * 200, 0)
    assert long.endswith("word …")
    assert len(long) <= 305
