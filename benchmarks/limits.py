"""Raw limits: the shortest loops over the fastest drivers that do the same work, and nothing else.

They use PyMongo's blocking client, redis-py with hiredis, and a bare socket to Memcached: no event loop, no threads.
They check nothing, repeat nothing and survive nothing. Writes are acknowledged by a majority on both sides.
"""

import json
import socket
from collections.abc import Awaitable, Callable, Iterator, Sequence
from contextlib import contextmanager
from datetime import datetime
from typing import Any, Self

from bson import ObjectId
from pymongo import MongoClient
from pymongo.database import Database

from app.edges import LATE, MARKERS, NAMES
from app.models import change_tag, versions_tag
from app.servers.probe import dial
from app.stack import DeliveryQueue
from phases.keeping.activity import ACTIVE

RawDatabase = Database[dict[str, Any]]

RAW_ENTRIES, RAW_ARRAYS, RAW_STATUSES = "raw_entries", "raw_arrays", "raw_statuses"
INSERT_BATCH = 10_000
UPDATE_BATCH = 1_000
PREPEND_BATCH = 1_000
READ_AT_ONCE = 200_000  # ids of one batch
ARRAY_KEEPS = 200  # ids in the article's array
TIMEOUT_S = 30.0


@contextmanager
def connected(url: str, database: str) -> Iterator[RawDatabase]:
    """Yield the database by a blocking client, whose writes are acknowledged by a majority."""
    client: MongoClient[dict[str, Any]] = MongoClient(url, w="majority")
    with client:
        yield client[database]


def measured(call: Callable[..., object], *args: Any) -> Callable[[], Awaitable[object]]:
    """Return a raw limit as something to be measured in turn with asynchronous work. It blocks the event loop."""

    async def blocking() -> object:
        return call(*args)

    return blocking


def create(db: RawDatabase, readers: Sequence[ObjectId]) -> None:
    """Create what the raw writes need: a clustered collection, and the article's array of each reader, full."""
    if RAW_ENTRIES not in db.list_collection_names():
        db.create_collection(RAW_ENTRIES, clusteredIndex={"key": {"_id": 1}, "unique": True})
    ids = [ObjectId() for _ in range(ARRAY_KEEPS)]
    for at in range(0, len(readers), INSERT_BATCH):
        arrays = [{"_id": reader, "ids": ids} for reader in readers[at : at + INSERT_BATCH]]
        db[RAW_ARRAYS].insert_many(arrays, ordered=False)


# Writes


def insert_status(db: RawDatabase, author: ObjectId) -> None:
    """Store what every phase stores before anything else: one document, in a collection without further indexes."""
    db[RAW_STATUSES].insert_one({"user_id": author, "text": "a status", "audience": "followers", "deleted": False})


def follower_ids(db: RawDatabase, author: ObjectId, active_after: datetime | None = None) -> list[ObjectId]:
    """Return all followers of the author, or the active ones: covered by an index."""
    if active_after:
        query = {"authors": author, "until": {"$gte": active_after}}
        return [reader["_id"] for reader in _find(db, ACTIVE, query, projection={"_id": 1}, hint="recipients")]
    edges = _find(db, "follows", {"followee": author}, projection={"_id": 0, "follower": 1})
    return [edge["follower"] for edge in edges]


def insert_entries(db: RawDatabase, author: ObjectId, status: ObjectId) -> None:
    """Do phase 2's work: covered follower read, clustered insert."""
    readers = follower_ids(db, author)
    tail = status.binary
    for at in range(0, len(readers), INSERT_BATCH):
        batch = [{"_id": reader.binary + tail, "a": author} for reader in readers[at : at + INSERT_BATCH]]
        db.command(
            {"insert": RAW_ENTRIES, "documents": batch, "ordered": False, "writeConcern": {"w": "majority"}}
        )  # half as long as PyMongo's insert_many


def push_arrays(db: RawDatabase, author: ObjectId, status: ObjectId) -> None:
    """Deliver in the article's way: one array per reader, `$push` with `$slice`."""
    readers = follower_ids(db, author)
    for at in range(0, len(readers), UPDATE_BATCH):
        db[RAW_ARRAYS].update_many(
            {"_id": {"$in": readers[at : at + UPDATE_BATCH]}},
            {"$push": {"ids": {"$each": [status], "$slice": -ARRAY_KEEPS}}},
        )


