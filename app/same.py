"""Equal values as one object, as `sys.intern` has it for text: thousands of readers follow the same people and have the
same statuses on their pages.
"""

from collections.abc import Callable, Hashable
from operator import attrgetter
from typing import Generic, TypeVar

from bson import ObjectId

T = TypeVar("T")
K = TypeVar("K", bound=Hashable)


class Same(Generic[T]):
    """Values of one type, equal ones as one object. `most`: where there are more it begins anew, which costs memory
    alone. `key`: what only equal values share, where that is compared sooner than they are.
    """

    def __init__(self, most: int, key: Callable[[T], Hashable] = lambda value: value) -> None:
        self._most, self._key = most, key
        self._known: dict[Hashable, T] = {}

    def of(self, value: T) -> T:
        if len(self._known) >= self._most:
            self._known.clear()
        return self._known.setdefault(self._key(value), value)

    def made(self, key: K, make: Callable[[K], T]) -> T:
        """Return the value with this key; it is made only where none is known."""
        known = self._known.get(key)
        return self.of(make(key)) if known is None else known


IDS = Same[ObjectId](100_000, key=attrgetter("binary"))  # of people, about 20 MB
