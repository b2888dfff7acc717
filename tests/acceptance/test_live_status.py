"""Live status over WebSocket and SSE: a snapshot, then rising revisions, and an end."""

import asyncio
import json
from typing import Any
from uuid import uuid4

from app.embedded.panopto import Recording
from tests.support.graphql_ws import GraphQLSocketClient
from tests.support.pdfs import make_pdf
from tests.support.service import Client, Service

WATCH = """subscription ($id: ID!) { lectureStatus(id: $id) {
  id status revision progress { stage downloadedBytes totalBytes percent } } }"""
MY_LECTURES = "subscription { myLectures { kind lectureId lecture { id status revision } } }"
MY_DOCUMENTS = """subscription { myDocuments {
  kind documentId document { id filename pageCount revision } } }"""
UNLINK = "mutation ($id: ID!) { unlinkLecture(id: $id) { __typename } }"
UNLINK_DOCUMENT = "mutation ($id: ID!) { unlinkDocument(id: $id) { __typename } }"


async def states_until_complete(socket: GraphQLSocketClient) -> list[dict[str, Any]]:
    states = []
    while (message := await socket.receive())["type"] == "next":
        assert "errors" not in message["payload"], message
        states.append(message["payload"]["data"]["lectureStatus"])
    assert message["type"] == "complete", message
    return states


async def test_a_download_is_seen_live(service: Service, ada: Client, recording: Recording) -> None:
    recording.offers = ("mp4",)
    recording.faults.bytes_per_second = recording.media.stat().st_size // 3
    url = service.simulator.viewer_url(recording)
    lecture_id = (await ada.request(service.course, url))["lecture"]["id"]
    async with ada.socket() as socket:
        await socket.subscribe(WATCH, {"id": lecture_id})
        states = await states_until_complete(socket)
    revisions = [state["revision"] for state in states]
    assert revisions == sorted(set(revisions))
    assert states[-1]["status"] == "COMPLETED"
    assert states[-1]["progress"] is None
    fetched = [s["progress"] for s in states if s["progress"] and s["progress"]["totalBytes"]]
    assert fetched, states
    assert all(0 <= progress["percent"] <= 100 for progress in fetched)
    assert len({progress["downloadedBytes"] for progress in fetched}) > 1


async def test_an_ended_lecture_is_told_once_over_socket_and_sse(
    service: Service, ada: Client, recording: Recording
) -> None:
    url = service.simulator.viewer_url(recording)
    lecture_id = (await ada.request(service.course, url))["lecture"]["id"]
    await ada.until(lecture_id, "COMPLETED")
    async with ada.socket() as socket:
        await socket.subscribe(WATCH, {"id": lecture_id})
        assert [state["status"] for state in await states_until_complete(socket)] == ["COMPLETED"]
    response = await service.http.post(
        "/graphql",
        json={"query": WATCH, "variables": {"id": lecture_id}},
        headers={"Authorization": f"Bearer {ada.token}", "Accept": "text/event-stream"},
    )
    events = [e.splitlines() for e in response.text.replace("\r\n", "\n").split("\n\n") if e]
    assert [lines[0] for lines in events] == ["event: next", "event: complete"]
    state = json.loads(events[0][1].removeprefix("data: "))["data"]["lectureStatus"]
    assert state["status"] == "COMPLETED"


async def test_a_stranger_cannot_watch(
    service: Service, ada: Client, bob: Client, recording: Recording
) -> None:
    url = service.simulator.viewer_url(recording)
    lecture_id = (await ada.request(service.course, url))["lecture"]["id"]
    async with bob.socket() as socket:
        for some_id in (lecture_id, str(uuid4())):
            await socket.subscribe(WATCH, {"id": some_id})
            message = await socket.receive()
            assert message["type"] == "error"
            assert message["payload"][0]["extensions"]["code"] == "NOT_FOUND"


