"""The stack's stand-ins with a point before every command, and commands on many documents taken apart.

What a real server does not do at once is not done at once here: `insert_many`, `update_many`, `delete_many` and a
`prepend` to many keys go document by document and key by key, an upsert looks first and inserts then (and may find that
somebody else did). One `find`, and every command on one document or key, is atomic.
"""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, Mapping, Sequence
from copy import deepcopy
from functools import partial
from typing import Any

from bson import ObjectId
from pymongo.errors import BulkWriteError, DuplicateKeyError

from app.edges import DEPARTURES, MARKERS, NAMES, VERSIONS
from app.inbox.notifier import INBOXES, NOTIFICATIONS
from app.inbox.pictures import IMAGES
from app.inbox.sides import CONVERSATIONS, MESSAGES
from app.stack.bus import Hint, Listener, MemoryBus
from app.stack.memcached import MemcachedStandIn
from app.stack.mongodb.find import Find
from app.stack.mongodb.stand_in import StandInCollection, StandInDatabase
from app.stack.queue import DeliveryQueue
from app.stack.sorted_sets import Found, SetsStandIn, Trailer
from phases.delivering.outbox import EVENTS
from phases.keeping.activity import ACTIVE
from phases.pulling.heavy import HEAVY
from tests.interleavings.scheduler import Touch, point, written

CATALOG = "catalog"
EDGES = ("follows", "blocks", "circles", "mutes", ACTIVE)

ALL_VERSIONS = Touch(VERSIONS, fields=frozenset({"version", "tokens", "likes", "closed"}), write=True)

_Collection: Any = StandInCollection  # fewer options than Motor's: those that the project uses
_Database: Any = StandInDatabase


def _keys(collection: str, condition: Any) -> frozenset[object] | None:
    """Which documents a condition on `_id` is about. Entries are told apart by their reader."""
    match condition:
        case {"$in": ids}:
            return frozenset(map(_document, ids))
        case {"$gte": bytes(low), "$lt": bytes(high)} if low[:12] == high[:12]:
            return frozenset([low[:12]])
        case bytes() if collection.startswith("home_entries"):
            return frozenset([condition[:12]])
        case ObjectId() | str():
            return frozenset([_document(condition)])
        case _:
            return None


def _whose(query: Mapping[str, Any]) -> Any:
    """Return the condition on `_id`, or on tags alone, which name one document each."""
    tags = query.get("pending")
    tags = tags["$in"] if isinstance(tags, Mapping) and "$in" in tags else [tags]
    if "_id" not in query and all(isinstance(tag, str) and tag[0] in "#@" for tag in tags):
        return {"$in": tags}
    return query.get("_id")


def _document(id: Any) -> Any:
    """Return what a document is told by: the id in its tag, where it has one."""
    return ObjectId(id[1:]) if isinstance(id, str) and id[0] in "#@" else id


def _named(query: Mapping[str, Any]) -> Iterable[str]:
    for name, condition in query.items():
        if name == "$or":
            for part in condition:
                yield from _named(part)
        else:
            yield name.split(".")[0]


def _read(collection: str, query: Mapping[str, Any], shown: Mapping[str, int] | None) -> Touch:
    kept = None if not shown else frozenset({*_named(query), *(name for name, yes in shown.items() if yes)})
    return Touch(collection, _keys(collection, _whose(query)), kept)


def _update(collection: str, query: Mapping[str, Any], change: Mapping[str, Mapping[str, Any]]) -> Touch:
    changed = {name for fields in change.values() for name in fields}
    return Touch(collection, _keys(collection, _whose(query)), frozenset({*_named(query), *changed}), write=True)


def _insert(collection: str, document: Mapping[str, Any]) -> tuple[Touch, ...]:
    whole = Touch(collection, _keys(collection, document["_id"]), write=True)
    if key := document.get("idempotency_key"):
        return whole, Touch(f"{collection} by key", frozenset([key]), write=True)
    return (whole,)


