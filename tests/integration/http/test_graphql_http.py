"""GraphQL over HTTP on a real socket: media types, statuses, and every malformed request."""

import asyncio
import json
from collections.abc import AsyncIterator
from uuid import uuid4

import httpx
import pytest
import pytest_asyncio

from tests.support.edge import Edge, running_edge

pytestmark = pytest.mark.asyncio(loop_scope="module")

GRAPHQL = "application/graphql-response+json"
JSON = "application/json"


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def shared_edge() -> AsyncIterator[Edge]:
    async with running_edge() as edge:
        yield edge


@pytest.fixture
def edge(shared_edge: Edge) -> Edge:
    return shared_edge.forget()


def _media_type(response: object) -> str:
    return str(response.headers["content-type"]).partition(";")[0]  # type: ignore[attr-defined]


def _code(body: dict[str, list[dict[str, dict[str, str]]]]) -> str:
    return body["errors"][0]["extensions"]["code"]


@pytest.mark.parametrize(
    ("accept", "expected"),
    [
        ("*/*", JSON),
        (JSON, JSON),
        (GRAPHQL, GRAPHQL),
        (f"{GRAPHQL}, {JSON};q=0.9", GRAPHQL),
        (f"{JSON}, {GRAPHQL};q=0.5", JSON),
        (f"{GRAPHQL};q=0, {JSON}", JSON),
        (
            f"{GRAPHQL}, application/graphql+json, {JSON}, text/event-stream, multipart/mixed",
            GRAPHQL,
        ),
        ("text/html", JSON),
        (";;q=x,,", JSON),
    ],
)
async def test_the_answer_has_the_type_that_is_accepted(
    edge: Edge, accept: str, expected: str
) -> None:
    response = await edge.post("{ hello }", headers={"Accept": accept})

    assert response.status_code == 200
    assert _media_type(response) == expected
    assert response.json() == {"data": {"hello": "hello world"}}


@pytest.mark.parametrize(
    ("request_body", "code"),
    [
        ({"query": "{"}, "GRAPHQL_PARSE_FAILED"),
        ({"query": ""}, "GRAPHQL_PARSE_FAILED"),
        ({"query": "{ nothing }"}, "GRAPHQL_VALIDATION_FAILED"),
        ({"query": "{ helo }"}, "GRAPHQL_VALIDATION_FAILED"),
        ({"query": '{ item(id: "1") { id } }'}, "BAD_USER_INPUT"),
        ({"query": "{ item(id: 1) { id } }"}, "BAD_USER_INPUT"),
        (
            {"query": "query($id: UUID!) { item(id: $id) { id } }", "variables": {"id": "1"}},
            "BAD_USER_INPUT",
        ),
        ({"query": "query($id: UUID!) { item(id: $id) { id } }"}, "BAD_USER_INPUT"),
        ({"query": "query A { hello } query B { hello }"}, "BAD_USER_INPUT"),
        ({"query": "query A { hello }", "operationName": "B"}, "BAD_USER_INPUT"),
        ({"query": "subscription { count(to: 1) }"}, "BAD_USER_INPUT"),
        (
            {
                "query": 'mutation($f: Upload!) { upload(input: {label: "x", file: $f}) }',
                "variables": {"f": "file.pdf"},
            },
            "BAD_USER_INPUT",
        ),
        (
            {
                "query": 'mutation($f: Upload!) { upload(input: {label: "x", file: $f}) }',
                "variables": {"f": {"filename": "x", "chunks": []}},
            },
            "BAD_USER_INPUT",
        ),
        (
            {"query": 'mutation { upload(input: {label: "x", file: "y"}) }'},
            "BAD_USER_INPUT",
        ),
    ],
)
async def test_a_refused_operation_is_400_in_the_strict_type_and_200_in_plain_json(
    edge: Edge, request_body: dict[str, object], code: str
) -> None:
    for accept, status in ((GRAPHQL, 400), (JSON, 200)):
        response = await edge.http.post("/graphql", json=request_body, headers={"Accept": accept})

        assert response.status_code == status
        assert _media_type(response) == accept
        assert "data" not in response.json()
        assert _code(response.json()) == code
    assert edge.record.stored == {}


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"{",
        b"[]",
        b"1",
        b"null",
        b'"{ hello }"',
        b'{"query": "{ hello }"',
        b'[{"query": "mutation { note(text: 1) }"}]',
        b"{}",
        b'{"query": null}',
        b'{"query": 1}',
        b'{"query": ["{ hello }"]}',
        b'{"query": "{ hello }", "variables": []}',
        b'{"query": "{ hello }", "variables": "x"}',
        b'{"query": "{ hello }", "extensions": 1}',
        b'{"query": "{ hello }", "operationName": 1}',
        b'{"query": "{ hello }", "variables": {"a": NaN}}',
        b'{"query": "{ hello }", "variables": {"a": "\\ud800"}}',
        b'{"query": "{ hell\xff }"}',
        b"[" * 100_000,
        b'{"query": "{ hello }", "variables": ' + b'{"a":' * 5000 + b"1" + b"}" * 5001,
    ],
)
async def test_a_malformed_request_is_400_in_both_types(edge: Edge, content: bytes) -> None:
    for accept in (GRAPHQL, JSON):
        headers = {"Accept": accept, "Content-Type": JSON}
        response = await edge.http.post("/graphql", content=content, headers=headers)

        assert response.status_code == 400
        assert _media_type(response) == accept
        assert _code(response.json()) == "BAD_USER_INPUT"


