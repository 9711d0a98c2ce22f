"""Many things in lists of so many at once, for commands that take no more."""

from collections.abc import Iterable, Iterator
from itertools import islice
from typing import TypeVar

T = TypeVar("T")


def batched(items: Iterable[T], size: int) -> Iterator[list[T]]:
    """Yield the items in lists of `size`, of which the last may be shorter (Python 3.12's own yields tuples)."""
    rest = iter(items)
    while some := list(islice(rest, size)):
        yield some
