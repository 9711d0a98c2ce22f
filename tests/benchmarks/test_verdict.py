"""What is said of figures that are known: told where it can be, and not where it cannot."""

import json
import math
import re
from collections.abc import Mapping, Sequence
from math import inf, nan
from random import Random
from typing import Any

import pytest
from pydantic import ValidationError

from benchmarks.measure import Latencies, Offered
from benchmarks.page import page
from benchmarks.report import (
    KINDS,
    Cell,
    Climb,
    Comparison,
    HttpReport,
    HttpSettings,
    Kept,
    Origin,
    Population,
    Settings,
)
from benchmarks.summary import ratios, summary
from benchmarks.tables import TOO_FEW, grids, says
from benchmarks.verdict import to_the_best
from benchmarks.workload import load
from phases.p1_query import QUERY
from phases.p2_push import PUSH
from phases.p3_queue import QUEUE
from phases.p4_cache import CACHE
from phases.p6_hybrid import HYBRID
from tests.benchmarks.test_results import REPORT

Rounds = Sequence[Mapping[str, float]]  # of one phase: in each round the milliseconds of every kind


def cell(slug: str, number: int, ms: Mapping[str, float], count: int, **changes: Any) -> Cell:
    """A round in which every operation of a kind takes as long."""
    latencies = {kind: Latencies() for kind in KINDS}
    for kind, each in ms.items():
        for _ in range(count):
            latencies[kind].record(each / 1000)
    fields: dict[str, Any] = {
        "round": number,
        "phase": slug,
        "offered": Offered(count, 1.0, 0.0),
        "elapsed_s": 1.0,
        "operations_per_s": float(count),
        "counts": {"read": count},
        "errors": {},
        "latency_ms": {kind: each.figures() for kind, each in latencies.items()},
        "histograms": {kind: each.encoded() for kind, each in latencies.items() if each.count},
        "deliveries": 0,
        "deliveries_per_s": 0.0,
        "lag_resolution_ms": None,
        "lag_checked": 0,
        "commands": {},
        "cpu_s": {"web": 1.0},
        "server_commands": None,
        "kept": Kept(),
        "drained": True,
        "checked_pages": 1,
    }
    return Cell(**fields | changes)


def comparison(of: Mapping[str, Rounds], count: int = 100, **changes: Any) -> Comparison:
    cells = [cell(slug, n, ms, count, **changes) for slug, rounds in of.items() for n, ms in enumerate(rounds, 1)]
    by_phase = {slug: [each for each in cells if each.phase == slug] for slug in of}
    return Comparison(
        **REPORT.model_dump(include={*Origin.model_fields}),
        settings=Settings(
            phases=tuple(of),
            workload="read-heavy",
            graph="powerlaw:14:3",
            seconds=1,
            rounds=max(map(len, of.values())),
            seed=1,
            through="inprocess",
            burn_in_s=0,
            rate=100,
        ),
        workload=load("read-heavy"),
        graph=Population(source="powerlaw:14:3", people=14, follows=42, mean_followers=3, most_followers=9),
        elapsed_s=1.0,
        cells=cells,
        phases={slug: summary(each) for slug, each in by_phase.items()},
        ratios=ratios(cells, QUERY.slug),
    )


def pages(*ms: float) -> Rounds:
    return [{"read_warm": each} for each in ms]


def said_of_pages(report: Comparison) -> str:
    [sentence] = [sentence for sentence in says(report) if sentence.startswith("Warm page, median: ")]
    return sentence.removeprefix("Warm page, median: ")


def test_who_is_quicker_by_how_much_and_with_which_spread() -> None:
    report = comparison({QUERY.slug: pages(20, 21, 19), PUSH.slug: pages(10, 10.1, 9.9)})
    told = re.fullmatch(
        r"push \(10 ms\) is quickest; query takes (.*) times \((.*) to (.*)\) as long\.", said_of_pages(report)
    )
    assert told
    ratio, low, high = map(float, told.groups())
    assert ratio == pytest.approx(2, abs=0.01)
    assert 1.7 < low < ratio < high < 2.3


def test_a_tie_is_no_difference() -> None:
    same = pages(10, 12, 11)
    assert said_of_pages(comparison({QUERY.slug: same, PUSH.slug: same})) == (
        "no difference can be told between query (11 ms) and push (11 ms)."
    )


