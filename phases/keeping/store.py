"""The stores of timelines: what every store can do, and what it needs to know of a reader who comes back."""

from abc import ABC, abstractmethod
from asyncio import Future
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import ClassVar, NamedTuple

from bson import ObjectId

from app.access import Entry
from app.clock import FIRST_ID, LAST_ID
from app.edges import EdgeMemory, Following, OwnEdges
from app.models import StatusRow
from app.stack import Stack
from app.stack.mongodb.find import Find, Rows
from app.stack.sorted_sets import Over
from phases.home.candidates import Slice
from phases.home.newest import ID_ONLY, Newest, Query, paced
from phases.keeping.recipients import Recipients

FORGOTTEN = 2**63 - 1  # a pulse as high as none is: whatever was kept beside it, it may have been higher than ours
AuthorIds = Callable[[ObjectId], Awaitable[list[Entry]]]  # one author's newest entries from a floor on


@dataclass(frozen=True)
class Container:
    """A container has what is `kept` there since that was last switched on. `since`: an id of about that moment, which
    no other container has, above all that were there.

    `nodes`: the servers that it is spread over, where processes may know different ones. `until`: when deliveries to it
    end; it is read no longer. `opens`: when reads begin, as every poster knows of it by then; None: not said yet.
    """

    kept: str
    since: ObjectId
    nodes: tuple[str, ...] | None = None
    until: datetime | None = None
    opens: datetime | None = None

    @property
    def name(self) -> str:
        return str(self.since)


class Place(NamedTuple):
    """The `n` newest entries below `before`, of one reader's timeline in a container."""

    container: Container
    reader: ObjectId
    before: ObjectId
    n: int

    def slice(self, entries: list[Entry], floor: ObjectId) -> Slice:
        """Return what was found here as a slice. It is `whole` where it begins with the newest and has fewer than `n`
        entries: then nothing else is kept.
        """
        return Slice(entries, floor, whole=len(entries) < self.n and self.before == LAST_ID)


class Glance(NamedTuple):
    """A glance at what is kept for a reader. `edges`: what was noted of theirs, true while they are of its version."""

    ids: Sequence[ObjectId] = ()
    edges: OwnEdges | None = None


@dataclass(frozen=True)
class Recent:
    """The recent statuses: everything from `floor` on, newest first. `rows`: per status the 12 bytes of its id and,
    where they were asked for, of its author's.
    """

    rows: list[bytes]
    floor: ObjectId


@dataclass(frozen=True)
class Returning:
    """A reader for whom nothing is kept. `followees`: whom they followed, looked up no longer than a grace before
    `began_s`, in seconds of the clock's monotonic time. `head`: the beginning of their page, which also shows how far
    back the rest may reach. `query`: the statuses of some authors.
    """

    stack: Stack
    memory: EdgeMemory
    query: Query
    reader: ObjectId
    followees: Sequence[ObjectId]
    began_s: float
    head: Future[list[Entry]]

    async def recent(self, authors: Sequence[ObjectId] | None = None) -> Recent:
        """Return what belongs into a rebuilt timeline, queried now.

        With `authors`: the ids of what these have written. Without: ids and authors of what those have written whom the
        reader follows at this moment.
        """
        db, cap = self.stack.db, self.stack.config.cap
        if authors is None:
            following_ids = await Following(db, self.reader, self.memory).ids()
            newest = Newest(db, self.query, [self.reader, *following_ids])
        else:
            newest = Newest(db, self.query, [self.reader, *authors], ID_ONLY)
        rows = await newest.packed(LAST_ID, cap, paced([entry.id for entry in await self.head], cap))
        return Recent(rows, ObjectId(rows[-1][:12]) if len(rows) == cap else FIRST_ID)


class Store(ABC):
    """A store keeps timelines. Every method names the container that it works on; deliveries and merges may be
    repeated.

    A reader is cold when nothing is kept for them: `forget` begins that, `rebuild` ends it. `bytes_per_entry` and
    `bytes_per_reader` say what that takes, in memory or on disk.
    """

    name: ClassVar[str]
    in_memory: ClassVar[bool]
    bytes_per_entry: ClassVar[int]
    bytes_per_reader: ClassVar[int]

    def __init__(self, stack: Stack, recipients: Recipients) -> None:
        self.db, self.config, self.clock, self.recipients = stack.db, stack.config, stack.clock, recipients

    @property
    def nodes(self) -> tuple[str, ...] | None:
        """The servers that a container is spread over now, with what else tells one process' lists from another's; None
        where every process knows the same.
        """
        return None

    async def begin(self, container: Container) -> None:
        """Prepare a container, before anybody delivers to it or reads it."""

    @abstractmethod
    async def deliver(self, container: Container, status: StatusRow, to: Sequence[ObjectId]) -> None:
        """Put one status on many timelines."""

    async def glance(self, place: Place) -> Glance | None:
        """Return what a read may well find, where asking for it is cheaper than a read; None for a reader who is
        certainly cold. It decides nothing: what was delivered a moment ago may be missing.
        """
        return Glance()

    async def note_edges(self, container: Container, edges: OwnEdges) -> None:
        """Note what was looked up of a reader's edges, for the glances of processes that do not know them."""

    def finds(self, place: Place) -> dict[str, Find]:
        """Return what a read has to look up in MongoDB, on the same snapshot as what is pending."""
        return {}

    @abstractmethod
    async def read(self, place: Place, answers: Mapping[str, Rows]) -> Slice | None:
        """Return the entries, as they are after the `answers` to `finds`; None for a cold reader."""

    @abstractmethod
    async def rebuild(self, container: Container, returning: Returning) -> bool:
        """Keep a timeline for a cold reader, and return whether that was done: not where somebody else is at it, or
        nothing can be kept.
        """

    @abstractmethod
    async def merge(self, container: Container, reader: ObjectId, author_ids: AuthorIds) -> None:
        """Take in one author's entries (rule 4). A rebuild that is under way notices it."""

    @abstractmethod
    async def forget(self, container: Container, reader: ObjectId) -> None:
        """Forget what is kept for the reader."""

    async def pulse(self, container: Container) -> int | None:
        """Return the highest pulse of the database (`Switch.beat`) that was kept beside the container, in memory: 0
        where none was, None where nobody knows at the moment, FORGOTTEN where that was forgotten, but not by all.
        """
        return 0

    async def keep_pulse(self, container: Container, pulse: int) -> None:
        """Keep a pulse beside the container, for as long as anything in it lives. One below the highest changes
        nothing.
        """

    @abstractmethod
    async def holds(self, container: Container, reader: ObjectId, status: ObjectId) -> bool | None:
        """Return whether the status is kept for the reader; None where nothing is. Nothing is renewed or built by
        asking.
        """

    async def sweep(self, current: Container | None, over: Over) -> None:
        """Do a bounded piece of housekeeping. What is there may be removed where its container is `over`; that is asked
        after it was seen.
        """
