"""A download goes on where its killed worker stopped, and begins anew where the source changed."""

import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from app.embedded.panopto import Link, Recording, RequestRecord
from app.embedded.sample_media import make_lecture
from tests.fault.processes import Deployment
from tests.service import Client, Service
from tests.wait import wait_until

HEAD_BYTES = 512 * 1024
_SEGMENT = re.compile(r"audio-(\d+)\.ts")


@dataclass
class Relay:
    """A lecture whose worker is killed in the middle, and that another one takes over."""

    service: Service
    deployment: Deployment
    recording: Recording
    user: Client
    lecture_id: str

    @classmethod
    async def begin(cls, service: Service, deployment: Deployment, recording: Recording) -> "Relay":
        service.simulator.add(recording)
        user = service.user("ada")
        answer = await user.request(service.course, service.simulator.viewer_url(recording))
        return cls(service, deployment, recording, user, answer["lecture"]["id"])

    async def kill_after(self, least_bytes: int) -> Path:
        """Kill the worker once so much has come, and return the part that it left."""
        has_come = lambda: self._part_bytes() >= least_bytes  # noqa: E731
        await wait_until(has_come, "bytes have come", timeout_seconds=30)
        self.deployment.kill("worker")
        assert {Path(key).suffix for key in self.service.stored()} == {".part", ".note"}
        self.service.simulator.requests.clear()
        (part,) = self._parts()
        return part

    async def finish(self) -> list[RequestRecord]:
        """Have another worker complete it, leaving nothing; return what that one asked for."""
        self.deployment.start("worker-2")
        lecture: Any = await self.user.until(
            self.lecture_id, "COMPLETED", "FAILED", timeout_seconds=40
        )
        left = self.service.stored()
        assert lecture["status"] == "COMPLETED", lecture
        assert left == {f"audio/{self.lecture_id}.m4a"}
        assert lecture["durationSeconds"] == round(self.recording.raw_duration_seconds())
        return self.service.simulator.media_requests(self.recording)

    def _parts(self) -> list[Path]:
        return list(self.service.storage_root.glob("audio/*.part"))

    def _part_bytes(self) -> int:
        return max((part.stat().st_size for part in self._parts()), default=0)


@pytest.fixture(scope="module")
def long_mp4(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """20 s and 6 MB, in fragments: a file that is fetched whole."""
    path = tmp_path_factory.mktemp("media") / "long.mp4"
    return make_lecture(path, 20, size_bytes=6_000_000, fragmented=True)


@pytest.fixture(scope="module")
def turns_mp4(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """6 min and 21 MB, 3 MB of it sound, by turns of 2 s: the sound is fetched by ranges."""
    path = tmp_path_factory.mktemp("media") / "turns.mp4"
    return make_lecture(path, 360, size_bytes=18_000_000, chunk_seconds=2)


@pytest.mark.parametrize("changed", [False, True])
async def test_a_killed_workers_bytes_are_not_fetched_twice(
    service: Service, deployment: Deployment, long_mp4: Path, changed: bool
) -> None:
    recording = Recording(long_mp4, offers=("mp4",))
    recording.faults.bytes_per_second = 1_500_000
    relay = await Relay.begin(service, deployment, recording)
    kept = (await relay.kill_after(2_500_000)).stat().st_size
    recording.faults.bytes_per_second = None
    recording.version += changed
    requests = await relay.finish()
    assert requests[0].range == f"bytes={kept}-"
    if changed:
        assert requests[1].range is None
        assert requests[1].sent_bytes == long_mp4.stat().st_size
    else:
        assert [each.sent_bytes for each in requests] == [long_mp4.stat().st_size - kept]


@pytest.mark.parametrize("changed", [False, True])
async def test_a_killed_workers_segments_are_not_fetched_twice(
    service: Service, deployment: Deployment, turns_mp4: Path, changed: bool
) -> None:
    recording = Recording(turns_mp4, offers=("hls",))
    recording.faults.bytes_per_second = 60_000
    relay = await Relay.begin(service, deployment, recording)
    part = await relay.kill_after(1_000_000)
    ends = part.with_suffix(".note").read_bytes().partition(b"\n")[2]
    recording.faults.bytes_per_second = None
    recording.hls_discontinuity = 2 if changed else None
    requests = await relay.finish()
    asked = [_SEGMENT.fullmatch(each.path.rpartition("/")[2]) for each in requests]
    first = 0 if changed else len(ends) // 8
    assert sorted(int(found[1]) for found in asked if found) == list(range(first, 60))
    assert len(ends) >= 8 * 5


@pytest.mark.parametrize("changed", [False, True])
async def test_a_killed_workers_samples_are_not_fetched_twice(
    service: Service, deployment: Deployment, turns_mp4: Path, changed: bool
) -> None:
    link = Link(bytes_per_second=1_500_000, round_trip_seconds=0.02)
    recording = Recording(turns_mp4, offers=("mp4",), link=link)
    relay = await Relay.begin(service, deployment, recording)
    kept = (await relay.kill_after(1_000_000)).stat().st_size
    recording.version += changed
    head, *samples = await relay.finish()
    assert head.range == f"bytes=0-{HEAD_BYTES - 1}"
    sent_bytes = sum(each.sent_bytes for each in samples)
    if changed:
        assert sent_bytes > 2_900_000
    else:
        assert 0 < sent_bytes < 3_100_000 - kept
