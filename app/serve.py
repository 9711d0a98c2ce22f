"""`feedlab serve`: servers, workers and web processes under one supervisor; on stand-ins, all of it in one process."""

import asyncio
import gc
import http.client
import json
import os
import signal
import socket
import sys
import time
import webbrowser
from collections.abc import AsyncIterator, Callable, Coroutine, Iterator, Sequence
from contextlib import ExitStack, asynccontextmanager, contextmanager, nullcontext
from dataclasses import dataclass
from ipaddress import ip_address, ip_network
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click
import uvicorn
from starlette.applications import Starlette
from uvicorn.middleware.proxy_headers import ProxyHeadersMiddleware

from app.config import LAST_PORT, Config, ConfigError, at_a_screen
from app.logs import Form
from app.models import User
from app.servers.borrow import servers_of
from app.servers.children import OURS, Child, Stop, Stopped, running
from app.servers.datadir import DataDirectory
from app.servers.programs import TITLES, Level, ServersError, Source, insist, resolve
from app.servers.start import say, started
from app.servers.urls import without_secrets
from app.stack import Addresses, Stack, connected, is_away, said_by_a_driver
from app.watch import metrics

if TYPE_CHECKING:
    from phases.timelines import Timelines

MONGODB_DEADLINE_S, MONGODB_PAUSE_S = 45.0, 0.5
READY_DEADLINE_S = 60.0
READY_PATIENCE_S = 5.0  # with Redis and Memcached
READY_POLL_S = 0.05
GRACEFUL_S = 5  # how long an answer under way may take when a web process stops
BACKLOG = 2_048  # connections that wait for a web process
VANISHED_MS = 30_000  # in which what is sent to a client arrives: as long as one may read nothing
MAPPED_BITS = 96  # before an IPv4 address in IPv6 (RFC 4291, 2.5.5.2)
YOUNG_OBJECTS = (
    10_000  # until they are collected; Python's 700 come in a few requests, most of which are still under way
)
EARLY_PATIENCE = 3  # quick deaths of a web process or worker until the start is given up

WEB_COMMAND = (*OURS, "app.cli", "web-process")  # `--data DIR --fd N` is appended
WORKER_COMMAND = (*OURS, "app.cli", "worker", "--child")  # `--data DIR` is appended

# What --demo puts into an empty database: people, mean followees, statuses. Stand-ins are slow and get less.
DEMO, SMALL_DEMO = (2_000, 30, 20_000), (200, 10, 1_000)
DEMO_DAYS = 30


@dataclass(frozen=True)
class Plan:
    """The plan of what to serve, and how."""

    data: Path
    host: str = "127.0.0.1"
    port: int = 8000  # 0: any free one
    web: int = 1
    workers: int = 1
    level: Level = "auto"
    log: Form = "text"
    small: bool = False  # server caches of a test's size
    web_command: Sequence[str] = WEB_COMMAND
    worker_command: Sequence[str] = WORKER_COMMAND


def serve(plan: Plan, config: Config) -> int:
    """Run until somebody ends it. Return 0 after SIGTERM, 130 after Ctrl-C, 1 when something had to be given up.

    Raises ServersError when it cannot start: the directory is in use, a server is missing, the port is taken, the
    database is a newer program's.
    """
    sources = resolve(config, plan.level)
    insist(sources)
    stop = Stop()
    with stop.signals():
        try:
            with ExitStack() as stack:
                directory = DataDirectory(plan.data)
                stack.enter_context(directory.owned("feedlab serve", lasting=True))  # it stops leftovers: they listen
                listener = stack.enter_context(_bound(plan.host, plan.port))
                addresses, servers = stack.enter_context(
                    started(
                        directory,
                        sources,
                        stop,
                        small=plan.small,
                        aof=config.redis_aof,
                        demo=config.demo,
                        failed=stop.fail,
                    )
                )
                for server in servers:
                    say(str(server))
                if config.demo and not _is_loopback(listener):
                    say(f"--demo on {plan.host}: whoever reaches this machine may sign in as anybody and do anything")
                directory.change(web=_url(plan.host, listener), level=plan.level)
                serving = _Serving(plan, config, directory, addresses, listener, stop)
                if addresses.one_process:
                    _warn(sources)
                    asyncio.run(serving.in_one_process())
                else:
                    serving.with_children()
        except Stopped:
            pass  # `stop` knows why
    return _exit_code(stop)


