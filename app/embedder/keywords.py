"""A passage's keywords: YAKE's candidates, those first that say most of what the passage is about.

YAKE: Campos et al., "YAKE! Keyword extraction from single documents using multiple local features"
(Information Sciences 509, 2020).
"""

import asyncio
from collections.abc import Sequence
from importlib.util import find_spec

from app.embedder.embedder import Embedder

MOST = 8
_CANDIDATES = 16
_LONGEST_PHRASE = 3
_MOST_CHARACTERS = 10_000
_LONGEST_WORD = 60


async def keywords(
    texts: Sequence[str], language: str | None, embedder: Embedder | None
) -> list[list[str]]:
    """Return up to eight keywords of each text, the best first; none where YAKE is not installed.

    ``language`` is a BCP 47 tag, whose stop words are left out.
    """
    if find_spec("yake") is None:
        return [[] for _ in texts]
    found = await asyncio.to_thread(_candidates, texts, (language or "en").split("-")[0])
    if embedder is None:
        return [each[:MOST] for each in found]
    distinct = sorted({phrase for each in found for phrase in each})
    place = {phrase: number for number, phrase in enumerate(distinct)}
    vectors = await embedder.embed([*distinct, *texts])
    phrases, passages = vectors[: len(distinct)], vectors[len(distinct) :]
    return [
        sorted(each, key=lambda phrase: -float(phrases[place[phrase]] @ passage))[:MOST]
        for each, passage in zip(found, passages, strict=True)
    ]


def _candidates(texts: Sequence[str], language: str) -> list[list[str]]:
    """Return YAKE's for each text, none of them within another, nor in other letters' case."""
    import yake

    extractor = yake.KeywordExtractor(lan=language, n=_LONGEST_PHRASE, top=_CANDIDATES)
    found = []
    for text in texts:
        # What is no word of any language is not compared letter by letter with all others.
        words = [word for word in text[:_MOST_CHARACTERS].split() if len(word) <= _LONGEST_WORD]
        chosen: dict[str, str] = {}
        for phrase, _ in extractor.extract_keywords(" ".join(words)):
            chosen.setdefault(phrase.casefold(), phrase)
        within = [
            key for key in chosen if any(key != other and key in other.split() for other in chosen)
        ]
        found.append([phrase for key, phrase in chosen.items() if key not in within])
    return found
