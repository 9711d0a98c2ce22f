"""MongoDB restored from a backup, beside a Memcached that still has what was kept since: lists of another history."""

import asyncio
import shutil
import signal
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import AbstractAsyncContextManager, asynccontextmanager, nullcontext
from dataclasses import replace
from datetime import timedelta
from pathlib import Path
from unittest.mock import patch

import pytest

from app.config import Config
from app.servers.borrow import running_servers
from app.stack import Stack, connected
from app.stack.memcached import MemcachedNodes
from app.web import create_app
from phases.delivering.switch import Switch
from phases.keeping.lists import key
from phases.keeping.store import Container
from phases.p4_cache import CACHE
from phases.p5_stream import STREAM
from phases.p6_hybrid import HYBRID
from phases.timelines import Timelines
from tests.conftest import PATIENCE_S, real_servers
from tests.dates import NOON, ManualClock
from tests.test_memcached import node
from tests.world import IN_MEMCACHED, KEEPING, STAND_INS, World, flush, flush_sets
from workers import worker
from workers.sweeper import sweep

pytestmark = pytest.mark.anyio


class Crash(BaseException):
    pass


async def until_the_backup(world: World) -> None:
    await world.sign_up("ann", "ben", "zoe")
    await world.follow("ann", "zoe")
    await world.follow("ben", "zoe")
    world.clock.advance(world.stack.config.timeline_ttl_s + world.stack.config.activity_slack_s)
    await world.warm("ben", "zoe")
    await world.post("zoe", "in both")
    await world.drain()


async def since_the_backup(world: World, *, sweeps: bool = True) -> None:
    await world.warm("ann")
    await world.post("zoe", "lost")
    await world.drain()
    if sweeps:
        await sweep(world.timelines)
    await world.sees("ann", "lost", "in both")
    await world.warm("ann")  # of all that was kept for her, `sees` has left one phase's


@pytest.fixture
async def restored(world: World) -> World:
    """Ann came back after the backup, and has a list. The database does not know that she is active.

    One sweep is all that tells the two histories apart.
    """
    await until_the_backup(world)
    backup = await world.dump()
    await since_the_backup(world)
    await world.load(backup)
    world.timelines.forget(world.ids["ann"])
    return world


async def nothing_is_missing(world: World) -> None:
    """What is posted from now on is in every list."""
    world.pass_grace()
    await world.post("zoe", "since")
    await world.drain()
    for reader in ("ann", "ben"):
        assert await world.walk(reader, "cache") == ["since", "in both"], reader
        assert await world.source(reader, "cache") == "list"
        await world.sees(reader, "since", "in both")


async def test_whoever_opens_the_database_notices(restored: World) -> None:
    restored.timelines = await Timelines.open(restored.stack)
    await nothing_is_missing(restored)


def web_process(world: World) -> AbstractAsyncContextManager[object]:
    app = create_app(world.stack, world.timelines)
    return app.router.lifespan_context(app)


@asynccontextmanager
async def worker_process(world: World) -> AsyncIterator[None]:
    with patch.object(worker, "connected", lambda *_: nullcontext(world.stack)):
        async with worker._connected_runtime(world.stack.addresses, world.stack.config, ()):
            yield


@pytest.mark.parametrize("process", [web_process, worker_process])
async def test_a_backup_made_less_than_a_sweep_before_a_stop(
    world: World, process: Callable[[World], AbstractAsyncContextManager[object]]
) -> None:
    """Whoever stops counts one more pulse: no other was counted in between."""
    async with process(world):
        await until_the_backup(world)
        await sweep(world.timelines)
        backup = await world.dump()
        await since_the_backup(world, sweeps=False)
    await world.load(backup)
    world.timelines.forget(world.ids["ann"])
    world.timelines = await Timelines.open(world.stack)
    await nothing_is_missing(world)


async def test_a_sweeper_notices(restored: World, caplog: pytest.LogCaptureFixture) -> None:
    await sweep(restored.timelines)
    assert "restored from a backup" in caplog.text
    await nothing_is_missing(restored)
    caplog.clear()
    await sweep(restored.timelines)
    assert not caplog.text


async def test_what_is_kept_in_the_database_goes_on(restored: World) -> None:
    """It was restored with it."""
    before = (await restored.timelines.switch.fresh()).containers
    await sweep(restored.timelines)
    await what_is_outside_has_begun_anew(restored, before)


async def what_is_outside_has_begun_anew(world: World, before: Sequence[Container]) -> None:
    after = [c for c in (await world.timelines.switch.fresh()).containers if c.until is None]
    outside = (*IN_MEMCACHED, STREAM.slug)
    assert {c.kept for c in after if c not in before} == {world.timelines.phases[slug].keeps for slug in outside}
    assert {c.kept for c in after} == {c.kept for c in before}


