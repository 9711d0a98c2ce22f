"""Deliveries through one worker: beside empty RQ jobs, and beside somebody else's large fan-out."""

import asyncio
import time

import psutil
from bson import ObjectId

from app.social import Social
from benchmarks import answers, scenes
from benchmarks.report import Row
from benchmarks.rig import BenchRefused, Rig
from benchmarks.targets.base import WAIT_S, Scale, delivered, only, row
from benchmarks.turns import p50_ms, percentile, rates, ratio

POLL_S = 0.02  # between two looks whether hundreds of jobs are done: seldom, so that looking takes nothing from them
FIRST_QUEUE = "deliver-first"


async def throughput(rig: Rig, scale: Scale) -> list[Row]:
    star = await scenes.star(rig, 100, 100)
    rows = []
    for phase in answers.IN_WORKER:
        await only(rig, phase.slug)
        seconds: dict[str, list[float]] = {"posts": [], "empty": []}
        async with scenes.listed(rig, star.followers if phase.in_memory else ()):
            for turn in range(4):
                for name, each in seconds.items():
                    took_s = await _worked_off(rig, scale.jobs, phase.slug if name == "posts" else None, star.author)
                    if turn:
                        each.append(took_s)
        rows.append(
            row(
                f"jobs-{phase.slug}",
                f"ordinary posts (100 followers) in phase {phase.slug} through one worker ÷ empty RQ jobs through it",
                ratio(seconds["empty"], seconds["posts"]),
                rates(scale.jobs, seconds),
                at_least=0.6,
            )
        )
    await scenes.everything_delivers(rig)
    return rows


async def _worked_off(rig: Rig, jobs: int, slug: str | None, author: ObjectId) -> float:
    """Seconds from the moment the worker may begin to the end of the last job. Everything is queued before that."""
    social, worker = Social(rig.stack, rig.timelines.outbox), psutil.Process(rig.processes["worker"])
    posts: list[ObjectId] = []
    worker.suspend()
    try:
        if slug is None:
            await asyncio.to_thread(_enqueue_nothing, rig, jobs)
        else:
            posts = [(await social.post(author, "a status"))[0].id for _ in range(jobs)]
    finally:
        began = time.perf_counter()
        worker.resume()
    await (_worked(rig) if slug is None else delivered(rig, slug, posts, POLL_S))
    return time.perf_counter() - began


def _enqueue_nothing(rig: Rig, jobs: int) -> None:
    queue = rig.stack.queue.queues[FIRST_QUEUE]
    for _ in range(jobs):
        queue.enqueue("benchmarks.limits.nothing", result_ttl=0)


async def _worked(rig: Rig) -> None:
    """Wait until no job waits or is being done."""
    redis, deadline = rig.stack.queue.connection, time.monotonic() + WAIT_S
    queue = rig.stack.queue.queues[FIRST_QUEUE]

    def busy() -> bool:
        return bool(queue.count or redis.zcard(queue.started_job_registry.key))

    while await asyncio.to_thread(busy):
        if time.monotonic() > deadline:
            raise BenchRefused(f"empty jobs are not done within {WAIT_S:.0f} s; does the worker run?")
        await asyncio.sleep(POLL_S)


async def starvation(rig: Rig, scale: Scale) -> list[Row]:
    large, small = await scenes.star(rig, scale.most, scale.most // 100), await scenes.star(rig, 10, 10)
    social = Social(rig.stack, rig.timelines.outbox)
    slug = answers.IN_WORKER[0].slug
    await only(rig, slug)
    seconds: dict[str, list[float]] = {"idle": [], "busy": []}
    for name, each in seconds.items():
        under_way: ObjectId | None = None
        for turn in range(scale.lags + 1):
            if name == "busy" and (under_way is None or not await _is_pending(rig, slug, under_way)):
                under_way = (await social.post(large.author, "to everybody"))[0].id
            status, _ = await social.post(small.author, "to ten")
            began = time.perf_counter()
            await delivered(rig, slug, [status.id], every_s=0.0005)
            if turn:
                each.append(time.perf_counter() - began)
        if under_way:
            await delivered(rig, slug, [under_way])
    await scenes.everything_delivers(rig)
    figures = p50_ms(**seconds) | {f"{name}_p99_ms": percentile(each, 99) for name, each in seconds.items()}
    return [
        row(
            "starvation",
            f"a 10-follower post's delivery lag p99 while {scale.most:,} are being delivered ÷ idle",
            figures["busy_p99_ms"] / figures["idle_p99_ms"],
            figures,
            at_most=2,
        )
    ]


async def _is_pending(rig: Rig, slug: str, status: ObjectId) -> bool:
    return await rig.stack.db["statuses"].find_one({"_id": status, "pending": slug}, {"_id": 1}) is not None
