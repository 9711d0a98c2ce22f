"""A client as docs/live.md has it: it opens a stream, fetches, applies events, and comes back with its position."""

import asyncio
import json
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any

from bson import ObjectId

from app.accounts import Accounts
from app.inbox.conversations import Conversations
from app.inbox.messages import Messages
from app.inbox.notifications import Notifications
from app.live.connection import STILL_HERE, Connection, StreamEvent
from app.live.hub import Hub
from app.live.position import PAGE
from app.live.presence import Presences
from app.live.steps import as_json
from app.live.talk import Talk
from app.stack import Hint, Stack
from app.stack.bus import Listener
from app.web import schemas
from tests.world import World

State = dict[str, Any]


async def new_hub(world: World, talk: Talk | None = None) -> Hub:
    """Of one more web process. It hears, and does nothing before it is told to."""
    hub = deaf_hub(world, talk)
    world.stack.bus.listen(hub.listener)
    await carried(world.stack)
    return hub


def deaf_hub(world: World, talk: Talk | None = None) -> Hub:
    """The same, before it hears anything."""
    stack = world.stack
    parts = world.people, Accounts(stack), Notifications(stack), Presences(stack)
    return Hub(stack, world.timelines, *parts, schemas, Conversations(stack).unread, talk=talk)


async def carried(stack: Stack) -> None:
    """Until whatever has been told so far has been heard."""
    mark, arrived = Hint("concerns", ObjectId()), asyncio.Event()
    listener = Listener(lambda hint: arrived.set() if hint == mark else None, lambda: None)
    stack.bus.listen(listener)
    while not arrived.is_set():  # it is lost where nobody listens yet
        stack.bus.tell(mark)
        with suppress(TimeoutError):
            await asyncio.wait_for(arrived.wait(), 0.2)
    stack.bus.leave(listener)


async def settled(hub: Hub) -> None:
    """Until everything that has happened has been told."""
    await carried(hub._stack)
    await hub.settled()


async def fetched(world: World, me: ObjectId) -> State:
    """What the API's calls answer now."""
    page = await world.timelines.page(me, limit=PAGE)
    shown, _, unread = await Notifications(world.stack).shown(me, None, PAGE)
    people = await world.people.by_ids({row.user_id for row in page.statuses})
    statuses = [schemas.status(row, people) for row in page.statuses]
    notes = [(one.seq, one.kind, str(one.who), str(one.status.id) if one.status else None) for one in shown]
    return {"statuses": statuses, "notifications": notes, "unread": len(unread.notifications), **await _talk(world, me)}


async def _talk(world: World, me: ObjectId) -> State:
    """Conversations, and the messages of each; of those that one got the state is not told to other devices."""
    found, _, unread = await Conversations(world.stack).page(me, None, 100)
    others = {one.other for one in found}
    people, seen = await world.people.by_ids({me, *others}), await Presences(world.stack).seen_by(me, others)
    talk = {}
    for one in found:
        talk[str(one.id)] = heard = _heard(json.loads(as_json(schemas.conversation(one, people, seen))))
        for message in (await Messages(world.stack).page(me, one.id, None, 100))[0]:
            heard["messages"][message.seq] = _said(schemas.message(message, people))
    return {"messages_unread": unread, "talk": talk}


def _heard(shown: State) -> State:
    """A conversation as a client keeps it. `counted`: up to which message its `unread` counts."""
    last = shown["last"]["seq"] if shown["last"] else 0
    kept = {name: shown[name] for name in ("unread", "delivered_to", "read_to")}
    kept |= {"handle": shown["with"]["handle"], "name": shown["with"]["name"], "silenced": "silenced" in shown}
    kept["presence"] = _seen(shown["with"]["presence"])
    return {**kept, "messages": {}, "last": last, "counted": last}


def _unknown() -> State:
    """A conversation of which the client knows nothing yet: whom it is with, the other's messages say, or an event."""
    numbers = dict.fromkeys(("unread", "delivered_to", "read_to", "last", "counted"), 0)
    return {**numbers, "handle": None, "name": None, "silenced": False, "presence": None, "messages": {}}


def _seen(presence: State | None) -> State | None:
    """When somebody who is here was seen last is not told."""
    return presence and {**presence, "last_seen_at": None if presence["online"] else presence["last_seen_at"]}


def _said(message: State) -> tuple[Any, ...]:
    own, who = message["client_id"] is not None, (message["from"]["handle"], message["from"]["name"])
    return who, message["text"], message["client_id"], message["state"] if own else None


