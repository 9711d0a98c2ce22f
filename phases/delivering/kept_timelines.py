"""The timelines that one stack keeps for phases with the same store and recipients."""

from dataclasses import dataclass

from bson import ObjectId

from app.access import Entry
from app.clock import LAST_ID
from phases.delivering.switch import Switch
from phases.home.newest import Newest, Query
from phases.keeping.recipients import Recipients
from phases.keeping.store import Store


@dataclass(frozen=True)
class KeptTimelines:
    """The timelines that phases with the same store and recipients keep, in the containers that the switch opens.
    `query`: the statuses of some authors.
    """

    name: str
    store: Store
    recipients: Recipients
    switch: Switch
    query: Query

    async def backfill(self, reader: ObjectId, author: ObjectId) -> None:
        """Merge the author's recent ids into the reader's timeline (rule 4)."""

        async def author_ids(floor: ObjectId) -> list[Entry]:
            entries = await Newest(self.store.db, self.query, [author]).older_than(LAST_ID, self.store.config.cap)
            return [entry for entry in entries if entry.id >= floor]

        for container in self.switch.writable(await self.switch.fresh(), self.name):
            await self.store.merge(container, reader, author_ids)

    async def forget(self, reader: ObjectId) -> None:
        """Forget what is kept for this reader, as after an eviction."""
        if container := (await self.switch.fresh()).current(self.name):
            await self.store.forget(container, reader)

    async def holds(self, reader: ObjectId, status: ObjectId) -> bool | None:
        """Return whether the status is kept for the reader; None where nothing is kept for them."""
        container = (await self.switch.current()).current(self.name)
        return await self.store.holds(container, reader, status) if container else None

    async def sweep(self) -> None:
        await self.store.sweep((await self.switch.fresh()).current(self.name), self.switch.over)
