"""An hour in which much happens, and nothing piles up."""

import asyncio
import gc
from collections.abc import AsyncIterator
from pathlib import Path
from typing import NamedTuple
from unittest.mock import patch

import pytest

from app.config import Config
from app.inbox.notifier import Notifier
from app.stack import MemcachedDown, connected
from app.stack.queue import worker as queue_worker
from phases.keeping.activity import active_count
from phases.p1_query import QUERY
from phases.p4_cache import CACHE
from tests.dates import NOON, ManualClock
from tests.world import KEEPING, STAND_INS, World
from workers.sweeper import sweep

pytestmark = [pytest.mark.anyio, pytest.mark.thorough]

CYCLES, CYCLE_S = 6, 600
MANY = [f"fan{n}" for n in range(6)]
SWEPT_EVERY_S = 20
GONE_SOON_S = 600  # RQ forgets workers that ended after a minute of the real time


class Census(NamedTuple):
    """`documents`: but for statuses, which are there to stay. `redis_keys`: but for those that are gone soon."""

    collections: int
    documents: int
    redis_keys: int
    memcached_items: int
    tasks: int
    files: int


def open_files() -> int:
    """0 where the system does not say."""
    files = Path("/proc/self/fd")
    return len(list(files.iterdir())) if files.is_dir() else 0


async def census(world: World) -> Census:
    gc.collect()
    stack = world.stack
    collections = await stack.db.list_collection_names()
    counts = [await stack.db[name].count_documents({}) for name in collections if name != "statuses"]
    return Census(
        len(collections),
        sum(counts),
        sum(stack.queue.connection.ttl(key) not in range(GONE_SOON_S) for key in stack.queue.connection.scan_iter("*")),
        (await stack.memcached.stats()).items,
        len(asyncio.all_tasks()),
        open_files(),
    )


@pytest.fixture
async def town() -> AsyncIterator[World]:
    """Lists and readers' activity end within ten minutes, so that readers go and come back."""
    config = Config(database="soak", demo=True, cap=10, timeline_ttl_s=180, activity_slack_s=60)
    clock = ManualClock(NOON)
    async with connected(STAND_INS, config, clock) as stack:
        world = await World.open(stack, clock)
        world.timelines.outbox.add(Notifier(stack, world.timelines.outbox))
        await world.sign_up("zoe", *MANY)
        for fan in MANY:
            await world.follow(fan, "zoe")
        await world.page("zoe", QUERY.slug)
        await world.timelines.store_counts()  # then there is the document that counts them
        yield world


async def passes(world: World, seconds: float) -> None:
    for _ in range(int(seconds / SWEPT_EVERY_S)):
        world.clock.advance(SWEPT_EVERY_S)
        await sweep(world.timelines)
    await world.drain()


async def ten_minutes(world: World) -> None:
    """Readers return in turn, phases are switched off and on, Memcached fails under the jobs, Redis under the posts.
    Zoe is told of the same things again and again.
    """
    began = world.clock.now()
    prepend, failures = world.stack.memcached.prepend, 3

    async def failing(keys: list[str], value: bytes) -> int:
        nonlocal failures
        if failures:
            failures -= 1
            raise MemcachedDown("stopped by the test")
        return await prepend(keys, value)

    for n, fan in enumerate(MANY):
        await world.warm(fan)
        await world.post("zoe", f"{n}")
        await world.relations.unfollow(world.ids[fan], world.ids["zoe"])
        await world.relations.follow(world.ids[fan], world.ids["zoe"])
        await passes(world, 20)
    with patch.object(world.stack.memcached, "prepend", failing):
        await world.post("zoe", "tried again and again")
        await world.drain()
    assert failures == 0
    async with world.without_redis():
        await world.post("zoe", "not queued")
    async with world.without_memcached():
        await world.post("zoe", "delivered later")
        await world.warm(*MANY[:3])
    await passes(world, 60)
    assert set((await world.pending()).values()) == {0}
    await world.timelines.change(delivering=[CACHE.slug])
    await passes(world, 60)
    await world.timelines.change(delivering=[])
    await passes(world, 60)
    await world.timelines.change(delivering=KEEPING)
    await passes(world, CYCLE_S - (world.clock.now() - began).total_seconds())
    for phase in KEEPING:
        assert (await world.page(MANY[0], phase)).statuses[0].text == "delivered later"


async def test_an_hour_leaves_no_more_behind_than_ten_minutes(town: World) -> None:
    found = []
    with patch.object(queue_worker, "OUTAGE_PAUSES_S", [0]):
        for _ in range(CYCLES):
            await ten_minutes(town)
            found.append(await census(town))
    assert await active_count(town.stack) < len(MANY)
    assert found[0].memcached_items
    assert await town.stack.db["events"].count_documents({}) == 0
    assert await town.stack.db["notifications"].count_documents({}) == len(MANY)
    assert found[1:] == [found[1]] * (CYCLES - 1), "the first one still opens files and queues"
