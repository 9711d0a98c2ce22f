"""The commands of `feedlab bench` that measure. Each imports what it needs when it runs."""

import asyncio
import shlex
import sys
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import click

if TYPE_CHECKING:
    from app.demo.graph import Graph
    from app.demo.progress import Progress
    from app.servers.programs import Level
    from benchmarks.report import Report
    from benchmarks.rig import Rig

Command = TypeVar("Command", bound=Callable[..., Any])
Outputs = dict[str, Path | None]

FAILED = 1  # exit code: an answer was wrong


def _output_options(command: Command) -> Command:
    path = click.Path(dir_okay=False, writable=True, path_type=Path)
    for option in (
        click.option("--html", type=path, help="Write the report as one self-contained page."),
        click.option("--csv", type=path, help="Write the figures as lines of phase, figure, value."),
        click.option("--json", "json_file", type=path, help="Write everything that was measured."),
    ):
        command = option(command)
    return command


def _measured(
    work: "Callable[[Rig, Progress], Awaitable[Report]]",
    outputs: Outputs,
    through: str = "inprocess",
    level: "Level" = "servers",
    allow_standins: bool = False,
) -> "Report":
    """On a rig, with its progress shown, and written."""
    from app.demo.progress import shown
    from benchmarks.rig import rig, servers

    async def run() -> "Report":
        async with rig(addresses, directory, config, through) as running:
            with shown() as progress:
                return await work(running, progress)

    with servers(level, allow_standins) as (addresses, directory, config):
        result = asyncio.run(run())
    _written(result, **outputs)
    return result


def _graph(spec: str, directed: bool, seed: int) -> "Graph":
    """A file, or powerlaw:USERS:MEAN. Raises GraphError."""
    from app.demo.graph import GraphError, load, powerlaw

    if not spec.startswith("powerlaw:"):
        return load(Path(spec), directed)
    try:
        _, users, mean = spec.split(":")
        return powerlaw(int(users), float(mean), seed)
    except ValueError:
        raise GraphError(f"{spec!r}: write powerlaw:USERS:MEAN, such as powerlaw:2000:30") from None


