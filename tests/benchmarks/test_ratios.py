"""Ratios and their intervals, from numbers whose ratio is known."""

from random import Random

import pytest

from benchmarks.targets.base import p99_ms, ratio


def test_a_ratio_is_of_the_medians_and_its_interval_holds_the_truth() -> None:
    draw = Random(2)
    b = [draw.uniform(0.9, 1.1) for _ in range(15)]
    a = [draw.uniform(1.35, 1.65) for _ in range(15)]
    of = ratio(a, b)
    assert of.low < of.value < of.high
    assert of.low < 1.5 < of.high
    assert of.high / of.low < 1.25
    assert ratio(a, b) == of, "the same figures give the same interval"
    assert ratio(a, a) == (1, 1, 1), "both sides of a turn are drawn together"
    assert of.times(2) == (2 * of.value, 2 * of.low, 2 * of.high)


def test_an_interval_is_narrower_with_more_turns() -> None:
    draw = Random(3)

    def width(turns: int) -> float:
        of = ratio([draw.gauss(2, 0.3) for _ in range(turns)], [draw.gauss(1, 0.15) for _ in range(turns)])
        return of.high - of.low

    assert width(400) < width(15) / 2


def test_of_a_hundred_the_99th_counts() -> None:
    assert p99_ms([0.001 * n for n in range(1, 101)]) == pytest.approx(99)
    of = ratio([0.002] * 98 + [0.004] * 2, [0.001] * 100, p99_ms)
    assert of.value == 4
    assert of.low == 2, "two slow ones of a hundred may as well have been one"
