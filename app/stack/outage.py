"""Outages: errors that say that a server of ours is away, which may pass, and is no fault of ours."""

import re
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from pymongo.errors import (
    ConnectionFailure,
    CursorNotFound,
    ExecutionTimeout,
    NotPrimaryError,
    OperationFailure,
    PyMongoError,
    WriteConcernError,
)
from redis import RedisError

from app.stack.deadline import OutOfTime
from app.stack.memcached import MemcachedDown
from app.stack.mongodb.connection import AWAY_CODES
from app.stack.mongodb.find import NoSnapshot
from app.stack.mongodb.transaction import Contended
from app.stack.queue import QueueDown
from app.stack.sorted_sets import SetsDown

UNAVAILABLE = (
    ConnectionFailure,
    ExecutionTimeout,
    NotPrimaryError,
    WriteConcernError,  # written here, and nobody knows whether by a majority
    CursorNotFound,  # it died with the server that had it
    NoSnapshot,
    Contended,
    OutOfTime,
    QueueDown,
    MemcachedDown,
    SetsDown,
)

DRIVERS = {PyMongoError: "MongoDB", RedisError: "Redis"}
ACCOUNT = ", Timeout:"  # what MongoDB's driver tells of each server begins like this
LOOKED_FOR = re.compile(r"<ServerDescription \('([^']+)', (\d+|None)\)")  # in that account


def is_away(error: BaseException) -> bool:
    """Return whether the error says that a server of ours is away.

    The web edge answers 503 then, the worker tries again later, and work beside these goes on (`outages_told`).
    """
    return isinstance(error, UNAVAILABLE) or (isinstance(error, OperationFailure) and error.code in AWAY_CODES)


@contextmanager
def outages_told(tell: Callable[[str], object], words: str) -> Iterator[None]:
    """End the block, and nothing else, where a server is away. `tell` is given the words and what the server said."""
    try:
        yield
    except Exception as error:
        if not is_away(error):
            raise
        tell(f"{words}: {error}")


def briefly(error: BaseException) -> str:
    """Return the first line of an error's text, without the account of all servers that MongoDB's driver may add."""
    return (str(error).partition(ACCOUNT)[0].splitlines() or [type(error).__name__])[0]


def said_by_a_driver(error: BaseException) -> str | None:
    """Return what a server or its driver said, in one line; None where neither is the reason. MongoDB's addresses are
    in it also where the driver had no time to try one ("No servers found yet").

    It may repeat a URL, and what is secret in it.
    """
    if not isinstance(error, (*UNAVAILABLE, PyMongoError, RedisError)):
        return None
    words, account = briefly(error), str(error).partition(ACCOUNT)[2]
    servers = sorted(host if port == "None" else f"{host}:{port}" for host, port in LOOKED_FOR.findall(account))
    if servers and not any(server in words for server in servers):
        words = f"{', '.join(servers)}: {words}"
    return next((f"{title}: {words}" for kind, title in DRIVERS.items() if isinstance(error, kind)), words)
