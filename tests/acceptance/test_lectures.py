"""A lecture's way through the whole service: link in, audio out."""

import asyncio
import re
from pathlib import Path
from urllib.parse import quote
from uuid import uuid4

import av
from sqlalchemy import insert
from sqlalchemy.ext.asyncio import AsyncSession, async_sessionmaker

from app.db.models import Course, User
from app.embedded.panopto import Recording
from app.embedded.sample_media import make_lecture
from tests.support.service import REQUEST, Client, Service
from tests.support.wait import wait_until

UNKNOWN = str(uuid4())
RETRY = """mutation ($id: ID!) { retryLectureDownload(id: $id) {
  __typename ... on LecturePayload { lecture { id status attempt } } ... on Error { message } } }"""
CANCEL = RETRY.replace("retryLectureDownload", "cancelLectureDownload")
UNLINK = """mutation ($id: ID!) { unlinkLecture(id: $id) {
  __typename ... on UnlinkLecturePayload { lectureId deleted }
  ... on NotFoundError { missingId } } }"""
DELETE = """mutation ($id: ID!) { deleteLecture(id: $id) {
  __typename ... on DeleteLecturePayload { lectureId } ... on NotFoundError { missingId } } }"""
LIST = """query ($first: Int, $after: String, $courseId: UUID, $status: LectureStatus) {
  lectures(first: $first, after: $after, courseId: $courseId, status: $status) {
    totalCount nodes { id } edges { cursor node { id } }
    pageInfo { hasNextPage hasPreviousPage startCursor endCursor } } }"""


def audio_seconds(path: Path) -> float:
    with av.open(str(path)) as file:
        (stream,) = file.streams
        assert stream.type == "audio"
        assert stream.codec_context.name == "aac"
        return float(stream.duration * stream.time_base)


async def test_a_pasted_link_becomes_audio(
    service: Service, ada: Client, recording: Recording
) -> None:
    url = service.simulator.viewer_url(recording)
    answer = await ada.request(service.course, url)
    assert answer["created"] is True
    pending = answer["lecture"]
    assert pending["panoptoSessionId"] == recording.guid
    assert pending["panoptoUrl"] == url

    lecture = await ada.until(pending["id"], "COMPLETED", "FAILED")
    assert lecture["status"] == "COMPLETED", lecture
    assert lecture["failure"] is lecture["errorMessage"] is lecture["progress"] is None
    assert lecture["durationSeconds"] == 20
    assert lecture["attempt"] == 1
    assert lecture["title"] == "Photosynthesis"
    assert lecture["startedAt"] <= lecture["completedAt"]
    assert lecture["revision"] > pending["revision"]
    assert service.stored() == {f"audio/{lecture['id']}.m4a"}
    audio = service.storage_root / f"audio/{lecture['id']}.m4a"
    assert abs(audio_seconds(audio) - 20) < 0.1


async def test_a_stream_url_is_used_for_the_bytes(
    service: Service, ada: Client, recording: Recording
) -> None:
    recording.faults.login_required = True
    url = service.simulator.viewer_url(recording)
    media_url = service.simulator.media_url(recording)
    answer = await ada.request(service.course, url, streamUrl=media_url, title="  Mine ")
    lecture = await ada.until(answer["lecture"]["id"], "COMPLETED", "FAILED")
    assert (lecture["status"], lecture["title"]) == ("COMPLETED", "Mine")


async def test_a_title_that_was_given_stays(
    service: Service, ada: Client, bob: Client, recording: Recording
) -> None:
    url = service.simulator.viewer_url(recording)
    answer = await ada.request(service.course, url, title="Mine")
    await bob.request(service.course, url, title="Theirs")
    lecture = await ada.until(answer["lecture"]["id"], "COMPLETED", "FAILED")
    assert (lecture["status"], lecture["title"]) == ("COMPLETED", "Mine")
    assert (await bob.lecture(lecture["id"]))["title"] == "Mine"