class StagedCursor:
    def __init__(self, cursor: Any, name: str, touch: Touch) -> None:
        self._cursor, self._name, self._touch = cursor, name, touch

    def _chained(self, method: str, *args: Any) -> "StagedCursor":
        getattr(self._cursor, method)(*args)
        return self

    def sort(self, *args: Any) -> "StagedCursor":
        return self._chained("sort", *args)

    def skip(self, n: int) -> "StagedCursor":
        return self._chained("skip", n)

    def limit(self, n: int) -> "StagedCursor":
        return self._chained("limit", n)

    def batch_size(self, n: int) -> "StagedCursor":
        return self._chained("batch_size", n)

    async def to_list(self, length: int | None) -> list[dict[str, Any]]:
        await point(self._name, self._touch)
        found: list[dict[str, Any]] = await self._cursor.to_list(length)
        return found

    async def __aiter__(self) -> AsyncIterator[dict[str, Any]]:
        for document in await self.to_list(None):
            yield document


class StagedCollection(_Collection):  # type: ignore[misc]
    """The commands that the project sends."""

    def find(self, query: Mapping[str, Any], shown: Mapping[str, int] | None = None, **options: Any) -> Any:
        assert not options
        return StagedCursor(super().find(query, shown), f"{self.name}.find", _read(self.name, query, shown))

    async def find_one(self, query: Mapping[str, Any], shown: Any = None, **options: Any) -> Any:
        await point(f"{self.name}.find_one", _read(self.name, query, shown))
        return await super().find_one(query, shown, **options)

    async def count_documents(self, query: Mapping[str, Any], **options: Any) -> int:
        await point(f"{self.name}.count_documents", _read(self.name, query, {"_id": 1}))
        found: int = await super().count_documents(query, **options)
        return found

    async def insert_one(self, document: dict[str, Any], **options: Any) -> Any:
        await point(f"{self.name}.insert_one", *_insert(self.name, document))
        result = await super().insert_one(document, **options)
        written()
        return result

    async def insert_many(self, documents: Sequence[dict[str, Any]], ordered: bool) -> None:
        assert not ordered
        errors: list[Any] = []
        for document in documents:
            await point(f"{self.name}.insert_many", *_insert(self.name, document))
            try:
                await super().insert_many([document], ordered=False)
            except BulkWriteError as error:
                errors += (error.details or {})["writeErrors"]
        if errors:
            raise BulkWriteError({"writeErrors": errors, "writeConcernErrors": []})

    async def update_one(self, query: Mapping[str, Any], change: Any, upsert: bool = False) -> Any:
        await self._before(query, change, "update_one", upsert)
        result = await super().update_one(query, change, upsert=upsert)
        written()
        return result

    async def find_one_and_update(self, query: Mapping[str, Any], change: Any, **options: Any) -> Any:
        await self._before(query, change, "find_one_and_update", options.get("upsert", False), whole=True)
        result = await super().find_one_and_update(query, change, **options)
        written()
        return result

    async def _before(
        self, query: Mapping[str, Any], change: Any, command: str, upsert: bool, *, whole: bool = False
    ) -> None:
        touch = _update(self.name, query, change)
        touch = touch._replace(fields=None) if whole or upsert else touch
        await point(f"{self.name}.{command}", touch)
        if upsert and await super().find_one(query) is None:
            await point(f"{self.name}.{command}, insert", touch._replace(fields=None))
            if await super().find_one(query) is not None:
                raise DuplicateKeyError("somebody else inserted it between the look and the insert", 11000)

    async def update_many(self, query: Mapping[str, Any], change: Any) -> None:
        await self._one_by_one("update_many", _update(self.name, query, change), query, "update_one", change)

    async def delete_one(self, query: Mapping[str, Any]) -> None:
        await point(f"{self.name}.delete_one", Touch(self.name, _keys(self.name, query.get("_id")), write=True))
        await super().delete_one(query)
        written()

    async def delete_many(self, query: Mapping[str, Any]) -> None:
        touch = Touch(self.name, _keys(self.name, query.get("_id")), write=True)
        await self._one_by_one("delete_many", touch, query, "delete_one")

    async def _one_by_one(self, name: str, touch: Touch, query: Mapping[str, Any], each: str, *change: Any) -> None:
        await point(f"{self.name}.{name}", touch)
        ids = [document["_id"] for document in await super().find(query, {"_id": 1}).to_list(None)]
        for n, id in enumerate(ids):
            if n:
                await point(f"{self.name}.{name}, document {n + 1}", touch)
            await getattr(super(), each)({"$and": [{"_id": id}, query]}, *change)
            written()


