"""Fan-out in this process: beside the raw limits, the article's array, and with few active followers."""

from bson import ObjectId

from app.models import StatusRow
from benchmarks import answers, limits, scenes
from benchmarks.report import Row
from benchmarks.rig import Rig
from benchmarks.targets.base import Scale, row
from benchmarks.turns import Measured, in_turn, p50_ms, rates, ratio


async def entries(rig: Rig, scale: Scale) -> list[Row]:
    db = rig.stack.db
    star = await scenes.star(rig, scale.many, 0)
    slug = answers.first(answers.ENTRIES).slug
    await limits.create(db)
    await limits.fill_arrays(db, star.followers)
    status = await scenes.stored_status(rig, star.author)

    async def push() -> None:
        await answers.fan_out(rig.timelines, slug, StatusRow(ObjectId(), star.author, status.text, status.audience))

    seconds = await in_turn(
        3 * scale.repeats,
        push=push,
        raw=lambda: limits.insert_entries(db, star.author, ObjectId()),
        array=lambda: limits.push_arrays(db, star.author, ObjectId()),
    )
    figures = rates(scale.many, seconds)
    return [
        row(
            "fanout-raw",
            f"phase 2 fan-out to {scale.many:,} followers, deliveries/s ÷ raw limit",
            ratio(seconds["raw"], seconds["push"]),
            figures,
            at_least=0.8,
        ),
        row(
            "fanout-array",
            "the same ÷ the article's $push/$slice array holding 200",
            ratio(seconds["array"], seconds["push"]),
            figures,
            at_least=6,
        ),
    ]


async def lists(rig: Rig, scale: Scale) -> list[Row]:
    db, now = rig.stack.db, rig.stack.clock.now()
    slug = answers.first(answers.LISTS).slug
    star = await scenes.star(rig, scale.many, scale.many)
    async with scenes.listed(rig, star.followers) as (raw, prefix):
        seconds = await in_turn(
            3 * scale.repeats,
            cache=lambda: answers.fan_out(rig.timelines, slug, StatusRow(ObjectId(), star.author, "", "followers")),
            raw=lambda: limits.prepend_lists(db, raw, star.author, ObjectId(), prefix, now),
        )
    title = f"phase 4 fan-out to {scale.many:,} active ÷ raw limit"
    figures = rates(scale.many, seconds)
    return [row("fanout-cache-raw", title, ratio(seconds["raw"], seconds["cache"]), figures, at_least=0.7)]


async def inactive(rig: Rig, scale: Scale) -> list[Row]:
    everybody = await scenes.star(rig, scale.most, scale.most)
    few = await scenes.star(rig, scale.most, scale.most // 100, everybody.followers)
    slug = answers.first(answers.LISTS).slug
    async with scenes.listed(rig, everybody.followers, ids=1):

        def post(star: scenes.Star) -> Measured:
            return lambda: answers.fan_out(rig.timelines, slug, StatusRow(ObjectId(), star.author, "", "followers"))

        seconds = await in_turn(max(3, scale.repeats // 2), all=post(everybody), few=post(few))
    title = f"phase 4, {scale.most:,} followers of whom 1 % active: time ÷ all active"
    return [row("fanout-inactive", title, ratio(seconds["few"], seconds["all"]), p50_ms(**seconds), at_most=0.03)]
