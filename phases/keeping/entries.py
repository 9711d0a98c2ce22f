"""Home timelines in MongoDB: one document per entry, keyed by reader and status, in a clustered collection.

A container's floors say which readers' timelines are complete, and from where on. A reader without a floor is cold.
"""

from collections import defaultdict
from collections.abc import Mapping
from datetime import timedelta
from functools import partial
from typing import Any

from bson import ObjectId
from pymongo.errors import DuplicateKeyError

from app.access import Entry
from app.clock import FIRST_ID, LAST_ID, id_at
from app.models import HOME
from app.stack import Stack
from app.stack.mongodb.connection import Collection
from app.stack.mongodb.find import NEWEST_FIRST, Find, Rows
from app.stack.mongodb.write import create_clustered, insert_missing
from app.stack.sorted_sets import Over
from phases.home.candidates import Slice
from phases.keeping.first_slices import FirstSlices
from phases.keeping.recipients import Recipients
from phases.keeping.store import AuthorIds, Container, Place, Returning, Store

ENTRIES, FLOORS = f"{HOME}entries", f"{HOME}floors"  # a collection of each has its container's name, too
DROP_AFTER_S = 60  # a switch takes less from the beginning of a container on
NOBODY = FIRST_ID  # nobody's id: in place of a floor its row says how far sweeps have come
FEW = 100  # entries, which travel in a command with what other readers ask
SWEPT_AT_ONCE = 100  # readers looked at per sweep


def entry_key(reader: ObjectId, status: ObjectId) -> bytes:
    """Return the key of an entry, 24 bytes: a reader's entries are neighbours, in the order of their statuses."""
    return reader.binary + status.binary


def entries_name(container: Container) -> str:
    return f"{ENTRIES}_{container.name}"


def floors_name(container: Container) -> str:
    return f"{FLOORS}_{container.name}"


