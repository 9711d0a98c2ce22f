"""The servers of one data directory: started as children, watched while they run, stopped at the end.

Programs listen on Unix sockets that their owner alone can reach. Their data is under DIR/mongodb and DIR/redis, their
logs are under DIR/logs.
"""

import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass, field
from pathlib import Path

from app.logs import spoken
from app.servers import commands, probe
from app.servers.children import Child, Stop, Stopped, stop_together
from app.servers.commands import address
from app.servers.datadir import DataDirectory
from app.servers.primary import make_primary
from app.servers.programs import ServersError, Source
from app.servers.urls import Server, masked
from app.stack import Addresses

ATTEMPTS = 2  # the second without what may be damaged
START_DEADLINE_S: dict[Server, float] = {"mongodb": 120, "redis": 60, "memcached": 10}  # with recovery after a crash
SILENT_S = 5.0  # a longer start is explained
STOP_DEADLINE_S = 30.0  # mongod writes a checkpoint
PROBE_TIMEOUT_S = 1.0
POLL_S = 0.02


def say(line: str) -> None:
    """Tell the user on stderr. An error in doing so is ignored: nobody may listen any more, and the work goes on."""
    with suppress(OSError, ValueError, AttributeError):  # closed, or never there
        sys.stderr.write(f"{spoken(line)}\n")
        sys.stderr.flush()


class _Died(ServersError):
    """The server ended instead of answering."""


@dataclass(frozen=True)
class Running:
    """One server that answers, or did not; its text is what the user is told about it."""

    source: Source
    addresses: tuple[str, ...] = ()  # none: a stand-in
    version: str | None = None

    def __str__(self) -> str:
        what = f"{self.source.title} {self.version}" if self.version else self.source.title
        where = f" at {', '.join(map(masked, self.addresses))}" if self.addresses else ""
        silent = "" if self.version or not self.addresses else ", which does not answer"
        return f"{what}{where}{silent} ({self.source})"


