"""`feedlab bench faults`: the whole system as processes, broken at random under a load that checks every page."""

import asyncio
import json
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from array import array
from collections import Counter
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from random import Random
from statistics import median
from typing import Any

import click
import psutil

from app.config import Config, environment_for
from app.servers.borrow import servers_of
from app.servers.datadir import DataDirectory
from app.servers.programs import ServersError
from app.servers.replica import ReplicaSet, replica_set
from app.servers.start import say
from app.stack import connected
from benchmarks.faults_load import PASSWORD, SLUGS, Cast, Client, Load, NeverRecovered, Record, client, persist
from benchmarks.graph import Graph
from benchmarks.seed import seed

AUTHORS, READERS, STEADY = 5, 8, 3
FOLLOWERS = 250  # of every author, who never read: what fan-outs are made of
CHUNK, CAP = 100, 60  # several jobs a status; lists are soon longer than what they may keep
THINK_S = 0.8  # mean pause of everybody between two things
SHORTEST_PAUSE_S = 1.0  # how long a process is stopped, at least
ALIVE_DEADLINE_S = 40.0  # for a target to be there again
DRAIN_DEADLINE_S = 150.0  # after the last fault, until nothing is owed
WALKERS = 6  # walks at the same time
STOP_DEADLINE_S = 60.0

PROCESSES = ("web", "worker", "memcached", "redis", "mongodb")
OPERATIONS = ("post", "delete", "edge", *(f"read {slug}" for slug in SLUGS))


@dataclass(frozen=True)
class Plan:
    """`seconds`: how long the faults are spread over. `longest_pause_s`: how long a process is stopped, at most."""

    faults: int
    seconds: float
    seed: int
    longest_pause_s: float = 8.0
    aof: bool = True
    replica_set: bool = False

    def deck(self) -> list[str]:
        """The kinds of fault, each as often as it is to happen in one round."""
        kinds = [f"{how} {what}" for how in ("kill", "pause") for what in PROCESSES]
        kinds += ["flush memcached", "flush redis", "switch phases"]
        if not self.aof:
            kinds += ["kill redis"] * 3
        if self.replica_set:
            kinds = (
                [kind for kind in kinds if not kind.endswith("mongodb")] + ["kill primary"] * 6 + ["pause primary"] * 2
            )
        return kinds


@dataclass
class System:
    """A running `feedlab serve` of ours."""

    directory: DataDirectory
    url: str
    process: "subprocess.Popen[str]"
    environment: dict[str, str]
    replicas: ReplicaSet | None

    def alive(self, what: str) -> list[tuple[str, psutil.Process]]:
        """The processes of a kind that run now."""
        if what == "primary":
            assert self.replicas
            pid = self.replicas.primary()
            return [(what, psutil.Process(pid))] if pid else []
        children = self.directory.note().children.items()
        return [(name, process) for name, child in children if name.split()[0] == what and (process := child.find())]


