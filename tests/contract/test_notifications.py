"""Notifications: each once, whatever is repeated or lost; the read decides what is shown and counted."""

from datetime import timedelta
from typing import Any

import pytest
from bson import ObjectId

from app.inbox import notifications
from app.inbox.mentions import MOST_MENTIONED
from app.inbox.notifications import Notification, Notifications
from app.inbox.notifier import KEPT, Notifier
from app.models import StatusRow
from app.stack.cost import counted
from app.text import mentions
from phases import PHASES
from phases.delivering.outbox import EVENTS
from tests.world import IN_WORKER, KEEPING, World

pytestmark = pytest.mark.anyio

PEOPLE = ("ann", "ben", "cat", "zoe")


@pytest.fixture
async def town(world: World) -> World:
    """Nobody follows anybody; notifications are a consumer."""
    world.timelines.outbox.add(Notifier(world.stack, world.timelines.outbox))
    await world.sign_up(*PEOPLE)
    return world


def inbox(town: World) -> Notifications:
    return Notifications(town.stack)


def in_words(town: World, one: Notification) -> str:
    names = {id: name for name, id in town.ids.items()}
    return f"{names[one.who]} {one.kind}" + (f" {one.status.text}" if one.status else "")


async def shown(town: World, reader: str, limit: int = 20) -> list[str]:
    """All of them in words, newest first: the same in pages of any length, each full but for the last."""
    found: list[Notification] = []
    before: int | None = None
    while True:
        page, before = await inbox(town).page(town.ids[reader], before, limit)
        found += page
        if before is None:
            break
        assert len(page) == limit
    seqs = [one.seq for one in found]
    assert seqs == sorted(set(seqs), reverse=True)
    return [in_words(town, one) for one in found]


async def unread(town: World, reader: str) -> int:
    return (await inbox(town).unread(town.ids[reader])).number


async def act(town: World, verb: str, one: str, other: str | StatusRow) -> None:
    town.clock.advance(1)
    if isinstance(other, str):
        await getattr(town.relations, verb)(town.ids[one], town.ids[other])
    else:
        await getattr(town.statuses, verb)(town.ids[one], other.id)


async def owed(town: World) -> list[dict[str, Any]]:
    found = [await town.stack.db[name].find({"pending": Notifier.name}).to_list(None) for name in (EVENTS, "statuses")]
    return [*found[0], *found[1]]


async def are_told(town: World, reader: str, *texts: str) -> None:
    """After workers; and nothing is owed any more."""
    await town.drain()
    assert await owed(town) == []
    assert await shown(town, reader) == list(texts)
    assert await shown(town, reader, limit=2) == list(texts)


async def test_whoever_is_followed_hears_of_it(town: World) -> None:
    await act(town, "follow", "ann", "zoe")
    await act(town, "follow", "ben", "zoe")
    assert await shown(town, "zoe") == [], "a worker tells"
    await are_told(town, "zoe", "ben follow", "ann follow")
    await are_told(town, "ann")
    await act(town, "unfollow", "ben", "zoe")
    await are_told(town, "zoe", "ann follow")


async def test_whoever_is_added_to_a_circle_hears_of_it(town: World) -> None:
    await act(town, "add_to_circle", "zoe", "ann")
    await are_told(town, "ann", "zoe circle")
    await are_told(town, "zoe")
    await act(town, "remove_from_circle", "zoe", "ann")
    await are_told(town, "ann")


async def test_whoever_is_liked_hears_of_it(town: World) -> None:
    await act(town, "follow", "ann", "zoe")
    status = await town.post("zoe", "liked")
    await act(town, "like", "ann", status)
    await act(town, "like", "zoe", status)
    await are_told(town, "zoe", "ann like liked", "ann follow")
    await are_told(town, "ann")
    await act(town, "unlike", "ann", status)
    await are_told(town, "zoe", "ann follow")
    await act(town, "like", "ann", status)
    await town.statuses.delete(town.ids["zoe"], status.id)
    await are_told(town, "zoe", "ann follow")


async def test_whoever_is_mentioned_hears_of_it_where_they_may_see_it(town: World) -> None:
    await act(town, "follow", "ann", "zoe")
    status = await town.post("zoe", "Hello @Ann, @ben, @zoe and @nobody")
    hello = "zoe mention Hello @Ann, @ben, @zoe and @nobody"
    await are_told(town, "ann", hello)
    await are_told(town, "zoe", "ann follow")
    await are_told(town, "ben")
    await act(town, "follow", "ben", "zoe")
    await are_told(town, "ben", hello)
    await act(town, "unfollow", "ben", "zoe")
    await act(town, "mute", "ann", "zoe")
    await are_told(town, "ben")
    await are_told(town, "ann")
    await act(town, "unmute", "ann", "zoe")
    await are_told(town, "ann", hello)
    await town.statuses.delete(town.ids["zoe"], status.id)
    await are_told(town, "ann")


