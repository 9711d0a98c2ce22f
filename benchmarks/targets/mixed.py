"""Posts and pages, mixed in any proportion, with a celebrity among the authors: what a phase costs all processes."""

import random
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import cycle

from bson import ObjectId

from benchmarks import answers, scenes
from benchmarks.observe import Meters
from benchmarks.readers import LIMIT
from benchmarks.rig import Rig
from benchmarks.scenes import Star
from benchmarks.targets.base import delivered, look_s, only, posted
from phases.base import Phase

READERS = 20  # of the pages
ONE_POST_IN = 5  # is the celebrity's, as in workload celebrity
PULL, PUSH = answers.ASKING, answers.LISTS
HYBRID = answers.MERGING
COMPARED = (PULL, PUSH, HYBRID)


@dataclass(frozen=True)
class World:
    """A world in which each of `readers` follows the celebrity and all of `ordinary`; all followers are active."""

    celebrity: Star
    ordinary: Sequence[ObjectId]
    readers: Sequence[ObjectId]


@dataclass(frozen=True)
class Mix:
    """The operations of one measurement."""

    posts: int
    pages: int

    @property
    def operations(self) -> int:
        return self.posts + self.pages


async def world(rig: Rig, followers: int, followees: int) -> World:
    """Make a world, in which nobody has read or posted yet.

    `followers`: those of the celebrity, all of them active. `followees`: of each reader, beside the celebrity.
    """
    await answers.count_anew(rig.timelines)
    celebrity = await scenes.star(rig, followers, followers)
    ordinary = await scenes.authors(rig, followees, 10)
    readers = [await scenes.follower_of(rig, [*ordinary, celebrity.author]) for _ in range(READERS)]
    return World(celebrity, ordinary, readers)


async def processor_s(rig: Rig, world: World, phase: Phase, mix: Mix, repeats: int) -> list[float]:
    """Return the processor seconds of all processes for one operation, `repeats` times, without those of our looks.

    The phase alone delivers, and everybody has been there. Raises WrongAnswer when a page is wrong afterwards.
    """
    await only(rig, phase.slug)
    listed = world.celebrity.followers if answers.in_memory(phase) else ()
    async with scenes.listed(rig, listed, ids=1, slug=phase.slug):
        await _run(rig, world, phase, mix)  # lists are kept from now on; and who is heavy has been seen
        rig.timelines.pulls.markers.forget()
        used_s, each_s = [], await look_s(rig, phase.slug, mix.posts)
        for _ in range(repeats):
            before = await Meters.read(rig)
            looks = await _run(rig, world, phase, mix)
            used = (await Meters.read(rig)).since(before, looks, each_s)
            used_s.append(sum(used.cpu_s.values()) / mix.operations)
            await rig.timelines.store_counts()  # as a web process does now and then
        for reader in world.readers:
            await scenes.check_page(rig, reader, phase.slug, LIMIT)
    return used_s


async def in_turns(
    rig: Rig, world: World, mix: Mix, turns: int, at_once: int = 1
) -> tuple[dict[str, list[float]], bool]:
    """Return the processor seconds of an operation by phase, `at_once` in each turn, and whether the rule pulls.

    Every other turn goes backwards, so that none always comes behind the same one.
    """
    used_s: dict[str, list[float]] = {phase.slug: [] for phase in COMPARED}
    pulled = False
    for turn in range(turns):
        for phase in COMPARED if turn % 2 == 0 else COMPARED[::-1]:
            used_s[phase.slug] += await processor_s(rig, world, phase, mix, at_once)
            if phase is HYBRID:
                weighed = await rig.timelines.weighed(world.celebrity.author)
                pulled = bool(weighed and weighed.pulled)
    return used_s, pulled


def better(used_s: Mapping[str, Sequence[float]]) -> str:
    """Return the one of pull and push that needs less in total."""
    return min((PULL.slug, PUSH.slug), key=lambda slug: sum(used_s[slug]))


async def _run(rig: Rig, world: World, phase: Phase, mix: Mix) -> int:
    """Do all operations in a shuffled order, the same each time, and wait until nothing is pending; return in how many
    looks.
    """
    reading, posting = cycle(world.readers), cycle(world.ordinary)
    turns = [True] * mix.posts + [False] * mix.pages
    random.Random(1).shuffle(turns)
    statuses: list[ObjectId] = []
    for posts in turns:
        if posts:
            famous = len(statuses) % ONE_POST_IN == 0
            statuses.append(await posted(rig, world.celebrity.author if famous else next(posting)))
        else:
            await rig.timelines.page(next(reading), phase=phase.slug, limit=LIMIT)
    return await delivered(rig, phase.slug, statuses)
