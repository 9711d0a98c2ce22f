"""What a worker makes of the jobs that wait: many in one turn, each still counted, given back and buried by itself."""

import asyncio
from collections.abc import Callable
from contextlib import AbstractContextManager
from unittest.mock import patch

import pytest
from bson import ObjectId

from app.models import StatusRow
from app.stack import queue
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


async def test_one_job_delivers_what_waits_behind_it_and_leaves_nothing_in_redis(town: World) -> None:
    posted = [await town.post("zoe", f"{n}") for n in range(20)]
    await one_job(town, posted[7].id)
    assert (await town.pending())["cache"] == 0
    assert await town.stack.queue.depth() == {}
    assert list(town.stack.queue.connection.scan_iter("rq:job:*")) == []
    assert await town.walk("ann", "cache") == [f"{n}" for n in reversed(range(20))]


async def test_what_is_posted_during_a_job_is_delivered_by_it(town: World) -> None:
    first = await town.post("zoe", "first")

    async def post_once(status: StatusRow) -> None:
        if status.text == "first" and (await town.pending())["cache"] == 1:
            await town.post("zoe", "meanwhile")

    with meanwhile(post_once):
        await one_job(town, first.id)
    assert (await town.pending())["cache"] == 0


async def test_a_pause_ends_the_turn_after_the_chunk_at_hand(town: World) -> None:
    posted = [await town.post("zoe", f"{n}") for n in range(20)]
    with meanwhile(lambda _: town.stack.queue.pause()):
        await one_job(town, posted[0].id)
    assert (await town.pending())["cache"] == 19
    await town.stack.queue.resume()
    await town.drain()
    assert (await town.pending())["cache"] == 0


async def test_a_job_that_always_fails_is_buried_alone_and_can_be_dug_out(town: World) -> None:
    def poison(status: StatusRow) -> None:
        if status.text == "poison":
            raise ValueError("indigestible")

    with patch.object(queue, "ATTEMPT_PAUSES_S", (0,)), meanwhile(poison):
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


async def test_redis_that_goes_away_during_a_job_ends_the_turn_and_the_sweeper_finds_the_rest(town: World) -> None:
    posted = [await town.post("zoe", f"{n}") for n in range(3)]
    async with town.without_redis():
        await one_job(town, posted[0].id)
    assert (await town.pending())["cache"] == 2
    await town.stack.queue.forget()
    await town.sweep()
    await town.drain()
    assert (await town.pending())["cache"] == 0


async def test_jobs_that_die_with_their_worker_are_queued_again(town: World) -> None:
    for n in range(3):
        await town.post("zoe", f"{n}")
    assert len(await town.stack.queue.take_some(2)) == 2
    await town.drain()
    assert (await town.pending())["cache"] == 2
    await town.sees("ann", "2", "1", "0")
    await town.sweep()
    await town.drain()
    assert (await town.pending())["cache"] == 0
    assert list(town.stack.queue.connection.scan_iter("rq:job:*")) == []
