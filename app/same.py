"""Equal values as one object, as `sys.intern` has it for text: thousands of readers follow the same people and have the
same statuses on their pages.
"""

from typing import Generic, TypeVar

from bson import ObjectId

T = TypeVar("T")


class Same(Generic[T]):
    """`most`: where there are more it begins anew, which costs memory alone."""

    def __init__(self, most: int) -> None:
        self._most = most
        self._known: dict[T, T] = {}

    def of(self, value: T) -> T:
        if len(self._known) >= self._most:
            self._known.clear()
        return self._known.setdefault(value, value)


IDS = Same[ObjectId](100_000)  # of people, about 20 MB
