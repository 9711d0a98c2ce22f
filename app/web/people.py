"""Pages to find people, and a person's page with everything one may do about them."""

from collections.abc import Awaitable, Callable
from typing import Any

from bson import ObjectId
from starlette.requests import Request
from starlette.responses import Response

from app.errors import Forbidden, Invalid, Refused
from app.inbox.mentions import seen_mentions
from app.models import Account, Person
from app.social.people import Relationship
from app.social.relations import Relations
from app.web.done import done
from app.web.home_timeline import STATUSES_A_PAGE, SUGGESTIONS
from app.web.problems import problem_of
from app.web.render import render
from app.web.request import Endpoint, address, before_of, changing, signed_in
from app.web.session import field
from app.web.state import services

PEOPLE_A_PAGE = 50


async def people(request: Request, me: Account) -> Response:
    everybody = services(request).people
    typed = request.query_params.get("q", "").strip()
    after = request.query_params.get("after", "")
    listed, last = await everybody.search(typed.removeprefix("@"), after, PEOPLE_A_PAGE)
    lonely = not typed and not after and (await everybody.counts(me.id, me.id)).following == 0
    return render(
        request,
        "people.html",
        q=typed,
        listed=listed,
        suggestions=await everybody.suggestions(me.id, SUGGESTIONS) if lonely else [],
        followed=await everybody.followed(me.id, [one.id for one in listed]),
        here=address("/people", q=typed, after=after),
        newest=address("/people", q=typed) if after else None,
        older=address("/people", q=typed, after=last) if last else None,
    )


async def muted(request: Request, me: Account) -> Response:
    before = before_of(request)
    listed, last = await services(request).people.muted(me.id, before=before, limit=PEOPLE_A_PAGE)
    return render(
        request,
        "muted.html",
        listed=listed,
        here=address("/muted", before=before),
        newest="/muted" if before else None,
        older=address("/muted", before=last) if last else None,
    )


ACTS: dict[str, Callable[[Relations, ObjectId, ObjectId], Awaitable[None]]] = {
    "follow": Relations.follow,
    "unfollow": Relations.unfollow,
    "block": Relations.block,
    "unblock": Relations.unblock,
    "add-to-circle": Relations.add_to_circle,
    "remove-from-circle": Relations.remove_from_circle,
    "mute": Relations.mute,
    "unmute": Relations.unmute,
}


def act(name: str) -> Endpoint:
    """Return the endpoint of a button: what one person does about another."""

    async def endpoint(request: Request, me: Account) -> Response:
        form = await changing(request, me)
        other = await services(request).people.by_handle(request.path_params["handle"])
        try:
            await ACTS[name](services(request).relations, me.id, other.id)
        except (Forbidden, Invalid) as error:
            return await _person(request, me, "statuses", error)
        return done(request, field(form, "next") or f"/@{other.handle}", name, other.handle)

    return signed_in(endpoint)


def person(tab: str) -> Endpoint:
    async def endpoint(request: Request, me: Account) -> Response:
        return await _person(request, me, tab)

    return signed_in(endpoint)


async def _person(request: Request, me: Account, tab: str, refused: Refused | None = None) -> Response:
    everybody, before = services(request).people, before_of(request)
    one = await everybody.by_handle(request.path_params["handle"])
    path = f"/@{one.handle}" + ("" if tab == "statuses" else f"/{tab}")
    relation = await everybody.relation(me.id, one.id) if one.id != me.id else None
    presences = services(request).presences
    statuses: list[Any] = []
    listed: list[Person] = []
    if tab == "statuses":
        statuses, last = await services(request).statuses.by_author(me.id, one.id, before=before, limit=STATUSES_A_PAGE)
    else:
        edges = everybody.followers if tab == "followers" else everybody.following
        listed, last = await edges(one.id, before=before, limit=PEOPLE_A_PAGE)
    seen = await presences.seen_by(me.id, {one.id, *(other.id for other in listed)} - {me.id})
    return render(
        request,
        "person.html",
        problem_of(refused).status if refused else 200,
        person=one,
        counts=await everybody.counts(me.id, one.id),
        relation=relation,
        presence=seen.get(one.id),
        online={id for id, presence in seen.items() if presence and presence.online},
        acts=_acts(relation) if relation else [],
        refused=str(refused) if refused else None,
        tab=tab,
        statuses=statuses,
        mentions=await seen_mentions(services(request).stack.db, statuses),
        listed=listed,
        followed=await everybody.followed(me.id, [one.id for one in listed]) if listed else {},
        before=before,
        newest=path if before else None,
        older=address(path, before=last) if last else None,
        here=address(path, before=before),
    )


def _acts(relation: Relationship) -> list[tuple[str, str, str]]:
    """Return (act, words, look) of each button that makes sense now."""
    mute = ("unmute", "Unmute", "quiet") if relation.muted else ("mute", "Mute", "quiet")
    if relation.blocked:
        return [("unblock", "Unblock", "quiet"), *([mute] if relation.muted else [])]
    return [
        ("unfollow", "Unfollow", "quiet") if relation.you_follow else ("follow", "Follow", ""),
        ("remove-from-circle", "Remove from circle", "quiet")
        if relation.in_your_circle
        else ("add-to-circle", "Add to circle", "quiet"),
        mute,
        ("block", "Block", "danger"),
    ]
