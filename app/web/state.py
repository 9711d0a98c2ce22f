"""The services that `create_app` has put together, for endpoints."""

import asyncio
from collections import Counter
from collections.abc import Awaitable
from dataclasses import dataclass, field
from typing import TypeVar

from bson import ObjectId
from starlette.requests import HTTPConnection

from app.accounts import Accounts
from app.inbox.conversations import Conversations
from app.inbox.messages import Messages
from app.inbox.notifications import Notifications
from app.inbox.pictures import Pictures
from app.live.hub import Hub
from app.live.presence import Presences
from app.social.people import People
from app.social.relations import Relations
from app.social.statuses import Statuses
from app.stack import Stack, within
from app.stack.rates import Rate
from app.web.afterwards import Afterwards
from app.web.written import WrittenPages
from phases.timelines import Timelines

T = TypeVar("T")


@dataclass(frozen=True)
class Services:
    """The services of one process.

    The rates are `count`ed by person: `writes` before every change, `exports` before every export, `comparisons` before
    the phases are read side by side, `uploads` before every picture, `renames` before every change of a name,
    `openings` before every stream, `tickets` before every ticket of a stream. `refusals` are `hit` by address for every
    stream without an account.
    """

    stack: Stack
    timelines: Timelines
    accounts: Accounts
    people: People
    relations: Relations
    statuses: Statuses
    notifications: Notifications
    conversations: Conversations
    messages: Messages
    pictures: Pictures
    presences: Presences
    hub: Hub
    writes: Rate
    exports: Rate
    comparisons: Rate
    uploads: Rate
    renames: Rate
    openings: Rate
    tickets: Rate
    refusals: Rate
    afterwards: Afterwards
    written: WrittenPages = field(default_factory=WrittenPages)
    under_way: Counter[ObjectId] = field(default_factory=Counter)  # streams that are being opened, by person


def services(request: HTTPConnection) -> Services:
    return request.app.state.services  # type: ignore[no-any-return]


async def in_time(request: HTTPConnection, work: Awaitable[T]) -> T:
    """Return what comes of the work, in the time that a request may wait for servers: it has less for each step after
    the first. What it waits for in between, its client or a password's hash, takes nothing of it. Raises OutOfTime.
    """
    loop, state, limit_s = asyncio.get_running_loop(), request.state, services(request).stack.config.server_timeout_s
    left_s, began_s = getattr(state, "left_s", limit_s), loop.time()
    try:
        return await within(left_s, work)
    finally:  # of steps at the same time the one that takes longest counts
        state.left_s = min(getattr(state, "left_s", limit_s), left_s - (loop.time() - began_s))
