"""Phase 5: what the change stream tells, and what sorted sets in Redis may do."""

import asyncio
from collections.abc import AsyncIterator
from datetime import timedelta
from unittest.mock import patch

import pytest

from app.clock import LAST_ID
from app.stack import QueueDown
from app.stack.cost import counted
from app.stack.mongodb.changes import Inserted
from app.stack.sorted_sets import PLACEHOLDER
from app.watch import metrics
from phases.delivering.delivery import TOGETHER
from phases.keeping.store import Container
from phases.p5_stream import STREAM, tail
from tests.world import World, flush_sets
from workers import sweeper, tailer
from workers.tailer import EVERY_S, LATE_S, LEASE_S, OLD_S, SILENT_S, LeaseLost, StreamLease, Tailer, stream_state

pytestmark = pytest.mark.anyio
P = STREAM.slug


@pytest.fixture
async def town(world: World) -> World:
    """Ann and eight more follow Zoe, and each has a set: three steps of a fan-out. Nothing else delivers."""
    await world.timelines.change(read=P, delivering=[P])
    world.pass_grace()
    names = ["ann", *(f"fan{n}" for n in range(8))]
    await world.sign_up("zoe", *names)
    for name in names:
        await world.follow(name, "zoe")
        await world.page(name, P)
    return world


async def container(world: World) -> Container:
    found = (await world.timelines.switch.fresh()).current(STREAM.keeps or "")
    assert found
    return found


async def kept(world: World, reader: str) -> list[bytes]:
    found = await world.stack.sets.read((await container(world)).name, world.ids[reader], LAST_ID, 99)
    return found.ids if found else []


# Delivering


async def test_a_status_reaches_every_set_by_steps_that_any_worker_takes(town: World) -> None:
    status = await town.post("zoe", "hello")
    await Tailer(town.timelines).reconcile()
    assert [await kept(town, name) for name in ("fan0", "fan7")] == [[status.id.binary], []], "one step, and a job"
    await town.drain()
    assert await kept(town, "fan7") == [status.id.binary]
    assert (await town.pending())[P] == 0
    assert await town.source("fan7", P) == "list"


async def test_what_is_told_twice_or_late_is_there_once(town: World) -> None:
    statuses = [await town.post("zoe", str(n)) for n in range(3)]
    consumer = town.timelines.streamed[0]
    for told in (statuses[1:], statuses[:1], statuses):
        assert await consumer.inserted(told) == {}
    await town.drain()
    assert await kept(town, "fan7") == [status.id.binary for status in reversed(statuses)]
    assert await town.walk("fan7", P) == ["2", "1", "0"]


async def test_more_than_is_done_at_once_is_carried_on_by_one_who_had_no_place(town: World) -> None:
    for n in range(60):
        await town.post("fan0", str(n))
    await Tailer(town.timelines).reconcile()
    assert (await town.pending())[P] == 0
    assert await town.walk("fan0", P, 20) == [str(n) for n in reversed(range(60))]


async def test_what_fails_is_left_to_a_job_of_its_own_or_to_the_sweeper(town: World) -> None:
    async with town.without_redis():
        await town.post("zoe", "while Redis is away")
        await Tailer(town.timelines).reconcile()
        assert await town.walk("ann", P) == ["while Redis is away"]
        assert await town.source("ann", P) == "query"
    assert (await town.pending())[P] == 1
    await town.sweep()
    assert set(await town.stack.queue.depth()) == {P}, "the sweeper queues it, as for every phase"
    await town.drain()
    assert (await town.pending())[P] == 0
    assert await town.walk("fan7", P) == ["while Redis is away"]


async def test_what_fails_has_a_job_of_its_own(town: World) -> None:
    """It is tried, counted and if need be buried like any other, and the stream goes on."""
    await town.post("zoe", "unlucky")
    with patch.object(town.stack.sets, "deliver", side_effect=KeyError("a fault of ours")):
        await Tailer(town.timelines).reconcile()
    assert await town.stack.queue.depth() == {P: 1}
    await town.drain()
    assert await town.walk("ann", P) == ["unlucky"]
    assert (await town.pending())[P] == 0


async def test_a_place_is_noted_after_what_comes_before_is_delivered() -> None:
    done: list[tuple[str, object]] = []

    async def told() -> AsyncIterator[Inserted]:
        for n in range(2):
            yield Inserted([{"_id": n}], {"_data": n})

    async def deliver(inserted: Inserted) -> None:
        done.append(("delivered", inserted.place["_data"]))

    async def save(inserted: Inserted) -> None:
        done.append(("noted", inserted.place["_data"]))

    await tail(told(), deliver, save)
    assert done == [("delivered", 0), ("noted", 0), ("delivered", 1), ("noted", 1)]


