"""A check that a Redis answers at the URL of Redis: each new connection asks before its first command.

The drivers take any answer for the one they look for. From a program of another kind that is an AttributeError in some
later command, a key that is always there, or a lock that is always free.
"""

from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import Any

from redis.asyncio.connection import AbstractConnection as AsyncConnection
from redis.connection import AbstractConnection
from redis.exceptions import ConnectionError, InvalidResponse, ResponseError
from redis.utils import str_if_bytes

QUESTION = "feedlab asks whether a Redis answers"
NO_REDIS = "what answers there is no Redis"


@contextmanager
def _answered_by_redis() -> Iterator[None]:
    try:
        yield
    except (AttributeError, IndexError, InvalidResponse, KeyError, TypeError, ValueError) as error:
        raise ConnectionError(NO_REDIS) from error


def _judge(answer: Any) -> None:
    if str_if_bytes(answer) != QUESTION:
        raise ConnectionError(NO_REDIS)


class Asks(AbstractConnection):
    """A connection that asks first. It is mixed in before the class of the URL's scheme.

    Raises redis.ConnectionError, and the connection is closed.
    """

    def on_connect_check_health(self, check_health: bool = True) -> None:
        with _answered_by_redis():
            super().on_connect_check_health(check_health)
            with suppress(ResponseError):  # the account may not: a Redis says so
                self.send_command("ECHO", QUESTION, check_health=False)  # type: ignore[no-untyped-call]
                _judge(self.read_response())


class AsksOnTheLoop(AsyncConnection):
    """A connection of redis.asyncio that asks first. Raises redis.ConnectionError, and the connection is closed."""

    async def on_connect(self) -> None:
        """Do nothing: on Unix sockets redis-py 8 calls this as well, and shook hands twice."""

    async def on_connect_check_health(self, check_health: bool = True) -> None:
        with _answered_by_redis():
            await super().on_connect_check_health(check_health)
            with suppress(ResponseError):  # the account may not: a Redis says so
                await self.send_command("ECHO", QUESTION, check_health=False)
                _judge(await self.read_response())
