"""The whole system as processes: `feedlab serve` on real servers, killed, flushed and switched under load."""

import asyncio
import json
import os
import re
import signal
import subprocess
import sys
import time
from array import array
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import psutil
import pytest
from prometheus_client.parser import text_string_to_metric_families
from redis import Redis

from app.config import Config
from app.demo.graph import Graph
from app.demo.seed import seed
from app.servers.borrow import servers_of
from app.stack import connected
from benchmarks.faults.alerted import free_ports
from tests.conftest import real_servers
from tests.world import KEEPING, SLUGS

pytestmark = [pytest.mark.anyio, pytest.mark.servers]

FOLLOWERS = 4_000
PASSWORD = "sesame open"  # of seeded people in a temporary directory
DEADLINE_S = 90.0
POLL_S = 0.1


def star(followers: int) -> Graph:
    """Everybody follows u0."""
    people = tuple(str(n) for n in range(followers + 1))
    return Graph(people, array("I", range(1, followers + 1)), array("I", bytes(4 * followers)))


@dataclass
class System:
    data: Path
    url: str
    process: "subprocess.Popen[str]"
    metrics: int  # the port of the web process; the worker has the next one

    def note(self) -> dict[str, Any]:
        return dict(json.loads((self.data / "servers.json").read_text()))

    def child(self, name: str) -> psutil.Process:
        return psutil.Process(self.note()["children"][name]["pid"])

    def feedlab(self, *arguments: str) -> str:
        command = [sys.executable, "-m", "app.cli", *arguments, "--data", str(self.data)]
        return subprocess.run(command, capture_output=True, text=True, check=True, timeout=60).stdout


DEPLOY = Path(__file__).parents[1] / "deploy"
NAMING_METRICS = [
    DEPLOY / "prometheus" / "feedlab.rules.yml",
    DEPLOY / "grafana" / "feedlab.json",
    DEPLOY.parent / "docs" / "operations.md",
]


@pytest.fixture(scope="module")
def system(tmp_path_factory: pytest.TempPathFactory) -> Iterator[System]:
    """A celebrity with 4,000 followers, every phase delivering in chunks of 100, one web process and one worker,
    started where something else is called `app`.
    """
    elsewhere = tmp_path_factory.mktemp("elsewhere")
    (elsewhere / "app").mkdir()
    (elsewhere / "app" / "__init__.py").write_text("raise SystemExit('this is not Feedlab')\n")
    data = tmp_path_factory.mktemp("a system") / "data of it"
    config = Config()
    with real_servers(), servers_of(data, config, "servers", purpose="tests") as addresses:

        async def fill() -> None:
            async with connected(addresses, config) as stack:
                await seed(stack, star(FOLLOWERS), statuses=200, days=2, seed=1, password=PASSWORD, reset=False)

        asyncio.run(fill())
    metrics, _ = free_ports(2)
    process = subprocess.Popen(
        [sys.executable, "-P", "-m", "app.cli", "serve", "--port", "0", "--workers", "1", "--data", str(data)],
        cwd=elsewhere,
        env=os.environ | {"FEEDLAB_CHUNK": "100", "FEEDLAB_METRICS": f"127.0.0.1:{metrics}"},
        stdout=subprocess.PIPE,
        text=True,
    )
    try:
        assert process.stdout
        ready = process.stdout.readline()
        assert ready.startswith("ready http://"), ready
        running = System(data, ready.split()[1], process, metrics)
        running.feedlab("phases", "--deliver", ",".join(KEEPING))
        running.feedlab("admin", "u1")
        yield running
    finally:
        process.send_signal(signal.SIGTERM)
        process.communicate(timeout=60)


class Client:
    """Signed-in people, by handle."""

    def __init__(self, http: httpx.AsyncClient) -> None:
        self.http = http
        self._tokens: dict[str, str] = {}

    async def call(self, handle: str, method: str, path: str, **options: Any) -> httpx.Response:
        if handle not in self._tokens:
            answer = await self.http.post("/tokens", json={"handle": handle, "password": PASSWORD})
            self._tokens[handle] = answer.json()["token"]
        headers = {"Authorization": f"Bearer {self._tokens[handle]}"}
        return await self.http.request(method, path, headers=headers, **options)

    async def post(self, handle: str, text: str) -> str:
        """The id of the acknowledged status."""
        answer = await self.call(handle, "POST", "/statuses", json={"text": text})
        assert answer.status_code == 201, answer.text
        return str(answer.json()["id"])

    async def page(self, handle: str, phase: str, limit: int = 20) -> tuple[list[str], str]:
        answer = await self.call(handle, "GET", "/timeline", params={"phase": phase, "limit": limit})
        assert answer.status_code == 200, answer.text
        page = answer.json()
        return [status["id"] for status in page["statuses"]], page["cost"]["source"]

    async def owed(self) -> int:
        return sum(phase["pending"] for phase in (await self.call("u1", "GET", "/phases")).json()["phases"])


@asynccontextmanager
async def client(system: System) -> AsyncIterator[Client]:
    async with httpx.AsyncClient(base_url=f"{system.url}/api/v1", timeout=30) as http:
        yield Client(http)


async def until(what: Callable[[], Awaitable[bool]]) -> None:
    deadline = time.monotonic() + DEADLINE_S
    while not await what():
        assert time.monotonic() < deadline, "it never happened"
        await asyncio.sleep(POLL_S)


READERS = ("u1", "u1999", "u2500", "u4000")  # first, last and in the middle of the fan-out


async def everybody_sees(someone: Client, statuses: list[str]) -> None:
    for reader in READERS:
        for phase in SLUGS:
            ids, _ = await someone.page(reader, phase, limit=len(statuses))
            assert ids == statuses, (reader, phase)


