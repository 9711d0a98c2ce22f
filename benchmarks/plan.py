"""`feedlab bench plan`: which phase for a load, from the load's own numbers and measured unit costs.

Expected values are added up: a day has P posts and R reads; a post is delivered to its author's followers (phase 4: the
active ones); a read costs what was measured at the reader's number of followees, interpolated between the measured
ones. That interpolation is the marginal cost of a pulled author: the second hundred costs far less than the first
author, since MongoDB merges up to 200 of them in one command.

Posts come to one worker, by a Poisson process. A post that finds it idle is a job of its own; one that finds a job
under way waits for it and is taken along, which takes and costs less. That is M/G/1 with an exceptional first service
(P. D. Welch, "On a Generalized M/G/1 Queuing Process in Which the First Customer of Each Busy Period Receives
Exceptional Service", Operations Research 12, 1964).
"""

import math
from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from itertools import pairwise
from operator import mul
from pathlib import Path
from typing import Any, NamedTuple

from app.config import DAY_S, Config
from app.demo.graph import Graph
from app.errors import Refused
from benchmarks import answers
from benchmarks.report import (
    PROGRAMS,
    Costs,
    Crossing,
    JobTime,
    Need,
    Origin,
    PhaseUnits,
    Plan,
    Recommendation,
    Units,
)
from benchmarks.report import load as read_report
from benchmarks.verdict import number
from phases import PHASES
from phases.base import Phase
from phases.pulling.author import Author

CONFIG = Config()  # as it is unless somebody sets it otherwise
PEAK = 3.0  # busiest hour ÷ mean
PROCESS_TITLES = {"harness": "web"}  # units are measured in one process: the harness is the web process
KNEE = 0.7  # of a core: beyond it waiting times explode, so a process counts as full
PATIENCE_MS = 100.0  # of the heaviest author and of a reader: until then an answer seems to come at once (Nielsen)
CELEBRITIES = 1_000  # one author in so many is one, unless the mean does not allow it


class PlanError(Refused):
    """The load makes no sense, or the measurement is of something else; the text says what."""


@dataclass(frozen=True)
class Load:
    """The load to plan for.

    `active_share`: the share of users who come within the TTL. `returns_per_day`: cold returns of all users.
    """

    users: int
    mean_followers: float
    most_followers: int
    posts_per_day: float
    reads_per_day: float
    active_share: float
    cap: int = CONFIG.cap
    returns_per_day: float = 0
    retention_days: float = 365
    followees_counts: tuple[tuple[int, int], ...] = ()  # (followees, users who follow so many); empty: all the mean

    def __post_init__(self) -> None:
        if not self.mean_followers <= self.most_followers < self.users:
            raise PlanError("mean followers ≤ most followers < users is not the case")

    @property
    def followees(self) -> Sequence[tuple[int, float]]:
        """The distribution of followees: (followees, share of the readers)."""
        if not self.followees_counts:
            return [(round(self.mean_followers), 1.0)]
        total = sum(count for _, count in self.followees_counts)
        return [(size, count / total) for size, count in self.followees_counts]


def measured_units(file: Path) -> Units:
    """Read what `bench units --json` wrote. Raises PlanError, NotAReport."""
    report = read_report(file)
    if not isinstance(report, Units):
        raise PlanError(f"{file}: not what `feedlab bench units --json` writes")
    if report.unfinished:  # phases and rounds are missing
        raise PlanError(f"{file}: {report.broken_off}; measure again to plan with it")
    return report


def load_of(graph: Graph, **numbers: Any) -> Load:
    """Return a load on the people and edges of a graph."""
    people = len(graph.people)
    return Load(
        users=people,
        mean_followers=len(graph.followers) / people,
        most_followers=max(graph.by_followee.sizes()),
        followees_counts=tuple(sorted(Counter(graph.by_follower.sizes()).items())),
        **numbers,
    )


