"""The three servers as the rest of the project sees them.

Others take errors, ids, index types and options from the drivers. They open no connection, with two exceptions:
`app/servers` asks a server who it is, and `benchmarks` measures the drivers by themselves.
"""

import asyncio
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass

from beanie import init_beanie
from redis import Redis

from app.clock import Clock
from app.config import Config, files_of
from app.models import DOCUMENTS
from app.stack import queue, redis_pool, schema
from app.stack.bus import Bus, Hint, MemoryBus, RedisBus
from app.stack.deadline import OutOfTime, within
from app.stack.heartbeats import Heartbeats, HeartbeatsStandIn, RedisHeartbeats
from app.stack.memcached import Memcached, MemcachedDown, MemcachedNodes, MemcachedStandIn
from app.stack.mongodb.connection import Database, connect, disconnect, preflight
from app.stack.mongodb.stand_in import stand_in
from app.stack.mongodb.write import prepare
from app.stack.outage import is_away, outages_told, said_by_a_driver
from app.stack.queue import DeliveryQueue, QueueDown
from app.stack.rates import Rates
from app.stack.sorted_sets import RedisSets, Sets, SetsDown, SetsStandIn

REDIS_TIMEOUT_S = 1.0  # an enqueue that takes longer is left to the sweeper
MEMCACHED_TIMEOUT_S = SETS_TIMEOUT_S = 0.5  # a cache that takes longer than phase 1 is no cache


@dataclass(frozen=True)
class Addresses:
    """The addresses of the servers; None stands for the stand-in inside this process."""

    mongodb: str | None
    redis: str | None
    memcached: tuple[str, ...] | None

    @property
    def one_process(self) -> bool:
        """Whether some server lives inside the process, so that nobody else can reach it."""
        return None in (self.mongodb, self.redis, self.memcached)


@dataclass
class Stack:
    """The connections of one process and one event loop to its servers."""

    config: Config
    clock: Clock
    addresses: Addresses
    db: Database
    memcached: Memcached
    queue: DeliveryQueue
    sets: Sets
    heartbeats: Heartbeats
    rates: Rates
    bus: Bus
    secret: bytes = b""  # the database's, with which all processes seal

    async def check(self) -> dict[str, str | None]:
        """Return each server's version, or None where it does not answer."""
        mongo, cache, red = await asyncio.gather(
            self.db.command("buildInfo"), self.memcached.versions(), self.queue.ping(), return_exceptions=True
        )
        for answer in (mongo, cache, red):
            if isinstance(answer, BaseException) and not is_away(answer):
                raise answer
        return {
            "mongodb": None if isinstance(mongo, BaseException) else str(mongo["version"]),
            "redis": None if isinstance(red, BaseException) else str(red),
            "memcached": None if isinstance(cache, BaseException) else ", ".join(sorted(set(cache.values()))),
        }


@asynccontextmanager
async def opened(
    addresses: Addresses, config: Config, clock: Clock, *, redis_timeout_s: float = REDIS_TIMEOUT_S
) -> AsyncIterator[Stack]:
    """Connect to each server or its stand-in, and disconnect at the end.

    Raises ConfigError for a file that a URL names and that is of no use.
    """
    async with AsyncExitStack() as closing:  # what is open, also where another one cannot be opened or closed
        if addresses.mongodb is None:
            db = stand_in(config.database)
        else:
            with files_of("FEEDLAB_MONGODB_URL"):
                db = connect(addresses.mongodb, config.database, config.server_timeout_s)
        closing.push_async_callback(disconnect, db)
        memcached = _memcached(addresses, config, clock)
        closing.push_async_callback(memcached.close)
        if addresses.redis is not None:
            with files_of("FEEDLAB_REDIS_URL"):
                redis_pool.judge(addresses.redis)
        connection = queue.stand_in() if addresses.redis is None else queue.connect(addresses.redis, redis_timeout_s)
        in_redis = _in_redis(closing, addresses, connection, config.database, clock)
        yield Stack(config, clock, addresses, db, memcached, *in_redis)


def _memcached(addresses: Addresses, config: Config, clock: Clock) -> Memcached:
    if addresses.memcached is None:
        return MemcachedStandIn(clock.awake)
    with files_of("FEEDLAB_MEMCACHED"):
        return MemcachedNodes(addresses.memcached, MEMCACHED_TIMEOUT_S, config.memcached_prefix)


def _in_redis(
    closing: AsyncExitStack, addresses: Addresses, connection: Redis, prefix: str, clock: Clock
) -> tuple[DeliveryQueue, Sets, Heartbeats, Rates, Bus]:
    """Return what is kept in Redis, or its stand-ins, with the queue on this connection. `closing` closes them.

    The others have connections of their own: no reader and no poster waits for what the queue does.
    """
    url = addresses.redis
    jobs, rates = DeliveryQueue(connection, prefix, clock.monotonic), Rates(url, prefix)
    sets: Sets = RedisSets(url, prefix, SETS_TIMEOUT_S) if url else SetsStandIn(clock.awake)
    heartbeats: Heartbeats = RedisHeartbeats(url, prefix, SETS_TIMEOUT_S) if url else HeartbeatsStandIn(clock.monotonic)
    bus: Bus = RedisBus(url, prefix) if url else MemoryBus()
    closing.callback(jobs.close)
    for each in (sets, heartbeats, rates, bus):
        closing.push_async_callback(each.close)
    return jobs, sets, heartbeats, rates, bus


@asynccontextmanager
async def connected(
    addresses: Addresses, config: Config, clock: Clock | None = None, *, models: bool = True
) -> AsyncIterator[Stack]:
    """Connect, migrate, create what collections and indexes are missing, and disconnect at the end.

    `models`: Beanie's documents are of this database from now on. There is one in a process.

    Raises SchemaTooNew, and Unsuitable for a MongoDB that cannot do what we need.
    """
    async with opened(addresses, config, clock or Clock()) as stack, AsyncExitStack() as closing:
        if addresses.mongodb:
            await preflight(stack.db)
        if models:
            await init_beanie(database=stack.db, document_models=list(DOCUMENTS), skip_indexes=True)
        await schema.migrate(stack.db)
        await prepare(stack.db)
        identity, stack.secret = await schema.identity(stack.db), await schema.secret(stack.db)
        in_redis = _in_redis(closing, addresses, stack.queue.connection, identity, stack.clock)
        stack.queue, stack.sets, stack.heartbeats, stack.rates, stack.bus = in_redis
        yield stack


__all__ = [
    "Addresses",
    "Database",
    "DeliveryQueue",
    "Hint",
    "Memcached",
    "MemcachedDown",
    "OutOfTime",
    "QueueDown",
    "SetsDown",
    "Stack",
    "connected",
    "is_away",
    "opened",
    "outages_told",
    "said_by_a_driver",
    "within",
]
