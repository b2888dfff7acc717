"""The child's task that parses an HLS playlist (RFC 8216).

Of what it says, only the tags in `_TAGS` and `_OF_THE_NEXT_SEGMENT` are read, and of those only
what fetching the sound needs: whatever else stands there, however it is written, costs nothing.  A
value that is needed and wrong is an exception, which hurts nobody here.
"""

import re
from collections.abc import Callable
from typing import Any
from urllib.parse import urljoin

from app.ingest.sandbox.child import Refused

_LINES = re.compile(r"[\r\n]+")
_ATTRIBUTE = re.compile(r'(?<![A-Za-z0-9-])([A-Za-z0-9-]++)\s*=\s*(?:"([^"]*)|([^",]*))')
_SECONDS = re.compile(r"(\d+)(?:\.(\d*))?", re.ASCII)
_COUNT = re.compile(r"\d{1,30}(?!\d)", re.ASCII)
_PICTURES = ("avc", "hvc", "hev", "dvh", "dva", "vp0", "vp8", "vp9", "av01", "mp4v", "jpeg", "h26")
_TEXTS = ("stpp", "wvtt")
_OPEN_KEY = "identity"
_MAX_SEGMENTS = 50_000
_MAX_SEGMENT_SECONDS = 24 * 3600.0
_MAX_FILE_BYTES = 2**63

_Attributes = dict[str, str]


def run(arguments: dict[str, Any]) -> dict[str, Any]:
    """Return ``{"playlist": …}`` for the ``text`` found at ``url``.

    The shapes are those of `app.ingest.fetch.playlist`; any exception says that it cannot be read.
    """
    playlist = _Playlist(arguments["url"])
    for line in _LINES.split(arguments["text"]):
        playlist.take(line.strip())
    return {"playlist": playlist.master() if playlist.is_master else playlist.media()}


