"""What is watched from outside while a phase works: delivery lag, queues, processor time, commands, bytes kept."""

import asyncio
import random
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field
from typing import Any

import psutil
from bson import ObjectId

from app.clock import LAST_ID
from app.stack import Stack
from app.stack.cost import uncounted
from app.stack.mongodb import is_stand_in
from benchmarks.measure import Latencies
from benchmarks.record import Record
from phases.activity import ACTIVE
from phases.p2_push import Push
from phases.p3_queue import Queue
from phases.p4_cache import Cache
from phases.reading import Slice
from phases.switch import Container, entries_name, floors_name
from phases.timelines import Timelines

SHORTEST_POLL_S = 0.002
POLL_SHARE = 0.2  # of the time is spent on looking at most, however long that takes
POLL_LIMIT = 20_000  # pending statuses that one look sees
CHECK_ONE_IN = 20  # delivered statuses: the last follower's list is read
CHECK_DEADLINE_S, CHECK_EVERY_S = 5.0, 0.05
DEPTH_EVERY_S = 0.25
KEPT_SAMPLE = 1_000  # readers whose lists are counted
COUNTED_COMMANDS = ("aggregate", "count", "delete", "distinct", "find", "findAndModify", "getMore", "insert", "update")


class NotDelivered(Exception):
    """The phase said that a status was delivered to everybody, and the last follower's list does not hold it."""


@dataclass
class Lags:
    """Acknowledged → the last follower's kept list holds it.

    The phase clears a status's `pending` after the last follower's list was written, so the harness looks at the
    (indexed, covered) set of pending statuses, and the lag ends with the first look that finds it cleared: never too
    early, too late by at most one look (`looks`). Of every CHECK_ONE_IN-th the last follower's list itself is read.
    A phase that delivers before the acknowledgement has no lag; one that keeps nothing delivers nothing.
    """

    stack: Stack
    timelines: Timelines
    slug: str
    record: Record
    active: set[ObjectId]
    lags: Latencies = field(default_factory=Latencies)
    looks: Latencies = field(default_factory=Latencies)  # from one look to the end of the next
    deliveries: int = 0  # entries that statuses which count were to get
    checked: int = 0
    polls: int = 0
    cleared_at: float = 0
    _waiting: dict[ObjectId, tuple[float, ObjectId, bool]] = field(default_factory=dict)
    _news: asyncio.Event = field(default_factory=asyncio.Event)
    _idle: asyncio.Event = field(default_factory=asyncio.Event)  # nothing waits, or nobody watches any longer
    _seen: int = 0

    def __post_init__(self) -> None:
        self._phase = self.timelines.phases[self.slug]

    def acknowledged(self, status: ObjectId, author: ObjectId, counts: bool) -> None:
        if not isinstance(self._phase, Push):
            return
        followers = self.record.followers[author]
        served = len(followers & self.active) if isinstance(self._phase, Cache) else len(followers)
        if counts:
            self.deliveries += served
        self._waiting[status] = (asyncio.get_running_loop().time(), author, counts)
        self._news.set()
        self._idle.clear()

    @property
    def waiting(self) -> int:
        return len(self._waiting)

    async def watch(self) -> None:
        """Until cancelled. Raises NotDelivered."""
        try:
            await self._watch()
        finally:
            self._idle.set()

    async def drained(self, within_s: float) -> bool:
        """Wait until everything is delivered; whether it was in time."""
        if self._waiting:
            with suppress(TimeoutError):
                await asyncio.wait_for(self._idle.wait(), within_s)
        return not self._waiting

    async def _watch(self) -> None:
        loop = asyncio.get_running_loop()
        last = loop.time()
        while True:
            if not self._waiting:
                self._idle.set()
                self._news.clear()
                await self._news.wait()
                last = loop.time()
            asked = loop.time()
            pending = await self._pending()
            now = loop.time()
            self.looks.record(now - last)
            last = asked
            cleared = [id for id, (at, _, _) in self._waiting.items() if at <= asked and id not in pending]
            for status in cleared:
                await self._cleared(status, now)
            await asyncio.sleep(max(SHORTEST_POLL_S, (now - asked) * (1 / POLL_SHARE - 1)))

    async def _pending(self) -> set[ObjectId]:
        self.polls += 1
        with uncounted():
            query = self.stack.db["statuses"].find({"pending": self.slug}, {"_id": 1})
            return {row["_id"] for row in await query.limit(POLL_LIMIT).to_list(None)}

    async def _cleared(self, status: ObjectId, now: float) -> None:
        acknowledged, author, counts = self._waiting.pop(status)
        self.cleared_at = now
        if counts:
            self.lags.record(now - acknowledged if isinstance(self._phase, Queue) else 0)
        self._seen += 1
        if self._seen % CHECK_ONE_IN == 1:
            await self._check(status, author)

    async def _check(self, status: ObjectId, author: ObjectId) -> None:
        """Read the last follower's list. Somebody who came to follow meanwhile is given time for the backfill."""
        with uncounted():
            reader = await self._last_follower(author)
            deadline = asyncio.get_running_loop().time() + CHECK_DEADLINE_S
            while reader and not await self._holds(reader, status):
                if reader not in self.record.followers[author]:
                    return
                if asyncio.get_running_loop().time() > deadline:
                    raise NotDelivered(f"{self.slug}: status {status} is not pending, and {reader} does not have it")
                await asyncio.sleep(CHECK_EVERY_S)
            self.checked += reader is not None

    async def _last_follower(self, author: ObjectId) -> ObjectId | None:
        if not isinstance(self._phase, Cache):
            return max(self.record.followers[author], default=None)
        active = {"authors": author, "until": {"$gte": self.stack.clock.now()}}
        last = await self.stack.db[ACTIVE].find_one(active, {"_id": 1}, sort=[("_id", -1)])
        return last["_id"] if last else None

    async def _holds(self, reader: ObjectId, status: ObjectId) -> bool:
        assert isinstance(self._phase, Push)
        container = (await self.timelines.settings.current()).current(self._phase.keeps)
        if container is None:
            return True
        part = await _list_of(self._phase, container, reader, self.stack.config.cap)
        return part is None or status < part.floor or any(entry.id == status for entry in part.entries)


