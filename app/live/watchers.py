"""Who is here: people with connections to this process, what they have been told, and how they are told more."""

import asyncio
from collections.abc import Callable, Iterable, Iterator, Sequence, Set
from dataclasses import dataclass, field
from typing import Any, Literal, NamedTuple

from bson import ObjectId

from app.edges import Version
from app.live.connection import Connection, StreamEvent
from app.live.position import Has, sealed
from app.live.presence import Presence
from app.live.steps import Step, UnreadCounts

Part = Literal["edges", "page", "inbox", "presence"]  # the parts of a person's state
EVERYTHING: frozenset[Part] = frozenset({"edges", "page", "inbox", "presence"})
NONE: frozenset[Any] = frozenset()  # shared, since another empty set takes 216 bytes


class PersonVersions(NamedTuple):
    """The versions and numbers that were looked up of a person, to be compared with later ones.

    `edges`, `likes`: the versions of their edges and of their likes. `seq`: the last number in their inbox. `read_to`:
    up to which number they have read it.
    """

    edges: Version
    likes: int
    seq: int
    read_to: int

    @property
    def inbox(self) -> tuple[int, int]:
        return self.seq, self.read_to


@dataclass(slots=True, eq=False)
class Watcher:
    """A person with connections here, who have all been told the same.

    `opening`: how many connections are being opened. `acquainted`: people whose names and presence they see, besides
    those on their page. `seen`: presence as they have been told it; of whoever is not in it they will be told.

    `tellers`: people who did what the notifications tell of that are on the first page or counted as unread; `about`:
    the statuses that these are about; `down_to`: the number from which on they are. `told`: how often what they have of
    notifications has changed. `standing`: at the last look a number that changes once one of these is true no longer,
    or again, and `told`. `looked`: versions and numbers at the last look; None before the first one.

    `dirty`: parts that have to be read anew. `line`: held by whoever reads them, or is the next to. `turn`: while it is
    held, they are read, and nothing else changes what they have. `reads` counts the times that they were read, and
    `failures` how often a server was waited for in vain. `pages_until_s`: until when their page would be read, if it
    were as often as it may be.
    """

    me: ObjectId
    has: Has = field(default_factory=Has)
    counts: UnreadCounts = field(default_factory=lambda: UnreadCounts(0, 0))
    connections: list[Connection] = field(default_factory=list)
    opening: int = 0
    followees: list[ObjectId] = field(default_factory=list)
    acquainted: frozenset[ObjectId] = NONE
    tellers: frozenset[ObjectId] = NONE
    about: frozenset[ObjectId] = NONE
    down_to: int = 0
    seen: dict[ObjectId, Presence | None] = field(default_factory=dict)
    looked: PersonVersions | None = None
    told: int = 0
    standing: tuple[int, int] | None = None
    dirty: frozenset[Part] = NONE
    line: asyncio.Lock = field(default_factory=asyncio.Lock)
    turn: asyncio.Lock = field(default_factory=asyncio.Lock)
    reads: int = 0
    failures: int = 0
    pages_until_s: float = 0.0
    reading: "asyncio.Task[None] | None" = None

    @property
    def authors(self) -> set[ObjectId]:
        """The authors of the statuses on their page."""
        return {shown.author for shown in self.has.page.values() if shown.author}

    @property
    def named(self) -> set[ObjectId]:
        """The people whose names they see: their own is on their messages."""
        return self.authors.union(self.acquainted, (self.me,))

    @property
    def concerned(self) -> set[ObjectId]:
        """The people whose accounts, if deleted, would change what they see."""
        return self.named | self.tellers

    @property
    def shown(self) -> set[ObjectId]:
        """The statuses on their page, and those that their notifications are about."""
        return {*self.has.page, *self.about}

    @property
    def is_known(self) -> bool:
        """Whether their state has been read, or is being read.

        Of whoever is just coming it will be read after what is heard now has happened.
        """
        return bool(self.reads) or self.turn.locked()

    def is_told_of(self, statuses: Set[ObjectId]) -> bool:
        """Say whether any of their notifications is about one of these statuses."""
        return not self.about.isdisjoint(statuses)


