"""Parts across attempts: taken over by rename, and safe from whoever had them before."""

from app.embedded.panopto import PanoptoSimulator, Recording
from app.ingest.fetch import fetch_file
from app.ingest.guard import GuardedClient
from app.ingest.part_file import PartFile, Version, hand_over, identity_of, is_part
from app.ingest.protocols import MediaLocation
from app.storage.local import LocalStorage
from tests.panopto import MIB, Reports, files_in

OLD, NEW = "audio/one_source.1.aa", "audio/one_source.2.bb"
SOURCE = identity_of("https://media.example.org/a.mp4?signature=1")


def begun(scratch: LocalStorage, content: bytes, validator: str = '"1"') -> PartFile:
    part = PartFile(scratch, OLD)
    part.begin(Version(SOURCE, 100, validator))
    part.append([content])
    return part


def take_over(scratch: LocalStorage) -> PartFile:
    for name in (".mp4.part", ".mp4.note"):
        assert is_part(f"{OLD}{name}")
        hand_over(scratch, f"{OLD}{name}", NEW)
    return PartFile(scratch, NEW)


async def test_a_successor_goes_on_and_the_predecessor_does_no_harm(scratch: LocalStorage) -> None:
    zombie = begun(scratch, b"a" * 40)
    successor = take_over(scratch)
    assert successor.go_on(SOURCE) == Version(SOURCE, 100, '"1"')
    assert successor.size_bytes == 40
    successor.append([b"b" * 30])
    zombie.append([b"b" * 20])  # The same version has the same bytes there.
    successor.append([b"c" * 30])
    zombie.discard()
    target = scratch.path_of(f"{NEW}.mp4")
    successor.publish(target)
    assert target.read_bytes() == b"a" * 40 + b"b" * 30 + b"c" * 30
    assert await files_in(scratch) == [f"{NEW}.mp4"]


async def test_a_successor_that_begins_anew_has_a_file_of_its_own(scratch: LocalStorage) -> None:
    zombie = begun(scratch, b"a" * 40)
    successor = take_over(scratch)
    successor.begin(Version(SOURCE, 100, '"2"'))
    zombie.append([b"x" * 60])
    successor.append([b"n" * 10])
    target = scratch.path_of(f"{NEW}.mp4")
    successor.publish(target)
    zombie.discard()
    assert target.read_bytes() == b"n" * 10


async def test_what_does_not_belong_together_is_thrown_away(scratch: LocalStorage) -> None:
    begun(scratch, b"a" * 40)
    hand_over(scratch, f"{OLD}.mp4.part", NEW)
    lonely = PartFile(scratch, NEW)
    assert lonely.go_on(SOURCE) is None
    PartFile(scratch, OLD).discard()
    assert await files_in(scratch) == []

    begun(scratch, b"a" * 40)
    assert take_over(scratch).go_on(identity_of("https://media.example.org/b.mp4")) is None
    begun(scratch, b"a" * 101)
    assert take_over(scratch).go_on(SOURCE) is None
    begun(scratch, b"a" * 40)
    scratch.path_of(f"{OLD}.mp4.note").write_text("{")
    assert take_over(scratch).go_on(SOURCE) is None
    assert await files_in(scratch) == []


async def test_a_whole_part_asks_for_nothing(
    scratch: LocalStorage,
    client: GuardedClient,
    simulator: PanoptoSimulator,
    recording: Recording,
) -> None:
    url, content = simulator.media_url(recording), recording.media.read_bytes()
    part = PartFile(scratch, OLD)
    part.begin(Version(identity_of(url), len(content), '"1"'))
    part.append([content])
    stored = await fetch_file(
        client, MediaLocation("mp4", url), scratch, OLD, Reports(), max_bytes=64 * MIB
    )
    assert (stored.size_bytes, stored.fetched_bytes) == (len(content), 0)
    assert simulator.media_requests(recording) == []
    assert await files_in(scratch) == [f"{OLD}.mp4"]
