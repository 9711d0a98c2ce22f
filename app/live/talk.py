"""Conversations on live streams: messages, and what else changes in a conversation, in the order of the inbox."""

from collections.abc import Collection, Mapping, Sequence
from functools import partial

from bson import ObjectId

from app.batched import batched
from app.inbox.changes import Change, Changes
from app.inbox.conversations import Conversations
from app.inbox.sides import Message
from app.live.position import Has
from app.live.presence import Presence, Presences
from app.live.steps import Faces, Persons, Step, as_json, counted
from app.live.watchers import Watcher, Watchers
from app.social.people import People

MOST = 501  # changes of a kind that are told one by one; more are a `reset`
PEOPLE_AT_ONCE = 50  # for whom one command looks
MOST_OTHERS = 200  # people whose names and presence are told: the last to whom somebody has talked


class Talk:
    """The conversations of those who are here. There is one instance per process."""

    def __init__(
        self, conversations: Conversations, changes: Changes, people: People, presences: Presences, faces: Faces
    ) -> None:
        self._conversations, self._changes = conversations, changes
        self._people, self._presences, self._faces = people, presences, faces

    async def between(self, me: ObjectId, after: int, to: int) -> list[Step]:
        if to <= after:
            return []
        changes = await self._changes.between(me, after, to, MOST)
        whats = [change.what for change in changes]
        others = {what.who if isinstance(what, Message) else what.other for what in whats}
        people = await self._people.by_ids({me, *others}) if changes else {}
        seen = await self._presences.seen_by(me, {what.other for what in whats if not isinstance(what, Message)})
        return self._steps(changes, people, seen)

    def _steps(
        self, changes: Sequence[Change], people: Persons, seen: Mapping[ObjectId, Presence | None]
    ) -> list[Step]:
        steps = []
        for seq, id, what in changes:
            if isinstance(what, Message):
                data = {"conversation": str(id), "message": self._faces.message(what, people)}
                steps.append(Step("message", as_json(data), partial(_told, seq), seq))
            else:
                data = self._faces.conversation(what, people, seen)
                steps.append(Step("conversation", as_json(data), partial(_told, seq), seq, what.other))
        return steps

    async def tell(self, here: Watchers, talked: Mapping[ObjectId, Collection[ObjectId]]) -> None:
        """Tell everybody who is here of what has changed in their conversations. `talked`: conversations, by person.

        It is looked up for many people together. Somebody's state is read anew only where more than that has changed.
        """
        known = []
        for watcher in filter(None, map(here.of, talked)):
            if watcher.turn.locked():
                here.mark_dirty(watcher.me, {"inbox"})
            elif watcher.reads:
                known.append(watcher)
        for some in batched(known, PEOPLE_AT_ONCE):
            await self._tell(here, some, set().union(*(talked[watcher.me] for watcher in some)))

    async def _tell(self, here: Watchers, some: Sequence[Watcher], about: Collection[ObjectId]) -> None:
        reads, after = {w: w.reads for w in some}, {w.me: w.has.seq or 0 for w in some}
        news, names = await self._changes.untold(after, about)
        concerned = {id for me, each in news.items() for id in (me, *each.others)}
        people = await self._people.by_ids(concerned, names)
        for watcher in some:
            found, is_as_it_was = news.get(watcher.me), watcher.reads == reads[watcher] and not watcher.turn.locked()
            acquainted = watcher.acquainted | found.others if found else watcher.acquainted
            if not (found and is_as_it_was and found.shown <= watcher.seen.keys() and len(acquainted) <= MOST_OTHERS):
                here.mark_dirty(watcher.me, {"inbox"})
            elif found.changes:
                # The presence of the other is said as they have been told it, and so is no news.
                steps = [step._replace(shows=None) for step in self._steps(found.changes, people, watcher.seen)]
                counts = watcher.counts._replace(messages_unread=found.unread)
                here.tell(watcher, [*steps, *([counted(counts)] if counts != watcher.counts else [])])
                watcher.counts, watcher.acquainted = counts, acquainted
                assert watcher.looked, "they have been read"
                watcher.looked = watcher.looked._replace(seq=watcher.has.seq or 0)
                if acquainted - watcher.seen.keys():
                    here.mark_dirty(watcher.me, {"presence"})

    async def people(self, me: ObjectId) -> Collection[ObjectId]:
        return await self._conversations.others(me, MOST_OTHERS)


def _told(seq: int, has: Has) -> None:
    has.told(seq)
