"""The figures of an author whose statuses may be pulled, and of their readers: counted, and remembered for a while."""

from collections import Counter
from dataclasses import dataclass
from datetime import datetime, timedelta

from bson import ObjectId
from cachetools import TTLCache

from app.models import SETTINGS
from app.stack import Stack
from app.stack.cost import uncounted
from app.stack.mongodb.find import Find, rows
from phases.keeping.activity import ACTIVE

READS = "reads"  # a document of the settings: pages and posts by the hour, of all processes
PAGES, POSTS = "hours", "posts"  # its fields; pages were all that was counted when the first got its name
COUNTED = (PAGES, POSTS)
POSTS_NEEDED = 200  # of the last day; of fewer nothing is concluded
HOURS = 24  # that the figures are about, or fewer where less is known
AGE_S = 60.0
REMEMBERED = 10_000  # authors
POSTS_COUNTED = 10_000


@dataclass(frozen=True)
class Author:
    """The figures of an author. `active_followers`: counted up to one more than `pull_beyond`.

    `pages_per_reader_per_day`: pages that an active reader of the site asks for on average; None while nothing is known
    of that.
    """

    active_followers: int
    posts_per_day: float
    pages_per_reader_per_day: float | None


@dataclass(frozen=True)
class DayCost:
    """The processor time of a day, in microseconds: of delivering an author's statuses, and of asking for them; None
    while nobody knows how often people read.
    """

    delivered_us: float
    asked_us: float | None


class Authors:
    """The figures of authors, as one process counts and remembers them."""

    def __init__(self, stack: Stack) -> None:
        self._db, self._config, self._clock = stack.db, stack.config, stack.clock
        self._known: TTLCache[ObjectId, Author] = TTLCache(REMEMBERED, AGE_S, timer=stack.clock.monotonic)
        self._untold: Counter[tuple[str, datetime]] = Counter()  # pages and posts by the hour
        self._counts: TTLCache[str, tuple[int, int]] = TTLCache(1, AGE_S, timer=stack.clock.monotonic)

    async def known(self, author: ObjectId) -> Author:
        """Return the figures of an author, at most AGE_S seconds old."""
        if (found := self._known.get(author)) is None:
            with uncounted():
                found = self._known[author] = await self.counted(author)
        return found

    async def counted(self, author: ObjectId) -> Author:
        """Count the figures of an author as they are now."""
        now = self._clock.now()
        pages, _, hours = await self._counts_of_late(now)
        since = {
            "user_id": author,
            "_id": {"$gte": ObjectId.from_datetime(now - timedelta(hours=hours))},
        }
        active = {"authors": author, "until": {"$gte": now}}
        bound = self._config.pull_beyond + 1
        followers = await self._db[ACTIVE].count_documents(active, limit=bound)
        posts = await self._db["statuses"].count_documents(since, limit=POSTS_COUNTED)
        reads = pages / max(1, await self._readers()) if pages else None
        return Author(
            active_followers=followers,
            posts_per_day=posts * 24 / hours,
            pages_per_reader_per_day=None if reads is None else reads * 24 / hours,
        )

    def forget(self) -> None:
        """Forget what this process knows."""
        self._known.clear()
        self._counts.clear()
        self._untold.clear()

    async def _readers(self) -> int:
        return await self._db[ACTIVE].estimated_document_count()

    async def _counts_of_late(self, now: datetime) -> tuple[int, int, float]:
        """Return the pages and posts of the last day, and the hours that these figures are about."""
        found = await rows(self._db, Find(SETTINGS, {"_id": READS}, ("since", *COUNTED), 1))
        if not found:
            return 0, 0, HOURS
        begin = _hour(now - timedelta(hours=HOURS))
        pages, posts = (sum(n for hour, n in found[0].get(what, {}).items() if hour > begin) for what in COUNTED)
        known_h = (now - found[0]["since"]).total_seconds() / 3_600
        return pages, posts, min(HOURS, max(1.0, known_h))

    async def pages_a_post(self) -> float | None:
        """Return the pages for each post, of everybody during the last day, at most AGE_S seconds old; None while too
        little is known.
        """
        if (found := self._counts.get(READS)) is None:
            with uncounted():
                pages, posts, _ = await self._counts_of_late(self._clock.now())
            found = self._counts[READS] = pages, posts
        pages, posts = found
        return pages / posts if posts >= POSTS_NEEDED else None

    def count(self, what: str, n: int = 1) -> None:
        """Count pages or posts. Whoever reads or posts waits for nothing: `store_counts` comes later."""
        self._untold[what, self._clock.now().replace(minute=0, second=0, microsecond=0)] += n

    async def store_counts(self) -> None:
        """Store what was counted here since the last call. It is lost where a server is away: it is a statistic."""
        counts, self._untold = self._untold, Counter()
        if counts:
            by_hour = {f"{what}.{_hour(hour)}": n for (what, hour), n in counts.items()}
            change = {"$inc": by_hour, "$min": {"since": self._clock.now()}}
            await self._db[SETTINGS].update_one({"_id": READS}, change, upsert=True)

    async def sweep(self) -> None:
        """Remove the counts of hours that nobody asks for any more."""
        found = await rows(self._db, Find(SETTINGS, {"_id": READS}, COUNTED, 1))
        before = _hour(self._clock.now() - timedelta(hours=2 * HOURS))
        told = [(what, hour) for row in found for what in COUNTED for hour in row.get(what, {})]
        if over := {f"{what}.{hour}": "" for what, hour in told if hour < before}:
            await self._db[SETTINGS].update_one({"_id": READS}, {"$unset": over})


def _hour(moment: datetime) -> str:
    return f"{moment:%Y%m%d%H}"
