"""Fixtures: a Panopto tenant on 127.0.0.1, its media, and a downloader that may reach it."""

from collections.abc import AsyncIterator, Iterator
from contextlib import aclosing
from pathlib import Path
from uuid import uuid4

import pytest

from app.embedded.panopto import PanoptoSimulator, Recording
from app.embedded.sample_media import make_lecture
from app.errors import IngestFailed
from app.ingest.fetch.downloader import MediaDownloader
from app.ingest.fetch.hls_streams import HlsStream, open_streams
from app.ingest.model import (
    Attempt,
    DownloadedSource,
    LectureDownloader,
    LectureRequest,
    MediaLocation,
    Progress,
    ResolvedLecture,
)
from app.ingest.net.guard import GuardedClient
from app.ingest.net.retries import Patience
from app.ingest.pipeline import from_first_medium
from app.storage.local import LocalStorage

IMPATIENT = Patience(
    tries_without_progress=3, restarts=2, first_wait_seconds=0.005, longest_wait_seconds=0.02
)
MIB = 1024 * 1024


@pytest.fixture(scope="session")
def lecture_mp4(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A lecture of 30 s and 2 MiB with picture and sound."""
    return make_lecture(tmp_path_factory.mktemp("media") / "lecture.mp4", 30, size_bytes=2 * MIB)


@pytest.fixture(scope="session")
def silent_mp4(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The same without a sound track."""
    return make_lecture(tmp_path_factory.mktemp("media") / "silent.mp4", 30, audio=False)


@pytest.fixture(scope="session")
def running_simulator() -> Iterator[PanoptoSimulator]:
    simulator = PanoptoSimulator()
    simulator.start()
    yield simulator
    simulator.stop()


@pytest.fixture
def simulator(running_simulator: PanoptoSimulator) -> PanoptoSimulator:
    """The tenant, with no request on its list; recordings of other tests do no harm."""
    running_simulator.requests.clear()
    return running_simulator


@pytest.fixture
def recording(simulator: PanoptoSimulator, lecture_mp4: Path) -> Recording:
    """A recording with faults of its own."""
    return simulator.add(Recording(lecture_mp4, title="Linear Algebra 1"))


@pytest.fixture
async def client(simulator: PanoptoSimulator) -> AsyncIterator[GuardedClient]:
    """A client that may reach the tenant, and no other private host."""
    client = GuardedClient([simulator.host_port], idle_timeout_seconds=5)
    yield client
    await client.close()


@pytest.fixture
def downloader(client: GuardedClient, simulator: PanoptoSimulator) -> MediaDownloader:
    """The downloader with little patience and 64 MiB."""
    return MediaDownloader(
        client,
        panopto_hosts=(simulator.host_port,),
        max_source_bytes=64 * MIB,
        patience=IMPATIENT,
    )


@pytest.fixture
async def scratch(tmp_path: Path) -> AsyncIterator[LocalStorage]:
    """Scratch storage of this test."""
    storage = LocalStorage(tmp_path / "scratch")
    yield storage
    await storage.close()


class Reports:
    """What a downloader reported, in order; callable as `ReportProgress`."""

    def __init__(self) -> None:
        self.all: list[Progress] = []

    async def __call__(self, progress: Progress) -> None:
        self.all.append(progress)


@pytest.fixture
def reports() -> Reports:
    return Reports()


def request_for(
    simulator: PanoptoSimulator,
    recording: Recording,
    *,
    url: str | None = None,
    stream_url: str | None = None,
    session_id: str | None = None,
) -> LectureRequest:
    """Return what a worker would be given for the recording's viewer link."""
    return LectureRequest(uuid4(), url or simulator.viewer_url(recording), session_id, stream_url)


async def download_first(
    downloader: LectureDownloader, lecture: ResolvedLecture, attempt: Attempt
) -> DownloadedSource:
    """Download the first of the lecture's media that can be had, as the pipeline does."""

    async def download(location: MediaLocation) -> DownloadedSource:
        return await downloader.download(lecture, location, attempt)

    return await from_first_medium(lecture, attempt, download)


async def open_stream(client: GuardedClient, location: MediaLocation) -> HlsStream:
    """Return the best of the location's streams, or raise why that fails."""
    async with aclosing(open_streams(client, location)) as streams:
        stream = await anext(streams)
    if isinstance(stream, IngestFailed):
        raise stream
    return stream


async def files_in(scratch: LocalStorage) -> list[str]:
    """Return the keys of all objects, half-written ones too."""
    whole = [info.key async for info in scratch.list_files()]
    return whole + [info.key async for info in scratch.list_partials()]
