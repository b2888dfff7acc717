"""A whole run at LOG_LEVEL=DEBUG in processes of its own: no line tells what it must not."""

import asyncio
import json
import os
import re
import sys
from pathlib import Path
from uuid import uuid4

import httpx
import jwt

from app.auth.issuer import DevelopmentIssuer
from app.embedded.panopto import PanoptoSimulator, Recording
from app.settings import Settings
from tests.support.graphql_ws import open_socket
from tests.support.pdfs import make_pdf
from tests.support.service import Client, Service
from tests.support.wait import wait_until

SECRET_KEY = "the-secret-key-of-this-run"
METRICS_TOKEN = "the-metrics-token-of-this-run"
STREAM_SECRET = "signature-of-a-media-host"
PASSWORD = "hunter2-the-password"


async def test_no_log_tells_a_token_a_cookie_a_signature_or_a_path(
    service_settings: Settings, simulator: PanoptoSimulator, recording: Recording, tmp_path: Path
) -> None:
    log = tmp_path / "log"
    environment = _environment(service_settings)
    with log.open("wb") as output:
        process = await asyncio.create_subprocess_exec(
            *(sys.executable, "-m", "app.cli", "run"), env=environment, stdout=output, stderr=output
        )
    try:
        address = await wait_until(lambda: _address(log), "the service is up", timeout_seconds=30)
        async with httpx.AsyncClient(base_url=address, timeout=30, trust_env=False) as http:
            service = Service(service_settings, address, http, simulator)
            secrets = await _scenario(service, recording)
    finally:
        process.terminate()
        await process.wait()
    text = log.read_text()
    assert "job_ended" in text  # the worker's lines are there
    assert "request_id=" in text or '"request_id"' in text
    for secret in (*secrets, SECRET_KEY, METRICS_TOKEN, STREAM_SECRET, PASSWORD):
        assert secret not in text, _line_with(text, secret)
    for path in (str(service_settings.data_path), str(tmp_path), str(Path.cwd()), sys.prefix):
        assert path not in text, _line_with(text, path)
    assert not re.search(r"eyJ[\w-]{10,}\.", text)
    assert not re.search(r"signature=(?!\[redacted\])", text)


async def _scenario(service: Service, recording: Recording) -> list[str]:
    """Do a little of everything, faults included; return what was secret in it."""
    ada, bob = service.user("ada"), service.user("bob")
    document = (await ada.upload(service.course, make_pdf(1), "Geheim.pdf"))["document"]
    link = document["signedFileUrl"]
    assert (await service.http.get(link)).status_code == 200
    assert (await service.http.get(link + "x")).status_code == 401
    assert (await bob.get(document["fileUrl"])).status_code == 404
    good = await ada.request(service.course, service.simulator.viewer_url(recording))
    tenant = service.simulator.host_port
    urls = [
        f"http://{tenant}/nothing.mp4?sig={STREAM_SECRET}",
        f"http://127.0.0.1:1/x.mp4?token={STREAM_SECRET}",
        f"http://no-such-host.invalid/x.mp4?X-Amz-Signature={STREAM_SECRET}",
    ]
    asked = [
        await ada.request(service.course, f"https://example.org/{uuid4()}", streamUrl=url)
        for url in urls
    ]
    await ada.request(service.course, f"http://user:{PASSWORD}@{tenant}/x.mp4")
    for item in asked:
        lecture = item["lecture"]["id"]
        await wait_until(lambda item=lecture: _settled(ada, item), "it fails or waits")
    await ada.until(good["lecture"]["id"], "COMPLETED")
    await ada.upload(service.course, b"%PDF-1.7\nbroken")
    forged = jwt.encode({"sub": "ada"}, "x" * 32, "HS256")
    await _refused(service, ada, forged)
    return [ada.token, bob.token, forged, link.partition("signature=")[2]]


async def _settled(user: Client, lecture_id: str) -> bool:
    lecture = await user.lecture(lecture_id)
    return lecture["status"] == "FAILED" or lecture["nextAttemptAt"] is not None


async def _refused(service: Service, ada: Client, forged: str) -> None:
    for headers in (
        {"Authorization": f"Bearer {forged}"},
        {"Authorization": f"Basic {PASSWORD}"},
        {"Cookie": f"__session={forged}"},
        {"Cookie": f"__session={ada.token}", "Origin": "https://evil.example"},
    ):
        response = await service.http.post("/graphql", json={"query": "{x}"}, headers=headers)
        assert response.status_code in {401, 403}
        assert PASSWORD not in response.text
    for path in (f"/graphql?token={ada.token}", f"/{ada.token}?a={STREAM_SECRET}"):
        await service.http.post(path, json={"query": "{ viewer { id } }"})
        await ada.get(path)
    await service.http.get("/metrics", headers={"Authorization": f"Bearer {METRICS_TOKEN}"})
    async with open_socket(service.address) as socket:
        payload = {"Authorization": f"Bearer {forged}"}
        await socket.send({"type": "connection_init", "payload": payload})
        assert await socket.close_code() == 4401
    async with open_socket(service.address) as socket:
        await socket.init(ada.token)
        await socket.send_raw(json.dumps({"type": "x", "payload": {"Authorization": ada.token}}))
        assert await socket.close_code() == 4400


def _environment(settings: Settings) -> dict[str, str]:
    DevelopmentIssuer.load(settings.data_path)
    return {
        "PATH": os.defpath,
        "HOST": "127.0.0.1",
        "PORT": "0",
        "DATA_DIR": str(settings.data_path),
        "DATABASE_URL": str(settings.database_url),
        "REDIS_URL": str(settings.redis_url),
        "FETCH_ALLOWED_PRIVATE_HOSTS": ",".join(settings.fetch_allowed_private_hosts),
        "PANOPTO_HOSTS": ",".join(settings.panopto_hosts),
        "LOG_LEVEL": "DEBUG",
        "SECRET_KEY": SECRET_KEY,
        "METRICS_TOKEN": METRICS_TOKEN,
    }


def _address(log: Path) -> str | None:
    found = re.search(r"http://127\.0\.0\.1:\d+", log.read_text())
    return found[0] if found else None


def _line_with(text: str, secret: str) -> str:
    return next(line for line in text.splitlines() if secret in line)[:500]
