"""Experiment: a post is acknowledged at once and delivered later; a job may be lost, or done twice."""

from collections.abc import Mapping
from time import perf_counter

from bson import ObjectId

from app.models import StatusRow
from app.walkthrough.experiments.base import Experiment, Knob
from app.walkthrough.lab import Lab
from app.walkthrough.result import Chart, Check, Result, Sample, compared, samples
from phases.keeping.entries import entries_name, entry_key
from phases.p2_push import PUSH
from phases.p3_queue import QUEUE
from workers.sweeper import OVERDUE_S, sweep
from workers.worker import run_in_thread

ROUNDS, FEW_ROUNDS = 7, 2  # on real servers, and on stand-ins, where each waits for a second


class Acknowledged(Experiment):
    slug = QUEUE.slug
    title = "Acknowledged at once, and nothing lost"
    about = (
        "One author posts in phase 2 and in phase 3, while a worker runs: how long does the poster wait, and how long "
        "is it until the last follower's list holds the status? Then an enqueue is lost on purpose, and a job is done "
        "twice."
    )
    knobs = (Knob("followers", "Followers of the author", 100, 20_000, 100, 5_000, 100),)

    async def run(self, lab: Lab, values: Mapping[str, int]) -> Result:
        n = values["followers"]
        author = lab.person()
        lab.say(f"Making {n:,} followers")
        readers = await lab.followers(author, n)
        lab.say("Posting in phases 2 and 3, while a worker runs")
        async with run_in_thread(lab.timelines):
            waits, until = await _posted(lab, author)
        chart = Chart(
            title="After the post",
            unit="ms",
            bars=(
                waits[PUSH.slug].bar("phase 2, push"),
                until[PUSH.slug].bar("phase 2, push", 1),
                waits[QUEUE.slug].bar("phase 3, queue"),
                until[QUEUE.slug].bar("phase 3, queue", 1),
            ),
            series=("the poster waits", "until the last follower has it"),
        )
        lost = await _lost_enqueue(lab, author, readers)
        twice = await _done_twice(lab, author, readers)
        return Result(pain=pain(n, waits), sentence=sentence(n, waits, until), charts=(chart,), checks=(*lost, *twice))


async def _posted(lab: Lab, author: ObjectId) -> tuple[dict[str, Sample], dict[str, Sample]]:
    """Return the milliseconds until the poster goes on, and until the last follower's list holds the status.

    The first post of each phase does not count, so that the worker is warm.
    """
    phases = (PUSH, QUEUE)
    waits: dict[str, list[float]] = {phase.slug: [] for phase in phases}
    until: dict[str, list[float]] = {phase.slug: [] for phase in phases}
    for turn in range(1 + (ROUNDS if lab.real else FEW_ROUNDS)):
        for phase in phases:
            start_s = perf_counter()
            status = await lab.post(author, phase)
            waited_ms = (perf_counter() - start_s) * 1000
            await lab.delivered(phase, status.id)
            if turn:
                waits[phase.slug].append(waited_ms)
                until[phase.slug].append((perf_counter() - start_s) * 1000)
    return samples(waits), samples(until)


async def _lost_enqueue(lab: Lab, author: ObjectId, readers: list[ObjectId]) -> list[Check]:
    """Let the process die between insert and enqueue: the status is stored and pending, and there is no job."""
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


def pain(n: int, waits: Mapping[str, Sample]) -> str:
    return f"In phase 2 the poster with {n:,} followers waits {waits[PUSH.slug]} ms."


def sentence(n: int, waits: Mapping[str, Sample], until: Mapping[str, Sample]) -> str:
    pushed, queued = waits[PUSH.slug], waits[QUEUE.slug]
    return (
        f"With {n:,} followers the poster waits {pushed} ms in phase 2 and {queued} ms in phase 3: "
        f"{compared(queued, pushed)}. The last follower’s list holds the status after {until[PUSH.slug]} ms in phase 2 "
        f"and after {until[QUEUE.slug]} ms in phase 3: {compared(until[QUEUE.slug], until[PUSH.slug])}. The worker was "
        "running before."
    )
