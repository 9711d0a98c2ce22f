"""A person's state as it is now, and the steps that lead to it from what somebody has."""

import asyncio
from collections.abc import Awaitable, Callable, Collection, Iterable, Mapping, Sequence
from typing import Any, NamedTuple

from bson import ObjectId

from app.edges import NAMES, followees_of, version_in, version_of, versions_in, versions_of
from app.inbox.notifications import Notification, Notifications
from app.inbox.notifier import INBOXES
from app.live.position import PAGE, Has
from app.live.presence import Presence, Presences, is_another
from app.live.steps import Faces, InboxSource, Step, UnreadCounts, as_json, name_steps, note_steps, page_steps
from app.live.watchers import NONE, Part, PersonVersions, Watcher, Watchers
from app.models import Person, StatusRow
from app.names import renamed_since
from app.same import IDS
from app.social.people import People
from app.stack.mongodb.connection import Database
from app.stack.mongodb.find import Find, rows, together
from app.stack.mongodb.joined import joined
from phases.timelines import Timelines

NEWLY_S = 120  # between the id of a status and its insert, at most: no insert takes as long
MOST_MISSED = 500  # events that somebody is told at once; more are a `reset`


class PersonState(NamedTuple):
    """The state of a person, as it was read just now. `page`, `notes`, `seen`: None where they were not asked for.

    `seq`: the last number of their inbox, looked up before anything that has one. `older`: below which number there may
    be more notifications, if any. `seen`: the presence of those whom they are acquainted with. `told`: notifications of
    the first page, and those that are counted as unread; none that has a lower number than `down_to` would be among
    them.
    """

    names: int
    seq: int
    page: list[StatusRow] | None
    notes: list[Notification] | None
    older: int | None
    counts: UnreadCounts
    people: Mapping[ObjectId, Person]
    seen: Mapping[ObjectId, Presence | None] | None
    told: Sequence[Notification]
    down_to: int


