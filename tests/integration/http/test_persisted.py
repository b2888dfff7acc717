"""Documents by their hash, with a real Redis, without one, and as the only ones that run."""

import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from hashlib import sha256
from pathlib import Path
from typing import Any

import pytest
from redis.asyncio import Redis

from app.errors import ConfigurationError
from app.http.graphql import persisted
from app.http.graphql.persisted import PersistedDocuments
from app.settings import load_settings
from tests.support.edge import TOKEN, Edge, running_edge
from tests.support.graphql_ws import open_socket

QUERY = "query A { hello }"
HELLO = {"data": {"hello": "hello world"}}


def hashed(text: str, sha: str | None = None) -> dict[str, Any]:
    digest = sha or sha256(text.encode()).hexdigest()
    return {"persistedQuery": {"version": 1, "sha256Hash": digest}}


@asynccontextmanager
async def edge_with(
    redis_url: str, known: dict[str, str] | None = None, *, only_known: bool = False
) -> AsyncIterator[Edge]:
    documents = PersistedDocuments(redis_url, known or {}, only_known=only_known)
    async with running_edge(documents=documents) as edge:
        yield edge
    await documents.close()


async def answer(edge: Edge, **body: object) -> Any:
    return (await edge.http.post("/graphql", json=body)).json()


def code(body: Any) -> str:
    (error,) = body["errors"]
    assert "data" not in body
    return str(error["extensions"]["code"])


async def test_a_hash_is_unknown_until_its_document_came(redis_url: str) -> None:
    async with edge_with(redis_url) as edge:
        for accept, status in (
            ("application/json", 200),
            ("application/graphql-response+json", 400),
        ):
            response = await edge.http.post(
                "/graphql", json={"extensions": hashed(QUERY)}, headers={"Accept": accept}
            )
            assert response.status_code == status
            (error,) = response.json()["errors"]
            assert error["message"] == "PersistedQueryNotFound"
            assert error["extensions"] == {"code": "PERSISTED_QUERY_NOT_FOUND"}
        assert await answer(edge, query=QUERY, extensions=hashed(QUERY)) == HELLO
        assert await answer(edge, extensions=hashed(QUERY), operationName="A") == HELLO
        assert await answer(edge, query=None, extensions=hashed(QUERY)) == HELLO
        url = {"extensions": json.dumps(hashed(QUERY))}
        assert (await edge.http.get("/graphql", params=url)).json() == HELLO
        async with open_socket(edge.address) as socket:
            await socket.init(TOKEN)
            payload = {"extensions": hashed(QUERY)}
            await socket.send({"id": "1", "type": "subscribe", "payload": payload})
            assert await socket.next() == HELLO


@pytest.mark.parametrize(
    ("query", "extensions"),
    [
        (QUERY, hashed(QUERY, "ab" * 32)),
        ("{ nothing }", hashed("{ nothing }")),
        ("{ hello } #" + "x" * 20_000, hashed("{ hello } #" + "x" * 20_000)),
    ],
    ids=["another's hash", "not valid", "too long"],
)
async def test_what_is_not_remembered(
    redis_url: str, query: str, extensions: dict[str, Any]
) -> None:
    async with edge_with(redis_url) as edge:
        first = await answer(edge, query=query, extensions=extensions)
        assert first == HELLO or code(first) == "GRAPHQL_VALIDATION_FAILED"
        assert code(await answer(edge, extensions=extensions)) == "PERSISTED_QUERY_NOT_FOUND"


async def test_what_was_not_used_for_longest_is_forgotten(
    redis_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(persisted, "_MAX_REMEMBERED", 3)
    texts = [f"{{ hello }} # {number}" for number in range(5)]
    async with edge_with(redis_url) as edge:
        for text in texts:
            await answer(edge, query=text, extensions=hashed(text))
            await answer(edge, extensions=hashed(texts[0]))
            await answer(edge, extensions=hashed("never seen"))
        found = [await answer(edge, extensions=hashed(text)) == HELLO for text in texts]
    assert found == [True, False, False, True, True]
    async with Redis.from_url(redis_url) as client:
        keys = [key async for key in client.scan_iter()]
        assert len(keys) == 4
        assert all([await client.ttl(key) > 0 for key in keys])


async def test_without_redis_every_hash_is_unknown() -> None:
    async with running_edge() as edge:
        assert await answer(edge, query=QUERY, extensions=hashed(QUERY)) == HELLO
        assert code(await answer(edge, extensions=hashed(QUERY))) == "PERSISTED_QUERY_NOT_FOUND"


@pytest.mark.parametrize("value", [None, 1, "x", {}, {"sha256Hash": 1}, {"sha256Hash": "x" * 5000}])
async def test_what_is_no_hash_is_passed_over(value: object) -> None:
    async with running_edge() as edge:
        extensions = {"persistedQuery": value}
        assert await answer(edge, query=QUERY, extensions=extensions) == HELLO
        assert code(await answer(edge, extensions=extensions)) == "BAD_USER_INPUT"


async def test_only_the_deployments_own_documents_run(redis_url: str) -> None:
    known = {"hello-1": QUERY}
    async with edge_with(redis_url, known, only_known=True) as edge:
        own = hashed("", "hello-1")
        assert await answer(edge, extensions=own) == HELLO
        assert await answer(edge, query="{ me }", extensions=own) == HELLO
        assert await answer(edge, query=QUERY) == HELLO
        note = 'mutation { note(text: "x") }'
        assert code(await answer(edge, query=note)) == "BAD_USER_INPUT"
        assert code(await answer(edge, query=note, extensions=hashed(note))) == "BAD_USER_INPUT"
        assert code(await answer(edge, extensions=hashed(note))) == "PERSISTED_QUERY_NOT_FOUND"
        form = {"operations": json.dumps({"query": note}), "map": "{}"}
        sent = await edge.http.post("/graphql", files={k: (None, v) for k, v in form.items()})
        assert code(sent.json()) == "BAD_USER_INPUT"
        async with open_socket(edge.address) as socket:
            await socket.init(TOKEN)
            await socket.subscribe(note)
            assert (await socket.receive())["type"] == "error"
        assert edge.record.mutations == []


@pytest.mark.parametrize("content", [None, b"", b"[]", b'{"a": 1}'])
def test_a_wrong_file_stops_the_start(tmp_path: Path, content: bytes | None) -> None:
    path = tmp_path / "documents.json"
    if content is not None:
        path.write_bytes(content)
    settings = load_settings(persisted_documents=path, persisted_only=True, redis_url="redis://x")
    with pytest.raises(ConfigurationError, match=r"^PERSISTED_DOCUMENTS: "):
        PersistedDocuments.from_settings(settings)


def test_a_list_is_needed_where_nothing_else_runs() -> None:
    with pytest.raises(ConfigurationError, match=r"^PERSISTED_ONLY: "):
        load_settings(persisted_only=True)
