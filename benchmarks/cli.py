"""The commands of `feedlab bench` that measure. Each imports what it needs when it runs."""

import asyncio
import re
import shlex
import sys
from collections.abc import Awaitable, Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from functools import partial, wraps
from math import isfinite
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import click

if TYPE_CHECKING:
    from contextlib import AbstractAsyncContextManager

    from app.demo.graph import Graph
    from app.demo.progress import Progress
    from app.servers.programs import Level
    from benchmarks.report import Receipts, Report, Who
    from benchmarks.rig import Rig
    from phases.base import Phase

Write = Callable[["Report"], None]
Where = Literal["own", "urls"]
SHOWN = 20  # of what was wrong, in words
FAILED = 1  # exit code: an answer was wrong

command = partial(click.command, context_settings={"show_default": True})
from_units = click.option(
    "--measured",
    type=click.Path(exists=True, dir_okay=False, path_type=Path),
    required=True,
    help="What `bench units --json` wrote, on the machine that is planned with.",
)
directed = click.option("--directed", is_flag=True, help="A line of FILE is `follower followee`, not a friendship.")

on_servers = click.option(
    "--servers",
    "where",
    type=click.Choice(["own", "urls"]),
    default="own",
    help="Servers of its own, or those that the environment names: in a database of its own there, which is removed.",
)


class Finite(click.FloatRange):
    """A range of floats that refuses `nan`, which is in no range and outside of none, and `inf`."""

    def convert(self, value: Any, param: click.Parameter | None, context: click.Context | None) -> float:
        number: float = super().convert(value, param, context)
        return number if isfinite(number) else self.fail(f"{value} is no number to measure with", param, context)


def _writes_a_report(measure: Callable[..., None]) -> Callable[..., None]:
    """Make a command with the options of a report, which gets a function that writes it."""

    @wraps(measure)
    def with_files(json_file: Path | None, csv: Path | None, html: Path | None, **options: Any) -> None:
        files = [*filter(None, (json_file, csv, html))]
        if len({file.resolve() for file in files}) < len(files):
            raise click.UsageError("--json, --csv and --html take a file each")
        for file in files:
            can_be_written(file)
        measure(write=partial(_write, json_file=json_file, csv=csv, html=html), **options)

    file = click.Path(dir_okay=False, writable=True, path_type=Path)
    with_html = click.option("--html", type=file, help="Write the report as one self-contained page.")(with_files)
    with_csv = click.option("--csv", type=file, help="Write the figures as lines of phase, figure, value.")(with_html)
    return click.option("--json", "json_file", type=file, help="Write everything that was measured.")(with_csv)


def can_be_written(file: Path) -> None:
    """Check, before anything is measured, that the file can be written. Raises click.BadParameter."""
    there = file.exists()
    try:
        file.open("ab").close()
    except OSError as error:
        raise click.BadParameter(f"{str(file)!r} cannot be written: {error.strerror}") from None
    if not there:
        file.unlink()


def _write(report: "Report", *, json_file: Path | None, csv: Path | None, html: Path | None) -> None:
    """Show the report, and write the files that were asked for, with the command that made them."""
    from benchmarks import page, tables
    from benchmarks.report import write

    # Files by their names alone: a report is no place for somebody's paths.
    typed = shlex.join(["feedlab", *(re.sub(r"^(--[\w-]+=)?.*/", r"\1", word) for word in sys.argv[1:])])
    report = report.model_copy(update={"command": typed})

    def write_page(file: Path) -> None:
        file.write_text(page.page(report), encoding="utf-8")

    with ExitStack() as each:  # the last one first, and whatever one raises, such as a full disk, all others
        if html:
            each.callback(write_page, html)
        each.callback(write, report, json_file=None, csv=csv)
        each.callback(write, report, json_file=json_file, csv=None)
        each.callback(tables.show, report)


