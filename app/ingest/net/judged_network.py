"""Connections to judged addresses alone, by whichever of a host's addresses answers first."""

import asyncio
import socket
from collections import deque
from collections.abc import Awaitable, Callable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from itertools import chain, zip_longest
from typing import Any, TypeVar

import httpcore

from app.ingest.failures import blocked
from app.ingest.net.addresses import is_public
from app.ingest.net.http_heads import MendingStream

T = TypeVar("T")

PUBLIC_PORTS = frozenset({80, 443})
_RESOLVERS = 64
_MAX_ADDRESSES = 16
_NEXT_ADDRESS_SECONDS = 0.25
"""What an address has for itself before the next one is tried as well (RFC 8305, section 8)."""


class JudgingBackend(httpcore.AsyncNetworkBackend):
    """Resolves a host once, judges every address, and connects to those very addresses.

    ``allowed`` (``host:port``) are the only ones at private addresses or on other ports.  Names are
    resolved in threads of their own, each in one at a time for all who wait: a name whose server
    hangs holds up nobody else.
    """

    def __init__(self, allowed: frozenset[str]) -> None:
        self._allowed = allowed
        self._tcp = httpcore.AnyIOBackend()
        self._resolvers = ThreadPoolExecutor(_RESOLVERS, thread_name_prefix="resolve")
        self._lookups: dict[str, asyncio.Future[list[tuple[Any, ...]]]] = {}

    async def connect_tcp(
        self,
        host: str,
        port: int,
        timeout: float | None = None,
        local_address: str | None = None,
        socket_options: Iterable[Any] | None = None,
    ) -> httpcore.AsyncNetworkStream:
        """Connect within ``timeout`` seconds, resolving included."""

        async def dial(address: str) -> httpcore.AsyncNetworkStream:
            return await self._tcp.connect_tcp(address, port, None, local_address, None)

        async def close(stream: httpcore.AsyncNetworkStream) -> None:
            await stream.aclose()

        try:
            async with asyncio.timeout(timeout):
                addresses = await self.judged(host.removesuffix("."), port)
                stream = await first_connected(addresses, dial, close)
        except TimeoutError as error:
            raise httpcore.ConnectTimeout(str(error)) from error
        return MendingStream(stream)

    async def connect_unix_socket(
        self, path: str, timeout: float | None = None, socket_options: Iterable[Any] | None = None
    ) -> httpcore.AsyncNetworkStream:
        """Refuse."""
        raise blocked()

    async def sleep(self, seconds: float) -> None:
        """Sleep."""
        await asyncio.sleep(seconds)

    async def judged(self, host: str, port: int) -> list[str]:
        """Resolve the host and return its addresses, or refuse it for any one of them."""
        allowed = f"{host}:{port}" in self._allowed or f"[{host}]:{port}" in self._allowed
        if port not in PUBLIC_PORTS and not allowed:
            raise blocked()
        addresses = await self._resolve(host)
        if not allowed and not all(map(is_public, addresses)):
            raise blocked()
        return addresses

    def close(self) -> None:
        """Resolve nothing any more."""
        self._resolvers.shutdown(wait=False, cancel_futures=True)

    async def _resolve(self, host: str) -> list[str]:
        """Return the host's addresses in the resolver's order, the families by turns.

        Who waits no more leaves the look-up to those who ask for the same name meanwhile.
        """

        def look_up() -> list[tuple[Any, ...]]:
            return socket.getaddrinfo(host, None, type=socket.SOCK_STREAM)

        def forget(lookup: asyncio.Future[list[tuple[Any, ...]]]) -> None:
            del self._lookups[host]
            if not lookup.cancelled():
                lookup.exception()  # Nobody may be waiting for it any more.

        if host not in self._lookups:
            loop = asyncio.get_running_loop()
            self._lookups[host] = loop.run_in_executor(self._resolvers, look_up)
            self._lookups[host].add_done_callback(forget)
        try:
            found = await asyncio.shield(self._lookups[host])
        except UnicodeError:
            raise blocked() from None
        except OSError as error:
            raise httpcore.ConnectError(str(error)) from error
        families: dict[int, list[str]] = {}
        for family, _, _, _, address in found:
            families.setdefault(family, []).append(str(address[0]))
        by_turns = chain.from_iterable(zip_longest(*families.values()))
        return list(dict.fromkeys(address for address in by_turns if address is not None))


async def first_connected(
    addresses: Sequence[str],
    dial: Callable[[str], Awaitable[T]],
    close: Callable[[T], Awaitable[None]],
) -> T:
    """Return the first connection that comes about (RFC 8305, section 5), and close any other.

    Each (of 16) is tried where the one before it has failed, or has not answered for a moment.
    Raises the last error where none answers.
    """
    left = deque(addresses[:_MAX_ADDRESSES])
    running: set[asyncio.Future[T]] = set()
    failure: Exception = httpcore.ConnectError("no address")
    try:
        while left or running:
            if left:
                running.add(asyncio.ensure_future(dial(left.popleft())))
            patience = _NEXT_ADDRESS_SECONDS if left else None
            done, _ = await asyncio.wait(
                running, timeout=patience, return_when=asyncio.FIRST_COMPLETED
            )
            for dialled in done:
                running.remove(dialled)
                try:
                    return dialled.result()
                except (OSError, httpcore.NetworkError, httpcore.TimeoutException) as error:
                    failure = error
        raise failure
    finally:
        for dialled in running:
            dialled.cancel()
        for other in await asyncio.gather(*running, return_exceptions=True):
            if not isinstance(other, BaseException):
                await close(other)
