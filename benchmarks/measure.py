"""Latency measured right: histograms, and the two ways of offering load.

Open loop: operation k is due k / rate seconds after the start, whatever became of the ones before it, and its latency
counts from that moment. A system that stalls for a second is then charged with everything that should have been served
meanwhile ("coordinated omission" is leaving that out; Gil Tene, HdrHistogram). Closed loop: a number of clients, each
waiting for its answer before it asks again; its latencies say nothing about those who would have come.
"""

import asyncio
import time
from collections.abc import Awaitable, Callable, Iterator
from dataclasses import dataclass
from typing import TypeVar

from hdrh.histogram import HdrHistogram

from app.loop import event_loop

T = TypeVar("T")

LOWEST_US, HIGHEST_US = 1, 3_600_000_000  # an hour; what takes longer counts as an hour
SIGNIFICANT_DIGITS = 3
PERCENTILES = {"p50": 50.0, "p90": 90.0, "p99": 99.0, "p99.9": 99.9, "max": 100.0}
SAMPLES = {"p50": 10, "p90": 100, "p99": 1_000, "p99.9": 10_000, "max": 1}  # fewer do not carry the percentile
BEYOND = 10  # samples that lie beyond every point of a curve
POINTS = 60  # of a curve
IN_FLIGHT = 1_000  # operations under way at once in the open loop; later ones start late, and their latency says so

Do = Callable[[T, float, bool], Awaitable[None]]  # (operation, its intended start in loop time, whether it counts)


class Latencies:
    """An HDR histogram of durations: 1 µs to 1 h, three significant digits."""

    def __init__(self) -> None:
        self._histogram = HdrHistogram(LOWEST_US, HIGHEST_US, SIGNIFICANT_DIGITS)

    def record(self, seconds: float) -> None:
        self._histogram.record_value(min(max(round(seconds * 1e6), LOWEST_US), HIGHEST_US))

    def add(self, other: "Latencies") -> None:
        self._histogram.add(other._histogram)

    @property
    def count(self) -> int:
        return int(self._histogram.get_total_count())

    def ms(self, percentile: float) -> float:
        """Return the milliseconds at a percentile, to the microsecond."""
        histogram = self._histogram
        us = histogram.get_max_value() if percentile == 100 else histogram.get_value_at_percentile(percentile)
        return float(round(us / 1000, 3))

    def figures(self) -> dict[str, float]:
        """Return those of p50, p90, p99, p99.9 and max, in milliseconds, for which there are SAMPLES enough."""
        return {name: self.ms(of) for name, of in PERCENTILES.items() if self.count >= SAMPLES[name]}

    def curve(self) -> list[tuple[float, float]]:
        """Return points (share of operations that took longer, milliseconds).

        They go from the median to where BEYOND operations took longer still.
        """
        smallest = BEYOND / max(self.count, 1)
        if smallest > 0.5:
            return []
        shares = {0.5 * (smallest / 0.5) ** (step / (POINTS - 1)): None for step in range(POINTS)}
        return [(share, self.ms(100 * (1 - share))) for share in shares]

    def encoded(self) -> str:
        """Return HdrHistogram's own compressed form, base64, which other tools read and merge."""
        return str(self._histogram.encode().decode())

    @classmethod
    def decoded(cls, text: str) -> "Latencies":
        latencies = cls()
        latencies._histogram.decode_and_add(text.encode())
        return latencies


@dataclass
class Offered:
    """The load that was offered while it counted. `late_s`: how much later than intended the last operation began."""

    operations: int = 0
    seconds: float = 0
    late_s: float = 0


def measuring_loop() -> asyncio.AbstractEventLoop:
    """Return a new event loop, as web processes have it, whose `time()` is that of the monotonic clock.

    (uvloop's own is in whole milliseconds, rounded down: what ends would seem to end half a millisecond too early.)
    """
    loop = event_loop()
    loop.time = time.monotonic  # type: ignore[method-assign]
    return loop


async def open_loop(
    operations: Iterator[T], do: Do[T], *, rate: float, burn_in_s: float, seconds: float, in_flight: int = IN_FLIGHT
) -> Offered:
    """Start an operation every 1 / rate seconds, for the burn-in and then for `seconds`; return when all have ended."""
    loop = asyncio.get_running_loop()
    slots = asyncio.Semaphore(in_flight)
    offered = Offered()

    async def one(operation: T, due: float, counts: bool) -> None:
        try:
            await do(operation, due, counts)
        finally:
            slots.release()

    start = loop.time()
    async with asyncio.TaskGroup() as under_way:
        for number in range(round((burn_in_s + seconds) * rate)):
            due = start + number / rate
            if (pause := due - loop.time()) > 0:
                await asyncio.sleep(pause)
            await slots.acquire()
            counts = number >= round(burn_in_s * rate)
            offered.operations += counts
            offered.late_s = max(0.0, loop.time() - due)
            under_way.create_task(one(next(operations), due, counts))
    offered.seconds = loop.time() - start - burn_in_s
    return offered


async def closed_loop(operations: Iterator[T], do: Do[T], *, clients: int, burn_in_s: float, seconds: float) -> Offered:
    """Run `clients` that each wait for an answer before the next operation. What began in time counts."""
    loop = asyncio.get_running_loop()
    offered = Offered()
    start = loop.time()
    counted_from, end = start + burn_in_s, start + burn_in_s + seconds

    async def client() -> None:
        while (now := loop.time()) < end:
            offered.operations += now >= counted_from
            await do(next(operations), now, now >= counted_from)

    async with asyncio.TaskGroup() as under_way:
        for _ in range(clients):
            under_way.create_task(client())
    offered.seconds = loop.time() - counted_from
    return offered
