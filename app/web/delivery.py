"""Post a status and watch its delivery: when each phase let the poster go, and when followers' lists hold it."""

import asyncio
import logging
from dataclasses import dataclass, field
from time import perf_counter

from bson import ObjectId

from app.models import Account, StatusRow
from app.social.statuses import STORED
from app.stack import outages_told
from app.watch.background import errors_counted
from app.web.state import Services
from phases.delivering.kept_timelines import KeptTimelines
from phases.timelines import Timelines

log = logging.getLogger(__name__)

FOLLOWERS_WATCHED = 4  # active ones, and as many who are away
FOLLOWERS_LOOKED_AT = 200  # to find some who are away
WATCH_S = 120.0
SHORTEST_PAUSE_S, LONGEST_PAUSE_S = 0.01, 1.0
PRECISION = 0.05  # of the time that is shown
WATCHES_REMEMBERED, WATCHES_EACH = 20, 3  # in one process, and of one person: a newer one ends the oldest


@dataclass
class Watch:
    """A watched delivery: milliseconds since the post was sent. What has not happened yet is absent.

    `held`: by what is kept, and by follower; None where nothing is kept for the follower, whose list is rebuilt on
    return. `handed`: from when to when the poster waited for a phase. `pulled`: a phase that merges such statuses does
    not deliver this one, and its readers ask for it.
    `is_timed`: the post was watched from its insert on. Of others it is known what has happened, and not when.
    """

    status: StatusRow
    whose: ObjectId
    began_s: float
    followers: list[Account]
    stored_ms: float
    owed: tuple[str, ...] = ()
    pulled: bool = False
    is_timed: bool = True
    handed_ms: dict[str, tuple[float, float]] = field(default_factory=dict)
    cleared_ms: dict[str, float] = field(default_factory=dict)
    held_ms: dict[tuple[str, ObjectId], float | None] = field(default_factory=dict)
    over: bool = False
    looking: asyncio.Task[None] | None = None
    turn: asyncio.Lock = field(default_factory=asyncio.Lock)  # one look at a time: what was seen later counts

    def now_ms(self) -> float:
        return (perf_counter() - self.began_s) * 1000

    @property
    def latest_ms(self) -> float:
        """The time of the latest event."""
        return max([self.stored_ms, *(to_ms for _, to_ms in self.handed_ms.values()), *self.cleared_ms.values()])

    def waited_ms(self, slug: str) -> float:
        """Return how long the poster would have waited with this phase alone."""
        from_ms, to_ms = self.handed_ms.get(slug, (0, 0))
        return self.stored_ms + to_ms - from_ms

    def end(self) -> None:
        self.over = True
        if self.looking:
            self.looking.cancel()


Watches = dict[ObjectId, Watch]  # of a process, by status id


async def watch_delivery(
    services: Services, watches: Watches, watcher: ObjectId, author: ObjectId, text: str, once: str | None = None
) -> Watch:
    """Post a status and watch it from its insert on, so that what happens while the poster waits is seen too.

    The watch is then one of the `watches`. `once`: the post's idempotency key; posted again, it is the same watch.
    Raises Invalid and Conflict.
    """
    timelines = services.timelines
    followers = await _some_followers(services, author)
    watch: Watch | None = None

    def trace(status: StatusRow, what: str, began_s: float, ended_s: float) -> None:
        nonlocal watch
        if what == STORED:
            watch = watches.get(status.id)
            if watch is None:
                watch = Watch(status, watcher, began_s, followers, (ended_s - began_s) * 1000)
                _begin(timelines, watches, watch)
        elif watch and (consumer := timelines.outbox.consumers.get(what)) and not consumer.may_wait:
            from_ms, to_ms = ((at_s - watch.began_s) * 1000 for at_s in (began_s, ended_s))
            watch.handed_ms.setdefault(what, (from_ms, to_ms))

    await services.statuses.post(author, text, idempotency_key=once, trace=trace, defer=services.afterwards.do)
    assert watch
    await _look_once(timelines, watch)  # what was delivered before the post returned is not shown as pending
    return watch


async def watch_stored(services: Services, watches: Watches, watcher: ObjectId, status: StatusRow) -> Watch:
    """Watch the delivery of a status that another process stored, or that nobody watches here any more."""
    followers = await _some_followers(services, status.user_id)
    if status.id not in watches:
        watch = Watch(status, watcher, perf_counter(), followers, stored_ms=0, is_timed=False)
        _begin(services.timelines, watches, watch)
    watch = watches[status.id]
    await _look_once(services.timelines, watch)
    return watch


