"""An account is deleted by one transaction: from then on nothing of it is visible, and what is left goes in chunks."""

import asyncio
import json
from typing import Any
from unittest.mock import patch

import pytest
from bson import ObjectId

from app import departures
from app.accounts import OURSELVES, Accounts
from app.departures import LINGER_S, clear_departures, depart
from app.errors import Forbidden, NoAccount, NotFound, WrongPassword
from app.inbox.conversations import Conversations
from app.inbox.mentions import seen_mentions
from app.inbox.messages import Messages
from app.inbox.notifications import Notifications
from app.inbox.notifier import Notifier
from app.models import Account, Person
from app.social.people import People
from app.stack import Hint
from app.stack.mongodb.transaction import Contended, transaction
from phases.p2_push import HomeEntries
from phases.timelines import Timelines
from tests.world import SLUGS, World

pytestmark = pytest.mark.anyio


@pytest.fixture
async def town(world: World) -> World:
    """Zoe is in everything with Ann, and each process has pages and edges of everybody in mind."""
    world.timelines.outbox.add(Notifier(world.stack, world.timelines.outbox))
    await world.sign_up("ann", "ben", "zoe")
    await world.follow("ann", "zoe", "ben")
    await world.follow("zoe", "ann")
    await world.follow("ben", "zoe", "ann")
    relations, statuses, ids = world.relations, world.statuses, world.ids
    await relations.add_to_circle(ids["zoe"], ids["ann"])
    await relations.add_to_circle(ids["ann"], ids["zoe"])
    await relations.mute(ids["ben"], ids["zoe"])
    await relations.mute(ids["zoe"], ids["ben"])
    by_ann = await world.post("ann", "by ann, to @zoe and @ben")
    for audience in ("followers", "mutuals", "circle"):
        await world.post("zoe", f"by zoe to {audience}, and to @ann", audience)
    await statuses.like(ids["zoe"], by_ann.id)
    await statuses.like(ids["ben"], by_ann.id)
    await world.drain()
    await world.warm("ann", "ben", "zoe")
    for reader in ("ann", "ben"):
        await world.walk(reader, "query")
    return world


async def leave(world: World, name: str) -> None:
    await depart(world.stack.db, world.clock, world.ids[name])


async def cleared(world: World) -> None:
    """Both rounds, in the smallest steps."""
    with patch.object(departures, "CHUNK", 1):
        await clear_departures(world.stack.db, world.clock, world.stack.bus)
        world.clock.advance(LINGER_S + 1)
        await clear_departures(world.stack.db, world.clock, world.stack.bus)


async def rows_that_name(world: World, person: ObjectId) -> dict[str, list[Any]]:
    """By kind of collection, whatever holds the id, but for what has to stay: timelines of others, too."""
    await world.timelines.outbox.sweep()
    found: dict[str, list[Any]] = {}
    for name, documents in (await world.dump()).items():
        if name == "users":
            continue
        is_timeline = name.startswith("home_")
        for row in documents:
            ids = _ids(row)
            if person.binary in (ids[0][:12] if is_timeline else b"".join(ids)):
                found.setdefault(name.rpartition("_")[0] if is_timeline else name, []).append(row)
    return found


def _ids(value: object) -> list[bytes]:
    if isinstance(value, ObjectId):
        return [value.binary]
    if isinstance(value, bytes):
        return [value]
    parts = value.values() if isinstance(value, dict) else value if isinstance(value, list) else ()
    return [id for part in parts for id in _ids(part)]


