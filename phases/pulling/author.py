"""What is known of an author whose statuses may be pulled, and of their readers: counted, and remembered a while."""

from collections import Counter
from contextlib import suppress
from dataclasses import dataclass
from datetime import datetime, timedelta

from bson import ObjectId
from cachetools import TTLCache

from app.clock import id_floor
from app.stack import UNAVAILABLE, Stack
from app.stack.cost import uncounted
from app.stack.mongodb.find import Find, rows
from phases.keeping.activity import ACTIVE

SETTINGS = "settings"
READS = "reads"  # a document of it: pages by the hour, of all processes
PAGES_AT_ONCE = 200  # are counted in one command
HOURS = 24  # that figures are about, or fewer where less is known
AGE_S = 60.0
REMEMBERED = 10_000  # authors
POSTS_COUNTED = 10_000


@dataclass(frozen=True)
class Author:
    """`active_followers`: counted up to one more than the largest fan-out. `reads_per_day`: pages that an active reader
    asks for on average; None while nothing is known of that.
    """

    active_followers: int
    posts_per_day: float
    reads_per_day: float | None


@dataclass(frozen=True)
class Day:
    """Processor time of a day, in microseconds: of delivering an author's statuses, and of asking for them; None while
    nobody knows how often people read.
    """

    delivered_us: float
    asked_us: float | None


class Authors:
    """One per process."""

    def __init__(self, stack: Stack) -> None:
        self._db, self._config, self._clock = stack.db, stack.config, stack.clock
        self._known: TTLCache[ObjectId, Author] = TTLCache(REMEMBERED, AGE_S, timer=stack.clock.monotonic)
        self._pages: Counter[str] = Counter()  # by the hour, not yet told

    async def known(self, author: ObjectId) -> Author:
        """At most AGE_S old."""
        if (found := self._known.get(author)) is None:
            with uncounted():
                found = self._known[author] = await self.counted(author)
        return found

    async def counted(self, author: ObjectId) -> Author:
        """Now."""
        now = self._clock.now()
        pages, hours = await self._pages_of_late(now)
        since = {
            "user_id": author,
            "_id": {"$gte": id_floor(now - timedelta(hours=hours, seconds=1))},
        }
        active = {"authors": author, "until": {"$gte": now}}
        bound = self._config.pull_beyond + 1
        followers = await self._db[ACTIVE].count_documents(active, limit=bound)
        posts = await self._db["statuses"].count_documents(since, limit=POSTS_COUNTED)
        reads = pages / max(1, await self._readers()) if pages else None
        return Author(
            active_followers=followers,
            posts_per_day=posts * 24 / hours,
            reads_per_day=None if reads is None else reads * 24 / hours,
        )

    async def _readers(self) -> int:
        return await self._db[ACTIVE].estimated_document_count()

    async def _pages_of_late(self, now: datetime) -> tuple[int, float]:
        """Pages of the last day, and the hours that these figures are about."""
        found = await rows(self._db, Find(SETTINGS, {"_id": READS}, ("since", "hours"), 1))
        if not found:
            return 0, HOURS
        hours = {hour: pages for hour, pages in found[0]["hours"].items() if hour > _hour(now - timedelta(hours=HOURS))}
        known_h = (now - found[0]["since"]).total_seconds() / 3_600
        return sum(hours.values()), min(HOURS, max(1.0, known_h))

    async def one_read(self) -> None:
        """A page was asked for. Told now and then, many at once: a process that ends takes a few with it."""
        now = self._clock.now()
        self._pages[_hour(now)] += 1
        if self._pages.total() >= PAGES_AT_ONCE:
            pages, self._pages = self._pages, Counter()
            change = {"$inc": {f"hours.{hour}": n for hour, n in pages.items()}, "$min": {"since": now}}
            with uncounted(), suppress(*UNAVAILABLE):  # no page is refused because of it
                await self._db[SETTINGS].update_one({"_id": READS}, change, upsert=True)

    async def sweep(self) -> None:
        """Hours that nobody asks for any more."""
        found = await rows(self._db, Find(SETTINGS, {"_id": READS}, ("hours",), 1))
        before = _hour(self._clock.now() - timedelta(hours=2 * HOURS))
        if over := {f"hours.{hour}": "" for row in found for hour in row["hours"] if hour < before}:
            await self._db[SETTINGS].update_one({"_id": READS}, {"$unset": over})


def _hour(moment: datetime) -> str:
    return f"{moment:%Y%m%d%H}"
