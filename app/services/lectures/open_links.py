"""Links that open a recording's own page at a second."""

from urllib.parse import parse_qsl, urlencode, urlsplit, urlunsplit

_LATEST_SECONDS = 1e9
_PARAMETERS = {"panopto": "start", "youtube": "t"}


def link_at(url: str, platform: str | None, seconds: float) -> str | None:
    """Return the page's link at that second; None where the platform has no such links.

    Panopto's viewer takes ``start``, YouTube's ``t``, both in whole seconds.
    """
    name = _PARAMETERS.get(platform or "")
    if name is None:
        return None
    parts = urlsplit(url)
    kept = [(key, value) for key, value in parse_qsl(parts.query) if key.lower() != name]
    query = urlencode([*kept, (name, str(int(min(max(0.0, seconds), _LATEST_SECONDS))))])
    return urlunsplit(parts._replace(query=query))
