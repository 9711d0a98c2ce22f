"""`feedlab bench plan`: which phase for a load, from the load's own numbers and measured unit costs.

Expected values, added up: a day has P posts and R reads; a post is delivered to its author's followers (phase 4: the
active ones); a read costs what was measured at the reader's number of followees, interpolated between the measured
ones. That interpolation is the marginal cost of a pulled author: the second hundred costs far less than the first
author, since MongoDB merges up to 200 of them in one command. Delivery lag is the wait of a job in front of one
worker: Pollaczek-Khinchine, M/G/1.
"""

import json
import math
from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from app.config import Config
from app.demo.graph import Graph

CONFIG = Config()  # as it is unless somebody sets it otherwise
DAY_S = 86_400
PEAK = 3.0  # busiest hour ÷ mean
SERVERS = ("mongod", "memcached", "redis", "worker", "harness")
PROCESS_TITLES = {"harness": "web"}  # units are measured in one process: the harness is the web process
ENTRY_BYTES = 55  # of one entry in MongoDB, uncompressed: 24-byte key, author, BSON; `bench compare` measures it
LIST_BYTES = 150  # of one list in Memcached beside its ids: key, item header, trailer
ID_BYTES = 12
KNEE = 0.7  # of a core: beyond it waiting times explode, so a process counts as full


class PlanError(ValueError):
    """The load makes no sense; the text says which number."""


@dataclass(frozen=True)
class Load:
    """`active_share`: of the users, how many come within the TTL. `returns_per_day`: cold returns of all users."""

    users: int
    mean_followers: float
    most_followers: int
    posts_per_day: float
    reads_per_day: float
    active_share: float
    cap: int = CONFIG.cap
    chunk: int = CONFIG.chunk
    list_chunk: int = CONFIG.list_chunk
    returns_per_day: float = 0
    retention_days: float = 365
    followees_counts: tuple[tuple[int, int], ...] = ()  # (followees, users who follow so many); empty: all the mean

    def __post_init__(self) -> None:
        for name in ("users", "mean_followers", "most_followers", "posts_per_day", "reads_per_day"):
            if getattr(self, name) < 0:
                raise PlanError(f"{name} must not be negative")
        if self.users < 2:
            raise PlanError("users must be at least 2")
        if not 0 < self.active_share <= 1:
            raise PlanError("the active share must be above 0 and at most 1")
        if not self.mean_followers <= self.most_followers < self.users:
            raise PlanError("mean followers ≤ most followers < users is not the case")

    @property
    def followees(self) -> Sequence[tuple[int, float]]:
        """(followees, share of the readers)."""
        if not self.followees_counts:
            return [(round(self.mean_followers), 1.0)]
        total = sum(count for _, count in self.followees_counts)
        return [(size, count / total) for size, count in self.followees_counts]


def measured_units(file: Path) -> dict[str, Any]:
    """What `bench units --json` wrote. Raises PlanError for anything else."""
    try:
        found = json.loads(file.read_text())
    except (OSError, ValueError) as error:
        raise PlanError(f"{file}: cannot be read as JSON ({error})") from None
    if not isinstance(found, dict) or found.get("kind") != "units":
        raise PlanError(f"{file}: not what `feedlab bench units --json` writes")
    return found


def load_of(graph: Graph, **numbers: Any) -> Load:
    """A load on the people and edges of a graph."""
    followees = Counter(graph.followers)
    popularity = Counter(graph.followees)
    people = len(graph.people)
    sizes = Counter(followees.values())
    if people > len(followees):
        sizes[0] += people - len(followees)
    return Load(
        users=people,
        mean_followers=len(graph.followers) / people,
        most_followers=max(popularity.values(), default=0),
        followees_counts=tuple(sorted(sizes.items())),
        **numbers,
    )


@dataclass(frozen=True)
class Need:
    """One phase under the load. `cores`: processors in use at the peak, by process. `lag_s`: of an ordinary post."""

    phase: str
    cores: dict[str, float]
    commands_per_s: dict[str, float]
    deliveries_per_day: float
    memory_bytes: float
    disk_bytes: float
    post_ms: float
    post_heaviest_ms: float
    read_ms: float
    lag_s: float | None
    lag_heaviest_s: float | None
    cpu_s_per_day: float

    @property
    def first(self) -> tuple[str, float]:
        """The process that is full first, and how full it is at the peak."""
        return max(self.cores.items(), key=lambda item: item[1])


