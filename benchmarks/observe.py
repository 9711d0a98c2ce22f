"""Observation from outside while a phase works: delivery lag, queues, processor time, commands, bytes kept."""

import asyncio
import random
import sys
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field
from typing import Any, Self

import psutil
from bson import ObjectId

from app.stack import Stack
from app.stack.cost import uncounted
from app.stack.mongodb.stand_in import is_stand_in
from benchmarks import answers
from benchmarks.limits import RawMemcached
from benchmarks.measure import Latencies
from benchmarks.record import Record
from benchmarks.report import Kept
from benchmarks.rig import Rig
from benchmarks.subject import WrongAnswer

SHORTEST_POLL_S = 0.002
POLL_SHARE = 0.2  # of the time is spent on looking at most, however long that takes
POLL_LIMIT = 20_000  # pending statuses that one look sees
CHECK_ONE_IN = 20  # delivered statuses: the last follower's list is read
CHECK_DEADLINE_S, CHECK_EVERY_S = 5.0, 0.05
DEPTH_EVERY_S = 0.25
PRICED_LOOKS = 200  # one after another, to know what one costs
KEPT_SAMPLE = 1_000  # readers whose lists are counted
COUNTED_COMMANDS = (
    "aggregate", "commitTransaction", "count", "delete", "distinct", "find", "findAndModify", "getMore", "insert",
    "update",
)  # fmt: skip


class NotDelivered(WrongAnswer):
    """The phase said that a status was delivered to everybody, but the last follower's list does not hold it."""


@dataclass
class Lags:
    """The delivery lag: from the acknowledgement until the last follower's kept list holds the status. `told` has it of
    all that was delivered; what is pulled is delivered to nobody.

    The phase clears a status's `pending` after the last follower's list was written, so the harness looks at the
    (indexed, covered) set of pending statuses, and the lag ends with the first look that finds it cleared: never too
    early, too late by at most one look (`looks`). For every CHECK_ONE_IN-th status the last follower's list itself is
    read. A phase that delivers before the acknowledgement has no lag; one that keeps nothing delivers nothing.
    """

    rig: Rig
    slug: str
    record: Record
    lags: Latencies = field(default_factory=Latencies)
    looks: Latencies = field(default_factory=Latencies)  # from one look to the end of the next
    deliveries: int = 0  # entries of statuses that count
    pulled: int = 0  # statuses that count
    checked: int = 0  # lists that hold what was delivered
    polls: int = 0
    cleared_at: float = 0
    _waiting: dict[ObjectId, tuple[float, int, int | None]] = field(default_factory=dict)  # None: it does not count
    _news: asyncio.Event = field(default_factory=asyncio.Event)
    _idle: asyncio.Event = field(default_factory=asyncio.Event)  # nothing waits, or nobody watches any longer
    _over: bool = False  # nobody watches any longer
    _seen: int = 0
    _delivered: dict[ObjectId, tuple[float, int]] = field(default_factory=dict)  # the lag, and to how many

    def __post_init__(self) -> None:
        self._phase, self._timelines = self.rig.timelines.phases[self.slug], self.rig.timelines

    def acknowledged(self, status: ObjectId, author: int, counts: bool) -> None:
        if self._phase.store is None:
            return
        to = self.record.followers(author, active=answers.active_only(self._phase)) if counts else None
        self._waiting[status] = (asyncio.get_running_loop().time(), author, to)
        self._news.set()
        if not self._over:
            self._idle.clear()

    @property
    def waiting(self) -> int:
        return len(self._waiting)

    async def drained(self, within_s: float) -> bool:
        """Wait until everything is delivered; return whether it was in time."""
        if self._waiting:
            with suppress(TimeoutError):
                await asyncio.wait_for(self._idle.wait(), within_s)
        return not self._waiting

    async def watch(self) -> None:
        """Look at what is pending until cancelled. Raises NotDelivered."""
        loop = asyncio.get_running_loop()
        last = loop.time()
        try:
            while True:
                if not self._waiting:
                    self._idle.set()
                    self._news.clear()
                    await self._news.wait()
                    last = loop.time()
                asked = loop.time()
                pending = await self.pending()
                now = loop.time()
                self.looks.record(now - last)
                last = asked
                if len(pending) == POLL_LIMIT:
                    pending |= self._waiting.keys()  # there may be more, so nobody knows that any is delivered
                cleared = [id for id, (at, _, _) in self._waiting.items() if at <= asked and id not in pending]
                for status in cleared:
                    await self._cleared(status, now)
                await asyncio.sleep(max(SHORTEST_POLL_S, (now - asked) * (1 / POLL_SHARE - 1)))
        finally:
            self._over = True
            self._idle.set()

    async def pending(self) -> set[ObjectId]:
        """Look at what the phase still has to deliver, POLL_LIMIT statuses at most."""
        self.polls += 1
        with uncounted():
            query = self.rig.stack.db["statuses"].find({"pending": self.slug}, {"_id": 1}).limit(POLL_LIMIT)
            return {row["_id"] for row in await query.to_list(None)}

    async def _cleared(self, status: ObjectId, now: float) -> None:
        acknowledged, author, to = self._waiting.pop(status)
        self.cleared_at = now
        if to is not None:
            self._delivered[status] = now - acknowledged if answers.in_worker(self._phase) else 0, to
        self._seen += 1
        if self._seen % CHECK_ONE_IN == 1:
            await self._check(status, author)

    async def told(self) -> None:
        """Count what was delivered, and its lags, without what is pulled: that was never pending."""
        pulled = await self._pulled(list(self._delivered)) if self._phase.pulls else frozenset()
        for status, (lag_s, to) in self._delivered.items():
            if status in pulled:
                self.pulled += 1
            else:
                self.deliveries += to
                self.lags.record(lag_s)
        self._delivered.clear()

    async def _pulled(self, some: list[ObjectId]) -> frozenset[ObjectId]:
        with uncounted():
            found = self.rig.stack.db["statuses"].find({"_id": {"$in": some}, "pulled": True}, {"_id": 1})
            return frozenset([row["_id"] for row in await found.to_list(None)])

    async def _check(self, status: ObjectId, author: int) -> None:
        """Check that the last follower's list holds the status, unless it is pulled: then it is in nobody's.

        Somebody who came to follow meanwhile is given time for the backfill.
        """
        loaded = self.record.loaded
        with uncounted():
            if await self._pulled([status]):
                return
            if answers.active_only(self._phase):
                reader = await answers.last_active(self._timelines, loaded.ids[author])
            else:
                last = self.record.last_follower(author)
                reader = None if last is None else loaded.ids[last]
            deadline, holds = asyncio.get_running_loop().time() + CHECK_DEADLINE_S, None
            while reader and (holds := await self._holds(reader, status)) is False:
                if not self.record.follows(loaded.number[reader], author):
                    return
                if asyncio.get_running_loop().time() > deadline:
                    raise NotDelivered(f"{self.slug}: status {status} is not pending, and {reader} does not have it")
                await asyncio.sleep(CHECK_EVERY_S)
            self.checked += holds is True

    async def _holds(self, reader: ObjectId, status: ObjectId) -> bool | None:
        """Return whether the reader's list holds the status; None where it need not: there is none, or its floor is
        above the status.
        """
        part = await answers.kept_list(self._timelines, self.slug, reader, self.rig.stack.config.cap)
        if part is None or status < part.floor:
            return None
        return any(entry.id == status for entry in part.entries)


