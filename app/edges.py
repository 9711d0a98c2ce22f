"""Follows, blocks, circles and mutes as a read asks for them: looked up, and remembered while they cannot have changed.

Every change of a reader's own edges gives them another version in the same transaction. An answer that was looked up at
a version is true as long as that is the version, so a read that finds it again need not look up anything. A reader's
followers are not theirs to change: they are looked up whenever they matter, and never remembered.
"""

from collections.abc import Awaitable, Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cache
from typing import Any, NamedTuple, TypeVar

from bson import ObjectId
from cachetools import LRUCache
from pymongo.errors import DuplicateKeyError

from app.clock import FIRST_ID
from app.errors import NoAccount
from app.models import NOBODY, Departure, EdgeVersion, StatusRow, versions_tag
from app.same import IDS
from app.stack.mongodb.connection import Database
from app.stack.mongodb.find import Find, Rows, together
from app.stack.mongodb.transaction import Transaction, transaction

T = TypeVar("T")
VERSIONS, DEPARTURES = EdgeVersion.Settings.name, Departure.Settings.name
IDS_REMEMBERED = 500_000  # of all readers together, about 100 bytes each
FOLLOWEES_AT_ONCE = 20_000
NAMES = FIRST_ID  # nobody's id: its version is raised by every change of a name, and by the end of an account
MARKERS = ObjectId(bytes(11) + b"\1")  # nobody's id, too: raised by every new marker of a pulled author
LATE = ObjectId(bytes(11) + b"\2")  # nobody's id, too: its version changes when a status becomes pending late
NEVER: Mapping[str, Any] = {}  # nothing has been raised yet
OF_NOBODY = versions_tag(NAMES), versions_tag(MARKERS), versions_tag(LATE)


# The version of a reader's edges: 0 before the first change, then an id, which never comes back, in a restored database
# neither. Earlier releases counted.
Version = int | ObjectId


class Relation(NamedTuple):
    """The relation of a reader to an author."""

    follows: bool
    blocked: bool  # by either of them
    in_circle: bool  # the reader, in the author's
    muted: bool  # the author, by the reader


relation = cache(Relation)  # each of the sixteen is one object


@dataclass(frozen=True)
class Reader:
    """A reader and what the edges say about them, at one moment, for the authors that were looked up. `departed`: those
    of them whose account is deleted.
    """

    id: ObjectId
    relations: Mapping[ObjectId, Relation]
    followed_by: Mapping[ObjectId, bool]
    departed: Collection[ObjectId] = frozenset()


@dataclass
class OwnEdges:
    """The reader's own edges while they are at this version. What is known of them only grows; None: not looked up yet.

    `unmuted`: the followees whom the reader does not mute. `backfilled`: no backfill is owed at this version; a new
    debt comes with a new version (rule 4). `noted_in`: the containers beside which all of these relations are noted for
    other processes.
    """

    reader: ObjectId
    version: Version | None = None
    relations: dict[ObjectId, Relation] = field(default_factory=dict)
    followees: list[ObjectId] | None = None
    unmuted: list[ObjectId] | None = None
    backfilled: bool = False
    noted_in: tuple[str, ...] = ()

    def confirm(self, version: Version) -> None:
        """Note that the edges are of this version, and no backfill is owed."""
        self.version, self.backfilled = version, True

    def __len__(self) -> int:
        return 1 + len(self.relations) + len(self.followees or ())


def followees_of(reader: ObjectId) -> Find:
    return Find("follows", {"follower": reader}, ("followee",), FOLLOWEES_AT_ONCE)


def mutes_of(reader: ObjectId) -> Find:
    """Return the look-up of those whom the reader mutes. Where there are more, the read decides about the others."""
    return Find("mutes", {"muter": reader}, ("muted",), FOLLOWEES_AT_ONCE)


def departed_among(people: Sequence[ObjectId]) -> Find:
    """Return the look-up of those whose account is deleted, while anything of it may be left."""
    return Find(DEPARTURES, {"_id": {"$in": people}}, ("_id",), len(people))


def version_key(whose: ObjectId) -> dict[str, Any]:
    """Return what the document with somebody's versions is named by: its id, with the shard key."""
    return {"_id": versions_tag(whose), "user_id": NOBODY}


def new_versions(whose: ObjectId) -> dict[str, Any]:
    """Return what the document with somebody's versions has from its beginning, beside the key."""
    return {"pending": [versions_tag(whose)]}


