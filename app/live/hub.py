"""The hub of a process: it hears hints, reads the truth, and tells its connections what has changed for them.

A new status is looked up once, and judged for each of its readers by edges that are looked up together. Whatever else
changes is read anew for each person whom it may concern, and compared with what they have. Every event carries the
position after it, so that whoever loses the connection comes back and gets the rest.
"""

import asyncio
import logging
import random
from collections.abc import Awaitable, Callable, Collection, Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from datetime import timedelta
from functools import cache
from itertools import islice
from typing import Any, Literal, NamedTuple, TypeVar

from bson import ObjectId

from app.access import SHOWN, on_home, statuses_by_id
from app.accounts import Accounts
from app.clock import FIRST_ID, id_at
from app.edges import NAMES, VERSIONS, Edges, followees_of, version_in, version_of, versions_in, versions_of
from app.errors import TooMany
from app.inbox.notifications import Notification, Notifications
from app.inbox.notifier import INBOXES
from app.live.connection import OVER, STILL_HERE, STOPPED, Connection, Event
from app.live.position import PAGE, Has, Shown, opened, sealed
from app.live.presence import Presences
from app.live.steps import (
    Counts,
    Faces,
    Source,
    Step,
    as_json,
    came,
    counted,
    likes,
    name_steps,
    note_steps,
    page_steps,
)
from app.models import Person, StatusRow, like_key
from app.same import IDS
from app.social import Social
from app.stack import UNAVAILABLE, Hint, Stack
from app.stack.bus import Listener
from app.stack.mongodb.find import NEWEST_FIRST, Find, rows, together
from app.stack.mongodb.joined import joined
from phases.timelines import Timelines

log = logging.getLogger(__name__)

POLL_S = 30.0  # at most, jittered down to two thirds of it
TURN_S = 3.0  # tokens that have ended are looked for, and who has been told nothing hears that the stream lives
RETRY_S = 1.0
EACH = 10  # connections of one person
READS_AT_ONCE = 8
PEOPLE_AT_ONCE = 200  # that one command looks at
TOLD_AT_ONCE = 50  # of those who have notifications
MOST_MISSED = 500  # events that are told to whoever comes back
NEWLY_S = 120  # what is younger may be news: no insert takes as long
MOST_NEW = 5_000  # of it; where there is more, everybody's page is read
RENAMED_AT_ONCE = 200
MOST_HEARD = 20_000  # hints that wait; where there are more, it is looked instead
MORE = 100  # statuses or notifications of a further page
NOBODY = FIRST_ID
RETRY_AFTER_S = 5

Part = Literal["edges", "page", "inbox"]  # of a person's state
EVERYTHING: frozenset[Part] = frozenset({"edges", "page", "inbox"})
Wanted = Mapping["Watcher", Mapping[ObjectId, ObjectId]]  # by person, statuses and their authors
Likers = Mapping[ObjectId, Collection[ObjectId]]  # by status, who has liked it or does no more
T = TypeVar("T")


class Read(NamedTuple):
    """A person's state as it is now. `page`, `notes`: None where they were not asked for. `seq`: the last number of
    their inbox, looked up before anything that has one.
    """

    names: int
    seq: int
    page: list[StatusRow] | None
    notes: list[Notification] | None
    counts: Counts
    people: Mapping[ObjectId, Person]


