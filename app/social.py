"""The use cases: what people do to each other's timelines. The API and the pages both come through here."""

import asyncio
import re
from collections import Counter
from collections.abc import Awaitable, Callable, Iterable
from dataclasses import dataclass
from time import perf_counter
from typing import Any, TypeVar
from weakref import WeakValueDictionary

from bson import ObjectId
from pymongo.errors import DuplicateKeyError

from app.access import audiences, visible, visible_status
from app.accounts import NAME_LENGTH, checked_name, normal_handle
from app.clock import FIRST_ID, LAST_ID
from app.departures import departed_now
from app.edges import NAMES, VERSIONS, OwnEdges, View, change_edges, change_version
from app.errors import Conflict, Forbidden, Invalid, NoAccount, NotFound
from app.models import (
    Account,
    Audience,
    Conversation,
    Event,
    Person,
    Status,
    StatusRow,
    User,
    like_key,
    pair_key,
    search_words,
)
from app.names import Names
from app.stack import Hint, Stack
from app.stack.mongodb.transaction import Transaction, transaction
from app.stack.mongodb.write import insert
from app.text import checked, mentions, storable
from app.watch.metrics import POSTS
from phases.delivering.outbox import Defer, Outbox, Trace, at_once
from phases.home.newest import Newest
from phases.home.page import Filling

TEXT_LIMIT = 500
STORED = "stored"  # what a poster waits for in every phase
WORDS_SEARCHED = 5
FOLLOWS_LOOKED_AT = 1_000  # the newest, for suggestions

T = TypeVar("T")
PeoplePage = tuple[list[Person], ObjectId | None]  # and the cursor of the next page


def checked_text(text: str) -> str:
    """Return a status's text, trimmed. Raises Invalid."""
    return checked("text", text, TEXT_LIMIT)


@dataclass(frozen=True)
class Counts:
    """The counts of a person. `statuses`: those that the viewer may see."""

    followers: int
    following: int
    statuses: int


@dataclass(frozen=True)
class Relationship:
    you_follow: bool
    follows_you: bool
    blocked: bool  # the viewer blocks them
    in_your_circle: bool
    muted: bool  # by the viewer


