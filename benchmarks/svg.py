"""Where lines stand on a plot. `templates/bench/plot.html` draws them as inline SVG, with a tooltip on every point."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

LEFT, RIGHT, TOP, BOTTOM = 64, 624, 16, 312  # edges of the plotted area, of a picture of 640 by 360


@dataclass(frozen=True)
class Line:
    """One series. `style` is the number of its colour and shape in the page's style."""

    title: str
    points: Sequence[tuple[float, float]]
    style: int
    dashed: bool = False


@dataclass(frozen=True)
class Axis:
    """From 0, or over whole decades. `start` and `end`: where `low` and `high` are."""

    title: str
    log: bool
    low: float
    high: float
    start: float
    end: float

    def at(self, value: float) -> float:
        """Its place on the picture."""
        if self.log:
            decades = math.log10(self.high / self.low)
            share = math.log10(max(value, self.low) / self.low) / decades
        else:
            share = value / self.high
        return round(self.start + share * (self.end - self.start), 1)

    def ticks(self) -> list[float]:
        if self.log:
            return [self.low * 10**power for power in range(round(math.log10(self.high / self.low)) + 1)]
        step = 10 ** math.floor(math.log10(self.high))
        step = step / 2 if self.high / step < 4 else step
        return [number * step for number in range(math.floor(self.high / step) + 1)]


def axis(title: str, values: Sequence[float], log: bool, start: float, end: float) -> Axis:
    """An axis that holds the values."""
    if not log:
        return Axis(title, False, 0.0, max(*values, 1.0), start, end)
    positive = [value for value in values if value > 0] or [1.0]
    low, high = 10.0 ** math.floor(math.log10(min(positive))), 10.0 ** math.ceil(math.log10(max(positive)))
    return Axis(title, True, low, high if high > low else low * 10, start, end)


@dataclass(frozen=True)
class Plot:
    title: str
    lines: Sequence[Line]
    x: Axis
    y: Axis
    note: str


def plot(title: str, lines: Sequence[Line], x: str, y: str, note: str = "", *, log: bool = True) -> Plot | None:
    """None without points."""
    drawn = [line for line in lines if line.points]
    if not drawn:
        return None
    across, up = zip(*(point for line in drawn for point in line.points), strict=True)
    return Plot(title, drawn, axis(x, across, log, LEFT, RIGHT), axis(y, up, log, BOTTOM, TOP), note)
