"""Recordings that are uploaded: judged by their bytes, heard through the API, kept once."""

import asyncio
import json
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any
from uuid import uuid4

import av
import pytest

from app.embedded.panopto import PanoptoSimulator, Recording
from app.embedded.sample_media import make_audio, make_lecture
from app.settings import Settings, load_settings
from tests.support.service import LECTURE, Client, Service, running_service, running_worker
from tests.support.wait import wait_until

UPLOAD = (
    """
mutation ($input: UploadLectureInput!) {
  uploadLecture(input: $input) {
    __typename
    ... on UploadLecturePayload { created lecture { ...L source platform filename audioUrl } }
    ... on Error { message }
    ... on InvalidInputError { fieldErrors { path code } }
  }
}
"""
    + LECTURE
)
MORE = """
query ($id: ID!) {
  lecture(id: $id) {
    status source platform filename panoptoUrl audioBytes audioUrl openUrl(atSeconds: 61.5)
    signedAudio(ttlSeconds: 60, download: true) { url expiresAt }
  }
}
"""


@pytest.fixture
async def service(
    service_settings: Settings, simulator: PanoptoSimulator
) -> AsyncIterator[Service]:
    async with running_service(service_settings, simulator) as service:
        yield service


async def upload(
    user: Client, course: object, content: bytes, filename: str, title: str | None = None
) -> Any:
    variables = {"input": {"courseId": str(course), "file": None, "title": title}}
    response = await user.http.post(
        "/graphql",
        data={
            "operations": json.dumps({"query": UPLOAD, "variables": variables}),
            "map": '{"0":["variables.input.file"]}',
        },
        files={"0": (filename, content, "application/octet-stream")},
        headers={"Authorization": f"Bearer {user.token}"},
    )
    answer = response.json()
    assert "errors" not in answer, answer
    return answer["data"]["uploadLecture"]


def sound_of(path: Path) -> bytes:
    with av.open(str(path)) as source:
        assert source.streams.audio[0].codec_context.name == "aac"
    return path.read_bytes()


KINDS = [
    ("lecture.mp3", "libmp3lame"),
    ("lecture.wav", "pcm_s16le"),
    ("lecture.m4a", "aac"),
    ("lecture.aac", "aac"),
    ("lecture.ogg", "libopus"),
    ("lecture.opus", "libopus"),
    ("lecture.flac", "flac"),
    ("lecture.webm", "libopus"),
    ("lecture.mkv", "libopus"),
]


@pytest.mark.parametrize(("name", "codec"), KINDS)
async def test_each_kind_becomes_audio(
    service: Service, tmp_path: Path, name: str, codec: str
) -> None:
    ada = service.user("ada")
    path = make_audio(tmp_path / name, 5, codec)
    done = await upload(ada, service.course, path.read_bytes(), name.upper(), "  Mine ")
    assert done["created"], done
    lecture = done["lecture"]
    assert (lecture["source"], lecture["title"]) == ("UPLOAD", "Mine")
    assert (lecture["filename"], lecture["panoptoUrl"]) == (name.upper(), None)
    ended = await ada.until(lecture["id"], "COMPLETED", "FAILED")
    assert (ended["status"], ended["durationSeconds"]) == ("COMPLETED", 5), ended
    await wait_until(
        lambda: service.stored() == {f"audio/{lecture['id']}.m4a"}, "the upload is gone"
    )
    more = await ada.run(MORE, id=lecture["id"])
    stored = service.storage_root / f"audio/{lecture['id']}.m4a"
    assert more["audioBytes"] == stored.stat().st_size
    heard = await ada.get(more["audioUrl"])
    assert (heard.status_code, heard.content) == (200, sound_of(stored))
    assert heard.headers["content-type"] == "audio/mp4"


