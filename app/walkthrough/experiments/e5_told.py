"""Queued, lost or told: how long until a status is delivered; and the same fan-out into three kinds of stores."""

import asyncio
from collections.abc import Mapping, Sequence
from statistics import median

from bson import ObjectId

from app.clock import FIRST_ID
from app.stack.sorted_sets import LIST, PLACEHOLDER, Trailer
from app.walkthrough.experiments.base import Experiment, Knob
from app.walkthrough.experiments.e4_active import keep_lists, work
from app.walkthrough.lab import Lab, timed
from app.walkthrough.result import Bar, Chart, Check, Result, times, written
from phases.base import Phase
from phases.keeping.entries import entries_name
from phases.keeping.lists import LIST as A_LIST
from phases.keeping.lists import Value, key
from phases.p3_queue import QUEUE
from phases.p4_cache import CACHE
from phases.p5_stream import STREAM
from workers.sweeper import OVERDUE_S, sweep
from workers.worker import run_in_thread

POSTS = 5  # in each phase, after one that does not count; on stand-ins each waits for a second
FEW = 100  # followers of whom the lag is measured
DEADLINE_S = 60.0
POLL_S = 0.001
FULL = 800  # ids of a timeline that is weighed
PACKED = 100  # ids of one that Redis packs tightly as it comes


class Told(Experiment):
    slug = STREAM.slug
    title = "Queued or told, and three places for an id"
    about = (
        f"An author with {FEW} followers posts while a worker runs: how long until the status is delivered, when it is "
        "queued, when the enqueue is lost on purpose, and when the change stream tells. Nobody follows the stream, and "
        "a status is found all the same. Then one fan-out goes into entries in MongoDB, lists in Memcached and sorted "
        "sets in Redis."
    )
    knobs = (
        Knob("followers", "Followers of the author whose status goes into three stores", 100, 10_000, 100, 3_000, 100),
    )

    async def run(self, lab: Lab, values: Mapping[str, int]) -> Result:
        n, author = values["followers"], lab.person()
        await lab.followers(author, FEW)
        lags = {}
        async with run_in_thread(lab.timelines):
            for phase in (QUEUE, STREAM):
                lab.say(f"Posting in phase {phase.slug}, while a worker runs")
                lags[phase.slug] = await _lag_ms(lab, phase, author)
            lab.say("Losing an enqueue, and waiting for the sweeper to find it")
            swept_ms = await _swept_ms(lab, author)
        checks = [*await _nobody_follows(lab, author), *await _no_set_is_made(lab)]
        fan_outs, bytes_ = await _three_stores(lab, n)
        weights = tuple(Bar(label=label, value=each) for label, each in bytes_.items())
        labels = {QUEUE.slug: "entries", CACHE.slug: "lists", STREAM.slug: "sorted sets"}
        return Result(
            sentence=_sentence(n, lags, swept_ms, fan_outs, bytes_),
            charts=(
                Chart(
                    title="From the acknowledged post to the last follower",
                    unit="ms",
                    bars=(
                        Bar(label="phase 3, queued", value=lags[QUEUE.slug]),
                        Bar(label="phase 3, the enqueue is lost", value=swept_ms),
                        Bar(label="phase 5, told", value=lags[STREAM.slug]),
                    ),
                ),
                Chart(
                    title=f"One status to {n:,} followers",
                    unit="ms",
                    bars=tuple(Bar(label=labels[slug], value=ms) for slug, ms in fan_outs.items()),
                ),
                *([Chart(title="What an id takes", unit="bytes", bars=weights)] if weights else []),
            ),
            checks=tuple(checks),
        )


async def _lag_ms(lab: Lab, phase: Phase, author: ObjectId) -> float:
    lags = []
    for _ in range(POSTS + 1):
        status = await lab.store(author, phase.slug)
        await lab.timelines.outbox.consumers[phase.slug].hand_over(status)
        lags.append(await timed(lambda id=status.id: _delivered(lab, phase, id)))  # type: ignore[misc]
    return median(lags[1:])


async def _delivered(lab: Lab, phase: Phase, status: ObjectId) -> None:
    """Raises TimeoutError."""
    owed = {"_id": status, "pending": phase.slug}
    async with asyncio.timeout(DEADLINE_S):
        while await lab.stack.db["statuses"].find_one(owed, {"_id": 1}):  # noqa: ASYNC110 - nobody tells
            await asyncio.sleep(POLL_S)


async def _swept_ms(lab: Lab, author: ObjectId) -> float:
    """By the laboratory's clock, which is put forward: the sweeper leaves young statuses to their jobs, and nobody
    waits for that here.
    """
    start_s = lab.clock.monotonic()
    status = await lab.store(author, QUEUE.slug)
    lab.clock.advance(OVERDUE_S)
    await _delivered(lab, QUEUE, status.id)
    return (lab.clock.monotonic() - start_s) * 1000


async def _nobody_follows(lab: Lab, author: ObjectId) -> list[Check]:
    """The worker has ended: nothing tells of the next status."""
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
            what="Nobody follows: is the status on a follower’s page at once?",
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
    return [Check(what="A delivery to who has no set: is there one now?", found=_yes(made), as_told=not made)]


async def _three_stores(lab: Lab, n: int) -> tuple[dict[str, float], dict[str, float]]:
    """Milliseconds of a fan-out, and what an id takes."""
    author = lab.person()
    lab.say(f"Keeping lists and sets for {n:,} followers")
    readers = await lab.followers(author, n)
    container, sets = await lab.container(STREAM), lab.stack.sets
    try:
        await keep_lists(lab, readers)
        await _keep_sets(lab, readers, 0)
        fan_outs = {}
        for phase in (QUEUE, CACHE, STREAM):
            lab.say(f"Delivering in phase {phase.slug}")
            fan_outs[phase.slug] = (await work(lab, phase, author))[0]
        bytes_ = await _weighed(lab, readers[0]) if lab.real else {}
    finally:
        await lab.forget_lists(readers)
        for reader in readers:
            await sets.forget(container.name, reader)
    return fan_outs, bytes_


async def _weighed(lab: Lab, reader: ObjectId) -> dict[str, float]:
    """Bytes of an id in each place, with its share of the key: as an entry before MongoDB compresses it."""
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
        await lab.stack.sets.lease(container.name, reader, kept._replace(kind=PLACEHOLDER), ttl_ms, until_ms)
        await lab.stack.sets.fill(container.name, reader, kept, ttl_ms, members, FULL)


def _yes(it: bool | None) -> str:
    return "yes" if it else "no"


def _sentence(
    n: int, lags: Mapping[str, float], swept_ms: float, fan_outs: Mapping[str, float], bytes_: Mapping[str, float]
) -> str:
    queued, told = lags[QUEUE.slug], lags[STREAM.slug]
    entries, lists, sets = (fan_outs[phase.slug] for phase in (QUEUE, CACHE, STREAM))
    said = (
        f"With {FEW} followers a status is delivered {written(told)} ms after the post when the stream tells, "
        f"{times(told, queued)} as the {written(queued)} ms when it is queued. When the enqueue is lost, the sweeper "
        f"has made up for it after {written(swept_ms / 1000)} s. A fan-out to {n:,} takes {written(entries)} ms into "
        f"entries, {written(lists)} ms into lists and {written(sets)} ms into sorted sets."
    )
    if bytes_:
        _, in_list, in_set, packed = map(written, bytes_.values())
        said += f" An id takes {in_list} bytes in a list, {in_set} in a full set, and {packed} in one that Redis packs."
    return said
