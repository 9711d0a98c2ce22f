"""Phase 6: what says `pulled` is delivered to nobody and missing to nobody (rule 9); and whose statuses say so."""

import asyncio
from contextlib import nullcontext
from dataclasses import replace
from datetime import datetime, timedelta
from functools import partial
from typing import Any
from unittest.mock import AsyncMock, patch

import pytest
from bson import ObjectId

from app.clock import LAST_ID
from app.edges import MARKERS, VERSIONS, change_edges, version_key
from app.errors import Conflict, Invalid
from app.models import SETTINGS
from app.social.statuses import Statuses
from app.stack.cost import Cost, counted
from app.stack.mongodb.connection import Database
from app.stack.mongodb.transaction import Contended
from app.stack.mongodb.write import insert_with_new_id
from phases.base import Phase
from phases.delivering.settings import Settings
from phases.home import newest
from phases.home.newest import GROUP, newest_of_groups
from phases.home.page import enough
from phases.keeping.activity import last_activity
from phases.keeping.in_memory import RENEW_AFTER
from phases.p4_cache import CACHE
from phases.p6_hybrid import DELIVERY_US, HARDLY_READ, HYBRID, PULLED_US, cost_of_a_day, is_pulling_cheaper, pulled_by
from phases.pulling import author as authors
from phases.pulling import heavy, markers
from phases.pulling.author import Author
from phases.pulling.heavy import HEAVY
from phases.pulling.markers import KNOWN_S, SHARED, Known
from phases.timelines import MOST_FORCED, Timelines
from tests.world import KEEPING, SLUGS, World, commands_sent

pytestmark = pytest.mark.anyio
SLUG = HYBRID.slug
PATIENCE_S = 20  # for what would wait for ever


@pytest.fixture
async def town(world: World) -> World:
    """Ann and Ben follow Zoe; a timeline is kept for each of them in every phase."""
    await world.sign_up("ann", "ben", "zoe")
    for reader in ("ann", "ben"):
        await world.follow(reader, "zoe")
    await world.warm("ann", "ben", "zoe")
    return world


async def pull(world: World, name: str, always: bool | None = True) -> None:
    await world.timelines.force(world.ids[name], always)


async def stored(world: World, id: ObjectId) -> dict[str, Any]:
    found = await world.stack.db["statuses"].find_one({"_id": id})
    assert found
    return found


def another_process(world: World) -> Timelines:
    return Timelines(world.stack)


async def holds(world: World, reader: str, status: ObjectId, phase: Phase = HYBRID) -> bool | None:
    kept = world.timelines.kept_by(phase.slug)
    assert kept
    return await kept.holds(world.ids[reader], status)


async def marked(world: World) -> set[ObjectId]:
    rows = await world.stack.db[HEAVY].find({"pulled_until": {"$exists": True}}).to_list(None)
    return {row["_id"] for row in rows}


async def test_what_is_pulled_is_delivered_to_nobody_and_seen_at_once(town: World) -> None:
    await pull(town, "zoe")
    status = await town.post("zoe", "hello")
    document = await stored(town, status.id)
    assert document["pulled"] is True
    assert set(document["pending"]) == set(KEEPING) - {SLUG, "push"}
    for reader in ("ann", "ben", "zoe"):
        page = await town.page(reader, SLUG)
        assert ([s.text for s in page.statuses], page.source) == (["hello"], "list")
    await town.drain()
    assert await holds(town, "ann", status.id) is False
    assert await holds(town, "ann", status.id, CACHE) is True
    for reader in ("ann", "ben", "zoe"):
        await town.sees(reader, "hello")


async def test_an_author_may_become_heavy_and_light_at_any_time(town: World) -> None:
    texts: list[str] = []
    for n in range(12):
        await pull(town, "zoe", (None, True, False)[n % 3])
        await town.post("zoe", str(n))
        texts.insert(0, str(n))
        if n % 4 == 3:
            await town.drain()
        for limit in (2, 20):
            assert await town.walk("ann", SLUG, limit) == texts
    await town.drain()
    await town.sees("ann", *texts)
    await town.sees("zoe", *texts)


