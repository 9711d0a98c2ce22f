"""Fan-out in this process: beside the raw limits, the article's array, and with few active followers."""

from functools import partial

from bson import ObjectId

from benchmarks import answers, limits, scenes
from benchmarks.report import Row
from benchmarks.rig import Rig
from benchmarks.targets.base import Measured, Scale, in_turn, p50_ms, rates, ratio, row

ENTRIES, LISTS = answers.ENTRIES.slug, answers.LISTS.slug


def each_way(
    rig: Rig, db: limits.RawDatabase, author: ObjectId, memcached: limits.RawMemcached, prefix: str
) -> dict[str, Measured]:
    """Return the ways to deliver a status to all followers: by a phase of each store, its raw limit, or the article."""
    now = rig.stack.clock.now()
    return {
        ENTRIES: partial(answers.fan_out, rig.timelines, answers.ENTRIES, author),
        "raw_insert": limits.measured(lambda: limits.insert_entries(db, author, ObjectId())),
        "array": limits.measured(lambda: limits.push_arrays(db, author, ObjectId())),
        LISTS: partial(answers.fan_out, rig.timelines, answers.LISTS, author),
        "raw_prepend": limits.measured(lambda: limits.prepend_lists(db, memcached, author, ObjectId(), prefix, now)),
    }


async def limited(rig: Rig, scale: Scale) -> list[Row]:
    star = await scenes.star(rig, scale.many, scale.many)
    with scenes.raw(rig) as db:
        limits.create(db, star.followers)
        async with scenes.listed(rig, star.followers) as (memcached, prefix):
            seconds = await in_turn(3 * scale.repeats, **each_way(rig, db, star.author, memcached, prefix))
            for phase in (answers.ENTRIES, answers.LISTS):
                await scenes.check_fan_out(rig, phase, star)
    figures = rates(scale.many, seconds)
    entries = f"phase 2 fan-out to {scale.many:,} followers, deliveries/s ÷ raw limit"
    array = "the same ÷ the article's $push/$slice array holding 200"
    lists = f"phase 4 fan-out to {scale.many:,} active ÷ raw limit"
    return [
        row("fanout-raw", entries, ratio(seconds["raw_insert"], seconds[ENTRIES]), figures, at_least=0.8),
        row("fanout-array", array, ratio(seconds["array"], seconds[ENTRIES]), figures, at_least=6),
        row(f"fanout-{LISTS}-raw", lists, ratio(seconds["raw_prepend"], seconds[LISTS]), figures, at_least=0.7),
    ]


async def sets(rig: Rig, scale: Scale) -> list[Row]:
    star, phase = await scenes.star(rig, scale.many, scale.many), answers.SETS
    now, raw = rig.stack.clock.now(), limits.RawSets(rig.stack.queue, f"{rig.stack.db.name}:raw:")
    with scenes.raw(rig) as db:
        async with scenes.kept_few(rig, phase, star.followers):
            seconds = await in_turn(
                3 * scale.repeats,
                sets=partial(answers.fan_out, rig.timelines, phase, star.author),
                raw_zadd=limits.measured(lambda: limits.add_to_sets(db, raw, star.author, ObjectId(), now)),
            )
            await scenes.check_fan_out(rig, phase, star)
            raw.forget(star.followers)
    title = f"phase 5 fan-out to {scale.many:,} active ÷ raw pipelined ZADD"
    share = ratio(seconds["raw_zadd"], seconds["sets"])
    return [row(f"fanout-{phase.slug}-raw", title, share, rates(scale.many, seconds), at_least=0.7)]


async def inactive(rig: Rig, scale: Scale) -> list[Row]:
    everybody = await scenes.star(rig, scale.most, scale.most)
    few = await scenes.star(rig, scale.most, scale.most // 100, everybody.followers)
    async with scenes.listed(rig, everybody.followers, ids=1):
        seconds = await in_turn(
            scale.repeats,
            all=partial(answers.fan_out, rig.timelines, answers.LISTS, everybody.author),
            few=partial(answers.fan_out, rig.timelines, answers.LISTS, few.author),
        )
        for each in (everybody, few):
            await scenes.check_fan_out(rig, answers.LISTS, each)
    title = f"phase 4, {scale.most:,} followers of whom 1 % active: time ÷ all active"
    return [row("fanout-inactive", title, ratio(seconds["few"], seconds["all"]), p50_ms(**seconds), at_most=0.03)]
