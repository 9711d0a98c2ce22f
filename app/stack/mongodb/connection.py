"""A connection of one process to its database, and the counting of what is sent."""

from typing import TYPE_CHECKING, Any

from motor.motor_asyncio import AsyncIOMotorClient, AsyncIOMotorCollection, AsyncIOMotorDatabase
from pymongo import monitoring
from pymongo.write_concern import WriteConcern

from app.config import OLDEST_MONGODB
from app.errors import Refused
from app.stack.cost import count_mongodb

if TYPE_CHECKING:
    Database = AsyncIOMotorDatabase[dict[str, Any]]
    Collection = AsyncIOMotorCollection[dict[str, Any]]
else:
    Database, Collection = AsyncIOMotorDatabase, AsyncIOMotorCollection

POOL_SIZE = 50  # connections of one process


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


class Unsuitable(Refused):
    """A MongoDB that cannot do what we need; the text says what would help."""


async def preflight(database: Database) -> None:
    """Raises Unsuitable."""
    hello, build = await database.command("hello"), await database.command("buildInfo")
    if "setName" not in hello and hello.get("msg") != "isdbgrid":
        raise Unsuitable(
            "this MongoDB is no replica set, and transactions and snapshots need one: start mongod with --replSet NAME "
            "and call rs.initiate() once in mongosh"
        )
    if tuple(build["versionArray"][:2]) < OLDEST_MONGODB:
        raise Unsuitable(f"this MongoDB is {build['version']}; clustered collections need 5.3 or later")
