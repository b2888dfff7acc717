"""Segments from words: within their bounds, in order, no longer than a subtitle."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from app.speech.languages import CODES, code_of, tag_of
from app.speech.segments import (
    LONGEST_SECONDS,
    MOST_CHARACTERS,
    HeardWord,
    ends_clause,
    segments_of,
)


def words(*texts: str, begin: float = 0.0, each: float = 0.4) -> list[HeardWord]:
    return [
        HeardWord(begin + number * each, begin + (number + 1) * each, f" {text}", 0.9)
        for number, text in enumerate(texts)
    ]


def texts(heard: list[HeardWord], begin: float = 0.0, end: float = 1000.0) -> list[str]:
    return [segment.text for segment in segments_of(heard, begin, end)]


def test_sentences_are_segments() -> None:
    heard = words("Ever", "tried.", "“Ever", "failed?”", "No", "matter")
    assert texts(heard) == ["Ever tried.", "“Ever failed?”", "No matter"]


def test_a_pause_belongs_to_no_segment() -> None:
    heard = [*words("before", "it"), *words("after", "it", begin=61.0)]
    first, second = segments_of(heard, 0, 100)
    assert (first.start, first.end) == (0, 0.8)
    assert (second.start, second.end) == (61, 61.8)


def test_what_is_too_long_is_cut_at_a_comma() -> None:
    clause = ["word"] * 7
    heard = words(*clause, "word,", *clause, each=0.5)
    assert texts(heard) == ["word " * 7 + "word,", "word " * 6 + "word"]


def test_what_has_no_comma_is_cut_where_it_is_too_long() -> None:
    found = texts(words(*["seven77"] * 40, each=0.2))
    assert all(len(text) <= MOST_CHARACTERS for text in found)
    assert " ".join(found) == "seven77 " * 39 + "seven77"


def test_text_without_spaces_stays_without() -> None:
    heard = [HeardWord(0, 0.5, "你好", 0.9), HeardWord(0.5, 1, "世界。", 0.9)]
    assert texts([*heard, HeardWord(1, 2, "再见", 0.9)]) == ["你好世界。", "再见"]


def test_times_stay_within_the_audio() -> None:
    heard = [HeardWord(-3, 0.1, " early", 0.5), HeardWord(9, 14, " late", 0.5)]
    first, last = segments_of(heard, 0, 10)
    assert (first.start, last.end) == (0, 10)


def test_words_that_pile_up_at_the_end_are_all_kept() -> None:
    heard = [HeardWord(9, 9.99, " and", 0.5), *[HeardWord(10, 10, f" {n}", 0.5) for n in range(20)]]
    (segment,) = segments_of(heard, 0, 10)
    assert segment.text == "and " + " ".join(map(str, range(20)))
    assert segment.words[0].start == 9
    assert segment.end == pytest.approx(10)


def test_confidence_counts_by_length() -> None:
    heard = [HeardWord(0, 3, " long", 1.0), HeardWord(3, 4, " short", 0.0)]
    (segment,) = segments_of(heard, 0, 10)
    assert segment.confidence == 0.75
    assert [word.text for word in segment.words] == ["long", "short"]


def test_what_ends_a_clause() -> None:
    assert [ends_clause(word) for word in words("so,", "so.", "so", "so.”")] == [
        True,
        True,
        False,
        True,
    ]


_TIMES = st.floats(-5, 60, allow_nan=False)
_WORDS = st.builds(
    HeardWord,
    _TIMES,
    _TIMES,
    st.sampled_from([" a", " word", "字", " end.", " so,", " "]),
    st.just(0.5),
)


@given(st.lists(_WORDS, max_size=40))
def test_whatever_an_engine_says_segments_follow_each_other(heard: list[HeardWord]) -> None:
    end, kept = 5.0, ""
    for segment in segments_of(heard, 5.0, 50.0):
        assert end <= segment.start < segment.end <= 50
        at = segment.start
        for word in segment.words:
            assert at <= word.start < word.end <= segment.end
            at = word.end
        assert len(segment.words) == 1 or segment.end - segment.start <= LONGEST_SECONDS
        end = segment.end
        kept += segment.text
    assert kept.replace(" ", "") == "".join(word.text.strip() for word in heard)


def test_languages_are_those_that_the_engine_knows() -> None:
    tokenizer = pytest.importorskip("faster_whisper.tokenizer")
    assert set(CODES.values()) == set(tokenizer._LANGUAGE_CODES)
    assert {tag_of(code) for code in CODES.values()} == set(CODES)


@pytest.mark.parametrize(
    ("tag", "code"),
    [("en", "en"), ("de-AT", "de"), ("JV", "jw"), ("zh-Hant-TW", "zh"), ("xx", None), ("", None)],
)
def test_a_tag_of_any_region_is_understood(tag: str, code: str | None) -> None:
    assert code_of(tag) == code
