"""The servers of one data directory: started as children, watched while they run, stopped at the end.

Programs listen on the loopback interface only, on ports nobody else uses; data under DIR/mongodb and DIR/redis,
logs under DIR/logs. Whoever needs servers asks `servers_of`: the ones that run, or its own for the time being.
"""

import os
import pwd
import socket
import sys
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pymongo import MongoClient
from pymongo.errors import OperationFailure, PyMongoError

from app.config import Config
from app.stack import Addresses, probe
from app.stack.children import Child, Stop, Stopped, stop_together
from app.stack.datadir import DataDirectory, InUse, Note
from app.stack.programs import Level, Server, ServersError, Source, insist, masked, resolve

LOOPBACK = "127.0.0.1"
REPLICA_SET = "feedlab"
MEMCACHED_MB = "256"  # taken as it is needed: 25,000 full lists
PORT_ATTEMPTS = 3  # somebody may take a free port between our look and the server's
START_DEADLINE_S: dict[Server, float] = {"mongodb": 120, "redis": 60, "memcached": 10}  # with recovery after a crash
SILENT_S = 5.0  # a longer start is explained
STOP_DEADLINE_S = 30.0  # mongod writes a checkpoint
PROBE_TIMEOUT_S = 1.0
POLL_S = 0.02
BORROW_DEADLINE_S = 60.0  # how long a command waits for another command's servers to be ready or gone


def say(line: str) -> None:
    """Tell the user, beside whatever the command prints."""
    sys.stderr.write(f"feedlab: {line}\n")
    sys.stderr.flush()


@dataclass(frozen=True)
class Running:
    """One server as the user is told about it."""

    source: Source
    addresses: tuple[str, ...] = ()  # none: a stand-in
    version: str | None = None

    def __str__(self) -> str:
        what = f"{self.source.title} {self.version}" if self.version else self.source.title
        where = f" at {', '.join(map(masked, self.addresses))}" if self.addresses else ""
        silent = "" if self.version or not self.addresses else ", which does not answer"
        return f"{what}{where}{silent} ({self.source})"


class Servers:
    """The children of one owner. `small` keeps caches at what a test needs; without `aof` Redis keeps nothing on disk.

    `failed` is called, from a thread, when a child has been given up.
    """

    def __init__(
        self,
        directory: DataDirectory,
        sources: tuple[Source, ...],
        stop: Stop,
        *,
        small: bool = False,
        aof: bool = True,
        tell: Callable[[str], None] = say,
        failed: Callable[[str], None] = say,
    ) -> None:
        self.children: dict[Server, Child] = {}
        self.running: list[Running] = []
        self._directory, self._sources, self._stop = directory, sources, stop
        self._small, self._aof, self._tell, self._failed = small, aof, tell, failed

    def start(self) -> Addresses:
        """Start what has to be started, side by side, and return when all of it answers.

        Raises ServersError naming the server and its last words, and Stopped when the end was asked for meanwhile.
        """
        with ThreadPoolExecutor(len(self._sources), thread_name_prefix="start") as pool:
            self.running = list(pool.map(self._start, self._sources))
        for child in self.children.values():
            child.watch()
        at = {running.source.server: running.addresses for running in self.running}
        addresses = Addresses(
            mongodb=at["mongodb"][0] if at["mongodb"] else None,
            redis=at["redis"][0] if at["redis"] else None,
            memcached=at["memcached"] or None,
        )
        self._directory.change(
            mongodb=addresses.mongodb, redis=addresses.redis, memcached=addresses.memcached, ready=True
        )
        return addresses

    def stop(self) -> None:
        stop_together(self.children.values(), STOP_DEADLINE_S)

    def _start(self, source: Source) -> Running:
        if source.kind == "url":
            return Running(source, source.urls, _version_at(source))
        if source.program is None:
            return Running(source)
        used_before = self._directory.note().ports.get(source.server)
        for attempt in range(PORT_ATTEMPTS):
            port = used_before if attempt == 0 and used_before and _is_free(used_before) else _free_port()
            child = self._child(source, port)
            self.children[source.server] = child
            try:
                child.start()
                version = self._answering(source.server, child, port)
            except OSError as error:
                raise ServersError(f"{source.title}: {source.program} does not start: {error}") from None
            if version is not None:
                self._directory.port_taken(source.server, port)
                return Running(source, (_address(source.server, port),), version)
        raise ServersError(f"{source.title}: no free port was found in {PORT_ATTEMPTS} attempts")

    def _child(self, source: Source, port: int) -> Child:
        directory = self._directory.path / source.server
        if source.server != "memcached":
            directory.mkdir(mode=0o700, exist_ok=True)
        assert source.program is not None
        return Child(
            source.server,
            [str(source.program), *_ARGUMENTS[source.server](port, self._small), *self._without_aof(source.server)],
            self._directory.logs / f"{source.server}.log",
            directory=self._directory.path if source.server == "memcached" else directory,
            environment={"LC_ALL": "C"},  # mongod refuses to start under a locale the machine does not have
            say=self._tell,
            gave_up=self._failed,
            started=self._directory.child_started,
        )

    def _without_aof(self, server: Server) -> tuple[str, ...]:
        return ("--appendonly", "no") if server == "redis" and not self._aof else ()  # the last one counts

    def _answering(self, server: Server, child: Child, port: int) -> str | None:
        """Wait until our child answers: its version, or None when somebody else had its port.

        The answer must come from the child itself: whoever took the port in between may speak the same protocol.
        """
        began = time.monotonic()
        deadline, patient_until = began + START_DEADLINE_S[server], began + SILENT_S
        reason = ""
        while time.monotonic() < deadline:
            self._stop.check()
            if death := child.death():
                if child.said("address already in use"):
                    return None
                raise ServersError(death)
            try:
                answer = (
                    _make_primary(port)
                    if server == "mongodb"
                    else probe.ask(server, _address(server, port), PROBE_TIMEOUT_S)
                )
                if answer.pid == child.pid:
                    return answer.version
                reason = f"process {answer.pid} answers on its port"
            except probe.NoAnswer as error:
                reason = str(error)
            if time.monotonic() > patient_until:
                self._tell(f"still waiting for {server}: {reason}; its log: {child.log}")
                patient_until = deadline
            time.sleep(POLL_S)
        raise ServersError(
            f"{server} does not answer after {START_DEADLINE_S[server]:.0f} s: {reason}; log: {child.log}"
        )


