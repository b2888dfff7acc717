"""GraphQL over server-sent events on a real socket."""

import asyncio
import json
import time
from collections.abc import AsyncIterator
from typing import Any

import httpx
import pytest
import pytest_asyncio

from app.http.graphql import event_stream
from tests.support.edge import Edge, running_edge
from tests.support.wait import wait_until

pytestmark = pytest.mark.asyncio(loop_scope="module")

EVENTS = {"Accept": "text/event-stream"}
WAIT = 'subscription { count(to: 1, name: "wait") }'


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def shared_edge() -> AsyncIterator[Edge]:
    async with running_edge() as edge:
        yield edge


@pytest.fixture
def edge(shared_edge: Edge) -> Edge:
    return shared_edge.forget()


def _events(text: str) -> list[tuple[str, Any]]:
    """Parse a whole stream; comments are events without a name."""
    events = []
    for block in text.split("\n\n")[:-1]:
        fields = dict(line.split(":", 1) for line in block.split("\n"))
        name, data = fields.get("event", "").strip(), fields.get("data", "").strip()
        events.append((name, json.loads(data) if data else None))
    return events


async def _post(edge: Edge, query: str, **parameters: object) -> list[tuple[str, Any]]:
    response = await edge.post(query, headers=EVENTS, **parameters)
    assert response.status_code == 200
    assert response.headers["content-type"] == "text/event-stream; charset=utf-8"
    assert response.headers["x-accel-buffering"] == "no"
    assert "no-cache" in response.headers["cache-control"]
    return _events(response.text)


async def test_a_subscription_streams_and_completes(edge: Edge) -> None:
    events = await _post(edge, "subscription { count(to: 2) }")

    assert events == [
        ("next", {"data": {"count": 0}}),
        ("next", {"data": {"count": 1}}),
        ("complete", None),
    ]


async def test_queries_and_mutations_run_too(edge: Edge) -> None:
    query = await _post(edge, "{ hello }")
    mutation = await _post(edge, 'mutation { note(text: "x") }')

    assert query == [("next", {"data": {"hello": "hello world"}}), ("complete", None)]
    assert mutation == [("next", {"data": {"note": "x"}}), ("complete", None)]
    assert edge.record.mutations == ["x"]


@pytest.mark.parametrize(
    ("query", "code"),
    [
        ("{", "GRAPHQL_PARSE_FAILED"),
        ("subscription { nothing }", "GRAPHQL_VALIDATION_FAILED"),
        ("subscription A { lost } subscription B { lost }", "BAD_USER_INPUT"),
        ("subscription($to: Int!) { count(to: $to) }", "BAD_USER_INPUT"),
        ("subscription { lost }", "NOT_FOUND"),
    ],
)
async def test_errors_come_as_an_event(edge: Edge, query: str, code: str) -> None:
    (name, body), last = await _post(edge, query)

    assert name == "next"
    assert body["errors"][0]["extensions"]["code"] == code
    assert "data" not in body
    assert last == ("complete", None)


async def test_a_malformed_request_is_400_and_no_stream(edge: Edge) -> None:
    headers = EVENTS | {"Content-Type": "application/json"}
    response = await edge.http.post("/graphql", content=b"[", headers=headers)

    assert response.status_code == 400
    assert response.json()["errors"][0]["extensions"]["code"] == "BAD_USER_INPUT"


async def test_clients_that_accept_everything_get_events_for_subscriptions_alone(
    edge: Edge,
) -> None:
    accept = {"Accept": "application/graphql-response+json, application/json, text/event-stream"}
    query = await edge.post("{ hello }", headers=accept)
    subscription = await edge.post("subscription { count(to: 1) }", headers=accept)

    assert query.headers["content-type"].startswith("application/graphql-response+json")
    assert _events(subscription.text)[-1] == ("complete", None)


async def test_a_silent_stream_has_heartbeats(edge: Edge, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(event_stream, "HEARTBEAT_SECONDS", 0.02)
    streaming = asyncio.create_task(_post(edge, WAIT))
    await wait_until(lambda: edge.record.started == ["wait"], "the subscription runs")
    began = time.monotonic()
    await wait_until(lambda: time.monotonic() > began + 0.2, "some heartbeats are due")
    edge.record.gate.set()
    events = await streaming

    assert events.count(("", None)) >= 2
    assert [event for event in events if event[0]] == [
        ("next", {"data": {"count": 0}}),
        ("next", {"data": {"count": 1}}),
        ("complete", None),
    ]


async def test_a_session_that_ran_out_ends_with_an_error_and_without_complete() -> None:
    async with running_edge(socket_grace_seconds=0.3) as edge:
        edge.http.headers["Authorization"] = f"Bearer ada:{time.time()}"
        events = await _post(edge, WAIT)

    assert [name for name, _ in events] == ["next", "next"]
    assert events[-1][1]["errors"][0]["extensions"]["code"] == "UNAUTHENTICATED"
    assert edge.record.ended == ["wait"]


async def test_leaving_ends_the_subscription(edge: Edge) -> None:
    request = edge.http.build_request("POST", "/graphql", json={"query": WAIT}, headers=EVENTS)
    response = await edge.http.send(request, stream=True)
    await wait_until(lambda: edge.record.started == ["wait"], "the subscription runs")
    await response.aclose()

    await wait_until(lambda: edge.record.ended == ["wait"], "the subscription has ended")


async def test_the_stop_ends_streams_at_once_and_without_complete() -> None:
    async with httpx.AsyncClient(trust_env=False) as client:
        async with running_edge() as edge:
            headers = EVENTS | {"Authorization": "Bearer ada"}
            url = f"{edge.address}/graphql"
            request = client.build_request("POST", url, json={"query": WAIT}, headers=headers)
            response = await client.send(request, stream=True)
            await wait_until(lambda: edge.record.started == ["wait"], "the subscription runs")
            reading = asyncio.create_task(response.aread())
            began = time.monotonic()
        text = (await reading).decode()

    assert _events(text) == [("next", {"data": {"count": 0}})]
    assert time.monotonic() - began < 2
    assert edge.record.ended == ["wait"]
