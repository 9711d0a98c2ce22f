"""Phase 6: deliver what is cheap to deliver, and ask for the rest.

Authors with many active followers are weighed when they post: does it cost more to put
their statuses on all those lists, or to have the followers ask for them at every read?
Where asking is cheaper the status says `pulled` from its insert on, and nobody delivers
it. A read merges what is pulled with a list like that of phase 4.
A celebrity's status is now one insert: no list is written for it. The first ones of a
celebrity are still delivered: that shows how many active followers they have.
Their readers now need one more look-up a page, inside a command that the page sends
anyway.
Where hardly anybody reads, nearly everything is pulled.
"""

from collections.abc import Mapping
from typing import Any

from bson import ObjectId

from app.clock import LAST_ID
from app.stack import Stack
from app.stack.mongodb.find import together
from phases.base import Phase
from phases.claims import (
    AUTHORS_NOTED,
    GETS,
    INSERT,
    JOB_UNLESS_PULLED,
    PENDING_OR_PULLED,
    STATUSES_UNSEEN,
    a_page,
    a_post,
    as_in,
)
from phases.home.newest import newest_of_groups
from phases.p3_queue import WORKER
from phases.p4_cache import CACHE, ActiveFollowers, HomeLists
from phases.pulling.author import Author, DayCost
from phases.pulling.heavy import HeavyAuthors
from phases.pulling.pulls import Merge

# Processor time in all processes, as `feedlab bench units` measures it: one more
# recipient of a delivery in phase 4; and one more pulled author on a page, the mean of
# 20. Only their ratio counts. It came out between 2 and 7 in the runs that are kept.
DELIVERY_US = 5.2
PULLED_US = 18.0

# Pages for each post, of the whole site (`feedlab bench crossover`). With fewer, a job
# costs more than the asking that it saves, whoever has posted. `is_pulling_cheaper`
# is about one author.
HARDLY_READ = 3.5


def is_pulling_cheaper(day: DayCost) -> bool:
    """Return what the rule says: whether a day of asking costs less than a day of
    deliveries to the active followers.
    """
    return day.asked_us is not None and day.asked_us < day.delivered_us


def cost_of_a_day(author: Author) -> DayCost:
    """Return what a day costs either way. Both costs grow with the followers. What
    differs is how often it is done.
    """
    pages = author.pages_per_reader_per_day
    return DayCost(
        delivered_us=author.posts_per_day * author.active_followers * DELIVERY_US,
        asked_us=None if pages is None else pages * author.active_followers * PULLED_US,
    )


def is_hardly_read(pages_a_post: float) -> bool:
    """Return whether asking is cheaper whoever has posted: this is nearly phase 1."""
    return pages_a_post < HARDLY_READ


def pulled_by(authors: list[ObjectId]) -> Mapping[str, Any]:
    """Return the merge's query: the article's query again, for a few authors and only
    for statuses that say `pulled`.
    """
    return {"pulled": True, "user_id": {"$in": authors}}


class DeliveredTo(ActiveFollowers):
    """The recipients are those of phase 4. An author who turns out to have many active
    followers is weighed before their next post.
    """

    name = "active followers of who is delivered"

    def __init__(self, stack: Stack) -> None:
        super().__init__(stack)
        self.heavy = HeavyAuthors(stack)

    async def of(self, author: ObjectId, after: ObjectId, n: int) -> list[ObjectId]:
        found = await super().of(author, after, n)
        await self._note_if_heavy(author, len(found), n)
        return found

    async def _note_if_heavy(self, author: ObjectId, found: int, n: int) -> None:
        """Note an author of whom one step has found many followers. It finds `n` at
        most, so a full step counts as many; the weighing counts them all.
        """
        if found >= min(self.config.pull_from, n):
            await self.heavy.note(author)


class MergedLists(HomeLists):
    """The lists are those of phase 4. Whenever a list is renewed it takes in what was
    pulled until then.

    Each pulled author has a marker, by which reads know to ask for them. It may go when
    every living list is newer than what was pulled last of that author.
    """

    async def pulled_ids(self, authors: list[ObjectId]) -> list[bytes]:
        most = self.config.cap + 1
        finds = newest_of_groups("pulled", pulled_by, authors, LAST_ID, most)
        answers = await together(self.db, **finds)
        return [row["_id"].binary for rows in answers.values() for row in rows]


HYBRID = Phase(
    slug="hybrid",
    title="Ask for the heaviest",
    poster_waits="one insert; the enqueue, where it is delivered, follows the answer",
    reader_waits="Memcached and what is pulled (asked for, not delivered), "
    "then the statuses by id",
    kept_where="lists of its own in Memcached, for active readers only",
    store=MergedLists,
    recipients=DeliveredTo,
    carrier=WORKER,
    pulls=Merge(
        cost=cost_of_a_day,
        is_cheaper=is_pulling_cheaper,
        is_hardly_read=is_hardly_read,
        query=pulled_by,
    ),
    chunk=lambda config: config.list_chunk,
    costs=(
        a_post(INSERT, JOB_UNLESS_PULLED),
        as_in(CACHE.costs, "deliver", "as in phase 4, and nothing for what is pulled"),
        a_page(PENDING_OR_PULLED, GETS, STATUSES_UNSEEN, AUTHORS_NOTED),
        as_in(CACHE.costs, "return", "as in phase 4"),
    ),
)  # fmt: skip
