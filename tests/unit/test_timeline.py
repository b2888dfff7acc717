"""Where pieces of audio go: no drift, no overlap, gaps where the source has them."""

import pytest

from app.ingest.sandbox.media.timeline import Timeline

RATE = 1000
PIECE = 20  # ms, as the rate is


def placed(timeline: Timeline, stamps: range) -> list[int]:
    """Return where those of the pieces begin that are wanted."""
    found = [timeline.place(stamp, PIECE) for stamp in stamps]
    return [position for position in found if position is not None]


def test_pieces_lie_one_behind_the_other_with_small_errors_mended() -> None:
    timeline = Timeline(RATE, clocks_restart=False)
    positions = [timeline.place(stamp, PIECE) for stamp in (0, 21, 39, None, 83)]
    assert positions == [0, 20, 40, 60, 80]


def test_a_gap_stays_and_a_jump_back_does_not() -> None:
    timeline = Timeline(RATE, clocks_restart=True)
    stamps = (0, 20, 5040, 5060, 0, 20, 99_000)
    positions = [timeline.place(stamp, PIECE) for stamp in stamps]
    assert positions == [0, 20, 5040, 5060, 5080, 5100, 5120]


@pytest.mark.parametrize(
    ("told_seconds", "slack_seconds", "position"),
    [
        (0.06, 0, 60),
        (0.09, 0, 60),
        (0.2, 0, 200),
        (2, 0, 2000),
        (2, 2, 60),
        (3, 2, 3000),
        (0, 2, 60),
        (0.5, 24, 60),
    ],
)
def test_a_run_begins_where_the_source_says_but_for_its_rounding(
    told_seconds: float, slack_seconds: float, position: int
) -> None:
    timeline = Timeline(RATE, clocks_restart=True)
    assert placed(timeline, range(0, 60, PIECE)) == [0, 20, 40]
    timeline.start_run(told_seconds, slack_seconds)
    assert timeline.place(0, PIECE) == position


def test_many_cuts_do_not_add_up_to_a_drift() -> None:
    """Each cut is off by up to half a piece; the sum must not be."""
    edits = [(second + 0.009, second + 0.5, None) for second in range(100)]
    timeline = Timeline(RATE, edits, clocks_restart=False)
    lengths = 0.491
    for stamp in range(0, 100 * RATE, PIECE):
        position = timeline.place(stamp, PIECE)
        if position is not None:
            second, into = divmod(stamp / RATE, 1)
            wanted = second * lengths + into - 0.009
            assert position / RATE == pytest.approx(wanted, abs=PIECE / RATE)
    assert timeline.end / RATE == pytest.approx(100 * lengths, abs=PIECE / RATE)


def test_a_segment_has_its_place_in_the_output() -> None:
    timeline = Timeline(RATE, [(0.1, 0.2, 1.0), (0.5, 0.6, 1.1)], clocks_restart=False)
    positions = placed(timeline, range(0, RATE, PIECE))
    assert positions == [*range(1000, 1200, PIECE)]
    assert timeline.complete


def test_a_place_that_is_taken_already_is_right_behind() -> None:
    timeline = Timeline(RATE, [(0.0, 0.2, 0.0), (0.5, 0.6, 0.0)], clocks_restart=False)
    assert placed(timeline, range(0, RATE, PIECE)) == [*range(0, 300, PIECE)]


@pytest.mark.parametrize("first_stamp", [0, 20])
def test_a_run_begins_where_the_one_before_ends(first_stamp: int) -> None:
    timeline = Timeline(RATE, clocks_restart=False)
    placed(timeline, range(0, 1000, PIECE))
    timeline.start_run(1.0)
    assert placed(timeline, range(first_stamp, 200, PIECE))[0] == 1000


def test_a_run_of_a_later_time_leaves_a_gap() -> None:
    timeline = Timeline(RATE, clocks_restart=False)
    placed(timeline, range(0, 1000, PIECE))
    timeline.start_run(3.0)
    assert placed(timeline, range(0, 100, PIECE)) == [*range(3000, 3100, PIECE)]


def test_what_each_run_begins_with_does_not_add_up() -> None:
    """Every run is 40 ms longer than the second that the source says it lasts: priming."""
    timeline = Timeline(RATE, clocks_restart=False)
    for number in range(50):
        if number:
            timeline.start_run(float(number))
        placed(timeline, range(0, 1040, PIECE))
        assert timeline.end == pytest.approx((number + 1) * RATE, abs=60)


def test_a_source_that_is_wrong_by_more_loses_at_most_a_tenth_of_a_second_a_run() -> None:
    timeline = Timeline(RATE, clocks_restart=False)
    placed(timeline, range(0, 2000, PIECE))
    timeline.start_run(1.0)
    assert len(placed(timeline, range(0, 1000, PIECE))) == (1000 - 100) / PIECE
