"""A rig: a system of the benchmark's own.

It has servers in a temporary directory, a scratch database, a worker and a web process.
"""

import asyncio
import socket
import tempfile
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, Iterator, Sequence
from contextlib import AsyncExitStack, asynccontextmanager, contextmanager
from dataclasses import dataclass
from datetime import timedelta
from functools import partial
from http import HTTPStatus
from pathlib import Path
from typing import Any, NamedTuple

import psutil
from bson import ObjectId

from app.config import Config
from app.demo.graph import Graph
from app.demo.progress import Progress, silent
from app.demo.seed import World, empty, insert, insert_follows
from app.edges import MARKERS, NAMES, VERSIONS, another_version, change_edges
from app.errors import Refused
from app.models import NOBODY, ActiveReader, CircleMember, Follow, HeavyAuthor, Status, User, versions_tag
from app.servers.borrow import servers_of
from app.servers.children import OURS, Child, stop_together
from app.servers.datadir import DataDirectory
from app.servers.programs import Level, resolve
from app.servers.start import say
from app.stack import Addresses, Stack, connected
from app.stack.mongodb.transaction import Transaction
from app.stack.mongodb.write import housekeeping
from benchmarks import answers
from benchmarks.record import Loaded, Record
from benchmarks.report import Population, Report
from benchmarks.subject import Api, Failed, Http, InProcess, Subject, WrongAnswer
from phases.keeping.activity import ACTIVE
from phases.timelines import Timelines
from workers.worker import run_in_thread

OVERRIDES: dict[str, Any] = {
    "mongodb_url": None,  # never somebody's servers: queues are emptied and Memcached is filled
    "redis_url": None,
    "memcached": (),
    "database": "feedlab_bench",
    "memcached_prefix": "",
    "demo": False,
    "metrics": None,  # a port that is taken while the environment's own processes run
    **dict.fromkeys(("writes_per_minute", "sign_ins_per_minute", "sign_ups_per_minute"), 1_000_000),
}
COMMAND = (*OURS, "app.cli")
READY_DEADLINE_S = 60.0
POLL_S = 0.02
HISTORY_DAYS = 30
MOST_STATUSES = 1_000_000  # from before the run: one or two minutes of loading
BATCH = 5_000
ACTIVE_FOR = timedelta(days=30)
AT_ONCE = 8  # reads under way while readers are warmed
USED_READS = 100  # made before anything counts, even where nothing is kept
SERVER_PROCESSES = {"mongodb": "mongod", "redis": "redis", "memcached": "memcached"}


class BenchRefused(Refused):
    """The benchmark was refused and nothing was measured; the text says why and what to do."""


