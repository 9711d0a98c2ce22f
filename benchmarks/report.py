"""Reports: progress while it runs, a table on the terminal, JSON, CSV and one self-contained page."""

import csv as csv_format
import json
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import click
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn
from rich.table import Table

from benchmarks import compare
from benchmarks.measure import PERCENTILES

MEANINGLESS = "MEANINGLESS: measured on stand-ins"
WIDTH = 140  # columns, without a terminal
RATIOS = "÷ phase 1 in the same round: median (smallest to largest)"
TITLES = {
    "post": "post acknowledged",
    "read_warm": "read, warm",
    "read_cold": "read, cold",
    "older": "second page",
    "lag": "delivery lag",
}


@contextmanager
def progress() -> Iterator[compare.Progress]:
    """A bar on a terminal, a line at every step elsewhere."""
    console = Console(stderr=True)
    if not console.is_terminal:
        yield _lines()
        return
    columns = (TextColumn("{task.description:<24}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
    with Progress(*columns, console=console) as bars:
        task = bars.add_task("starting", total=None)

        def show(what: str, done: int, total: int) -> None:
            bars.update(task, description=what, completed=done, total=total)

        yield show


def _lines() -> compare.Progress:
    began = time.monotonic()

    def say(what: str, done: int, total: int) -> None:
        click.echo(f"{time.monotonic() - began:6.1f} s  {done}/{total}  {what}", err=True)

    return say


def write(report: dict[str, Any], *, json_file: Path | None, csv: Path | None, html: Path | None) -> None:
    if json_file:
        json_file.write_text(json.dumps(report, indent=1, ensure_ascii=False) + "\n")
    if csv:
        with csv.open("w", newline="") as file:
            writer = csv_format.writer(file)
            writer.writerow(["kind", "phase", "figure", "value", "meaningless"])
            for phase, figure, value in flat(report):
                writer.writerow([report["kind"], phase, figure, value, report["meaningless"]])
    if html:
        from benchmarks.page import page

        html.write_text(page(report))


def flat(report: dict[str, Any]) -> Iterator[tuple[str, str, float]]:
    """(phase, name of the figure, number) of everything that is summed up."""
    for slug, figures in report.get("phases", {}).items():
        for name, value in figures.items():
            if name != "curves":
                yield from ((slug, path, number) for path, number in _numbers(name, value))
    for slug, figures in report.get("ratios", {}).items():
        yield from ((slug, f"ratio.{path}", number) for path, number in _numbers("", figures))


def _numbers(path: str, value: Any) -> Iterator[tuple[str, float]]:
    if isinstance(value, dict):
        for name, inner in value.items():
            yield from _numbers(f"{path}.{name}" if path else name, inner)
    elif isinstance(value, int | float):
        yield path, value


@dataclass(frozen=True)
class Grid:
    """A table, on whatever it is shown."""

    title: str
    columns: list[str]
    rows: list[list[str]]
    note: str = ""


def show(report: dict[str, Any]) -> None:
    """Tables and what they are about, on the terminal."""
    console = Console()
    if not console.is_terminal:
        console = Console(width=WIDTH)
    for grid in grids(report):
        marked = f"{MEANINGLESS}\n" if report["meaningless"] else ""
        table = Table(title=marked + grid.title, title_justify="left")
        for number, column in enumerate(grid.columns):
            table.add_column(column, justify="left" if number == 0 or column in ("what", "figures", "") else "right")
        for row in grid.rows:
            table.add_row(*row)
        console.print(table)
        if grid.note:
            console.print(grid.note)
    console.print(lead(report))


def lead(report: dict[str, Any]) -> str:
    """One paragraph: what was measured."""
    match report["kind"]:
        case "compare":
            return _compare_lead(report)
        case "fanout" | "read":
            exponents = ", ".join(f"{s['name']} {s['exponent']}" for s in report["series"] if s["exponent"] is not None)
            return f"Time grows with {report['x']} to the power of: {exponents}."
        case "targets":
            judged = [row["met"] for row in report["rows"] if row["met"] is not None]
            return f"{sum(judged)} of {len(judged)} targets met."
        case "units":
            return "Processor time of one post, one delivery and one read, by process."
        case _:
            return str(report["recommendation"]["reason"])


def _compare_lead(report: dict[str, Any]) -> str:
    of, phases = report["settings"], report["phases"].values()
    pages, lists = (sum(figures[name] for figures in phases) for name in ("checked_pages", "lag_checked"))
    loop = f"{of['rate']:g}/s, open loop" if of["rate"] else f"{of['clients']} clients, closed loop"
    return (
        f"Workload {report['workload']['name']} on {report['graph']['source']}: {loop}, {of['seconds']:g} s in each of "
        f"{of['rounds']} rounds, through {of['through']}, seed {of['seed']}. {pages:,} pages were compared with the "
        f"oracle's and {lists:,} lists of last followers were read: no difference."
    )


def grids(report: dict[str, Any]) -> list[Grid]:
    match report["kind"]:
        case "compare":
            columns = ["", *report["phases"]]
            ratios = [Grid(RATIOS, ["", *report["ratios"]], ratio_rows(report))] if report["ratios"] else []
            return [
                Grid("Latency, ms", ["phase", "", "n", *PERCENTILES], latency_rows(report)),
                Grid("What it costs", columns, cost_rows(report)),
                *ratios,
            ]
        case "fanout" | "read":
            return [curve_grid(report)]
        case "targets":
            columns = ["row", "what", "ratio", "target", "", "figures"]
            return [Grid("Ratios, both sides measured in turn in one run", columns, target_rows(report))]
        case "units":
            return [unit_grid(report)]
        case _:
            return plan_grids(report)


def latency_rows(report: dict[str, Any]) -> list[list[str]]:
    rows = []
    for slug, figures in report["phases"].items():
        shown = slug
        for kind in compare.KINDS:
            if found := figures["latency_ms"][kind]:
                rows.append([shown, TITLES[kind], f"{figures['counts'][kind]:,}", *map(number, found.values())])
                shown = ""
    return rows


def curve_grid(report: dict[str, Any]) -> Grid:
    sizes = sorted({point[0] for series in report["series"] for point in series["points"]})
    rows = []
    for series in report["series"]:
        at = {point[0]: point[1:] for point in series["points"]}
        cells = [f"{number(at[size][0])} ({number(at[size][1])})" if size in at else "-" for size in sizes]
        rows.append([series["title"], *cells, "-" if series["exponent"] is None else f"{series['exponent']:.2f}"])
    title = f"Milliseconds, p50 (p99), by {report['x']}; the exponent is of the p50 from 100 on"
    return Grid(title, ["what", *(f"{size:,}" for size in sizes), "exponent"], rows)


def unit_grid(report: dict[str, Any]) -> Grid:
    rows = []
    for slug, units in report["units"].items():
        reads = zip(report["followees"], units["reads"], strict=True)
        costs = [("a post", units["post"]), ("a delivery", units["delivery"])]
        costs += [(f"a read, {size:,} followees", read) for size, read in reads]
        for what, cost in costs:
            rows.append([f"{slug}: {what}", *(number(1e6 * seconds) for seconds in cost["cpu_s"].values())])
    processes = next(iter(report["units"].values()))["post"]["cpu_s"]
    return Grid("Processor time, µs (the harness is the web process)", ["what", *processes], rows)


def plan_grids(report: dict[str, Any]) -> list[Grid]:
    return [Grid(grid["title"], grid["columns"], grid["rows"], grid.get("note", "")) for grid in report["grids"]]


def number(value: float | None) -> str:
    """Three significant digits, thousands separated."""
    if value is None:
        return "-"
    if value == 0:
        return "0"
    return f"{value:,.0f}" if abs(value) >= 100 else f"{value:.3g}"


COSTS: tuple[tuple[str, Any], ...] = (
    ("operations/s", lambda f: number(f["operations_per_s"])),
    ("deliveries/s", lambda f: number(f["deliveries_per_s"])),
    ("commands a post: MongoDB, Memcached, Redis", lambda f: _triple(f["commands"].get("post"))),
    ("commands a read: MongoDB, Memcached, Redis", lambda f: _triple(f["commands"].get("read"))),
    ("commands/s at the servers, workers included", lambda f: _triple(f["server_commands_per_s"])),
    ("kept: bytes a person", lambda f: number(f["kept"]["bytes_per_person"])),
    ("kept: bytes an entry", lambda f: number(f["kept"]["bytes_per_entry"])),
    ("kept: entries", lambda f: number(f["kept"]["entries"])),
    ("errors", lambda f: number(sum(f["errors"].values()))),
    ("delivered in time", lambda f: "yes" if f["drained"] else "NO"),
)


def _triple(counts: dict[str, float] | None) -> str:
    return " ".join(number(counts[server]) for server in ("mongodb", "memcached", "redis")) if counts else "-"


def cost_rows(report: dict[str, Any]) -> list[list[str]]:
    phases = report["phases"]
    rows = [[title, *(show(figures) for figures in phases.values())] for title, show in COSTS]
    processes = list(next(iter(phases.values()))["cpu_share"])
    rows += [
        [f"processor, {name}: % of a core", *(number(100 * figures["cpu_share"][name]) for figures in phases.values())]
        for name in processes
    ]
    return rows


def ratio_rows(report: dict[str, Any]) -> list[list[str]]:
    names = list(dict.fromkeys(name for figures in report["ratios"].values() for name in figures))
    return [[name, *(_spread(figures.get(name)) for figures in report["ratios"].values())] for name in names]


def _spread(ratio: dict[str, float] | None) -> str:
    return f"{ratio['median']:.2f} ({ratio['min']:.2f} to {ratio['max']:.2f})" if ratio else "-"


def target_rows(report: dict[str, Any]) -> list[list[str]]:
    return [
        [row["name"], row["title"], number(row["ratio"]), _bound(row), _verdict(row["met"]), _figures(row["figures"])]
        for row in report["rows"]
    ]


def _bound(row: dict[str, Any]) -> str:
    if row["at_least"] is not None:
        return f"≥ {row['at_least']:g}"
    return f"≤ {row['at_most']:g}" if row["at_most"] is not None else ""


def _verdict(met: bool | None) -> str:
    return "" if met is None else "met" if met else "MISSED"


def _figures(figures: dict[str, float]) -> str:
    return ", ".join(f"{name} {number(value)}" for name, value in figures.items())
