"""The jobs. RQ calls them in its own thread; the work is done on the event loop that owns the connections."""

import asyncio
import logging
from contextvars import ContextVar
from dataclasses import dataclass
from time import monotonic

from bson import ObjectId

from app.stack import is_away
from app.stack.queue import JOB_TIMEOUT_S, Retry
from app.stack.queue.strict import refuse
from app.stack.queue.worker import after_the_outage, attempts_of_this_job
from app.watch import metrics
from phases.timelines import Timelines

log = logging.getLogger(__name__)

# A job makes further steps for so long, until a first step has waited during one of them: RQ takes longer over a job
# than one step takes.
TURN_S = 1.0
PATIENCE_S = JOB_TIMEOUT_S - 2  # after it some server is slow; RQ's own limit would count that as the job's failure
LOOKED_AT = 100  # of the first steps that wait


@dataclass
class Runtime:
    """The timelines and the event loop that the jobs of one worker use."""

    timelines: Timelines
    loop: asyncio.AbstractEventLoop


RUNTIME: ContextVar[Runtime] = ContextVar("runtime")  # set by the thread that takes the jobs


def nothing() -> None:
    """Do nothing: the benchmarks measure our jobs against this one."""


def fan_out(consumer: str, status: str, after: str | None) -> Retry | None:
    """Deliver a status for a consumer, in bounded steps and for a second at most, and
    some of what is pending behind it. It may be repeated.
    """
    runtime = RUNTIME.get()
    if not _is_ours(runtime, consumer, status, after):
        return None
    if attempts_of_this_job():
        metrics.RETRIES.labels(consumer).inc()
    own = asyncio.run_coroutine_threadsafe(
        _deliver(runtime, consumer, ObjectId(status), after),
        runtime.loop,
    )
    try:
        own.result(PATIENCE_S)
    except Exception as error:
        if not (is_away(error) or isinstance(error, TimeoutError)):
            raise
        log.warning("delivery of %s in %s waits: %r", status, consumer, error)
        return after_the_outage(attempts_of_this_job())
    finally:
        own.cancel()
    return None


def _is_ours(runtime: Runtime, consumer: str, status: str, after: str | None) -> bool:
    """Return whether a job names a consumer and a status of ours.

    Any other job is dropped: what is owed is pending, and the sweeper queues it.
    """
    ids = [status, *([after] if after is not None else [])]
    ours = consumer in runtime.timelines.outbox.consumers and all(map(ObjectId.is_valid, ids))
    if not ours:
        refuse("it names no consumer or no status of ours")
    return ours


async def _deliver(runtime: Runtime, consumer: str, status: ObjectId, after: str | None) -> None:
    """Deliver for one second at most. A status beside this one that fails is left to its own job and its retries."""
    until_s, queue = monotonic() + TURN_S, runtime.timelines.stack.queue
    waiting: set[str] = set()

    async def goes_on() -> bool:
        """Return whether the job takes another step. It ends once a job that waited at the last look still waits."""
        nonlocal waiting
        before, waiting = waiting, set(await queue.first_waiting(LOOKED_AT))
        return monotonic() < until_s and waiting.isdisjoint(before)

    handle = runtime.timelines.outbox.consumers[consumer].handle
    failed = await handle(status, ObjectId(after) if after else None, goes_on)
    if error := failed.pop(status, None):
        raise error
    if failed:
        log.warning("deliveries in %s are left to their own jobs: %r", consumer, failed)