def _begin(timelines: Timelines, watches: Watches, watch: Watch) -> None:
    watch.looking = asyncio.create_task(_look(timelines, watch))
    _remember(watches, watch)


def _remember(watches: Watches, watch: Watch) -> None:
    watches[watch.status.id] = watch
    theirs = [id for id, each in watches.items() if each.whose == watch.whose]
    for id in {*theirs[:-WATCHES_EACH], *list(watches)[:-WATCHES_REMEMBERED]}:
        watches.pop(id).end()


async def _some_followers(services: Services, author: ObjectId) -> list[Account]:
    """Return the author, some followers whom every phase delivers to, and some who are away.

    Outside demo mode only of those whose presence the author may know: whoever is active has been here lately.
    """
    stack, timelines = services.stack, services.timelines
    edges = stack.db["follows"].find({"followee": author}, {"_id": 0, "follower": 1}).limit(FOLLOWERS_LOOKED_AT)
    some = [edge["follower"] for edge in await edges.to_list(None)]
    if not stack.config.demo:
        seen = await services.presences.seen_by(author, some)
        some = [one for one in some if seen[one]]
    here = set(some)
    for kept in timelines.kept.values():
        here &= await kept.recipients.here(some)
    there, away = [one for one in some if one in here], [one for one in some if one not in here]
    ids = dict.fromkeys([author, *there[:FOLLOWERS_WATCHED], *away[:FOLLOWERS_WATCHED]])
    people = await services.people.by_ids(ids)
    return [people[id] for id in ids if id in people]


async def _look(timelines: Timelines, watch: Watch) -> None:
    """Look at the delivery until it is complete, or for two minutes."""
    try:
        with errors_counted("watch", f"nobody watches {watch.status.id} any more"):
            while not watch.over:
                await _look_once(timelines, watch)
                watch.over = watch.over or watch.now_ms() > WATCH_S * 1000
                pause_s = watch.now_ms() / 1000 * PRECISION
                await asyncio.sleep(min(max(pause_s, SHORTEST_PAUSE_S), LONGEST_PAUSE_S))
    finally:
        watch.over = True


async def _look_once(timelines: Timelines, watch: Watch) -> None:
    with outages_told(log.info, f"watching {watch.status.id}"):
        async with watch.turn:
            await _see(timelines, watch)


async def _see(timelines: Timelines, watch: Watch) -> None:
    document = (
        await timelines.stack.db["statuses"].find_one({"_id": watch.status.id}, {"pending": 1, "pulled": 1}) or {}
    )
    pending, watch.pulled = set(document.get("pending") or ()), "pulled" in document
    watch.owed = await timelines.outbox.phases_owed(pulled=watch.pulled)
    for slug in watch.owed:
        if slug not in pending:
            watch.cleared_ms.setdefault(slug, _when_cleared(watch, slug))
    for kept in timelines.kept.values():
        await _see_kept(timelines, watch, kept)
    watch.over = watch.over or pending.isdisjoint(timelines.phases)


def _when_cleared(watch: Watch, slug: str) -> float:
    """Return when the phase was done: now, or if the poster waited for it, when that wait ended."""
    return min(watch.now_ms(), watch.handed_ms[slug][1]) if slug in watch.handed_ms else watch.now_ms()


async def _see_kept(timelines: Timelines, watch: Watch, kept: KeptTimelines) -> None:
    open_ = [one for one in watch.followers if _may_come(watch, kept, one)]
    cleared_ms = [watch.cleared_ms[slug] for slug in timelines.switch.phases_of(kept.name) if slug in watch.cleared_ms]
    holds = await asyncio.gather(*(kept.holds(one.id, watch.status.id) for one in open_))
    for one, has in zip(open_, holds, strict=True):
        if has:
            watch.held_ms[kept.name, one.id] = min([watch.now_ms(), *cleared_ms])  # cleared after its last list
        elif has is None:
            watch.held_ms[kept.name, one.id] = None
        else:
            watch.held_ms.pop((kept.name, one.id), None)


def _may_come(watch: Watch, kept: KeptTimelines, one: Account) -> bool:
    """Return whether to look again for what is kept for one follower.

    What is kept for everybody may still come for people who are away; a list that is not there is looked for once.
    """
    at = (kept.name, one.id)
    return at not in watch.held_ms or (not kept.recipients.active_only and watch.held_ms[at] is None)
