"""A download goes on where its killed worker stopped, and begins anew where the source changed."""

from pathlib import Path

import pytest

from app.embedded.panopto import Recording
from app.embedded.sample_media import make_lecture
from tests.fault.processes import Deployment
from tests.service import Service
from tests.wait import wait_until


@pytest.fixture(scope="module")
def long_mp4(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """20 s and 6 MB, in fragments: a file that is fetched whole."""
    path = tmp_path_factory.mktemp("media") / "long.mp4"
    return make_lecture(path, 20, size_bytes=6_000_000, fragmented=True)


@pytest.mark.parametrize("changed", [False, True])
async def test_a_killed_workers_bytes_are_not_fetched_twice(
    service: Service, deployment: Deployment, long_mp4: Path, changed: bool
) -> None:
    recording = service.simulator.add(Recording(long_mp4, offers=("mp4",)))
    recording.faults.bytes_per_second = 1_500_000
    ada = service.user("ada")
    answer = await ada.request(service.course, service.simulator.viewer_url(recording))
    lecture_id = answer["lecture"]["id"]

    def part_bytes() -> int:
        parts = service.storage_root.glob("audio/*.part")
        return max((part.stat().st_size for part in parts), default=0)

    await wait_until(lambda: part_bytes() > 2_500_000, "bytes have come", timeout_seconds=30)
    deployment.kill("worker")
    kept = part_bytes()
    recording.faults.bytes_per_second = None
    service.simulator.requests.clear()
    if changed:
        recording.version += 1
    deployment.start("worker-2")
    lecture = await ada.until(lecture_id, "COMPLETED", "FAILED", timeout_seconds=40)
    assert lecture["status"] == "COMPLETED", lecture
    requests = service.simulator.media_requests(recording)
    resumed = requests[0]
    assert resumed.range == f"bytes={kept}-"
    if changed:
        assert requests[1].range is None
        assert requests[1].sent_bytes == long_mp4.stat().st_size
    else:
        assert [each.sent_bytes for each in requests] == [long_mp4.stat().st_size - kept]
    assert service.stored() == {f"audio/{lecture_id}.m4a"}
