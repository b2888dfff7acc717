"""Pieces of a page's text, as search sees them."""

import re

from app.passages.sentences import ENDS

MOST_WORDS = 200
MOST_CHARACTERS = 2000
"""Of a piece: words are few where a script has no spaces."""

_SENTENCES = re.compile(rf".+?(?:[.{ENDS}](?=\s)|\n\n+|$)", re.DOTALL)


def split_page(text: str) -> list[str]:
    """Return the pieces in order, each of at most 200 words, cut behind sentences where it can be.

    Of the text nothing but white space is left out.
    """
    pieces: list[str] = []
    begun, words = "", 0
    for match in _SENTENCES.finditer(text):
        for part in _bounded(match.group()):
            count = len(part.split())
            if begun and (words + count > MOST_WORDS or len(begun) + len(part) > MOST_CHARACTERS):
                pieces.append(begun.strip())
                begun, words = "", 0
            begun += part
            words += count
    pieces.append(begun.strip())
    return [piece for piece in pieces if piece]


def _bounded(sentence: str) -> list[str]:
    """Return the sentence, in parts where it is longer than a piece may be."""
    parts: list[str] = []
    begun: list[str] = []
    length = 0
    for word in re.findall(rf"\s*\S{{1,{MOST_CHARACTERS}}}|\s+$", sentence):
        if len(begun) == MOST_WORDS or length + len(word) > MOST_CHARACTERS:
            parts.append("".join(begun))
            begun, length = [], 0
        begun.append(word)
        length += len(word)
    return [*parts, "".join(begun)]
