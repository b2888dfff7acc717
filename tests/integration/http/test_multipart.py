"""Streaming uploads on a real socket: what is stored, and that nothing is on refusal."""

import asyncio
import hashlib
import json
import resource
from collections.abc import AsyncIterator

import httpx
import pytest
import pytest_asyncio

from tests.support.edge import Edge, running_edge
from tests.support.wait import wait_until

pytestmark = pytest.mark.asyncio(loop_scope="module")

LIMIT = 8 * 1024 * 1024
QUERY = "mutation($input: UploadInput!) { upload(input: $input) }"
OPERATIONS = {"query": QUERY, "variables": {"input": {"label": "x", "file": None}}}
MAP = {"0": ["variables.input.file"]}
BOUNDARY = "boundary42"
GRAPHQL = "application/graphql-response+json"


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def shared_edge() -> AsyncIterator[Edge]:
    async with running_edge(max_upload_bytes=LIMIT) as edge:
        yield edge


@pytest.fixture
def edge(shared_edge: Edge) -> Edge:
    return shared_edge.forget()


def _field(name: str, value: object) -> bytes:
    text = value if isinstance(value, str) else json.dumps(value)
    return (
        f'--{BOUNDARY}\r\nContent-Disposition: form-data; name="{name}"\r\n\r\n{text}\r\n'.encode()
    )


def _file(
    content: bytes,
    name: str = "0",
    disposition: str | bytes = 'filename="a.pdf"',
    content_type: str = "application/pdf",
) -> bytes:
    given = disposition if isinstance(disposition, bytes) else disposition.encode()
    return (
        f'--{BOUNDARY}\r\nContent-Disposition: form-data; name="{name}"; '.encode()
        + given
        + f"\r\nContent-Type: {content_type}\r\n\r\n".encode()
        + content
        + b"\r\n"
    )


def _form(*parts: bytes, end: bytes = f"--{BOUNDARY}--\r\n".encode()) -> bytes:
    return b"".join(parts) + end


def _head(content: bytes = b"") -> bytes:
    return _field("operations", OPERATIONS) + _field("map", MAP) + content


async def _send(
    edge: Edge, content: bytes | AsyncIterator[bytes], **headers: str
) -> httpx.Response:
    form = {"Content-Type": f"multipart/form-data; boundary={BOUNDARY}", "Accept": GRAPHQL}
    return await edge.http.post("/graphql", content=content, headers=form | headers)


async def test_a_file_as_common_clients_send_it(edge: Edge) -> None:
    content = b"%PDF-" + bytes(range(256)) * 5000
    response = await edge.http.post(
        "/graphql",
        data={"operations": json.dumps(OPERATIONS), "map": json.dumps(MAP)},
        files={"0": ("Übung 1.pdf", content, "application/pdf")},
    )

    digest = hashlib.sha256(content).hexdigest()
    assert response.json() == {"data": {"upload": f"Übung 1.pdf application/pdf {digest}"}}
    assert edge.record.stored == {"Übung 1.pdf": digest}


@pytest.mark.parametrize("mark", ["", "\ufeff"])
async def test_a_form_without_a_file_is_an_operation_like_any_other(edge: Edge, mark: str) -> None:
    operations = mark + json.dumps({"query": "{ hello }"})
    sent = _form(_field("operations", operations), _field("map", {}))
    for content_type in ("multipart/form-data", "Multipart/Form-Data; charset=utf8"):
        headers = {"Content-Type": f"{content_type}; boundary={BOUNDARY}"}
        response = await _send(edge, sent, **headers)
        assert response.json() == {"data": {"hello": "hello world"}}


