"""The bus: one suite over both. Each listener hears each hint once, in order, and of every gap."""

import asyncio
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, closing, suppress
from urllib.parse import urlsplit

import pytest
from bson import ObjectId
from redis import Redis

from app.stack import Addresses, Hint
from app.stack import bus as buses
from app.stack.bus import Bus, Listener, MemoryBus, RedisBus
from app.stack.queue import connect
from app.watch import metrics

pytestmark = pytest.mark.anyio

PATIENCE_S = 30.0


@pytest.fixture
async def bus(addresses: Addresses) -> AsyncIterator[Bus]:
    bus: Bus = RedisBus(addresses.redis, f"bus {ObjectId()}") if addresses.redis else MemoryBus()
    yield bus
    await bus.close()


@pytest.fixture
async def redis_bus(servers: Addresses) -> AsyncIterator[RedisBus]:
    assert servers.redis
    bus = RedisBus(servers.redis, f"bus {ObjectId()}")
    yield bus
    await bus.close()


@pytest.fixture
def redis(servers: Addresses) -> Iterator[Redis]:
    assert servers.redis
    with connect(servers.redis, 5.0) as connection:
        yield connection


class Gateway:
    """A way to a Redis. `vanish` leaves the connections that there are open, and nothing on them arrives any more."""

    def __init__(self, url: str) -> None:
        self._redis, self._passing, self._copying = urlsplit(url), asyncio.Event(), set[asyncio.Task[None]]()
        self._passing.set()

    @asynccontextmanager
    async def open(self) -> AsyncIterator[str]:
        async with await asyncio.start_server(self._connected, "127.0.0.1", 0) as server:
            yield f"redis://127.0.0.1:{server.sockets[0].getsockname()[1]}/0"
            for copying in self._copying:
                copying.cancel()
            await asyncio.gather(*self._copying, return_exceptions=True)

    def vanish(self) -> None:
        self._passing.clear()
        self._passing = asyncio.Event()
        self._passing.set()

    async def _connected(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        if self._redis.scheme == "unix":
            further, back = await asyncio.open_unix_connection(self._redis.path)
        else:
            further, back = await asyncio.open_connection(self._redis.hostname, self._redis.port)
        for one, other in ((reader, back), (further, writer)):
            self._copying.add(asyncio.create_task(_copy(one, other, self._passing)))


async def _copy(reader: asyncio.StreamReader, writer: asyncio.StreamWriter, passing: asyncio.Event) -> None:
    with suppress(OSError), closing(writer):
        while data := await reader.read(4096):
            await passing.wait()
            writer.write(data)


class Heard:
    def __init__(self, bus: Bus) -> None:
        self.hints, self.gaps, self.news = list[Hint](), 0, asyncio.Event()
        self.listener = Listener(self._hear, self._miss)
        bus.listen(self.listener)

    def _hear(self, hint: Hint) -> None:
        self.hints.append(hint)
        self.news.set()

    def _miss(self) -> None:
        self.gaps += 1
        self.news.set()

    async def until(self, hints: int, gaps: int = 1) -> None:
        while len(self.hints) < hints or self.gaps < gaps:
            self.news.clear()
            await asyncio.wait_for(self.news.wait(), PATIENCE_S)


def some_hints() -> list[Hint]:
    one, other, status = ObjectId(), ObjectId(), ObjectId()
    return [Hint("posted", one, status), Hint("edges", one, other=other), Hint("concerns", other)]


async def test_every_listener_hears_each_hint_once_and_in_order(bus: Bus) -> None:
    first, hints = Heard(bus), some_hints()
    await first.until(0)
    second = Heard(bus)
    bus.tell(*hints[:2])
    bus.tell(hints[2])
    await first.until(3)
    await second.until(3)
    assert first.hints == second.hints == hints
    bus.leave(second.listener)
    bus.tell(*hints)
    await first.until(6)
    assert second.hints == hints


def test_what_another_version_says_is_passed_over() -> None:
    hints = some_hints()
    assert [Hint.unpacked(hint.packed()) for hint in hints] == hints
    for text in ("", "posted", "posted x - -", f"sang {ObjectId()} - -", f"named {ObjectId()}", "named - - -"):
        assert Hint.unpacked(text) is None, text


@pytest.mark.servers
async def test_what_is_said_together_is_one_command(redis_bus: RedisBus, redis: Redis) -> None:
    heard = redis.pubsub()  # type: ignore[no-untyped-call]
    await asyncio.to_thread(heard.subscribe, redis_bus.channel)
    await asyncio.to_thread(heard.get_message, timeout=PATIENCE_S)  # that it listens
    hints = some_hints()
    for hint in hints:
        redis_bus.tell(hint)
    said = await asyncio.to_thread(heard.get_message, timeout=PATIENCE_S)
    assert said["data"].decode().split("\n") == [hint.packed() for hint in hints]


@pytest.mark.servers
async def test_who_says_nonsense_deafens_nobody(redis_bus: RedisBus, redis: Redis) -> None:
    heard, hints, before = Heard(redis_bus), some_hints(), _wrong()
    await heard.until(0)
    redis.publish(redis_bus.channel, b"\xff")
    await heard.until(0, gaps=2)
    redis_bus.tell(*hints)
    await heard.until(len(hints), gaps=2)
    assert _wrong() == before + 1


def _wrong() -> float:
    return metrics.REGISTRY.get_sample_value("feedlab_background_errors_total", {"work": "hints"}) or 0


@pytest.mark.servers
async def test_a_gap_is_told_and_the_bus_comes_back(redis_bus: RedisBus, redis: Redis) -> None:
    """Redis ends the connections of both sides, as when it restarts."""
    heard, hints = Heard(redis_bus), some_hints()
    await heard.until(0)
    redis.publish(redis_bus.channel, "something new of a later version")
    redis_bus.tell(hints[0])
    await heard.until(1)
    for kind in ("pubsub", "normal"):
        redis.client_kill_filter(_type=kind, skipme=True)
    await heard.until(1, gaps=2)
    while len(heard.hints) == 1:  # the first one tells the publisher that its connection is gone
        redis_bus.tell(hints[1])
        await asyncio.sleep(0.01)
    assert heard.hints[1:] == [hints[1]] * (len(heard.hints) - 1)


@pytest.mark.servers
async def test_a_redis_that_vanishes_without_a_word_is_a_gap(
    servers: Addresses, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As when its host loses power. A Redis that has nothing to say answers when it is asked."""
    monkeypatch.setattr(buses, "SURE_S", 1.0)
    assert servers.redis
    gateway, hints = Gateway(servers.redis), some_hints()
    async with gateway.open() as url:
        bus = RedisBus(url, f"bus {ObjectId()}")
        heard = Heard(bus)
        await heard.until(0)
        await asyncio.sleep(4 * buses.SURE_S)
        assert heard.gaps == 1
        gateway.vanish()
        await heard.until(0, gaps=2)
        async with asyncio.timeout(PATIENCE_S):
            while not heard.hints:  # the first one tells the publisher that its connection is gone
                bus.tell(hints[0])
                await asyncio.sleep(0.1)
        await bus.close()