class RawMemcached:
    """A connection to Memcached by a bare socket and pipelined meta commands.

    Source: memcached/doc/protocol.txt, "Meta Get", "Meta Set", "Meta No-Op".
    """

    def __init__(self, connection: socket.socket) -> None:
        self._socket = connection

    @classmethod
    @contextmanager
    def connected(cls, node: str) -> Iterator[Self]:
        with dial(node, TIMEOUT_S) as connection:
            yield cls(connection)

    def _until(self, end: bytes) -> bytes:
        """Read up to `end`, which is the last thing that comes, and return what came before it."""
        answered = b""
        while not answered.endswith(end):
            part = self._socket.recv(64 * 1024)
            if not part:
                raise ConnectionError("memcached has closed the connection")
            answered += part
        return answered[: -len(end)]

    def get(self, key: str) -> bytes:
        """Return the value of a key, b"" for none."""
        self._socket.sendall(b"mg %s v\r\nmn\r\n" % key.encode())
        return self._until(b"MN\r\n").partition(b"\r\n")[2].removesuffix(b"\r\n")

    def _quietly(self, pattern: bytes, keys: Sequence[str], tail: bytes) -> bytes:
        """Send the pattern with each key and the tail, in batches; return what was answered despite the quiet flag."""
        answered = b""
        for at in range(0, len(keys), PREPEND_BATCH):
            batch = keys[at : at + PREPEND_BATCH]
            self._socket.sendall(b"".join(pattern % (key.encode(), tail) for key in batch) + b"mn\r\n")
            answered += self._until(b"MN\r\n")
        return answered

    def set_all(self, keys: Sequence[str], value: bytes) -> None:
        refused = self._quietly(b"ms %s%s", keys, b" %d T2500000 q\r\n%s\r\n" % (len(value), value))
        assert not refused, refused[:100]

    def prepend_all(self, keys: Sequence[str], value: bytes) -> None:
        self._quietly(b"ms %s%s", keys, b" %d MP q\r\n%s\r\n" % (len(value), value))

    def delete_all(self, keys: Sequence[str]) -> None:
        self._quietly(b"md %s%s", keys, b" q\r\n")

    def stats(self) -> dict[str, str]:
        """Return the node's `stats` (memcached/doc/protocol.txt, "General-purpose statistics")."""
        self._socket.sendall(b"stats\r\n")
        lines = self._until(b"END\r\n").decode().splitlines()
        return {name: value for _, name, value in (line.split(" ", 2) for line in lines if line.startswith("STAT "))}


def prepend_lists(
    db: RawDatabase, memcached: RawMemcached, author: ObjectId, status: ObjectId, prefix: str, active_after: datetime
) -> None:
    """Do phase 4's work: covered read of the active followers, pipelined prepend."""
    readers = follower_ids(db, author, active_after)
    memcached.prepend_all([f"{prefix}{reader}" for reader in readers], status.binary)


class RawSets:
    """Sorted sets by pipelined ZADD, packed by hand, on a connection of redis-py with hiredis.

    It also makes missing sets.
    """

    def __init__(self, queue: DeliveryQueue, prefix: str) -> None:
        self._redis, self._prefix = queue.connection, prefix.encode()

    def add_all(self, readers: Sequence[ObjectId], id: bytes) -> None:
        pool: Any = self._redis.connection_pool
        connection = pool.get_connection()
        head = b"*4\r\n$4\r\nZADD\r\n$%d\r\n%b" % (len(self._prefix) + len(id), self._prefix)
        tail = b"\r\n$1\r\n0\r\n$%d\r\n%b\r\n" % (len(id), id)
        try:
            for at in range(0, len(readers), PREPEND_BATCH):
                batch = readers[at : at + PREPEND_BATCH]
                connection.send_packed_command([b"".join(head + reader.binary + tail for reader in batch)])
                for _ in batch:
                    connection.read_response()
        finally:
            pool.release(connection)

    def forget(self, readers: Sequence[ObjectId]) -> None:
        for at in range(0, len(readers), PREPEND_BATCH):
            self._redis.delete(*(self._prefix + reader.binary for reader in readers[at : at + PREPEND_BATCH]))


