"""The cast of demo mode: people to sign in as by one click."""

import asyncio
import logging
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from itertools import product
from typing import Any

from bson import ObjectId
from starlette.datastructures import State

from app.models import Follow, User
from app.social.people import People
from app.stack import Stack, outages_told
from phases.timelines import Timelines

log = logging.getLogger(__name__)

SIZE = 6
AGE_S = 60  # counting every edge takes a while on a large graph
MOST: list[dict[str, Any]] = [{"$sort": {"n": -1, "_id": 1}}, {"$limit": 1}]


@dataclass(frozen=True)
class Player:
    id: ObjectId
    handle: str
    name: str
    note: str


async def cast(stack: Stack, state: State) -> Sequence[Player]:
    """Return the person with most followers, then the one who follows most, then some followers of the first."""
    until_s, notes = getattr(state, "cast", (0.0, {}))
    if not notes or stack.clock.monotonic() >= until_s:
        notes = await _notes()
        state.cast = stack.clock.monotonic() + AGE_S, notes
    everybody: People = state.services.people
    people = await everybody.by_ids(notes)
    return [
        Player(id, people[id].handle, people[id].name, note)
        for id, note in notes.items()
        if id in people and people[id].is_there
    ]


async def warm(stack: Stack, state: State, rest: Callable[[float], Awaitable[object]] = asyncio.sleep) -> None:
    """Read the cast's timelines in every phase, as soon as what is kept is read: a newcomer finds all lists there."""
    timelines: Timelines = state.services.timelines
    await rest(stack.config.grace_s + stack.config.settings_age_s)
    with outages_told(log.info, "the cast stays cold"):
        for player, phase in product(await cast(stack, state), timelines.phases):
            await timelines.page(player.id, phase=phase)


async def _notes() -> dict[ObjectId, str]:
    most_followed = await _edges("followee", then=MOST)
    most_following = await _edges("follower", then=MOST)
    fans = await Follow.find({"followee": {"$in": list(most_followed)}}).sort("follower").limit(SIZE).to_list()
    first = await User.find().sort("_id").limit(SIZE).to_list()
    wanted = [*most_followed, *most_following, *(fan.follower for fan in fans), *(user.id for user in first)]
    ids = list(dict.fromkeys(wanted))[:SIZE]
    followers = await _edges("followee", {"followee": {"$in": ids}})
    following = await _edges("follower", {"follower": {"$in": ids}})
    notes = {id: f"{followers.get(id, 0):,} followers, follows {following.get(id, 0):,}" for id in ids}
    notes |= {id: f"follows most: {n:,} people" for id, n in most_following.items()}
    notes |= {id: f"most followed: by {n:,} people" for id, n in most_followed.items()}
    return {id: notes[id] for id in ids}


async def _edges(
    end: str, match: dict[str, Any] | None = None, then: Sequence[dict[str, Any]] = ()
) -> dict[ObjectId, int]:
    """Return the number of follow edges by the person at that end."""
    count = {"$group": {"_id": f"${end}", "n": {"$sum": 1}}}
    numbers = await Follow.aggregate([{"$match": match or {}}, count, *then]).to_list()
    return {row["_id"]: row["n"] for row in numbers}
