"""`docs/results.md`: its tables are made from the reports kept beside it, so that they cannot differ."""

import json
import re
from pathlib import Path
from typing import Any

from app.errors import Refused
from benchmarks.report import MEANINGLESS, grids, lead

ROOT = Path(__file__).parents[1]
DOCUMENT, FOLDER = ROOT / "docs" / "results.md", ROOT / "docs" / "results"
PLACE = re.compile(r"(<!-- report: ([a-z0-9-]+) -->\n).*?(<!-- end of \2 -->)", re.DOTALL)
LARGE = ("histograms", "curves", "depths")  # of no use in a document


class NothingToKeep(Refused):
    """The file is no report, or not one for the document."""


def slim(report: Any) -> Any:
    """The report without what only plots need."""
    if isinstance(report, dict):
        return {name: slim(value) for name, value in report.items() if name not in LARGE}
    return [slim(item) for item in report] if isinstance(report, list) else report


def keep(name: str, file: Path, document: Path = DOCUMENT, folder: Path = FOLDER) -> None:
    """Keep a report under a name that the document has a place for, and write its tables. Raises NothingToKeep."""
    try:
        report = json.loads(file.read_text())
    except (OSError, ValueError) as error:
        raise NothingToKeep(f"{file}: not a report ({error})") from None
    text = document.read_text()
    if name not in places(text):
        raise NothingToKeep(f"{document.name} has no place for {name!r}; it has {', '.join(places(text))}")
    if not isinstance(report, dict) or "kind" not in report or report.get("meaningless"):
        raise NothingToKeep(f"{file}: not a report of real servers")
    folder.mkdir(exist_ok=True)
    (folder / f"{name}.json").write_text(json.dumps(slim(report), ensure_ascii=False) + "\n")
    document.write_text(written(text, folder))


def places(text: str) -> list[str]:
    return [name for _, name, _ in PLACE.findall(text)]


def written(text: str, folder: Path = FOLDER) -> str:
    """The document with the tables of the reports that are kept."""

    def tables(place: re.Match[str]) -> str:
        path = folder / f"{place[2]}.json"
        if not path.exists():
            return f"{place[1]}\n(No run is kept here yet.)\n\n{place[3]}"
        return f"{place[1]}\n{markdown(json.loads(path.read_text()))}\n{place[3]}"

    return PLACE.sub(tables, text)


def markdown(report: dict[str, Any]) -> str:
    """Command, place and tables of one report."""
    machine, servers = report["machine"], report["servers"]
    of = ", ".join(f"{name} {version}" for name, version in servers.items())
    parts = [f"**{MEANINGLESS}**\n"] if report["meaningless"] else []
    parts += [
        f"```\n{report['command']}\n```\n",
        f"{report['made_at'][:10]}, commit `{report['commit']}`, {machine['cores']} cores of {machine['processor']}, "
        f"{machine['memory_gb']} GB, Python {machine['python']}, {of}. {lead(report)}\n",
    ]
    for grid in grids(report):
        parts += [f"**{grid.title}**\n", _table(grid.columns, grid.rows)]
    return "\n".join(parts)


def _table(columns: list[str], rows: list[list[str]]) -> str:
    lines = [columns, ["---", *["---:"] * (len(columns) - 1)], *rows]
    return "".join(f"| {' | '.join(cell.replace('|', chr(92) + '|') for cell in line)} |\n" for line in lines)
