"""Phase 1: ask the database on every read."""

from bson import ObjectId

from app.access import Entry
from app.edges import Known, Memory, followees_of, version_in, version_of
from app.models import StatusRow
from app.stack import Database
from app.stack.mongodb import rows, together
from phases.authors import Authors
from phases.base import Phase, Resume
from phases.reading import Page, fill
from phases.switch import Settings


class Home:
    """The statuses of everybody the reader follows, and their own.

    `version` of the reader's edges, where it has just been looked up.
    """

    def __init__(self, db: Database, reader: ObjectId, memory: Memory, version: int | None = None) -> None:
        self._db, self._reader, self._memory, self._version = db, reader, memory, version
        self._authors: Authors | None = None

    async def older_than(self, cursor: ObjectId, n: int) -> list[Entry]:
        return await (await self.authors()).older_than(cursor, n)

    async def authors(self) -> Authors:
        if self._authors is None:
            self._authors = Authors(self._db, [self._reader, *await self.followees()])
        return self._authors

    async def followees(self) -> list[ObjectId]:
        """Remembered, as long as the reader's edges have not changed."""
        version = version_of(self._reader)
        if (known := self._memory.recall(self._reader)) and known.followees is not None:
            if known.version == self._version:
                return known.followees
            if known.version == version_in(await rows(self._db, version)):
                return known.followees
        found = await together(self._db, version=version, edges=followees_of(self._reader))
        now = version_in(found["version"])
        known = self._memory.recall(self._reader, now) or Known(self._reader, now)
        known.followees = [edge["followee"] for edge in found["edges"]]
        self._memory.keep(known)
        return known.followees


class Query(Phase):
    """A post is one insert and nothing else happens; a read asks `{user_id: {$in: followees}}`.
    Posting is as cheap as it gets, and nothing is kept that could be wrong.
    Every read repeats the work: one command for the followees and one per 200 of them, however little is new.
    """

    slug, title = "query", "Ask on every read"
    poster_waits, reader_waits, kept = "one insert", "the query", "nothing"

    async def deliver(self, status: StatusRow) -> None:
        pass

    async def fan_out(
        self, status: StatusRow, resume: Resume | None, settings: Settings | None = None
    ) -> Resume | None:
        return None

    async def page(self, reader: ObjectId, before: ObjectId | None, limit: int) -> Page:
        return await self.ask(reader, before, limit)

    async def ask(self, reader: ObjectId, before: ObjectId | None, limit: int) -> Page:
        """The definition, evaluated. Every other phase falls back on it."""
        return Page(self.slug, *await fill(self.db, reader, Home(self.db, reader, self.memory), before, limit), "query")

    async def refresh(self, reader: ObjectId, limit: int) -> Page:
        return await self.ask(reader, None, limit)

    async def widen(self, reader: ObjectId, author: ObjectId) -> None:
        pass

    async def sweep(self) -> None:
        pass
