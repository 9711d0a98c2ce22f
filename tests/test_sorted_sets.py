"""Sets of timelines: one behaviour on the stand-in and on Redis."""

import asyncio
import random
from collections.abc import AsyncIterator, Collection
from typing import Any

import pytest
from bson import ObjectId

from app.clock import FIRST_ID, LAST_ID
from app.stack import Addresses, SetsDown
from app.stack.cost import counted
from app.stack.heartbeats import HeartbeatsDown, RedisHeartbeats
from app.stack.sorted_sets import AT_ONCE, LIST, PLACEHOLDER, SURPLUS, RedisSets, Sets, SetsStandIn, Trailer
from tests.conftest import free_port

pytestmark = pytest.mark.anyio

AT, TTL_MS, CAP = "container", 600_000, 10


@pytest.fixture
async def sets(addresses: Addresses) -> AsyncIterator[Sets]:
    sets = RedisSets(addresses.redis, f"test-{ObjectId()}", 2.0) if addresses.redis else SetsStandIn()
    yield sets
    await sets.close()


def ids(n: int, first: int = 1) -> list[bytes]:
    """Newest first. Bytes that are zero, and above those of ASCII, are among them."""
    return [(at * 0x00FD_0000_0101).to_bytes(12, "big") for at in range(first + n - 1, first - 1, -1)]


def trailer(kind: bytes = LIST, floor: bytes = FIRST_ID.binary, token: bytes = b"t" * 12, until: int = 99) -> Trailer:
    return Trailer(kind, floor, token, until)


async def filled(sets: Sets, kept: list[bytes], floor: bytes = FIRST_ID.binary) -> ObjectId:
    """A reader with a timeline."""
    reader = ObjectId()
    assert await sets.lease(AT, reader, trailer(PLACEHOLDER), TTL_MS, 0)
    assert await sets.fill(AT, reader, trailer(floor=floor), TTL_MS, kept, CAP)
    return reader


async def test_a_range_goes_down_from_any_id(sets: Sets) -> None:
    kept = ids(7)
    reader = await filled(sets, random.Random(1).sample(kept, 7))
    for before, n, expected in ((LAST_ID, 3, kept[:3]), (ObjectId(kept[2]), 9, kept[3:]), (FIRST_ID, 5, [])):
        found = await sets.read(AT, reader, before, n)
        assert found
        assert found == (trailer(), expected)


async def test_who_has_no_set_gets_none(sets: Sets) -> None:
    reader, other = await filled(sets, []), ObjectId()
    await sets.deliver(AT, [other, reader], ObjectId(ids(1)[0]), CAP)
    await sets.merge(AT, other, ids(2), FIRST_ID.binary, CAP)
    assert await sets.read(AT, other, LAST_ID, 5) is None
    assert not await sets.fill(AT, other, trailer(), TTL_MS, ids(2), CAP)
    found = await sets.read(AT, reader, LAST_ID, 5)
    assert found
    assert found.ids == ids(1)


async def test_one_lease_at_a_time_and_what_was_delivered_meanwhile_is_kept(sets: Sets) -> None:
    reader, early = ObjectId(), ids(1, 50)[0]
    assert await sets.lease(AT, reader, trailer(PLACEHOLDER, until=10), TTL_MS, 0)
    assert not await sets.lease(AT, reader, trailer(PLACEHOLDER, token=b"u" * 12), TTL_MS, 9)
    await sets.deliver(AT, [reader], ObjectId(early), CAP)
    await sets.merge(AT, reader, ids(2, 60), FIRST_ID.binary, CAP)  # nobody merges into what is being built
    assert not await sets.fill(AT, reader, trailer(token=b"u" * 12), TTL_MS, [], CAP)
    assert await sets.fill(AT, reader, trailer(), TTL_MS, ids(3), CAP)
    assert await sets.read(AT, reader, LAST_ID, 9) == (trailer(), [early, *ids(3)])
    assert not await sets.fill(AT, reader, trailer(), TTL_MS, ids(5), CAP), "it is filled"
    assert await sets.lease(AT, reader, trailer(PLACEHOLDER), TTL_MS, 99), "it has expired"
    assert await sets.read(AT, reader, LAST_ID, 9) == (trailer(PLACEHOLDER), [])


async def test_what_is_too_long_is_cut_and_its_floor_raised(sets: Sets) -> None:
    reader, most = await filled(sets, ids(CAP)), int(CAP * SURPLUS)
    for n in range(CAP + 1, most + 1):
        await sets.deliver(AT, [reader], ObjectId(ids(1, n)[0]), CAP)
    assert await sets.read(AT, reader, LAST_ID, 99) == (trailer(), ids(most))
    await sets.deliver(AT, [reader], ObjectId(ids(1, most + 1)[0]), CAP)
    left = ids(most + 1)[:CAP]
    assert await sets.read(AT, reader, LAST_ID, 99) == (trailer(floor=left[-1]), left)


async def test_no_floor_is_lowered(sets: Sets) -> None:
    high = ids(1, 5)[0]
    reader = await filled(sets, ids(3, 6), floor=high)
    await sets.merge(AT, reader, ids(2), ids(1, 2)[0], CAP)
    assert await sets.read(AT, reader, LAST_ID, 99) == (trailer(floor=high), ids(3, 6) + ids(2))
    await sets.merge(AT, reader, [], ids(1, 7)[0], CAP)
    found = await sets.read(AT, reader, LAST_ID, 0)
    assert found
    assert found.trailer.floor == ids(1, 7)[0]


