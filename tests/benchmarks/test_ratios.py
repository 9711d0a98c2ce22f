"""Ratios and their intervals, from numbers whose ratio is known."""

from random import Random

import pytest

from benchmarks.targets.base import Ratio, p99_ms, ratio
from benchmarks.targets.throughput import to_the_most


def ends(of: Ratio) -> tuple[float, float]:
    assert of.low is not None
    assert of.high is not None
    return of.low, of.high


def test_a_ratio_is_of_the_medians_and_its_interval_holds_the_truth() -> None:
    draw = Random(2)
    b = [draw.uniform(0.9, 1.1) for _ in range(15)]
    a = [draw.uniform(1.35, 1.65) for _ in range(15)]
    of = ratio(a, b)
    low, high = ends(of)
    assert low < of.value < high
    assert low < 1.5 < high
    assert high / low < 1.25
    assert ratio(a, b) == of, "the same figures give the same interval"
    assert ratio(a, a) == (1, 1, 1), "both sides of a turn are drawn together"


def test_what_is_divided_by_a_measured_figure_has_its_spread_too() -> None:
    one, two = [2.0] * 15, [1.25] * 15
    assert to_the_most(one, two, [1.6] * 15) == (1, 1, 1)
    low, high = ends(to_the_most(one, two, [1.6 + 0.02 * n for n in range(-7, 8)]))
    assert low < 1 < high


def test_an_interval_is_narrower_with_more_turns() -> None:
    draw = Random(3)

    def width(turns: int) -> float:
        low, high = ends(ratio([draw.gauss(2, 0.3) for _ in range(turns)], [draw.gauss(1, 0.15) for _ in range(turns)]))
        return high - low

    assert width(400) < width(15) / 2


def test_too_few_turns_have_no_interval() -> None:
    assert ratio([2.0, 2.1, 1.9] * 3, [1.0] * 9) == (2.0, None, None)
    assert ratio([2.0] * 10, [1.0] * 10) == (2, 2, 2)
    assert ratio([2.0] * 18, [1.0] * 18, together=2) == (2.0, None, None), "nine groups"


def test_what_is_slow_together_is_drawn_together() -> None:
    """Ten blocks of 100, each as slow as its minute: a thousand figures are no more than ten."""
    draw = Random(4)
    slow = [draw.uniform(0.8, 1.2) for _ in range(10)]
    figures = [minute * draw.uniform(0.99, 1.01) for minute in slow for _ in range(100)]
    apart, together = (ends(ratio(figures, [1.0] * 1_000, together=n)) for n in (1, 100))
    assert apart[1] - apart[0] < (together[1] - together[0]) / 2


def test_of_a_hundred_the_99th_counts() -> None:
    assert p99_ms([0.001 * n for n in range(1, 101)]) == pytest.approx(99)
    of = ratio([0.002] * 98 + [0.004] * 2, [0.001] * 100, p99_ms)
    assert of.value == 4
    assert of.low == 2, "two slow ones of a hundred may as well have been one"
