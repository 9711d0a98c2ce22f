"""The tailing of the change stream: one process for all holds a lease in MongoDB and carries on what was posted.

The lease is a document that its owner changes every second. A process that sees it unchanged for long enough, by its
own clock, takes it over and raises its fence; what an earlier owner wants to note afterwards is refused. What that
owner still delivers is delivered twice, which does no harm.
"""

import asyncio
import logging
import os
import socket
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from typing import Any

from pymongo.errors import DuplicateKeyError, PyMongoError

from app.clock import FIRST_ID
from app.models import SETTINGS, StatusRow
from app.stack import QueueDown, Stack, outages_told
from app.stack.mongodb.changes import AWAIT_MS, HistoryLost, Inserted, inserts
from app.stack.mongodb.find import Find, rows
from app.stack.mongodb.stand_in import is_stand_in
from app.watch.background import errors_counted
from phases.delivering.outbox import GoesOn
from phases.p5_stream import tail
from phases.timelines import PhaseConsumer, Timelines

log = logging.getLogger(__name__)

EVERY_S = 1.0  # between two renewals of the lease, two looks at it, and on stand-ins two looks for what is pending
LEASE_S = 4.0  # a lease that has not changed for so long is nobody's
OLD_S = 60.0  # the log is not read on from an older place: it is quicker to look for what is pending
LATE_S = 10.0  # what the stream tells later than this may have been delivered meanwhile: it is looked up again
SILENT_S = 15.0  # a stream that has not moved for so long hears nothing: the lease alone moves it every second

DOCUMENT = "stream"  # of the settings


async def to_the_end() -> bool:
    return True


class LeaseLost(Exception):
    """Another process follows the stream."""


@dataclass(frozen=True)
class StreamState:
    """The state of the change stream, as its tailer has noted it.

    `silent_s`: seconds since the stream last moved on. `lag_s`: seconds from the insert to the delivery of the last
    status.
    """

    owner: str | None
    silent_s: float
    lag_s: float | None

    @property
    def is_silent(self) -> bool:
        return self.silent_s > SILENT_S


async def stream_state(timelines: Timelines) -> StreamState | None:
    """Return the state that a majority has; None where no phase needs the stream now, or nobody ever followed it."""
    if not await _is_followed(timelines):
        return None
    stack = timelines.stack
    find = Find(SETTINGS, {"_id": DOCUMENT}, ("owner", "moved_at", "lag_s"), 1)
    for found in await rows(stack.db, find):
        silent_s = (stack.clock.now() - found["moved_at"]).total_seconds()
        return StreamState(found.get("owner"), silent_s, found.get("lag_s"))
    return None


async def _is_followed(timelines: Timelines) -> bool:
    """Return whether a status may be pending for a phase that lives by the stream, and workers are not paused."""
    settings = await timelines.switch.current()
    delivering = settings.delivering_at(timelines.stack.clock.now())
    if not any(consumer.name in delivering for consumer in timelines.streamed):
        return False
    try:
        return not await timelines.stack.queue.paused()
    except QueueDown:
        return True


class StreamLease:
    """One process's view of the lease. `place`: how far the stream has been carried on; None where that is unknown."""

    def __init__(self, stack: Stack, owner: str) -> None:
        self._documents, self._clock, self._owner = stack.db[SETTINGS], stack.clock, owner
        self._seen: tuple[int, int] | None = None
        self._seen_at_s = 0.0
        self.fence = 0
        self.place: Mapping[str, Any] | None = None

    async def take(self) -> bool:
        """Try to take the lease; return whether this process has it now.

        To be called every second: only a second look can tell that the owner changes nothing any more.
        """
        found = await self._documents.find_one({"_id": DOCUMENT}) or await self._first()
        seen, now_s = (found["fence"], found["beat"]), self._clock.monotonic()
        if seen != self._seen:
            self._seen, self._seen_at_s = seen, now_s
        if found["owner"] and now_s - self._seen_at_s <= LEASE_S:
            return False
        now = self._clock.now()
        change = {"owner": self._owner, "idle": False, **({"moved_at": now} if found["idle"] else {})}
        same = {"_id": DOCUMENT, "fence": found["fence"], "beat": found["beat"]}
        taken = await self._documents.update_one(same, {"$set": change, "$inc": {"fence": 1, "beat": 1}})
        if not taken.matched_count:
            return False
        is_old = (now - found["moved_at"]).total_seconds() > OLD_S
        self.fence, self.place = found["fence"] + 1, None if is_old else found.get("place")
        return True

    async def _first(self) -> dict[str, Any]:
        blank = {"_id": DOCUMENT, "owner": None, "idle": True, "fence": 0, "beat": 0, "moved_at": self._clock.now()}
        with suppress(DuplicateKeyError):
            await self._documents.insert_one(dict(blank))
        return blank

    async def renew(
        self,
        place: Mapping[str, Any] | None,
        lag_s: float | None = None,
        *,
        moved: bool = False,
    ) -> None:
        """Note how far everything is delivered, or that something has been delivered.

        Raises LeaseLost where another process has taken over.
        """
        change: dict[str, Any] = {"place": place}
        if moved or place != self.place:
            change["moved_at"] = self._clock.now()
        if lag_s is not None:
            change["lag_s"] = lag_s
        await self._write(change)
        self.place = place

    async def release(self, *, idle: bool) -> None:
        """Give the lease up, so that the next process need not wait for its end.

        `idle`: the stream may be silent without a fault until a phase needs it again.
        """
        with suppress(LeaseLost):
            await self._write({"owner": None, "idle": idle})

    async def _write(self, change: Mapping[str, Any]) -> None:
        mine = {"_id": DOCUMENT, "fence": self.fence}
        if not (await self._documents.update_one(mine, {"$set": change, "$inc": {"beat": 1}})).matched_count:
            raise LeaseLost(f"the lease {self.fence} of the change stream has been taken over")


