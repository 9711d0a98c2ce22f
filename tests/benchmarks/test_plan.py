"""The plan against brute force: every event of a day is simulated, and added up one by one."""

import os
import time
from dataclasses import replace
from pathlib import Path
from random import Random

import pytest
from bson import ObjectId

from app.config import DAY_S
from app.demo.graph import powerlaw
from benchmarks import answers, curves, plan
from benchmarks.observe import processor_s
from benchmarks.plan import Load, need
from benchmarks.report import Costs, JobTime, Machine, PhaseUnits, Plan, Units, text
from benchmarks.report import load as load_report
from benchmarks.results import FOLDER
from benchmarks.tables import grids, says
from benchmarks.targets.base import Alone
from benchmarks.units import BURST, Round, margin, split, units_of
from phases import PHASES
from phases.base import Phase
from phases.keeping.entries import Entries
from phases.p1_query import QUERY
from phases.p3_queue import QUEUE
from phases.p4_cache import CACHE
from phases.p6_hybrid import DELIVERY_US, HYBRID, PULLED_US
from tests.benchmarks.command import bench

NAMED = {phase.slug: phase for phase in PHASES}
ENTRY_BYTES = Entries.bytes_per_entry
PROCESSES = ("harness", "worker", "redis", "mongod", "memcached")


def cost(us: float, commands: float = 1) -> Costs:
    return Costs(
        s=us / 1e6,
        cpu_s=dict.fromkeys(PROCESSES, us / 5e6),
        commands={"mongodb": commands, "redis": 0.0, "memcached": 0.0},
    )


def units(post: float, delivery: float, reads: tuple[float, ...], cold: float | None = None) -> PhaseUnits:
    return PhaseUnits(
        post=cost(post),
        delivery=cost(delivery, 0.01),
        job_s=JobTime(fixed=0.003, each=delivery / 1e6),
        reads=[cost(read) for read in reads],
        cold=[cost(cold)] * 4 if cold else None,
        acknowledged_s=(0.002, 0.02 if delivery > 50 else 0.002),
    )


MEASURED = Units(
    meaningless=False,
    made_at="2026-01-01",
    commit=None,
    machine=Machine(processor="P", cores=2, memory_gb=1.0, system="Linux", python="3"),
    servers={},
    packages={},
    config={},
    write_concern="majority",
    settings={},
    followees=[10, 100, 200, 1_000],
    units={
        "query": units(1_000, 0, (1_500, 2_500, 3_000, 12_000)),
        "push": units(2_000, 60, (1_500, 1_500, 1_500, 1_500)),
        "queue": units(4_000, 50, (1_500, 1_500, 1_500, 1_500)),
        "cache": units(4_000, 20, (1_200, 1_200, 1_200, 1_200), cold=6_000),
    },
)


# A pulled author costs a page a tenth of what a delivery costs.
WITH_HYBRID = MEASURED.model_copy(
    update={
        "units": {
            slug: each.model_copy(update={"post": cost(3_000 if slug == "push" else 400)})
            for slug, each in MEASURED.units.items()
        }
        | {HYBRID.slug: MEASURED.units["cache"].model_copy(update={"post": cost(400), "pulled": cost(2)})}
    }
)
CELEBRITIES = Load(  # of the 150 whom somebody follows 100 have 100,000 followers
    1_000_000, 150, 100_000, posts_per_day=2_000_000, reads_per_day=400_000, active_share=0.2
)


def test_celebrities_are_pulled_where_their_posts_are_dearer_than_the_asking() -> None:
    """Two posts a day of each, and two pages a day of each active reader: 2 deliveries at 20 us, 2 askings at 2."""
    cache, hybrid = (need(CELEBRITIES, WITH_HYBRID, NAMED[slug]) for slug in ("cache", HYBRID.slug))
    assert cache.deliveries_per_day == pytest.approx(2_000_000 * 150 * 0.2)
    assert hybrid.deliveries_per_day == pytest.approx(2_000_000 * 50 * 0.2)
    saved_s, asked_s = 2_000_000 * 100 * 0.2 * 20e-6, 400_000 * 100 * 2e-6
    assert cache.cpu_s_per_day - hybrid.cpu_s_per_day == pytest.approx(saved_s - asked_s)
    assert hybrid.lag_heaviest_s == 0
    assert (cache.lag_heaviest_s or 0) > 0


