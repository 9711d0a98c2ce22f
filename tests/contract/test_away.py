"""People who go away, and looking at what is kept without touching it."""

import asyncio
from unittest.mock import patch

import pytest

from app.watch.metrics import REGISTRY
from phases.delivering.settings import Settings
from phases.delivering.switch import Switch
from phases.keeping.activity import active_count
from phases.p2_push import PUSH
from phases.p4_cache import CACHE
from phases.p5_stream import STREAM
from phases.timelines import Timelines
from tests.world import IN_WORKER, KEEPING, World
from workers.worker import run_in_thread

pytestmark = pytest.mark.anyio

TOTAL = "feedlab_kept_timeline_lookups_total"


@pytest.fixture
async def town(world: World) -> World:
    names = [f"fan{n}" for n in range(10)]
    await world.sign_up("zoe", *names)
    for name in names:
        await world.follow(name, "zoe")
    await world.warm("zoe", *names)
    return world


async def leave(world: World, share: float = 0.9) -> int:
    async def rest(seconds: float) -> None:
        world.clock.advance(seconds)

    gone = await world.timelines.send_away(share, rest)
    world.pass_grace()
    return gone


async def test_who_is_sent_away_costs_no_delivery_and_misses_nothing(town: World) -> None:
    assert await active_count(town.stack) == 11
    assert await leave(town) == 9
    assert await active_count(town.stack) == 2
    await town.post("zoe", "while they are away")
    await town.drain()
    await town.sees("fan3", "while they are away")
    await town.post("zoe", "they are back")
    await town.drain()
    assert await town.walk("fan3", "cache") == ["they are back", "while they are away"]
    assert await town.source("fan3", "cache") == "list"


async def test_who_returns_while_people_are_sent_away_gets_everything(town: World) -> None:
    """A reader marked active at any moment of it has no list that outlives the mark."""

    async def rest(seconds: float) -> None:
        await town.walk("fan1", "cache")
        town.clock.advance(seconds)
        await town.walk("fan1", "cache")

    await town.timelines.send_away(1.0, rest)
    await town.walk("fan1", "cache")
    town.pass_grace()
    for text in ("one", "two"):
        await town.post("zoe", text)
        await town.drain()
        assert (await town.walk("fan1", "cache"))[0] == text
    await town.sees("fan1", "two", "one")


async def test_what_delivered_before_delivers_afterwards(town: World) -> None:
    await town.timelines.change(read=CACHE.slug, delivering=[PUSH.slug, CACHE.slug])
    town.pass_grace()
    await leave(town)
    state = await town.timelines.state()
    assert (state.read, state.delivering) == (CACHE.slug, (PUSH.slug, CACHE.slug))


@pytest.mark.parametrize("when", ["at the beginning", "at the end"])
@pytest.mark.parametrize("added", [PUSH.slug, STREAM.slug])
async def test_what_somebody_switches_while_people_are_sent_away_stays_switched(
    town: World, when: str, added: str
) -> None:
    """Between the reading of the settings and the writing of them, also a phase that is switched off for it."""
    fresh, administrator = Switch.fresh, Timelines(town.stack)
    begins = asyncio.Event()
    if when == "at the beginning":
        begins.set()

    async def then_switched(self: Switch) -> Settings:
        read = await fresh(self)
        if self is town.timelines.switch and begins.is_set():
            begins.clear()
            await administrator.change(delivering=[added, CACHE.slug])
        return read

    async def rest(seconds: float) -> None:
        town.clock.advance(seconds)
        if when == "at the end":
            begins.set()

    await town.timelines.change(delivering=[CACHE.slug])
    town.pass_grace()
    with patch.object(Switch, "fresh", then_switched):
        await town.timelines.send_away(0.9, rest)
    assert set((await town.timelines.state()).delivering) == {added, CACHE.slug}


async def test_two_who_send_people_away_at_once_leave_everything_delivering(town: World) -> None:
    """The second one comes while the first has switched phases off, and ends last."""
    before, second_rests, first_ended = (await town.timelines.state()).delivering, asyncio.Event(), asyncio.Event()
    second: list[asyncio.Task[int]] = []

    async def until_the_first_has_ended(seconds: float) -> None:
        second_rests.set()
        await first_ended.wait()
        town.clock.advance(seconds)

    async def while_the_second_begins(seconds: float) -> None:
        second.append(asyncio.create_task(town.timelines.send_away(0.9, until_the_first_has_ended)))
        await second_rests.wait()
        town.clock.advance(seconds)

    await town.timelines.send_away(0.9, while_the_second_begins)
    first_ended.set()
    await second[0]
    assert set((await town.timelines.state()).delivering) == set(before)
    town.pass_grace()
    await town.post("zoe", "hello")
    await town.drain()
    await town.sees("fan3", "hello")


