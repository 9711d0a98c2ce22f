"""Every few seconds, in every worker: what should have been done by now and has not, is done again."""

import asyncio
import logging
from datetime import timedelta

from app.clock import id_at
from app.departures import clear_departures
from app.stack import UNAVAILABLE
from app.watch.background import errors_counted
from phases.timelines import Timelines

log = logging.getLogger(__name__)

EVERY_S = 5.0
OVERDUE_S = 15  # what is owed for longer has been lost on its way
AT_ONCE = 200  # of a kind, in one sweep


async def sweep_forever(timelines: Timelines) -> None:
    """Until cancelled. A sweep that meets a server that is away is tried again at the next turn."""
    while True:
        with errors_counted("sweep", "this sweep ends early"):
            try:
                await sweep(timelines)
            except UNAVAILABLE as error:
                log.warning("this sweep ends early: %s", error)
        await asyncio.sleep(EVERY_S)


async def last_pulse(timelines: Timelines) -> None:
    """At the end of a process: what went on between a sweep, a backup and a stop is told from that backup, too."""
    try:
        async with asyncio.timeout(timelines.stack.config.server_timeout_s):
            await timelines.switch.beat()
    except (*UNAVAILABLE, TimeoutError) as error:
        log.warning("the last pulse is left out: %s", error)


async def sweep(timelines: Timelines) -> None:
    await timelines.switch.beat()  # first: it must not stop while Redis is away and people read
    await timelines.stack.queue.enqueue_scheduled()
    await _queue_what_was_lost(timelines)
    await _make_backfills(timelines)
    await clear_departures(timelines.stack.db, timelines.stack.clock)
    await timelines.sweep()


async def _queue_what_was_lost(timelines: Timelines) -> None:
    """A pending status that no job will deliver: its enqueue failed, or Redis or a
    worker died with it.
    """
    queue, clock = timelines.stack.queue, timelines.stack.clock
    overdue = id_at(clock.now() - timedelta(seconds=OVERDUE_S))
    for name in timelines.outbox.consumers:
        if lost := await timelines.outbox.overdue(name, overdue, AT_ONCE):
            under_way = await queue.known()
            for status in lost:
                if (name, str(status)) not in under_way:
                    await queue.offer(name, status)


async def _make_backfills(timelines: Timelines) -> None:
    """Those whose process died between the edge and the merge, or found a server away."""
    overdue = id_at(timelines.stack.clock.now() - timedelta(seconds=OVERDUE_S))
    for collection, row in await timelines.outbox.backfills_overdue(overdue, AT_ONCE):
        await timelines.outbox.settle(collection, row)
