"""Home timelines in Memcached: one value per active reader, packed ids in front, a trailer at the end.

| id delivered last | ... | id delivered first | trailer: state 4, floor 12, token 12, stored 2, expires_at_ms 6 |

12 bytes an id, so 800 ids and the trailer are 9.6 KB. Deliveries are prepended to the ids that were `stored` in order,
as far as the trailer says; the read restores order and uniqueness. A placeholder has no floor yet: deliveries collect
in it while its owner asks phase 1.

What has expired by either clock, Memcached's or ours, is not delivered to any more. Memcached's clock stands still
while its machine sleeps.
"""

import asyncio
import struct
from collections.abc import Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from datetime import datetime
from itertools import islice

from bson import ObjectId

from app.access import Entry
from app.clock import LAST_ID
from app.config import MEMCACHED_LONGEST_TTL_S
from app.edges import OwnEdges
from app.stack import MemcachedDown, Stack
from app.stack.mongodb.find import Rows
from phases.home.candidates import NOTHING, Slice
from phases.keeping import noted_edges
from phases.keeping.first_slices import First, FirstSlices
from phases.keeping.in_memory import InMemory, Lease
from phases.keeping.recipients import Recipients
from phases.keeping.store import FORGOTTEN, AuthorIds, Container, Glance, Place, Recent

ID_BYTES = 12
TRAILER = struct.Struct(">4s12s12sQ")
EXPIRES_BITS = 48  # of the trailer's last field, of which the rest says how many ids were stored
LIST, PLACEHOLDER = b"list", b"wait"
NO_TOKEN = bytes(12)
ATTEMPTS = 5  # rounds before giving up: a page does not wait for ever because a list is busy
SURPLUS = 1.5  # times the cap: a longer list, repetitions counted, is cut by the read that finds it


def keys(container: Container, readers: Sequence[ObjectId]) -> list[str]:
    prefix = f"list:{container.name}:"
    return [prefix + reader.binary.hex() for reader in readers]


def key(container: Container, reader: ObjectId) -> str:
    return keys(container, (reader,))[0]


def edges_key(container: Container, reader: ObjectId) -> str:
    return f"edges:{{{key(container, reader)}}}"  # on the list's node


def pulse_key(container: Container) -> str:
    return f"counted:{container.name}"


@dataclass(frozen=True)
class Value:
    state: bytes
    ids: Sequence[bytes]
    floor: bytes
    token: bytes = NO_TOKEN
    expires_at_ms: int = 0

    def packed(self) -> bytes:
        last = len(self.ids) << EXPIRES_BITS | self.expires_at_ms
        return b"".join(self.ids) + TRAILER.pack(self.state, self.floor, self.token, last)

    @classmethod
    def unpacked(cls, raw: bytes, newest: int | None = None) -> "Value":
        """Return the value of these bytes, its ids newest first and each once: all of them, or at least so many of the
        `newest`, for which it looks only at these and at what was delivered since the value was stored.
        """
        n = (len(raw) - TRAILER.size) // ID_BYTES
        state, floor, token, last = TRAILER.unpack_from(raw, len(raw) - TRAILER.size)
        stored, expires_at_ms = divmod(last, 1 << EXPIRES_BITS)
        if newest is not None:
            n = min(n, n - stored + newest)
        ids = {*struct.unpack_from(f"{ID_BYTES}s" * n, raw)}
        return cls(state, sorted(ids, reverse=True), floor, token, expires_at_ms)

    def with_ids(self, more: Iterable[bytes], cap: int) -> "Value":
        """Return the value with more ids merged, cut to the newest `cap`; what is cut off raises the floor."""
        ids = sorted([*self.ids, *more], reverse=True)  # cheap: they are two lists in order
        ids = [id for id in islice(dict.fromkeys(ids), cap + 1) if id >= self.floor]
        return replace(self, ids=ids[:cap], floor=ids[cap - 1] if len(ids) > cap else self.floor)

    def slice(self, place: Place) -> Slice:
        below = self.ids if place.before == LAST_ID else (id for id in self.ids if id < place.before.binary)
        entries = [Entry(ObjectId(id)) for id in islice(below, place.n) if id >= self.floor]
        return place.slice(entries, ObjectId(self.floor))