def test_what_a_round_turns_round_is_no_difference() -> None:
    """A quarter quicker on average, and slower in one round of three."""
    report = comparison({QUERY.slug: pages(20, 19, 10), PUSH.slug: pages(10, 10, 15)})
    assert said_of_pages(report).startswith("no difference can be told between push")


def test_of_three_the_quick_ones_are_named_together() -> None:
    quick, same, slow = pages(10, 11, 10), pages(10.5, 10.5, 10), pages(30, 31, 30)
    said = said_of_pages(comparison({QUERY.slug: slow, PUSH.slug: quick, QUEUE.slug: same}))
    assert re.fullmatch(
        r"no difference can be told between push .* and queue .*; query takes 2\.\d\d times \(.*\) as long as push\.",
        said,
    )


@pytest.mark.parametrize(("count", "tail"), [(99, None), (100, "p90"), (1_000, "p99")])
def test_the_farthest_percentile_that_is_carried_is_told_too(count: int, tail: str | None) -> None:
    said = says(comparison({QUERY.slug: pages(20, 21), PUSH.slug: pages(10, 10)}, count=count))
    named = [sentence.split(":")[0] for sentence in said if sentence.startswith("Warm page")]
    assert named == ["Warm page, median", *([f"Warm page, {tail}"] if tail else [])]


def test_one_round_has_no_spread() -> None:
    said = said_of_pages(comparison({QUERY.slug: pages(100), PUSH.slug: pages(1)}))
    assert said == "query (100 ms) and push (1 ms); one round has no spread, so no difference can be told."


def test_whoever_has_one_round_only_keeps_nobody_from_being_compared() -> None:
    report = comparison({QUERY.slug: pages(20, 21, 20), PUSH.slug: pages(5, 5, 5), CACHE.slug: pages(1)})
    assert said_of_pages(report).endswith("; too few samples of cache.")
    assert "push (5 ms) is quickest; query takes" in said_of_pages(report)


def test_one_phase_has_nothing_beside_it() -> None:
    assert says(comparison({PUSH.slug: pages(1, 2)})) == [
        "Only push was measured: there is nothing to compare it with."
    ]


def test_too_few_samples_carry_no_sentence_and_no_percentile() -> None:
    """p50 of 9 a round, p99.9 of 4: neither is a figure."""
    report = comparison({QUERY.slug: pages(10, 10), PUSH.slug: pages(1, 1)}, count=4)
    assert said_of_pages(report) == "nothing can be told; too few samples of query and push."
    table = grids(report)[0]
    for row in table.rows:
        assert row[2:] == ["8", *[TOO_FEW] * 4, row[-1]]
        assert row[-1] != TOO_FEW, "the slowest is what it is"
    assert not any("p50" in row[0] for grid in grids(report) for row in grid.rows), "no ratios of them either"


def test_a_run_that_was_broken_off_has_samples_enough_in_each_of_its_rounds() -> None:
    """100 a round carry a p90, however many rounds are missing; and of the same rounds are ratio and milliseconds."""
    report = comparison({QUERY.slug: pages(20, 20, 90), PUSH.slug: pages(10, 10)})
    settings = report.settings.model_copy(update={"rounds": 40})
    report = report.model_copy(update={"settings": settings})
    said = [sentence for sentence in says(report) if sentence.startswith("Warm page")]
    assert [each.split(":")[0] for each in said] == ["Warm page, median", "Warm page, p90"]
    for sentence in said:
        assert re.search(r"push \(10 ms\) is quickest; query takes 2\.00 times", sentence), sentence
    slow = said_of_pages(comparison({QUERY.slug: pages(10, 10, 1), PUSH.slug: pages(10, 10)}))
    assert slow == "no difference can be told between query (10 ms) and push (10 ms)."
    ratios_of = {row[0] for grid in grids(report) for row in grid.rows if row[1] == PUSH.slug}
    assert "warm page, p50" in ratios_of


def test_more_samples_carry_more_percentiles() -> None:
    rows = grids(comparison({QUERY.slug: pages(10, 10), PUSH.slug: pages(1, 1)}, count=500))[0].rows
    assert [cell == TOO_FEW for cell in rows[0][3:]] == [False, False, False, True, False]


