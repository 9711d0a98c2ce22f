"""Measuring several things in turn in one run, and what their seconds come to."""

import gc
import statistics
import time
from collections.abc import Awaitable, Callable, Sequence
from functools import partial

from benchmarks.measure import Latencies

Measured = Callable[[], Awaitable[object]]
Timed = Callable[[], Awaitable[float]]  # it says itself how many seconds count


async def seconds_of(measured: Measured) -> float:
    began = time.perf_counter()
    await measured()
    return time.perf_counter() - began


async def in_turn(repeats: int, **measured: Measured) -> dict[str, list[float]]:
    """Seconds of each, a b c a b c …: the machine's noise meets all alike. The first turn does not count."""
    return await timed_in_turn(repeats, **{name: partial(seconds_of, each) for name, each in measured.items()})


async def timed_in_turn(repeats: int, **timed: Timed) -> dict[str, list[float]]:
    """The same of what says its seconds itself.

    What the scene has built is no garbage of what is measured: it is kept out of its collections, as our processes keep
    out what they start with.
    """
    seconds: dict[str, list[float]] = {name: [] for name in timed}
    gc.freeze()
    for turn in range(repeats + 1):
        for name, each in timed.items():
            took_s = await each()
            if turn:
                seconds[name].append(took_s)
    gc.unfreeze()
    return seconds


def ratio(a: Sequence[float], b: Sequence[float]) -> float:
    """Median of a ÷ median of b."""
    return statistics.median(a) / statistics.median(b)


def percentile(seconds: Sequence[float], p: float) -> float:
    latencies = Latencies()
    for s in seconds:
        latencies.record(s)
    return latencies.ms(p)


def p50_ms(**seconds: Sequence[float]) -> dict[str, float]:
    return {f"{name}_ms": percentile(each, 50) for name, each in seconds.items()}


def rates(deliveries: int, seconds: dict[str, list[float]]) -> dict[str, float]:
    return {f"{name}_per_s": round(deliveries / statistics.median(each)) for name, each in seconds.items()}
