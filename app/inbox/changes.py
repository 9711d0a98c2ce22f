"""What has changed in conversations under the numbers of somebody's inbox, for whoever was not told of it."""

from collections.abc import Collection, Iterator, Mapping
from typing import Any, NamedTuple

from bson import ObjectId

from app.edges import NAMES, version_in, version_of
from app.inbox.conversations import MOST_UNREAD
from app.inbox.notifier import NOTIFICATIONS
from app.inbox.sides import CONVERSATIONS, FIELDS, MESSAGE_FIELDS, MESSAGES, Conversation, Message, Side, with_last
from app.stack import Stack
from app.stack.mongodb.find import Find, Rows, rows, together

MOST_NEWS = 1_000  # rows of a kind that one command looks for: of the longest messages 8 of the 16 MB of a reply


class Change(NamedTuple):
    """A message that was sent or deleted, or a conversation that has changed otherwise.

    `seq`: its number in the inbox of whoever sees it.
    """

    seq: int
    conversation: ObjectId
    what: Message | Conversation


class Untold(NamedTuple):
    """The changes that somebody was not told of, in the order of their numbers.

    `others`: the people with whom these conversations are. `unread`: how many conversations have unread messages.
    """

    changes: list[Change]
    others: set[ObjectId]
    unread: int

    @property
    def shown(self) -> set[ObjectId]:
        """The people whose presence is part of these changes."""
        return {change.what.other for change in self.changes if isinstance(change.what, Conversation)}


class Changes:
    """The changes of all conversations. There is one instance per process."""

    def __init__(self, stack: Stack) -> None:
        self._db = stack.db

    async def between(self, me: ObjectId, after: int, to: int, limit: int) -> list[Change]:
        """Return what has changed under a number of theirs above `after`, up to `to`.

        At most `limit` messages are returned, and as many conversations.
        """
        told = {"told": {"$elemMatch": {"who": me, "seq": {"$gt": after, "$lte": to}}}}
        found = await together(
            self._db,
            messages=Find(MESSAGES, told, (*MESSAGE_FIELDS, "told"), limit),
            conversations=Find(CONVERSATIONS, told, (*FIELDS, "told"), limit),
        )
        ids = list({ObjectId(row["_id"][:12]) for row in found["messages"]})
        around = Find(CONVERSATIONS, {"_id": {"$in": ids}, "people": me}, FIELDS, len(ids))
        sides = {row["_id"]: Side([row], me) for row in (await rows(self._db, around) if ids else ())}
        changes = [
            Change(_told(row, me), id, sides[id].message(row))
            for row in found["messages"]
            if (id := ObjectId(row["_id"][:12])) in sides
        ]
        changed = await with_last(self._db, [Side([row], me) for row in found["conversations"]])
        numbers = {row["_id"]: _told(row, me) for row in found["conversations"]}
        return changes + [Change(numbers[one.id], one.id, one) for one in changed]

    async def untold(
        self, after: Mapping[ObjectId, int], about: Collection[ObjectId]
    ) -> tuple[dict[ObjectId, Untold], int]:
        """Return what has changed for each person under a number above theirs, and the version of everybody's names.

        `after`: the number of each person. `about`: the conversations that have probably changed. A person for whom
        anything else has such a number is not among the answers, and nobody is where it is too much for one command.

        It takes one command for all of them, and one more where something else has changed than by a message, or
        elsewhere.
        """
        told = [{"told": {"$elemMatch": {"who": one, "seq": {"$gt": seq}}}} for one, seq in after.items()]
        numbered = {"$or": [{"whom": one, "seq": {"$gt": seq}} for one, seq in after.items()]}
        around = {"$or": [{"_id": {"$in": list(about)}}, *told]}
        found = await together(
            self._db,
            messages=Find(MESSAGES, {"$or": told}, (*MESSAGE_FIELDS, "told"), MOST_NEWS),
            conversations=Find(CONVERSATIONS, around, (*FIELDS, "told"), MOST_NEWS),
            notifications=Find(NOTIFICATIONS, numbered, ("whom",), MOST_NEWS),
            unread=Find(CONVERSATIONS, {"unread": {"$in": list(after)}}, ("unread", "silent"), MOST_NEWS),
            names=version_of(NAMES),
        )
        version = version_in(found["names"])
        if any(len(part) == MOST_NEWS for part in found.values()):
            return {}, version
        known = {row["_id"]: row for row in found["conversations"]}
        if missing := list({ObjectId(row["_id"][:12]) for row in found["messages"]} - known.keys()):
            elsewhere = Find(CONVERSATIONS, {"_id": {"$in": missing}}, FIELDS, len(missing))
            known |= {row["_id"]: row for row in await rows(self._db, elsewhere)}
        changes = [
            (side, Change(seq, side.id, side.message(row)))
            for row, seq, who in _news(found["messages"], after)
            for side in [Side([known[ObjectId(row["_id"][:12])]], who)]
        ]
        changed = [(Side([row], who), seq) for row, seq, who in _news(found["conversations"], after)]
        shown = await with_last(self._db, [side for side, _ in changed])
        changes += [(side, Change(seq, side.id, one)) for (side, seq), one in zip(changed, shown, strict=True)]
        answers = {
            me: Untold([], set(), min(MOST_UNREAD, sum(_is_unread(row, me) for row in found["unread"])))
            for me in after.keys() - {row["whom"] for row in found["notifications"]}
        }
        for side, change in sorted(changes, key=lambda one: one[1].seq):
            if side.me in answers:
                answers[side.me].changes.append(change)
                answers[side.me].others.add(side.other)
        return answers, version


def _is_unread(row: Mapping[str, Any], me: ObjectId) -> bool:
    return me in row["unread"] and me not in row["silent"]


def _told(row: Mapping[str, Any], me: ObjectId) -> int:
    return next(int(told["seq"]) for told in row["told"] if told["who"] == me)


def _news(found: Rows, after: Mapping[ObjectId, int]) -> Iterator[tuple[dict[str, Any], int, ObjectId]]:
    """Yield each row with each person for whom it is news, and the number that it has for them."""
    for row in found:
        for told in row["told"]:
            if told["who"] in after and told["seq"] > after[told["who"]]:
                yield row, told["seq"], told["who"]
