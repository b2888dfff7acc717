"""Whose stream is heard: a link says which recording it is, somebody's stream brings the bytes."""

import asyncio
from pathlib import Path
from uuid import uuid4

import pytest

from app.embedded.panopto import Recording
from app.embedded.sample_media import make_lecture
from tests.acceptance.test_lectures import CANCEL
from tests.acceptance.test_merge import ids_of, one_lecture, tid_link
from tests.support.service import Client, Service
from tests.support.wait import wait_until


@pytest.fixture
def locked(recording: Recording) -> Recording:
    """A recording of 20 s whose tenant tells strangers nothing."""
    recording.faults.login_required = True
    return recording


@pytest.fixture
def other(service: Service, tmp_path: Path) -> Recording:
    """Another recording, of 7 s, which anybody may have."""
    return service.simulator.add(Recording(make_lecture(tmp_path / "other.mp4", 7)))


async def asked(
    client: Client, service: Service, recording: Recording, stream: Recording | None = None
) -> dict[str, object]:
    """Ask for the recording, with the media of another where given; return what became of it."""
    more = {} if stream is None else {"streamUrl": service.simulator.media_url(stream)}
    answer = await client.request(service.course, service.simulator.viewer_url(recording), **more)
    lecture = await client.until(answer["lecture"]["id"], "COMPLETED", "FAILED")
    assert lecture["panoptoSessionId"] == recording.guid
    return {**lecture, "created": answer["created"]}


async def test_a_strangers_stream_serves_the_stranger_alone(
    service: Service, ada: Client, bob: Client, locked: Recording, other: Recording
) -> None:
    hers = await asked(ada, service, locked, other)
    assert (hers["status"], hers["durationSeconds"]) == ("COMPLETED", 7)

    his = await asked(bob, service, locked)
    assert (his["created"], his["failure"]) == (True, "LOGIN_REQUIRED")
    assert his["id"] != hers["id"]
    assert await bob.lecture(hers["id"]) is None

    # His own failed one takes his stream, and hers is as it was.
    brought = await asked(bob, service, locked, locked)
    assert (brought["created"], brought["id"]) == (False, his["id"])
    assert (brought["status"], brought["durationSeconds"]) == ("COMPLETED", 20)
    assert (await asked(ada, service, locked))["id"] == hers["id"]
    assert (await ada.lecture(hers["id"]))["durationSeconds"] == 7
    assert await ids_of(ada) == [hers["id"]]
    assert await ids_of(bob) == [his["id"]]


async def test_who_brings_the_same_stream_has_the_same_lecture(
    service: Service, locked: Recording, other: Recording
) -> None:
    users = [service.user(name) for name in ("ada", "bob", "cleo", "dan")]
    found = await asyncio.gather(*(asked(user, service, locked, other) for user in users))
    assert len({each["id"] for each in found}) == 1
    assert sorted(each["created"] for each in found) == [False, False, False, True]
    assert len(service.stored()) == 1


async def test_a_failure_that_others_share_is_left_to_them(
    service: Service, ada: Client, bob: Client, locked: Recording, other: Recording
) -> None:
    failed = await asked(ada, service, locked)
    assert (await asked(bob, service, locked))["id"] == failed["id"]
    hers = await asked(ada, service, locked, other)
    assert (hers["created"], hers["status"]) == (True, "COMPLETED")
    assert await ids_of(ada) == [hers["id"]]
    assert await ids_of(bob) == [failed["id"]]
    assert (await bob.lecture(failed["id"]))["failure"] == "LOGIN_REQUIRED"
    # A third comes to what failed, and a fourth who brings what Ada has brought, to hers.
    assert (await asked(service.user("cleo"), service, locked))["id"] == failed["id"]
    assert (await asked(service.user("dan"), service, locked, other))["id"] == hers["id"]
    # The last one of those who failed brings it as well: there is nothing to put it into.
    for user in (bob, service.user("cleo")):
        assert (await asked(user, service, locked, other))["id"] == hers["id"]
        assert await ids_of(user) == [hers["id"]]