def _version_at(source: Source) -> str | None:
    """What a URL answers now. Silence is told and not fatal: `/readyz` waits for it."""
    try:
        versions = {probe.ask(source.server, url, PROBE_TIMEOUT_S).version for url in source.urls}
    except probe.NoAnswer:
        return None
    return ", ".join(sorted(versions))


def _mongod(port: int, small: bool) -> list[str]:
    return [
        *("--dbpath", ".", "--bind_ip", LOOPBACK, "--port", str(port), "--nounixsocket"),
        *("--replSet", REPLICA_SET, "--oplogSize", "64" if small else "512"),
        *("--wiredTigerCacheSizeGB", "0.25" if small else "1"),
        *("--setParameter", "diagnosticDataCollectionEnabled=false"),
        *("--setParameter", "transactionLifetimeLimitSeconds=5"),  # of a process that was killed in the middle of one
        # A lone node has nobody to hand over to, so there is nothing to wait for.
        *("--setParameter", "shutdownTimeoutMillisForSignaledShutdown=100"),
    ]


def _redis_server(port: int, small: bool) -> list[str]:
    return [
        *("--bind", LOOPBACK, "--port", str(port), "--protected-mode", "yes", "--daemonize", "no"),
        *("--dir", ".", "--appendonly", "yes", "--appendfsync", "everysec", "--save", ""),
        *("--maxmemory-policy", "noeviction"),
    ]


def _memcached(port: int, small: bool) -> list[str]:
    user = ["-u", _unprivileged()] if os.geteuid() == 0 else []  # as root it demands to be told
    return ["-l", LOOPBACK, "-p", str(port), "-U", "0", "-m", MEMCACHED_MB, *user]


_ARGUMENTS: dict[Server, Callable[[int, bool], list[str]]] = {
    "mongodb": _mongod,
    "redis": _redis_server,
    "memcached": _memcached,
}


def _unprivileged() -> str:
    return next((user.pw_name for user in pwd.getpwall() if user.pw_name == "nobody"), "root")


def _address(server: Server, port: int) -> str:
    match server:
        case "mongodb":
            return f"mongodb://{LOOPBACK}:{port}/?directConnection=true"
        case "redis":
            return f"redis://{LOOPBACK}:{port}/0"
        case "memcached":
            return f"{LOOPBACK}:{port}"


def _free_port() -> int:
    with socket.socket() as s:
        s.bind((LOOPBACK, 0))
        return int(s.getsockname()[1])


