"""Experiment: delivery to active readers alone; a reader who returns; and a rebuild that races a delivery."""

import asyncio
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import TypeVar

from bson import ObjectId

from app.clock import FIRST_ID, LAST_ID
from app.edges import EdgeMemory
from app.stack.cost import Cost, counted
from app.walkthrough.experiments.base import Experiment, Knob
from app.walkthrough.experiments.pages import Pages, pages, pages_chart
from app.walkthrough.lab import Lab, timed
from app.walkthrough.result import Bar, Chart, Check, Result, Sample, compared, samples
from phases.base import Phase
from phases.home.newest import Newest
from phases.keeping.lists import LIST, Value, key
from phases.keeping.store import Recent, Returning
from phases.p1_query import QUERY, written_by
from phases.p2_push import deliver_status
from phases.p3_queue import QUEUE
from phases.p4_cache import CACHE

HISTORY = 20  # statuses of the author before the experiment
SETUP_AT_ONCE = 200
ROUNDS, FEW_ROUNDS = 7, 2  # on real servers, and on stand-ins
EXPIRES_S = 1
EXPIRY_DEADLINE_S = 5.0
POLL_S = 0.1

K = TypeVar("K")


class ActiveShare(Experiment):
    slug = CACHE.slug
    title = "Who is there, who returns, and a race"
    about = (
        "An author’s status is delivered by a worker to every follower, as in phase 3, and to the active ones only, as "
        "in phase 4. Readers who follow more and more people ask for a page in phases 1, 3 and 4. Then a list expires "
        "and its reader returns; and a rebuild races a delivery twice, once with a plain set and once with "
        "compare-and-swap."
    )
    knobs = (
        Knob("followers", "Followers of the author", 100, 10_000, 100, 3_000, 100),
        Knob("share", "Active followers", 1, 100, 1, 10, 10, "%"),
    )

    async def run(self, lab: Lab, values: Mapping[str, int]) -> Result:
        n, share = values["followers"], values["share"]
        author = lab.person()
        await lab.history([author], HISTORY)
        lab.say(f"Making {n:,} followers")
        readers = await lab.followers(author, n)
        works: dict[int | None, tuple[Phase, ObjectId]] = {None: (QUEUE, author)}
        try:
            await keep_lists(lab, readers)
            for percent in sorted({100, share, max(1, share // 10)}, reverse=True):
                one = lab.person()
                await lab.follow(readers, one, active=max(1, n * percent // 100))
                works[percent] = CACHE, one
            lab.say(f"Delivering to all {n:,} followers in phase 3, and to the active ones in phase 4")
            runs, costs = await work(lab, works, ROUNDS if lab.real else FEW_ROUNDS)
            checks = [*await _returns(lab, author), *await _races(lab)]
        finally:
            await lab.forget_lists(readers)
        read, same = await pages(lab, (QUERY, QUEUE, CACHE))
        prepends = tuple(
            Bar(label=f"{percent} % active", value=costs[percent].memcached) for percent in runs if percent is not None
        )
        return Result(
            pain=pain(n, runs),
            sentence=sentence(n, share, runs, read),
            charts=(
                Chart(
                    title="The worker’s time for one status",
                    unit="ms",
                    bars=tuple(
                        ms.bar("phase 3, everybody" if percent is None else f"phase 4, {percent} % active")
                        for percent, ms in runs.items()
                    ),
                ),
                Chart(title="Commands to Memcached for one status", unit="", bars=prepends),
                pages_chart(read),
            ),
            checks=(*checks, *same),
        )


async def work(
    lab: Lab, works: Mapping[K, tuple[Phase, ObjectId]], rounds: int
) -> tuple[dict[K, Sample], dict[K, Cost]]:
    """Return the milliseconds of whole fan-outs, taken in turn, and the commands of the last one.

    They go chunk by chunk, without the queue between. The first of each does not count.
    """
    runs: dict[K, list[float]] = {name: [] for name in works}
    costs: dict[K, Cost] = {}
    for turn in range(1 + rounds):
        for name, (phase, author) in works.items():
            status = await lab.store(author, phase.slug)
            with counted() as costs[name]:
                ms = await timed(partial(deliver_status, lab.delivery(phase), status))
            if turn:
                runs[name].append(ms)
    return samples(runs), costs


async def keep_lists(lab: Lab, readers: Sequence[ObjectId]) -> None:
    """Make a list for each reader, also for those who are away, whose lists no delivery looks for."""
    container = await lab.container(CACHE)
    for at in range(0, len(readers), SETUP_AT_ONCE):
        some = readers[at : at + SETUP_AT_ONCE]
        await asyncio.gather(*(_add_list(lab, key(container, reader), Recent([], FIRST_ID)) for reader in some))


async def _add_list(lab: Lab, at: str, recent: Recent) -> None:
    ttl_s = lab.stack.config.timeline_ttl_s
    expires_at_ms = int((lab.clock.now().timestamp() + ttl_s) * 1000)
    value = Value(LIST, [row[:12] for row in recent.rows], recent.floor.binary, expires_at_ms=expires_at_ms)
    await lab.stack.memcached.add(at, value.packed(), ttl_s)


async def _returns(lab: Lab, author: ObjectId) -> list[Check]:
    """Let a list expire and a delivery find nothing, and then its reader return."""
    (reader,) = await lab.followers(author, 1)
    container = await lab.container(CACHE)
    lab.say("Letting a list expire")
    await lab.timelines.page(reader, phase=CACHE.slug)
    kept = await lab.stack.memcached.gets(key(container, reader))
    assert kept, "the read has filled it in"
    await lab.stack.memcached.cas(key(container, reader), kept[0], kept[1], EXPIRES_S)
    await _until_gone(lab, key(container, reader))
    status = await lab.store(author, CACHE.slug)
    taken = await lab.stack.memcached.prepend([key(container, reader)], status.id.binary)
    await lab.delivery(CACHE).done(status.id)
    lab.say("Coming back")
    cold = await lab.timelines.page(reader, phase=CACHE.slug)
    warm = await lab.timelines.page(reader, phase=CACHE.slug)
    asked = await lab.timelines.page(reader, phase=QUERY.slug)
    await lab.forget_lists([reader])
    same = cold.statuses == warm.statuses == asked.statuses
    return [
        Check(what="List expired: how many lists take the delivery?", found=str(taken), as_told=taken == 0),
        Check(
            what="The reader returns: where do the first page and the next one come from?",
            found=f"{cold.source}, then {warm.source}; {'the same as' if same else 'not the same as'} phase 1’s",
            as_told=(cold.source, warm.source, same) == ("rebuilt", "list", True),
        ),
    ]


async def _until_gone(lab: Lab, at: str) -> None:
    async with asyncio.timeout(EXPIRY_DEADLINE_S):
        while await lab.stack.memcached.gets(at):  # noqa: ASYNC110 - Memcached tells nobody what expired
            await asyncio.sleep(POLL_S)


async def _races(lab: Lab) -> list[Check]:
    """Run one interleaving twice, with a plain set and with CAS: a query, then a delivery, then the list is written."""
    author = lab.person()
    await lab.history([author], HISTORY)
    lab.say("Racing a delivery with a plain set")
    lost_by_set = await _race(lab, author, with_cas=False)
    lab.say("Racing a delivery with compare-and-swap")
    lost_by_cas = await _race(lab, author, with_cas=True)
    return [
        Check(what="Race, plain set: statuses lost from the page", found=str(lost_by_set), as_told=lost_by_set == 1),
        Check(
            what="Race, placeholder and compare-and-swap: statuses lost",
            found=str(lost_by_cas),
            as_told=lost_by_cas == 0,
        ),
    ]


@dataclass(frozen=True)
class _QueryThenDelivery(Returning):
    """A return during which a status is delivered between the query and the filling of the list."""

    lab: Lab

    async def recent(self, authors: Sequence[ObjectId] | None = None) -> Recent:
        recent = await super().recent(authors)
        [author] = self.followees
        await deliver_status(self.lab.delivery(CACHE), await self.lab.store(author, CACHE.slug))
        return recent


async def _race(lab: Lab, author: ObjectId, *, with_cas: bool) -> int:
    (reader,) = await lab.followers(author, 1)
    container = await lab.container(CACHE)
    head = asyncio.ensure_future(Newest(lab.stack.db, written_by, [reader, author]).older_than(LAST_ID, HISTORY))
    began_s = lab.clock.monotonic()
    returning = _QueryThenDelivery(lab.stack, EdgeMemory(), written_by, reader, [author], began_s, head, lab)
    if with_cas:
        await lab.kept(CACHE).store.rebuild(container, returning)
    else:
        recent = await returning.recent()
        await lab.stack.memcached.delete(key(container, reader))  # Memcached's `set` replaces whatever is there
        await _add_list(lab, key(container, reader), recent)
    limit = 2 * HISTORY
    kept = await lab.timelines.page(reader, phase=CACHE.slug, limit=limit)
    asked = await lab.timelines.page(reader, phase=QUERY.slug, limit=limit)
    await lab.forget_lists([reader])
    return len({row.id for row in asked.statuses} - {row.id for row in kept.statuses})


def pain(n: int, runs: Mapping[int | None, Sample]) -> str:
    return f"In phase 3 the worker needs {runs[None]} ms for one status of an author with {n:,} followers."


def sentence(n: int, share: int, runs: Mapping[int | None, Sample], read: Pages) -> str:
    many = max(followees for _, followees in read)
    asked, entries, kept = (read[phase.slug, many] for phase in (QUERY, QUEUE, CACHE))
    all_active = "" if share == 100 else f" Were all of them active, it would need {runs[100]} ms."
    return (
        f"Of {n:,} followers {share} % are active. The worker needs {runs[None]} ms for everybody in phase 3 and "
        f"{runs[share]} ms for the active in phase 4: {compared(runs[share], runs[None])}.{all_active} The page for "
        f"{many:,} followees takes {asked} ms in phase 1, {entries} ms in phase 3 and {kept} ms in phase 4: phase 4 "
        f"against phase 1 {compared(kept, asked)}, against phase 3 {compared(kept, entries)}."
    )