@dataclass
class Injector:
    plan: Plan
    system: System
    client: Client
    record: Record
    random: Random
    happened: list[tuple[float, str, str]] = field(default_factory=list)  # seconds since the begin, kind, detail
    skipped: Counter[str] = field(default_factory=Counter)
    _began_s: float = field(default_factory=time.monotonic)
    _pauses: set["asyncio.Task[None]"] = field(default_factory=set)

    async def run(self) -> None:
        deck: list[str] = []
        while len(self.happened) < self.plan.faults:
            if not deck:
                deck = self.plan.deck()
                self.random.shuffle(deck)
            await asyncio.sleep(self.random.uniform(0.3, 1.7) * self.plan.seconds / self.plan.faults)
            await self._inject(deck.pop())
        await asyncio.gather(*self._pauses)

    async def _inject(self, kind: str) -> None:
        how, what = kind.split()
        match how:
            case "kill" | "pause":
                detail = await self._signal(how, what)
            case "flush":
                detail = await asyncio.to_thread(self._flush, what)
            case _:
                detail = await self._switch()
        if detail is None:
            self.skipped[kind] += 1  # it is away already
            return
        self.happened.append((round(time.monotonic() - self._began_s, 3), kind, detail))

    async def _signal(self, how: str, what: str) -> str | None:
        deadline = time.monotonic() + ALIVE_DEADLINE_S
        while not (alive := await asyncio.to_thread(self.system.alive, what)):
            if time.monotonic() > deadline:
                raise NeverRecovered(f"{what} is away for more than {ALIVE_DEADLINE_S:.0f} s")
            await asyncio.sleep(0.1)
        name, process = self.random.choice(alive)
        self.record.fault(OPERATIONS, time.monotonic())
        with suppress(psutil.NoSuchProcess):
            if how == "kill":
                process.kill()
                return f"{name} ({process.pid})"
            process.suspend()
            seconds = self.random.uniform(SHORTEST_PAUSE_S, self.plan.longest_pause_s)
            task = asyncio.create_task(_resume(process, seconds))
            self._pauses.add(task)
            task.add_done_callback(self._pauses.discard)
            return f"{name} ({process.pid}) for {seconds:.1f} s"
        return None

    def _flush(self, what: str) -> str | None:
        note = self.system.directory.note()
        address = note.redis if what == "redis" else (note.memcached or ("",))[0]
        self.record.fault(OPERATIONS, time.monotonic())
        return _say_to(str(address), b"FLUSHALL\r\n" if what == "redis" else b"flush_all\r\n")

    async def _switch(self) -> str | None:
        keeping = SLUGS[1:]
        body = {
            "read": self.random.choice(SLUGS),
            "delivering": self.random.sample(keeping, self.random.randint(0, len(keeping))),
        }
        self.record.fault(OPERATIONS, time.monotonic())
        answer = await self.client.call(ADMIN, "switch", "PUT", "/phases", 200, json=body)
        return ",".join(body["delivering"]) or "nothing" if answer is not None else None


async def _resume(process: psutil.Process, after_s: float) -> None:
    try:
        await asyncio.sleep(after_s)
    finally:
        with suppress(psutil.NoSuchProcess):
            process.resume()


def _say_to(address: str, words: bytes) -> str | None:
    """Send one line to host:port; None when nobody answers."""
    host, _, port = address.removeprefix("redis://").split("/")[0].rpartition(":")
    try:
        with socket.create_connection((host, int(port)), 2) as connection:
            connection.sendall(words)
            return connection.recv(100).decode().strip() or None
    except OSError:
        return None


def cast() -> Cast:
    handles = tuple(f"u{number}" for number in range(AUTHORS + READERS + STEADY))
    return Cast(handles[:AUTHORS], handles[AUTHORS : AUTHORS + READERS], handles[AUTHORS + READERS :])


ADMIN = cast().steady[0]


def graph() -> Graph:
    """Everybody follows every author; authors follow nobody."""
    people = len(cast().everybody) + FOLLOWERS
    followers = array("I", [person for person in range(AUTHORS, people) for _ in range(AUTHORS)])
    followees = array("I", list(range(AUTHORS)) * (people - AUTHORS))
    return Graph(tuple(str(number) for number in range(people)), followers, followees)


@contextmanager
def serving(directory: Path, plan: Plan) -> Iterator[System]:
    """`feedlab serve` with two web processes and two workers on a seeded database. Raises ServersError."""
    with ExitStack() as stack:
        replicas = stack.enter_context(replica_set(directory / "replica set")) if plan.replica_set else None
        data = directory / "data"
        variables = {"FEEDLAB_CHUNK": str(CHUNK), "FEEDLAB_CAP": str(CAP), "FEEDLAB_REDIS_AOF": str(plan.aof)}
        if replicas:
            variables["FEEDLAB_MONGODB_URL"] = replicas.url
        _fill(data, Config.from_environment(variables), plan.seed)
        environment = environment_for(variables)
        process = stack.enter_context(_process(directory, data, environment))
        assert process.stdout
        ready = process.stdout.readline()
        if not ready.startswith("ready "):
            raise ServersError(f"feedlab serve did not start; its log: {directory / 'serve.log'}")
        subprocess.run(_feedlab("admin", ADMIN, data=data), env=environment, check=True, stdout=subprocess.DEVNULL)
        subprocess.run(
            _feedlab("phases", "--deliver", ",".join(SLUGS[1:]), data=data),
            env=environment,
            check=True,
            stdout=subprocess.DEVNULL,
        )
        yield System(DataDirectory(data), ready.split()[1], process, environment, replicas)