def test_who_delivers_at_once_has_no_delivery_lag() -> None:
    rounds = [{"read_warm": 1.0, "lag": 0.001}] * 2
    report = comparison({PUSH.slug: rounds, QUEUE.slug: [{"read_warm": 1.0, "lag": 20.0}] * 2})
    [lag] = [sentence for sentence in says(report) if sentence.startswith("Delivery lag, median")]
    assert lag == "Delivery lag, median: queue (20 ms), with nothing to compare it with."
    assert [row[0] for row in grids(report)[0].rows if row[1] == "delivery lag"] == [QUEUE.slug]
    assert not any("lag" in sentence for sentence in says(comparison({QUERY.slug: pages(1, 1), PUSH.slug: rounds})))


def test_a_lag_without_what_was_not_delivered_is_not_compared() -> None:
    """The longest are missing, in one round of phase 3 and in all of phase 6."""
    lags = {QUEUE.slug: (90.0, 5.0, 90.0), CACHE.slug: (20.0, 20.0, 20.0), HYBRID.slug: (1.0, 1.0, 1.0)}
    report = comparison({slug: [{"lag": ms} for ms in rounds] for slug, rounds in lags.items()})
    late = {(QUEUE.slug, 2), *((HYBRID.slug, number) for number in (1, 2, 3))}
    over = [cell.model_copy(update={"drained": (cell.phase, cell.round) not in late}) for cell in report.cells]
    [lag] = [
        each for each in says(report.model_copy(update={"cells": over})) if each.startswith("Delivery lag, median")
    ]
    assert lag.startswith("Delivery lag, median: cache (20 ms) is quickest; queue takes 4.50 times")
    assert HYBRID.slug not in lag


def test_a_round_in_which_operations_failed_is_not_compared() -> None:
    """Push is quick in its second round since whatever takes long is refused; all of the cache's have refusals."""
    report = comparison({QUERY.slug: pages(10, 10, 10), PUSH.slug: pages(30, 1, 30), CACHE.slug: pages(1, 1, 1)})
    failed = {(PUSH.slug, 2), *((CACHE.slug, number) for number in (1, 2, 3))}
    cells = [
        cell.model_copy(update={"errors": {"read: HTTP 503": 9} if (cell.phase, cell.round) in failed else {}})
        for cell in report.cells
    ]
    report = report.model_copy(update={"cells": cells, "ratios": ratios(cells, QUERY.slug)})
    assert said_of_pages(report).startswith("query (10 ms) is quickest; push takes 3.00 times")
    for sentence in says(report):
        assert CACHE.slug not in sentence, sentence
    of = report.ratios[PUSH.slug]["read_warm_ms p50"]
    assert [of.min, of.max] == pytest.approx([3, 3], rel=0.01)
    assert CACHE.slug not in report.ratios


def test_a_lag_without_what_was_not_delivered_has_no_ratio() -> None:
    lags = {QUEUE.slug: [{"lag": 5.0}] * 2, CACHE.slug: [{"lag": 1.0}] * 2}
    cells = comparison(lags).cells
    late = [cell.model_copy(update={"drained": (cell.phase, cell.round) != (CACHE.slug, 1)}) for cell in cells]
    shares = [ratios(some, QUEUE.slug)[CACHE.slug]["lag_ms p50"] for some in (cells, late)]
    assert shares[0] == shares[1]
    assert "lag_ms p50" not in ratios([each for each in late if each.round == 1], QUEUE.slug)[CACHE.slug]


@pytest.mark.parametrize(
    ("change", "doubt"),
    [
        (
            {"offered": Offered(10, 4.0, 0.0)},  # nobody began late: a thousand may be under way
            "query did not keep up with 100/s: the last answer came 3.0 s after the last operation was due.",
        ),
        (
            {"drained": False},
            "query had not delivered everything when its time was up: its delivery lag is of the rest, and is compared "
            "in no such round.",
        ),
        (
            {"errors": {"post: HTTP 503": 2}},
            "4 operations of query failed; its figures are of the others, and are compared in no such round.",
        ),
    ],
)
def test_doubts_come_first(change: dict[str, Any], doubt: str) -> None:
    assert says(comparison({QUERY.slug: pages(1, 1), PUSH.slug: pages(1, 1)}, **change))[0] == doubt