@pytest.mark.parametrize("settings", [{"cap": 80}])
async def test_what_is_pulled_is_looked_up_once(town: World) -> None:
    await pull(town, "zoe")
    texts = [f"status {n}" for n in range(enough(2) + 5)]
    for text in texts:
        await town.post("zoe", text)

    sees = partial(town.begins_with, "ann", SLUG)
    await sees(texts[-1], texts[-2])
    await town.post("zoe", "pulled")
    with counted() as cost:
        await town.page("ann", SLUG, limit=2)
    assert cost.mongodb == 2, "a look, and the status that is new"
    await sees("pulled", texts[-1])
    await pull(town, "zoe", False)
    await town.post("zoe", "delivered")
    await sees("delivered", "pulled")
    await town.drain()
    await sees("delivered", "pulled")
    last = await town.post("zoe", "deleted")
    await sees("deleted", "delivered")
    await town.statuses.delete(last.user_id, last.id)
    await sees("delivered", "pulled")
    page = await town.page("ann", SLUG, limit=40)
    assert [status.text for status in page.statuses] == ["delivered", "pulled", *texts[::-1]]


async def test_the_marker_is_there_before_the_status(town: World) -> None:
    await pull(town, "zoe")
    there: list[set[ObjectId]] = []

    async def looked_at(db: Database, name: str, fields: dict[str, Any]) -> None:
        there.append(await marked(town))
        await insert_with_new_id(db, name, fields)

    with patch("app.social.statuses.insert_with_new_id", looked_at):
        await town.post("zoe", "hello")
    assert there == [{town.ids["zoe"]}]


async def test_every_process_hears_of_a_new_marker_with_its_next_page(town: World) -> None:
    other = another_process(town)
    ann = town.ids["ann"]
    for _ in range(2):
        await other.page(ann, phase=SLUG)
    await pull(town, "zoe")
    for n in range(2):
        await town.post("zoe", str(n))
        page = await other.page(ann, phase=SLUG)
        assert ([s.text for s in page.statuses][:1], page.source) == ([str(n)], "list")


async def test_a_marker_of_somebody_else_is_heard_of_too(town: World) -> None:
    await town.sign_up("yan")
    await town.follow("ann", "yan")
    await town.warm("ann")
    for name in ("zoe", "yan"):
        await pull(town, name)
        await town.post(name, f"by {name}")
        assert (await town.walk("ann", SLUG))[0] == f"by {name}"
    assert await marked(town) == {town.ids["zoe"], town.ids["yan"]}


@pytest.mark.parametrize("first", [True, False])
async def test_a_repeat_decides_nothing_anew(town: World, first: bool) -> None:
    """Rule 9: what says `pulled` is never owed to who merges it, and what was owed goes on being owed."""
    zoe = town.ids["zoe"]
    await pull(town, "zoe", first)
    status, _ = await town.statuses.post(zoe, "once", idempotency_key="k")
    await town.drain()
    await pull(town, "zoe", not first)
    town.pass_grace()
    for _ in range(2):
        await town.statuses.post(zoe, "once", idempotency_key="k")
        document = await stored(town, status.id)
        assert ("pulled" in document) == first
        assert (SLUG in document["pending"]) == (not first)
    await town.drain()
    await town.sees("ann", "once")
    with pytest.raises(Conflict):
        await town.statuses.post(zoe, "another", idempotency_key="k")


@pytest.mark.parametrize("always", [True, False])
async def test_a_post_that_takes_longer_than_the_grace_is_still_pulled_or_delivered(town: World, always: bool) -> None:
    await pull(town, "zoe", always)

    async def hangs(db: Database, name: str, fields: dict[str, Any]) -> None:
        await another_process(town).change(delivering=[])
        town.pass_grace()
        await another_process(town).change(delivering=[SLUG])
        town.pass_grace()
        await another_process(town).page(town.ids["ann"], phase=SLUG)
        await insert_with_new_id(db, name, fields)

    with patch("app.social.statuses.insert_with_new_id", hangs):
        status = await town.post("zoe", "hung")
    document = await stored(town, status.id)
    assert (SLUG in document["pending"]) == (not always)
    assert await town.walk("ann", SLUG) == ["hung"]
    await town.drain()
    assert await town.walk("ann", SLUG) == ["hung"]


async def test_a_post_that_outlasts_its_marker_makes_it_anew(town: World) -> None:
    """Before it is acknowledged. Markers go, in the end, and nobody can know who still relies on one."""
    await pull(town, "zoe")
    config = town.stack.config

    async def hangs(db: Database, name: str, fields: dict[str, Any]) -> None:
        town.clock.advance(config.timeline_ttl_s + 4 * config.activity_slack_s)
        await another_process(town).sweep()
        assert not await marked(town)
        await insert_with_new_id(db, name, fields)

    with patch("app.social.statuses.insert_with_new_id", hangs):
        await town.statuses.post(town.ids["zoe"], "hung")
    assert await marked(town) == {town.ids["zoe"]}