async def test_looking_at_what_is_kept_touches_nothing(town: World) -> None:
    status = await town.post("zoe", "hello")
    entries, lists = town.timelines.kept_by(PUSH.slug), town.timelines.kept_by(CACHE.slug)
    assert entries
    assert lists
    fan = town.ids["fan1"]
    assert (await entries.holds(fan, status.id), await lists.holds(fan, status.id)) == (True, False)
    await town.drain()
    assert await lists.holds(fan, status.id) is True
    await town.chill("fan1")
    assert await lists.holds(fan, status.id) is None
    assert await lists.holds(fan, status.id) is None, "nothing has been built by looking"
    later = await town.post("fan1", "nobody follows me")
    assert await entries.holds(town.ids["fan2"], later.id) is False
    async with town.without_memcached():
        assert await lists.holds(fan, status.id) is None


async def test_paused_workers_leave_everything_pending_and_readers_see_it(town: World) -> None:
    """Also what one step would deliver: of more, whoever followed the stream would leave a rest."""
    await town.follow("fan1", "fan2")
    await town.stack.queue.pause()
    await town.post("zoe", "while paused")
    await town.post("fan2", "to one")
    await town.drain()
    assert await town.pending() == {phase: 2 * (phase in IN_WORKER) for phase in KEEPING}
    await town.sees("fan1", "to one", "while paused")
    await town.stack.queue.resume()
    await town.drain()
    assert await town.pending() == dict.fromkeys(KEEPING, 0)


async def test_memcached_counts_hits_and_misses(town: World) -> None:
    before = await town.stack.memcached.stats()
    await town.walk("fan1", "cache")
    await town.stack.memcached.gets("list:nobody")
    after = await town.stack.memcached.stats()
    assert after.hits > before.hits
    assert after.misses > before.misses
    assert after.items >= 1
    assert after.bytes > 0


async def test_a_page_from_the_query_in_an_outage_is_no_hit(town: World) -> None:
    def lookups() -> dict[str, float]:
        labels = ({"phase": CACHE.slug, "result": result} for result in ("hit", "miss", "unused"))
        return {each["result"]: REGISTRY.get_sample_value(TOTAL, each) or 0 for each in labels}

    before = lookups()
    async with town.without_memcached():
        await town.walk("fan1", CACHE.slug)
    await town.walk("fan1", CACHE.slug)
    await town.chill("fan1")
    await town.walk("fan1", CACHE.slug)
    assert {result: n - before[result] for result, n in lookups().items()} == {"hit": 1, "miss": 1, "unused": 1}


async def test_a_paused_worker_hears_that_it_shall_stop(town: World) -> None:
    await town.stack.queue.pause()
    async with asyncio.timeout(20), run_in_thread(town.timelines):
        await town.post("zoe", "while paused")
    assert (await town.pending())["cache"] == 1
    await town.stack.queue.resume()


async def test_workers_are_known_while_they_are_there(town: World) -> None:
    async with run_in_thread(town.timelines), asyncio.timeout(20):
        while not (workers := await town.stack.queue.workers()):  # noqa: ASYNC110
            await asyncio.sleep(0.05)
    assert workers[0].state in ("started", "idle", "busy")
    assert workers[0].pid


async def test_the_log_says_once_that_backfills_wait(world: World, caplog: pytest.LogCaptureFixture) -> None:
    authors = [f"author{n}" for n in range(3)]
    await world.sign_up("ann", *authors)
    await world.timelines.change(read=CACHE.slug, delivering=[CACHE.slug])
    world.pass_grace()
    await world.warm("ann")
    async with world.without_memcached():
        for author in authors[:2]:
            await world.follow("ann", author)
    await world.follow("ann", authors[2])
    away, back = [line for line in caplog.messages if "backfills" in line]
    assert "left to the sweeper" in away
    assert "at once again" in back
