"""Work that nobody waits for: nobody would hear of an error in it, so it is counted by the work, and logged.

A server that is away is no error of ours: whoever works says so in a line, and tries again.
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
    """Whatever goes wrong in the block ends the block, and nothing else."""
    try:
        yield
    except Exception:
        BACKGROUND_ERRORS.labels(work).inc()
        log.exception(words)


@asynccontextmanager
async def beside(*works: Coroutine[Any, Any, None]) -> AsyncIterator[None]:
    """Works that go on beside the block, and no longer. That one has died is counted as `ended`."""
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
