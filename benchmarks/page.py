"""A report as one page that needs nothing else: plots inside, both colour schemes, no script, no network."""

import json
from collections.abc import Iterator

from jinja2 import Environment, PackageLoader, StrictUndefined

from benchmarks.report import KINDS, Comparison, Curves, Report
from benchmarks.svg import Line, Plot, plot
from benchmarks.tables import MEANINGLESS, TITLES, grids, lead, number
from phases import PHASES

STYLES = {phase.slug: 1 + number % 6 for number, phase in enumerate(PHASES)}  # as many as the page's style has
RAW_STYLES = {"array": 5, "raw_prepend": 6, "plain_in": 6}  # other lines that are no phase's: 0
HEADINGS = {
    "compare": "Each phase, one workload",
    "fanout": "Delivering one status",
    "read": "Reading one page",
    "targets": "Promised ratios",
    "units": "What one of each costs",
    "plan": "Which phase for this load",
}
FACTS = {
    "command", "made_at", "commit", "settings", "machine", "servers", "packages", "config", "write_concern", "workload",
    "graph",
}  # fmt: skip


def page(report: Report) -> str:
    environment = Environment(loader=PackageLoader("templates", "bench"), autoescape=True, undefined=StrictUndefined)
    environment.filters["number"] = number
    facts = report.model_dump(mode="json", by_alias=True, include=FACTS)
    return environment.get_template("report.html").render(
        title=f"Feedlab: {HEADINGS[report.kind]}",
        meaningless=MEANINGLESS if report.meaningless else "",
        lead=lead(report),
        plots=list(filter(None, plots(report))),
        tables=grids(report),
        facts=[
            (name.replace("_", " "), value if isinstance(value, str) else json.dumps(value, ensure_ascii=False))
            for name, value in facts.items()
        ],
    )


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
            yield plot(HEADINGS[report.kind], lines, report.x, "p50, ms")


def _of_comparison(report: Comparison) -> Iterator[Plot | None]:
    for kind in KINDS:
        lines = [
            Line(slug, [(1 / share, ms) for share, ms in summary.curves.get(kind, ())], STYLES.get(slug, 0))
            for slug, summary in report.phases.items()
        ]
        yield plot(TITLES[kind], lines, "one in", "ms", "Read: one operation in x took longer than y.")
    depth = [
        Line(cell.phase, [(s, pending) for s, _, pending in cell.depths], STYLES.get(cell.phase, 0))
        for cell in report.cells
        if cell.round == 1 and any(pending for _, _, pending in cell.depths)
    ]
    yield plot("statuses not yet delivered, first round", depth, "s", "statuses", log=False)
