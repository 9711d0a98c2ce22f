"""What the benchmarks ask of a phase and of what its store holds. Nothing else here knows how phases are made."""

import asyncio
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from bson import ObjectId
from phases.activity import ACTIVE
from phases.lists import LIST, Value, key
from phases.switch import Container, entries_name, floors_name

from app.clock import FIRST_ID, LAST_ID
from app.config import Config
from app.models import StatusRow
from app.stack import Stack
from app.stack.mongodb.stand_in import is_stand_in
from phases import PHASES
from phases.base import Phase
from phases.p2_push import Push
from phases.p3_queue import Queue
from phases.p4_cache import Cache
from phases.reading import Slice
from phases.timelines import Timelines

ENTRIES, LISTS = "entries", "lists"  # stores: the raw limits of `benchmarks.limits` are of these two

POLL_S = 0.02
ENTRY_BYTES = 55  # of one entry in MongoDB, uncompressed: 24-byte key, author, BSON; `bench compare` measures it
LIST_BYTES = 150  # of one list in Memcached beside its ids: key, item header, trailer
ID_BYTES = 12


@dataclass(frozen=True)
class Answers:
    """A phase's row. `chunk`: followers that one job serves. Without a store nothing is delivered."""

    slug: str
    store: str | None
    active_only: bool
    in_worker: bool
    chunk: Callable[[Config], int]

    @property
    def poster_delivers(self) -> bool:
        return self.store is not None and not self.in_worker

    @property
    def in_memory(self) -> bool:
        return self.store == LISTS

    @property
    def bytes_per_entry(self) -> int:
        return {ENTRIES: ENTRY_BYTES, LISTS: ID_BYTES}.get(self.store or "", 0)

    @property
    def bytes_per_reader(self) -> int:
        """Of those for whom something is kept."""
        return LIST_BYTES if self.in_memory else 0


def answers(phase: type[Phase]) -> Answers:
    active_only = issubclass(phase, Cache)
    return Answers(
        slug=phase.slug,
        store=phase.keeps,
        active_only=active_only,
        in_worker=issubclass(phase, Queue),
        chunk=(lambda config: config.list_chunk) if active_only else (lambda config: config.chunk),
    )


ALL = tuple(answers(phase) for phase in PHASES)
KEEPING = tuple(phase for phase in ALL if phase.store)
IN_WORKER = tuple(phase for phase in ALL if phase.in_worker)


def named(slug: str) -> Answers:
    """Raises KeyError."""
    return {phase.slug: phase for phase in ALL}[slug]


def title(slug: str) -> str:
    return f"phase {ALL.index(named(slug)) + 1}: {slug}"


def first(store: str) -> Answers:
    """The first phase of the story with this store: the one that is compared with the store's raw limit."""
    return next(phase for phase in KEEPING if phase.store == store)


def of(timelines: Timelines, slug: str) -> Answers:
    """Of a phase that runs, which need not be one of ours."""
    return answers(type(timelines.phases[slug]))


# Delivering


async def fan_out(timelines: Timelines, slug: str, status: StatusRow) -> None:
    """What the poster or the worker does for one status, in this process."""
    after = await timelines.phases[slug].fan_out(status, None)
    while after:
        after = await timelines.phases[slug].fan_out(status, after)


async def deliver_only(
    timelines: Timelines, slugs: Sequence[str], *, read: str | None = None, anew: bool = False
) -> None:
    """Switch to these, and wait until the grace of what was switched on is over, in all processes.

    `anew`: what was kept before is forgotten.
    """
    stores = {slug: store for slug in slugs if (store := timelines.phases[slug].keeps)}
    await timelines.switch(read=read, delivering=list(stores))
    if anew:
        await timelines.restart()
    for store in stores.values():
        while True:
            if timelines.settings.readable(await timelines.settings.fresh(), store):
                break
            await asyncio.sleep(POLL_S)
    await asyncio.sleep(timelines.stack.config.settings_age_s)  # the other processes' copies


# What is kept


async def container(timelines: Timelines, slug: str) -> Container | None:
    """Where the phase keeps timelines; None for one that keeps none or does not deliver."""
    store = timelines.phases[slug].keeps
    return (await timelines.settings.current()).current(store) if store else None


async def kept_list(timelines: Timelines, slug: str, reader: ObjectId, n: int) -> Slice | None:
    """What is kept for the reader, the newest `n`; None when nothing is."""
    phase, where = timelines.phases[slug], await container(timelines, slug)
    if where is None:
        return None
    assert isinstance(phase, Push)
    _, part = await phase.store.read(where, reader, LAST_ID, n, (), False)
    return part


async def forget(timelines: Timelines, slug: str, readers: Sequence[ObjectId]) -> None:
    """What is kept for these readers has expired, and this process remembers nothing of them."""
    phase, where = timelines.phases[slug], await container(timelines, slug)
    assert isinstance(phase, Push)
    assert where, "it delivers"
    for reader in readers:
        await phase.store.forget(where, reader)
        phase.memory.forget(reader)


async def forget_active(stack: Stack, reader: ObjectId) -> None:
    """The reader has been away for long."""
    await stack.db[ACTIVE].delete_one({"_id": reader})


async def last_recipient(
    timelines: Timelines, slug: str, author: ObjectId, followers: set[ObjectId]
) -> ObjectId | None:
    """Whom the author's statuses are delivered to last."""
    if not of(timelines, slug).active_only:
        return max(followers, default=None)
    active = {"authors": author, "until": {"$gte": timelines.stack.clock.now()}}
    last = await timelines.stack.db[ACTIVE].find_one(active, {"_id": 1}, sort=[("_id", -1)])
    return last["_id"] if last else None


async def entries_collection(timelines: Timelines) -> str:
    """Where the entries are, for the raw read of the same."""
    where = await container(timelines, first(ENTRIES).slug)
    assert where, "it delivers"
    return entries_name(where.since)


async def entries_size(timelines: Timelines, slug: str) -> tuple[int, int]:
    """Uncompressed bytes and entries of a store in MongoDB; no bytes on the stand-in."""
    where, db = await container(timelines, slug), timelines.stack.db
    assert where, "it delivers"
    entries = entries_name(where.since)
    if is_stand_in(db):
        return 0, await db[entries].count_documents({})
    stats = [await db.command("collStats", name) for name in (entries, floors_name(where.since))]
    return sum(int(each.get("size", 0)) for each in stats), int(stats[0]["count"])


async def list_keys(timelines: Timelines, readers: Sequence[ObjectId]) -> tuple[list[str], str]:
    """Where these readers' lists are in Memcached; and for keys of the same length that nobody uses, what stands
    before the reader's id.
    """
    where = await container(timelines, first(LISTS).slug)
    assert where, "it delivers"
    unused = "raw:" + key(where, FIRST_ID).removesuffix(str(FIRST_ID))[4:]
    return [key(where, reader) for reader in readers], unused


def list_value(stack: Stack, ids: int) -> bytes:
    """A list of so many ids, as it is in Memcached."""
    expires_at_ms = int((stack.clock.now().timestamp() + stack.config.timeline_ttl_s) * 1000)
    return Value(LIST, [ObjectId().binary for _ in range(ids)], FIRST_ID.binary, expires_at_ms=expires_at_ms).packed()
