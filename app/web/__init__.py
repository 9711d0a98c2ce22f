"""The web edge: the JSON API, the pages, and what stands before both. Composed here, once."""

import asyncio
from collections import Counter
from collections.abc import AsyncIterator, Collection, Coroutine
from contextlib import asynccontextmanager, suppress
from functools import partial
from typing import Any

from bson import ObjectId
from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.middleware import Middleware

from app.accounts import Accounts
from app.config import Config
from app.departures import keep_clearing
from app.inbox.conversations import Conversations
from app.inbox.notifications import Notifications
from app.inbox.notifier import Notifier
from app.inbox.pictures import Pictures
from app.live.hub import Hub
from app.live.presence import Presences
from app.live.talk import Talk
from app.social import Social
from app.stack import Hint, Stack
from app.stack.bus import HintKind
from app.walkthrough.laboratory import Laboratory
from app.watch.burning import Budgets
from app.watch.metrics import LIVE_CONNECTIONS, PRESENT, sent_live
from app.web import api, cast, health, pages, schemas, walkthrough
from app.web.afterwards import Afterwards
from app.web.backlog import Backlog
from app.web.guard import AllowedHosts, AnswerErrors, BodyLimit, RequestIds, SecurityHeaders
from app.web.health import Health, Measured
from app.web.live import Streams
from app.web.live_stream import Lasting
from app.web.problems import Errors
from app.web.written import WrittenPages
from phases.timelines import Timelines
from workers import sampler
from workers.sweeper import last_pulse

EXPORTS = 20  # of one person in an hour


def _own_names(config: Config) -> Collection[str] | None:
    """In demo mode a page of another site could do everything here, since nobody is asked for a password."""
    if "*" in config.allowed_hosts or not (config.allowed_hosts or config.demo):
        return None
    return config.allowed_hosts


@asynccontextmanager
async def _beside(*works: Coroutine[Any, Any, None]) -> AsyncIterator[None]:
    """Works that go on beside the block, and no longer."""
    tasks = [asyncio.create_task(work) for work in works]
    try:
        yield
    finally:
        for task in tasks:
            task.cancel()
            with suppress(asyncio.CancelledError):
                await task


async def _hinted(stack: Stack, kind: HintKind, person: ObjectId) -> None:
    stack.bus.tell(Hint(kind, person))


def create_app(stack: Stack, timelines: Timelines) -> Starlette:
    """The ASGI application on an open stack. Closing the stack is for whoever opened it."""
    errors = Errors(pages.error_page)
    backlog = Backlog(timelines)
    afterwards, budgets = Afterwards(), Budgets(stack.clock.monotonic)
    system = Health(timelines, backlog.note, budgets.note)

    @asynccontextmanager
    async def lifespan(_: Starlette) -> AsyncIterator[None]:
        sampling = sampler.keep(system.sample.latest)
        always = sampling, app.state.hub.run(), app.state.presences.keep(), keep_clearing(stack)
        at_first = [cast.warm(stack, app.state)] if stack.config.demo else []
        async with afterwards.open(), _beside(*always, *at_first):
            yield
        await last_pulse(timelines)

    app = Starlette(
        routes=[api.ROUTE, *health.ROUTES, *walkthrough.routes, *pages.routes],
        exception_handlers={HTTPException: errors.answer},  # Starlette's own; AnswerErrors sees to all the others
        lifespan=lifespan,
        middleware=[
            Middleware(Lasting),
            Middleware(RequestIds),
            Middleware(SecurityHeaders),
            Middleware(Measured),
            Middleware(AllowedHosts, errors, _own_names(stack.config)),
            Middleware(AnswerErrors, errors),
            Middleware(BodyLimit, errors),
        ],
    )
    app.router.redirect_slashes = False
    app.state.stack = stack
    app.state.timelines = timelines
    app.state.accounts = Accounts(stack)
    timelines.outbox.add(Notifier(stack, timelines.outbox))
    app.state.social = Social(stack, timelines.outbox)
    app.state.notifications = Notifications(stack)
    app.state.presences = Presences(stack)
    app.state.presences.changed = partial(_hinted, stack, "presence")
    app.state.conversations = conversations = Conversations(stack)
    app.state.pictures = Pictures(stack)
    app.state.hub = Hub(
        stack,
        timelines,
        app.state.social,
        app.state.accounts,
        app.state.notifications,
        app.state.presences,
        schemas,
        conversations.unread,
        sent_live,
        talk=Talk(conversations, app.state.social, app.state.presences, schemas),
    )
    PRESENT.set_function(lambda: app.state.presences.here)
    LIVE_CONNECTIONS.set_function(lambda: app.state.hub.connections)
    app.state.backlog = backlog
    app.state.budgets = budgets
    app.state.health = system
    app.state.streams = Streams()
    app.state.under_way = Counter()  # streams that are being opened, by person
    app.state.watches = {}  # deliveries that somebody watches, by status id
    app.state.laboratory = Laboratory(stack)
    app.state.afterwards = afterwards
    app.state.written = WrittenPages()
    # .count(person) before every change, picture, export and stream; .hit(address) for every stream of nobody
    rate, config = stack.rates.rate, stack.config
    app.state.writes = rate("writes", config.writes_per_minute, "Too many changes in one minute.")
    app.state.exports = rate("exports", EXPORTS, "Too many exports in one hour.", minutes=60)
    app.state.uploads = rate("pictures", config.pictures_per_hour, "Too many pictures in one hour.", minutes=60)
    app.state.openings = rate("streams", config.streams_per_minute, "Too many live streams opened in one minute.")
    refused = "Too many live streams were refused to strangers where you are."
    app.state.refusals = rate("refused streams", config.refused_streams_per_minute, refused)
    return app
