"""Redis, PostgreSQL and the disk go away and come back; nothing is restarted by hand."""

import asyncio
import json
import resource
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
import redis.asyncio

from app.embedded.panopto import Recording
from app.embedded.postgres import EmbeddedPostgres
from app.embedded.redis import EmbeddedRedis
from tests.fault.ledger_state import Database, all_ended, assert_one_effect
from tests.fault.processes import Deployment
from tests.support.graphql_ws import GraphQLSocketClient
from tests.support.pdfs import make_pdf
from tests.support.service import REQUEST, Client, Service
from tests.support.wait import wait_until

WATCH = "subscription ($id: ID!) { lectureStatus(id: $id) { status failure errorMessage } }"
MY_LECTURES = "subscription { myLectures { lecture { id status } } }"
COMPLETED = {"status": "COMPLETED", "failure": None, "errorMessage": None}
RESUMES_WITHIN_SECONDS = 5.0


async def test_redis_away_for_a_while(
    service: Service, deployment: Deployment, media: Path, redis_server: EmbeddedRedis
) -> None:
    await _without_redis(service, deployment, media, redis_server, seconds=1.5)


@pytest.mark.fault_long
async def test_redis_away_for_half_a_minute(
    service: Service, deployment: Deployment, media: Path, redis_server: EmbeddedRedis
) -> None:
    await _without_redis(service, deployment, media, redis_server, seconds=30)


async def _without_redis(
    service: Service, deployment: Deployment, media: Path, server: EmbeddedRedis, seconds: float
) -> None:
    """FLUSHALL in the middle, then no Redis at all, then an empty one."""
    database, ada = Database(service.settings.database_url or ""), service.user("ada")
    recordings = [_recording(service, media) for _ in range(3)]
    first, second, third = (service.simulator.viewer_url(each) for each in recordings)
    async with ada.socket() as socket:
        flushed = (await ada.request(service.course, first))["lecture"]["id"]
        await socket.subscribe(WATCH, {"id": flushed})
        await _flush(server)
        assert await _last_state(socket) == COMPLETED
    server.stop()
    try:
        down_until = time.monotonic() + seconds
        meanwhile = (await ada.request(service.course, second))["lecture"]["id"]
        async with ada.socket() as socket:
            await socket.subscribe(WATCH, {"id": meanwhile})
            assert await _last_state(socket) == COMPLETED
        await asyncio.sleep(max(0.0, down_until - time.monotonic()))
    finally:
        _forget_everything(server)
        server.start()
    returned = time.monotonic()
    last = (await ada.request(service.course, third))["lecture"]["id"]
    await ada.until(last, "COMPLETED")
    assert time.monotonic() - returned < RESUMES_WITHIN_SECONDS
    await assert_one_effect(service, deployment, database)
    for name in ("api", "worker"):
        assert deployment.running[name].exitcode is None


async def _flush(server: EmbeddedRedis) -> None:
    client = redis.asyncio.Redis.from_url(server.url)
    await client.flushall()
    await client.aclose()


def _forget_everything(server: EmbeddedRedis) -> None:
    for path in server.directory.rglob("*"):
        if path.is_file():
            path.unlink()


async def _last_state(socket: GraphQLSocketClient, operation_id: str = "1") -> dict[str, Any]:
    """Return the last state that the subscription tells before it completes."""
    state: dict[str, Any] = {}
    while True:
        message = await asyncio.wait_for(socket.receive(), 20)
        assert message["type"] in {"next", "complete"}, message
        if message["id"] != operation_id:
            continue
        if message["type"] == "complete":
            return state
        state = message["payload"]["data"]["lectureStatus"]


def _recording(service: Service, media: Path, bytes_per_second: int = 1_000_000) -> Recording:
    recording = service.simulator.add(Recording(media, offers=("mp4",)))
    recording.faults.bytes_per_second = bytes_per_second
    return recording


async def test_live_streams_outlive_postgres(
    service: Service, deployment: Deployment, media: Path, postgres_server: EmbeddedPostgres
) -> None:
    """Over socket and SSE, begun before it goes and while it is away; requests are served since."""
    ada, recordings = service.user("ada"), [_recording(service, media, 20_000) for _ in range(2)]
    first, second = [
        (await ada.request(service.course, service.simulator.viewer_url(each)))["lecture"]["id"]
        for each in recordings
    ]
    async with ada.socket() as socket, ada.socket() as late, _events(ada, MY_LECTURES) as events:
        await socket.subscribe(WATCH, {"id": first})
        await socket.subscribe(MY_LECTURES, operation_id="mine")
        assert (await socket.next())["data"]["lectureStatus"]["status"] != "COMPLETED"
        postgres_server.stop()
        try:
            await late.subscribe(WATCH, {"id": second})
            await asyncio.sleep(12)  # longer than a stream waits before it looks by itself
        finally:
            postgres_server.start()
        for recording in recordings:
            recording.faults.bytes_per_second = 10_000_000
        assert await _last_state(late) == COMPLETED
        assert await _last_state(socket) == COMPLETED
        async with asyncio.timeout(20):
            async for event in events:
                assert "errors" not in event, event
                lecture = event["data"]["myLectures"]["lecture"]
                if lecture["id"] == first and lecture["status"] == "COMPLETED":
                    break


