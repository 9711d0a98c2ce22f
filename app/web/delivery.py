"""Post a status and watch its delivery: when each phase let the poster go, and when followers' lists hold it."""

import asyncio
import logging
from dataclasses import dataclass, field
from time import perf_counter

from bson import ObjectId
from starlette.datastructures import State

from app.models import StatusRow
from app.social import Person, Social
from app.stack import UNAVAILABLE
from phases.activity import ACTIVE
from phases.held import holds
from phases.switch import StoreName
from phases.timelines import Timelines

log = logging.getLogger(__name__)

FOLLOWERS_WATCHED = 4  # active ones, and as many who are away
FOLLOWERS_LOOKED_AT = 200  # to find some who are away
WATCH_S = 120.0
SHORTEST_PAUSE_S, LONGEST_PAUSE_S = 0.01, 1.0
PRECISION = 0.05  # of the time that is shown
WATCHES_REMEMBERED = 20

STORES: tuple[StoreName, ...] = ("entries", "lists")


@dataclass
class Watch:
    """Milliseconds since the post was sent; what has not happened yet is absent.

    `held`: per store and follower; None where nothing is kept for the follower, who is rebuilt on return.
    """

    status: StatusRow
    began_s: float
    followers: list[Person]
    stored_ms: float
    owed: tuple[str, ...] = ()
    waited_ms: dict[str, float] = field(default_factory=dict)  # what the poster waited for each phase, after the insert
    cleared_ms: dict[str, float] = field(default_factory=dict)
    held_ms: dict[tuple[str, ObjectId], float | None] = field(default_factory=dict)
    over: bool = False
    looking: asyncio.Task[None] | None = None
    turn: asyncio.Lock = field(default_factory=asyncio.Lock)  # one look at a time: what was seen later counts

    def now_ms(self) -> float:
        return (perf_counter() - self.began_s) * 1000


class _Watched(Timelines):
    """The same timelines, and every delivery that a poster waits for is timed."""

    def __init__(self, timelines: Timelines, followers: list[Person]) -> None:
        vars(self).update(vars(timelines))
        self.followers, self.began_s = followers, perf_counter()
        self.watch: Watch | None = None

    async def deliver(self, slug: str, status: StatusRow) -> None:
        watch = self.stored(status)
        began_ms = watch.now_ms()
        try:
            await super().deliver(slug, status)
        finally:
            watch.waited_ms[slug] = watch.now_ms() - began_ms

    def stored(self, status: StatusRow) -> Watch:
        """Watch from the moment of the insert, so that what happens while the poster waits is seen too."""
        if self.watch is None:
            stored_ms = (perf_counter() - self.began_s) * 1000
            self.watch = Watch(status, self.began_s, self.followers, stored_ms)
            self.watch.looking = asyncio.create_task(_look(self, self.watch))
        return self.watch


async def watch_delivery(state: State, author: ObjectId, text: str) -> Watch:
    """Post it. Raises Invalid."""
    timelines: Timelines = state.timelines
    watched = _Watched(timelines, await _some_followers(state.social, author))
    row, _ = await Social(timelines.stack, watched).post(author, text)
    watch = watched.stored(row)
    await _look_once(timelines, watch)  # what was delivered before the post returned is not shown as pending
    watches: dict[ObjectId, Watch] = state.watches
    watches[row.id] = watch
    for id in list(watches)[:-WATCHES_REMEMBERED]:
        watches.pop(id)
    return watch


async def _some_followers(social: Social, author: ObjectId) -> list[Person]:
    """The author, some followers that are active, some that are away."""
    follows, active = social.stack.db["follows"], social.stack.db[ACTIVE]
    here = {"authors": author, "until": {"$gte": social.stack.clock.now()}}
    there = [row["_id"] for row in await active.find(here, {"_id": 1}).limit(FOLLOWERS_WATCHED).to_list(None)]
    edges = follows.find({"followee": author}, {"_id": 0, "follower": 1}).limit(FOLLOWERS_LOOKED_AT)
    some = [edge["follower"] for edge in await edges.to_list(None)]
    of_them = {row["_id"] for row in await active.find({**here, "_id": {"$in": some}}, {"_id": 1}).to_list(None)}
    away = [one for one in some if one not in of_them]
    ids = dict.fromkeys([author, *there, *away[:FOLLOWERS_WATCHED]])
    people = await social.people(ids)
    return [people[id] for id in ids if id in people]


async def _look(timelines: Timelines, watch: Watch) -> None:
    """Until everything is delivered, or for two minutes."""
    try:
        while not watch.over:
            await _look_once(timelines, watch)
            watch.over = watch.over or watch.now_ms() > WATCH_S * 1000
            pause_s = watch.now_ms() / 1000 * PRECISION
            await asyncio.sleep(min(max(pause_s, SHORTEST_PAUSE_S), LONGEST_PAUSE_S))
    finally:
        watch.over = True


async def _look_once(timelines: Timelines, watch: Watch) -> None:
    try:
        async with watch.turn:
            await _see(timelines, watch)
    except UNAVAILABLE as error:
        log.info("watching %s: %s", watch.status.id, error)


async def _see(timelines: Timelines, watch: Watch) -> None:
    stack, settings = timelines.stack, await timelines.settings.current()
    document = await stack.db["statuses"].find_one({"_id": watch.status.id}, {"pending": 1})
    pending = set((document or {}).get("pending") or ())
    watch.owed = timelines.owed(settings)
    for slug in watch.owed:
        if slug not in pending:
            watch.cleared_ms.setdefault(slug, watch.now_ms())
    for store in STORES:
        open_ = [one for one in watch.followers if _may_come(watch, store, one)]
        known_ms = [watch.cleared_ms[slug] for slug in timelines.settings.phases_of(store) if slug in watch.cleared_ms]
        kept = await asyncio.gather(*(holds(stack, settings, store, one.id, watch.status.id) for one in open_))
        for one, has in zip(open_, kept, strict=True):
            if has:
                watch.held_ms[store, one.id] = min(
                    [watch.now_ms(), *known_ms]
                )  # a phase is cleared after its last list
            elif has is None:
                watch.held_ms[store, one.id] = None
            else:
                watch.held_ms.pop((store, one.id), None)
    watch.over = watch.over or not pending


def _may_come(watch: Watch, store: StoreName, one: Person) -> bool:
    """Entries are written for people who are away too; a list that is not there is looked for once."""
    at = (store, one.id)
    return at not in watch.held_ms or (store == "entries" and watch.held_ms[at] is None)
