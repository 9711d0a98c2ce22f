"""The delivery of one phase, on one stack: what its walk over the recipients is made of."""

import asyncio
from collections.abc import Coroutine, Mapping
from dataclasses import dataclass, field
from typing import Any

from bson import ObjectId

from app.access import FIELDS, statuses_by_id
from app.models import StatusRow
from app.stack import DeliveryQueue
from app.stack.cost import uncounted
from app.stack.mongodb.find import Find, rows
from phases.delivering.kept import Kept
from phases.delivering.outbox import Failures, Outbox
from phases.delivering.settings import Settings

TOGETHER = 50  # statuses whose first step is made in one job
PATIENCE_S = 2.0  # so long a job waits for the steps of other statuses than its own


@dataclass
class Walked:
    """What came of some steps: where those with further recipients go on, which are at their end, which failed."""

    further: dict[ObjectId, ObjectId] = field(default_factory=dict)
    ended: list[ObjectId] = field(default_factory=list)
    failed: Failures = field(default_factory=dict)

    async def side_by_side(
        self, own: ObjectId, steps: Mapping[ObjectId, Coroutine[Any, Any, ObjectId | None]]
    ) -> ObjectId | None:
        """Make all of them at once, and wait for one's own: where that goes on. The others have PATIENCE_S and fail by
        themselves.
        """
        self.further.pop(own, None)
        tasks = {id: asyncio.create_task(step) for id, step in steps.items()}
        if not tasks:
            return None
        try:
            await asyncio.wait(tasks.values(), timeout=PATIENCE_S)
            if own in tasks:
                await asyncio.wait([tasks[own]])
        finally:
            for task in tasks.values():
                task.cancel()
        for id, end in zip(tasks, await asyncio.gather(*tasks.values(), return_exceptions=True), strict=True):
            if isinstance(end, BaseException):
                self.failed[id] = end
            elif end:
                self.further[id] = end
            else:
                self.ended.append(id)
        return self.further.get(own)


@dataclass(frozen=True)
class Delivery:
    """`chunk`: how many recipients one step serves."""

    name: str
    chunk: int
    kept: Kept
    outbox: Outbox
    queue: DeliveryQueue

    async def recipients(
        self, status: StatusRow, after: ObjectId, settings: Settings | None = None
    ) -> tuple[Settings, list[ObjectId], bool]:
        """The next recipients above `after`, by id, and whether there are more; with settings read no earlier than the
        status was stored.
        """
        some = self.kept.recipients.after(status, after, self.chunk + 1)
        now, ids = (settings, await some) if settings else await asyncio.gather(self.kept.switch.fresh(), some)
        return now, ids[: self.chunk], len(ids) > self.chunk

    async def put(self, status: StatusRow, readers: list[ObjectId], settings: Settings) -> None:
        """The status's id on the timelines of these readers, wherever such timelines are kept."""
        for container in self.kept.switch.writable(settings, self.kept.name):
            await self.kept.store.deliver(container, status, readers)

    async def due(self, id: ObjectId, after: ObjectId | None) -> tuple[Settings, list[StatusRow]]:
        """The status whose step is due and, with a first step, some that are pending behind it; with settings read at
        that moment. RQ takes longer over a job than the walk over ordinary followers does.
        """
        behind = {"pending": self.name, "_id": {"$gte": id}}
        find = statuses_by_id([id]) if after else Find("statuses", behind, FIELDS, TOGETHER, [("_id", 1)])
        settings, answers = await self.kept.switch.fresh_with(statuses=find)
        return settings, [StatusRow.of(document) for document in answers["statuses"]]

    async def owed(self, above: ObjectId) -> list[StatusRow]:
        """What is pending above this id, oldest first: as much as is done together."""
        pending = {"pending": self.name, "_id": {"$gt": above}}
        find = Find("statuses", pending, FIELDS, TOGETHER, [("_id", 1)])
        with uncounted():  # whoever follows the stream is told
            return [StatusRow.of(document) for document in await rows(self.kept.recipients.db, find)]

    async def done(self, *statuses: ObjectId) -> None:
        """The last recipient has them."""
        if statuses:
            await self.outbox.done(self.name, statuses)