@click.command()
@click.option("--phases", metavar="SLUG,…", help="Which, in this order. Default: all.")
@click.option("--graph", default="powerlaw:2000:30", show_default=True, help="FILE (SNAP) or powerlaw:USERS:MEAN.")
@click.option("--directed", is_flag=True, help="A line of FILE is `follower followee`, not a friendship.")
@click.option(
    "--workload", default="read-heavy", show_default=True, help="A name (see `bench workloads`) or FILE.toml."
)
@click.option("--rate", type=click.FloatRange(0.1, 100_000), help="Open loop: operations per second. Default: 100.")
@click.option("--clients", type=click.IntRange(1, 500), help="Closed loop: so many wait for each answer.")
@click.option(
    "--seconds", type=click.FloatRange(0.1, 86_400), default=20, show_default=True, help="Per phase and round."
)
@click.option("--burn-in", type=click.FloatRange(0, 3_600), help="Seconds that do not count. Default: a fifth.")
@click.option("--rounds", type=click.IntRange(1, 100), default=3, show_default=True)
@click.option("--seed", type=int, default=1, show_default=True)
@click.option("--through", type=click.Choice(["api", "inprocess"]), default="inprocess", show_default=True)
@click.option(
    "--stack",
    "level",
    type=click.Choice(["auto", "servers", "memory"]),
    default="auto",
    show_default=True,
    help="Real servers of its own, or in-process stand-ins. Servers given by URL are never touched.",
)
@click.option("--allow-standins", is_flag=True, help="Measure stand-ins, and mark every figure as meaningless.")
@_output_options
def compare(
    phases: str | None,
    graph: str,
    directed: bool,
    workload: str,
    rate: float | None,
    clients: int | None,
    seconds: float,
    rounds: int,
    burn_in: float | None,
    seed: int,
    through: Any,
    level: "Level",
    allow_standins: bool,
    **outputs: Path | None,
) -> None:
    """Run one workload against each phase, in interleaved rounds, on servers of its own.

    Open loop (--rate) measures from the moment an operation was due; closed loop (--clients) from when it was sent.
    Exit code 1, and no figures, when a page is not what it should be.
    """
    from benchmarks import rounds as measuring
    from benchmarks.observe import NotDelivered
    from benchmarks.report import Settings
    from benchmarks.workload import load, populated
    from phases import PHASES

    if rate is not None and clients is not None:
        raise click.UsageError("--rate is an open loop and --clients a closed one: give one of them")
    all_slugs = [phase.slug for phase in PHASES]
    slugs = tuple(dict.fromkeys(slug.strip() for slug in phases.split(","))) if phases else tuple(all_slugs)
    if unknown := [slug for slug in slugs if slug not in all_slugs]:
        raise click.UsageError(f"--phases: there is no {unknown[0]!r}; there are {', '.join(all_slugs)}")
    chosen = load(workload)
    edges = populated(_graph(graph, directed, seed), chosen, seed)
    settings = Settings(
        phases=slugs,
        workload=chosen.name,
        graph=Path(graph).name,
        seconds=seconds,
        rounds=rounds,
        seed=seed,
        through=through,
        burn_in_s=seconds / 5 if burn_in is None else burn_in,
        rate=rate or (None if clients else 100.0),
        clients=clients,
    )

    def work(rig: "Rig", progress: "Progress") -> "Awaitable[Report]":
        return measuring.compare(rig, edges, chosen, settings, progress)

    try:
        _measured(work, outputs, through, level, allow_standins)
    except* (measuring.WrongAnswer, NotDelivered) as wrong:
        click.echo(f"wrong, so there are no figures: {wrong.exceptions[0]}", err=True)
        raise SystemExit(FAILED) from None


@click.command()
def workloads() -> None:
    """List the workloads: what each is like, and which phase loses on it."""
    from benchmarks.workload import load, names

    for name in names():
        of = load(name)
        click.echo(f"{of.name}\n  example       {of.example}\n  mix           {of.mix_says}")
        click.echo(f"  distribution  {of.distribution}\n  loses here    {of.loses_here}")


@click.command()
@click.option("--only", multiple=True, metavar="ROW", help="Rows whose names begin so; may be repeated.")
@click.option(
    "--scale", type=click.FloatRange(0.001, 1), default=1, show_default=True, help="Smaller sizes: no verdict."
)
@_output_options
def targets(only: tuple[str, ...], scale: float, **outputs: Path | None) -> None:
    """Measure the ratios that this project promises, both sides in turn. Exit code 1 when one is missed."""
    from benchmarks.report import Targets
    from benchmarks.targets import NAMES, measure
    from benchmarks.targets.base import Scale

    if unknown := [prefix for prefix in only if not any(name.startswith(prefix) for name in NAMES)]:
        raise click.UsageError(f"--only: there is no {unknown[0]!r}; there are {', '.join(NAMES)}")
    sizes = Scale() if scale == 1 else Scale().smaller(scale)
    result = _measured(lambda rig, progress: measure(rig, only, sizes, progress), outputs, "api")
    if scale == 1 and isinstance(result, Targets) and any(row.met is False for row in result.rows):
        raise SystemExit(FAILED)


def _written(result: "Report", json_file: Path | None, csv: Path | None, html: Path | None) -> None:
    """Write the files that were asked for, with the command that made them, and show the tables."""
    from benchmarks import report, tables

    result = result.model_copy(update={"command": _command()})
    report.write(result, json_file=json_file, csv=csv)
    if html:
        from benchmarks.page import page

        html.write_text(page(result))
    tables.show(result)


def _command() -> str:
    """As it was typed, files by their names alone: a report is no place for somebody's paths."""
    words = [Path(word).name if "/" in word else word for word in sys.argv[1:]]
    return shlex.join(["feedlab", *words])


