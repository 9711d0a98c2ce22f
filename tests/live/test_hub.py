"""What a stream says, on stand-ins and on real servers."""

import asyncio
import json
from collections.abc import Collection, Coroutine
from contextlib import nullcontext, suppress
from functools import partial
from typing import Any
from unittest.mock import AsyncMock, Mock, patch

import pytest
from bson import ObjectId
from pymongo.errors import ConnectionFailure

from app import names
from app.accounts import TICKET_S, Accounts, digest_of
from app.departures import clear_departures, depart
from app.errors import TooMany
from app.inbox import notifications
from app.inbox.changes import Changes
from app.inbox.conversations import Conversations
from app.inbox.messages import Messages
from app.inbox.notifications import Notifications
from app.inbox.notifier import INBOXES, Notifier
from app.live import hub as hubs
from app.live import news, poll, slow, truth
from app.live.connection import EACH, MOST_QUEUED, OVER, SLOW, STILL_HERE, STOPPED, Connection, StreamEvent
from app.live.hub import READS_AT_ONCE, Hub
from app.live.position import PAGE, Has
from app.live.presence import Presences
from app.live.steps import Step
from app.live.talk import Talk
from app.live.truth import NEWLY_S, Truth
from app.live.watchers import Watcher, Watchers
from app.models import Account
from app.stack import Hint, OutOfTime
from app.stack.bus import HintKind
from app.stack.cost import counted
from app.stack.mongodb.connection import Database
from app.stack.mongodb.find import Find, Rows, together
from app.stack.mongodb.transaction import transaction
from app.web import schemas
from tests.live.listeners import Client, carried, fetched, new_hub, settled, up_to_date
from tests.waiting import for_ever
from tests.world import World

pytestmark = pytest.mark.anyio

PATIENCE_S = 30.0


@pytest.fixture
async def town(world: World) -> World:
    world.timelines.outbox.add(Notifier(world.stack, world.timelines.outbox))
    await world.sign_up("ann", "ben", "cat")
    await world.follow("ann", "ben", "cat")
    return world


async def told(client: Client) -> list[str]:
    """What is said from now on, in short."""
    await settled(client.hub)
    return [f"{event.name} {event.data}" for event in client.take()]


async def test_everything_that_happens_is_told_once(town: World) -> None:
    hub = await new_hub(town)
    ann = Client(hub, town.ids["ann"])
    await ann.connect()
    assert await told(ann) == ['ready {"unread":0,"messages_unread":0}']
    ann.state = await fetched(town, ann.me)
    status = await town.post("ben", "hello")
    await town.post("ben", "for my circle", "circle")
    await settled(hub)
    assert [event.name for event in ann.take()] == ["status"]
    await town.statuses.like(ann.me, status.id)
    await town.people.rename((await town.people.by_ids([town.ids["ben"]]))[town.ids["ben"]], "Benjamin")
    await settled(hub)
    assert sorted(event.name for event in ann.take()) == ["likes", "person"]
    await town.follow("ben", "ann")
    await town.post("cat", "@ann look")
    await town.drain()
    await settled(hub)
    assert sorted(event.name for event in ann.take()) == ["notification", "notification", "status"]
    await Notifications(town.stack).mark_read(ann.me, 2)
    await settled(hub)
    assert [json.loads(event.data) for event in ann.take()] == [{"unread": 0, "messages_unread": 0}]
    await town.relations.block(ann.me, town.ids["ben"])
    await settled(hub)
    assert [event.name for event in ann.take()] == ["status_gone", "notification_gone"]
    assert ann.state == await fetched(town, ann.me)


async def test_a_silent_connection_costs_nearly_nothing(town: World) -> None:
    """The look of every 20 to 30 s: two commands for all who are here, two more for those with notifications."""
    hub = await new_hub(town)
    for name in town.ids:
        await Client(hub, town.ids[name]).connect()
    await settled(hub)
    with counted() as cost:
        hub.listener.missed()
        await hub.settled()
    assert cost.mongodb == 2


async def test_a_status_is_published_once_whoever_follows(town: World) -> None:
    await town.drain()
    told: list[Hint] = []
    with patch.object(town.stack.bus, "tell", lambda *hints: told.extend(hints)):
        status = await town.post("ben", "hello")
        await town.drain()
    assert told == [Hint("posted", town.ids["ben"], status.id)]


async def test_whoever_does_not_read_is_closed_and_comes_back_for_the_rest(town: World) -> None:
    hub = await new_hub(town)
    slow = Client(hub, town.ids["ann"])
    await slow.connect()
    slow.take()
    slow.state = await fetched(town, slow.me)
    assert slow.connection
    for n in range(MOST_QUEUED + 1):
        assert slow.connection.end is None
        slow.connection.put(StreamEvent("", "unread", json.dumps({"unread": n, "messages_unread": 0})))
    assert slow.connection.end == SLOW
    assert await slow.connection.take() == []
    slow.leave()
    await town.post("ben", "hello")
    await slow.connect()
    assert [event.name for event in slow.take()] == ["ready", "status"]


async def test_what_lies_behind_a_position_does_not_count_as_not_read() -> None:
    """There may be as many events of it as a client may leave, and some are told before it can take any."""
    event, connection = StreamEvent("", "unread", "{}"), Connection(ObjectId(), b"")
    connection.begin(*[event] * (MOST_QUEUED + 1))
    connection.put(event)
    assert connection.end is None
    assert len(connection.taken()) == MOST_QUEUED + 2
    connection.put(*[event] * MOST_QUEUED)
    assert connection.end is None
    connection.put(event)
    assert connection.end == SLOW


async def test_more_than_can_be_told_is_a_reset(town: World) -> None:
    hub = await new_hub(town)
    ann = Client(hub, town.ids["ann"])
    await ann.connect()
    ann.take()
    ann.leave()
    for most, said in ((2, ["ready", "status", "status"]), (1, ["ready", "reset"])):
        with patch.object(truth, "MOST_MISSED", most):
            for n in range(2):
                await town.post("ben", f"{most} {n}")
            again = Client(hub, ann.me, last=ann.last)
            await again.connect()
            assert [event.name for event in again.take()] == said
            ann.last = again.last
            again.leave()


async def test_whoever_had_nothing_is_told_of_each_that_came(town: World) -> None:
    """However many there are beyond the first page."""
    hub = await new_hub(town)
    ann = await up_to_date(hub, town, "ann")
    ann.leave()
    for n in range(PAGE + 2):
        await town.post("ben", str(n))
    await ann.connect()
    told = [json.loads(event.data)["text"] for event in ann.take() if event.name == "status"]
    assert told == [str(n) for n in range(PAGE + 2)]
    assert ann.state == await fetched(town, ann.me)


async def test_whoever_comes_back_is_told_of_what_was_stored_late(town: World) -> None:
    """Its id is older than that of the newest status that they have, and by now it is beyond the first page."""
    hub = await new_hub(town)
    for n in range(PAGE):
        await town.post("ben", f"before {n}")
    early = town.clock.new_id()
    await town.post("ben", "the newest")
    ann = await up_to_date(hub, town, "ann")
    ann.leave()
    with patch.object(town.clock, "new_id", lambda: early):
        await town.statuses.post(town.ids["cat"], "late")
    for n in range(PAGE):
        await town.post("ben", str(n))
    await ann.connect()
    told = [json.loads(event.data)["text"] for event in ann.take() if event.name == "status"]
    assert told == ["late", *map(str, range(PAGE))]
    assert ann.state == await fetched(town, ann.me)


