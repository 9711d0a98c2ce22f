"""A small town that a race can be run in again and again, and what must be true of it at every moment."""

from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine, Mapping
from contextlib import asynccontextmanager
from copy import deepcopy
from dataclasses import dataclass, field
from itertools import count
from typing import Any
from unittest.mock import patch

from bson import ObjectId
from mongomock_motor import AsyncMongoMockClient

from app.config import Config
from app.departures import LINGER_S, clear_departures
from app.errors import Forbidden
from app.inbox.notifications import Notifications
from app.inbox.notifier import Notifier
from app.models import NOBODY, Audience, StatusRow, change_tag
from app.social.people import People
from app.social.relations import Relations
from app.social.statuses import Statuses
from app.stack import again, connected
from benchmarks.oracle import Oracle
from phases.delivering import delivery
from phases.keeping.lists import PLACEHOLDER, TRAILER
from phases.timelines import Timelines
from tests.dates import NOON, ManualClock
from tests.interleavings.scheduler import Count, Explorer, Schedule, Touch, Violation, point
from tests.interleavings.servers import StagedDatabase, StagedMemcached, StagedQueue, StagedSets
from tests.world import KEEPING, SLUGS, STAND_INS, World
from workers.sweeper import OVERDUE_S, sweep

TRUTH = (  # what a timeline is made of: whoever reads or writes any of it notices who does the other
    Touch("follows", fields=frozenset({"follower", "followee"})),
    Touch("blocks"),
    Touch("circles", fields=frozenset({"owner", "member"})),
    Touch("mutes"),
    Touch("statuses", fields=frozenset({"user_id", "audience", "deleted", "likes"})),
    Touch("likes"),
    Touch("departures"),
)
MEMORY = Touch("memory", write=True)  # of a process in which several actors are at work
TOLD = ("statuses", "follows", "blocks", "circles", "mutes", "departures")  # what the oracle is told of as it is stored
Shown = tuple[ObjectId, int, bool]  # a status, how many like it, and whether the reader does

_databases = count(1)


class Process:
    """A web process or a worker: its own copy of everything that is not on a server."""

    def __init__(self, town: "Town") -> None:
        self.town, self.ids = town, town.ids
        self.timelines = Timelines(town.stack)
        if town.notifies:
            self.timelines.outbox.add(Notifier(town.stack, self.timelines.outbox))
        self.people = People(town.stack)
        self.relations = Relations(town.stack, self.timelines.outbox)
        self.statuses = Statuses(town.stack, self.timelines.outbox)

    def remember(self, process: "Process") -> None:
        """As much of readers and statuses as another one does."""
        mine, others = self.timelines._reading, process.timelines._reading
        for memory in ("_edges", "_pages", "_statuses"):
            setattr(mine, memory, deepcopy(getattr(others, memory)))

    async def post(self, author: str, text: str, audience: Audience = "followers", key: str | None = None) -> ObjectId:
        status, _ = await self.statuses.post(self.ids[author], text, audience, key)
        return status.id

    async def follow(self, reader: str, followee: str) -> None:
        await self.relations.follow(self.ids[reader], self.ids[followee])

    async def unfollow(self, reader: str, followee: str) -> None:
        await self.relations.unfollow(self.ids[reader], self.ids[followee])

    async def work(self) -> None:
        """Deliver what the change stream tells, do the jobs that wait, and those that these queue."""
        if self.town.streams:
            await self.told()
        queue = self.town.queue
        while job_id := await queue.take():
            consumer, status, after = queue.started[job_id]
            await self.timelines.outbox.consumers[consumer].handle(status, after)
            await queue.done(job_id)

    async def told(self) -> None:
        """The stream has every insert, and names what is owed: nobody asks for it."""
        for consumer in self.timelines.streamed:
            await point("the stream tells", Touch("statuses", fields=frozenset({"pending"})))
            rows = [row for row in self.town.rows("statuses") if consumer.name in row.get("pending", ())]
            if rows:
                failed = await consumer.inserted([StatusRow.of(row) for row in rows])
                assert not failed, failed

    async def read(self, reader: str, phase: str, limit: int = 20) -> None:
        """The first page shows what was true all the while it was asked for, and nothing that never was."""
        await point("a read begins", *TRUTH)
        seen = self.town.watch(reader)
        page = await self.timelines.page(self.ids[reader], phase=phase, limit=limit)
        shown = [(status.id, status.likes, status.you_like) for status in page.statuses]
        ids = [id for id, *_ in shown]
        await point("the read ends", *TRUTH)
        truths = self.town.watched(seen)
        always, ever = set.intersection(*({id for id, *_ in truth} for truth in truths)), set.union(*truths)
        end = ids[-1] if page.next else None
        name = self.town.texts
        assert ids == sorted(set(ids), reverse=True), f"disorder or doubles: {name(ids)}"
        missing = {id for id in always - set(ids) if end is None or id > end}
        assert not missing, f"{reader} in {phase} ({page.source}) misses {name(missing)}"
        wrong = set(shown) - ever
        assert not wrong, f"{reader} in {phase} ({page.source}) must not see {name({id for id, *_ in wrong})}: {wrong}"

    async def read_names(self, reader: str, phase: str) -> None:
        """The authors on the first page are called what they were called while it was asked for."""
        await point("a page begins", Touch("users"))
        first = len(self.town.called) - 1
        page = await self.timelines.page(self.ids[reader], phase=phase)
        people = await self.people.by_ids({status.user_id for status in page.statuses}, page.names)
        await point("the page ends", Touch("users"))
        assert page.statuses, "nobody's name is shown"
        for id, person in people.items():
            ever = {called[id] for called in self.town.called[first:]}
            assert person.name in ever, f"{person.handle} is called {person.name}, and was {ever} meanwhile"


