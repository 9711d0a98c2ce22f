"""The pages of one's conversations, and of what is said in each."""

import hashlib
import re
from dataclasses import replace
from datetime import date, datetime, timedelta
from functools import partial
from itertools import groupby
from secrets import token_urlsafe
from typing import Any

from bson import ObjectId
from starlette.datastructures import FormData, UploadFile
from starlette.requests import Request
from starlette.responses import Response

from app.errors import Conflict, Forbidden, Invalid, NotFound, Refused, TooMany
from app.inbox.messages import TEXT_LIMIT
from app.inbox.pictures import LARGEST, TYPES
from app.inbox.sides import Message, Place
from app.models import Account
from app.web.done import done
from app.web.picture import PictureResponse
from app.web.problems import problem_of
from app.web.render import render
from app.web.request import Endpoint, address, changing, id_in_text, number_in_text, signed_in, to
from app.web.session import MOST_ON_A_BADGE, field, known_session, posted
from app.web.state import in_time, services

CONVERSATIONS_A_PAGE = 30
MESSAGES_A_PAGE = 40
ONCE = "[A-Za-z0-9_-]{16,32}"  # as our pages make it
DIGITS = 9  # of a message's number
ACTS = {"silence": True, "unsilence": False}
STATES = {"sent": "Sent", "delivered": "Delivered", "read": "Read"}  # what a screen reader says of the ticks


def _id_of(request: Request) -> ObjectId:
    return id_in_text(request.path_params["id"], "There is nothing at this address.")


async def conversations(request: Request, me: Account) -> Response:
    before = request.query_params.get("before")
    try:
        place = Place.of(before) if before is not None else None
    except ValueError:
        raise NotFound("There is no such page.") from None
    found, next_, _ = await services(request).conversations.page(me.id, place, CONVERSATIONS_A_PAGE)
    others = {one.other for one in found}
    return render(
        request,
        "conversations.html",
        found=found,
        people=await services(request).people.by_ids(others),
        presences=await services(request).presences.seen_by(me.id, others),
        states=STATES,
        newest="/conversations" if before else None,
        older=address("/conversations", before=next_) if next_ else None,
    )


async def open_conversation(request: Request, me: Account) -> Response:
    await changing(request, me)
    person = await services(request).people.by_handle(request.path_params["handle"])
    found, _ = await services(request).conversations.open(me.id, person.id)
    return to(_path(found.id))


async def conversation(request: Request, me: Account) -> Response:
    """Show a conversation. Whoever is shown its newest messages has read them."""
    before = number_in_text(request.query_params["before"], DIGITS) if "before" in request.query_params else None
    return await _conversation(request, me, _id_of(request), before)


async def with_unsent(request: Request, me: Account, id: ObjectId, typed: str) -> Response:
    """Show a conversation with a message that has not been sent in its field. Raises NotFound."""
    return await _conversation(request, me, id, typed=typed)


async def _conversation(
    request: Request,
    me: Account,
    id: ObjectId,
    before: int | None = None,
    typed: str = "",
    refused: Refused | None = None,
    beside: str = "text",
) -> Response:
    """Render a conversation. `beside`: the field that was refused."""
    here = services(request)
    found = await here.conversations.by_id(me.id, id)
    messages, next_ = await here.messages.page(me.id, id, before, MESSAGES_A_PAGE)
    if before is None and _is_looked_at(request) and messages:
        await here.messages.receive(me.id, id, None, messages[0].seq)
        await _count_again(request, me)
    people = await services(request).people.by_ids({me.id, found.other})
    problem = problem_of(refused) if refused else None
    response = render(
        request,
        "conversation.html",
        problem.status if problem else 200,
        one=found,
        other=people[found.other],
        presence=(await services(request).presences.seen_by(me.id, [found.other]))[found.other],
        days=_days(messages, services(request).stack.clock.now()),
        people=people,
        states=STATES,
        path_here=_path(id),
        before=before,
        newest=_path(id) if before else None,
        older=address(_path(id), before=next_) if next_ else None,
        typed=typed,
        errors={beside: problem.told} if problem else {},
        once=token_urlsafe(12),
        longest=TEXT_LIMIT,
        types=",".join(TYPES),
        largest_mb=LARGEST >> 20,
        last=messages[0].seq if messages and not before else 0,
    )
    if problem:
        response.headers.update(problem.page_headers)
    return response


def _path(id: ObjectId) -> str:
    return f"/conversations/{id}"


def _is_looked_at(request: Request) -> bool:
    """Return whether somebody looks at the page: a browser may load it only in case that somebody wants to."""
    return request.method != "HEAD" and "prefetch" not in request.headers.get("sec-purpose", "")