async def test_a_stream_of_another_recording_is_refused(
    service: Service, ada: Client, recording: Recording, tmp_path: Path
) -> None:
    other = service.simulator.add(Recording(make_lecture(tmp_path / "other.mp4", 12)))
    url = service.simulator.viewer_url(recording)
    stream_url = service.simulator.media_url(other)
    answer = await ada.request(service.course, url, streamUrl=stream_url)
    lecture = await ada.until(answer["lecture"]["id"], "COMPLETED", "FAILED")
    assert (lecture["status"], lecture["failure"]) == ("FAILED", "TRUNCATED")
    assert service.stored() == set()


async def test_42_requests_in_seven_spellings_are_one_lecture_and_one_download(
    service: Service, recording: Recording
) -> None:
    guid, base = recording.guid, service.simulator.base_url
    viewer = f"/Panopto/Pages/Viewer.aspx?id={guid}"
    spellings = [
        base + viewer,
        f"{base}/Panopto/Pages/Embed.aspx?id={guid.upper()}&amp;autoplay=true",
        f"{base}/panopto/pages/viewer/default.aspx?ID=%7B{guid}%7D",
        f"{base}/Panopto/Pages/Viewer.aspx?pid={uuid4()}&id={guid}&start=12",
        f"{base}/Panopto/Podcast/Download/{guid}.mp4?mediaTargetType=audioPodcast",
        f"{base}/Panopto/Pages/Auth/Login.aspx?ReturnUrl={quote(viewer, safe='')}",
        f"{base.upper().replace('HTTP', 'http')}/Panopto/Podcast/Stream/{guid}.mp4",
    ]
    users = [service.user(name) for name in ("ada", "bob", "cleo")]
    answers = await asyncio.gather(
        *(users[i % 3].request(service.course, spellings[i % 7]) for i in range(42))
    )
    ids = {answer["lecture"]["id"] for answer in answers}
    assert len(ids) == 1
    assert sum(answer["created"] for answer in answers) == 1
    (lecture_id,) = ids
    for user in users:
        lecture = await user.until(lecture_id, "COMPLETED", "FAILED")
        assert lecture["status"] == "COMPLETED"
        assert lecture["attempt"] == 1
    infos = [r for r in service.simulator.requests if "DeliveryInfo" in r.path]
    assert len(infos) == 1
    assert service.stored() == {f"audio/{lecture_id}.m4a"}


async def test_the_same_recording_in_another_course_is_another_lecture(
    service: Service, ada: Client, recording: Recording
) -> None:
    url = service.simulator.viewer_url(recording)
    one = await ada.request(service.course, url)
    other = await ada.request(uuid4(), url)
    assert other["created"]
    assert one["lecture"]["id"] != other["lecture"]["id"]


async def test_login_required_fails_with_a_message_that_tells_no_host(
    service: Service, ada: Client, recording: Recording
) -> None:
    recording.faults.login_required = True
    answer = await ada.request(service.course, service.simulator.viewer_url(recording))
    lecture = await ada.until(answer["lecture"]["id"], "FAILED")
    assert lecture["failure"] == "LOGIN_REQUIRED"
    assert not re.search(r"127\.0\.0\.1|/|Error|Exception", lecture["errorMessage"])
    assert service.stored() == set()

    recording.faults.login_required = False
    again = await ada.request(service.course, service.simulator.viewer_url(recording))
    assert again["created"] is False
    done = await ada.until(lecture["id"], "COMPLETED")
    assert done["failure"] is None


async def test_the_advice_for_a_login_helps(
    service: Service, ada: Client, recording: Recording
) -> None:
    recording.faults.login_required = True
    url = service.simulator.viewer_url(recording)
    answer = await ada.request(service.course, url)
    lecture = await ada.until(answer["lecture"]["id"], "FAILED")
    assert "request the lecture again with that stream URL" in lecture["errorMessage"]
    again = await ada.request(service.course, url, streamUrl=service.simulator.hls_url(recording))
    assert (again["created"], again["lecture"]["id"]) == (False, lecture["id"])
    done = await ada.until(lecture["id"], "COMPLETED")
    assert (done["failure"], done["errorMessage"]) == (None, None)


