"""Deliveries through one worker: what their authors wait for, beside empty RQ jobs, beside a large fan-out."""

import asyncio
import random
import time
from collections import defaultdict
from functools import partial

from bson import ObjectId

from app.stack.queue import FIRST, NOTHING
from benchmarks import answers, scenes
from benchmarks.report import Row
from benchmarks.rig import BenchRefused, Rig
from benchmarks.targets.base import (
    OFTEN_S,
    WAIT_S,
    Scale,
    acknowledged,
    alone,
    delivered,
    only,
    p50_ms,
    p99_ms,
    percentile,
    posted,
    rates,
    ratio,
    row,
    timed_in_turn,
    worked_off,
)

BLOCKS = 10  # of each side, in turn: switching takes seconds
WARMING = 5  # posts of a block that are not measured: the stream has just been opened
POLL_S = 0.02  # between two looks whether hundreds of jobs are done: seldom, so that looking takes nothing from them


def _blocks(lags: int) -> tuple[int, int]:
    """Return into how many blocks so many figures go, and how many into each."""
    blocks = min(BLOCKS, 1 + lags // 100)
    return blocks, max(1, lags // blocks)


async def acknowledgements(rig: Rig, scale: Scale) -> list[Row]:
    """Measure what authors with many and with few followers wait for: it should be the same."""
    large, small = await scenes.star(rig, scale.most, scale.most // 100), await scenes.star(rig, 10, 10)
    rows = []
    for phase in answers.IN_WORKER:
        slug = phase.slug
        await only(rig, slug)
        async with scenes.forced(rig, phase, [large.author, small.author], pulled=False):
            seconds = await timed_in_turn(
                3 * scale.repeats,
                large=partial(acknowledged, rig, slug, large.author),
                small=partial(acknowledged, rig, slug, small.author),
            )
        title = f"post acknowledged in phase {slug}, p50 at {scale.most:,} followers ÷ at 10"
        waits = ratio(seconds["large"], seconds["small"])
        rows.append(row(f"ack-{slug}", title, waits, p50_ms(**seconds), at_most=1.2))
    await scenes.everything_delivers(rig)
    return rows


async def carried(rig: Rig, scale: Scale) -> list[Row]:
    """Measure what the change stream costs the poster and the followers, beside a bare post and a job, in turn."""
    star, seconds = await scenes.star(rig, 100, 100), defaultdict[str, list[float]](list)
    phases = (answers.ASKING, answers.IN_WORKER[0], answers.SETS)
    (blocks, block), draw = _blocks(scale.lags), random.Random(1)
    for _ in range(blocks):
        for phase in draw.sample(phases, len(phases)):
            await only(rig, phase.slug)
            async with scenes.kept_few(rig, phase, star.followers):
                for n in range(-WARMING, block):
                    post = await alone(rig, phase.slug, star.author)
                    if n >= 0:
                        seconds[f"{phase.slug}_ack"].append(post.acknowledged_s)
                        seconds[f"{phase.slug}_lag"].append(post.lag_s)
                await scenes.check_kept(rig, phase, star, post.status)
    await scenes.everything_delivers(rig)
    asked, queued, streamed = (phase.slug for phase in phases)
    figures = p50_ms(**seconds) | {f"{name}_p99_ms": percentile(each, 99) for name, each in seconds.items()}
    ack, lag = (
        ratio(seconds[f"{streamed}_ack"], seconds[f"{asked}_ack"], together=block),
        f"phase {streamed}'s delivery lag at 100 followers",
    )
    lags = seconds[f"{streamed}_lag"], seconds[f"{queued}_lag"]
    late, late_p99 = ratio(*lags, together=block), ratio(*lags, p99_ms, together=block)
    return [
        row("post-stream", f"post acknowledged in phase {streamed}, p50 ÷ in phase {asked}", ack, figures, at_most=1.1),
        row("lag-stream", f"{lag}, idle, p50 ÷ phase {queued}'s", late, figures, at_most=1),
        row("lag-stream-p99", f"{lag}, idle, p99 ÷ phase {queued}'s", late_p99, figures, at_most=1.5),
    ]


async def throughput(rig: Rig, scale: Scale) -> list[Row]:
    star = await scenes.star(rig, 100, 100)
    rows = []
    for phase in answers.IN_WORKER:
        await only(rig, phase.slug)
        forced = scenes.forced(rig, phase, [star.author], pulled=False)
        async with scenes.kept_few(rig, phase, star.followers), forced:
            seconds = await timed_in_turn(
                scale.repeats,
                posts=partial(posts_worked_off, rig, phase.slug, star.author, scale.jobs, POLL_S),
                empty=lambda: worked_off(rig, asyncio.to_thread(_enqueue_nothing, rig, scale.jobs), _worked(rig)),
            )
            await scenes.check_kept(rig, phase, star, (await alone(rig, phase.slug, star.author)).status)
        title = f"ordinary posts (100 followers) in phase {phase.slug} through one worker ÷ empty RQ jobs through it"
        share = ratio(seconds["empty"], seconds["posts"])
        rows.append(row(f"jobs-{phase.slug}", title, share, rates(scale.jobs, seconds), at_least=0.6))
    await scenes.everything_delivers(rig)
    return rows


async def posts_worked_off(rig: Rig, slug: str, author: ObjectId, count: int, every_s: float) -> float:
    """Return the seconds that the worker takes for so many posts."""
    statuses: list[ObjectId] = []

    async def queueing() -> None:
        statuses.extend([await posted(rig, author) for _ in range(count)])

    return await worked_off(rig, queueing(), delivered(rig, slug, statuses, every_s))


def _enqueue_nothing(rig: Rig, jobs: int) -> None:
    queue = rig.stack.queue.queues[FIRST]
    for _ in range(jobs):
        queue.enqueue(NOTHING, result_ttl=0)


async def _worked(rig: Rig) -> None:
    """Wait until no job is queued or being done. Raises BenchRefused when that takes too long."""
    redis, deadline = rig.stack.queue.connection, time.monotonic() + WAIT_S
    queue = rig.stack.queue.queues[FIRST]
    while await asyncio.to_thread(lambda: queue.count or redis.zcard(queue.started_job_registry.key)):
        if time.monotonic() > deadline:
            raise BenchRefused(f"empty jobs are not done within {WAIT_S:.0f} s; does the worker run?")
        await asyncio.sleep(POLL_S)


async def starvation(rig: Rig, scale: Scale) -> list[Row]:
    large, small = await scenes.star(rig, scale.most, scale.most // 100), await scenes.star(rig, 10, 10)
    slug = answers.IN_WORKER[0].slug
    under_way: ObjectId | None = None
    seconds, (blocks, block) = defaultdict[str, list[float]](list), _blocks(scale.lags)

    async def lag() -> float:
        status = await posted(rig, small.author)
        began = time.perf_counter()
        await delivered(rig, slug, [status], OFTEN_S)
        return time.perf_counter() - began

    async def lag_beside() -> float:
        nonlocal under_way
        if not await rig.stack.db["statuses"].find_one({"_id": under_way, "pending": slug}, {"_id": 1}):
            under_way = await posted(rig, large.author)
        return await lag()

    await only(rig, slug)
    for _ in range(blocks):
        for name, timed in (("idle", lag), ("busy", lag_beside)):
            seconds[name] += (await timed_in_turn(block, timed=timed))["timed"]
        assert under_way
        await delivered(rig, slug, [under_way])
    for star in (large, small):
        await scenes.check_kept(rig, answers.IN_WORKER[0], star, (await alone(rig, slug, star.author)).status)
    await scenes.everything_delivers(rig)
    figures = p50_ms(**seconds) | {f"{name}_p99_ms": percentile(each, 99) for name, each in seconds.items()}
    title = f"a 10-follower post's delivery lag p99 while {scale.most:,} are being delivered ÷ idle"
    share = ratio(seconds["busy"], seconds["idle"], p99_ms, together=block)
    return [row("starvation", title, share, figures, at_most=2)]
