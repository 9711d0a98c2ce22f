"""`feedlab bench compare`: the same seeded workload against each phase, in rounds, and the proof that it was right."""

import asyncio
import platform
import random
import statistics
import time
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from typing import Any, Literal

import psutil
from bson import ObjectId

from app.demo.graph import Graph
from app.stack import Stack
from app.stack.cost import Cost
from benchmarks import measure, observe
from benchmarks.measure import Latencies, Offered
from benchmarks.record import Record
from benchmarks.rig import BenchRefused, Rig, commit
from benchmarks.subject import Failed, Seen
from benchmarks.workload import Cast, Operation, Operations, Workload

FORMAT = 1  # of the JSON
DRAIN_S = 120.0
CHECKED_READERS = 40
CHECKED_PAGES = 3
SETTLE_ATTEMPTS = 20
SETTLE_PAUSE_S = 0.5
BASE = "query"  # the phase that ratios are to
KINDS = ("post", "read_warm", "read_cold", "older", "lag")
PACKAGES = (
    "feedlab",
    "motor",
    "pymongo",
    "beanie",
    "redis",
    "rq",
    "pymemcache",
    "starlette",
    "uvicorn",
    "hdrhistogram",
)

Progress = Callable[[str, int, int], None]  # what is being done, steps done, of how many


class WrongAnswer(Exception):
    """A page differs from the oracle's: there are no figures."""


@dataclass(frozen=True)
class Settings:
    """What is measured. Exactly one of `rate` (operations per second, open loop) and `clients` (closed loop)."""

    phases: tuple[str, ...]
    workload: str
    graph: str
    seconds: float
    rounds: int
    seed: int
    through: Literal["api", "inprocess"]
    burn_in_s: float
    rate: float | None = None
    clients: int | None = None


@dataclass
class Tally:
    """What one phase did in one round."""

    latencies: dict[str, Latencies] = field(default_factory=lambda: {kind: Latencies() for kind in KINDS})
    counts: Counter[str] = field(default_factory=Counter)
    errors: Counter[str] = field(default_factory=Counter)
    costs: dict[str, Cost] = field(default_factory=lambda: {"post": Cost(), "read": Cost()})
    costed: Counter[str] = field(default_factory=Counter)

    def cost(self, what: str, cost: Cost) -> None:
        total = self.costs[what]
        total.mongodb += cost.mongodb
        total.memcached += cost.memcached
        total.redis += cost.redis
        self.costed[what] += 1