def work(data: Path, config: Config, level: Level, count: int, log: Form = "text") -> int:
    """Run `count` workers until somebody ends them, on the servers of `data`. Return 0 after SIGTERM, 130 after Ctrl-C,
    1 when something had to be given up.
    """
    stop = Stop()
    with servers_of(data, config, level, purpose="feedlab worker", lasting=True) as addresses, stop.signals():
        if addresses.one_process:
            raise ServersError("a worker beside the web process needs real servers, see `feedlab doctor`")
        _insist_on_metrics(config, count)
        command = (*WORKER_COMMAND, "--data", str(data.absolute()), "--log", log)
        workers = [
            Child(
                f"worker {n}",
                command,
                None,
                environment=_metrics_of(n - 1, config),
                lifeline=True,
                patience=None,
                say=say,
                gave_up=stop.fail,
            )
            for n in _up_to(count)
        ]
        try:
            asyncio.run(_until_stopped(stop, _migrated(addresses, config)))
            with running(workers):
                stop.wait()
        except Stopped:
            pass  # `stop` knows why
    return _exit_code(stop)


def _metrics_of(number: int, config: Config) -> dict[str, str]:
    """Return what the environment of a child needs to be a target of its own for Prometheus."""
    if config.metrics is None:
        return {}
    host, _, port = config.metrics.rpartition(":")
    return {"FEEDLAB_METRICS": f"{host}:{int(port) + number}"}


def _insist_on_metrics(config: Config, count: int) -> None:
    """Raise ServersError where one of `count` children could not answer Prometheus: it would end, and be started again,
    for ever.
    """
    if config.metrics is None:
        return
    host, _, first = config.metrics.rpartition(":")
    for port in range(int(first), int(first) + count):
        if port > LAST_PORT:
            raise ServersError(f"{count} processes have no ports from {config.metrics} on: lower FEEDLAB_METRICS")
        with _bound(host.strip("[]"), port, "FEEDLAB_METRICS"):
            pass


def tell_metrics(config: Config) -> None:
    """Answer Prometheus where the settings say so, until this process ends. Raises ConfigError if the port is taken."""
    try:
        if config.metrics:
            metrics.listen(config.metrics)
    except (OSError, OverflowError, UnicodeError) as error:
        raise ConfigError(f"FEEDLAB_METRICS: cannot listen on {config.metrics}: {error}") from None


async def _migrated(addresses: Addresses, config: Config) -> None:
    """Migrate once, before several processes do it. A MongoDB that is away is waited for, as one that starts together
    with us.

    Raises ServersError where that takes too long, and at once what waiting does not mend.
    """
    deadline, told = time.monotonic() + MONGODB_DEADLINE_S, False
    while True:
        try:
            async with connected(addresses, config):
                return
        except Exception as error:
            if not is_away(error):
                raise
            reason = without_secrets(str(said_by_a_driver(error)), config)
            if time.monotonic() > deadline:
                raise ServersError(
                    f"no answer in {MONGODB_DEADLINE_S:.0f} s from {reason}. Start it, or correct its URL"
                ) from None
            if not told:
                say(f"waiting for {reason}")
                told = True
        await asyncio.sleep(MONGODB_PAUSE_S)


def _exit_code(stop: Stop) -> int:
    if stop.failure:
        say(stop.failure)
        return 1
    return 130 if stop.signal == signal.SIGINT else 0


