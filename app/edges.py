"""Who follows, blocks and encircles whom, as a read asks it: looked up, and remembered while it cannot have changed.

Every change of a reader's own edges raises their version in the same transaction. What was looked up at a version is
true as long as that is the version, so a read that finds it again need not look up anything. Who follows the reader
is not theirs to change: that is looked up whenever it matters, and never remembered.
"""

from collections.abc import Awaitable, Callable, Collection, Mapping
from dataclasses import dataclass, field
from typing import NamedTuple, TypeVar

from bson import ObjectId
from cachetools import LRUCache

from app.models import EdgeVersion, StatusRow
from app.stack.mongodb import Database, Find, Rows, Transaction, rows, transaction

T = TypeVar("T")
VERSIONS = EdgeVersion.Settings.name
# The two rows that widen what a reader may see: (collection, field of the reader, field of the author).
WIDENING = (("follows", "follower", "followee"), ("circles", "member", "owner"))

IDS_REMEMBERED = 500_000  # of all readers together, about 100 bytes each
FOLLOWEES_AT_ONCE = 20_000
ROW_SIZE = 5  # a status takes as much as so many ids


class Relation(NamedTuple):
    """Of a reader to an author."""

    follows: bool
    blocked: bool  # by either of them
    in_circle: bool  # the reader, in the author's


@dataclass(frozen=True)
class Reader:
    """What the edges say about a reader: of one moment. Who is not in a mapping has not been looked up for it."""

    id: ObjectId
    relations: Mapping[ObjectId, Relation]
    followed_by: Mapping[ObjectId, bool]


@dataclass
class Known:
    """What holds of a reader while their edges are at this version; it only grows. None: nothing has been asked yet.

    `paid`: no backfill was owed (rule 4), so none is. `page`: the statuses that it took to fill the last first page; a
    status never changes, but it may be deleted.
    """

    reader: ObjectId
    version: int | None = None
    relations: dict[ObjectId, Relation] = field(default_factory=dict)
    followees: list[ObjectId] | None = None
    paid: bool = False
    page: dict[ObjectId, StatusRow] = field(default_factory=dict)

    def __len__(self) -> int:
        return 1 + len(self.relations) + len(self.followees or ()) + ROW_SIZE * len(self.page)


def deleted_among(page: Mapping[ObjectId, StatusRow]) -> Find:
    return Find("statuses", {"_id": {"$in": list(page)}, "deleted": True}, ("_id",), len(page))


def without(deleted: Rows, page: Mapping[ObjectId, StatusRow]) -> dict[ObjectId, StatusRow]:
    """The page, after the answer to `deleted_among`."""
    gone = {row["_id"] for row in deleted}
    return {id: row._replace(audience=None) if id in gone else row for id, row in page.items()} if gone else dict(page)


def followees_of(reader: ObjectId) -> Find:
    return Find("follows", {"follower": reader}, ("followee",), FOLLOWEES_AT_ONCE)


async def followees(db: Database, reader: ObjectId) -> list[ObjectId]:
    """Whom the reader follows now."""
    return [edge["followee"] for edge in await rows(db, followees_of(reader))]


def version_of(reader: ObjectId) -> Find:
    return Find(VERSIONS, {"_id": reader}, ("version",), 1)


def version_in(found: Rows) -> int:
    """0 for a reader none of whose edges has been changed yet."""
    return int(found[0]["version"]) if found else 0


def debts(reader: ObjectId) -> dict[str, Find]:
    """Whether the reader is owed a backfill (rule 4)."""
    return {f"owed_{name}": Find(name, {"debt": True, field: reader}, ("debt",), 1) for name, field, _ in WIDENING}


class View:
    """The edges as one read sees them: what was known before, and what it looks up, all of one version."""

    def __init__(self, known: Known) -> None:
        self.known = known
        self._followed_by: dict[ObjectId, bool] = {}

    def reader(self) -> Reader:
        return Reader(self.known.reader, self.known.relations, self._followed_by)

    def lacks(self, authors: set[ObjectId], mutual: set[ObjectId]) -> dict[str, Find]:
        """What to look up before these authors can be judged, and those of statuses for mutuals; `hear` the answers.

        Each look-up is answered by an index alone.
        """
        me = self.known.reader
        self._strangers = sorted(authors - self.known.relations.keys() - {me})
        self._backs = sorted(mutual.union(self._strangers) - self._followed_by.keys() - {me})
        finds: dict[str, Find] = {}
        if self._backs:
            some, n = {"$in": self._backs}, len(self._backs)
            finds |= {
                "version": version_of(me),
                "follow_back": Find("follows", {"follower": some, "followee": me}, ("follower",), n),
            }
        if self._strangers:
            some, n = {"$in": self._strangers}, len(self._strangers)
            finds |= {
                "followed": Find("follows", {"follower": me, "followee": some}, ("followee",), n),
                "blocked": Find("blocks", {"blocker": me, "blocked": some}, ("blocked",), n),
                "blockers": Find("blocks", {"blocked": me, "blocker": some}, ("blocker",), n),
                "circles": Find("circles", {"owner": some, "member": me}, ("owner",), n),
            }
        return finds

    def hear(self, answers: Mapping[str, Rows]) -> None:
        version = version_in(answers["version"])
        if self.known.version is None:
            self.known.version = version
        elif version != self.known.version:  # changed meanwhile: what was known before counts no more
            self.known, self._followed_by = Known(self.known.reader, version), {}
        followers = _authors(answers["follow_back"])
        self._followed_by |= {author: author in followers for author in self._backs}
        if "followed" in answers:
            follows, circles = _authors(answers["followed"]), _authors(answers["circles"])
            blocks = _authors(answers["blocked"]) | _authors(answers["blockers"])
            self.known.relations |= {
                author: Relation(author in follows, author in blocks, author in circles) for author in self._strangers
            }


def _authors(found: Rows) -> set[ObjectId]:
    """Each row has one field: the author."""
    return {author for row in found for author in row.values()}


class Memory:
    """What one process knows about the readers who came last."""

    def __init__(self) -> None:
        self._readers: LRUCache[ObjectId, Known] = LRUCache(IDS_REMEMBERED, getsizeof=len)

    def recall(self, reader: ObjectId, version: int | None = None) -> Known | None:
        """At this version, if one is given."""
        known: Known | None = self._readers.get(reader)
        return known if known and version in (None, known.version) else None

    def keep(self, known: Known) -> None:
        """Also after it has grown."""
        self._readers.pop(known.reader, None)
        if len(known) <= IDS_REMEMBERED:
            self._readers[known.reader] = known

    def forget(self, reader: ObjectId) -> None:
        self._readers.pop(reader, None)


async def change_edges(db: Database, readers: Collection[ObjectId], work: Callable[[Transaction], Awaitable[T]]) -> T:
    """Do `work` and raise the readers' versions, all of it or nothing. It may be tried several times.

    Of two changes that have a reader in common one comes first, and the other one sees what it has done.
    """

    async def versioned(inside: Transaction) -> T:
        for reader in sorted(readers):  # the same order for everybody
            await inside[VERSIONS].update_one({"_id": reader}, {"$inc": {"version": 1}}, upsert=True)
        return await work(inside)

    return await transaction(db, versioned)
