"""What a worker makes of the jobs that wait: many in one turn, each still counted, given back and buried by itself."""

import asyncio
from collections.abc import Callable
from contextlib import AbstractContextManager, ExitStack
from unittest.mock import patch

import pytest
import redis
from bson import ObjectId

from app.models import StatusRow
from app.stack import queue
from phases.base import Resume
from phases.p2_push import Push
from phases.switch import Settings
from tests.world import World
from workers import jobs
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


async def one_job(world: World, status: ObjectId, *, whole: bool = True) -> None:
    """As RQ calls it in its thread; not `whole`: and nothing of what waits behind it."""
    runtime = Runtime(world.timelines, asyncio.get_running_loop())

    def call() -> None:
        RUNTIME.set(runtime)
        fan_out("cache", str(status), None)

    with patch.object(jobs, "TURN_S", jobs.TURN_S if whole else -1):
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
    assert keys(town, "rq:job:*") == keys(town, "rq:wip:*") == []
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


async def test_small_deliveries_and_a_large_one_take_turns(town: World) -> None:
    """Rule 7. Neither waits for more than the chunks of one round, however many small ones are posted."""
    await three_chunks(town)
    await town.people("yan")
    rounds: list[list[str]] = []
    take_some = town.stack.queue.take_some

    async def noted(first_chunks: int, *, alone: bool) -> list[queue.Chunk]:
        if len(rounds) < 6:
            await town.post("yan", "small")
        chunks = await take_some(first_chunks, alone=alone)
        rounds.append(["large" if chunk.resume else "small" for chunk in chunks])
        return chunks

    large = await town.post("zoe", "large")
    await town.stack.queue.settle(await take_some(1), [], None)
    with patch.object(town.stack.queue, "take_some", noted):
        await one_job(town, large.id)
    assert rounds == [["small"], ["small", "large"]] * 3 + [[]]


def abandoned() -> AbstractContextManager[object]:
    """What is taken is taken for abandoned at once, and tried again without a pause."""
    patches = ExitStack()
    patches.enter_context(patch.object(queue, "TAKEN_S", -1))
    patches.enter_context(patch.object(queue, "ATTEMPT_PAUSES_S", (0,) * 5))
    return patches


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
    [first] = await town.stack.queue.take_some(9)
    await one_job(town, status.id, whole=False)
    await town.stack.queue.settle([first], [], None)
    assert town.stack.queue.queues[queue.MORE].pop_job_id()
    await town.drain()
    assert (await town.pending())["cache"] == 1
    await town.sweep()
    await town.drain()
    assert (await town.pending())["cache"] == 0
    assert [await town.source(fan, "cache") for fan in fans] == ["list"] * len(fans)


@pytest.mark.parametrize("in_hand", [1, 2], ids=["the first chunk", "a further chunk"])
async def test_a_chunk_that_dies_with_its_worker_is_queued_again(town: World, in_hand: int) -> None:
    fans = await three_chunks(town)
    with abandoned():
        status = await town.post("zoe", "hello")
        [chunk] = await town.stack.queue.take_some(9)
        if in_hand == 2:
            await one_job(town, status.id, whole=False)
            await town.stack.queue.settle([chunk], [], None)
            [chunk] = await town.stack.queue.take_some(9)
            assert chunk.resume
        assert (await town.pending())["cache"] == 1
        await town.sees(fans[-1], "hello")
        await town.sweep()
        await town.drain()
    assert (await town.pending())["cache"] == 0
    assert keys(town, "rq:job:*") == keys(town, "rq:wip:*") == []
    assert [await town.source(fan, "cache") for fan in fans] == ["list"] * len(fans)


async def test_what_is_in_hand_is_not_lost_for_the_sweeper(town: World) -> None:
    await town.post("zoe", "hello")
    [chunk] = await town.stack.queue.take_some(9)
    await town.sweep()
    assert await town.stack.queue.depth() == {}
    assert [(one.id, one.state) for one in await town.stack.queue.deliveries(failed=False, limit=9)] == [
        (chunk.id, "started")
    ]
    await town.stack.queue.settle([], [chunk], None)
    assert await town.stack.queue.depth() == {"cache": 1}
    await town.drain()
    assert (await town.pending())["cache"] == 0


async def test_a_job_that_hangs_in_a_turn_goes_back_and_blames_nobody_else(town: World) -> None:
    async def hang(status: StatusRow) -> None:
        if status.text == "hangs":
            await asyncio.sleep(60)

    first, _ = await town.post("zoe", "first"), await town.post("zoe", "hangs")
    with patch.object(jobs, "TAKEN_TIMEOUT_S", 2), meanwhile(hang):
        await one_job(town, first.id)
    assert (await town.pending())["cache"] == 1
    assert await town.stack.queue.depth() == {"cache": 1}
    await town.drain()
    assert (await town.pending())["cache"] == 0


async def test_redis_that_fails_when_a_turn_is_settled_delays_and_loses_nothing(town: World) -> None:
    def down(*_: object) -> None:
        raise redis.ConnectionError("stopped by the test")

    with abandoned():
        posted = [await town.post("zoe", f"{n}") for n in range(3)]
        with patch.object(town.stack.queue, "_settle", down):
            await one_job(town, posted[0].id)
        await town.sweep()
        await town.drain()
    assert (await town.pending())["cache"] == 0
    assert keys(town, "rq:job:*") == keys(town, "rq:wip:*") == []
    await town.sees("ann", "2", "1", "0")
