"""Links that open a recording's own page at a second."""

from urllib.parse import parse_qsl, urlencode, urlsplit, urlunsplit

_LATEST_SECONDS = 1e9
_VIEWER = "/Panopto/Pages/Viewer.aspx"
_PARAMETERS = {"panopto": "start", "youtube": "t"}


def link_at(url: str, platform: str | None, session_id: str | None, seconds: float) -> str | None:
    """Return the page's link at that second; None where the platform has no such links.

    Panopto's viewer takes ``start`` (whatever kind of link the session was named by), YouTube's
    ``t``, Vimeo's a fragment, all in whole seconds.
    """
    at, parts = str(int(min(max(0.0, seconds), _LATEST_SECONDS))), urlsplit(url)
    if platform == "panopto" and session_id is not None:
        query = urlencode([("id", session_id), ("start", at)])
        return urlunsplit((parts.scheme, parts.netloc, _VIEWER, query, ""))
    if platform == "vimeo":
        return urlunsplit(parts._replace(fragment=f"t={at}s"))
    name = _PARAMETERS.get(platform or "")
    if name is None:
        return None
    kept = [(key, value) for key, value in parse_qsl(parts.query) if key.lower() != name]
    return urlunsplit(parts._replace(query=urlencode([*kept, (name, at)]), fragment=""))
