"""A replica set of three mongods on Unix sockets: on one machine it shows what the death of a primary looks like."""

import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from urllib.parse import quote

from pymongo.errors import PyMongoError

from app.config import Config
from app.servers.children import Child, stop_together
from app.servers.commands import address, mongod
from app.servers.probe import mongodb_client
from app.servers.programs import ServersError, insist, resolve
from app.servers.start import STOP_DEADLINE_S, say

NAME = "three"
MEMBERS = 3
ELECTION_TIMEOUT_MS = 2_000  # MongoDB's default is 10,000; a lost primary is noticed after so long
HEARTBEAT_MS = 500
START_DEADLINE_S = 120.0
POLL_S = 0.1
ASK_TIMEOUT_S, INITIATE_TIMEOUT_S = 0.5, 10.0


class ReplicaSet:
    """A running replica set. A member that dies is started again; nothing else repairs the set."""

    def __init__(self, children: dict[Path, Child]) -> None:
        self._children = children

    @property
    def url(self) -> str:
        return f"mongodb://{','.join(quote(str(at), safe='') for at in self._children)}/?replicaSet={NAME}"

    def primary(self) -> int | None:
        """Return the process number of the member that says it is the primary; None where none does."""
        for at, child in self._children.items():
            if child.death() is None and _hello(at).get("isWritablePrimary"):
                return child.pid
        return None

    def members(self) -> list[int]:
        """Return the process numbers of the members that run."""
        return [child.pid for child in self._children.values() if child.death() is None]


@contextmanager
def replica_set(directory: Path) -> Iterator[ReplicaSet]:
    """Start a replica set, wait for its primary, and stop it when the block ends. Raises ServersError."""
    source = resolve(Config(), "servers")[0]
    insist((source,))
    children: dict[Path, Child] = {}
    try:
        for number in range(1, MEMBERS + 1):
            place = directory / f"mongodb-{number}"
            place.mkdir(mode=0o700, parents=True)
            at = place / "mongodb.sock"
            children[at] = _mongod(f"mongodb {number}", str(source.program), at)
        _initiate(children)
        for child in children.values():
            child.watch()
        yield ReplicaSet(children)
    finally:
        stop_together(children.values(), STOP_DEADLINE_S)


def _mongod(name: str, program: str, at: Path) -> Child:
    directory = at.parent
    command = [program, *mongod(at, NAME, oplog_mb=128, cache_gb=0.25)]
    log = directory / "mongod.log"
    child = Child(
        name, command, log, directory=directory, environment={"LC_ALL": "C"}, patience=None, say=say, gave_up=say
    )
    child.start()
    return child


def _initiate(children: dict[Path, Child]) -> None:
    deadline = time.monotonic() + START_DEADLINE_S
    _until_they_answer(children, deadline)
    members = [{"_id": number, "host": str(at)} for number, at in enumerate(children)]
    settings = {"electionTimeoutMillis": ELECTION_TIMEOUT_MS, "heartbeatIntervalMillis": HEARTBEAT_MS}
    config: dict[str, Any] = {"_id": NAME, "members": members, "settings": settings}
    with mongodb_client(address("mongodb", next(iter(children))), INITIATE_TIMEOUT_S) as client:
        client.admin.command("replSetInitiate", config)
    while not any(_hello(at).get("isWritablePrimary") for at in children):
        _wait(children, deadline, "no primary was elected")


def _until_they_answer(children: dict[Path, Child], deadline: float) -> None:
    for at in children:
        while not _hello(at):
            _wait(children, deadline, f"the mongod at {at} does not answer")


def _wait(children: dict[Path, Child], deadline: float, problem: str) -> None:
    for child in children.values():
        if death := child.death():
            raise ServersError(death)
    if time.monotonic() > deadline:
        raise ServersError(f"replica set: {problem} after {START_DEADLINE_S:.0f} s")
    time.sleep(POLL_S)


def _hello(at: Path) -> dict[str, Any]:
    """Return the member's answer to `hello`; empty when it does not answer."""
    try:
        with mongodb_client(address("mongodb", at), ASK_TIMEOUT_S) as client:
            return client.admin.command("hello")
    except PyMongoError:
        return {}
