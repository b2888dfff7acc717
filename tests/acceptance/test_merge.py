"""Two lectures that prove to be one recording: a `tid` link tells late which one it is."""

import asyncio
from uuid import uuid4

import pytest

from app.embedded.panopto import Recording
from tests.acceptance.test_live_status import WATCH, states_until_complete
from tests.support.service import Client, Service
from tests.support.wait import wait_until

MINE = "query { lectures(first: 50) { totalCount nodes { id } } }"


def tid_link(service: Service, recording: Recording) -> str:
    return f"{service.simulator.base_url}/Panopto/Pages/Viewer.aspx?tid={recording.tid}"


async def ids_of(client: Client) -> list[str]:
    answer = await client.run(MINE)
    assert answer["totalCount"] == len(answer["nodes"])
    return [node["id"] for node in answer["nodes"]]


async def one_lecture(service: Service, *ids: str, users: tuple[Client, ...]) -> str:
    """Wait until all ids are one completed lecture to everyone, and return its id."""

    async def merged() -> str | None:
        found = [await user.lecture(each) for user in users for each in ids]
        same = {lecture["id"] for lecture in found if lecture}
        whole = all(lecture and lecture["status"] == "COMPLETED" for lecture in found)
        return same.pop() if whole and len(same) == 1 else None

    survivor: str = await wait_until(merged, "the lectures are one", timeout_seconds=30)
    for user in users:
        assert await ids_of(user) == [survivor]
    await wait_until(
        lambda: service.stored() == {f"audio/{survivor}.m4a"}, "nothing else is stored"
    )
    return survivor


async def test_a_tid_of_a_completed_recording_joins_it(
    service: Service, ada: Client, bob: Client, recording: Recording
) -> None:
    first = await ada.request(service.course, service.simulator.viewer_url(recording))
    await ada.until(first["lecture"]["id"], "COMPLETED")
    second = await bob.request(service.course, tid_link(service, recording))
    assert second["created"]
    assert second["lecture"]["panoptoSessionId"] is None
    alias = second["lecture"]["id"]

    async def seen() -> bool:
        lecture = await bob.lecture(alias)
        return bool(lecture) and lecture["id"] == first["lecture"]["id"]

    await wait_until(seen, "the alias answers with the survivor")
    assert await ids_of(bob) == await ids_of(ada) == [first["lecture"]["id"]]
    assert len(service.stored()) == 1
    again = await ada.request(service.course, tid_link(service, recording))
    assert (again["created"], again["lecture"]["id"]) == (False, first["lecture"]["id"])


async def test_a_tid_of_a_failed_recording_takes_its_place(
    service: Service, ada: Client, bob: Client, recording: Recording
) -> None:
    recording.faults.login_required = True
    first = await ada.request(service.course, service.simulator.viewer_url(recording))
    await ada.until(first["lecture"]["id"], "FAILED")
    recording.faults.login_required = False
    second = await bob.request(service.course, tid_link(service, recording))
    assert second["created"]
    ids = first["lecture"]["id"], second["lecture"]["id"]
    survivor = await one_lecture(service, *ids, users=(ada, bob))
    assert survivor == second["lecture"]["id"]
    again = await ada.request(service.course, service.simulator.viewer_url(recording))
    assert (again["created"], again["lecture"]["id"]) == (False, survivor)


@pytest.mark.parametrize("round_number", range(3))
async def test_links_that_race_end_as_one_lecture_with_everyone_linked(
    service: Service, recording: Recording, round_number: int
) -> None:
    users = tuple(service.user(name) for name in ("ada", "bob", "cleo", "dan"))
    recording.offers = ("mp4",)
    recording.faults.bytes_per_second = recording.media.stat().st_size
    urls = [service.simulator.viewer_url(recording), tid_link(service, recording)]
    answers = await asyncio.gather(
        *(
            user.request(service.course, urls[(position + round_number) % 2])
            for position, user in enumerate(users)
        )
    )
    ids = {answer["lecture"]["id"] for answer in answers}

    async def everyone_has_it() -> bool:
        lists = [await ids_of(user) for user in users]
        return all(len(each) == 1 for each in lists) and len({each[0] for each in lists}) == 1

    await wait_until(everyone_has_it, "all are linked to one lecture", timeout_seconds=30)
    await one_lecture(service, *ids, users=users)


async def test_who_watches_the_loser_goes_on_with_the_survivor(
    service: Service, ada: Client, bob: Client, recording: Recording
) -> None:
    recording.offers = ("mp4",)
    recording.faults.bytes_per_second = recording.media.stat().st_size // 3
    first = await ada.request(service.course, service.simulator.viewer_url(recording))
    await ada.until(first["lecture"]["id"], "DOWNLOADING")
    second = await bob.request(service.course, tid_link(service, recording))
    async with bob.socket() as socket:
        await socket.subscribe(WATCH, {"id": second["lecture"]["id"]})
        states = await asyncio.wait_for(states_until_complete(socket), 30)
    assert states[-1]["status"] == "COMPLETED"
    assert states[-1]["id"] == first["lecture"]["id"]
    revisions = [state["revision"] for state in states]
    assert revisions == sorted(set(revisions))


async def test_the_same_tid_in_another_course_stays_apart(
    service: Service, ada: Client, recording: Recording
) -> None:
    one = await ada.request(service.course, service.simulator.viewer_url(recording))
    other = await ada.request(uuid4(), tid_link(service, recording))
    for answer in (one, other):
        lecture = await ada.until(answer["lecture"]["id"], "COMPLETED", "FAILED")
        assert (lecture["id"], lecture["status"]) == (answer["lecture"]["id"], "COMPLETED")
    assert len(await ids_of(ada)) == 2
