"""`feedlab`: every command. Each imports what it needs when it runs, so that a broken part breaks only its own."""

import asyncio
import signal
import sys
from collections.abc import Callable, Coroutine, Iterator
from contextlib import contextmanager
from errno import EPIPE
from io import TextIOWrapper
from pathlib import Path
from types import FrameType
from typing import TYPE_CHECKING, Any, TypeVar

import click
from click.core import ParameterSource

from app import logs
from app.config import Config, ConfigError
from app.errors import Refused
from benchmarks.cli import MEASUREMENTS, Finite, can_be_written, directed, graph_of

if TYPE_CHECKING:
    from app.servers.programs import Level
    from app.stack import Addresses, Stack

T = TypeVar("T")


LONGEST_WORDS = 300  # characters of what a driver says: it may repeat a whole command


class Refusal(click.ClickException):
    """An error that is shown in one line, without a traceback."""

    exit_code = 2


def _shown(text: str) -> str:
    """Return the text in one line, without what is secret in the URLs of the environment."""
    from app.servers.urls import without_secrets

    line = " ".join(text.split())
    try:
        return without_secrets(line, Config.from_environment())
    except ConfigError:  # it is what is told, and repeats no setting
        return line


@contextmanager
def _told_in_one_line() -> Iterator[None]:
    """Have what may be expected to happen end with 2 and without a traceback."""
    try:
        yield
    except (click.ClickException, click.exceptions.Exit, click.Abort):
        raise
    except (ConfigError, Refused) as error:
        raise Refusal(_shown(str(error))) from None
    except OSError as error:  # a file, a full disk: nothing that a traceback would explain
        if error.errno == EPIPE or error.strerror is None:
            raise
        where = f"{error.filename}: " if error.filename else ""
        raise Refusal(_shown(f"{where}{error.strerror}")) from None
    except Exception as error:
        from app.servers.programs import ServersError
        from app.stack import said_by_a_driver

        if isinstance(error, ServersError):
            raise Refusal(_shown(str(error))) from None
        if (words := said_by_a_driver(error)) is None:
            raise
        raise Refusal(f"{_shown(words)[:LONGEST_WORDS]}; `feedlab doctor` says where this server comes from") from None


class Feedlab(click.Group):
    def make_context(self, *args: Any, **named: Any) -> click.Context:
        with _told_in_one_line():  # --help and --version are answered here
            return super().make_context(*args, **named)

    def invoke(self, context: click.Context) -> object:
        """Run a command. Expected ends: 2 with one line when it cannot start, 130 after Ctrl-C, 143 after SIGTERM, 129
        when its terminal is closed, unless it runs under nohup.
        """
        if isinstance(sys.stdout, TextIOWrapper):
            sys.stdout.reconfigure(errors="replace")  # a locale may lack what a sentence or a name has
        ended_by = [signal.SIGINT]

        def ended(number: int, frame: FrameType | None) -> None:
            """End as after Ctrl-C: an event loop cancels its work then. To raise right here could be inside a callback
            of its C code, which makes another error of it, or where every error is caught.
            """
            if number == signal.SIGHUP:
                signal.signal(number, signal.SIG_IGN)  # to the end: the shell and the system both send it
            interrupt = signal.getsignal(signal.SIGINT)
            if not callable(interrupt):  # whoever runs in the background may ignore it
                _end_by_loop(128 + number)
                return
            ended_by.append(signal.Signals(number))
            interrupt(number, frame)

        has_terminal = signal.getsignal(signal.SIGHUP) != signal.SIG_IGN  # or runs under nohup
        heard = [signal.SIGTERM, *([signal.SIGHUP] if has_terminal else [])]
        before = {number: signal.signal(number, ended) for number in heard}
        try:
            with _told_in_one_line():
                return super().invoke(context)
        except KeyboardInterrupt:
            context.exit(128 + ended_by[-1])
        finally:
            for number, handler in before.items():
                if signal.getsignal(number) == ended:
                    signal.signal(number, handler)


