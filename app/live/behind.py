"""The events behind a position: whoever comes back gets each of them once, or `reset`."""

from collections.abc import Sequence
from datetime import timedelta

from bson import ObjectId

from app.clock import FIRST_ID, id_at
from app.live.connection import StreamEvent
from app.live.position import PAGE, Has, opened, sealed
from app.live.steps import as_json
from app.live.truth import MOST_MISSED, NEWLY_S, PersonState, Truth
from app.live.watchers import Watcher, Watchers
from app.models import StatusRow
from phases.timelines import Timelines

MORE = 100  # statuses of a further page


class Behind:
    """The events that a new connection is told first. There is one instance per process."""

    def __init__(self, watchers: Watchers, truth: Truth, timelines: Timelines) -> None:
        self._watchers, self._truth, self._timelines = watchers, truth, timelines

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
        page = await self._statuses(me, old, read.page)
        people = {**read.people, **await self._truth.people(page[PAGE:], ())}
        read = read._replace(page=[row for row in page if row.user_id in people], people=people)
        steps = await self._truth.steps(watcher, old, read, {})
        return None if steps is None else list(self._watchers.told(me, old, steps))

    async def _statuses(self, me: ObjectId, old: Has, page: Sequence[StatusRow]) -> list[StatusRow]:
        """Return the first page, and older statuses that the client does not have and may have missed."""
        found, floor = list(page), news_floor(old)
        before = page[-1].id if len(page) >= PAGE else None
        while before and before > floor and len(found) <= MOST_MISSED:
            more = await self._timelines.page(me, before=before, limit=MORE)
            found += [row for row in more.statuses if row.id > floor and row.id not in old.page]
            before = more.next
        return found


def news_floor(old: Has) -> ObjectId:
    """Return the id above which a status may be newer than a page.

    An id is made before its status is stored, and ids of other processes are in any order inside a second. So what came
    after the newest status of the page may have an id somewhat below that one's, but was never below a full page.
    """
    if not old.page:
        return FIRST_ID
    late = id_at(next(iter(old.page)).generation_time - timedelta(seconds=NEWLY_S))
    return max(late, next(reversed(old.page))) if len(old.page) == PAGE else late
