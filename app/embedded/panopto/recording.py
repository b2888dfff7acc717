"""What a simulated tenant has: recordings, the media they are made of, and what goes wrong.

The shape of DeliveryInfo is that of a captured answer, as third-party clients read it.
"""

from dataclasses import dataclass, field
from itertools import accumulate
from pathlib import Path
from typing import Any
from uuid import uuid4

from app.embedded.panopto.link import Link
from app.embedded.panopto.packager import Shape
from app.embedded.sample_media import media_duration_seconds


@dataclass
class Faults:
    """What goes wrong with a recording, changeable at any time.  Counters run down by themselves.

    Those of the media (from ``cut_after_bytes`` to ``redirect_media_to``) hold for its files,
    playlists and segments; ``times`` of None is for ever.
    """

    cut_after_bytes: int | None = None
    """Drop the connection after so many bytes of an answer's body …"""
    cut_times: int | None = 1
    """… so often."""
    ends_at_byte: int | None = None
    """The file ends there, whatever its Content-Length says and however often it is asked for."""
    no_length: bool = False
    """No Content-Length: the answer is sent in chunks."""
    etag_changes: bool = False
    """Every answer has another ETag, so that nothing can be resumed."""
    no_range: bool = False
    """Range is ignored: always 200 and the whole file."""
    media_status: int | None = None
    """Answer with this status (404, 500, 429, …) …"""
    media_status_times: int | None = None
    """… so often."""
    retry_after: str | None = None
    """The Retry-After header of such an answer, or of ``delivery_status``."""
    bytes_per_second: int | None = None
    """How fast the media flows."""
    bad_segment: int | None = None
    """The HLS segment of this number answers 503 …"""
    bad_segment_times: int | None = 1
    """… so often."""
    redirect_media_to: str | None = None
    """Where the media redirects to: a private address, another host, a login page."""
    html_media: bool = False
    """The media is a web page with status 200."""

    login_required: bool = False
    """DeliveryInfo answers ErrorCode 2."""
    error_code: int | None = None
    """DeliveryInfo answers this ErrorCode."""
    delivery_status: int | None = None
    """DeliveryInfo answers with this HTTP status …"""
    delivery_status_times: int | None = None
    """… so often."""
    html_delivery: bool = False
    """DeliveryInfo answers with a web page and status 200."""
    login_redirect: bool = False
    """DeliveryInfo redirects to the login page."""
    refuse_get: bool = False
    """DeliveryInfo allows POST alone."""
    live: bool = False
    """IsActiveBroadcast, and playlists without an end."""
    not_encoded_times: int = 0
    """How many more times DeliveryInfo says that the encoding goes on."""

    def due(self, counter: str) -> bool:
        """Whether a fault that is counted by this field happens now; counts it."""
        left: int | None = getattr(self, counter)
        if left is None:
            return True
        setattr(self, counter, max(0, left - 1))
        return left > 0


