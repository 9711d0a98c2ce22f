"""The read of every phase: look -> list -> hydrate -> `visible` -> refill -> older."""

import asyncio
import logging
from collections.abc import Mapping
from dataclasses import dataclass, replace

from bson import ObjectId

from app.access import Entry
from app.clock import LAST_ID
from app.edges import EdgeMemory, Following, OwnEdges, version_in, version_of
from app.models import StatusRow
from app.stack import UNAVAILABLE, Stack
from app.stack.mongodb.find import Find, Rows, together
from phases.base import Phase
from phases.comeback import Comeback
from phases.delivering.kept import Kept
from phases.delivering.outbox import Outbox
from phases.delivering.switch import Switch
from phases.home.candidates import Candidates, KeptThenQuery, Slice
from phases.home.memory import FirstPages, Statuses, deleted_among, without
from phases.home.page import Filling, Page, enough
from phases.keeping.store import Container
from phases.p1_query import HomeTimeline

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Look:
    """What a read has to know before it believes what is kept, all of one moment.

    `waiting`: what is pending, or None where that is too much to look through. `rows`: of the page that is remembered.
    """

    version: int
    waiting: list[Entry] | None
    backfill_owed: bool
    rows: dict[ObjectId, StatusRow]


class Reading:
    """Makes pages. One per process: it remembers edges and first pages of the readers who came last."""

    def __init__(self, stack: Stack, switch: Switch, outbox: Outbox) -> None:
        self._stack, self._db, self._config = stack, stack.db, stack.config
        self._switch, self._outbox = switch, outbox
        self._edges, self._pages = EdgeMemory(), FirstPages()

    async def page(
        self, phase: Phase, kept: Kept | None, reader: ObjectId, before: ObjectId | None, limit: int
    ) -> Page:
        settings = await self._switch.current()
        container = self._switch.readable(settings, kept.name) if kept else None
        if kept is None or container is None:
            return await self._asked(phase, reader, before, limit)
        edges = self._edges.recall(reader)
        if edges is None and await kept.store.gone(container, reader):
            return await self._comeback(phase, kept, container, OwnEdges(reader), before, limit)
        edges = edges or OwnEdges(reader)
        seen = self._pages.recall(reader) if before is None else {}
        n = enough(limit)
        answers = await together(
            self._db,
            **self._look(kept, edges, seen, before),
            **kept.store.look(container, reader, before or LAST_ID, n),
        )
        part = await kept.store.read(container, reader, before or LAST_ID, n, answers)
        look = self._looked(answers, seen)
        if edges.version not in (None, look.version):  # what was remembered is over: begin again without it
            self._edges.forget(reader)
            return await self.page(phase, kept, reader, before, limit)
        if not self._switch.still_holds(settings):  # it took so long: kept no more, perhaps
            return await self._asked(phase, reader, before, limit)
        if look.backfill_owed or look.waiting is None:
            return await self._asked(phase, reader, before, limit)
        edges.version, edges.settled = look.version, True
        if part is None:
            return await self._comeback(phase, kept, container, edges, before, limit)
        return await self._listed(phase, kept, container, edges, before, limit, part, look)

    async def refresh(self, phase: Phase, kept: Kept | None, reader: ObjectId, limit: int) -> Page:
        """The first page, after rebuilding what is kept for this reader."""
        container = self._switch.readable(await self._switch.current(), kept.name) if kept else None
        if kept is None or container is None:
            return await self._asked(phase, reader, None, limit)
        await kept.store.forget(container, reader)
        return await self._rebuilt(phase, kept, container, OwnEdges(reader), None, limit)

    def forget(self, reader: ObjectId) -> None:
        """As if they had never been here."""
        self._edges.forget(reader)
        self._pages.keep(reader, {})

    # Look

    def _look(self, kept: Kept, edges: OwnEdges, seen: Statuses, before: ObjectId | None) -> dict[str, Find]:
        """Pending first: it is looked up no later than the list (rule 5)."""
        return {
            "pending": self._outbox.look(self._switch.phases_of(kept.name), before),
            "version": version_of(edges.reader),
            **({"deleted": deleted_among(seen)} if seen else {}),
            **({} if edges.settled else self._outbox.backfills_of(edges.reader)),
        }

    def _looked(self, answers: Mapping[str, Rows], seen: Statuses) -> Look:
        return Look(
            version=version_in(answers["version"]),
            waiting=self._outbox.waiting(answers["pending"]),
            backfill_owed=self._outbox.is_owed_backfill(answers),
            rows=without(answers["deleted"], seen) if seen else {},
        )

    # Four ways to a page

    async def _asked(self, phase: Phase, reader: ObjectId, before: ObjectId | None, limit: int) -> Page:
        """What the phase pulls at read is everything, or its store cannot be asked: the definition, evaluated."""
        pulls = phase.pulls or HomeTimeline
        candidates = pulls(self._db, reader, Following(self._db, reader, self._edges))
        statuses, after = await Filling(self._db, reader).fill(candidates, before, limit)
        return Page(phase.slug, statuses, after, "query")

    async def _listed(
        self,
        phase: Phase,
        kept: Kept,
        container: Container,
        edges: OwnEdges,
        before: ObjectId | None,
        limit: int,
        part: Slice,
        look: Look,
    ) -> Page:
        """From what is kept, with what is pending; older ones from the query."""
        reader = edges.reader

        async def more(cursor: ObjectId, n: int) -> Slice | None:
            finds = kept.store.look(container, reader, cursor, n)
            answers = await together(self._db, **finds) if finds else {}
            return await kept.store.read(container, reader, cursor, n, answers)

        candidates = KeptThenQuery(part, more, look.waiting or [], self._query(edges))
        statuses, after = await self._filled(candidates, edges, before, limit, look.rows)
        return Page(phase.slug, statuses, after, candidates.source)

    async def _comeback(
        self, phase: Phase, kept: Kept, container: Container, edges: OwnEdges, before: ObjectId | None, limit: int
    ) -> Page:
        """Nothing is kept for the reader. Where the setting says so, it stays like that until they press a button."""
        if kept.recipients.active_only and self._config.comeback == "manual":
            return replace(await self._asked(phase, edges.reader, before, limit), cold=True)
        return await self._rebuilt(phase, kept, container, edges, before, limit)

    async def _rebuilt(
        self, phase: Phase, kept: Kept, container: Container, edges: OwnEdges, before: ObjectId | None, limit: int
    ) -> Page:
        """Complete at once, from the query; beside that the timeline is rebuilt."""
        reader = edges.reader
        following = Following(self._db, reader, self._edges, edges.version)
        comeback = Comeback(self._stack, self._edges, reader, await following.ids(), before or LAST_ID, enough(limit))

        async def answer() -> Page:
            candidates = KeptThenQuery(await comeback.head(), _nothing, [], HomeTimeline(self._db, reader, following))
            statuses, after = await self._filled(candidates, edges, before, limit, {})
            return Page(phase.slug, statuses, after, "query", cold=True)

        async def rebuild() -> bool:
            try:
                return await kept.store.rebuild(container, comeback)
            except UNAVAILABLE as error:  # somebody's transaction may hold what has to be written
                log.warning("the timeline of %s is left to the next read: %s", reader, error)
                return False

        page, rebuilt = await asyncio.gather(answer(), rebuild())
        return replace(page, source="rebuilt" if rebuilt else "query")

    # Fill

    def _query(self, edges: OwnEdges) -> HomeTimeline:
        return HomeTimeline(self._db, edges.reader, Following(self._db, edges.reader, self._edges, edges.version))

    async def _filled(
        self,
        candidates: Candidates,
        edges: OwnEdges,
        before: ObjectId | None,
        limit: int,
        rows: dict[ObjectId, StatusRow],
    ) -> tuple[list[StatusRow], ObjectId | None]:
        """What it took to fill a first page is remembered, and the edges that were asked for."""
        filling = Filling(self._db, edges.reader, edges, rows)
        statuses, after = await filling.fill(candidates, before, limit)
        if before is None:
            self._pages.keep(edges.reader, filling.taken)
            self._edges.keep(filling.edges)
        return statuses, after


async def _nothing(cursor: ObjectId, n: int) -> Slice | None:
    return None
