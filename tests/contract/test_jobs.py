"""What a worker makes of the jobs that wait, and what becomes of those that get lost."""

import asyncio
import time
from collections.abc import Callable
from contextlib import AbstractContextManager
from unittest.mock import patch

import pytest
from bson import ObjectId

from app.models import StatusRow
from app.stack.queue import FIRST, JOB_TIMEOUT_S, MORE
from app.stack.queue import jobs as offered
from phases.base import Resume
from phases.p2_push import Push
from phases.switch import Settings
from tests.world import World
from workers.jobs import RUNTIME, Runtime, fan_out

pytestmark = pytest.mark.anyio


@pytest.fixture
async def town(world: World) -> World:
    await world.people("ann", "zoe")
    await world.follow("ann", "zoe")
    await world.timelines.switch(read="cache", delivering=["cache"])
    world.pass_grace()
    await world.warm("ann")
    return world


async def one_job(world: World, status: ObjectId) -> None:
    """As RQ calls it in its thread."""
    runtime = Runtime(world.timelines, asyncio.get_running_loop())

    def call() -> None:
        RUNTIME.set(runtime)
        fan_out("cache", str(status), None)

    await asyncio.to_thread(call)


def meanwhile(happens: Callable[[StatusRow], object]) -> AbstractContextManager[object]:
    """Something happens before each delivery."""
    original = Push.fan_out

    async def and_then(
        phase: Push, status: StatusRow, resume: Resume | None, settings: Settings | None = None
    ) -> Resume | None:
        happened = happens(status)
        if asyncio.iscoroutine(happened):
            await happened
        return await original(phase, status, resume, settings)

    return patch.object(Push, "fan_out", and_then)


async def test_a_job_that_always_fails_is_buried_alone_and_can_be_dug_out(town: World) -> None:
    def poison(status: StatusRow) -> None:
        if status.text == "poison":
            raise ValueError("indigestible")

    with patch.object(offered, "ATTEMPT_PAUSES_S", (0,)), meanwhile(poison):
        for text in ("before", "poison", "after"):
            await town.post("zoe", text)
        await town.drain()
        assert (await town.pending())["cache"] == 1
        assert await town.stack.queue.deliveries(failed=False, limit=10) == []
        [letter] = await town.stack.queue.deliveries(failed=True, limit=10)
        assert (letter.phase, letter.state, letter.attempts_left) == ("cache", "failed", 0)
        assert letter.error == "ValueError: indigestible"
        await town.sees("ann", "after", "poison", "before")
    assert await town.stack.queue.retry_dead_letters() == 1
    await town.drain()
    assert (await town.pending())["cache"] == 0
    assert await town.stack.queue.deliveries(failed=True, limit=10) == []
    await town.sees("ann", "after", "poison", "before")


async def test_redis_that_goes_away_during_a_job_loses_nothing_that_waits(town: World) -> None:
    posted = [await town.post("zoe", f"{n}") for n in range(3)]
    async with town.without_redis():
        await one_job(town, posted[0].id)
    assert (await town.pending())["cache"] == 2
    await town.stack.queue.forget()
    await town.sweep()
    await town.drain()
    assert (await town.pending())["cache"] == 0


def take(world: World, name: str, *, patience_s: float = JOB_TIMEOUT_S) -> str:
    """As RQ begins a job: off its queue and into the registry of those in hand. Its worker says nothing any more."""
    taken = world.stack.queue.queues[name].pop_job_id()
    assert taken
    world.stack.queue.connection.zadd(f"rq:wip:{name}", {f"{taken}:execution": time.time() + patience_s})
    return taken


def keys(world: World, pattern: str) -> list[bytes]:
    return list(world.stack.queue.connection.scan_iter(pattern))


async def three_chunks(world: World) -> list[str]:
    fans = [f"fan{n}" for n in range(3 * world.stack.config.list_chunk)]
    await world.people(*fans)
    for fan in fans:
        await world.follow(fan, "zoe")
    await world.warm(*fans)
    return fans


async def test_a_chunk_that_rq_lost_does_not_block_the_way(town: World) -> None:
    """RQ takes a job off its queue and registers it in two steps; a worker may die between them."""
    fans = await three_chunks(town)
    status = await town.post("zoe", "hello")
    assert town.stack.queue.queues[FIRST].pop_job_id()
    await one_job(town, status.id)
    assert town.stack.queue.queues[MORE].pop_job_id()
    await town.drain()
    assert (await town.pending())["cache"] == 1
    await town.sweep()
    await town.drain()
    assert (await town.pending())["cache"] == 0
    assert [await town.source(fan, "cache") for fan in fans] == ["list"] * len(fans)


@pytest.mark.parametrize("in_hand", [1, 2], ids=["the first chunk", "a further chunk"])
async def test_a_chunk_that_dies_with_its_worker_is_queued_again(town: World, in_hand: int) -> None:
    fans = await three_chunks(town)
    with patch.object(offered, "ATTEMPT_PAUSES_S", (0,) * 5):
        status = await town.post("zoe", "hello")
        if in_hand == 2:
            town.stack.queue.connection.delete(f"rq:job:{town.stack.queue.queues[FIRST].pop_job_id()}")
            await one_job(town, status.id)
        take(town, FIRST if in_hand == 1 else MORE, patience_s=-1)
        assert (await town.pending())["cache"] == 1
        await town.sees(fans[-1], "hello")
        await town.sweep()
        await town.drain()
    assert (await town.pending())["cache"] == 0
    assert keys(town, "rq:job:*") == keys(town, "rq:wip:*") == []
    assert [await town.source(fan, "cache") for fan in fans] == ["list"] * len(fans)


async def test_what_is_in_hand_is_not_lost_for_the_sweeper(town: World) -> None:
    await town.post("zoe", "hello")
    taken = take(town, FIRST)
    await town.sweep()
    assert await town.stack.queue.depth() == {}
    assert [(one.id, one.state) for one in await town.stack.queue.deliveries(failed=False, limit=9)] == [
        (taken, "started")
    ]
