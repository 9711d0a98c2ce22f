"""Statuses: posting, deleting and liking them, and those of one author."""

import asyncio
from collections.abc import Awaitable, Callable, Mapping
from time import perf_counter
from typing import Any, NamedTuple, TypeVar
from weakref import WeakValueDictionary

from bson import ObjectId
from pymongo.errors import DuplicateKeyError

from app.access import audiences, visible, visible_status
from app.clock import FIRST_ID, LAST_ID
from app.edges import OwnEdges, View, change_version
from app.errors import Conflict, NoAccount, NotFound
from app.models import Audience, Status, StatusRow, change_tag, like_key
from app.stack import Hint, Stack
from app.stack.mongodb.transaction import Transaction, transaction
from app.stack.mongodb.write import insert_with_new_id
from app.text import checked, mentions
from app.watch.metrics import POSTS
from phases.delivering.outbox import Defer, Outbox, Owed, Trace, at_once
from phases.home.newest import Newest
from phases.home.page import Filling

TEXT_LIMIT = 500
STORED = "stored"  # what a poster waits for in every phase

T = TypeVar("T")


def checked_text(text: str) -> str:
    """Return a status's text, trimmed. Raises Invalid."""
    return checked("text", text, TEXT_LIMIT)


class Prepared(NamedTuple):
    """A status that is ready to be stored. `document`: all of it but the id. `began_s`: when this began."""

    owed: Owed
    document: Mapping[str, Any]
    began_s: float