def _end_by_loop(code: int) -> None:
    """Exit with this code: between two callbacks of the event loop, where one is running."""
    try:
        loop = asyncio.get_running_loop()
    except RuntimeError:
        raise SystemExit(code) from None
    loop.call_soon_threadsafe(sys.exit, code)


class Directory(click.Path):
    """A path that is not empty: an empty one would be the current directory, which would be closed to others and
    filled.
    """

    def convert(self, value: Any, param: click.Parameter | None, context: click.Context | None) -> Any:
        return super().convert(value, param, context) if str(value) else self.fail("it is empty", param, context)


data_option = click.option(
    "--data",
    type=Directory(file_okay=False, path_type=Path),
    default=Path(".data"),
    show_default=True,
    help="Data directory; the servers that run for it are used.",
)
stack_option = click.option(
    "--stack",
    "level",
    type=click.Choice(["auto", "urls", "servers", "memory"]),
    default="auto",
    show_default=True,
    help="auto: the best there is; urls: servers by URL only; servers: real ones only; memory: in-process stand-ins.",
)


log_option = click.option(
    "--log",
    "form",
    type=click.Choice(["text", "json"]),
    default="text",
    show_default=True,
    help="What is logged: lines of text, or one JSON object a line.",
)


def on_stack(data: Path, level: "Level", purpose: str, work: "Callable[[Stack], Coroutine[Any, Any, T]]") -> T:
    """Run `work` on the servers of `data`, and return what it returns."""
    from app.servers.borrow import servers_of
    from app.stack import connected

    config = Config.from_environment()

    async def run(addresses: "Addresses") -> T:
        async with connected(addresses, config) as stack:
            return await work(stack)

    with servers_of(data, config, level, purpose=purpose) as addresses:
        return asyncio.run(run(addresses))


@click.group(cls=Feedlab)
@click.version_option(package_name="feedlab")
def main() -> None:
    """A friend-status timeline on MongoDB, built six times: query, push, queue, cache, stream, hybrid."""


@main.command()
@data_option
@stack_option
@click.option("--host", default="127.0.0.1", show_default=True, help="Address to listen on.")
@click.option("--port", type=click.IntRange(0, 65_535), default=8000, show_default=True, help="0 takes any free port.")
@click.option("--workers", type=click.IntRange(0, 64), default=1, show_default=True, help="Worker processes.")
@click.option("--web", type=click.IntRange(1, 64), default=1, show_default=True, help="Web processes.")
@click.option("--demo", is_flag=True, help="Fill an empty database, and let anybody sign in as anybody.")
@log_option
def serve(
    data: Path, level: "Level", host: str, port: int, workers: int, web: int, demo: bool, form: "logs.Form"
) -> None:
    """Start the servers, workers and web pages; stop them all with Ctrl-C.

    Prints `ready http://HOST:PORT` when requests are answered.
    """
    from app.serve import Plan
    from app.serve import serve as run

    logs.to_stderr(form)
    config = Config.from_environment(demo=True) if demo else Config.from_environment()
    plan = Plan(data=data, host=host, port=port, web=web, workers=workers, level=level, log=form)
    click.get_current_context().exit(run(plan, config))


@main.command("web-process", hidden=True)
@data_option
@click.option("--fd", type=int, required=True, help="A listening socket, inherited.")
@log_option
def web_process(data: Path, fd: int, form: "logs.Form") -> None:
    """Run one web process of `feedlab serve`."""
    from app.loop import event_loop
    from app.serve import tell_metrics
    from app.serve import web_process as run
    from app.servers.borrow import owner_servers
    from app.servers.children import end_with_parent

    end_with_parent()
    logs.to_stderr(form)
    config = Config.from_environment()
    tell_metrics(config)
    with asyncio.Runner(loop_factory=event_loop) as runner:
        runner.run(run(fd, owner_servers(data, config), config))


