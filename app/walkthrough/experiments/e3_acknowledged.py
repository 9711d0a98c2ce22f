"""Acknowledged at once, delivered later; and what happens to a job that is lost, or done twice."""

from collections.abc import Mapping

from bson import ObjectId

from app.models import StatusRow
from app.walkthrough.experiments.base import Experiment, Knob
from app.walkthrough.lab import Lab, median_ms, timed
from app.walkthrough.result import Bar, Chart, Check, Result, times, written
from phases.keeping.entries import entries_name, entry_key
from phases.p2_push import PUSH
from phases.p3_queue import QUEUE
from workers.sweeper import OVERDUE_S, sweep

POSTS = 3  # in each phase


class Acknowledged(Experiment):
    slug = QUEUE.slug
    title = "Acknowledged at once, and nothing lost"
    about = (
        "One author posts in phase 2 and in phase 3: how long the poster waits, and how long it is until the last "
        "follower's list holds the status. Then an enqueue is lost on purpose, and a job is done twice."
    )
    knobs = (Knob("followers", "Followers of the author", 100, 20_000, 100, 5_000, 100),)

    async def run(self, lab: Lab, values: Mapping[str, int]) -> Result:
        n = values["followers"]
        author = lab.person()
        lab.say(f"Making {n:,} followers")
        readers = await lab.followers(author, n)
        lab.say("Posting in phase 2")
        pushed = await median_ms(lambda: lab.post(author, PUSH), POSTS)
        lab.say("Posting in phase 3, and letting a worker deliver")
        queued = await median_ms(lambda: lab.post(author, QUEUE), POSTS)
        await lab.drain()
        until_delivered = await timed(lambda: _post_and_deliver(lab, author))
        bars = (
            Bar(label="phase 2, push", value=pushed),
            Bar(label="phase 2, push", value=pushed, series=1),
            Bar(label="phase 3, queue", value=queued),
            Bar(label="phase 3, queue", value=until_delivered, series=1),
        )
        chart = Chart(
            title="After the post", unit="ms", bars=bars, series=("the poster waits", "until the last follower has it")
        )
        lost = await _lost_enqueue(lab, author, readers)
        twice = await _done_twice(lab, author, readers)
        return Result(sentence=_sentence(n, pushed, queued, until_delivered), charts=(chart,), checks=(*lost, *twice))


async def _post_and_deliver(lab: Lab, author: ObjectId) -> None:
    await lab.post(author, QUEUE)
    await lab.drain()


async def _lost_enqueue(lab: Lab, author: ObjectId, readers: list[ObjectId]) -> list[Check]:
    """The process dies between the insert and the enqueue: stored, pending, and no job anywhere."""
    lab.say("Losing an enqueue")
    await lab.timelines.page(readers[0], phase=QUEUE.slug)  # there is a list to read from
    status = await lab.store(author, QUEUE.slug)
    seen = await _first(lab, readers[0])
    held_before = await _copies(lab, readers[-1], status)
    lab.say("Waiting for the sweeper to find it")
    lab.clock.advance(OVERDUE_S + 2)
    await sweep(lab.timelines)
    await lab.drain()
    pending = await lab.timelines.outbox.count(QUEUE.slug)
    held = await _copies(lab, readers[-1], status)
    return [
        Check(
            what="Enqueue lost: is the status on a follower’s page at once?",
            found="yes, it is pending" if seen == status.id else "no",
            as_told=seen == status.id,
        ),
        Check(
            what="Is it in the last follower’s list, before and after the sweeper came by?",
            found=f"{_yes(held_before)}, then {_yes(held)}; {pending} still pending",
            as_told=(held_before, held, pending) == (0, 1, 0),
        ),
    ]


async def _done_twice(lab: Lab, author: ObjectId, readers: list[ObjectId]) -> list[Check]:
    lab.say("Doing a job twice")
    status = await lab.store(author, QUEUE.slug)
    for _ in range(2):
        await lab.timelines.outbox.consumers[QUEUE.slug].handle(status.id, None)
    await lab.drain()
    copies = await _copies(lab, readers[0], status)
    page = await lab.timelines.page(readers[0], phase=QUEUE.slug)
    shown = sum(row.id == status.id for row in page.statuses)
    return [
        Check(
            what="Job done twice: copies in a follower’s list, and on the page",
            found=f"{copies} and {shown}",
            as_told=(copies, shown) == (1, 1),
        )
    ]


async def _first(lab: Lab, reader: ObjectId) -> object:
    page = await lab.timelines.page(reader, phase=QUEUE.slug)
    return page.statuses[0].id if page.statuses else None


async def _copies(lab: Lab, reader: ObjectId, status: StatusRow) -> int:
    entries = lab.stack.db[entries_name(await lab.container(QUEUE))]
    return await entries.count_documents({"_id": entry_key(reader, status.id)})


def _yes(n: int) -> str:
    return "yes" if n else "no"


def _sentence(n: int, pushed: float, queued: float, until_delivered: float) -> str:
    return (
        f"With {n:,} followers the poster waits {written(pushed)} ms in phase 2, {times(pushed, queued)} as in phase 3 "
        f"({written(queued)} ms). The work did not get less: the last follower’s list holds the status after "
        f"{written(until_delivered)} ms, {times(until_delivered, pushed)} as in phase 2. The start of a worker is in "
        "that figure; one that runs already is quicker."
    )
