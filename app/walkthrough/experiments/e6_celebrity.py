"""Experiment: a celebrity posts, delivered and pulled; and what a page costs that merges pulled authors."""

from collections.abc import Mapping
from functools import partial

from bson import ObjectId

from app.stack.cost import Cost, counted
from app.walkthrough.experiments.base import Experiment, Knob
from app.walkthrough.lab import Lab, timed
from app.walkthrough.result import Chart, Check, Result, Sample, compared, samples, written
from phases.base import Phase
from phases.home.page import Page
from phases.p1_query import QUERY
from phases.p2_push import deliver_status
from phases.p4_cache import CACHE
from phases.p5_stream import STREAM
from phases.p6_hybrid import DELIVERY_US, HYBRID, PULLED_US

HISTORY = 20  # statuses of each author before the experiment
ROUNDS, FEW_ROUNDS = 7, 2  # statuses of the celebrity in each phase, on real servers, and on stand-ins
PAGES, FEW_PAGES = 100, 5  # of each reader, in turn
LIMIT = 20


class Celebrity(Experiment):
    slug = HYBRID.slug
    title = "A celebrity posts"
    about = (
        "Somebody whom many active people follow posts: a worker delivers the statuses in phases 4 and 5, and in phase "
        "6 they are pulled. Then two readers with as many followees ask for their page: one follows some pulled "
        "authors, and the other follows none."
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
        await lab.followers(celebrity, n)
        lab.say(f"Delivering to {n:,} active followers in phases 4 and 5, and pulling in phase 6")
        posts, costs = await _posted(lab, celebrity)
        page, asked = await _next_page(lab)
        pages_ms, more_ms, commands = await _pages(lab, values["followees"], pulled)
        same = page.statuses == asked.statuses
        delivered, nothing = costs[CACHE.slug], costs[HYBRID.slug]
        return Result(
            pain=pain(n, posts),
            sentence=sentence(n, pulled, posts, pages_ms, more_ms),
            charts=(
                Chart(
                    title="Until a status is acknowledged and delivered",
                    unit="ms",
                    bars=(
                        posts[CACHE.slug].bar("phase 4"),
                        posts[STREAM.slug].bar("phase 5"),
                        posts[HYBRID.slug].bar("phase 6, pulled"),
                    ),
                ),
                Chart(
                    title=f"A page of {LIMIT} of phase 6",
                    unit="ms",
                    bars=(pages_ms[False].bar("nobody pulled"), pages_ms[True].bar(f"{pulled} authors pulled")),
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


async def _posted(lab: Lab, author: ObjectId) -> tuple[dict[str, Sample], dict[str, Cost]]:
    """Return the milliseconds until everybody has a status, without the queue between, and the commands of one.

    The first of each phase does not count.
    """
    runs: dict[str, list[float]] = {phase.slug: [] for phase in (CACHE, STREAM, HYBRID)}
    costs: dict[str, Cost] = {}
    await _mark(lab, author)
    for turn in range(1 + (ROUNDS if lab.real else FEW_ROUNDS)):
        for phase in (CACHE, STREAM, HYBRID):
            with counted() as costs[phase.slug]:
                ms = await timed(partial(_post, lab, phase, author))
            if turn:
                runs[phase.slug].append(ms)
    return samples(runs), costs


async def _next_page(lab: Lab) -> tuple[Page, Page]:
    """Return a follower's page right after a pulled status, in phase 6 and in phase 1."""
    author = lab.person()
    await lab.history([author], HISTORY)
    (reader,) = await lab.followers(author, 1)
    try:
        await _keep(lab, HYBRID, reader)
        await _mark(lab, author)
        await _post(lab, HYBRID, author)
        page = await lab.timelines.page(reader, phase=HYBRID.slug, limit=LIMIT)
        return page, await lab.timelines.page(reader, phase=QUERY.slug, limit=LIMIT)
    finally:
        await lab.forget_lists([reader])


async def _post(lab: Lab, phase: Phase, author: ObjectId) -> None:
    if phase is HYBRID:
        await lab.store(author, pulled=True)
    else:
        await deliver_status(lab.delivery(phase), await lab.store(author, phase.slug))


async def _pages(lab: Lab, followees: int, pulled: int) -> tuple[dict[bool, Sample], Sample, tuple[Cost, Cost]]:
    """Return the milliseconds of a page by whether some authors are pulled, of the difference of two pages in turn, and
    the commands of one page (without, with).
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
        await deliver_status(lab.delivery(HYBRID), status)

    async def page(reader: ObjectId) -> None:
        await lab.timelines.page(reader, phase=HYBRID.slug, limit=LIMIT)

    runs: dict[ObjectId, list[float]] = {reader: [] for reader in readers}
    costs = []
    for reader in readers:
        await page(reader)
        with counted() as cost:
            await page(reader)
        costs.append(cost)
    for _ in range(PAGES if lab.real else FEW_PAGES):
        for reader in readers:
            runs[reader].append(await timed(lambda reader=reader: page(reader)))  # type: ignore[misc]
    await lab.forget_lists(readers)
    without, with_ = (runs[reader] for reader in readers)
    more = [one - other for one, other in zip(with_, without, strict=True)]
    return samples({False: without, True: with_}), Sample.of(more), (costs[0], costs[1])


def _said(cost: Cost) -> str:
    return f"{cost.mongodb} to MongoDB and {cost.memcached} to Memcached"


def pain(n: int, posts: Mapping[str, Sample]) -> str:
    return (
        f"A status of somebody with {n:,} active followers takes {posts[CACHE.slug]} ms in phase 4, and "
        f"{posts[STREAM.slug]} ms in phase 5."
    )


def sentence(n: int, pulled: int, posts: Mapping[str, Sample], pages: Mapping[bool, Sample], more_ms: Sample) -> str:
    """Return what the figures say. `more_ms`: what `pulled` authors add to a page."""
    delivered, asked = posts[CACHE.slug], posts[HYBRID.slug]
    said = (
        f"The celebrity’s status takes {delivered} ms in phase 4, and {asked} ms where it is pulled: "
        f"{compared(asked, delivered)}. A page takes {pages[False]} ms, and with {pulled} pulled authors {pages[True]} "
        "ms. Where the two are read in turn, "
    )
    if more_ms.low <= 0:
        return said + "there is no clear difference, so this run cannot tell what a pulled author costs a page."
    even = (more_ms.median / pulled) / (delivered.median / n)
    return said + (
        f"the second takes {more_ms} ms more. So pulling is cheaper here where somebody writes {written(even)} "
        f"statuses or more for each page that a follower reads; the rule says {written(PULLED_US / DELIVERY_US)}."
    )
