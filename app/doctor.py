"""`feedlab doctor`: where each server comes from, whether it answers, and what to do when it is missing."""

import asyncio
import json
import platform
from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from datetime import datetime
from importlib.metadata import version
from pathlib import Path
from typing import Any

import click
from pymongo.errors import OperationFailure, PyMongoError
from pymongo.uri_parser import parse_uri
from rich import box
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from app.clock import Clock
from app.config import Config
from app.servers.commands import HISTORY_S
from app.servers.datadir import DataDirectory, Note
from app.servers.probe import NoAnswer, ask
from app.servers.programs import TITLES, Level, Source, resolve
from app.servers.urls import Server, masked, without_secrets
from app.stack import schema
from app.stack.mongodb.connection import Database, Unsuitable, connect, disconnect, preflight
from app.stack.mongodb.whole import WINDOW
from app.stack.outage import briefly

TIMEOUT_S = 3.0


@dataclass(frozen=True)
class Finding:
    """What was found of one server. `advice`: what is to be done, or would be better, if anything; `schema`: the
    version of our database in MongoDB.
    """

    server: str
    source: str
    version: str
    address: str
    state: str
    ok: bool
    advice: str
    schema: int | None = None


def examine(data: Path, config: Config, level: Level) -> tuple[list[Finding], int | None]:
    """Return a finding per server, and the id of the process that runs them now, if one does."""
    owner = DataDirectory(data).owner()
    note = owner if owner and owner.ready and level in ("auto", "servers") else None
    findings = [_finding(source, note, config) for source in resolve(config, level)]
    return findings, owner.owner.pid if owner and owner.owner else None


def _finding(source: Source, note: Note | None, config: Config) -> Finding:
    running = () if source.urls else _running(source.server, note)
    if source.urls or running:
        found = _asked(source, source.urls or running)
        if running and note:  # what PATH has now may be another program, or none
            found = replace(found, source=note.sources.get(source.server, "not noted: an earlier version started it"))
        found = _with_schema(found, (source.urls or running)[0], config) if found.ok else found
        return replace(found, state=without_secrets(found.state, config))
    if source.program:
        return Finding(source.title, str(source), source.version or "", "would start", "not running", True, "")
    wanted = source.advice is None  # --stack memory: no real server is looked for
    return Finding(source.title, str(source), "", "", "missing" if source.advice else "ok", wanted, source.advice or "")


def _running(server: Server, note: Note | None) -> tuple[str, ...]:
    if note is None:
        return ()
    found = {"mongodb": note.mongodb, "redis": note.redis}.get(server)
    return (found,) if found else (note.memcached or ()) if server == "memcached" else ()


def _asked(source: Source, urls: tuple[str, ...]) -> Finding:
    address = ", ".join(masked(url) for url in urls)
    try:
        versions = sorted({ask(source.server, url, TIMEOUT_S).version for url in urls})
    except NoAnswer as error:
        advice = "start it, or correct the URL" if source.urls else "see the logs folder of the data directory"
        return Finding(source.title, str(source), "", address, f"no answer: {error}", False, advice)
    return Finding(source.title, str(source), ", ".join(versions), address, "answers", True, "")


def _with_schema(found: Finding, url: str, config: Config) -> Finding:
    if found.server != TITLES["mongodb"]:
        return found
    try:
        said, advice = asyncio.run(_looked_at(url, config))
    except Unsuitable as error:
        return replace(found, state="unsuitable", ok=False, advice=str(error))
    except PyMongoError as error:
        return replace(found, state=f"no answer: {briefly(error)}", ok=False, advice="see what the URL's user may read")
    try:
        schema.check(config.database, said or {"version": 0})
    except schema.SchemaTooNew as error:
        return replace(found, state="too new", ok=False, advice=str(error), schema=error.found)
    except schema.BrokenOff as error:
        return replace(found, state="half restored", ok=False, advice=str(error))
    return replace(found, schema=said["version"] if said else None, advice=advice)


async def _looked_at(url: str, config: Config) -> tuple[dict[str, Any] | None, str]:
    """Return what the database says of its schema, and advice, "" where there is none."""
    database, clock, most_s = connect(url, config.database, TIMEOUT_S), Clock(), config.grace_s / 2
    try:
        await preflight(database)
        said, history_s = await schema.said(database), await _history_s(database)
        asked = clock.now()
        told = await database.command("hello", codec_options=database.codec_options)
        answered = clock.now()
    finally:
        await disconnect(database)
    apart, routers = _one_time(_ahead_s(asked, told["localTime"], answered), most_s), _one_router(told, url)
    cluster = _no_later(told["operationTime"].as_datetime(), max(told["localTime"], answered), most_s)
    return said, "; ".join(filter(None, (apart, cluster, routers, _less_history(history_s))))


