"""yt-dlp's networking over the channel to the parent: the one handler that it is given.

Each hop of a redirect is a question of its own, which the parent judges anew; cookies are kept by
yt-dlp's jar, with its rules for domains.
"""

import io
import urllib.request
from collections.abc import Iterable
from email.message import Message
from typing import Any
from urllib.parse import urljoin, urlsplit

from yt_dlp.networking.common import Request, RequestHandler, Response
from yt_dlp.networking.exceptions import HTTPError, IncompleteRead, TransportError

from app.ingest.net.encodings import TooLarge, UnknownEncoding, plain
from app.ingest.sandbox.questions import Questions

_MAX_REDIRECTS = 5
_REDIRECTS = frozenset({301, 302, 303, 307, 308})
_SECRETS = frozenset({"authorization", "cookie"})
_EXTENSIONS = ("cookiejar", "timeout", "legacy_ssl", "keep_header_casing")
_MAX_PLAIN_BYTES = 64 * 1024 * 1024


class Answer(Response):  # type: ignore[misc]
    """What the parent answered; reading beyond a body that it cut short raises `IncompleteRead`."""

    def __init__(self, body: bytes, url: str, head: dict[str, Any]) -> None:
        self.headers: Message
        super().__init__(io.BytesIO(body), url, {}, head["status"])
        for name, value in head["headers"]:
            self.headers.add_header(name, value)
        self._is_cut: bool = head["cut"]

    def read(self, amt: int | None = None) -> bytes:
        """Return the next bytes, all that are left without a number."""
        content: bytes = super().read(amt)
        if self._is_cut and (amt is None or len(content) < amt):
            raise IncompleteRead(len(content))
        return content


class ParentRH(RequestHandler):  # type: ignore[misc]
    """Sends every request to the parent; knows http(s) alone and no proxies."""

    _SUPPORTED_URL_SCHEMES = ("http", "https")

    def __init__(self, questions: Questions, **parameters: Any) -> None:
        super().__init__(**parameters)
        self._questions = questions

    def _check_extensions(self, extensions: dict[str, Any]) -> None:
        super()._check_extensions(extensions)
        for name in _EXTENSIONS:
            extensions.pop(name, None)

    def _send(self, request: Request) -> Answer:
        method, url, body = request.method, request.url, _body_of(request.data)
        headers = {**self._get_headers(request), "Accept-Encoding": "gzip"}
        jar = self._get_cookiejar(request)
        for _ in range(_MAX_REDIRECTS + 1):
            answer = self._ask(method, url, headers, body, jar)
            target = answer.get_header("Location")
            if answer.status not in _REDIRECTS or not target:
                if 200 <= answer.status < 300:
                    return answer
                raise HTTPError(answer)
            following = urljoin(url, target)
            if _origin(following) != _origin(url):
                headers = {n: v for n, v in headers.items() if n.lower() not in _SECRETS}
            if answer.status not in (307, 308) and method != "HEAD":
                method, body = "GET", b""
            url = following
        raise HTTPError(answer, redirect_loop=True)

    def _ask(self, method: str, url: str, headers: dict[str, str], body: bytes, jar: Any) -> Answer:
        asked = urllib.request.Request(url, headers=headers)  # noqa: S310 - for the jar; not sent
        jar.add_cookie_header(asked)
        sent = {**headers, **asked.unredirected_hdrs}
        try:
            head, content = self._questions.ask(
                {"method": method, "url": url, "headers": sent}, body
            )
        except (EOFError, OSError) as error:
            raise TransportError(cause=error) from error
        if "status" not in head:
            raise TransportError("the request was refused or failed")
        coding = next((v for n, v in head["headers"] if n.lower() == "content-encoding"), None)
        try:
            body = plain(content, coding, _MAX_PLAIN_BYTES)
        except UnknownEncoding as error:
            raise TransportError(cause=error) from error
        except TooLarge as error:
            raise TransportError("the answer is too large") from error
        answer = Answer(body, url, head)
        jar.extract_cookies(_Head(answer.headers), asked)
        return answer


class _Head:
    """An answer as a cookie jar wants it."""

    def __init__(self, headers: Message) -> None:
        self._headers = headers

    def info(self) -> Message:
        return self._headers


def _body_of(data: Any) -> bytes:
    """Return a request's body, which yt-dlp gives whole, by pieces or as a file."""
    if data is None:
        return b""
    if isinstance(data, bytes):
        return data
    if hasattr(data, "read"):
        return bytes(data.read())
    pieces: Iterable[bytes] = data
    return b"".join(pieces)


def _origin(url: str) -> tuple[str, str]:
    parts = urlsplit(url)
    return parts.scheme.lower(), parts.netloc.lower()
