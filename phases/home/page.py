"""The making of a page: candidates are hydrated and judged, and the page is refilled until it is full."""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import takewhile

from bson import ObjectId

from app.access import AsRow, Entry, Shows, hydrate, shown_among
from app.clock import LAST_ID
from app.edges import Versions, View
from app.models import StatusRow
from app.stack.mongodb.connection import Database
from phases.home.candidates import Candidates, Source

# Candidates looked at beyond the page: most pages are full although some status on them is not for the reader.
SPARE = 8
# Where much is not for the reader: each further look takes as many candidates as all
# looks before it together, but at most this many.
AT_ONCE = 1_000
# Looks at more than so many times `enough` candidates hold nothing of what they have seen.
WASTEFUL = 4


@dataclass(frozen=True)
class Page:
    """One page of a home timeline, newest first. `next` is the cursor of the page after it, None only at the end.

    `statuses`: another list than before wherever anything on the page has changed. A kept page that was judged before
    has the same list object again, so whoever remembers what they made of it goes by that; nobody may change a list.

    `cold`: the phase kept nothing for this reader when they came. `versions`: those that the read has looked up, if it
    has.
    """

    phase: str
    statuses: list[StatusRow]
    next: ObjectId | None
    source: Source
    cold: bool = False
    versions: Versions | None = None

    @property
    def names(self) -> int | None:
        """The version of people's names; None where the read has not looked it up."""
        return self.versions.names if self.versions else None


def enough(limit: int) -> int:
    """Return how many candidates fill most pages of `limit` statuses, and show whether there are more."""
    return limit + 1 + SPARE


class Filling:
    """The filling of one page with what it `shows`. What the `view` knows, and `rows`
    by id, need not be looked up; what is looked up joins them.

    `wasteful`: most of what was looked at was not for the reader. There may be any
    amount of that, so what it took to fill the page is not known afterwards.
    """

    def __init__(
        self,
        db: Database,
        view: View,
        shows: Shows,
        rows: dict[ObjectId, StatusRow] | None = None,
        as_row: AsRow = StatusRow.of,
    ) -> None:
        self._db, self.view, self._shows, self._as_row = db, view, shows, as_row
        self.rows = {} if rows is None else rows
        self._judged: list[StatusRow] = []
        self.wasteful = False

    async def fill(
        self,
        candidates: Candidates,
        before: ObjectId | None,
        limit: int,
    ) -> tuple[list[StatusRow], ObjectId | None]:
        """Return a full page, and the cursor of the next one: one status more is looked
        for, to know whether there is one.
        """
        shown: list[StatusRow] = []
        cursor, looked_at = before or LAST_ID, 0
        while len(shown) <= limit:
            wanted = max(enough(limit) - len(shown), min(looked_at, AT_ONCE))
            looked_at += wanted
            if looked_at > WASTEFUL * enough(limit):
                self.rows, self._judged, self.wasteful = {}, [], True
            entries = await candidates.older_than(cursor, wanted)
            shown += await self._shown(entries, limit + 1 - len(shown))
            if len(entries) < wanted:
                break
            cursor = entries[-1].id
        more = len(shown) > limit
        if more:
            last = next(n for n, s in enumerate(self._judged) if s is shown[limit])
            del self._judged[last + 1 :]
        return shown[:limit], shown[limit - 1].id if more else None

    @property
    def taken(self) -> dict[ObjectId, StatusRow]:
        """The statuses that it took to fill the page, by id."""
        if len(self._judged) == len(self.rows):
            return self.rows
        return {status.id: status for status in self._judged}

    @property
    def backs(self) -> dict[ObjectId, bool]:
        """Whether the authors of statuses for mutuals follow the reader: it decided
        about the page beside the reader's own edges.
        """
        me, follow = self.view.edges.reader, self.view.reader().followed_by
        mutual = [s.user_id for s in self._judged if s.audience == "mutuals"]
        return {author: follow[author] for author in mutual if author != me}

    async def _shown(self, entries: Sequence[Entry], wanted: int) -> list[StatusRow]:
        """Return the statuses that are shown; only the first of them, where these are
        at hand and make `wanted`.
        """
        begin = takewhile(bool, (self.rows.get(e.id) for e in entries))
        at_hand = [status for status in begin if status]
        if wanted <= len(at_hand) < len(entries):
            shown = await shown_among(self._db, self.view, at_hand, self._shows)
            if len(shown) >= wanted:
                self._judged += at_hand
                return shown
        if len(at_hand) < len(entries):
            missing = [e for e in entries if e.id not in self.rows]
            known = [self.rows[e.id] for e in entries if e.id in self.rows]
            found = await hydrate(self._db, self.view, missing, known, self._as_row)
            self.rows |= found
            at_hand = [self.rows[e.id] for e in entries if e.id in self.rows]
        self._judged += at_hand
        return await shown_among(self._db, self.view, at_hand, self._shows)