@dataclass
class Servers:
    """The children of one owner, as `started` describes them."""

    directory: DataDirectory
    sockets: Path
    sources: tuple[Source, ...]
    stopping: Stop
    small: bool
    aof: bool
    demo: bool
    failed: Callable[[str], None]
    children: dict[Server, Child] = field(default_factory=dict)
    in_vain: threading.Event = field(default_factory=threading.Event)  # one of them does not start

    def start(self) -> tuple[Addresses, list[Running]]:
        """Start side by side what has to be started, and return when all of it answers.

        Raises ServersError naming the first server that does not, and its last words, and Stopped when the end was
        asked for meanwhile.
        """
        with ThreadPoolExecutor(len(self.sources), thread_name_prefix="start") as pool:
            starts = [pool.submit(self._start, source) for source in self.sources]
            for each in as_completed(starts):
                if error := each.exception():
                    self.in_vain.set()
                    raise error
        running = [each.result() for each in starts]
        for child in self.children.values():
            child.patience = None  # it has worked: whatever stops it now may pass, a full disk too
            child.watch()
        at = {server.source.server: server.addresses for server in running}
        addresses = Addresses(
            mongodb=at["mongodb"][0] if at["mongodb"] else None,
            redis=at["redis"][0] if at["redis"] else None,
            memcached=at["memcached"] or None,
        )
        if "mongodb" in self.children and not self.demo:  # what comes now is not to be erased
            self.directory.change(demo_unfinished=False)
        sources = {source.server: str(source) for source in self.sources}
        self.directory.change(**asdict(addresses), sources=sources, ready=True)
        return addresses, running

    def _start(self, source: Source) -> Running:
        if source.kind == "url":
            return Running(source, source.urls, _version_at(source))
        if source.program is None:
            return Running(source)
        at = self.sockets / f"{source.server}.sock"
        for _ in range(ATTEMPTS):
            child = self._child(source, at)
            self.children[source.server] = child
            kept = self._kept() if source.server == "redis" else []
            try:
                child.start()
                version = self._answering(source.server, child, at)
            except OSError as error:
                raise ServersError(f"{source.title}: {source.program} does not start: {error}") from None
            except _Died as death:
                if not kept:
                    raise
                self._set_aside(kept, death)
                continue
            return Running(source, (address(source.server, at),), version)
        raise ServersError(f"{source.title}: it did not start in {ATTEMPTS} attempts")

    def _kept(self) -> list[Path]:
        """Return the files that Redis reads when it starts: jobs, which can be queued again from what MongoDB holds."""
        return list((self.directory.path / "redis").glob("appendonly*"))

    def _set_aside(self, kept: Sequence[Path], death: _Died) -> None:
        """Rename the files that Redis cannot read, so that it starts without them.

        Redis reports such files in many ways, or crashes; none of that is a reason not to start.
        """
        for part in kept:
            part.replace(part.with_name(f"damaged-{int(time.time())}-{part.name}"))
            say(f"{death}. What it kept, {part}, was set aside beside it; what that queued is queued again")

    def _child(self, source: Source, at: Path) -> Child:
        directory = self.directory.path / source.server
        if source.server != "memcached":
            directory.mkdir(mode=0o700, exist_ok=True)
        assert source.program is not None
        return Child(
            source.server,
            [str(source.program), *commands.arguments(source.server, at, small=self.small, aof=self.aof)],
            self.directory.logs / f"{source.server}.log",
            directory=self.directory.path if source.server == "memcached" else directory,
            environment={"LC_ALL": "C"},  # mongod refuses to start under a locale the machine does not have
            say=say,
            gave_up=self.failed,
            started=self.directory.child_started,
        )

    def _answering(self, server: Server, child: Child, at: Path) -> str:
        """Wait until our child answers, and return its version.

        A server that a lost note left behind may answer before it.
        """
        began = time.monotonic()
        deadline, patient_until = began + START_DEADLINE_S[server], began + SILENT_S
        reason = ""
        while time.monotonic() < deadline:
            self.stopping.check()
            if self.in_vain.is_set():
                raise Stopped
            if death := child.death():
                raise _Died(death)
            try:
                if server == "mongodb":
                    answer = make_primary(at, PROBE_TIMEOUT_S)
                else:
                    answer = probe.ask(server, address(server, at), PROBE_TIMEOUT_S)
                if answer.pid == child.pid:
                    return answer.version
                reason = f"process {answer.pid} answers on its socket"
            except probe.NoAnswer as error:
                reason = str(error)
            if time.monotonic() > patient_until:
                say(f"still waiting for {server}: {reason}; its log: {child.log}")
                patient_until = deadline
            time.sleep(POLL_S)
        raise ServersError(
            f"{server} does not answer after {START_DEADLINE_S[server]:.0f} s: {reason}; log: {child.log}"
        )


def _version_at(source: Source) -> str | None:
    """Return the version that a URL answers now; None where it is silent. That is not fatal: `/readyz` waits for it."""
    try:
        versions = {probe.ask(source.server, url, PROBE_TIMEOUT_S).version for url in source.urls}
    except probe.NoAnswer:
        return None
    return ", ".join(sorted(versions))


@contextmanager
def started(
    directory: DataDirectory,
    sources: tuple[Source, ...],
    stop: Stop,
    *,
    small: bool = False,
    aof: bool = True,
    demo: bool = False,
    failed: Callable[[str], None] = say,
) -> Iterator[tuple[Addresses, list[Running]]]:
    """Start the servers of an owned directory, and stop them when the block ends, whatever ends it.

    `small` keeps caches at what a test needs; without `aof` Redis keeps nothing on disk. A `demo` may fill the database
    anew where the last one was interrupted; for nobody else that stays noted. `failed` is called, from a thread, when a
    child has been given up. Raises ServersError, or Stopped when `stop` is requested before they answer.
    """
    with directory.sockets() as sockets:
        servers = Servers(directory, sockets, sources, stop, small, aof, demo, failed)
        try:
            with stop.signals():
                answering = servers.start()
            yield answering
        finally:
            with stop.signals():  # a second Ctrl-C must not leave them behind
                stop_together(servers.children.values(), STOP_DEADLINE_S)
