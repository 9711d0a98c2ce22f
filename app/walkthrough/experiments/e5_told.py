"""Experiment: how long until a status is delivered (queued, lost or told); and one fan-out into three stores."""

from collections.abc import Mapping, Sequence
from functools import partial
from time import perf_counter

from bson import ObjectId

from app.clock import FIRST_ID
from app.stack.sorted_sets import LIST, PLACEHOLDER, Trailer
from app.walkthrough.experiments.base import Experiment, Knob
from app.walkthrough.experiments.e4_active import keep_lists, work
from app.walkthrough.lab import Lab, timed
from app.walkthrough.result import Bar, Chart, Check, Result, Sample, compared, samples, written
from phases.keeping.entries import entries_name
from phases.keeping.lists import LIST as A_LIST
from phases.keeping.lists import Value, key
from phases.p3_queue import QUEUE
from phases.p4_cache import CACHE
from phases.p5_stream import STREAM
from workers.sweeper import OVERDUE_S, sweep
from workers.worker import run_in_thread

ROUNDS, FEW_ROUNDS = 7, 2  # on real servers, and on stand-ins, where each waits for a second
FEW = 100  # followers of whom the lag is measured
FULL = 800  # ids of a timeline that is weighed
PACKED = 100  # ids of one that Redis packs tightly as it comes


class Told(Experiment):
    slug = STREAM.slug
    title = "Queued or told, and three places for an id"
    about = (
        f"An author with {FEW} active followers posts while a worker runs: how long does the poster wait, and how long "
        "is it until the status is delivered, when it is queued, when the enqueue is lost on purpose, and when the "
        "change stream tells? Nobody follows the stream, and a status is found all the same. Then one fan-out goes "
        "into entries in MongoDB, lists in Memcached and sorted sets in Redis."
    )
    knobs = (
        Knob("followers", "Followers of the author whose status goes into three stores", 100, 10_000, 100, 3_000, 100),
    )

    async def run(self, lab: Lab, values: Mapping[str, int]) -> Result:
        n, author = values["followers"], lab.person()
        readers = await lab.followers(author, FEW)
        try:
            await keep_lists(lab, readers)
            await _keep_sets(lab, readers, 0)
            async with run_in_thread(lab.timelines):
                lab.say("Posting in phases 4 and 5, while a worker runs")
                waits, lags = await _posted(lab, author)
                lab.say("Losing an enqueue, and waiting for the sweeper to find it")
                swept_ms = await _swept_ms(lab, author)
        finally:
            await _forget(lab, readers)
        checks = [*await _nobody_follows(lab, author), *await _no_set_is_made(lab)]
        fan_outs, bytes_ = await _three_stores(lab, n)
        weights = tuple(Bar(label=label, value=each) for label, each in bytes_.items())
        labels = {QUEUE.slug: "entries", CACHE.slug: "lists", STREAM.slug: "sorted sets"}
        return Result(
            pain=pain(waits, lags, swept_ms),
            sentence=sentence(n, waits, lags, fan_outs, bytes_),
            charts=(
                Chart(
                    title="The poster waits",
                    unit="ms",
                    bars=(waits[CACHE.slug].bar("phase 4, queued"), waits[STREAM.slug].bar("phase 5, told")),
                ),
                Chart(
                    title="From the acknowledged post to the last follower",
                    unit="ms",
                    bars=(
                        lags[CACHE.slug].bar("phase 4, queued"),
                        Bar(label="phase 4, the enqueue is lost", value=swept_ms),
                        lags[STREAM.slug].bar("phase 5, told"),
                    ),
                ),
                Chart(
                    title=f"One status to {n:,} followers",
                    unit="ms",
                    bars=tuple(ms.bar(labels[slug]) for slug, ms in fan_outs.items()),
                ),
                *([Chart(title="What an id takes", unit="bytes", bars=weights)] if weights else []),
            ),
            checks=tuple(checks),
        )


async def _posted(lab: Lab, author: ObjectId) -> tuple[dict[str, Sample], dict[str, Sample]]:
    """Return the milliseconds until the poster goes on, and from then until the last follower has it, by phase."""
    waits: dict[str, list[float]] = {CACHE.slug: [], STREAM.slug: []}
    lags: dict[str, list[float]] = {CACHE.slug: [], STREAM.slug: []}
    for turn in range(1 + (ROUNDS if lab.real else FEW_ROUNDS)):
        for phase in (CACHE, STREAM):
            start_s = perf_counter()
            status = await lab.post(author, phase)
            waited_ms = (perf_counter() - start_s) * 1000
            lag_ms = await timed(partial(lab.delivered, phase, status.id))
            if turn:
                waits[phase.slug].append(waited_ms)
                lags[phase.slug].append(lag_ms)
    return samples(waits), samples(lags)


async def _forget(lab: Lab, readers: Sequence[ObjectId]) -> None:
    await lab.forget_lists(readers)
    for reader in readers:
        await lab.kept(STREAM).forget(reader)


async def _swept_ms(lab: Lab, author: ObjectId) -> float:
    """Return the milliseconds until the sweeper delivers a status, by the laboratory's clock.

    That is put forward: the sweeper leaves young statuses to their jobs, and nobody waits for that here.
    """
    start_s = lab.clock.monotonic()
    status = await lab.store(author, CACHE.slug)
    lab.clock.advance(OVERDUE_S)
    await lab.delivered(CACHE, status.id)
    return (lab.clock.monotonic() - start_s) * 1000


