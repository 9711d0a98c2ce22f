"""The Memcached adapter: one behaviour on the stand-in, on one real node and on three."""

import asyncio
import shutil
import socket
import subprocess
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import ExitStack, asynccontextmanager, contextmanager, suppress
from importlib.util import find_spec

import pytest

from app.servers.programs import ServersError
from app.stack import MemcachedDown
from app.stack.cost import counted
from app.stack.memcached import ITEM_LIMIT, Memcached, MemcachedNodes, MemcachedStandIn
from tests.conftest import real_servers
from tests.dates import NOON, ManualClock

pytestmark = pytest.mark.anyio

TTL_S = 600


@pytest.fixture(scope="module")
def anyio_backend() -> tuple[str, dict[str, bool]]:
    """On the loop of a web process, other than everywhere else: a connection of ours is read on it."""
    return "asyncio", {"use_uvloop": find_spec("uvloop") is not None}


@contextmanager
def node(*more: str) -> Iterator[tuple[str, "subprocess.Popen[bytes]"]]:
    """A real memcached on a free loopback port."""
    program = shutil.which("memcached")
    with real_servers():
        if program is None:
            raise ServersError("memcached is not installed")
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    assert program
    process = subprocess.Popen(
        [program, "-l", "127.0.0.1", "-p", str(port), "-U", "0", "-m", "16", "-u", "nobody", *more]
    )
    try:
        deadline = time.monotonic() + 10
        while True:
            try:
                socket.create_connection(("127.0.0.1", port)).close()
                break
            except ConnectionRefusedError:
                assert time.monotonic() < deadline
                assert process.poll() is None
        yield f"127.0.0.1:{port}", process
    finally:
        process.kill()
        process.wait()


@pytest.fixture(params=[0, *(pytest.param(n, marks=pytest.mark.servers) for n in (1, 3))])
async def memcached(request: pytest.FixtureRequest) -> AsyncIterator[Memcached]:
    with ExitStack() as stack:
        nodes = [stack.enter_context(node())[0] for _ in range(request.param)]
        memcached: Memcached = MemcachedNodes(nodes, 1.0) if nodes else MemcachedStandIn(ManualClock(NOON).monotonic)
        yield memcached
        await memcached.close()


async def test_a_swap_succeeds_only_on_the_version_it_read(memcached: Memcached) -> None:
    assert await memcached.add("a", b"one", TTL_S)
    with counted() as cost:
        assert not await memcached.add("a", b"two", TTL_S)
    assert cost.memcached == 1, "what is refused is not fetched"
    found = await memcached.gets("a")
    assert found
    assert found[0] == b"one"
    await memcached.prepend(["a"], b"zero ")
    assert not await memcached.cas("a", b"lost", found[1], TTL_S)
    found = await memcached.gets("a")
    assert found
    assert found[0] == b"zero one"
    assert await memcached.cas("a", b"three", found[1], TTL_S)
    await memcached.delete("a")
    assert await memcached.gets("a") is None
    assert not await memcached.cas("a", b"four", found[1], TTL_S)


async def test_a_prepend_reaches_what_exists_and_creates_nothing(memcached: Memcached) -> None:
    present = [f"present {n}".replace(" ", "-") for n in range(2_500)]
    for key in present:
        await memcached.add(key, b"|", TTL_S)
    absent = [f"absent-{n}" for n in range(2_500)]
    keys = [key for pair in zip(present, absent, strict=True) for key in pair]
    with counted() as cost:
        assert await memcached.prepend(keys, b"id") == 2_500
    assert cost.memcached == 5_000
    for key in present:
        found = await memcached.gets(key)
        assert found
        assert found[0] == b"id|"
    assert [await memcached.gets(key) for key in absent] == [None] * 2_500


async def test_a_list_that_cannot_grow_is_deleted_not_left_incomplete(memcached: Memcached) -> None:
    """Memcached says NOT_STORED for an absent key and for one that is too large, with the same words."""
    await memcached.add("large", b"x" * (ITEM_LIMIT - 500), TTL_S)
    await memcached.add("small", b"|", TTL_S)
    assert await memcached.prepend(["large", "small", "absent"], b"y" * 1_200) == 1
    assert await memcached.gets("large") is None
    assert await memcached.gets("small") is not None


async def test_a_number_is_noted(memcached: Memcached) -> None:
    assert await memcached.highest("n") == 0
    for number, highest in ((7, 7), (9, 9), (8, 9)):
        await memcached.note("n", number, TTL_S)
        assert await memcached.highest("n") == highest


async def test_of_many_who_note_a_number_at_once_the_highest_stays(memcached: Memcached) -> None:
    await asyncio.gather(*(memcached.note("n", number, TTL_S) for number in [*range(1, 40, 2), *range(40, 0, -2)]))
    assert await memcached.highest("n") == 40


