"""What each phase costs, in commands: claims in one place, shown in the walkthrough and asserted by the contract suite.

Commands are counted where the drivers send them (`app.stack.cost`). `n` is what a claim grows with; `chunk` the
followers of one step: `Config.inline_chunk` in phase 2, `chunk` in phase 3, `list_chunk` in phase 4.
"""

from collections.abc import Callable
from dataclasses import dataclass
from math import ceil
from typing import Literal

from phases.authors import FEW, GROUP, WINDOW_AUTHORS

from app.config import Config

Action = Literal["post", "deliver", "read", "return"]
Count = Callable[[int, int], int]

ACTIONS: dict[Action, str] = {
    "post": "A post, until it is acknowledged",
    "deliver": "Its delivery, in a worker",
    "read": "A page of 20, warm",
    "return": "The first page after an absence",
}
CHUNKS = {"push": "inline_chunk", "cache": "list_chunk"}
EXAMPLES = {"followers": 10_000, "active followers": 1_000, "followees": 300, "": 0}


@dataclass(frozen=True)
class Claim:
    """`mongodb` and `memcached`: exact. `redis_at_most`: RQ's own commands; it decides how many."""

    phase: str
    action: Action
    grows_with: Literal["followers", "active followers", "followees", ""]
    words: str
    mongodb: Count
    memcached: Count = lambda n, chunk: 0
    redis_at_most: int = 0

    @property
    def example(self) -> str:
        n, chunk = EXAMPLES[self.grows_with], getattr(Config(), CHUNKS.get(self.phase, "chunk"))
        counts = [f"{self.mongodb(n, chunk):,} MongoDB"]
        if memcached := self.memcached(n, chunk):
            counts.append(f"{memcached:,} Memcached")
        if self.redis_at_most:
            counts.append(f"at most {self.redis_at_most} Redis")
        return ", ".join(counts)

    @property
    def example_of(self) -> str:
        return f"with {EXAMPLES[self.grows_with]:,} {self.grows_with}" if self.grows_with else "always"


def chunks(n: int, chunk: int) -> int:
    """The author's own entry goes with the first, which there always is."""
    return max(1, ceil(n / chunk))


def asked(n: int) -> int:
    """The reader is among the authors. Of many: a sample, and a window of each thousand."""
    return ceil((n + 1) / GROUP) if n < FEW else 1 + ceil((n + 1) / WINDOW_AUTHORS)


OWED = LIST = VISIBLE = 1  # several look-ups in one command each
REDIS = 10

CLAIMS: tuple[Claim, ...] = (
    Claim("query", "post", "", "one insert", lambda n, chunk: 1),
    Claim(
        "query", "read", "followees", "the followees; "
        f"one query per {GROUP} of them, of more than {FEW} a sample and a window of each {WINDOW_AUTHORS:,}; "
        "what of it is visible",
        lambda n, chunk: 1 + asked(n) + VISIBLE,
    ),
    Claim(
        "push", "post", "followers", "insert, clear pending; per chunk of followers one query and one insert of many",
        lambda n, chunk: 2 + 2 * chunks(n, chunk),
    ),
    Claim(
        "push", "read", "", "the list together with what is owed; what of it is visible, unless seen before",
        lambda n, chunk: LIST + VISIBLE,
    ),
    Claim("queue", "post", "", "one insert and one job", lambda n, chunk: 1, redis_at_most=REDIS),
    Claim(
        "queue", "deliver", "followers", "per chunk the status, its next followers and one insert; clear pending",
        lambda n, chunk: 3 * chunks(n, chunk) + 1,
    ),
    Claim("queue", "read", "", "as in phase 2", lambda n, chunk: LIST + VISIBLE),
    Claim("cache", "post", "", "one insert and one job", lambda n, chunk: 1, redis_at_most=REDIS),
    Claim(
        "cache", "deliver", "active followers",
        "per chunk the status and its next active followers; clear pending; one prepend for each, and for the author",
        lambda n, chunk: 2 * chunks(n, chunk) + 1, lambda n, chunk: n + 1,
    ),
    Claim(
        "cache", "read", "", "what is owed; one gets; the statuses, then their authors, unless seen before",
        lambda n, chunk: OWED + 2 * VISIBLE, lambda n, chunk: 1,
    ),
    Claim(
        "cache", "return", "followees",
        f"what is owed; as a page of phase 1; marking the reader active; a window of each {WINDOW_AUTHORS:,} authors; "
        "gets, add, gets and cas",
        lambda n, chunk: OWED + 1 + asked(n) + VISIBLE + 1 + ceil((n + 1) / WINDOW_AUTHORS), lambda n, chunk: 4,
    ),
)  # fmt: skip


def claims(slug: str) -> list[Claim]:
    return [claim for claim in CLAIMS if claim.phase == slug]
