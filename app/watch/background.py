"""Background work, which nobody waits for: an error in it is counted by the work, and logged, or nobody would know.

A server that is away is no such error: the work says so in a line, and tries again.
"""

import asyncio
import logging
from collections.abc import AsyncIterator, Coroutine, Iterator
from contextlib import asynccontextmanager, contextmanager
from typing import Any

from app.watch.metrics import BACKGROUND_ERRORS, Work

log = logging.getLogger(__name__)


@contextmanager
def errors_counted(work: Work, words: str) -> Iterator[None]:
    """Count and log any error that ends the block; nothing else ends with it."""
    try:
        yield
    except Exception:
        BACKGROUND_ERRORS.labels(work).inc()
        log.exception(words)


@asynccontextmanager
async def beside(*works: Coroutine[Any, Any, None]) -> AsyncIterator[None]:
    """Run the works beside the block, and cancel them when it ends. One that dies before is counted as `ended`."""
    tasks = [asyncio.create_task(_until_it_ends(work)) for work in works]
    try:
        yield
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


async def _until_it_ends(work: Coroutine[Any, Any, None]) -> None:
    with errors_counted("ended", f"{work} goes on no more"):
        await work
