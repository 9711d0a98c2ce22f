"""What is owed, and read first: statuses whose delivery is pending (rule 5), edges whose backfill is (rule 4)."""

from collections.abc import Mapping, Sequence
from typing import Any

from bson import ObjectId

from app.access import Entry
from app.edges import WIDENING
from app.stack import Database
from app.stack.mongodb import NEWEST_FIRST, Find


class Outbox:
    def __init__(self, db: Database, scan: int) -> None:
        self._db, self._scan = db, scan

    def look(self, slugs: tuple[str, ...], before: ObjectId) -> Find:
        """What a read has to look up first: everybody's undelivered statuses."""
        pending = {"pending": one_or_in(slugs), "_id": {"$lt": before}}
        return Find("statuses", pending, ("_id", "user_id"), self._scan + 1, NEWEST_FIRST)

    def waiting(self, pending: Sequence[Mapping[str, Any]]) -> list[Entry] | None:
        """The answer to `look`; None when so much is pending that asking is cheaper than looking through it."""
        if len(pending) > self._scan:
            return None
        return [Entry(status["_id"], status["user_id"]) for status in pending]

    async def delivered(self, slug: str, status: ObjectId) -> None:
        """The last follower has it."""
        await self._db["statuses"].update_one({"_id": status}, {"$pull": {"pending": slug}})

    async def owe(self, status: ObjectId, slugs: tuple[str, ...]) -> None:
        await self._db["statuses"].update_one({"_id": status}, {"$addToSet": {"pending": {"$each": list(slugs)}}})

    async def count(self, slug: str) -> int:
        return await self._db["statuses"].count_documents({"pending": slug})

    async def overdue(self, slug: str, older_than: ObjectId, limit: int) -> list[ObjectId]:
        """Statuses that have been pending for too long, oldest first."""
        query = {"pending": slug, "_id": {"$lt": older_than}}
        found = await self._db["statuses"].find(query, {"_id": 1}).sort("_id", 1).limit(limit).to_list(None)
        return [status["_id"] for status in found]

    async def debts(self, older_than: ObjectId, limit: int) -> list[tuple[str, dict[str, Any]]]:
        """Rows whose backfill should have been made by now, with the collection they are in."""
        return [
            (collection, row)
            for collection, _, _ in WIDENING
            for row in await self._db[collection]
            .find({"debt": True, "_id": {"$lt": older_than}})
            .limit(limit)
            .to_list(None)
        ]

    async def settled(self, collection: str, row: ObjectId) -> None:
        """A backfill that began after the row was written has ended."""
        await self._db[collection].update_one({"_id": row}, {"$unset": {"debt": ""}})


def one_or_in(values: tuple[str, ...]) -> Any:
    return values[0] if len(values) == 1 else {"$in": list(values)}
