"""Frames of any shape in, one AAC track out.  Runs in the media child alone."""

from fractions import Fraction

import av
from av.audio.codeccontext import AudioCodecContext
from av.audio.fifo import AudioFifo
from av.audio.resampler import AudioResampler
from av.container import OutputContainer

_BIT_RATE = 128_000
_RATES = (8000, 11025, 12000, 16000, 22050, 24000, 32000, 44100, 48000)
_FORMAT = "fltp"
LEAST_SILENCE_SECONDS = 0.1
_SILENCE_SAMPLES = 8192


class AacEncoder:
    """Encodes frames one after the other; mono stays mono, all else becomes stereo.

    The source may change its sample rate, format or layout in the middle.
    """

    def __init__(self, target: OutputContainer, source: AudioCodecContext) -> None:
        self._target = target
        self._rate = source.sample_rate if source.sample_rate in _RATES else 48_000
        self._layout = "mono" if source.channels == 1 else "stereo"
        self._stream = target.add_stream("aac", rate=self._rate)
        self._stream.layout = self._layout
        self._stream.bit_rate = _BIT_RATE
        self._fifo = AudioFifo()
        self._resampler: AudioResampler | None = None
        self._shape: tuple[str, str, int] | None = None
        self._written = 0

    def write(self, frame: av.AudioFrame, seconds: Fraction) -> None:
        """Append the frame; silence first where it begins later than what came before ends."""
        begins = round(seconds * self._rate)
        if begins - self._fifo.samples_written > LEAST_SILENCE_SECONDS * self._rate:
            self._end_shape()
            self._shape = None
            while (missing := begins - self._fifo.samples_written) > 0:
                silence = av.AudioFrame(_FORMAT, self._layout, min(missing, _SILENCE_SAMPLES))
                for plane in silence.planes:
                    plane.update(bytes(plane.buffer_size))
                silence.sample_rate = self._rate
                self._append([silence])
        shape = (frame.format.name, frame.layout.name, frame.sample_rate)
        if shape != self._shape:
            self._end_shape()
            self._shape = shape
            self._resampler = AudioResampler(_FORMAT, self._layout, self._rate)
        frame.pts = None
        if self._resampler:
            self._append(self._resampler.resample(frame))

    def close(self) -> None:
        """Encode what is left."""
        self._end_shape()
        self._encode(self._fifo.read_many(self._frame_size, partial=True))
        self._target.mux(self._stream.encode(None))

    @property
    def _frame_size(self) -> int:
        return self._stream.codec_context.frame_size or 1024

    def _end_shape(self) -> None:
        if self._resampler and self._shape:
            self._append(self._resampler.resample(None))
        self._resampler = None

    def _append(self, frames: list[av.AudioFrame]) -> None:
        for frame in frames:
            # The queue counts samples itself; clocks that differ between shapes would stop it.
            frame.pts, frame.time_base = None, Fraction(1, self._rate)
            self._fifo.write(frame)
        self._encode(self._fifo.read_many(self._frame_size))

    def _encode(self, frames: list[av.AudioFrame]) -> None:
        for frame in frames:
            frame.pts, frame.time_base = self._written, Fraction(1, self._rate)
            self._written += frame.samples
            self._target.mux(self._stream.encode(frame))
