"""Random conversations: what everybody sees after every step, whoever dies or goes away in it, is what a list in memory
says.
"""

import asyncio
import dataclasses
from collections import Counter
from collections.abc import Coroutine, Mapping, Sequence
from contextlib import AsyncExitStack
from copy import deepcopy
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any, ClassVar, TypeVar

from bson import ObjectId
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, rule

from app.clock import FIRST_ID
from app.config import Config
from app.departures import clear_departures, depart
from app.errors import Conflict, Forbidden, Invalid, NotFound, Refused
from app.inbox.conversations import Conversations
from app.inbox.messages import Messages
from app.social.relations import Relations
from app.stack import Addresses, Stack, connected
from tests.dates import NOON, ManualClock
from tests.oracle.system import Crash, Cut, Fuse, GivenUp, _Database, all_made, in_time
from tests.world import STAND_INS, World

T = TypeVar("T")
Pair = frozenset[str]

PEOPLE = ("ann", "ben", "cat")
PAIRS = tuple(frozenset(pair) for pair in (("ann", "ben"), ("ben", "cat"), ("ann", "cat")))

person = st.sampled_from(PEOPLE)
pair = st.sampled_from([*PAIRS[:1] * 2, *PAIRS])
which = st.booleans()  # of a pair
process = st.integers(0, 1)
client_id = st.sampled_from(["1", "2", "3", "4", "5", "6", "7", "8"])
text = st.sampled_from(["yes", "yes", "yes", "no"])
commands = st.integers(0, 9)
anywhere: st.SearchStrategy[Cut] = st.none() | commands | st.builds(GivenUp, commands, st.integers(0, 1))


@dataclass
class Said:
    who: str
    client_id: str
    text: str
    at: datetime
    deleted: bool = False


@dataclass
class Marks:
    """How far somebody is, and how far the other sees them."""

    delivered: int = 0
    read: int = 0
    seen_delivered: int = 0
    seen_read: int = 0


@dataclass
class Talk:
    maker: str
    at: datetime
    said: list[Said] = field(default_factory=list)
    marks: dict[str, Marks] = field(default_factory=dict)
    silent: set[str] = field(default_factory=set)


