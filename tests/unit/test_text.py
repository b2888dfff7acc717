"""What people can read of the text that strangers send."""

import pytest

from app.services.kernel.text import readable
from app.services.lectures.download import _title

AS_WRITTEN = [
    "\u0645\u06cc\u200c\u062e\u0648\u0627\u0647\u0645",  # Persian, with a joiner's opposite
    "\u0915\u094d\u200d\u0937",  # a half form of Devanagari
    "\U0001f468\u200d\U0001f469\u200d\U0001f467",  # a family
    "Donau\u00addampf",
    "\u2067\u05e9\u05dc\u05d5\u05dd\u2069 and \u200fmarks",
    "\U0001f3f4\U000e0067\U000e0062\U000e0065\U000e006e\U000e0067\U000e007f",  # a flag
    "e\u0301t\u00e9",
]
SHOWS_NOTHING = [
    *("", "   ", "\t\n", "\x00", "\x7f", "\u200b", "\ufeff", "\u00ad", "\u3164", "\u2800"),
    *("\u200d\u200c", "\u202e", "\u2066 \u2069", "\u115f\u1160", "\ufe0f", "\U000e0041", "\u00a0"),
]


@pytest.mark.parametrize("text", AS_WRITTEN)
def test_text_stays_as_it_was_written(text: str) -> None:
    assert readable(f" {text}\n") == _title(text) == text


@pytest.mark.parametrize("text", SHOWS_NOTHING)
def test_text_that_shows_nothing_counts_as_none(text: str) -> None:
    assert readable(text) is _title(text) is None


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("Algebra\r\n1", "Algebra 1"),
        ("a\x1b[31mb\u2028c\x85d", "a [31mb c d"),
        ("exe.\u202efdp", "exe.fdp"),
    ],
)
def test_what_steers_its_reader_is_left_out(text: str, expected: str) -> None:
    assert readable(text) == expected


@pytest.mark.parametrize(
    ("title", "expected"),
    [
        (None, None),
        ("Alg \ud83d", "Alg"),
        ("\ud83d", None),
        ("a" * 600, "a" * 500),
        ("a" * 499 + " b", "a" * 499),
        ("a\x00b", "a b"),
    ],
)
def test_a_sources_title_is_made_fit_to_be_stored(title: str | None, expected: str | None) -> None:
    assert _title(title) == expected
