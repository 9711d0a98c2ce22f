"""Sorted sets on a Redis that is restarted, emptied, full, stopped or killed in the middle."""

import asyncio
import os
import signal
import subprocess
import time
from collections.abc import AsyncIterator, Collection, Iterator
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path

import pytest
import redis
from bson import ObjectId

from app.clock import FIRST_ID, LAST_ID
from app.config import Config
from app.servers.programs import insist, resolve
from app.stack import SetsDown
from app.stack.redis_pool import RETRY_AFTER_S
from app.stack.sorted_sets import (
    AT_ONCE,
    CONNECTIONS,
    DELIVERING,
    LIST,
    PLACEHOLDER,
    RedisSets,
    Trailer,
)
from tests.conftest import real_servers

pytestmark = [pytest.mark.anyio, pytest.mark.servers]
AT, CAP, TTL_MS = "container", 100, 600_000


@dataclass
class Server:
    """A redis-server on a Unix socket, which can be started again on what it has saved."""

    program: Path
    folder: Path
    process: "subprocess.Popen[bytes] | None" = None
    options: tuple[str, ...] = ()
    clients: list[redis.Redis] = field(default_factory=list)

    @property
    def url(self) -> str:
        return f"unix://{self.folder}/s?db=0"

    def start(self) -> redis.Redis:
        command = [str(self.program), "--port", "0", "--unixsocket", "s", "--dir", ".", "--save", "", *self.options]
        self.process = subprocess.Popen(command, cwd=self.folder, stdout=subprocess.DEVNULL)
        client = redis.Redis.from_url(self.url)
        self.clients.append(client)
        deadline_s = time.monotonic() + 60
        while True:
            try:
                client.ping()
                return client
            except redis.ConnectionError:
                assert time.monotonic() < deadline_s
                time.sleep(0.02)

    def end(self) -> None:
        if self.process:
            self.process.kill()
            self.process.wait()
            self.process = None


@pytest.fixture
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    with real_servers():
        (source,) = [source for source in resolve(Config(), "servers") if source.server == "redis"]
        insist((source,))
    assert source.program
    folder = Path(os.path.relpath(tmp_path_factory.mktemp("r"))).absolute()
    server = Server(source.program, folder)
    try:
        yield server
    finally:
        for client in server.clients:
            client.close()
        server.end()


@pytest.fixture
def timeout_s() -> float:
    """Longer than a busy machine takes for anything."""
    return 60.0


@pytest.fixture
async def sets(server: Server, timeout_s: float) -> AsyncIterator[RedisSets]:
    sets = RedisSets(server.url, "test", timeout_s)
    yield sets
    await sets.close()


async def none(_: Collection[str]) -> set[str]:
    return set()


async def filled(sets: RedisSets, n: int = 3) -> tuple[ObjectId, list[bytes]]:
    reader, ids = ObjectId(), sorted((ObjectId().binary for _ in range(n)), reverse=True)
    trailer = Trailer(LIST, FIRST_ID.binary, ObjectId().binary, 10**14)
    assert await sets.lease(AT, reader, trailer._replace(state=PLACEHOLDER), TTL_MS, 0)
    assert await sets.fill(AT, reader, trailer, TTL_MS, ids, CAP)
    return reader, ids


async def kept(sets: RedisSets, reader: ObjectId) -> list[bytes] | None:
    """After a failure nobody asks for a moment."""
    deadline_s = time.monotonic() + 60
    while True:
        try:
            found = await sets.read(AT, reader, LAST_ID, 1_000)
            return found.ids if found else None
        except SetsDown:
            assert time.monotonic() < deadline_s
            await asyncio.sleep(RETRY_AFTER_S / 4)


@pytest.mark.parametrize("options", [(), ("--appendonly", "yes", "--appendfsync", "always")], ids=["snapshot", "aof"])
async def test_what_comes_back_with_a_restart_is_not_asked_for(
    server: Server, sets: RedisSets, options: tuple[str, ...]
) -> None:
    """It was saved, and what was delivered since is missing in it."""
    server.options = options
    client = server.start()
    reader, ids = await filled(sets)
    await sets.note(AT, 7, 60)
    assert await kept(sets, reader) == ids
    client.save()
    server.end()
    client = server.start()
    assert any(reader.binary in key for key in client.scan_iter()), "Redis has it again"
    assert await kept(sets, reader) is None
    assert await sets.highest(AT) == 0
    await sets.deliver(AT, [reader], ObjectId(), CAP)
    assert await kept(sets, reader) is None
    again, ids = await filled(sets)
    assert await kept(sets, again) == ids
    await sets.sweep(none)
    assert not any(reader.binary in key for key in client.scan_iter()), "nobody will ever ask for it"
    assert await kept(sets, again) == ids


async def test_another_process_of_the_same_run_sees_the_same(server: Server, sets: RedisSets, timeout_s: float) -> None:
    server.start()
    reader, ids = await filled(sets)
    other = RedisSets(server.url, "test", timeout_s)
    assert await kept(other, reader) == ids
    await other.close()


