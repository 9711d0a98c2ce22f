"""Workers that take jobs from the queues: an RQ worker that keeps its process and connections, and waits for Redis."""

import logging
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import redis
from fakeredis import FakeRedis
from rq import Queue, Retry, SimpleWorker, get_current_job
from rq.exceptions import StopRequested
from rq.job import Job
from rq.results import Result
from rq.serializers import JSONSerializer
from rq.timeouts import TimerDeathPenalty
from rq.utils import now
from rq.worker import DequeueStrategy, WorkerStatus

from app.stack.queue.delivery_queue import DeliveryQueue
from app.stack.queue.looking import forget_dead_workers
from app.stack.queue.strict import StrictJob, StrictQueue

log = logging.getLogger(__name__)

IDLE_S = 1  # in a thread: how long an idle worker waits before it looks whether it should stop
PAUSE_S = 1.0  # before the next try while Redis is away or the workers are paused
ABANDONED_AFTER_S = 30  # a job whose worker has said nothing for so long is queued again
MAINTENANCE_S = 15
OUTAGE_PAUSES_S = [1, 2, 5, 10]  # between attempts while a server is away; the last one is repeated
FOREVER = 1_000_000  # attempts: an outage never makes a dead letter, whatever its length


def after_the_outage(job_attempts: int) -> Retry:
    """Return what a job returns when a server was away: it is tried again, which does not count as its failure."""
    return Retry(max=FOREVER, interval=OUTAGE_PAUSES_S[min(job_attempts, len(OUTAGE_PAUSES_S) - 1)])


def attempts_of_this_job() -> int:
    """Return how often the job that this thread is doing has been tried before."""
    job = get_current_job()
    return (job.number_of_retries or 0) if job else 0


class _Asked:
    """What signals have asked of the workers that this process has, one after the other. (No `threading.Event`: its
    `set` may wait for the very code that a signal has interrupted.)
    """

    to_stop = False


class _Worker(SimpleWorker):
    """An RQ worker for our jobs alone, without a fork for each and without remote commands; in a thread, without
    signals.
    """

    job_class = StrictJob
    queue_class = StrictQueue
    death_penalty_class = TimerDeathPenalty
    exponential_backoff_factor, max_connection_wait_time = 1.0, PAUSE_S  # RQ's own: up to a minute after an outage
    is_paused: Callable[[], bool]
    asked: _Asked
    at_work = False

    def subscribe(self) -> None: ...

    def unsubscribe(self) -> None: ...

    def request_stop(self, signum: Any, frame: Any) -> None:
        """Stop after the job at hand. A signal may come while Redis is away and no worker is at work."""
        self.asked.to_stop = True
        if self.at_work:
            super().request_stop(signum, frame)  # type: ignore[no-untyped-call]

    def set_shutdown_requested_date(self) -> None:
        """Note nothing: nobody asks for it, and without Redis it would break the job at hand off."""

    def handle_job_retry(self, job: Job, *args: Any, **named: Any) -> None:
        """Queue a retry, and delete what each attempt has returned: RQ would keep that for as long as a dead letter."""
        super().handle_job_retry(job, *args, **named)
        Result.delete_all(job)

    def get_heartbeat_ttl(self, job: Job) -> int:
        return ABANDONED_AFTER_S

    def execute_job(self, job: Job, queue: Queue) -> None:
        if self.is_paused():  # it has waited for a job since before
            queue.push_job_id(job.id, at_front=True)
            return
        job.origin = queue.name  # whatever it says
        super().execute_job(job, queue)

    def run_maintenance_tasks(self) -> None:
        """Clean up our queues alone: RQ's own method cleans up everybody's."""
        for queue in self.queues:
            queue.started_job_registry.cleanup()
            queue.failed_job_registry.cleanup()
            forget_dead_workers(queue)
        self.last_cleaned_at = now()  # type: ignore[assignment]

    def check_for_suspension(self, burst: bool) -> None:
        """Wait while the workers are paused. A worker that was asked to stop before it could hear signals does so."""
        if self.asked.to_stop:
            raise StopRequested
        while self.is_paused() and not self._stop_requested:
            if burst:
                raise StopRequested
            self.set_state(WorkerStatus.SUSPENDED)
            self.heartbeat()
            time.sleep(PAUSE_S)


class _ThreadWorker(_Worker):
    def _install_signal_handlers(self) -> None: ...

    def check_for_suspension(self, burst: bool) -> None:
        """End a paused worker instead of waiting, so that its caller sees whether it should stop."""
        super().check_for_suspension(burst=True)


def consume(queue: DeliveryQueue, stop: threading.Event) -> None:
    """Work until `stop`, or in the main thread until SIGTERM or SIGINT: the job at hand is finished first.

    The worker takes from the queues in turn, and waits for Redis while that is away.
    """
    with _own_connection(queue) as connection:
        _consume(queue, connection, stop)


def _consume(queue: DeliveryQueue, connection: redis.Redis, stop: threading.Event) -> None:
    in_main_thread, asked = threading.current_thread() is threading.main_thread(), _Asked()
    while not (stop.is_set() or asked.to_stop):
        worker: Any = None
        rest = in_main_thread
        try:
            worker = _make(queue, connection, _Worker if in_main_thread else _ThreadWorker, asked)
            worker.at_work = True
            worker.work(
                dequeue_strategy=DequeueStrategy.ROUND_ROBIN,
                logging_level="WARNING",
                max_idle_time=None if in_main_thread else IDLE_S,
            )
            rest = rest or queue.is_paused()
        except redis.RedisError as error:
            log.warning("redis is away, trying again: %s", error)
            rest = True
        finally:
            if worker is not None:
                worker.at_work = False
        if rest and not asked.to_stop:
            stop.wait(PAUSE_S)


def drain(queue: DeliveryQueue) -> None:
    """Do every job that is waiting, and those that these queue."""
    with _own_connection(queue) as connection:
        worker = _make(queue, connection, _ThreadWorker, _Asked())
        worker.work(burst=True, dequeue_strategy=DequeueStrategy.ROUND_ROBIN, logging_level="WARNING")


@contextmanager
def _own_connection(queue: DeliveryQueue) -> Iterator[redis.Redis]:
    """Yield a connection for a worker: RQ lengthens the timeouts of the pool that it is given, which others use too."""
    if isinstance(queue.connection, FakeRedis):
        yield queue.connection
        return
    pool = queue.connection.connection_pool
    with redis.Redis.from_pool(
        redis.ConnectionPool(connection_class=pool.connection_class, **pool.connection_kwargs)
    ) as connection:
        yield connection


def _make(queue: DeliveryQueue, connection: redis.Redis, kind: Callable[..., _Worker], asked: _Asked) -> _Worker:
    worker = kind(
        [StrictQueue(each.name, connection=connection, serializer=JSONSerializer) for each in queue.queues.values()],
        connection=connection,
        serializer=JSONSerializer,
        maintenance_interval=MAINTENANCE_S,
        log_job_description=False,
    )
    worker.is_paused, worker.asked = queue.is_paused, asked
    return worker
