"""Conversations between two people: opened, listed, silenced, and how many have unread messages."""

from collections.abc import Mapping
from typing import Any

from bson import ObjectId

from app.edges import change_edges
from app.errors import Forbidden, Invalid
from app.inbox.numbers import numbers_of_change
from app.inbox.sides import CONVERSATIONS, FIELDS, Conversation, Place, Side, own, with_last
from app.models import pair_key
from app.stack import Hint, Stack
from app.stack.mongodb.find import NEWEST_FIRST, Find, rows, together
from app.stack.mongodb.transaction import Transaction, transaction

LISTED = "listed_1_active_at_-1__id_-1"  # the index; by that of `_id` MongoDB would read everybody's
MOST_UNREAD = 1_000  # conversations, counted; as many or more
NOTHING: Mapping[str, int] = {
    "sent": 0,
    "delivered": 0,  # the marks as they are for this person
    "read": 0,
    "counted": 0,  # the other's messages up to `read`
    "seen_delivered": 0,  # both marks as the other sees them: no receipt goes across a block
    "seen_read": 0,
}


class Conversations:
    """All conversations. There is one instance per process.

    Ids that are not one's own are answered as if they did not exist. A hint says whom something has changed for, once
    that is stored; nothing depends on it.
    """

    def __init__(self, stack: Stack) -> None:
        self._db, self._clock, self._bus = stack.db, stack.clock, stack.bus

    async def open(self, me: ObjectId, other: ObjectId) -> tuple[Conversation, bool]:
        """Return the conversation with the other person, and whether it has been made now.

        Raises Invalid for oneself, Forbidden across a block.
        """
        if me == other:
            raise Invalid("handle", "You cannot write to yourself.")
        pair = pair_key(me, other)
        query, blocks = {"pair": pair}, _blocks(me, other)
        found = await together(
            self._db,
            conversation=Find(CONVERSATIONS, query, FIELDS, 1),
            blocks=Find("blocks", blocks, ("_id",), 1),
        )
        if found["blocks"]:
            raise Forbidden("One of you blocks the other.")
        if found["conversation"]:
            return (await with_last(self._db, [Side(found["conversation"], me)]))[0], False
        new = {
            "_id": self._clock.new_id(),
            "people": [me, other],
            "seq": 0,
            "version": 0,
            "active_at": self._clock.now(),
            "listed": [me],
            "unread": [],
            "silent": [],
            "blocked_by": [],
            "marks": {str(one): dict(NOTHING) for one in (me, other)},
            "told": [{"who": one, "seq": 0} for one in (me, other)],
        }

        async def unless_blocked(edges: Transaction) -> dict[str, Any]:
            if await edges["blocks"].find_one(blocks, {"_id": 1}):
                raise Forbidden("One of you blocks the other.")
            row = await edges[CONVERSATIONS].find_or_insert(query, new)
            if row["_id"] == new["_id"]:
                told = await numbers_of_change(edges, row, [me])
                await edges[CONVERSATIONS].update_one({"_id": row["_id"]}, {"$set": told}, upsert=False)
            return row

        # By the versions of both, as a block is made: of the two one comes first, and the other one sees it.
        row = await change_edges(self._db, {me, other}, unless_blocked)
        created = row["_id"] == new["_id"]
        if created:
            self._bus.tell(Hint("talked", me, row["_id"]))
        return (await with_last(self._db, [Side([row], me)]))[0], created

    async def page(
        self, me: ObjectId, before: Place | None, limit: int
    ) -> tuple[list[Conversation], Place | None, int]:
        """Return a page, the last active first, and the cursor of the next one.

        The third value is how many conversations have unread messages, counted up to MOST_UNREAD.
        """
        query: dict[str, Any] = {"listed": me}
        if before:
            earlier = {"active_at": before.active_at, "_id": {"$lt": before.id}}
            query["$or"] = [{"active_at": {"$lt": before.active_at}}, earlier]
        listed = Find(CONVERSATIONS, query, FIELDS, limit + 1, [("active_at", -1), ("_id", -1)])
        found = await together(self._db, listed=listed, unread=_unread_of(me, MOST_UNREAD))
        shown = await with_last(self._db, [Side([row], me) for row in found["listed"][:limit]])
        return shown, shown[-1].place if len(found["listed"]) > limit else None, len(found["unread"])

    async def older_than(self, me: ObjectId, before: ObjectId, limit: int) -> list[Conversation]:
        """Return the conversations that were made before this one, the newest first.

        In this order none of them ever moves, whoever writes meanwhile.
        """
        older = {"listed": me, "_id": {"$lt": before}}
        found = await rows(self._db, Find(CONVERSATIONS, older, FIELDS, limit, NEWEST_FIRST, LISTED))
        return await with_last(self._db, [Side([row], me) for row in found])

    async def by_id(self, me: ObjectId, id: ObjectId) -> Conversation:
        (found,) = await with_last(self._db, [Side(await rows(self._db, own(me, id)), me)])
        return found

    async def check_is_open(self, me: ObjectId, id: ObjectId) -> None:
        """Raise Forbidden where nothing more can be said, NoAccount, and NotFound."""
        Side(await rows(self._db, own(me, id)), me).check_is_open()

    async def unread(self, me: ObjectId, most: int = MOST_UNREAD) -> int:
        """Count the conversations with unread messages that are not silenced, up to `most`."""
        return len(await rows(self._db, _unread_of(me, most)))

    async def others(self, me: ObjectId, limit: int) -> list[ObjectId]:
        """Return the people with whom they have conversations, the last active first."""
        order = [("active_at", -1), ("_id", -1)]
        found = await rows(self._db, Find(CONVERSATIONS, {"listed": me}, ("people",), limit, order))
        return [next(id for id in row["people"] if id != me) for row in found]

    async def silence(self, me: ObjectId, id: ObjectId, on: bool) -> None:
        """Silence a conversation, or end that: while it is, its unread messages are on no badge.

        The other does not know. Raises NotFound.
        """
        side = Side(await rows(self._db, own(me, id)), me)
        if on == (me in side.row["silent"]):
            return

        async def change(inside: Transaction) -> None:
            silent = {"$addToSet" if on else "$pull": {"silent": me}}
            told = {"$set": await numbers_of_change(inside, side.row, [me])}
            await inside[CONVERSATIONS].update_one({"_id": id}, silent | told, upsert=False)

        await transaction(self._db, change)
        self._bus.tell(Hint("talked", me, id))


def _unread_of(me: ObjectId, most: int) -> Find:
    return Find(CONVERSATIONS, {"unread": me, "silent": {"$ne": me}}, ("_id",), most)


def _blocks(one: ObjectId, other: ObjectId) -> dict[str, Any]:
    return {"$or": [{"blocker": one, "blocked": other}, {"blocker": other, "blocked": one}]}
