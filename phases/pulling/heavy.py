"""The heavy authors: those with so many active followers that they are weighed before they post."""

from datetime import datetime, timedelta

from bson import ObjectId
from cachetools import LRUCache

from app.models import HeavyAuthor
from app.stack import Stack
from app.stack.cost import uncounted

HEAVY = HeavyAuthor.Settings.name
HEAVY_S = 90 * 86_400  # who posts more seldom is forgotten: their next status is delivered, and shows it again
NOTED_REMEMBERED = 100_000


def heavy_until(now: datetime) -> datetime:
    """Return until when an author counts as heavy who has been shown to be so now."""
    return now + timedelta(seconds=HEAVY_S)


class HeavyAuthors:
    """The heavy authors, as deliveries note them. A post reads them with the markers (`phases.pulling.markers`)."""

    def __init__(self, stack: Stack) -> None:
        self._db, self._clock = stack.db, stack.clock
        self._noted: LRUCache[ObjectId, datetime] = LRUCache(NOTED_REMEMBERED)

    async def note(self, author: ObjectId) -> None:
        """Note that a large delivery to the author's active followers has shown them to be heavy. It is written once an
        hour.
        """
        until = heavy_until(self._clock.now()).replace(minute=0, second=0, microsecond=0)
        if self._noted.get(author) != until:
            with uncounted():
                await self._db[HEAVY].update_one({"_id": author}, {"$max": {"heavy_until": until}}, upsert=True)
            self._noted[author] = until
