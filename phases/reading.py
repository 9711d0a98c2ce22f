"""The read that every phase shares: candidates are hydrated and filtered by `visible` until the page is full."""

from collections.abc import Awaitable, Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Literal, Protocol

from bson import ObjectId

from app.access import Entry, visible_statuses
from app.clock import FIRST_ID, LAST_ID
from app.edges import Known
from app.models import StatusRow
from app.stack import Database
from app.stack.mongodb import Rows

SPARE = (
    8  # candidates looked at beyond the page: most pages are full although some status on them is not for the reader
)

Source = Literal["query", "list", "list+query", "rebuilt"]


@dataclass(frozen=True)
class Page:
    """One page of a home timeline, newest first. `next` is the cursor of the page after it, None only at the end.

    `cold`: the phase kept nothing for this reader when they came.
    """

    phase: str
    statuses: list[StatusRow]
    next: ObjectId | None
    source: Source
    cold: bool = False


class Candidates(Protocol):
    """Ids that may belong to a timeline; which of them do is decided by `visible`."""

    async def older_than(self, cursor: ObjectId, n: int) -> list[Entry]:
        """The `n` newest below `cursor`, newest first; fewer only when there are no more."""
        ...


async def fill(
    db: Database,
    reader: ObjectId,
    candidates: Candidates,
    before: ObjectId | None,
    limit: int,
    known: Known | None = None,
    rows: dict[ObjectId, StatusRow] | None = None,
) -> tuple[list[StatusRow], ObjectId | None]:
    """A full page, and the cursor of the next one: one status more is looked for, to know whether there is one.

    `known` of the reader and `rows` by id need not be looked up; what is looked up is added to `rows`.
    """
    shown: list[StatusRow] = []
    cursor = before or LAST_ID
    while len(shown) <= limit:
        wanted = limit + 1 - len(shown) + SPARE
        found = await candidates.older_than(cursor, wanted)
        shown += await visible_statuses(db, reader, found, known, rows, limit + 1 - len(shown))
        if len(found) < wanted:
            break
        cursor = found[-1].id
    return shown[:limit], shown[limit - 1].id if len(shown) > limit else None


@dataclass(frozen=True)
class Slice:
    """Part of a kept timeline, newest first: of every id >= `floor` that the reader may see, the newest ones.

    `whole`: nothing that is kept was left out.
    """

    entries: list[Entry]
    floor: ObjectId
    whole: bool

    def older_than(self, cursor: ObjectId) -> list[Entry]:
        if self.entries and self.floor <= self.entries[-1].id and self.entries[0].id < cursor:
            return self.entries  # the common case, spared a look at each
        return [entry for entry in self.entries if self.floor <= entry.id < cursor]


NOTHING = Slice([], LAST_ID, whole=True)


Found = dict[str, Rows]  # answers of look-ups, by their names
KeptSlices = Callable[[ObjectId, int], Awaitable[Slice | None]]
AuthorIds = Callable[[ObjectId], Awaitable[list[Entry]]]  # one author's newest entries from a floor on


class Asked(Protocol):
    """What phase 1 finds for a reader for whom nothing is kept. `began_s`: on the clock's monotonic seconds."""

    began_s: float

    async def followees(self) -> list[ObjectId]:
        """As they were at some moment of this read."""
        ...

    async def recent(self, authors: Sequence[ObjectId] | None = None) -> "Recent":
        """What belongs into a rebuilt timeline, looked up now: the ids of what these authors have written, or the ids
        and authors of what those have whom the reader follows now.
        """
        ...


@dataclass(frozen=True)
class Recent:
    """Everything from `floor` on, newest first. `rows`: per status the 12 bytes of its id and, where they were asked
    for, of its author's.
    """

    rows: list[bytes]
    floor: ObjectId


class KeptThenQuery:
    """Rule 3: above the floor what is kept and what is pending, below it phase 1."""

    def __init__(self, first: Slice, more: KeptSlices, pending: list[Entry], query: Candidates) -> None:
        self._slice: Slice | None = first
        self._more, self._pending, self._query = more, pending, query
        self._from_list = self._from_query = False
        self.given: list[ObjectId] = []

    async def older_than(self, cursor: ObjectId, n: int) -> list[Entry]:
        part = self._slice or await self._more(cursor, n) or NOTHING
        self._slice = part if part.whole else None
        found, waiting = part.older_than(cursor), Slice(self._pending, part.floor, whole=True).older_than(cursor)
        found = newest([*found, *waiting], n) if waiting else found[:n]
        self._from_list |= bool(found)
        if len(found) < n and part.floor > FIRST_ID:
            self._from_query = True
            found += await self._query.older_than(min(cursor, part.floor), n - len(found))
        self.given += [entry.id for entry in found]
        return found

    @property
    def source(self) -> Source:
        if self._from_query:
            return "list+query" if self._from_list else "query"
        return "list"


def newest(entries: Iterable[Entry], n: int) -> list[Entry]:
    """The `n` newest, each once, newest first; of two that name the same status the one that knows its author."""
    by_id: dict[bytes, Entry] = {}  # bytes are compared ten times as fast as the ids
    for entry in entries:
        if entry.author or entry.id.binary not in by_id:
            by_id[entry.id.binary] = entry
    return [by_id[id] for id in sorted(by_id, reverse=True)[:n]]
