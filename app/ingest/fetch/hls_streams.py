"""Which of an HLS recording's media playlists may be fetched for its sound, best first."""

from collections.abc import AsyncGenerator
from dataclasses import dataclass

import structlog

from app.domain import LectureFailure
from app.errors import IngestFailed, NotReadyYet
from app.ingest.fetch.playlist import Choice, MasterPlaylist, MediaPlaylist, parse_playlist
from app.ingest.model import MediaLocation
from app.ingest.net.guard import GuardedClient, origin_of
from app.ingest.net.sniffing import form_of, require_media

log = structlog.get_logger(__name__)

_MAX_PLAYLIST_BYTES = 8 * 1024 * 1024
_MAX_CHOICES = 4
_UNREADABLE = "The stream's playlist cannot be read."


class NoPlaylist(IngestFailed):
    """What is at the location is no playlist; it may be a media file."""

    def __init__(self) -> None:
        super().__init__(LectureFailure.SOURCE_NOT_FOUND, _UNREADABLE)


@dataclass(frozen=True, slots=True)
class HlsStream:
    """The media playlist to fetch, and whether the master names it as an audio rendition."""

    location: MediaLocation
    playlist: MediaPlaylist
    is_rendition: bool

    def cookie_for(self, url: str) -> str | None:
        """Return the cookie where the URL is on the playlist's own origin, else None."""
        same = origin_of(url) == origin_of(self.location.url)
        return self.location.cookie_header if same else None


async def open_streams(
    client: GuardedClient, location: MediaLocation
) -> AsyncGenerator[HlsStream | IngestFailed, None]:
    """Yield each media playlist that may have the sound, from the best one on, or why it fails.

    Raises `NotReadyYet` where one has no end yet, `NoPlaylist` where the location itself is none,
    NO_AUDIO where a master names none, and whatever passes by itself.
    """
    named = await _load(client, location, location.url)
    if isinstance(named, MediaPlaylist):
        yield _stream(location, named, Choice(location.url, is_rendition=False))
        return
    if not named.choices:
        raise no_audio()
    for position, choice in enumerate(named.choices[:_MAX_CHOICES]):
        try:
            yield _stream(location, await _load(client, location, choice.url), choice)
        except IngestFailed as error:
            if error.transient:
                raise
            log.info("hls_choice_failed", choice=position, failure=error.failure.value)
            yield error


def unreadable() -> IngestFailed:
    """Return the failure of a stream that lacks what is needed."""
    return IngestFailed(LectureFailure.SOURCE_NOT_FOUND, _UNREADABLE)


def no_audio() -> IngestFailed:
    """Return the failure of a recording of pictures alone."""
    return IngestFailed(LectureFailure.NO_AUDIO, "The recording has no audio.")


async def _load(
    client: GuardedClient, location: MediaLocation, url: str
) -> MasterPlaylist | MediaPlaylist:
    same = origin_of(url) == origin_of(location.url)
    try:
        fetched = await client.read(
            "GET",
            url,
            max_bytes=_MAX_PLAYLIST_BYTES,
            cookie_header=location.cookie_header if same else None,
        )
    except IngestFailed as error:
        if error.failure is LectureFailure.TOO_LARGE and url == location.url:
            raise NoPlaylist from None  # No playlist is so large; a file taken for one is.
        raise
    if form_of(fetched.body) != "playlist":
        require_media(fetched.content_type, fetched.url, fetched.body)
        raise NoPlaylist if url == location.url else unreadable()
    return await parse_playlist(fetched.body.decode("utf-8-sig", errors="replace"), fetched.url)


def _stream(
    location: MediaLocation, playlist: MasterPlaylist | MediaPlaylist, choice: Choice
) -> HlsStream:
    """Check that there is something to fetch, and that it is all."""
    if isinstance(playlist, MasterPlaylist):
        raise unreadable()
    if not any(not (piece.is_init or piece.is_gap) for piece in playlist.pieces):
        raise unreadable()
    if not playlist.ended:
        raise NotReadyYet("The recording is still live.")
    runs = sum(piece.starts_run for piece in playlist.pieces)
    gaps = sum(piece.is_gap for piece in playlist.pieces)
    if runs or gaps:
        log.info("hls_interrupted", discontinuities=runs, gaps=gaps)
    return HlsStream(location, playlist, choice.is_rendition)
