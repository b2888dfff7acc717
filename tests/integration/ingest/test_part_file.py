"""Parts across attempts: taken over by rename, and safe from whoever had them before."""

import asyncio
import errno
from collections.abc import Callable
from pathlib import Path

import pytest

from app.domain import LectureFailure
from app.embedded.panopto import PanoptoSimulator, Recording
from app.errors import IngestFailed, LeaseLost, NotReadyYet, StorageError, StorageFull
from app.ingest.fetch.file import fetch_file, whole_file_of
from app.ingest.fetch.part import (
    PartFile,
    Version,
    begun_source,
    discard_part,
    hand_over,
    is_part,
    open_part,
    source_name,
    tidied,
)
from app.ingest.model import Attempt, MediaLocation
from app.ingest.net.guard import GuardedClient
from app.storage.local import LocalStorage
from tests.support.panopto import MIB, Reports, files_in

OLD, NEW = "audio/one_source.1.aa", "audio/one_source.2.bb"
SOURCE = source_name("mp4", "https://media.example.org/a.mp4?signature=1")
FILE = Version(SOURCE, '"1"', 100)
PIECES = Version(SOURCE, '"1"', None)
PASSING = (
    asyncio.CancelledError(),
    IngestFailed(LectureFailure.NETWORK, "Busy.", transient=True),
    NotReadyYet("Live."),
    OSError(errno.EAGAIN, "no more processes"),
)
LASTING = (
    IngestFailed(LectureFailure.SOURCE_NOT_FOUND, "Gone."),
    LeaseLost(),
    StorageError("Unwritable."),
    StorageFull(),
    ZeroDivisionError(),
)


def begun(scratch: LocalStorage, content: bytes, version: Version = FILE) -> PartFile:
    part = PartFile(scratch, OLD)
    part.begin(version)
    part.append([content])
    return part


def begun_pieces(scratch: LocalStorage, *pieces: bytes) -> PartFile:
    part = PartFile(scratch, OLD)
    part.begin(PIECES)
    for piece in pieces:
        part.append_piece(piece)
    return part


def attempt_at(scratch: LocalStorage, stem: str) -> Attempt:
    return Attempt(scratch, stem, Reports())


def take_over(scratch: LocalStorage) -> PartFile:
    for suffix in (".part", ".note"):
        assert is_part(f"{OLD}{suffix}")
        hand_over(scratch, f"{OLD}{suffix}", NEW)
    return PartFile(scratch, NEW)


def published(scratch: LocalStorage, part: PartFile) -> bytes:
    target = scratch.path_of(f"{NEW}.mp4")
    part.publish(target)
    return target.read_bytes()


async def test_a_successor_goes_on_and_the_predecessor_does_no_harm(scratch: LocalStorage) -> None:
    zombie = begun(scratch, b"a" * 40)
    successor = take_over(scratch)
    assert successor.find(SOURCE) == FILE
    assert successor.size_bytes == 40
    successor.append([b"b" * 30])
    zombie.append([b"b" * 20])  # The same version has the same bytes there.
    successor.append([b"c" * 30])
    zombie.discard()
    assert published(scratch, successor) == b"a" * 40 + b"b" * 30 + b"c" * 30
    assert await files_in(scratch) == [f"{NEW}.mp4"]


async def test_pieces_are_gone_on_with_after_the_last_whole_one(scratch: LocalStorage) -> None:
    zombie = begun_pieces(scratch, b"a" * 40, b"", b"b" * 10)
    zombie.append([b"c" * 5])
    successor = take_over(scratch)
    assert successor.find(SOURCE) == PIECES
    assert (successor.size_bytes, successor.ends) == (50, [40, 40, 50])
    successor.append_piece(b"c" * 20)
    zombie.append([b"c" * 15])
    zombie.close()

    third = PartFile(scratch, NEW)
    assert third.find(SOURCE) == PIECES
    assert third.ends == [40, 40, 50, 70]
    third.append_piece(b"d")
    successor.close()
    assert published(scratch, third) == b"a" * 40 + b"b" * 10 + b"c" * 20 + b"d"
    assert await files_in(scratch) == [f"{NEW}.mp4"]


async def test_a_predecessors_later_pieces_do_no_harm(scratch: LocalStorage) -> None:
    zombie = begun_pieces(scratch, b"a" * 40)
    successor = take_over(scratch)
    assert successor.find(SOURCE) == PIECES
    zombie.append_piece(b"b" * 10)
    zombie.append_piece(b"c" * 10)
    successor.append_piece(b"b" * 10)
    successor.close()
    third = PartFile(scratch, NEW)
    assert third.find(SOURCE) == PIECES
    assert (third.size_bytes, third.ends) == (60, [40, 50, 60])
    zombie.close()
    third.discard()
    assert await files_in(scratch) == []