def at(points: Sequence[tuple[float, float]], x: float) -> float:
    """Linear between measured points, and on with the last slope beyond them."""
    if len(points) == 1:
        return points[0][1]
    upper = next((i for i, (size, _) in enumerate(points) if size >= x and i), len(points) - 1)
    (x0, y0), (x1, y1) = points[upper - 1], points[upper]
    return max(0.0, y0 + (y1 - y0) * (x - x0) / (x1 - x0))


def read_cost(measured: dict[str, Any], slug: str, followees: Sequence[tuple[int, float]], what: str = "reads") -> Any:
    """Seconds, processor seconds and commands of one read, averaged over the readers."""
    sizes, reads = measured["followees"], measured["units"][slug][what]

    def mean(values: Sequence[float]) -> float:
        return sum(share * at(list(zip(sizes, values, strict=True)), size) for size, share in followees)

    return {
        "s": mean([read["s"] for read in reads]),
        **{
            kind: {name: mean([read[kind][name] for read in reads]) for name in reads[0][kind]}
            for kind in ("cpu_s", "commands")
        },
    }


def marginal_author_s(measured: dict[str, Any], slug: str = "query") -> list[tuple[str, float]]:
    """Processor seconds that one more pulled author costs a read, between the measured numbers of followees."""
    sizes = measured["followees"]
    totals = [sum(read["cpu_s"].values()) for read in measured["units"][slug]["reads"]]
    pairs = zip(zip(sizes, totals, strict=True), zip(sizes[1:], totals[1:], strict=True), strict=False)
    return [(f"{a:,} to {b:,}", max(0.0, y1 - y0) / (b - a)) for (a, y0), (b, y1) in pairs]


def need(load: Load, measured: dict[str, Any], slug: str, peak: float = PEAK) -> Need:
    """What one phase needs for the load."""
    units = measured["units"][slug]
    served = load.mean_followers * _served_share(load, slug)
    deliveries = load.posts_per_day * served
    read = read_cost(measured, slug, load.followees)
    parts = [(load.posts_per_day, units["post"]), (deliveries, units["delivery"]), (load.reads_per_day, read)]
    if units["cold"]:
        parts.append((load.returns_per_day, read_cost(measured, slug, load.followees, "cold")))
    cpu, commands = _added(parts, "cpu_s"), _added(parts, "commands")
    acknowledged = list(zip((10, 1_000), units["acknowledged_s"], strict=True))
    if slug != "push":  # nobody waits for followers there; what differs is noise
        acknowledged = [(10, min(units["acknowledged_s"]))]
    lag, heaviest = lags(load, units, slug, peak)
    memory, disk = kept_bytes(load, slug)
    return Need(
        phase=slug,
        cores={PROCESS_TITLES.get(name, name): peak * value / DAY_S for name, value in cpu.items()},
        commands_per_s={name: peak * value / DAY_S for name, value in commands.items()},
        deliveries_per_day=deliveries,
        memory_bytes=memory,
        disk_bytes=disk,
        post_ms=1000 * at(acknowledged, load.mean_followers),
        post_heaviest_ms=1000 * at(acknowledged, load.most_followers),
        read_ms=1000 * read["s"],
        lag_s=lag,
        lag_heaviest_s=heaviest,
        cpu_s_per_day=sum(cpu.values()),
    )


def _served_share(load: Load, slug: str) -> float:
    return {"query": 0.0, "cache": load.active_share}.get(slug, 1.0)


def _added(parts: Sequence[tuple[float, Any]], kind: str) -> dict[str, float]:
    names = {name for _, costs in parts for name in costs[kind]}
    return {name: sum(count * costs[kind].get(name, 0) for count, costs in parts) for name in sorted(names)}


def kept_bytes(load: Load, slug: str) -> tuple[float, float]:
    """(memory, disk) of what the phase keeps: as many ids as arrive within the retention, at most the cap."""
    arriving = load.posts_per_day / load.users * load.mean_followers * load.retention_days
    entries = min(load.cap, arriving)
    match slug:
        case "push" | "queue":
            return 0, load.users * entries * ENTRY_BYTES
        case "cache":
            return load.users * load.active_share * (LIST_BYTES + entries * ID_BYTES), 0
        case _:
            return 0, 0


