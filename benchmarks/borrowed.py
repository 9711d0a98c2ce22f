"""Measuring on servers that the environment names: in a database and under keys of its own, removed at the end.

MongoDB, Redis and Memcached each have one name of ours: FEEDLAB_DATABASE with `_bench` behind it. There may be a second
database, with `_none` behind that, and its keys in Redis. Where one of them has anything of these names already,
nothing is measured: it may be somebody's, or another run's.
"""

import asyncio
import tempfile
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from functools import partial
from pathlib import Path
from typing import Any
from urllib.parse import unquote_to_bytes

from pymongo.errors import DuplicateKeyError

from app.clock import Clock
from app.config import Config
from app.models import SETTINGS
from app.servers.children import Stop
from app.servers.datadir import DataDirectory
from app.servers.probe import dial
from app.servers.programs import insist, resolve
from app.stack import Addresses, Stack, connected, opened, said_by_a_driver
from app.stack.mongodb.write import housekeeping
from app.stack.schema import SCHEMA
from benchmarks.rig import OVERRIDES, BenchRefused, Rig
from benchmarks.subject import InProcess
from phases.timelines import Timelines

URLS = ("mongodb_url", "redis_url", "memcached")
ENDING = "_bench"
BESIDE = "_none"  # behind that: the database beside ours
LONGEST_NAME = 63
CLAIM = "bench_claim"  # a collection with one document: of two runs that begin at once, one writes it
SCANNED = 1_000  # keys that Redis looks at in one command
DELETED = 1_000  # keys in one round trip
BUSY_PAUSE_S, BUSY_TRIES = 0.2, 50  # Memcached lists its keys for one client at a time
LISTING_S = 600.0


@contextmanager
def borrowed() -> Iterator[tuple[Addresses, Path, Config]]:
    """Yield the servers, with a directory for logs, until the block ends. Raises BenchRefused, ServersError."""
    given = Config.from_environment()
    insist(resolve(given, "urls"))
    name = _named(given.database, ENDING)
    changed = {field: value for field, value in OVERRIDES.items() if field not in URLS}
    config = Config.from_environment(**changed | {"database": name, "memcached_prefix": f"{name}:"})
    addresses = Addresses(config.mongodb_url, config.redis_url, config.memcached)
    stop = Stop()
    with stop.signals():
        asyncio.run(_claim(addresses, config))
    try:
        if stop.requested:
            raise KeyboardInterrupt
        with tempfile.TemporaryDirectory(prefix="feedlab-bench-") as directory:
            data = DataDirectory(Path(directory))
            with data.owned("feedlab bench --servers urls", lasting=False):
                yield addresses, Path(directory), config
    finally:
        with Stop().signals():  # a second Ctrl-C must not leave anything behind
            asyncio.run(_remove(addresses, config))


def _named(database: str, ending: str) -> str:
    return database[: LONGEST_NAME - len(ending)] + ending


def _names(config: Config) -> tuple[str, str]:
    """Return the names of the databases that may be ours, ours last."""
    return _named(config.database, BESIDE), config.database


async def _is_there(stack: Stack, name: str) -> bool:
    return name in await stack.db.client.list_database_names()


async def _claim(addresses: Addresses, config: Config) -> None:
    async with opened(addresses, config, Clock(), redis_timeout_s=config.server_timeout_s) as stack:
        if there := await _there(stack):
            raise BenchRefused(
                f"nothing was measured, since there is already {there}: if an interrupted benchmark has left it, "
                "remove it; otherwise set another FEEDLAB_DATABASE, whose name a benchmark takes with _bench behind it"
            )
        try:
            await stack.db[CLAIM].insert_one({"_id": CLAIM})
        except DuplicateKeyError:
            raise BenchRefused(f"another benchmark has just begun in the database {config.database!r}") from None


async def _there(stack: Stack) -> str | None:
    """Say what has a name of ours on these servers; None where nothing has."""
    for name in _names(stack.config):
        if await _is_there(stack, name):
            return f"a database {name!r}"
        if key := await anext(_redis_keys(stack, f"*{name}-*"), None):
            return f"a key {key.decode(errors='replace')!r} in Redis"
    for node in stack.addresses.memcached or ():
        async for key in _memcached_keys(node, stack.config.memcached_prefix):
            return f"a key {key.decode(errors='replace')!r} in Memcached"
    return None


