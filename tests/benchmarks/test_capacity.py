"""`bench http`: the search on systems of known capacity, percentiles with their samples, and runs that fail."""

import asyncio
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest

from benchmarks import backlog, capacity
from benchmarks.capacity import At, Offered, climb, http, step_of
from benchmarks.generator import WRONG_PAGE, Answered
from benchmarks.measure import SAMPLES, Latencies
from benchmarks.page import page
from benchmarks.readers import NotAnswered, checked
from benchmarks.report import Backlog, HttpReport, HttpSettings, flat, text
from benchmarks.report import load as read_report
from benchmarks.rig import Rig
from benchmarks.subject import WrongAnswer
from benchmarks.tables import grids, says
from phases.p1_query import QUERY
from phases.p4_cache import CACHE
from tests.benchmarks.command import bench
from tests.benchmarks.test_compare import GRAPH, virtual_rig
from tests.benchmarks.virtual import run
from tests.conftest import real_servers

SETTINGS = HttpSettings(
    phases=(QUERY.slug, CACHE.slug), graph="powerlaw:14:3", people=14, limit=5, first=50, most=10_000, slo_ms=50,
    seconds=1, seed=1,
)  # fmt: skip


def recorded(*groups: tuple[int, float]) -> Latencies:
    """(how many, seconds)"""
    latencies = Latencies()
    for count, seconds in groups:
        for _ in range(count):
            latencies.record(seconds)
    return latencies


def keeping_up(most: float, *, late_s: float = 0) -> At:
    """A system that answers in 10 ms up to a rate, and in 200 above it; there its generator may be late."""

    async def at(rate: float, requests: int) -> Offered:
        slow = rate > most
        took_s, was_late_s = (0.2, late_s) if slow else (0.01, 0)
        latencies, late, served = (recorded((requests, s)) for s in (took_s, was_late_s, took_s - was_late_s))
        return Offered(latencies, late, served, requests / rate)

    return at


def climbed(at: At, **changes: Any) -> capacity.Climbed:
    return asyncio.run(climb(at, SETTINGS.model_copy(update=changes)))


@pytest.mark.parametrize("most", [37.0, 240.0, 1_111.0])
def test_the_capacity_is_found_to_a_tenth(most: float) -> None:
    found = climbed(keeping_up(most))
    assert found.capacity
    assert most / 1.1 <= found.capacity <= most
    assert found.ended_by == "slo"
    held = found.steps[-1]
    assert (held.rate, held.outcome) == (found.capacity, "met")
    assert held.answered >= min(10_000, 60 * held.rate), "held over all the samples, or for a minute"
    assert ("p99.9" in held.latency_ms) == (held.answered >= 10_000)
    assert all(step.answered >= 1_000 for step in found.steps)


def test_what_is_met_once_and_not_held_is_no_capacity() -> None:
    async def tires(rate: float, requests: int) -> Offered:
        """Of many requests."""
        return await keeping_up(240 if requests < 5_000 else 200)(rate, requests)

    found = climbed(tires)
    assert found.capacity
    assert 180 <= found.capacity <= 200
    assert found.ended_by == "slo"


def test_nothing_holds_or_everything_does() -> None:
    assert climbed(keeping_up(0.1))[1:] == (None, "slo")
    assert climbed(keeping_up(1e9), most=300)[1:] == (300, "most")


def test_where_the_generator_is_late_nothing_is_said_of_the_system() -> None:
    found = climbed(keeping_up(240, late_s=0.19))
    late = [step for step in found.steps if step.rate > 240]
    assert {step.outcome for step in late} == {"generator late"}
    assert all(not step.latency_ms and step.late_ms == pytest.approx(190, rel=0.01) for step in late)
    assert found.ended_by == "generator"
    assert climbed(keeping_up(240, late_s=0.02)).ended_by == "slo", "that alone explains nothing"


def test_a_generator_that_was_late_with_others_excuses_nobody() -> None:
    """Of a thousand 15 were taken up late, and 15 others were answered late: without the former p99 is no better."""
    latencies, late = recorded((970, 0.01), (30, 0.1)), recorded((985, 0), (15, 0.09))
    assert step_of(100, Offered(latencies, late, recorded((985, 0.01), (15, 0.1)), 10), 50).outcome == "missed"
    assert step_of(100, Offered(latencies, late, recorded((1_000, 0.01)), 10), 50).outcome == "generator late"


