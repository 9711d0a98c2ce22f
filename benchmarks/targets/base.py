"""What every group of rows is made with."""

import asyncio
import time
from collections.abc import Awaitable, Sequence
from dataclasses import asdict, dataclass

import psutil
from bson import ObjectId

from app.social import Social
from benchmarks import answers
from benchmarks.report import Row
from benchmarks.rig import BenchRefused, Rig

LIMIT = 50  # statuses on a page
WAIT_S = 120.0  # for something to be delivered


@dataclass(frozen=True)
class Scale:
    """Sizes. `repeats`: how often each side is measured, in turn."""

    many: int = 10_000
    most: int = 100_000
    followees: int = 1_000
    wide: int = 5_000
    repeats: int = 7
    reads: int = 150
    jobs: int = 500
    lags: int = 400

    def smaller(self, by: float) -> "Scale":
        """For tests: sizes are multiplied by a number below 1."""
        least = {"repeats": 2, "reads": 5, "jobs": 5, "lags": 5}
        return Scale(**{name: max(least.get(name, 20), round(size * by)) for name, size in asdict(self).items()})


def row(name: str, title: str, ratio: float, figures: dict[str, float], **bound: float) -> Row:
    """`bound`: at_least or at_most."""
    return Row(name=name, title=title, ratio=round(ratio, 4), figures=figures, **bound)


async def only(rig: Rig, slug: str) -> None:
    await answers.deliver_only(rig.timelines, [slug])
    await asyncio.sleep(rig.stack.config.grace_s)  # what was switched off is no longer delivered to


async def posted(rig: Rig, author: ObjectId) -> ObjectId:
    status, _ = await Social(rig.stack, rig.timelines.outbox).post(author, "a status")
    return status.id


async def acknowledged(rig: Rig, slug: str, author: ObjectId) -> float:
    """Seconds that the author of one post waits. Returns when it is delivered."""
    began = time.perf_counter()
    status = await posted(rig, author)
    took_s = time.perf_counter() - began
    await delivered(rig, slug, [status])
    return took_s


async def worked_off(rig: Rig, queueing: Awaitable[object], done: Awaitable[object]) -> float:
    """Seconds from the moment the worker may begin, when everything is queued, until it is done."""
    worker = psutil.Process(rig.processes["worker"])
    worker.suspend()
    try:
        await queueing
    finally:
        began = time.perf_counter()
        worker.resume()
    await done
    return time.perf_counter() - began


async def delivered(rig: Rig, slug: str, statuses: Sequence[ObjectId], every_s: float = 0.002) -> None:
    """Wait until none of them is pending. Raises BenchRefused when that takes too long."""
    deadline = time.monotonic() + WAIT_S
    while await rig.stack.db["statuses"].find_one({"_id": {"$in": list(statuses)}, "pending": slug}, {"_id": 1}):
        if time.monotonic() > deadline:
            raise BenchRefused(f"{slug}: not delivered within {WAIT_S:.0f} s; does the worker run?")
        await asyncio.sleep(every_s)
