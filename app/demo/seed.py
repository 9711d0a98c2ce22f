"""Seeding an empty database: people, follow edges, circles, and statuses over a past period.

Documents go in as raw batches, past Beanie, in the shapes of `app.models`. Nothing is delivered: at the end every phase
starts with nothing kept, and asks phase 1 below that moment (rule 3).
"""

import asyncio
import re
import time
from bisect import bisect
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from itertools import accumulate, islice
from math import sqrt
from random import Random
from typing import Any
from unicodedata import normalize

from app.accounts import HASHER, PASSWORD_LENGTHS
from app.clock import id_at
from app.demo.graph import Graph
from app.demo.progress import Progress, silent
from app.demo.words import FIRST_NAMES, LAST_NAMES, pick, sentence
from app.errors import Refused
from app.models import COLLECTIONS, HOME, Audience, Base, CircleMember, Follow, Status, User, search_words
from app.stack import Stack
from app.stack.mongodb.write import housekeeping, prepare
from phases.timelines import Timelines

BATCH = 5_000  # documents of one insert
ERASE_SLICE = 5_000  # documents of one delete: a step of a second or so, also where each is in many keys of an index
BY_FOLLOWEE = "followee_1_follower_1"
MAX_STATUSES = 10_000_000
MAX_DAYS = 3_650
NEWEST_S = 60  # the newest seeded status is older: below every floor that a running phase may set meanwhile

HANDLE_LENGTH = 30
CIRCLE_OWNERS = 10  # every tenth person has a circle
CIRCLE_SIZE = 8  # at most, from the owner's followers
MUTUALS_SHARE = 0.05
CIRCLE_SHARE = 0.02

Document = dict[str, Any]


class SeedRefused(Refused):
    """The seeding was refused and nothing was written; the text says why and what to do."""


@dataclass(frozen=True)
class SeedReport:
    """A summary of what was written. `handles` are some people to sign in as, the most active first."""

    users: int
    follows: int
    statuses: int
    elapsed_s: float
    handles: tuple[str, ...]


async def seed(
    stack: Stack,
    graph: Graph,
    *,
    statuses: int,
    days: int,
    seed: int,
    password: str | None,
    reset: bool,
    progress: Progress = silent,
) -> SeedReport:
    """Write the graph and `statuses` statuses of the last `days` days.

    `seed` decides names, circles, authors, audiences and texts. `password` becomes everybody's; with None nobody can
    sign in with one. `reset` first erases every account, status and job of ours, and nothing else on these servers.
    Raises SeedRefused when people exist and `reset` is not given, or for a number out of range. An interrupted run
    leaves people behind, so the next one is refused too.
    """
    _check(statuses, days, password)
    started_s = time.perf_counter()
    if reset:
        await _erase(stack, progress)
    elif await stack.db[_collection(User)].find_one({}, {"_id": True}):
        raise SeedRefused(
            "There are people in this database already (an interrupted seeding leaves some, too). "
            "To erase everything in it and seed it anew, add --reset."
        )
    world = World(graph, seed, stack.clock.now(), days)
    password_hash = None if password is None else await asyncio.to_thread(HASHER.hash, password)
    await insert(stack, User, world.users(password_hash), len(graph.people), progress)
    await insert_follows(stack, world.follows(), len(graph.followers), progress)
    await insert(stack, CircleMember, world.circles(), sum(map(len, world.circle_of.values())), progress)
    await insert(stack, Status, world.statuses(statuses), statuses, progress)
    await _forget_what_is_kept(stack)
    return SeedReport(
        users=len(graph.people),
        follows=len(graph.followers),
        statuses=statuses,
        elapsed_s=time.perf_counter() - started_s,
        handles=tuple(world.handles[person] for person in world.by_activity[:5]),
    )


def _check(statuses: int, days: int, password: str | None) -> None:
    shortest, longest = PASSWORD_LENGTHS
    if not 0 <= statuses <= MAX_STATUSES:
        raise SeedRefused(f"statuses must be from 0 to {MAX_STATUSES:,}, not {statuses:,}")
    if not 1 <= days <= MAX_DAYS:
        raise SeedRefused(f"days must be from 1 to {MAX_DAYS:,}, not {days:,}")
    if password is not None and not shortest <= len(password) <= longest:
        raise SeedRefused(f"a password has {shortest} to {longest} characters")


async def _erase(stack: Stack, progress: Progress) -> None:
    """Empty the database. People go last, so that one left half erased is still refused without `reset`."""
    kept = [name for name in await stack.db.list_collection_names() if name.startswith(HOME)]
    for name in [*kept, *sorted(COLLECTIONS, key=_collection(User).__eq__)]:
        await empty(stack, name, progress)
    await stack.queue.forget()
    await _forget_what_is_kept(stack)


def _collection(model: type[Base]) -> str:
    name = model.get_settings().name
    assert name
    return name


async def empty(stack: Stack, name: str, progress: Progress = silent) -> None:
    """Delete the documents of a collection, which keeps its indexes and its clustering."""
    collection, done = stack.db[name], 0
    total = await collection.estimated_document_count()
    while True:
        with housekeeping():
            some = await collection.find({}, {"_id": True}).limit(ERASE_SLICE).to_list(None)
            await collection.delete_many({"_id": {"$in": [row["_id"] for row in some]}})
        done += len(some)
        if len(some) < ERASE_SLICE:
            return
        progress(f"erasing {name}", done, total)


async def _forget_what_is_kept(stack: Stack) -> None:
    """Make every phase start anew, in all processes: what they keep lacks the seeded statuses (rule 3)."""
    timelines = await Timelines.open(stack)
    await timelines.restart()


