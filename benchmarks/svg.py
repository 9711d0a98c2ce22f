"""Plots as inline SVG: lines over linear or logarithmic axes, a tooltip on every point, colours of the page's style."""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from html import escape

WIDTH, HEIGHT = 640, 360
LEFT, RIGHT, TOP, BOTTOM = 64, 16, 16, 48
MARKS = ("circle", "square", "diamond", "cross")  # shapes beside colours: a print has none


@dataclass(frozen=True)
class Line:
    """One series. `style` is the number of its colour and shape in the page's style."""

    title: str
    points: Sequence[tuple[float, float]]
    style: int
    dashed: bool = False


@dataclass(frozen=True)
class Axis:
    title: str
    log: bool
    low: float
    high: float

    def place(self, value: float) -> float:
        """0 at the low end, 1 at the high end."""
        if self.log:
            value, low, high = math.log10(max(value, self.low)), math.log10(self.low), math.log10(self.high)
        else:
            low, high = self.low, self.high
        return (value - low) / (high - low) if high > low else 0.5

    def ticks(self) -> list[float]:
        if self.log:
            powers = range(math.floor(math.log10(self.low)), math.ceil(math.log10(self.high)) + 1)
            return [10.0**p for p in powers if self.low <= 10.0**p * 1.0001 and 10.0**p <= self.high * 1.0001]
        step = 10 ** math.floor(math.log10(max(self.high - self.low, 1e-9)))
        step = step / 2 if (self.high - self.low) / step < 4 else step
        return [n * step for n in range(math.ceil(self.low / step), math.floor(self.high / step) + 1)]


def axis(title: str, values: Sequence[float], log: bool) -> Axis:
    """An axis that holds the values; a logarithmic one reaches whole decades."""
    if log:
        positive = [value for value in values if value > 0] or [1.0]
        low, high = 10 ** math.floor(math.log10(min(positive))), 10 ** math.ceil(math.log10(max(positive)))
        return Axis(title, True, low, high if high > low else low * 10)
    return Axis(title, False, min(0.0, *values, 0.0), max(*values, 1.0))


def number(value: float) -> str:
    return f"{value:,.0f}" if value >= 100 else f"{value:.3g}"


def plot(
    title: str,
    lines: Sequence[Line],
    x_title: str,
    y_title: str,
    *,
    x_log: bool = True,
    y_log: bool = True,
    show_x: Callable[[float], str] = number,
) -> str:
    """An <svg> with its title as text for those who do not see it. Without points: an empty text."""
    values = [point for line in lines for point in line.points]
    if not values:
        return ""
    x, y = axis(x_title, [v for v, _ in values], x_log), axis(y_title, [v for _, v in values], y_log)
    parts = [
        f'<svg viewBox="0 0 {WIDTH} {HEIGHT}" role="img" aria-label="{escape(title)}" class="plot">',
        f"<title>{escape(title)}</title>",
        *_grid(x, y, show_x),
    ]
    for line in lines:
        places = [(_across(x, a), _down(y, b), a, b) for a, b in line.points]
        path = " ".join(f"{across:.1f},{down:.1f}" for across, down, _, _ in places)
        dashed = ' stroke-dasharray="6 4"' if line.dashed else ""
        parts.append(f'<g class="s{line.style}"><polyline points="{path}" fill="none"{dashed}/>')
        for across, down, a, b in places:
            tip = f"{line.title}: {x_title} {show_x(a)}, {y_title} {number(b)}"
            parts.append(f"<g><title>{escape(tip)}</title>{_mark(line.style, across, down)}</g>")
        parts.append("</g>")
    return "".join(parts) + "</svg>"


def legend(lines: Sequence[Line]) -> str:
    items = (
        f'<li class="s{line.style}"><svg viewBox="0 0 24 12" aria-hidden="true">'
        f'<line x1="0" y1="6" x2="24" y2="6"{" stroke-dasharray=" + chr(34) + "6 4" + chr(34) if line.dashed else ""}/>'
        f"{_mark(line.style, 12, 6)}</svg> {escape(line.title)}</li>"
        for line in lines
        if line.points
    )
    return f'<ul class="legend">{"".join(items)}</ul>'


def _across(x: Axis, value: float) -> float:
    return LEFT + x.place(value) * (WIDTH - LEFT - RIGHT)


def _down(y: Axis, value: float) -> float:
    return HEIGHT - BOTTOM - y.place(value) * (HEIGHT - TOP - BOTTOM)


def _grid(x: Axis, y: Axis, show_x: Callable[[float], str]) -> list[str]:
    bottom, right = HEIGHT - BOTTOM, WIDTH - RIGHT
    parts = []
    for tick in x.ticks():
        at = _across(x, tick)
        parts.append(f'<line class="grid" x1="{at:.1f}" y1="{TOP}" x2="{at:.1f}" y2="{bottom}"/>')
        parts.append(f'<text x="{at:.1f}" y="{bottom + 18}" text-anchor="middle">{escape(show_x(tick))}</text>')
    for tick in y.ticks():
        at = _down(y, tick)
        parts.append(f'<line class="grid" x1="{LEFT}" y1="{at:.1f}" x2="{right}" y2="{at:.1f}"/>')
        parts.append(f'<text x="{LEFT - 6}" y="{at + 4:.1f}" text-anchor="end">{escape(number(tick))}</text>')
    middle, height = (LEFT + right) / 2, (TOP + bottom) / 2
    parts.append(f'<text x="{middle}" y="{HEIGHT - 8}" text-anchor="middle">{escape(x.title)}</text>')
    parts.append(f'<text transform="translate(14 {height}) rotate(-90)" text-anchor="middle">{escape(y.title)}</text>')
    return parts


def _mark(style: int, x: float, y: float) -> str:
    match MARKS[style % len(MARKS)]:
        case "circle":
            return f'<circle cx="{x:.1f}" cy="{y:.1f}" r="3.5"/>'
        case "square":
            return f'<rect x="{x - 3:.1f}" y="{y - 3:.1f}" width="6" height="6"/>'
        case "diamond":
            return f'<path d="M{x:.1f} {y - 4.5:.1f}l4.5 4.5-4.5 4.5-4.5-4.5z"/>'
        case _:
            return f'<path d="M{x - 4:.1f} {y - 1:.1f}h3v-3h2v3h3v2h-3v3h-2v-3h-3z"/>'
