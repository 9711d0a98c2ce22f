"""The claims of the phases' rows in words: what each phase costs, and an example. The contract suite asserts them."""

from app.config import Config
from phases.base import Phase
from phases.claims import Action, Claim

ACTIONS: dict[Action, str] = {
    "post": "A post, with what its process does",
    "deliver": "Its delivery, in a worker",
    "read": "A page of 20, warm",
    "return": "The first page after an absence",
}
EXAMPLES = {"followers": 10_000, "active followers": 1_000, "followees": 300, "": 0}


def example(phase: Phase, claim: Claim) -> str:
    n, chunk = EXAMPLES[claim.grows_with], phase.chunk(Config())
    counts = [f"{claim.mongodb(n, chunk):,} MongoDB"]
    if memcached := claim.memcached(n, chunk):
        counts.append(f"{memcached:,} Memcached")
    if claim.redis_at_most:
        counts.append(f"{claim.redis_at_most} Redis")
    when = f"with {n:,} {claim.grows_with}: " if claim.grows_with else ""
    return f"{when}at most {', '.join(counts)}"