@pytest.mark.parametrize("size", [0, 1, 255 * 1024, 256 * 1024, 2_000_003])
@pytest.mark.parametrize("step", [1_000_000, 16_384, 997])
async def test_any_cut_of_the_stream_gives_the_same_bytes(edge: Edge, size: int, step: int) -> None:
    # Full of what looks like the start of a boundary.
    content = (b"\r\n--boundary4\r\n--\r\n" * (size // 18 + 1))[:size]
    whole = _form(_head(_file(content)))

    async def pieces() -> AsyncIterator[bytes]:
        for start in range(0, len(whole), step):
            yield whole[start : start + step]

    response = await _send(edge, pieces())

    assert response.status_code == 200, response.text
    assert edge.record.stored == {"a.pdf": hashlib.sha256(content).hexdigest()}
    assert max(edge.record.pieces, default=0) <= 2 * 1024 * 1024


async def test_byte_by_byte(edge: Edge) -> None:
    whole = _form(_head(_file(b"%PDF-\r\n--boundary4")))

    async def pieces() -> AsyncIterator[bytes]:
        for byte in whole:
            yield bytes([byte])

    assert (await _send(edge, pieces())).status_code == 200
    expected = hashlib.sha256(b"%PDF-\r\n--boundary4").hexdigest()
    assert edge.record.stored == {"a.pdf": expected}


@pytest.mark.parametrize(
    ("disposition", "expected"),
    [
        ('filename="a.pdf"', "a.pdf"),
        ("filename=a.pdf", "a.pdf"),
        ('filename="a;b.pdf"', "a;b.pdf"),
        ('filename="say \\"hi\\".pdf"', 'say "hi".pdf'),
        ('filename="say %22hi%22.pdf"', 'say "hi".pdf'),
        ('filename="a%0Ab%0D%0Ac%0D.pdf"', "a b c .pdf"),
        ('filename="a%20b%2541.pdf"', "a%20b%2541.pdf"),
        ('filename="/etc/passwd/a.pdf"', "a.pdf"),
        ('filename="../../a.pdf"', "a.pdf"),
        ('filename="C:\\\\docs\\\\a.pdf"', "a.pdf"),
        ('filename="Ümläut 講義.pdf"', "Ümläut 講義.pdf"),
        (b'filename="\xff.pdf"', "\ufffd.pdf"),
        ('filename="a\tb\x7f.pdf"', "ab.pdf"),
        ('filename="a\u202efdp.pdf"', "afdp.pdf"),
        ("filename=\"x.pdf\"; filename*=UTF-8''%E8%AC%9B.pdf", "講.pdf"),
        ("filename*=utf-8'de'a%2Fb.pdf; filename=\"x.pdf\"", "b.pdf"),
        ("filename=\"x; filename*=UTF-8''evil.pdf\"", "x; filename*=UTF-8''evil.pdf"),
    ],
)
async def test_the_filename(edge: Edge, disposition: str | bytes, expected: str) -> None:
    response = await _send(edge, _form(_head(_file(b"%PDF-", disposition=disposition))))

    assert response.status_code == 200, response.text
    assert list(edge.record.stored) == [expected]


FILE = _file(b"%PDF-")
END = f"--{BOUNDARY}--\r\n".encode()


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"x",
        END,
        b"\r\n" * 1000,
        _form(_field("operations", OPERATIONS)),
        _form(_head()),
        _form(_field("map", MAP), _field("operations", OPERATIONS), FILE),
        _form(FILE, _field("operations", OPERATIONS), _field("map", MAP)),
        _form(_field("operations", OPERATIONS), FILE, _field("map", MAP)),
        _form(_field("operations", "{"), _field("map", MAP), FILE),
        _form(_field("operations", "[" * 9000), _field("map", MAP), FILE),
        _form(_field("operations", [OPERATIONS]), _field("map", MAP), FILE),
        _form(_field("operations", "null"), _field("map", MAP), FILE),
        _form(_field("operations", OPERATIONS | {"query": 1}), _field("map", MAP), FILE),
        _form(_field("operations", OPERATIONS | {"variables": []}), _field("map", MAP), FILE),
        _form(_field("operations", OPERATIONS), _field("map", "{"), FILE),
        _form(_field("operations", OPERATIONS), _field("map", "[]"), FILE),
        _form(_field("operations", OPERATIONS), _field("map", {}), FILE),
        _form(_field("operations", OPERATIONS), _field("map", {"1": MAP["0"]}), FILE),
        _form(_field("operations", OPERATIONS), _field("map", MAP | {"1": MAP["0"]}), FILE),
        *(
            _form(_field("operations", OPERATIONS), _field("map", {"0": places}), FILE)
            for places in (
                [],
                "variables.input.file",
                [1],
                ["variables"],
                ["variables."],
                ["query"],
                ["operationName.x"],
                ["variables.input"],
                ["variables.input.label"],
                ["variables.input.other"],
                ["variables.input.file.x"],
                ["variables.input.label.0"],
                ["0.variables.input.file"],
                ["variables.input.file", "variables.input.file"],
            )
        ),
        _form(_field("operations", OPERATIONS | {"x": "y" * 70_000}), _field("map", MAP), FILE),
        _form(_field("operations", OPERATIONS), _field("map", MAP | {"x": "y" * 5000}), FILE),
        _form(_head(_file(b"%PDF-", disposition="x=y"))),
        _form(_head(_file(b"%PDF-", disposition='filename=""'))),
        _form(_head(_file(b"%PDF-", disposition='filename="/"'))),
        _form(_head(_file(b"%PDF-", disposition='filename=".."'))),
        _form(_head(FILE), FILE),
        _form(_head(FILE), _field("more", "x")),
        _form(_head(FILE), end=b""),
        _form(_head(FILE), end=f"--{BOUNDARY}".encode()),
        _form(_head(FILE), end=f"--{BOUNDARY}-".encode()),
        _form(_head(FILE), end=END + b"more"),
        _form(_head(FILE), end=END + FILE + END),
        _form(_head(FILE)).replace(BOUNDARY.encode(), b"other"),
        _form(_head(FILE)).replace(b"Content-Type:", b"Content Type:"),
        _form(_head(FILE)).replace(b"application/pdf", b"x" * 100_000),
    ],
)
async def test_a_malformed_form_is_400_and_stores_nothing(edge: Edge, content: bytes) -> None:
    response = await _send(edge, content)

    assert response.status_code == 400, response.text
    assert response.headers["content-type"].startswith(GRAPHQL)
    assert response.json()["errors"][0]["extensions"]["code"] == "BAD_USER_INPUT"
    assert edge.record.stored == {}


