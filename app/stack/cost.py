"""Commands to each server: what a process sends, counted where the drivers send it, and what a task asks for."""

from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass

from app.watch.metrics import COMMANDS


@dataclass
class Cost:
    """The commands that a task has asked for (not round trips: a pipeline of ten counts ten).

    One that several ask for together is sent once and counts for each of them. One that the server refuses for now
    counts once, however often it is sent. `feedlab_server_commands_total` counts what was sent.
    """

    mongodb: int = 0
    memcached: int = 0
    redis: int = 0


_mongodb, _memcached, _redis = map(COMMANDS.labels, ("mongodb", "memcached", "redis"))  # what this process has sent
_current: ContextVar[Cost | None] = ContextVar("cost", default=None)


@contextmanager
def counted() -> Iterator[Cost]:
    """Count what this task, and the tasks and threads it starts, ask for until the block ends."""
    cost = Cost()
    token = _current.set(cost)
    try:
        yield cost
    finally:
        _current.reset(token)


@contextmanager
def uncounted() -> Iterator[None]:
    """Count nothing until the block ends.

    Housekeeping that many requests share (phase settings, at most twice a second) is nobody's cost.
    """
    token = _current.set(None)
    try:
        yield
    finally:
        _current.reset(token)


def count_mongodb() -> None:
    """Count a command that is asked for and sent at once, as with the other servers."""
    sent_to_mongodb()
    asked_of_mongodb()


def sent_to_mongodb() -> None:
    _mongodb.inc()


def asked_of_mongodb() -> None:
    if cost := _current.get():
        cost.mongodb += 1


def count_memcached(commands: int = 1) -> None:
    _memcached.inc(commands)
    if cost := _current.get():
        cost.memcached += commands


def count_redis(commands: int = 1) -> None:
    _redis.inc(commands)
    if cost := _current.get():
        cost.redis += commands
