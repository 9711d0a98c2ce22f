"""The schemas of the API: what is accepted and what is answered. The OpenAPI document is made from these."""

import re
from collections.abc import Callable, Mapping
from datetime import UTC, datetime
from typing import Annotated, Any, Literal, Self

from bson import ObjectId
from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    PlainSerializer,
    PlainValidator,
    StringConstraints,
    WithJsonSchema,
)
from pydantic_core import PydanticCustomError

from app import models
from app.accounts import NAME_LENGTH, PASSWORD_LENGTHS, checked_handle, checked_name, checked_password
from app.errors import Invalid
from app.inbox import conversations, messages, notifications, pictures, sides
from app.inbox.notifications import MOST_UNREAD
from app.live import presence as presences
from app.models import Audience, NotificationKind, StatusRow, User
from app.social.statuses import TEXT_LIMIT, checked_text
from app.text import INVISIBLE
from phases import PHASES, timelines
from phases.home.candidates import Source

MOST_WITH_UNREAD = conversations.MOST_UNREAD
SLUGS = tuple(phase.slug for phase in PHASES)

_SPACE = "".join(chr(code) for code in range(0x3001) if chr(code).isspace())  # what str.strip() removes
_S = "".join(f"\\u{ord(space):04x}" for space in _SPACE)
_I = "".join(f"\\u{ord(c):04x}" if c != "-" and c < "\U00010000" else c for c in INVISIBLE)


def _pattern(never: str, longest: int, *, blank: bool = False) -> str:
    """Return a pattern: 1 to `longest` characters after trimming, none of `never`, and one visible.

    `blank`: or only spaces.
    """
    trimmed = rf"[^{_S}{never}](?:[^{never}]{{0,{longest - 2}}}[^{_S}{never}])?"
    seen = rf"(?=[\s\S]*[^{_S}{_I}])"
    return rf"^(?:{seen}[{_S}]*{trimmed})" + ("?" if blank else "") + rf"[{_S}]*$"


def _described(**schema: object) -> WithJsonSchema:
    return WithJsonSchema({"type": "string", **schema})


TEXT_PATTERN = _pattern(r"\u0000", TEXT_LIMIT)
MESSAGE_PATTERN = _pattern(r"\u0000", messages.TEXT_LIMIT)
NAME_PATTERN = _pattern(r"\u0000-\u001f\u007f-\u009f\u2028\u2029", NAME_LENGTH, blank=True)
ID_PATTERN = "^[0-9a-fA-F]{24}$"
IMAGES = "/api/v1/images/"


