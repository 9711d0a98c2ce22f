"""`feedlab bench fanout` and `feedlab bench read`: how time grows, beside the raw limit measured in the same run."""

import math
from collections.abc import Sequence
from functools import partial
from typing import Literal

from bson import ObjectId

from app.demo.progress import Progress, silent
from app.models import StatusRow
from benchmarks import answers, limits, scenes
from benchmarks.origin import origin
from benchmarks.report import Curves, Point, Series
from benchmarks.rig import Rig
from benchmarks.targets.base import LIMIT
from benchmarks.turns import Measured, in_turn, percentile

FOLLOWERS = (10, 100, 1_000, 10_000, 100_000)
SHARES = (0.1, 0.01)  # of the followers, that are active
FOLLOWEES = (10, 100, 200, 201, 1_000, 5_000)
FITTED_FROM = 100  # below it the fixed cost of a command hides how time grows
STATUSES_EACH = 20

ASKING, ENTRIES, LISTS = answers.ALL[0].slug, answers.first(answers.ENTRIES).slug, answers.first(answers.LISTS).slug
TITLES = {
    ASKING: answers.title(ASKING),
    ENTRIES: answers.title(ENTRIES),
    LISTS: f"{answers.title(LISTS)}, all active",
    f"{LISTS}_0.1": f"{answers.title(LISTS)}, 10 % active",
    f"{LISTS}_0.01": f"{answers.title(LISTS)}, 1 % active",
    "raw": "raw limit: ids by key + $in of the statuses, nothing checked",
    "raw_insert": "raw limit of entries: covered follower read + clustered insert",
    "raw_prepend": "raw limit of lists: covered follower read + pipelined prepend",
    "array": "the article: one array per reader ($push/$slice; read with $in of the statuses)",
    "plain_in": "the article's phase 1: one $in over all followees",
}  # in the order of the table


def exponent(points: Sequence[Point]) -> float | None:
    """k of time ~ size^k: least squares on the logarithms, over the sizes from FITTED_FROM on."""
    logs = [(math.log(size), math.log(p50)) for size, p50, _ in points if size >= FITTED_FROM and p50 > 0]
    if len(logs) < 2:
        return None
    mean_x, mean_y = (sum(column) / len(logs) for column in zip(*logs, strict=True))
    spread = sum((x - mean_x) ** 2 for x, _ in logs)
    return float(round(sum((x - mean_x) * (y - mean_y) for x, y in logs) / spread, 3))


async def _report(
    rig: Rig, kind: Literal["fanout", "read"], settings: dict[str, int], x: str, points: dict[str, list[Point]]
) -> Curves:
    series = [
        Series(name=name, title=title, exponent=exponent(points[name]), points=points[name])
        for name, title in TITLES.items()
        if points.get(name)
    ]
    return Curves(**vars(await origin(rig)), kind=kind, settings=settings, x=x, series=series)


def _add(points: dict[str, list[Point]], size: int, seconds: dict[str, list[float]]) -> None:
    for name, each in seconds.items():
        points.setdefault(name, []).append((size, percentile(each, 50), percentile(each, 99)))


async def fanout(rig: Rig, most: int, repeats: int, progress: Progress = silent) -> Curves:
    """Milliseconds to deliver one status, by followers and by the share of them that is active."""
    sizes = [size for size in FOLLOWERS if size <= most]
    points: dict[str, list[Point]] = {}
    await scenes.everything_delivers(rig)
    await limits.create(rig.stack.db)
    for done, size in enumerate(sizes):
        progress(f"{size:,} followers", done, len(sizes))
        _add(points, size, await _fanout_point(rig, size, repeats))
    progress("done", len(sizes), len(sizes))
    return await _report(rig, "fanout", {"max_followers": most, "repeats": repeats}, "followers", points)


async def _fanout_point(rig: Rig, size: int, repeats: int) -> dict[str, list[float]]:
    db, now = rig.stack.db, rig.stack.clock.now()
    all_active = await scenes.star(rig, size, size)
    await limits.fill_arrays(db, all_active.followers)
    author = all_active.author

    def post(slug: str, author: ObjectId) -> Measured:
        return lambda: answers.fan_out(rig.timelines, slug, StatusRow(ObjectId(), author, "", "followers"))

    async with scenes.listed(rig, all_active.followers, ids=1) as (raw, prefix):
        measured: dict[str, Measured] = {
            ENTRIES: post(ENTRIES, author),
            "raw_insert": lambda: limits.insert_entries(db, author, ObjectId()),
            "array": lambda: limits.push_arrays(db, author, ObjectId()),
            LISTS: post(LISTS, author),
            "raw_prepend": lambda: limits.prepend_lists(db, raw, author, ObjectId(), prefix, now),
        }
        for share in SHARES:
            if size * share >= 1:
                star = await scenes.star(rig, size, round(size * share), all_active.followers)
                measured[f"{LISTS}_{share:g}"] = post(LISTS, star.author)
        return await in_turn(repeats, **measured)


async def read(rig: Rig, most: int, repeats: int, progress: Progress = silent) -> Curves:
    """Milliseconds of a warm read of LIMIT statuses, by followees, with other people's traffic around them."""
    sizes = [size for size in FOLLOWEES if size <= most]
    points: dict[str, list[Point]] = {}
    await scenes.everything_delivers(rig)
    everybody = await scenes.authors(rig, max(sizes) + max(sizes) // 5, STATUSES_EACH)
    for done, size in enumerate(sizes):
        progress(f"{size:,} followees", done, len(sizes))
        _add(points, size, await _read_point(rig, everybody[:: max(1, len(everybody) // size)][:size], repeats))
    progress("done", len(sizes), len(sizes))
    settings = {"max_followees": most, "repeats": repeats, "limit": LIMIT, "statuses_each": STATUSES_EACH}
    return await _report(rig, "read", settings, "followees", points)


async def _read_point(rig: Rig, followees: Sequence[ObjectId], repeats: int) -> dict[str, list[float]]:
    db, pages = rig.stack.db, rig.timelines.page
    reader = await scenes.follower_of(rig, followees)
    slugs = (ASKING, ENTRIES, LISTS)
    for slug in slugs:
        await pages(reader, phase=slug, limit=LIMIT)
    entries = await answers.entries_collection(rig.timelines)
    newest = await pages(reader, phase=ASKING, limit=limits.ARRAY_KEEPS)
    ids = [status.id for status in reversed(newest.statuses)]
    await db[limits.RAW_ARRAYS].insert_one({"_id": reader, "ids": ids})
    measured: dict[str, Measured] = {slug: partial(pages, reader, phase=slug, limit=LIMIT) for slug in slugs}
    return await in_turn(
        repeats,
        **measured,
        raw=lambda: limits.read_two_queries(db, entries, reader, LIMIT),
        array=lambda: limits.read_array(db, reader, LIMIT),
        plain_in=lambda: limits.read_plain_in(db, reader, LIMIT),
    )
