"""What `feedlab seed` says and shows; the command line hands it a stack."""

import asyncio
import secrets
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import click
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

from app.stack import Stack
from benchmarks import seed as seeding
from benchmarks.graph import Graph, load, powerlaw

LINE_EVERY_S = 5.0  # without a terminal


def graph_from(file: Path | None, directed: bool, users: int, mean: float, seed: int) -> Graph:
    """The graph of the file, or a generated one without a file. Raises GraphError."""
    return powerlaw(users, mean, seed) if file is None else load(file, directed)


async def run(
    stack: Stack, graph: Graph, *, statuses: int, days: int, seed: int, password: str | None, reset: bool
) -> None:
    """Seed, showing progress on stderr and the outcome on stdout. Without a password everybody gets a random one.

    Raises SeedRefused, also where the database is inside this process and would end with it.
    """
    if stack.addresses.mongodb is None:
        raise seeding.SeedRefused("the database would be in this process and end with it: seed a real server")
    chosen = password or secrets.token_urlsafe(12)
    try:
        with _progress(Console(stderr=True)) as progress:
            report = await seeding.seed(
                stack,
                graph,
                statuses=statuses,
                days=days,
                seed=seed,
                password=chosen,
                reset=reset,
                progress=progress,
            )
    except asyncio.CancelledError:
        click.echo("Interrupted: what was written so far is still there. Start again with --reset.", err=True)
        raise
    if password is None:
        click.echo(f"password of every seeded person: {chosen}")
    click.echo(f"people to sign in as: {' '.join(report.handles)}")
    click.echo(
        f"seeded {report.users:,} people, {report.follows:,} follow edges and {report.statuses:,} statuses "
        f"in {report.elapsed_s:.1f} s"
    )


@contextmanager
def _progress(console: Console) -> Iterator[seeding.Progress]:
    """A bar for each collection on a terminal, now and then a line elsewhere."""
    if not console.is_terminal:
        yield _lines()
        return
    columns = (TextColumn("{task.description:>9}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
    with Progress(*columns, console=console) as bars:
        tasks = {}

        def show(stage: str, done: int, total: int) -> None:
            if stage not in tasks:
                tasks[stage] = bars.add_task(stage)
            bars.update(tasks[stage], completed=done, total=total)

        yield show


def _lines() -> seeding.Progress:
    said_s = time.monotonic()

    def say(stage: str, done: int, total: int) -> None:
        nonlocal said_s
        if 0 < done == total or time.monotonic() - said_s >= LINE_EVERY_S:
            said_s = time.monotonic()
            click.echo(f"{stage}: {done:,} of {total:,}", err=True)

    return say
