"""What the sweep takes, what it leaves, and what it only tells."""

import asyncio
import os
import time
from collections.abc import AsyncIterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from uuid import uuid4

import pytest
from sqlalchemy import select, text
from structlog.testing import capture_logs

from app.backends import Backends, open_backends
from app.db import ledger
from app.db.models import Document, Job, Lecture, User, UserDocument, UserLecture
from app.domain import JobKind, JobState, LectureFailure, LectureSource, LectureStatus
from app.errors import StorageError
from app.services.upkeep import store_sweep
from app.services.upkeep.doctor import Doctor
from app.services.upkeep.sweep import SWEEP_SUBJECT, Sweep, plan_sweep
from app.settings import Settings
from app.storage.local import LocalStorage
from app.storage.protocol import ObjectInfo, ObjectStore
from tests.support.media import write_audio

GRACE_SECONDS = 60.0
OLD_SECONDS = 3600


@dataclass
class Store:
    """The service's backends and its local files."""

    backends: Backends
    root: Path

    async def put(
        self, key: str, *, age_seconds: float = OLD_SECONDS, content: bytes = b"x"
    ) -> str:
        async def chunks() -> AsyncIterator[bytes]:
            yield content

        await self.backends.storage.store_file(key, chunks())
        self.age(key, age_seconds)
        return key

    def place(self, name: str, *, age_seconds: float = OLD_SECONDS) -> str:
        """Put a file there by hand, whatever its name."""
        path = self.root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(b"x")
        self.age(name, age_seconds)
        return name

    def age(self, key: str, seconds: float) -> None:
        then = time.time() - seconds
        os.utime(self.root / key, (then, then))

    def keys(self) -> set[str]:
        return {str(p.relative_to(self.root)) for p in self.root.rglob("*") if p.is_file()}

    async def add(self, *rows: Any) -> None:
        async with self.backends.sessions.begin() as session:
            for row in rows:
                session.add(row)
                await session.flush()

    async def age_rows(self) -> None:
        """Make every lecture and document look as if nothing had touched it for long."""
        async with self.backends.sessions.begin() as session:
            for table in ("lectures", "documents"):
                await session.execute(text(f"ALTER TABLE {table} DISABLE TRIGGER USER"))
                await session.execute(
                    text(f"UPDATE {table} SET updated_at = now() - interval '1 hour'")
                )
                await session.execute(text(f"ALTER TABLE {table} ENABLE TRIGGER USER"))

    async def sweep(
        self, grace_seconds: float = GRACE_SECONDS, storage: ObjectStore | None = None
    ) -> None:
        await plan_sweep(self.backends.work)
        async with self.backends.sessions.begin() as session:
            await session.execute(text("UPDATE jobs SET run_at = now() WHERE kind = 'sweep'"))
        async with self.backends.sessions.begin() as session:
            (lease,) = await ledger.claim(session, [JobKind.SWEEP], 1)
        backends = self.backends
        await Sweep(backends.work, storage or backends.storage, grace_seconds).run(lease)


class Failing(LocalStorage):
    """Cannot delete some of its objects, tell of some, or, at a word, list any."""

    def __init__(self, root: Path) -> None:
        super().__init__(root)
        self.undeletable: set[str] = set()
        self.untellable: set[str] = set()
        self.hanging: set[str] = set()
        self.unlistable = False

    async def delete_any(self, name: str) -> None:
        if name in self.hanging:
            await asyncio.Event().wait()
        _refuse(name in self.undeletable)
        await super().delete_any(name)

    async def delete_partial(self, key: str) -> None:
        _refuse(key in self.undeletable)
        await super().delete_partial(key)

    async def stat_file(self, key: str) -> ObjectInfo:
        _refuse(key in self.untellable)
        return await super().stat_file(key)

    async def list_all(self) -> AsyncIterator[ObjectInfo]:
        _refuse(self.unlistable)
        async for found in super().list_all():
            yield found


def _refuse(refused: bool) -> None:
    if refused:
        raise StorageError("The store refuses.")


