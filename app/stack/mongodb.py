"""MongoDB: the one module that imports Motor, and its stand-in.

Motor gets critical fixes only until May 2027; moving to PyMongo's own async client is a change of this file.
"""

import asyncio
import time
from collections.abc import Awaitable, Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, TypeVar

from mongomock_motor import AsyncMongoMockClient, AsyncMongoMockCollection, AsyncMongoMockDatabase
from motor.frameworks.asyncio import run_on_executor
from motor.motor_asyncio import AsyncIOMotorClient, AsyncIOMotorCollection, AsyncIOMotorDatabase
from pymongo import ReturnDocument, monitoring
from pymongo.errors import (
    AutoReconnect,
    BulkWriteError,
    CollectionInvalid,
    DuplicateKeyError,
    NotPrimaryError,
    OperationFailure,
    PyMongoError,
    WriteConcernError,
)
from pymongo.read_concern import ReadConcern
from pymongo.write_concern import WriteConcern

from app.models import DOCUMENTS
from app.stack.cost import count_mongodb

if TYPE_CHECKING:
    Database = AsyncIOMotorDatabase[dict[str, Any]]
    Collection = AsyncIOMotorCollection[dict[str, Any]]
else:
    Database, Collection = AsyncIOMotorDatabase, AsyncIOMotorCollection

T = TypeVar("T")

_in_thread: Any = run_on_executor  # Motor's own threads

POOL_SIZE = 50  # connections of one process

DUPLICATE_KEY, NAMESPACE_EXISTS, SNAPSHOT_UNAVAILABLE = 11000, 48, 246  # MongoDB's error codes
SNAPSHOT_PAUSES_S = (0.01, 0.05, 0.1, 0.2, 0.5, 1.0)  # between tries; a majority is behind by more only in an outage


PRIMARY_ALONE = WriteConcern(1)  # for what may be lost; everything else waits for a majority
TRANSACTION_S = 5.0  # how long a transaction is tried while others change the same documents
TRANSACTION_PAUSE_S = 0.005


class NoSnapshot(Exception):
    """What was created last is not known to a majority: as if a server were away."""


class Contended(Exception):
    """Others, or one who died in the middle, have held the same documents for too long: as if a server were away."""


class _CommandCounter(monitoring.CommandListener):
    def started(self, event: monitoring.CommandStartedEvent) -> None:
        count_mongodb()

    def succeeded(self, event: monitoring.CommandSucceededEvent) -> None: ...

    def failed(self, event: monitoring.CommandFailedEvent) -> None: ...


def connect(url: str, database: str, timeout_s: float) -> Database:
    """The named database. Nothing is sent yet; every command waits at most `timeout_s`, a server included.

    Writes are acknowledged by a majority, and retried once by the driver when the primary changes.
    """
    timeout_ms = int(timeout_s * 1000)
    client: Any = AsyncIOMotorClient(
        url,
        tz_aware=True,
        maxPoolSize=POOL_SIZE,
        serverSelectionTimeoutMS=timeout_ms,
        connectTimeoutMS=timeout_ms,
        timeoutMS=timeout_ms,  # of a whole operation, its retries included: an election within it goes unnoticed
        event_listeners=[_CommandCounter()],
    )
    found: Database = client.get_database(database, write_concern=WriteConcern("majority"))
    return found


def is_stand_in(database: Database) -> bool:
    return isinstance(database, _StandInDatabase)


async def create_clustered(database: Database, name: str) -> None:
    """A collection stored in the order of its `_id`, without a second index (MongoDB manual, Clustered Collections)."""
    if is_stand_in(database):
        await database.create_collection(name)
    else:
        await database.create_collection(name, clusteredIndex={"key": {"_id": 1}, "unique": True})


async def prepare(database: Database) -> None:
    """Create the collections and indexes of our documents, where they are missing.

    Not Beanie 1.30: of two indexes on the same fields in another order it creates the last one only.
    """
    there = await database.list_collection_names()
    for document in DOCUMENTS:
        name, indexes = document.Settings.name, document.Settings.indexes
        if indexes:
            await database[name].create_indexes(indexes)
        elif name not in there:
            await _create(database, name)


async def _create(database: Database, name: str) -> None:
    """Unless another process has been faster."""
    try:
        await database.create_collection(name)
    except CollectionInvalid:
        pass
    except OperationFailure as error:
        if error.code != NAMESPACE_EXISTS:
            raise


Order = Sequence[tuple[str, int]]  # keys and directions
NEWEST_FIRST: Order = (("_id", -1),)


