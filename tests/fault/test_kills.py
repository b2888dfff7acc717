"""kill -9, at random points, of workers, of the API, and of both at once."""

import asyncio
import random
import statistics
import time
from collections.abc import Iterable
from pathlib import Path
from uuid import UUID, uuid4

import httpx
import pytest

from app.domain import JobKind
from app.embedded.panopto import Recording
from tests.fault.ledger_state import Database, all_ended, assert_one_effect
from tests.fault.processes import Deployment
from tests.support.pdfs import make_pdf
from tests.support.service import Client, Service
from tests.support.wait import wait_until

VICTIMS = (("worker",), ("api",), ("api", "worker"))
LONGEST_SECONDS = 15.0

Orphans = dict[str, int]
"""What each lecture's attempt was when its worker died."""


async def test_kills(service: Service, deployment: Deployment, media: Path) -> None:
    await _kill_repeatedly(service, deployment, media, rounds=3, lectures=4, download_seconds=1.0)


@pytest.mark.fault_long
async def test_fifty_kills(service: Service, deployment: Deployment, media: Path) -> None:
    await _kill_repeatedly(service, deployment, media, rounds=50, lectures=20, download_seconds=2.7)


async def _kill_repeatedly(
    service: Service,
    deployment: Deployment,
    media: Path,
    *,
    rounds: int,
    lectures: int,
    download_seconds: float,
) -> None:
    database = Database(service.settings.database_url or "")
    deployment.start("worker-2")
    await deployment.ready("worker-2")
    recoveries: list[float] = []
    for number in range(rounds):
        victims = VICTIMS[number % len(VICTIMS)]
        recordings = [_recording(service, media, download_seconds) for _ in range(lectures)]
        random_point = random.uniform(0.2, 1.1 * download_seconds)
        recoveries += await _one_round(service, deployment, recordings, victims, random_point)
    await all_ended(database, rounds * lectures)
    await assert_one_effect(service, deployment, database)
    _report(f"{rounds} kills, {rounds * lectures} lectures", recoveries)
    assert max(recoveries, default=0) < LONGEST_SECONDS


async def _one_round(
    service: Service,
    deployment: Deployment,
    recordings: list[Recording],
    victims: tuple[str, ...],
    random_point: float,
) -> list[float]:
    """Request, kill after so many seconds, start again; return how long each orphan had to wait."""
    database = Database(service.settings.database_url or "")
    before = len(await database.attempts())
    requests = [asyncio.create_task(_until_answered(service, each)) for each in recordings]
    await asyncio.sleep(random_point)
    orphans = await _held_by(database, deployment, victims)
    killed_at = time.monotonic()
    for victim in victims:
        deployment.kill(victim)
    waiting = [asyncio.create_task(_taken_up_again(database, *each)) for each in orphans.items()]
    await asyncio.gather(*(deployment.restart(victim) for victim in victims))
    answered = await asyncio.gather(*requests)
    assert len(set(answered)) == len(recordings), "a lecture was doubled, or lost"
    again = await asyncio.gather(*waiting)
    await all_ended(database, before + len(recordings))
    return [moment - killed_at for moment in again if moment is not None]


def _recording(service: Service, media: Path, download_seconds: float) -> Recording:
    recording = service.simulator.add(Recording(media, offers=("mp4",)))
    recording.faults.bytes_per_second = round(media.stat().st_size / download_seconds)
    return recording


async def _until_answered(service: Service, recording: Recording) -> str:
    """Ask as a patient client does; what was answered once must be answered again the same."""
    ada, url = service.user("ada"), service.simulator.viewer_url(recording)
    while True:
        try:
            lecture_id: str = (await ada.request(service.course, url))["lecture"]["id"]
        except httpx.HTTPError:
            await asyncio.sleep(0.05)
        else:
            return lecture_id