@contextmanager
def _bound(host: str, port: int, setting: str = "--port") -> Iterator[socket.socket]:
    """Yield a socket for web processes to listen on; raises ServersError where that cannot be. Until one does, whoever
    comes is refused, and a proxy asks another machine: a start may take long.

    On Linux a connection ends when what is sent does not arrive. Else whoever vanishes, with a network that is gone or
    a laptop that is closed, would be here for a quarter of an hour.
    """
    with ExitStack() as stack:
        try:
            family, kind, protocol, _, address = socket.getaddrinfo(
                host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
            )[0]
            listener = stack.enter_context(socket.socket(family, kind, protocol))
            listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            if sys.platform == "linux":
                listener.setsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, VANISHED_MS)
            listener.bind(address)
        except (OSError, UnicodeError) as error:  # the latter of a name that no DNS can have
            reason = error.strerror if isinstance(error, OSError) else "no such name"
            where = f"{host} port {port}"
            raise ServersError(f"cannot listen on {where}: {reason}. Choose another with {setting}") from None
        yield listener


def _is_loopback(listener: socket.socket) -> bool:
    return ip_address(listener.getsockname()[0]).is_loopback


def _url(host: str, listener: socket.socket) -> str:
    return f"http://{f'[{host}]' if ':' in host else host}:{listener.getsockname()[1]}"


def _warn(sources: Sequence[Source]) -> None:
    names = ", ".join(TITLES[source.server] for source in sources if source.kind == "stand-in")
    say(f"stand-ins for {names}: everything works, in one process, and every figure is meaningless")


