"""A system of the benchmark's own: servers in a temporary directory, a scratch database, a worker, a web process."""

import asyncio
import socket
import sys
import tempfile
import time
from collections.abc import AsyncIterator, Iterable, Iterator, Sequence
from contextlib import AsyncExitStack, asynccontextmanager, contextmanager
from dataclasses import dataclass, field
from datetime import timedelta
from http import HTTPStatus
from pathlib import Path
from typing import Any

import psutil
from bson import ObjectId

from app.config import Config
from app.demo.graph import Graph
from app.demo.seed import World, insert
from app.edges import VERSIONS
from app.errors import Refused
from app.models import ActiveReader, CircleMember, Follow, Status, User
from app.servers.borrow import servers_of
from app.servers.children import Child, stop_together
from app.servers.datadir import DataDirectory
from app.servers.programs import Level, resolve
from app.servers.start import say
from app.stack import Addresses, Stack, connected
from benchmarks import answers
from benchmarks.oracle import Oracle
from benchmarks.subject import Api, Http, InProcess, Subject
from phases.keeping.activity import ACTIVE
from phases.timelines import Timelines
from workers.worker import run_in_thread

OVERRIDES: dict[str, Any] = {
    "mongodb_url": None,  # never somebody's servers: queues are emptied and Memcached is filled
    "redis_url": None,
    "memcached": (),
    "database": "feedlab_bench",
    "demo": False,
    **dict.fromkeys(("writes_per_minute", "sign_ins_per_minute", "sign_ups_per_minute"), 1_000_000),
}
CHILD_ENVIRONMENT = {f"FEEDLAB_{name.upper()}": str(value or "") for name, value in OVERRIDES.items()}
COMMAND = (sys.executable, "-m", "app.cli")
READY_DEADLINE_S = 60.0
POLL_S = 0.02
HISTORY_DAYS = 30
BATCH = 5_000
ACTIVE_FOR = timedelta(days=30)
AT_ONCE = 8  # reads under way while readers are warmed
USED_READS = 100  # made before anything counts, even where nothing is kept
SERVER_PROCESSES = {"mongodb": "mongod", "redis": "redis", "memcached": "memcached"}


class BenchRefused(Refused):
    """Nothing was measured; the text says why and what to do."""


@dataclass
class Rig:
    """A running system. `processes`: pids by role, for the processor time."""

    stack: Stack
    timelines: Timelines
    subject: Subject
    processes: dict[str, int]
    meaningless: bool
    record: Oracle[ObjectId] = field(default_factory=Oracle)
    ids: list[ObjectId] = field(default_factory=list)
    readers: set[ObjectId] = field(default_factory=set)

    async def load(self, graph: Graph, seed: int, history: float, readers: Sequence[int]) -> None:
        """People, edges and `history` statuses per person, from before the run. The readers have been here lately."""
        world = World(graph, seed, self.stack.clock.now(), HISTORY_DAYS)
        follows, circles = list(world.follows()), list(world.circles())
        statuses = list(world.statuses(round(history * len(graph.people))))
        self.record, self.ids = Oracle.of(follows=follows, circles=circles, statuses=statuses), world.ids
        self.readers = {world.ids[reader] for reader in readers}
        await insert(self.stack, User, world.users(None), len(self.ids))
        await insert(self.stack, Follow, follows, len(follows))
        await insert(self.stack, CircleMember, circles, len(circles))
        await insert(self.stack, Status, statuses, len(statuses))
        await self.away(long=False)
        if isinstance(self.subject, Api):
            self.subject.handles.update(zip(world.ids, world.handles, strict=True))
            await self.subject.enter(self.ids)

    async def switch(self, slug: str) -> None:
        """This phase alone delivers, it has forgotten everything, and its grace is over."""
        await answers.deliver_only(self.timelines, [slug], read=slug, anew=True)

    async def warm(self, slug: str, limit: int) -> None:
        """What the phase keeps is there for all its readers; connections and the web process have been used."""
        waiting = iter(sorted(self.readers) if self.timelines.phases[slug].store else ())

        async def client() -> None:
            for reader in waiting:
                await self.timelines.page(reader, phase=slug, limit=limit)

        await asyncio.gather(*(client() for _ in range(AT_ONCE)))
        for reader in sorted(self.readers)[:USED_READS]:
            await self.subject.page(reader, slug, None, limit)

    async def forget(self, slug: str) -> None:
        """What the phase keeps in Memcached has expired."""
        if answers.in_memory(self.timelines.phases[slug]):
            await answers.forget(self.timelines, slug, sorted(self.readers))

    async def away(self, *, long: bool) -> None:
        """The readers have been away for long, or they have been here lately."""
        await self.stack.db[ACTIVE].delete_many({})
        if not long:
            until = self.stack.clock.now() + ACTIVE_FOR
            following: dict[ObjectId, list[ObjectId]] = {reader: [] for reader in self.readers}
            for reader, followee in sorted(self.record.follows):
                if reader in following:
                    following[reader].append(followee)
            active = [{"_id": reader, "until": until, "authors": of} for reader, of in following.items()]
            await insert(self.stack, ActiveReader, active, len(active))

    async def restore(self, now: Oracle[ObjectId], posted: Sequence[ObjectId]) -> None:
        """Undo a run: the database is again what `load` made of it."""
        db = self.stack.db
        for at in range(0, len(posted), BATCH):
            await db["statuses"].delete_many({"_id": {"$in": posted[at : at + BATCH]}})
        before, after = self.record.follows, now.follows
        for reader, followee in after - before:
            await db["follows"].delete_one({"follower": reader, "followee": followee})
        lost = [{"_id": ObjectId(), "follower": reader, "followee": followee} for reader, followee in before - after]
        await insert(self.stack, Follow, lost, len(lost))
        await self.away(long=False)
        await db["blocks"].delete_many({})
        await db[VERSIONS].update_many({}, {"$inc": {"version": 1}})  # nobody goes by what they remember of the run


