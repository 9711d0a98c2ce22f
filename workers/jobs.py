"""The jobs. RQ calls them in its own thread; the work is done on the event loop that owns the connections."""

import asyncio
import logging
from collections import OrderedDict
from contextvars import ContextVar
from dataclasses import dataclass, field

from bson import ObjectId

from app.stack import UNAVAILABLE
from app.stack.queue import JOB_TIMEOUT_S, Retry
from app.stack.queue.worker import after_the_outage, attempts_of_this_job
from phases.timelines import Timelines

log = logging.getLogger(__name__)

BATCH = 16  # statuses delivered beside a job's own
BATCH_S = 2.0  # for so long
DONE_REMEMBERED = 10_000

Work = tuple[str, ObjectId]  # a consumer, a status


@dataclass
class Runtime:
    """Of one worker. `done`: what was done beside other jobs, until its own job comes."""

    timelines: Timelines
    loop: asyncio.AbstractEventLoop
    done: OrderedDict[Work, None] = field(default_factory=OrderedDict)


RUNTIME: ContextVar[Runtime] = ContextVar("runtime")  # set by the thread that takes the jobs


def fan_out(consumer: str, status: str, after: str | None) -> Retry | None:
    """One bounded step of what a consumer owes for a status, and some of what is pending behind it. Safe to repeat."""
    runtime, work = RUNTIME.get(), (consumer, ObjectId(status))
    if after is None and work in runtime.done:
        del runtime.done[work]
        return None
    own = asyncio.run_coroutine_threadsafe(_steps(runtime, consumer, ObjectId(status), after), runtime.loop)
    try:
        own.result(JOB_TIMEOUT_S)
    except UNAVAILABLE as error:
        log.warning("delivery of %s in %s waits: %s", status, consumer, error)
        return after_the_outage(attempts_of_this_job())
    finally:
        own.cancel()
    return None


async def _steps(runtime: Runtime, consumer: str, status: ObjectId, after: str | None) -> None:
    await step(runtime.timelines, consumer, status, after)
    if after is None:
        await _beside(runtime, consumer, status)


async def step(timelines: Timelines, consumer: str, status: ObjectId, after: object) -> None:
    """`after` as the job says it. Where it is not one of our ids (0.1 wrote others), everybody is served again."""
    last = ObjectId(after) if isinstance(after, str) and ObjectId.is_valid(after) else None
    await timelines.outbox.consumers[consumer].handle(status, last)


async def _beside(runtime: Runtime, consumer: str, status: ObjectId) -> None:
    """RQ takes longer over a job than an ordinary delivery takes, so a job also delivers what was posted after its
    own status and waits behind it, all at once. The jobs of these find nothing to do. A delivery that fails here is
    left to its own job, to be tried, counted and if need be buried by itself.
    """
    others = await runtime.timelines.outbox.behind(consumer, status, BATCH)
    steps = {other: asyncio.create_task(step(runtime.timelines, consumer, other, None)) for other in others}
    if not steps:
        return
    _, late = await asyncio.wait(steps.values(), timeout=BATCH_S)
    for task in late:
        task.cancel()
    await asyncio.wait(steps.values())
    for other, task in steps.items():
        if task.cancelled():
            continue
        if error := task.exception():
            log.warning("delivery of %s in %s is left to its own job: %r", other, consumer, error)
        else:
            runtime.done[consumer, other] = None
    while len(runtime.done) > DONE_REMEMBERED:
        runtime.done.popitem(last=False)
