"""The sweeper: every few seconds, every worker looks for what should have been done by now, and does it."""

import asyncio
import logging
from collections.abc import Awaitable, Callable
from datetime import timedelta
from functools import partial

from app.clock import id_at
from app.stack import is_away, outages_told, within
from app.watch.background import errors_counted
from phases.timelines import Timelines

log = logging.getLogger(__name__)

EVERY_S = 5.0
OVERDUE_S = 15  # what is owed for longer has been lost on its way
AT_ONCE = 200  # of a kind, in one sweep; the next one goes on behind them


async def sweep_forever(timelines: Timelines) -> None:
    """Sweep until cancelled. What could not be done is tried again at the next turn."""
    while True:
        with errors_counted("sweep", "a part of this sweep waits"):
            await sweep(timelines)
        await asyncio.sleep(EVERY_S)


async def last_pulse(timelines: Timelines) -> None:
    """Count the database's pulse once more when a process ends.

    A database restored from a backup made since the last sweep is then noticed, too.
    """
    with outages_told(log.warning, "the last pulse is left out"):
        await within(timelines.stack.config.server_timeout_s, timelines.switch.beat())


async def sweep(timelines: Timelines) -> None:
    """Do all parts of a sweep, also after one that fails. Raises errors at the end, unless a server was away."""
    await _each(
        timelines.switch.beat,
        timelines.stack.queue.enqueue_scheduled,
        partial(_queue_what_was_lost, timelines),
        partial(_make_backfills, timelines),
        *timelines.sweeps,
    )


async def _each(*works: Callable[[], Awaitable[None]]) -> None:
    """Do the works one after another. A server that one of them misses holds up no other one."""
    errors = []
    for work in works:
        try:
            await work()
        except Exception as error:  # noqa: BLE001
            if is_away(error):
                log.warning("a part of this sweep waits: %s", error)
            else:
                errors.append(error)
    if errors:
        raise ExceptionGroup("errors of ours in a sweep", errors)


async def _queue_what_was_lost(timelines: Timelines) -> None:
    """Queue each pending status that no job will deliver: its enqueue failed, or Redis
    or a worker died with it.
    """
    queue, clock = timelines.stack.queue, timelines.stack.clock
    overdue = id_at(clock.now() - timedelta(seconds=OVERDUE_S))
    for name in timelines.outbox.consumers:
        if lost := await timelines.outbox.further_overdue(name, overdue, AT_ONCE):
            under_way = await queue.known()
            for status in lost:
                if (name, str(status)) not in under_way:
                    await queue.offer(name, status)


async def _make_backfills(timelines: Timelines) -> None:
    """Make the backfills whose process died between the edge and the merge, or found a server away. Those that another
    version of the program has to make, too, wait for it: pages of their readers come from the query meanwhile.
    """
    overdue = id_at(timelines.stack.clock.now() - timedelta(seconds=OVERDUE_S))
    late = await timelines.outbox.backfills.overdue(overdue, AT_ONCE)
    if late and (unknown := timelines.switch.unknown(await timelines.switch.fresh())):
        log.warning(
            "backfills wait for a program that knows %s; or switch it off: feedlab phases --deliver", sorted(unknown)
        )
        return
    await _each(*(partial(timelines.outbox.backfills.make, collection, row) for collection, row in late))