def version_of(nobody: ObjectId) -> Find:
    """Return the look-up of the version of NAMES, of MARKERS or of LATE; `version_in` reads the answer to the first
    two.
    """
    return Find.tagged(VERSIONS, [versions_tag(nobody)], ("version",), 1)


def version_in(rows: Rows) -> int:
    return int(rows[0].get("version", 0)) if rows else 0


class Versions(NamedTuple):
    """The versions of a reader's edges and of what they like, of everybody's names, and of the markers of pulled
    authors.

    `tokens`: that of the reader's tokens, which never comes back either. `late`: another one after each status that has
    become pending later than its id says.
    """

    edges: Version = 0
    likes: int = 0
    tokens: ObjectId | None = None
    names: int = 0
    markers: int = 0
    late: Version = 0


def versions_of(reader: ObjectId) -> Find:
    return _tagged_versions((*OF_NOBODY, versions_tag(reader)))


def versions_of_all(people: Sequence[ObjectId]) -> Find:
    """Return the look-up of the versions of several readers, without those that are nobody's."""
    return _tagged_versions([versions_tag(person) for person in people])


def _tagged_versions(tags: Sequence[str]) -> Find:
    return Find.tagged(VERSIONS, tags, ("_id", "version", "likes", "tokens"), len(tags))


def versions_in(rows: Rows) -> Versions:
    by_tag: dict[str, Mapping[str, Any]] = {row["_id"]: row for row in rows}
    names, markers, late = [by_tag.pop(tag, NEVER) for tag in OF_NOBODY]
    own = next(iter(by_tag.values()), NEVER)
    return Versions(
        edges=own.get("version", 0),
        likes=int(own.get("likes", 0)),
        tokens=own.get("tokens"),
        names=int(names.get("version", 0)),
        markers=int(markers.get("version", 0)),
        late=late.get("version", 0),
    )


class View:
    """The edges as one read sees them: what was remembered, and what it looks up, all of one version.

    `departed`: everybody whose account is deleted; None, where that has to be looked up as well. `gone`: statuses that
    were deleted by the time that edges were looked up. `steady`: whoever was looked up twice followed the reader both
    times or neither time.
    """

    def __init__(self, edges: OwnEdges, departed: frozenset[ObjectId] | None = None) -> None:
        self.edges = edges
        self._look_for_departed, self.departed = departed is None, departed or frozenset()
        self._followed_by: dict[ObjectId, bool] = {}
        self.gone: set[ObjectId] = set()
        self.steady = True
        self._strangers: list[ObjectId] = []
        self._backs: list[ObjectId] = []

    def reader(self) -> Reader:
        return Reader(self.edges.reader, self.edges.relations, self._followed_by, self.departed)

    def missing(self, statuses: Collection[StatusRow]) -> dict[str, Find]:
        """Return what must still be looked up before these statuses can be judged, each by an index alone; `learn`
        takes the answers.
        """
        mutual = [status.user_id for status in statuses if status.audience == "mutuals"]
        strangers = self._others([status.user_id for status in statuses], self.edges.relations)
        return self._finds(strangers, self._others(mutual, self._followed_by))

    def anew(self, authors: Iterable[ObjectId]) -> dict[str, Find]:
        """Return what must be looked up beside statuses of these authors, so that no status is judged by older edges.
        The reader's own edges have a version, which is always asked. Who follows back has none, and is asked again.
        """
        strangers = self._others(authors, self.edges.relations)
        backs = self._others([*strangers, *self._followed_by], ())
        return {"versions": versions_of(self.edges.reader), **self._finds(strangers, backs)}

    def _finds(self, strangers: list[ObjectId], backs: list[ObjectId]) -> dict[str, Find]:
        me, self._strangers, self._backs = self.edges.reader, strangers, backs
        finds: dict[str, Find] = {}
        if backs or strangers:
            finds["versions"] = versions_of(me)
        if backs:
            some, n = {"$in": backs}, len(backs)
            finds["followed_by"] = Find("follows", {"follower": some, "followee": me}, ("follower",), n)
        if strangers:
            some, n = {"$in": strangers}, len(strangers)
            finds["follows"] = Find("follows", {"follower": me, "followee": some}, ("followee",), n)
            finds["blocks"] = Find("blocks", {"blocker": me, "blocked": some}, ("blocked",), n)
            finds["blocked_by"] = Find("blocks", {"blocked": me, "blocker": some}, ("blocker",), n)
            finds["circles"] = Find("circles", {"owner": some, "member": me}, ("owner",), n)
            finds["mutes"] = Find("mutes", {"muter": me, "muted": some}, ("muted",), n)
            if self._look_for_departed:
                finds["departed"] = departed_among(strangers)
        return finds

    def _others(self, people: Iterable[ObjectId], than: Collection[ObjectId]) -> list[ObjectId]:
        """Return the others, each once and in order: by their bytes, which compare without a call of Python."""
        others = {id.binary: id for id in people if id not in than}
        others.pop(self.edges.reader.binary, None)
        return [others[id] for id in sorted(others)]

    def learn(self, answers: Mapping[str, Rows]) -> None:
        """Take in the answers to what was missing last. After a change of version everything before counts no more."""
        self.gone |= {row["_id"] for row in answers.get("gone", ()) if row["deleted"]}
        version = versions_in(answers["versions"]).edges
        if self.edges.version is None:
            self.edges.version = version
        elif version != self.edges.version:
            self.edges, self._followed_by = OwnEdges(self.edges.reader, version), {}
        if self._backs:
            followers = _packed(answers["followed_by"])
            for author in self._backs:
                now = author.binary in followers
                self.steady &= self._followed_by.get(author, now) == now
                self._followed_by[author] = now
        if self._strangers:
            self.edges.noted_in = ()
            follows, circles, mutes = (_packed(answers[name]) for name in ("follows", "circles", "mutes"))
            blocks = _packed(answers["blocks"]) | _packed(answers["blocked_by"])
            if departed := _authors(answers.get("departed", ())):
                self.departed |= departed
            for author in self._strangers:
                id = author.binary
                now_is = relation(id in follows, id in blocks, id in circles, id in mutes)
                self.edges.relations[IDS.of(author)] = now_is


