"""Reads of one moment: of what a majority has, so whatever was acknowledged before is in it.

A whole command, its retry included, is one visit to Motor's threads; Motor's own cursors take two.
Source: MongoDB manual, Read Concern "snapshot"; $unionWith.
"""

import asyncio
from collections.abc import Callable
from typing import Any

from motor.frameworks.asyncio import run_on_executor
from pymongo.errors import OperationFailure
from pymongo.read_concern import ReadConcern

from app.stack.mongodb.connection import Database
from app.stack.mongodb.find import Find, Rows
from app.stack.mongodb.mongomock import StandInDatabase

SNAPSHOT_UNAVAILABLE = 246  # MongoDB's error code
PAUSES_S = (0.01, 0.05, 0.1, 0.2, 0.5, 1.0)  # between tries; a majority is behind by more only in an outage

_in_thread: Any = run_on_executor  # Motor's own threads


class NoSnapshot(Exception):
    """What was created last is not known to a majority: as if a server were away."""


async def rows(database: Database, find: Find) -> Rows:
    """The answer to one look-up."""
    if isinstance(database, StandInDatabase):
        return (await database.one_after_another({"rows": find}))["rows"]
    query = {"filter": find.query, "projection": find.projection(), "limit": find.limit, "batch_size": find.limit + 1}
    query |= {"sort": list(find.order) or None, "hint": find.index}
    collection = _collection(database, find)
    return await _on_a_snapshot(lambda: collection.find(**query).to_list())


async def together(database: Database, /, **finds: Find) -> dict[str, Rows]:
    """The answers to all of them as of one moment, by the names given: one command on one snapshot."""
    if isinstance(database, StandInDatabase):
        return await database.one_after_another(finds)
    (name, first), *others = finds.items()
    if not others:
        return {name: await rows(database, first)}
    pipeline = first.stages(name) + [
        {"$unionWith": {"coll": find.collection, "pipeline": find.stages(part)}} for part, find in others
    ]
    collection, batch = _collection(database, first), sum(find.limit for find in finds.values()) + 1
    answers: dict[str, Rows] = {part: [] for part in finds}
    for row in await _on_a_snapshot(lambda: collection.aggregate(pipeline, batchSize=batch).to_list()):
        answers[row.pop("part")].append(row)
    return answers


def _collection(database: Database, find: Find) -> Any:
    """PyMongo's own, beneath Motor's."""
    return database.get_collection(find.collection, read_concern=ReadConcern("snapshot")).delegate


async def _on_a_snapshot(read: Callable[[], Rows]) -> Rows:
    """A collection that has just been created is in no snapshot yet: MongoDB asks for another try."""
    for pause_s in PAUSES_S:
        try:
            found: Rows = await _in_thread(asyncio.get_running_loop(), read)
            return found
        except OperationFailure as error:
            if error.code != SNAPSHOT_UNAVAILABLE:
                raise
        await asyncio.sleep(pause_s)
    raise NoSnapshot("no snapshot holds every collection yet")
