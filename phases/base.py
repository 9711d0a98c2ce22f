"""The definition of a phase: a value with four answers, and the words and costs that it is shown with."""

from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass

from app.config import Config
from app.models import StatusRow
from phases.claims import Claim
from phases.delivering.delivery import Delivery
from phases.delivering.outbox import Failures
from phases.keeping.recipients import Recipients
from phases.keeping.store import Store
from phases.pulling.pulls import Merge


@dataclass(frozen=True)
class Carrier:
    """The answer to who makes the delivery happen.

    `hand_over`: what happens right after the status is stored. `in_worker`: the delivery is made in a worker, and
    nobody waits for it; over HTTP `hand_over` comes after the answer then. `inserted`: what the worker that tails the
    change stream does with new statuses that are pending for the phase; None for a phase that needs no stream.
    """

    hand_over: Callable[[Delivery, StatusRow], Awaitable[None]]
    in_worker: bool
    inserted: Callable[[Delivery, Sequence[StatusRow]], Awaitable[Failures]] | None = None


@dataclass(frozen=True)
class Phase:
    """A way to make home timelines. A status is stored before its phase hears of it, and every phase returns the same
    pages.

    `store`: where timelines are kept. `recipients`: whom a status is delivered to. `carrier`: who makes the delivery
    happen. `pulls`: what a read asks for besides, because it is not delivered. None stands for nowhere, nobody,
    nothing. Where nothing is kept, a read asks for everything.

    `chunk`: how many recipients one bounded step serves. `costs`: the commands that it claims to send; the contract
    tests count them.
    """

    slug: str
    title: str
    poster_waits: str  # what the poster waits for, over HTTP (`Statuses.post` itself waits for the enqueue, too)
    reader_waits: str
    kept_where: str
    store: type[Store] | None = None
    recipients: type[Recipients] | None = None
    carrier: Carrier | None = None
    pulls: Merge | None = None
    chunk: Callable[[Config], int] = lambda config: config.chunk
    costs: tuple[Claim, ...] = ()

    @property
    def keeps(self) -> str | None:
        """The name of what is kept; None for nothing. Phases with the same one share it: their classes are the same."""
        return f"{self.store.name} of {self.recipients.name}" if self.store and self.recipients else None
