"""`feedlab bench http`: pages a second over HTTP at fixed rates, up to the rate at which p99 passes the objective."""

import math
import random
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, replace
from functools import partial
from typing import NamedTuple, Protocol

from app.demo.graph import Graph
from app.demo.progress import Progress, silent
from benchmarks.generator import Answered, Asked, Reader, offer
from benchmarks.measure import SAMPLES, Latencies
from benchmarks.origin import origin
from benchmarks.readers import STATUSES_EACH, Readers, checked
from benchmarks.report import Climb, EndedBy, HttpReport, HttpSettings, Step, Who
from benchmarks.rig import Rig, web_processes
from benchmarks.verdict import PRECISION

DOUBLED = 2.0
LEAST = 1 / 10  # of the first rate: what is not held there is none
HOLDS = 5  # rates that are tried with as many samples as p99.9 takes, or for so long:
HELD_S = 60.0
BURN_IN_S = 1.0
BURN_IN_READERS = 50  # of strangers: nobody else asks twice


@dataclass
class Offered:
    """The outcome of one or several offers of the same rate. `served`: the latencies without what each was late."""

    latencies: Latencies
    late: Latencies
    served: Latencies
    seconds: float = 0
    gave_up: bool = False


class At(Protocol):
    """A way to ask for so many `requests` at a rate. Raises NotAnswered, WrongAnswer."""

    def __call__(self, rate: float, requests: int) -> Awaitable[Offered]: ...


def step_of(rate: float, offered: Offered, slo_ms: float) -> Step:
    """Return the step for an offer, without figures where the generator gave up on requests that waited too long.

    The generator itself was late where p99 misses the objective, and would keep it without what each request was late.
    """
    late_ms, count = offered.late.ms(99) if offered.late.count else 0.0, offered.latencies.count
    latency_ms = {} if offered.gave_up else offered.latencies.figures()
    met = latency_ms.get("p99", math.inf) <= slo_ms
    late = late_ms > slo_ms if offered.gave_up else offered.served.figures().get("p99", math.inf) <= slo_ms
    return Step(
        rate=rate,
        answered=count,
        answered_per_s=round(count / offered.seconds, 1) if offered.seconds else 0,
        latency_ms=latency_ms if met or not late else {},
        late_ms=late_ms,
        outcome="met" if met else "generator late" if late else "missed",
    )


class Climbed(NamedTuple):
    """The steps and the outcome of a climb, as in `Climb`."""

    steps: list[Step]
    capacity: float | None
    ended_by: EndedBy


async def climb(at: At, settings: HttpSettings, heard: Callable[[Step], None] = lambda _: None) -> Climbed:
    """Find the highest rate that is held: double the rate until one is not, then try between the two.

    The best one is held over as many requests as p99.9 takes, or for HELD_S, or else a lower one is.
    """
    steps: list[Step] = []

    async def is_met(rate: float, samples: float) -> bool:
        requests = math.ceil(max(samples, SAMPLES["p99"], rate * settings.seconds))
        step = step_of(rate, await at(rate, requests), settings.slo_ms)
        steps.append(step)
        heard(step)
        return step.outcome == "met"

    low, high, rate = None, None, settings.first
    while True:
        if await is_met(rate, SAMPLES["p99"]):
            low = rate
        else:
            high = rate
        if high is None:
            if rate >= settings.most:
                break
            rate = min(rate * DOUBLED, settings.most)
        elif low is None:
            rate /= DOUBLED
            if rate < LEAST * settings.first:
                break
        elif high / low <= PRECISION:
            break
        else:
            rate = round(math.sqrt(low * high), 1)
    capacity = await _held(low, is_met) if low else None
    above = [step for step in steps if step.outcome != "met" and step.rate > (capacity or 0)]
    if not above:
        return Climbed(steps, capacity, "most")
    nearest = min(above, key=lambda step: step.rate)
    return Climbed(steps, capacity, "generator" if nearest.outcome == "generator late" else "slo")


async def _held(rate: float, is_met: Callable[[float, float], Awaitable[bool]]) -> float | None:
    for _ in range(HOLDS):
        if await is_met(rate, min(SAMPLES["p99.9"], HELD_S * rate)):
            return rate
        rate = round(rate / PRECISION, 1)
    return None


@asynccontextmanager
async def asked_warm(
    rig: Rig, readers: Readers, slug: str, web: int, seed: int, progress: Progress = silent
) -> AsyncIterator[At]:
    """Yield a way to ask by readers whom all of the processes know. Raises WrongAnswer, Failed."""
    async with web_processes(rig, web) as processes:
        ports = [process.port for process in processes]
        yield at_ports(ports, readers.path(slug), await readers.shown(slug, ports, progress), seed)


