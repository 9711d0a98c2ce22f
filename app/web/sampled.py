"""Samples of the servers: they are asked once, however many want to know."""

import asyncio
from collections.abc import Awaitable, Callable
from typing import Generic, TypeVar

FRESH_S = 1.0  # an older sample is still answered with, and another one is taken meanwhile
STALE_S = 3.0  # an older one is not: whoever comes waits for the next

T = TypeVar("T")


class Sampled(Generic[T]):
    """The result of `take`, at most STALE_S old. There is one `take` at a time, and all who wait share its result."""

    def __init__(self, take: Callable[[], Awaitable[T]]) -> None:
        self._take = take
        self._taking: asyncio.Task[None] | None = None
        self._taken: list[tuple[float, T]] = []

    async def latest(self) -> T:
        age_s = asyncio.get_running_loop().time() - self._taken[0][0] if self._taken else STALE_S
        if age_s >= FRESH_S and (self._taking is None or self._taking.done()):
            self._taking = asyncio.create_task(self._sample())
        if age_s >= STALE_S:
            assert self._taking
            await asyncio.shield(self._taking)
        return self._taken[0][1]

    async def _sample(self) -> None:
        sample = await self._take()
        self._taken = [(asyncio.get_running_loop().time(), sample)]
