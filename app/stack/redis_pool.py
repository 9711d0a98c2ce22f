"""Connections to Redis on the event loop: a command is sent once, and nobody waits for longer than one may take."""

import redis.asyncio as redis
from redis.asyncio.retry import Retry
from redis.backoff import NoBackoff


def redis_pool(url: str, connections: int, timeout_s: float) -> redis.ConnectionPool:
    """Nothing is sent yet. Whoever finds all connections in use waits as long as for an answer."""
    return redis.BlockingConnectionPool.from_url(
        url,
        max_connections=connections,
        timeout=timeout_s,
        socket_timeout=timeout_s,
        socket_connect_timeout=timeout_s,
        retry=Retry(NoBackoff(), 0),
    )