async def test_the_stand_in_forgets_when_the_time_is_over() -> None:
    clock = ManualClock(NOON)
    memcached = MemcachedStandIn(clock.monotonic)
    await memcached.add("a", b"|", 10)
    clock.advance(9)
    assert await memcached.prepend(["a"], b"x") == 1  # does not renew
    clock.advance(1)
    assert await memcached.gets("a") is None
    assert await memcached.prepend(["a"], b"x") == 0


@asynccontextmanager
async def one_of_two_is_away() -> AsyncIterator[tuple[MemcachedNodes, list[str], str]]:
    """With two nodes, keys of lists that are spread over both, and the node that is away."""
    with node() as (first, _), node() as (second, process):
        memcached = MemcachedNodes([first, second], 1.0)
        keys = [f"key-{n}" for n in range(100)]
        for key in keys:
            await memcached.add(key, b"|", TTL_S)
        process.kill()
        process.wait()
        yield memcached, keys, second
        await memcached.close()


@pytest.mark.servers
async def test_a_node_that_is_away_is_not_replaced_by_another() -> None:
    """A key that moved to another node and came back would be stale."""
    async with one_of_two_is_away() as (memcached, keys, _):
        answers = [await _answers(memcached, key) for key in keys]
        assert 20 < answers.count(True) < 80  # spread over both
        with pytest.raises(MemcachedDown):
            await memcached.prepend(keys, b"x")


@pytest.mark.servers
async def test_a_node_that_is_away_grows_nothing_on_the_others(monkeypatch: pytest.MonkeyPatch) -> None:
    """Whoever prepends tries again, as long as it takes."""
    monkeypatch.setattr("app.stack.memcached.RETRY_AFTER_S", 0)  # each time it is asked
    async with one_of_two_is_away() as (memcached, keys, away):
        keys.sort(key=lambda key: memcached._node(key) == away)  # the one that lives would come first
        for _ in range(5):
            with pytest.raises(MemcachedDown):
                await memcached.prepend(keys, b"x")
        found = await memcached.gets(keys[0])
        assert found
        assert found[0] == b"x|", "once, before anybody knew"


@pytest.mark.servers
async def test_a_number_outlives_all_nodes_but_one() -> None:
    with node() as (first, process), node() as (second, last):
        memcached = MemcachedNodes([first, second], 1.0)
        await memcached.note("n", 7, TTL_S)
        process.kill()
        process.wait()
        assert await memcached.highest("n") == 7
        await memcached.note("n", 8, TTL_S)
        assert await memcached.highest("n") == 8
        last.kill()
        last.wait()
        with pytest.raises(MemcachedDown):
            await memcached.highest("n")
        with pytest.raises(MemcachedDown):
            await memcached.note("n", 9, TTL_S)
        await memcached.close()


@pytest.mark.servers
async def test_a_number_that_only_a_silent_node_may_know_is_unknown() -> None:
    with node() as (first, _), node() as (second, process):
        memcached = MemcachedNodes([first, second], 1.0)
        assert await memcached.highest("n") == 0
        process.kill()
        process.wait()
        assert await memcached.highest("n") is None
        await memcached.note("n", 0, TTL_S)
        assert await memcached.highest("n") == 0
        await memcached.close()


@asynccontextmanager
async def speaking(*parts: bytes, timeout_s: float) -> AsyncIterator[Memcached]:
    """With a node that answers the first command of each connection with these, sent one by one, and then is silent."""

    ended: list[asyncio.Event] = []

    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        ended.append(end := asyncio.Event())
        with suppress(OSError):
            await reader.readline()
            for part in parts:
                writer.write(part)
                await asyncio.sleep(0)
            await reader.read()  # until the other side has gone
        writer.close()
        with suppress(OSError):
            await writer.wait_closed()
        end.set()

    async with await asyncio.start_server(answer, "127.0.0.1", 0) as server:
        memcached = MemcachedNodes([f"127.0.0.1:{server.sockets[0].getsockname()[1]}"], timeout_s)
        try:
            yield memcached
        finally:
            await memcached.close()
        for end in ended:
            await end.wait()


async def test_many_who_read_at_once_have_their_own_answers(memcached: Memcached) -> None:
    """Some of them go before it is there, and theirs is nobody else's."""
    for n in range(50):
        await memcached.add(f"at-once-{n}", b"\r\nEND\r\n" * n, TTL_S)
    await memcached.gets("at-once-0")  # it is connected
    reads = [asyncio.create_task(memcached.gets(f"at-once-{n}")) for n in range(100)]
    await asyncio.sleep(0)
    for read in reads[::7]:
        read.cancel()
    found = await asyncio.gather(*reads, return_exceptions=True)
    for n, answer in enumerate(found):
        if n % 7:
            assert (answer and answer[0]) == (b"\r\nEND\r\n" * n if n < 50 else None)  # type: ignore[index]


