"""The stored documents: one Beanie document per collection, with its keys and indexes.

`follows`, `statuses` and what the phases keep are also read as raw collections on the hot paths (`app/access.py`,
`phases/`): hydrating a Beanie document costs more than MongoDB's answer.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any, ClassVar, Literal, NamedTuple, Self

from beanie import Document
from bson import ObjectId
from pydantic import ConfigDict, Field, model_validator
from pymongo import ASCENDING, DESCENDING, IndexModel

Audience = Literal["followers", "mutuals", "circle"]
EventKind = Literal["follow", "like", "circle"]
NotificationKind = Literal["follow", "like", "circle", "mention"]

SETTINGS = "settings"  # a collection without a model: each of its few documents has fields of its own

# So begin the collections in which phases keep timelines, each container its own. `_id`: the reader's id, or 24 bytes
# that begin with it.
HOME = "home_"


def _unique(first: str, second: str) -> IndexModel:
    return IndexModel([(first, ASCENDING), (second, ASCENDING)], unique=True)


def _debts(reader: str) -> IndexModel:
    key = [("debt", ASCENDING), (reader, ASCENDING)]
    return IndexModel(key, name="debts", partialFilterExpression={"debt": True})


class Base(Document):
    """A document in which an ObjectId stays an ObjectId, in every field."""

    model_config = ConfigDict(arbitrary_types_allowed=True)
    id: ObjectId = Field(default_factory=ObjectId, alias="_id")  # type: ignore[assignment]


class User(Base):
    """A person. `password_hash` is argon2id, or None for somebody who cannot sign in with a password.

    `presence`: to whom they hide whether they are here. `seen_at`: when they were here last, to a minute.
    `signed_in`: how often, so that a new token and the end of all tokens write the same document.
    `deleted`: the account is; the row stays, so that nobody gets the handle again.
    """

    handle: str
    name: str
    password_hash: str | None = None
    admin: bool = False
    presence: Literal["nobody"] | None = None
    seen_at: datetime | None = None
    signed_in: int | None = None
    deleted: Literal[True] | None = None
    created_at: datetime
    found_by: list[str] = Field(default_factory=list)  # `search_words` of handle and name
    renamed: int | None = None  # the version of all names since which this one is as it is; None: since the beginning

    @model_validator(mode="after")
    def _found_by_handle_and_name(self) -> Self:
        self.found_by = search_words(self.handle, self.name)
        return self

    @classmethod
    async def called(cls, handle: str) -> "User | None":
        """Return the person who has this handle, as it is kept; None where nobody has, or the account was deleted."""
        return await cls.find_one({"handle": handle, "deleted": {"$exists": False}})

    class Settings:
        name = "users"
        indexes: ClassVar = [
            IndexModel("handle", unique=True),
            IndexModel([("found_by", ASCENDING), ("handle", ASCENDING)]),
            IndexModel("renamed", sparse=True),
        ]
        keep_nulls = False


@dataclass(frozen=True, slots=True)
class Account:
    """The fields of a user that never change. Everything else is read where it is needed."""

    id: ObjectId
    handle: str

    @classmethod
    def of(cls, user: User) -> Self:
        return cls(user.id, user.handle)


@dataclass(frozen=True, slots=True)
class Person(Account):
    """A person as others see them. Names may change: only `app.names` remembers any. The handle of a deleted account is
    "": it is nobody's, and will never be.
    """

    name: str

    @classmethod
    def of(cls, user: User) -> Self:
        return cls(user.id, user.handle, user.name)

    @property
    def is_there(self) -> bool:
        return bool(self.handle)


def search_words(handle: str, name: str) -> list[str]:
    """Return the words by whose beginning a search finds a person: the handle and the words of the name, regardless of
    case.
    """
    return list(dict.fromkeys([handle, *name.casefold().split()]))


class Token(Base):
    """A signed-in session: `digest` is the SHA-256 of the bearer token, which itself is stored nowhere."""

    digest: bytes
    user_id: ObjectId
    expires_at: datetime

    class Settings:
        name = "tokens"
        indexes: ClassVar = [
            IndexModel("digest", unique=True),
            IndexModel("expires_at", expireAfterSeconds=0),
            IndexModel([("user_id", ASCENDING), ("_id", DESCENDING)]),
        ]


class Ticket(Document):
    """A ticket opens one live stream in the name of a token, whose digest is `token`. `_id`: its own SHA-256."""

    id: bytes = Field(alias="_id")  # type: ignore[assignment]
    token: bytes
    expires_at: datetime

    class Settings:
        name = "tickets"
        indexes: ClassVar = [IndexModel("expires_at", expireAfterSeconds=86_400)]  # swept by another clock than ours


class Follow(Base):
    """`follower` follows `followee`.

    `debt`: this edge still owes its backfill; absent when it does not.
    """

    follower: ObjectId
    followee: ObjectId
    debt: Literal[True] | None = None

    class Settings:
        name = "follows"
        indexes: ClassVar = [
            _unique("follower", "followee"),
            IndexModel([("followee", ASCENDING), ("follower", ASCENDING)]),
            _debts("follower"),
        ]
        keep_nulls = False


class ActiveReader(Base):
    """A reader who has been here lately. `_id`: the reader's.

    `until`: phases 4, 5 and 6 deliver to them until then. `authors`: whose statuses they get.
    """

    until: datetime
    authors: list[ObjectId]

    class Settings:
        name = "active_readers"
        indexes: ClassVar = [
            IndexModel([("authors", ASCENDING), ("_id", ASCENDING), ("until", ASCENDING)], name="recipients"),
            IndexModel("until"),
        ]


class Block(Base):
    blocker: ObjectId
    blocked: ObjectId

    class Settings:
        name = "blocks"
        indexes: ClassVar = [_unique("blocker", "blocked"), _unique("blocked", "blocker")]


class Mute(Base):
    """`muter` does not want the statuses of `muted` on their home timeline."""

    muter: ObjectId
    muted: ObjectId

    class Settings:
        name = "mutes"
        indexes: ClassVar = [_unique("muter", "muted"), IndexModel("muted")]


class CircleMember(Base):
    """`member` is in `owner`'s circle. `debt`: the backfill is owed, as a new member may see more of the owner."""

    owner: ObjectId
    member: ObjectId
    debt: Literal[True] | None = None

    class Settings:
        name = "circles"
        indexes: ClassVar = [_unique("owner", "member"), IndexModel("member"), _debts("member")]
        keep_nulls = False


