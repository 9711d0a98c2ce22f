"""Reports: the findings of each measurement, as types.

They are written and read only here, as JSON; CSV is only written.
"""

import csv as csv_format
from collections.abc import Callable, Iterator, Mapping, Sequence
from math import inf
from pathlib import Path
from typing import Annotated, Any, Literal, NamedTuple

from pydantic import BaseModel, ConfigDict, Field, JsonValue, TypeAdapter, ValidationError, computed_field

from app.errors import Refused
from benchmarks.measure import Offered
from benchmarks.workload import Workload

FORMAT = 1  # of the JSON
KINDS = {
    "post": "post acknowledged",
    "read_warm": "warm page",
    "read_cold": "cold page",
    "older": "second page",
    "lag": "delivery lag",
}  # of latencies, with their titles
SERVERS = ("mongodb", "memcached", "redis")
PROGRAMS = {
    "mongodb": "MongoDB",
    "mongod": "MongoDB",
    "memcached": "Memcached",
    "redis": "Redis",
    "worker": "worker",
    "web": "web",
}  # names of servers and processes
AUTHORS = ("few followers", "many followers")  # of the two whose posts `bench units` times
LARGE = ("histograms", "curves", "depths")  # of no use in a document

Percentiles = dict[str, float]  # milliseconds, by measure.PERCENTILES: those that there are samples enough for
PerServer = dict[str, float]  # commands, by SERVERS
PerProcess = dict[str, float]
Who = Literal["warm", "strangers"]
Receipts = Literal["without", "with"]
EndedBy = Literal["slo", "generator", "most", "unfinished"]
Point = tuple[int, float, float | None]  # size, p50, p99 in milliseconds; None where there are too few samples for it


class NotAReport(Refused):
    """The file is not a report; the text says what is wrong with it."""


class Model(BaseModel):
    model_config = ConfigDict(frozen=True, populate_by_name=True, allow_inf_nan=False)


class Machine(Model):
    processor: str
    cores: int | None
    memory_gb: float
    system: str
    python: str


class Origin(Model):
    """The place, the time and the machine of a measurement."""

    format: int = FORMAT
    meaningless: bool = Field(description="measured on stand-ins")
    made_at: str
    commit: str | None
    machine: Machine
    servers: dict[str, str | None] = Field(description="versions; none for stand-ins")
    topology: dict[str, str] = Field(default={}, description="of these servers")
    packages: dict[str, str]
    config: dict[str, JsonValue]
    write_concern: Literal["majority", "none"]
    command: str = Field(default="", description="as it was typed")


class Interruptible(Origin):
    """A report that is shown, and written, even where something ended the run before its end: `unfinished`."""

    unfinished: bool = False

    @property
    def broken_off(self) -> str:
        """In words where the run ended; empty where it came to its end."""
        return "something ended the run before its end" if self.unfinished else ""


class Settings(Model):
    """The settings of a comparison.

    It has one of `rate` (operations per second, open loop) and `clients` (closed loop).
    """

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


class Population(Model):
    """The people of a measurement. `readers`: those who read. `statuses`: from before the run; 0 in older reports."""

    source: str
    people: int
    follows: int
    mean_followers: float
    most_followers: int
    readers: int = 0
    statuses: int = 0


class Kept(Model):
    """The size of what a phase keeps. `bytes_per_person`: over everybody, whether anything is kept for them or not."""

    store: str | None = None
    bytes: float = 0
    entries: float = 0
    readers: float = 0
    bytes_per_person: float = 0
    bytes_per_entry: float = 0


class Figures(Model):
    """The figures of a phase. `errors` and `counts` by kind of operation; `commands` of one post and of one read."""

    latency_ms: dict[str, Percentiles | None]
    counts: dict[str, int]
    operations_per_s: float
    deliveries_per_s: float
    commands: dict[str, PerServer]
    kept: Kept
    errors: dict[str, int]
    drained: bool
    checked_pages: int
    lag_checked: int
    pulled: int = 0  # statuses that nobody delivers; older reports took them for delivered