@click.command()
@click.option("--max-followers", type=click.IntRange(10, 100_000), default=100_000, show_default=True)
@click.option("--repeats", type=click.IntRange(1, 1_000), default=7, show_default=True, help="Each, in turn.")
@_output_options
def fanout(max_followers: int, repeats: int, **outputs: Path | None) -> None:
    """How the delivery of one status grows with its followers, beside the raw limits and the article's array."""
    from benchmarks import curves

    _measured(lambda rig, progress: curves.fanout(rig, max_followers, repeats, progress), outputs)


@click.command()
@click.option("--max-followees", type=click.IntRange(10, 5_000), default=5_000, show_default=True)
@click.option("--repeats", type=click.IntRange(1, 10_000), default=100, show_default=True, help="Each, in turn.")
@_output_options
def read(max_followees: int, repeats: int, **outputs: Path | None) -> None:
    """How one page grows with the reader's followees, beside the raw limit and the article's ways."""
    from benchmarks import curves

    _measured(lambda rig, progress: curves.read(rig, max_followees, repeats, progress), outputs)


@click.command()
@click.option("--count", type=click.IntRange(2, 100_000), default=300, show_default=True, help="Reads per figure.")
@_output_options
def units(count: int, **outputs: Path | None) -> None:
    """Measure what one post, delivery and read cost each process, for `bench plan`."""
    from benchmarks import units as measuring

    _measured(lambda rig, progress: measuring.measure(rig, count, progress), outputs)


@click.command()
@click.option(
    "--measured",
    type=click.Path(exists=True, dir_okay=False, path_type=Path),
    required=True,
    help="What `bench units --json` wrote, on the machine that is planned with.",
)
@click.option("--graph", help="FILE (SNAP) or powerlaw:USERS:MEAN instead of the next three.")
@click.option("--directed", is_flag=True, help="A line of FILE is `follower followee`, not a friendship.")
@click.option("--users", type=click.IntRange(2), default=100_000, show_default=True)
@click.option("--mean-followers", type=click.FloatRange(0), default=100, show_default=True)
@click.option("--most-followers", type=click.IntRange(0), default=50_000, show_default=True)
@click.option("--posts-per-day", type=click.FloatRange(0), default=100_000, show_default=True)
@click.option("--reads-per-day", type=click.FloatRange(0), default=1_000_000, show_default=True)
@click.option("--active-share", type=click.FloatRange(0, 1, min_open=True), default=0.3, show_default=True)
@click.option("--returns-per-day", type=click.FloatRange(0), default=0, show_default=True, help="Cold returns.")
@click.option("--retention-days", type=click.FloatRange(1), default=365, show_default=True)
@click.option("--peak", type=click.FloatRange(1), default=3, show_default=True, help="Busiest hour ÷ mean.")
@_output_options
def plan(
    measured: Path,
    graph: str | None,
    directed: bool,
    users: int,
    mean_followers: float,
    most_followers: int,
    peak: float,
    **more: Any,
) -> None:
    """Say what each phase would need for a load, where they cross, and which one to take."""
    from benchmarks import plan as planning

    units = planning.measured_units(measured)
    outputs = {name: more.pop(name) for name in ("json_file", "csv", "html")}
    if graph:
        load = planning.load_of(_graph(graph, directed, 1), **more)
    else:
        load = planning.Load(users, mean_followers, most_followers, **more)
    _written(planning.plan(load, units, peak), **outputs)


@click.command(hidden=True)
@click.argument("name")
@click.argument("file", type=click.Path(exists=True, dir_okay=False, path_type=Path))
def keep(name: str, file: Path) -> None:
    """Keep the report FILE as NAME for docs/results.md, and write its tables there."""
    from benchmarks import results

    results.keep(name, file)
    click.echo(f"docs/results.md shows {name}")


MEASUREMENTS = (compare, fanout, keep, plan, read, targets, units, workloads)