@dataclass(frozen=True)
class _Serving:
    """One run on servers that answer."""

    plan: Plan
    config: Config
    directory: DataDirectory
    addresses: Addresses
    listener: socket.socket
    stop: Stop

    def with_children(self) -> None:
        """Run web processes and workers as children, until `stop`."""
        plan = self.plan
        _insist_on_metrics(self.config, plan.web + plan.workers)
        asyncio.run(_until_stopped(self.stop, self._begin()))
        web = [self._child(f"web {n}", n - 1, plan.web_command, self.listener.fileno()) for n in _up_to(plan.web)]
        workers = [self._child(f"worker {n}", plan.web + n - 1, plan.worker_command) for n in _up_to(plan.workers)]
        with running(workers), running(web), self.listener:  # the end goes backwards
            _wait_until_ready(self.listener, lambda: self.stop.requested)
            for child in (*web, *workers):
                child.patience = None  # from now on it may be the fault of a server that is away for a while
            self._announce()
            self.stop.wait()

    def _child(self, name: str, number: int, command: Sequence[str], *pass_fds: int) -> Child:
        return Child(
            name,
            [
                *command,
                *("--data", str(self.directory.path)),
                *(f"--fd={fd}" for fd in pass_fds),
                *(["--log=json"] if self.plan.log == "json" else []),
            ],
            self.directory.logs / f"{name.replace(' ', '-')}.log",
            environment=_metrics_of(number, self.config) | ({"FEEDLAB_DEMO": "true"} if self.config.demo else {}),
            pass_fds=pass_fds,
            lifeline=True,
            patience=EARLY_PATIENCE,
            say=say,
            gave_up=self.stop.fail,
            started=self.directory.child_started,
        )

    async def in_one_process(self) -> None:
        """Run everything here, until a signal: stand-ins cannot be reached from another process."""
        from workers.worker import run_in_thread

        tell_metrics(self.config)
        await _until_stopped(self.stop, _migrated(self.addresses, self.config))
        async with _application(self.addresses, self.config) as (stack, timelines, app):
            if self.config.demo:
                await _until_stopped(self.stop, self._fill_if_empty(stack, SMALL_DEMO))
            async with run_in_thread(timelines) if self.plan.workers else nullcontext():
                await self._answer(_uvicorn(app, self.config))

    async def _answer(self, server: uvicorn.Server) -> None:
        def end() -> None:
            server.should_exit = True

        def ended() -> bool:
            return self.stop.requested or server.should_exit  # while it runs, signals are uvicorn's

        with self.stop.calling(end):
            self.stop.check()
            try:
                self.listener.listen(BACKLOG)
            except OSError as error:  # another has had the port as well, and was first
                self.stop.fail(f"cannot listen on {_url(self.plan.host, self.listener)}: {error.strerror}")
                return
            serving = asyncio.create_task(server.serve(sockets=[self.listener]))
            try:
                await asyncio.to_thread(_wait_until_ready, self.listener, ended)
                self._announce()
            except BaseException:
                end()
                raise
            finally:
                await serving

    def _announce(self) -> None:
        """Print the one thing that is on stdout: whoever started this reads it."""
        url = _url(self.plan.host, self.listener)
        try:
            click.echo(f"ready {url}")
            sys.stdout.flush()
        except OSError:  # nobody reads it any more, and whoever asks the port is answered all the same
            sys.stdout = Path(os.devnull).open("w", encoding="utf-8")  # noqa: SIM115
        if self.config.demo and sys.stdout.isatty() and at_a_screen():
            webbrowser.open(url)

    async def _begin(self) -> None:
        await _migrated(self.addresses, self.config)
        if self.config.demo:
            async with connected(self.addresses, self.config) as stack:
                await self._fill_if_empty(stack, DEMO)

    async def _fill_if_empty(self, stack: Stack, size: tuple[int, int, int]) -> None:
        """Fill a database without people; and anew the one whose filling was interrupted, if nobody used it since.

        Only a database of our own is ever filled anew: nothing is erased behind a URL of somebody's.
        """
        from app.demo.graph import powerlaw
        from app.demo.seed import seed

        ours = self.addresses.mongodb is not None and not self.config.mongodb_url
        again = ours and self.directory.note().demo_unfinished
        if not again and await stack.db[str(User.Settings.name)].find_one({}, {"_id": True}):
            return
        users, mean, statuses = size
        say(f"an empty database: making {users:,} people and {statuses:,} statuses for the demo")
        began = time.monotonic()
        if ours:
            self.directory.change(demo_unfinished=True)
        graph = powerlaw(users, mean, 1)
        await seed(stack, graph, statuses=statuses, days=DEMO_DAYS, seed=1, password=None, reset=again)
        if ours:
            self.directory.change(demo_unfinished=False)
        say(f"that took {time.monotonic() - began:.1f} s")


def _up_to(count: int) -> range:
    return range(1, count + 1)


async def web_process(fd: int, addresses: Addresses, config: Config) -> None:
    """Run one web process on a socket that its parent listens on, until SIGTERM."""
    async with _application(addresses, config) as (_, _, app):
        gc.freeze()  # what is there from the start: a full collection of it takes longer than any page
        gc.set_threshold(YOUNG_OBJECTS)
        listener = socket.socket(fileno=fd)
        listener.listen(BACKLOG)  # here its error is one line
        await _uvicorn(app, config).serve(sockets=[listener])


@asynccontextmanager
async def _application(addresses: Addresses, config: Config) -> AsyncIterator["tuple[Stack, Timelines, Starlette]"]:
    from app.web import create_app
    from phases.timelines import Timelines

    async with connected(addresses, config) as stack:
        timelines = await Timelines.open(stack)
        yield stack, timelines, create_app(stack, timelines)


class _Server(uvicorn.Server):
    """A server that ends the live parts of pages first: nobody who has a page open delays a stop."""

    def __init__(self, config: uvicorn.Config) -> None:
        from app.web import protocol

        super().__init__(config)
        app: Any = config.app
        proxies = ProxyHeadersMiddleware(app, config.forwarded_allow_ips).trusted_hosts
        self.server_state = protocol.Connections(protocol.most_connections(), proxies.__contains__)

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        app: Any = self.config.app
        app.state.streams.stop()
        app.state.services.hub.stop()
        await super().shutdown(sockets)


