"""An event loop on virtual time: what sleeps takes no time, and every latency is exact."""

import asyncio
import selectors
from collections.abc import Coroutine
from datetime import datetime, timedelta
from typing import Any, TypeVar

from app.clock import Clock
from tests.dates import NOON

T = TypeVar("T")


class VirtualLoop(asyncio.SelectorEventLoop):
    """Time goes on only when there is nothing to do, and then at once to the next thing that is due."""

    def __init__(self) -> None:
        self._now = 0.0
        super().__init__(_Selector(self))

    def time(self) -> float:
        return self._now

    def pass_time(self, seconds: float) -> None:
        self._now += seconds


class _Selector(selectors.SelectSelector):
    def __init__(self, loop: VirtualLoop) -> None:
        super().__init__()
        self._loop = loop

    def select(self, timeout: float | None = None) -> list[tuple[selectors.SelectorKey, int]]:
        if timeout is None:  # only another thread can go on
            return super().select(None)
        if not (events := super().select(0)):
            self._loop.pass_time(max(0.0, timeout))
        return events


class LoopClock(Clock):
    """The date, as far as the loop that it was made in has come. Threads ask it, too."""

    def __init__(self) -> None:
        self._loop = asyncio.get_running_loop()

    def now(self) -> datetime:
        return NOON + timedelta(milliseconds=int(self._loop.time() * 1000))

    def monotonic(self) -> float:
        return self._loop.time()


def run(work: Coroutine[Any, Any, T]) -> T:
    with asyncio.Runner(loop_factory=VirtualLoop) as runner:
        return runner.run(work)
