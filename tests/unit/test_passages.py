"""Sentences, windows and pieces of pages: nothing is lost, and every position holds."""

import re
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from app.domain import TranscriptionSource
from app.passages.pages import MOST_CHARACTERS, MOST_WORDS, split_page
from app.passages.sentences import sentences
from app.passages.windows import MOST_SECONDS, windows
from app.transcript.model import Segment, Transcript, Word

CAPTIONS, HEARD = TranscriptionSource.CAPTIONS, TranscriptionSource.SPEECH_RECOGNITION


def transcript(*segments: Segment) -> Transcript:
    end = max((each.end for each in segments), default=0.0)
    return Transcript(HEARD, "en", "base", end, segments)


def said(text: str, start: float = 0.0, *, each: float = 0.4) -> Segment:
    """The words of the text, one after the other."""
    words = []
    for number, word in enumerate(text.split()):
        at = start + number * each
        words.append(Word(at, at + each - 0.05, word, 0.9))
    return Segment(words[0].start, words[-1].end, " ".join(text.split()), 0.9, tuple(words))


WORD = st.text(min_size=1, max_size=12).map(lambda text: "".join(text.split())).filter(bool)
TIMES = st.floats(0, 4000, allow_nan=False)


@st.composite
def any_transcript(draw: st.DrawFn) -> Transcript:
    """Any words of Unicode at any times, with and without times of words, also out of order."""
    segments = []
    for texts in draw(st.lists(st.lists(WORD, min_size=1, max_size=12), max_size=12)):
        start, length = draw(TIMES), draw(st.floats(0.01, 200))
        step = length / len(texts)
        words = tuple(
            Word(start + n * step, start + (n + 1) * step, text, draw(st.none() | st.floats(0, 1)))
            for n, text in enumerate(texts)
        )
        has_words = draw(st.booleans())
        joined = draw(st.sampled_from([" ", "  ", ""])).join(texts)
        segments.append(Segment(start, start + length, joined, None, words if has_words else ()))
    return transcript(*segments)


@given(any_transcript(), st.lists(TIMES, max_size=20).map(sorted))
def test_positions_and_times_hold_for_any_text(heard: Transcript, changes: list[float]) -> None:
    whole, found = heard.text, sentences(heard)
    covered: set[int] = set()
    for sentence in found:
        place = range(sentence.start_character, sentence.end_character)
        assert whole[place.start : place.stop] == sentence.text
        assert covered.isdisjoint(place)
        covered.update(place)
        assert 0 <= sentence.start_seconds <= sentence.end_seconds
    assert all(whole[n].isspace() for n in range(len(whole)) if n not in covered)
    starts = [sentence.start_seconds for sentence in found]
    assert starts == sorted(starts)

    in_windows = []
    for window in windows(heard, changes):
        assert whole[window.start_character : window.end_character] == window.text
        assert window.sentences
        assert window.end_seconds - window.start_seconds <= 60
        in_windows += [each for each in window.sentences if each not in in_windows[-40:]]
    assert in_windows == found


def test_nothing_said_has_no_windows() -> None:
    assert windows(transcript()) == []


@pytest.mark.parametrize(
    ("text", "count"),
    [
        ("This is one. This is two! Is this three? Yes…", 4),
        ("Dr. Smith, e.g. by Fig. 3 of St. Andrews, has 3.14 of them.", 1),
        ("So we have p. we have q.", 1),
        ('He said "stop." Then he went.', 2),
        ("これは本です。あれは何ですか？はい。", 3),  # noqa: RUF001
    ],
)
def test_a_sentence_ends_with_its_punctuation(text: str, count: int) -> None:
    captions = Segment(0, 20, text, None)
    assert len(sentences(transcript(captions))) == count
    if " " in text:
        assert len(sentences(transcript(said(text)))) == count


def test_a_pause_and_25_seconds_end_a_sentence() -> None:
    first, second = said("and so on"), said("and on it goes", start=5)
    assert [each.text for each in sentences(transcript(first, second))] == [
        "and so on",
        "and on it goes",
    ]
    endless = said("word " * 200)
    assert all(
        each.end_seconds - each.start_seconds <= 25 for each in sentences(transcript(endless))
    )


def test_windows_overlap_by_a_sentence_but_not_across_what_parts() -> None:
    sentence = "This is a sentence of ten words that goes on. "
    flowing = windows(transcript(said(sentence * 20)))
    for before, after in pairwise(flowing):
        assert before.sentences[-1] == after.sentences[0]
        assert 20 <= before.end_seconds - before.start_seconds <= MOST_SECONDS

    parted = windows(transcript(said(sentence * 3), said(sentence * 3, start=25)))
    assert [len(window.sentences) for window in parted] == [3, 3]

    with_slide = windows(transcript(said(sentence * 20)), [24.0])
    assert with_slide[0].end_seconds < 25
    assert with_slide[1].sentences[0] not in with_slide[0].sentences


@given(st.text(max_size=5000) | st.lists(WORD, max_size=600).map(" ".join))
def test_pieces_of_a_page_lose_nothing_but_space(text: str) -> None:
    pieces = split_page(text)
    assert "".join("".join(pieces).split()) == "".join(text.split())
    for piece in pieces:
        assert len(piece.split()) <= MOST_WORDS
        assert len(piece) <= MOST_CHARACTERS
        assert piece == piece.strip() != ""


def test_a_piece_ends_behind_a_sentence_where_it_can() -> None:
    page = "This sentence has seven words in it. " * 60
    pieces = split_page(page)
    assert len(pieces) == 3
    assert all(piece.endswith(".") for piece in pieces)
    assert all(re.match("This", piece) for piece in pieces)
