"""What a phase is."""

from abc import ABC, abstractmethod
from typing import ClassVar

from bson import ObjectId

from app.clock import FIRST_ID
from app.edges import Memory
from app.models import StatusRow
from app.stack import Stack
from phases.outbox import Outbox
from phases.reading import Page
from phases.switch import Settings, StoreName, Switch

Resume = list[str]  # where the next chunk of a fan-out begins, as a job carries it


def beginning(resume: Resume | None) -> ObjectId:
    """The last reader of the chunk before; for what no chunk of ours has said, everybody is served again."""
    return ObjectId(resume[0]) if resume and ObjectId.is_valid(resume[0]) else FIRST_ID


class Phase(ABC):
    """A delivery strategy. Statuses are saved already; a phase decides when timelines are made.

    Each phase is a subclass of the one before it and overrides what it does differently.
    """

    slug: ClassVar[str]
    title: ClassVar[str]
    poster_waits: ClassVar[str]  # for what, in words
    reader_waits: ClassVar[str]
    kept: ClassVar[str]
    keeps: StoreName | None = None  # the store of what it keeps; phases may share one

    def __init__(self, stack: Stack, switch: Switch, outbox: Outbox, memory: Memory) -> None:
        self.stack, self.switch, self.outbox, self.memory = stack, switch, outbox, memory
        self.db, self.config, self.clock = stack.db, stack.config, stack.clock

    @abstractmethod
    async def deliver(self, status: StatusRow) -> None:
        """What the poster waits for, after the status is stored."""

    @abstractmethod
    async def fan_out(
        self, status: StatusRow, resume: Resume | None, settings: Settings | None = None
    ) -> Resume | None:
        """Deliver one bounded chunk, safe to repeat; where to go on, or None after the last follower.

        `settings`: as they were when the status was there already; they are read where none are given.
        """

    @abstractmethod
    async def page(self, reader: ObjectId, before: ObjectId | None, limit: int) -> Page:
        """One page of the reader's home timeline: the same in every phase."""

    @abstractmethod
    async def refresh(self, reader: ObjectId, limit: int) -> Page:
        """The first page, after rebuilding what is kept for this reader if it is missing."""

    @abstractmethod
    async def widen(self, reader: ObjectId, author: ObjectId) -> None:
        """Rule 4: merge the author's ids into what is kept for a reader who may now see more of them."""

    @abstractmethod
    async def sweep(self) -> None:
        """A bounded piece of housekeeping on what is kept."""
