"""The one timeline interface: whatever delivers and whoever asks, the same pages."""

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime

from bson import ObjectId

from app.edges import Memory
from app.errors import Invalid
from app.models import StatusRow
from app.stack import QueueDown, Stack
from phases import PHASES
from phases.base import Phase
from phases.outbox import Outbox
from phases.reading import Page
from phases.switch import Settings, Switch


@dataclass(frozen=True)
class PhaseState:
    """`since`: what it keeps is complete from then on. `pending`: statuses it still owes. `queued`: its jobs."""

    slug: str
    title: str
    delivering: bool
    since: datetime | None
    pending: int
    queued: int


@dataclass(frozen=True)
class State:
    read: str
    delivering: tuple[str, ...]
    phases: list[PhaseState]


class Timelines:
    """Every phase on one stack. Make it with `open`. `phases`: other ones than ours, to measure or to test."""

    def __init__(self, stack: Stack, phases: tuple[type[Phase], ...] = PHASES) -> None:
        self.stack = stack
        self.settings = Switch(stack, {phase.slug: phase.keeps for phase in phases if phase.keeps})
        self.outbox = Outbox(stack.db, stack.config.pending_scan)
        memory = Memory()
        self.phases = {phase.slug: phase(stack, self.settings, self.outbox, memory) for phase in phases}

    @classmethod
    async def open(cls, stack: Stack, phases: tuple[type[Phase], ...] = PHASES) -> "Timelines":
        """On a database without phase settings: phase 4 alone, or in demo mode all of them."""
        timelines = cls(stack, phases)
        await timelines.settings.open("cache", ["push", "queue", "cache"] if stack.config.demo else ["cache"])
        return timelines

    async def page(
        self, reader: ObjectId, *, phase: str | None = None, before: ObjectId | None = None, limit: int = 20
    ) -> Page:
        """One page of the reader's home timeline, newest first. Raises Invalid for an unknown phase."""
        return await (await self._named(phase)).page(reader, before, limit)

    async def refresh(self, reader: ObjectId, *, phase: str | None = None, limit: int = 20) -> Page:
        """The first page, with what the phase keeps for this reader built anew."""
        return await (await self._named(phase)).refresh(reader, limit)

    async def _named(self, slug: str | None) -> Phase:
        slug = slug or (await self.settings.current()).read
        if slug not in self.phases:
            raise Invalid("phase", _unknown(slug))
        return self.phases[slug]

    def owed(self, settings: Settings) -> tuple[str, ...]:
        """The phases that a status posted now is pending for: those that deliver and keep something."""
        return tuple(slug for slug in settings.owed_by(self.stack.clock.now()) if self.phases[slug].keeps)

    async def deliver(self, slug: str, status: StatusRow) -> None:
        """What the poster waits for in one of the phases that the status is pending for."""
        await self.phases[slug].deliver(status)

    async def settle(self, collection: str, row: ObjectId, reader: ObjectId, author: ObjectId) -> None:
        """Make the backfill that a row of `follows` or `circles` owes (rule 4), and note that it is made."""
        for phase in self._one_per_store():
            await phase.widen(reader, author)
        await self.outbox.settled(collection, row)

    async def sweep(self) -> None:
        for phase in self._one_per_store():
            await phase.sweep()

    def _one_per_store(self) -> list[Phase]:
        return list({phase.keeps: phase for phase in self.phases.values() if phase.keeps}.values())

    async def switch(self, *, read: str | None = None, delivering: Sequence[str] | None = None) -> State:
        """Change what is read by default, what delivers, or both. Raises Invalid for an unknown phase."""
        for field, slugs in (("read", [read] if read else []), ("delivering", delivering or [])):
            for slug in slugs:
                if slug not in self.phases:
                    raise Invalid(field, _unknown(slug))
        await self.settings.change(read, delivering)
        return await self.state()

    async def restart(self) -> None:
        """Forget everything that is kept, for everybody. It only costs time."""
        await self.settings.restart()

    async def state(self) -> State:
        settings, queued = await asyncio.gather(self.settings.fresh(), self._queued())
        pending = await asyncio.gather(*(self.outbox.count(slug) for slug in self.phases))
        states = []
        for phase, owed in zip(self.phases.values(), pending, strict=True):
            delivering = phase.slug in settings.delivering
            container = settings.current(phase.keeps) if phase.keeps and delivering else None
            since = container.since.generation_time if container else None
            states.append(PhaseState(phase.slug, phase.title, delivering, since, owed, queued.get(phase.slug, 0)))
        return State(settings.read, settings.delivering, states)

    async def _queued(self) -> dict[str, int]:
        try:
            return await self.stack.queue.depth()
        except QueueDown:
            return {}  # nothing can be taken from a queue that is away


def _unknown(slug: str) -> str:
    return f"there is no phase {slug[:40]!r}; there are {', '.join(phase.slug for phase in PHASES)}"
