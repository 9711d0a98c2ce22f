"""Which phases deliver, which one readers get by default, and since when what is kept is complete (rule 3).

One document in MongoDB, read at most `settings_age_s` ago by whoever acts on it. Each time a store is switched on it
begins a new container, named after the moment from which it is complete, so nothing of an earlier time is ever read.
What is switched off is delivered to for the grace, for the sake of readers that have not heard of it.
"""

import asyncio
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any, Literal

from bson import ObjectId
from pymongo.errors import DuplicateKeyError

from app.clock import id_floor
from app.stack import MemcachedDown, Stack
from app.stack.cost import uncounted
from app.stack.mongodb import Find, Rows, create_clustered, together

StoreName = Literal["entries", "lists"]
SETTINGS = "settings"
DOCUMENT = "phases"
FIELDS = ("version", "read", "delivering", "leaving", "containers")
FORGET_AFTER_S = 60  # reads that began in a container have ended so long after it was retired


@dataclass(frozen=True)
class Container:
    """A store since it was last switched on. Statuses below `since` may be missing in it, none above it is."""

    store: StoreName
    since: ObjectId
    memcached: tuple[str, ...] | None = None  # lists: the nodes they are spread over
    until: datetime | None = None  # no longer read; still delivered to until then

    @property
    def name(self) -> str:
        return str(self.since)


@dataclass(frozen=True)
class Settings:
    """One reading of the settings."""

    version: int
    read: str
    delivering: tuple[str, ...]
    leaving: Mapping[str, datetime]  # switched off, still delivered to until then
    containers: tuple[Container, ...]
    read_at_s: float  # on the clock's monotonic seconds

    def owed_by(self, now: datetime) -> tuple[str, ...]:
        """The phases that a status posted now has to be delivered to."""
        return (*self.delivering, *(slug for slug, until in self.leaving.items() if now < until))

    def current(self, store: StoreName) -> Container | None:
        return next((c for c in self.containers if c.store == store and c.until is None), None)

    def document(self) -> dict[str, Any]:
        return {
            "version": self.version,
            "read": self.read,
            "delivering": list(self.delivering),
            "leaving": dict(self.leaving),
            "containers": [vars(container) for container in self.containers],
        }

    @classmethod
    def of(cls, document: Mapping[str, Any], read_at_s: float) -> "Settings":
        containers = tuple(
            Container(c["store"], c["since"], tuple(c["memcached"]) if c["memcached"] else None, c["until"])
            for c in document["containers"]
        )
        delivering = tuple(document["delivering"])
        return cls(document["version"], document["read"], delivering, document["leaving"], containers, read_at_s)


