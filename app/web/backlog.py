"""Pending and queued deliveries of the last minutes, in the memory of this process."""

import asyncio
import logging
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass

from app.stack import UNAVAILABLE
from phases.timelines import State, Timelines

log = logging.getLogger(__name__)

EVERY_S = 5.0
MINUTES = 5
SAMPLES = 300  # at least MINUTES long, even with somebody looking every second


@dataclass(frozen=True)
class Sample:
    at_s: float  # of the clock's monotonic seconds
    state: State


class Backlog:
    def __init__(self, timelines: Timelines) -> None:
        self._timelines = timelines
        self._clock = timelines.stack.clock
        self._samples: deque[Sample] = deque(maxlen=SAMPLES)

    async def sample(self) -> State:
        """The state now, remembered."""
        state = await self._timelines.state()
        self._samples.append(Sample(self._clock.monotonic(), state))
        return state

    def line(self, slug: str, field: str) -> Sequence[tuple[float, int]]:
        """(seconds ago, number), oldest first, of `pending` or `queued` in one phase."""
        now_s = self._clock.monotonic()
        return [
            (now_s - sample.at_s, getattr(phase, field))
            for sample in self._samples
            if now_s - sample.at_s <= MINUTES * 60
            for phase in sample.state.phases
            if phase.slug == slug
        ]

    async def keep(self) -> None:
        """Take samples until cancelled."""
        while True:
            try:
                await self.sample()
            except UNAVAILABLE as error:
                log.info("no sample: %s", error)
            await asyncio.sleep(EVERY_S)
