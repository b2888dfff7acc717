import asyncio
import socket
import threading
from datetime import UTC, datetime, timedelta
from email.utils import format_datetime
from typing import Any

import httpcore
import httpx
import pytest

from app.domain import LectureFailure
from app.errors import IngestFailed
from app.ingest.failures import failure_of_status, looks_like_login, retry_after_seconds
from app.ingest.net.addresses import is_public
from app.ingest.net.guard import GuardedClient
from app.ingest.net.judged_network import first_connected

INWARD = [
    "127.0.0.1",
    "127.255.255.254",
    "0.0.0.0",
    "10.0.0.1",
    "172.16.0.1",
    "192.168.1.1",
    "169.254.169.254",
    "100.64.0.1",
    "192.0.0.8",
    "192.0.2.1",
    "192.88.99.1",
    "198.18.0.1",
    "224.0.0.1",
    "239.255.255.255",
    "240.0.0.1",
    "255.255.255.255",
    "::",
    "::1",
    "::127.0.0.1",
    "::ffff:127.0.0.1",
    "::ffff:169.254.169.254",
    "::ffff:0:127.0.0.1",
    "64:ff9b::7f00:1",
    "64:ff9b::a9fe:a9fe",
    "64:ff9b:1::808:808",
    "2002:7f00:1::",
    "2002:0a00:0001::1",
    "2001:0:7f00:1::",
    "2001:0:0808:0808:0:0:80ff:fffe",  # Teredo: its client is 127.0.0.1
    "fe80::1",
    "fe80::1%1",
    "fc00::1",
    "fd12::1",
    "fec0::1",
    "ff02::1",
    "ff0e::1",
    "2001:db8::1",
    "3fff::1",
    "5f00::1",
    "100::1",
    "2606:4700::5efe:7f00:1",  # ISATAP
    "2606:4700::200:5efe:7f00:1",
]


@pytest.mark.parametrize("address", INWARD)
def test_inward_addresses_are_seen_through_every_disguise(address: str) -> None:
    assert not is_public(address)


@pytest.mark.parametrize(
    "address",
    ["8.8.8.8", "1.1.1.1", "2606:4700:4700::1111", "::ffff:8.8.8.8", "64:ff9b::808:808"],
)
def test_public_addresses_are_public(address: str) -> None:
    assert is_public(address)


