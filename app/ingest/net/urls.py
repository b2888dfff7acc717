"""http(s) URLs as strangers write them: checked once, and one canonical text for each.

Normalisation follows RFC 3986, section 6.2.2, and hosts UTS 46.  Any text gives a `WebUrl` or
`InvalidInput`, never another error.
"""

import re
from dataclasses import dataclass
from ipaddress import AddressValueError, IPv6Address
from urllib.parse import SplitResult, quote, urlsplit

import idna

from app.domain import FieldErrorCode
from app.errors import InvalidInput

MAX_URL_CHARACTERS = 2048

_DEFAULT_PORTS = {"http": 80, "https": 443}
_HOST = re.compile(r"(?!-)[a-z0-9_-]{1,63}(?:\.[a-z0-9_-]{1,63})*")
_MAX_HOST_CHARACTERS = 253
_MAX_UNMAPPED_CHARACTERS = 4 * _MAX_HOST_CHARACTERS
_ESCAPE = re.compile("%([0-9a-fA-F]{2})")
_UNRESERVED = frozenset("ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-._~")
_PATH_SAFE = "/%!$&'()*+,;=:@~"
_QUERY_SAFE = _PATH_SAFE + "?"
_UNPRINTABLE = re.compile("[\x00-\x1f\x7f-\x9f\u2028\u2029\ud800-\udfff]")


@dataclass(frozen=True, slots=True)
class WebUrl:
    """A checked URL: host in lower-case ASCII, port None where it is the scheme's own."""

    text: str
    parts: SplitResult
    host: str
    port: int | None

    @property
    def authority(self) -> str:
        """``host``, or ``host:port`` where the port is not the scheme's own."""
        host = f"[{self.host}]" if ":" in self.host else self.host
        return host if self.port is None else f"{host}:{self.port}"

    @property
    def authority_with_port(self) -> str:
        """``host:port``, whichever port it is."""
        port = self.port or _DEFAULT_PORTS[self.parts.scheme]
        return f"[{self.host}]:{port}" if ":" in self.host else f"{self.host}:{port}"

    @property
    def origin(self) -> str:
        """Scheme and authority, with no slash at the end."""
        return f"{self.parts.scheme}://{self.authority}"

    @property
    def canonical(self) -> str:
        """The one text for all equivalent spellings: no fragment, the query's order kept."""
        path = _without_dot_segments(_normal_escapes(self.parts.path, _PATH_SAFE)) or "/"
        query = _normal_escapes(self.parts.query, _QUERY_SAFE)
        return f"{self.origin}{path}" + (f"?{query}" if query else "")


def parse_web_url(url: str, field: str, *, max_characters: int = MAX_URL_CHARACTERS) -> WebUrl:
    """Return the checked URL, or raise `InvalidInput` at ``input.{field}``.

    Refused: blank, over ``max_characters``, control characters, a scheme but http(s), no host, a
    host or port that cannot be, and a user name or password.
    """
    text = url.strip()
    if not text:
        raise InvalidInput.at(field, "The link is blank.", FieldErrorCode.REQUIRED)
    if len(text) > max_characters:
        raise InvalidInput.at(field, "The link is too long.", FieldErrorCode.TOO_LONG)
    if _UNPRINTABLE.search(text):
        raise InvalidInput.at(
            field, "The link contains characters that no link may have.", FieldErrorCode.MALFORMED
        )
    try:
        parts = urlsplit(text)
        if parts.scheme not in _DEFAULT_PORTS:
            code = FieldErrorCode.UNSUPPORTED if parts.scheme else FieldErrorCode.MALFORMED
            raise InvalidInput.at(field, "The link must start with https:// or http://.", code)
        if "@" in parts.netloc or "\\" in parts.netloc:
            message = "The link must not carry a user name or password."
            raise InvalidInput.at(field, message, FieldErrorCode.UNSUPPORTED)
        if not parts.hostname:
            raise InvalidInput.at(field, "The link names no host.", FieldErrorCode.MALFORMED)
        port = None if parts.port == _DEFAULT_PORTS[parts.scheme] else parts.port
        if port == 0 or parts.netloc.endswith("::"):
            raise ValueError("port")
        return WebUrl(text, parts, ascii_host(parts.hostname), port)
    except ValueError:
        raise InvalidInput.at(
            field, "The link is not a valid URL.", FieldErrorCode.MALFORMED
        ) from None


def ascii_host(host: str) -> str:
    """Return the host in lower-case ASCII without a final dot; raise ValueError for none."""
    if ":" in host:
        if "%" in host:  # A zone is a network interface of one machine.
            raise ValueError("host")
        try:
            return IPv6Address(host).compressed.lower()
        except AddressValueError:
            raise ValueError("host") from None
    if len(host) > _MAX_UNMAPPED_CHARACTERS:  # Mapping takes its time.
        raise ValueError("host")
    mapped = idna.uts46_remap(host, std3_rules=False, transitional=False).removesuffix(".")
    if not mapped.isascii():
        mapped = idna.encode(mapped).decode("ascii")
    if len(mapped) > _MAX_HOST_CHARACTERS or not _HOST.fullmatch(mapped):
        raise ValueError("host")
    return mapped


def _normal_escapes(text: str, safe: str) -> str:
    """Decode what needs no escape, write the other escapes in capitals, escape what needs one."""

    def normal(match: re.Match[str]) -> str:
        character = chr(int(match[1], 16))
        return character if character in _UNRESERVED else match[0].upper()

    stray_percents_escaped = re.sub("%(?![0-9a-fA-F]{2})", "%25", text)
    return quote(_ESCAPE.sub(normal, stray_percents_escaped), safe=safe)


def _without_dot_segments(path: str) -> str:
    """Resolve ``.`` and ``..`` as RFC 3986, section 5.2.4, does for an absolute path."""
    kept: list[str] = []
    segments = path.split("/")
    for segment in segments[1:]:
        if segment == "..":
            kept = kept[:-1]
        elif segment != ".":
            kept.append(segment)
    if segments[-1] in {".", ".."}:
        kept.append("")
    return "/" + "/".join(kept) if len(segments) > 1 else path
