"""Conditional and range requests: the cases of RFC 9110, one by one."""

from datetime import UTC, datetime, timedelta, timezone

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from starlette.datastructures import Headers

from app.http.files.ranges import (
    NotModified,
    Part,
    PreconditionFailed,
    Representation,
    Unsatisfiable,
    Whole,
    decide,
)

TAG = '"abc"'
CHANGED = datetime(2026, 3, 1, 12, 0, 0, 900_000, tzinfo=UTC)
TARGET = Representation(100, TAG, CHANGED)
SAME = "Sun, 01 Mar 2026 12:00:00 GMT"
BEFORE = "Sun, 01 Mar 2026 11:59:59 GMT"
AFTER = "Sun, 01 Mar 2026 12:00:01 GMT"


def answer(method: str = "GET", size: int = 100, **headers: str) -> object:
    named = Headers({name.replace("_", "-"): value for name, value in headers.items()})
    return decide(method, named, Representation(size, TAG, CHANGED))


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        ("bytes=0-0", Part(0, 1)),
        ("bytes=0-", Part(0, 100)),
        ("bytes=10-19", Part(10, 20)),
        ("bytes=90-500", Part(90, 100)),
        ("bytes=99-99", Part(99, 100)),
        ("bytes=-10", Part(90, 100)),
        ("bytes=-500", Part(0, 100)),
        ("BYTES=1-2", Part(1, 3)),
        ("bytes= 1-2 ", Part(1, 3)),
        ("bytes=,1-2,", Part(1, 3)),
        ("bytes=000001-002", Part(1, 3)),
        (f"bytes=0-{'9' * 5000}", Part(0, 100)),
        (f"bytes=-{'9' * 5000}", Part(0, 100)),
        ("bytes=100-", Unsatisfiable()),
        ("bytes=100-200", Unsatisfiable()),
        ("bytes=-0", Unsatisfiable()),
        (f"bytes={'9' * 5000}-", Unsatisfiable()),
        ("bytes=100-,200-", Unsatisfiable()),
        ("bytes=0-1,5-6", Whole()),
        ("bytes=0-0,-1,500-", Whole()),
        ("bytes=" + "0-," * 10_000, Whole()),
        ("bytes=5-1", Whole()),
        ("bytes=-", Whole()),
        ("bytes=", Whole()),
        ("bytes", Whole()),
        ("", Whole()),
        ("items=0-1", Whole()),
        ("bytes=a-b", Whole()),
        ("bytes=1", Whole()),
        ("bytes=--1", Whole()),
        ("bytes=1-2-3", Whole()),
        ("bytes=0x1-2", Whole()),
        ("bytes=+1-2", Whole()),
        ("bytes=1 - 2", Whole()),
        ("bytes=٣-٤", Whole()),
        ("bytes=0-1,x", Whole()),
    ],
)
def test_ranges(value: str, expected: object) -> None:
    headers = {"range": value}
    assert decide("GET", headers, TARGET) == expected


def test_an_empty_file_has_no_range() -> None:
    assert answer(size=0, range="bytes=0-") == Unsatisfiable()
    assert answer(size=0, range="bytes=-5") == Unsatisfiable()
    assert answer(size=0) == Whole()


def test_a_range_is_for_get_alone() -> None:
    assert answer("HEAD", range="bytes=0-1") == Whole()
    assert answer("HEAD", range="bytes=500-") == Whole()


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        (TAG, Part(0, 2)),
        (SAME, Part(0, 2)),
        (f"W/{TAG}", Whole()),
        ('"other"', Whole()),
        (BEFORE, Whole()),
        (AFTER, Whole()),
        ("junk", Whole()),
        ("", Whole()),
        ("*", Whole()),
    ],
)
def test_if_range(value: str, expected: object) -> None:
    assert answer(range="bytes=0-1", if_range=value) == expected


def test_if_range_that_fails_hides_an_unsatisfiable_range() -> None:
    assert answer(range="bytes=500-", if_range='"other"') == Whole()


@pytest.mark.parametrize("method", ["GET", "HEAD"])
@pytest.mark.parametrize(
    ("value", "same"),
    [
        (TAG, True),
        (f"W/{TAG}", True),
        (f'"x", W/"y" , {TAG}', True),
        ("*", True),
        ('"x"', False),
        ("abc", False),
        ('"abc', False),
        ("", False),
    ],
)
def test_if_none_match(method: str, value: str, same: bool) -> None:
    assert answer(method, if_none_match=value) == (NotModified() if same else Whole())


@pytest.mark.parametrize(
    ("value", "holds"),
    [(TAG, True), (f'"x",{TAG}', True), ("*", True), (f"W/{TAG}", False), ('"x"', False)],
)
def test_if_match(value: str, holds: bool) -> None:
    assert answer(if_match=value) == (Whole() if holds else PreconditionFailed())


@pytest.mark.parametrize(
    ("value", "expected"),
    [(SAME, NotModified()), (AFTER, NotModified()), (BEFORE, Whole()), ("junk", Whole())],
)
def test_if_modified_since(value: str, expected: object) -> None:
    assert answer(if_modified_since=value) == expected


@pytest.mark.parametrize(
    ("value", "expected"),
    [(SAME, Whole()), (AFTER, Whole()), (BEFORE, PreconditionFailed()), ("junk", Whole())],
)
def test_if_unmodified_since(value: str, expected: object) -> None:
    assert answer(if_unmodified_since=value) == expected


def test_precedence() -> None:
    assert answer(if_match=TAG, if_unmodified_since=BEFORE) == Whole()
    assert answer(if_match='"x"', if_none_match=TAG) == PreconditionFailed()
    assert answer(if_none_match='"x"', if_modified_since=AFTER) == Whole()
    assert answer(if_none_match=TAG, range="bytes=500-") == NotModified()


def test_last_modified_is_a_whole_second_in_gmt() -> None:
    east = timezone(timedelta(hours=2))
    assert TARGET.last_modified == SAME
    assert Representation(1, TAG, CHANGED.astimezone(east)).last_modified == SAME


@settings(max_examples=500)
@given(
    st.dictionaries(
        st.sampled_from(
            [
                "range",
                "if-range",
                "if-match",
                "if-none-match",
                "if-modified-since",
                "if-unmodified-since",
            ]
        ),
        st.text('bytes=0123456789-, "W/*SunMarGMT:abc', max_size=40) | st.text(max_size=20),
    ),
    st.integers(0, 50),
)
def test_no_header_breaks_it(headers: dict[str, str], size: int) -> None:
    decision = decide("GET", headers, Representation(size, TAG, CHANGED))
    if isinstance(decision, Part):
        assert 0 <= decision.start < decision.end <= size
