"""The fan-out grows with the followers; and the timeline kept as one array grows with its length."""

from collections.abc import Mapping

from bson import ObjectId

from app.walkthrough.experiments.base import Experiment, Knob
from app.walkthrough.lab import Lab, median_ms, timed
from app.walkthrough.result import Bar, Chart, Result, times, written
from phases.p2_push import PUSH

POSTS = 3  # of each author
KEPT = (10, 200, 800)  # ids in the array before the delivery
ARRAYS = 500  # readers whose timeline is an array; 800 ids of each are 10 MB


class FanOut(Experiment):
    slug = PUSH.slug
    title = "Fan-out, and the array that grows"
    about = (
        "Three authors with more and more followers post in phase 2, and we wait as long as the poster would. Then the "
        "same id goes to some readers' timelines twice more: as keyed entries, as phase 2 keeps them, and by $push and "
        "$slice on one array for each reader, as one would try first."
    )
    knobs = (Knob("followers", "Followers of the most followed", 100, 20_000, 100, 5_000, 100),)

    async def run(self, lab: Lab, values: Mapping[str, int]) -> Result:
        most = values["followers"]
        waits = []
        for n in (most // 100, most // 10, most):
            lab.say(f"Posting to {n:,} followers")
            author = lab.person()
            await lab.followers(author, n)
            ms = await median_ms(lambda author=author: lab.post(author, PUSH), POSTS)  # type: ignore[misc]
            waits.append(Bar(label=f"{n:,} followers", value=ms))
        readers = [lab.person() for _ in range(min(ARRAYS, most))]
        each = [Bar(label="keyed entries", value=await _entries_us(lab, readers))]
        for kept in KEPT:
            lab.say(f"Pushing onto arrays of {kept}")
            each.append(Bar(label=f"array of {kept} ids", value=await _array_us(lab, readers, kept)))
        return Result(
            sentence=_sentence(waits, each, most),
            charts=(
                Chart(title="The poster waits", unit="ms", bars=tuple(waits)),
                Chart(title="One delivery to one follower", unit="µs", bars=tuple(each)),
            ),
        )


async def _entries_us(lab: Lab, readers: list[ObjectId]) -> float:
    lab.say("Inserting keyed entries")
    container, status = await lab.container(PUSH), await lab.store(lab.person())
    ms = await timed(lambda: lab.kept(PUSH).store.deliver(container, status, readers))
    return ms * 1000 / len(readers)


async def _array_us(lab: Lab, readers: list[ObjectId], kept: int) -> float:
    arrays = lab.stack.db[f"arrays_of_{kept}"]
    ids = [ObjectId() for _ in range(kept)]
    await lab.insert(arrays.name, [{"_id": reader, "ids": ids} for reader in readers])
    push = {"$push": {"ids": {"$each": [ObjectId()], "$position": 0, "$slice": kept}}}
    ms = await timed(lambda: arrays.update_many({"_id": {"$in": readers}}, push))
    await arrays.drop()
    return ms * 1000 / len(readers)


def _sentence(waits: list[Bar], each: list[Bar], most: int) -> str:
    few, _, many = waits
    entries, *arrays = each
    return (
        f"The poster with {most:,} followers waits {written(many.value)} ms, {times(many.value, few.value)} as the "
        f"{written(few.value)} ms of the one with {most // 100:,}. A keyed entry costs {written(entries.value)} µs a "
        f"follower, however long the timeline is. An array of {KEPT[-1]} ids costs {written(arrays[-1].value)} µs, "
        f"{times(arrays[-1].value, entries.value, 'much')} as the entry and "
        f"{times(arrays[-1].value, arrays[0].value, 'much')} as an array of {KEPT[0]}: the document is written whole."
    )
