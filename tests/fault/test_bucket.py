"""Two machines with disks of their own and one bucket: what one leaves, the other begins anew."""

from contextlib import suppress
from pathlib import Path

import pytest

from app.embedded.panopto import Recording
from app.settings import Settings
from tests.fault.ledger_state import Database
from tests.fault.processes import Deployment
from tests.support.s3 import S3Service, s3_settings
from tests.support.service import Service
from tests.support.wait import wait_until


@pytest.fixture
def fault_settings(fault_settings: Settings, s3_endpoint: str) -> Settings:
    return s3_settings(s3_endpoint, fault_settings)


def files_in(data_directory: Path) -> list[Path]:
    return [path for path in (data_directory / "scratch").rglob("*") if path.is_file()]


def has_bytes(path: Path, least: int) -> bool:
    """Return whether the file is there with as many: one that was listed may be gone again."""
    with suppress(FileNotFoundError):
        return path.stat().st_size >= least
    return False


async def test_a_machine_that_dies_is_replaced_by_another(
    service: Service, deployment: Deployment, media: Path, s3_endpoint: str, tmp_path: Path
) -> None:
    settings, ada = service.settings, service.user("ada")
    same = settings, service.address, service.http, service.simulator
    bucket = S3Service(*same, endpoint=s3_endpoint)
    recording = service.simulator.add(Recording(media, offers=("mp4",)))
    recording.faults.bytes_per_second = 100_000
    url = service.simulator.viewer_url(recording)
    lecture_id = (await ada.request(service.course, url))["lecture"]["id"]
    has_come = lambda: any(has_bytes(path, 50_000) for path in files_in(settings.data_path))  # noqa: E731
    await wait_until(has_come, "bytes have come")
    deployment.kill("worker")
    service.simulator.requests.clear()
    recording.faults.bytes_per_second = None

    elsewhere = tmp_path / "another machine"
    deployment.start("worker-2", DATA_DIR=str(elsewhere))
    lecture = await ada.until(lecture_id, "COMPLETED", "FAILED")
    assert (lecture["status"], lecture["attempt"]) == ("COMPLETED", 2)
    first, *_ = service.simulator.media_requests(recording)
    assert first.range in {None, "bytes=0-524287"}, "it begins at the beginning"
    in_bucket = {key for key in bucket.stored() if not key.startswith("scratch ")}
    assert in_bucket == {f"audio/{lecture_id}.m4a"}
    assert files_in(elsewhere) == []

    assert files_in(settings.data_path), "what the dead machine had is on its own disk"
    await deployment.restart("worker")
    swept = lambda: files_in(settings.data_path) == []  # noqa: E731
    await wait_until(swept, "the machine that is back has swept its own disk")
    database = Database(settings.database_url or "")
    assert await database.rows("SELECT 1 FROM jobs WHERE state = 'failed'") == []