async def test_a_silent_recording_has_no_audio(
    service: Service, ada: Client, tmp_path: Path
) -> None:
    silent = service.simulator.add(Recording(make_lecture(tmp_path / "silent.mp4", 5, audio=False)))
    answer = await ada.request(service.course, service.simulator.viewer_url(silent))
    lecture = await ada.until(answer["lecture"]["id"], "FAILED")
    assert lecture["failure"] == "NO_AUDIO"
    assert service.stored() == set()


async def test_an_inward_address_is_blocked(service: Service, ada: Client) -> None:
    answer = await ada.request(service.course, "http://127.0.0.1:1/secret.mp4")
    lecture = await ada.until(answer["lecture"]["id"], "FAILED")
    assert lecture["failure"] == "BLOCKED_URL"


async def test_a_missing_recording_is_not_found(service: Service, ada: Client) -> None:
    url = f"{service.simulator.base_url}/Panopto/Pages/Viewer.aspx?id={uuid4()}"
    answer = await ada.request(service.course, url)
    lecture = await ada.until(answer["lecture"]["id"], "FAILED")
    assert lecture["failure"] == "SOURCE_NOT_FOUND"


async def test_a_recording_still_encoded_waits(
    service: Service, ada: Client, recording: Recording
) -> None:
    recording.faults.not_encoded_times = 1
    recording.faults.live = True
    answer = await ada.request(service.course, service.simulator.viewer_url(recording))

    lecture_id = answer["lecture"]["id"]

    async def waiting() -> object:
        lecture = await ada.lecture(lecture_id)
        return lecture if lecture["nextAttemptAt"] else None

    lecture = await wait_until(waiting, "the lecture waits")
    assert lecture["status"] == "PENDING"  # type: ignore[index]
    assert lecture["failure"] is None  # type: ignore[index]
    assert lecture["errorMessage"] == "The recording is still live."  # type: ignore[index]
    assert service.stored() == set()


async def test_a_connection_that_drops_is_resumed(
    service: Service, ada: Client, recording: Recording
) -> None:
    recording.offers = ("mp4",)
    recording.faults.cut_after_bytes = 20_000
    answer = await ada.request(service.course, service.simulator.viewer_url(recording))
    lecture = await ada.until(answer["lecture"]["id"], "COMPLETED", "FAILED")
    assert (lecture["status"], lecture["attempt"]) == ("COMPLETED", 1)
    ranges = [r.range for r in service.simulator.media_requests(recording) if r.method == "GET"]
    assert any(value and not value.startswith("bytes=0-") for value in ranges), ranges


async def test_cancel_stops_the_work_and_leaves_nothing(
    service: Service, ada: Client, recording: Recording
) -> None:
    recording.offers = ("mp4",)
    recording.faults.bytes_per_second = 2_000
    answer = await ada.request(service.course, service.simulator.viewer_url(recording))
    lecture_id = answer["lecture"]["id"]
    await ada.until(lecture_id, "DOWNLOADING")
    await wait_until(lambda: service.simulator.media_requests(recording), "bytes flow")
    cancelled = await ada.run(CANCEL, id=lecture_id)
    assert cancelled["lecture"]["status"] == "FAILED"
    lecture = await ada.lecture(lecture_id)
    assert lecture["failure"] == "CANCELLED"
    await wait_until(lambda: not service.stored(), "nothing is left", timeout_seconds=3)
    assert (await ada.run(CANCEL, id=lecture_id))["__typename"] == "ConflictError"

    recording.faults.bytes_per_second = None
    retried = await ada.run(RETRY, id=lecture_id)
    assert retried["lecture"]["status"] in {"PENDING", "DOWNLOADING"}
    await ada.until(lecture_id, "COMPLETED")
    assert (await ada.run(RETRY, id=lecture_id))["__typename"] == "ConflictError"


