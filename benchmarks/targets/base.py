"""The parts of every group of rows: things measured in turn, ratios of their seconds, posts and deliveries."""

import asyncio
import gc
import random
import statistics
import time
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import asdict, dataclass
from functools import partial
from itertools import chain
from math import ceil
from typing import NamedTuple, TypeVar

from bson import ObjectId

from app.social.statuses import Statuses
from benchmarks import answers
from benchmarks.measure import Latencies
from benchmarks.observe import priced
from benchmarks.readers import workers_stopped
from benchmarks.report import Row
from benchmarks.rig import BenchRefused, Rig

LIMIT = 50  # statuses on a page
WAIT_S = 120.0  # for something to be delivered
REST_S = 0.01  # before the next post, which meets an idle system: a worker that has delivered has notes to write
EVERY_S = 0.002  # between two looks whether something is delivered
OFTEN_S = 0.0005  # the same where the moment is what is measured
RESAMPLED = 1_000  # times, for the interval of a ratio
INTERVAL = 0.9  # of them lie inside
TURNS = 10  # of a ratio: fewer, or fewer groups of them, do not carry an interval

T = TypeVar("T")

Measured = Callable[[], Awaitable[object]]
Timed = Callable[[], Awaitable[float]]  # it says itself how many seconds count


@dataclass(frozen=True)
class Scale:
    """The sizes of a measurement. `repeats`: how often each side is measured, in turn."""

    many: int = 10_000
    most: int = 100_000
    followees: int = 1_000
    friends: int = 1_045  # the most that anybody has in the Facebook graph
    wide: int = 5_000
    repeats: int = 10
    reads: int = 150
    jobs: int = 200
    lags: int = 1_000
    tail: int = 1_000  # what a p99 takes
    people: int = 1_000
    readers: int = 400
    pending: int = 10_000
    pairs: int = 15

    def smaller(self, by: float) -> "Scale":
        """Return sizes multiplied by a number below 1, for tests."""
        least = {
            "repeats": 2,
            "friends": 2 * LIMIT,
            "reads": 5,
            "jobs": 5,
            "lags": 5,
            "tail": 5,
            "people": 60,
            "pending": 60,
            "pairs": 2,
        }
        return Scale(**{name: max(least.get(name, 20), round(size * by)) for name, size in asdict(self).items()})


class Ratio(NamedTuple):
    """A ratio. `low` to `high`: its 90 % interval, where there are enough turns."""

    value: float
    low: float | None = None
    high: float | None = None


def row(name: str, title: str, ratio: Ratio, figures: dict[str, float], **bound: float) -> Row:
    """Return a row of the report. `bound`: at_least or at_most."""
    low, high = (end if end is None else round(end, 4) for end in ratio[1:])
    return Row(name=name, title=title, ratio=round(ratio.value, 4), low=low, high=high, figures=figures, **bound)


async def seconds_of(measured: Measured) -> float:
    began = time.perf_counter()
    await measured()
    return time.perf_counter() - began


async def in_turn(repeats: int, **measured: Measured) -> dict[str, list[float]]:
    """Measure the seconds of each in turns, each turn in an order drawn anew; the first turn does not count.

    So the machine's noise, and the effect of what runs before, meets all alike.
    """
    return await timed_in_turn(repeats, **{name: partial(seconds_of, each) for name, each in measured.items()})


async def timed_in_turn(repeats: int, **timed: Callable[[], Awaitable[T]]) -> dict[str, list[T]]:
    """Measure in turns, as `in_turn` does, what says its seconds itself.

    Objects that the scene has built are kept out of garbage collections during the measurement, as our processes keep
    out what they start with.
    """
    said, names, draw = {name: list[T]() for name in timed}, list(timed), random.Random(repeats)
    gc.freeze()
    for turn in range(repeats + 1):
        draw.shuffle(names)
        for name in names:
            each = await timed[name]()
            if turn:
                said[name].append(each)
    gc.unfreeze()
    return said


