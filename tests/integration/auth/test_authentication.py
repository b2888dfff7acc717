"""The edge of the service over a real socket: tokens, cross-site requests, headers, faults."""

import asyncio
import json
from collections.abc import AsyncIterator
from typing import Any
from uuid import UUID

import httpx
import pytest
from fastapi import FastAPI, HTTPException, Request
from fastapi.responses import HTMLResponse, JSONResponse
from structlog.testing import capture_logs

from app.auth.issuer import DevelopmentIssuer
from app.auth.tokens import TokenVerifier
from app.errors import Conflict, PayloadTooLarge, RateLimited, StorageFull
from app.http.edge.security import install_middleware
from app.settings import load_settings
from tests.support.serving import issuer_directory, new_client, serving

ORIGIN = "https://app.example.org"
CALLS: list[str] = []

app = FastAPI(docs_url=None, redoc_url=None, openapi_url=None)


@app.api_route("/graphql", methods=["GET", "POST"])
async def graphql(request: Request) -> JSONResponse:
    CALLS.append(request.method)
    if request.method == "GET":
        return HTMLResponse("<p>page</p>", headers={"Content-Security-Policy": "script-src x"})
    body = await request.body()
    viewer = request.state.viewer
    via = request.state.auth_via
    return JSONResponse({"subject": viewer.subject, "via": via, "size": len(body)})


@app.get("/health/live")
@app.get("/graphql/assets/x.js")
@app.get("/metrics")
@app.get("/api/closed")
async def plain() -> dict[str, str]:
    CALLS.append("plain")
    return {}


@app.get("/api/number")
async def number(value: int) -> int:
    return value


@app.get("/api/fail/{kind}")
async def fail(kind: str) -> None:
    errors = {
        "fault": RuntimeError("the secret is /var/lib/data"),
        "conflict": Conflict("A conflict."),
        "large": PayloadTooLarge(7),
        "many": RateLimited(30),
        "full": StorageFull(),
        "teapot": HTTPException(418, "No coffee."),
        "gone": HTTPException(503, "upstream-7.internal"),
    }
    raise errors[kind]


install_middleware(
    app,
    _settings := load_settings(data_dir=issuer_directory(), allowed_origins=ORIGIN),
    TokenVerifier.from_settings(_settings),
)


@pytest.fixture
def token() -> str:
    return DevelopmentIssuer.load(issuer_directory()).issue("ada")


@pytest.fixture
async def client() -> AsyncIterator[httpx.AsyncClient]:
    CALLS.clear()
    async with serving(app) as address, new_client(address.url) as client:
        yield client


def refusal(response: httpx.Response) -> tuple[int, str]:
    body = response.json()
    assert set(body) == {"errors"}
    assert response.headers["x-request-id"]
    return response.status_code, body["errors"][0]["extensions"]["code"]


UNAUTHENTICATED = (401, "UNAUTHENTICATED")
FORBIDDEN = (403, "FORBIDDEN")


async def test_header_and_cookie(client: httpx.AsyncClient, token: str) -> None:
    for scheme in ("Bearer", "bearer", "BEARER"):
        response = await client.post("/graphql", headers={"Authorization": f"{scheme} {token}"})
        assert response.json() == {"subject": "ada", "via": "header", "size": 0}
    cookies = {"Cookie": f"a=b; __session={token}; c", "Origin": ORIGIN}
    response = await client.post("/graphql", headers=cookies)
    assert response.json() == {"subject": "ada", "via": "cookie", "size": 0}


@pytest.mark.parametrize(
    "authorization", ["", "Bearer", "Bearer x", "Basic x", "x", "Bearer a b", "TOKEN"]
)
async def test_a_bad_header_is_not_saved_by_a_good_cookie(
    client: httpx.AsyncClient, token: str, authorization: str
) -> None:
    headers = {
        "Authorization": authorization.replace("TOKEN", token),
        "Cookie": f"__session={token}",
        "Origin": ORIGIN,
    }
    response = await client.post("/graphql", headers=headers)
    assert refusal(response) == UNAUTHENTICATED
    assert response.headers["www-authenticate"] == "Bearer"
    assert CALLS == []


