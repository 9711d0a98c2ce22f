"""A scratch stack for experiments, on the same servers: another database and other queues, dropped at the end.

Beanie's documents stay bound to the application's database, so only raw collections may be used on it.
"""

from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager

from app.clock import Clock
from app.config import Config
from app.stack import Addresses, Stack, opened
from app.stack.mongodb.write import prepare


@asynccontextmanager
async def scratch(addresses: Addresses, config: Config, family: str, clock: Clock) -> AsyncIterator[Stack]:
    """Yield a stack on an empty `config.database`, whose name begins with `family`.

    Databases of that family that an earlier, killed run has left behind are dropped first, so only one may run at a
    time. Its user has to delete what it keeps in Memcached, or that expires. Raises ValueError for a database that is
    not of the family: it would be dropped.
    """
    if not config.database.startswith(family):
        raise ValueError(f"the database {config.database!r} is not of the family {family!r}")
    async with (
        opened(addresses, config, clock, redis_timeout_s=config.server_timeout_s) as stack,
        AsyncExitStack() as clearing,
    ):
        client = stack.db.client
        clearing.push_async_callback(client.drop_database, config.database)
        clearing.push_async_callback(stack.queue.forget)
        for left in await client.list_database_names():
            if left.startswith(family):
                await client.drop_database(left)
        await prepare(stack.db)
        yield stack
