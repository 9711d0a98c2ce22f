"""What a worker makes of the jobs that wait: many in one, each still counted, tried again and buried by itself."""

import asyncio
from collections.abc import Callable
from contextlib import AbstractContextManager
from typing import Any
from unittest.mock import patch

import pytest
import redis
from bson import ObjectId
from pymongo.errors import OperationFailure
from rq import SimpleWorker

from app.models import StatusRow
from app.stack import MemcachedDown, queue
from app.stack.queue import worker as queue_worker
from app.stack.queue.delivery_queue import AWAY_S
from app.stack.queue.strict import StrictJob
from app.watch.metrics import REGISTRY
from phases.delivering import delivery
from phases.delivering.delivery import Delivery
from phases.p4_cache import CACHE
from tests.waiting import eventually
from tests.world import World
from workers import jobs, sampler, sweeper
from workers.jobs import RUNTIME, Runtime, fan_out
from workers.worker import run_in_thread

pytestmark = pytest.mark.anyio


@pytest.fixture
async def town(world: World) -> World:
    await world.sign_up("ann", "zoe")
    await world.follow("ann", "zoe")
    await world.timelines.change(read=CACHE.slug, delivering=[CACHE.slug])
    world.pass_grace()
    await world.warm("ann")
    return world


async def owed(town: World) -> int:
    return (await town.pending())[CACHE.slug]


async def one_job(world: World, status: ObjectId, runtime: Runtime | None = None) -> None:
    """As RQ calls it in its thread."""
    of_a_worker = runtime or Runtime(world.timelines, asyncio.get_running_loop())

    def call() -> None:
        RUNTIME.set(of_a_worker)
        fan_out(CACHE.slug, str(status), None)

    await asyncio.to_thread(call)


def meanwhile(happens: Callable[[StatusRow], object]) -> AbstractContextManager[object]:
    """Something happens before each delivery."""
    put = Delivery.put

    async def and_then(self: Delivery, status: StatusRow, *more: Any) -> None:
        happened = happens(status)
        if asyncio.iscoroutine(happened):
            await happened
        await put(self, status, *more)

    return patch.object(Delivery, "put", and_then)


async def test_one_job_delivers_what_was_posted_behind_it(town: World) -> None:
    posted = [await town.post("zoe", f"{n}") for n in range(delivery.TOGETHER + 4)]
    await one_job(town, posted[0].id)
    assert await owed(town) == 4
    assert town.stack.queue.queues[queue.FIRST].count == 1 + 4, "its own, which RQ has not taken here, and those left"
    await town.drain()
    assert await owed(town) == 0
    assert keys(town, "rq:job:*") == []
    assert await town.walk("ann", CACHE.slug) == [f"{n}" for n in reversed(range(delivery.TOGETHER + 4))]


async def test_a_worker_that_waits_for_a_job_does_none_after_a_pause(town: World) -> None:
    stack = town.stack

    async def one_waits() -> bool:
        return [worker.state for worker in await stack.queue.workers()] == ["idle"]

    async def none_is_there() -> bool:  # in a thread one that is paused ends
        return not await stack.queue.workers()

    async def nothing_is_owed() -> bool:
        return not await owed(town)

    async with run_in_thread(town.timelines):
        await eventually(one_waits)
        await stack.queue.pause()
        await town.post("zoe", "while paused")
        await eventually(none_is_there)
        assert await owed(town) == 1
        assert await stack.queue.depth() == {CACHE.slug: 1}
        await stack.queue.resume()
        await eventually(nothing_is_owed)


async def test_a_large_delivery_that_is_begun_beside_a_job_goes_on_by_itself(town: World) -> None:
    fans = await three_chunks(town)
    await town.sign_up("yan")
    small = await town.post("yan", "small")
    large = await town.post("zoe", "large")
    await one_job(town, small.id)
    assert (town.stack.queue.queues[queue.FIRST].count, town.stack.queue.queues[queue.MORE].count) == (1, 1)
    assert await owed(town) == 1
    await town.drain()
    assert await owed(town) == 0
    lists = town.timelines.kept_by(CACHE.slug)
    assert lists
    assert [await lists.holds(town.ids[fan], large.id) for fan in fans] == [True] * len(fans)