class _Playlist:
    """What the lines have said so far, in the order in which they come."""

    def __init__(self, url: str) -> None:
        self._url = url
        self._renditions: list[_Attributes] = []
        self._variants: list[tuple[_Attributes, str]] = []
        self._variant: _Attributes | None = None  # Whose URL comes next.
        self._pieces: list[dict[str, Any]] = []
        self._ended = False
        self._tells_duration = True
        self._number: int | None = 0
        self._count = 0
        self._keys: dict[str, _Attributes] = {}
        self._section: dict[str, Any] | None = None
        self._section_before: dict[str, Any] | None = None
        self._ends: dict[str, int] = {}
        self._next: dict[str, str] = {}  # What tags have said of the segment that comes next.

    @property
    def is_master(self) -> bool:
        """Whether it names playlists, not segments."""
        return bool(self._variants or self._renditions)

    def take(self, line: str) -> None:
        """Read a line: a tag, a URL or, which tells nothing, anything else."""
        if line.startswith("#"):
            name, _, value = line.partition(":")
            name, value = name.strip().upper(), value.strip()
            if name == "#EXTINF" and name in self._next:
                raise ValueError("a segment has no URL")
            if name in _OF_THE_NEXT_SEGMENT:
                self._next[name] = value
            elif name in _TAGS:
                _TAGS[name](self, value)
        elif line:
            url = self._absolute(line.replace(" ", "%20"))
            if self._variant is not None:
                self._variants.append((self._variant, url))
                self._variant = None
            elif not self.is_master:
                self._take_segment(url)

    def _absolute(self, url: str) -> str:
        """Resolve a URL; what no parser accepts is left for the guard to refuse."""
        try:
            return urljoin(self._url, url)
        except ValueError:
            return url

    def _take_segment(self, url: str) -> None:
        self._count += 1
        if self._count > _MAX_SEGMENTS:
            raise ValueError("too many segments")
        said, self._next = self._next, {}
        key, section = self._key(), self._section
        is_new = section is not self._section_before
        starts_run = bool(self._pieces) and ("#EXT-X-DISCONTINUITY" in said or is_new)
        if section and (is_new or starts_run):
            # Once more where it is the same: each run is to be readable by itself.
            section.setdefault("key", key)
            self._section_before = section
            self._pieces.append(section | {"starts_run": starts_run})
            starts_run = False
        byte_range = None
        if "#EXT-X-BYTERANGE" in said:  # Without an offset it follows the last of the same file.
            byte_range = _range_of(said["#EXT-X-BYTERANGE"], self._ends.get(url, 0))
            self._ends[url] = byte_range["start"] + byte_range["length"]
        seconds, slack_seconds = _duration(said.get("#EXTINF", ""))
        self._tells_duration &= seconds is not None
        self._pieces.append(
            {
                "url": url,
                "duration_seconds": seconds or 0.0,
                "slack_seconds": slack_seconds,
                "byte_range": byte_range,
                "key": key,
                "is_gap": "#EXT-X-GAP" in said,
                "starts_run": starts_run,
            }
        )
        self._number = None if self._number is None else self._number + 1

    def _key(self) -> dict[str, str] | None:
        """Return the key of the segment that comes next; refuses one that no player gives away."""
        if not self._keys:
            return None
        key = self._keys.get(_OPEN_KEY, {})
        if key.get("METHOD", "").upper() != "AES-128" or not key.get("URI"):
            raise Refused("protected")
        number = int(key["IV"], 16) if key.get("IV") else self._number
        if number is None:
            raise ValueError("an IV is needed, and the segment's number is not known")
        return {"url": self._absolute(key["URI"]), "iv": number.to_bytes(16, "big").hex()}

    def take_key(self, value: str) -> None:
        """A key holds until the next of its format; where there is none, none holds any more."""
        key = _attributes(value)
        if key.get("METHOD", "").upper() == "NONE":
            self._keys.clear()
        else:
            self._keys[key.get("KEYFORMAT", _OPEN_KEY).lower()] = key

    def take_section(self, value: str) -> None:
        """It holds for all segments up to the next one; its key is told by the first of them."""
        section = _attributes(value)
        url, byte_range = self._absolute(section["URI"]), None
        if section.get("BYTERANGE"):
            byte_range = _range_of(section["BYTERANGE"], 0)
            self._ends.setdefault(url, byte_range["start"] + byte_range["length"])
        place = {"url": url, "byte_range": byte_range, "duration_seconds": 0.0, "is_init": True}
        if not self._section or not place.items() <= self._section.items():
            self._section = place

    def take_number(self, value: str) -> None:
        """The number of the first segment, which is an IV where none is named."""
        found = _COUNT.match(value)
        self._number = int(found[0]) if found else None

    def take_type(self, value: str) -> None:
        """On demand says that nothing will be added: as good as an end."""
        self._ended |= value.upper().startswith("VOD")

    def end(self, _: str) -> None:
        """Nothing more will be added."""
        self._ended = True

    def take_variant(self, value: str) -> None:
        """The variant's URL comes next."""
        self._variant = _attributes(value)

    def take_rendition(self, value: str) -> None:
        """Renditions of pictures and subtitles are nothing to us."""
        rendition = _attributes(value)
        if rendition.get("TYPE", "").upper() == "AUDIO":
            self._renditions.append(rendition)

    def media(self) -> dict[str, Any]:
        """Return the pieces in order; the last segment lasts as long as was left to it."""
        if "#EXTINF" in self._next:
            raise ValueError("the last segment has no URL")
        last = self._pieces[-1] if self._pieces else {}
        if last.get("slack_seconds") == 1.0:
            # Who writes whole seconds often writes the same for every segment, the rest too.
            last["slack_seconds"] = max(1.0, last["duration_seconds"])
        return {
            "pieces": self._pieces,
            "ended": self._ended,
            "tells_duration": self._tells_duration,
        }

    def master(self) -> dict[str, Any]:
        """Return what may have the sound, best first: what is marked as default, then the cheapest.

        A rendition without a URL lies in the variants of its group.  Where all of a group have one,
        its variants are pictures alone.  Variants whose codecs are pictures alone come last: the
        sound is sometimes left out.
        """
        variants = sorted(self._variants, key=lambda variant: _bandwidth(variant[0]))
        renditions = sorted(self._renditions, key=lambda each: each.get("DEFAULT") != "YES")
        mixed = {each.get("GROUP-ID") for each in renditions if not each.get("URI")}
        apart = {each.get("GROUP-ID") for each in renditions} - mixed - {None}
        listed: list[tuple[str, bool]] = []
        for each in renditions:
            if each.get("URI"):
                listed.append((self._absolute(each["URI"]), True))
            else:
                group = each.get("GROUP-ID")
                listed += [(url, False) for said, url in variants if said.get("AUDIO") == group]
        for said, url in sorted(variants, key=lambda variant: not _may_sound(variant[0])):
            if said.get("AUDIO") not in apart or _is_sound_alone(said):
                listed.append((url, False))
        choices: dict[str, dict[str, Any]] = {}
        for url, alone in listed:
            choices.setdefault(url, {"url": url, "is_rendition": alone})
        return {"choices": list(choices.values())}


