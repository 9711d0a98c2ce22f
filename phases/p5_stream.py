"""Phase 5: let the database say what was posted.

The poster queues nothing. MongoDB's change stream tells one worker of every status that
is pending for phase 5. That worker makes the first step of the walk; further steps are
jobs.
Timelines are sorted sets in Redis, which hold ids in the order of a page.
Posting is one insert again, and there is no second step that could be lost behind it.
It now needs one worker that follows the stream and notes how far it is, and several
times the memory of a list.
"""

from collections.abc import AsyncIterator, Awaitable, Callable, Sequence

from bson import ObjectId

from app.models import StatusRow
from app.stack.mongodb.changes import Inserted
from phases.base import Carrier, Phase
from phases.claims import (
    CLEAR,
    FIRST_STEP,
    FURTHER_STEPS,
    INSERT,
    LEASE_AND_FILL_SET,
    PENDING,
    RANGE,
    REBUILD,
    SCRIPTS,
    STATUSES_UNSEEN,
    a_delivery,
    a_page,
    a_post,
    a_return,
)
from phases.delivering.delivery import Delivery
from phases.delivering.outbox import Failures
from phases.keeping.sorted_sets import SortedSets
from phases.keeping.store import Container
from phases.p2_push import put_on_timelines
from phases.p4_cache import ActiveFollowers, RebuiltOnReturn


class HomeSets(RebuiltOnReturn, SortedSets):
    """A timeline is a sorted set: every id has the score 0, so Redis orders them by
    their bytes, and a page is a range. A returning reader's set is rebuilt in the order
    of phase 4.
    """

    async def deliver(
        self,
        container: Container,
        status: StatusRow,
        to: Sequence[ObjectId],
    ) -> None:
        """Add the id to the sets that exist, in a script: ZADD alone makes a set where
        there is none, and its reader would take that for their timeline.
        """
        await self.sets.deliver(container.name, to, status.id, self.cap)


async def tail(
    changes: AsyncIterator[Inserted],
    deliver: Callable[[Inserted], Awaitable[None]],
    save: Callable[[Inserted], Awaitable[None]],
) -> None:
    """Deliver what the stream tells; one worker does it for everybody. `deliver` calls
    `statuses_inserted`. `save` notes the place in the stream, and comes second: a
    worker that takes over repeats some deliveries and misses none.
    """
    async for inserted in changes:
        await deliver(inserted)
        await save(inserted)


async def statuses_inserted(
    delivery: Delivery,
    statuses: Sequence[StatusRow],
) -> Failures:
    """Make the first step of the walk for statuses that the stream has told of. All
    further steps are jobs, as in phase 3: any worker takes them, and the next status
    does not wait. Return what failed.
    """
    return await delivery.first_steps(statuses, put_on_timelines)


async def nothing(delivery: Delivery, status: StatusRow) -> None:
    """The hook `after_create` is empty."""


CHANGE_STREAM = Carrier(nothing, in_worker=True, inserted=statuses_inserted)

STREAM = Phase(
    slug="stream",
    title="Let the database tell",
    poster_waits="one insert",
    reader_waits="a range of a sorted set, then the statuses by id",
    kept_where="sorted sets in Redis, for active readers only",
    store=HomeSets,
    recipients=ActiveFollowers,
    carrier=CHANGE_STREAM,
    chunk=lambda config: config.list_chunk,
    costs=(
        a_post(INSERT),
        a_delivery(FIRST_STEP, FURTHER_STEPS, CLEAR, SCRIPTS),
        a_page(PENDING, RANGE, STATUSES_UNSEEN),
        a_return(*REBUILD, LEASE_AND_FILL_SET),
    ),
)
