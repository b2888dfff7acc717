"""SIGTERM: what is running ends well, and only what another goes on with is left."""

import asyncio
import json
import time
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from websockets.exceptions import ConnectionClosed

from app.embedded.panopto import Recording
from tests.fault.ledger_state import Database, assert_one_effect
from tests.fault.processes import Deployment
from tests.support.graphql_ws import GraphQLSocketClient
from tests.support.pdfs import make_pdf
from tests.support.service import UPLOAD, Client, Service
from tests.support.wait import wait_until

FEED = "subscription { myLectures { lectureId } }"
BOUNDARY = "studybuddy-boundary"


async def test_a_worker_hands_its_downloads_back(
    service: Service, deployment: Deployment, media: Path
) -> None:
    database, ada = Database(service.settings.database_url or ""), service.user("ada")
    recording = service.simulator.add(Recording(media, offers=("mp4",)))
    recording.faults.bytes_per_second = 20_000
    url = service.simulator.viewer_url(recording)
    lecture_id = (await ada.request(service.course, url))["lecture"]["id"]
    await wait_until(lambda: service.simulator.media_requests(recording), "bytes flow")
    assert await deployment.terminate("worker", timeout_seconds=3) == 0
    waiting = await ada.lecture(lecture_id)
    assert (waiting["status"], waiting["attempt"]) == ("PENDING", 0)
    assert (waiting["failure"], waiting["errorMessage"]) == (None, None)
    (job,) = await database.rows(
        "SELECT state::text, attempt, crashes FROM jobs WHERE kind = 'download_lecture'"
    )
    assert tuple(job) == ("queued", 0, 0)
    assert {Path(key).suffix for key in service.stored()} <= {".part", ".note"}

    recording.faults.bytes_per_second = None
    await deployment.restart("worker")
    lecture = await ada.until(lecture_id, "COMPLETED")
    assert lecture["attempt"] == 1
    await assert_one_effect(service, deployment, database)
    assert await deployment.terminate("worker", timeout_seconds=2) == 0, "an idle one ends at once"


async def test_the_api_lets_requests_finish_and_ends_streams(
    service: Service, deployment: Deployment
) -> None:
    ada = service.user("ada")
    events = asyncio.create_task(_stream_to_its_end(ada))
    async with ada.socket() as socket:
        await socket.subscribe(FEED)
        going_on, finish = asyncio.Event(), asyncio.Event()
        uploading = asyncio.create_task(_slow_upload(ada, service, going_on, finish))
        await going_on.wait()
        await wait_until(service.stored, "the upload is being stored")
        ending = asyncio.create_task(deployment.terminate("api", timeout_seconds=10))
        asked_at = time.monotonic()
        with pytest.raises(ConnectionClosed) as closed:
            await _read_to_its_end(socket)
        assert closed.value.rcvd is not None
        assert closed.value.rcvd.code == 1012
        await events
        assert time.monotonic() - asked_at < 2, "streams end at once"
        assert not ending.done()
        finish.set()
        answer = await uploading
    assert answer["data"]["uploadDocument"]["created"] is True
    assert await ending == 0


@pytest.mark.fault_long
async def test_the_api_cuts_off_what_does_not_finish(
    service: Service, deployment: Deployment
) -> None:
    reader, writer = await asyncio.open_connection("127.0.0.1", service.settings.port)
    head, body = _upload(service.user("ada"), service, make_pdf(1, "x" * 600_000))
    lines = [f"{name}: {value}" for name, value in head.items()]
    request = ["POST /graphql HTTP/1.1", "Host: 127.0.0.1", *lines, f"Content-Length: {len(body)}"]
    writer.write("\r\n".join([*request, "", ""]).encode() + body[:400_000])
    await wait_until(service.stored, "the upload is being stored")
    # Ten seconds for the request, and a little for the rest.
    ending = asyncio.create_task(deployment.terminate("api", timeout_seconds=14))
    answer = await reader.read()
    writer.close()
    assert answer.startswith(b"HTTP/1.1 503 "), answer
    assert b"\r\nretry-after: 1\r\n" in answer.lower()
    assert b'"code":"INTERNAL_SERVER_ERROR"' in answer
    assert await ending == 0
    assert service.stored() == set()
    database = Database(service.settings.database_url or "")
    assert await database.rows("SELECT 1 FROM documents") == []


async def _read_to_its_end(socket: GraphQLSocketClient) -> None:
    while True:
        await socket.receive()


async def _stream_to_its_end(client: Client) -> None:
    """Subscribe over SSE and read until the server ends it."""
    headers = {"Authorization": f"Bearer {client.token}", "Accept": "text/event-stream"}
    request = client.http.stream("POST", "/graphql", json={"query": FEED}, headers=headers)
    async with request as response:
        assert response.status_code == 200
        async for _ in response.aiter_raw():
            pass


async def _slow_upload(
    client: Client, service: Service, going_on: asyncio.Event, finish: asyncio.Event
) -> object:
    """Upload a PDF whose end is sent when ``finish`` is set."""
    headers, content = _upload(client, service, make_pdf(1, "x" * 600_000))

    async def body() -> AsyncIterator[bytes]:
        yield content[:400_000]
        going_on.set()
        await finish.wait()
        yield content[400_000:]

    response = await client.http.post("/graphql", content=body(), headers=headers)
    return response.json()


def _upload(client: Client, service: Service, pdf: bytes) -> tuple[dict[str, str], bytes]:
    """Return the headers and the body of an upload."""
    variables = {"input": {"courseId": str(service.course), "file": None}}
    parts = {
        "operations": json.dumps({"query": UPLOAD, "variables": variables}),
        "map": json.dumps({"0": ["variables.input.file"]}),
    }
    form = [
        f'--{BOUNDARY}\r\nContent-Disposition: form-data; name="{name}"\r\n\r\n{value}\r\n'
        for name, value in parts.items()
    ]
    file = f'--{BOUNDARY}\r\nContent-Disposition: form-data; name="0"; filename="a.pdf"\r\n'
    head = "".join([*form, file, "Content-Type: application/pdf\r\n\r\n"])
    headers = {
        "Authorization": f"Bearer {client.token}",
        "Content-Type": f"multipart/form-data; boundary={BOUNDARY}",
    }
    return headers, head.encode() + pdf + f"\r\n--{BOUNDARY}--\r\n".encode()
