"""The HTTP JSON API, version 1: one table of operations at the bottom, and what each of them does.

Routes, validation and the OpenAPI document all come from the table.
"""

import asyncio
import re
from collections.abc import Awaitable, Callable, Sequence
from functools import cache, partial
from time import perf_counter

from bson import ObjectId
from pydantic_core import to_json
from starlette.responses import Response
from starlette.routing import Mount, Router, WebSocketRoute
from starlette.websockets import WebSocket

from app.accounts import Caller
from app.errors import NoAccount, NotFound
from app.inbox.notifications import people_on
from app.inbox.pictures import LARGEST, LIMITS, TYPES
from app.live.talk import MOST_OTHERS
from app.models import Person, User
from app.social.people import People, PeoplePage
from app.social.relations import Relations
from app.social.statuses import Prepared, Statuses
from app.stack.cost import counted
from app.web import openapi, schemas
from app.web.api_operation import Call, Operation, Reply, admitted, bearer_token, routes_of
from app.web.caller import address_of, while_it_waits
from app.web.export import as_file, exported, shown_conversations
from app.web.limits import PICTURE
from app.web.live_stream import MEDIA_TYPE as EVENTS
from app.web.live_stream import connected, converse, events_for, position_of
from app.web.opening import opening
from app.web.picture import PictureResponse
from app.web.problems import Rejected
from app.web.request import id_in_text
from app.web.state import in_time
from phases.home.page import Page

PREFIX = "/api/v1"
SOCKET = f"{PREFIX}/live/socket"
DONE = Reply(204)


# Who am I


async def sign_up(call: Call) -> Reply:
    asked: schemas.SignUp = call.body
    work = call.services.accounts.sign_up(asked.handle, asked.name, asked.password, _caller(call))
    user = await while_it_waits(call.request, work)
    return Reply(201, schemas.Person.of(user), {"Location": f"{PREFIX}/users/{user.handle}"})


async def sign_in(call: Call) -> Reply:
    asked: schemas.Credentials = call.body
    work = call.services.accounts.sign_in(asked.handle, asked.password, _caller(call))
    token, expires_at = await while_it_waits(call.request, work)
    return Reply(201, schemas.NewToken(token=token, expires_at=expires_at))


def _caller(call: Call) -> Caller:
    return Caller(address_of(call.request))  # cookies are not looked at here


async def sign_out(call: Call) -> Reply:
    await call.services.accounts.sign_out(call.token)
    return DONE


async def me(call: Call) -> Reply:
    person = (await call.services.people.by_ids([call.me.id]))[call.me.id]
    if not person.is_there:
        raise NoAccount(person.id)
    return Reply(200, await _profile(call, person))


async def change_me(call: Call) -> Reply:
    asked: schemas.ProfileChange = call.body
    if asked.name is not None:
        await call.services.renames.count(call.me.id)
        await call.services.people.rename(call.me, asked.name)
    if asked.presence is not None:
        await call.services.accounts.hide(call.me, asked.presence == "nobody")
    return await me(call)


async def change_password(call: Call) -> Reply:
    asked: schemas.PasswordChange = call.body
    work = call.services.accounts.change_password(call.me, call.token, asked.old, asked.new, _caller(call))
    await while_it_waits(call.request, work)
    return DONE


async def delete_me(call: Call) -> Reply:
    await while_it_waits(call.request, call.services.accounts.delete(call.me, call.body.password, _caller(call)))
    return Reply(202)


async def export(call: Call) -> Reply:
    await call.services.exports.count(call.me.id)
    return Reply(200, headers=as_file(call.me), parts=await exported(call.request, call.me))


async def user(call: Call) -> Reply:
    return Reply(200, await _profile(call, await _person(call)))


async def _person(call: Call) -> User:
    return await call.services.people.by_handle(call.request.path_params["handle"])


async def _profile(call: Call, person: Person | User) -> schemas.Profile:
    counts, relation, seen = await asyncio.gather(
        call.services.people.counts(call.me.id, person.id),
        call.services.people.relation(call.me.id, person.id),
        _seen(call, [person.id]),
    )
    return schemas.Profile(
        **schemas.Person.of(person).model_dump(),
        followers=counts.followers,
        following=counts.following,
        statuses=counts.statuses,
        you_follow=relation.you_follow,
        follows_you=relation.follows_you,
        blocked=relation.blocked,
        muted=relation.muted,
        presence=schemas.Presence.of(seen[person.id]),
    )


