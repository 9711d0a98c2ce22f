"""The harness's knowledge of its people: what it has loaded, in arrays, and what a round has changed since.

People are numbers of the graph. The oracle of a reader is made of what concerns that reader, when it is asked for: a
graph of a million people fits in memory, and a round pays for what it needs.
"""

from array import array
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, get_args

from bson import ObjectId

from app.demo.graph import Graph, Groups
from app.models import Audience
from benchmarks.oracle import Oracle, Told

AUDIENCES: tuple[Audience, ...] = get_args(Audience)
ID_BYTES = 12

Pair = tuple[int, int]  # a sentence: follower and followee, blocker and blocked


class Loaded:
    """The people, edges, circles and statuses from before every round.

    `ids`: ascending. `circles`: the members by owner. `readers`: those who are active, ascending.
    """

    def __init__(
        self, graph: Graph, ids: Sequence[ObjectId], circles: Mapping[int, Sequence[int]], readers: Sequence[int]
    ) -> None:
        self.graph, self.ids, self.circles, self.readers = graph, ids, circles, readers
        self.number = {id: number for number, id in enumerate(ids)}
        self.is_reader = bytearray(len(ids))
        for reader in readers:
            self.is_reader[reader] = True
        self.active_followers = array("I", bytes(4 * len(ids)))  # how many, by followee
        for follower, followee in graph.follows():
            self.active_followers[followee] += self.is_reader[follower]
        self._statuses, self._authors, self._audiences = bytearray(), array("I"), bytearray()
        self._by_author = Groups(self._authors, len(ids))

    def noting(self, documents: Iterable[dict[str, Any]]) -> Iterator[dict[str, Any]]:
        """Yield these statuses, and note each as it passes."""
        for status in documents:
            self._statuses += status["_id"].binary
            self._authors.append(self.number[status["user_id"]])
            self._audiences.append(AUDIENCES.index(status["audience"]))
            yield status
        self._by_author = Groups(self._authors, len(self.ids))

    @property
    def statuses(self) -> int:
        return len(self._authors)

    def statuses_of(self, author: int) -> Iterator[tuple[ObjectId, Audience]]:
        for place in self._by_author[author]:
            id = ObjectId(bytes(self._statuses[place * ID_BYTES : (place + 1) * ID_BYTES]))
            yield id, AUDIENCES[self._audiences[place]]


@dataclass
class Record:
    """The changes of a round, by what was answered. `gained`: new followers, of everybody and of the readers alone."""

    loaded: Loaded
    statuses: dict[ObjectId, Told[int]] = field(default_factory=dict)
    followed: set[Pair] = field(default_factory=set)
    unfollowed: set[Pair] = field(default_factory=set)
    blocks: set[Pair] = field(default_factory=set)
    _gained: Counter[int] = field(default_factory=Counter)
    _gained_active: Counter[int] = field(default_factory=Counter)

    def post(self, status: ObjectId, author: int, audience: str) -> None:
        self.statuses[status] = Told(author, "", audience)

    def delete(self, status: ObjectId) -> None:
        self.statuses[status] = replace(self.statuses[status], deleted=True)

    def follow(self, who: int, other: int) -> None:
        if not self.follows(who, other):
            self._change(who, other, self.unfollowed, self.followed, 1)

    def unfollow(self, who: int, other: int) -> None:
        if self.follows(who, other):
            self._change(who, other, self.followed, self.unfollowed, -1)

    def _change(self, who: int, other: int, undone: set[Pair], done: set[Pair], by: int) -> None:
        pair = who, other
        if pair in undone:
            undone.remove(pair)
        else:
            done.add(pair)
        self._gained[other] += by
        self._gained_active[other] += by * self.loaded.is_reader[who]

    def block(self, blocker: int, blocked: int) -> None:
        """Block somebody: it ends both follows, and the circle stays as it is."""
        self.blocks.add((blocker, blocked))
        self.unfollow(blocker, blocked)
        self.unfollow(blocked, blocker)

    def follows(self, who: int, other: int) -> bool:
        pair = who, other
        if pair in self.followed or pair in self.unfollowed:
            return pair in self.followed
        graph = self.loaded.graph
        return any(graph.followees[edge] == other for edge in graph.by_follower[who])

    def followers(self, author: int, *, active: bool) -> int:
        """Return the number of followers; `active`: those among the readers alone."""
        if active:
            return self.loaded.active_followers[author] + self._gained_active[author]
        return self.loaded.graph.by_followee.size(author) + self._gained[author]

    def last_follower(self, author: int) -> int | None:
        """Return the follower with the highest id; None without one."""
        graph = self.loaded.graph
        edges = reversed(graph.by_followee[author])
        loaded = (graph.followers[edge] for edge in edges if (graph.followers[edge], author) not in self.unfollowed)
        new = [who for who, other in self.followed if other == author]
        return max([*new, *([first] if (first := next(loaded, None)) is not None else [])], default=None)

    def changed(self) -> set[int]:
        """Return the people whose followees are not the loaded ones any more."""
        return {who for who, _ in self.followed | self.unfollowed}

    def touched(self) -> set[int]:
        """Return everybody whose timeline may not be the loaded one any more."""
        graph, authors = self.loaded.graph, {told.author for told in self.statuses.values()}
        followers = {graph.followers[edge] for author in authors for edge in graph.by_followee[author]}
        return authors | followers | {person for pair in self.followed | self.unfollowed for person in pair}

    def oracle(self, reader: int) -> Oracle[ObjectId]:
        """Return an oracle of everything that decides what is on this reader's timeline.

        Strangers' statuses are never on it, and are left out.
        """
        loaded, ids = self.loaded, self.loaded.ids
        followees = {*loaded.graph.followees_of(reader), *(other for who, other in self.followed if who == reader)}
        followees = {other for other in followees if (reader, other) not in self.unfollowed}
        authors, oracle = {*followees, reader}, Oracle[ObjectId]()
        oracle.follows = {(ids[reader], ids[author]) for author in followees}
        oracle.follows |= {(ids[author], ids[reader]) for author in authors if self.follows(author, reader)}
        oracle.blocks = {(ids[one], ids[other]) for one, other in self.blocks}
        oracle.circles = {(ids[a], ids[reader]) for a in authors if reader in loaded.circles.get(a, ())}
        for author in authors:
            for id, audience in loaded.statuses_of(author):
                oracle.statuses[id] = Told(ids[author], "", audience)
        for id, told in self.statuses.items():
            if told.author in authors:
                oracle.statuses[id] = Told(ids[told.author], "", told.audience, told.deleted)
        return oracle