@dataclass
class Rig:
    """A running system. `processes`: pids by role, for the processor time."""

    stack: Stack
    timelines: Timelines
    subject: Subject
    processes: dict[str, int]
    meaningless: bool
    so_far: Report | None = None  # what has been measured, which is shown whatever happens next
    here: bool = True  # whether the readers have been here lately, where nobody says otherwise
    directory: DataDirectory | None = None  # of its processes; stand-ins have none
    _loaded: Loaded | None = None

    @property
    def loaded(self) -> Loaded:
        assert self._loaded, "`load` comes first"
        return self._loaded

    @property
    def is_loaded(self) -> bool:
        return self._loaded is not None

    @contextmanager
    def nothing_if_wrong(self) -> Iterator[None]:
        """Leave nothing to show where an answer in the block is wrong."""
        try:
            yield
        except WrongAnswer:
            self.so_far = None
            raise

    async def load(
        self,
        graph: Graph,
        seed: int,
        history: float,
        readers: Sequence[int],
        *,
        here: bool = True,
        progress: Progress = silent,
    ) -> None:
        """Load people, edges and `history` statuses per person, at most MOST_STATUSES, from before the run."""
        world = World(graph, seed, self.stack.clock.now(), HISTORY_DAYS)
        self._loaded = loaded = Loaded(graph, world.ids, world.circle_of, sorted(readers))
        statuses = min(MOST_STATUSES, round(history * len(graph.people)))
        stack, people = self.stack, len(graph.people)
        await insert(stack, User, world.users(None), people, progress)
        await insert_follows(stack, world.follows(), len(graph.followers), progress)
        await insert(stack, CircleMember, world.circles(), sum(map(len, world.circle_of.values())), progress)
        await insert(stack, Status, loaded.noting(world.statuses(statuses)), statuses, progress)
        self.here = here
        if here:
            await self._mark(loaded.readers, progress)
        if isinstance(self.subject, Api):
            self.subject.handles.update(zip(world.ids, world.handles, strict=True))

    def population(self, source: str) -> Population:
        """Describe who is loaded, from a graph that is named `source`."""
        loaded, graph = self.loaded, self.loaded.graph
        return Population(
            source=source,
            people=len(graph.people),
            follows=len(graph.followers),
            mean_followers=round(len(graph.followers) / len(graph.people), 1),
            most_followers=max(graph.by_followee.sizes()),
            readers=len(loaded.readers),
            statuses=loaded.statuses,
        )

    async def _mark(self, readers: Sequence[int], progress: Progress = silent) -> None:
        """Mark readers as having been here lately: they get the statuses of those whom they followed at the loading."""
        loaded, until = self.loaded, self.stack.clock.now() + ACTIVE_FOR

        def active() -> Iterator[dict[str, Any]]:
            for reader in readers:
                authors = [loaded.ids[followee] for followee in loaded.graph.followees_of(reader)]
                yield {"_id": loaded.ids[reader], "until": until, "authors": authors}

        await insert(self.stack, ActiveReader, active(), len(readers), progress)

    async def switch(self, slug: str) -> None:
        """Let this phase alone deliver, after it has forgotten everything and until its grace is over."""
        await answers.deliver_only(self.timelines, [slug], read=slug, anew=True)

    async def warm(self, slug: str, limit: int, readers: Sequence[int], progress: Progress = silent) -> None:
        """Have the phase keep something for these readers, and use the connections and the web process. Where the pages
        are made in this process, it knows all of these readers afterwards, in phases that keep nothing, too.
        """
        is_needed = self.timelines.phases[slug].store or isinstance(self.subject, InProcess)
        waiting = iter(enumerate(readers if is_needed else ()))

        async def client() -> None:
            for done, reader in waiting:
                progress(f"{slug}: warming readers", done, len(readers))
                await self.timelines.page(self.loaded.ids[reader], phase=slug, limit=limit)

        await asyncio.gather(*(client() for _ in range(AT_ONCE)))
        for reader in readers[:USED_READS]:
            await self.subject.page(self.loaded.ids[reader], slug, None, limit)

    async def forget(self, slug: str, readers: Sequence[int]) -> None:
        """Forget what the phase keeps in memory for these readers, as if it had expired."""
        if answers.in_memory(self.timelines.phases[slug]):
            await answers.forget(self.timelines, slug, [self.loaded.ids[reader] for reader in readers])

    async def long_away(self) -> None:
        """Forget that anybody has been here lately."""
        await empty(self.stack, ACTIVE)

    async def restore(self, now: Record, posted: Sequence[ObjectId]) -> None:
        """Undo a round: the database is again what `load` made of it, and no job is left that finds nothing of it."""
        db, ids = self.stack.db, self.loaded.ids
        for at in range(0, len(posted), BATCH):
            with housekeeping():
                await db["statuses"].delete_many({"_id": {"$in": posted[at : at + BATCH]}})
        await self.stack.queue.forget()
        for reader, followee in now.followed:
            await db["follows"].delete_one({"follower": ids[reader], "followee": ids[followee]})
        lost = [{"_id": ObjectId(), "follower": ids[a], "followee": ids[b]} for a, b in now.unfollowed]
        await insert(self.stack, Follow, lost, len(lost))
        if self.here:
            changed = sorted(now.changed())
            for at in range(0, len(changed), BATCH):
                with housekeeping():
                    await db[ACTIVE].delete_many({"_id": {"$in": [ids[each] for each in changed[at : at + BATCH]]}})
            await self._mark([each for each in changed if self.loaded.is_reader[each]])
        else:
            await self.long_away()
        with housekeeping():
            await db["blocks"].delete_many({})
            readers = {"user_id": NOBODY, "_id": {"$nin": [versions_tag(NAMES), versions_tag(MARKERS)]}}
            await db[VERSIONS].update_many(readers, another_version())  # nobody goes by what they remember of it
        await self.pull_nobody()

    async def pull_nobody(self) -> None:
        """Forget whose statuses are pulled. Those that say so are then on no page of the phase that merges them."""
        with housekeeping():
            await self.stack.db[HeavyAuthor.Settings.name].delete_many({})
        await change_edges(self.stack.db, {MARKERS}, _nothing_else)


async def _nothing_else(_: Transaction) -> None: ...


@contextmanager
def servers(level: Level, allow_standins: bool) -> Iterator[tuple[Addresses, Path, Config]]:
    """Yield servers of our own until the block ends. Raises BenchRefused, ServersError."""
    config = Config.from_environment(**OVERRIDES)
    if not allow_standins and any(source.kind in ("stand-in", "missing") for source in resolve(config, level)):
        raise BenchRefused(
            "some server would be a stand-in, whose figures are meaningless: see `feedlab doctor`, "
            "or add --allow-standins to see what the report looks like"
        )
    with (
        tempfile.TemporaryDirectory(prefix="feedlab-bench-") as directory,
        servers_of(Path(directory), config, level, purpose="feedlab bench", lasting=True) as addresses,
    ):
        yield addresses, Path(directory), config