Depths = list[tuple[float, int, int]]  # seconds since the start, jobs that wait, statuses not yet delivered


@asynccontextmanager
async def watched(rig: Rig, lags: Lags) -> AsyncIterator[Depths]:
    """Watch until the block ends. Raises NotDelivered then."""
    depths: Depths = []
    tasks = [asyncio.create_task(lags.watch()), asyncio.create_task(_watch_depths(rig.stack, lags, depths))]
    try:
        yield depths
    finally:
        for task in tasks:
            task.cancel()
            with suppress(asyncio.CancelledError):
                await task


async def _watch_depths(stack: Stack, lags: Lags, depths: Depths) -> None:
    loop = asyncio.get_running_loop()
    start = loop.time()
    while True:
        queued = await asyncio.to_thread(lambda: sum(queue.count for queue in stack.queue.queues.values()))
        depths.append((round(loop.time() - start, 2), queued, lags.waiting))
        await asyncio.sleep(DEPTH_EVERY_S)


async def counted_by_servers(stack: Stack) -> tuple[dict[str, float], dict[str, float]] | None:
    """Return the commands that each server has been sent so far, and the processor seconds that it has used.

    They are counted for all clients. None for stand-ins. For MongoDB it is the primary's count, or the router's.
    """
    if is_stand_in(stack.db) or stack.addresses.memcached is None or stack.addresses.redis is None:
        return None
    status: Any = await stack.db.client.admin.command("serverStatus")
    redis: Any = await asyncio.to_thread(stack.queue.connection.info)
    nodes = [await asyncio.to_thread(_memcached_stats, node) for node in stack.addresses.memcached]
    kinds = ("cmd_get", "cmd_set", "cmd_touch", "cmd_meta", "delete_hits", "delete_misses")
    commands, process = status["metrics"]["commands"], status["extra_info"]
    return {
        "mongodb": sum(int(commands[name]["total"]) for name in COUNTED_COMMANDS if name in commands),
        "redis": int(redis["total_commands_processed"]),
        "memcached": sum(int(stats.get(kind, 0)) for stats in nodes for kind in kinds),
    }, {
        "mongod": (process.get("user_time_us", 0) + process.get("system_time_us", 0)) / 1e6,
        "redis": redis["used_cpu_user"] + redis["used_cpu_sys"],
        "memcached": sum(float(stats["rusage_user"]) + float(stats["rusage_system"]) for stats in nodes),
    }


