"""A line to PostgreSQL that can be held up: the server hangs, or its answers are lost."""

import asyncio
import contextlib
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from urllib.parse import parse_qs, urlsplit

_SOCKET = ".s.PGSQL.5432"


@dataclass
class Line:
    """What is sent over it goes on, but for what is held up or lost."""

    url: str
    _goes_on: asyncio.Event = field(default_factory=asyncio.Event)
    _loses_answers: bool = False
    _writers: list[asyncio.StreamWriter] = field(default_factory=list)

    @contextmanager
    def held_up(self) -> Iterator[None]:
        """Hold up everything while the block runs, as a frozen server does; it comes later."""
        self._goes_on.clear()
        try:
            yield
        finally:
            self._goes_on.set()

    @contextmanager
    def losing_answers(self) -> Iterator[Callable[[], None]]:
        """Drop what the server answers from the call of what is yielded on, to the block's end."""
        try:
            yield self._lose_answers
        finally:
            self._loses_answers = False
            # Half of a conversation is of no use to anyone.
            for writer in self._writers:
                writer.close()
            self._writers.clear()

    def _lose_answers(self) -> None:
        self._loses_answers = True

    async def carry(
        self, client: asyncio.StreamReader, to_client: asyncio.StreamWriter, server_path: str
    ) -> None:
        """Connect one client with the server."""
        server, to_server = await asyncio.open_unix_connection(server_path)
        self._writers += [to_client, to_server]
        try:
            await asyncio.gather(self._pump(client, to_server), self._pump(server, to_client, True))
        finally:
            to_client.close()
            to_server.close()

    async def _pump(
        self, source: asyncio.StreamReader, sink: asyncio.StreamWriter, answers: bool = False
    ) -> None:
        with contextlib.suppress(OSError):
            while data := await source.read(65536):
                await self._goes_on.wait()
                if not (answers and self._loses_answers):
                    sink.write(data)
                    await sink.drain()
        sink.close()


@asynccontextmanager
async def line_to(database_url: str, directory: Path) -> AsyncIterator[Line]:
    """Open a line to the database, whose server listens on a local socket."""
    parts = urlsplit(database_url)
    server_path = str(Path(parse_qs(parts.query)["host"][0], _SOCKET))
    line = Line(parts._replace(query=f"host={directory}").geturl())
    line._goes_on.set()
    clients: set[asyncio.Task[None]] = set()

    def connected(client: asyncio.StreamReader, to_client: asyncio.StreamWriter) -> None:
        task = asyncio.create_task(line.carry(client, to_client, server_path))
        clients.add(task)
        task.add_done_callback(clients.discard)

    listener = await asyncio.start_unix_server(connected, directory / _SOCKET)
    try:
        yield line
    finally:
        listener.close()
        for task in clients:
            task.cancel()
        await asyncio.gather(*clients, return_exceptions=True)
