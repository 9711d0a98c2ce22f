"""Pending and queued deliveries of the last minutes, in the memory of this process."""

from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass

from phases.timelines import State, Timelines

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
        """Return the state now, and remember it."""
        state = await self._timelines.state()
        self.note(state)
        return state

    def note(self, state: State) -> None:
        self._samples.append(Sample(self._clock.monotonic(), state))

    def line(self, slug: str, field: str) -> Sequence[tuple[float, int]]:
        """Return (seconds ago, number), oldest first, of `pending` or `queued` in one phase."""
        now_s = self._clock.monotonic()
        return [
            (now_s - sample.at_s, getattr(phase, field))
            for sample in self._samples
            if now_s - sample.at_s <= MINUTES * 60
            for phase in sample.state.phases
            if phase.slug == slug
        ]