@dataclass(slots=True, eq=False)
class Watcher:
    """A person with connections here, who have all been told the same. `opening`: connections that begin. `acquainted`:
    whose names they see, besides those on their page. `tellers`: who has done what they are notified of.

    `looked`: the versions of their edges and likes, and of their inbox, when they were last looked at; `standing`: of
    what their notifications tell. `dirty`: what has to be read anew. `turn`: while it is read, nothing else changes
    what they have; `reads` counts that.
    """

    me: ObjectId
    has: Has = field(default_factory=Has)
    counts: Counts = field(default_factory=lambda: Counts(0, 0))
    connections: list[Connection] = field(default_factory=list)
    opening: int = 0
    followees: list[ObjectId] = field(default_factory=list)
    acquainted: frozenset[ObjectId] = frozenset()
    tellers: frozenset[ObjectId] = frozenset()
    looked: tuple[int, ...] = ()
    standing: int | None = None
    dirty: frozenset[Part] = frozenset()
    turn: asyncio.Lock = field(default_factory=asyncio.Lock)
    reads: int = 0
    reading: "asyncio.Task[None] | None" = None

    @property
    def authors(self) -> set[ObjectId]:
        """Of the statuses on their page."""
        return {shown.author for shown in self.has.page.values() if shown.author}

    @property
    def named(self) -> set[ObjectId]:
        """Whose names they see."""
        return self.authors.union(self.acquainted)

    @property
    def concerned(self) -> set[ObjectId]:
        """Whose end would change what they see."""
        return self.named | self.tellers

    @property
    def shown(self) -> set[ObjectId]:
        """Statuses on their page, and those that their notifications are about."""
        return {*self.has.page, *(about for _, about in self.has.notes if about)}

    def is_told_of(self, status: ObjectId) -> bool:
        return any(about == status for _, about in self.has.notes)


