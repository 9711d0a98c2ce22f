"""Conversations between two people: messages numbered without gaps, receipts, blocks.

A conversation is one document that says how far it and each of the two are; a message is stored in the transaction that
moves it on. Whoever stores one has looked up the conversation before, in one command with whatever else it takes, and
the transaction goes through only at the version that was looked at.
"""

import asyncio
import hmac
import re
from collections.abc import Collection, Iterator, Mapping
from contextlib import nullcontext
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any, Literal, NamedTuple
from weakref import WeakValueDictionary

from bson import Binary, ObjectId
from pymongo.errors import DuplicateKeyError

from app.edges import NAMES, change_edges, version_in, version_of
from app.errors import Conflict, Forbidden, Invalid, NoAccount, NotFound
from app.inbox import pictures
from app.inbox.notifier import INBOXES, NOTIFICATIONS
from app.inbox.pictures import IMAGES
from app.models import LAST_SEQ, message_key, pair_key
from app.models import Conversation as ConversationDocument
from app.models import Message as MessageDocument
from app.stack import Hint, Stack
from app.stack.mongodb.find import NEWEST_FIRST, Find, Rows, rows, together
from app.stack.mongodb.transaction import Contended, Transaction, transaction
from app.text import checked
from app.watch import metrics

CONVERSATIONS, MESSAGES = ConversationDocument.Settings.name, MessageDocument.Settings.name
LISTED = "listed_1_active_at_-1__id_-1"  # the index; by that of `_id` MongoDB would read everybody's
TEXT_LIMIT = 2_000  # code points
MOST_UNREAD = 1_000  # conversations, counted; as many or more
MOST_NEWS = 1_000  # rows of a kind that one command looks for: of the longest messages 8 of the 16 MB of a reply
EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
PLACE_PATTERN = "^[0-9a-f]{35}$"
SEAL = 8  # bytes
AHEAD = timedelta(minutes=1)  # a clock that is further ahead is wrong, and dates nothing that comes later
GONE = "The account of one of you has been deleted."
TRIES = 100  # to store something while others move the conversation on

FIELDS = ("_id", "people", "seq", "version", "active_at", "unread", "silent", "blocked_by", "gone", "marks", "listed")
MESSAGE_FIELDS = ("_id", "who", "client_id", "text", "image", "created_at")
EARLIER_FIELDS = (*MESSAGE_FIELDS, "deleted", "digest")
NOTHING: Mapping[str, int] = {
    "sent": 0,
    "delivered": 0,  # the marks as they are for this person
    "read": 0,
    "counted": 0,  # the other's messages up to `read`
    "seen_delivered": 0,  # both marks as the other sees them: no receipt goes across a block
    "seen_read": 0,
}

OPEN = {"closed": {"$exists": False}}  # an inbox: the end of its account writes it, so it or the message comes first

State = Literal["sent", "delivered", "read"]


class Place(NamedTuple):
    """The place of a conversation in a list.

    As text it has the milliseconds, which are enough until 2527, and the id.
    """

    active_at: datetime
    id: ObjectId

    def __str__(self) -> str:
        return f"{(self.active_at - EPOCH) // timedelta(milliseconds=1):011x}{self.id}"

    @classmethod
    def of(cls, text: str) -> "Place":
        """Return the place that a text says. Raises ValueError."""
        if not re.fullmatch(PLACE_PATTERN, text):
            raise ValueError("not the place of a conversation")
        return cls(EPOCH + timedelta(milliseconds=int(text[:11], 16)), ObjectId(text[11:]))


@dataclass(frozen=True)
class Message:
    """A message as one of the two sees it.

    `client_id`: None for the other's. `text`, `image`: both None where it has been deleted.
    """

    seq: int
    client_id: str | None
    who: ObjectId
    text: str | None
    image: ObjectId | None
    created_at: datetime
    state: State


@dataclass(frozen=True)
class Conversation:
    """A conversation as one of the two sees it.

    `last`: None where nothing has been said. `unread`: the other's messages above their own mark. `delivered_to`,
    `read_to`: the other's marks.
    """

    id: ObjectId
    other: ObjectId
    last: Message | None
    unread: int
    delivered_to: int
    read_to: int
    silenced: bool
    blocked: bool
    place: Place


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


def checked_text(text: str) -> str:
    """Return a message's text, trimmed. Raises Invalid."""
    return checked("text", text, TEXT_LIMIT)


class _MovedOn(Exception):
    """The conversation is not at the version any more that was looked at."""


