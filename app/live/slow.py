"""People whose state takes longer to read than a request may wait for servers.

Each of them is read again after longer and longer pauses. Else some of them would hold the places in which people are
read, and whoever waits behind them would take that for an outage.
"""

from collections.abc import Callable
from typing import NamedTuple

from bson import ObjectId
from cachetools import TTLCache

REMEMBERED, REMEMBERED_S = 10_000, 600.0
FIRST_S, LONGEST_S = 2.0, 60.0  # the pauses


class InVain(NamedTuple):
    """The last of the readings in vain that somebody had in a row.

    `own`: how many of them were their own fault. `answers`: how many readings of others had been answered before it.
    `until_s`: the end of their pause.
    """

    own: int
    answers: int
    until_s: float


class Slow:
    """Who has been read in vain, and the pauses that they have now. There is one instance per hub.

    It is their own fault, and no outage, where somebody else has been answered since they were read in vain before.
    """

    def __init__(self, now_s: Callable[[], float]) -> None:
        self._now_s = now_s
        self._answers = 0
        self._in_vain: TTLCache[ObjectId, InVain] = TTLCache(REMEMBERED, REMEMBERED_S)

    def note_in_vain(self, person: ObjectId) -> bool:
        """Note that somebody was read in vain, and return whether that was their own fault."""
        last = self._in_vain.get(person)
        is_own = last is not None and last.answers < self._answers
        own = (last.own if last else 0) + is_own
        pause_s = min(FIRST_S * 2 ** (own - 1), LONGEST_S) if own else 0.0
        self._in_vain[person] = InVain(own, self._answers, self._now_s() + pause_s)
        return is_own

    def note_read(self, person: ObjectId) -> None:
        self._in_vain.pop(person, None)
        self.note_answer()

    def note_answer(self) -> None:
        """Note that the servers have answered, whoever it was about."""
        self._answers += 1

    def left_s(self, person: ObjectId) -> float:
        """Return the seconds until somebody's pause ends; 0 for whoever has none."""
        last = self._in_vain.get(person)
        return max(0.0, last.until_s - self._now_s()) if last else 0.0
