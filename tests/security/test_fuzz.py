"""Generated requests against the live service: whatever comes, no 5xx and no traceback.

FUZZ_CASES=2000 runs the long form; the short one is part of every run.
"""

import asyncio
import json
import os
from collections.abc import Awaitable, Callable
from typing import Any

import httpx
import hypothesis.strategies as st
import pytest
from hypothesis import HealthCheck, Phase, given, settings

from app.schema.root import schema as studybuddy
from tests.support.graphql_ws import open_socket
from tests.support.service import Client, Service

CASES = int(os.environ.get("FUZZ_CASES", "0"))
SDL = studybuddy.as_str()
UUIDS = st.uuids().map(str)
SCALARS = {
    "UUID": UUIDS | st.text(max_size=40),
    "DateTime": st.text(max_size=20),
    "BigInt": st.integers(),
    "Upload": st.none(),
}
JSON_VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(), inner, max_size=4),
    max_leaves=12,
)


def examples(strategy: st.SearchStrategy[Any], count: int) -> list[Any]:
    """Draw that many examples, outside of any event loop's way."""
    drawn: list[Any] = []

    @settings(
        max_examples=count,
        database=None,
        deadline=None,
        derandomize=not CASES,
        phases=[Phase.generate],
        suppress_health_check=list(HealthCheck),
    )
    @given(strategy)
    def draw(example: Any) -> None:
        drawn.append(example)

    draw()
    return drawn


Send = Callable[[Any], Awaitable[httpx.Response]]


async def send_all(cases: list[Any], send: Send, capfd: pytest.CaptureFixture[str]) -> None:
    """Send everything, a few at a time; no answer may be a fault of ours."""
    waiting = iter(cases)

    async def some() -> None:
        for case in waiting:
            response = await send(case)
            assert response.status_code < 500, (response.status_code, case)
            assert "INTERNAL_SERVER_ERROR" not in response.text, (response.text, case)
            assert response.headers["x-request-id"]

    await asyncio.gather(*(some() for _ in range(4)))
    assert "Traceback" not in capfd.readouterr().err


def headers_of(user: Client, **more: str) -> dict[str, str]:
    return {"Authorization": f"Bearer {user.token}", **more}


def as_bytes(value: object) -> bytes:
    return json.dumps(value).encode("utf-8", "surrogatepass")


async def test_documents_made_from_the_schema(
    service: Service, ada: Client, admin: Client, capfd: pytest.CaptureFixture[str]
) -> None:
    from hypothesis_graphql import from_schema  # a second to import, which few tests need

    documents = examples(from_schema(SDL, custom_scalars=_literals()), CASES or 60)

    async def send(document: str) -> httpx.Response:
        user = admin if len(document) % 2 else ada
        return await user.http.post(
            "/graphql",
            json={"query": document},
            headers=headers_of(user, accept="application/graphql-response+json"),
        )

    await send_all(documents, send, capfd)


