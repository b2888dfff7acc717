"""Where each piece of audio goes in the output: repaired, cut to segments, without drift.

Positions are in samples.  The standard library alone: the media child imports this.
"""

from collections.abc import Iterable

_JITTER_SECONDS = 0.05
"""A timestamp so near to the end of the piece before it is taken to mean that end."""
_LONGEST_GAP_SECONDS = 3600.0
_LONGEST_GAP_WHERE_CLOCKS_RESTART_SECONDS = 10.0
"""As ffmpeg's own threshold for formats whose timestamps may jump (MPEG-TS)."""


class Timeline:
    """Places the pieces of one audio track, given in the order of the source.

    ``source_end`` is how far the source was read, in samples from its origin; ``end`` is how long
    the output is; ``complete`` tells that nothing more of the source is wanted.
    """

    def __init__(
        self, rate: int, segments: Iterable[tuple[float, float]] = (), *, clocks_restart: bool
    ) -> None:
        longest = (
            _LONGEST_GAP_WHERE_CLOCKS_RESTART_SECONDS if clocks_restart else _LONGEST_GAP_SECONDS
        )
        self._jitter = round(_JITTER_SECONDS * rate)
        self._longest_gap = round(longest * rate)
        self._segments = [
            (round(start * rate), round(stop * rate)) for start, stop in sorted(segments)
        ]
        self._cut_to_segments = bool(self._segments)
        self._entered = False
        self._repair = 0  # Added to the source's timestamps since they last jumped.
        self._shift = 0  # Added to source positions within the current segment.
        self._started = False
        self.source_end = 0
        self.end = 0
        self.complete = False

    def place(self, stamp: int | None, samples: int) -> int | None:
        """Return where the piece begins in the output, or None where it is cut away.

        ``stamp`` is the source's own, None where it has none.  Positions never overlap.
        """
        at = self._repaired(stamp)
        self.source_end = at + samples
        if self._cut_to_segments and not self._is_wanted(at, samples):
            return None
        position = at + self._shift
        self.end = position + samples
        return position

    def _repaired(self, stamp: int | None) -> int:
        """Return the position on one clock that runs through, gaps of a mute source included."""
        if not self._started:
            self._started = True
            return stamp or 0
        expected = self.source_end
        at = expected if stamp is None else stamp + self._repair
        jump = at - expected
        if abs(jump) <= self._jitter:
            return expected
        if 0 < jump <= self._longest_gap:
            return at
        self._repair -= jump
        return expected

    def _is_wanted(self, at: int, samples: int) -> bool:
        """Tell whether the piece's middle lies in a segment; the first of each closes the cut."""
        middle = at + samples // 2
        while self._segments and middle >= self._segments[0][1]:
            self._segments.pop(0)
            self._entered = False
        if not self._segments:
            self.complete = True
        if not self._segments or middle < self._segments[0][0]:
            return False
        if not self._entered:
            self._entered = True
            self._shift = self.end - at
        return True
