"""Phase 4: deliver only to those who are there."""

from dataclasses import replace

from bson import ObjectId

from app.edges import Known, Memory
from app.models import StatusRow
from app.stack import Stack
from app.stack.mongodb import Find, rows
from phases.activity import ACTIVE, Activity
from phases.base import Resume, beginning
from phases.kept import Store
from phases.lists import Lists
from phases.outbox import Outbox
from phases.p3_queue import Queue
from phases.reading import Page
from phases.switch import Container, StoreName, Switch


class Cache(Queue):
    """Timelines are lists in Memcached that expire; the worker serves active followers, whoever returns is rebuilt.
    A delivery became a prepend in memory, a follower who is away costs nothing, and nothing piles up for them.
    It now costs a Memcached, and for every returning reader one phase 1 query and one write that has them served again.
    """

    slug, title = "cache", "Keep the active in memory"
    reader_waits, kept = "Memcached, then the statuses by id", "lists in Memcached, for active readers only"
    keeps: StoreName = "lists"

    def __init__(self, stack: Stack, switch: Switch, outbox: Outbox, memory: Memory) -> None:
        super().__init__(stack, switch, outbox, memory)
        self.activity = Activity(stack)
        self.store: Store = Lists(stack, self.activity)
        self.chunk = stack.config.list_chunk

    async def recipients(self, status: StatusRow, resume: Resume | None) -> tuple[list[ObjectId], Resume | None]:
        """The next chunk of active followers, by id: away ones are not even looked at."""
        if status.audience == "circle":
            return await super().recipients(status, resume)
        query = {"authors": status.user_id, "_id": {"$gt": beginning(resume)}, "until": {"$gte": self.clock.now()}}
        found = await rows(self.db, Find(ACTIVE, query, ("_id",), self.chunk + 1, [("_id", 1)], "recipients"))
        readers = [row["_id"] for row in found[: self.chunk]]
        return readers, [str(readers[-1])] if len(found) > self.chunk else None

    async def cold_page(self, container: Container, known: Known, before: ObjectId | None, limit: int) -> Page:
        if self.config.comeback == "auto":
            return await super().cold_page(container, known, before, limit)
        return replace(await self.ask(known.reader, before, limit), cold=True)

    async def widen(self, reader: ObjectId, author: ObjectId) -> None:
        await self.activity.add(reader, author)
        await super().widen(reader, author)

    async def sweep(self) -> None:
        await super().sweep()
        await self.activity.sweep()