@pytest.mark.parametrize("audience", ["circle", "mutuals"])
async def test_a_mention_is_shown_to_its_audience(town: World, audience: Any) -> None:
    await act(town, "follow", "ann", "zoe")
    await town.post("zoe", "psst @ann", audience)
    verb, kind = {"circle": ("add_to_circle", "circle"), "mutuals": ("follow", "follow")}[audience]
    await are_told(town, "ann")
    await act(town, verb, "zoe", "ann")
    await are_told(town, "ann", f"zoe {kind}", "zoe mention psst @ann")


async def test_nothing_is_told_across_a_block(town: World) -> None:
    await act(town, "follow", "ann", "zoe")
    await act(town, "add_to_circle", "ann", "zoe")
    status = await town.post("zoe", "hello @ann")
    await act(town, "like", "ann", status)
    told: tuple[str, ...] = ("ann like hello @ann", "ann circle", "ann follow")
    for blocker, blocked in (("ann", "zoe"), ("zoe", "ann")):
        await are_told(town, "zoe", *told)
        await act(town, "block", blocker, blocked)
        await are_told(town, "zoe")
        await are_told(town, "ann")
        assert await unread(town, "zoe") == 0
        await act(town, "unblock", blocker, blocked)
        told = told[:2]  # the follow has ended
    await are_told(town, "zoe", *told)


async def test_the_same_again_keeps_its_place(town: World) -> None:
    await act(town, "follow", "ann", "zoe")
    status = await town.post("zoe", "liked")
    await act(town, "like", "ann", status)
    await town.drain()
    before, _ = await inbox(town).page(town.ids["zoe"], None, 20)
    for verb, to in (("unlike", status), ("like", status), ("unfollow", "zoe"), ("follow", "zoe")):
        await act(town, verb, "ann", to)
        await act(town, verb, "ann", to) if verb != "unlike" else None
    await are_told(town, "zoe", "ann like liked", "ann follow")
    after, _ = await inbox(town).page(town.ids["zoe"], None, 20)
    assert [one.seq for one in after] == [one.seq for one in before] == [2, 1]


async def test_repeating_a_follow_or_a_like_has_no_event(town: World) -> None:
    status = await town.post("zoe", "hello")
    await act(town, "follow", "ann", "zoe")
    await act(town, "add_to_circle", "zoe", "ann")
    await act(town, "like", "ann", status)
    first = await owed(town)
    assert [event["kind"] for event in first] == ["follow", "circle", "like"]
    for verb, one, other in (("follow", "ann", "zoe"), ("add_to_circle", "zoe", "ann"), ("like", "ann", status)):
        await act(town, verb, one, other)
    assert await owed(town) == first


async def test_what_is_handled_again_changes_nothing(town: World) -> None:
    """A job that is done twice, and a consumer that dies before it says that it is done."""
    notifier = town.timelines.outbox.consumers[Notifier.name]
    await act(town, "follow", "ann", "zoe")
    (event,) = await owed(town)
    status = await town.post("zoe", "hello @ann")
    for row, collection in (
        (event, EVENTS),
        (await town.stack.db["statuses"].find_one({"_id": status.id}), "statuses"),
    ):
        assert row
        for _ in range(3):
            await notifier.handle(row["_id"], None)
            await town.stack.db[collection].update_one(
                {"_id": row["_id"]}, {"$set": {**row, "pending": [Notifier.name]}}, upsert=True
            )
    await are_told(town, "zoe", "ann follow")
    await are_told(town, "ann", "zoe mention hello @ann")
    assert (await town.stack.db["inboxes"].find_one({"_id": town.ids["zoe"]}) or {})["seq"] == 1


async def test_what_the_queue_has_lost_is_swept_up(town: World) -> None:
    async with town.without_redis():
        await act(town, "follow", "ann", "zoe")
        await town.post("zoe", "hello @ann")
    town.clock.advance(5)  # a server that was away is asked again
    await town.drain()
    assert await shown(town, "zoe") == await shown(town, "ann") == []
    await town.sweep()
    await are_told(town, "zoe", "ann follow")
    await are_told(town, "ann", "zoe mention hello @ann")


