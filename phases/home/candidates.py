"""The candidates for a page, before anything is judged: from what is kept, from what is pending, from the query."""

from collections.abc import Awaitable, Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Literal, Protocol

from bson import ObjectId

from app.access import Entry
from app.clock import FIRST_ID, LAST_ID
from app.models import StatusRow

Source = Literal["query", "list", "list+query", "rebuilt"]


class Candidates(Protocol):
    """The ids that may belong to a timeline; `on_home` decides which of them do."""

    async def older_than(self, cursor: ObjectId, n: int) -> list[Entry]:
        """Return the `n` newest below `cursor`, newest first; fewer only when there are no more."""
        ...


@dataclass(frozen=True)
class Slice:
    """A part of a kept timeline, newest first: of every id >= `floor` that the reader may see, the newest ones.

    `whole`: nothing that is kept was left out.
    """

    entries: list[Entry]
    floor: ObjectId
    whole: bool

    @property
    def ids(self) -> bytes:
        return b"".join([entry.id.binary for entry in self.entries])

    def is_short(self, n: int) -> bool:
        """Return whether a first page of `n` lacks something that is neither in the slice nor below the floor."""
        return not self.whole and len(self.entries) < n

    def older_than(self, cursor: ObjectId) -> list[Entry]:
        if self.entries and self.floor <= self.entries[-1].id and self.entries[0].id < cursor:
            return self.entries  # the common case, spared a look at each
        return [entry for entry in self.entries if self.floor <= entry.id < cursor]

    def with_waiting(self, waiting: list[Entry], down_to: ObjectId, before: ObjectId, n: int) -> "Slice":
        """Return the slice with what is pending or pulled below `before`.

        All of that is known down to the id `down_to`; below it there may be more. Where that is above the floor, the
        slice has the `n` newest at most, and none below `down_to`.
        """
        if not waiting and down_to == FIRST_ID:
            return self
        whole = self.whole and down_to <= self.floor
        entries = newest([*self.entries, *(entry for entry in waiting if entry.id < before)], None if whole else n)
        while not whole and entries and entries[-1].id < down_to:
            entries.pop()
        return Slice(entries, self.floor, whole)


NOTHING = Slice([], LAST_ID, whole=True)  # a floor above every status: nothing is covered


class KeptThenQuery:
    """The candidates from a list, which is complete above its floor: from there come
    what is kept and what is pending. Below the floor the query is asked.

    `more` reads on in what is kept and pending, where `first` was not all of it.
    """

    def __init__(
        self,
        first: Slice,
        more: Callable[[ObjectId, int], Awaitable[Slice | None]],
        query: Candidates,
    ) -> None:
        self._slice: Slice | None = first
        self.first = first
        self._more, self._query = more, query
        self.went_on = False  # beyond `first`

    async def older_than(self, cursor: ObjectId, n: int) -> list[Entry]:
        self.went_on |= self._slice is None
        part = self._slice or await self._more(cursor, n) or NOTHING
        self._slice = part if part.whole else None
        entries = part.older_than(cursor)[:n]
        if len(entries) < n and part.floor > FIRST_ID:
            self.went_on = True
            entries += await self._query.older_than(
                min(cursor, part.floor),
                n - len(entries),
            )
        return entries

    def source(self, page: Sequence[StatusRow]) -> Source:
        """Return from where the page is: from above the floor, from below, or both. A
        page that shows nothing is from the query, unless there is no floor.
        """
        if not page:
            return "query" if self.first.floor > FIRST_ID else "list"
        if page[-1].id >= self.first.floor:
            return "list"
        return "list+query" if page[0].id >= self.first.floor else "query"


def newest(entries: Iterable[Entry], n: int | None = None) -> list[Entry]:
    """Return the `n` newest, each once, newest first; of two with the same status the one that knows its author."""
    by_id: dict[bytes, Entry] = {}  # bytes compare without a call of Python
    for entry in entries:
        if entry.author or entry.id.binary not in by_id:
            by_id[entry.id.binary] = entry
    return [by_id[id] for id in sorted(by_id, reverse=True)[:n]]
