"""The shapes of the API: what is accepted, what is answered. The OpenAPI document is made from these."""

import re
from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Annotated, Any, Self

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
from app.accounts import NAME_LENGTH, PASSWORD_LENGTHS
from app.models import Audience, StatusRow, User
from app.social import TEXT_LIMIT
from phases import PHASES, timelines
from phases.home.candidates import Source

SLUGS = tuple(phase.slug for phase in PHASES)

_SPACE = "".join(chr(code) for code in range(0x3001) if chr(code).isspace())  # what str.strip() removes
_S = "".join(f"\\u{ord(space):04x}" for space in _SPACE)
TEXT_PATTERN = rf"^[{_S}]*[^{_S}\u0000](?:[^\u0000]{{0,{TEXT_LIMIT - 2}}}[^{_S}\u0000])?[{_S}]*$"


ID_PATTERN = "^[0-9a-fA-F]{24}$"


def _time(moment: datetime) -> str:
    return moment.astimezone(UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")


def _trimmed(text: str) -> str:
    trimmed = text.strip()
    if not 1 <= len(trimmed) <= TEXT_LIMIT:
        raise PydanticCustomError("text_length", f"A text has 1 to {TEXT_LIMIT} characters, spaces around it aside.")
    if re.search(r"[\0\ud800-\udfff]", trimmed):  # JSON can carry both, MongoDB and UTF-8 cannot
        raise PydanticCustomError("text_character", "A text has no NUL character and no lone surrogate.")
    return trimmed


def _cursor(given: object) -> ObjectId:
    if isinstance(given, str) and re.fullmatch(ID_PATTERN, given):
        return ObjectId(given)
    raise PydanticCustomError("cursor", "An id has 24 hex digits.")


def _plain_number(given: object) -> object:
    if isinstance(given, str) and not re.fullmatch(r"0|-?[1-9][0-9]{0,9}", given):
        raise PydanticCustomError("number", "A whole number is expected.")
    return given


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


class Given(BaseModel):
    """Part of a request: nothing is converted, nothing unknown is let through."""

    model_config = ConfigDict(strict=True, extra="forbid")


class SignUp(Given):
    handle: str = Field(pattern=HANDLE_PATTERN, description="kept in lower case, unique regardless of case")
    name: str | None = Field(
        None,
        max_length=NAME_LENGTH,
        pattern=r"^[^\u0000-\u001f\u007f-\u009f\u2028\u2029]*$",
        description="spaces around it aside; left out or blank: the handle",
    )
    password: str = Field(min_length=PASSWORD_LENGTHS[0], max_length=PASSWORD_LENGTHS[1])


class Credentials(Given):
    """Strings of any form: what nobody can have signed up with is as wrong as an unknown handle."""

    handle: str
    password: str


class NewStatus(Given):
    text: Annotated[
        str,
        AfterValidator(_trimmed),
        WithJsonSchema({"type": "string", "pattern": TEXT_PATTERN, "examples": ["Hello"]}),
    ] = Field(description=f"1 to {TEXT_LIMIT} code points after trimming, without NUL")
    audience: Audience = "followers"


class PhaseChange(Given):
    """What is left out or null stays as it is."""

    read: Slug | None = Field(None, description="the phase that answers a read which names none")
    delivering: Annotated[list[Slug], Field(max_length=len(SLUGS)), AfterValidator(_each_once)] | None = Field(
        None, description="the phases that are kept up to date", json_schema_extra={"uniqueItems": True}
    )


class Query(BaseModel):
    """Query parameters arrive as text."""

    model_config = ConfigDict(extra="ignore")


class Walk(Query):
    """Where a page begins and how long it is."""

    before: Cursor | None = Field(None, description="the `next` of the page before; left out: the newest")
    limit: Annotated[int, Field(ge=1, le=100), BeforeValidator(_plain_number)] = 20


class TimelineWalk(Walk):
    phase: Slug | None = Field(None, description="left out: the system's read phase")


class Refresh(Query):
    phase: Slug | None = Field(None, description="left out: the system's read phase")


class PostHeaders(BaseModel):
    idempotency_key: Annotated[str, StringConstraints(pattern=r"^[\x21-\x7e]{1,200}$")] | None = Field(
        None, alias="Idempotency-Key", description="the same key again is answered with the status made the first time"
    )


class Person(BaseModel):
    id: Id
    handle: str
    name: str

    @classmethod
    def of(cls, person: models.Person | User) -> Self:
        return cls(id=str(person.id), handle=person.handle, name=person.name)


class Profile(Person):
    followers: Count
    following: Count
    statuses: Count = Field(description="those you may see")
    you_follow: bool
    follows_you: bool
    blocked: bool = Field(description="whether you block this person")


class NewToken(BaseModel):
    token: str
    expires_at: Time


class Status(BaseModel):
    id: Id
    author: Person
    text: str
    audience: Audience
    created_at: Time


def status(row: StatusRow, authors: Mapping[ObjectId, models.Person]) -> dict[str, Any]:
    """A `Status` as JSON has it. Not checked once more on its way out: pages are made of these."""
    assert row.audience, "a deleted status has no face"
    author = authors[row.user_id]
    return {
        "id": str(row.id),
        "author": {"id": str(author.id), "handle": author.handle, "name": author.name},
        "text": row.text,
        "audience": row.audience,
        "created_at": _time(row.created_at),
    }


Next = Annotated[Id | None, Field(description="`before` of the next page; null only at the end")]


class People(BaseModel):
    users: list[Person]
    next: Next


class Statuses(BaseModel):
    statuses: list[Status]
    next: Next


class Cost(BaseModel):
    """What the page took. Commands sent, not round trips: a pipeline of ten counts ten."""

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
    pending: Count = Field(description="statuses that this phase still has to deliver")
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
    """RFC 9457."""

    type: str = Field(json_schema_extra={"format": "uri-reference"})
    title: str
    status: int
    detail: str
    errors: list[FieldError] | None = Field(None, description="the wrong fields, with 422")
