"""Links that are media themselves: a file or an HLS playlist, by its name or by what it answers.

Which of the two it is, the downloader sees for itself.
"""

from contextlib import aclosing
from pathlib import PurePosixPath
from urllib.parse import urlsplit

import httpx

from app.ingest.failures import no_recording
from app.ingest.model import LectureRequest, MediaLocation, ResolvedLecture
from app.ingest.net.guard import GuardedClient, content_type, origin_of
from app.ingest.net.sniffing import form_of, media_chunks
from app.ingest.sources.panopto.delivery import kind_of

_MEDIA_EXTENSIONS = frozenset(
    {".mp4", ".m4a", ".m4v", ".mov", ".mp3", ".aac", ".webm", ".mkv", ".mka", ".ts"}
    | {".ogg", ".oga", ".opus", ".wav", ".flac"}
)
_HLS_TYPES = frozenset(
    {"application/vnd.apple.mpegurl", "application/x-mpegurl", "audio/mpegurl", "audio/x-mpegurl"}
)
_BINARY_TYPES = frozenset({"application/octet-stream", "binary/octet-stream", "application/mp4"})


class DirectSource:
    """`LectureSource` for the stream that the user gave, else for the link itself; asked last."""

    def __init__(self, client: GuardedClient) -> None:
        self._client = client

    async def resolve(self, request: LectureRequest) -> ResolvedLecture | None:
        """Return the link as the one medium, or raise `IngestFailed` where it is none."""
        location = await location_of(self._client, request.stream_url or request.panopto_url)
        return ResolvedLecture(request.session_id, None, None, (location,), platform="direct")


async def location_of(client: GuardedClient, url: str) -> MediaLocation:
    """Tell a playlist from a file: by the extension, else by the first bytes and their type.

    Raises `IngestFailed` where it is neither.
    """
    if origin_of(url) is None:
        raise no_recording()
    if names_media(url):
        return MediaLocation(kind_of(url), url)
    async with client.stream("GET", url) as response:
        return MediaLocation(await _sniffed(response), url)


def names_media(url: str) -> bool:
    """Whether the URL's extension says that it is a media file or an HLS playlist."""
    suffix = PurePosixPath(urlsplit(url).path.lower()).suffix
    return kind_of(url) == "hls" or suffix in _MEDIA_EXTENSIONS


async def _sniffed(response: httpx.Response) -> str:
    media_type = content_type(response)
    if media_type in _HLS_TYPES:
        return "hls"
    async with aclosing(media_chunks(response)) as chunks:
        form = form_of(await anext(chunks))
    if form == "playlist":
        return "hls"
    is_told = media_type in _BINARY_TYPES or media_type.startswith(("video/", "audio/"))
    if form == "media" or is_told:
        return "mp4"
    raise no_recording()