@pytest.fixture
async def failing(store: Store) -> AsyncIterator[Failing]:
    """The same files, by a store that fails."""
    storage = Failing(store.root)
    yield storage
    await storage.close()


@pytest.fixture
async def store(settings: Settings) -> AsyncIterator[Store]:
    async with open_backends(settings) as backends:
        yield Store(backends, settings.data_path / "storage")


def lecture(**values: Any) -> Lecture:
    lecture_id = uuid4()
    url = f"https://example.org/{lecture_id}"
    return Lecture(id=lecture_id, course_id=uuid4(), panopto_url=url, canonical_url=url, **values)


def completed() -> Lecture:
    made = lecture(status=LectureStatus.COMPLETED, duration_seconds=5)
    made.audio_storage_key = f"audio/{made.id}.m4a"
    return made


def document(size_bytes: int = 1, checksum: str = "0" * 64) -> Document:
    document_id = uuid4()
    return Document(
        id=document_id,
        course_id=uuid4(),
        filename="a.pdf",
        storage_key=f"documents/{document_id}.pdf",
        checksum=checksum,
        mime_type="application/pdf",
        size_bytes=size_bytes,
    )


def user() -> User:
    return User(id=uuid4(), issuer="issuer", subject=str(uuid4()))


async def test_orphans_go_and_everything_else_stays(store: Store) -> None:
    owner, kept, pdf = user(), completed(), document()
    sent = lecture(source=LectureSource.UPLOAD, checksum="0" * 64, upload_bytes=1)
    sent.upload_storage_key = f"uploads/{uuid4()}"  # Sent again: it has a key of its own.
    await store.add(owner, kept, sent, pdf)
    await store.add(
        UserLecture(user_id=owner.id, lecture_id=kept.id),
        UserLecture(user_id=owner.id, lecture_id=sent.id),
        UserDocument(user_id=owner.id, document_id=pdf.id, filename="a.pdf"),
    )
    stays = {
        await store.put(sent.upload_storage_key),
        await store.put(f"audio/{kept.id}.m4a"),
        await store.put(pdf.storage_key),
        await store.put(f"audio/{uuid4()}.m4a", age_seconds=1),
        await store.put("somebody-elses/notes.txt"),
        await store.put(f"{uuid4()}.m4a"),
    }
    await store.put(f"audio/{uuid4()}.m4a")
    await store.put(f"transcripts/{uuid4()}.json")
    await store.put(f"documents/{uuid4()}.pdf")
    await store.put(f"uploads/{uuid4()}")
    await store.put(f"uploads/{kept.id}")
    await store.put(f"audio/{kept.id}_source.1.abcd1234.mp4")
    await store.put(f"documents/{pdf.id}.pdf.abcd1234")
    await store.sweep()
    assert store.keys() == stays


async def test_what_an_open_job_may_need_stays(store: Store) -> None:
    at_work, ended = lecture(), lecture(status=LectureStatus.FAILED)
    ended.failure = LectureFailure.NETWORK
    counted = document()
    await store.add(at_work, ended, counted)
    async with store.backends.sessions.begin() as session:
        for kind, subject in (
            (JobKind.DOWNLOAD_LECTURE, at_work.id),
            (JobKind.COUNT_PAGES, counted.id),
        ):
            await ledger.open_job(session, kind, subject, None)
    stays = {
        await store.put(f"audio/{at_work.id}_source.1.abcd1234.mp4"),
        await store.put(f"audio/{at_work.id}.m4a"),
        await store.put(counted.storage_key),
        await store.put(f"{counted.storage_key}.abcd1234"),
    }
    await store.put(f"audio/{ended.id}_source.1.abcd1234.mp4")
    await store.put(f"audio/{ended.id}.m4a")
    await store.sweep()
    assert store.keys() == stays


