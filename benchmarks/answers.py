"""Questions of the benchmarks to phases and their stores. No other file of theirs knows how stores are made."""

import asyncio
from collections.abc import Sequence

from bson import ObjectId

from app.clock import FIRST_ID, LAST_ID
from app.models import SETTINGS, StatusRow
from app.stack import Stack
from app.stack.mongodb.find import together
from app.stack.mongodb.stand_in import is_stand_in
from app.stack.sorted_sets import LIST, PLACEHOLDER, Trailer
from phases import PHASES
from phases.base import Phase
from phases.home.candidates import Slice
from phases.keeping.activity import ACTIVE
from phases.keeping.entries import Entries, entries_name, floors_name
from phases.keeping.lists import LIST as A_LIST
from phases.keeping.lists import Lists, Value, key
from phases.keeping.sorted_sets import SortedSets
from phases.keeping.store import Container, Place
from phases.p2_push import put_on_timelines
from phases.pulling.author import PAGES, POSTS, READS
from phases.timelines import PhaseConsumer, Timelines

POLL_S = 0.02
AT_ONCE = 8  # sets that are made


def in_worker(phase: Phase) -> bool:
    return bool(phase.carrier and phase.carrier.in_worker)


def in_memory(phase: Phase) -> bool:
    return bool(phase.store and phase.store.in_memory)


def active_only(phase: Phase) -> bool:
    return bool(phase.recipients and phase.recipients.active_only)


def kept_in(store: str) -> Phase:
    """Return the first phase of the story with this store: the one that is compared with the store's raw limit."""
    return next(phase for phase in PHASES if phase.store and phase.store.name == store)


KEEPING = tuple(phase for phase in PHASES if phase.store)
IN_WORKER = tuple(phase for phase in PHASES if in_worker(phase))
ASKING, ENTRIES, LISTS, SETS = PHASES[0], kept_in(Entries.name), kept_in(Lists.name), kept_in(SortedSets.name)
MERGING = next(phase for phase in PHASES if phase.pulls)


def title(phase: Phase) -> str:
    return f"phase {PHASES.index(phase) + 1}: {phase.slug}"


# Delivering


async def fan_out(timelines: Timelines, phase: Phase, author: ObjectId) -> ObjectId:
    """Do in this process what the poster or the worker does for one status, and return its id."""
    consumer = timelines.outbox.consumers[phase.slug]
    assert isinstance(consumer, PhaseConsumer)
    status = StatusRow(ObjectId(), author, "", "followers")
    after = await put_on_timelines(consumer.delivery, status, None)
    while after:
        after = await put_on_timelines(consumer.delivery, status, after)
    return status.id


async def deliver_only(
    timelines: Timelines, slugs: Sequence[str], *, read: str | None = None, anew: bool = False
) -> None:
    """Switch to these phases, and wait until the grace of what was switched on is over, in all processes.

    `anew`: what was kept before is forgotten.
    """
    kept = {slug: keeps for slug in slugs if (keeps := timelines.phases[slug].keeps)}
    await timelines.change(read=read, delivering=list(kept))
    if anew:
        await timelines.restart()
    for keeps in kept.values():
        while True:
            if timelines.switch.readable(await timelines.switch.fresh(), keeps):
                break
            await asyncio.sleep(POLL_S)
    await asyncio.sleep(timelines.stack.config.settings_age_s)  # the other processes' copies


async def owed(timelines: Timelines, slug: str) -> int:
    """Count the statuses that the phase still has to deliver, or never will, since it asks for them."""
    pending, pulls = await timelines.outbox.count(slug), timelines.phases[slug].pulls
    return pending + (await timelines.stack.db["statuses"].count_documents({"pulled": True}) if pulls else 0)


# What is kept


async def container(timelines: Timelines, slug: str) -> Container | None:
    """Return the container in which the phase keeps timelines; None if it keeps none or does not deliver."""
    keeps = timelines.phases[slug].keeps
    return (await timelines.switch.current()).current(keeps) if keeps else None


async def kept_list(timelines: Timelines, slug: str, reader: ObjectId, n: int) -> Slice | None:
    """Return the newest `n` of what is kept for the reader; None when nothing is."""
    kept, where = timelines.kept_by(slug), await container(timelines, slug)
    if kept is None or where is None:
        return None
    place = Place(where, reader, LAST_ID, n)
    finds = kept.store.finds(place)
    return await kept.store.read(place, await together(timelines.stack.db, **finds) if finds else {})


async def holds(timelines: Timelines, slug: str, reader: ObjectId, status: ObjectId) -> bool:
    """Return whether what the phase keeps for the reader holds the status."""
    kept, where = timelines.kept_by(slug), await container(timelines, slug)
    return bool(kept and where and await kept.store.holds(where, reader, status))