def at_ports(ports: Sequence[int], path: str, shown: Sequence[Reader], seed: int) -> At:
    asked = Asked(ports, path, shown, 0, None, burn_in=shown, burn_in_s=BURN_IN_S, seed=seed)

    async def at(rate: float, requests: int) -> Offered:
        return _sum([checked(await offer(replace(asked, rate=rate, seconds=requests / rate)))])

    return at


@asynccontextmanager
async def asked_by_strangers(
    rig: Rig, readers: Readers, slug: str, web: int, seed: int, progress: Progress = silent
) -> AsyncIterator[At]:
    """Yield a way to ask by readers of whom each comes once to processes that have just been started.

    New processes are started as often as there are too few such readers.
    """
    async with web_processes(rig, web) as processes:
        shown = await readers.shown(slug, [processes[0].port], progress)
    draw = random.Random(seed)
    kept = min(BURN_IN_READERS, len(shown) // 2)

    async def at(rate: float, requests: int) -> Offered:
        parts: list[Answered] = []
        while requests > 0 and not (parts and parts[-1].gave_up):
            coming = draw.sample(shown, len(shown))
            some = coming[kept:][:requests]
            async with web_processes(rig, web) as processes:
                asked = Asked(
                    [process.port for process in processes],
                    readers.path(slug),
                    some,
                    (len(some) + 1) / rate,
                    rate,
                    burn_in=coming[:kept],
                    burn_in_s=max(BURN_IN_S, kept / rate),
                    once=True,
                )
                parts.append(checked(await offer(asked)))
            requests -= len(some)
        return _sum(parts)

    yield at


def _sum(parts: Sequence[Answered]) -> Offered:
    offered = Offered(Latencies(), Latencies(), Latencies())
    for part in parts:
        offered.latencies.add(Latencies.decoded(part.latencies))
        offered.late.add(Latencies.decoded(part.late))
        offered.served.add(Latencies.decoded(part.served))
        offered.seconds += part.seconds
        offered.gave_up |= part.gave_up
    return offered


async def loaded(rig: Rig, graph: Graph, settings: HttpSettings, progress: Progress) -> Readers:
    """Load the people, and return those of them who read."""
    everybody = range(len(graph.people))
    numbers = sorted(random.Random(settings.seed).sample(everybody, min(settings.people, len(everybody))))
    await rig.load(graph, settings.seed, STATUSES_EACH, numbers, progress=progress)
    return Readers(rig, numbers, settings.limit)


async def http(rig: Rig, graph: Graph, settings: HttpSettings, progress: Progress = silent) -> HttpReport:
    """Make one climb after the other, round by round, with the phases in an order drawn anew in each.

    After each climb `rig.so_far` is what there is to show, and None after a wrong page. Raises WrongAnswer,
    NotAnswered, Failed, BenchRefused.
    """
    about, readers = await origin(rig), await loaded(rig, graph, settings, progress)
    draw, climbs = random.Random(settings.seed), list[Climb]()
    planned = [
        (number, slug, web, who)
        for number in range(1, settings.rounds + 1)
        for slug in draw.sample(settings.phases, len(settings.phases))
        for web in settings.web
        for who in settings.readers
    ]

    def report(so_far: Sequence[Climb], *, unfinished: bool) -> HttpReport:
        of = rig.population(settings.graph)
        return HttpReport(**vars(about), settings=settings, graph=of, climbs=list(so_far), unfinished=unfinished)

    async def climbed(number: int, slug: str, web: int, who: Who) -> Climb:
        of, begun = partial(Climb, phase=slug, web=web, readers=who, round=number), list[Step]()

        def heard(step: Step) -> None:
            begun.append(step)
            unfinished = of(steps=list(begun), capacity=None, ended_by="unfinished")
            rig.so_far = report([*climbs, unfinished], unfinished=True)
            what = f"round {number}, {slug}, {web} web, {who}, {step.rate:g}/s: {step.outcome}"
            progress(what, len(climbs), len(planned))

        asked = asked_warm if who == "warm" else asked_by_strangers
        async with asked(rig, readers, slug, web, settings.seed, progress) as at:
            return of(**(await climb(at, settings, heard))._asdict())

    with rig.nothing_if_wrong():
        for number, slug, web, who in planned:
            if not climbs or (climbs[-1].round, climbs[-1].phase) != (number, slug):
                await rig.switch(slug)
                await rig.warm(slug, settings.limit, readers.numbers, progress)
            climbs.append(await climbed(number, slug, web, who))
            rig.so_far = report(climbs, unfinished=True)
    progress("done", len(planned), len(planned))
    return report(climbs, unfinished=False)
