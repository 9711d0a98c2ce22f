"""The hybrid: a page that merges pulled authors, and all processes' time where celebrities post."""

import random
from collections.abc import Awaitable, Callable, Sequence
from functools import partial
from itertools import cycle

from bson import ObjectId

from benchmarks import answers, scenes
from benchmarks.observe import Meters
from benchmarks.report import Row
from benchmarks.rig import BenchRefused, Rig
from benchmarks.scenes import Star
from benchmarks.targets.base import LIMIT, Scale, delivered, in_turn, only, p50_ms, posted, ratio, row
from benchmarks.targets.reads import page_in_each
from phases.base import Phase

PULLED = 20  # authors, of all whom the reader follows
READERS = 20  # of the pages beside a celebrity's posts
READS, POSTS, OF_CELEBRITIES = 360, 40, 8  # operations of one measurement, in the proportions of workload celebrity


async def page(rig: Rig, scale: Scale) -> list[Row]:
    """Two phases with the same statuses: in one of them the newest of 20 authors are pulled."""
    everybody = await scenes.authors(rig, scale.followees, 10)
    reader = await scenes.follower_of(rig, everybody)
    phases = (answers.LISTS, answers.MERGING)
    pages = page_in_each(rig, reader, phases)
    for each in pages.values():
        await each()  # the lists are kept from now on
    pulled = everybody[:PULLED]
    await _posted_and_pulled(rig, pulled)
    seconds = await in_turn(scale.reads, **pages)
    hybrid, lists = (seconds[phase.slug] for phase in reversed(phases))
    what = f"warm page of {LIMIT} among {scale.followees:,} followees of whom {len(pulled)} are pulled, p50"
    title = f"{what} in phase {answers.MERGING.slug} ÷ phase {answers.LISTS.slug}'s"
    return [row("page-pulled", title, ratio(hybrid, lists), p50_ms(**seconds), at_most=1.5)]


async def _posted_and_pulled(rig: Rig, authors: Sequence[ObjectId]) -> None:
    """A status of each, which the other phases deliver."""
    statuses = []
    for author in authors:
        await rig.timelines.force(author, True)
        statuses.append(await posted(rig, author))
        await rig.timelines.force(author, None)
    for phase in answers.IN_WORKER:
        await delivered(rig, phase.slug, statuses)


async def celebrity(rig: Rig, scale: Scale) -> list[Row]:
    """Nine pages for each post, and of five posts one by somebody whom everybody follows."""
    star = await scenes.star(rig, scale.most, scale.most)
    ordinary = await scenes.authors(rig, max(READERS, scale.followees // 5), 10)
    readers = [await scenes.follower_of(rig, [*ordinary, star.author]) for _ in range(READERS)]
    used_s: dict[str, list[float]] = {}
    for phase in (answers.ASKING, answers.LISTS, answers.MERGING):
        await only(rig, phase.slug)
        listed = star.followers if answers.in_memory(phase) else ()
        async with scenes.listed(rig, listed, ids=1, slug=phase.slug):
            mix = partial(_mix, rig, phase, star.author, ordinary, readers)
            await mix()  # everybody is there; and who is heavy has been seen
            rig.timelines.pulls.markers.forget()
            if phase.merges:
                await _must_be_pulled(rig, star)
            used_s[phase.slug] = [await _processor_s(rig, mix) for _ in range(scale.repeats)]
    await rig.timelines.force(star.author, None)
    await scenes.everything_delivers(rig)
    asking, lists, hybrid = used_s.values()
    better = min(asking, lists, key=sum)
    figures = {
        f"{slug}_ms_an_operation": round(1000 * sum(s) / len(s) / (READS + POSTS), 3) for slug, s in used_s.items()
    }
    what = f"workload celebrity, {scale.most:,} active followers, readers with {len(ordinary):,} followees"
    of = f"phase {answers.MERGING.slug} ÷ the better of {answers.ASKING.slug} and {answers.LISTS.slug}"
    title = f"{what}: processor time of all processes in {of}"
    return [row("celebrity", title, ratio(hybrid, better), figures, at_most=0.8)]


async def _must_be_pulled(rig: Rig, celebrity: Star) -> None:
    """Without force, unless so few followers are not weighed: in a test of this."""
    if len(celebrity.followers) < rig.stack.config.pull_from:
        await rig.timelines.force(celebrity.author, True)
        return
    weighed = await rig.timelines.weighed(celebrity.author)
    if not (weighed and weighed.pulled):
        raise BenchRefused(f"the rule would not pull the celebrity: {weighed}")


async def _mix(
    rig: Rig, phase: Phase, celebrity: ObjectId, ordinary: Sequence[ObjectId], readers: Sequence[ObjectId]
) -> None:
    """All of it, until nothing is pending."""
    reading, posting = cycle(readers), cycle(ordinary)
    turns = [True] * POSTS + [False] * READS
    random.Random(1).shuffle(turns)
    statuses: list[ObjectId] = []
    for posts in turns:
        if posts:
            famous = len(statuses) % (POSTS // OF_CELEBRITIES) == 0
            statuses.append(await posted(rig, celebrity if famous else next(posting)))
        else:
            await rig.timelines.page(next(reading), phase=phase.slug)
    await delivered(rig, phase.slug, statuses)


async def _processor_s(rig: Rig, work: Callable[[], Awaitable[None]]) -> float:
    before = await Meters.read(rig)
    await work()
    return sum((await Meters.read(rig)).since(before).cpu_s.values())
