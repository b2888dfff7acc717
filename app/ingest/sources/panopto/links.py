"""Which recording a URL names: one identity for every spelling of it.

The forms are those that Panopto's own pages and third-party clients produce.  Nothing here asks a
server: a ``tid`` link stays a ``tid`` link until DeliveryInfo has told its session.
"""

import re
from contextlib import suppress
from dataclasses import dataclass
from functools import lru_cache
from urllib.parse import parse_qsl, quote, unquote, urljoin, urlsplit

from app.domain import FieldErrorCode
from app.errors import InvalidInput
from app.ingest.model import SourceIdentity
from app.ingest.net.urls import MAX_URL_CHARACTERS, WebUrl, ascii_host, parse_web_url

_TENANT_SUFFIXES = (".panopto.com", ".panopto.eu")
_GUID = re.compile(
    # Whatever an editor or a messenger put behind it begins with what no GUID has.
    r"[\"']?\{?([0-9a-f]{8}(?:-[0-9a-f]{4}){3}-[0-9a-f]{12})\}?(?:[\"'/?;&#\s].*)?",
    re.IGNORECASE | re.DOTALL,
)
_VIEWERS = frozenset(
    {
        "/panopto/pages/viewer.aspx",
        "/panopto/pages/embed.aspx",
        "/panopto/pages/viewer/default.aspx",
    }
)
_DELIVERY = "/panopto/pages/viewer/deliveryinfo.aspx"
_LOGIN = "/panopto/pages/auth/login.aspx"
_FOLDER = "/panopto/pages/sessions/list.aspx"
_PODCAST = re.compile(r"/panopto/podcast/[a-z]+/([^/]+?)(?:\.[a-z0-9]{1,4})?")
_PODCAST_FEED = "/panopto/podcast/podcast.ashx"
_RETURN_URL = re.compile("(?:^|&)returnurl=([^&?]+)([?][^#]*)?", re.IGNORECASE)
_MAX_WRAPPINGS = 5
_A_FOLDER = "This is the link of a folder. Paste the link of one recording."
_A_PLAYLIST = "This is the link of a playlist. Paste the link of one recording."


@dataclass(frozen=True, slots=True)
class RecordingLink:
    """A recording on a tenant: ``base_url`` is scheme and host; one of the two ids is set."""

    base_url: str
    session_id: str | None
    tid: str | None = None


def identify(url: str, panopto_hosts: tuple[str, ...] = ()) -> SourceIdentity:
    """Return the identity of the recording that the URL names, or raise `InvalidInput`.

    Sessions are recognised on ``*.panopto.com``, ``*.panopto.eu`` and ``panopto_hosts`` (entries
    are ``host`` or ``host:port``); any other URL in canonical form is its own identity.  Folders,
    playlists and whatever is no http(s) URL of at most 2,048 characters are refused.
    """
    web_url = parse_web_url(url, "panoptoUrl")
    link = _link(web_url, panopto_hosts)
    if link is None:
        return SourceIdentity(_short_enough(web_url.canonical), None, web_url.host)
    tenant = parse_web_url(link.base_url, "panoptoUrl")
    query = f"id={link.session_id}" if link.session_id else f"tid={quote(link.tid or '', safe='')}"
    # By https, unless a port of its own says that it is served otherwise.
    origin = tenant.origin if tenant.port is not None else f"https://{tenant.authority}"
    canonical = f"{origin}/Panopto/Pages/Viewer.aspx?{query}"
    return SourceIdentity(_short_enough(canonical), link.session_id, tenant.host)


def recording_link(url: str, panopto_hosts: tuple[str, ...] = ()) -> RecordingLink | None:
    """Return where to ask for the recording, or None where the URL is not one of a tenant's.

    Raises `InvalidInput` where `identify` would.
    """
    return _link(parse_web_url(url, "panoptoUrl"), panopto_hosts)


def guid(text: str) -> str | None:
    """Return the GUID in lower case, out of braces and escapes, or None where it is none."""
    match = _GUID.fullmatch(unquote(unquote(text)).strip())
    return match[1].lower() if match else None


