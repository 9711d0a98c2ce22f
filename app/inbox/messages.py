"""Messages of a conversation: numbered without gaps, with receipts, deletions and retries.

A conversation is one document that says how far it and each of the two are; a message is stored in the transaction that
moves it on. Whoever stores one has looked up the conversation before, in one command with whatever else it takes, and
the transaction goes through only at the version that was looked at.
"""

import asyncio
import hmac
from collections.abc import Collection, Mapping
from contextlib import nullcontext
from datetime import datetime, timedelta
from typing import Any
from weakref import WeakValueDictionary

from bson import Binary, ObjectId

from app.errors import Conflict, Invalid, NoAccount, NotFound
from app.inbox import pictures
from app.inbox.numbers import next_numbers, numbers_of_change
from app.inbox.pictures import IMAGES
from app.inbox.sides import CONVERSATIONS, MESSAGE_FIELDS, MESSAGES, Message, Side, own
from app.models import LAST_SEQ, message_key
from app.stack import Hint, Stack
from app.stack.again import pauses_s
from app.stack.mongodb.find import Find, Rows, rows, together
from app.stack.mongodb.transaction import Contended, Transaction, transaction
from app.text import checked
from app.watch import metrics

TEXT_LIMIT = 2_000  # code points
SEAL = 8  # bytes
AHEAD = timedelta(minutes=1)  # a clock that is further ahead is wrong, and dates nothing that comes later
OVERTAKEN = "others keep writing into this conversation, or MongoDB has no majority that would show how far it is"
EARLIER_FIELDS = (*MESSAGE_FIELDS, "deleted", "digest")
OPEN = {"closed": {"$exists": False}}  # an inbox: the end of its account writes it, so it or the message comes first


def checked_text(text: str) -> str:
    """Return a message's text, trimmed. Raises Invalid."""
    return checked("text", text, TEXT_LIMIT)


class _MovedOn(Exception):
    """The conversation is not at the version any more that was looked at."""


