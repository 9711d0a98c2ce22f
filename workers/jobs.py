"""The jobs. RQ calls them in its own thread; the work is done on the event loop that owns the connections."""

import asyncio
import logging
from contextvars import ContextVar
from dataclasses import dataclass

from bson import ObjectId

from app.access import statuses_by_id
from app.models import StatusRow
from app.stack import UNAVAILABLE
from app.stack.queue import JOB_TIMEOUT_S, Retry
from app.stack.queue.worker import after_the_outage, attempts_of_this_job
from phases.timelines import Timelines

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Runtime:
    timelines: Timelines
    loop: asyncio.AbstractEventLoop


RUNTIME: ContextVar[Runtime] = ContextVar("runtime")  # set by the thread that takes the jobs


def fan_out(phase: str, status: str, resume: list[str] | None) -> Retry | None:
    """One bounded chunk of a status's delivery in one phase. Safe to repeat."""
    runtime = RUNTIME.get()
    chunk = deliver_chunk(runtime.timelines, phase, ObjectId(status), resume)
    work = asyncio.run_coroutine_threadsafe(chunk, runtime.loop)
    try:
        work.result(JOB_TIMEOUT_S)
    except UNAVAILABLE as error:
        log.warning("delivery of %s in %s waits: %s", status, phase, error)
        return after_the_outage(attempts_of_this_job())
    finally:
        work.cancel()
    return None


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