async def _nobody_follows(lab: Lab, author: ObjectId) -> list[Check]:
    """Post when the worker has ended, so that nothing tells of the new status, and then sweep."""
    lab.say("Posting while nobody follows the stream")
    (reader,) = await lab.followers(author, 1)
    await lab.timelines.page(reader, phase=STREAM.slug)  # there is a set to read from
    status = await lab.store(author, STREAM.slug)
    page = await lab.timelines.page(reader, phase=STREAM.slug)
    seen = bool(page.statuses) and page.statuses[0].id == status.id
    before = await lab.kept(STREAM).holds(reader, status.id)
    lab.clock.advance(OVERDUE_S + 2)
    await sweep(lab.timelines)
    await lab.drain()
    after = await lab.kept(STREAM).holds(reader, status.id)
    await lab.kept(STREAM).forget(reader)
    return [
        Check(
            what="Nobody follows the stream: is the status on a page at once?",
            found="yes, it is pending" if seen else "no",
            as_told=seen,
        ),
        Check(
            what="Is it in their set, before and after the sweeper came by?",
            found=f"{_yes(before)}, then {_yes(after)}",
            as_told=(before, after) == (False, True),
        ),
    ]


async def _no_set_is_made(lab: Lab) -> list[Check]:
    sets, container, reader = lab.stack.sets, await lab.container(STREAM), lab.person()
    await sets.deliver(container.name, [reader], lab.clock.new_id(), FULL)
    made = await sets.bytes_of(container.name, reader) > 0
    return [Check(what="A delivery to a reader without a set: is there one now?", found=_yes(made), as_told=not made)]


async def _three_stores(lab: Lab, n: int) -> tuple[dict[str, Sample], dict[str, float]]:
    """Return the milliseconds of a fan-out by phase, and the bytes of an id by place."""
    author = lab.person()
    lab.say(f"Keeping lists and sets for {n:,} followers")
    readers = await lab.followers(author, n)
    try:
        await keep_lists(lab, readers)
        await _keep_sets(lab, readers, 0)
        lab.say(f"Delivering to {n:,} followers in phases 3, 4 and 5")
        works = {phase.slug: (phase, author) for phase in (QUEUE, CACHE, STREAM)}
        fan_outs, _ = await work(lab, works, ROUNDS if lab.real else FEW_ROUNDS)
        bytes_ = await _weighed(lab, readers[0]) if lab.real else {}
    finally:
        await _forget(lab, readers)
    return fan_outs, bytes_


async def _weighed(lab: Lab, reader: ObjectId) -> dict[str, float]:
    """Return the bytes of an id in each place, with its share of the key; of an entry before MongoDB compresses it."""
    entries = await lab.stack.db.command("collStats", entries_name(await lab.container(QUEUE)))
    memcached, at = lab.stack.memcached, key(await lab.container(CACHE), reader)
    await memcached.delete(at)
    ids = [ObjectId().binary for _ in range(FULL)]
    await memcached.add(at, Value(A_LIST, ids, FIRST_ID.binary).packed(), lab.stack.config.timeline_ttl_s)
    kept = await memcached.gets(at)
    assert kept, "it was added just now"
    weights = {"an entry": entries["size"] / entries["count"], f"in a list of {FULL}": (len(at) + len(kept[0])) / FULL}
    container, sets = await lab.container(STREAM), lab.stack.sets
    for n, label in ((FULL, f"in a set of {FULL}"), (PACKED, f"in a set of {PACKED}, packed")):
        await sets.forget(container.name, reader)
        await _keep_sets(lab, [reader], n)
        weights[label] = await sets.bytes_of(container.name, reader) / n
    return weights


async def _keep_sets(lab: Lab, readers: Sequence[ObjectId], ids: int) -> None:
    container, ttl_ms = await lab.container(STREAM), lab.stack.config.timeline_ttl_s * 1000
    until_ms = int(lab.clock.now().timestamp() * 1000) + ttl_ms
    for reader in readers:
        kept = Trailer(LIST, FIRST_ID.binary, ObjectId().binary, until_ms)
        members = [ObjectId().binary for _ in range(ids)]
        await lab.stack.sets.lease(container.name, reader, kept._replace(state=PLACEHOLDER), ttl_ms, until_ms)
        await lab.stack.sets.fill(container.name, reader, kept, ttl_ms, members, FULL)


def _yes(it: bool | None) -> str:
    return "yes" if it else "no"


def pain(waits: Mapping[str, Sample], lags: Mapping[str, Sample], swept_ms: float) -> str:
    return (
        f"In phase 4 the poster waits {waits[CACHE.slug]} ms, and a status is delivered {lags[CACHE.slug]} ms later. "
        f"When the enqueue is lost, it is delivered after {written(swept_ms / 1000)} s."
    )


def sentence(
    n: int,
    waits: Mapping[str, Sample],
    lags: Mapping[str, Sample],
    fan_outs: Mapping[str, Sample],
    bytes_: Mapping[str, float],
) -> str:
    four, five = CACHE.slug, STREAM.slug
    entries, lists, sets = (fan_outs[phase.slug] for phase in (QUEUE, CACHE, STREAM))
    said = (
        f"The poster waits {waits[four]} ms in phase 4 and {waits[five]} ms in phase 5: "
        f"{compared(waits[five], waits[four])}. With {FEW} followers the status is delivered {lags[four]} ms later in "
        f"phase 4 and {lags[five]} ms later in phase 5: {compared(lags[five], lags[four])}. A fan-out to {n:,} takes "
        f"{entries} ms into entries, {lists} ms into lists and {sets} ms into sorted sets: sets against lists "
        f"{compared(sets, lists)}."
    )
    if bytes_:
        _, in_list, in_set, packed = map(written, bytes_.values())
        said += f" An id takes {in_list} bytes in a list, {in_set} in a full set, and {packed} in one that Redis packs."
    return said
