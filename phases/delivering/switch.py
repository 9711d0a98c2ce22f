"""Which phases deliver, which one readers get by default, and since when what is kept is complete (rule 3).

One document in MongoDB, read at most `settings_age_s` ago by whoever acts on it. Each time something is kept again it
begins a new container with a name of its own, so nothing of an earlier time is ever read.

A switch is two writes, since nobody knows how long a write takes, nor whether one that was given up is applied. The
first says what ends and what begins, and not when. A process that has heard of it no longer reads what ends, still
delivers to that, and delivers to what begins, which nobody reads yet. After a majority has the first write, the second
says when: a grace from then, by which everybody has heard of it. The second may come late; without it nothing is lost.
"""

import asyncio
import logging
from collections.abc import Collection, Mapping, Sequence
from contextlib import suppress
from dataclasses import replace
from datetime import timedelta

from pymongo import ReturnDocument
from pymongo.errors import DuplicateKeyError

from app.models import SETTINGS
from app.stack import MemcachedDown, Stack
from app.stack.again import pauses_s
from app.stack.cost import uncounted
from app.stack.mongodb.find import Find, Rows, together
from app.stack.mongodb.transaction import Contended
from app.stack.waiting import take_error
from phases.delivering.settings import Settings, SettingsChange, delivered_to, next_settings
from phases.keeping.store import Container, Store

log = logging.getLogger(__name__)

DOCUMENT = "phases"  # of the settings
FIELDS = ("version", "read", "delivering", "leaving", "containers", "forced")


