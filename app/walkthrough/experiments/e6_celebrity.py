"""A celebrity who posts, delivered and pulled; and how much a page costs that merges pulled authors."""

from collections.abc import Mapping
from statistics import median
from time import perf_counter

from bson import ObjectId

from app.stack.cost import Cost, counted
from app.walkthrough.experiments.base import Experiment, Knob
from app.walkthrough.lab import Lab, timed
from app.walkthrough.result import Bar, Chart, Check, Result, written
from phases.base import Phase
from phases.p1_query import QUERY
from phases.p2_push import put_on_timelines
from phases.p4_cache import CACHE
from phases.p6_hybrid import DELIVERY_US, HYBRID, PULLED_US

HISTORY = 20  # statuses of each author before the experiment
REPEATS = 5  # statuses of the celebrity in each phase
PAGES = 100  # of each reader, in turn; on stand-ins a few
LIMIT = 20


class Celebrity(Experiment):
    slug = HYBRID.slug
    title = "A celebrity posts"
    about = (
        "Somebody whom many active people follow posts: a worker delivers the statuses in phase 4, and in phase 6 they "
        "are pulled. Then two readers with as many followees ask for their page: of one some followees are pulled, of "
        "the other one nobody is."
    )
    knobs = (
        Knob("followers", "Active followers of the celebrity", 100, 20_000, 100, 10_000, 100),
        Knob("pulled", "Pulled authors whom the reader follows", 1, 400, 1, 20, 5),
        Knob("followees", "People whom both readers follow", 10, 1_000, 10, 400, 20),
    )

    async def run(self, lab: Lab, values: Mapping[str, int]) -> Result:
        n, pulled = values["followers"], values["pulled"]
        celebrity = lab.person()
        lab.say(f"Making {n:,} followers")
        await lab.history([celebrity], HISTORY)
        fans = await lab.followers(celebrity, n)
        reader = fans[0]
        try:
            await _keep(lab, CACHE, reader)
            await _keep(lab, HYBRID, reader)
            lab.say("Posting what is pulled")
            pulled_ms, nothing = await _post(lab, HYBRID, celebrity, pulled=True)
            page = await lab.timelines.page(reader, phase=HYBRID.slug, limit=LIMIT)
            asked = await lab.timelines.page(reader, phase=QUERY.slug, limit=LIMIT)
            lab.say(f"Delivering as much to {n:,} active followers in phase 4")
            delivered_ms, delivered = await _post(lab, CACHE, celebrity)
            with_ms, without_ms, more_ms, commands = await _pages(lab, values["followees"], pulled)
        finally:
            await lab.forget_lists(fans[:1])
        each_us, more_us = 1000 * delivered_ms / n, 1000 * max(0.0, more_ms) / pulled
        same = page.statuses == asked.statuses
        return Result(
            sentence=_sentence(n, delivered_ms, pulled_ms, pulled, (without_ms, with_ms), more_us / each_us),
            charts=(
                Chart(
                    title="Until a status is acknowledged and delivered",
                    unit="ms",
                    bars=(Bar(label="phase 4", value=delivered_ms), Bar(label="phase 6, pulled", value=pulled_ms)),
                ),
                Chart(
                    title=f"A page of {LIMIT} of phase 6",
                    unit="ms",
                    bars=(
                        Bar(label="nobody pulled", value=without_ms),
                        Bar(label=f"{pulled} authors pulled", value=with_ms),
                    ),
                ),
            ),
            checks=(
                Check(
                    what="Commands to Memcached for one status: delivered, and pulled",
                    found=f"{delivered.memcached:,}, and {nothing.memcached:,}",
                    as_told=(delivered.memcached, nothing.memcached) == (n + 1, 0),
                ),
                Check(
                    what="The next page of a follower, with no worker between",
                    found=f"from the {page.source}, {'the same as' if same else 'not the same as'} phase 1’s",
                    as_told=same and page.source == "list",
                ),
                Check(
                    what="Commands of a page: nobody pulled, and some",
                    found=f"{_said(commands[0])}, and {_said(commands[1])}",
                    as_told=commands[0] == commands[1],
                ),
            ),
        )


