import asyncio
import gzip
from collections.abc import AsyncIterator

import pytest
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import PlainTextResponse, RedirectResponse, Response
from starlette.routing import Route

from app.domain import LectureFailure
from app.errors import IngestFailed
from app.ingest.net.guard import GuardedClient
from app.ingest.net.judged_network import JudgingBackend
from tests.support.serving import Serving, serving
from tests.support.wait import wait_until


async def echo(request: Request) -> Response:
    names = ("cookie", "authorization", "host", "accept-encoding")
    lines = [f"{request.method}"] + [f"{name}={request.headers.get(name)}" for name in names]
    return PlainTextResponse("\n".join(lines), headers={"set-cookie": "left=behind; path=/"})


async def redirect(request: Request) -> Response:
    return RedirectResponse(request.query_params["to"], int(request.query_params.get("s", "302")))


async def greet(request: Request) -> Response:
    answer = RedirectResponse(request.query_params["to"])
    answer.set_cookie("visitor", "1", httponly=True)
    return answer


async def loop(request: Request) -> Response:
    left = int(request.path_params["left"])
    return RedirectResponse(f"/loop/{left - 1}" if left else "/echo")


async def big(request: Request) -> Response:
    return PlainTextResponse("x" * 5000)


async def bomb(request: Request) -> Response:
    return Response(gzip.compress(bytes(10_000_000)), headers={"Content-Encoding": "gzip"})


async def silent(request: Request) -> Response:
    while (await request.receive())["type"] != "http.disconnect":
        pass
    return PlainTextResponse("")


APP = Starlette(
    routes=[
        Route("/echo", echo, methods=["GET", "POST"]),
        Route("/redirect", redirect, methods=["GET", "POST"]),
        Route("/greet", greet),
        Route("/loop/{left:int}", loop),
        Route("/big", big),
        Route("/bomb", bomb),
        Route("/silent", silent),
    ]
)


@pytest.fixture
async def server() -> AsyncIterator[Serving]:
    async with serving(APP) as running:
        yield running


@pytest.fixture
async def client(server: Serving) -> AsyncIterator[GuardedClient]:
    allowed = [f"127.0.0.1:{server.port}", f"localhost:{server.port}"]
    client = GuardedClient(allowed, idle_timeout_seconds=0.3)
    yield client
    await client.close()


async def read(client: GuardedClient, url: str, **options: object) -> str:
    given: dict[str, object] = {"max_bytes": 1000, **options}
    fetched = await client.read("GET", url, **given)  # type: ignore[arg-type]
    return fetched.body.decode()


async def test_an_allowed_private_host_is_reached_with_its_own_name(
    client: GuardedClient, server: Serving
) -> None:
    answer = await read(client, f"http://localhost:{server.port}/echo")
    assert f"host=localhost:{server.port}" in answer
    assert "accept-encoding=identity" in answer


@pytest.mark.parametrize("host", ["0x7f000001", "2130706433", "127.1", "[::ffff:127.0.0.1]"])
async def test_the_exception_is_for_the_name_as_it_is_written(
    client: GuardedClient, server: Serving, host: str
) -> None:
    with pytest.raises(IngestFailed) as failure:
        await read(client, f"http://{host}:{server.port}/echo")
    assert failure.value.failure is LectureFailure.BLOCKED_URL


