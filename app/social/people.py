"""People: what they are called, how they are found, and what somebody sees of whom."""

import asyncio
import re
from collections import Counter
from collections.abc import Awaitable, Callable, Iterable
from dataclasses import dataclass
from typing import Any, TypeVar

from bson import ObjectId

from app.access import audiences
from app.accounts import NAME_LENGTH, checked_name, normal_handle
from app.clock import LAST_ID
from app.departures import departed_now
from app.edges import NAMES, VERSIONS, OwnEdges, View, change_edges, version_key
from app.errors import Invalid, NoAccount, NotFound
from app.models import Account, Person, User, search_words
from app.names import Names
from app.stack import Hint, Stack
from app.stack.mongodb.transaction import Transaction
from app.text import storable

WORDS_SEARCHED = 5
FOUND_AGAIN = 3  # each time, somebody else would have to depart in between
FOLLOWS_LOOKED_AT = 1_000  # the newest, for suggestions

T = TypeVar("T")

PeoplePage = tuple[list[Person], ObjectId | None]  # and the cursor of the next page


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


class People:
    """The use cases, one object per process. Ids are users'; unknown handles are the business of `by_handle`."""

    def __init__(self, stack: Stack) -> None:
        self._stack, self._db, self._names = stack, stack.db, Names(stack.db)
        self._renaming = asyncio.Lock()  # of many transactions that raise one version MongoDB lets one through

    async def by_handle(self, handle: str) -> User:
        normal = normal_handle(handle)
        user = await User.called(normal) if normal else None
        if user is None:
            raise NotFound("Nobody has this handle.")
        return user

    async def by_ids(self, ids: Iterable[ObjectId], names: int | None = None) -> dict[ObjectId, Person]:
        """Return handles and names, as they are now. `names`: their version, where it has been looked up for this
        answer.
        """
        return await self._names.of(set(ids), names)

    async def shown_on(
        self,
        found: T,
        again: Callable[[], Awaitable[T]],
        ids: Callable[[T], Iterable[ObjectId]],
        names: Callable[[T], int | None] = lambda _: None,
    ) -> tuple[T, dict[ObjectId, Person]]:
        """Return what has been found, and `by_ids` the people whom it is by. Where one of them has departed since that
        was judged, it is found again, without what was theirs.
        """
        people = await self.by_ids(ids(found), names(found))
        for _ in range(FOUND_AGAIN):
            if all(person.is_there for person in people.values()):
                break
            found = await again()
            people = await self.by_ids(ids(found), names(found))
        return found, people

    async def rename(self, account: Account, name: str) -> None:
        """Rename a person: the next page of every process shows the new name, or for a blank one the handle. Raises
        Invalid and NoAccount.
        """
        name = checked_name(name) or account.handle

        async def new_version(inside: Transaction) -> None:
            now = await inside[VERSIONS].find_one(version_key(NAMES), {"version": 1})
            assert now, "it has just been raised"
            change = {"name": name, "found_by": search_words(account.handle, name), "renamed": now["version"]}
            there = {"_id": account.id, "deleted": {"$exists": False}}
            if not await inside["users"].update_one(there, {"$set": change}, upsert=False):
                raise NoAccount(account.id)

        async with self._renaming:
            await change_edges(self._db, {NAMES}, new_version)
        self._stack.bus.tell(Hint("named", account.id))

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
        people = await self.by_ids(wanted)
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
        people = await self.by_ids(ids)
        return ids, {id: person for id, person in people.items() if person.is_there}
