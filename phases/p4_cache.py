"""Phase 4: deliver only to those who are there.

Timelines are lists in Memcached that expire with their reader's activity. Followers who
are away are skipped, and whoever returns is rebuilt with one query.
A delivery became a prepend in memory, a follower who is away costs nothing, and nothing
piles up for them.
It now costs a Memcached, and for every returning reader the query and a write that has
them served again.
"""

from collections.abc import Sequence

from bson import ObjectId

from app.models import StatusRow
from app.stack.mongodb.find import Find, rows
from phases.base import Phase
from phases.claims import OWED, REDIS, VISIBLE, Claim, asked, chunks, windows
from phases.keeping.activity import ACTIVE, ActiveReaders
from phases.keeping.lists import ATTEMPTS, Lists, keys
from phases.keeping.store import Container, Returning
from phases.p3_queue import WORKER


class ActiveFollowers(ActiveReaders):
    """The skip: of the author's followers those who have been here lately. Who is away
    is not even looked at.
    """

    name = "active followers"

    async def after(self, status: StatusRow, last: ObjectId, n: int) -> list[ObjectId]:
        if status.audience == "circle":
            return await self.circle_of(status.user_id, last, n)
        query = {
            "authors": status.user_id,
            "_id": {"$gt": last},
            "until": {"$gte": self.clock.now()},
        }
        find = Find(ACTIVE, query, ("_id",), n, [("_id", 1)], "recipients")
        return [row["_id"] for row in await rows(self.db, find)]


class HomeLists(Lists):
    """The list: packed ids, the newest in front. What is in a value, and when it
    expires, is said in `Lists`.
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

    async def come_back(self, container: Container, returning: Returning) -> bool:
        """The return: whoever has no list gets one, from one query, in this order.

        From the lease on deliveries collect in the placeholder. From the mark on no
        author skips this reader. So a status that was posted too early for both was
        stored before the query, and the query finds it.
        """
        for _ in range(ATTEMPTS):
            lease = await self.lease(container, returning.reader)
            if lease is None:
                return False  # somebody else is at it
            active = await self.recipients.admit(returning.reader, returning.followees)
            if self.clock.monotonic() - returning.began_s > self.ttl_s:
                return False  # by now their new followees may have been forgotten again
            recent = await returning.recent(active.authors)
            if await self.fill(lease, recent, active.until):
                return True
        return False


CACHE = Phase(
    slug="cache",
    title="Keep the active in memory",
    poster_waits="one insert; the enqueue follows the answer",
    reader_waits="Memcached, then the statuses by id",
    kept="lists in Memcached, for active readers only",
    store=HomeLists,
    recipients=ActiveFollowers,
    carrier=WORKER,
    chunk=lambda config: config.list_chunk,
    costs=(
        Claim(
            "post", "", "one insert and one job",
            lambda n, chunk: 1, redis_at_most=REDIS,
        ),
        Claim(
            "deliver", "active followers",
            "per chunk the status and its next active followers; clear pending; "
            "a prepend for each, and for the author",
            lambda n, chunk: 2 * chunks(n, chunk) + 1, lambda n, chunk: n + 1,
        ),
        Claim(
            "read", "",
            "what is owed; one gets; the statuses, then their authors, "
            "unless seen before",
            lambda n, chunk: OWED + 2 * VISIBLE, lambda n, chunk: 1,
        ),
        Claim(
            "return", "followees",
            "what is owed; as a page of phase 1; marking the reader active; "
            "a window of each thousand authors; "
            "gets, add, gets and cas",
            lambda n, chunk: OWED + 1 + asked(n) + VISIBLE + 1 + windows(n),
            lambda n, chunk: 4,
        ),
    ),
)  # fmt: skip
