"""Phase 7, an exercise: deliver to who listens. Whoever mutes the author would not be shown it, and gets nothing.

As it stands this is phase 4 under another name: it runs and passes the contract suite. The last chapter of the
walkthrough says what to do with it.
"""

from dataclasses import replace

from bson import ObjectId

from app.stack.mongodb.find import Find, rows
from phases.p4_cache import CACHE, ActiveFollowers


class Listeners(ActiveFollowers):
    """The recipients are the active followers who do not mute the author.

    A delivery becomes cheaper by as many as do.
    It costs a backfill: a reader who unmutes has a list without what was posted meanwhile.
    """

    name = "active followers who listen"

    async def muting(self, author: ObjectId, readers: list[ObjectId]) -> set[ObjectId]:
        """Return which of these readers mute the author. An index alone answers."""
        query = {"muted": author, "muter": {"$in": readers}}
        find = Find("mutes", query, ("muter",), len(readers))
        return {row["muter"] for row in await rows(self.db, find)}

    async def of(self, author: ObjectId, after: ObjectId, n: int) -> list[ObjectId]:
        """Exercise: leave out who mutes the author. Mind that fewer than `n` means that there are no more."""
        return await super().of(author, after, n)


LISTENERS = replace(CACHE, slug="listeners", title="Deliver to who listens", recipients=Listeners)
