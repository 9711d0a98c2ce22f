"""`docs/results.md`: its tables are made from the reports kept beside it, so that they cannot differ."""

import re
from pathlib import Path

from app.errors import Refused
from benchmarks.report import Interruptible, Report, Targets, load, text
from benchmarks.tables import MEANINGLESS, SMALLER, Grid, grids, lead, says, where

ROOT = Path(__file__).parents[1]
DOCUMENT, FOLDER = ROOT / "docs" / "results.md", ROOT / "docs" / "results"
PLACE = re.compile(r"(<!-- report: ([a-z0-9-]+) -->\n).*?(<!-- end of \2 -->)", re.DOTALL)


class NothingToKeep(Refused):
    """The report is not one for the document."""


def keep(name: str, file: Path, document: Path = DOCUMENT, folder: Path = FOLDER) -> None:
    """Keep a report under a name that the document has a place for, and write its tables.

    Raises NothingToKeep, NotAReport.
    """
    report = load(file)
    prose = document.read_text(encoding="utf-8")
    if name not in places(prose):
        raise NothingToKeep(f"{document.name} has no place for {name!r}; it has {', '.join(places(prose))}")
    if why := _unfit(report):
        raise NothingToKeep(f"{file}: {why}")
    folder.mkdir(exist_ok=True)
    (folder / f"{name}.json").write_text(text(report, large=False), encoding="utf-8")
    document.write_text(written(prose, folder), encoding="utf-8")


def _unfit(report: Report) -> str:
    """Say why nobody should go by the report; empty where one may."""
    if report.meaningless:
        return "not a report of real servers"
    if not report.commit or report.commit.endswith("-dirty"):
        return "measured on code that is in no commit, so nobody can measure it again"
    if isinstance(report, Targets) and report.smaller:
        return SMALLER
    return report.broken_off if isinstance(report, Interruptible) else ""


def places(prose: str) -> list[str]:
    return [name for _, name, _ in PLACE.findall(prose)]


def written(prose: str, folder: Path = FOLDER) -> str:
    """Return the document with the tables of the reports that are kept."""

    def tables(place: re.Match[str]) -> str:
        path = folder / f"{place[2]}.json"
        if not path.exists():
            return f"{place[1]}\n(No run is kept here yet.)\n\n{place[3]}"
        return f"{place[1]}\n{markdown(load(path))}\n{place[3]}"

    return PLACE.sub(tables, prose)


def markdown(report: Report) -> str:
    """Return command, place and tables of one report as Markdown."""
    machine = report.machine
    parts = [f"**{MEANINGLESS}**\n"] if report.meaningless else []
    parts += [
        f"```\n{report.command}\n```\n",
        f"{report.made_at[:10]}, commit `{report.commit}`, {machine.cores} cores of {machine.processor}, "
        f"{machine.memory_gb} GB, Python {machine.python}, {where(report)}. {lead(report)}".rstrip()
        + "\n",
        "".join(f"- {sentence}\n" for sentence in says(report)),
    ]
    for grid in grids(report):
        parts += [f"**{grid.title}**\n", _table(grid), *([f"{grid.note}\n"] if grid.note else [])]
    return "\n".join(parts)


def _table(grid: Grid) -> str:
    numbers = len(grid.columns) - grid.texts
    lines = [grid.columns, [*["---"] * grid.texts, *["---:"] * numbers], *grid.rows]
    return "".join(f"| {' | '.join(cell.replace('|', chr(92) + '|') for cell in line)} |\n" for line in lines)