class Cell(Figures):
    """One phase in one round. `elapsed_s`, `cpu_s` and `server_commands` include burn-in and drain.

    `histograms` are in HdrHistogram's own form. `depths`: (seconds since the start, jobs queued, statuses pending).
    """

    round: int
    phase: str
    offered: Offered
    elapsed_s: float
    histograms: dict[str, str] = {}
    deliveries: int
    lag_resolution_ms: Percentiles | None
    cpu_s: PerProcess
    server_commands: PerServer | None
    depths: list[tuple[float, int, int]] = []

    @property
    def cpu_s_an_operation(self) -> float:
        """The processor seconds of the whole system, burn-in and drain included, for each operation that counts.

        A load generator is no part of the system. Where there is no web process it is one itself.
        """
        outside = {"harness"} if "web" in self.cpu_s else set()
        used_s = sum(seconds for name, seconds in self.cpu_s.items() if name not in outside)
        return used_s / max(1, sum(self.counts.values()))


class Summary(Figures):
    """One phase over all rounds. `curves`: (share of operations that took longer, ms). `cpu_share`: 1 is one core."""

    curves: dict[str, list[tuple[float, float]]] = {}
    operations: int
    server_commands_per_s: PerServer | None
    cpu_share: PerProcess


class Spread(Model):
    median: float
    min: float
    max: float


class Comparison(Interruptible):
    kind: Literal["compare"] = "compare"
    settings: Settings
    workload: Workload
    graph: Population
    elapsed_s: float
    cells: list[Cell]
    phases: dict[str, Summary]
    ratios: dict[str, dict[str, Spread]]

    @property
    def broken_off(self) -> str:
        return f"{self.missing} of {self.missing + len(self.cells)} are missing" if self.missing else super().broken_off

    @property
    def missing(self) -> int:
        """The number of phases in rounds that were not measured any more."""
        return self.settings.rounds * len(self.settings.phases) - len(self.cells)


class Series(Model):
    name: str
    title: str
    exponent: float | None
    points: list[Point]


class Curves(Interruptible):
    kind: Literal["fanout", "read"]
    settings: Mapping[str, JsonValue]
    x: str
    series: list[Series]


class Share(Model):
    """The figures at one proportion of pages to posts.

    `used_ms`: processor time of all processes for an operation, by phase, the median. `ratio`: the hybrid's ÷ that of
    `better`, which is pull or push; `low` to `high` is its interval, None after one turn. `pulled`: what the rule says
    of the celebrity.
    """

    pages_per_post: int
    posts: int
    used_ms: dict[str, float]
    better: str
    ratio: float
    low: float | None
    high: float | None
    pulled: bool


class Crossover(Interruptible):
    """A comparison of pull, push and the hybrid.

    `followers`: those of the celebrity, who writes one post in `one_post_in`. `measured`: figures behind each median.
    """

    kind: Literal["crossover"] = "crossover"
    settings: Mapping[str, int]
    shares: list[Share]
    interval: str = "where nine of ten such ratios lie"  # in words; an older report takes each figure for a turn


Outcome = Literal["met", "within the noise", "missed"]


class Row(Model):
    """One promise. `at_least` or `at_most` is None where a row only informs.

    `low` to `high` is the ratio's 90 % interval; older reports, and rows of few turns, have none. A run fails where
    none of it keeps the bound: then the row is not `met`. `outcome` says whether all of it does.
    """

    name: str
    title: str
    ratio: float
    low: float | None = None
    high: float | None = None
    at_least: float | None = None
    at_most: float | None = None
    figures: dict[str, float] = {}

    @computed_field  # type: ignore[prop-decorator]
    @property
    def met(self) -> bool | None:
        if self.at_least is None and self.at_most is None:
            return None
        return self.outcome != "missed"

    @property
    def outcome(self) -> Outcome | None:
        """The outcome in a word: `met` where the whole interval keeps the bound, within the noise where a part does."""
        if self.at_least is None and self.at_most is None:
            return None
        ends = [self.ratio if end is None else end for end in (self.low, self.high)]
        keep = [(self.at_least or 0) <= end <= (inf if self.at_most is None else self.at_most) for end in ends]
        return "met" if all(keep) else "within the noise" if any(keep) else "missed"


class Targets(Interruptible):
    """The rows of `bench targets`. `smaller`: sizes are smaller than those that are promised for: no verdict."""

    kind: Literal["targets"] = "targets"
    settings: Mapping[str, JsonValue]
    rows: list[Row]
    smaller: bool = False


class Step(Model):
    """The outcome at one fixed rate, requests a second. `latency_ms` has the percentiles with enough samples.

    `late_ms`: p99 of the load generator's own lateness. `outcome`: what p99 says, where the generator was not late.
    """

    rate: float
    answered: int
    answered_per_s: float
    latency_ms: Percentiles
    late_ms: float
    outcome: Literal["met", "missed", "generator late"]


