"""graphql-transport-ws on a real socket: every close code, and operations that fail alone."""

import asyncio
import json
import time
from collections.abc import AsyncIterator

import pytest
import pytest_asyncio

from app.http.edge import user_connections
from app.http.graphql import socket as graphql_socket
from tests.support.edge import Edge, running_edge
from tests.support.graphql_ws import open_socket
from tests.support.wait import wait_until

pytestmark = pytest.mark.asyncio(loop_scope="module")

COUNT = "subscription($to: Int!) { count(to: $to) }"
INIT = {"type": "connection_init", "payload": {"Authorization": "Bearer ada"}}
WAIT = 'subscription { count(to: 0, name: "wait") }'


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def shared_edge() -> AsyncIterator[Edge]:
    async with running_edge() as edge:
        yield edge


@pytest.fixture
def edge(shared_edge: Edge) -> Edge:
    return shared_edge.forget()


async def test_a_subscription_streams_and_completes(edge: Edge) -> None:
    async with open_socket(edge.address) as client:
        assert await client.init("ada") == {"type": "connection_ack"}
        await client.subscribe(COUNT, {"to": 3})

        for number in range(3):
            assert await client.next() == {"data": {"count": number}}
        assert await client.receive() == {"id": "1", "type": "complete"}
    assert edge.record.ended == ["count"]


async def test_queries_and_mutations_run_too(edge: Edge) -> None:
    async with open_socket(edge.address) as client:
        await client.init("ada")
        await client.subscribe('mutation { note(text: "x") }')
        assert await client.next() == {"data": {"note": "x"}}
        assert (await client.receive())["type"] == "complete"
        await client.subscribe("{ hello missing }")
        partial = await client.next()
        assert (await client.receive())["type"] == "complete"

    assert edge.record.mutations == ["x"]
    assert partial["data"] == {"hello": "hello world", "missing": None}
    assert partial["errors"][0]["extensions"] == {"code": "NOT_FOUND"}


@pytest.mark.parametrize(
    ("query", "variables", "code"),
    [
        ("", None, "GRAPHQL_PARSE_FAILED"),
        ("{", None, "GRAPHQL_PARSE_FAILED"),
        ("{ nothing }", None, "GRAPHQL_VALIDATION_FAILED"),
        ("subscription { count(to: 1) lost }", None, "GRAPHQL_VALIDATION_FAILED"),
        (COUNT, {}, "BAD_USER_INPUT"),
        (COUNT, {"to": "x"}, "BAD_USER_INPUT"),
        ("query A { hello } query B { hello }", None, "BAD_USER_INPUT"),
        ("subscription { lost }", None, "NOT_FOUND"),
        ("fragment a on Query { ...a } { ...a }", None, "GRAPHQL_VALIDATION_FAILED"),
    ],
)
async def test_an_operations_own_error_leaves_the_socket_alive(
    edge: Edge, query: str, variables: dict[str, object] | None, code: str
) -> None:
    async with open_socket(edge.address) as client:
        await client.init("ada")
        await client.subscribe(query, variables)
        message = await client.receive()
        await client.subscribe("{ hello }")
        alive = await client.next()

    assert message["type"] == "error"
    assert message["id"] == "1"
    assert message["payload"][0]["extensions"]["code"] == code
    assert alive == {"data": {"hello": "hello world"}}


async def test_a_source_that_fails_later_ends_its_operation_alone(edge: Edge) -> None:
    async with open_socket(edge.address) as client:
        await client.init("ada")
        await client.subscribe("subscription { crash }")
        assert await client.next() == {"data": {"crash": 0}}
        failed = await client.receive()
        await client.ping()
        alive = await client.receive()

    assert failed["type"] == "error"
    assert failed["payload"][0]["message"] == "Internal server error."
    assert failed["payload"][0]["extensions"]["code"] == "INTERNAL_SERVER_ERROR"
    assert failed["payload"][0]["extensions"]["requestId"]
    assert alive == {"type": "pong"}