async def test_a_stream_of_the_recordings_duration_is_everybodys(
    service: Service, ada: Client, bob: Client, recording: Recording, other: Recording
) -> None:
    hers = await asked(ada, service, recording, recording)
    assert hers["status"] == "COMPLETED"
    his = await asked(bob, service, recording)
    assert (his["created"], his["id"]) == (False, hers["id"])
    # One that is cut short is nobody's, and hides nothing.
    course = uuid4()
    link = service.simulator.viewer_url(recording)
    short = await ada.request(course, link, streamUrl=service.simulator.media_url(other))
    assert (await ada.until(short["lecture"]["id"], "FAILED"))["failure"] == "TRUNCATED"
    whole = await bob.request(course, link)
    assert (whole["created"], whole["lecture"]["id"] != short["lecture"]["id"]) == (True, True)
    assert (await bob.until(whole["lecture"]["id"], "COMPLETED"))["durationSeconds"] == 20


async def test_a_confirmed_stream_and_the_course_s_own_become_one(
    service: Service, ada: Client, bob: Client, recording: Recording
) -> None:
    link, stream = service.simulator.viewer_url(recording), service.simulator.hls_url(recording)
    recording.offers = ("mp4",)
    recording.faults.bytes_per_second = recording.media.stat().st_size // 4
    answers = await asyncio.gather(
        ada.request(service.course, link),
        bob.request(service.course, link, streamUrl=f"{stream}?signature=bobs"),
    )
    ids = [answer["lecture"]["id"] for answer in answers]
    assert len(set(ids)) == 2
    await one_lecture(service, *ids, users=(ada, bob))


async def test_a_stream_beside_any_other_link_is_never_confirmed(
    service: Service, ada: Client, bob: Client, recording: Recording, other: Recording
) -> None:
    link = service.simulator.media_url(recording)
    answers = [
        await ada.request(service.course, link, streamUrl=service.simulator.media_url(other)),
        await bob.request(service.course, link),
    ]
    seconds = [
        (await user.until(answer["lecture"]["id"], "COMPLETED"))["durationSeconds"]
        for user, answer in zip((ada, bob), answers, strict=True)
    ]
    assert seconds == [7, 20]


async def test_what_a_lecture_was_merged_from_leads_to_no_stream(
    service: Service, ada: Client, bob: Client, recording: Recording, other: Recording
) -> None:
    recording.offers = ("mp4",)
    recording.faults.bytes_per_second = recording.media.stat().st_size // 10
    link = service.simulator.viewer_url(recording)
    first = (await ada.request(service.course, link))["lecture"]["id"]
    second = (await ada.request(service.course, tid_link(service, recording)))["lecture"]["id"]

    async def is_merged() -> bool:
        lecture = await ada.lecture(second)
        return bool(lecture) and lecture["id"] == first

    await wait_until(is_merged, "the tid is an alias of the session")
    await ada.run(CANCEL, id=first)
    recording.faults.login_required = True
    hers = await asked(ada, service, recording, other)
    assert (hers["id"], hers["status"]) == (first, "COMPLETED")
    his = (await bob.request(service.course, tid_link(service, recording)))["lecture"]["id"]
    assert his != first
    assert (await bob.until(his, "COMPLETED", "FAILED"))["failure"] == "LOGIN_REQUIRED"


async def test_what_the_course_has_goes_before_a_stream_that_failed(
    service: Service, ada: Client, bob: Client, recording: Recording, other: Recording
) -> None:
    assert (await asked(ada, service, recording, other))["failure"] == "TRUNCATED"
    good = await asked(bob, service, recording)
    assert good["status"] == "COMPLETED"
    for stream in (None, other):
        again = await asked(ada, service, recording, stream)
        assert (again["created"], again["id"]) == (False, good["id"])
        assert await ids_of(ada) == [good["id"]]


async def test_a_session_is_the_same_under_another_name_of_its_tenant(
    service: Service, ada: Client, locked: Recording, other: Recording
) -> None:
    hers = await asked(ada, service, locked, other)
    again = await ada.request(
        service.course,
        f"https://other.hosted.panopto.com/Panopto/Pages/Viewer.aspx?id={locked.guid}",
        streamUrl=service.simulator.media_url(other),
    )
    assert (again["created"], again["lecture"]["id"]) == (False, hers["id"])