def _measured(
    write: Write,
    work: "Callable[[Rig, Progress], Awaitable[Report]]",
    through: str = "inprocess",
    level: "Level" = "servers",
    allow_standins: bool = False,
    where: Where = "own",
) -> "Report":
    """Measure on a rig, show its progress, write the report and return it."""
    from app.demo.progress import shown
    from benchmarks.borrowed import borrowed
    from benchmarks.measure import measuring_loop
    from benchmarks.rig import Rig, rig, servers

    rigs: list[Rig] = []

    async def run(opening: "AbstractAsyncContextManager[Rig]") -> "Report":
        async with opening as running:
            rigs.append(running)
            with shown() as progress:
                running.so_far = report = await work(running, progress)
                return report

    with borrowed() if where == "urls" else servers(level, allow_standins) as (addresses, directory, config):
        try:
            with asyncio.Runner(loop_factory=measuring_loop) as runner:
                return runner.run(run(rig(addresses, directory, config, through)))
        finally:  # before the servers are stopped or cleaned up: that may fail, too
            if rigs and rigs[0].so_far:
                write(rigs[0].so_far)


def graph_of(spec: str, directed: bool, seed: int) -> "Graph":
    """Return the graph of a file, or of powerlaw:USERS:MEAN. Raises GraphError."""
    from app.demo.graph import GraphError, load, powerlaw
    from app.demo.progress import shown

    with shown() as progress:
        if not spec.startswith("powerlaw:"):
            return load(Path(spec), directed, progress)
        try:
            _, users, mean = spec.split(":")
            return powerlaw(int(users), float(mean), seed, progress)
        except ValueError:
            raise GraphError(f"{spec!r}: write powerlaw:USERS:MEAN, such as powerlaw:2000:30") from None


@command()
@click.option("--phases", metavar="SLUG,…", help="Which, in this order. Default: all.")
@click.option("--graph", default="powerlaw:2000:30", help="FILE (SNAP) or powerlaw:USERS:MEAN.")
@directed
@click.option("--workload", default="read-heavy", help="A name (see `bench workloads`) or FILE.toml.")
@click.option("--rate", type=Finite(0.1, 100_000), help="Open loop: operations per second. Default: 100.")
@click.option("--clients", type=click.IntRange(1, 500), help="Closed loop: so many wait for each answer.")
@click.option("--seconds", type=Finite(0.1, 86_400), default=20, help="Per phase and round.")
@click.option("--burn-in", "burn_in_s", type=Finite(0, 3_600), help="Seconds that do not count. Default: a fifth.")
@click.option("--rounds", type=click.IntRange(1, 100), default=3)
@click.option("--seed", type=int, default=1)
@click.option("--through", type=click.Choice(["api", "inprocess"]), default="inprocess")
@click.option(
    "--stack",
    "level",
    type=click.Choice(["auto", "servers", "memory"]),
    default="auto",
    help="Of its own servers: real ones, or in-process stand-ins.",
)
@on_servers
@click.option("--allow-standins", is_flag=True, help="Measure stand-ins, and mark every figure as meaningless.")
@_writes_a_report
def compare(
    write: Write,
    phases: str | None,
    graph: str,
    directed: bool,
    workload: str,
    level: "Level",
    allow_standins: bool,
    where: Where,
    **options: Any,
) -> None:
    """Run one workload against each phase, in interleaved rounds, on servers of its own.

    Open loop (--rate) measures from the moment an operation was due; closed loop (--clients) from when it was sent.
    Exit code 1, and no figures, when a page is not what it should be; and when one is refused that is to be compared.
    Exit code 1, with the figures, when operations failed or deliveries were not over in time: of such a round nothing
    is told.
    """
    from benchmarks import rounds
    from benchmarks.report import Comparison, Settings
    from benchmarks.workload import load, populated
    from phases import PHASES

    if where == "urls" and (level != "auto" or allow_standins):
        raise click.UsageError("--stack and --allow-standins say what its own servers are, and --servers names others")
    if options["rate"] is not None and options["clients"] is not None:
        raise click.UsageError("--rate is an open loop and --clients a closed one: give one of them")
    if options["clients"] is None:
        options["rate"] = options["rate"] or 100.0
    if options["burn_in_s"] is None:
        options["burn_in_s"] = options["seconds"] / 5
    slugs = _slugs(phases, PHASES)
    chosen = load(workload)
    edges = populated(graph_of(graph, directed, options["seed"]), chosen, options["seed"])
    settings = Settings(phases=slugs, workload=chosen.name, graph=Path(graph).name, **options)

    def work(rig: "Rig", progress: "Progress") -> "Awaitable[Report]":
        return rounds.compare(rig, edges, chosen, settings, progress)

    with _failing():
        report = _measured(write, work, settings.through, level, allow_standins, where)
    assert isinstance(report, Comparison)
    if any(cell.errors or not cell.drained for cell in report.cells):
        raise SystemExit(FAILED)


