"""Conversations: each message once and in order, whatever is repeated, reordered or done at the same time."""

import asyncio
import re
from dataclasses import replace
from datetime import timedelta
from types import SimpleNamespace
from unittest.mock import patch

import pytest
from bson import ObjectId

from app.clock import LAST_ID
from app.errors import Conflict, Forbidden, Invalid, NotFound
from app.inbox import changes, conversations, messages
from app.inbox.changes import Changes
from app.inbox.conversations import Conversations
from app.inbox.messages import Messages
from app.inbox.sides import MESSAGES, Conversation, Message, own
from app.stack import Hint
from app.stack.again import FIRST_S, LONGEST_S, TRIES
from app.stack.cost import counted
from app.stack.mongodb.connection import Database
from app.stack.mongodb.find import Find, Rows, together
from app.stack.mongodb.stand_in import is_stand_in
from app.stack.mongodb.transaction import Contended
from app.walkthrough.book import chapters
from tests.world import World

pytestmark = pytest.mark.anyio

PEOPLE = ("ann", "ben", "cat")


class Talk:
    """A web process, and people by name."""

    def __init__(self, world: World) -> None:
        self.world, self.ids = world, world.ids
        self.told: list[str] = []
        self.conversations, self.messages = Conversations(world.stack), Messages(world.stack)
        self.changes = Changes(world.stack)
        world.stack.bus.tell = self._hear  # type: ignore[method-assign]

    def _hear(self, *hints: Hint) -> None:
        names = {id: name for name, id in self.ids.items()}
        self.told += [names[id] for kind, *ids in hints if kind == "talked" for id in ids[::2] if id]

    async def open(self, me: str, other: str) -> ObjectId:
        self.world.clock.advance(1)
        found, _ = await self.conversations.open(self.ids[me], self.ids[other])
        return found.id

    async def send(self, me: str, id: ObjectId, text: str, client_id: str | None = None) -> Message:
        self.world.clock.advance(1)
        sent, _ = await self.messages.send(self.ids[me], id, client_id or text, text)
        return sent

    async def receive(self, me: str, id: ObjectId, delivered: int | None = None, read: int | None = None) -> None:
        await self.messages.receive(self.ids[me], id, delivered, read)

    async def of(self, me: str, id: ObjectId) -> Conversation:
        return await self.conversations.by_id(self.ids[me], id)

    async def transcript(self, me: str, id: ObjectId, limit: int = 20) -> list[Message]:
        """All of them, newest first: the same in pages of any length, each full but for the last."""
        found: list[Message] = []
        before: int | None = None
        while True:
            page, before = await self.messages.page(self.ids[me], id, before, limit)
            found += page
            if before is None:
                break
            assert len(page) == limit
        assert [one.seq for one in found] == list(range(len(found), 0, -1))
        return found

    async def listed(self, me: str, limit: int = 20) -> tuple[list[ObjectId], int]:
        """All of them, likewise, and how many have unread messages."""
        found: list[ObjectId] = []
        before, unread = None, 0
        while True:
            page, before, unread = await self.conversations.page(self.ids[me], before, limit)
            found += [one.id for one in page]
            if before is None:
                break
            assert len(page) == limit
        assert await self.conversations.unread(self.ids[me]) == unread
        return found, unread


@pytest.fixture
async def talk(world: World) -> Talk:
    await world.sign_up(*PEOPLE)
    return Talk(world)


async def said(talk: Talk, me: str, id: ObjectId) -> list[tuple[str | None, str]]:
    """Texts and states, oldest first; the same in pages of any length."""
    found = await talk.transcript(me, id)
    assert await talk.transcript(me, id, limit=2) == found
    return [(one.text, one.state) for one in reversed(found)]