@asynccontextmanager
async def _events(client: Client, query: str) -> AsyncIterator[AsyncIterator[Any]]:
    """Subscribe over SSE; give what each event carries."""
    headers = {"Authorization": f"Bearer {client.token}", "Accept": "text/event-stream"}
    body = {"query": query}
    async with client.http.stream("POST", "/graphql", json=body, headers=headers) as response:
        lines = response.aiter_lines()
        yield (json.loads(line[6:]) async for line in lines if line.startswith("data: "))


async def test_postgres_restarts(
    service: Service, deployment: Deployment, media: Path, postgres_server: EmbeddedPostgres
) -> None:
    await _restart_postgres(service, deployment, media, postgres_server, times=1)


@pytest.mark.fault_long
async def test_postgres_restarts_again_and_again(
    service: Service, deployment: Deployment, media: Path, postgres_server: EmbeddedPostgres
) -> None:
    await _restart_postgres(service, deployment, media, postgres_server, times=10)


async def _restart_postgres(
    service: Service, deployment: Deployment, media: Path, server: EmbeddedPostgres, times: int
) -> None:
    database, ada = Database(service.settings.database_url or ""), service.user("ada")
    for number in range(times):
        for _ in range(4):
            url = service.simulator.viewer_url(_recording(service, media, 200_000))
            await ada.request(service.course, url)
        await asyncio.sleep(0.2 * (number % 8))
        server.stop()
        server.start()
        returned = time.monotonic()
        url = service.simulator.viewer_url(_recording(service, media))
        lecture_id = await _until_answered(ada, service, url)
        await ada.until(lecture_id, "DOWNLOADING", "COMPLETED")
        assert time.monotonic() - returned < RESUMES_WITHIN_SECONDS
    await all_ended(database, 5 * times)
    await assert_one_effect(service, deployment, database)
    crashed = await database.rows("SELECT 1 FROM jobs WHERE crashes > 0 AND kind <> 'sweep'")
    assert crashed == [], "a restart of the server is no crash of a worker"


async def _until_answered(client: Client, service: Service, url: str) -> str:
    """Return the lecture's id; a request may fail while the database is away."""
    variables = {"input": {"courseId": str(service.course), "panoptoUrl": url}}

    async def answered() -> str | None:
        response = await client.post(REQUEST, variables)
        data = response.json().get("data")
        return data["requestLectureDownload"]["lecture"]["id"] if data else None

    return await wait_until(answered, "the request is answered", timeout_seconds=5)


async def test_a_full_disk(service: Service, deployment: Deployment, media: Path) -> None:
    """No file may grow over 100 kB, which the system says in the words of a full disk."""
    database, ada = Database(service.settings.database_url or ""), service.user("ada")
    big = make_pdf(1, "x" * 300_000)
    for name in ("api", "worker"):
        _limit_files(deployment.pid_of(name), 100_000)
    response = await ada.post_upload(service.course, big, "big.pdf", "application/pdf")
    assert response.status_code == 507
    (error,) = response.json()["errors"]
    assert error["extensions"]["code"] == "INTERNAL_SERVER_ERROR"
    assert error["message"] == "The storage is full."
    url = service.simulator.viewer_url(_recording(service, media))
    lecture_id = (await ada.request(service.course, url))["lecture"]["id"]
    failed = await ada.until(lecture_id, "FAILED")
    assert failed["failure"] == "INTERNAL"
    assert failed["errorMessage"] == "There is no room left to store the recording."
    assert service.stored() == set()
    assert await database.rows("SELECT 1 FROM documents") == []

    for name in ("api", "worker"):
        _limit_files(deployment.pid_of(name), resource.RLIM_INFINITY)
    assert (await ada.upload(service.course, big))["created"] is True
    assert (await ada.request(service.course, url))["lecture"]["id"] == lecture_id
    await ada.until(lecture_id, "COMPLETED")
    await assert_one_effect(service, deployment, database)


def _limit_files(pid: int, size_bytes: int) -> None:
    resource.prlimit(pid, resource.RLIMIT_FSIZE, (size_bytes, resource.RLIM_INFINITY))


async def test_an_upstream_that_is_cut(
    service: Service, deployment: Deployment, media: Path
) -> None:
    """At 60 % the connection drops; the rest is asked for, or all of it where it has changed."""
    database, ada = Database(service.settings.database_url or ""), service.user("ada")
    size = media.stat().st_size
    for changed in (False, True):
        recording = service.simulator.add(Recording(media, offers=("mp4",)))
        recording.faults.cut_after_bytes = size * 6 // 10
        recording.faults.etag_changes = changed
        url = service.simulator.viewer_url(recording)
        lecture_id = (await ada.request(service.course, url))["lecture"]["id"]
        lecture = await ada.until(lecture_id, "COMPLETED")
        assert (lecture["attempt"], lecture["durationSeconds"]) == (1, 20)
        sent = sum(each.sent_bytes for each in service.simulator.media_requests(recording))
        assert (sent > size * 1.3) is changed
    await assert_one_effect(service, deployment, database)