async def test_events_are_gone_when_they_are_handled(town: World) -> None:
    await act(town, "follow", "ann", "zoe")
    await town.drain()
    await act(town, "follow", "ben", "zoe")
    await town.stack.queue.forget()
    await town.timelines.sweep()
    (left,) = await town.stack.db[EVENTS].find({}).to_list(None)
    assert left["who"] == town.ids["ben"], "what is owed stays"


async def test_unread_is_counted_above_a_watermark(town: World) -> None:
    for fan in ("ann", "ben", "cat"):
        await act(town, "follow", fan, "zoe")
    await town.drain()
    zoe, reader = town.ids["zoe"], inbox(town)
    assert await reader.unread(zoe) == (3, 0)
    for to, left, mark in ((2, 1, 2), (1, 1, 2), (10**30, 0, 3), (0, 0, 3)):
        await reader.mark_read(zoe, to)
        assert await reader.unread(zoe) == (left, mark), to
    await act(town, "add_to_circle", "ann", "zoe")
    await town.drain()
    assert await reader.unread(zoe) == (1, 3)
    stands = await reader.standing({zoe: 0})
    await act(town, "remove_from_circle", "ann", "zoe")
    assert await reader.unread(zoe) == (0, 3), "what is not shown is not counted"
    assert await reader.standing({zoe: 0}) == stands, "as far as follows and likes go"
    await act(town, "unfollow", "ben", "zoe")
    assert await reader.standing({zoe: 0}) != stands
    await reader.mark_read(town.ids["ann"], 5)
    assert await reader.unread(town.ids["ann"]) == (0, 0)


async def test_how_true_it_is_does_not_depend_on_whom_else_it_is_asked_of(town: World) -> None:
    """Cat follows both, and zoe was told of that long ago."""
    ann, zoe = town.ids["ann"], town.ids["zoe"]
    await act(town, "follow", "cat", "zoe")
    await act(town, "follow", "cat", "ann")
    await town.drain()
    alone = await inbox(town).standing({zoe: 2})
    assert (await inbox(town).standing({ann: 0, zoe: 2}))[zoe] == alone[zoe]


async def test_what_is_counted_says_from_where_on_it_may_change(town: World) -> None:
    for fan in ("ann", "ben", "cat"):
        await act(town, "follow", fan, "zoe")
    await town.drain()
    zoe = town.ids["zoe"]
    for most, seqs, down_to in ((2, [3, 2], 2), (3, [3, 2, 1], 1), (4, [3, 2, 1], 1)):
        found = await inbox(town).counted(zoe, most)
        assert ([one.seq for one in found.notifications], found.down_to) == (seqs, down_to)
    await inbox(town).mark_read(zoe, 3)
    assert (await inbox(town).counted(zoe)).down_to == 4, "nothing that there is"


async def test_counting_ends_at_the_most_and_looks_at_the_newest(town: World, monkeypatch: pytest.MonkeyPatch) -> None:
    fans = [f"fan{n}" for n in range(14)]
    await town.sign_up(*fans)
    for fan in fans:
        await act(town, "follow", fan, "zoe")
    await town.drain()
    zoe, reader = town.ids["zoe"], inbox(town)
    assert [(await reader.unread(zoe, most)).number for most in (1, 13, 14, 100)] == [1, 13, 14, 14]
    monkeypatch.setattr(notifications, "LOOKED_AT", 12)
    monkeypatch.setattr(notifications, "SPARE", 0)
    assert (await reader.unread(zoe)).number == 12
    for fan in fans[4:]:
        await act(town, "unfollow", fan, "zoe")
    assert [(await reader.unread(zoe, most)).number for most in (1, 2, 3, 100)] == [1, 2, 2, 2]
    monkeypatch.undo()
    assert await shown(town, "zoe", limit=3) == [f"fan{n} follow" for n in (3, 2, 1, 0)]


