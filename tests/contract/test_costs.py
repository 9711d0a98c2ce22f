"""Commands that no phase claims: of strangers, repeated pages, backlogs, changes, windows, and work that is done."""

import asyncio
from datetime import timedelta
from math import ceil
from typing import Any
from unittest.mock import patch

import pytest
from bson import ObjectId

from app.clock import LAST_ID, id_at
from app.stack.cost import Cost, counted
from phases.home import newest
from phases.home.newest import FEW, GROUP, WINDOW_AUTHORS, Newest
from phases.keeping.activity import ActiveReaders
from phases.p1_query import QUERY, written_by
from phases.p2_push import PUSH
from phases.p3_queue import QUEUE
from phases.p5_stream import STREAM
from phases.timelines import Timelines
from tests.world import IN_MEMCACHED, IN_WORKER, KEEPING, SLUGS, World, commands_sent

pytestmark = pytest.mark.anyio


@pytest.mark.parametrize(("followees", "query"), [(1, 3), (GROUP, 4), (FEW, 7)])
async def test_a_page_is_dear_to_a_stranger_and_cheap_again_however_many_they_follow(
    world: World, followees: int, query: int
) -> None:
    """`query`: commands of phase 1, each time. Of many who have hardly written it asks a sample, and then all."""
    await world.sign_up("ann", "ben", "zoe")
    await world.follow("ann", "zoe")
    await world.follow("ben", "zoe")
    now = world.clock.now()
    rows = [{"_id": id_at(now), "follower": world.ids["ann"], "followee": id_at(now)} for _ in range(followees - 1)]
    if rows:
        await world.stack.db["follows"].insert_many(rows)
    await world.post("zoe", "hello")
    await world.drain()
    await world.warm("ann")
    await world.warm("ben")

    async def costs() -> dict[str, Cost]:
        found = {}
        for phase in SLUGS:
            with counted() as found[phase]:
                page = await world.page("ann", phase)
            assert [status.text for status in page.statuses] == ["hello"]
        return found

    async def stranger(phase: str, *others: str) -> Cost:
        """To another process, which has shown the same statuses to some others."""
        world.timelines = Timelines(world.stack)
        await world.timelines.switch.current()
        for other in others:
            await world.page(other, phase)
        with counted() as cost:
            await world.page("ann", phase)
        return cost

    first = {phase: await stranger(phase) for phase in SLUGS}
    assert first[QUERY.slug] == Cost(mongodb=query)
    assert first[PUSH.slug] == first[QUEUE.slug] == Cost(mongodb=1 + 1)  # the list with what is owed, what is visible
    # She might have been away: then nothing is owed in her list. What a first look finds in it is hydrated beside what
    # is owed. A packed id does not name its author: where the process does not know it, what is visible is asked
    # afterwards, and noted for the next process.
    assert first["cache"] == Cost(mongodb=1 + 1, memcached=2 + 1 + 1)
    assert await stranger("cache") == await stranger("cache", "ben") == Cost(mongodb=1, memcached=2 + 1)
    assert first[STREAM.slug] == Cost(mongodb=1 + 1, redis=1 + 1)
    assert await stranger(STREAM.slug, "ben") == Cost(mongodb=1, redis=1 + 1)
    await costs()
    again = await costs()
    assert again[QUERY.slug] == Cost(mongodb=query)
    assert again[PUSH.slug] == again[QUEUE.slug] == Cost(mongodb=1)  # what it took to fill the page comes along
    assert again["cache"] == Cost(mongodb=1, memcached=1)
    assert again[STREAM.slug] == Cost(mongodb=1, redis=1)


@pytest.mark.parametrize("addresses", [pytest.param("servers", marks=pytest.mark.servers)], indirect=True)
@pytest.mark.parametrize("phase", KEEPING)
async def test_pages_that_are_asked_for_at_the_same_time_share_commands(world: World, phase: str) -> None:
    """The first one goes alone, and of those who come meanwhile half, and then the rest."""
    authors = {f"reader {n}": f"author {n}" for n in range(8)}
    await world.sign_up(*authors, *authors.values())
    for reader, author in authors.items():
        await world.follow(reader, author)
        await world.post(author, f"by {author}")
    await world.drain()

    async def sent(limit: int) -> float:
        for _ in range(2):
            for reader in authors:
                await world.page(reader, phase, limit=limit)
        before = commands_sent("mongodb")
        pages = await asyncio.gather(*(world.page(reader, phase, limit=limit) for reader in authors))
        assert [[status.text for status in page.statuses] for page in pages] == [[f"by {a}"] for a in authors.values()]
        return commands_sent("mongodb") - before

    assert await sent(20) == 1 + 1 + 1
    assert await sent(100) == (len(authors) if phase in (PUSH.slug, QUEUE.slug) else 1 + 1 + 1)  # so many entries


async def test_a_page_with_statuses_for_mutuals_is_remembered_as_others_are(world: World) -> None:
    await world.sign_up("ann", "zoe")
    await world.follow("ann", "zoe")
    await world.follow("zoe", "ann")
    await world.post("zoe", "to mutuals", "mutuals")
    await world.drain()
    await world.warm("ann")
    for phase in KEEPING:
        await world.page("ann", phase)
        with counted() as cost:
            page = await world.page("ann", phase)
        assert [status.text for status in page.statuses] == ["to mutuals"]
        assert cost.mongodb == 1, phase