async def test_a_job_that_always_fails_is_buried_alone_and_can_be_dug_out(town: World) -> None:
    def poison(status: StatusRow) -> None:
        if status.text == "poison":
            raise ValueError("indigestible")

    with patch.object(StrictJob, "attempt_pauses_s", (0,)), meanwhile(poison):
        for text in ("before", "poison", "after"):
            await town.post("zoe", text)
        await town.drain()
        assert await owed(town) == 1
        assert await town.stack.queue.deliveries(failed=False, limit=10) == []
        [letter] = await town.stack.queue.deliveries(failed=True, limit=10)
        assert (letter.consumer, letter.state, letter.attempts_left) == (CACHE.slug, "failed", 0)
        assert letter.error == "ValueError: indigestible"
        await town.sees("ann", "after", "poison", "before")
    assert await town.stack.queue.retry_dead_letters() == 1
    await town.drain()
    assert await owed(town) == 0
    assert await town.stack.queue.deliveries(failed=True, limit=10) == []
    await town.sees("ann", "after", "poison", "before")


async def test_a_server_that_says_by_a_code_that_it_is_away_buries_nothing(town: World) -> None:
    """A router whose shard has no primary now."""
    refused = [OperationFailure("Could not find host matching read preference", 133)] * 3

    def refuse(status: StatusRow) -> None:
        if refused:
            raise refused.pop()

    with (
        patch.object(queue_worker, "OUTAGE_PAUSES_S", [0]),
        patch.object(StrictJob, "attempt_pauses_s", (0,)),
        meanwhile(refuse),
    ):
        await town.post("zoe", "hello")
        await town.drain()
    assert not refused
    assert await town.stack.queue.dead() == {}
    assert await owed(town) == 0


async def test_dead_letters_hold_up_nothing_that_is_lost_behind_them(town: World) -> None:
    """A sweep looks at so many, the next one at those behind them, and at the end it begins anew."""

    def poison(status: StatusRow) -> None:
        if status.text == "buried":
            raise ValueError("indigestible")

    with patch.object(sweeper, "AT_ONCE", 3):
        with patch.object(StrictJob, "attempt_pauses_s", (0,)), meanwhile(poison):
            for _ in range(3):
                await town.post("zoe", "buried")
            await town.drain()
        assert {name: len(ids) for name, ids in (await town.stack.queue.dead()).items()} == {CACHE.slug: 3}
        async with town.without_redis():
            await town.post("zoe", "lost")
        for _ in range(2):
            await town.sweep()
            await town.drain()
        assert await owed(town) == 3
        await town.stack.queue.forget()
        await town.sweep()
        await town.drain()
        assert await owed(town) == 0
    await town.sees("ann", "lost", *["buried"] * 3)


async def test_a_dead_letter_is_not_late_and_hides_nothing_that_is(town: World) -> None:
    """It is pending for as long as nobody has it tried again, and has an alert of its own."""

    async def oldest_s() -> float | None:
        await sampler.sample(town.timelines)
        return REGISTRY.get_sample_value("feedlab_oldest_pending_seconds", {"consumer": CACHE.slug})

    def poison(status: StatusRow) -> None:
        raise ValueError("indigestible")

    with patch.object(StrictJob, "attempt_pauses_s", (0,)), meanwhile(poison):
        for _ in range(2):
            await town.post("zoe", "buried")
        await town.drain()
    town.clock.advance(3_600)
    assert await owed(town) == 2
    assert await oldest_s() == 0
    await town.post("zoe", "late")
    town.clock.advance(90)
    assert 90 <= (await oldest_s() or 0) <= 91
    await town.stack.queue.retry_dead_letters()
    assert (await oldest_s() or 0) > 3_600, "it is owed like any other again"


