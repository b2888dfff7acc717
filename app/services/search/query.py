"""What was typed, as full-text search takes it: whatever it is, it is no error.

Quotes make phrases, ``or`` and ``-`` mean what they do in web search (`websearch_to_tsquery`), and
a ``*`` behind a word stands for all words that begin so.
"""

import re
from dataclasses import dataclass

MOST_CHARACTERS = 500
# What web search would skip, but for a `-` that is before a word or in one: PostgreSQL fails with
# "tsquery stack too small" where too many have nothing to negate.
_IDLE = re.compile(r"""[&|!():*<>]|(?<!\w)-(?!"?\w)|(?<=[^\w\s])-""")
_PREFIX = re.compile(r"(?<![\w\"-])(\w{2,})\*")
_MOST_PREFIXES = 5
_WORDS = re.compile(r"[^\W\d_]{4,40}")


@dataclass(frozen=True, slots=True)
class TypedQuery:
    """``text`` is for web search, ``prefixes`` are beginnings of words that must be there too."""

    text: str
    prefixes: tuple[str, ...] = ()

    @property
    def parameters(self) -> dict[str, object]:
        """The parameters of `SQL`."""
        return {"text": self.text, "prefixes": [f"'{each}':*" for each in self.prefixes]}

    @property
    def words(self) -> list[str]:
        """The words that may be misspelled, each once."""
        return list(dict.fromkeys(_WORDS.findall(self.text.casefold())))

    def respelled(self, words: dict[str, str]) -> "TypedQuery":
        """Return it with words in the place of others."""

        def other(match: re.Match[str]) -> str:
            return words.get(match.group().casefold(), match.group())

        return TypedQuery(_WORDS.sub(other, self.text), self.prefixes)


def parse_query(typed: str) -> TypedQuery:
    """Return the query, without what no text of the database can hold."""
    clean = typed.encode(errors="replace").decode().replace("\x00", " ")
    prefixes = _PREFIX.findall(clean)[:_MOST_PREFIXES]
    return TypedQuery(_IDLE.sub(" ", _PREFIX.sub(" ", clean)).strip(), tuple(prefixes))
