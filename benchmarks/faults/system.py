"""The system that is broken: `feedlab serve` with two web processes and two workers, as processes of ours."""

import asyncio
import resource
import shutil
import signal
import subprocess
import tempfile
import time
from array import array
from collections.abc import Callable, Collection, Iterator, Mapping
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import Any

import psutil
from pymongo.errors import PyMongoError

from app.config import Config, environment_for
from app.demo.graph import Graph
from app.demo.progress import shown
from app.demo.seed import seed
from app.models import SETTINGS
from app.servers.borrow import servers_of
from app.servers.children import OURS
from app.servers.datadir import DataDirectory
from app.servers.probe import mongodb_client
from app.servers.programs import ServersError
from app.servers.replica import ReplicaSet, replica_set
from app.servers.start import say
from app.stack import Addresses, connected
from benchmarks import answers
from benchmarks.faults.client import PASSWORD
from benchmarks.faults.load import Cast
from benchmarks.faults.outcome import NeverRecovered, Plan
from workers.tailer import DOCUMENT

AUTHORS, READERS, STEADY = 5, 8, 3
FOLLOWERS = 250  # of every author, who never read: what fan-outs are made of
CHUNK, CAP = 100, 60  # several jobs a status; lists are soon longer than what they may keep
STOP_DEADLINE_S = 60.0
ASK_TIMEOUT_S = 2.0
POLL_S = 0.1
DESCRIPTORS = 65_536  # that a process may have where it needs many

HANDLES = tuple(f"u{number}" for number in range(AUTHORS + READERS + STEADY))
CAST = Cast(HANDLES[:AUTHORS], HANDLES[AUTHORS : AUTHORS + READERS], HANDLES[AUTHORS + READERS :])
ADMIN = CAST.steady[0]


@contextmanager
def logs_of(name: str, is_good: Callable[[], bool]) -> Iterator[Path]:
    """Yield a directory for the data and logs of a system; it is kept where the run is not good, or breaks off."""
    directory, ended = Path(tempfile.mkdtemp(prefix=f"feedlab-{name}-")), False
    try:
        yield directory
        ended = True
    finally:
        if ended and is_good():
            shutil.rmtree(directory)
        else:
            say(f"logs are kept in {directory}")


