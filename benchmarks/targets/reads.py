"""The targets for pages: warm beside the raw two-query read, by followees, and after a return."""

import time
from collections.abc import Iterable, Sequence
from functools import partial

from bson import ObjectId

from benchmarks import answers, limits, scenes
from benchmarks.report import Row
from benchmarks.rig import Rig
from benchmarks.targets.base import (
    LIMIT,
    Scale,
    Timed,
    in_turn,
    p50_ms,
    p99_ms,
    percentile,
    ratio,
    row,
    seconds_of,
    timed_in_turn,
)
from phases.base import Phase
from phases.keeping.lists import ID_BYTES
from phases.timelines import Timelines


async def page_s(timelines: Timelines, slug: str, reader: ObjectId, due: Sequence[ObjectId]) -> float:
    """Return the seconds of a page. Raises WrongAnswer where it does not show what is due."""
    began = time.perf_counter()
    page = await timelines.page(reader, phase=slug, limit=LIMIT)
    took_s = time.perf_counter() - began
    scenes.check(slug, reader, [status.id for status in page.statuses], due)
    return took_s


async def pages_s(rig: Rig, reader: ObjectId, phases: Iterable[Phase]) -> dict[str, Timed]:
    """Return the page of a reader in each of these phases, to be timed and compared with what is stored now."""
    due = await scenes.newest(rig, reader, LIMIT)
    return {phase.slug: partial(page_s, rig.timelines, phase.slug, reader, due) for phase in phases}


async def warm(rig: Rig, scale: Scale) -> list[Row]:
    reader = await scenes.follower_of(rig, await scenes.authors(rig, scale.followees, 10))
    entries = await answers.entries_collection(rig.timelines)
    pages = await pages_s(rig, reader, answers.KEEPING)
    with scenes.raw(rig) as db:
        raw = partial(seconds_of, limits.measured(limits.read_two_queries, db, entries, reader, LIMIT))
        seconds = await timed_in_turn(scale.reads, **pages, raw=raw)
        assert limits.read_two_queries(db, entries, reader, LIMIT) == LIMIT, "the raw read reads the same"
    title = f"warm read of {LIMIT} among {scale.followees:,} followees in phase {{}}, p50 ÷ raw two-query read"
    return [
        row(
            f"read-{phase.slug}",
            title.format(phase.slug),
            ratio(seconds[phase.slug], seconds["raw"]),
            p50_ms(**seconds),
            at_most=1.3,
        )
        for phase in answers.KEEPING
    ]


