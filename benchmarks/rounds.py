"""`feedlab bench compare`: the same seeded workload against each phase, in rounds, and the proof that it was right."""

import asyncio
import random
import time
from collections import Counter
from collections.abc import Sequence
from itertools import islice
from statistics import fmean

from bson import ObjectId

from app.demo.graph import Graph
from app.demo.progress import Progress, silent
from app.stack.cost import Cost
from benchmarks import answers, measure, observe, summary
from benchmarks.measure import Latencies, Offered
from benchmarks.origin import origin
from benchmarks.record import Record
from benchmarks.report import KINDS, SERVERS, Cell, Comparison, Origin, Settings
from benchmarks.rig import BenchRefused, Rig
from benchmarks.subject import Api, Failed, Relating, Seen, WrongAnswer
from benchmarks.workload import Cast, Operation, Operations, Workload

DRAIN_S = 120.0
EVERYBODY = 5_000  # so many readers are all warmed; of more, those who come up in a round
AHEAD = 20_000  # operations of a round that are looked at for that
CHECKED_READERS = 40
CHECKED_PAGES = 3
SETTLE_ATTEMPTS = 20
SETTLE_PAUSE_S = 0.5
CLOSED_RATE = 50.0  # operations a second that a closed loop is taken to have made before


class Run:
    """One phase in one round, which does the operations and keeps the record of them."""

    def __init__(self, rig: Rig, slug: str, workload: Workload, name: str) -> None:
        self.rig, self.slug, self.workload = rig, slug, workload
        self.record = Record(rig.loaded)
        self.lags = observe.Lags(rig, slug, self.record)
        self.latencies = {kind: Latencies() for kind in KINDS} | {"lag": self.lags.lags}
        self.counts: Counter[str] = Counter()
        self.errors: Counter[str] = Counter()
        self.costs: dict[str, list[Cost]] = {"post": [], "read": []}
        self.posted: list[ObjectId] = []
        self._name = name
        self._statuses: dict[int, asyncio.Future[ObjectId]] = {}  # by the number of the operation
        self._turns: dict[frozenset[int], asyncio.Lock] = {}  # edges of one pair change in the order of operations
        self._cursors: dict[int, ObjectId | None] = {}
        self._failed: list[Operation] = []

    async def do(self, operation: Operation, intended: float, counts: bool) -> None:
        try:
            what = await self._do(operation, counts)
        except Failed as error:
            self.errors[f"{operation.kind}: {error.kind}"] += counts
            if operation.kind not in ("read", "older"):
                self._failed.append(operation)
            return
        if counts:
            self.counts[operation.kind] += 1
            if what in KINDS:
                self.latencies[what].record(asyncio.get_running_loop().time() - intended)

    async def _do(self, operation: Operation, counts: bool) -> str:
        match operation.kind:
            case "read" | "older":
                return await self._read(operation, counts)
            case "post":
                await self._post(operation, counts)
            case "delete":
                assert operation.target is not None
                status = await self._stored(operation.target)
                await self.rig.subject.delete(self.rig.loaded.ids[operation.who], status)
                self.record.delete(status)
            case "follow" | "unfollow" | "block" as relation:
                assert operation.other is not None
                pair = frozenset((operation.who, operation.other))
                async with self._turns.setdefault(pair, asyncio.Lock()):
                    await self._relate(operation.who, relation, operation.other)
        return operation.kind

    async def _read(self, operation: Operation, counts: bool) -> str:
        older = operation.kind == "older" and self._cursors.get(operation.who) is not None
        before = self._cursors[operation.who] if older else None
        reader = self.rig.loaded.ids[operation.who]
        seen = await self.rig.subject.page(reader, self.slug, before, self.workload.limit)
        if not older:
            self._cursors[operation.who] = seen.next
        if counts and not older:
            self.costs["read"].append(seen.cost)
        return "older" if older else "read_cold" if seen.cold else "read_warm"

    async def _post(self, operation: Operation, counts: bool) -> None:
        author = self.rig.loaded.ids[operation.who]
        key = f"{self._name}-{operation.number}"
        stored = self._statuses[operation.number] = asyncio.get_running_loop().create_future()
        try:
            status, cost = await self.rig.subject.post(author, operation.text, operation.audience, key)
        except Failed:
            stored.cancel()  # whoever wants to delete it fails, too
            raise
        self.record.post(status, operation.who, operation.audience)
        self.posted.append(status)
        self.lags.acknowledged(status, operation.who, counts)
        stored.set_result(status)
        if counts and cost is not None:
            self.costs["post"].append(cost)

    async def _stored(self, number: int) -> ObjectId:
        """Return the status of a post, which may be under way. Raises Failed when it fails."""
        stored = self._statuses[number]
        await asyncio.wait([stored])
        if stored.cancelled():
            raise Failed("its post has failed")
        return stored.result()

    async def _relate(self, who: int, relation: Relating, other: int) -> None:
        ids, record = self.rig.loaded.ids, self.record
        await self.rig.subject.relate(ids[who], relation, ids[other])
        {"follow": record.follow, "unfollow": record.unfollow, "block": record.block}[relation](who, other)

    def commands(self) -> dict[str, dict[str, float]]:
        """Return the mean commands of one post and of one read, by server."""
        return {
            what: {name: round(fmean(getattr(cost, name) for cost in costs), 2) for name in SERVERS}
            for what, costs in self.costs.items()
            if costs
        }

    async def settle(self) -> None:
        """Repeat what failed, in order: its outcome is not known, and all of it may be repeated."""
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

    async def check(self, readers: Sequence[int]) -> int:
        """Compare pages with the oracle; return how many. Raises WrongAnswer at the first difference."""
        limit, compared = self.workload.limit, 0
        for number_of_reader in readers:
            reader = self.rig.loaded.ids[number_of_reader]
            expected, before = self.record.oracle(number_of_reader).timeline(reader), None
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


