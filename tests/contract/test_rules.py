"""The rules of docs/correctness.md, one by one, on every stack."""

import asyncio
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import replace
from functools import partial
from itertools import count
from typing import Any
from unittest.mock import AsyncMock, Mock, patch

import pytest
from bson import ObjectId, Timestamp
from pymongo.errors import ExecutionTimeout, NetworkTimeout

from app.clock import FIRST_ID, LAST_ID
from app.errors import Conflict
from app.models import SETTINGS, StatusRow
from app.social.relations import Relations
from app.social.statuses import Statuses
from app.stack import MemcachedDown, again
from app.stack.again import TRIES
from app.stack.cost import counted
from app.stack.mongodb.connection import Database
from app.stack.mongodb.find import Find, Rows, dated, together
from app.stack.mongodb.transaction import Contended
from app.watch.metrics import REGISTRY
from benchmarks.answers import kept_list
from phases import PHASES, reading
from phases.base import Phase
from phases.delivering import backlog, outbox, pending
from phases.delivering.backlog import LATE_S, REREAD_S
from phases.delivering.delivery import Delivery
from phases.delivering.kept_timelines import KeptTimelines
from phases.delivering.outbox import Outbox
from phases.delivering.pending import UNREAD_S, Pending
from phases.delivering.settings import FORGET_AFTER_S, Settings, SettingsChange
from phases.delivering.switch import DOCUMENT, Switch
from phases.home.candidates import Slice, Undelivered, newest
from phases.home.newest import window_of_groups
from phases.home.page import enough
from phases.keeping import entries as kept_entries
from phases.keeping.entries import Entries, entries_name, entry_key, floors_name
from phases.keeping.lists import Lists
from phases.keeping.store import AuthorIds, Container, Recent, Returning
from phases.p1_query import QUERY
from phases.p2_push import PUSH, put_on_timelines
from phases.p3_queue import QUEUE
from phases.p4_cache import CACHE
from phases.p5_stream import STREAM
from phases.p6_hybrid import HYBRID
from phases.reading import Look, Reading, Start
from phases.timelines import Timelines
from tests.world import IN_MEMCACHED, IN_WORKER, KEEPING, SLUGS, World, flush
from workers import sweeper
from workers.worker import drain_queues

pytestmark = pytest.mark.anyio


@pytest.fixture
async def town(world: World) -> World:
    """Ann, Ben and seven more follow Zoe: three chunks of a fan-out."""
    names = ["ann", "ben", *(f"fan{n}" for n in range(7))]
    await world.sign_up("zoe", *names)
    for name in names:
        await world.follow(name, "zoe")
    await world.warm("ann", "ben")
    return world


class Crash(Exception):
    pass


# Rule 1


async def test_an_acknowledged_status_survives_every_server_that_delivery_needs(town: World) -> None:
    async with town.without_memcached(), town.without_redis():
        await town.post("zoe", "saved first")
        for phase in SLUGS:
            assert await town.walk("ann", phase) == ["saved first"], phase
    await town.sweep()
    await town.drain()
    assert set((await town.pending()).values()) == {0}
    await town.sees("ann", "saved first")


# Rule 3


async def test_switching_needs_no_migration_and_loses_nothing(town: World) -> None:
    expected: list[str] = []
    for n in range(12):
        await town.timelines.change(delivering=[KEEPING[n % len(KEEPING)]] if n % 4 else [])
        for when in ("at once", "after the grace"):
            await town.post("zoe", f"{n} {when}")
            expected.insert(0, f"{n} {when}")
            for phase in SLUGS:
                assert await town.walk("ann", phase, 7) == expected, (n, when, phase)
            town.pass_grace()
        await town.drain()
    await town.sees("ann", *expected)


async def test_a_process_with_old_settings_loses_nothing_within_the_grace(town: World) -> None:
    """It posts, and reads, as if nothing had been switched."""
    await town.timelines.change(delivering=[])
    town.pass_grace()
    old = await town.timelines.switch.fresh()
    await town.timelines.change(delivering=[PUSH.slug, CACHE.slug])
    with patch.object(town.timelines.switch, "current", return_value=old):
        await town.post("zoe", "posted by the old process")
    town.pass_grace()
    await town.drain()
    await town.sees("ann", "posted by the old process")

    old = await town.timelines.switch.fresh()
    await town.timelines.change(delivering=[])
    await town.timelines.change(delivering=IN_WORKER)
    await town.post("zoe", "posted by a new process")
    await town.drain()
    with patch.object(town.timelines.switch, "current", return_value=old):
        for phase in SLUGS:
            assert (await town.walk("ann", phase))[0] == "posted by a new process", phase


async def test_a_post_that_takes_longer_than_the_grace_reads_the_settings_again(town: World) -> None:
    await town.timelines.change(delivering=[])
    town.pass_grace()
    old = await town.timelines.switch.fresh()
    await town.timelines.change(delivering=["cache"])
    town.pass_grace()
    await town.warm("ann")
    with patch.object(town.timelines.switch, "current", return_value=old):
        await town.post("zoe", "slow")
    assert (await town.page("ann", "cache")).source == "list"
    assert await town.walk("ann", "cache") == ["slow"]


@contextmanager
def first_write(before: Callable[[], Awaitable[None]], after: Callable[[], Awaitable[None]]) -> Iterator[None]:
    """What happens right before a switch is written, and right after that, before its process hears of it."""
    swap, written = Switch._swap, list[Settings]()

    async def swapping(self: Switch, old: Settings, new: Settings) -> bool:
        if written:
            return await swap(self, old, new)
        written.append(new)
        await before()
        swapped = await swap(self, old, new)
        await after()
        return swapped

    with patch.object(Switch, "_swap", swapping):
        yield
    assert written


@pytest.mark.parametrize("anew", [True, False], ids=["begun anew", "switched off"])
async def test_a_switch_that_is_written_late_ends_nothing_too_early(town: World, anew: bool) -> None:
    """A reader's process has read the settings just before it."""
    ann, zoe = town.ids["ann"], town.ids["zoe"]
    readers, posters = Timelines(town.stack), Timelines(town.stack)

    async def read() -> None:
        readers.switch._copy = None
        town.clock.advance(town.stack.config.grace_s + 0.6)
        for phase in KEEPING:
            assert (await readers.page(ann, phase=phase)).source == "list"

    async def post_and_read() -> None:
        await Statuses(town.stack, posters.outbox).post(zoe, "acknowledged")
        await drain_queues(posters)
        town.clock.advance(0.3)
        for phase in KEEPING:
            assert [s.text for s in (await readers.page(ann, phase=phase)).statuses] == ["acknowledged"], phase

    with first_write(read, post_and_read):
        await (town.timelines.restart() if anew else town.timelines.change(delivering=[]))
    town.pass_grace()
    await town.sees("ann", "acknowledged")