def _is_free(port: int) -> bool:
    with socket.socket() as s:
        s.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)  # what is left of our own last run does not count
        try:
            s.bind((LOOPBACK, port))
        except OSError:
            return False
        return True


def _make_primary(port: int) -> probe.Answer:
    """Make the mongod at `port` the writable primary of a set of one. Raises NoAnswer until it is.

    The set knows its member by host and port: a new set is initiated, one that moved to another port is told so.
    """
    milliseconds = int(PROBE_TIMEOUT_S * 1000)
    try:
        with MongoClient[dict[str, Any]](
            _address("mongodb", port),
            serverSelectionTimeoutMS=100,
            connectTimeoutMS=milliseconds,
            socketTimeoutMS=milliseconds * 10,
        ) as client:
            hello = client.admin.command("hello")
            if not hello.get("isWritablePrimary"):
                _set_member(client, f"{LOOPBACK}:{port}")
                raise probe.NoAnswer("it is not the primary yet")
            status = client.admin.command("serverStatus", metrics=0, wiredTiger=0, locks=0)
            return probe.Answer(str(status["version"]), int(status["pid"]))
    except PyMongoError as error:
        raise probe.NoAnswer(str(error)) from None


NOT_YET_INITIALIZED = 94  # MongoDB's error code


def _set_member(client: MongoClient[dict[str, Any]], host: str) -> None:
    try:
        config = client.admin.command("replSetGetConfig")["config"]
    except OperationFailure as error:
        if error.code != NOT_YET_INITIALIZED:
            raise
        client.admin.command("replSetInitiate", {"_id": REPLICA_SET, "members": [{"_id": 0, "host": host}]})
        return
    if [member["host"] for member in config["members"]] != [host]:
        config["members"] = [config["members"][0] | {"host": host}]
        config["version"] += 1
        client.admin.command("replSetReconfig", config, force=True)


@contextmanager
def started(
    directory: DataDirectory,
    sources: tuple[Source, ...],
    stop: Stop,
    *,
    small: bool = False,
    aof: bool = True,
    failed: Callable[[str], None] = say,
) -> Iterator[tuple[Addresses, list[Running]]]:
    """Start the servers of a directory that is owned, and stop them at the end, whatever it is.

    Raises ServersError, or Stopped when `stop` is requested before they answer. `failed` is called, from a thread,
    when a child has been given up.
    """
    servers = Servers(directory, sources, stop, small=small, aof=aof, failed=failed)
    try:
        with stop.signals():
            addresses = servers.start()
        yield addresses, servers.running
    finally:
        with stop.signals():  # a second Ctrl-C must not leave them behind
            servers.stop()


@contextmanager
def servers_of(
    data: Path, config: Config, level: Level = "auto", *, purpose: str = "a command", lasting: bool = False
) -> Iterator[Addresses]:
    """The servers of `data` for one command: by URL, or those that run, or its own until the block ends.

    Nothing of this needs an event loop: enter it before one is started. Raises ServersError, also when the running
    servers live inside another process, and SystemExit when a signal comes while they start.
    `lasting`: other commands may use the ones started here.
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
    deadline = time.monotonic() + BORROW_DEADLINE_S
    while True:
        if (note := directory.owner()) and note.ready and note.lasting:
            return _borrowed(directory, note)
        sources = resolve(config, level)
        insist(sources)
        try:
            return stack.enter_context(_temporary(directory, sources, purpose, lasting))
        except InUse:  # an owner that is starting, or another command
            if time.monotonic() > deadline:
                raise
            time.sleep(0.1)


def owner_servers(data: Path, config: Config) -> Addresses:
    """Where the servers of the running owner are; nothing is ever started. For children of one that has them."""
    if by_url := _by_url(config):
        return by_url
    directory = DataDirectory(data)
    note = directory.owner()
    if note is None or not note.ready:
        raise ServersError(f"no servers run in {directory.path}")
    return _borrowed(directory, note)


def _by_url(config: Config) -> Addresses | None:
    if config.mongodb_url and config.redis_url and config.memcached:
        return Addresses(config.mongodb_url, config.redis_url, config.memcached)
    return None


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
def running_servers(
    directory: Path, config: Config, level: Level = "servers", *, small: bool = True
) -> Iterator[Addresses]:
    """Servers of their own for a test session. Raises ServersError when the level cannot be had."""
    sources = resolve(config, level)
    insist(sources)
    with _temporary(DataDirectory(directory), sources, "tests", lasting=True, small=small) as addresses:
        yield addresses
