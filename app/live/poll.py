"""The poll: what hints did not tell of is looked for, for many people by one command.

It is the back-up, never the way.
"""

from collections.abc import Callable, Mapping, Sequence, Set
from datetime import timedelta
from typing import NamedTuple

from bson import ObjectId

from app.access import statuses_by_id
from app.batched import batched
from app.clock import FIRST_ID, id_at
from app.edges import NAMES, version_in, version_of, versions_of_all
from app.inbox.notifications import Notifications
from app.live.news import PEOPLE_AT_ONCE
from app.live.position import Shown
from app.live.presence import Presences, is_another
from app.live.truth import NEWLY_S, inbox_in, inboxes_of
from app.live.watchers import EVERYTHING, Part, PersonVersions, Watcher, Watchers
from app.models import whose_versions
from app.stack import Hint, Stack
from app.stack.mongodb.find import NEWEST_FIRST, Find, together

TOLD_AT_ONCE = 50  # people whose notifications one command looks at
MET_AT_ONCE = 20  # people with conversations whom one command looks for, each with 200 others at most
MOST_NEW = 5_000  # statuses or follows that may be news; where there are more, everybody's page is read
MOST_HEARD = 20_000  # statuses that are remembered to have been heard of
NOBODY = FIRST_ID


class Poll:
    """The back-up for hints that were lost. There is one instance per process.

    `hear`: is given what is found as a hint, so that it is told in turn with what was heard.
    """

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
        # The last look that saw all of it, and the last one of which all has been told.
        self._looked_at = self._told_at = stack.clock.now()

    def note_heard(self, status: ObjectId) -> None:
        if len(self._newly) < MOST_HEARD:
            self._newly.add(status)

    def forget(self) -> None:
        """Forget what has been heard of and found since it was all told, because some of it has not been."""
        self._newly, self._looked_at = set(), self._told_at

    def note_told(self) -> None:
        """Note that all that has been heard and found by now has been told."""
        self._told_at = self._looked_at

    async def look(self) -> None:
        """Look for what has changed of all who are here since they were told."""
        if list(self._watchers):
            await self._look_for_news()
        else:
            self._looked_at = self._clock.now()
        here = [watcher for watcher in self._watchers if watcher.looked]  # who is just coming reads it all
        for some in batched(here, PEOPLE_AT_ONCE):
            await self._compare_state(some)
        told = [watcher for watcher in self._watchers if watcher.looked and any(watcher.looked.inbox)]
        for some in batched(told, TOLD_AT_ONCE):
            await self._compare_notifications(some)
        met = [watcher for watcher in self._watchers if watcher.acquainted]
        for some in batched(met, MET_AT_ONCE):
            await self._compare_presence(some)

    async def _look_for_news(self) -> None:
        """Look for names, statuses and follows that no hint told of since the last look, however long ago that was.

        What was younger than NEWLY_S then may be among them.
        """
        now, since = self._clock.now(), self._looked_at
        newly = {"_id": {"$gt": id_at(min(since, now) - timedelta(seconds=NEWLY_S))}}
        found = await together(
            self._db,
            names=version_of(NAMES),
            statuses=Find("statuses", newly, ("_id", "user_id"), MOST_NEW, NEWEST_FIRST),
            follows=Find("follows", newly, ("_id", "followee"), MOST_NEW, NEWEST_FIRST),
        )
        parts = ("statuses", "follows")
        new = {part: [row for row in found[part] if row["_id"] not in self._newly] for part in parts}
        # Nothing is known of rows beyond the oldest one, where that one was not known either.
        if any(len(found[part]) == MOST_NEW and found[part][-1] in new[part] for part in parts):
            for watcher in self._watchers:
                self._watchers.mark_dirty(watcher.me, {"page", "inbox"})
        for row in new["follows"]:
            self._watchers.mark_dirty(row["followee"], {"page", "inbox"})
        self._newly = {row["_id"] for part in parts for row in found[part]}
        if self._looked_at == since:  # nothing has been forgotten meanwhile
            self._looked_at = now
        if any(watcher.has.names < version_in(found["names"]) for watcher in self._watchers.known()):
            self._hear(Hint("named", NOBODY))
        for row in new["statuses"]:
            self._hear(Hint("posted", row["user_id"], row["_id"]))

    async def _compare_state(self, some: Sequence[Watcher]) -> None:
        """Compare versions, numbers and statuses of these people with what they have been told."""
        current = await self._find(some)
        liked: set[ObjectId] = set()
        for watcher in some:
            parts = current.moved(watcher)
            if current.has_lost_of_page(watcher):
                parts |= {"page"}
            if current.has_lost_of_inbox(watcher):
                parts |= {"inbox"}
            liked |= current.liked(watcher)
            watcher.looked = current.looked[watcher.me]
            self._watchers.mark_dirty(watcher.me, parts)
        for id in liked:
            self._hear(Hint("liked", NOBODY, id))

    async def _find(self, some: Sequence[Watcher]) -> "CurrentState":
        people = [watcher.me for watcher in some]
        ids = {id for watcher in some for id in watcher.shown}
        mutual = {
            (shown.author, watcher.me)
            for watcher in some
            for shown in watcher.has.page.values()
            if shown.mutual and shown.author and shown.author != watcher.me
        }
        finds = {
            "versions": versions_of_all(people),
            "inboxes": inboxes_of(people),
        }
        if ids:
            finds["statuses"] = statuses_by_id(sorted(ids), ("_id", "audience", "likes"))
        if mutual:
            they, them = (sorted(set(ends)) for ends in zip(*mutual, strict=True))
            query = {"follower": {"$in": they}, "followee": {"$in": them}}
            finds["backs"] = Find("follows", query, ("follower", "followee"), len(they) * len(them))
        found = await together(self._db, **finds)
        versions = {
            whose_versions(row["_id"]): (row.get("version", 0), row.get("likes", 0)) for row in found["versions"]
        }
        likes = {row["_id"]: row.get("likes", 0) for row in found.get("statuses", []) if row.get("audience")}
        backs = {(row["follower"], row["followee"]) for row in found.get("backs", [])}
        looked = {me: PersonVersions(*versions.get(me, (0, 0)), *inbox_in(found["inboxes"], me)) for me in people}
        return CurrentState(looked, likes, ids - likes.keys(), mutual - backs)

    async def _compare_notifications(self, some: Sequence[Watcher]) -> None:
        """Compare what the notifications of these people tell of, and what they have been told, with the last look's.

        What was taken back and given again is as it was, and they may have been told of the one and not of the other.
        """
        told = [watcher.told for watcher in some]  # what they are told from now on has the next look read them anew
        standing = await self._notifications.standing({watcher.me: watcher.down_to for watcher in some})
        for watcher, times in zip(some, told, strict=True):
            if (now := (standing[watcher.me], times)) != watcher.standing:
                watcher.standing = now
                self._watchers.mark_dirty(watcher.me, {"inbox"})

    async def _compare_presence(self, some: Sequence[Watcher]) -> None:
        """Compare the presence that these people see with what they have been told of it."""
        seen = await self._presences.seen_by_each({watcher.me: watcher.acquainted for watcher in some})
        for watcher in some:
            if any(is_another(now, watcher.seen.get(id, now)) for id, now in seen[watcher.me].items()):
                self._watchers.mark_dirty(watcher.me, {"presence"})


