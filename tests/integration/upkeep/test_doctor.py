"""`studybuddy doctor` as an operator runs it."""

import contextlib
import hashlib
import os
import pty
import socket
import subprocess
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from uuid import UUID, uuid4

import pytest
from sqlalchemy.ext.asyncio import AsyncSession, async_sessionmaker

from app.db import ledger
from app.db.migrations import downgrade, revision_drift
from app.db.models import Document, Lecture
from app.domain import JobKind, LectureStatus
from app.embedded.servers import EmbeddedServers
from app.errors import StorageError
from app.services.upkeep.doctor import Doctor, Finding
from app.settings import Settings, load_settings
from app.storage.local import LocalStorage
from app.storage.memory import MemoryStorage
from app.storage.protocol import ObjectInfo, OpenedFile
from tests.support.media import write_audio
from tests.support.s3 import BUCKET, KEYS

COULD_NOT_LOOK = 3


def _doctor(settings: Settings, *options: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "app.cli", "doctor", *options]
    return subprocess.run(
        command,
        env=_environment(settings),
        capture_output=True,
        text=True,
        timeout=30,
        check=False,
    )


def _environment(settings: Settings) -> dict[str, str]:
    environment = {**os.environ, "DATA_DIR": str(settings.data_path)}
    for name in ("database_url", "redis_url", "storage_url", "s3_endpoint_url", *KEYS):
        if value := getattr(settings, name):
            environment[name.upper()] = value
    return environment


async def test_exit_codes_and_table(settings: Settings) -> None:
    well = _doctor(settings, "--deep")
    assert (well.returncode, well.stderr) == (0, "")
    assert well.stdout == "Rows, objects and jobs fit together.\n"

    key = f"audio/{uuid4()}.m4a"
    orphan = settings.data_path / "storage" / key
    orphan.parent.mkdir(parents=True)
    orphan.write_bytes(b"x")
    ill = _doctor(settings)
    assert (ill.returncode, ill.stderr) == (1, "")
    assert "1 findings" in ill.stdout
    assert "object without a row" in ill.stdout
    assert key in ill.stdout
    assert orphan.exists(), "it changes nothing"


async def test_a_database_that_does_not_answer(settings: Settings) -> None:
    away = settings.model_copy(update={"database_url": "postgresql://x@127.0.0.1:1/x"})
    answer = _doctor(away)
    assert answer.returncode == COULD_NOT_LOOK
    assert answer.stderr.startswith("studybuddy: DATABASE_URL: ")
    assert "Traceback" not in answer.stderr


async def test_a_schema_of_another_version_is_left_as_it_is(
    settings: Settings, database_url: str
) -> None:
    await downgrade(database_url, "-1")
    before = await revision_drift(database_url)
    answer = _doctor(settings)
    assert (answer.returncode, answer.stdout) == (COULD_NOT_LOOK, "")
    assert answer.stderr.startswith("studybuddy: DATABASE_URL: not this version's schema ")
    assert answer.stderr.endswith("; run `studybuddy migrate` first\n")
    assert before
    assert await revision_drift(database_url) == before


def test_an_embedded_database_is_neither_made_nor_migrated(tmp_path: Path) -> None:
    settings = load_settings(data_dir=tmp_path / "data")
    nothing = _doctor(settings)
    assert (nothing.returncode, nothing.stdout) == (COULD_NOT_LOOK, "")
    assert nothing.stderr == (
        "studybuddy: DATA_DIR: there is no database in it yet; `studybuddy migrate` makes one\n"
    )
    assert not (tmp_path / "data").exists()

    with EmbeddedServers(settings):
        pass
    empty = _doctor(settings)
    assert (empty.returncode, empty.stdout) == (COULD_NOT_LOOK, "")
    assert "run `studybuddy migrate` first" in empty.stderr


def test_a_storage_that_does_not_answer(settings: Settings) -> None:
    nowhere = {"storage_url": "s3://bucket", "s3_endpoint_url": "http://127.0.0.1:1"}
    answer = _doctor(settings.model_copy(update={**nowhere, **KEYS}))
    assert (answer.returncode, answer.stdout) == (COULD_NOT_LOOK, "")
    assert answer.stderr.startswith("studybuddy: STORAGE_URL: ")