def checked(record: Record, readers: Sequence[int], draw: random.Random) -> list[int]:
    """Return which of the readers are compared with the oracle: half of them are such as the round has concerned."""
    touched = sorted(record.touched().intersection(readers))
    some = draw.sample(touched, min(CHECKED_READERS // 2, len(touched)))
    others = sorted(set(readers).difference(some))
    return some + draw.sample(others, min(CHECKED_READERS - len(some), len(others)))


def _difference(slug: str, reader: ObjectId, number: int, due: list[ObjectId], seen: Seen) -> str:
    missing, extra = set(due) - set(seen.ids), set(seen.ids) - set(due)
    what = [f"lacks {len(missing)} statuses" if missing else "", f"shows {len(extra)} too many" if extra else ""]
    how = " and ".join(filter(None, what)) or "is in another order, or ends elsewhere"
    first = min(missing | extra, default=None)
    return f"{slug}: page {number + 1} of reader {reader} {how}; the first difference: {first}"


async def compare(
    rig: Rig, graph: Graph, workload: Workload, settings: Settings, progress: Progress = silent
) -> Comparison:
    """Run the rounds. After each phase of one `rig.so_far` is what there is to show, and None after a wrong page.

    Raises WrongAnswer, NotDelivered, BenchRefused.
    """
    began = time.monotonic()
    steps = settings.rounds * len(settings.phases)
    cast, about = Cast(workload, graph, settings.seed), await origin(rig)
    await rig.load(graph, settings.seed, workload.history, cast.readers, here=not workload.returning, progress=progress)
    if isinstance(rig.subject, Api):
        await rig.subject.enter(rig.loaded.ids)
    cells: list[Cell] = []
    with rig.nothing_if_wrong():
        for number in range(settings.rounds):
            for slug in settings.phases if number % 2 == 0 else settings.phases[::-1]:
                progress(f"round {number + 1}, {slug}", len(cells), steps)
                cells.append(await _cell(rig, workload, cast, settings, number, slug, progress))
                rig.so_far = report = _report(rig, workload, settings, about, cells, time.monotonic() - began)
    progress("done", steps, steps)
    return report


def _report(
    rig: Rig, workload: Workload, settings: Settings, about: Origin, cells: list[Cell], elapsed_s: float
) -> Comparison:
    by_phase = {slug: [cell for cell in cells if cell.phase == slug] for slug in settings.phases}
    return Comparison(
        **vars(about),
        settings=settings,
        workload=workload,
        graph=rig.population(settings.graph),
        elapsed_s=round(elapsed_s, 1),
        unfinished=len(cells) < settings.rounds * len(settings.phases),
        cells=list(cells),
        phases={slug: summary.summary(of) for slug, of in by_phase.items() if of},
        ratios=summary.ratios(cells, answers.ASKING.slug),
    )


def _warmed(rig: Rig, operations: Operations, settings: Settings) -> list[int]:
    """Return the readers to warm: all, or where those are more than EVERYBODY, those who come up in the round."""
    readers = rig.loaded.readers
    if len(readers) <= EVERYBODY:
        return list(readers)
    planned = (settings.burn_in_s + settings.seconds) * (settings.rate or AHEAD)
    coming = islice(operations, min(AHEAD, round(planned)))
    return sorted({operation.who for operation in coming if operation.kind in ("read", "older")})


async def _cell(
    rig: Rig, workload: Workload, cast: Cast, settings: Settings, number: int, slug: str, progress: Progress
) -> Cell:
    def operations() -> Operations:
        return Operations(workload, rig.loaded.graph, settings.seed + number, cast)

    readers = _warmed(rig, operations(), settings)
    empty_bytes = (await rig.stack.memcached.stats()).bytes
    await rig.switch(slug)
    await rig.warm(slug, workload.limit, readers, progress)
    if workload.returning:
        await rig.forget(slug, readers)
        await rig.long_away()
    await _count_as_usual(rig, workload, settings)
    run = Run(rig, slug, workload, f"{settings.seed}-{number}-{slug}")
    lags = run.lags
    loop, look_s = asyncio.get_running_loop(), await observe.priced(rig, observe.Lags(rig, slug, run.record).pending)
    async with observe.watched(rig, lags) as depths:
        before, began = await observe.Meters.read(rig), loop.time()
        offered = await _offer(run, operations(), settings)
        drained = await lags.drained(DRAIN_S)
        elapsed_s = max(offered.seconds + settings.burn_in_s, lags.cleared_at - began)
        used = (await observe.Meters.read(rig)).since(before, lags.polls, look_s)
    await lags.told()
    await run.settle()
    checked_pages = await run.check(checked(run.record, readers, random.Random(settings.seed + number)))
    kept = await observe.kept(rig, slug, readers, empty_bytes)
    await rig.forget(slug, readers)
    await rig.restore(run.record, run.posted)
    return Cell(
        round=number + 1,
        phase=slug,
        offered=Offered(offered.operations, round(offered.seconds, 3), round(offered.late_s, 4)),
        elapsed_s=round(elapsed_s, 3),
        operations_per_s=round(sum(run.counts.values()) / offered.seconds, 1) if offered.seconds else 0,
        counts=run.counts,
        errors=run.errors,
        latency_ms={kind: run.latencies[kind].figures() for kind in KINDS},
        histograms={kind: run.latencies[kind].encoded() for kind in KINDS if run.latencies[kind].count},
        deliveries=lags.deliveries,
        pulled=lags.pulled,
        deliveries_per_s=round(lags.deliveries / (elapsed_s - settings.burn_in_s), 1) if lags.deliveries else 0,
        lag_resolution_ms=lags.looks.figures(),
        lag_checked=lags.checked,
        commands=run.commands(),
        cpu_s={name: round(s, 3) for name, s in used.cpu_s.items()},
        server_commands=used.commands,
        kept=kept,
        depths=depths,
        drained=drained,
        checked_pages=checked_pages,
    )


async def _count_as_usual(rig: Rig, workload: Workload, settings: Settings) -> None:
    """Have it counted that the last hour was like the round: phase 6 decides by that, and warming is nobody's reading.

    The processes that have decided before remember their counts for a minute, which are those of a round like this.
    """
    an_hour, of = 3_600 * (settings.rate or CLOSED_RATE), workload.operations
    pages, posts = (sum(of.get(kind, 0) for kind in kinds) for kinds in (("read", "older"), ("post",)))
    await answers.count_anew(rig.timelines, pages=round(an_hour * pages), posts=round(an_hour * posts))


async def _offer(run: Run, operations: Operations, settings: Settings) -> Offered:
    seconds: dict[str, float] = {"burn_in_s": settings.burn_in_s, "seconds": settings.seconds}
    if settings.rate is not None:
        return await measure.open_loop(operations, run.do, rate=settings.rate, **seconds)  # type: ignore[arg-type]
    assert settings.clients is not None
    return await measure.closed_loop(operations, run.do, clients=settings.clients, **seconds)