async def test_a_successor_that_begins_anew_has_files_of_its_own(scratch: LocalStorage) -> None:
    zombie = begun_pieces(scratch, b"a" * 40)
    successor = take_over(scratch)
    successor.begin(Version(SOURCE, '"2"', None))
    zombie.append_piece(b"x" * 60)
    successor.append_piece(b"n" * 10)
    successor.close()
    again = PartFile(scratch, NEW)
    again.find(SOURCE)
    assert again.ends == [10]
    assert published(scratch, again) == b"n" * 10
    zombie.discard()
    assert await files_in(scratch) == [f"{NEW}.mp4"]


def cut(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-3])


async def test_a_torn_end_costs_one_piece(scratch: LocalStorage) -> None:
    begun_pieces(scratch, b"a" * 40, b"b" * 10).close()
    cut(scratch.path_of(f"{OLD}.note"))
    part = take_over(scratch)
    assert part.find(SOURCE) == PIECES
    assert part.ends == [40]
    part.append_piece(b"b" * 10)
    assert published(scratch, part) == b"a" * 40 + b"b" * 10


async def test_an_end_beyond_the_bytes_is_not_believed(scratch: LocalStorage) -> None:
    begun_pieces(scratch, b"a" * 40, b"b" * 10).close()
    with scratch.path_of(f"{OLD}.part").open("r+b") as part_file:
        part_file.truncate(45)
    part = take_over(scratch)
    assert part.find(SOURCE) == PIECES
    assert part.ends == [40]
    part.discard()


async def test_what_lies_behind_the_last_byte_is_not_published(scratch: LocalStorage) -> None:
    begun_pieces(scratch, b"a" * 40).close()
    with scratch.path_of(f"{OLD}.part").open("ab") as part_file:
        part_file.write(b"\xff" * 1000)
    part = take_over(scratch)
    assert part.find(SOURCE) == PIECES
    part.append_piece(b"b" * 10)
    assert published(scratch, part) == b"a" * 40 + b"b" * 10


@pytest.mark.parametrize(
    "spoil",
    [
        lambda note: note.write_text("{"),
        lambda note: note.write_text("null\n"),
        lambda note: note.write_bytes(b""),
        lambda note: note.write_bytes(b"\xff" * 100_000),
        lambda note: note.write_bytes(note.read_bytes().replace(b'"inode":', b'"inode":1')),
        lambda note: note.write_bytes(note.read_bytes().replace(b'"inode":', b'"node":')),
        lambda note: note.write_bytes(note.read_bytes().replace(b"null", b'"1"')),
        lambda note: note.write_bytes(note.read_bytes() + bytes(8)),
        lambda note: note.write_bytes(note.read_bytes().partition(b"\n")[0]),
        lambda note: note.unlink(),
        lambda note: note.with_suffix(".part").unlink(),
        lambda note: note.with_suffix(".part").write_bytes(b""),
    ],
)
async def test_rubbish_is_nothing(scratch: LocalStorage, spoil: Callable[[Path], object]) -> None:
    begun_pieces(scratch, b"a" * 40, b"b" * 10).close()
    spoil(scratch.path_of(f"{OLD}.note"))
    take_over(scratch).close()
    assert await begun_source(attempt_at(scratch, NEW)) is None
    async with open_part(attempt_at(scratch, NEW)) as part:
        await part.require(PIECES)
        assert (part.size_bytes, part.ends) == (0, [])
        await part.append_piece(b"n")
        await part.publish("ts", 1)
    assert scratch.path_of(f"{NEW}.ts").read_bytes() == b"n"
    assert await files_in(scratch) == [f"{NEW}.ts"]


async def test_a_part_longer_than_its_source_is_nothing(scratch: LocalStorage) -> None:
    begun(scratch, b"a" * 101).close()
    assert take_over(scratch).find(SOURCE) is None


async def test_part_and_note_of_different_attempts_do_not_belong_together(
    scratch: LocalStorage,
) -> None:
    begun(scratch, b"a" * 40).close()
    hand_over(scratch, f"{OLD}.part", NEW)
    begun(scratch, b"b" * 40).close()
    hand_over(scratch, f"{OLD}.note", NEW)
    assert PartFile(scratch, NEW).find(SOURCE) is None


