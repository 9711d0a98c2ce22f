"""The comparison: one reader in every phase, side by side; and a check over many readers that the phases agree."""

from collections.abc import Sequence
from dataclasses import dataclass
from secrets import token_urlsafe
from typing import Any

from bson import ObjectId
from starlette.requests import Request
from starlette.responses import Response

from app.errors import Conflict, Invalid, NotFound
from app.models import Account, Person, StatusRow
from app.web.cast import cast
from app.web.delivery import Watch, Watches, watch_delivery, watch_stored
from app.web.live import stream
from app.web.measured_page import MeasuredPage, compared, in_every_phase
from app.web.render import fragment, render
from app.web.request import changing, id_of, idempotency_key, to
from app.web.session import field
from app.web.state import services

COMPARE = "/compare"
ROWS = 10
READERS_CHECKED = 20
ANOTHER_LOOK = 2  # what is posted between two of the reads is no difference
WATCH_EVERY_S = 0.2
FIRST_WORDS = "Watch how this one is delivered"


@dataclass(frozen=True)
class Cell:
    """A place in a column. `strange`: phase 1 does not have it. `missing`: only phase 1 has it."""

    status: StatusRow
    strange: bool = False
    missing: bool = False


@dataclass(frozen=True)
class Column:
    read: MeasuredPage
    cells: list[Cell]
    differs: bool


async def columns(request: Request, reader: ObjectId, reads: Sequence[MeasuredPage] = ()) -> list[Column]:
    """Compare the first page in every phase with that in phase 1, which computes it from the definition.

    `reads`: pages that were read already.
    """
    for _ in range(ANOTHER_LOOK):
        shown = against_first(reads or await in_every_phase(request, reader, None, ROWS))
        if not any(column.differs for column in shown):
            break
        reads = ()
    return shown


def against_first(reads: Sequence[MeasuredPage]) -> list[Column]:
    """Compare the reads of one page with the first of them, which is phase 1's."""
    right = reads[0].page
    by_id = {row.id: row for read in reads for row in read.page.statuses}
    right_ids = {row.id for row in right.statuses}
    shown = []
    for read in reads:
        page, ids = read.page, {row.id for row in read.page.statuses}
        cells = [
            Cell(by_id[id], strange=id not in right_ids, missing=id not in ids)
            for id in sorted(ids | right_ids, reverse=True)
        ]
        differs = (page.statuses, page.next) != (right.statuses, right.next)
        shown.append(Column(read, cells, differs))
    return shown


async def side_by_side(request: Request, me: Account, typed: str = FIRST_WORDS, wrong: str | None = None) -> Response:
    await services(request).comparisons.count(me.id)
    reader, refused = await _reader(request, me)
    may_check = await services(request).accounts.operates(me.id)
    costs = await compared(request, reader.id, None, ROWS)
    shown = await columns(request, reader.id, [cost.last for cost in costs])
    checked = await _checked(request) if may_check and "check" in request.query_params else None
    return render(
        request,
        "side_by_side.html",
        422 if wrong else 404 if refused else 200,
        reader=reader,
        refused=refused,
        columns=list(zip(costs, shown, strict=True)),
        differing=[column.read.slug for column in shown if column.differs],
        costs=costs,
        people=await services(request).people.by_ids(
            {cell.status.user_id for column in shown for cell in column.cells}
        ),
        players=await cast(services(request).stack, request.app.state) if services(request).stack.config.demo else (),
        may_choose=services(request).stack.config.demo,
        may_check=may_check,
        checked=checked,
        meaningless=services(request).stack.addresses.one_process,
        rows=ROWS,
        errors={"text": wrong} if wrong else {},
        typed=typed,
        once=token_urlsafe(12),
        path=COMPARE,
    )


async def _reader(request: Request, me: Account) -> tuple[Account, str | None]:
    """Return the reader whose page is shown, and what was wrong with the handle that was asked for.

    It is the user, or in demo mode anybody. To run a system is no right to read along.
    """
    handle = request.query_params.get("reader", "").strip().removeprefix("@")
    if not handle or not services(request).stack.config.demo:
        return me, None
    try:
        user = await services(request).people.by_handle(handle)
    except NotFound as error:
        return me, str(error)
    return Account.of(user), None


@dataclass(frozen=True)
class Check:
    reader: Person
    phases: tuple[str, ...]  # those that differ from phase 1


async def _checked(request: Request) -> list[Check]:
    """Check some readers drawn at random; return those who differ first."""
    drawn = (
        services(request)
        .stack.db["users"]
        .aggregate([{"$sample": {"size": READERS_CHECKED}}, {"$project": {"_id": 1}}])
    )
    ids = [user["_id"] for user in await drawn.to_list(READERS_CHECKED)]
    people = await services(request).people.by_ids(ids)
    checks = []
    for id in ids:
        shown = await columns(request, id)
        checks.append(Check(people[id], tuple(column.read.slug for column in shown if column.differs)))
    return sorted(checks, key=lambda check: not check.phases)


# Post and watch


async def post(request: Request, me: Account) -> Response:
    """Post as the user, in demo mode as anybody, and watch the delivery."""
    form = await changing(request, me)
    author = me.id
    if services(request).stack.config.demo and (handle := field(form, "author").strip().removeprefix("@")):
        author = (await services(request).people.by_handle(handle)).id
    text = field(form, "text")
    try:
        once = idempotency_key(form, text)
        watch = await watch_delivery(services(request), request.app.state.watches, me.id, author, text, once)
    except (Invalid, Conflict) as error:
        return await side_by_side(request, me, text, str(error))
    return to(f"/compare/deliveries/{watch.status.id}")


async def delivery(request: Request, me: Account) -> Response:
    watch = await _watch(request, me)
    author = (await services(request).people.by_ids([watch.status.user_id]))[watch.status.user_id]
    return render(request, "delivery.html", **_shown(request, watch), author=author, live=f"{request.url.path}/live")


def _shown(request: Request, watch: Watch) -> dict[str, Any]:
    timelines = services(request).timelines
    kept = {name: timelines.switch.phases_of(name) for name in timelines.kept}
    return {"watch": watch, "phases": timelines.phases.values(), "kept": kept}


async def delivery_live(request: Request, me: Account) -> Response:
    watch = await _watch(request, me)
    finished = False

    async def part() -> str | None:
        nonlocal finished
        if finished:
            return None
        finished = watch.over
        return fragment(request, "parts/delivery.html", **_shown(request, watch))

    return await stream(request, "delivery", part, WATCH_EVERY_S)


async def _watch(request: Request, me: Account) -> Watch:
    """Return the watch of a status that is there: one's own, in demo mode anybody's. Raises NotFound.

    To run a system is no right to read along.
    """
    here, id, author = services(request), id_of(request), me.id
    if here.stack.config.demo and (stored := await here.stack.db["statuses"].find_one({"_id": id}, {"user_id": 1})):
        author = stored["user_id"]
    status = await here.statuses.by_id(author, id)
    if status.user_id != author:
        raise NotFound("You have no such status.")
    watches: Watches = request.app.state.watches
    return watches.get(id) or await watch_stored(here, watches, me.id, status)