NOBODY = ObjectId(bytes(12))  # the id of nobody


FIRST_NAME = "a"  # no name of a consumer comes before it, and every tag does


def change_tag(status: ObjectId) -> str:
    """Return the tag of a status that has changed: what a look finds it by, in `pending`."""
    return "#" + status.binary.hex()


def versions_tag(reader: ObjectId) -> str:
    """Return the tag of a reader's versions."""
    return "@" + reader.binary.hex()


def whose_versions(tag: str) -> ObjectId:
    return ObjectId(tag[1:])


class EdgeVersion(Document):
    """The version of a reader's edges, the follows, blocks, circles and mutes that decide what they see: another id
    after each change; and how often what they like has changed. `_id`: the tag of the reader, or of one of three that
    are nobody: for the names of everybody and for the markers of pulled authors, whose `version` says how often these
    have changed, and for statuses that become pending late, another id after each.
    `closed`: the account is deleted, and its edges and likes change no more. `tokens`: another id whenever one of the
    person's tokens was given out or ended.

    They stand among the statuses, whose index `pending` so answers all that a page looks at: what is pending, what has
    changed, and these. A look is one `find`, which takes a quarter less time than an aggregate of three parts.
    `pending`: the tag alone. `user_id`: nobody's, so no author has them, and they have a shard key.
    """

    id: str = Field(alias="_id")  # type: ignore[assignment]
    user_id: ObjectId = NOBODY
    pending: list[str]
    version: int | ObjectId = 0
    likes: int = 0
    tokens: ObjectId | None = None
    closed: Literal[True] | None = None

    model_config = ConfigDict(arbitrary_types_allowed=True)

    class Settings:
        name = "statuses"
        indexes: ClassVar[list[IndexModel]] = []


class Departure(Base):
    """An account that was deleted and of which something may still be stored. `_id`: the person's. `since`: from then
    on nobody sees anything of it. `cleared`: all of it has been removed once; what was under way comes after that.
    """

    since: datetime
    cleared: Literal[True] | None = None

    class Settings:
        name = "departures"
        indexes: ClassVar[list[IndexModel]] = []
        keep_nulls = False