async def test_proxies_of_the_environment_are_not_used(
    client: GuardedClient, server: Serving, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HTTP_PROXY", "http://127.0.0.1:9")
    monkeypatch.setenv("ALL_PROXY", "http://127.0.0.1:9")
    fresh = GuardedClient([f"127.0.0.1:{server.port}"])
    assert "GET" in await read(fresh, server.url + "/echo")
    await fresh.close()


async def test_cookies_stay_with_their_origin(client: GuardedClient, server: Serving) -> None:
    secrets = {"cookie_header": ".ASPXAUTH=a", "headers": {"Authorization": "Bearer b"}}
    own = await read(client, f"{server.url}/redirect?to=/echo", **secrets)
    assert "cookie=.ASPXAUTH=a" in own
    assert "authorization=Bearer b" in own
    elsewhere = f"http://localhost:{server.port}/echo"
    other = await read(client, f"{server.url}/redirect?to={elsewhere}", **secrets)
    assert "cookie=None" in other
    assert "authorization=None" in other


async def test_no_cookie_is_kept_between_requests(client: GuardedClient, server: Serving) -> None:
    await read(client, server.url + "/echo")
    assert "cookie=None" in await read(client, server.url + "/echo")


async def test_a_cookie_lives_as_long_as_its_chain_of_redirects(
    client: GuardedClient, server: Serving
) -> None:
    url = f"{server.url}/greet?to=/redirect%3Fto=/echo"
    assert "cookie=mine=2; visitor=1\n" in await read(client, url, cookie_header="mine=2")
    assert "cookie=None" in await read(client, server.url + "/echo")
    elsewhere = f"http://localhost:{server.port}/echo"
    assert "cookie=None" in await read(client, f"{server.url}/greet?to={elsewhere}")
    back = f"http://localhost:{server.port}/redirect?to={server.url}/echo"
    assert "cookie=visitor=1\n" in await read(client, f"{server.url}/greet?to={back}")


@pytest.mark.parametrize(
    "target",
    [
        "http://127.0.0.1:1/",
        "http://169.254.169.254/latest/meta-data/",
        "http://[::1]/",
        "file:///etc/passwd",
        "http://user:secret@127.0.0.1/",
        "http://[",
    ],
)
async def test_every_redirect_is_judged_anew(
    client: GuardedClient, server: Serving, target: str
) -> None:
    with pytest.raises(IngestFailed) as failure:
        await read(client, f"{server.url}/redirect?to={target}")
    assert failure.value.failure is LectureFailure.BLOCKED_URL


async def test_five_redirects_are_followed_and_not_six(
    client: GuardedClient, server: Serving
) -> None:
    assert "GET" in await read(client, f"{server.url}/loop/4")
    with pytest.raises(IngestFailed) as failure:
        await read(client, f"{server.url}/loop/5")
    assert failure.value.failure is LectureFailure.SOURCE_NOT_FOUND


async def test_a_posted_form_becomes_a_get_on_302_and_stays_on_307(
    client: GuardedClient, server: Serving
) -> None:
    for status, method in ((302, "GET"), (307, "POST")):
        url = f"{server.url}/redirect?to=/echo&s={status}"
        fetched = await client.read("POST", url, max_bytes=1000, data={"a": "b"})
        assert fetched.body.decode().startswith(method)


async def test_a_body_over_its_limit_is_too_large(client: GuardedClient, server: Serving) -> None:
    with pytest.raises(IngestFailed) as failure:
        await read(client, server.url + "/big")
    assert failure.value.failure is LectureFailure.TOO_LARGE


async def test_an_answer_that_was_compressed_unasked_is_read_within_its_limit(
    client: GuardedClient, server: Serving
) -> None:
    fetched = await client.read("GET", server.url + "/bomb", max_bytes=10_000_000)
    assert fetched.body == bytes(10_000_000)
    with pytest.raises(IngestFailed) as failure:
        await read(client, server.url + "/bomb", max_bytes=1_000_000)
    assert failure.value.failure is LectureFailure.TOO_LARGE


async def test_silence_is_a_passing_timeout(client: GuardedClient, server: Serving) -> None:
    with pytest.raises(IngestFailed) as failure:
        await read(client, server.url + "/silent")
    assert (failure.value.failure, failure.value.transient) == (LectureFailure.TIMEOUT, True)


async def test_a_refused_connection_passes(server: Serving) -> None:
    client = GuardedClient(["127.0.0.1:1"])
    with pytest.raises(IngestFailed) as failure:
        await read(client, "http://127.0.0.1:1/")
    await client.close()
    assert (failure.value.failure, failure.value.transient) == (LectureFailure.NETWORK, True)
    assert "127" not in failure.value.message


async def test_a_connection_is_closed_whenever_its_making_is_cancelled() -> None:
    was_open: list[bool] = []
    ended = 0

    async def accept(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        nonlocal ended
        for _ in was_open:  # One turn of the loop later each time.
            await asyncio.sleep(0)
        connecting.cancel()
        await reader.read()
        writer.close()
        ended += 1

    async with await asyncio.start_server(accept, "127.0.0.1", 0) as listening:
        port = listening.sockets[0].getsockname()[1]
        backend = JudgingBackend(frozenset({f"127.0.0.1:{port}"}))
        while not was_open or not was_open[-1]:
            connecting = asyncio.create_task(backend.connect_tcp("127.0.0.1", port, 5.0))
            await asyncio.wait([connecting])
            was_open.append(not connecting.cancelled())
            if was_open[-1]:
                await connecting.result().aclose()
        await wait_until(lambda: ended == len(was_open) > 3, "the server hears of every end")
        backend.close()