async def test_two_headers_are_one_too_many(client: httpx.AsyncClient, token: str) -> None:
    pair = ("Authorization", f"Bearer {token}")
    assert refusal(await client.post("/graphql", headers=[pair, pair])) == UNAUTHENTICATED


@pytest.mark.parametrize("cookie", ["", "__session=", "__session", "session=T", "x__session=T"])
async def test_no_session_cookie(client: httpx.AsyncClient, token: str, cookie: str) -> None:
    headers = {"Cookie": cookie.replace("T", token), "Origin": ORIGIN}
    assert refusal(await client.post("/graphql", headers=headers)) == UNAUTHENTICATED


async def test_the_closest_of_several_cookies_counts(client: httpx.AsyncClient, token: str) -> None:
    good = {"Cookie": f"__session={token}; __session=x", "Origin": ORIGIN}
    bad = {"Cookie": f"__session=x; __session={token}", "Origin": ORIGIN}
    assert (await client.post("/graphql", headers=good)).status_code == 200
    assert refusal(await client.post("/graphql", headers=bad)) == UNAUTHENTICATED


@pytest.mark.parametrize(
    "cookie",
    ["__session_a1B2=T", "__session=x; __session_a1B2=T", "__session_a1B2=x; __session=T"],
)
async def test_whichever_session_cookie_is_ours_counts(
    client: httpx.AsyncClient, token: str, cookie: str
) -> None:
    headers = {"Cookie": cookie.replace("T", token), "Origin": ORIGIN}
    assert (await client.post("/graphql", headers=headers)).json()["via"] == "cookie"


@pytest.mark.parametrize("path", ["/graphql", "/health/live", "/graphql/assets/x.js", "/metrics"])
async def test_open_paths(client: httpx.AsyncClient, path: str) -> None:
    assert (await client.get(path)).status_code == 200


@pytest.mark.parametrize(
    ("method", "path"),
    [
        ("GET", "/api/closed"),
        ("GET", "/graphql/"),
        ("POST", "/graphql/assets/x.js"),
        ("OPTIONS", "/graphql"),
        ("PUT", "/graphql"),
        ("GET", "/api/closed?signature=x"),
        ("GET", "/graphqlx"),
        ("GET", "/metrics/x"),
        ("GET", "//health/live"),
        ("GET", "/health/../api/closed"),
        ("GET", "/nothing"),
    ],
)
async def test_every_other_path_is_closed(
    client: httpx.AsyncClient, method: str, path: str
) -> None:
    assert refusal(await client.request(method, path)) == UNAUTHENTICATED
    assert CALLS == []


async def test_the_framework_s_refusals_are_json(client: httpx.AsyncClient, token: str) -> None:
    client.headers["Authorization"] = f"Bearer {token}"
    assert refusal(await client.get("/nothing")) == (404, "NOT_FOUND")
    assert refusal(await client.get("/")) == (404, "NOT_FOUND")
    response = await client.delete("/graphql")
    assert refusal(response) == (405, "BAD_USER_INPUT")
    assert response.headers["allow"]
    response = await client.get("/api/number?value=secret")
    assert refusal(response) == (422, "BAD_USER_INPUT")
    assert "secret" not in response.text