class Hub:
    """One per process. `messages_unread`: of a person, how many conversations have some. `sent`: is told the name of
    each event and how many connections it goes to.
    """

    def __init__(
        self,
        stack: Stack,
        timelines: Timelines,
        social: Social,
        accounts: Accounts,
        notifications: Notifications,
        presences: Presences,
        faces: Faces,
        messages_unread: Callable[[ObjectId], Awaitable[int]],
        sent: Callable[[str, int], None] = lambda _name, _times: None,
        sources: Sequence[Source] = (),
    ) -> None:
        self._stack, self._db = stack, stack.db
        self._timelines, self._social, self._accounts, self._notifications = timelines, social, accounts, notifications
        self._faces, self._sent, self._messages_unread = faces, sent, messages_unread
        self._sources, self._presences = sources, presences
        self._watchers: dict[ObjectId, Watcher] = {}
        self._followers: dict[ObjectId, list[Watcher]] = {}  # of an author, those who are here
        self._newly: set[ObjectId] = set()  # statuses and follows that have been heard of, or were found by looking
        self._heard: list[Hint] = []
        self._wake, self._look = asyncio.Event(), asyncio.Event()  # something has been heard, or may have been missed
        self._reads = asyncio.Semaphore(READS_AT_ONCE)
        self._stopped = False
        self.listener = Listener(self._hear, self._missed)

    @property
    def connections(self) -> int:
        return sum(len(watcher.connections) + watcher.opening for watcher in self._watchers.values())

    # From outside

    async def open(self, me: ObjectId, token: bytes, after: str | None = None) -> Connection:
        """A stream: `ready`, then what lies behind the position `after`, then what happens. Raises TooMany."""
        watcher = self._watchers.get(me) or Watcher(me)
        if len(watcher.connections) + watcher.opening >= EACH:
            raise TooMany(f"You have {EACH} live streams open already.", RETRY_AFTER_S)
        if self._stopped or self.connections >= self._stack.config.live_connections:
            raise TooMany("Too many live streams are open here.", RETRY_AFTER_S)
        connection = Connection(me, token)
        self._watchers[me] = watcher  # what is heard from now on is not lost: it makes them dirty
        watcher.opening += 1
        try:
            async with self._reads, watcher.turn:
                read = await self._update(watcher, EVERYTHING)
                connection.begin(*await self._beginning(watcher, read, after))
                watcher.connections.append(connection)
        finally:
            watcher.opening -= 1
            self._forget_if_gone(watcher)
        self._refresh_if_dirty(watcher)
        return connection

    def close(self, connection: Connection) -> None:
        """Its client has gone, or has been told that it is over."""
        watcher = self._watchers.get(connection.me)
        if watcher and connection in watcher.connections:
            watcher.connections.remove(connection)
            self._forget_if_gone(watcher)

    def say(self, whom: ObjectId, event: str, data: Any) -> None:
        """Something that is no part of what they have, and is not told again to whoever comes back."""
        if watcher := self._watchers.get(whom):
            self._tell(watcher, [Step(event, as_json(data))])

    def stop(self) -> None:
        """All streams end: the process does."""
        self._stopped = True
        for watcher in self._watchers.values():
            for connection in watcher.connections:
                connection.close(STOPPED)

    async def run(self) -> None:
        """Until cancelled."""
        self._stack.bus.listen(self.listener)
        works = [asyncio.create_task(work) for work in (self._hearing(), self._looking(), self._turning())]
        try:
            await asyncio.gather(*works)
        finally:
            self._stack.bus.leave(self.listener)
            for work in works:
                work.cancel()
            await asyncio.gather(*works, return_exceptions=True)

    def _forget_if_gone(self, watcher: Watcher) -> None:
        if not watcher.connections and not watcher.opening:
            self._watchers.pop(watcher.me, None)
            self._follows(watcher, [])

    async def _beginning(self, watcher: Watcher, read: Read, after: str | None) -> list[Event]:
        """What a new connection is told first."""
        me, secret = watcher.me, self._stack.secret
        old = opened(secret, me, after) if after else None
        now = sealed(secret, me, watcher.has)
        ready = Event(after if after and old else now, "ready", as_json(watcher.counts._asdict()))
        behind = await self._behind(watcher, old, read) if old else []
        if behind is None or (after and old is None):
            behind = [Event(now, "reset", "{}")]
        for event in (ready, *behind):
            self._sent(event.name, 1)
        return [ready, *behind]

    async def _behind(self, watcher: Watcher, old: Has, read: Read) -> list[Event] | None:
        """What lies behind a position; None where that is more than can be told one by one."""
        me = watcher.me
        assert read.page is not None
        assert read.notes is not None
        page, notes = await self._missed_statuses(me, old, read.page), await self._missed_notes(me, old, read.notes)
        if len(page) + len(notes) > MOST_MISSED:
            return None
        people = {**read.people, **await self._people(page[PAGE:], notes[PAGE:])}
        read = read._replace(page=[row for row in page if row.user_id in people], notes=notes, people=people)
        steps = await self._changes(watcher, old, read)
        if watcher.acquainted:  # who came and who went is in no position
            steps += [Step(event, as_json(data)) for event, data in await self._seen_by(me, watcher.acquainted)]
        return list(self._told(me, old, steps)) if len(steps) <= MOST_MISSED else None

    async def _missed_statuses(self, me: ObjectId, old: Has, page: Sequence[StatusRow]) -> list[StatusRow]:
        """The first page, and what is newer than anything that they have."""
        found, newest = list(page), next(iter(old.page), None)
        while newest and len(found) >= PAGE and found[-1].id > newest and len(found) <= MOST_MISSED:
            more = await self._timelines.page(me, before=found[-1].id, limit=MORE)
            found += [row for row in more.statuses if row.id > newest]
            if more.next is None or more.next <= newest:
                break
        return found

    async def _missed_notes(self, me: ObjectId, old: Has, notes: Sequence[Notification]) -> list[Notification]:
        found = list(notes)
        if old.seq is None or len(found) < PAGE:
            return found
        before: int | None = found[-1].seq
        while before is not None and before > old.seq and len(found) <= MOST_MISSED:
            more, before = await self._notifications.page(me, before, MORE)
            found += [one for one in more if one.seq > old.seq]
        return found

    # Hear

    def _hear(self, hint: Hint) -> None:
        if len(self._heard) < MOST_HEARD:
            self._heard.append(hint)
            self._wake.set()
            if hint.kind == "posted" and hint.what and len(self._newly) < MOST_HEARD:
                self._newly.add(hint.what)
        else:
            self._missed()

    def _missed(self) -> None:
        self._look.set()

    async def _hearing(self) -> None:
        while True:
            await self._wake.wait()
            self._wake.clear()
            try:
                await self._do_heard()
                continue
            except UNAVAILABLE as error:
                log.info("live streams wait for a server: %s", error)
            except Exception:  # nobody else would hear of it, and nobody would be told anything any more
                log.exception("live streams have missed something")
            await asyncio.sleep(RETRY_S)
            self._missed()

    async def _looking(self) -> None:
        """Beside the hearing: of what is heard meanwhile nobody is told later."""
        while True:
            with suppress(TimeoutError):
                await asyncio.wait_for(self._look.wait(), POLL_S * random.uniform(2 / 3, 1))
            self._look.clear()
            try:
                await self._poll()
                continue
            except UNAVAILABLE as error:
                log.info("live streams wait for a server: %s", error)
            except Exception:  # nobody else would hear of it
                log.exception("live streams have missed something")
            await asyncio.sleep(RETRY_S)
            self._missed()

    async def _turning(self) -> None:
        while True:
            await asyncio.sleep(TURN_S)
            try:
                await self.turn()
            except UNAVAILABLE as error:
                log.info("nobody knows which tokens of live streams have ended: %s", error)
            except Exception:  # nobody else would hear of it, and streams would outlive their tokens
                log.exception("nobody knows which tokens of live streams have ended")

    async def settle(self) -> None:
        """Do what has been heard, and look for what may have been missed."""
        while self._heard or self._look.is_set():
            await self._do_heard()
            if self._look.is_set():
                self._look.clear()
                await self._poll()

    async def _do_heard(self) -> None:
        try:
            while self._heard:
                hints, self._heard = self._heard, []
                await self._handle(hints)
        except BaseException:
            self._newly = set()  # some of it has not been told
            raise

    async def settled(self) -> None:
        """The same, until nobody is read anew either."""
        await self.settle()
        while readings := [w.reading for w in self._watchers.values() if w.reading and not w.reading.done()]:
            await asyncio.wait(readings)
            await self.settle()

    async def _handle(self, hints: Sequence[Hint]) -> None:
        posted: dict[ObjectId, ObjectId] = {}
        liked: dict[ObjectId, set[ObjectId]] = {}
        for hint in hints:
            match hint:
                case Hint("posted", author, what) if what:
                    posted[what] = author
                case Hint("deleted", _, what) if what:
                    self._is_gone(what)
                case Hint("liked", who, what) if what:
                    liked.setdefault(what, set()).add(who)
                case Hint("edges", who, _, other):
                    self._is_dirty(who, EVERYTHING)
                    if other:
                        self._is_dirty(other, {"page", "inbox"})
                case Hint("concerns", whom):
                    self._is_dirty(whom, {"inbox"})
        if any(hint.kind == "named" for hint in hints):
            await self._tell_names()
        if came_or_gone := {hint.about for hint in hints if hint.kind == "presence"}:
            await self._tell_presence(came_or_gone)
        if wanted := self._wanted(posted, liked):
            for some in _chunks(wanted.items(), PEOPLE_AT_ONCE):
                await self._tell_news(dict(some), liked)
        if any(hint.kind == "tokens" for hint in hints):
            await self._end_without_token()

    def _present(self) -> list[Watcher]:
        """Those whose state has been read, or is being read. Of whoever is just coming it will be, after what is heard
        now has happened.
        """
        return [watcher for watcher in self._watchers.values() if watcher.reads or watcher.turn.locked()]

    def _is_dirty(self, whom: ObjectId, parts: Iterable[Part]) -> None:
        watcher = self._watchers.get(whom)
        if watcher and (watcher.reads or watcher.turn.locked()):
            watcher.dirty = watcher.dirty.union(parts)
            self._refresh_if_dirty(watcher)

    def _is_gone(self, status: ObjectId) -> None:
        for watcher in self._present():
            if watcher.turn.locked() or status in watcher.has.page:
                self._is_dirty(watcher.me, {"page"})
            if watcher.turn.locked() or watcher.is_told_of(status):
                self._is_dirty(watcher.me, {"inbox"})

    # News: a status is looked up once, with the edges of everybody whom it may concern

    def _wanted(self, posted: Mapping[ObjectId, ObjectId], liked: Likers) -> Wanted:
        wanted: dict[Watcher, dict[ObjectId, ObjectId]] = {}
        for id, author in posted.items():
            own = [self._watchers[author]] if author in self._watchers else []
            for watcher in (*self._followers.get(author, ()), *own):
                if watcher.turn.locked():
                    self._is_dirty(watcher.me, {"page"})
                elif watcher.reads and id not in watcher.has.page and watcher.has.has_room_for(id):
                    wanted.setdefault(watcher, {})[id] = author
        for watcher in self._present() if liked else ():
            if watcher.turn.locked():
                self._is_dirty(watcher.me, {"page", "inbox"})
                continue
            if any(watcher.is_told_of(id) for id in liked):
                self._is_dirty(watcher.me, {"inbox"})  # who takes a like back takes its notification along
            for id in liked.keys() & watcher.has.page.keys():
                shown = watcher.has.page[id]
                assert shown.author, "it has been read"
                wanted.setdefault(watcher, {})[id] = shown.author
        return wanted

    async def _tell_news(self, wanted: Wanted, liked: Likers) -> None:
        authors = {author for some in wanted.values() for author in some.values()}
        ids = sorted({id for some in wanted.values() for id in some})
        edges, reads = Edges([watcher.me for watcher in wanted], authors), {w: w.reads for w in wanted}
        own = [like_key(w.me, id) for w, some in wanted.items() for id in some if w.me in liked.get(id, ())]
        finds = {"statuses": statuses_by_id(ids, SHOWN), "names": version_of(NAMES), **edges.finds}
        if own:
            finds["own"] = Find("likes", {"_id": {"$in": own}}, ("_id",), len(own))
        found = await together(self._db, **finds)
        people = await self._social.people(authors, version_in(found["names"]))
        likes_now, readers = {bytes(row["_id"]) for row in found.get("own", [])}, edges.readers(found)
        statuses = {row["_id"]: StatusRow.of(row) for row in found["statuses"] if row["user_id"] in people}
        face = cache(lambda status: as_json(self._faces.status(status, people)))
        for watcher, some in wanted.items():
            if watcher.turn.locked() or watcher.reads != reads[watcher]:
                self._is_dirty(watcher.me, {"page"})
                continue
            for id in sorted(some):
                status, had = statuses.get(id), watcher.has.page.get(id)
                if status is None or not on_home(status, readers[watcher.me]):
                    if had:
                        self._is_dirty(watcher.me, {"page"})
                    continue
                is_own = watcher.me in liked.get(id, ())
                you_like = like_key(watcher.me, id) in likes_now if is_own else bool(had and had.you_like)
                status = status._replace(you_like=you_like)
                self._tell(watcher, [likes(status) if had else came(status, face(status))])

    async def _tell_names(self) -> None:
        """Who has been renamed since anybody here was told of it."""
        while here := [watcher for watcher in self._present() if not watcher.turn.locked()]:
            since = min(watcher.has.names for watcher in here)
            found = await together(self._db, version=version_of(NAMES), renamed=_renamed_since(since))
            renamed, version = found["renamed"], version_in(found["version"])
            gone = {user["_id"] for user in renamed if user.get("deleted")}
            told_to = renamed[-1]["renamed"] if len(renamed) == RENAMED_AT_ONCE else version
            for watcher in here:
                if not watcher.turn.locked():
                    self._tell(watcher, name_steps(renamed, watcher.has, watcher.named))
                    watcher.has.names = max(watcher.has.names, told_to)
                    if gone & watcher.concerned:
                        self._is_dirty(watcher.me, {"page", "inbox"})
            if told_to == version:
                break
        for watcher in self._present():
            if watcher.turn.locked():
                self._is_dirty(watcher.me, {"page", "inbox"})

    async def _tell_presence(self, people: set[ObjectId]) -> None:
        for watcher in list(self._watchers.values()):
            if some := watcher.acquainted.intersection(people):
                for event, data in await self._seen_by(watcher.me, some):
                    self.say(watcher.me, event, data)

    async def _seen_by(self, me: ObjectId, some: Collection[ObjectId]) -> list[tuple[str, Any]]:
        seen, people = await self._presences.seen_by(me, some), await self._social.people(some)
        return [("presence", self._faces.presence(person, seen[id])) for id, person in people.items()]

    # What is read anew

    def _refresh_if_dirty(self, watcher: Watcher) -> None:
        if watcher.dirty and watcher.connections and (watcher.reading is None or watcher.reading.done()):
            watcher.reading = asyncio.create_task(self._refresh(watcher))

    async def _refresh(self, watcher: Watcher) -> None:
        while watcher.dirty and watcher.connections:
            parts = watcher.dirty
            try:
                async with self._reads, watcher.turn:  # who waits for a place is told of news meanwhile
                    parts, watcher.dirty = watcher.dirty, frozenset()
                    await self._update(watcher, parts)
                continue
            except UNAVAILABLE as error:
                log.info("a live stream waits for a server: %s", error)
            except Exception:  # nobody else would hear of it
                log.exception("a live stream has missed something")
            watcher.dirty |= parts
            await asyncio.sleep(RETRY_S)

    async def _update(self, watcher: Watcher, parts: Collection[Part]) -> Read:
        """Read their state, or these parts of it, and tell what has changed. In their turn."""
        read = await self._read(watcher, parts)
        steps = await self._changes(watcher, watcher.has, read)
        told = any(step.event.startswith("notification") for step in steps)  # each says how many are unread
        if read.counts != (watcher.counts._replace(unread=read.counts.unread) if told else watcher.counts):
            steps.append(counted(read.counts))
        self._tell(watcher, steps)
        watcher.counts = read.counts
        if read.page is not None:
            watcher.has.names = read.names
            watcher.has.page = {row.id: Shown.of(row) for row in read.page}
        if read.notes is not None:
            watcher.has.seq = read.seq
            watcher.tellers = frozenset(one.who for one in read.notes)
            watcher.has.notes = [(one.seq, one.status.id if one.status else None) for one in read.notes]
        watcher.reads += 1
        return read

    async def _read(self, watcher: Watcher, parts: Collection[Part]) -> Read:
        """Names and numbers first: they are as of all the rest, or older."""
        me = watcher.me
        if "edges" in parts:
            await self._look_at_edges(watcher)
        with joined():
            names, inbox, page, notes, counts = await asyncio.gather(
                rows(self._db, version_of(NAMES)),
                rows(self._db, _inboxes([me])) if "inbox" in parts else _nothing(),
                self._timelines.page(me, limit=PAGE) if "page" in parts else _nothing(),
                self._notifications.page(me, None, PAGE) if "inbox" in parts else _nothing(),
                self._counts(me) if "inbox" in parts else _nothing(),
            )
        seq = _inbox_in(inbox or (), me)[0]
        statuses, shown = page.statuses if page else None, notes[0] if notes else None
        if shown is not None:
            shown = [one for one in shown if one.seq <= seq]  # of later ones a hint is on its way
        people = await self._people(statuses or (), shown or (), version_in(names))
        if statuses is not None:
            statuses = [row for row in statuses if row.user_id in people]
        return Read(version_in(names), seq, statuses, shown, counts or watcher.counts, people)

    async def _counts(self, me: ObjectId) -> Counts:
        unread, messages = await asyncio.gather(self._notifications.unread(me), self._messages_unread(me))
        return Counts(unread.number, messages)

    async def _look_at_edges(self, watcher: Watcher) -> None:
        me = watcher.me
        found = await together(self._db, followees=followees_of(me), versions=versions_of(me), inbox=_inboxes([me]))
        self._follows(watcher, [IDS.of(row["followee"]) for row in found["followees"]])
        versions = versions_in(found["versions"])
        watcher.looked = (versions.edges, versions.likes, *_inbox_in(found["inbox"], me))
        watcher.acquainted = await self._acquainted(me)

    async def _acquainted(self, me: ObjectId) -> frozenset[ObjectId]:
        return frozenset({id for source in self._sources for id in await source.people(me)})

    def _follows(self, watcher: Watcher, followees: Sequence[ObjectId]) -> None:
        for author in watcher.followees:
            here = self._followers[author]
            here.remove(watcher)
            if not here:
                del self._followers[author]
        is_here = self._watchers.get(watcher.me) is watcher  # not gone while this was looked up
        watcher.followees = list(followees) if is_here else []
        for author in watcher.followees:
            self._followers.setdefault(author, []).append(watcher)

    async def _people(
        self, page: Iterable[StatusRow], notes: Iterable[Notification], names: int | None = None
    ) -> dict[ObjectId, Person]:
        ids = {row.user_id for row in page} | {one.who for one in notes}
        ids |= {one.status.user_id for one in notes if one.status}
        return await self._social.people(ids, names)

    async def _changes(self, watcher: Watcher, old: Has, read: Read) -> list[Step]:
        """From what somebody has to what there is, in the order in which it is told."""
        steps: list[Step] = []
        if read.page is not None:
            steps += page_steps(old, read.page, lambda row: as_json(self._faces.status(row, read.people)))
            if read.names > old.names:
                named = {*watcher.acquainted, *(row.user_id for row in read.page)}
                renamed = await rows(self._db, _renamed_since(old.names, sorted(named)))
                steps += name_steps(renamed, old, named)
        if read.notes is not None and old.seq is not None:
            numbered = note_steps(old, read.notes, read.people, self._faces, read.counts.unread)
            more = [step for source in self._sources for step in await source.between(watcher.me, old.seq, read.seq)]
            if more:
                watcher.acquainted = await self._acquainted(watcher.me)
            numbered += more
            steps += sorted(numbered, key=lambda step: step.seq)
        return steps

    # Tell

    def _tell(self, watcher: Watcher, steps: Iterable[Step]) -> None:
        for event in self._told(watcher.me, watcher.has, steps):
            for connection in watcher.connections:
                connection.put(event)
            self._sent(event.name, len(watcher.connections))

    def _told(self, me: ObjectId, has: Has, steps: Iterable[Step]) -> Iterator[Event]:
        """Each with the position after it: `has` goes along."""
        for step in steps:
            step.apply(has)
            yield Event(sealed(self._stack.secret, me, has), step.event, step.data)

    # What may have been missed

    async def _poll(self) -> None:
        """What has changed since, of all who are here; each command looks at many of them. Of what is found the same is
        told as if it had been heard, in turn with it.
        """
        if not self._watchers:
            return
        newly = {"_id": {"$gt": id_at(self._stack.clock.now() - timedelta(seconds=NEWLY_S))}}
        found = await together(
            self._db,
            names=version_of(NAMES),
            statuses=Find("statuses", newly, ("_id", "user_id"), MOST_NEW, NEWEST_FIRST),
            follows=Find("follows", newly, ("_id", "followee"), MOST_NEW, NEWEST_FIRST),
        )
        if any(watcher.has.names < version_in(found["names"]) for watcher in self._present()):
            self._hear(Hint("named", NOBODY))
        new = {part: [row for row in found[part] if row["_id"] not in self._newly] for part in ("statuses", "follows")}
        if any(len(rows_) == MOST_NEW for rows_ in new.values()):
            for watcher in self._present():
                self._is_dirty(watcher.me, {"page", "inbox"})
        for row in new["follows"]:
            self._is_dirty(row["followee"], {"page", "inbox"})
        self._newly = {row["_id"] for part in ("statuses", "follows") for row in found[part]}
        for row in new["statuses"]:
            self._hear(Hint("posted", row["user_id"], row["_id"]))
        here = [watcher for watcher in self._watchers.values() if watcher.looked]  # who is just coming reads it all
        for some in _chunks(here, PEOPLE_AT_ONCE):
            await self._compare(some)
        told = [watcher for watcher in self._watchers.values() if any(watcher.looked[2:])]
        for some in _chunks(told, TOLD_AT_ONCE):
            standing = await self._notifications.standing([watcher.me for watcher in some])
            for watcher in some:
                if standing[watcher.me] != watcher.standing:
                    watcher.standing = standing[watcher.me]
                    self._is_dirty(watcher.me, {"inbox"})

    async def _compare(self, some: Sequence[Watcher]) -> None:
        """Whether anything is newer than what these have been told."""
        people = [watcher.me for watcher in some]
        ids = {id for watcher in some for id in watcher.shown}
        mutual = {
            (shown.author, watcher.me)
            for watcher in some
            for shown in watcher.has.page.values()
            if shown.mutual and shown.author != watcher.me
        }
        finds = {
            "versions": Find(VERSIONS, {"_id": {"$in": people}}, ("_id", "version", "likes"), len(people)),
            "inboxes": _inboxes(people),
        }
        if ids:
            finds["statuses"] = statuses_by_id(sorted(ids), ("_id", "audience", "likes"))
        if mutual:
            ends = [sorted({pair[n] for pair in mutual if pair[n]}) for n in range(2)]
            query = {"follower": {"$in": ends[0]}, "followee": {"$in": ends[1]}}
            finds["backs"] = Find("follows", query, ("follower", "followee"), len(ends[0]) * len(ends[1]))
        found = await together(self._db, **finds)
        versions = {row["_id"]: (row.get("version", 0), row.get("likes", 0)) for row in found["versions"]}
        statuses = {row["_id"]: row.get("likes", 0) for row in found.get("statuses", []) if row.get("audience")}
        ended = mutual - {(row["follower"], row["followee"]) for row in found.get("backs", [])}
        liked: set[ObjectId] = set()
        for watcher in some:
            looked = (*versions.get(watcher.me, (0, 0)), *_inbox_in(found["inboxes"], watcher.me))
            parts: set[Part] = set()
            if looked[0] != watcher.looked[0]:
                parts |= EVERYTHING
            if looked[1] != watcher.looked[1]:
                parts |= {"page"}
            if looked[2:] != watcher.looked[2:]:
                parts |= {"inbox"}
            for id in ids & watcher.has.page.keys():
                shown = watcher.has.page[id]
                if id not in statuses or (shown.mutual and (shown.author, watcher.me) in ended):
                    parts |= {"page"}
                elif statuses[id] != shown.likes:
                    liked.add(id)
            if any(id in ids and id not in statuses for _, id in watcher.has.notes):
                parts |= {"inbox"}
            watcher.looked = looked
            self._is_dirty(watcher.me, parts)
        for id in liked:
            self._hear(Hint("liked", NOBODY, id))

    # What does not depend on news

    async def turn(self) -> None:
        """Every few seconds: tokens that have ended end their streams, and nobody waits without a sign of life."""
        await self._end_without_token()
        for watcher in self._watchers.values():
            for connection in watcher.connections:
                if connection.is_quiet:
                    connection.put(STILL_HERE)
                connection.is_quiet = True

    async def _end_without_token(self) -> None:
        here = [connection for watcher in self._watchers.values() for connection in watcher.connections]
        if not here:
            return
        ended = await self._accounts.ended({connection.token for connection in here})
        for connection in here:
            if connection.token in ended:
                connection.close(OVER)


async def _nothing() -> None:
    return None


def _chunks(items: Iterable[T], size: int) -> Iterator[list[T]]:
    rest = iter(items)
    while some := list(islice(rest, size)):
        yield some


def _renamed_since(version: int, people: Sequence[ObjectId] | None = None) -> Find:
    query: dict[str, Any] = {"renamed": {"$gt": version}, **({"_id": {"$in": people}} if people is not None else {})}
    return Find("users", query, ("_id", "handle", "name", "renamed", "deleted"), RENAMED_AT_ONCE, [("renamed", 1)])


def _inboxes(people: Sequence[ObjectId]) -> Find:
    return Find(INBOXES, {"_id": {"$in": people}}, ("_id", "seq", "read_to"), len(people))


def _inbox_in(found: Sequence[Mapping[str, Any]], me: ObjectId) -> tuple[int, int]:
    return next(((row.get("seq", 0), row.get("read_to", 0)) for row in found if row["_id"] == me), (0, 0))