@pytest.mark.parametrize(
    "change",
    [{"reads_per_day": 5_000_000}, {"most_followers": 4_000}, {"active_share": 0.005, "reads_per_day": 10_000}],
    ids=["read more than they write", "nobody is a celebrity", "few of their followers are there"],
)
def test_otherwise_the_hybrid_is_phase_4(change: dict[str, float]) -> None:
    load = replace(CELEBRITIES, **change)  # type: ignore[arg-type]
    cache, hybrid = (need(load, WITH_HYBRID, NAMED[slug]) for slug in ("cache", HYBRID.slug))
    assert hybrid.model_copy(update={"phase": "cache"}) == cache


def test_the_hybrid_is_recommended_where_it_alone_fits_with_its_threshold() -> None:
    """So many pages are too much for phase 1, and so many deliveries for phase 4's worker."""
    busy = replace(CELEBRITIES, posts_per_day=30_000_000, reads_per_day=40_000_000)
    job_s, units = JobTime(fixed=0.0005, each=20e-6), WITH_HYBRID.units
    quick = {slug: each.model_copy(update={"job_s": job_s}) for slug, each in units.items()}
    planned = plan.plan(busy, WITH_HYBRID.model_copy(update={"units": quick}))
    assert planned.recommendation.fits == [HYBRID.slug]
    assert planned.recommendation.phase == HYBRID.slug
    assert "which alone fits" in planned.recommendation.reason
    [threshold] = [line for line in planned.crossings if line.what.endswith(f"in {HYBRID.slug}")]
    assert threshold.at == "0.1"


def brute_force(slug: str, posts: int, reads: int, active_share: float) -> tuple[Load, float, int]:
    """The load, and what a simulated day costs: processor seconds and deliveries, event by event."""
    graph, draw = powerlaw(400, 12, 1), Random(7)
    people = len(graph.people)
    followers: list[list[int]] = [[] for _ in range(people)]
    followees = [0] * people
    for follower, followee in graph.follows():
        followers[followee].append(follower)
        followees[follower] += 1
    active = {person for person in range(people) if draw.random() < active_share}
    of, phase = MEASURED.units[slug], NAMED[slug]
    total, deliveries = 0.0, 0
    for _ in range(posts):
        author = draw.randrange(people)
        total += of.post.cpu_total_s
        for follower in followers[author]:
            if phase.store and (not answers.active_only(phase) or follower in active):
                deliveries += 1
                total += of.delivery.cpu_total_s
    sizes = MEASURED.followees
    for _ in range(reads):
        reader = draw.randrange(people)
        costs = [read.cpu_total_s for read in of.reads]
        total += plan.at(list(zip(sizes, costs, strict=True)), followees[reader])
    load = plan.load_of(graph, posts_per_day=posts, reads_per_day=reads, active_share=active_share)
    return load, total, deliveries


@pytest.mark.parametrize("slug", MEASURED.units)
def test_work_of_a_day(slug: str) -> None:
    load, total, deliveries = brute_force(slug, posts=4_000, reads=20_000, active_share=0.25)
    needed = need(load, MEASURED, NAMED[slug])
    assert needed.cpu_s_per_day == pytest.approx(total, rel=0.05)
    assert needed.deliveries_per_day == pytest.approx(deliveries, rel=0.15)  # who is active is a draw of 400


def test_kept_is_what_arrives_up_to_the_cap() -> None:
    draw, cap = Random(3), 50
    graph = powerlaw(300, 10, 2)
    kept = [0] * 300
    by_author: list[list[int]] = [[] for _ in range(300)]
    for follower, followee in graph.follows():
        by_author[followee].append(follower)
    for _ in range(30 * 100):
        for reader in by_author[draw.randrange(300)]:
            kept[reader] = min(cap, kept[reader] + 1)
    load = plan.load_of(graph, posts_per_day=100, reads_per_day=0, active_share=1, cap=cap, retention_days=30)
    _, disk = plan.kept_bytes(load, NAMED["push"])
    assert disk >= sum(kept) * ENTRY_BYTES, "readers differ and the cap cuts the busy ones: never planned too small"
    roomy = plan.load_of(graph, posts_per_day=100, reads_per_day=0, active_share=1, retention_days=3)
    assert plan.kept_bytes(roomy, NAMED["push"])[1] == pytest.approx(100 * 3 * 10 * ENTRY_BYTES)


