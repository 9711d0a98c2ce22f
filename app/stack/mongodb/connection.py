"""The connection of one process to its database, and the counting of what is sent."""

import asyncio
from collections.abc import Awaitable, Callable, Coroutine, Iterator, Mapping
from contextlib import contextmanager
from contextvars import Context
from functools import cache, partial
from time import monotonic
from typing import TYPE_CHECKING, Any, TypeVar, cast

import pymongo
from bson import Timestamp
from motor.motor_asyncio import AsyncIOMotorClient, AsyncIOMotorCollection, AsyncIOMotorDatabase
from pymongo import AsyncMongoClient, ReadPreference, ReturnDocument, monitoring
from pymongo.asynchronous.change_stream import AsyncChangeStream
from pymongo.asynchronous.client_session import AsyncClientSession
from pymongo.asynchronous.collection import AsyncCollection
from pymongo.asynchronous.database import AsyncDatabase
from pymongo.write_concern import WriteConcern

from app.config import OLDEST_MONGODB
from app.errors import Refused
from app.stack.cost import count_mongodb
from app.stack.mongodb.shared import Shared
from app.stack.waiting import take_error

if TYPE_CHECKING:
    Database = AsyncIOMotorDatabase[dict[str, Any]]
    Collection = AsyncIOMotorCollection[dict[str, Any]]
else:
    Database, Collection = AsyncIOMotorDatabase, AsyncIOMotorCollection

T = TypeVar("T")

POOL_SIZE = 50  # connections of one process

# What a URL may not change: a page would lack what somebody has just posted, and Python could not reckon with a date.
PROMISED: Mapping[str, Any] = {
    "tz_aware": True,
    "datetime_conversion": "DATETIME",
    "read_preference": ReadPreference.PRIMARY,  # instead of three options that a URL may have
    "readConcernLevel": None,  # but where a read names one
    "retryReads": True,
    "retryWrites": True,
}

# By these codes MongoDB says that a server is away, where its driver has no class for it.
AWAY_CODES = frozenset(
    {
        *(6, 7, 89, 202, 262, 9001),  # a router cannot reach a shard: HostUnreachable to SocketException
        133,  # FailedToSatisfyReadPreference: nor knows a primary of it
        *(91, 189, 10107, 11600, 11602, 13435, 13436),  # nor has it found another one: said of each write of a command
        *(134, 211),  # after a restart: ReadConcernMajorityNotAvailableYet, KeyNotFound
        18,  # AuthenticationFailed: the password is being changed
    }
)


class _CommandCounter(monitoring.CommandListener):
    def started(self, event: monitoring.CommandStartedEvent) -> None:
        count_mongodb()

    def succeeded(self, event: monitoring.CommandSucceededEvent) -> None: ...

    def failed(self, event: monitoring.CommandFailedEvent) -> None: ...


class Direct:
    """A database by PyMongo's own async client: what it reads are snapshots of what a majority has.

    Motor hands each command to a thread, which takes more processor time than the command itself needs here. Beanie
    needs Motor, so the model and most writes outside of transactions stay there.
    """

    def __init__(self, database: AsyncDatabase[dict[str, Any]], timeout_s: float) -> None:
        self._database, self._timeout_s = database, timeout_s
        self.shared = Shared()
        self._places = asyncio.Semaphore(POOL_SIZE)
        self._wholes: set[asyncio.Task[Any]] = set()
        self._by_majority = cache(partial(database.get_collection, write_concern=WriteConcern("majority")))

    async def read(self, command: Mapping[str, Any]) -> dict[str, Any]:
        """Return the cursor of a `find` or `aggregate` that fits into one reply: its `firstBatch` is of a snapshot of
        what a majority has, `atClusterTime`, which a missing collection has not. Call it in `to_its_end` or
        `uncancelled`.

        PyMongo's own cursors take an eighth longer, and do not tell the moment. They ask again where a connection
        breaks or the primary changes; here the caller does. Source: MongoDB manual, `atClusterTime`.
        """
        asked = {**command, "readConcern": {"level": "snapshot"}}
        reply = await self._database.command(asked, codec_options=self._database.codec_options)
        cursor: dict[str, Any] = reply["cursor"]
        assert not cursor["id"], "all of it is in the first batch"
        return cursor

    @contextmanager
    def in_time(self) -> Iterator[float]:
        """Bound all commands of a block together by the time-out, and yield when that ends, in seconds of
        `time.monotonic`. A pause between them counts, too.
        """
        with pymongo.timeout(self._timeout_s):
            yield monotonic() + self._timeout_s

    async def insert(self, collection: str, document: dict[str, Any]) -> Timestamp:
        """Insert a document, and return when a majority has it. The insert goes on if its caller is cancelled.

        Return a moment of the cluster's time: the insert was not later. Source: MongoDB manual, `operationTime`.
        """
        majority = self._by_majority(collection)

        async def timed() -> Timestamp:
            async with self._database.client.start_session(causal_consistency=False) as session:
                await majority.insert_one(document, session=session)
                stored = session.operation_time
            assert stored, "every member of a replica set tells it"
            return stored

        return await self.to_its_end(timed())

    async def command(self, command: dict[str, Any]) -> dict[str, Any]:
        """Return MongoDB's reply to a command, which is not repeated where it may have been carried out. Call it in
        `to_its_end`.
        """
        return await self._database.command(command)

    async def upsert(self, collection: str, query: Mapping[str, Any], change: Any) -> dict[str, Any]:
        """Change the document, which is inserted where there is none, and return it when a majority has it. The change
        is made even if its caller is cancelled.
        """
        options: dict[str, Any] = {"upsert": True, "return_document": ReturnDocument.AFTER}
        found = await self.to_its_end(self._by_majority(collection).find_one_and_update(query, change, **options))
        assert found, "it is inserted where there is none"
        return found

    def session(self) -> AsyncClientSession:
        return self._database.client.start_session()

    def in_transactions(self, collection: str) -> AsyncCollection[dict[str, Any]]:
        """Return a collection for use in transactions. Send each of its commands by `to_its_end`."""
        return self._database[collection]

    async def watch(self, collection: str, pipeline: list[dict[str, Any]], **options: Any) -> AsyncChangeStream[Any]:
        """Open a change stream. Like other commands here, it may not be cancelled while it waits."""
        return await self._database[collection].watch(pipeline, **options)

    async def close(self) -> None:
        """Close the client after what is under way, which the driver's time-out ends."""
        while self._wholes:
            await asyncio.wait(self._wholes)
        for _ in range(POOL_SIZE):
            await self._places.acquire()
        await self._database.client.close()

    async def to_its_end(self, command: Coroutine[Any, Any, T], context: Context | None = None) -> T:
        """Return the answer of a command. Its caller may be cancelled, and it still runs to its end, if it has begun.
        `context`: another one than the caller's.

        PyMongo 4.20 on Python 3.11 does not bear being cancelled: a connection that is being made is left open, and a
        wait inside its pool can keep the pool's lock for ever. So nobody is cancelled in there, nor has to wait.
        """
        try:
            await self._places.acquire()
        except BaseException:
            command.close()
            raise
        return await _awaited(asyncio.create_task(command, context=context), lambda _: self._places.release())

    async def whole(self, commands: Coroutine[Any, Any, T]) -> T:
        """Return the answer of commands that belong together. Whoever waits for it may be cancelled, and they still run
        to their end.
        """
        under_way = asyncio.create_task(commands)
        self._wholes.add(under_way)
        return await _awaited(under_way, self._wholes.discard)

    async def uncancelled(self, command: Callable[[], Awaitable[T]]) -> T:
        """Return the answer of a command, in a task that nobody cancels: this takes fewer turns of the event loop."""
        async with self._places:
            return await command()