@dataclass
class Model:
    talks: dict[Pair, Talk] = field(default_factory=dict)
    blocks: set[tuple[str, str]] = field(default_factory=set)
    gone: set[str] = field(default_factory=set)  # whose account is deleted

    def blocked(self, pair: Pair) -> bool:
        return any(set(block) == pair for block in self.blocks)

    def talk(self, pair: Pair) -> Talk:
        if pair not in self.talks:
            raise NotFound
        return self.talks[pair]

    # What somebody does: it returns what they are answered, or raises what they are refused

    def open(self, me: str, pair: Pair, at: datetime) -> bool:
        if self.blocked(pair):
            raise Forbidden
        if pair in self.talks:
            return False
        if pair & self.gone:
            raise NotFound
        self.talks[pair] = Talk(me, at, marks={one: Marks() for one in pair})
        return True

    def send(self, me: str, pair: Pair, client_id: str, text: str, at: datetime) -> tuple[int, bool]:
        talk = self.talk(pair)
        for seq, one in enumerate(talk.said, 1):
            if (one.who, one.client_id) == (me, client_id):
                if one.text != text:
                    raise Conflict
                return seq, False
        if me in self.gone:
            raise NotFound
        if self.blocked(pair) or pair & self.gone:
            raise Forbidden
        talk.at = max(at, talk.at)
        talk.said.append(Said(me, client_id, text, talk.at))
        return len(talk.said), True

    def receive(self, me: str, pair: Pair, delivered: int | None, read: int | None) -> None:
        talk = self.talk(pair)
        if (delivered is None and read is None) or max(delivered or 0, read or 0) > len(talk.said):
            raise Invalid("", "")
        marks = talk.marks[me]
        marks.read = max(marks.read, read or 0)
        marks.delivered = max(marks.delivered, delivered or 0, read or 0)
        if not self.blocked(pair):
            marks.seen_read = max(marks.seen_read, read or 0)
            marks.seen_delivered = max(marks.seen_delivered, delivered or 0, read or 0)

    def delete(self, me: str, pair: Pair, seq: int) -> None:
        said = self.talk(pair).said
        if not 1 <= seq <= len(said) or said[seq - 1].who != me or said[seq - 1].deleted:
            raise NotFound
        said[seq - 1].deleted = True

    def silence(self, me: str, pair: Pair, on: bool) -> None:
        (set.add if on else set.discard)(self.talk(pair).silent, me)

    def leave(self, me: str) -> None:
        if me in self.gone:
            raise NotFound
        self.gone.add(me)

    def clear(self) -> None:
        """Only whoever opened a conversation lists it until something is said."""
        self.talks = {pair: talk for pair, talk in self.talks.items() if talk.said or talk.maker not in self.gone}

    def block(self, me: str, other: str, on: bool) -> None:
        if {me, other} & self.gone:
            raise NotFound
        (set.add if on else set.discard)(self.blocks, (me, other))

    # What everybody sees

    def seen(self, ids: Mapping[Pair, ObjectId]) -> dict[str, Any]:
        silent = {pair: talk.silent for pair, talk in self.talks.items()}
        blocks = {block for block in self.blocks if not self.gone & set(block)}
        return {me: self._seen(me, ids) for me in PEOPLE if me not in self.gone} | {"stored": (blocks, silent)}

    def _seen(self, me: str, ids: Mapping[Pair, ObjectId]) -> Any:
        mine = {pair: talk for pair, talk in self.talks.items() if me in pair}
        messages = {
            pair: [self._message(me, talk, n) for n in range(1, len(talk.said) + 1)] for pair, talk in mine.items()
        }
        listed = [pair for pair, talk in mine.items() if talk.said or talk.maker == me]
        listed.sort(key=lambda pair: (mine[pair].at, ids.get(pair, FIRST_ID)), reverse=True)
        shown = [self._conversation(me, mine[pair]) for pair in listed]
        unread = sum(self._unread(me, mine[pair]) > 0 for pair in listed if me not in mine[pair].silent)
        return shown, unread, messages

    def _conversation(self, me: str, talk: Talk) -> Any:
        (other,) = talk.marks.keys() - {me}
        theirs, last = talk.marks[other], self._message(me, talk, len(talk.said)) if talk.said else None
        unread, silent = self._unread(me, talk), me in talk.silent
        return other, last, unread, theirs.seen_delivered, theirs.seen_read, silent

    def _unread(self, me: str, talk: Talk) -> int:
        return sum(one.who != me for one in talk.said[talk.marks[me].read :])

    def _message(self, me: str, talk: Talk, seq: int) -> Any:
        one, (other,) = talk.said[seq - 1], talk.marks.keys() - {me}
        marks = talk.marks
        delivered = marks[other].seen_delivered if one.who == me else marks[me].delivered
        read = marks[other].seen_read if one.who == me else marks[me].read
        state = "read" if seq <= read else "delivered" if seq <= delivered else "sent"
        text = None if one.deleted else one.text
        return seq, one.who, one.client_id if one.who == me else None, text, one.at, state


class Process:
    def __init__(self, stack: Stack) -> None:
        self.conversations, self.messages = Conversations(stack), Messages(stack)


