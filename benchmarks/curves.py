"""`feedlab bench fanout` and `feedlab bench read`: how time grows, beside the raw limit measured in the same run."""

import math
from collections.abc import Callable, Sequence
from typing import Any

from bson import ObjectId

from app.models import StatusRow
from benchmarks import limits, scenes
from benchmarks.compare import header
from benchmarks.limits import RawMemcached
from benchmarks.rig import Rig
from benchmarks.targets import LIMIT, Measured, fan_out, in_turn, memcached, percentile

FOLLOWERS = (10, 100, 1_000, 10_000, 100_000)
SHARES = (1.0, 0.1, 0.01)
FOLLOWEES = (10, 100, 200, 201, 1_000, 5_000)
FITTED_FROM = 100  # below it the fixed cost of a command hides how time grows
STATUSES_EACH = 20

Progress = Callable[[str, int, int], None]
Point = tuple[int, float, float]  # size, p50, p99 in milliseconds

FANOUT_TITLES = {
    "push": "phase 2: push (3 does the same in a worker)",
    "cache": "phase 4: cache, all active",
    "cache_0.1": "phase 4: cache, 10 % active",
    "cache_0.01": "phase 4: cache, 1 % active",
    "raw_insert": "raw limit of 2: covered follower read + clustered insert",
    "raw_prepend": "raw limit of 4: covered follower read + pipelined prepend",
    "array": "the article: $push/$slice on one array per reader",
}
READ_TITLES = {
    "query": "phase 1: query",
    "push": "phase 2: push (3 reads the same)",
    "cache": "phase 4: cache",
    "raw": "raw limit: ids by key + $in of the statuses, nothing checked",
    "array": "the article's array + $in of the statuses",
    "plain_in": "the article's phase 1: one $in over all followees",
}


def exponent(points: Sequence[Point]) -> float | None:
    """k of time ~ size^k: least squares on the logarithms, over the sizes from FITTED_FROM on."""
    logs = [(math.log(size), math.log(p50)) for size, p50, _ in points if size >= FITTED_FROM and p50 > 0]
    if len(logs) < 2:
        return None
    mean_x, mean_y = (sum(column) / len(logs) for column in zip(*logs, strict=True))
    spread = sum((x - mean_x) ** 2 for x, _ in logs)
    return float(round(sum((x - mean_x) * (y - mean_y) for x, y in logs) / spread, 3))


def _series(titles: dict[str, str], points: dict[str, list[Point]]) -> list[dict[str, Any]]:
    return [
        {"name": name, "title": titles[name], "exponent": exponent(points[name]), "points": points[name]}
        for name in titles
        if points.get(name)
    ]


async def _report(
    rig: Rig, kind: str, settings: dict[str, Any], x: str, titles: dict[str, str], points: dict[str, list[Point]]
) -> dict[str, Any]:
    return {
        **await header(kind, rig, settings),
        "x": x,
        "columns": [x, "p50 ms", "p99 ms"],
        "series": _series(titles, points),
    }


def _add(points: dict[str, list[Point]], size: int, seconds: dict[str, list[float]]) -> None:
    for name, found in seconds.items():
        points.setdefault(name, []).append((size, percentile(found, 50), percentile(found, 99)))


async def fanout(rig: Rig, most: int, repeats: int, progress: Progress = lambda *_: None) -> dict[str, Any]:
    """Milliseconds to deliver one status, by followers and by the share of them that is active."""
    sizes = [size for size in FOLLOWERS if size <= most]
    points: dict[str, list[Point]] = {}
    await scenes.everything_delivers(rig)
    await limits.create(rig.stack.db)
    async with memcached(rig) as raw:
        for done, size in enumerate(sizes):
            progress(f"{size:,} followers", done, len(sizes))
            _add(points, size, await _fanout_point(rig, raw, size, repeats))
    progress("done", len(sizes), len(sizes))
    return await _report(rig, "fanout", {"max_followers": most, "repeats": repeats}, "followers", FANOUT_TITLES, points)


async def _fanout_point(rig: Rig, raw: RawMemcached, size: int, repeats: int) -> dict[str, list[float]]:
    db, now = rig.stack.db, rig.stack.clock.now()
    all_active = await scenes.star(rig, size, size)
    prefix = await scenes.keep_lists(rig, raw, all_active.followers, ids=1)
    await limits.fill_arrays(db, all_active.followers)
    author = all_active.author

    def post(slug: str, author: ObjectId) -> Measured:
        return lambda: fan_out(rig, slug, StatusRow(ObjectId(), author, "", "followers"))

    measured: dict[str, Measured] = {
        "push": post("push", author),
        "raw_insert": lambda: limits.insert_entries(db, author, ObjectId()),
        "array": lambda: limits.push_arrays(db, author, ObjectId()),
        "cache": post("cache", author),
        "raw_prepend": lambda: limits.prepend_lists(db, raw, author, ObjectId(), prefix, now),
    }
    for share in SHARES[1:]:
        if size * share >= 1:
            star = await scenes.star(rig, size, round(size * share), all_active.followers)
            measured[f"cache_{share:g}"] = post("cache", star.author)
    seconds = await in_turn(repeats, **measured)
    await scenes.forget_lists(rig, raw, all_active.followers, prefix)
    return seconds


async def read(rig: Rig, most: int, repeats: int, progress: Progress = lambda *_: None) -> dict[str, Any]:
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
    return await _report(rig, "read", settings, "followees", READ_TITLES, points)


async def _read_point(rig: Rig, followees: Sequence[ObjectId], repeats: int) -> dict[str, list[float]]:
    db, pages = rig.stack.db, rig.timelines.page
    reader = await scenes.follower_of(rig, followees)
    for slug in ("push", "cache"):
        await pages(reader, phase=slug, limit=LIMIT)
    entries = f"home_entries_{(await scenes.container(rig, 'entries')).since}"
    newest = await pages(reader, phase="query", limit=limits.ARRAY_KEEPS)
    ids = [status.id for status in reversed(newest.statuses)]
    await db[limits.RAW_ARRAYS].insert_one({"_id": reader, "ids": ids})
    return await in_turn(
        repeats,
        query=lambda: pages(reader, phase="query", limit=LIMIT),
        push=lambda: pages(reader, phase="push", limit=LIMIT),
        cache=lambda: pages(reader, phase="cache", limit=LIMIT),
        raw=lambda: limits.read_two_queries(db, entries, reader, LIMIT),
        array=lambda: limits.read_array(db, reader, LIMIT),
        plain_in=lambda: limits.read_plain_in(db, reader, LIMIT),
    )
