"""Looking at what is under way, at dead letters and at workers. All of it blocks."""

import zlib
from dataclasses import dataclass
from datetime import datetime
from typing import Any

import redis
from rq import Queue, Worker
from rq.job import Job
from rq.serializers import JSONSerializer
from rq.worker_registration import REDIS_WORKER_KEYS, WORKERS_BY_QUEUE_KEY

from app.stack.queue.jobs import LIST_LIMIT, Queues
from app.stack.queue.strict import FAN_OUT, StrictJob, text


@dataclass(frozen=True)
class JobSeen:
    """A job as a person sees it. `happened`: the id of the status or event. `state` is RQ's: queued, started, scheduled
    or failed.
    """

    id: str
    consumer: str
    happened: str
    state: str
    attempts_left: int
    since: datetime | None
    error: str | None


@dataclass(frozen=True)
class WorkerState:
    """A worker as Redis knows it; one that was killed is known for up to seven minutes more."""

    name: str
    state: str  # RQ's: started, idle, busy or suspended
    pid: int | None
    since: datetime | None
    done: int
    failed: int


def job_ids(queues: Queues) -> dict[str, list[str]]:
    """Return job ids by state. Reading the started ones requeues those whose worker died (RQ's own clean-up)."""
    found: dict[str, list[str]] = {"queued": [], "started": [], "scheduled": [], "failed": []}
    for queue in queues.values():
        found["started"] += queue.started_job_registry.get_job_ids(end=LIST_LIMIT)
        found["queued"] += queue.get_job_ids(length=LIST_LIMIT)
        found["scheduled"] += queue.scheduled_job_registry.get_job_ids(end=LIST_LIMIT)
        found["failed"] += queue.failed_job_registry.get_job_ids(end=LIST_LIMIT)
    return found


def dead_letters(queues: Queues) -> list[str]:
    return [id for queue in queues.values() for id in queue.failed_job_registry.get_job_ids(end=LIST_LIMIT)]


def deliveries(
    connection: redis.Redis, ids: dict[str, list[str]], states: tuple[str, ...], limit: int
) -> list[JobSeen]:
    """Return at most `limit` of the jobs in these states."""
    wanted = [(state, job_id) for state in states for job_id in ids[state]][:limit]
    jobs = StrictJob.fetch_many([job_id for _, job_id in wanted], connection)
    return [
        JobSeen(
            id=job.id,
            consumer=job.args[0],
            happened=job.args[1],
            state=state,
            attempts_left=job.retries_left or 0,
            since=job.enqueued_at,
            error=_error(job) if state == "failed" else None,
        )
        for (state, _), job in zip(wanted, jobs, strict=True)
        if job and job.func_name == FAN_OUT
    ]


def _error(job: Job) -> str | None:
    """Return the last line of the job's traceback; None without one."""
    try:
        result = job.latest_result()
    except (ValueError, LookupError, zlib.error):  # not RQ's own
        return "what is noted of it cannot be read"
    return result.exc_string.strip().splitlines()[-1] if result and result.exc_string else None


def workers(queue: Queue) -> list[WorkerState]:
    """Return the workers that take jobs from the queue, the longest at work first."""
    keys = [key for key in map(text, _registered(queue)) if key.startswith(Worker.redis_worker_namespace_prefix)]
    found = [Worker.find_by_key(key, queue.connection, serializer=JSONSerializer) for key in keys]
    states = [
        WorkerState(
            name=worker.name,
            state=str(worker.get_state()),
            pid=worker.pid,
            since=worker.birth_date,
            done=worker.successful_job_count,
            failed=worker.failed_job_count,
        )
        for worker in found
        if worker
    ]
    return sorted(states, key=lambda state: (str(state.since), state.name))


def forget_dead_workers(queue: Queue) -> None:
    """Remove from Redis the workers that ended without a word, and entries that never were workers."""
    for key in _registered(queue):
        if not queue.connection.exists(key):
            queue.connection.srem(WORKERS_BY_QUEUE_KEY % queue.name, key)
            queue.connection.srem(REDIS_WORKER_KEYS, key)


def _registered(queue: Queue) -> Any:
    return queue.connection.smembers(WORKERS_BY_QUEUE_KEY % queue.name)