@pytest.mark.parametrize("along", [None, 0.0005])
@pytest.mark.parametrize("busy", [0.2, 0.6])
def test_posts_in_front_of_one_worker(busy: float, along: float | None) -> None:
    """A worker that takes posts in the order of their arrival, those that wait along with another's job: simulated for
    200,000 posts.
    """
    draw = Random(11)
    load = Load(1_000, 20, 900, posts_per_day=1, reads_per_day=0, active_share=1)
    fixed, each = 0.003, 50e-6
    job_s, phase = JobTime(fixed=fixed, each=each, along=along), replace(NAMED["queue"], chunk=lambda _: 1_000)
    rate = busy / plan._moments(load, job_s.of_waiting, 1.0, 1_000).mean
    free_at = now = late = 0.0
    posts, idle = 200_000, 0
    ordinary = (20 - 0.001 * 900) / 0.999
    for _ in range(posts):
        now += draw.expovariate(rate)
        followers = 900 if draw.random() < 0.001 else ordinary
        waits = free_at > now
        idle += not waits
        free_at = max(now, free_at) + (job_s.of_waiting.fixed if waits else fixed) + each * followers
        late += free_at - now
    peak = rate * DAY_S
    lag, heaviest = plan.lags(load, job_s, phase, peak)
    assert lag is not None
    assert heaviest is not None
    assert lag == pytest.approx(late / posts, rel=0.1)
    assert heaviest > lag
    costs = MEASURED.units["queue"].model_copy(update={"job_s": job_s, "along": cost(400) if along else None})
    spent_s = (idle * 4_000 + (posts - idle) * (400 if along else 4_000)) / 1e6
    assert plan.post_of(load, costs, phase, peak).cpu_total_s == pytest.approx(spent_s / posts, rel=0.02)


def test_posts_that_a_job_takes_along_need_no_worker_of_their_own() -> None:
    """200 posts a second, of which one takes 10 ms when it comes alone."""
    load = Load(100_000, 50, 900, posts_per_day=200 * DAY_S, reads_per_day=1, active_share=1)
    busy = MEASURED.units["queue"].model_copy(update={"job_s": JobTime(fixed=0.01, each=1e-6)})
    along = busy.model_copy(update={"along": cost(400), "job_s": JobTime(fixed=0.01, each=1e-6, along=0.0006)})
    alone, together = (
        need(load, MEASURED.model_copy(update={"units": {"queue": units}}), NAMED["queue"], peak=1)
        for units in (busy, along)
    )
    assert alone.lag_s is None
    assert together.lag_s is not None
    assert together.lag_s < 0.02, "one job's time, and its own"
    assert together.cores["worker"] < alone.cores["worker"]
    assert together.cpu_s_per_day < alone.cpu_s_per_day


def test_a_worker_that_cannot_keep_up_has_no_lag_but_a_growing_queue() -> None:
    load = Load(100_000, 100, 50_000, posts_per_day=1e9, reads_per_day=1, active_share=1)
    assert plan.lags(load, MEASURED.units["queue"].job_s, NAMED["queue"], 3.0) == (None, None)


def simulated_crossing(graph_followers: float) -> float:
    """Reads per post at which query and push cost the same, found by trying."""
    for tenth in range(1, 100_000):
        reads = tenth / 10
        query = 1_000 + reads * 1_522.22
        push = 2_000 + 60 * graph_followers + reads * 1_500
        if query > push:
            return reads
    raise AssertionError


def test_crossing_is_where_brute_force_finds_it() -> None:
    load = Load(10_000, 12, 5_000, posts_per_day=1_000, reads_per_day=1_000, active_share=0.2)
    crossing = {what: at for what, at, _ in plan.crossings(load, MEASURED)}
    assert float(crossing["reads per post, query and push"]) == pytest.approx(simulated_crossing(12), rel=0.01)


