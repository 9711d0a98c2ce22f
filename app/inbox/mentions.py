"""Mentions: whom a status names, and who of them may see it."""

from collections.abc import Collection, Mapping, Sequence

from bson import ObjectId

from app.access import on_home, visible
from app.edges import Edges
from app.models import StatusRow
from app.stack.mongodb.connection import Database
from app.stack.mongodb.find import Find, rows, together
from app.text import mentions

MOST_MENTIONED = 20  # by one status

Mentioned = Mapping[ObjectId, Mapping[str, ObjectId]]  # by status, the ids of people by handle


async def mentioned(db: Database, statuses: Sequence[StatusRow]) -> Mentioned:
    """Return, by status, the first people whom it names, its author excepted.

    Whether they may see it does not matter here.
    """
    named = {status.id: mentions(status.text) for status in statuses}
    handles = {handle for each in named.values() for handle in each}
    if not handles:
        return {}
    find = Find(
        "users", {"handle": {"$in": sorted(handles)}, "deleted": {"$exists": False}}, ("_id", "handle"), len(handles)
    )
    ids = {user["handle"]: user["_id"] for user in await rows(db, find)}
    people = {s.id: [h for h in named[s.id] if ids.get(h, s.user_id) != s.user_id] for s in statuses}
    return {id: {handle: ids[handle] for handle in each[:MOST_MENTIONED]} for id, each in people.items()}


async def shown_to(db: Database, status: StatusRow, people: Collection[ObjectId]) -> list[ObjectId]:
    """Return those of these people on whose home timeline the status is.

    For the others, whatever puts it there has a hint of its own: anybody can mention anybody, and nobody's
    notifications are read anew for what they may not see.
    """
    if not people:
        return []
    edges = Edges(people, [status.user_id])
    readers = edges.readers(await together(db, **edges.finds))
    return [person for person in people if on_home(status, readers[person])]


async def seen_mentions(db: Database, statuses: Sequence[StatusRow]) -> Mapping[ObjectId, Collection[str]]:
    """Return, by status, the handles of those whom it mentions: people whom it names and who may see it."""
    named = await mentioned(db, statuses)
    people = {id for each in named.values() for id in each.values()}
    if not people:
        return {}
    edges = Edges(people, {status.user_id for status in statuses})
    readers = edges.readers(await together(db, **edges.finds))
    return {s.id: {handle for handle, id in named[s.id].items() if visible(s, readers[id])} for s in statuses}
