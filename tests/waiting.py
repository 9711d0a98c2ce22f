"""How tests wait: for something that comes within a minute, or for ever."""

import asyncio
import time
from collections.abc import Callable, Coroutine
from typing import Any

LONG_S = 60.0  # nobody waits for so long unless something is wrong


async def eventually(true: Callable[[], Coroutine[Any, Any, bool]]) -> None:
    async with asyncio.timeout(LONG_S):
        while not await true():  # noqa: ASYNC110
            await asyncio.sleep(0.02)


def until(holds: Callable[[], object], what: str) -> None:
    """Wait for other processes: nothing but their state can be asked for."""
    deadline = time.monotonic() + LONG_S
    while not holds():
        assert time.monotonic() < deadline, f"not in {LONG_S:.0f} s: {what}"
        time.sleep(0.02)


async def for_ever(*_: object, **__: object) -> None:
    await asyncio.Event().wait()
