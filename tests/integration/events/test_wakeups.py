"""Wake-ups over a real Redis: who is rung, with how many connections, and what a restart does."""

import asyncio
from collections.abc import AsyncIterator, Iterator
from contextlib import ExitStack
from pathlib import Path
from uuid import UUID, uuid4

import pytest
from redis.asyncio import Redis

from app.embedded.redis import EmbeddedRedis
from app.events.wakeups import CHANNEL, Bell, Ring, Wakeup, Wakeups
from tests.support.wait import wait_until

LECTURE, OTHER, USER = uuid4(), uuid4(), uuid4()
NOTHING = Ring()


@pytest.fixture
async def wakeups(redis_url: str) -> AsyncIterator[Wakeups]:
    async with Wakeups(redis_url) as wakeups:
        assert wakeups.connected
        yield wakeups


@pytest.fixture
async def client(redis_url: str) -> AsyncIterator[Redis]:
    client = Redis.from_url(redis_url)
    yield client
    await client.aclose()


@pytest.fixture
def own_redis(server_directory: Path) -> Iterator[EmbeddedRedis]:
    """A Redis to stop and start."""
    directory = server_directory / uuid4().hex[:8]
    directory.mkdir()
    server = EmbeddedRedis(directory / "redis")
    server.start()
    yield server
    server.stop()


async def test_a_wakeup_rings_its_subject_and_its_users(wakeups: Wakeups, redis_url: str) -> None:
    async with Wakeups(redis_url) as another_process:
        with (
            wakeups.listen(f"lecture:{LECTURE}") as lecture,
            wakeups.listen(f"user:{USER}", f"lecture:{LECTURE}") as user,
            wakeups.listen(f"lecture:{OTHER}", f"document:{LECTURE}") as other,
        ):
            await another_process.publish([Wakeup("lecture", LECTURE, (uuid4(), USER))])
            assert await lecture.wait(5) == Ring(frozenset({("lecture", LECTURE)}))
            assert await user.wait(5) == Ring(frozenset({("lecture", LECTURE)}))
            assert await other.wait(0) == NOTHING
            assert await user.wait(0.01) == NOTHING


async def test_the_publisher_hears_itself(wakeups: Wakeups) -> None:
    with wakeups.listen(f"user:{USER}") as bell:
        await wakeups.publish([Wakeup("lecture", LECTURE, (USER,)), Wakeup("document", OTHER)])
        assert (await bell.wait(5)).subjects == {("lecture", LECTURE)}


async def test_rings_add_up_until_they_are_heard(wakeups: Wakeups) -> None:
    with (
        wakeups.listen(f"user:{USER}") as bell,
        wakeups.listen(f"lecture:{OTHER}") as last,
    ):
        await wakeups.publish([Wakeup("lecture", LECTURE, (USER,))] * 3)
        await wakeups.publish([Wakeup("lecture", OTHER, (USER,))])
        assert await last.wait(5)
        assert (await bell.wait(5)).subjects == {("lecture", LECTURE), ("lecture", OTHER)}
        assert await bell.wait(0) == NOTHING


async def test_a_cancelled_wait_loses_nothing(wakeups: Wakeups) -> None:
    with wakeups.listen(f"lecture:{LECTURE}") as bell:
        waiting = asyncio.create_task(bell.wait())
        await asyncio.sleep(0)
        waiting.cancel()
        await asyncio.gather(waiting, return_exceptions=True)
        await wakeups.publish([Wakeup("lecture", LECTURE)])
        assert await bell.wait(5)


async def test_a_bell_with_too_much_to_tell_asks_for_a_resync(wakeups: Wakeups) -> None:
    with wakeups.listen(f"user:{USER}") as bell, wakeups.listen(f"lecture:{LECTURE}") as last:
        many = [Wakeup("lecture", uuid4(), (USER,)) for _ in range(1500)]
        await wakeups.publish([*many, Wakeup("lecture", LECTURE)])
        assert await last.wait(5)
        assert await bell.wait(5) == Ring(resync=True)
        await wakeups.publish([Wakeup("lecture", LECTURE, (USER,))])
        assert await bell.wait(5) == Ring(frozenset({("lecture", LECTURE)}))


