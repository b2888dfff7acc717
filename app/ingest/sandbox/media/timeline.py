"""Where each piece of audio goes in the output: repaired, cut to edits, without drift.

Positions are in samples.  The standard library alone: the media child imports this.
"""

from collections.abc import Iterable
from typing import NamedTuple

JITTER_SECONDS = 0.05
"""A timestamp so near to the end of the piece before it is taken to mean that end."""
_LONGEST_PRIMING_SECONDS = 0.1
"""What an encoder that starts anew puts before its first sound, at most."""
_LONGEST_GAP_SECONDS = 3600.0
_LONGEST_GAP_WHERE_CLOCKS_RESTART_SECONDS = 10.0
"""As ffmpeg's own threshold for formats whose timestamps may jump (MPEG-TS)."""


class _Edit(NamedTuple):
    start: int
    stop: int
    place: int


class Timeline:
    """Places the pieces of one audio track, given in the order of the source.

    ``edits`` are (start, end, place in the output) in seconds; no place is right behind the one
    before.  ``source_end`` is how far the source was read, in samples from its origin; ``end`` is
    how long the output is; ``complete`` tells that nothing more of the source is wanted.
    """

    def __init__(
        self,
        rate: int,
        edits: Iterable[tuple[float, float, float | None]] = (),
        *,
        clocks_restart: bool,
    ) -> None:
        longest = (
            _LONGEST_GAP_WHERE_CLOCKS_RESTART_SECONDS if clocks_restart else _LONGEST_GAP_SECONDS
        )
        self.rate = rate
        self._jitter = round(JITTER_SECONDS * rate)
        self._longest_gap = round(longest * rate)
        self._edits = _in_samples(edits, rate)
        self._cut_to_edits = bool(self._edits)
        self._entered = False
        self._repair = 0  # Added to the source's timestamps since they last jumped.
        self._shift = 0  # Added to source positions within the current edit.
        self._run_at: int | None = None  # Where a run begins that has no piece yet.
        self._priming_left = 0
        self._started = False
        self.source_end = 0
        self.end = 0
        self.complete = False

    def start_run(self, seconds: float, slack_seconds: float = 0.0) -> None:
        """Expect pieces with stamps from 0 on, of what the source puts at this time.

        Where that may be the end of what came before, but for so much of rounding, it is.
        """
        at = round(seconds * self.rate)
        is_near = abs(at - self.source_end) <= slack_seconds * self.rate
        self._run_at = self.source_end if is_near else at
        self._priming_left = round(_LONGEST_PRIMING_SECONDS * self.rate)

    def place(self, stamp: int | None, samples: int) -> int | None:
        """Return where the piece begins in the output, or None where it is cut away.

        ``stamp`` is the source's own, None where it has none.  Positions never overlap.
        """
        if self._is_priming(stamp or 0, samples):
            return None
        at = self._repaired(stamp)
        self.source_end = at + samples
        if self._cut_to_edits and not self._is_wanted(at, samples):
            return None
        position = at + self._shift
        self.end = position + samples
        return position

    def _is_priming(self, stamp: int, samples: int) -> bool:
        """Tell whether a run's first piece lies where there is sound of the run before already."""
        if self._run_at is None or self._run_at + stamp + samples > self.source_end:
            return False
        self._priming_left -= samples
        return self._priming_left >= 0

    def _repaired(self, stamp: int | None) -> int:
        """Return the position on one clock that runs through, gaps of a mute source included."""
        if self._run_at is not None:  # The first of its run.
            begins = self._run_at + (stamp or 0)
            at = begins if begins - self.source_end > self._jitter else self.source_end
            self._repair = at - (stamp or 0)
            self._started, self._run_at = True, None
            return at
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
        """Tell whether the piece's middle lies in an edit; the first of each joins it to the cut.

        What rounding to whole pieces has cost so far moves the edit's beginning, so that no
        number of cuts adds up to a drift.
        """
        middle = at + samples // 2
        while self._edits and middle >= self._edits[0].stop:
            self._edits.pop(0)
            self._entered = False
        if not self._edits:
            self.complete = True
            return False
        if self._entered:
            return True
        edit = self._edits[0]
        ahead = self.end - edit.place
        if abs(ahead) > max(self._jitter, samples):
            ahead = 0
        if middle - edit.start < ahead:
            return False
        self._entered = True
        wanted = edit.place + at - edit.start
        is_gap = wanted - self.end > max(self._jitter, samples)
        self._shift = (wanted if is_gap else self.end) - at
        return True


def _in_samples(edits: Iterable[tuple[float, float, float | None]], rate: int) -> list[_Edit]:
    """Return the edits in the source's order, each with its place in the output."""
    found: list[_Edit] = []
    for start, stop, place in sorted(edits, key=lambda edit: edit[:2]):
        last = found[-1] if found else _Edit(0, 0, 0)
        behind = last.place + last.stop - last.start
        at = behind if place is None else round(place * rate)
        found.append(_Edit(round(start * rate), round(stop * rate), at))
    return found
