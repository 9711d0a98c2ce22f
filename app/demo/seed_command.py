"""The command `feedlab seed`: what it asks, says and shows. The command line hands it a stack."""

import asyncio
import secrets

import click

from app.demo import seed as seeding
from app.demo.graph import Graph
from app.demo.progress import shown
from app.models import Status, User
from app.servers.urls import masked
from app.stack import Stack
from app.stack.mongodb.whole import sizes


async def run(
    stack: Stack,
    graph: Graph,
    *,
    statuses: int,
    days: int,
    seed: int,
    password: str | None,
    reset: bool,
    yes: bool = False,
) -> None:
    """Seed, with progress on stderr and the outcome on stdout. Without a password everybody gets a random one.

    Raises SeedRefused, also where the database is inside this process and would end with it. `reset` says what it
    erases and asks first, unless `yes`; the answer no raises click.Abort.
    """
    if stack.addresses.mongodb is None:
        raise seeding.SeedRefused("the database would be in this process and end with it: seed a real server")
    if reset:
        click.echo(await _erased(stack), err=True)
        if not yes:
            click.confirm("Erase all that? (--yes does not ask)", abort=True, err=True)
    chosen = password or secrets.token_urlsafe(12)
    try:
        with shown() as progress:
            report = await seeding.seed(
                stack, graph, statuses=statuses, days=days, seed=seed, password=chosen, reset=reset, progress=progress
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


async def _erased(stack: Stack) -> str:
    """Return a sentence that says what `reset` erases, and where."""
    names = (User.Settings.name, Status.Settings.name)
    accounts, statuses = (await sizes(stack.db, names)).values()
    redis = "this process" if stack.addresses.redis is None else masked(stack.addresses.redis)
    return (
        f"--reset erases {accounts:,} accounts, {statuses:,} statuses and what belongs to them in the database "
        f"{stack.config.database!r} at {masked(str(stack.addresses.mongodb))}, and its jobs in Redis at {redis}. "
        "Nothing else on these servers is touched."
    )
