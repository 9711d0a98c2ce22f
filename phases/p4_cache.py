"""Phase 4: deliver only to those who are there.

Timelines are lists in Memcached with a TTL of three days: they expire when their reader
stays away. Followers who are away are skipped, and the list of whoever returns is
rebuilt with one query.
A delivery is now a prepend in memory. A follower who is away costs nothing, and nothing
piles up for them.
It now needs Memcached. A returning reader costs a query beside that of their page, and
one write that marks them active.
"""

from collections.abc import Sequence
from datetime import datetime

from bson import ObjectId

from app.models import StatusRow
from app.stack.mongodb.find import Find, rows
from phases.base import Phase
from phases.claims import (
    AUTHORS_NOTED,
    CLEAR,
    GETS,
    INSERT_AND_JOB,
    LEASE_AND_FILL_LIST,
    PENDING,
    PREPENDS,
    REBUILD,
    STATUSES_UNSEEN,
    STEPS_TO_ACTIVE,
    a_delivery,
    a_page,
    a_post,
    a_return,
)
from phases.keeping.activity import ACTIVE, ActiveReaders
from phases.keeping.in_memory import InMemory
from phases.keeping.lists import Lists, keys
from phases.keeping.store import Container, Returning
from phases.p3_queue import WORKER


class ActiveFollowers(ActiveReaders):
    """The recipients are only followers who have been here lately; others are skipped
    (but a circle's status goes to the whole circle).
    Each active reader has one document: `authors`, whose statuses they get, and
    `until`, how long they are active.
    """

    name = "active followers"

    async def of(self, author: ObjectId, after: ObjectId, n: int) -> list[ObjectId]:
        query = {
            "authors": author,
            "_id": {"$gt": after},
            "until": {"$gte": self.clock.now()},
        }
        find = Find(ACTIVE, query, ("_id",), n, [("_id", 1)], "recipients")
        return [row["_id"] for row in await rows(self.db, find)]


class RebuiltOnReturn(InMemory):
    """A timeline expires when its reader stays away, and is rebuilt on their return, by
    a query that runs beside their page.
    """

    def expiry_ms(self, active_until: datetime | None) -> int:
        """Return when a timeline that is stored now expires, in ms since 1970: a TTL
        from now, and never after its reader's activity. Only a read renews it.
        """
        ttl_ends_ms = self.now_ms() + self.ttl_s * 1000
        if active_until is None:
            return ttl_ends_ms
        return min(ttl_ends_ms, int(active_until.timestamp() * 1000))

    async def come_back(self, container: Container, returning: Returning) -> bool:
        """Rebuild the reader's list, and return whether it is there. The order matters.

        1. `lease`: a placeholder stands where the list will be. New ids collect in it.
        2. `admit`: the reader is marked active. From now on no author skips them.
        3. `recent`: the query. It finds whatever was posted before 1 and 2.
        4. `fill`: the list takes in what has collected, and replaces the placeholder.
        """
        for _ in range(self.attempts):
            lease = await self.lease(container, returning.reader)
            if lease is None:
                return False  # somebody else is at it
            active = await self.recipients.admit(returning.reader, returning.followees)
            # The reader's document names whom they have followed since `began_s`, but
            # it lives for one TTL only. After that it may be gone, and they with it.
            if self.clock.monotonic() - returning.began_s > self.ttl_s:
                return False
            recent = await returning.recent(active.authors)
            if await self.fill(lease, recent, active.until):
                return True
        return False


class HomeLists(RebuiltOnReturn, Lists):
    """A timeline is a list of packed ids, the newest in front. `phases.keeping.lists`
    says what else is in a value.
    """

    async def deliver(
        self,
        container: Container,
        status: StatusRow,
        to: Sequence[ObjectId],
    ) -> None:
        """Put the id in front of the lists that exist: a prepend to a list that has
        expired does nothing.
        """
        await self.memcached.prepend(keys(container, to), status.id.binary)


CACHE = Phase(
    slug="cache",
    title="Keep the active in memory",
    poster_waits="one insert; the enqueue follows the answer",
    reader_waits="Memcached, then the statuses by id",
    kept_where="lists in Memcached, for active readers only",
    store=HomeLists,
    recipients=ActiveFollowers,
    carrier=WORKER,
    chunk=lambda config: config.list_chunk,
    costs=(
        a_post(INSERT_AND_JOB),
        a_delivery(STEPS_TO_ACTIVE, CLEAR, PREPENDS),
        a_page(PENDING, GETS, STATUSES_UNSEEN, AUTHORS_NOTED),
        a_return(*REBUILD, LEASE_AND_FILL_LIST),
    ),
)