@main.command()
@data_option
@stack_option
@click.option("--json", "as_json", is_flag=True, help="The same as JSON.")
def doctor(data: Path, level: "Level", as_json: bool) -> None:
    """Show where each server comes from, whether it answers, and what to do when it is missing."""
    from app.doctor import doctor as run

    click.get_current_context().exit(run(data, Config.from_environment(), level, as_json=as_json))


@main.command()
@data_option
@stack_option
@click.option("--count", type=click.IntRange(1, 64), default=1, show_default=True, help="Worker processes.")
@click.option("--child", is_flag=True, hidden=True, help="Started by another command, and ends with it.")
@log_option
def worker(data: Path, level: "Level", count: int, child: bool, form: "logs.Form") -> None:
    """Deliver statuses in the background, until SIGTERM."""
    from app.serve import tell_metrics, work
    from app.servers.borrow import owner_servers
    from app.servers.children import end_with_parent

    logs.to_stderr(form)
    config = Config.from_environment()
    if not child:
        click.get_current_context().exit(work(data, config, level, count, form))
    from app.inbox.notifier import Notifier
    from workers.worker import run

    end_with_parent()
    tell_metrics(config)
    run(owner_servers(data, config), config, [Notifier])


@main.command()
@data_option
@stack_option
@click.option("--deliver", metavar="A,B", help="Phases that deliver from now on; an empty text for none.")
@click.option("--read", metavar="PHASE", help="Phase that answers a read which names none.")
def phases(data: Path, level: "Level", deliver: str | None, read: str | None) -> None:
    """Show the phase settings, or change them while everything runs."""
    from phases.timelines import Timelines

    async def work(stack: "Stack") -> None:
        timelines = await Timelines.open(stack)
        if deliver is not None or read is not None:
            slugs = None if deliver is None else [slug.strip() for slug in deliver.split(",") if slug.strip()]
            state = await timelines.change(read=read, delivering=slugs)
        else:
            state = await timelines.state()
        click.echo(f"read: {state.read}")
        for phase in state.phases:
            since = f" since {phase.since:%Y-%m-%d %H:%M:%S} UTC" if phase.since else ""
            does = f"delivering{since}" if phase.delivering else "not delivering"
            click.echo(f"{phase.slug:6} {does}, {phase.pending:,} pending, {phase.queued:,} queued: {phase.title}")

    on_stack(data, level, "feedlab phases", work)


@main.command()
@data_option
@stack_option
@click.argument("handle")
@click.option(
    "--force",
    "choice",
    type=click.Choice(["pulled", "delivered", "rule"]),
    help="From the next status on: an experiment.",
)
def author(data: Path, level: "Level", handle: str, choice: str | None) -> None:
    """Show whether HANDLE's statuses are pulled or delivered in phase 6, and why; or choose it."""
    on_stack(data, level, "feedlab author", lambda stack: show_author(stack, handle, choice))


async def show_author(stack: "Stack", handle: str, choice: str | None) -> None:
    from app.models import User
    from phases.timelines import Timelines

    timelines = await Timelines.open(stack)
    user = await User.called(handle.lower())
    if user is None:
        raise Refusal(f"nobody is called {handle}")
    if choice:
        await timelines.force(user.id, {"pulled": True, "delivered": False, "rule": None}[choice])
    weighed = await timelines.weighed(user.id)
    if weighed is None:
        raise Refusal("no phase pulls anything")
    why = {
        "forced": "forced",
        "seldom": "everybody's are, while so few pages are asked for",
        "light": f"fewer than {stack.config.pull_from:,} active followers (FEEDLAB_PULL_FROM)",
        "many": f"more than {stack.config.pull_beyond:,} active followers (FEEDLAB_PULL_BEYOND)",
        "rule": "by the rule",
    }
    known, day = weighed.author, weighed.day
    reads = "unknown" if known.pages_per_reader_per_day is None else f"{known.pages_per_reader_per_day:,.1f}"
    asked = "unknown" if day.asked_us is None else f"{day.asked_us / 1000:,.1f} ms"
    click.echo(f"{user.handle}'s statuses are {'pulled' if weighed.pulled else 'delivered'}: {why[weighed.why]}")
    click.echo(f"{known.active_followers:,} active followers, {known.posts_per_day:,.1f} statuses a day")
    click.echo(f"pages a day of an active reader: {reads}")
    click.echo(f"processor time a day: to deliver them {day.delivered_us / 1000:,.1f} ms, to pull them {asked}")


