"""The delivery of one phase on one stack, and the steps that its walk over the recipients is made of."""

import asyncio
from collections.abc import Callable, Coroutine, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from bson import ObjectId

from app.access import FIELDS
from app.models import StatusRow
from app.stack import DeliveryQueue, QueueDown, Stack
from app.stack.cost import uncounted
from app.stack.mongodb.find import Find, rows
from phases.delivering.kept_timelines import KeptTimelines
from phases.delivering.outbox import Failures, Outbox
from phases.delivering.settings import Settings
from phases.delivering.switch import Switch

TOGETHER = 50  # statuses that one step serves side by side
PATIENCE_S = 2.0  # how long a step waits for other statuses than the one that it is for

# A step serves a status's next recipients above an id (None: the first ones). It returns the last one; None at the end.
Step = Callable[["Delivery", StatusRow, ObjectId | None], Coroutine[Any, Any, ObjectId | None]]


@dataclass
class Walk:
    """The walk of one job: steps for its `own` status, and the first step of others that come by.

    `after`: the recipient whom its own status has reached; None before the first step, and after the last. `since`: a
    status that comes by has no lower id. `taken`: the statuses that a step was made for. `failed`: those of them whose
    step failed, or whose next one could not be queued. `ended`: the statuses that were finished by the last step.
    `further`: those that were not, each with the recipient after whom it goes on.
    """

    own: ObjectId
    after: ObjectId | None
    since: ObjectId
    taken: set[ObjectId] = field(default_factory=set)
    failed: Failures = field(default_factory=dict)
    ended: list[ObjectId] = field(default_factory=list)
    further: dict[ObjectId, ObjectId] = field(default_factory=dict)

    async def side_by_side(self, steps: Mapping[ObjectId, Coroutine[Any, Any, ObjectId | None]]) -> None:
        """Make all these steps at once, and wait for the walk's own. The others have PATIENCE_S seconds and fail by
        themselves.
        """
        tasks = {id: asyncio.create_task(step) for id, step in steps.items()}
        try:
            if tasks:
                await asyncio.wait(tasks.values(), timeout=PATIENCE_S)
            if self.own in tasks:
                await asyncio.wait([tasks[self.own]])
        finally:
            for task in tasks.values():
                task.cancel()
        for id, end in zip(tasks, await asyncio.gather(*tasks.values(), return_exceptions=True), strict=True):
            if isinstance(end, BaseException):
                self.failed[id] = end
            elif end:
                self.further[id] = end
            else:
                self.ended.append(id)
        self.taken.update(tasks)
        self.after = self.further.get(self.own)


@dataclass(frozen=True)
class Delivery:
    """The delivery of the phase `name`. `chunk`: how many recipients one step serves. `settings`: phase settings that a
    job has read with its statuses; None where each step reads its own.
    """

    name: str
    chunk: int
    stack: Stack
    switch: Switch
    kept: KeptTimelines
    outbox: Outbox
    settings: Settings | None = None

    @property
    def queue(self) -> DeliveryQueue:
        return self.stack.queue

    async def recipients(self, status: StatusRow, after: ObjectId) -> tuple[list[ObjectId], bool]:
        """Return the next recipients above `after` by id, and whether there are more."""
        ids = await self.kept.recipients.next(status, after, self.chunk + 1)
        return ids[: self.chunk], len(ids) > self.chunk

    async def put(self, status: StatusRow, readers: list[ObjectId]) -> None:
        """Put the status's id on the timelines of these readers, wherever such timelines are kept by settings that were
        read no earlier than the status was stored.
        """
        settings = self.settings or await self.switch.fresh()
        for container in self.switch.writable(settings, self.kept.name):
            await self.kept.store.deliver(container, status, readers)

    def walk(self, id: ObjectId, after: ObjectId | None) -> Walk:
        """Return the walk of a job that begins behind the recipient `after`.

        RQ takes longer over a job than a walk over ordinary followers takes. So a job also makes the first step for
        other pending statuses: where it begins with a first step itself (`after` is None), for those that are newer
        than its own; otherwise for those that are posted from now on.
        """
        return Walk(id, after, ObjectId.from_datetime(self.stack.clock.now()) if after else id)

    async def step(self, walk: Walk, put: Step) -> None:
        """Make the walk's own next step, and beside it the first steps of statuses that come by."""
        settings, statuses = await self._due(walk)
        known = replace(self, settings=settings)
        await walk.side_by_side({s.id: put(known, s, walk.after if s.id == walk.own else None) for s in statuses})
        await self._note(walk)

    async def queue_rest(self, walk: Walk) -> None:
        """Queue a job for the walk's own next step."""
        await self._queue(walk, {walk.own: walk.further[walk.own]})

    async def first_steps(self, statuses: Sequence[StatusRow], put: Step) -> Failures:
        """Make the first steps of these statuses side by side, and queue jobs for what is left. Return what failed."""
        walk = self.walk(statuses[0].id, None)
        known = replace(self, settings=await self.switch.fresh())
        await walk.side_by_side({status.id: put(known, status, None) for status in statuses})
        await self._queue(walk, walk.further)
        await self.done(*walk.ended)
        return walk.failed

    async def _due(self, walk: Walk) -> tuple[Settings, list[StatusRow]]:
        """Return settings, and the statuses whose step is due: the walk's own and some that come by. All is read at one
        moment.
        """
        own = {"_id": walk.own, "pending": self.name}  # where it is not pending, another walk has ended
        others = {"pending": self.name, "_id": {"$gte": walk.since, "$nin": [walk.own, *walk.taken]}}
        settings, answers = await self.switch.fresh_with(
            own=Find("statuses", own, FIELDS, 1),
            others=Find("statuses", others, FIELDS, TOGETHER - 1, [("_id", 1)]),
        )
        statuses = [StatusRow.of(document) for document in (*answers["own"], *answers["others"])]
        walk.ended, walk.further = [s.id for s in statuses if not s.audience], {}  # deleted meanwhile
        return settings, [s for s in statuses if s.audience]

    async def _note(self, walk: Walk) -> None:
        """Note what a step has done. What has reached everybody is pending no longer. The job goes on with its own
        status; any other one with recipients left gets a job for its next step. Jobs for first steps that this job has
        made are taken off the queue: they have nothing left to do.
        """
        await self._queue(walk, {status: after for status, after in walk.further.items() if status != walk.own})
        if others := [status for status in (*walk.further, *walk.ended) if status != walk.own]:
            await self.queue.withdraw(self.name, others)
        await self.done(*walk.ended)

    async def _queue(self, walk: Walk, further: Mapping[ObjectId, ObjectId]) -> None:
        """Queue the next steps. A status whose step cannot be queued has failed: it begins again, one step behind."""
        for status, after in list(further.items()):
            try:
                await self.queue.go_on(self.name, status, after)
            except QueueDown as error:
                walk.failed[status] = error
                del walk.further[status]

    async def pending(self, ids: Mapping[str, Any]) -> list[StatusRow]:
        """Return the pending statuses whose ids match, oldest first, at most as many as are delivered together."""
        ours = {"pending": self.name, "_id": ids}
        find = Find("statuses", ours, FIELDS, TOGETHER, [("_id", 1)])
        with uncounted():  # whoever follows the stream is told
            return [StatusRow.of(document) for document in await rows(self.stack.db, find)]

    async def done(self, *statuses: ObjectId) -> None:
        """Note that these statuses have reached their last recipient."""
        if statuses:
            await self.outbox.done(self.name, statuses)
