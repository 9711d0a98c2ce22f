"""The decision which statuses are pulled: it is made once, by whoever stores one (rule 9)."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Literal

from bson import ObjectId

from app.models import Audience
from app.stack import Stack
from app.stack.mongodb.transaction import Contended
from phases.home.newest import Query
from phases.pulling.author import Author, Authors, DayCost
from phases.pulling.markers import Known, Markers

Why = Literal["forced", "seldom", "light", "many", "rule"]


@dataclass(frozen=True)
class Merge:
    """The statuses that a phase merges at read instead of delivering them.

    `cost`: what a day costs either way for an author's statuses. `is_cheaper`: whether merging is, by that.
    `is_hardly_read`: whether, by pages a post, so few pages are asked for that it is cheaper for everybody's. `query`:
    the statuses of some authors that say `pulled`.
    """

    cost: Callable[[Author], DayCost]
    is_cheaper: Callable[[DayCost], bool]
    is_hardly_read: Callable[[float], bool]
    query: Query


@dataclass(frozen=True)
class Weighed:
    """The reason why an author's next status would be pulled, or not.

    `seldom`: everybody's are, as pages are asked for seldom. `light`: the author has too few active followers to be
    weighed; `many`: more than `pull_beyond`.
    """

    pulled: bool
    why: Why
    author: Author
    day: DayCost


class Pulls:
    """The decisions of one process. `merging`: what is merged by each phase that merges, by slug."""

    def __init__(self, stack: Stack, merging: Mapping[str, Merge]) -> None:
        self._config = stack.config
        self.merging = merging
        self.markers, self.authors = Markers(stack), Authors(stack)

    async def decide(
        self, names: Sequence[str], epoch: ObjectId, author: ObjectId, audience: Audience, forced: bool | None
    ) -> bool:
        """Return whether a status that is owed to these consumers is to be pulled instead of delivered. Nothing is
        written.

        A circle's status goes to few, whoever has written it: the rule is not about those.
        """
        merge = next((self.merging[name] for name in names if name in self.merging), None)
        if merge is None:
            return False
        if forced is not None:
            return forced
        return audience != "circle" and await self._by_the_rule(merge, epoch, author)

    async def mark(self, author: ObjectId, epoch: ObjectId) -> bool:
        """Return whether a majority has the author's marker, so that a status may say `pulled`; not where too many mark
        at once.
        """
        try:
            await self.markers.mark(author, epoch)
        except Contended:
            return False
        return True

    async def _by_the_rule(self, merge: Merge, epoch: ObjectId, author: ObjectId) -> bool:
        """Return whether the rule pulls the author's statuses. The followers of an author who is not heavy are not
        counted.
        """
        markers = await self.markers.known(epoch)
        if await self._is_seldom(merge, markers, author):
            return True
        if not markers.is_heavy(author):
            return False
        return self._of(merge, await self.authors.known(author)).pulled

    async def _is_seldom(self, merge: Merge, markers: Known, author: ObjectId) -> bool:
        """Return whether pages are asked for so seldom that the author is pulled; not where many are pulled already."""
        pages = await self.authors.pages_a_post()
        return pages is not None and merge.is_hardly_read(pages) and self.markers.has_marker_or_room(author, markers)

    async def weighed(self, epoch: ObjectId, author: ObjectId, forced: bool | None) -> Weighed:
        """Weigh the author as things are now, by the first phase that merges."""
        merge, markers = next(iter(self.merging.values())), await self.markers.known(epoch)
        by_the_rule = self._of(merge, await self.authors.counted(author))
        if await self._is_seldom(merge, markers, author):
            by_the_rule = replace(by_the_rule, pulled=True, why="seldom")
        return by_the_rule if forced is None else replace(by_the_rule, pulled=forced, why="forced")

    def _of(self, merge: Merge, author: Author) -> Weighed:
        day = merge.cost(author)
        if author.active_followers < self._config.pull_from:
            return Weighed(False, "light", author, day)
        if author.active_followers > self._config.pull_beyond:
            return Weighed(True, "many", author, day)
        return Weighed(merge.is_cheaper(day), "rule", author, day)

    async def sweep(self) -> None:
        await self.markers.sweep()
        await self.authors.sweep()
