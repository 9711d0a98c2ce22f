"""The web edge: the JSON API, the pages, and what stands before both. It is composed here, once."""

from collections.abc import AsyncIterator, Collection
from contextlib import asynccontextmanager
from functools import partial

from bson import ObjectId
from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.middleware import Middleware
from starlette.types import ASGIApp

from app.accounts import Accounts
from app.config import Config
from app.departures import keep_clearing
from app.inbox.changes import Changes
from app.inbox.conversations import Conversations
from app.inbox.messages import Messages
from app.inbox.notifications import Notifications
from app.inbox.notifier import Notifier
from app.inbox.pictures import Pictures
from app.live.hub import Hub
from app.live.presence import Presences
from app.live.talk import Talk
from app.social.people import People
from app.social.relations import Relations
from app.social.statuses import Statuses
from app.stack import Hint, Stack
from app.stack.bus import HintKind
from app.walkthrough.laboratory import Laboratory
from app.watch.background import beside
from app.watch.burning import Budgets
from app.watch.metrics import LIVE_CONNECTIONS, PRESENT, sent_live
from app.web import api, cast, health, pages, schemas, walkthrough
from app.web.afterwards import Afterwards
from app.web.backlog import Backlog
from app.web.guard import AllowedHosts, AnswerErrors, BodyLimit, OneSocket, RequestIds, SecurityHeaders
from app.web.health import Health, Measured
from app.web.live import Streams
from app.web.live_stream import Lasting
from app.web.problems import Errors
from app.web.state import Services
from phases.timelines import Timelines
from workers import sampler
from workers.sweeper import last_pulse

EXPORTS = 20  # of one person in an hour
COMPARISONS = 30  # of one person in a minute: each reads a page some fifty times


def _own_names(config: Config) -> Collection[str] | None:
    """Return the host names that requests may be for; None allows all.

    Demo mode checks them even where none are configured: a page of another site could do everything, since nobody is
    asked for a password.
    """
    if "*" in config.allowed_hosts or not (config.allowed_hosts or config.demo):
        return None
    return config.allowed_hosts


async def _hinted(stack: Stack, kind: HintKind, person: ObjectId) -> None:
    stack.bus.tell(Hint(kind, person))


class _Site(Starlette):
    def build_middleware_stack(self) -> ASGIApp:
        return Lasting(super().build_middleware_stack())


def create_app(stack: Stack, timelines: Timelines) -> Starlette:
    """Return the ASGI application on an open stack, which its caller closes."""
    errors = Errors(pages.error_page)
    backlog, services = Backlog(timelines), _services(stack, timelines)
    budgets = Budgets(stack.clock.monotonic)
    PRESENT.set_function(lambda: services.presences.here)
    LIVE_CONNECTIONS.set_function(lambda: services.hub.connections)
    system = Health(timelines, backlog.note, budgets.note)

    @asynccontextmanager
    async def lifespan(app: Starlette) -> AsyncIterator[None]:
        sampling = sampler.keep(system.sample.latest)
        counting, clearing = sampler.keep_counts(timelines), keep_clearing(stack)
        always = sampling, counting, services.hub.run(), services.presences.keep(), clearing
        at_first = [cast.warm(stack, app.state)] if stack.config.demo else []
        async with services.afterwards.open(), beside(*always, *at_first):
            yield
        await last_pulse(timelines)
        await sampler.last_counts(timelines)

    app = _Site(
        routes=[api.ROUTE, *health.ROUTES, *walkthrough.routes, *pages.routes],
        exception_handlers={HTTPException: errors.answer},  # Starlette's own; AnswerErrors sees to all the others
        lifespan=lifespan,
        middleware=[
            Middleware(RequestIds),
            Middleware(SecurityHeaders),
            Middleware(Measured),
            Middleware(AllowedHosts, errors, _own_names(stack.config)),
            Middleware(AnswerErrors, errors),
            Middleware(OneSocket, api.SOCKET),
            Middleware(BodyLimit, errors),
        ],
    )
    app.router.redirect_slashes = False
    app.state.services = services
    app.state.backlog = backlog
    app.state.budgets = budgets
    app.state.health = system
    app.state.streams = Streams()
    app.state.watches = {}  # deliveries that somebody watches
    app.state.laboratory = Laboratory(stack)
    return app


def _services(stack: Stack, timelines: Timelines) -> Services:
    accounts, notifications, conversations = Accounts(stack), Notifications(stack), Conversations(stack)
    timelines.outbox.add(Notifier(stack, timelines.outbox))
    people, presences = People(stack), Presences(stack, partial(_hinted, stack, "presence"))
    talk = Talk(conversations, Changes(stack), people, presences, schemas)
    theirs = people, accounts, notifications, presences, schemas
    rate, config = stack.rates.rate, stack.config
    refused = "Too many live streams were refused to strangers where you are."
    return Services(
        stack=stack,
        timelines=timelines,
        accounts=accounts,
        people=people,
        relations=Relations(stack, timelines.outbox),
        statuses=Statuses(stack, timelines.outbox),
        notifications=notifications,
        conversations=conversations,
        messages=Messages(stack),
        pictures=Pictures(stack),
        presences=presences,
        hub=Hub(stack, timelines, *theirs, conversations.unread, sent_live, talk=talk),
        writes=rate("writes", config.writes_per_minute, "Too many changes in one minute."),
        exports=rate("exports", EXPORTS, "Too many exports in one hour.", minutes=60),
        comparisons=rate("comparisons", COMPARISONS, "Too many comparisons of the phases in one minute."),
        uploads=rate("pictures", config.pictures_per_hour, "Too many pictures in one hour.", minutes=60),
        renames=rate("renames", config.renames_per_hour, "Too many changes of your name in one hour.", minutes=60),
        openings=rate("streams", config.streams_per_minute, "Too many live streams opened in one minute."),
        tickets=rate("tickets", config.streams_per_minute, "Too many tickets in one minute."),
        refusals=rate("refused streams", config.refused_streams_per_minute, refused),
        afterwards=Afterwards(),
    )
