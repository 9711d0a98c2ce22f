"""The jobs. RQ calls them in its own thread; the work is done on the event loop that owns the connections."""

import asyncio
import logging
import time
from contextvars import ContextVar
from dataclasses import dataclass
from typing import Any

from bson import ObjectId

from app.access import statuses_by_id
from app.models import StatusRow
from app.stack import UNAVAILABLE
from app.stack.consumer import Retry, after_the_outage, attempts_of_this_job, worker_of_this_job
from app.stack.queue import JOB_TIMEOUT_S, QueueDown
from phases.timelines import Timelines

log = logging.getLogger(__name__)

TURN_S = 0.25  # then RQ is asked again: it takes from the queues in turn, beats its heart, and may be told to stop
FIRST_CHUNKS = 8  # delivered together


@dataclass(frozen=True)
class Runtime:
    timelines: Timelines
    loop: asyncio.AbstractEventLoop


RUNTIME: ContextVar[Runtime] = ContextVar("runtime")  # set by the thread that takes the jobs


def fan_out(phase: str, status: str, resume: list[str] | None) -> Retry | None:
    """One bounded chunk of a status's delivery in one phase, and some of what waits behind it. Safe to repeat."""
    runtime = RUNTIME.get()
    turn = _turn(runtime.timelines, worker_of_this_job(), phase, status, resume)
    try:
        asyncio.run_coroutine_threadsafe(turn, runtime.loop).result(JOB_TIMEOUT_S)
    except UNAVAILABLE as error:
        log.warning("delivery of %s in %s waits: %s", status, phase, error)
        return after_the_outage(attempts_of_this_job())
    return None


async def _turn(timelines: Timelines, worker: str | None, *chunk: Any) -> None:
    """RQ takes longer over a job than an ordinary delivery does, so a job does some others as well.

    First chunks are taken many at a time and delivered together, further ones one at a time: what is posted meanwhile
    waits for one chunk. A job that fails here goes back, to be tried, counted and if need be buried by itself.
    """
    queue, end_s = timelines.stack.queue, time.monotonic() + TURN_S
    await _deliver(timelines, *chunk)
    try:
        while time.monotonic() < end_s and (jobs := await queue.take_some(FIRST_CHUNKS)):
            ends = await asyncio.gather(*(_deliver(timelines, *job.args) for job in jobs), return_exceptions=True)
            failed = [job for job, end in zip(jobs, ends, strict=True) if end is not None]
            if done := [job for job in jobs if job not in failed]:
                await queue.finished(done, worker)
            if failed:
                log.warning("given back: %s", [error for error in ends if error is not None])
                await queue.give_back(failed)
                return
    except QueueDown as error:
        log.warning("this turn ends early: %s", error)


async def _deliver(timelines: Timelines, phase: str, status: str, resume: list[str] | None) -> None:
    await deliver_chunk(timelines, phase, ObjectId(status), resume)


async def deliver_chunk(timelines: Timelines, phase: str, id: ObjectId, resume: list[str] | None) -> None:
    """Read the status -> deliver -> queue the rest, or note that there is none: no other order survives a crash."""
    settings, [found] = await timelines.settings.fresh_with(statuses_by_id([id]))
    rest = None
    for status in map(StatusRow.of, found):
        if status.audience:
            rest = await timelines.phases[phase].fan_out(status, resume, settings)
    if rest is None:
        await timelines.outbox.delivered(phase, id)
    elif not await timelines.stack.queue.offer(phase, id, rest):
        log.info("the next chunk of %s in %s is queued already, or Redis is away", id, phase)
