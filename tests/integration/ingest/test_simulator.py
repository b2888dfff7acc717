"""The simulator itself: what others may rely on when they test their Panopto code with it."""

import re
import signal
import subprocess
import sys
from collections.abc import AsyncIterator
from pathlib import Path

import av
import httpx
import pytest

from app.embedded.panopto import PanoptoSimulator, Recording
from app.embedded.sample_media import (
    make_audio,
    make_lecture,
    make_long_lecture,
    make_text,
    make_truncated,
    media_duration_seconds,
)

DELIVERY = "/Panopto/Pages/Viewer/DeliveryInfo.aspx"


@pytest.fixture
async def browser(simulator: PanoptoSimulator) -> AsyncIterator[httpx.AsyncClient]:
    async with httpx.AsyncClient(base_url=simulator.base_url, trust_env=False) as browser:
        yield browser


async def test_delivery_info_has_the_captured_shape(
    browser: httpx.AsyncClient, recording: Recording
) -> None:
    form = {"deliveryId": recording.guid.upper(), "responseType": "json"}
    by_get = (await browser.get(DELIVERY, params=form)).json()
    by_post = (await browser.post(DELIVERY, data=form)).json()
    assert by_get["Delivery"]["PublicID"] == by_post["Delivery"]["PublicID"] == recording.guid
    assert by_get["Delivery"]["Duration"] == pytest.approx(30)
    assert by_get["Delivery"]["Streams"][0]["Tag"] == "DV"
    by_tid = (await browser.get(DELIVERY, params={"tid": recording.tid})).json()
    assert by_tid["Delivery"]["PublicID"] == recording.guid


async def test_errors_are_answered_with_200_and_a_code(
    browser: httpx.AsyncClient, recording: Recording
) -> None:
    unknown = await browser.get(DELIVERY, params={"deliveryId": "x"})
    assert (unknown.status_code, unknown.json()["ErrorCode"]) == (200, 3)
    recording.faults.login_required = True
    refused = await browser.get(DELIVERY, params={"deliveryId": recording.guid})
    assert (refused.status_code, refused.json()["ErrorCode"]) == (200, 2)
    page = await browser.get(recording.viewer_path())
    assert page.status_code == 302
    assert "ReturnUrl=%2FPanopto" in page.headers["location"]


async def test_media_answers_ranges_and_validators(
    browser: httpx.AsyncClient, simulator: PanoptoSimulator, recording: Recording
) -> None:
    url = simulator.media_url(recording)
    content = recording.media.read_bytes()
    head = await browser.head(url)
    assert (head.status_code, head.content) == (200, b"")
    assert head.headers["content-length"] == str(len(content))
    etag = head.headers["etag"]
    part = await browser.get(url, headers={"range": "bytes=100-199", "if-range": etag})
    assert (part.status_code, part.content) == (206, content[100:200])
    assert part.headers["content-range"] == f"bytes 100-199/{len(content)}"
    stale = await browser.get(url, headers={"range": "bytes=100-", "if-range": '"other"'})
    assert (stale.status_code, stale.content) == (200, content)
    beyond = await browser.get(url, headers={"range": f"bytes={len(content)}-"})
    assert beyond.status_code == 416
    recorded = simulator.media_requests(recording)
    assert [each.status for each in recorded] == [200, 206, 200, 416]
    assert recorded[1].sent_bytes == 100


async def test_a_cut_drops_the_connection(
    browser: httpx.AsyncClient, simulator: PanoptoSimulator, recording: Recording
) -> None:
    recording.faults.cut_after_bytes = 1000
    with pytest.raises(httpx.RemoteProtocolError):
        await browser.get(simulator.media_url(recording))
    assert (await browser.get(simulator.media_url(recording))).status_code == 200


async def test_podcasts_are_for_those_with_the_cookie(
    browser: httpx.AsyncClient, recording: Recording
) -> None:
    recording.offers = ("download",)
    assert (await browser.get(recording.download_path)).status_code == 403
    await browser.get(DELIVERY, params={"deliveryId": recording.guid})
    assert (await browser.get(recording.download_path)).status_code == 200


