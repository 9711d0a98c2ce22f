"""Pages: warm beside the raw two-query read, by followees, and after a return."""

import time
from functools import partial

from benchmarks import answers, limits, scenes
from benchmarks.report import Row
from benchmarks.rig import Rig
from benchmarks.targets.base import LIMIT, Scale, row
from benchmarks.turns import Measured, in_turn, p50_ms, percentile, ratio
from phases.timelines import Timelines


async def warm(rig: Rig, scale: Scale) -> list[Row]:
    db, pages = rig.stack.db, rig.timelines.page
    reader = await scenes.follower_of(rig, await scenes.authors(rig, scale.followees, 10))
    entries = await answers.entries_collection(rig.timelines)
    slugs = [phase.slug for phase in answers.KEEPING]
    for slug in slugs:
        await pages(reader, phase=slug, limit=LIMIT)
    measured: dict[str, Measured] = {slug: partial(pages, reader, phase=slug, limit=LIMIT) for slug in slugs}
    seconds = await in_turn(scale.reads, **measured, raw=lambda: limits.read_two_queries(db, entries, reader, LIMIT))
    assert await limits.read_two_queries(db, entries, reader, LIMIT) == LIMIT, "the raw read reads the same"
    title = f"warm read of {LIMIT} among {scale.followees:,} followees in phase {{}}, p50 ÷ raw two-query read"
    return [
        row(
            f"read-{phase.slug}",
            title.format(phase.slug),
            ratio(seconds[phase.slug], seconds["raw"]),
            p50_ms(**seconds),
            at_most=1.0 if phase.in_memory else 1.3,
        )
        for phase in answers.KEEPING
    ]


async def followees(rig: Rig, scale: Scale) -> list[Row]:
    db, pages = rig.stack.db, rig.timelines.page
    everybody = await scenes.authors(rig, scale.wide + scale.wide // 5, 20)
    slug = answers.ALL[0].slug
    few = await scenes.follower_of(rig, everybody[: scale.wide // 50])
    many = await scenes.follower_of(rig, everybody[: scale.wide])
    seconds = await in_turn(
        scale.reads, few=lambda: pages(few, phase=slug, limit=LIMIT), many=lambda: pages(many, phase=slug, limit=LIMIT)
    )
    plain = await in_turn(
        max(3, scale.reads // 5),
        plain_few=lambda: limits.read_plain_in(db, few, LIMIT),
        plain_many=lambda: limits.read_plain_in(db, many, LIMIT),
    )
    figures = {f"{name}_p99_ms": percentile(each, 99) for name, each in (seconds | plain).items()}
    of = f"p99 at {scale.wide:,} followees ÷ at {scale.wide // 50}"
    return [
        row(
            "read-followees",
            f"phase 1 {of}",
            figures["many_p99_ms"] / figures["few_p99_ms"],
            figures | p50_ms(**seconds),
            at_most=4,
        ),
        row(
            "read-plain-in",
            f"the plain $in, {of}",
            figures["plain_many_p99_ms"] / figures["plain_few_p99_ms"],
            p50_ms(**plain),
        ),
    ]


async def cold_return(rig: Rig, scale: Scale) -> list[Row]:
    """Whoever returns comes to a process that has never seen them; the one that they ask in phase 1 has."""
    cap, followees = rig.stack.config.cap, scale.followees // 5
    reader = await scenes.follower_of(rig, await scenes.authors(rig, followees, 10))
    asking, keeping = answers.ALL[0].slug, answers.first(answers.LISTS).slug
    seconds: dict[str, list[float]] = {"returned": [], "evicted": [], "query": []}
    for turn in range(scale.reads // 3 + 1):
        for name in seconds:
            timelines = rig.timelines if name == "query" else Timelines(rig.stack)
            await timelines.switch.current()
            if name != "query":
                await answers.forget(timelines, keeping, [reader])
            if name == "returned":
                await answers.forget_active(rig.stack, reader)
            began = time.perf_counter()
            page = await timelines.page(reader, phase=asking if name == "query" else keeping, limit=LIMIT)
            if turn:
                seconds[name].append(time.perf_counter() - began)
            assert page.cold == (name != "query"), name
            kept = await answers.kept_list(timelines, keeping, reader, cap + 1)
            assert kept, name
            assert len(kept.entries) == min(cap, followees * 10), name
    figures = p50_ms(**seconds)
    title = f"a cold return (rebuild of {cap}, {followees} followees{{}}) ÷ one phase 1 page"
    return [
        row(
            "cold-return",
            title.format(", marking the reader active"),
            ratio(seconds["returned"], seconds["query"]),
            figures,
            at_most=2,
        ),
        row(
            "cold-evicted",
            title.format("; only the list was lost"),
            ratio(seconds["evicted"], seconds["query"]),
            figures,
        ),
    ]
