"""Accounts that are deleted: one transaction marks them, and what they leave is cleared away in bounded chunks.

From the mark on nothing of the account is visible. `departures` names it for as long as anything of it may be left, the
version of all names was raised with it, and every page looks at that version: a process that remembers edges or pages
asks who has departed when it has changed, and at no other time. The account's own edges and likes end at the mark,
since they raise a version that the mark has closed. So do messages to and from it, which are numbered in an inbox that
the mark has closed; the inbox goes when the conversations have ended. Likes are counted where others see it, so they go
before anybody is told that the account is deleted. The other one keeps a conversation until they depart, too. Whatever
else was under way at that moment is stored after it, is seen by nobody, and is removed by a last round.
"""

import asyncio
import logging
from collections.abc import Mapping
from datetime import timedelta
from functools import partial
from typing import Any, NamedTuple

from bson import ObjectId

from app.clock import FIRST_ID, LAST_ID, Clock
from app.edges import (
    DEPARTURES,
    NAMES,
    VERSIONS,
    another_version,
    change_edges,
    new_versions,
    version_in,
    version_key,
    version_of,
)
from app.errors import TooMany
from app.models import HOME, NOBODY, like_key
from app.stack import Hint, Stack, outages_told
from app.stack.bus import Bus
from app.stack.cost import uncounted
from app.stack.mongodb.connection import Database
from app.stack.mongodb.find import Find, rows, together
from app.stack.mongodb.transaction import Transaction, transaction
from app.watch.background import errors_counted

log = logging.getLogger(__name__)

NAME = "deleted"  # of a deleted account, where others have something of it
MOST = 20_000  # accounts being deleted at the same time: each process remembers their ids
AT_ONCE = 100  # accounts that one round clears
CHUNK = 200  # documents that one step removes
STEPS = 1_000  # of one round, shared by its accounts: a step is one transaction at most
LIKE_STEPS = 50  # that the person who deletes their account waits for
EVERY_S = 10.0  # between two rounds of a process
LINGER_S = 100  # MongoDB gives up transactions that are 60 s old, and looks for them every 30 s


class Departed:
    """Those who have departed, as a process remembers them at a version of the names. Each process has one."""

    def __init__(self, db: Database) -> None:
        self._db = db
        self._version: int | None = None
        self._ids: frozenset[ObjectId] = frozenset()  # remembered

    async def at(self, version: int) -> frozenset[ObjectId]:
        """Return everybody who had departed at this version, or since, except those of whom nothing is left."""
        if version != self._version:
            with uncounted():
                found = await together(self._db, version=version_of(NAMES), departed=EVERYBODY)
            self._version = version_in(found["version"])
            self._ids = frozenset(row["_id"] for row in found["departed"])
        return self._ids


EVERYBODY = Find(DEPARTURES, {}, ("_id",), 2 * MOST, common=True)


async def departed_now(db: Database) -> list[ObjectId]:
    return [row["_id"] for row in await rows(db, EVERYBODY)]


async def depart(db: Database, clock: Clock, person: ObjectId) -> None:
    """Delete the account, once and for all. Raises NoAccount where it is deleted already, TooMany under a rush."""
    if await db[DEPARTURES].count_documents({}, limit=MOST) >= MOST:
        raise TooMany("Too many accounts are being deleted at this moment.", LINGER_S)

    async def mark(inside: Transaction) -> None:
        names = await inside[VERSIONS].find_one(version_key(NAMES), {"version": 1})
        assert names, "it has just been raised"
        await inside[VERSIONS].update_one(
            version_key(person), {"$set": {"closed": True, "tokens": ObjectId()}}, upsert=False
        )
        await inside["inboxes"].update_one({"_id": person}, {"$set": {"closed": True}}, upsert=True)
        blank = {"name": NAME, "found_by": [], "deleted": True, "renamed": names["version"]}
        forgotten = dict.fromkeys(("password_hash", "admin", "presence", "seen_at"), "")
        await inside["users"].update_one({"_id": person}, {"$set": blank, "$unset": forgotten}, upsert=False)
        await inside["tokens"].delete_many({"user_id": person})
        await inside[DEPARTURES].insert_one({"_id": person, "since": clock.now()})

    await change_edges(db, {NAMES, person}, mark)


async def take_likes_back(stack: Stack, person: ObjectId) -> None:
    """Take back the likes of somebody who has departed and waits for this, in a limited number of steps. Likes beyond
    these, or while a server is away, are counted until a round removes them.
    """
    with outages_told(log.info, "likes of a deleted account wait"):
        for _ in range(LIKE_STEPS):
            if not await _likes(stack.db, stack.bus, person):
                return


