"""The simulated tenant: Starlette behind uvicorn, in a thread of its own, on 127.0.0.1."""

import asyncio
import socket
import tempfile
import threading
from collections.abc import Callable, Iterable
from dataclasses import astuple, dataclass
from pathlib import Path
from typing import Self
from urllib.parse import quote

import uvicorn
from starlette.applications import Starlette
from starlette.datastructures import Headers
from starlette.requests import Request
from starlette.responses import HTMLResponse, JSONResponse, PlainTextResponse, RedirectResponse
from starlette.responses import Response as StarletteResponse
from starlette.routing import Route
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from app.embedded.panopto.files import MediaFile
from app.embedded.panopto.packager import audio_alone, package
from app.embedded.panopto.recording import Recording

COOKIE = ".ASPXAUTH=simulated"

_PAGE = (
    "<!doctype html><html><head><title>{title}</title></head><body><h1>{title}</h1></body></html>"
)


@dataclass(slots=True)
class RequestRecord:
    """A request as it was answered; ``sent_bytes`` grows while its body is sent."""

    method: str
    path: str
    query: str
    range: str | None
    cookie: str | None
    status: int = 0
    sent_bytes: int = 0


class PanoptoSimulator:
    """A tenant at ``base_url``, started by ``async with`` (or `start` and `stop`).

    Recordings and their faults can be changed while it runs; ``requests`` is what was asked, in
    order.
    """

    def __init__(
        self, recordings: Iterable[Recording] = (), *, host: str = "127.0.0.1", port: int = 0
    ) -> None:
        self.requests: list[RequestRecord] = []
        self._recordings = {recording.guid: recording for recording in recordings}
        self._host, self._port = host, port
        self._hls = tempfile.TemporaryDirectory(prefix="panopto-")
        self._packaging = threading.Lock()
        self._server: uvicorn.Server | None = None
        self._thread: threading.Thread | None = None
        delivery = "/Panopto/Pages/Viewer/DeliveryInfo.aspx"
        routes = [
            Route("/Panopto/Pages/Viewer.aspx", self._viewer),
            Route("/Panopto/Pages/Embed.aspx", self._viewer),
            Route("/Panopto/Pages/Viewer/Default.aspx", self._viewer),
            Route("/Panopto/Pages/Auth/Login.aspx", self._login),
            Route(delivery, self._delivery_info, methods=["GET", "POST"]),
            Route("/Panopto/Podcast/{way}/{name}.mp4", self._podcast),
            Route("/sessions/{guid}/{track}/hls/{name}", self._hls_file),
            Route("/sessions/{guid}/{track}/{name}.mp4", self._media),
        ]
        self.app: ASGIApp = _Recorder(Starlette(routes=routes), self.requests)

    async def __aenter__(self) -> Self:
        await asyncio.to_thread(self.start)
        return self

    async def __aexit__(self, *error: object) -> None:
        await asyncio.to_thread(self.stop)

    @property
    def host_port(self) -> str:
        """``host:port``: the entry for PANOPTO_HOSTS and FETCH_ALLOWED_PRIVATE_HOSTS."""
        return f"{self._host}:{self._port}"

    @property
    def base_url(self) -> str:
        """The tenant's address, with no slash at the end."""
        return f"http://{self.host_port}"

    @property
    def recordings(self) -> list[Recording]:
        """Every recording of the tenant."""
        return list(self._recordings.values())

    def add(self, recording: Recording) -> Recording:
        """Have one more recording, and return it."""
        self._recordings[recording.guid] = recording
        return recording

    def viewer_url(self, recording: Recording) -> str:
        """Return the link that a browser shows."""
        return self.base_url + recording.viewer_path()

    def media_url(self, recording: Recording) -> str:
        """Return the direct link of the MP4."""
        return f"{self.base_url}/sessions/{recording.guid}/main/{recording.guid}.mp4"

    def hls_url(self, recording: Recording) -> str:
        """Return the direct link of the HLS master."""
        return f"{self.base_url}/sessions/{recording.guid}/main/hls/master.m3u8"

    def media_requests(self, recording: Recording) -> list[RequestRecord]:
        """Return the requests for this recording's media, playlists included."""
        return [each for each in self.requests if f"/sessions/{recording.guid}/" in each.path]

    def start(self) -> None:
        """Listen, and return once requests are answered."""
        listener = socket.create_server((self._host, self._port))
        self._port = listener.getsockname()[1]
        config = uvicorn.Config(
            self.app, log_config=None, log_level="critical", access_log=False, lifespan="off"
        )
        config.timeout_graceful_shutdown = 1
        self._server = uvicorn.Server(config)
        self._thread = threading.Thread(
            target=self._server.run, args=([listener],), name="panopto-simulator", daemon=True
        )
        self._thread.start()

    def stop(self) -> None:
        """Close every connection and delete what was made."""
        if self._server and self._thread:
            self._server.should_exit = True
            self._thread.join()
        self._hls.cleanup()

    async def _viewer(self, request: Request) -> StarletteResponse:
        recording = self._asked_for(request.query_params.get("id"), request.query_params.get("tid"))
        if recording is None:
            return HTMLResponse(_PAGE.format(title="Not found"), 404)
        if recording.faults.login_required:
            return _to_login(request)
        return HTMLResponse(_PAGE.format(title=recording.title))

    async def _login(self, request: Request) -> StarletteResponse:
        return HTMLResponse(_PAGE.format(title="Sign in"))

    async def _delivery_info(self, request: Request) -> StarletteResponse:
        form = await request.form() if request.method == "POST" else request.query_params
        given = {name: str(form[name]) for name in ("deliveryId", "tid") if name in form}
        recording = self._asked_for(given.get("deliveryId"), given.get("tid"))
        if recording is None:
            return JSONResponse({"ErrorCode": 3, "ErrorMessage": "The session was not found."})
        if "getCaptions" in form:
            return _captions(recording, str(form.get("language")))
        return self._delivery_fault(request, recording) or JSONResponse(
            # As a custom host does, it names itself as it was asked.
            recording.delivery_info(str(request.base_url).rstrip("/")),
            headers={"set-cookie": f"{COOKIE}; path=/; HttpOnly"},
        )

    def _delivery_fault(self, request: Request, recording: Recording) -> StarletteResponse | None:
        faults = recording.faults
        if faults.refuse_get and request.method == "GET":
            return PlainTextResponse("", 405)
        if faults.delivery_status and faults.due("delivery_status_times"):
            headers = {"retry-after": faults.retry_after} if faults.retry_after else {}
            return PlainTextResponse("", faults.delivery_status, headers)
        if faults.login_redirect:
            return _to_login(request)
        if faults.html_delivery:
            return HTMLResponse(_PAGE.format(title="Panopto"))
        code = 2 if faults.login_required else faults.error_code
        return JSONResponse({"ErrorCode": code, "ErrorMessage": "Refused."}) if code else None

    async def _podcast(self, request: Request) -> ASGIApp:
        recording = self._recordings.get(request.path_params["name"].lower())
        if recording is None:
            return HTMLResponse(_PAGE.format(title="Not found"), 404)
        if COOKIE not in request.headers.get("cookie", ""):
            return HTMLResponse(_PAGE.format(title="Sign in"), 403)
        if request.query_params.get("mediaTargetType") != "audioPodcast":
            return MediaFile(recording, recording.media)
        if not recording.audio_podcast:
            return HTMLResponse(_PAGE.format(title="Not found"), 404)
        path = Path(self._hls.name) / f"{recording.guid}.mp4"
        return MediaFile(recording, await self._made(audio_alone, recording.media, path))

    async def _media(self, request: Request) -> ASGIApp:
        recording = self._recordings.get(request.path_params["guid"])
        path = _track(recording, request.path_params["track"])
        if recording is None or path is None:
            return HTMLResponse(_PAGE.format(title="Not found"), 404)
        return MediaFile(recording, path)

    async def _hls_file(self, request: Request) -> ASGIApp:
        recording = self._recordings.get(request.path_params["guid"])
        track = request.path_params["track"]
        source = _track(recording, track)
        if recording is None or source is None:
            return HTMLResponse(_PAGE.format(title="Not found"), 404)
        shape = recording.hls_shape
        name = "-".join([recording.guid, track, *map(str, astuple(shape))])
        master = await self._made(package, source, Path(self._hls.name) / name, shape)
        path = master.parent / Path(request.path_params["name"]).name
        if not path.is_file():
            return HTMLResponse(_PAGE.format(title="Not found"), 404)
        if recording.faults.live and path.suffix == ".m3u8":
            text = path.read_text().replace("#EXT-X-ENDLIST", "").replace("VOD", "EVENT")
            return PlainTextResponse(text, media_type="application/vnd.apple.mpegurl")
        return MediaFile(recording, path)

    async def _made(self, make: Callable[..., Path], *arguments: object) -> Path:
        """Run it in a thread, one at a time."""

        def alone() -> Path:
            with self._packaging:
                return make(*arguments)

        return await asyncio.to_thread(alone)

    def _asked_for(self, guid: str | None, tid: str | None) -> Recording | None:
        if guid:
            return self._recordings.get(guid.lower())
        return next((each for each in self._recordings.values() if tid and each.tid == tid), None)


