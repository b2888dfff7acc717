"""From a lecture to its words, and what the others of the course may do with them."""

import asyncio
import json
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
import webvtt

from app.embedded.panopto import PanoptoSimulator, Recording
from app.settings import Settings, load_settings
from tests.support.children import media_children
from tests.support.service import Service, running_service, running_worker
from tests.support.transcripts import (
    CANCEL,
    DELETE,
    GET,
    OF_LECTURE,
    TINY,
    TRANSCRIPTION,
    ended,
    request,
    spoken_lecture,
    spoken_mp4,  # noqa: F401 - a fixture
    tiny_models,
)
from tests.support.wait import wait_until

WORDS = "ever tried ever failed no matter try again fail again fail better"
EXPORT = """
query ($id: ID!) {
  transcription(id: $id) {
    srt: export(format: SRT) vtt: export(format: VTT)
    txt: export(format: TXT) json: export(format: JSON)
  }
}
"""


@pytest.fixture
def speech_settings(service_settings: Settings) -> Settings:
    changed = {"whisper_models": tiny_models()}
    return load_settings(**(service_settings.model_dump(exclude_unset=True) | changed))


@pytest.fixture
async def service(speech_settings: Settings, simulator: PanoptoSimulator) -> AsyncIterator[Service]:
    async with running_service(speech_settings, simulator) as service:
        yield service


@pytest.fixture
async def quiet(speech_settings: Settings, simulator: PanoptoSimulator) -> AsyncIterator[Service]:
    """The service with no worker that transcribes."""
    off = load_settings(**(speech_settings.model_dump(exclude_unset=True) | {"whisper_models": ()}))
    async with (
        running_service(speech_settings, simulator, worker=False) as service,
        running_worker(off),
    ):
        yield service


def said(text: str) -> str:
    return " ".join("".join(c if c.isalnum() else " " for c in text.lower()).split())


async def test_a_lecture_is_transcribed_on_request(
    service: Service,
    spoken_mp4: Path,  # noqa: F811
) -> None:
    ada, ben = service.user("ada"), service.user("ben")
    lecture_id = await spoken_lecture(service, ada, spoken_mp4)
    asked = await request(ada, lecture_id)
    assert (asked["__typename"], asked["created"]) == ("RequestTranscriptionPayload", True)
    assert asked["transcription"]["status"] == "PENDING"
    id_ = asked["transcription"]["id"]
    done = await ended(ada, id_)
    assert (done["status"], done["model"], done["language"]) == ("COMPLETED", TINY, "en")
    assert (done["source"], done["isCurrent"]) == ("SPEECH_RECOGNITION", True)
    assert said(done["text"]) == WORDS
    assert 0.3 < done["averageConfidence"] <= 1
    assert done["processingSeconds"] > 0
    segments = done["segments"]["nodes"]
    assert [each["index"] for each in segments] == list(range(done["segments"]["totalCount"]))
    assert " ".join(each["text"] for each in segments) == done["text"]
    assert segments[0]["startSeconds"] == pytest.approx(0.34, abs=0.5)

    again = await request(ada, lecture_id)
    assert (again["created"], again["transcription"]["id"]) == (False, id_)
    of_lecture = await ada.run(OF_LECTURE, id=lecture_id)
    assert of_lecture["transcription"]["id"] == id_
    assert [each["id"] for each in of_lecture["transcriptions"]] == [id_]
    stored = {key for key in service.stored() if key.startswith("transcripts/")}
    assert stored == {
        f"transcripts/each/{id_}.json",
        f"transcripts/{lecture_id}.json",
        f"transcripts/{lecture_id}.vtt",
    }

    exports = await ada.run(EXPORT, id=id_)
    current = service.storage_root / f"transcripts/{lecture_id}"
    assert current.with_suffix(".json").read_text() == exports["json"]
    assert current.with_suffix(".vtt").read_text() == exports["vtt"]
    assert json.loads(exports["json"])["text"] == done["text"]
    assert said(exports["txt"]) == WORDS
    for name in ("srt", "vtt"):
        parse = webvtt.from_string if name == "vtt" else webvtt.WebVTT.from_srt
        if name == "srt":
            path = service.settings.data_path / "x.srt"
            path.write_text(exports[name])
            cues = parse(str(path))
        else:
            cues = parse(exports[name])
        assert said(" ".join(cue.text for cue in cues)) == WORDS

    assert await ben.run(GET, id=id_) is None
    assert (await request(ben, lecture_id))["__typename"] == "NotFoundError"
    assert (await ben.run(DELETE, id=id_))["__typename"] == "NotFoundError"
    gone = await ada.run(DELETE, id=id_)
    assert gone == {"__typename": "DeleteTranscriptionPayload", "transcriptionId": id_}
    assert (await ada.run(OF_LECTURE, id=lecture_id))["transcription"] is None
    assert not {key for key in service.stored() if key.startswith("transcripts/")}


