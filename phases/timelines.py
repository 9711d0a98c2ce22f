"""The one timeline interface: its pages are the same, whatever delivers and whoever asks."""

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from datetime import datetime
from functools import cache

from bson import ObjectId

from app.errors import Invalid
from app.models import Event, StatusRow
from app.stack import QueueDown, Stack
from app.watch import metrics
from phases import DEFAULT, PHASES
from phases.base import Carrier, Phase
from phases.delivering import away
from phases.delivering.backfills import Backfills
from phases.delivering.delivery import Delivery
from phases.delivering.kept_timelines import KeptTimelines
from phases.delivering.outbox import Failures, GoesOn, Kind, Outbox, one_step_only
from phases.delivering.pending import Pending
from phases.delivering.settings import SettingsChange
from phases.delivering.switch import Switch
from phases.home.page import Page
from phases.keeping.store import Store
from phases.p1_query import written_by
from phases.p3_queue import deliver_in_worker
from phases.pulling.author import PAGES
from phases.pulling.pulls import Pulls, Weighed
from phases.reading import Reading, Request

MOST_FORCED = 100  # authors: each is in the phase settings, which every process keeps reading


@dataclass(frozen=True)
class PhaseState:
    """The state of a phase. `since`: what it keeps is complete from then on. `pending`: statuses that it still has to
    deliver. `queued`: its jobs.
    """

    slug: str
    title: str
    delivering: bool
    since: datetime | None
    pending: int
    queued: int


@dataclass(frozen=True)
class ConsumerState:
    """The state of a consumer. `pending`: statuses and events that it still has to handle. `queued`: its jobs."""

    name: str
    pending: int
    queued: int


@dataclass(frozen=True)
class State:
    """The phase settings, and the state of every consumer. `others`: the consumers that are no phases."""

    read: str
    delivering: tuple[str, ...]
    phases: list[PhaseState]
    others: list[ConsumerState]

    @property
    def consumers(self) -> list[ConsumerState]:
        return [*(ConsumerState(phase.slug, phase.pending, phase.queued) for phase in self.phases), *self.others]


@dataclass(frozen=True)
class PhaseConsumer:
    """A phase as a consumer of the outbox."""

    name: str
    carrier: Carrier
    delivery: Delivery

    @property
    def kinds(self) -> frozenset[Kind]:
        return frozenset({"status"})

    @property
    def may_wait(self) -> bool:
        return self.carrier.in_worker

    async def hand_over(self, happened: StatusRow | Event) -> None:
        assert isinstance(happened, StatusRow), "a phase cares for nothing else"
        await self.carrier.hand_over(self.delivery, happened)

    async def inserted(self, statuses: Sequence[StatusRow]) -> Failures:
        """Deliver statuses that are pending for the phase, if its carrier follows the change stream. Return what
        failed.
        """
        assert self.carrier.inserted, self.name
        return await self.carrier.inserted(self.delivery, statuses)

    async def handle(self, happened: ObjectId, after: ObjectId | None, goes_on: GoesOn = one_step_only) -> Failures:
        """Do a job of phase 3, whoever carries the phase: a delivery that got lost is one, and so is a further step of
        phase 5.
        """
        return await deliver_in_worker(self.delivery, happened, after, goes_on)


