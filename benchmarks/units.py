"""`feedlab bench units`: what a post, a delivery and a read cost each process; `feedlab bench plan` adds them up.

A post costs what it takes to deliver one that comes alone: each next one waits until the worker has come to rest. One
that comes while a job is under way is taken along by it and needs no job of its own. What that costs is measured
beside it, by a burst.
"""

import asyncio
import random
import time
from collections.abc import Awaitable, Callable, Mapping, Sequence
from functools import partial
from statistics import median
from typing import NamedTuple

from bson import ObjectId

from app.demo.progress import Progress, silent
from app.social.statuses import Statuses
from benchmarks import answers, scenes
from benchmarks.observe import Meters
from benchmarks.origin import origin
from benchmarks.readers import workers_stopped
from benchmarks.report import Costs, JobTime, PhaseUnits, Units
from benchmarks.rig import Rig
from benchmarks.targets.base import REST_S, Alone, Measured, alone, delivered, look_s, posted, timed_in_turn
from phases import PHASES
from phases.base import Phase

FEW, MANY = 10, 1_000  # followers of the two authors whose difference is the price of a delivery
FOLLOWEES = (10, 100, 200, 1_000)
PULLED = 20  # of the followees of whoever has most
BURST = 40  # posts that wait at once: one is a job, which takes the others along; it would take 49
SELDOM_S = 0.02  # between two looks whether a post is delivered, where all that it costs is metered
LIMIT = 20
IDLE_S = 1.0  # a look, at most, at what is used while nobody asks for anything


async def metered(rig: Rig, work: Awaitable[int], each_s: Mapping[str, float] | None = None) -> Costs:
    """Return what the work costs in all processes, without the looks of ours that it says it has made.

    `each_s`: the processor seconds of one.
    """
    before, began = await Meters.read(rig), time.perf_counter()
    looks = await work
    seconds = time.perf_counter() - began
    used = (await Meters.read(rig)).since(before, looks, each_s)
    assert used.commands, "real servers"
    return Costs(s=seconds, cpu_s=used.cpu_s, commands=used.commands)


async def repeated(count: int, work: Measured) -> int:
    for _ in range(count):
        await work()
    return 0


def of_each(costs: Costs, count: int, idle: Costs) -> Costs:
    """Return the costs of one operation, without what the processes use while nobody asks for anything."""
    share = costs.s / idle.s
    each = Costs.combined(lambda used, meanwhile: at_least_0((used - share * meanwhile) / count), (costs, idle))
    return each.model_copy(update={"s": costs.s / count})


def at_least_0(figure: float) -> float:
    """Return a difference, to the nanosecond: what two equal sums leave is nothing."""
    return max(0.0, round(figure, 9))


async def of_one(rig: Rig, work: Measured, count: int, idle: Costs) -> Costs:
    """Return the costs of one operation, of `count` in all."""
    return of_each(await metered(rig, repeated(count, work)), count, idle)


def line(few: float, many: float) -> tuple[float, float]:
    """Return the fixed and the per-follower part of what was measured at FEW and at MANY; neither is ever negative."""
    slope = max(0.0, (many - few) / (MANY - FEW))
    return max(0.0, few - slope * FEW), slope


def split(few: Costs, many: Costs) -> tuple[Costs, Costs]:
    """Split all costs at FEW and at MANY followers into those of a post and of a delivery."""
    post, delivery = (Costs.combined(lambda *at, part=part: line(*at)[part], (few, many)) for part in (0, 1))
    return post, delivery


class Round(NamedTuple):
    """What one round says of a phase.

    `posts`: the costs of a post that comes alone, until it is delivered; `alone`: what several such ones took: both at
    FEW and at MANY followers. `burst`: one post of a BURST to FEW, where a worker delivers: its costs, and the seconds
    that the worker took. `reads` and `cold`: as in `PhaseUnits`. `pulled`: a page before and after PULLED authors whom
    it merges have posted.
    """

    posts: tuple[Costs, Costs]
    alone: tuple[list[Alone], list[Alone]]
    burst: tuple[Costs, float] | None
    reads: list[Costs]
    cold: list[Costs]
    pulled: tuple[Costs, Costs] | None


def margin(before: Costs, after: Costs) -> Costs:
    """Return the costs of one more pulled author on a page, from a page before and after PULLED of them."""
    return Costs.combined(lambda some, more: at_least_0((more - some) / PULLED), (before, after))


