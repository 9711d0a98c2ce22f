"""How a read looks at what is pending, at a cost that does not grow with the backlog (rule 10).

Mostly the newest few are all that is pending, whoever has written them. Where there are more, the process reads the
backlog once, and a page looks at what has come since. Where it cannot go by that, it looks at what the reader's own
authors have.
"""

import logging
import math
from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any, NamedTuple

from bson import ObjectId

from app.clock import LAST_ID
from app.edges import OwnEdges, Version
from app.stack import Stack, outages_told
from app.stack.cost import uncounted
from app.stack.mongodb.find import NEWEST_FIRST, Find, Rows
from phases.delivering.backlog import Backlog
from phases.home.candidates import Undelivered
from phases.home.newest import newest_of_groups, window_of_groups
from phases.keeping.store import Place

log = logging.getLogger(__name__)

CROWDED_S = 1.0  # for so long after a read has found a backlog, others take it for granted
UNREAD_S = 5.0  # for so long a process does not read a backlog again that could not be believed, or not be read,
UNREAD_AT_MOST_S = 160.0  # and up to so long where it is so again and again


class Scope(NamedTuple):
    """The scope in which a read looks for what is owed to the consumers `names`.

    `by_authors`: there is a backlog, in which only the reader's own authors matter. `backlog`: what this process has
    read of it, and then only what has come `since` is looked up.
    """

    names: tuple[str, ...]
    by_authors: bool = False
    backlog: Backlog | None = None
    since: ObjectId | None = None


class Pending:
    """What is pending, as the reads of one process look at it."""

    def __init__(self, stack: Stack) -> None:
        self._db, self._clock, self._scan = stack.db, stack.clock, stack.config.pending_scan
        self._crowded_until_s = -math.inf  # of the monotonic clock
        self._backlogs: dict[tuple[str, ...], tuple[ObjectId, Backlog]] = {}  # by names, with the epoch
        self._unread_until_s: dict[tuple[str, ...], float] = {}
        self._pauses_s: dict[tuple[str, ...], float] = {}

    @property
    def is_crowded(self) -> bool:
        """Whether so much was pending a moment ago that a reader's own authors are what to look at."""
        return self._clock.monotonic() < self._crowded_until_s

    async def scope(self, names: tuple[str, ...], epoch: ObjectId) -> Scope:
        """Return where to look now."""
        if not self.is_crowded:
            return Scope(names)
        backlog = await self.backlog(names, epoch)
        return Scope(names, by_authors=True, backlog=backlog, since=backlog.since if backlog else None)

    def finds(self, scope: Scope, edges: OwnEdges, place: Place, known: Sequence[ObjectId]) -> dict[str, Find]:
        """Return the look-ups. `known`: as in `by_authors`."""
        if scope.since:
            return self.newest(scope.names, {"$gte": scope.since, "$lt": place.before})
        if scope.by_authors:
            return self.by_authors(scope.names, edges, place, known)
        return self.newest(scope.names, {"$lt": place.before} if place.before != LAST_ID else {})

    def newest(self, names: tuple[str, ...], ids: dict[str, ObjectId]) -> dict[str, Find]:
        """Return the look-up of the newest few statuses that are owed to these
        consumers: mostly that is all of them.
        """
        shown, n = ("_id", "user_id"), self._scan + 1
        if not ids:
            return {"pending": Find.tagged("statuses", names, shown, n, NEWEST_FIRST)}
        pending = {"pending": _one_or_in(names), "_id": ids}
        return {"pending": Find("statuses", pending, shown, n, NEWEST_FIRST, common=True)}

    def by_authors(
        self, names: tuple[str, ...], edges: OwnEdges, place: Place, known: Sequence[ObjectId] = ()
    ) -> dict[str, Find]:
        """Return the look-ups of the newest of each group of the reader's own authors, whatever else is pending.

        `known`: as many ids of the page, newest first, if it is remembered: beside and above these there are probably
        few.
        """
        authors = [edges.reader, *(edges.unmuted or [])]
        if known:
            # One look for all names: of several, all of one shape, some find much and others nothing, and at each
            # change between these MongoDB chooses the index anew.
            return window_of_groups("pending", partial(_pending_query, names), authors, known, place.before)
        finds: dict[str, Find] = {}
        for name in names:
            query = partial(_pending_query, (name,))
            finds |= newest_of_groups(f"pending {name}", query, authors, place.before, place.n)
        return finds

    def found(
        self, scope: Scope, looked: Mapping[str, Find], answers: Mapping[str, Rows], edges: OwnEdges, place: Place
    ) -> Undelivered:
        """Return what is pending for the reader, or for anybody, from the answers to `finds`."""
        found = Undelivered.of(looked, answers)
        if scope.backlog and scope.since:
            if found.down_to > scope.since:
                return Undelivered([], LAST_ID)  # more has come than was looked at
            return scope.backlog.beside(found.entries, edges.reader, edges.unmuted or [], place.before, place.n)
        if not scope.by_authors:
            self._note(scope.names, found, place)
        return found

    def _note(self, names: tuple[str, ...], of_all: Undelivered, place: Place) -> None:
        """Remember whether there was too much to look at all of it."""
        if not of_all.is_all:
            self._crowded_until_s = self._clock.monotonic() + CROWDED_S
        elif place.before == LAST_ID:
            self._backlogs.pop(names, None)

    # The backlog

    async def backlog(self, names: tuple[str, ...], epoch: ObjectId) -> Backlog | None:
        """Return what this process has read of a backlog, after the next step of that; None while it cannot be used.
        Each epoch of the phase settings begins anew: its database may be of another history.
        """
        if self._clock.monotonic() < self._unread_until_s.get(names, -math.inf):
            return None
        of, backlog = self._backlogs.get(names, (None, None))
        if backlog is None or backlog.is_old or of != epoch:
            if backlog and not backlog.is_complete:  # so few pages are asked for here that reading it does not pay
                self._forget(names, backlog)
                return None
            backlog = Backlog(self._db, self._clock, _one_or_in(names), self._scan)
            self._backlogs[names] = (epoch, backlog)
        is_worth_it = False
        with uncounted(), outages_told(log.warning, "the backlog is left unread"):
            is_worth_it = await backlog.read_on()
        if not is_worth_it:
            self._forget(names, backlog)
            return None
        if not backlog.is_complete:
            return None
        self._pauses_s.pop(names, None)
        return backlog

    def forget_if_missing(self, scope: Scope, found: Undelivered, late: Version) -> bool:
        """Forget what was read of the backlog if a status may be missing in it: one became pending late, or more has
        come than was found. Return whether that is so. `late`: that version, as of the look.
        """
        if scope.backlog is None or (scope.backlog.late == late and found.down_to != LAST_ID):
            return False
        self._forget(scope.names, scope.backlog)
        return True

    def _forget(self, names: tuple[str, ...], read: Backlog) -> None:
        """Forget what was read of a backlog, unless another page has done so. The next reading waits, each time longer
        that none was completed.
        """
        _, backlog = self._backlogs.get(names, (None, None))
        if backlog is not read:
            return
        del self._backlogs[names]
        pause_s = self._pauses_s.get(names, UNREAD_S)
        self._unread_until_s[names] = self._clock.monotonic() + pause_s
        self._pauses_s[names] = min(2 * pause_s, UNREAD_AT_MOST_S)


def _pending_query(names: tuple[str, ...], authors: list[ObjectId]) -> dict[str, Any]:
    return {"pending": _one_or_in(names), "user_id": {"$in": authors}}


def _one_or_in(values: tuple[str, ...]) -> Any:
    return values[0] if len(values) == 1 else {"$in": list(values)}