async def test_cancel_of_a_shared_lecture_is_for_admins(
    service: Service, ada: Client, bob: Client, admin: Client, recording: Recording
) -> None:
    recording.offers = ("mp4",)
    recording.faults.bytes_per_second = 2_000
    url = service.simulator.viewer_url(recording)
    lecture_id = (await ada.request(service.course, url))["lecture"]["id"]
    assert (await bob.request(service.course, url))["created"] is False
    assert (await ada.run(CANCEL, id=lecture_id))["__typename"] == "ConflictError"
    assert (await ada.lecture(lecture_id))["status"] != "FAILED"
    assert (await admin.run(CANCEL, id=lecture_id))["__typename"] == "LecturePayload"
    assert (await bob.lecture(lecture_id))["failure"] == "CANCELLED"


async def test_the_last_one_out_removes_everything(
    service: Service, ada: Client, bob: Client, recording: Recording
) -> None:
    url = service.simulator.viewer_url(recording)
    lecture_id = (await ada.request(service.course, url))["lecture"]["id"]
    await bob.request(service.course, url)
    await ada.until(lecture_id, "COMPLETED")
    assert await ada.run(UNLINK, id=lecture_id) == {
        "__typename": "UnlinkLecturePayload",
        "lectureId": lecture_id,
        "deleted": False,
    }
    assert await ada.lecture(lecture_id) is None
    assert (await ada.run(UNLINK, id=lecture_id))["__typename"] == "NotFoundError"
    assert service.stored()
    assert (await bob.run(UNLINK, id=lecture_id))["deleted"] is True
    assert service.stored() == set()
    fresh = await bob.request(service.course, url)
    assert fresh["created"] is True
    assert fresh["lecture"]["id"] != lecture_id


async def test_unlinking_stops_a_running_download(
    service: Service, ada: Client, recording: Recording
) -> None:
    recording.offers = ("mp4",)
    recording.faults.bytes_per_second = 2_000
    url = service.simulator.viewer_url(recording)
    lecture_id = (await ada.request(service.course, url))["lecture"]["id"]
    await wait_until(lambda: service.simulator.media_requests(recording), "bytes flow")
    assert (await ada.run(UNLINK, id=lecture_id))["deleted"] is True
    await wait_until(lambda: not service.stored(), "nothing is left", timeout_seconds=3)


async def test_a_stranger_and_nobody_look_the_same(
    service: Service, ada: Client, bob: Client, admin: Client, recording: Recording
) -> None:
    url = service.simulator.viewer_url(recording)
    lecture_id = (await ada.request(service.course, url))["lecture"]["id"]
    for some_id in (lecture_id, UNKNOWN):
        assert await bob.lecture(some_id) is None
        assert await bob.run("query ($id: ID!) { node(id: $id) { id } }", id=some_id) is None
        for mutation in (RETRY, CANCEL, UNLINK):
            assert (await bob.run(mutation, id=some_id))["__typename"] == "NotFoundError"
        assert await bob.code(DELETE, id=some_id) == "FORBIDDEN"
    assert await bob.code("{ allLectures { totalCount } }") == "FORBIDDEN"
    assert (await admin.lecture(lecture_id))["id"] == lecture_id
    assert (await admin.run("{ allLectures { totalCount } }"))["totalCount"] == 1
    assert (await ada.run("query ($id: ID!) { node(id: $id) { id } }", id=lecture_id))["id"]
    assert await ada.code("{ lecture(id: 7) { id } }") == "BAD_USER_INPUT"
    assert (await admin.run(DELETE, id=lecture_id))["lectureId"] == lecture_id
    assert await ada.lecture(lecture_id) is None
    assert (await admin.run(DELETE, id=lecture_id))["__typename"] == "NotFoundError"


