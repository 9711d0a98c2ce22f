"""Notifications as their reader sees them: what they may see now, newest first, and how many of it are unread."""

import asyncio
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any, NamedTuple

from bson import ObjectId

from app.access import SHOWN, liked_among, on_home, statuses_by_id, visible
from app.edges import OwnEdges, Reader, View
from app.inbox.notifier import INBOXES, NOTIFICATIONS
from app.models import LAST_SEQ, NotificationKind, StatusRow, like_key
from app.stack import Hint, Stack
from app.stack.mongodb.find import Find, Rows, rows, together

FIELDS = ("seq", "event", "kind", "who", "what")
SPARE = 8  # looked at beyond what is wanted: most of it is shown
MOST_UNREAD = 100  # counted; as many or more
MOST_STANDING = 200  # a person's newest notifications that are checked for whether they are still true
LOOKED_AT = 1_000  # by one look, however few of them are shown
PASSED = 10_000  # by one look, with mentions by people of whom it has seen that the reader is shown none


@dataclass(frozen=True)
class Notification:
    """A notification as its reader sees it.

    `id`: the event's. `status`: the one that was liked, or that mentions; None for the other kinds.
    """

    id: ObjectId
    seq: int
    kind: NotificationKind
    who: ObjectId
    status: StatusRow | None

    @property
    def created_at(self) -> datetime:
        return self.id.generation_time


class Unread(NamedTuple):
    """The `number` of notifications above the watermark `read_to`."""

    number: int
    read_to: int


class Counted(NamedTuple):
    """The notifications above the watermark `read_to`, newest first, up to `most`. None of those below `looked_down_to`
    was looked at.
    """

    notifications: Sequence[Notification]
    read_to: int
    most: int
    looked_down_to: int = 0

    @property
    def down_to(self) -> int:
        """The lowest `seq` that matters: whatever changes the number is about a notification at or above it."""
        return self.notifications[-1].seq if len(self.notifications) == self.most else self.read_to + 1

    def as_on(self, page: Sequence[Notification], before: int | None, down_to: int | None) -> "Counted":
        """Return what is counted where all that a page has looked at is as the page has found it: that was at another
        moment, and both are shown together.
        """
        others = [one for one in self.notifications if one.seq < (down_to or 0) or one.seq >= (before or LAST_SEQ)]
        listed = [one for one in page if one.seq > self.read_to and one.seq >= self.looked_down_to]
        unread = sorted([*others, *listed], key=lambda one: one.seq, reverse=True)
        return self._replace(notifications=unread[: self.most])


class Shown(NamedTuple):
    """A page, newest first, the cursor of the next one, and what is unread, on the page or not."""

    page: Sequence[Notification]
    next: int | None
    unread: Counted


def people_on(shown: Shown) -> set[ObjectId]:
    """Return whom the notifications of a page are by, and whose statuses they are about."""
    return {one.who for one in shown.page} | {one.status.user_id for one in shown.page if one.status}


