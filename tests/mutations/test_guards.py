"""Guards that nothing else in the tests would miss."""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from datetime import timedelta
from functools import partial
from types import SimpleNamespace
from typing import Any, cast
from unittest.mock import AsyncMock, patch

import pytest
from bson import ObjectId
from hypothesis import given
from hypothesis import strategies as st
from pymongo.errors import OperationFailure

from app.access import Entry
from app.clock import FIRST_ID, LAST_ID, id_at
from app.edges import Following, OwnEdges
from app.stack import MemcachedDown
from app.stack.cost import counted
from app.stack.mongodb.find import Rows
from phases.delivering import pending
from phases.delivering.settings import SettingsChange
from phases.home import memory
from phases.home.candidates import KeptThenQuery, Slice
from phases.home.page import SPARE, Filling, enough
from phases.keeping.activity import ActiveReaders
from phases.keeping.in_memory import RENEW_AFTER
from phases.keeping.lists import ID_BYTES, LIST, SURPLUS, Lists, Value, key
from phases.keeping.recipients import Admitted
from phases.keeping.store import Container, Place, Recent, Returning
from phases.p1_query import QUERY
from phases.p2_push import put_on_timelines
from phases.p4_cache import CACHE, HomeLists
from phases.p6_hybrid import MergedLists
from phases.reading import ATTEMPTS
from phases.timelines import PhaseConsumer, Timelines
from tests.mutations.__main__ import ROOT, apply
from tests.mutations.mutants import MUTANTS
from tests.world import IN_MEMCACHED, IN_WORKER, KEEPING, SLUGS, World
from workers import jobs

pytestmark = pytest.mark.anyio


def test_every_guard_is_where_the_mutants_say() -> None:
    for mutant in MUTANTS:
        file, text, without = apply(ROOT, mutant)
        assert text != without, mutant.name
        compile(without, file, "exec")


class Crash(Exception):
    pass


@pytest.fixture
async def town(world: World) -> World:
    await world.sign_up("ann", "zoe")
    await world.follow("ann", "zoe")
    await world.warm("ann")
    return world


async def test_a_page_is_filled_up_however_many_are_not_for_the_reader(town: World) -> None:
    for n in range(3):
        await town.post("zoe", f"seen {n}")
    for _ in range(SPARE + 5):
        await town.post("zoe", "not for ann", "mutuals")
    await town.drain()
    for phase in SLUGS:
        page = await town.page("ann", phase, limit=2)
        assert [status.text for status in page.statuses] == ["seen 2", "seen 1"], phase


async def test_what_other_classes_keep_needs_another_name(world: World) -> None:
    mine = replace(CACHE, slug="mine", store=MergedLists)
    with pytest.raises(AssertionError, match="mine: other classes keep 'lists of active followers'"):
        Timelines(world.stack, (CACHE, mine))


@pytest.mark.parametrize("settings", [{"pending_scan": 5}])
async def test_a_short_list_is_not_the_end_of_a_long_backlog(town: World) -> None:
    """All of it is kept, but not all of what is pending has been looked at."""
    await town.post("zoe", "seen")
    for _ in range(3 * SPARE):
        await town.post("zoe", "not for ann", "mutuals")
    for phase in IN_WORKER:
        page = await town.page("ann", phase, limit=2)
        assert ([status.text for status in page.statuses], page.next) == (["seen"], None), phase


@pytest.mark.parametrize("settings", [{"pending_scan": 5}])
async def test_what_is_pending_is_looked_through_however_much_is_not_for_the_reader(town: World) -> None:
    """Rule 10. More than one look finds of their own authors, and the page is below it."""
    await town.timelines.change(delivering=IN_WORKER)
    town.pass_grace()
    for n in range(3):
        await town.post("zoe", f"seen {n}")
        if n == 1:
            await town.drain()
    for _ in range(3 * (SPARE + 5)):
        await town.post("zoe", "not for ann", "mutuals")
    for phase in IN_WORKER:
        page = await town.page("ann", phase, limit=2)
        assert [status.text for status in page.statuses] == ["seen 2", "seen 1"], phase


