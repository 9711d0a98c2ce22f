"""The connection to Redis, whose commands are counted, and its stand-in."""

from typing import Any

import redis
from fakeredis import FakeRedis, FakeServer
from redis.backoff import NoBackoff
from redis.retry import Retry

from app.stack.cost import count_redis
from app.stack.redis_handshake import Asks


class _Counting(Asks):
    """A connection to Redis that counts its commands. It is mixed in before the class for TCP, TLS or a Unix socket."""

    def send_command(self, *args: Any, **options: Any) -> None:
        count_redis()
        super().send_command(*args, **options)  # type: ignore[no-untyped-call]

    def pack_commands(self, commands: Any) -> Any:
        commands = list(commands)
        count_redis(len(commands))
        return super().pack_commands(commands)  # type: ignore[no-untyped-call]


def connect(url: str, timeout_s: float, *, tries: int = 2) -> redis.Redis:
    """Return a client whose every command waits at most `timeout_s`, at each of its `tries`. Nothing is sent yet."""
    pool = redis.ConnectionPool.from_url(
        url, socket_timeout=timeout_s, socket_connect_timeout=timeout_s, retry=Retry(NoBackoff(), tries - 1)
    )
    pool.connection_class = type("CountingConnection", (_Counting, pool.connection_class), {})
    return redis.Redis.from_pool(pool)  # closing the client closes its connections


def stand_in() -> redis.Redis:
    """Return a Redis in this process, shared by its threads."""
    return FakeRedis(server=FakeServer())