async def test_invalid_input_names_its_field_and_makes_nothing(
    service: Service, ada: Client
) -> None:
    long = "https://x.hosted.panopto.com/" + "a" * 2048
    folder = (
        f"{service.simulator.base_url}/Panopto/Pages/Sessions/List.aspx#folderID=%22{uuid4()}%22"
    )
    good = "https://example.org/a.mp4"
    for field, value, code in (
        ("panoptoUrl", "", "REQUIRED"),
        ("panoptoUrl", "  ", "REQUIRED"),
        ("panoptoUrl", "nonsense", "MALFORMED"),
        ("panoptoUrl", "ftp://example.org/a.mp4", "UNSUPPORTED"),
        ("panoptoUrl", "https://[::1/", "MALFORMED"),
        ("panoptoUrl", long, "TOO_LONG"),
        ("panoptoUrl", folder, "UNSUPPORTED"),
        ("title", "x" * 501, "TOO_LONG"),
        ("title", "a\x00b", "MALFORMED"),
        ("streamUrl", "javascript:1", "UNSUPPORTED"),
        ("streamUrl", " ", "REQUIRED"),
    ):
        sent = {"courseId": str(service.course), "panoptoUrl": good, field: value}
        answer = await ada.run(REQUEST, input=sent)
        assert answer["__typename"] == "InvalidInputError", (field, value)
        (problem,) = answer["fieldErrors"]
        assert (problem["path"], problem["code"]) == (["input", field], code), value
    assert (
        await ada.code(
            "mutation ($input: RequestLectureDownloadInput!) "
            "{ requestLectureDownload(input: $input) { __typename } }",
            input={"courseId": "nonsense", "panoptoUrl": good},
        )
        == "BAD_USER_INPUT"
    )
    assert (await ada.run(LIST))["totalCount"] == 0


async def test_pages_go_through_the_whole_list(service: Service, ada: Client) -> None:
    made = []
    for number in range(5):
        answer = await ada.request(service.course, f"http://127.0.0.1:1/{number}.mp4")
        made.append(answer["lecture"]["id"])
    seen: list[str] = []
    after = None
    while True:
        page = await ada.run(LIST, first=2, after=after)
        assert page["totalCount"] == 5
        assert [node["id"] for node in page["nodes"]] == [e["node"]["id"] for e in page["edges"]]
        seen += [node["id"] for node in page["nodes"]]
        assert page["pageInfo"]["hasPreviousPage"] is (after is not None)
        after = page["pageInfo"]["endCursor"]
        if not page["pageInfo"]["hasNextPage"]:
            break
    assert seen == made[::-1]
    assert (await ada.run(LIST, courseId=UNKNOWN))["totalCount"] == 0
    for bad in ({"first": 0}, {"first": 101}, {"after": "nonsense"}, {"after": ""}):
        assert await ada.code(LIST, **bad) == "BAD_USER_INPUT", bad


COURSES = "query ($search: String) { courses(search: $search) { totalCount nodes { code } } }"


async def test_the_catalogue_is_searched_within_bounds(
    service: Service, ada: Client, sessions: async_sessionmaker[AsyncSession]
) -> None:
    async with sessions.begin() as session:
        for code, title in (("BIO 101", "Cells"), ("BIO 102", "100% plants"), ("CHEM 1", "Acids")):
            await session.execute(insert(Course).values(code=code, title=title))
        owner = await session.scalar(
            insert(User).values(issuer="i", subject="s").returning(User.id)
        )
        await session.execute(insert(Course).values(code="MY 1", title="Mine", owner_id=owner))
    found = await ada.run(COURSES, search="bio")
    assert [course["code"] for course in found["nodes"]] == ["BIO 101", "BIO 102"]
    assert (await ada.run(COURSES, search="100% bio"))["totalCount"] == 1
    assert (await ada.run(COURSES))["totalCount"] == 3, "another's own course is not shown"
    for search in ("a " * 9, "x" * 201, "a\0b"):
        assert await ada.code(COURSES, search=search) == "BAD_USER_INPUT"
