"""`feedlab bench crossover`: pull, push and the hybrid by pages for each post, where celebrities post.

Pulling is cheaper where hardly anybody reads, pushing where everybody does. In between a hybrid has to need less than
either: it pulls the celebrity and delivers the others. Which of the two the rule chooses is asked beside each figure.
"""

from collections.abc import Sequence
from statistics import fmean, median

from app.demo.progress import Progress, silent
from benchmarks import answers
from benchmarks.origin import origin
from benchmarks.report import Crossover, Share
from benchmarks.rig import Rig
from benchmarks.targets import mixed
from benchmarks.targets.mixed import HYBRID, ONE_POST_IN, Mix, World
from benchmarks.verdict import INTERVAL, ratio

FOLLOWEES = 200  # of each reader, who are no celebrities
OPERATIONS = 400  # of one measurement, about
AT_ONCE = 3  # measurements before the next phase has its turn
OVER = f"the {INTERVAL} interval over the turns, of all three phases at once"


async def crossover(
    rig: Rig, followers: int, pages_per_post: Sequence[int], turns: int, progress: Progress = silent
) -> Crossover:
    """Measure the processor time of all processes, by pages for each post.

    `followers`: those of the celebrity. Each phase has so many `turns`.
    """
    about, shares = await origin(rig), list[Share]()
    settings = {
        "followers": followers,
        "followees": FOLLOWEES,
        "one_post_in": ONE_POST_IN,
        "turns": turns,
        "measured": turns * AT_ONCE,
    }

    def report(*, unfinished: bool) -> Crossover:
        return Crossover(**vars(about), settings=settings, shares=list(shares), interval=OVER, unfinished=unfinished)

    with rig.nothing_if_wrong():
        for done, pages in enumerate(pages_per_post):
            progress(f"{pages:,} pages a post", done, len(pages_per_post))
            world = await mixed.world(rig, followers, FOLLOWEES)
            shares.append(await _share(rig, world, _mix(pages), turns))
            rig.so_far = report(unfinished=True)
            await answers.nobody_is_active(rig.stack)
    progress("done", len(pages_per_post), len(pages_per_post))
    return report(unfinished=False)


def _mix(pages_per_post: int) -> Mix:
    """Return the operations of one turn, with a whole number of the celebrity's posts."""
    posts = ONE_POST_IN * max(1, round(OPERATIONS / (pages_per_post + 1) / ONE_POST_IN))
    return Mix(posts, posts * pages_per_post)


async def _share(rig: Rig, world: World, mix: Mix, turns: int) -> Share:
    used_s, pulled = await mixed.in_turns(rig, world, mix, turns, AT_ONCE)
    better = mixed.better(used_s)  # by the same figures, so that an interval of these two alone would be too narrow
    of = ratio({slug: by_turn(each) for slug, each in used_s.items()}, HYBRID.slug, better) if turns > 1 else None
    return Share(
        pages_per_post=mix.pages // mix.posts,
        posts=mix.posts,
        used_ms={slug: 1000 * median(each) for slug, each in used_s.items()},
        better=better,
        ratio=of.ratio if of else sum(used_s[HYBRID.slug]) / sum(used_s[better]),
        low=of.low if of else None,
        high=of.high if of else None,
        pulled=pulled,
    )


def by_turn(used_s: Sequence[float]) -> dict[int, float]:
    """Return the mean of each turn: its figures follow each other, and share what slows them."""
    return {at: fmean(used_s[at : at + AT_ONCE]) for at in range(0, len(used_s), AT_ONCE)}
