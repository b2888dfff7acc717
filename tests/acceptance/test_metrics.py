"""What /metrics tells: every number there is moved by something that the service does."""

from app.embedded.panopto import PanoptoSimulator, Recording
from app.observability import REGISTRY, SUBSCRIPTIONS
from app.settings import Settings
from tests.support.service import Client, Service, running_service
from tests.support.wait import wait_until

MY_LECTURES = "subscription { myLectures { lectureId } }"


async def _metrics(service: Service) -> dict[str, float]:
    """Return the sum of each metric of ours."""
    assert (await service.http.get("/metrics")).status_code == 200
    return {
        family.name: sum(each.value for each in family.samples)
        for family in REGISTRY.collect()
        if family.name.startswith("studybuddy_")
    }


async def test_every_metric_is_moved_by_what_it_counts(
    service_settings: Settings, simulator: PanoptoSimulator, recording: Recording
) -> None:
    async with running_service(service_settings, simulator, worker=False) as service:
        before = await _metrics(service)
        ada = service.user("ada")
        await ada.request(service.course, simulator.viewer_url(recording))
        async with ada.socket() as socket:
            await socket.subscribe(MY_LECTURES)

            async def moved() -> bool:
                return all(
                    value > before[name] for name, value in (await _metrics(service)).items()
                )

            await wait_until(moved, "every metric is above what it was")
        open_jobs = 'studybuddy_open_jobs{kind="download_lecture",state="queued"} 1.0'
        assert open_jobs in (await service.http.get("/metrics")).text


async def test_what_has_ended_is_open_no_more(service: Service, ada: Client) -> None:
    async with ada.socket() as socket:
        await socket.subscribe(MY_LECTURES)
        await wait_until(lambda: SUBSCRIPTIONS._value.get() == 1, "it is open")
    await wait_until(lambda: SUBSCRIPTIONS._value.get() == 0, "it is open no more")
