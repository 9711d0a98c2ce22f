"""What every group of rows is made with."""

import asyncio
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass

from bson import ObjectId

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


async def delivered(rig: Rig, slug: str, statuses: Sequence[ObjectId], every_s: float = 0.002) -> None:
    """Wait until none of them is pending. Raises BenchRefused when that takes too long."""
    deadline = time.monotonic() + WAIT_S
    pending = {"_id": {"$in": list(statuses)}, "pending": slug}
    while await rig.stack.db["statuses"].find_one(pending, {"_id": 1}):
        if time.monotonic() > deadline:
            raise BenchRefused(f"{slug}: not delivered within {WAIT_S:.0f} s; does the worker run?")
        await asyncio.sleep(every_s)
