"""The system under a random history: two processes on one stack that can be cut off, slowed down and killed anywhere,
and whose requests can be given up anywhere.

Every command to MongoDB, Memcached and Redis goes through one `Fuse`. The queue is RQ's own; its jobs are taken by
hand, so that they can be held back, repeated, reordered and lost.
"""

import asyncio
import dataclasses
from collections.abc import AsyncIterator, Callable, Collection, Coroutine, Iterator, Sequence
from contextlib import ExitStack, asynccontextmanager, contextmanager
from functools import partial
from itertools import count
from typing import Any, TypeVar
from unittest.mock import patch

import redis
from bson import ObjectId

from app.config import Config
from app.inbox.notifier import Notifier
from app.models import StatusRow, User
from app.social.people import People
from app.social.relations import Relations
from app.social.statuses import Statuses
from app.stack import Addresses, MemcachedDown, SetsDown, Stack, connected
from app.stack.mongodb.connection import POOL_SIZE, Database, direct
from app.stack.mongodb.stand_in import is_stand_in
from app.stack.outage import UNAVAILABLE
from app.stack.queue import QUEUES, jobs
from phases.keeping.entries import Entries
from phases.keeping.in_memory import InMemory
from phases.keeping.lists import Lists, key
from phases.keeping.sorted_sets import SortedSets
from phases.p5_stream import STREAM
from phases.timelines import PhaseConsumer, Timelines
from tests.dates import ManualClock
from tests.waiting import LONG_S
from tests.world import IN_MEMCACHED, flush

T = TypeVar("T")

MONGODB = frozenset(
    [
        "count_documents",
        "delete_many",
        "delete_one",
        "distinct",
        "find",
        "find_one",
        "find_one_and_update",
        "insert_many",
        "insert_one",
        "update_many",
        "update_one",
        "create_collection",
        "drop_collection",
        "list_collection_names",
        "get_collection",
        "one_after_another",
        "at_once",
        "command",
        "direct",
    ]
)
SENT_LATER = frozenset(["find", "get_collection", "direct"])  # by what these return
MEMCACHED = frozenset(["gets", "add", "cas", "delete", "prepend", "highest", "note"])
SETS = frozenset(["deliver", "read", "lease", "fill", "merge", "renew", "forget", "highest", "note", "sweep"])

_databases = count(1)


class Crash(BaseException):
    """The process dies here. Nothing in it may catch this."""


@dataclasses.dataclass(frozen=True)
class GivenUp:
    """A request that is given up at the command behind `left` others: before it is sent, where `turns` is 0, or after
    so many turns of the event loop, wherever in the command that is. Only what a thread sends to MongoDB is answered
    before: else it would be the thread's affair whether it is made.
    """

    left: int
    turns: int


Cut = int | GivenUp | None  # a process dies behind so many commands, or a request is given up


class Fuse:
    """Burns before each command: `left` commands are carried out, then the process dies, or its request is given up."""

    def __init__(self, clock: ManualClock) -> None:
        self._clock = clock
        self.left: int | None = None
        self.lag_s = 0.0
        self._dies = True
        self.turns = 0  # until a request is given up
        self._request: asyncio.Task[Any]

    async def lit(self, work: Coroutine[Any, Any, T], cut: Cut, lag_s: float = 0.0) -> T:
        """Return the result of a request, in a task of its own. Raises Crash or CancelledError where it is cut off."""
        request = asyncio.current_task()
        assert request
        self._request = request
        self._dies, self.lag_s = not isinstance(cut, GivenUp), lag_s
        self.left, self.turns = (cut.left, cut.turns) if isinstance(cut, GivenUp) else (cut, 0)
        try:
            return await work
        except asyncio.CancelledError:
            assert isinstance(cut, GivenUp), "nobody has given it up"
            raise
        finally:
            self.left, self.lag_s = None, 0.0

    def burn(self) -> bool:
        """Return whether the request is given up at this command."""
        if self.lag_s:
            self._clock.advance(self.lag_s)
        if self.left is None:
            return False
        if self.left:
            self.left -= 1
            return False
        if self._dies:
            raise Crash
        self.left = None  # whatever is cleaned up is
        return True

    def give_up(self, turns: int = 0) -> None:
        """Give the request up after so many turns of the event loop, from any thread."""
        request, loop = self._request, self._request.get_loop()

        def after(turns: int) -> None:
            if turns:
                loop.call_soon(after, turns - 1)
            else:
                request.cancel()

        loop.call_soon_threadsafe(after, turns)

    def through(self, call: Callable[..., Any], *, inside: bool = False) -> Callable[..., Any]:
        """Return the call of a command. The request may be given up in it, also `inside` of what the driver does."""
        return partial(self._given_up, call, inside) if self.burn() else call

    async def _given_up(self, call: Callable[..., Any], inside: bool, *args: Any, **options: Any) -> Any:
        turns = self.turns
        command = asyncio.ensure_future(call(*args, **options)) if turns else None
        if command and inside:
            for _ in range(turns):
                await asyncio.sleep(0)
        elif command:
            await asyncio.wait([command])
        self._request.cancel()
        try:
            await asyncio.sleep(0)
        except asyncio.CancelledError:
            if command:
                command.cancel()
                await asyncio.gather(command, return_exceptions=True)
            raise
        return await (command or call(*args, **options))  # others wait for it, too