class _Whole:
    """A database inside a transaction: one step among those of everybody else, told by its first command."""

    def __init__(self, database: Any) -> None:
        self._database, self._begun = database, False
        self._before: dict[str, Any] = {}  # collections that have been written to, as they were

    def __getitem__(self, name: str) -> "_InWhole":
        return _InWhole(self, name)

    async def command(self, collection: str, name: str, query: Mapping[str, Any], *args: Any, **options: Any) -> Any:
        if not self._begun:
            self._begun = True
            await point("transaction", *_transaction(collection, query))
        if not name.startswith(("find", "count")) or name == "find_one_and_update":
            self._before.setdefault(collection, deepcopy(self._store[collection]._documents))
        return await getattr(self._database[collection], name)(query, *args, **options)

    @property
    def _store(self) -> Any:
        return self._database.delegate._store

    def take_back(self) -> None:
        for name, documents in self._before.items():
            self._store[name]._documents = documents

    async def list(self, query: Mapping[str, Any], fields: Mapping[str, int], *, collection: str, limit: int) -> Any:
        await self.command(collection, "find_one", query)
        return await self._database[collection].find(query, fields).limit(limit).to_list(None)


class _InWhole:
    def __init__(self, whole: _Whole, name: str) -> None:
        self._whole, self._name = whole, name

    def __getattr__(self, command: str) -> Any:
        return partial(self._whole.command, self._name, command)

    def find(self, *look: Any) -> "_Limited":
        return _Limited(partial(self._whole.list, *look, collection=self._name))


class _Limited:
    def __init__(self, look: Callable[..., Awaitable[Any]]) -> None:
        self._look = look

    def limit(self, n: int) -> "_Limited":
        return _Limited(partial(self._look, limit=n))

    async def to_list(self, _: None) -> Any:
        return await self._look()


def _transaction(collection: str, query: Mapping[str, Any]) -> tuple[Touch, ...]:
    """What it touches that begins like this: there are few."""
    if collection == "likes" and isinstance(query["_id"], dict):  # of somebody who has departed
        return Touch("likes", write=True), Touch("statuses", fields=frozenset({"likes"}), write=True)
    if collection == "likes":
        like, status = frozenset([query["_id"]]), frozenset([ObjectId(query["_id"][12:])])
        reader = Touch(VERSIONS, frozenset([ObjectId(query["_id"][:12])]), write=True)
        counted = Touch("statuses", status, frozenset({"likes"}), write=True)
        deleted = Touch("statuses", status, frozenset({"deleted"}))
        return Touch("likes", like, write=True), reader, counted, deleted, Touch(EVENTS, write=True)
    if collection == NOTIFICATIONS:
        whom = frozenset([ObjectId(query["_id"][:12])])
        return Touch(NOTIFICATIONS, frozenset([query["_id"]]), write=True), Touch(INBOXES, whom, write=True)
    if collection in (CONVERSATIONS, MESSAGES, INBOXES):
        return tuple(Touch(name, write=True) for name in (CONVERSATIONS, MESSAGES, INBOXES, IMAGES))
    if collection == "users":  # a new token
        whom = frozenset([query["_id"]])
        return Touch("users", whom, write=True), Touch("tokens", write=True), Touch(VERSIONS, whom, write=True)
    if collection == "tokens":  # the end of some
        return Touch("tokens", write=True), ALL_VERSIONS
    if collection in EDGES:
        return ALL_VERSIONS, *(Touch(name, write=True) for name in EDGES)
    assert collection == VERSIONS, collection
    whose = _document(query["_id"])
    if whose == NAMES:  # a name, or the end of an account
        return ALL_VERSIONS, *(Touch(name, write=True) for name in ("users", "tokens", INBOXES, DEPARTURES))
    if whose == MARKERS:
        return Touch(VERSIONS, frozenset([MARKERS]), write=True), Touch(HEAVY, write=True)
    there = Touch("users", fields=frozenset({"deleted"}))
    return there, ALL_VERSIONS, *(Touch(name, write=True) for name in (*EDGES, EVENTS, CONVERSATIONS))