async def _held_by(database: Database, deployment: Deployment, victims: Iterable[str]) -> Orphans:
    """Return the attempt of each lecture that a process which is about to die downloads."""
    held = await database.rows(
        """
        SELECT lectures.id::text, lectures.attempt
        FROM lectures JOIN jobs ON jobs.subject_id = lectures.id
        WHERE jobs.state = 'running' AND lectures.status = 'downloading'
          AND split_part(jobs.holder, ' ', 3) = ANY($1)
        """,
        [str(deployment.pid_of(victim)) for victim in victims],
    )
    return {row[0]: row[1] for row in held}


async def _taken_up_again(database: Database, lecture_id: str, attempt: int) -> float | None:
    """Return when the lecture was taken up again; None where it had just ended."""

    async def moved() -> str | None:
        status, now = (await database.attempts())[lecture_id]
        return "again" if now > attempt else status if status in {"completed", "failed"} else None

    how = await wait_until(moved, "an orphan is taken up")
    return time.monotonic() if how == "again" else None


def _report(what: str, seconds: list[float]) -> None:
    if not seconds:
        return
    ordered = sorted(seconds)
    p95 = ordered[max(0, round(0.95 * len(ordered)) - 1)]
    median = statistics.median(ordered)
    print(
        f"\n{what}: {len(ordered)} interrupted downloads went on after"
        f" median {median:.1f} s, p95 {p95:.1f} s, longest {ordered[-1]:.1f} s"
    )


async def test_who_is_interrupted_again_and_again_gets_through(
    service: Service, deployment: Deployment, media: Path
) -> None:
    await _kill_the_same_work(service, deployment, media, kills=3, lectures=5, download_seconds=5.0)


@pytest.mark.fault_long
async def test_twenty_lectures_are_interrupted_twelve_times(
    service: Service, deployment: Deployment, media: Path
) -> None:
    deployment.start("worker-2")
    await deployment.ready("worker-2")
    await _kill_the_same_work(
        service, deployment, media, kills=12, lectures=20, download_seconds=24.0
    )


async def _kill_the_same_work(
    service: Service,
    deployment: Deployment,
    media: Path,
    *,
    kills: int,
    lectures: int,
    download_seconds: float,
) -> None:
    """Kill before the work is done, and again: all of it is innocent, and goes on at once."""
    database = Database(service.settings.database_url or "")
    recordings = [_recording(service, media, download_seconds) for _ in range(lectures)]
    await asyncio.gather(*(_until_answered(service, each) for each in recordings))
    workers = [name for name in deployment.running if name.startswith("worker")]
    recoveries: list[float] = []
    for _ in range(kills):
        await asyncio.sleep(random.uniform(0.5, 1.5))  # the random point
        victim = random.choice(workers)
        orphans = await _held_by(database, deployment, [victim])
        killed_at = time.monotonic()
        deployment.kill(victim)
        waiting = [
            asyncio.create_task(_taken_up_again(database, *each)) for each in orphans.items()
        ]
        await deployment.restart(victim)
        again = await asyncio.gather(*waiting)
        recoveries += [moment - killed_at for moment in again if moment is not None]
    await all_ended(database, lectures, timeout_seconds=download_seconds + 60)
    await assert_one_effect(service, deployment, database)
    _report(f"{kills} kills of the same {lectures} lectures", recoveries)
    assert max(recoveries, default=0) < LONGEST_SECONDS


async def test_what_kills_its_workers_fails_and_hurts_nobody_else(
    service: Service, deployment: Deployment, media: Path
) -> None:
    """The tenth worker dies of it; the nine before are told by the ledger alone."""
    database = Database(service.settings.database_url or "")
    ada = service.user("ada")
    innocent, killer = (_recording(service, media, seconds) for seconds in (2.0, 200.0))
    lecture = (await ada.request(service.course, service.simulator.viewer_url(killer)))["lecture"]
    await ada.until(lecture["id"], "DOWNLOADING")
    await database.rows("UPDATE jobs SET crashes = 9 WHERE subject_id = $1", UUID(lecture["id"]))
    url = service.simulator.viewer_url(innocent)
    other = (await ada.request(service.course, url))["lecture"]
    await ada.until(other["id"], "DOWNLOADING")
    deployment.kill("worker")
    await deployment.restart("worker")
    await ada.until(other["id"], "COMPLETED", timeout_seconds=40)
    failed = await ada.until(lecture["id"], "FAILED", timeout_seconds=30)
    assert (failed["failure"], failed["attempt"]) == ("INTERNAL", 1)
    await wait_until(
        lambda: service.stored() == {f"audio/{other['id']}.m4a"}, "no strays", timeout_seconds=20
    )