async def test_huge_integers_are_bad_input_and_no_crash(edge: Edge) -> None:
    content = b'{"query": "query($n: String!) { hello(name: $n) }", "variables": {"n": 1%s}}'
    headers = {"Content-Type": JSON, "Accept": GRAPHQL}

    response = await edge.http.post("/graphql", content=content % (b"0" * 300), headers=headers)

    assert response.status_code == 400
    assert _code(response.json()) == "BAD_USER_INPUT"


@pytest.mark.parametrize(
    "content_type",
    [None, "text/plain", "application/x-www-form-urlencoded", "application/json; charset=latin-1"],
)
async def test_other_bodies_are_415(edge: Edge, content_type: str | None) -> None:
    headers = {"Content-Type": content_type} if content_type else {}

    response = await edge.http.post(
        "/graphql", content=b'{"query": "mutation { note(text: \\"x\\") }"}', headers=headers
    )

    assert response.status_code == 415
    assert _code(response.json()) == "BAD_USER_INPUT"
    assert edge.record.mutations == []


@pytest.mark.parametrize(
    "headers",
    [
        {"Content-Type": "Application/JSON; charset=UTF-8"},
        {"Content-Type": "application/json;charset=utf8"},
        {"Content-Type": "application/json; charset='utf-8'"},
        {"Content-Type": 'application/json; charset="us-ascii"'},
        {"Content-Type": 'application/json; profile="charset=latin1"'},
        {"Content-Type": "application/json;"},
        {"Content-Type": JSON, "Content-Encoding": ""},
        {"Content-Type": JSON, "Content-Encoding": "Identity"},
    ],
)
async def test_utf_8_has_many_names(edge: Edge, headers: dict[str, str]) -> None:
    for mark in (b"", b"\xef\xbb\xbf"):
        content = mark + b'{"query":"{hello}"}'
        response = await edge.http.post("/graphql", content=content, headers=headers)

        assert response.json() == {"data": {"hello": "hello world"}}


async def test_a_body_over_one_mebibyte_is_413(edge: Edge) -> None:
    padding = "x" * (1024 * 1024)
    declared = await edge.post("mutation { note(text: 1) }", variables={"p": padding})

    async def undeclared() -> AsyncIterator[bytes]:
        yield b'{"query": "mutation { note(text: \\"x\\") }", "variables": {"p": "'
        for _ in range(40):
            yield b"x" * 65536

    streamed = await edge.http.post(
        "/graphql", content=undeclared(), headers={"Content-Type": JSON, "Accept": GRAPHQL}
    )

    for response in (declared, streamed):
        assert response.status_code == 413
        assert _code(response.json()) == "PAYLOAD_TOO_LARGE"
    assert edge.record.mutations == []