@pytest.mark.parametrize(
    ("kind", "expected"),
    [
        ("fault", (500, "INTERNAL_SERVER_ERROR")),
        ("conflict", (500, "INTERNAL_SERVER_ERROR")),
        ("large", (413, "PAYLOAD_TOO_LARGE")),
        ("many", (429, "RATE_LIMITED")),
        ("full", (507, "INTERNAL_SERVER_ERROR")),
        ("teapot", (418, "BAD_USER_INPUT")),
        ("gone", (503, "INTERNAL_SERVER_ERROR")),
    ],
)
async def test_errors_of_routes(
    client: httpx.AsyncClient, token: str, kind: str, expected: tuple[int, str]
) -> None:
    headers = {"Authorization": f"Bearer {token}", "Origin": ORIGIN}
    with capture_logs() as logs:
        response = await client.get(f"/api/fail/{kind}", headers=headers)
    assert refusal(response) == expected
    assert "internal" not in response.text.replace("INTERNAL_SERVER_ERROR", "")
    assert "Traceback" not in response.text
    assert response.headers["access-control-allow-origin"] == ORIGIN
    assert response.headers["x-content-type-options"] == "nosniff"
    if expected[1] == "INTERNAL_SERVER_ERROR":
        error = response.json()["errors"][0]
        assert error["extensions"]["requestId"] == response.headers["x-request-id"]
    if kind == "fault":
        assert [line for line in logs if line["event"] == "request.failed" and line["exc_info"]]
    if kind == "many":
        assert response.headers["retry-after"] == "30"


async def test_the_media_type_of_a_refusal(client: httpx.AsyncClient) -> None:
    graphql = {"Accept": "application/graphql-response+json, application/json;q=0.9"}
    response = await client.post("/graphql", headers=graphql)
    assert response.headers["content-type"] == "application/graphql-response+json"
    assert (await client.post("/graphql")).headers["content-type"] == "application/json"
    assert (await client.get("/api/x", headers=graphql)).headers["content-type"] == (
        "application/json"
    )


@pytest.mark.parametrize("length", ["Content-Length: 500000000", "Transfer-Encoding: chunked"])
async def test_a_refusal_comes_before_the_body(client: httpx.AsyncClient, length: str) -> None:
    reader, writer = await asyncio.open_connection(client.base_url.host, client.base_url.port)
    head = f"POST /graphql HTTP/1.1\r\nHost: x\r\nExpect: 100-continue\r\n{length}\r\n\r\n"
    writer.write(head.encode())
    async with asyncio.timeout(5):
        answer = await reader.read()
    assert answer.startswith(b"HTTP/1.1 401")
    assert b"connection: close" in answer.lower()
    assert json.loads(answer.partition(b"\r\n\r\n")[2])["errors"]
    assert CALLS == []
    writer.close()
    await writer.wait_closed()


async def test_a_short_body_keeps_the_connection(client: httpx.AsyncClient, token: str) -> None:
    reader, writer = await asyncio.open_connection(client.base_url.host, client.base_url.port)
    refused = b"POST /graphql HTTP/1.1\r\nHost: x\r\nContent-Length: 5\r\n\r\nhello"
    accepted = (
        f"POST /graphql HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {token}\r\n"
        "Content-Length: 5\r\nConnection: close\r\n\r\nhello"
    )
    writer.write(refused + accepted.encode())
    async with asyncio.timeout(5):
        answers = await reader.read()
    assert answers.startswith(b"HTTP/1.1 401")
    assert b'"subject":"ada","via":"header","size":5' in answers
    writer.close()
    await writer.wait_closed()


# --- cross-site requests ---------------------------------------------------------------------


@pytest.mark.parametrize(
    ("origin", "allowed"),
    [
        (ORIGIN, True),
        ("HTTPS://APP.example.org", True),
        ("OWN", True),
        (None, False),
        ("", False),
        ("null", False),
        ("https://evil.example.org", False),
        ("https://app.example.org.evil.org", False),
        ("http://app.example.org", False),
        ("https://app.example.org:8443", False),
        ("http://127.0.0.1", False),
        ("http://127.0.0.1:1", False),
        ("file://", False),
        ("http://[", False),
        ("http://x:y", False),
    ],
)
async def test_a_cookie_acts_for_our_pages_alone(
    client: httpx.AsyncClient, token: str, origin: str | None, allowed: bool
) -> None:
    headers = {"Cookie": f"__session={token}"}
    if origin is not None:
        headers["Origin"] = str(client.base_url).rstrip("/") if origin == "OWN" else origin
    response = await client.post("/graphql", headers=headers)
    if allowed:
        assert response.status_code == 200
    else:
        assert refusal(response) == FORBIDDEN
        assert CALLS == []
    bearer = headers | {"Authorization": f"Bearer {token}"}
    assert (await client.post("/graphql", headers=bearer)).status_code == 200


