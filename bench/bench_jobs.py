"""From a request's commit to DOWNLOADING on an idle service, and an hour's lecture to its audio."""

import asyncio
import statistics
import tempfile
import time
from pathlib import Path
from uuid import uuid4

import asyncpg

from app.embedded.panopto import PanoptoSimulator, Recording
from app.embedded.sample_media import make_lecture, make_long_lecture
from bench.service import BenchedService, benched_service

REQUESTS = 30
REQUEST = """mutation ($input: RequestLectureDownloadInput!) {
  requestLectureDownload(input: $input) {
    ... on RequestLectureDownloadPayload { lecture { id } } } }"""
STATUS = "query ($id: ID!) { lecture(id: $id) { status errorMessage } }"


def main() -> None:
    """Print the table."""
    with tempfile.TemporaryDirectory() as folder:
        short = make_lecture(Path(folder) / "short.mp4", 5)
        long = make_long_lecture(Path(folder) / "long.mp4")
        simulator = PanoptoSimulator()
        simulator.start()
        try:
            hosts = simulator.host_port
            with benched_service(PANOPTO_HOSTS=hosts, FETCH_ALLOWED_PRIVATE_HOSTS=hosts) as service:
                for _ in range(REQUESTS):
                    _fetch(service, simulator, Recording(short))
                starts = asyncio.run(_starts(service))
                recording = Recording(long, offers=("mp4",))
                began = time.perf_counter()
                _fetch(service, simulator, recording)
                whole = time.perf_counter() - began
        finally:
            simulator.stop()
        began = time.perf_counter()
        size = len(long.read_bytes())
        read = time.perf_counter() - began
    print("## Jobs")
    print(f"request to DOWNLOADING: median {statistics.median(starts):.1f} ms of {REQUESTS}, ")
    print(f"  p95 {sorted(starts)[int(REQUESTS * 0.95)]:.1f} ms")
    print(f"60 min, {size / 1e6:.0f} MB, link to audio: {whole:.2f} s = {whole / read:.0f} reads")


def _fetch(service: BenchedService, simulator: PanoptoSimulator, recording: Recording) -> None:
    simulator.add(recording)
    values = {"courseId": str(uuid4()), "panoptoUrl": simulator.viewer_url(recording)}
    with service.client() as client:
        body = {"query": REQUEST, "variables": {"input": values}}
        answer = client.post("/graphql", json=body).json()
        lecture_id = answer["data"]["requestLectureDownload"]["lecture"]["id"]
        while True:
            body = {"query": STATUS, "variables": {"id": lecture_id}}
            lecture = client.post("/graphql", json=body).json()["data"]["lecture"]
            if lecture["status"] == "COMPLETED":
                return
            assert lecture["status"] != "FAILED", lecture
            time.sleep(0.02)


async def _starts(service: BenchedService) -> list[float]:
    connection = await asyncpg.connect(service.dsn)
    try:
        rows = await connection.fetch(
            "SELECT extract(epoch FROM started_at - created_at) * 1000 AS ms FROM lectures"
        )
    finally:
        await connection.close()
    return [float(row["ms"]) for row in rows]


if __name__ == "__main__":
    main()
