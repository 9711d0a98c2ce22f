"""Raw limits: the shortest loops over the same drivers and servers that do the same work, and nothing else.

They check nothing, repeat nothing and survive nothing. Writes are acknowledged by a majority on both sides.
"""

import asyncio
import socket
import sys
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from typing import Any, Self

import uvicorn
from bson import ObjectId
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse
from starlette.routing import Route

from app.servers.probe import dial
from app.stack import Database
from app.stack.mongodb.write import create_clustered
from phases.keeping.activity import ACTIVE

RAW_ENTRIES, RAW_ARRAYS = "raw_entries", "raw_arrays"
INSERT_BATCH = 10_000
UPDATE_BATCH = 1_000
PREPEND_BATCH = 1_000
READ_AT_ONCE = 200_000  # ids of one batch
ARRAY_KEEPS = 200  # ids in the article's array
CONNECT_TIMEOUT_S = 5.0


async def create(db: Database, readers: Sequence[ObjectId]) -> None:
    """What the raw writes need: a clustered collection, and the article's array of each reader, full."""
    if RAW_ENTRIES not in await db.list_collection_names():
        await create_clustered(db, RAW_ENTRIES)
    ids = [ObjectId() for _ in range(ARRAY_KEEPS)]
    for at in range(0, len(readers), INSERT_BATCH):
        arrays = [{"_id": reader, "ids": ids} for reader in readers[at : at + INSERT_BATCH]]
        await db[RAW_ARRAYS].insert_many(arrays, ordered=False)


async def follower_ids(db: Database, author: ObjectId, active_after: Any = None) -> list[ObjectId]:
    """Everybody who follows the author, or of those the active ones: covered by an index."""
    if active_after:
        active = db[ACTIVE].find({"authors": author, "until": {"$gte": active_after}}, {"_id": 1}, hint="recipients")
        return [reader["_id"] for reader in await active.batch_size(READ_AT_ONCE).to_list(None)]
    edges = db["follows"].find({"followee": author}, {"_id": 0, "follower": 1}).batch_size(READ_AT_ONCE)
    return [edge["follower"] for edge in await edges.to_list(None)]


async def insert_entries(db: Database, author: ObjectId, status: ObjectId) -> None:
    """Phase 2's work: covered follower read, clustered insert."""
    readers = await follower_ids(db, author)
    tail = status.binary
    for at in range(0, len(readers), INSERT_BATCH):
        batch = [{"_id": reader.binary + tail, "a": author} for reader in readers[at : at + INSERT_BATCH]]
        await db.command(
            {"insert": RAW_ENTRIES, "documents": batch, "ordered": False, "writeConcern": {"w": "majority"}}
        )  # half as long as PyMongo's insert_many


async def push_arrays(db: Database, author: ObjectId, status: ObjectId) -> None:
    """The article's way: one array per reader, `$push` with `$slice`."""
    readers = await follower_ids(db, author)
    for at in range(0, len(readers), UPDATE_BATCH):
        await db[RAW_ARRAYS].update_many(
            {"_id": {"$in": readers[at : at + UPDATE_BATCH]}},
            {"$push": {"ids": {"$each": [status], "$slice": -ARRAY_KEEPS}}},
        )


