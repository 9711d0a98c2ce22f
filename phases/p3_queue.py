"""Phase 3: deliver later, somewhere else.

After a status is created, a job is queued and the poster goes on; a worker makes the
walk of phase 2.
The poster waits for one insert again, a celebrity too. No reader notices the delay: a
read looks at what is pending first.
It now needs Redis and a worker, and the last follower's timeline is late.
"""

from bson import ObjectId

from app.models import StatusRow
from phases.base import Carrier, Phase
from phases.claims import CLEAR, ENTRIES_BY_JOB, INSERT_AND_JOB, a_delivery, a_post, as_in
from phases.delivering.delivery import Delivery
from phases.delivering.outbox import Failures, GoesOn
from phases.p2_push import PUSH, Followers, HomeEntries, put_on_timelines


async def enqueue_status(delivery: Delivery, status: StatusRow) -> None:
    """Put a job on the queue. The hook does nothing else now."""
    await delivery.queue.offer(delivery.name, status.id)


async def deliver_in_worker(
    delivery: Delivery,
    id: ObjectId,
    after: ObjectId | None,
    goes_on: GoesOn,
) -> Failures:
    """Do the article's job `StatusDeliver`: make steps of phase 2's walk for a status
    while `goes_on` says so, then queue a job for the rest. Return what failed, by
    status.

    A step takes along other statuses that wait: to start a job for each would take
    longer than most walks. It delivers first. At the last follower it then clears
    `pending`. In any other order a crash loses followers.
    """
    walk = delivery.walk(id, after)
    await delivery.step(walk, put_on_timelines)
    while walk.after and await goes_on():
        await delivery.step(walk, put_on_timelines)
    if walk.after:  # the last follower reached; None at the end
        await delivery.queue_rest(walk)
    return walk.failed


WORKER = Carrier(enqueue_status, in_worker=True)

QUEUE = Phase(
    slug="queue",
    title="Deliver in a worker",
    poster_waits="one insert; the enqueue follows the answer",
    reader_waits="their list, then the statuses by id",
    kept_where="entries in MongoDB",
    store=HomeEntries,
    recipients=Followers,
    carrier=WORKER,
    costs=(
        a_post(INSERT_AND_JOB),
        a_delivery(ENTRIES_BY_JOB, CLEAR),
        as_in(PUSH.costs, "read", "as in phase 2"),
    ),
)
