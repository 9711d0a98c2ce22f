"""Home timelines in Memcached: one value per active reader, packed ids in front, a trailer at the end.

    | id delivered last | ... | id delivered first | trailer: kind 4, floor 12, token 12, expires_at_ms 8 |

12 bytes an id, so 800 ids and the trailer are 9.6 KB. Deliveries are prepended; order and uniqueness are restored by
the read. A placeholder has no floor yet: deliveries collect in it while its owner asks phase 1.
"""

import struct
from collections.abc import Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from datetime import datetime
from itertools import islice

from bson import ObjectId

from app.access import Entry
from app.clock import LAST_ID
from app.edges import followees
from app.models import StatusRow
from app.stack import MemcachedDown, Stack
from app.stack.mongodb import Find, together
from phases.activity import Activity
from phases.reading import NOTHING, Asked, AuthorIds, Found, Recent, Slice
from phases.switch import Container, Settings

ID_BYTES = 12
TRAILER = struct.Struct(">4s12s12sQ")
LIST, PLACEHOLDER = b"list", b"wait"
NO_TOKEN = bytes(12)
ATTEMPTS = 5  # rounds before giving up: a page does not wait for ever because a list is busy
RENEW_AFTER = 0.25  # of the TTL: how much of it passes before a read renews it
SURPLUS = 1.5  # times the cap: a longer list is cut by the read that finds it


def keys(container: Container, readers: Sequence[ObjectId]) -> list[str]:
    prefix = f"list:{container.name}:"
    return [prefix + reader.binary.hex() for reader in readers]


def key(container: Container, reader: ObjectId) -> str:
    return keys(container, (reader,))[0]


@dataclass(frozen=True)
class Value:
    kind: bytes
    ids: Sequence[bytes]
    floor: bytes
    token: bytes = NO_TOKEN
    expires_at_ms: int = 0

    def packed(self) -> bytes:
        return b"".join(self.ids) + TRAILER.pack(self.kind, self.floor, self.token, self.expires_at_ms)

    @classmethod
    def unpacked(cls, raw: bytes) -> "Value":
        """Ids newest first, each once."""
        n = (len(raw) - TRAILER.size) // ID_BYTES
        *ids, kind, floor, token, expires_at_ms = struct.unpack(">" + f"{ID_BYTES}s" * n + TRAILER.format[1:], raw)
        ids.sort(reverse=True)  # cheap: all but what was delivered lately is in order
        return cls(kind, ids if len(set(ids)) == n else sorted({*ids}, reverse=True), floor, token, expires_at_ms)

    def with_ids(self, more: Iterable[bytes], cap: int) -> "Value":
        """Merged and cut to the newest `cap`; what is cut off raises the floor."""
        ids = sorted([*self.ids, *more], reverse=True)  # cheap: they are two lists in order
        ids = [id for id in islice(dict.fromkeys(ids), cap + 1) if id >= self.floor]
        return replace(self, ids=ids[:cap], floor=ids[cap - 1] if len(ids) > cap else self.floor)

    def slice(self, before: ObjectId, n: int) -> Slice:
        below = self.ids if before == LAST_ID else (id for id in self.ids if id < before.binary)
        entries = [Entry(ObjectId(id)) for id in islice(below, n) if id >= self.floor]
        return Slice(entries, ObjectId(self.floor), whole=len(entries) < n and before == LAST_ID)