async def test_unlinking_the_lecture_takes_its_words(
    service: Service,
    spoken_mp4: Path,  # noqa: F811
) -> None:
    ada = service.user("ada")
    lecture_id = await spoken_lecture(service, ada, spoken_mp4)
    id_ = (await request(ada, lecture_id))["transcription"]["id"]
    await ended(ada, id_)
    await ada.run("mutation ($id: ID!) { unlinkLecture(id: $id) { __typename } }", id=lecture_id)
    assert await ada.run(GET, id=id_) is None
    assert service.stored() == set()


async def test_progress_is_live(
    service: Service,
    spoken_mp4: Path,  # noqa: F811
) -> None:
    ada = service.user("ada")
    lecture_id = await spoken_lecture(service, ada, spoken_mp4)
    async with ada.socket() as socket:
        await socket.subscribe(
            "subscription { myTranscriptions { kind transcription { status } } }",
            operation_id="all",
        )
        id_ = (await request(ada, lecture_id))["transcription"]["id"]
        await socket.subscribe(
            "subscription ($id: ID!) { transcriptionStatus(id: $id) { status percent revision } }",
            {"id": id_},
            operation_id="one",
        )
        states: list[dict[str, Any]] = []
        kinds: list[str] = []
        while True:
            message = await asyncio.wait_for(socket.receive(), 30)
            if message["id"] == "one" and message["type"] == "complete":
                break
            assert message["type"] == "next", message
            data = message["payload"]["data"]
            if message["id"] == "one":
                states.append(data["transcriptionStatus"])
            else:
                kinds.append(data["myTranscriptions"]["kind"])
    assert states[-1]["status"] == "COMPLETED"
    assert "PROCESSING" in {each["status"] for each in states}
    assert kinds[0] == "LINKED"
    revisions = [each["revision"] for each in states]
    assert revisions == sorted(set(revisions))


async def test_cancelling_ends_it_at_once_and_it_can_be_asked_for_again(
    service: Service,
    spoken_mp4: Path,  # noqa: F811
) -> None:
    ada = service.user("ada")
    lecture_id = await spoken_lecture(service, ada, spoken_mp4)
    id_ = (await request(ada, lecture_id))["transcription"]["id"]
    await wait_until(lambda: media_children() != [], "a child hears", poll_seconds=0.005)
    cancelled = await ada.run(CANCEL, id=id_)
    row = cancelled["transcription"]
    assert (row["status"], row["failure"]) == ("FAILED", "CANCELLED")
    await wait_until(lambda: media_children() == [], "the child is gone")
    assert (await ada.run(CANCEL, id=id_))["__typename"] == "ConflictError"
    again = await request(ada, lecture_id)
    assert (again["created"], again["transcription"]["id"]) == (False, id_)
    assert (await ended(ada, id_))["status"] == "COMPLETED"


