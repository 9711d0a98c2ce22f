"""A report as one page that needs nothing else: plots inside, both colour schemes, no script, no network.

`templates/bench/plot.html` draws the plots as inline SVG, with a tooltip on every point.
"""

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined

from benchmarks.report import KINDS, Backlog, Climb, Comparison, Crossover, Curves, HttpReport, MessagesReport, Report
from benchmarks.tables import MEANINGLESS, grids, lead, says
from benchmarks.verdict import at_once, number, of_steps, way_of
from phases import PHASES

LEFT, RIGHT, TOP, BOTTOM = 88, 608, 16, 312  # edges of the plotted area, of a picture of 640 by 340
STYLES = {phase.slug: 1 + number % 6 for number, phase in enumerate(PHASES)}  # as many as the page's style has
RAW_STYLES = {"array": 5, "raw_prepend": 6, "plain_in": 6}  # other lines that are no phase's: 0
HEADINGS = {
    "compare": "Each phase, one workload",
    "fanout": "Delivering one status",
    "read": "Reading one page",
    "crossover": "Pull, push and the hybrid, by pages for each post",
    "targets": "Promised ratios",
    "http": "Pages over HTTP, up to what is held",
    "backlog": "Pages while statuses wait for their delivery",
    "messages": "A message, from sending to the other's stream",
    "units": "What one of each costs",
    "plan": "Which phase for this load",
}
AXES = {"fanout": "followers of the author", "read": "followees of the reader"}
FACTS = {
    "command", "made_at", "commit", "settings", "machine", "servers", "topology", "packages", "config", "write_concern",
    "workload", "graph",
}  # fmt: skip


@dataclass(frozen=True)
class Line:
    """One series of a plot. `style` is the number of its colour and shape in the page's style."""

    title: str
    points: Sequence[tuple[float, float]]
    style: int
    dashed: bool = False


@dataclass(frozen=True)
class Axis:
    """An axis from 0, or over whole decades. `start` and `end`: where `low` and `high` are on the picture."""

    title: str
    log: bool
    low: float
    high: float
    start: float
    end: float

    @property
    def words(self) -> str:
        return f"{self.title} (logarithmic)" if self.log else self.title

    def at(self, value: float) -> float:
        """Return the place of a value on the picture."""
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
    """Return an axis that holds the values."""
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
    """Return a plot of the lines; None if they have no points."""
    drawn = [line for line in lines if line.points]
    if not drawn:
        return None
    across, up = zip(*(point for line in drawn for point in line.points), strict=True)
    return Plot(title, drawn, axis(x, across, log, LEFT, RIGHT), axis(y, up, log, BOTTOM, TOP), note)


def page(report: Report) -> str:
    environment = Environment(loader=PackageLoader("templates", "bench"), autoescape=True, undefined=StrictUndefined)
    environment.filters["number"] = number
    facts = report.model_dump(mode="json", by_alias=True, include=FACTS)
    return environment.get_template("report.html").render(
        title=f"Feedlab: {HEADINGS[report.kind]}",
        meaningless=MEANINGLESS if report.meaningless else "",
        says=says(report),
        lead=lead(report),
        plots=list(filter(None, plots(report))),
        tables=grids(report),
        facts=[(name.replace("_", " "), said) for name, value in facts.items() if (said := [*_facts(value)])],
    )


def _facts(value: Any) -> Iterator[str]:
    """Yield a line for each fact: names as words, and a nested value by its parts."""
    if isinstance(value, dict):
        for name, each in value.items():
            said = ", ".join(_facts(each))
            if said:
                yield f"{name.replace('_', ' ')}: {said}"
    elif isinstance(value, list):
        yield from (said for each in value for said in _facts(each))
    elif isinstance(value, bool):
        yield "yes" if value else "no"
    elif value not in (None, ""):
        yield f"{value:g}" if isinstance(value, float) else str(value)


def plots(report: Report) -> Iterator[Plot | None]:
    match report:
        case Comparison():
            yield from _of_comparison(report)
        case Curves():
            lines = [
                Line(
                    series.title,
                    [(x, p50) for x, p50, _ in series.points],
                    STYLES.get(series.name.partition("_")[0], RAW_STYLES.get(series.name, 0)),
                    dashed=series.name not in STYLES,
                )
                for series in report.series
            ]
            yield plot(HEADINGS[report.kind], lines, AXES[report.kind], "milliseconds, median")
        case Crossover():
            lines = [
                Line(
                    slug, [(share.pages_per_post, share.used_ms[slug]) for share in report.shares], STYLES.get(slug, 0)
                )
                for slug in report.shares[0].used_ms
            ]
            yield plot(HEADINGS[report.kind], lines, "pages for each post", "processor milliseconds of an operation")
        case HttpReport():
            for web in report.settings.web:
                for who in report.settings.readers:
                    middles = [report.middle(slug, web, who) for slug in report.settings.phases]
                    yield _of_climbs(way_of(web, who), {climb.phase: climb for climb in middles if climb})
        case Backlog():
            for slug in report.settings.phases:
                levels = [each.climb for each in report.levels if each.climb.phase == slug]
                yield _of_climbs(slug, {f"{climb.pending:,} pending": climb for climb in levels})

        case MessagesReport():
            lines = [
                Line(f"{way} {percentile}", points, style, dashed=percentile == "p50")
                for style, (way, steps) in enumerate(of_steps(report).items())
                for percentile in ("p99", "p50")
                if (
                    points := [
                        (one.rate, one.received_ms[percentile]) for one in steps if percentile in one.received_ms
                    ]
                )
            ]
            yield plot(HEADINGS[report.kind], lines, "messages a second", "milliseconds until the other's stream told")


def _of_climbs(title: str, climbs: Mapping[str, Climb]) -> Plot | None:
    lines = []
    for number_of_line, (name, climb) in enumerate(climbs.items()):
        style = STYLES.get(name, number_of_line)
        for percentile in ("p99", "p50"):
            points = sorted(
                (step.rate, step.latency_ms[percentile]) for step in climb.steps if percentile in step.latency_ms
            )
            lines.append(Line(f"{name} {percentile}", points, style, dashed=percentile == "p50"))
    return plot(title, lines, "pages asked for a second", "milliseconds until the page was there")


def _of_comparison(report: Comparison) -> Iterator[Plot | None]:
    for kind, title in KINDS.items():
        lines = [
            Line(slug, [(1 / share, ms) for share, ms in summary.curves.get(kind, ())], STYLES.get(slug, 0))
            for slug, summary in report.phases.items()
            if not at_once(kind, slug)
        ]
        note = "A point at 100 and 20: one operation in 100 took longer than 20 ms."
        yield plot(title, lines, "one operation in …", "… took longer than … milliseconds", note)
    depth = [
        Line(cell.phase, [(s, pending) for s, _, pending in cell.depths], STYLES.get(cell.phase, 0))
        for cell in report.cells
        if cell.round == 1 and any(pending for _, _, pending in cell.depths)
    ]
    yield plot("statuses not yet delivered, first round", depth, "seconds since the start", "statuses", log=False)