async def test_switching_to_and_fro_loses_nothing_that_is_pulled(town: World) -> None:
    texts: list[str] = []
    await pull(town, "zoe")
    for n in range(6):
        await town.timelines.change(delivering=[SLUG] if n % 2 else [CACHE.slug])
        for when in ("at once", "after the grace"):
            status = await town.post("zoe", f"{n} {when}")
            assert ("pulled" in await stored(town, status.id)) == (n % 2 == 1 or when == "at once")
            texts.insert(0, f"{n} {when}")
            for phase in SLUGS:
                assert await town.walk("ann", phase, 5) == texts, (n, when, phase)
            town.pass_grace()
    await town.sees("ann", *texts)


async def test_muting_hides_and_unmuting_shows_what_is_pulled(town: World) -> None:
    await pull(town, "zoe")
    await town.post("zoe", "before")
    ann, zoe = town.ids["ann"], town.ids["zoe"]
    await town.relations.mute(ann, zoe)
    await town.post("zoe", "meanwhile")
    assert await town.walk("ann", SLUG) == []
    town.clock.advance(town.stack.config.timeline_ttl_s * (RENEW_AFTER + 0.1))  # the list is renewed
    assert await town.walk("ann", SLUG) == []
    await town.relations.unmute(ann, zoe)
    await town.sees("ann", "meanwhile", "before")


# Many, and far back