def test_a_pulled_author_costs_the_margin_and_not_the_first() -> None:
    """Pull is sub-additive: 100 more authors cost 500 µs, though ten alone cost 1,500."""
    margins = dict(plan.marginal_author_s(MEASURED))
    assert margins["100 to 200"] == pytest.approx(5e-6)
    assert plan.pull_rather(MEASURED) == pytest.approx(5 / 50)
    first = MEASURED.units["query"].reads[0].cpu_total_s / 10
    assert margins["100 to 200"] < first / 20


def test_what_the_hybrid_goes_by_stands_beside_what_was_measured() -> None:
    measured = load_report(FOLDER / "units.json")
    assert isinstance(measured, Units)
    load = Load(10_000, 12, 5_000, posts_per_day=1_000, reads_per_day=1_000, active_share=0.2)
    [(at, beyond)] = [(at, beyond) for what, at, beyond in plan.crossings(load, measured) if what.endswith("in hybrid")]
    pulled = measured.units["hybrid"].pulled
    assert pulled
    assert float(at) == pytest.approx(pulled.cpu_total_s / measured.units["hybrid"].delivery.cpu_total_s, rel=0.01)
    assert beyond.endswith(f"hybrid itself goes by {PULLED_US / DELIVERY_US:.2f}")


@pytest.mark.parametrize(
    ("posts", "reads", "share", "fits"),
    [
        (1_000, 1_000, 0.5, [QUERY, QUEUE, CACHE]),  # nothing to do: the simplest
        (10_000, 40_000_000, 0.05, [QUEUE, CACHE]),  # more pages than MongoDB can ask for
        (3_500_000, 40_000_000, 0.05, [CACHE]),  # and more deliveries than a worker makes for everybody
    ],
)
def test_the_simplest_that_fits_is_recommended(posts: float, reads: float, share: float, fits: list[Phase]) -> None:
    load = Load(100_000, 150, 20_000, posts_per_day=posts, reads_per_day=reads, active_share=share)
    result, slugs = plan.plan(load, MEASURED), [phase.slug for phase in fits]
    assert result.recommendation.fits == slugs
    assert result.recommendation.phase == slugs[0]
    assert result.recommendation.reason.startswith(f"Recommended: {slugs[0]}, ")
    assert all(other in result.recommendation.reason for other in slugs)
    assert len(grids(result)) == 3
    needs = grids(result)[0]
    [line] = [row for row in needs.rows if row[0] == "fits"]
    assert [slug for slug, fit in zip(needs.columns, line, strict=True) if fit == "yes"] == slugs


def test_whose_heaviest_author_waits_is_out() -> None:
    """The case of 367 ms: query needed 4 % of a core, and push was recommended since it needed less in all."""
    waits = MEASURED.units["push"].model_copy(update={"acknowledged_s": (0.003, 0.016)})
    measured = MEASURED.model_copy(update={"units": MEASURED.units | {"push": waits}})
    load = Load(100_000, 100, 28_000, posts_per_day=10_000, reads_per_day=1_000_000, active_share=0.3)
    result = plan.plan(load, measured)
    push = next(need for need in result.needs if need.phase == "push")
    assert push.post_heaviest_ms == pytest.approx(370, rel=0.02)
    assert push.cpu_s_per_day < result.needs[0].cpu_s_per_day
    assert result.recommendation.phase == "query"
    assert "push" not in result.recommendation.fits
    assert "push does not fit: its heaviest author would wait 37" in result.recommendation.reason
    assert "push" in plan.plan(load, measured, patience_ms=400).recommendation.fits


def test_where_pages_take_too_long_a_phase_is_out() -> None:
    slow = MEASURED.units["query"].model_copy(update={"reads": [cost(150_000)] * 4})
    measured = MEASURED.model_copy(update={"units": MEASURED.units | {"query": slow}})
    load = Load(100_000, 100, 200, posts_per_day=100, reads_per_day=1_000, active_share=0.3)
    assert "query does not fit: a page would take 150 ms" in plan.plan(load, measured).recommendation.reason


def test_where_nothing_fits_it_says_so_and_what_comes_closest() -> None:
    load = Load(100_000, 150, 20_000, posts_per_day=300_000_000, reads_per_day=1, active_share=0.05)
    recommended = plan.plan(load, MEASURED).recommendation
    assert recommended.fits == []
    assert recommended.phase == "query", "only posting: nothing to deliver for"
    assert recommended.reason.startswith("No phase fits. query does not fit: its ")
    assert "query comes closest: run " in recommended.reason