class Social:
    """The use cases, one object per process. Ids are users'; unknown handles are the business of `person`."""

    def __init__(self, stack: Stack, outbox: Outbox) -> None:
        self.stack, self.outbox = stack, outbox
        self._db, self._clock, self._config = stack.db, stack.clock, stack.config
        self._names = Names(stack.db)
        self._turns: WeakValueDictionary[ObjectId, asyncio.Lock] = WeakValueDictionary()

    # People

    async def person(self, handle: str) -> User:
        normal = normal_handle(handle)
        user = await User.called(normal) if normal else None
        if user is None:
            raise NotFound("Nobody has this handle.")
        return user

    async def people(self, ids: Iterable[ObjectId], names: int | None = None) -> dict[ObjectId, Person]:
        """Return handles and names, as they are now. `names`: their version, where it has been looked up for this
        answer.
        """
        return await self._names.of(set(ids), names)

    async def rename(self, account: Account, name: str) -> None:
        """Rename a person: the next page of every process shows the new name, or for a blank one the handle. Raises
        Invalid and NoAccount.
        """
        name = checked_name(name) or account.handle

        async def new_version(inside: Transaction) -> None:
            now = await inside[VERSIONS].find_one({"_id": NAMES}, {"version": 1})
            assert now, "it has just been raised"
            change = {"name": name, "found_by": search_words(account.handle, name), "renamed": now["version"]}
            there = {"_id": account.id, "deleted": {"$exists": False}}
            if not await inside["users"].update_one(there, {"$set": change}, upsert=False):
                raise NoAccount(account.id)

        async with self._turn(NAMES):
            await change_edges(self._db, {NAMES}, new_version)
        self.stack.bus.tell(Hint("named", account.id))

    async def search(self, typed: str, after: str, limit: int) -> tuple[list[Person], str | None]:
        """Return the people of whom every typed word begins the handle or a word of the name, by handle, above `after`;
        and the cursor of the next page. Nothing typed finds everybody. Raises Invalid for what nobody can be called.
        """
        for field, given in (("q", typed), ("after", after)):
            if len(given) > NAME_LENGTH or not storable(given):
                raise Invalid(field, f"People are looked for by at most {NAME_LENGTH} characters of text.")
        beginnings = [re.compile(f"^{re.escape(word)}") for word in typed.casefold().split()[:WORDS_SEARCHED]]
        query: dict[str, Any] = {"handle": {"$gt": after}, "deleted": {"$exists": False}}
        if beginnings:
            query["$and"] = [{"found_by": beginning} for beginning in beginnings]
        users = await User.find(query).sort("handle").limit(limit + 1).to_list()
        people = [Person.of(user) for user in users[:limit]]
        return people, people[-1].handle if len(users) > limit else None

    async def suggestions(self, reader: ObjectId, limit: int) -> list[Person]:
        """Return people whom others followed most often lately, of those whom the reader could follow and does not."""
        lately = self._db["follows"].find({}, {"_id": 0, "followee": 1}).sort("_id", -1).limit(FOLLOWS_LOOKED_AT)
        newly = Counter([edge["followee"] for edge in await lately.to_list(None)])
        ids = [id for id, _ in newly.most_common(limit * 10)]
        if len(ids) < limit:
            newest = self._db["users"].find({}, {"_id": 1}).sort("_id", -1).limit(limit * 2)
            ids = list(dict.fromkeys([*ids, *[user["_id"] for user in await newest.to_list(None)]]))
        followed = await self.followed(reader, ids)
        wanted = [id for id in ids if followed.get(id) is False][:limit]
        people = await self.people(wanted)
        return [people[id] for id in wanted if id in people and people[id].is_there]

    async def followed(self, reader: ObjectId, ids: list[ObjectId]) -> dict[ObjectId, bool]:
        """Return for each whom the reader could follow whether they do: not for oneself, nor where there is a block in
        between.
        """
        among = {"$in": ids}
        blocks = {"$or": [{"blocker": reader, "blocked": among}, {"blocked": reader, "blocker": among}]}
        follows, blocked = await asyncio.gather(
            self._db["follows"].find({"follower": reader, "followee": among}).to_list(len(ids)),
            self._db["blocks"].find(blocks).to_list(2 * len(ids)),
        )
        never = {reader} | {block[end] for block in blocked for end in ("blocker", "blocked")}
        now = {edge["followee"] for edge in follows}
        return {id: id in now for id in ids if id not in never}

    async def counts(self, viewer: ObjectId, of: ObjectId) -> Counts:
        departed = await departed_now(self._db)  # mostly nobody, and an index alone answers
        unless = {end: {"$nin": departed} for end in ("follower", "followee") if departed}
        followers, following, seen = await asyncio.gather(
            self._db["follows"].count_documents({**unless, "followee": of}),
            self._db["follows"].count_documents({**unless, "follower": of}),
            audiences(self._db, View(OwnEdges(viewer)), of),
        )
        query = {"user_id": of, "audience": {"$in": seen}}
        statuses = await self._db["statuses"].count_documents(query) if seen else 0
        return Counts(followers, following, statuses)

    async def relation(self, viewer: ObjectId, other: ObjectId) -> Relationship:
        rows = (
            self._db["follows"].find_one({"follower": viewer, "followee": other}, {"_id": 1}),
            self._db["follows"].find_one({"follower": other, "followee": viewer}, {"_id": 1}),
            self._db["blocks"].find_one({"blocker": viewer, "blocked": other}, {"_id": 1}),
            self._db["circles"].find_one({"owner": viewer, "member": other}, {"_id": 1}),
            self._db["mutes"].find_one({"muter": viewer, "muted": other}, {"_id": 1}),
        )
        return Relationship(*(row is not None for row in await asyncio.gather(*rows)))

    async def followers(self, of: ObjectId, *, before: ObjectId | None, limit: int) -> PeoplePage:
        """Return the followers, newest accounts first, and the cursor, a person's id. All lists of people are like
        that.
        """
        return await self._edges("follows", {"followee": of}, "follower", before, limit)

    async def following(self, of: ObjectId, *, before: ObjectId | None, limit: int) -> PeoplePage:
        return await self._edges("follows", {"follower": of}, "followee", before, limit)

    async def muted(self, by: ObjectId, *, before: ObjectId | None, limit: int) -> PeoplePage:
        return await self._edges("mutes", {"muter": by}, "muted", before, limit)

    async def blocked(self, by: ObjectId, *, before: ObjectId | None, limit: int) -> PeoplePage:
        return await self._edges("blocks", {"blocker": by}, "blocked", before, limit)

    async def circle(self, of: ObjectId, *, before: ObjectId | None, limit: int) -> PeoplePage:
        return await self._edges("circles", {"owner": of}, "member", before, limit)

    async def _edges(
        self, collection: str, query: dict[str, Any], end: str, before: ObjectId | None, limit: int
    ) -> PeoplePage:
        """Return a page of people, full unless the end is reached: where somebody has departed, it is asked again
        without all who have.
        """
        ends: dict[str, Any] = {"$lt": before or LAST_ID}
        ids, there = await self._ends(collection, {**query, end: ends}, end, limit + 1)
        if len(there) < len(ids):
            ends["$nin"] = await departed_now(self._db)
            ids, there = await self._ends(collection, {**query, end: ends}, end, limit + 1)
        return [there[id] for id in ids[:limit] if id in there], ids[limit - 1] if len(ids) > limit else None

    async def _ends(
        self, collection: str, query: dict[str, Any], end: str, limit: int
    ) -> tuple[list[ObjectId], dict[ObjectId, Person]]:
        """Return whom these edges lead to, and who of them is there."""
        found = self._db[collection].find(query, {"_id": 0, end: 1}).sort(end, -1).limit(limit)
        ids = [edge[end] for edge in await found.to_list(None)]
        people = await self.people(ids)
        return ids, {id: person for id, person in people.items() if person.is_there}

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

    # Edges

    async def follow(self, reader: ObjectId, followee: ObjectId) -> None:
        """Follow somebody. Raises Invalid for oneself, Forbidden across a block or past the limit. Repeating it changes
        nothing.
        """
        _not_oneself(reader, followee, "follow yourself")
        pair = {"follower": reader, "followee": followee}
        limit, event = self._config.following_limit, self.outbox.event("follow", reader, followee)

        async def unless_refused(edges: Transaction) -> dict[str, Any]:
            await _is_there(edges, followee)
            if await edges["blocks"].find_one(_either_way("blocker", "blocked", reader, followee), {"_id": 1}):
                raise Forbidden("One of you blocks the other.")
            if await edges["follows"].count({"follower": reader}, limit) < limit:
                return await self._owing_row(edges, "follows", pair, event)
            if row := await edges["follows"].find_one(pair, dict.fromkeys((*pair, "debt"), 1)):
                return row
            raise Forbidden(f"Nobody can follow more than {limit:,} people.")

        row = await change_edges(self._db, {reader}, unless_refused)
        self._edges_changed(reader, followee)
        await self._widened("follows", row, event)

    async def unfollow(self, reader: ObjectId, followee: ObjectId) -> None:
        _not_oneself(reader, followee, "unfollow yourself")

        async def end_follow(edges: Transaction) -> None:
            await edges["follows"].delete_one({"follower": reader, "followee": followee})
            await self.outbox.narrowed(edges, reader, followee)

        await change_edges(self._db, {reader}, end_follow)
        self._edges_changed(reader, followee)

    async def block(self, blocker: ObjectId, blocked: ObjectId) -> None:
        """Block somebody, and end the follows of both."""
        _not_oneself(blocker, blocked, "block yourself")
        pair = {"blocker": blocker, "blocked": blocked}

        async def end_follows(edges: Transaction) -> None:
            await _is_there(edges, blocked)
            await edges["blocks"].find_or_insert(pair, {"_id": self._clock.new_id()})
            await edges["follows"].delete_many(_either_way("follower", "followee", blocker, blocked))
            await self.outbox.narrowed(edges, blocker, blocked)
            await self.outbox.narrowed(edges, blocked, blocker)
            await _in_conversation(edges, pair, "$addToSet")

        await change_edges(self._db, {blocker, blocked}, end_follows)
        self._edges_changed(blocker, blocked)

    async def unblock(self, blocker: ObjectId, blocked: ObjectId) -> None:
        """End a block. Nothing is shown again by that: whoever wants to follow does so anew."""
        _not_oneself(blocker, blocked, "unblock yourself")
        pair = {"blocker": blocker, "blocked": blocked}

        async def end_block(edges: Transaction) -> None:
            await edges["blocks"].delete_one(pair)
            await _in_conversation(edges, pair, "$pull")

        await change_edges(self._db, {blocker, blocked}, end_block)
        self._edges_changed(blocker, blocked)

    async def mute(self, reader: ObjectId, muted: ObjectId) -> None:
        """Mute somebody. Their statuses stay where they are kept and are not shown: what is unmuted
        needs no backfill.
        """
        _not_oneself(reader, muted, "mute yourself")
        pair, new = {"muter": reader, "muted": muted}, {"_id": self._clock.new_id()}

        async def silence(edges: Transaction) -> None:
            await _is_there(edges, muted)
            await edges["mutes"].find_or_insert(pair, new)

        await change_edges(self._db, {reader}, silence)
        self._edges_changed(reader, muted)

    async def unmute(self, reader: ObjectId, muted: ObjectId) -> None:
        _not_oneself(reader, muted, "unmute yourself")
        await self._remove("mutes", {"muter": reader, "muted": muted}, reader)
        self._edges_changed(reader, muted)

    async def add_to_circle(self, owner: ObjectId, member: ObjectId) -> None:
        _not_oneself(owner, member, "add yourself to your circle")
        pair, event = {"owner": owner, "member": member}, self.outbox.event("circle", owner, member)

        async def admit(edges: Transaction) -> dict[str, Any]:
            await _is_there(edges, owner)
            return await self._owing_row(edges, "circles", pair, event)

        row = await change_edges(self._db, {member}, admit)
        self._edges_changed(member, owner)
        await self._widened("circles", row, event)

    async def remove_from_circle(self, owner: ObjectId, member: ObjectId) -> None:
        _not_oneself(owner, member, "remove yourself from your circle")
        await self._remove("circles", {"owner": owner, "member": member}, member)
        self._edges_changed(member, owner)

    async def _remove(self, collection: str, pair: dict[str, ObjectId], *readers: ObjectId) -> None:
        await change_edges(self._db, set(readers), lambda edges: edges[collection].delete_one(pair))

    def _edges_changed(self, reader: ObjectId, other: ObjectId) -> None:
        self.stack.bus.tell(Hint("edges", reader, other=other))

    async def _owing_row(
        self, edges: Transaction, collection: str, pair: dict[str, ObjectId], event: Event
    ) -> dict[str, Any]:
        """Return the row of a pair that widens what somebody may see: a new one owes its backfill from the start (rule
        4), and has the id of the event that it is.
        """
        row = await edges[collection].find_or_insert(pair, {"_id": event.id, "debt": True})
        if row["_id"] == event.id:
            await self.outbox.note(edges, event)
        return row

    async def _widened(self, collection: str, row: dict[str, Any], event: Event) -> None:
        await self.outbox.widened(collection, row)
        if row["_id"] == event.id:
            await self.outbox.happened(event)

    # Statuses

    async def post(
        self,
        author: ObjectId,
        text: str,
        audience: Audience = "followers",
        idempotency_key: str | None = None,
        trace: Trace = lambda _status, _what, _began_s, _ended_s: None,
        defer: Defer = at_once,
        before_insert: Callable[[], Awaitable[None]] | None = None,
    ) -> tuple[StatusRow, bool]:
        """Store a status (by a majority) first, deliver it second (rule 1). Return it, and whether it was created now,
        not by an earlier try.

        `text` is trimmed and checked by `checked_text`. `trace` is told what the poster waited for: the insert (STORED)
        and each consumer. `defer`: hands over to consumers that only queue, at once or after the answer.
        `before_insert`: is awaited before anything is stored; what it raises ends the post. Raises Invalid, Conflict
        for a key that was used for another status, and NoAccount for one of an author who has deleted their account
        meanwhile.
        """
        began_s = perf_counter()
        text = checked_text(text)
        key = f"{author}:{idempotency_key}" if idempotency_key else None
        owed = await self.outbox.decide(author, audience, mentions=bool(mentions(text)))
        status = Status(
            user_id=author,
            text=text,
            audience=audience,
            pending=list(owed.consumers) or None,
            pulled=owed.pulled or None,
            idempotency_key=key,
        )
        if before_insert:
            await before_insert()
        if owed.pulled:
            owed = await self.outbox.marked(author, owed)
            status.pending, status.pulled = list(owed.consumers) or None, owed.pulled or None
        status.id = id = self._clock.new_id()  # none is older by its id than it has to be
        row, created = StatusRow(id, author, text, audience), True
        try:
            stored = await insert(self._db, status)
        except DuplicateKeyError:
            assert key, "ids are unique"
            row, created = await self._posted_before(author, text, audience, key), False
        else:
            await self.outbox.stored(row.id, stored)
        self.stack.bus.tell(Hint("posted", author, row.id))
        trace(row, STORED, began_s, perf_counter())
        await self.outbox.posted(row, owed, again=not created, trace=trace, defer=defer)
        if created:
            POSTS.inc()
        return row, created

    async def _posted_before(self, author: ObjectId, text: str, audience: Audience, key: str) -> StatusRow:
        document = await self._db["statuses"].find_one({"idempotency_key": key, "user_id": author})
        if document is None:
            raise NoAccount(author)
        own_like = await self._db["likes"].find_one({"_id": like_key(author, document["_id"])})
        row = StatusRow.of(document, you_like=own_like is not None)
        if row.audience is None:
            raise Conflict("The status that was posted with this key has been deleted.")
        if (row.text, row.audience) != (text, audience):
            raise Conflict("Another status was posted with this key.")
        return row

    async def status(self, viewer: ObjectId, id: ObjectId) -> StatusRow:
        """Return a status. Raises NotFound when it does not exist or the viewer may not see it."""
        status = await visible_status(self._db, viewer, id)
        if status is None:
            raise NotFound("There is no such status.")
        return status

    async def delete(self, author: ObjectId, id: ObjectId) -> None:
        """Delete a status. The text is gone at once; a tombstone stays for the idempotency key. Raises NotFound for
        anybody else's.
        """
        deleted = await self._db["statuses"].update_one(
            {"_id": id, "user_id": author, "deleted": False},
            {"$set": {"deleted": True, "text": "", "changed": id}, "$unset": {"audience": "", "likes": ""}},
        )
        if not deleted.matched_count:
            raise NotFound("You have no such status.")
        self.stack.bus.tell(Hint("deleted", author, id))

    async def like(self, reader: ObjectId, id: ObjectId) -> None:
        """Like a status. Like and count change together, so the count is exact. Repeating it changes nothing. Raises
        NotFound when it does not exist or the reader may not see it.
        """
        status, key = await self.status(reader, id), {"_id": like_key(reader, id)}
        event = self.outbox.event("like", reader, status.user_id, id)

        async def unless_deleted(inside: Transaction) -> bool:
            if await inside["likes"].find_one(key, {"_id": 1}):
                return False
            await _raise_likes_version(inside, reader)
            if not await self._count(inside, id, 1):
                raise NotFound("There is no such status.")
            await inside["likes"].insert_one(key)
            await self.outbox.note(inside, event)
            return True

        is_new = await self._in_turn(id, unless_deleted)
        self.stack.bus.tell(Hint("liked", reader, id))  # again, too: whoever liked it may have been killed before this
        if is_new:
            await self.outbox.happened(event)

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
            await self.status(reader, id)
        self.stack.bus.tell(Hint("liked", reader, id))

    @staticmethod
    async def _count(inside: Transaction, id: ObjectId, by: int) -> bool:
        """Change the count of likes; return whether there is such a status. Nobody sees the likes of a deleted one."""
        counted = {"$inc": {"likes": by}, "$set": {"changed": id}}
        return await inside["statuses"].update_one({"_id": id, "deleted": False}, counted, upsert=False)

    async def _in_turn(self, id: ObjectId, work: Callable[[Transaction], Awaitable[T]]) -> T:
        async with self._turn(id):
            return await transaction(self._db, work)

    def _turn(self, id: ObjectId) -> asyncio.Lock:
        """Return the lock of a document. Changes of it in this process take turns: of many transactions at
        once MongoDB lets one through, and the others begin again.
        """
        return self._turns.setdefault(id, asyncio.Lock())

    async def statuses_of(
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


async def _raise_likes_version(inside: Transaction, reader: ObjectId) -> None:
    """Raise the version of the reader's likes: it ends what any process remembers of them."""
    await change_version(inside, reader, {"$inc": {"likes": 1}})


async def _is_there(inside: Transaction, person: ObjectId) -> None:
    """Raise NoAccount where the person has deleted their account since they were looked up."""
    if await inside["users"].find_one({"_id": person, "deleted": True}, {"_id": 1}):
        raise NoAccount(person)


async def _in_conversation(edges: Transaction, block: dict[str, ObjectId], change: str) -> None:
    """Note a block in the conversation of the two, if they have one: whoever writes at the same moment looks again."""
    query = {"pair": pair_key(*block.values())}
    changes = {change: {"blocked_by": block["blocker"]}, "$inc": {"version": 1}}
    await edges[Conversation.Settings.name].update_one(query, changes, upsert=False)


def _either_way(from_field: str, to_field: str, one: ObjectId, other: ObjectId) -> dict[str, Any]:
    return {"$or": [{from_field: one, to_field: other}, {from_field: other, to_field: one}]}


def _not_oneself(one: ObjectId, other: ObjectId, deed: str) -> None:
    if one == other:
        raise Invalid("handle", f"You cannot {deed}.")
