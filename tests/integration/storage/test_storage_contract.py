"""One contract for every storage: local disk, memory, and S3 against a server of the protocol."""

import asyncio
import hashlib
import os
import socket
import stat
import subprocess
import sys
import tracemalloc
from collections.abc import AsyncIterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from urllib.parse import urlsplit
from uuid import uuid4

import httpx
import pytest

from app.errors import InvalidKey, ObjectNotFound, StorageError, StorageFull
from app.settings import Settings, load_settings
from app.storage.factory import open_scratch, open_storage
from app.storage.local import LocalStorage
from app.storage.memory import MemoryStorage
from app.storage.protocol import ObjectStore
from app.storage.s3 import S3Storage
from tests.support.wait import wait_until

BUCKET = "studybuddy"
MIB = 1024 * 1024
BAD_KEYS = ["", "../x", "/etc", "a//b", "a/../b", ".hidden", "a/.b", "a\0b", "a\n", "a/", "x" * 256]


def s3_settings(endpoint: str, prefix: str) -> Settings:
    return load_settings(
        storage_url=f"s3://{BUCKET}/{prefix}",
        s3_endpoint_url=endpoint,
        s3_region="us-east-1",
        s3_access_key_id="key",
        s3_secret_access_key="secret",
    )


@pytest.fixture
def s3(s3_endpoint: str) -> ObjectStore:
    return open_storage(s3_settings(s3_endpoint, f"tests/{uuid4().hex}"))


