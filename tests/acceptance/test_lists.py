"""Many at once: nodes, lists, unlinking; what the viewer can do with each, and the limits."""

import asyncio
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
from tests.support.pdfs import make_pdf
from tests.support.service import Client, Service, running_service

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


UNLINK = """mutation ($ids: [ID!]!) { unlinkLectures(ids: $ids) {
  ... on UnlinkLecturesPayload { results {
    ... on UnlinkLecturePayload { lectureId deleted } ... on NotFoundError { missingId } } }
  ... on InvalidInputError { fieldErrors { path code } } } }"""
UNLINK_DOCUMENTS = UNLINK.replace("Lecture", "Document").replace("lectureId", "documentId")


async def test_unlinking_many_answers_for_each_in_order(
    service: Service, ada: Client, bob: Client
) -> None:
    unknown = str(uuid4())
    urls = [f"http://127.0.0.1:1/{number}.mp4" for number in range(3)]
    alone, shared = [(await ada.request(service.course, url))["lecture"]["id"] for url in urls[:2]]
    await bob.request(service.course, urls[1])
    bobs = (await bob.request(service.course, urls[2]))["lecture"]["id"]
    ids = [unknown, shared, bobs, alone, shared.upper()]
    for bad, code in (([], "REQUIRED"), ([alone] * 101, "TOO_MANY")):
        (problem,) = (await ada.run(UNLINK, ids=bad))["fieldErrors"]
        assert problem == {"path": ["ids"], "code": code}
    assert await ada.code(UNLINK, ids=[alone, "nonsense"]) == "BAD_USER_INPUT"
    assert (await ada.run(LECTURES))["totalCount"] == 2
    assert (await ada.run(UNLINK, ids=ids))["results"] == [
        {"missingId": unknown},
        {"lectureId": shared, "deleted": False},
        {"missingId": bobs},
        {"lectureId": alone, "deleted": True},
        {"lectureId": shared, "deleted": False},
    ]
    assert (await ada.run(LECTURES))["totalCount"] == 0
    assert (await bob.run(LECTURES))["totalCount"] == 2
    assert (await ada.run(UNLINK, ids=[alone]))["results"] == [{"missingId": alone}]


async def test_unlinking_documents_takes_their_files(
    service: Service, ada: Client, bob: Client
) -> None:
    pdfs = [make_pdf(1) + f"% {number}".encode() for number in range(3)]
    ids = [(await ada.upload(service.course, pdf))["document"]["id"] for pdf in pdfs]
    await bob.upload(service.course, pdfs[1])
    assert (await ada.run(UNLINK_DOCUMENTS, ids=ids))["results"] == [
        {"documentId": ids[0], "deleted": True},
        {"documentId": ids[1], "deleted": False},
        {"documentId": ids[2], "deleted": True},
    ]
    assert service.stored() == {f"documents/{ids[1]}.pdf"}
    (problem,) = (await ada.run(UNLINK_DOCUMENTS, ids=[]))["fieldErrors"]
    assert problem == {"path": ["ids"], "code": "REQUIRED"}


async def test_unlinks_in_opposite_orders_wait_for_no_ring(
    service: Service, ada: Client, bob: Client
) -> None:
    urls = [f"http://127.0.0.1:1/{number}.mp4" for number in range(20)]
    for _ in range(5):
        ids = [(await ada.request(service.course, url))["lecture"]["id"] for url in urls]
        for url in urls:
            await bob.request(service.course, url)
        answers = await asyncio.gather(ada.run(UNLINK, ids=ids), bob.run(UNLINK, ids=ids[::-1]))
        mine, others = (answers[0]["results"], answers[1]["results"][::-1])
        pairs = zip(mine, others, strict=True)
        assert all(one["deleted"] != other["deleted"] for one, other in pairs)


async def test_each_refused_argument_is_named(ada: Client) -> None:
    nodes = "query ($these: [ID!]!) { nodes(ids: $these) { id } }"
    mutation = "mutation ($one: ID!) { retryLectureDownload(id: $one) { __typename } }"
    for query, variables, path in (
        ('{ lecture(id: "nope") { id } }', {}, ["id"]),
        ("query ($one: ID!) { document(id: $one) { id } }", {"one": "nope"}, ["one"]),
        (mutation, {"one": "nope"}, ["one"]),
        (nodes, {"these": [str(uuid4()), "nope"]}, ["these", 1]),
        (nodes, {"these": []}, ["these"]),
        ('{ lectures(courseId: "no") { totalCount } }', {}, ["courseId"]),
        ("query ($n: Int) { lectures(first: $n) { totalCount } }", {"n": 0}, ["n"]),
        ('{ documents(after: "nope") { totalCount } }', {}, ["after"]),
        (
            "query ($text: String) { courses(search: $text) { totalCount } }",
            {"text": "a " * 9},
            ["text"],
        ),
    ):
        (error,) = (await ada.answer(query, variables))["errors"]
        assert error["extensions"]["code"] == "BAD_USER_INPUT"
        (problem,) = error["extensions"]["problems"]
        assert (problem["path"], problem["message"]) == (path, error["message"])