def lags(load: Load, units: dict[str, Any], slug: str, peak: float) -> tuple[float | None, float | None]:
    """Seconds from the acknowledgement to the last follower, of an ordinary and of the heaviest author's post, in front
    of one worker at the peak. 0 where the poster waits, None where it grows without end (or there is no delivery).
    """
    if slug in ("query", "push"):
        return (0.0, 0.0) if slug == "push" else (None, None)
    job_s, each_s = units["job_s"]["fixed"], units["job_s"]["each"]
    share = _served_share(load, slug)
    posts_per_s = peak * load.posts_per_day / DAY_S
    mean, square = _moments(load, job_s, each_s, share, load.list_chunk if slug == "cache" else load.chunk)
    busy = posts_per_s * mean
    if busy >= 1:
        return None, None
    wait = posts_per_s * square / (2 * (1 - busy))
    heaviest = job_s + each_s * load.most_followers * share
    return wait + job_s + each_s * load.mean_followers * share, wait + heaviest / (1 - busy)


def _moments(load: Load, job_s: float, each_s: float, share: float, chunk: int) -> tuple[float, float]:
    """Mean and mean square of the seconds of a job, chunked: nobody waits for more than a chunk of somebody else's.

    Followers: as many celebrities (most_followers) as it takes, beside people with few, to have the mean; nothing
    more is known of them. One in a thousand posts is a celebrity's, unless the mean does not allow it.
    """
    celebrity = 0.001 if load.most_followers > 10 * load.mean_followers else 0.0
    ordinary = max(0.0, (load.mean_followers - celebrity * load.most_followers) / (1 - celebrity))
    mean = square = 0.0
    for followers, posts in ((ordinary, 1 - celebrity), (float(load.most_followers), celebrity)):
        served = followers * share
        chunks = max(1, math.ceil(served / chunk))
        chunk_s = job_s + each_s * served / chunks
        mean += posts * chunks * chunk_s
        square += posts * chunks * chunk_s**2
    return mean, square


def crossings(load: Load, measured: dict[str, Any]) -> list[tuple[str, str, str]]:
    """(what, at which value two phases cost the same processor time, what lies beyond)."""
    found = []
    for a, b in (("query", "push"), ("query", "cache"), ("queue", "cache")):
        found.append(
            (
                f"reads per post, {a} and {b}",
                _shown(_crossing(load, measured, a, b, "reads_per_day", 1e-3, 1e6, load.posts_per_day)),
                f"above it {b} needs less processor time, below it {a}",
            )
        )
    share = _crossing(load, measured, "queue", "cache", "active_share", 1e-4, 1.0, 1.0)
    found.append(("active share, queue and cache", _shown(share), "below it cache needs less, above it queue"))
    found.append(
        (
            "posts an author makes per read of a follower, push and pull of that author",
            _shown(pull_rather(measured)),
            "above it pulling this one author is cheaper than delivering to their followers, however many they are",
        )
    )
    return found


def pull_rather(measured: dict[str, Any]) -> float | None:
    """Posts per read from which one author is better pulled: marginal cost of a pulled author ÷ cost of a delivery."""
    delivery = sum(measured["units"]["queue"]["delivery"]["cpu_s"].values())
    marginal = min((cost for _, cost in marginal_author_s(measured)), default=0.0)
    return marginal / delivery if delivery > 0 else None


def _crossing(
    load: Load, measured: dict[str, Any], a: str, b: str, field: str, low: float, high: float, unit: float
) -> float | None:
    """Where the costs of a and b are equal, by bisection on the logarithm; None when one is always cheaper."""

    def difference(value: float) -> float:
        changed = Load(**{**asdict(load), field: value * unit})
        return need(changed, measured, a).cpu_s_per_day - need(changed, measured, b).cpu_s_per_day

    if difference(low) * difference(high) > 0:
        return None
    for _ in range(60):
        middle = math.sqrt(low * high)
        low, high = (middle, high) if difference(low) * difference(middle) > 0 else (low, middle)
    return math.sqrt(low * high)


def _shown(value: float | None) -> str:
    return "never" if value is None else f"{value:.3g}"