class Truth:
    """Reads the state of people from MongoDB. There is one instance per process.

    `messages_unread`: counts a person's conversations with unread messages. `talk`: None where nobody is told of
    conversations.
    """

    def __init__(
        self,
        db: Database,
        timelines: Timelines,
        people: People,
        notifications: Notifications,
        presences: Presences,
        messages_unread: Callable[[ObjectId], Awaitable[int]],
        faces: Faces,
        talk: InboxSource | None,
        watchers: Watchers,
    ) -> None:
        self._db, self._timelines, self._people, self._notifications = db, timelines, people, notifications
        self._messages_unread, self._faces, self._talk, self._watchers = messages_unread, faces, talk, watchers
        self._presences = presences

    async def read(self, watcher: Watcher, parts: Collection[Part]) -> PersonState:
        """Read these parts of a person's state.

        Names and numbers are looked up first: they are as of the same moment as all the rest, or older.
        """
        me = watcher.me
        if "edges" in parts:
            await self.look_at_edges(watcher)
        with joined():
            names, inbox, page, notes, talks, seen = await asyncio.gather(
                rows(self._db, version_of(NAMES)),
                rows(self._db, inboxes_of([me])) if "inbox" in parts else _nothing(),
                self._timelines.page(me, limit=PAGE) if "page" in parts else _nothing(),
                self._notifications.shown(me, None, PAGE) if "inbox" in parts else _nothing(),
                self._messages_unread(me) if "inbox" in parts else _nothing(),
                self._presences.seen_by(me, watcher.acquainted) if "presence" in parts else _nothing(),
            )
        seq, read_to = inbox_in(inbox or (), me)
        if inbox is not None:
            assert watcher.looked, "their edges were read with it, or before"
            watcher.looked = watcher.looked._replace(seq=seq, read_to=read_to)
        statuses = page.statuses if page else None
        shown, older = (notes.page, notes.next) if notes else (None, None)
        if shown is not None:
            shown = [one for one in shown if one.seq <= seq]  # a hint of later ones is on its way
        people = await self.people(statuses or (), shown or (), version_in(names))
        there = {id for id, person in people.items() if person.is_there}  # nobody who has departed since all was judged
        if statuses is not None:
            statuses = [row for row in statuses if row.user_id in there]
        if shown is not None:
            shown = [one for one in shown if one.who in there]
        counts, told, down_to = watcher.counts, shown or [], 0
        if notes and talks is not None:
            unread = notes.unread
            counts = UnreadCounts(len(unread.notifications), talks)
            told, down_to = [*told, *unread.notifications], min(older or 0, unread.down_to)
        return PersonState(version_in(names), seq, statuses, shown, older, counts, people, seen, told, down_to)

    async def people(
        self, page: Iterable[StatusRow], notes: Iterable[Notification], names: int | None = None
    ) -> dict[ObjectId, Person]:
        ids = {row.user_id for row in page} | {one.who for one in notes}
        ids |= {one.status.user_id for one in notes if one.status}
        return await self._people.by_ids(ids, names)

    async def steps(
        self, watcher: Watcher, old: Has, read: PersonState, seen: Mapping[ObjectId, Presence | None]
    ) -> list[Step] | None:
        """Return the steps from what somebody has to what there is, in the order in which they are told.

        None: they are more than MOST_MISSED, or nobody knows them. Presence does not count: it is in no position, and
        told anew. `seen`: the presence that they have been told.
        """
        steps: list[Step] = []
        if read.page is not None:
            steps += page_steps(old, read.page, lambda row: as_json(self._faces.status(row, read.people)))
            if read.names > old.names:
                named = {*watcher.acquainted, watcher.me, *(row.user_id for row in read.page)}
                renamed = await rows(self._db, renamed_since(old.names, sorted(named)))
                steps += name_steps(renamed, old, named)
        if read.notes is not None and old.seq is not None:
            more = await self._talk.between(watcher.me, old.seq, read.seq) if self._talk else []
            if more:
                watcher.acquainted = await self._acquainted(watcher.me)
            notes = await self._missed(watcher.me, old.seq, read)
            if notes is None:
                return None
            people = {**read.people, **await self.people((), notes[len(read.notes) :])}
            numbered = note_steps(old, notes, people, self._faces, read.counts.unread)
            steps += sorted([*numbered, *more], key=lambda step: step.seq)
        if len(steps) > MOST_MISSED:
            return None
        if read.seen is not None:
            new = {id: now for id, now in read.seen.items() if id not in seen or is_another(now, seen[id])}
            people = await self._people.by_ids(new)
            there = [id for id in new if id in people and people[id].is_there]  # no handle would say who has gone
            steps += [Step("presence", as_json(self._faces.presence(people[id], new[id]))) for id in there]
        return steps

    async def _missed(self, me: ObjectId, after: int, read: PersonState) -> list[Notification] | None:
        """Return the first page of notifications, and older ones with a `seq` above `after`.

        None: these are more than MOST_MISSED, or too many are not shown.
        """
        assert read.notes is not None
        if read.older is None or read.older <= after:
            return read.notes
        missed = await self._notifications.between(me, after, read.seq, MOST_MISSED)
        if missed is None:
            return None
        oldest = read.notes[-1].seq if read.notes else 0
        return [*read.notes, *(one for one in missed if one.seq < oldest)]

    async def look_at_edges(self, watcher: Watcher) -> None:
        me = watcher.me
        found = await together(self._db, followees=followees_of(me), versions=versions_of(me), inbox=inboxes_of([me]))
        self._watchers.set_followees(watcher, [IDS.of(row["followee"]) for row in found["followees"]])
        versions = versions_in(found["versions"])
        watcher.looked = PersonVersions(versions.edges, versions.likes, *inbox_in(found["inbox"], me))
        watcher.acquainted = await self._acquainted(me)

    async def _acquainted(self, me: ObjectId) -> frozenset[ObjectId]:
        return frozenset(await self._talk.people(me)) or NONE if self._talk else NONE


async def _nothing() -> None:
    return None


def inboxes_of(people: Sequence[ObjectId]) -> Find:
    return Find(INBOXES, {"_id": {"$in": people}}, ("_id", "seq", "read_to"), len(people))


def inbox_in(found: Sequence[Mapping[str, Any]], me: ObjectId) -> tuple[int, int]:
    return next(((row.get("seq", 0), row.get("read_to", 0)) for row in found if row["_id"] == me), (0, 0))