def test_this_machines_scratch_is_part_of_it(settings: Settings, s3_endpoint: str) -> None:
    bucket = {"storage_url": f"s3://{BUCKET}/{uuid4()}", "s3_endpoint_url": s3_endpoint}
    left = settings.data_path / "scratch" / _part_of(uuid4())
    left.parent.mkdir(parents=True)
    left.write_bytes(b"x")
    answer = _doctor(settings.model_copy(update={**bucket, **KEYS}))
    assert (answer.returncode, answer.stderr) == (1, "")
    assert "scratch file without a job" in answer.stdout
    assert left.exists()


@pytest.mark.parametrize(("command", "exit_code"), [("doctor", COULD_NOT_LOOK), ("migrate", 143)])
def test_what_is_stopped_half_way_does_not_say_that_all_is_well(
    settings: Settings, command: str, exit_code: int
) -> None:
    with socket.create_server(("127.0.0.1", 0)) as silent:
        url = f"postgresql://x@127.0.0.1:{silent.getsockname()[1]}/x"
        environment = os.environ | {"DATABASE_URL": url, "REDIS_URL": settings.redis_url or ""}
        arguments = [sys.executable, "-m", "app.cli", command]
        with subprocess.Popen(arguments, env=environment, stdout=subprocess.PIPE) as process:
            silent.settimeout(30)
            connection, _ = silent.accept()
            process.terminate()
            assert process.stdout
            assert process.stdout.read() == b""
            assert process.wait(30) == exit_code
            connection.close()


class Broken(MemoryStorage):
    """Cannot read, or tell of, some of its objects."""

    def __init__(self) -> None:
        super().__init__()
        self.broken: set[str] = set()

    @asynccontextmanager
    async def open_file(
        self, key: str, start: int = 0, end: int | None = None
    ) -> AsyncIterator[OpenedFile]:
        self._require(key)
        async with super().open_file(key, start, end) as opened:
            yield opened

    async def stat_file(self, key: str) -> ObjectInfo:
        self._require(key)
        return await super().stat_file(key)

    def _require(self, key: str) -> None:
        if key in self.broken:
            raise StorageError("The stored object could not be read.")


def _document(content: bytes) -> Document:
    document_id = uuid4()
    return Document(
        id=document_id,
        course_id=uuid4(),
        filename="a.pdf",
        storage_key=f"documents/{document_id}.pdf",
        checksum=hashlib.sha256(content).hexdigest(),
        mime_type="application/pdf",
        size_bytes=len(content),
    )


async def _chunks(content: bytes) -> AsyncIterator[bytes]:
    yield content


async def test_one_object_that_cannot_be_read_hides_no_other(
    sessions: async_sessionmaker[AsyncSession],
) -> None:
    storage = Broken()
    unreadable, resized, altered = (_document(b"hello") for _ in range(3))
    async with sessions.begin() as session:
        session.add_all([unreadable, resized, altered])
    for document, content in ((unreadable, b"hello"), (resized, b"hello!"), (altered, b"hallo")):
        await storage.store_file(document.storage_key, _chunks(content))
    stray = f"audio/{uuid4()}.m4a"
    await storage.store_file(stray, _chunks(b"x"))
    storage.broken = {unreadable.storage_key, resized.storage_key, stray}
    assert await Doctor(sessions, storage).examine(deep=True) == [
        Finding("object that cannot be read", key)
        for key in sorted([unreadable.storage_key, resized.storage_key])
    ] + [
        Finding("object with other bytes", altered.storage_key),
        Finding("object without a row", stray),
    ]


async def test_scratch_beside_a_bucket_is_looked_at(
    sessions: async_sessionmaker[AsyncSession], tmp_path: Path
) -> None:
    scratch = LocalStorage(tmp_path)
    at_work = uuid4()
    async with sessions.begin() as session:
        url = "https://example.org/1"
        session.add(Lecture(id=at_work, course_id=uuid4(), panopto_url=url, canonical_url=url))
        await session.flush()
        await ledger.open_job(session, JobKind.DOWNLOAD_LECTURE, at_work, None)
    left = _part_of(uuid4())
    for key in (_part_of(at_work), left, "notes.txt"):
        await scratch.store_file(key, _chunks(b"x"))
    assert await Doctor(sessions, MemoryStorage(), scratch).examine() == [
        Finding("scratch file of no known kind", "notes.txt"),
        Finding("scratch file without a job", left),
    ]
    await scratch.close()