async def test_schemathesis_finds_no_fault(
    service: Service, ada: Client, capfd: pytest.CaptureFixture[str]
) -> None:
    import schemathesis.graphql  # the same

    for name, values in _literals().items():
        schemathesis.graphql.scalar(name, values)
    loaded = schemathesis.graphql.from_file(SDL)
    operations = [found.ok() for found in loaded.get_all_operations()]
    assert {op.definition.field_name for op in operations} >= {"lectures", "uploadDocument"}
    each = max(2, (CASES or 40) // len(operations))
    cases = []
    for operation in operations:
        cases += examples(operation.as_strategy(), each)

    async def send(case: Any) -> httpx.Response:
        return await service.http.post(
            "/graphql", json={"query": case.body}, headers=headers_of(ada)
        )

    await send_all(cases, send, capfd)


async def test_bodies_of_any_shape(
    service: Service, ada: Client, capfd: pytest.CaptureFixture[str]
) -> None:
    fields = {"query": JSON_VALUES, "variables": JSON_VALUES, "operationName": JSON_VALUES}
    bodies = st.one_of(
        st.binary(max_size=200),
        JSON_VALUES.map(as_bytes),
        st.fixed_dictionaries({}, optional=fields).map(as_bytes),
        st.fixed_dictionaries(
            {"query": st.just("query ($id: ID!) { lecture(id: $id) { id } }")},
            optional={"variables": st.dictionaries(st.just("id"), JSON_VALUES)},
        ).map(as_bytes),
    )
    types = st.sampled_from(
        ["application/json", "multipart/form-data; boundary=b", "text/plain", "", "a/b;c", "\x01"]
    )

    async def send(case: tuple[bytes, str]) -> httpx.Response:
        body, kind = case
        headers = headers_of(ada, **{"content-type": kind.replace("\x01", "x")})
        return await service.http.post("/graphql", content=body, headers=headers)

    await send_all(examples(st.tuples(bodies, types), CASES or 60), send, capfd)


async def test_forms_of_any_shape(
    service: Service, ada: Client, capfd: pytest.CaptureFixture[str]
) -> None:
    operations = {
        "query": "mutation ($i: UploadDocumentInput!) { uploadDocument(input: $i) { __typename } }",
        "variables": {"i": {"courseId": str(service.course), "file": None}},
    }
    good = [as_bytes(operations), b'{"0":["variables.i.file"]}', b"%PDF-1.7"]
    part = st.tuples(
        st.sampled_from(['name="operations"', 'name="map"', 'name="0"; filename="a.pdf"'])
        | st.text(max_size=30).map(lambda text: f'name="{text}"'),
        st.sampled_from(good) | JSON_VALUES.map(as_bytes) | st.binary(max_size=60),
    )
    breaks = st.sampled_from([b"\r\n", b"\n", b"\r", b""])

    async def send(case: tuple[list[tuple[str, bytes]], bytes, bytes]) -> httpx.Response:
        parts, line, end = case
        form = b"".join(
            b"--b"
            + line
            + b"Content-Disposition: form-data; "
            + name.encode("utf-8", "replace")
            + line
            + line
            + content
            + line
            for name, content in parts
        )
        headers = headers_of(ada, **{"content-type": "multipart/form-data; boundary=b"})
        return await service.http.post("/graphql", content=form + end, headers=headers)

    ends = st.sampled_from([b"--b--\r\n", b"--b--", b"--b", b"", b"--b--\r\nmore"])
    forms = st.tuples(st.lists(part, max_size=5), breaks, ends)
    await send_all(examples(forms, CASES or 60), send, capfd)
    assert not [key for key in service.stored() if "#" in key]


async def test_paths_and_queries_of_any_shape(
    service: Service, ada: Client, capfd: pytest.CaptureFixture[str]
) -> None:
    text = st.text(max_size=30) | st.sampled_from(["..", "%00", "%2e%2e", "file", "documents"])
    paths = st.lists(text, max_size=4).map("/".join) | UUIDS.map(
        lambda found: f"api/documents/{found}/file"
    )
    queries = st.dictionaries(
        st.sampled_from(["signature", "expires", "user", "x"]), st.text(max_size=40)
    )

    async def send(case: tuple[str, dict[str, str]]) -> httpx.Response:
        path, query = case
        url = httpx.URL(service.address).copy_with(raw_path=b"/" + _ascii(path))
        return await service.http.get(url, params=query or None, headers=headers_of(ada))

    await send_all(examples(st.tuples(paths, queries), CASES or 40), send, capfd)


async def test_frames_of_any_shape(
    service: Service, ada: Client, capfd: pytest.CaptureFixture[str]
) -> None:
    kinds = st.sampled_from(["connection_init", "ping", "pong", "subscribe", "complete", "next"])
    message = st.fixed_dictionaries(
        {"type": kinds}, optional={"id": JSON_VALUES, "payload": JSON_VALUES}
    )
    frames = st.one_of(
        message.map(lambda value: json.dumps(value)),
        JSON_VALUES.map(lambda value: json.dumps(value)),
        st.binary(max_size=60),
    )
    allowed = {None, 1000, 4400, 4401, 4409, 4429}
    for sent in examples(st.lists(frames, min_size=1, max_size=4), CASES or 25):
        async with open_socket(service.address) as socket:
            assert (await socket.init(ada.token))["type"] == "connection_ack"
            for frame in [*sent, "the end"]:
                await socket.send_raw(frame)
            assert await socket.close_code() in allowed, sent
    assert "Traceback" not in capfd.readouterr().err


def _literals() -> dict[str, Any]:
    from hypothesis_graphql import nodes

    return {
        "UUID": SCALARS["UUID"].map(nodes.String),
        "DateTime": SCALARS["DateTime"].map(nodes.String),
        "BigInt": SCALARS["BigInt"].map(nodes.Int),
        "Upload": st.text(max_size=5).map(nodes.String),
    }


def _ascii(path: str) -> bytes:
    return b"".join(
        bytes([byte]) if 0x20 < byte < 0x7F and byte not in b"?#" else b"%%%02X" % byte
        for byte in path.encode("utf-8", "replace")
    )