async def nothing_owed(someone: Client) -> None:
    await until(lambda: _is_zero(someone.owed()))


async def _is_zero(number: Awaitable[int]) -> bool:
    return await number == 0


async def test_every_process_is_a_target_of_its_own(system: System) -> None:
    async with client(system) as someone, httpx.AsyncClient() as prometheus:

        async def scraped(port: int) -> str:
            answer = await prometheus.get(f"http://127.0.0.1:{port}/metrics")
            assert answer.headers["content-type"].startswith("text/plain; version=")
            return answer.text

        await someone.post("u1999", "to nobody")
        await someone.page("u1999", "cache")

        async def delivered() -> bool:
            return 'feedlab_delivery_lag_seconds_count{consumer="cache"}' in await scraped(system.metrics + 1)

        await until(delivered)
        web, worker = await scraped(system.metrics), await scraped(system.metrics + 1)
        assert re.search(r"^feedlab_posts_total [1-9]", web, re.MULTILINE)
        assert "feedlab_posts_total 0.0" in worker
        processes = [psutil.Process(system.note()["children"][name]["pid"]) for name in ("web 1", "worker 1")]
        for text, process in zip((web, worker), processes, strict=True):
            [began] = re.findall(r"^process_start_time_seconds (\S+)$", text, re.MULTILINE)
            assert abs(float(began) - process.create_time()) < 1
            assert re.search(r"^feedlab_event_loop_lag_seconds_count [1-9]", text, re.MULTILINE)
            assert 'feedlab_server_up{server="mongodb"} 1.0' in text

        async def is_told() -> bool:
            """What is sampled takes its time."""
            texts = [await scraped(system.metrics + n) for n in (0, 1)]
            families = [family for text in texts for family in text_string_to_metric_families(text)]
            told = {name for family in families for name in (family.name, *(sample.name for sample in family.samples))}
            untold.update({file.name: named - told for file, named in names.items()})
            return not any(untold.values())

        untold = dict[str, set[str]]()
        names = {file: set(re.findall(r"\b(?:feedlab|process)_\w+", file.read_text())) for file in NAMING_METRICS}
        assert all(names.values())
        try:
            await until(is_told)
        finally:
            assert not any(untold.values()), untold


async def test_a_worker_killed_in_the_middle_of_a_fan_out(system: System) -> None:
    async with client(system) as someone:
        await asyncio.gather(*(someone.page(reader, phase) for reader in READERS for phase in SLUGS))
        worker = system.child("worker 1")
        status = await someone.post("u0", "to all 4,000")
        os.kill(worker.pid, signal.SIGKILL)
        assert await someone.owed() > 0
        await everybody_sees(someone, [status])
        await nothing_owed(someone)
        await everybody_sees(someone, [status])
        assert [(await someone.page("u4000", phase, 1))[1] for phase in KEEPING] == ["list"] * len(KEEPING)
        assert system.child("worker 1").pid != worker.pid


async def test_memcached_killed(system: System) -> None:
    async with client(system) as someone:
        status = await someone.post("u0", "before")
        os.kill(system.child("memcached").pid, signal.SIGKILL)
        await everybody_sees(someone, [status])
        after = await someone.post("u0", "after")
        await everybody_sees(someone, [after, status])
        await nothing_owed(someone)
        await everybody_sees(someone, [after, status])
        await until(lambda: _is_list(someone))


async def _is_list(someone: Client) -> bool:
    return (await someone.page("u2500", "cache"))[1] == "list"


async def test_redis_flushed_while_it_holds_the_queue(system: System) -> None:
    async with client(system) as someone:
        worker = system.child("worker 1")
        worker.suspend()
        try:
            status = await someone.post("u0", "queued")
            with Redis.from_url(system.note()["redis"]) as redis:
                redis.flushall()
        finally:
            worker.resume()
        await everybody_sees(someone, [status])
        await nothing_owed(someone)
        await everybody_sees(someone, [status])


async def test_mongod_and_the_web_process_killed(system: System) -> None:
    async with client(system) as someone:
        status = await someone.post("u0", "stored")
        for name in ("mongodb", "web 1", "redis"):
            os.kill(system.child(name).pid, signal.SIGKILL)
        await until(lambda: _answers(someone, status))
        await everybody_sees(someone, [status])
        await nothing_owed(someone)
        await everybody_sees(someone, [status])


async def _answers(someone: Client, status: str) -> bool:
    try:
        answer = await someone.call("u0", "GET", f"/statuses/{status}")
    except httpx.TransportError:
        return False  # refused while no web process runs
    assert answer.status_code in (200, 503), answer.text
    return answer.status_code == 200


async def test_switches_under_load(system: System) -> None:
    async with client(system) as someone:
        for reader in READERS:
            assert (await someone.call(reader, "PUT", "/follows/u5")).status_code == 204
        posted: list[str] = []
        for n in range(36):  # every set of phases, and some of them again
            delivering = [slug for bit, slug in enumerate(KEEPING) if n >> bit & 1]
            acknowledged, reader, phase = posted[:20], READERS[n % 4], SLUGS[n % 3 + 1]
            switched, status, (ids, _) = await asyncio.gather(
                someone.call("u1", "PUT", "/phases", json={"delivering": delivering}),
                someone.post("u5", f"during switch {n}"),
                someone.page(reader, phase, 21),
            )
            assert switched.status_code == 200, switched.text
            seen = [id for id in ids if id != status]  # posted at the same time: it may be there or not
            assert seen[: len(acknowledged)] == acknowledged, (n, reader, phase)
            posted.insert(0, status)
        await someone.call("u1", "PUT", "/phases", json={"delivering": list(KEEPING)})
        await everybody_sees(someone, posted)
        await nothing_owed(someone)
        await everybody_sees(someone, posted)
