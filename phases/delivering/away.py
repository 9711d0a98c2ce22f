"""Readers who come and go on demand, for demonstrations and measurements."""

from collections.abc import Awaitable, Callable, Sequence

from bson import ObjectId

from app.stack import Stack
from app.stack.mongodb.write import insert_missing
from phases.delivering.settings import SettingsChange
from phases.delivering.switch import Switch
from phases.keeping.activity import ACTIVE, active_until

AT_ONCE = 1_000  # readers in one command


async def as_if_here(stack: Stack, readers: Sequence[ObjectId], author: ObjectId) -> None:
    """Note that these readers have just been here and get the author's statuses. For experiments, while nothing else
    runs.
    """
    until = active_until(stack.config, stack.clock.now())
    change = {"$addToSet": {"authors": author}, "$max": {"until": until}}
    for at in range(0, len(readers), AT_ONCE):
        some = list(readers[at : at + AT_ONCE])
        there = await stack.db[ACTIVE].update_many({"_id": {"$in": some}}, change)
        if there.matched_count < len(some):
            new = [{"_id": reader, "until": until, "authors": [author]} for reader in some]
            await insert_missing(stack.db, ACTIVE, new)


async def send_away(
    stack: Stack, switch: Switch, anew: Sequence[str], share: float, rest: Callable[[float], Awaitable[object]]
) -> int:
    """End the activity of a share of all readers, spread evenly, and return of how many. `anew`: what is kept of the
    active.

    The invariant of `phases.keeping.activity` leaves one order: the phases that keep these are switched off, everybody
    stops reading and building them, readers are made inactive, and the phases are switched on again and begin anew. To
    delete a reader's list first is not enough: a reader who returns in between is believed to be active and builds
    another. A crash on the way leaves these phases switched off, which is slower and right. One of them that somebody
    wants off meanwhile is on again at the end: it is off already, so nothing says that they wanted it.
    """
    away = {slug for kept in anew for slug in switch.phases_of(kept)}
    before = await switch.change(SettingsChange(off=away))
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
    on_again = [slug for slug in before.delivering if slug in away]
    await switch.change(SettingsChange(on=on_again, anew=anew))  # anew also what somebody has switched on meanwhile
    return gone


async def _deactivate(stack: Stack, readers: list[ObjectId]) -> int:
    if readers:
        await stack.db[ACTIVE].delete_many({"_id": {"$in": readers}})
    return len(readers)
