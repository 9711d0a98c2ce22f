"""Home timelines in Redis: one sorted set per active reader. What is in a set is said in `app.stack.sorted_sets`.

A reader without a set is cold, and so is one whose set has expired by our clock, is a placeholder that a rebuild fills,
or was kept by another run of Redis. A Redis that is away covers nothing: the page is asked for.
"""

from collections.abc import Mapping, Sequence
from contextlib import suppress
from datetime import datetime

from bson import ObjectId

from app.access import Entry
from app.clock import FIRST_ID, LAST_ID
from app.edges import followees_of
from app.stack import SetsDown, Stack
from app.stack.mongodb.find import Rows, rows
from app.stack.sorted_sets import ID_BYTES, LIST, PLACEHOLDER, Found, Trailer
from phases.home.candidates import NOTHING, Slice
from phases.keeping.recipients import Recipients
from phases.keeping.store import AuthorIds, Container, Place, Recent, Returning, Store

RENEW_AFTER = 0.25  # of the TTL: how much of it passes before a read renews it


class SortedSets(Store):
    """A set lives no longer than its reader is active (`phases.keeping.activity`). Reading renews it, delivering does
    not.
    """

    name = "sorted sets"
    in_memory = True
    bytes_per_entry = 105  # a skip list; 18 where `zset-max-listpack-entries` of Redis is above 1.2 times the cap
    bytes_per_reader = 250  # key, trailer, expiry

    def __init__(self, stack: Stack, recipients: Recipients) -> None:
        super().__init__(stack, recipients)
        self.sets, self.ttl_s, self.cap = stack.sets, stack.config.timeline_ttl_s, stack.config.cap

    async def glance(self, place: Place) -> list[ObjectId] | None:
        try:
            found = await self._found(place.container, place.reader, place.before, place.n)
        except SetsDown:
            return []  # nobody knows
        return found and [ObjectId(id) for id in found.ids]

    async def read(self, place: Place, answers: Mapping[str, Rows]) -> Slice | None:
        """One script in Redis. Renews the set when that is due."""
        try:
            found = await self._found(place.container, place.reader, place.before, place.n)
            if found is None or found.trailer.kind == PLACEHOLDER:
                return None
            if self._left_s(found.trailer) < (1 - RENEW_AFTER) * self.ttl_s:
                await self._renew(place.container, place.reader, found.trailer)
        except SetsDown:
            return NOTHING
        entries = [Entry(ObjectId(id)) for id in found.ids if id >= found.trailer.floor]
        return Slice(entries, ObjectId(found.trailer.floor), whole=len(entries) < place.n and place.before == LAST_ID)

    async def _renew(self, container: Container, reader: ObjectId, old: Trailer) -> None:
        edges = await rows(self.db, followees_of(reader))
        active = await self.recipients.admit(reader, [edge["followee"] for edge in edges])
        if self._left_s(old) > 0:  # else the activity may have ended before it began again
            new = old._replace(expires_at_ms=self._until_ms(active.until))
            await self.sets.renew(container.name, reader, old, new, self._ttl_ms(new))

    async def rebuild(self, container: Container, returning: Returning) -> bool:
        """In the order of phase 4's return: the placeholder, the mark, the query, the fill."""
        try:
            return await self._rebuild(container, returning)
        except SetsDown:
            return False  # the next read finds nothing again, and asks

    async def _rebuild(self, container: Container, returning: Returning) -> bool:
        lease_ms, reader = self.config.lease_s * 1000, returning.reader
        placeholder = Trailer(PLACEHOLDER, FIRST_ID.binary, ObjectId().binary, self._now_ms() + lease_ms)
        if not await self.sets.lease(container.name, reader, placeholder, lease_ms, self._now_ms()):
            return False  # somebody else is at it
        active = await self.recipients.admit(reader, returning.followees)
        if self.clock.monotonic() - returning.began_s > self.ttl_s:
            return False  # so late that whom they followed meanwhile may have been forgotten again
        recent = await returning.recent(active.authors)
        return await self._fill(container, reader, placeholder.token, recent, active.until)

    async def _fill(
        self, container: Container, reader: ObjectId, token: bytes, recent: Recent, active_until: datetime | None
    ) -> bool:
        filled = Trailer(LIST, recent.floor.binary, token, self._until_ms(active_until))
        ids = [row[:ID_BYTES] for row in recent.rows]
        return self._left_s(filled) > 0 and await self.sets.fill(
            container.name, reader, filled, self._ttl_ms(filled), ids, self.cap
        )

    async def merge(self, container: Container, reader: ObjectId, author_ids: AuthorIds) -> None:
        """Rule 4. A set that is being built or has expired is dropped: the next read builds it."""
        found = await self.sets.read(container.name, reader, FIRST_ID, 0)
        if found is None:
            return
        if found.trailer.kind == PLACEHOLDER or self._left_s(found.trailer) <= 0:
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

    async def sweep(self, current: Container | None, alive: Sequence[Container]) -> None:
        with suppress(SetsDown):
            await self.sets.sweep([container.name for container in alive])

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
        return None if found.trailer.kind == PLACEHOLDER else False

    async def _found(
        self, container: Container, reader: ObjectId, before: ObjectId = FIRST_ID, n: int = 0
    ) -> Found | None:
        """What is there and has not expired by our clock."""
        found = await self.sets.read(container.name, reader, before, n)
        return found if found and self._left_s(found.trailer) > 0 else None

    def _until_ms(self, active_until: datetime | None) -> int:
        """A TTL from now, and never beyond the reader's activity."""
        until_ms = self._now_ms() + self.ttl_s * 1000
        return min(until_ms, int(active_until.timestamp() * 1000)) if active_until else until_ms

    def _ttl_ms(self, trailer: Trailer) -> int:
        """Redis forgets a set when its trailer says so: never later, since nobody delivers to it any longer."""
        return max(1, trailer.expires_at_ms - self._now_ms())

    def _left_s(self, trailer: Trailer) -> float:
        return (trailer.expires_at_ms - self._now_ms()) / 1000

    def _now_ms(self) -> int:
        return int(self.clock.now().timestamp() * 1000)