def allow_descriptors(at_least: int) -> None:
    """Raise the limit of this process, and of those that it starts, where so many descriptors are above it."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft < at_least:
        resource.setrlimit(resource.RLIMIT_NOFILE, (min(DESCRIPTORS, hard) if hard > 0 else DESCRIPTORS, hard))


def graph(crowd: Graph | None = None) -> Graph:
    """Return a graph in which everybody follows every author, and authors follow nobody.

    `crowd`: people beside them, who follow each other.
    """
    people = len(HANDLES) + FOLLOWERS
    followers = array("I", [person for person in range(AUTHORS, people) for _ in range(AUTHORS)])
    followees = array("I", list(range(AUTHORS)) * (people - AUTHORS))
    labels = [str(number) for number in range(people)]
    if crowd:
        labels += [f"crowd_{label}" for label in crowd.people]
        followers.extend(people + person for person in crowd.followers)
        followees.extend(people + person for person in crowd.followees)
    return Graph(tuple(labels), followers, followees)


@dataclass
class System:
    """A running `feedlab serve` of ours."""

    directory: DataDirectory
    url: str
    process: "subprocess.Popen[str]"
    environment: dict[str, str]
    replicas: ReplicaSet | None

    @contextmanager
    def suspended(self, what: str) -> Iterator[None]:
        """Suspend all processes of a kind until the block ends."""
        processes = [process for _, process in self.alive(what)]
        assert processes, f"no {what} runs"
        for process in processes:
            process.suspend()
        try:
            yield
        finally:
            for process in processes:
                with suppress(psutil.NoSuchProcess):
                    process.resume()

    def alive(self, what: str) -> list[tuple[str, psutil.Process]]:
        """Return the processes of a kind that run now."""
        if what == "primary":
            assert self.replicas
            pid = self.replicas.primary()
            return [(what, psutil.Process(pid))] if pid else []
        if what == "tailer":
            return self._tailer()
        children = self.directory.note().children.items()
        return [(name, process) for name, child in children if name.split()[0] == what and (process := child.find())]

    def _tailer(self) -> list[tuple[str, psutil.Process]]:
        """Return the worker that has the lease of the change stream, if one has."""
        with suppress(PyMongoError, psutil.NoSuchProcess), self.mongodb() as db:
            owner = (db[SETTINGS].find_one({"_id": DOCUMENT}) or {}).get("owner")
            return [("tailer", psutil.Process(int(owner.rpartition(":")[2])))] if owner else []
        return []

    @contextmanager
    def mongodb(self) -> Iterator[Any]:
        """Yield the database that is served. Using it raises PyMongoError."""
        url = self.replicas.url if self.replicas else str(self.directory.note().mongodb)
        with mongodb_client(url, ASK_TIMEOUT_S) as client:
            yield client[Config().database]

    def feedlab(self, *arguments: str, check: bool = False) -> str:
        """Run a command, and return what it says on stdout, or else on stderr."""
        command = _feedlab(*arguments, data=self.directory.path)
        said = subprocess.run(command, env=self.environment, capture_output=True, text=True, check=check)
        return (said.stdout or said.stderr).strip()


async def until_alive(
    system: System, what: str, away_s: float, count: int = 1, but: Collection[int] = ()
) -> list[tuple[str, psutil.Process]]:
    """Wait for so many processes of a kind, others than those of `but`, and return them.

    Raises NeverRecovered after so many seconds.
    """
    deadline = time.monotonic() + away_s
    while True:
        alive = [each for each in await asyncio.to_thread(system.alive, what) if each[1].pid not in but]
        if len(alive) >= count:
            return alive
        if time.monotonic() > deadline:
            raise NeverRecovered(f"{what} is away for more than {away_s:.0f} s")
        await asyncio.sleep(POLL_S)


@contextmanager
def serving(
    directory: Path,
    plan: Plan,
    crowd: Graph | None = None,
    *,
    more: Mapping[str, str] = MappingProxyType({}),
    web: int = 2,
    workers: int = 2,
) -> Iterator[System]:
    """Run `feedlab serve` on a seeded database, with `more` settings, until the block ends. Raises ServersError."""
    variables = {"FEEDLAB_CHUNK": str(CHUNK), "FEEDLAB_CAP": str(CAP), "FEEDLAB_REDIS_AOF": str(plan.aof), **more}
    people, on_replicas = graph(crowd), plan.replica_set
    with served(directory, variables, people, plan.seed, web=web, workers=workers, on_replicas=on_replicas) as system:
        system.feedlab("admin", ADMIN, check=True)
        system.feedlab("phases", "--deliver", ",".join(phase.slug for phase in answers.KEEPING), check=True)
        yield system


@contextmanager
def served(
    directory: Path,
    variables: dict[str, str],
    people: Graph,
    number: int,
    *,
    statuses: int = 0,
    web: int = 2,
    workers: int = 2,
    on_replicas: bool = False,
) -> Iterator[System]:
    """Run `feedlab serve` with these settings, people and statuses, until the block ends. Raises ServersError."""
    with ExitStack() as stack:
        replicas = stack.enter_context(replica_set(directory / "replica set")) if on_replicas else None
        data = directory / "data"
        if replicas:
            variables = {**variables, "FEEDLAB_MONGODB_URL": replicas.url}
        _fill(data, Config.from_environment(variables), number, people, statuses)
        environment = environment_for(variables)
        log = stack.enter_context((directory / "serve.log").open("w", encoding="utf-8"))
        options = ("--stack", "servers", "--port", "0", "--web", str(web), "--workers", str(workers))
        serve = _feedlab("serve", *options, data=data)
        process = subprocess.Popen(serve, env=environment, stdout=subprocess.PIPE, stderr=log, text=True)
        stack.callback(_stop, process)
        assert process.stdout
        ready = process.stdout.readline()
        if not ready.startswith("ready "):
            raise ServersError(f"feedlab serve did not start; its log: {log.name}")
        yield System(DataDirectory(data), ready.split()[1], process, environment, replicas)


def _fill(data: Path, config: Config, number: int, people: Graph, statuses: int) -> None:
    async def fill(addresses: Addresses) -> None:
        async with connected(addresses, config) as stack:
            with shown() as progress:
                options: Any = {"statuses": statuses, "days": 1, "seed": number, "password": PASSWORD, "reset": False}
                await seed(stack, people, **options, progress=progress)

    with servers_of(data, config, "servers", purpose="feedlab bench faults") as addresses:
        asyncio.run(fill(addresses))


def _feedlab(*arguments: str, data: Path) -> list[str]:
    return [*OURS, "app.cli", *arguments, "--data", str(data)]


def _stop(process: "subprocess.Popen[str]") -> None:
    process.send_signal(signal.SIGTERM)
    try:
        process.communicate(timeout=STOP_DEADLINE_S)
    except subprocess.TimeoutExpired:
        process.kill()
        process.communicate()
