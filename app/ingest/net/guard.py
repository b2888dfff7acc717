"""The one way out: every byte that the service fetches goes through `GuardedClient`.

A host is resolved once, every address of it is judged, and the connection goes to a judged
address itself, so that a second answer of the name server gains nothing.  Redirects are followed
here, each judged anew, and credentials never travel with them to another origin.  Cookies that a
chain of redirects sets live as long as the chain.
"""

import asyncio
import copy
import functools
import ssl
from collections.abc import AsyncIterator, Awaitable, Callable, Collection, Iterable, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass
from http.cookiejar import CookieJar, DefaultCookiePolicy
from typing import Any

import httpcore
import httpx

from app.domain import LectureFailure
from app.errors import IngestFailed, InvalidInput
from app.ingest.failures import (
    blocked,
    failure_of_error,
    failure_of_status,
    plain_body,
    too_large,
)
from app.ingest.net.content_range import ContentRange, content_range
from app.ingest.net.host_limits import HostLimits
from app.ingest.net.judged_network import PUBLIC_PORTS, JudgingBackend, first_connected
from app.ingest.net.redirect_cookies import RedirectCookies
from app.ingest.net.urls import WebUrl, ascii_host, parse_web_url

_REDIRECTS = frozenset({301, 302, 303, 307, 308})
_MAX_REDIRECTS = 5
# Signed media URLs are longer than any that a person pastes.
_MAX_URL_CHARACTERS = 16_384
OnBytes = Callable[[int], Awaitable[None]]

Connection = tuple[asyncio.StreamReader, asyncio.StreamWriter]

HEADERS = {"User-Agent": "StudyBuddy", "Accept": "*/*", "Accept-Encoding": "identity"}


@dataclass(frozen=True, slots=True)
class FetchedBody:
    """A small answer, whole; ``url`` is the one that gave it in the end.

    ``cookie_header`` is what its origin is sent from then on (`cookie_of`).
    """

    url: str
    status: int
    content_type: str
    cookie_header: str | None
    body: bytes
    content_range: ContentRange | None = None


class _Transport(httpx.AsyncBaseTransport):
    """httpx over a pool whose connections the backend judged; proxies do not exist here."""

    def __init__(self, pool: httpcore.AsyncConnectionPool) -> None:
        self._pool = pool

    async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
        url = httpcore.URL(
            scheme=request.url.raw_scheme,
            host=request.url.raw_host,
            port=request.url.port,
            target=request.url.raw_path,
        )
        answer = await self._pool.handle_async_request(
            httpcore.Request(
                method=request.method,
                url=url,
                headers=request.headers.raw,
                content=request.stream,
                extensions=request.extensions,
            )
        )
        return httpx.Response(
            answer.status,
            headers=answer.headers,
            stream=_Body(answer),
            extensions=answer.extensions,
        )

    async def aclose(self) -> None:
        await self._pool.aclose()


class _Body(httpx.AsyncByteStream):
    def __init__(self, answer: httpcore.Response) -> None:
        self._answer = answer

    def __aiter__(self) -> AsyncIterator[bytes]:
        return self._answer.aiter_stream()

    async def aclose(self) -> None:
        await self._answer.aclose()


