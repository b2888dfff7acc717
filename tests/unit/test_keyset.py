"""Cursors: round trips, and every text that is none."""

import base64
import json
from datetime import UTC, datetime
from uuid import uuid4

import pytest
from hypothesis import given
from hypothesis import strategies as st

from app.errors import BadUserInput
from app.services.kernel.keyset import (
    CodeKey,
    TimeKey,
    decode_code,
    decode_time,
    encode,
    make_page,
    page_size,
)

ZERO = "0" * 32


def cursor(value: object) -> str:
    return base64.urlsafe_b64encode(json.dumps(value).encode()).decode()


@given(st.datetimes(timezones=st.just(UTC)), st.uuids())
def test_a_time_cursor_comes_back(at: datetime, row_id: object) -> None:
    key = TimeKey(at, row_id)  # type: ignore[arg-type]
    assert decode_time(encode(key)) == key


@given(st.text(alphabet=st.characters(exclude_categories=["Cs"], exclude_characters="\0")))
def test_a_code_cursor_comes_back(code: str) -> None:
    key = CodeKey(code[:200], uuid4())
    assert decode_code(encode(key)) == key


@pytest.mark.parametrize(
    "text",
    [
        "",
        "nonsense",
        "é",
        "A" * 100_000,
        cursor(None),
        cursor([]),
        cursor([1, ZERO]),
        cursor(["2026-01-01T00:00:00", ZERO]),
        cursor(["2026-01-01T00:00:00+00:00", "x"]),
        cursor(["9999-12-31T23:59:59.999999-23:59", ZERO]),
        cursor(["0001-01-01T00:00:00+23:59", ZERO]),
        cursor(["2026-01-01T00:00:00+00:00", 7]),
    ],
)
def test_what_is_no_time_cursor_is_bad_input(text: str) -> None:
    with pytest.raises(BadUserInput):
        decode_time(text)


@given(st.text())
def test_no_text_raises_anything_else(text: str) -> None:
    for decode in (decode_time, decode_code):
        try:
            decode(text)
        except BadUserInput:
            continue


def test_a_page_tells_what_lies_on_either_side() -> None:
    keys = [TimeKey(datetime(2026, 1, day, tzinfo=UTC), uuid4()) for day in (3, 2, 1)]
    page = make_page("abc", keys, 2, after=None)
    assert (page.rows, page.has_next, page.has_previous) == (("a", "b"), True, False)
    last = make_page("c", keys[2:], 2, after=page.cursors[-1])
    assert (last.has_next, last.has_previous) == (False, True)


@pytest.mark.parametrize("first", [0, -1, 101])
def test_a_page_has_1_to_100_rows(first: int) -> None:
    with pytest.raises(BadUserInput):
        page_size(first)
    assert page_size(None) == 20
