"""Looking at what is under way, at dead letters and at workers. All of it blocks."""

from dataclasses import dataclass
from datetime import datetime

import redis
from rq import Worker
from rq.job import Job
from rq.serializers import JSONSerializer

from app.stack.queue.jobs import LIST_LIMIT, Queues


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


def job_ids(queues: Queues) -> dict[str, list[str]]:
    """Job ids by state. Reading the started ones requeues those whose worker died (RQ's own clean-up)."""
    found: dict[str, list[str]] = {"queued": [], "started": [], "scheduled": [], "failed": []}
    for queue in queues.values():
        found["started"] += queue.started_job_registry.get_job_ids(end=LIST_LIMIT)
        found["queued"] += queue.get_job_ids(length=LIST_LIMIT)
        found["scheduled"] += queue.scheduled_job_registry.get_job_ids(end=LIST_LIMIT)
        found["failed"] += queue.failed_job_registry.get_job_ids(end=LIST_LIMIT)
    return found


def deliveries(
    connection: redis.Redis, ids: dict[str, list[str]], states: tuple[str, ...], limit: int
) -> list[Delivery]:
    """At most `limit` of the jobs in these states."""
    wanted = [(state, job_id) for state in states for job_id in ids[state]][:limit]
    jobs = Job.fetch_many([job_id for _, job_id in wanted], connection=connection, serializer=JSONSerializer)
    return [
        Delivery(
            id=job.id,
            phase=job.args[0],
            status=job.args[1],
            state=state,
            attempts_left=job.retries_left or 0,
            since=job.enqueued_at,
            error=_error(job) if state == "failed" else None,
        )
        for (state, _), job in zip(wanted, jobs, strict=True)
        if job is not None
    ]


def _error(job: Job) -> str | None:
    """The last line of the traceback."""
    result = job.latest_result()
    return result.exc_string.strip().splitlines()[-1] if result and result.exc_string else None


def workers(connection: redis.Redis) -> list[WorkerState]:
    """The workers that take jobs, the longest at work first."""
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
        for worker in Worker.all(connection=connection, serializer=JSONSerializer)
    ]
    return sorted(states, key=lambda state: (str(state.since), state.name))
