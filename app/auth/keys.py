"""Where the keys come from that session tokens are checked with.

`JwksKeySource` reads a JSON Web Key Set (RFC 7517) over HTTP and keeps it; `StaticKeySource` holds
keys that are known from the start.
"""

import asyncio
import json
import ssl
import time
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Protocol

import httpx
import jwt
import structlog
from cryptography.hazmat.primitives.asymmetric.ec import EllipticCurvePublicKey
from cryptography.hazmat.primitives.asymmetric.rsa import RSAPublicKey

_log = structlog.get_logger(__name__)

_MIN_RSA_BITS = 2048
_MAX_BYTES = 256 * 1024
# Uncompressed, so that the size limit counts what arrives.
_HEADERS = {"accept": "application/json", "accept-encoding": "identity"}
# Public members alone (RFC 7518, 6.2.1 and 6.3.1): a private key published by mistake stays unread.
_MEMBERS = {"RS256": ("kty", "n", "e"), "ES256": ("kty", "crv", "x", "y")}
_ALGORITHMS = {"RSA": "RS256", "EC": "ES256"}

PublicKey = RSAPublicKey | EllipticCurvePublicKey


@dataclass(frozen=True, slots=True)
class VerificationKey:
    """A public key and the one algorithm that it may be used with (RS256 or ES256)."""

    algorithm: str
    public_key: PublicKey


class KeySource(Protocol):
    """Finds the key that a token names."""

    async def find(self, key_id: str) -> VerificationKey | None:
        """Return the key, or None where there is no such key or the source cannot be reached."""
        ...

    async def close(self) -> None:
        """Release what is held."""
        ...


class StaticKeySource:
    """Keys that never change."""

    def __init__(self, keys: Mapping[str, VerificationKey]) -> None:
        self._keys = dict(keys)

    async def find(self, key_id: str) -> VerificationKey | None:
        """Return the key of this id."""
        return self._keys.get(key_id)

    async def close(self) -> None:
        """Do nothing: nothing is held."""


class JwksUnusable(Exception):
    """The answer is no key set that any token could be checked with."""


