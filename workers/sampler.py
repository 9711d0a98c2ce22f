"""The state of the whole system, which every process samples every few seconds and tells in its metrics."""

import asyncio
import logging
from collections.abc import Awaitable, Callable, Collection, Mapping
from time import time

from app.models import SETTINGS
from app.stack import QueueDown, is_away, outages_told, within
from app.stack.mongodb.find import Find, rows
from app.stack.mongodb.whole import BACKUP
from app.watch import metrics
from app.watch.background import errors_counted
from phases.timelines import State, Timelines
from workers.tailer import stream_state

log = logging.getLogger(__name__)

EVERY_S = 5.0
COUNTS_EVERY_S = 20.0  # a process that dies takes what it has counted for so long with it
NOT_COUNTED = "some pages and posts are not counted"
TICK_S = 0.5  # between two looks at how late the event loop is


async def sample(timelines: Timelines) -> State | None:
    """Ask the servers, each for a bounded time, and set the metrics. What is not known now is in no metric.

    Return the state; None where the servers that know it are away.
    """
    for server, version in (await timelines.stack.check()).items():
        metrics.SERVER_UP.labels(server).set(version is not None)
    dead = await _dead(timelines)
    try:
        state = await timelines.state()
        oldest = {
            one.name: await _oldest_s(timelines, one.name, set(dead.get(one.name, ())))
            for one in state.consumers
            if one.pending
        }
    except Exception as error:
        if not is_away(error):
            raise
        state, oldest = None, {}
    for gauge in (metrics.PENDING, metrics.QUEUED, metrics.OLDEST):
        gauge.clear()
    for consumer in state.consumers if state else ():
        metrics.PENDING.labels(consumer.name).set(consumer.pending)
        metrics.QUEUED.labels(consumer.name).set(consumer.queued)
        metrics.OLDEST.labels(consumer.name).set(oldest.get(consumer.name, 0))
    await _stream(timelines)
    if state:
        await _backup(timelines)
    metrics.SAMPLED.set(time())
    return state


async def _oldest_s(timelines: Timelines, consumer: str, dead: Collection[str]) -> float:
    """Return the age of the oldest that is no dead letter: those stay pending until a person has them tried again."""
    now = timelines.stack.clock.now()
    ids = await timelines.outbox.oldest(consumer, len(dead) + 1)
    return max(((now - id.generation_time).total_seconds() for id in ids if str(id) not in dead), default=0)


async def _dead(timelines: Timelines) -> Mapping[str, Collection[str]]:
    """Return the dead letters by consumer; none where the queue that knows them is away."""
    try:
        dead = await timelines.stack.queue.dead()
    except QueueDown:
        metrics.DEAD.clear()
        return {}
    for consumer in timelines.outbox.consumers:
        metrics.DEAD.labels(consumer).set(len(dead.get(consumer, ())))
        metrics.RETRIES.labels(consumer)  # none is a figure, too
    return dead


async def _stream(timelines: Timelines) -> None:
    for gauge in (metrics.STREAM_SILENT, metrics.STREAM_LAG):
        gauge.clear()
    try:
        stream = await stream_state(timelines)
    except Exception as error:
        if not is_away(error):
            raise
        return
    if stream:
        metrics.STREAM_SILENT.labels(stream.owner or "").set(stream.silent_s)
        if stream.lag_s is not None:
            metrics.STREAM_LAG.labels(stream.owner or "").set(stream.lag_s)


async def _backup(timelines: Timelines) -> None:
    try:
        found = await rows(timelines.stack.db, Find(SETTINGS, {"_id": BACKUP}, ("at",), 1))
    except Exception as error:
        if not is_away(error):
            raise
        return  # when the last one was made has not changed
    metrics.BACKUP.set(found[0]["at"].timestamp() if found else 0)


async def keep(take: Callable[[], Awaitable[object]]) -> None:
    """Sample until cancelled. A server that is down, and a sample that is old, are seen in the metrics."""
    await asyncio.gather(_watch_the_loop(), _keep(take))


async def keep_counts(timelines: Timelines) -> None:
    """Store what is counted of pages and posts, by which phase 6 decides, until cancelled. Every process that answers
    readers does; what else reads or posts, a command or a benchmark, is not counted.
    """
    while True:
        await asyncio.sleep(COUNTS_EVERY_S)
        with errors_counted("sample", NOT_COUNTED), outages_told(log.info, NOT_COUNTED):
            await timelines.store_counts()


async def last_counts(timelines: Timelines) -> None:
    """Store what a process that ends has counted since the last time."""
    with outages_told(log.info, NOT_COUNTED):
        await within(timelines.stack.config.server_timeout_s, timelines.store_counts())


async def _keep(take: Callable[[], Awaitable[object]]) -> None:
    while True:
        with errors_counted("sample", "a sample is left out"):
            await take()
        await asyncio.sleep(EVERY_S)


async def _watch_the_loop() -> None:
    loop = asyncio.get_running_loop()
    while True:
        due_s = loop.time() + TICK_S
        await asyncio.sleep(TICK_S)
        metrics.LOOP_LAG.observe(max(0.0, loop.time() - due_s))