async def test_messages_are_numbered_and_their_sender_sees_how_far_they_are(talk: Talk) -> None:
    id = await talk.open("ann", "ben")
    for n, me in enumerate(("ann", "ann", "ben", "ann"), 1):
        sent = await talk.send(me, id, f"{me} {n}")
        assert (sent.seq, sent.client_id, sent.created_at, sent.state) == (
            n,
            f"{me} {n}",
            talk.world.clock.now(),
            "sent",
        )
    assert talk.told == ["ann", *("ann", "ben") * 2, "ben", "ann", "ann", "ben"]
    assert [one.client_id for one in await talk.transcript("ann", id)] == ["ann 4", None, "ann 2", "ann 1"]
    talk.told.clear()
    await talk.receive("ben", id, delivered=4, read=1)
    assert talk.told == ["ben", "ann"]
    for me in ("ann", "ben"):  # of what ben has got it is ben's own
        states = {"ann 1": "read", "ann 2": "delivered", "ben 3": "sent", "ann 4": "delivered"}
        assert await said(talk, me, id) == list(states.items())
    assert [
        (one.unread, one.delivered_to, one.read_to) for one in (await talk.of("ann", id), await talk.of("ben", id))
    ] == [
        (1, 4, 1),
        (2, 0, 0),
    ]
    talk.told.clear()
    for late in ({"delivered": 2}, {"read": 1}, {"delivered": 4, "read": 1}, {"delivered": 0, "read": 0}):
        await talk.receive("ben", id, **late)
    assert talk.told == [], "nothing has changed for anybody"
    assert (await talk.of("ben", id)).unread == 2
    await talk.receive("ben", id, delivered=2, read=2)
    assert ((await talk.of("ann", id)).delivered_to, (await talk.of("ann", id)).read_to) == (4, 2)
    await talk.receive("ben", id, read=4)
    assert await said(talk, "ann", id) == [("ann 1", "read"), ("ann 2", "read"), ("ben 3", "sent"), ("ann 4", "read")]
    await talk.receive("ann", id, delivered=3)
    assert (await said(talk, "ben", id))[2] == ("ben 3", "delivered")
    for wrong in ({"read": 5}, {"delivered": 5, "read": 1}, {}):
        with pytest.raises(Invalid):
            await talk.receive("ben", id, **wrong)


async def test_a_message_that_is_sent_again_is_the_same_message(talk: Talk) -> None:
    id, elsewhere = await talk.open("ann", "ben"), await talk.open("ann", "cat")
    first = await talk.send("ann", id, "hello", "1")
    await talk.send("ben", id, "hi", "1")
    await talk.send("ann", elsewhere, "somebody else", "1")
    other_process = Messages(talk.world.stack)
    assert await other_process.send(talk.ids["ann"], id, "1", " hello ") == (first, False)
    with pytest.raises(Conflict):
        await talk.send("ann", id, "goodbye", "1")
    assert [text for text, _ in await said(talk, "ben", id)] == ["hello", "hi"]
    await talk.messages.delete(talk.ids["ann"], id, 1)
    again, created = await other_process.send(talk.ids["ann"], id, "1", "hello")
    assert (again.seq, again.text, created) == (1, None, False), "a late retry brings nothing back"
    with pytest.raises(Conflict):
        await other_process.send(talk.ids["ann"], id, "1", "goodbye")
    restored = Messages(replace(talk.world.stack, secret=b"of another database, by a restore"))
    assert await restored.send(talk.ids["ann"], id, "1", "hello") == (again, False)
    forgotten = {"$unset": {"digest": ""}}  # as a process left it that knew no digest
    await talk.world.stack.db[MESSAGES].update_one({"conversation": id, "deleted": True}, forgotten)
    assert await other_process.send(talk.ids["ann"], id, "1", "goodbye") == (again, False)


async def test_many_send_at_once_from_several_processes(talk: Talk) -> None:
    """The same messages from each of them, as after answers that got lost."""
    id = await talk.open("ann", "ben")
    processes = [Messages(talk.world.stack) for _ in range(3)]
    texts = [(me, f"{me} {n}") for me in ("ann", "ben") for n in range(4)]
    sent = await asyncio.gather(
        *(process.send(talk.ids[me], id, text, text) for process in processes for me, text in texts),
        *(process.receive(talk.ids[me], id, 0, 0) for process in processes for me in ("ann", "ben")),
    )
    stored = [one for one in sent if one]
    assert sum(created for _, created in stored) == len(texts)
    found = await talk.transcript("ann", id)
    assert sorted(str(one.text) for one in found) == sorted(text for _, text in texts)
    assert {one.text: one.seq for one in found} == {message.text: message.seq for message, _ in stored}
    assert [(await talk.of(me, id)).unread for me in ("ann", "ben")] == [4, 4]


