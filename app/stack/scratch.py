"""A stack of its own on the same servers, for experiments: another database, other queues, dropped at the end.

Beanie's documents stay bound to the application's database, so only raw collections may be used on it.
"""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from app.clock import Clock
from app.config import Config
from app.stack import MEMCACHED_TIMEOUT_S, Addresses, Stack, queue
from app.stack.memcached import Memcached, MemcachedNodes, MemcachedStandIn
from app.stack.mongodb.connection import connect
from app.stack.mongodb.stand_in import stand_in
from app.stack.mongodb.write import prepare
from app.stack.queue import DeliveryQueue


@asynccontextmanager
async def scratch(addresses: Addresses, config: Config, family: str, clock: Clock) -> AsyncIterator[Stack]:
    """A stack on an empty `config.database`, whose name begins with `family`.

    Databases of that family that an earlier, killed run has left behind are dropped first, so only one may run at a
    time. Its user has to delete what it keeps in Memcached, or that expires.
    """
    assert config.database.startswith(family)
    timeout_s = config.server_timeout_s
    if addresses.mongodb is None:
        db = stand_in(config.database)
    else:
        db = connect(addresses.mongodb, config.database, timeout_s)
    redis = queue.stand_in() if addresses.redis is None else queue.connect(addresses.redis, timeout_s)
    deliveries = DeliveryQueue(redis, clock.monotonic, prefix=f"{config.database}-")
    memcached: Memcached = (
        MemcachedStandIn() if addresses.memcached is None else MemcachedNodes(addresses.memcached, MEMCACHED_TIMEOUT_S)
    )
    try:
        for left in await db.client.list_database_names():
            if left.startswith(family):
                await db.client.drop_database(left)
        await prepare(db)
        yield Stack(config, clock, db, deliveries, memcached, addresses)
    finally:
        await db.client.drop_database(config.database)
        for each in deliveries.queues.values():
            each.delete(delete_jobs=True)
        await memcached.close()
        redis.close()
        db.client.close()
