"""One limit for all that a request waits for: answers, further attempts, and threads that are free to ask."""

import asyncio
from collections.abc import Awaitable
from typing import TypeVar

T = TypeVar("T")


class OutOfTime(Exception):
    """The work took longer than it may. Callers treat it as a server that is away."""


async def within(seconds: float | None, work: Awaitable[T]) -> T:
    """Return the result of `work`, which is given up after so many seconds. Raises OutOfTime.

    The drivers' limits are for one command each, and begin when a thread takes it up: while a server hangs, whoever
    comes later waits for everybody before.
    """
    try:
        async with asyncio.timeout(seconds) as limit:
            return await work
    except TimeoutError as error:
        if not limit.expired():
            raise
        raise OutOfTime(f"a request has waited for {seconds:.3g} s") from error
