"""Cookies for the length of one chain of redirects (RFC 6265, narrowed to the exact host)."""

from collections.abc import Iterable
from dataclasses import dataclass
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime

from app.ingest.net.urls import WebUrl

_MOST = 50
_MAX_CHARACTERS = 4096


@dataclass(frozen=True, slots=True)
class _Cookie:
    authority: str
    name: str
    value: str
    is_secure: bool


class RedirectCookies:
    """What the answers of one chain have set; each cookie goes back to the host that set it alone.

    A port other than the scheme's own makes another host of it.  What came over https does not go
    out over http.  ``Path`` is not looked at: it protects nothing, and who sets a cookie before a
    redirect wants it at the place that it leads to.
    """

    def __init__(self) -> None:
        self._cookies: dict[tuple[str, str], _Cookie] = {}

    def take(self, target: WebUrl, headers: Iterable[str]) -> None:
        """Take the Set-Cookie headers of an answer; what is no cookie of that host is left out."""
        for header in headers:
            pair, *attributes = (each.strip() for each in header.split(";"))
            name, equals, value = (each.strip() for each in pair.partition("="))
            may_be_sent = len(pair) <= _MAX_CHARACTERS and pair.isascii() and pair.isprintable()
            if not (equals and name and may_be_sent):
                continue
            told = {
                key.strip().lower(): text.strip()
                for key, _, text in (each.partition("=") for each in attributes)
            }
            domain = told.get("domain", "").lower().removeprefix(".")
            if domain and not f".{target.host}".endswith(f".{domain}"):
                continue
            self._cookies.pop((target.authority, name), None)
            if not _is_over(told) and len(self._cookies) < _MOST:
                is_secure = target.parts.scheme == "https"
                cookie = _Cookie(target.authority, name, value, is_secure)
                self._cookies[target.authority, name] = cookie

    def header_for(self, target: WebUrl, own: str | None) -> str | None:
        """Return the Cookie header: ``own``, where it goes to that URL, and what was set since."""
        is_secure = target.parts.scheme == "https"
        cookies = [
            each
            for each in self._cookies.values()
            if each.authority == target.authority and (is_secure or not each.is_secure)
        ]
        names = {each.name for each in cookies}
        kept = [pair.strip() for pair in (own or "").split(";")]
        pairs = [pair for pair in kept if pair and pair.partition("=")[0].strip() not in names]
        return "; ".join([*pairs, *(f"{each.name}={each.value}" for each in cookies)]) or None


def _is_over(told: dict[str, str]) -> bool:
    """Whether a cookie is set only so that it goes (Max-Age comes before Expires)."""
    age = told.get("max-age", "")
    if age.removeprefix("-").isdecimal():
        return age.startswith("-") or not age.strip("0")
    try:
        date = parsedate_to_datetime(told.get("expires", ""))
        aware = date if date.tzinfo else date.replace(tzinfo=UTC)
        return aware <= datetime.now(UTC)
    except (ValueError, OverflowError):
        return False