def _rename(one: State, handle: str, name: str) -> None:
    """The other in a conversation, or oneself: their name is on what they said."""
    if one["handle"] == handle:
        one["name"] = name
    for seq, ((who, known), *rest) in one["messages"].items():
        one["messages"][seq] = (who, name if who == handle else known), *rest


def _tick(one: State) -> None:
    """One's own messages say what the other's marks say."""
    for seq, (who, text, client_id, state) in one["messages"].items():
        if state:
            ticks = "read" if seq <= one["read_to"] else "delivered" if seq <= one["delivered_to"] else "sent"
            one["messages"][seq] = who, text, client_id, ticks


@dataclass
class Client:
    """`state`: None before the first fetch. `last`: the id of the last event."""

    hub: Hub
    me: ObjectId
    token: bytes = b"t" * 32
    connection: Connection | None = None
    state: State | None = None
    last: str | None = None
    heard: list[StreamEvent] = field(default_factory=list)

    async def connect(self, after: str | None = None) -> None:
        self.connection = await self.hub.open(self.me, self.token, after or self.last)

    def leave(self) -> None:
        if self.connection:
            self.hub.close(self.connection)
        self.connection = None

    def take(self, most: int | None = None) -> list[StreamEvent]:
        """What has come by now, in order; of a client that loses its connection then only the first of it."""
        assert self.connection
        events = [event for event in self.connection.taken() if event is not STILL_HERE][:most]
        for event in events:
            self.apply(event)
        return events

    def apply(self, event: StreamEvent) -> None:
        self.heard.append(event)
        self.last = event.id
        if self.state is None:
            return
        data, statuses, notes = json.loads(event.data), self.state["statuses"], self.state["notifications"]
        match event.name:
            case "ready" | "unread":
                self.state |= data
            case "status":
                kept = [each for each in statuses if each["id"] != data["id"]]
                self.state["statuses"] = sorted([*kept, data], key=lambda each: each["id"], reverse=True)[:PAGE]
            case "status_gone":
                self.state["statuses"] = [each for each in statuses if each["id"] != data["id"]]
            case "likes":
                for each in statuses:
                    if each["id"] == data["id"]:
                        each |= data
            case "person":
                for each in statuses:
                    if each["author"]["handle"] == data["handle"]:
                        each["author"] = {**each["author"], "name": data["name"]}
                for one in self.state["talk"].values():
                    _rename(one, **data)
            case "notification":
                status = data["status"] and data["status"]["id"]
                note = (data["seq"], data["kind"], data["from"]["id"], status)
                kept = [each for each in notes if each[0] != data["seq"]]
                self.state["notifications"] = sorted([*kept, note], reverse=True)[:PAGE]
                self.state["unread"] = data["unread"]
            case "notification_gone":
                self.state["notifications"] = [each for each in notes if each[0] != data["seq"]]
                self.state["unread"] = data["unread"]
            case "message":
                self.apply_message(data["conversation"], data["message"])
            case "conversation":
                had = self.state["talk"].get(data["id"]) or _unknown()
                self.state["talk"][data["id"]] = now = _heard(data) | {"messages": had["messages"]}
                _tick(now)
            case "presence":
                for one in self.state["talk"].values():
                    if one["handle"] == data["handle"]:
                        one["presence"] = _seen(data["presence"])
            case "letter":
                pass
            case "reset":
                self.state = None
            case _:
                raise AssertionError(event.name)

    def apply_message(self, conversation: str, message: State) -> None:
        assert self.state
        one = self.state["talk"].setdefault(conversation, _unknown())
        seq, own = message["seq"], message["client_id"] is not None
        one["unread"] += seq > one["counted"] and seq not in one["messages"] and not own
        one["messages"][seq] = _said(message)
        if not own:
            one |= {"handle": message["from"]["handle"], "name": message["from"]["name"]}
        one["last"] = max(one["last"], seq)
        _tick(one)

    def forget_unlisted(self, now: State) -> None:
        """A conversation in which nothing has been said is in the list of whoever began it alone; the other has heard
        of it where they have silenced it.
        """
        assert self.state
        talk = self.state["talk"]
        for id, one in list(talk.items()):
            if id in now["talk"]:
                one["counted"] = now["talk"][id]["counted"]  # all of it has been told
            elif not one["last"]:
                del talk[id]

    def said(self) -> list[str]:
        """The names of the events so far."""
        return [event.name for event in self.heard]


async def up_to_date(hub: Hub, town: World, name: str) -> Client:
    """Connected, told of everything so far, and with the state of now."""
    client = Client(hub, town.ids[name])
    await client.connect()
    await settled(hub)
    client.take()
    client.state = await fetched(town, client.me)
    return client
