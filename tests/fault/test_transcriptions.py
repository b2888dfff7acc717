"""A worker that is killed while it listens: its successor goes on behind the last window."""

import wave
from pathlib import Path

import av
import numpy as np
import pytest

from app.embedded.sample_media import make_spoken_lecture
from app.settings import Settings, load_settings
from app.speech.assets import speech_sample
from tests.fault.ledger_state import Database
from tests.fault.processes import Deployment
from tests.support.service import Service
from tests.support.transcripts import ended, request, spoken_lecture, tiny_models
from tests.support.wait import wait_until

RATE = 16_000


@pytest.fixture(scope="module")
def two_windows_mp4(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A lecture whose second window has a minute of speech."""
    folder = tmp_path_factory.mktemp("media")
    with av.open(str(speech_sample())) as source:
        speech = np.concatenate([frame.to_ndarray()[0] for frame in source.decode(audio=0)])
    parts = [speech, np.zeros(290 * RATE, np.int16), *[speech] * 6]
    with wave.open(str(folder / "speech.wav"), "wb") as file:
        file.setnchannels(1)
        file.setsampwidth(2)
        file.setframerate(RATE)
        file.writeframes(np.concatenate(parts).astype("<i2").tobytes())
    return make_spoken_lecture(folder / "lecture.mp4", folder / "speech.wav")


@pytest.fixture
def fault_settings(fault_settings: Settings) -> Settings:
    changed = {"whisper_models": tiny_models()}
    return load_settings(**(fault_settings.model_dump(exclude_unset=True) | changed))


async def test_what_a_killed_worker_has_heard_is_not_heard_again(
    service: Service, deployment: Deployment, fault_settings: Settings, two_windows_mp4: Path
) -> None:
    ada = service.user("ada")
    lecture_id = await spoken_lecture(service, ada, two_windows_mp4)
    id_ = (await request(ada, lecture_id))["transcription"]["id"]
    database = Database(fault_settings.database_url or "")
    windows = "SELECT xmin::text, content->>'end' FROM transcription_windows"

    async def has_window() -> bool:
        return len(await database.rows(windows)) == 1

    await wait_until(has_window, "a window is kept", poll_seconds=0.05)
    kept = await database.rows(windows)
    deployment.kill("worker")
    assert await database.rows(windows) == kept
    deployment.start("worker-2")

    async def second_goes_on() -> bool:
        return deployment.says("worker-2", "kind=transcribe")

    await wait_until(second_goes_on, "another has taken it up")
    assert await database.rows(windows) == kept
    done = await ended(ada, id_)
    assert done["status"] == "COMPLETED"
    assert done["text"].lower().count("ever") >= 10
    assert done["segments"]["nodes"][-1]["endSeconds"] > 350
    assert await database.rows(windows) == []
    assert {key for key in service.stored() if key.startswith("transcripts/each")} == {
        f"transcripts/each/{id_}.json"
    }


async def test_a_worker_that_is_told_to_stop_hands_its_transcription_back(
    service: Service, deployment: Deployment, two_windows_mp4: Path
) -> None:
    ada = service.user("ada")
    lecture_id = await spoken_lecture(service, ada, two_windows_mp4)
    id_ = (await request(ada, lecture_id))["transcription"]["id"]
    claimed = "kind=transcribe"
    await wait_until(lambda: deployment.says("worker", claimed), "it is worked on")
    assert await deployment.terminate("worker", 12) == 0
    deployment.start("worker-2")
    assert (await ended(ada, id_))["status"] == "COMPLETED"
