"""Inserts into a collection, as MongoDB's change stream tells them: only what a majority has."""

import asyncio
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass
from datetime import datetime
from functools import partial
from typing import Any

from pymongo.asynchronous.change_stream import AsyncChangeStream
from pymongo.errors import CursorNotFound, ExecutionTimeout, OperationFailure

from app.stack.mongodb.connection import AWAY_CODES, Database, direct

AWAIT_MS = 500  # how long the server waits for news before it says that there are none
HELD = 200  # inserts that wait here for whoever reads them
TOGETHER = 50  # inserts that are handed on at once

# The stream cannot be continued from there: InvalidResumeToken, ChangeStreamFatalError, ChangeStreamHistoryLost.
HISTORY_LOST = (260, 280, 286)
TRANSIENT = (CursorNotFound, ExecutionTimeout)


class HistoryLost(Exception):
    """The change stream cannot go on from the saved place: its history is gone, or the collection was dropped."""


@dataclass(frozen=True)
class Inserted:
    """A batch of inserts, or none as a sign of life.

    `documents`: in the order of their inserts. `place`: how far the stream is, opaque. `at`: when the last of them was
    inserted, by MongoDB's clock, where it says so.
    """

    documents: list[dict[str, Any]]
    place: Mapping[str, Any]
    at: datetime | None = None


@asynccontextmanager
async def inserts(
    database: Database, collection: str, query: Mapping[str, Any], after: Mapping[str, Any] | None
) -> AsyncIterator[AsyncIterator[Inserted]]:
    """Yield the inserts that match the query, after a place or from now on, with a sign of life twice a second.

    Raises HistoryLost: where MongoDB says so, and where it cannot read the place, for which it has a dozen codes, and
    opens the stream without it. Whatever else is wrong keeps its own words.

    A task of its own reads the stream, so that its user is never cancelled inside PyMongo, which does not bear it.
    """
    wanted = {"operationType": "insert", **{f"fullDocument.{field}": value for field, value in query.items()}}
    watch = partial(direct(database).watch, collection, [{"$match": wanted}], max_await_time_ms=AWAIT_MS)
    try:
        stream = await watch(resume_after=after)
    except TRANSIENT:
        raise
    except OperationFailure as error:
        if after is None or error.code in AWAY_CODES:
            raise
        if error.code not in HISTORY_LOST:
            await (await watch(resume_after=None)).close()
        raise HistoryLost(str(error)) from error
    reader = _Reader(stream)
    try:
        yield reader.inserted()
    finally:
        await reader.stop()
        await stream.close()


class _Reader:
    def __init__(self, stream: AsyncChangeStream[Any]) -> None:
        self._stream = stream
        self._held: asyncio.Queue[Inserted] = asyncio.Queue(HELD)
        self._stopped = False
        self._reading = asyncio.create_task(self._read())

    async def _read(self) -> None:
        while not self._stopped:
            change = await self._stream.try_next()
            if not self._stream.alive:
                raise HistoryLost("the collection was dropped or renamed")
            if (place := self._stream.resume_token) is None:
                continue
            if change is not None:
                await self._held.put(Inserted([change["fullDocument"]], place, change.get("wallTime")))
            elif self._held.empty():
                self._held.put_nowait(Inserted([], place))

    async def inserted(self) -> AsyncIterator[Inserted]:
        """Yield what the reading task has got, as soon as there is anything."""
        while True:
            getting = asyncio.create_task(self._held.get())
            await asyncio.wait((getting, self._reading), return_when=asyncio.FIRST_COMPLETED)
            if not getting.done():
                getting.cancel()
                try:
                    await self._reading
                    return
                except OperationFailure as error:
                    if error.code not in HISTORY_LOST:
                        raise
                    raise HistoryLost(str(error)) from error
            last, documents = getting.result(), list(getting.result().documents)
            while len(documents) < TOGETHER and not self._held.empty():
                following = self._held.get_nowait()
                documents += following.documents
                last = following if following.documents or not last.documents else last
            yield Inserted(documents, last.place, last.at)

    async def stop(self) -> None:
        """Stop reading, and return when the answer to the last question is there."""
        self._stopped = True
        while not self._reading.done():
            if not self._held.empty():
                self._held.get_nowait()
            await asyncio.wait([self._reading], timeout=0.01)
        with suppress(Exception):  # whoever read it has heard of it, or has gone for another reason
            await self._reading