@contextmanager
def servers(level: Level, allow_standins: bool) -> Iterator[tuple[Addresses, Path, Config]]:
    """Servers of our own until the block ends. Raises BenchRefused, ServersError."""
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
    """The system on these servers: with a worker, and for `through` "api" with a web process."""
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
            await exits.enter_async_context(_with_children(made, DataDirectory(directory), through))
        yield made


@asynccontextmanager
async def _with_children(rig: Rig, directory: DataDirectory, through: str) -> AsyncIterator[None]:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        children = {"worker": _child("worker", directory, ["worker", "--child"], ())}
        http = None
        if through == "api":
            fd = listener.fileno()
            children["web"] = _child("web", directory, ["web-process", "--fd", str(fd)], (fd,))
            http = Http("127.0.0.1", listener.getsockname()[1])
            rig.subject = Api(rig.stack, http, {})
        try:
            for child in children.values():
                child.start()
            await _until_ready(rig, children.values(), http)
            rig.processes |= {name: child.pid for name, child in children.items()}
            servers = directory.note().children
            rig.processes |= {title: servers[name].pid for name, title in SERVER_PROCESSES.items() if name in servers}
            yield
            if http:
                await http.close()
        finally:
            stop_together(children.values())


def _child(name: str, directory: DataDirectory, arguments: list[str], pass_fds: Sequence[int]) -> Child:
    return Child(
        name,
        [*COMMAND, *arguments, "--data", str(directory.path)],
        directory.logs / f"{name}.log",
        environment=CHILD_ENVIRONMENT,
        pass_fds=pass_fds,
        lifeline=True,
        say=say,
        gave_up=say,
        started=directory.child_started,
    )


async def _until_ready(rig: Rig, children: Iterable[Child], http: Http | None) -> None:
    """The worker takes jobs, and the web process answers. Raises BenchRefused when one of them dies instead."""
    deadline = time.monotonic() + READY_DEADLINE_S
    while True:
        if death := next(filter(None, (child.death() for child in children)), None):
            raise BenchRefused(death)
        if time.monotonic() > deadline:
            raise BenchRefused(f"the benchmark's own processes are not ready after {READY_DEADLINE_S:.0f} s")
        working = await asyncio.to_thread(rig.stack.queue.connection.scard, "rq:workers")
        answering = http is None or (await http.ask("GET", "/readyz"))[0] == HTTPStatus.OK
        if working and answering:
            return
        await asyncio.sleep(POLL_S)