class CurrentState(NamedTuple):
    """What there is now of some people, all of it as of one moment, to be compared with what they have.

    `likes`: how many likes each of their statuses has. `gone`: statuses that have been deleted. `ended`: (author,
    reader) where the author of a status for mutuals follows its reader no longer.
    """

    looked: Mapping[ObjectId, PersonVersions]
    likes: Mapping[ObjectId, int]
    gone: Set[ObjectId]
    ended: Set[tuple[ObjectId | None, ObjectId]]

    def moved(self, watcher: Watcher) -> set[Part]:
        """Return the parts of a person's state whose version or number has changed."""
        now, then, parts = self.looked[watcher.me], watcher.looked, set[Part]()
        assert then, "they have been read"
        if now.edges != then.edges:
            parts |= EVERYTHING
        if now.likes != then.likes:
            parts |= {"page"}
        if now.inbox != then.inbox:
            parts |= {"inbox"}
        return parts

    def has_lost_of_page(self, watcher: Watcher) -> bool:
        """Say whether a status on a person's page is not for them any more."""
        return any(self._is_lost(watcher, id, shown) for id, shown in watcher.has.page.items())

    def has_lost_of_inbox(self, watcher: Watcher) -> bool:
        """Say whether a status that a notification of theirs is about is gone."""
        return watcher.is_told_of(self.gone)

    def liked(self, watcher: Watcher) -> set[ObjectId]:
        """Return the statuses on a person's page that have more or fewer likes than they have been told."""
        return {
            id
            for id, shown in watcher.has.page.items()
            if self.likes.get(id, shown.likes) != shown.likes and not self._is_lost(watcher, id, shown)
        }

    def _is_lost(self, watcher: Watcher, id: ObjectId, shown: Shown) -> bool:
        return id in self.gone or (shown.mutual and (shown.author, watcher.me) in self.ended)
