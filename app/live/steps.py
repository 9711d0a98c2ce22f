"""Steps from what somebody has to what there is now. Each step is an event."""

from collections.abc import Callable, Collection, Mapping, Sequence
from functools import partial
from typing import Any, NamedTuple, Protocol

from bson import ObjectId
from pydantic_core import to_json

from app.inbox.notifications import Notification
from app.inbox.sides import Conversation, Message
from app.live.position import PAGE, Has
from app.live.presence import Presence
from app.models import Person, StatusRow

Persons = Mapping[ObjectId, Person]
Rows = Sequence[Mapping[str, Any]]


class Step(NamedTuple):
    """One change of what somebody has, and the event that tells them of it.

    `data`: JSON. `apply`: changes what they have, once they have been told. `seq`: its number where it is numbered in
    their inbox. `shows`: the person whose presence is part of it.
    """

    event: str
    data: str
    apply: Callable[[Has], None] = lambda _: None
    seq: int = 0
    shows: ObjectId | None = None


class InboxSource(Protocol):
    """What is numbered in people's inboxes besides notifications, and the people whom it shows: `Talk` is one."""

    async def between(self, me: ObjectId, after: int, to: int) -> list[Step]:
        """Return a step for each change that has a `seq` above `after`, up to `to`.

        Applying one is to say `has.told(seq)`.
        """
        ...

    async def people(self, me: ObjectId) -> Collection[ObjectId]:
        """Return the people whose names they see besides those on their first page."""
        ...


class Faces(Protocol):
    """The view from outside: what things look like as JSON."""

    def status(self, row: StatusRow, authors: Persons) -> dict[str, Any]: ...

    def notification(self, one: Notification, people: Persons) -> dict[str, Any]: ...

    def message(self, one: Message, people: Persons) -> dict[str, Any]: ...

    def conversation(
        self, one: Conversation, people: Persons, seen: Mapping[ObjectId, Presence | None]
    ) -> dict[str, Any]: ...

    def presence(self, person: Person, presence: Presence | None) -> dict[str, Any]: ...


class UnreadCounts(NamedTuple):
    """The numbers of what is unread: `unread` notifications, and conversations with unread messages."""

    unread: int
    messages_unread: int


def as_json(data: Any) -> str:
    return to_json(data).decode()


def counted(counts: UnreadCounts) -> Step:
    return Step("unread", as_json(counts._asdict()))


def came(row: StatusRow, face: str) -> Step:
    return Step("status", face, lambda has: has.put(row))


def likes(row: StatusRow) -> Step:
    data = {"id": str(row.id), "likes": row.likes, "you_like": row.you_like}
    return Step("likes", as_json(data), lambda has: has.put(row))


def page_steps(old: Has, rows: Sequence[StatusRow], face: Callable[[StatusRow], str]) -> list[Step]:
    """Return the steps from an old page to the new one: first those that take statuses away.

    A full page has no room for what moves up. `rows`: the first page, and older statuses that came and have been pushed
    off it since.
    """
    page = {row.id for row in rows[:PAGE]}
    oldest = min(page, default=None) if len(page) == PAGE else None
    aged = {id for id in old.page if oldest and id < oldest}
    gone = [Step("status_gone", as_json({"id": str(id)}), _drop(id)) for id in old.page if id not in page | aged]
    new = [came(row, face(row)) for row in reversed(rows) if row.id not in old.page]
    both = [(row, old.page[row.id]) for row in rows if row.id in old.page]
    return gone + new + [likes(row) for row, had in both if (had.likes, had.you_like) != (row.likes, row.you_like)]


def _drop(id: ObjectId) -> Callable[[Has], None]:
    return lambda has: has.drop(id)


def note_steps(old: Has, notes: Sequence[Notification], people: Persons, faces: Faces, unread: int) -> list[Step]:
    """Return the steps from old notifications to the new ones: first those that take some away.

    `notes`: newest first, and beyond the first page those that the reader has missed.
    """
    page = {one.seq for one in notes[:PAGE]}
    oldest = min(page) if len(page) == PAGE else 0
    had = set(old.notes)
    gone = [
        Step("notification_gone", as_json({"seq": seq, "unread": unread}), partial(_unnote, seq))
        for seq in sorted(had - page)
        if seq >= oldest
    ]
    return gone + [
        Step(
            "notification",
            as_json({**faces.notification(one, people), "unread": unread}),
            partial(_note, one),
            one.seq,
        )
        for one in reversed(notes)
        if one.seq not in had
    ]


def _unnote(seq: int, has: Has) -> None:
    has.unnote(seq)


def _note(one: Notification, has: Has) -> None:
    has.note(one)


def name_steps(renamed: Rows, has: Has, authors: Collection[ObjectId]) -> list[Step]:
    """Return a step for each of these people who has been renamed since, in the order of their changes."""
    return [
        Step("person", as_json({"handle": user["handle"], "name": user["name"]}), partial(_named, user["renamed"]))
        for user in renamed
        if user["_id"] in authors and user["renamed"] > has.names and not user.get("deleted")
    ]


def _named(version: int, has: Has) -> None:
    has.names = max(has.names, version)