def at(points: Sequence[tuple[float, float]], x: float) -> float:
    """Interpolate linearly between measured points, and beyond them with the last slope."""
    if len(points) == 1:
        return points[0][1]
    upper = next((i for i, (size, _) in enumerate(points) if size >= x and i), len(points) - 1)
    (x0, y0), (x1, y1) = points[upper - 1], points[upper]
    return max(0.0, y0 + (y1 - y0) * (x - x0) / (x1 - x0))


def averaged(sizes: Sequence[int], costs: Sequence[Costs], followees: Sequence[tuple[int, float]]) -> Costs:
    """Return the mean costs of one read, over the readers. `costs` were measured at `sizes` followees."""

    def mean(*measured: float) -> float:
        points = list(zip(sizes, measured, strict=True))
        return sum(share * at(points, size) for size, share in followees)

    return Costs.combined(mean, costs)


def marginal_author_s(measured: Units) -> list[tuple[str, float]]:
    """Return the processor seconds that one more pulled author costs a read, between the measured sizes."""
    reads = measured.units[answers.ASKING.slug].reads
    points = list(zip(measured.followees, (read.cpu_total_s for read in reads), strict=True))
    return [(f"{a:,} to {b:,}", max(0.0, y1 - y0) / (b - a)) for (a, y0), (b, y1) in pairwise(points)]


def need(load: Load, measured: Units, phase: Phase, peak: float = PEAK) -> Need:
    """Return what one phase needs for the load."""
    units = measured.units[phase.slug]
    pulled = pulled_authors(load, measured, phase)
    share = _served_share(load, phase)
    deliveries = load.posts_per_day * (load.mean_followers - pulled) * share
    read = averaged(measured.followees, units.reads, load.followees)
    if units.pulled:
        read = Costs.combined(lambda page, each: page + pulled * each, (read, units.pulled))
    counts, rest = [load.posts_per_day, deliveries, load.reads_per_day], [units.delivery, read]
    if units.cold:
        counts.append(load.returns_per_day)
        rest.append(averaged(measured.followees, units.cold, load.followees))

    def a_day(peak: float) -> Costs:
        """Return the costs of a day with `peak` times as much of everything, for each time."""
        costs = [post_of(load, units, phase, peak, pulled=pulled > 0), *rest]
        return Costs.combined(lambda *each: sum(map(mul, counts, each)), costs)

    busiest = a_day(peak)
    acknowledged = list(zip((10, 1_000), units.acknowledged_s, strict=True))
    if phase.store is None or answers.in_worker(phase):  # nobody waits for followers then; what differs is noise
        acknowledged = [(10, min(units.acknowledged_s))]
    lag, heaviest = lags(load, units.job_s, phase, peak, pulled=pulled > 0)
    memory, disk = kept_bytes(load, phase)
    return Need(
        phase=phase.slug,
        cores={PROCESS_TITLES.get(name, name): peak * value / DAY_S for name, value in busiest.cpu_s.items()},
        commands_per_s={name: peak * value / DAY_S for name, value in busiest.commands.items()},
        deliveries_per_day=deliveries,
        memory_bytes=memory,
        disk_bytes=disk,
        post_ms=1000 * at(acknowledged, load.mean_followers),
        post_heaviest_ms=1000 * at(acknowledged, load.most_followers),
        read_ms=1000 * read.s,
        lag_s=lag,
        lag_heaviest_s=heaviest,
        cpu_s_per_day=a_day(1).cpu_total_s,
    )


def pulled_authors(load: Load, measured: Units, phase: Phase) -> float:
    """Return how many pulled authors somebody follows: the celebrities, where the phase weighs and pulls them.

    One post in CELEBRITIES is a celebrity's (see `_moments`), so one author in as many is a celebrity, and has as many
    posts a day as others.
    """
    units, celebrities = measured.units[phase.slug], load.most_followers * celebrity_share(load)
    active = load.most_followers * load.active_share
    if units.pulled is None or active < CONFIG.pull_from:
        return 0.0
    posts, reads = load.posts_per_day / load.users, load.reads_per_day / (load.users * load.active_share or 1)
    cheaper = reads * units.pulled.cpu_total_s < posts * units.delivery.cpu_total_s
    return celebrities if cheaper or active > CONFIG.pull_beyond else 0.0