@pytest.mark.parametrize(
    "content_type", ["multipart/form-data", f"multipart/form-data; boundary={'x' * 300}"]
)
async def test_a_missing_or_endless_boundary_is_400(edge: Edge, content_type: str) -> None:
    response = await _send(edge, _form(_head(FILE)), **{"Content-Type": content_type})

    assert response.status_code == 400


async def test_the_file_is_seen_while_it_still_arrives(edge: Edge) -> None:
    go_on = asyncio.Event()

    async def pieces() -> AsyncIterator[bytes]:
        yield _head(_file(b"%PDF-" + bytes(600_000))).removesuffix(b"\r\n")
        await go_on.wait()
        yield b"\r\n" + END

    sending = asyncio.create_task(_send(edge, pieces()))
    await wait_until(lambda: edge.record.pieces, "a piece has arrived")
    assert edge.record.stored == {}
    go_on.set()

    assert (await sending).status_code == 200
    assert list(edge.record.stored) == ["a.pdf"]


async def test_exactly_the_limit_passes_and_one_byte_more_is_413(edge: Edge) -> None:
    fits = await _send(edge, _form(_head(_file(bytes(LIMIT)))))
    stored = dict(edge.record.stored)
    too_large = await _send(edge, _form(_head(_file(bytes(LIMIT + 1)))))

    assert fits.status_code == 200
    assert list(stored) == ["a.pdf"]
    assert too_large.status_code == 413
    assert too_large.json()["errors"][0]["extensions"]["code"] == "PAYLOAD_TOO_LARGE"
    assert edge.record.stored == stored


async def test_a_declared_length_over_the_limit_is_413_before_anything_is_read(
    edge: Edge,
) -> None:
    host, port = edge.address.removeprefix("http://").split(":")
    reader, writer = await asyncio.open_connection(host, int(port))
    writer.write(
        f"POST /graphql HTTP/1.1\r\nHost: {host}\r\nAuthorization: Bearer ada\r\n"
        f"Content-Type: multipart/form-data; boundary={BOUNDARY}\r\n"
        f"Content-Length: {LIMIT * 100}\r\n\r\n".encode()
    )
    head = await asyncio.wait_for(reader.readuntil(b"\r\n\r\n"), 5)
    body = await asyncio.wait_for(reader.readuntil(b"}]}"), 5)
    writer.close()

    assert head.startswith(b"HTTP/1.1 413")
    assert b"connection: close" in head
    assert b"PAYLOAD_TOO_LARGE" in body
    assert edge.record.started == []