async def test_whoever_is_shown_an_older_conversation_tries_again_with_pauses(talk: Talk) -> None:
    """As while MongoDB has no majority: what was written last is in no snapshot, however often one is asked for."""
    id = await talk.open("ann", "ben")
    await talk.send("ann", id, "one")
    slept: list[float] = []

    async def sleep(seconds: float) -> None:
        slept.append(seconds)

    shown = await together(talk.world.stack.db, conversation=own(talk.ids["ben"], id))

    async def as_before(db: Database, **finds: Find) -> dict[str, Rows]:
        return await together(db, **finds) | shown

    with patch.object(messages, "asyncio", SimpleNamespace(Lock=asyncio.Lock, sleep=sleep)):
        await talk.send("ben", id, "two")
        assert slept == [], "who is alone waits for nobody"
        for change in (talk.send("ben", id, "three"), talk.receive("ben", id, read=1)):
            with (
                patch.object(messages, "together", as_before),
                pytest.raises(Contended, match=r"others .* or MongoDB has no majority"),
            ):
                await change
            assert len(slept) == TRIES
            assert FIRST_S / 2 <= slept[0] <= FIRST_S
            assert all(LONGEST_S / 2 <= each <= LONGEST_S for each in slept[TRIES // 2 :])
            slept.clear()
    assert [one.text for one in await talk.transcript("ann", id)] == ["two", "one"]


async def test_nothing_new_goes_across_a_block(talk: Talk) -> None:
    id = await talk.open("ann", "ben")
    hello = await talk.send("ann", id, "hello")
    await talk.receive("ben", id, delivered=1)
    for blocker, blocked in (("ann", "ben"), ("ben", "ann")):
        await talk.world.relations.block(talk.ids[blocker], talk.ids[blocked])
        for me in ("ann", "ben"):
            with pytest.raises(Forbidden):
                await talk.send(me, id, "more")
            with pytest.raises(Forbidden):
                await talk.open(me, "ben" if me == "ann" else "ann")
        assert await talk.send("ann", id, "hello") == (await talk.transcript("ann", id))[0], "it had been sent before"
    talk.told.clear()
    await talk.receive("ben", id, read=1)
    assert talk.told == ["ben"]
    for me, seen in (("ann", "delivered"), ("ben", "read")):
        assert await said(talk, me, id) == [("hello", seen)]
    assert ((await talk.of("ben", id)).unread, (await talk.of("ann", id)).read_to) == (0, 0)
    await talk.world.relations.unblock(talk.ids["ann"], talk.ids["ben"])
    with pytest.raises(Forbidden):
        await talk.send("ann", id, "more")
    await talk.world.relations.unblock(talk.ids["ben"], talk.ids["ann"])
    assert (await said(talk, "ann", id)) == [("hello", "delivered")], "what was read across a block stays unseen"
    assert (await talk.send("ann", id, "more")).seq == hello.seq + 1
    await talk.receive("ben", id, read=2)
    assert await said(talk, "ann", id) == [("hello", "read"), ("more", "read")]


async def test_the_last_active_conversation_is_listed_first(talk: Talk) -> None:
    with pytest.raises(Invalid):
        await talk.open("ann", "ann")
    ben, cat = await talk.open("ann", "ben"), await talk.open("ann", "cat")
    assert await talk.open("ben", "ann") == ben
    assert [await talk.listed(me) for me in PEOPLE] == [([cat, ben], 0), ([], 0), ([], 0)]
    await talk.send("ann", ben, "hello")
    assert [await talk.listed(me) for me in PEOPLE] == [([ben, cat], 0), ([ben], 1), ([], 0)]
    await talk.send("cat", cat, "hello")
    others = await talk.open("cat", "ben")
    for limit in (1, 2, 20):
        assert await talk.listed("ann", limit) == ([cat, ben], 1)
        assert await talk.listed("cat", limit) == ([others, cat], 0)
    await talk.conversations.silence(talk.ids["ann"], cat, True)
    assert await talk.listed("ann") == ([cat, ben], 0)
    assert ((await talk.of("ann", cat)).unread, (await talk.of("ann", cat)).silenced) == (1, True)
    assert (await talk.of("cat", cat)).silenced is False
    await talk.conversations.silence(talk.ids["ann"], cat, False)
    assert await talk.listed("ann") == ([cat, ben], 1)
    await talk.receive("ann", cat, read=1)
    assert await talk.listed("ann") == ([cat, ben], 0)


async def test_one_wrong_clock_dates_no_message_but_its_own(talk: Talk) -> None:
    """Clocks differ by seconds, and messages are in the order of their times all the same."""
    world, first = talk.world, await talk.open("ann", "ben")
    other, now = await talk.open("cat", "ben"), world.clock.now()
    for ahead in (timedelta(seconds=30), timedelta(days=3_650)):
        with patch.object(world.clock, "now", return_value=now + ahead):
            assert (await talk.send("ann", first, f"{ahead} ahead")).created_at == now + ahead
        answer = await talk.send("ben", first, f"an answer to {ahead}")
        assert answer.created_at == (now + ahead if ahead < timedelta(minutes=1) else world.clock.now())
    await talk.send("cat", other, "later")
    assert (await talk.listed("ben"))[0] == [other, first]


async def test_unread_conversations_are_counted_up_to_the_same_number_everywhere(
    talk: Talk, monkeypatch: pytest.MonkeyPatch
) -> None:
    for room in (conversations, changes):
        monkeypatch.setattr(room, "MOST_UNREAD", 1)
    ben = talk.ids["ben"]
    for name in ("ann", "cat"):
        await talk.send(name, await talk.open(name, "ben"), "hello")
    told, _ = await talk.changes.untold({ben: 0}, [])
    _, _, unread = await talk.conversations.page(ben, None, 20)
    assert (told[ben].unread, unread) == (1, 1)


async def test_whoever_walks_all_conversations_goes_by_their_ids(talk: Talk) -> None:
    ids = [await talk.open("ann", other) for other in ("ben", "cat")]
    await talk.open("ben", "cat")
    await talk.send("ben", ids[0], "hello")

    async def older_than(before: ObjectId, limit: int) -> list[ObjectId]:
        return [one.id for one in await talk.conversations.older_than(talk.ids["ann"], before, limit)]

    assert await older_than(LAST_ID, 3) == [ids[1], ids[0]]
    assert await older_than(LAST_ID, 1) == [ids[1]]
    assert await older_than(ids[1], 3) == [ids[0]]
    assert await older_than(ids[0], 3) == []


async def test_a_deleted_message_keeps_its_number(talk: Talk) -> None:
    id = await talk.open("ann", "ben")
    for text in ("one", "two", "three"):
        await talk.send("ann", id, text)
    for me, seq in (("ben", 2), ("ann", 4), ("ann", 0)):
        with pytest.raises(NotFound):
            await talk.messages.delete(talk.ids[me], id, seq)
    await talk.messages.delete(talk.ids["ann"], id, 2)
    with pytest.raises(NotFound):
        await talk.messages.delete(talk.ids["ann"], id, 2)
    assert await said(talk, "ben", id) == [("one", "sent"), (None, "sent"), ("three", "sent")]
    assert (await talk.of("ben", id)).unread == 3
    stored = await talk.world.stack.db[MESSAGES].find().to_list(None)
    assert not any("two" in str(value) for row in stored for name, value in row.items() if name != "client_id")


async def test_whose_conversation_it_is_not_finds_nothing(talk: Talk) -> None:
    id, cat = await talk.open("ann", "ben"), talk.ids["cat"]
    await talk.send("ann", id, "hello")
    for where in (id, talk.ids["ann"]):
        for attempt in (
            talk.messages.page(cat, where, None, 20),
            talk.conversations.by_id(cat, where),
            talk.messages.send(cat, where, "1", "hello"),
            talk.messages.receive(cat, where, 1, None),
            talk.messages.delete(cat, where, 1),
            talk.conversations.silence(cat, where, True),
        ):
            with pytest.raises(NotFound):
                await attempt


async def test_everything_that_concerns_somebody_has_a_number_of_theirs(talk: Talk) -> None:
    """Rising with each change, and given with it: whoever was away asks for what lies above the last one they know."""
    id = await talk.open("ann", "ben")
    await talk.send("ann", id, "one")
    await talk.send("ben", id, "two")
    await talk.receive("ben", id, read=2)
    await talk.messages.delete(talk.ids["ann"], id, 1)
    db = talk.world.stack.db

    async def told(collection: str, who: str) -> list[int]:
        documents = await db[collection].find({"told.who": talk.ids[who]}).sort("_id", 1).to_list(None)
        return [each["seq"] for row in documents for each in row["told"] if each["who"] == talk.ids[who]]

    assert await told("messages", "ann") == [5, 3]
    assert await told("conversations", "ann") == [4]
    assert await told("messages", "ben") == [4, 2]
    assert await told("conversations", "ben") == [3]
    found = await talk.changes.between(talk.ids["ann"], 3, 5, 10)
    assert sorted(change[:2] for change in found) == [(4, id), (5, id)], "the receipt, and the deleted message"
    ann, ben, cat = (talk.ids[name] for name in PEOPLE)
    for about in ([id], []):
        news, _ = await talk.changes.untold({ann: 3, ben: 2, cat: 0}, about)
        numbers = {me: [change.seq for change in each.changes] for me, each in news.items()}
        assert numbers == {ann: [4, 5], ben: [3, 4], cat: []}
        assert (news[ann].changes, news[ann].others, news[cat].others) == (sorted(found), {ben}, set())
    assert await talk.conversations.others(talk.ids["ann"], 5) == [talk.ids["ben"]]


async def test_what_the_walkthrough_says_that_a_conversation_costs(talk: Talk) -> None:
    """The stand-in is told of no commit."""
    [chapter] = [one for one in chapters() if one.slug == "conversations"]
    table = chapter.before.split("| What | Commands to MongoDB |", 1)[1].split("\n\n", 1)[0]
    said = {what: int(commands) for what, commands in re.findall(r"^\| (.+?) \| (\d+)", table, re.MULTILINE)}
    id, commit = await talk.open("ann", "ben"), 0 if is_stand_in(talk.world.stack.db) else 1
    found = {}
    for what, work, with_commit in (
        ("a message, until it is acknowledged", lambda: talk.send("ann", id, "one"), True),
        ("the same message again", lambda: talk.send("ann", id, "one"), False),
        ("a receipt that moves a mark", lambda: talk.receive("ben", id, read=1), True),
        ("a receipt that comes late", lambda: talk.receive("ben", id, delivered=1), False),
        ("a page of messages", lambda: talk.messages.page(talk.ids["ben"], id, None, 20), False),
        ("what is new for somebody who was away", lambda: talk.changes.between(talk.ids["ben"], 0, 1, 20), False),
    ):
        with counted() as cost:
            await work()
        found[what] = cost.mongodb + (1 - commit if with_commit else 0)
    assert found == said


async def test_a_message_takes_few_commands(talk: Talk) -> None:
    """A token and a picture take one more each; the sender's name travels with the first look-up."""
    id = await talk.open("ann", "ben")
    for text in ("one", "two"):
        with counted() as cost:
            await talk.send("ann", id, text)
        assert cost.mongodb == (5 if is_stand_in(talk.world.stack.db) else 6)
    with counted() as cost:
        await talk.conversations.page(talk.ids["ann"], None, 20)
    assert cost.mongodb == 2