@pytest.mark.parametrize("settings", [{"pending_scan": 5}])
async def test_the_backlog_of_somebody_followed_meanwhile_is_looked_at(town: World) -> None:
    """Rule 10. The process remembers whom the reader followed before."""
    await town.timelines.change(delivering=IN_WORKER)
    town.pass_grace()
    await town.sign_up("yan", "stranger")
    for n in range(8):
        await town.post("stranger", f"for nobody {n}")
    with patch.object(pending, "CROWDED_S", 3600):
        for phase in IN_WORKER:
            assert await town.walk("ann", phase) == []
        await town.follow("ann", "yan")
        await town.post("yan", "by yan")
        for phase in IN_WORKER:
            assert await town.walk("ann", phase) == ["by yan"], phase


async def test_a_follow_behind_the_mark_of_a_return_is_not_lost(town: World) -> None:
    """Rule 8. The placeholder is there already: the backfill of the edge finds it, and drops it."""
    await town.sign_up("yan")
    await town.post("yan", "by yan")
    await town.drain()
    admit, follows = ActiveReaders.admit, ["yan"]

    async def and_follow(self: ActiveReaders, reader: ObjectId, followees: Sequence[ObjectId]) -> Admitted:
        admitted = await admit(self, reader, followees)
        while follows:
            await town.follow("ann", follows.pop())
        return admitted

    await town.chill("ann")
    with patch.object(ActiveReaders, "admit", and_follow):
        await town.page("ann", CACHE.slug)
    assert await town.walk("ann", CACHE.slug) == ["by yan"]


async def test_what_somebody_else_has_leased_is_not_filled(town: World) -> None:
    kept = town.timelines.kept_by(CACHE.slug)
    container = (await town.timelines.switch.fresh()).current(CACHE.keeps or "")
    assert kept
    assert container
    lists, ann = kept.store, town.ids["ann"]
    assert isinstance(lists, Lists)
    leases = []
    for _ in range(2):  # the first one was dropped meanwhile
        await lists.forget(container, ann)
        leases.append(await lists.lease(container, ann))
    first, second = leases
    assert first
    assert second
    until = town.clock.now() + timedelta(hours=1)
    assert not await lists.fill(first, Recent([], FIRST_ID), until)
    assert await lists.fill(second, Recent([], FIRST_ID), until)


@pytest.mark.parametrize("error", [MemcachedDown(), OperationFailure("no host matches", 133)])
async def test_a_delivery_that_fails_is_not_the_posters_business(town: World, error: Exception) -> None:
    """Rule 1. It is stored: whoever is told otherwise posts it again."""
    with patch.object(PhaseConsumer, "hand_over", side_effect=error):
        status, created = await town.statuses.post(town.ids["zoe"], "stored")
    assert created
    await town.sweep()
    await town.drain()
    await town.sees("ann", status.text)


async def test_what_lies_below_the_floor_is_not_believed(town: World) -> None:
    """Rule 3. A late delivery puts an entry below the floor, where others are missing."""
    early = await town.post("zoe", "early, delivered late")
    texts = [f"zoe {n}" for n in range(12)]  # more than the cap
    for text in texts:
        await town.post("zoe", text)
    await town.drain()
    await town.chill("ann")
    await town.warm("ann")
    for phase in IN_WORKER:
        await put_on_timelines(town.delivery(phase), early, None)
    for phase in SLUGS:
        assert await town.walk("ann", phase) == [*reversed(texts), early.text], phase


async def test_what_is_pending_below_the_floor_is_shown_once(town: World) -> None:
    """Rules 3 and 5. Below the floor phase 1 answers, and knows about what is pending too."""
    texts = [f"zoe {n}" for n in range(13)]  # more than the cap, and no job of them is done
    for text in texts:
        await town.post("zoe", text)
    await town.chill("ann")
    await town.warm("ann")
    for phase in SLUGS:
        assert await town.walk("ann", phase, limit=20) == texts[::-1], phase