async def test_an_answer_may_come_in_pieces() -> None:
    whole = b"VALUE a 0 9 17\r\nEND\r\nend.\r\nEND\r\n"
    async with speaking(*(whole[at : at + 1] for at in range(len(whole))), timeout_s=10.0) as memcached:
        assert await memcached.gets("a") == (b"END\r\nend.", b"17")


@pytest.mark.servers
async def test_a_key_that_names_another_one_is_on_its_node() -> None:
    """So whoever needs both waits for no other node."""
    with node() as (first, process), node() as (second, _):
        memcached = MemcachedNodes([first, second], 1.0)
        keys = [f"list:{n}" for n in range(20)]
        for key in keys:
            for each in (key, f"edges:{{{key}}}"):
                await memcached.put(each, b"value", TTL_S)
        process.kill()
        process.wait()
        there = [await _answers(memcached, key) for key in keys]
        assert {True, False} == set(there)
        assert there == [await _answers(memcached, f"edges:{{{key}}}") for key in keys]
        await memcached.close()


@pytest.mark.parametrize(
    "says",
    [b"", b"SERVER_ERROR out of memory\r\n", b"VALUE b 0 1 17\r\nx\r\nEND\r\n"],
    ids=["nothing", "error", "other"],
)
async def test_a_node_that_says_nothing_of_use_is_away_for_all_who_ask(says: bytes) -> None:
    async with speaking(says, timeout_s=0.3) as memcached:
        reads = asyncio.gather(*(memcached.gets("a") for _ in range(200)), return_exceptions=True)
        ends = await asyncio.wait_for(reads, 30)  # they wait together, not one after the other
        assert all(isinstance(end, MemcachedDown) for end in ends)
        with pytest.raises(MemcachedDown, match="less than"):
            await memcached.gets("a")


async def test_a_node_that_was_restarted_is_away_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """However many connections it had. Each of them would find out for itself, a second after the last one."""
    monkeypatch.setattr("app.stack.memcached.RETRY_AFTER_S", 0)
    theirs, all_four = list[asyncio.StreamWriter](), asyncio.Barrier(4)

    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        theirs.append(writer)
        first = len(theirs) <= 4
        while await reader.readline():
            if first:
                await all_four.wait()
            writer.write(b"VERSION 1\r\n")

    async def closed() -> None:
        for writer in theirs:
            writer.close()
            with suppress(OSError):
                await writer.wait_closed()

    async with await asyncio.start_server(answer, "127.0.0.1", 0) as server:
        memcached = MemcachedNodes([f"127.0.0.1:{server.sockets[0].getsockname()[1]}"], timeout_s=10.0)
        said = []
        try:
            await asyncio.gather(*(memcached.versions() for _ in range(4)))
            await closed()
            for _ in range(8):
                try:
                    assert await memcached.versions()
                except MemcachedDown as error:
                    said.append(str(error))
        finally:
            await memcached.close()
            await closed()
    assert len(said) == 1
    assert said[0].rpartition(": ")[2], "it says why"
    assert len(theirs) == 5, "the next connection is kept"


async def test_a_connection_whose_asker_has_gone_is_closed_with_the_others() -> None:
    """An open one would keep uvloop from closing, and so the process from ending."""
    ended, theirs = asyncio.Event(), list[asyncio.StreamWriter]()

    async def listen(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        theirs.append(writer)
        await reader.read()
        ended.set()

    async with await asyncio.start_server(listen, "127.0.0.1", 0) as server:
        memcached = MemcachedNodes([f"127.0.0.1:{server.sockets[0].getsockname()[1]}"], timeout_s=10.0)
        asking = asyncio.create_task(memcached.gets("a"))
        await asyncio.sleep(0)
        asking.cancel()
        with suppress(asyncio.CancelledError):
            await asking
        await memcached.close()
        try:
            async with asyncio.timeout(10):
                await ended.wait()
        finally:
            for writer in theirs:
                writer.close()


async def _answers(memcached: Memcached, key: str) -> bool:
    try:
        return await memcached.gets(key) is not None
    except MemcachedDown:
        return False


async def test_keys_stay_where_they_are_when_a_node_is_added() -> None:
    few, more = (MemcachedNodes([f"127.0.0.1:{port}" for port in range(1, n)], 1.0) for n in (5, 6))
    keys = [f"list:{n}" for n in range(2_000)]
    moved = sum(few._node(key) != more._node(key) for key in keys)
    assert 0.1 < moved / len(keys) < 0.3  # one in five
    await few.close()
    await more.close()
