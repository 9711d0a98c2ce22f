"""Look-ups: several of them in one command, answered as of one moment."""

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any

from motor.frameworks.asyncio import run_on_executor
from pymongo.errors import OperationFailure
from pymongo.read_concern import ReadConcern

from app.stack.mongodb.connection import Database
from app.stack.mongodb.lookup import NEWEST_FIRST, Find, Order, Rows
from app.stack.mongodb.stand_in import StandInDatabase

SNAPSHOT_UNAVAILABLE = 246  # MongoDB's error code
SNAPSHOT_PAUSES_S = (0.01, 0.05, 0.1, 0.2, 0.5, 1.0)  # between tries; a majority is behind by more only in an outage

_in_thread: Any = run_on_executor  # Motor's own threads


class NoSnapshot(Exception):
    """A majority does not know yet what was created last: as if a server were away."""


async def rows(database: Database, find: Find) -> Rows:
    """The answer to one look-up: a plain `find`."""
    return (await together(database, rows=find))["rows"]


async def together(database: Database, **finds: Find) -> dict[str, Rows]:
    """The answers by name, all as of one moment: one command on one snapshot, a plain `find` where there is one.

    The snapshot is of what a majority has: whatever was acknowledged before is in it. The whole command, its retry
    included, is one visit to Motor's threads; Motor's own cursors take two.
    Source: MongoDB manual, Read Concern "snapshot"; $unionWith.
    """
    if isinstance(database, StandInDatabase):
        return await database.one_after_another(finds)
    (name, first), *others = finds.items()
    collection = database.delegate.get_collection(first.collection, read_concern=ReadConcern("snapshot"))
    loop, batch = asyncio.get_running_loop(), sum(find.limit for find in finds.values()) + 1
    if not others:
        query = {"filter": first.query, "projection": first.projection(), "limit": first.limit, "batch_size": batch}
        query |= {"sort": list(first.order) or None, "hint": first.index}
        return {name: await _on_a_snapshot(lambda: _in_thread(loop, lambda: collection.find(**query).to_list()))}
    pipeline = first.stages(name) + [
        {"$unionWith": {"coll": find.collection, "pipeline": find.stages(other)}} for other, find in others
    ]
    answers: dict[str, Rows] = {name: [] for name in finds}
    for row in await _on_a_snapshot(
        lambda: _in_thread(loop, lambda: collection.aggregate(pipeline, batchSize=batch).to_list())
    ):
        answers[row.pop("part")].append(row)
    return answers


async def _on_a_snapshot(read: Callable[[], Awaitable[Rows]]) -> Rows:
    """A collection that has just been created is in no snapshot yet: MongoDB asks for another try."""
    for pause_s in SNAPSHOT_PAUSES_S:
        try:
            return await read()
        except OperationFailure as error:
            if error.code != SNAPSHOT_UNAVAILABLE:
                raise
        await asyncio.sleep(pause_s)
    raise NoSnapshot("no snapshot holds every collection yet")


__all__ = ["NEWEST_FIRST", "Find", "NoSnapshot", "Order", "Rows", "rows", "together"]