def _fill(data: Path, config: Config, number: int) -> None:
    async def fill() -> None:
        async with connected(addresses, config) as stack:
            await seed(stack, graph(), statuses=0, days=1, seed=number, password=PASSWORD, reset=False)

    with servers_of(data, config, "servers", purpose="feedlab bench faults") as addresses:
        asyncio.run(fill())


def _feedlab(*arguments: str, data: Path) -> list[str]:
    return [sys.executable, "-m", "app.cli", *arguments, "--data", str(data)]


@contextmanager
def _process(directory: Path, data: Path, environment: dict[str, str]) -> Iterator["subprocess.Popen[str]"]:
    arguments = ("serve", "--stack", "servers", "--port", "0", "--web", "2", "--workers", "2")
    with (directory / "serve.log").open("w") as log:
        process = subprocess.Popen(
            _feedlab(*arguments, data=data), env=environment, stdout=subprocess.PIPE, stderr=log, text=True
        )
    try:
        yield process
    finally:
        process.send_signal(signal.SIGTERM)
        try:
            process.communicate(timeout=STOP_DEADLINE_S)
        except subprocess.TimeoutExpired:
            process.kill()
            process.communicate()


@dataclass
class Result:
    plan: Plan
    record: Record
    injector: Injector
    drain_s: float = 0.0
    owed: dict[str, int] = field(default_factory=dict)  # deliveries still pending at the end
    dead_letters: str = ""
    gave_up: str = ""
    exit_code: int | None = None  # of `feedlab serve`, should it have ended by itself
    elapsed_s: float = 0.0

    def count(self, kind: str) -> int:
        return sum(violation.kind == kind for violation in self.record.violations)

    @property
    def good(self) -> bool:
        failures = (self.record.violations, self.record.unclean, self.owed, self.dead_letters, self.gave_up)
        return not any(failures) and self.exit_code is None and self._recovered

    @property
    def _recovered(self) -> bool:
        return not any(self.record.unrecovered().values())

    def as_json(self) -> dict[str, Any]:
        record = self.record
        return {
            "faults": len(self.injector.happened),
            "faults_by_kind": dict(Counter(kind for _, kind, _ in self.injector.happened)),
            "skipped": dict(self.injector.skipped),
            "seed": self.plan.seed,
            "aof": self.plan.aof,
            "replica_set": self.plan.replica_set,
            "elapsed_s": round(self.elapsed_s, 1),
            "requests": record.requests,
            "pages_checked": record.reads,
            "posts_acknowledged": record.acknowledged,
            "posts_replayed": record.replays,
            "missing": self.count("missing"),
            "wrong": self.count("wrong"),
            "doubled": self.count("doubled"),
            "errors": dict(record.errors),
            "unclean": record.unclean,
            "slowest_answer_s": round(record.slowest_s, 2),
            "recovery_s": {
                kind: {"p50": round(median(times), 3), "max": round(max(times), 3)}
                for kind, times in sorted(record.recovery_s.items())
                if kind in OPERATIONS
            },
            "never_recovered": record.unrecovered(),
            "drain_s": round(self.drain_s, 1),
            "owed": self.owed,
            "dead_letters": self.dead_letters,
            "gave_up": self.gave_up,
            "serve_ended_with": self.exit_code,
            "violations": [vars(violation) for violation in record.violations[:100]],
            "happened": self.injector.happened,
        }

    def lines(self) -> Iterator[str]:
        found = self.as_json()
        yield f"{found['faults']} faults in {found['elapsed_s']} s, seed {self.plan.seed}"
        for kind, number in sorted(found["faults_by_kind"].items()):
            yield f"  {number:4}  {kind}"
        yield f"{found['requests']:,} requests, {found['pages_checked']:,} pages checked"
        yield f"{found['posts_acknowledged']:,} posts acknowledged, {found['posts_replayed']:,} tries repeated"
        yield f"missing {found['missing']}, wrong {found['wrong']}, doubled {found['doubled']}"
        clean = ", ".join(f"{kind}: {number}" for kind, number in sorted(found["errors"].items()))
        yield f"clean errors: {clean or 'none'}; unclean: {len(self.record.unclean)}"
        yield f"slowest answer {found['slowest_answer_s']} s; nothing owed {found['drain_s']} s after the last fault"
        yield "time from a fault to the first success, seconds     p50      max"
        for kind, times in found["recovery_s"].items():
            yield f"  {kind:48}{times['p50']:7.3f}  {times['max']:7.3f}"
        yield from self._failures()

    def _failures(self) -> Iterator[str]:
        for violation in self.record.violations[:20]:
            yield f"{violation.kind}: {violation.reader}, {violation.where}: {violation.what}"
        for problem in self.record.unclean[:20]:
            yield f"unclean: {problem}"
        if self.owed:
            yield f"still owed: {self.owed}"
        if self.dead_letters:
            yield f"dead letters: {self.dead_letters}"
        if self.gave_up:
            yield f"given up: {self.gave_up}"
        if self.exit_code is not None:
            yield f"feedlab serve ended with {self.exit_code}"
        for kind, waiting in self.record.unrecovered().items():
            if waiting:
                yield f"never worked again: {kind}"


