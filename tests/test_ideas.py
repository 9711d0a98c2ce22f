"""The ideas that the chapters open with do what the article says, beside the phases that grew from them; and where the
chapter says that they lose something, they do.
"""

import asyncio
from collections.abc import AsyncGenerator
from contextlib import aclosing, suppress
from typing import Any

import fakeredis
import pytest
from bson import ObjectId

from app.edges import Reader, Relation
from app.inbox.conversations import Conversations
from app.inbox.messages import Messages
from app.models import StatusRow
from app.walkthrough.ideas import i0_definition, i1_query, i2_push, i3_queue, i4_cache, i5_stream, i6_hybrid, i7_live
from app.walkthrough.ideas.i8_marks import Marks
from app.walkthrough.ideas.i8_messages import Messenger
from phases.p1_query import QUERY
from tests.world import World

pytestmark = pytest.mark.anyio
EXPECTED = ["carl again", "bob", "carl"]


@pytest.fixture
async def told(world: World) -> World:
    """Ann follows bob and carl, and not dora."""
    await world.sign_up("ann", "bob", "carl", "dora")
    await world.follow("ann", "bob", "carl")
    for author, text in (("carl", "carl"), ("bob", "bob"), ("dora", "dora"), ("carl", "carl again")):
        await world.post(author, text)
    assert await world.walk("ann", QUERY.slug) == EXPECTED
    return world


def texts(found: list[Any]) -> list[str]:
    return [status["text"] for status in found]


async def statuses(world: World) -> list[dict[str, Any]]:
    return await world.stack.db["statuses"].find({"text": {"$exists": True}}).sort("_id", 1).to_list(None)


async def as_told(world: World) -> AsyncGenerator[dict[str, Any], None]:
    """What a change stream would have said of the statuses that are there."""
    for status in await statuses(world):
        yield {"operationType": "insert", "fullDocument": status}


async def told_by_mongodb(world: World, author: str, text: str) -> AsyncGenerator[dict[str, Any], None]:
    async with world.stack.db["statuses"].watch() as stream:
        await world.post(author, text)
        yield await stream.next()


async def test_the_definition_keeps_what_may_be_seen(told: World) -> None:
    ann, rows = told.ids["ann"], [StatusRow.of(row) for row in await statuses(told)]
    followed = {told.ids[name] for name in ("bob", "carl")}
    authors = {row.user_id for row in rows}
    relations = {one: Relation(one in followed, blocked=False, in_circle=False, muted=False) for one in authors}
    found = i0_definition.home_timeline(rows, Reader(ann, relations, dict.fromkeys(authors, False)))
    assert [row.id for row in found] == [row.id for row in (await told.page("ann", QUERY.slug)).statuses]


async def test_the_query_finds_the_page_of_phase_1(told: World) -> None:
    assert texts(await i1_query.home_timeline(told.stack.db, told.ids["ann"])) == EXPECTED
    assert texts(await i1_query.home_timeline(told.stack.db, told.ids["ann"], 2)) == EXPECTED[:2]
    assert texts(await i1_query.home_timeline(told.stack.db, told.ids["bob"])) == []


async def test_the_hook_puts_ids_on_the_followers_timelines(told: World) -> None:
    assert await i2_push.home_timeline(told.stack.db, told.ids["ann"]) == []
    for status in await statuses(told):
        await i2_push.after_create(told.stack.db, status)
    assert texts(await i2_push.home_timeline(told.stack.db, told.ids["ann"])) == EXPECTED
    assert texts(await i2_push.home_timeline(told.stack.db, told.ids["ann"], 2)) == EXPECTED[:2]


async def test_the_hook_puts_a_job_on_a_queue_and_a_worker_walks(told: World) -> None:
    jobs = asyncio.Queue[ObjectId]()
    for status in await statuses(told):
        await i3_queue.after_create(jobs, status)
    await jobs.put(ObjectId())  # of a status that is gone
    assert await i2_push.home_timeline(told.stack.db, told.ids["ann"]) == []  # the poster went on
    worker = asyncio.create_task(i3_queue.worker(told.stack.db, jobs))
    await jobs.join()
    worker.cancel()
    with suppress(asyncio.CancelledError):
        await worker
    assert texts(await i2_push.home_timeline(told.stack.db, told.ids["ann"])) == EXPECTED


