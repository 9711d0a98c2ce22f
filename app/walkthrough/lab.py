"""A laboratory: an empty system on the demo's servers, with people and statuses that an experiment makes up."""

import asyncio
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from time import perf_counter
from typing import Any, Literal, TypeVar

from bson import ObjectId

from app.clock import Clock, id_at
from app.models import StatusRow
from app.stack import Stack
from app.walkthrough.result import Sample, samples
from phases.base import Phase
from phases.delivering.away import as_if_here
from phases.delivering.delivery import Delivery
from phases.delivering.kept_timelines import KeptTimelines
from phases.keeping.store import Container
from phases.timelines import PhaseConsumer, Timelines
from workers.worker import drain_queues

BATCH = 5_000  # documents of one insert
DELIVERED_WITHIN_S = 60.0
POLL_S = 0.001

K = TypeVar("K")


class ForwardClock(Clock):
    """A clock that can be put forward, so that nobody waits for the grace after a switch of phases."""

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
    """A laboratory. `say` tells whoever waits for the experiment what is being done."""

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
        """Whether times mean something: on stand-ins they do not."""
        return not self.stack.addresses.one_process

    def person(self) -> ObjectId:
        return self.clock.new_id()

    async def insert(self, collection: str, documents: Sequence[dict[str, Any]]) -> None:
        for at in range(0, len(documents), BATCH):
            await self.stack.db[collection].insert_many(documents[at : at + BATCH], ordered=False)

    async def followers(self, author: ObjectId, n: int, *, active: int | None = None) -> list[ObjectId]:
        """Add `n` followers, of whom the first `active` (all, if not said) were here just now; return their ids."""
        readers = [self.person() for _ in range(n)]
        await self.follow(readers, author, active=n if active is None else active)
        return readers

    async def follow(self, readers: Sequence[ObjectId], author: ObjectId, *, active: int) -> None:
        await self.insert("follows", [{"_id": ObjectId(), "follower": one, "followee": author} for one in readers])
        await as_if_here(self.stack, readers[:active], author)

    async def history(self, authors: Sequence[ObjectId], each: int, ended_days_ago: int = 1) -> None:
        """Write `each` statuses by every author, who take turns, one a second."""
        begin = self.clock.now() - timedelta(days=ended_days_ago, seconds=each * len(authors))
        turns = [(n * len(authors) + place, author) for n in range(each) for place, author in enumerate(authors)]
        rows = [status_row(id_at(begin + timedelta(seconds=second)), author) for second, author in turns]
        await self.insert("statuses", rows)

    async def store(self, author: ObjectId, *pending: str, pulled: bool = False) -> StatusRow:
        """Store a status that says for whom it is pending, or that it is pulled: the first half of rule 1."""
        row = status_row(self.clock.new_id(), author)
        says = {"pulled": True} if pulled else {}
        await self.stack.db["statuses"].insert_one(row | says | {"pending": list(pending)})
        return StatusRow.of(row)

    async def post(self, author: ObjectId, phase: Phase) -> StatusRow:
        """Do as much as the poster waits for in one phase."""
        status = await self.store(author, phase.slug)
        await self.timelines.outbox.consumers[phase.slug].hand_over(status)
        return status

    async def delivered(self, phase: Phase, status: ObjectId) -> None:
        """Return when the last follower's timeline has it. Raises TimeoutError."""
        pending = {"_id": status, "pending": phase.slug}
        async with asyncio.timeout(DELIVERED_WITHIN_S):
            while await self.stack.db["statuses"].find_one(pending, {"_id": 1}):  # noqa: ASYNC110 - nobody tells
                await asyncio.sleep(POLL_S)

    async def drain(self) -> None:
        """Do all jobs that wait, as a worker does."""
        await drain_queues(self.timelines)

    def kept(self, phase: Phase) -> KeptTimelines:
        kept = self.timelines.kept_by(phase.slug)
        assert kept, f"{phase.slug} keeps nothing"
        return kept

    def delivery(self, phase: Phase) -> Delivery:
        consumer = self.timelines.outbox.consumers[phase.slug]
        assert isinstance(consumer, PhaseConsumer)
        return consumer.delivery

    async def container(self, phase: Phase) -> Container:
        container = (await self.timelines.switch.fresh()).current(self.kept(phase).name)
        assert container, "Lab.open has switched every phase on"
        return container

    async def looked_at(self, what: Literal["Docs", "Keys"], collection: str, query: Mapping[str, Any], n: int) -> int:
        """Return how many documents or index keys MongoDB looks at to find the newest `n`."""
        find = {"find": collection, "filter": query, "sort": {"_id": -1}, "limit": n}
        plan = await self.stack.db.command("explain", find, verbosity="executionStats")
        return int(plan["executionStats"][f"total{what}Examined"])

    async def forget_lists(self, readers: Sequence[ObjectId]) -> None:
        """Delete what is kept in memory for these readers: the demo uses the same Memcached and Redis."""
        settings = await self.timelines.switch.fresh()
        for name, kept in self.timelines.kept.items():
            if kept.store.in_memory and (container := settings.current(name)):
                for reader in readers:
                    await kept.store.forget(container, reader)


def status_row(id: ObjectId, author: ObjectId) -> dict[str, Any]:
    return {"_id": id, "user_id": author, "text": "Measured, not believed.", "audience": "followers", "deleted": False}


async def timed(work: Callable[[], Awaitable[object]]) -> float:
    """Return the milliseconds that the work takes."""
    start_s = perf_counter()
    await work()
    return (perf_counter() - start_s) * 1000


async def in_turn(works: Mapping[K, Callable[[], Awaitable[object]]], rounds: int) -> dict[K, Sample]:
    """Return the milliseconds of each work, after one run that does not count.

    The works take turns, so that all of them meet what else the machine is doing.
    """
    runs: dict[K, list[float]] = {name: [] for name in works}
    for work in works.values():
        await work()
    for _ in range(rounds):
        for name, work in works.items():
            runs[name].append(await timed(work))
    return samples(runs)
