"""Phase 4: deliver only to those who are there."""

from dataclasses import replace
from typing import Any

from bson import ObjectId
from bson.datetime_ms import DatetimeMS

from app.edges import Memory
from app.models import StatusRow
from app.stack import Stack
from app.stack.mongodb import Find, together
from phases.activity import Activity
from phases.base import Resume
from phases.kept import Store
from phases.lists import Lists
from phases.outbox import Outbox
from phases.p3_queue import Queue
from phases.reading import Page
from phases.switch import Container, StoreName, Switch


class Cache(Queue):
    """Timelines are lists in Memcached that expire; the worker serves active followers, whoever returns is rebuilt.
    A delivery became a prepend in memory, a follower who is away costs nothing, and nothing piles up for them.
    It now costs a Memcached, one phase 1 query per returning reader, and marking that reader's edges as active.
    """

    slug, title = "cache", "Keep the active in memory"
    reader_waits, kept = "Memcached, then the statuses by id", "lists in Memcached, for active readers only"
    keeps: StoreName = "lists"

    def __init__(self, stack: Stack, switch: Switch, outbox: Outbox, memory: Memory) -> None:
        super().__init__(stack, switch, outbox, memory)
        self.store: Store = Lists(stack, Activity(stack).mark)
        self.chunk = stack.config.list_chunk

    async def recipients(self, status: StatusRow, resume: Resume | None) -> tuple[list[ObjectId], Resume | None]:
        """The next chunk of active followers, by the end of their activity: away ones are not even looked at."""
        if status.audience == "circle":
            return await super().recipients(status, resume)
        active: dict[str, Any] = {"followee": status.user_id, "active_until": {"$gte": self.clock.now()}}
        fields = ("active_until", "follower")
        start: list[tuple[str, Any]] = []
        if resume:
            until, follower = DatetimeMS(int(resume[0])), ObjectId(resume[1])
            active, start = {}, [("followee", status.user_id), ("active_until", until), ("follower", follower)]
        order, index = [(name, 1) for name in fields], "followee_1_active_until_1_follower_1"
        find = Find("follows", active, fields, self.chunk + 1, order, index, start, dates_in_ms=True)
        [edges] = await together(self.db, find)
        readers = [edge["follower"] for edge in edges[: self.chunk]]
        if len(edges) <= self.chunk:
            return readers, None
        next_one = edges[-1]
        return readers, [str(int(next_one["active_until"])), str(next_one["follower"])]

    async def cold_page(self, container: Container, reader: ObjectId, before: ObjectId | None, limit: int) -> Page:
        if self.config.comeback == "auto":
            return await super().cold_page(container, reader, before, limit)
        return replace(await self.ask(reader, before, limit), cold=True)