async def test_who_stopped_listening_is_forgotten(wakeups: Wakeups) -> None:
    with wakeups.listen("a:1", "b:2"), wakeups.listen("a:1"):
        assert set(wakeups._bells) == {"a:1", "b:2"}
    assert wakeups._bells == {}


async def test_a_thousand_listeners_use_one_connection(wakeups: Wakeups, client: Redis) -> None:
    with ExitStack() as stack:
        bells = [stack.enter_context(wakeups.listen(f"lecture:{LECTURE}")) for _ in range(1000)]
        waits = asyncio.gather(*(bell.wait(10) for bell in bells))
        assert await client.pubsub_numsub(CHANNEL) == [(CHANNEL.encode(), 1)]
        before = len(await client.client_list())
        await wakeups.publish([Wakeup("lecture", LECTURE)])
        assert all(ring.subjects for ring in await waits)
        # One that publishes.
        assert len(await client.client_list()) <= before + 1


async def test_many_publishers_share_a_few_connections(wakeups: Wakeups, client: Redis) -> None:
    with wakeups.listen(f"user:{USER}") as bell:
        subjects = [uuid4() for _ in range(200)]
        await asyncio.gather(
            *(wakeups.publish([Wakeup("lecture", subject, (USER,))]) for subject in subjects)
        )
        assert len(await client.client_list()) <= 1 + 1 + 4
        heard: set[UUID] = set()

        async def all_heard() -> bool:
            heard.update(subject for _, subject in (await bell.wait(1)).subjects)
            return heard == set(subjects)

        await wait_until(all_heard, "every ring is heard")


@pytest.mark.parametrize(
    "junk", [b"", b"{", b"[]", b"7", b"{}", b"\xff", b'{"topic":"a","id":"x","users":[]}']
)
async def test_foreign_messages_change_nothing(
    wakeups: Wakeups, client: Redis, junk: bytes
) -> None:
    with wakeups.listen(f"lecture:{LECTURE}") as bell:
        await client.publish(CHANNEL, junk)
        await wakeups.publish([Wakeup("lecture", LECTURE)])
        assert await bell.wait(5) == Ring(frozenset({("lecture", LECTURE)}))


async def test_a_killed_line_comes_back_and_asks_for_a_resync(
    wakeups: Wakeups, client: Redis
) -> None:
    with wakeups.listen(f"lecture:{LECTURE}") as bell:
        await client.execute_command("CLIENT", "KILL", "TYPE", "pubsub")
        assert (await bell.wait(5)).resync
        await wait_until(lambda: wakeups.connected, "it listens again")
        while (await bell.wait(0.1)).resync:  # which may come a moment later
            pass
        await wakeups.publish([Wakeup("lecture", LECTURE)])
        assert await bell.wait(5) == Ring(frozenset({("lecture", LECTURE)}))
        assert await client.pubsub_numsub(CHANNEL) == [(CHANNEL.encode(), 1)]


async def test_many_listeners_are_not_told_to_look_again_all_at_once(
    wakeups: Wakeups, client: Redis
) -> None:
    loop = asyncio.get_running_loop()

    async def told_at(bell: Bell) -> float:
        assert (await bell.wait(30)).resync
        return loop.time()

    with ExitStack() as stack:
        bells = [stack.enter_context(wakeups.listen(f"lecture:{uuid4()}")) for _ in range(200)]
        telling = [asyncio.create_task(told_at(bell)) for bell in bells]
        await client.execute_command("CLIENT", "KILL", "TYPE", "pubsub")
        times = sorted(await asyncio.gather(*telling))
    assert times[150] - times[50] > 0.2