def test_no_percentile_without_its_samples() -> None:
    assert set(recorded((9, 0.01)).figures()) == {"max"}
    assert set(recorded((99, 0.01)).figures()) == {"p50", "max"}
    assert set(recorded((999, 0.01)).figures()) == {"p50", "p90", "max"}
    assert set(recorded((1_000, 0.01)).figures()) == {"p50", "p90", "p99", "max"}
    assert "p99.9" not in recorded((9_999, 0.01)).figures()
    assert "p99.9" in recorded((10_000, 0.01)).figures()
    assert recorded().figures() == {}
    few = step_of(100, Offered(recorded((999, 0.01)), recorded(), recorded((999, 0.01)), 10), 50)
    assert few.outcome != "met", "without a p99 nobody knows"


def test_a_step_that_was_given_up_has_no_figures() -> None:
    quick = recorded((5_000, 0.01))
    step = step_of(100, Offered(quick, recorded((5_000, 0)), quick, 50, gave_up=True), 50)
    assert step.outcome == "missed"
    assert not step.latency_ms


def test_one_wrong_answer_is_too_many() -> None:
    right = Answered(10, 1.0, "", "", "")
    assert checked(right) is right
    with pytest.raises(WrongAnswer, match="1 of 11"):
        checked(Answered(10, 1.0, "", "", "", {WRONG_PAGE: 1}))
    with pytest.raises(NotAnswered, match="HTTP 503: 2"):
        checked(Answered(10, 1.0, "", "", "", {"HTTP 503": 2}))


def ended_in_the_second_phase(monkeypatch: pytest.MonkeyPatch, end: BaseException) -> HttpReport | None:
    """What there is to show then."""

    @asynccontextmanager
    async def asked(rig: Rig, readers: Any, slug: str, *_: object) -> AsyncIterator[At]:
        async def at(rate: float, requests: int) -> Offered:
            if slug == CACHE.slug and rate > SETTINGS.first:
                raise end
            return await keeping_up(120)(rate, requests)

        yield at

    monkeypatch.setattr(capacity, "asked_warm", asked)

    async def work() -> Any:
        async with virtual_rig((QUERY, CACHE)) as rig:
            with pytest.raises(type(end)):
                await http(rig, GRAPH, SETTINGS)
            return rig.so_far

    report: HttpReport | None = run(work())
    return report


def test_what_was_measured_is_there_when_a_server_dies(monkeypatch: pytest.MonkeyPatch) -> None:
    report = ended_in_the_second_phase(monkeypatch, NotAnswered("lost: closed: 1"))
    assert report
    assert report.unfinished
    assert [(each.phase, each.ended_by) for each in report.climbs] == [(QUERY.slug, "slo"), (CACHE.slug, "unfinished")]
    assert [step.rate for step in report.climbs[1].steps] == [SETTINGS.first]
    assert "BROKEN OFF" in says(report)[0]
    capacities, steps = grids(report)
    assert [row[1] for row in capacities.rows][1] == "-"
    assert len(steps.rows) == sum(len(each.steps) for each in report.climbs)


def test_a_wrong_page_takes_all_figures_along(monkeypatch: pytest.MonkeyPatch) -> None:
    assert ended_in_the_second_phase(monkeypatch, WrongAnswer("another page")) is None


def test_each_round_climbs_anew(monkeypatch: pytest.MonkeyPatch) -> None:
    rounds = iter([120, 240])

    @asynccontextmanager
    async def asked(*_: object) -> AsyncIterator[At]:
        yield keeping_up(next(rounds))

    monkeypatch.setattr(capacity, "asked_warm", asked)

    async def work() -> HttpReport:
        async with virtual_rig((CACHE,)) as rig:
            return await http(rig, GRAPH, SETTINGS.model_copy(update={"phases": (CACHE.slug,), "rounds": 2}))

    report: HttpReport = run(work())
    assert not report.unfinished
    assert [(each.round, each.web, each.readers) for each in report.climbs] == [(1, 1, "warm"), (2, 1, "warm")]
    first, second = (each.capacity for each in report.climbs)
    assert first
    assert second
    assert 120 / 1.1 <= first <= 120 < 240 / 1.1 <= second <= 240
    shown = [row for row in flat(report) if row[1].endswith(".capacity")]
    assert shown == [
        (CACHE.slug, "1 web.warm.0 pending.round 1.capacity", first),
        (CACHE.slug, "1 web.warm.0 pending.round 2.capacity", second),
    ]


