"""The sentences that say most of what a lecture is about, without a language model."""

import re
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

from app.passages.sentences import ENDS

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

SENTENCES = 3
SAME = 0.8
"""The cosine from which on one sentence says what another has said."""

_WORD = re.compile(r"\w+")
_FEWEST_WORDS = 5
_MOST_WORDS = 60
_FEWEST_CHARACTERS = 12
"""Of a sentence in a script that puts no space between words."""


def central_sentences(
    sentences: Sequence[str], vectors: "NDArray[np.float32]", count: int = SENTENCES
) -> list[int]:
    """Return the indexes of the ``count`` most central sentences, ascending; fewer where need be.

    A sentence is central by its mean cosine to all others; its vector has length one.  One that
    says the same as another that is taken is passed over.  Fragments are taken only where there are
    too few whole sentences, and ones of a few words only where there is nothing else.
    """
    centrality = vectors @ vectors.sum(axis=0)
    ranked = sorted(range(len(sentences)), key=lambda n: (-float(centrality[n]), n))
    chosen: list[int] = []
    tests: tuple[Callable[[str], bool], ...] = (_is_whole, _is_long)
    for is_fit in tests:
        for number in ranked:
            if len(chosen) == count:
                break
            is_new = all(float(vectors[number] @ vectors[other]) < SAME for other in chosen)
            if is_new and number not in chosen and is_fit(sentences[number]):
                chosen.append(number)
    return sorted(chosen or ranked[:1])


def _is_long(sentence: str) -> bool:
    """Whether it has as many words as it takes to say something, and fewer than a speech."""
    words = len(_WORD.findall(sentence))
    is_spaced = " " in sentence.strip()
    enough = words >= _FEWEST_WORDS if is_spaced else len(sentence) >= _FEWEST_CHARACTERS
    return enough and words <= _MOST_WORDS


def _is_whole(sentence: str) -> bool:
    """Whether it is long enough and ends as sentences do, and not as questions do."""
    end = sentence.rstrip("\"'”’»)]}』」）")[-1:]  # noqa: RUF001 - as they are
    return _is_long(sentence) and end in f".{ENDS}" and end not in "?？؟…"  # noqa: RUF001
