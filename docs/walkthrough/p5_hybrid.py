"""Phase 5, an exercise: deliver to the active, except what celebrities post; that is asked for when it is read.

As it stands this is phase 4 under another name: it runs and passes the contract suite. Chapter 5 of the walkthrough
says what to do with it.
"""

from dataclasses import replace

from bson import ObjectId

from app.models import StatusRow
from phases.p4_cache import CACHE, ActiveFollowers

CELEBRITY = 10_000  # followers


class OrdinaryFollowers(ActiveFollowers):
    """As in phase 4, but a status of somebody with very many followers is not delivered; readers ask for it.

    A delivery becomes bounded: no status costs more than CELEBRITY prepends.
    It costs every reader one more query, for the celebrities among those whom they follow.
    """

    name = "active followers of ordinary authors"

    async def is_celebrity(self, author: ObjectId) -> bool:
        """Counting stops at the threshold. Mind that the answer may change while a fan-out is running."""
        followers = await self.db["follows"].count_documents({"followee": author}, limit=CELEBRITY + 1)
        return followers > CELEBRITY

    async def after(self, status: StatusRow, last: ObjectId, n: int) -> list[ObjectId]:
        """Exercise: nobody, for a celebrity. Then the read has to find what was not delivered (the third rule)."""
        return await super().after(status, last, n)


HYBRID = replace(CACHE, slug="hybrid", title="Ask celebrities, deliver the rest", recipients=OrdinaryFollowers)