@pytest.fixture(params=["local", "memory", "s3"])
async def storage(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[ObjectStore]:
    match request.param:
        case "local":
            store: ObjectStore = LocalStorage(tmp_path / "storage")
        case "memory":
            store = MemoryStorage()
        case _:
            store = request.getfixturevalue("s3")
    yield store
    await store.close()


@pytest.fixture
async def local(tmp_path: Path) -> AsyncIterator[LocalStorage]:
    store = LocalStorage(tmp_path / "storage")
    yield store
    await store.close()


async def stream(*chunks: bytes) -> AsyncIterator[bytes]:
    for chunk in chunks:
        yield chunk


async def read(
    storage: ObjectStore, key: str, start: int = 0, end: int | None = None
) -> tuple[int, bytes]:
    async with storage.open_file(key, start, end) as opened:
        return opened.size_bytes, b"".join([chunk async for chunk in opened.chunks])


async def keys(storage: ObjectStore, prefix: str = "") -> set[str]:
    return {info.key async for info in storage.list_files(prefix)}


async def test_what_was_stored_comes_back(storage: ObjectStore) -> None:
    content = os.urandom(3 * MIB + 17)
    stored = await storage.store_file("audio/a.m4a", stream(content[:10], b"", content[10:]))

    assert stored.key == "audio/a.m4a"
    assert stored.size_bytes == len(content)
    assert stored.checksum == hashlib.sha256(content).hexdigest()
    assert await read(storage, "audio/a.m4a") == (len(content), content)
    info = await storage.stat_file("audio/a.m4a")
    assert (info.key, info.size_bytes) == ("audio/a.m4a", len(content))
    assert abs(datetime.now(UTC) - info.modified_at) < timedelta(minutes=1)
    await storage.check()


async def test_an_empty_object(storage: ObjectStore) -> None:
    stored = await storage.store_file("empty", stream())
    assert (stored.size_bytes, stored.checksum) == (0, hashlib.sha256().hexdigest())
    assert await read(storage, "empty") == (0, b"")
    assert await read(storage, "empty", 0, 10) == (0, b"")
    assert await read(storage, "empty", 5) == (0, b"")


async def test_a_large_stream_in_parts(storage: ObjectStore) -> None:
    chunk = os.urandom(MIB // 2 + 1)
    stored = await storage.store_file("large", stream(*[chunk] * 24))
    whole = chunk * 24
    assert (stored.size_bytes, stored.checksum) == (
        len(whole),
        hashlib.sha256(whole).hexdigest(),
    )
    assert await read(storage, "large") == (len(whole), whole)


async def test_storing_again_replaces(storage: ObjectStore) -> None:
    await storage.store_file("one", stream(b"old and longer"))
    async with storage.open_file("one") as opened:
        await storage.store_file("one", stream(b"new"))
        assert opened.size_bytes == 14
    assert await read(storage, "one") == (3, b"new")


@pytest.mark.parametrize(
    ("start", "end", "expected"),
    [
        (0, None, b"0123456789"),
        (0, 10, b"0123456789"),
        (0, 1, b"0"),
        (3, 7, b"3456"),
        (9, None, b"9"),
        (8, 99, b"89"),
        (10, None, b""),
        (99, None, b""),
        (99, 100, b""),
        (4, 4, b""),
        (7, 3, b""),
        (0, 0, b""),
    ],
)
async def test_ranges(storage: ObjectStore, start: int, end: int | None, expected: bytes) -> None:
    await storage.store_file("ten", stream(b"0123456789"))
    assert await read(storage, "ten", start, end) == (10, expected)


async def test_a_range_counts_from_the_start(storage: ObjectStore) -> None:
    await storage.store_file("ten", stream(b"0123456789"))
    for start, end in ((-1, None), (0, -1)):
        with pytest.raises(ValueError, match="range"):
            await read(storage, "ten", start, end)


@pytest.mark.parametrize("size_bytes", [10, 12 * MIB])
async def test_a_failing_stream_leaves_nothing(storage: ObjectStore, size_bytes: int) -> None:
    class OwnError(Exception):
        pass

    async def failing() -> AsyncIterator[bytes]:
        for _ in range(4):
            yield bytes(size_bytes // 4)
        raise OwnError

    await storage.store_file("kept", stream(b"kept"))
    for key in ("fresh", "kept"):
        with pytest.raises(OwnError):
            await storage.store_file(key, failing())
    assert await keys(storage) == {"kept"}
    assert await read(storage, "kept") == (4, b"kept")
    await assert_nothing_half_written(storage)


@pytest.mark.parametrize("chunks", [1, 12])
async def test_a_cancellation_leaves_nothing(storage: ObjectStore, chunks: int) -> None:
    waiting = asyncio.Event()

    async def endless() -> AsyncIterator[bytes]:
        for _ in range(chunks):
            yield bytes(MIB)
        waiting.set()
        await asyncio.Event().wait()

    storing = asyncio.create_task(storage.store_file("fresh", endless()))
    await waiting.wait()
    storing.cancel()
    with pytest.raises(asyncio.CancelledError):
        await storing
    assert await keys(storage) == set()
    await assert_nothing_half_written(storage)


async def assert_nothing_half_written(storage: ObjectStore) -> None:
    if isinstance(storage, LocalStorage):
        assert [info async for info in storage.list_partials()] == []
    if isinstance(storage, S3Storage):
        url = await storage.get_file_url("x", 60)
        assert url is not None
        server, _, place = url.partition(f"/{BUCKET}/")
        bucket_url, prefix = f"{server}/{BUCKET}?uploads", urlsplit(place).path.removesuffix("x")

        async def no_upload_is_open() -> bool:
            async with httpx.AsyncClient() as client:
                # Those of this test alone: a worker that another has killed leaves some.
                return f"<Key>{prefix}" not in (await client.get(bucket_url)).text

        await wait_until(no_upload_is_open, "the unfinished uploads are aborted")


async def test_concurrent_writers_of_one_key(storage: ObjectStore) -> None:
    contents = [bytes([number]) * (2 * MIB) for number in range(8)]
    metas = await asyncio.gather(*(storage.store_file("same", stream(c)) for c in contents))
    _, content = await read(storage, "same")
    assert content in contents
    assert [meta.checksum for meta in metas] == [hashlib.sha256(c).hexdigest() for c in contents]
    assert await keys(storage) == {"same"}
    await assert_nothing_half_written(storage)


async def test_moving(storage: ObjectStore) -> None:
    content = os.urandom(2 * MIB)
    await storage.store_file("audio/work.m4a", stream(content))
    await storage.store_file("audio/done.m4a", stream(b"old"))
    await storage.move_file("audio/work.m4a", "audio/done.m4a")
    assert await read(storage, "audio/done.m4a") == (len(content), content)
    assert (await storage.stat_file("audio/done.m4a")).key == "audio/done.m4a"
    assert await keys(storage) == {"audio/done.m4a"}
    await storage.move_file("audio/done.m4a", "audio/done.m4a")
    assert await keys(storage) == {"audio/done.m4a"}
    with pytest.raises(ObjectNotFound):
        await storage.move_file("audio/work.m4a", "audio/done.m4a")
    assert await read(storage, "audio/done.m4a") == (len(content), content)


async def test_what_is_missing(storage: ObjectStore) -> None:
    await storage.store_file("there/x", stream(b"x"))
    for key in ("missing", "there", "there/y", "there/x/z"):
        for start, end in ((0, None), (1, None), (1, 1)):
            with pytest.raises(ObjectNotFound):
                await read(storage, key, start, end)
        with pytest.raises(ObjectNotFound):
            await storage.stat_file(key)
        await storage.delete_file(key)
    assert await keys(storage) == {"there/x"}


async def test_deleting_twice(storage: ObjectStore) -> None:
    await storage.store_file("a/b", stream(b"x"))
    await storage.delete_file("a/b")
    await storage.delete_file("a/b")
    assert await keys(storage) == set()
    with pytest.raises(ObjectNotFound):
        await storage.stat_file("a/b")


async def test_deleting_many(storage: ObjectStore) -> None:
    for number in range(5):
        await storage.store_file(f"n/{number}", stream(b"x"))
    await storage.delete_files(["n/0", "n/1", "n/missing", "n/3"])
    assert await keys(storage) == {"n/2", "n/4"}
    await storage.delete_files([])
    with pytest.raises(InvalidKey):
        await storage.delete_files(["n/2", "../n/4"])
    await storage.delete_files(["n/4"])
    assert "n/4" not in await keys(storage)


async def test_listing_by_prefix(storage: ObjectStore) -> None:
    stored = {"audio/1.m4a", "audio/1_source.2.mp4", "audio/deep/3", "audiobook", "documents/4.pdf"}
    for key in stored:
        await storage.store_file(key, stream(key.encode()))
    for prefix in ("", "a", "audio", "audio/", "audio/1", "audio/1_source.", "audio/deep/", "zz/z"):
        assert await keys(storage, prefix) == {key for key in stored if key.startswith(prefix)}
    infos = [info async for info in storage.list_files("documents/")]
    assert [(info.key, info.size_bytes) for info in infos] == [("documents/4.pdf", 15)]


async def test_listing_more_than_a_page(storage: ObjectStore) -> None:
    names = {f"n/{number}" for number in range(1100 if not isinstance(storage, S3Storage) else 120)}
    for name in names:
        await storage.store_file(name, stream())
    assert await keys(storage, "n/") == names


@pytest.mark.parametrize("key", BAD_KEYS)
async def test_bad_keys_are_refused_everywhere(storage: ObjectStore, key: str) -> None:
    for call in (
        lambda: storage.store_file(key, stream(b"x")),
        lambda: read(storage, key),
        lambda: storage.stat_file(key),
        lambda: storage.get_file_url(key, 60),
        lambda: storage.delete_file(key),
        lambda: storage.move_file(key, "x"),
        lambda: storage.move_file("x", key),
    ):
        with pytest.raises(InvalidKey):
            await call()
    if key not in {"", "a/"}:
        with pytest.raises(InvalidKey):
            await keys(storage, key)
    if isinstance(storage, LocalStorage):
        with pytest.raises(InvalidKey):
            storage.path_of(key)
    assert await keys(storage) == set()


@pytest.mark.parametrize("name", ["", ".", "..", "../x", "/etc", "a//b", "a/../b", "a\0b", "a/"])
async def test_no_name_leads_out_of_the_store(storage: ObjectStore, name: str) -> None:
    with pytest.raises(InvalidKey):
        await storage.delete_any(name)
    if isinstance(storage, LocalStorage):
        with pytest.raises(InvalidKey):
            await storage.delete_partial(name)


async def test_strays_are_told_and_deleted(storage: ObjectStore) -> None:
    for key in ("audio/a.m4a", "audio/sub/b"):
        await storage.store_file(key, stream(b"x"))
    assert {info.key async for info in storage.list_all()} == {"audio/a.m4a", "audio/sub/b"}
    for name in ("audio/sub/b", "audio/sub/b", "audio/.missing", "no/such folder/x"):
        await storage.delete_any(name)
    assert {info.key async for info in storage.list_all()} == {"audio/a.m4a"}


async def test_memory_stays_flat(local: LocalStorage) -> None:
    async def flood() -> AsyncIterator[bytes]:
        for _ in range(1024):
            yield bytes(64 * 1024)

    tracemalloc.start()
    await local.store_file("flood", flood())
    async with local.open_file("flood") as opened:
        sizes = [len(chunk) async for chunk in opened.chunks]
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert sum(sizes) == 64 * MIB
    assert peak < 8 * MIB


async def test_modes_and_place(local: LocalStorage, tmp_path: Path) -> None:
    await local.store_file("audio/x.m4a", stream(b"x"))
    path = local.path_of("audio/x.m4a")
    assert path == tmp_path / "storage" / "audio" / "x.m4a"
    assert path.read_bytes() == b"x"
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    for folder in (path.parent, path.parent.parent):
        assert stat.S_IMODE(folder.stat().st_mode) == 0o700
    assert local.path_of("new/folder/y").parent.is_dir()


async def test_bytes_are_synced_before_the_name_appears(
    local: LocalStorage, monkeypatch: pytest.MonkeyPatch
) -> None:
    await local.store_file("audio/warm", stream(b"x"))
    calls: list[str] = []
    fsync, replace = os.fsync, os.replace

    def noted_fsync(file: int) -> None:
        calls.append("folder" if stat.S_ISDIR(os.fstat(file).st_mode) else "file")
        fsync(file)

    def noted_replace(*args: object, **kwargs: object) -> None:
        calls.append("rename")
        replace(*args, **kwargs)  # type: ignore[arg-type]

    monkeypatch.setattr(os, "fsync", noted_fsync)
    monkeypatch.setattr(os, "replace", noted_replace)
    await local.store_file("audio/x", stream(b"x"))
    assert calls == ["file", "rename", "folder"]
    calls.clear()
    local.path_of("audio/y").write_bytes(b"y")
    await local.move_file("audio/y", "audio/z")
    assert calls == ["file", "rename", "folder"]


async def test_links_are_not_followed(local: LocalStorage, tmp_path: Path) -> None:
    await local.store_file("a/x", stream(b"x"))
    outside = tmp_path / "outside"
    outside.mkdir()
    (outside / "secret").write_bytes(b"secret")
    root = tmp_path / "storage"
    (root / "folder").symlink_to(outside)
    (root / "a" / "file").symlink_to(outside / "secret")

    for key in ("folder/secret", "a/file"):
        with pytest.raises(ObjectNotFound):
            await read(local, key)
        with pytest.raises(ObjectNotFound):
            await local.stat_file(key)
    assert {info.key: info.size_bytes async for info in local.list_all()} == {
        "a/x": 1,
        "a/file": 0,
        "folder": 0,
    }
    for key in ("folder/secret", "folder/new"):
        with pytest.raises(StorageError):
            await local.store_file(key, stream(b"overwritten"))
        with pytest.raises(StorageError):
            local.path_of(key)
        await local.delete_file(key)
        await local.delete_any(key)
    await local.store_file("a/file", stream(b"in its own place"))

    assert await keys(local) == {"a/x", "a/file"}
    assert [path.name for path in outside.iterdir()] == ["secret"]
    assert (outside / "secret").read_bytes() == b"secret"
    assert [info async for info in local.list_partials()] == []


async def test_what_is_no_regular_file_is_no_object(local: LocalStorage, tmp_path: Path) -> None:
    await local.store_file("a/x", stream(b"x"))
    os.mkfifo(tmp_path / "storage" / "a" / "pipe")
    with socket.socket(socket.AF_UNIX) as server:
        server.bind(str(tmp_path / "storage" / "a" / "socket"))
        for key in ("a/pipe", "a/socket", "a"):
            with pytest.raises(StorageError):
                await asyncio.wait_for(read(local, key), 5)
        assert await keys(local) == {"a/x"}


async def test_a_file_that_a_tool_has_made_is_moved(local: LocalStorage, tmp_path: Path) -> None:
    made = local.path_of("audio/work.m4a")
    made.write_bytes(b"made by a tool")
    made.chmod(0o644)
    await local.move_file("audio/work.m4a", "new/done.m4a")
    assert await keys(local) == {"new/done.m4a"}
    assert await read(local, "new/done.m4a") == (14, b"made by a tool")
    assert stat.S_IMODE(local.path_of("new/done.m4a").stat().st_mode) == 0o600

    (tmp_path / "storage" / "audio" / "link").symlink_to(local.path_of("new/done.m4a"))
    os.mkfifo(tmp_path / "storage" / "audio" / "pipe")
    for key in ("audio/link", "audio/pipe", "audio"):
        with pytest.raises(StorageError):
            await local.move_file(key, "audio/other")
    assert await keys(local) == {"new/done.m4a"}


async def test_half_written_files_can_be_swept(local: LocalStorage, tmp_path: Path) -> None:
    assert [info async for info in local.list_partials()] == []
    program = (
        "import asyncio, os, signal, sys\n"
        "from pathlib import Path\n"
        "from app.storage.local import LocalStorage\n"
        "async def chunks():\n"
        "    yield bytes(1 << 20)\n"
        "    yield bytes(1 << 20)\n"
        "    os.kill(os.getpid(), signal.SIGKILL)\n"
        "asyncio.run(LocalStorage(Path(sys.argv[1])).store_file('a/b', chunks()))\n"
    )
    process = await asyncio.to_thread(
        subprocess.run, [sys.executable, "-c", program, str(tmp_path / "storage")], check=False
    )
    assert process.returncode == -9

    partials = [info async for info in local.list_partials()]
    assert len(partials) == 1
    assert await keys(local) == set()
    await local.delete_partial(partials[0].key)
    await local.delete_partial(partials[0].key)
    assert [info async for info in local.list_partials()] == []


async def test_a_full_disk(tmp_path: Path) -> None:
    """A limit on file size stands in for a full disk: no mount is needed."""
    program = (
        "import asyncio, resource, sys\n"
        "from pathlib import Path\n"
        "from app.errors import StorageFull\n"
        "from app.storage.local import LocalStorage\n"
        "resource.setrlimit(resource.RLIMIT_FSIZE, (1 << 20, 1 << 20))\n"
        "async def chunks(count):\n"
        "    for _ in range(count):\n"
        "        yield bytes(1 << 18)\n"
        "async def main():\n"
        "    storage = LocalStorage(Path(sys.argv[1]))\n"
        "    try:\n"
        "        await storage.store_file('a/big', chunks(8))\n"
        "    except StorageFull as error:\n"
        "        print(error.message)\n"
        "    await storage.store_file('a/small', chunks(2))\n"
        "    print([i.key async for i in storage.list_files()])\n"
        "    print([i.key async for i in storage.list_partials()])\n"
        "asyncio.run(main())\n"
    )
    process = await asyncio.to_thread(
        subprocess.run,
        [sys.executable, "-c", program, str(tmp_path / "storage")],
        check=True,
        capture_output=True,
        text=True,
    )
    assert process.stdout.splitlines() == [StorageFull().message, "['a/small']", "[]"]


async def test_a_store_that_cannot_be_written(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"")
    storage = LocalStorage(tmp_path / "file" / "below")
    for call in (storage.check(), storage.store_file("a", stream(b"x"))):
        with pytest.raises(StorageError) as raised:
            await call
        assert str(tmp_path) not in raised.value.message
    await storage.close()


async def test_an_s3_that_is_not_there(s3_endpoint: str) -> None:
    with socket.socket() as reserved:
        reserved.bind(("127.0.0.1", 0))
        nowhere = f"http://127.0.0.1:{reserved.getsockname()[1]}"
        gone = open_storage(s3_settings(nowhere, "p"))
        with pytest.raises(StorageError) as raised:
            await gone.check()
        assert "127.0.0.1" not in raised.value.message
    other = s3_settings(s3_endpoint, "p").model_copy(update={"storage_url": "s3://no-such/p"})
    bucketless = open_storage(other)
    for call in (bucketless.check(), bucketless.store_file("a", stream(b"x"))):
        with pytest.raises(StorageError) as raised:
            await call
        assert not isinstance(raised.value, ObjectNotFound)
        assert "no-such" not in raised.value.message


async def test_presigned_urls(s3: ObjectStore, local: LocalStorage) -> None:
    await s3.store_file("audio/x.m4a", stream(b"signed"))
    url = await s3.get_file_url("audio/x.m4a", 60)
    assert url is not None
    async with httpx.AsyncClient() as client:
        assert (await client.get(url)).content == b"signed"
    assert "X-Amz-Expires=60" in url
    assert await local.get_file_url("audio/x.m4a", 60) is None


async def test_the_prefix_keeps_stores_apart(s3_endpoint: str) -> None:
    one = open_storage(s3_settings(s3_endpoint, "one"))
    other = open_storage(s3_settings(s3_endpoint, "other"))
    await one.store_file("x", stream(b"x"))
    assert await keys(one) == {"x"}
    assert await keys(other) == set()


async def test_the_settings_choose(tmp_path: Path, s3_endpoint: str) -> None:
    settings = load_settings(data_dir=tmp_path)
    storage = open_storage(settings)
    assert open_scratch(settings, storage) is storage
    assert isinstance(storage, LocalStorage)
    assert storage.path_of("x") == tmp_path / "storage" / "x"
    spaced = open_storage(load_settings(storage_url=f"file://{tmp_path}/with%20space"))
    assert isinstance(spaced, LocalStorage)
    assert spaced.path_of("x") == tmp_path / "with space" / "x"

    settings = s3_settings(s3_endpoint, "p").model_copy(update={"data_dir": tmp_path})
    storage = open_storage(settings)
    scratch = open_scratch(settings, storage)
    assert isinstance(storage, S3Storage)
    assert scratch.path_of("x") == tmp_path / "scratch" / "x"