class Messages:
    """The messages of all conversations. There is one instance per process.

    Ids that are not one's own are answered as if they did not exist. A hint says whom something has changed for, once
    that is stored; nothing depends on it.
    """

    def __init__(self, stack: Stack) -> None:
        self._db, self._clock, self._bus, self._secret = stack.db, stack.clock, stack.bus, stack.secret
        self._seal = hmac.digest(stack.secret, b"feedlab messages", "sha256")[:SEAL]
        self._turns: WeakValueDictionary[tuple[str, ObjectId], asyncio.Lock] = WeakValueDictionary()

    async def page(
        self, me: ObjectId, id: ObjectId, before: int | None, limit: int
    ) -> tuple[list[Message], int | None]:
        """Return the messages below the number `before`, newest first, and the cursor of the next page."""
        below = {"$gte": message_key(id, 0), "$lt": message_key(id, LAST_SEQ if before is None else before)}
        page = Find(MESSAGES, {"conversation": id, "_id": below}, MESSAGE_FIELDS, limit + 1, [("_id", -1)])
        found = await together(self._db, conversation=own(me, id), messages=page)
        side = Side(found["conversation"], me)
        shown = [side.message(row) for row in found["messages"][:limit]]
        return shown, shown[-1].seq if len(found["messages"]) > limit else None

    async def send(
        self,
        me: ObjectId,
        id: ObjectId,
        client_id: str,
        text: str | None,
        image: ObjectId | None = None,
    ) -> tuple[Message, bool]:
        """Store a message; return it, and whether it is new, not from an earlier try.

        Raises NotFound, Invalid, Forbidden across a block or where the other has
        deleted their account, NoAccount where they have themselves, and Conflict for a
        `client_id` that was used for another message.
        """
        text = checked_text(text) if text is not None else None
        if text is None and image is None:
            raise Invalid("text", "A message has a text, a picture or both.")
        again = {"conversation": id, "who": me, "client_id": client_id}
        finds = {"again": Find(MESSAGES, again, EARLIER_FIELDS, 1)}
        if image:
            finds["image"] = pictures.waiting(image, me, self._clock.now())
        async with (
            self._turn(IMAGES, image) if image else nullcontext(),
            self._turn(CONVERSATIONS, id),
        ):
            for pause_s in pauses_s():
                found = await together(self._db, conversation=own(me, id), **finds)
                side = Side(found["conversation"], me)
                if earlier := self._sent_before(side, found["again"], text, image):
                    self._tell(id, me, side.other)  # as nobody may have yet
                    return earlier, False
                side.check_is_open()
                if image and not found["image"]:
                    raise pictures.not_waiting()
                new = _next_message(side, client_id, text, image, self._clock.now())
                if await self._stored(side, new):
                    metrics.MESSAGES.inc()
                    self._tell(id, me, side.other)
                    return side.message(new), True
                await asyncio.sleep(pause_s)
        raise Contended(OVERTAKEN)

    def _sent_before(self, side: Side, again: Rows, text: str | None, image: ObjectId | None) -> Message | None:
        """Return what an earlier try stored, if anything. Raises Conflict if that was another message.

        A deleted message is taken for the same where an older process deleted it, or the database was another one then.
        """
        if not again:
            return None
        (row,) = again
        if row["deleted"]:
            kept = bytes(row.get("digest", b""))
            is_same = not kept.startswith(self._seal) or kept == self._digest(row["_id"], text, image)
        else:
            is_same = (row.get("text"), row.get("image")) == (text, image)
        if not is_same:
            raise Conflict("Another message was sent with this client_id.")
        return side.message(row)

    def _digest(self, key: bytes, text: str | None, image: ObjectId | None) -> bytes:
        """Return what stays of a deleted message, to tell the same one from another.

        Without the secret it says nothing of the text, and of two messages not that they say the same. It begins with
        what tells that secret from the one that the database has after a restore.
        """
        said = key + (image.binary if image else bytes(12)) + (text or "").encode()
        return self._seal + hmac.digest(self._secret, b"feedlab message" + said, "sha256")

    async def _stored(self, side: Side, new: dict[str, Any]) -> bool:
        """Store a message unless the conversation has moved on. Return whether it was."""
        change: dict[str, Any] = {
            "$inc": {"version": 1, "seq": 1, f"marks.{side.me}.sent": 1},
            "$addToSet": {"unread": side.other},
        }
        listed = {"active_at": new["created_at"], "listed": side.row["people"]}
        # Of a message alone their other devices would not know whom it is to.
        newly = [side.me] if side.me not in side.row["listed"] else []

        async def at_this_version(inside: Transaction) -> None:
            change["$set"] = listed | await numbers_of_change(inside, side.row, newly)
            try:
                told = await next_numbers(inside, side.row["people"], OPEN)
            except NoAccount as error:
                raise side.gone(error.who) from None
            there = {"_id": side.id, "version": side.version}
            if not await inside[CONVERSATIONS].update_one(there, change, upsert=False):
                raise _MovedOn
            if "image" in new:
                picture = pictures.waiting(new["image"], side.me, self._clock.now())
                await pictures.sent(inside, picture, side.row["people"])
            await inside[MESSAGES].insert_one({**new, "told": told})

        try:
            await transaction(self._db, at_this_version)
        except _MovedOn:
            return False
        return True

    async def receive(self, me: ObjectId, id: ObjectId, delivered: int | None, read: int | None) -> None:
        """Move the person's marks forward, never back. What is read has been delivered.

        Across a block the other does not see it. Raises NotFound, and Invalid above the last message or where neither
        mark is given.
        """
        if delivered is None and read is None:
            raise Invalid("read", "A receipt says what is delivered, or read.")
        read = read or 0
        delivered = max(delivered or 0, read)
        up_to_read = Find(MESSAGES, {"conversation": id, "_id": message_key(id, read)}, ("_id", "sent"), 1, by="_id")
        async with self._turn(CONVERSATIONS, id):
            for pause_s in pauses_s():
                found = await together(self._db, conversation=own(me, id), message=up_to_read)
                side = Side(found["conversation"], me)
                if delivered > side.seq:
                    raise Invalid("delivered" if read <= side.seq else "read", "There is no such message yet.")
                counted = found["message"][0]["sent"][str(side.other)] if read else 0
                marks = {"delivered": delivered, "read": read, "counted": counted}
                seen = {} if side.blocked else {"seen_delivered": delivered, "seen_read": read}
                if all(side.mine[name] >= mark for name, mark in (marks | seen).items()):
                    return
                concerned = [me] if all(side.mine[name] >= mark for name, mark in seen.items()) else [me, side.other]
                if await self._marked(side, marks | seen, concerned):
                    self._tell(id, *concerned)
                    return
                await asyncio.sleep(pause_s)
        raise Contended(OVERTAKEN)

    async def _marked(self, side: Side, marks: Mapping[str, int], concerned: Collection[ObjectId]) -> bool:
        """Store marks and say so, unless the conversation has moved on.

        If it has, there may be more to read.
        """
        change: dict[str, Any] = {"$max": {f"marks.{side.me}.{name}": mark for name, mark in marks.items()}}
        if marks["counted"] >= side.theirs["sent"]:
            change["$pull"] = {"unread": side.me}

        async def at_this_version(inside: Transaction) -> None:
            change["$set"] = await numbers_of_change(inside, side.row, concerned)
            there = {"_id": side.id, "version": side.version}
            if not await inside[CONVERSATIONS].update_one(there, change, upsert=False):
                raise _MovedOn

        try:
            await transaction(self._db, at_this_version)
        except _MovedOn:
            return False
        return True

    async def delete(self, me: ObjectId, id: ObjectId, seq: int) -> None:
        """Delete one's own message: it keeps its number and a digest, and its text and picture are gone.

        Raises NotFound for any other.
        """
        side = Side(await rows(self._db, own(me, id)), me)
        key = message_key(id, seq)
        there = {"conversation": id, "_id": key, "who": me, "deleted": False}

        async def once(inside: Transaction) -> None:
            found = await inside[MESSAGES].find_one(there, {"_id": 1, "text": 1, "image": 1})
            if not found:
                raise NotFound("You have no such message.")
            if "image" in found:
                await pictures.removed(inside, found["image"], self._clock.now())
            told = await next_numbers(inside, side.row["listed"])  # whoever has departed lists nothing any more
            digest = Binary(self._digest(key, found.get("text"), found.get("image")))
            gone = {"deleted": True, "digest": digest, "told": told}
            change = {"$set": gone, "$unset": {"text": "", "image": ""}}
            await inside[MESSAGES].update_one(there, change, upsert=False)

        await transaction(self._db, once)
        self._tell(id, me, side.other)

    def _tell(self, id: ObjectId, one: ObjectId, other: ObjectId | None = None) -> None:
        self._bus.tell(Hint("talked", one, id, other))

    def _turn(self, collection: str, id: ObjectId) -> asyncio.Lock:
        """Return the lock by which changes of a document that come through this process wait for each other."""
        return self._turns.setdefault((collection, id), asyncio.Lock())


def _next_message(
    side: Side, client_id: str, text: str | None, image: ObjectId | None, now: datetime
) -> dict[str, Any]:
    before = side.row["active_at"]  # by the clock of another process, maybe
    new = {"_id": message_key(side.id, side.seq + 1), "conversation": side.id, "who": side.me}
    new |= {"client_id": client_id, "created_at": before if now < before < now + AHEAD else now, "deleted": False}
    new |= {name: given for name, given in (("text", text), ("image", image)) if given is not None}
    return new | {"sent": {str(side.me): side.mine["sent"] + 1, str(side.other): side.theirs["sent"]}}
