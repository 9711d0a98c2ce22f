"""The document's tables are those of the reports beside it, and reports show what was measured."""

import asyncio
import re
import tomllib
from math import isfinite
from pathlib import Path
from types import SimpleNamespace
from typing import Any
from unittest.mock import patch

import pytest
from click.testing import CliRunner
from pymongo.errors import OperationFailure

from app.cli import bench
from app.demo.progress import silent
from app.watch.objectives import CAPACITY_PER_S
from benchmarks import crossover as crossovers
from benchmarks import curves
from benchmarks.crossover import by_turn
from benchmarks.origin import mongodb_topology
from benchmarks.page import page
from benchmarks.report import (
    LARGE,
    Backlog,
    Comparison,
    Crossover,
    Curves,
    HttpReport,
    Interruptible,
    Machine,
    MessagesReport,
    MessagesSettings,
    MessagesStep,
    NotAReport,
    Origin,
    Point,
    Row,
    Series,
    Share,
    Targets,
    flat,
    load,
    text,
    write,
)
from benchmarks.results import DOCUMENT, FOLDER, NothingToKeep, keep, places, written
from benchmarks.rig import Rig
from benchmarks.tables import grids, says, show
from benchmarks.verdict import to_the_best
from benchmarks.workload import Workload
from phases.p4_cache import CACHE
from tests.world import SLUGS

REPORT = Targets(
    meaningless=False,
    made_at="2026-01-01T12:00:00+00:00",
    commit="abc",
    machine=Machine(processor="P", cores=2, memory_gb=1.0, system="Linux", python="3"),
    servers={"mongodb": "6"},
    packages={},
    config={},
    write_concern="majority",
    command="feedlab bench targets",
    settings={},
    rows=[
        Row(name="a", title="b ÷ c", ratio=0.8123, at_least=0.8),
        Row(name="d", title="e | f", ratio=3.0, at_most=2, figures={"a_few_p99_ms": 1}),
    ],
)


def test_the_document_shows_what_its_reports_say() -> None:
    assert DOCUMENT.read_text() == written(DOCUMENT.read_text())


def test_every_kept_report_has_a_place() -> None:
    assert {path.stem for path in FOLDER.glob("*.json")} <= set(places(DOCUMENT.read_text()))


def test_every_comparison_is_of_all_phases_and_every_report_of_two_cores() -> None:
    """The processor stands above each table, and ratios carry over to another one; to more cores they do not."""
    reports = [load(path) for path in FOLDER.glob("*.json")]
    compared = [tuple(report.phases) for report in reports if isinstance(report, Comparison)]
    assert set(compared) == {tuple(SLUGS)}
    assert {report.machine.cores for report in reports} == {2}


def test_an_alert_goes_by_the_capacity_that_was_measured() -> None:
    report = load(FOLDER / "http.json")
    assert isinstance(report, HttpReport)
    assert (report.machine.cores, report.settings.slo_ms) == (2, 50)
    held = report.middle(CACHE.slug, 1, "warm")
    assert held
    assert held.capacity == CAPACITY_PER_S


@pytest.mark.parametrize(
    ("bound", "met", "shown"),
    [
        ({"at_least": 0.8}, True, "met"),
        ({"at_least": 0.81}, True, "met"),
        ({"at_least": 0.815}, True, "within the noise"),
        ({"at_least": 0.85}, True, "within the noise"),
        ({"at_most": 0.9}, True, "met"),
        ({"at_most": 0.85}, True, "within the noise"),
        ({"at_most": 0.815}, True, "within the noise"),
        ({"at_least": 0.9}, False, "MISSED"),
        ({"at_most": 0.8}, False, "MISSED"),
        ({}, None, ""),
    ],
)
def test_a_target_that_only_a_part_of_the_interval_meets_is_within_the_noise(
    bound: dict[str, Any], met: bool | None, shown: str
) -> None:
    measured = Row(name="a", title="b", ratio=0.82, low=0.81, high=0.89, **bound)
    assert measured.met is met
    row = grids(REPORT.model_copy(update={"rows": [measured]}))[0].rows[0]
    assert row[2:6] == [shown, "0.82", "0.81", "0.89"]


def test_the_outcomes_of_targets_are_counted_apart() -> None:
    bounds: list[dict[str, Any]] = [{"at_most": 2.3}, {"at_most": 2}, {"at_most": 1}, {"at_least": 3}, {}]
    rows = [Row(name=f"r{n}", title="t", ratio=2.1, low=1.9, high=2.3, **bound) for n, bound in enumerate(bounds)]
    assert says(REPORT.model_copy(update={"rows": rows})) == [
        "1 of 4 targets met.", "Within the noise, 1: r1.", "Missed, 2: r2, r3."
    ]  # fmt: skip


