"""The arithmetic of range plans."""

import itertools

from hypothesis import given
from hypothesis import strategies as st

from app.ingest.fetch.playlist import ByteRange
from app.ingest.fetch.ranges.plan import IN_FLIGHT, PIECE_BYTES, Link, left_of, plan_ranges

FAR = Link(round_trip_seconds=0.03, bytes_per_second=20_000_000)
HOUR = 3600


def turns(every_seconds: float, audio_bytes: int, gap_bytes: int) -> tuple[list[ByteRange], int]:
    step = audio_bytes + gap_bytes
    count = round(HOUR / every_seconds)
    return [ByteRange(number * step, audio_bytes) for number in range(count)], count * step


@st.composite
def layouts(draw: st.DrawFn) -> list[ByteRange]:
    spans, at = [], 0
    for gap, length in draw(
        st.lists(st.tuples(st.integers(1, 200_000), st.integers(1, 2_000_000)), max_size=30)
    ):
        spans.append(ByteRange(at + gap, length))
        at += gap + length
    return spans


@given(layouts(), st.floats(0, 1), st.floats(1e4, 1e9))
def test_every_wanted_byte_is_asked_for_once_and_in_order(
    spans: list[ByteRange], round_trip: float, rate: float
) -> None:
    size = spans[-1].end if spans else 1
    plan = plan_ranges(spans, size, Link(round_trip, rate))
    content = bytes(PIECE_BYTES)
    asked = [request.asked for request in plan.requests]
    assert all(one.end <= other.start for one, other in itertools.pairwise(asked))
    assert all(each.length <= PIECE_BYTES for each in asked)
    wanted = [span for request in plan.requests for span in request.wanted]
    assert sum(span.length for span in wanted) == sum(span.length for span in spans)
    for request in plan.requests:
        inside = [
            request.asked.start <= span.start <= span.end <= request.asked.end
            for span in request.wanted
        ]
        assert all(inside)
        pieces = request.cut(content[: request.asked.length])
        assert [len(piece) for piece in pieces] == [span.length for span in request.wanted]
    assert plan.fetched_bytes <= size


@given(layouts(), st.integers(0, 5_000_000))
def test_what_is_left_is_the_end_of_what_was_wanted(spans: list[ByteRange], had: int) -> None:
    left = list(left_of(spans, had))
    wanted = sum(span.length for span in spans)
    assert sum(span.length for span in left) == max(0, wanted - had)
    assert [span.end for span in left] == [span.end for span in spans][len(spans) - len(left) :]
    assert left[1:] == spans[len(spans) - len(left) + 1 :]


def test_turns_of_a_second_are_worth_their_requests() -> None:
    spans, size = turns(1, 8_000, 48_000)
    plan = plan_ranges(spans, size, FAR)
    assert plan.is_worth_it
    assert plan.fetched_bytes == HOUR * 8_000
    assert plan.seconds < plan.whole_seconds / 2


def test_turns_of_a_fifth_of_a_second_are_not() -> None:
    spans, size = turns(0.2, 1_600, 9_600)
    plan = plan_ranges(spans, size, FAR)
    assert not plan.is_worth_it
    assert len(plan.requests) < size / PIECE_BYTES * 1.1


def test_the_gap_is_what_flows_while_a_request_waits_for_its_turn() -> None:
    assert FAR.gap_bytes == 0.03 / IN_FLIGHT * 20_000_000