async def test_a_crash_between_noticing_and_beginning_anew(restored: World) -> None:
    with patch.object(Switch, "restart", side_effect=Crash), pytest.raises(Crash):
        await sweep(restored.timelines)
    await sweep(Timelines(restored.stack))
    await nothing_is_missing(restored)


async def memcached_forgets(world: World) -> None:
    await flush(world.stack.memcached)


async def redis_forgets(world: World) -> None:
    await flush_sets(world.stack)


@pytest.mark.parametrize(
    ("away", "forgets"), [(World.without_memcached, redis_forgets), (World.without_redis, memcached_forgets)]
)
async def test_a_pulse_is_compared_with_what_is_away_before_it_goes_on(
    restored: World,
    away: Callable[[World], AbstractAsyncContextManager[None]],
    forgets: Callable[[World], Awaitable[None]],
) -> None:
    """Nobody else remembers one."""
    before = (await restored.timelines.switch.fresh()).containers
    await forgets(restored)
    async with away(restored):
        for _ in range(5):
            await restored.timelines.switch.beat()
    await sweep(restored.timelines)
    await what_is_outside_has_begun_anew(restored, before)
    await nothing_is_missing(restored)


@pytest.mark.parametrize("away", [World.without_memcached, World.without_redis])
async def test_who_answers_is_enough_to_notice(
    restored: World, away: Callable[[World], AbstractAsyncContextManager[None]]
) -> None:
    before = (await restored.timelines.switch.fresh()).containers
    async with away(restored):
        await restored.timelines.switch.beat()
    await what_is_outside_has_begun_anew(restored, before)
    await nothing_is_missing(restored)


@pytest.mark.parametrize("forgets", [redis_forgets, memcached_forgets])
async def test_what_was_kept_since_memory_forgot_its_pulse(
    world: World, forgets: Callable[[World], Awaitable[None]]
) -> None:
    """No sweep came by in between: the other one remembers."""
    await until_the_backup(world)
    backup = await world.dump()
    await since_the_backup(world)
    await forgets(world)
    await world.warm("ann")
    await world.load(backup)
    world.timelines.forget(world.ids["ann"])
    await sweep(world.timelines)
    await nothing_is_missing(world)


async def test_an_older_program_counts_past_nothing_that_it_does_not_know(restored: World) -> None:
    """It opens the database first, and goes on for a while."""
    known = tuple(phase for phase in restored.timelines.phases.values() if phase is not HYBRID)
    old = await Timelines.open(restored.stack, known)
    for _ in range(5):
        await sweep(old)
    await sweep(restored.timelines)
    await nothing_is_missing(restored)


async def test_markers_of_the_other_history_are_known_no_more(world: World) -> None:
    """Whatever the clock of who has noticed says: it is behind that of who began last."""
    await until_the_backup(world)
    await world.timelines.force(world.ids["zoe"], pulled=True)
    begins = world.clock.now()
    await world.timelines.restart()
    await world.timelines.switch.beat()
    backup = await world.dump()
    await world.statuses.post(world.ids["zoe"], "lost")  # this process has made her marker
    await world.timelines.switch.beat()
    await world.load(backup)
    await Timelines(replace(world.stack, clock=ManualClock(begins - timedelta(seconds=1)))).switch.beat()
    world.pass_grace()
    another = Timelines(world.stack)
    await another.page(world.ids["ben"], phase=HYBRID.slug)
    await world.post("zoe", "since")
    assert [s.text for s in (await another.page(world.ids["ben"], phase=HYBRID.slug)).statuses] == ["since", "in both"]


@pytest.mark.servers
async def test_a_node_that_is_silent_when_the_others_have_forgotten() -> None:
    """It has lists of the other history, and comes back with them."""
    clock = ManualClock(NOON)
    config = Config(database="nodes", demo=True)
    with node() as (first, process), node() as (second, other):
        async with connected(STAND_INS, config, clock) as stack:
            seen, unseen = MemcachedNodes([first, second], 10.0), MemcachedNodes([first, second], 0.1)
            world = await World.open(replace(stack, memcached=seen), clock)
            await until_the_backup(world)
            backup = await world.dump()
            await since_the_backup(world)
            container = (await world.timelines.switch.fresh()).current(CACHE.keeps or "")
            assert container
            silent = seen._node(key(container, world.ids["ann"]))
            seen._clients[second if silent == first else first].flush_all(noreply=False)
            await redis_forgets(world)
            await world.load(backup)
            holder = process if silent == first else other
            holder.send_signal(signal.SIGSTOP)
            try:
                sweeper = await Timelines.open(replace(stack, memcached=unseen))
                begun = (await sweeper.switch.fresh()).containers
                for _ in range(5):
                    await sweep(sweeper)
                assert (await sweeper.switch.fresh()).containers == begun, "once is enough"
            finally:
                holder.send_signal(signal.SIGCONT)
            world.start(Timelines(world.stack))
            await nothing_is_missing(world)
            for memcached in (seen, unseen):
                await memcached.close()