@command()
def workloads() -> None:
    """List the workloads: what each is like, and which phase loses on it."""
    from benchmarks.workload import load, names

    for name in names():
        of = load(name)
        click.echo(f"{of.name}\n  example       {of.example}\n  mix           {of.mix_says}")
        click.echo(f"  distribution  {of.distribution}\n  loses here    {of.loses_here}")


@command()
@click.option("--only", multiple=True, metavar="ROW", help="Rows whose names begin so; may be repeated.")
@click.option("--scale", type=Finite(0.001, 1), default=1, help="Share of the full sizes; below 1: no verdict.")
@on_servers
@_writes_a_report
def targets(write: Write, only: tuple[str, ...], scale: float, where: Where) -> None:
    """Measure the ratios that this project promises, both sides in turn. Exit code 1 when one is missed."""
    from benchmarks.report import Targets
    from benchmarks.targets import NAMES, measure
    from benchmarks.targets.base import Scale

    if unknown := [prefix for prefix in only if not any(name.startswith(prefix) for name in NAMES)]:
        raise click.UsageError(f"--only: there is no {unknown[0]!r}; there are {', '.join(NAMES)}")
    sizes = Scale() if scale == 1 else Scale().smaller(scale)
    with _failing():
        report = _measured(write, lambda rig, progress: measure(rig, only, sizes, progress), "api", where=where)
    if scale == 1 and isinstance(report, Targets) and any(row.met is False for row in report.rows):
        raise SystemExit(FAILED)


def _over_http(measure: Callable[..., None]) -> Callable[..., None]:
    """Make a command with the options for asking for pages over HTTP, which gets them as settings of `report`."""
    options = (
        click.option("--graph", default="powerlaw:2000:30", help="FILE (SNAP) or powerlaw:USERS:MEAN."),
        directed,
        click.option("--people", type=click.IntRange(10, 100_000), default=1_000, help="Readers, at most."),
        click.option("--limit", type=click.IntRange(1, 100), default=20, help="Statuses on a page."),
        click.option("--first", type=Finite(1, 100_000), default=100, help="Pages a second of the first step."),
        click.option("--most", type=Finite(1, 100_000), default=10_000, help="Pages a second at most."),
        click.option("--slo", "slo_ms", type=Finite(1, 60_000), default=50, help="Milliseconds: the most for p99."),
        click.option("--seconds", type=Finite(0.1, 3_600), default=5, help="Per step; more where p99 needs it."),
        click.option("--seed", type=int, default=1),
        on_servers,
    )

    @wraps(measure)
    def with_settings(graph: str, directed: bool, where: Where, write: Write, **rest: Any) -> None:
        names = ("people", "limit", "first", "most", "slo_ms", "seconds", "seed")
        settings = {name: rest.pop(name) for name in names}
        edges = graph_of(graph, directed, settings["seed"])
        measure(write, where, edges, settings | {"graph": Path(graph).name}, **rest)

    for option in reversed(options):
        with_settings = option(with_settings)
    return _writes_a_report(with_settings)


@contextmanager
def _failing() -> Iterator[None]:
    """Exit with 1, and without figures, when a page in the block is wrong; also when one is refused."""
    from benchmarks.readers import NotAnswered
    from benchmarks.subject import Failed, WrongAnswer

    said = list[str]()
    try:
        yield
    except* WrongAnswer as wrong:
        said.append(f"wrong, so there are no figures: {_first(wrong)}")
    except* (NotAnswered, Failed) as refused:
        said.append(f"not answered, so the run has failed: {_first(refused)}")
    if said:  # to exit in one of the clauses would be one more error of a group
        click.echo(said[0], err=True)
        raise SystemExit(FAILED)


