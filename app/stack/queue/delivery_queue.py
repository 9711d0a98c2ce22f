"""The queues as the rest of the project uses them, from an event loop: RQ blocks, so each call has a thread."""

import asyncio
import logging
import time
from collections import Counter
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from contextvars import copy_context
from functools import partial
from typing import Any

import redis
from bson import ObjectId
from fakeredis import FakeRedis

from app.logs import Outages
from app.stack.breaker import Breaker
from app.stack.queue import jobs, looking

log = logging.getLogger(__name__)

AWAY_S = 2.0  # after a failure nobody waits for Redis again for so long
OFFERING, LOOKING = 8, 2  # threads: who posts never waits behind those who look


class QueueDown(Exception):
    """Redis did not answer, or not as a Redis of ours does."""


async def _in(threads: ThreadPoolExecutor, call: Callable[..., Any], *args: Any) -> Any:
    """Call in one of these threads, as `asyncio.to_thread` does in its own."""
    return await asyncio.get_running_loop().run_in_executor(threads, partial(copy_context().run, call, *args))


class DeliveryQueue:
    """The queues that a database has in one Redis, whose other keys are not touched.

    Methods raise QueueDown when Redis does not answer, or not as one of ours does; `offer` returns False instead.
    """

    def __init__(self, connection: redis.Redis, database: str, now_s: Callable[[], float] = time.monotonic) -> None:
        self.connection, self._breaker, self._outages = connection, Breaker(AWAY_S, now_s), Outages(log)
        self._prefix = f"{database}-"
        self._paused = f"rq:suspended:{database}"  # RQ's own flag stops everybody's workers
        self.queues = jobs.open_queues(connection, self._prefix)
        self._offering = ThreadPoolExecutor(OFFERING, thread_name_prefix="offer")
        self._looking = ThreadPoolExecutor(LOOKING, thread_name_prefix="queue")

    def close(self) -> None:
        self._offering.shutdown(wait=False)
        self._looking.shutdown(wait=False)
        self.connection.close()

    async def _call(self, call: Any, *args: Any) -> Any:
        return await _in(self._looking, self._call_unless_away, call, *args)

    def _call_unless_away(self, call: Any, *args: Any) -> Any:
        """Call, in the thread, unless another call has just found Redis away. Raises QueueDown. Of many calls that wait
        while Redis hangs, only the first ones find that out.
        """
        if not self._breaker.lets_through():
            raise QueueDown("redis did not answer a moment ago")
        try:
            answer = call(*args)
        except redis.RedisError as error:
            self._breaker.failed()
            self._outages.tell(True, f"what happens is queued by the sweeper, later, while Redis is away: {error}")
            raise QueueDown(f"redis: {error}") from error
        except ValueError as error:  # RQ cannot read what somebody has put there
            self._breaker.answered()
            raise QueueDown(f"redis: {error}") from error
        self._breaker.answered()
        self._outages.tell(False, "what happens is queued at once again")
        return answer

    async def offer(self, consumer: str, happened: ObjectId) -> bool:
        """Queue the first step of what a consumer does about a status or an event, once. False when it is there
        already, or when Redis is away.

        Nobody waits for Redis to come back: what could not be queued is still pending, and the sweeper queues it
        (rule 5). A job that has been lost between a queue and a worker is replaced.
        """
        try:
            return await self._queued(consumer, happened, None)
        except QueueDown:
            return False

    async def go_on(self, consumer: str, happened: ObjectId, after: ObjectId) -> None:
        """Queue the step of a fan-out for the recipients above `after`, once. Raises QueueDown: the sweeper, which
        knows of no `after`, would begin with the first recipient (rule 6).
        """
        await self._queued(consumer, happened, after)

    async def _queued(self, consumer: str, happened: ObjectId, after: ObjectId | None) -> bool:
        if self._breaker.is_open:
            raise QueueDown("redis did not answer a moment ago")
        return bool(await _in(self._offering, self._call_unless_away, self._offer, consumer, happened, after))

    async def withdraw(self, consumer: str, statuses: Sequence[ObjectId]) -> None:
        """Take the first steps of these statuses off the queue, except those that a worker has begun.

        Nothing is done while Redis is away: such jobs are harmless.
        """
        with suppress(QueueDown):
            await self._call(jobs.withdraw, self.queues, self._prefix, consumer, statuses)

    def _offer(self, consumer: str, happened: ObjectId, after: ObjectId | None) -> bool:
        return jobs.offer(self.queues, self._prefix, consumer, happened, after)

    async def enqueue_scheduled(self) -> None:
        """Queue the retries whose pause is over."""
        await self._call(jobs.enqueue_scheduled, self.queues)

    async def retry_dead_letters(self) -> int:
        """Queue every dead letter again; return how many there were."""
        return await self._call(jobs.retry_dead_letters, self.queues)  # type: ignore[no-any-return]

    async def known(self) -> set[tuple[str, str]]:
        """Return (consumer, id of a status or an event) of all that some job will do, or that is a dead letter."""
        ids = await self._call(self._job_ids)
        return {self._named(job_id) for job_ids in ids.values() for job_id in job_ids}

    async def depth(self) -> dict[str, int]:
        """Return the number of jobs waiting or scheduled, by consumer."""
        ids = await self._call(self._job_ids)
        return dict(Counter(self._named(job_id)[0] for job_id in ids["queued"] + ids["scheduled"]))

    async def dead(self) -> dict[str, list[str]]:
        """Return of each dead letter what it was about, a status or an event, by consumer."""
        dead = dict[str, list[str]]()
        for job_id in await self._call(looking.dead_letters, self.queues):
            consumer, id = self._named(job_id)
            dead.setdefault(consumer, []).append(id)
        return dead

    def _named(self, job_id: str) -> tuple[str, str]:
        """Return the consumer of a job, and the id of what it is about, by the job's id."""
        consumer, _, rest = job_id.removeprefix(self._prefix).partition("-")
        return consumer, rest.partition("-")[0]

    async def first_waiting(self, limit: int) -> list[str]:
        """Return the ids of the jobs that have waited longest for a first step."""
        return await self._call(self.queues[jobs.FIRST].get_job_ids, 0, limit)  # type: ignore[no-any-return]

    async def deliveries(self, *, failed: bool, limit: int) -> list[looking.JobSeen]:
        """Return what is under way, or the dead letters, at most `limit`."""
        states = ("failed",) if failed else ("started", "queued", "scheduled")
        ids = await self._call(self._job_ids)
        return await self._call(looking.deliveries, self.connection, ids, states, limit)  # type: ignore[no-any-return]

    def _job_ids(self) -> dict[str, list[str]]:
        return looking.job_ids(self.queues)

    async def workers(self) -> list[looking.WorkerState]:
        """Return the workers that take jobs, the longest at work first."""
        return await self._call(looking.workers, self.queues[jobs.FIRST])  # type: ignore[no-any-return]

    async def ping(self) -> str:
        """Return the version of the server."""
        return str(await self._call(self._version))

    def _version(self) -> str:
        if isinstance(self.connection, FakeRedis):
            return "stand-in"
        return str(self.connection.info("server")["redis_version"])

    async def pause(self) -> None:
        """Let every worker finish the job at hand and take no further one, until `resume`."""
        await self._call(self.connection.set, self._paused, 1)

    async def resume(self) -> None:
        await self._call(self.connection.delete, self._paused)

    async def paused(self) -> bool:
        return await self._call(self.is_paused)  # type: ignore[no-any-return]

    def is_paused(self) -> bool:
        """Return whether workers are paused. It blocks, unlike `paused`."""
        return bool(self.connection.exists(self._paused))

    async def forget(self) -> None:
        """Drop every job of ours. The sweeper queues what is pending again."""
        await self._call(jobs.forget, self.queues)