async def test_whoever_stays_is_told_of_each_notification(town: World) -> None:
    """However many come between two looks, as whoever comes back is."""
    fans = [f"fan{n}" for n in range(PAGE + 2)]
    await town.sign_up(*fans)
    hub = await new_hub(town)
    ann = await up_to_date(hub, town, "ann")
    with patch.object(town.stack.bus, "tell", lambda *_: None):
        for fan in fans:
            await town.follow(fan, "ann")
        await town.drain()
    hub.listener.missed()
    await settled(hub)
    told = [json.loads(event.data)["from"]["handle"] for event in ann.take() if event.name == "notification"]
    assert told == fans
    assert ann.state == await fetched(town, ann.me)


async def test_more_than_can_be_told_is_a_reset_for_whoever_stays(town: World) -> None:
    hub = await new_hub(town)
    ann = await up_to_date(hub, town, "ann")
    for follower in ("ben", "cat"):
        await town.follow(follower, "ann")
    await town.drain()
    with patch.object(truth, "MOST_MISSED", 1):
        await settled(hub)
    assert [event.name for event in ann.take()] == ["reset", "unread"]
    ann.leave()
    await ann.connect()
    assert [event.name for event in ann.take()] == ["ready"]


async def test_more_than_can_be_looked_through_is_a_reset(town: World) -> None:
    """Of what they may not see."""
    hub = await new_hub(town)
    ann = await up_to_date(hub, town, "ann")
    ann.leave()
    await town.sign_up("stranger")
    await town.follow("ben", "ann")
    for n in range(8):
        await town.post("stranger", f"{n} @ann")
    await town.drain()
    for looked_at, said in ((10, ["ready", "notification"]), (5, ["ready", "reset"])):
        with patch.multiple(notifications, LOOKED_AT=looked_at, SPARE=0):
            again = Client(hub, ann.me, last=ann.last)
            await again.connect()
            assert [event.name for event in again.take()] == said
            again.leave()


async def test_a_position_that_lies_ahead_is_a_reset(town: World) -> None:
    """An older database has been put back."""
    hub = await new_hub(town)
    await town.follow("ben", "ann")
    await town.drain()
    ann = await up_to_date(hub, town, "ann")
    ann.leave()
    await town.stack.db["notifications"].delete_many({})
    await town.stack.db[INBOXES].update_one({"_id": ann.me}, {"$set": {"seq": 0}})
    await ann.connect()
    assert [event.name for event in ann.take()] == ["ready", "reset"]


async def test_to_come_or_go_costs_the_same_however_many_are_here(town: World) -> None:
    """Nobody walks over all who are here, nor over all who follow the same author."""
    compared = 0

    class Counted(Watcher):
        def __eq__(self, other: object) -> bool:
            nonlocal compared
            compared += 1
            return self is other

        __hash__ = Watcher.__hash__

    hub = await new_hub(town)
    with (
        patch.object(hubs, "Watcher", Counted),
        patch.object(Watchers, "__iter__", side_effect=AssertionError("everybody")),
    ):
        clients = [Client(hub, town.ids[name]) for name in ("ann", "ben", "cat") for _ in range(2)]
        for client in clients:
            await client.connect()
        assert hub.connections == len(clients)
        author, fans = ObjectId(), [Counted(ObjectId()) for _ in range(100)]
        for fan in fans:
            hub.watchers.begin_opening(fan)
            hub.watchers.set_followees(fan, [author])
        assert hub.watchers.followers_of(author) == fans
        compared = 0
        for fan in reversed(fans):
            hub.watchers.end_opening(fan)
        for client in clients:
            client.leave()
    assert (hub.connections, list(hub.watchers), hub.watchers.followers_of(author), compared) == (0, [], [], 0)


async def test_a_person_and_a_process_have_so_many_connections(town: World) -> None:
    hub = await new_hub(town)
    for _ in range(EACH):
        await Client(hub, town.ids["ann"]).connect()
    with pytest.raises(TooMany):
        await Client(hub, town.ids["ann"]).connect()
    assert hub.connections == EACH
    town.stack.config = town.stack.config.model_copy(update={"live_connections": EACH})
    with pytest.raises(TooMany):
        await Client(hub, town.ids["ben"]).connect()


async def test_a_token_that_ends_ends_its_streams_in_every_process(town: World) -> None:
    hub, accounts = await new_hub(town), Accounts(town.stack)
    token, expires_at = await accounts.new_token(town.ids["ann"])
    other, _ = await accounts.new_token(town.ids["ann"])
    one, two = (Client(hub, town.ids["ann"], digest_of(each)) for each in (token, other))
    for client in (one, two):
        await client.connect()
    await settled(hub)
    assert one.connection
    assert two.connection
    await hub.end_without_token()
    assert (one.connection.end, two.connection.end) == (None, None)
    ben = Client(hub, town.ids["ben"], digest_of((await accounts.new_token(town.ids["ben"]))[0]))
    await ben.connect()
    with patch.object(hub._accounts, "ended", AsyncMock(side_effect=hub._accounts.ended)) as asked:
        await accounts.sign_out(token)
        await settled(hub)
    assert (one.connection.end, two.connection.end) == (OVER, None)
    asked.assert_awaited_once_with({digest_of(token), digest_of(other)})
    town.clock.advance((expires_at - town.clock.now()).total_seconds())
    await hub.end_without_token()
    assert two.connection.end == OVER


async def test_who_has_signed_out_is_told_nothing_that_comes_later(town: World) -> None:
    """The hub was busy, and has the hints of both at once. Other devices are told."""
    hub, accounts = await new_hub(town), Accounts(town.stack)
    tokens = [(await accounts.new_token(town.ids["ann"]))[0] for _ in range(2)]
    ended, other = [Client(hub, town.ids["ann"], digest_of(token)) for token in tokens]
    for client in (ended, other):
        await client.connect()
    assert await told(ended) == await told(other)
    connection, heard = ended.connection, list[str]()
    assert connection

    async def hear() -> None:
        while events := await connection.take():
            heard.extend(event.name for event in events)

    async def ended_now(tokens: Collection[bytes]) -> Collection[bytes]:
        await asyncio.sleep(0)  # a server takes its time, and the client hears what it has been told by then
        return await accounts.ended(tokens)

    hearing = asyncio.create_task(hear())
    await accounts.sign_out(tokens[0])
    await town.post("ben", "hello")
    with patch.object(hub._accounts, "ended", ended_now):
        await settled(hub)
    await hearing
    assert (heard, connection.end) == ([], OVER)
    assert [event.name for event in other.take()] == ["status"]


async def test_an_outage_at_a_sign_out_loses_nothing_that_was_heard_with_it(town: World) -> None:
    hub, accounts = await new_hub(town), Accounts(town.stack)
    client = Client(hub, town.ids["ann"])
    await client.connect()
    status = await town.post("ben", "hello")
    await settled(hub)
    client.take()
    await accounts.sign_out((await accounts.new_token(town.ids["ann"]))[0])
    await town.statuses.delete(town.ids["ben"], status.id)
    with patch.object(hub._accounts, "ended", AsyncMock(side_effect=ConnectionFailure())), suppress(ConnectionFailure):
        await settled(hub)
    await settled(hub)
    assert [event.name for event in client.take()] == ["status_gone"]


async def test_a_ticket_is_good_once_and_for_half_a_minute(town: World) -> None:
    accounts = Accounts(town.stack)
    token, _ = await accounts.new_token(town.ids["ann"])
    first, second, third = [(await accounts.new_ticket(token))[0] for _ in range(3)]
    found = await asyncio.gather(accounts.holder_of(first), accounts.holder_of(first))
    assert [(each[0].id, each[1]) for each in found if each] == [(town.ids["ann"], digest_of(token))] * 2
    assert sorted(await asyncio.gather(*(accounts.spend(first) for _ in range(3)))) == [False, False, True]
    assert await accounts.holder_of(first) is None
    town.clock.advance(TICKET_S)
    assert await accounts.holder_of(second) is None
    third, _ = await accounts.new_ticket(token)
    await accounts.sign_out(token)
    assert await accounts.holder_of(third) is None