async def test_our_own_https_page_behind_a_proxy(client: httpx.AsyncClient, token: str) -> None:
    headers = {"Cookie": f"__session={token}", "Host": "api.example.org"}
    for origin, status in [
        ("https://api.example.org", 200),
        ("http://api.example.org", 200),
        ("https://api.example.org:443", 200),
        ("https://api.example.org:8443", 403),
        ("https://example.org", 403),
    ]:
        response = await client.post("/graphql", headers=headers | {"Origin": origin})
        assert response.status_code == status, origin


async def test_multipart_by_cookie_needs_the_preflighted_header(
    client: httpx.AsyncClient, token: str
) -> None:
    cookie = {"Cookie": f"__session={token}", "Origin": ORIGIN}
    files = {"0": ("a.pdf", b"%PDF-", "application/pdf")}
    refused = await client.post("/graphql", headers=cookie, files=files)
    assert refusal(refused) == FORBIDDEN
    odd = cookie | {"Content-Type": "Multipart/Form-Data; boundary=x"}
    assert refusal(await client.post("/graphql", headers=odd, content=b"")) == FORBIDDEN
    assert CALLS == []
    allowed = cookie | {"apollo-require-preflight": "true"}
    assert (await client.post("/graphql", headers=allowed, files=files)).status_code == 200
    bearer = {"Authorization": f"Bearer {token}", "Origin": "https://evil.example.org"}
    assert (await client.post("/graphql", headers=bearer, files=files)).status_code == 200


@pytest.mark.parametrize(
    ("headers", "status"),
    [
        ({}, 403),
        ({"Sec-Fetch-Site": "same-origin"}, 403),
        ({"Origin": "https://evil.example.org"}, 403),
        ({"Origin": "https://evil.example.org", "apollo-require-preflight": "1"}, 403),
        ({"Origin": ORIGIN}, 200),
        ({"apollo-require-preflight": "1"}, 200),
    ],
)
async def test_a_query_in_a_url_by_cookie(
    client: httpx.AsyncClient, token: str, headers: dict[str, str], status: int
) -> None:
    path = "/graphql?query={viewer{id}}"
    cookie = {"Cookie": f"__session={token}"}
    assert (await client.get(path, headers=cookie | headers)).status_code == status
    assert len(CALLS) == (status == 200)
    bearer = {"Authorization": f"Bearer {token}"}
    assert (await client.get(path, headers=bearer | headers)).status_code == 200
    assert refusal(await client.get(path, headers=headers)) == UNAUTHENTICATED
    page = await client.get(path, headers={"Accept": "text/html"})
    assert page.status_code == 200


async def test_a_preflight_allows_what_it_asks_for_to_our_pages_alone(
    client: httpx.AsyncClient,
) -> None:
    asked = {
        "Access-Control-Request-Method": "POST",
        "Access-Control-Request-Headers": "sentry-trace,x-client-version,apollographql-client-name",
    }
    ours = await client.options("/graphql", headers=asked | {"Origin": ORIGIN})
    assert ours.status_code == 200
    assert ours.headers["access-control-allow-headers"] == (asked["Access-Control-Request-Headers"])
    assert int(ours.headers["access-control-max-age"]) > 0
    varies = ours.headers["vary"].split(", ")
    assert "Access-Control-Request-Headers" in varies
    assert len(varies) == len(set(varies))
    foreign = {"Origin": "https://evil.example.org"}
    refused = await client.options("/graphql", headers=asked | foreign)
    assert refused.status_code == 400
    assert "access-control-allow-headers" not in refused.headers
    assert "access-control-allow-origin" not in refused.headers
    assert CALLS == []


