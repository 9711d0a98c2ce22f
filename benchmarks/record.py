"""What happened, as the harness itself knows it, and the timelines that follow from that: the oracle.

It shares no code with `app.access` and `phases`: DESIGN's definition is written down here a second time, on sets.
"""

from collections import defaultdict
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any

from bson import ObjectId

from app.models import Audience

Edge = tuple[ObjectId, ObjectId]


@dataclass
class Record:
    """People, edges and statuses of one database. Ids only: nothing here is read back from it."""

    following: dict[ObjectId, set[ObjectId]] = field(default_factory=lambda: defaultdict(set))
    followers: dict[ObjectId, set[ObjectId]] = field(default_factory=lambda: defaultdict(set))
    circles: dict[ObjectId, set[ObjectId]] = field(default_factory=lambda: defaultdict(set))  # owner: members
    blocks: set[Edge] = field(default_factory=set)
    statuses: dict[ObjectId, dict[ObjectId, Audience]] = field(default_factory=lambda: defaultdict(dict))  # by author

    def copy(self) -> "Record":
        other = Record()
        for mine, its in ((self.following, other.following), (self.followers, other.followers)):
            its.update({person: set(people) for person, people in mine.items()})
        other.circles.update({owner: set(members) for owner, members in self.circles.items()})
        other.blocks = set(self.blocks)
        other.statuses.update({author: dict(statuses) for author, statuses in self.statuses.items()})
        return other

    def follow(self, reader: ObjectId, followee: ObjectId) -> None:
        self.following[reader].add(followee)
        self.followers[followee].add(reader)

    def unfollow(self, reader: ObjectId, followee: ObjectId) -> None:
        self.following[reader].discard(followee)
        self.followers[followee].discard(reader)

    def block(self, blocker: ObjectId, blocked: ObjectId) -> None:
        self.blocks.add((blocker, blocked))
        self.unfollow(blocker, blocked)
        self.unfollow(blocked, blocker)

    def post(self, author: ObjectId, status: ObjectId, audience: Audience) -> None:
        self.statuses[author][status] = audience

    def delete(self, author: ObjectId, status: ObjectId) -> None:
        del self.statuses[author][status]

    def sees(self, reader: ObjectId, author: ObjectId, audience: Audience) -> bool:
        if reader == author:
            return True
        if author not in self.following[reader] or {(reader, author), (author, reader)} & self.blocks:
            return False
        if audience == "mutuals":
            return reader in self.following[author]
        return audience == "followers" or reader in self.circles[author]

    def timeline(self, reader: ObjectId) -> list[ObjectId]:
        """Everything that the reader may see, newest first."""
        return sorted(
            (
                status
                for author in (reader, *self.following[reader])
                for status, audience in self.statuses.get(author, {}).items()
                if self.sees(reader, author, audience)
            ),
            reverse=True,
        )

    def edges(self) -> set[Edge]:
        return {(reader, followee) for reader, people in self.following.items() for followee in people}


def recorded(
    follows: Iterable[dict[str, Any]], circles: Iterable[dict[str, Any]], statuses: Iterable[dict[str, Any]]
) -> Record:
    """The record of documents that are about to be inserted."""
    record = Record()
    for edge in follows:
        record.follow(edge["follower"], edge["followee"])
    for row in circles:
        record.circles[row["owner"]].add(row["member"])
    for status in statuses:
        record.post(status["user_id"], status["_id"], status["audience"])
    return record