async def _remove(addresses: Addresses, config: Config) -> None:
    """Remove all that is ours, the database last: while it is there nobody else claims the name. A server that is away
    keeps nothing on the others.
    """
    left = list[str]()
    async with opened(addresses, config, Clock(), redis_timeout_s=config.server_timeout_s) as stack:
        names = _names(config)
        for remove in (
            *(partial(_clear_redis, stack, name) for name in names),
            partial(_clear_memcached, config),
            *(partial(_drop_database, stack, name) for name in names),
        ):
            try:
                await remove()
            except Exception as error:
                said = said_by_a_driver(error) or (str(error) if isinstance(error, (OSError, BenchRefused)) else None)
                if said is None:
                    raise
                left.append(said)
    if left:
        raise BenchRefused(
            f"not all could be removed of the databases {' and '.join(map(repr, names))} and of the keys with these "
            f"names in Redis and Memcached: {'; '.join(dict.fromkeys(left))}"
        )


async def _clear_memcached(config: Config) -> None:
    for node in config.memcached:
        keys = [key async for key in _memcached_keys(node, config.memcached_prefix)]
        await _delete(node, keys)


async def _drop_database(stack: Stack, name: str) -> None:
    if await _is_there(stack, name):
        with housekeeping():
            await stack.db.client.drop_database(name)


@asynccontextmanager
async def beside(rig: Rig) -> AsyncIterator[Rig]:
    """Yield the same system on another, empty database, which is removed at the end with its keys in Redis.

    Its Memcached keys have the same beginning as the rig's. What cannot be removed is left to `borrowed`.
    """
    database = _named(rig.stack.db.name, BESIDE)
    config = rig.stack.config.model_copy(update={"database": database})
    async with connected(rig.stack.addresses, config, rig.stack.clock, models=False) as stack:
        try:
            timelines = await Timelines.open(stack)
            subject = InProcess(stack, timelines)
            yield Rig(stack, timelines, subject, rig.processes, rig.meaningless, directory=rig.directory)
        finally:
            await _clear_redis(stack, database)
            await _drop_database(stack, database)


async def _clear_redis(stack: Stack, name: str) -> None:
    """Delete what belongs to this very database, whose name in Redis has a random number in it."""
    if not await _is_there(stack, name):
        return
    schema: Any = await stack.db.client[name][SETTINGS].find_one({"_id": SCHEMA})
    if not schema or "identity" not in schema:
        return  # so far nobody has written anything
    own = f"{name}-{schema['identity']}"
    redis: Any = stack.queue.connection
    keys = [key async for key in _redis_keys(stack, f"*{own}*")]
    for at in range(0, len(keys), DELETED):
        await asyncio.to_thread(redis.delete, *keys[at : at + DELETED])
    queues = [member for member in await asyncio.to_thread(redis.smembers, "rq:queues") if own.encode() in member]
    if queues:
        await asyncio.to_thread(redis.srem, "rq:queues", *queues)


async def _redis_keys(stack: Stack, pattern: str) -> AsyncIterator[bytes]:
    redis: Any = stack.queue.connection
    cursor = 0
    while True:
        cursor, keys = await asyncio.to_thread(redis.scan, cursor, match=pattern, count=SCANNED)
        for key in keys:
            yield key
        if not cursor:
            return


@asynccontextmanager
async def _connected(node: str) -> AsyncIterator[tuple[asyncio.StreamReader, asyncio.StreamWriter]]:
    connection = await asyncio.to_thread(dial, node, LISTING_S)
    connection.setblocking(False)
    reader, writer = await asyncio.open_connection(sock=connection)
    try:
        async with asyncio.timeout(LISTING_S):
            yield reader, writer
    finally:
        writer.close()


async def _memcached_keys(node: str, prefix: str) -> AsyncIterator[bytes]:
    """Yield the keys of a node that begin with the prefix.

    Source: memcached/doc/protocol.txt, "LRU Crawler", `lru_crawler metadump`.
    """
    async with _connected(node) as (reader, writer):
        for _ in range(BUSY_TRIES):
            writer.write(b"lru_crawler metadump all\r\n")
            line = await reader.readline()
            if not line.startswith(b"BUSY"):
                break
            await asyncio.sleep(BUSY_PAUSE_S)
        while line.startswith(b"key="):
            key = unquote_to_bytes(line.removeprefix(b"key=").split(b" ", 1)[0])
            if key.startswith(prefix.encode()):
                yield key
            line = await reader.readline()
    if line.strip() != b"END":
        raise BenchRefused(
            f"memcached {node} does not list its keys ({line.decode(errors='replace').strip() or 'it closed'}), so "
            "nobody can see that none is left: it needs its LRU crawler"
        )


async def _delete(node: str, keys: list[bytes]) -> None:
    async with _connected(node) as (reader, writer):
        for at in range(0, len(keys), DELETED):
            writer.write(b"".join(b"md %s q\r\n" % key for key in keys[at : at + DELETED]) + b"mn\r\n")
            await reader.readuntil(b"MN\r\n")
