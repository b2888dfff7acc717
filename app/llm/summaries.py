"""What a text is about: its passages' topics, and a summary of the whole by way of its parts'."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

from pydantic import AfterValidator

from app.llm.client import Answer, LanguageModel, LanguageModelFailed

PROMPTS = 1
"""Their version.  A changed prompt is a new file, so that it is known what has written what."""
PART_BYTES = 12_000
"""About 4,000 tokens: with the prompt and an answer they fit the context of small models."""
BYTES_A_TOKEN = 3
"""Of UTF-8, at the least, in most languages: so that an estimate errs on the safe side."""
SUMMARY_CHARACTERS = 1500
"""Of four bytes each at most: two summaries fit into a part."""
TOPIC_CHARACTERS = 200

_FOLDER = Path(__file__).with_name("prompts")
_PART = (_FOLDER / f"part-{PROMPTS}.txt").read_text()
_WHOLE = (_FOLDER / f"whole-{PROMPTS}.txt").read_text()


def _at_most(characters: int) -> AfterValidator:
    """Return a limit that is not in the schema: not every server takes one there."""

    def check(value: str) -> str:
        if not 0 < len(value.strip()) <= characters:
            raise ValueError("is empty or too long")
        return value.strip()

    return AfterValidator(check)


class _Topic(Answer):
    number: int
    topic: Annotated[str, _at_most(TOPIC_CHARACTERS)]


class _Part(Answer):
    summary: Annotated[str, _at_most(SUMMARY_CHARACTERS)]
    topics: list[_Topic]


class _Whole(Answer):
    summary: Annotated[str, _at_most(SUMMARY_CHARACTERS)]


@dataclass(frozen=True, slots=True)
class Summary:
    """What a model has written, as it came; ``topics`` by the passages' indexes, not for all."""

    text: str
    topics: Mapping[int, str]


def written_by(model: LanguageModel) -> str:
    """Return what is stored with a summary: another one where it would be written anew."""
    return f"{model.name}, prompts {PROMPTS}"


async def summarize(
    model: LanguageModel, kind: str, passages: Sequence[str], most_tokens: int
) -> Summary:
    """Return the summary of a text, or raise `LanguageModelFailed`.

    ``kind`` says what it is of ("a lecture").  Of a text of more than ``most_tokens`` only the
    beginning is read.
    """
    topics: dict[int, str] = {}
    summaries: list[str] = []
    for numbers in _groups(passages, most_tokens * BYTES_A_TOKEN):
        shown = [{"number": n, "text": _cut(passages[n], PART_BYTES)} for n in numbers]
        part = await model.ask(_PART, {"of": kind, "passages": shown}, _Part)
        found = {each.number: each.topic for each in part.topics}
        if len(found) < len(part.topics) or not found.keys() <= set(numbers):
            raise LanguageModelFailed("The language model tells of passages that are not there.")
        topics |= found
        summaries.append(part.summary)
    while len(summaries) > 1:
        groups = [[summaries[n] for n in numbers] for numbers in _groups(summaries)]
        summaries = [
            (await model.ask(_WHOLE, {"of": kind, "summaries": group}, _Whole)).summary
            for group in groups
        ]
    return Summary(summaries[0], topics)


def _groups(texts: Sequence[str], most_bytes: int | None = None) -> Iterator[list[int]]:
    """Yield the indexes of what fits into a part together: at least one, and two summaries."""
    group: list[int] = []
    size = total = 0
    for number, text in enumerate(texts):
        length = min(len(text.encode()), PART_BYTES)
        total += length
        if most_bytes is not None and total > most_bytes and number > 0:
            break
        if group and size + length > PART_BYTES:
            yield group
            group, size = [], 0
        group.append(number)
        size += length
    yield group


def _cut(text: str, size: int) -> str:
    return text.encode()[:size].decode(errors="ignore")