class Watchers:
    """The people who are here. There is one instance per process.

    `secret`: seals positions. `sent`: is told the name of each event, and how many connections it goes to. `read_anew`:
    begins to read what is dirty of somebody.
    """

    def __init__(self, secret: bytes, sent: Callable[[str, int], None], read_anew: Callable[[Watcher], None]) -> None:
        self.secret, self.sent, self._read_anew = secret, sent, read_anew
        self._by_person: dict[ObjectId, Watcher] = {}
        self._followers: dict[ObjectId, dict[Watcher, None]] = {}  # by author, those who are here
        self.connections = 0  # of everybody, with those that are being opened

    def __iter__(self) -> Iterator[Watcher]:
        return iter(list(self._by_person.values()))

    def of(self, person: ObjectId) -> Watcher | None:
        return self._by_person.get(person)

    def known(self) -> list[Watcher]:
        return [watcher for watcher in self if watcher.is_known]

    # Who comes and goes

    def begin_opening(self, watcher: Watcher) -> None:
        self._by_person[watcher.me] = watcher
        watcher.opening += 1
        self.connections += 1

    def end_opening(self, watcher: Watcher) -> None:
        watcher.opening -= 1
        self.connections -= 1
        self._forget_if_gone(watcher)

    def add(self, watcher: Watcher, connection: Connection) -> None:
        watcher.connections.append(connection)
        self.connections += 1

    def remove(self, connection: Connection) -> None:
        """Forget a connection, if it is still known."""
        watcher = self.of(connection.me)
        if watcher and connection in watcher.connections:
            watcher.connections.remove(connection)
            self.connections -= 1
            self._forget_if_gone(watcher)

    def _forget_if_gone(self, watcher: Watcher) -> None:
        if not watcher.connections and not watcher.opening:
            self._by_person.pop(watcher.me, None)
            self.set_followees(watcher, [])

    def set_followees(self, watcher: Watcher, followees: Sequence[ObjectId]) -> None:
        """Note that a person follows these authors, and nobody else any more."""
        for author in watcher.followees:
            here = self._followers[author]
            del here[watcher]
            if not here:
                del self._followers[author]
        is_here = self.of(watcher.me) is watcher  # not gone while this was looked up
        watcher.followees = list(followees) if is_here else []
        for author in watcher.followees:
            self._followers.setdefault(author, {})[watcher] = None

    def followers_of(self, author: ObjectId) -> list[Watcher]:
        """Return those who are here and follow the author, and the author."""
        own = self.of(author)
        return [*self._followers.get(author, ()), *([own] if own else [])]

    # What they are told

    def mark_dirty(self, whom: ObjectId, parts: Iterable[Part]) -> None:
        watcher = self.of(whom)
        if watcher and watcher.is_known:
            watcher.dirty = watcher.dirty.union(parts)
            self._read_anew(watcher)

    def see_anew(self, watcher: Watcher | None, people: Set[ObjectId]) -> None:
        """Have somebody told of the presence of these people again, because it may have changed."""
        if watcher and (some := people if watcher.turn.locked() else people & watcher.acquainted):
            for person in some:
                watcher.seen.pop(person, None)
            self.mark_dirty(watcher.me, {"presence"})

    def tell(self, watcher: Watcher, steps: Iterable[Step]) -> None:
        for event in self.told(watcher.me, watcher.has, steps):
            for connection in watcher.connections:
                connection.put(event)
            self.sent(event.name, len(watcher.connections))

    def told(self, me: ObjectId, has: Has, steps: Iterable[Step]) -> Iterator[StreamEvent]:
        """Yield the event of each step, with the position after it, and apply the step to `has`."""
        for step in steps:
            step.apply(has)
            yield StreamEvent(sealed(self.secret, me, has), step.event, step.data)