async def test_a_list_takes_what_is_posted_and_no_list_is_skipped(told: World) -> None:
    db, cache, ann = told.stack.db, told.stack.memcached, told.ids["ann"]
    await cache.delete(f"home:{ann}")  # of an earlier run on the same server
    *_, last = await statuses(told)
    await i4_cache.deliver_status(db, cache, last)
    assert await cache.gets(f"home:{ann}") is None  # skipped
    assert texts(await i4_cache.home_timeline(db, cache, ann)) == EXPECTED
    status = await told.post("bob", "news")
    await i4_cache.deliver_status(db, cache, {"_id": status.id, "user_id": status.user_id})
    assert texts(await i4_cache.home_timeline(db, cache, ann)) == ["news", *EXPECTED]
    await told.post("bob", "never delivered")
    assert texts(await i4_cache.home_timeline(db, cache, ann)) == ["news", *EXPECTED]  # it is a list, not a query
    await cache.delete(f"home:{ann}")


async def test_the_stream_fills_sorted_sets(told: World) -> None:
    db, ann, redis = told.stack.db, told.ids["ann"], fakeredis.FakeAsyncRedis()
    assert await i5_stream.home_timeline(db, redis, ann) == []
    async with aclosing(as_told(told)) as stream:
        await i5_stream.follow(stream, db, redis)
    assert texts(await i5_stream.home_timeline(db, redis, ann)) == EXPECTED
    if told.stack.addresses.mongodb:  # the stand-in has no change streams
        async with aclosing(told_by_mongodb(told, "bob", "news")) as stream:
            await i5_stream.follow(stream, db, redis)
        assert texts(await i5_stream.home_timeline(db, redis, ann)) == ["news", *EXPECTED]


async def test_what_is_pulled_is_merged_at_the_read(told: World) -> None:
    assert i6_hybrid.is_pulled(posts_a_day=4, pages_a_day=1)
    assert not i6_hybrid.is_pulled(posts_a_day=3, pages_a_day=1)
    db, following = told.stack.db, [told.ids["bob"], told.ids["carl"]]
    await db["statuses"].update_many(
        {"user_id": {"$in": [told.ids["bob"], told.ids["dora"]]}}, {"$set": {"pulled": True}}
    )
    kept = await db["statuses"].find({"user_id": told.ids["carl"]}).to_list(None)
    assert texts(await i6_hybrid.merged(db, kept, following)) == EXPECTED


async def test_who_is_here_and_follows_is_told_where_the_hint_is_not_lost(told: World) -> None:
    db, rows = told.stack.db, await statuses(told)
    here = {told.ids[name]: asyncio.Queue[Any]() for name in ("ann", "dora")}
    redis = fakeredis.FakeAsyncRedis(decode_responses=True)
    async with redis.pubsub(ignore_subscribe_messages=True) as listening:
        await listening.subscribe("posted")

        async def hints() -> AsyncGenerator[str, None]:
            while (message := await listening.get_message(timeout=0.1)) is None:
                pass
            yield message["data"]

        for row in rows[:2]:
            await i7_live.publish(redis, row["user_id"], row["_id"])
        async with aclosing(hints()) as heard:
            await i7_live.tell(heard, db, here)
    assert here[told.ids["ann"]].get_nowait()["_id"] == rows[0]["_id"]
    assert here[told.ids["ann"]].empty(), "the second hint is lost, and nobody looks"
    assert here[told.ids["dora"]].empty()
    await redis.aclose()


def test_a_list_in_memory_has_what_was_sent_and_loses_it_once_it_is_handed_out() -> None:
    messenger = Messenger()
    assert [messenger.send(name, text) for name, text in (("ben", "hello"), ("cat", "hi"), ("ben", "again"))] == [
        1,
        2,
        3,
    ]
    assert messenger.fetch("ben") == [(1, "hello"), (3, "again")]
    assert messenger.fetch("ben") == [], "if the answer was lost, so are the messages"
    assert messenger.fetch("cat") == [(2, "hi")]
    assert Messenger().fetch("cat") == [], "another process, or the same after a restart"


async def test_two_marks_say_how_far_each_message_is_whatever_order_receipts_come_in(world: World) -> None:
    await world.sign_up("ann", "ben", "cat", "dora")
    messages, ann = Messages(world.stack), world.ids["ann"]
    receipts = [(2, 0), (0, 1), (3, 1), (1, 0), (0, 2), (2, 0)]
    for other, received in (("ben", receipts), ("cat", [*reversed(receipts), *receipts]), ("dora", receipts[:2])):
        marks = Marks()
        found, _ = await Conversations(world.stack).open(ann, world.ids[other])
        for n in range(3):
            await messages.send(ann, found.id, str(n), "hello")
        for delivered, read in received:
            marks.receipt(delivered, read)
            await messages.receive(world.ids[other], found.id, delivered, read)
        sent, _ = await messages.page(ann, found.id, None, 3)
        states = [marks.state(one.seq) for one in reversed(sent)]
        assert [one.state for one in reversed(sent)] == states
        assert states == (["read", "delivered", "sent"] if other == "dora" else ["read", "read", "delivered"])
