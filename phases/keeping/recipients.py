"""Recipients: the readers to whom a status is delivered, and what has to be known of them."""

from abc import ABC, abstractmethod
from collections.abc import Sequence
from datetime import datetime
from typing import ClassVar, NamedTuple

from bson import ObjectId

from app.models import StatusRow
from app.stack import Stack
from app.stack.mongodb.find import Find, rows
from app.stack.mongodb.transaction import Transaction


class Admitted(NamedTuple):
    """The admission of a reader. Deliveries reach them `until` then; None: for ever. They get what these `authors` post
    at least; None: what everybody posts whom they follow.
    """

    until: datetime | None
    authors: list[ObjectId] | None


class Recipients(ABC):
    """The recipients of a status, in the order of their ids. Delivery may be generous: the read decides.

    The other methods matter where not every follower is a recipient: a reader who returns is admitted for a time.
    `noted_in`: the collection with what that takes; whoever shares it need be told of an edge only once.
    """

    name: ClassVar[str]
    active_only: ClassVar[bool] = False
    noted_in: ClassVar[str | None] = None

    def __init__(self, stack: Stack) -> None:
        self.db, self.config, self.clock = stack.db, stack.config, stack.clock

    async def next(self, status: StatusRow, after: ObjectId, n: int) -> list[ObjectId]:
        """Return the next `n` recipients above `after`, by id; fewer only at the end. A circle's status goes to the
        circle.
        """
        if status.audience == "circle":
            return await self._circle_of(status.user_id, after, n)
        return await self.of(status.user_id, after, n)

    @abstractmethod
    async def of(self, author: ObjectId, after: ObjectId, n: int) -> list[ObjectId]:
        """Return the next `n` recipients above `after`, by id, of an author's statuses that are not for a circle."""

    async def admit(self, reader: ObjectId, followees: Sequence[ObjectId]) -> Admitted:
        """Make sure, by a majority, that deliveries reach the reader. For authors whom they began to follow after
        `followees` were looked up, `widen` has been called or will be.
        """
        return Admitted(None, None)

    async def widen(self, reader: ObjectId, author: ObjectId) -> None:
        """Prepare for the deliveries along a new follow edge, before its backfill."""

    async def narrow(self, inside: Transaction, reader: ObjectId, author: ObjectId) -> None:
        """Note the end of a follow edge, in its transaction."""

    async def sweep(self) -> None:
        """Do a bounded piece of housekeeping, of `noted_in`."""

    async def here(self, reader_ids: Sequence[ObjectId]) -> set[ObjectId]:
        """Return those of these readers whom deliveries reach now."""
        return set(reader_ids)

    async def _circle_of(self, owner: ObjectId, after: ObjectId, n: int) -> list[ObjectId]:
        query = {"owner": owner, "member": {"$gt": after}}
        find = Find("circles", query, ("member",), n, [("member", 1)], "owner_1_member_1")
        return [row["member"] for row in await rows(self.db, find)]