async def test_publishing_survives_killed_lines(wakeups: Wakeups, client: Redis) -> None:
    with wakeups.listen(f"lecture:{LECTURE}") as bell:
        await asyncio.gather(*(wakeups.publish([Wakeup("x", OTHER)]) for _ in range(20)))
        await client.execute_command("CLIENT", "KILL", "TYPE", "normal", "SKIPME", "yes")
        await wakeups.publish([Wakeup("lecture", LECTURE)])
        assert await bell.wait(5) == Ring(frozenset({("lecture", LECTURE)}))


async def test_a_restart_of_redis(own_redis: EmbeddedRedis) -> None:
    async with Wakeups(own_redis.url) as wakeups:
        with wakeups.listen(f"lecture:{LECTURE}") as bell:
            await asyncio.to_thread(own_redis.stop)
            assert (await bell.wait(5)).resync
            await wait_until(lambda: not wakeups.connected, "the loss is noticed")
            async with asyncio.timeout(2):
                await wakeups.publish([Wakeup("lecture", LECTURE)])
            heard = await bell.wait(5)
            assert heard.resync or heard.subjects
            # Without Redis listeners go on, by looking again every two seconds or less.
            assert (await bell.wait(5)).resync
            own_redis.start()
            await wait_until(lambda: wakeups.connected, "it listens again")
            while await bell.wait(0.1):
                pass
            await wakeups.publish([Wakeup("lecture", LECTURE)])
            assert await bell.wait(5) == Ring(frozenset({("lecture", LECTURE)}))


async def test_a_start_without_redis(own_redis: EmbeddedRedis) -> None:
    await asyncio.to_thread(own_redis.stop)
    async with asyncio.timeout(5), Wakeups(own_redis.url) as wakeups:
        assert not wakeups.connected
        await wakeups.publish([Wakeup("lecture", LECTURE)])
        own_redis.start()
        await wait_until(lambda: wakeups.connected, "it listens")


async def test_a_redis_that_does_not_answer_holds_nobody_up() -> None:
    async def swallow(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.read()
        writer.close()

    server = await asyncio.start_server(swallow, "127.0.0.1", 0)
    host, port = server.sockets[0].getsockname()
    async with server, asyncio.timeout(8):
        wakeups = Wakeups(f"redis://{host}:{port}/0")
        with wakeups.listen(f"lecture:{LECTURE}") as bell:
            async with asyncio.timeout(1.5):
                await wakeups.publish([Wakeup("lecture", LECTURE)])
            assert (await bell.wait(0)).subjects
        await wakeups.start()
        assert not wakeups.connected
        await wakeups.close()


async def test_a_line_that_falls_silent_is_given_up(
    own_redis: EmbeddedRedis, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A relay that stops passing bytes on without closing, as a lost network does."""
    monkeypatch.setattr("app.events.wakeups._SILENCE_SECONDS", 0.1)
    passing = asyncio.Event()
    passing.set()
    tasks: set[asyncio.Task[None]] = set()

    async def pump(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while data := await reader.read(4096):
            await passing.wait()
            writer.write(data)
        writer.close()

    async def relay(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        far = await asyncio.open_unix_connection(own_redis.url.removeprefix("unix://"))
        tasks.add(asyncio.create_task(pump(reader, far[1])))
        tasks.add(asyncio.create_task(pump(far[0], writer)))

    server = await asyncio.start_server(relay, "127.0.0.1", 0)
    host, port = server.sockets[0].getsockname()
    async with Wakeups(f"redis://{host}:{port}/0") as wakeups:
        with wakeups.listen("lecture:1") as bell:
            assert wakeups.connected
            assert await bell.wait(0.5) == NOTHING  # alive while it answers pings
            passing.clear()
            assert (await bell.wait(5)).resync
            assert not wakeups.connected
    passing.set()
    server.close()
    await asyncio.gather(*tasks, return_exceptions=True)
    await server.wait_closed()