class Run:
    """One phase in one round: does the operations, and keeps the record of them."""

    def __init__(
        self, rig: Rig, slug: str, workload: Workload, record: Record, active: set[ObjectId], name: str
    ) -> None:
        self.rig, self.slug, self.workload, self.record = rig, slug, workload, record
        self.tally = Tally()
        self.lags = observe.Lags(rig.stack, rig.timelines, slug, record, active)
        self.posted: list[ObjectId] = []
        self._name = name
        self._statuses: dict[int, asyncio.Future[ObjectId]] = {}  # by the number of the operation
        self._turns: dict[frozenset[int], asyncio.Lock] = {}  # edges of one pair change in the order of operations
        self._cursors: dict[int, ObjectId | None] = {}
        self._failed: list[Operation] = []

    async def do(self, operation: Operation, intended: float, counts: bool) -> None:
        loop = asyncio.get_running_loop()
        if operation.kind == "post":
            self._statuses[operation.number] = loop.create_future()
        try:
            what = await self._do(operation, counts)
        except Failed as error:
            self.tally.errors[f"{operation.kind}: {error.kind}"] += counts
            if operation.kind not in ("read", "older"):
                self._failed.append(operation)
            return
        if counts:
            self.tally.counts[operation.kind] += 1
            if what in KINDS:
                self.tally.latencies[what].record(loop.time() - intended)

    async def _do(self, operation: Operation, counts: bool) -> str:
        match operation.kind:
            case "read" | "older":
                return await self._read(operation, counts)
            case "post":
                await self._post(operation, counts)
            case "delete":
                await self._delete(operation)
            case "follow" | "unfollow" | "block":
                assert operation.other is not None
                pair = frozenset((operation.who, operation.other))
                async with self._turns.setdefault(pair, asyncio.Lock()):
                    await self._edge(operation, operation.other)
        return operation.kind

    async def _read(self, operation: Operation, counts: bool) -> str:
        older = operation.kind == "older" and self._cursors.get(operation.who) is not None
        before = self._cursors[operation.who] if older else None
        seen = await self._page(operation.who, before)
        if not older:
            self._cursors[operation.who] = seen.next
        if counts and not older:
            self.tally.cost("read", seen.cost)
        return "older" if older else "read_cold" if seen.cold else "read_warm"

    async def _page(self, who: int, before: ObjectId | None) -> Seen:
        return await self.rig.subject.page(self.rig.ids[who], self.slug, before, self.workload.limit)

    async def _post(self, operation: Operation, counts: bool) -> None:
        author = self.rig.ids[operation.who]
        key = f"{self._name}-{operation.number}"
        status, cost = await self.rig.subject.post(author, operation.text, operation.audience, key)
        self.record.post(author, status, operation.audience)
        self.posted.append(status)
        self.lags.acknowledged(status, author, counts)
        self._statuses[operation.number].set_result(status)
        if counts and cost is not None:
            self.tally.cost("post", cost)

    async def _delete(self, operation: Operation) -> None:
        assert operation.target is not None
        author, status = self.rig.ids[operation.who], await self._statuses[operation.target]
        await self.rig.subject.delete(author, status)
        self.record.delete(author, status)

    async def _edge(self, operation: Operation, other: int) -> None:
        subject, one, two = self.rig.subject, self.rig.ids[operation.who], self.rig.ids[other]
        match operation.kind:
            case "follow":
                await subject.follow(one, two)
                self.record.follow(one, two)
            case "unfollow":
                await subject.unfollow(one, two)
                self.record.unfollow(one, two)
            case "block":
                await subject.block(one, two)
                self.record.block(one, two)

    async def settle(self) -> None:
        """Repeat what failed, in order: it is not known what became of it, and each of it may be repeated."""
        for _ in range(SETTLE_ATTEMPTS):
            again, self._failed = sorted(self._failed, key=lambda operation: operation.number), []
            for operation in again:
                try:
                    await self._do(operation, counts=False)
                except Failed:
                    self._failed.append(operation)
            if not self._failed:
                return
            await asyncio.sleep(SETTLE_PAUSE_S)
        raise BenchRefused(f"{len(self._failed)} operations keep failing, the last one: {self._failed[-1].kind}")

    async def check(self, readers: Sequence[ObjectId]) -> int:
        """Compare pages with the oracle. Raises WrongAnswer at the first difference; returns the pages compared."""
        limit, compared = self.workload.limit, 0
        for reader in readers:
            expected, before = self.record.timeline(reader), None
            for number in range(CHECKED_PAGES):
                seen = await self.rig.subject.page(reader, self.slug, before, limit)
                due = expected[number * limit : (number + 1) * limit]
                more = len(expected) > (number + 1) * limit
                if list(seen.ids) != due or (seen.next is not None) != more:
                    raise WrongAnswer(_difference(self.slug, reader, number, due, seen))
                compared += 1
                before = seen.next
                if before is None:
                    break
        return compared


def _difference(slug: str, reader: ObjectId, number: int, due: list[ObjectId], seen: Seen) -> str:
    missing, extra = set(due) - set(seen.ids), set(seen.ids) - set(due)
    what = [f"lacks {len(missing)} statuses" if missing else "", f"shows {len(extra)} too many" if extra else ""]
    how = " and ".join(filter(None, what)) or "is in another order, or ends elsewhere"
    first = min(missing | extra, default=None)
    return f"{slug}: page {number + 1} of reader {reader} {how}; the first difference: {first}"


async def compare(
    rig: Rig, graph: Graph, workload: Workload, settings: Settings, progress: Progress = lambda *_: None
) -> dict[str, Any]:
    """Run the rounds and return the report, as `--json` writes it. Raises WrongAnswer, NotDelivered, BenchRefused."""
    began = time.monotonic()
    steps = settings.rounds * len(settings.phases)
    progress("loading the graph", 0, steps)
    await rig.load(graph, settings.seed, workload.history, Cast(workload, graph, settings.seed).readers)
    cells: list[dict[str, Any]] = []
    for number in range(settings.rounds):
        for slug in settings.phases:
            progress(f"round {number + 1}, {slug}", len(cells), steps)
            cells.append(await _cell(rig, graph, workload, settings, number, slug))
    progress("done", steps, steps)
    report = {
        **await header("compare", rig, asdict(settings)),
        "workload": workload.model_dump(by_alias=True),
        "graph": described(graph, settings.graph),
        "elapsed_s": round(time.monotonic() - began, 1),
        "cells": cells,
    }
    return {**report, "phases": summary(cells, settings.phases), "ratios": ratios(cells, settings.phases)}