async def test_many_pulled_authors_are_one_command_at_any_depth(town: World, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(newest, "GROUP", 4)
    n, per_author = 50, 4
    now, db = town.clock.now(), town.stack.db
    ids = [town.clock.new_id() for _ in range(n)]
    await db["follows"].insert_many(
        [{"_id": town.clock.new_id(), "follower": town.ids["ann"], "followee": id} for id in ids]
    )
    await change_edges(db, {town.ids["ann"], MARKERS}, lambda _: asyncio.sleep(0))
    await db[HEAVY].insert_many([{"_id": id, "heavy_until": now, "pulled_until": now} for id in ids])
    await town.page("ann", SLUG)
    said: dict[str, Any] = {"text": "", "audience": "followers", "deleted": False, "pulled": True}
    rows = [{"_id": town.clock.new_id(), "user_id": id, **said} for _ in range(per_author) for id in ids]
    town.clock.advance(1)
    await db["statuses"].insert_many([dict(row) for row in rows])
    expected = sorted((row["_id"] for row in rows), reverse=True)
    await town.page("ann", SLUG)
    with counted() as cost:
        page = await town.page("ann", SLUG)
    assert cost == Cost(mongodb=1, memcached=1)
    seen = [status.id for status in page.statuses]
    while page.next:
        with counted() as cost:
            page = await town.page("ann", SLUG, page.next, limit=100)
        assert cost.mongodb == 2, "what is pulled, and the statuses"
        assert page.source == "list"
        seen += [status.id for status in page.statuses]
    assert seen == expected


def test_a_look_for_what_is_pulled_is_bounded_by_the_authors_alone() -> None:
    ids = [ObjectId() for _ in range(1_000)]
    finds = newest_of_groups("pulled", pulled_by, ids, LAST_ID, 30).values()
    assert [(len(find.query["user_id"]["$in"]), find.limit) for find in finds] == [(GROUP, 30)] * 5


async def test_a_page_is_filled_from_what_is_pulled_however_much_of_it_is_not_for_the_reader(town: World) -> None:
    await pull(town, "zoe")
    for n in range(3):
        await town.post("zoe", f"seen {n}")
    for _ in range(60):
        await town.post("zoe", "not for ann", "mutuals")
    page = await town.page("ann", SLUG, limit=2)
    assert ([s.text for s in page.statuses], page.source) == (["seen 2", "seen 1"], "list")


@pytest.mark.parametrize("settings", [{"pending_scan": 5}])
async def test_much_is_pulled_while_much_is_pending(town: World) -> None:
    """Each is known as far down as it was looked at; the page, as far as both are."""
    await town.sign_up("yan")
    await town.follow("ann", "yan")
    await pull(town, "zoe")
    await pull(town, "yan", False)
    texts: list[str] = []
    for count in (8, 40, 70, 2):
        for n in range(count):
            for name in ("zoe", "yan") if n < 8 else ("yan",):
                texts.insert(0, f"{name} {len(texts)}")
                await town.post(name, texts[0])
        for _ in range(2):
            page = await town.page("ann", SLUG, limit=2)
            assert [status.text for status in page.statuses] == texts[:2]
        assert await town.walk("ann", SLUG, limit=2) == texts


async def test_below_the_floor_everything_is_asked_for(town: World) -> None:
    """And above it merged, once: what a rebuild has found, or a longer list has lost."""
    await pull(town, "zoe")
    texts = [str(n) for n in range(2 * town.stack.config.cap)]
    for n, text in enumerate(texts):
        await pull(town, "zoe", n % 3 != 0)
        await town.post("zoe", text)
        if n == len(texts) // 2:
            await town.drain()
            await town.chill("ann")
    await town.drain()
    for limit in (3, 100):
        assert await town.walk("ann", SLUG, limit) == texts[::-1]


# Markers go


async def test_a_marker_goes_when_every_list_holds_what_was_pulled(town: World) -> None:
    config = town.stack.config
    await pull(town, "zoe")
    status = await town.post("zoe", "pulled")
    await pull(town, "zoe", False)
    steps, longest_s = 0, config.timeline_ttl_s + 3 * config.activity_slack_s
    while await marked(town):
        assert (steps := steps + 1) < 20, "it never goes"
        town.clock.advance(longest_s / 6)
        await town.timelines.sweep()
        for process in (town.timelines, another_process(town)):
            page = await process.page(town.ids["ann"], phase=SLUG)
            assert ([s.text for s in page.statuses], page.source) == (["pulled"], "list")
    assert steps > 4, "while somebody may rely on it"
    assert await holds(town, "ann", status.id) is True
    await town.sees("ann", "pulled")


async def test_a_list_of_a_longer_ttl_lacks_nothing_that_was_pulled(town: World) -> None:
    """All processes are started again with a shorter TTL. It lives as long as it was promised; so do the markers."""
    longer, slack_s = town.stack.config, town.stack.config.activity_slack_s
    await pull(town, "zoe")
    status = await town.post("zoe", "pulled")
    await pull(town, "zoe", False)
    shorter = longer.model_copy(update={"timeline_ttl_s": 600, "activity_slack_s": 60})
    town.timelines = await Timelines.open(replace(town.stack, config=shorter))
    steps, since = 0, town.clock.now()
    while await marked(town) and (steps := steps + 1) < 50:
        town.clock.advance(longer.timeline_ttl_s / 20)
        await town.timelines.sweep()
        for process in (town.timelines, await Timelines.open(replace(town.stack, config=shorter))):
            page = await process.page(town.ids["ann"], phase=SLUG)
            assert [s.text for s in page.statuses] == ["pulled"]
    assert not await marked(town), "it never goes"
    assert longer.timeline_ttl_s < (town.clock.now() - since).total_seconds() < longer.timeline_ttl_s + 4 * slack_s
    assert await holds(town, "ann", status.id) is True
    await town.sees("ann", "pulled")


async def test_a_marker_that_is_used_again_is_needed_anew(town: World) -> None:
    """Its end was noted when nobody used it any more; a list has been kept since."""
    config = town.stack.config
    await pull(town, "zoe")
    await town.post("zoe", "before")
    town.clock.advance(2 * config.activity_slack_s)
    await town.timelines.sweep()
    town.clock.advance(config.timeline_ttl_s - 2 * config.activity_slack_s)
    await town.page("ann", SLUG)
    await town.post("zoe", "since")
    town.clock.advance(2 * config.activity_slack_s)
    await town.timelines.sweep()
    await town.timelines.sweep()
    assert await another_process(town).pulls.markers.newest(1) != {town.ids["zoe"]: None}
    page = await another_process(town).page(town.ids["ann"], phase=SLUG)
    assert ([s.text for s in page.statuses], page.source) == (["since", "before"], "list")


async def test_a_marker_that_an_older_program_uses_again_is_needed_anew(town: World) -> None:
    """It knows no notes: it makes the marker longer, or takes it away by itself, and leaves the note."""
    rows, zoe = town.stack.db[HEAVY], {"_id": town.ids["zoe"]}
    await pull(town, "zoe")
    await town.post("zoe", "before")
    town.clock.advance(2 * town.stack.config.activity_slack_s)
    await town.timelines.sweep()
    over = town.clock.now() - timedelta(hours=1)
    until = town.clock.now() + timedelta(hours=1)
    await rows.update_one(zoe, {"$set": {"needed_until": over, "pulled_until": until}})
    await town.timelines.sweep()
    assert await marked(town)
    await rows.update_one(zoe, {"$set": {"needed_until": over}, "$unset": {"pulled_until": ""}})
    await town.timelines.sweep()
    row = await rows.find_one(zoe)
    assert row is None or "needed_until" not in row


async def test_a_marker_that_is_used_again_while_a_sweep_looks_is_let_alone(
    town: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    await pull(town, "zoe")
    await town.post("zoe", "before")
    town.clock.advance(2 * town.stack.config.activity_slack_s)

    async def and_post(db: Database) -> datetime | None:
        await town.post("zoe", "meanwhile")
        return await last_activity(db)

    monkeypatch.setattr(markers, "last_activity", and_post)
    await town.timelines.sweep()
    row = await town.stack.db[HEAVY].find_one({"_id": town.ids["zoe"]})
    assert row
    assert row["pulled_until"] > town.clock.now()
    assert "needed_until" not in row


async def test_whoever_was_away_all_the_while_is_rebuilt_with_it(town: World) -> None:
    await pull(town, "zoe")
    await town.post("zoe", "pulled")
    config = town.stack.config
    town.clock.advance(config.timeline_ttl_s + 4 * config.activity_slack_s)
    await town.timelines.sweep()
    assert not await marked(town)
    await town.sees("ann", "pulled")


async def test_a_marker_that_is_used_stays(town: World) -> None:
    config = town.stack.config
    await pull(town, "zoe")
    for n in range(8):
        town.clock.advance((config.timeline_ttl_s + config.activity_slack_s) / 2)
        await town.post("zoe", str(n))
        await town.timelines.sweep()
        assert await marked(town) == {town.ids["zoe"]}


async def test_a_database_of_another_history_counts_its_markers_again(town: World) -> None:
    """Restored, or erased: what is kept begins anew, and so does what a process remembers of the markers."""
    await town.sign_up("yan")
    await town.follow("ann", "yan")
    await pull(town, "yan")
    await town.post("yan", "before")
    await town.warm("ann")
    await town.stack.db[HEAVY].delete_many({})
    await town.stack.db[VERSIONS].delete_one(version_key(MARKERS))
    await town.timelines.restart()
    town.pass_grace()
    other = another_process(town)
    await other.page(town.ids["ann"], phase=SLUG)
    await other.force(town.ids["zoe"], True)
    await Statuses(town.stack, other.outbox).post(town.ids["zoe"], "since")
    assert await town.walk("ann", SLUG) == ["since", "before"]
    await town.post("yan", "by a process that had marked them before")
    assert await marked(town) == {town.ids["zoe"], town.ids["yan"]}
    assert await town.walk("ann", SLUG) == ["by a process that had marked them before", "since", "before"]


async def test_who_reads_the_markers_of_other_epochs_holds_up_nobody_for_long(town: World) -> None:
    """Others of this process always ask first."""
    known, ours, theirs = town.timelines.pulls.markers, ObjectId(), ObjectId()
    look_up, looked = known._looked_up, list[ObjectId]()

    async def looked_up(epoch: ObjectId) -> Known:
        looked.append(epoch)
        assert len(looked) < 2 * SHARED + 2, "for ever"
        if epoch == theirs and ours not in looked and (reading := asyncio.current_task()):
            reading.add_done_callback(lambda _: ask())
        await asyncio.sleep(0)
        return await look_up(epoch)

    def ask() -> None:
        known._reading = asyncio.create_task(looked_up(theirs))

    with patch.object(known, "_looked_up", looked_up):
        ask()
        assert (await asyncio.wait_for(known.known(ours), PATIENCE_S)).epoch == ours
        assert known._reading
        await known._reading
    assert looked.index(ours) <= SHARED + 1


async def test_what_cannot_be_marked_for_now_is_delivered(town: World) -> None:
    await pull(town, "zoe")
    with patch.object(markers, "change_edges", side_effect=Contended):
        status = await town.post("zoe", "hello")
    document = await stored(town, status.id)
    assert "pulled" not in document
    assert SLUG in document["pending"]
    await town.drain()
    assert await holds(town, "ann", status.id) is True


async def test_what_is_prepared_can_be_stored_again_and_is_marked_or_delivered_anew(town: World) -> None:
    await pull(town, "zoe")
    prepared = await town.statuses.prepare(town.ids["zoe"], "hello")
    documents = []
    for refused in (Contended, Contended, None):
        with patch.object(markers, "change_edges", side_effect=refused) if refused else nullcontext():
            status, _ = await town.statuses.store(prepared)
        documents.append(await stored(town, status.id))
    assert [(SLUG in d.get("pending", ()), "pulled" in d) for d in documents] == [(True, False)] * 2 + [(False, True)]


# The rule


def test_the_rule_weighs_a_day_of_deliveries_against_a_day_of_asking() -> None:
    even = PULLED_US / DELIVERY_US  # posts a reader's page, at which both cost the same
    for followers in (1_000, 20_000):
        for reads in (0.5, 5.0, 50.0):
            assert is_pulling_cheaper(cost_of_a_day(Author(followers, 1.1 * even * reads, reads)))
            assert not is_pulling_cheaper(cost_of_a_day(Author(followers, 0.9 * even * reads, reads)))
    assert not is_pulling_cheaper(cost_of_a_day(Author(20_000, 1_000, None))), "nobody knows how often they read"


RULED = {"pull_from": 2, "list_chunk": 4}


async def were_read(world: World, pages: int) -> None:
    """So many pages of everybody's are counted; there are three active readers."""
    now = world.clock.now()
    change = {"$inc": {f"{authors.PAGES}.{now:%Y%m%d%H}": pages}, "$min": {"since": now}}
    await world.stack.db[SETTINGS].update_one({"_id": authors.READS}, change, upsert=True)
    world.clock.advance(KNOWN_S + 1)


@pytest.mark.parametrize("settings", [RULED])
async def test_by_the_rule_who_posts_more_than_is_read_is_pulled(town: World) -> None:
    said = []
    await were_read(town, 12)
    even = 12 / 3 * PULLED_US / DELIVERY_US
    for n in range(30):
        status = await town.post("zoe", str(n))
        said.append("pulled" in await stored(town, status.id))
        await town.drain()
        town.clock.advance(KNOWN_S + 1)
    first = said.index(True)
    assert said == [False] * first + [True] * (30 - first), "from some status on"
    assert abs(first - even) < 3
    await town.sees("ann", *map(str, reversed(range(30))))


@pytest.mark.parametrize("settings", [RULED])
async def test_who_is_read_more_than_they_post_becomes_light_again(town: World) -> None:
    await were_read(town, 3)
    for n in range(10):
        await town.post("zoe", f"many {n}")
        await town.drain()
        town.clock.advance(KNOWN_S + 1)
    assert "pulled" in await stored(town, (await town.post("zoe", "pulled")).id)
    await were_read(town, 3_000)
    status = await town.post("zoe", "delivered again")
    document = await stored(town, status.id)
    assert "pulled" not in document
    assert SLUG in document["pending"]
    await town.sees("ann", "delivered again", "pulled", *(f"many {n}" for n in reversed(range(10))))


@pytest.mark.parametrize("settings", [RULED])
async def test_the_largest_fan_out_is_bounded_whatever_the_rule_says(town: World) -> None:
    await were_read(town, 3_000)
    weighed = []
    for beyond in (2, 1):
        config = town.stack.config.model_copy(update={"pull_beyond": beyond})
        weighed.append(await Timelines(replace(town.stack, config=config)).weighed(town.ids["zoe"]))
    assert [each and (each.pulled, each.why) for each in weighed] == [(False, "rule"), (True, "many")]


@pytest.mark.parametrize("settings", [RULED | {"pull_beyond": 1}])
async def test_a_circle_s_status_is_delivered_whoever_has_it(town: World) -> None:
    await town.post("zoe", "shows that zoe is heavy")
    await town.drain()
    town.clock.advance(KNOWN_S + 1)
    assert "pulled" in await stored(town, (await town.post("zoe", "to all")).id)
    assert "pulled" not in await stored(town, (await town.post("zoe", "to few", "circle")).id)


async def were_posted(world: World, posts: int, pages: int) -> None:
    """So many of everybody's are counted, in the hour that it is."""
    hour = f"{world.clock.now():%Y%m%d%H}"
    counts = {f"{authors.PAGES}.{hour}": pages, f"{authors.POSTS}.{hour}": posts}
    change = {"$inc": counts, "$min": {"since": world.clock.now()}}
    await world.stack.db[SETTINGS].update_one({"_id": authors.READS}, change, upsert=True)
    world.clock.advance(KNOWN_S + 1)


async def test_where_hardly_any_pages_are_asked_for_everybody_is_pulled(town: World) -> None:
    posts = authors.POSTS_NEEDED
    await were_posted(town, posts - 1, 0)
    assert "pulled" not in await stored(town, (await town.post("zoe", "too little is known")).id)
    await were_posted(town, 1, int(HARDLY_READ * posts) - 1)
    assert "pulled" in await stored(town, (await town.post("zoe", "seldom")).id)
    assert "pulled" not in await stored(town, (await town.post("zoe", "to few", "circle")).id)
    weighed = await town.timelines.weighed(town.ids["zoe"])
    assert weighed
    assert (weighed.pulled, weighed.why) == (True, "seldom")
    other = another_process(town)
    assert len((await other.page(town.ids["ann"], phase=SLUG)).statuses) == 2, "those that ann may see"
    await town.post("ann", "by somebody else")
    assert await marked(town) == {town.ids["ann"], town.ids["zoe"]}
    assert (await other.page(town.ids["ann"], phase=SLUG)).statuses[0].text == "by somebody else"
    await were_posted(town, 0, int(HARDLY_READ) + 1)
    assert "pulled" not in await stored(town, (await town.post("zoe", "often enough")).id)
    await town.drain()
    await town.sees("ann", "often enough", "by somebody else", "seldom", "too little is known")


async def test_few_are_pulled_only_because_hardly_anybody_reads(town: World, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each new marker is heard by every process, which reads all of them again."""
    monkeypatch.setattr(markers, "FEW_MARKED", 1)
    await were_posted(town, authors.POSTS_NEEDED, 0)
    assert "pulled" in await stored(town, (await town.post("zoe", "the one 0")).id)
    assert "pulled" not in await stored(town, (await town.post("ben", "one too many, at once")).id)
    town.clock.advance(KNOWN_S + 1)
    assert "pulled" in await stored(town, (await town.post("zoe", "the one 1")).id)
    assert "pulled" not in await stored(town, (await town.post("ann", "one too many")).id)
    weighed = await town.timelines.weighed(town.ids["ann"])
    assert weighed
    assert (weighed.pulled, weighed.why) == (False, "light")
    await town.drain()
    await town.sees("ann", "one too many", "the one 1", "the one 0")


async def test_nobody_waits_to_be_pulled_because_hardly_anybody_reads(
    town: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Markers are made one after another, and everybody posts there."""
    begun, may_end = asyncio.Event(), asyncio.Event()

    async def slow(*arguments: Any) -> Any:
        begun.set()
        await may_end.wait()
        return await change_edges(*arguments)

    monkeypatch.setattr(markers, "change_edges", slow)
    await were_posted(town, authors.POSTS_NEEDED, 0)
    first = asyncio.create_task(town.post("zoe", "pulled"))
    await begun.wait()
    async with asyncio.timeout(PATIENCE_S):
        meanwhile = await town.post("ann", "delivered meanwhile")
    assert "pulled" not in await stored(town, meanwhile.id)
    may_end.set()
    assert "pulled" in await stored(town, (await first).id)
    await town.drain()
    await town.sees("ann", "pulled", "delivered meanwhile")


async def is_known_to_be_heavy(world: World, name: str) -> bool:
    world.clock.advance(KNOWN_S + 1)
    settings = await world.timelines.switch.fresh()
    return (await world.timelines.pulls.markers.known(settings.epoch)).is_heavy(world.ids[name])


async def test_who_was_pulled_because_hardly_anybody_read_is_not_weighed_then(town: World) -> None:
    await were_posted(town, authors.POSTS_NEEDED, 0)
    await town.post("zoe", "seldom")
    assert await marked(town) == {town.ids["zoe"]}
    assert not await is_known_to_be_heavy(town, "zoe")


@pytest.mark.parametrize("settings", [RULED | {"pull_beyond": 1}])
async def test_who_is_pulled_by_the_rule_stays_heavy(town: World, monkeypatch: pytest.MonkeyPatch) -> None:
    """No delivery shows it any more, so their marker says so for as long again."""
    a_while_s = town.stack.config.activity_slack_s
    monkeypatch.setattr(heavy, "HEAVY_S", 4 * a_while_s)
    await town.post("zoe", "delivered, which shows it")
    await town.drain()
    for _ in range(8):
        town.clock.advance(a_while_s)
        await town.warm("ann", "ben")
        assert await is_known_to_be_heavy(town, "zoe")
        assert "pulled" in await stored(town, (await town.post("zoe", "pulled")).id)
    town.clock.advance(5 * a_while_s)
    assert not await is_known_to_be_heavy(town, "zoe")


async def test_what_is_posted_is_counted_beside_the_pages(town: World, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(authors, "POSTS_NEEDED", 10)
    for n in range(20):
        await town.post("zoe", str(n))
    await town.timelines.store_counts()
    town.clock.advance(KNOWN_S + 1)
    share = await town.timelines.pulls.authors.pages_a_post()
    assert share is not None
    assert share < 1, "the town has been warmed"
    town.clock.advance(24 * 3_600)
    assert await town.timelines.pulls.authors.pages_a_post() is None, "nothing is known of the last day"


@pytest.mark.parametrize("settings", [{"pull_beyond": 1}])
async def test_a_light_author_is_not_weighed(town: World) -> None:
    """Nor does their post cost a command more."""
    await town.post("zoe", "first")
    await town.drain()
    town.clock.advance(KNOWN_S + 1)
    for _ in range(2):
        with counted() as cost:
            status = await town.post("zoe", "hello")
        assert "pulled" not in await stored(town, status.id)
    weighed = await town.timelines.weighed(town.ids["zoe"])
    assert weighed
    assert (weighed.pulled, weighed.why, weighed.author.active_followers) == (False, "light", 2)
    assert cost.mongodb == 1 + 2 * len(KEEPING[:1]) + 1, "as many as phase 2 needs"


@pytest.mark.parametrize("settings", [RULED])
async def test_what_is_weighed_is_counted(town: World) -> None:
    read = 1_000
    await town.timelines.store_counts()  # of the pages by which the town was warmed
    await town.stack.db[SETTINGS].delete_one({"_id": authors.READS})
    with patch.object(town.timelines, "_reading"):  # the pages themselves are of no interest here
        town.timelines._reading.page = AsyncMock()  # type: ignore[method-assign]
        before = commands_sent("mongodb")
        for _ in range(read):
            await town.timelines.page(town.ids["ann"])
        assert commands_sent("mongodb") == before, "a page waits for no write, which a majority would have to have"
    await town.timelines.store_counts()
    for n in range(5):
        await town.post("zoe", str(n))
    found = await town.timelines.weighed(town.ids["zoe"])
    assert found
    assert found.why == "rule"
    assert found.author.active_followers == 2
    assert found.author.posts_per_day == 5 * 24, "all of it within the first hour"
    assert found.author.pages_per_reader_per_day == read / 3 * 24, "of three active readers"
    for _ in range(3):
        town.clock.advance(23 * 3_600)
        await town.timelines.sweep()
    found = await town.timelines.weighed(town.ids["zoe"])
    assert found
    assert (found.author.posts_per_day, found.author.pages_per_reader_per_day) == (0, None), "of the last day"


async def test_forcing_is_bounded_and_taken_back(town: World) -> None:
    zoe = town.ids["zoe"]
    await pull(town, "zoe")
    weighed = await town.timelines.weighed(zoe)
    assert weighed
    assert (weighed.pulled, weighed.why) == (True, "forced")
    for _ in range(MOST_FORCED - 1):
        await town.timelines.force(ObjectId(), False)
    with pytest.raises(Invalid, match=f"{MOST_FORCED} authors are forced already"):
        await town.timelines.force(ObjectId(), True)
    await town.timelines.force(zoe, None)
    await town.timelines.force(ObjectId(), True)
    settings: Settings = await town.timelines.switch.fresh()
    assert len(settings.forced) == MOST_FORCED
    assert zoe not in settings.forced
    town.pass_grace()
    assert "pulled" not in await stored(town, (await town.post("zoe", "by the rule")).id)


# Containers


async def test_phases_that_share_a_store_do_not_share_what_is_kept(town: World) -> None:
    """4 and 6: what is pulled is in no list of 6, and 4 has all of it in its own."""
    assert CACHE.keeps != HYBRID.keeps
    containers = {c.name for c in (await town.timelines.switch.fresh()).containers if c.until is None}
    assert len(containers) == len({town.timelines.phases[slug].keeps for slug in KEEPING})
    await pull(town, "zoe")
    status = await town.post("zoe", "hello")
    await town.drain()
    assert (await holds(town, "ann", status.id), await holds(town, "ann", status.id, CACHE)) == (False, True)
    other = Statuses(town.stack, another_process(town).outbox)
    for one, two in ((CACHE, HYBRID), (HYBRID, CACHE)):
        await town.timelines.change(delivering=[one.slug])
        town.pass_grace()
        await other.post(town.ids["zoe"], f"{one.slug} alone")
        await town.source("ann", one.slug)
        assert [await town.source("ann", each.slug) for each in (two, one)] == ["query", "list"]
