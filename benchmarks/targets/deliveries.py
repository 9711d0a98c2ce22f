"""Fan-out in this process: beside the raw limits, the article's array, and with few active followers."""

from bson import ObjectId

from app.models import StatusRow
from benchmarks import answers, limits, scenes
from benchmarks.report import Row
from benchmarks.rig import Rig
from benchmarks.targets.base import Scale
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
        Row(
            name="fanout-raw",
            title=f"phase 2 fan-out to {scale.many:,} followers, deliveries/s ÷ raw limit",
            ratio=ratio(seconds["raw"], seconds["push"]),
            at_least=0.8,
            figures=figures,
        ),
        Row(
            name="fanout-array",
            title="the same ÷ the article's $push/$slice array holding 200",
            ratio=ratio(seconds["array"], seconds["push"]),
            at_least=6,
            figures=figures,
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
    return [
        Row(
            name="fanout-cache-raw",
            title=title,
            ratio=ratio(seconds["raw"], seconds["cache"]),
            at_least=0.7,
            figures=figures,
        )
    ]


async def inactive(rig: Rig, scale: Scale) -> list[Row]:
    everybody = await scenes.star(rig, scale.most, scale.most)
    few = await scenes.star(rig, scale.most, scale.most // 100, everybody.followers)
    slug = answers.first(answers.LISTS).slug
    async with scenes.listed(rig, everybody.followers, ids=1):

        def post(star: scenes.Star) -> Measured:
            return lambda: answers.fan_out(rig.timelines, slug, StatusRow(ObjectId(), star.author, "", "followers"))

        seconds = await in_turn(max(3, scale.repeats // 2), all=post(everybody), few=post(few))
    title = f"phase 4, {scale.most:,} followers of whom 1 % active: time ÷ all active"
    return [
        Row(
            name="fanout-inactive",
            title=title,
            ratio=ratio(seconds["few"], seconds["all"]),
            at_most=0.03,
            figures=p50_ms(**seconds),
        )
    ]