class _Side:
    """A stored conversation from one side. Raises NotFound where there is none, or where it is not theirs."""

    def __init__(self, found: Rows, me: ObjectId) -> None:
        if not found:
            raise NotFound("There is no such conversation.")
        self.row, self.me = found[0], me
        self.id: ObjectId = self.row["_id"]
        self.other: ObjectId = next(id for id in self.row["people"] if id != me)
        self.seq, self.version = int(self.row["seq"]), int(self.row["version"])
        self.mine, self.theirs = self.row["marks"][str(me)], self.row["marks"][str(self.other)]
        self.blocked = bool(self.row["blocked_by"])

    def check_is_open(self) -> None:
        """Raise Forbidden where nothing more can be said, and NoAccount where that is because they have left."""
        if left := self.row.get("gone"):
            raise self.gone(self.me if self.me in left else self.other)
        if self.blocked:
            raise Forbidden("One of you blocks the other.")

    def gone(self, who: ObjectId) -> Forbidden | NoAccount:
        """Return the refusal where one of the two, `who`, has deleted their account."""
        return NoAccount(who) if who == self.me else Forbidden(GONE)

    def message(self, row: Mapping[str, Any]) -> Message:
        seq, own = int.from_bytes(row["_id"][12:], "big"), row["who"] == self.me
        marks, seen = (self.theirs, "seen_") if own else (self.mine, "")
        state: State = (
            "read" if seq <= marks[f"{seen}read"] else "delivered" if seq <= marks[f"{seen}delivered"] else "sent"
        )
        client_id = row["client_id"] if own else None
        return Message(seq, client_id, row["who"], row.get("text"), row.get("image"), row["created_at"], state)

    def next_message(self, client_id: str, text: str | None, image: ObjectId | None, now: datetime) -> dict[str, Any]:
        before = self.row["active_at"]  # by the clock of another process, maybe
        new = {"_id": message_key(self.id, self.seq + 1), "conversation": self.id, "who": self.me}
        new |= {"client_id": client_id, "created_at": before if now < before < now + AHEAD else now, "deleted": False}
        new |= {name: given for name, given in (("text", text), ("image", image)) if given is not None}
        return new | {"sent": {str(self.me): self.mine["sent"] + 1, str(self.other): self.theirs["sent"]}}

    def conversation(self, last: Mapping[str, Any] | None) -> Conversation:
        return Conversation(
            self.id,
            self.other,
            self.message(last) if last else None,
            self.theirs["sent"] - self.mine["counted"],
            self.theirs["seen_delivered"],
            self.theirs["seen_read"],
            self.me in self.row["silent"],
            self.blocked,
            Place(self.row["active_at"], self.id),
        )


