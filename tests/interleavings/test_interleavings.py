"""The races that are short; `make prove` runs all of them."""

import asyncio
from collections.abc import Awaitable, Callable

import pytest

from tests.interleavings.races import RACES
from tests.interleavings.scheduler import Explorer, Schedule, Touch, Violation, point
from tests.interleavings.stage import Race

FAST = [race for race in RACES if race.fast]


@pytest.mark.parametrize("race", FAST, ids=[race.name for race in FAST])
def test_every_order_gives_the_same_timeline(race: Race) -> None:
    assert asyncio.run(race.run(limit=20_000)).complete


class Counter:
    """A store of one number; `bump` reads and writes it in two commands, or in one."""

    def __init__(self) -> None:
        self.number = 0

    async def lost(self) -> None:
        await point("read", Touch("n"))
        found = self.number
        await point("write", Touch("n", write=True))
        self.number = found + 1

    async def safe(self) -> None:
        await point("add", Touch("n", write=True))
        self.number += 1

    async def elsewhere(self) -> None:
        await asyncio.gather(*(point(f"look {n}", Touch("m")) for n in range(3)))


def _explore(
    *acts: Callable[[Counter], Awaitable[None]], expected: set[int], crashing: tuple[str, ...] = ()
) -> tuple[int, int, set[int]]:
    counter, seen = Counter(), set[int]()

    def begin() -> Schedule:
        counter.number = 0
        schedule = Schedule(lambda: None)
        for n, act in enumerate(acts):
            schedule.start(f"a{n}", act(counter))  # type: ignore[arg-type]
        return schedule

    async def check(schedule: Schedule, ends: object) -> None:
        seen.add(counter.number)
        if counter.number not in expected:
            raise Violation(f"it is {counter.number}", schedule.order)

    count = asyncio.run(Explorer(begin, check, crashing, 1_000).run())
    return count.schedules, count.pruned, seen


def test_a_lost_update_is_found() -> None:
    with pytest.raises(Violation, match=r"it is 1\n   1 a0: read\n   2 a1: read\n   3 a0: write\n   4 a1: write"):
        _explore(Counter.lost, Counter.lost, expected={2})


def test_every_order_is_run_once() -> None:
    assert _explore(Counter.lost, Counter.lost, expected={1, 2}) == (4, 0, {1, 2})  # 6, but two pairs are equivalent
    assert _explore(Counter.safe, Counter.safe, Counter.safe, expected={3}) == (6, 0, {3})


def test_what_nobody_notices_is_run_in_one_order() -> None:
    assert _explore(Counter.elsewhere, Counter.elsewhere, Counter.safe, expected={1}) == (1, 0, {1})


def test_an_actor_dies_after_each_of_its_writes() -> None:
    async def twice(counter: Counter) -> None:
        await counter.safe()
        await counter.safe()

    assert _explore(twice, expected={1, 2}, crashing=("a0",)) == (2, 0, {1, 2})
