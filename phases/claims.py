"""The costs of a phase, in commands: the claims of its row, shown in the walkthrough and asserted by the contract
suite.

A claim adds up some of the commands that are defined here, as they are asked for (`app.stack.cost`).
"""

from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace
from functools import partial
from math import ceil
from typing import Literal

from phases.home.newest import FEW, GROUP, WINDOW_AUTHORS

Action = Literal["post", "deliver", "read", "return"]
GrowsWith = Literal["followers", "active followers", "followees", ""]
Count = Callable[[int, int], int]  # from `n`, which the claim grows with, and `chunk`, the recipients of one step


def _always(count: int) -> Count:
    return lambda n, chunk: count


NONE, ONE = _always(0), _always(1)


@dataclass(frozen=True)
class Commands:
    """Some commands: what they are for, in words, and how many there are. `redis_at_most` is no exact number: RQ
    decides.
    """

    words: str
    mongodb: Count = NONE
    memcached: Count = NONE
    redis_at_most: int = 0
    grows_with: GrowsWith = ""


@dataclass(frozen=True)
class Claim:
    """A claim of what an action costs. `mongodb` and `memcached` are exact. Of a return, a process that knows the
    reader takes one less of Memcached, and another one takes one less of MongoDB. What a worker sends to Redis is not
    in it.
    """

    action: Action
    commands: tuple[Commands, ...]
    words: str

    @property
    def grows_with(self) -> GrowsWith:
        """What the commands grow with; "" for nothing. Raises ValueError where they grow with different things."""
        [one] = {some.grows_with for some in self.commands} - {""} or {""}
        return one

    def mongodb(self, n: int, chunk: int) -> int:
        return sum(some.mongodb(n, chunk) for some in self.commands)

    def memcached(self, n: int, chunk: int) -> int:
        return sum(some.memcached(n, chunk) for some in self.commands)

    @property
    def redis_at_most(self) -> int:
        return sum(some.redis_at_most for some in self.commands)


def _claim(action: Action, *commands: Commands) -> Claim:
    return Claim(action, commands, "; ".join(some.words for some in commands))


a_post, a_delivery = partial(_claim, "post"), partial(_claim, "deliver")
a_page, a_return = partial(_claim, "read"), partial(_claim, "return")


def as_in(costs: Iterable[Claim], action: Action, words: str) -> Claim:
    """Return the claim for an action among `costs`, in other words: another phase has told of its commands before."""
    [claim] = (claim for claim in costs if claim.action == action)
    return replace(claim, words=words)


def _chunks(n: int, chunk: int) -> int:
    """Return how many steps `n` recipients take. There is always a first one, which serves the author, too."""
    return max(1, ceil(n / chunk))


def _windows(n: int, chunk: int) -> int:
    return ceil((n + 1) / WINDOW_AUTHORS)


def _asked(n: int, chunk: int) -> int:
    """Return how many commands the query of `n` followees and the reader takes. Of many: a sample, and a window of each
    thousand.
    """
    return ceil((n + 1) / GROUP) if n < FEW else 1 + _windows(n, chunk)


# A post
REDIS = 10  # of RQ for one job
INSERT = Commands("one insert", ONE)
INSERT_AND_CLEAR = Commands("insert, clear pending", _always(2))
INSERT_AND_JOB = Commands("one insert and one job", ONE, redis_at_most=REDIS)
JOB_UNLESS_PULLED = Commands("one job, unless it is pulled", redis_at_most=REDIS)

# A delivery
ENTRIES = Commands(
    "per chunk of followers one query and one insert of many",
    lambda n, chunk: 2 * _chunks(n, chunk),
    grows_with="followers",
)
ENTRIES_BY_JOB = Commands(
    "per chunk the status, its next followers and one insert",
    lambda n, chunk: 3 * _chunks(n, chunk),
    grows_with="followers",
)
STEPS_TO_ACTIVE = Commands(
    "per chunk the status and its next active followers",
    lambda n, chunk: 2 * _chunks(n, chunk),
    grows_with="active followers",
)
FIRST_STEP = Commands("the first active followers", ONE)
FURTHER_STEPS = Commands(
    "per further chunk the status and its next ones",
    lambda n, chunk: 2 * (_chunks(n, chunk) - 1),
    grows_with="active followers",
)
CLEAR = Commands("clear pending", ONE)
PREPENDS = Commands(
    "a prepend for each, and for the author", memcached=lambda n, chunk: n + 1, grows_with="active followers"
)
SCRIPTS = Commands("a script in Redis per 500 of them")

# A page. Several look-ups go in one command.
FOLLOWEES = Commands("the followees", ONE)
QUERY_OF_ALL = Commands(
    f"one query per {GROUP} of them, of more than {FEW} a sample and a window of each {WINDOW_AUTHORS:,}",
    _asked,
    grows_with="followees",
)
VISIBLE = Commands("what of it is visible", ONE)
VISIBLE_UNSEEN = Commands("what of it is visible, unless seen before", ONE)
ENTRIES_AND_PENDING = Commands("the list together with what is pending", ONE)
PENDING = Commands("what is pending", ONE)
PENDING_OR_PULLED = Commands("what is pending or pulled", ONE)
GETS = Commands("one `gets`", memcached=ONE)
RANGE = Commands("one script in Redis", redis_at_most=1)
STATUSES_UNSEEN = Commands("the statuses, then their authors, unless seen before", _always(2))
AUTHORS_NOTED = Commands("one set that notes the authors for other processes", memcached=ONE)

# A return
PAGE_OF_PHASE_1 = Commands(
    "as a page of phase 1",
    a_page(FOLLOWEES, QUERY_OF_ALL, VISIBLE).mongodb,
    grows_with="followees",
)
MARK_ACTIVE = Commands("marking the reader active", ONE)
WINDOWS = Commands("a window of each thousand authors", _windows, grows_with="followees")
PENDING_OF_KNOWN = Commands("what is pending, in a process that knows the reader", ONE)
REBUILD = (PENDING_OF_KNOWN, PAGE_OF_PHASE_1, MARK_ACTIVE, WINDOWS)
LEASE_AND_FILL_LIST = Commands(
    "`gets`, `add`, `gets` and `cas`, and one more `gets` in a process that does not know the reader",
    memcached=_always(5),
)
LEASE_AND_FILL_SET = Commands("three scripts in Redis: to find nothing, to lease, to fill", redis_at_most=3)
