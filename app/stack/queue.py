"""The delivery queues: RQ on Redis. Jobs are JSON: the name of a function, and ids and names as text."""

import asyncio
import logging
import time
from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime
from typing import Any

import redis
from bson import ObjectId
from fakeredis import FakeRedis, FakeServer
from redis.backoff import NoBackoff
from redis.retry import Retry as RedisRetry
from rq import Queue, Retry, Worker
from rq.exceptions import DuplicateJobError, NoSuchJobError
from rq.job import Job
from rq.registry import FailedJobRegistry, ScheduledJobRegistry, StartedJobRegistry
from rq.scheduler import RQScheduler
from rq.serializers import JSONSerializer
from rq.suspension import is_suspended, resume, suspend

from app.stack.cost import count_redis

log = logging.getLogger(__name__)

FIRST = "deliver-first"  # the first chunk of every fan-out
MORE = "deliver-more"  # the further chunks of large ones; workers take from both in turn, so neither starves
QUEUES = (FIRST, MORE)

JOB_TIMEOUT_S = 20  # one chunk; a started job that is older is taken for abandoned
ATTEMPT_PAUSES_S = (1, 2, 5, 15, 30)  # then the job is a dead letter
DEAD_LETTER_TTL_S = 30 * 86_400
AWAY_S = 2.0  # after a failure nobody who posts waits for Redis again for so long
LIST_LIMIT = 10_000  # ids of one queue or registry that are looked at


class QueueDown(Exception):
    """Redis did not answer."""


class _CountingConnection(redis.Connection):
    def send_command(self, *args: Any, **options: Any) -> None:
        count_redis()
        super().send_command(*args, **options)  # type: ignore[no-untyped-call]

    def pack_commands(self, commands: Any) -> Any:
        commands = list(commands)
        count_redis(len(commands))
        return super().pack_commands(commands)  # type: ignore[no-untyped-call]


def connect(url: str, timeout_s: float) -> redis.Redis:
    """A client whose every command waits at most `timeout_s`. Nothing is sent yet."""
    return redis.Redis.from_pool(  # closing the client closes its connections
        redis.ConnectionPool.from_url(
            url,
            connection_class=_CountingConnection,
            socket_timeout=timeout_s,
            socket_connect_timeout=timeout_s,
            retry=RedisRetry(NoBackoff(), 1),
        )
    )


def stand_in() -> redis.Redis:
    """Redis in this process, shared by its threads."""
    return FakeRedis(server=FakeServer())


@dataclass(frozen=True)
class Delivery:
    """A job as a person sees it. `state` is RQ's: queued, started, scheduled or failed."""

    id: str
    phase: str
    status: str
    state: str
    attempts_left: int
    since: datetime | None
    error: str | None


@dataclass(frozen=True)
class WorkerState:
    """A worker as Redis knows it; one that was killed is known for up to seven minutes more. `doing`: a job's id."""

    name: str
    state: str  # RQ's: started, idle, busy or suspended
    pid: int | None
    since: datetime | None
    done: int
    failed: int
    doing: str | None


