"""The read of every phase: look -> list -> hydrate -> `on_home` -> refill -> older."""

import asyncio
import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial

from bson import ObjectId

from app.access import on_home, shown_rows, statuses_shown
from app.clock import FIRST_ID, LAST_ID
from app.departures import Departed
from app.edges import EdgeMemory, Following, OwnEdges, Versions, View, versions_in, versions_of
from app.models import StatusRow
from app.stack import Stack, outages_told
from app.stack.mongodb.find import Find, Rows, together
from phases.base import Phase
from phases.delivering import backfills
from phases.delivering.kept_timelines import KeptTimelines
from phases.delivering.pending import Pending, Scope
from phases.delivering.settings import Settings
from phases.delivering.switch import Switch
from phases.home.candidates import KeptThenQuery, Slice, Undelivered
from phases.home.memory import (
    UNSEEN,
    Basis,
    FirstPage,
    FirstPages,
    Judged,
    MadeOf,
    SeenStatuses,
    Statuses,
    as_now,
    changes_of,
)
from phases.home.newest import Newest, newest_of_groups, window_of_groups
from phases.home.page import Filling, Page, enough
from phases.keeping.store import Container, Glance, Place, Returning, Store
from phases.p1_query import HomeTimeline, written_by
from phases.pulling.markers import Known, Markers

log = logging.getLogger(__name__)

ATTEMPTS = 8  # to make a page from what is kept while what was remembered changes; after them the query makes it


@dataclass(frozen=True)
class Request:
    """A page that somebody asks for."""

    phase: Phase
    reader: ObjectId
    before: ObjectId | None
    limit: int

    @property
    def cursor(self) -> ObjectId:
        return self.before or LAST_ID


@dataclass(frozen=True)
class Start:
    """What a read begins with: what this process remembers of the reader, or what a glance finds of a stranger.

    `marked`: everybody whose statuses may be pulled, `pulled`: the reader's own authors among them. `scope`: where to
    look for what is pending (rule 10).
    """

    request: Request
    settings: Settings
    place: Place
    edges: OwnEdges
    is_remembered: bool
    seen: FirstPage
    glance: Glance
    marked: Known | None
    pulled: Sequence[ObjectId]
    scope: Scope

    @property
    def last_page(self) -> Judged | None:
        """The page as it was the last time, if that is how far down to look for what its authors have written since:
        there is probably enough.
        """
        return self.seen.full(self.place.n) if self.scope.by_authors or self.pulled else None

    def made_of(self, kept: Slice, look: "Look") -> MadeOf:
        """Return what the page is made of: what is kept, with what is pending or pulled. What the last page was made of
        stays a candidate: it may have been delivered since.
        """
        waiting = look.pending if self.scope.backlog else None
        undelivered = look.pending.beside(look.pulled)
        if last := self.last_page:
            # A backlog that was read is compared as a whole; what was looked up is not on the page yet.
            looked = look.pulled if waiting else undelivered
            is_known = not looked.entries and looked.down_to <= last.made_of.first.ids[-1]
            if is_known and last.made_of.is_from(kept, waiting) and not (last.made_of.first.whole or kept.whole):
                return last.made_of
            undelivered = undelivered._replace(entries=[*undelivered.entries, *last.made_of.first.entries])
        return MadeOf(kept.with_undelivered(undelivered, self.place.before, self.place.n), kept, waiting)


@dataclass(frozen=True)
class Look:
    """The answers that a read needs before it believes what is kept, all of one moment.

    `versions`: those of what may be remembered. `pending`, `pulled`: what the list may lack. `rows`: the statuses of
    the page that is remembered, or that a glance has found. `view`: the edges.
    """

    versions: Versions
    pending: Undelivered
    pulled: Undelivered
    backfill_owed: bool
    rows: Statuses
    answers: Mapping[str, Rows]
    view: View


