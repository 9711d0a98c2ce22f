"""Stories that were found by playing, or by thinking about what was played; each broke a rule once."""

import asyncio
import gc
from types import ModuleType
from typing import Any
from unittest.mock import patch

import pytest
from pymongo.errors import AutoReconnect

from app.social.statuses import Statuses
from app.stack.mongodb.find import together
from phases.delivering import switch
from phases.delivering.settings import Settings
from phases.delivering.switch import Switch
from phases.keeping import lists
from phases.keeping.entries import Entries
from phases.keeping.store import Container
from phases.p2_push import PUSH
from phases.p4_cache import CACHE
from phases.p6_hybrid import HYBRID
from phases.pulling import markers
from phases.pulling.markers import KNOWN_S
from phases.timelines import Timelines
from tests.world import IN_WORKER, KEEPING, SLUGS, World

pytestmark = pytest.mark.anyio


async def test_a_floor_that_was_forgotten_stays_forgotten(world: World) -> None:
    """Rule 3. A long backfill raises the floor, but there may be none any more, and then others skipped theirs."""
    await world.sign_up("ann", "yan", "zoe")
    for n in range(12):  # more than the cap
        await world.post("yan", f"yan {n}")
    await world.post("zoe", "zoe")
    await world.drain()
    await world.warm("ann")
    container = (await world.timelines.switch.fresh()).current(PUSH.keeps or "")
    assert container
    insert = Entries.insert
    raced: list[bool] = []

    async def forgotten_meanwhile(self: Entries, where: Container, documents: list[dict[str, object]]) -> None:
        await insert(self, where, documents)
        if not raced:
            raced.append(True)
            await self.forget(where, world.ids["ann"])
            await world.follow("ann", "zoe")

    with patch.object(Entries, "insert", forgotten_meanwhile):
        await world.follow("ann", "yan")
    assert raced
    expected = ["zoe", *(f"yan {n}" for n in reversed(range(12)))]
    for phase in SLUGS:
        assert await world.walk("ann", phase) == expected, phase


async def test_a_switch_that_takes_longer_than_the_grace_loses_nothing(world: World) -> None:
    """Rule 3. `since` was chosen before a server hung, and is over when the others hear of it."""
    await world.sign_up("ann", "zoe")
    await world.follow("ann", "zoe")
    await world.timelines.change(delivering=[])
    world.pass_grace()
    other = await Timelines.open(world.stack)
    begin = Entries.begin

    async def hangs(self: Entries, container: Container) -> None:
        await begin(self, container)
        world.clock.advance(world.stack.config.grace_s + 3)
        await other.switch.current()

    with patch.object(Entries, "begin", hangs):
        await world.timelines.change(delivering=list(KEEPING))
    for phase in KEEPING:
        await world.page("ann", phase)  # by a process that knows: a list is built, and read
    await Statuses(world.stack, other.outbox).post(world.ids["zoe"], "posted by one who does not know")
    for phase in SLUGS:
        assert await world.walk("ann", phase) == ["posted by one who does not know"], phase


async def test_settings_that_take_long_to_read_are_used_all_the_same(world: World) -> None:
    """A read of them that takes longer than they may be old must not be repeated for ever."""
    fresh, reads = Switch.fresh, 0

    async def slow(self: Switch) -> Settings:
        nonlocal reads
        reads += 1
        assert reads < 5, "for ever"
        found = await fresh(self)
        world.clock.advance(self._config.settings_age_s + 0.1)
        return found

    world.clock.advance(1)
    with patch.object(Switch, "fresh", slow):
        await world.timelines.switch.current()
    assert reads


