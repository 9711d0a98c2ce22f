"""The plan of a fault run, and its outcome: filled while it runs, and shown whatever ends it."""

import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from statistics import median
from typing import Any, Literal, Protocol

import click
from pydantic import BaseModel, Field, PrivateAttr, SerializerFunctionWrapHandler, model_serializer

from benchmarks.faults.worlds import Violation
from phases import PHASES

OPERATIONS = ("post", "delete", "edge", "message", *(f"read {phase.slug}" for phase in PHASES))
SHOWN = 20  # problems of a kind, in words


@dataclass(frozen=True)
class Plan:
    """The plan of a run.

    `seconds`: how long the faults are spread over. `longest_pause_s`: how long a process is stopped, at most.
    """

    faults: int
    seconds: float
    seed: int
    longest_pause_s: float = 8.0
    aof: bool = True
    replica_set: bool = False


class NeverRecovered(Exception):
    """An operation failed for so long that it is given up."""


class Shown(Protocol):
    """What a run finds, filled while it runs. `gave_up`: what has ended it too early."""

    gave_up: str

    def lines(self) -> Iterator[str]: ...

    def model_dump_json(self, *, indent: int) -> str: ...


@contextmanager
def shown(outcome: Shown, *, as_json: bool) -> Iterator[None]:
    """Show at the end of the block what was found until then, whatever ends it."""
    try:
        yield
    except BaseException as error:
        outcome.gave_up = outcome.gave_up or f"broken off by {type(error).__name__}"
        raise
    finally:
        for line in [outcome.model_dump_json(indent=1)] if as_json else outcome.lines():
            click.echo(line)


@contextmanager
def giving_up(outcome: Shown) -> Iterator[None]:
    """End the block where something never recovers, and note what."""
    try:
        yield
    except* NeverRecovered as errors:
        outcome.gave_up = "; ".join(_words(errors))


def _words(errors: BaseExceptionGroup[BaseException]) -> Iterator[str]:
    for error in errors.exceptions:
        yield from _words(error) if isinstance(error, BaseExceptionGroup) else [str(error)]


class Outcome(BaseModel):
    """The outcome of a run.

    `happened`: (seconds since the begin, kind, detail). `owed`: deliveries still pending at the end, by phase.
    """

    kind: Literal["faults"] = "faults"
    plan: Plan = Field(exclude=True)
    happened: list[tuple[float, str, str]] = []
    skipped: Counter[str] = Field(default_factory=Counter)
    elapsed_s: float = 0
    requests: int = 0
    pages_checked: int = 0
    posts_acknowledged: int = 0
    posts_replayed: int = 0
    messages_acknowledged: int = 0
    messages_replayed: int = 0
    errors: Counter[str] = Field(default_factory=Counter, description="clean ones")
    unclean: list[str] = []
    violations: list[Violation] = []
    slowest_answer_s: float = 0
    drain_s: float = 0
    owed: dict[str, int] = {}
    dead_letters: str = ""
    gave_up: str = ""
    serve_ended_with: int | None = Field(default=None, description="should it have ended by itself")
    _recovered_s: dict[str, list[float]] = PrivateAttr(default_factory=dict)
    _waiting: dict[str, list[float]] = PrivateAttr(default_factory=dict)  # moments of faults, by kind of operation

    def fault(self) -> None:
        """Note that a fault happens now."""
        now_s = time.monotonic()
        for kind in OPERATIONS:
            self._waiting.setdefault(kind, []).append(now_s)

    def success(self, kind: str, began_s: float) -> None:
        """Note the success of an operation: it ends the recovery from every fault before the operation began."""
        waiting = self._waiting.get(kind, [])
        if done := [at_s for at_s in waiting if at_s <= began_s]:
            now_s = time.monotonic()
            self._recovered_s.setdefault(kind, []).extend(now_s - at_s for at_s in done)
            self._waiting[kind] = [at_s for at_s in waiting if at_s > began_s]

    @property
    def faults(self) -> dict[str, int]:
        return dict(sorted(Counter(kind for _, kind, _ in self.happened).items()))

    @property
    def wrongs(self) -> dict[str, int]:
        """The number of violations by kind."""
        counts = Counter(violation.kind for violation in self.violations)
        return {kind: counts[kind] for kind in ("missing", "wrong", "doubled")}

    @property
    def recovery_s(self) -> dict[str, dict[str, float]]:
        """The seconds from a fault to the first success of an operation that began after it, by kind of operation."""
        return {
            kind: {"p50": round(median(times), 3), "max": round(max(times), 3)}
            for kind, times in sorted(self._recovered_s.items())
        }

    @property
    def never_recovered(self) -> dict[str, int]:
        """The number of faults after which no operation of a kind has succeeded yet, by kind."""
        return {kind: len(waiting) for kind, waiting in self._waiting.items() if waiting}

    @model_serializer(mode="wrap")
    def _complete(self, fields: SerializerFunctionWrapHandler) -> dict[str, Any]:
        return {
            "faults": len(self.happened),
            "faults_by_kind": self.faults,
            **{name: getattr(self.plan, name) for name in ("seed", "aof", "replica_set")},
            **self.wrongs,
            "recovery_s": self.recovery_s,
            "never_recovered": self.never_recovered,
            **fields(self),
        }

    @property
    def good(self) -> bool:
        return not any(self._failures())

    def lines(self) -> Iterator[str]:
        yield f"{len(self.happened)} faults in {self.elapsed_s:.1f} s, seed {self.plan.seed}"
        for kind, number in self.faults.items():
            yield f"  {number:4}  {kind}"
        yield f"{self.requests:,} requests, {self.pages_checked:,} pages checked"
        yield f"{self.posts_acknowledged:,} posts acknowledged, {self.posts_replayed:,} tries repeated"
        yield f"{self.messages_acknowledged:,} messages acknowledged, {self.messages_replayed:,} tries repeated"
        yield ", ".join(f"{kind} {number}" for kind, number in self.wrongs.items())
        clean = ", ".join(f"{kind}: {number}" for kind, number in sorted(self.errors.items()))
        yield f"clean errors: {clean or 'none'}; unclean: {len(self.unclean)}"
        yield f"slowest answer {self.slowest_answer_s:.2f} s; nothing owed {self.drain_s:.1f} s after the last fault"
        yield "time from a fault to the first success, seconds     p50      max"
        for kind, times in self.recovery_s.items():
            yield f"  {kind:48}{times['p50']:7.3f}  {times['max']:7.3f}"
        yield from self._failures()

    def _failures(self) -> Iterator[str]:
        for violation in self.violations[:SHOWN]:
            yield f"{violation.kind}: {violation.reader}, {violation.where}: {violation.what}"
        for problem in self.unclean[:SHOWN]:
            yield f"unclean: {problem}"
        if self.owed:
            yield f"still owed: {self.owed}"
        if self.dead_letters:
            yield f"dead letters: {self.dead_letters}"
        if self.gave_up:
            yield f"given up: {self.gave_up}"
        if self.serve_ended_with is not None:
            yield f"feedlab serve ended with {self.serve_ended_with}"
        for kind in self.never_recovered:
            yield f"never worked again: {kind}"
