"""What tells words that were said from what an engine makes up: pure, and the same for any engine.

The thresholds are those that Whisper's authors decode with (compression, probability), and ones
that were measured on loops and on noise (docs/transcripts.md).
"""

import unicodedata
from collections.abc import Sequence

_MOST_COMPRESSION = 2.4
_LEAST_LOG_PROBABILITY = -1.0
_LIKELY_SILENCE = 0.6
_SURE_OF_NOTHING = -0.7
_FAR_LESS_SURE = 0.35
_LOOP_TIMES = 4
_LONGEST_LOOP_WORDS = 12


def is_no_text(text: str) -> bool:
    """Whether nobody said this: no letter in it, or one character over and over."""
    letters = [each for each in text if unicodedata.category(each)[0] in "LN"]
    return not letters or (len(letters) > 3 and len({each.lower() for each in letters}) == 1)


def is_silence(log_probability: float, no_speech_probability: float) -> bool:
    """Whether the engine itself holds the passage to be silence, and is sure of nothing in it."""
    return no_speech_probability > _LIKELY_SILENCE and log_probability < _SURE_OF_NOTHING


def is_loop(text: str) -> bool:
    """Whether some words are said four times in a row, and more than a stammer says."""
    words = [word.strip(".,!?;:…").lower() for word in text.split()]
    return any(_has_run(words, length) for length in range(1, _LONGEST_LOOP_WORDS + 1))


def is_unsure(log_probability: float, compression_ratio: float, confidence: float) -> bool:
    """Whether the passage is far less sure than speech that was understood."""
    return (
        log_probability < _LEAST_LOG_PROBABILITY
        or compression_ratio > _MOST_COMPRESSION
        or confidence < _FAR_LESS_SURE
    )


def _has_run(words: Sequence[str], length: int) -> bool:
    """Whether so many words come ``_LOOP_TIMES`` in a row; single words twice as often."""
    times = _LOOP_TIMES if length > 1 else 2 * _LOOP_TIMES
    equal = 0
    for at in range(length, len(words)):
        equal = equal + 1 if words[at] == words[at - length] else 0
        if equal >= length * (times - 1):
            return True
    return False
