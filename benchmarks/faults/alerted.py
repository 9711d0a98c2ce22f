"""`feedlab bench faults --alerts`: each alert is provoked once by a real fault.

The time until it fires is measured, under a real Prometheus whose rules are sixty times as fast.
"""

import asyncio
import json
import shutil
import socket
import subprocess
import time
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import AbstractAsyncContextManager, asynccontextmanager, contextmanager, suppress
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import click
import httpx
import psutil
from bson import ObjectId

from app.models import SETTINGS
from app.servers.programs import ServersError
from app.servers.start import say
from app.stack.mongodb.whole import BACKUP
from app.watch.background import beside
from app.watch.rules import JOBS, Alert, Scale, alerts, written
from benchmarks.faults.client import PASSWORD
from benchmarks.faults.outcome import Plan
from benchmarks.faults.system import CAST, System, logs_of, serving

FASTER = 60
HERE = "127.0.0.1"
CALLS_EVERY_S = 0.25  # whatever has become of the calls before
QUIET_S = 20.0  # of that load, before the first fault
DEADLINE_S = 240.0  # until all alerts about a fault fire
ENDED_S = 60.0  # until they end, after it
POLL_S = 0.2
FLOODERS, PIPELINED = 8, 20
LITTLE_MORE = 1.05  # times what a process has
WHO_DEPARTED = ObjectId("0" * 24)
OLD_BACKUP = timedelta(days=4)
UNREADABLE = 101  # events; the page is for more than 100


def _key(alert: Alert) -> str:
    return " ".join([alert.name, alert.severity, alert.objective or ""]).strip()


@dataclass
class Watched:
    """A system with its Prometheus.

    `noticed_s`: for each alert that fired, its fault and the seconds from that fault's begin.
    """

    system: System
    prometheus: httpx.AsyncClient
    noticed_s: dict[str, tuple[str, float]] = field(default_factory=dict)

    async def firing(self) -> set[str]:
        answer = (await self.prometheus.get("/api/v1/alerts")).json()["data"]["alerts"]
        labels = [alert["labels"] for alert in answer if alert["state"] == "firing"]
        firing = {" ".join([of["alertname"], of["severity"], of.get("objective", "")]).strip() for of in labels}
        return {key for key in firing if key.split()[1] != "none"}  # that always fires


Fault = Callable[[Watched], AbstractAsyncContextManager[None]]


def _suspended(kind: str) -> Fault:
    @asynccontextmanager
    async def suspended(watched: Watched) -> AsyncIterator[None]:
        with watched.system.suspended(kind):
            yield

    return suspended


@asynccontextmanager
async def flooded(watched: Watched) -> AsyncIterator[None]:
    """Flood the web process with calls that cost it much and their sender little: many at once, and each is refused."""
    host, _, port = watched.system.url.removeprefix("http://").rpartition(":")
    calls = b"GET /api/v1/me HTTP/1.1\r\nHost: localhost\r\n\r\n" * PIPELINED

    async def flood() -> None:
        reader, writer = await asyncio.open_connection(host, int(port))
        try:
            while True:
                writer.write(calls)
                answers = b""
                while answers.count(b"HTTP/1.1 401") < PIPELINED:
                    answers += await reader.read(65_536)
        finally:
            writer.close()

    async with beside(*(flood() for _ in range(FLOODERS))):
        yield


@asynccontextmanager
async def cramped(watched: Watched) -> AsyncIterator[None]:
    """Allow a web process hardly more memory and descriptors than it has, as a leak does in the end."""
    [(_, process)] = watched.system.alive("web")
    has = {psutil.RLIMIT_RSS: process.memory_info().rss, psutil.RLIMIT_NOFILE: process.num_fds()}
    before = {limit: process.rlimit(limit) for limit in has}
    for limit, number in has.items():
        process.rlimit(limit, (int(number * LITTLE_MORE), before[limit][1]))
    try:
        yield
    finally:
        for limit, both in before.items():
            process.rlimit(limit, both)


@asynccontextmanager
async def unreadable(watched: Watched) -> AsyncIterator[None]:
    """Insert events without fields that are needed to handle them: each job fails six times, and is a dead letter."""

    def insert() -> None:
        with watched.system.mongodb() as db:
            db["events"].insert_many(
                {"_id": ObjectId(), "kind": "follow", "pending": ["notifications"]} for _ in range(UNREADABLE)
            )

    await asyncio.to_thread(insert)
    yield


