"""The document's tables are those of the reports beside it, and reports show what was measured."""

import json
import re
import tomllib
from pathlib import Path

import pytest

from app.cli import bench
from benchmarks.report import flat
from benchmarks.results import DOCUMENT, FOLDER, NothingToKeep, keep, places, written
from benchmarks.svg import Line, legend, plot
from benchmarks.workload import Workload

REPORT = {
    "format": 1,
    "kind": "targets",
    "meaningless": False,
    "made_at": "2026-01-01T12:00:00+00:00",
    "commit": "abc",
    "command": "feedlab bench targets",
    "settings": {},
    "machine": {"cores": 2, "processor": "P", "memory_gb": 1.0, "python": "3"},
    "servers": {"mongodb": "6"},
    "histograms": {"large": "x"},
    "rows": [
        {"name": "a", "title": "b ÷ c", "ratio": 0.8123, "at_least": 0.8, "at_most": None, "met": True, "figures": {}},
        {
            "name": "d",
            "title": "e | f",
            "ratio": 3.0,
            "at_least": None,
            "at_most": 2,
            "met": False,
            "figures": {"x": 1},
        },
    ],
}


def test_the_document_shows_what_its_reports_say() -> None:
    assert DOCUMENT.read_text() == written(DOCUMENT.read_text())


def test_every_kept_report_has_a_place() -> None:
    assert {path.stem for path in FOLDER.glob("*.json")} <= set(places(DOCUMENT.read_text()))


def test_every_phase_that_was_measured_is_kept() -> None:
    for path in FOLDER.glob("facebook-*.json"):
        assert list(json.loads(path.read_text())["phases"]) == ["query", "push", "queue", "cache"]


def test_a_report_is_kept_without_what_only_plots_need(tmp_path: Path) -> None:
    document, report = tmp_path / "results.md", tmp_path / "report.json"
    document.write_text("# R\n<!-- report: one -->\nold\n<!-- end of one -->\nkept\n")
    report.write_text(json.dumps(REPORT))
    keep("one", report, document, tmp_path / "reports")
    text = document.read_text()
    assert "old" not in text
    assert text.endswith("<!-- end of one -->\nkept\n")
    assert "| a | b ÷ c | 0.812 | ≥ 0.8 | met |  |" in text
    assert "| d | e \\| f | 3 | ≤ 2 | MISSED | x 1 |" in text
    assert "1 of 2 targets met" in text
    assert "histograms" not in (tmp_path / "reports" / "one.json").read_text()
    assert written(text, tmp_path / "reports") == text


def test_what_cannot_be_kept(tmp_path: Path) -> None:
    document, report = tmp_path / "results.md", tmp_path / "report.json"
    document.write_text("<!-- report: one -->\n<!-- end of one -->\n")
    report.write_text(json.dumps({**REPORT, "meaningless": True}))
    with pytest.raises(NothingToKeep, match="real servers"):
        keep("one", report, document, tmp_path)
    with pytest.raises(NothingToKeep, match="no place for 'two'"):
        keep("two", report, document, tmp_path)
    report.write_text("{")
    with pytest.raises(NothingToKeep, match="not a report"):
        keep("one", report, document, tmp_path)


def test_every_command_is_documented() -> None:
    text = (DOCUMENT.parent / "benchmarks.md").read_text()
    for name, command in bench.commands.items():
        assert command.hidden or f"`feedlab bench {name}`" in text, name


def test_what_the_document_says_of_workloads_is_so() -> None:
    text = (DOCUMENT.parent / "benchmarks.md").read_text()
    example = re.search(r"```toml\n(.*?)```", text, re.DOTALL)
    assert example
    assert Workload.model_validate(tomllib.loads(example[1])).name == "mine"


def test_csv_lines_are_numbers_of_what_was_summed_up() -> None:
    report = {
        "phases": {"query": {"latency_ms": {"post": {"p50": 1.5}}, "curves": {"post": [[1, 2]]}, "drained": True}}
    }
    assert list(flat(report)) == [("query", "latency_ms.post.p50", 1.5), ("query", "drained", True)]


def test_a_plot_has_a_tooltip_at_every_point_and_whole_decades() -> None:
    lines = [Line("a <b>", [(10, 1), (100, 20), (1_000, 300)], 1), Line("c", [], 2)]
    svg = plot("times", lines, "followers", "ms")
    assert svg.count("<title>a &lt;b&gt;: followers ") == 3
    assert all(f">{tick}</text>" in svg for tick in ("10", "100", "1,000", "1"))
    assert legend(lines).count("<li class") == 1
    assert plot("nothing", [], "x", "y") == ""