async def _awaited(under_way: "asyncio.Task[T]", ended: Callable[["asyncio.Task[T]"], object]) -> T:
    """Return the answer of what is under way, which goes on if its caller is cancelled. `ended` hears of its end."""

    def done(task: "asyncio.Task[T]") -> None:
        ended(task)
        take_error(task)

    under_way.add_done_callback(done)
    return await asyncio.shield(under_way)


class _Connected(Database):
    """A database of Motor's that has a `Direct` for the same data."""

    def __init__(self, client: Any, name: str, direct: Direct) -> None:
        super().__init__(client, name, write_concern=WriteConcern("majority"))
        self.direct = direct


def connect(url: str, database: str, timeout_s: float) -> Database:
    """Return the named database. Nothing is sent yet; every command waits at most `timeout_s`, for a server included.

    Reads ask the primary. Writes are acknowledged by a majority, and the driver does both once more when the primary
    changes. A URL that says otherwise is not believed.
    """
    timeout_ms = int(timeout_s * 1000)
    options: dict[str, Any] = {
        **PROMISED,
        "maxPoolSize": POOL_SIZE,
        "maxConnecting": POOL_SIZE,
        "serverSelectionTimeoutMS": timeout_ms,
        "connectTimeoutMS": timeout_ms,
        "timeoutMS": timeout_ms,  # of a whole operation, its retries included: an election within it goes unnoticed
    }
    client: AsyncMongoClient[dict[str, Any]] = AsyncMongoClient(url, **options)  # counted where it is asked
    motor = AsyncIOMotorClient(url, **options, event_listeners=[_CommandCounter()])
    return _Connected(motor, database, Direct(client[database], timeout_s))


def direct(database: Database) -> Direct:
    """Return the `Direct` of a database that `connect` made."""
    return cast(_Connected, database).direct


async def disconnect(database: Database) -> None:
    database.client.close()
    if isinstance(database, _Connected):
        await database.direct.close()


class Unsuitable(Refused):
    """This MongoDB cannot do what we need; the text says what would help."""


async def preflight(database: Database) -> None:
    """Check that this MongoDB can do what we need. Raises Unsuitable."""
    hello, build = await database.command("hello"), await database.command("buildInfo")
    if "setName" not in hello and hello.get("msg") != "isdbgrid":
        raise Unsuitable(
            "this MongoDB is no replica set, and transactions and snapshots need one: start mongod with --replSet NAME "
            "and call rs.initiate() once in mongosh"
        )
    topology: Any = database.client.topology_description  # Motor's types take it for a method
    if topology.topology_type_name == "Single" and len(hello.get("hosts", ())) > 1:
        raise Unsuitable(
            "the URL of MongoDB says directConnection=true, but this is one of several members: after an election it "
            f"would be asked on, and lack what is posted since. Name the set instead: replicaSet={hello['setName']}"
        )
    if tuple(build["versionArray"][:2]) < OLDEST_MONGODB:
        raise Unsuitable(f"this MongoDB is {build['version']}; clustered collections need 5.3 or later")