def _first(errors: BaseException) -> BaseException:
    """Return the first error of a group that tasks have ended with."""
    return _first(errors.exceptions[0]) if isinstance(errors, BaseExceptionGroup) else errors


def _slugs(phases: str | None, of: "Sequence[Phase]") -> tuple[str, ...]:
    """Return the slugs in --phases, which must be of these phases; all of them without it. Raises UsageError."""
    all_slugs = [phase.slug for phase in of]
    asked = all_slugs if phases is None else [slug.strip() for slug in phases.split(",")]
    slugs = tuple(dict.fromkeys(asked))
    if unknown := [slug for slug in slugs if slug not in all_slugs]:
        raise click.UsageError(f"--phases: there is no {unknown[0]!r}; there are {', '.join(all_slugs)}")
    return slugs


@command()
@click.option("--phases", metavar="SLUG,…", help="Which. Default: all.")
@click.option("--web", type=click.Choice(["1", "2"]), multiple=True, default=["1", "2"], help="Web processes.")
@click.option("--readers", type=click.Choice(["warm", "strangers"]), multiple=True, default=["warm", "strangers"])
@click.option("--rounds", type=click.IntRange(1, 100), default=3, help="Climbs of each; one has no spread.")
@_over_http
def http(
    write: Write,
    where: Where,
    edges: "Graph",
    settings: dict[str, Any],
    phases: str | None,
    web: tuple[str, ...],
    readers: "tuple[Who, ...]",
    rounds: int,
) -> None:
    """Find how many pages a second are served over HTTP while p99 keeps its objective, at fixed rates that rise.

    Open loop, latency from the intended start. `warm`: the web process knows the readers; `strangers`: it has just been
    started. Exit code 1 when any answer is not the page that it should be.
    """
    from benchmarks import capacity
    from benchmarks.report import HttpSettings
    from phases import PHASES

    slugs, processes = _slugs(phases, PHASES), tuple(map(int, web))
    of = HttpSettings(**settings, phases=slugs, web=processes, readers=readers, rounds=rounds)
    with _failing():
        _measured(write, lambda rig, progress: capacity.http(rig, edges, of, progress), where=where)


@command()
@click.option("--phases", metavar="SLUG,…", help="Which, in this order. Default: all that deliver in a worker.")
@click.option(
    "--most-pending", type=click.IntRange(0, 10_000), default=10_000, help="Of 0, 100, 1,000 and 10,000 statuses."
)
@_over_http
def backlog(
    write: Write,
    where: Where,
    edges: "Graph",
    settings: dict[str, Any],
    phases: str | None,
    most_pending: int,
) -> None:
    """Find what a backlog costs those who read: pages over HTTP while the workers stand still, and until it is gone.

    The statuses are posted over HTTP by people whom the readers follow. Exit code 1 when any answer is not the page
    that it should be.
    """
    from benchmarks import answers
    from benchmarks import backlog as backlogs
    from benchmarks.report import HttpSettings

    of = HttpSettings(**settings, phases=_slugs(phases, answers.IN_WORKER))
    levels = [level for level in backlogs.LEVELS if level <= most_pending]
    with _failing():
        _measured(write, lambda rig, progress: backlogs.backlog(rig, edges, of, levels, progress), where=where)