class Switch:
    """`stores`: which store each phase keeps its timelines in, for the phases that keep any."""

    def __init__(self, stack: Stack, stores: Mapping[str, StoreName]) -> None:
        self._stack, self._stores = stack, stores
        self._clock, self._config = stack.clock, stack.config
        self._documents = stack.db[SETTINGS]
        self._copy: Settings | None = None
        self._reading: asyncio.Task[Settings] | None = None

    def phases_of(self, store: StoreName) -> tuple[str, ...]:
        """The phases that deliver into it: a status is in it, or pending for one of them."""
        return tuple(slug for slug, kept in self._stores.items() if kept == store)

    async def current(self) -> Settings:
        """Settings at most `settings_age_s` older than this call, or than the one whose reading it shares.

        A reading that takes long is used all the same: whoever acts on it asks `still_holds` afterwards.
        """
        if self._copy is None or self._clock.monotonic() - self._copy.read_at_s > self._config.settings_age_s:
            if self._reading is None or self._reading.done():
                self._reading = asyncio.create_task(self.fresh())
            self._copy = await asyncio.shield(self._reading)
        return self._copy

    async def fresh(self) -> Settings:
        """Settings read after this was called."""
        with uncounted():
            return (await self.fresh_with())[0]

    async def fresh_with(self, **finds: Find) -> tuple[Settings, dict[str, Rows]]:
        """The same, and what else is to be looked up at that moment."""
        read_at_s = self._clock.monotonic()
        found = await together(self._stack.db, settings=Find(SETTINGS, {"_id": DOCUMENT}, FIELDS, 1), **finds)
        [document] = found.pop("settings")
        return Settings.of(document, read_at_s), found

    def still_holds(self, settings: Settings) -> bool:
        """Whether a status stored just now, as these settings say, is older than any container they do not name."""
        return self._clock.monotonic() - settings.read_at_s < self._config.grace_s / 2

    def readable(self, settings: Settings, store: StoreName) -> Container | None:
        """The store's container, when everybody has heard of it and this process reaches all of it."""
        container = settings.current(store)
        if container is None or not self._reaches(container) or id_floor(self._clock.now()) <= container.since:
            return None
        return container

    def writable(self, settings: Settings, store: StoreName) -> list[Container]:
        """Everywhere a delivery has to go. Raises MemcachedDown for lists on other nodes than this process knows."""
        now = self._clock.now()
        found = [c for c in settings.containers if c.store == store and (c.until is None or now < c.until)]
        for container in found:
            if not self._reaches(container) and container.until is None:
                raise MemcachedDown(
                    f"lists are on {container.memcached}, this process has {self._stack.memcached.nodes}"
                )
        return [container for container in found if self._reaches(container)]

    def _reaches(self, container: Container) -> bool:
        return container.memcached in (None, self._stack.memcached.nodes)

    async def open(self, read: str, delivering: Sequence[str]) -> None:
        """Write the first settings where there are none; begin new lists where they were on other nodes than ours."""
        blank = Settings(0, read, (), {}, (), 0)
        with suppress(DuplicateKeyError):
            await self._documents.insert_one({"_id": DOCUMENT, **blank.document()})
        settings = await self.fresh()
        if settings.version == 0:
            await self.change(read, delivering)
        elif (lists := settings.current("lists")) and not self._reaches(lists):
            await self.restart(("lists",))

    async def change(self, read: str | None, delivering: Sequence[str] | None) -> None:
        """Takes effect in every process within `settings_age_s`; what is switched on is read after the grace."""
        await self._write(read, delivering, ())

    async def restart(self, stores: Sequence[StoreName] = ("entries", "lists")) -> None:
        """Forget everything that these stores keep."""
        await self._write(None, None, stores)

    async def _write(self, read: str | None, delivering: Sequence[str] | None, restarted: Sequence[StoreName]) -> None:
        """A write that others hear of too late for its grace is made once more, with more of it."""
        grace_s = self._config.grace_s
        while True:
            old, now, began_s = await self.fresh(), self._clock.now(), self._clock.monotonic()
            until = now + timedelta(seconds=grace_s)
            chosen = old.delivering if delivering is None else tuple(dict.fromkeys(delivering))
            leaving = {slug: t for slug, t in old.leaving.items() if now < t} | dict.fromkeys(old.delivering, until)
            new = Settings(
                version=old.version + 1,
                read=read or old.read,
                delivering=chosen,
                leaving={slug: t for slug, t in leaving.items() if slug not in chosen},
                containers=await self._containers(old, chosen, restarted, now, until),
                read_at_s=0,
            )
            latest_s = began_s + grace_s - self._config.grace_s / 2  # `still_holds` takes the other half
            if self._clock.monotonic() > latest_s:
                grace_s *= 2
                continue
            written = await self._documents.update_one(
                {"_id": DOCUMENT, "version": old.version}, {"$set": new.document()}
            )
            if not written.matched_count:
                continue
            self._copy = None
            if self._clock.monotonic() > latest_s:
                grace_s *= 2
                restarted = [c.store for c in new.containers if c.until is None and c not in old.containers]
            else:
                return

    async def _containers(
        self, old: Settings, chosen: Sequence[str], restarted: Sequence[StoreName], now: datetime, until: datetime
    ) -> tuple[Container, ...]:
        """A store goes on while some phase delivers to it; otherwise it retires, and begins anew after the grace."""
        wanted: dict[StoreName, None] = {self._stores[slug]: None for slug in chosen if slug in self._stores}
        forgotten = now - timedelta(seconds=FORGET_AFTER_S)
        found = [container for container in old.containers if container.until and forgotten < container.until]
        for container in old.containers:
            if container.until is None:
                goes_on = container.store in wanted and container.store not in restarted
                found.append(container if goes_on else _retired(container, until))
        going_on = {container.store for container in found if container.until is None}
        begun = [await self._begin(store, until) for store in wanted if store not in going_on]
        return (*found, *begun)

    async def _begin(self, store: StoreName, after: datetime) -> Container:
        since = ObjectId(id_floor(after).binary[:4] + ObjectId().binary[4:])  # unique, and no status is that old yet
        if store == "entries":
            await create_clustered(self._stack.db, entries_name(since))
            await self._stack.db.create_collection(floors_name(since))  # before anybody reads: not in their snapshot
            return Container(store, since)
        return Container(store, since, self._stack.memcached.nodes)


def _retired(container: Container, until: datetime) -> Container:
    return Container(container.store, container.since, container.memcached, until)


def entries_name(since: ObjectId) -> str:
    """The collection of one container's entries."""
    return f"home_entries_{since}"


def floors_name(since: ObjectId) -> str:
    """The collection of the floors of one container."""
    return f"home_floors_{since}"
