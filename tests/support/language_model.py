"""A server that speaks as OpenAI's does, on 127.0.0.1: it answers well, or as it is told."""

import asyncio
import json
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any

from starlette.requests import Request
from starlette.responses import JSONResponse, RedirectResponse, Response, StreamingResponse
from starlette.types import Receive, Scope, Send

from tests.support.serving import serving

NAME = "stand-in"
KEY = "the-key-of-the-language-model"


def completion(content: str | None, **message: Any) -> Response:
    """Answer with what the model has written."""
    choice = {"index": 0, "finish_reason": "stop", "message": {"content": content, **message}}
    return JSONResponse({"id": "1", "object": "chat.completion", "choices": [choice]})


def well(body: dict[str, Any]) -> Response:
    """Sum up what is there, as it was asked for."""
    data = json.loads(body["messages"][1]["content"])
    if "parts" in data:
        return completion(json.dumps({"summary": " + ".join(data["parts"])[:1000]}))
    numbers = [each["number"] for each in data["passages"]]
    topics = [{"number": n, "topic": f"Topic {n}"} for n in numbers]
    summary = f"Passages {numbers[0]} to {numbers[-1]}."
    return completion(json.dumps({"summary": summary, "topics": topics}))


def says(summary: str, **more: Any) -> Callable[[dict[str, Any]], Response]:
    """Answer everything with this summary, and whatever else."""
    return lambda _: completion(json.dumps({"summary": summary, "topics": [], **more}))


def writes(content: str | None, **message: Any) -> Callable[[dict[str, Any]], Response]:
    """Answer everything with these characters."""
    return lambda _: completion(content, **message)


def status(code: int, **headers: str) -> Callable[[dict[str, Any]], Response]:
    """Answer everything with this status, and a body that repeats the key."""
    named = {name.replace("_", "-"): value for name, value in headers.items()}
    return lambda _: Response(f"No, {KEY}.", code, named)


def redirect(_: dict[str, Any]) -> Response:
    """Lead elsewhere."""
    return RedirectResponse("/v1/elsewhere", 307)


def endless(_: dict[str, Any]) -> Response:
    """Begin as an answer does, and never end."""

    async def content() -> AsyncIterator[bytes]:
        yield b'{"choices": [{"message": {"content": "'
        while True:
            yield b"a" * 65536
            await asyncio.sleep(0)

    return StreamingResponse(content(), media_type="application/json")


def without_schemas(body: dict[str, Any]) -> Response:
    """Know nothing of `response_format`; put the answer between fences, after a thought."""
    if "response_format" in body:
        return Response("unknown parameter", 400)
    answer: Any = json.loads(bytes(well(body).body))
    content = answer["choices"][0]["message"]["content"]
    return completion(f"<think>Hm.</think>\n```json\n{content}\n```\n")


def with_new_limit(body: dict[str, Any]) -> Response:
    """Take `max_completion_tokens` alone."""
    return Response("unsupported", 400) if "max_tokens" in body else well(body)


@dataclass
class LanguageServer:
    """Where it answers, how, and what it was asked."""

    url: str = ""
    answer: Callable[[dict[str, Any]], Response] = well
    hangs: bool = False
    meanwhile: Callable[[], Awaitable[None]] | None = None
    """What happens while it writes."""
    asked: list[dict[str, Any]] = field(default_factory=list)
    requests: list[tuple[str, dict[str, str]]] = field(default_factory=list)

    @property
    def settings(self) -> dict[str, Any]:
        """The settings of a service that asks it."""
        return {"llm_base_url": self.url, "llm_model": NAME, "llm_api_key": KEY}

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        request = Request(scope, receive)
        self.requests.append((request.url.path, dict(request.headers)))
        body = json.loads(await request.body())
        self.asked.append(body)
        if self.hangs:
            while not await request.is_disconnected():  # noqa: ASYNC110 - as the server sees it
                await asyncio.sleep(0.01)
            return
        if self.meanwhile is not None:
            await self.meanwhile()
        await self.answer(body)(scope, receive, send)


@asynccontextmanager
async def language_server() -> AsyncIterator[LanguageServer]:
    """Serve it until the block ends."""
    server = LanguageServer()
    async with serving(server) as served:
        server.url = f"{served.url}/v1"
        yield server