def recommend(needs: Sequence[Need], load: Load) -> tuple[str, str]:
    """The phase, and why: what does not fit is out, then the least processor time; on a near tie the simpler one."""
    fits = [n for n in needs if n.first[1] <= KNEE and not (n.phase in ("queue", "cache") and n.lag_s is None)]
    if not fits:
        least = min(needs, key=lambda n: n.first[1])
        name, cores = least.first
        return least.phase, (
            f"No phase fits on one process of each kind. {least.phase} comes closest: its {name} needs "
            f"{cores:.1f} cores at the peak, so run {math.ceil(cores / KNEE)} of it (or shard), and plan again."
        )
    patient = [n for n in fits if n.post_heaviest_ms <= 1_000] or fits
    cheapest = min(patient, key=lambda n: n.cpu_s_per_day)
    chosen = next(n for n in patient if n.cpu_s_per_day <= 1.1 * cheapest.cpu_s_per_day)
    name, cores = chosen.first
    reasons = [
        f"{chosen.phase} needs {chosen.cpu_s_per_day / 3600:.2f} processor hours a day, "
        f"{', '.join(f'{n.phase} {n.cpu_s_per_day / 3600:.2f}' for n in needs if n is not chosen)}",
        f"what is full first is its {name}, at {100 * cores:.1f} % of a core in the busiest hour",
    ]
    if out := [n.phase for n in needs if n not in fits]:
        reasons.append(f"{', '.join(out)} would not fit")
    if slow := [n.phase for n in fits if n not in patient]:
        reasons.append(f"{', '.join(slow)} would let the heaviest author wait longer than a second")
    if chosen is not cheapest:
        reasons.append(f"{cheapest.phase} would be less than a tenth cheaper and is more to run")
    return chosen.phase, "; ".join(reasons) + "."


def plan(load: Load, measured: dict[str, Any], peak: float = PEAK) -> dict[str, Any]:
    """The report: needs by phase, crossings, recommendation."""
    needs = [need(load, measured, slug, peak) for slug in measured["units"]]
    phase, reason = recommend(needs, load)
    return {
        **{name: measured[name] for name in ("format", "meaningless", "made_at", "commit", "machine", "servers")},
        "kind": "plan",
        "settings": {**asdict(load), "followees_counts": len(load.followees_counts), "peak": peak},
        "needs": [{**asdict(n), "first": n.first[0]} for n in needs],
        "crossings": crossings(load, measured),
        "marginal_author_us": [(between, 1e6 * cost) for between, cost in marginal_author_s(measured)],
        "recommendation": {"phase": phase, "reason": f"Recommended: {phase}. {reason}"},
        "grids": _grids(needs, load, measured),
    }


def _grids(needs: Sequence[Need], load: Load, measured: dict[str, Any]) -> list[dict[str, Any]]:
    processes = list(needs[0].cores)
    rows = [
        ["deliveries a day", *(f"{n.deliveries_per_day:,.0f}" for n in needs)],
        ["processor hours a day", *(f"{n.cpu_s_per_day / 3600:.2f}" for n in needs)],
        *([f"cores at the peak, {name}", *(f"{n.cores[name]:.3f}" for n in needs)] for name in processes),
        *(
            [f"commands/s at the peak, {name}", *(f"{n.commands_per_s[name]:,.1f}" for n in needs)]
            for name in needs[0].commands_per_s
        ),
        ["memory for what is kept", *(size(n.memory_bytes) for n in needs)],
        ["disk for what is kept", *(size(n.disk_bytes) for n in needs)],
        ["post acknowledged, ms", *(f"{n.post_ms:.1f}" for n in needs)],
        ["the heaviest author's, ms", *(f"{n.post_heaviest_ms:,.1f}" for n in needs)],
        ["read, ms", *(f"{n.read_ms:.1f}" for n in needs)],
        ["delivery lag, s", *(_lag(n, n.lag_s) for n in needs)],
        ["the heaviest author's, s", *(_lag(n, n.lag_heaviest_s) for n in needs)],
        ["full first", *(f"{n.first[0]} ({100 * n.first[1]:.1f} %)" for n in needs)],
    ]
    marginal = [[between, f"{1e6 * cost:.2f}"] for between, cost in marginal_author_s(measured)]
    return [
        {"title": "What each phase needs", "columns": ["", *(n.phase for n in needs)], "rows": rows},
        {
            "title": "Where two of them cost the same processor time",
            "columns": ["what", "at", ""],
            "rows": [list(row) for row in crossings(load, measured)],
        },
        {
            "title": "What one more pulled author costs a read",
            "columns": ["followees", "µs of processor"],
            "rows": marginal,
            "note": "The first author costs a whole command; the next ones ride along, up to 200 in one.",
        },
    ]


def _lag(need: Need, seconds: float | None) -> str:
    if need.phase == "query":
        return "-"
    return "grows without end" if seconds is None else f"{seconds:,.3f}"


def size(count: float) -> str:
    for unit in ("B", "kB", "MB", "GB"):
        if count < 1_000:
            return f"{count:,.0f} {unit}"
        count /= 1_000
    return f"{count:,.1f} TB"