async def followees(rig: Rig, scale: Scale) -> list[Row]:
    everybody, asking = await scenes.authors(rig, scale.wide + scale.wide // 5, 20), answers.ASKING
    few = await scenes.follower_of(rig, everybody[: scale.wide // 50])
    many = await scenes.follower_of(rig, everybody[: scale.wide])
    few_s, many_s = [(await pages_s(rig, reader, (asking,)))[asking.slug] for reader in (few, many)]
    asked = await timed_in_turn(scale.tail, few=few_s, many=many_s)
    with scenes.raw(rig) as db:
        plain = await in_turn(
            max(3, scale.reads // 5),
            plain_few=limits.measured(limits.read_plain_in, db, few, LIMIT),
            plain_many=limits.measured(limits.read_plain_in, db, many, LIMIT),
        )
    figures = {f"{name}_p99_ms": percentile(each, 99) for name, each in asked.items()}
    of = f"at {scale.wide:,} followees ÷ at {scale.wide // 50}"
    growth = ratio(asked["many"], asked["few"], p99_ms)
    plain_growth = ratio(plain["plain_many"], plain["plain_few"])
    return [
        row("read-followees", f"phase 1 p99 {of}", growth, figures | p50_ms(**asked), at_most=4),
        row("read-plain-in", f"the plain $in, p50 {of}", plain_growth, p50_ms(**plain)),
    ]


async def redis_user(rig: Rig, scale: Scale) -> list[Row]:
    """Compare a page with one that is kept in Redis alone.

    The process has shown its statuses to others and not to the reader, or (`fresh`) to nobody yet.
    """
    phase = answers.LISTS
    friends = await scenes.authors(rig, scale.friends, 10)
    reader, other = [await scenes.follower_of(rig, friends) for _ in range(2)]
    for each in (reader, other) * 2:  # their lists are kept from the first page on, their edges noted from the second
        await rig.timelines.page(each, phase=phase.slug, limit=LIMIT)
    user = limits.RedisUser(rig.stack.queue, f"{rig.stack.db.name}:raw")
    newest = await rig.timelines.page(reader, phase=answers.ASKING.slug, limit=rig.stack.config.cap)
    shown = [status.id for status in newest.statuses]
    scenes.check(answers.ASKING.slug, reader, shown, await scenes.newest(rig, reader, rig.stack.config.cap))
    user.keep([{"id": str(s.id), "author": str(s.user_id), "text": s.text} for s in newest.statuses])
    page = partial(page_s, slug=phase.slug, reader=reader, due=shown[:LIMIT])

    async def stranger() -> float:
        started = Timelines(rig.stack)
        await started.page(other, phase=phase.slug, limit=LIMIT)
        return await page(started)

    async def fresh() -> float:
        started = Timelines(rig.stack)
        await started.switch.current()
        return await page(started)

    [at], _ = await answers.list_keys(rig.timelines, phase.slug, [reader])
    try:
        with scenes.raw(rig) as db, limits.RawMemcached.connected(scenes.memcached_node(rig)) as memcached:
            asked = (db, memcached, phase.slug, reader, at, shown[: LIMIT + 1])
            seconds = await timed_in_turn(
                scale.reads,
                page=partial(page, rig.timelines),
                redis=partial(seconds_of, limits.measured(user.read, LIMIT)),
                asks=partial(seconds_of, limits.measured(limits.ask_of_a_page, *asked)),
                stranger=stranger,
                fresh=fresh,
            )
            assert limits.ask_of_a_page(*asked) > LIMIT * ID_BYTES, "the list is there"
        assert len(user.read(LIMIT)) == LIMIT, "the Redis user reads as many"
    finally:
        user.forget()
    figures, of = p50_ms(**seconds), f"warm page of {LIMIT} in phase {phase.slug}, {scale.friends:,} followees, p50"
    beside = f"{of} ÷ a Redis user's (ZREVRANGE, {LIMIT} pipelined HGET, JSON parsed, nothing checked)"
    asks = "what that page asks of MongoDB and Memcached, by blocking clients, p50 ÷ all that the Redis user does"
    unknown = f"{of} in a process that has shown others the same and not the reader ÷ in one that knows the reader"
    return [
        row("page-redis", beside, ratio(seconds["page"], seconds["redis"]), figures, at_most=1),
        row("page-asks", asks, ratio(seconds["asks"], seconds["redis"]), figures),
        row("page-stranger", unknown, ratio(seconds["stranger"], seconds["page"]), figures, at_most=1.8),
    ]


async def cold_return(rig: Rig, scale: Scale) -> list[Row]:
    """Compare the page of a reader who returns, in a process that has never seen them, with phase 1 in one that has."""
    cap, followees = rig.stack.config.cap, scale.followees // 5
    reader = await scenes.follower_of(rig, await scenes.authors(rig, followees, 10))
    asking, keeping = answers.ASKING.slug, answers.LISTS.slug
    due = await scenes.newest(rig, reader, LIMIT)

    async def kept_s(timelines: Timelines, slug: str) -> float:
        """Return the seconds of a page, behind which the whole list is there."""
        await timelines.switch.current()
        began = time.perf_counter()
        page = await timelines.page(reader, phase=slug, limit=LIMIT)
        took_s = time.perf_counter() - began
        scenes.check(slug, reader, [status.id for status in page.statuses], due)
        assert page.cold == (slug == keeping)
        kept = await answers.kept_list(timelines, keeping, reader, cap + 1)
        assert kept
        assert len(kept.entries) == min(cap, followees * 10)
        return took_s

    async def cold(*, away: bool) -> float:
        timelines = Timelines(rig.stack)
        await timelines.switch.current()
        await answers.forget(timelines, keeping, [reader])
        if away:
            await answers.forget_active(rig.stack, reader)
        return await kept_s(timelines, keeping)

    seconds = await timed_in_turn(
        scale.reads // 3,
        returned=partial(cold, away=True),
        evicted=partial(cold, away=False),
        asked=partial(kept_s, rig.timelines, asking),
    )
    figures, title = (
        p50_ms(**seconds),
        f"a cold return (rebuild of {cap}, {followees} followees{{}}) ÷ one phase 1 page",
    )
    returned, evicted = title.format(", marking the reader active"), title.format("; only the list was lost")
    return [
        row("cold-return", returned, ratio(seconds["returned"], seconds["asked"]), figures, at_most=2),
        row("cold-evicted", evicted, ratio(seconds["evicted"], seconds["asked"]), figures),
    ]