def taken_along(one: float, of_burst: float, deliveries: float) -> float:
    """Return the fixed part of each post of a burst but the first, which is `one` that comes alone."""
    return at_least_0((BURST * of_burst - one) / (BURST - 1) - deliveries)


def middle(rounds: Sequence[Costs]) -> Costs:
    """Return the median of each figure."""
    costs = Costs.combined(lambda *each: median(each), rounds)
    return costs.model_copy(update={"rounds_s": [each.cpu_total_s for each in rounds]})


def units_of(rounds: Sequence[Round]) -> PhaseUnits:
    """Return the unit costs that some rounds say together.

    What is a difference of two figures is that of their medians: its own median would have the noise of both.
    """

    def of_medians(of: Callable[..., Costs], figures: Sequence[Sequence[Costs]]) -> Costs:
        costs = of(*(middle(each) for each in zip(*figures, strict=True)))
        return costs.model_copy(update={"rounds_s": [of(*some).cpu_total_s for some in figures]})

    def seconds(of: Callable[[Alone], float]) -> tuple[float, float]:
        few_s, many_s = (median([of(post) for each in rounds for post in each.alone[at]]) for at in (0, 1))
        return few_s, many_s

    def of_waiting(few: Costs, many: Costs, burst: Costs) -> Costs:
        _, delivery = split(few, many)
        return Costs.combined(lambda one, of, each: taken_along(one, of, FEW * each), (few, burst, delivery))

    posts = [each.posts for each in rounds]
    pulled = [each.pulled for each in rounds if each.pulled]
    job_s, along = JobTime(fixed=0, each=0), None
    if bursts := [each.burst for each in rounds if each.burst]:
        few_s, many_s = seconds(lambda post: post.lag_s)
        fixed, each_s = line(few_s, many_s)
        along_s = taken_along(few_s, median([worked_s for _, worked_s in bursts]), FEW * each_s)
        job_s = JobTime(fixed=fixed, each=each_s, along=along_s)
        along = of_medians(of_waiting, [(*two, costs) for two, (costs, _) in zip(posts, bursts, strict=True)])
    return PhaseUnits(
        post=of_medians(lambda few, many: split(few, many)[0], posts),
        along=along,
        delivery=of_medians(lambda few, many: split(few, many)[1], posts),
        job_s=job_s,
        reads=[middle(pages) for pages in zip(*(each.reads for each in rounds), strict=True)],
        cold=[middle(pages) for pages in zip(*(each.cold for each in rounds), strict=True)] or None,
        acknowledged_s=seconds(lambda post: post.acknowledged_s),
        pulled=of_medians(margin, pulled) if pulled else None,
    )


class World(NamedTuple):
    """The people of a measurement: authors with FEW and with MANY followers, and readers of FOLLOWEES."""

    few: scenes.Star
    many: scenes.Star
    readers: Sequence[ObjectId]
    pulled: Sequence[ObjectId]  # the first followees of all readers