async def test_a_part_of_another_source_stays_until_something_is_begun(
    scratch: LocalStorage,
) -> None:
    begun(scratch, b"a" * 40).close()
    take_over(scratch).close()
    other = source_name("hls", "https://media.example.org/a.mp4")
    async with open_part(attempt_at(scratch, NEW)) as part:
        assert await part.find(other) is None
    assert await begun_source(attempt_at(scratch, NEW)) == SOURCE
    async with open_part(attempt_at(scratch, NEW)) as part:
        await part.require(Version(other, "x", None))
        assert part.size_bytes == 0
        assert len(await files_in(scratch)) == 2
    assert await files_in(scratch) == []
    begun(scratch, b"a" * 40).close()
    await discard_part(scratch, OLD)
    assert await files_in(scratch) == []


async def leave(scratch: LocalStorage, error: BaseException, version: Version | None) -> None:
    """Write 40 bytes and end by the error."""
    async with open_part(attempt_at(scratch, OLD)) as part:
        await part.begin(version)
        await part.append(b"a" * 40)
        raise error


async def leave_nothing_of_use(scratch: LocalStorage, error: BaseException) -> None:
    """End by the error before a byte has come."""
    async with open_part(attempt_at(scratch, OLD)) as part:
        await part.begin(FILE)
        raise error


@pytest.mark.parametrize("error", PASSING, ids=repr)
async def test_what_ends_by_something_that_passes_is_gone_on_with(
    scratch: LocalStorage, error: BaseException
) -> None:
    with pytest.raises(type(error)):
        await leave(scratch, error, FILE)
    successor = take_over(scratch)
    assert successor.find(SOURCE) == FILE
    assert successor.size_bytes == 40, "the last bytes too, that no batch was full of"
    successor.append([b"b" * 60])
    assert published(scratch, successor) == b"a" * 40 + b"b" * 60
    assert await files_in(scratch) == [f"{NEW}.mp4"]


@pytest.mark.parametrize("error", LASTING, ids=repr)
async def test_what_ends_for_good_leaves_nothing(
    scratch: LocalStorage, error: BaseException
) -> None:
    with pytest.raises(type(error)):
        await leave(scratch, error, FILE)
    assert await files_in(scratch) == []


@pytest.mark.parametrize("error", PASSING, ids=repr)
async def test_what_nobody_could_go_on_with_is_not_kept(
    scratch: LocalStorage, error: BaseException
) -> None:
    with pytest.raises(type(error)):
        await leave(scratch, error, None)
    assert await files_in(scratch) == []
    with pytest.raises(type(error)):
        await leave_nothing_of_use(scratch, error)
    assert await files_in(scratch) == []


async def end_tidied(scratch: LocalStorage, error: BaseException | None) -> None:
    """End a tidied block in which one thing was published, and another begun before."""
    scratch.path_of(f"{OLD}.ts").write_bytes(b"finished")
    begun(scratch, b"a" * 40).close()
    async with tidied(attempt_at(scratch, OLD)):
        if error is not None:
            raise error


async def test_only_what_is_of_use_outlives_an_attempt(scratch: LocalStorage) -> None:
    for error in PASSING:
        with pytest.raises(type(error)):
            await end_tidied(scratch, error)
        assert sorted(await files_in(scratch)) == [f"{OLD}.note", f"{OLD}.part"]
        assert await begun_source(attempt_at(scratch, OLD)) == SOURCE
        await discard_part(scratch, OLD)
    for error in LASTING:
        with pytest.raises(type(error)):
            await end_tidied(scratch, error)
        assert await files_in(scratch) == []
    await end_tidied(scratch, None)
    assert await files_in(scratch) == [f"{OLD}.ts"]


async def test_a_whole_part_asks_for_nothing(
    scratch: LocalStorage,
    client: GuardedClient,
    simulator: PanoptoSimulator,
    recording: Recording,
) -> None:
    location = MediaLocation("mp4", simulator.media_url(recording))
    content = recording.media.read_bytes()
    begun(scratch, content, Version(whole_file_of(location), '"1"', len(content))).close()
    attempt = attempt_at(scratch, OLD)
    stored = await fetch_file(client, location, attempt, max_bytes=64 * MIB)
    assert (stored.size_bytes, stored.fetched_bytes) == (len(content), 0)
    assert simulator.media_requests(recording) == []
    assert await files_in(scratch) == [f"{OLD}.mp4"]
