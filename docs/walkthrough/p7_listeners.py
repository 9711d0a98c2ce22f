"""Phase 7, an exercise: deliver to who listens. Whoever mutes the author would not be shown it, and gets nothing.

As it stands this is phase 4 under another name: it runs and passes the contract suite. The last chapter of the
walkthrough says what to do with it.
"""

from dataclasses import replace

from bson import ObjectId

from app.models import StatusRow
from phases.p4_cache import CACHE, ActiveFollowers


class Listeners(ActiveFollowers):
    """As in phase 4, but a status is not delivered to readers who mute its author.

    A delivery becomes cheaper by as many as do.
    It costs a backfill: a reader who unmutes has a list without what was posted meanwhile.
    """

    name = "active followers who listen"

    async def muting(self, author: ObjectId, readers: list[ObjectId]) -> set[ObjectId]:
        """Those of these readers who mute the author: answered by an index alone."""
        rows = self.db["mutes"].find({"muted": author, "muter": {"$in": readers}}, {"_id": 0, "muter": 1})
        return {row["muter"] for row in await rows.to_list(None)}

    async def next(self, status: StatusRow, after: ObjectId, n: int) -> list[ObjectId]:
        """Exercise: leave out who mutes the author. Mind that fewer than `n` means that there are no more."""
        return await super().next(status, after, n)


LISTENERS = replace(CACHE, slug="listeners", title="Deliver to who listens", recipients=Listeners)