async def test_a_delivery_that_takes_too_long_is_tried_again_and_not_buried(town: World) -> None:
    """No server is away, but one is slow."""
    slow = 3

    async def waits(status: StatusRow) -> None:
        nonlocal slow
        if slow:
            slow -= 1
            await asyncio.sleep(60)

    assert jobs.PATIENCE_S < queue.JOB_TIMEOUT_S
    with (
        patch.object(jobs, "PATIENCE_S", 0.1),
        patch.object(queue_worker, "OUTAGE_PAUSES_S", [0]),
        patch.object(StrictJob, "attempt_pauses_s", (0,)),
        meanwhile(waits),
    ):
        await town.post("zoe", "hello")
        await town.drain()
    assert slow == 0
    assert await town.stack.queue.dead() == {}
    assert await owed(town) == 0


async def test_of_a_delivery_that_was_tried_again_nothing_stays_in_redis(town: World) -> None:
    """RQ keeps what each attempt has returned for as long as a dead letter, unless it is told not to."""
    outages = 3

    def away(status: StatusRow) -> None:
        nonlocal outages
        if status.text == "in an outage" and outages:
            outages -= 1
            raise MemcachedDown("stopped by the test")
        if status.text == "buried":
            raise ValueError("indigestible")

    with patch.object(queue_worker, "OUTAGE_PAUSES_S", [0]), patch.object(StrictJob, "attempt_pauses_s", (0,)):
        with meanwhile(away):
            await town.post("zoe", "in an outage")
            await town.drain()
            await town.post("zoe", "buried")
            await town.drain()
        assert await town.stack.queue.retry_dead_letters() == 1
        await town.drain()
    assert outages == 0
    assert await owed(town) == 0
    assert [key for key in keys(town, "*") if b"rq:results" in key or b"rq:job" in key] == []


async def test_a_delivery_that_hangs_beside_a_job_delays_no_other(town: World) -> None:
    async def hang(status: StatusRow) -> None:
        if status.text == "hangs":
            await asyncio.sleep(60)

    first, _, _ = [await town.post("zoe", text) for text in ("first", "hangs", "last")]
    with patch.object(delivery, "PATIENCE_S", 2.0), meanwhile(hang):
        await one_job(town, first.id)
    assert await owed(town) == 1
    await town.drain()
    assert await owed(town) == 0


@pytest.mark.parametrize(("waiting", "left"), [(False, 0), (True, 1)])
async def test_a_job_walks_on_while_nobody_waits(town: World, waiting: bool, left: int) -> None:
    await three_chunks(town)
    large = await town.post("zoe", "large")
    assert town.stack.queue.queues[queue.FIRST].pop_job_id()
    if waiting:
        await town.timelines.outbox.consumers[CACHE.slug].hand_over(StatusRow(ObjectId(), large.user_id, "", None))
    await one_job(town, large.id)
    assert town.stack.queue.queues[queue.MORE].count == await owed(town) == left


async def test_what_is_posted_during_a_large_delivery_is_delivered_beside_its_next_step(town: World) -> None:
    """Rule 7. It waits neither for the large one nor for a job of its own."""
    await three_chunks(town)
    await town.sign_up("yan")
    steps: list[str] = []

    async def noted(status: StatusRow) -> None:
        steps.append(status.text)
        if len(steps) == 1:
            await town.post("yan", "small")

    large = await town.post("zoe", "large")
    assert town.stack.queue.queues[queue.FIRST].pop_job_id()
    with meanwhile(noted):
        await one_job(town, large.id)
    assert sorted(steps[1:3]) == ["large", "small"]
    assert steps[3:] == ["large"]
    assert await owed(town) == 0


async def test_a_walk_whose_next_job_cannot_be_queued_goes_on_where_it_was(town: World) -> None:
    """Rule 6. Nobody else knows where: the sweeper would begin with the first recipient of a million."""
    await three_chunks(town)
    offered, put = town.stack.queue._offer, Delivery.put
    steps: list[list[ObjectId]] = []
    outages = 1

    def away(consumer: str, happened: ObjectId, after: ObjectId | None) -> bool:
        nonlocal outages
        if len(steps) == 2 and outages:
            outages -= 1
            raise redis.ConnectionError("stopped by the test")
        return offered(consumer, happened, after)

    async def noted(self: Delivery, status: StatusRow, readers: list[ObjectId]) -> None:
        steps.append(readers)
        town.clock.advance(AWAY_S)
        await put(self, status, readers)

    await town.post("zoe", "large")
    with (
        patch.object(jobs, "TURN_S", 0),
        patch.object(queue_worker, "OUTAGE_PAUSES_S", [0]),
        patch.object(town.stack.queue, "_offer", away),
        patch.object(Delivery, "put", noted),
    ):
        await town.drain()
    first, second, again, third = steps
    assert second == again
    assert first < second < third, "the second one again, and not the first"
    assert await owed(town) == 0