@pytest.mark.parametrize("options", [{}, {"movflags": "+faststart"}], ids=["end", "start"])
async def test_recordings_are_compared_with_their_rows(
    sessions: async_sessionmaker[AsyncSession], tmp_path: Path, options: dict[str, str]
) -> None:
    audio = write_audio(tmp_path / "a.m4a", 5, options=options).read_bytes()
    moov, mdat = audio.index(b"moov"), audio.index(b"mdat")
    contents = {
        "empty": b"",
        "stump": audio[:100],
        "cut": audio[:-1000],
        "no index": audio[:moov] + b"free" + audio[moov + 4 :],
        "no sound": audio[:mdat] + b"free" + audio[mdat + 4 :],
        "zeros": bytes(len(audio)),
        "a header that lies": b"\xff" * len(audio),
        "longer": audio,
        "whole": audio,
    }
    seconds = {"longer": 60}
    storage, keys = MemoryStorage(), {}
    for name, content in contents.items():
        lecture = _completed(seconds.get(name, 5))
        keys[name] = lecture.audio_storage_key or ""
        async with sessions.begin() as session:
            session.add(lecture)
        await storage.store_file(keys[name], _chunks(content))
    shallow = {
        Finding("empty object", keys["empty"]),
        Finding("object too small to be a recording", keys["stump"]),
    }
    assert set(await Doctor(sessions, storage).examine()) == shallow
    broken = ("cut", "no index", "no sound", "zeros", "a header that lies")
    assert set(await Doctor(sessions, storage).examine(deep=True)) == {
        *shallow,
        *(Finding("object that is no whole recording", keys[name]) for name in broken),
        Finding("object of another duration", keys["longer"]),
    }


def _completed(seconds: int) -> Lecture:
    lecture_id = uuid4()
    url = f"https://example.org/{lecture_id}"
    return Lecture(
        id=lecture_id,
        course_id=uuid4(),
        panopto_url=url,
        canonical_url=url,
        status=LectureStatus.COMPLETED,
        duration_seconds=seconds,
        audio_storage_key=f"audio/{lecture_id}.m4a",
    )


LONG_NAME = f"audio/{'long-' * 30}[red].m4a"


def _long_named(settings: Settings) -> None:
    for name in (LONG_NAME, "audio/line\nbreak\x1b[2J", "notes.txt"):
        path = settings.data_path / "storage" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(b"x")


def test_into_a_pipe_each_finding_is_one_line(settings: Settings) -> None:
    _long_named(settings)
    ill = _doctor(settings)
    assert (ill.returncode, ill.stderr) == (1, "")
    assert ill.stdout.splitlines() == [
        "3 findings",
        "object of no known kind\tnotes.txt",
        "object without a row\taudio/line\\nbreak\\x1b[2J",
        f"object without a row\t{LONG_NAME}",
    ]


def test_on_a_terminal_nothing_is_cut(settings: Settings) -> None:
    _long_named(settings)
    master, slave = pty.openpty()
    environment = _environment(settings) | {"COLUMNS": "60", "TERM": "dumb"}
    command = [sys.executable, "-m", "app.cli", "doctor"]
    with subprocess.Popen(command, env=environment, stdout=slave) as process:
        os.close(slave)
        shown = _read_terminal(master)
        assert process.wait(30) == 1
    cells = [line.split("│")[2].strip() for line in shown.splitlines() if line.count("│") == 3]
    assert LONG_NAME in "".join(cells)
    assert "…" not in shown


def _read_terminal(master: int) -> str:
    shown = b""
    with contextlib.suppress(OSError):  # How Linux tells that nobody writes to it any more.
        while chunk := os.read(master, 4096):
            shown += chunk
    os.close(master)
    return shown.decode()


def _part_of(lecture_id: UUID) -> str:
    return f"audio/{lecture_id}_source.1.abcd1234.part"
