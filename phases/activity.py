"""Who is active. Phase 4 delivers to active readers; a list never outlives the activity of its reader.

One document per active reader says until when they are, and whose statuses they get. Invariant: a live list expires
no later than `until` of its reader's document, and that names everybody whom the reader follows, but for edges whose
backfill is owed. So it is written before a list is stored or renewed, for longer than the list lives, by a slack in
which nothing is rewritten; and each backfill begins by adding its author.
"""

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from datetime import datetime, timedelta

from bson import ObjectId

from app.config import Config
from app.stack import Stack
from app.stack.mongodb import Find, Transaction, insert_missing, together
from phases.switch import Switch

ACTIVE = "active_readers"
AT_ONCE = 1_000  # readers in one command
FOLLOWEES_AT_ONCE = 20_000


def active_until(config: Config, now: datetime) -> datetime:
    """How long a reader is active who has just been here."""
    return now + timedelta(seconds=config.timeline_ttl_s + config.activity_slack_s)


async def remove_author(inside: Transaction, reader: ObjectId, author: ObjectId) -> None:
    """Together with the follow edge: should that come back, `add` comes after this."""
    await inside[ACTIVE].update_one({"_id": reader}, {"$pull": {"authors": author}}, upsert=False)


class Activity:
    def __init__(self, stack: Stack) -> None:
        self._db, self._config, self._clock = stack.db, stack.config, stack.clock
        self._readers = stack.db[ACTIVE]

    async def mark(self, reader: ObjectId) -> datetime:
        """Until when the reader is active, by a majority: one command, two to renew that, three after an absence."""
        until = active_until(self._config, self._clock.now())
        enough = until - timedelta(seconds=self._config.activity_slack_s / 2)
        noted = await self._readers.find_one({"_id": reader}, {"until": 1, "whole": 1})
        if noted and noted["whole"]:
            if noted["until"] >= enough:
                active: datetime = noted["until"]
                return active
            renewed = await self._readers.update_one({"_id": reader, "whole": True}, {"$max": {"until": until}})
            if renewed.matched_count:
                return until
        followees = Find("follows", {"follower": reader}, ("followee",), FOLLOWEES_AT_ONCE)
        [edges] = await together(self._db, followees)
        authors = {"$each": [edge["followee"] for edge in edges]}
        change = {"$addToSet": {"authors": authors}, "$max": {"until": until}, "$set": {"whole": True}}
        await self._readers.update_one({"_id": reader}, change, upsert=True)
        return until

    async def add(self, reader: ObjectId, author: ObjectId) -> None:
        """After a new edge, before its backfill. A reader who is away gets a document too, which is not whole: whoever
        is marking them at this moment may have looked up their followees too early, and adds those to it.
        """
        until = active_until(self._config, self._clock.now())
        change = {"$addToSet": {"authors": author}, "$max": {"until": until}, "$setOnInsert": {"whole": False}}
        await self._readers.update_one({"_id": reader}, change, upsert=True)

    async def count(self) -> int:
        """Readers that phase 4 delivers to."""
        return await self._readers.count_documents({"until": {"$gte": self._clock.now()}, "whole": True})

    async def sweep(self) -> None:
        """Forget the next of those whose activity has ended."""
        over = {"until": {"$lt": self._clock.now()}}
        found = await self._readers.find(over, {"_id": 1}).limit(AT_ONCE).to_list(None)
        if found:
            await self._readers.delete_many({"_id": {"$in": [row["_id"] for row in found]}, **over})


async def as_if_here(stack: Stack, readers: Sequence[ObjectId], author: ObjectId) -> None:
    """For experiments, while nobody else is at it: these readers follow the author and have just been here."""
    until = active_until(stack.config, stack.clock.now())
    change = {"$addToSet": {"authors": author}, "$max": {"until": until}}
    for at in range(0, len(readers), AT_ONCE):
        some = list(readers[at : at + AT_ONCE])
        there = await stack.db[ACTIVE].update_many({"_id": {"$in": some}}, change)
        if there.matched_count < len(some):
            new = [{"_id": reader, "until": until, "authors": [author], "whole": True} for reader in some]
            await insert_missing(stack.db, ACTIVE, new)


async def send_away(
    stack: Stack, switch: Switch, share: float, rest: Callable[[float], Awaitable[object]] = asyncio.sleep
) -> int:
    """End the activity of that share of all readers, spread evenly; how many. For demonstrations.

    The invariant above leaves one order: the phases that keep lists are switched off, everybody stops reading and
    building lists, readers are made inactive, and the phases are switched on again with new lists. To delete a
    reader's list first is not enough: whoever returns in between is believed to be active and builds another.
    A crash on the way leaves these phases switched off, which is slower and right.
    """
    before = (await switch.fresh()).delivering
    without = [slug for slug in before if slug not in switch.phases_of("lists")]
    await switch.change(None, without)
    await rest(stack.config.grace_s + stack.config.settings_age_s)
    gone, batch, number = 0, [], 0
    async for user in stack.db["users"].find({}, {"_id": 1}).sort("_id", 1):
        number += 1
        if int(number * share) > int((number - 1) * share):
            batch.append(user["_id"])
        if len(batch) == AT_ONCE:
            gone += await _deactivate(stack, batch)
            batch = []
    gone += await _deactivate(stack, batch)
    if (await switch.fresh()).current("lists"):  # somebody switched them on meanwhile: what they keep is not trusted
        await switch.restart(("lists",))
    await switch.change(None, before)
    return gone


async def _deactivate(stack: Stack, readers: list[ObjectId]) -> int:
    if readers:
        await stack.db[ACTIVE].delete_many({"_id": {"$in": readers}})
    return len(readers)
