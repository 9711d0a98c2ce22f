"""`feedlab bench fanout` and `feedlab bench read`: how time grows, beside the raw limit measured in the same run."""

import math
from collections.abc import Awaitable, Callable, Sequence
from functools import partial
from statistics import linear_regression
from typing import Literal

from app.demo.progress import Progress, silent
from benchmarks import answers, limits, scenes
from benchmarks.measure import SAMPLES
from benchmarks.origin import origin
from benchmarks.report import Curves, Point, Series
from benchmarks.rig import Rig
from benchmarks.targets.base import LIMIT, in_turn, percentile, seconds_of, timed_in_turn
from benchmarks.targets.deliveries import each_way
from benchmarks.targets.reads import pages_s

FOLLOWERS = (10, 100, 1_000, 10_000, 100_000)
SHARES = (0.1, 0.01)  # of the followers, that are active
FOLLOWEES = (10, 100, 200, 201, 1_000, 5_000)
FITTED_FROM = 100  # below it the fixed cost of a command hides how time grows
STATUSES_EACH = 20

LISTS = answers.LISTS.slug
TITLES = {
    answers.ASKING.slug: answers.title(answers.ASKING),
    answers.ENTRIES.slug: answers.title(answers.ENTRIES),
    LISTS: f"{answers.title(answers.LISTS)}, all active",
    f"{LISTS}_0.1": f"{answers.title(answers.LISTS)}, 10 % active",
    f"{LISTS}_0.01": f"{answers.title(answers.LISTS)}, 1 % active",
    "raw": "raw limit: ids by key + $in of the statuses, nothing checked",
    "raw_insert": "raw limit of entries: covered follower read + clustered insert",
    "raw_prepend": "raw limit of lists: covered follower read + pipelined prepend",
    "array": "the article: one array per reader ($push/$slice; read with $in of the statuses)",
    "plain_in": "the article's phase 1: one $in over all followees",
}  # in the order of the table


def exponent(points: Sequence[Point]) -> float | None:
    """Return k of time ~ size^k: least squares on the logarithms, over the sizes from FITTED_FROM on."""
    logs = [(math.log(size), math.log(p50)) for size, p50, _ in points if size >= FITTED_FROM and p50 > 0]
    return round(linear_regression(*zip(*logs, strict=True)).slope, 3) if len(logs) > 1 else None


async def of_sizes(
    rig: Rig,
    kind: Literal["fanout", "read"],
    x: str,
    sizes: Sequence[int],
    seconds_at: Callable[[int], Awaitable[dict[str, list[float]]]],
    settings: dict[str, int],
    progress: Progress,
) -> Curves:
    about, points = await origin(rig), {name: list[Point]() for name in TITLES}

    def report(*, unfinished: bool) -> Curves:
        series = [
            Series(name=name, title=TITLES[name], exponent=exponent(each), points=list(each))
            for name, each in points.items()
            if each
        ]
        return Curves(**vars(about), kind=kind, settings=settings, x=x, series=series, unfinished=unfinished)

    with rig.nothing_if_wrong():
        for done, size in enumerate(sizes):
            progress(f"{size:,} {x}", done, len(sizes))
            for name, each in (await seconds_at(size)).items():
                points[name].append(
                    (size, percentile(each, 50), percentile(each, 99) if len(each) >= SAMPLES["p99"] else None)
                )
            rig.so_far = report(unfinished=True)
    progress("done", len(sizes), len(sizes))
    return report(unfinished=False)


async def fanout(rig: Rig, most: int, repeats: int, progress: Progress = silent) -> Curves:
    """Measure the milliseconds to deliver one status, by followers and by the share of them that is active."""

    async def seconds_at(db: limits.RawDatabase, size: int) -> dict[str, list[float]]:
        all_active = await scenes.star(rig, size, size)
        limits.create(db, all_active.followers)
        async with scenes.listed(rig, all_active.followers, ids=1) as (memcached, prefix):
            measured, stars = each_way(rig, db, all_active.author, memcached, prefix), [all_active]
            for share in SHARES:
                if size * share >= 1:
                    stars.append(star := await scenes.star(rig, size, round(size * share), all_active.followers))
                    some_active = partial(answers.fan_out, rig.timelines, answers.LISTS, star.author)
                    measured[f"{LISTS}_{share:g}"] = some_active
            seconds = await in_turn(repeats, **measured)
            await scenes.check_fan_out(rig, answers.ENTRIES, all_active)
            for star in stars:
                await scenes.check_fan_out(rig, answers.LISTS, star)
            return seconds

    await scenes.everything_delivers(rig)
    sizes, settings = [size for size in FOLLOWERS if size <= most], {"max_followers": most, "repeats": repeats}
    with scenes.raw(rig) as db:
        return await of_sizes(rig, "fanout", "followers", sizes, partial(seconds_at, db), settings, progress)


async def read(rig: Rig, most: int, repeats: int, progress: Progress = silent) -> Curves:
    """Measure the milliseconds of a warm read of LIMIT statuses, by followees, among other people's traffic."""
    sizes = [size for size in FOLLOWEES if size <= most]
    await scenes.everything_delivers(rig)
    everybody = await scenes.authors(rig, max(sizes) + max(sizes) // 5, STATUSES_EACH)
    entries = await answers.entries_collection(rig.timelines)

    async def seconds_at(db: limits.RawDatabase, size: int) -> dict[str, list[float]]:
        reader = await scenes.follower_of(rig, everybody[:: max(1, len(everybody) // size)][:size])
        newest = await rig.timelines.page(reader, phase=answers.ASKING.slug, limit=limits.ARRAY_KEEPS)
        ids = [status.id for status in newest.statuses]
        scenes.check(answers.ASKING.slug, reader, ids, await scenes.newest(rig, reader, limits.ARRAY_KEEPS))
        db[limits.RAW_ARRAYS].insert_one({"_id": reader, "ids": ids[::-1]})
        return await timed_in_turn(
            repeats,
            **await pages_s(rig, reader, (answers.ASKING, answers.ENTRIES, answers.LISTS)),
            raw=partial(seconds_of, limits.measured(limits.read_two_queries, db, entries, reader, LIMIT)),
            array=partial(seconds_of, limits.measured(limits.read_array, db, reader, LIMIT)),
            plain_in=partial(seconds_of, limits.measured(limits.read_plain_in, db, reader, LIMIT)),
        )

    settings = {"max_followees": most, "repeats": repeats, "limit": LIMIT, "statuses_each": STATUSES_EACH}
    with scenes.raw(rig) as db:
        return await of_sizes(rig, "read", "followees", sizes, partial(seconds_at, db), settings, progress)
