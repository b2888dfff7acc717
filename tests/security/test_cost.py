"""Operations that cost more than they may: refused over every transport before they run."""

import asyncio
import json
import time

import pytest

from app.errors import ConfigurationError
from app.settings import load_settings
from tests.support.edge import TOKEN, running_edge
from tests.support.graphql_ws import open_socket
from tests.support.service import Client, Service

STRICT = {"accept": "application/graphql-response+json"}


def chain(levels: int, body: str) -> str:
    fragments = " ".join(
        f"fragment f{n} on Query {{ {body.format(next=f'f{n + 1}')} }}" for n in range(levels)
    )
    return f"{{ ...f0 }} {fragments} fragment f{levels} on Query {{ hello }}"


BOMBS = {
    "doubling spreads": chain(30, "...{next} ...{next}"),
    "doubling fields": chain(30, "a: item {{ ...{next} }} b: item {{ ...{next} }}"),
    "inline doubling": chain(30, "... {{ ...{next} }} ... on Query {{ ...{next} }}"),
    "a cycle": "{ ...a } fragment a on Query { ...b } fragment b on Query { ...a }",
    "aliases": "{ " + " ".join(f"x{n}: hello" for n in range(200)) + " }",
    "directives": "{ hello " + "@include(if: true) " * 150 + "}",
    "unknown directives": "{ hello " + "@x " * 400 + "}",
    "fields again": "{ " + 'item(id: "x") { id } ' * 110 + "}",
    "tokens": "{" + " hello" * 2_000 + "}",
    "brackets": "{ hello(name: " + "[" * 5_000 + "}",
    "depth": "{ item " * 300 + "}" * 300,
    "operations": " ".join(f"query q{n} {{ ...f }}" for n in range(200)),
}


@pytest.mark.parametrize("name", BOMBS)
async def test_bombs_are_refused_over_http_sse_and_sockets(name: str) -> None:
    async with running_edge() as edge:
        began = time.perf_counter()
        response = await edge.post(BOMBS[name], headers=STRICT)
        print(f"{name}: {1000 * (time.perf_counter() - began):.0f} ms")
        assert response.status_code == 400
        assert len(response.content) < 64 * 1024
        events = await edge.post(BOMBS[name], headers={"accept": "text/event-stream"})
        assert events.status_code == 200
        assert "event: complete" in events.text
        assert "GRAPHQL_" in events.text
        async with open_socket(edge.address) as socket:
            await socket.init(TOKEN)
            await socket.subscribe(BOMBS[name].replace("{", "subscription {", 1))
            assert (await socket.receive())["type"] == "error"
            await socket.subscribe("{ hello }", operation_id="2")
            assert (await socket.next("2"))["data"] == {"hello": "hello world"}
        assert edge.record.started == []


async def test_a_flood_of_refused_requests_keeps_memory_flat() -> None:
    async with running_edge() as edge:
        big = "{ hello } # " + "x" * 500_000

        async def flood(times: int) -> None:
            for _ in range(times):
                sent = [edge.post(bomb, headers=STRICT) for bomb in (*BOMBS.values(), big + "{")]
                await asyncio.gather(*sent)

        await flood(2)
        before = resident_bytes()
        await flood(4)
        assert resident_bytes() - before < 24 * 1024 * 1024


def resident_bytes() -> int:
    with open("/proc/self/statm") as file:  # noqa: PTH123
        return int(file.read().split()[1]) * 4096


async def test_a_pages_size_is_checked_in_variables_too(service: Service, ada: Client) -> None:
    for size in (0, -1, 101, 2**31 - 1, 2**40, "5", 1.5):
        for name in ("lectures", "documents", "courses"):
            query = f"query ($n: Int) {{ {name}(first: $n) {{ nodes {{ id }} }} }}"
            assert await ada.code(query, n=size) == "BAD_USER_INPUT", (name, size)


async def test_production_shows_neither_its_schema_nor_a_page() -> None:
    async with running_edge(introspection=False) as edge:
        for query in (
            "{ __schema { types { name } } }",
            '{ __type(name: "Query") { name } }',
            "{ ...f } fragment f on Query { __schema { description } }",
        ):
            response = await edge.post(query, headers=STRICT)
            assert response.status_code == 400
            assert "data" not in response.json()
        page = await edge.http.get("/graphql", headers={"accept": "text/html"})
        assert page.status_code == 405
        for query in (
            "{ helo }",
            "{ item { idd } }",
            '{ hello(nam: "x") }',
            "{ ...on Itm { id } }",
        ):
            text = (await edge.post(query)).text.lower()
            assert "did you mean" not in text


def test_production_turns_the_tools_of_development_off() -> None:
    needed = {
        "environment": "production",
        "database_url": "postgresql://db/x",
        "redis_url": "redis://r/0",
        "auth_issuer": "https://clerk.example.org",
        "secret_key": "0123456789abcdef",
    }
    settings = load_settings(**needed)
    assert not settings.introspection_enabled
    assert not settings.graphiql_enabled
    assert not settings.uses_development_issuer
    for name in ("database_url", "redis_url", "auth_issuer", "secret_key"):
        with pytest.raises(ConfigurationError, match=name.upper()):
            load_settings(**{**needed, name: None})


async def test_batches_are_refused() -> None:
    many = json.dumps([{"query": "{ hello }"}] * 3)
    async with running_edge() as edge:
        response = await edge.http.post("/graphql", content=many, headers=JSON)
    assert response.status_code == 400
    assert response.json()["errors"][0]["extensions"]["code"] == "BAD_USER_INPUT"


JSON = {"content-type": "application/json"}
