"""Conversations on live streams: messages, and what else changes in a conversation, in the order of the inbox."""

from collections.abc import Collection
from functools import partial

from bson import ObjectId

from app.inbox.conversations import Conversations, Message
from app.live.position import Has
from app.live.presence import Presences
from app.live.steps import Faces, Step, as_json
from app.social import Social

MOST = 501  # of a kind that are told one by one; more are a `reset`
MOST_OTHERS = 200  # people whose names and presence are told: the last to whom somebody has talked


class Talk:
    """One per process."""

    def __init__(self, conversations: Conversations, social: Social, presences: Presences, faces: Faces) -> None:
        self._conversations, self._social, self._presences, self._faces = conversations, social, presences, faces

    async def between(self, me: ObjectId, after: int, to: int) -> list[Step]:
        if to <= after:
            return []
        changes = await self._conversations.changes(me, after, to, MOST)
        whats = [change.what for change in changes]
        others = {what.who if isinstance(what, Message) else what.other for what in whats}
        people = await self._social.people({me, *others}) if changes else {}
        seen = await self._presences.seen_by(me, {what.other for what in whats if not isinstance(what, Message)})
        steps = []
        for seq, id, what in changes:
            if isinstance(what, Message):
                data = {"conversation": str(id), "message": self._faces.message(what, people)}
                steps.append(Step("message", as_json(data), partial(_told, seq), seq))
            else:
                data = self._faces.conversation(what, people, seen)
                steps.append(Step("conversation", as_json(data), partial(_told, seq), seq, what.other))
        return steps

    async def people(self, me: ObjectId) -> Collection[ObjectId]:
        return await self._conversations.others(me, MOST_OTHERS)


def _told(seq: int, has: Has) -> None:
    has.told(seq)
