"""A report as one page that needs nothing else: plots inside, both colour schemes, no script, no network."""

import json
from dataclasses import dataclass
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup

from benchmarks import svg
from benchmarks.compare import KINDS
from benchmarks.report import MEANINGLESS, TITLES, Grid, grids, lead
from benchmarks.svg import Line

STYLES = {"query": 1, "push": 2, "queue": 3, "cache": 4}
CURVE_STYLES = {"array": 5, "raw": 0, "raw_insert": 0, "raw_prepend": 6, "plain_in": 6, "cache_0.1": 4, "cache_0.01": 4}
HEADINGS = {
    "compare": "Four phases, one workload",
    "fanout": "Delivering one status",
    "read": "Reading one page",
    "targets": "Promised ratios",
    "units": "What one of each costs",
    "plan": "Which phase for this load",
}


@dataclass(frozen=True)
class Figure:
    title: str
    svg: Markup
    legend: Markup
    note: str = ""


def page(report: dict[str, Any]) -> str:
    environment = Environment(loader=PackageLoader("templates", "bench"), autoescape=True, undefined=StrictUndefined)
    tables: list[Grid] = grids(report)
    return environment.get_template("report.html").render(
        title=f"Feedlab: {HEADINGS[report['kind']]}",
        meaningless=MEANINGLESS if report["meaningless"] else "",
        lead=lead(report),
        plots=[figure for figure in figures(report) if figure.svg],
        tables=tables,
        facts=facts(report),
    )


def facts(report: dict[str, Any]) -> list[tuple[str, str]]:
    return [
        (name.replace("_", " "), value if isinstance(value, str) else json.dumps(value, ensure_ascii=False))
        for name, value in report.items()
        if name
        in (
            "command",
            "made_at",
            "commit",
            "settings",
            "machine",
            "servers",
            "packages",
            "config",
            "write_concern",
            "graph",
        )
        or (name == "workload" and isinstance(value, dict))
    ]


def figures(report: dict[str, Any]) -> list[Figure]:
    if report["kind"] == "compare":
        return _of_comparison(report)
    return [_of_curves(report)] if "series" in report else []


def _of_curves(report: dict[str, Any]) -> Figure:
    lines = [
        Line(
            series["title"],
            [(x, p50) for x, p50, _ in series["points"]],
            STYLES.get(series["name"], CURVE_STYLES.get(series["name"], 0)),
            dashed=series["name"] not in STYLES,
        )
        for series in report["series"]
    ]
    return _figure(HEADINGS[report["kind"]], lines, report["x"], "p50, ms")


def _figure(title: str, lines: list[Line], x: str, y: str, note: str = "", **options: Any) -> Figure:
    return Figure(title, Markup(svg.plot(title, lines, x, y, **options)), Markup(svg.legend(lines)), note)


def _of_comparison(report: dict[str, Any]) -> list[Figure]:
    found = []
    for kind in KINDS:
        lines = [
            Line(slug, [(1 / share, ms) for share, ms in phase["curves"].get(kind, ())], STYLES.get(slug, 0))
            for slug, phase in report["phases"].items()
        ]
        note = "Read: one operation in x took longer than y."
        found.append(_figure(TITLES[kind], lines, "one in", "ms", note))
    depth = [
        Line(
            cell["phase"],
            [(row[0], row[2]) for row in cell["depths"]["rows"]],
            STYLES.get(cell["phase"], 0),
        )
        for cell in report["cells"]
        if cell["round"] == 1 and any(row[2] for row in cell["depths"]["rows"])
    ]
    found.append(_figure("statuses not yet delivered, first round", depth, "s", "statuses", x_log=False, y_log=False))
    return found
