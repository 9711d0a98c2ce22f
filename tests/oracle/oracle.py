"""What every timeline must be, from DESIGN §2 alone: sets, dictionaries and one sentence. No code of ours."""

from bisect import bisect_left
from dataclasses import dataclass, field
from typing import Generic, Protocol, TypeVar


class Ordered(Protocol):
    def __lt__(self, other: object, /) -> bool: ...
    def __hash__(self) -> int: ...


Id = TypeVar("Id", bound=Ordered)


@dataclass
class Told(Generic[Id]):
    """A status that was posted."""

    author: Id
    text: str
    audience: str
    deleted: bool = False


@dataclass
class Oracle(Generic[Id]):
    """Pairs read as a sentence: (follower, followee), (blocker, blocked), (owner, member)."""

    statuses: dict[Id, Told[Id]] = field(default_factory=dict)
    follows: set[tuple[Id, Id]] = field(default_factory=set)
    blocks: set[tuple[Id, Id]] = field(default_factory=set)
    circles: set[tuple[Id, Id]] = field(default_factory=set)

    def across_block(self, one: Id, other: Id) -> bool:
        return (one, other) in self.blocks or (other, one) in self.blocks

    def block(self, blocker: Id, blocked: Id) -> None:
        """Ends both follows; the circle stays as it is."""
        self.blocks.add((blocker, blocked))
        self.follows -= {(blocker, blocked), (blocked, blocker)}

    def visible(self, id: Id, reader: Id) -> bool:
        status = self.statuses[id]
        author = status.author
        if status.deleted:
            return False
        if reader == author:
            return True
        if (reader, author) not in self.follows or self.across_block(reader, author):
            return False
        return {
            "followers": True,
            "mutuals": (author, reader) in self.follows,
            "circle": (author, reader) in self.circles,
        }[status.audience]

    def timeline(self, reader: Id) -> list[Id]:
        """Everything, newest first."""
        return sorted((id for id in self.statuses if self.visible(id, reader)), reverse=True)

    def page(self, reader: Id, before: Id | None, limit: int) -> tuple[list[Id], bool]:
        """The newest `limit` below `before`, and whether more follow."""
        timeline = self.timeline(reader)
        if before is not None:
            timeline.reverse()
            timeline = timeline[: bisect_left(timeline, before)][::-1]
        return timeline[:limit], len(timeline) > limit