Act = Callable[[Process], Coroutine[Any, Any, None]]


def in_turn(*acts: Act) -> Act:
    async def one_after_another(process: Process) -> None:
        for act in acts:
            await act(process)

    return one_after_another


@dataclass
class Town(World):
    """World on staged servers; `saved` is where every schedule begins."""

    saved: Any = None
    history: list[dict[str, set[Shown]]] = field(default_factory=list)  # the truth, each time it changed
    called: list[dict[ObjectId, str]] = field(default_factory=list)  # everybody's names, likewise
    streams: bool = False  # a phase that follows the change stream delivers
    notifies: bool = False  # notifications are a consumer
    acknowledged: set[ObjectId] = field(default_factory=set)  # statuses, in races about that
    web: object = None  # what a web process remembers, in races of live streams

    @property
    def queue(self) -> StagedQueue:
        queue = self.stack.queue
        assert isinstance(queue, StagedQueue)
        return queue

    @property
    def sets(self) -> StagedSets:
        sets = self.stack.sets
        assert isinstance(sets, StagedSets)
        return sets

    @property
    def _store(self) -> Any:
        """Of mongomock; it makes a collection that is asked for by name."""
        database: Any = self.stack.db
        return database.delegate._store

    @property
    def _collections(self) -> dict[str, Any]:
        found: dict[str, Any] = self._store._collections
        return found

    async def drain(self) -> None:
        await Process(self).work()

    async def deliver_only(self, *phases: str) -> None:
        await self.timelines.change(delivering=phases)
        self.streams = any(consumer.name in phases for consumer in self.timelines.streamed)
        self.pass_grace()
        await self.timelines.switch.current()

    # Beginning again

    def save(self) -> Any:
        memcached: Any = self.stack.memcached
        return (
            {name: _copied(c._documents) for name, c in self._collections.items() if c.is_created},
            dict(memcached._items),
            (dict(self.sets._sets), dict(self.sets._pulses)),
            dict(self.queue.waiting),
            dict(self.queue.started),
            (self.clock._elapsed, self.clock._asleep),
        )

    def restore(self, saved: Any) -> None:
        documents, items, sets, waiting, started, time = saved
        for name in self._collections.keys() - documents.keys():
            del self._collections[name]
        for name, there in documents.items():  # also one that the schedule before has dropped
            collection = self._store[name]
            collection._documents = _copied(there)
            collection._is_force_created = True
        memcached: Any = self.stack.memcached
        memcached._items = dict(items)
        self.sets._sets, self.sets._pulses = map(dict, sets)
        self.queue.waiting, self.queue.started = dict(waiting), dict(started)
        self.clock._elapsed, self.clock._asleep = time
        self.acknowledged.clear()

    def fingerprint(self) -> tuple[Any, ...]:
        """Equal for two states that nobody can tell apart: names of leases and tokens of the dead mean nothing."""
        memcached: Any = self.stack.memcached
        now = self.clock.awake()
        lists = {
            key: (_anonymous(value), expiry) for key, (value, _, expiry) in memcached._items.items() if expiry > now
        }
        documents = {
            name: [_plain(name, document) for document in collection._documents.values()]
            for name, collection in self._collections.items()
        }
        jobs = sorted(self.queue.waiting), sorted(self.queue.started)
        sets = {
            key: (kept.trailer._replace(token=b""), sorted(kept.ids), kept.gone_at_s)
            for key, kept in self.sets._sets.items()
            if kept.gone_at_s > now
        }
        kept = repr(sorted(lists.items())), repr(sorted(sets.items())), repr(self.sets._pulses)
        return repr(documents), kept, repr(jobs), self.clock.now(), now

    # What is true, judged by the oracle on the raw documents

    def rows(self, collection: str) -> list[dict[str, Any]]:
        """Return what is stored, but versions of readers, which are among the statuses."""
        rows = self._collections[collection]._documents.values()
        return [row for row in rows if row.get("user_id") != NOBODY]

    def oracle(self) -> Oracle[ObjectId]:
        likes = [(ObjectId(row["_id"][:12]), ObjectId(row["_id"][12:])) for row in self.rows("likes")]
        return Oracle.of(
            **{name: self.rows(name) for name in TOLD},
            likes=[{"reader": reader, "status": status} for reader, status in likes],
        )

    def changed(self) -> None:
        oracle = self.oracle()
        truth = {name: set(self.shown(oracle, reader)) for name, reader in self.ids.items()}
        if not self.history or self.history[-1] != truth:
            self.history.append(truth)
        names = {row["_id"]: row["name"] for row in self.rows("users")}
        if not self.called or self.called[-1] != names:
            self.called.append(names)

    @staticmethod
    def shown(oracle: Oracle[ObjectId], reader: ObjectId) -> list[Shown]:
        return [(id, *oracle.liked(id, reader)) for id in oracle.timeline(reader)]

    def watch(self, reader: str) -> Any:
        return reader, len(self.history) - 1

    def watched(self, since: Any) -> list[set[Shown]]:
        reader, first = since
        return [truth[reader] for truth in self.history[first:]]

    def texts(self, ids: Any) -> list[str]:
        texts = {row["_id"]: row["text"] or "(deleted)" for row in self.rows("statuses")}
        return [texts.get(id, "(removed)") for id in sorted(ids, reverse=True)]

    # What must hold when everybody has finished, or died

    async def inspect(self, readers: tuple[str, ...], *, all_alive: bool) -> None:
        """Every reader's pages in every phase: as things are, after sweeper and workers, and with nothing kept."""
        self._likes_are_counted()
        left = self.save()
        await self._compare(readers, "as left")
        self.restore(left)
        await self._repair()
        self.pass_grace()
        await self._compare(readers, "after sweeper and workers")
        owed = {"statuses": "pending", "events": "_id", "follows": "debt", "circles": "debt"}
        owing = [
            row
            for name, what in owed.items()
            for row in self.rows(name)
            if row.get(what) and row[what] != [change_tag(row["_id"])]
        ]
        assert not owing, f"still owed: {owing}"
        if self.notifies:
            await self._everybody_is_told()
        if all_alive:  # who dies between a block and the end of the follows leaves them, where nobody sees anything
            self._no_follow_across_a_block()

    async def _repair(self) -> None:
        """Worker and sweeper come by, as they do for ever; whoever had started a job has been noticed to be dead."""
        self.queue.started.clear()
        process = Process(self)
        for _ in range(2):
            self.clock.advance(OVERDUE_S + 2)
            await sweep(process.timelines)
            await clear_departures(self.stack.db, self.clock, self.stack.bus)
            await self.drain()
        if departed := {row["_id"] for row in self.rows("departures")}:
            self.clock.advance(LINGER_S)
            await clear_departures(self.stack.db, self.clock, self.stack.bus)
            self._nothing_is_left_of(departed)

    async def _compare(self, readers: tuple[str, ...], when: str) -> None:
        self.timelines = Timelines(self.stack)
        delivering = (await self.timelines.switch.current()).delivering
        kept = {self.timelines.phases[slug].keeps for slug in delivering}
        delivering = tuple(slug for slug in KEEPING if self.timelines.phases[slug].keeps in kept)
        oracle = self.oracle()
        for reader in readers:
            truth = self.texts(oracle.timeline(self.ids[reader]))
            for phase in delivering or SLUGS:
                if oracle.likes:
                    page = await self.page(reader, phase)
                    likes = [(status.id, status.likes, status.you_like) for status in page.statuses]
                    assert likes == self.shown(oracle, self.ids[reader]), f"likes for {reader} in {phase}, {when}"
                for limit in (20, 2):
                    found = await self.walk(reader, phase, limit)
                    assert found == truth, f"{reader} in {phase}, {when}: {found} instead of {truth}"

    async def _everybody_is_told(self) -> None:
        """Of what is true now, each thing once, and everything that is numbered is there."""
        oracle, names = self.oracle(), {id: name for name, id in self.ids.items()}
        for reader, me in self.ids.items():
            shown, _ = await Notifications(self.stack).page(me, None, 20)
            found = sorted((one.kind, names[one.who], str(one.status and one.status.id)) for one in shown)
            true = sorted((kind, names[who], str(what)) for kind, who, what in oracle.told(me, reader))
            assert found == true, f"{reader} is told {found} instead of {true}"
            seqs = sorted(row["seq"] for row in self.rows("notifications") if row["whom"] == me)
            assert seqs == list(range(1, len(seqs) + 1)), f"the numbers of {reader} are {seqs}"

    def _nothing_is_left_of(self, departed: set[ObjectId]) -> None:
        for name in ("statuses", "follows", "blocks", "circles", "mutes", "tokens", "departures"):
            left = [
                row for row in self.rows(name) if departed & {id for id in row.values() if isinstance(id, ObjectId)}
            ]
            assert not left, f"left in {name}: {left}"
        for name in self._collections:
            if name.startswith(("likes", "home_floors_", "home_entries_")):
                keys = [row["_id"] for row in self.rows(name)]
                readers = {key if isinstance(key, ObjectId) else ObjectId(key[:12]) for key in keys}
                assert not departed & readers, f"left in {name}"

    def _likes_are_counted(self) -> None:
        oracle = self.oracle()
        for row in self.rows("statuses"):
            counted, likes = row.get("likes", 0), 0 if row["deleted"] else oracle.liked(row["_id"], row["_id"])[0]
            assert counted == likes, f"{counted} likes are counted of {likes}"

    def _no_follow_across_a_block(self) -> None:
        follows = {(row["follower"], row["followee"]) for row in self.rows("follows")}
        for row in self.rows("blocks"):
            pair = row["blocker"], row["blocked"]
            assert pair not in follows, "a follow outlived a block"
            assert pair[::-1] not in follows, "a follow outlived a block"