async def test_losing_the_lecture_ends_the_watching(
    service: Service, ada: Client, recording: Recording
) -> None:
    recording.offers = ("mp4",)
    recording.faults.bytes_per_second = 1_000
    url = service.simulator.viewer_url(recording)
    lecture_id = (await ada.request(service.course, url))["lecture"]["id"]
    async with ada.socket() as socket:
        await socket.subscribe(WATCH, {"id": lecture_id})
        await socket.next()
        await ada.run(UNLINK, id=lecture_id)
        async with asyncio.timeout(3):
            await states_until_complete(socket)


async def test_my_lectures_tells_every_change_and_the_loss(
    service: Service, ada: Client, bob: Client, recording: Recording
) -> None:
    url = service.simulator.viewer_url(recording)
    async with ada.socket() as socket, bob.socket() as other:
        await socket.subscribe(MY_LECTURES)
        await other.subscribe(MY_LECTURES)
        # Answered in order, so the subscription is there before the request is made.
        await socket.subscribe("{ viewer { id } }", operation_id="2")
        await socket.next("2")
        await socket.receive()
        lecture_id = (await ada.request(service.course, url))["lecture"]["id"]
        revision = 0
        while True:
            event = (await socket.next())["data"]["myLectures"]
            assert event["lectureId"] == lecture_id
            assert event["lecture"]["revision"] > revision
            assert event["kind"] == ("CHANGED" if revision else "LINKED")
            revision = event["lecture"]["revision"]
            if event["lecture"]["status"] == "COMPLETED":
                break
        await ada.run(UNLINK, id=lecture_id)
        event = (await socket.next())["data"]["myLectures"]
        assert event == {"kind": "REMOVED", "lectureId": lecture_id, "lecture": None}
        # Bob heard nothing of it: his first event is his own lecture's.
        mine = (await bob.request(service.course, url))["lecture"]["id"]
        event = (await other.next())["data"]["myLectures"]
        assert event["lectureId"] == mine != lecture_id
        assert event["kind"] == "LINKED"


async def test_my_documents_tells_page_counts_links_and_losses(
    service: Service, ada: Client
) -> None:
    async with ada.socket() as socket:
        await socket.subscribe(MY_DOCUMENTS)
        await socket.subscribe("{ viewer { id } }", operation_id="2")
        await socket.next("2")
        await socket.receive()
        pdf = make_pdf(2)
        document_id = (await ada.upload(service.course, pdf))["document"]["id"]
        kinds = []
        while True:
            event = (await socket.next())["data"]["myDocuments"]
            assert event["documentId"] == document_id
            kinds.append(event["kind"])
            if event["document"]["pageCount"] == 2:
                break
        assert kinds in (["LINKED"], ["LINKED", "CHANGED"])
        revision = event["document"]["revision"]
        assert revision == 2
        await ada.upload(service.course, pdf, "renamed.pdf")
        event = (await socket.next())["data"]["myDocuments"]
        assert event["document"]["filename"] == "renamed.pdf"
        assert event["kind"] == "CHANGED"
        assert event["document"]["revision"] == revision + 1
        await ada.run(UNLINK_DOCUMENT, id=document_id)
        event = (await socket.next())["data"]["myDocuments"]
        assert event == {"kind": "REMOVED", "documentId": document_id, "document": None}


async def test_an_admin_who_unlinks_has_lost_it_too(
    service: Service, ada: Client, admin: Client, recording: Recording
) -> None:
    url = service.simulator.viewer_url(recording)
    lecture_id = (await ada.request(service.course, url))["lecture"]["id"]
    await admin.request(service.course, url)
    await ada.until(lecture_id, "COMPLETED")
    async with admin.socket() as socket:
        await socket.subscribe(MY_LECTURES)
        await socket.subscribe("{ viewer { id } }", operation_id="2")
        await socket.next("2")
        await socket.receive()
        await admin.run(UNLINK, id=lecture_id)
        event = (await socket.next())["data"]["myLectures"]
        assert event == {"kind": "REMOVED", "lectureId": lecture_id, "lecture": None}