async def _seen(call: Call, people: Sequence[ObjectId]) -> schemas.Seen:
    return await call.services.presences.seen_by(call.me.id, people)


# Friends


def edge(use_case: Callable[[Relations, ObjectId, ObjectId], Awaitable[None]]) -> Callable[[Call], Awaitable[Reply]]:
    """Return the endpoint for a use case from the caller to the person of the path."""

    async def change(call: Call) -> Reply:
        person = await _person(call)
        await use_case(call.services.relations, call.me.id, person.id)
        return DONE

    return change


def people(use_case: Callable[..., Awaitable[PeoplePage]]) -> Callable[[Call], Awaitable[Reply]]:
    """Return the endpoint for a list of people about the person of the path, or about the caller."""

    async def page(call: Call) -> Reply:
        walk: schemas.Walk = call.query
        about = await _person(call) if call.request.path_params else call.me
        listed, next_ = await use_case(call.services.people, about.id, before=walk.before, limit=walk.limit)
        return Reply(200, schemas.People(users=[schemas.Person.of(each) for each in listed], next=_id(next_)))

    return page


# Statuses


async def prepare_post(call: Call) -> Prepared:
    asked: schemas.NewStatus = call.body
    key: str | None = call.headers.idempotency_key
    return await call.services.statuses.prepare(call.me.id, asked.text, asked.audience, key)


async def post(call: Call) -> Reply:
    row, created = await call.services.statuses.store(call.prepared, defer=call.services.afterwards.do)
    location = {"Location": f"{PREFIX}/statuses/{row.id}"}
    return Reply(201 if created else 200, schemas.status(row, call.people), location)


async def status(call: Call) -> Reply:
    by_id = partial(call.services.statuses.by_id, call.me.id, _status_id(call))
    row, author = await call.services.people.shown_on(await by_id(), by_id, lambda row: [row.user_id])
    return Reply(200, schemas.status(row, author))


async def delete(call: Call) -> Reply:
    await call.services.statuses.delete(call.me.id, _status_id(call))
    return DONE


async def statuses_of(call: Call) -> Reply:
    walk: schemas.Walk = call.query
    person = await _person(call)
    rows, next_ = await call.services.statuses.by_author(call.me.id, person.id, before=walk.before, limit=walk.limit)
    author = {person.id: Person.of(person)}
    return Reply(200, {"statuses": [schemas.status(row, author) for row in rows], "next": _id(next_)})


def liking(use_case: Callable[[Statuses, ObjectId, ObjectId], Awaitable[None]]) -> Callable[[Call], Awaitable[Reply]]:
    """Return the endpoint for a use case from the caller to the status of the path."""

    async def change(call: Call) -> Reply:
        await use_case(call.services.statuses, call.me.id, _status_id(call))
        return DONE

    return change


def _status_id(call: Call) -> ObjectId:
    return id_in_text(call.request.path_params["id"], "There is no such status.")


def _id(cursor: ObjectId | None) -> str | None:
    return str(cursor) if cursor else None


# Home timeline


async def timeline(call: Call) -> Reply:
    walk: schemas.TimelineWalk = call.query
    page = call.services.timelines.page
    return await _timeline(call, partial(page, call.me.id, phase=walk.phase, before=walk.before, limit=walk.limit))


async def refresh(call: Call) -> Reply:
    return await _timeline(call, partial(call.services.timelines.refresh, call.me.id, phase=call.query.phase))


async def _timeline(call: Call, read: Callable[[], Awaitable[Page]]) -> Reply:
    with counted() as cost:
        began_s = perf_counter()
        page, statuses = await _written(call, read)
        call.versions = page.versions
        elapsed_ms = (perf_counter() - began_s) * 1000
    rest = {
        "next": _id(page.next),
        "cost": {
            "elapsed_ms": round(elapsed_ms, 3),
            "source": page.source,
            "cold": page.cold,
            "mongodb": cost.mongodb,
            "memcached": cost.memcached,
            "redis": cost.redis,
        },
    }
    # The statuses are JSON already, remembered as bytes: the rest is put around them.
    return Reply(200, b'{"phase":%b,"statuses":%b,%b' % (to_json(page.phase), statuses, to_json(rest)[1:]))