class Entries(Store):
    """Entries of home timelines. Phase 2 says how one comes to be."""

    name = "entries"
    in_memory = False
    bytes_per_entry = 55  # uncompressed: 24-byte key, author, BSON; `feedlab bench compare` measures it
    bytes_per_reader = 0

    def __init__(self, stack: Stack, recipients: Recipients) -> None:
        assert not recipients.active_only, "an entry does not expire, so nobody may be skipped"
        super().__init__(stack, recipients)
        self._first = FirstSlices()

    def _entries(self, container: Container) -> Collection:
        return self.db[entries_name(container)]

    def _floors(self, container: Container) -> Collection:
        return self.db[floors_name(container)]

    async def begin(self, container: Container) -> None:
        """Make both collections before anybody reads: a collection made later is not in the snapshot of a read."""
        await create_clustered(self.db, entries_name(container))
        await self.db.create_collection(floors_name(container))

    async def insert(
        self,
        container: Container,
        documents: list[dict[str, Any]],
    ) -> None:
        """Insert entries. One that is there already was delivered before: at least
        once, and it does not matter.
        """
        if documents:
            await insert_missing(self.db, entries_name(container), documents)

    def finds(self, place: Place) -> dict[str, Find]:
        container, reader, before, n = place
        keys = {"$gte": entry_key(reader, FIRST_ID), "$lt": entry_key(reader, before)}
        return {
            "entries": Find(entries_name(container), {"_id": keys}, ("_id", "a"), n, NEWEST_FIRST, along=n <= FEW),
            "floor": Find(floors_name(container), {"_id": reader}, ("_id", "floor"), 1, by="_id"),
        }

    async def read(self, place: Place, answers: Mapping[str, Rows]) -> Slice | None:
        """Read entries and floor of the same moment: both are in the answers."""
        [found] = answers["floor"] or [{}]
        if "floor" not in found:
            return None
        rows, floor = answers["entries"], found["floor"]
        packed = floor.binary + b"".join([row["_id"] for row in rows])
        return self._first.unpacked(place, packed, partial(_slice, place, rows, floor))

    async def forget(self, container: Container, reader: ObjectId) -> None:
        await self._floors(container).update_one(
            {"_id": reader}, {"$set": {"lease": ObjectId()}, "$unset": {"floor": ""}}
        )

    async def rebuild(self, container: Container, returning: Returning) -> bool:
        """Lease, query, insert the entries, set the floor, unless somebody widened or leased in between. Return whether
        it was set.
        """
        lease, reader = ObjectId(), returning.reader
        floors = self._floors(container)
        try:
            before = await floors.find_one_and_update({"_id": reader}, {"$set": {"lease": lease}}, upsert=True)
        except DuplicateKeyError:  # two first leases at once: the other one's rebuild will do
            before = None
        recent = await returning.recent()
        rows = [{"_id": reader.binary + row[:12], "a": ObjectId(row[12:])} for row in recent.rows]
        await self.insert(container, rows)
        floor = max(recent.floor, (before or {}).get("cut", FIRST_ID))
        # The lease ends here: whoever looked before there was a floor must look again before they act on it.
        done = await floors.update_one({"_id": reader, "lease": lease}, {"$set": {"floor": floor, "lease": ObjectId()}})
        return bool(done.matched_count)

    async def merge(self, container: Container, reader: ObjectId, author_ids: AuthorIds) -> None:
        """Merge an author's entries (rule 4), and break the lease of a rebuild under way: its query may have been too
        early to see the author.
        """
        row = await self._floors(container).find_one_and_update({"_id": reader}, {"$set": {"lease": ObjectId()}})
        if row is None or "floor" not in row:
            return
        entries = await author_ids(row["floor"])
        await self.insert(container, [{"_id": entry_key(reader, e.id), "a": e.author} for e in entries])
        if len(entries) >= self.config.cap:
            raised = {"$max": {"floor": entries[-1].id}}  # not where it has been forgotten: others need not have merged
            await self._floors(container).update_one({"_id": reader, "floor": {"$exists": True}}, raised)

    async def holds(self, container: Container, reader: ObjectId, status: ObjectId) -> bool | None:
        if await self._entries(container).find_one({"_id": entry_key(reader, status)}, {"_id": 1}):
            return True
        floor = await self._floors(container).find_one({"_id": reader}, {"floor": 1})
        return False if floor and "floor" in floor else None

    async def sweep(self, current: Container | None, over: Over) -> None:
        """Cut the next readers' timelines to the cap, and drop what has been retired."""
        if current:
            await self._cut_next(current)
        await self._drop_retired(over)

    async def _cut_next(self, container: Container) -> None:
        """Go on where the last sweep has ended, whichever process made it. Were each process to begin with the first
        reader, a fleet that is often restarted would never come to the last one, and all workers would cut the same.
        """
        entries, floors = self._entries(container), self._floors(container)
        place = await floors.find_one({"_id": NOBODY}) or {"swept_to": FIRST_ID}
        reader: ObjectId = place["swept_to"]
        try:
            for _ in range(SWEPT_AT_ONCE):
                beyond = {"_id": {"$gt": entry_key(reader, LAST_ID)}}
                first = await entries.find_one(beyond, {"_id": 1}, sort=[("_id", 1)])
                reader = ObjectId(first["_id"][:12]) if first else FIRST_ID
                if first is None:
                    break
                await self.cut(container, reader)
        finally:  # whoever cannot be cut holds up nobody else
            await floors.update_one({"_id": NOBODY}, {"$set": {"swept_to": reader}}, upsert=True)

    async def cut(self, container: Container, reader: ObjectId) -> None:
        """Raise the floor to the cap, then delete what is below it: a read finds floor and entries of one moment.

        A cold reader has no floor yet; `cut` is the least that a rebuild may give them.
        """
        whole = {"$gte": entry_key(reader, FIRST_ID), "$lt": entry_key(reader, LAST_ID)}
        surplus = self._entries(container).find({"_id": whole}, {"_id": 1}).sort("_id", -1)
        last_kept = await surplus.skip(self.config.cap - 1).limit(2).to_list(None)
        if len(last_kept) < 2:
            return
        bound = ObjectId(last_kept[0]["_id"][12:])
        floors = self._floors(container)
        row = await floors.find_one({"_id": reader}) or {}
        change: dict[str, Any] = {"$set": {"lease": ObjectId()}, "$max": {"cut": bound}}
        if "floor" in row:
            change["$max"]["floor"] = bound
        try:
            cut = await floors.update_one({"_id": reader, "lease": row.get("lease")}, change, upsert=not row)
        except DuplicateKeyError:
            return  # a rebuild has begun meanwhile; the next sweep comes by again
        if cut.matched_count or cut.upserted_id:
            await self._entries(container).delete_many({"_id": {**whole, "$lt": entry_key(reader, bound)}})

    async def _drop_retired(self, over: Over) -> None:
        """Drop the collections of containers that are over, unless they are so young that a switch may be about to
        begin with them.
        """
        young, found = id_at(self.clock.now() - timedelta(seconds=DROP_AFTER_S)), defaultdict[str, list[str]](list)
        for name in await self.db.list_collection_names():
            prefix, _, since = name.rpartition("_")
            if prefix in (ENTRIES, FLOORS) and ObjectId(since) < young:
                found[since].append(name)
        for since in await over(found):
            for name in found[since]:
                await self.db.drop_collection(name)


def _slice(place: Place, rows: Rows, floor: ObjectId) -> Slice:
    entries = [Entry(ObjectId(row["_id"][12:]), row["a"]) for row in rows]
    return place.slice(entries, floor)
