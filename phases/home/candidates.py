"""The candidates for a page, before anything is judged: from what is kept, from what is pending, from the query."""

from collections.abc import Awaitable, Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Literal, NamedTuple, Protocol

from bson import ObjectId

from app.access import Entry
from app.clock import FIRST_ID, LAST_ID
from app.models import StatusRow
from app.stack.mongodb.find import Find, Rows
from phases.home.newest import vouches_down_to

Source = Literal["query", "list", "list+query", "rebuilt"]


class Candidates(Protocol):
    """The ids that may belong to a timeline; `on_home` decides which of them do."""

    async def older_than(self, cursor: ObjectId, n: int) -> list[Entry]:
        """Return the `n` newest below `cursor`, newest first; fewer only when there are no more."""
        ...


class Undelivered(NamedTuple):
    """Entries that a kept timeline may lack, as they are pending or pulled: all of them with an id >= `down_to`."""

    entries: list[Entry]
    down_to: ObjectId

    @property
    def is_all(self) -> bool:
        return self.down_to == FIRST_ID

    def beside(self, other: "Undelivered") -> "Undelivered":
        return Undelivered([*self.entries, *other.entries], max(self.down_to, other.down_to))

    @classmethod
    def of(cls, looked: Mapping[str, Find], answers: Mapping[str, Rows]) -> "Undelivered":
        """Make it from look-ups and their answers, whose rows have an id and an author."""
        entries = [Entry(row["_id"], row["user_id"]) for name in looked for row in answers[name]]
        ends = [vouches_down_to(find, answers[name]) for name, find in looked.items()]
        return cls(entries, max(ends, default=FIRST_ID))


@dataclass(frozen=True)
class Slice:
    """A part of a kept timeline, newest first: ids that may be for the reader; only from `floor` on are they all.

    `whole`: nothing that is kept was left out.
    """

    entries: list[Entry]
    floor: ObjectId
    whole: bool

    @cached_property
    def ids(self) -> list[ObjectId]:
        return [entry.id for entry in self.entries]

    @cached_property
    def packed(self) -> bytes:
        return b"".join([id.binary for id in self.ids])

    def has_the_same(self, other: "Slice") -> bool:
        """Return whether the other one has the same ids above the same floor, whichever store it is from."""
        return self is other or (self.floor == other.floor and self.packed == other.packed)

    def is_short(self, n: int) -> bool:
        """Return whether there are fewer than `n` entries here, although more may be above the floor."""
        return not self.whole and len(self.entries) < n

    def older_than(self, cursor: ObjectId) -> list[Entry]:
        if self.entries and self.floor <= self.entries[-1].id and self.entries[0].id < cursor:
            return self.entries  # the common case, spared a look at each
        return [entry for entry in self.entries if self.floor <= entry.id < cursor]

    def with_undelivered(self, undelivered: Undelivered, before: ObjectId, n: int) -> "Slice":
        """Return the slice with what is undelivered below `before`.

        Where more of that may be above the floor, the slice has the `n` newest at most, and none below
        `undelivered.down_to`.
        """
        if not undelivered.entries and undelivered.is_all:
            return self
        whole = self.whole and undelivered.down_to <= self.floor
        below = [entry for entry in undelivered.entries if entry.id < before]
        entries = newest([*self.entries, *below], None if whole else n)
        while not whole and entries and entries[-1].id < undelivered.down_to:
            entries.pop()
        return Slice(entries, self.floor, whole)


NOTHING = Slice([], LAST_ID, whole=True)  # a floor above every status: nothing is covered


class KeptThenQuery:
    """The candidates from a list that is complete above its floor: from the floor up,
    what is kept, pending or pulled; below it, what the query finds.

    `more` reads on above the floor, where `first` was not all of it.
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
        """Return where the page comes from: above the floor, below it, or both. An
        empty page comes from the query, unless the list reaches to the first status.
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
