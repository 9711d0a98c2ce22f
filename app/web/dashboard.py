"""The dashboard for operators: what every server and worker does, and in demo mode buttons to disturb them."""

import asyncio
import logging
import os
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from typing import Any

from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import Response

from app.errors import Forbidden, Invalid, NotFound
from app.models import Account, Person
from app.stack import MemcachedDown, QueueDown, outages_told
from app.stack.memcached import Stats
from app.stack.queue import JobSeen, WorkerState
from app.watch.objectives import LEAST_PER_S, WINDOW_DAYS
from app.web.backlog import MINUTES, Backlog
from app.web.done import done
from app.web.live import stream
from app.web.render import fragment, render
from app.web.request import Endpoint, address, changing, for_operators
from app.web.state import services
from phases.keeping.activity import active_count
from phases.pulling.markers import FEW_MARKED
from phases.pulling.pulls import Weighed
from phases.timelines import PhaseState, Timelines

log = logging.getLogger(__name__)
rest = asyncio.sleep

DEAD_LETTERS_SHOWN = 20
LOOK_EVERY_S = 2.0
AWAY_SHARE = 0.9
LINE_WIDTH, LINE_HEIGHT = 160, 28  # of a sparkline, in its own units


@dataclass(frozen=True)
class Overview:
    """The content of the dashboard. A field is None where the server that knows does not answer."""

    servers: dict[str, str | None]
    phases: list[tuple[PhaseState, str]] | None  # each with its sparkline
    most_pending: int
    workers: list[WorkerState] | None
    paused: bool
    dead: list[JobSeen]
    active: int | None
    people: int | None
    lists: Stats | None


async def overview(request: Request) -> Overview:
    stack, backlog = services(request).stack, _backlog(request)
    servers = await stack.check()
    mongodb, redis, memcached = (servers[name] is not None for name in ("mongodb", "redis", "memcached"))
    state = await backlog.sample() if mongodb else None
    phases = [phase for phase in state.phases if phase.slug in _keeping(request)] if state else []
    lines = [backlog.line(phase.slug, "pending") for phase in phases]
    most = max((number for line in lines for _, number in line), default=0)
    queue = stack.queue
    try:
        workers = await asyncio.gather(
            queue.workers(), queue.paused(), queue.deliveries(failed=True, limit=DEAD_LETTERS_SHOWN)
        )
    except QueueDown:
        workers = ([], False, [])
        redis = False
    try:
        lists = await stack.memcached.stats() if memcached else None
    except MemcachedDown:
        lists = None
    return Overview(
        servers=servers,
        phases=[(phase, polyline(line, most)) for phase, line in zip(phases, lines, strict=True)] if state else None,
        most_pending=most,
        workers=workers[0] if redis else None,
        paused=workers[1],
        dead=workers[2],
        active=await active_count(stack) if mongodb else None,
        people=await stack.db["users"].estimated_document_count() if mongodb else None,
        lists=lists,
    )


def _backlog(request: Request) -> Backlog:
    return request.app.state.backlog  # type: ignore[no-any-return]


def _keeping(request: Request) -> set[str]:
    """Return the phases that keep something, so that a status is delivered through them."""
    return {slug for slug, phase in services(request).timelines.phases.items() if phase.keeps}


def polyline(line: Sequence[tuple[float, int]], most: int) -> str:
    """Return the points of a sparkline: the last minutes from left to right, 0 to `most` from the bottom up."""
    across, up = LINE_WIDTH / (MINUTES * 60), (LINE_HEIGHT - 2) / (most or 1)
    return " ".join(f"{LINE_WIDTH - across * ago_s:.1f},{LINE_HEIGHT - 1 - up * number:.1f}" for ago_s, number in line)


async def dashboard(request: Request, me: Account) -> Response:
    return render(request, "dashboard.html", **await _shown(request))


async def _shown(request: Request) -> dict[str, Any]:
    return {
        "now_is": await overview(request),
        "phases": services(request).timelines.phases,
        "minutes": MINUTES,
        "budgets": request.app.state.budgets.burning(),
        "budget_days": WINDOW_DAYS,
        "least_per_s": LEAST_PER_S,
        "process": os.getpid(),
        "box": (LINE_WIDTH, LINE_HEIGHT),
        "one_process": services(request).stack.addresses.one_process,
    }


