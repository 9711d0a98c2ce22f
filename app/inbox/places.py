"""Places for pictures, which are whole in memory while they arrive, and while they go out to whoever looks at them."""

import asyncio
from collections.abc import Awaitable, Iterator
from contextlib import contextmanager
from operator import attrgetter
from typing import TypeVar

from bson import ObjectId

from app.errors import TooMany

T = TypeVar("T")


class Place:
    """A place for a picture of `size` bytes, for as long as it takes to pass."""

    def __init__(self, size: int) -> None:
        self.size = size
        self._began_s = asyncio.get_running_loop().time()
        self._limit: asyncio.Timeout | None = None  # while it passes

    def is_late(self, pace: float) -> bool:
        """Return whether the picture would have passed at this pace, in bytes a second, and has not."""
        return self._limit is not None and asyncio.get_running_loop().time() - self._began_s > self.size / pace

    async def passage(self, work: Awaitable[T]) -> T:
        """Return what passes. Raises TooMany where it is given up."""
        try:
            async with asyncio.timeout(None) as limit:
                self._limit = limit
                return await work
        except TimeoutError:
            if not limit.expired():
                raise
            raise TooMany("Too many pictures are under way at this moment, and yours took long.", 5) from None
        finally:
            self._limit = None

    def give_up(self) -> None:
        assert self._limit, "it is late"
        self._limit.reschedule(0)


class Places:
    """The places of one process: `most` bytes of pictures are in memory, and `each` of one person.

    `slowest`: what passes more slowly, in bytes a second, makes room where there is none. `refusal`: what others are
    told then.
    """

    def __init__(self, most: int, each: int, slowest: float, refusal: str) -> None:
        self.most, self.each, self.slowest, self.refusal = most, each, slowest, refusal
        self._places: dict[Place, ObjectId] = {}  # and whose they are; the oldest first

    @contextmanager
    def place(self, person: ObjectId, size: int) -> Iterator[Place]:
        """Hold a place for a picture. Raises TooMany. Whoever is slow takes no place from all others."""
        if sum(place.size for place, whose in self._places.items() if whose == person) + size > self.each:
            raise self._refused()
        self._make_room(size)
        place = Place(size)
        self._places[place] = person
        try:
            yield place
        finally:
            self._places.pop(place, None)

    def _make_room(self, size: int) -> None:
        """Give up the largest of those that are late, of several the oldest, as far as that helps. Raises TooMany where
        it does not.
        """
        missing = sum(place.size for place in self._places) + size - self.most
        late = [place for place in self._places if place.is_late(self.slowest)]
        if missing > sum(place.size for place in late):
            raise self._refused()
        while missing > 0:
            largest = max(late, key=attrgetter("size"))
            late.remove(largest)
            del self._places[largest]
            largest.give_up()
            missing -= largest.size

    def _refused(self) -> TooMany:
        return TooMany(self.refusal, 5)
