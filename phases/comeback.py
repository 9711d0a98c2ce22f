"""The return of a reader for whom nothing is kept: what the query finds for them."""

import asyncio
from collections.abc import Sequence

from bson import ObjectId

from app.access import Entry
from app.clock import FIRST_ID, LAST_ID
from app.edges import EdgeMemory, Following
from app.stack import Stack
from phases.home.candidates import Slice
from phases.home.newest import ID_ONLY, Newest, paced
from phases.keeping.store import Recent
from phases.p1_query import written_by


class Comeback:
    """The return of one reader. `followees`: whom they followed, looked up no longer than a grace before
    `began_s`, in seconds of the clock's monotonic time.

    `head` is the beginning of their page, which also shows how far back the rest may reach. It is queried once, when it
    is first needed.
    """

    def __init__(
        self,
        stack: Stack,
        memory: EdgeMemory,
        reader: ObjectId,
        followees: list[ObjectId],
        began_s: float,
        before: ObjectId,
        n: int,
    ) -> None:
        self.reader, self.followees, self.began_s = reader, followees, began_s
        self._db, self._cap, self._memory = stack.db, stack.config.cap, memory
        self._before, self._n = before, n
        self._head: asyncio.Future[list[Entry]] | None = None

    async def head(self) -> Slice:
        entries = await self._entries()
        return Slice(entries, entries[-1].id if len(entries) == self._n else FIRST_ID, whole=True)

    def _entries(self) -> asyncio.Future[list[Entry]]:
        if self._head is None:
            newest = Newest(self._db, written_by, [self.reader, *self.followees])
            self._head = asyncio.ensure_future(newest.older_than(self._before, self._n))
        return self._head

    async def recent(self, authors: Sequence[ObjectId] | None = None) -> Recent:
        """Return what belongs into a rebuilt timeline, queried now.

        With `authors`: the ids of what these have written. Without: ids and authors of what those have written whom the
        reader follows at this moment.
        """
        if authors is None:
            following_ids = await Following(self._db, self.reader, self._memory).ids()
            newest = Newest(self._db, written_by, [self.reader, *following_ids])
        else:
            newest = Newest(self._db, written_by, [self.reader, *authors], ID_ONLY)
        reach = paced([entry.id for entry in await self._entries()], self._cap)
        rows = await newest.packed(LAST_ID, self._cap, reach)
        return Recent(rows, ObjectId(rows[-1][:12]) if len(rows) == self._cap else FIRST_ID)