_OF_THE_NEXT_SEGMENT = ("#EXTINF", "#EXT-X-BYTERANGE", "#EXT-X-DISCONTINUITY", "#EXT-X-GAP")
_TAGS: dict[str, Callable[[_Playlist, str], None]] = {
    "#EXT-X-KEY": _Playlist.take_key,
    "#EXT-X-MAP": _Playlist.take_section,
    "#EXT-X-MEDIA-SEQUENCE": _Playlist.take_number,
    "#EXT-X-PLAYLIST-TYPE": _Playlist.take_type,
    "#EXT-X-ENDLIST": _Playlist.end,
    "#EXT-X-STREAM-INF": _Playlist.take_variant,
    "#EXT-X-MEDIA": _Playlist.take_rendition,
}


def _attributes(text: str) -> _Attributes:
    """Read ``NAME=value,NAME="value"``; of a name that comes twice, the first counts."""
    found: _Attributes = {}
    for name, quoted, bare in _ATTRIBUTE.findall(text):
        found.setdefault(name.upper(), (quoted or bare).strip())
    return found


def _range_of(text: str, following: int) -> dict[str, int]:
    """Read ``length[@offset]``; without an offset it is ``following``."""
    length, _, start = text.strip('"').partition("@")
    found = {"start": int(start) if start else following, "length": int(length)}
    if not 0 <= found["start"] < found["start"] + found["length"] <= _MAX_FILE_BYTES:
        raise ValueError("byte range")
    return found


def _duration(text: str) -> tuple[float | None, float]:
    """Return the seconds that a number tells (None: nothing), and how far rounding may be off.

    That is one unit of the last digit: some round up, some down.
    """
    found = _SECONDS.match(text)
    if found is None or float(found[0]) > _MAX_SEGMENT_SECONDS:
        return None, _MAX_SEGMENT_SECONDS
    return float(found[0]), 10.0 ** -len(found[2] or "")


def _bandwidth(variant: _Attributes) -> float:
    found = _COUNT.match(variant.get("BANDWIDTH") or variant.get("AVERAGE-BANDWIDTH") or "")
    return float(found[0]) if found else float("inf")


def _codecs(variant: _Attributes) -> list[str]:
    codecs = variant.get("CODECS", "").lower().split(",")
    return [codec.strip() for codec in codecs if codec.strip()]


def _may_sound(variant: _Attributes) -> bool:
    """Whether a variant may have sound; one that does not name its codecs may."""
    codecs = _codecs(variant)
    return not codecs or not all(codec.startswith(_PICTURES + _TEXTS) for codec in codecs)


def _is_sound_alone(variant: _Attributes) -> bool:
    codecs = _codecs(variant)
    return bool(codecs) and not any(codec.startswith(_PICTURES) for codec in codecs)