class StagedDatabase(_Database):  # type: ignore[misc]
    def get_collection(self, *args: Any, **options: Any) -> Any:
        this: Any = self
        return StagedCollection(this, self.delegate.get_collection(*args, **options))

    async def one_after_another(self, finds: Mapping[str, Find]) -> dict[str, list[dict[str, Any]]]:
        touches = [_read(find.collection, find.query, dict.fromkeys(find.fields, 1)) for find in finds.values()]
        await point("together " + ", ".join(find.collection for find in finds.values()), *touches)
        found: dict[str, list[dict[str, Any]]] = await super().one_after_another(finds)
        return found

    async def at_once(self, work: Any) -> Any:
        this: Any = self
        whole = _Whole(_Database(this.client, self.delegate))
        try:
            result = await work(whole)
        except Exception:
            whole.take_back()
            raise
        written()
        return result

    async def list_collection_names(self) -> list[str]:
        await point("list_collection_names", Touch(CATALOG))
        names: list[str] = await super().list_collection_names()
        return names

    async def create_collection(self, name: str) -> None:
        await point(f"create {name}", Touch(CATALOG, write=True), Touch(name, write=True))
        await super().create_collection(name)

    async def drop_collection(self, name: str) -> None:
        await point(f"drop {name}", Touch(CATALOG, write=True), Touch(name, write=True))
        await super().drop_collection(name)


class StagedMemcached(MemcachedStandIn):
    def __init__(self, now_s: Callable[[], float]) -> None:
        super().__init__(now_s)

    async def gets(self, key: str) -> tuple[bytes, object] | None:
        await point("memcached gets", Touch("memcached", frozenset([key])))
        return await super().gets(key)

    async def add(self, key: str, value: bytes, ttl_s: int) -> tuple[bytes, object] | None:
        await point("memcached add", Touch("memcached", frozenset([key]), write=True))
        return await self.gets(key) if await super().add(key, value, ttl_s) else None

    async def put(self, key: str, value: bytes, ttl_s: int) -> None:
        await point("memcached put", Touch("memcached", frozenset([key]), write=True))
        await super().put(key, value, ttl_s)

    async def cas(self, key: str, value: bytes, version: object, ttl_s: int) -> bool:
        await point("memcached cas", Touch("memcached", frozenset([key]), write=True))
        return await super().cas(key, value, version, ttl_s)

    async def delete(self, key: str) -> None:
        await point("memcached delete", Touch("memcached", frozenset([key]), write=True))
        await super().delete(key)

    async def prepend(self, keys: Sequence[str], value: bytes) -> int:
        taken = 0
        for key in keys:
            await point("memcached prepend", Touch("memcached", frozenset([key]), write=True))
            taken += await super().prepend([key], value)
        return taken

    async def highest(self, key: str) -> int:
        await point("memcached highest", Touch("memcached", frozenset([key])))
        return await super().highest(key)

    async def note(self, key: str, number: int, ttl_s: int) -> None:
        await point("memcached note", Touch("memcached", frozenset([key]), write=True))
        await super().note(key, number, ttl_s)