def _link(url: WebUrl, panopto_hosts: tuple[str, ...], wrappings: int = 0) -> RecordingLink | None:
    if not _is_tenant(url, panopto_hosts):
        return None
    path = unquote(urlsplit(url.canonical).path).lower()
    path = re.sub("/{2,}", "/", path).rstrip("/") or "/"
    query = _query(url.parts.query)
    if path == _LOGIN and wrappings < _MAX_WRAPPINGS and (inner := _return_url(url)):
        return _link(parse_web_url(inner, "panoptoUrl"), panopto_hosts, wrappings + 1)
    if podcast := _PODCAST.fullmatch(path):
        session_id = guid(podcast[1])
        return RecordingLink(url.origin, session_id) if session_id else None
    if path == _DELIVERY:
        query.setdefault("id", query.get("deliveryid", []))
    if path in _VIEWERS or path == _DELIVERY:
        return _viewer_link(url.origin, query)
    if path.startswith("/panopto/"):
        _refuse_lists(path, query, url.parts.fragment.lower())
    return None


def _refuse_lists(path: str, query: dict[str, list[str]], fragment: str) -> None:
    """Raise where the page, which is none of one recording, is one of many."""
    if path in {_FOLDER, _PODCAST_FEED} or "folderid" in query or "folderid" in fragment:
        raise _refused(_A_FOLDER)
    if "pid" in query:
        raise _refused(_A_PLAYLIST)


def _return_url(url: WebUrl) -> str | None:
    """Return where a login leads back to, however often it was escaped; None where nowhere.

    One that was not escaped at all goes on to the end of the query.
    """
    match = _RETURN_URL.search(_unescaped(url.parts.query))
    if match is None:
        return None
    target = match[1] + (match[2] or "")
    for _ in range(_MAX_WRAPPINGS):
        if target.startswith("/") or "://" in target:
            break
        target = unquote(target)
    try:
        return urljoin(url.text, _unescaped(target).strip())
    except ValueError:
        raise _refused("The link is not a valid URL.", FieldErrorCode.MALFORMED) from None


def _viewer_link(base_url: str, query: dict[str, list[str]]) -> RecordingLink:
    session_id = next(filter(None, map(guid, query.get("id", []))), None)
    if session_id:
        return RecordingLink(base_url, session_id)
    tid = next((value.strip() for value in query.get("tid", []) if value.strip()), None)
    if tid:
        return RecordingLink(base_url, None, guid(tid) or tid)
    if "pid" in query:
        raise _refused(_A_PLAYLIST)
    if "folderid" in query:
        raise _refused(_A_FOLDER)
    raise _refused("This Panopto link names no recording. Paste the link of one recording.")


def _is_tenant(url: WebUrl, panopto_hosts: tuple[str, ...]) -> bool:
    if url.host.endswith(_TENANT_SUFFIXES):
        return True
    tenants = _tenants(panopto_hosts)
    # A link without a port may be http or https, and means the same.
    ports = (80, 443) if url.port is None else (url.port,)
    return (url.host, None) in tenants or any((url.host, port) in tenants for port in ports)


@lru_cache(maxsize=8)
def _tenants(panopto_hosts: tuple[str, ...]) -> frozenset[tuple[str, int | None]]:
    """Return host and port (None: any) of each entry, spelled as those of a checked URL are."""
    tenants = set()
    for entry in panopto_hosts:
        parts = urlsplit(f"//{entry}")
        with suppress(ValueError):  # What is no host's name is no link's either.
            tenants.add((ascii_host(parts.hostname or ""), parts.port))
    return frozenset(tenants)


def _query(query: str) -> dict[str, list[str]]:
    """Group the values by lower-case key, each in the order given."""
    values: dict[str, list[str]] = {}
    for key, value in parse_qsl(_unescaped(query), keep_blank_values=True):
        values.setdefault(key.strip().lower(), []).append(value)
    return values


def _unescaped(text: str) -> str:
    """Undo ``&amp;``, as often as pages escaped it on the way."""
    for _ in range(_MAX_WRAPPINGS):
        text = re.sub("&amp;", "&", text, flags=re.IGNORECASE)
    return text


def _short_enough(canonical: str) -> str:
    if len(canonical) > MAX_URL_CHARACTERS:
        raise _refused("The link is too long.", FieldErrorCode.TOO_LONG)
    return canonical


def _refused(message: str, code: FieldErrorCode = FieldErrorCode.UNSUPPORTED) -> InvalidInput:
    return InvalidInput.at("panoptoUrl", message, code)
