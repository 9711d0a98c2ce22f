"""The result of an experiment, as it is stored, drawn and written down."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from statistics import quantiles
from typing import TypeVar

from pydantic import BaseModel, ConfigDict

import templates

MEASURED = Path(templates.__file__).parent / "walkthrough" / "measured.json"


K = TypeVar("K")


class _Frozen(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


@dataclass(frozen=True)
class Sample:
    """A figure of several runs: the median, and the two figures between which the middle half of the runs lies."""

    median: float
    low: float
    high: float

    @classmethod
    def of(cls, figures: Sequence[float]) -> "Sample":
        if len(figures) == 1:
            return cls(figures[0], figures[0], figures[0])
        low, middle, high = quantiles(figures, n=4, method="inclusive")
        return cls(middle, low, high)

    def __str__(self) -> str:
        return f"{written(self.median)} ({written(self.low)} to {written(self.high)})"

    def bar(self, label: str, series: int = 0) -> "Bar":
        return Bar(label=label, value=self.median, series=series, low=self.low, high=self.high)


def samples(runs: Mapping[K, Sequence[float]]) -> dict[K, Sample]:
    return {name: Sample.of(figures) for name, figures in runs.items()}


class Bar(_Frozen):
    """A bar of a chart.

    `series`: its place among the chart's series. `low`, `high`: where the middle half of runs lies.
    """

    label: str
    value: float
    series: int = 0
    low: float | None = None
    high: float | None = None


class Chart(_Frozen):
    title: str
    unit: str
    bars: tuple[Bar, ...]
    series: tuple[str, ...] = ()  # names; none when there is only one


class Check(_Frozen):
    """A fact that does not depend on the machine. `as_told`: it is what the chapter says."""

    what: str
    found: str
    as_told: bool


class Result(_Frozen):
    """The findings of a run.

    `pain`: what the phase before costs. `sentence`: what the figures say, also when the chapter says something else.
    `meaningless`: the times were taken on stand-ins.
    """

    sentence: str
    pain: str = ""
    charts: tuple[Chart, ...] = ()
    checks: tuple[Check, ...] = ()
    meaningless: bool = False


class Recorded(_Frozen):
    """A run that is printed with the text. `where`: machine and servers, `when`: the day."""

    where: str
    when: str
    values: dict[str, int]
    result: Result


@cache
def recorded(slug: str) -> Recorded:
    """Return the recorded run of an experiment. Raises KeyError."""
    measured = json.loads(MEASURED.read_text("utf-8"))
    origin = {name: measured[name] for name in ("where", "when")}  # unless it was recorded by itself
    return Recorded(**origin | measured["results"][slug])


def figure(bar: Bar) -> str:
    """Return a bar's figure as text: `2.40`, or with the middle half of several runs `2.40 (2.10 to 2.90)`."""
    if bar.low is None or bar.high is None:
        return written(bar.value)
    return str(Sample(bar.value, bar.low, bar.high))


def written(value: float) -> str:
    """Return a number with three figures at most, so that columns can be compared: 0.42, 4.2, 42, 4,200."""
    if value >= 100 or value == int(value):
        return f"{value:,.0f}"
    return f"{value:.1f}" if value >= 10 else f"{value:.2f}"


ALIKE = 1.1  # medians that are closer are not told apart, however little each run differs from the next


def differ(one: Sample, other: Sample) -> bool:
    """Return whether the middle halves of the runs lie apart, and the medians too."""
    apart = one.low > other.high or other.low > one.high
    return apart and max(one.median, other.median) > ALIKE * min(one.median, other.median)


def compared(one: Sample, other: Sample, much: str = "long") -> str:
    """Say how many times as long `one` took as `other`, or that no difference is clear."""
    return times(one.median, other.median, much) if differ(one, other) else "no clear difference"


def times(more: float, less: float, much: str = "long") -> str:
    """Say how many times as `much` it is, in words that do not claim more than the figures."""
    if more <= 0 or less <= 0:
        return f"not comparably {much}"
    ratio = more / less
    if 1 / ALIKE <= ratio <= ALIKE:
        return f"about as {much}"
    if ratio < 1:
        return f"{max(1, round(ratio * 100))} % as {much}"
    return f"{ratio:,.0f} times as {much}" if ratio >= 10 else f"{ratio:.1f} times as {much}"