async def test_a_body_just_below_the_limit_passes(edge: Edge) -> None:
    response = await edge.post("{ hello }", variables={"p": "x" * (1024 * 1024 - 100)})

    assert response.json() == {"data": {"hello": "hello world"}}


@pytest.mark.parametrize(
    ("value", "passes"),
    [
        ([[0] * 4999, [0] * 4998], True),  # with the two lists and the variable: 10,000
        ([[0] * 4999, [0] * 4999], False),
        ({str(number): 1 for number in range(60_000)}, False),
        ([{"a": {"b": []}}] * 4000, False),
    ],
    ids=["just enough", "one more", "unknown keys", "nested"],
)
async def test_variables_hold_ten_thousand_values(edge: Edge, value: object, passes: bool) -> None:
    query = "mutation($n: String!) { note(text: $n) }"
    body = (await edge.post(query, variables={"n": value})).json()

    assert _code(body) == "BAD_USER_INPUT"
    assert ("values" in body["errors"][0]["message"]) is not passes
    assert edge.record.mutations == []


@pytest.mark.parametrize("method", ["GET", "HEAD", "PUT", "DELETE", "PATCH"])
async def test_other_methods_are_405(edge: Edge, method: str) -> None:
    path = "/graphql" if method == "GET" else "/graphql?query={hello}"
    response = await edge.http.request(method, path)

    assert response.status_code == 405
    assert response.headers["allow"] == "GET, POST"


QUERY = "query A($n: String!) { hello(name: $n) }"
ADA = json.dumps({"n": "Ada"})


@pytest.mark.parametrize(
    "parameters",
    [
        {"query": QUERY, "variables": ADA},
        {"query": QUERY, "variables": ADA, "operationName": "A", "extensions": "{}"},
        {"query": QUERY, "variables": ADA, "operationName": "", "extensions": "", "x": "y"},
    ],
)
async def test_queries_come_in_urls_too(edge: Edge, parameters: dict[str, str]) -> None:
    for accept in (JSON, GRAPHQL):
        response = await edge.http.get("/graphql", params=parameters, headers={"Accept": accept})

        assert response.json() == {"data": {"hello": "hello Ada"}}
        assert _media_type(response) == accept
        assert response.headers["cache-control"] == "no-store"
        assert "connection" not in response.headers


@pytest.mark.parametrize(
    ("parameters", "status", "code"),
    [
        ({"query": 'mutation { note(text: "x") }'}, 405, "BAD_USER_INPUT"),
        ({"query": 'query A { hello } mutation B { note(text: "x") }'}, 400, "BAD_USER_INPUT"),
        ({"query": "subscription { count(to: 1) }"}, 400, "BAD_USER_INPUT"),
        ({"query": "{"}, 400, "GRAPHQL_PARSE_FAILED"),
        ({"query": ""}, 400, "BAD_USER_INPUT"),
        ({"query": "{ hello }", "variables": "{"}, 400, "BAD_USER_INPUT"),
        ({"query": "{ hello }", "variables": "[]"}, 400, "BAD_USER_INPUT"),
        ({"query": "{ hello }", "variables": "[" * 20_000}, 400, "BAD_USER_INPUT"),
        ({"query": "{" + " hello" * 2000 + "}"}, 400, "GRAPHQL_VALIDATION_FAILED"),
        ({"extensions": "{}"}, 400, "BAD_USER_INPUT"),
    ],
)
async def test_a_url_runs_nothing_but_good_queries(
    edge: Edge, parameters: dict[str, str], status: int, code: str
) -> None:
    response = await edge.http.get("/graphql", params=parameters, headers={"Accept": GRAPHQL})

    assert (response.status_code, _code(response.json())) == (status, code)
    assert response.headers.get("allow") == ("GET, POST" if status == 405 else None)
    assert edge.record.mutations == []
    assert edge.record.started == []