class Lists(InMemory):
    name = "lists"
    bytes_per_entry = ID_BYTES
    bytes_per_reader = 650  # two keys and item headers, trailer, the noted edges to 30 authors
    attempts = ATTEMPTS

    def __init__(self, stack: Stack, recipients: Recipients) -> None:
        super().__init__(stack, recipients)
        self._stack, self.memcached = stack, stack.memcached
        self._first = FirstSlices()

    @property
    def nodes(self) -> tuple[str, ...]:
        """The nodes, each with the prefix of our keys there: under another prefix are other lists."""
        prefix = self.memcached.prefix
        return tuple([f"{node} under {prefix}" if prefix else node for node in self.memcached.nodes])

    async def glance(self, place: Place) -> Glance | None:
        at = key(place.container, place.reader)
        try:
            found, edges = await asyncio.gather(
                self.memcached.gets(at), self._noted_edges(place.container, place.reader)
            )
        except MemcachedDown:
            return Glance()  # nobody knows
        value = self._living(found, place)
        if found is None or value is None:
            return None
        part = value.slice(place)
        if value.state == LIST and not self._due(value, found[0]):
            # The read will most likely find the same.
            self._first.keep(place, First(found[0], place.n, part, value.expires_at_ms))
        return Glance([entry.id for entry in part.entries], edges)

    async def _noted_edges(self, container: Container, reader: ObjectId) -> OwnEdges | None:
        with suppress(MemcachedDown):
            if found := await self.memcached.gets(edges_key(container, reader)):
                return noted_edges.unpacked(self._stack.secret, container, reader, found[0])
        return None

    async def note_edges(self, container: Container, edges: OwnEdges) -> None:
        value = noted_edges.packed(self._stack.secret, container, edges)
        if value is None:
            return
        with suppress(MemcachedDown):  # then the next process looks them up
            await self.memcached.put(edges_key(container, edges.reader), value, self.ttl_s)

    async def read(self, place: Place, answers: Mapping[str, Rows]) -> Slice | None:
        """Read the entries by one command to Memcached. Return None for a cold reader."""
        try:
            return await self._read(place)
        except MemcachedDown:
            return NOTHING

    async def _read(self, place: Place) -> Slice | None:
        """Read the entries, and renew the TTL when that is due."""
        at, reader = key(place.container, place.reader), place.reader
        found = await self.memcached.gets(at)
        first = self._first.of(place, found[0]) if found else None
        if first and not self.is_due(first.expires_at_ms):
            return first.slice
        value = self._living(found, place)
        if found is None or value is None or value.state == PLACEHOLDER:
            return None
        raw, version = found
        part = value.slice(place)
        if self._due(value, raw):
            active, followees = await self.admit_again(reader)
            more = await self.pulled_ids([reader, *followees])
            if not self._is_over(value):  # else the activity may have ended before it began again
                whole = Value.unpacked(raw)
                await self._swap(at, self._renewed(whole, active.until, more), version)
        else:
            self._first.keep(place, First(raw, place.n, part, value.expires_at_ms))
        return part

    async def pulled_ids(self, authors: list[ObjectId]) -> list[bytes]:
        """Return the newest pulled ids of these authors, up to one more than a list holds; none where the phase pulls
        nothing. A list takes them in whenever it is renewed.
        """
        return []

    async def lease(self, container: Container, reader: ObjectId) -> Lease | None:
        at, token, lease_s = key(container, reader), ObjectId().binary, self.config.lease_s
        placeholder = Value(PLACEHOLDER, (), LAST_ID.binary, token, self.now_ms() + lease_s * 1000).packed()
        found = await self.memcached.add(at, placeholder, lease_s)
        if found is None and (there := await self.memcached.gets(at)):
            over = self._is_over(Value.unpacked(there[0]))
            if over and await self.memcached.cas(at, placeholder, there[1], lease_s):
                found = await self.memcached.gets(at)
        return Lease(container, reader, token, found) if found else None

    async def fill(
        self,
        lease: Lease,
        recent: Recent,
        active_until: datetime | None,
    ) -> bool:
        """Put the list where the placeholder is, with what was prepended to it."""
        at, found = key(lease.container, lease.reader), lease.found
        while found is not None:
            collected = Value.unpacked(found[0])
            if collected.token != lease.token:
                return False
            filled = Value(
                LIST,
                [*collected.ids, *(row[:ID_BYTES] for row in recent.rows)],
                recent.floor.binary,
            )
            filled = self._renewed(filled, active_until)
            if await self._swap(at, filled, found[1]):
                return True
            if self._left_s(filled) <= 0:
                return False
            found = await self.memcached.gets(at)
        return False

    async def forget(self, container: Container, reader: ObjectId) -> None:
        with suppress(MemcachedDown):  # what is still there is still right
            await self.memcached.delete(key(container, reader))
            await self.memcached.delete(edges_key(container, reader))

    async def merge(self, container: Container, reader: ObjectId, author_ids: AuthorIds) -> None:
        """Merge an author's entries into a list (rule 4). One that is being built, has expired or keeps changing is
        dropped: the next read builds it.
        """
        at = key(container, reader)
        for _ in range(ATTEMPTS):
            found = await self.memcached.gets(at)
            if found is None:
                return
            value = Value.unpacked(found[0])
            if value.state == PLACEHOLDER or self._is_over(value):
                break
            entries = await author_ids(ObjectId(value.floor))
            if len(entries) >= self.cap:
                value = replace(value, floor=entries[-1].id.binary)
            if await self._swap(at, value.with_ids((e.id.binary for e in entries), self.cap), found[1]):
                return
        await self.memcached.delete(at)

    async def begin(self, container: Container) -> None:
        """Note that nothing was counted yet: nodes that are silent then do not know more."""
        await self.keep_pulse(container, 0)

    async def pulse(self, container: Container) -> int | None:
        """Return the highest pulse. It is FORGOTTEN where a node is silent, which may have lists, and all others have
        begun without any.
        """
        try:
            found = await self.memcached.highest(pulse_key(container))
        except MemcachedDown:
            return None
        return FORGOTTEN if found is None else found

    async def keep_pulse(self, container: Container, pulse: int) -> None:
        with suppress(MemcachedDown):  # a lower one is kept there, which is still right
            ttl_s = min(self.ttl_s + self.config.activity_slack_s, MEMCACHED_LONGEST_TTL_S)
            await self.memcached.note(pulse_key(container), pulse, ttl_s)

    async def holds(self, container: Container, reader: ObjectId, status: ObjectId) -> bool | None:
        try:
            value = self._living(await self.memcached.gets(key(container, reader)))
        except MemcachedDown:
            return None
        if value is None:
            return None
        if status.binary in value.ids:
            return True
        return None if value.state == PLACEHOLDER else False

    def _living(self, found: tuple[bytes, object] | None, place: Place | None = None) -> Value | None:
        """Return what was found, unless it has expired by our clock; as much of it as a first `place` takes."""
        newest = place.n if place and place.before == LAST_ID else None
        value = Value.unpacked(found[0], newest) if found else None
        return None if value is None or self._is_over(value) else value

    def _is_over(self, value: Value) -> bool:
        return self.is_over(value.expires_at_ms)

    def _due(self, value: Value, raw: bytes) -> bool:
        return self.is_due(value.expires_at_ms) or len(raw) - TRAILER.size > SURPLUS * self.cap * ID_BYTES

    def _renewed(self, value: Value, active_until: datetime | None, more: Iterable[bytes] = ()) -> Value:
        """Return the value with `more`, for another TTL, however long ago the reader was marked active."""
        return replace(value.with_ids(more, self.cap), token=NO_TOKEN, expires_at_ms=self.expiry_ms(active_until))

    async def _swap(self, at: str, value: Value, version: object) -> bool:
        """Store the value if the version is still this one, and return whether it was. The key expires when its value
        says so, and never later: nobody delivers to it after that.
        """
        ttl_s = self._left_s(value)
        return ttl_s > 0 and await self.memcached.cas(at, value.packed(), version, ttl_s)

    def _left_s(self, value: Value) -> int:
        return (value.expires_at_ms - self.now_ms()) // 1000
