"""A small social network in words: people by name, statuses by text."""

from collections.abc import AsyncIterator
from contextlib import ExitStack, asynccontextmanager
from dataclasses import dataclass, field
from typing import Any
from unittest.mock import patch

from bson import ObjectId

from app.models import Audience, StatusRow, User
from app.social.people import People
from app.social.relations import Relations
from app.social.statuses import Statuses
from app.stack import Addresses, MemcachedDown, QueueDown, SetsDown, Stack
from app.stack.cost import counted
from app.stack.memcached import Memcached, MemcachedNodes
from app.stack.sorted_sets import SetsStandIn
from app.watch.metrics import REGISTRY
from phases import PHASES
from phases.delivering.delivery import Delivery
from phases.home.page import Page
from phases.keeping.lists import Lists
from phases.timelines import PhaseConsumer, Timelines
from tests.dates import ManualClock
from workers.sweeper import OVERDUE_S, sweep
from workers.worker import drain_queues

SLUGS = tuple(phase.slug for phase in PHASES)
KEEPING = tuple(phase.slug for phase in PHASES if phase.keeps)
IN_WORKER = tuple(phase.slug for phase in PHASES if phase.carrier and phase.carrier.in_worker)


IN_MEMCACHED = tuple(phase.slug for phase in PHASES if phase.store and issubclass(phase.store, Lists))
STAND_INS = Addresses(None, None, None)

Dump = dict[str, list[dict[str, Any]]]


def commands_sent(server: str) -> float:
    """Return how many commands this process has sent so far, to whomever."""
    return REGISTRY.get_sample_value("feedlab_server_commands_total", {"server": server}) or 0