@pytest.mark.parametrize(
    "frame",
    [
        "",
        "{",
        "[]",
        "1",
        "null",
        '"ping"',
        "{}",
        '{"type": 1}',
        '{"type": []}',
        '{"type": "connection_ack"}',
        '{"type": "nothing"}',
        '{"type": "ping", "payload": 1}',
        '{"type": "pong", "payload": []}',
        '{"type": "complete"}',
        '{"type": "complete", "id": 1}',
        '{"type": "subscribe"}',
        '{"type": "subscribe", "id": "1"}',
        '{"type": "subscribe", "id": "1", "payload": []}',
        '{"type": "subscribe", "id": "1", "payload": {}}',
        '{"type": "subscribe", "id": "1", "payload": {"query": 1}}',
        '{"type": "subscribe", "id": 1, "payload": {"query": "{hello}"}}',
        '{"type": "subscribe", "id": "", "payload": {"query": "{hello}"}}',
        '{"type": "subscribe", "id": "1", "payload": {"query": "{hello}", "variables": []}}',
        '{"type": "subscribe", "id": "1", "payload": {"query": "{hello}", "operationName": 1}}',
        '{"type": "ping", "payload": {"a": NaN}}',
        '{"type": "ping", "payload": {"a": "\\ud800"}}',
        b'{"type": "ping"}',
        b"\xff\xfe",
        "[" * 60_000,
        '{"a":' * 10_000 + "1" + "}" * 10_000,
    ],
)
@pytest.mark.parametrize("ready", [True, False])
async def test_a_malformed_frame_closes_with_4400(
    edge: Edge, frame: str | bytes, ready: bool
) -> None:
    async with open_socket(edge.address) as client:
        if ready:
            await client.init("ada")
        await client.send_raw(frame)

        assert await client.close_code() == 4400


async def test_text_that_is_not_utf8_closes_with_4400(
    edge: Edge, capfd: pytest.CaptureFixture[str]
) -> None:
    async with open_socket(edge.address) as client:
        await client._connection.send(b"\xff{}", text=True)

        assert await client.close_code() == 4400
    assert "Traceback" not in "".join(capfd.readouterr())


async def test_a_frame_over_64_kib_closes_with_1009(edge: Edge) -> None:
    async with open_socket(edge.address) as client:
        await client.init("ada")
        await client.send_raw(json.dumps({"type": "ping", "payload": {"a": "x" * 65536}}))

        assert await client.close_code() == 1009


@pytest.mark.parametrize("subprotocol", [None, "graphql-ws"])
async def test_another_subprotocol_closes_with_4406(edge: Edge, subprotocol: str | None) -> None:
    async with open_socket(edge.address, subprotocol=subprotocol) as client:
        assert await client.close_code() == 4406