async def test_who_hears_nothing_for_a_while_hears_that_the_stream_lives(town: World) -> None:
    hub = await new_hub(town)
    token, _ = await Accounts(town.stack).new_token(town.ids["ann"])
    ann = Client(hub, town.ids["ann"], digest_of(token))
    await ann.connect()
    assert ann.connection
    ann.connection.taken()
    await hub.say_still_here()
    assert ann.connection.taken() == []
    await hub.say_still_here()
    assert ann.connection.taken() == [STILL_HERE]


async def test_streams_say_that_they_live_while_a_server_is_away(town: World) -> None:
    hub = await new_hub(town)
    ann = Client(hub, town.ids["ann"])
    await ann.connect()
    assert ann.connection
    ann.connection.taken()
    with patch.object(hubs, "TURN_S", 0.01), patch.object(Accounts, "ended", for_ever):
        running = asyncio.create_task(hub.run())
        assert await asyncio.wait_for(ann.connection.take(), PATIENCE_S) == [STILL_HERE]
        running.cancel()
        await asyncio.wait([running])


@pytest.mark.parametrize("change", ["unfollow", "mute", "block"])
async def test_what_somebody_may_see_is_judged_when_it_is_told(town: World, change: str) -> None:
    """The hint of the edge is behind the one of the status."""
    hub = await new_hub(town)
    ann = await up_to_date(hub, town, "ann")
    await town.post("ben", "not for ann any more")
    await getattr(town.relations, change)(town.ids["ann"], town.ids["ben"])
    with patch.object(hub.watchers, "mark_dirty", lambda *_: None):
        await settled(hub)
    assert ann.take() == []


async def test_what_is_read_anew_is_not_overwritten(town: World) -> None:
    """A status is deleted while the hub looks up for whom it is, and the page is read anew before it has the answer."""
    hub = await new_hub(town)
    ann = await up_to_date(hub, town, "ann")
    (watcher,), look_up = hub.watchers, together

    async def slow(db: Database, **finds: Find) -> dict[str, Rows]:
        answers = await look_up(db, **finds)
        if "statuses" in finds:
            await town.statuses.delete(town.ids["ben"], status.id)
            async with watcher.turn:
                await hub._update(watcher, {"page"})
            await carried(town.stack)
            hub._heard.clear()
        return answers

    status = await town.post("ben", "gone soon")
    await carried(town.stack)
    with patch.object(news, "together", slow):
        await hub.settle()
    await hub.settled()
    ann.take()
    assert ann.state == await fetched(town, ann.me)


async def test_who_waits_to_be_read_anew_is_told_of_news_meanwhile(town: World) -> None:
    """Else whoever waits has to be read anew for each status, and everybody waits for everybody."""
    hub = await new_hub(town)
    ann = await up_to_date(hub, town, "ann")
    for _ in range(READS_AT_ONCE):
        await hub._reads.acquire()
    await town.follow("ben", "ann")
    await town.drain()
    await carried(town.stack)
    await hub.settle()  # they are to be read anew, and while the next hint is carried they begin to wait
    await town.post("ben", "hello")
    await carried(town.stack)
    await hub.settle()
    assert [event.name for event in ann.take()] == ["status"]
    for _ in range(READS_AT_ONCE):
        hub._reads.release()
    await hub.settled()
    assert [event.name for event in ann.take()] == ["notification"]
    assert ann.state == await fetched(town, ann.me)


async def test_who_waits_for_a_server_in_vain_tells_whoever_waits_behind(town: World) -> None:
    """Else the last of many would wait as often as there are some before them."""
    hub = await new_hub(town)
    town.stack.config = town.stack.config.model_copy(update={"server_timeout_s": 0.1})
    many = [Client(hub, ObjectId()) for _ in range(3 * READS_AT_ONCE)]
    with patch.object(hub._truth, "read", Mock(side_effect=for_ever)) as read:
        ends = await asyncio.gather(*(client.connect() for client in many), return_exceptions=True)
    assert [type(end) for end in ends] == [OutOfTime] * len(many)
    assert READS_AT_ONCE <= read.call_count < 2 * READS_AT_ONCE
    assert not list(hub.watchers)


async def test_who_fails_fails_alone(town: World) -> None:
    """One of three comes with three streams. All wait for the same place."""
    hub, right = await new_hub(town), Truth.read
    for _ in range(READS_AT_ONCE - 1):
        await hub._reads.acquire()
    tried: list[ObjectId] = []
    ann, ben, cat = (town.ids[name] for name in ("ann", "ben", "cat"))

    async def read(self: Truth, watcher: Watcher, parts: Any) -> Any:
        tried.append(watcher.me)
        await asyncio.sleep(0)
        if watcher.me not in (ben, cat):
            raise OutOfTime
        return await right(self, watcher, parts)

    coming = [ann, ann, ann, ben, ObjectId(), ObjectId(), cat]
    with patch.object(Truth, "read", read):
        ends = await asyncio.gather(*(Client(hub, me).connect() for me in coming), return_exceptions=True)
    assert [me for me, end in zip(coming, ends, strict=True) if end is None] == [ben, cat]
    assert tried == coming[2:]


async def test_who_opens_many_streams_takes_one_place(town: World) -> None:
    """However long each of them takes."""
    hub, right, begins, may_go_on = await new_hub(town), Truth.read, asyncio.Event(), asyncio.Event()
    town.stack.config = town.stack.config.model_copy(update={"server_timeout_s": 2 * PATIENCE_S})
    ann, readings = town.ids["ann"], 0

    async def read(self: Truth, watcher: Watcher, parts: Any) -> Any:
        if watcher.me == ann:
            nonlocal readings
            readings += 1
            begins.set()
            await may_go_on.wait()
        return await right(self, watcher, parts)

    with patch.object(Truth, "read", read):
        coming = [asyncio.create_task(Client(hub, ann).connect()) for _ in range(READS_AT_ONCE)]
        await begins.wait()
        await asyncio.wait_for(Client(hub, town.ids["ben"]).connect(), PATIENCE_S)
        assert readings == 1
        may_go_on.set()
        await asyncio.gather(*coming)
    assert (readings, hub.connections) == (READS_AT_ONCE, READS_AT_ONCE + 1)


async def test_who_takes_too_long_takes_nothing_from_others(town: World) -> None:
    """Three of them are in all places at once. That is an outage the first time, and later their own fault."""
    hub, right, tried = await new_hub(town), Truth.read, list[ObjectId]()
    long, ben = [ObjectId() for _ in range(READS_AT_ONCE)], town.ids["ben"]

    async def read(self: Truth, watcher: Watcher, parts: Any) -> Any:
        tried.append(watcher.me)
        if watcher.me in long:
            await asyncio.sleep(0)  # until all of them are here
            raise OutOfTime
        return await right(self, watcher, parts)

    async def together() -> list[ObjectId]:
        """Let all of them open a stream at once, and return who has one."""
        coming = [*long, ben]
        ends = await asyncio.gather(*(Client(hub, me).connect() for me in coming), return_exceptions=True)
        assert {type(end) for end in ends if end} == {OutOfTime}
        return [me for me, end in zip(coming, ends, strict=True) if end is None]

    with patch.object(Truth, "read", read):
        assert (await together(), tried) == ([], long)
        await Client(hub, ben).connect()
        for _ in range(3):
            tried.clear()
            assert (await together(), tried) == ([ben], [*long, ben])
            tried.clear()
            assert (await together(), tried) == ([ben], [ben]), "they have a pause"
            town.clock.advance(slow.LONGEST_S)