@command()
@click.option("--rate", "rates", type=Finite(0.1, 10_000), multiple=True, default=[50, 100], help="Messages a second.")
@click.option("--web", type=click.IntRange(1, 16), multiple=True, default=[1, 2], help="Web processes.")
@click.option("--receipts", type=click.Choice(["without", "with"]), multiple=True, default=["without", "with"])
@click.option("--conversations", type=click.IntRange(1, 10_000), default=100)
@click.option("--seconds", type=Finite(0.1, 86_400), default=20, help="At each rate; a p99 takes 1,000 messages.")
@click.option("--seed", type=int, default=1)
@on_servers
@_writes_a_report
def messages(
    write: Write,
    where: Where,
    rates: tuple[float, ...],
    web: tuple[int, ...],
    receipts: "tuple[Receipts, ...]",
    **options: Any,
) -> None:
    """Find how late a message is at the other's open stream, by rate and by number of web processes.

    Open loop, from the moment a message was due; rates end where p99 passes 250 ms. Exit code 1 when a message was
    lost, doubled or out of order, on a stream or on a page.
    """
    from benchmarks import messages as talk
    from benchmarks.report import MessagesReport, MessagesSettings

    of = MessagesSettings(rates=rates, web=web, receipts=receipts, **options)
    with _failing():
        report = _measured(write, lambda rig, progress: talk.messages(rig, of, progress), where=where)
    assert isinstance(report, MessagesReport)
    for wrong in report.wrongs[:SHOWN]:
        click.echo(wrong, err=True)
    if report.wrongs:
        raise SystemExit(FAILED)


@command()
@click.option("--max-followers", type=click.IntRange(10, 100_000), default=100_000)
@click.option("--repeats", type=click.IntRange(1, 1_000), default=7, help="Measurements of each, in turn.")
@on_servers
@_writes_a_report
def fanout(write: Write, max_followers: int, repeats: int, where: Where) -> None:
    """Measure how the delivery of a status grows with its followers, beside the raw limits and the article's array."""
    from benchmarks import curves

    with _failing():
        _measured(write, lambda rig, progress: curves.fanout(rig, max_followers, repeats, progress), where=where)


@command()
@click.option("--max-followees", type=click.IntRange(10, 5_000), default=5_000)
@click.option("--repeats", type=click.IntRange(1, 10_000), default=100, help="Measurements of each, in turn.")
@on_servers
@_writes_a_report
def read(write: Write, max_followees: int, repeats: int, where: Where) -> None:
    """Measure how one page grows with the reader's followees, beside the raw limit and the article's ways."""
    from benchmarks import curves

    with _failing():
        _measured(write, lambda rig, progress: curves.read(rig, max_followees, repeats, progress), where=where)


@command()
@click.option("--followers", type=click.IntRange(10, 100_000), default=40_000, help="Of the celebrity; all are active.")
@click.option(
    "--pages",
    "pages_per_post",
    type=click.IntRange(1, 1_000),
    multiple=True,
    default=(1, 3, 9, 30, 100),
    help="Pages for each post; may be repeated, and each is a point of the curves.",
)
@click.option("--turns", type=click.IntRange(1, 100), default=5, help="Of each phase, at each point.")
@on_servers
@_writes_a_report
def crossover(write: Write, followers: int, pages_per_post: tuple[int, ...], turns: int, where: Where) -> None:
    """Compare pull, push and the hybrid by processor time, where celebrities post, from few pages a post to many."""
    from benchmarks.crossover import crossover

    with _failing():
        _measured(write, lambda rig, progress: crossover(rig, followers, pages_per_post, turns, progress), where=where)


@command()
@click.option("--count", type=click.IntRange(2, 100_000), default=300, help="Reads per figure.")
@click.option("--rounds", type=click.IntRange(1, 100), default=7, help="Of all phases; one has no spread.")
@on_servers
@_writes_a_report
def units(write: Write, count: int, rounds: int, where: Where) -> None:
    """Measure what one post, delivery and read cost each process, for `bench plan`."""
    from benchmarks.units import measure

    with _failing():
        _measured(write, lambda rig, progress: measure(rig, count, rounds, progress), where=where)