@dataclass(frozen=True)
class Find:
    """One of the look-ups of `together`. `fields` are those of the answer; `_id` only if it is among them.

    Only for a look-up of its own: `index`, the name of the one to use, where the planner would try several each time.
    """

    collection: str
    query: Mapping[str, Any]
    fields: tuple[str, ...]
    limit: int
    order: Order = ()
    index: str | None = None

    def projection(self) -> dict[str, int]:
        return {"_id": 0, **dict.fromkeys(self.fields, 1)}

    def stages(self, part: int) -> list[dict[str, Any]]:
        sort: list[dict[str, Any]] = [{"$sort": dict(self.order)}] if self.order else []
        tagged = {**self.projection(), "part": {"$literal": part}}
        return [{"$match": self.query}, *sort, {"$limit": self.limit}, {"$project": tagged}]


@dataclass
class Rider:
    """A look-up that goes along with a command that is sent anyway. `rows`: its answer, or None when none was sent."""

    find: Find
    taken: bool = False
    rows: list[dict[str, Any]] | None = None


_rider: ContextVar[Rider | None] = ContextVar("rider", default=None)


@contextmanager
def riding(find: Find) -> Iterator[Rider]:
    """The first command for several look-ups that is sent in this block takes this one along."""
    rider = Rider(find)
    token = _rider.set(rider)
    try:
        yield rider
    finally:
        _rider.reset(token)


async def together(database: Database, *finds: Find) -> list[list[dict[str, Any]]]:
    """The answers to all of them as of one moment: one command on one snapshot, a plain `find` where there is one.

    The snapshot is of what a majority has: whatever was acknowledged before is in it. The whole command, its retry
    included, is one visit to Motor's threads; Motor's own cursors take two.
    Source: MongoDB manual, Read Concern "snapshot"; $unionWith.
    """
    rider = _rider.get()
    if rider and not rider.taken and len(finds) > 1:
        rider.taken = True
        answers: list[list[dict[str, Any]]]
        *answers, rider.rows = await together(database, *finds, rider.find)
        return answers
    if isinstance(database, _StandInDatabase):
        return await database.one_after_another(finds)
    first, *others = finds
    collection = database.get_collection(first.collection, read_concern=ReadConcern("snapshot")).delegate
    loop, batch = asyncio.get_running_loop(), sum(find.limit for find in finds) + 1
    if not others:
        query = {"filter": first.query, "projection": first.projection(), "limit": first.limit, "batch_size": batch}
        query |= {"sort": list(first.order) or None, "hint": first.index}
        return [await _on_a_snapshot(lambda: _in_thread(loop, lambda: collection.find(**query).to_list()))]
    pipeline = first.stages(0) + [
        {"$unionWith": {"coll": find.collection, "pipeline": find.stages(part)}} for part, find in enumerate(others, 1)
    ]
    answers = [[] for _ in finds]
    for row in await _on_a_snapshot(
        lambda: _in_thread(loop, lambda: collection.aggregate(pipeline, batchSize=batch).to_list())
    ):
        answers[row.pop("part")].append(row)
    return answers


async def _on_a_snapshot(read: Callable[[], Awaitable[list[dict[str, Any]]]]) -> list[dict[str, Any]]:
    """A collection that has just been created is in no snapshot yet: MongoDB asks for another try."""
    for pause_s in SNAPSHOT_PAUSES_S:
        try:
            return await read()
        except OperationFailure as error:
            if error.code != SNAPSHOT_UNAVAILABLE:
                raise
        await asyncio.sleep(pause_s)
    raise NoSnapshot("no snapshot holds every collection yet")


async def insert_missing(database: Database, name: str, documents: list[dict[str, Any]]) -> None:
    """Those whose `_id` is not there yet, in one command, until a majority has them. Raises as `insert_many` does.

    The command itself: PyMongo's `insert_many` takes half as long again for ten thousand small documents.
    """
    if isinstance(database, _StandInDatabase):
        try:
            await database[name].insert_many(documents, ordered=False)
        except BulkWriteError as error:
            _unless_there(error.details or {})
        return
    command = {"insert": name, "documents": documents, "ordered": False, "writeConcern": {"w": "majority"}}
    try:
        reply = await database.command(command)
    except (AutoReconnect, NotPrimaryError):  # once more, as the driver does with its own writes
        reply = await database.command(command)
    _unless_there(reply)


async def grown(
    database: Database, name: str, id: Any, array: str, members: Sequence[Any], field: str, at_least: Any
) -> dict[str, Any]:
    """Of one document, which may have to be inserted: `array` with what it lacks of `members`, `field` raised. After a
    majority has it, as it then is.

    Not `$addToSet`, whose time grows with the product of both lengths: 1.5 s for 10,000 members that are there.
    """
    change: Any = {"$addToSet": {array: {"$each": list(members)}}, "$max": {field: at_least}}
    if not is_stand_in(database):
        union = {"$setUnion": [{"$ifNull": [f"${array}", []]}, list(members)]}
        change = [{"$set": {array: union, field: {"$max": [f"${field}", at_least]}}}]

    async def upsert() -> dict[str, Any]:
        found: dict[str, Any] = await database[name].find_one_and_update(
            {"_id": id}, change, upsert=True, return_document=ReturnDocument.AFTER
        )
        return found

    try:
        return await upsert()
    except DuplicateKeyError:  # somebody else was faster to insert it
        return await upsert()