class RawMemcached:
    """One connection and pipelined meta commands (memcached/doc/protocol.txt, "Meta Set", "Meta No-Op")."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._reader, self._writer = reader, writer

    @classmethod
    @asynccontextmanager
    async def connected(cls, node: str) -> AsyncIterator[Self]:
        connection = await asyncio.to_thread(dial, node, CONNECT_TIMEOUT_S)
        connection.setblocking(False)
        raw = cls(*await asyncio.open_connection(sock=connection, limit=64 * 1024 * 1024))
        try:
            yield raw
        finally:
            raw._writer.close()
            await raw._writer.wait_closed()

    async def _quietly(self, pattern: bytes, keys: Sequence[str], tail: bytes) -> bytes:
        """The pattern with each key and the tail, in batches; what was answered in spite of the quiet flag."""
        answered = b""
        for at in range(0, len(keys), PREPEND_BATCH):
            batch = keys[at : at + PREPEND_BATCH]
            self._writer.write(b"".join(pattern % (key.encode(), tail) for key in batch) + b"mn\r\n")
            await self._writer.drain()
            answered += (await self._reader.readuntil(b"MN\r\n"))[:-4]
        return answered

    async def set_all(self, keys: Sequence[str], value: bytes) -> None:
        refused = await self._quietly(b"ms %s%s", keys, b" %d T2500000 q\r\n%s\r\n" % (len(value), value))
        assert not refused, refused[:100]

    async def prepend_all(self, keys: Sequence[str], value: bytes) -> None:
        await self._quietly(b"ms %s%s", keys, b" %d MP q\r\n%s\r\n" % (len(value), value))

    async def delete_all(self, keys: Sequence[str]) -> None:
        await self._quietly(b"md %s%s", keys, b" q\r\n")

    async def stats(self) -> dict[str, str]:
        """What `stats` answers (memcached/doc/protocol.txt, "General-purpose statistics")."""
        self._writer.write(b"stats\r\n")
        lines = (await self._reader.readuntil(b"END\r\n")).decode().splitlines()
        return {name: value for _, name, value in (line.split(" ", 2) for line in lines if line.startswith("STAT "))}


async def prepend_lists(
    db: Database, memcached: RawMemcached, author: ObjectId, status: ObjectId, prefix: str, active_after: Any
) -> None:
    """Phase 4's work: covered read of the active followers, pipelined prepend."""
    readers = await follower_ids(db, author, active_after)
    await memcached.prepend_all([f"{prefix}{reader}" for reader in readers], status.binary)


async def read_two_queries(db: Database, entries: str, reader: ObjectId, limit: int) -> int:
    """The bare read of a kept timeline: ids by key, statuses by id. Nothing is checked."""
    keys = {"$gte": reader.binary + bytes(12), "$lt": reader.binary + b"\xff" * 12}
    rows = await db[entries].find({"_id": keys}).sort("_id", -1).limit(limit).to_list(None)
    ids = [ObjectId(entry["_id"][12:]) for entry in rows]
    return len(await db["statuses"].find({"_id": {"$in": ids}}).to_list(None))


async def read_array(db: Database, reader: ObjectId, limit: int) -> int:
    """The same from the article's array."""
    array = await db[RAW_ARRAYS].find_one({"_id": reader}, {"ids": {"$slice": -limit}})
    ids = array["ids"] if array else []
    return len(await db["statuses"].find({"_id": {"$in": ids}}).to_list(None))


async def read_plain_in(db: Database, reader: ObjectId, limit: int) -> int:
    """The article's phase 1: one `$in` over all followees, sorted by the database."""
    edges = db["follows"].find({"follower": reader}, {"_id": 0, "followee": 1}).batch_size(READ_AT_ONCE)
    authors = [edge["followee"] for edge in await edges.to_list(None)]
    statuses = db["statuses"].find({"user_id": {"$in": authors}}).sort("_id", -1).limit(limit)
    return len(await statuses.to_list(None))


async def _answer(_: Request) -> JSONResponse:
    return JSONResponse({})


def serve_empty(fd: int) -> None:
    """The empty route on a socket that the parent listens on, served as `feedlab serve` serves its own."""
    empty = Starlette(routes=[Route("/", _answer)])
    server = uvicorn.Server(uvicorn.Config(empty, access_log=False, log_level="warning", server_header=False))
    # By its number alone, so that the protocol is known: without it asyncio does not switch Nagle's algorithm off.
    with asyncio.Runner(loop_factory=server.config.get_loop_factory()) as runner:
        runner.run(server.serve(sockets=[socket.socket(fileno=fd)]))


if __name__ == "__main__":
    serve_empty(int(sys.argv[1]))