def test_each_phase_that_was_measured_is_beside_the_asking() -> None:
    said = {what for what, _, _ in plan.crossings(CELEBRITIES, WITH_HYBRID)}
    for slug in WITH_HYBRID.units.keys() - {QUERY.slug}:
        assert f"reads per post, query and {slug}" in said
    for slug in ("cache", HYBRID.slug):
        assert f"active share, queue and {slug}" in said


def test_where_lines_do_not_cross_it_says_who_is_cheaper() -> None:
    dear = MEASURED.units["query"].model_copy(update={"reads": [cost(90_000)] * 4, "post": cost(90_000)})
    measured = MEASURED.model_copy(update={"units": MEASURED.units | {"query": dear}})
    load = Load(10_000, 12, 5_000, posts_per_day=1_000, reads_per_day=1_000, active_share=0.2)
    said = {what: (at, beyond) for what, at, beyond in plan.crossings(load, measured)}
    assert said["reads per post, query and push"] == ("never", "push needs less processor time throughout")


def test_fixed_and_per_follower_cost_are_told_apart() -> None:
    few, many = cost(3_000).model_copy(update={"cpu_s": {"mongod": 0.001}}), cost(12_900)
    post, delivery = split(few, many.model_copy(update={"cpu_s": {"mongod": 0.0001}}))
    assert [post.s, delivery.s] == pytest.approx([0.0029, 1e-5])
    assert delivery.cpu_s["mongod"] == 0, "noise is no negative cost"


@pytest.mark.parametrize("power", [0.0, 0.5, 1.0])
def test_exponents(power: float) -> None:
    points = [(size, 3 * size**power, 0.0) for size in (100, 1_000, 10_000)]
    assert curves.exponent([(10, 99.0, 0.0), *points]) == pytest.approx(power, abs=0.001)
    assert curves.exponent(points[:1]) is None


def test_interpolation() -> None:
    """It goes through what was measured and on with the last slope."""
    points = [(10.0, 1.0), (100.0, 2.0), (200.0, 2.5)]
    assert [plan.at(points, x) for x in (10, 55, 200, 300)] == [1.0, 1.5, 2.5, 3.0]


def test_the_command(tmp_path: Path) -> None:
    measured = tmp_path / "units.json"
    measured.write_text(text(MEASURED))
    written, page = tmp_path / "plan.json", tmp_path / "plan.html"
    options = ["--measured", str(measured), "--json", str(written), "--html", str(page)]
    done = bench("plan", *options, "--graph", "powerlaw:300:10")
    assert done.exit_code == 0, done.output
    assert "Recommended" in done.output
    report = load_report(written)
    assert isinstance(report, Plan)
    assert report.recommendation.phase in MEASURED.units
    assert "What each phase needs" in page.read_text()