async def test_a_walk_that_another_one_has_ended_goes_no_further(town: World) -> None:
    """A sweeper has queued it again, say, and that one was faster."""
    await three_chunks(town)
    large = await town.post("zoe", "large")
    with patch.object(jobs, "TURN_S", 0):
        await one_job(town, large.id)
    assert town.stack.queue.queues[queue.MORE].count == 1
    await town.timelines.outbox.done(CACHE.slug, [large.id])
    with meanwhile(lambda status: pytest.fail(f"{status.text} again")):
        await town.drain()
    assert town.stack.queue.queues[queue.MORE].count == 0


async def test_small_deliveries_and_a_large_one_take_turns(town: World) -> None:
    """Rule 7. Neither waits for the whole of the other, however many small ones are posted."""
    await three_chunks(town)
    await town.sign_up("yan")
    steps: list[str] = []

    async def noted(status: StatusRow) -> None:
        steps.append(status.text)
        if len(steps) < 12:
            await town.post("yan", "small")

    await town.post("zoe", "large")
    with meanwhile(noted):
        await town.drain()
    assert steps.count("large") == 3
    assert steps.index("small") < 3
    assert len(steps) - 1 - steps[::-1].index("large") < 10, "the large one is not last"


def keys(world: World, pattern: str) -> list[bytes]:
    return list(world.stack.queue.connection.scan_iter(pattern))


async def three_chunks(world: World) -> list[str]:
    """Ann and these follow Zoe."""
    fans = [f"fan{n}" for n in range(3 * world.stack.config.list_chunk - 1)]
    await world.sign_up(*fans)
    for fan in fans:
        await world.follow(fan, "zoe")
    await world.warm(*fans)
    return fans


async def test_a_job_that_rq_lost_does_not_block_the_way(town: World) -> None:
    """RQ takes a job off its queue and registers it in two steps; a worker may die between them."""
    fans = await three_chunks(town)
    status = await town.post("zoe", "hello")
    assert town.stack.queue.queues[queue.FIRST].pop_job_id()
    with patch.object(jobs, "TURN_S", 0):
        await one_job(town, status.id)
    assert town.stack.queue.queues[queue.MORE].pop_job_id()
    await town.drain()
    assert await owed(town) == 1
    await town.sees(fans[-1], "hello")
    await town.warm(fans[-1])
    await town.sweep()
    await town.drain()
    assert await owed(town) == 0
    assert [await town.source(fan, CACHE.slug) for fan in fans] == ["list"] * len(fans)


async def test_a_job_of_a_killed_worker_is_done_by_another_and_buried_by_none(town: World) -> None:
    """What a worker was at expires a minute before the job stops listing it, and RQ looks up whatever is listed."""

    def killed(*_: object, **__: object) -> None:
        raise KeyboardInterrupt  # its worker ends there and then

    await town.post("zoe", "hello")
    with patch.object(SimpleWorker, "perform_job", killed):
        await town.drain()
    connection, [begun] = town.stack.queue.connection, keys(town, "rq:execution:*")
    connection.delete(begun)  # as when its worker has said nothing for long enough
    started = town.stack.queue.queues[queue.FIRST].started_job_registry
    [entry] = started.get_job_and_execution_ids(cleanup=False)
    connection.zadd(started.key, {":".join(entry): 1})
    with patch.object(StrictJob, "attempt_pauses_s", (0, 0)):
        started.cleanup()
        assert await town.stack.queue.depth() == {CACHE.slug: 1}, "it is queued again"
        assert keys(town, "rq:executions:*"), "and lists what it knows no more of"
        await town.drain()
    assert await owed(town) == 0
    assert await town.stack.queue.dead() == {}
    assert keys(town, "rq:executions:*") == []
