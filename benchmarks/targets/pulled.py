"""The targets for the hybrid: a page that merges pulled authors, and all processes' time where celebrities post."""

from collections.abc import Sequence

from bson import ObjectId

from benchmarks import answers, scenes
from benchmarks.report import Row
from benchmarks.rig import BenchRefused, Rig
from benchmarks.targets import mixed
from benchmarks.targets.base import LIMIT, Scale, delivered, p50_ms, posted, ratio, row, timed_in_turn
from benchmarks.targets.mixed import HYBRID, READERS, Mix
from benchmarks.targets.reads import pages_s

PULLED = 20  # authors, of all whom the reader follows
CELEBRITIES = Mix(posts=40, pages=360)  # as in workload celebrity


async def page(rig: Rig, scale: Scale) -> list[Row]:
    """Compare a page of two phases with the same statuses: in one of them the newest of 20 authors are pulled."""
    everybody = await scenes.authors(rig, scale.followees, 10)
    reader = await scenes.follower_of(rig, everybody)
    phases = (answers.LISTS, answers.MERGING)
    for each in (await pages_s(rig, reader, phases)).values():
        await each()  # the lists are kept from now on
    pulled = everybody[:PULLED]
    await _posted_and_pulled(rig, pulled)
    seconds = await timed_in_turn(scale.reads, **await pages_s(rig, reader, phases))
    hybrid, lists = (seconds[phase.slug] for phase in reversed(phases))
    what = f"warm page of {LIMIT} among {scale.followees:,} followees of whom {len(pulled)} are pulled, p50"
    title = f"{what} in phase {answers.MERGING.slug} ÷ phase {answers.LISTS.slug}'s"
    return [row("page-pulled", title, ratio(hybrid, lists), p50_ms(**seconds), at_most=1.5)]


async def _posted_and_pulled(rig: Rig, authors: Sequence[ObjectId]) -> None:
    """Post a status of each author, pulled in the hybrid and delivered by the other phases."""
    statuses = []
    for author in authors:
        await rig.timelines.force(author, True)
        statuses.append(await posted(rig, author))
        await rig.timelines.force(author, None)
    for phase in answers.IN_WORKER:
        await delivered(rig, phase.slug, statuses)


async def celebrity(rig: Rig, scale: Scale) -> list[Row]:
    """Compare the phases with nine pages for each post, where a celebrity, whom everybody follows, posts each fifth."""
    world = await mixed.world(rig, scale.most, max(READERS, scale.followees // 5))
    author = world.celebrity.author
    if scale.most < rig.stack.config.pull_from:  # so few followers are not weighed: in a test of this
        await rig.timelines.force(author, True)
    used_s, is_pulled = await mixed.in_turns(rig, world, CELEBRITIES, scale.repeats)
    if not is_pulled:
        raise BenchRefused("the rule would not pull the celebrity")
    await rig.timelines.force(author, None)
    await scenes.everything_delivers(rig)
    better = mixed.better(used_s)
    figures = {f"{slug}_ms_an_operation": round(1000 * sum(s) / len(s), 3) for slug, s in used_s.items()}
    what = f"workload celebrity, {scale.most:,} active followers, readers with {len(world.ordinary):,} followees"
    title = f"{what}: processor time of all processes in phase {HYBRID.slug} ÷ the better of pull and push ({better})"
    return [row("celebrity", title, ratio(used_s[HYBRID.slug], used_s[better]), figures, at_most=0.8)]