async def test_a_subscription_in_a_url_is_a_stream_where_that_is_accepted(edge: Edge) -> None:
    parameters = {"query": "subscription { count(to: 1) }"}
    events = {"Accept": "text/event-stream"}
    response = await edge.http.get("/graphql", params=parameters, headers=events)

    assert response.text.startswith('event: next\ndata: {"data":{"count":0}}')


@pytest.mark.parametrize(
    ("query", "variables", "problems"),
    [
        ("query($id: UUID!) { item(id: $id) { id } }", {"id": "1"}, [["id"]]),
        ("query($id: UUID!) { item(id: $id) { id } }", {}, [["id"]]),
        ("query($id: UUID!) { item(id: $id) { id } }", {"id": None}, [["id"]]),
        (
            "mutation($i: UploadInput!, $n: String!) { upload(input: $i) note(text: $n) }",
            {"i": {"label": 1, "file": "x", "more": 2}},
            [["i", "label"], ["i", "file"], ["i", "more"], ["n"]],
        ),
        (
            "mutation($i: UploadInput!) { upload(input: $i) }",
            {"i": {"label": "x"}},
            [["i", "file"]],
        ),
        ('query($n: String = "x") { hello(name: $n) }', {"n": ["y"]}, [["n"]]),
        ("query($n: String, $m: String) { hello(name: $n) a: hello(name: $m) }", {"m": 1}, [["m"]]),
    ],
)
async def test_each_error_of_a_variable_tells_where_its_problem_is(
    edge: Edge, query: str, variables: dict[str, object], problems: list[list[object]]
) -> None:
    body = (await edge.post(query, variables=variables)).json()

    told = [problem for error in body["errors"] for problem in error["extensions"]["problems"]]
    assert [problem["path"] for problem in told] == problems
    for error, problem in zip(body["errors"], told, strict=True):
        assert problem["message"]
        assert problem["message"] in error["message"]
    assert edge.record.mutations == []


@pytest.mark.parametrize(
    ("query", "problems"),
    [
        ('{ item(id: "no") { id } }', [["id"]]),
        ("{ a: item(id: 1) { id } b: hello(name: 2) }", [["id"], ["name"]]),
        ("query($n: String = 1) { hello(name: $n) }", [["n"]]),
        (
            "mutation { upload(input: {label: 1, more: 2}) }",
            [["input", "label"], ["input", "file"], ["input", "more"]],
        ),
        ("mutation { upload(input: []) }", [["input"]]),
    ],
)
async def test_each_error_of_a_value_in_the_document_tells_so_too(
    edge: Edge, query: str, problems: list[list[object]]
) -> None:
    errors = (await edge.post(query)).json()["errors"]

    told = [problem for error in errors for problem in error["extensions"].get("problems", ())]
    assert sorted(problem["path"] for problem in told) == sorted(problems)
    assert all(problem["message"] in {error["message"] for error in errors} for problem in told)
    assert edge.record.mutations == []


async def test_other_errors_have_no_problems(edge: Edge) -> None:
    errors = (await edge.post("{ forbidden limited missing }")).json()["errors"]

    assert not any("problems" in error["extensions"] for error in errors)


async def test_graphiql_is_for_browsers_only() -> None:
    async with running_edge(graphiql="<title>GraphiQL</title>") as edge:
        browser = "text/html,application/xhtml+xml,*/*;q=0.8"
        page = await edge.http.get("/graphql", headers={"Accept": browser})
        other = await edge.http.get("/graphql", headers={"Accept": "*/*"})

    assert page.status_code == 200
    assert page.headers["content-type"].startswith("text/html")
    assert page.text == "<title>GraphiQL</title>"
    assert other.status_code == 405
    assert other.headers["allow"] == "GET, POST"


