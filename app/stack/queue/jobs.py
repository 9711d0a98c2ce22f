"""Offering jobs: for the first time, after a pause, and again as former dead letters. All of it blocks."""

from collections.abc import Mapping, Sequence
from typing import Any

import redis
from bson import ObjectId
from rq import Queue, Retry
from rq.exceptions import DuplicateJobError
from rq.job import Job
from rq.results import Result, get_key
from rq.serializers import JSONSerializer
from rq.utils import current_timestamp

from app.stack.queue.strict import (
    DEAD_LETTER_TTL_S,
    FAN_OUT,
    JOB_ID,
    JOB_TIMEOUT_S,
    StrictJob,
    StrictQueue,
    text,
)

FIRST = "deliver-first"  # the first chunk of every fan-out
MORE = "deliver-more"  # the further chunks of large ones; workers take from both in turn, so neither starves
QUEUES = (FIRST, MORE)

LIST_LIMIT = 10_000  # ids of one queue or registry that are looked at
DUE_AT_ONCE = 1_000  # retries of one queue

KEYS_OF_A_JOB = (Job.key_for, Job.dependents_key_for, get_key, "rq:executions:{}".format)

Queues = Mapping[str, Queue]


def open_queues(connection: redis.Redis, prefix: str) -> dict[str, Queue]:
    return {name: StrictQueue(prefix + name, connection=connection, serializer=JSONSerializer) for name in QUEUES}


def offer(queues: Queues, prefix: str, consumer: str, happened: ObjectId, after: ObjectId | None) -> bool:
    """Queue one step of handling what has happened, a status or an event: of a fan-out the one for the recipients above
    `after`. Return False when the job is there already.

    A job that was lost between a queue and a worker is replaced.
    """
    job_id = _job_id(prefix, consumer, happened, after)
    queue, arguments = queues[MORE if after else FIRST], (consumer, str(happened), str(after) if after else None)
    if _enqueue(queue, job_id, arguments):
        return True
    if _is_somewhere(queue, job_id):
        return False
    queue.connection.delete(Job.key_for(job_id))  # its worker died between the queue and the registry
    return _enqueue(queue, job_id, arguments)


def _job_id(prefix: str, consumer: str, happened: ObjectId, after: ObjectId | None = None) -> str:
    return f"{prefix}{consumer}-{happened}" + (f"-{after}" if after else "")


def withdraw(queues: Queues, prefix: str, consumer: str, statuses: Sequence[ObjectId]) -> None:
    """Take the first steps of these statuses off the queue and delete them; not those that a worker has begun."""
    queue, ids = queues[FIRST], [_job_id(prefix, consumer, status) for status in statuses]
    with queue.connection.pipeline(transaction=False) as pipeline:
        for job_id in ids:
            pipeline.lrem(queue.key, 1, job_id)
        removed = pipeline.execute()
    if keys := [name(job_id) for job_id, n in zip(ids, removed, strict=True) if n for name in KEYS_OF_A_JOB]:
        queue.connection.delete(*keys)


def _enqueue(queue: Queue, job_id: str, arguments: tuple[str, str, str | None]) -> bool:
    pauses_s = StrictJob.attempt_pauses_s
    try:
        queue.enqueue(
            FAN_OUT,
            args=arguments,
            job_id=job_id,
            unique=True,
            job_timeout=JOB_TIMEOUT_S,
            retry=Retry(max=len(pauses_s), interval=list(pauses_s)),
            result_ttl=0,
            failure_ttl=DEAD_LETTER_TTL_S,
        )
    except DuplicateJobError:
        return False
    return True


def _is_somewhere(queue: Queue, job_id: str) -> bool:
    """Return whether the job is in a queue or a registry, so that it will be done or is a dead letter."""
    return (
        queue.get_job_position(job_id) is not None
        or job_id in queue.scheduled_job_registry
        or job_id in queue.failed_job_registry
        or job_id in queue.started_job_registry.get_job_ids(end=LIST_LIMIT)
    )


def enqueue_scheduled(queues: Queues) -> None:
    """Queue the retries whose pause is over. Of two processes that find one, the one that takes it off queues it.

    RQ's scheduler would not do: one entry that it cannot read stops all the others.
    """
    for queue in queues.values():
        connection: Any = queue.connection
        at = queue.scheduled_job_registry.key
        for entry in connection.zrangebyscore(at, 0, current_timestamp(), start=0, num=DUE_AT_ONCE):
            [job] = StrictJob.fetch_many([text(entry)], connection)
            if connection.zrem(at, entry) and job:
                queue._enqueue_job(job)


def retry_dead_letters(queues: Queues) -> int:
    """Queue every dead letter again; return how many there were."""
    retried = 0
    for queue in queues.values():
        registry = queue.failed_job_registry
        for job in StrictJob.fetch_many(registry.get_job_ids(end=LIST_LIMIT), queue.connection):
            if job:
                job.origin, job.retries_left = queue.name, len(StrictJob.attempt_pauses_s)
                registry.requeue(job)
                Result.delete_all(job)  # why it was buried; should it be again, RQ says so again
                retried += 1
    return retried


def forget(queues: Queues) -> None:
    """Delete the queues, their registries and the jobs in them: keys of ours, and no others."""
    for queue in queues.values():
        registries = [
            queue.started_job_registry.key,
            queue.scheduled_job_registry.key,
            queue.failed_job_registry.key,
            queue.finished_job_registry.key,
            queue.deferred_job_registry.key,
        ]
        entries: list[Any] = [*queue.connection.lrange(queue.key, 0, -1)]
        for key in registries:
            entries += queue.connection.zrange(key, 0, -1)
        ids = [id for entry in entries if JOB_ID.fullmatch(id := text(entry).partition(":")[0])]
        for at in range(0, len(ids), LIST_LIMIT):
            queue.connection.delete(*(name(id) for id in ids[at : at + LIST_LIMIT] for name in KEYS_OF_A_JOB))
        queue.connection.delete(queue.key, *registries)
        queue.connection.srem(Queue.redis_queues_keys, queue.key)