@pytest.mark.parametrize("settings", [{"cap": 16}])  # more than a page of 3 looks at
async def test_a_list_that_is_too_long_is_cut_by_a_process_that_knows_nobody(town: World) -> None:
    cap = town.stack.config.cap
    for n in range(int(cap * SURPLUS) + 1):
        await town.post("zoe", f"zoe {n}")
    await town.drain()
    container = (await town.timelines.switch.fresh()).current(CACHE.keeps or "")
    assert container
    at = key(container, town.ids["ann"])
    for kept in (int(cap * SURPLUS) + 1, cap):
        found = await town.stack.memcached.gets(at)
        assert found
        assert len(Value.unpacked(found[0]).ids) == kept
        await Timelines(town.stack).page(town.ids["ann"], phase=CACHE.slug, limit=3)
    town.clock.advance(town.stack.config.timeline_ttl_s * (RENEW_AFTER + 0.1))
    await Timelines(town.stack).page(town.ids["ann"], phase=CACHE.slug, limit=3)
    renewed = await town.stack.memcached.gets(at)
    assert renewed
    assert found
    assert renewed[0] != found[0]
    assert Value.unpacked(renewed[0]).ids == Value.unpacked(found[0]).ids


async def test_a_list_that_has_an_id_again_and_again_is_cut(town: World) -> None:
    """Rule 6. Each try to deliver may leave it there once more."""
    cap, consumer = town.stack.config.cap, town.timelines.outbox.consumers[CACHE.slug]
    status = await town.post("zoe", "hello")
    container = (await town.timelines.switch.fresh()).current(CACHE.keeps or "")
    assert container
    at = key(container, town.ids["ann"])
    with patch.object(town.timelines.outbox, "done", AsyncMock()):  # it dies each time, before it says so
        for _ in range(int(cap * SURPLUS) + 1):
            await consumer.handle(status.id, None)
    lengths = []
    for _ in range(2):
        found = await town.stack.memcached.gets(at)
        assert found
        lengths.append(len(found[0]) - len(Value(LIST, (), FIRST_ID.binary).packed()))
        assert await town.walk("ann", CACHE.slug) == ["hello"]
    assert lengths == [ID_BYTES * (int(cap * SURPLUS) + 1), ID_BYTES]


async def test_no_consumer_is_called_as_a_tag_is(town: World) -> None:
    """Nor so that the index of what is pending of authors would leave it out."""
    for name in ("7days", "@ann", "#1"):
        with pytest.raises(AssertionError, match="small letter"):
            town.timelines.outbox.add(cast(Any, SimpleNamespace(name=name)))


async def test_a_list_counts_an_id_once() -> None:
    """Rule 6. Delivered again and again, one status fills no list."""
    ids = [ObjectId() for _ in range(3)]
    raw = b"".join(id.binary for id in (*ids, *ids, ids[0])) + Value(LIST, (), FIRST_ID.binary).packed()
    kept = Value.unpacked(raw)
    place = Place(Container("lists", FIRST_ID), ObjectId(), LAST_ID, 10)
    assert [entry.id for entry in kept.slice(place).entries] == sorted(ids, reverse=True)
    assert kept.with_ids((), cap=3).floor == FIRST_ID.binary


@given(
    st.sets(st.integers(0, 40), max_size=20),
    st.lists(st.integers(0, 40), max_size=10),
    st.integers(1, 12),
)
def test_the_newest_ids_of_a_list_are_those_of_all_of_it(stored: set[int], delivered: list[int], newest: int) -> None:
    """Rule 6. In whatever order they are delivered, and however often."""
    front, back = ([bytes(11) + bytes([n]) for n in each] for each in (delivered, sorted(stored, reverse=True)))
    ids, raw = [*front, *back], b"".join(front) + Value(LIST, back, FIRST_ID.binary, expires_at_ms=7).packed()
    of_all, some = Value.unpacked(raw), Value.unpacked(raw, newest)
    assert of_all.ids == sorted({*ids}, reverse=True)
    assert (some.ids[:newest], some.expires_at_ms, of_all.expires_at_ms) == (of_all.ids[:newest], 7, 7)


