"""Phase 2: deliver instead of asking."""

import asyncio

from bson import ObjectId

from app.edges import Memory
from app.models import StatusRow
from app.stack import Stack
from app.stack.mongodb import Find, rows
from phases.base import Resume, beginning
from phases.entries import Entries
from phases.kept import Keeping, Store
from phases.outbox import Outbox
from phases.switch import Settings, StoreName, Switch


class Push(Keeping):
    """On posting, the status id is put on the home timeline of every follower, and the poster waits for it.
    A read became two look-ups by key, the reader's list and the statuses by id, however many people they follow.
    A post now costs one insert per follower: a celebrity's takes as long as they have followers, read or not.
    """

    slug, title = "push", "Deliver to every follower"
    poster_waits, reader_waits, kept = "the whole fan-out", "their list, then the statuses by id", "entries in MongoDB"
    keeps: StoreName = "entries"

    def __init__(self, stack: Stack, switch: Switch, outbox: Outbox, memory: Memory) -> None:
        super().__init__(stack, switch, outbox, memory)
        self.store: Store = Entries(stack)
        self.chunk = stack.config.inline_chunk

    async def deliver(self, status: StatusRow) -> None:
        resume = await self.fan_out(status, None)
        while resume:
            resume = await self.fan_out(status, resume)
        await self.outbox.delivered(self.slug, status.id)

    async def fan_out(
        self, status: StatusRow, resume: Resume | None, settings: Settings | None = None
    ) -> Resume | None:
        read = self.switch.fresh() if settings is None else asyncio.sleep(0, settings)
        current, (readers, rest) = await asyncio.gather(read, self.recipients(status, resume))
        own = [] if resume else [status.user_id]
        for container in self.switch.writable(current, self.keeps):
            await self.store.deliver(container, status, own + readers)
        return rest

    async def recipients(self, status: StatusRow, resume: Resume | None) -> tuple[list[ObjectId], Resume | None]:
        """The next chunk, by id: for a circle's status the circle, else all followers. (The read decides.)"""
        collection, author, reader = ("follows", "followee", "follower")
        if status.audience == "circle":
            collection, author, reader = ("circles", "owner", "member")
        query = {author: status.user_id, reader: {"$gt": beginning(resume)}}
        edges = await rows(
            self.db, Find(collection, query, (reader,), self.chunk + 1, [(reader, 1)], f"{author}_1_{reader}_1")
        )
        readers = [edge[reader] for edge in edges[: self.chunk]]
        return readers, [str(readers[-1])] if len(edges) > self.chunk else None
