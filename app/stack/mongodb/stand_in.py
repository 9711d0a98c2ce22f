"""The stand-in for MongoDB: mongomock in this process, as much of it as the project uses."""

from collections.abc import Awaitable, Callable, Mapping
from typing import Any, TypeVar

from mongomock_motor import AsyncMongoMockClient, AsyncMongoMockCollection, AsyncMongoMockDatabase

from app.stack.cost import count_mongodb
from app.stack.mongodb.connection import Database
from app.stack.mongodb.lookup import Find, Rows

T = TypeVar("T")

_COMMANDS = {
    "aggregate", "bulk_write", "count_documents", "delete_many", "delete_one", "distinct", "find", "find_one",
    "find_one_and_update", "insert_many", "insert_one", "replace_one", "update_many", "update_one",
}  # fmt: skip


class StandInCollection(AsyncMongoMockCollection):  # type: ignore[type-arg]
    def __getattribute__(self, name: str) -> Any:
        if name in _COMMANDS:
            count_mongodb()
        return super().__getattribute__(name)


class StandInDatabase(AsyncMongoMockDatabase):  # type: ignore[type-arg]
    def get_collection(self, *args: Any, **options: Any) -> Any:
        this: Any = self
        return StandInCollection(this, self.delegate.get_collection(*args, **options))

    async def one_after_another(self, finds: Mapping[str, Find]) -> dict[str, Rows]:
        """Answer the look-ups on one state of the data: mongomock never gives the event loop away in between."""
        count_mongodb()
        answers = {}
        for name, find in finds.items():
            rows = self.delegate[find.collection].find(find.query, find.projection())
            rows = rows.sort(list(find.order)) if find.order else rows
            answers[name] = find.unknown(list(rows.skip(find.skip).limit(find.limit)))
        return answers

    async def at_once(self, work: Callable[[Database], Awaitable[T]]) -> T:
        """Do `work` on one state of the data. It must refuse before it writes: nothing here can be taken back."""
        this: Any = self
        return await work(this)


def stand_in(database: str) -> Database:
    """Return a database in this process, without clustered collections, sessions and change streams.

    Its times mean nothing.
    """
    client: Any = AsyncMongoMockClient(tz_aware=True)
    found: Database = StandInDatabase(client, client.get_database(database).delegate)
    return found


def is_stand_in(database: Database) -> bool:
    return isinstance(database, StandInDatabase)
