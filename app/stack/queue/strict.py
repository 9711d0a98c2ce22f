"""RQ's jobs and queues for a Redis that others may write to. A job is made anew from a few bounded fields, or refused.

RQ itself does what Redis says: it imports and calls any function that a job names, also as a callback, posts to its
webhooks, repeats it and queues its dependents. Here a job says which of our functions, with which ids, and no more.
"""

import json
import logging
import re
import zlib
from collections.abc import Iterable, Mapping, Sequence
from datetime import datetime
from functools import cache
from typing import Any, ClassVar

import redis
from rq import Queue
from rq.exceptions import NoSuchJobError
from rq.executions import Execution, ExecutionRegistry
from rq.job import Job, JobStatus
from rq.registry import BaseRegistry, FailedJobRegistry, ScheduledJobRegistry, StartedJobRegistry
from rq.serializers import JSONSerializer
from rq.utils import str_to_date

log = logging.getLogger(__name__)

FAN_OUT, NOTHING = "workers.jobs.fan_out", "workers.jobs.nothing"
FUNCTIONS: Mapping[str, int] = {FAN_OUT: 3, NOTHING: 0}  # all that a worker runs, and with how many arguments

JOB_TIMEOUT_S = 20  # one chunk; a started job that is older is taken for abandoned
DEAD_LETTER_TTL_S = 30 * 86_400

FIELDS = ("data", "origin", "status", "enqueued_at", "number_of_retries", "retries_left")
FIELD_BYTES = 1_000  # ours are shorter; a longer one is as good as none
JOB_ID = re.compile(r"[A-Za-z0-9_-]{1,200}")

# Not HGETALL: whatever else is there, and however much of it, stays in Redis.
READ = """
local found = {}
for i = 2, #ARGV do
    found[i - 1] = redis.call('HSTRLEN', KEYS[1], ARGV[i]) <= tonumber(ARGV[1]) and redis.call('HGET', KEYS[1], ARGV[i])
end
return found
"""


@cache
def refuse(why: str) -> None:
    """Log why a job is dropped, once for each reason in a process: whoever writes to Redis shall not fill our log."""
    log.warning("a job is dropped, and so will be others like it: %s", why)


class _Executions(ExecutionRegistry):
    """What workers have begun of one job. What a killed one had begun expires a minute before this registry says so:
    RQ's own method, which looks each up, would raise, and the job that another worker has done would have failed.
    """

    def get_executions(self, start: int = 0, end: int = -1) -> list[Execution]:
        return [Execution(id, self.job_id, self.connection) for id in self.get_execution_ids(start, end)]


class StrictJob(Job):
    """A job of which Redis says only the function, its arguments and how often it was tried. The rest is set here."""

    attempt_pauses_s: ClassVar[Sequence[int]] = (1, 2, 5, 15, 30)  # then it is a dead letter

    @property
    def execution_registry(self) -> ExecutionRegistry:
        return _Executions(job_id=self.id, connection=self.connection)

    @classmethod
    def fetch(cls, id: str, connection: Any = None, serializer: Any = None) -> "StrictJob":
        """Return the job of an id. Raises NoSuchJobError, also for one that is refused."""
        job_id = id.partition(":")[0]
        if not JOB_ID.fullmatch(job_id):
            refuse("its id is none")
            raise NoSuchJobError(repr(job_id[:100]))
        job = cls(job_id, connection=connection, serializer=JSONSerializer)
        job.refresh()
        return job

    @classmethod
    def fetch_many(  # type: ignore[override]
        cls, job_ids: Iterable[str], connection: Any, serializer: Any = None
    ) -> list["StrictJob | None"]:
        return [cls._found(job_id, connection) for job_id in job_ids]

    @classmethod
    def _found(cls, job_id: str, connection: Any) -> "StrictJob | None":
        try:
            return cls.fetch(job_id, connection)
        except NoSuchJobError:
            return None

    def refresh(self) -> None:
        read = self.connection.register_script(READ)
        try:
            values = read(keys=[self.key], args=[FIELD_BYTES, *FIELDS])
        except redis.ResponseError as error:
            if "WRONGTYPE" not in str(error):
                raise
            refuse("what is in its place is no job")
            raise NoSuchJobError(self.key) from error
        self.restore(dict(zip(FIELDS, values, strict=True)))

    def restore(self, raw_data: Mapping[str, bytes | None]) -> None:
        try:
            self._restore({name: value or b"" for name, value in raw_data.items()})
        except (ValueError, TypeError, RecursionError, zlib.error) as error:
            if any(raw_data.values()):
                refuse(str(error) if isinstance(error, NotOurs) else "it cannot be read")
            raise NoSuchJobError(self.key) from error

    def _restore(self, said: Mapping[str, bytes]) -> None:
        self.func_name, self.args = _call(said["data"])
        self.instance, self.kwargs = None, {}
        self.origin = said["origin"].decode()
        self._status = JobStatus(said["status"].decode() or JobStatus.CREATED)
        self.enqueued_at = _date(said["enqueued_at"])
        self.number_of_retries = int(said["number_of_retries"] or 0)
        self.retries_left = min(int(said["retries_left"] or 0), len(self.attempt_pauses_s))
        self.retry_intervals = list(self.attempt_pauses_s)
        self.timeout, self.result_ttl, self.failure_ttl = JOB_TIMEOUT_S, 0, DEAD_LETTER_TTL_S