class Conversations:
    """All conversations. There is one instance per process.

    Ids that are not one's own are answered as if they did not exist. A hint says whom something has changed for, once
    that is stored; nothing depends on it.
    """

    def __init__(self, stack: Stack) -> None:
        self._db, self._clock, self._bus, self._secret = stack.db, stack.clock, stack.bus, stack.secret
        self._seal = hmac.digest(stack.secret, b"feedlab messages", "sha256")[:SEAL]
        self._turns: WeakValueDictionary[tuple[str, ObjectId], asyncio.Lock] = WeakValueDictionary()

    # Reading

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
        found = await together(self._db, listed=listed, unread=unread_of(me, MOST_UNREAD))
        shown = await self._with_last([_Side([row], me) for row in found["listed"][:limit]])
        return shown, shown[-1].place if len(found["listed"]) > limit else None, len(found["unread"])

    async def older_than(self, me: ObjectId, before: ObjectId, limit: int) -> list[Conversation]:
        """Return the conversations that were made before this one, the newest first.

        In this order none of them ever moves, whoever writes meanwhile.
        """
        older = {"listed": me, "_id": {"$lt": before}}
        found = await rows(self._db, Find(CONVERSATIONS, older, FIELDS, limit, NEWEST_FIRST, LISTED))
        return await self._with_last([_Side([row], me) for row in found])

    async def conversation(self, me: ObjectId, id: ObjectId) -> Conversation:
        (found,) = await self._with_last([_Side(await rows(self._db, _of(me, id)), me)])
        return found

    async def check_is_open(self, me: ObjectId, id: ObjectId) -> None:
        """Raise Forbidden where nothing more can be said, NoAccount, and NotFound."""
        _Side(await rows(self._db, _of(me, id)), me).check_is_open()

    async def _with_last(self, sides: Collection[_Side]) -> list[Conversation]:
        keys = [message_key(side.id, side.seq) for side in sides if side.seq]
        last = Find(MESSAGES, {"_id": {"$in": keys}}, MESSAGE_FIELDS, len(keys), by="_id")
        lasts = {row["_id"][:12]: row for row in (await rows(self._db, last) if keys else [])}
        return [side.conversation(lasts.get(side.id.binary)) for side in sides]

    async def messages(
        self, me: ObjectId, id: ObjectId, before: int | None, limit: int
    ) -> tuple[list[Message], int | None]:
        """Return the messages below the number `before`, newest first, and the cursor of the next page."""
        below = {"$gte": message_key(id, 0), "$lt": message_key(id, LAST_SEQ if before is None else before)}
        page = Find(MESSAGES, {"conversation": id, "_id": below}, MESSAGE_FIELDS, limit + 1, [("_id", -1)])
        found = await together(self._db, conversation=_of(me, id), messages=page)
        side = _Side(found["conversation"], me)
        shown = [side.message(row) for row in found["messages"][:limit]]
        return shown, shown[-1].seq if len(found["messages"]) > limit else None

    async def unread(self, me: ObjectId, most: int = MOST_UNREAD) -> int:
        """Count the conversations with unread messages that are not silenced, up to `most`."""
        return len(await rows(self._db, unread_of(me, most)))

    async def changes(self, me: ObjectId, after: int, to: int, limit: int) -> list[Change]:
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
        sides = {row["_id"]: _Side([row], me) for row in (await rows(self._db, around) if ids else ())}
        changes = [
            Change(_told(row, me), id, sides[id].message(row))
            for row in found["messages"]
            if (id := ObjectId(row["_id"][:12])) in sides
        ]
        changed = await self._with_last([_Side([row], me) for row in found["conversations"]])
        numbers = {row["_id"]: _told(row, me) for row in found["conversations"]}
        return changes + [Change(numbers[one.id], one.id, one) for one in changed]

    async def news(
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
            for side in [_Side([known[ObjectId(row["_id"][:12])]], who)]
        ]
        changed = [(_Side([row], who), seq) for row, seq, who in _news(found["conversations"], after)]
        shown = await self._with_last([side for side, _ in changed])
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

    async def others(self, me: ObjectId, limit: int) -> list[ObjectId]:
        """Return the people with whom they have conversations, the last active first."""
        order = [("active_at", -1), ("_id", -1)]
        found = await rows(self._db, Find(CONVERSATIONS, {"listed": me}, ("people",), limit, order))
        return [next(id for id in row["people"] if id != me) for row in found]

    # Writing

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
            return (await self._with_last([_Side(found["conversation"], me)]))[0], False
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
                told = await _numbers_of_change(edges, row, [me])
                await edges[CONVERSATIONS].update_one({"_id": row["_id"]}, {"$set": told}, upsert=False)
            return row

        # By the versions of both, as a block is made: of the two one comes first, and the other one sees it.
        row = await change_edges(self._db, {me, other}, unless_blocked)
        created = row["_id"] == new["_id"]
        if created:
            self._tell(row["_id"], me)
        return (await self._with_last([_Side([row], me)]))[0], created

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
            for _ in range(TRIES):
                found = await together(self._db, conversation=_of(me, id), **finds)
                side = _Side(found["conversation"], me)
                if earlier := self._sent_before(side, found["again"], text, image):
                    self._tell(id, me, side.other)  # as nobody may have yet
                    return earlier, False
                side.check_is_open()
                if image and not found["image"]:
                    raise pictures.not_waiting()
                new = side.next_message(client_id, text, image, self._clock.now())
                if await self._stored(side, new):
                    metrics.MESSAGES.inc()
                    self._tell(id, me, side.other)
                    return side.message(new), True
        raise Contended("others keep writing into this conversation")

    def _sent_before(self, side: _Side, again: Rows, text: str | None, image: ObjectId | None) -> Message | None:
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

    async def _stored(self, side: _Side, new: dict[str, Any]) -> bool:
        """Store a message unless the conversation has moved on. Return whether it was."""
        change: dict[str, Any] = {
            "$inc": {"version": 1, "seq": 1, f"marks.{side.me}.sent": 1},
            "$addToSet": {"unread": side.other},
        }
        listed = {"active_at": new["created_at"], "listed": side.row["people"]}
        # Of a message alone their other devices would not know whom it is to.
        newly = [side.me] if side.me not in side.row["listed"] else []

        async def at_this_version(inside: Transaction) -> None:
            change["$set"] = listed | await _numbers_of_change(inside, side.row, newly)
            try:
                told = await _numbers(inside, side.row["people"], OPEN)
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
            for _ in range(TRIES):
                found = await together(self._db, conversation=_of(me, id), message=up_to_read)
                side = _Side(found["conversation"], me)
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
        raise Contended("others keep writing into this conversation")

    async def _marked(self, side: _Side, marks: Mapping[str, int], concerned: Collection[ObjectId]) -> bool:
        """Store marks and say so, unless the conversation has moved on.

        If it has, there may be more to read.
        """
        change: dict[str, Any] = {"$max": {f"marks.{side.me}.{name}": mark for name, mark in marks.items()}}
        if marks["counted"] >= side.theirs["sent"]:
            change["$pull"] = {"unread": side.me}

        async def at_this_version(inside: Transaction) -> None:
            change["$set"] = await _numbers_of_change(inside, side.row, concerned)
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
        side = _Side(await rows(self._db, _of(me, id)), me)
        key = message_key(id, seq)
        there = {"conversation": id, "_id": key, "who": me, "deleted": False}

        async def once(inside: Transaction) -> None:
            found = await inside[MESSAGES].find_one(there, {"_id": 1, "text": 1, "image": 1})
            if not found:
                raise NotFound("You have no such message.")
            if "image" in found:
                await pictures.removed(inside, found["image"], self._clock.now())
            told = await _numbers(inside, side.row["listed"])  # whoever has departed lists nothing any more
            digest = Binary(self._digest(key, found.get("text"), found.get("image")))
            gone = {"deleted": True, "digest": digest, "told": told}
            change = {"$set": gone, "$unset": {"text": "", "image": ""}}
            await inside[MESSAGES].update_one(there, change, upsert=False)

        await transaction(self._db, once)
        self._tell(id, me, side.other)

    async def silence(self, me: ObjectId, id: ObjectId, on: bool) -> None:
        """Silence a conversation, or end that: while it is, its unread messages are on no badge.

        The other does not know. Raises NotFound.
        """
        side = _Side(await rows(self._db, _of(me, id)), me)
        if on == (me in side.row["silent"]):
            return

        async def change(inside: Transaction) -> None:
            silent = {"$addToSet" if on else "$pull": {"silent": me}}
            told = {"$set": await _numbers_of_change(inside, side.row, [me])}
            await inside[CONVERSATIONS].update_one({"_id": id}, silent | told, upsert=False)

        await transaction(self._db, change)
        self._tell(id, me)

    def _tell(self, id: ObjectId, one: ObjectId, other: ObjectId | None = None) -> None:
        self._bus.tell(Hint("talked", one, id, other))

    def _turn(self, collection: str, id: ObjectId) -> asyncio.Lock:
        """Return the lock by which changes of a document that come through this process wait for each other."""
        return self._turns.setdefault((collection, id), asyncio.Lock())