ODD_NAMES = [
    "audio/stray.m4a",
    "audio/not-an-id",
    "audio/.hidden",
    "audio/.folder/x",
    f"audio/sub/{uuid4()}.m4a",
    "audio/with a blank",
    "audio/line\nbreak\x1b[2J",
    "audio/" + os.fsdecode(b"no-utf8-\xff"),
    "documents/x.pdf",
    "documents/a/b/c/.d",
    "transcripts/t.json",
    ".partial/.hidden",
    ".partial/sub/x",
    ".partial/sub/deeper/.x",
]


async def test_in_our_folders_everything_without_a_row_goes(store: Store) -> None:
    young = {store.place(f"{name}2", age_seconds=1) for name in ODD_NAMES}
    for name in ODD_NAMES:
        store.place(name)
    store.place("elsewhere/.hidden")
    assert await _findings(store) == {
        ("object of no known kind", "elsewhere/.hidden"),
        *(
            ("object without a row", name)
            for name in (*ODD_NAMES, *young)
            if not name.startswith(".partial")
        ),
    }
    await store.sweep()
    assert store.keys() == {*young, "elsewhere/.hidden"}
    for name in young:
        store.age(name, OLD_SECONDS)
    await store.sweep()
    left = {str(path.relative_to(store.root)) for path in store.root.rglob("*")}
    ours = {"audio", "documents", "transcripts", ".partial"}
    assert left == {*ours, "elsewhere", "elsewhere/.hidden"}, "no folder is left that nobody needs"


async def test_odd_names_that_somebody_needs_stay(store: Store) -> None:
    named, at_work = completed(), lecture()
    named.transcript_storage_key = "transcripts/by-another-service/1.json"
    owner = user()
    await store.add(owner, named, at_work)
    await store.add(UserLecture(user_id=owner.id, lecture_id=named.id))
    async with store.backends.sessions.begin() as session:
        await ledger.open_job(session, JobKind.DOWNLOAD_LECTURE, at_work.id, None)
    stays = {
        store.place(f"audio/{named.id}.m4a"),
        store.place(named.transcript_storage_key),
        store.place(f"audio/.{at_work.id}_source.1.abcd1234.part.tmp"),
        store.place(f"audio/{at_work.id}/fragments/1"),
    }
    await store.sweep()
    assert store.keys() == stays


async def test_links_go_and_what_they_lead_to_stays(store: Store, tmp_path: Path) -> None:
    outside = tmp_path / "outside"
    outside.mkdir()
    (outside / "secret").write_bytes(b"secret")
    store.age(str(outside / "secret"), OLD_SECONDS)
    kept = store.place("elsewhere/file")
    links = ["audio/file", "audio/folder", "audio/.hidden", ".partial/file", ".partial/folder"]
    for name in links:
        target = outside if name.endswith("folder") else outside / "secret"
        (store.root / store.place(name)).unlink()
        (store.root / name).symlink_to(target)
        os.utime(store.root / name, (0, 0), follow_symlinks=False)
    (store.root / "documents").symlink_to(outside)
    os.utime(store.root / "documents", (0, 0), follow_symlinks=False)
    assert await _findings(store) == {
        *(("object without a row", name) for name in links if name.startswith("audio")),
        ("object of no known kind", "documents"),
        ("object of no known kind", kept),
    }
    await store.sweep()
    assert [name for name in links if (store.root / name).is_symlink()] == []
    assert (store.root / "documents").is_symlink(), "what is not in our folders is not ours"
    assert [path.name for path in outside.iterdir()] == ["secret"]
    assert (outside / "secret").read_bytes() == b"secret"


async def test_a_linked_folder_of_partials_is_not_swept(store: Store, tmp_path: Path) -> None:
    outside = tmp_path / "outside"
    outside.mkdir()
    (outside / "old").write_bytes(b"theirs")
    store.age(str(outside / "old"), OLD_SECONDS)
    (store.root / ".partial").rmdir()
    (store.root / ".partial").symlink_to(outside)
    await store.sweep()
    assert (outside / "old").read_bytes() == b"theirs"