@pytest.fixture
def resolved(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The addresses that every name resolves to; the test fills it in."""
    addresses: list[str] = []

    def answer(host: str, port: int, *_: Any, **__: Any) -> list[tuple[Any, ...]]:
        families = [socket.AF_INET6 if ":" in each else socket.AF_INET for each in addresses]
        return [
            (family, socket.SOCK_STREAM, 6, "", (each, port))
            for family, each in zip(families, addresses, strict=True)
        ]

    monkeypatch.setattr(socket, "getaddrinfo", answer)
    return addresses


async def test_one_inward_address_among_public_ones_blocks_the_host(resolved: list[str]) -> None:
    resolved.extend(["93.184.215.14", "127.0.0.1"])
    with pytest.raises(IngestFailed) as failure:
        await _get("http://rebinding.example/")
    assert failure.value.failure is LectureFailure.BLOCKED_URL


async def test_the_connection_goes_to_the_judged_address_and_no_second_answer(
    resolved: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    resolved.append("93.184.215.14")
    dialled: list[str] = []

    async def refuse(self: Any, host: str, port: int, *_: Any, **__: Any) -> None:
        dialled.append(host)
        resolved[:] = ["127.0.0.1"]
        raise ConnectionRefusedError

    monkeypatch.setattr("anyio.connect_tcp", lambda **given: refuse(None, given["remote_host"], 0))
    with pytest.raises(IngestFailed) as failure:
        await _get("http://rebinding.example/")
    assert failure.value.failure is LectureFailure.NETWORK
    assert dialled == ["93.184.215.14"]


async def test_every_address_is_tried_the_families_by_turns(
    resolved: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Broken IPv6: one address refuses, the next does not answer at all."""
    six = [f"2606:4700::{number}" for number in range(1, 4)]
    resolved.extend([*six, "93.184.215.14", "93.184.215.15"])
    dialled: list[str] = []

    async def dial(address: str, *_: Any, **__: Any) -> Any:
        dialled.append(address)
        if address == six[0]:
            raise ConnectionRefusedError
        if address == six[1]:
            await asyncio.Event().wait()
        raise OSError("no route")

    monkeypatch.setattr("anyio.connect_tcp", lambda **given: dial(given["remote_host"]))
    monkeypatch.setattr(asyncio, "open_connection", dial)
    client = GuardedClient(connect_timeout_seconds=2)
    for ask in (
        client.read("GET", "http://a.example/", max_bytes=1),
        client.connect("http://a.example/"),
    ):
        dialled.clear()
        with pytest.raises((IngestFailed, OSError)):
            await ask
        assert dialled == [six[0], "93.184.215.14", six[1], "93.184.215.15", six[2]]
    await client.close()


async def test_the_first_connection_is_taken_and_any_other_closed() -> None:
    both_are_there, closed = asyncio.Event(), []

    async def dial(address: str) -> str:
        if address == "two":
            both_are_there.set()
        await both_are_there.wait()
        return address

    async def close(connection: str) -> None:
        closed.append(connection)

    taken = await first_connected(["one", "two"], dial, close)
    assert {taken, *closed} == {"one", "two"}
    with pytest.raises(httpcore.ConnectError):
        await first_connected([], dial, close)


async def test_names_that_hang_hold_up_nothing_but_themselves(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    may_end, looked_up = threading.Event(), []

    def look_up(host: str, *_: Any, **__: Any) -> list[tuple[Any, ...]]:
        looked_up.append(host)
        if host.startswith("a"):
            may_end.wait()
        raise socket.gaierror(socket.EAI_NONAME, "no such host")

    monkeypatch.setattr(socket, "getaddrinfo", look_up)
    client = GuardedClient(connect_timeout_seconds=0.2)
    asked = [client.read("GET", f"http://a{n}.example/", max_bytes=1) for n in range(40)]
    try:
        failures = await asyncio.gather(*asked, return_exceptions=True)
        assert {getattr(each, "failure", each) for each in failures} == {LectureFailure.TIMEOUT}
        again = [client.read("GET", "http://a1.example/", max_bytes=1) for _ in range(100)]
        failures = await asyncio.gather(*again, return_exceptions=True)
        assert {getattr(each, "failure", each) for each in failures} == {LectureFailure.TIMEOUT}
        assert len(looked_up) == 40
        for _ in range(2):  # What has been answered is asked again.
            with pytest.raises(IngestFailed) as failure:
                await client.read("GET", "http://b.example/", max_bytes=1)
            assert failure.value.failure is LectureFailure.SOURCE_NOT_FOUND
        assert looked_up[40:] == ["b.example"] * 2
        assert await asyncio.to_thread(lambda: "free") == "free"
    finally:
        may_end.set()
        await client.close()


@pytest.mark.parametrize(
    "url",
    [
        "http://127.0.0.1/",
        "http://localhost/",
        "http://0x7f000001/",
        "http://2130706433/",
        "http://127.1/",
        "http://0177.0.0.1/",
        "http://[::1]/",
        "http://[::ffff:127.0.0.1]/",
        "http://[::127.0.0.1]/",
        "http://127.0.0.1./",
        "http://\uff11\uff12\uff17.0.0.1/",
        "http://\u24db\u24de\u24d2\u24d0\u24db\u24d7\u24de\u24e2\u24e3/",
        "http://0/",
        "https://8.8.8.8:8443/",
        "http://8.8.8.8:22/",
        "file:///etc/passwd",
        "ftp://8.8.8.8/",
        "gopher://127.0.0.1:6379/",
        "http://user@8.8.8.8/",
        "http://8.8.8.8:80\\@127.0.0.1/",
        "//127.0.0.1/",
        "",
        "http://[::1%25lo]/",
        "http://" + "a" * 70 + ".example/",
    ],
)
async def test_no_spelling_leads_inwards(url: str) -> None:
    with pytest.raises(IngestFailed) as failure:
        await _get(url)
    assert failure.value.failure is LectureFailure.BLOCKED_URL
    assert not failure.value.transient
    assert "127" not in failure.value.message


async def _get(url: str) -> None:
    client = GuardedClient(connect_timeout_seconds=2)
    try:
        async with asyncio.timeout(10):
            await client.read("GET", url, max_bytes=10)
    finally:
        await client.close()


@pytest.mark.parametrize(
    ("status", "expected", "transient"),
    [
        (400, LectureFailure.SOURCE_NOT_FOUND, False),
        (401, LectureFailure.LOGIN_REQUIRED, False),
        (403, LectureFailure.LOGIN_REQUIRED, False),
        (404, LectureFailure.SOURCE_NOT_FOUND, False),
        (410, LectureFailure.SOURCE_NOT_FOUND, False),
        (408, LectureFailure.NETWORK, True),
        (429, LectureFailure.NETWORK, True),
        (500, LectureFailure.NETWORK, True),
        (503, LectureFailure.NETWORK, True),
    ],
)
def test_a_status_is_a_failure(status: int, expected: LectureFailure, transient: bool) -> None:
    failure = failure_of_status(httpx.Response(status, headers={"Retry-After": "7"}))
    assert (failure.failure, failure.transient) == (expected, transient)
    assert failure.retry_after_seconds == (7 if transient else None)


def test_retry_after_is_seconds_or_a_date() -> None:
    soon = format_datetime(datetime.now(UTC) + timedelta(seconds=60), usegmt=True)
    assert retry_after_seconds("120") == 120
    assert 55 < (retry_after_seconds(soon) or 0) <= 60
    assert retry_after_seconds("Fri, 31 Dec 1999 23:59:59 GMT") == 0
    assert retry_after_seconds("9" * 400) == 24 * 3600
    assert retry_after_seconds("Fri, 31 Dec 9999 23:59:59 GMT") == 24 * 3600
    absurd = ("Mon, 01 Jan 99999999999 00:00:00 GMT", "Mon, 01 Jan 2030 00:00:00 +99999999999")
    for nonsense in (None, "", "soon", "-5", "1.5", "²", *absurd):
        assert retry_after_seconds(nonsense) is None


def test_login_pages_are_known_by_their_address() -> None:
    assert looks_like_login("https://uni.panopto.com/Panopto/Pages/Auth/Login.aspx?x")
    assert looks_like_login("https://login.example.org/oauth2/authorize")
    assert not looks_like_login("https://example.org/catalogin/lecture.html")
