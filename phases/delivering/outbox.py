"""The outbox (rule 5): whatever happens names the consumers that still have to handle it.

A consumer handles what follows from a change; each phase is one. A status names its consumers itself; anything else
that happens has an event, written in the same transaction. A consumer is handed what it cares for. What is lost on the
way is still owed: the read of a phase looks at it first, and the sweeper offers it again.
"""

import logging
from collections.abc import Awaitable, Callable, Collection, Coroutine, Sequence
from time import perf_counter
from typing import Any, Literal, NamedTuple, Protocol

from bson import ObjectId, Timestamp

from app.edges import LATE, raise_version
from app.models import FIRST_NAME, Audience, Event, EventKind, StatusRow
from app.stack import Stack, outages_told
from app.stack.mongodb.transaction import Transaction
from app.watch.metrics import DELIVERY_LAG, POSTS_LATE
from phases.delivering.backfills import Backfills
from phases.delivering.backlog import is_late
from phases.delivering.overdue import Overdue
from phases.delivering.settings import Settings
from phases.delivering.switch import Switch
from phases.pulling.author import POSTS
from phases.pulling.pulls import Pulls

log = logging.getLogger(__name__)

EVENTS = Event.Settings.name
COUNTED = 100_000  # of a backlog: every process counts every few seconds, and how much more there is makes it no dearer

Kind = Literal[EventKind, "status", "mention"]
WITH_STATUS: frozenset[Kind] = frozenset({"status", "mention"})  # told by the status; anything else has an event

# What a poster waited for: the status, by what or whom, and when that began and ended, in seconds of perf_counter.
Trace = Callable[[StatusRow, str, float, float], None]

# When a consumer that may wait is handed a status: `at_once`, or over HTTP after the answer, so that the poster waits
# for none of it. What gets lost in between is still owed (rule 5).
Defer = Callable[[Coroutine[Any, Any, None]], Awaitable[None]]


async def at_once(work: Coroutine[Any, Any, None]) -> None:
    await work


Failures = dict[ObjectId, BaseException]  # by status
GoesOn = Callable[[], Awaitable[bool]]  # whether a job may make another step


async def one_step_only() -> bool:
    return False


class Consumer(Protocol):
    """A consumer handles what has happened, in bounded steps that may be repeated. It raises an error that
    `app.stack.is_away` knows when a server is away.
    """

    @property
    def name(self) -> str:
        """The name of the consumer, as it is in `pending`."""
        ...

    @property
    def kinds(self) -> frozenset[Kind]:
        """The kinds that it cares for. A consumer of `status` is owed only those that the phase settings say."""
        ...

    @property
    def may_wait(self) -> bool:
        """Whether `hand_over` of a status may come after the answer over HTTP: it is at most an enqueue."""
        ...

    async def hand_over(self, happened: StatusRow | Event) -> None:
        """Take over what has happened, once it is stored. Who did it waits for this, unless it `may_wait`."""
        ...

    async def handle(self, happened: ObjectId, after: ObjectId | None, goes_on: GoesOn = one_step_only) -> Failures:
        """Make a step, the first one or the one behind the recipient `after`, and further ones while `goes_on` says so.
        Then queue a job for the next step; after the last one call `Outbox.done`.

        It may make the first steps of other pending statuses, too, and then takes their jobs off the queue. Return what
        failed.
        """
        ...


class Owed(NamedTuple):
    """What a status that is stored now owes: to whom, as these settings say; and whether it is `pulled`, and so not
    owed to a phase that merges such statuses instead.
    """

    consumers: tuple[str, ...]
    settings: Settings
    pulled: bool = False


