"""Keys from a JWKS address: a real HTTP server that counts, changes, fails and stalls."""

import asyncio
import base64
import json
from collections.abc import AsyncIterator
from typing import Any

import pytest
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from jwt.algorithms import ECAlgorithm, RSAAlgorithm
from starlette.requests import Request
from starlette.responses import Response

from app.auth.keys import JwksKeySource, JwksUnusable, parse_jwks
from tests.support.serving import serving
from tests.support.wait import wait_until

RSA_KEY = rsa.generate_private_key(65537, 2048)
WEAK_RSA_KEY = rsa.generate_private_key(65537, 1024)
EC_KEY = ec.generate_private_key(ec.SECP256R1())
P384_KEY = ec.generate_private_key(ec.SECP384R1())


def rsa_jwk(kid: str, **extra: Any) -> dict[str, Any]:
    return {**RSAAlgorithm.to_jwk(RSA_KEY.public_key(), as_dict=True), "kid": kid, **extra}


def ec_jwk(kid: str, key: ec.EllipticCurvePrivateKey = EC_KEY) -> dict[str, Any]:
    return {**ECAlgorithm.to_jwk(key.public_key(), as_dict=True), "kid": kid}


class JwksServer:
    """Answers with what it is told to, when it is told to."""

    def __init__(self) -> None:
        self.url = ""
        self.keys = [rsa_jwk("a")]
        self.body: bytes | None = None
        self.status = 200
        self.requests = 0
        self.open = asyncio.Event()
        self.open.set()

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        self.requests += 1
        await self.open.wait()
        body = json.dumps({"keys": self.keys}).encode() if self.body is None else self.body
        assert Request(scope).url.path == "/jwks"
        await Response(body, self.status)(scope, receive, send)


@pytest.fixture
async def server() -> AsyncIterator[JwksServer]:
    server = JwksServer()
    async with serving(server) as address:
        server.url = f"{address.url}/jwks"
        yield server
        server.open.set()


async def test_keys_are_fetched_once_and_kept(server: JwksServer) -> None:
    source = JwksKeySource(server.url)
    assert server.requests == 0
    for _ in range(5):
        assert await source.find("a")
    assert server.requests == 1


async def test_many_at_once_make_one_fetch(server: JwksServer) -> None:
    source = JwksKeySource(server.url)
    server.open.clear()
    finds = [asyncio.create_task(source.find("a")) for _ in range(50)]
    await wait_until(lambda: server.requests, "the fetch has begun")
    finds[0].cancel()
    server.open.set()
    found = await asyncio.gather(*finds[1:])
    assert all(found)
    assert server.requests == 1


async def test_a_new_key_is_found_at_once_and_unknown_ones_wait_for_the_cooldown(
    server: JwksServer,
) -> None:
    source = JwksKeySource(server.url)
    assert await source.find("a")
    server.keys.append(ec_jwk("b"))
    found = await source.find("b")
    assert found is not None
    assert found.algorithm == "ES256"
    assert server.requests == 2
    for number in range(20):
        assert await source.find(f"unknown-{number}") is None
    assert server.requests == 2


async def test_after_the_cooldown_an_unknown_key_is_asked_for_again(server: JwksServer) -> None:
    source = JwksKeySource(server.url, cooldown_seconds=0.05)
    assert await source.find("a")

    async def asked_again() -> bool:
        await source.find("unknown")
        return server.requests == 4

    await wait_until(asked_again, "two fetches for an unknown key")


async def test_an_outage_does_not_fail_known_keys(server: JwksServer) -> None:
    source = JwksKeySource(server.url, refresh_seconds=0, cooldown_seconds=0)
    assert await source.find("a")
    for status, body in [(500, None), (200, b"<html>"), (200, b'{"keys": []}'), (302, b"")]:
        server.status, server.body = status, body
        before = server.requests
        assert await source.find("unknown") is None
        assert server.requests > before
        assert await source.find("a")
    await source.close()


async def test_a_known_key_never_waits(server: JwksServer) -> None:
    source = JwksKeySource(server.url, refresh_seconds=0)
    assert await source.find("a")
    server.open.clear()
    async with asyncio.timeout(1):
        assert await source.find("a")
        await wait_until(lambda: server.requests == 2, "a refresh behind the request's back")
        assert await source.find("a")
    await source.close()


