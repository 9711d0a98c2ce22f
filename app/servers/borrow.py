"""Servers for one command: those of a running owner, or its own for the time being."""

import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

from app.config import Config
from app.servers.children import Stop, Stopped
from app.servers.datadir import DataDirectory, InUse, Note
from app.servers.programs import Level, ServersError, Source, insist, resolve
from app.servers.start import started
from app.servers.urls import SERVERS, urls
from app.stack import Addresses

BORROW_DEADLINE_S = 60.0  # how long a command waits for another command's servers to be ready or gone


@contextmanager
def servers_of(
    data: Path, config: Config, level: Level = "auto", *, purpose: str = "a command", lasting: bool = False
) -> Iterator[Addresses]:
    """Yield the servers of `data` for one command: by URL, or those that run, or its own until the block ends.

    No event loop is needed: enter the block before one is started. Raises ServersError, also when the running servers
    live inside another process, ConfigError for a URL of no use, and SystemExit when a signal comes while they start.

    `lasting`: other commands may use the servers that are started here.
    """
    if level == "memory":
        yield Addresses(None, None, None)
        return
    if by_url := _by_url(config):
        yield by_url
        return
    if level == "urls":
        insist(resolve(config, level))
    with ExitStack() as stack:
        yield _found_or_started(stack, DataDirectory(data), config, level, purpose, lasting)


def _found_or_started(
    stack: ExitStack, directory: DataDirectory, config: Config, level: Level, purpose: str, lasting: bool
) -> Addresses:
    deadline, sources = time.monotonic() + BORROW_DEADLINE_S, None
    while True:
        if (note := directory.owner()) and note.ready and note.lasting:
            return _borrowed(directory, note)
        if sources is None:
            sources = resolve(config, level)
            insist(sources)
        try:
            return stack.enter_context(_temporary(directory, sources, purpose, lasting))
        except InUse:  # an owner that is starting, or another command
            if time.monotonic() > deadline:
                raise
            time.sleep(0.1)


def owner_servers(data: Path, config: Config) -> Addresses:
    """Return the addresses of the running owner's servers, for a child of a process that has them.

    Nothing is ever started. Raises ServersError where none run.
    """
    if by_url := _by_url(config):
        return by_url
    directory = DataDirectory(data)
    note = directory.owner()
    if note is None or not note.ready:
        raise ServersError(f"no servers run in {directory.path}")
    return _borrowed(directory, note)


def _by_url(config: Config) -> Addresses | None:
    mongodb, redis, memcached = (urls(config, server) for server in SERVERS)
    return Addresses(mongodb[0], redis[0], memcached) if mongodb and redis and memcached else None


def _borrowed(directory: DataDirectory, note: Note) -> Addresses:
    addresses = Addresses(note.mongodb, note.redis, note.memcached)
    if addresses.one_process:
        assert note.owner is not None
        raise ServersError(
            f"the servers of {directory.path} live inside process {note.owner.pid} ({note.purpose}) as stand-ins: "
            "no other process can reach them"
        )
    return addresses


@contextmanager
def _temporary(
    directory: DataDirectory, sources: tuple[Source, ...], purpose: str, lasting: bool, small: bool = False
) -> Iterator[Addresses]:
    stop = Stop()
    try:
        with (
            directory.owned(purpose, lasting=lasting),
            started(directory, sources, stop, small=small) as (addresses, _),
        ):
            yield addresses
    except Stopped:
        raise SystemExit(128 + (stop.signal or 0)) from None


@contextmanager
def running_servers(directory: Path, config: Config) -> Iterator[Addresses]:
    """Yield small servers that are started for a test session. Raises ServersError when there are none to be had."""
    sources = resolve(config, "servers")
    insist(sources)
    with _temporary(DataDirectory(directory), sources, "tests", lasting=True, small=True) as addresses:
        yield addresses
