"""Work that goes on after a request has been answered."""

import asyncio
from collections.abc import AsyncIterator, Coroutine
from contextlib import asynccontextmanager
from typing import Any

from app.watch.background import errors_counted

MOST = 200  # works at once; whoever comes then waits for their own
LATER_S = 0.002  # the answer goes out first: a thread that begins now would take the interpreter from it


class Afterwards:
    """Works that nobody waits for, and that may be lost with the process.

    Before `open`, and while too many go on, they are waited for.
    """

    def __init__(self) -> None:
        self._is_open = False
        self._under_way: set[asyncio.Task[None]] = set()

    @asynccontextmanager
    async def open(self) -> AsyncIterator[None]:
        """Take works until the block ends, and then wait for all of them."""
        self._is_open = True
        try:
            yield
        finally:
            self._is_open = False
            await asyncio.gather(*self._under_way, return_exceptions=True)

    async def do(self, work: Coroutine[Any, Any, None]) -> None:
        if not self._is_open or len(self._under_way) >= MOST:
            await work
        else:
            task = asyncio.create_task(_later(work))
            self._under_way.add(task)
            task.add_done_callback(self._under_way.discard)


async def _later(work: Coroutine[Any, Any, None]) -> None:
    with errors_counted("after_answer", "after an answer"):
        await asyncio.sleep(LATER_S)
        await work