async def insert(
    stack: Stack, model: type[Base], documents: Iterable[Document], total: int, progress: Progress = silent
) -> None:
    """Write raw documents of one model, in batches, past Beanie."""
    name = _collection(model)
    collection = stack.db[name]
    waiting, done = iter(documents), 0
    progress(name, 0, total)
    while batch := list(islice(waiting, BATCH)):
        with housekeeping():
            await collection.insert_many(batch, ordered=False)
        done += len(batch)
        progress(name, done, total)


async def insert_follows(stack: Stack, documents: Iterable[Document], total: int, progress: Progress = silent) -> None:
    """Write the edges of a database that has none, in the order of their followers.

    The index by followee, whose entries come in no order, is made when all are there. After a crash in between the next
    process that opens the database makes it.
    """
    with housekeeping():
        await stack.db[_collection(Follow)].drop_index(BY_FOLLOWEE)
    try:
        await insert(stack, Follow, documents, total, progress)
    finally:
        progress("index by followee", 0, 1)
        with housekeeping():
            await prepare(stack.db)
    progress("index by followee", 1, 1)


class World:
    """The documents of one seeding. Their times depend on the clock, everything else on graph and seed alone."""

    def __init__(self, graph: Graph, seed: int, now: datetime, days: int) -> None:
        self.graph = graph
        self.seed = seed
        self.until = now - timedelta(seconds=NEWEST_S)
        self.since = now - timedelta(days=days)
        self.joined = self.since - timedelta(hours=1)
        self.ids = sorted(id_at(self.joined) for _ in graph.people)  # their counter may begin again in between
        self.handles = handles(graph.people)
        draw = self._draw("activity")
        self.by_activity = sorted(range(len(graph.people)), key=[draw() for _ in graph.people].__getitem__)
        self.circle_of = self._circle_of()

    def _draw(self, what: str) -> Callable[[], float]:
        return Random(f"{self.seed} {what}").random

    def _circle_of(self) -> dict[int, list[int]]:
        """Return the circles of some people: a few of their followers each, by owner."""
        followers: dict[int, list[int]] = {owner: [] for owner in self.by_activity[::CIRCLE_OWNERS]}
        for follower, followee in self.graph.follows():
            if followee in followers:
                followers[followee].append(follower)
        draw = self._draw("circles")
        return {
            owner: sorted({candidates[int(draw() * len(candidates))] for _ in range(1 + int(draw() * CIRCLE_SIZE))})
            for owner, candidates in followers.items()
            if candidates
        }

    def users(self, password_hash: str | None) -> Iterator[Document]:
        draw = self._draw("names")
        for id, handle in zip(self.ids, self.handles, strict=True):
            first, last = pick(draw, FIRST_NAMES), pick(draw, LAST_NAMES)
            own = handle.split("_")[0].capitalize()
            name = f"{own if own in FIRST_NAMES else first} {last}"
            yield {
                "_id": id,
                "handle": handle,
                "name": name,
                "found_by": search_words(handle, name),
                "admin": False,
                "created_at": self.joined,
            } | ({"password_hash": password_hash} if password_hash else {})

    def follows(self) -> Iterator[Document]:
        for follower, followee in self.graph.follows():
            yield {"_id": id_at(self.joined), "follower": self.ids[follower], "followee": self.ids[followee]}

    def circles(self) -> Iterator[Document]:
        for owner, members in self.circle_of.items():
            for member in members:
                yield {"_id": id_at(self.joined), "owner": self.ids[owner], "member": self.ids[member]}

    def statuses(self, count: int) -> Iterator[Document]:
        """Yield statuses in the order of their ids.

        They are evenly spread over the period, each at a random moment of its share.
        """
        draw = self._draw("statuses")
        everybody = _Authors(self.by_activity)
        owners = _Authors([person for person in self.by_activity if person in self.circle_of])
        for number in range(count):
            audience = _audience(draw()) if owners.people else "followers"
            author = (owners if audience == "circle" else everybody).pick(draw)
            moment = self.since + (self.until - self.since) * ((number + draw()) / count)
            yield {
                "_id": id_at(moment),
                "user_id": self.ids[author],
                "text": sentence(draw),
                "audience": audience,
                "deleted": False,
            }


def _audience(number: float) -> Audience:
    if number < CIRCLE_SHARE:
        return "circle"
    return "mutuals" if number < CIRCLE_SHARE + MUTUALS_SHARE else "followers"


class _Authors:
    """People drawn by activity: the person in place k posts in proportion to 1/√k, counted in whole numbers."""

    def __init__(self, people: Sequence[int]) -> None:
        self.people = people
        self._sums = list(accumulate(int(1_000_000 / sqrt(place)) for place in range(1, len(people) + 1)))

    def pick(self, draw: Callable[[], float]) -> int:
        return self.people[bisect(self._sums, int(draw() * self._sums[-1]))]


def handles(labels: Sequence[str]) -> list[str]:
    """Return a different handle for every label: the label itself where it is a valid one, `u17` for the number 17."""
    taken = {label for label in labels if label == _plain(label)}
    numbers: dict[str, int] = {}
    return [label if label in taken else _free(_plain(label), taken, numbers) for label in labels]


def _plain(label: str) -> str:
    ascii_only = normalize("NFKD", label).encode("ascii", "ignore").decode().lower()
    handle = re.sub(r"[^a-z0-9_]+", "_", ascii_only)[:HANDLE_LENGTH].strip("_")
    return f"u{handle}"[:HANDLE_LENGTH] if not handle or handle.isdigit() else handle


def _free(plain: str, taken: set[str], numbers: dict[str, int]) -> str:
    handle = plain
    while handle in taken:
        numbers[plain] = numbers.get(plain, 1) + 1
        suffix = f"_{numbers[plain]}"
        handle = plain[: HANDLE_LENGTH - len(suffix)] + suffix
    taken.add(handle)
    return handle