class Timelines:
    """The timelines of every phase on one stack; `open` makes them. `phases`: other ones than ours, to measure or to
    test.

    `streamed`: the consumers whose statuses come from the change stream.
    """

    def __init__(self, stack: Stack, phases: tuple[Phase, ...] = PHASES) -> None:
        self.stack = stack
        self.phases = {phase.slug: phase for phase in phases}
        self._default = self.phases.get(DEFAULT.slug, phases[-1])
        stores = _stores(stack, phases)
        self.switch = Switch(stack, {phase.slug: phase.keeps for phase in phases}, stores)
        self.kept = {
            name: KeptTimelines(name, store, store.recipients, self.switch, written_by)
            for name, store in stores.items()
        }
        self.pulls = Pulls(stack, {phase.slug: phase.pulls for phase in phases if phase.pulls})
        idle = {phase.slug for phase in phases if not phase.keeps}
        self.outbox = Outbox(stack, self.switch, idle, Backfills(stack, self.switch, self.kept.values()), self.pulls)
        consumers = [self._consumer(phase, self.kept[phase.keeps]) for phase in phases if phase.keeps]
        for consumer in consumers:
            self.outbox.add(consumer)
            metrics.REBUILDS.labels(consumer.name)  # none is a figure, too
        self.streamed = [consumer for consumer in consumers if consumer.carrier.inserted]
        self.pending = Pending(stack)
        self._reading = Reading(stack, self.kept, self.switch, self.pending, self.pulls.markers)

    def _consumer(self, phase: Phase, kept: KeptTimelines) -> PhaseConsumer:
        assert phase.carrier, f"{phase.slug} keeps timelines that nobody delivers to"
        chunk = phase.chunk(self.stack.config)
        delivery = Delivery(phase.slug, chunk, self.stack, self.switch, kept, self.outbox)
        return PhaseConsumer(phase.slug, phase.carrier, delivery)

    @classmethod
    async def open(cls, stack: Stack, phases: tuple[Phase, ...] = PHASES) -> "Timelines":
        """Open the timelines. A database without phase settings begins with the default phase alone, or in demo mode
        with all.
        """
        timelines = cls(stack, phases)
        keeping = [phase.slug for phase in phases if phase.keeps]
        first = timelines._default.slug
        delivering = keeping if stack.config.demo else [slug for slug in keeping if slug == first]
        await timelines.switch.open(first, delivering)
        return timelines

    async def page(
        self, reader: ObjectId, *, phase: str | None = None, before: ObjectId | None = None, limit: int = 20
    ) -> Page:
        """Return one page of the reader's home timeline, newest first. Raises Invalid for an unknown phase."""
        asked = await self._named(phase)
        self.pulls.authors.count(PAGES)
        return _counted(asked, await self._reading.page(Request(asked, reader, before, limit)))

    async def refresh(self, reader: ObjectId, *, phase: str | None = None, limit: int = 20) -> Page:
        """Return the first page, and build anew what the phase keeps for this reader. Raises Invalid for an unknown
        phase.
        """
        asked = await self._named(phase)
        return _counted(asked, await self._reading.refresh(Request(asked, reader, None, limit)))

    async def _named(self, slug: str | None) -> Phase:
        """Return this phase, or the one that readers get by default: ours, where only another version of the program
        knows that.
        """
        if not slug:
            return self.phases.get((await self.switch.current()).read, self._default)
        if slug not in self.phases:
            raise Invalid("phase", self._unknown(slug))
        return self.phases[slug]

    def _unknown(self, slug: str) -> str:
        return f"There is no phase {slug[:40]!r}; there are {', '.join(self.phases)}."

    def kept_by(self, slug: str) -> KeptTimelines | None:
        """Return what the phase keeps, which other phases may share; None where it keeps nothing."""
        keeps = self.phases[slug].keeps
        return self.kept[keeps] if keeps else None

    def forget(self, reader: ObjectId) -> None:
        """Forget what this process remembers of the reader, as if they had never been here."""
        self._reading.forget(reader)

    @property
    def sweeps(self) -> Sequence[Callable[[], Awaitable[None]]]:
        """What is to be swept now and then. None of it needs another one to end well."""
        return [*(kept.sweep for kept in self.kept.values()), self.pulls.sweep, self.outbox.sweep]

    async def sweep(self) -> None:
        for sweep in self.sweeps:
            await sweep()

    async def store_counts(self) -> None:
        """Store how many pages and posts this process has counted, if any phase decides by that, delivering or not: one
        that is switched on goes by the day before. No page and no post waits for it.
        """
        if self.pulls.merging:
            await self.pulls.authors.store_counts()

    async def change(self, *, read: str | None = None, delivering: Sequence[str] | None = None) -> State:
        """Change what is read by default, what delivers, or both; return the new state. Raises Invalid for an unknown
        phase.
        """
        for field, slugs in (("read", [read] if read else []), ("delivering", delivering or [])):
            for slug in slugs:
                if slug not in self.phases:
                    raise Invalid(field, self._unknown(slug))
        await self.switch.change(SettingsChange(read, delivering))
        return await self.state()

    async def force(self, author: ObjectId, pulled: bool | None) -> None:
        """Have all of the author's statuses pulled, or none, from now on; None leaves it to the rule. For experiments.

        It takes effect in every process within `settings_age_s`. Raises Invalid for one author too many.
        """
        forced = {**(await self.switch.fresh()).forced, author: pulled}
        if sum(choice is not None for choice in forced.values()) > MOST_FORCED:
            raise Invalid(
                "author", f"{MOST_FORCED} authors are forced already. Free one: `feedlab author HANDLE --force rule`."
            )
        await self.switch.change(SettingsChange(forced={author: pulled}))

    async def weighed(self, author: ObjectId) -> Weighed | None:
        """Return why the author's next status would be pulled, or not; None where no phase of ours pulls any."""
        if not self.pulls.merging:
            return None
        settings = await self.switch.fresh()
        return await self.pulls.weighed(settings.epoch, author, settings.forced.get(author))

    async def restart(self) -> None:
        """Forget everything that is kept, for everybody. It only costs time."""
        await self.switch.restart()

    async def forget_lists(self) -> None:
        """Make everybody cold wherever lists are in memory, as after a flush of Memcached, which is not ours alone."""
        await self.switch.restart([name for name, kept in self.kept.items() if kept.store.in_memory])

    async def send_away(self, share: float, rest: Callable[[float], Awaitable[object]]) -> int:
        """End the activity of a share of all readers, and return of how many. For demonstrations."""
        active = [kept.name for kept in self.kept.values() if kept.recipients.active_only]
        return await away.send_away(self.stack, self.switch, active, share, rest)

    async def state(self) -> State:
        settings, queued = await asyncio.gather(self.switch.fresh(), self._queued())
        pending = await asyncio.gather(*(self.outbox.count(slug) for slug in self.phases))
        states = []
        for phase, n in zip(self.phases.values(), pending, strict=True):
            delivering = phase.slug in settings.delivering
            container = settings.current(phase.keeps) if phase.keeps and delivering else None
            since = container.opens if container else None
            states.append(PhaseState(phase.slug, phase.title, delivering, since, n, queued.get(phase.slug, 0)))
        names = [name for name in self.outbox.consumers if name not in self.phases]
        counts = await asyncio.gather(*map(self.outbox.count, names))
        others = [ConsumerState(name, n, queued.get(name, 0)) for name, n in zip(names, counts, strict=True)]
        return State(settings.read, settings.delivering, states, others)

    async def _queued(self) -> dict[str, int]:
        try:
            return await self.stack.queue.depth()
        except QueueDown:
            return {}  # nothing can be taken from a queue that is away


