"""The plan of a live run, and its outcome: filled while it runs, and shown whatever ends it."""

from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Literal

from pydantic import BaseModel, Field, PrivateAttr, SerializerFunctionWrapHandler, model_serializer

from benchmarks.faults.outcome import SHOWN
from benchmarks.measure import SAMPLES, Latencies

ENOUGH_CONNECTIONS = 500  # between few and many: fewer do not carry the memory of one
IN_TIME_MS = 250.0  # for p99: more is no live stream
COLUMNS = ("events", "delays", "p50 ms", "p90 ms", "p99 ms", "max ms")
WRONGS = ("missing", "doubled", "leaked")


@dataclass(frozen=True)
class Plan:
    """The plan of a run.

    `rates`: posts a second, one after the other, each for `seconds`. `silent_s`: how long silent connections are
    watched.
    """

    connections: int
    rates: tuple[float, ...]
    seconds: float
    silent_s: float
    faults: int
    disconnects: int
    seed: int


class Silent(BaseModel):
    """The memory of connections that nothing happens to.

    `rss`: bytes of all web processes, with few of them and with all.
    """

    kind: str
    few: int
    many: int
    rss_few: int
    rss_many: int

    @property
    def bytes_each(self) -> float | None:
        """The bytes of one connection; None where they are too few to say."""
        more = self.many - self.few
        return (self.rss_many - self.rss_few) / more if more >= ENOUGH_CONNECTIONS else None


class Step(BaseModel):
    """The figures at one rate. `late_s`: by how much the last post began later than intended."""

    rate: float
    posts: int = 0
    late_s: float = 0
    events: int = 0
    _delays: Latencies = PrivateAttr(default_factory=Latencies)

    def delay(self, seconds: float) -> None:
        """Record the seconds from an acknowledged post to its event, at a connection that was open all the time."""
        self._delays.record(seconds)

    @model_serializer(mode="wrap")
    def _complete(self, fields: SerializerFunctionWrapHandler) -> dict[str, Any]:
        return {**fields(self), "delays": self._delays.count, "delay_ms": self._delays.figures()}

    @property
    def is_too_late(self) -> bool:
        return self._delays.count >= SAMPLES["p99"] and self._delays.ms(99) > IN_TIME_MS

    def line(self) -> str:
        delays = self._delays
        shown = "".join(
            f"{delays.ms(of):10.1f}" if delays.count >= SAMPLES[name] else f"{'too few':>10}"
            for name, of in (("p50", 50), ("p90", 90), ("p99", 99), ("max", 100))
        )
        return f"  {self.rate:8g}{self.posts:9,}{self.events:10,}{delays.count:10,}{shown}{self.late_s:9.2f}"


class Outcome(BaseModel):
    """The outcome of a run.

    `gone`: why connections ended or were not made. `happened`: (seconds since the begin, fault). `early_resets`: those
    told to somebody who was away for less than 5 minutes and 500 events.
    """

    kind: Literal["live"] = "live"
    plan: Plan
    silent: list[Silent] = []
    commands_per_s: dict[str, float] = Field(default={}, description="MongoDB's, with silent connections and with none")
    steps: list[Step] = []
    happened: list[tuple[float, str]] = []
    disconnects: int = 0
    reconnects: int = 0
    gone: Counter[str] = Field(default_factory=Counter)
    events: Counter[str] = Field(default_factory=Counter)
    resets: int = 0
    early_resets: int = 0
    wrongs: Counter[str] = Field(default_factory=Counter)
    words: list[str] = Field(default=[], description="of what is wrong, the first of them")
    compared: int = 0
    equal_after_s: float = Field(default=0, description="since it was quiet, until the last state was equal")
    refused: Counter[str] = Field(default_factory=Counter, description="requests that were tried again")
    elapsed_s: float = 0
    gave_up: str = ""
    serve_ended_with: int | None = None

    def wrong(self, kind: str, words: str) -> None:
        self.wrongs[kind] += 1
        if len(self.words) < SHOWN:
            self.words.append(f"{kind}: {words}")

    @property
    def good(self) -> bool:
        return not (self.wrongs or self.early_resets or self.gave_up) and self.serve_ended_with is None

    def lines(self) -> Iterator[str]:
        plan = self.plan
        yield f"{plan.connections:,} connections, seed {plan.seed}, {self.elapsed_s:.0f} s"
        for silent in self.silent:
            each = silent.bytes_each
            memory = f"{each / 1000:.1f} KB" if each is not None else "(too few to say how much)"
            yield f"{silent.kind:10} silent: {memory} of memory each ({silent.many:,} less {silent.few:,})"
        if "silent" in (per_s := self.commands_per_s):
            yield f"{per_s['silent']:.1f} MongoDB commands a second while silent, {per_s['alone']:.1f} with none"
        yield f"{'posts/s':>10}{'posts':>9}" + "".join(f"{title:>10}" for title in COLUMNS) + f"{'late s':>9}"
        yield from (step.line() for step in self.steps)
        faults = Counter(kind for _, kind in self.happened)
        yield "faults: " + (", ".join(f"{kind} {times}" for kind, times in sorted(faults.items())) or "none")
        yield f"{self.disconnects:,} disconnects, {self.reconnects:,} came back; {_counted(self.gone) or 'none ended'}"
        yield f"events: {_counted(self.events)}"
        yield f"requests tried again: {_counted(self.refused) or 'none'}"
        yield (
            f"{self.compared:,} states compared, the last one was equal {self.equal_after_s:.1f} s after it was quiet; "
            f"{self.resets} resets, {self.early_resets} of them too early"
        )
        yield ", ".join(f"{kind} {self.wrongs[kind]}" for kind in (*WRONGS, *sorted(self.wrongs.keys() - set(WRONGS))))
        yield from self.words
        if self.gave_up:
            yield f"given up: {self.gave_up}"
        if self.serve_ended_with is not None:
            yield f"feedlab serve ended with {self.serve_ended_with}"


def _counted(counts: "Counter[str]") -> str:
    return ", ".join(f"{kind} {number:,}" for kind, number in sorted(counts.items()))