def _uvicorn(app: Starlette, config: Config) -> uvicorn.Server:
    from app.web.protocol import LONGEST_WORDS, PING_S, PONG_S, Protocol, WebSocket

    return _Server(
        uvicorn.Config(
            app,
            backlog=BACKLOG,
            http=Protocol,
            ws=WebSocket,
            ws_max_size=LONGEST_WORDS,
            ws_ping_interval=PING_S,
            ws_ping_timeout=PONG_S,
            ws_per_message_deflate=False,
            access_log=False,
            log_config=None,  # its loggers write where ours do
            log_level="warning",
            server_header=False,
            timeout_graceful_shutdown=GRACEFUL_S,
            proxy_headers=bool(config.trusted_proxies),
            forwarded_allow_ips=_believed(config.trusted_proxies),
        )
    )


def _believed(proxies: Sequence[str]) -> list[str]:
    """Return the proxies as uvicorn compares them, which knows `*` alone only. On a socket for IPv6 an IPv4 address is
    that of an IPv6 network, too.
    """
    if "*" in proxies:
        return ["*"]
    networks = [ip_network(proxy) for proxy in proxies]
    mapped = [f"::ffff:{of.network_address}/{MAPPED_BITS + of.prefixlen}" for of in networks if of.version == 4]
    return [*proxies, *mapped]


def _wait_until_ready(listener: socket.socket, ended: Callable[[], bool]) -> None:
    """Ask /readyz until it says yes, or for a while until MongoDB alone answers: everything else can be done without.

    It is asked by its address, which is always answered: a name need not be among FEEDLAB_ALLOWED_HOSTS. On Linux only
    once our own socket listens: two can have one port there until one of them does, and then the other would answer.

    Raises Stopped, or ServersError with the last answer when that takes too long.
    """
    host, port = listener.getsockname()[:2]
    host = {"0.0.0.0": "127.0.0.1", "::": "::1"}.get(host, host)
    deadline, patient_until = time.monotonic() + READY_DEADLINE_S, time.monotonic() + READY_PATIENCE_S
    answer = "no web process listens"
    while not ended():
        if sys.platform != "linux" or listener.getsockopt(socket.SOL_SOCKET, socket.SO_ACCEPTCONN):  # macOS has none
            try:
                status, body = _readyz(host, port)
                if status == http.HTTPStatus.OK:
                    return
                answer = f"{status} {body.decode(errors='replace')}"
                if time.monotonic() > patient_until and _mongodb_answers(body):
                    say(f"ready, though some server is away: {answer}")
                    return
            except (OSError, http.client.HTTPException) as error:
                answer = str(error) or type(error).__name__
        if time.monotonic() > deadline:
            raise ServersError(f"/readyz does not answer 200 after {READY_DEADLINE_S:.0f} s: {answer}")
        time.sleep(READY_POLL_S)
    raise Stopped


def _readyz(host: str, port: int) -> tuple[int, bytes]:
    connection = http.client.HTTPConnection(host, port, timeout=READY_POLL_S * 20)
    try:
        connection.request("GET", "/readyz")
        response = connection.getresponse()
        return response.status, response.read(2_000)
    finally:
        connection.close()


def _mongodb_answers(readyz: bytes) -> bool:
    try:
        return bool(json.loads(readyz)["servers"]["mongodb"]["status"] == "ok")
    except (ValueError, LookupError, TypeError):
        return False


async def _until_stopped(stop: Stop, work: Coroutine[object, object, None]) -> None:
    """Do the work, unless the end is asked for. Raises Stopped."""
    loop, task = asyncio.get_running_loop(), asyncio.create_task(work)
    with stop.calling(lambda: loop.call_soon_threadsafe(task.cancel)):
        if stop.requested:
            task.cancel()
        try:
            await task
        except asyncio.CancelledError:
            stop.check()
            raise
