"""The beginnings of kept timelines as a process has unpacked them: most are the same when their reader comes again.

To compare the 10 KB of a list takes a hundredth of what it takes to unpack them.
"""

from collections.abc import Callable
from typing import NamedTuple

from cachetools import LRUCache

from app.clock import LAST_ID
from phases.home.candidates import Slice
from phases.keeping.store import Place

BYTES_REMEMBERED = 64 << 20  # of all readers of a store together: some 3,000 long lists
ENTRY_BYTES = 250  # of an id that is unpacked, and of its author's


class First(NamedTuple):
    """The first slice of a timeline. `raw`: what it was made of. `n`: the entries that were asked for.

    `expires_at_ms`: when the timeline expires, where that is part of `raw`.
    """

    raw: bytes
    n: int
    slice: Slice
    expires_at_ms: int = 0


class FirstSlices:
    def __init__(self) -> None:
        self._first: LRUCache[str, First] = LRUCache(BYTES_REMEMBERED, getsizeof=_size)

    def of(self, place: Place, raw: bytes) -> First | None:
        """Return the slice at a place, if that is the first one, and what is kept there is what was unpacked before."""
        first: First | None = self._first.get(_key(place)) if place.before == LAST_ID else None
        return first if first and first.n == place.n and first.raw == raw else None

    def unpacked(self, place: Place, raw: bytes, unpack: Callable[[], Slice]) -> Slice:
        """Return the slice at a place, unpacked now or before."""
        if first := self.of(place, raw):
            return first.slice
        part = unpack()
        self.keep(place, First(raw, place.n, part))
        return part

    def keep(self, place: Place, first: First) -> None:
        if place.before != LAST_ID:
            return
        self._first.pop(_key(place), None)
        if _size(first) <= BYTES_REMEMBERED:
            self._first[_key(place)] = first


def _key(place: Place) -> str:
    return f"{place.container.name}:{place.reader}"


def _size(first: First) -> int:
    return len(first.raw) + ENTRY_BYTES * len(first.slice.entries)