def test_of_smaller_sizes_there_is_no_verdict() -> None:
    small = REPORT.model_copy(update={"smaller": True})
    assert says(small) == ["Sizes are smaller than those that are promised for: no verdict."]
    assert [row[2] for row in grids(small)[0].rows] == ["", ""]


@pytest.mark.parametrize("of", Interruptible.__subclasses__())
def test_every_report_says_first_where_it_was_broken_off(
    of: type[Interruptible], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    kept = next(report for path in FOLDER.glob("*.json") if isinstance(report := load(path), of))
    broken_off = kept.model_copy(update={"unfinished": True})
    assert "BROKEN OFF" not in " ".join(says(kept))
    assert says(broken_off) == ["BROKEN OFF: something ended the run before its end.", *says(kept)]
    assert '<ul class="says"><li>BROKEN OFF: ' in page(broken_off)
    show(broken_off)
    assert capsys.readouterr().out.startswith("- BROKEN OFF: ")
    for report, mark in ((kept, "False"), (broken_off, "True")):
        write(report, json_file=None, csv=tmp_path / "figures.csv")
        header, *figures = (tmp_path / "figures.csv").read_text().splitlines()
        assert header.endswith(",broken_off")
        assert {line.rsplit(",", 1)[1] for line in figures} == {mark}


def test_names_are_shown_as_they_are(capsys: pytest.CaptureFixture[str]) -> None:
    """`:100:` is no emoji, and what stands in brackets is no style."""
    report = load(FOLDER / "facebook-read-heavy.json")
    assert isinstance(report, Comparison)
    graph = report.graph.model_copy(update={"source": "powerlaw:100:3"})
    show(report.model_copy(update={"graph": graph, "servers": {"mongodb": "6 [bold]"}}))
    said = capsys.readouterr().out
    assert "powerlaw:100:3" in said
    assert "mongodb 6 [bold]" in said
    named = [row.model_copy(update={"name": "[red]a:100:"}) for row in REPORT.rows]
    show(REPORT.model_copy(update={"rows": named}))
    assert "│ [red]a:100: │" in capsys.readouterr().out


def test_a_curve_that_something_ends_is_shown_as_far_as_it_goes() -> None:
    nothing: Any = None
    rig = Rig(nothing, nothing, nothing, {}, meaningless=False)

    async def seconds_at(size: int) -> dict[str, list[float]]:
        if size == 100:
            raise ConnectionError
        return {"raw": [0.001]}

    async def begun(_: Rig) -> Origin:
        return Origin.model_validate(REPORT.model_dump(include={*Origin.model_fields}))

    with patch.object(curves, "origin", begun), pytest.raises(ConnectionError):
        asyncio.run(curves.of_sizes(rig, "read", "followees", (10, 100), seconds_at, {"repeats": 1}, silent))
    assert isinstance(rig.so_far, Curves)
    assert rig.so_far.unfinished
    assert [each.points for each in rig.so_far.series] == [[(10, 1.0, None)]]


def test_a_report_is_kept(tmp_path: Path) -> None:
    document, report = tmp_path / "results.md", tmp_path / "report.json"
    document.write_text("# R\n<!-- report: one -->\nold\n<!-- end of one -->\nkept\n")
    report.write_text(text(REPORT))
    keep("one", report, document, tmp_path / "reports")
    shown = document.read_text()
    assert "old" not in shown
    assert shown.endswith("<!-- end of one -->\nkept\n")
    assert "| a | b ÷ c | met | 0.812 | - | - | ≥ 0.8 |" in shown
    assert "| d | e \\| f | MISSED | 3 | - | - | ≤ 2 |" in shown
    assert "| d | a few p99 | 1 | ms |" in shown, "a figure a cell, in words"
    assert "- 1 of 2 targets met.\n- Missed, 1: d.\n" in shown
    assert load(tmp_path / "reports" / "one.json") == REPORT
    assert written(shown, tmp_path / "reports") == shown


def test_what_only_plots_need_is_not_kept() -> None:
    report = load(FOLDER / "facebook-read-heavy.json")
    assert isinstance(report, Comparison)
    cell = report.cells[0].model_copy(update={"histograms": {"post": "x"}, "depths": [(0.5, 1, 2)]})
    summary = report.phases["query"].model_copy(update={"curves": {"post": [(0.5, 1.0)]}})
    large = report.model_copy(update={"cells": [cell], "phases": {"query": summary}})
    assert all(name in text(large) for name in LARGE)
    assert not any(name in text(large, large=False) for name in LARGE)


def test_what_cannot_be_kept(tmp_path: Path) -> None:
    document, report = tmp_path / "results.md", tmp_path / "report.json"
    document.write_text("<!-- report: one -->\n<!-- end of one -->\n")
    report.write_text(text(REPORT.model_copy(update={"meaningless": True})))
    with pytest.raises(NothingToKeep, match="real servers"):
        keep("one", report, document, tmp_path)
    for change, why in (
        ({"commit": "abc-dirty"}, "in no commit"),
        ({"commit": None}, "in no commit"),
        ({"unfinished": True}, "before its end"),
        ({"smaller": True}, "no verdict"),
    ):
        report.write_text(text(REPORT.model_copy(update=change)))
        with pytest.raises(NothingToKeep, match=why):
            keep("one", report, document, tmp_path)
    with pytest.raises(NothingToKeep, match="no place for 'two'"):
        keep("two", report, document, tmp_path)
    report.write_text("{")
    with pytest.raises(NotAReport, match="not a report"):
        keep("one", report, document, tmp_path)


def test_every_command_is_documented() -> None:
    text = (DOCUMENT.parent / "benchmarks.md").read_text()
    for name, command in bench.commands.items():
        assert command.hidden or f"`feedlab bench {name}`" in text, name


def test_the_options_of_commands_are_as_documented() -> None:
    text = (DOCUMENT.parent / "benchmarks.md").read_text()
    having = {
        option: {name for name, of in bench.commands.items() if any(option in each.opts for each in of.params)}
        for option in ("--servers", "--json", "--csv", "--html")
    }
    assert having["--csv"] == having["--html"]
    for words, commands in (
        (r"with `--servers urls` (.*?) measure on", having["--servers"]),
        (r"With `--json` and no file (.*?) print JSON", having["--json"] - having["--html"]),
    ):
        said = re.search(words, text, re.DOTALL)
        assert said
        assert set(re.findall(r"`(\w+)`", said[1])) == commands


def test_what_the_document_says_of_workloads_is_so() -> None:
    text = (DOCUMENT.parent / "benchmarks.md").read_text()
    example = re.search(r"```toml\n(.*?)```", text, re.DOTALL)
    assert example
    assert Workload.model_validate(tomllib.loads(example[1])).name == "mine"


def test_csv_lines_are_numbers_of_what_was_summed_up() -> None:
    report = load(FOLDER / "facebook-read-heavy.json")
    assert isinstance(report, Comparison)
    lines = list(flat(report))
    assert ("query", "latency_ms.post.p50", report.phases["query"].latency_ms["post"]["p50"]) in lines  # type: ignore[index]
    assert ("query", "drained", 1) in lines
    assert ("push", "ratio.operations per s.median", report.ratios["push"]["operations per s"].median) in lines


@pytest.mark.parametrize("kept", sorted(FOLDER.glob("*.json")), ids=lambda kept: kept.stem)
def test_a_csv_file_has_figures_whatever_was_measured(kept: Path, tmp_path: Path) -> None:
    write(load(kept), json_file=None, csv=tmp_path / "figures.csv")
    first, *figures = (tmp_path / "figures.csv").read_text().splitlines()
    assert first.startswith("kind,")
    assert figures
    assert all(isfinite(float(line.rsplit(",", 3)[1])) for line in figures), "True is no number"


@pytest.mark.parametrize(
    ("name", "phase", "figure"),
    [
        ("crossover", "", "9 pages a post.low"),
        ("crossover", "", "9 pages a post.high"),
        ("units", CACHE.slug, "job_s.fixed"),
        ("units", CACHE.slug, "acknowledged_s.few followers"),
        ("units", CACHE.slug, "acknowledged_s.many followers"),
        ("backlog", CACHE.slug, "10000 pending.gone_s"),
        ("backlog", CACHE.slug, "10000 pending.drain_ms.p99"),
        ("messages", "", "wrongs"),
        ("messages", "", "one POST.commands.mongodb"),
        ("http", CACHE.slug, "1 web.warm.0 pending.round 1.capacity"),
    ],
)
def test_a_csv_file_has_what_the_tables_have(name: str, phase: str, figure: str) -> None:
    assert (phase, figure) in {(slug, path) for slug, path, _ in flat(load(FOLDER / f"{name}.json"))}


def test_a_plot_has_a_tooltip_at_every_point_and_whole_decades() -> None:
    points: list[Point] = [(10, 1.0, 2.0), (100, 20.0, None), (1_000, 300.0, 400.0)]
    series = [
        Series(name="raw", title="a <b>", exponent=None, points=points),
        Series(name="array", title="nothing measured", exponent=None, points=[]),
    ]
    origin = REPORT.model_dump(include={*Origin.model_fields})
    curves = Curves(**origin, kind="fanout", settings={"repeats": 7}, x="followers", series=series)
    svg = page(curves).partition("<figure>")[2].partition("</figure>")[0]
    assert svg.count("<title>a &lt;b&gt;: followers of the author ") == 3
    assert all(f">{tick}</text>" in svg for tick in ("10", "100", "1,000", "1"))
    assert svg.count("<li class") == 1
    assert "milliseconds, median (logarithmic)" in svg
    assert "<svg" not in page(curves.model_copy(update={"series": series[1:]}))


class Answering:
    """A database, and its client's `admin`, that answers as told."""

    def __init__(self, **answers: Any) -> None:
        self._answers, self.client = answers, SimpleNamespace(admin=self)

    async def command(self, name: str) -> Any:
        if name not in self._answers:
            raise OperationFailure("not authorized")
        return self._answers[name]


SET = {"setName": "rs", "hosts": ["a", "b"], "passives": ["c"], "arbiters": ["d"]}


@pytest.mark.parametrize(
    ("answers", "said"),
    [
        ({"hello": {}}, "standalone"),
        ({"hello": {"setName": "rs", "hosts": ["a"]}}, "replica set, 1 member"),
        ({"hello": SET}, "replica set, 4 members"),
        ({"hello": {"msg": "isdbgrid"}, "listShards": {"shards": [1, 2]}}, "sharded, 2 shards"),
        ({"hello": {"msg": "isdbgrid"}}, "sharded"),
    ],
)
def test_the_topology_is_told_without_names(answers: dict[str, Any], said: str) -> None:
    database: Any = Answering(**answers)
    assert asyncio.run(mongodb_topology(database)) == said


MS = {"p50": 5.0, "p99": 50.0}
STEP = MessagesStep(
    web=2, receipts=True, rate=100, sent=1_200, received=1_200, received_ms=MS, acknowledged_ms={"p50": 4.0},
    read_ms={}, late_s=0.01, errors={"HTTP 503": 3}, commands={"mongodb": 17.8, "redis": 2.0}, cpu_ms={"web 1": 9.0},
)  # fmt: skip


@pytest.mark.parametrize("wrongs", [[], ["missing: 'message 7', acknowledged as number 2"]])
def test_messages_are_told_with_what_is_wrong_first(wrongs: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    settings = MessagesSettings(conversations=9, rates=(100,), web=(2,), receipts=("with",), seconds=12, seed=1)
    origin = REPORT.model_dump(include={*Origin.model_fields})
    costs = {"mongodb": 7.0, "redis": 1.0}
    report = MessagesReport(**origin, settings=settings, commands=costs, steps=[STEP], wrongs=wrongs)
    first, second = says(report)
    assert first == f"{len(wrongs)} of 1,200 messages lost, doubled or out of order; 3 requests refused."
    assert second.endswith("at 100 a second the other's stream tells after p50 5 ms and p99 50 ms.")
    assert ("", "2 web.with receipts.100/s.received_ms.p99", 50.0) in list(flat(report))
    assert page(report).count("<polyline") == 2
    times, costs_of = grids(report)
    assert times.rows[0][3:11] == ["5", "-", "50", "-", "4", "-", "-", "-"]
    assert [row[2:] for row in costs_of.rows] == [["7", "1", "-"], ["17.8", "2", "9"]]
    monkeypatch.setattr("benchmarks.cli._measured", lambda *_, **__: report)
    done = CliRunner().invoke(bench, ["messages"])
    assert done.exit_code == len(wrongs), "1 where anything is wrong"
    assert all(wrong in done.output for wrong in wrongs)


def test_a_curve_shows_a_p99_where_there_are_a_thousand_of_each() -> None:
    series = [Series(name="raw", title="raw", exponent=1.0, points=[(10, 1.0, 2.0), (100, 10.0, 30.0)])]
    origin = REPORT.model_dump(include={*Origin.model_fields})
    few = Curves(**origin, kind="read", settings={"repeats": 7}, x="followees", series=series)
    many = few.model_copy(update={"settings": {"repeats": 1_000}})
    assert ["p99" in grid.title for grid in grids(few)] == [False]
    assert ["p99" in grid.title for grid in grids(many)] == [False, True]
    assert says(few) == ["raw: ten times as many followees take 10.0 times as long."]


def test_levels_of_a_backlog_that_are_not_in_turn_tell_no_difference() -> None:
    report = load(FOLDER / "backlog.json")
    assert isinstance(report, Backlog)
    for sentence in says(report):
        assert re.fullmatch(
            r"\w+: a closed loop gets [\d,]+ pages a second with 0 pending and later [\d,]+ pages a second with 10,000 "
            r"pending; levels that are not in turn tell no difference\.",
            sentence,
        )
    first = says(report.model_copy(update={"levels": report.levels[:1]}))
    assert re.fullmatch(r"\w+: a closed loop gets [\d,]+ pages a second with 0 pending\.", first[0])


def test_a_crossover_is_judged_at_each_proportion_of_pages_to_posts() -> None:
    origin = REPORT.model_dump(include={*Origin.model_fields})
    used_ms = {"query": 5.0, "cache": 6.0, "hybrid": 3.0}
    at_nine = Share(
        pages_per_post=9, posts=40, used_ms=used_ms, better="query", ratio=0.6, low=0.55, high=0.65, pulled=True
    )
    at_one = at_nine.model_copy(update={"pages_per_post": 1, "ratio": 1.02, "low": 0.97, "high": 1.05, "pulled": False})
    settings = {"followers": 10_000, "followees": 200, "one_post_in": 5, "turns": 5, "measured": 15}
    report = Crossover(**origin, settings=settings, shares=[at_one, at_nine])
    assert says(report) == [
        "At 1 page a post no difference can be told between hybrid and query, the better of the others.",
        "At 9 pages a post hybrid needs 0.60 times (0.55 to 0.65) the processor time of query, "
        "the better of the others.",
    ]
    (grid,) = grids(report)
    assert grid.rows[1] == ["9", "pulled", "5", "6", "3", "0.60", "0.55", "0.65"]
    one_turn = report.model_copy(update={"shares": [at_nine.model_copy(update={"low": None, "high": None})]})
    assert "no difference can be told" in says(one_turn)[0]
    assert grids(one_turn)[0].rows[0][-3:] == ["0.60", "-", "-"]
    assert page(report).count("<polyline") == len(used_ms)
    assert ("hybrid", "9 pages a post.used_ms", 3.0) in list(flat(report))


def test_a_crossovers_interval_holds_whichever_of_pull_and_push_is_the_better_one(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Of all three: which one is compared with is chosen by the figures that it is compared by."""
    nothing: Any = None
    by_turns = {"query": (5.0, 6.0, 5.5), "cache": (5.2, 5.1, 6.5), "hybrid": (4.8, 5.0, 5.6)}

    async def nobody(*_: object) -> None: ...

    async def begun(_: Rig) -> Origin:
        return Origin.model_validate(REPORT.model_dump(include={*Origin.model_fields}))

    async def in_turns(_rig: Rig, _world: object, _mix: object, turns: int, at_once: int) -> Any:
        return {slug: [s for s in each[:turns] for _ in range(at_once)] for slug, each in by_turns.items()}, True

    monkeypatch.setattr(crossovers, "origin", begun)
    monkeypatch.setattr("benchmarks.targets.mixed.world", nobody)
    monkeypatch.setattr("benchmarks.targets.mixed.in_turns", in_turns)
    monkeypatch.setattr("benchmarks.answers.nobody_is_active", nobody)

    def measured(turns: int) -> Share:
        rig = Rig(nothing, nothing, nothing, {}, meaningless=False)
        (share,) = asyncio.run(crossovers.crossover(rig, 100, [9], turns, silent)).shares
        return share

    best, others = to_the_best({slug: dict(enumerate(each)) for slug, each in by_turns.items()})
    share, of = measured(3), others["query"]
    assert best == "hybrid"
    assert share.better == "query"
    assert [share.low, share.ratio, share.high] == pytest.approx([1 / of.high, 1 / of.ratio, 1 / of.low])
    one = measured(1)
    assert (one.low, one.high) == (None, None)


def test_figures_of_one_turn_are_one() -> None:
    """Three that follow each other are slow together."""
    assert by_turn([1.0, 2.0, 3.0, 10.0, 10.0, 13.0]) == {0: 2.0, 3: 11.0}
