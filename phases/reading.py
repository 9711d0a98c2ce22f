"""The read of every phase: look -> list -> hydrate -> `on_home` -> refill -> older."""

import asyncio
import logging
from collections.abc import Mapping
from dataclasses import dataclass, replace

from bson import ObjectId

from app.access import on_home, shown_rows, statuses_shown
from app.clock import LAST_ID
from app.departures import Departed
from app.edges import EdgeMemory, Following, OwnEdges, Versions, View, versions_in, versions_of
from app.models import StatusRow
from app.stack import UNAVAILABLE, Stack
from app.stack.mongodb.find import Find, Rows, together
from phases.base import Phase
from phases.comeback import Comeback
from phases.delivering.kept import Kept
from phases.delivering.outbox import Outbox, Waiting
from phases.delivering.switch import Switch
from phases.home.candidates import KeptThenQuery, Slice
from phases.home.memory import UNSEEN, FirstPages, Judged, Seen, SeenStatuses, Statuses, as_now
from phases.home.newest import newest_of_groups
from phases.home.page import Filling, Page, enough
from phases.keeping.store import Container, Place
from phases.p1_query import HomeTimeline
from phases.pulling.markers import Known, Markers

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Request:
    """A page that somebody asks for. `kept`: what the phase keeps, None for one that keeps nothing."""

    phase: Phase
    kept: Kept | None
    reader: ObjectId
    before: ObjectId | None
    limit: int

    @property
    def cursor(self) -> ObjectId:
        return self.before or LAST_ID


@dataclass(frozen=True)
class Look:
    """What a read has to know before it believes what is kept, all of one moment.

    `versions`: of what may be remembered. `pulled`: what is merged, as `waiting` is. `rows`: of the page that is
    remembered, or that a glance has found.
    """

    versions: Versions
    waiting: Waiting
    pulled: Waiting
    backfill_owed: bool
    rows: Statuses
    answers: Mapping[str, Rows]


