"""Phase 3: deliver later, somewhere else."""

from app.edges import Memory
from app.models import StatusRow
from app.stack import Stack
from phases.outbox import Outbox
from phases.p2_push import Push
from phases.switch import Switch


class Queue(Push):
    """On posting, a job is queued and the poster goes on; a worker does the fan-out of phase 2, chunk by chunk.
    Posting became as cheap as an insert again, for a celebrity too, and no reader notices: what is pending they see.
    It now costs a Redis, a worker, and a delay until the last follower's list holds the status.
    """

    slug, title = "queue", "Deliver in a worker"
    poster_waits = "an insert and an enqueue"

    def __init__(self, stack: Stack, switch: Switch, outbox: Outbox, memory: Memory) -> None:
        super().__init__(stack, switch, outbox, memory)
        self.chunk = stack.config.chunk

    async def deliver(self, status: StatusRow) -> None:
        await self.stack.queue.offer(self.slug, status.id)