_reads, _lookups = cache(metrics.READS.labels), cache(metrics.LOOKUPS.labels)  # each page counts, in a few ways


def _counted(phase: Phase, page: Page) -> Page:
    _reads(page.phase, page.source).inc()
    if phase.keeps:
        _lookups(page.phase, _lookup(page)).inc()
    if page.source == "rebuilt":
        metrics.REBUILDS.labels(page.phase).inc()
    return page


def _lookup(page: Page) -> str:
    """Return how the look-up of what is kept has ended: a miss where nothing is, unused where the page lies below all
    that is, or that cannot be asked or believed.
    """
    if page.cold:
        return "miss"
    return "hit" if page.source.startswith("list") else "unused"


def _stores(stack: Stack, phases: Sequence[Phase]) -> dict[str, Store]:
    """Return the stores by what is kept in them. Phases that keep the same share one."""
    stores: dict[str, Store] = {}
    for phase in phases:
        if phase.store and phase.recipients and phase.keeps:
            if phase.keeps not in stores:
                stores[phase.keeps] = phase.store(stack, phase.recipients(stack))
            store = stores[phase.keeps]
            is_same = (type(store), type(store.recipients)) == (phase.store, phase.recipients)
            assert is_same, f"{phase.slug}: other classes keep {phase.keeps!r}, so one needs another name"
    return stores