async def test_at_once_nothing_of_it_is_visible(town: World) -> None:
    """In every phase, cold and warm, where everybody remembers pages and edges of before."""
    seen = await town.page("ann", "query")
    ann, zoe, ben = (town.ids[name] for name in ("ann", "zoe", "ben"))
    inbox = Notifications(town.stack)
    assert {one.who for one in (await inbox.page(ann, None, 20))[0]} == {zoe, ben}
    assert {row.user_id for row in seen.statuses} == {ann, zoe}

    await leave(town, "zoe")
    by_ann = next(row for row in seen.statuses if row.user_id == ann)
    for _ in range(2):
        for phase in SLUGS:
            for reader in ("ann", "ben"):
                assert [row.user_id for row in (await town.page(reader, phase)).statuses] == [ann], phase
        await town.sees("ann", by_ann.text)
        for row in seen.statuses:
            if row.user_id == zoe:
                with pytest.raises(NotFound):
                    await town.statuses.by_id(ann, row.id)
        assert (await town.statuses.by_author(ann, zoe, before=None, limit=20))[0] == []
        assert {one.who for one in (await inbox.page(ann, None, 20))[0]} == {ben}
        assert (await inbox.unread(ann)).number == 2  # a follow and a like
        counts = await town.people.counts(ann, ann)
        assert (counts.followers, counts.following) == (1, 1)
        for of in (town.people.followers, town.people.following):
            assert [one.handle for one in (await of(ann, before=None, limit=20))[0]] == ["ben"]
        assert (await town.people.circle(ann, before=None, limit=20))[0] == []
        assert (await town.people.muted(ben, before=None, limit=20))[0] == []
        assert (await seen_mentions(town.stack.db, [by_ann]))[by_ann.id] == {"ben"}
        assert [one.handle for one in (await town.people.search("", "", 20))[0]] == ["ann", "ben"]
        assert "zoe" not in {one.handle for one in await town.people.suggestions(ben, 5)}
        with pytest.raises(NotFound):
            await town.people.by_handle("zoe")
        for process in (town.people, People(town.stack)):
            assert (await process.by_ids([zoe]))[zoe] == Person(zoe, "", "deleted")
        await cleared(town)  # and the same once it is gone


async def test_a_page_that_was_seen_is_judged_again(world: World) -> None:
    """Where nothing else has changed: neither the list, nor the statuses, nor the reader's own edges."""
    await world.sign_up("ann", "zoe")
    await world.follow("ann", "zoe")
    await world.post("zoe", "hello")
    await world.drain()
    for _ in range(3):
        for phase in SLUGS:
            assert await world.walk("ann", phase) == ["hello"]
    await leave(world, "zoe")
    for phase in SLUGS:
        assert await world.walk("ann", phase) == [], phase


async def test_who_was_seeded_remembers_nothing_of_a_deleted_account(world: World) -> None:
    """None of their edges has been changed, so their edges have no version yet."""
    await world.sign_up("ann", "zoe")
    edge = {"_id": world.clock.new_id(), "follower": world.ids["ann"], "followee": world.ids["zoe"]}
    await world.stack.db["follows"].insert_one(edge)
    await world.post("zoe", "by zoe")
    await world.drain()
    await world.warm("ann")
    for phase in SLUGS:
        assert await world.walk("ann", phase) == ["by zoe"]
    await leave(world, "zoe")
    await cleared(world)
    for phase in SLUGS:
        assert await world.walk("ann", phase) == [], phase


async def test_lists_of_people_are_full_before_it_is_cleared(world: World) -> None:
    """Whoever departs: the first ones, some in the middle, the one behind a page, the last."""
    names = [f"fan{n}" for n in range(9)]
    await world.sign_up("ann", *names)
    for name in names:
        await world.follow(name, "ann")
        await world.follow("ann", name)
    for name in ("fan8", "fan7", "fan4", "fan1", "fan0"):
        await leave(world, name)
    for listed in (world.people.followers, world.people.following):
        assert await _walk(world, listed, limit=2) == [["fan6", "fan5"], ["fan3", "fan2"]]
        assert await _walk(world, listed, limit=3) == [["fan6", "fan5", "fan3"], ["fan2"]]


async def _walk(world: World, listed: Any, limit: int) -> list[list[str]]:
    pages, before = [], None
    while True:
        people, before = await listed(world.ids["ann"], before=before, limit=limit)
        pages.append([one.handle for one in people])
        if before is None:
            return pages


async def test_what_is_left_goes_and_likes_are_counted(town: World) -> None:
    ann, zoe = town.ids["ann"], town.ids["zoe"]
    await leave(town, "zoe")
    left = await rows_that_name(town, zoe)
    assert left.keys() >= {"statuses", "likes", "follows", "circles", "mutes", "notifications", "departures"}
    assert len(left["home_entries"]) > len(left["home_floors"]) > 0
    entries_of_others = await _entries_of_others(town, zoe)
    await cleared(town)
    assert await _entries_of_others(town, zoe) == entries_of_others > 0
    left = await rows_that_name(town, zoe)
    assert left.keys() <= {"notifications"}  # of others, who are not shown them; they end by themselves
    (status,) = (await town.page("ann", "query")).statuses
    assert (status.likes, status.you_like) == (1, False)
    stored = await town.stack.db["users"].find_one({"_id": zoe})
    assert stored
    assert "password_hash" not in stored
    assert (await town.people.counts(ann, ann)).followers == 1


