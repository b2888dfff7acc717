"""A real HTTP server around an app, in the test's own loop, on a free port of 127.0.0.1."""

import asyncio
import atexit
import contextlib
import functools
import shutil
import tempfile
from collections.abc import AsyncIterator
from dataclasses import dataclass
from pathlib import Path

import httpx
import uvicorn
from starlette.types import ASGIApp
from uvicorn.server import ServerState

from app.auth.issuer import DevelopmentIssuer
from tests.support.wait import wait_until

ISSUER_KEY = "development-issuer.pem"


@dataclass(frozen=True, slots=True)
class Serving:
    """Where the app answers."""

    host: str
    port: int

    @property
    def url(self) -> str:
        return f"http://{self.host}:{self.port}"


@contextlib.asynccontextmanager
async def serving(app: ASGIApp, *, http: str = "auto") -> AsyncIterator[Serving]:
    """Serve the app until the block ends: uvicorn's own protocols, without its process around.

    `uvicorn.Server` looks ten times a second whether it should stop, which adds up over tests.
    """
    config = uvicorn.Config(app, log_config=None, access_log=False, http=http, lifespan="off")
    config.load()
    state = ServerState()
    server = await asyncio.get_running_loop().create_server(
        lambda: config.http_protocol_class(config=config, server_state=state, app_state={}),
        "127.0.0.1",
        0,
    )
    try:
        yield Serving(*server.sockets[0].getsockname()[:2])
    finally:
        server.close()
        for connection in list(state.connections):
            connection.shutdown()
        await asyncio.gather(*state.tasks, return_exceptions=True)
        await wait_until(lambda: not state.connections, "every connection is closed")


def new_client(url: str) -> httpx.AsyncClient:
    """Return a client for plain HTTP: it skips the 60 ms of loading certificates."""
    return httpx.AsyncClient(base_url=url, timeout=10, verify=False, trust_env=False)


@functools.cache
def issuer_directory() -> Path:
    """A DATA_DIR for a whole test run, so that the issuer's key is made once."""
    directory = Path(tempfile.mkdtemp(prefix="sb-issuer-"))
    atexit.register(shutil.rmtree, directory)
    DevelopmentIssuer.load(directory)
    return directory
