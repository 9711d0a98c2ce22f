"""The events behind a position: whoever comes back gets each of them once, or `reset`."""

from collections.abc import Sequence

from bson import ObjectId

from app.clock import FIRST_ID
from app.inbox.notifications import Notification, Notifications
from app.live.connection import StreamEvent
from app.live.position import PAGE, Has, opened, sealed
from app.live.steps import as_json
from app.live.truth import PersonState, Truth
from app.live.watchers import Watcher, Watchers
from app.models import StatusRow
from phases.timelines import Timelines

MOST_MISSED = 500  # events that are told to whoever comes back
MORE = 100  # statuses of a further page


class Behind:
    """The events that a new connection is told first. There is one instance per process."""

    def __init__(self, watchers: Watchers, truth: Truth, timelines: Timelines, notifications: Notifications) -> None:
        self._watchers, self._truth, self._timelines, self._notifications = watchers, truth, timelines, notifications

    async def beginning(self, watcher: Watcher, read: PersonState, after: str | None) -> list[StreamEvent]:
        """Return `ready`, then the events after the position `after`, or `reset` where these cannot be told.

        `after`: None for a client that has no position.
        """
        me, secret = watcher.me, self._watchers.secret
        old = opened(secret, me, after) if after else None
        now = sealed(secret, me, watcher.has)
        ready = StreamEvent(after if after and old else now, "ready", as_json(watcher.counts._asdict()))
        behind = await self._behind(watcher, old, read) if old else []
        if behind is None or (after and old is None):
            behind = [StreamEvent(now, "reset", "{}")]
        for event in (ready, *behind):
            self._watchers.sent(event.name, 1)
        return [ready, *behind]

    async def _behind(self, watcher: Watcher, old: Has, read: PersonState) -> list[StreamEvent] | None:
        """Return the events after a position; None where they are more than MOST_MISSED, or nobody knows them."""
        me = watcher.me
        if old.seq is not None and old.seq > read.seq:
            return None  # an older database has been put back
        assert read.page is not None
        assert read.notes is not None
        page, notes = await self._statuses(me, old, read.page), await self._notes(me, old, read)
        if notes is None:
            return None
        people = {**read.people, **await self._truth.people(page[PAGE:], notes[len(read.notes) :])}
        read = read._replace(page=[row for row in page if row.user_id in people], notes=notes, people=people)
        steps = await self._truth.steps(watcher, old, read, {})
        missed = [step for step in steps if step.event != "presence"]  # which is in no position, and told anew
        return list(self._watchers.told(me, old, steps)) if len(missed) <= MOST_MISSED else None

    async def _statuses(self, me: ObjectId, old: Has, page: Sequence[StatusRow]) -> list[StatusRow]:
        """Return the first page, and older statuses that are newer than anything that the client has."""
        found, newest = list(page), next(iter(old.page), FIRST_ID)
        while len(found) >= PAGE and found[-1].id > newest and len(found) <= MOST_MISSED:
            more = await self._timelines.page(me, before=found[-1].id, limit=MORE)
            found += [row for row in more.statuses if row.id > newest]
            if more.next is None or more.next <= newest:
                break
        return found

    async def _notes(self, me: ObjectId, old: Has, read: PersonState) -> list[Notification] | None:
        """Return the first page of notifications, and older ones that the client has not been told of.

        None: they are more than MOST_MISSED, or too many are not shown.
        """
        assert read.notes is not None
        if old.seq is None or read.older is None or read.older <= old.seq:
            return read.notes
        missed = await self._notifications.between(me, old.seq, read.seq, MOST_MISSED)
        if missed is None:
            return None
        oldest = read.notes[-1].seq if read.notes else 0
        return [*read.notes, *(one for one in missed if one.seq < oldest)]
