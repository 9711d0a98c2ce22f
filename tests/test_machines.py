"""What deploy/compose.yaml describes, as processes of this machine: the shipped proxy before two web processes, two
workers, a replica set of three, two Memcached and a Redis with a password. One of each is killed under load.
"""

import asyncio
import base64
import os
import re
import shutil
import signal
import ssl
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from functools import partial
from itertools import product
from pathlib import Path

import httpx
import psutil
import pytest
from redis import Redis, RedisError

from app.config import Config, environment_for
from app.demo.seed import seed
from app.servers.programs import ServersError, insist, resolve
from app.servers.replica import ReplicaSet, replica_set
from app.stack import Addresses, connected
from benchmarks.faults.client import PASSWORD, Client
from benchmarks.faults.load import SLUGS, Load
from benchmarks.faults.outcome import Outcome, Plan
from benchmarks.faults.system import CAST, graph
from phases.timelines import Timelines
from tests.certificates import Certificates
from tests.conftest import free_port, real_servers
from tests.site import Browser
from tests.test_memcached import node
from tests.waiting import until
from tests.world import KEEPING

pytestmark = [pytest.mark.anyio, pytest.mark.servers]

NGINX = Path(__file__).parents[1] / "deploy" / "nginx"
NAME = "feed.example"
REDIS_PASSWORD = "not the default"
PATIENCE_S = 60.0
BETWEEN_S = 1.0
ONLY = {"503"}  # kinds of errors that a client of the proxy may see


@contextmanager
def process(command: list[str], log: Path, environment: Mapping[str, str] | None = None) -> Iterator[psutil.Process]:
    """Whatever has been started in its place meanwhile is not ours to stop: there is nobody who would."""
    with log.open("w", encoding="utf-8") as output:
        started = subprocess.Popen(command, env=environment, stdout=output, stderr=output)
    try:
        yield psutil.Process(started.pid)
    finally:
        started.terminate()
        started.wait(PATIENCE_S)


@contextmanager
def redis_server(directory: Path, port: int) -> Iterator[psutil.Process]:
    """With what compose.yaml says of it."""
    with real_servers():
        source = resolve(Config(), "servers")[1]
        insist((source,))
    directory.mkdir(exist_ok=True)
    command = [
        *(str(source.program), "--port", str(port), "--bind", "127.0.0.1", "--dir", str(directory), "--save", ""),
        *("--appendonly", "yes", "--appendfsync", "everysec", "--maxmemory-policy", "noeviction"),
        *("--requirepass", REDIS_PASSWORD),
    ]
    with process(command, directory / "redis.log") as running:
        until(lambda: _answers(port), "Redis answers")
        yield running


def _answers(port: int) -> bool:
    try:
        with Redis(port=port, password=REDIS_PASSWORD) as redis:
            return bool(redis.ping())
    except (OSError, RedisError):  # also while it still loads what it has kept
        return False


@contextmanager
def proxy(directory: Path, port: int, web: list[int]) -> Iterator[None]:
    """The configuration, with other places for its names and ports."""
    program = shutil.which("nginx")
    with real_servers():
        if program is None:
            raise ServersError("nginx is not installed")
    assert program
    text = (NGINX / "feedlab.conf.template").read_text(encoding="utf-8")
    for number, upstream in enumerate(web, 1):
        text, found = re.subn(f"web-{number}:8000", f"127.0.0.1:{upstream}", text)
        assert found == 1
    for said, instead in (
        ("listen 443 ssl", f"listen 127.0.0.1:{port} ssl"),
        ("listen 80;", f"listen 127.0.0.1:{free_port()};"),
        ("${SERVER_NAME}", NAME),
        ("/etc/nginx/tls/feedlab.pem", str(directory / "server.pem")),
        ("/etc/nginx/tls/feedlab.key", str(directory / "server.key")),
    ):
        assert said in text
        text = text.replace(said, instead)
    kinds = ("client_body", "proxy", "fastcgi", "uwsgi", "scgi")
    paths = "".join(f"{kind}_temp_path {directory}/{kind};" for kind in kinds)
    (directory / "feedlab.conf").write_text(f"access_log off; {paths} {text}")
    main = (NGINX / "nginx.conf").read_text(encoding="utf-8")
    for said, instead in (
        ("user nginx;", "daemon off;"),
        ("pid /run/nginx.pid;", f"pid {directory}/pid;"),
        ("include /etc/nginx/mime.types;", ""),
        ("/etc/nginx/conf.d/*.conf", str(directory / "feedlab.conf")),
    ):
        assert said in main
        main = main.replace(said, instead)
    file = directory / "nginx.conf"
    file.write_text(main)
    with process([program, "-p", str(directory), "-e", "stderr", "-c", str(file)], directory / "nginx.log"):
        yield


