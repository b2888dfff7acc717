"""API and workers as real processes, to be killed, paused and starved."""

import asyncio
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import httpx
import pytest

from app.embedded.panopto import PanoptoSimulator
from app.embedded.sample_media import make_lecture
from app.settings import Settings, load_settings
from app.supervisor import free_address
from tests.fault.processes import Deployment
from tests.support.service import Service

GRACE_SECONDS = 2.0


@pytest.fixture(scope="session")
def media(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A lecture of 20 s, about 400 kB."""
    return make_lecture(tmp_path_factory.mktemp("media") / "lecture.mp4", 20, size_bytes=400_000)


@pytest.fixture
def simulator() -> Iterator[PanoptoSimulator]:
    """A tenant without recordings."""
    simulator = PanoptoSimulator()
    simulator.start()
    yield simulator
    simulator.stop()


@pytest.fixture
def fault_settings(settings: Settings, simulator: PanoptoSimulator) -> Settings:
    return load_settings(
        **settings.model_dump(exclude_unset=True)
        | {
            "port": free_address("127.0.0.1", 0).port,
            "panopto_hosts": (simulator.host_port,),
            "fetch_allowed_private_hosts": (simulator.host_port,),
            "sweep_grace_seconds": GRACE_SECONDS,
        }
    )


@pytest.fixture
def deployment(fault_settings: Settings, tmp_path: Path) -> Iterator[Deployment]:
    """Nothing runs yet; whatever is started here is gone afterwards."""
    deployment = Deployment(fault_settings, tmp_path / "logs")
    yield deployment
    deployment.kill_all()
    for log in sorted(deployment.logs.glob("*.log")):  # shown where the test has failed
        print(f"--- {log.name}", *log.read_text().splitlines()[-40:], sep="\n")
    assert deployment.strays() == []


@pytest.fixture
async def service(
    deployment: Deployment, fault_settings: Settings, simulator: PanoptoSimulator
) -> AsyncIterator[Service]:
    """An API process and one worker process."""
    deployment.start("api")
    deployment.start("worker")
    address = f"http://127.0.0.1:{fault_settings.port}"
    limits = httpx.Limits(max_connections=100)
    async with httpx.AsyncClient(
        base_url=address, timeout=30, limits=limits, trust_env=False
    ) as http:
        await asyncio.gather(deployment.ready("api"), deployment.ready("worker"))
        yield Service(fault_settings, address, http, simulator)