@asynccontextmanager
async def unclearable(watched: Watched) -> AsyncIterator[None]:
    """Insert a departed account without the time of it, so that clearing away what is left of it fails."""

    def change(verb: str) -> None:
        with watched.system.mongodb() as db:
            getattr(db["departures"], verb)({"_id": WHO_DEPARTED})

    await asyncio.to_thread(change, "insert_one")
    try:
        yield
    finally:
        await asyncio.to_thread(change, "delete_one")


@asynccontextmanager
async def unsaved(watched: Watched) -> AsyncIterator[None]:
    """Let the last backup have been made longer ago than anybody may leave it."""

    def note(verb: str, *change: object) -> None:
        with watched.system.mongodb() as db:
            getattr(db[SETTINGS], verb)({"_id": BACKUP}, *change)

    ago = datetime.now(UTC) - OLD_BACKUP
    await asyncio.to_thread(note, "replace_one", {"at": ago}, True)
    try:
        yield
    finally:
        await asyncio.to_thread(note, "delete_one")


FAULTS: tuple[tuple[str, Fault, tuple[str, ...]], ...] = (
    ("MongoDB is stopped", _suspended("mongodb"), ("FeedlabServerDown", "FeedlabAvailability", "FeedlabLatency")),
    (
        "all workers are stopped",
        _suspended("worker"),
        ("FeedlabProcessDown", "FeedlabStreamTokenOld", "FeedlabDeliveryLate"),
    ),
    ("one address floods", flooded, ("FeedlabCallVolume", "FeedlabCompute")),
    ("a web process comes near to its limits", cramped, ("FeedlabMemory", "FeedlabFileDescriptors")),
    ("a departure that nobody can clear", unclearable, ("FeedlabBackgroundErrors",)),
    (f"the last backup is {OLD_BACKUP.days} days old", unsaved, ("FeedlabBackupOld",)),
    (f"{UNREADABLE} events that nobody can read", unreadable, ("FeedlabDeadLetters",)),
)


def run(*, as_json: bool) -> int:
    """Provoke the alerts. Return 0 when every one has fired. Raises ServersError without Prometheus."""
    program = shutil.which("prometheus")
    if program is None:
        raise ServersError("Prometheus is missing: apt install prometheus")
    noticed = dict[str, tuple[str, float]]()
    wanted = [_key(alert) for alert in alerts(Scale(FASTER))]
    *metrics, port = free_ports(3)
    settings = {"FEEDLAB_METRICS": f"{HERE}:{metrics[0]}"}
    with (
        logs_of("alerts", lambda: set(noticed) >= set(wanted)) as directory,
        serving(directory, Plan(0, 0, 1), more=settings, web=1, workers=1) as system,
        _prometheus(program, directory, port, metrics),
    ):
        say(f"provoking {len(wanted)} alerts at {system.url}, rules {FASTER} times as fast")
        noticed = asyncio.run(_provoked(system, f"http://{HERE}:{port}"))
    report = {alert: noticed.get(alert, ("", None)) for alert in wanted}
    if as_json:
        click.echo(json.dumps({alert: {"fault": fault, "noticed_s": s} for alert, (fault, s) in report.items()}))
    else:
        for alert, (fault, seconds) in report.items():
            click.echo(f"{alert:40} " + (f"{seconds:6.1f} s after: {fault}" if seconds is not None else "never fired"))
    return 0 if set(noticed) >= set(wanted) else 1


async def _provoked(system: System, prometheus: str) -> dict[str, tuple[str, float]]:
    async with httpx.AsyncClient(base_url=prometheus, trust_env=False, timeout=30) as client:
        watched = Watched(system, client)
        load = asyncio.create_task(_load(system))
        try:
            await asyncio.sleep(QUIET_S)
            if early := await watched.firing():
                say(f"fires though nothing is wrong: {', '.join(sorted(early))}")
            for name, fault, about in FAULTS:
                await _provoke(watched, name, fault, about)
        finally:
            load.cancel()
            await asyncio.gather(load, return_exceptions=True)
    return watched.noticed_s