class Switch:
    """`keeps`: what each phase keeps, if anything, by slug. `stores`: where, by what is kept."""

    def __init__(self, stack: Stack, keeps: Mapping[str, str | None], stores: Mapping[str, Store]) -> None:
        self._stack, self._keeps, self._stores = stack, keeps, stores
        self._clock, self._config = stack.clock, stack.config
        self._documents = stack.db[SETTINGS]
        self._copy: Settings | None = None  # remembered
        self._reading: asyncio.Task[Settings] | None = None

    def phases_of(self, kept: str) -> tuple[str, ...]:
        """Return the phases that keep this: a status is in its container, or pending for one of them."""
        return tuple(slug for slug, each in self._keeps.items() if each == kept)

    async def current(self) -> Settings:
        """Settings at most `settings_age_s` older than this call, or than the one whose reading it shares.

        A reading that takes long is used all the same: whoever acts on it asks `still_holds` afterwards.
        """
        if self._copy is None or self._clock.monotonic() - self._copy.read_at_s > self._config.settings_age_s:
            if self._reading is None or self._reading.done():
                self._reading = asyncio.create_task(self.fresh())
                self._reading.add_done_callback(take_error)
            self._copy = await asyncio.shield(self._reading)
        return self._copy

    async def fresh(self) -> Settings:
        """Settings read after this was called."""
        with uncounted():
            return (await self.fresh_with())[0]

    async def fresh_with(self, **finds: Find) -> tuple[Settings, dict[str, Rows]]:
        """Read the settings as they are now, with whatever else is to be looked up at that moment."""
        read_at_s = self._clock.monotonic()
        document = Find(SETTINGS, {"_id": DOCUMENT}, FIELDS, 1)
        answers = await together(self._stack.db, settings=document, **finds)
        return Settings.of(answers["settings"][0], read_at_s), answers

    def still_holds(self, settings: Settings) -> bool:
        """Return whether these settings name every container that a status stored now has to be in. They do for half a
        grace after they were read: what is switched on later is complete only from the end of its grace on, and may
        lack the status.
        """
        return self._clock.monotonic() - settings.read_at_s < self._config.grace_s / 2

    def readable(self, settings: Settings, kept: str) -> Container | None:
        """The container, when everybody has heard of it, some phase of ours delivers to it and this process reaches all
        of it.
        """
        container = settings.current(kept)
        if container is None or not self._is_delivered_to(settings, kept) or not self._reaches(container):
            return None
        return container if container.opens and container.opens <= self._clock.now() else None

    def writable(self, settings: Settings, kept: str) -> list[Container]:
        """Everywhere a delivery has to go: wherever somebody may read, by settings that are still good. Raises
        MemcachedDown for lists on other nodes than this process knows.
        """
        now = self._clock.now()
        open_ = [c for c in settings.containers if c.kept == kept and (c.until is None or now < c.until)]
        for container in open_:
            if not self._reaches(container):
                theirs, ours = (", ".join(nodes or ()) for nodes in (container.nodes, self._stores[kept].nodes))
                raise MemcachedDown(
                    f"{kept} are on {theirs}, and this process has them on {ours}. "
                    "Give every process the same FEEDLAB_MEMCACHED and FEEDLAB_MEMCACHED_PREFIX."
                )
        return open_

    def unknown(self, settings: Settings) -> set[str]:
        """Return the phases that are delivered to, and that only another version of the program knows."""
        return {*settings.delivering_at(self._clock.now())} - self._keeps.keys()

    def _current(self, settings: Settings) -> list[Container]:
        """The containers that are delivered to, but those of phases that only another version of the program knows."""
        return [c for c in settings.containers if c.until is None and c.kept in self._stores]

    def _is_delivered_to(self, settings: Settings, kept: str) -> bool:
        return any(self._keeps.get(slug) == kept for slug in settings.delivering)

    def _reaches(self, container: Container) -> bool:
        return container.nodes in (None, self._stores[container.kept].nodes)

    async def open(self, read: str, delivering: Sequence[str]) -> None:
        """Write the first settings where there are none; begin anew what is on other nodes or of another history."""
        blank = Settings(0, read, (), {}, ())
        with suppress(DuplicateKeyError):
            await self._documents.insert_one({"_id": DOCUMENT, **blank.document()})
        settings = await self.fresh()
        if settings.version == 0:
            await self.change(SettingsChange(read, delivering))
        elsewhere = [c.kept for c in self._current(settings) if not self._reaches(c)]
        if elsewhere:
            await self.change(SettingsChange(anew=elsewhere))
        await self.beat()

    async def beat(self) -> None:
        """Count one pulse of the database for each thing that is kept in memory, outside of it, and have the number
        remembered beside its container.

        Where a higher one is remembered than the database has, or may be, the database is of another history: it was
        restored from a backup. All that we know to be kept in memory begins anew, whether or not its number was
        forgotten. Only then do pulses go on, so that whoever comes next, or after a crash, sees it, too.

        What cannot be compared must not be outrun. So each thing has a pulse of its own, which stands still while its
        servers are away, or no program runs that knows what it is; then nothing in it changes either.

        Before that, settle a switch whose process died or gave up, and begin what has nowhere to be kept, as after a
        restore that was broken off at its end.
        """
        settings = await self.fresh()
        await self._settle(settings)
        if any(settings.current(kept) is None for kept in delivered_to(settings.delivering, self._keeps)):
            await self.change(SettingsChange())
            settings = await self.fresh()
        outside = [c for c in self._current(settings) if self._stores[c.kept].in_memory]
        pulses = [await self._stores[c.kept].pulse(c) if self._reaches(c) else None for c in outside]
        known = {c.kept: pulse for c, pulse in zip(outside, pulses, strict=True) if pulse is not None}
        if not known:
            return
        counted = await self._documents.find_one_and_update(
            {"_id": DOCUMENT, **{f"pulses.{kept}": {"$gte": pulse} for kept, pulse in known.items() if pulse}},
            {"$inc": {f"pulses.{kept}": 1 for kept in known}},
            projection={"pulses": 1},
            return_document=ReturnDocument.AFTER,
        )
        if counted is None:
            anew = [container.kept for container in outside]
            log.warning(
                "the database was restored from a backup, or caches have forgotten (%s): %s begin anew", known, anew
            )
            await self.restart(anew)
            return
        for container in outside:
            if container.kept in known:
                await self._stores[container.kept].keep_pulse(container, counted["pulses"][container.kept])

    async def over(self, names: Collection[str]) -> set[str]:
        """Return which of these containers nobody names any more, nor ever will, so that they may be removed however
        long after this. `names`: of containers that were there before.

        One that a change has just begun is in no settings yet. So what has no place in the settings makes another
        version of them: a change that goes by an older one begins again, with other containers.
        """
        settings = await self.fresh()
        found = set(names) - {container.name for container in settings.in_use(self._clock.now())}
        if found and not await self._swap(settings, replace(settings, version=settings.version + 1)):
            return set()  # somebody has changed them: the next sweep comes by again
        return found

    async def restart(self, anew: Sequence[str] | None = None) -> None:
        """Forget this of what is kept, or everything."""
        await self.change(SettingsChange(anew=list(self._stores) if anew is None else anew))

    async def change(self, change: SettingsChange) -> Settings:
        """Make a change, and return the settings that it was made to. It takes effect in every process within
        `settings_age_s`; what is switched on is read after the grace. Raises Contended where others are always faster.
        """
        nodes = {kept: store.nodes for kept, store in self._stores.items()}
        for pause_s in pauses_s():
            old = await self.fresh()
            new, begun = next_settings(old, change, self._keeps, nodes, self._clock.now())
            for container in begun:
                await self._stores[container.kept].begin(container)
            if await self._swap(old, new):
                await self._settle(new)
                return old
            await asyncio.sleep(pause_s)
        raise Contended("others keep changing the phase settings, or MongoDB has no majority that would show them")

    async def _settle(self, settings: Settings) -> None:
        """Say when things end and open, in settings that a majority has. Whoever acts on earlier ones has read them
        before now, and does so for half a grace (`still_holds`). Clocks may differ by the other half. Where another
        process changes the settings first, it settles this, too.
        """
        if not settings.is_settled:
            at = self._clock.now() + timedelta(seconds=self._config.grace_s)
            await self._swap(settings, settings.settled(at))

    async def _swap(self, old: Settings, new: Settings) -> bool:
        swapped = await self._documents.update_one({"_id": DOCUMENT, "version": old.version}, {"$set": new.document()})
        self._copy = None
        return bool(swapped.matched_count)