@dataclass
class World:
    stack: Stack
    clock: ManualClock
    timelines: Timelines
    ids: dict[str, ObjectId] = field(default_factory=dict)
    people: People = field(init=False)
    relations: Relations = field(init=False)
    statuses: Statuses = field(init=False)

    def __post_init__(self) -> None:
        self.start(self.timelines)

    def start(self, timelines: Timelines) -> None:
        """Go on as another process: it remembers nothing."""
        self.timelines, self.people = timelines, People(self.stack)
        self.relations, self.statuses = Relations(self.stack, timelines.outbox), Statuses(self.stack, timelines.outbox)

    @classmethod
    async def open(cls, stack: Stack, clock: ManualClock) -> "World":
        timelines = await Timelines.open(stack)
        world = cls(stack, clock, timelines)
        world.pass_grace()
        return world

    def pass_grace(self) -> None:
        """Whatever has been switched on is read from now on."""
        self.clock.advance(self.stack.config.grace_s + 2)

    async def sign_up(self, *names: str) -> None:
        now = self.clock.now()
        for name in names:
            user = User(id=self.clock.new_id(), handle=name, name=name.title(), created_at=now)
            await user.insert()
            self.ids[name] = user.id

    async def follow(self, reader: str, *followees: str) -> None:
        for followee in followees:
            await self.relations.follow(self.ids[reader], self.ids[followee])

    async def post(self, author: str, text: str, audience: Audience = "followers") -> StatusRow:
        self.clock.advance(1)
        status, _ = await self.statuses.post(self.ids[author], text, audience)
        return status

    async def drain(self) -> None:
        await drain_queues(self.timelines)

    async def sweep(self) -> None:
        """Everything that is owed is overdue, and swept."""
        self.clock.advance(OVERDUE_S + 2)
        await sweep(self.timelines)

    async def page(self, reader: str, phase: str, before: ObjectId | None = None, limit: int = 20) -> Page:
        return await self.timelines.page(self.ids[reader], phase=phase, before=before, limit=limit)

    async def walk(self, reader: str, phase: str, limit: int = 3) -> list[str]:
        """Texts from the newest to the very first; every page but the last is full."""
        texts: list[str] = []
        before: ObjectId | None = None
        while True:
            page = await self.page(reader, phase, before, limit)
            texts += [status.text for status in page.statuses]
            if page.next is None:
                return texts
            assert len(page.statuses) == limit
            before = page.next

    async def sees(self, reader: str, *texts: str) -> None:
        """In every phase, cold and warm, the timeline is exactly this, newest first."""
        for phase in SLUGS:
            assert await self.walk(reader, phase) == list(texts), phase
        for phase in KEEPING:
            await self.chill(reader)
            assert await self.walk(reader, phase) == list(texts), f"{phase}, cold"
            assert await self.walk(reader, phase) == list(texts), f"{phase}, warm again"

    async def chill(self, reader: str) -> None:
        """Nothing is kept for this reader any more, as after an eviction."""
        for kept in self.timelines.kept.values():
            await kept.forget(self.ids[reader])

    def delivery(self, phase: str) -> Delivery:
        consumer = self.timelines.outbox.consumers[phase]
        assert isinstance(consumer, PhaseConsumer)
        return consumer.delivery

    async def warm(self, *readers: str) -> None:
        """Every phase keeps a timeline for them."""
        for reader in readers:
            for phase in KEEPING:
                await self.page(reader, phase)

    async def begins_with(self, reader: str, phase: str, *newest: str) -> None:
        """The reader's list begins so, three times in a row; the last time one command to MongoDB says it all."""
        for _ in range(3):
            with counted() as cost:
                page = await self.page(reader, phase, limit=len(newest))
            assert (tuple(status.text for status in page.statuses), page.source) == (newest, "list")
        assert cost.mongodb == 1

    async def source(self, reader: str, phase: str) -> str:
        return (await self.page(reader, phase)).source

    async def dump(self) -> Dump:
        """Every document of the database, as `mongodump` finds them."""
        db = self.stack.db
        return {name: await db[name].find().to_list(None) for name in await db.list_collection_names()}

    async def load(self, dump: Dump) -> None:
        for name in await self.stack.db.list_collection_names():
            await self.stack.db[name].delete_many({})
            if documents := dump.get(name):
                await self.stack.db[name].insert_many(documents)

    async def pending(self) -> dict[str, int]:
        return {phase.slug: phase.pending for phase in (await self.timelines.state()).phases if phase.slug in KEEPING}

    @asynccontextmanager
    async def without_memcached(self) -> AsyncIterator[None]:
        async def down(*_: object) -> None:
            raise MemcachedDown("stopped by the test")

        with ExitStack() as patches:
            for name in ("gets", "add", "put", "cas", "delete", "prepend", "highest", "note"):
                patches.enter_context(patch.object(self.stack.memcached, name, down))
            yield

    @asynccontextmanager
    async def without_redis(self) -> AsyncIterator[None]:
        def queue_down(*_: object) -> None:
            self.stack.queue._breaker.failed()
            raise QueueDown("stopped by the test")

        async def sets_down(*_: object) -> None:
            raise SetsDown("stopped by the test")

        with ExitStack() as patches:
            patches.enter_context(patch.object(self.stack.queue, "_call_unless_away", queue_down))
            for name in ("deliver", "read", "lease", "fill", "merge", "renew", "forget", "highest", "note", "sweep"):
                patches.enter_context(patch.object(self.stack.sets, name, sets_down))
            yield


async def flush_sets(stack: Stack) -> None:
    """Everybody's sets are gone, as after a flush of Redis."""
    if isinstance(stack.sets, SetsStandIn):
        stack.sets._sets.clear()
        stack.sets._pulses.clear()
    elif keys := list(stack.queue.connection.scan_iter(stack.sets._prefix + b"*")):
        stack.queue.connection.delete(*keys)


async def flush(memcached: Memcached) -> None:
    """As a restart does, or somebody else: we never do."""
    if isinstance(memcached, MemcachedNodes):
        await memcached._everywhere(lambda client: client.flush_all())
    else:
        memcached._items.clear()