class _Recorder:
    """Writes down each request, and how it was answered."""

    def __init__(self, app: ASGIApp, records: list[RequestRecord]) -> None:
        self._app = app
        self._records = records

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        headers = Headers(scope=scope)
        record = RequestRecord(
            scope["method"],
            scope["path"],
            scope["query_string"].decode("latin-1"),
            headers.get("range"),
            headers.get("cookie"),
        )
        self._records.append(record)

        async def counted(message: Message) -> None:
            if message["type"] == "http.response.start":
                record.status = message["status"]
            await send(message)
            record.sent_bytes += len(message.get("body", b""))

        await self._app(scope, receive, counted)


def _captions(recording: Recording, language: str) -> StarletteResponse:
    answer = recording.captions.get(int(language)) if language.isdigit() else None
    match answer:
        case None:
            return JSONResponse({"ErrorCode": 3, "ErrorMessage": "No captions."})
        case int():
            return PlainTextResponse("", answer)
        case str():
            return PlainTextResponse(answer)
    return JSONResponse(answer)


def _to_login(request: Request) -> StarletteResponse:
    target = quote(str(request.url.path) + "?" + str(request.url.query), safe="")
    return RedirectResponse(f"/Panopto/Pages/Auth/Login.aspx?ReturnUrl={target}", 302)


def _track(recording: Recording | None, name: str) -> Path | None:
    if recording is None:
        return None
    return {"main": recording.media, "slides": recording.slides}.get(name)
