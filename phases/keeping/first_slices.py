"""The beginnings of kept lists as a process has unpacked them: most are the same when their reader comes again.

To compare the 10 KB of a list takes a hundredth of what it takes to unpack them.
"""

from typing import NamedTuple

from cachetools import LRUCache

from phases.home.candidates import Slice

BYTES_REMEMBERED = 64 << 20  # of all readers together: some 3,000 long lists
ENTRY_BYTES = 160  # of an id that is unpacked


class First(NamedTuple):
    """The first slice of a list. `raw`: the list that it was made of. `n`: the entries that were asked for."""

    raw: bytes
    n: int
    slice: Slice
    expires_at_ms: int


class FirstSlices:
    def __init__(self) -> None:
        self._first: LRUCache[str, First] = LRUCache(BYTES_REMEMBERED, getsizeof=_size)

    def of(self, key: str, raw: bytes, n: int) -> First | None:
        """Return the first `n` entries of the list that is stored under a key, if it is the one that was unpacked."""
        first: First | None = self._first.get(key)
        return first if first and first.n == n and first.raw == raw else None

    def keep(self, key: str, first: First) -> None:
        self._first.pop(key, None)
        if _size(first) <= BYTES_REMEMBERED:
            self._first[key] = first


def _size(first: First) -> int:
    return len(first.raw) + ENTRY_BYTES * len(first.slice.entries)
