"""The one oracle: the definition in docs/correctness.md on plain sets.

From edges and statuses it says what a reader sees.

It imports nothing of ours, so that no error can be in it and in what it judges. Ids are whatever can be ordered:
ObjectIds, or the names of people in a test.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any, Generic, NamedTuple, Protocol, Self, TypeVar


class Ordered(Protocol):
    def __lt__(self, other: Any, /) -> bool: ...
    def __hash__(self) -> int: ...


Id = TypeVar("Id", bound=Ordered)


class Relation(NamedTuple):
    """The relation of a reader to an author."""

    follows: bool = True
    followed_back: bool = False
    blocked: bool = False  # either of them by the other
    in_circle: bool = False  # the reader, in the author's
    same: bool = False  # the reader is the author


def admitted(audience: str, relation: Relation) -> bool:
    """Return whether the reader sees a status that is not deleted: the one definition."""
    if relation.same:
        return True
    if not relation.follows or relation.blocked:
        return False
    return {"followers": True, "mutuals": relation.followed_back, "circle": relation.in_circle}[audience]


@dataclass(frozen=True)
class Told(Generic[Id]):
    """A status that was posted, with its text."""

    author: Id
    text: str
    audience: str
    deleted: bool = False


@dataclass
class Oracle(Generic[Id]):
    """Edges and statuses, and what follows from them for each reader.

    Pairs read as a sentence: (follower, followee), (blocker, blocked), (owner, member), (muter, muted), (reader, liked
    status). `departed`: people whose account is deleted.
    """

    statuses: dict[Id, Told[Id]] = field(default_factory=dict)
    follows: set[tuple[Id, Id]] = field(default_factory=set)
    blocks: set[tuple[Id, Id]] = field(default_factory=set)
    circles: set[tuple[Id, Id]] = field(default_factory=set)
    mutes: set[tuple[Id, Id]] = field(default_factory=set)
    likes: set[tuple[Id, Id]] = field(default_factory=set)
    departed: set[Id] = field(default_factory=set)

    @classmethod
    def of(cls, **documents: Iterable[Mapping[str, Any]]) -> Self:
        """Make an oracle from raw documents by collection.

        They are any of `statuses`, `follows`, `blocks`, `circles`, `mutes`, `departures` and `likes`; a like has
        `reader` and `status`.
        """
        oracle = cls()
        for row in documents.get("statuses", ()):
            audience, deleted = row.get("audience") or "", row["deleted"]
            oracle.statuses[row["_id"]] = Told(row["user_id"], row.get("text") or "", audience, deleted)
        oracle.follows |= {(row["follower"], row["followee"]) for row in documents.get("follows", ())}
        oracle.blocks |= {(row["blocker"], row["blocked"]) for row in documents.get("blocks", ())}
        oracle.circles |= {(row["owner"], row["member"]) for row in documents.get("circles", ())}
        oracle.mutes |= {(row["muter"], row["muted"]) for row in documents.get("mutes", ())}
        oracle.likes |= {(row["reader"], row["status"]) for row in documents.get("likes", ())}
        oracle.departed |= {row["_id"] for row in documents.get("departures", ())}
        return oracle

    def block(self, blocker: Id, blocked: Id) -> None:
        """Block somebody: it ends both follows, and the circle stays as it is."""
        self.blocks.add((blocker, blocked))
        self.follows -= {(blocker, blocked), (blocked, blocker)}

    def delete(self, status: Id) -> None:
        self.statuses[status] = replace(self.statuses[status], deleted=True)
        self.likes = {like for like in self.likes if like[1] != status}

    def depart(self, person: Id) -> None:
        """Delete a person's account. Nothing is left of it but likes, which are counted until they are removed."""
        self.departed.add(person)
        for id in [id for id, status in self.statuses.items() if status.author == person]:
            self.delete(id)
        for pairs in (self.follows, self.blocks, self.circles, self.mutes):
            pairs -= {pair for pair in pairs if person in pair}

    def across_block(self, one: Id, other: Id) -> bool:
        return (one, other) in self.blocks or (other, one) in self.blocks

    def relation(self, reader: Id, author: Id) -> Relation:
        return Relation(
            follows=(reader, author) in self.follows,
            followed_back=(author, reader) in self.follows,
            blocked=self.across_block(reader, author),
            in_circle=(author, reader) in self.circles,
            same=reader == author,
        )

    def visible(self, id: Id, reader: Id) -> bool:
        status = self.statuses[id]
        there = not status.deleted and status.author not in self.departed
        return there and admitted(status.audience, self.relation(reader, status.author))

    def timeline(self, reader: Id) -> list[Id]:
        """Return all of a reader's timeline, newest first."""
        authors = {status.author for status in self.statuses.values()}
        relations = {author: self.relation(reader, author) for author in authors}
        shown = (
            id
            for id, status in self.statuses.items()
            if not status.deleted
            and status.author not in self.departed
            and admitted(status.audience, relations[status.author])
            and (reader, status.author) not in self.mutes
        )
        return sorted(shown, reverse=True)

    def liked(self, id: Id, reader: Id) -> tuple[int, bool]:
        """Return how many people like the status, and whether the reader does."""
        return sum(status == id for _, status in self.likes), (reader, id) in self.likes

    def told(self, reader: Id, handle: str) -> set[tuple[str, Id, Id | None]]:
        """Return (kind, who, status) of each notification that the reader is shown, who is mentioned by this handle."""
        mine = {id for id, status in self.statuses.items() if status.author == reader and not status.deleted}
        told: set[tuple[str, Id, Id | None]] = {
            *(("follow", who, None) for who, whom in self.follows if whom == reader),
            *(("circle", owner, None) for owner, member in self.circles if member == reader),
            *(("like", who, id) for who, id in self.likes if id in mine and who != reader),
        }
        statuses = {id: self.statuses[id] for id in self.timeline(reader)}
        return {one for one in told if one[1] not in self.departed and not self.across_block(one[1], reader)} | {
            ("mention", status.author, id)
            for id, status in statuses.items()
            if status.author != reader and f"@{handle}" in status.text.split()
        }

    def page(self, reader: Id, before: Id | None, limit: int) -> tuple[list[Id], bool]:
        """Return the newest `limit` statuses below `before`, and whether more follow."""
        older = [id for id in self.timeline(reader) if before is None or id < before]
        return older[:limit], len(older) > limit