async def _count_again(request: Request, me: Account) -> None:
    """Count unread conversations again, so that this page's badge includes what the page itself marks as read."""
    known = known_session(request)
    assert known, "somebody is signed in"
    if known.talking:
        talking = await services(request).conversations.unread(me.id, MOST_ON_A_BADGE)
        request.state.session = replace(known, talking=talking)


def _days(messages: list[Message], now: datetime) -> list[tuple[str, date, list[Message]]]:
    """Return the messages by day (UTC), oldest first, each day with the words for it."""
    today = now.date()
    words = {today: "Today", today - timedelta(days=1): "Yesterday"}
    grouped = groupby(reversed(messages), lambda one: one.created_at.date())
    return [(words.get(day, f"{day.day} {day:%B %Y}"), day, list(those)) for day, those in grouped]


# Saying something


async def send(request: Request, me: Account) -> Response:
    """Send a message. Where it is refused, its text is in the field of the page that says so.

    A browser's outbox is answered as a program: a page marks as read what nobody may have looked at.
    """
    form, id = await posted(request), _id_of(request)
    text, by_outbox = field(form, "text"), field(form, "by") == "outbox"
    try:
        await services(request).writes.count(me.id)
        await services(request).messages.send(me.id, id, _client_id(form, text.encode(errors="replace")), text)
    except (Invalid, Forbidden, Conflict, TooMany, NotFound) as error:
        if by_outbox:
            return problem_of(error).response()
        if isinstance(error, NotFound):
            raise
        return await _conversation(request, me, id, typed=text, refused=error)
    return Response(status_code=204) if by_outbox else to(f"{_path(id)}#end")


def _client_id(form: FormData, said: bytes) -> str:
    """Return a client id by which a double click sends one message, and going back and sending another sends two.

    It begins with `once`, by which the page that sent the message knows it among those that it is shown.
    """
    once = field(form, "once")
    if not re.fullmatch(ONCE, once):
        once = hashlib.sha256(once.encode(errors="replace")).hexdigest()[:32]
    return f"{once}.{hashlib.sha256(said).hexdigest()}"


async def send_picture(request: Request, me: Account) -> Response:
    """Send a picture. It has its place before the form, which is held in memory, is read."""
    try:
        with services(request).pictures.arriving.place(me.id, LARGEST) as place:
            form = await place.passage(changing(request, me, files=1))
            try:
                await _send_picture(request, me, form, form.get("picture"))
            except (Invalid, Forbidden) as error:
                return await _conversation(request, me, _id_of(request), refused=error, beside="picture")
            finally:
                await form.close()
    except TooMany as error:
        return await _conversation(request, me, _id_of(request), refused=error, beside="picture")
    return to(f"{_path(_id_of(request))}#end")


async def _send_picture(request: Request, me: Account, form: FormData, file: Any) -> None:
    if not isinstance(file, UploadFile) or not file.size:
        raise Invalid("picture", "Choose a picture first.")
    type: Any = (file.content_type or "").lower()
    if type not in TYPES or file.size > LARGEST:
        raise Invalid("picture", f"A picture is PNG, JPEG, WebP or GIF, and has at most {LARGEST >> 20} MB.")
    here, id = services(request), _id_of(request)
    await in_time(request, here.conversations.check_is_open(me.id, id))
    await here.uploads.count(me.id)
    data = await file.read()
    _, upload = await here.pictures.address(me.id, type, len(data))
    await here.pictures.store(upload, data, partial(in_time, request))
    try:
        await in_time(request, here.messages.send(me.id, id, _client_id(form, data), None, upload.id))
    except Conflict:  # the same form once more: it has been sent, and what has come now goes after a day
        return


async def receipt(request: Request, me: Account) -> Response:
    """Note what a page has got without showing it; a page that shows messages has them noted as read."""
    form = await changing(request, me)
    delivered = number_in_text(field(form, "delivered"), DIGITS)
    await services(request).messages.receive(me.id, _id_of(request), delivered, None)
    return Response(status_code=204)


async def delete(request: Request, me: Account) -> Response:
    await changing(request, me)
    seq = number_in_text(request.path_params["seq"], DIGITS)
    await services(request).messages.delete(me.id, _id_of(request), seq)
    return done(request, _path(_id_of(request)), "deleted")


def silence(act: str) -> Endpoint:
    async def endpoint(request: Request, me: Account) -> Response:
        await changing(request, me)
        await services(request).conversations.silence(me.id, _id_of(request), ACTS[act])
        return done(request, _path(_id_of(request)), act)

    return signed_in(endpoint)


async def picture(request: Request, me: Account) -> Response:
    """Answer a message's picture, as the API does, to the owner of the cookie."""
    return PictureResponse(request, me.id, _id_of(request))