async def _written(call: Call, read: Callable[[], Awaitable[Page]]) -> tuple[Page, bytes]:
    """Return the page, and its statuses as JSON, with the names of their authors."""
    written, page = call.services.written, await read()
    statuses = written.recall(call.me.id, page.statuses, page.names)
    if statuses is None:
        page, authors = await call.services.people.shown_on(
            page, read, lambda page: {row.user_id for row in page.statuses}, lambda page: page.names
        )
        statuses = to_json([schemas.status(row, authors) for row in page.statuses])
        written.keep(call.me.id, page.statuses, page.names, statuses)
    return page, statuses


# Notifications


async def notifications(call: Call) -> Reply:
    walk: schemas.NumberWalk = call.query
    look = partial(call.services.notifications.shown, call.me.id, walk.before, walk.limit)
    (shown, next_, unread), people = await call.services.people.shown_on(await look(), look, people_on)
    return Reply(
        200,
        {
            "notifications": [schemas.notification(one, people) for one in shown],
            "unread": len(unread.notifications),
            "read_to": unread.read_to,
            "next": next_,
        },
    )


async def mark_read(call: Call) -> Reply:
    await call.services.notifications.mark_read(call.me.id, call.body.to)
    return DONE


# Conversations


def _conversation_id(call: Call) -> ObjectId:
    return id_in_text(call.request.path_params["conversation"], "There is no such conversation.")


async def open_conversation(call: Call) -> Reply:
    person = await _person(call)
    found, created = await call.services.conversations.open(call.me.id, person.id)
    (shown,) = await shown_conversations(call.request, call.me, [found])
    return Reply(201 if created else 200, shown)


async def conversations(call: Call) -> Reply:
    walk: schemas.ConversationWalk = call.query
    found, next_, unread = await call.services.conversations.page(call.me.id, walk.before, walk.limit)
    return Reply(
        200,
        {
            "conversations": await shown_conversations(call.request, call.me, found),
            "unread": unread,
            "next": str(next_) if next_ else None,
        },
    )


async def messages(call: Call) -> Reply:
    walk: schemas.NumberWalk = call.query
    found, next_ = await call.services.messages.page(call.me.id, _conversation_id(call), walk.before, walk.limit)
    people = await call.services.people.by_ids({one.who for one in found})
    return Reply(200, {"messages": [schemas.message(one, people) for one in found], "next": next_})


async def send(call: Call) -> Reply:
    asked: schemas.NewMessage = call.body
    image = ObjectId(asked.image.removeprefix(schemas.IMAGES)) if asked.image else None
    where = _conversation_id(call)
    sent, created = await call.services.messages.send(call.me.id, where, asked.client_id, asked.text, image)
    return Reply(201 if created else 200, schemas.message(sent, call.people))


async def receive(call: Call) -> Reply:
    asked: schemas.Receipt = call.body
    await call.services.messages.receive(call.me.id, _conversation_id(call), asked.delivered, asked.read)
    return DONE


async def delete_message(call: Call) -> Reply:
    text: str = call.request.path_params["seq"]
    if not re.fullmatch(schemas.SEQ_PATTERN, text):
        raise NotFound("You have no such message.")
    await call.services.messages.delete(call.me.id, _conversation_id(call), int(text))
    return DONE


def silence(on: bool) -> Callable[[Call], Awaitable[Reply]]:
    async def change(call: Call) -> Reply:
        await call.services.conversations.silence(call.me.id, _conversation_id(call), on)
        return DONE

    return change


# Pictures


async def new_upload(call: Call) -> Reply:
    asked: schemas.NewUpload = call.body
    address, upload = await call.services.pictures.address(call.me.id, asked.type, asked.size)
    image = f"{schemas.IMAGES}{upload.id}"
    new = schemas.Upload(upload_url=f"{PREFIX}/uploads/{address}", image=image, expires_at=upload.expires_at)
    return Reply(201, new)