class NotOurs(ValueError):
    """The job can be read, and is none that we make."""


def _call(data: bytes) -> tuple[str, list[str | None]]:
    """Return function and arguments of a payload of ours. Raises NotOurs."""
    unpacking = zlib.decompressobj()
    function, instance, arguments, named = json.loads(unpacking.decompress(data, FIELD_BYTES))
    if unpacking.unconsumed_tail:
        raise NotOurs("its payload is too large")
    if not isinstance(function, str) or function not in FUNCTIONS:
        raise NotOurs("its function is none of ours")
    if instance is not None or named != {} or not isinstance(arguments, list) or len(arguments) != FUNCTIONS[function]:
        raise NotOurs("our function does not take its arguments")
    if not all(isinstance(argument, str | None) for argument in arguments):
        raise NotOurs("our function does not take its arguments")
    return function, arguments


def _date(said: bytes) -> datetime | None:
    return str_to_date(said) if said else None


class StrictQueue(Queue):
    job_class = StrictJob

    @classmethod
    def lpop(cls, queue_keys: Sequence[str], timeout: int | None, connection: Any = None) -> Any:
        """Take the next job off the queues, past entries that are no job's id."""
        while popped := super().lpop(queue_keys, timeout, connection=connection):
            if JOB_ID.fullmatch(popped[1].decode(errors="replace")):
                return popped
            refuse("its id is none")
        return None

    def enqueue_dependents(self, *_: Any, **__: Any) -> None:
        """Do nothing: our jobs have no dependents."""

    def get_job_ids(self, offset: int = 0, length: int = -1) -> list[str]:
        last = offset + length - 1 if length >= 0 else -1
        return [text(job_id) for job_id in self.connection.lrange(self.key, offset, last)]

    @property
    def started_job_registry(self) -> "StrictStarted":
        return StrictStarted(queue=self, job_class=StrictJob)

    @property
    def scheduled_job_registry(self) -> "StrictScheduled":
        registry: Any = StrictScheduled
        return registry(queue=self, job_class=StrictJob)  # type: ignore[no-any-return]

    @property
    def failed_job_registry(self) -> "StrictFailed":
        return StrictFailed(queue=self, job_class=StrictJob)


class _Registry(BaseRegistry):
    """A registry of RQ that bears any text as an entry."""

    @staticmethod
    def parse_job_id(entry: Any) -> str:
        return text(entry).partition(":")[0]

    def get_queue(self) -> StrictQueue:
        return StrictQueue(self.name, connection=self.connection, serializer=JSONSerializer)


class StrictStarted(_Registry, StartedJobRegistry):
    pass


class StrictScheduled(_Registry, ScheduledJobRegistry):
    pass


class StrictFailed(_Registry, FailedJobRegistry):
    pass


def text(entry: bytes | str) -> str:
    return entry.decode(errors="replace") if isinstance(entry, bytes) else entry