def _time(moment: datetime) -> str:
    return moment.astimezone(UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")


def _as(use_case: Callable[[str], str]) -> AfterValidator:
    """Make a validator of a use case's check, so that its refusal is named beside the other wrong fields."""

    def checked(given: str) -> str:
        try:
            return use_case(given)
        except Invalid as error:
            raise PydanticCustomError("refused", "{why}", {"why": str(error)}) from None

    return AfterValidator(checked)


def _cursor(given: object) -> ObjectId:
    if isinstance(given, str) and re.fullmatch(ID_PATTERN, given):
        return ObjectId(given)
    raise PydanticCustomError("cursor", "An id has 24 hex digits.")


def _plain_number(given: object) -> object:
    if isinstance(given, str) and not re.fullmatch(r"0|-?[1-9][0-9]{0,9}", given):
        raise PydanticCustomError("number", "A whole number is expected.")
    return given


def _whole(given: object) -> object:
    """Return an integer for a whole float: 1.0 is an integer in JSON Schema."""
    return int(given) if isinstance(given, float) and given.is_integer() else given


def _one_of(**types: str) -> ConfigDict:
    """Configure a part of a request to need at least one of these fields, which are null where they are left out."""
    given: list[Any] = [{"required": [name], "properties": {name: {"type": type}}} for name, type in types.items()]
    return ConfigDict(json_schema_extra={"anyOf": given})


def _each_once(slugs: list[str]) -> list[str]:
    if len(set(slugs)) < len(slugs):
        raise PydanticCustomError("phases", "Each phase is named once.")
    return slugs


HANDLE_PATTERN = "^[a-zA-Z0-9_]{1,30}$"
Id = Annotated[str, Field(pattern="^[0-9a-f]{24}$", examples=["6553f1a0c2a4e8d1b7f01234"])]
Cursor = Annotated[ObjectId, PlainValidator(_cursor), WithJsonSchema({"type": "string", "pattern": ID_PATTERN})]
Time = Annotated[
    datetime,
    PlainSerializer(_time, return_type=str),
    WithJsonSchema({"type": "string", "format": "date-time", "examples": ["2026-11-20T10:08:00.000Z"]}),
]
# `Timelines` knows which phases there are, and refuses others.
Slug = Annotated[str, Field(min_length=1), WithJsonSchema({"type": "string", "enum": list(SLUGS)})]
Count = Annotated[int, Field(ge=0)]
Whole = Annotated[int, BeforeValidator(_whole)]


class Given(BaseModel):
    """A part of a request: nothing is converted, nothing unknown is let through."""

    model_config = ConfigDict(strict=True, extra="forbid")


Name = Annotated[str, _as(checked_name), _described(pattern=NAME_PATTERN)]
NewPassword = Annotated[
    str, _as(checked_password), _described(minLength=PASSWORD_LENGTHS[0], maxLength=PASSWORD_LENGTHS[1])
]


class SignUp(Given):
    handle: Annotated[str, _as(checked_handle), _described(pattern=HANDLE_PATTERN)] = Field(
        description="kept in lower case, unique regardless of case"
    )
    name: Name | None = Field(None, description="spaces around it aside; left out or blank: the handle")
    password: NewPassword


class ProfileChange(Given):
    """A change of your profile. A field that is left out or null stays as it is."""

    name: Name | None = Field(None, description="spaces around it aside; blank: the handle")
    presence: Literal["mutuals", "nobody"] | None = Field(None, description="to whom you show whether you are online")


class PasswordChange(Given):
    old: str
    new: NewPassword


class Proof(Given):
    password: str


class Credentials(Given):
    """A handle and a password, of any form: what nobody can have signed up with is as wrong as an unknown handle."""

    handle: str
    password: str


class NewStatus(Given):
    text: Annotated[str, _as(checked_text), _described(pattern=TEXT_PATTERN, examples=["Hello"])] = Field(
        description=f"1 to {TEXT_LIMIT} code points after trimming, without NUL, one of which can be seen"
    )
    audience: Audience = "followers"


class PhaseChange(Given):
    """A switch of phases. A field that is left out or null stays as it is."""

    read: Slug | None = Field(None, description="the phase that answers a read which names none")
    delivering: Annotated[list[Slug], Field(max_length=len(SLUGS)), AfterValidator(_each_once)] | None = Field(
        None, description="the phases that are kept up to date", json_schema_extra={"uniqueItems": True}
    )


class Query(BaseModel):
    """The query parameters of a request, which arrive as text. Requests with the same ones share a model."""

    model_config = ConfigDict(extra="ignore", frozen=True)


class Walk(Query):
    """The part of a list that is asked for: where the page begins and how long it is."""

    before: Cursor | None = Field(None, description="the `next` of the page before; left out: the newest")
    limit: Annotated[int, Field(ge=1, le=100), BeforeValidator(_plain_number)] = 20


class TimelineWalk(Walk):
    phase: Slug | None = Field(None, description="left out: the system's read phase")


class Refresh(Query):
    phase: Slug | None = Field(None, description="left out: the system's read phase")


class NumberWalk(Query):
    before: Annotated[int, Field(ge=1, le=9_999_999_999), BeforeValidator(_plain_number)] | None = Field(
        None, description="the `next` of the page before; left out: the newest"
    )
    limit: Annotated[int, Field(ge=1, le=100), BeforeValidator(_plain_number)] = 20


class LivePlace(Query):
    after: str | None = Field(None, description="the id of the last event that came; the header goes before it")


class LiveHeaders(BaseModel):
    last_event_id: str | None = Field(None, alias="Last-Event-ID", description="the id of the last event that came")


class NewTicket(BaseModel):
    ticket: str
    expires_at: Time


class ReadTo(Given):
    to: Whole = Field(
        ge=0, description="the `seq` of the newest that has been seen; a lower one than before changes nothing"
    )


UPLOAD_PATTERN = f"^[A-Za-z0-9_-]{{{pictures.ADDRESS_LENGTH}}}$"
SEQ_PATTERN = "^[1-9][0-9]{0,8}$"


def _place(given: object) -> sides.Place:
    try:
        return sides.Place.of(str(given))
    except ValueError:
        raise PydanticCustomError("cursor", "Not the `next` of a page.") from None


Place = Annotated[
    sides.Place,
    PlainValidator(_place),
    WithJsonSchema({"type": "string", "pattern": sides.PLACE_PATTERN}),
]


class ConversationWalk(Query):
    before: Place | None = Field(None, description="the `next` of the page before; left out: the last active")
    limit: Annotated[int, Field(ge=1, le=100), BeforeValidator(_plain_number)] = 20


class NewMessage(Given):
    """A message to send, with at least one of `text` and `image`."""

    model_config = _one_of(text="string", image="string")

    client_id: Annotated[str, StringConstraints(pattern=r"^[A-Za-z0-9._:-]{1,100}$")] = Field(
        description="yours: the same again is answered with the message stored the first time"
    )
    text: Annotated[str, _as(messages.checked_text), _described(pattern=MESSAGE_PATTERN)] | None = Field(
        None, description=f"1 to {messages.TEXT_LIMIT} code points after trimming, one of which can be seen"
    )
    image: Annotated[str, StringConstraints(pattern=f"^{IMAGES}[0-9a-f]{{24}}$")] | None = Field(
        None, description="a finished upload of yours, which is in no other message"
    )


class NewUpload(Given):
    type: pictures.Type
    size: Whole = Field(ge=1, le=pictures.LARGEST, description="bytes")


class Upload(BaseModel):
    upload_url: str = Field(description="PUT the bytes here: once, without a token, before it expires")
    image: str = Field(description="the picture's address, for a message, once it is there")
    expires_at: Time


class Receipt(Given):
    """How far messages have arrived and been shown; at least one of the two.

    They only move forward, and what is read has been delivered.
    """

    model_config = _one_of(delivered="integer", read="integer")

    delivered: Whole | None = Field(None, ge=0, description="`seq` up to which messages have arrived")
    read: Whole | None = Field(None, ge=0, description="`seq` up to which messages have been shown")


class PostHeaders(BaseModel):
    idempotency_key: Annotated[str, StringConstraints(pattern=r"^[\x21-\x7e]{1,200}$")] | None = Field(
        None, alias="Idempotency-Key", description="the same key again is answered with the status made the first time"
    )


class Person(BaseModel):
    id: Id
    handle: str | None = Field(description="null: the account has been deleted")
    name: str

    @classmethod
    def of(cls, person: models.Person | User) -> Self:
        return cls(id=str(person.id), handle=person.handle or None, name=person.name)


def person(one: models.Person) -> dict[str, Any]:
    """Return a `Person` as JSON, without validating it again."""
    return {"id": str(one.id), "handle": one.handle or None, "name": one.name}


Seen = Mapping[ObjectId, presences.Presence | None]  # as somebody may see others


class Presence(BaseModel):
    online: bool
    last_seen_at: Time | None = Field(description="null: never, so far")

    @classmethod
    def of(cls, seen: presences.Presence | None) -> Self | None:
        return cls(**seen._asdict()) if seen else None


def presence(person: models.Person, presence: presences.Presence | None) -> dict[str, Any]:
    """Return the content of a `presence` event."""
    seen = Presence.of(presence)
    return {"handle": person.handle, "presence": seen.model_dump(mode="json") if seen else None}


class Profile(Person):
    followers: Count
    following: Count
    statuses: Count = Field(description="those you may see")
    you_follow: bool
    follows_you: bool
    blocked: bool = Field(description="whether you block this person")
    muted: bool = Field(description="whether you mute this person: their statuses are not on your home timeline")
    presence: Presence | None = Field(
        description="null where you are not mutual followers, a block stands between you, or they hide it"
    )


class NewToken(BaseModel):
    token: str
    expires_at: Time


class Status(BaseModel):
    id: Id
    author: Person
    text: str
    audience: Audience
    created_at: Time
    likes: Count
    you_like: bool


def status(row: StatusRow, authors: Mapping[ObjectId, models.Person]) -> dict[str, Any]:
    """Return a `Status` as JSON, without validating it again: pages are made of these."""
    assert row.audience, "a deleted status has no face"
    return {
        "id": str(row.id),
        "author": person(authors[row.user_id]),
        "text": row.text,
        "audience": row.audience,
        "created_at": _time(row.created_at),
        "likes": row.likes,
        "you_like": row.you_like,
    }


Next = Annotated[Id | None, Field(description="`before` of the next page; null only at the end")]


class People(BaseModel):
    users: list[Person]
    next: Next


class Statuses(BaseModel):
    statuses: list[Status]
    next: Next


class Notification(BaseModel):
    id: Id
    seq: int = Field(ge=1, description="rises by at least 1 from each to the next newer one")
    kind: NotificationKind
    from_: Person = Field(alias="from")
    status: Status | None = Field(description="the liked or mentioning one, else null")
    created_at: Time


def notification(one: notifications.Notification, people: Mapping[ObjectId, models.Person]) -> dict[str, Any]:
    """Return a `Notification` as JSON. `people`: who did it, and the author of the status."""
    return {
        "id": str(one.id),
        "seq": one.seq,
        "kind": one.kind,
        "from": person(people[one.who]),
        "status": status(one.status, people) if one.status else None,
        "created_at": _time(one.created_at),
    }


class Notifications(BaseModel):
    notifications: list[Notification]
    unread: int = Field(ge=0, le=MOST_UNREAD, description=f"{MOST_UNREAD} means as many or more")
    read_to: int = Field(ge=0, description="`seq` up to which everything is read")
    next: int | None = Field(description="`before` of the next page; null only at the end")


class OwnAccount(Person):
    created_at: Time
    presence: Literal["mutuals", "nobody"]
    last_seen_at: Time | None


class Export(BaseModel):
    """Everything of yours, newest first, except for what you may no longer see."""

    account: OwnAccount
    statuses: list[Status]
    following: list[Person]
    followers: list[Person]
    circle: list[Person]
    blocks: list[Person]
    mutes: list[Person]
    likes: list[Id] = Field(description="the ids of statuses, some of which may have been deleted")
    notifications: list[Notification]
    conversations: "list[Conversation]"
    messages: "list[MessageOf]" = Field(description="of these conversations, one after another")


class Message(BaseModel):
    seq: int = Field(ge=1, description="1, 2, 3 … without gaps in each conversation")
    client_id: str | None = Field(description="the sender's own; null to the other")
    from_: Person = Field(alias="from")
    text: str | None
    image: str | None = Field(description="its address; both null: the message has been deleted")
    created_at: Time
    state: sides.State = Field(description="of what you got: yours")


def message(one: sides.Message, people: Mapping[ObjectId, models.Person]) -> dict[str, Any]:
    """Return a `Message` as JSON."""
    return {
        "seq": one.seq,
        "client_id": one.client_id,
        "from": person(people[one.who]),
        "text": one.text,
        "image": f"{IMAGES}{one.image}" if one.image else None,
        "created_at": _time(one.created_at),
        "state": one.state,
    }


class MessageOf(BaseModel):
    conversation: Id
    message: Message


class Messages(BaseModel):
    messages: list[Message]
    next: int | None = Field(description="`before` of the next page; null only at the end")


class Correspondent(Person):
    presence: Presence | None = Field(description="null where you may not see it, as in a profile")


class Conversation(BaseModel):
    id: Id
    with_: Correspondent = Field(alias="with")
    last: Message | None
    unread: Count = Field(description="their messages above your mark")
    delivered_to: Count = Field(description="their mark: the `seq` up to which messages have arrived there")
    read_to: Count = Field(description="their mark: the `seq` up to which they have read")
    silenced: bool | None = Field(None, description="true where you have silenced it, else left out")


def conversation(one: sides.Conversation, people: Mapping[ObjectId, models.Person], seen: Seen) -> dict[str, Any]:
    """Return a `Conversation` as JSON."""
    other = people[one.other]
    return {
        "id": str(one.id),
        "with": {**person(other), "presence": Presence.of(seen[one.other])},
        "last": message(one.last, people) if one.last else None,
        "unread": one.unread,
        "delivered_to": one.delivered_to,
        "read_to": one.read_to,
        **({"silenced": True} if one.silenced else {}),
    }


class Conversations(BaseModel):
    conversations: list[Conversation]
    unread: int = Field(
        ge=0,
        le=MOST_WITH_UNREAD,
        description=f"conversations with unread messages, silenced ones aside; {MOST_WITH_UNREAD} means as many or "
        "more",
    )
    next: str | None = Field(description="`before` of the next page; null only at the end")


class Cost(BaseModel):
    """The cost of a page.

    It counts commands, not round trips: a pipeline of ten counts ten, and one that several requests share counts for
    each.
    """

    elapsed_ms: float = Field(ge=0)
    source: Source
    cold: bool
    mongodb: Count
    memcached: Count
    redis: Count


class Timeline(Statuses):
    phase: Slug
    cost: Cost


class PhaseState(BaseModel):
    slug: Slug
    title: str
    delivering: bool
    since: Time | None
    pending: Count = Field(description="statuses that this phase still has to deliver, of which 100,000 are counted")
    queued: Count = Field(description="jobs that wait in the queue for this phase")


class State(BaseModel):
    read: Slug
    delivering: list[Slug]
    phases: list[PhaseState]

    @classmethod
    def of(cls, state: timelines.State) -> Self:
        return cls(
            read=state.read,
            delivering=list(state.delivering),
            phases=[PhaseState.model_validate(phase, from_attributes=True) for phase in state.phases],
        )


class FieldError(BaseModel):
    field: str
    message: str


class ProblemDetails(BaseModel):
    """An error, as in RFC 9457."""

    type: str = Field(json_schema_extra={"format": "uri-reference"})
    title: str
    status: int
    detail: str
    request_id: str | None = Field(
        None, description="as in the header X-Request-Id and in our log; missing where no request could be read"
    )
    errors: list[FieldError] | None = Field(None, description="the wrong fields, with 422")