@command()
@from_units
@click.option("--graph", help="FILE (SNAP) or powerlaw:USERS:MEAN instead of the next three.")
@directed
@click.option("--users", type=click.IntRange(2), default=100_000)
@click.option("--mean-followers", type=Finite(0), default=100)
@click.option("--most-followers", type=click.IntRange(0), default=50_000)
@click.option("--posts-per-day", type=Finite(0), default=100_000)
@click.option("--reads-per-day", type=Finite(0), default=1_000_000)
@click.option("--active-share", type=Finite(0, 1, min_open=True), default=0.3)
@click.option("--returns-per-day", type=Finite(0), default=0, help="Cold returns.")
@click.option("--retention-days", type=Finite(1), default=365)
@click.option("--peak", type=Finite(1), default=3, help="Busiest hour ÷ mean.")
@click.option(
    "--patience",
    "patience_ms",
    type=Finite(1),
    default=100,
    help="Milliseconds: the longest that anybody may wait for a post, the heaviest author included, or for a page.",
)
@_writes_a_report
def plan(
    write: Write,
    measured: Path,
    graph: str | None,
    directed: bool,
    users: int,
    mean_followers: float,
    most_followers: int,
    peak: float,
    patience_ms: float,
    **a_day: Any,
) -> None:
    """Say what each phase would need for a load, which ones fit, where they cross, and the simplest one that fits."""
    from benchmarks import plan as planning

    units = planning.measured_units(measured)
    if graph:
        load = planning.load_of(graph_of(graph, directed, 1), **a_day)
    else:
        load = planning.Load(users, mean_followers, most_followers, **a_day)
    write(planning.plan(load, units, peak, patience_ms))


@command()
@from_units
@click.option("--phase", default="cache", help="One that a worker delivers.")
@click.option("--region", "names", multiple=True, default=("eu", "us", "ap"), help="Name of a region; one each time.")
@click.option(
    "--delay-ms", type=Finite(0, 60_000), default=80, help="One way, between regions that --between leaves out."
)
@click.option("--between", multiple=True, metavar="A,B=MS", help="The delay between two regions, one way.")
@click.option("--posts-per-second", "posts_per_s", type=Finite(0.1, 1_000), default=20, help="In all regions.")
@click.option("--followers", type=Finite(0, 1_000_000), default=200, help="Of an author, on average, in all regions.")
@click.option("--workers", type=click.IntRange(1, 64), default=1, help="In each region.")
@click.option("--seconds", type=Finite(1, 3_600), default=120, help="Seconds that are simulated.")
@click.option("--cut", help="The region that nobody reaches, after a third of that.")
@click.option("--cut-seconds", "cut_s", type=Finite(0, 3_600), default=30, help="Seconds for which it is cut off.")
@click.option("--acknowledged", type=click.Choice(["home", "majority"]), default="majority", help="By which regions.")
@click.option("--seed", type=int, default=1, help="The same number, the same figures.")
@click.option("--json", "as_json", is_flag=True, help="The same as JSON.")
def regions(
    measured: Path,
    phase: str,
    names: tuple[str, ...],
    delay_ms: float,
    between: tuple[str, ...],
    seconds: float,
    as_json: bool,
    **setup: Any,
) -> None:
    """Simulate several data centres: how late a status is in each, and what a region that is cut off costs.

    Exit code 1 when a page would have been wrong.
    """
    from benchmarks.plan import measured_units
    from benchmarks.regions import Setup, delays_between, simulate
    from phases import PHASES

    units = measured_units(measured).units.get(phase)
    if units is None or not any(each.slug == phase and each.carrier and each.carrier.in_worker for each in PHASES):
        raise click.UsageError(f"{measured} has no phase {phase!r} that a worker delivers")
    delays = delays_between(names, delay_ms, between)
    found = simulate(Setup(names, delays, seconds=seconds, cut_at_s=seconds / 3, **setup), phase, units)
    for line in [found.model_dump_json(indent=1)] if as_json else found.lines():
        click.echo(line)
    click.get_current_context().exit(0 if found.good else FAILED)


@command()
@click.argument("name")
@click.argument("file", type=click.Path(exists=True, dir_okay=False, path_type=Path))
def keep(name: str, file: Path) -> None:
    """Keep the report FILE as NAME in docs/results, and write its tables into docs/results.md.

    NAME is one that the document has a place for: `<!-- report: NAME -->` and `<!-- end of NAME -->`.
    """
    from benchmarks import results

    results.keep(name, file)
    click.echo(f"docs/results.md shows {name}")


MEASUREMENTS = (
    backlog,
    compare,
    crossover,
    fanout,
    http,
    keep,
    messages,
    plan,
    read,
    regions,
    targets,
    units,
    workloads,
)