async def test_preflights(client: httpx.AsyncClient) -> None:
    asked = {
        "Origin": ORIGIN,
        "Access-Control-Request-Method": "POST",
        "Access-Control-Request-Headers": "authorization,content-type,apollo-require-preflight",
    }
    response = await client.options("/graphql", headers=asked)
    assert response.status_code == 200
    assert response.headers["access-control-allow-origin"] == ORIGIN
    assert response.headers["access-control-allow-credentials"] == "true"
    assert response.headers["x-request-id"]
    evil = asked | {"Origin": "https://evil.example.org"}
    response = await client.options("/graphql", headers=evil)
    assert response.status_code == 400
    assert "access-control-allow-origin" not in response.headers
    assert CALLS == []


async def test_a_refusal_can_be_read_by_an_allowed_page_alone(client: httpx.AsyncClient) -> None:
    response = await client.post("/graphql", headers={"Origin": ORIGIN})
    assert refusal(response) == UNAUTHENTICATED
    assert response.headers["access-control-allow-origin"] == ORIGIN
    assert "X-Request-ID" in response.headers["access-control-expose-headers"]
    response = await client.post("/graphql", headers={"Origin": "https://evil.example.org"})
    assert "access-control-allow-origin" not in response.headers


# --- headers and ids -------------------------------------------------------------------------


async def test_security_headers(client: httpx.AsyncClient) -> None:
    page, closed = await client.get("/graphql"), await client.post("/graphql")
    assert page.headers["content-security-policy"] == "script-src x"
    assert "x-frame-options" not in page.headers
    assert closed.headers["content-security-policy"].startswith("default-src 'none'")
    assert closed.headers["x-frame-options"] == "DENY"
    for response in (page, closed):
        assert response.headers["x-content-type-options"] == "nosniff"
        assert response.headers["referrer-policy"] == "no-referrer"
        assert response.headers["cache-control"] == "no-store"


async def test_request_ids_are_ours_and_in_the_log(client: httpx.AsyncClient) -> None:
    forged = {"X-Request-ID": "mine"}
    with capture_logs() as logs:
        responses = [await client.post("/graphql?token=abc", headers=forged) for _ in range(2)]
    ids = {response.headers["x-request-id"] for response in responses}
    assert len(ids) == 2
    assert all(UUID(hex=value) for value in ids)
    lines: list[dict[str, Any]] = [dict(line) for line in logs if line["event"] == "request"]
    assert [(line["method"], line["path"], line["status"]) for line in lines] == [
        ("POST", "/graphql", 401)
    ] * 2
    assert "abc" not in str(logs)


@pytest.mark.parametrize(
    "raw",
    [
        b"GET / HTTP/1.1\r\n\r\n",
        b"BREW /graphql HTTP/1.1\r\nHost: x\r\n\r\n",
        b"GET /%ff%00 HTTP/1.1\r\nHost: x\r\n\r\n",
        b"POST /graphql HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer \xff\xfe\r\n\r\n",
        b"POST /graphql HTTP/1.1\r\nHost: x\r\nCookie: __session=\xff\r\nOrigin: \xff\r\n\r\n",
        b"GET /api/documents/x/file?signature=%ff&user=%00 HTTP/1.1\r\nHost: \xff\r\n\r\n",
    ],
)
async def test_strange_requests_get_a_4xx(client: httpx.AsyncClient, raw: bytes) -> None:
    reader, writer = await asyncio.open_connection(client.base_url.host, client.base_url.port)
    writer.write(raw)
    async with asyncio.timeout(5):
        status = await reader.readline()
    assert status.startswith(b"HTTP/1.1 4"), status
    writer.close()
    await writer.wait_closed()
