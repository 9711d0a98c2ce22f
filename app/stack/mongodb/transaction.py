"""Transactions of several commands on one snapshot."""

import asyncio
import time
from collections.abc import Awaitable, Callable, Coroutine, Mapping
from contextvars import Context
from dataclasses import dataclass
from typing import Any, TypeVar

import pymongo
from pymongo import ReturnDocument
from pymongo.errors import PyMongoError
from pymongo.read_concern import ReadConcern
from pymongo.write_concern import WriteConcern

from app.stack.cost import count_mongodb
from app.stack.mongodb.connection import Database, direct
from app.stack.mongodb.stand_in import StandInDatabase

T = TypeVar("T")

TRANSACTION_S = 5.0  # how long a transaction is tried while others change the same documents
TRANSACTION_PAUSE_S = 0.005
END_S = 1.0  # how long at least its commit or abort may take: until then others find its documents held


class Contended(Exception):
    """Other transactions have held the same documents for too long. Callers treat it as a server that is away.

    The holder may also be a process that died in the middle of one.
    """


class Transaction:
    """The collections inside a transaction: whatever is read or written through it belongs to it."""

    def __init__(self, database: Database, session: Any) -> None:
        self._database, self._session = database, session

    def __getitem__(self, name: str) -> "InTransaction":
        if not self._session:
            return InTransaction(self._database[name], {}, _as_it_is)
        driver = direct(self._database)
        return InTransaction(driver.in_transactions(name), {"session": self._session}, driver.to_its_end)


async def _as_it_is(command: Awaitable[Any]) -> Any:
    return await command


@dataclass(frozen=True)
class InTransaction:
    """A collection inside a transaction, with the commands that ours need."""

    _collection: Any
    _options: Mapping[str, Any]
    _sent: Callable[[Any], Awaitable[Any]]

    async def _answer(self, command: Awaitable[Any]) -> Any:
        if self._options:  # a stand-in counts by itself
            count_mongodb()
        return await self._sent(command)

    async def find_one(self, query: Mapping[str, Any], fields: Mapping[str, int]) -> dict[str, Any] | None:
        found: dict[str, Any] | None = await self._answer(self._collection.find_one(query, fields, **self._options))
        return found

    async def find(self, query: Mapping[str, Any], fields: Mapping[str, int], limit: int) -> list[dict[str, Any]]:
        cursor = self._collection.find(query, fields, **self._options).limit(limit)
        found: list[dict[str, Any]] = await self._answer(cursor.to_list(None))
        return found

    async def count(self, query: Mapping[str, Any], limit: int) -> int:
        """Count documents that match, up to the limit."""
        found: int = await self._answer(self._collection.count_documents(query, limit=limit, **self._options))
        return found

    async def insert_one(self, document: Mapping[str, Any]) -> None:
        await self._answer(self._collection.insert_one(dict(document), **self._options))

    async def update_one(self, query: Mapping[str, Any], change: Mapping[str, Any], *, upsert: bool) -> bool:
        """Update a document; return whether it was there."""
        updated = await self._answer(self._collection.update_one(query, change, upsert=upsert, **self._options))
        return bool(updated.matched_count)

    async def update_many(self, query: Mapping[str, Any], change: Mapping[str, Any]) -> None:
        await self._answer(self._collection.update_many(query, change, **self._options))

    async def next_number(self, query: Mapping[str, Any]) -> int:
        """Raise the `seq` of a document by one and return it; the first number is 1."""
        row = await self._upsert(query, {"$inc": {"seq": 1}})
        return int(row["seq"])

    async def find_or_insert(self, query: Mapping[str, Any], new: Mapping[str, Any]) -> dict[str, Any]:
        """Return the document as it is, after inserting it where there was none."""
        return await self._upsert(query, {"$setOnInsert": new})

    async def _upsert(self, query: Mapping[str, Any], change: Mapping[str, Any]) -> dict[str, Any]:
        options = {"upsert": True, "return_document": ReturnDocument.AFTER, **self._options}
        row: dict[str, Any] = await self._answer(self._collection.find_one_and_update(query, change, **options))
        return row

    async def delete_one(self, query: Mapping[str, Any]) -> bool:
        """Delete a document; return whether it was there."""
        deleted = await self._answer(self._collection.delete_one(query, **self._options))
        return bool(deleted.deleted_count)

    async def delete_many(self, query: Mapping[str, Any]) -> None:
        await self._answer(self._collection.delete_many(query, **self._options))


async def transaction(database: Database, work: Callable[[Transaction], Awaitable[T]]) -> T:
    """Do all of `work` or nothing, on one snapshot; repeat it when another transaction was faster. It goes on if its
    caller is cancelled: a command of it that is under way could not be taken back, and would be sent by itself or open
    it anew. So `work` waits for nothing but commands.

    Raises Contended, or the driver's error for a command that the time ran out in: both are UNAVAILABLE. The driver's
    own `with_transaction` would not do: it tries for two minutes.
    """
    if isinstance(database, StandInDatabase):
        return await database.at_once(lambda alone: work(Transaction(alone, None)))
    deadline = time.monotonic() + TRANSACTION_S
    with pymongo.timeout(TRANSACTION_S):  # of all of it but its end
        return await direct(database).whole(_transaction(database, work, deadline))


async def _transaction(database: Database, work: Callable[[Transaction], Awaitable[T]], deadline: float) -> T:
    async with direct(database).session() as session:
        while True:
            await session.start_transaction(ReadConcern("snapshot"), WriteConcern("majority"))  # sends nothing
            try:
                return await _committed(database, session, work, deadline)
            except PyMongoError as error:
                if not error.has_error_label("TransientTransactionError"):
                    raise
                if time.monotonic() > deadline:
                    raise Contended("others keep changing the same documents") from error
            await asyncio.sleep(TRANSACTION_PAUSE_S)


async def _committed(
    database: Database, session: Any, work: Callable[[Transaction], Awaitable[T]], deadline: float
) -> T:
    """Do the work and commit it, or abort it whatever goes wrong."""
    try:
        answer = await work(Transaction(database, session))
    except BaseException:
        await _end(database, session.abort_transaction, deadline)
        raise
    count_mongodb()
    await _end(database, session.commit_transaction, deadline)
    return answer


async def _end(database: Database, end: Callable[[], Coroutine[Any, Any, None]], deadline: float) -> None:
    """Commit or abort, in a context of its own: in one whose time is over PyMongo sends nothing any more, and MongoDB
    would hold what was changed until it gives the transaction up itself.
    """

    async def in_time() -> None:
        with pymongo.timeout(max(END_S, deadline - time.monotonic())):
            await end()

    await direct(database).to_its_end(in_time(), Context())