class Status(Base):
    """A status, stored once, whatever the phases do with its id.

    `pending`: the consumers that still have to handle it; phases deliver it. And its tag, once it has been liked or
    deleted, for whoever remembers it. Absent or empty when there is nothing of it.
    `pulled`: phase 6 never delivers it, its readers ask for it. Written by the insert and by nothing else.
    `idempotency_key`: `<author>:<key>`.
    `likes`: how many people like it; absent until somebody does.
    `deleted`: a tombstone without text, so that a late retry with the same idempotency key does not post it again.
    """

    user_id: ObjectId
    text: str
    audience: Audience | None
    pending: list[str] | None = None
    pulled: Literal[True] | None = None
    likes: int | None = None
    deleted: bool = False
    idempotency_key: str | None = None

    class Settings:
        name = "statuses"
        keep_nulls = False
        indexes: ClassVar = [
            IndexModel([("user_id", ASCENDING), ("_id", DESCENDING)]),
            IndexModel([("user_id", ASCENDING), ("audience", ASCENDING)]),
            IndexModel(
                [("pending", ASCENDING), ("_id", DESCENDING)],
                name="pending",
                partialFilterExpression={"pending": {"$gt": ""}},  # neither absent nor an empty list
            ),
            IndexModel(
                [("pending", ASCENDING), ("user_id", ASCENDING), ("_id", DESCENDING)],
                name="pending_of_authors",
                partialFilterExpression={"pending": {"$gte": FIRST_NAME}},  # no tag alone
            ),
            IndexModel(
                [("pulled", ASCENDING), ("user_id", ASCENDING), ("_id", DESCENDING)],
                name="pulled_by_author",
                partialFilterExpression={"pulled": True},
            ),
            IndexModel("idempotency_key", unique=True, sparse=True),
        ]


class HeavyAuthor(Base):
    """Somebody with so many active followers that phase 6 weighs whether their statuses are better pulled, or who is
    pulled. `_id`: the author's.

    `heavy_until`: a large delivery has shown it, and is believed until then.
    `pulled_until`: the marker (rule 9): a status of theirs may say `pulled`; none is stored later than that.
    `needed_until`: what was pulled under the marker may be missing in a list until then. It is noted when the marker
    has ended, for the `pulled_until` that this had then: `ended_at`.
    """

    heavy_until: datetime
    pulled_until: datetime | None = None
    needed_until: datetime | None = None
    ended_at: datetime | None = None

    class Settings:
        name = "heavy_authors"
        indexes: ClassVar = [
            IndexModel("heavy_until"),
            IndexModel([("needed_until", ASCENDING), ("pulled_until", ASCENDING)]),
        ]
        keep_nulls = False


class Like(Document):
    """Somebody likes a status. `_id` says it all: 24 bytes, the reader's id and the status's.

    Not clustered, other than home timelines: MongoDB 6.0 reads all of a clustered collection for an `$in` of `_id`,
    where the index of `_id` answers and nothing is fetched.
    """

    id: bytes = Field(alias="_id")  # type: ignore[assignment]

    class Settings:
        name = "likes"
        indexes: ClassVar[list[IndexModel]] = []


def like_key(reader: ObjectId, status: ObjectId) -> bytes:
    return reader.binary + status.binary


class Event(Base):
    """`who` has done something that concerns `whom`, about the status `what` where it is about one. Written together
    with what it tells of, and gone once it is handled.

    `pending`: the consumers that still have to handle it.
    """

    kind: EventKind
    who: ObjectId
    whom: ObjectId
    what: ObjectId | None = None
    pending: list[str]

    class Settings:
        name = "events"
        indexes: ClassVar = [IndexModel([("pending", ASCENDING), ("_id", ASCENDING)]), IndexModel("whom")]
        keep_nulls = False


class Notification(Document):
    """What `whom` is told. `_id` says who has done what to whom: the same thing done again is the same notification.

    `seq`: its place among all that concerns this person alone. `event`: the id of the event, or of the status that
    mentions them, and so the time. `until`: when it is forgotten.
    """

    id: bytes = Field(alias="_id")  # type: ignore[assignment]
    whom: ObjectId
    seq: int
    event: ObjectId
    kind: NotificationKind
    who: ObjectId
    what: ObjectId | None = None
    until: datetime

    model_config = ConfigDict(arbitrary_types_allowed=True)

    class Settings:
        name = "notifications"
        indexes: ClassVar = [
            IndexModel([("whom", ASCENDING), ("seq", DESCENDING)]),
            IndexModel("until", expireAfterSeconds=0),
        ]
        keep_nulls = False


class Inbox(Base):
    """The inbox of a person, whose id is `_id`. `seq`: the last number that was given to what concerns them alone.
    `read_to`: the last notification that they have seen; it only moves forward. `closed`: the account is deleted, and
    gets no messages.
    """

    seq: int = 0
    read_to: int = 0
    closed: Literal[True] | None = None

    class Settings:
        name = "inboxes"
        indexes: ClassVar[list[IndexModel]] = []