async def test_a_switch_that_is_given_up_and_written_all_the_same_loses_nothing(town: World) -> None:
    """Nobody is sure of it until a sweeper comes by: what it has begun is delivered to, and not read."""
    await town.timelines.change(delivering=[])
    town.pass_grace()
    ann, zoe = town.ids["ann"], town.ids["zoe"]
    readers, posters = Timelines(town.stack), Timelines(town.stack)

    async def hear_of_the_old() -> None:
        town.clock.advance(town.stack.config.server_timeout_s)
        await posters.switch.current()

    async def read_post_and_give_up() -> None:
        for phase in KEEPING:
            await readers.page(ann, phase=phase)
        town.clock.advance(0.2)
        await Statuses(town.stack, posters.outbox).post(zoe, "by the old settings")
        raise NetworkTimeout("timed out")

    with first_write(hear_of_the_old, read_post_and_give_up), pytest.raises(NetworkTimeout):
        await town.timelines.change(delivering=KEEPING)
    for _ in range(2):
        await drain_queues(posters)
        for phase in KEEPING:
            assert [s.text for s in (await readers.page(ann, phase=phase)).statuses] == ["by the old settings"], phase
        town.clock.advance(60)
    await town.sweep()
    town.pass_grace()
    await town.sees("ann", "by the old settings")
    await town.warm("ann")
    assert [await town.source("ann", phase) for phase in KEEPING] == ["list"] * len(KEEPING)


async def test_a_switch_that_others_are_always_faster_with_is_given_up(town: World) -> None:
    """And has changed nothing. They may as well be somebody else's requests without an end."""
    swap, tried = Switch._swap, 0

    async def too_late(self: Switch, old: Settings, new: Settings) -> bool:
        nonlocal tried
        tried += 1
        assert tried <= TRIES, "for ever"
        assert await swap(self, old, replace(old, version=old.version + 1))
        return await swap(self, old, new)

    before = await town.timelines.switch.fresh()
    with patch.object(Switch, "_swap", too_late), patch.object(again, "LONGEST_S", 0), pytest.raises(Contended):
        await town.timelines.change(delivering=[])
    after = await town.timelines.switch.fresh()
    assert replace(after, version=0, read_at_s=0) == replace(before, version=0, read_at_s=0)


async def test_a_replay_owes_what_the_first_try_did_not_live_to_owe(town: World) -> None:
    """A process with old settings stops before its insert, goes on after a switch, and is killed right behind it."""
    zoe = town.ids["zoe"]
    await town.timelines.change(delivering=[])
    town.pass_grace()
    old = await town.timelines.switch.fresh()
    await town.timelines.change(delivering=[PUSH.slug, CACHE.slug])
    town.pass_grace()
    await town.warm("ann")
    with (
        patch.object(town.timelines.switch, "current", return_value=old),
        patch.object(Outbox, "make_owed", side_effect=Crash),
        pytest.raises(Crash),
    ):
        await town.statuses.post(zoe, "stored", idempotency_key="k")
    await town.statuses.post(zoe, "stored", idempotency_key="k")
    await town.sees("ann", "stored")
    await town.drain()
    await town.sees("ann", "stored")


async def test_a_phase_that_does_not_deliver_is_merely_slower(town: World) -> None:
    await town.timelines.change(delivering=[QUEUE.slug])
    town.pass_grace()
    await town.post("zoe", "hello")
    sources = [await town.source("ann", phase) for phase in SLUGS]
    assert sources == ["list" if phase.keeps == QUEUE.keeps else "query" for phase in PHASES]  # 2 and 3 share them


async def test_a_page_crosses_the_floor(town: World) -> None:
    for n in range(25):
        await town.post("zoe", str(n))
    await town.drain()
    await town.chill("ann")
    for phase in KEEPING:
        first = await town.page("ann", phase, limit=1)
        assert first.cold or phase == "queue"
        kept = await kept_list(town.timelines, phase, town.ids["ann"], 25)
        assert kept
        n = len(kept.older_than(LAST_ID))  # above the floor
        assert 5 < n < 20
        for limit in (n - 1, n):
            above = await town.page("ann", phase, limit=limit)
            assert above.source == "list", (phase, limit)
        assert (await town.page("ann", phase, limit=n + 1)).source == "list+query"
        below = await town.page("ann", phase, above.next, limit=8)
        assert below.source == "query"
        assert [s.text for s in below.statuses] == [str(n) for n in range(24 - n, max(-1, 16 - n), -1)]


async def test_sweeping_cuts_to_the_cap_and_loses_nothing(town: World) -> None:
    texts = [str(n) for n in range(30)]
    for text in texts:
        await town.post("zoe", text)
    await town.drain()
    container = (await town.timelines.switch.fresh()).current(PUSH.keeps or "")
    assert container
    entries = town.stack.db[f"home_entries_{container.name}"]
    assert await entries.count_documents({}) == 30 * 10
    for _ in range(3):
        town.clock.advance(61)
        await town.timelines.sweep()
        assert await town.walk("ann", "push") == texts[::-1]
        assert await town.walk("fan3", "push") == texts[::-1]
    assert await entries.count_documents({}) == 10 * 10
    await town.sees("ann", *reversed(texts))