def _unless_there(reply: Mapping[str, Any]) -> None:
    """Of an insert: raise what went wrong."""
    if others := [error for error in reply.get("writeErrors", ()) if error["code"] != DUPLICATE_KEY]:
        raise BulkWriteError({**reply, "writeErrors": others})
    if unsure := reply.get("writeConcernError"):
        raise WriteConcernError(unsure["errmsg"], unsure["code"], unsure)


class Transaction:
    """The collections inside a transaction: whatever is read or written through it belongs to it."""

    def __init__(self, database: Database, session: Any) -> None:
        self._database, self._options = database, {"session": session} if session else {}

    def __getitem__(self, name: str) -> "InTransaction":
        return InTransaction(self._database[name], self._options)


@dataclass(frozen=True)
class InTransaction:
    """The commands that transactions need."""

    _collection: Any
    _options: Mapping[str, Any]

    async def find_one(self, query: Mapping[str, Any], fields: Mapping[str, int]) -> dict[str, Any] | None:
        found: dict[str, Any] | None = await self._collection.find_one(query, fields, **self._options)
        return found

    async def update_one(self, query: Mapping[str, Any], change: Mapping[str, Any], *, upsert: bool) -> None:
        await self._collection.update_one(query, change, upsert=upsert, **self._options)

    async def find_or_insert(self, query: Mapping[str, Any], new: Mapping[str, Any]) -> dict[str, Any]:
        """The document as it was or, where there was none, as it is now."""
        row: dict[str, Any] = await self._collection.find_one_and_update(
            query, {"$setOnInsert": new}, upsert=True, return_document=ReturnDocument.AFTER, **self._options
        )
        return row

    async def delete_one(self, query: Mapping[str, Any]) -> None:
        await self._collection.delete_one(query, **self._options)

    async def delete_many(self, query: Mapping[str, Any]) -> None:
        await self._collection.delete_many(query, **self._options)


async def transaction(database: Database, work: Callable[[Transaction], Awaitable[T]]) -> T:
    """Do all of `work` or nothing, on one snapshot; again when somebody else was faster. Raises Contended.

    Not Motor's `with_transaction`: that tries for two minutes.
    """
    if isinstance(database, _StandInDatabase):
        return await database.at_once(work)
    deadline = time.monotonic() + TRANSACTION_S
    async with await database.client.start_session() as session:
        while True:
            try:
                async with session.start_transaction(ReadConcern("snapshot"), WriteConcern("majority")):
                    return await work(Transaction(database, session))
            except PyMongoError as error:
                if not error.has_error_label("TransientTransactionError"):
                    raise
                if time.monotonic() > deadline:
                    raise Contended("others keep changing the same documents") from error
            await asyncio.sleep(TRANSACTION_PAUSE_S)


_COMMANDS = frozenset(
    [
        "aggregate",
        "bulk_write",
        "count_documents",
        "delete_many",
        "delete_one",
        "distinct",
        "find",
        "find_one",
        "find_one_and_update",
        "insert_many",
        "insert_one",
        "replace_one",
        "update_many",
        "update_one",
    ]
)


class _StandInCollection(AsyncMongoMockCollection):  # type: ignore[type-arg]
    def __getattribute__(self, name: str) -> Any:
        if name in _COMMANDS:
            count_mongodb()
        return super().__getattribute__(name)


class _StandInDatabase(AsyncMongoMockDatabase):  # type: ignore[type-arg]
    def get_collection(self, *args: Any, **options: Any) -> Any:
        this: Any = self
        return _StandInCollection(this, self.delegate.get_collection(*args, **options))

    async def one_after_another(self, finds: Sequence[Find]) -> list[list[dict[str, Any]]]:
        """Nothing else runs in between: mongomock never gives the event loop away."""
        count_mongodb()
        answers = []
        for find in finds:
            rows = self.delegate[find.collection].find(find.query, find.projection())
            answers.append(list((rows.sort(list(find.order)) if find.order else rows).limit(find.limit)))
        return answers

    async def at_once(self, work: Callable[[Transaction], Awaitable[T]]) -> T:
        """The same for commands. `work` refuses before it writes: nothing here can be taken back."""
        return await work(Transaction(self, None))


def stand_in(database: str) -> Database:
    """mongomock in this process: no clustered collections, sessions or change streams, and meaningless timings."""
    client: Any = AsyncMongoMockClient(tz_aware=True)
    found: Database = _StandInDatabase(client, client.get_database(database).delegate)
    return found
