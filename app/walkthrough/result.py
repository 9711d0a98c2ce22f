"""What an experiment found, as it is stored, drawn and written down."""

import json
from functools import cache
from pathlib import Path

from pydantic import BaseModel, ConfigDict

import templates

MEASURED = Path(templates.__file__).parent / "walkthrough" / "measured.json"


class _Frozen(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class Bar(_Frozen):
    """`series`: which of the chart's series it belongs to."""

    label: str
    value: float
    series: int = 0


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
    """`sentence`: what the figures say, also when they say something else than the chapter.

    `meaningless`: the times were taken on stand-ins.
    """

    sentence: str
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


def written(value: float) -> str:
    """Three figures at most, so that columns can be compared: 0.42, 4.2, 42, 4,200."""
    if value >= 100 or value == int(value):
        return f"{value:,.0f}"
    return f"{value:.1f}" if value >= 10 else f"{value:.2f}"


def times(more: float, less: float, much: str = "long") -> str:
    """How many times as `much`, in words that do not claim more than the figures."""
    if more <= 0 or less <= 0:
        return f"not comparably {much}"
    ratio = more / less
    if 0.8 <= ratio <= 1.25:
        return f"about as {much}"
    if ratio < 1:
        return f"only {max(1, round(ratio * 100))} % as {much}"
    return f"{ratio:,.0f} times as {much}" if ratio >= 10 else f"{ratio:.1f} times as {much}"
