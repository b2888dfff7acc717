"""A passage's keywords: YAKE's candidates, those first that say most of what the passage is about.

YAKE: Campos et al., "YAKE! Keyword extraction from single documents using multiple local features"
(Information Sciences 509, 2020).  It runs in a child process: it is Python that holds the
interpreter's lock, with regular expressions that meet strangers' texts.
"""

from collections.abc import Sequence
from importlib.util import find_spec
from typing import TYPE_CHECKING

import structlog

from app.embedder.embedder import Embedder
from app.ingest.sandbox.run import ChildError, Limits, run_child

if TYPE_CHECKING:
    from app.embedder.embedder import Vectors

log = structlog.get_logger(__name__)

MOST = 8
_CANDIDATES = 12
_MOST_CHARACTERS = 10_000
_LONGEST_WORD = 60
_SECONDS = 300
"""For a lecture of a day, which takes a minute."""
_LIMITS = Limits(memory_bytes=1024**3, cpu_seconds=_SECONDS, file_bytes=0)
_ANSWER_BYTES = 16 * 1024
"""Of a text: its candidates, where JSON writes each of 80 characters as two of six letters."""


async def keywords(
    texts: Sequence[str],
    language: str | None,
    embedder: Embedder | None,
    passages: "Vectors | None",
) -> list[list[str]]:
    """Return up to eight keywords of each text, the best first; none where YAKE is not installed.

    Each has up to three words of the text and 80 characters, and is no variant of another: with a
    word more or less, in other letters' case, or with another ending.  ``language`` is a BCP 47
    tag, whose stop words are left out.  Without an embedder and the texts' vectors (``passages``)
    the order is YAKE's.  Of a text the
    first 10,000 characters are read, and no word of more than 60.  What YAKE cannot cope with has
    no keywords, and a line in the log.  Raises `ChildKilled` where somebody ended YAKE.
    """
    if not texts or find_spec("yake") is None:
        return [[] for _ in texts]
    arguments = {
        "texts": [_words_of(text) for text in texts],
        "language": (language or "en").split("-")[0].lower(),
        "most": MOST if embedder is None else _CANDIDATES,
    }
    try:
        answer = await run_child(
            "app.embedder.child.keywords",
            arguments,
            limits=_LIMITS,
            timeout_seconds=_SECONDS,
            max_answer_bytes=1024 + len(texts) * _ANSWER_BYTES,
        )
    except ChildError as error:
        log.warning("keywords_not_found", reason=str(error) or type(error).__name__)
        return [[] for _ in texts]
    found: list[list[str]] = answer["phrases"]
    if embedder is None or passages is None:
        return found
    distinct = sorted({phrase for each in found for phrase in each})
    place = {phrase: number for number, phrase in enumerate(distinct)}
    phrases = await embedder.embed(distinct)
    chosen = []
    for each, passage in zip(found, passages, strict=True):
        nearness = phrases[[place[phrase] for phrase in each]] @ passage if each else passage[:0]
        chosen.append([each[number] for number in (-nearness).argsort(kind="stable")[:MOST]])
    return chosen


def _words_of(text: str) -> str:
    """Return the text without what is no word of any language, which YAKE compares by letters."""
    readable = text[:_MOST_CHARACTERS].encode(errors="replace").decode()
    return " ".join(word for word in readable.split() if len(word) <= _LONGEST_WORD)