async def test_a_fill_and_a_merge_of_more_than_the_cap_leave_no_gap(sets: Sets) -> None:
    reader = await filled(sets, ids(CAP + 3))
    assert await sets.read(AT, reader, LAST_ID, 99) == (trailer(floor=ids(CAP + 3)[CAP - 1]), ids(CAP + 3)[:CAP])
    other = await filled(sets, ids(2, 9))
    await sets.merge(AT, other, ids(CAP), FIRST_ID.binary, CAP)
    kept = ids(CAP)  # 9 and 10 are there once
    assert await sets.read(AT, other, LAST_ID, 99) == (trailer(), kept)


async def test_a_placeholder_that_is_cut_fills_no_further_down(sets: Sets) -> None:
    reader = ObjectId()
    assert await sets.lease(AT, reader, trailer(PLACEHOLDER), TTL_MS, 0)
    for id in reversed(ids(int(CAP * SURPLUS) + 1, 5)):
        await sets.deliver(AT, [reader], ObjectId(id), CAP)
    assert await sets.fill(AT, reader, trailer(), TTL_MS, [], CAP)
    found = await sets.read(AT, reader, LAST_ID, 99)
    assert found
    assert found.trailer.floor == found.ids[-1]
    assert len(found.ids) == CAP


async def test_a_renewal_changes_what_was_read_and_nothing_else(sets: Sets) -> None:
    reader = await filled(sets, ids(2))
    await sets.renew(AT, reader, trailer(until=98), trailer(until=500), TTL_MS)
    assert await sets.read(AT, reader, LAST_ID, 9) == (trailer(), ids(2))
    await sets.renew(AT, reader, trailer(), trailer(until=500), TTL_MS)
    assert await sets.read(AT, reader, LAST_ID, 9) == (trailer(until=500), ids(2))
    await sets.forget(AT, reader)
    await sets.renew(AT, reader, trailer(until=500), trailer(until=900), TTL_MS)
    assert await sets.read(AT, reader, LAST_ID, 9) is None


async def test_containers_are_apart_and_each_has_its_pulse(sets: Sets) -> None:
    reader = await filled(sets, ids(2))
    assert await sets.read("another", reader, LAST_ID, 9) is None
    assert await sets.highest(AT) == 0
    for number in (6, 7, 5):
        await sets.note(AT, number, 60)
    assert (await sets.highest(AT), await sets.highest("another")) == (7, 0)


async def all_but_one(names: Collection[str]) -> set[str]:
    return {*names} - {AT}


async def test_what_nobody_reads_any_more_is_swept_away(sets: Sets) -> None:
    """A container that was switched off, and on Redis what another run of it has left."""
    kept, reader = await filled(sets, ids(2)), ObjectId()
    assert await sets.lease("retired", reader, trailer(PLACEHOLDER), TTL_MS, 0)
    await sets.note("retired", 7, 60)
    await sets.note(AT, 8, 60)
    for _ in range(1_000):
        await sets.sweep(all_but_one)
        if await sets.read("retired", reader, LAST_ID, 1) is None and not await sets.highest("retired"):
            break
    assert await sets.read("retired", reader, LAST_ID, 1) is None
    assert (await sets.highest("retired"), await sets.highest(AT)) == (0, 8)
    assert await sets.read(AT, kept, LAST_ID, 9) == (trailer(), ids(2))


async def test_a_full_list_and_a_large_fan_out_pass_in_bounded_scripts(sets: Sets) -> None:
    many, cap = ids(3_000), 10_000
    reader = ObjectId()
    assert await sets.lease(AT, reader, trailer(PLACEHOLDER), TTL_MS, 0)
    assert await sets.fill(AT, reader, trailer(), TTL_MS, many, cap)
    found = await sets.read(AT, reader, LAST_ID, cap)
    assert found
    assert found.ids == many
    with counted() as cost:
        await sets.deliver(AT, [*(ObjectId() for _ in range(2 * AT_ONCE)), reader], ObjectId(ids(1, 4_000)[0]), cap)
    assert cost.redis == 3
    found = await sets.read(AT, reader, LAST_ID, 1)
    assert found
    assert found.ids == ids(1, 4_000)


@pytest.mark.parametrize(
    ("kind", "method", "arguments", "down"),
    [
        (RedisSets, "read", (AT, ObjectId(), LAST_ID, 1), SetsDown),
        (RedisHeartbeats, "among", ([ObjectId()],), HeartbeatsDown),
    ],
)
async def test_nobody_waits_twice_for_a_redis_that_is_away(
    kind: type[Any], method: str, arguments: tuple[object, ...], down: type[Exception]
) -> None:
    client = kind(f"redis://127.0.0.1:{free_port()}", "test", 2.0)
    for words in ("redis: ", "a moment ago"):
        with pytest.raises(down, match=words):
            await getattr(client, method)(*arguments)
    await client.close()


async def test_a_redis_that_does_not_say_which_run_it_is_is_away() -> None:
    """As one behind a proxy, or of another maker. It was an error of ours, and the connection stayed, half made."""
    ended = list[asyncio.Event]()

    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        ended.append(end := asyncio.Event())
        while (head := await reader.readline()).startswith(b"*"):
            words = [await reader.readexactly(int((await reader.readline())[1:]) + 2) for _ in range(int(head[1:]))]
            says = {b"HELLO\r\n": b"%1\r\n+proto\r\n:3\r\n", b"INFO\r\n": b"$15\r\nredis_version:7\r\n"}
            says[b"ECHO\r\n"] = b"+" + words[-1]
            writer.write(says.get(words[0], b"+OK\r\n"))
        writer.close()
        end.set()

    async with await asyncio.start_server(answer, "127.0.0.1", 0) as server:
        sets = RedisSets(f"redis://127.0.0.1:{server.sockets[0].getsockname()[1]}", "test", 10.0)
        with pytest.raises(SetsDown, match="which run"):
            await sets.highest(AT)
        async with asyncio.timeout(10):
            for end in ended:
                await end.wait()
        await sets.close()
    assert ended
