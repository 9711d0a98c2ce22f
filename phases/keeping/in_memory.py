"""Home timelines in memory, of active readers: what lists in Memcached and sorted sets in Redis have in common.

They may be gone at any moment, and live no longer than their reader is active (`phases.keeping.activity`). Reading
renews them, delivering does not. What has expired by our clock is as if it were not there, whatever the server says. A
server that is away covers nothing: the page is asked for.
"""

from abc import abstractmethod
from dataclasses import dataclass
from datetime import datetime
from typing import ClassVar

from bson import ObjectId

from app.edges import followees_of
from app.stack import MemcachedDown, SetsDown, Stack
from app.stack.mongodb.find import rows
from phases.keeping.recipients import Admitted, Recipients
from phases.keeping.store import Container, Recent, Returning, Store

RENEW_AFTER = 0.25  # the share of the TTL that passes before a read renews it


@dataclass(frozen=True)
class Lease:
    """A placeholder of this process: deliveries collect behind it. `found`: the value and its version, where the server
    has versions.
    """

    container: Container
    reader: ObjectId
    token: bytes
    found: tuple[bytes, object] | None = None


class InMemory(Store):
    """A store in memory. `attempts`: how often a return is tried, as its placeholder may be lost, before it is left to
    the next read. Phase 4 says how a timeline comes to be.
    """

    in_memory = True
    attempts: ClassVar[int]

    def __init__(self, stack: Stack, recipients: Recipients) -> None:
        super().__init__(stack, recipients)
        self.ttl_s, self.cap = stack.config.timeline_ttl_s, stack.config.cap

    async def rebuild(self, container: Container, returning: Returning) -> bool:
        """Rebuild a timeline; return whether that was done. Nothing is kept while the server is away: the next read
        finds nothing again, and asks.
        """
        try:
            return await self.come_back(container, returning)
        except (MemcachedDown, SetsDown):
            return False

    @abstractmethod
    async def come_back(self, container: Container, returning: Returning) -> bool:
        """Rebuild the timeline of a reader who comes back; return whether that was done. This and what it is made of
        raise MemcachedDown or SetsDown.
        """

    @abstractmethod
    async def lease(self, container: Container, reader: ObjectId) -> Lease | None:
        """Put a placeholder where there is nothing, and return its lease; None where there is something."""

    @abstractmethod
    async def fill(self, lease: Lease, recent: Recent, active_until: datetime | None) -> bool:
        """Put the timeline where the placeholder is, with what was delivered to that. Return False when it is no longer
        ours, or its time is over.
        """

    async def admit_again(self, reader: ObjectId) -> tuple[Admitted, list[ObjectId]]:
        """Admit a reader who is still here; return how long they are active now, and their followees."""
        followees = [edge["followee"] for edge in await rows(self.db, followees_of(reader))]
        return await self.recipients.admit(reader, followees), followees

    @abstractmethod
    def expiry_ms(self, active_until: datetime | None) -> int:
        """Return when a timeline that is stored now expires, in ms since 1970."""

    def is_over(self, expires_at_ms: int) -> bool:
        return expires_at_ms <= self.now_ms()

    def is_due(self, expires_at_ms: int) -> bool:
        """Return whether a read has to renew what expires then, in ms since 1970."""
        return expires_at_ms - self.now_ms() < (1 - RENEW_AFTER) * self.ttl_s * 1000

    def now_ms(self) -> int:
        return int(self.clock.now().timestamp() * 1000)
