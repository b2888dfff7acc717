"""Which sentences sum up a lecture, by vectors made for it."""

from typing import TYPE_CHECKING

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from app.passages.central import central_sentences

if TYPE_CHECKING:
    from app.embedder.embedder import Vectors

LIGHT = "Plants turn the light of the sun into sugar."
LEAF = "All of this happens in the green leaves of a plant."
WATER = "Water rises from the roots to where it is needed."
AGAIN = "So a plant makes sugar out of the light of the sun."
ASIDE = "The exam will be in the large hall next Tuesday."


def vectors(*rows: tuple[float, ...]) -> "Vectors":
    found = np.array(rows, np.float32).reshape(len(rows), -1)
    return found / np.linalg.norm(found, axis=1, keepdims=True)


CENTRE = (1, 0, 0, 0)
NEAR = [(3, 2, 0, 0), (3, 0, 2, 0), (3, 0, 0, 2)]
ASTRAY = (0, 1, -1, 0)


def test_the_most_central_ones_in_their_order() -> None:
    found = central_sentences([ASIDE, LEAF, WATER, LIGHT], vectors(ASTRAY, *NEAR))
    assert found == [1, 2, 3]


def test_one_that_says_the_same_is_passed_over() -> None:
    sentences = [LIGHT, AGAIN, LEAF, WATER]
    found = central_sentences(sentences, vectors(CENTRE, CENTRE, *NEAR[:2]), 2)
    assert 1 not in found
    assert central_sentences([LIGHT, AGAIN], vectors(CENTRE, CENTRE)) == [0]


@pytest.mark.parametrize(
    "weak",
    ["Plants.", "and then there is the light of the", "Does a plant turn its light into sugar?"],
)
def test_what_does_not_stand_alone_is_taken_last(weak: str) -> None:
    around = vectors(CENTRE, *NEAR)
    assert central_sentences([weak, LIGHT, LEAF, WATER], around) == [1, 2, 3]


def test_captions_without_punctuation_have_a_summary_too() -> None:
    bare = [text.rstrip(".").lower() for text in (LIGHT, LEAF, WATER)]
    assert central_sentences(bare, vectors(*NEAR)) == [0, 1, 2]
    assert central_sentences(["Yes.", "No."], vectors(*NEAR[:2])) == [0]


def test_scripts_without_spaces_have_whole_sentences() -> None:
    chinese = ["植物把太阳的光转化为糖分和氧气。", "好。", "水从根部上升到需要它的叶子里。"]
    assert central_sentences(chinese, vectors(NEAR[0], CENTRE, NEAR[1])) == [0, 2]


@given(st.lists(st.text(), max_size=20), st.integers(1, 5), st.integers(0, 2**32 - 1))
def test_any_text_gives_ascending_numbers(texts: list[str], count: int, seed: int) -> None:
    made = np.random.default_rng(seed).normal(size=(len(texts), 8)).astype(np.float32)
    found = central_sentences(texts, made / np.linalg.norm(made, axis=1, keepdims=True), count)
    assert found == sorted(set(found))
    assert bool(found) == bool(texts)
    assert len(found) <= count
