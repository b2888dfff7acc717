"""The server's start and stop: taken ports, a lifespan that fails, signals."""

import asyncio
import os
import signal
import socket

import httpx
import pytest
from starlette.types import Receive, Scope, Send

from app.errors import ConfigurationError
from app.http.edge.server import running_server, serve
from app.settings import load_settings


async def _hello(scope: Scope, receive: Receive, send: Send) -> None:
    if scope["type"] == "lifespan":
        for step in ("startup", "shutdown"):
            await receive()
            await send({"type": f"lifespan.{step}.complete"})
        return
    await send({"type": "http.response.start", "status": 200, "headers": []})
    await send({"type": "http.response.body", "body": b"hello"})


async def test_it_tells_its_address_and_not_its_name() -> None:
    async with (
        running_server(_hello, load_settings(port=0)) as address,
        httpx.AsyncClient(trust_env=False) as client,
    ):
        response = await client.get(address)

    assert address.startswith("http://127.0.0.1:")
    assert response.text == "hello"
    assert "server" not in response.headers


async def test_a_taken_port_is_named() -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        with pytest.raises(ConfigurationError, match=f"^PORT: {port} is already in use$"):
            await serve(_hello, load_settings(port=port))


@pytest.mark.parametrize("host", ["192.0.2.1", "no-such-host.invalid", "x" * 300])
async def test_an_impossible_host_is_named(host: str) -> None:
    with pytest.raises(ConfigurationError, match=r"^HOST: "):
        await serve(_hello, load_settings(host=host, port=0))


async def test_what_stops_the_lifespan_is_raised(caplog: pytest.LogCaptureFixture) -> None:
    async def broken(scope: Scope, receive: Receive, send: Send) -> None:
        await receive()
        await send({"type": "lifespan.startup.failed", "message": "Traceback …"})
        raise ConfigurationError("DATABASE_URL: nobody answers")

    with pytest.raises(ConfigurationError, match=r"^DATABASE_URL: nobody answers$"):
        async with running_server(broken, load_settings(port=0)):
            pass
    assert "Traceback" not in caplog.text


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
async def test_a_signal_stops_it_and_nothing_else(number: signal.Signals) -> None:
    started: asyncio.Future[str] = asyncio.get_running_loop().create_future()
    serving = asyncio.create_task(
        serve(_hello, load_settings(port=0), on_started=started.set_result)
    )
    await started
    os.kill(os.getpid(), number)

    await asyncio.wait_for(serving, 5)