async def test_who_took_too_long_is_read_again_after_a_pause(town: World, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(hubs, "RETRY_S", 0.01)
    monkeypatch.setattr(slow, "FIRST_S", 3_600)
    monkeypatch.setattr(slow, "LONGEST_S", 3_600)
    hub, right, tried = await new_hub(town), Truth.read, 0
    ann, ben = await up_to_date(hub, town, "ann"), Client(hub, town.ids["ben"])
    answered = asyncio.Event()

    async def read(self: Truth, watcher: Watcher, parts: Any) -> Any:
        nonlocal tried
        if watcher.me == ann.me:
            tried += 1
            if tried > 1:
                await answered.wait()
            raise OutOfTime
        return await right(self, watcher, parts)

    with patch.object(Truth, "read", read):
        town.stack.bus.tell(Hint("edges", ann.me))
        await carried(town.stack)
        await hub.settle()
        for _ in range(20):
            await ben.connect()
            answered.set()
            ben.leave()
            await asyncio.sleep(0.02)
        assert tried == 2, "another one had been answered after the first time"
        with pytest.raises(OutOfTime):
            await Client(hub, ann.me).connect()
        assert tried == 2
    town.clock.advance(3_600)
    await Client(hub, ann.me).connect()


def test_a_pause_is_twice_as_long_each_time() -> None:
    now_s, ann, ben = 0.0, ObjectId(), ObjectId()
    people = slow.Slow(lambda: now_s)
    assert [people.note_in_vain(ann) for _ in range(3)] == [False] * 3
    assert people.left_s(ann) == 0, "nobody has been answered: it is an outage"
    for pause_s in (2, 4, 8, 16, 32, 60, 60):
        people.note_read(ben)
        assert people.note_in_vain(ann)
        assert people.left_s(ann) == pause_s
    now_s += 59
    assert people.left_s(ann) == 1
    assert not people.note_in_vain(ann), "this may be an outage again"
    assert people.left_s(ann) == 60
    people.note_read(ann)
    assert people.left_s(ann) == 0
    assert not people.note_in_vain(ann)


async def test_a_stream_that_begins_when_the_process_stops_ends(town: World) -> None:
    hub = await new_hub(town)
    ann = Client(hub, town.ids["ann"])
    for _ in range(READS_AT_ONCE):
        await hub._reads.acquire()
    opening = asyncio.create_task(ann.connect())
    await carried(town.stack)
    hub.stop()
    for _ in range(READS_AT_ONCE):
        hub._reads.release()
    await opening
    assert ann.connection
    assert ann.connection.end == STOPPED


async def test_a_stream_that_was_not_opened_takes_nothing_from_the_others(town: World) -> None:
    """Their edges have been looked at, and so a look finds nothing new; but nobody has told them."""
    hub = await new_hub(town)
    ann = await up_to_date(hub, town, "ann")
    status = await town.post("ben", "hello")
    await settled(hub)
    with patch.object(town.stack.bus, "tell", lambda *_: None):
        await town.relations.unfollow(ann.me, town.ids["ben"])

    async def in_vain(*_: object, **__: object) -> None:
        raise OutOfTime

    with patch.object(town.timelines, "page", in_vain), pytest.raises(OutOfTime):
        await Client(hub, ann.me).connect()
    await hub.settled()
    assert [event.name for event in ann.take()] == ["status", "status_gone"], status
    assert ann.state == await fetched(town, ann.me)


async def test_a_stranger_has_nobody_read_as_often_as_they_write(town: World) -> None:
    """By putting them into a circle, and taking them out again. What has changed is told with the next reading."""
    await town.sign_up("stranger")
    hub = await new_hub(town)
    ann, stranger = await up_to_date(hub, town, "ann"), town.ids["stranger"]
    watcher, began_s = hub.watchers.of(ann.me), asyncio.get_running_loop().time()
    assert watcher
    with patch.object(Truth, "read", autospec=True, side_effect=Truth.read) as read:
        for _ in range(2 * hubs.PAGES_AT_ONCE):
            for change in (town.relations.add_to_circle, town.relations.remove_from_circle):
                await change(stranger, ann.me)
                await carried(town.stack)
                await hub.settle()
                if watcher.reading:
                    await asyncio.wait([watcher.reading], timeout=0.1)
        took_s = asyncio.get_running_loop().time() - began_s
        assert read.call_count <= hubs.PAGES_AT_ONCE + 1 + took_s / hubs.PAGE_S
    await town.follow("ann", "stranger")
    await town.post("stranger", "hello")
    await settled(hub)
    ann.take()
    assert ann.state == await fetched(town, ann.me)


async def test_nobody_is_read_anew_for_a_mention_that_they_may_not_see(town: World) -> None:
    """Anybody can mention them, as often as they like."""
    await town.sign_up("stranger")
    hub = await new_hub(town)
    ann = await up_to_date(hub, town, "ann")
    with patch.object(Truth, "read", autospec=True, side_effect=Truth.read) as read:
        await town.post("stranger", "@ann @ben look")
        await town.drain()
        assert await told(ann) == []
        read.assert_not_called()
        await town.follow("ann", "stranger")
        await settled(hub)
    assert [event.name for event in ann.take()] == ["status", "notification"]
    assert ann.state == await fetched(town, ann.me)


@pytest.mark.parametrize("heard", [True, False])
async def test_what_is_unread_beyond_the_first_page_is_followed(town: World, heard: bool) -> None:
    """By a hint, or where that is lost by a look."""
    fans = [f"fan{n}" for n in range(PAGE)]
    await town.sign_up(*fans)
    hub, (ann, ben, cat) = await new_hub(town), (town.ids[name] for name in ("ann", "ben", "cat"))
    await town.follow("ben", "ann")
    await town.follow("cat", "ann")
    liked, mention = await town.post("ann", "liked"), await town.post("cat", "@ann look")
    await town.statuses.like(ben, liked.id)
    await town.drain()
    for fan in fans:
        await town.follow(fan, "ann")
    await town.drain()
    client = await up_to_date(hub, town, "ann")
    hub.listener.missed()
    await settled(hub)

    changes: list[tuple[int, Coroutine[Any, Any, None]]] = [
        (-1, town.statuses.unlike(ben, liked.id)),
        (0, town.statuses.like(ben, liked.id)),
        (-1, town.relations.unfollow(ben, ann)),
        (-2, town.statuses.delete(cat, mention.id)),
        (-3, town.statuses.delete(ann, liked.id)),
        (-4, gone(town, "cat")),
    ]
    for change, happens in changes:
        with nullcontext() if heard else patch.object(town.stack.bus, "tell", lambda *_: None):
            await happens
            await town.drain()
        if not heard:
            hub.listener.missed()
        await settled(hub)
        client.take()
        assert client.state == await fetched(town, ann), change
        assert client.state["unread"] == PAGE + 4 + change


class TakenBack:
    """Ben has liked a status of ann's, and she is here and knows of it."""

    def __init__(self, town: World, hub: Hub, ann: Client, liked: ObjectId) -> None:
        self.town, self.hub, self.ann, self.liked = town, hub, ann, liked

    @classmethod
    async def begin(cls, town: World) -> "TakenBack":
        hub = await new_hub(town)
        await town.follow("ben", "ann")
        liked = await town.post("ann", "liked")
        await town.statuses.like(town.ids["ben"], liked.id)
        await town.drain()
        return cls(town, hub, await up_to_date(hub, town, "ann"), liked.id)

    async def look(self) -> None:
        self.hub.listener.missed()
        await settled(self.hub)
        self.ann.take()
        assert self.ann.state == await fetched(self.town, self.ann.me)

    async def is_liked_unheard(self) -> None:
        with patch.object(self.town.stack.bus, "tell", lambda *_: None):
            await self.town.statuses.like(self.town.ids["ben"], self.liked)
            await self.town.drain()

    async def is_unliked(self) -> None:
        await self.town.statuses.unlike(self.town.ids["ben"], self.liked)
        await settled(self.hub)
        assert "notification_gone" in [event.name for event in self.ann.take()]


async def test_what_is_given_again_unheard_is_found_by_a_look(town: World) -> None:
    """It is as it was at the look before, and in between they were told that it was taken back."""
    like = await TakenBack.begin(town)
    for _ in range(2):
        await like.look()
    await like.is_unliked()
    await like.is_liked_unheard()
    await like.look()
    await like.is_unliked()
    await like.look()
    for _ in range(2):  # the first time a look finds what this person has not been told of
        await like.is_liked_unheard()
        await like.look()
        await like.is_unliked()
    await like.is_liked_unheard()
    await like.look()


async def test_what_is_told_while_a_look_is_made_is_looked_at_by_the_next(town: World) -> None:
    like, right = await TakenBack.begin(town), Notifications.standing
    for _ in range(2):
        await like.look()

    async def slowly(self: Notifications, down_to: Any) -> dict[ObjectId, int]:
        found = await right(self, down_to)
        await like.is_unliked()
        return found

    with patch.object(Notifications, "standing", slowly):
        await like.hub._poll.look()
    await settled(like.hub)
    await like.is_liked_unheard()
    await like.look()


async def gone(town: World, name: str) -> None:
    await depart(town.stack.db, town.clock, town.ids[name])
    town.stack.bus.tell(Hint("named", town.ids[name]))


class Letters(Talk):
    """Conversations of which nothing is known but numbers in inboxes."""

    def __init__(self, world: World) -> None:
        super().__init__(
            Conversations(world.stack), Changes(world.stack), world.people, Presences(world.stack), schemas
        )
        self.world, self.letters = world, list[tuple[ObjectId, int]]()

    async def send(self, whom: ObjectId) -> None:
        db = self.world.stack.db
        seq = await transaction(db, lambda inside: inside[INBOXES].next_number({"_id": whom}))
        self.letters.append((whom, seq))
        self.world.stack.bus.tell(Hint("concerns", whom))

    async def between(self, me: ObjectId, after: int, to: int) -> list[Step]:
        numbers = [seq for whom, seq in self.letters if whom == me and after < seq <= to]
        return [Step("letter", str(seq), partial(Letters._told, seq), seq) for seq in numbers]

    @staticmethod
    def _told(seq: int, has: Has) -> None:
        has.told(seq)

    async def people(self, me: ObjectId) -> list[ObjectId]:
        return [self.world.ids["cat"]]


async def test_whatever_is_numbered_in_an_inbox_is_told_in_order_and_once(town: World) -> None:
    letters = Letters(town)
    hub = await new_hub(town, letters)
    ann = await up_to_date(hub, town, "ann")
    await letters.send(ann.me)
    await settled(hub)
    assert [event.name for event in ann.take()] == ["letter"]
    ann.leave()
    await letters.send(ann.me)
    await town.follow("ben", "ann")
    await town.drain()
    await letters.send(ann.me)
    cat = town.ids["cat"]
    await town.people.rename(Account(cat, "cat"), "Catherine")
    for said in (["ready", "person", "letter"], ["ready", "notification", "letter"]):
        await ann.connect()
        assert [event.name for event in ann.take(3)] == said
        ann.leave()
    await ann.connect()
    assert [event.name for event in ann.take()] == ["ready", "presence"], "which is in no position"


async def test_who_has_a_conversation_is_told_of_presence_as_far_as_they_may_know(town: World) -> None:
    hub, cat = await new_hub(town, Letters(town)), town.ids["cat"]
    ann = Client(hub, town.ids["ann"])
    await ann.connect()
    ann.take()
    said: list[dict[str, Any]] = []

    async def hear() -> None:
        await settled(hub)
        said.extend(json.loads(event.data) for event in ann.take() if event.name == "presence")

    town.stack.bus.tell(Hint("presence", cat), Hint("presence", town.ids["ben"]))
    await hear()
    for change in (town.follow("cat", "ann"), town.relations.block(ann.me, cat)):
        await change
        await hear()
    assert [(each["handle"], each["presence"] and each["presence"]["online"]) for each in said] == [
        ("cat", None),
        ("cat", False),
        ("cat", None),
    ]


async def test_presence_that_nobody_has_told_of_is_found_by_a_look(town: World) -> None:
    await town.follow("cat", "ann")
    hub = await new_hub(town, Letters(town))
    ann = await up_to_date(hub, town, "ann")
    await Presences(town.stack).connected(town.ids["cat"], "a device")
    await settled(hub)
    assert ann.take() == []
    hub.listener.missed()
    await settled(hub)
    (event,) = ann.take()
    assert (event.name, json.loads(event.data)["presence"]["online"]) == ("presence", True)


async def test_what_was_read_and_nobody_told_of_is_found_by_a_look(town: World) -> None:
    hub = await new_hub(town)
    await town.follow("ben", "ann")
    await town.drain()
    ann = await up_to_date(hub, town, "ann")
    with patch.object(town.stack.bus, "tell"):
        await Notifications(town.stack).mark_read(ann.me, 1)
    await settled(hub)
    assert ann.take() == []
    hub.listener.missed()
    await settled(hub)
    assert [json.loads(event.data) for event in ann.take()] == [{"unread": 0, "messages_unread": 0}]


async def test_nothing_of_a_deleted_account_stays(town: World) -> None:
    hub = await new_hub(town)
    ann = Client(hub, town.ids["ann"])
    await town.post("ben", "@ann this goes")
    await town.drain()
    await ann.connect()
    await settled(hub)
    ann.take()
    ann.state = await fetched(town, ann.me)
    assert (len(ann.state["statuses"]), len(ann.state["notifications"])) == (1, 1)
    await depart(town.stack.db, town.clock, town.ids["ben"])
    town.stack.bus.tell(Hint("named", town.ids["ben"]))
    await settled(hub)
    assert [event.name for event in ann.take()] == ["status_gone", "notification_gone"]
    assert ann.state == await fetched(town, ann.me)


@pytest.mark.parametrize("what", ["a status", "a page"])
async def test_nothing_is_told_of_whoever_departs_while_it_is_looked_up(town: World, what: str) -> None:
    """It is judged first, and names are looked up last: they would say that the account is deleted."""
    if what == "a page":
        await town.relations.unfollow(town.ids["ann"], town.ids["ben"])
        await town.post("ben", "hello")
    hub = await new_hub(town)
    ann = await up_to_date(hub, town, "ann")
    names_of, departing = names.Names.of, [town.ids["ben"]]

    async def after_departure(self: names.Names, *asked: Any) -> Any:
        while departing:
            await depart(town.stack.db, town.clock, departing.pop())
            await names_of(self, [town.ids["ben"]])
        return await names_of(self, *asked)

    with patch.object(names.Names, "of", after_departure):
        await (town.follow("ann", "ben") if what == "a page" else town.post("ben", "hello"))
        await settled(hub)
    assert departing == [], "names were looked up"
    assert [event.data for event in ann.take() if "hello" in event.data] == []
    town.stack.bus.tell(Hint("named", town.ids["ben"]))
    await settled(hub)
    assert ann.state == await fetched(town, ann.me)


async def test_whose_state_was_being_read_when_names_were_looked_up_is_told_all_the_same(town: World) -> None:
    """It was read before ben was renamed, and is there after that was looked up and before it is told."""
    await town.post("ben", "hello")
    hub = await new_hub(town)
    ann, cat = await up_to_date(hub, town, "ann"), await up_to_date(hub, town, "cat")
    watcher = hub.watchers.of(ann.me)
    assert watcher

    async def looked_up(database: Database, **finds: Find) -> dict[str, Rows]:
        found = await together(database, **finds)
        if "renamed" in finds and watcher.turn.locked():
            watcher.turn.release()
        return found

    await watcher.turn.acquire()
    with patch.object(news, "together", looked_up):
        await town.people.rename(Account(town.ids["ben"], "ben"), "Benjamin")
        await settled(hub)
    assert not watcher.turn.locked()
    assert [event.name for event in ann.take()] == ["person"]
    assert ann.state == await fetched(town, ann.me)
    cat.leave()


@pytest.mark.parametrize("heard", ["named", "edges", None])
async def test_however_many_have_been_renamed_each_is_told(
    town: World, monkeypatch: pytest.MonkeyPatch, heard: HintKind | None
) -> None:
    """To whoever hears of one of them, to whose page is read anew before that, and to whoever comes back."""
    for each in (names, news):
        monkeypatch.setattr(each, "RENAMED_AT_ONCE", 2)
    authors = [f"author{n}" for n in range(5)]
    await town.sign_up(*authors)
    await town.follow("ann", *authors)
    for author in authors:
        await town.post(author, "hello")
    hub = await new_hub(town)
    ann = await up_to_date(hub, town, "ann")
    if not heard:
        ann.leave()
    with patch.object(town.stack.bus, "tell", lambda *_: None):
        for author in authors:
            await town.people.rename(Account(town.ids[author], author), f"New {author}")
    if heard:
        town.stack.bus.tell(Hint(heard, ann.me))
        await settled(hub)
    else:
        await ann.connect()
    assert [event.name for event in ann.take() if event.name != "ready"] == ["person"] * 5
    assert ann.state == await fetched(town, ann.me)


async def test_whom_a_deletion_concerns_is_asked_where_there_is_one(town: World) -> None:
    """Of thousands of people, for each who is renamed, that would take its time."""
    asked, concerned = list[ObjectId](), Watcher.concerned.fget  # type: ignore[attr-defined]

    def counted(watcher: Watcher) -> set[ObjectId]:
        asked.append(watcher.me)
        return concerned(watcher)  # type: ignore[no-any-return]

    await town.sign_up("yan")
    hub = await new_hub(town)
    ann = await up_to_date(hub, town, "ann")
    with patch.object(Watcher, "concerned", property(counted)):
        for name in ("cat", "yan"):
            await town.people.rename(Account(town.ids[name], name), f"New {name}")
            await settled(hub)
        assert asked == []
        await depart(town.stack.db, town.clock, town.ids["yan"])
        town.stack.bus.tell(Hint("named", town.ids["yan"]))
        await settled(hub)
        assert asked == [ann.me]


async def test_messages_and_receipts_are_told_to_both(town: World) -> None:
    conversations, messages = Conversations(town.stack), Messages(town.stack)
    talk = Talk(conversations, Changes(town.stack), town.people, Presences(town.stack), schemas)
    hub = await new_hub(town, talk=talk)
    ann, ben = Client(hub, town.ids["ann"]), Client(hub, town.ids["ben"])
    for client in (ann, ben):
        await client.connect()
        client.take()
    made, _ = await conversations.open(ann.me, ben.me)
    await messages.send(ann.me, made.id, "c1", "hello")
    await settled(hub)
    assert {"message", "presence"} <= {event.name for event in ann.take()}
    heard, unread = [event for event in ben.take() if event.name != "presence"]
    assert json.loads(unread.data)["messages_unread"] == 1
    said = json.loads(heard.data)
    assert (heard.name, said["conversation"]) == ("message", str(made.id))
    assert (said["message"]["text"], said["message"]["client_id"]) == ("hello", None)
    ann.leave()
    await messages.receive(ben.me, made.id, None, 1)
    await messages.send(ben.me, made.id, "c2", "yes")
    await ann.connect()
    _, *behind, presence = ann.take()
    assert [event.name for event in (*behind, presence)] == ["conversation", "message", "presence"]
    assert json.loads(behind[0].data)["read_to"] == 1
    await town.people.rename(Account(ben.me, "ben"), "Benjamin")
    await settled(hub)
    assert [event.name for event in ann.take()] == ["person"]


class Chat:
    """Conversations of ann with ben and with cat, all three here, and all of it told."""

    def __init__(self, town: World) -> None:
        self.town, self.conversations, self.messages = town, Conversations(town.stack), Messages(town.stack)
        self.clients: list[Client] = []
        self.with_ben, self.with_cat = ObjectId(), ObjectId()

    async def begin(self) -> None:
        town, conversations = self.town, self.conversations
        talk = Talk(conversations, Changes(town.stack), town.people, Presences(town.stack), schemas)
        hub = await new_hub(town, talk=talk)
        ann, *others = (town.ids[name] for name in ("ann", "ben", "cat"))
        self.with_ben, self.with_cat = [(await conversations.open(ann, other))[0].id for other in others]
        for other, id in zip(others, (self.with_ben, self.with_cat), strict=True):
            await self.messages.send(other, id, "c0", "hello")
        self.clients = [Client(hub, me) for me in (ann, *others)]
        for client in self.clients:
            await client.connect()
        await self.told()
        for client in self.clients:
            client.state = await fetched(town, client.me)

    async def told(self) -> list[list[str]]:
        """The names of what each is told from now on."""
        await settled(self.clients[0].hub)
        return [[event.name for event in client.take()] for client in self.clients]


@pytest.fixture
async def chat(town: World) -> Chat:
    begun = Chat(town)
    await begun.begin()
    return begun


async def test_whatever_is_said_at_once_is_looked_up_together(chat: Chat) -> None:
    """One command for messages, whoever they are for, and one more for receipts."""
    messages, (ann, ben, cat) = chat.messages, chat.clients
    await messages.send(ann.me, chat.with_ben, "c1", "to ben")
    await messages.send(cat.me, chat.with_cat, "c1", "to ann")
    await messages.send(cat.me, chat.with_cat, "c2", "again")
    with counted() as cost:
        assert await chat.told() == [["message"] * 3, ["message", "unread"], ["message"] * 2]
    assert cost.mongodb == 1
    await messages.receive(ben.me, chat.with_ben, None, 2)
    await messages.receive(ann.me, chat.with_cat, None, 1)
    await chat.conversations.silence(ann.me, chat.with_cat, True)
    with counted() as cost:
        said = [["conversation", "conversation", "unread"], ["conversation", "unread"], ["conversation"]]
        assert await chat.told() == said
    assert cost.mongodb == 2
    with patch.object(Truth, "read", autospec=True, side_effect=Truth.read) as read:
        ann.hub.listener.missed()
        await chat.told()
    read.assert_not_called()
    for client in chat.clients:
        assert client.state == await fetched(chat.town, client.me)


async def test_what_is_repeated_since_nobody_heard_of_it_is_told(chat: Chat) -> None:
    """Whoever did it first was killed before they could tell."""
    town, messages, (ann, ben, _) = chat.town, chat.messages, chat.clients
    status = await town.post("ann", "mine")
    await town.follow("ben", "ann")
    await chat.told()
    with patch.object(town.stack.bus, "tell", lambda *_: None):
        await messages.send(ann.me, chat.with_ben, "c1", "to ben")
        await town.statuses.like(ben.me, status.id)
    assert await chat.told() == [[], [], []]
    assert (await messages.send(ann.me, chat.with_ben, "c1", "to ben"))[1] is False
    assert await chat.told() == [["message"], ["message", "unread"], []]
    await town.statuses.like(ben.me, status.id)
    assert await chat.told() == [["likes"], ["likes"], []]


async def test_a_message_passes_over_nothing_that_has_a_number(chat: Chat) -> None:
    """Somebody is mentioned and nobody hears of it, and then somebody writes to them."""
    town, ben = chat.town, chat.clients[1]
    await town.follow("ben", "ann")
    await town.drain()
    await chat.told()
    with patch.object(town.stack.bus, "tell", lambda *_: None):
        await town.post("cat", "@ann look")
        await town.drain()
    await chat.messages.send(ben.me, chat.with_ben, "c1", "seen?")
    assert (await chat.told())[0] == ["notification", "message"]


async def test_ones_first_message_comes_with_whom_it_is_to(chat: Chat) -> None:
    """From another device, in a conversation that the other has opened: the list of who opened it alone had it."""
    town, (_, ben, cat) = chat.town, chat.clients
    made, _ = await chat.conversations.open(cat.me, ben.me)
    assert await chat.told() == [[], [], ["conversation", "presence"]]
    await chat.messages.send(ben.me, made.id, "b1", "hello")
    assert (await chat.told())[1] == ["conversation", "message", "presence"]
    for client in (ben, cat):
        client.forget_unlisted(now := await fetched(town, client.me))
        assert client.state == now
    await chat.messages.send(ben.me, made.id, "b2", "and more")
    assert (await chat.told())[1] == ["message"]


@pytest.mark.parametrize("taken", [None, 2])  # all at once, or the connection is lost in between
async def test_whoever_comes_back_is_told_whom_their_first_message_is_to(chat: Chat, taken: int | None) -> None:
    """In whatever order: the conversation has changed since, so it comes behind the message."""
    town, (_, ben, cat) = chat.town, chat.clients
    ben.leave()
    made, _ = await chat.conversations.open(cat.me, ben.me)
    await chat.messages.send(ben.me, made.id, "b1", "hello")
    await chat.messages.receive(cat.me, made.id, None, 1)
    await ben.connect()
    ben.take(taken)
    if taken:
        ben.leave()
        await ben.connect()
        ben.take()
    assert [name for name in ben.said() if name in ("message", "conversation")][-2:] == ["message", "conversation"]
    assert ben.state == await fetched(town, ben.me)


async def test_somebody_new_comes_with_their_presence(chat: Chat) -> None:
    _, ben, cat = chat.clients
    made, _ = await chat.conversations.open(cat.me, ben.me)
    await chat.messages.send(cat.me, made.id, "c1", "hello")
    assert (await chat.told())[1] == ["message", "unread", "presence"]


async def test_somebody_whose_account_is_deleted_has_no_presence(chat: Chat) -> None:
    """Not even none: they have no handle, by which an event could say whose it is."""
    ann, cat = chat.clients[0], chat.town.ids["cat"]
    ann.leave()
    await depart(chat.town.stack.db, chat.town.clock, cat)
    await ann.connect()
    said = [json.loads(event.data) for event in ann.take() if event.name == "presence"]
    assert [each["handle"] for each in said] == ["ben"]


async def test_who_is_renamed_is_told_so_themselves(chat: Chat) -> None:
    """Their name is on their messages, though no status of theirs is on their page."""
    town, (ann, ben, _) = chat.town, chat.clients
    await chat.messages.send(ann.me, chat.with_ben, "c1", "hello")
    await chat.told()
    await town.people.rename(Account(ann.me, "ann"), "Ann A.")
    assert await chat.told() == [["person"]] * 3
    ann.leave()
    await town.people.rename(Account(ben.me, "ben"), "Ben B.")
    await town.people.rename(Account(ann.me, "ann"), "Ann B.")
    await ann.connect()
    assert [event.name for event in ann.take()] == ["ready", "person", "person", "presence", "presence"]
    await settled(ben.hub)
    ben.take()
    for client in (ann, ben):
        client.forget_unlisted(now := await fetched(town, client.me))
        assert client.state == now


async def test_what_goes_with_an_account_is_told_when_it_goes(chat: Chat) -> None:
    """Likes and conversations, which are cleared away later."""
    town, ann, cat = chat.town, chat.clients[0], chat.town.ids["cat"]
    await town.follow("cat", "ben")
    status = await town.post("ben", "liked")
    await town.statuses.like(cat, status.id)
    await depart(town.stack.db, town.clock, cat)
    town.stack.bus.tell(Hint("named", cat))
    await chat.told()
    await clear_departures(town.stack.db, town.clock, town.stack.bus)
    assert (await chat.told())[0] == ["likes", "conversation"]
    assert ann.state
    assert ann.state["statuses"] == (await fetched(town, ann.me))["statuses"]
    assert ann.state["talk"][str(chat.with_cat)]["handle"] is None


async def test_who_was_blocked_is_told_that_the_account_is_deleted(chat: Chat) -> None:
    town, ann, cat = chat.town, chat.clients[0], chat.town.ids["cat"]
    await town.relations.block(cat, ann.me)
    await depart(town.stack.db, town.clock, cat)
    await clear_departures(town.stack.db, town.clock, town.stack.bus)
    assert "conversation" in (await chat.told())[0]
    assert ann.state
    assert ann.state["talk"][str(chat.with_cat)]["handle"] is None


async def test_who_has_a_page_open_is_told_at_once_that_an_account_is_deleted(chat: Chat) -> None:
    """Nobody sweeps before."""
    town, ann = chat.town, chat.clients[0]
    with patch.object(Accounts, "_proven", AsyncMock()):
        await Accounts(town.stack).delete(Account(town.ids["cat"], "cat"), "correct horse")
    said = (await chat.told())[0]
    assert "conversation" in said
    assert ann.state
    assert ann.state["talk"][str(chat.with_cat)]["handle"] is None


async def test_who_is_told_to_fetch_everything_is_told_of_presence_from_then_on(chat: Chat) -> None:
    """Also of whoever wrote to them for the first time among what could not be told."""
    town, ann, fans = chat.town, chat.clients[0], [f"fan{n}" for n in range(PAGE + 2)]
    await town.sign_up("dan", *fans)
    await town.follow("ann", "dan")
    await town.follow("dan", "ann")
    made, _ = await chat.conversations.open(town.ids["dan"], ann.me)
    ann.hub.listener.missed()
    await chat.told()
    with patch.object(town.stack.bus, "tell", lambda *_: None):
        await chat.messages.send(town.ids["dan"], made.id, "c1", "hello")
        for fan in fans:
            await town.follow(fan, "ann")
        await town.drain()
    ann.hub.listener.missed()
    with patch.object(truth, "MOST_MISSED", 1):
        assert "reset" in (await chat.told())[0]
    await Presences(town.stack).connected(town.ids["dan"], "a device")
    town.stack.bus.tell(Hint("presence", town.ids["dan"]))
    assert (await chat.told())[0] == ["presence"]


async def test_presence_is_nothing_that_was_missed(chat: Chat) -> None:
    """It is told anew to whoever comes back, of as many people as they have conversations with."""
    ann, ben, _ = chat.clients
    ann.leave()
    await chat.messages.send(ben.me, chat.with_ben, "c1", "hello?")
    with patch.object(truth, "MOST_MISSED", 1):
        await ann.connect()
    assert [event.name for event in ann.take()] == ["ready", "message", "presence", "presence"]


async def test_a_message_that_is_read_anew_meanwhile_is_told_once(chat: Chat) -> None:
    """The state of the person is read while the hub looks for what they were not told of, and before it has it."""
    ann, look_up = chat.clients[0], Changes.untold
    hub = ann.hub
    watcher = hub.watchers.of(ann.me)
    assert watcher

    async def slow(self: Changes, *asked: Any) -> Any:
        found = await look_up(self, *asked)
        async with watcher.turn:
            await hub._update(watcher, {"inbox"})
        return found

    await chat.messages.send(chat.clients[1].me, chat.with_ben, "c1", "once")
    with patch.object(Changes, "untold", slow):
        assert (await chat.told())[0] == ["message"]


async def test_what_could_not_be_told_is_told_later(town: World) -> None:
    """Nobody hears of the status, and MongoDB goes away while it is looked for."""
    hub = await new_hub(town)
    ann = await up_to_date(hub, town, "ann")
    with patch.object(town.stack.bus, "tell", lambda *_: None):
        await town.post("ben", "hello")

    async def away(*_: object) -> None:
        raise ConnectionFailure

    hub.listener.missed()
    with patch.object(hub._news, "tell", away), pytest.raises(ConnectionFailure):
        await hub.settle()
    hub.listener.missed()
    await hub.settled()
    assert [event.name for event in ann.take()] == ["status"]


async def test_what_comes_while_no_look_can_be_made_is_found_by_the_next(town: World) -> None:
    """However long MongoDB and Redis are away from this process alone; a status is told, and who follows back."""
    await town.post("ben", "for mutual followers", "mutuals")
    hub = await new_hub(town)
    ann = await up_to_date(hub, town, "ann")
    away = patch.object(poll, "together", AsyncMock(side_effect=ConnectionFailure))
    with away, patch.object(town.stack.bus, "tell", lambda *_: None):
        await town.post("cat", "hello")
        await town.follow("ben", "ann")
        for _ in range(3):
            town.clock.advance(NEWLY_S)
            hub.listener.missed()
            with pytest.raises(ConnectionFailure):
                await hub.settle()
    hub.listener.missed()
    await settled(hub)
    assert sorted(event.name for event in ann.take() if not event.name.startswith("notification")) == ["status"] * 2
    assert [each["text"] for each in (await fetched(town, ann.me))["statuses"]] == ["hello", "for mutual followers"]


async def test_what_was_found_late_and_could_not_be_told_is_found_again(town: World) -> None:
    """MongoDB comes back for one look, and goes away again before what it found is told."""
    hub = await new_hub(town)
    ann = await up_to_date(hub, town, "ann")
    with patch.object(town.stack.bus, "tell", lambda *_: None):
        await town.post("ben", "hello")
    town.clock.advance(2 * NEWLY_S)
    for _ in range(2):
        hub.listener.missed()
        fails = patch.object(hub._news, "tell", AsyncMock(side_effect=ConnectionFailure))
        with fails, pytest.raises(ConnectionFailure):
            await hub.settle()
    hub.listener.missed()
    await settled(hub)
    assert [event.name for event in ann.take()] == ["status"]


async def test_what_fails_for_ever_is_not_looked_for_for_ever(town: World) -> None:
    hub = await new_hub(town)
    await up_to_date(hub, town, "ann")
    with patch.object(town.stack.bus, "tell", lambda *_: None):
        await town.post("ben", "hello")
    with patch.object(hub._news, "tell", AsyncMock(side_effect=RuntimeError)) as tell:
        for _ in range(2):
            hub.listener.missed()
            with pytest.raises(RuntimeError):
                await hub.settle()
            town.clock.advance(2 * NEWLY_S)
        hub.listener.missed()
        await hub.settle()
    assert tell.await_count == 2


async def test_what_could_not_be_told_while_a_look_was_made_is_found_by_the_next(town: World) -> None:
    """An earlier look had found it, long after it came."""
    hub = await new_hub(town)
    ann = await up_to_date(hub, town, "ann")
    with patch.object(town.stack.bus, "tell", lambda *_: None):
        await town.post("ben", "hello")
    town.clock.advance(2 * NEWLY_S)
    await hub._poll.look()

    async def while_telling_fails(db: Database, **finds: Find) -> dict[str, Rows]:
        fails = patch.object(hub._news, "tell", AsyncMock(side_effect=ConnectionFailure))
        with fails, suppress(ConnectionFailure):
            await hub._tell_heard()
        return await together(db, **finds)

    with patch.object(poll, "together", while_telling_fails):
        await hub._poll.look()
    await hub.settled()
    assert ann.take() == []
    hub.listener.missed()
    await settled(hub)
    assert [event.name for event in ann.take()] == ["status"]


async def test_what_a_look_found_while_too_much_was_heard_is_found_by_the_next(town: World) -> None:
    hub = await new_hub(town)
    ann = await up_to_date(hub, town, "ann")
    with patch.object(town.stack.bus, "tell", lambda *_: None):
        await town.post("ben", "hello")
    with patch.object(hubs, "MOST_HEARD", 0):
        await hub._poll.look()
    await settled(hub)
    assert [event.name for event in ann.take()] == ["status"]


async def test_more_news_than_one_look_finds_is_read_by_everybody(town: World) -> None:
    """Although some of it has been heard, and not again at the next look."""
    hub = await new_hub(town)
    ann = await up_to_date(hub, town, "ann")
    with patch.object(town.stack.bus, "tell", lambda *_: None):
        for n in range(3):
            await town.post("ben", str(n))
    await town.post("ben", "heard")
    watcher = hub.watchers.of(ann.me)
    assert watcher
    with patch.object(poll, "MOST_NEW", 3):
        hub.listener.missed()
        await settled(hub)
        assert len([event for event in ann.take() if event.name == "status"]) == 4
        reads = watcher.reads
        hub.listener.missed()
        await settled(hub)
        assert watcher.reads == reads


async def test_nothing_is_kept_of_whoever_has_gone(town: World) -> None:
    """Also of who goes while their state is read."""
    hub = await new_hub(town)
    ann = Client(hub, town.ids["ann"])
    await ann.connect()
    begins, may_go_on = asyncio.Event(), asyncio.Event()

    async def slowly(db: Database, **finds: Find) -> dict[str, Rows]:
        answers = await together(db, **finds)
        if "followees" in finds:
            begins.set()
            await may_go_on.wait()
        return answers

    with patch.object(truth, "together", slowly):
        town.stack.bus.tell(Hint("edges", ann.me))
        await carried(town.stack)
        await hub.settle()
        (reading,) = [watcher.reading for watcher in hub.watchers]
        assert reading
        await begins.wait()
        ann.leave()
        may_go_on.set()
        await reading
    assert (list(hub.watchers), hub.watchers._followers) == ([], {})


async def test_a_look_passes_over_who_is_just_coming(town: World, monkeypatch: pytest.MonkeyPatch) -> None:
    hub, right = await new_hub(town), Truth.look_at_edges
    begins, may_go_on = asyncio.Event(), asyncio.Event()

    async def slowly(self: Truth, watcher: Watcher) -> None:
        begins.set()
        await may_go_on.wait()
        await right(self, watcher)

    ben, ann = Client(hub, town.ids["ben"]), Client(hub, town.ids["ann"])
    await ben.connect()
    monkeypatch.setattr(Truth, "look_at_edges", slowly)
    coming = asyncio.create_task(ann.connect())
    await begins.wait()
    hub.listener.missed()
    await hub.settle()
    may_go_on.set()
    await coming
    assert [event.name for event in ann.take()] == ["ready"]