async def upload(call: Call) -> Reply:
    """Take a picture at an address that was given out. It counts as a change by whoever asked for the address."""
    admitted = await in_time(call.request, call.services.pictures.admitted(call.request.path_params["upload"]))
    await call.services.writes.count(admitted.owner)
    await call.services.uploads.count(admitted.owner)
    await call.services.pictures.take(admitted, call.request.stream(), partial(in_time, call.request))
    return Reply(201)


async def image(call: Call) -> Response:
    wanted = id_in_text(call.request.path_params["image"], "There is no such picture.")
    return PictureResponse(call.request, call.me.id, wanted)


# Live


async def ticket(call: Call) -> Reply:
    await call.services.tickets.count(call.me.id)
    ticket, expires_at = await call.services.accounts.new_ticket(call.token)
    return Reply(201, schemas.NewTicket(ticket=ticket, expires_at=expires_at))


async def live(call: Call) -> Response:
    if call.request.method == "HEAD":
        return Response(headers={"Cache-Control": "no-store"}, media_type=EVENTS)
    after = call.headers.last_event_id or call.query.after
    assert call.admission
    return await events_for(call.request, call.admission, after)


async def only_upgraded(call: Call) -> Reply:
    raise Rejected(426, "This is a WebSocket.", {"Upgrade": "websocket", "Connection": "Upgrade"})


async def live_socket(socket: WebSocket) -> None:
    """Open a live stream as a WebSocket. A refusal is answered before the upgrade."""
    async with opening(socket, bearer_token(socket) or ""):
        connection = await connected(socket, await admitted(socket), position_of(socket))
    await converse(socket, connection)


# Phases


async def phases(call: Call) -> Reply:
    return Reply(200, schemas.State.of(await call.services.timelines.state()))


async def switch(call: Call) -> Reply:
    asked: schemas.PhaseChange = call.body
    return Reply(
        200, schemas.State.of(await call.services.timelines.change(read=asked.read, delivering=asked.delivering))
    )


async def document(call: Call) -> Reply:
    return _document()


@cache
def _document() -> Reply:
    return Reply(200, openapi.document(OPERATIONS, PREFIX), {"Cache-Control": "max-age=60"})


SIGNING_IN = "Too many failed attempts with this handle, or too many attempts from this address."
NOBODY = {404: "Nobody has this handle."}
EDGE = NOBODY | {422: "Oneself."}
NO_CONVERSATION = {404: "There is no such conversation, or it is not yours."}
NO_STATUS = {404: "There is no such status, or you may not see it."}
LIVE = f"Live events, as server-sent events; `presence` of the {MOST_OTHERS} people whom you talked with last"
TOO_MANY_STREAMS = {429: "You have ten live streams open, or have opened too many in one minute."}