async def test_accepted_requests_alone_are_counted(
    speech_settings: Settings,
    simulator: PanoptoSimulator,
    spoken_mp4: Path,  # noqa: F811
) -> None:
    changed = {"rate_limit_transcriptions": "1/hour"}
    limited = load_settings(**(speech_settings.model_dump(exclude_unset=True) | changed))
    async with running_service(limited, simulator) as service:
        ada, ben = service.user("ada"), service.user("ben")
        lecture_id = await spoken_lecture(service, ada, spoken_mp4)
        assert (await request(ben, lecture_id))["__typename"] == "NotFoundError"
        failed = await ben.request(
            service.course, service.simulator.viewer_url(Recording(spoken_mp4))
        )
        await ben.until(failed["lecture"]["id"], "FAILED")
        assert (await request(ben, failed["lecture"]["id"]))["__typename"] == "ConflictError"
        await ben.request(service.course, (await ada.lecture(lecture_id))["panoptoUrl"])
        assert (await request(ben, lecture_id))["created"]
        refused = await request(ben, lecture_id, language="en")
        assert refused["__typename"] == "RateLimitedError"
        assert await ben.run("{ transcriptions { totalCount } }") == {"totalCount": 1}


async def test_what_cannot_be_asked_for(
    quiet: Service,
    spoken_mp4: Path,  # noqa: F811
) -> None:
    ada = quiet.user("ada")
    lecture_id = await spoken_lecture(quiet, ada, spoken_mp4)
    for more, field, code in (
        ({"model": "large"}, "model", "UNSUPPORTED"),
        ({"language": "de"}, "language", "UNSUPPORTED"),
        ({"language": "xx"}, "language", "UNSUPPORTED"),
    ):
        refused = await request(ada, lecture_id, **more)
        assert refused["fieldErrors"] == [{"path": ["input", field], "code": code}]
    recording = Recording(spoken_mp4)  # That the tenant does not have.
    failed = await ada.request(quiet.course, quiet.simulator.viewer_url(recording))
    await ada.until(failed["lecture"]["id"], "FAILED")
    assert (await request(ada, failed["lecture"]["id"]))["__typename"] == "ConflictError"
    assert await ada.run("{ transcriptions { totalCount } }") == {"totalCount": 0}
    assert await ada.run("{ transcriptionModels { name isDefault languages } }") == [
        {"name": TINY, "isDefault": True, "languages": ["en"]}
    ]


async def test_a_worker_without_models_claims_none(
    quiet: Service,
    spoken_mp4: Path,  # noqa: F811
) -> None:
    ada, ben = quiet.user("ada"), quiet.user("ben")
    lecture_id = await spoken_lecture(quiet, ada, spoken_mp4)
    forced = await request(ada, lecture_id, language="en-GB")
    assert forced["transcription"]["language"] == "en"
    assert forced["transcription"]["isLanguageForced"]
    detected = await request(ada, lecture_id)
    assert detected["created"]
    # Later work of the same worker is done: it looks at the ledger, and leaves those.
    await spoken_lecture(quiet, ben, spoken_mp4)
    listed = await ada.run(
        "query ($id: ID) { transcriptions(lectureId: $id, status: PENDING, first: 1)"
        " { totalCount nodes { ...T } pageInfo { hasNextPage endCursor } } }" + TRANSCRIPTION,
        id=lecture_id,
    )
    assert listed["totalCount"] == 2
    assert listed["pageInfo"]["hasNextPage"]
    assert listed["nodes"][0]["id"] == detected["transcription"]["id"]
    assert listed["nodes"][0]["text"] is None
    # A second reader of the lecture may read, and may not take away.
    url = (await ada.lecture(lecture_id))["panoptoUrl"]
    assert (await ben.request(quiet.course, url))["lecture"]["id"] == lecture_id
    assert (await ben.run(CANCEL, id=forced["transcription"]["id"]))["__typename"] == (
        "ConflictError"
    )
    assert (await ben.run(DELETE, id=forced["transcription"]["id"]))["__typename"] == (
        "ConflictError"
    )


