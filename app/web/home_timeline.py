"""The home timeline, and the statuses on it."""

import secrets
from dataclasses import dataclass
from functools import partial
from typing import Any, get_args

from starlette.requests import Request
from starlette.responses import Response

from app.errors import Conflict, Invalid, TooMany
from app.inbox.mentions import seen_mentions
from app.live.position import Has, Shown, sealed
from app.models import Account, Audience
from app.social.statuses import TEXT_LIMIT
from app.web import session
from app.web.done import done
from app.web.measured_page import Compared, MeasuredPage, compared, measured
from app.web.problems import problem_of
from app.web.render import render
from app.web.request import address, before_of, changing, id_of, idempotency_key, to
from app.web.session import field, posted
from app.web.state import services
from phases.home.page import Page

STATUSES_A_PAGE = 20
SUGGESTIONS = 6
PHASE_COOKIE = "feedlab_phase"

AUDIENCES: dict[str, str] = {
    "followers": "my followers",
    "mutuals": "mutuals",
    "circle": "my circle",
}
SOURCES = {
    "query": "the query of phase 1 answered.",
    "list": "from the list that is kept for you.",
    "list+query": "this page goes past the kept list, and the query of phase 1 gave the rest.",
    "rebuilt": "no list was kept for you; it has been filled.",
}


@dataclass
class Draft:
    """The status that somebody typed and could not post, and why."""

    text: str = ""
    audience: str = "followers"
    errors: dict[str, str] | None = None


async def home_timeline(request: Request, me: Account, draft: Draft | None = None, status: int = 200) -> Response:
    timelines, people = services(request).timelines, services(request).people
    draft, before = draft or Draft(), before_of(request)
    read = (await timelines.switch.current()).read
    chosen = request.query_params.get("phase")
    slug = chosen or _kept_phase(request) or read

    async def read_page() -> MeasuredPage:
        reading = timelines.page(me.id, phase=slug, before=before, limit=STATUSES_A_PAGE)
        return await measured(request, reading)

    read_now, authors = await people.shown_on(
        await read_page(),
        read_page,
        lambda read: {row.user_id for row in read.page.statuses},
        lambda read: read.page.names,
    )
    costs: list[Compared] = []
    if request.query_params.get("costs") == "all":
        await services(request).comparisons.count(me.id)
        costs = await compared(request, me.id, before, STATUSES_A_PAGE, read_now)
    page = read_now.page
    lonely = not page.statuses and not before and (await people.counts(me.id, me.id)).following == 0
    response = render(
        request,
        "home_timeline.html",
        status,
        read_now=read_now,
        page=page,
        costs=costs,
        sources=SOURCES,
        meaningless=services(request).stack.addresses.one_process,
        phases=[(phase, address("/", phase=phase.slug, before=before)) for phase in timelines.phases.values()],
        read=read,
        people=authors,
        mentions=await seen_mentions(services(request).stack.db, page.statuses),
        before=before,
        newest="/" if before else None,
        older=address("/", before=page.next) if page.next else None,
        here=address("/", before=before),
        ask_costs=address("/", before=before, costs="all"),
        news=_position(request, me, page),
        once=secrets.token_urlsafe(12),
        audiences=AUDIENCES.items(),
        longest=TEXT_LIMIT,
        typed=draft,
        errors=draft.errors or {},
        follows_nobody=lonely,
        suggestions=await people.suggestions(me.id, SUGGESTIONS) if lonely else [],
    )
    if chosen:
        session.remember(request, response, PHASE_COOKIE, None if chosen == read else chosen)
    return response


def _kept_phase(request: Request) -> str | None:
    """Return the phase that this reader chose; None if they follow the system's.

    Choosing the system's own phase ends a choice.
    """
    slug = session.kept(request, PHASE_COOKIE)
    return slug if slug in services(request).timelines.phases else None


async def refresh(request: Request, me: Account) -> Response:
    form = await changing(request, me)
    await services(request).timelines.refresh(me.id, phase=field(form, "phase") or None, limit=STATUSES_A_PAGE)
    return done(request, "/", "refreshed")


def _position(request: Request, me: Account, page: Page) -> str:
    """Return the position of a reader who has this page before them.

    A stream that begins there tells what has happened since the page was read.
    """
    has = Has(page.names or 0, None, {row.id: Shown.of(row) for row in page.statuses})
    return sealed(services(request).stack.secret, me.id, has)


# Statuses


async def post(request: Request, me: Account) -> Response:
    """Post a status. Whatever is refused, what was typed is not lost."""
    form = await posted(request)
    text = field(form, "text")
    audience: Any = field(form, "audience")
    try:
        if audience not in get_args(Audience):
            raise Invalid("audience", "There is no such audience.")
        await services(request).writes.count(me.id)
        once, defer = idempotency_key(form, audience, text), services(request).afterwards.do
        await services(request).statuses.post(me.id, text, audience, once, defer=defer)
    except (Invalid, Conflict, TooMany) as error:
        problem = problem_of(error)
        draft = Draft(text, audience, dict(problem.errors) or {"text": problem.told})
        response = await home_timeline(request, me, draft, problem.status)
        response.headers.update(problem.page_headers)
        return response
    return done(request, "/", "posted")


async def show_status(request: Request, me: Account) -> Response:
    by_id = partial(services(request).statuses.by_id, me.id, id_of(request))
    row, author = await services(request).people.shown_on(await by_id(), by_id, lambda row: [row.user_id])
    return render(
        request,
        "status.html",
        row=row,
        author=author[row.user_id],
        audience=AUDIENCES[row.audience or "followers"],
        mentions=await seen_mentions(services(request).stack.db, [row]),
    )


async def like(request: Request, me: Account) -> Response:
    form = await changing(request, me)
    await services(request).statuses.like(me.id, id_of(request))
    return to(field(form, "next"))


async def unlike(request: Request, me: Account) -> Response:
    form = await changing(request, me)
    await services(request).statuses.unlike(me.id, id_of(request))
    return to(field(form, "next"))


async def delete(request: Request, me: Account) -> Response:
    form = await changing(request, me)
    await services(request).statuses.delete(me.id, id_of(request))
    return done(request, field(form, "next"), "deleted")
