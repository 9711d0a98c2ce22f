"""`feedlab bench units`: what a post, a delivery and a read cost each process; `feedlab bench plan` adds them up."""

import asyncio
import time
from collections.abc import Awaitable, Sequence
from functools import partial
from statistics import median
from typing import TypeVar

from bson import ObjectId

from app.demo.progress import Progress, silent
from app.social import Social
from benchmarks import answers, scenes
from benchmarks.observe import Meters
from benchmarks.origin import origin
from benchmarks.report import Costs, JobTime, PhaseUnits, Units
from benchmarks.rig import Rig
from benchmarks.targets.base import Measured, acknowledged, timed_in_turn
from benchmarks.targets.jobs import posts_worked_off
from phases import PHASES
from phases.base import Phase

T = TypeVar("T")

FEW, MANY = 10, 1_000  # followers of the two authors whose difference is the price of a delivery
FOLLOWEES = (10, 100, 200, 1_000)
PULLED = 20  # of the followees of whoever has most
LIMIT = 20
BATCHES = 5  # of a figure, which is their median: a sweep of the worker, every 5 s, falls into few of them
IDLE_S = 1.0  # each of as many looks at what is used while nobody asks for anything


async def metered(rig: Rig, work: Awaitable[T]) -> tuple[Costs, T]:
    """Return what the work costs in all processes, and its result."""
    before, began = await Meters.read(rig), time.perf_counter()
    result = await work
    seconds = time.perf_counter() - began
    used = (await Meters.read(rig)).since(before)
    assert used.commands, "real servers"
    return Costs(s=seconds, cpu_s=used.cpu_s, commands=used.commands), result


async def repeated(count: int, work: Measured) -> None:
    for _ in range(count):
        await work()


def of_each(costs: Costs, count: int, idle: Costs) -> Costs:
    """Return the costs of one operation, without what the processes use while nobody asks for anything."""
    share = costs.s / idle.s
    each = Costs.combined(lambda used, meanwhile: at_least_0((used - share * meanwhile) / count), (costs, idle))
    return each.model_copy(update={"s": costs.s / count})


def at_least_0(figure: float) -> float:
    """Return a difference, to the nanosecond: what two equal sums leave is nothing."""
    return max(0.0, round(figure, 9))


def middle(costs: Sequence[Costs]) -> Costs:
    return Costs.combined(lambda *each: median(each), costs)


async def at_rest(rig: Rig, seconds: float) -> Costs:
    """Return what the processes use while nobody asks for anything."""
    return middle([(await metered(rig, asyncio.sleep(seconds)))[0] for _ in range(BATCHES)])