def unread_of(me: ObjectId, most: int) -> Find:
    return Find(CONVERSATIONS, {"unread": me, "silent": {"$ne": me}}, ("_id",), most)


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


def _of(me: ObjectId, id: ObjectId) -> Find:
    return Find(CONVERSATIONS, {"_id": id, "people": me}, FIELDS, 1)


def _blocks(one: ObjectId, other: ObjectId) -> dict[str, Any]:
    return {"$or": [{"blocker": one, "blocked": other}, {"blocker": other, "blocked": one}]}


async def _numbers(
    inside: Transaction, people: Collection[ObjectId], where: Mapping[str, Any] | None = None
) -> list[dict[str, Any]]:
    """Take the next number in the inbox of each of these people, sorted: fewer transactions begin again.

    Raises NoAccount for somebody whose inbox is not as `where` says.
    """
    numbers = []
    for one in sorted(people):
        try:
            seq = await inside[INBOXES].next_number({"_id": one, **(where or {})})
        except DuplicateKeyError:  # it is there, and closed
            raise NoAccount(one) from None
        numbers.append({"who": one, "seq": seq})
    return numbers


async def _numbers_of_change(
    inside: Transaction, row: Mapping[str, Any], concerned: Collection[ObjectId]
) -> dict[str, int]:
    """Take the next number of each of these people, for a change of the conversation itself.

    The answer is the fields of its document that keep them.
    """
    numbers = await _numbers(inside, concerned)
    return {f"told.{row['people'].index(told['who'])}.seq": told["seq"] for told in numbers}