class GuardedClient:
    """An HTTP client for links that strangers give.  Safe for use by any number of tasks.

    ``allowed_private_hosts`` (``host:port``) are the only ones at private addresses, or on ports
    other than 80 and 443, that can be reached.  Every failure is an `IngestFailed`: BLOCKED_URL
    where the guard refused, else as `http_failures` tells.
    """

    def __init__(
        self,
        allowed_private_hosts: Collection[str] = (),
        *,
        connect_timeout_seconds: float = 10,
        idle_timeout_seconds: float = 30,
        max_connections: int = 512,
        ssl_context: ssl.SSLContext | None = None,
    ) -> None:
        self._allowed = frozenset(map(_normal_authority, allowed_private_hosts))
        self.headers: Mapping[str, str] = HEADERS
        """What goes with every request, to whatever host."""
        self.limits = HostLimits()
        """What is known of how many connections each host bears at once."""
        self._ssl_context = ssl_context or _public_authorities()
        self._connect_timeout_seconds = connect_timeout_seconds
        self._backend = JudgingBackend(self._allowed)
        pool = httpcore.AsyncConnectionPool(
            ssl_context=self._ssl_context,
            max_connections=max_connections,
            max_keepalive_connections=64,
            keepalive_expiry=15,
            network_backend=self._backend,
        )
        self._client = httpx.AsyncClient(
            transport=_Transport(pool),
            timeout=httpx.Timeout(idle_timeout_seconds, connect=connect_timeout_seconds),
            trust_env=False,
            # One client serves all lectures, so that no cookie of one may be kept for another.
            cookies=CookieJar(DefaultCookiePolicy(allowed_domains=[])),
        )

    def sending(self, headers: Iterable[tuple[str, str]]) -> "GuardedClient":
        """Return the same client, connections included, that sends these headers as well.

        They go to whatever host it is asked for or redirected to: nothing secret may be in them.
        """
        other = copy.copy(self)
        other.headers = {**self.headers, **dict(headers)}
        return other

    @asynccontextmanager
    async def stream(
        self,
        method: str,
        url: str,
        *,
        headers: Mapping[str, str] | None = None,
        cookie_header: str | None = None,
        data: Mapping[str, str] | bytes | None = None,
        tolerate: Collection[int] = (),
        max_redirects: int = _MAX_REDIRECTS,
    ) -> AsyncIterator[httpx.Response]:
        """Open the answer, its body unread, after at most ``max_redirects``; with 0 it may be one.

        A status of 400 or more raises, unless it is among ``tolerate``.  ``cookie_header`` and an
        Authorization header go to the URL's own origin (scheme, host, port) alone.
        """
        try:
            response = await self._follow(
                method, url, dict(headers or {}), cookie_header, data, max_redirects
            )
            try:
                if response.status_code >= 400 and response.status_code not in tolerate:
                    raise failure_of_status(response)
                yield response
            finally:
                await response.aclose()
        except (httpx.HTTPError, httpx.StreamError, *_HTTPCORE_ERRORS) as error:
            raise failure_of_error(error) from error

    async def read(
        self,
        method: str,
        url: str,
        *,
        max_bytes: int,
        headers: Mapping[str, str] | None = None,
        cookie_header: str | None = None,
        data: Mapping[str, str] | None = None,
        tolerate: Collection[int] = (),
        on_bytes: OnBytes | None = None,
    ) -> FetchedBody:
        """Return a small answer whole; over ``max_bytes`` (decoded) is TOO_LARGE.

        ``on_bytes`` hears of every chunk's size.
        """
        async with self.stream(
            method,
            url,
            headers=headers,
            cookie_header=cookie_header,
            data=data,
            tolerate=tolerate,
        ) as response:
            body = bytearray()
            async for chunk in response.aiter_raw():
                body += chunk
                if len(body) > max_bytes:
                    raise too_large()
                if on_bytes:
                    await on_bytes(len(chunk))
            return FetchedBody(
                str(response.url),
                response.status_code,
                content_type(response),
                cookie_of(response),
                plain_body(response, bytes(body), max_bytes),
                content_range(response.headers),
            )

    async def connect(self, url: str) -> Connection:
        """Open a connection of one's own to a judged address of the URL's host, TLS included.

        Raises `IngestFailed`, or `OSError` where no address answers.
        """
        target = self._checked(url)
        port = int(target.authority_with_port.rpartition(":")[2])
        is_secure = target.parts.scheme == "https"

        async def dial(address: str) -> Connection:
            return await asyncio.open_connection(
                address,
                port,
                ssl=self._ssl_context if is_secure else None,
                server_hostname=target.host if is_secure else None,
            )

        async def abort(connection: Connection) -> None:
            connection[1].transport.abort()

        try:
            async with asyncio.timeout(self._connect_timeout_seconds):
                addresses = await self._backend.judged(target.host, port)
                self.limits.of(url).make_room()
                return await first_connected(addresses, dial, abort)
        except _HTTPCORE_ERRORS as error:
            raise failure_of_error(error) from error

    async def close(self) -> None:
        """Close every connection."""
        await self._client.aclose()
        self._backend.close()

    async def _follow(
        self,
        method: str,
        url: str,
        headers: dict[str, str],
        cookie_header: str | None,
        data: Mapping[str, str] | bytes | None,
        max_redirects: int,
    ) -> httpx.Response:
        secrets = [name for name in headers if name.lower() in {"authorization", "cookie"}]
        given = {name.lower(): headers.pop(name) for name in secrets}
        own_cookie = cookie_header or given.pop("cookie", None)
        first = target = self._checked(url)
        cookies = RedirectCookies()
        for _ in range(max_redirects + 1):
            is_own = target.origin == first.origin
            sent = {**self.headers, **headers, **(given if is_own else {})}
            if cookie := cookies.header_for(target, own_cookie if is_own else None):
                sent["Cookie"] = cookie
            self.limits.of(target.text).make_room()
            response = await self._client.send(
                self._request(method, target, sent, data), stream=True
            )
            cookies.take(target, response.headers.get_list("set-cookie"))
            response.extensions["cookie"] = cookies.header_for(
                target, own_cookie if is_own else None
            )
            location = response.headers.get("location")
            if response.status_code not in _REDIRECTS or location is None or not max_redirects:
                return response
            await response.aclose()
            if response.status_code not in {307, 308} and method != "HEAD":
                method, data = "GET", None
            try:
                target = self._checked(str(response.url.join(location)))
            except httpx.InvalidURL:
                raise blocked() from None
        raise IngestFailed(LectureFailure.SOURCE_NOT_FOUND, "The source redirects without end.")

    def _request(
        self,
        method: str,
        target: WebUrl,
        headers: dict[str, str],
        data: Mapping[str, str] | bytes | None,
    ) -> httpx.Request:
        """Build the request; where httpx reads another host in the text than we did, refuse."""
        body: dict[str, Any] = {"content" if isinstance(data, bytes) else "data": data}
        try:
            request = self._client.build_request(method, target.text, headers=headers, **body)
        except (httpx.InvalidURL, UnicodeError):
            raise blocked() from None
        if origin_of(str(request.url)) != target.origin:
            raise blocked()
        return request

    def _checked(self, url: str) -> WebUrl:
        """Refuse what no connection is needed to judge."""
        try:
            target = parse_web_url(url, "url", max_characters=_MAX_URL_CHARACTERS)
        except InvalidInput:
            raise blocked() from None
        port = int(target.authority_with_port.rpartition(":")[2])
        if port not in PUBLIC_PORTS and target.authority_with_port not in self._allowed:
            raise blocked()
        return target