def test_nothing_is_said_of_standins() -> None:
    report = comparison({QUERY.slug: pages(100, 100), PUSH.slug: pages(1, 1)})
    [said] = says(report.model_copy(update={"meaningless": True}))
    assert "MEANINGLESS" in said
    assert "push" not in said


def test_of_two_the_interval_is_students() -> None:
    """Of the ratios 1, 2 and 4: mean 2, and 4.303 standard errors of log 2 / sqrt 3 on either side."""
    best, others = to_the_best({"a": {1: 1, 2: 2, 3: 4}, "b": {1: 1, 2: 1, 3: 1}})
    of = others["a"]
    assert best == "b"
    assert of.ratio == pytest.approx(2)
    assert of.high / of.ratio == pytest.approx(2 ** (4.303 / 3**0.5), rel=0.001)
    assert of.low == pytest.approx(4 / of.high)
    assert not of.told


def test_of_six_that_are_equal_hardly_a_sentence_tells_a_difference() -> None:
    """Three rounds that vary by a tenth, 300 times: Student's intervals of each pair tell one in 29 % of them."""
    draw = Random(1)
    told = 0
    for _ in range(300):
        figures = {slug: {number: math.exp(draw.gauss(0, 0.1)) for number in range(3)} for slug in "abcdef"}
        told += any(of.told for of in to_the_best(figures)[1].values())
    assert told / 300 < 0.08


def test_only_rounds_that_all_have_are_compared() -> None:
    best, others = to_the_best({"a": {1: 2, 2: 2, 3: 1000}, "b": {1: 1, 2: 1}})
    assert best == "b"
    assert others["a"].ratio == pytest.approx(2)


@pytest.mark.parametrize("number", [nan, inf, -inf])
def test_no_report_holds_what_is_no_number(number: float) -> None:
    with pytest.raises(ValidationError):
        cell(QUERY.slug, 1, {}, 1, operations_per_s=number)
    with pytest.raises(ValidationError):
        Cell.model_validate_json(json.dumps(cell(QUERY.slug, 1, {}, 1).model_dump() | {"elapsed_s": number}))


def test_a_cell_holds_one_figure_and_words_instead_of_keys() -> None:
    rounds = [dict.fromkeys(KINDS, 5.0)] * 2
    for grid in grids(comparison({QUERY.slug: rounds, PUSH.slug: rounds, QUEUE.slug: rounds})):
        assert grid.rows, grid
        for row in grid.rows:
            assert all(re.fullmatch(r"[\d.,]+|-|yes|NO|too few", cell) for cell in row[grid.texts :]), row
            assert not any("_" in cell for cell in row), row


def test_axes_say_what_they_are() -> None:
    drawn = page(comparison({QUERY.slug: pages(10, 11), PUSH.slug: pages(20, 21)}))
    assert "one operation in … (logarithmic)" in drawn
    assert "… took longer than … milliseconds (logarithmic)" in drawn
    assert drawn.index('class="says"') < drawn.index("<svg") < drawn.index("<table"), "the verdict comes first"


def held(**capacities: Sequence[float | None]) -> HttpReport:
    """The capacities of the rounds, by phase."""
    return HttpReport(
        **REPORT.model_dump(include={*Origin.model_fields}),
        settings=HttpSettings(
            phases=tuple(capacities), graph="g", people=1, limit=20, first=1, most=1, slo_ms=50, seconds=1, seed=1
        ),
        graph=Population(source="g", people=2, follows=1, mean_followers=0.5, most_followers=1),
        climbs=[
            Climb(phase=slug, web=1, readers="warm", round=number, steps=[], capacity=rate, ended_by="slo")
            for slug, rates in capacities.items()
            for number, rate in enumerate(rates, 1)
        ],
    )


