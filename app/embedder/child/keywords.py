"""The child's task that picks the phrases that texts may be about: YAKE, on strangers' texts."""

from __future__ import annotations

from collections.abc import Iterable
from difflib import SequenceMatcher
from itertools import islice
from typing import Any

from yake import KeywordExtractor

_MOST_WORDS = 3
_CANDIDATES = 40
_LONGEST = 80
_LEAST_LETTERS = 3
_NEAR = 0.8


def run(arguments: dict[str, Any]) -> dict[str, Any]:
    """Return ``{"phrases": [[…], …]}``, up to ``most`` of each of the ``texts``, the best first.

    ``language`` is a code of two letters; that YAKE has no stop words for it is no error.
    """
    extractor = KeywordExtractor(lan=arguments["language"], n=_MOST_WORDS, top=_CANDIDATES)
    found = (extractor.extract_keywords(text) for text in arguments["texts"])
    return {
        "phrases": [
            list(islice(_apart(phrase for phrase, _ in each), arguments["most"])) for each in found
        ]
    }


def _apart(phrases: Iterable[str]) -> Iterable[str]:
    """Yield the phrases that can be shown, and are no variants of one before."""
    chosen: list[str] = []
    for phrase in phrases:
        folded = phrase.casefold()
        is_readable = sum(map(str.isalpha, phrase)) >= _LEAST_LETTERS and phrase.isprintable()
        if not is_readable or len(phrase) > _LONGEST:
            continue
        if not any(_are_near(folded, other) for other in chosen):
            chosen.append(folded)
            yield phrase


def _are_near(one: str, other: str) -> bool:
    """Whether one has the other's words, or differs from it by little more than an ending."""
    words, others = set(one.split()), set(other.split())
    alike = SequenceMatcher(None, one, other, autojunk=False).ratio()
    return words <= others or others <= words or alike > _NEAR
