"""`studybuddy demo`: the whole service at work on a simulated Panopto, checked as it goes.

The service runs as `studybuddy run` would, in a process of its own; this one plays the tenant and
two students, who use the API like anyone else.
"""

import asyncio
import hashlib
import os
import signal
import time
from contextlib import ExitStack
from dataclasses import dataclass, field
from typing import Any

import asyncpg
from rich.console import Console
from rich.progress import BarColumn, DownloadColumn, Progress, SpinnerColumn, TextColumn
from rich.table import Table

from app.auth.issuer import DevelopmentIssuer
from app.demo.client import (
    DOCUMENT,
    LISTEN,
    REQUEST,
    TRANSCRIBE,
    WATCH,
    DemoClient,
    DemoFailed,
)
from app.demo.wording import SAID, word_error_rate, words_of
from app.embedded.panopto import PanoptoSimulator, Recording
from app.embedded.process import stop
from app.embedded.sample_media import make_spoken_lecture, media_duration_seconds
from app.embedded.sample_pdf import make_sample_pdf
from app.embedded.servers import EmbeddedServers, make_data_directory
from app.errors import ConfigurationError
from app.settings import Settings
from app.speech.assets import speech_sample
from app.supervisor import Address, CannotRun, free_address, is_ready, run_command

COURSE_ID = "123e4567-e89b-42d3-a456-426614174000"
RECORDING_ID = "11111111-2222-4333-8444-555555555555"
"""What GraphiQL's tabs and the README's queries name; the demonstration takes another."""

SIMULATOR_PORT_OFFSET = 10
SHOWN_FOR_SECONDS = 4
START_SECONDS = 90
PAGES_SECONDS = 15
STOP_SECONDS = 20
TRANSCRIPTION_SECONDS = 180
MOST_WORDS_WRONG = 0.05
STUDENT, FRIEND = "demo", "friend"


def main(settings: Settings, exit_after: bool) -> int:
    """Run the demonstration; return 0 where everything was as it should be, else 1.

    It keeps serving until Ctrl-C, unless told to exit after the checks.
    """
    if not settings.uses_development_issuer:
        raise ConfigurationError("AUTH_ISSUER: the demonstration signs its own tokens; unset it")
    make_data_directory(settings.data_path)
    with ExitStack() as stack:
        demo = Demonstration(settings, free_address(settings.host, settings.port))
        demo.prepare(stack)
        try:
            asyncio.run(demo.show())
        except (DemoFailed, TimeoutError) as failure:
            demo.console.print(f"[bold red]Failed:[/] {failure or 'it took too long'}")
            return 1
        if not exit_after:
            demo.keep_serving()
    return 0