def celebrity_share(load: Load) -> float:
    """Return the celebrities' share of the posts, which is also their share of the authors."""
    return 1 / CELEBRITIES if load.most_followers > 10 * load.mean_followers else 0.0


def _served_share(load: Load, phase: Phase) -> float:
    """Return the share of the followers to whom the phase delivers."""
    if phase.store is None:
        return 0.0
    return load.active_share if answers.active_only(phase) else 1.0


def kept_bytes(load: Load, phase: Phase) -> tuple[float, float]:
    """Return the bytes (memory, disk) of what the phase keeps.

    It keeps as many ids as arrive within the retention, at most the cap.
    """
    arriving = load.posts_per_day / load.users * load.mean_followers * load.retention_days
    if phase.store is None:
        return 0, 0
    per_reader = phase.store.bytes_per_reader + min(load.cap, arriving) * phase.store.bytes_per_entry
    size = load.users * _served_share(load, phase) * per_reader
    return (size, 0) if phase.store.in_memory else (0, size)


class Worker(NamedTuple):
    """One worker at some rate. `idle`: the share of the posts that find it so; `wait_s`: of a post on average; `busy`:
    the share of its time that it would take to take everything along.
    """

    idle: float
    wait_s: float
    busy: float


def worker(load: Load, job_s: JobTime, phase: Phase, peak: float, *, pulled: bool = False) -> Worker | None:
    """Return how a worker fares at the peak; None where its queue grows without end.

    `pulled`: nobody delivers the heaviest authors' posts.
    """
    share, per_s = _served_share(load, phase), peak * load.posts_per_day / DAY_S
    first, waiting = (
        _moments(load, times, share, phase.chunk(CONFIG), celebrities=not pulled) for times in (job_s, job_s.of_waiting)
    )
    busy = per_s * waiting.mean
    if busy >= 1:
        return None
    cycle = 1 - busy + per_s * first.mean
    wait_s = per_s * (waiting.square / (1 - busy) + (first.square - waiting.square) / cycle) / 2
    return Worker((1 - busy) / cycle, wait_s, busy)


def post_of(load: Load, units: PhaseUnits, phase: Phase, peak: float, *, pulled: bool = False) -> Costs:
    """Return the mean costs of a post at the peak, without its deliveries: as much of one that comes alone as find the
    worker idle, and else of one that is taken along.
    """
    if units.along is None:
        return units.post
    found = worker(load, units.job_s, phase, peak, pulled=pulled)
    idle = found.idle if found else 0.0
    return Costs.combined(lambda alone, along: idle * alone + (1 - idle) * along, (units.post, units.along))


def lags(
    load: Load, job_s: JobTime, phase: Phase, peak: float, *, pulled: bool = False
) -> tuple[float | None, float | None]:
    """Return the delivery lags, in seconds, of an ordinary and of the heaviest author's post.

    They are those in front of one worker at the peak: 0 where the poster waits, None where they grow without end (or
    there is no delivery). `pulled`: the heaviest authors' posts are pulled, and seen at once.
    """
    if not answers.in_worker(phase):
        return (0.0, 0.0) if phase.store else (None, None)
    found, share = worker(load, job_s, phase, peak, pulled=pulled), _served_share(load, phase)
    if found is None:
        return None, None
    fixed = found.idle * job_s.fixed + (1 - found.idle) * job_s.of_waiting.fixed
    heaviest = fixed + job_s.each * load.most_followers * share
    ordinary = found.wait_s + fixed + job_s.each * load.mean_followers * share
    return ordinary, 0.0 if pulled else found.wait_s + heaviest / (1 - found.busy)


class Moments(NamedTuple):
    mean: float
    square: float


