"""What may belong to a page, before anything is judged: from what is kept, from what is pending, from the query."""

from collections.abc import Awaitable, Callable, Iterable
from dataclasses import dataclass
from typing import Literal, Protocol

from bson import ObjectId

from app.access import Entry
from app.clock import FIRST_ID, LAST_ID

Source = Literal["query", "list", "list+query", "rebuilt"]


class Candidates(Protocol):
    """Ids that may belong to a timeline; which of them do is decided by `on_home`."""

    async def older_than(self, cursor: ObjectId, n: int) -> list[Entry]:
        """The `n` newest below `cursor`, newest first; fewer only when there are no more."""
        ...


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


NOTHING = Slice([], LAST_ID, whole=True)  # a floor above every status: nothing is covered


class KeptThenQuery:
    """Rule 3: above the floor what is kept and what is pending, below it the query.

    `more` reads on in what is kept, where `first` was not the whole of it.
    """

    def __init__(
        self,
        first: Slice,
        more: Callable[[ObjectId, int], Awaitable[Slice | None]],
        pending: list[Entry],
        query: Candidates,
    ) -> None:
        self._slice: Slice | None = first
        self._more, self._pending, self._query = more, pending, query
        self._from_list = self._from_query = False

    async def older_than(self, cursor: ObjectId, n: int) -> list[Entry]:
        part = self._slice or await self._more(cursor, n) or NOTHING
        self._slice = part if part.whole else None
        entries, waiting = part.older_than(cursor), Slice(self._pending, part.floor, whole=True).older_than(cursor)
        entries = newest([*entries, *waiting], n) if waiting else entries[:n]
        self._from_list |= bool(entries)
        if len(entries) < n and part.floor > FIRST_ID:
            self._from_query = True
            entries += await self._query.older_than(min(cursor, part.floor), n - len(entries))
        return entries

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