async def test_a_new_connection_asks_once_who_answers(server: Server, sets: RedisSets) -> None:
    redis = server.start()
    await filled(sets)
    asked = {name: redis.info("commandstats")[f"cmdstat_{name}"]["calls"] for name in ("echo", "hello")}
    connections = len([one for one in redis.client_list() if int(one["id"]) != redis.client_id()])
    assert asked == {"echo": connections, "hello": connections + 1}, "whoever looks here greets, too"


async def test_an_emptied_redis_keeps_nothing_and_is_delivered_to_in_vain(server: Server, sets: RedisSets) -> None:
    client = server.start()
    reader, _ = await filled(sets)
    client.flushall()
    client.script_flush()
    with suppress(SetsDown):  # our scripts went as well: the next connection brings them
        await sets.deliver(AT, [reader], ObjectId(), CAP)
    assert await kept(sets, reader) is None
    assert client.keys() == []


async def test_an_evicted_set_is_gone_as_a_whole(server: Server, sets: RedisSets) -> None:
    client = server.start()
    filled_with = dict([await filled(sets, 90) for _ in range(200)])
    client.config_set("maxmemory-policy", "allkeys-random")
    client.config_set("maxmemory", int(client.info("memory")["used_memory"]) - 150_000)
    for n in range(20):
        client.set(f"strange {n}", b"x" * 1_000)
    client.config_set("maxmemory", 0)  # every command may evict, also one that reads
    left = [reader for reader in filled_with if await kept(sets, reader)]
    assert 0 < len(left) < 200
    for reader, ids in filled_with.items():
        assert await kept(sets, reader) == (ids if reader in left else None)


async def test_a_full_redis_refuses_a_delivery_and_answers_reads(server: Server, sets: RedisSets) -> None:
    """What is refused is pending, and tried again."""
    client = server.start()
    reader, ids = await filled(sets)
    client.config_set("maxmemory", 1)
    with pytest.raises(SetsDown, match="maxmemory"):
        await sets.deliver(AT, [reader], ObjectId(), CAP)
    found = await sets.read(AT, reader, LAST_ID, 9)
    assert found
    assert found.ids == ids
    client.config_set("maxmemory", 0)
    await sets.deliver(AT, [reader], late := ObjectId(), CAP)
    assert await kept(sets, reader) == [late.binary, *ids]


async def test_a_redis_that_has_become_a_replica_answers_no_read(server: Server, sets: RedisSets) -> None:
    """What is delivered since goes to another one; this one hears of it late, or never."""
    client = server.start()
    reader, ids = await filled(sets)
    client.replicaof("127.0.0.1", "1")
    with pytest.raises(SetsDown, match="read only replica"):
        await sets.read(AT, reader, LAST_ID, 9)
    client.replicaof("NO", "ONE")
    assert await kept(sets, reader) == ids


async def test_a_large_delivery_leaves_connections_to_readers(server: Server, sets: RedisSets) -> None:
    client = server.start()
    await sets.deliver(AT, [ObjectId() for _ in range(2 * CONNECTIONS * AT_ONCE)], ObjectId(), CAP)
    assert 1 < len(client.client_list()) - len(server.clients) <= DELIVERING < CONNECTIONS


@pytest.mark.parametrize("timeout_s", [0.5])
async def test_nobody_waits_for_a_redis_that_hangs(server: Server, sets: RedisSets) -> None:
    server.start()
    reader, ids = await filled(sets)
    assert server.process
    server.process.send_signal(signal.SIGSTOP)
    for words in ("redis: ", "a moment ago"):
        with pytest.raises(SetsDown, match=words):
            await sets.read(AT, reader, LAST_ID, 9)
    server.process.send_signal(signal.SIGCONT)
    assert await kept(sets, reader) == ids, "what was on its way to somebody else is not taken for an answer"


async def test_killed_in_the_middle_of_a_delivery(server: Server, sets: RedisSets) -> None:
    server.start()
    readers = [(await filled(sets))[0] for _ in range(50)]

    async def deliver() -> None:
        while True:
            await sets.deliver(AT, readers, ObjectId(), CAP)

    delivering = asyncio.create_task(deliver())
    await asyncio.sleep(0.1)
    assert not delivering.done()
    server.end()
    with pytest.raises(SetsDown):
        await delivering
    server.start()
    assert [await kept(sets, reader) for reader in readers] == [None] * 50


async def test_whoever_gives_up_leaves_no_answer_to_the_next(server: Server, sets: RedisSets) -> None:
    server.start()
    (one, ids), (two, others) = await filled(sets), await filled(sets)
    for n in range(30):
        giving_up = [asyncio.create_task(sets.read(AT, one, LAST_ID, 9)) for _ in range(3)]
        for _ in range(n % 10):
            await asyncio.sleep(0)
        for task in giving_up:
            task.cancel()
        assert [*await asyncio.gather(kept(sets, one), kept(sets, two))] == [ids, others]
        await asyncio.gather(*giving_up, return_exceptions=True)