@main.command()
@data_option
@stack_option
@click.option("--failed", is_flag=True, help="The dead letters instead of what is under way.")
@click.option("--retry", is_flag=True, help="Queue every dead letter again.")
@click.option("--limit", type=click.IntRange(1, 10_000), default=50, show_default=True)
def deliveries(data: Path, level: "Level", failed: bool, retry: bool, limit: int) -> None:
    """List the deliveries under way, or those that failed for good, and retry them."""

    async def work(stack: "Stack") -> None:
        if retry:
            click.echo(f"{await stack.queue.retry_dead_letters():,} queued again")
            return
        found = await stack.queue.deliveries(failed=failed, limit=limit)
        for job in found:
            since = f" since {job.since:%Y-%m-%d %H:%M:%S} UTC" if job.since else ""
            error = f": {job.error}" if job.error else ""
            click.echo(
                f"{job.state:9} {job.consumer:6} {job.happened}{since}, {job.attempts_left} attempts left{error}"
            )
        if not found:
            click.echo("no dead letters" if failed else "nothing under way")

    on_stack(data, level, "feedlab deliveries", work)


@main.command()
@data_option
@stack_option
@click.argument("handle")
@click.option("--revoke", is_flag=True, help="Make it an ordinary account again.")
def admin(data: Path, level: "Level", handle: str, revoke: bool) -> None:
    """Make HANDLE an administrator, who may switch phases through the API and the pages."""
    from app.models import User

    async def work(_: "Stack") -> None:
        user = await User.called(handle.lower())
        if user is None:
            raise Refusal(f"nobody is called {handle}")
        await user.set({"admin": not revoke})
        click.echo(f"{user.handle} is {'an ordinary account' if revoke else 'an administrator'}")

    on_stack(data, level, "feedlab admin", work)


@main.command()
@data_option
@click.option("--print", "print_only", is_flag=True, help="Print the address and open nothing.")
def walkthrough(data: Path, print_only: bool) -> None:
    """Open the walkthrough on the site that runs for the data directory."""
    import webbrowser

    from app.servers.datadir import DataDirectory

    owner = DataDirectory(data).owner()
    if owner is None or owner.web is None:
        raise Refusal(f"nothing is served from {data}: start it with `feedlab serve --demo`")
    address = f"{owner.web}/walkthrough"
    click.echo(address)
    if not print_only:
        webbrowser.open(address)


@main.command()
@data_option
@stack_option
@click.option("--graph", type=click.Path(exists=True, dir_okay=False, path_type=Path), help="SNAP edge list, or .gz.")
@click.option("--directed", is_flag=True, help="A line is `follower followee`; without it a friendship, both ways.")
@click.option("--users", type=click.IntRange(1), default=2_000, show_default=True, help="Of a generated graph.")
@click.option("--mean", type=Finite(0), default=30, show_default=True, help="Mean number of followees.")
@click.option("--seed", "number", type=int, default=1, show_default=True, help="The same number, the same content.")
@click.option("--statuses", type=click.IntRange(0), default=20_000, show_default=True)
@click.option("--days", type=click.IntRange(1), default=30, show_default=True, help="Period the statuses lie in.")
@click.option("--password", help="Of every seeded person. Default: a random one, printed.")
@click.option("--reset", is_flag=True, help="First erase every account, status and job of the database; asks.")
@click.option("--yes", is_flag=True, help="Do not ask.")
def seed(
    data: Path,
    level: "Level",
    graph: Path | None,
    directed: bool,
    users: int,
    mean: float,
    number: int,
    statuses: int,
    days: int,
    password: str | None,
    reset: bool,
    yes: bool,
) -> None:
    """Fill the database with people, follow edges and statuses, from a file or generated."""
    if graph is None and directed:
        raise click.UsageError("--directed says how to read a --graph, and none is given")
    typed = click.get_current_context().get_parameter_source
    if graph and (generated := [name for name in ("users", "mean") if typed(name) is ParameterSource.COMMANDLINE]):
        raise click.UsageError(f"--{generated[0]} is for a generated graph; --graph names a file")
    from app.demo import seed_command
    from app.demo.graph import load, powerlaw
    from app.demo.progress import shown

    with shown() as progress:  # all of it, before any server is asked
        edges = load(graph, directed, progress) if graph else powerlaw(users, mean, number, progress)

    async def work(stack: "Stack") -> None:
        await seed_command.run(
            stack, edges, statuses=statuses, days=days, seed=number, password=password, reset=reset, yes=yes
        )

    on_stack(data, level, "feedlab seed", work)


