"""A conversation and its messages as they are stored, and as one of its two people sees them."""

import re
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any, Literal, NamedTuple

from bson import ObjectId

from app.errors import Forbidden, NoAccount, NotFound
from app.models import Conversation as ConversationDocument
from app.models import Message as MessageDocument
from app.models import message_key
from app.stack.mongodb.connection import Database
from app.stack.mongodb.find import Find, Rows, rows

CONVERSATIONS, MESSAGES = ConversationDocument.Settings.name, MessageDocument.Settings.name
EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
PLACE_PATTERN = "^[0-9a-f]{35}$"
GONE = "The account of one of you has been deleted."

FIELDS = ("_id", "people", "seq", "version", "active_at", "unread", "silent", "blocked_by", "gone", "marks", "listed")
MESSAGE_FIELDS = ("_id", "who", "client_id", "text", "image", "created_at")

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


class Side:
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


def own(me: ObjectId, id: ObjectId) -> Find:
    """Return where to find a conversation, if it is one of theirs."""
    return Find(CONVERSATIONS, {"_id": id, "people": me}, FIELDS, 1)


async def with_last(db: Database, sides: Collection[Side]) -> list[Conversation]:
    """Return these conversations, each with its last message."""
    keys = [message_key(side.id, side.seq) for side in sides if side.seq]
    last = Find(MESSAGES, {"_id": {"$in": keys}}, MESSAGE_FIELDS, len(keys), by="_id")
    lasts = {row["_id"][:12]: row for row in (await rows(db, last) if keys else [])}
    return [side.conversation(lasts.get(side.id.binary)) for side in sides]