def _moments(load: Load, job_s: JobTime, share: float, chunk: int, *, celebrities: bool = True) -> Moments:
    """Return mean and mean square of the seconds of a post, in chunks: a post waits for no more than one of another.

    It assumes as many celebrities (most_followers) as it takes, beside people with few followers, to have the mean;
    nothing more is known of them. One in a thousand posts is a celebrity's, unless the mean does not allow it. What a
    chunk takes of its own is in `each`, which was measured over several chunks where they are small.
    """
    celebrity = celebrity_share(load)
    ordinary = max(0.0, (load.mean_followers - celebrity * load.most_followers) / (1 - celebrity))
    mean = square = 0.0
    told = (ordinary, 1 - celebrity), (float(load.most_followers), celebrity if celebrities else 0.0)
    for followers, posts in told:
        served = followers * share
        chunks = max(1, math.ceil(served / chunk))
        post_s = job_s.fixed + job_s.each * served
        mean += posts * post_s
        square += posts * post_s**2 / chunks
    return Moments(mean, square)


def crossings(load: Load, measured: Units) -> list[Crossing]:
    """Return where measured phases cost the same.

    Asking is compared with each phase that keeps something, and the first queued phase with those for active readers.
    """
    keeping = [phase for phase in answers.KEEPING if phase.slug in measured.units]
    asking, queued = answers.ASKING, answers.IN_WORKER[0]
    lines = [_crossing_of("reads per post", load, measured, asking, phase) for phase in keeping]
    lines += [
        _crossing_of("active share", load, measured, queued, phase) for phase in keeping if answers.active_only(phase)
    ]
    posts = "posts an author makes per read of a follower, push and pull of that author"
    beyond = f"above it pulling this one author is cheaper than delivering to all followers, as {queued.slug} does"
    lines.append(Crossing(posts, _shown(pull_rather(measured)), beyond))
    for slug, units in measured.units.items():
        if units.pulled:
            beyond = (
                "above it asking for an author's statuses is cheaper than delivering them to the active followers; "
                f"{slug} itself goes by {number(_goes_by(slug))}"
            )
            threshold = units.pulled.cpu_total_s / units.delivery.cpu_total_s if units.delivery.cpu_total_s else None
            lines.append(Crossing(f"{posts}, in {slug}", _shown(threshold), beyond))
    return lines


def _goes_by(slug: str) -> float:
    """Return the posts per read above which the rule of a phase that merges has an author's statuses asked for."""
    [pulls] = [phase.pulls for phase in PHASES if phase.slug == slug]
    assert pulls, f"{slug} asks for what is pulled"
    day = pulls.cost(Author(active_followers=1, posts_per_day=1, pages_per_reader_per_day=1))
    assert day.asked_us, "pages are asked for"
    return day.asked_us / day.delivered_us


def _crossing_of(what: str, load: Load, measured: Units, a: Phase, b: Phase) -> Crossing:
    """Return where a and b cost the same, and which costs less on either side; or which does throughout."""
    field, low, high, unit = (
        ("reads_per_day", 1e-3, 1e6, load.posts_per_day)
        if what == "reads per post"
        else ("active_share", 1e-4, 1.0, 1.0)
    )

    def difference(value: float) -> float:
        change: dict[str, Any] = {field: value * unit}
        changed = replace(load, **change)
        return need(changed, measured, a).cpu_s_per_day - need(changed, measured, b).cpu_s_per_day

    title, ends = f"{what}, {a.slug} and {b.slug}", (difference(low), difference(high))
    if ends[0] * ends[1] > 0:
        return Crossing(title, "never", f"{(a if ends[0] < 0 else b).slug} needs less processor time throughout")
    above, below = (b, a) if ends[1] > 0 else (a, b)
    for _ in range(60):
        middle = math.sqrt(low * high)
        low, high = (middle, high) if ends[0] * difference(middle) > 0 else (low, middle)
    beyond = f"above it {above.slug} needs less processor time, below it {below.slug}"
    return Crossing(title, _shown(math.sqrt(low * high)), beyond)


