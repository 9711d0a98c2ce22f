"""Every few seconds, in every worker: what should have been done by now and has not, is done again."""

import asyncio
import logging
from datetime import timedelta

from app.clock import id_at
from app.edges import WIDENING
from app.stack import UNAVAILABLE
from phases.timelines import Timelines

log = logging.getLogger(__name__)

EVERY_S = 5.0
OVERDUE_S = 15  # what is owed for longer has been lost on its way
AT_ONCE = 200  # of a kind, in one sweep


async def sweep_forever(timelines: Timelines) -> None:
    """Until cancelled. A sweep that meets a server that is away is tried again at the next turn."""
    while True:
        try:
            await sweep(timelines)
        except UNAVAILABLE as error:
            log.warning("this sweep ends early: %s", error)
        await asyncio.sleep(EVERY_S)


async def sweep(timelines: Timelines) -> None:
    await timelines.stack.queue.enqueue_scheduled()
    await _queue_what_was_lost(timelines)
    await _settle_debts(timelines)
    await timelines.sweep()


async def _queue_what_was_lost(timelines: Timelines) -> None:
    """A pending status that no job will deliver: its enqueue failed, or Redis or a worker died with it."""
    queue, overdue = timelines.stack.queue, id_at(timelines.stack.clock.now() - timedelta(seconds=OVERDUE_S))
    for slug in timelines.phases:
        if lost := await timelines.outbox.overdue(slug, overdue, AT_ONCE):
            known = await queue.known()
            for status in lost:
                if (slug, str(status)) not in known:
                    await queue.offer(slug, status)


async def _settle_debts(timelines: Timelines) -> None:
    """Backfills whose process died between the edge and the merge, or found a server away."""
    overdue = id_at(timelines.stack.clock.now() - timedelta(seconds=OVERDUE_S))
    ends = {collection: (reader, author) for collection, reader, author in WIDENING}
    for collection, row in await timelines.outbox.debts(overdue, AT_ONCE):
        reader, author = ends[collection]
        await timelines.settle(collection, row["_id"], row[reader], row[author])
