"""A reader of a live run, who judges what it is told.

It opens a stream, fetches, applies events, and comes back with the last id.
"""

import asyncio
from collections.abc import Coroutine
from random import Random
from typing import Any, Protocol

from benchmarks.live.outcome import Outcome, Step
from benchmarks.live.state import Json, State
from benchmarks.wire import EventSource, WebSocket, Wire

PAUSE_S = (0.02, 0.5)  # before a reader comes back
LONGEST_CUT = 3_000  # bytes after which a connection breaks, at most
CUT_S = 1.0  # where they do not come
AGAIN = 0.2  # share of the disconnects that break the next connection too
Stream = type[EventSource] | type[WebSocket]
KEPT_S, MOST_MISSED = 300.0, 500  # who was away for less may not be told `reset`


class Around(Protocol):
    """The parts of a run that a reader needs."""

    host: str
    address: tuple[str, int]
    outcome: Outcome
    step: Step | None

    def spawn(self, work: Coroutine[Any, Any, None]) -> "asyncio.Task[None]": ...

    async def fetched(self, reader: "Reader") -> State: ...

    def came(self, id: str, reader: "Reader", now_s: float) -> None: ...

    def may_see(self, reader: int, status: Json, now_s: float) -> bool: ...

    def acts_since(self, moment_s: float) -> int: ...


