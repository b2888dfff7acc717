"""What is said in the demonstration's lecture, and how much of it was understood."""

from collections.abc import Sequence

SAID = (
    "It was the best of times, it was the worst of times, it was the age of wisdom, it was the "
    "age of foolishness, it was the epoch of belief, it was the epoch of incredulity, it was "
    "the season of light, it was the season of darkness, it was the spring of hope, it was the "
    "winter of despair. We had everything before us, we had nothing before us. We were all "
    "going direct to heaven, we were all going direct the other way. In short, the period was "
    "so far like the present period that some of its noisiest authorities insisted on its being "
    "received, for good or for evil, in the superlative degree of comparison only."
)
"""Charles Dickens, A Tale of Two Cities, 1859: the recording `two_cities.wav`."""


def words_of(text: str) -> list[str]:
    """Return the words without case and punctuation."""
    return "".join(each if each.isalnum() else " " for each in text.lower()).split()


def word_error_rate(said: Sequence[str], heard: Sequence[str]) -> float:
    """Return the substitutions, deletions and insertions over the words said (Levenshtein)."""
    row = list(range(len(heard) + 1))
    for number, word in enumerate(said, 1):
        before, row[0] = row[0], number
        for at, other in enumerate(heard, 1):
            before, row[at] = row[at], min(row[at] + 1, row[at - 1] + 1, before + (word != other))
    return row[-1] / len(said)
