"""Scenes: small worlds for one measurement each, such as an author with many followers, or a reader of many authors.

What a page has to show, and who has to have what was delivered, is known of them: `check_…` raise WrongAnswer.
"""

import asyncio
from collections.abc import AsyncIterator, Iterator, Sequence
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass
from datetime import timedelta
from typing import Any

from bson import ObjectId

from app.clock import id_at
from app.demo.seed import insert
from app.models import Follow, Status, User
from benchmarks import answers, limits
from benchmarks.limits import RawDatabase, RawMemcached
from benchmarks.rig import BenchRefused, Rig
from benchmarks.subject import WrongAnswer
from phases.base import Phase
from phases.delivering.away import as_if_here

AGO_S = 3_600  # how old the newest status of a scene is
FEW = 5


async def everything_delivers(rig: Rig) -> None:
    """Switch on all phases that keep timelines."""
    keeping = [phase.slug for phase in answers.KEEPING]
    await answers.deliver_only(rig.timelines, keeping, read=answers.ASKING.slug)


async def people(rig: Rig, name: str, count: int) -> list[ObjectId]:
    now, ids = rig.stack.clock.now(), [ObjectId() for _ in range(count)]
    fields = {"name": name, "admin": False, "created_at": now}
    await insert(rig.stack, User, ({"_id": id, "handle": f"{name[:5]}_{id}", **fields} for id in ids), count)
    return ids


@dataclass(frozen=True)
class Star:
    """An author and their followers. `last`: the last of the active ones, in the order of deliveries."""

    author: ObjectId
    followers: list[ObjectId]
    last: ObjectId


async def star(rig: Rig, followers: int, active: int, readers: Sequence[ObjectId] | None = None) -> Star:
    """Make an author and their followers, who are taken from `readers` if these are given.

    The active ones are marked; `listed` makes their lists.
    """
    (author,) = await people(rig, "author", 1)
    who = list(readers[:followers]) if readers else [ObjectId() for _ in range(followers)]
    await insert(rig.stack, Follow, (_edge(reader, author) for reader in who), followers)
    await as_if_here(rig.stack, who[:active], author)
    return Star(author, who, max(who[:active]))


def _edge(follower: ObjectId, followee: ObjectId) -> dict[str, Any]:
    return {"_id": ObjectId(), "follower": follower, "followee": followee}


@contextmanager
def raw(rig: Rig) -> Iterator[RawDatabase]:
    """Yield the rig's database for the raw limits, past all that is ours. Raises BenchRefused."""
    if not rig.stack.addresses.mongodb:
        raise BenchRefused("the raw limits need a real MongoDB")
    with limits.connected(rig.stack.addresses.mongodb, rig.stack.db.name) as db:
        yield db


def memcached_node(rig: Rig) -> str:
    """Return the address of the Memcached node for the raw limits. Raises BenchRefused."""
    if not rig.stack.addresses.memcached:
        raise BenchRefused("the raw limits need a real Memcached")
    if len(rig.stack.addresses.memcached) > 1:
        raise BenchRefused("the raw limits are measured on one Memcached node: name one in FEEDLAB_MEMCACHED")
    return rig.stack.addresses.memcached[0]


@asynccontextmanager
async def listed(
    rig: Rig, readers: Sequence[ObjectId], ids: int = 5, slug: str = answers.LISTS.slug
) -> AsyncIterator[tuple[RawMemcached, str]]:
    """Keep two lists of a few ids for each reader during the block: where the phase looks for it, and for the raw loop.

    Yields the raw loop's connection, and what stands before the reader's id in its keys.
    """
    node = memcached_node(rig)
    keys, unused = await answers.list_keys(rig.timelines, slug, readers) if readers else ([], "")
    keys += [f"{unused}{reader}" for reader in readers]
    with RawMemcached.connected(node) as raw:
        raw.set_all(keys, answers.list_value(rig.stack, ids))
        yield raw, unused
        raw.delete_all(keys)


