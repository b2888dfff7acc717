"""`studybuddy storage copy`: what is copied, what is left, and what its exit code tells."""

import os
import time
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from app.cli import main
from app.errors import StorageError
from app.services.kernel.storage_keys import is_temporary
from app.storage.copying import Copied, CopyJob, Outcome
from app.storage.local import LocalStorage
from app.storage.memory import MemoryStorage
from app.storage.protocol import ObjectStore, StoredFileMeta
from tests.support.s3 import BUCKET, KEYS

MIB = 1024 * 1024


@pytest.fixture
def endpoint(s3_endpoint: str) -> str:
    return s3_endpoint


async def stream(content: bytes) -> AsyncIterator[bytes]:
    yield content


async def filled(**objects: bytes) -> MemoryStorage:
    store = MemoryStorage()
    for key, content in objects.items():
        await store.store_file(key, stream(content))
    return store


async def content_of(store: ObjectStore, key: str) -> bytes:
    async with store.open_file(key) as opened:
        return b"".join([chunk async for chunk in opened.chunks])


async def outcomes(job: CopyJob) -> dict[str, Outcome]:
    return {c.info.key: c.outcome for c in await results(job)}


async def results(job: CopyJob) -> list[Copied]:
    return [copied async for copied in job.run(await job.list_source())]


async def test_what_is_there_is_left_and_the_rest_copied() -> None:
    target = await filled(shorter=b"ol")
    source = await filled(a=b"a", shorter=b"old", newer=b"new")
    await target.store_file("a", stream(b"a"))
    job = CopyJob(source, target, concurrency=2)
    assert await outcomes(job) == {
        "a": Outcome.THERE,
        "shorter": Outcome.COPIED,
        "newer": Outcome.COPIED,
    }
    assert await content_of(target, "shorter") == b"old"
    assert set((await outcomes(job)).values()) == {Outcome.THERE}


async def test_what_was_written_again_is_copied_again(tmp_path: Path) -> None:
    source, target = LocalStorage(tmp_path), await filled(a=b"old")
    await source.store_file("a", stream(b"new"))
    later = time.time() + 5
    os.utime(tmp_path / "a", (later, later))
    assert await outcomes(CopyJob(source, target)) == {"a": Outcome.COPIED}
    assert await content_of(target, "a") == b"new"
    await source.close()


async def test_a_dry_run_writes_nothing() -> None:
    target = MemoryStorage()
    job = CopyJob(await filled(a=b"a", b=b"b"), target, dry_run=True)
    assert set((await outcomes(job)).values()) == {Outcome.COPIED}
    assert [info async for info in target.list_files()] == []


async def test_bytes_are_compared_where_asked() -> None:
    source = await filled(a=b"right")
    target = await filled(a=b"wrong")
    assert await outcomes(CopyJob(source, target)) == {"a": Outcome.THERE}
    assert await outcomes(CopyJob(source, target, compare=True)) == {"a": Outcome.COPIED}
    assert await outcomes(CopyJob(source, target, compare=True)) == {"a": Outcome.THERE}


class DamagingStorage(MemoryStorage):
    """Stores other bytes than it was given, under some keys."""

    async def store_file(self, key: str, chunks: AsyncIterator[bytes]) -> StoredFileMeta:
        meta = await super().store_file(key, chunks)
        if key == "damaged":
            await super().store_file(key, stream(b"x" * meta.size_bytes))
        if key == "refused":
            raise StorageError("The file could not be stored.")
        return meta


async def test_a_failure_is_told_and_stops_nothing_else() -> None:
    source = await filled(damaged=b"good", a=b"a", refused=b"r", b=b"b")
    found = await results(CopyJob(source, DamagingStorage(), concurrency=1))
    assert {c.info.key for c in found if c.outcome is Outcome.COPIED} == {"a", "b"}
    assert {c.info.key: c.problem for c in found if c.outcome is Outcome.FAILED} == {
        "damaged": "What was written is not what was read.",
        "refused": "The file could not be stored.",
    }


async def test_what_is_deleted_meanwhile_is_no_failure() -> None:
    source = await filled(a=b"a", b=b"b")
    job = CopyJob(source, MemoryStorage())
    infos = await job.list_source()
    await source.delete_file("a")
    assert {c.info.key: c.outcome async for c in job.run(infos)} == {
        "a": Outcome.GONE,
        "b": Outcome.COPIED,
    }


def test_the_command_from_disk_to_bucket_and_back(
    tmp_path: Path,
    endpoint: str,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setenv("S3_ENDPOINT_URL", endpoint)
    for name, text in KEYS.items():
        monkeypatch.setenv(name.upper(), text)
    disk, bucket, back = tmp_path / "disk", f"s3://{BUCKET}/copied", tmp_path / "back"
    files = {"audio/1.m4a": os.urandom(12 * MIB), "documents/2.pdf": b"%PDF-", "empty": b""}
    temporary = "audio/1_source.2.0a0b0c0d.mp4"
    assert is_temporary(temporary)
    for key, content in (files | {temporary: b"half"}).items():
        (disk / key).parent.mkdir(parents=True, exist_ok=True)
        (disk / key).write_bytes(content)
        os.utime(disk / key, (1, 1))

    def copy(source: str, target: str, *more: str) -> str:
        assert main(["storage", "copy", "--from", source, "--to", target, *more]) == 0
        return capsys.readouterr().out

    assert copy(disk.as_uri(), bucket, "--dry-run").startswith("3 to copy, 0 there")
    assert copy(disk.as_uri(), bucket, "--concurrency", "2").startswith("3 copied, 0 there")
    assert copy(disk.as_uri(), bucket).startswith("0 copied, 3 there")
    assert copy(disk.as_uri(), bucket, "--checksum").startswith("0 copied, 3 there")
    assert copy(bucket, back.as_uri()).startswith("3 copied")
    there = {str(p.relative_to(back)): p.read_bytes() for p in back.rglob("*") if p.is_file()}
    assert there == files


@pytest.mark.parametrize(
    ("source", "target", "code"),
    [
        ("/tmp/x", "file:///tmp/y", 2),
        ("file:///no/such/directory", "file:///tmp/y", 2),
        ("file:///tmp/", "file:///tmp", 2),
    ],
)
def test_wrong_urls_are_told_before_anything_happens(
    source: str, target: str, code: int, capsys: pytest.CaptureFixture[str]
) -> None:
    try:
        found: object = main(["storage", "copy", "--from", source, "--to", target])
    except SystemExit as leaving:
        found = leaving.code
    assert found == code
    assert "--from" in capsys.readouterr().err


def test_a_bucket_that_is_missing_fails_the_command(
    tmp_path: Path, endpoint: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("S3_ENDPOINT_URL", endpoint)
    for name, text in KEYS.items():
        monkeypatch.setenv(name.upper(), text)
    (tmp_path / "a").write_bytes(b"a")
    missing = "s3://no-such-bucket/p"
    assert main(["storage", "copy", "--from", tmp_path.as_uri(), "--to", missing]) == 1
