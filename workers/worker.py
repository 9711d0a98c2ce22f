"""A worker: RQ takes the jobs in one thread; one event loop does them, sweeps and follows the change stream.

Connections are opened once for a worker, not for each job.
"""

import asyncio
import gc
import threading
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from functools import partial

from anyio.from_thread import start_blocking_portal

from app.config import Config
from app.departures import keep_clearing
from app.stack import Addresses, Stack, connected
from app.stack.queue.worker import consume, drain
from app.watch import metrics
from app.watch.background import beside
from phases.delivering.outbox import Consumer, Outbox
from phases.timelines import Timelines
from workers.jobs import RUNTIME, Runtime
from workers.sampler import keep, sample
from workers.sweeper import last_pulse, sweep_forever
from workers.tailer import Tailer

Joining = Callable[[Stack, Outbox], Consumer]


def run(addresses: Addresses, config: Config, others: Sequence[Joining] = ()) -> None:
    """Run a worker process, in its main thread, until SIGTERM or SIGINT; the chunk at hand is finished first.

    `others`: the consumers that are no phases.
    """
    with (
        start_blocking_portal() as portal,
        portal.wrap_async_context_manager(_connected_runtime(addresses, config, others)) as runtime,
    ):
        RUNTIME.set(runtime)
        gc.freeze()  # as in a web process
        consume(runtime.timelines.stack.queue, threading.Event())


@asynccontextmanager
async def run_in_thread(timelines: Timelines) -> AsyncIterator[None]:
    """Run a worker beside whatever else this event loop does, for servers that live inside the process."""
    stop = threading.Event()
    async with beside(sweep_forever(timelines)), _following(timelines):
        working = asyncio.create_task(_in_thread(timelines, lambda: consume(timelines.stack.queue, stop)))
        try:
            yield
        finally:
            stop.set()
            await working


async def drain_queues(timelines: Timelines) -> None:
    """Do, on this event loop, what the change stream tells, every job that waits, and the jobs that these queue."""
    await Tailer(timelines).poll()
    await _in_thread(timelines, lambda: drain(timelines.stack.queue))


async def _in_thread(timelines: Timelines, work: Callable[[], None]) -> None:
    runtime = Runtime(timelines, asyncio.get_running_loop())

    def with_runtime() -> None:
        RUNTIME.set(runtime)
        work()

    await asyncio.to_thread(with_runtime)


@asynccontextmanager
async def _connected_runtime(addresses: Addresses, config: Config, others: Sequence[Joining]) -> AsyncIterator[Runtime]:
    metrics.MACHINE.loop_thread = threading.get_native_id()
    async with connected(addresses, config) as stack:
        timelines = await Timelines.open(stack)
        for consumer in others:
            timelines.outbox.add(consumer(stack, timelines.outbox))
        always = sweep_forever(timelines), keep_clearing(stack), keep(partial(sample, timelines))
        async with beside(*always), _following(timelines):
            yield Runtime(timelines, asyncio.get_running_loop())
        await last_pulse(timelines)


@asynccontextmanager
async def _following(timelines: Timelines) -> AsyncIterator[None]:
    """Follow the change stream until the block ends.

    The tailer is asked to stop: cancelling inside the stream is not safe.
    """
    tailer = Tailer(timelines)
    following = asyncio.create_task(tailer.forever())
    try:
        yield
    finally:
        tailer.stopping.set()
        await following