async def test_a_backup_of_a_version_that_counted_no_pulse(restored: World) -> None:
    await restored.stack.db["settings"].update_one({"_id": "phases"}, {"$unset": {"pulses": ""}})
    await sweep(restored.timelines)
    await nothing_is_missing(restored)


async def test_what_is_kept_nowhere_begins(world: World) -> None:
    """As after a restore that was killed behind its last write: it has restored the settings, and no containers."""
    await until_the_backup(world)
    await world.stack.db["settings"].update_one({"_id": "phases"}, {"$set": {"containers": []}})
    timelines = await Timelines.open(world.stack)
    world.pass_grace()
    for phase in KEEPING:
        await timelines.page(world.ids["ben"], phase=phase)
        assert (await timelines.page(world.ids["ben"], phase=phase)).source == "list", phase


async def test_without_a_restore_nothing_begins_anew(world: World) -> None:
    """However many processes sweep, and whatever Memcached forgets."""
    before = (await world.timelines.switch.fresh()).containers
    processes = [await Timelines.open(world.stack) for _ in range(3)]
    for n in range(6):
        await sweep(processes[n % 3])
        if n == 3:
            await flush(world.stack.memcached)
    assert (await world.timelines.switch.fresh()).containers == before


@pytest.mark.servers
def test_a_data_directory_is_copied_back(tmp_path: Path) -> None:
    """By hand, while MongoDB is stopped and Memcached is not."""
    data, backup, clock = tmp_path / "data", tmp_path / "backup", ManualClock(NOON)
    people: World | None = None

    async def on(config: Config, work: Callable[[World], Awaitable[None]]) -> None:
        nonlocal people
        async with connected(addresses, config, clock) as stack:
            world = await World.open(stack, clock)
            world.ids = people.ids if people else world.ids
            people = world
            await work(world)

    with real_servers(), node() as (memcached, _):
        config = Config(database="copied", demo=True, memcached=(memcached,))
        for work in (until_the_backup, since_the_backup, nothing_is_missing):
            with running_servers(data, config) as addresses:
                asyncio.run(on(config, work))
            if work is until_the_backup:
                shutil.copytree(data, backup)
            else:
                shutil.rmtree(data)
                shutil.copytree(backup, data)


@pytest.fixture
async def prefixed(world: World) -> AsyncIterator[Stack]:
    """The servers of a process that is started with another FEEDLAB_MEMCACHED_PREFIX. Ann has lists without one."""
    await world.sign_up("ann", "zoe")
    await world.follow("ann", "zoe")
    await world.warm("ann", "zoe")
    assert isinstance(world.stack.memcached, MemcachedNodes)
    memcached = MemcachedNodes(world.stack.memcached.nodes, PATIENCE_S, "site2:")
    yield replace(world.stack, memcached=memcached)
    await memcached.close()


async def start(world: World, stack: Stack) -> None:
    """Every process ends, and others start with these servers."""
    world.stack = stack
    world.start(await Timelines.open(stack))
    world.pass_grace()


@pytest.mark.servers
@pytest.mark.parametrize("addresses", ["servers"], indirect=True)
async def test_a_prefix_is_set_in_a_rolling_restart(world: World, prefixed: Stack) -> None:
    """The web process is started already and the worker is not: it delivers to lists that nobody reads any more."""
    web = await Timelines.open(prefixed)
    for seconds in (0, world.stack.config.grace_s + 2):
        world.clock.advance(seconds)
        for phase in IN_MEMCACHED:
            await web.page(world.ids["ann"], phase=phase)
    status = await world.post("zoe", "hello")
    await world.drain()
    for phase in IN_MEMCACHED:
        page = await web.page(world.ids["ann"], phase=phase)
        assert [status.text for status in page.statuses] == ["hello"], phase
        assert (await world.pending())[phase] == 1, "the worker says that it has delivered"
    await start(world, prefixed)
    for phase in IN_MEMCACHED:
        await world.timelines.outbox.consumers[phase].handle(status.id, None)
    assert set((await world.pending()).values()) == {0}
    await world.sees("ann", "hello")


@pytest.mark.servers
@pytest.mark.parametrize("addresses", ["servers"], indirect=True)
async def test_a_prefix_is_set_and_taken_away_again(world: World, prefixed: Stack) -> None:
    """Lists without it have missed what was delivered meanwhile."""
    before = world.stack
    await start(world, prefixed)
    await world.post("zoe", "hello")
    await world.drain()
    await start(world, before)
    for phase in IN_MEMCACHED:
        assert await world.walk("ann", phase) == ["hello"], phase
    await world.sees("ann", "hello")