async def end_conversations(stack: Stack, person: ObjectId) -> None:
    """End conversations of somebody who has departed and waits for it, CHUNK of them: an open page of the other shows
    whom it is with, and is told by that. The rounds end those beyond these, or while a server is away.
    """
    with outages_told(log.info, "conversations of a deleted account wait"):
        await _conversations(stack.db, stack.bus, person, CHUNK)


class EdgeRows(NamedTuple):
    """The rows that name somebody at `end`. `reader`: the field of the reader at the other end, where their version
    covers the rows.
    """

    collection: str
    end: str
    reader: str | None = None


EDGES = (
    EdgeRows("follows", "followee", "follower"),
    EdgeRows("follows", "follower"),
    EdgeRows("blocks", "blocker", "blocked"),
    EdgeRows("blocks", "blocked", "blocker"),
    EdgeRows("circles", "owner", "member"),
    EdgeRows("circles", "member"),
    EdgeRows("mutes", "muted", "muter"),
    EdgeRows("mutes", "muter"),
)


def own_rows(person: ObjectId) -> tuple[tuple[str, Mapping[str, Any]], ...]:
    """Return each collection that has rows of a person alone, and which these are."""
    return (
        ("statuses", {"user_id": person}),
        ("notifications", {"whom": person}),
        ("events", {"whom": person}),
        ("tokens", {"user_id": person}),
        ("inboxes", {"_id": person}),
        ("active_readers", {"_id": person}),
        ("images", {"owner": person, "until": {"$exists": True}}),  # nobody was sent it
    )