# Sets


async def test_a_flushed_redis_costs_one_query_each_and_misses_nothing(town: World) -> None:
    await town.post("zoe", "before")
    await town.drain()
    await flush_sets(town.stack)
    await town.post("zoe", "after")
    await town.drain()
    assert await kept(town, "ann") == [], "nobody makes a set by delivering"
    assert [(await town.page("ann", P)).source for _ in range(2)] == ["rebuilt", "list"]
    assert await town.walk("ann", P) == ["after", "before"]


async def test_a_set_ends_with_its_readers_activity_and_reading_renews_it(town: World) -> None:
    config = town.stack.config
    for _ in range(3):
        town.clock.advance(config.timeline_ttl_s * 0.9)
        assert await town.source("ann", P) == "list"
    await town.post("zoe", "hello")
    await town.drain()
    with counted() as cost:
        assert await town.source("ann", P) == "list"
    assert cost.redis == 1, "nothing to renew"
    assert await kept(town, "ann")
    town.clock.advance(config.timeline_ttl_s + 1)
    assert await town.source("ann", P) == "rebuilt", "expired by our clock, whatever Redis says"
    assert await town.walk("fan3", P) == ["hello"]


async def test_a_backfill_prolongs_no_set_and_breaks_a_rebuild(town: World) -> None:
    await town.sign_up("yan")
    status = await town.post("yan", "before")
    await town.drain()
    at, ann = (await container(town)).name, town.ids["ann"]
    before = await town.stack.sets.read(at, ann, LAST_ID, 9)
    assert before
    town.clock.advance(1_000)
    await town.follow("ann", "yan")
    assert await town.stack.sets.read(at, ann, LAST_ID, 9) == (before.trailer, [status.id.binary])
    await town.stack.sets.forget(at, ann)
    placeholder = before.trailer._replace(state=PLACEHOLDER)
    assert await town.stack.sets.lease(at, ann, placeholder, 60_000, 0)
    await town.relations.unfollow(ann, town.ids["yan"])
    await town.follow("ann", "yan")
    assert not await town.stack.sets.fill(at, ann, before.trailer, 60_000, [], 10)
    assert await town.walk("ann", P) == ["before"]


# Who follows


async def leases(world: World, n: int = 2) -> list[StreamLease]:
    return [StreamLease(world.stack, f"host:{number}") for number in range(n)]


async def test_one_at_a_time(world: World) -> None:
    one, two = await leases(world)
    assert await one.take()
    for _ in range(20):
        await one.renew({"_data": "a"})
        assert not await two.take()
        world.clock.advance(EVERY_S)
    await one.release(idle=False)
    assert await two.take()
    assert two.fence == one.fence + 1
    assert two.place == {"_data": "a"}


async def test_to_take_the_lease_again_and_again_is_no_sign_of_life(town: World) -> None:
    """What is found at a place may be what ends the tailer, each time."""
    one, two = await leases(town)
    assert await one.take()
    await one.renew({"_data": "a"})
    for _ in range(3):
        town.clock.advance(SILENT_S / 2)
        await one.release(idle=False)
        assert await two.take()
        one, two = two, one
    state = await stream_state(town.timelines)
    assert state
    assert state.is_silent
    await one.release(idle=True)
    assert await two.take(), "nobody had to follow"
    state = await stream_state(town.timelines)
    assert state
    assert not state.is_silent


async def test_a_backlog_that_is_carried_on_is_a_sign_of_life(town: World) -> None:
    (one,) = await leases(town, 1)
    assert await one.take()
    for moved, silent in ((True, False), (False, True)):
        for _ in range(5):
            town.clock.advance(SILENT_S / 3)
            await one.renew(None, moved=moved)
        state = await stream_state(town.timelines)
        assert state
        assert state.is_silent == silent


async def test_from_an_old_place_nobody_goes_on(town: World) -> None:
    """The log since then may be longer than a command may take; what is pending is found by its index."""
    one, two = await leases(town)
    for passed_s, place in ((1, {"_data": "a"}), (OLD_S + 1, None)):
        assert await one.take()
        await one.renew({"_data": "a"}, moved=True)
        await one.release(idle=True)
        town.clock.advance(passed_s)
        assert await two.take()
        assert two.place == place
        await two.release(idle=True)