def run(plan: Plan, *, as_json: bool) -> int:
    """0 when nothing was missing, wrong or doubled and every error was clean; else 1, and the logs are kept."""
    directory = Path(tempfile.mkdtemp(prefix="feedlab-faults-"))
    result: Result | None = None
    try:
        with serving(directory, plan) as system:
            say(f"breaking what runs at {system.url} {plan.faults} times")
            result = asyncio.run(_observe(system, plan))
            result.exit_code = system.process.poll()
    finally:
        if result and result.good:
            shutil.rmtree(directory)
        else:
            say(f"logs are kept in {directory}")
    for line in [json.dumps(result.as_json(), indent=1)] if as_json else result.lines():
        click.echo(line)
    return 0 if result.good else 1


async def _observe(system: System, plan: Plan) -> Result:
    record = Record()
    began_s = time.monotonic()
    async with client(system.url, record) as http:
        load = Load(http, cast(), plan.seed, THINK_S)
        injector = Injector(plan, system, http, record, Random(plan.seed))
        result = Result(plan, record, injector)
        try:
            await load.prepare()
            await _break_under(load, injector)
            async with asyncio.TaskGroup() as tasks:
                tasks.create_task(_drained(http, result))
                tasks.create_task(_walk_everything(load))  # whatever is still owed
            await _walk_everything(load)
        except* NeverRecovered as errors:
            result.gave_up = "; ".join(str(error) for error in errors.exceptions)
        result.elapsed_s = time.monotonic() - began_s
    listed = await asyncio.to_thread(_dead_letters, system.directory.path, system.environment)
    result.dead_letters = "" if listed == "no dead letters" else listed
    return result


async def _break_under(load: Load, injector: Injector) -> None:
    async with asyncio.TaskGroup() as tasks:
        tasks.create_task(load.run())
        await asyncio.sleep(2 * THINK_S)
        await injector.run()
        await _everything_works(load)
        load.stop.set()


async def _everything_works(load: Load) -> None:
    """Until every kind of operation has succeeded after every fault."""

    async def attempt() -> bool:
        return not any(load.record.unrecovered().values())

    await persist(attempt)


async def _walk_everything(load: Load) -> None:
    limit = asyncio.Semaphore(WALKERS)

    async def walk(reader: str, slug: str) -> None:
        async with limit:
            await load.walk(reader, slug)

    async with asyncio.TaskGroup() as tasks:
        for reader in load.cast.everybody:
            for slug in SLUGS:
                tasks.create_task(walk(reader, slug))


async def _drained(http: Client, result: Result) -> None:
    """Wait until no phase owes a delivery."""
    began_s = time.monotonic()
    while time.monotonic() < began_s + DRAIN_DEADLINE_S:
        answer = await http.call(ADMIN, "phases", "GET", "/phases", 200)
        if answer is not None:
            owed = {phase["slug"]: phase["pending"] for phase in answer.json()["phases"] if phase["pending"]}
            result.owed, result.drain_s = owed, time.monotonic() - began_s
            if not owed:
                return
        await asyncio.sleep(0.5)


def _dead_letters(data: Path, environment: dict[str, str]) -> str:
    command = _feedlab("deliveries", "--failed", data=data)
    listed = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    return (listed.stdout or listed.stderr).strip()