async def test_a_request_without_a_viewer_is_401(edge: Edge) -> None:
    async with httpx.AsyncClient(base_url=edge.address, trust_env=False) as client:
        response = await client.post("/graphql", json={"query": 'mutation { note(text: "x") }'})

    assert response.status_code == 401
    assert _code(response.json()) == "UNAUTHENTICATED"
    assert edge.record.mutations == []


async def test_domain_errors_keep_their_code_and_others_are_masked(
    edge: Edge, capfd: pytest.CaptureFixture[str]
) -> None:
    query = "{ hello missing forbidden limited broken brokenStorage huge }"
    response = await edge.post(query, headers={"Accept": GRAPHQL})

    assert response.status_code == 200
    body = response.json()
    assert body["data"]["hello"] == "hello world"
    errors = {error["path"][0]: error for error in body["errors"]}
    assert errors["missing"]["message"] == "There is no such lecture."
    codes = {name: error["extensions"]["code"] for name, error in errors.items()}
    assert codes == {
        "missing": "NOT_FOUND",
        "forbidden": "FORBIDDEN",
        "limited": "RATE_LIMITED",
        "broken": "INTERNAL_SERVER_ERROR",
        "brokenStorage": "INTERNAL_SERVER_ERROR",
        "huge": "INTERNAL_SERVER_ERROR",
    }
    assert errors["limited"]["extensions"]["retryAfterSeconds"] == 7
    for name in ("broken", "brokenStorage", "huge"):
        assert errors[name]["message"] == "Internal server error."
        assert errors[name]["extensions"]["requestId"] == "request-1"
    assert "secret" not in response.text
    assert "KeyError" in "".join(capfd.readouterr())  # where logs go is another test's choice


async def test_scalars_go_out_and_come_in(edge: Edge) -> None:
    item_id = uuid4()
    response = await edge.post(
        "query($id: UUID!) { item(id: $id) { id size at } }",
        variables={"id": str(item_id).upper()},
    )

    expected = {"id": str(item_id), "size": 2**40, "at": "2026-11-01T12:00:00Z"}
    assert response.json() == {"data": {"item": expected}}


async def test_introspection_is_a_setting() -> None:
    async with running_edge(introspection=False) as edge:
        refused = await edge.post("{ __schema { queryType { name } } }")
        by_name = await edge.post("{ __typename }")

    assert _code(refused.json()) == "GRAPHQL_VALIDATION_FAILED"
    assert by_name.json() == {"data": {"__typename": "Query"}}


async def test_a_long_literal_does_not_come_back_whole(edge: Edge) -> None:
    response = await edge.post('{ hello(name: ["' + "x" * 100_000 + '"]) }')

    assert len(response.content) < 3000


async def test_the_stop_lets_a_request_finish() -> None:
    """A request whose body arrives only after the stop has begun still gets its answer."""
    async with running_edge() as edge:
        host, port = edge.address.removeprefix("http://").split(":")
        reader, writer = await asyncio.open_connection(host, int(port))
        body = json.dumps({"query": 'mutation { note(text: "late") }'}).encode()
        head = (
            f"POST /graphql HTTP/1.1\r\nHost: {host}\r\nAuthorization: Bearer ada\r\n"
            f"Content-Type: application/json\r\nContent-Length: {len(body)}\r\n\r\n"
        )
        writer.write(head.encode() + body[:5])
        await writer.drain()
        assert (await edge.post("{ hello }")).status_code == 200

        async def finish_late() -> bytes:
            # The listener is closed first, so its refusal shows that the stop has begun.
            while True:
                try:
                    _, other = await asyncio.open_connection(host, int(port))
                except OSError:
                    break
                other.close()
                await asyncio.sleep(0)
            writer.write(body[5:])
            answer = await reader.read()
            writer.close()
            return answer

        late = asyncio.create_task(finish_late())
    answer = await late

    assert answer.startswith(b"HTTP/1.1 200")
    assert edge.record.mutations == ["late"]