async def in_time(work: Coroutine[Any, Any, T]) -> T:
    """Return the result of work that might wait for ever for what others have left behind. Raises TimeoutError."""
    async with asyncio.timeout(LONG_S):
        return await work


async def all_made(database: Database) -> None:
    """Return when MongoDB has made all that it makes to its end although whoever asked for it has gone."""
    if is_stand_in(database):
        return
    driver = direct(database)
    while driver._wholes:
        await asyncio.wait(driver._wholes)
    for _ in range(POOL_SIZE):
        await driver._places.acquire()
    for _ in range(POOL_SIZE):
        driver._places.release()


class _Commands:
    """Whatever has MongoDB's commands, with the fuse before them."""

    def __init__(self, place: Any, fuse: Fuse) -> None:
        self._place, self._fuse = place, fuse

    def __getattr__(self, name: str) -> Any:
        found = getattr(self._place, name)
        if name not in MONGODB:
            return found
        if name not in SENT_LATER:
            return self._fuse.through(found)
        if self._fuse.burn():
            self._fuse.give_up(self._fuse.turns)
        return found


class _Collection(_Commands):
    async def insert_many(self, documents: list[Any], **options: Any) -> Any:
        """Whoever dies here has written some of them."""
        try:
            insert = self._fuse.through(self._place.insert_many)
        except Crash:
            if half := documents[: len(documents) // 2]:
                await self._place.insert_many(half, **options)
            raise
        return await insert(documents, **options)


class _Database(_Commands):
    """Answers for the database it stands before, to `isinstance` as well."""

    @property  # type: ignore[misc]
    def __class__(self) -> Any:
        return type(self._place)

    def __getitem__(self, name: str) -> _Collection:
        return _Collection(self._place[name], self._fuse)


class _Cache:
    """Whatever has these commands of a server that may be `down`, with the fuse before them."""

    def __init__(self, place: Any, fuse: Fuse, commands: Collection[str], away: type[Exception]) -> None:
        self._place, self._fuse, self._commands, self._away = place, fuse, commands, away
        self.down = False

    def __getattr__(self, name: str) -> Any:
        found = getattr(self._place, name)
        return self._sent(found) if name in self._commands else found

    def _sent(self, call: Callable[..., Any]) -> Callable[..., Any]:
        command = self._fuse.through(call, inside=True)
        if self.down:
            raise self._away("cut off by the history")
        return command


class _Memcached(_Cache):
    def __init__(self, memcached: Any, fuse: Fuse) -> None:
        super().__init__(memcached, fuse, MEMCACHED, MemcachedDown)

    async def prepend(self, keys: Sequence[str], value: bytes) -> int:
        """Whoever dies here has reached some of them."""
        try:
            prepend = self._sent(self._place.prepend)
        except Crash:
            await self._place.prepend(keys[: len(keys) // 2], value)
            raise
        return await prepend(keys, value)  # type: ignore[no-any-return]


class _Sets(_Cache):
    """Of the same Redis as the queue. A script is all there or not at all."""

    def __init__(self, sets: Any, fuse: Fuse) -> None:
        super().__init__(sets, fuse, SETS, SetsDown)


@dataclasses.dataclass(frozen=True)
class Process:
    timelines: Timelines
    people: People
    relations: Relations
    statuses: Statuses


@dataclasses.dataclass(frozen=True)
class Job:
    """One chunk of a fan-out, as it was queued."""

    phase: str
    status: ObjectId
    after: ObjectId | None


@dataclasses.dataclass
class System:
    raw: Stack  # past the fuse
    stack: Stack
    clock: ManualClock
    fuse: Fuse
    processes: list[Process]
    memcached: _Memcached
    sets: _Sets

    @classmethod
    @asynccontextmanager
    async def open(cls, addresses: Addresses, clock: ManualClock, **settings: Any) -> AsyncIterator["System"]:
        """A new database, dropped at the end."""
        config = Config.model_validate({"database": f"history_{next(_databases)}", "demo": True} | settings)
        async with connected(addresses, config, clock) as raw:
            await raw.queue.forget()
            await flush(raw.memcached)
            fuse = Fuse(clock)
            memcached: Any = _Memcached(raw.memcached, fuse)
            database: Any = _Database(raw.db, fuse)
            sets: Any = _Sets(raw.sets, fuse)
            stack = dataclasses.replace(raw, db=database, memcached=memcached, sets=sets)
            system = cls(raw, stack, clock, fuse, [], memcached, sets)
            try:
                system.processes += [await system.start() for _ in range(2)]
                with system._fused_queue():
                    yield system
            finally:
                await raw.db.client.drop_database(config.database)

    @property
    def redis_down(self) -> bool:
        return self.sets.down

    @redis_down.setter
    def redis_down(self, down: bool) -> None:
        self.sets.down = down

    async def start(self) -> Process:
        timelines = await Timelines.open(self.stack)
        timelines.outbox.add(Notifier(self.stack, timelines.outbox))
        parts = self.stack, timelines.outbox
        return Process(timelines, People(self.stack), Relations(*parts), Statuses(*parts))

    @contextmanager
    def _fused_queue(self) -> Iterator[None]:
        def fused(call: Callable[..., Any]) -> Callable[..., Any]:
            def guarded(*args: Any) -> Any:
                """In a thread: what this has begun it ends, and then nobody may be there any more."""
                is_given_up = self.fuse.burn()
                try:
                    if self.redis_down:
                        raise redis.ConnectionError("cut off by the history")
                    return call(*args)
                finally:
                    if is_given_up:
                        self.fuse.give_up()

            return guarded

        queue = self.raw.queue
        with ExitStack() as patches:
            for place, name in ((queue, "_offer"), (queue, "_job_ids"), (jobs, "enqueue_scheduled")):
                patches.enter_context(patch.object(place, name, fused(getattr(place, name))))
            yield

    async def sign_up(self, handle: str) -> ObjectId:
        now = self.clock.now()
        user = User(id=self.clock.new_id(), handle=handle, name=handle.title(), created_at=now)
        await user.insert()
        return user.id

    # Jobs, by hand

    def waiting(self) -> list[Any]:
        """RQ's jobs, in the order they were queued."""
        return [job for name in QUEUES for job in self.raw.queue.queues[name].get_jobs()]

    @staticmethod
    def read(job: Any) -> Job:
        phase, status, after = job.args
        return Job(phase, ObjectId(status), ObjectId(after) if after else None)

    def take(self, job: Any) -> None:
        """As a worker takes it: out of the queue, and known no more if the worker dies."""
        for queue in self.raw.queue.queues.values():
            queue.remove(job)

    async def run(self, process: Process, job: Job) -> bool:
        """False when a server is away: the job has to wait."""
        try:
            failed = await process.timelines.outbox.consumers[job.phase].handle(job.status, job.after)
        except UNAVAILABLE:
            return False
        return job.status not in failed

    # What the change stream tells

    async def insertions(self, slug: str) -> list[dict[str, Any]]:
        """Statuses that were or are owed to the phase, as far as that can still be seen: what is told twice, and what
        is told at last.
        """
        return await self.raw.db["statuses"].find({"pending": slug}).sort("_id", 1).to_list(None)

    async def tell(self, process: Process, slug: str, rows: Sequence[dict[str, Any]]) -> None:
        consumer = process.timelines.outbox.consumers[slug]
        assert isinstance(consumer, PhaseConsumer)
        await consumer.inserted([StatusRow.of(row) for row in rows])

    # What is kept in memory

    async def evict(self, reader: ObjectId) -> None:
        for at in await self.lists_of([reader]):
            await self.raw.memcached.delete(at)
        settings = await self.processes[0].timelines.switch.fresh()
        for container in settings.containers:
            if container.kept == STREAM.keeps:
                await self.raw.sets.forget(container.name, reader)

    async def lists_of(self, readers: Sequence[ObjectId]) -> list[str]:
        """The keys that hold, or would hold, something for these readers."""
        settings = await self.processes[0].timelines.switch.fresh()
        kept = {self.processes[0].timelines.phases[slug].keeps for slug in IN_MEMCACHED}
        return [key(c, reader) for c in settings.containers if c.kept in kept for reader in readers]

    @contextmanager
    def undisturbed(self) -> Iterator[None]:
        """Reads look and change nothing: whoever is cold stays cold, and no list is renewed."""

        async def nothing(*_: object) -> None: ...

        with (
            patch.object(Entries, "rebuild", nothing),
            patch.object(InMemory, "rebuild", nothing),
            patch.object(Lists, "_due", lambda *_: False),
            patch.object(SortedSets, "_renew", nothing),
        ):
            yield