class JwksKeySource:
    """The keys of a JWKS document, fetched when first needed and then kept.

    - One fetch at a time, however many wait for it; who stops waiting does not stop the fetch.
    - Known keys never wait: past ``refresh_seconds`` they are renewed behind the request's back,
      and while the document cannot be had the old ones stay in force.
    - An unknown key id fetches anew at most once per ``cooldown_seconds``.  While no key at all is
      known (an outage at the start), a fetch is tried at most once per ``retry_seconds``.
    """

    def __init__(
        self,
        url: str,
        *,
        refresh_seconds: float = 600,
        cooldown_seconds: float = 30,
        retry_seconds: float = 1,
        timeout_seconds: float = 5,
    ) -> None:
        self._url = url
        self._refresh_seconds = refresh_seconds
        self._cooldown_seconds = cooldown_seconds
        self._retry_seconds = retry_seconds
        self._timeout_seconds = timeout_seconds
        self._tls: ssl.SSLContext | None = None
        self._keys: dict[str, VerificationKey] = {}
        self._next_refresh = 0.0
        self._next_unknown = 0.0
        self._fetching: asyncio.Task[None] | None = None

    async def find(self, key_id: str) -> VerificationKey | None:
        """Return the key of this id, fetching the set where that may help and is due."""
        key = self._keys.get(key_id)
        if key is not None:
            if time.monotonic() >= self._next_refresh:
                self._fetch()
            return key
        fetch = self._fetch_for_unknown()
        if fetch is not None:
            await asyncio.shield(fetch)
        return self._keys.get(key_id)

    async def close(self) -> None:
        """Stop a fetch that is under way."""
        if self._fetching is not None:
            self._fetching.cancel()
            await asyncio.gather(self._fetching, return_exceptions=True)

    def _fetch_for_unknown(self) -> asyncio.Task[None] | None:
        """Return the fetch to wait for, or None where it is too soon for another."""
        now = time.monotonic()
        if not self._keys:
            return self._fetch() if self._is_fetching() or now >= self._next_refresh else None
        if now >= self._next_unknown:
            self._next_unknown = now + self._cooldown_seconds
            return self._fetch()
        return self._fetching if self._is_fetching() else None

    def _is_fetching(self) -> bool:
        return self._fetching is not None and not self._fetching.done()

    def _fetch(self) -> asyncio.Task[None]:
        """Return the fetch under way, starting one where there is none."""
        if self._fetching is None or self._fetching.done():
            self._fetching = asyncio.create_task(self._refresh(), name="jwks-refresh")
        return self._fetching

    async def _refresh(self) -> None:
        try:
            async with asyncio.timeout(self._timeout_seconds):
                keys = parse_jwks(await self._download())
        except (httpx.HTTPError, httpx.InvalidURL, TimeoutError, JwksUnusable) as error:
            # The old keys stay; whoever waits finds no key and is refused.
            _log.error("jwks.unavailable", reason=type(error).__name__, known_keys=len(self._keys))
            wait = self._cooldown_seconds if self._keys else self._retry_seconds
            self._next_refresh = time.monotonic() + wait
            return
        self._keys = keys
        self._next_refresh = time.monotonic() + self._refresh_seconds

    async def _download(self) -> bytes:
        """Return the document, at most 256 KiB of it.

        A client for each fetch: they are minutes apart, so a kept connection would be a stale one.
        """
        if self._tls is None:
            # Reading the certificates takes tens of milliseconds.
            self._tls = await asyncio.to_thread(httpx.create_ssl_context)
        content = bytearray()
        async with (
            httpx.AsyncClient(verify=self._tls, timeout=self._timeout_seconds) as client,
            client.stream("GET", self._url, headers=_HEADERS) as response,
        ):
            if response.status_code != httpx.codes.OK:
                raise JwksUnusable
            async for chunk in response.aiter_bytes():
                content += chunk
                if len(content) > _MAX_BYTES:
                    raise JwksUnusable
        return bytes(content)


def parse_jwks(content: bytes) -> dict[str, VerificationKey]:
    """Return the usable signature keys of a JWKS document by id; raise `JwksUnusable` for none.

    Usable: RSA of 2,048 bits or more for RS256, P-256 for ES256.  All others are passed over.
    """
    try:
        document = json.loads(content)
    except (ValueError, RecursionError):
        raise JwksUnusable from None
    entries = document.get("keys") if isinstance(document, dict) else None
    keys: dict[str, VerificationKey] = {}
    for entry in entries if isinstance(entries, list) else []:
        key = _usable_key(entry) if isinstance(entry, dict) else None
        if key is not None and isinstance(entry.get("kid"), str):
            keys[entry["kid"]] = key
    if not keys:
        raise JwksUnusable
    return keys


def _usable_key(entry: dict[str, Any]) -> VerificationKey | None:
    kind = entry.get("kty")
    algorithm = _ALGORITHMS.get(kind) if isinstance(kind, str) else None
    if algorithm is None or entry.get("alg", algorithm) != algorithm:
        return None
    try:
        if entry.get("use", "sig") != "sig" or "verify" not in entry.get("key_ops", ["verify"]):
            return None
        members = {name: entry[name] for name in _MEMBERS[algorithm]}
        public_key = jwt.PyJWK(members, algorithm).key
    except (jwt.PyJWTError, KeyError, ValueError, TypeError, ArithmeticError):
        return None
    if isinstance(public_key, RSAPublicKey):
        is_strong = public_key.key_size >= _MIN_RSA_BITS
    else:
        is_strong = (
            isinstance(public_key, EllipticCurvePublicKey) and public_key.curve.name == "secp256r1"
        )
    return VerificationKey(algorithm, public_key) if is_strong else None