class Conversation(Base):
    """A conversation of two `people`, whose `pair_key` is `pair`.

    `seq`: the number of its last message. `version`: raised by each message and each block between the two, so that
    whoever stores a message on what they have looked up stores none on what is over.
    `active_at`: the time of the last message, or of the conversation while it is empty.
    `listed`: who finds it in their list. `unread`: who has unread messages. `silent`: who wants no badge for them.
    `blocked_by`: who of them blocks the other, which changes together with `blocks`; and whose account is deleted.
    `gone`: whose account is deleted, and has left this conversation.
    `marks`: for each person, by id, how far they are.
    `told`: for each person the number (`Inbox.seq`) that its last change other than by a message had.
    """

    pair: bytes
    people: list[ObjectId]
    seq: int = 0
    version: int = 0
    active_at: datetime
    listed: list[ObjectId]
    unread: list[ObjectId]
    silent: list[ObjectId]
    blocked_by: list[ObjectId]
    gone: list[ObjectId] | None = None
    marks: dict[str, dict[str, int]]
    told: list[dict[str, Any]]

    class Settings:
        name = "conversations"
        indexes: ClassVar = [
            IndexModel("pair", unique=True),
            IndexModel("people"),
            IndexModel([("listed", ASCENDING), ("active_at", DESCENDING), ("_id", DESCENDING)]),
            IndexModel("unread"),
            IndexModel([("told.who", ASCENDING), ("told.seq", DESCENDING)]),
        ]


def pair_key(one: ObjectId, other: ObjectId) -> bytes:
    return b"".join(sorted([one.binary, other.binary]))


class Message(Document):
    """A message of a conversation. `_id`: `message_key` of that and its number. A deleted one has neither text nor
    image, and instead a `digest` by which the same message is known that is sent again.

    `sent`: how many messages each of the two had sent then, this one included, by person.
    `told`: for each of them the number (`Inbox.seq`) that its last change had.
    """

    id: bytes = Field(alias="_id")  # type: ignore[assignment]
    conversation: ObjectId
    who: ObjectId
    client_id: str
    text: str | None = None
    image: ObjectId | None = None
    digest: bytes | None = None
    created_at: datetime
    deleted: bool = False
    sent: dict[str, int]
    told: list[dict[str, Any]]

    model_config = ConfigDict(arbitrary_types_allowed=True)

    class Settings:
        name = "messages"
        indexes: ClassVar = [
            IndexModel([("conversation", ASCENDING), ("who", ASCENDING), ("client_id", ASCENDING)], unique=True),
            IndexModel([("told.who", ASCENDING), ("told.seq", DESCENDING)]),
        ]
        keep_nulls = False


class Image(Base):
    """A picture, whole: `data` is what we made of what `owner` sent. A deleted picture has none.

    `readers`: the two people of its conversation; before it is sent there, `owner` alone. `until`: when it is removed;
    absent once it is sent.
    """

    owner: ObjectId
    type: str
    data: bytes | None = None
    readers: list[ObjectId]
    until: datetime | None = None

    class Settings:
        name = "images"
        indexes: ClassVar = [
            IndexModel("until", expireAfterSeconds=0),
            IndexModel("owner", name="unsent", partialFilterExpression={"until": {"$exists": True}}),
        ]
        keep_nulls = False


LAST_SEQ = 2**32 - 1


def message_key(conversation: ObjectId, seq: int) -> bytes:
    return conversation.binary + min(seq, LAST_SEQ).to_bytes(4, "big")


class StatusRow(NamedTuple):
    """A status as the hot path reads it. `audience` is None once it is deleted.

    `likes` and `you_like`, which is about whoever reads, may be others at the next read. Delivery does not know them.
    """

    id: ObjectId
    user_id: ObjectId
    text: str
    audience: Audience | None
    likes: int = 0
    you_like: bool = False

    @property
    def created_at(self) -> datetime:
        """The time inside the id, in UTC, to the second. The id's `generation_time` has a time zone written in Python,
        which every use of it calls back into.
        """
        return datetime.fromtimestamp(int.from_bytes(self.id.binary[:4], "big"), UTC)

    @classmethod
    def of(cls, document: Mapping[str, Any], *, you_like: bool = False) -> "StatusRow":
        found = document["_id"], document["user_id"], document["text"], document.get("audience")
        return cls(*found, document.get("likes", 0), you_like)


DOCUMENTS = (
    User, Token, Ticket, Follow, ActiveReader, Block, Mute, CircleMember, EdgeVersion, Departure, HeavyAuthor, Status,
    Like, Event, Notification, Conversation, Message, Image, Inbox,
)  # fmt: skip
COLLECTIONS = tuple(dict.fromkeys(document.Settings.name for document in DOCUMENTS))  # two share one