@asynccontextmanager
async def rig(addresses: Addresses, directory: Path, config: Config, through: str) -> AsyncIterator[Rig]:
    """Yield a rig on these servers: with a worker, and for `through` "api" with a web process."""
    if addresses.one_process and through == "api":
        raise BenchRefused("stand-ins live in this process: measure them with --through inprocess")
    async with AsyncExitStack() as exits:
        stack = await exits.enter_async_context(connected(addresses, config))
        timelines = await Timelines.open(stack)
        harness = {"harness": psutil.Process().pid}
        made = Rig(stack, timelines, InProcess(stack, timelines), harness, meaningless=addresses.one_process)
        if addresses.one_process:
            await exits.enter_async_context(run_in_thread(timelines))
        else:
            made.directory = DataDirectory(directory)
            await exits.enter_async_context(_with_children(made, through))
        yield made


@asynccontextmanager
async def _with_children(rig: Rig, through: str) -> AsyncIterator[None]:
    async with AsyncExitStack() as exits:
        worker = _child(rig, "worker", ["worker", "--child"], ())
        exits.callback(stop_together, [worker])
        worker.start()
        rig.processes["worker"] = worker.pid
        if through == "api":
            (web,) = await exits.enter_async_context(web_processes(rig, 1))
            http = Http("127.0.0.1", web.port)
            rig.subject = Api(rig.stack, http, {})
            rig.processes["web"] = web.pid
            exits.push_async_callback(http.close)
        await _until_ready([worker], rig.stack.queue.workers)
        assert rig.directory
        servers = rig.directory.note().children
        rig.processes |= {title: servers[name].pid for name, title in SERVER_PROCESSES.items() if name in servers}
        yield


class Web(NamedTuple):
    """A web process and its port."""

    port: int
    pid: int


@asynccontextmanager
async def web_processes(rig: Rig, count: int) -> AsyncIterator[list[Web]]:
    """Run so many new web processes, each on a port of its own, until the block ends. They have seen nobody yet."""
    async with AsyncExitStack() as exits:
        ports, children = [], []
        for _ in range(count):
            with socket.create_server(("127.0.0.1", 0)) as listener:
                fd, port = listener.fileno(), listener.getsockname()[1]
                child = _child(rig, f"web-{port}", ["web-process", "--fd", str(fd)], (fd,))
                child.start()
            ports.append(port)
            children.append(child)
            exits.callback(stop_together, [child])
        for port in ports:
            http = Http("127.0.0.1", port)
            await _until_ready(children, partial(_answers, http))
            await http.close()
        yield [Web(port, child.pid) for port, child in zip(ports, children, strict=True)]


async def _answers(http: Http) -> bool:
    """Return whether the web process answers: it has its connections then. One that dies breaks them.

    (`/readyz` would not do: it asks for a worker, too, and some web processes here have none.)
    """
    try:
        return (await http.ask("GET", "/healthz"))[0] == HTTPStatus.OK
    except Failed:
        return False


def _environment(config: Config) -> dict[str, str]:
    """Return the variables that give children this configuration, where it differs from the environment's."""

    def text(value: Any) -> str:
        return ",".join(value) if isinstance(value, tuple) else str(value or "")

    return {f"FEEDLAB_{name.upper()}": text(getattr(config, name)) for name in OVERRIDES}


def _child(rig: Rig, name: str, arguments: list[str], pass_fds: Sequence[int]) -> Child:
    directory = rig.directory
    if directory is None:
        raise BenchRefused("stand-ins live in this process: there is no other one to measure")
    return Child(
        name,
        [*COMMAND, *arguments, "--data", str(directory.path)],
        directory.logs / f"{name}.log",
        environment=_environment(rig.stack.config),
        pass_fds=pass_fds,
        lifeline=True,
        say=say,
        gave_up=say,
        started=directory.child_started,
    )


async def _until_ready(children: Iterable[Child], ready: Callable[[], Awaitable[object]]) -> None:
    """Wait until `ready` returns something true. Raises BenchRefused when one of the processes dies instead."""
    deadline = time.monotonic() + READY_DEADLINE_S
    while True:
        if death := next(filter(None, (child.death() for child in children)), None):
            raise BenchRefused(death)
        if time.monotonic() > deadline:
            raise BenchRefused(f"the benchmark's own processes are not ready after {READY_DEADLINE_S:.0f} s")
        if await ready():
            return
        await asyncio.sleep(POLL_S)
