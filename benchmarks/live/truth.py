"""The truth of a live run: what may be shown to whom, and what has to be, from acknowledged answers alone."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from itertools import pairwise
from math import inf

from benchmarks.oracle import Relation, admitted

Change = Callable[[Relation], Relation]


@dataclass(eq=False)
class Post:
    """A status that was posted.

    Its times are of the loop's clock. `text` is unique: by it the status is known before its id.
    """

    author: int
    text: str
    audience: str
    began_s: float
    step: int
    id: str | None = None
    acknowledged_s: float = inf
    is_deleted: bool = False


@dataclass
class Truth:
    """The truth about relations and posts.

    `follows`, `circles`: (follower, followee), (owner, member), as they are without our changes.
    """

    follows: set[tuple[int, int]]
    circles: set[tuple[int, int]]
    posts: dict[str, Post] = field(default_factory=dict)  # by text
    by_id: dict[str, Post] = field(default_factory=dict)
    _changed: dict[tuple[int, int], list[tuple[float, frozenset[Relation]]]] = field(default_factory=dict)

    def relation(self, reader: int, author: int) -> Relation:
        """Return the relation of a pair as it is now. No change of it may be under way."""
        if (reader, author) in self._changed:
            (only,) = self._changed[reader, author][-1][1]
            return only
        return Relation(
            follows=(reader, author) in self.follows,
            followed_back=(author, reader) in self.follows,
            in_circle=(author, reader) in self.circles,
            same=reader == author,
        )

    def asked(self, reader: int, author: int, change: Change, now_s: float) -> None:
        """Note that a change may be made at any moment from now on. The other side of an edge changes with it."""
        for pair, made in _both(reader, author, change):
            now = self.relation(*pair)
            history = self._changed.setdefault(pair, [(0.0, frozenset({now}))])
            history.append((now_s, frozenset({now, made(now)})))

    def answered(self, reader: int, author: int, change: Change, now_s: float) -> None:
        for pair, made in _both(reader, author, change):
            history = self._changed[pair]
            history.append((now_s, frozenset(map(made, history[-2][1]))))

    def is_steady(self, reader: int, author: int) -> bool:
        return (reader, author) not in self._changed

    def may_see(self, reader: int, author: int, audience: str, since_s: float, now_s: float) -> bool:
        """Return whether there was a moment at which the reader was allowed to see such a status."""
        possible = self._between(reader, author, since_s, now_s)
        return any(admitted(audience, relation) for relation in possible)

    def _between(self, reader: int, author: int, since_s: float, now_s: float) -> Iterator[Relation]:
        if (reader, author) not in self._changed:
            yield self.relation(reader, author)
            return
        for (begin, relations), (end, _) in pairwise([*self._changed[reader, author], (inf, frozenset())]):
            if begin <= now_s and end >= since_s:
                yield from relations


def _both(reader: int, author: int, change: Change) -> Iterator[tuple[tuple[int, int], Change]]:
    yield (reader, author), change
    yield (author, reader), lambda relation: _turned(change(_turned(relation)))


def _turned(relation: Relation) -> Relation:
    """Return the relation as the other person has it, whose circle it leaves out: circles are each one's own."""
    return relation._replace(follows=relation.followed_back, followed_back=relation.follows)