@main.command()
@data_option
@stack_option
@click.argument("file", type=click.Path(dir_okay=False, path_type=Path))
@click.option(
    "--window", "window_s", type=click.IntRange(1, 30 * 86_400), help="Seconds that MongoDB keeps a snapshot."
)
def backup(data: Path, level: "Level", file: Path, window_s: int | None) -> None:
    """Write accounts, statuses and all that cannot be made anew to FILE, as of one moment, while everything runs.

    A backup that takes longer than MongoDB keeps a snapshot fails (300 s, embedded servers 10 s); --window has it keep
    one for longer meanwhile.
    """
    from app.backup import backup as run
    from app.backup import place
    from app.demo.progress import shown
    from app.servers.borrow import servers_of

    config = Config.from_environment()
    can_be_written(file.with_name(f"{file.name}.part"))
    with servers_of(data, config, level, purpose="feedlab backup") as addresses, shown() as progress:
        if addresses.mongodb is None:
            raise Refusal("MongoDB is a stand-in inside a process, which no backup reaches: `feedlab doctor` says why")
        header = run(addresses.mongodb, config, file, window_s=window_s, progress=progress)
    click.echo(
        f"{file}: {sum(header.documents.values()):,} documents of {place(addresses.mongodb, config)}, "
        f"{header.size:,} bytes, as of {header.at}"
    )


@main.command()
@data_option
@stack_option
@click.argument("file", type=click.Path(exists=True, dir_okay=False, path_type=Path))
@click.option("--yes", is_flag=True, help="Erase what is there.")
def restore(data: Path, level: "Level", file: Path, yes: bool) -> None:
    """Put back what `feedlab backup` wrote to FILE, into an empty database; stop every other process of ours first."""
    from app.backup import restore as run
    from app.demo.progress import shown
    from app.servers.borrow import servers_of
    from app.servers.datadir import DataDirectory

    if (owner := DataDirectory(data).owner()) and owner.lasting:
        raise Refusal(f"{owner.purpose} runs in {data}: stop it first")
    config = Config.from_environment()
    with servers_of(data, config, level, purpose="feedlab restore") as addresses, shown() as progress:
        if addresses.mongodb is None:
            raise Refusal("the database would be in this process and end with it: restore into a real server")
        header = asyncio.run(
            run(addresses, config, file, yes=yes, say=lambda line: click.echo(line, err=True), progress=progress)
        )
    click.echo(f"{sum(header.documents.values()):,} documents are back as of {header.at}")


@main.group()
def bench() -> None:
    """Measure the phases, or break a running system and see what is lost."""


