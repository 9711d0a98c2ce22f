"""Commands sent to each server, counted where the drivers send them, for whoever asks in this task."""

from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass

from app.watch.metrics import COMMANDS


@dataclass
class Cost:
    """Commands sent (not round trips: a pipeline of ten counts ten)."""

    mongodb: int = 0
    memcached: int = 0
    redis: int = 0


_mongodb, _memcached, _redis = map(COMMANDS.labels, ("mongodb", "memcached", "redis"))  # of the process
_current: ContextVar[Cost | None] = ContextVar("cost", default=None)


@contextmanager
def counted() -> Iterator[Cost]:
    """Count every command that is sent in this task, and in the tasks and threads it starts, until the block ends."""
    cost = Cost()
    token = _current.set(cost)
    try:
        yield cost
    finally:
        _current.reset(token)


@contextmanager
def uncounted() -> Iterator[None]:
    """Housekeeping that many requests share (phase settings, at most twice a second) is nobody's cost."""
    token = _current.set(None)
    try:
        yield
    finally:
        _current.reset(token)


def count_mongodb(commands: int = 1) -> None:
    _mongodb.inc(commands)
    if cost := _current.get():
        cost.mongodb += commands


def count_memcached(commands: int = 1) -> None:
    _memcached.inc(commands)
    if cost := _current.get():
        cost.memcached += commands


def count_redis(commands: int = 1) -> None:
    _redis.inc(commands)
    if cost := _current.get():
        cost.redis += commands