async def _provoke(watched: Watched, name: str, fault: Fault, about: tuple[str, ...]) -> None:
    missing = {key for alert in alerts(Scale(FASTER)) if alert.name in about for key in [_key(alert)]}
    say(name)
    async with fault(watched):
        began_s = time.monotonic()
        while missing and time.monotonic() < began_s + DEADLINE_S:
            for alert in sorted(missing & await watched.firing()):
                watched.noticed_s[alert] = (name, time.monotonic() - began_s)
                missing.discard(alert)
            await asyncio.sleep(POLL_S)
    for alert in sorted(missing):
        say(f"did not fire within {DEADLINE_S:.0f} s: {alert}")
    with suppress(TimeoutError):  # the next fault may be noticed all the same
        async with asyncio.timeout(ENDED_S):
            while True:
                if not any(alert.split()[1] == "page" for alert in await watched.firing()):
                    return
                await asyncio.sleep(POLL_S)


async def _load(system: System) -> None:
    """Ask for a page every quarter of a second, and post every second, however long the answers take."""
    reader, author = CAST.steady[0], CAST.authors[0]
    async with (
        httpx.AsyncClient(base_url=f"{system.url}/api/v1", trust_env=False, timeout=30) as http,
        _tasks() as begin,
    ):
        tokens = {}
        for who in (reader, author):
            answer = await http.post("/tokens", json={"handle": who, "password": PASSWORD})
            tokens[who] = {"Authorization": f"Bearer {answer.json()['token']}"}

        async def call(method: str, path: str, who: str, **more: Any) -> None:
            with suppress(httpx.HTTPError):  # what fails is in the metrics of who is called
                await http.request(method, path, headers=tokens[who], **more)

        number = 0
        while True:
            begin(call("GET", "/timeline", reader, params={"phase": "cache"}))
            if number % 4 == 0:
                begin(call("POST", "/statuses", author, json={"text": f"status {number}"}))
            number += 1
            await asyncio.sleep(CALLS_EVERY_S)


@asynccontextmanager
async def _tasks() -> AsyncIterator[Callable[[Any], None]]:
    """Yield a function that begins work without waiting for it; what still runs is cancelled when the block ends."""
    running = set[asyncio.Task[None]]()

    def begin(work: Any) -> None:
        task = asyncio.create_task(work)
        running.add(task)
        task.add_done_callback(running.discard)

    try:
        yield begin
    finally:
        for task in tuple(running):
            task.cancel()
        await asyncio.gather(*running, return_exceptions=True)


@contextmanager
def _prometheus(program: str, directory: Path, port: int, metrics: list[int]) -> Iterator[None]:
    """Run a Prometheus that asks a web process and a worker every second."""
    (directory / "rules.yml").write_text(written(Scale(FASTER)), encoding="utf-8")
    jobs = [
        {"job_name": job, "static_configs": [{"targets": [f"{HERE}:{target}"]}]}
        for job, target in zip(JOBS, metrics, strict=True)
    ]
    every = {"scrape_interval": "1s", "scrape_timeout": "1s", "evaluation_interval": "1s"}
    config = directory / "prometheus.yml"
    said = json.dumps({"global": every, "rule_files": ["rules.yml"], "scrape_configs": jobs})
    config.write_text(said, encoding="utf-8")
    with (directory / "prometheus.log").open("w", encoding="utf-8") as log:
        process = subprocess.Popen(
            [
                program,
                f"--config.file={config}",
                f"--storage.tsdb.path={directory / 'prometheus'}",
                f"--web.listen-address={HERE}:{port}",
            ],
            stdout=log,
            stderr=log,
        )
        try:
            _wait_until_it_answers(port)
            yield
        finally:
            process.terminate()
            process.wait(30)


def _wait_until_it_answers(port: int) -> None:
    until_s = time.monotonic() + 30
    while True:
        with suppress(OSError), socket.create_connection((HERE, port), 1):
            return
        if time.monotonic() > until_s:
            raise ServersError("Prometheus does not answer")
        time.sleep(POLL_S)


def free_ports(count: int) -> list[int]:
    """Return so many free ports in a row."""
    while True:
        with suppress(OSError), socket.create_server((HERE, 0)) as first:
            port: int = first.getsockname()[1]
            for further in range(port + 1, port + count):
                socket.create_server((HERE, further)).close()
            return list(range(port, port + count))
