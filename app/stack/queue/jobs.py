"""Offering jobs: for the first time, after a pause, and those that were buried. All of it blocks."""

import logging
from collections.abc import Mapping
from typing import Any

import redis
from bson import ObjectId
from rq import Queue, Retry
from rq.exceptions import DuplicateJobError, NoSuchJobError
from rq.job import Job
from rq.results import Result
from rq.scheduler import RQScheduler
from rq.serializers import JSONSerializer

FIRST = "deliver-first"  # the first chunk of every fan-out
MORE = "deliver-more"  # the further chunks of large ones; workers take from both in turn, so neither starves
QUEUES = (FIRST, MORE)

JOB_TIMEOUT_S = 20  # one chunk; a started job that is older is taken for abandoned
ATTEMPT_PAUSES_S = (1, 2, 5, 15, 30)  # then the job is a dead letter
DEAD_LETTER_TTL_S = 30 * 86_400
LIST_LIMIT = 10_000  # ids of one queue or registry that are looked at

Queues = Mapping[str, Queue]


def open_queues(connection: redis.Redis, prefix: str) -> dict[str, Queue]:
    return {name: Queue(prefix + name, connection=connection, serializer=JSONSerializer) for name in QUEUES}


def offer(queues: Queues, phase: str, status: ObjectId, after: ObjectId | None) -> bool:
    """One step of a fan-out, for the recipients above `after`. False when the job is there already.

    One that was lost between a queue and a worker is replaced.
    """
    job_id = f"{phase}-{status}" + (f"-{after}" if after else "")
    queue, arguments = queues[MORE if after else FIRST], (phase, str(status), str(after) if after else None)
    if _enqueue(queue, job_id, arguments):
        return True
    if _is_somewhere(queue, job_id):
        return False
    queue.connection.delete(Job.key_for(job_id))  # its worker died between the queue and the registry
    return _enqueue(queue, job_id, arguments)


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


def _is_somewhere(queue: Queue, job_id: str) -> bool:
    """Whether somebody will come upon the job, or has it in hand."""
    return (
        queue.get_job_position(job_id) is not None
        or job_id in queue.scheduled_job_registry
        or job_id in queue.failed_job_registry
        or job_id in queue.started_job_registry.get_job_ids(end=LIST_LIMIT)
    )


def enqueue_scheduled(connection: redis.Redis, queues: Queues) -> None:
    """Queue the retries whose pause is over: RQ's own scheduler, without the process it would fork."""
    scheduler: Any = RQScheduler(
        list(queues.values()), connection=connection, serializer=JSONSerializer, logging_level=logging.WARNING
    )
    if scheduler.acquire_locks():
        scheduler.enqueue_scheduled_jobs()
        scheduler.release_locks()


def retry_dead_letters(queues: Queues) -> int:
    """Queue every dead letter again; how many there were."""
    retried = 0
    for queue in queues.values():
        registry = queue.failed_job_registry
        for job_id in registry.get_job_ids(end=LIST_LIMIT):
            try:
                job = Job.fetch(job_id, connection=queue.connection, serializer=JSONSerializer)
            except NoSuchJobError:
                continue
            job.retries_left = len(ATTEMPT_PAUSES_S)
            registry.requeue(job)
            Result.delete_all(job)  # why it was buried; should it be again, RQ says so again
            retried += 1
    return retried
