"""asyncio's Event and Queue, as far as a connection needs them, without a deque for those who wait: on a connection
there is hardly anybody, and an empty deque takes 770 bytes.
"""

import asyncio
from typing import Generic, Literal, TypeVar

T = TypeVar("T")


class Event:
    __slots__ = ("_is_set", "_waiting")

    def __init__(self, is_set: bool = False) -> None:
        self._is_set = is_set
        self._waiting: tuple[asyncio.Future[None], ...] = ()

    def is_set(self) -> bool:
        return self._is_set

    def set(self) -> None:
        self._is_set = True
        for one in self._waiting:
            if not one.done():
                one.set_result(None)

    def clear(self) -> None:
        self._is_set = False

    async def wait(self) -> Literal[True]:
        if not self._is_set:
            mine = asyncio.get_running_loop().create_future()
            self._waiting = (*self._waiting, mine)
            try:
                await mine
            finally:
                self._waiting = tuple(one for one in self._waiting if one is not mine)
        return True


class Queue(Generic[T]):
    """Without a limit."""

    __slots__ = ("_filled", "_items")

    def __init__(self) -> None:
        self._items: list[T] = []
        self._filled = Event()

    def empty(self) -> bool:
        return not self._items

    def put_nowait(self, item: T) -> None:
        self._items.append(item)
        self._filled.set()

    async def get(self) -> T:
        while not self._items:
            self._filled.clear()
            await self._filled.wait()
        return self._items.pop(0)