async def test_it_answers_under_another_name(
    simulator: PanoptoSimulator, recording: Recording
) -> None:
    port = simulator.host_port.partition(":")[2]
    named = f"http://localhost:{port}"
    async with httpx.AsyncClient(base_url=named, trust_env=False) as browser:
        found = (await browser.get(DELIVERY, params={"tid": recording.tid})).json()
        assert found["EmbedUrl"].startswith(named)
        assert found["Delivery"]["Streams"][0]["StreamUrl"].startswith(named)
        page = await browser.get(f"/Panopto/Pages/Viewer/Default.aspx?id={recording.guid}")
        assert recording.title in page.text
        podcast = await browser.get(f"/Panopto/Podcast/Stream/{recording.guid}.mp4")
        assert podcast.status_code == 200, "the cookie is this name's"


@pytest.mark.parametrize("fragmented", [False, True])
async def test_a_discontinuity_is_another_run_of_the_encoder(
    browser: httpx.AsyncClient,
    simulator: PanoptoSimulator,
    recording: Recording,
    fragmented: bool,
) -> None:
    recording.hls_fragmented_mp4, recording.hls_encrypted = fragmented, True
    recording.hls_discontinuity = 2
    url = simulator.hls_url(recording).replace("master", "audio")
    lines = (await browser.get(url)).text.splitlines()
    at = lines.index("#EXT-X-DISCONTINUITY")
    before, after = lines[:at], lines[at + 1 :]
    assert lines[-1] == "#EXT-X-ENDLIST"
    keys = [[line for line in part if "AES-128" in line] for part in (before, after)]
    assert [len(part) for part in keys] == [1, 1]
    assert ",IV=" not in keys[0][0]
    assert ",IV=0x" in keys[1][0]
    sections = [line for line in lines if line.startswith("#EXT-X-MAP")]
    assert len(set(sections)) == (2 if fragmented else 0)
    files = [line for line in lines if not line.startswith("#")]
    assert len(set(files)) == len(files)


async def test_the_hls_master_names_an_audio_rendition(
    browser: httpx.AsyncClient, simulator: PanoptoSimulator, recording: Recording
) -> None:
    master = (await browser.get(simulator.hls_url(recording))).text
    assert "#EXT-X-MEDIA:TYPE=AUDIO" in master
    assert "#EXT-X-STREAM-INF" in master
    assert (await browser.get(simulator.hls_url(recording) + "/../../x")).status_code == 404


def test_it_runs_by_itself_and_ends_when_asked() -> None:
    command = [sys.executable, "-m", "app.embedded.panopto_simulator", "--port", "0"]
    with subprocess.Popen([*command, "--seconds", "5"], stdout=subprocess.PIPE) as process:
        assert process.stdout
        lines = [process.stdout.readline().decode() for _ in range(3)]
        assert re.fullmatch(r"PANOPTO_HOSTS=127\.0\.0\.1:\d+\n", lines[0])
        assert "lecture" in httpx.get(lines[2].strip(), trust_env=False).text
        process.send_signal(signal.SIGTERM)
        assert process.wait(10) == 0


def test_sample_media_is_what_it_says(tmp_path: Path) -> None:
    lecture = make_lecture(tmp_path / "a.mp4", 61, size_bytes=3_000_000)
    assert lecture.stat().st_size >= 3_000_000
    with av.open(str(lecture)) as container:
        assert [stream.codec_context.name for stream in container.streams] == ["aac", "h264"]
        samples = sum(frame.samples for frame in container.decode(audio=0))
    assert samples / 48_000 == pytest.approx(61, abs=0.05)
    with av.open(str(lecture)) as container:
        assert sum(1 for _ in container.decode(video=0)) == 61 * 5
    assert media_duration_seconds(make_audio(tmp_path / "a.mp3", 3, "libmp3lame")) == pytest.approx(
        3, abs=0.1
    )
    cut = make_truncated(tmp_path / "cut.mp4", lecture)
    assert cut.stat().st_size < lecture.stat().st_size
    assert make_text(tmp_path / "text.mp4").read_text()


def test_an_hour_of_more_than_100_mb_is_made_in_seconds(tmp_path: Path) -> None:
    hour = make_long_lecture(tmp_path / "hour.mp4")
    assert hour.stat().st_size > 100_000_000
    assert media_duration_seconds(hour) == pytest.approx(3600, abs=0.2)
    hour.unlink()