def _memcached_stats(node: str) -> dict[str, str]:
    with RawMemcached.connected(node) as memcached:
        return memcached.stats()


def processor_s(pid: int) -> float:
    """Return the processor seconds of a process so far: in nanoseconds on Linux, in ticks of 10 ms elsewhere.

    Source: Linux, include/linux/posix-timers_types.h, MAKE_PROCESS_CPUCLOCK with CPUCLOCK_SCHED.
    """
    if sys.platform == "linux":
        return time.clock_gettime(~pid << 3 | 2)
    return sum(psutil.Process(pid).cpu_times()[:2])


@dataclass(frozen=True)
class Meters:
    """Readings of counters that only rise, to be taken before and after."""

    cpu_s: dict[str, float]
    commands: dict[str, float] | None

    @classmethod
    async def read(cls, rig: Rig) -> Self:
        used = {name: processor_s(pid) for name, pid in rig.processes.items()}
        counted = await counted_by_servers(rig.stack)
        if counted is None:
            return cls(used, None)
        commands, of_servers = counted
        return cls(of_servers | used, commands)

    def since(self, before: Self, looks: int = 0, look_s: Mapping[str, float] | None = None) -> "Meters":
        """Return the difference to an earlier reading, without the harness's own looks at MongoDB.

        `look_s`: the processor seconds of one.
        """
        each_s = look_s or {}
        used = {
            name: max(0.0, seconds - before.cpu_s[name] - looks * each_s.get(name, 0.0))
            for name, seconds in self.cpu_s.items()
        }
        if self.commands is None or before.commands is None:
            return Meters(used, None)
        commands = {server: count - before.commands[server] for server, count in self.commands.items()}
        commands["mongodb"] -= looks
        return Meters(used, commands)


async def priced(rig: Rig, look: Callable[[], Awaitable[object]]) -> dict[str, float]:
    """Return the processor seconds of one such look of the harness, by process."""
    before = await Meters.read(rig)
    for _ in range(PRICED_LOOKS):
        await look()
    used = (await Meters.read(rig)).since(before)
    return {name: seconds / PRICED_LOOKS for name, seconds in used.cpu_s.items()}


async def kept(rig: Rig, slug: str, warmed: Sequence[int], empty_bytes: int) -> Kept:
    """Estimate what is kept from what is kept for the `warmed`: in memory when all readers are there, and entries for
    everybody who follows somebody, since those are delivered to whether they read or not.

    `empty_bytes`: Memcached's bytes before the phase began.
    """
    phase, timelines, loaded = rig.timelines.phases[slug], rig.timelines, rig.loaded
    if phase.store is None:
        return Kept()
    sample = random.Random(1).sample(warmed, min(KEPT_SAMPLE, len(warmed)))
    each = [
        await answers.kept_list(timelines, slug, loaded.ids[reader], 10 * rig.stack.config.cap) for reader in sample
    ]
    sizes = [len(part.entries) for part in each if part is not None]
    if answers.in_memory(phase):
        of_all = len(loaded.readers) / max(1, len(warmed))
        share = len(loaded.readers) / max(1, len(sample))
        in_sets = await answers.sets_size(timelines, slug, [loaded.ids[reader] for reader in sample])
        if in_sets is None:
            size = round(((await rig.stack.memcached.stats()).bytes - empty_bytes) * of_all)
        else:
            size = round(in_sets * share)
        entries, readers = round(sum(sizes) * share), round(len(sizes) * share)
    else:
        readers = sum(map(bool, loaded.graph.by_follower.sizes()))
        entries = round(sum(sizes) * readers / max(1, len(sample)))
        bytes_of_all, number = await answers.entries_size(timelines, slug)
        size = round(entries * bytes_of_all / max(1, number))
    return Kept(
        store=phase.store.name,
        bytes=size,
        entries=entries,
        readers=readers,
        bytes_per_person=round(size / len(loaded.ids), 1),
        bytes_per_entry=round(size / max(1, entries), 1),
    )