class Statuses:
    """The use cases, one object per process. Whoever reads, posts or likes is named by the id of a user."""

    def __init__(self, stack: Stack, outbox: Outbox) -> None:
        self._stack, self._outbox = stack, outbox
        self._db, self._clock = stack.db, stack.clock
        self._turns: WeakValueDictionary[ObjectId, asyncio.Lock] = WeakValueDictionary()

    async def post(
        self,
        author: ObjectId,
        text: str,
        audience: Audience = "followers",
        idempotency_key: str | None = None,
        trace: Trace = lambda _status, _what, _began_s, _ended_s: None,
        defer: Defer = at_once,
    ) -> tuple[StatusRow, bool]:
        """Prepare a status, and store it. Raises what either does."""
        return await self.store(await self.prepare(author, text, audience, idempotency_key), trace, defer)

    async def prepare(
        self, author: ObjectId, text: str, audience: Audience = "followers", idempotency_key: str | None = None
    ) -> Prepared:
        """Make a status ready to be stored, and write nothing. `text` is trimmed and checked by `checked_text`. Raises
        Invalid.
        """
        began_s = perf_counter()
        text = checked_text(text)
        key = f"{author}:{idempotency_key}" if idempotency_key else None
        owed = await self._outbox.decide(author, audience, mentions=bool(mentions(text)))
        status = Status(
            user_id=author,
            text=text,
            audience=audience,
            pending=list(owed.consumers) or None,
            pulled=owed.pulled or None,
            idempotency_key=key,
        )
        return Prepared(owed, status.model_dump(by_alias=True, exclude={"id"}, exclude_none=True), began_s)

    async def store(
        self,
        prepared: Prepared,
        trace: Trace = lambda _status, _what, _began_s, _ended_s: None,
        defer: Defer = at_once,
    ) -> tuple[StatusRow, bool]:
        """Store a status (by a majority) first, deliver it second (rule 1). Return it, and whether it was created now,
        not by an earlier try.

        `trace` is told what the poster waited for: the insert (STORED) and each consumer. `defer`: hands over to
        consumers that only queue, at once or after the answer. Raises Conflict for a key that was used for another
        status, and NoAccount for one of an author who has deleted their account meanwhile.
        """
        owed, document, author = prepared.owed, dict(prepared.document), prepared.document["user_id"]
        if owed.pulled and not (owed := await self._outbox.marked(author, owed)).pulled:
            del document["pulled"]
            if owed.consumers:
                document["pending"] = list(owed.consumers)
        document = {"_id": self._clock.new_id(), **document}  # none is older by its id than it has to be
        row, created = StatusRow.of(document), True
        try:
            stored = await insert_with_new_id(self._db, "statuses", document)
        except DuplicateKeyError:
            assert "idempotency_key" in document, "ids are unique"
            row, created = await self._posted_before(document), False
        else:
            await self._outbox.stored(row.id, stored)
        self._stack.bus.tell(Hint("posted", author, row.id))
        trace(row, STORED, prepared.began_s, perf_counter())
        await self._outbox.posted(row, owed, again=not created, trace=trace, defer=defer)
        if created:
            POSTS.inc()
        return row, created

    async def _posted_before(self, again: Mapping[str, Any]) -> StatusRow:
        """Return the status that its author has posted with the same key."""
        author = again["user_id"]
        document = await self._db["statuses"].find_one({"idempotency_key": again["idempotency_key"], "user_id": author})
        if document is None:
            raise NoAccount(author)
        own_like = await self._db["likes"].find_one({"_id": like_key(author, document["_id"])})
        row = StatusRow.of(document, you_like=own_like is not None)
        if row.audience is None:
            raise Conflict("The status that was posted with this key has been deleted.")
        if (row.text, row.audience) != (again["text"], again["audience"]):
            raise Conflict("Another status was posted with this key.")
        return row

    async def delete(self, author: ObjectId, id: ObjectId) -> None:
        """Delete a status. The text is gone at once; a tombstone stays for the idempotency key. Raises NotFound for
        anybody else's.
        """
        deleted = await self._db["statuses"].update_one(
            {"_id": id, "user_id": author, "deleted": False},
            {
                "$set": {"deleted": True, "text": ""},
                "$addToSet": {"pending": change_tag(id)},
                "$unset": {"audience": "", "likes": ""},
            },
        )
        if not deleted.matched_count:
            raise NotFound("You have no such status.")
        self._stack.bus.tell(Hint("deleted", author, id))

    async def by_id(self, viewer: ObjectId, id: ObjectId) -> StatusRow:
        """Return a status. Raises NotFound when it does not exist or the viewer may not see it."""
        status = await visible_status(self._db, viewer, id)
        if status is None:
            raise NotFound("There is no such status.")
        return status

    async def by_author(
        self, viewer: ObjectId, author: ObjectId, *, before: ObjectId | None, limit: int
    ) -> tuple[list[StatusRow], ObjectId | None]:
        """Return the author's statuses that the viewer may see, newest first, and the cursor of the next page. Only
        such are looked for, so a page takes the same commands however many others there are; MongoDB goes past these.
        """
        view = View(OwnEdges(viewer))
        seen = await audiences(self._db, view, author)
        if not seen:
            return [], None
        theirs = Newest(self._db, lambda some: {"user_id": {"$in": some}, "audience": {"$in": seen}}, [author])
        return await Filling(self._db, view, visible).fill(theirs, before, limit)

    async def like(self, reader: ObjectId, id: ObjectId) -> None:
        """Like a status. Like and count change together, so the count is exact. Repeating it changes nothing. Raises
        NotFound when it does not exist or the reader may not see it.
        """
        status, key = await self.by_id(reader, id), {"_id": like_key(reader, id)}
        event = self._outbox.event("like", reader, status.user_id, id)

        async def unless_deleted(inside: Transaction) -> bool:
            if await inside["likes"].find_one(key, {"_id": 1}):
                return False
            await _raise_likes_version(inside, reader)
            if not await self._count(inside, id, 1):
                raise NotFound("There is no such status.")
            await inside["likes"].insert_one(key)
            await self._outbox.note(inside, event)
            return True

        is_new = await self._in_turn(id, unless_deleted)
        self._stack.bus.tell(Hint("liked", reader, id))  # again, too: whoever liked it may have been killed before this
        if is_new:
            await self._outbox.happened(event)

    async def unlike(self, reader: ObjectId, id: ObjectId) -> None:
        """Take a like back, also of what the reader may see no more. Raises NotFound where they do not like it and may
        not see it.
        """
        key = {"_id": like_key(reader, id)}

        async def where_liked(inside: Transaction) -> bool:
            if liked := await inside["likes"].delete_one(key):
                await self._count(inside, id, -1)
                await _raise_likes_version(inside, reader)
            return liked

        if not await self._in_turn(id, where_liked):
            await self.by_id(reader, id)
        self._stack.bus.tell(Hint("liked", reader, id))

    @staticmethod
    async def _count(inside: Transaction, id: ObjectId, by: int) -> bool:
        """Change the count of likes; return whether there is such a status. Nobody sees the likes of a deleted one."""
        counted = {"$inc": {"likes": by}, "$addToSet": {"pending": change_tag(id)}}
        return await inside["statuses"].update_one({"_id": id, "deleted": False}, counted, upsert=False)

    async def _in_turn(self, id: ObjectId, work: Callable[[Transaction], Awaitable[T]]) -> T:
        """Change the likes of a status. In this process they take turns: of many transactions at once MongoDB lets one
        through, and the others begin again.
        """
        async with self._turns.setdefault(id, asyncio.Lock()):
            return await transaction(self._db, work)

    async def liked(
        self, by: ObjectId, *, before: ObjectId | None, limit: int
    ) -> tuple[list[ObjectId], ObjectId | None]:
        """Return the ids of statuses that somebody likes, whether they may still see them or not, and the cursor of the
        next page.
        """
        keys = {"$gte": like_key(by, FIRST_ID), "$lt": like_key(by, before or LAST_ID)}
        found = await self._db["likes"].find({"_id": keys}, {"_id": 1}).sort("_id", -1).limit(limit + 1).to_list(None)
        ids = [ObjectId(row["_id"][12:]) for row in found]
        return ids[:limit], ids[limit - 1] if len(ids) > limit else None


async def _raise_likes_version(inside: Transaction, reader: ObjectId) -> None:
    """Raise the version of the reader's likes: it ends what any process remembers of them."""
    await change_version(inside, reader, {"$inc": {"likes": 1}})
