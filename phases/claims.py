"""What a phase costs, in commands: claims in its row, shown in the walkthrough and asserted by the contract suite.

Commands are counted where the drivers send them (`app.stack.cost`). `n` is what a claim grows with; `chunk` the
recipients of one step.
"""

from collections.abc import Callable
from dataclasses import dataclass
from math import ceil
from typing import Literal

from phases.home.newest import FEW, GROUP, WINDOW_AUTHORS

Action = Literal["post", "deliver", "read", "return"]
GrowsWith = Literal["followers", "active followers", "followees", ""]
Count = Callable[[int, int], int]


@dataclass(frozen=True)
class Claim:
    """`mongodb` and `memcached`: exact. `redis_at_most`: RQ's own commands; it decides how many."""

    action: Action
    grows_with: GrowsWith
    words: str
    mongodb: Count
    memcached: Count = lambda n, chunk: 0
    redis_at_most: int = 0


def chunks(n: int, chunk: int) -> int:
    """The author's own entry goes with the first, which there always is."""
    return max(1, ceil(n / chunk))


def windows(n: int) -> int:
    return ceil((n + 1) / WINDOW_AUTHORS)


def asked(n: int) -> int:
    """The query of `n` followees and the reader. Of many: a sample, and a window of each thousand."""
    return ceil((n + 1) / GROUP) if n < FEW else 1 + windows(n)


ASKED = f"one query per {GROUP} of them, of more than {FEW} a sample and a window of each {WINDOW_AUTHORS:,}"
OWED = LIST = VISIBLE = 1  # several look-ups in one command each
REDIS = 10