class Outbox:
    """The outbox of one process. `consumers`: who handles what has happened, by name.

    `idle`: the phases that may be switched on and deliver nothing. `backfills`: what edges owe. `pulls`: decides which
    statuses are not owed to a phase that merges.
    """

    def __init__(self, stack: Stack, switch: Switch, idle: Collection[str], backfills: Backfills, pulls: Pulls) -> None:
        self._db, self._clock = stack.db, stack.clock
        self._switch, self._idle, self.backfills, self._pulls = switch, idle, backfills, pulls
        self._overdue = Overdue(stack.db)
        self.consumers: dict[str, Consumer] = {}

    def add(self, consumer: Consumer) -> None:
        """Add a consumer: from now on it is owed what it cares for. Its name must be unique, and come behind all tags,
        since `pending` has nothing else; and be without a hyphen, which ends it in the id of a job.
        """
        assert consumer.name not in {*self.consumers, *self._idle}, f"two consumers are called {consumer.name}"
        assert consumer.name >= FIRST_NAME, f"{consumer.name}: a name begins with a small letter"
        assert "-" not in consumer.name, f"{consumer.name}: a job's id is the consumer's name, a hyphen and more"
        self.consumers[consumer.name] = consumer

    # What a use case says

    async def decide(self, author: ObjectId, audience: Audience, *, mentions: bool) -> Owed:
        """Decide what the insert of a status says: to whom it is owed, and whether it is `pulled`. `mentions`: its text
        names somebody.
        """
        settings = await self._switch.current()
        names, forced = self._phases_delivering(settings), settings.forced.get(author)
        pulled = await self._pulls.decide(names, settings.epoch, author, audience, forced)
        mentioning = self._caring_for("mention") if mentions else ()
        return Owed((*self._unless(pulled, names), *mentioning), settings, pulled)

    async def marked(self, author: ObjectId, owed: Owed) -> Owed:
        """Return what is owed once a majority has the marker of an author whose status is pulled (rule 9). The status
        is delivered where there is none.
        """
        if not owed.pulled or await self._pulls.mark(author, owed.settings.epoch):
            return owed
        names = (*self._phases_delivering(owed.settings), *owed.consumers)
        return owed._replace(consumers=tuple(dict.fromkeys(names)), pulled=False)

    async def phases_owed(self, *, pulled: bool) -> tuple[str, ...]:
        """Return the phases that a status is owed to now. `pulled`: the status says so."""
        return self._unless(pulled, self._phases_delivering(await self._switch.current()))

    async def stored(self, status: ObjectId, told: Timestamp | None) -> None:
        """Note that a status is stored, not later than MongoDB has `told`, before anybody hears of it. That may be so
        long after its id that nobody looks for it any more who has read what is pending.
        """
        if is_late(status, self._clock.of_cluster(told)):
            POSTS_LATE.inc()
            await self._became_pending_late()

    async def posted(self, status: StatusRow, owed: Owed, *, again: bool, trace: Trace, defer: Defer) -> None:
        """Hand a status that is stored to its consumers. `again`: it was stored by an earlier try, which may have been
        killed before it could say so, or before a majority had the status. The insert may have taken so long that its
        author's marker has to be made anew.
        """
        if not again:
            self._pulls.authors.count(POSTS)
        if owed.pulled:
            await self._pulls.markers.mark(status.user_id, owed.settings.epoch)
        for name in await self._owed_now(status, owed, again=again):
            consumer = self.consumers.get(name)
            hand_over = defer if consumer and consumer.may_wait else at_once
            await hand_over(self._handed_over(name, status, trace))

    async def _owed_now(self, status: StatusRow, owed: Owed, *, again: bool) -> tuple[str, ...]:
        """Return to whom a status that is stored is owed. Its insert may have taken so long that a phase has been
        switched on meanwhile: then it is owed to that, too.
        """
        if again or not self._switch.still_holds(owed.settings):
            delivering = self._phases_delivering(await self._switch.fresh())
            return await self.make_owed(status, tuple(dict.fromkeys((*owed.consumers, *delivering))))
        return owed.consumers

    async def _handed_over(self, name: str, status: StatusRow, trace: Trace) -> None:
        began_s = perf_counter()
        await self._hand_over(name, status)
        trace(status, name, began_s, perf_counter())

    def event(self, kind: EventKind, who: ObjectId, whom: ObjectId, what: ObjectId | None = None) -> Event:
        """Return an event of what is about to happen, pending for each consumer that cares for it."""
        id, pending = self._clock.new_id(), list(self._caring_for(kind))
        return Event(_id=id, kind=kind, who=who, whom=whom, what=what, pending=pending)

    async def note(self, inside: Transaction, event: Event) -> None:
        """Store an event, in the transaction that makes it happen, unless nobody cares for it."""
        if event.pending:
            await inside[EVENTS].insert_one(event.model_dump(by_alias=True, exclude_none=True))

    async def happened(self, event: Event) -> None:
        """Hand an event to its consumers, after its transaction has ended well."""
        for name in event.pending:
            await self._hand_over(name, event)

    async def _hand_over(self, name: str, happened: StatusRow | Event) -> None:
        if name not in self.consumers:
            return  # another version of the program knows it, whose sweeper will offer it
        with outages_told(log.warning, f"{name} was not handed {happened.id}, which the sweeper will offer"):
            await self.consumers[name].hand_over(happened)

    def _caring_for(self, kind: Kind) -> tuple[str, ...]:
        return tuple(name for name, consumer in self.consumers.items() if kind in consumer.kinds)

    def _unless(self, pulled: bool, names: tuple[str, ...]) -> tuple[str, ...]:
        return tuple(name for name in names if not (pulled and name in self._pulls.merging))

    def _phases_delivering(self, settings: Settings) -> tuple[str, ...]:
        return tuple(name for name in settings.delivering_at(self._clock.now()) if name not in self._idle)

    # What consumers and the sweeper do

    async def make_owed(self, status: StatusRow, names: tuple[str, ...]) -> tuple[str, ...]:
        """Make a status owed to these consumers, and return those that it is owed to now: a status that says `pulled`
        is never owed to a phase that merges it (rule 9), and one that is gone with its author's account to nobody.

        By its author, too, who is the shard key: an update by `_id` alone may miss a document that is being moved.
        """
        always = [name for name in names if name not in self._pulls.merging]
        merging = [name for name in names if name in self._pulls.merging]
        owed, key = [], {"_id": status.id, "user_id": status.user_id}
        for some, unless in ((always, {}), (merging, {"pulled": {"$ne": True}})):
            if some:
                change = {"$addToSet": {"pending": {"$each": some}}}
                done = await self._db["statuses"].update_one({**key, **unless}, change)
                owed += some if done.matched_count else []
        await self._became_pending_late()
        return tuple(owed)

    async def _became_pending_late(self) -> None:
        """Tell whoever has read what is pending that something may be missing in it (`Backlog`)."""
        await raise_version(self._db, LATE)

    async def done(self, name: str, ids: Sequence[ObjectId], collection: str = "statuses") -> None:
        """Note that nothing of these is owed to a consumer any more. An event that is owed to nobody is swept away."""
        now, lag = self._clock.now(), DELIVERY_LAG.labels(name)
        for id in ids:
            lag.observe((now - id.generation_time).total_seconds())
        change = {"$pull": {"pending": name}}
        if len(ids) == 1:
            await self._db[collection].update_one({"_id": ids[0]}, change)
        else:
            await self._db[collection].update_many({"_id": {"$in": list(ids)}}, change)

    async def sweep(self) -> None:
        await self.backfills.sweep()
        await self._db[EVENTS].delete_many({"pending": []})

    async def count(self, name: str) -> int:
        """Count the statuses and events that are pending for a consumer, of each COUNTED at most."""
        kinds = self.consumers[name].kinds if name in self.consumers else WITH_STATUS
        return sum(
            [await self._db[place].count_documents({"pending": name}, limit=COUNTED) for place in _places(kinds)]
        )

    async def oldest(self, name: str, limit: int) -> list[ObjectId]:
        """Return the ids of the oldest statuses and events that are pending for a consumer, at most `limit` of each."""
        ids = list[ObjectId]()
        for place in _places(self.consumers[name].kinds):
            found = self._db[place].find({"pending": name}, {"_id": 1}).sort("_id", 1).limit(limit)
            ids += [row["_id"] for row in await found.to_list(None)]
        return ids

    async def further_overdue(self, name: str, older_than: ObjectId, limit: int) -> list[ObjectId]:
        """Statuses and events that are overdue, behind those of the last call: what stays so holds up nothing else."""
        places, pending = _places(self.consumers[name].kinds), {"pending": name}
        return [
            row["_id"]
            for place in places
            for row in await self._overdue.further(name, place, pending, older_than, limit)
        ]


def _places(kinds: frozenset[Kind]) -> list[str]:
    """Return the collections that hold what is pending of such kinds."""
    return [*(["statuses"] if kinds & WITH_STATUS else []), *([EVENTS] if kinds - WITH_STATUS else [])]