@pytest.mark.parametrize("phase", IN_WORKER)
async def test_a_replay_delivers_what_the_earlier_try_did_not(town: World, phase: str) -> None:
    """Rule 5. The earlier one took longer than the grace, while a phase was switched on, and died before it noticed."""
    await town.timelines.change(delivering=[])
    town.pass_grace()
    old = await town.timelines.switch.fresh()
    await town.timelines.change(delivering=[phase])
    town.pass_grace()
    await town.warm("ann")
    post = partial(town.statuses.post, town.ids["zoe"], "slow", idempotency_key="k")
    with (
        patch.object(town.timelines.switch, "current", return_value=old),
        patch.object(town.timelines.outbox, "make_owed", side_effect=Crash),
        pytest.raises(Crash),
    ):
        await post()
    _, created = await post()
    assert not created
    assert (await town.page("ann", phase)).source == "list"
    assert await town.walk("ann", phase) == ["slow"]
    await town.drain()
    await town.sees("ann", "slow")


async def test_a_backfill_does_not_prolong_a_list(town: World) -> None:
    """Phase 4. Following is not reading: the reader's edges are not marked, so the list must end when it would have."""
    await town.sign_up("yan")
    await town.post("yan", "before")
    await town.drain()
    settings = await town.timelines.switch.fresh()
    lists = [
        container for slug in IN_MEMCACHED if (container := settings.current(town.timelines.phases[slug].keeps or ""))
    ]
    asked: list[int] = []
    cas = town.stack.memcached.cas

    async def noted(at: str, value: bytes, version: object, ttl_s: int) -> bool:
        assert at in [key(container, town.ids["ann"]) for container in lists]
        asked.append(ttl_s)
        return await cas(at, value, version, ttl_s)

    town.clock.advance(1_000)
    with patch.object(town.stack.memcached, "cas", noted):
        await town.follow("ann", "yan")
    assert len(asked) == len(lists) == len(IN_MEMCACHED)
    assert max(asked) < town.stack.config.timeline_ttl_s - 990
    assert [await town.source("ann", phase) for phase in KEEPING] == ["list"] * len(KEEPING)
    await town.sees("ann", "before")


async def test_a_long_backfill_into_an_empty_list_leaves_no_gap(world: World) -> None:
    """Rule 3. Nothing is cut off when exactly as many fit, and still there are older ones."""
    await world.sign_up("ann", "yan")
    texts = [f"yan {n}" for n in range(15)]  # more than the cap
    for text in texts:
        await world.post("yan", text)
    await world.drain()
    await world.warm("ann")
    await world.follow("ann", "yan")
    for phase in SLUGS:
        assert await world.walk("ann", phase, limit=7) == texts[::-1], phase


@pytest.mark.parametrize("settings", [{"pending_scan": 5}])
async def test_what_strangers_have_pending_hides_nothing(town: World) -> None:
    """Rule 5. More is pending than a read looks at, and what it looks at is not for this reader."""
    await town.timelines.change(delivering=IN_WORKER)
    town.pass_grace()
    await town.sign_up("stranger")
    await town.post("zoe", "for ann")
    for n in range(8):
        await town.post("stranger", f"for nobody {n}")
    await town.sees("ann", "for ann")


