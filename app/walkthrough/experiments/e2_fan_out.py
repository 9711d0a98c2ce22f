"""Experiment: reading becomes one list, however many people one follows, and the poster waits for all followers."""

from collections.abc import Mapping

from bson import ObjectId

from app.walkthrough.experiments.base import Experiment, Knob
from app.walkthrough.experiments.pages import Pages, numbered, pages, pages_chart
from app.walkthrough.lab import Lab, in_turn
from app.walkthrough.result import Chart, Result, Sample, compared
from phases.p1_query import QUERY
from phases.p2_push import PUSH

ROUNDS, FEW_ROUNDS = 7, 2  # on real servers, and on stand-ins
KEPT = (10, 200, 800)  # ids in the array before the delivery
ARRAYS = 500  # readers whose timeline is an array; 800 ids of each are 10 MB
ENTRY = "keyed entry"


class FanOut(Experiment):
    slug = PUSH.slug
    title = "A page of one list, and what its poster pays"
    about = (
        "Readers who follow more and more people ask for a page in phase 1 and in phase 2. Then authors with more and "
        "more followers post in both, and we wait as long as the poster would. At last one id goes to some readers' "
        "timelines: as keyed entries, as phase 2 keeps them, and by $push and $slice on one array for each reader, as "
        "one would try first."
    )
    knobs = (Knob("followers", "Followers of the most followed", 100, 20_000, 100, 5_000, 100),)

    async def run(self, lab: Lab, values: Mapping[str, int]) -> Result:
        most = values["followers"]
        read, checks = await pages(lab, (QUERY, PUSH))
        waits = await _waits(lab, (most // 100, most // 10, most))
        each = await _each_us(lab, [lab.person() for _ in range(min(ARRAYS, most))])
        series = (QUERY.slug, PUSH.slug)
        return Result(
            pain=pain(read),
            sentence=sentence(read, waits, each),
            charts=(
                pages_chart(read),
                Chart(
                    title="The poster waits",
                    unit="ms",
                    bars=tuple(ms.bar(f"{n:,} followers", series.index(slug)) for (n, slug), ms in waits.items()),
                    series=tuple(map(numbered, series)),
                ),
                Chart(
                    title="One delivery to one follower",
                    unit="µs",
                    bars=tuple(us.bar(ENTRY if kept is None else f"array of {kept} ids") for kept, us in each.items()),
                ),
            ),
            checks=tuple(checks),
        )


async def _waits(lab: Lab, counts: tuple[int, ...]) -> dict[tuple[int, str], Sample]:
    works = {}
    for n in counts:
        lab.say(f"Posting to {n:,} followers")
        author = lab.person()
        await lab.followers(author, n)
        works[n, QUERY.slug] = lambda author=author: lab.store(author)
        works[n, PUSH.slug] = lambda author=author: lab.post(author, PUSH)
    return await in_turn(works, ROUNDS if lab.real else FEW_ROUNDS)


async def _each_us(lab: Lab, readers: list[ObjectId]) -> dict[int | None, Sample]:
    """Return the microseconds that one follower takes: for a keyed entry (None), and by how many ids an array keeps."""
    lab.say(f"Delivering to {len(readers)} entries and arrays")
    container, arrays = await lab.container(PUSH), {kept: lab.stack.db[f"arrays_of_{kept}"] for kept in KEPT}
    for kept, collection in arrays.items():
        ids = [ObjectId() for _ in range(kept)]
        await lab.insert(collection.name, [{"_id": reader, "ids": ids} for reader in readers])

    author = lab.person()

    async def entries() -> None:
        await lab.kept(PUSH).store.deliver(container, await lab.store(author), readers)

    async def array(kept: int) -> None:
        push = {"$push": {"ids": {"$each": [ObjectId()], "$position": 0, "$slice": kept}}}
        await arrays[kept].update_many({"_id": {"$in": readers}}, push)

    works = {None: entries} | {kept: lambda kept=kept: array(kept) for kept in KEPT}
    samples = await in_turn(works, ROUNDS if lab.real else FEW_ROUNDS)
    scale = 1000 / len(readers)
    return {kept: Sample(ms.median * scale, ms.low * scale, ms.high * scale) for kept, ms in samples.items()}


def pain(read: Pages) -> str:
    few, many = min(n for _, n in read), max(n for _, n in read)
    little, much = read[QUERY.slug, few], read[QUERY.slug, many]
    return (
        f"In phase 1 a page takes {little} ms for {few} followees and {much} ms for {many:,}: {compared(much, little)}."
    )


def sentence(read: Pages, waits: Mapping[tuple[int, str], Sample], each: Mapping[int | None, Sample]) -> str:
    many, most = max(n for _, n in read), max(n for n, _ in waits)
    asked, kept = read[QUERY.slug, many], read[PUSH.slug, many]
    insert, pushed, entry, array = waits[most, QUERY.slug], waits[most, PUSH.slug], each[None], each[KEPT[-1]]
    return (
        f"The page for {many:,} followees takes {asked} ms in phase 1 and {kept} ms in phase 2: "
        f"{compared(kept, asked)}. The poster with {most:,} followers waits {insert} ms in phase 1 and {pushed} "
        f"ms in phase 2: {compared(pushed, insert)}. A keyed entry costs {entry} µs a follower, and an array "
        f"of {KEPT[-1]} ids {array} µs: {compared(array, entry, 'much')}."
    )
