"""The delivery of one phase, on one stack: what its walk over the recipients is made of."""

import asyncio
from dataclasses import dataclass

from bson import ObjectId

from app.access import statuses_by_id
from app.models import StatusRow
from app.stack import DeliveryQueue
from phases.delivering.kept import Kept
from phases.delivering.outbox import Outbox
from phases.delivering.settings import Settings


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

    async def find(self, id: ObjectId) -> tuple[Settings, StatusRow | None]:
        """A status that was not deleted, and settings read at that moment."""
        settings, answers = await self.kept.switch.fresh_with(statuses=statuses_by_id([id]))
        rows = [StatusRow.of(document) for document in answers["statuses"]]
        return settings, next((row for row in rows if row.audience), None)

    async def done(self, status: ObjectId) -> None:
        """The last recipient has it."""
        await self.outbox.done(self.name, [status])