@pytest.mark.parametrize("settings", [{"pending_scan": 5}])
async def test_a_page_that_has_to_begin_anew_again_and_again_is_made_by_the_query(
    town: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What a look has learned of the backlog is forgotten before the next one."""
    await town.timelines.change(delivering=[CACHE.slug])
    town.pass_grace()
    await town.sign_up("stranger")
    await town.warm("ann")
    for n in range(8):
        await town.post("stranger", f"for nobody {n}")
    await town.post("zoe", "for ann")
    read, tries = Lists.read, 0

    async def counted(self: Lists, place: Place, answers: Mapping[str, Rows]) -> Slice | None:
        nonlocal tries
        tries += 1
        return await read(self, place, answers)

    monkeypatch.setattr(Lists, "read", counted)
    monkeypatch.setattr(pending, "CROWDED_S", 0)
    page = await town.page("ann", CACHE.slug)
    assert [status.text for status in page.statuses] == ["for ann"]
    assert (page.source, tries) == ("query", ATTEMPTS)


async def _hidden(town: World, count: int) -> None:
    """Newer than what Ann may see, and for a circle that she is not in."""
    now, zoe = town.clock.now() + timedelta(seconds=1), town.ids["zoe"]
    fields = {"user_id": zoe, "text": "", "audience": "circle", "deleted": False}
    await town.stack.db["statuses"].insert_many([{"_id": id_at(now), **fields} for _ in range(count)])


@pytest.mark.parametrize("settings", [{"cap": 900}])
async def test_a_page_is_full_after_few_commands_however_much_is_not_for_its_reader(town: World) -> None:
    """And what it took is neither held nor remembered: the next page would ask for all of it."""
    await town.post("zoe", "for ann")
    await town.drain()
    await _hidden(town, 800)
    await town.chill("ann")  # so that her list has them, too
    held, fill = list[int](), Filling.fill

    async def filled(filling: Filling, *asked: Any) -> Any:
        page = await fill(filling, *asked)
        held.append(len(filling.rows))
        return page

    for phase in (QUERY.slug, CACHE.slug):
        for _ in range(2):
            await town.page("ann", phase)
        with counted() as cost, patch.object(Filling, "fill", filled):
            page = await town.page("ann", phase)
        assert [status.text for status in page.statuses] == ["for ann"]
        assert cost.mongodb <= 14, phase
    assert [rows < 500 for rows in held] == [True, True], "there are 801, and the last look is for half of them"
    assert town.timelines._reading._pages.recall(town.ids["ann"]) is memory.UNSEEN


async def test_an_empty_page_takes_memory_too(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(memory, "ROWS_REMEMBERED", 10)
    pages, readers = memory.FirstPages(), [ObjectId() for _ in range(11)]
    for reader in readers:
        pages.keep(reader, memory.FirstPage({}, 1))
    assert [pages.recall(reader).likes for reader in readers] == [0, *[1] * 10], "the oldest one has gone"


async def test_edges_that_are_learned_on_older_pages_are_counted(town: World) -> None:
    """Else a memory that is full takes more and more while people scroll."""
    authors = [f"author{n}" for n in range(30)]
    await town.sign_up(*authors)
    await town.follow("ann", *authors)
    for author in authors:
        await town.post(author, f"by {author}")
    await town.drain()
    await town.warm("ann")
    for phase in KEEPING:
        await town.walk("ann", phase, limit=2)
        edges = town.timelines._reading._edges._readers
        assert edges.currsize == sum(map(len, edges.values())) > len(authors), phase


@pytest.mark.parametrize("phase", IN_WORKER)
async def test_the_last_follower_has_it_too(world: World, phase: str) -> None:
    """Rules 5 and 6. Three chunks, and everybody's activity ends at the same moment."""
    fans = [f"fan{n}" for n in range(10)]
    await world.timelines.change(delivering=[phase])
    world.pass_grace()
    await world.sign_up("star", *fans)
    for fan in fans:
        await world.follow(fan, "star")
        await world.warm(fan)
    await world.post("star", "to all")
    with patch.object(jobs, "TURN_S", 0):
        await world.drain()
    for fan in fans:
        assert await world.source(fan, phase) == "list", fan
        assert await world.walk(fan, phase) == ["to all"], fan


async def test_a_circle_fills_no_strangers_list(town: World) -> None:
    """Whom somebody else puts into a circle without being followed gets nothing delivered."""
    await town.sign_up("spam")
    await town.relations.add_to_circle(town.ids["spam"], town.ids["ann"])
    await town.chill("ann")
    await town.post("zoe", "hello")
    await town.post("spam", "buy")
    await town.drain()
    await town.page("ann", "cache")
    container = (await town.timelines.switch.fresh()).current(CACHE.keeps or "")
    assert container
    found = await town.stack.memcached.gets(key(container, town.ids["ann"]))
    assert found
    assert len(Value.unpacked(found[0]).ids) == 1
    await town.sees("ann", "hello")


@pytest.mark.parametrize("settings", [{"timeline_ttl_s": 60, "activity_slack_s": 10, "lease_s": 300}])
async def test_a_list_whose_time_is_over_before_it_is_filled_is_given_up(town: World) -> None:
    await town.chill("ann")
    recent = Returning.recent

    async def for_long(self: Returning, authors: list[ObjectId] | None = None) -> Recent:
        town.clock.advance(75)
        return await recent(self, authors)

    with patch.object(Returning, "recent", for_long):
        page = await town.page("ann", "cache")
    assert (page.source, page.cold) == ("query", True)


async def test_ones_own_list_is_delivered_to(town: World) -> None:
    await town.warm("zoe")
    await town.post("zoe", "mine")
    await town.drain()
    for phase in KEEPING:
        assert await town.source("zoe", phase) == "list", phase
        assert await town.walk("zoe", phase) == ["mine"], phase


async def test_a_job_that_was_lost_between_queue_and_worker_is_replaced(town: World) -> None:
    """Rule 5. Redis knows the job, but no queue and no registry has it."""
    await town.post("zoe", "lost")
    for queue in town.stack.queue.queues.values():
        town.stack.queue.connection.delete(queue.key)
    await town.sweep()
    await town.drain()
    assert set((await town.pending()).values()) == {0}


async def test_a_worker_that_does_not_reach_the_lists_does_not_say_it_delivered(town: World) -> None:
    """Rule 3. Lists are on the nodes they were begun on; this process was started with others."""
    status = await town.post("zoe", "hello")
    with patch.object(town.stack.memcached, "nodes", ("elsewhere:1",)):
        failed = await town.timelines.outbox.consumers[CACHE.slug].handle(status.id, None)
    assert "this process has them on elsewhere:1. Give every process the same FEEDLAB_MEMCACHED" in str(
        failed[status.id]
    )
    assert (await town.pending())["cache"] == 1
    assert await town.walk("ann", "cache") == ["hello"]


async def test_a_worker_with_other_nodes_delivers_once_nobody_reads_the_lists_it_does_not_reach(town: World) -> None:
    """Rule 3. It was restarted first: it has begun lists on its own nodes, and whoever has not heard of that reads the
    old ones.
    """
    lists, consumer = CACHE.keeps or "", town.timelines.outbox.consumers[CACHE.slug]
    with patch.object(town.stack.memcached, "nodes", ("elsewhere:1",)):
        with patch.object(HomeLists, "begin", AsyncMock()):
            await town.timelines.switch.change(SettingsChange(anew=[lists]))
        status = await town.post("zoe", "hello")
        failed = await consumer.handle(status.id, None)
        assert isinstance(failed[status.id], MemcachedDown)
        assert (await town.pending())[CACHE.slug] == 1
        town.pass_grace()
        with patch.object(HomeLists, "deliver", AsyncMock()) as delivered:
            assert not await consumer.handle(status.id, None)
    [container] = [call.args[0] for call in delivered.mock_calls]
    assert container.nodes == ("elsewhere:1",)
    assert (await town.pending())[CACHE.slug] == 0


async def test_a_return_that_slept_while_it_looked_up_whom_they_follow_keeps_nothing(town: World) -> None:
    """What it has found may be older than the activity that is marked by it."""
    known, asleep_s = Following.known, [town.stack.config.timeline_ttl_s + 1]
    await town.chill("ann")
    town.timelines.forget(town.ids["ann"])

    async def slept(following: Following) -> OwnEdges:
        edges = await known(following)
        if asleep_s:
            town.clock.sleep(asleep_s.pop())
        return edges

    with patch.object(Following, "known", slept):
        assert await town.source("ann", CACHE.slug) == "query"
    assert not asleep_s


async def test_lists_on_other_nodes_are_not_read(town: World) -> None:
    with patch.object(town.stack.memcached, "nodes", ("elsewhere:1",)):
        assert await town.source("ann", "cache") == "query"
    assert await town.source("ann", "cache") == "list"


async def test_a_page_of_two_moments_is_not_remembered(town: World) -> None:
    """Between them Zoe stops following back: the first status is judged before, the last one afterwards."""
    ann, zoe, relations = town.ids["ann"], town.ids["zoe"], town.relations
    await town.sign_up("yan")
    await town.follow("ann", "yan")
    await relations.mute(ann, town.ids["yan"])
    await town.follow("zoe", "ann")
    await town.warm("ann")
    await town.post("zoe", "last", "mutuals")
    for _ in range(enough(1) - 1):
        await town.post("yan", "not for ann")
    await town.post("zoe", "first", "mutuals")
    older_than = KeptThenQuery.older_than

    async def then_unfollow(candidates: KeptThenQuery, cursor: ObjectId, n: int) -> list[Entry]:
        if cursor != LAST_ID:
            await relations.unfollow(zoe, ann)
        return await older_than(candidates, cursor, n)

    for phase in IN_WORKER:
        town.timelines.forget(ann)
        with patch.object(KeptThenQuery, "older_than", then_unfollow):
            page = await town.page("ann", phase, limit=1)
        assert [status.text for status in page.statuses] == ["first"]
        assert await town.walk("ann", phase, limit=1) == [], phase
        await town.follow("zoe", "ann")
        assert await town.walk("ann", phase, limit=1) == ["first", "last"], phase


async def test_what_is_remembered_of_a_reader_ends_with_any_change(town: World) -> None:
    """Section 2. Each phase is shown by a process of its own, and the changes are made by another one."""
    ann, zoe, relations = town.ids["ann"], town.ids["zoe"], town.relations
    processes = {phase: Timelines(town.stack) for phase in SLUGS}

    async def shows(*texts: str) -> None:
        for phase in SLUGS:
            for _ in range(2):  # looked up, and remembered
                page = await processes[phase].page(ann, phase=phase)
                assert [status.text for status in page.statuses] == list(texts), phase

    first = await town.post("zoe", "first")
    await town.post("zoe", "second")
    await town.post("zoe", "for the circle", "circle")
    await town.drain()
    await shows("second", "first")
    await town.statuses.delete(zoe, first.id)
    await shows("second")
    await relations.add_to_circle(zoe, ann)
    await shows("for the circle", "second")
    await relations.remove_from_circle(zoe, ann)
    await shows("second")
    await relations.unfollow(ann, zoe)
    await shows()
    await relations.follow(ann, zoe)
    await shows("second")
    await relations.block(zoe, ann)
    await shows()
    await relations.unblock(zoe, ann)
    await shows()
    await relations.follow(ann, zoe)
    await shows("second")
    await town.sign_up("yan")
    await town.post("yan", "by yan")
    await town.drain()
    await relations.follow(ann, town.ids["yan"])
    await shows("by yan", "second")
    await town.post("yan", "to mutuals", "mutuals")
    await town.drain()
    await relations.follow(town.ids["yan"], ann)
    await shows("to mutuals", "by yan", "second")
    await relations.unfollow(town.ids["yan"], ann)
    await shows("by yan", "second")


async def test_what_is_remembered_of_a_page_is_not_believed_below_the_floor(town: World) -> None:
    """Rule 3. A web process whose clock is behind posts what is older than anything that is kept."""
    earlier, n = town.clock.now(), 2 * town.stack.config.cap
    for number in range(n):
        await town.post("zoe", f"{number}")
    await town.drain()
    await town.sweep()
    for phase in SLUGS:
        shown = [await town.page("ann", phase, limit=40) for _ in range(2)]
        with patch.object(town.clock, "new_id", return_value=id_at(earlier)):
            await town.statuses.post(town.ids["zoe"], f"behind, {phase}")
        await town.drain()
        assert [len(page.statuses) for page in (*shown, await town.page("ann", phase, limit=40))] == [n, n, n + 1], (
            phase
        )
        n += 1