async def _keep(lab: Lab, phase: Phase, reader: ObjectId) -> None:
    await lab.timelines.page(reader, phase=phase.slug)


async def _mark(lab: Lab, author: ObjectId) -> None:
    await lab.timelines.pulls.markers.mark(author, (await lab.timelines.switch.current()).epoch)


async def _post(lab: Lab, phase: Phase, author: ObjectId, *, pulled: bool = False) -> tuple[float, Cost]:
    """Milliseconds (median) until everybody has a status, without the queue between; and the commands of one."""
    delivery, runs, costs = lab.delivery(phase), list[float](), list[Cost]()
    if pulled:
        await _mark(lab, author)
    for _ in range(REPEATS):
        with counted() as cost:
            start_s = perf_counter()
            status = await lab.store(author, *([] if pulled else [phase.slug]), pulled=pulled)
            last = None if pulled else await put_on_timelines(delivery, status, None)
            while last:
                last = await put_on_timelines(delivery, status, last)
            runs.append((perf_counter() - start_s) * 1000)
        costs.append(cost)
        await delivery.done(status.id)
    return median(runs), costs[-1]


async def _pages(lab: Lab, followees: int, pulled: int) -> tuple[float, float, float, tuple[Cost, Cost]]:
    """(with, without, the difference of two pages in turn) in milliseconds (medians), and the commands of one page
    (without, with).
    """
    lab.say(f"Reading pages of {pulled} pulled authors among {max(followees, pulled):,}, and of none")
    authors = [lab.person() for _ in range(max(followees, pulled))]
    others = [lab.person() for _ in authors]
    await lab.history([*authors, *others], HISTORY)
    readers = [lab.person(), lab.person()]
    for reader, some in zip(readers, (others, authors), strict=True):
        rows = [{"_id": ObjectId(), "follower": reader, "followee": one} for one in some]
        await lab.insert("follows", rows)
        await _keep(lab, HYBRID, reader)
    for one in authors[:pulled]:
        await _mark(lab, one)
        await lab.store(one, pulled=True)
    for one in others[:pulled]:  # as many, delivered
        status = await lab.store(one, HYBRID.slug)
        await put_on_timelines(lab.delivery(HYBRID), status, None)
        await lab.delivery(HYBRID).done(status.id)

    async def page(reader: ObjectId) -> None:
        await lab.timelines.page(reader, phase=HYBRID.slug, limit=LIMIT)

    runs: dict[ObjectId, list[float]] = {reader: [] for reader in readers}
    costs = []
    for reader in readers:
        await page(reader)
        with counted() as cost:
            await page(reader)
        costs.append(cost)
    for _ in range(PAGES if lab.real else REPEATS):
        for reader in readers:
            runs[reader].append(await timed(lambda reader=reader: page(reader)))  # type: ignore[misc]
    await lab.forget_lists(readers)
    without, with_ = (runs[reader] for reader in readers)
    more = [one - other for one, other in zip(with_, without, strict=True)]
    return median(with_), median(without), median(more), (costs[0], costs[1])


def _said(cost: Cost) -> str:
    return f"{cost.mongodb} to MongoDB and {cost.memcached} to Memcached"


def _sentence(
    n: int, delivered_ms: float, pulled_ms: float, pulled: int, page_ms: tuple[float, float], even: float
) -> str:
    without_ms, with_ms = page_ms
    return (
        f"A status of somebody with {n:,} active followers takes {written(delivered_ms)} ms in phase 4, and "
        f"{written(pulled_ms)} ms where it is pulled. A page takes {written(without_ms)} ms, and with {pulled} pulled "
        f"authors {written(with_ms)} ms. So pulling is cheaper here where somebody writes {written(even)} statuses or "
        f"more for each page that a follower reads; the rule says {written(PULLED_US / DELIVERY_US)}."
    )
