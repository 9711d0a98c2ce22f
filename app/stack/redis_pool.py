"""Connections to Redis on the event loop: a command is sent once, and waits no longer than its time-out."""

import re
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any
from urllib.parse import parse_qsl, urlsplit

import redis.asyncio as redis
from redis.asyncio.connection import SSLConnection
from redis.asyncio.retry import Retry
from redis.backoff import NoBackoff
from redis.exceptions import ConnectionError, RedisError, TimeoutError

from app.stack.breaker import Breaker
from app.stack.redis_handshake import AsksOnTheLoop

RETRY_AFTER_S = 1.0  # after a failure Redis is not asked again for so long

SCHEMES = ("redis", "rediss", "unix")
# All others say how this program speaks to Redis, or are none: a time-out, a decoding, a class.
OPTION = re.compile(r"db|username|password|client_name|protocol|health_check_interval|socket_keepalive|ssl_[a-z_]+")
DATABASE = re.compile(r"/?\d*", re.ASCII)


def redis_pool(url: str, connections: int, timeout_s: float, **others: Any) -> redis.ConnectionPool:
    """Return a pool of connections; nothing is sent yet. To wait for a free one takes as long as for an answer at most.

    `others` are redis-py's own options.
    """
    pool = redis.BlockingConnectionPool.from_url(
        url,
        max_connections=connections,
        timeout=timeout_s,
        socket_timeout=timeout_s,
        socket_connect_timeout=timeout_s,
        retry=Retry(NoBackoff(), 0),
        **others,
    )
    pool.connection_class = type("AskingConnection", (AsksOnTheLoop, pool.connection_class), {})
    return pool


class RedisBreaker(Breaker):
    """A circuit breaker before Redis. `down` is raised instead of asking it."""

    def __init__(self, down: type[Exception]) -> None:
        super().__init__(RETRY_AFTER_S)
        self._down = down

    @contextmanager
    def asking(self) -> Iterator[None]:
        if not self.lets_through():
            raise self._down("redis did not answer a moment ago")
        try:
            yield
        except (OSError, RedisError) as error:
            if isinstance(error, OSError | ConnectionError | TimeoutError):
                self.failed()
            else:
                self.answered()
            raise self._down(f"redis: {error}") from error
        else:
            self.answered()


def judge(text: str) -> None:
    """Raise what is wrong with a URL: OSError for a file, else ValueError, TypeError, AttributeError or RedisError.

    Without this the driver would raise it with the first command, take the file for a server that is away, and the name
    of a database for 0.
    """
    url = urlsplit(text)
    if url.scheme not in SCHEMES or not text.startswith(f"{url.scheme}://"):
        raise ValueError("it begins with none of redis://, rediss:// and unix://")
    for name, _ in parse_qsl(url.query, keep_blank_values=True):
        if not OPTION.fullmatch(name):
            raise ValueError("it has an option that Redis does not know, or that is decided here")
    if url.scheme == "unix":
        if url.netloc.rpartition("@")[2] or not url.path:
            raise ValueError("it names no socket, as unix:///path does")
    elif not DATABASE.fullmatch(url.path):
        raise ValueError("behind the host there may only be the number of a database")
    connection = redis.ConnectionPool.from_url(text).make_connection()  # type: ignore[no-untyped-call]
    if isinstance(connection, SSLConnection):
        connection.ssl_context.get()