async def of_one(rig: Rig, work: Measured, count: int, idle: Costs) -> Costs:
    """Return the costs of one operation, of `count` in all."""
    size, batches = max(1, count // BATCHES), []
    for _ in range(BATCHES):
        costs, _ = await metered(rig, repeated(size, work))
        batches.append(of_each(costs, size, idle))
    return middle(batches)


def line(few: float, many: float) -> tuple[float, float]:
    """Return the fixed and the per-follower part of what was measured at FEW and at MANY; neither is ever negative."""
    slope = max(0.0, (many - few) / (MANY - FEW))
    return max(0.0, few - slope * FEW), slope


def split(few: Costs, many: Costs) -> tuple[Costs, Costs]:
    """Split all costs at FEW and at MANY followers into those of a post and of a delivery."""
    post, delivery = (Costs.combined(lambda *at, part=part: line(*at)[part], (few, many)) for part in (0, 1))
    return post, delivery


async def measure(rig: Rig, count: int, progress: Progress = silent) -> Units:
    """Measure the units, with `count` warm reads per figure, and fewer of what takes longer."""
    few, many = await scenes.star(rig, FEW, FEW), await scenes.star(rig, MANY, MANY)
    everybody = await scenes.authors(rig, max(FOLLOWEES) + max(FOLLOWEES) // 5, 10)
    readers = [await scenes.follower_of(rig, everybody[:size]) for size in FOLLOWEES]
    about, units = await origin(rig), dict[str, PhaseUnits]()

    def report(*, unfinished: bool) -> Units:
        settings = {"count": count, "limit": LIMIT, "batches": BATCHES}
        return Units(
            **vars(about), settings=settings, followees=list(FOLLOWEES), units=dict(units), unfinished=unfinished
        )

    for done, phase in enumerate(PHASES):
        progress(phase.slug, done, len(PHASES))
        await rig.switch(phase.slug)
        await asyncio.sleep(rig.stack.config.grace_s)
        few_each = scenes.kept_few(rig, phase, [*few.followers, *many.followers])
        async with few_each, scenes.forced(rig, phase, [few.author, many.author], pulled=False):
            units[phase.slug] = await _phase(rig, phase, few.author, many.author, readers, count)
            if phase.merges:
                margin = await _margin(rig, phase, everybody[:PULLED], readers[-1], count)
                units[phase.slug] = units[phase.slug].model_copy(update={"pulled": margin})
        rig.so_far = report(unfinished=True)
    progress("done", len(PHASES), len(PHASES))
    return report(unfinished=False)


async def _margin(rig: Rig, phase: Phase, pulled: Sequence[ObjectId], reader: ObjectId, count: int) -> Costs:
    """Return what one more pulled author costs a warm page, from pages before and after pulled authors have posted."""
    page, idle = partial(rig.timelines.page, reader, phase=phase.slug, limit=LIMIT), await at_rest(rig, count / 300)
    await page()
    without = await of_one(rig, page, count, idle)
    async with scenes.forced(rig, phase, pulled, pulled=True):
        social = Social(rig.stack, rig.timelines.outbox)
        for author in pulled:
            await social.post(author, "a status that is pulled")
        await page()
        merged = await of_one(rig, page, count, idle)
    return Costs.combined(lambda some, more: at_least_0((more - some) / len(pulled)), (without, merged))


async def _phase(
    rig: Rig, phase: Phase, few: ObjectId, many: ObjectId, readers: Sequence[ObjectId], count: int
) -> PhaseUnits:
    slug, page = phase.slug, partial(rig.timelines.page, phase=phase.slug, limit=LIMIT)
    idle = await at_rest(rig, min(IDLE_S, count / 300))

    async def posts(author: ObjectId, n: int) -> tuple[Costs, float]:
        """Return the costs of one post until it is delivered, and the seconds of its job.

        The worker begins when all `n` of a batch are queued.
        """
        batches, job_s = list[Costs](), list[float]()
        for _ in range(BATCHES):
            costs, worked_s = await metered(rig, posts_worked_off(rig, slug, author, n, every_s=0.01))
            batches.append(of_each(costs, n, idle))
            job_s.append(worked_s / n)
        return middle(batches), median(job_s)

    operations = partial(of_one, rig, idle=idle)

    async def come_back(reader: ObjectId) -> None:
        """Read a page after a long time away: the list is rebuilt, the reader marked.

        (Forgetting them before is in the figure, and cheap.)
        """
        await answers.forget(rig.timelines, slug, [reader])
        await answers.forget_active(rig.stack, reader)
        await page(reader)

    small, small_s = await posts(few, max(4, count // 10))
    large, large_s = await posts(many, max(2, count // 30))
    post, delivery = split(small, large)
    fixed, each = line(small_s, large_s)
    reads = []
    for reader in readers:
        await page(reader)
        reads.append(await operations(partial(page, reader), count=count))
    colds = readers if answers.in_memory(phase) else ()
    cold = [await operations(partial(come_back, reader), count=max(5, count // 6)) for reader in colds]
    waits = await timed_in_turn(
        max(3, count // 20),
        few=partial(acknowledged, rig, slug, few),
        many=partial(acknowledged, rig, slug, many),
    )
    return PhaseUnits(
        post=post,
        delivery=delivery,
        job_s=JobTime(fixed=fixed, each=each),
        reads=reads,
        cold=cold or None,
        acknowledged_s=(median(waits["few"]), median(waits["many"])),
    )