async def live(request: Request, me: Account) -> Response:
    async def part() -> str | None:
        operates = True  # as when the stream began, where MongoDB cannot be asked: the page says just that
        with outages_told(log.info, "operations are shown to whom they were shown"):
            operates = await services(request).accounts.operates(me.id)
        return fragment(request, "parts/dashboard.html", **await _shown(request)) if operates else None

    return await stream(request, "operations", part, LOOK_EVERY_S)


# Buttons


@dataclass(frozen=True)
class Button:
    """A button of the dashboard. `always`: it is there outside of demo mode, too."""

    work: Callable[[Timelines], Awaitable[object]]
    always: bool = False


BUTTONS = {
    "retry": Button(lambda timelines: timelines.stack.queue.retry_dead_letters(), always=True),
    "pause": Button(lambda timelines: timelines.stack.queue.pause()),
    "resume": Button(lambda timelines: timelines.stack.queue.resume()),
    "flush": Button(lambda timelines: timelines.forget_lists()),
    "send-away": Button(lambda timelines: timelines.send_away(AWAY_SHARE, rest)),
}


def press(name: str) -> Endpoint:
    button = BUTTONS[name]

    async def handler(request: Request, me: Account) -> Response:
        await changing(request, me)
        if not button.always and not services(request).stack.config.demo:
            raise HTTPException(404)
        await button.work(services(request).timelines)
        return done(request, "/operations", name)

    return for_operators(handler)


# Whose statuses are pulled

CHOICES: dict[str, bool | None] = {"rule": None, "pulled": True, "delivered": False}
HEAVY_SHOWN = 50


async def authors(request: Request, me: Account) -> Response:
    """Show why an author is pulled or delivered, and take a choice, for experiments."""
    timelines = services(request).timelines
    typed = request.query_params.get("handle", "").strip().removeprefix("@")
    errors: dict[str, str] = {}
    if request.method == "POST":
        form = await changing(request, me)
        typed, choice = str(form.get("handle", "")), str(form.get("choice", ""))
        try:
            author = await services(request).people.by_handle(typed)
            if choice not in CHOICES:
                raise Invalid("choice", f"Choose one of {', '.join(CHOICES)}.")
            await timelines.force(author.id, CHOICES[choice])
            return done(request, address("/operations/authors", handle=author.handle), "chosen")
        except (Invalid, NotFound) as error:
            errors = {"choice": str(error)}
    heavy = await timelines.pulls.markers.newest(HEAVY_SHOWN)
    forced = (await timelines.switch.fresh()).forced
    ids = list(dict.fromkeys([*forced, *heavy]))
    people = await services(request).people.by_ids(ids)
    shown = await _weighed(request, typed) if typed and not errors else None
    return render(
        request,
        "authors.html",
        422 if errors else 200,
        typed=typed,
        errors=errors,
        shown=shown,
        choices=CHOICES,
        heavy=[(people[id], heavy.get(id), forced.get(id)) for id in ids if id in people],
        config=services(request).stack.config,
        few=FEW_MARKED,
    )


async def _weighed(request: Request, handle: str) -> tuple[Person, Weighed | None, bool | None] | None:
    """Return a person, how phase 6 weighs them and the forced choice; None where nobody has the handle."""
    timelines = services(request).timelines
    try:
        author = await services(request).people.by_handle(handle)
    except NotFound:
        return None
    forced = (await timelines.switch.fresh()).forced.get(author.id)
    return Person.of(author), await timelines.weighed(author.id), forced


# Phases


async def phases(request: Request, me: Account) -> Response:
    timelines = services(request).timelines
    may_switch = await services(request).accounts.operates(me.id)
    state, errors = await timelines.state(), {}
    typed = {"delivering": list(state.delivering), "read": state.read}
    if request.method == "POST":
        form = await changing(request, me)
        if not may_switch:
            raise Forbidden("Administrators switch the phases.")
        delivering, read = [str(slug) for slug in form.getlist("delivering")], str(form.get("read", ""))
        typed = {"delivering": delivering, "read": read}
        try:
            await timelines.change(read=read, delivering=delivering)
            return done(request, "/phases", "switched")
        except Invalid as error:
            errors = {error.field: str(error)}
    return render(
        request,
        "phases.html",
        422 if errors else 200,
        state=state,
        keeping=_keeping(request),
        may_switch=may_switch,
        typed=typed,
        errors=errors,
    )