def content_type(response: httpx.Response) -> str:
    """Return the media type in lower case, without parameters; empty where none was sent."""
    header: str = response.headers.get("content-type", "")
    return header.partition(";")[0].strip().lower()


def origin_of(url: str) -> str | None:
    """Return the URL's scheme, host and port, or None where it is no http(s) URL."""
    try:
        return parse_web_url(url, "url", max_characters=_MAX_URL_CHARACTERS).origin
    except InvalidInput:
        return None


def cookie_of(response: httpx.Response) -> str | None:
    """Return the Cookie header for more of the answer's URL: ours, and what its chain has set."""
    cookie: str | None = response.extensions["cookie"]
    return cookie


_HTTPCORE_ERRORS = (
    httpcore.TimeoutException,
    httpcore.NetworkError,
    httpcore.ProtocolError,
    httpcore.UnsupportedProtocol,
)


@functools.cache
def _public_authorities() -> ssl.SSLContext:
    """Return what every client trusts: read once a process, since that takes 50 ms."""
    return httpx.create_ssl_context()


def _normal_authority(entry: str) -> str:
    """Write an allow-list entry as URLs are written when they are checked."""
    written, _, port = entry.rpartition(":")
    host = ascii_host(written.strip("[]"))
    return f"[{host}]:{int(port)}" if ":" in host else f"{host}:{int(port)}"