class Edges:
    """The edges between each of some `people` and all of these `authors`: one command for all of them."""

    def __init__(self, people: Collection[ObjectId], authors: Collection[ObjectId]) -> None:
        self._people, self._authors = people, authors
        them, they, n = {"$in": sorted(people)}, {"$in": sorted(authors)}, len(people) * len(authors)

        def edges(collection: str, one: str, other: str, ones: Any, others: Any) -> Find:
            return Find(collection, {one: ones, other: others}, (one, other), n)

        self.finds = {
            "follows": edges("follows", "follower", "followee", them, they),
            "followed": edges("follows", "follower", "followee", they, them),
            "blocks": edges("blocks", "blocker", "blocked", them, they),
            "blocked": edges("blocks", "blocker", "blocked", they, them),
            "circles": edges("circles", "owner", "member", they, them),
            "mutes": edges("mutes", "muter", "muted", them, they),
            "departed": departed_among(sorted(authors)),
        }

    def readers(self, answers: Mapping[str, Rows]) -> Mapping[ObjectId, Reader]:
        departed = {row["_id"] for row in answers["departed"]}
        pairs = {
            name: {tuple(row[field] for field in find.fields) for row in answers[name]}
            for name, find in self.finds.items()
        }

        def relation(one: ObjectId, author: ObjectId) -> Relation:
            there, back = (one, author), (author, one)
            blocked = there in pairs["blocks"] or back in pairs["blocked"]
            return Relation(there in pairs["follows"], blocked, back in pairs["circles"], there in pairs["mutes"])

        return {
            one: Reader(
                one,
                {author: relation(one, author) for author in self._authors},
                {author: (author, one) in pairs["followed"] for author in self._authors},
                departed,
            )
            for one in self._people
        }


def _authors(rows: Iterable[Mapping[str, Any]]) -> set[ObjectId]:
    """Return the authors in these rows, each of which has one field."""
    return {author for row in rows for author in row.values()}


def _packed(rows: Iterable[Mapping[str, Any]]) -> set[bytes]:
    return {author.binary for row in rows for author in row.values()}


class EdgeMemory:
    """The edges that one process remembers, of the readers who came last."""

    def __init__(self) -> None:
        self._readers: LRUCache[ObjectId, OwnEdges] = LRUCache(IDS_REMEMBERED, getsizeof=len)

    def recall(self, reader: ObjectId, version: Version | None = None) -> OwnEdges | None:
        """Return the edges of a reader, at this version if one is given; None where they are not remembered."""
        edges: OwnEdges | None = self._readers.get(reader)
        return edges if edges and version in (None, edges.version) else None

    def keep(self, edges: OwnEdges) -> None:
        """Remember these edges, again after they have grown."""
        self._readers.pop(edges.reader, None)
        if len(edges) <= IDS_REMEMBERED:
            self._readers[edges.reader] = edges

    def forget(self, reader: ObjectId) -> None:
        self._readers.pop(reader, None)