async def measure(rig: Rig, count: int, rounds: int, progress: Progress = silent) -> Units:
    """Measure the units, with `count` warm reads per figure, and fewer of what takes longer.

    A figure is the median of `rounds` of all phases: the machine's speed changes, and the worker sweeps every 5 s.
    """
    few, many = await scenes.star(rig, FEW, FEW), await scenes.star(rig, MANY, MANY)
    everybody = await scenes.authors(rig, max(FOLLOWEES) + max(FOLLOWEES) // 5, 10)
    readers = [await scenes.follower_of(rig, everybody[:size]) for size in FOLLOWEES]
    world = World(few, many, readers, everybody[:PULLED])
    about, measured = await origin(rig), {phase.slug: list[Round]() for phase in PHASES}

    def report(*, unfinished: bool) -> Units:
        settings = {"count": count, "limit": LIMIT, "rounds": rounds}
        units = {slug: units_of(each) for slug, each in measured.items() if each}
        return Units(**vars(about), settings=settings, followees=list(FOLLOWEES), units=units, unfinished=unfinished)

    draw, done, of = random.Random(count), 0, rounds * len(PHASES)
    with rig.nothing_if_wrong():
        for number in range(rounds):
            for phase in draw.sample(PHASES, len(PHASES)):
                progress(f"round {number + 1}, {phase.slug}", done, of)
                await rig.switch(phase.slug)
                await asyncio.sleep(rig.stack.config.grace_s)
                measured[phase.slug].append(await _round(rig, phase, world, max(1, count // rounds)))
                rig.so_far, done = report(unfinished=True), done + 1
    progress("done", of, of)
    return report(unfinished=False)


async def _round(rig: Rig, phase: Phase, world: World, count: int) -> Round:
    """Measure all figures of a phase once, with `count` warm reads for each."""
    slug, page = phase.slug, partial(rig.timelines.page, phase=phase.slug, limit=LIMIT)
    few_each = scenes.kept_few(rig, phase, [*world.few.followers, *world.many.followers])
    async with few_each, scenes.forced(rig, phase, [world.few.author, world.many.author], pulled=False):
        idle = await metered(rig, asyncio.sleep(min(IDLE_S, count / 40), 0))
        each_s = await look_s(rig, slug, 1)

        async def posts(author: ObjectId, n: int) -> Costs:
            """Return the costs of one post until it is delivered, of `n` that come one after the other."""

            async def one_by_one() -> int:
                return sum([(await alone(rig, slug, author, SELDOM_S)).looks for _ in range(n)])

            costs = of_each(await metered(rig, one_by_one(), each_s), n, idle)
            return costs.model_copy(update={"s": costs.s - REST_S})

        async def burst() -> tuple[Costs, float]:
            """Return the costs of one post of a burst, and the seconds that the worker takes for it."""
            worked_s = 0.0

            async def at_once() -> int:
                nonlocal worked_s
                async with workers_stopped(rig):
                    statuses = [await posted(rig, world.few.author) for _ in range(BURST)]
                began = time.perf_counter()
                looks = await delivered(rig, slug, statuses)
                worked_s = time.perf_counter() - began
                return looks

            costs = await metered(rig, at_once(), each_s)
            return of_each(costs, BURST, idle), worked_s / BURST

        async def go_away(reader: ObjectId) -> None:
            await answers.forget(rig.timelines, slug, [reader])
            await answers.forget_active(rig.stack, reader)

        async def come_back(reader: ObjectId) -> None:
            """Read a page after a long time away: the list is rebuilt, the reader marked.

            (Forgetting them before is in the figure, and cheap.)
            """
            await go_away(reader)
            await page(reader)

        right = partial(scenes.check_page, rig, slug=slug, limit=LIMIT)

        small = await posts(world.few.author, max(4, count // 3))
        large = await posts(world.many.author, max(2, count // 4))
        all_at_once = await burst() if answers.in_worker(phase) else None
        reads, cold = list[Costs](), list[Costs]()
        for reader in world.readers:
            await right(reader)
            reads.append(await of_one(rig, partial(page, reader), count, idle))
        for reader in world.readers if answers.in_memory(phase) else ():
            await go_away(reader)
            await right(reader)
            cold.append(await of_one(rig, partial(come_back, reader), max(1, count // 6), idle))
        one_by_one = await timed_in_turn(
            max(1, count // 10),
            few=partial(alone, rig, slug, world.few.author),
            many=partial(alone, rig, slug, world.many.author),
        )
        for star, posts_of in ((world.few, one_by_one["few"]), (world.many, one_by_one["many"])):
            await scenes.check_kept(rig, phase, star, posts_of[-1].status)
        most = world.readers[-1]
        operation = partial(of_one, rig, partial(page, most), count, idle)
        pulled = await _pulled(rig, phase, world.pulled, operation, partial(right, most)) if phase.pulls else None
    return Round((small, large), (one_by_one["few"], one_by_one["many"]), all_at_once, reads, cold, pulled)


async def _pulled(
    rig: Rig, phase: Phase, authors: Sequence[ObjectId], page: Callable[[], Awaitable[Costs]], right: Measured
) -> tuple[Costs, Costs]:
    """Return the costs of a warm page before and after these authors, whose statuses it merges, have posted. It has to
    be `right` each time.
    """
    await right()
    before = await page()
    async with scenes.forced(rig, phase, authors, pulled=True):
        statuses = Statuses(rig.stack, rig.timelines.outbox)
        posted = [(await statuses.post(author, "a status that is pulled"))[0].id for author in authors]
        await right()
        after = await page()
    await rig.stack.db["statuses"].delete_many({"_id": {"$in": posted}})
    await rig.pull_nobody()
    return before, after