class Notifications:
    """The notifications of all people. There is one instance per process, and it remembers nothing."""

    def __init__(self, stack: Stack) -> None:
        self._db, self._bus = stack.db, stack.bus

    async def shown(self, reader: ObjectId, before: int | None, limit: int) -> Shown:
        """Return a `page` and what is unread, which do not contradict each other."""
        counted, (page, next_) = await asyncio.gather(self.counted(reader), self.page(reader, before, limit))
        return Shown(page, next_, counted.as_on(page, before, next_))

    async def page(self, reader: ObjectId, before: int | None, limit: int) -> tuple[list[Notification], int | None]:
        """Return a page below `before`, newest first, and the cursor of the next one.

        It is full, unless the end is reached or too many are not shown: 1,000, or 10,000 where most are mentions by a
        few whom the reader does not see.
        """
        shown, last = await self._look(reader, limit + 1, before, 0, PASSED)
        return shown[:limit], shown[limit - 1].seq if len(shown) > limit else last

    async def between(self, reader: ObjectId, after: int, to: int, most: int) -> list[Notification] | None:
        """Return the notifications with a `seq` above `after`, up to `to`, newest first.

        None: there are more than `most`, or too many are not shown.
        """
        shown, last = await self._look(reader, most + 1, to + 1, after, PASSED)
        return shown if last is None and len(shown) <= most else None

    async def unread(self, reader: ObjectId, most: int = MOST_UNREAD) -> Unread:
        """Count the unread notifications, up to `most`."""
        counted = await self.counted(reader, most)
        return Unread(len(counted.notifications), counted.read_to)

    async def counted(self, reader: ObjectId, most: int = MOST_UNREAD) -> Counted:
        """Return the unread notifications, newest first, up to `most`.

        This takes one command where no number has been given since `read_to`, and two more where some have, unless much
        of it is not shown.
        """
        inbox = (await rows(self._db, Find(INBOXES, {"_id": reader}, ("seq", "read_to"), 1)) or [{}])[0]
        read_to = inbox.get("read_to", 0)
        if inbox.get("seq", 0) <= read_to:
            return Counted((), read_to, most)
        shown, last = await self._look(reader, most, None, read_to, LOOKED_AT)
        return Counted(shown[:most], read_to, most, last or 0)

    async def standing(self, down_to: Mapping[ObjectId, int]) -> dict[ObjectId, int]:
        """Return for each person a number that tells whether their notifications are as true as before.

        It is another number once something has been taken back, or done again, that their notifications from this `seq`
        on, or the newest MOST_STANDING of them, tell of. What their own edges decide is not in it. This takes two
        commands for all of them.
        """
        newest = await together(
            self._db,
            **{
                str(n): Find(NOTIFICATIONS, _from(person, seq), ("kind", "who", "what"), MOST_STANDING, [("seq", -1)])
                for n, (person, seq) in enumerate(down_to.items())
            },
        )
        told = {person: newest[str(n)] for n, person in enumerate(down_to)}
        keys = {me: {like_key(row["who"], row["what"]) for row in rows if "what" in row} for me, rows in told.items()}
        tellers = {me: {row["who"] for row in rows} for me, rows in told.items()}
        likes, whos = (sorted(set().union(*some.values())) for some in (keys, tellers))
        followed = {"follower": {"$in": whos}, "followee": {"$in": list(told)}}
        found = await together(
            self._db,
            likes=Find("likes", {"_id": {"$in": likes}}, ("_id",), len(likes) + 1),
            follows=Find("follows", followed, ("follower", "followee"), len(whos) * len(told) + 1),
        )
        liked = {bytes(row["_id"]) for row in found["likes"]}
        follow: dict[ObjectId, set[ObjectId]] = {person: set() for person in told}
        for row in found["follows"]:
            follow[row["followee"]].add(row["follower"])
        return {
            person: hash((frozenset(keys[person] & liked), frozenset(tellers[person] & follow[person])))
            for person in told
        }

    async def mark_read(self, reader: ObjectId, to: int) -> None:
        """Move the watermark forward, never back, to the newest notification at most."""
        for newest in await self._below(reader, None, 1):
            change = {"$max": {"read_to": min(to, newest["seq"])}}
            await self._db[INBOXES].update_one({"_id": reader}, change)
            self._bus.tell(Hint("concerns", reader))

    async def _look(
        self, reader: ObjectId, wanted: int, before: int | None, above: int, most: int
    ) -> tuple[list[Notification], int | None]:
        """Return as many as are wanted, or more, newest first, and the last `seq` that was looked at.

        At the end that `seq` is None. Anybody can mention the reader as often as they like. Once a person's mentions
        are known to be hidden, MongoDB passes over their others: so `most` may be far more than are looked at one by
        one, at a tenth of the cost.
        """
        shown: list[Notification] = []
        hidden: set[ObjectId] = set()
        looked_at, floor = 0, None
        while len(shown) < wanted and looked_at < LOOKED_AT:
            if hidden and floor is None:
                floor = await self._seq_of(reader, before, above, most - looked_at)
            size = min(max(wanted + SPARE, looked_at), LOOKED_AT - looked_at)
            batch = await self._below(reader, before, size, max(above, floor or 0), hidden)
            some, me = await self._shown(reader, batch)
            shown += some
            if len(batch) < size:
                return shown, floor + 1 if floor else None
            hidden |= {row["who"] for row in batch if row["kind"] == "mention" and not _is_heard(row["who"], me)}
            looked_at, before = looked_at + size, batch[-1]["seq"]
        return shown, before

    async def _below(
        self, reader: ObjectId, before: int | None, n: int, above: int = 0, hidden: Collection[ObjectId] = ()
    ) -> Rows:
        query = _between(reader, before, above)
        if hidden:
            query["$nor"] = [{"kind": "mention", "who": {"$in": sorted(hidden)}}]
        return await rows(self._db, Find(NOTIFICATIONS, query, FIELDS, n, [("seq", -1)]))

    async def _seq_of(self, reader: ObjectId, before: int | None, above: int, n: int) -> int:
        """Return the `seq` of the notification that `n` others are newer than.

        It is 0 where there are not as many. An index alone answers.
        """
        query = _between(reader, before, above)
        found = await rows(self._db, Find(NOTIFICATIONS, query, ("seq",), 1, [("seq", -1)], skip=n))
        return int(found[0]["seq"]) if found else 0

    async def _shown(self, reader: ObjectId, batch: Rows) -> tuple[list[Notification], Reader]:
        """Return those that the reader may see: everything that this depends on is looked up in one command."""
        if not batch:
            return [], Reader(reader, {}, {})
        view = View(OwnEdges(reader))
        about = list({row["what"]: None for row in batch if "what" in row})
        likes = [like_key(row["who"], row["what"]) for row in batch if row["kind"] == "like"]
        finds = view.anew([row["who"] for row in batch])
        if about:
            finds |= {"statuses": statuses_by_id(about, SHOWN), "yours": liked_among(reader, about)}
        if likes:
            finds["likes"] = Find("likes", {"_id": {"$in": likes}}, ("_id",), len(likes))
        found = await together(self._db, **finds)
        view.learn(found)
        yours = {row["_id"] for row in found.get("yours", [])}
        statuses: dict[Any, StatusRow] = {
            row["_id"]: StatusRow.of(row, you_like=like_key(reader, row["_id"]) in yours)
            for row in found.get("statuses", [])
        }
        liked, me = {row["_id"] for row in found.get("likes", [])}, view.reader()
        told = (
            Notification(row["event"], row["seq"], row["kind"], row["who"], statuses.get(row.get("what")))
            for row in batch
        )
        return [one for one in told if _is_shown(one, me, liked)], me


def _between(person: ObjectId, before: int | None, above: int) -> dict[str, Any]:
    return {"whom": person, "seq": {"$gt": above, **({"$lt": before} if before is not None else {})}}


def _from(person: ObjectId, seq: int) -> dict[str, Any]:
    return {"whom": person, "seq": {"$gte": seq}}


def _is_shown(one: Notification, reader: Reader, liked: set[bytes]) -> bool:
    """Say whether a notification is still true and the reader may see it.

    What somebody muted does is shown, but for mentions, which go by the home timeline.
    """
    relation, status = reader.relations[one.who], one.status
    if relation.blocked or one.who in reader.departed:
        return False
    match one.kind:
        case "follow":
            return reader.followed_by[one.who]
        case "circle":
            return relation.in_circle
        case "like":
            return status is not None and visible(status, reader) and like_key(one.who, status.id) in liked
        case "mention":
            return status is not None and on_home(status, reader)


def _is_heard(author: ObjectId, reader: Reader) -> bool:
    """Say whether any status of the author may be on the reader's home timeline."""
    follows, blocked, _, muted = reader.relations[author]
    return follows and not (blocked or muted or author in reader.departed)
