"""Writes that the drivers do not have as one call, and the making of collections."""

import asyncio
import logging
from collections.abc import Awaitable, Callable, Mapping, Sequence
from contextlib import AbstractContextManager
from typing import Any

import pymongo
from beanie import Document
from bson import Timestamp
from pymongo import ReturnDocument, errors

from app.models import DOCUMENTS
from app.stack.cost import asked_of_mongodb, count_mongodb, sent_to_mongodb
from app.stack.mongodb.connection import AWAY_CODES, Database, direct
from app.stack.mongodb.stand_in import is_stand_in

log = logging.getLogger(__name__)

DUPLICATE_KEY, NAMESPACE_EXISTS = 11000, 48  # MongoDB's error codes
HOUSEKEEPING_S = 600.0
INDEXES_S = 7 * 86_400.0  # MongoDB undoes an index whose maker gives up. Of one who is killed it makes it to the end
TELL_S = 10.0  # after so long somebody may wonder


def housekeeping() -> AbstractContextManager[object]:
    """Allow commands in the block longer than a request may wait: for one bounded step of loading or clearing away."""
    return pymongo.timeout(HOUSEKEEPING_S)


async def create_clustered(database: Database, name: str) -> None:
    """Create a collection stored in the order of its `_id`, without a second index.

    Source: MongoDB manual, Clustered Collections.
    """
    if is_stand_in(database):
        await database.create_collection(name)
    else:
        await database.create_collection(name, clusteredIndex={"key": {"_id": 1}, "unique": True})


async def prepare(database: Database) -> None:
    """Create the collections and indexes of our documents, where they are missing.

    Beanie 1.30 would not do: of two indexes on the same fields in another order it creates the last one only. A new
    index on a large collection takes longer than a request may, and nobody knows how long.
    """
    there = await database.list_collection_names()
    for document in DOCUMENTS:
        name, indexes = document.Settings.name, document.Settings.indexes
        if indexes:
            await _create_indexes(database, name, indexes)
        elif name not in there:
            with housekeeping():
                await _create(database, name)


async def _create_indexes(database: Database, name: str, indexes: Sequence[pymongo.IndexModel]) -> None:
    """Create the indexes that are missing. A member of the replica set that is away holds this up no more than it does
    a write: left to itself MongoDB would wait for all of them.
    """
    options: dict[str, Any] = {} if is_stand_in(database) else {"commitQuorum": "majority"}
    words = "an index of %s is being made, and this process waits for it"
    telling = asyncio.get_running_loop().call_later(TELL_S, log.warning, words, name)
    try:
        with pymongo.timeout(INDEXES_S):
            await database[name].create_indexes(indexes, **options)
    finally:
        telling.cancel()


async def _create(database: Database, name: str) -> None:
    """Create a collection, unless another process has been faster."""
    try:
        await database.create_collection(name)
    except errors.CollectionInvalid:
        pass
    except errors.OperationFailure as error:
        if error.code != NAMESPACE_EXISTS:
            raise


async def insert(database: Database, document: Document) -> Timestamp | None:
    """Insert a new document, and return when a majority has it. Raises DuplicateKeyError where a majority has another
    one in its place.

    Return a moment of the cluster's time: the insert was not later. None of a stand-in, which tells no time.

    It goes by PyMongo's own async client: Beanie's `insert` goes through Motor, which hands each command to a thread.
    """
    name, fields = document.get_collection_name(), document.model_dump(by_alias=True, exclude_none=True)
    if is_stand_in(database):
        await database[name].insert_one(fields)
        return None
    count_mongodb()
    try:
        return await direct(database).insert(name, fields)
    except errors.DuplicateKeyError:
        # A primary that steps down says so also of what no majority will ever have, and PyMongo keeps that to itself.
        reply = await _reply_to_insert(database.command, name, [fields])
        if not reply["n"]:
            raise
        stored: Timestamp = reply["operationTime"]
        return stored