OPERATIONS: tuple[Operation, ...] = (  # those that are asked for most come first: routes are tried in order
    Operation(
        "GET",
        "/timeline",
        "Your home timeline",
        timeline,
        {200: schemas.Timeline},
        query=schemas.TimelineWalk,
        finds_versions=True,
    ),
    Operation(
        "POST", "/timeline/refresh", "The first page, rebuilt", refresh, {200: schemas.Timeline}, query=schemas.Refresh
    ),
    Operation(
        "POST", "/users", "Sign up", sign_up, {201: schemas.Person}, auth="none", body=schemas.SignUp,
        refusals={409: "The handle is taken.", 429: "Too many people sign up at this moment, or from this address."},
    ),
    Operation(
        "POST", "/tokens", "Sign in", sign_in, {201: schemas.NewToken}, auth="none", body=schemas.Credentials,
        refusals={
            401: "Handle and password do not go together.",
            429: SIGNING_IN,
        },
    ),
    Operation("DELETE", "/tokens/current", "Sign out: end this token", sign_out, {204: None}),
    Operation("GET", "/me", "Yourself", me, {200: schemas.Profile}),
    Operation(
        "PUT", "/me", "Change your name, or to whom you show whether you are online", change_me,
        {200: schemas.Profile}, body=schemas.ProfileChange,
        refusals={429: "Too many changes in one minute, or of your name in one hour."},
    ),
    Operation(
        "PUT", "/me/password", "Change your password, and end all other tokens", change_password, {204: None},
        body=schemas.PasswordChange, hashes=True,
        refusals={401: "No token, or a bad one; or the old password is wrong.", 429: SIGNING_IN},
    ),
    Operation(
        "GET", "/me/export", "Everything of yours", export, {200: schemas.Export},
        refusals={429: "Too many exports in one hour."},
    ),
    Operation(
        "DELETE", "/me", "Delete your account: at once nothing of it is visible", delete_me, {202: None},
        body=schemas.Proof, hashes=True,
        refusals={401: "No token, or a bad one; or the password is wrong.", 429: SIGNING_IN},
    ),
    Operation("GET", "/users/{handle}", "A person", user, {200: schemas.Profile}, refusals=NOBODY),
    Operation(
        "PUT", "/follows/{handle}", "Follow", edge(Relations.follow), {204: None},
        refusals=EDGE | {403: "One of you blocks the other."},
    ),
    Operation("DELETE", "/follows/{handle}", "Unfollow", edge(Relations.unfollow), {204: None}, refusals=EDGE),
    Operation(
        "PUT", "/blocks/{handle}", "Block, and end both follows", edge(Relations.block), {204: None}, refusals=EDGE
    ),
    Operation("DELETE", "/blocks/{handle}", "Unblock", edge(Relations.unblock), {204: None}, refusals=EDGE),
    Operation(
        "PUT", "/circle/{handle}", "Add to your circle", edge(Relations.add_to_circle), {204: None}, refusals=EDGE
    ),
    Operation(
        "DELETE", "/circle/{handle}", "Remove from your circle", edge(Relations.remove_from_circle), {204: None},
        refusals=EDGE,
    ),
    Operation(
        "PUT", "/mutes/{handle}", "Mute: off your home timeline, and they do not know", edge(Relations.mute),
        {204: None}, refusals=EDGE,
    ),
    Operation("DELETE", "/mutes/{handle}", "Unmute", edge(Relations.unmute), {204: None}, refusals=EDGE),
    Operation("GET", "/mutes", "Whom you mute", people(People.muted), {200: schemas.People}, query=schemas.Walk),
    Operation("GET", "/blocks", "Whom you block", people(People.blocked), {200: schemas.People}, query=schemas.Walk),
    Operation("GET", "/circle", "Your circle", people(People.circle), {200: schemas.People}, query=schemas.Walk),
    Operation(
        "GET", "/users/{handle}/followers", "Who follows a person", people(People.followers), {200: schemas.People},
        query=schemas.Walk, refusals=NOBODY,
    ),
    Operation(
        "GET", "/users/{handle}/following", "Whom a person follows", people(People.following), {200: schemas.People},
        query=schemas.Walk, refusals=NOBODY,
    ),
    Operation(
        "POST", "/statuses", "Post a status", post, {201: schemas.Status, 200: schemas.Status},
        body=schemas.NewStatus, headers=schemas.PostHeaders, shows_caller=True, prepare=prepare_post,
        refusals={409: "The same Idempotency-Key came with another body."},
    ),
    Operation("GET", "/statuses/{id}", "A status", status, {200: schemas.Status}, refusals=NO_STATUS),
    Operation("DELETE", "/statuses/{id}", "Delete a status of yours", delete, {204: None}, refusals=NO_STATUS),
    Operation("PUT", "/statuses/{id}/like", "Like a status", liking(Statuses.like), {204: None}, refusals=NO_STATUS),
    Operation(
        "DELETE", "/statuses/{id}/like", "Like it no longer", liking(Statuses.unlike), {204: None}, refusals=NO_STATUS
    ),
    Operation(
        "GET", "/users/{handle}/statuses", "A person's statuses", statuses_of, {200: schemas.Statuses},
        query=schemas.Walk, refusals=NOBODY,
    ),
    Operation(
        "GET", "/notifications", "What concerns you: follows, likes, mentions, circles", notifications,
        {200: schemas.Notifications}, query=schemas.NumberWalk,
    ),
    Operation(
        "PUT", "/notifications/read", "Mark as read, up to a number", mark_read, {204: None}, body=schemas.ReadTo
    ),
    Operation(
        "PUT", "/conversations/{handle}", "The conversation with a person", open_conversation,
        {200: schemas.Conversation, 201: schemas.Conversation},
        refusals=EDGE | {403: "One of you blocks the other."},
    ),
    Operation(
        "GET", "/conversations", "Your conversations, the last active first", conversations,
        {200: schemas.Conversations}, query=schemas.ConversationWalk,
    ),
    Operation(
        "GET", "/conversations/{conversation}/messages", "Messages, newest first", messages, {200: schemas.Messages},
        query=schemas.NumberWalk, refusals=NO_CONVERSATION,
    ),
    Operation(
        "POST", "/conversations/{conversation}/messages", "Send a message", send,
        {201: schemas.Message, 200: schemas.Message}, body=schemas.NewMessage, shows_caller=True,
        refusals=NO_CONVERSATION
        | {
            403: "One of you blocks the other, or has deleted their account.",
            409: "The same client_id came with another body.",
        },
    ),
    Operation(
        "DELETE", "/conversations/{conversation}/messages/{seq}",
        "Delete a message of yours: it keeps its number, text and picture are gone", delete_message, {204: None},
        refusals={404: "You have no such message."},
    ),
    Operation(
        "PUT", "/conversations/{conversation}/receipt", "Say what has arrived and what has been read", receive,
        {204: None}, body=schemas.Receipt, refusals=NO_CONVERSATION,
    ),
    Operation(
        "PUT", "/conversations/{conversation}/silence", "Silence: its unread messages are on no badge", silence(True),
        {204: None}, refusals=NO_CONVERSATION,
    ),
    Operation(
        "DELETE", "/conversations/{conversation}/silence", "Silence it no longer", silence(False), {204: None},
        refusals=NO_CONVERSATION,
    ),
    Operation(
        "POST", "/uploads", "An address that takes a picture for a message", new_upload, {201: schemas.Upload},
        body=schemas.NewUpload,
    ),
    Operation(
        "PUT", "/uploads/{upload}", "Upload the picture", upload, {201: None}, auth="none",
        takes="application/octet-stream",
        refusals={
            404: "This address takes nothing, or takes nothing any more.",
            409: "This address has taken its picture.",
            413: f"The body is larger than {PICTURE.size // 1024} KiB.",
            422: "These bytes are no picture of that type, not as many as was said, or more than is taken. "
            f"What is sent has at most {LARGEST >> 20} MB. {LIMITS}",
            429: "Too many changes in one minute, pictures in one hour, or pictures at this moment.",
        },
    ),
    Operation(
        "GET", "/images/{image}", "A picture of one of your conversations", image, {200: None}, sends=TYPES,
        refusals={
            404: "There is no such picture, or you may not see it.",
            429: "Too many pictures are being sent to you, or to all together, at this moment.",
        },
    ),
    Operation(
        "POST", "/live/tickets", "A ticket: opens one live stream, once, within 30 s", ticket, {201: schemas.NewTicket},
        refusals={429: "Too many tickets, or changes, in one minute."},
    ),
    Operation(
        "GET", "/live", LIVE, live, {200: None}, auth="ticket", sends=(EVENTS,),
        query=schemas.LivePlace, headers=schemas.LiveHeaders, refusals=TOO_MANY_STREAMS,
    ),
    Operation(
        "GET", "/live/socket", "The same events on a WebSocket", only_upgraded, {101: None}, auth="ticket",
        query=schemas.LivePlace, headers=schemas.LiveHeaders,
        refusals=TOO_MANY_STREAMS | {426: "This asks for no upgrade."},
    ),
    Operation("GET", "/phases", "Which phases deliver, and how far they are", phases, {200: schemas.State}),
    Operation(
        "PUT", "/phases", "Switch phases (administrators; in demo mode everybody)", switch, {200: schemas.State},
        auth="admin", body=schemas.PhaseChange,
    ),
    Operation("GET", "/openapi.json", "This document", document, {200: None}, auth="none"),
)  # fmt: skip

ROUTES = [*routes_of(OPERATIONS), WebSocketRoute(SOCKET.removeprefix(PREFIX), live_socket)]
ROUTE = Mount(PREFIX, app=Router(ROUTES, redirect_slashes=False))
