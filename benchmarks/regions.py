"""`feedlab bench regions`: several data centres, simulated: how late a status is in each, and what a cut costs.

The model: a status is stored in its author's region and owes each region one delivery, by an entry in its `pending`
(rule 5). It reaches another region after the delay between the two. There a worker delivers it to the followers of that
region and takes the region's entry off, in the author's region, from where that comes back. A page is made of its own
region's copy: what is pending for the region, then its lists.

How long a delivery takes was measured (`feedlab bench units`): of a post that finds a worker idle, and of one that
waits and is taken along, as after a cut. Who posts when and to how many is drawn from the seed.
"""

import heapq
import math
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from itertools import combinations
from random import Random
from typing import Literal, NamedTuple

from pydantic import BaseModel

from app.config import Config
from app.errors import Refused
from benchmarks.report import PhaseUnits

Acknowledged = Literal["home", "majority"]

TIMEOUT_S: float = Config.model_fields["server_timeout_s"].default
COLUMNS = {
    "": ("region", "posts", "refused", "waits"),
    "on a page, s": ("p50", "p99", "longest"),
    "on the lists, s": ("p50", "p99", "longest"),
    " ": ("late",),
    "wrong pages of": ("all", "by lists alone"),
}  # of the table, under what stands above them
READS = 100  # moments at which a page of each region is compared with what has reached it