async def test_half_written_files_go_when_they_are_old(store: Store) -> None:
    await store.put(f"audio/{uuid4()}.m4a", age_seconds=0)
    partials = store.root / ".partial"
    for name in ("old", "young"):
        (partials / name).write_bytes(b"half")
    store.age(".partial/old", OLD_SECONDS)
    await store.sweep()
    assert [path.name for path in partials.iterdir()] == ["young"]


async def test_a_deleted_users_items_go_with_their_objects(store: Store) -> None:
    owner, shared_with = user(), user()
    alone, shared, pdf = completed(), completed(), document()
    await store.add(owner, shared_with, alone, shared, pdf)
    await store.add(
        UserLecture(user_id=owner.id, lecture_id=alone.id),
        UserLecture(user_id=owner.id, lecture_id=shared.id),
        UserLecture(user_id=shared_with.id, lecture_id=shared.id),
        UserDocument(user_id=owner.id, document_id=pdf.id, filename="a.pdf"),
    )
    for key in (f"audio/{alone.id}.m4a", f"audio/{shared.id}.m4a", pdf.storage_key):
        await store.put(key)
    async with store.backends.sessions.begin() as session:
        await session.execute(text("DELETE FROM users WHERE id = :id"), {"id": owner.id})
    await store.sweep()
    assert len(store.keys()) == 3, "they were touched within the grace"
    await store.age_rows()
    await store.sweep()
    assert store.keys() == {f"audio/{shared.id}.m4a"}
    async with store.backends.sessions() as session:
        assert (await session.scalars(select(Lecture.id))).all() == [shared.id]
        assert (await session.scalars(select(Document.id))).all() == []


async def test_a_row_without_its_object_is_reported_and_kept(store: Store) -> None:
    owner, hollow, pdf = user(), completed(), document()
    await store.add(owner, hollow, pdf)
    await store.add(
        UserLecture(user_id=owner.id, lecture_id=hollow.id),
        UserDocument(user_id=owner.id, document_id=pdf.id, filename="a.pdf"),
    )
    with capture_logs() as logs:
        await store.sweep()
    reported = {entry["key"] for entry in logs if entry["event"] == "row_without_object"}
    assert reported == {f"audio/{hollow.id}.m4a", pdf.storage_key}
    async with store.backends.sessions() as session:
        assert await session.get(Document, pdf.id) is not None


async def test_the_sweep_comes_again_and_forgives_its_crashes(store: Store) -> None:
    await plan_sweep(store.backends.work)
    async with store.backends.sessions.begin() as session:
        await session.execute(text("UPDATE jobs SET crashes = 2"))
    await store.sweep()
    job = await _sweep_job(store)
    assert (job.state, job.crashes) == (JobState.QUEUED, 0)


async def test_one_object_that_cannot_be_deleted_keeps_no_other(
    store: Store, failing: Failing
) -> None:
    orphans = {await store.put(f"audio/{uuid4()}.m4a") for _ in range(4)}
    stays = min(orphans)
    for name in ("first", "second"):
        (store.root / ".partial" / name).write_bytes(b"half")
        store.age(f".partial/{name}", OLD_SECONDS)
    failing.undeletable = {stays, "first"}
    with capture_logs() as logs:
        await store.sweep(storage=failing)
    assert store.keys() == {stays, ".partial/first"}
    told = {(entry["event"], entry["key"]) for entry in logs if entry["log_level"] == "error"}
    assert told == {("object_not_swept", stays), ("partial_not_swept", "first")}
    assert (await _sweep_job(store)).state == JobState.QUEUED

    await store.sweep()
    assert store.keys() == set()