class Reading:
    """The making of pages, one object per process: it remembers edges and first pages of the readers who came last."""

    def __init__(
        self,
        stack: Stack,
        kept: Mapping[str, KeptTimelines],
        switch: Switch,
        pending: Pending,
        markers: Markers,
    ) -> None:
        self._stack, self._db, self._config = stack, stack.db, stack.config
        self._kept, self._switch, self._pending, self._markers = kept, switch, pending, markers
        self._edges, self._pages, self._statuses = EdgeMemory(), FirstPages(), SeenStatuses()
        self._departed = Departed(stack.db)

    async def page(self, request: Request) -> Page:
        """Look, then read the list, then judge each status. The look also says whether
        what is remembered, and what is kept, can be believed; otherwise the query is
        asked.
        """
        for attempt in range(ATTEMPTS):
            settings = await self._switch.current()
            container = self._readable(request, settings)
            if container is None:
                break
            start = await self._start(request, container, settings, again=attempt > 0)
            if start is None:
                return await self._cold(request, container)

            # First what is pending, on one snapshot of MongoDB; only then the list.
            look = await self._look(start)
            kept = await self._store(container).read(start.place, look.answers)

            # What was remembered has changed: begin again without it.
            if self._forget_changed(start, look):
                continue
            # What is kept is not complete, or this took so long that it may be over.
            if look.backfill_owed or not self._switch.still_holds(settings):
                break
            start.edges.confirm(look.versions.edges)
            if kept is None:
                return await self._cold(request, container, look.versions)
            # More is pending than was looked at: next, what the reader's own authors have.
            if not look.pending.is_all and not start.scope.by_authors:
                continue
            made_of = start.made_of(kept, look)
            # The guess how far down to look has left the page short.
            if start.last_page and made_of.first.is_short(start.place.n):
                self._pages.guess_no_more(request.reader)
                continue
            page = await self._listed(start, made_of, look)
            await self._note(start, look.view.edges)
            return page
        return await self._queried(request)

    async def refresh(self, request: Request) -> Page:
        """Return the page, after rebuilding what is kept for this reader."""
        container = self._readable(request, await self._switch.current())
        if container is None:
            return await self._queried(request)
        await self._store(container).forget(container, request.reader)
        return await self._rebuilt(request, container)

    def forget(self, reader: ObjectId) -> None:
        """Forget the reader, as if they had never been here."""
        self._edges.forget(reader)
        self._pages.forget(reader)

    def _readable(self, request: Request, settings: Settings) -> Container | None:
        keeps = request.phase.keeps
        return self._switch.readable(settings, keeps) if keeps else None

    def _store(self, container: Container) -> Store:
        return self._kept[container.kept].store

    # Look

    async def _start(self, request: Request, container: Container, settings: Settings, *, again: bool) -> Start | None:
        """Return what a read begins with; None for a reader who is certainly cold. For a reader whom this process does
        not remember, a glance at the list says what to look up. `again`: what was noted of them may have been wrong.
        """
        reader = request.reader
        remembered = self._edges.recall(reader)
        place = Place(container, reader, request.cursor, enough(request.limit))
        seen = self._pages.recall(reader) if request.before is None else UNSEEN
        glance = Glance() if remembered or seen.statuses else await self._store(container).glance(place)
        if glance is None:
            return None
        if again:
            glance = glance._replace(edges=None)
        edges = remembered or glance.edges or OwnEdges(reader)
        scope = await self._pending.scope(self._switch.phases_of(container.kept), settings.epoch)
        marked = await self._markers.known(settings.epoch) if request.phase.pulls else None
        if (scope.by_authors or (marked and marked.pulled != frozenset())) and edges.unmuted is None:
            if glance.edges:
                self._edges.keep(glance.edges)
            edges = await Following(self._db, reader, self._edges).known()
        pulled = self._markers.among(edges, marked) if marked else []
        is_remembered = remembered is not None
        return Start(request, settings, place, edges, is_remembered, seen, glance, marked, pulled, scope)

    async def _look(self, start: Start) -> Look:
        """Look, with one command to MongoDB. What is pending is looked up no later than the list is (rule 5), and at a
        cost that does not grow with the backlog (rule 10).
        """
        edges, seen, place = start.edges, start.seen, start.place
        last_ids = start.last_page.made_of.first.ids if start.last_page else ()
        pending = self._pending.finds(start.scope, edges, place, last_ids)
        pulled = self._pulled(start, place, last_ids)
        view = View(edges, departed=frozenset())
        finds = {**pending, **pulled, "versions": versions_of(edges.reader), **seen.follow_back(edges.reader)}
        if not edges.backfilled:
            finds |= backfills.owed_to(edges.reader)
        # Only what has changed is looked up of statuses that others have been shown, too.
        known = seen.statuses or self._statuses.among(start.glance.ids)
        if seen.statuses:
            finds |= seen.changes
        else:
            finds |= changes_of(known) | statuses_shown(edges.reader, start.glance.ids, known)
        if not start.is_remembered:
            finds |= view.missing(list(known.values()))
        answers = await together(self._db, **finds, **self._store(place.container).finds(place))
        view.learn(answers)
        now = as_now(known, answers)
        return Look(
            versions=versions_in(answers["versions"]),
            pending=self._pending.found(start.scope, pending, answers, edges, place),
            pulled=Undelivered.of(pulled, answers),
            backfill_owed=backfills.is_any_owed(answers),
            rows=now if seen.statuses else shown_rows(answers, self._statuses.row, now.values()),
            answers=answers,
            view=view,
        )

    @staticmethod
    def _pulled(start: Start, place: Place, known: Sequence[ObjectId] = ()) -> dict[str, Find]:
        """Return the look-ups of what is delivered to nobody: the newest of each group of the reader's own authors."""
        pulls = start.request.phase.pulls
        if pulls is None:
            return {}
        if known:
            return window_of_groups("pulled", pulls.query, start.pulled, known, place.before)
        return newest_of_groups("pulled", pulls.query, start.pulled, place.before, place.n)

    def _forget_changed(self, start: Start, look: Look) -> bool:
        """Forget what was remembered and has changed. Return whether there was any."""
        edges, marked, now = start.edges, start.marked, look.versions
        if changed := edges.version not in (None, now.edges):
            self._edges.forget(edges.reader)
        if start.seen.statuses and start.seen.likes != now.likes:
            self._pages.forget(edges.reader)
            changed = True
        if marked and marked.version != now.markers:  # somebody may be pulled of whom nothing was asked
            self._markers.forget(unless_at=now.markers)
            changed = True
        return self._pending.forget_if_missing(start.scope, look.pending, now.late) or changed

    # Three ways to a page

    async def _queried(self, request: Request) -> Page:
        """Evaluate the definition, by the query: nothing is kept, or what is kept cannot be believed."""
        following = Following(self._db, request.reader, self._edges)
        candidates = HomeTimeline(self._db, request.reader, following)
        filling = self._filling(View(OwnEdges(request.reader)), {})
        statuses, after = await filling.fill(candidates, request.before, request.limit)
        return Page(request.phase.slug, statuses, after, "query", versions=following.versions)

    async def _listed(self, start: Start, made_of: MadeOf, look: Look) -> Page:
        """Make a page from what is kept, with what is pending and what is pulled; older statuses are from the query."""
        request, view, first = start.request, look.view, made_of.first
        view.departed = await self._departed.at(look.versions.names)
        basis = Basis(first.packed, first.floor, request.limit, look.versions.edges, view.departed)
        if same := start.seen.judged_before(basis, look.rows, look.answers):
            if not same.made_of.is_from(made_of.kept, made_of.waiting):  # what was pending has been delivered
                self._pages.keep(request.reader, replace(start.seen, judged=same._replace(made_of=made_of)))
            return Page(request.phase.slug, same.shown, same.next, "list", versions=look.versions)
        following = Following(self._db, request.reader, self._edges, look.versions)
        query = HomeTimeline(self._db, request.reader, following)
        candidates = KeptThenQuery(first, partial(self._further, start, look), query)
        filling = self._filling(view, look.rows)
        statuses, after = await self._filled(request, filling, candidates, look.versions, made_of)
        return Page(request.phase.slug, statuses, after, candidates.source(statuses), versions=look.versions)

    async def _further(self, start: Start, look: Look, before: ObjectId, n: int) -> Slice | None:
        """Return what is kept below an id, with what is pending and what is pulled there; these are looked up unless
        all is known.
        """
        place = start.place._replace(before=before, n=n)
        store = self._store(place.container)
        pending = {} if look.pending.is_all else self._pending.by_authors(start.scope.names, start.edges, place)
        pulled = {} if look.pulled.is_all else self._pulled(start, place)
        finds = {**pending, **pulled, **store.finds(place)}
        answers = await together(self._db, **finds) if finds else {}
        part = await store.read(place, answers)
        if pending and not self._switch.still_holds(start.settings):
            return None  # what was pending may have been delivered, and no longer to here
        all_pending = look.pending if look.pending.is_all else Undelivered.of(pending, answers)
        all_pulled = look.pulled if look.pulled.is_all else Undelivered.of(pulled, answers)
        return part and part.with_undelivered(all_pending.beside(all_pulled), before, n)

    async def _cold(self, request: Request, container: Container, versions: Versions | None = None) -> Page:
        """Make a page for a reader for whom nothing is kept. Where the setting says so, it stays like that until they
        press a button.
        """
        if self._kept[container.kept].recipients.active_only and self._config.comeback == "manual":
            return replace(await self._queried(request), cold=True)
        return await self._rebuilt(request, container, versions)

    async def _rebuilt(self, request: Request, container: Container, versions: Versions | None = None) -> Page:
        """Make a page at once, complete and from the query; beside that, rebuild the timeline."""
        reader, n = request.reader, enough(request.limit)
        following, began_s = Following(self._db, reader, self._edges, versions), self._stack.clock.monotonic()
        edges = await following.known()
        followees = edges.followees or []
        newest = Newest(self._db, written_by, [reader, *followees])
        head = asyncio.ensure_future(newest.older_than(request.cursor, n))
        returning = Returning(self._stack, self._edges, written_by, reader, followees, began_s, head)

        async def answer() -> Page:
            entries = await head
            floor = entries[-1].id if len(entries) == n else FIRST_ID
            made_of = MadeOf(Slice(entries, floor, whole=True))
            candidates = KeptThenQuery(made_of.first, _nothing, HomeTimeline(self._db, reader, following))
            versions = following.versions
            assert versions, "whom they follow has been looked up"
            # From now on there is a list: whom they follow need not be remembered.
            view = View(replace(edges, followees=None, unmuted=None), await self._departed.at(versions.names))
            statuses, after = await self._filled(request, self._filling(view, {}), candidates, versions, made_of)
            return Page(request.phase.slug, statuses, after, "query", cold=True, versions=versions)

        async def rebuild() -> bool:
            # Somebody's transaction may hold what has to be written.
            with outages_told(log.warning, f"the timeline of {reader} is left to the next read"):
                return await self._store(container).rebuild(container, returning)
            return False

        page, rebuilt = await asyncio.gather(answer(), rebuild())
        return replace(page, source="rebuilt" if rebuilt else "query")

    async def _note(self, start: Start, edges: OwnEdges) -> None:
        """Note the edges that a first page took, for processes that do not know its reader, unless they are noted or a
        backfill may be owed.
        """
        container = start.place.container
        if start.request.before is None and edges.backfilled and container.name not in edges.noted_in:
            edges.noted_in += (container.name,)
            await self._store(container).note_edges(container, edges)

    # Fill

    def _filling(self, view: View, rows: Statuses) -> Filling:
        return Filling(self._db, view, on_home, dict(rows), self._statuses.row)

    async def _filled(
        self, request: Request, filling: Filling, candidates: KeptThenQuery, versions: Versions, made_of: MadeOf
    ) -> tuple[list[StatusRow], ObjectId | None]:
        """Fill a page. What it took to fill a first page is remembered, unless most of that was not for the reader, and
        so are the edges that were asked for.
        """
        view = filling.view
        statuses, after = await filling.fill(candidates, request.before, request.limit)
        if request.before is None and filling.wasteful:
            self._pages.forget(request.reader)
        elif request.before is None:
            first, judged = made_of.first, None
            if not candidates.went_on and view.steady and view.edges.version == versions.edges:
                basis = Basis(first.packed, first.floor, request.limit, versions.edges, view.departed)
                judged = Judged(basis, made_of, filling.backs, statuses, after)
            self._pages.keep(request.reader, FirstPage(filling.taken, versions.likes, judged))
        if request.before is None or self._edges.recall(request.reader):
            self._edges.keep(view.edges)
        return statuses, after


async def _nothing(cursor: ObjectId, n: int) -> Slice | None:
    return None