async def _entries_of_others(world: World, person: ObjectId) -> int:
    dump = await world.dump()
    rows = [row for name in dump if name.startswith("home_entries_") for row in dump[name]]
    return sum(row["_id"][:12] != person.binary for row in rows)


@pytest.mark.parametrize("under_way", ["deliver", "rebuild"])
async def test_a_timeline_that_comes_late_goes_with_the_last_round(town: World, under_way: str) -> None:
    """Who delivers has looked up the followers, or the page of whose account it is has begun. It comes after all of
    the first round.
    """
    zoe, right = town.ids["zoe"], getattr(HomeEntries, under_way)
    begins, may_go_on = asyncio.Event(), asyncio.Event()

    async def slowly(self: HomeEntries, *args: Any) -> Any:
        begins.set()
        await may_go_on.wait()
        return await right(self, *args)

    await town.chill("zoe")
    with patch.object(HomeEntries, under_way, slowly):
        comes = asyncio.create_task(town.page("zoe", "push") if under_way == "rebuild" else town.post("ann", "late"))
        await begins.wait()
        await leave(town, "zoe")
        await clear_departures(town.stack.db, town.clock, town.stack.bus)
        assert not (await rows_that_name(town, zoe)).keys() & {"home_entries", "home_floors"}
        may_go_on.set()
        await comes
    assert (await rows_that_name(town, zoe)).keys() & {"home_entries", "home_floors"}
    town.clock.advance(LINGER_S + 1)
    await clear_departures(town.stack.db, town.clock, town.stack.bus)
    assert (await rows_that_name(town, zoe)).keys() <= {"notifications"}


async def test_it_goes_on_where_somebody_was_killed(town: World) -> None:
    """A round is bounded; what it left, the next one finds."""
    await leave(town, "zoe")
    with patch.object(departures, "CHUNK", 1), patch.object(departures, "STEPS", 1):
        for _ in range(30):
            await clear_departures(town.stack.db, town.clock, town.stack.bus)
    assert (await town.stack.db["departures"].find_one({})) == {
        "_id": town.ids["zoe"],
        "since": town.clock.now(),
        "cleared": True,
    }
    await cleared(town)
    assert await town.stack.db["departures"].count_documents({}) == 0


async def left_by(world: World, *names: str) -> set[str]:
    """Of whom there is something left."""
    found = await world.stack.db["departures"].find({"cleared": {"$exists": False}}, {"_id": 1}).to_list(None)
    return {name for name in names if {"_id": world.ids[name]} in found}


async def test_a_round_is_as_long_for_who_has_left_much(world: World) -> None:
    """A conversation is a transaction. Others have their share of the round, and the next one goes on."""
    others, steps, looks = [f"other{n}" for n in range(30)], 6, 1 + len(departures.EDGES)
    await world.sign_up("yan", "zoe", *others)
    talk = Conversations(world.stack)
    for name in others:
        await talk.open(world.ids["zoe"], world.ids[name])
    await leave(world, "zoe")
    world.clock.advance(1)
    await leave(world, "yan")
    made = 0

    async def counted(db: Any, work: Any) -> Any:
        nonlocal made
        made += 1
        return await transaction(db, work)

    with patch.multiple(departures, STEPS=steps, transaction=counted):
        await clear_departures(world.stack.db, world.clock, world.stack.bus)
        assert made <= steps + 2 * looks
        assert await world.stack.db["conversations"].count_documents({"gone": world.ids["zoe"]}) == steps // 2
        assert await left_by(world, "yan", "zoe") == {"zoe"}
        for _ in others:
            await clear_departures(world.stack.db, world.clock, world.stack.bus)
    assert await left_by(world, "zoe") == set()
    assert await world.stack.db["conversations"].count_documents({}) == 0