def ratio(
    a: Sequence[float],
    b: Sequence[float],
    of: Callable[[Sequence[float]], float] = statistics.median,
    together: int = 1,
) -> Ratio:
    """Return `of` a ÷ `of` b, medians unless said otherwise; a and b were measured in the same turns.

    The interval is a percentile bootstrap over the turns (Efron and Tibshirani, "An Introduction to the Bootstrap",
    chapter 13): both sides of as many turns, drawn with replacement, again and again. Where so many turns `together`
    follow each other, on one side before the other, they share what slows them, and are drawn as one.
    """
    turns, draw = list(zip(a, b, strict=True)), random.Random(1)
    groups = [turns[at : at + together] for at in range(0, len(turns), together)]
    if len(groups) < TURNS:
        return Ratio(of(a) / of(b))
    drawn = (zip(*chain(*draw.choices(groups, k=len(groups))), strict=True) for _ in range(RESAMPLED))
    ratios = sorted(of(some_a) / of(some_b) for some_a, some_b in drawn)
    outside = round(RESAMPLED * (1 - INTERVAL) / 2)
    return Ratio(of(a) / of(b), ratios[outside], ratios[-1 - outside])


def p99_ms(seconds: Sequence[float]) -> float:
    return 1000 * sorted(seconds)[ceil(0.99 * len(seconds)) - 1]


def percentile(seconds: Sequence[float], p: float) -> float:
    latencies = Latencies()
    for s in seconds:
        latencies.record(s)
    return latencies.ms(p)


def p50_ms(**seconds: Sequence[float]) -> dict[str, float]:
    return {f"{name}_ms": percentile(each, 50) for name, each in seconds.items()}


def rates(deliveries: int, seconds: dict[str, list[float]]) -> dict[str, float]:
    return {f"{name}_per_s": round(deliveries / statistics.median(each)) for name, each in seconds.items()}


async def only(rig: Rig, slug: str) -> None:
    await answers.deliver_only(rig.timelines, [slug])
    await asyncio.sleep(rig.stack.config.grace_s)  # what was switched off is no longer delivered to


async def posted(rig: Rig, author: ObjectId) -> ObjectId:
    status, _ = await Statuses(rig.stack, rig.timelines.outbox).post(author, "a status")
    return status.id


class Alone(NamedTuple):
    """A post that came alone: the seconds that its author waited, and those from then on until it was delivered, which
    the harness found at the last of its `looks`.
    """

    status: ObjectId
    acknowledged_s: float
    lag_s: float
    looks: int


async def alone(rig: Rig, slug: str, author: ObjectId, every_s: float = OFTEN_S) -> Alone:
    """Post, and wait until it is delivered and the worker has come to rest: it takes what comes sooner along."""
    began = time.perf_counter()
    status = await posted(rig, author)
    posted_at = time.perf_counter()
    looks = await delivered(rig, slug, [status], every_s)
    delivered_at = time.perf_counter()
    await asyncio.sleep(REST_S)
    return Alone(status, posted_at - began, delivered_at - posted_at, looks)


async def acknowledged(rig: Rig, slug: str, author: ObjectId) -> float:
    """Return the seconds that the author of one post waits, after it is delivered."""
    return (await alone(rig, slug, author, EVERY_S)).acknowledged_s


async def worked_off(rig: Rig, queueing: Awaitable[object], done: Awaitable[object]) -> float:
    """Return the seconds from when everything is queued, and the worker may begin, until it is done."""
    async with workers_stopped(rig):
        await queueing
        began = time.perf_counter()
    await done
    return time.perf_counter() - began


async def delivered(rig: Rig, slug: str, statuses: Sequence[ObjectId], every_s: float = EVERY_S) -> int:
    """Wait until none of these statuses is pending; return in how many looks. Raises BenchRefused when that takes too
    long.
    """
    deadline, looks = time.monotonic() + WAIT_S, 1
    while await any_pending(rig, slug, statuses):
        if time.monotonic() > deadline:
            raise BenchRefused(f"{slug}: not delivered within {WAIT_S:.0f} s; does the worker run?")
        await asyncio.sleep(every_s)
        looks += 1
    return looks


async def any_pending(rig: Rig, slug: str, statuses: Sequence[ObjectId]) -> bool:
    pending = {"_id": {"$in": list(statuses)}, "pending": slug}
    return await rig.stack.db["statuses"].find_one(pending, {"_id": 1}) is not None


async def look_s(rig: Rig, slug: str, statuses: int) -> dict[str, float]:
    """Return the processor seconds of one look whether some of so many statuses are pending, by process."""
    return await priced(rig, partial(any_pending, rig, slug, [ObjectId() for _ in range(statuses)]))