def add_to_sets(db: RawDatabase, sets: RawSets, author: ObjectId, status: ObjectId, active_after: datetime) -> None:
    """Do phase 5's work: covered read of the active followers, pipelined ZADD."""
    sets.add_all(follower_ids(db, author, active_after), status.binary)


# Reads


def read_two_queries(db: RawDatabase, entries: str, reader: ObjectId, limit: int) -> int:
    """Read a kept timeline: ids by key, statuses by id. Nothing is checked. Return the number of statuses."""
    keys = {"$gte": reader.binary + bytes(12), "$lt": reader.binary + b"\xff" * 12}
    rows = _find(db, entries, {"_id": keys}, sort={"_id": -1}, limit=limit)
    return _hydrated(db, [ObjectId(entry["_id"][12:]) for entry in rows])


def read_array(db: RawDatabase, reader: ObjectId, limit: int) -> int:
    """Read a timeline from the article's array: its ids, then statuses by id. Return the number of statuses."""
    array = db[RAW_ARRAYS].find_one({"_id": reader}, {"ids": {"$slice": -limit}})
    return _hydrated(db, array["ids"] if array else [])


def ask_of_a_page(
    db: RawDatabase, memcached: RawMemcached, pending: str, reader: ObjectId, at: str, shown: Sequence[ObjectId]
) -> int:
    """Ask what a page that is remembered asks, without making one: first MongoDB whether anything is pending or has
    changed, by one command on a snapshot, then for the list, which is stored `at` a key. Return its length in bytes.
    """
    tags = [pending, *map(versions_tag, (NAMES, MARKERS, LATE, reader)), *map(change_tag, shown)]
    as_of_now = {"level": "snapshot"}
    _find(db, "statuses", {"pending": {"$in": tags}}, limit=len(tags) + len(shown), readConcern=as_of_now)
    return len(memcached.get(at))


def read_plain_in(db: RawDatabase, reader: ObjectId, limit: int) -> int:
    """Read as the article's phase 1: one `$in` over all followees, sorted by the database.

    Return the number of statuses.
    """
    edges = _find(db, "follows", {"follower": reader}, projection={"_id": 0, "followee": 1})
    authors = [edge["followee"] for edge in edges]
    return len(_find(db, "statuses", {"user_id": {"$in": authors}}, sort={"_id": -1}, limit=limit))


def _hydrated(db: RawDatabase, ids: Sequence[ObjectId]) -> int:
    return len(_find(db, "statuses", {"_id": {"$in": ids}}))


def _find(db: RawDatabase, collection: str, query: dict[str, Any], **more: Any) -> list[dict[str, Any]]:
    return _rows(db, {"find": collection, "filter": query, "batchSize": READ_AT_ONCE, **more})


def _rows(db: RawDatabase, command: dict[str, Any]) -> list[dict[str, Any]]:
    """Return the rows of a command whose answer is one batch. A cursor of PyMongo's takes longer."""
    cursor = db.command(command)["cursor"]
    assert not cursor["id"], "all of it is in the first batch"
    rows: list[dict[str, Any]] = cursor["firstBatch"]
    return rows


class RedisUser:
    """A timeline kept in Redis alone, as somebody may do: a sorted set of ids, and the statuses as JSON in a hash."""

    def __init__(self, queue: DeliveryQueue, name: str) -> None:
        self._redis = queue.connection
        self._timeline, self._statuses = f"{name}:timeline", f"{name}:statuses"

    def keep(self, statuses: Sequence[dict[str, Any]]) -> None:
        """Keep `statuses`, newest first, each with its "id"."""
        self._redis.hset(self._statuses, mapping={status["id"]: json.dumps(status) for status in statuses})
        self._redis.zadd(self._timeline, {status["id"]: -place for place, status in enumerate(statuses)})

    def read(self, limit: int) -> list[Any]:
        """Read the newest statuses: one ZREVRANGE, and a pipelined HGET for each id."""
        pipeline = self._redis.pipeline(transaction=False)
        ids: Any = self._redis.zrevrange(self._timeline, 0, limit - 1)
        for id in ids:
            pipeline.hget(self._statuses, id)
        return [json.loads(status) for status in pipeline.execute()]

    def forget(self) -> None:
        self._redis.delete(self._timeline, self._statuses)
