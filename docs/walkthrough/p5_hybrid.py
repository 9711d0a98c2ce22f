"""Phase 5, an exercise: deliver to the active, except what celebrities post; that is asked for when it is read.

As it stands this is phase 4 under another name: it runs and passes the contract suite. Chapter 5 of the walkthrough
says what to do with it.
"""

from bson import ObjectId

from app.access import StatusRow
from phases.base import Resume
from phases.p4_cache import Cache

CELEBRITY = 10_000  # followers


class Hybrid(Cache):
    """As phase 4, but a status of somebody with very many followers is not delivered; readers ask for it.
    A delivery becomes bounded: no status costs more than CELEBRITY prepends.
    It costs every reader one more query, for the celebrities among those whom they follow.
    """

    slug, title = "hybrid", "Ask celebrities, deliver the rest"

    async def is_celebrity(self, author: ObjectId) -> bool:
        """Counting stops at the threshold. Mind that the answer may change while a fan-out is running."""
        followers = await self.db["follows"].count_documents({"followee": author}, limit=CELEBRITY + 1)
        return followers > CELEBRITY

    async def recipients(self, status: StatusRow, resume: Resume | None) -> tuple[list[ObjectId], Resume | None]:
        """Exercise: nobody, for a celebrity. Then the read has to find what was not delivered (the third rule)."""
        return await super().recipients(status, resume)