@pytest.mark.parametrize(
    ("options", "complaint"),
    [
        (("http", "--phases", "query,pull"), "no 'pull'"),
        (("backlog", "--phases", "query"), "no 'query'"),
        (("http", "--graph", "powerlaw:2"), "powerlaw:USERS:MEAN"),
        (("http", "--slo", "nan"), "no number"),
    ],
)
def test_wrong_options_are_refused_in_one_line(options: Sequence[str], complaint: str) -> None:
    refused = bench(*options)
    assert refused.exit_code == 2
    assert complaint in refused.output


@pytest.fixture
def few_samples(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("p50", "p90", "p99", "p99.9"):
        monkeypatch.setitem(SAMPLES, name, 12)
    monkeypatch.setattr(capacity, "BURN_IN_S", 0.2)


SMALL = ("--graph", "powerlaw:40:5", "--people", "30", "--seconds", "0.2", "--first", "40", "--slo", "60000")


@pytest.mark.servers
def test_pages_over_http_for_real(few_samples: None, tmp_path: Path) -> None:
    """Web processes and the generator are processes of their own; strangers come to new ones."""
    written = tmp_path / "report.json"
    with real_servers():
        one = ("--phases", CACHE.slug, "--web", "1", "--most", "40", "--rounds", "1")
        done = bench("http", *SMALL, *one, "--json", str(written))
    assert done.exit_code == 0, done.output
    report = read_report(written)
    assert isinstance(report, HttpReport)
    assert [(each.round, each.web, each.readers, each.capacity) for each in report.climbs] == [
        (1, 1, "warm", 40),
        (1, 1, "strangers", 40),
    ]
    assert not report.unfinished
    assert {step.outcome for each in report.climbs for step in each.steps} == {"met"}
    assert (CACHE.slug, "1 web.strangers.0 pending.round 1.capacity", 40) in list(flat(report))
    assert page(report).count('<svg viewBox="0 0 640') == 2
    assert "≥ 40" in done.output
    kept = tmp_path / "kept.json"
    kept.write_text(text(report, large=False), encoding="utf-8")
    assert read_report(kept) == report


@pytest.mark.servers
def test_a_backlog_for_real(few_samples: None, tmp_path: Path) -> None:
    """Posted over HTTP while the worker stands still, and worked off under load; every page is the oracle's."""
    written = tmp_path / "report.json"
    options = ("--phases", CACHE.slug, "--most-pending", "100", "--most", "40", "--json", str(written))
    with real_servers():
        done = bench("backlog", *SMALL, *options)
    assert done.exit_code == 0, done.output
    report = read_report(written)
    assert isinstance(report, Backlog)
    assert [(each.climb.pending, each.climb.capacity) for each in report.levels] == [(0, 40), (100, 40)]
    assert report.levels[0].to_none == 1
    [drain] = report.drains
    assert drain.pending == 100
    assert drain.gone_s
    assert drain.gone_s > 0
    assert (CACHE.slug, "100 pending.gone_s", drain.gone_s) in list(flat(report))
    assert page(report).count('<svg viewBox="0 0 640') == 1
    assert "÷ with none" in done.output


def test_the_most_that_may_be_pending_is_the_highest_level_there_is(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("benchmarks.cli._measured", lambda *_, **__: None)
    refused = bench("backlog", "--graph", "powerlaw:12:2", "--most-pending", "10001")
    assert refused.exit_code == 2
    assert f"0<=x<={backlog.LEVELS[-1]}" in refused.output
    said = " ".join(bench("backlog", "--help").output.split())
    *levels, last = (f"{level:,}" for level in backlog.LEVELS)
    assert f"Of {', '.join(levels)} and {last} statuses." in said
