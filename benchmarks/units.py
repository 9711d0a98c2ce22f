"""`feedlab bench units`: what a post, a delivery and a read cost each process; `feedlab bench plan` adds them up."""

import asyncio
import time
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from typing import Any

import psutil
from bson import ObjectId

from app.social import Social
from benchmarks import observe, scenes
from benchmarks.compare import header
from benchmarks.rig import Rig
from benchmarks.targets import delivered, memcached
from phases.activity import ACTIVE
from phases.p2_push import Push

FEW, MANY = 10, 1_000  # followers of the two authors whose difference is the price of a delivery
FOLLOWEES = (10, 100, 200, 1_000)
LIMIT = 20
IDLE_S = 3.0

Progress = Callable[[str, int, int], None]
Costs = dict[str, float]


@dataclass(frozen=True)
class Window:
    """What `count` operations took: seconds on the wall and of each processor, commands at each server."""

    count: int
    seconds: float
    cpu_s: Costs
    commands: Costs

    def each(self, idle: "Window") -> dict[str, Any]:
        """Of one operation, less what the processes do while nobody asks for anything."""

        def per(costs: Costs, meanwhile: Costs) -> Costs:
            share = self.seconds / idle.seconds
            return {name: max(0.0, value - share * meanwhile[name]) / self.count for name, value in costs.items()}

        return {
            "s": self.seconds / self.count,
            "cpu_s": per(self.cpu_s, idle.cpu_s),
            "commands": per(self.commands, idle.commands),
        }


async def window(rig: Rig, count: int, work: Callable[[int], Awaitable[object]]) -> Window:
    """Do `work(0)` … `work(count - 1)` and read the meters around it."""
    cpu, commands, began = observe.cpu_s(rig.processes), await observe.commands_received(rig.stack), time.perf_counter()
    for number in range(count):
        await work(number)
    seconds = time.perf_counter() - began
    after, received = observe.cpu_s(rig.processes), await observe.commands_received(rig.stack)
    assert commands, "real servers"
    assert received, "real servers"
    return Window(
        count,
        seconds,
        {name: after[name] - cpu[name] for name in cpu},
        {name: float(received[name] - commands[name]) for name in commands},
    )


def line(few: dict[str, Any], many: dict[str, Any], sizes: tuple[int, int] = (FEW, MANY)) -> tuple[Any, Any]:
    """Fixed and per-follower part of the same costs measured at two sizes; neither is ever negative."""

    def split(a: Any, b: Any) -> tuple[Any, Any]:
        if isinstance(a, dict):
            parts = {name: split(a[name], b[name]) for name in a}
            return {name: part[0] for name, part in parts.items()}, {name: part[1] for name, part in parts.items()}
        slope = max(0.0, (b - a) / (sizes[1] - sizes[0]))
        return max(0.0, a - slope * sizes[0]), slope

    return split(few, many)


async def measure(rig: Rig, count: int, progress: Progress = lambda *_: None) -> dict[str, Any]:
    """`count` warm reads per figure; fewer of what takes longer."""
    slugs = list(rig.timelines.phases)
    few, many = await scenes.star(rig, FEW, FEW), await scenes.star(rig, MANY, MANY)
    everybody = await scenes.authors(rig, max(FOLLOWEES) + max(FOLLOWEES) // 5, 10)
    readers = [await scenes.follower_of(rig, everybody[:size]) for size in FOLLOWEES]
    units = {}
    for done, slug in enumerate(slugs):
        progress(slug, done, len(slugs))
        await rig.switch(slug)
        await asyncio.sleep(rig.stack.config.grace_s)
        units[slug] = await _phase(rig, slug, few, many, readers, count)
    progress("done", len(slugs), len(slugs))
    return {**await header("units", rig, {"count": count, "limit": LIMIT}), "followees": FOLLOWEES, "units": units}


async def _phase(
    rig: Rig, slug: str, few: scenes.Star, many: scenes.Star, readers: Sequence[ObjectId], count: int
) -> dict[str, Any]:
    if rig.timelines.phases[slug].keeps == "lists":
        async with memcached(rig) as raw:
            await scenes.keep_lists(rig, raw, [*few.followers, *many.followers])
    idle = await window(rig, 1, lambda _: asyncio.sleep(min(IDLE_S, count / 50)))
    small, small_s = await _posts(rig, slug, few.author, max(4, count // 2))
    large, large_s = await _posts(rig, slug, many.author, max(2, count // 20))
    post, delivery = line(small.each(idle), large.each(idle))
    job = line({"s": small_s}, {"s": large_s})
    reads = [await _reads(rig, slug, reader, count) for reader in readers]
    return {
        "post": post,
        "delivery": delivery,
        "job_s": {"fixed": job[0]["s"], "each": job[1]["s"]},  # of a worker, on the wall
        "reads": [read.each(idle) for read in reads],  # by followees
        "cold": [(await _colds(rig, slug, reader, max(3, count // 10))).each(idle) for reader in readers]
        if rig.timelines.phases[slug].keeps == "lists"
        else None,
        "acknowledged_s": [await _acknowledged(rig, slug, star.author, max(3, count // 20)) for star in (few, many)],
    }


async def _posts(rig: Rig, slug: str, author: ObjectId, count: int) -> tuple[Window, float]:
    """Until the last one is delivered; and the seconds of one job. The worker begins when all of them are queued."""
    social, worker = Social(rig.stack, rig.timelines), psutil.Process(rig.processes["worker"])
    posted: list[ObjectId] = []
    worked_s = 0.0

    async def post(number: int) -> None:
        nonlocal worked_s
        posted.append((await social.post(author, "a status"))[0].id)
        if number == count - 1:
            began = time.perf_counter()
            worker.resume()
            await delivered(rig, slug, posted, every_s=0.01)
            worked_s = time.perf_counter() - began

    worker.suspend()
    try:
        found = await window(rig, count, post)
    finally:
        worker.resume()
    return found, worked_s / count


async def _acknowledged(rig: Rig, slug: str, author: ObjectId, count: int) -> float:
    social, seconds = Social(rig.stack, rig.timelines), []
    for _ in range(count):
        began = time.perf_counter()
        status, _ = await social.post(author, "a status")
        seconds.append(time.perf_counter() - began)
        await delivered(rig, slug, [status.id])
    return sorted(seconds)[len(seconds) // 2]


async def _reads(rig: Rig, slug: str, reader: ObjectId, count: int) -> Window:
    await rig.timelines.page(reader, phase=slug, limit=LIMIT)
    return await window(rig, count, lambda _: rig.timelines.page(reader, phase=slug, limit=LIMIT))


async def _colds(rig: Rig, slug: str, reader: ObjectId, count: int) -> Window:
    """Returns after a long time away: the list is rebuilt, the reader marked. (Undoing that is in it, and cheap.)"""
    phase = rig.timelines.phases[slug]
    assert isinstance(phase, Push)
    lists = await scenes.container(rig, "lists")

    async def come_back(_: int) -> None:
        await phase.store.forget(lists, reader)
        phase.memory.forget(reader)
        await rig.stack.db[ACTIVE].delete_one({"_id": reader})
        await rig.timelines.page(reader, phase=slug, limit=LIMIT)

    return await window(rig, count, come_back)
