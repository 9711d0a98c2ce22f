"""News: what has been heard of is looked up once, and judged for each of those whom it may concern.

The edges of all of them are looked up with it, so each is told what they may see at that moment.
"""

from collections.abc import Collection, Mapping
from functools import cache

from bson import ObjectId

from app.access import SHOWN, on_home, statuses_by_id
from app.batched import batched
from app.edges import NAMES, Edges, version_in, version_of
from app.live.steps import Faces, as_json, came, likes, name_steps
from app.live.watchers import Watcher, Watchers
from app.models import StatusRow, like_key
from app.names import RENAMED_AT_ONCE, renamed_since
from app.social.people import People
from app.stack.mongodb.connection import Database
from app.stack.mongodb.find import Find, together

PEOPLE_AT_ONCE = 200  # that one command looks at

Wanted = Mapping[Watcher, Mapping[ObjectId, ObjectId]]  # by person, statuses and their authors
Likers = Mapping[ObjectId, Collection[ObjectId]]  # by status, who has liked it or does no more


class News:
    """The news of this process for all who are here. There is one instance per process.

    While somebody's state is read anew, they are told by that: what is heard then makes their state dirty.
    """

    def __init__(self, db: Database, people: People, faces: Faces, watchers: Watchers) -> None:
        self._db, self._people, self._faces, self._watchers = db, people, faces, watchers

    async def tell(self, posted: Mapping[ObjectId, ObjectId], liked: Likers) -> None:
        """Tell everybody concerned of new statuses and of likes. `posted`: statuses and their authors."""
        if wanted := self._wanted(posted, liked):
            for some in batched(wanted.items(), PEOPLE_AT_ONCE):
                await self._tell(dict(some), liked)

    def mark_deleted(self, status: ObjectId) -> None:
        for watcher in self._watchers.known():
            if watcher.turn.locked() or status in watcher.has.page:
                self._watchers.mark_dirty(watcher.me, {"page"})
            if watcher.turn.locked() or watcher.is_told_of({status}):
                self._watchers.mark_dirty(watcher.me, {"inbox"})

    def _wanted(self, posted: Mapping[ObjectId, ObjectId], liked: Likers) -> Wanted:
        wanted: dict[Watcher, dict[ObjectId, ObjectId]] = {}
        changed = set(liked)  # a set knows the hashes of its ids, which take longer than all else here
        for id, author in posted.items():
            for watcher in self._watchers.followers_of(author):
                if watcher.turn.locked():
                    self._watchers.mark_dirty(watcher.me, {"page"})
                elif watcher.reads and id not in watcher.has.page and watcher.has.has_room_for(id):
                    wanted.setdefault(watcher, {})[id] = author
        for watcher in self._watchers.known() if liked else ():
            if watcher.turn.locked():
                self._watchers.mark_dirty(watcher.me, {"page", "inbox"})
                continue
            if watcher.is_told_of(changed):
                self._watchers.mark_dirty(watcher.me, {"inbox"})  # who takes a like back takes its notification along
            for id in liked.keys() & watcher.has.page.keys():
                shown = watcher.has.page[id]
                assert shown.author, "it has been read"
                wanted.setdefault(watcher, {})[id] = shown.author
        return wanted

    async def _tell(self, wanted: Wanted, liked: Likers) -> None:
        authors = {author for some in wanted.values() for author in some.values()}
        ids = sorted({id for some in wanted.values() for id in some})
        edges, reads = Edges([watcher.me for watcher in wanted], authors), {w: w.reads for w in wanted}
        own = [like_key(w.me, id) for w, some in wanted.items() for id in some if w.me in liked.get(id, ())]
        finds = {"statuses": statuses_by_id(ids, SHOWN), "names": version_of(NAMES), **edges.finds}
        if own:
            finds["own"] = Find("likes", {"_id": {"$in": own}}, ("_id",), len(own))
        found = await together(self._db, **finds)
        people = await self._people.by_ids(authors, version_in(found["names"]))
        likes_now, readers = {bytes(row["_id"]) for row in found.get("own", [])}, edges.readers(found)
        there = {id for id, person in people.items() if person.is_there}
        statuses = {row["_id"]: StatusRow.of(row) for row in found["statuses"] if row["user_id"] in there}
        face = cache(lambda status: as_json(self._faces.status(status, people)))
        for watcher, some in wanted.items():
            if watcher.turn.locked() or watcher.reads != reads[watcher]:
                self._watchers.mark_dirty(watcher.me, {"page"})
                continue
            for id in sorted(some):
                status, had = statuses.get(id), watcher.has.page.get(id)
                if status is None or not on_home(status, readers[watcher.me]):
                    if had:
                        self._watchers.mark_dirty(watcher.me, {"page"})
                    continue
                is_own = watcher.me in liked.get(id, ())
                you_like = like_key(watcher.me, id) in likes_now if is_own else bool(had and had.you_like)
                status = status._replace(you_like=you_like)
                self._watchers.tell(watcher, [likes(status) if had else came(status, face(status))])

    async def tell_names(self) -> None:
        """Tell of everybody who has been renamed since anybody here was told of names.

        Whoever was being read meanwhile, or came, may have been read before that: they are read anew.
        """
        told_to = 0
        while here := [watcher for watcher in self._watchers.known() if not watcher.turn.locked()]:
            since = min(watcher.has.names for watcher in here)
            found = await together(self._db, version=version_of(NAMES), renamed=renamed_since(since))
            renamed, version = found["renamed"], version_in(found["version"])
            gone = {user["_id"] for user in renamed if user.get("deleted")}
            told_to = renamed[-1]["renamed"] if len(renamed) > RENAMED_AT_ONCE else version
            for watcher in here:
                if not watcher.turn.locked():
                    self._watchers.tell(watcher, name_steps(renamed, watcher.has, watcher.named))
                    watcher.has.names = max(watcher.has.names, told_to)
                    if gone and gone & watcher.concerned:
                        self._watchers.mark_dirty(watcher.me, {"page", "inbox", "presence"})
            if told_to == version:
                break
        for watcher in self._watchers.known():
            if watcher.turn.locked() or watcher.has.names < told_to:
                self._watchers.mark_dirty(watcher.me, {"page", "inbox", "presence"})
