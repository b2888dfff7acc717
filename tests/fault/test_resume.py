"""A download goes on where its worker was killed or stopped, and begins anew with a new source."""

import asyncio
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from app.embedded.panopto import Link, Recording, RequestRecord
from app.embedded.sample_media import make_lecture
from tests.fault.processes import Deployment
from tests.support.service import Client, Service
from tests.support.wait import wait_until

HEAD_BYTES = 512 * 1024
_SEGMENT = re.compile(r"audio-(\d+)\.ts")


@dataclass
class Relay:
    """Lectures whose worker ends in the middle, and that another one takes over."""

    service: Service
    deployment: Deployment
    user: Client
    recordings: list[Recording]
    lecture_ids: list[str]

    @classmethod
    async def begin(
        cls, service: Service, deployment: Deployment, *recordings: Recording
    ) -> "Relay":
        user = service.user("ada")
        relay = cls(service, deployment, user, list(recordings), [])
        for recording in recordings:
            service.simulator.add(recording)
            answer = await user.request(service.course, service.simulator.viewer_url(recording))
            relay.lecture_ids.append(answer["lecture"]["id"])
        return relay

    async def kill_after(self, least_bytes: int) -> list[Path]:
        """Kill the worker once so much has come of each, and return the parts that it left."""
        await self._has_come(least_bytes)
        self.deployment.kill("worker")
        return self._left()

    async def terminate_after(self, least_bytes: int, worker: str = "worker") -> list[Path]:
        """The same with a worker that is asked to end."""
        await self._has_come(least_bytes)
        assert await self.deployment.terminate(worker, timeout_seconds=3) == 0
        return self._left()

    async def finish(self, worker: str = "worker-2") -> list[list[RequestRecord]]:
        """Have another worker complete them, leaving nothing; return what it asked for of each."""
        self.deployment.start(worker)
        lectures: list[Any] = await asyncio.gather(
            *(self.user.until(one, "COMPLETED", "FAILED") for one in self.lecture_ids)
        )
        left = self.service.stored()
        assert [each["status"] for each in lectures] == ["COMPLETED"] * len(lectures), lectures
        assert left == {f"audio/{one}.m4a" for one in self.lecture_ids}
        for lecture, recording in zip(lectures, self.recordings, strict=True):
            assert lecture["durationSeconds"] == round(recording.raw_duration_seconds())
        return [self.service.simulator.media_requests(each) for each in self.recordings]

    async def _has_come(self, least_bytes: int) -> None:
        has_come = lambda: self._fewest_bytes() >= least_bytes  # noqa: E731
        await wait_until(has_come, "bytes have come")

    def _left(self) -> list[Path]:
        left = sorted(Path(key).suffix for key in self.service.stored())
        assert left == sorted([".part", ".note"] * len(self.lecture_ids))
        self.service.simulator.requests.clear()
        return [part for one in self.lecture_ids for part in self._parts(one)]

    def _parts(self, lecture_id: str) -> list[Path]:
        return list(self.service.storage_root.glob(f"audio/{lecture_id}_*.part"))

    def _fewest_bytes(self) -> int:
        parts = [self._parts(one) for one in self.lecture_ids]
        return min(part[0].stat().st_size if part else 0 for part in parts)


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


async def test_a_killed_workers_bytes_are_not_fetched_twice(
    service: Service, deployment: Deployment, long_mp4: Path
) -> None:
    recordings = same, changed = [Recording(long_mp4, offers=("mp4",)) for _ in range(2)]
    _pace(recordings, 1_500_000)
    relay = await Relay.begin(service, deployment, same, changed)
    kept = [part.stat().st_size for part in await relay.kill_after(1_000_000)]
    _pace(recordings, None)
    changed.version += 1
    of_same, of_changed = await relay.finish()
    size = long_mp4.stat().st_size
    assert [each.range for each in of_same] == [f"bytes={kept[0]}-"]
    assert [each.sent_bytes for each in of_same] == [size - kept[0]]
    assert [each.range for each in of_changed] == [f"bytes={kept[1]}-", None]
    assert of_changed[1].sent_bytes == size


async def test_workers_that_are_stopped_one_after_the_other_waste_nothing(
    service: Service, deployment: Deployment, long_mp4: Path
) -> None:
    recording = Recording(long_mp4, offers=("mp4",))
    _pace([recording], 1_500_000)
    relay = await Relay.begin(service, deployment, recording)
    (first,) = [part.stat().st_size for part in await relay.terminate_after(1_000_000)]
    deployment.start("worker-2")
    await wait_until(lambda: service.simulator.media_requests(recording), "another goes on")
    asked = service.simulator.media_requests(recording)
    assert [each.range for each in asked] == [f"bytes={first}-"]
    (second,) = [
        part.stat().st_size for part in await relay.terminate_after(first + 1_000_000, "worker-2")
    ]
    _pace([recording], None)
    ((rest,),) = await relay.finish("worker-3")
    assert rest.range == f"bytes={second}-"
    assert rest.sent_bytes == long_mp4.stat().st_size - second
    assert (await relay.user.lecture(relay.lecture_ids[0]))["attempt"] == 1


async def test_a_killed_workers_segments_are_not_fetched_twice(
    service: Service, deployment: Deployment, turns_mp4: Path
) -> None:
    recordings = same, changed = [Recording(turns_mp4, offers=("hls",)) for _ in range(2)]
    _pace(recordings, 100_000)
    relay = await Relay.begin(service, deployment, same, changed)
    parts = await relay.kill_after(500_000)
    kept, kept_in_vain = [_segments_in(part) for part in parts]
    assert min(kept, kept_in_vain) >= 5
    _pace(recordings, None)
    changed.hls_discontinuity = 2
    of_same, of_changed = await relay.finish()
    assert _segments_of(of_same) == set(range(kept, 60))
    assert _segments_of(of_changed) == set(range(60))


async def test_a_killed_workers_samples_are_not_fetched_twice(
    service: Service, deployment: Deployment, turns_mp4: Path
) -> None:
    link = Link(bytes_per_second=3_000_000, round_trip_seconds=0.02)
    same, changed = [Recording(turns_mp4, offers=("mp4",), link=link) for _ in range(2)]
    relay = await Relay.begin(service, deployment, same, changed)
    kept = (await relay.kill_after(800_000))[0].stat().st_size
    changed.version += 1
    of_same, of_changed = await relay.finish()
    for head, *_ in (of_same, of_changed):
        assert head.range == f"bytes=0-{HEAD_BYTES - 1}"
    assert 0 < sum(each.sent_bytes for each in of_same[1:]) < 3_100_000 - kept
    assert sum(each.sent_bytes for each in of_changed[1:]) > 2_900_000


def _pace(recordings: list[Recording], bytes_per_second: int | None) -> None:
    for recording in recordings:
        recording.faults.bytes_per_second = bytes_per_second


def _segments_in(part: Path) -> int:
    """Return how many segments the note beside the part tells of: one end of 8 bytes for each."""
    return len(part.with_suffix(".note").read_bytes().partition(b"\n")[2]) // 8


def _segments_of(requests: list[RequestRecord]) -> set[int]:
    """Return the numbers of the segments that were asked for.

    The tenant may note one twice: a request that the killed worker had only just sent.
    """
    asked = [_SEGMENT.fullmatch(each.path.rpartition("/")[2]) for each in requests]
    return {int(found[1]) for found in asked if found}
