"""A lecture that is no Panopto recording, through the whole service."""

from collections.abc import AsyncIterator

import pytest

from app.embedded.panopto import PanoptoSimulator, Recording
from app.settings import Settings, load_settings
from tests.support.service import Service, running_service
from tests.support.sites import Site, open_site


@pytest.fixture
async def site() -> AsyncIterator[Site]:
    async with open_site() as site:
        yield site


@pytest.fixture
async def service(
    service_settings: Settings, simulator: PanoptoSimulator, site: Site
) -> AsyncIterator[Service]:
    """A service whose operator allows the generic extractor."""
    settings = load_settings(
        **service_settings.model_dump(exclude_unset=True)
        | {
            "sources": ("youtube", "generic"),
            "fetch_allowed_private_hosts": (simulator.host_port, site.host_port),
        }
    )
    async with running_service(settings, simulator) as service:
        yield service


async def test_a_page_with_a_recording_becomes_audio(
    service: Service, site: Site, recording: Recording
) -> None:
    media_url = service.simulator.media_url(recording)
    page = site.page("/week-1", f'<video src="{media_url}"></video>', title="Calculus")
    ada = service.user("ada")
    answer = await ada.request(service.course, page)
    assert answer["lecture"]["panoptoSessionId"] is None
    lecture = await ada.until(answer["lecture"]["id"], "COMPLETED", "FAILED")
    assert lecture["status"] == "COMPLETED", lecture
    assert lecture["durationSeconds"] == 20
    assert lecture["title"].startswith("Calculus")
    assert service.stored() == {f"audio/{lecture['id']}.m4a"}


async def test_a_page_with_a_list_fails_and_says_so(service: Service, site: Site) -> None:
    page = site.page("/all", '<video src="/a.mp4"></video><video src="/b.mp4"></video>')
    ada = service.user("ada")
    answer = await ada.request(service.course, page)
    lecture = await ada.until(answer["lecture"]["id"], "COMPLETED", "FAILED")
    assert (lecture["status"], lecture["failure"]) == ("FAILED", "SOURCE_NOT_FOUND")
    assert "single recording" in lecture["errorMessage"]
    assert service.stored() == set()
