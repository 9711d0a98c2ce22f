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

RENEW_AFTER = 0.25  # of the TTL: how much of it passes before a read renews it


@dataclass(frozen=True)
class Lease:
    """A placeholder of ours: deliveries collect behind it. `found`: as it was stored, where that has a version."""

    container: Container
    reader: ObjectId
    token: bytes
    found: tuple[bytes, object] | None = None


class InMemory(Store):
    """`attempts`: how often a return begins again when its placeholder is lost, before that is left to the next read.
    How a timeline comes to be is said in phase 4.
    """

    in_memory = True
    attempts: ClassVar[int]

    def __init__(self, stack: Stack, recipients: Recipients) -> None:
        super().__init__(stack, recipients)
        self.ttl_s, self.cap = stack.config.timeline_ttl_s, stack.config.cap

    async def rebuild(self, container: Container, returning: Returning) -> bool:
        """Nothing is kept while the server is away: the next read finds nothing again, and asks."""
        try:
            return await self.come_back(container, returning)
        except (MemcachedDown, SetsDown):
            return False

    @abstractmethod
    async def come_back(self, container: Container, returning: Returning) -> bool:
        """As `rebuild`. This and what it is made of raise MemcachedDown or SetsDown."""

    @abstractmethod
    async def lease(self, container: Container, reader: ObjectId) -> Lease | None:
        """Put a placeholder where there is nothing; None where there is something."""

    @abstractmethod
    async def fill(self, lease: Lease, recent: Recent, active_until: datetime | None) -> bool:
        """Put the timeline where the placeholder is, with what was delivered to that; False when it is no longer ours,
        or its time is over.
        """

    async def admit_again(self, reader: ObjectId) -> tuple[Admitted, list[ObjectId]]:
        """Of whoever is still here: how long they are active now, and their followees."""
        followees = [edge["followee"] for edge in await rows(self.db, followees_of(reader))]
        return await self.recipients.admit(reader, followees), followees

    def expiry_ms(self, active_until: datetime | None) -> int:
        """A TTL from now, and never beyond the reader's activity."""
        expires_at_ms = self.now_ms() + self.ttl_s * 1000
        return min(expires_at_ms, int(active_until.timestamp() * 1000)) if active_until else expires_at_ms

    def is_over(self, expires_at_ms: int) -> bool:
        return expires_at_ms <= self.now_ms()

    def is_due(self, expires_at_ms: int) -> bool:
        """To be renewed by a read."""
        return expires_at_ms - self.now_ms() < (1 - RENEW_AFTER) * self.ttl_s * 1000

    def now_ms(self) -> int:
        return int(self.clock.now().timestamp() * 1000)
