"""The services that `create_app` has put together, for endpoints."""

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
    """Return what comes of the work, in the time that a request may wait for servers. Raises OutOfTime."""
    return await within(services(request).stack.config.server_timeout_s, work)