async def clear_departures(db: Database, clock: Clock, bus: Bus) -> None:
    """Clear away what deleted accounts have left, in one bounded round. It may be repeated, broken off, and made by
    several processes at once. `bus`: hears what it changes for others.

    Whoever has left much holds up nobody else's: each account has its share of the round, also behind one whose
    documents others hold.
    """
    late = clock.now() - timedelta(seconds=LINGER_S)
    due = {"$or": [{"cleared": {"$exists": False}}, {"since": {"$lte": late}}]}
    departures = await db[DEPARTURES].find(due).sort("since", 1).limit(AT_ONCE).to_list(None)
    for departure in departures:
        person, is_last = departure["_id"], departure["since"] <= late
        with outages_told(log.info, "what a deleted account has left waits"):
            if not await _clear(db, bus, person, max(1, STEPS // len(departures))):
                continue
            if is_last:
                await db[DEPARTURES].delete_one({"_id": person})
            else:
                await db[DEPARTURES].update_one({"_id": person}, {"$set": {"cleared": True}})


async def keep_clearing(stack: Stack) -> None:
    """Do rounds until cancelled. Every process does them: there may be no worker."""
    while True:
        await asyncio.sleep(EVERY_S)
        words = "what deleted accounts have left waits"
        with errors_counted("departures", words), outages_told(log.info, words):
            await clear_departures(stack.db, stack.clock, stack.bus)


async def _clear(db: Database, bus: Bus, person: ObjectId, most: int) -> bool:
    """Clear away what somebody has left, in so many steps at most. Return whether nothing is left."""
    left = most
    while left and await _likes(db, bus, person):
        left -= 1
    for edges in EDGES:
        while left and await _edges(db, edges, person):
            left -= 1
    while left and await _named_by_readers(db, person):
        left -= 1
    while left and (ended := await _conversations(db, bus, person, left)):
        left -= ended
    while left and await _unkept(db, person):
        left -= 1
    for collection, theirs in own_rows(person):
        while left and await _own(db, collection, theirs):
            left -= 1
    for name in await db.list_collection_names():
        if name.startswith(HOME):
            await db[name].delete_one({"_id": person})
            while left and await _entries(db, name, person):
                left -= 1
    return left > 0


async def _likes(db: Database, bus: Bus, person: ObjectId) -> bool:
    """Remove some likes together with their counts, as they came. Return whether there were any."""
    theirs = {"_id": {"$gte": like_key(person, FIRST_ID), "$lte": like_key(person, LAST_ID)}}

    async def chunk(inside: Transaction) -> list[ObjectId]:
        keys = [row["_id"] for row in await inside["likes"].find(theirs, {"_id": 1}, CHUNK)]
        ids = [ObjectId(key[12:]) for key in keys]
        statuses = {"_id": {"$in": ids}, "deleted": False}
        await inside["statuses"].update_many(statuses, {"$inc": {"likes": -1}})
        await inside["likes"].delete_many({"_id": {"$in": keys}})
        return ids

    liked = await transaction(db, chunk)
    bus.tell(*(Hint("liked", person, id) for id in liked))
    return bool(liked)


async def _edges(db: Database, edges: EdgeRows, person: ObjectId) -> bool:
    """Remove some rows, and change the version of the readers whose edges they are. Return whether there were any."""

    async def chunk(inside: Transaction) -> bool:
        found = await inside[edges.collection].find({edges.end: person}, {edges.reader or "_id": 1}, CHUNK)
        if edges.reader:
            await _change_versions(inside, sorted({row[edges.reader] for row in found}))
        await inside[edges.collection].delete_many({"_id": {"$in": [row["_id"] for row in found]}})
        return bool(found)

    return await transaction(db, chunk)


async def _change_versions(inside: Transaction, readers: list[ObjectId]) -> None:
    """Change the versions of these readers. One who has none yet, as seeded people do, gets the first one now."""
    versions = inside[VERSIONS]
    keys = [version_key(reader) for reader in readers]
    theirs = {"user_id": NOBODY, "_id": {"$in": [key["_id"] for key in keys]}}
    there = {row["_id"] for row in await versions.find(theirs, {"_id": 1}, len(keys))}
    await versions.update_many({**theirs, "_id": {"$in": sorted(there)}}, another_version())
    for reader, key in zip(readers, keys, strict=True):
        if key["_id"] not in there:
            await versions.insert_one({**key, **new_versions(reader), **another_version()["$set"]})


async def _named_by_readers(db: Database, person: ObjectId) -> bool:
    """Remove somebody from some active readers, who are noted with the authors whose statuses they get. Return whether
    there were any.
    """
    some = await db["active_readers"].find({"authors": person}, {"_id": 1}).limit(CHUNK).to_list(None)
    ids = [row["_id"] for row in some]
    await db["active_readers"].update_many({"_id": {"$in": ids}}, {"$pull": {"authors": person}})
    return bool(ids)


async def _conversations(db: Database, bus: Bus, person: ObjectId, most: int) -> int:
    """End some conversations, each in a transaction; return how many. The other keeps what was said, and says no more,
    as after a block. They are told of this change, so it takes a number of their inbox where they list the
    conversation.
    """
    theirs, shown = {"people": person, "gone": {"$ne": person}}, {"_id": 1, "people": 1, "listed": 1}
    some = await db["conversations"].find(theirs, shown).limit(min(most, CHUNK)).to_list(None)

    async def end(row: Mapping[str, Any], other: ObjectId, inside: Transaction) -> None:
        change: dict[str, Any] = {"$inc": {"version": 1}, "$addToSet": {"blocked_by": person, "gone": person}}
        change["$pull"] = {"listed": person, "unread": person}
        if other in row["listed"]:
            seq = await inside["inboxes"].next_number({"_id": other})
            change["$set"] = {f"told.{row['people'].index(other)}.seq": seq}
        await inside["conversations"].update_one({"_id": row["_id"], **theirs}, change, upsert=False)

    for row in some:
        other = next(id for id in row["people"] if id != person)
        await transaction(db, partial(end, row, other))
        bus.tell(Hint("talked", other, row["_id"]))
    return len(some)


async def _unkept(db: Database, person: ObjectId) -> bool:
    """Remove some messages, with their pictures, of a conversation that nobody lists any more, as both have departed or
    nothing was said in it; and after the last one the conversation. Return whether there was any.
    """
    kept_by_nobody = await db["conversations"].find_one({"people": person, "listed": []}, {"_id": 1})
    if not kept_by_nobody:
        return False
    id = kept_by_nobody["_id"]
    some = await db["messages"].find({"conversation": id}, {"_id": 1, "image": 1}).limit(CHUNK).to_list(None)
    await db["images"].delete_many({"_id": {"$in": [row["image"] for row in some if "image" in row]}})
    await db["messages"].delete_many({"_id": {"$in": [row["_id"] for row in some]}})
    if not some:
        await db["conversations"].delete_one({"_id": id})
    return True


async def _own(db: Database, collection: str, theirs: Mapping[str, Any]) -> bool:
    some = await db[collection].find(theirs, {"_id": 1}).limit(CHUNK).to_list(None)
    if some:
        await db[collection].delete_many({"_id": {"$in": [row["_id"] for row in some]}})
    return bool(some)


async def _entries(db: Database, collection: str, person: ObjectId) -> bool:
    """Remove some entries of somebody's home timeline, to whom nothing is delivered any more: their follows have gone.

    They are named by their ends: of a clustered collection MongoDB 6.0 reads everything for an `$in` of `_id`.
    """
    theirs = {"$gte": person.binary + FIRST_ID.binary, "$lte": person.binary + LAST_ID.binary}
    some = await db[collection].find({"_id": theirs}, {"_id": 1}).sort("_id", 1).limit(CHUNK).to_list(None)
    if some:
        await db[collection].delete_many({"_id": {"$gte": some[0]["_id"], "$lte": some[-1]["_id"]}})
    return bool(some)