async def test_no_init_in_time_closes_with_4408(
    edge: Edge, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(graphql_socket, "INIT_SECONDS", 0.05)
    async with open_socket(edge.address) as client:
        assert await client.close_code() == 4408


@pytest.mark.parametrize(
    "payload",
    [
        None,
        {},
        {"Authorization": "Bearer mallory"},
        {"Authorization": "ada"},
        {"Authorization": "Basic ada"},
        {"Authorization": "Bearer "},
        {"Authorization": None},
        {"Authorization": ["Bearer ada"]},
        {"Authorization": "Bearer ada", "authorization": "Bearer ada"},
    ],
)
async def test_an_init_without_a_good_token_closes_with_4401(
    edge: Edge, payload: dict[str, object] | None
) -> None:
    async with open_socket(edge.address) as client:
        await client.send({"type": "connection_init", "payload": payload})

        assert await client.close_code() == 4401


async def test_the_header_is_named_in_any_case(edge: Edge) -> None:
    async with open_socket(edge.address) as client:
        assert await client.init(payload={"AUTHORIZATION": "bearer ada"})


async def test_the_cookie_serves_pages_of_this_service_and_of_allowed_origins() -> None:
    async with running_edge(allowed_origins="https://app.example.org") as edge:
        cookie = {"Cookie": "a=b; __session=ada"}
        own = edge.address
        for origin in (own, "https://app.example.org"):
            async with open_socket(edge.address, headers=cookie, origin=origin) as client:
                assert await client.init() == {"type": "connection_ack"}
        foreign = ("https://evil.example.org", "null", "http://127.0.0.1:1", "x", "http://[", None)
        for origin in foreign:
            async with open_socket(edge.address, headers=cookie, origin=origin) as client:
                await client.send({"type": "connection_init"})
                assert await client.close_code() == 4401


async def test_of_two_cookies_the_first_counts_as_it_does_over_http(edge: Edge) -> None:
    for cookie, acknowledged in (("ada", True), ("mallory", False)):
        header = {"Cookie": f"__session={cookie}; __session=ada"}
        async with open_socket(edge.address, headers=header, origin=edge.address) as client:
            await client.send({"type": "connection_init"})
            if acknowledged:
                assert await client.receive() == {"type": "connection_ack"}
            else:
                assert await client.close_code() == 4401


async def test_a_bearer_token_needs_no_origin_and_a_bad_one_is_not_saved_by_a_cookie(
    edge: Edge,
) -> None:
    foreign = "https://evil.example.org"
    async with open_socket(edge.address, origin=foreign) as client:
        assert await client.init("ada") == {"type": "connection_ack"}
    cookie = {"Cookie": "__session=ada"}
    async with open_socket(edge.address, headers=cookie, origin=edge.address) as client:
        await client.send({"type": "connection_init", "payload": {"authorization": "Bearer "}})
        assert await client.close_code() == 4401


async def test_the_handshakes_header_counts_where_the_init_has_no_token(edge: Edge) -> None:
    cookie = {"Cookie": "__session=ada"}
    for header, answer in (("Bearer ada", True), ("Bearer mallory", False), ("Basic ada", False)):
        headers = cookie | {"Authorization": header}
        async with open_socket(edge.address, headers=headers, origin=edge.address) as client:
            await client.send({"type": "connection_init"})
            if answer:
                assert await client.receive() == {"type": "connection_ack"}
            else:
                assert await client.close_code() == 4401


async def test_a_second_init_closes_with_4429(edge: Edge) -> None:
    async with open_socket(edge.address) as client:
        await client.init("ada")
        await client.send({"type": "connection_init"})

        assert await client.close_code() == 4429


async def test_a_user_has_so_many_sockets_and_streams_and_no_more(
    edge: Edge, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(user_connections, "MAX_CONNECTIONS", 2)
    events = {"Accept": "text/event-stream"}
    async with open_socket(edge.address) as first, open_socket(edge.address) as second:
        await first.init("ada")
        await second.init("ada")
        async with open_socket(edge.address) as third:
            await third.send(INIT)
            assert await third.close_code() == 1013  # graphql-ws gives up at 4429
        stream = await edge.post(WAIT, headers=events)
        assert (stream.status_code, edge.record.started) == (429, [])
        assert int(stream.headers["Retry-After"]) > 0
        assert stream.json()["errors"][0]["extensions"]["code"] == "RATE_LIMITED"
        assert (await edge.post("{ hello }")).status_code == 200
        async with open_socket(edge.address) as another:
            assert await another.init("bob") == {"type": "connection_ack"}

    async def streams() -> bool:
        response = await edge.post(COUNT, variables={"to": 1}, headers=events)
        return response.status_code == 200

    await wait_until(streams, "the sockets are forgotten")
    async with open_socket(edge.address) as later:
        assert await later.init("ada") == {"type": "connection_ack"}


async def test_an_operation_before_the_init_closes_with_4401(edge: Edge) -> None:
    async with open_socket(edge.address) as client:
        await client.subscribe('mutation { note(text: "x") }')

        assert await client.close_code() == 4401
    assert edge.record.mutations == []


async def test_an_id_in_use_closes_with_4409(edge: Edge) -> None:
    async with open_socket(edge.address) as client:
        await client.init("ada")
        await client.subscribe(WAIT)
        await client.subscribe(WAIT)

        assert await client.close_code() == 4409
    await wait_until(
        lambda: len(edge.record.ended) == len(edge.record.started), "nothing outlives the socket"
    )


async def test_an_id_is_free_after_complete(edge: Edge) -> None:
    async with open_socket(edge.address) as client:
        await client.init("ada")
        for _ in range(30):
            await client.subscribe(WAIT)
            await client.complete()
        await client.complete("unknown")
        await client.subscribe("{ hello }")

        assert await client.next() == {"data": {"hello": "hello world"}}


async def test_the_twenty_first_operation_is_refused_and_the_others_live(edge: Edge) -> None:
    async with open_socket(edge.address) as client:
        await client.init("ada")
        for number in range(21):
            await client.subscribe(WAIT, operation_id=str(number))
        refused = await client.receive()
        await wait_until(lambda: len(edge.record.started) == 20, "the others have started")
        await client.complete("3")
        await client.subscribe("{ hello }", operation_id="20")
        assert await client.next("20") == {"data": {"hello": "hello world"}}

    assert refused["id"] == "20"
    assert refused["type"] == "error"
    assert refused["payload"][0]["extensions"]["code"] == "BAD_USER_INPUT"


async def test_leaving_ends_every_subscription(edge: Edge) -> None:
    async with open_socket(edge.address) as client:
        await client.init("ada")
        for number in range(5):
            await client.subscribe(WAIT, operation_id=str(number))
        await wait_until(lambda: len(edge.record.started) == 5, "all have started")
    await wait_until(lambda: len(edge.record.ended) == 5, "all have ended")


async def test_a_session_that_ran_out_closes_with_4403(edge: Edge) -> None:
    async with running_edge(socket_grace_seconds=0.3) as edge, open_socket(edge.address) as client:
        await client.init(f"ada:{time.time()}")
        await client.subscribe(WAIT)

        assert await client.close_code() == 4403
        await wait_until(lambda: edge.record.ended == ["wait"], "the subscription has ended")


async def test_a_ping_renews_the_session(edge: Edge) -> None:
    async with running_edge(socket_grace_seconds=0.5) as edge, open_socket(edge.address) as client:
        began = time.time()
        await client.init(f"ada:{began}")
        await client.subscribe(WAIT)
        await client.ping(f"ada:{began + 3600}")
        assert await client.receive() == {"type": "pong"}
        await wait_until(lambda: time.time() > began + 0.8, "the first token has run out")
        await client.subscribe("{ me }", operation_id="2")
        assert await client.next("2") == {"data": {"me": "ada"}}
        assert (await client.receive())["type"] == "complete"
        edge.record.gate.set()

        assert await client.next() == {"data": {"count": 0}}
    assert edge.record.viewers[-1].expires_at == began + 3600


@pytest.mark.parametrize("token", ["mallory", "bob"])
async def test_a_ping_with_another_users_or_a_bad_token_closes_with_4401(
    edge: Edge, token: str
) -> None:
    async with open_socket(edge.address) as client:
        await client.init("ada")
        await client.ping(token)

        assert await client.close_code() == 4401


async def test_the_stop_closes_with_1012_at_once() -> None:
    async with running_edge() as edge:
        client_context = open_socket(edge.address)
        client = await client_context.__aenter__()
        await client.init("ada")
        await client.subscribe(WAIT)
        await wait_until(lambda: edge.record.started == ["wait"], "the subscription runs")
        began = time.monotonic()
        closing = asyncio.create_task(client.close_code())
    assert await closing == 1012
    assert time.monotonic() - began < 2
    assert edge.record.ended == ["wait"]
    await client_context.__aexit__(None, None, None)