async def test_a_video_and_a_second_student(service: Service, media: Path) -> None:
    ada, ben, eve = service.user("ada"), service.user("ben"), service.user("eve")
    content = media.read_bytes()
    first = await upload(ada, service.course, content, "mine.mp4")
    second = await upload(ben, service.course, content, "yours.mov")
    id_ = first["lecture"]["id"]
    assert (first["created"], second["created"]) == (True, False)
    assert second["lecture"]["id"] == id_
    assert (await ada.until(id_, "COMPLETED"))["durationSeconds"] == 20
    again = await upload(ada, service.course, content, "again.mp4")
    assert (again["created"], again["lecture"]["status"]) == (False, "COMPLETED")
    assert (await ada.run(MORE, id=id_))["filename"] == "again.mp4"
    mine = await ben.run(MORE, id=id_)
    assert (mine["filename"], mine["openUrl"]) == ("yours.mov", None)
    await wait_until(lambda: service.stored() == {f"audio/{id_}.m4a"}, "nothing else is left")

    path = mine["audioUrl"]
    assert path == f"/api/lectures/{id_}/audio"
    assert (await eve.get(path)).status_code == 404
    assert (await service.http.get(path)).status_code == 401
    part = await ben.get(path, Range="bytes=100-199")
    assert (part.status_code, len(part.content)) == (206, 100)
    same = await ben.get(path, **{"If-None-Match": part.headers["etag"]})
    assert same.status_code == 304
    signed = mine["signedAudio"]["url"]
    heard = await service.http.get(signed)
    assert (heard.status_code, len(heard.content)) == (200, mine["audioBytes"])
    assert heard.headers["content-disposition"].startswith("attachment")
    assert (await service.http.head(signed)).headers["content-length"] == str(mine["audioBytes"])
    forged = signed.replace("/audio?", "/audio?x=1&").replace("signature=", "signature=x")
    assert (await service.http.get(forged)).status_code == 401
    document = signed.replace(f"/api/lectures/{id_}/audio", f"/api/documents/{id_}/file")
    assert (await service.http.get(document)).status_code == 401

    for user in (ada, ben):
        await user.run("mutation ($id: ID!) { unlinkLecture(id: $id) { __typename } }", id=id_)
    assert (await service.http.get(signed)).status_code == 404
    assert service.stored() == set()


@pytest.mark.parametrize(
    ("content", "name", "code"),
    [
        (b"", "a.mp3", "REQUIRED"),
        (b"#EXTM3U\n#EXTINF:3,\nhttp://127.0.0.1/a.ts\n" * 20, "a.mp3", "UNSUPPORTED"),
        (b"ffconcat version 1.0\nfile /etc/passwd\n" * 20, "a.mp4", "UNSUPPORTED"),
        (b"<svg xmlns='http://www.w3.org/2000/svg'/>" * 20, "a.mp3", "UNSUPPORTED"),
        (b"%PDF-1.7\n" * 100, "a.mp3", "UNSUPPORTED"),
        (b"RIFF\x10\x00\x00\x00WAVEfmt ", "a.exe", "UNSUPPORTED"),
        (b"RIFF\x10\x00\x00\x00WAVEfmt ", "x" * 300 + ".wav", "TOO_LONG"),
    ],
)
async def test_what_is_no_recording_is_refused(
    service: Service, content: bytes, name: str, code: str
) -> None:
    ada = service.user("ada")
    refused = await upload(ada, service.course, content, name)
    assert refused["fieldErrors"] == [{"path": ["input", "file"], "code": code}]
    assert service.stored() == set()
    assert (await ada.run("{ lectures { totalCount } }")) == {"totalCount": 0}


async def test_what_has_no_sound_that_is_read_fails_and_leaves_nothing(
    service: Service, tmp_path: Path
) -> None:
    ada = service.user("ada")
    silent = make_lecture(tmp_path / "silent.mp4", 5, audio=False)
    adpcm = make_audio(tmp_path / "old.wav", 5, "adpcm_ima_wav")
    random = tmp_path / "noise.mp3"
    random.write_bytes(b"ID3\x04\x00\x00\x00\x00\x00\x00" + bytes(range(256)) * 40)
    for path in (silent, adpcm, random):
        uploaded = await upload(ada, service.course, path.read_bytes(), path.name)
        id_ = uploaded["lecture"]["id"]
        lecture = await ada.until(id_, "COMPLETED", "FAILED")
        assert (lecture["status"], lecture["failure"]) == ("FAILED", "NO_AUDIO"), path.name
        assert (await ada.run(MORE, id=id_))["audioUrl"] is None
        retry = "mutation ($id: ID!) { retryLectureDownload(id: $id) { __typename } }"
        assert (await ada.run(retry, id=id_)) == {"__typename": "ConflictError"}
    await wait_until(lambda: service.stored() == set(), "nothing is left")


