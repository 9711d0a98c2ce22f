"""The jobs. RQ calls them in its own thread; the work is done on the event loop that owns the connections."""

import asyncio
import logging
import time
from contextvars import ContextVar
from dataclasses import dataclass

from bson import ObjectId

from app.access import statuses_by_id
from app.models import StatusRow
from app.stack import UNAVAILABLE
from app.stack.consumer import Retry, after_the_outage, attempts_of_this_job, worker_of_this_job
from app.stack.queue import JOB_TIMEOUT_S, QueueDown
from phases.timelines import Timelines

log = logging.getLogger(__name__)

TURN_S = 1.0  # then RQ is asked again: it beats its heart, and may have been told to stop
FIRST_CHUNKS = 8  # delivered together
TAKEN_TIMEOUT_S = JOB_TIMEOUT_S - 5  # of a delivery made along with a job: it ends before RQ gives up on the job


@dataclass(frozen=True)
class Runtime:
    timelines: Timelines
    loop: asyncio.AbstractEventLoop


RUNTIME: ContextVar[Runtime] = ContextVar("runtime")  # set by the thread that takes the jobs


def fan_out(phase: str, status: str, resume: list[str] | None) -> Retry | None:
    """One bounded chunk of a status's delivery in one phase, and some of what waits behind it. Safe to repeat."""
    runtime, end_s = RUNTIME.get(), time.monotonic() + TURN_S
    own = asyncio.run_coroutine_threadsafe(_deliver(runtime.timelines, phase, status, resume), runtime.loop)
    try:
        own.result(JOB_TIMEOUT_S)
    except UNAVAILABLE as error:
        log.warning("delivery of %s in %s waits: %s", status, phase, error)
        return after_the_outage(attempts_of_this_job())
    finally:
        own.cancel()
    turn = asyncio.run_coroutine_threadsafe(_turn(runtime.timelines, end_s, worker_of_this_job()), runtime.loop)
    if wrong := turn.exception():  # no failure of this job's: what the turn had in hand is queued again by RQ
        log.error("this turn ends early: %s", wrong, exc_info=None if isinstance(wrong, QueueDown) else wrong)
    return None


async def _turn(timelines: Timelines, end_s: float, worker: str | None) -> None:
    """RQ takes longer over a job than an ordinary delivery does, so a job does some others as well.

    First chunks are taken many at a time and delivered together, further ones one at a time and, every other time, only
    when there is no first one: what is posted meanwhile waits for one chunk, and the large wait for nobody for long.
    What fails here goes back, to be tried, counted and if need be buried by itself.
    """
    queue, alone = timelines.stack.queue, True
    while time.monotonic() < end_s and (chunks := await queue.take_some(FIRST_CHUNKS, alone=alone)):
        alone = any(chunk.resume for chunk in chunks)
        ends = await asyncio.gather(
            *(
                asyncio.wait_for(_deliver(timelines, chunk.phase, chunk.status, chunk.resume), TAKEN_TIMEOUT_S)
                for chunk in chunks
            ),
            return_exceptions=True,
        )
        errors = [error for error in ends if error is not None]
        done = [chunk for chunk, error in zip(chunks, ends, strict=True) if error is None]
        await queue.settle(done, [chunk for chunk in chunks if chunk not in done], worker)
        if errors:
            log.warning("given back: %r", errors)
            return


async def _deliver(timelines: Timelines, phase: str, status: str, resume: list[str] | None) -> None:
    await deliver_chunk(timelines, phase, ObjectId(status), resume)


async def deliver_chunk(timelines: Timelines, phase: str, id: ObjectId, resume: list[str] | None) -> None:
    """Read the status -> deliver -> queue the rest, or note that there is none: no other order survives a crash."""
    settings, found = await timelines.settings.fresh_with(status=statuses_by_id([id]))
    rest = None
    for status in map(StatusRow.of, found["status"]):
        if status.audience:
            rest = await timelines.phases[phase].fan_out(status, resume, settings)
    if rest is None:
        await timelines.outbox.delivered(phase, id)
    elif not await timelines.stack.queue.offer(phase, id, rest):
        log.info("the next chunk of %s in %s is queued already, or Redis is away", id, phase)
