"""A web site of a test's own on 127.0.0.1: pages by their path, and who asked for what."""

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field

from starlette.requests import Request
from starlette.responses import HTMLResponse, RedirectResponse, Response
from starlette.types import Receive, Scope, Send

from tests.support.serving import serving


@dataclass(frozen=True, slots=True)
class Asked:
    """A request as it came."""

    method: str
    path: str
    headers: dict[str, str]
    body: bytes


@dataclass
class Site:
    """Answers by `pages`; any other path is 404."""

    port: int = 0
    pages: dict[str, Callable[[Request], Response]] = field(default_factory=dict)
    asked: list[Asked] = field(default_factory=list)
    released: asyncio.Event = field(default_factory=asyncio.Event)
    """Set, it lets go of the requests for ``/stuck``."""

    @property
    def host_port(self) -> str:
        return f"127.0.0.1:{self.port}"

    @property
    def url(self) -> str:
        return f"http://{self.host_port}"

    @property
    def paths(self) -> list[str]:
        return [each.path for each in self.asked]

    def page(self, path: str, body: str, *, title: str = "Algebra") -> str:
        """Serve an HTML page there, and return its URL."""
        text = f"<html><head><title>{title}</title></head><body>{body}</body></html>"
        self.pages[path] = lambda _: HTMLResponse(text)
        return self.url + path

    def redirect(self, path: str, target: str) -> str:
        """Lead from there to the target, and return the URL."""
        self.pages[path] = lambda _: RedirectResponse(target, 302)
        return self.url + path

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        request = Request(scope, receive)
        path = request.url.path
        body = await request.body()
        self.asked.append(Asked(request.method, path, dict(request.headers), body))
        if path == "/stuck":
            await self.released.wait()
        answer = self.pages.get(path, lambda _: Response(status_code=404))
        await answer(request)(scope, receive, send)


@asynccontextmanager
async def open_site() -> AsyncIterator[Site]:
    """Serve a site until the block ends."""
    site = Site()
    async with serving(site) as address:
        site.port = address.port
        yield site
        site.released.set()