def pull_rather(measured: Units) -> float | None:
    """Return the posts per read from which an author is better pulled.

    That is the marginal cost of a pulled author ÷ the cost of a delivery.
    """
    delivery = measured.units[answers.IN_WORKER[0].slug].delivery.cpu_total_s
    marginal = min((cost for _, cost in marginal_author_s(measured)), default=0.0)
    return marginal / delivery if delivery > 0 else None


def _shown(value: float | None) -> str:
    return "never" if value is None else number(value)


def misfit(need: Need, patience_ms: float = PATIENCE_MS) -> str:
    """Return in words why the phase does not fit; empty where it does."""
    if need.fullest > KNEE:
        return f"its {PROGRAMS[need.first]} would be {100 * need.fullest:,.0f} % busy in the busiest hour"
    if need.deliveries_per_day and need.lag_s is None:
        return "its queue would grow without end"
    if need.post_heaviest_ms > patience_ms:
        return f"its heaviest author would wait {need.post_heaviest_ms:,.0f} ms for a post"
    if need.read_ms > patience_ms:
        return f"a page would take {need.read_ms:,.0f} ms"
    return ""


def recommend(needs: Sequence[Need], patience_ms: float = PATIENCE_MS) -> Recommendation:
    """Recommend the simplest phase that fits, which is the first in the story. `needs` are in its order."""
    out = {n.phase: why for n in needs if (why := misfit(n, patience_ms))}
    fits = [n for n in needs if n.phase not in out]
    misfits = [f"{slug} does not fit: {why}" for slug, why in out.items()]
    if not fits:
        least = min(needs, key=lambda n: n.fullest)
        return Recommendation(phase=least.phase, reason=_sentences(["No phase fits", *misfits, _what_instead(least)]))
    chosen, cheapest = fits[0], min(fits, key=lambda n: n.cpu_s_per_day)
    others = [n.phase for n in fits[1:]]
    said = [
        f"Recommended: {chosen.phase}, "
        + (f"the simplest that fits; {', '.join(others)} would fit, too" if others else "which alone fits"),
        f"In the busiest hour its {PROGRAMS[chosen.first]} is {100 * chosen.fullest:.1f} % busy, its heaviest author "
        f"waits {chosen.post_heaviest_ms:,.1f} ms for a post, and a page takes {chosen.read_ms:.1f} ms",
    ]
    if cheapest is not chosen:
        hours, less = (n.cpu_s_per_day / 3600 for n in (chosen, cheapest))
        said.append(
            f"{cheapest.phase} would need the least processor time, {less:.2f} hours a day instead of {hours:.2f}"
        )
    return Recommendation(phase=chosen.phase, reason=_sentences([*said, *misfits]), fits=[n.phase for n in fits])


def _what_instead(least: Need) -> str:
    if least.fullest <= KNEE:
        return f"{least.phase} comes closest"
    many = f"{math.ceil(least.fullest / KNEE)} processes of its {PROGRAMS[least.first]}"
    return f"{least.phase} comes closest: run {many} (or shard), and plan again"


def _sentences(said: Sequence[str]) -> str:
    return f"{'. '.join(said)}."


def plan(load: Load, measured: Units, peak: float = PEAK, patience_ms: float = PATIENCE_MS) -> Plan:
    """Return the needs by phase, the crossings and the recommendation, of the phases that were measured."""
    needs = [need(load, measured, phase, peak) for phase in PHASES if phase.slug in measured.units]
    return Plan(
        **{name: getattr(measured, name) for name in Origin.model_fields if name != "command"},
        settings={
            **asdict(load),
            "followees_counts": len(load.followees_counts),
            "peak": peak,
            "patience_ms": patience_ms,
        },
        needs=needs,
        crossings=crossings(load, measured),
        marginal_author_us=[(between, 1e6 * cost) for between, cost in marginal_author_s(measured)],
        recommendation=recommend(needs, patience_ms),
    )
