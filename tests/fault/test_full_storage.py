"""A storage that is full when a process starts: it says so, and works once there is room."""

import asyncio
import contextlib
import subprocess
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest

from app.embedded.panopto import PanoptoSimulator, Recording
from app.settings import Settings, load_settings
from tests.fault.processes import Deployment
from tests.support.pdfs import make_pdf
from tests.support.service import Service
from tests.support.wait import wait_until

SIZE_BYTES = 8 * 1024 * 1024


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of its own, small enough to be filled."""
    place = tmp_path / "disk"
    place.mkdir()
    options = ["-t", "tmpfs", "-o", f"size={SIZE_BYTES}", "tmpfs", str(place)]
    try:
        subprocess.run(["mount", *options], capture_output=True, text=True, check=True)
    except OSError as error:
        pytest.skip(f"there is no mount here: {error.strerror}")
    except subprocess.CalledProcessError as error:
        pytest.skip(f"mounts are not allowed here: {error.stderr.strip()}")
    yield place
    subprocess.run(["umount", str(place)], check=True)


@pytest.fixture
def settings(settings: Settings, disk: Path) -> Settings:
    values = settings.model_dump(exclude_unset=True)
    return load_settings(**values | {"storage_url": f"file://{disk}/storage"})


async def test_processes_start_on_a_full_disk_and_work_once_there_is_room(
    deployment: Deployment,
    fault_settings: Settings,
    simulator: PanoptoSimulator,
    disk: Path,
    media: Path,
) -> None:
    filler = _fill(disk)
    for name in ("api", "worker"):
        deployment.start(name)
    address = f"http://127.0.0.1:{fault_settings.port}"
    async with httpx.AsyncClient(base_url=address, timeout=30, trust_env=False) as http:
        await asyncio.gather(deployment.ready("worker"), _answers(deployment, http))
        ready = await http.get("/health/ready")
        assert (ready.status_code, ready.json()["checks"]["storage"]) == (503, "down")
        service = Service(fault_settings, address, http, simulator)
        ada, pdf = service.user("ada"), make_pdf(1, "x" * 10_000)
        refused = await ada.post_upload(service.course, pdf, "a.pdf", "application/pdf")
        assert refused.status_code == 507
        url = simulator.viewer_url(simulator.add(Recording(media, offers=("mp4",))))
        lecture_id = (await ada.request(service.course, url))["lecture"]["id"]
        assert (await ada.until(lecture_id, "FAILED"))["failure"] == "INTERNAL"

        filler.unlink()
        await wait_until(lambda: _is_ready(http), "the API is ready")
        assert (await ada.upload(service.course, pdf))["created"] is True
        assert (await ada.request(service.course, url))["lecture"]["id"] == lecture_id
        await ada.until(lecture_id, "COMPLETED")
    assert {process.exitcode for process in deployment.running.values()} == {None}


def _fill(disk: Path) -> Path:
    """Write until there is no room left, and return the file that took it."""
    filler = disk / "filler"
    with filler.open("wb", buffering=0) as file, contextlib.suppress(OSError):
        while True:
            file.write(b"x" * 4096)
    assert filler.stat().st_size == SIZE_BYTES
    return filler


async def _answers(deployment: Deployment, http: httpx.AsyncClient) -> None:
    async def alive() -> bool:
        assert deployment.running["api"].exitcode is None, deployment.log_of("api")
        try:
            return (await http.get("/health/live")).status_code == 200
        except httpx.TransportError:
            return False

    await wait_until(alive, "the API answers")


async def _is_ready(http: httpx.AsyncClient) -> bool:
    return (await http.get("/health/ready")).status_code == 200