class DeliveryQueue:
    """The queues of one Redis. Methods raise QueueDown when it does not answer, except `offer`, which may fail."""

    def __init__(self, connection: redis.Redis, now_s: Callable[[], float] = time.monotonic) -> None:
        self.connection, self._now_s = connection, now_s
        self._away_until = now_s()
        self.queues = {name: Queue(name, connection=connection, serializer=JSONSerializer) for name in QUEUES}

    async def _call(self, call: Any, *args: Any) -> Any:
        try:
            return await asyncio.to_thread(call, *args)
        except redis.RedisError as error:
            raise QueueDown(f"redis: {error}") from error

    async def offer(self, phase: str, status: ObjectId, after: ObjectId | None = None) -> bool:
        """Queue one chunk of a fan-out, once. False when it is there already, or when Redis is away.

        Nobody waits for Redis to come back: what could not be queued is still pending, and the sweeper queues it
        (rule 5). A job that has been lost between a queue and a worker is replaced.
        """
        if self._is_away():
            return False
        return await asyncio.to_thread(self._offer_unless_away, phase, status, after)

    def _is_away(self) -> bool:
        return self._now_s() < self._away_until

    def _offer_unless_away(self, phase: str, status: ObjectId, after: ObjectId | None) -> bool:
        """In the thread: of many that wait for a thread while Redis hangs, only the first find that out."""
        if self._is_away():
            return False
        try:
            return self._offer(phase, status, after)
        except redis.RedisError as error:
            self._away_until = self._now_s() + AWAY_S
            log.warning("could not queue %s for %s, the sweeper will: %s", status, phase, error)
            return False

    def _offer(self, phase: str, status: ObjectId, after: ObjectId | None) -> bool:
        job_id = f"{phase}-{status}" + (f"-{after}" if after else "")
        queue, arguments = self.queues[MORE if after else FIRST], (phase, str(status), str(after) if after else None)
        if self._enqueue(queue, job_id, arguments):
            return True
        if self._is_somewhere(queue, job_id):
            return False
        self.connection.delete(Job.key_for(job_id))  # its worker died between the queue and the registry
        return self._enqueue(queue, job_id, arguments)

    @staticmethod
    def _enqueue(queue: Queue, job_id: str, arguments: tuple[str, str, str | None]) -> bool:
        try:
            queue.enqueue(
                "workers.jobs.fan_out",
                args=arguments,
                job_id=job_id,
                unique=True,
                job_timeout=JOB_TIMEOUT_S,
                retry=Retry(max=len(ATTEMPT_PAUSES_S), interval=list(ATTEMPT_PAUSES_S)),
                result_ttl=0,
                failure_ttl=DEAD_LETTER_TTL_S,
            )
        except DuplicateJobError:
            return False
        return True

    @staticmethod
    def _is_somewhere(queue: Queue, job_id: str) -> bool:
        """Whether somebody will come upon the job, or has it in hand."""
        options: Any = {"queue": queue, "serializer": JSONSerializer}
        scheduled: Any = ScheduledJobRegistry
        return (
            queue.get_job_position(job_id) is not None
            or job_id in scheduled(**options)
            or job_id in FailedJobRegistry(**options)
            or job_id in _started(queue).get_job_ids(end=LIST_LIMIT)
        )

    async def ping(self) -> str:
        """The server's version."""
        return str(await self._call(self._version))

    def _version(self) -> str:
        if isinstance(self.connection, FakeRedis):
            return "stand-in"
        return str(self.connection.info("server")["redis_version"])

    async def known(self) -> set[tuple[str, str]]:
        """(phase, status id) of every fan-out that some job will continue, or that is a dead letter."""
        deliveries = await self._call(self._job_ids)
        return {tuple(job_id.split("-")[:2]) for ids in deliveries.values() for job_id in ids}

    def _job_ids(self) -> dict[str, list[str]]:
        """Job ids by state. Reading the started ones requeues those whose worker died (RQ's own clean-up)."""
        found: dict[str, list[str]] = {"queued": [], "started": [], "scheduled": [], "failed": []}
        for queue in self.queues.values():
            options: Any = {"queue": queue, "serializer": JSONSerializer}
            found["started"] += _started(queue).get_job_ids(end=LIST_LIMIT)
            found["queued"] += queue.get_job_ids(length=LIST_LIMIT)
            scheduled: Any = ScheduledJobRegistry
            found["scheduled"] += scheduled(**options).get_job_ids(end=LIST_LIMIT)
            found["failed"] += FailedJobRegistry(**options).get_job_ids(end=LIST_LIMIT)
        return found

    async def depth(self) -> dict[str, int]:
        """Jobs waiting or scheduled, by phase."""
        found = await self._call(self._job_ids)
        depth: dict[str, int] = {}
        for job_id in found["queued"] + found["scheduled"]:
            phase = job_id.split("-")[0]
            depth[phase] = depth.get(phase, 0) + 1
        return depth

    async def enqueue_scheduled(self) -> None:
        """Queue the retries whose pause is over."""
        await self._call(self._enqueue_scheduled)

    def _enqueue_scheduled(self) -> None:
        # RQ's own scheduler, without the process it would fork.
        scheduler: Any = RQScheduler(
            list(self.queues.values()),
            connection=self.connection,
            serializer=JSONSerializer,
            logging_level=logging.WARNING,
        )
        if scheduler.acquire_locks():
            scheduler.enqueue_scheduled_jobs()
            scheduler.release_locks()

    async def deliveries(self, *, failed: bool, limit: int) -> list[Delivery]:
        """What is under way, or the dead letters, at most `limit`."""
        return await self._call(self._deliveries, failed, limit)  # type: ignore[no-any-return]

    def _deliveries(self, failed: bool, limit: int) -> list[Delivery]:
        states = ("failed",) if failed else ("started", "queued", "scheduled")
        ids = self._job_ids()
        wanted = [(state, job_id) for state in states for job_id in ids[state]][:limit]
        jobs = Job.fetch_many([job_id for _, job_id in wanted], connection=self.connection, serializer=JSONSerializer)
        return [
            Delivery(
                id=job.id,
                phase=job.args[0],
                status=job.args[1],
                state=state,
                attempts_left=job.retries_left or 0,
                since=job.enqueued_at,
                error=_error(job) if failed else None,
            )
            for (state, _), job in zip(wanted, jobs, strict=True)
            if job is not None
        ]

    async def retry_dead_letters(self) -> int:
        """Queue every dead letter again; how many there were."""
        return await self._call(self._retry_dead_letters)  # type: ignore[no-any-return]

    def _retry_dead_letters(self) -> int:
        retried = 0
        for queue in self.queues.values():
            registry = FailedJobRegistry(queue=queue, serializer=JSONSerializer)
            for job_id in registry.get_job_ids(end=LIST_LIMIT):
                try:
                    job = Job.fetch(job_id, connection=self.connection, serializer=JSONSerializer)
                except NoSuchJobError:
                    continue
                job.retries_left = len(ATTEMPT_PAUSES_S)
                registry.requeue(job)
                retried += 1
        return retried

    async def workers(self) -> list[WorkerState]:
        """Whoever takes jobs, the longest at work first."""
        return await self._call(self._workers)  # type: ignore[no-any-return]

    def _workers(self) -> list[WorkerState]:
        found = Worker.all(connection=self.connection, serializer=JSONSerializer)
        states = [
            WorkerState(
                name=worker.name,
                state=str(worker.get_state()),
                pid=worker.pid,
                since=worker.birth_date,
                done=worker.successful_job_count,
                failed=worker.failed_job_count,
                doing=worker.get_current_job_id(),
            )
            for worker in found
        ]
        return sorted(states, key=lambda state: (str(state.since), state.name))

    async def pause(self) -> None:
        """Every worker finishes the job at hand and takes no further one, until `resume`."""
        await self._call(suspend, self.connection)

    async def resume(self) -> None:
        await self._call(resume, self.connection)

    async def paused(self) -> bool:
        return bool(await self._call(is_suspended, self.connection))

    async def forget(self) -> None:
        """Drop every job. What was pending is queued again by the sweeper."""
        await self._call(self.connection.flushdb)


def _started(queue: Queue) -> StartedJobRegistry:
    return StartedJobRegistry(queue=queue, serializer=JSONSerializer)


def _error(job: Job) -> str | None:
    """The last line of the traceback."""
    result = job.latest_result()
    return result.exc_string.strip().splitlines()[-1] if result and result.exc_string else None