class Lists:
    """Each method names the container it works on. A node that is away is a list that covers nothing."""

    def __init__(self, stack: Stack, activity: Activity) -> None:
        self._db, self._memcached, self._config, self._clock = stack.db, stack.memcached, stack.config, stack.clock
        self._activity = activity

    async def deliver(self, container: Container, status: StatusRow, to: Sequence[ObjectId]) -> None:
        """One round trip per node. Whoever has no list is skipped. Raises MemcachedDown."""
        if to:
            await self._memcached.prepend(keys(container, to), status.id.binary)

    async def read(
        self,
        container: Container,
        reader: ObjectId,
        before: ObjectId,
        n: int,
        first: Mapping[str, Find],
        stranger: bool,
    ) -> tuple[Found, Slice | None]:
        """One command to MongoDB, then one to Memcached: what is no longer owed has been delivered before."""
        at = key(container, reader)
        if stranger and await self._is_gone(at):
            return {}, None
        found = await together(self._db, **first) if first else {}
        try:
            return found, await self._read(at, reader, before, n)
        except MemcachedDown:
            return found, NOTHING

    async def _is_gone(self, at: str) -> bool:
        try:
            return await self._memcached.gets(at) is None
        except MemcachedDown:
            return False  # nobody knows

    async def _read(self, at: str, reader: ObjectId, before: ObjectId, n: int) -> Slice | None:
        """Renews the TTL when that is due."""
        kept = await self._memcached.gets(at)
        if kept is None:
            return None
        value = Value.unpacked(kept[0])
        if value.kind == PLACEHOLDER:
            return None
        if self._due(value):
            active = await self._activity.mark(reader, await followees(self._db, reader))
            await self._swap(at, self._renewed(value, active.until), kept[1])
        return value.slice(before, n)

    async def rebuild(self, container: Container, reader: ObjectId, asked: Asked) -> bool:
        """Lease -> mark active -> query -> compare and swap. A follow in between is marked too, or breaks the lease."""
        at = key(container, reader)
        try:
            for _ in range(ATTEMPTS):
                lease = Value(PLACEHOLDER, (), LAST_ID.binary, token=ObjectId().binary)
                leased = await self._memcached.add(at, lease.packed(), self._config.lease_s)
                if leased is None:
                    return False
                active = await self._activity.mark(reader, await asked.followees())
                if self._clock.monotonic() - asked.began_s > self._config.timeline_ttl_s:
                    return False  # so late that whom they followed meanwhile may have been forgotten again
                if await self._fill(at, lease.token, leased, await asked.recent(active.authors), active.until):
                    return True
        except MemcachedDown:
            pass  # the next read finds nothing again, and asks
        return False

    async def _fill(
        self, at: str, token: bytes, found: tuple[bytes, object] | None, part: Recent, active_until: datetime
    ) -> bool:
        """Put the list where the placeholder is, with what was prepended to it; False when it is no longer ours."""
        while found is not None:
            collected = Value.unpacked(found[0])
            if collected.token != token:
                return False
            filled = Value(LIST, [*collected.ids, *(row[:12] for row in part.rows)], part.floor.binary)
            filled = self._renewed(filled, active_until)
            if await self._swap(at, filled, found[1]):
                return True
            if self._left_s(filled) <= 0:
                return False
            found = await self._memcached.gets(at)
        return False

    async def forget(self, container: Container, reader: ObjectId) -> None:
        with suppress(MemcachedDown):  # what is still there is still right
            await self._memcached.delete(key(container, reader))

    async def merge(self, container: Container, reader: ObjectId, author_ids: AuthorIds) -> None:
        """Rule 4. A list that is being built, or keeps changing, is dropped: the next read builds it."""
        at = key(container, reader)
        for _ in range(ATTEMPTS):
            found = await self._memcached.gets(at)
            if found is None:
                return
            value = Value.unpacked(found[0])
            if value.kind == PLACEHOLDER:
                break
            entries = await author_ids(ObjectId(value.floor))
            if len(entries) >= self._config.cap:
                value = replace(value, floor=entries[-1].id.binary)
            if await self._swap(at, value.with_ids((e.id.binary for e in entries), self._config.cap), found[1]):
                return
        await self._memcached.delete(at)

    async def sweep(self, settings: Settings) -> None:
        """Nothing to do: Memcached forgets by itself."""

    def _due(self, value: Value) -> bool:
        left_ms = value.expires_at_ms - self._now_ms()
        return (
            left_ms < (1 - RENEW_AFTER) * self._config.timeline_ttl_s * 1000
            or len(value.ids) > SURPLUS * self._config.cap
        )

    def _renewed(self, value: Value, active_until: datetime) -> Value:
        """For another TTL, however long ago the reader was marked active, and never beyond that activity."""
        ttl_ms = self._config.timeline_ttl_s * 1000
        expires_at_ms = min(self._now_ms() + ttl_ms, int(active_until.timestamp() * 1000))
        return replace(value.with_ids((), self._config.cap), token=NO_TOKEN, expires_at_ms=expires_at_ms)

    async def _swap(self, at: str, value: Value, version: object) -> bool:
        """The key expires when its value says so: never later, since nobody delivers to it any longer than that."""
        ttl_s = self._left_s(value)
        return ttl_s > 0 and await self._memcached.cas(at, value.packed(), version, ttl_s)

    def _left_s(self, value: Value) -> int:
        return (value.expires_at_ms - self._now_ms()) // 1000

    def _now_ms(self) -> int:
        return int(self._clock.now().timestamp() * 1000)