async def test_an_undeclared_length_is_413_as_soon_as_it_is_too_long(edge: Edge) -> None:
    async def endless() -> AsyncIterator[bytes]:
        yield _head(_file(b"").removesuffix(b"\r\n"))
        for _ in range(200):
            yield bytes(65536)

    response = await _send(edge, endless())

    assert response.status_code == 413
    assert edge.record.stored == {}


async def test_a_file_that_is_not_read_does_not_hold_the_answer(edge: Edge) -> None:
    operations = OPERATIONS | {"query": "mutation($input: UploadInput!) { nothing(input: $input) }"}
    form = _field("operations", operations) + _field("map", MAP) + _file(bytes(5_000_000))
    response = await _send(edge, _form(form))

    assert response.status_code == 400
    assert response.json()["errors"][0]["extensions"]["code"] == "GRAPHQL_VALIDATION_FAILED"
    assert (await edge.post("{ hello }")).status_code == 200


async def test_a_resolver_that_stops_reading_answers_for_itself(edge: Edge) -> None:
    operations = OPERATIONS | {"query": "mutation($input: UploadInput!) { peek(input: $input) }"}
    form = _field("operations", operations) + _field("map", MAP) + _file(bytes(6_000_000))
    response = await _send(edge, _form(form))

    assert response.status_code == 200
    assert response.json()["errors"][0]["message"] == "The file is not a PDF."
    assert len(edge.record.pieces) == 1


async def test_a_file_is_used_once(edge: Edge) -> None:
    query = "mutation($input: UploadInput!) { a: upload(input: $input) b: upload(input: $input) }"
    form = _field("operations", OPERATIONS | {"query": query}) + _field("map", MAP) + FILE
    response = await _send(edge, _form(form))

    assert response.json()["errors"][0]["extensions"]["code"] == "BAD_USER_INPUT"


async def test_a_file_where_text_belongs_is_bad_input(edge: Edge) -> None:
    operations = {"query": "query($n: String!) { hello(name: $n) }", "variables": {"n": None}}
    form = _field("operations", operations) + _field("map", {"0": ["variables.n"]}) + FILE
    response = await _send(edge, _form(form))

    assert response.status_code == 400
    assert "IncomingUpload" not in response.text


async def test_a_client_that_leaves_stores_nothing(edge: Edge) -> None:
    host, port = edge.address.removeprefix("http://").split(":")
    _, writer = await asyncio.open_connection(host, int(port))
    body = _head(_file(b"%PDF-" + bytes(500_000)))
    writer.write(
        f"POST /graphql HTTP/1.1\r\nHost: {host}\r\nAuthorization: Bearer ada\r\n"
        f"Content-Type: multipart/form-data; boundary={BOUNDARY}\r\n"
        f"Content-Length: {len(body) + 1000}\r\n\r\n".encode()
        + body
    )
    await writer.drain()
    await wait_until(lambda: edge.record.pieces, "the file is being read")
    writer.close()
    await writer.wait_closed()
    assert (await edge.post("{ hello }")).status_code == 200

    assert edge.record.stored == {}


async def test_memory_does_not_grow_with_the_file() -> None:
    async with running_edge() as edge:
        warm_up = await _send(edge, _form(_head(_file(bytes(1_000_000)))))
        before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        piece = bytes(65536)

        async def pieces() -> AsyncIterator[bytes]:
            yield _head(_file(b"").removesuffix(b"\r\n"))
            for _ in range(100 * 16):
                yield piece
            yield b"\r\n" + END

        response = await _send(edge, pieces())
        grown_kib = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before

    assert warm_up.status_code == response.status_code == 200
    assert grown_kib < 16 * 1024
