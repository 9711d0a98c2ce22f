"""The consumer that tells people of what concerns them: follows, likes, circles, and mentions in statuses.

An event, or a status that mentions somebody, is owed to it by name until each of those people has their notification.
That is written once, whatever is repeated: its key says who has done what to whom. Whether it is shown is decided by
the read, so nothing is taken back here.
"""

from datetime import timedelta
from typing import ClassVar

from bson import ObjectId

from app.access import FIELDS
from app.inbox.mentions import mentioned, shown_to
from app.models import Event, Inbox, Notification, NotificationKind, StatusRow
from app.stack import Hint, Stack
from app.stack.mongodb.find import Find, together
from app.stack.mongodb.transaction import Transaction, transaction
from phases.delivering.outbox import EVENTS, Failures, GoesOn, Kind, Outbox, one_step_only

NOTIFICATIONS, INBOXES = Notification.Settings.name, Inbox.Settings.name
KEPT = timedelta(days=90)


class Notifier:
    """The consumer that writes notifications. There is one instance per process, for its outbox."""

    name: ClassVar[str] = NOTIFICATIONS
    kinds: ClassVar[frozenset[Kind]] = frozenset({"follow", "like", "circle", "mention"})
    may_wait: ClassVar[bool] = True

    def __init__(self, stack: Stack, outbox: Outbox) -> None:
        self._db, self._queue, self._outbox, self._bus = stack.db, stack.queue, outbox, stack.bus

    async def hand_over(self, happened: StatusRow | Event) -> None:
        await self._queue.offer(self.name, happened.id)

    async def handle(self, happened: ObjectId, after: ObjectId | None, goes_on: GoesOn = one_step_only) -> Failures:
        """Write the notifications of what happened, in one step, since a status mentions few."""
        owed = {"_id": happened, "pending": self.name}
        found = await together(
            self._db,
            events=Find(EVENTS, owed, ("kind", "who", "whom", "what"), 1),
            statuses=Find("statuses", owed, FIELDS, 1),
        )
        for event in found["events"]:
            await self._notify(event["whom"], event["kind"], happened, event["who"], event.get("what"))
            self._bus.tell(Hint("concerns", event["whom"]))
            await self._outbox.done(self.name, [happened], EVENTS)
        for status in map(StatusRow.of, found["statuses"]):
            people = (await mentioned(self._db, [status])).get(happened, {})
            for whom in people.values():
                await self._notify(whom, "mention", happened, status.user_id, happened)
            self._bus.tell(*(Hint("concerns", whom) for whom in await shown_to(self._db, status, people.values())))
            await self._outbox.done(self.name, [happened])
        return {}

    async def _notify(
        self, whom: ObjectId, kind: NotificationKind, event: ObjectId, who: ObjectId, what: ObjectId | None
    ) -> None:
        """Store a notification together with its number, unless it is stored already.

        Nobody is told of what they do themselves.
        """
        if who == whom:
            return
        key = notification_key(whom, kind, who, what)
        new = {"_id": key, "whom": whom, "event": event, "kind": kind, "who": who}
        new |= {"what": what} if what else {}

        async def unless_told(inside: Transaction) -> None:
            if await inside[NOTIFICATIONS].find_one({"_id": key, "whom": whom}, {"_id": 1}):
                return
            seq = await inside[INBOXES].next_number({"_id": whom})
            await inside[NOTIFICATIONS].insert_one({**new, "seq": seq, "until": event.generation_time + KEPT})

        await transaction(self._db, unless_told)


def notification_key(whom: ObjectId, kind: NotificationKind, who: ObjectId, what: ObjectId | None) -> bytes:
    return b"".join([whom.binary, kind.encode(), who.binary, what.binary if what else b""])