class Climb(Model):
    """Steps in the order in which they were made. `capacity`: the highest rate that was held, pages a second.

    `round`: every phase and way to ask has one climb in each. `readers` are known to the web process, or strangers to
    it. `pending`: statuses that waited for their delivery. `ended_by`: what was in the way of a higher rate; "most" is
    the highest that was to be tried.
    """

    phase: str
    web: int
    readers: Who
    pending: int = 0
    round: int = 1
    steps: list[Step]
    capacity: float | None
    ended_by: EndedBy


class HttpSettings(Model):
    """The settings of a measurement over HTTP. `seconds`: of a step, or as long as its samples take."""

    phases: tuple[str, ...]
    graph: str
    web: tuple[int, ...] = (1,)
    readers: tuple[Who, ...] = ("warm",)
    rounds: int = 1
    people: int
    limit: int
    first: float
    most: float
    slo_ms: float
    seconds: float
    seed: int


class HttpReport(Interruptible):
    """The climbs of `bench http`."""

    kind: Literal["http"] = "http"
    settings: HttpSettings
    graph: Population
    climbs: list[Climb]

    def of(self, phase: str, web: int, readers: Who) -> list[Climb]:
        """Return the climbs of a phase and a way to ask, those with the lower capacities first."""
        alike = [each for each in self.climbs if (each.phase, each.web, each.readers) == (phase, web, readers)]
        return sorted(alike, key=lambda climb: (climb.ended_by == "unfinished", climb.capacity or 0))

    def middle(self, phase: str, web: int, readers: Who) -> Climb | None:
        """Return the climb with the median capacity; the lower of two. None where there is none yet."""
        climbs = self.of(phase, web, readers)
        ended = [climb for climb in climbs if climb.ended_by != "unfinished"] or climbs
        return ended[(len(ended) - 1) // 2] if ended else None


class Backlogged(Model):
    """Pages a second in a closed loop with so many pending, the median of its turns, and the climb with them.

    `to_none`: pages/s ÷ with none.
    """

    pages_per_s: float
    to_none: float
    climb: Climb


class Drain(Model):
    """The end of a backlog: workers begin again while pages are asked for at a fixed rate.

    `gone_s`: seconds until nothing is pending; None where it took too long.
    """

    phase: str
    pending: int
    rate: float
    gone_s: float | None
    latency_ms: Percentiles


class Backlog(Interruptible):
    kind: Literal["backlog"] = "backlog"
    settings: HttpSettings
    graph: Population
    levels: list[Backlogged]
    drains: list[Drain]


class MessagesSettings(Model):
    """The settings of `bench messages`. `seconds`: at each rate."""

    conversations: int
    rates: tuple[float, ...]
    web: tuple[int, ...]
    receipts: tuple[Receipts, ...]
    seconds: float
    seed: int


class MessagesStep(Model):
    """The figures of messages at a fixed rate, a second.

    Times count from the moment a message was due: until the other's stream tells of it, until it is acknowledged, and
    until its sender is told that it has been read. `late_s`: the load generator's lateness at the end. `commands`,
    `cpu_ms`: of a message, with all that follows from it.
    """

    web: int
    receipts: bool
    rate: float
    sent: int
    received: int
    received_ms: Percentiles
    acknowledged_ms: Percentiles
    read_ms: Percentiles
    late_s: float
    errors: dict[str, int]
    commands: PerServer
    cpu_ms: PerProcess


class MessagesReport(Interruptible):
    """The steps of `bench messages`.

    `commands`: of one uncontended `POST`, authentication included. `wrongs`: what was missing, doubled or wrong.
    """

    kind: Literal["messages"] = "messages"
    settings: MessagesSettings
    commands: PerServer
    steps: list[MessagesStep]
    wrongs: list[str]


class Costs(Model):
    """The costs of one operation: wall-clock seconds, processor seconds by process, commands by server.

    `rounds_s`: the processor seconds of all processes in each round, where these are the medians of several.
    """

    s: float
    cpu_s: PerProcess
    commands: PerServer
    rounds_s: list[float] | None = None

    @property
    def cpu_total_s(self) -> float:
        return sum(self.cpu_s.values())

    @classmethod
    def combined(cls, of: Callable[..., float], costs: Sequence["Costs"]) -> "Costs":
        """Combine costs figure by figure: apply `of` to the seconds of all, to their commands at each server, etc."""

        def by_name(each: Sequence[dict[str, float]]) -> dict[str, float]:
            return {name: of(*(figures[name] for figures in each)) for name in each[0]}

        return cls(
            s=of(*(each.s for each in costs)),
            cpu_s=by_name([each.cpu_s for each in costs]),
            commands=by_name([each.commands for each in costs]),
        )


class JobTime(Model):
    """The wall-clock seconds from the acknowledgement of a post that comes alone until a worker has delivered it:
    `fixed`, and `each` follower. They are 0 where no worker delivers.

    `along`: what is fixed of a post that a job takes along. (In older reports it is None, and the others are of a post
    of a burst.)
    """

    fixed: float
    each: float
    along: float | None = None

    @property
    def of_waiting(self) -> "JobTime":
        """The times of a post that comes while a job is under way."""
        return self if self.along is None else JobTime(fixed=self.along, each=self.each)


class PhaseUnits(Model):
    """The unit costs of a phase.

    `post`: one that comes alone, without its deliveries. `along`: one that comes while a job is under way and is taken
    along by it, where a worker delivers. (In older reports `along` is None, and `post` is one of a burst.) `reads` and
    `cold` stand in the order of `Units.followees`; `acknowledged_s`: at FEW and at MANY followers. `pulled`: the cost
    of one more author whom a page merges, where the phase does that.
    """

    post: Costs
    along: Costs | None = None
    delivery: Costs
    job_s: JobTime
    reads: list[Costs]
    cold: list[Costs] | None
    acknowledged_s: tuple[float, float]
    pulled: Costs | None = None


class Units(Interruptible):
    kind: Literal["units"] = "units"
    settings: Mapping[str, JsonValue]
    followees: list[int]
    units: dict[str, PhaseUnits]


class Need(Model):
    """The needs of a phase under a load.

    `cores`: processors in use at the peak, by process. `lag_s`: the delivery lag of an ordinary post.
    """

    phase: str
    cores: PerProcess
    commands_per_s: PerServer
    deliveries_per_day: float
    memory_bytes: float
    disk_bytes: float
    post_ms: float
    post_heaviest_ms: float
    read_ms: float
    lag_s: float | None
    lag_heaviest_s: float | None
    cpu_s_per_day: float

    @computed_field  # type: ignore[prop-decorator]
    @property
    def first(self) -> str:
        """The process that is full first."""
        return max(self.cores, key=self.cores.__getitem__)

    @property
    def fullest(self) -> float:
        """The share at the peak of the process that is full first."""
        return self.cores[self.first]


class Crossing(NamedTuple):
    """The value at which two phases cost the same processor time, and which costs less beyond."""

    what: str
    at: str
    beyond: str


class Recommendation(Model):
    """The recommended phase.

    `fits`: every phase that does, the simplest first; empty where none does, and in older reports.
    """

    phase: str
    reason: str
    fits: list[str] = []


class Plan(Origin):
    kind: Literal["plan"] = "plan"
    settings: Mapping[str, JsonValue]
    needs: list[Need]
    crossings: list[Crossing]
    marginal_author_us: list[tuple[str, float]]
    recommendation: Recommendation


Report = Comparison | Crossover | Curves | Targets | HttpReport | Backlog | MessagesReport | Units | Plan
_REPORTS: TypeAdapter[Report] = TypeAdapter(Annotated[Report, Field(discriminator="kind")])


def load(file: Path) -> Report:
    """Read a report. Raises NotAReport."""
    try:
        return _REPORTS.validate_json(file.read_bytes())
    except OSError as error:
        raise NotAReport(f"{file}: cannot be read ({error.strerror})") from None
    except ValidationError as error:
        first = error.errors()[0]
        place = ".".join(map(str, first["loc"]))
        raise NotAReport(f"{file}: not a report ({f'{place}: ' if place else ''}{first['msg']})") from None


def text(report: Report, *, large: bool = True) -> str:
    """Return a report as JSON; unless `large`, on one line and without what only plots need."""
    without = None if large else {"cells": {"__all__": {*LARGE}}, "phases": {"__all__": {*LARGE}}}
    return report.model_dump_json(by_alias=True, indent=1 if large else None, exclude=without) + "\n"


def write(report: Report, *, json_file: Path | None, csv: Path | None) -> None:
    if json_file:
        json_file.write_text(text(report), encoding="utf-8")
    if csv:
        marks = {
            "meaningless": report.meaningless,
            "broken_off": isinstance(report, Interruptible) and bool(report.broken_off),
        }
        with csv.open("w", newline="", encoding="utf-8") as file:
            writer = csv_format.writer(file)
            writer.writerow(["kind", "phase", "figure", "value", *marks])
            for phase, figure, value in flat(report):
                writer.writerow([report.kind, phase, figure, value, *marks.values()])


def flat(report: Report) -> Iterator[tuple[str, str, float]]:
    """Yield (phase, or whatever is compared; name of the figure; number) of everything that is summed up."""
    match report:
        case Comparison():
            yield from _of_comparison(report)
        case Crossover():
            for share in report.shares:
                at = f"{share.pages_per_post} pages a post"
                yield from ((slug, f"{at}.used_ms", ms) for slug, ms in share.used_ms.items())
                numbers = _numbers(share.model_dump(include={"ratio", "low", "high"}))
                yield from (("", f"{at}.{path}", number) for path, number in numbers)
        case Curves():
            for series in report.series:
                for size, p50, p99 in series.points:
                    numbers = _numbers({"p50_ms": p50, "p99_ms": p99})
                    yield from ((series.name, f"{size} {report.x}.{path}", number) for path, number in numbers)
        case Targets():
            for row in report.rows:
                numbers = _numbers(row.model_dump(include={"ratio", "low", "high", "figures"}))
                yield from (("", f"{row.name}.{path}", number) for path, number in numbers)
        case HttpReport():
            yield from _of_climbs(report.climbs)
        case Backlog():
            yield from _of_climbs([level.climb for level in report.levels])
            for level in report.levels:
                yield level.climb.phase, f"{level.climb.pending} pending.pages_per_s", level.pages_per_s
            for drain in report.drains:
                numbers = _numbers({"gone_s": drain.gone_s, "drain_ms": drain.latency_ms})
                yield from ((drain.phase, f"{drain.pending} pending.{path}", number) for path, number in numbers)
        case MessagesReport():
            yield "", "wrongs", len(report.wrongs)
            yield from (("", f"one POST.{path}", n) for path, n in _numbers({"commands": report.commands}))
            for each in report.steps:
                what = f"{each.web} web.{'with' if each.receipts else 'without'} receipts.{each.rate:g}/s"
                numbers = _numbers(each.model_dump(exclude={"web", "receipts", "rate"}))
                yield from (("", f"{what}.{path}", number) for path, number in numbers)
        case Units():
            for slug, units in report.units.items():
                yield from _of_units(slug, units, report.followees)
        case Plan():
            for need in report.needs:
                yield from ((need.phase, path, number) for path, number in _numbers(need.model_dump()))


def _of_comparison(report: Comparison) -> Iterator[tuple[str, str, float]]:
    for slug, summary in report.phases.items():
        yield from ((slug, path, number) for path, number in _numbers(summary.model_dump(exclude={"curves"})))
    for slug, spreads in report.ratios.items():
        for name, spread in spreads.items():
            yield from ((slug, f"ratio.{name}.{of}", number) for of, number in spread)


def _of_climbs(climbs: Sequence[Climb]) -> Iterator[tuple[str, str, float]]:
    for climb in climbs:
        what = f"{climb.web} web.{climb.readers}.{climb.pending} pending.round {climb.round}"
        if climb.capacity is not None:
            yield climb.phase, f"{what}.capacity", climb.capacity
        for step in climb.steps:
            yield from ((climb.phase, f"{what}.{step.rate:g}/s.{p}", ms) for p, ms in step.latency_ms.items())


def _of_units(slug: str, units: PhaseUnits, followees: Sequence[int]) -> Iterator[tuple[str, str, float]]:
    pages = {"page": units.reads, "cold page": units.cold or []}
    by_followees = {
        f"{what} at {size} followees": costs
        for what, measured in pages.items()
        for size, costs in zip(followees, measured, strict=False)
    }
    timed = {"job_s": units.job_s.model_dump(), "acknowledged_s": dict(zip(AUTHORS, units.acknowledged_s, strict=True))}
    yield from ((slug, path, number) for path, number in _numbers(timed))
    each = {"post": units.post, "along": units.along, "delivery": units.delivery, "pulled": units.pulled}
    for what, costs in {**each, **by_followees}.items():
        if costs:
            yield from ((slug, f"{what}.{path}", number) for path, number in _numbers(costs.model_dump()))


def _numbers(figures: dict[str, Any]) -> Iterator[tuple[str, float]]:
    for name, value in figures.items():
        if isinstance(value, dict):
            yield from ((f"{name}.{path}", number) for path, number in _numbers(value))
        elif isinstance(value, int | float):
            yield name, +value  # of a bool 0 or 1
