"""The look: what may have been missed is found, for many people by one command. It is the back-up, never the way."""

from collections.abc import Callable, Sequence
from datetime import timedelta

from bson import ObjectId

from app.access import statuses_by_id
from app.clock import FIRST_ID, id_at
from app.edges import NAMES, VERSIONS, version_in, version_of
from app.inbox.notifications import Notifications
from app.live.news import PEOPLE_AT_ONCE, chunks
from app.live.presence import Presences, is_another
from app.live.truth import inbox_in, inboxes_of
from app.live.watchers import EVERYTHING, Part, Watcher, Watchers
from app.stack import Hint, Stack
from app.stack.mongodb.find import NEWEST_FIRST, Find, together

TOLD_AT_ONCE = 50  # of those who have notifications
MET_AT_ONCE = 20  # of those who have conversations, each with 200 people at most
NEWLY_S = 120  # what is younger may be news: no insert takes as long
MOST_NEW = 5_000  # of it; where there is more, everybody's page is read
MOST_HEARD = 20_000  # of which is remembered that they have been heard of
NOBODY = FIRST_ID


class Look:
    """One per process. `hear`: what is found is told as if it had been heard, in turn with what is."""

    def __init__(
        self,
        stack: Stack,
        notifications: Notifications,
        presences: Presences,
        watchers: Watchers,
        hear: Callable[[Hint], None],
    ) -> None:
        self._db, self._clock, self._notifications, self._presences = stack.db, stack.clock, notifications, presences
        self._watchers, self._hear = watchers, hear
        self._newly: set[ObjectId] = set()  # statuses and follows that have been heard of, or were found before

    def has_heard(self, status: ObjectId) -> None:
        if len(self._newly) < MOST_HEARD:
            self._newly.add(status)

    def forget(self) -> None:
        """Some of what has been heard of has not been told."""
        self._newly = set()

    async def look(self) -> None:
        """What has changed since, of all who are here."""
        if not list(self._watchers):
            return
        newly = {"_id": {"$gt": id_at(self._clock.now() - timedelta(seconds=NEWLY_S))}}
        found = await together(
            self._db,
            names=version_of(NAMES),
            statuses=Find("statuses", newly, ("_id", "user_id"), MOST_NEW, NEWEST_FIRST),
            follows=Find("follows", newly, ("_id", "followee"), MOST_NEW, NEWEST_FIRST),
        )
        if any(watcher.has.names < version_in(found["names"]) for watcher in self._watchers.known()):
            self._hear(Hint("named", NOBODY))
        new = {part: [row for row in found[part] if row["_id"] not in self._newly] for part in ("statuses", "follows")}
        if any(len(rows) == MOST_NEW for rows in new.values()):
            for watcher in self._watchers:
                self._watchers.is_dirty(watcher.me, {"page", "inbox"})
        for row in new["follows"]:
            self._watchers.is_dirty(row["followee"], {"page", "inbox"})
        self._newly = {row["_id"] for part in ("statuses", "follows") for row in found[part]}
        for row in new["statuses"]:
            self._hear(Hint("posted", row["user_id"], row["_id"]))
        here = [watcher for watcher in self._watchers if watcher.looked]  # who is just coming reads it all
        for some in chunks(here, PEOPLE_AT_ONCE):
            await self._compare(some)
        told = [watcher for watcher in self._watchers if any(watcher.looked[2:])]
        for some in chunks(told, TOLD_AT_ONCE):
            standing = await self._notifications.standing({watcher.me: watcher.down_to for watcher in some})
            for watcher in some:
                if standing[watcher.me] != watcher.standing:
                    watcher.standing = standing[watcher.me]
                    self._watchers.is_dirty(watcher.me, {"inbox"})

        met = [watcher for watcher in self._watchers if watcher.acquainted]
        for some in chunks(met, MET_AT_ONCE):
            seen = await self._presences.seen_by_each({watcher.me: watcher.acquainted for watcher in some})
            for watcher in some:
                if any(is_another(now, watcher.seen.get(id, now)) for id, now in seen[watcher.me].items()):
                    self._watchers.is_dirty(watcher.me, {"presence"})

    async def _compare(self, some: Sequence[Watcher]) -> None:
        """Whether anything is newer than what these have been told."""
        people = [watcher.me for watcher in some]
        ids = {id for watcher in some for id in watcher.shown}
        mutual = {
            (shown.author, watcher.me)
            for watcher in some
            for shown in watcher.has.page.values()
            if shown.mutual and shown.author and shown.author != watcher.me
        }
        finds = {
            "versions": Find(VERSIONS, {"_id": {"$in": people}}, ("_id", "version", "likes"), len(people)),
            "inboxes": inboxes_of(people),
        }
        if ids:
            finds["statuses"] = statuses_by_id(sorted(ids), ("_id", "audience", "likes"))
        if mutual:
            they, them = (sorted(set(ends)) for ends in zip(*mutual, strict=True))
            query = {"follower": {"$in": they}, "followee": {"$in": them}}
            finds["backs"] = Find("follows", query, ("follower", "followee"), len(they) * len(them))
        found = await together(self._db, **finds)
        versions = {row["_id"]: (row.get("version", 0), row.get("likes", 0)) for row in found["versions"]}
        statuses = {row["_id"]: row.get("likes", 0) for row in found.get("statuses", []) if row.get("audience")}
        gone = ids - statuses.keys()
        ended = mutual - {(row["follower"], row["followee"]) for row in found.get("backs", [])}
        liked: set[ObjectId] = set()
        for watcher in some:
            looked = (*versions.get(watcher.me, (0, 0)), *inbox_in(found["inboxes"], watcher.me))
            parts: set[Part] = set()
            if looked[0] != watcher.looked[0]:
                parts |= EVERYTHING
            if looked[1] != watcher.looked[1]:
                parts |= {"page"}
            if looked[2:] != watcher.looked[2:]:
                parts |= {"inbox"}
            for id in ids & watcher.has.page.keys():
                shown = watcher.has.page[id]
                if id not in statuses or (shown.mutual and (shown.author, watcher.me) in ended):
                    parts |= {"page"}
                elif statuses[id] != shown.likes:
                    liked.add(id)
            if watcher.is_told_of(gone):
                parts |= {"inbox"}
            watcher.looked = looked
            self._watchers.is_dirty(watcher.me, parts)
        for id in liked:
            self._hear(Hint("liked", NOBODY, id))
