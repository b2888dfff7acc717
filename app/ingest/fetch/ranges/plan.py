"""Which byte ranges to ask for, and whether they are worth it: pure arithmetic.

A request costs its round trip, shared by those in flight with it, or the work it makes here,
whichever is more.  A gap that flows by faster than that is fetched and thrown away.
`docs/audio-only.md` has the measurements.
"""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

from app.ingest.fetch.playlist import ByteRange

IN_FLIGHT = 32
PIECE_BYTES = 512 * 1024
WORK_SECONDS = 0.0005
"""What a small request costs this machine, however near the source is."""
WORTH_IT = 0.8
"""Ranges are taken where they need at most this share of the whole file's time."""


@dataclass(frozen=True, slots=True)
class Link:
    """How the source answers: seconds until the first byte, bytes per second from then on, and how
    many requests at once.
    """

    round_trip_seconds: float
    bytes_per_second: float
    in_flight: int = IN_FLIGHT

    @property
    def request_seconds(self) -> float:
        """What one more small request costs while as many as may be are under way."""
        return max(self.round_trip_seconds / self.in_flight, WORK_SECONDS)

    @property
    def gap_bytes(self) -> float:
        """The gap that takes as long as one more request."""
        return self.request_seconds * self.bytes_per_second


@dataclass(frozen=True, slots=True)
class RangeRequest:
    """A stretch to ask for, and the spans of it that are wanted, by their place in the file."""

    asked: ByteRange
    wanted: tuple[ByteRange, ...]

    def cut(self, body: bytes) -> Iterator[bytes]:
        """Yield the wanted bytes out of the stretch's."""
        for span in self.wanted:
            at = span.start - self.asked.start
            yield body[at : at + span.length]


@dataclass(frozen=True, slots=True)
class RangePlan:
    """The requests in the order of the file, and the seconds that they and the whole file take.

    ``fetched_bytes`` is how many bytes are asked for, gaps included.
    """

    requests: tuple[RangeRequest, ...]
    fetched_bytes: int
    seconds: float
    whole_seconds: float

    @property
    def is_worth_it(self) -> bool:
        """Whether it saves enough time to be sure of it."""
        return self.seconds <= WORTH_IT * self.whole_seconds


def plan_ranges(spans: Sequence[ByteRange], size_bytes: int, link: Link) -> RangePlan:
    """Plan how to fetch the spans of a file; they rise and do not overlap."""
    # Long spans in pieces that several connections can share.
    pieces = (
        ByteRange(start, min(PIECE_BYTES, span.end - start))
        for span in spans
        for start in range(span.start, span.end, PIECE_BYTES)
    )
    requests = tuple(
        RangeRequest(ByteRange(group[0].start, group[-1].end - group[0].start), tuple(group))
        for group in _grouped(pieces, max(0, round(link.gap_bytes)))
    )
    fetched = sum(request.asked.length for request in requests)
    seconds = link.round_trip_seconds + len(requests) * link.request_seconds
    return RangePlan(
        requests,
        fetched,
        seconds + fetched / link.bytes_per_second,
        link.round_trip_seconds + size_bytes / link.bytes_per_second,
    )


def left_of(spans: Iterable[ByteRange], had_bytes: int) -> Iterator[ByteRange]:
    """Yield the spans without the first so many of their bytes."""
    for span in spans:
        skipped = min(had_bytes, span.length)
        had_bytes -= skipped
        if skipped < span.length:
            yield ByteRange(span.start + skipped, span.length - skipped)


def _grouped(spans: Iterable[ByteRange], gap_bytes: int) -> Iterator[list[ByteRange]]:
    """Yield spans whose gaps are too small for a request of their own together."""
    group: list[ByteRange] = []
    for span in spans:
        near = group and span.start - group[-1].end <= gap_bytes
        if near and span.end - group[0].start <= PIECE_BYTES:
            group.append(span)
        else:
            if group:
                yield group
            group = [span]
    if group:
        yield group
