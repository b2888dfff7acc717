"""Many at once: nodes, lists and their filters, what the viewer can do with each, the limits."""

from collections.abc import AsyncIterator
from datetime import datetime
from typing import Any
from uuid import uuid4

import pytest
from sqlalchemy import insert, update
from sqlalchemy.ext.asyncio import AsyncSession, async_sessionmaker

from app.db.models import Course, Lecture
from app.domain import LectureFailure, LectureStatus
from app.embedded.panopto import PanoptoSimulator
from app.settings import Settings
from tests.pdfs import make_pdf
from tests.service import Client, Service, running_service

NODES = "query ($ids: [ID!]!) { nodes(ids: $ids) { __typename id } }"
LECTURES = """query ($status: LectureStatus, $statuses: [LectureStatus!]) {
  lectures(status: $status, statuses: $statuses) {
    totalCount edges { linkedAt node { id status viewerCanRetry viewerCanCancel } } } }"""
COUNTS = "{ viewer { lectureCounts { status count } } }"


@pytest.fixture
async def service(
    service_settings: Settings, simulator: PanoptoSimulator
) -> AsyncIterator[Service]:
    """The API alone: lectures stay as they were asked for."""
    async with running_service(service_settings, simulator, worker=False) as service:
        yield service


async def test_nodes_answer_in_order_with_what_the_viewer_may_see(
    service: Service,
    ada: Client,
    bob: Client,
    admin: Client,
    sessions: async_sessionmaker[AsyncSession],
) -> None:
    async with sessions.begin() as session:
        made = insert(Course).values(code="BIO 101", title="Cells").returning(Course.id)
        course = str(await session.scalar(made))
    lecture = (await ada.request(service.course, "http://127.0.0.1:1/a.mp4"))["lecture"]["id"]
    document = (await ada.upload(service.course, make_pdf(1)))["document"]["id"]
    ids = [document, str(uuid4()), course, lecture, document]
    own = {"Document": document, "Course": course, "Lecture": lecture}
    everything = [
        next(({"__typename": name, "id": id_} for name, id_ in own.items() if id_ == asked), None)
        for asked in ids
    ]
    assert await ada.run(NODES, ids=ids) == everything
    assert await admin.run(NODES, ids=ids) == everything
    assert await bob.run(NODES, ids=ids) == [None, None, everything[2], None, None]
    for bad in ([], [lecture] * 101, [lecture, "nonsense"]):
        assert await ada.code(NODES, ids=bad) == "BAD_USER_INPUT"
    assert len(await ada.run(NODES, ids=[lecture] * 100)) == 100


async def test_lectures_by_status(
    service: Service, ada: Client, sessions: async_sessionmaker[AsyncSession]
) -> None:
    for number in range(3):
        await ada.request(service.course, f"http://127.0.0.1:1/{number}.mp4")

    async def count(**filters: Any) -> int:
        total: int = (await ada.run(LECTURES, **filters))["totalCount"]
        return total

    statuses = ["PENDING", "DOWNLOADING", "FAILED", "FAILED"]
    assert await count(statuses=statuses) == await count() == 3
    assert await count(statuses=["COMPLETED"]) == await count(statuses=[]) == 0
    assert await count(status="COMPLETED", statuses=statuses) == 0
    async with sessions.begin() as session:
        failed = {"status": LectureStatus.FAILED, "failure": LectureFailure.NETWORK}
        await session.execute(update(Lecture).values(failed))
    assert await count(status="FAILED", statuses=statuses) == 3
    assert (await ada.run(COUNTS))["lectureCounts"] == [
        {"status": status, "count": 3 if status == "FAILED" else 0}
        for status in ("PENDING", "DOWNLOADING", "COMPLETED", "FAILED")
    ]


async def test_links_have_their_time_in_lists_of_ones_own(
    service: Service, ada: Client, bob: Client, admin: Client
) -> None:
    url = "http://127.0.0.1:1/a.mp4"
    created = (await ada.request(service.course, url))["lecture"]["createdAt"]
    await bob.request(service.course, url)
    times = []
    for user in (ada, bob):
        (edge,) = (await user.run(LECTURES))["edges"]
        times.append(datetime.fromisoformat(edge["linkedAt"]))
    assert datetime.fromisoformat(created) <= times[0] < times[1]
    (edge,) = (await admin.run("{ allLectures { edges { linkedAt } } }"))["edges"]
    assert edge == {"linkedAt": None}
    await ada.upload(service.course, make_pdf(1))
    (edge,) = (await ada.run("{ documents { edges { linkedAt } } }"))["edges"]
    assert datetime.fromisoformat(edge["linkedAt"])


async def test_what_the_viewer_can_do_is_what_the_mutations_do(
    service: Service, ada: Client, bob: Client, admin: Client
) -> None:
    url = "http://127.0.0.1:1/a.mp4"
    fields = "viewerCanRetry viewerCanCancel"
    get = f"query ($id: ID!) {{ lecture(id: $id) {{ {fields} }} }}"
    cancel, retry = (
        f"mutation ($id: ID!) {{ {verb}LectureDownload(id: $id)"
        f" {{ ... on LecturePayload {{ lecture {{ {fields} }} }} }} }}"
        for verb in ("cancel", "retry")
    )
    pending = {"viewerCanRetry": False, "viewerCanCancel": True}
    failed = {"viewerCanRetry": True, "viewerCanCancel": False}
    neither = {"viewerCanRetry": False, "viewerCanCancel": False}

    lecture_id = (await ada.request(service.course, url))["lecture"]["id"]
    assert await ada.run(get, id=lecture_id) == pending
    await bob.request(service.course, url)
    assert await ada.run(get, id=lecture_id) == await bob.run(get, id=lecture_id) == neither
    assert await ada.run(cancel, id=lecture_id) == {}
    assert await admin.run(get, id=lecture_id) == pending
    assert (await admin.run(cancel, id=lecture_id))["lecture"] == failed
    assert await ada.run(get, id=lecture_id) == failed
    assert (await ada.run(retry, id=lecture_id))["lecture"] == neither
    await bob.run("mutation ($id: ID!) { unlinkLecture(id: $id) { __typename } }", id=lecture_id)
    assert await ada.run(get, id=lecture_id) == pending
    assert (await ada.run(cancel, id=lecture_id))["lecture"] == failed


async def test_the_limits_are_the_services_own(service: Service, ada: Client) -> None:
    fields = "maxUploadBytes operationsPerSocket linksPerRequest maxPageSize"
    assert await ada.run(f"{{ limits {{ {fields} }} }}") == {
        "maxUploadBytes": service.settings.max_upload_bytes,
        "operationsPerSocket": 20,
        "linksPerRequest": 50,
        "maxPageSize": 100,
    }
