"""HLS playlists (RFC 8216), parsed in a child process because strangers write them."""

import math
from dataclasses import dataclass

from pydantic import TypeAdapter, ValidationError

from app.domain import LectureFailure
from app.errors import IngestFailed
from app.ingest.sandbox.run import ChildError, ChildRefused, Limits, run_child

_LIMITS = Limits(memory_bytes=1024**3, cpu_seconds=10, file_bytes=0)
_TIMEOUT_SECONDS = 20.0
_MAX_ANSWER_BYTES = 32 * 1024 * 1024


@dataclass(frozen=True, slots=True)
class ByteRange:
    """A stretch of a file: the offset of its first byte and its length."""

    start: int
    length: int

    @property
    def end(self) -> int:
        """The offset after its last byte."""
        return self.start + self.length

    @property
    def header(self) -> str:
        """The value of a Range header that asks for it."""
        return f"bytes={self.start}-{self.end - 1}"


@dataclass(frozen=True, slots=True)
class SegmentKey:
    """AES-128 in CBC mode: where the key is, and the 16 bytes of the IV in hex."""

    url: str
    iv: str


@dataclass(frozen=True, slots=True)
class Piece:
    """A media segment, an initialisation section (which lasts 0 s), or a gap that nothing fills.

    ``duration_seconds`` is 0 where it is not told, and may be off by ``slack_seconds``.
    ``starts_run``: from here on timestamps and codec settings have nothing to do with those before.
    """

    url: str
    duration_seconds: float
    byte_range: ByteRange | None = None
    key: SegmentKey | None = None
    slack_seconds: float = 0.0
    is_init: bool = False
    is_gap: bool = False
    starts_run: bool = False


@dataclass(frozen=True, slots=True)
class MediaPlaylist:
    """The pieces in the order in which they are written, one after the other, into one file."""

    pieces: tuple[Piece, ...]
    ended: bool
    tells_duration: bool

    @property
    def duration_seconds(self) -> float | None:
        """The sum of all EXTINF; None where one does not tell."""
        seconds = math.fsum(piece.duration_seconds for piece in self.pieces)
        return seconds if self.tells_duration else None

    @property
    def slack_seconds(self) -> float:
        """How much of the duration may be rounding, or gaps, which nobody hears at the ends."""
        return math.fsum(
            piece.duration_seconds if piece.is_gap else piece.slack_seconds for piece in self.pieces
        )

    @property
    def is_fragmented_mp4(self) -> bool:
        """Whether it is fMP4; else MPEG-TS or packed audio."""
        return any(piece.is_init for piece in self.pieces)

    @property
    def total_bytes(self) -> int | None:
        """The size, where every piece is a byte range."""
        ranges = [piece.byte_range.length for piece in self.pieces if piece.byte_range]
        return sum(ranges) if len(ranges) == len(self.pieces) else None


@dataclass(frozen=True, slots=True)
class Choice:
    """A playlist that a master names, and whether it is an audio rendition."""

    url: str
    is_rendition: bool


@dataclass(frozen=True, slots=True)
class MasterPlaylist:
    """The playlists that may have the recording's sound, best first."""

    choices: tuple[Choice, ...]


Playlist = MasterPlaylist | MediaPlaylist
_WIRE: TypeAdapter[Playlist] = TypeAdapter(Playlist)


async def parse_playlist(text: str, url: str) -> Playlist:
    """Return what the playlist at ``url`` says, or raise `IngestFailed` with SOURCE_NOT_FOUND."""
    try:
        result = await run_child(
            "app.ingest.sandbox.tasks.playlist",
            {"text": text, "url": url},
            limits=_LIMITS,
            timeout_seconds=_TIMEOUT_SECONDS,
            max_answer_bytes=_MAX_ANSWER_BYTES,
        )
        return _WIRE.validate_python(result["playlist"])
    except ChildRefused:
        raise IngestFailed(
            LectureFailure.SOURCE_NOT_FOUND, "The recording is protected against copying."
        ) from None
    except (ChildError, ValidationError):
        raise IngestFailed(
            LectureFailure.SOURCE_NOT_FOUND, "The stream's playlist cannot be read."
        ) from None
