"""The export of everything that somebody has here: one JSON document that is made while it is sent."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from typing import Any

from bson import ObjectId
from pydantic_core import to_json
from starlette.requests import Request

from app.clock import LAST_ID
from app.inbox.sides import Conversation
from app.models import Account, Person, User
from app.stack import within
from app.web import schemas
from app.web.state import services

AT_ONCE = 200  # items of a list in one look-up

Items = tuple[list[Any], Any]  # items as JSON has them, and the cursor of the next ones
Walk = Callable[[Any], Awaitable[Items]]


async def exported(request: Request, me: Account) -> AsyncIterator[bytes]:
    """Return the parts of the document that `schemas.Export` describes; memory is that of one part.

    Each part is looked up by itself: what changes meanwhile may be in it or not. The first one is looked up before this
    returns, so that whoever asks while a server is away has an answer that says so. Later a part that cannot be had
    breaks the connection. For HEAD nothing is looked up.
    """
    if request.method == "HEAD":
        return _nothing()
    return _parts(request, me, await _account(me))


async def _parts(request: Request, me: Account, account: schemas.OwnAccount) -> AsyncIterator[bytes]:
    yield b'{"account":' + to_json(account)
    patience_s = services(request).stack.config.server_timeout_s  # of each part
    for name, walk in _lists(request, me).items():
        yield b',"' + name.encode() + b'":['
        comma, cursor = b"", None
        while True:
            items, cursor = await within(patience_s, walk(cursor))
            for item in items:
                yield comma + to_json(item)
                comma = b","
            if cursor is None:
                break
        yield b"]"
    yield b"}"


async def _nothing() -> AsyncIterator[bytes]:
    yield b""


def as_file(me: Account) -> dict[str, str]:
    return {"Content-Disposition": f'attachment; filename="feedlab-{me.handle}.json"'}


async def _account(me: Account) -> schemas.OwnAccount:
    user = await User.find_one({"_id": me.id})
    assert user, "accounts are never removed"
    return schemas.OwnAccount(
        **schemas.Person.of(user).model_dump(),
        created_at=user.created_at,
        presence=user.presence or "mutuals",
        last_seen_at=user.seen_at,
    )


async def shown_conversations(request: Request, me: Account, found: Sequence[Conversation]) -> list[dict[str, Any]]:
    """Return conversations as in the API, each with the person it is with."""
    here, others = services(request), {one.other for one in found}
    people, seen = await asyncio.gather(here.people.by_ids({me.id} | others), here.presences.seen_by(me.id, others))
    return [schemas.conversation(one, people, seen) for one in found]


def _lists(request: Request, me: Account) -> dict[str, Walk]:
    here = services(request)
    inbox = here.notifications

    async def statuses(before: ObjectId | None) -> Items:
        rows, cursor = await here.statuses.by_author(me.id, me.id, before=before, limit=AT_ONCE)
        author = await here.people.by_ids({me.id})
        return [schemas.status(row, author) for row in rows], cursor

    def people(of: Callable[..., Awaitable[tuple[list[Person], ObjectId | None]]]) -> Walk:
        async def some(before: ObjectId | None) -> Items:
            listed, cursor = await of(me.id, before=before, limit=AT_ONCE)
            return [schemas.person(one) for one in listed], cursor

        return some

    async def likes(before: ObjectId | None) -> Items:
        ids, cursor = await here.statuses.liked(me.id, before=before, limit=AT_ONCE)
        return [str(id) for id in ids], cursor

    async def notifications(before: int | None) -> Items:
        shown, cursor = await inbox.page(me.id, before, AT_ONCE)
        ids = {one.who for one in shown} | {one.status.user_id for one in shown if one.status}
        everybody = await here.people.by_ids(ids)
        return [schemas.notification(one, everybody) for one in shown], cursor

    async def conversations(before: ObjectId | None) -> Items:
        found = await here.conversations.older_than(me.id, before or LAST_ID, AT_ONCE)
        return await shown_conversations(request, me, found), found[-1].id if found else None

    async def messages(at: tuple[list[ObjectId], int | None] | None) -> Items:
        """Return messages of the first of these conversations, below a number; then of the next one."""
        ids, before = at or (await ids_below(LAST_ID), None)
        if not ids:
            return [], None
        some, last = await here.messages.page(me.id, ids[0], before, AT_ONCE)
        everybody = await here.people.by_ids({each.who for each in some})
        items = [{"conversation": str(ids[0]), "message": schemas.message(each, everybody)} for each in some]
        return items, (ids, last) if last else (ids[1:] or await ids_below(ids[0]), None)

    async def ids_below(before: ObjectId) -> list[ObjectId]:
        return [one.id for one in await here.conversations.older_than(me.id, before, AT_ONCE)]

    return {
        "statuses": statuses,
        "following": people(here.people.following),
        "followers": people(here.people.followers),
        "circle": people(here.people.circle),
        "blocks": people(here.people.blocked),
        "mutes": people(here.people.muted),
        "likes": likes,
        "notifications": notifications,
        "conversations": conversations,
        "messages": messages,
    }
