"""Which recording a URL names: one identity for every spelling of it.

The forms are those that Panopto's own pages and third-party clients produce.  Nothing here asks a
server: a ``tid`` link stays a ``tid`` link until DeliveryInfo has told its session.
"""

import re
from dataclasses import dataclass
from urllib.parse import parse_qsl, quote, unquote, urljoin, urlsplit

from app.errors import InvalidInput
from app.ingest.protocols import SourceIdentity
from app.ingest.web_url import MAX_URL_CHARACTERS, WebUrl, parse_web_url

_TENANT_SUFFIXES = (".panopto.com", ".panopto.eu")
_GUID = re.compile(r"\{?([0-9a-f]{8}(?:-[0-9a-f]{4}){3}-[0-9a-f]{12})\}?", re.IGNORECASE)
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
_MAX_WRAPPINGS = 5


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
    canonical = f"{_secure_origin(tenant)}/Panopto/Pages/Viewer.aspx?{query}"
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
    path = _path(url)
    query = _query(url.parts.query)
    if path == _FOLDER or (path not in _VIEWERS and "folderid" in url.parts.fragment.lower()):
        raise _refused("This is the link of a folder. Paste the link of one recording.")
    if path == _LOGIN and "returnurl" in query and wrappings < _MAX_WRAPPINGS:
        inner = _joined(url.text, _unescaped(query["returnurl"][0]).strip())
        return _link(parse_web_url(inner, "panoptoUrl"), panopto_hosts, wrappings + 1)
    if podcast := _PODCAST.fullmatch(path):
        session_id = guid(podcast[1])
        return RecordingLink(url.origin, session_id) if session_id else None
    if path == _DELIVERY:
        query.setdefault("id", query.get("deliveryid", []))
    if path in _VIEWERS or path == _DELIVERY:
        return _viewer_link(url.origin, query)
    return None


def _viewer_link(base_url: str, query: dict[str, list[str]]) -> RecordingLink:
    session_id = next(filter(None, map(guid, query.get("id", []))), None)
    if session_id:
        return RecordingLink(base_url, session_id)
    tid = next((value.strip() for value in query.get("tid", []) if value.strip()), None)
    if tid:
        return RecordingLink(base_url, None, guid(tid) or tid)
    if "pid" in query:
        raise _refused("This is the link of a playlist. Paste the link of one recording.")
    if "folderid" in query:
        raise _refused("This is the link of a folder. Paste the link of one recording.")
    raise _refused("This Panopto link names no recording. Paste the link of one recording.")


def _is_tenant(url: WebUrl, panopto_hosts: tuple[str, ...]) -> bool:
    if url.host.endswith(_TENANT_SUFFIXES):
        return True
    return (
        url.authority in panopto_hosts
        or url.authority_with_port in panopto_hosts
        or (url.host in panopto_hosts)
    )


def _path(url: WebUrl) -> str:
    path = unquote(urlsplit(url.canonical).path).lower()
    return re.sub("/{2,}", "/", path).rstrip("/") or "/"


def _joined(base: str, target: str) -> str:
    try:
        return urljoin(base, target)
    except ValueError:
        raise _refused("The link is not a valid URL.") from None


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


def _secure_origin(tenant: WebUrl) -> str:
    """Name the tenant by https, unless a port of its own says that it is served otherwise."""
    return tenant.origin if tenant.port is not None else f"https://{tenant.authority}"


def _short_enough(canonical: str) -> str:
    if len(canonical) > MAX_URL_CHARACTERS:
        raise _refused("The link is too long.")
    return canonical


def _refused(message: str) -> InvalidInput:
    return InvalidInput.at("panoptoUrl", message=message)
