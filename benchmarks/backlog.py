"""`feedlab bench backlog`: pages over HTTP while statuses wait for their delivery, and how long until none does."""

import asyncio
import statistics
import time
from collections.abc import Sequence
from dataclasses import replace
from functools import partial

import psutil
from bson import ObjectId

from app.demo.graph import Graph
from app.demo.progress import Progress, silent
from benchmarks import answers
from benchmarks.capacity import Offered, at_ports, climb, loaded
from benchmarks.generator import Asked, Generator, offer
from benchmarks.measure import Latencies
from benchmarks.origin import origin
from benchmarks.readers import checked, followed, post, workers_stopped
from benchmarks.record import Record
from benchmarks.report import Backlog, Backlogged, Climb, Drain, HttpSettings, Step
from benchmarks.rig import BenchRefused, Rig, web_processes

LEVELS = (0, 100, 1_000, 10_000)
CONNECTIONS = 4  # of the closed loop, which has a turn before each step of the climb: the machine's speed changes
TURN_S, BURN_IN_S = 1.0, 0.2  # a turn takes so long at most, after its burn-in
LOAD_SHARE = 0.5  # of what is held with the whole backlog, while it is worked off
DRAIN_S = 900.0
LOOK_EVERY_S = 0.25


async def pending(rig: Rig, slug: str) -> int:
    return await rig.timelines.outbox.count(slug)


async def backlog(
    rig: Rig, graph: Graph, settings: HttpSettings, levels: Sequence[int], progress: Progress = silent
) -> Backlog:
    """Measure pages phase by phase, with more and more statuses pending, except for those that the phase pulls.

    After each level `rig.so_far` is what there is to show, and None after a wrong page. Raises WrongAnswer,
    NotAnswered, Failed, BenchRefused.
    """
    about, readers = await origin(rig), await loaded(rig, graph, settings, progress)
    authors = followed(rig, readers.numbers)
    found: list[Backlogged] = []
    drains: list[Drain] = []

    def report(levels: Sequence[Backlogged], *, unfinished: bool) -> Backlog:
        return Backlog(
            **vars(about),
            settings=settings,
            graph=rig.population(settings.graph),
            levels=list(levels),
            drains=list(drains),
            unfinished=unfinished,
        )

    planned = len(settings.phases) * len(levels)

    async def measured(slug: str, level: int, port: int, none: float | None) -> tuple[Backlogged, Asked]:
        """Measure one level. `none`: pages a second without a backlog, where that has been measured."""
        if (owed := await answers.owed(rig.timelines, slug)) != level:
            raise BenchRefused(f"{slug}: {owed:,} statuses are pending or pulled and not {level:,}")
        waiting = await pending(rig, slug)
        shown = await readers.shown(slug, [port], progress)
        asked = Asked([port], readers.path(slug), shown, min(settings.seconds, TURN_S), None, seed=settings.seed)
        offered = at_ports([port], asked.path, shown, settings.seed)
        of, begun = partial(Climb, phase=slug, web=1, readers="warm", pending=waiting), list[Step]()
        turns: list[float] = []

        async def at(rate: float, requests: int) -> Offered:
            seed = settings.seed + len(turns)
            turn = checked(await offer(replace(asked, burn_in_s=BURN_IN_S, connections=CONNECTIONS, seed=seed)))
            turns.append(turn.answered / turn.seconds)
            return await offered(rate, requests)

        def found_at(climb: Climb) -> Backlogged:
            pages_per_s = round(statistics.median(turns), 1)
            return Backlogged(
                pages_per_s=pages_per_s, to_none=round(pages_per_s / (none or pages_per_s), 3), climb=climb
            )

        def heard(step: Step) -> None:
            begun.append(step)
            unfinished = found_at(of(steps=list(begun), capacity=None, ended_by="unfinished"))
            rig.so_far = report([*found, unfinished], unfinished=True)
            progress(f"{slug}, {level:,} pending, {step.rate:g}/s: {step.outcome}", len(found), planned)

        climbed = await climb(at, settings, heard)
        return found_at(of(**climbed._asdict())), asked

    with rig.nothing_if_wrong():
        for slug in settings.phases:
            await rig.switch(slug)
            await rig.warm(slug, settings.limit, readers.numbers, progress)
            posted: list[ObjectId] = []
            none: float | None = None
            async with web_processes(rig, 1) as [web], workers_stopped(rig):
                for level in levels:
                    posted += await post(readers, [web.port], authors, level - len(posted), progress)
                    at_level, asked = await measured(slug, level, web.port, none)
                    none = none or at_level.pages_per_s
                    found.append(at_level)
                    rig.so_far = report(found, unfinished=True)
                rate = LOAD_SHARE * (found[-1].climb.capacity or settings.first)
                drains.append(await _drained(rig, slug, replace(asked, seconds=DRAIN_S, rate=rate), progress))
                rig.so_far = report(found, unfinished=True)
            await rig.restore(readers.record, posted)
            readers.record = Record(rig.loaded)
    progress("done", planned, planned)
    return report(found, unfinished=False)


async def _drained(rig: Rig, slug: str, asked: Asked, progress: Progress) -> Drain:
    """Let the worker begin again under load, until nothing is pending or for DRAIN_S.

    Raises WrongAnswer, NotAnswered.
    """
    there, enough, gone_s = await pending(rig, slug), asyncio.Event(), None
    async with Generator.running() as generator:
        load = asyncio.create_task(generator.offer(replace(asked, patient=True), enough))
        began = time.monotonic()
        try:
            psutil.Process(rig.processes["worker"]).resume()
            while not load.done():
                if not (left := await pending(rig, slug)):
                    gone_s = round(time.monotonic() - began, 2)
                    break
                progress(f"{slug}: working the backlog off", there - left, there)
                await asyncio.sleep(LOOK_EVERY_S)
        finally:
            enough.set()
            await asyncio.wait([load])
    answered = checked(load.result())
    assert asked.rate
    latency_ms = Latencies.decoded(answered.latencies).figures()
    return Drain(phase=slug, pending=there, rate=asked.rate, gone_s=gone_s, latency_ms=latency_ms)
