"""What an experiment found, as it is stored, drawn and written down."""

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
    """What several runs took: the median, and between which two figures the middle half of them lies."""

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
    """`series`: which of the chart's series it belongs to. `low`, `high`: the middle half of the runs, of several."""

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
    """Something that is so or not, whatever the machine. `as_told`: the chapter said so."""

    what: str
    found: str
    as_told: bool


class Result(_Frozen):
    """`pain`: what the phase before costs. `sentence`: what the figures say, also when they say something else than the
    chapter. `meaningless`: the times were taken on stand-ins.
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
    """Raises KeyError."""
    measured = json.loads(MEASURED.read_text("utf-8"))
    origin = {name: measured[name] for name in ("where", "when")}  # unless it was recorded by itself
    return Recorded(**origin | measured["results"][slug])


def figure(bar: Bar) -> str:
    """`2.40`, of one run; of several with the middle half of them: `2.40 (2.10 to 2.90)`."""
    if bar.low is None or bar.high is None:
        return written(bar.value)
    return str(Sample(bar.value, bar.low, bar.high))


def written(value: float) -> str:
    """Three figures at most, so that columns can be compared: 0.42, 4.2, 42, 4,200."""
    if value >= 100 or value == int(value):
        return f"{value:,.0f}"
    return f"{value:.1f}" if value >= 10 else f"{value:.2f}"


ALIKE = 1.1  # medians that are closer are not told apart, however little each run differs from the next


def differ(one: Sample, other: Sample) -> bool:
    """Whether the middle halves of the runs lie apart, and the medians too."""
    apart = one.low > other.high or other.low > one.high
    return apart and max(one.median, other.median) > ALIKE * min(one.median, other.median)


def compared(one: Sample, other: Sample, much: str = "long") -> str:
    """What `one` took against `other`: how many times as long, or that no difference is clear."""
    return times(one.median, other.median, much) if differ(one, other) else "no clear difference"


def times(more: float, less: float, much: str = "long") -> str:
    """How many times as `much`, in words that do not claim more than the figures."""
    if more <= 0 or less <= 0:
        return f"not comparably {much}"
    ratio = more / less
    if 1 / ALIKE <= ratio <= ALIKE:
        return f"about as {much}"
    if ratio < 1:
        return f"{max(1, round(ratio * 100))} % as {much}"
    return f"{ratio:,.0f} times as {much}" if ratio >= 10 else f"{ratio:.1f} times as {much}"