def test_the_command_is_kept_with_its_options_and_without_paths(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    measured, written = tmp_path / "units.json", tmp_path / "plan.json"
    measured.write_text(text(MEASURED))
    typed = ["plan", f"--measured={measured}", "--json", str(written), "--users=90000"]
    monkeypatch.setattr("sys.argv", ["/usr/bin/feedlab", "bench", *typed])
    assert bench(*typed).exit_code == 0
    said = "feedlab bench plan --measured=units.json --json plan.json --users=90000"
    assert load_report(written).command == said


@pytest.mark.parametrize(
    ("options", "complaint"),
    [
        (("--mean-followers", "100", "--most-followers", "10"), "mean followers"),
        (("--users", "50", "--mean-followers", "1", "--most-followers", "100"), "users"),
    ],
)
def test_a_load_that_makes_no_sense(tmp_path: Path, options: tuple[str, ...], complaint: str) -> None:
    measured = tmp_path / "units.json"
    measured.write_text(text(MEASURED))
    refused = bench("plan", "--measured", str(measured), *options)
    assert refused.exit_code == 2
    assert complaint in refused.output


def test_what_was_not_measured_for_it_is_refused(tmp_path: Path) -> None:
    (tmp_path / "other.json").write_text((FOLDER / "read.json").read_text())
    refused = bench("plan", "--measured", str(tmp_path / "other.json"))
    assert refused.exit_code == 2
    assert "bench units" in refused.output


@pytest.mark.parametrize("command", ["plan", "regions"])
def test_what_was_broken_off_is_nothing_to_plan_with(command: str, tmp_path: Path) -> None:
    """Phases that have had no turn are missing."""
    measured = tmp_path / "units.json"
    broken_off = {"unfinished": True, "units": {"cache": MEASURED.units["cache"]}}
    measured.write_text(text(MEASURED.model_copy(update=broken_off)))
    refused = bench(command, "--measured", str(measured))
    assert refused.exit_code == 2
    assert "something ended the run before its end" in refused.output


def a_round(us: float = 0, more: float = 0) -> Round:
    """A round of a phase that merges, in which everything costs `us`, and a post to MANY 990 deliveries of `more`.

    A burst costs and takes a job's worth, and for each post but the first 50 us and 10 deliveries.
    """
    posts = cost(us), cost(us + 990 * more)
    one, each = Alone(ObjectId(), 0.002, 0.005, looks=2), 50 + 10 * more
    burst = cost((us + (BURST - 1) * each) / BURST), (0.005 + (BURST - 1) * 60e-6) / BURST
    return Round(posts, ([one], [one]), burst, [cost(us)] * 4, [cost(us)] * 4, (cost(us), cost(us + 40)))


def test_what_falls_into_one_round_is_no_price_of_an_operation() -> None:
    """A sweep of the worker takes a second of processor time in the third round."""
    rounds = [a_round(1e6 if number == 2 else 200, 3) for number in range(5)]
    units = units_of(rounds)
    for costs in (*units.reads, *(units.cold or ())):
        assert costs.cpu_total_s == pytest.approx(200e-6)
        assert costs.rounds_s
        assert max(costs.rounds_s) == pytest.approx(1)
    assert units.delivery.cpu_total_s == pytest.approx(3e-6)
    assert units.delivery.rounds_s == pytest.approx([3e-6] * 5)
    assert units.pulled
    assert units.pulled.cpu_total_s == pytest.approx(2e-6)
    assert units.along
    assert units.along.cpu_total_s == pytest.approx(50e-6, abs=1e-6)
    assert (units.job_s.fixed, units.job_s.each) == (0.005, 0)
    assert units.job_s.along == pytest.approx(60e-6)


def test_where_the_poster_waits_no_worker_takes_anything() -> None:
    assert units_of([a_round(200)._replace(burst=None)]).job_s == JobTime(fixed=0, each=0)


def test_the_price_of_what_costs_nothing_is_not_negative() -> None:
    assert margin(cost(500), cost(400)).cpu_total_s == 0


def test_processor_time_is_finer_than_a_tick() -> None:
    looks = [time.process_time(), processor_s(os.getpid()), time.process_time()]
    assert looks == sorted(looks)


def in_rounds(costs: Costs, *us: float) -> Costs:
    return costs.model_copy(update={"rounds_s": [each / 1e6 for each in us]})


def test_who_is_cheapest_is_said_with_all_of_whom_the_rounds_do_not_tell_more() -> None:
    posts = {
        "query": (1_000, 1_500, 1_200, 900),
        "push": (1_100, 1_400, 1_250, 950),
        "cache": (2_000, 3_100, 2_300, 1_900),
    }
    some = {slug: MEASURED.units[slug] for slug in posts}
    units = {slug: each.model_copy(update={"post": in_rounds(each.post, *posts[slug])}) for slug, each in some.items()}
    report = MEASURED.model_copy(update={"units": units})
    [post] = [sentence for sentence in says(report) if sentence.startswith("A post:")]
    assert post.startswith("A post: no difference can be told between query (1,100 µs) and push (1,175 µs); cache ")
    assert " as much as query." in post
    [grid] = grids(report)
    assert next(row for row in grid.rows if row[:2] == ["cache", "a post"])[3:5] == ["1,900", "3,100"]


def test_of_one_round_nothing_is_told() -> None:
    [post] = [sentence for sentence in says(MEASURED) if sentence.startswith("A post:")]
    assert "one round has no spread" in post