@pytest.mark.parametrize(
    ("report", "said"),
    [
        (
            held(query=[100, 98, 103], cache=[300, 310, 290]),
            "cache (300) holds the most pages a second at p99 ≤ 50 ms, 2.99 times (2.59 to 3.46) as many as query",
        ),
        (
            held(query=[100, 200, 150], cache=[300, 150, 250], push=[1_000, 1_100, 950]),
            "push (1,000) holds the most pages a second at p99 ≤ 50 ms",
        ),
        (
            held(query=[100, 200, 150], cache=[200, 150, 100]),
            "no difference can be told between query (150) and cache (150) pages a second",
        ),
        (held(query=[None] * 3, cache=[100] * 3), "cache (100) pages a second at p99 ≤ 50 ms, with nothing to compare"),
        (
            held(query=[None, 90, 90], cache=[100, 90, 110]),
            "cache (100) pages a second at p99 ≤ 50 ms, with nothing to",
        ),
        (held(query=[100], cache=[900]), "cache (900) and query (100) pages a second at p99 ≤ 50 ms; one round has no"),
        (held(query=[None]), "query held no rate in 1 of 1 rounds."),
        (held(query=[None, None, 200, 210, 220]), "query (200) held no rate in 2 of 5 rounds."),
    ],
)
def test_rates_that_are_held(report: HttpReport, said: str) -> None:
    [sentence] = says(report)
    assert sentence.startswith(f"1 web process, warm: {said}")


def test_a_phase_that_held_no_rate_is_named_and_keeps_nobody_from_being_compared() -> None:
    """The rounds in which it held one are not the usual ones."""
    report = held(query=[None, None, 200], cache=[300, 310, 290], push=[100, 98, 103])
    [sentence] = says(report)
    assert re.fullmatch(
        r".*: cache \(300\) holds the most .*, 2\.99 times \(.*\) as many as push; "
        r"query held no rate in 2 of 3 rounds\.",
        sentence,
    )
    capacities, _ = grids(report)
    assert [row[1] for row in capacities.rows] == ["none (none to 200)", "300 (290 to 310)", "100 (98 to 103)"]


def open_ended(report: HttpReport, slug: str) -> HttpReport:
    """The same, where more was not asked for in the first climb of this phase."""
    first = next(climb for climb in report.climbs if climb.phase == slug)
    more = [climb.model_copy(update={"ended_by": "most"}) if climb is first else climb for climb in report.climbs]
    return report.model_copy(update={"climbs": more})


def test_more_than_was_asked_for_is_not_less() -> None:
    report = held(query=[100, 98, 103], cache=[300, 310, 290])
    [sentence] = says(open_ended(report, QUERY.slug))
    assert "no difference can be told between cache (300) and query (≥ 100)" in sentence
    [sentence] = says(open_ended(report, CACHE.slug))
    assert "cache (≥ 300) holds the most pages a second at p99 ≤ 50 ms, at least 2.99 times" in sentence


def test_of_several_climbs_the_one_in_the_middle_is_shown() -> None:
    report = held(query=[100, None, 250], cache=[300, 310])
    middles = [report.middle(phase.slug, 1, "warm") for phase in (QUERY, CACHE)]
    shown = [climb and climb.capacity for climb in middles]
    assert shown == [100, 300]
    capacities, _ = grids(report)
    assert [row[1] for row in capacities.rows] == ["100 (none to 250)", "300 (300 to 310)"]


def test_processor_time_is_of_the_operations_of_the_burn_in_too_and_of_no_load_generator() -> None:
    """100 operations count, and 50 in the burn-in: 3 s of MongoDB and web process are 20 ms of each."""
    used = {"mongod": 1.0, "web": 2.0, "harness": 6.0}
    report = comparison({QUERY.slug: pages(1, 1), PUSH.slug: pages(1, 1)}, cpu_s=used, elapsed_s=1.5)
    settings = report.settings.model_copy(update={"burn_in_s": 0.5})
    said = says(report.model_copy(update={"settings": settings}))
    assert any(
        sentence.startswith("Processor time of an operation") and "query (20 ms)" in sentence for sentence in said
    )


def test_processor_time_is_of_an_operation_however_many_there_are_in_a_second() -> None:
    """A closed loop does twice as many where each needs half: a second costs the same."""
    slow, quick = ([cell(slug, 1, {}, n, cpu_s={"harness": 1.0})] for slug, n in ((QUERY.slug, 50), (PUSH.slug, 100)))
    assert ratios(slow + quick, QUERY.slug)[PUSH.slug]["cpu an operation"].median == 0.5
