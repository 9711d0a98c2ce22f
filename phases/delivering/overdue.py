"""What is overdue, a part at a time: what stays so holds up nothing behind it."""

from collections.abc import Mapping
from typing import Any

from bson import ObjectId

from app.clock import FIRST_ID
from app.stack.mongodb.connection import Database


class Overdue:
    """The rounds of one process through what is overdue."""

    def __init__(self, db: Database) -> None:
        self._db = db
        self._swept: dict[tuple[str, str], ObjectId] = {}  # how far: of whom, and in which collection

    async def further(
        self, of: str, collection: str, query: Mapping[str, Any], older_than: ObjectId, limit: int
    ) -> list[dict[str, Any]]:
        """Find the next `limit` rows by id, and begin anew after the last ones."""
        ids = {"$gt": self._swept.get((of, collection), FIRST_ID), "$lt": older_than}
        found = self._db[collection].find({**query, "_id": ids}).sort("_id", 1).limit(limit)
        rows: list[dict[str, Any]] = await found.to_list(None)
        self._swept[of, collection] = rows[-1]["_id"] if len(rows) == limit else FIRST_ID
        return rows