@asynccontextmanager
async def kept_few(rig: Rig, phase: Phase, readers: Sequence[ObjectId]) -> AsyncIterator[None]:
    """Keep FEW ids for each of these readers during the block, where the phase keeps timelines in memory."""
    if phase.store is answers.SETS.store:
        await answers.keep_sets(rig.timelines, readers, FEW)
        yield
        await answers.forget(rig.timelines, phase.slug, readers)
    elif answers.in_memory(phase):
        async with listed(rig, readers, FEW, slug=phase.slug):
            yield
    else:
        yield


@asynccontextmanager
async def forced(rig: Rig, phase: Phase, authors: Sequence[ObjectId], *, pulled: bool) -> AsyncIterator[None]:
    """Force these authors' statuses to be pulled, or delivered, during the block, whatever the rule says."""
    if phase.pulls:
        await _force(rig, authors, pulled)
    yield
    if phase.pulls:
        await _force(rig, authors, None)


async def _force(rig: Rig, authors: Sequence[ObjectId], pulled: bool | None) -> None:
    for author in authors:
        await rig.timelines.force(author, pulled)
    await asyncio.sleep(rig.stack.config.settings_age_s)


async def authors(rig: Rig, count: int, each: int) -> list[ObjectId]:
    """Make authors with `each` statuses over the last month, as many as other people's traffic needs."""
    ids = await people(rig, "author", count)
    now = rig.stack.clock.now()

    def statuses() -> Iterator[dict[str, Any]]:
        total = count * each
        for number in range(total):
            moment = now - timedelta(seconds=AGO_S + (total - number) * 30 * 86_400 / total)
            yield {
                "_id": id_at(moment),
                "user_id": ids[(number * 7919) % count],
                "text": "a status of ordinary length, as people write them on an ordinary day",
                "audience": "followers",
                "deleted": False,
            }

    await insert(rig.stack, Status, statuses(), count * each)
    return ids


async def follower_of(rig: Rig, followees: Sequence[ObjectId]) -> ObjectId:
    (reader,) = await people(rig, "reader", 1)
    await insert(rig.stack, Follow, (_edge(reader, followee) for followee in followees), len(followees))
    return reader


# What is right


async def newest(rig: Rig, reader: ObjectId, limit: int) -> list[ObjectId]:
    """Return what the reader's first page has to show. In a scene everybody shows everything to all who follow them,
    and nothing is deleted.
    """
    db = rig.stack.db
    edges = await db["follows"].find({"follower": reader}, {"followee": 1}).to_list(None)
    theirs = {"user_id": {"$in": [reader, *(edge["followee"] for edge in edges)]}}
    found = await db["statuses"].find(theirs, {"_id": 1}).sort("_id", -1).limit(limit).to_list(None)
    return [status["_id"] for status in found]


def check(slug: str, reader: ObjectId, shown: Sequence[ObjectId], due: Sequence[ObjectId]) -> None:
    if list(shown) != list(due):
        raise WrongAnswer(
            f"{slug}: the page of reader {reader} shows {len(shown)} statuses, of which {len({*shown} & {*due})} are "
            f"among the {len(due)} that are due"
        )


async def check_page(rig: Rig, reader: ObjectId, slug: str, limit: int) -> None:
    page = await rig.timelines.page(reader, phase=slug, limit=limit)
    check(slug, reader, [status.id for status in page.statuses], await newest(rig, reader, limit))


async def check_kept(rig: Rig, phase: Phase, star: Star, status: ObjectId) -> None:
    """Look for a status that was delivered at what is kept for the last follower, where anything is kept."""
    if phase.store and not await answers.holds(rig.timelines, phase.slug, star.last, status):
        raise WrongAnswer(f"{phase.slug}: {status} was delivered to all followers, and {star.last} does not have it")


async def check_fan_out(rig: Rig, phase: Phase, star: Star) -> None:
    """Deliver one more status, and look for it."""
    await check_kept(rig, phase, star, await answers.fan_out(rig.timelines, phase, star.author))