async def test_a_paused_worker_changes_nothing_when_it_goes_on(
    service: Service, deployment: Deployment, media: Path
) -> None:
    await _pause(service, deployment, media)


@pytest.mark.fault_long
async def test_a_worker_is_paused_at_many_points(
    service: Service, deployment: Deployment, media: Path
) -> None:
    for _ in range(8):
        await _pause(service, deployment, media)
        deployment.kill("worker-2")


async def _pause(service: Service, deployment: Deployment, media: Path) -> None:
    """SIGSTOP past the lease, a successor that finishes, SIGCONT."""
    database = Database(service.settings.database_url or "")
    ada = service.user("ada")
    known = len(await database.attempts())
    for _ in range(4):
        url = service.simulator.viewer_url(_recording(service, media, 1.5))
        await ada.request(service.course, url)
    await asyncio.sleep(random.uniform(0.3, 1.3))  # the random point
    with deployment.paused("worker"):
        deployment.start("worker-2")
        await deployment.ready("worker-2")
        await all_ended(database, known + 4, timeout_seconds=120)
        query = "SELECT id, revision, updated_at, attempt FROM lectures ORDER BY id"
        before = await database.rows(query)
    await wait_until(lambda: _renews_again(database, deployment), "it is awake")
    assert await database.rows(query) == before
    await assert_one_effect(service, deployment, database)


async def _renews_again(database: Database, deployment: Deployment) -> bool:
    """Whether the paused worker has noticed that it lost everything, if it held anything."""
    log = deployment.log_of("worker")
    return log.count("job_claimed") == log.count("job_ended")


async def test_uploads_race_with_unlinks(service: Service, deployment: Deployment) -> None:
    await _race_uploads(service, deployment, rounds=20)


@pytest.mark.fault_long
async def test_two_hundred_uploads_race_with_unlinks(
    service: Service, deployment: Deployment
) -> None:
    await _race_uploads(service, deployment, rounds=200)


async def _race_uploads(service: Service, deployment: Deployment, rounds: int) -> None:
    """The last unlink and a new upload of the same bytes, again and again, at the same moment."""
    ada, bob = service.user("ada"), service.user("bob")
    course, content = uuid4(), make_pdf(2, "race")
    held = (await ada.upload(course, content))["document"]["id"]
    for _ in range(rounds):
        unlinked, uploaded = await asyncio.gather(
            ada.run(_UNLINK, id=held), bob.upload(course, content)
        )
        assert unlinked["__typename"] == "UnlinkDocumentPayload"
        held = uploaded["document"]["id"]
        assert (await bob.document(held))["id"] == held
        assert (await bob.get(f"/api/documents/{held}/file")).content == content
        ada, bob = bob, ada
    database = Database(service.settings.database_url or "")
    assert len(await database.rows("SELECT 1 FROM documents")) == 1
    pages = lambda: _has_pages(ada, held)  # noqa: E731
    await wait_until(pages, "the pages are counted", timeout_seconds=20)
    await assert_one_effect(service, deployment, database)
    counted = "SELECT 1 FROM jobs WHERE kind = $1 AND state IN ('queued', 'running')"
    assert await database.rows(counted, JobKind.COUNT_PAGES.value) == []


async def _has_pages(client: Client, document_id: str) -> bool:
    return (await client.document(document_id))["pageCount"] == 2


_UNLINK = """mutation ($id: ID!) { unlinkDocument(id: $id) {
  __typename ... on UnlinkDocumentPayload { deleted } } }"""