@dataclass
class Recording:
    """One recording of the tenant.

    ``media`` is an MP4; HLS is made from it when it is first asked for.  ``offers`` names what
    DeliveryInfo lists of ``hls``, ``mp4`` (StreamHttpUrl) and ``download`` (DownloadUrl, for those
    with the tenant's cookie alone).  ``edits`` are (start, end) seconds of the raw stream that the
    edited recording keeps.
    """

    media: Path
    title: str = "Sample lecture"
    guid: str = field(default_factory=lambda: str(uuid4()))
    tid: str = field(default_factory=lambda: str(uuid4()))
    duration_seconds: float | None = None
    tag: str = "DV"
    offers: tuple[str, ...] = ("hls", "mp4")
    slides: Path | None = None
    """A silent MP4 that is listed first, with the tag OBJECT."""
    edits: tuple[tuple[float, float], ...] = ()
    edit_places: tuple[float, ...] = ()
    """Where each edit begins in the recording; without, right behind the one before."""
    starts_at_seconds: float = 0.0
    """Where the stream begins in the recording, which is longer by that; for streams unedited."""
    hls_audio_rendition: bool = True
    """Whether the master has an audio rendition, or variants with sound in them alone."""
    hls_fragmented_mp4: bool = False
    hls_encrypted: bool = False
    hls_discontinuity: int | None = None
    """With the segment of this number another run of the encoder begins: timestamps start anew, in
    fMP4 there is another initialisation section, and encrypted it has another key."""
    hls_gap: int | None = None
    """The segment of this number is marked as missing (EXT-X-GAP), and is."""
    hls_single_file: bool = False
    """The segments are byte ranges of one file (of one a run); not to be encrypted as well."""
    audio_podcast: bool = False
    """There is a podcast with the sound alone, for those with the tenant's cookie."""
    link: Link | None = None
    """The line that the media comes over; no line is as fast as the machine."""
    media_base_url: str | None = None
    """Where DeliveryInfo says that the media is: another name of this server."""
    wrapped: bool = False
    """DeliveryInfo comes as ``{"d": …}``."""
    captions: dict[int, Any] = field(default_factory=dict)
    """What `getCaptions` answers for each language's number, the recording's own first: a list of
    ``Caption``, ``Time``, ``CaptionDuration`` on the raw stream's clock, a text as it is, or a
    status."""
    faults: Faults = field(default_factory=Faults)
    version: int = 1
    """Part of the ETag: raise it, and the file has changed."""

    @property
    def hls_shape(self) -> Shape:
        """What its HLS is to look like."""
        return Shape(
            audio_rendition=self.hls_audio_rendition,
            fragmented_mp4=self.hls_fragmented_mp4,
            encrypted=self.hls_encrypted,
            discontinuity=self.hls_discontinuity,
            gap=self.hls_gap,
            single_file=self.hls_single_file,
        )

    def viewer_path(self) -> str:
        """Return the path and query that a browser shows."""
        return f"/Panopto/Pages/Viewer.aspx?id={self.guid}"

    def delivery_info(self, base_url: str) -> dict[str, Any]:
        """Return DeliveryInfo's answer as JSON will carry it; counts ``not_encoded_times``."""
        ready = not self.faults.due("not_encoded_times")
        slides = [self._stream(base_url, "OBJECT", "slides")] if self.slides else []
        main = self._stream(base_url, self.tag, "main")
        answer = {
            "SessionId": self.guid,
            "InvocationId": str(uuid4()),
            "ViewerFileId": str(uuid4()),
            "DownloadUrl": f"{base_url}{self.download_path}" if "download" in self.offers else None,
            "EmbedUrl": f"{base_url}/Panopto/Pages/Embed.aspx?id={self.guid}",
            "PodcastCompleted": ready,
            "Delivery": {
                "PublicID": self.guid,
                "SessionPublicID": self.guid,
                "SessionName": self.title,
                "SessionAbstract": None,
                "SessionStartTime": 13_300_000_000.0,
                "Duration": self.edited_duration_seconds(),
                "OwnerDisplayName": "A lecturer",
                "SessionGroupLongName": "A course",
                "IsBroadcast": self.faults.live,
                "IsActiveBroadcast": self.faults.live,
                "BroadcastEnded": False,
                "IsPodcastEncodeComplete": ready,
                "IsAudioPodcastEncodeComplete": ready and self.audio_podcast,
                "IsPrimaryAudioOnly": False,
                "IsViewerEncodeComplete": ready,
                "IsPurgedEncode": False,
                "AvailableLanguages": list(self.captions),
                "AvailableCaptions": [],
                "Streams": [*slides, main] if ready else [],
                "Timestamps": [],
            },
        }
        return {"d": answer} if self.wrapped else answer

    @property
    def download_path(self) -> str:
        """The podcast's path, as the tenant's own pages link it."""
        return f"/Panopto/Podcast/Download/{self.guid}.mp4?mediaTargetType=videoPodcast"

    def raw_duration_seconds(self) -> float:
        """Return how long the raw stream is."""
        return media_duration_seconds(self.media)

    def edited_duration_seconds(self) -> float:
        """Return how long the recording is for who plays it."""
        if self.duration_seconds is not None:
            return self.duration_seconds
        if self.edits:
            return self._edit_ends()[-1]
        return self.starts_at_seconds + self.raw_duration_seconds()

    def _stream(self, base_url: str, tag: str, name: str) -> dict[str, Any]:
        root = f"{self.media_base_url or base_url}/sessions/{self.guid}/{name}"
        hls = f"{root}/hls/master.m3u8" if "hls" in self.offers else None
        segments = [
            {"Start": start, "End": end, "RelativeStart": stop - (end - start)}
            for (start, end), stop in zip(self.edits, self._edit_ends(), strict=True)
        ]
        return {
            "PublicID": str(uuid4()),
            "Tag": tag,
            "StreamUrl": hls,
            "StreamHttpUrl": f"{root}/{self.guid}.mp4" if "mp4" in self.offers else None,
            "ViewerMediaFileTypeName": "hls" if hls else "mp4",
            "StreamTypeName": "Streaming",
            "RelativeStart": self.starts_at_seconds,
            "RelativeEnd": self.starts_at_seconds + self.raw_duration_seconds(),
            "RelativeSegments": segments or None,
        }

    def _edit_ends(self) -> list[float]:
        """Return where each edit ends in the recording."""
        lengths = [end - start for start, end in self.edits]
        if not self.edit_places:
            return list(accumulate(lengths))
        return [place + length for place, length in zip(self.edit_places, lengths, strict=True)]