@dataclass(frozen=True)
class Race:
    """`setting` makes the town; then the `actors` run, each in a process of its own, in every order.

    `crashing`: these also die, at every command after which they leave something behind.
    `allowed`: how an actor may fail. `after`: what else must be true when everybody has finished.
    `together`: these share the memory of one process. `served`: what every process has done before, and remembers.
    `begun`, `ended`: for what is in no server, at the two ends of
    each schedule.
    """

    name: str
    setting: Callable[[Town], Awaitable[None]]
    actors: Mapping[str, Act]
    crashing: tuple[str, ...] = ()
    readers: tuple[str, ...] = ("ann",)
    allowed: tuple[type[Exception], ...] = (Forbidden,)
    after: Callable[[Town], None] | None = None
    together: tuple[str, ...] = ()
    served: Act | None = None
    begun: Callable[[Town], None] | None = None
    ended: Callable[[Town], Awaitable[None]] | None = None
    config: Mapping[str, Any] = field(default_factory=dict)
    fast: bool = True  # part of `make test`

    async def run(self, limit: int) -> Count:
        """Raises Violation with the order of commands that led to it."""
        async with _town(self.config) as town:
            await self.setting(town)
            before = Process(town)
            if self.served:
                await self.served(before)
            town.clock.advance(1)
            town.saved, inspected = town.save(), set()

            def begin() -> Schedule:
                town.restore(town.saved)
                ObjectId._inc = 1_000_000
                town.history.clear()
                town.called.clear()
                town.changed()
                if self.begun:
                    self.begun(town)
                schedule = Schedule(town.changed)
                for name, act in self.actors.items():
                    process = Process(town)
                    process.timelines.switch._copy = copy
                    process.remember(before)
                    schedule.start(name, act(process), *((MEMORY,) if name in self.together else ()))
                return schedule

            async def check(schedule: Schedule, ends: dict[str, BaseException | None]) -> None:
                for name, error in ends.items():
                    if error and not isinstance(error, self.allowed):
                        raise Violation(f"{name}: {type(error).__name__}: {error}", schedule.order) from error
                all_alive = not any(step.kill for step in schedule.order)
                state = town.fingerprint(), all_alive
                try:
                    if self.ended:
                        await self.ended(town)
                    if state in inspected:
                        return
                    inspected.add(state)
                    if self.after:
                        self.after(town)
                    await town.inspect(self.readers, all_alive=all_alive)
                except AssertionError as error:
                    raise Violation(str(error), schedule.order) from error

            copy = await Timelines(town.stack).switch.current()
            found = await Explorer(begin, check, self.crashing, limit).run()
            found.states = len(inspected)
            return found