class Reading:
    """Makes pages. One per process: it remembers edges and first pages of the readers who came last."""

    def __init__(self, stack: Stack, switch: Switch, outbox: Outbox, markers: Markers) -> None:
        self._stack, self._db, self._config = stack, stack.db, stack.config
        self._switch, self._outbox, self._markers = switch, outbox, markers
        self._edges, self._pages, self._statuses = EdgeMemory(), FirstPages(), SeenStatuses()
        self._departed = Departed(stack.db)

    async def page(self, request: Request, own: bool = False) -> Page:
        """`own`: of what is pending only that of the reader's own authors is looked at."""
        kept, reader = request.kept, request.reader
        settings = await self._switch.current()
        container = self._switch.readable(settings, kept.name) if kept else None
        if kept is None or container is None:
            return await self._queried(request)

        # What is remembered need not be asked. Of a stranger a glance says what to ask.
        remembered = self._edges.recall(reader)
        edges = remembered or OwnEdges(reader)
        place = Place(container, reader, request.cursor, enough(request.limit))
        seen = self._pages.recall(reader) if request.before is None else UNSEEN
        likely = [] if remembered or seen.statuses else await kept.store.glance(place)
        if likely is None:
            return await self._comeback(request, kept, container)
        marked = await self._markers.known(settings.epoch) if request.phase.merges else None
        own = own or self._outbox.is_crowded
        if (own or (marked and marked.pulled != frozenset())) and edges.heard is None:
            edges = await Following(self._db, reader, self._edges).known()

        # One command to MongoDB, of one moment. The list is read afterwards.
        reach = seen.reach(place.n) if own else None
        pending = self._pending(kept, edges, place, reach, own=own)
        pulled = self._pulled(request, marked, edges, place)
        looked = {**pending, **pulled, **self._look(edges, seen)}
        looked |= kept.store.look(place)
        if not seen.statuses:
            looked |= statuses_shown(reader, likely)
        view = View(edges, departed=frozenset())
        if not remembered:
            known = list(seen.statuses.values()) or self._statuses.among(likely)
            looked |= view.missing(known)
        answers = await together(self._db, **looked)
        view.learn(answers)
        part = await kept.store.read(place, answers)
        look = self._looked(pending, pulled, answers, seen.statuses)

        # Begin anew where what was remembered has changed, or where that was not all.
        if self._is_over(look.versions, edges, seen, marked):
            return await self.page(request, own)
        # A read that took so long: perhaps nothing is kept there any more.
        if look.backfill_owed or not self._switch.still_holds(settings):
            return await self._queried(request)
        edges.version, edges.settled = look.versions.edges, True
        if part is None:
            return await self._comeback(request, kept, container, look.versions)
        if not look.waiting.is_all and not own:
            return await self.page(request, own=True)
        first = part.with_waiting(*look.waiting.beside(look.pulled), place.before, place.n)
        if reach and first.is_short(place.n):
            self._pages.keep(reader, seen._replace(judged=None))  # the guess was wrong
            return await self.page(request, own)
        return await self._listed(request, kept, place, first, look, view, seen, marked)

    async def refresh(self, request: Request) -> Page:
        """The page, after rebuilding what is kept for this reader."""
        kept = request.kept
        container = self._switch.readable(await self._switch.current(), kept.name) if kept else None
        if kept is None or container is None:
            return await self._queried(request)
        await kept.store.forget(container, request.reader)
        return await self._rebuilt(request, kept, container)

    def forget(self, reader: ObjectId) -> None:
        """As if they had never been here."""
        self._edges.forget(reader)
        self._pages.forget(reader)

    # Look

    def _pending(
        self, kept: Kept, edges: OwnEdges, place: Place, reach: ObjectId | None = None, *, own: bool
    ) -> dict[str, Find]:
        """Pending first: it is looked up no later than the list (rule 5), and at a cost that does not grow with the
        backlog (rule 10).
        """
        names = self._switch.phases_of(kept.name)
        if not own:
            return self._outbox.look(names, place.before)
        authors = [edges.reader, *(edges.heard or [])]
        return self._outbox.look_at(names, place.before, authors, place.n, reach)

    def _pulled(self, request: Request, marked: Known | None, edges: OwnEdges, place: Place) -> dict[str, Find]:
        """What is delivered to nobody, of the reader's own authors: the newest of each group of them."""
        if marked is None or request.phase.merges is None:
            return {}
        authors = self._markers.among(edges, marked)
        return newest_of_groups("pulled", request.phase.merges.query, authors, place.before, place.n)

    def _look(self, edges: OwnEdges, seen: Seen) -> dict[str, Find]:
        return {
            "versions": versions_of(edges.reader),
            **seen.changes(edges.reader),
            **({} if edges.settled else self._outbox.backfills_of(edges.reader)),
        }

    def _looked(
        self, pending: Mapping[str, Find], pulled: Mapping[str, Find], answers: Mapping[str, Rows], seen: Statuses
    ) -> Look:
        return Look(
            versions=versions_in(answers["versions"]),
            waiting=self._outbox.waiting(pending, answers),
            pulled=Waiting.of(pulled, answers),
            backfill_owed=self._outbox.is_owed_backfill(answers),
            rows=as_now(seen, answers) if seen else shown_rows(answers, self._statuses.row),
            answers=answers,
        )

    def _is_over(self, now: Versions, edges: OwnEdges, seen: Seen, marked: Known | None) -> bool:
        """Whether something that was remembered has changed. It is forgotten: the read begins again without it."""
        if changed := edges.version not in (None, now.edges):
            self._edges.forget(edges.reader)
        if seen.statuses and seen.likes != now.likes:
            self._pages.forget(edges.reader)
            changed = True
        if marked and marked.version != now.markers:  # somebody may be pulled of whom nothing was asked
            self._markers.forget(unless_at=now.markers)
            changed = True
        return changed

    # Three ways to a page

    async def _queried(self, request: Request) -> Page:
        """The phase pulls everything, or what it keeps cannot be believed: the definition, evaluated."""
        pulls = request.phase.pulls or HomeTimeline
        following = Following(self._db, request.reader, self._edges)
        candidates = pulls(self._db, request.reader, following)
        filling = Filling(self._db, View(OwnEdges(request.reader)), on_home, as_row=self._statuses.row)
        statuses, after = await filling.fill(candidates, request.before, request.limit)
        return Page(request.phase.slug, statuses, after, "query", versions=following.versions)

    async def _listed(
        self,
        request: Request,
        kept: Kept,
        place: Place,
        first: Slice,
        look: Look,
        view: View,
        seen: Seen,
        marked: Known | None,
    ) -> Page:
        """From what is kept, with what is pending and what is pulled; older ones from the query."""
        edges, view.departed = view.edges, await self._departed.at(look.versions.names)
        judged = seen.judged_before(first, request.limit, look.versions.edges, view.departed, look.answers)
        same = look.rows is seen.statuses and judged
        if same:
            return Page(request.phase.slug, same.shown, same.next, "list", versions=look.versions)

        async def more(cursor: ObjectId, n: int) -> Slice | None:
            further = place._replace(before=cursor, n=n)
            pending = {} if look.waiting.is_all else self._pending(kept, edges, further, own=True)
            pulled = {} if look.pulled.is_all else self._pulled(request, marked, edges, further)
            finds = {**pending, **pulled, **kept.store.look(further)}
            answers = await together(self._db, **finds) if finds else {}
            part = await kept.store.read(further, answers)
            waiting = look.waiting if look.waiting.is_all else self._outbox.waiting(pending, answers)
            merged = look.pulled if look.pulled.is_all else Waiting.of(pulled, answers)
            return part and part.with_waiting(*waiting.beside(merged), cursor, n)

        following = Following(self._db, request.reader, self._edges, look.versions)
        query = HomeTimeline(self._db, request.reader, following)
        candidates = KeptThenQuery(first, more, query)
        statuses, after = await self._filled(request, candidates, view, look.versions, look.rows)
        return Page(request.phase.slug, statuses, after, candidates.source(statuses), versions=look.versions)

    async def _comeback(
        self,
        request: Request,
        kept: Kept,
        container: Container,
        versions: Versions | None = None,
    ) -> Page:
        """Nothing is kept for the reader. Where the setting says so, it stays like that until they press a button."""
        if kept.recipients.active_only and self._config.comeback == "manual":
            return replace(await self._queried(request), cold=True)
        return await self._rebuilt(request, kept, container, versions)

    async def _rebuilt(
        self,
        request: Request,
        kept: Kept,
        container: Container,
        versions: Versions | None = None,
    ) -> Page:
        """Complete at once, from the query; beside that the timeline is rebuilt."""
        reader, n = request.reader, enough(request.limit)
        following = Following(self._db, reader, self._edges, versions)
        edges = await following.known()
        comeback = Comeback(self._stack, self._edges, reader, edges.followees or [], request.cursor, n)

        async def answer() -> Page:
            candidates = KeptThenQuery(await comeback.head(), _nothing, HomeTimeline(self._db, reader, following))
            versions = following.versions
            assert versions, "whom they follow has been looked up"
            # From now on there is a list: whom they follow need not be remembered.
            view = View(replace(edges, followees=None, heard=None), await self._departed.at(versions.names))
            statuses, after = await self._filled(request, candidates, view, versions, {})
            return Page(request.phase.slug, statuses, after, "query", cold=True, versions=versions)

        async def rebuild() -> bool:
            try:
                return await kept.store.rebuild(container, comeback)
            except UNAVAILABLE as error:  # somebody's transaction may hold what has to be written
                log.warning("the timeline of %s is left to the next read: %s", reader, error)
                return False

        page, rebuilt = await asyncio.gather(answer(), rebuild())
        return replace(page, source="rebuilt" if rebuilt else "query")

    # Fill

    async def _filled(
        self,
        request: Request,
        candidates: KeptThenQuery,
        view: View,
        versions: Versions,
        rows: Statuses,
    ) -> tuple[list[StatusRow], ObjectId | None]:
        """What it took to fill a first page is remembered, and the edges that were asked for."""
        filling = Filling(self._db, view, on_home, dict(rows), self._statuses.row)
        statuses, after = await filling.fill(candidates, request.before, request.limit)
        if request.before is None:
            first = candidates.first
            judged = None
            if not candidates.went_on and view.steady and filling.edges.version == versions.edges:
                of = first.ids, first.floor, request.limit, versions.edges, view.departed, filling.backs
                judged = Judged(*of, statuses, after)
            self._pages.keep(request.reader, Seen(filling.taken, versions.likes, judged))
            self._edges.keep(filling.edges)
        return statuses, after


async def _nothing(cursor: ObjectId, n: int) -> Slice | None:
    return None