@pytest.mark.parametrize("settings", [{"pending_scan": 10}])
@pytest.mark.parametrize(("author", "visits"), [("zoe", 1), ("zoe", 2), ("stranger", 1)])
async def test_a_backlog_makes_no_read_dearer(world: World, author: str, visits: int) -> None:
    """Rule 10. Whoever meets it asks once more, and then for pending statuses of their own authors at once."""
    await world.sign_up("ann", "zoe", "stranger")
    await world.follow("ann", "zoe")
    await world.post("zoe", "hello")
    await world.drain()
    await world.warm("ann")
    for _ in range(world.stack.config.pending_scan + 1):
        await world.post(author, "late")
    for phase in IN_WORKER:
        for _ in range(visits):
            await world.page("ann", phase)
        with counted() as cost:
            page = await world.page("ann", phase)
        assert [status.text for status in page.statuses][:1] == ["late" if author == "zoe" else "hello"]
        assert cost == Cost(mongodb=1, memcached=int(phase in IN_MEMCACHED), redis=int(phase == STREAM.slug))


async def test_what_has_changed_since_the_last_page_is_looked_up(world: World) -> None:
    await world.sign_up("ann", "zoe", "yan")
    await world.follow("ann", "zoe", "yan")
    await world.post("zoe", "hello")
    await world.drain()
    await world.warm("ann")
    for phase in KEEPING:
        await world.page("ann", phase)
        await world.post("zoe", "news")
        await world.drain()
        with counted() as cost:
            await world.page("ann", phase)
        assert cost.mongodb == 2, "the new status"
        await world.relations.unfollow(world.ids["ann"], world.ids["yan"])
        with counted() as cost:
            await world.page("ann", phase)
        assert cost.mongodb == 2, "her edges have changed, the statuses have not"


@pytest.mark.parametrize("authors", [250, 501])
async def test_of_many_busy_authors_only_a_window_is_looked_at(
    world: World, authors: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, size in (("GROUP", 20), ("FEW", 60), ("WINDOW_AUTHORS", 250)):
        monkeypatch.setattr(newest, name, size)
    now = world.clock.now()
    ids = [ObjectId() for _ in range(authors)]
    rows: list[dict[str, Any]] = [
        {"_id": id_at(now + timedelta(seconds=n)), "user_id": ids[n % authors], "text": "", "audience": "followers"}
        for n in range(3 * authors)
    ]
    await world.stack.db["statuses"].insert_many(rows)
    with counted() as cost:
        found = await Newest(world.stack.db, written_by, ids).older_than(LAST_ID, 60)
    assert [entry.id for entry in found] == [row["_id"] for row in reversed(rows[-60:])]
    assert cost.mongodb == 1 + ceil(authors / newest.WINDOW_AUTHORS)
    rest = await Newest(world.stack.db, written_by, ids).older_than(rows[30]["_id"], 60)
    assert [entry.id for entry in rest] == [row["_id"] for row in reversed(rows[:30])]


async def test_a_window_that_holds_too_little_is_not_the_end(world: World) -> None:
    """The sample has been busy lately, nobody else has: the rest is found below the window, and nothing twice."""
    now, ids = world.clock.now(), [ObjectId() for _ in range(WINDOW_AUTHORS)]
    writers = [*ids[1::20], *ids[::20]]  # the sample, every twentieth, writes last
    rows: list[dict[str, Any]] = [
        {"_id": id_at(now + timedelta(seconds=n)), "user_id": writer, "text": "", "audience": "followers"}
        for n, writer in enumerate(writers)
    ]
    await world.stack.db["statuses"].insert_many(rows)
    found = await Newest(world.stack.db, written_by, ids).older_than(LAST_ID, 60)
    assert [entry.id for entry in found] == [row["_id"] for row in reversed(rows[-60:])]


async def test_a_persons_page_costs_the_same_however_much_is_not_for_its_reader(world: World) -> None:
    await world.sign_up("zoe", "ann", "eve", "dot")
    await world.follow("ann", "zoe")
    await world.relations.block(world.ids["zoe"], world.ids["eve"])
    await world.post("zoe", "for ann")
    rows = [
        {"_id": world.clock.new_id(), "user_id": world.ids["zoe"], "text": "", "audience": "circle"} for _ in range(99)
    ]
    await world.stack.db["statuses"].insert_many(rows)
    for reader, texts, commands in (("ann", ["for ann"], 3), ("eve", [], 1), ("dot", [], 1)):
        with counted() as cost:
            found, after = await world.statuses.by_author(world.ids[reader], world.ids["zoe"], before=None, limit=2)
        assert ([status.text for status in found], after, cost.mongodb) == (texts, None, commands), reader


async def test_work_that_is_done_costs_little_to_repeat(world: World) -> None:
    await world.sign_up("ann", "zoe")
    await world.follow("ann", "zoe")
    await world.warm("ann")
    status = await world.post("zoe", "hello")
    await world.drain()
    with counted() as cost:
        await world.timelines.outbox.consumers["cache"].handle(status.id, None)
    assert cost.mongodb == 1, "it is not pending any more"
    assert (await world.walk("ann", "cache")) == ["hello"]


async def test_a_follow_is_noted_once_for_all_phases_that_deliver_to_active_readers(world: World) -> None:
    await world.sign_up("ann", "zoe")
    await world.warm("ann")
    admit, narrow = ActiveReaders.admit, ActiveReaders.narrow
    with (
        patch.object(ActiveReaders, "admit", autospec=True, side_effect=admit) as admitted,
        patch.object(ActiveReaders, "narrow", autospec=True, side_effect=narrow) as narrowed,
    ):
        await world.follow("ann", "zoe")
        await world.relations.unfollow(world.ids["ann"], world.ids["zoe"])
    assert (admitted.call_count, narrowed.call_count) == (1, 1)
