"""`feedlab bench units`: what a post, a delivery and a read cost each process; `feedlab bench plan` adds them up."""

import asyncio
import time
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass

import psutil
from bson import ObjectId

from app.demo.progress import Progress, silent
from app.social import Social
from benchmarks import answers, scenes
from benchmarks.observe import Meters
from benchmarks.origin import origin
from benchmarks.report import Costs, JobTime, PhaseUnits, Units
from benchmarks.rig import Rig
from benchmarks.targets.base import delivered

FEW, MANY = 10, 1_000  # followers of the two authors whose difference is the price of a delivery
FOLLOWEES = (10, 100, 200, 1_000)
LIMIT = 20
IDLE_S = 3.0


@dataclass(frozen=True)
class Window:
    """What `count` operations took, all together."""

    count: int
    costs: Costs

    def each(self, idle: "Window") -> Costs:
        """Of one operation, less what the processes do while nobody asks for anything."""
        share = self.costs.s / idle.costs.s

        def per(costs: dict[str, float], meanwhile: dict[str, float]) -> dict[str, float]:
            return {name: max(0.0, value - share * meanwhile[name]) / self.count for name, value in costs.items()}

        return Costs(
            s=self.costs.s / self.count,
            cpu_s=per(self.costs.cpu_s, idle.costs.cpu_s),
            commands=per(self.costs.commands, idle.costs.commands),
        )


async def window(rig: Rig, count: int, work: Callable[[int], Awaitable[object]]) -> Window:
    """Do `work(0)` … `work(count - 1)` and read the meters around it."""
    before, began = await Meters.read(rig.stack, rig.processes), time.perf_counter()
    for number in range(count):
        await work(number)
    seconds = time.perf_counter() - began
    used = (await Meters.read(rig.stack, rig.processes)).since(before)
    assert used.commands, "real servers"
    return Window(count, Costs(s=seconds, cpu_s=used.cpu_s, commands=used.commands))


def line(few: float, many: float) -> tuple[float, float]:
    """Fixed and per-follower part of what was measured at FEW and at MANY; neither is ever negative."""
    slope = max(0.0, (many - few) / (MANY - FEW))
    return max(0.0, few - slope * FEW), slope


def split(few: Costs, many: Costs) -> tuple[Costs, Costs]:
    """The same of all costs: (of a post, of a delivery)."""

    def parts(of: Callable[[Costs], dict[str, float]]) -> list[dict[str, float]]:
        lines = {name: line(value, of(many)[name]) for name, value in of(few).items()}
        return [{name: both[part] for name, both in lines.items()} for part in (0, 1)]

    seconds, cpu, commands = line(few.s, many.s), parts(lambda c: c.cpu_s), parts(lambda c: c.commands)
    post, delivery = (Costs(s=seconds[part], cpu_s=cpu[part], commands=commands[part]) for part in (0, 1))
    return post, delivery


async def measure(rig: Rig, count: int, progress: Progress = silent) -> Units:
    """`count` warm reads per figure; fewer of what takes longer."""
    few, many = await scenes.star(rig, FEW, FEW), await scenes.star(rig, MANY, MANY)
    everybody = await scenes.authors(rig, max(FOLLOWEES) + max(FOLLOWEES) // 5, 10)
    readers = [await scenes.follower_of(rig, everybody[:size]) for size in FOLLOWEES]
    units = {}
    for done, phase in enumerate(answers.ALL):
        progress(phase.slug, done, len(answers.ALL))
        await rig.switch(phase.slug)
        await asyncio.sleep(rig.stack.config.grace_s)
        listed = [*few.followers, *many.followers] if phase.in_memory else []
        async with scenes.listed(rig, listed):
            units[phase.slug] = await _phase(rig, phase, few, many, readers, count)
    progress("done", len(answers.ALL), len(answers.ALL))
    settings = {"count": count, "limit": LIMIT}
    return Units(**vars(await origin(rig)), settings=settings, followees=list(FOLLOWEES), units=units)


async def _phase(
    rig: Rig, phase: answers.Answers, few: scenes.Star, many: scenes.Star, readers: Sequence[ObjectId], count: int
) -> PhaseUnits:
    slug = phase.slug
    idle = await window(rig, 1, lambda _: asyncio.sleep(min(IDLE_S, count / 50)))
    small, small_s = await _posts(rig, slug, few.author, max(4, count // 2))
    large, large_s = await _posts(rig, slug, many.author, max(2, count // 20))
    post, delivery = split(small.each(idle), large.each(idle))
    fixed, each = line(small_s, large_s)
    reads = [await _reads(rig, slug, reader, count) for reader in readers]
    cold = [await _colds(rig, slug, reader, max(3, count // 10)) for reader in readers] if phase.in_memory else None
    waits = [await _acknowledged(rig, slug, star.author, max(3, count // 20)) for star in (few, many)]
    return PhaseUnits(
        post=post,
        delivery=delivery,
        job_s=JobTime(fixed=fixed, each=each),
        reads=[read.each(idle) for read in reads],
        cold=[each_cold.each(idle) for each_cold in cold] if cold else None,
        acknowledged_s=(waits[0], waits[1]),
    )


async def _posts(rig: Rig, slug: str, author: ObjectId, count: int) -> tuple[Window, float]:
    """Until the last one is delivered; and the seconds of one job. The worker begins when all of them are queued."""
    social, worker = Social(rig.stack, rig.timelines.outbox), psutil.Process(rig.processes["worker"])
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
        used = await window(rig, count, post)
    finally:
        worker.resume()
    return used, worked_s / count


async def _acknowledged(rig: Rig, slug: str, author: ObjectId, count: int) -> float:
    social, seconds = Social(rig.stack, rig.timelines.outbox), []
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

    async def come_back(_: int) -> None:
        await answers.forget(rig.timelines, slug, [reader])
        await answers.forget_active(rig.stack, reader)
        await rig.timelines.page(reader, phase=slug, limit=LIMIT)

    return await window(rig, count, come_back)
