"""Home timelines in MongoDB: one document per entry, keyed by reader and status, in a clustered collection.

A container's floors say which readers' timelines are complete, and from where on. A reader without a floor is cold.
"""

from collections.abc import Mapping, Sequence
from datetime import timedelta
from typing import Any

from bson import ObjectId
from pymongo.errors import DuplicateKeyError

from app.access import Entry
from app.clock import FIRST_ID, LAST_ID, id_at
from app.models import StatusRow
from app.stack import Stack
from app.stack.mongodb import NEWEST_FIRST, Collection, Find, insert_missing, together
from phases.reading import Asked, AuthorIds, Found, Slice
from phases.switch import Container, Settings, entries_name, floors_name

DROP_AFTER_S = 60  # reads that began in a container have ended so long after it is out of the settings
SWEPT_AT_ONCE = 100  # readers looked at per sweep


def entry_key(reader: ObjectId, status: ObjectId) -> bytes:
    """24 bytes: a reader's entries are neighbours, in the order of their statuses."""
    return reader.binary + status.binary


class Entries:
    """Each method names the container it works on. Deliveries and merges may be repeated."""

    def __init__(self, stack: Stack) -> None:
        self._db, self._config, self._clock = stack.db, stack.config, stack.clock
        self._swept_to = FIRST_ID

    def _entries(self, container: Container) -> Collection:
        return self._db[entries_name(container.since)]

    def _floors(self, container: Container) -> Collection:
        return self._db[floors_name(container.since)]

    async def deliver(self, container: Container, status: StatusRow, to: Sequence[ObjectId]) -> None:
        """Put one status on many timelines: one command."""
        tail, author = status.id.binary, status.user_id  # as in entry_key
        await self._insert(container, [{"_id": reader.binary + tail, "a": author} for reader in to])

    async def _insert(self, container: Container, documents: list[dict[str, Any]]) -> None:
        """An entry that is there already was delivered before: at least once, and it does not matter."""
        if documents:
            await insert_missing(self._db, entries_name(container.since), documents)

    async def read(
        self,
        container: Container,
        reader: ObjectId,
        before: ObjectId,
        n: int,
        first: Mapping[str, Find],
        stranger: bool,
    ) -> tuple[Found, Slice | None]:
        """One command: entries, floor and what is owed, all of the same moment."""
        keys = {"$gte": entry_key(reader, FIRST_ID), "$lt": entry_key(reader, before)}
        found = await together(
            self._db,
            **first,
            entries=Find(entries_name(container.since), {"_id": keys}, ("_id", "a"), n, NEWEST_FIRST),
            floors=Find(floors_name(container.since), {"_id": reader}, ("floor",), 1),
        )
        rows, floors = found.pop("entries"), found.pop("floors")
        if not any(floors):
            return found, None
        entries = [Entry(ObjectId(row["_id"][12:]), row["a"]) for row in rows]
        return found, Slice(entries, floors[0]["floor"], whole=len(entries) < n and before == LAST_ID)

    async def forget(self, container: Container, reader: ObjectId) -> None:
        await self._floors(container).update_one(
            {"_id": reader}, {"$set": {"lease": ObjectId()}, "$unset": {"floor": ""}}
        )

    async def rebuild(self, container: Container, reader: ObjectId, asked: Asked) -> bool:
        """Fill in a cold timeline: lease -> query -> entries -> floor, unless somebody widened or leased in between."""
        lease = ObjectId()
        floors = self._floors(container)
        try:
            before = await floors.find_one_and_update({"_id": reader}, {"$set": {"lease": lease}}, upsert=True)
        except DuplicateKeyError:  # two first leases at once: the other one's rebuild will do
            before = None
        part = await asked.recent()
        await self._insert(container, [{"_id": reader.binary + row[:12], "a": ObjectId(row[12:])} for row in part.rows])
        floor = max(part.floor, (before or {}).get("cut", FIRST_ID))
        # The lease ends here: whoever looked before there was a floor must look again before they act on it.
        done = await floors.update_one({"_id": reader, "lease": lease}, {"$set": {"floor": floor, "lease": ObjectId()}})
        return bool(done.matched_count)

    async def merge(self, container: Container, reader: ObjectId, author_ids: AuthorIds) -> None:
        """Rule 4. Breaks the lease of a rebuild under way, whose query may have been too early to see the author."""
        kept = await self._floors(container).find_one_and_update({"_id": reader}, {"$set": {"lease": ObjectId()}})
        if kept is None or "floor" not in kept:
            return
        found = await author_ids(kept["floor"])
        await self._insert(container, [{"_id": entry_key(reader, e.id), "a": e.author} for e in found])
        if len(found) >= self._config.cap:
            raised = {"$max": {"floor": found[-1].id}}  # not where it has been forgotten: others need not have merged
            await self._floors(container).update_one({"_id": reader, "floor": {"$exists": True}}, raised)

    async def sweep(self, settings: Settings) -> None:
        """Cut the next readers' timelines to the cap, and drop what has been retired."""
        if container := settings.current("entries"):
            await self._cut_next(container)
        await self._drop_retired(settings)

    async def _cut_next(self, container: Container) -> None:
        for _ in range(SWEPT_AT_ONCE):
            above = entry_key(self._swept_to, LAST_ID)
            first = await self._entries(container).find_one({"_id": {"$gt": above}}, {"_id": 1}, sort=[("_id", 1)])
            if first is None:
                self._swept_to = FIRST_ID
                return
            self._swept_to = ObjectId(first["_id"][:12])
            await self.cut(container, self._swept_to)

    async def cut(self, container: Container, reader: ObjectId) -> None:
        """Raise the floor to the cap, then delete what is below it: a read finds both of one moment.

        A cold reader has no floor yet; `cut` is the least that a rebuild may give them.
        """
        whole = {"$gte": entry_key(reader, FIRST_ID), "$lt": entry_key(reader, LAST_ID)}
        surplus = self._entries(container).find({"_id": whole}, {"_id": 1}).sort("_id", -1)
        last_kept = await surplus.skip(self._config.cap - 1).limit(2).to_list(None)
        if len(last_kept) < 2:
            return
        bound = ObjectId(last_kept[0]["_id"][12:])
        floors = self._floors(container)
        kept = await floors.find_one({"_id": reader}) or {}
        change: dict[str, Any] = {"$set": {"lease": ObjectId()}, "$max": {"cut": bound}}
        if "floor" in kept:
            change["$max"]["floor"] = bound
        try:
            cut = await floors.update_one({"_id": reader, "lease": kept.get("lease")}, change, upsert=not kept)
        except DuplicateKeyError:
            return  # a rebuild has begun meanwhile; the next sweep comes by again
        if cut.matched_count or cut.upserted_id:
            await self._entries(container).delete_many({"_id": {**whole, "$lt": entry_key(reader, bound)}})

    async def _drop_retired(self, settings: Settings) -> None:
        """Drop the collections of containers that nobody can be reading any more."""
        alive = {name(c.since) for c in settings.containers for name in (entries_name, floors_name)}
        long_ago = id_at(self._clock.now() - timedelta(seconds=DROP_AFTER_S))
        for name in await self._db.list_collection_names():
            prefix, _, since = name.rpartition("_")
            retired = prefix in ("home_entries", "home_floors") and name not in alive
            if retired and ObjectId(since) < long_ago:
                await self._db.drop_collection(name)