async def test_a_withdrawn_key_goes_with_the_next_refresh(server: JwksServer) -> None:
    source = JwksKeySource(server.url, refresh_seconds=0)
    assert await source.find("a")
    server.keys = [ec_jwk("b")]

    async def gone() -> bool:
        return await source.find("a") is None

    await wait_until(gone, "the withdrawn key is refused")
    await source.close()


async def test_a_start_without_the_server_recovers() -> None:
    source = JwksKeySource("http://127.0.0.1:1/jwks", retry_seconds=0)
    assert await source.find("a") is None
    server = JwksServer()
    async with serving(server) as address:
        source._url = f"{address.url}/jwks"
        assert await source.find("a")


async def test_a_failing_start_is_not_hammered(server: JwksServer) -> None:
    source = JwksKeySource(server.url, retry_seconds=60)
    server.status = 503
    for _ in range(20):
        assert await source.find("a") is None
    assert server.requests == 1


async def test_a_stalled_answer_is_given_up(server: JwksServer) -> None:
    source = JwksKeySource(server.url, timeout_seconds=0.2, retry_seconds=0)
    server.open.clear()
    assert await source.find("a") is None
    server.open.set()
    # A busy machine may take longer than that for an answer.
    await wait_until(lambda: source.find("a"), "an answer in time is used")


async def test_an_endless_answer_is_given_up(server: JwksServer) -> None:
    source = JwksKeySource(server.url, timeout_seconds=60, retry_seconds=0)
    server.body = b" " * 300_000 + json.dumps({"keys": server.keys}).encode()
    assert await source.find("a") is None
    server.body = None
    assert await source.find("a")


@pytest.mark.parametrize(
    "url", ["http://", "http://[", "http://exa mple/", "http://\u2603.invalid/"]
)
async def test_an_impossible_address_is_an_outage(url: str) -> None:
    assert await JwksKeySource(url, timeout_seconds=2).find("a") is None


# --- which keys of a document are used -------------------------------------------------------


def parsed(*keys: Any) -> set[str]:
    return set(parse_jwks(json.dumps({"keys": [rsa_jwk("good"), *keys]}).encode())) - {"good"}


def test_signature_keys_that_are_strong_enough_are_used() -> None:
    assert parsed(ec_jwk("e"), rsa_jwk("r", use="sig", alg="RS256")) == {"e", "r"}


@pytest.mark.parametrize(
    "entry",
    [
        {"kty": "oct", "kid": "k", "k": base64.urlsafe_b64encode(b"x" * 32).decode()},
        {**RSAAlgorithm.to_jwk(WEAK_RSA_KEY.public_key(), as_dict=True), "kid": "k"},
        ec_jwk("k", P384_KEY),
        rsa_jwk("k", use="enc"),
        rsa_jwk("k", alg="RS512"),
        rsa_jwk("k", alg=None),
        rsa_jwk("k", key_ops=["encrypt"]),
        rsa_jwk("k", key_ops=7),
        rsa_jwk("k", n="AQAB"),
        rsa_jwk("k", n="!"),
        rsa_jwk("k", n=7),
        rsa_jwk("k", kty=["RSA"]),
        {"kty": "RSA", "kid": "k"},
        {"kty": "EC", "kid": "k", "crv": "P-256", "x": "AA", "y": "AA"},
        {"kid": "k"},
        "k",
        None,
        rsa_jwk(7),  # type: ignore[arg-type]
    ],
)
def test_other_keys_are_passed_over(entry: Any) -> None:
    assert parsed(entry) == set()


def test_a_private_key_published_by_mistake_is_used_as_its_public_half() -> None:
    private = RSAAlgorithm.to_jwk(RSA_KEY, as_dict=True) | {"kid": "k", "key_ops": ["verify"]}
    assert "d" in private
    key = parse_jwks(json.dumps({"keys": [private]}).encode())["k"]
    assert not hasattr(key.public_key, "private_numbers")


@pytest.mark.parametrize(
    "content", [b"", b"[]", b"7", b'{"keys": 7}', b'{"keys": {}}', b"[" * 100_000, b"\xff"]
)
def test_what_is_no_key_set_is_named_so(content: bytes) -> None:
    with pytest.raises(JwksUnusable):
        parse_jwks(content)