async def test_who_waits_for_others_holds_up_nobody_else(world: World) -> None:
    await world.sign_up("yan", "zoe")
    await leave(world, "zoe")
    world.clock.advance(1)
    await leave(world, "yan")
    likes, zoe = departures._likes, world.ids["zoe"]

    async def held(db: Any, bus: Any, person: ObjectId) -> bool:
        if person == zoe:
            raise Contended("others keep changing the same documents")
        return await likes(db, bus, person)

    with patch.object(departures, "_likes", held):
        await clear_departures(world.stack.db, world.clock, world.stack.bus)
    assert await left_by(world, "yan", "zoe") == {"zoe"}
    await clear_departures(world.stack.db, world.clock, world.stack.bus)
    assert await left_by(world, "zoe") == set()


async def test_what_was_under_way_leaves_nothing(town: World) -> None:
    """Requests that began before the account was deleted, of somebody who had been stopped meanwhile."""
    ids, relations, statuses = town.ids, town.relations, town.statuses
    await leave(town, "zoe")
    for work in (
        relations.follow(ids["zoe"], ids["ben"]),
        relations.follow(ids["ben"], ids["zoe"]),
        relations.add_to_circle(ids["ben"], ids["zoe"]),
        relations.add_to_circle(ids["zoe"], ids["ben"]),
        relations.block(ids["zoe"], ids["ben"]),
        relations.block(ids["ann"], ids["zoe"]),
        relations.mute(ids["zoe"], ids["ann"]),
        relations.mute(ids["ann"], ids["zoe"]),
        depart(town.stack.db, town.clock, ids["zoe"]),
    ):
        with pytest.raises(NotFound):
            await work
    (by_ann,) = (await town.page("ann", "query")).statuses
    await statuses.unlike(ids["ben"], by_ann.id)
    await clear_departures(town.stack.db, town.clock, town.stack.bus)
    with pytest.raises(NotFound):
        await statuses.like(ids["zoe"], by_ann.id)
    with pytest.raises(NoAccount):
        await town.people.rename(Account(ids["zoe"], "zoe"), "Back again")
    await statuses.post(ids["zoe"], "too late, @ann")
    await town.drain()
    await town.sees("ann", by_ann.text)
    town.clock.advance(LINGER_S + 1)
    await clear_departures(town.stack.db, town.clock, town.stack.bus)
    assert (await rows_that_name(town, ids["zoe"])).keys() <= {"notifications"}
    assert (await town.people.by_ids([ids["zoe"]]))[ids["zoe"]].name == "deleted"
    await town.sees("ann", by_ann.text)


def test_no_transaction_outlives_the_last_round() -> None:
    """MongoDB gives up those that are 60 s old, and looks for them every half of that."""
    oldest_s, every_s = 60, 30
    assert oldest_s + every_s < LINGER_S


async def test_what_is_done_later_makes_nothing_of_it_anew(town: World) -> None:
    """A worker was away and handles what was done to them before; and somebody deletes what they had said to them."""
    ann, zoe = town.ids["ann"], town.ids["zoe"]
    conversations, messages = Conversations(town.stack), Messages(town.stack)
    talk, _ = await conversations.open(ann, zoe)
    await messages.send(ann, talk.id, "1", "hello")
    await town.relations.unfollow(ann, zoe)
    await town.relations.follow(ann, zoe)
    await leave(town, "zoe")
    await cleared(town)
    await town.drain()
    for said in (messages.send(ann, talk.id, "2", "more"), conversations.check_is_open(ann, talk.id)):
        with pytest.raises(Forbidden, match="has been deleted"):  # not: one of you blocks the other
            await said
    await messages.delete(ann, talk.id, 1)
    left = await rows_that_name(town, zoe)
    assert left.keys() <= {"notifications", "conversations", "messages"}, "what others keep"
    assert {row["whom"] for row in left.get("notifications", ())} <= {ann, town.ids["ben"]}


