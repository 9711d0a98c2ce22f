"""A laboratory: an empty system on the demo's servers, with people and statuses that an experiment makes up."""

import statistics
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from time import perf_counter
from typing import Any

from bson import ObjectId

from app.clock import Clock, id_at
from app.models import StatusRow
from app.stack import Stack
from phases.activity import as_if_here
from phases.lists import Lists, key
from phases.p4_cache import Cache
from phases.switch import Container, StoreName
from phases.timelines import Timelines
from workers.worker import drain_queues

BATCH = 5_000  # documents of one insert


class ForwardClock(Clock):
    """The machine's clock, put forward: what has been switched on is read at once, and nobody waits for the grace."""

    def __init__(self) -> None:
        self._forward_s = 0.0

    def now(self) -> datetime:
        return super().now() + timedelta(seconds=self._forward_s)

    def monotonic(self) -> float:
        return super().monotonic() + self._forward_s

    def advance(self, seconds: float) -> None:
        self._forward_s += seconds


@dataclass
class Lab:
    """`say` tells whoever waits what is being done."""

    stack: Stack
    clock: ForwardClock
    timelines: Timelines
    say: Callable[[str], None]

    @classmethod
    async def open(cls, stack: Stack, clock: ForwardClock, say: Callable[[str], None]) -> "Lab":
        timelines = await Timelines.open(stack)
        clock.advance(stack.config.grace_s + 2)
        return cls(stack, clock, timelines, say)

    @property
    def real(self) -> bool:
        """Whether times mean something."""
        return not self.stack.addresses.one_process

    def person(self) -> ObjectId:
        return self.clock.new_id()

    async def insert(self, collection: str, documents: Sequence[dict[str, Any]]) -> None:
        for at in range(0, len(documents), BATCH):
            await self.stack.db[collection].insert_many(documents[at : at + BATCH], ordered=False)

    async def followers(self, author: ObjectId, n: int, *, active: int | None = None) -> list[ObjectId]:
        """`n` new followers, of whom the first `active` (all, if not said) have been here just now."""
        readers = [self.person() for _ in range(n)]
        await self.follow(readers, author, active=n if active is None else active)
        return readers

    async def follow(self, readers: Sequence[ObjectId], author: ObjectId, *, active: int) -> None:
        await self.insert("follows", [{"_id": ObjectId(), "follower": one, "followee": author} for one in readers])
        await as_if_here(self.stack, readers[:active], author)

    async def history(self, authors: Sequence[ObjectId], each: int, ended_days_ago: int = 1) -> None:
        """`each` statuses by every one of them in turn, one a second."""
        begin = self.clock.now() - timedelta(days=ended_days_ago, seconds=each * len(authors))
        turns = [(n * len(authors) + place, author) for n in range(each) for place, author in enumerate(authors)]
        rows = [status_row(id_at(begin + timedelta(seconds=second)), author) for second, author in turns]
        await self.insert("statuses", rows)

    async def store(self, author: ObjectId, *owed: str) -> StatusRow:
        """Rule 1, the first half: the status is stored and says who owes its delivery."""
        row = status_row(self.clock.new_id(), author)
        await self.stack.db["statuses"].insert_one(row | {"pending": list(owed)})
        return StatusRow.of(row)

    async def post(self, author: ObjectId, slug: str) -> tuple[StatusRow, float]:
        """A post as the poster waits for it in one phase; and how long that took, in ms."""
        start_s = perf_counter()
        row = await self.store(author, slug)
        await self.timelines.deliver(slug, row)
        return row, (perf_counter() - start_s) * 1000

    async def drain(self) -> None:
        """A worker does all jobs that wait."""
        await drain_queues(self.timelines)

    async def container(self, store: StoreName) -> Container:
        found = (await self.timelines.settings.fresh()).current(store)
        assert found, "Lab.open has switched every phase on"
        return found

    @property
    def lists(self) -> Lists:
        cache = self.timelines.phases["cache"]
        assert isinstance(cache, Cache)
        assert isinstance(cache.store, Lists)
        return cache.store

    async def forget_lists(self, readers: Sequence[ObjectId]) -> None:
        """Leave nothing in the Memcached that the demo uses too."""
        container = await self.container("lists")
        for reader in readers:
            await self.stack.memcached.delete(key(container, reader))


def status_row(id: ObjectId, author: ObjectId) -> dict[str, Any]:
    return {"_id": id, "user_id": author, "text": "Measured, not believed.", "audience": "followers", "deleted": False}


async def timed(work: Callable[[], Awaitable[object]]) -> float:
    """Milliseconds."""
    start_s = perf_counter()
    await work()
    return (perf_counter() - start_s) * 1000


async def median_ms(work: Callable[[], Awaitable[object]], times: int) -> float:
    """After one run that warms up and does not count."""
    await work()
    return statistics.median([await timed(work) for _ in range(times)])


async def median_wait_ms(lab: Lab, author: ObjectId, slug: str) -> float:
    """How long the poster waits in one phase. The first post warms up and does not count."""
    waits = [(await lab.post(author, slug))[1] for _ in range(4)]
    return statistics.median(waits[1:])
