"""The whole service on real servers, and a tenant with real media."""

from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from app.embedded.panopto import PanoptoSimulator, Recording
from app.embedded.sample_media import make_lecture
from app.settings import Settings, load_settings
from tests.support.service import Client, Service, running_service


@pytest.fixture(scope="session")
def media(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A lecture of 20 s: h264 and AAC."""
    return make_lecture(tmp_path_factory.mktemp("media") / "lecture.mp4", 20)


@pytest.fixture
async def simulator() -> AsyncIterator[PanoptoSimulator]:
    """A tenant without recordings."""
    async with PanoptoSimulator() as simulator:
        yield simulator


@pytest.fixture
def recording(simulator: PanoptoSimulator, media: Path) -> Recording:
    """A recording of that tenant."""
    return simulator.add(Recording(media, title="Photosynthesis"))


@pytest.fixture
def service_settings(settings: Settings, simulator: PanoptoSimulator) -> Settings:
    """Settings under which the tenant is one."""
    return load_settings(
        **settings.model_dump(exclude_unset=True),
        panopto_hosts=(simulator.host_port,),
        fetch_allowed_private_hosts=(simulator.host_port,),
    )


@pytest.fixture
async def service(
    service_settings: Settings, simulator: PanoptoSimulator
) -> AsyncIterator[Service]:
    """API and worker."""
    async with running_service(service_settings, simulator) as service:
        yield service


@pytest.fixture
def ada(service: Service) -> Client:
    """A student."""
    return service.user("ada")


@pytest.fixture
def bob(service: Service) -> Client:
    """Another student."""
    return service.user("bob")


@pytest.fixture
def admin(service: Service) -> Client:
    """The administrator."""
    return service.user("admin")