async def _cell(
    rig: Rig, graph: Graph, workload: Workload, settings: Settings, number: int, slug: str
) -> dict[str, Any]:
    cast = Cast(workload, graph, settings.seed)
    readers = [rig.ids[person] for person in cast.readers]
    record = rig.record.copy()
    empty_bytes = await observe.memcached_bytes(rig.stack)
    await rig.switch(slug)
    await rig.warm(slug, readers, workload.limit)
    if workload.returning:
        await rig.forget(slug)
        await rig.away(long=True)
    name = f"{settings.seed}-{number}-{slug}"
    run = Run(rig, slug, workload, record, set(readers), name)
    depths = observe.Depths(rig.stack, run.lags)
    operations = Operations(workload, graph, settings.seed + number)
    loop = asyncio.get_running_loop()
    async with observe.watched(run.lags, depths):
        meters = await _Meters.read(rig)
        began = loop.time()
        offered = await _offer(run, operations, settings)
        in_time = await run.lags.drained(DRAIN_S)
        elapsed_s = max(offered.seconds + settings.burn_in_s, run.lags.cleared_at - began)
        used = (await _Meters.read(rig)).since(meters, run.lags.polls)
    await run.settle()
    compared = await run.check(random.Random(settings.seed).sample(readers, min(CHECKED_READERS, len(readers))))
    kept = await observe.kept(rig.stack, rig.timelines, slug, record, set(readers), len(graph.people), empty_bytes)
    await rig.forget(slug)
    await rig.restore(record, run.posted)
    return {
        "round": number + 1,
        "phase": slug,
        **_figures(run, offered, elapsed_s),
        **used,
        "kept": asdict(kept),
        "depths": {"columns": ["s", "jobs", "statuses pending"], "rows": depths.series},
        "drained": in_time,
        "checked_pages": compared,
    }


async def _offer(run: Run, operations: Operations, settings: Settings) -> Offered:
    if settings.rate is not None:
        return await measure.open_loop(
            operations, run.do, rate=settings.rate, burn_in_s=settings.burn_in_s, seconds=settings.seconds
        )
    assert settings.clients is not None
    return await measure.closed_loop(
        operations, run.do, clients=settings.clients, burn_in_s=settings.burn_in_s, seconds=settings.seconds
    )


@dataclass(frozen=True)
class _Meters:
    """Counters that only rise, read before and after."""

    cpu_s: dict[str, float]
    commands: dict[str, int] | None

    @classmethod
    async def read(cls, rig: Rig) -> "_Meters":
        return cls(observe.cpu_s(rig.processes), await observe.commands_received(rig.stack))

    def since(self, before: "_Meters", own_finds: int) -> dict[str, Any]:
        """Burn-in and drain included. The harness's own look-ups are taken off MongoDB's."""
        commands = None
        if self.commands and before.commands:
            commands = {server: count - before.commands[server] for server, count in self.commands.items()}
            commands["mongodb"] -= own_finds
        return {
            "cpu_s": {name: round(used - before.cpu_s[name], 3) for name, used in self.cpu_s.items()},
            "server_commands": commands,
        }


def _figures(run: Run, offered: Offered, elapsed_s: float) -> dict[str, Any]:
    tally, lags = run.tally, run.lags
    tally.latencies["lag"] = lags.lags
    done = sum(tally.counts.values())
    return {
        "offered": {
            "operations": offered.operations,
            "seconds": round(offered.seconds, 3),
            "late_s": round(offered.late_s, 4),
        },
        "elapsed_s": round(elapsed_s, 3),  # burn-in and drain included: what `cpu_s` and `server_commands` are of
        "operations_per_s": round(done / offered.seconds, 1) if offered.seconds else 0,
        "counts": dict(tally.counts),
        "errors": dict(tally.errors),
        "latency_ms": {kind: tally.latencies[kind].figures() for kind in KINDS},
        "histograms": {kind: tally.latencies[kind].encoded() for kind in KINDS if tally.latencies[kind].count},
        "deliveries": lags.deliveries,
        "deliveries_per_s": round(lags.deliveries / elapsed_s, 1) if lags.deliveries else 0,
        "lag_resolution_ms": lags.looks.figures(),
        "lag_checked": lags.checked,
        "commands": {
            what: {server: round(count / tally.costed[what], 2) for server, count in asdict(cost).items()}
            for what, cost in tally.costs.items()
            if tally.costed[what]
        },
    }


def summary(cells: Sequence[dict[str, Any]], phases: Sequence[str]) -> dict[str, Any]:
    """Per phase, over all rounds: merged histograms, means of the rest."""
    return {slug: _summary([cell for cell in cells if cell["phase"] == slug]) for slug in phases}