async def test_a_backlog_is_left_to_whoever_comes_next(town: World) -> None:
    """By a process that has to end, by paused workers, and by an owner that has been taken over."""
    for n in range(60):
        await town.post("fan0", str(n))

    async def once() -> bool:
        return False

    assert not await Tailer(town.timelines).reconcile(once)
    assert (await town.pending())[P] == 60 - TOGETHER
    assert await Tailer(town.timelines).reconcile()
    assert (await town.pending())[P] == 0


async def test_what_is_pending_is_carried_on_unless_workers_are_paused(town: World) -> None:
    """Also while Redis cannot say whether they are, and for a phase that has just been switched off."""
    await town.post("fan0", "while they are paused")
    await town.stack.queue.pause()
    await Tailer(town.timelines).poll()
    assert (await town.pending())[P] == 1
    with patch.object(town.stack.queue, "paused", side_effect=QueueDown):
        await Tailer(town.timelines).poll()
    assert (await town.pending())[P] == 0
    await town.stack.queue.resume()
    await town.timelines.change(delivering=[])
    await town.post("fan0", "by a process that may not know it yet")
    assert (await town.pending())[P] == 1
    await Tailer(town.timelines).poll()
    assert (await town.pending())[P] == 0


async def test_what_is_told_late_and_was_delivered_meanwhile_is_not_delivered_again(town: World) -> None:
    status = await town.post("zoe", "hello")
    document = await town.stack.db["statuses"].find_one({"_id": status.id})
    await town.drain()
    late = Inserted([document or {}], {"_data": "a"}, town.clock.now() - timedelta(seconds=LATE_S + 1))
    with patch.object(town.stack.sets, "deliver", side_effect=AssertionError("again")):
        await Tailer(town.timelines)._deliver(late)
    assert await town.stack.queue.depth() == {}


@pytest.mark.parametrize("loop", ["sweeper", "tailer"])
async def test_a_fault_that_nobody_thought_of_ends_neither_sweeper_nor_tailer(town: World, loop: str) -> None:
    again, faults = asyncio.Event(), iter([KeyError("phases")])

    async def faulty(*_: object) -> None:
        for fault in faults:
            raise fault
        again.set()

    def errors() -> float:
        work = "sweep" if loop == "sweeper" else "stream"
        return metrics.REGISTRY.get_sample_value("feedlab_background_errors_total", {"work": work}) or 0

    running, before = Tailer(town.timelines), errors()
    with (
        patch.multiple(sweeper, EVERY_S=0, sweep=faulty),
        patch.object(tailer, "EVERY_S", 0.01),
        patch.object(Tailer, "_turn", faulty),
    ):
        of_it = sweeper.sweep_forever(town.timelines) if loop == "sweeper" else running.forever()
        task = asyncio.create_task(of_it)
        await asyncio.wait_for(again.wait(), 30)
        running.stopping.set()
        task.cancel()
        await asyncio.wait([task])
    assert errors() == before + 1


async def test_who_says_nothing_for_long_is_taken_over_and_notes_nothing_any_more(world: World) -> None:
    one, two, three = await leases(world, 3)
    assert await one.take()
    await one.renew({"_data": "a"})
    waited_s = 0.0
    while not await two.take():
        world.clock.advance(EVERY_S)
        waited_s += EVERY_S
        assert not await three.take() or waited_s > LEASE_S
    assert LEASE_S < waited_s <= LEASE_S + 2 * EVERY_S
    assert not await three.take(), "it was looked at before, and has changed since"
    with pytest.raises(LeaseLost):
        await one.renew({"_data": "late"})
    await one.release(idle=False)
    await two.renew({"_data": "b"})
    await two.release(idle=False)
    assert await three.take()
    assert three.place == {"_data": "b"}


async def test_a_silent_stream_shows(town: World) -> None:
    assert await stream_state(town.timelines) is None, "nobody has followed it yet"
    (lease,) = await leases(town, 1)
    assert await lease.take()
    await lease.renew({"_data": "a"}, 0.25)
    for moves in (True, False):
        for n in range(20):
            town.clock.advance(EVERY_S)
            await lease.renew({"_data": f"{n}" if moves else "19"}, 0.25)
        state = await stream_state(town.timelines)
        assert state
        assert (state.owner, state.lag_s, state.is_silent) == ("host:0", 0.25, not moves)
    await town.timelines.change(delivering=[])
    town.pass_grace()
    assert await stream_state(town.timelines) is None, "nobody has to follow it"