async def insert_with_new_id(database: Database, name: str, fields: dict[str, Any]) -> Timestamp | None:
    """Insert a document as `insert` does. Its `_id` is new: where that is there, so is the document.

    So MongoDB need not note that it was inserted, as it does for its driver, which may repeat a write. The note is a
    second document to write.
    """
    if is_stand_in(database):
        await database[name].insert_one(fields)
        return None
    asked_of_mongodb()
    connected = direct(database)

    async def send(command: dict[str, Any]) -> Mapping[str, Any]:
        sent_to_mongodb()
        return await connected.command(command)

    async def in_time() -> Mapping[str, Any]:
        with connected.in_time():
            return await _reply_to_insert(send, name, [fields])

    reply = await connected.to_its_end(in_time())
    if not reply["n"] and (taken := reply["writeErrors"][0])["keyPattern"] != {"_id": 1}:
        raise errors.DuplicateKeyError(taken["errmsg"], DUPLICATE_KEY, taken)
    stored: Timestamp = reply["operationTime"]
    return stored


async def insert_missing(database: Database, name: str, documents: list[dict[str, Any]]) -> None:
    """Insert, in one command, the documents whose `_id` is not there yet; return when a majority has them.

    Raises as PyMongo's `insert_many` does, which looks at each document: that shows where thousands are small.
    """
    if is_stand_in(database):
        try:
            await database[name].insert_many(documents, ordered=False)
        except errors.BulkWriteError as error:
            unless_there(error.details or {})
        return
    await _reply_to_insert(database.command, name, documents)


async def _reply_to_insert(
    send: Callable[[dict[str, Any]], Awaitable[Mapping[str, Any]]], name: str, documents: list[dict[str, Any]]
) -> Mapping[str, Any]:
    """Send an insert, and return MongoDB's reply once a majority has what is there now, whoever inserted it."""
    command = {"insert": name, "documents": documents, "ordered": False, "writeConcern": {"w": "majority"}}

    async def reply() -> Mapping[str, Any]:
        said = await send(command)
        unless_there(said)
        return said

    try:
        return await reply()
    except (errors.AutoReconnect, errors.OperationFailure) as error:
        away = isinstance(error, errors.AutoReconnect | errors.WriteConcernError) or error.code in AWAY_CODES
        if error.timeout or not away:
            raise
        return await reply()  # once more, as the driver does with its own writes


async def grown(
    database: Database, name: str, id: Any, array: str, members: Sequence[Any], field: str, at_least: Any
) -> dict[str, Any]:
    """Add to a document's `array` what it lacks of `members`, and raise `field`; return the document as it then is.

    It is inserted where it is missing, and a majority has it. `$addToSet` would not do: its time grows with the product
    of both lengths, which may be 10,000 each.
    """
    query = {"_id": id}

    async def upsert() -> dict[str, Any]:
        if is_stand_in(database):
            change = {"$addToSet": {array: {"$each": list(members)}}, "$max": {field: at_least}}
            options: dict[str, Any] = {"upsert": True, "return_document": ReturnDocument.AFTER}
            found: dict[str, Any] = await database[name].find_one_and_update(query, change, **options)
            return found
        union = {"$setUnion": [{"$ifNull": [f"${array}", []]}, list(members)]}
        count_mongodb()
        change_to = {array: union, field: {"$max": [f"${field}", at_least]}}
        return await direct(database).upsert(name, query, [{"$set": change_to}])

    try:
        return await upsert()
    except errors.DuplicateKeyError:  # somebody else was faster to insert it
        return await upsert()


def unless_there(reply: Mapping[str, Any]) -> None:
    """Raise what went wrong with an insert, other than that a document was there already."""
    if others := [error for error in reply.get("writeErrors", ()) if error["code"] != DUPLICATE_KEY]:
        if all(error["code"] in AWAY_CODES for error in others):
            raise errors.AutoReconnect(others[0]["errmsg"], others)
        raise errors.BulkWriteError({**reply, "writeErrors": others})
    if unsure := reply.get("writeConcernError"):
        raise errors.WriteConcernError(unsure["errmsg"], unsure["code"], unsure)