async def _list_of(phase: Push, container: Container, reader: ObjectId, n: int) -> Slice | None:
    """What is kept for the reader, the newest `n`; None when nothing is."""
    _, part = await phase.store.read(container, reader, LAST_ID, n, {}, False)
    return part


@dataclass
class Depths:
    """(seconds since the start, jobs that wait, statuses not yet delivered), now and then."""

    stack: Stack
    lags: Lags
    series: list[tuple[float, int, int]] = field(default_factory=list)

    async def watch(self) -> None:
        loop = asyncio.get_running_loop()
        start = loop.time()
        while True:
            queued = await asyncio.to_thread(lambda: sum(q.count for q in self.stack.queue.queues.values()))
            self.series.append((round(loop.time() - start, 2), queued, self.lags.waiting))
            await asyncio.sleep(DEPTH_EVERY_S)


@asynccontextmanager
async def watched(lags: Lags, depths: Depths) -> AsyncIterator[None]:
    """Watch until the block ends. Raises NotDelivered then."""
    tasks = [asyncio.create_task(lags.watch()), asyncio.create_task(depths.watch())]
    try:
        yield
    finally:
        for task in tasks:
            task.cancel()
            with suppress(asyncio.CancelledError):
                await task


def cpu_s(processes: Mapping[str, int]) -> dict[str, float]:
    """Processor seconds that each process has used so far, user and system."""
    used = {}
    for name, pid in processes.items():
        times = psutil.Process(pid).cpu_times()
        used[name] = times.user + times.system
    return used


async def commands_received(stack: Stack) -> dict[str, int] | None:
    """Commands that each server has been sent so far, by whomever; None for stand-ins."""
    if is_stand_in(stack.db) or stack.addresses.memcached is None or stack.addresses.redis is None:
        return None
    status: Any = await stack.db.client.admin.command("serverStatus")
    redis: Any = await asyncio.to_thread(stack.queue.connection.info, "stats")
    counters = [await memcached_stats(node) for node in stack.addresses.memcached]
    kinds = ("cmd_get", "cmd_set", "cmd_touch", "cmd_meta", "delete_hits", "delete_misses")
    commands = status["metrics"]["commands"]
    return {
        "mongodb": sum(int(commands[name]["total"]) for name in COUNTED_COMMANDS if name in commands),
        "redis": int(redis["total_commands_processed"]),
        "memcached": sum(int(node.get(kind, 0)) for node in counters for kind in kinds),
    }


async def memcached_stats(node: str) -> dict[str, str]:
    """What `stats` answers (memcached/doc/protocol.txt, "General-purpose statistics")."""
    host, _, port = node.rpartition(":")
    reader, writer = await asyncio.open_connection(host, int(port))
    try:
        writer.write(b"stats\r\n")
        lines = (await reader.readuntil(b"END\r\n")).decode().splitlines()
    finally:
        writer.close()
        await writer.wait_closed()
    return {name: value for _, name, value in (line.split(" ", 2) for line in lines if line.startswith("STAT "))}


async def memcached_bytes(stack: Stack) -> int:
    """Bytes of all items, with their keys and headers, without the slabs' rounding; 0 for the stand-in."""
    nodes = stack.addresses.memcached or ()
    return sum([int((await memcached_stats(node))["bytes"]) for node in nodes])


@dataclass(frozen=True)
class Kept:
    """What a phase keeps. `bytes_per_person`: of everybody, whether anything is kept for them or not."""

    store: str | None
    bytes: int = 0
    entries: int = 0
    readers: int = 0
    bytes_per_person: float = 0
    bytes_per_entry: float = 0


async def kept(
    stack: Stack, timelines: Timelines, slug: str, record: Record, active: set[ObjectId], people: int, empty_bytes: int
) -> Kept:
    """`empty_bytes`: Memcached's bytes before the phase began."""
    phase = timelines.phases[slug]
    container = (await timelines.settings.fresh()).current(phase.keeps) if phase.keeps else None
    if container is None or not isinstance(phase, Push):
        return Kept(None)
    if phase.keeps == "entries":
        size, entries, readers = await _entries(stack, container, record)
    else:
        sample = random.Random(1).sample(sorted(active), min(KEPT_SAMPLE, len(active)))
        parts = [await _list_of(phase, container, reader, 10 * stack.config.cap) for reader in sample]
        lists = [len(part.entries) for part in parts if part is not None]
        share = len(active) / max(1, len(sample))
        size, entries, readers = await memcached_bytes(stack) - empty_bytes, sum(lists), len(lists)
        entries, readers = round(entries * share), round(readers * share)
    return Kept(phase.keeps, size, entries, readers, round(size / people, 1), round(size / max(1, entries), 1))


async def _entries(stack: Stack, container: Container, record: Record) -> tuple[int, int, int]:
    """Uncompressed bytes, entries, readers."""
    if is_stand_in(stack.db):
        return 0, await stack.db[entries_name(container.since)].count_documents({}), 0
    size = entries = 0
    for name in (entries_name(container.since), floors_name(container.since)):
        stats: Any = await stack.db.command("collStats", name)
        size += int(stats.get("size", 0))
        entries += int(stats["count"]) if name.startswith("home_entries") else 0
    readers = sum(bool(followees) for followees in record.following.values())
    return size, entries, readers