async def test_a_cut_file_is_as_long_as_what_was_decoded(service: Service, tmp_path: Path) -> None:
    ada = service.user("ada")
    whole = make_audio(tmp_path / "whole.mp3", 40, "libmp3lame").read_bytes()
    done = await upload(ada, service.course, whole[: len(whole) // 4], "cut.mp3")
    lecture = await ada.until(done["lecture"]["id"], "COMPLETED", "FAILED")
    assert (lecture["status"], lecture["durationSeconds"]) == ("COMPLETED", 10)


async def test_the_track_with_sound_is_taken(service: Service, tmp_path: Path) -> None:
    ada = service.user("ada")
    path = tmp_path / "two.mkv"
    with av.open(str(make_audio(tmp_path / "one.wav", 6, "pcm_s16le"))) as source:
        frames = list(source.decode(audio=0))
    with av.open(str(path), "w") as target:
        streams = [target.add_stream("flac", rate=48_000, layout="mono") for _ in range(2)]
        for frame in frames:
            quiet = av.AudioFrame("s16", "mono", frame.samples)
            quiet.planes[0].update(bytes(quiet.planes[0].buffer_size))
            quiet.sample_rate, quiet.pts = frame.sample_rate, frame.pts
            quiet.time_base = frame.time_base
            for stream, each in zip(streams, (quiet, frame), strict=True):
                target.mux(stream.encode(each))
        for stream in streams:
            target.mux(stream.encode(None))
    done = await upload(ada, service.course, path.read_bytes(), "two.mkv")
    id_ = done["lecture"]["id"]
    assert (await ada.until(id_, "COMPLETED", "FAILED"))["status"] == "COMPLETED"
    with av.open(str(service.storage_root / f"audio/{id_}.m4a")) as source:
        loudest = max(abs(frame.to_ndarray()).max() for frame in source.decode(audio=0))
    assert loudest > 0.1


async def test_uploads_count_for_the_user_s_bytes(
    service_settings: Settings, simulator: PanoptoSimulator, media: Path
) -> None:
    content = media.read_bytes()
    changed = {"max_user_bytes": len(content) + 10_000}
    settings = load_settings(**(service_settings.model_dump(exclude_unset=True) | changed))
    async with running_service(settings, simulator) as service:
        ada = service.user("ada")
        first = await upload(ada, service.course, content, "a.mp4")
        await ada.until(first["lecture"]["id"], "COMPLETED")
        other = make_audio(service.settings.data_path / "b.wav", 2, "pcm_s16le").read_bytes()
        refused = await upload(ada, service.course, other, "b.wav")
        assert refused["fieldErrors"] == [{"path": ["input", "file"], "code": "QUOTA"}]
        again = await upload(ada, service.course, content, "a.mp4")
        assert not again["created"]
        assert (await ada.run("{ viewer { storedBytes } }")) == {"storedBytes": len(content)}


UNLINK = """mutation ($id: ID!) { unlinkLecture(id: $id) {
  ... on UnlinkLecturePayload { deleted } } }"""
CANCEL = "mutation ($id: ID!) { cancelLectureDownload(id: $id) { __typename } }"
RETRY = """mutation ($id: ID!) { retryLectureDownload(id: $id) {
  __typename ... on Error { message } } }"""
STORED = "{ viewer { storedBytes } }"


async def test_the_same_bytes_at_once_are_one_lecture(service: Service, tmp_path: Path) -> None:
    content = make_audio(tmp_path / "a.mp3", 5, "libmp3lame").read_bytes()
    users = [service.user(f"student-{number}") for number in range(4)]
    answers = await asyncio.gather(
        *(upload(users[i % 4], service.course, content, f"{i}.mp3") for i in range(12))
    )
    (id_,) = {answer["lecture"]["id"] for answer in answers}
    assert sum(answer["created"] for answer in answers) == 1
    await users[0].until(id_, "COMPLETED")
    for number, user in enumerate(users):
        own = (await user.run(MORE, id=id_))["filename"]
        assert int(own.removesuffix(".mp3")) % 4 == number
    await wait_until(lambda: service.stored() == {f"audio/{id_}.m4a"}, "no copy is left")
    other = await upload(users[0], uuid4(), content, "other.mp3")
    assert (other["created"], other["lecture"]["id"] != id_) == (True, True)


async def test_audio_is_saved_under_a_name_that_tells_what_it_is(
    service: Service, tmp_path: Path
) -> None:
    ada, ben = service.user("ada"), service.user("ben")
    for number, (filename, title, saved) in enumerate(
        [("Zelle 1.mp3", None, "Zelle 1.m4a"), ("x.mp3", "Week 1/2", "Week 1-2.m4a")]
    ):
        content = make_audio(tmp_path / "a.mp3", 2 + number, "libmp3lame").read_bytes()
        id_ = (await upload(ada, service.course, content, filename, title))["lecture"]["id"]
        await upload(ben, service.course, content, "of-ben.mp3")
        path = (await ada.until(id_, "COMPLETED")) and f"/api/lectures/{id_}/audio"
        disposition = (await ada.get(path)).headers["content-disposition"]
        assert disposition == f'inline; filename="{saved}"'
        disposition = (await ben.get(path)).headers["content-disposition"]
        assert disposition == f'inline; filename="{saved if title else "of-ben.m4a"}"'


async def test_what_is_cancelled_or_unlinked_leaves_no_file(
    service_settings: Settings, simulator: PanoptoSimulator, tmp_path: Path
) -> None:
    content = make_audio(tmp_path / "a.mp3", 5, "libmp3lame").read_bytes()
    async with running_service(service_settings, simulator, worker=False) as service:
        ada, ben = service.user("ada"), service.user("ben")
        id_ = (await upload(ada, service.course, content, "a.mp3"))["lecture"]["id"]
        assert service.stored() == {f"uploads/{id_}"}
        assert (await ada.run(STORED))["storedBytes"] == len(content)
        assert await ada.run(CANCEL, id=id_) == {"__typename": "LecturePayload"}
        assert service.stored() == set()
        assert (await ada.run(STORED))["storedBytes"] == 0
        refused = await ada.run(RETRY, id=id_)
        assert refused["message"] == "The uploaded file is gone: upload it again."
        again = await upload(ada, service.course, content, "a.mp3")
        assert (again["created"], again["lecture"]["id"]) == (False, id_)
        assert again["lecture"]["status"] == "PENDING"
        await upload(ben, service.course, content, "b.mp3")
        (key,) = service.stored()  # Another than the first: that may be deleted just now.
        assert key != f"uploads/{id_}"
        for user, deleted in ((ada, False), (ben, True)):
            assert (await user.run(UNLINK, id=id_))["deleted"] is deleted
        assert service.stored() == set()


async def test_what_has_failed_leaves_no_file_whatever_the_reason(
    service_settings: Settings, simulator: PanoptoSimulator, tmp_path: Path
) -> None:
    content = make_audio(tmp_path / "a.mp3", 5, "libmp3lame").read_bytes()
    changed = {"download_timeout_seconds": 0.001}
    hasty = load_settings(**(service_settings.model_dump(exclude_unset=True) | changed))
    async with running_service(service_settings, simulator, worker=False) as service:
        ada = service.user("ada")
        id_ = (await upload(ada, service.course, content, "a.mp3"))["lecture"]["id"]
        async with running_worker(hasty):
            lecture = await ada.until(id_, "COMPLETED", "FAILED")
            assert lecture["failure"] == "TIMEOUT"
            await wait_until(lambda: service.stored() == set(), "nothing is left")
        assert (await ada.run(STORED))["storedBytes"] == 0
        assert (await ada.run(RETRY, id=id_))["__typename"] == "ConflictError"
        again = await upload(ada, service.course, content, "a.mp3")
        assert (again["created"], again["lecture"]["id"]) == (False, id_)
        async with running_worker(service_settings):
            assert (await ada.until(id_, "COMPLETED", "FAILED"))["status"] == "COMPLETED"


async def test_a_file_that_is_gone_is_told_and_sent_again(
    service_settings: Settings, simulator: PanoptoSimulator, tmp_path: Path
) -> None:
    content = make_audio(tmp_path / "a.mp3", 5, "libmp3lame").read_bytes()
    async with running_service(service_settings, simulator, worker=False) as service:
        ada = service.user("ada")
        id_ = (await upload(ada, service.course, content, "a.mp3"))["lecture"]["id"]
        service.lose(f"uploads/{id_}")
        async with running_worker(service_settings):
            lecture = await ada.until(id_, "COMPLETED", "FAILED")
        assert lecture["failure"] == "SOURCE_NOT_FOUND"
        assert lecture["errorMessage"] == "The uploaded file is gone: upload it again."
        assert await ada.run(RETRY, id=id_) == {
            "__typename": "ConflictError",
            "message": "The uploaded file is gone: upload it again.",
        }
        await upload(ada, service.course, content, "a.mp3")
        async with running_worker(service_settings):
            assert (await ada.until(id_, "COMPLETED", "FAILED"))["status"] == "COMPLETED"
        assert service.stored() == {f"audio/{id_}.m4a"}


async def test_many_links_are_judged_one_by_one(service: Service, recording: Recording) -> None:
    ada = service.user("ada")
    url = service.simulator.viewer_url(recording)
    asked = """
    mutation ($input: RequestLectureDownloadsInput!) {
      requestLectureDownloads(input: $input) {
        __typename
        ... on RequestLectureDownloadsPayload {
          results {
            __typename
            ... on RequestLectureDownloadPayload { created lecture { id title } }
            ... on InvalidInputError { fieldErrors { path code } }
          }
        }
        ... on InvalidInputError { fieldErrors { path code } }
      }
    }
    """
    links = [
        {"panoptoUrl": url, "title": "First"},
        {"panoptoUrl": "ftp://example.org/a"},
        {"panoptoUrl": url},
    ]
    course = {"courseId": str(service.course)}
    answer = await ada.run(asked, input={**course, "links": links})
    first, refused, second = answer["results"]
    assert (first["created"], second["created"]) == (True, False)
    assert first["lecture"] == second["lecture"]
    assert first["lecture"]["title"] == "First"
    assert refused["__typename"] == "InvalidInputError"
    assert refused["fieldErrors"][0]["path"] == ["input", "links", "1", "panoptoUrl"]
    for count, code in ((0, "REQUIRED"), (51, "TOO_MANY")):
        answer = await ada.run(asked, input={**course, "links": links[:1] * count})
        assert answer["fieldErrors"] == [{"path": ["input", "links"], "code": code}]
    await ada.until(first["lecture"]["id"], "COMPLETED")
    more = await ada.run(MORE, id=first["lecture"]["id"])
    assert (more["source"], more["platform"], more["filename"]) == ("LINK", "panopto", None)
    assert more["openUrl"].endswith("start=61")
    listed = (
        "query ($p: String, $s: LectureSource) {"
        " lectures(platform: $p, source: $s) { totalCount } }"
    )
    for platform, source, count in (
        ("panopto", None, 1),
        ("Panopto", "LINK", 1),
        ("youtube", None, 0),
        (None, "UPLOAD", 0),
    ):
        assert await ada.run(listed, p=platform, s=source) == {"totalCount": count}


PREVIEW = """
query ($url: String!) {
  previewLink(url: $url) {
    __typename
    ... on LinkPreview { platform title durationSeconds isLive lecture { id } }
    ... on LinkRefused { failure message }
    ... on InvalidInputError { fieldErrors { path } }
  }
}
"""


async def test_a_link_is_looked_at_before_it_is_asked_for(
    service: Service, recording: Recording
) -> None:
    ada, ben = service.user("ada"), service.user("ben")
    url = service.simulator.viewer_url(recording)
    seen = await ada.run(PREVIEW, url=url)
    assert (seen["platform"], seen["title"]) == ("panopto", "Photosynthesis")
    assert (seen["durationSeconds"], seen["isLive"], seen["lecture"]) == (20, False, None)
    assert service.stored() == set()
    assert await ada.run("{ lectures { totalCount } }") == {"totalCount": 0}
    asked = await ada.request(service.course, url)
    assert (await ada.run(PREVIEW, url=url))["lecture"] == {"id": asked["lecture"]["id"]}
    assert (await ben.run(PREVIEW, url=url))["lecture"] is None


async def test_links_that_lead_to_no_lecture_are_refused(service: Service, media: Path) -> None:
    ada = service.user("ada")
    gone = service.simulator.viewer_url(Recording(media))
    for url, failure in (
        (gone, "SOURCE_NOT_FOUND"),
        ("http://169.254.169.254/latest/meta-data", "BLOCKED_URL"),
        ("http://127.0.0.1:1/x.mp4", "BLOCKED_URL"),
    ):
        refused = await ada.run(PREVIEW, url=url)
        assert refused["__typename"] == "LinkRefused", (url, refused)
        assert refused["failure"] == failure
    live = service.simulator.add(Recording(media, offers=()))
    seen = await ada.run(PREVIEW, url=service.simulator.viewer_url(live))
    assert (seen["platform"], seen["isLive"]) == ("panopto", True)
    bad = await ada.run(PREVIEW, url="ftp://x")
    assert bad["fieldErrors"] == [{"path": ["url"]}]


async def test_slow_links_of_one_user_hold_up_nobody_else(
    service_settings: Settings, simulator: PanoptoSimulator, recording: Recording
) -> None:
    asked, done = asyncio.Queue[None](), asyncio.Event()

    async def say_nothing(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        asked.put_nowait(None)
        await done.wait()
        writer.close()

    server = await asyncio.start_server(say_nothing, "127.0.0.1", 0)
    slow = f"127.0.0.1:{server.sockets[0].getsockname()[1]}"
    allowed = (*service_settings.fetch_allowed_private_hosts, slow)
    changed = {"fetch_allowed_private_hosts": allowed}
    settings = load_settings(**(service_settings.model_dump(exclude_unset=True) | changed))
    async with server, running_service(settings, simulator, worker=False) as service:
        ada, ben = service.user("ada"), service.user("ben")
        looks = [
            asyncio.create_task(ada.run(PREVIEW, url=f"http://{slow}/{number}.mp4"))
            for number in range(6)
        ]
        for _ in range(2):
            await asyncio.wait_for(asked.get(), 30)
        seen = await ben.run(PREVIEW, url=service.simulator.viewer_url(recording))
        assert (seen["__typename"], seen["title"]) == ("LinkPreview", "Photosynthesis")
        assert not any(look.done() for look in looks)
        done.set()
        assert {look["failure"] for look in await asyncio.gather(*looks)} == {"NETWORK"}


async def test_looks_are_limited(
    service_settings: Settings, simulator: PanoptoSimulator, recording: Recording
) -> None:
    changed = {"rate_limit_previews": "2/minute"}
    settings = load_settings(**(service_settings.model_dump(exclude_unset=True) | changed))
    async with running_service(settings, simulator, worker=False) as service:
        ada, url = service.user("ada"), service.simulator.viewer_url(recording)
        kinds = [(await ada.run(PREVIEW, url=url))["__typename"] for _ in range(3)]
    assert kinds == ["LinkPreview", "LinkPreview", "RateLimitedError"]