def told(*cues: tuple[float, float, str]) -> list[dict[str, Any]]:
    return [{"Time": at, "CaptionDuration": long, "Caption": text} for at, long, text in cues]


async def test_captions_are_the_transcript_until_a_model_has_listened(
    service: Service,
    spoken_mp4: Path,  # noqa: F811
) -> None:
    ada = service.user("ada")
    recording = Recording(spoken_mp4, offers=("mp4",))
    recording.captions = {1: told((0.5, 2, "Ever tried?"), (3, 2, "Ever failed?"))}
    service.simulator.add(recording)
    url = service.simulator.viewer_url(recording)
    lecture_id = (await ada.request(service.course, url))["lecture"]["id"]
    await ada.until(lecture_id, "COMPLETED", "FAILED")
    found = await ada.run(OF_LECTURE, id=lecture_id)
    captions = found["transcription"]
    assert captions["text"] == "Ever tried? Ever failed?"
    assert (captions["source"], captions["status"]) == ("CAPTIONS", "COMPLETED")
    assert (captions["model"], captions["averageConfidence"]) == (None, None)
    assert captions["isCurrent"]
    id_ = (await request(ada, lecture_id))["transcription"]["id"]
    await ended(ada, id_)
    found = await ada.run(OF_LECTURE, id=lecture_id)
    assert found["transcription"]["id"] == id_
    assert {each["id"]: each["isCurrent"] for each in found["transcriptions"]} == {
        id_: True,
        captions["id"]: False,
    }
    await ada.run(DELETE, id=id_)
    found = await ada.run(OF_LECTURE, id=lecture_id)
    assert found["transcription"]["id"] == captions["id"]
    current = service.storage_root / f"transcripts/{lecture_id}.json"
    assert json.loads(current.read_text())["source"] == "CAPTIONS"


@pytest.mark.parametrize("broken", [500, "<html>no</html>"])
async def test_captions_that_fail_fail_no_lecture(
    service: Service,
    spoken_mp4: Path,  # noqa: F811
    broken: object,
) -> None:
    ada = service.user("ada")
    recording = service.simulator.add(Recording(spoken_mp4, offers=("mp4",)))
    recording.captions = {0: broken}
    url = service.simulator.viewer_url(recording)
    lecture_id = (await ada.request(service.course, url))["lecture"]["id"]
    assert (await ada.until(lecture_id, "COMPLETED", "FAILED"))["status"] == "COMPLETED"
    assert (await ada.run(OF_LECTURE, id=lecture_id))["transcriptions"] == []


async def test_what_has_no_captions_is_transcribed_by_itself_and_the_audio_goes(
    speech_settings: Settings,
    simulator: PanoptoSimulator,
    spoken_mp4: Path,  # noqa: F811
) -> None:
    changed = {"auto_transcribe": True, "audio_retention": "until-transcribed"}
    settings = load_settings(**(speech_settings.model_dump(exclude_unset=True) | changed))
    async with running_service(settings, simulator) as service:
        ada = service.user("ada")
        lecture_id = await spoken_lecture(service, ada, spoken_mp4)
        (waiting,) = (await ada.run(OF_LECTURE, id=lecture_id))["transcriptions"]
        done = await ended(ada, waiting["id"])
        assert (done["status"], said(done["text"])) == ("COMPLETED", WORDS)
        no_audio = lambda: f"audio/{lecture_id}.m4a" not in service.stored()  # noqa: E731
        await wait_until(no_audio, "the audio is gone")
        assert (await ada.lecture(lecture_id))["status"] == "COMPLETED"
        again = await request(ada, lecture_id)
        assert (again["created"], again["transcription"]["id"]) == (False, waiting["id"])
        forced = await request(ada, lecture_id, language="en")
        assert forced["__typename"] == "ConflictError"