@dataclass(frozen=True)
class Setup:
    """The setup of a simulation.

    `delays_s`: one way, by pair of regions in either order. `posts_per_s`: in all regions together. `followers`: of an
    author, on average, in all regions together. `workers`: in each region.

    `cut`: the region that nobody reaches, from `cut_at_s` on, for `cut_s`. `acknowledged`: where a post is stored
    before its author hears so: in the author's region, or in a majority of the regions.
    """

    regions: tuple[str, ...]
    delays_s: Mapping[frozenset[str], float]
    posts_per_s: float = 20.0
    followers: float = 200.0
    workers: int = 1
    seconds: float = 120.0
    cut: str | None = None
    cut_at_s: float = 40.0
    cut_s: float = 30.0
    acknowledged: Acknowledged = "majority"
    seed: int = 1

    def __post_init__(self) -> None:
        if len(set(self.regions)) < 2 or len(set(self.regions)) < len(self.regions):
            raise Refused("name at least two regions, each once")
        if self.cut is not None and self.cut not in self.regions:
            raise Refused(f"there is no region {self.cut!r}; there are {', '.join(self.regions)}")
        if stray := [pair for pair in self.delays_s if not pair <= set(self.regions)]:
            raise Refused(f"a delay names regions that there are not: {' and '.join(sorted(stray[0]))}")

    def delay_s(self, one: str, other: str) -> float:
        return 0.0 if one == other else self.delays_s[frozenset((one, other))]

    def reaches_s(self, sender: str, receiver: str, at_s: float) -> float:
        """Return when a write of that moment is in the other region. What a cut stops is sent anew at its end."""
        delay_s, end_s = self.delay_s(sender, receiver), self.cut_at_s + self.cut_s
        severed = sender != receiver and self.cut in (sender, receiver)
        if severed and at_s < end_s and at_s + delay_s > self.cut_at_s:
            return end_s + delay_s
        return at_s + delay_s

    def majority_s(self, home: str, at_s: float) -> float:
        """Return when a region knows that most of the regions have what was written in it."""
        answers = sorted(self.reaches_s(r, home, self.reaches_s(home, r, at_s)) for r in self.regions)
        return answers[len(self.regions) // 2]


class Post(NamedTuple):
    at_s: float
    home: str
    followers: int


class Delivered(NamedTuple):
    """A post in one region: when it was there, when it was on the lists, when its pending entry was off there, and how
    long a worker took for it.
    """

    at_s: float
    arrived_s: float
    done_s: float
    cleared_s: float
    took_s: float


class Region(BaseModel):
    """The figures of one region, in seconds after the post.

    `page`: until a page of the region has it; `list`: until the lists have it. `late`: posts that the cut has held up.
    """

    region: str
    posts: int
    refused: int
    poster_waits_s: float
    page_p50_s: float
    page_p99_s: float
    page_longest_s: float
    list_p50_s: float
    list_p99_s: float
    list_longest_s: float
    late: int
    pages: int
    pages_wrong: int
    pages_wrong_by_lists_alone: int
    workers_busy: float


class Regions(BaseModel):
    """The outcome of a simulation.

    `lost`: acknowledged posts that would be gone, were the region that is cut off never seen again.
    """

    kind: Literal["regions"] = "regions"
    phase: str
    regions: list[Region]
    cut: str | None
    acknowledged: Acknowledged
    lost: int

    @property
    def good(self) -> bool:
        return not any(region.pages_wrong for region in self.regions)

    def lines(self) -> Iterator[str]:
        yield f"phase {self.phase}, acknowledged by {'a majority' if self.acknowledged == 'majority' else 'its region'}"
        rows = [
            [
                r.region,
                f"{r.posts:,}",
                f"{r.refused:,}",
                f"{r.poster_waits_s * 1000:.0f}ms",
                *(f"{s:.2f}" for s in (r.page_p50_s, r.page_p99_s, r.page_longest_s)),
                *(f"{s:.2f}" for s in (r.list_p50_s, r.list_p99_s, r.list_longest_s)),
                f"{r.late:,}",
                *(f"{wrong}/{r.pages}" for wrong in (r.pages_wrong, r.pages_wrong_by_lists_alone)),
            ]
            for r in self.regions
        ]
        words = [name for group in COLUMNS.values() for name in group]
        widths = [max(map(len, column)) for column in zip(words, *rows, strict=True)]
        left = iter(widths)
        above = [title.rjust(sum(2 + next(left) for _ in group)) for title, group in COLUMNS.items()]
        yield "".join(above)[2:]
        for first, *others in [words, *rows]:
            cells = [
                first.ljust(widths[0]),
                *(each.rjust(width) for each, width in zip(others, widths[1:], strict=True)),
            ]
            yield "  ".join(cells)
        if self.cut:
            yield f"lost, should {self.cut} never be seen again: {self.lost:,} acknowledged posts"


def delays_between(names: Sequence[str], delay_ms: float, between: Sequence[str]) -> dict[frozenset[str], float]:
    """Return the seconds one way for every pair: as in `A,B=MS`, and `delay_ms` for the other pairs. Raises Refused."""
    delays = {frozenset(pair): delay_ms / 1000 for pair in combinations(names, 2)}
    for said in between:
        pair, _, milliseconds = said.partition("=")
        one, _, other = pair.partition(",")
        if frozenset((one, other)) not in delays:
            raise Refused(f"{said!r} is no A,B=MS of two regions of {', '.join(names)}")
        delays[frozenset((one, other))] = _ms(said, milliseconds) / 1000
    return delays


def _ms(said: str, milliseconds: str) -> float:
    with suppress(ValueError):
        if 0 <= (ms := float(milliseconds)) < math.inf:  # which `nan` is not
            return ms
    raise Refused(f"{said!r}: {milliseconds!r} is no number of milliseconds")


def simulate(setup: Setup, phase: str, units: PhaseUnits) -> Regions:
    """Simulate a setup. Equal setups and units give equal outcomes."""
    random = Random(setup.seed)
    tried = list(_posts(setup, random))
    posts = [post for post in tried if not _refused(setup, post)]
    regions = []
    for name in setup.regions:
        delivered = list(_delivered(setup, name, posts, units))
        there = [one for one, post in zip(delivered, posts, strict=True) if post.home != name]
        moments = [random.uniform(0, setup.seconds) for _ in range(READS)]
        regions.append(_region(setup, name, tried, posts, units, delivered, there, moments))
    return Regions(
        phase=phase,
        regions=regions,
        cut=setup.cut,
        acknowledged=setup.acknowledged,
        lost=sum(_lost(setup, post) for post in posts),
    )


def _posts(setup: Setup, random: Random) -> Iterator[Post]:
    """Yield posts by a Poisson process; their followers follow a power law with the setup's mean."""
    at_s = random.expovariate(setup.posts_per_s)
    while at_s < setup.seconds:
        yield Post(at_s, random.choice(setup.regions), int(setup.followers * random.paretovariate(2) / 2))
        at_s += random.expovariate(setup.posts_per_s)


def _refused(setup: Setup, post: Post) -> bool:
    """Return whether the author is told that the post failed, since no majority had it in time."""
    return setup.acknowledged == "majority" and setup.majority_s(post.home, post.at_s) > post.at_s + TIMEOUT_S


def _lost(setup: Setup, post: Post) -> bool:
    """Return whether a post would be lost: acknowledged by a region that is never seen again, and in no other one."""
    if post.home != setup.cut or post.at_s >= setup.cut_at_s + setup.cut_s:
        return False
    gone = replace(setup, cut_s=math.inf)
    acknowledged_s = post.at_s if setup.acknowledged == "home" else gone.majority_s(post.home, post.at_s)
    others = (gone.reaches_s(post.home, other, post.at_s) for other in setup.regions if other != post.home)
    return acknowledged_s < math.inf == min(others)


def _delivered(setup: Setup, region: str, posts: Sequence[Post], units: PhaseUnits) -> Iterator[Delivered]:
    """Deliver the posts in a region, first come, first served by its workers; yield them in their own order."""
    arrivals = [setup.reaches_s(post.home, region, post.at_s) for post in posts]
    free = [0.0] * setup.workers
    done: dict[int, tuple[float, float]] = {}
    for number in sorted(range(len(posts)), key=arrivals.__getitem__):
        begins_s = max(arrivals[number], heapq.heappop(free))
        job_s = units.job_s.of_waiting if begins_s > arrivals[number] else units.job_s
        took_s = job_s.fixed + job_s.each * posts[number].followers / len(setup.regions)
        done[number] = begins_s + took_s, took_s
        heapq.heappush(free, begins_s + took_s)
    for number, post in enumerate(posts):
        done_s, took_s = done[number]
        yield Delivered(post.at_s, arrivals[number], done_s, _cleared_s(setup, region, post, done_s), took_s)


def _cleared_s(setup: Setup, region: str, post: Post, done_s: float) -> float:
    """Return when the region sees that its entry is off: after the last follower, by way of the author's region."""
    return setup.reaches_s(post.home, region, setup.reaches_s(region, post.home, done_s))


def _region(
    setup: Setup,
    name: str,
    tried: Sequence[Post],
    posts: Sequence[Post],
    units: PhaseUnits,
    delivered: Sequence[Delivered],
    there: Sequence[Delivered],
    moments: Sequence[float],
) -> Region:
    own = sum(post.home == name for post in posts)
    page, lists = (sorted(one[at] - one.at_s for one in there) for at in (1, 2))
    wrong = [_missing(delivered, at_s) for at_s in moments]
    usual_s = max(setup.delay_s(name, other) for other in setup.regions)
    busy_s = sum(one.took_s for one in delivered)
    waits_s = units.acknowledged_s[0]
    if setup.acknowledged == "majority":
        waits_s += 2 * sorted(setup.delay_s(name, other) for other in setup.regions)[len(setup.regions) // 2]
    return Region(
        region=name,
        posts=own,
        refused=sum(post.home == name for post in tried) - own,
        poster_waits_s=waits_s,
        page_p50_s=_at(page, 0.5),
        page_p99_s=_at(page, 0.99),
        page_longest_s=_at(page, 1),
        list_p50_s=_at(lists, 0.5),
        list_p99_s=_at(lists, 0.99),
        list_longest_s=_at(lists, 1),
        late=sum(one.arrived_s - one.at_s > usual_s + 1e-9 for one in there),
        pages=len(moments),
        pages_wrong=sum(with_look for with_look, _ in wrong),
        pages_wrong_by_lists_alone=sum(alone for _, alone in wrong),
        workers_busy=busy_s / setup.seconds / setup.workers,
    )


def _missing(delivered: Sequence[Delivered], at_s: float) -> tuple[bool, bool]:
    """Return whether a post that has reached the region is neither listed nor pending, and whether one is unlisted."""
    off_lists = [one for one in delivered if one.arrived_s <= at_s < one.done_s]
    return any(at_s >= one.cleared_s for one in off_lists), bool(off_lists)


def _at(ordered: Sequence[float], share: float) -> float:
    """Return the smallest value that a share of all do not exceed."""
    return ordered[max(0, math.ceil(share * len(ordered)) - 1)] if ordered else 0.0
