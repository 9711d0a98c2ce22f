"""The page of one's notifications: those that belong together are told in one line."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from functools import partial

from bson import ObjectId
from starlette.requests import Request
from starlette.responses import Response

from app.inbox.notifications import Notification, people_on
from app.models import Account, NotificationKind, Person, StatusRow
from app.web.render import render
from app.web.request import address, changing, number_in_text, to
from app.web.session import field
from app.web.state import services

NOTIFICATIONS_A_PAGE = 50
DIGITS = 18  # of a number that MongoDB can hold


@dataclass
class Line:
    """One kind of thing done by several people, the newest first. `created_at` is that of the newest."""

    kind: NotificationKind
    status: StatusRow | None
    created_at: datetime
    unread: bool
    people: list[Person]


def lines(shown: Sequence[Notification], people: Mapping[ObjectId, Person], read_to: int) -> list[Line]:
    """Group notifications into lines, in the order of the newest of each."""
    found: dict[tuple[NotificationKind, ObjectId | None, bool], Line] = {}
    for one in shown:
        unread = one.seq > read_to
        key = one.kind, one.status.id if one.status else None, unread
        line = found.setdefault(key, Line(one.kind, one.status, one.created_at, unread, []))
        line.people.append(people[one.who])
    return list(found.values())


async def notifications(request: Request, me: Account) -> Response:
    before = number_in_text(request.query_params["before"], DIGITS) if "before" in request.query_params else None
    look = partial(services(request).notifications.shown, me.id, before, NOTIFICATIONS_A_PAGE)
    (shown, last, unread), people = await services(request).people.shown_on(await look(), look, people_on)
    return render(
        request,
        "notifications.html",
        lines=lines(shown, people, unread.read_to),
        unread=len(unread.notifications),
        newest_seq=shown[0].seq if shown and not before else None,
        newest="/notifications" if before else None,
        older=address("/notifications", before=last) if last else None,
    )


async def mark_read(request: Request, me: Account) -> Response:
    form = await changing(request, me)
    await services(request).notifications.mark_read(me.id, number_in_text(field(form, "to"), DIGITS))
    return to("/notifications")
