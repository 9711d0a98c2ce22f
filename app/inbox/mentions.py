"""Mentions: whom a status names, and who of them may see it."""

from collections.abc import Collection, Mapping, Sequence
from typing import Any

from bson import ObjectId

from app.access import visible
from app.edges import Reader, Relation, departed_among
from app.models import StatusRow
from app.stack.mongodb.connection import Database
from app.stack.mongodb.find import Find, rows, together
from app.text import mentions

MOST_MENTIONED = 20  # by one status

Mentioned = Mapping[ObjectId, Mapping[str, ObjectId]]  # by status, the ids of people by handle


async def mentioned(db: Database, statuses: Sequence[StatusRow]) -> Mentioned:
    """The first people whom each names, but for its author; whether they may see it or not."""
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


async def seen_mentions(db: Database, statuses: Sequence[StatusRow]) -> Mapping[ObjectId, Collection[str]]:
    """By status the handles of those whom it mentions: people whom it names and who may see it."""
    named = await mentioned(db, statuses)
    people = {id for each in named.values() for id in each.values()}
    if not people:
        return {}
    readers = await _readers(db, people, {status.user_id for status in statuses})
    return {s.id: {handle for handle, id in named[s.id].items() if visible(s, readers[id])} for s in statuses}


async def _readers(
    db: Database, people: Collection[ObjectId], authors: Collection[ObjectId]
) -> Mapping[ObjectId, Reader]:
    """What the edges say about each of these people, for these authors: in one command."""
    them, they, n = {"$in": sorted(people)}, {"$in": sorted(authors)}, len(people) * len(authors)

    def edges(collection: str, one: str, other: str, ones: Any, others: Any) -> Find:
        return Find(collection, {one: ones, other: others}, (one, other), n)

    looked = {
        "follows": edges("follows", "follower", "followee", them, they),
        "followed": edges("follows", "follower", "followee", they, them),
        "blocks": edges("blocks", "blocker", "blocked", them, they),
        "blocked": edges("blocks", "blocker", "blocked", they, them),
        "circles": edges("circles", "owner", "member", they, them),
    }
    found = await together(db, **looked, departed=departed_among(sorted(authors)))
    departed = {row["_id"] for row in found["departed"]}
    pairs = {name: {tuple(row[field] for field in find.fields) for row in found[name]} for name, find in looked.items()}

    def relation(one: ObjectId, author: ObjectId) -> Relation:
        blocked = (one, author) in pairs["blocks"] or (author, one) in pairs["blocked"]
        return Relation((one, author) in pairs["follows"], blocked, (author, one) in pairs["circles"], muted=False)

    return {
        one: Reader(
            one,
            {author: relation(one, author) for author in authors},
            {author: (author, one) in pairs["followed"] for author in authors},
            departed,
        )
        for one in people
    }