async def test_a_deletion_that_hangs_keeps_no_other(
    store: Store, failing: Failing, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(store_sweep, "DELETE_SECONDS", 0.1)
    orphans = {await store.put(f"audio/{uuid4()}.m4a") for _ in range(3)}
    failing.hanging = {min(orphans)}
    await store.sweep(storage=failing)
    assert store.keys() == failing.hanging
    assert (await _sweep_job(store)).state == JobState.QUEUED


async def test_a_store_that_cannot_be_listed_keeps_the_rest(store: Store, failing: Failing) -> None:
    hollow = completed()
    await store.add(hollow, document())
    await store.age_rows()
    stray = await store.put(f"audio/{uuid4()}.m4a")
    (store.root / ".partial" / "old").write_bytes(b"half")
    store.age(".partial/old", OLD_SECONDS)
    failing.unlistable = True
    with capture_logs() as logs:
        await store.sweep(storage=failing)
    assert store.keys() == {stray}
    events = [entry["event"] for entry in logs]
    assert events.count("store_not_listed") == 1
    assert "row_without_object" not in events, "what was not seen is not said to be missing"
    async with store.backends.sessions() as session:
        assert (await session.scalars(select(Lecture.id))).all() == []
        assert (await session.scalars(select(Document.id))).all() == []
    assert (await _sweep_job(store)).state == JobState.QUEUED


async def test_one_object_that_cannot_be_looked_at_hides_no_other(
    store: Store, failing: Failing
) -> None:
    first, second = completed(), completed()
    owner = user()
    await store.add(owner, first, second)
    await store.add(*(UserLecture(user_id=owner.id, lecture_id=x.id) for x in (first, second)))
    failing.untellable = {f"audio/{first.id}.m4a"}
    with capture_logs() as logs:
        await store.sweep(storage=failing)
    told = {entry["event"]: entry["key"] for entry in logs if entry["log_level"] == "error"}
    assert told == {
        "object_not_looked_at": f"audio/{first.id}.m4a",
        "row_without_object": f"audio/{second.id}.m4a",
    }


async def _sweep_job(store: Store) -> Job:
    async with store.backends.sessions() as session:
        return (await session.scalars(select(Job).where(Job.subject_id == SWEEP_SUBJECT))).one()


async def test_the_doctor_finds_nothing_where_all_is_well(store: Store, tmp_path: Path) -> None:
    kept, waiting = completed(), lecture()
    pdf = document(5, "2cf24dba5fb0a30e26e83b2ac5b9e29e1b161e5c1fa7425e73043362938b9824")
    await store.add(kept, waiting, pdf)
    async with store.backends.sessions.begin() as session:
        await ledger.open_job(session, JobKind.DOWNLOAD_LECTURE, waiting.id, None)
    audio = write_audio(tmp_path / "a.m4a", 5).read_bytes()
    await store.put(f"audio/{kept.id}.m4a", age_seconds=0, content=audio)
    await store.put(f"audio/{waiting.id}_source.1.abcd1234.mp4", age_seconds=0)
    await store.put(pdf.storage_key, content=b"hello")
    assert await _findings(store, deep=True) == set()


async def test_the_doctor_names_what_does_not_fit(store: Store) -> None:
    hollow, idle, stray = completed(), lecture(), uuid4()
    resized, altered = document(7), document(5)
    await store.add(hollow, idle, resized, altered)
    async with store.backends.sessions.begin() as session:
        await ledger.open_job(session, JobKind.DOWNLOAD_LECTURE, hollow.id, None)
        await ledger.open_job(session, JobKind.COUNT_PAGES, stray, None)
    await store.put(resized.storage_key, content=b"hello")
    await store.put(altered.storage_key, content=b"hello")
    await store.put(f"audio/{stray}.m4a", age_seconds=0)
    await store.put("notes.txt")
    expected = {
        ("row without its object", f"audio/{hollow.id}.m4a"),
        ("object without a row", f"audio/{stray}.m4a"),
        ("object of no known kind", "notes.txt"),
        ("object of another size", resized.storage_key),
        ("unfinished lecture without a job", str(idle.id)),
        ("open job without its subject", str(hollow.id)),
        ("open job without its subject", str(stray)),
    }
    assert await _findings(store) == expected
    deep = {("object with other bytes", altered.storage_key)}
    assert await _findings(store, deep=True) == expected | deep, "each is told of once"


async def _findings(store: Store, *, deep: bool = False) -> set[tuple[str, str]]:
    doctor = Doctor(store.backends.sessions, store.backends.storage)
    return {(found.problem, found.item) for found in await doctor.examine(deep=deep)}