class Tailer:
    """The tailing of the change stream in one process. `forever` ends about a second after `stopping` is set."""

    def __init__(self, timelines: Timelines) -> None:
        self._timelines, self._stack = timelines, timelines.stack
        self._lease = StreamLease(timelines.stack, f"{socket.gethostname()}:{os.getpid()}")
        self._place: Mapping[str, Any] | None = None
        self._lag_s: float | None = None
        self._moved = False
        self.stopping = asyncio.Event()

    async def forever(self) -> None:
        while not self.stopping.is_set():
            words = "the change stream is left to whoever comes next"
            with errors_counted("stream", words), outages_told(log.warning, words):
                try:
                    await self._turn()
                except (PyMongoError, LeaseLost) as error:
                    log.warning("%s: %s", words, error)
            with suppress(TimeoutError):
                await asyncio.wait_for(self.stopping.wait(), EVERY_S)

    async def _turn(self) -> None:
        if is_stand_in(self._stack.db):
            await self.poll()
        elif await _is_followed(self._timelines) and await self._lease.take():
            try:
                await self._follow()
            finally:
                await self._lease.release(idle=not await _is_followed(self._timelines))

    async def _follow(self) -> None:
        self._place = self._lease.place
        renewing = asyncio.create_task(self._renew())
        try:
            while await self._ours(renewing):
                try:
                    await self._carry_on(renewing)
                except HistoryLost as error:
                    log.warning("what was posted meanwhile is looked for: %s", error)
                    self._place = None
        finally:
            if not renewing.done():
                renewing.cancel()
            with suppress(asyncio.CancelledError):
                await renewing

    async def _ours(self, renewing: "asyncio.Task[None]") -> bool:
        return not self.stopping.is_set() and not renewing.done() and await _is_followed(self._timelines)

    async def _carry_on(self, renewing: "asyncio.Task[None]") -> None:
        """Open the stream, then look for what is pending: in this order nothing falls between. The renewal between them
        waits for a majority, which then has whatever was there when the stream began.
        """
        names = [consumer.name for consumer in self._timelines.streamed]
        async with inserts(self._stack.db, "statuses", {"pending": {"$in": names}}, self._place) as changes:
            if self._place is None:
                await self._lease.renew(None, moved=True)
                if not await self.reconcile(partial(self._ours, renewing)):
                    return  # the place stays unknown

            async def while_ours() -> AsyncIterator[Inserted]:
                still_s = 0.0
                async for inserted in changes:
                    still_s = still_s + AWAIT_MS / 1000 if inserted.place == self._place else 0
                    yield inserted
                    if not await self._ours(renewing):
                        return
                    if still_s > SILENT_S:  # whoever answers may have been the primary once, and hear nothing any more
                        log.warning("the change stream does not move, and is opened anew")
                        return

            await tail(while_ours(), self._deliver, self._save)

    async def _deliver(self, inserted: Inserted) -> None:
        for consumer in self._timelines.streamed:
            theirs = [document for document in inserted.documents if consumer.name in document["pending"]]
            statuses = [StatusRow.of(document) for document in theirs]
            if inserted.at and (self._stack.clock.now() - inserted.at).total_seconds() > LATE_S:
                statuses = await consumer.delivery.pending({"$in": [status.id for status in statuses]})
            await self._carry(consumer, statuses)

    async def _save(self, inserted: Inserted) -> None:
        """Remember how far everything is delivered; the next renewal of the lease writes it."""
        self._place = inserted.place
        if inserted.at:
            self._lag_s = (self._stack.clock.now() - inserted.at).total_seconds()

    async def _renew(self) -> None:
        while True:
            moved, self._moved = self._moved, False
            await self._lease.renew(self._place, self._lag_s, moved=moved)
            await asyncio.sleep(EVERY_S)

    async def poll(self) -> None:
        """Carry on what is pending once, where there is no change stream."""
        if await _is_followed(self._timelines):
            await self.reconcile()

    async def reconcile(self, goes_on: GoesOn = to_the_end) -> bool:
        """Carry on everything that is pending, oldest first, while `goes_on` says so.
        Return whether that came to its end.
        """
        for consumer in self._timelines.streamed:
            above = FIRST_ID
            while statuses := await consumer.delivery.pending({"$gt": above}):
                await self._carry(consumer, statuses)
                above, self._moved = statuses[-1].id, True
                if not await goes_on():
                    return False
        return True

    async def _carry(self, consumer: PhaseConsumer, statuses: Sequence[StatusRow]) -> None:
        """Deliver these statuses.

        Each that cannot be delivered now gets a job of its own, with its own retries and dead letter.
        """
        if not statuses:
            return
        for status, error in (await consumer.inserted(statuses)).items():
            log.warning("delivery of %s in %s is left to a job of its own: %r", status, consumer.name, error)
            await self._stack.queue.offer(consumer.name, status)