def _ahead_s(asked: datetime, told: datetime, answered: datetime) -> float:
    """Return how far the clock of this machine is ahead of what mongod or the router has told, in seconds, at least;
    below 0 it is behind. How long the answer takes does not count.
    """
    return max((asked - told).total_seconds(), 0.0) - max((told - answered).total_seconds(), 0.0)


def _one_time(ahead_s: float, most_s: float) -> str:
    """Return advice where the clocks are further apart than `most_s`; otherwise ""."""
    if abs(ahead_s) <= most_s:
        return ""
    return (
        f"the clock of this machine is {abs(ahead_s):,.1f} s {'ahead of' if ahead_s > 0 else 'behind'} MongoDB's, and "
        f"timelines need them within {most_s:g} s: have every machine keep the time (chrony, systemd-timesyncd)"
    )


def _no_later(cluster: datetime, now: datetime, most_s: float) -> str:
    """Return advice where the time by which MongoDB dates what is stored is later than all clocks; otherwise ""."""
    ahead_s = (cluster - now).total_seconds()
    if ahead_s <= most_s:
        return ""
    return (
        f"the time of MongoDB's cluster is {ahead_s:,.0f} s ahead of every clock, as some clock once was, and until "
        "that has passed pages are slower while much is pending (docs/operations.md#feedlablatency)"
    )


def _one_router(told: Mapping[str, Any], url: str) -> str:
    """Return advice where the URL names several routers; otherwise ""."""
    if told.get("msg") != "isdbgrid" or len(parse_uri(url)["nodelist"]) == 1:
        return ""
    return (
        "FEEDLAB_MONGODB_URL names several routers, and a page by one may miss what another has acknowledged: name one "
        "for all processes, or an address behind which it is always the same one (docs/scaling.md)"
    )


async def _history_s(database: Database) -> int | None:
    """Return the seconds for which mongod keeps what was removed; None where this user may not see it, or a router
    answers.
    """
    try:
        found = await database.client.admin.command({"getParameter": 1, WINDOW: 1})
    except OperationFailure:
        return None
    return int(found[WINDOW])


def _less_history(history_s: int | None) -> str:
    """Return advice where mongod keeps, or may keep, more than embedded servers do; otherwise ""."""
    if history_s is not None and history_s <= HISTORY_S:
        return ""
    kept = "this user may not see how long it keeps" if history_s is None else f"it keeps for {history_s} s"
    return (
        f"{kept} index entries that were removed, and above {HISTORY_S} s pages are slower on a busy site: "
        f"db.adminCommand({{setParameter: 1, {WINDOW}: {HISTORY_S}}}) in mongosh on each member, and mongod "
        f"--setParameter {WINDOW}={HISTORY_S} from its next start on; longer backups then need --window"
    )


def doctor(data: Path, config: Config, level: Level, *, as_json: bool) -> int:
    """Print what `examine` finds. Return 0 when every server is a real one that answers or can be started, else 1."""
    findings, owner = examine(data, config, level)
    ok = all(finding.ok for finding in findings)
    facts = {"feedlab": version("feedlab"), "python": platform.python_version(), "data": str(data.absolute())}
    if as_json:
        servers = [asdict(finding) for finding in findings]
        click.echo(json.dumps({**facts, "stack": level, "owner": owner, "ok": ok, "servers": servers}, indent=1))
        return 0 if ok else 1
    doing = f"in use by process {owner}" if owner else "not in use"
    click.echo(f"Feedlab {facts['feedlab']}, Python {facts['python']}, data in {facts['data']} ({doing})")
    Console(soft_wrap=False).print(_table(findings))
    for finding in findings:
        if finding.advice:
            click.echo(f"{finding.server}: {finding.advice}")
    return 0 if ok else 1


def _table(findings: list[Finding]) -> Table:
    table = Table(box=box.SIMPLE_HEAD)
    for title in ("server", "version", "state", "address", "from"):
        table.add_column(title, overflow="fold")
    for finding in findings:
        state = f"[{'green' if finding.ok else 'red'}]{escape(finding.state)}[/]"
        version = finding.version + (f", schema {finding.schema}" if finding.schema else "")
        table.add_row(finding.server, version, state, escape(finding.address), escape(finding.source))
    return table
