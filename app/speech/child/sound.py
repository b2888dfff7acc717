"""A recording's sound as samples: decoded once, kept in a file without a name, read in stretches.

One channel of 16,000 samples a second, of 16 bits: 115 MB an hour, on disk, so that memory does not
grow with the recording.  Sample ``n`` was heard ``n / RATE`` seconds after the recording began:
what a source leaves out, before its first frame or between two, is silence.
"""

from __future__ import annotations

import os
import tempfile
from contextlib import ExitStack
from itertools import chain
from pathlib import Path
from types import TracebackType
from typing import IO

import av
import numpy as np
from av.audio.resampler import AudioResampler
from numpy.typing import NDArray

from app.ingest.sandbox.child import Refused
from app.ingest.sandbox.media.timeline import Timeline
from app.ingest.sandbox.media.track import Track, decoded, runs_of

RATE = 16_000
LONGEST_SECONDS = 24 * 3600
_SAMPLE_BYTES = 2
_LEAST_SILENCE = RATE // 10
_SILENCE = bytes(RATE * _SAMPLE_BYTES)

Samples = NDArray[np.float32]


class Sound:
    """What was decoded, ``len`` samples of it.

    ``is_partial`` where the source says that there is more.  Refuses as ``no_audio``,
    ``unreadable``, ``truncated`` or ``too_long``.
    """

    def __init__(self, path: Path) -> None:
        self._written = 0
        self._resampler: AudioResampler | None = None
        self._shape: tuple[str, str, int] | None = None
        self.is_partial = False
        with ExitStack() as stack:
            # Beside the recording: where there was room for that, there is for this.
            self._file: IO[bytes] = stack.enter_context(tempfile.TemporaryFile(dir=path.parent))
            self._decode(path)
            self._file.flush()
            self._stack = stack.pop_all()

    def __enter__(self) -> Sound:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._stack.close()

    def __len__(self) -> int:
        return self._written

    def read(self, start: int, stop: int) -> Samples:
        """Return the samples from ``start`` up to ``stop``, each from -1 to 1."""
        count = (stop - start) * _SAMPLE_BYTES
        content = os.pread(self._file.fileno(), count, start * _SAMPLE_BYTES)
        return np.frombuffer(content, np.int16).astype(np.float32) * np.float32(1 / 32768)

    def _decode(self, path: Path) -> None:
        # Absolute, so that FFmpeg does not take it for a URL.
        (run,) = runs_of(path.absolute(), [])
        with run.opened() as source:
            track = Track(source)
            timeline = Timeline(track.rate, clocks_restart=track.clocks_restart)
            for packet in chain(track.packets(), [None]):
                for frame in decoded(track.stream, packet):
                    samples = frame.samples * timeline.rate // frame.sample_rate
                    position = timeline.place(track.stamp_of(frame.pts), samples)
                    self._put(frame, max(position or 0, 0) / timeline.rate)
            self._end_shape()
            self.is_partial = track.is_cut(timeline.source_end / timeline.rate)
        if not self._written:
            raise Refused("truncated" if self.is_partial else "no_audio")

    def _put(self, frame: av.AudioFrame, seconds: float) -> None:
        """Append the frame; silence first where it begins later than what came before ends."""
        missing = round(seconds * RATE) - self._written
        if missing > _LEAST_SILENCE:
            self._end_shape()
            self._shape = None
            while (missing := round(seconds * RATE) - self._written) > 0:
                self._append(_SILENCE[: missing * _SAMPLE_BYTES])
        shape = (frame.format.name, frame.layout.name, frame.sample_rate)
        if shape != self._shape:
            self._end_shape()
            self._shape = shape
            self._resampler = AudioResampler("s16", "mono", RATE)
        frame.pts = None
        if self._resampler:
            self._take(self._resampler.resample(frame))

    def _end_shape(self) -> None:
        """Take what the resampler has held back."""
        if self._resampler:
            self._take(self._resampler.resample(None))
        self._resampler = None

    def _take(self, frames: list[av.AudioFrame]) -> None:
        for frame in frames:
            self._append(frame.to_ndarray().tobytes())

    def _append(self, content: bytes) -> None:
        self._file.write(content)
        self._written += len(content) // _SAMPLE_BYTES
        if self._written > LONGEST_SECONDS * RATE:
            raise Refused("too_long")
