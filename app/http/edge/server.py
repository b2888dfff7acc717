"""The HTTP server: uvicorn, told how to start on a socket of ours and how to stop in time.

Stopping means: no new connection, server-sent events ended and sockets closed with 1012 at once,
and 10 s for the requests that are running.
"""

import asyncio
import contextlib
import errno
import signal
import socket
from collections.abc import AsyncIterator, Callable, Generator, Iterator
from contextlib import asynccontextmanager, contextmanager
from typing import Any

import uvicorn
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from app.errors import ConfigurationError
from app.http.edge.connection import HttpConnection, SocketConnection
from app.settings import Settings

MAX_SOCKET_MESSAGE_BYTES = 64 * 1024
_GRACE_SECONDS = 10
_BACKLOG = 2048


async def serve(
    app: ASGIApp,
    settings: Settings,
    *,
    stop: asyncio.Event | None = None,
    on_started: Callable[[str], object] | None = None,
) -> None:
    """Serve on HOST and PORT until ``stop`` is set, or SIGTERM or SIGINT where it is None.

    ``on_started`` is called with the address, as ``http://127.0.0.1:8000``.  Raises
    `ConfigurationError` where the address cannot be had, and what the app's lifespan raised where
    it did not start.
    """
    listener = _listen(settings.host, settings.port)
    server = _Server(app)
    running = asyncio.create_task(server.serve(sockets=[listener]))
    try:
        await _either(running, server.ready.wait())
        if server.started and on_started is not None:
            host, port = listener.getsockname()[:2]
            on_started(f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}")
        with _stop_signals() if stop is None else contextlib.nullcontext(stop) as stopping:
            await _either(running, stopping.wait())
    finally:
        server.should_exit = True
        await running
        listener.close()
    if server.lifespan_error is not None:
        raise server.lifespan_error


@asynccontextmanager
async def running_server(app: ASGIApp, settings: Settings) -> AsyncIterator[str]:
    """Serve while the block runs, and give it the address; PORT 0 takes any free port."""
    stop = asyncio.Event()
    started: asyncio.Future[str] = asyncio.get_running_loop().create_future()
    running = asyncio.create_task(serve(app, settings, stop=stop, on_started=started.set_result))
    try:
        await _either(running, started)
        if running.done():
            await running
        yield started.result()
    finally:
        stop.set()
        await running


class _Server(uvicorn.Server):
    """uvicorn's server, with no signal handlers of its own, that ends streams as it stops."""

    def __init__(self, app: ASGIApp) -> None:
        self.lifespan_error: BaseException | None = None
        self.ready = asyncio.Event()
        self._stopping = asyncio.Event()
        self._wrapped = app
        super().__init__(
            uvicorn.Config(
                self._app,
                interface="asgi3",
                http=HttpConnection,
                ws=SocketConnection,
                ws_max_size=MAX_SOCKET_MESSAGE_BYTES,
                ws_per_message_deflate=False,
                lifespan="on",
                log_config=None,
                log_level="warning",
                access_log=False,
                server_header=False,
                proxy_headers=False,
                timeout_keep_alive=30,
                timeout_graceful_shutdown=_GRACE_SECONDS,
            )
        )

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        """Start, and tell whoever waits."""
        try:
            await super().startup(sockets)
        except SystemExit:  # uvicorn's answer to a lifespan that fails, which is raised by `serve`
            self.should_exit = True
        finally:
            self.ready.set()

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        """End what would never end by itself, then the rest."""
        self._stopping.set()
        await super().shutdown(sockets)

    @contextmanager
    def capture_signals(self) -> Generator[None, None, None]:
        """Leave signals alone: uvicorn would raise them anew, before others could clean up."""
        yield

    async def _app(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Hand on a request; keep what stopped the start, so that it is raised, not printed."""
        if scope["type"] != "lifespan":
            scope["state"]["stopping"] = self._stopping
            await self._wrapped(scope, receive, send)
            return

        async def without_traceback(message: Message) -> None:
            message.pop("message", None)
            await send(message)

        try:
            await self._wrapped(scope, receive, without_traceback)
        except BaseException as error:
            self.lifespan_error = error
            raise


async def _either(task: "asyncio.Task[Any]", other: Any) -> None:
    """Wait until the task is done or the other has happened."""
    waiting = asyncio.ensure_future(other)
    try:
        await asyncio.wait({task, waiting}, return_when=asyncio.FIRST_COMPLETED)
    finally:
        waiting.cancel()


@contextmanager
def _stop_signals() -> Iterator[asyncio.Event]:
    """Give an event that SIGTERM and SIGINT set."""
    loop = asyncio.get_running_loop()
    stop = asyncio.Event()
    signals = (signal.SIGTERM, signal.SIGINT)
    for number in signals:
        loop.add_signal_handler(number, stop.set)
    try:
        yield stop
    finally:
        for number in signals:
            loop.remove_signal_handler(number)


def _listen(host: str, port: int) -> socket.socket:
    try:
        family, kind, protocol, _, address = socket.getaddrinfo(
            host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
        )[0]
    except (OSError, UnicodeError):
        raise ConfigurationError(f"HOST: {host} cannot be resolved") from None
    listener = socket.socket(family, kind, protocol)
    try:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind(address)
        listener.listen(_BACKLOG)
    except OSError as error:
        listener.close()
        reason = {
            errno.EADDRINUSE: f"PORT: {port} is already in use",
            errno.EACCES: f"PORT: {port} may not be opened by this user",
        }.get(error.errno or 0, f"HOST: {host} is not an address of this machine")
        raise ConfigurationError(reason) from None
    listener.setblocking(False)
    return listener