class StagedSets(SetsStandIn):
    """Each of these is one script, and delivering is one for all."""

    async def deliver(self, at: str, readers: Sequence[ObjectId], id: ObjectId, cap: int) -> None:
        await point("sets deliver", Touch("sets", frozenset((at, reader) for reader in readers), write=True))
        await super().deliver(at, readers, id, cap)

    async def read(self, at: str, reader: ObjectId, before: ObjectId, n: int) -> Found | None:
        await point("sets read", Touch("sets", frozenset([(at, reader)])))
        return await super().read(at, reader, before, n)

    async def lease(self, at: str, reader: ObjectId, placeholder: Trailer, ttl_ms: int, now_ms: int) -> bool:
        await point("sets lease", Touch("sets", frozenset([(at, reader)]), write=True))
        return await super().lease(at, reader, placeholder, ttl_ms, now_ms)

    async def fill(
        self, at: str, reader: ObjectId, trailer: Trailer, ttl_ms: int, ids: Sequence[bytes], cap: int
    ) -> bool:
        await point("sets fill", Touch("sets", frozenset([(at, reader)]), write=True))
        return await super().fill(at, reader, trailer, ttl_ms, ids, cap)

    async def merge(self, at: str, reader: ObjectId, ids: Sequence[bytes], floor: bytes, cap: int) -> None:
        await point("sets merge", Touch("sets", frozenset([(at, reader)]), write=True))
        await super().merge(at, reader, ids, floor, cap)

    async def renew(self, at: str, reader: ObjectId, old: Trailer, new: Trailer, ttl_ms: int) -> None:
        await point("sets renew", Touch("sets", frozenset([(at, reader)]), write=True))
        await super().renew(at, reader, old, new, ttl_ms)

    async def forget(self, at: str, reader: ObjectId) -> None:
        await point("sets forget", Touch("sets", frozenset([(at, reader)]), write=True))
        await super().forget(at, reader)

    async def highest(self, at: str) -> int:
        await point("sets highest", Touch("sets", frozenset([at])))
        return await super().highest(at)

    async def note(self, at: str, number: int, ttl_s: int) -> None:
        await point("sets note", Touch("sets", frozenset([at]), write=True))
        await super().note(at, number, ttl_s)


Job = tuple[str, ObjectId, ObjectId | None]  # consumer, what happened, the last recipient of the step before


class StagedBus(MemoryBus):
    """As Redis carries hints: some time after they were told, to whoever listens then, and to nobody while it is
    broken. Who subscribes, or does again, is told that hints may have been missed. `memory`: of who listens.
    """

    def __init__(self, memory: Touch) -> None:
        super().__init__()
        self._memory, self._publishing = memory, set[asyncio.Task[None]]()

    def tell(self, *hints: Hint) -> None:
        publishing = asyncio.create_task(self._publish(*hints))
        self._publishing.add(publishing)
        publishing.add_done_callback(self._publishing.discard)

    async def _publish(self, *hints: Hint) -> None:
        await point("the bus tells", Touch("bus"), self._memory)
        super().tell(*hints)

    async def subscribe(self, listener: Listener) -> None:
        await point("subscribe", Touch("bus", write=True), self._memory)
        self.listen(listener)

    async def breaks(self) -> None:
        """And is back."""
        await point("the bus breaks", Touch("bus", write=True))
        cut, self._listeners = self._listeners, []
        await point("the bus is back", Touch("bus", write=True), self._memory)
        for listener in cut:
            self.listen(listener)


class StagedQueue(DeliveryQueue):
    """What RQ promises here: a job is queued once while it waits or is being done; who does it may die."""

    def __init__(self) -> None:
        self.waiting: dict[str, Job] = {}
        self.started: dict[str, Job] = {}

    def close(self) -> None: ...

    async def offer(self, consumer: str, happened: ObjectId, after: ObjectId | None = None) -> bool:
        await point(f"queue offer {consumer}", Touch("queue", write=True))
        job_id = f"{consumer}-{happened}" + (f"-{after}" if after else "")
        if job_id in self.waiting or job_id in self.started:
            return False
        self.waiting[job_id] = (consumer, happened, after)
        return True

    async def withdraw(self, consumer: str, statuses: Sequence[ObjectId]) -> None:
        await point(f"queue withdraw {consumer}", Touch("queue", write=True))
        for status in statuses:
            self.waiting.pop(f"{consumer}-{status}", None)

    async def known(self) -> set[tuple[str, str]]:
        await point("queue known", Touch("queue"))
        return {(consumer, str(happened)) for consumer, happened, _ in (*self.waiting.values(), *self.started.values())}

    async def enqueue_scheduled(self) -> None: ...

    async def depth(self) -> dict[str, int]:
        return {}

    async def take(self) -> str | None:
        """The next job begins."""
        await point("queue take", Touch("queue", write=True))
        if not self.waiting:
            return None
        job_id = next(iter(self.waiting))
        self.started[job_id] = self.waiting.pop(job_id)
        return job_id

    async def done(self, job_id: str) -> None:
        await point("queue done", Touch("queue", write=True))
        self.started.pop(job_id, None)