class Talking(RuleBasedStateMachine):
    """Two processes, three people."""

    addresses: ClassVar[Addresses] = STAND_INS
    tally: ClassVar[Counter[str]] = Counter()

    def __init__(self) -> None:
        super().__init__()
        self.loop, self.exits, self.clock, self.model = asyncio.Runner(), AsyncExitStack(), ManualClock(NOON), Model()

    @initialize()
    def begin(self) -> None:
        self.run(self._begin())

    async def _begin(self) -> None:
        config = Config(database=f"talk_{ObjectId()}")
        self.stack = await self.exits.enter_async_context(connected(self.addresses, config, self.clock))
        self.exits.push_async_callback(self.stack.db.client.drop_database, config.database)
        world = await World.open(self.stack, self.clock)
        await world.sign_up(*PEOPLE)
        self.ids, self.names = world.ids, {id: name for name, id in world.ids.items()}
        self.fuse, self.looking = Fuse(self.clock), Process(self.stack)
        database: Any = _Database(self.stack.db, self.fuse)
        self.mortal, mortal = database, dataclasses.replace(self.stack, db=database)
        self.processes = [Process(mortal) for _ in range(2)]
        self.relations = Relations(mortal, world.timelines.outbox)
        for pair in PAIRS[:2]:
            me, other = sorted(pair)
            await self.looking.conversations.open(self.ids[me], self.ids[other])
            self.model.open(me, pair, self.clock.now())

    def teardown(self) -> None:
        try:
            self.run(self.exits.aclose())
        finally:
            self.loop.close()

    def run(self, work: Coroutine[Any, Any, T]) -> T:
        return self.loop.run(in_time(work))

    # Steps

    def step(self, name: str, work: Coroutine[Any, Any, T], expected: Any, cut: Cut = None) -> None:
        """`expected`: what the model does. What is cut off has done it, or nothing of it."""
        self.tally["steps"] += 1
        self.tally[name] += 1
        before, after = self.model, deepcopy(self.model)
        try:
            answer: Any = expected(after)
        except Refused as refused:
            answer, after = refused, before
        found: Any = None
        try:
            found = self.run(self.fuse.lit(work, cut))
        except (Crash, asyncio.CancelledError) as end:
            self.tally["crashes" if isinstance(end, Crash) else "given up"] += 1
            self.run(all_made(self.stack.db))
            ids, seen = self.run(self._ids()), self.run(self._seen())
            assert seen in (before.seen(ids), after.seen(ids)), f"{name}: half of it is done"
            self.model = after if seen == after.seen(ids) else before
            return
        except Refused as refused:
            found = refused
            self.tally[f"refused: {type(refused).__name__}"] += 1
        if isinstance(answer, Refused) or isinstance(found, Refused):
            assert isinstance(found, type(answer)), f"{name}: {found!r} instead of {answer!r}"
        else:
            assert found == answer, f"{name}: {found!r} instead of {answer!r}"
        self.model = after
        self.compare()

    def compare(self) -> None:
        seen, model = self.run(self._seen()), self.model.seen(self.run(self._ids()))
        assert seen == model, "\n".join(f"{me}: {seen[me]}\ninstead of {model[me]}" for me in seen)

    async def _ids(self) -> dict[Pair, ObjectId]:
        rows = await self.stack.db["conversations"].find().to_list(None)
        return {frozenset(self.names[one] for one in row["people"]): row["_id"] for row in rows}

    async def _seen(self) -> dict[str, Any]:
        """With what nobody sees yet, which whoever died has done or not."""
        ids, db, names = await self._ids(), self.stack.db, self.names
        gone = {names[row["_id"]] for row in await db["users"].find({"deleted": True}).to_list(None)}
        blocks = {(names[row["blocker"]], names[row["blocked"]]) for row in await db["blocks"].find().to_list(None)}
        blocks = {block for block in blocks if not gone & set(block)}
        of = {id: pair for pair, id in ids.items()}
        rows = await db["conversations"].find().to_list(None)
        silent = {of[row["_id"]]: {names[one] for one in row["silent"]} for row in rows}
        there = [me for me in PEOPLE if me not in gone]
        seen = {me: await self._seen_by(me, {pair: id for pair, id in ids.items() if me in pair}) for me in there}
        return seen | {"stored": (blocks, silent)}

    async def _seen_by(self, me: str, ids: Mapping[Pair, ObjectId]) -> Any:
        found: list[Any] = []
        before, unread = None, 0
        while True:
            page, before, unread = await self.looking.conversations.page(self.ids[me], before, 2)
            found += page
            if before is None:
                break
        messages = {pair: await self._messages(me, id) for pair, id in ids.items()}
        shown = [
            (
                self.names[one.other],
                one.last and self._message(one.last),
                one.unread,
                one.delivered_to,
                one.read_to,
                one.silenced,
            )
            for one in found
        ]
        return shown, unread, messages

    async def _messages(self, me: str, id: ObjectId) -> list[Any]:
        found: list[Any] = []
        before: int | None = None
        while True:
            page, before = await self.looking.messages.page(self.ids[me], id, before, 5)
            found += [self._message(one) for one in page]
            if before is None:
                return found[::-1]

    def _message(self, one: Any) -> Any:
        return one.seq, self.names[one.who], one.client_id, one.text, one.created_at, one.state

    @rule(p=process, pair=pair, which=which, cut=anywhere)
    def open(self, p: int, pair: Pair, which: bool, cut: Cut) -> None:
        me, other = sorted(pair, reverse=which)
        if pair & self.model.gone and self.model.blocked(pair):
            return  # the block goes with the account, by and by, and with it the words of the refusal

        async def opening() -> bool:
            return (await self.processes[p].conversations.open(self.ids[me], self.ids[other]))[1]

        at = self.clock.now()
        self.step("open", opening(), lambda model: model.open(me, pair, at), cut)

    async def _id(self, pair: Pair) -> ObjectId:
        return (await self._ids()).get(pair, ObjectId())

    async def _send(self, p: int, me: str, pair: Pair, client_id: str, text: str) -> tuple[int, bool]:
        sent, created = await self.processes[p].messages.send(self.ids[me], await self._id(pair), client_id, text)
        return sent.seq, created

    @rule(p=process, pair=pair, which=which, client_id=client_id, text=text, cut=anywhere)
    def send(self, p: int, pair: Pair, which: bool, client_id: str, text: str, cut: Cut) -> None:
        me, _ = sorted(pair, reverse=which)
        if me in self.model.gone and self.model.blocked(pair):
            return  # as in `open`
        at = self.clock.now()
        work = self._send(p, me, pair, client_id, text)
        self.step("send", work, lambda model: model.send(me, pair, client_id, text, at), cut)

    @rule(pair=pair, sends=st.lists(st.tuples(process, which, client_id), min_size=2, max_size=5))
    def send_at_once(self, pair: Pair, sends: list[tuple[int, bool, str]]) -> None:
        """In whatever order they come: each is stored once, and everybody is told the number that it has."""
        if pair not in self.model.talks or self.model.blocked(pair) or pair & self.model.gone:
            return
        people = sorted(pair)
        at = self.clock.now()
        works = [self._send(p, people[which], pair, client_id, "yes") for p, which, client_id in sends]
        outcomes = self.run(_gathered(works))
        answers: dict[tuple[str, str], set[int]] = {}
        for (_, which, client_id), outcome in zip(sends, outcomes, strict=True):
            if isinstance(outcome, Conflict):  # an earlier one says no
                continue
            assert not isinstance(outcome, BaseException), outcome
            answers.setdefault((people[which], client_id), set()).add(outcome[0])
        assert all(len(seqs) == 1 for seqs in answers.values()), answers
        for (me, client_id), (seq,) in sorted(answers.items(), key=lambda answer: min(answer[1])):
            assert self.model.send(me, pair, client_id, "yes", at)[0] == seq
        self.tally["sent at once"] += len(answers)
        self.compare()

    @rule(p=process, pair=pair, which=which, late=st.integers(-1, 6), read=st.booleans() | st.none(), cut=anywhere)
    def receive(self, p: int, pair: Pair, which: bool, late: int, read: bool | None, cut: Cut) -> None:
        """Up to the last message, or one too far, or as many too late."""
        me, _ = sorted(pair, reverse=which)
        if me in self.model.gone:
            return  # they have no token any more; and their conversations end by and by, as by a block
        seq = max(len(self.model.talks[pair].said) - late, 0) if pair in self.model.talks else 1
        marks = (max(seq - 1, 0), seq) if read is None else (None, seq) if read else (seq, None)

        async def receiving() -> None:
            await self.processes[p].messages.receive(self.ids[me], await self._id(pair), *marks)

        self.step("receive", receiving(), lambda model: model.receive(me, pair, *marks), cut)

    @rule(pair=pair, which=which, on=st.booleans(), cut=anywhere)
    def block(self, pair: Pair, which: bool, on: bool, cut: Cut) -> None:
        me, other = sorted(pair, reverse=which)
        blocking = (self.relations.block if on else self.relations.unblock)(self.ids[me], self.ids[other])
        self.step("block" if on else "unblock", blocking, lambda model: model.block(me, other, on), cut)

    @rule(p=process, pair=pair, which=which, back=st.integers(-1, 6), cut=anywhere)
    def delete(self, p: int, pair: Pair, which: bool, back: int, cut: Cut) -> None:
        me, _ = sorted(pair, reverse=which)
        seq = max(len(self.model.talks[pair].said) - back, 0) if pair in self.model.talks else 1

        async def deleting() -> None:
            await self.processes[p].messages.delete(self.ids[me], await self._id(pair), seq)

        self.step("delete", deleting(), lambda model: model.delete(me, pair, seq), cut)

    @rule(p=process, pair=pair, which=which, on=st.booleans(), cut=anywhere)
    def silence(self, p: int, pair: Pair, which: bool, on: bool, cut: Cut) -> None:
        me, _ = sorted(pair, reverse=which)

        async def silencing() -> None:
            await self.processes[p].conversations.silence(self.ids[me], await self._id(pair), on)

        self.step("silence", silencing(), lambda model: model.silence(me, pair, on), cut)

    @rule(cut=anywhere)
    def leave(self, cut: Cut) -> None:
        leaving = depart(self.mortal, self.clock, self.ids["cat"])
        self.step("leave", leaving, lambda model: model.leave("cat"), cut)

    @rule(cut=st.none() | st.integers(0, 40))
    def clear(self, cut: Cut) -> None:
        """What somebody has left: nobody lists any of it, so nobody sees that it goes."""
        self.step("clear", clear_departures(self.mortal, self.clock, self.stack.bus), lambda model: model.clear(), cut)

    @rule(seconds=st.sampled_from([0.0, 1.0, 3_600.0]))
    def later(self, seconds: float) -> None:
        self.clock.advance(seconds)


async def _gathered(works: Sequence[Coroutine[Any, Any, T]]) -> list[T | BaseException]:
    return await asyncio.gather(*works, return_exceptions=True)