async def test_a_page_looks_at_so_many_and_says_where_it_goes_on(town: World, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whoever is followed can like what they like, and take it back."""
    monkeypatch.setattr(notifications, "LOOKED_AT", 6)
    monkeypatch.setattr(notifications, "SPARE", 0)
    await act(town, "follow", "cat", "zoe")
    await act(town, "follow", "ann", "zoe")
    liked = [await town.post("zoe", str(n)) for n in range(12)]
    for status in liked:
        await act(town, "like", "cat", status)
    await act(town, "follow", "ben", "zoe")
    await town.drain()
    for status in liked:
        await act(town, "unlike", "cat", status)
    await act(town, "unfollow", "cat", "zoe")
    pages: list[list[str]] = []
    before: int | None = None
    while before or not pages:
        with counted() as cost:
            page, before = await inbox(town).page(town.ids["zoe"], before, 2)
        assert cost.mongodb <= 4
        pages.append([in_words(town, one) for one in page])
    assert pages == [["ben follow"], [], ["ann follow"]]
    found = [await inbox(town).between(town.ids["zoe"], after, 15, most) for after, most in ((10, 1), (10, 0), (1, 1))]
    assert [[one.who for one in each] if each else each for each in found] == [[town.ids["ben"]], None, None]


async def test_a_page_passes_over_mentions_by_whom_its_reader_does_not_see(
    town: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Anybody can mention anybody, as often as they like: by far more than are looked at one by one."""
    monkeypatch.setattr(notifications, "LOOKED_AT", 8)
    monkeypatch.setattr(notifications, "SPARE", 0)
    zoe = town.ids["zoe"]
    await act(town, "follow", "zoe", "ben")
    await act(town, "follow", "ann", "zoe")
    await town.post("ben", "seen @zoe")
    await town.drain()
    for n in range(10):
        await town.post("cat", f"{n} @zoe")
        await town.post("ann", f"{n} @zoe")
    await town.drain()
    told = ["ben mention seen @zoe", "ann follow"]
    for passed, pages in (
        (8, [[], [], told]),
        (20, [[], told]),
        (21, [told[:1], told[1:]]),
        (22, [told]),
        (100, [told]),
    ):
        monkeypatch.setattr(notifications, "PASSED", passed)
        assert await pages_of(town, "zoe", 2) == pages, passed
    with counted() as cost:
        await inbox(town).page(zoe, None, 2)
    assert cost.mongodb == 5
    assert (await inbox(town).unread(zoe)).number == 0, "of the newest 8"
    await act(town, "follow", "zoe", "cat")
    monkeypatch.setattr(notifications, "LOOKED_AT", 1_000)
    seen = [one for page in await pages_of(town, "zoe", 2) for one in page]
    assert seen == [*(f"cat mention {n} @zoe" for n in reversed(range(10))), *told], "a later follow shows it"


async def pages_of(town: World, reader: str, limit: int) -> list[list[str]]:
    pages: list[list[str]] = []
    before: int | None = None
    while before or not pages:
        page, before = await inbox(town).page(town.ids[reader], before, limit)
        pages.append([in_words(town, one) for one in page])
    return pages


async def test_a_badge_costs_a_command_or_three(town: World) -> None:
    async def cost() -> int:
        with counted() as found:
            await inbox(town).unread(town.ids["zoe"], 10)
        return found.mongodb

    assert await cost() == 1
    await act(town, "follow", "ann", "zoe")
    status = await town.post("zoe", "liked")
    await act(town, "like", "ann", status)
    await town.drain()
    assert await cost() == 3
    await inbox(town).mark_read(town.ids["zoe"], 2)
    assert await cost() == 1


async def test_a_page_costs_two_commands(town: World) -> None:
    for fan in ("ann", "ben", "cat"):
        await act(town, "follow", fan, "zoe")
        await act(town, "like", fan, await town.post("zoe", f"hello @{fan}"))
    await town.drain()
    with counted() as cost:
        await inbox(town).page(town.ids["zoe"], None, 20)
    assert cost.mongodb == 2


async def test_a_page_comes_with_what_is_unread_on_it_or_not(town: World) -> None:
    for fan in ("ann", "ben", "cat"):
        await act(town, "follow", fan, "zoe")
    await town.drain()
    zoe, reader = town.ids["zoe"], inbox(town)
    await reader.mark_read(zoe, 1)
    for before, listed, next_ in ((None, [3, 2], 2), (2, [1], None)):
        page, cursor, unread = await reader.shown(zoe, before, 2)
        assert ([one.seq for one in page], cursor) == (listed, next_)
        assert ([one.seq for one in unread.notifications], unread.read_to) == ([3, 2], 1)


async def test_they_are_kept_for_ninety_days(town: World) -> None:
    assert timedelta(days=90) == KEPT
    await act(town, "follow", "ann", "zoe")
    await town.drain()
    (row,) = await town.stack.db["notifications"].find({}).to_list(None)
    assert row["until"] == town.clock.now() + KEPT
    indexes = await town.stack.db["notifications"].index_information()
    assert {name: index.get("expireAfterSeconds") for name, index in indexes.items()}["until_1"] == 0


async def test_the_first_people_who_are_mentioned_are_told(town: World) -> None:
    fans = [f"fan{n}" for n in range(MOST_MENTIONED + 2)]
    await town.sign_up(*fans)
    for fan in fans:
        await act(town, "follow", fan, "zoe")
    await town.post("zoe", "@zoe @nobody " + " ".join(f"@{fan} @{fan}" for fan in fans))
    await town.drain()
    told = [len(await shown(town, fan)) for fan in fans]
    assert told == [1] * MOST_MENTIONED + [0, 0]


@pytest.mark.parametrize(
    ("text", "named"),
    [
        ("@ann", ["ann"]),
        ("Hi,@Ann! (@BEN) “@cat”", ["ann", "ben", "cat"]),
        ("@ann's @ann @ANN", ["ann"]),
        ("me@ann https://ann/@ann @ @é @annä @" + "x" * 31, []),
        ("@ann.ben @@cat", ["ann", "cat"]),
    ],
)
def test_what_a_mention_is(text: str, named: list[str]) -> None:
    assert mentions(text) == named


# The outbox owes consumers


async def test_only_what_somebody_cares_for_has_an_event(world: World) -> None:
    """Nobody here cares for anything but statuses."""
    await world.sign_up(*PEOPLE)
    await world.follow("ann", "zoe")
    await act(world, "add_to_circle", "zoe", "ann")
    status = await world.post("zoe", "hello @ann")
    await act(world, "like", "ann", status)
    assert await world.stack.db[EVENTS].count_documents({}) == 0
    stored = await world.stack.db["statuses"].find_one({"_id": status.id})
    assert stored
    assert Notifier.name not in stored["pending"]


async def test_a_status_that_mentions_nobody_is_owed_to_phases_alone(town: World) -> None:
    await town.timelines.change(delivering=KEEPING)
    status = await town.post("zoe", "hello me@ann")
    stored = await town.stack.db["statuses"].find_one({"_id": status.id})
    assert stored
    assert set(stored["pending"]) == set(IN_WORKER)


async def test_a_consumer_has_a_name_of_its_own(town: World) -> None:
    """And without the hyphen that ends it in the id of a job."""
    for name in (Notifier.name, *(phase.slug for phase in PHASES), "by-mail"):

        class Named(Notifier):
            pass

        Named.name = name
        with pytest.raises(AssertionError, match=name):
            town.timelines.outbox.add(Named(town.stack, town.timelines.outbox))


async def test_a_switch_of_phases_takes_nothing_from_other_consumers(town: World) -> None:
    await act(town, "follow", "ann", "zoe")
    await town.post("zoe", "hello @ann")
    await town.stack.queue.forget()
    for delivering in ((), KEEPING, ()):
        await town.timelines.change(delivering=delivering)
        await town.timelines.restart()
        town.pass_grace()
        await town.timelines.sweep()
    assert len(await owed(town)) == 2
    await town.sweep()
    await are_told(town, "ann", "zoe mention hello @ann")
    await are_told(town, "zoe", "ann follow")


@pytest.mark.parametrize("settings", [{"pending_scan": 5, "cap": 50}])
async def test_what_others_are_owed_makes_no_read_dearer(town: World) -> None:
    """Rule 10: a backlog of mentions lies outside of what a page looks at."""
    await town.timelines.change(delivering=IN_WORKER)
    town.pass_grace()
    await act(town, "follow", "ann", "zoe")
    for n in range(30):
        await town.post("zoe", f"{n} @ann @ben")
    notifier = town.timelines.outbox.consumers.pop(Notifier.name)  # no worker tells
    await town.drain()
    town.timelines.outbox.add(notifier)
    assert len(await owed(town)) == 31
    for phase in IN_WORKER:
        for _ in range(2):
            await town.page("ann", phase, limit=5)
        with counted() as cost:
            page = await town.page("ann", phase, limit=5)
        assert (cost.mongodb, len(page.statuses)) == (1, 5), phase
        assert not town.timelines.pending.is_crowded


async def test_what_fails_for_one_person_is_tried_again(town: World, monkeypatch: pytest.MonkeyPatch) -> None:
    """A process dies between two people: whoever comes next tells both, each once."""
    await act(town, "follow", "ann", "zoe")
    await act(town, "follow", "ben", "zoe")
    await town.drain()
    status = await town.post("zoe", "hello @ann @ben")
    notifier = town.timelines.outbox.consumers[Notifier.name]
    assert isinstance(notifier, Notifier)
    told, notify = [], notifier._notify

    async def dying(whom: ObjectId, *args: Any) -> None:
        await notify(whom, *args)
        told.append(whom)
        if len(told) == 1:
            raise ConnectionError("died")

    monkeypatch.setattr(notifier, "_notify", dying)
    with pytest.raises(ConnectionError):
        await notifier.handle(status.id, None)
    assert told == [town.ids["ann"]]
    await are_told(town, "ann", "zoe mention hello @ann @ben")
    await are_told(town, "ben", "zoe mention hello @ann @ben")