@dataclass
class Demonstration:
    """One run: a tenant, a service, two students, and what was found true."""

    settings: Settings
    address: Address
    console: Console = field(default_factory=Console)
    findings: list[tuple[str, str]] = field(default_factory=list)
    duration_seconds: float = 0.0

    def prepare(self, stack: ExitStack) -> None:
        """Start the tenant and the service, and wait until it is ready."""
        self.console.print("[bold]StudyBuddy[/] starts: PostgreSQL, Redis, API, worker …")
        self.simulator = self._start_tenant(stack)
        hosts = self.simulator.host_port
        environment = {
            "PORT": str(self.address.port),
            "PANOPTO_HOSTS": _joined(self.settings.panopto_hosts, hosts),
            "FETCH_ALLOWED_PRIVATE_HOSTS": _joined(
                self.settings.fetch_allowed_private_hosts, hosts
            ),
            "LOG_LEVEL": os.environ.get("LOG_LEVEL", "WARNING"),
        }
        self.service = run_command("run", environment)
        stack.callback(stop, self.service, signal.SIGTERM, timeout_seconds=STOP_SECONDS)
        deadline = time.monotonic() + START_SECONDS
        while not is_ready(self.address):
            if self.service.poll() is not None:
                raise ConfigurationError("the service did not start; the messages above tell why")
            if time.monotonic() > deadline:
                raise ConfigurationError(f"the service was not ready within {START_SECONDS} s")
            time.sleep(0.1)

    def _start_tenant(self, stack: ExitStack) -> PanoptoSimulator:
        media = self.settings.data_path / "demo" / "spoken.mp4"
        if not media.exists():
            speech = speech_sample("two_cities.wav")
            if not speech.exists():
                raise ConfigurationError("python -m app.speech.assets has not been run")
            media.parent.mkdir(parents=True, exist_ok=True)
            make_spoken_lecture(media.with_suffix(".part.mp4"), speech).replace(media)
        self.duration_seconds = media_duration_seconds(media)
        try:  # so that printed examples hold
            port = free_address("127.0.0.1", self.address.port + SIMULATOR_PORT_OFFSET).port
        except (CannotRun, OverflowError):
            port = free_address("127.0.0.1", 0).port
        simulator = PanoptoSimulator(port=port)
        simulator.start()
        stack.callback(simulator.stop)
        simulator.add(Recording(media, title="A lecture for you to try", guid=RECORDING_ID))
        self.recording = simulator.add(
            Recording(media, title="The best of times, lecture 1", offers=("mp4",))
        )
        self.recording.faults.bytes_per_second = media.stat().st_size // SHOWN_FOR_SECONDS
        return simulator

    async def show(self) -> None:
        """Do what two students would, and check each thing; raise `DemoFailed` otherwise."""
        await self._add_course()
        issuer = DevelopmentIssuer.load(self.settings.data_path)
        student = DemoClient(self.address.url, issuer.issue(STUDENT))
        friend = DemoClient(self.address.url, issuer.issue(FRIEND))
        try:
            lecture_id = await self._show_lecture(student, friend)
            await self._show_transcript(student, lecture_id)
            await self._show_document(student, friend)
        finally:
            await student.close()
            await friend.close()
        table = Table(title="Verified", title_style="bold green", show_header=False)
        for what, finding in self.findings:
            table.add_row(what, finding, "[green]✓[/]")
        self.console.print(table)

    async def _add_course(self) -> None:
        """Put a course into the catalogue, which has no mutation: it comes from the university."""
        with EmbeddedServers(self.settings) as servers:
            url = (servers.settings.database_url or "").replace("+asyncpg", "")
            connection = await asyncpg.connect(url)
            try:
                await connection.execute(
                    "INSERT INTO courses (id, code, title, instructor, is_official)"
                    " VALUES ($1, 'BIO 101', 'Introduction to Biology', 'Dr. Green', true)"
                    " ON CONFLICT DO NOTHING",
                    COURSE_ID,
                )
            finally:
                await connection.close()

    async def _show_lecture(self, student: DemoClient, friend: DemoClient) -> str:
        """Return the id of the lecture that both have in the end."""
        url = self.simulator.viewer_url(self.recording)
        self.console.print(f"A student pastes [cyan]{url}[/]", soft_wrap=True)
        request = {"input": {"courseId": COURSE_ID, "panoptoUrl": url}}
        requested = await student.run(REQUEST, request)
        lecture = await self._follow(student, requested["lecture"]["id"])
        if lecture["status"] != "COMPLETED":
            raise DemoFailed(lecture["errorMessage"] or f"the lecture stays {lecture['status']}")
        self._check("Lecture", lecture["status"], lecture["title"] == self.recording.title)
        seconds = lecture["durationSeconds"]
        self._check("Duration", f"{seconds} s", abs(seconds - self.duration_seconds) <= 1)
        if not self.settings.storage_url:
            folder = self.settings.data_path / "storage" / "audio"
            stored = {path.name: path.stat().st_size for path in folder.glob(f"{lecture['id']}*")}
            size = stored.get(f"{lecture['id']}.m4a", 0)
            alone = size > 0 and len(stored) == 1
            self._check("Audio in storage", f"{size:,} bytes, nothing else left", alone)
        again = await friend.run(REQUEST, request)
        same = again["lecture"]["id"] == lecture["id"] and not again["created"]
        self._check("A second student's request", "shares the lecture", same)
        lecture_id: str = lecture["id"]
        return lecture_id

    async def _show_transcript(self, student: DemoClient, lecture_id: str) -> None:
        self.console.print("The student wants to read it: a model listens, on this machine …")
        requested = await student.run(TRANSCRIBE, {"input": {"lectureId": lecture_id}})
        state: dict[str, Any] = {}
        columns = (SpinnerColumn(), TextColumn("{task.description}"), BarColumn())
        with Progress(*columns, console=self.console) as bars:
            bar = bars.add_task("PENDING", total=100)
            async with asyncio.timeout(TRANSCRIPTION_SECONDS):
                async for state in student.watch(LISTEN, requested["transcription"]["id"]):
                    bars.update(bar, description=state["status"], completed=state["percent"] or 0)
            bars.update(bar, completed=100)
        if state.get("status") != "COMPLETED":
            raise DemoFailed(state.get("errorMessage") or "there is no transcript")
        heard = words_of(state["text"])
        seconds = round(state["processingSeconds"])
        self._check("Transcript", f"{len(heard)} words in {seconds} s", state["language"] == "en")
        self.console.print(f"[italic]{state['text'][:120]}…[/]", soft_wrap=True)
        wrong = word_error_rate(words_of(SAID), heard)
        self._check("Word error rate", f"{100 * wrong:.1f} %", wrong < MOST_WORDS_WRONG)

    async def _follow(self, student: DemoClient, lecture_id: str) -> dict[str, Any]:
        state: dict[str, Any] = {}
        columns = (SpinnerColumn(), TextColumn("{task.description}"), BarColumn(), DownloadColumn())
        with Progress(*columns, console=self.console) as bars:
            bar = bars.add_task("PENDING", total=None)
            async with asyncio.timeout(60):
                async for state in student.watch(WATCH, lecture_id):
                    progress = state["progress"] or {}
                    stage = progress.get("stage", "")
                    bars.update(bar, description=f"{state['status']} {stage}".strip())
                    if progress.get("totalBytes"):
                        total, done = progress["totalBytes"], progress["downloadedBytes"]
                        bars.update(bar, total=total, completed=done)
            if state.get("status") == "COMPLETED":
                bars.update(bar, completed=bars.tasks[0].total)
        return state

    async def _show_document(self, student: DemoClient, friend: DemoClient) -> None:
        pdf = make_sample_pdf("Photosynthesis", pages=3)
        uploaded = await student.upload(COURSE_ID, "photosynthesis.pdf", pdf)
        again = await friend.upload(COURSE_ID, "my copy.pdf", pdf)
        same = again["document"]["id"] == uploaded["document"]["id"] and not again["created"]
        self._check("The same PDF of a second student", "is kept once", same)
        content = await student.read(uploaded["document"]["fileUrl"])
        digest = hashlib.sha256(content).hexdigest()
        self._check("PDF read back", f"SHA-256 {digest[:16]}…", content == pdf)
        pages: int | None = None
        async with asyncio.timeout(PAGES_SECONDS):
            while pages is None:
                document = await student.run(DOCUMENT, {"id": uploaded["document"]["id"]})
                pages = document["pageCount"]
                await asyncio.sleep(0.1)
        self._check("Pages counted", str(pages), pages == 3)

    def _check(self, what: str, finding: str, is_right: bool) -> None:
        if not is_right:
            raise DemoFailed(f"{what}: {finding} is not as it should be")
        self.findings.append((what, finding))

    def keep_serving(self) -> None:
        """Tell where everything is, and serve until Ctrl-C or the service ends."""
        link = f"{self.simulator.base_url}/Panopto/Pages/Viewer.aspx?id={RECORDING_ID}"
        self.console.print(f"GraphiQL:          [cyan]{self.address.url}/graphql[/]")
        self.console.print(f"A lecture to try:  [cyan]{link}[/]", soft_wrap=True)
        self.console.print(f"Its course:        [cyan]{COURSE_ID}[/]")
        self.console.print("Ctrl-C ends it.")
        self.service.wait()


def _joined(hosts: tuple[str, ...], host: str) -> str:
    return ",".join((*hosts, host))