@pytest.mark.parametrize("addresses", [pytest.param("servers", marks=pytest.mark.servers)], indirect=True)
async def test_what_it_leaves_is_found_by_indexes(world: World) -> None:
    """However much others have, and however long workers have been away: a round asks ten times a minute."""
    person = ObjectId()
    asked = [*departures.own_rows(person), *((edges.collection, {edges.end: person}) for edges in departures.EDGES)]
    scanned = []
    for collection, theirs in asked:
        plan = await world.stack.db.command("explain", {"find": collection, "filter": theirs, "limit": 1})
        stages = json.dumps(plan["queryPlanner"]["winningPlan"], default=str)
        if "COLLSCAN" in stages or ("IXSCAN" not in stages and "IDHACK" not in stages):
            scanned.append(collection)
    assert scanned == []


async def test_a_process_that_has_seen_nothing_yet_knows_it(town: World) -> None:
    await leave(town, "zoe")
    town.timelines = Timelines(town.stack)
    await town.sees("ann", "by ann, to @zoe and @ben")


async def test_tokens_end_with_the_account_whoever_signs_in_meanwhile(town: World) -> None:
    accounts = Accounts(town.stack)
    user = await accounts.sign_up("yan", None, "correct horse")
    me = Account(user.id, "yan")
    token, _ = await accounts.sign_in("yan", "correct horse")
    with pytest.raises(WrongPassword):
        await accounts.delete(me, "wrong horse")
    another = Accounts(town.stack)
    for process in (accounts, another):
        assert await process.authenticate(token)
    await accounts.delete(me, "correct horse", OURSELVES)
    for process in (accounts, another):
        assert await process.authenticate(token) is None
    for late in (
        accounts.sign_in("yan", "correct horse"),
        accounts.delete(me, "correct horse"),
        accounts.new_token(user.id),
        accounts.new_token(user.id, user.password_hash),
    ):
        with pytest.raises(WrongPassword):
            await late
    with pytest.raises(NoAccount):
        await accounts.hide(me, True)
    assert (await rows_that_name(town, user.id)).keys() == {"departures", "inboxes"}


async def who_likes(town: World) -> Account:
    """Yan, who likes everything of Ann's: two statuses."""
    user = await Accounts(town.stack).sign_up("yan", None, "correct horse")
    await town.relations.follow(user.id, town.ids["ann"])
    second = await town.post("ann", "again")
    for row in (await town.page("ann", "query")).statuses:
        if row.user_id == town.ids["ann"]:
            await town.statuses.like(user.id, row.id)
    assert await likes_of_ann(town) == {second.text: 1, "by ann, to @zoe and @ben": 3}
    return Account(user.id, "yan")


async def likes_of_ann(town: World) -> dict[str, int]:
    found = (await town.page("ann", "query")).statuses
    return {row.text: row.likes for row in found if row.user_id == town.ids["ann"]}


async def test_likes_are_gone_when_the_end_of_the_account_is_acknowledged(town: World) -> None:
    """Before anybody sweeps; and who has such a status on their page is told."""
    yan, told = await who_likes(town), list[Hint]()
    with patch.object(town.stack.bus, "tell", lambda *hints: told.extend(hints)), patch.object(departures, "CHUNK", 1):
        await Accounts(town.stack).delete(yan, "correct horse")
    assert await likes_of_ann(town) == {"again": 0, "by ann, to @zoe and @ben": 2}
    assert await town.stack.db["likes"].count_documents({}) == 2
    assert [hint.kind for hint in told] == ["named", "tokens", "liked", "liked"]
    assert {hint.about for hint in told if hint.kind == "liked"} == {yan.id}


async def test_more_likes_than_a_request_takes_back_wait(town: World) -> None:
    yan = await who_likes(town)
    with patch.object(departures, "CHUNK", 1), patch.object(departures, "LIKE_STEPS", 1):
        await Accounts(town.stack).delete(yan, "correct horse")
    assert sum((await likes_of_ann(town)).values()) == 3
    await clear_departures(town.stack.db, town.clock, town.stack.bus)
    assert await likes_of_ann(town) == {"again": 0, "by ann, to @zoe and @ben": 2}


async def test_an_account_is_deleted_though_its_likes_cannot_be_for_now(town: World) -> None:
    yan = await who_likes(town)
    with patch.object(departures, "_likes", side_effect=Contended("others keep changing the same documents")):
        await Accounts(town.stack).delete(yan, "correct horse")
    assert sum((await likes_of_ann(town)).values()) == 4
    await clear_departures(town.stack.db, town.clock, town.stack.bus)
    assert sum((await likes_of_ann(town)).values()) == 2
