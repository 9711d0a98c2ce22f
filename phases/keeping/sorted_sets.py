"""Home timelines in Redis: one sorted set per active reader. `app.stack.sorted_sets` says what is in a set.

A reader without a set is cold, and so is one whose set has expired by our clock, is a placeholder that a rebuild fills,
or was kept by another run of Redis.
"""

from collections.abc import Mapping
from contextlib import suppress
from datetime import datetime
from functools import partial

from bson import ObjectId

from app.access import Entry
from app.clock import FIRST_ID
from app.stack import SetsDown, Stack
from app.stack.mongodb.find import Rows
from app.stack.sorted_sets import ID_BYTES, LIST, PLACEHOLDER, Found, Over, Trailer
from phases.home.candidates import NOTHING, Slice
from phases.keeping.first_slices import FirstSlices
from phases.keeping.in_memory import InMemory, Lease
from phases.keeping.recipients import Recipients
from phases.keeping.store import AuthorIds, Container, Glance, Place, Recent


class SortedSets(InMemory):
    name = "sorted sets"
    bytes_per_entry = 105  # a skip list; 18 where `zset-max-listpack-entries` of Redis is above 1.2 times the cap
    bytes_per_reader = 250  # key, trailer, expiry
    attempts = 1  # a set that is lost while it is built is built by the next read

    def __init__(self, stack: Stack, recipients: Recipients) -> None:
        super().__init__(stack, recipients)
        self.sets = stack.sets
        self._first = FirstSlices()

    async def glance(self, place: Place) -> Glance | None:
        try:
            found = await self._found(place.container, place.reader, place.before, place.n)
        except SetsDown:
            return Glance()  # nobody knows
        return found and Glance([ObjectId(id) for id in found.ids])

    async def read(self, place: Place, answers: Mapping[str, Rows]) -> Slice | None:
        """Read the entries by one script in Redis, and renew the set if that is due. Return None for a cold reader."""
        try:
            found = await self._found(place.container, place.reader, place.before, place.n)
            if found is None or found.trailer.state == PLACEHOLDER:
                return None
            if self.is_due(found.trailer.expires_at_ms):
                await self._renew(place.container, place.reader, found.trailer)
        except SetsDown:
            return NOTHING
        packed = b"".join([found.trailer.floor, *found.ids])
        return self._first.unpacked(place, packed, partial(_slice, place, found))

    async def _renew(self, container: Container, reader: ObjectId, old: Trailer) -> None:
        active, _ = await self.admit_again(reader)
        if not self.is_over(old.expires_at_ms):  # else the activity may have ended before it began again
            new = old._replace(expires_at_ms=self.expiry_ms(active.until))
            await self.sets.renew(container.name, reader, old, new, self._ttl_ms(new))

    async def lease(self, container: Container, reader: ObjectId) -> Lease | None:
        lease_ms = self.config.lease_s * 1000
        placeholder = Trailer(PLACEHOLDER, FIRST_ID.binary, ObjectId().binary, self.now_ms() + lease_ms)
        ours = await self.sets.lease(container.name, reader, placeholder, lease_ms, self.now_ms())
        return Lease(container, reader, placeholder.token) if ours else None

    async def fill(self, lease: Lease, recent: Recent, active_until: datetime | None) -> bool:
        filled = Trailer(LIST, recent.floor.binary, lease.token, self.expiry_ms(active_until))
        if self.is_over(filled.expires_at_ms):
            return False
        ids, ttl_ms = [row[:ID_BYTES] for row in recent.rows], self._ttl_ms(filled)
        return await self.sets.fill(lease.container.name, lease.reader, filled, ttl_ms, ids, self.cap)

    async def merge(self, container: Container, reader: ObjectId, author_ids: AuthorIds) -> None:
        """Merge an author's entries into a set (rule 4). One that is being built or has expired is dropped: the next
        read builds it.
        """
        found = await self.sets.read(container.name, reader, FIRST_ID, 0)
        if found is None:
            return
        if found.trailer.state == PLACEHOLDER or self.is_over(found.trailer.expires_at_ms):
            await self.sets.forget(container.name, reader)
            return
        entries = await author_ids(ObjectId(found.trailer.floor))
        floor = entries[-1].id if len(entries) >= self.cap else FIRST_ID
        await self.sets.merge(container.name, reader, [e.id.binary for e in entries], floor.binary, self.cap)

    async def forget(self, container: Container, reader: ObjectId) -> None:
        with suppress(SetsDown):  # what is still there is still right
            await self.sets.forget(container.name, reader)

    async def pulse(self, container: Container) -> int | None:
        try:
            return await self.sets.highest(container.name)
        except SetsDown:
            return None

    async def keep_pulse(self, container: Container, pulse: int) -> None:
        with suppress(SetsDown):  # a lower one is kept there, which is still right
            await self.sets.note(container.name, pulse, self.ttl_s + self.config.activity_slack_s)

    async def sweep(self, current: Container | None, over: Over) -> None:
        with suppress(SetsDown):
            await self.sets.sweep(over)

    async def holds(self, container: Container, reader: ObjectId, status: ObjectId) -> bool | None:
        above = ObjectId((int.from_bytes(status.binary, "big") + 1).to_bytes(ID_BYTES, "big"))
        try:
            found = await self._found(container, reader, above, 1)
        except SetsDown:
            return None
        if found is None:
            return None
        if status.binary in found.ids:
            return True
        return None if found.trailer.state == PLACEHOLDER else False

    async def _found(self, container: Container, reader: ObjectId, before: ObjectId, n: int) -> Found | None:
        """Return what is there and has not expired by our clock."""
        found = await self.sets.read(container.name, reader, before, n)
        return found if found and not self.is_over(found.trailer.expires_at_ms) else None

    def _ttl_ms(self, trailer: Trailer) -> int:
        """Return how long Redis keeps a set: until its trailer is over. Nobody delivers to it after that."""
        return max(1, trailer.expires_at_ms - self.now_ms())


def _slice(place: Place, found: Found) -> Slice:
    floor = found.trailer.floor
    entries = [Entry(ObjectId(id)) for id in found.ids if id >= floor]
    return place.slice(entries, ObjectId(floor))