async def forget(timelines: Timelines, slug: str, readers: Sequence[ObjectId]) -> None:
    """Forget what is kept for these readers, as if it had expired, and what this process remembers of them."""
    kept = timelines.kept_by(slug)
    assert kept, "it delivers"
    for reader in readers:
        await kept.forget(reader)
        timelines.forget(reader)


async def forget_active(stack: Stack, reader: ObjectId) -> None:
    """Forget that the reader was here, as if they had been away for long."""
    await stack.db[ACTIVE].delete_one({"_id": reader})


async def nobody_is_active(stack: Stack) -> None:
    """Forget that anybody was here, as if all had been away for long."""
    await stack.db[ACTIVE].delete_many({})


async def count_anew(timelines: Timelines, *, pages: int = 0, posts: int = 0) -> None:
    """Begin anew to count how often people read and post, by which phase 6 decides: with so many of the last hour."""
    authors = timelines.pulls.authors
    authors.forget()
    await timelines.stack.db[SETTINGS].delete_one({"_id": READS})
    authors.count(PAGES, pages)
    authors.count(POSTS, posts)
    await authors.store_counts()


async def last_active(timelines: Timelines, author: ObjectId) -> ObjectId | None:
    """Return the active reader to whom the author's statuses are delivered last; None where none is active."""
    active = {"authors": author, "until": {"$gte": timelines.stack.clock.now()}}
    last = await timelines.stack.db[ACTIVE].find_one(active, {"_id": 1}, sort=[("_id", -1)])
    return last["_id"] if last else None


async def entries_collection(timelines: Timelines) -> str:
    """Return the name of the collection of entries, for the raw read of the same entries."""
    where = await container(timelines, ENTRIES.slug)
    assert where, "it delivers"
    return entries_name(where)


async def entries_size(timelines: Timelines, slug: str) -> tuple[int, int]:
    """Return uncompressed bytes and entries of a store in MongoDB; 0 bytes on the stand-in."""
    where, db = await container(timelines, slug), timelines.stack.db
    assert where, "it delivers"
    entries = entries_name(where)
    if is_stand_in(db):
        return 0, await db[entries].count_documents({})
    stats = [await db.command("collStats", name) for name in (entries, floors_name(where))]
    return sum(int(each.get("size", 0)) for each in stats), int(stats[0]["count"])


async def sets_size(timelines: Timelines, slug: str, readers: Sequence[ObjectId]) -> int | None:
    """Return the bytes of these readers' sets in Redis; None for a phase that keeps something else."""
    where = await container(timelines, slug)
    if where is None or timelines.phases[slug].store is not SETS.store:
        return None
    return sum([await timelines.stack.sets.bytes_of(where.name, reader) for reader in readers])


async def keep_sets(timelines: Timelines, readers: Sequence[ObjectId], ids: int) -> None:
    """Keep a set of so many ids for each reader."""
    where, stack = await container(timelines, SETS.slug), timelines.stack
    assert where, "it delivers"
    at, ttl_ms = where.name, stack.config.timeline_ttl_s * 1000
    until_ms = int(stack.clock.now().timestamp() * 1000) + ttl_ms

    async def keep(reader: ObjectId) -> None:
        kept = Trailer(LIST, FIRST_ID.binary, ObjectId().binary, until_ms)
        await stack.sets.lease(at, reader, kept._replace(state=PLACEHOLDER), ttl_ms, until_ms)
        await stack.sets.fill(at, reader, kept, ttl_ms, [ObjectId().binary for _ in range(ids)], stack.config.cap)

    for first in range(0, len(readers), AT_ONCE):
        await asyncio.gather(*map(keep, readers[first : first + AT_ONCE]))


async def list_keys(timelines: Timelines, slug: str, readers: Sequence[ObjectId]) -> tuple[list[str], str]:
    """Return the keys of these readers' lists of a phase in Memcached, and a prefix for keys that nobody uses.

    With a reader's id behind it the prefix makes a key of the same length.
    """
    where = await container(timelines, slug)
    assert where, "it delivers"
    prefix, unused = (
        timelines.stack.config.memcached_prefix,
        "raw:" + key(where, FIRST_ID).removesuffix(str(FIRST_ID))[4:],
    )
    return [prefix + key(where, reader) for reader in readers], prefix + unused


def list_value(stack: Stack, ids: int) -> bytes:
    """Return a list of so many ids, as it is in Memcached."""
    expires_at_ms = int((stack.clock.now().timestamp() + stack.config.timeline_ttl_s) * 1000)
    return Value(A_LIST, [ObjectId().binary for _ in range(ids)], FIRST_ID.binary, expires_at_ms=expires_at_ms).packed()
