"""The measuring is measured: known latencies come out, and a stall is charged to everybody whom it keeps waiting."""

import asyncio
import time
from itertools import count
from pathlib import Path

import pytest

from benchmarks import measure
from benchmarks.measure import Latencies
from tests.benchmarks.virtual import run


class Server:
    """Serves one at a time, each in `takes_s`, and stalls once, at operation `stalls_at`, for a second."""

    def __init__(self, takes_s: float, stalls_at: int) -> None:
        self.latencies = Latencies()
        self._takes_s, self._stalls_at = takes_s, stalls_at
        self._turn = asyncio.Lock()

    async def do(self, number: int, intended: float, counts: bool) -> None:
        async with self._turn:
            await asyncio.sleep(1.0 if number == self._stalls_at else self._takes_s)
        if counts:
            self.latencies.record(asyncio.get_running_loop().time() - intended)


def test_open_loop_charges_a_stall_to_everybody_who_waits_for_it() -> None:
    async def measured() -> Latencies:
        server = Server(0.001, stalls_at=500)
        offered = await measure.open_loop(count(), server.do, rate=100, burn_in_s=1, seconds=9)
        assert offered.operations == server.latencies.count == 900
        return server.latencies

    latencies = run(measured())
    assert latencies.ms(50) == pytest.approx(1, rel=0.01)
    # 100 operations came during the stall and waited from nothing to a second; the queue then took 110 ms more to
    # empty: of 900, more than one in ten waited for longer than 50 ms.
    assert latencies.ms(99) == pytest.approx(930, rel=0.05)
    assert latencies.ms(90) > 50
    assert latencies.ms(100) == pytest.approx(1000, rel=0.01)


def test_closed_loop_omits_who_would_have_come() -> None:
    """The same stall, and nobody but one client notices: why the open loop is the default."""

    async def measured() -> Latencies:
        server = Server(0.001, stalls_at=500)
        await measure.closed_loop(count(), server.do, clients=1, burn_in_s=0, seconds=9)
        return server.latencies

    latencies = run(measured())
    assert latencies.ms(99.9) == pytest.approx(1, rel=0.01)
    assert latencies.ms(100) == pytest.approx(1000, rel=0.01)


def test_percentiles_of_a_known_distribution() -> None:
    latencies = Latencies()
    for tenth in range(1, 10_001):
        latencies.record(tenth / 10_000)
    figures = latencies.figures()
    assert figures == {
        "p50": pytest.approx(500, rel=0.002),
        "p90": pytest.approx(900, rel=0.002),
        "p99": pytest.approx(990, rel=0.002),
        "p99.9": pytest.approx(999, rel=0.002),
        "max": pytest.approx(1000, rel=0.002),
    }
    assert Latencies.decoded(latencies.encoded()).figures() == figures
    assert Latencies().figures() == {}
    longer = [ms for _, ms in latencies.curve()]
    assert longer == sorted(longer)
    assert longer[-1] == pytest.approx(999, rel=0.002), "ten took longer"


def test_a_curve_ends_where_too_few_took_longer() -> None:
    latencies = Latencies()
    for _ in range(19):
        latencies.record(0.001)
    assert latencies.curve() == [], "fewer than ten are slower than the median"
    latencies.record(0.001)
    assert [share for share, _ in latencies.curve()] == [0.5]


def test_what_is_merged_counts_once_each() -> None:
    one, two = Latencies(), Latencies()
    one.record(0.001)
    two.record(1)
    one.add(two)
    assert one.count == 2
    assert one.ms(100) == pytest.approx(1000, rel=0.002)


def test_open_loop_is_bounded_and_says_how_late_it_was() -> None:
    async def measured() -> measure.Offered:
        async def slow(number: int, intended: float, counts: bool) -> None:
            await asyncio.sleep(1)

        return await measure.open_loop(count(), slow, rate=100, burn_in_s=0, seconds=1, in_flight=10)

    assert run(measured()).late_s == pytest.approx(8.1, abs=0.2)


def test_the_clock_of_the_loop_that_measures_is_no_coarser_than_the_figures() -> None:
    """uvloop's own is in whole milliseconds: a page of 2.9 ms would count as one of 2."""

    async def looked() -> list[float]:
        return [time.monotonic(), asyncio.get_running_loop().time(), time.monotonic()]

    with asyncio.Runner(loop_factory=measure.measuring_loop) as runner:
        looks = runner.run(looked())
    assert looks == sorted(looks)


def test_no_measurement_runs_on_the_loop_of_a_web_process() -> None:
    files = Path(measure.__file__).parent.rglob("*.py")
    assert [path.name for path in files if "app.loop" in path.read_text()] == ["measure.py"]