def _summary(cells: Sequence[dict[str, Any]]) -> dict[str, Any]:
    latencies = {kind: Latencies() for kind in KINDS}
    for cell in cells:
        for kind, encoded in cell["histograms"].items():
            latencies[kind].add(Latencies.decoded(encoded))
    errors: Counter[str] = Counter()
    for cell in cells:
        errors.update(cell["errors"])
    operations = [sum(cell["counts"].values()) for cell in cells]
    elapsed = [cell["elapsed_s"] for cell in cells]
    return {
        "latency_ms": {kind: latencies[kind].figures() for kind in KINDS},
        "counts": {kind: latencies[kind].count for kind in KINDS},
        "curves": {kind: latencies[kind].curve() for kind in KINDS if latencies[kind].count},
        "operations": sum(operations),
        "operations_per_s": _mean(cell["operations_per_s"] for cell in cells),
        "deliveries_per_s": _mean(cell["deliveries_per_s"] for cell in cells),
        "commands": {
            what: {
                server: _mean(cell["commands"][what][server] for cell in cells)
                for server in ("mongodb", "memcached", "redis")
            }
            for what in ("post", "read")
            if all(what in cell["commands"] for cell in cells)
        },
        "server_commands_per_s": None
        if any(cell["server_commands"] is None for cell in cells)
        else {
            server: _mean(cell["server_commands"][server] / s for cell, s in zip(cells, elapsed, strict=True))
            for server in cells[0]["server_commands"]
        },
        "cpu_share": {  # of one core
            name: round(statistics.fmean(cell["cpu_s"][name] / s for cell, s in zip(cells, elapsed, strict=True)), 4)
            for name in cells[0]["cpu_s"]
        },
        "kept": {
            name: cells[0]["kept"][name] if name == "store" else _mean(cell["kept"][name] for cell in cells)
            for name in cells[0]["kept"]
        },
        "errors": dict(errors),
        "drained": all(cell["drained"] for cell in cells),
        "checked_pages": sum(cell["checked_pages"] for cell in cells),
        "lag_checked": sum(cell["lag_checked"] for cell in cells),
    }


def _mean(numbers: Any) -> float:
    return round(statistics.fmean(numbers), 2)


def compared(cell: dict[str, Any]) -> dict[str, float]:
    """The figures of a cell that are worth a ratio."""
    found: dict[str, float] = {}
    for kind in KINDS:
        if figures := cell["latency_ms"][kind]:
            found |= {f"{kind}_ms {name}": figures[name] for name in ("p50", "p99")}
    found |= {f"commands per {what}": sum(counts.values()) for what, counts in cell["commands"].items()}
    found["cpu, all processes"] = sum(cell["cpu_s"].values()) / cell["elapsed_s"]
    found["operations per s"] = cell["operations_per_s"]
    return found


def ratios(cells: Sequence[dict[str, Any]], phases: Sequence[str]) -> dict[str, Any]:
    """Each figure ÷ phase 1's in the same round: the median over the rounds, the smallest and the largest."""
    base = {cell["round"]: compared(cell) for cell in cells if cell["phase"] == BASE}
    found: dict[str, Any] = {}
    for slug in phases:
        if slug == BASE or not base:
            continue
        each: dict[str, list[float]] = {}
        for cell in cells:
            if cell["phase"] == slug:
                for name, value in compared(cell).items():
                    if base[cell["round"]].get(name):
                        each.setdefault(name, []).append(value / base[cell["round"]][name])
        found[slug] = {
            name: {"median": round(statistics.median(v), 3), "min": round(min(v), 3), "max": round(max(v), 3)}
            for name, v in each.items()
        }
    return found


async def header(kind: str, rig: Rig, settings: dict[str, Any]) -> dict[str, Any]:
    """What every report begins with."""
    return {
        "format": FORMAT,
        "kind": kind,
        "meaningless": rig.meaningless,
        "made_at": datetime.now(UTC).isoformat(timespec="seconds"),
        "commit": commit(),
        "settings": settings,
        "machine": machine(),
        "servers": await rig.stack.check(),
        "packages": {name: version(name) for name in PACKAGES},
        "config": shown_config(rig.stack),
        "write_concern": "majority" if not rig.meaningless else "none",
    }


def shown_config(stack: Stack) -> dict[str, Any]:
    return stack.config.model_dump(include={"cap", "chunk", "pending_scan", "timeline_ttl_s", "comeback", "grace_s"})


def machine() -> dict[str, Any]:
    return {
        "processor": _processor(),
        "cores": psutil.cpu_count(),
        "memory_gb": round(psutil.virtual_memory().total / 1e9, 1),
        "system": f"{platform.system()} {platform.release()}",
        "python": platform.python_version(),
    }


def _processor() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return platform.processor() or platform.machine()
    return next((line.partition(":")[2].strip() for line in lines if line.startswith("model name")), platform.machine())


def described(graph: Graph, source: str) -> dict[str, Any]:
    popularity = Counter(graph.followees)
    people = len(graph.people)
    return {
        "source": Path(source).name,
        "people": people,
        "follows": len(graph.followers),
        "mean_followers": round(len(graph.followers) / people, 1),
        "most_followers": max(popularity.values(), default=0),
    }
