"""What the phases with kept timelines share: the read, the rebuild and the backfill. Where they are kept is a store."""

import asyncio
import logging
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Protocol

from bson import ObjectId

from app.access import Entry
from app.clock import FIRST_ID, LAST_ID
from app.edges import Known, Memory, debts, deleted_among, followees, version_in, version_of, without
from app.models import StatusRow
from app.stack import UNAVAILABLE, Stack
from app.stack.mongodb import Find
from phases.authors import IDS, Authors, paced
from phases.p1_query import Home, Query
from phases.reading import SPARE, Asked, AuthorIds, Found, KeptThenQuery, Page, Recent, Slice, fill
from phases.switch import Container, Settings, StoreName

log = logging.getLogger(__name__)


class Store(Protocol):
    """Kept timelines. A reader is cold when nothing is kept for them: `forget` begins that, `rebuild` ends it, unless
    somebody else is at it or nothing can be kept (False).

    `read` answers with the `n` newest entries below `before`, or None for a cold reader; and with what `first` finds,
    looked up no later than the entries. A `stranger` is somebody who may well be cold: then `first` may be left out.
    """

    async def deliver(self, container: Container, status: StatusRow, to: Sequence[ObjectId]) -> None: ...
    async def read(
        self,
        container: Container,
        reader: ObjectId,
        before: ObjectId,
        n: int,
        first: Mapping[str, Find],
        stranger: bool,
    ) -> tuple[Found, Slice | None]: ...
    async def rebuild(self, container: Container, reader: ObjectId, asked: Asked) -> bool: ...
    async def forget(self, container: Container, reader: ObjectId) -> None: ...
    async def merge(self, container: Container, reader: ObjectId, author_ids: AuthorIds) -> None: ...
    async def sweep(self, settings: Settings) -> None: ...


class Keeping(Query):
    """A phase that keeps timelines in a store, and asks as phase 1 does for whatever is not in it."""

    keeps: StoreName
    store: Store

    async def page(self, reader: ObjectId, before: ObjectId | None, limit: int) -> Page:
        settings = await self.switch.current()
        container = self.switch.readable(settings, self.keeps)
        if container is None:
            return await self.ask(reader, before, limit)
        known = self.memory.recall(reader) or Known(reader)
        page = known.page if before is None else {}  # what it is now: another read may replace it
        look = {
            "pending": self.outbox.look(self.switch.phases_of(self.keeps), before or LAST_ID),
            "version": version_of(reader),
            **({"deleted": deleted_among(page)} if page else {}),
            **({} if known.paid else debts(reader)),
        }
        found, kept = await self.store.read(
            container, reader, before or LAST_ID, limit + 1 + SPARE, look, known.version is None
        )
        if not self.switch.still_holds(settings):  # it took so long: kept no more, perhaps
            return await self.ask(reader, before, limit)
        if not found:
            return await self.cold_page(container, known, before, limit)
        version = version_in(found.pop("version"))
        if known.version not in (None, version):
            self.memory.forget(reader)
            return await self.page(reader, before, limit)
        waiting = self.outbox.waiting(found.pop("pending"))
        rows = without(found.pop("deleted"), page) if page else {}
        owed = any(found.values())
        if owed or waiting is None:
            return await self.ask(reader, before, limit)
        known.version, known.paid = version, True
        if kept is None:
            return await self.cold_page(container, known, before, limit)
        return await self._page(container, known, before, limit, kept, waiting, rows)

    async def cold_page(self, container: Container, known: Known, before: ObjectId | None, limit: int) -> Page:
        """The page of a reader for whom nothing is kept, complete at once: asked for as in phase 1, and beside that the
        timeline is rebuilt.
        """
        asked = Return(self.stack, known, self.memory, before or LAST_ID, limit + 1 + SPARE)

        async def answer() -> Page:
            return await self._page(container, known, before, limit, await asked.head, [], {})

        async def rebuild() -> bool:
            try:
                return await self.store.rebuild(container, known.reader, asked)
            except UNAVAILABLE as error:  # somebody's transaction may hold what has to be written
                log.warning("the timeline of %s is left to the next read: %s", known.reader, error)
                return False

        page, rebuilt = await asyncio.gather(answer(), rebuild())
        return replace(page, source="rebuilt" if rebuilt else "query", cold=True)

    async def refresh(self, reader: ObjectId, limit: int) -> Page:
        container = self.switch.readable(await self.switch.current(), self.keeps)
        if container is None:
            return await self.ask(reader, None, limit)
        await self.store.forget(container, reader)
        return await Keeping.cold_page(self, container, Known(reader), None, limit)

    async def _page(
        self,
        container: Container,
        known: Known,
        before: ObjectId | None,
        limit: int,
        first: Slice,
        waiting: list[Entry],
        rows: dict[ObjectId, StatusRow],
    ) -> Page:
        async def more(cursor: ObjectId, n: int) -> Slice | None:
            _, kept = await self.store.read(container, known.reader, cursor, n, {}, False)
            return kept

        candidates = KeptThenQuery(first, more, waiting, Home(self.db, known.reader, self.memory, known.version))
        statuses, after = await fill(self.db, known.reader, candidates, before, limit, known, rows)
        if before is None and known.version is not None:
            used = candidates.given.index(statuses[-1].id) + 2 if after else None  # one says that there are more
            shown = candidates.given[:used]
            if shown != [*known.page]:
                known.page = {id: rows[id] for id in shown if id in rows}
            self.memory.keep(known)
        return Page(self.slug, statuses, after, candidates.source)

    async def widen(self, reader: ObjectId, author: ObjectId) -> None:
        async def author_ids(floor: ObjectId) -> list[Entry]:
            entries = await Authors(self.db, [author]).older_than(LAST_ID, self.config.cap)
            return [entry for entry in entries if entry.id >= floor]

        for container in self.switch.writable(await self.switch.fresh(), self.keeps):
            await self.store.merge(container, reader, author_ids)

    async def sweep(self) -> None:
        await self.store.sweep(await self.switch.fresh())


class Return:
    """A cold reader's look at phase 1. `head`: how their page begins, which shows how far back the rest may reach."""

    def __init__(self, stack: Stack, known: Known, memory: Memory, below: ObjectId, n: int) -> None:
        self.began_s = stack.clock.monotonic()
        self._db, self._reader, self._memory, self._cap = stack.db, known.reader, memory, stack.config.cap
        self._followees = asyncio.create_task(self._look(known))
        self.head = asyncio.create_task(self._begin(below, n))

    async def _look(self, known: Known) -> list[ObjectId]:
        if known.version is not None:
            return await Home(self._db, self._reader, self._memory, known.version).followees()
        return await followees(self._db, self._reader)

    async def followees(self) -> list[ObjectId]:
        return await self._followees

    async def _begin(self, below: ObjectId, n: int) -> Slice:
        entries = await Authors(self._db, [self._reader, *await self._followees]).older_than(below, n)
        return Slice(entries, entries[-1].id if len(entries) == n else FIRST_ID, whole=True)

    async def recent(self, authors: Sequence[ObjectId] | None = None) -> Recent:
        if authors is None:
            whose = await Home(self._db, self._reader, self._memory).authors()
        else:
            whose = Authors(self._db, [self._reader, *authors], IDS)
        reach = paced([entry.id for entry in (await self.head).entries], self._cap)
        rows = await whose.packed(LAST_ID, self._cap, reach)
        return Recent(rows, ObjectId(rows[-1][:12]) if len(rows) == self._cap else FIRST_ID)
