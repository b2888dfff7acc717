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
PART_PASSAGES = 40
"""As many topics fit into an answer."""
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


async def summarize_lecture(
    model: LanguageModel, passages: Sequence[str], most_tokens: int
) -> Summary:
    """Return what is said in a lecture and in each passage, or raise `LanguageModelFailed`.

    Of a text of more than ``most_tokens`` only the beginning is read.
    """
    topics: dict[int, str] = {}
    summaries: list[str] = []
    for numbers in _groups(_beginning(passages, most_tokens)):
        shown = [{"number": n, "text": _cut(passages[n])} for n in numbers]
        part = await model.ask(_PART, {"of": "a lecture", "passages": shown}, _Part)
        found = {each.number: each.topic for each in part.topics}
        if len(found) < len(part.topics) or not found.keys() <= set(numbers):
            raise LanguageModelFailed("The language model tells of passages that are not there.")
        topics |= found
        summaries.append(part.summary)
    if len(summaries) == 1:
        return Summary(summaries[0], topics)
    return Summary(await _of_parts(model, "a lecture", summaries), topics)


async def summarize_document(
    model: LanguageModel, passages: Sequence[str], most_tokens: int
) -> Summary:
    """Return what a document is about, without topics; else as `summarize_lecture`."""
    parts = [_cut(each) for each in _beginning(passages, most_tokens)]
    return Summary(await _of_parts(model, "a document", parts), {})


async def _of_parts(model: LanguageModel, kind: str, parts: Sequence[str]) -> str:
    """Return one summary of texts, or of summaries of them, until one question holds them all."""
    while True:
        summaries = []
        for numbers in _groups(parts):
            shown = [parts[n] for n in numbers]
            whole = await model.ask(_WHOLE, {"of": kind, "parts": shown}, _Whole)
            summaries.append(whole.summary)
        if len(summaries) == 1:
            return summaries[0]
        parts = summaries


def _beginning(passages: Sequence[str], most_tokens: int) -> Sequence[str]:
    """Return the first passages, one at least, that have as many tokens together."""
    left = most_tokens * BYTES_A_TOKEN
    for number, text in enumerate(passages):
        left -= min(len(text.encode()), PART_BYTES)
        if left < 0 and number > 0:
            return passages[:number]
    return passages


def _groups(texts: Sequence[str]) -> Iterator[list[int]]:
    """Yield the indexes of what fits into a part together: at least one, and two summaries."""
    group: list[int] = []
    size = 0
    for number, text in enumerate(texts):
        length = min(len(text.encode()), PART_BYTES)
        if group and (size + length > PART_BYTES or len(group) == PART_PASSAGES):
            yield group
            group, size = [], 0
        group.append(number)
        size += length
    yield group


def _cut(text: str) -> str:
    return text.encode()[:PART_BYTES].decode(errors="ignore")