async def test_sweeping_comes_to_everybody_however_often_processes_are_restarted(
    town: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each goes on where another one has ended, and not with the first reader again."""
    monkeypatch.setattr(kept_entries, "SWEPT_AT_ONCE", 1)
    for n in range(30):
        await town.post("zoe", str(n))
    await town.drain()
    container = (await town.timelines.switch.fresh()).current(PUSH.keeps or "")
    assert container
    entries, tries = town.stack.db[entries_name(container)], count(1)
    while await entries.count_documents({}) >= 30 * 5 + 10 * 5:
        assert next(tries) < 200, "hardly anybody is cut"
        await Timelines(town.stack).kept[container.kept].sweep()


async def test_a_reader_who_cannot_be_cut_holds_up_nobody_else(town: World) -> None:
    """Nor does a store that cannot be swept hold up what is swept behind it."""
    for n in range(30):
        await town.post("zoe", str(n))
    await town.drain()
    container = (await town.timelines.switch.fresh()).current(PUSH.keeps or "")
    assert container
    entries, cut = town.stack.db[entries_name(container)], Entries.cut
    slow = ObjectId((await entries.find_one({}, sort=[("_id", 1)]) or {})["_id"][:12])

    async def cuts(self: Entries, container: Container, reader: ObjectId) -> None:
        if reader == slow:
            raise ExecutionTimeout("too slow")
        await cut(self, container, reader)

    with patch.object(Entries, "cut", cuts), patch.object(Outbox, "sweep") as swept_behind:
        for _ in range(3):  # up to them, behind them, and from the first one on
            await sweeper.sweep(Timelines(town.stack))
    assert swept_behind.await_count == 3
    of_slow = {"$gte": entry_key(slow, FIRST_ID), "$lt": entry_key(slow, LAST_ID)}
    assert await entries.count_documents({"_id": of_slow}) == 30
    assert await entries.count_documents({}) == 30 + 9 * 10


async def home_collections(world: World) -> set[str]:
    return {name for name in await world.stack.db.list_collection_names() if name.startswith("home_")}


async def those_in_use(world: World, phase: Phase = PUSH) -> set[str]:
    container = (await world.timelines.switch.fresh()).current(phase.keeps or "")
    assert container
    return {entries_name(container), floors_name(container)}


async def test_what_was_switched_off_is_dropped_and_waits_for_no_other_switch(town: World) -> None:
    collections = partial(home_collections, town)
    before = await collections()
    town.clock.advance(FORGET_AFTER_S)
    await town.timelines.change(delivering=[CACHE.slug])
    town.pass_grace()
    await town.timelines.sweep()
    assert await collections() == before, "somebody may still be reading them"
    town.clock.advance(FORGET_AFTER_S)
    await town.timelines.sweep()
    assert before
    assert await collections() == set()


async def test_a_sweeper_that_was_stopped_drops_nothing_that_is_in_use(town: World) -> None:
    """It has read the settings, and goes on minutes later: what others have begun to keep is in none that it knows."""
    stopped, goes_on, cut_next = asyncio.Event(), asyncio.Event(), Entries._cut_next

    async def slow(self: Entries, container: Container) -> None:
        await cut_next(self, container)
        stopped.set()
        await goes_on.wait()

    with patch.object(Entries, "_cut_next", slow):
        sweeping = asyncio.create_task(Timelines(town.stack).sweep())
        await stopped.wait()
    for delivering in ([CACHE.slug], SLUGS):
        await town.timelines.change(delivering=delivering)
        town.pass_grace()
    for n in range(3):
        await town.post("zoe", f"since {n}")
    await town.drain()
    await town.warm("ann")
    town.clock.advance(2 * FORGET_AFTER_S)
    goes_on.set()
    await sweeping
    assert await those_in_use(town) <= await home_collections(town)
    await town.sees("ann", "since 2", "since 1", "since 0")


async def test_a_switch_that_was_stopped_begins_with_nothing_that_was_dropped_meanwhile(town: World) -> None:
    """It has made its collections, and nobody else knows of them yet."""
    begin, others, begun = Entries.begin, Timelines(town.stack), 0

    async def slow(self: Entries, container: Container) -> None:
        nonlocal begun
        begun += 1
        await begin(self, container)
        if begun == 1:
            town.clock.advance(2 * FORGET_AFTER_S)
            await others.sweep()

    await town.timelines.change(delivering=[CACHE.slug])
    town.pass_grace()
    with patch.object(Entries, "begin", slow):
        await town.timelines.change(delivering=SLUGS)
    town.pass_grace()
    assert begun == 2
    assert await those_in_use(town) <= await home_collections(town)


# Rule 4


async def test_following_merges_what_was_posted_before(town: World) -> None:
    await town.sign_up("yan")
    await town.post("yan", "before")
    await town.drain()
    await town.warm("ann")
    await town.follow("ann", "yan")
    assert [await town.source("ann", phase) for phase in KEEPING] == ["list"] * len(KEEPING)
    await town.sees("ann", "before")


async def test_joining_a_circle_merges_what_it_was_told_before(town: World) -> None:
    await town.post("zoe", "to the circle", "circle")
    await town.drain()
    await town.relations.add_to_circle(town.ids["zoe"], town.ids["ann"])
    assert [await town.source("ann", phase) for phase in KEEPING] == ["list"] * len(KEEPING)
    await town.sees("ann", "to the circle")
    await town.sees("ben")


async def test_following_back_shows_what_mutuals_were_told(town: World) -> None:
    await town.post("zoe", "to mutuals", "mutuals")
    await town.drain()
    await town.sees("ann")
    await town.follow("zoe", "ann")
    await town.sees("ann", "to mutuals")


async def test_a_crash_between_the_edge_and_its_backfill_loses_nothing(town: World) -> None:
    await town.sign_up("yan")
    await town.post("yan", "before")
    await town.post("zoe", "to the circle", "circle")
    await town.drain()
    await town.warm("ann")
    with patch.object(KeptTimelines, "backfill", side_effect=Crash):
        with pytest.raises(Crash):
            await town.follow("ann", "yan")
        with pytest.raises(Crash):
            await town.relations.add_to_circle(town.ids["zoe"], town.ids["ann"])
    for phase in SLUGS:
        assert await town.walk("ann", phase) == ["to the circle", "before"], phase
    await town.sweep()
    assert [await town.source("ann", phase) for phase in KEEPING] == ["list"] * len(KEEPING)
    await town.sees("ann", "to the circle", "before")


async def test_a_backfill_that_finds_memcached_away_is_made_later(town: World) -> None:
    await town.sign_up("yan")
    await town.post("yan", "before")
    await town.drain()
    async with town.without_memcached():
        await town.follow("ann", "yan")
        assert await town.walk("ann", "cache") == ["before"]
    assert await town.walk("ann", "cache") == ["before"]
    await town.sweep()
    assert await town.source("ann", "cache") == "list"
    await town.sees("ann", "before")


async def test_along_a_new_edge_is_delivered_before_everybody_sees_it(town: World) -> None:
    """Another shard, or a primary that does not know it is none, may answer as if the follow had never been."""
    await town.sign_up("yan")
    await town.warm("ann")
    with patch.object(type(town.stack.db["follows"]), "find_one", AsyncMock(return_value=None)):
        await town.follow("ann", "yan")
    await town.post("yan", "hello")
    await town.drain()
    assert [await town.source("ann", phase) for phase in KEEPING] == ["list"] * len(KEEPING)
    await town.sees("ann", "hello")


async def owe_backfills(town: World, *readers: str) -> None:
    """They follow Yan, and the process dies each time before the backfill."""
    await town.sign_up("yan")
    await town.post("yan", "before")
    await town.drain()
    with patch.object(KeptTimelines, "backfill", side_effect=Crash):
        for reader in readers:
            with pytest.raises(Crash):
                await town.follow(reader, "yan")


async def owing(town: World) -> list[ObjectId]:
    return await town.stack.db["follows"].distinct("follower", {"debt": True})


async def test_while_redis_is_away_all_else_is_swept(town: World) -> None:
    for n in range(town.stack.config.cap + 5):
        await town.post("zoe", str(n))
    await town.drain()
    await town.timelines.change(delivering=[PUSH.slug, CACHE.slug])  # neither keeps anything in Redis
    await owe_backfills(town, "ann")
    container = (await town.timelines.switch.fresh()).current(PUSH.keeps or "")
    assert container
    async with town.without_redis():
        await town.sweep()
    assert await owing(town) == []
    ann = town.ids["ann"]
    anns = {"$gte": entry_key(ann, FIRST_ID), "$lt": entry_key(ann, LAST_ID)}
    entries = town.stack.db[f"home_entries_{container.name}"]
    assert await entries.count_documents({"_id": anns}) == town.stack.config.cap


async def sweep_where_anns_list_fails(town: World, fault: Exception) -> None:
    gets, of_ann = town.stack.memcached.gets, town.ids["ann"].binary.hex()

    async def fails(key: str) -> object:
        if of_ann in key:
            raise fault
        return await gets(key)

    with patch.object(town.stack.memcached, "gets", fails):
        await town.sweep()


async def test_a_node_that_is_away_holds_up_its_own_backfills_only(town: World) -> None:
    await owe_backfills(town, "ann", "ben")
    await sweep_where_anns_list_fails(town, MemcachedDown("one node of several"))
    assert await owing(town) == [town.ids["ann"]]
    await town.sweep()
    assert await owing(town) == []
    for reader in ("ann", "ben"):
        await town.sees(reader, "before")


async def test_backfills_that_cannot_be_made_hold_up_none_behind_them(town: World) -> None:
    """A sweep looks at so many, and the next one at those behind them."""
    fans = [f"fan{n}" for n in range(4)]
    await owe_backfills(town, *fans, "ann")
    away, merge = {town.ids[fan] for fan in fans}, Lists.merge

    async def merges(self: Lists, container: Container, reader: ObjectId, author_ids: AuthorIds) -> None:
        if reader in away:
            raise MemcachedDown("one node of several")
        await merge(self, container, reader, author_ids)

    with patch.object(sweeper, "AT_ONCE", 2), patch.object(Lists, "merge", merges):
        for _ in range(3):
            await town.sweep()
        assert sorted(await owing(town)) == sorted(away)
        away.clear()
        for _ in range(3):
            await town.sweep()
    assert await owing(town) == []


async def test_a_fault_of_ours_in_one_backfill_is_told_when_the_others_are_made(town: World) -> None:
    await owe_backfills(town, "ann", "ben")
    with pytest.raises(ExceptionGroup) as raised:
        await sweep_where_anns_list_fails(town, KeyError("ours"))
    assert raised.group_contains(KeyError, match="ours")
    assert await owing(town) == [town.ids["ann"]]


async def test_a_long_backfill_raises_the_floor_instead_of_leaving_a_gap(town: World) -> None:
    await town.sign_up("yan")
    await town.post("zoe", "oldest")
    texts = [f"yan {n}" for n in range(15)]  # more than the cap
    for text in texts:
        await town.post("yan", text)
    await town.drain()
    await town.follow("ann", "yan")
    await town.sees("ann", *reversed(texts), "oldest")


# Rule 5


async def test_pending_is_read_first_and_empty_when_the_worker_has_been(town: World) -> None:
    await town.post("zoe", "hello")
    assert await town.pending() == {phase: int(phase in IN_WORKER) for phase in KEEPING}
    for phase in SLUGS:
        assert await town.walk("fan6", phase) == ["hello"], phase
    await town.drain()
    assert await town.pending() == dict.fromkeys(KEEPING, 0)
    assert [await town.source("ann", phase) for phase in KEEPING] == ["list"] * len(KEEPING)
    await town.sees("ann", "hello")


async def test_a_backlog_is_counted_up_to_a_limit(town: World) -> None:
    """Every process does so every few seconds, and what a page shows of it needs no more."""
    with patch.object(outbox, "COUNTED", 2):
        for text in ("one", "two", "three"):
            await town.post("zoe", text)
        assert await town.pending() == {phase: 2 * (phase in IN_WORKER) for phase in KEEPING}


@pytest.mark.parametrize("settings", [{"pending_scan": 10}])
@pytest.mark.parametrize("limit", [3, 50])
async def test_the_queue_may_be_far_behind(world: World, limit: int) -> None:
    """More is pending than a read looks through, and than it asks for of its own authors; older ones are delivered."""
    await world.sign_up("ann", "zoe", "yan")
    await world.follow("ann", "zoe", "yan")
    await world.warm("ann")
    texts = [str(n) for n in range(world.stack.config.pending_scan + 25)]
    for n, text in enumerate(texts):
        await world.post(("zoe", "yan")[n % 2], text)
        if n == 20:
            await world.drain()
    for phase in SLUGS:
        assert await world.walk("ann", phase, limit) == texts[::-1], phase


@pytest.mark.parametrize("settings", [{"pending_scan": 5}])
@pytest.mark.parametrize("phase", IN_WORKER)
async def test_a_page_that_goes_on_long_after_a_switch_misses_nothing(world: World, phase: str) -> None:
    """What was pending when it began has been delivered since, and not to where it reads."""
    await world.timelines.change(delivering=[phase])
    world.pass_grace()
    await world.sign_up("ann", "zoe")
    await world.follow("ann", "zoe")
    await world.warm("ann")
    await world.post("zoe", "seen")
    for n in range(enough(2)):
        await world.post("zoe", f"hidden {n}", "mutuals")
    further, went_on = Reading._further, list[ObjectId]()

    async def late(self: Reading, start: Start, look: Look, before: ObjectId, n: int) -> Slice | None:
        if not went_on:
            await world.timelines.change(delivering=[])
            await world.sweep()
            await world.drain()
        went_on.append(before)
        return await further(self, start, look, before, n)

    with patch.object(Reading, "_further", late):
        page = await world.page("ann", phase, limit=2)
    assert went_on
    assert [status.text for status in page.statuses] == ["seen"]


@pytest.mark.parametrize("settings", [{"pending_scan": 5}])
@pytest.mark.parametrize("phase", IN_WORKER)
async def test_how_far_a_page_reached_is_a_guess_of_how_far_the_next_one_does(world: World, phase: str) -> None:
    """Of much that is pending a look takes as much as the last page took. That may be too much, or too little."""
    await world.timelines.change(delivering=IN_WORKER)
    world.pass_grace()
    await world.sign_up("ann", "zoe", "yan")
    await world.follow("ann", "zoe", "yan")
    await world.warm("ann")
    texts: list[str] = []

    async def say(who: str, count: int) -> None:
        for _ in range(count):
            texts.insert(0, f"{who} {len(texts)}")
            await world.post(who, texts[0])

    async def shown(phase: str) -> list[str]:
        return [status.text for status in (await world.page("ann", phase, limit=2)).statuses]

    await say("zoe", 15)
    await world.drain()
    await say("zoe", 15)
    await say("yan", 15)
    for _ in range(2):
        assert await shown(phase) == texts[:2]
    await say("yan", 30)
    for _ in range(2):
        assert await shown(phase) == texts[:2]
    await world.relations.unfollow(world.ids["ann"], world.ids["yan"])
    by_zoe = [text for text in texts if text.startswith("zoe")]
    for _ in range(2):
        assert await shown(phase) == by_zoe[:2]
    assert await world.walk("ann", phase, limit=9) == by_zoe


@pytest.mark.parametrize("settings", [{"pending_scan": 5}])
async def test_a_page_that_was_the_last_one_guesses_nothing(town: World) -> None:
    """What comes later with an older id belongs to the next page, which there was not."""
    await town.timelines.change(delivering=IN_WORKER)
    town.pass_grace()
    oldest = town.clock.new_id()
    for n in range(enough(2)):
        await town.post("zoe", f"seen {n}", "followers" if n < 2 else "mutuals")
        if n == 4:
            await town.drain()
    for phase in IN_WORKER:
        town.timelines.forget(town.ids["ann"])
        for _ in range(3):
            page = await town.page("ann", phase, limit=2)
            assert ([status.text for status in page.statuses], page.next) == (["seen 1", "seen 0"], None), phase
    with patch.object(town.clock, "new_id", return_value=oldest):
        await town.post("zoe", "by a process with a slow clock")
    for phase in IN_WORKER:
        assert await town.walk("ann", phase, limit=2) == ["seen 1", "seen 0", "by a process with a slow clock"], phase


@pytest.mark.parametrize("settings", [{"cap": 80}])
@pytest.mark.parametrize("is_read", [True, False])
async def test_what_a_page_was_made_of_is_not_looked_up_again(town: World, is_read: bool) -> None:
    """While much is pending, whether or not this process has read it. It is on the page all the same, whether it is
    delivered by then or not.
    """
    await town.timelines.change(delivering=["cache"])
    town.pass_grace()
    await town.page("ann", "cache")
    texts = [f"status {n}" for n in range(enough(2) + 5)]
    for text in texts:
        await town.post("zoe", text)

    sees = partial(town.begins_with, "ann", "cache")
    unread = nullcontext() if is_read else patch.object(Pending, "backlog", AsyncMock(return_value=None))
    with patch.object(Pending, "is_crowded", True), unread:
        await sees(texts[-1], texts[-2])
        await town.post("zoe", "pending")
        with counted() as cost:
            await town.page("ann", "cache", limit=2)
        assert cost.mongodb == 2, "a look, and the status that is new"
        await sees("pending", texts[-1])
        await town.drain()
        await sees("pending", texts[-1])
        await town.post("zoe", "delivered")
        await town.drain()
        await sees("delivered", "pending")
        last = await town.post("zoe", "deleted")
        await sees("deleted", "delivered")
        await town.statuses.delete(last.user_id, last.id)
        await sees("delivered", "pending")
        page = await town.page("ann", "cache", limit=40)
        assert [status.text for status in page.statuses] == ["delivered", "pending", *texts[::-1]]


@pytest.mark.parametrize("settings", [{"cap": 80}])
async def test_a_page_in_a_backlog_is_put_together_once(town: World) -> None:
    """Also in a process that reads several phases, and when what was pending has been delivered."""
    await town.timelines.change(delivering=IN_WORKER)
    town.pass_grace()
    for n in range(enough(2) + 5):
        await town.post("zoe", f"delivered {n}")
    await town.drain()
    for slug in IN_WORKER:
        await town.page("ann", slug)
    for n in range(3):
        await town.post("zoe", f"pending {n}")
    with (
        patch.object(Pending, "is_crowded", True),
        patch("phases.home.candidates.newest", wraps=newest) as put_together,
    ):
        for delivered in (False, True):
            if delivered:
                await town.drain()
            for slug in (*IN_WORKER, *IN_WORKER):
                await town.page("ann", slug, limit=2)
            put_together.reset_mock()
            for slug in (*IN_WORKER, *IN_WORKER):
                assert [status.text for status in (await town.page("ann", slug, limit=2)).statuses] == [
                    "pending 2",
                    "pending 1",
                ]
            put_together.assert_not_called()


@pytest.mark.parametrize("settings", [{"pending_scan": 9, "cap": 80}])
@pytest.mark.parametrize("phase", IN_WORKER)
async def test_a_backlog_is_read_once_for_everybody(world: World, phase: str) -> None:
    """Rule 10. From then on no page looks for its own authors, be they many, and each finds what has come since."""
    await world.timelines.change(delivering=[phase])
    world.pass_grace()
    await world.sign_up("ann", "ben", "zoe", "yan", "stranger")
    await world.follow("ann", "zoe", "yan")
    await world.follow("ben", "zoe")
    await world.warm("ann", "ben")
    texts = [f"zoe {n}" for n in range(4 * enough(2))]
    for n, text in enumerate(texts):
        if n == 2 * enough(2):
            await world.drain()
        await world.post("zoe", text)
    world.clock.advance(LATE_S + 1)
    for who in ("ann", "ben"):
        await world.begins_with(who, phase, texts[-1], texts[-2])

    with patch.object(Pending, "by_authors", side_effect=AssertionError("of own authors nothing is looked up")):
        for n in range(20):
            await world.post("yan", f"yan {n}")
            await world.post("stranger", "for nobody")
            await world.begins_with("ann", phase, f"yan {n}", f"yan {n - 1}" if n else texts[-1])
            await world.begins_with("ben", phase, texts[-1], texts[-2])
            world.clock.advance(LATE_S + 1 if n % 2 else 0)
    texts.append("behind a crowd")
    await world.post("zoe", texts[-1])
    for _ in range(world.stack.config.pending_scan + 1):  # in the same second
        await world.statuses.post(world.ids["stranger"], "for nobody")
    await world.begins_with("ben", phase, texts[-1], texts[-2])
    assert await world.walk("ben", phase, limit=3) == texts[::-1]
    await world.drain()
    await world.begins_with("ann", phase, texts[-1], "yan 19")
    assert await world.walk("ben", phase, limit=3) == texts[::-1]


@pytest.mark.parametrize("settings", [{"pending_scan": 9}])
@pytest.mark.parametrize("how", ["in time", "slow", "again", "switched on"])
@pytest.mark.parametrize("phase", IN_WORKER)
async def test_what_becomes_pending_late_is_missing_in_no_backlog(town: World, phase: str, how: str) -> None:
    """Its id is older than the reading of the backlog, and it is acknowledged after it."""
    await town.timelines.change(delivering=[phase])
    town.pass_grace()
    old = town.clock.new_id()
    town.clock.advance(10)
    texts = [f"zoe {n}" for n in range(20)]
    for text in texts:
        await town.post("zoe", text)
    if how == "in time":
        old = town.clock.new_id()
        town.clock.advance(LATE_S - 1)  # and another one before each post
    else:
        town.clock.advance(LATE_S + 1)
    sees = partial(town.begins_with, "ann", phase)
    await sees(texts[-1], texts[-2])
    with patch.object(Pending, "by_authors", side_effect=AssertionError("the backlog was read")):
        await sees(texts[-1], texts[-2])

    zoe, key = town.ids["zoe"], "a key"
    if how == "again":  # a process was killed behind its insert
        row = {"_id": old, "user_id": zoe, "text": "late", "audience": "followers", "deleted": False}
        kept = {"pending": [phase], "idempotency_key": f"{zoe}:{key}"}
        await town.stack.db["statuses"].insert_one(row | kept)
        await town.statuses.post(zoe, "late", idempotency_key=key)
    elif how in ("slow", "in time"):
        with patch.object(town.clock, "new_id", return_value=old):
            await town.post("zoe", "late")
    else:  # the settings are read again, as they may have changed meanwhile
        with (
            patch.object(town.clock, "new_id", return_value=old),
            patch.object(Switch, "still_holds", return_value=False),
        ):
            await town.post("zoe", "late")
    for _ in range(3):
        assert await town.walk("ann", phase, limit=3) == (
            ["late", *texts[::-1]] if how == "in time" else [*texts[::-1], "late"]
        )
        town.clock.advance(UNREAD_S)


@pytest.mark.parametrize("settings", [{"pending_scan": 9}])
async def test_a_backlog_that_is_too_long_is_left_alone(town: World) -> None:
    """Each page looks for its own authors then, and nobody reads on for a while."""
    for n in range(20):
        await town.post("zoe", f"zoe {n}")
    town.clock.advance(LATE_S + 1)
    with patch.object(backlog, "MOST", 10), patch.object(backlog, "dated", wraps=dated) as read:
        for _ in range(2):
            read.reset_mock()
            for _ in range(5):
                await town.begins_with("ann", CACHE.slug, "zoe 19", "zoe 18")
            assert read.call_count == 2, "the version, and the first step"
            town.clock.advance(UNREAD_S)
        read.reset_mock()
        await town.begins_with("ann", CACHE.slug, "zoe 19", "zoe 18")
        read.assert_not_called()  # the pause is longer now
        town.clock.advance(UNREAD_S)
        await town.begins_with("ann", CACHE.slug, "zoe 19", "zoe 18")
        assert read.call_count == 2


@pytest.mark.parametrize("settings", [{"pending_scan": 9}])
async def test_a_backlog_that_some_pages_at_once_do_not_believe_is_left_alone_once(town: World) -> None:
    """More has come than they look at. Each of them finds that out, and the pause is no longer for it."""
    sees, at_once, looks = partial(town.begins_with, "ann", CACHE.slug), 3, count()
    for n in range(40):
        if n == 20:
            town.clock.advance(LATE_S + 1)
            await sees("zoe 19", "zoe 18")
        await town.post("zoe", f"zoe {n}")
    town.clock.advance(LATE_S + 1)
    all_have_looked = asyncio.Barrier(at_once)

    async def meeting(db: Database, **finds: Find) -> dict[str, Rows]:
        answers = await together(db, **finds)
        if next(looks) < 2 * at_once:  # at the newest few, and at what has come since
            await all_have_looked.wait()
        return answers

    with patch.object(reading, "together", meeting):
        async with asyncio.timeout(20):  # for a page that looks less often
            await asyncio.gather(*(sees("zoe 39", "zoe 38") for _ in range(at_once)))
    town.clock.advance(UNREAD_S)
    with patch.object(Pending, "by_authors", side_effect=AssertionError("the backlog is read again")):
        await sees("zoe 39", "zoe 38")


@pytest.mark.parametrize("settings", [{"pending_scan": 9}])
async def test_a_backlog_that_few_pages_ask_for_is_left_alone(town: World) -> None:
    """Its reading has come to no end when it has to begin anew."""
    for n in range(20):
        await town.post("zoe", f"zoe {n}")
    town.clock.advance(LATE_S + 1)
    with patch.object(backlog, "STEP", 5), patch.object(backlog, "dated", wraps=dated) as read:
        await town.page("ann", CACHE.slug, limit=2)
        assert read.call_count == 2, "the version, and the first step"
        town.clock.advance(REREAD_S)
        for _ in range(5):
            await town.begins_with("ann", CACHE.slug, "zoe 19", "zoe 18")
        assert read.call_count == 2


@pytest.mark.parametrize("settings", [{"pending_scan": 9}])
async def test_a_backlog_that_is_read_stays_so_for_whoever_scrolls(town: World) -> None:
    """Of what is old little is pending, which says nothing about what is new."""
    oldest = await town.post("zoe", "oldest")
    await town.drain()
    for n in range(20):
        await town.post("zoe", f"zoe {n}")
    town.clock.advance(LATE_S + 1)
    with patch.object(backlog, "dated", wraps=dated) as read:
        await town.begins_with("ann", CACHE.slug, "zoe 19", "zoe 18")
        read.reset_mock()
        town.clock.advance(pending.CROWDED_S)
        before = ObjectId(oldest.id.binary[:4] + b"\xff" * 8)
        assert [s.text for s in (await town.page("ann", CACHE.slug, before)).statuses] == ["oldest"]
        await town.begins_with("ann", CACHE.slug, "zoe 19", "zoe 18")
        read.assert_not_called()


@pytest.mark.parametrize("settings", [{"pending_scan": 9}])
async def test_a_backlog_that_a_member_behind_has_answered_is_not_used(town: World) -> None:
    """After a change of the primary: the version was read of a later moment than what is pending."""
    for n in range(20):
        await town.post("zoe", f"zoe {n}")
    town.clock.advance(LATE_S + 1)
    moments = iter((Timestamp(200, 2), Timestamp(200, 1)))

    async def answer(db: Database, find: Find) -> tuple[Rows, Timestamp | None]:
        return (await dated(db, find))[0], next(moments)

    settings = await town.timelines.switch.current()
    names = town.timelines.switch.phases_of(CACHE.keeps or "")
    with patch.object(backlog, "dated", answer):
        assert await town.timelines.pending.backlog(names, settings.epoch) is None
    assert next(moments, None) is None
    town.clock.advance(UNREAD_S)
    assert await town.timelines.pending.backlog(names, settings.epoch)


async def test_nobody_is_told_of_a_late_status_before_its_version_has_changed(town: World) -> None:
    """Whoever is told reads a page. The status is counted: where a clock is behind, each that is posted is late."""
    old, counted_late = town.clock.new_id(), partial(REGISTRY.get_sample_value, "feedlab_posts_stored_late_total")
    before = counted_late()
    town.clock.advance(LATE_S + 1)
    order = Mock()
    with (
        patch.object(town.clock, "new_id", return_value=old),
        patch.object(Outbox, "_became_pending_late", side_effect=Outbox._became_pending_late, autospec=True) as changed,
        patch.object(town.stack.bus, "tell") as told,
    ):
        order.attach_mock(changed, "changed")
        order.attach_mock(told, "told")
        await town.post("zoe", "late")
    assert [name for name, *_ in order.mock_calls] == ["changed", "told"]
    assert (counted_late() or 0) == (before or 0) + 1
    await town.post("zoe", "in time")
    assert (counted_late() or 0) == (before or 0) + 1


def test_a_full_window_vouches_for_nothing() -> None:
    """Any of what is in it may have been found."""
    *known, reach = sorted((ObjectId() for _ in range(4)), reverse=True)
    (name, find), *_ = window_of_groups("pending", lambda authors: {}, [ObjectId()], [*known, reach], LAST_ID).items()
    rows = [{"_id": id, "user_id": id} for id in (ObjectId() for _ in range(find.limit - 4))]
    assert Undelivered.of({name: find}, {name: rows[1:]}).down_to == reach
    assert Undelivered.of({name: find}, {name: rows}).down_to == LAST_ID


async def test_a_consumer_that_this_program_does_not_know_is_still_owed(town: World) -> None:
    """Another version of the program has switched it on, and is not asked to wait until ours is gone."""
    await town.timelines.switch.change(SettingsChange(delivering=[QUERY.slug, CACHE.slug, "digest"]))
    town.pass_grace()
    await town.warm("ann")
    await town.post("zoe", "hello")
    statuses = town.stack.db["statuses"]
    one = {"text": "hello"}
    assert set(await statuses.distinct("pending", one)) == {CACHE.slug, "digest"}
    await town.sweep()
    await town.drain()
    assert await statuses.distinct("pending", one) == ["digest"]
    await town.sees("ann", "hello")


async def test_what_a_phase_keeps_that_this_program_does_not_know_is_let_alone(town: World) -> None:
    """Another version of the program has switched it on, and made it the default."""
    since, settings = town.clock.new_id(), town.stack.db[SETTINGS]
    theirs = {"kept": "digests", "since": since, "nodes": None, "until": None, "opens": town.clock.now()}
    await settings.update_one(
        {"_id": DOCUMENT},
        {"$set": {"read": "digest"}, "$push": {"delivering": "digest", "containers": theirs}, "$inc": {"version": 1}},
    )
    town.clock.advance(1)
    opened = await Timelines.open(town.stack)
    await opened.sweep()
    await opened.restart()
    town.pass_grace()
    await opened.switch.beat()
    status = await town.post("zoe", "hello")
    assert [each.id for each in (await opened.page(town.ids["ann"])).statuses] == [status.id]
    [kept] = [c for c in (await opened.switch.fresh()).containers if c.kept == "digests"]
    assert (kept.since, kept.until) == (since, None)


def without(world: World, *unknown: Phase) -> Timelines:
    """A process of a program that does not know these phases: in an upgrade, or after one was taken back."""
    return Timelines(world.stack, tuple(phase for phase in PHASES if phase not in unknown))


async def nothing_is_missing_in(world: World, phase: Phase) -> None:
    assert await world.walk("ann", phase.slug) == await world.walk("ann", QUERY.slug)


async def test_what_an_older_program_switches_off_ends(town: World) -> None:
    """It does not know what the phase keeps, and no phase is left that it does not know."""
    await town.post("zoe", "first")
    await town.drain()
    old = without(town, HYBRID)
    await old.change(delivering=[CACHE.slug])
    town.pass_grace()
    assert not [c for c in (await old.switch.fresh()).containers if c.kept == HYBRID.keeps and c.until is None]
    await town.post("zoe", "second")
    await town.drain()
    await nothing_is_missing_in(town, HYBRID)


async def test_what_an_older_program_has_switched_off_is_not_read_and_does_not_go_on(town: World) -> None:
    """It lets alone what belongs to the one or to the other phase that it does not know."""
    await town.post("zoe", "first")
    await town.drain()
    await without(town, HYBRID, STREAM).switch.change(SettingsChange(delivering=[CACHE.slug, STREAM.slug]))
    town.pass_grace()
    await town.post("zoe", "second")
    await town.drain()
    assert await town.source("ann", STREAM.slug) == "list"
    await nothing_is_missing_in(town, HYBRID)
    await town.timelines.change(delivering=[CACHE.slug, STREAM.slug, HYBRID.slug])
    town.pass_grace()
    await nothing_is_missing_in(town, HYBRID)
    assert await town.source("ann", HYBRID.slug) == "list"
    await nothing_is_missing_in(town, HYBRID)


async def test_a_backfill_by_an_older_program_is_still_owed_to_what_that_does_not_know(
    town: World, caplog: pytest.LogCaptureFixture
) -> None:
    await town.sign_up("yan")
    await town.post("yan", "before")
    await town.drain()
    await town.warm("ann")
    old = without(town, HYBRID)
    await Relations(town.stack, old.outbox).follow(town.ids["ann"], town.ids["yan"])
    await nothing_is_missing_in(town, HYBRID)
    town.clock.advance(sweeper.OVERDUE_S + 2)
    with patch.object(old.outbox.backfills, "make") as made:
        await sweeper.sweep(old)
    assert not made.mock_calls, "it would be repeated until the other version comes"
    assert f"a program that knows {[HYBRID.slug]}" in caplog.text
    await nothing_is_missing_in(town, HYBRID)
    await town.sweep()
    assert await town.source("ann", HYBRID.slug) == "list"
    await nothing_is_missing_in(town, HYBRID)
    await old.change(delivering=[CACHE.slug])
    town.pass_grace()
    await Relations(town.stack, old.outbox).follow(town.ids["ben"], town.ids["yan"])
    assert not await town.stack.db["follows"].find_one({"debt": True}), "it ended with the phase"


async def test_a_lost_enqueue_is_found_by_the_sweeper(town: World) -> None:
    async with town.without_redis():
        await town.post("zoe", "lost")
    await town.drain()
    assert await town.pending() == {phase: int(phase in IN_WORKER) for phase in KEEPING}
    await town.sweep()
    await town.drain()
    assert await town.pending() == dict.fromkeys(KEEPING, 0)


async def test_redis_flushed_with_everything_in_it(town: World) -> None:
    await town.post("zoe", "flushed")
    await town.stack.queue.forget()
    await town.sees("ann", "flushed")
    await town.sweep()
    await town.drain()
    assert set((await town.pending()).values()) == {0}
    await town.sees("ann", "flushed")


async def test_a_push_that_dies_half_way_is_finished_by_a_worker(town: World) -> None:
    with patch.object(Outbox, "done", side_effect=Crash), pytest.raises(Crash):
        await town.post("zoe", "half")
    assert (await town.pending())["push"] == 1
    await town.sweep()
    await town.drain()
    assert set((await town.pending()).values()) == {0}
    await town.sees("ann", "half")


# Rule 6


@pytest.mark.parametrize("phase", IN_WORKER)
async def test_jobs_twice_out_of_order_and_half(town: World, phase: str) -> None:
    first = await town.post("zoe", "first")
    second = await town.post("zoe", "second")
    consumer = town.timelines.outbox.consumers[phase]
    walk = partial(put_on_timelines, town.delivery(phase))
    last = await walk(second, None)
    await walk(second, None)
    assert last
    while last:
        last = await walk(second, last)
    await walk(first, None)  # and no more of it: the worker dies
    await town.sees("ann", "second", "first")
    await town.drain()
    await consumer.handle(first.id, None)
    await town.drain()
    assert set((await town.pending()).values()) == {0}
    await town.sees("ann", "second", "first")
    await town.sees("fan6", "second", "first")


async def test_a_deleted_status_is_delivered_to_nobody_and_owed_no_longer(town: World) -> None:
    status = await town.post("zoe", "regretted")
    await town.statuses.delete(town.ids["zoe"], status.id)
    await town.drain()
    assert set((await town.pending()).values()) == {0}
    await town.sees("ann")


async def test_the_same_key_posts_once(town: World) -> None:
    zoe = town.ids["zoe"]
    posted, created = await town.statuses.post(zoe, "once", idempotency_key="k1")
    assert created
    assert await town.statuses.post(zoe, "once", idempotency_key="k1") == (posted, False)
    with pytest.raises(Conflict):
        await town.statuses.post(zoe, "twice", idempotency_key="k1")
    _, created = await town.statuses.post(town.ids["ann"], "once", idempotency_key="k1")
    assert created  # keys are the author's own
    await town.statuses.delete(zoe, posted.id)
    with pytest.raises(Conflict, match="has been deleted"):
        await town.statuses.post(zoe, "once", idempotency_key="k1")


# Rule 7


async def test_a_small_fan_out_does_not_wait_behind_a_large_one(world: World) -> None:
    await world.timelines.change(delivering=[QUEUE.slug])
    world.pass_grace()
    fans = [f"fan{n}" for n in range(40)]
    await world.sign_up("star", "pal", *fans)
    for fan in fans:
        await world.follow(fan, "star")
    await world.follow("fan0", "pal")
    order: list[str] = []
    put = Delivery.put

    async def noted(self: Delivery, status: StatusRow, *more: Any) -> None:
        order.append(status.text)
        await put(self, status, *more)

    with patch.object(Delivery, "put", noted):
        await world.post("star", "large")
        await world.post("star", "large too")
        await world.post("pal", "small")
        await world.drain()
    assert order.count("large") == 10
    assert order.index("small") <= 4
    assert set((await world.pending()).values()) == {0}


# Rule 8 and phase 4


async def test_a_status_delivered_while_a_list_is_rebuilt_is_in_it(town: World) -> None:
    await town.post("zoe", "before")
    await town.drain()
    await town.chill("ann")
    recent = Returning.recent

    async def raced(self: Returning, authors: list[ObjectId] | None = None) -> Recent:
        part = await recent(self, authors)
        await town.post("zoe", "during")
        await town.drain()
        return part

    with patch.object(Returning, "recent", raced):
        await town.page("ann", "cache")
    page = await town.page("ann", "cache")
    assert ([s.text for s in page.statuses], page.source) == (["during", "before"], "list")


@pytest.mark.parametrize("phase", KEEPING)
async def test_a_follow_while_a_timeline_is_rebuilt_is_not_lost(town: World, phase: str) -> None:
    await town.sign_up("yan")
    await town.post("yan", "before")
    await town.drain()
    await town.chill("ann")
    recent = Returning.recent

    async def raced(self: Returning, authors: list[ObjectId] | None = None) -> Recent:
        part = await recent(self, authors)
        with patch.object(Returning, "recent", recent):
            await town.follow("ann", "yan")
        return part

    with patch.object(Returning, "recent", raced):
        await town.page("ann", phase)
    await town.sees("ann", "before")


async def test_of_two_rebuilds_one_fills_and_nothing_is_lost(town: World) -> None:
    await town.post("zoe", "hello")
    await town.drain()
    await town.chill("ann")
    recent, pages = Returning.recent, []

    async def raced(self: Returning, authors: list[ObjectId] | None = None) -> Recent:
        part = await recent(self, authors)
        with patch.object(Returning, "recent", side_effect=AssertionError("one asks, and the other one does not")):
            pages.append(await town.page("ann", "cache"))
        return part

    with patch.object(Returning, "recent", raced):
        pages.append(await town.page("ann", "cache"))
    assert [page.source for page in pages] == ["query", "rebuilt"]
    assert [page.cold for page in pages] == [True, True]
    await town.sees("ann", "hello")


async def test_memcached_flushed_is_one_rebuild_per_reader(town: World) -> None:
    await town.post("zoe", "hello")
    await town.drain()
    await flush(town.stack.memcached)
    pages = [await town.page("ann", "cache") for _ in range(2)]
    assert [(page.source, page.cold) for page in pages] == [("rebuilt", True), ("list", False)]
    await town.sees("ann", "hello")


async def test_deliveries_wait_for_memcached(town: World) -> None:
    status = await town.post("zoe", "hello")
    async with town.without_memcached():
        failed = await town.timelines.outbox.consumers["cache"].handle(status.id, None)
        assert isinstance(failed[status.id], MemcachedDown)
        page = await town.page("ann", "cache")
        assert ([s.text for s in page.statuses], page.source) == (["hello"], "query")
    assert (await town.pending())["cache"] == 1
    await town.sees("ann", "hello")


async def test_whoever_is_away_is_skipped_and_complete_on_return(town: World) -> None:
    town.clock.advance(town.stack.config.timeline_ttl_s + town.stack.config.activity_slack_s + 1)
    await town.warm("ben")
    await town.post("zoe", "while ann was away")
    sent: list[int] = []
    prepend = town.stack.memcached.prepend

    async def noted(keys: list[str], value: bytes) -> int:
        sent.append(len(keys))
        return await prepend(keys, value)

    with patch.object(town.stack.memcached, "prepend", noted):
        await town.drain()
    assert sent == [2] * len(IN_MEMCACHED)  # ben and zoe herself, of ten
    page = await town.page("ann", "cache")
    assert ([s.text for s in page.statuses], page.source) == (["while ann was away"], "rebuilt")
    await town.post("zoe", "now she is back")
    await town.drain()
    assert await town.source("ann", "cache") == "list"
    await town.sees("ann", "now she is back", "while ann was away")


async def posted_while_nobody_was_there(town: World) -> None:
    """Ann's activity is over, so nobody delivers to her; what Memcached still has of her has a gap."""
    status = await town.post("zoe", "while nobody was there")
    await town.drain()
    kept = town.timelines.kept_by(CACHE.slug)
    assert kept
    assert await kept.holds(town.ids["ann"], status.id) is None
    pages = [await town.page("ann", "cache") for _ in range(2)]
    assert [page.source for page in pages] == ["rebuilt", "list"]
    await town.post("zoe", "since")
    await town.drain()
    assert await town.walk("ann", "cache") == ["since", "while nobody was there"] == await town.walk("ann", "query")
    assert await town.source("ann", "cache") == "list"
    await town.sees("ann", "since", "while nobody was there")


async def test_a_list_that_expired_while_the_machine_slept_is_cold(town: World) -> None:
    """Memcached measures TTLs on a clock that stands still then."""
    config = town.stack.config
    town.clock.sleep(config.timeline_ttl_s + config.activity_slack_s + 1)
    await posted_while_nobody_was_there(town)


async def test_a_list_that_expired_over_several_nights_is_cold(town: World) -> None:
    """Another process than the one that remembers Ann, and its sweeper has been by."""
    config = town.stack.config
    for _ in range(4):
        town.clock.sleep((config.timeline_ttl_s + config.activity_slack_s) / 4)
        town.clock.advance(60)
        await town.sweep()
    town.timelines = Timelines(town.stack)
    await posted_while_nobody_was_there(town)


async def test_a_follow_while_an_expired_list_is_there_is_not_lost(town: World) -> None:
    await town.sign_up("yan")
    await town.post("yan", "before")
    await town.drain()
    town.clock.sleep(town.stack.config.timeline_ttl_s + 1)
    await town.follow("ann", "yan")
    await town.sees("ann", "before")


async def test_reading_renews_the_list_and_marks_the_reader_active_first(town: World) -> None:
    ttl_s = town.stack.config.timeline_ttl_s
    for _ in range(6):  # far beyond one TTL
        town.clock.advance(ttl_s * 0.6)
        await town.page("ann", "cache")
        active = await town.stack.db["active_readers"].find_one({"_id": town.ids["ann"]})
        assert active
        left_s = (active["until"] - town.clock.now()).total_seconds()
        assert left_s >= ttl_s
    await town.post("zoe", "hello")
    await town.drain()
    assert (await town.page("ann", "cache")).source == "list"


@pytest.mark.parametrize("settings", [{"cap": 80}])
@pytest.mark.parametrize(("slug", "commands"), [("push", 0), ("cache", 1), ("stream", 1)])
async def test_what_a_process_has_unpacked_is_read_only_while_it_is_there(
    world: World, slug: str, commands: int
) -> None:
    """What is kept is read by so many commands, beside the one to MongoDB, unpacked or not."""
    await world.sign_up("ann", "zoe")
    await world.follow("ann", "zoe")
    await world.warm("ann")
    await world.timelines.change(delivering=[slug])
    texts = [f"status {n}" for n in range(50)]
    for text in texts:
        await world.post("zoe", text)
    await world.drain()
    ann, newest = world.ids["ann"], texts[::-1]

    async def seen(limit: int, before: ObjectId | None = None) -> tuple[list[str], str, int]:
        with counted() as cost:
            page = await world.timelines.page(ann, phase=slug, limit=limit, before=before)
        return [status.text for status in page.statuses], page.source, cost.memcached + cost.redis

    await world.page("ann", slug)
    for limit in (2, 2, 40, 40, 2):
        assert await seen(limit) == (newest[:limit], "list", commands)
    below = (await world.timelines.page(ann, phase=slug, limit=40)).next
    for before, texts in ((None, newest[:2]), (below, newest[40:42]), (None, newest[:2])):
        assert await seen(2, before) == (texts, "list", commands)
    await world.post("zoe", "one more")
    await world.drain()
    assert await seen(2) == (["one more", newest[0]], "list", commands)
    for _ in range(6):  # far beyond one TTL
        world.clock.advance(world.stack.config.timeline_ttl_s * 0.6)
        assert (await seen(2))[:2] == (["one more", newest[0]], "list")


@pytest.mark.parametrize("settings", [{"comeback": "manual"}])
async def test_manual_return_is_a_cold_page_until_refreshed(town: World) -> None:
    await town.post("zoe", "hello")
    await town.drain()
    for _ in range(2):
        page = await town.page("ann", "cache")
        assert ([s.text for s in page.statuses], page.source, page.cold) == (["hello"], "query", True)
    refreshed = await town.timelines.refresh(town.ids["ann"], phase="cache")
    assert (refreshed.source, [s.text for s in refreshed.statuses]) == ("rebuilt", ["hello"])
    page = await town.page("ann", "cache")
    assert (page.source, page.cold) == ("list", False)