class Following:
    """A reader's followees: the article's `following_ids`, remembered as long as the reader's edges have not changed.

    `versions`: None unless the caller has just looked them up, and until they are looked up here.
    """

    def __init__(self, db: Database, reader: ObjectId, memory: EdgeMemory, versions: Versions | None = None) -> None:
        self._db, self._reader, self._memory, self.versions = db, reader, memory, versions
        self._edges: OwnEdges | None = None

    async def ids(self) -> list[ObjectId]:
        """Return the followees as they were at some moment after the first call; the same from then on."""
        return (await self.known()).followees or []

    async def unmuted(self) -> list[ObjectId]:
        """Return the followees whom the reader does not mute."""
        return (await self.known()).unmuted or []

    async def known(self) -> OwnEdges:
        """Return the reader's edges, followees among them."""
        if self._edges is None:
            self._edges = await self._remembered() or await self._looked_up()
        return self._edges

    async def _remembered(self) -> OwnEdges | None:
        edges = self._memory.recall(self._reader)
        if edges is None or edges.followees is None:
            return None
        if self.versions is None or edges.version != self.versions.edges:
            answers = await together(self._db, versions=versions_of(self._reader))
            self.versions = versions_in(answers["versions"])
        return edges if edges.version == self.versions.edges else None

    async def _looked_up(self) -> OwnEdges:
        reader = self._reader
        finds = {"versions": versions_of(reader), "followees": followees_of(reader), "mutes": mutes_of(reader)}
        answers = await together(self._db, **finds)
        self.versions = versions_in(answers["versions"])
        muted = _authors(answers["mutes"])
        version = self.versions.edges
        edges = self._memory.recall(reader, version) or OwnEdges(reader, version)
        edges.followees = [IDS.of(row["followee"]) for row in answers["followees"]]
        edges.unmuted = [id for id in edges.followees if id not in muted] if muted else edges.followees
        self._memory.keep(edges)
        return edges


async def change_edges(db: Database, readers: Collection[ObjectId], work: Callable[[Transaction], Awaitable[T]]) -> T:
    """Do `work` and change the readers' versions, all of it or nothing. It may be tried several times.

    Of two changes that have a reader in common one comes first, and the other one sees what it has done. Raises
    NoAccount where the account of one is deleted.
    """

    async def versioned(inside: Transaction) -> T:
        for reader in sorted(readers):  # the same order for everybody
            number = {"$inc": {"version": 1}}
            await change_version(inside, reader, number if reader in (NAMES, MARKERS) else another_version())
        return await work(inside)

    return await transaction(db, versioned)


async def change_tokens(db: Database, person: ObjectId, work: Callable[[Transaction], Awaitable[T]]) -> T:
    """Do `work` on a person's tokens and change their version, all of it or nothing. It may be tried several times."""

    async def versioned(inside: Transaction) -> T:
        done = await work(inside)
        change = {"$set": {"tokens": ObjectId()}, "$setOnInsert": new_versions(person)}
        await inside[VERSIONS].update_one(version_key(person), change, upsert=True)
        return done

    return await transaction(db, versioned)


def another_version() -> dict[str, Any]:
    """Return the change that gives a reader's edges another version."""
    return {"$set": {"version": ObjectId()}}


async def raise_version(db: Database, nobody: ObjectId) -> None:
    """Give the version of nobody another value, outside of a transaction."""
    change = {**another_version(), "$setOnInsert": new_versions(nobody)}
    try:
        await db[VERSIONS].update_one(version_key(nobody), change, upsert=True)
    except DuplicateKeyError:  # somebody else was faster to insert it: MongoDB tries again for a query by `_id` alone
        await db[VERSIONS].update_one(version_key(nobody), change, upsert=True)


async def change_version(inside: Transaction, reader: ObjectId, change: dict[str, Any]) -> None:
    """Change a version of a reader's. Raises NoAccount for somebody whose account is deleted: the end of it writes the
    same document, so either comes before the other.
    """
    try:
        open_still = {**version_key(reader), "closed": {"$exists": False}}
        await inside[VERSIONS].update_one(open_still, {**change, "$setOnInsert": new_versions(reader)}, upsert=True)
    except DuplicateKeyError:  # it is there, and closed
        raise NoAccount(reader) from None