def feedlab(*arguments: object, data: Path) -> list[str]:
    return [sys.executable, "-m", "app.cli", *map(str, arguments), "--stack", "urls", "--data", str(data)]


@dataclass
class Machines:
    """`one_of`: how to find a process of a kind, now."""

    url: str
    context: ssl.SSLContext
    one_of: dict[str, Callable[[], int | None]]
    back: dict[str, Callable[[], object]] = field(default_factory=dict)  # who comes back by nobody's doing but ours


@pytest.fixture(scope="module")
def machines(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Machines]:
    here = tmp_path_factory.mktemp("machines")
    port, redis_port, *web = [free_port() for _ in range(4)]
    with ExitStack() as stack, real_servers():
        certificates = Certificates.made(here, NAME)
        starting: list[ReplicaSet] = []
        mongods = threading.Thread(target=lambda: starting.append(stack.enter_context(replica_set(here / "r"))))
        mongods.start()
        redis = stack.enter_context(redis_server(here / "redis", redis_port))
        caches = [stack.enter_context(node()) for _ in range(2)]
        mongods.join(PATIENCE_S * 2)
        (replicas,) = starting
        settings = {
            "FEEDLAB_MONGODB_URL": replicas.url,
            "FEEDLAB_REDIS_URL": f"redis://:{REDIS_PASSWORD.replace(' ', '%20')}@127.0.0.1:{redis_port}/0",
            "FEEDLAB_MEMCACHED": ",".join(at for at, _ in caches),
            "FEEDLAB_ALLOWED_HOSTS": NAME,
            "FEEDLAB_TRUSTED_PROXIES": "127.0.0.1",
            "FEEDLAB_CHUNK": "100",
            "FEEDLAB_CAP": "60",
        }
        config, environment = Config.from_environment(settings), environment_for(settings)
        asyncio.run(_fill(config))
        machines = Machines(f"https://127.0.0.1:{port}", certificates.client(), {})

        def start(name: str, *arguments: object) -> Callable[[], psutil.Process]:
            """As systemd or Docker would: whoever dies is started again."""
            running = [_start(stack, here, name, environment, *arguments)]
            machines.back[name] = lambda: running.append(_start(stack, here, name, environment, *arguments))
            return lambda: running[-1]

        served = [start(f"web {n}", "serve", "--port", at, "--workers", 0) for n, at in enumerate(web, 1)]
        working = [start(f"worker {n}", "worker", "--count", 1) for n in (1, 2)]
        stack.enter_context(proxy(here, port, web))
        for at in web:
            until(partial(_is_up, f"http://127.0.0.1:{at}/healthz"), f"a web process on {at}")
        machines.one_of = {
            "web": lambda: served[0]().pid,
            "worker": lambda: working[0]().pid,
            "mongodb": replicas.primary,
            "redis": lambda: redis.pid,
            "memcached": lambda: caches[0][1].pid,
        }
        redis_again = lambda: stack.enter_context(redis_server(here / "redis", redis_port))  # noqa: E731
        machines.back |= {"web": machines.back["web 1"], "worker": machines.back["worker 1"], "redis": redis_again}
        yield machines


def _start(
    stack: ExitStack, here: Path, name: str, environment: Mapping[str, str], *arguments: object
) -> psutil.Process:
    command = feedlab(*arguments, data=here / name.replace(" ", "-"))
    return stack.enter_context(process(command, here / f"{name}.log", environment))


def _is_up(url: str) -> bool:
    try:
        return httpx.get(url, headers={"host": NAME}, trust_env=False).status_code == 200
    except httpx.TransportError:
        return False


async def _fill(config: Config) -> None:
    addresses = Addresses(config.mongodb_url, config.redis_url, config.memcached)
    async with connected(addresses, config) as stack:
        await seed(stack, graph(), statuses=0, days=1, seed=1, password=PASSWORD, reset=False)
        timelines = await Timelines.open(stack)
        await timelines.change(delivering=KEEPING)