class Reader:
    """A reader with a stream.

    `number`: of the person. `ready`: their stream is open. `shows`: they have fetched once. `got`: when each status
    first came. `due`: statuses that were acknowledged and have not come yet.
    """

    def __init__(self, run: Around, number: int, token: str, wire: Stream, random: Random) -> None:
        self.run, self.number, self.token = run, number, token
        self.state: State | None = None
        self.got: dict[str, float] = {}
        self.due: dict[str, float] = {}
        self.kind, self.is_slow = wire.kind, False
        self.ready, self.shows = asyncio.Event(), asyncio.Event()
        self._wire_class, self._random = wire, random
        self._wire: Wire | None = None
        self._last: str | None = None
        self._open_since_s = self._away_since_s = self._reads_since_s = asyncio.get_running_loop().time()
        self._told: set[str] = set()
        self._told_notes: set[int] = set()
        self._waiting: list[tuple[str, Json]] = []
        self._fetching: asyncio.Task[None] | None = None
        self._cut_next = False

    async def live(self) -> None:
        """Keep a stream open, and come back whenever it ends, until cancelled."""
        loop, outcome = asyncio.get_running_loop(), self.run.outcome
        try:
            while True:
                wire = self._wire_class(self.run.host, self.token, self._last, self._heard)
                self._wire = wire
                if self._cut_next:
                    self._cut_next = False
                    self._cut(wire)
                try:
                    await wire.connect(*self.run.address)
                except OSError as error:
                    outcome.gone[type(error).__name__] += 1
                    await asyncio.sleep(self._random.uniform(*PAUSE_S))
                    continue
                outcome.reconnects += bool(self._last)
                await wire.ended
                if self._open_since_s >= self._away_since_s:  # it has been open
                    self._away_since_s = loop.time()
                self.ready.clear()
                outcome.gone[_why(wire)] += 1
                if wire.status not in (0, 101, 200, 429, 503):
                    outcome.wrong("refused", f"reader {self.number} is answered {wire.status}")
                await asyncio.sleep(self._random.uniform(*PAUSE_S))
        finally:
            if self._wire:
                self._wire.abort()
            if self._fetching:
                self._fetching.cancel()

    # Disturbed

    def break_off(self) -> None:
        """Break the stream off, at once or within what comes next."""
        assert self._wire
        self._cut_next = self._random.random() < AGAIN
        if self._random.random() < 0.5:
            self.run.outcome.disconnects += 1
            self._wire.abort()
        else:
            self._cut(self._wire)
        self.ready.clear()

    def _cut(self, wire: Wire) -> None:
        self.run.outcome.disconnects += 1
        wire.cut_after = self._random.randrange(1, LONGEST_CUT)
        asyncio.get_running_loop().call_later(CUT_S, wire.abort)

    async def read_nothing(self, seconds: float) -> None:
        wire, self.is_slow = self._wire, True
        assert wire
        wire.transport.pause_reading()
        try:
            await asyncio.sleep(seconds)
        finally:
            self.is_slow, self._reads_since_s = False, asyncio.get_running_loop().time()
            if not wire.transport.is_closing():
                wire.transport.resume_reading()

    # Told

    def _heard(self, id: str, event: str, data: Any) -> None:
        now_s, outcome = asyncio.get_running_loop().time(), self.run.outcome
        outcome.events[event] += 1
        if self.run.step:
            self.run.step.events += 1
        self._last = id
        match event:
            case "ready":
                self._open_since_s = now_s
                if not (self._wire and self._wire.cut_after):
                    self.ready.set()
                if self.state is None and self._fetching is None:
                    self._fetch()
            case "reset":
                self._reset()
            case "status":
                self._came(data, now_s)
            case "status_gone":
                self._told.discard(data["id"])
            case "notification":
                self._notified(data, now_s)
            case "notification_gone":
                self._told_notes.discard(data["seq"])
        if self.state is None:
            self._waiting.append((event, data))
        else:
            self._apply(event, data)

    def _apply(self, event: str, data: Json) -> None:
        assert self.state
        self.state.apply(event, data)
        self._told.intersection_update(self.state.statuses)
        self._told_notes.intersection_update(self.state.notes)

    def _fetch(self) -> None:
        async def fetch() -> None:
            state = await self.run.fetched(self)
            self.has(state)
            self.state, self._fetching = state, None
            for event, data in self._waiting:
                self._apply(event, data)
            self._waiting.clear()
            self.shows.set()

        self._fetching = self.run.spawn(fetch())

    def has(self, state: State) -> None:
        """Count what a fetch shows as having come."""
        now_s = asyncio.get_running_loop().time()
        for id in state.statuses:
            self.got.setdefault(id, now_s)
            self.due.pop(id, None)

    def _reset(self) -> None:
        outcome = self.run.outcome
        outcome.resets += 1
        if self._open_since_s - self._away_since_s < KEPT_S and self.run.acts_since(self._away_since_s) < MOST_MISSED:
            outcome.early_resets += 1
        self.state, self._told, self._told_notes = None, set(), set()
        self._waiting.clear()
        if self._fetching:
            self._fetching.cancel()
        self._fetch()

    def _came(self, status: Json, now_s: float) -> None:
        id = status["id"]
        if id in self._told:
            self.run.outcome.wrong("doubled", f"reader {self.number} is told twice of status {id}")
        self._told.add(id)
        self.due.pop(id, None)
        if id not in self.got:
            self.got[id] = now_s
            self.run.came(id, self, now_s)
        self._may_see(status, now_s)

    def was_open_since(self, moment_s: float) -> bool:
        """Return whether the stream has been open, and read, since that moment."""
        since_s = max(self._open_since_s, self._reads_since_s)
        return self.ready.is_set() and since_s <= moment_s and not self.is_slow

    def _notified(self, data: Json, now_s: float) -> None:
        if data["seq"] in self._told_notes:
            self.run.outcome.wrong("doubled", f"reader {self.number} is told twice of notification {data['seq']}")
        self._told_notes.add(data["seq"])
        if data["status"]:
            self._may_see(data["status"], now_s)

    def _may_see(self, status: Json, now_s: float) -> None:
        if not self.run.may_see(self.number, status, now_s):
            self.run.outcome.wrong("leaked", f"reader {self.number} is shown {status}")


def _why(wire: Wire) -> str:
    if wire.code:
        return f"closed with {wire.code}"
    return f"status {wire.status}" if wire.status not in (0, 101, 200) else "broken"
