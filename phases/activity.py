"""Who is active. Phase 4 delivers to active readers; a list never outlives the activity of its reader.

One document per active reader says until when they are, and whose statuses they get. Invariant: a live list expires
no later than `until` of its reader's document, and that names everybody whom the reader follows, but for edges whose
backfill is owed. So it is written before a list is filled or renewed, and each backfill begins by adding its author.
An author too many, unfollowed at the wrong moment, costs a place in the list and nothing else: the read decides.
"""

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from datetime import UTC, datetime
from typing import NamedTuple

from bson import ObjectId

from app.config import Config
from app.models import ActiveReader
from app.stack import Stack
from app.stack.mongodb import Transaction, grown, insert_missing
from phases.switch import Switch

ACTIVE = ActiveReader.Settings.name
AT_ONCE = 1_000  # readers in one command
SWEPT_AT_ONCE = 100  # since each may be a key of the index for each of 10,000 authors
SWEPT = 10  # times that many in one sweep


def active_until(config: Config, now: datetime) -> datetime:
    """How long a reader is active who has just been here: longer than a list lives, by half the slack at least. The
    other half it is rounded by, so that marking somebody again soon changes nothing.
    """
    step_s = config.activity_slack_s // 2
    until_s = int(now.timestamp()) + config.timeline_ttl_s + config.activity_slack_s
    return datetime.fromtimestamp(until_s // step_s * step_s, UTC)


async def remove_author(inside: Transaction, reader: ObjectId, author: ObjectId) -> None:
    """Together with the follow edge: should that come back, `add` comes after this."""
    await inside[ACTIVE].update_one({"_id": reader}, {"$pull": {"authors": author}}, upsert=False)


class Active(NamedTuple):
    """`authors`: everybody whom the reader follows, but for those whose backfill has yet to begin."""

    until: datetime
    authors: list[ObjectId]


class Activity:
    def __init__(self, stack: Stack) -> None:
        self._db, self._config, self._clock = stack.db, stack.config, stack.clock

    async def mark(self, reader: ObjectId, followees: Sequence[ObjectId]) -> Active:
        """Make sure, by a majority, that deliveries reach the reader. Whom they came to follow since `followees` were
        looked up has been added, or will be.
        """
        until = active_until(self._config, self._clock.now())
        noted = await grown(self._db, ACTIVE, reader, "authors", followees, "until", until)
        return Active(noted["until"], noted["authors"])

    async def add(self, reader: ObjectId, author: ObjectId) -> None:
        """After a new edge, before its backfill: whether the reader is active or not, since somebody may be about to
        mark them who has looked up their followees too early. (Members of a circle may not follow its owner.)
        """
        if await self._db["follows"].find_one({"follower": reader, "followee": author}, {"_id": 1}):
            await self.mark(reader, [author])

    async def count(self) -> int:
        """Readers that phase 4 delivers to."""
        return await self._db[ACTIVE].count_documents({"until": {"$gte": self._clock.now()}})

    async def sweep(self) -> None:
        """Forget the next of those whose activity has ended. Until then fan-outs pass them by in the index."""
        over = {"until": {"$lt": self._clock.now()}}
        for _ in range(SWEPT):
            found = await self._db[ACTIVE].find(over, {"_id": 1}).limit(SWEPT_AT_ONCE).to_list(None)
            if found:
                await self._db[ACTIVE].delete_many({"_id": {"$in": [row["_id"] for row in found]}, **over})
            if len(found) < SWEPT_AT_ONCE:
                return


async def as_if_here(stack: Stack, readers: Sequence[ObjectId], author: ObjectId) -> None:
    """For experiments, while nobody else is at it: these readers follow the author and have just been here."""
    until = active_until(stack.config, stack.clock.now())
    change = {"$addToSet": {"authors": author}, "$max": {"until": until}}
    for at in range(0, len(readers), AT_ONCE):
        some = list(readers[at : at + AT_ONCE])
        there = await stack.db[ACTIVE].update_many({"_id": {"$in": some}}, change)
        if there.matched_count < len(some):
            new = [{"_id": reader, "until": until, "authors": [author]} for reader in some]
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