async def walk_everything(load: Load) -> None:
    async with asyncio.TaskGroup() as tasks:
        for reader, slug in product(load.cast.readers[:3] + load.cast.steady[:1], SLUGS):
            tasks.create_task(load.walk(reader, slug))
        tasks.create_task(load.talks.read_everything())


async def test_one_of_each_is_killed(machines: Machines) -> None:
    """By what the load knows of its own posts, nothing is missing, and an error is a clean 503 of the proxy's or ours.

    A Memcached is stopped first and goes on with the lists of before, which lack what was posted meanwhile; then it is
    killed for good.
    """
    outcome = Outcome(plan=Plan(6, 0, 1))
    async with httpx.AsyncClient(
        base_url=f"{machines.url}/api/v1",
        verify=machines.context,
        headers={"host": NAME},
        timeout=None,
        trust_env=False,
        limits=httpx.Limits(max_connections=60),
    ) as http:
        load = Load(Client(http, outcome), CAST, 1, 0.4)
        await load.prepare()
        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(load.run())
            await asyncio.sleep(BETWEEN_S)
            for kind, how in (
                ("memcached", signal.SIGSTOP),
                ("memcached", signal.SIGCONT),
                ("worker", signal.SIGKILL),
                ("web", signal.SIGKILL),
                ("redis", signal.SIGKILL),
                ("mongodb", signal.SIGKILL),
                ("memcached", signal.SIGKILL),
            ):
                pid = await asyncio.to_thread(machines.one_of[kind])
                assert pid, kind
                os.kill(pid, how)
                outcome.fault()
                await asyncio.sleep(BETWEEN_S)
                if how == signal.SIGKILL and kind in machines.back:
                    await asyncio.to_thread(machines.back[kind])
            await _until_everything_works(outcome)
            load.stop.set()
        await walk_everything(load)
    assert outcome.violations == []
    assert outcome.unclean == []
    assert set(outcome.errors) - {"hung up by the client"} <= ONLY, outcome.errors
    assert outcome.posts_acknowledged > 10


async def _until_everything_works(outcome: Outcome) -> None:
    deadline = time.monotonic() + PATIENCE_S
    while outcome.never_recovered:
        assert time.monotonic() < deadline, outcome.never_recovered
        await asyncio.sleep(0.1)


async def test_streams_go_through_and_figures_do_not(machines: Machines) -> None:
    async with httpx.AsyncClient(
        base_url=machines.url, verify=machines.context, headers={"host": NAME}, trust_env=False, timeout=PATIENCE_S
    ) as http:
        assert (await http.get("/metrics")).status_code == 404
        http.headers["origin"] = f"https://{NAME}"
        browser = Browser(http)
        await browser.open("/sign-in")
        await browser.submit("/sign-in", handle=CAST.steady[0], password=PASSWORD)
        assert {cookie.secure for cookie in http.cookies.jar} == {True}, "it knows of the TLS"
        async with http.stream("GET", "/live") as live:
            assert live.status_code == 200
            assert (await anext(live.aiter_text())).startswith("retry: ")
        sent = {"handle": CAST.steady[0], "password": PASSWORD}
        token = (await http.post("/api/v1/tokens", json=sent)).json()["token"]
    asked = {
        "Host": NAME,
        "Upgrade": "websocket",
        "Connection": "Upgrade",
        "Authorization": f"Bearer {token}",
        "Sec-WebSocket-Version": "13",
        "Sec-WebSocket-Key": base64.b64encode(bytes(16)).decode(),
    }
    head = "".join(f"{name}: {value}\r\n" for name, value in asked.items())
    port = httpx.URL(machines.url).port
    reader, writer = await asyncio.open_connection("127.0.0.1", port, ssl=machines.context)
    try:
        writer.write(f"GET /api/v1/live/socket HTTP/1.1\r\n{head}\r\n".encode())
        assert b" 101 " in await reader.readline()
        await reader.readuntil(b"\r\n\r\n")
        await asyncio.wait_for(reader.readuntil(b"ready"), PATIENCE_S)
    finally:
        writer.transport.abort()  # a farewell in TLS would take longer than this test's event loop lives
        await writer.wait_closed()