@bench.command()
@click.option("--faults", "count", type=click.IntRange(1, 10_000), default=50, show_default=True)
@click.option("--seconds", type=Finite(1), help="In which the faults come. Default: 5 for each.")
@click.option("--seed", "number", type=int, default=1, show_default=True, help="Decides which faults, and the load.")
@click.option("--pause", type=Finite(1, 40), default=8, show_default=True, help="Longest, in seconds.")
@click.option("--no-aof", is_flag=True, help="Redis keeps nothing on disk: a kill empties the queue.")
@click.option("--graph", metavar="FILE", help="People beside those of the run: SNAP, or powerlaw:USERS:MEAN.")
@directed
@click.option("--replica-set", is_flag=True, help="Three mongods, whose primary is killed again and again.")
@click.option("--alerts", is_flag=True, help="Instead, provoke each alert once, and measure how soon it fires.")
@click.option("--json", "as_json", is_flag=True, help="The same as JSON.")
def faults(
    count: int,
    seconds: float | None,
    number: int,
    pause: float,
    no_aof: bool,
    graph: str | None,
    directed: bool,
    replica_set: bool,
    alerts: bool,
    as_json: bool,
) -> None:
    """Kill, pause, flush and switch a system of its own under load, and check every page.

    Exit code 1 when a status was missing, wrong or doubled, or an error was anything but a clean 503 or a broken
    connection, or with --alerts when an alert did not fire.
    """
    if alerts:
        from benchmarks.faults import alerted

        click.get_current_context().exit(alerted.run(as_json=as_json))
    from benchmarks.faults import Plan, run

    crowd = graph_of(graph, directed, number) if graph else None
    plan = Plan(count, seconds or 5 * count, number, pause, not no_aof, replica_set)
    click.get_current_context().exit(run(plan, as_json=as_json, crowd=crowd))


@bench.command()
@click.option("--seconds", type=Finite(0.5, 600), default=6, show_default=True, help="Of each attack.")
@click.option("--size", type=Finite(0.001, 10), default=1, show_default=True, help="As many clients as usual: 1.")
@click.option("--json", "as_json", is_flag=True, help="The same as JSON.")
def attack(seconds: float, size: float, as_json: bool) -> None:
    """Load a system of its own as a stranger would, and measure what a bystander has of it.

    Exit code 1 when the bystander got a 5xx other than a clean 503, or nothing again after an attack.
    """
    from benchmarks.attack import run

    click.get_current_context().exit(run(seconds, size, as_json=as_json))


@bench.command()
@click.option("--connections", type=click.IntRange(1, 20_000), default=200, show_default=True)
@click.option(
    "--rate",
    "rates",
    type=Finite(0.1, 10_000),
    multiple=True,
    default=[10],
    show_default=True,
    help="Posts a second; may be repeated, and ends where p99 passes 250 ms.",
)
@click.option("--seconds", type=Finite(1, 86_400), default=30, show_default=True, help="At each rate.")
@click.option(
    "--silent", "silent_s", type=Finite(0, 3_600), default=10, show_default=True, help="Silent seconds first."
)
@click.option("--faults", type=click.IntRange(0, 10_000), default=6, show_default=True, help="At each rate.")
@click.option("--disconnects", type=click.IntRange(0, 1_000_000), default=100, show_default=True, help="At each rate.")
@click.option("--graph", default="powerlaw:2000:30", show_default=True, help="FILE (SNAP) or powerlaw:USERS:MEAN.")
@directed
@click.option("--seed", type=int, default=1, show_default=True)
@click.option("--json", "as_json", is_flag=True, help="The same as JSON.")
def live(graph: str, directed: bool, as_json: bool, **options: Any) -> None:
    """Hold many live streams open on a system of its own, disturb it, and compare what their readers have been told.

    First silent connections, server-sent events and WebSockets: their memory, and what MongoDB is asked meanwhile.
    Exit code 1 when anybody missed an event, was told twice, was shown what is not theirs, or was told `reset` within 5
    minutes and 500 events.
    """
    from benchmarks.live import Plan, run

    people = graph_of(graph, directed, options["seed"])
    click.get_current_context().exit(run(Plan(**options), people, as_json=as_json))


for command in MEASUREMENTS:
    bench.add_command(command)


if __name__ == "__main__":
    main()
