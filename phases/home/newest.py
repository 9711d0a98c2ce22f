"""The newest statuses of many authors: what an `$in` of many costs, and how to spare it."""

import asyncio
from collections.abc import Callable, Mapping, Sequence
from itertools import chain
from math import ceil
from typing import Any

from bson import ObjectId

from app.access import Entry
from app.batched import batched
from app.clock import FIRST_ID, LAST_ID, first_id
from app.stack.mongodb.connection import Database
from app.stack.mongodb.find import NEWEST_FIRST, Find, Order, Rows, rows

# Up to 200 authors MongoDB merges their index ranges in order; from 201 on it sorts their whole history
# (internalQueryMaxScansToExplode; jira DOCS-16663).
GROUP = 200
FEW = 3 * GROUP  # authors whose groups are merged at once; of more, a window is looked at first
BY_AUTHOR = "user_id_1__id_-1"
SAMPLE = 50  # authors whose pace stands for everybody's
GENEROUS = 4  # a window reaches back far enough for so many times what is wanted, at the pace of the sample
WINDOW_AUTHORS = 1_000  # in one command
WINDOW_ROWS = 500  # of one command, or twice as many as are wanted: a window with more reaches back too far
PACED = 10  # statuses that show a pace
RESERVE = 1.15  # times as far back as that pace promises

ID_AND_AUTHOR = ("_id", "user_id")
ID_ONLY = ("_id",)
Packed = bytes  # these fields of a status, 12 bytes each
Query = Callable[[list[ObjectId]], Mapping[str, Any]]  # the statuses that some authors have written


class Newest:
    """The newest statuses of some authors, straight from the index (user_id, _id): only the two are fetched.

    Groups of 200 are merged, whose cost does not depend on how much they have written. Of many authors, or for many of
    their statuses, first a window is looked at that should hold enough: one step of the index per author finds what is
    in it, unsorted. How far back it reaches is guessed by the caller, from the pace of what they have seen, or else
    from a sample. Should it hold too little or too much, the groups are merged after all.

    The answers stay in bytes: to make and to compare ids takes as long as finding them.
    """

    def __init__(
        self, db: Database, query: Query, authors: list[ObjectId], fields: tuple[str, ...] = ID_AND_AUTHOR
    ) -> None:
        self._db, self._query, self._authors, self._fields = db, query, authors, fields

    async def older_than(self, cursor: ObjectId, n: int) -> list[Entry]:
        """Return the `n` newest below `cursor`, newest first; fewer only when there are no more."""
        return [Entry(ObjectId(row[:12]), ObjectId(row[12:])) for row in await self.packed(cursor, n)]

    async def packed(self, cursor: ObjectId, n: int, reach: ObjectId | None = None) -> list[Packed]:
        """Return the `n` newest below `cursor`, newest first, as bytes. `reach`: a guessed id, from which on there are
        as many.
        """
        if reach is None and len(self._authors) > FEW:
            reach = await self._sampled(cursor, n)
        inside: list[Packed] = []
        if reach is not None and reach < cursor:
            window = await self._window(reach, cursor, max(WINDOW_ROWS, 2 * n))
            if window is not None:
                inside, cursor = sorted(window, reverse=True)[:n], reach
        return inside if len(inside) == n else inside + await self._in_groups(cursor, n - len(inside))

    async def _sampled(self, cursor: ObjectId, n: int) -> ObjectId | None:
        sample = await self._merged(self._authors[:: len(self._authors) // SAMPLE][:SAMPLE], cursor, n)
        promised = ceil(GENEROUS * n * SAMPLE / len(self._authors))
        return ObjectId(sample[promised - 1][:12]) if len(sample) >= promised else None

    async def _in_groups(self, cursor: ObjectId, n: int) -> list[Packed]:
        groups = await asyncio.gather(*(self._merged(group, cursor, n) for group in batched(self._authors, GROUP)))
        return sorted(chain.from_iterable(groups), reverse=True)[:n] if len(groups) > 1 else groups[0]

    async def _window(self, floor: ObjectId, cursor: ObjectId, limit: int) -> list[Packed] | None:
        """Return all from `floor` on and below `cursor`, in no order; None when some command would have `limit` rows or
        more.
        """
        ids = {"$gte": floor, "$lt": cursor}
        parts = await asyncio.gather(*(self._look(some, ids, limit) for some in batched(self._authors, WINDOW_AUTHORS)))
        return None if max(map(len, parts)) == limit else list(chain.from_iterable(parts))

    async def _merged(self, authors: list[ObjectId], cursor: ObjectId, n: int) -> list[Packed]:
        return await self._look(authors, {"$lt": cursor}, n, NEWEST_FIRST)

    async def _look(self, authors: list[ObjectId], ids: dict[str, ObjectId], n: int, order: Order = ()) -> list[Packed]:
        query = {**self._query(authors), "_id": ids}
        found = await rows(self._db, Find("statuses", query, self._fields, n, order, BY_AUTHOR))
        columns = [[row[field].binary for row in found] for field in self._fields]
        return list(map(b"".join, zip(*columns, strict=True)))


def newest_of_groups(
    name: str,
    query: Query,
    authors: Sequence[ObjectId],
    before: ObjectId,
    n: int,
) -> dict[str, Find]:
    """Return a look-up for each group of 200 of these authors, to go together with
    others in one command: of the newest `n` below `before`. Its cost grows with the
    groups, but not with what they have written.
    """
    return {
        f"{name} {number}": Find(
            "statuses",
            {**query(group), "_id": {"$lt": before}},
            ID_AND_AUTHOR,
            n,
            NEWEST_FIRST,
        )
        for number, group in enumerate(batched(authors, GROUP))
    }


def window_of_groups(
    name: str, query: Query, authors: Sequence[ObjectId], known: Sequence[ObjectId], before: ObjectId
) -> dict[str, Find]:
    """Return the look-ups of what these authors have written from the last of the `known` ids on, beside these. The
    rows are in no order, which saves MongoDB the merge of all of them; of each group there are at most as many.
    """
    ids, limit, is_small = {"$gte": known[-1], "$lt": before}, 2 * len(known), len(authors) <= GROUP
    return {
        f"{name} {number}": Find(
            "statuses", {**query(group), "_id": ids}, ID_AND_AUTHOR, limit, along=is_small, known=known
        )
        for number, group in enumerate(batched(authors, GROUP))
    }


def vouches_down_to(find: Find, found: Rows) -> ObjectId:
    """Return the id from which on the answer to one of these look-ups lacks nothing."""
    oldest: ObjectId
    if len(found) + len(find.known) < find.limit:
        oldest = find.query.get("_id", {}).get("$gte", FIRST_ID)
    else:
        oldest = found[-1]["_id"] if find.order else LAST_ID
    return oldest


def paced(ids: Sequence[ObjectId], n: int) -> ObjectId | None:
    """Guess the id from which on there are `n`, if all were written at the pace of these `ids`, which are newest first.
    Return None where these are too few to show a pace.
    """
    if len(ids) < PACED:
        return None
    newest_s, oldest_s = (id.generation_time.timestamp() for id in (ids[0], ids[-1]))
    since_s = newest_s - (newest_s - oldest_s) * RESERVE * n / (len(ids) - 1)
    return first_id(max(0, int(since_s)))
