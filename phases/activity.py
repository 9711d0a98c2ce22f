"""Who is active. Phase 4 delivers along the edges that are active; a list never outlives the activity of its reader's.

Invariant: a live list expires no later than `active_until` on every follow edge of its reader. Edges are therefore
marked before a list is stored or renewed, and for longer than the list lives, by a slack in which nothing is rewritten.
"""

import asyncio
from collections.abc import Awaitable, Callable
from datetime import datetime, timedelta

from bson import ObjectId

from app.config import Config
from app.stack import Stack
from app.stack.mongodb import PRIMARY_ALONE
from phases.switch import Switch

AT_ONCE = 1_000  # readers in one command


def active_until(config: Config, now: datetime) -> datetime:
    """How long an edge is active whose reader has just been here."""
    return now + timedelta(seconds=config.timeline_ttl_s + config.activity_slack_s)


class Activity:
    def __init__(self, stack: Stack) -> None:
        self._db, self._config, self._clock = stack.db, stack.config, stack.clock

    async def mark(self, reader: ObjectId) -> datetime:
        """Until when every edge of the reader is active: one command, three when that has to be renewed."""
        until = active_until(self._config, self._clock.now())
        enough = until - timedelta(seconds=self._config.activity_slack_s / 2)
        user = await self._db["users"].find_one({"_id": reader}, {"active_until": 1})
        if user and user.get("active_until") and user["active_until"] >= enough:
            active: datetime = user["active_until"]
            return active
        await self._db["follows"].update_many(
            {"follower": reader, "active_until": {"$lt": until}}, {"$set": {"active_until": until}}
        )
        users = self._db.get_collection("users", write_concern=PRIMARY_ALONE)  # lost, it is marked once more
        await users.update_one({"_id": reader}, {"$max": {"active_until": until, "last_seen_at": self._clock.now()}})
        return until

    async def count(self) -> int:
        """Readers that phase 4 delivers to."""
        return await self._db["users"].count_documents({"active_until": {"$gte": self._clock.now()}})


async def send_away(
    stack: Stack, switch: Switch, share: float, rest: Callable[[float], Awaitable[object]] = asyncio.sleep
) -> int:
    """End the activity of that share of all readers, spread evenly; how many. For demonstrations.

    The invariant above leaves one order: the phases that keep lists are switched off, everybody stops reading and
    building lists, edges and then readers are made inactive, and the phases are switched on again with new lists. To
    delete a reader's list first is not enough: whoever returns in between is believed to be active and builds another.
    A crash on the way leaves these phases switched off, which is slower and right.
    """
    before = (await switch.fresh()).delivering
    without = [slug for slug in before if slug not in switch.phases_of("lists")]
    await switch.change(None, without)
    await rest(stack.config.grace_s + stack.config.settings_age_s)
    now = stack.clock.now()
    past, gone, batch, number = now - timedelta(seconds=1), 0, [], 0
    async for user in stack.db["users"].find({}, {"_id": 1}).sort("_id", 1):
        number += 1
        if int(number * share) > int((number - 1) * share):
            batch.append(user["_id"])
        if len(batch) == AT_ONCE:
            gone += await _deactivate(stack, batch, past)
            batch = []
    gone += await _deactivate(stack, batch, past)
    if (await switch.fresh()).current("lists"):  # somebody switched them on meanwhile: what they keep is not trusted
        await switch.restart(("lists",))
    await switch.change(None, before)
    return gone


async def _deactivate(stack: Stack, readers: list[ObjectId], past: datetime) -> int:
    """Edges first: a reader who is still believed to be active renews none of them."""
    if readers:
        await stack.db["follows"].update_many({"follower": {"$in": readers}}, {"$set": {"active_until": past}})
        await stack.db["users"].update_many({"_id": {"$in": readers}}, {"$unset": {"active_until": ""}})
    return len(readers)