@asynccontextmanager
async def _town(config: Mapping[str, Any]) -> AsyncIterator[Town]:
    """Every phase delivers, the grace is over; lists hold three entries, chunks two followers."""
    name = f"race_{next(_databases)}"
    settings = Config.model_validate(
        {"database": name, "demo": True, "cap": 3, "chunk": 2, "inline_chunk": 2, "list_chunk": 2, **config}
    )
    clock = ManualClock(NOON)
    with (
        patch("app.stack.stand_in", _staged_database),
        patch.object(delivery, "PATIENCE_S", None),  # for ever
        patch.object(again, "LONGEST_S", 0),  # no order comes from a pause: all of them are gone through
    ):
        async with connected(STAND_INS, settings, clock) as stack:
            stack.memcached, stack.sets, stack.queue = (
                StagedMemcached(clock.awake),
                StagedSets(clock.awake),
                StagedQueue(),
            )
            town = await Town.open(stack, clock)
            assert isinstance(town, Town)
            yield town


def _staged_database(name: str) -> StagedDatabase:
    client: Any = AsyncMongoMockClient(tz_aware=True)
    return StagedDatabase(client, client.get_database(name).delegate)


def _copied(value: Any) -> Any:
    if isinstance(value, dict):
        return type(value)((key, _copied(item)) for key, item in value.items())
    return [_copied(item) for item in value] if isinstance(value, list) else value


def _plain(collection: str, document: Mapping[str, Any]) -> dict[str, Any]:
    hidden = {"lease"} if collection.startswith("home_floors") else set()
    if collection in ("follows", "blocks", "circles", "mutes"):
        hidden = {"_id"}
    return {key: value for key, value in sorted(document.items()) if key not in hidden}


def _anonymous(value: bytes) -> bytes:
    if len(value) < TRAILER.size:
        return value  # no list, but a pulse
    kind, floor, _, expires_at_ms = TRAILER.unpack_from(value, len(value) - TRAILER.size)
    ids = value[: -TRAILER.size]
    return ids + TRAILER.pack(kind, floor, bytes(12), expires_at_ms) if kind == PLACEHOLDER else value