@pytest.mark.parametrize("settings", [{"timeline_ttl_s": 60, "activity_slack_s": 10, "lease_s": 300}])
async def test_a_list_never_outlives_its_readers_activity_however_long_a_rebuild_takes(world: World) -> None:
    await world.sign_up("ann", "zoe")
    await world.follow("ann", "zoe")
    world.clock.advance(5)
    kept = world.timelines.kept_by(CACHE.slug)
    assert kept
    admit = kept.recipients.admit

    async def then_slow(*reader: Any) -> object:
        done = await admit(*reader)
        world.clock.advance(9)
        return done

    await world.warm("ann")
    await world.chill("ann")
    world.clock.advance(5)
    with patch.object(kept.recipients, "admit", then_slow):
        await world.page("ann", "cache")
    active = await world.stack.db["active_readers"].find_one({"_id": world.ids["ann"]})
    container = (await world.timelines.switch.fresh()).current(CACHE.keeps or "")
    assert active
    assert container
    found = await world.stack.memcached.gets(lists.key(container, world.ids["ann"]))
    assert found
    assert lists.Value.unpacked(found[0]).expires_at_ms <= active["until"].timestamp() * 1000


@pytest.mark.parametrize("phase", IN_WORKER)
async def test_a_reader_who_is_stopped_while_phases_are_switched_misses_nothing(world: World, phase: str) -> None:
    """Rule 3. What a phase kept before it was switched off is not delivered to any more, and must not be read."""
    await world.sign_up("ann", "zoe")
    await world.follow("ann", "zoe")
    await world.timelines.change(delivering=[phase])
    world.pass_grace()
    await world.warm("ann")
    await world.post("zoe", "acknowledged before")
    other = await Timelines.open(world.stack)
    stopped: list[bool] = []

    async def stops(*given: Any, **finds: Any) -> object:
        """Before it looks at what is pending, and then at what was kept."""
        if not stopped:
            stopped.append(True)
            await other.restart()
            world.pass_grace()
            await world.drain()
        return await together(*given, **finds)

    with patch("phases.reading.together", stops):
        assert await world.walk("ann", phase) == ["acknowledged before"]
    assert stopped
    world.pass_grace()
    await world.sees("ann", "acknowledged before")


@pytest.mark.parametrize("phase", [CACHE.slug, HYBRID.slug])
async def test_whoever_goes_away_takes_nobody_along(world: World, phase: str) -> None:
    """Settings and markers are looked up anew for all who wait for them, whoever was the first."""
    await world.sign_up("ann", "zoe")
    await world.follow("ann", "zoe")
    await world.post("zoe", "there")
    await world.warm("ann")
    for turns in range(20):
        world.clock.advance(KNOWN_S + 1)
        gone, stays = (asyncio.create_task(world.walk("ann", phase)) for _ in range(2))
        for _ in range(turns):
            await asyncio.sleep(0)
        gone.cancel()
        _, found = await asyncio.gather(gone, stays, return_exceptions=True)
        assert found == ["there"], f"after {turns} turns of the event loop"


@pytest.mark.parametrize("module", [switch, markers], ids=lambda module: module.__name__)
async def test_a_look_up_that_fails_when_all_have_given_up_is_no_traceback_in_the_log(
    world: World, module: ModuleType
) -> None:
    """In an outage there is one for each request that takes too long, and whoever asks next hears of it."""
    timelines, loop, heard = world.timelines, asyncio.get_running_loop(), list[dict[str, Any]]()
    epoch, asked, fails = (await timelines.switch.fresh()).epoch, asyncio.Event(), asyncio.Event()
    world.clock.advance(KNOWN_S + 1)

    async def hangs(*_: object, **__: object) -> None:
        asked.set()
        await fails.wait()
        raise AutoReconnect("the primary is away")

    async def look_up() -> object:
        return await (timelines.switch.current() if module is switch else timelines.pulls.markers.known(epoch))

    before = loop.get_exception_handler()
    loop.set_exception_handler(lambda _, said: heard.append(said))
    with patch.object(module, "together", hangs):
        gone = asyncio.create_task(look_up())
        await asked.wait()
        gone.cancel()
        await asyncio.wait([gone])
        fails.set()
        await asyncio.sleep(0.01)  # it fails, and nobody has asked
        with pytest.raises(AutoReconnect):
            await look_up()
    del gone  # whose traceback holds the look-up
    gc.collect()
    loop.set_exception_handler(before)
    assert heard == []
