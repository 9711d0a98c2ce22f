"""The equation: a state that was fetched once, with the events applied, equals a state that is fetched now.

Hypothesis plays people, two web processes, hints that are lost and clients that lose their connection at any event.
"""

import asyncio
from collections import Counter
from collections.abc import Coroutine
from contextlib import AsyncExitStack
from functools import partial
from random import Random
from typing import Any, ClassVar, TypeVar
from unittest.mock import patch

from bson import ObjectId
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, rule

from app.accounts import Accounts
from app.config import Config
from app.errors import Refused
from app.inbox.changes import Changes
from app.inbox.conversations import Conversations
from app.inbox.messages import Messages
from app.inbox.notifications import Notifications
from app.inbox.notifier import Notifier
from app.live import behind, position, steps, truth
from app.live.hub import Hub
from app.live.presence import Presences
from app.live.talk import Talk
from app.live.truth import NEWLY_S
from app.models import Account, Audience
from app.stack import Hint, Stack, connected
from app.stack.bus import HintKind, MemoryBus
from app.web import schemas
from tests.dates import NOON, ManualClock
from tests.live import listeners
from tests.live.listeners import Client, fetched, new_hub
from tests.world import SLUGS, STAND_INS, World

T = TypeVar("T")

NAMES = ("ann", "ben", "cat")
which = st.integers(0, 11)  # taken modulo how many there are
hub = st.integers(0, 1)
clients = st.integers(0, 3)
AUDIENCES: tuple[Audience, ...] = ("followers", "followers", "mutuals", "circle")
VERBS = ("follow", "follow", "follow", "unfollow", "block", "unblock", "unblock", "mute", "unmute", "add_to_circle",
         "remove_from_circle")  # fmt: skip
TALK = ("send", "send", "send", "send", "send again", "deliver", "read", "read", "delete", "silence", "unsilence")
SHORT = 4  # statuses and notifications of a first page: what matters happens at its end


class LossyBus(MemoryBus):
    """To whom of its listeners it tells nothing."""

    def __init__(self) -> None:
        super().__init__()
        self.deaf: set[int] = set()

    def tell(self, *hints: Hint) -> None:
        for n, listener in enumerate(self._listeners):
            if n not in self.deaf:
                for hint in hints:
                    listener.heard(hint)


class Equation(RuleBasedStateMachine):
    tally: ClassVar[Counter[str]] = Counter()

    def __init__(self) -> None:
        super().__init__()
        self.loop = asyncio.Runner()
        self.exits = AsyncExitStack()
        for module in (behind, position, steps, truth, listeners):
            self.exits.enter_context(patch.object(module, "PAGE", SHORT))
        self.statuses: list[tuple[ObjectId, ObjectId]] = []
        self.passed_s = 0.0

    def run(self, work: Coroutine[Any, Any, T]) -> T:
        return self.loop.run(work)

    @initialize(follows=st.just(63) | st.integers(0, 63))
    def begin(self, follows: int) -> None:
        self.run(self._begin(follows))

    async def _begin(self, follows: int) -> None:
        config, self.clock = Config(demo=True, cap=10, pending_scan=3), ManualClock(NOON)
        stack = await self.exits.enter_async_context(connected(STAND_INS, config, self.clock))
        stack.bus = self.bus = LossyBus()
        self.world = await World.open(stack, self.clock)
        self.notifier = Notifier(stack, self.world.timelines.outbox)
        self.world.timelines.outbox.add(self.notifier)
        other = await World.open(stack, self.clock)  # another process, as far as it remembers anything
        self.notifications = Notifications(stack)
        self.conversations, self.messages, self.sent = Conversations(stack), Messages(stack), 0
        await self.world.sign_up(*NAMES)
        self.people = [self.world.ids[name] for name in NAMES]
        pairs = [(one, other) for one in self.people for other in self.people if one != other]
        for n, (one, followee) in enumerate(pairs):
            if follows >> n & 1:
                await self.world.relations.follow(one, followee)
        self.hubs: list[Hub] = [await new_hub(each, talk=self._talk(each)) for each in (self.world, other)]
        self.lost = [False, False]
        self.presences = [Presences(stack, partial(self._hinted, stack, "presence")) for _ in self.hubs]
        self.clients = [Client(self.hubs[0], self.people[n % 2]) for n in range(4)]
        for client in self.clients[:2]:
            await self._connect(client, 0)

    async def _hinted(self, stack: Stack, kind: HintKind, person: ObjectId) -> None:
        stack.bus.tell(Hint(kind, person))

    def _talk(self, world: World) -> Talk:
        return Talk(Conversations(world.stack), Changes(world.stack), world.people, Presences(world.stack), schemas)

    def teardown(self) -> None:
        if hasattr(self, "clients"):
            self.run(self._compare())
        self.run(self.exits.aclose())
        self.loop.close()

    # People

    def person(self, n: int) -> ObjectId:
        return self.people[n % len(self.people)]

    def act(self, work: Coroutine[Any, Any, object]) -> None:
        async def acting() -> None:
            self.clock.advance(0.4)
            try:
                await work
            except Refused:
                self.tally["refused"] += 1

        self.run(acting())
        self.tally["acts"] += 1

    @rule(n=which, audience=st.sampled_from(AUDIENCES), named=which)
    def post(self, n: int, audience: Audience, named: int) -> None:
        async def posting() -> None:
            text = f"{len(self.statuses)} @{NAMES[named % 3]}" if named < 6 else str(len(self.statuses))
            row, _ = await self.world.statuses.post(self.person(n), text, audience)
            self.statuses.append((row.id, row.user_id))

        self.act(posting())

    @rule(n=which, times=st.integers(2, 7))
    def post_many(self, n: int, times: int) -> None:
        for _ in range(times):
            self.post(n, "followers", 11)

    @rule(n=which)
    def delete(self, n: int) -> None:
        if self.statuses:
            id, author = self.statuses[-1 - n % len(self.statuses)]
            self.act(self.world.statuses.delete(author, id))

    @rule(n=which, status=which, verb=st.sampled_from(["like", "like", "unlike"]))
    def like(self, n: int, status: int, verb: str) -> None:
        if self.statuses:
            id, _ = self.statuses[-1 - status % len(self.statuses)]
            self.act(getattr(self.world.statuses, verb)(self.person(n), id))

    @rule(
        n=which,
        other=which,
        verb=st.sampled_from(
            [
                "follow",
                "follow",
                "unfollow",
                "block",
                "unblock",
                "mute",
                "unmute",
                "add_to_circle",
                "remove_from_circle",
            ]
        ),
    )
    def change_edge(self, n: int, other: int, verb: str) -> None:
        self.act(getattr(self.world.relations, verb)(self.person(n), self.person(other)))

    @rule(n=which)
    def rename(self, n: int) -> None:
        handle = NAMES[n % 3]
        self.act(self.world.people.rename(Account(self.person(n), handle), f"{handle} {self.tally['acts']}"))

    @rule(n=which, to=st.integers(0, 9))
    def mark_read(self, n: int, to: int) -> None:
        self.act(self.notifications.mark_read(self.person(n), to))

    @rule(n=which, other=which, what=st.sampled_from(TALK), upto=which)
    def talk(self, n: int, other: int, what: str, upto: int) -> None:
        self.act(self._talking(self.person(n), self.person(other), what, upto))

    async def _talking(self, me: ObjectId, other: ObjectId, what: str, upto: int) -> None:
        talk = self.messages
        one, _ = await self.conversations.open(me, other)
        match what:
            case "send":
                self.sent += 1
                await talk.send(me, one.id, str(self.sent), f"text {self.sent}")
            case "send again":
                await talk.send(me, one.id, "again", "again")
            case "deliver":
                await talk.receive(me, one.id, upto, None)
            case "read":
                await talk.receive(me, one.id, None, upto)
            case "delete":
                await talk.delete(me, one.id, upto)
            case "silence" | "unsilence":
                await self.conversations.silence(me, one.id, what == "silence")

    @rule(n=which, to=hub, comes=st.booleans(), passes_s=st.sampled_from([1, 1, 10]))
    def come_or_go(self, n: int, to: int, comes: bool, passes_s: float) -> None:
        """With one device at each process; whoever is not renewed goes by themselves."""
        verb = self.presences[to].connected if comes else self.presences[to].gone
        self.act(verb(self.person(n), f"device {to}"))
        self.clock.advance(passes_s)
        self.passed_s += passes_s
        if self.passed_s > NEWLY_S / 2:  # a look comes by far more often
            self.passed_s = 0.0
            self.poll(0)
            self.poll(1)

    @rule(n=which, hidden=st.booleans())
    def hide(self, n: int, hidden: bool) -> None:
        handle = NAMES[n % 3]
        self.act(Accounts(self.world.stack).hide(Account(self.person(n), handle), hidden))

    @rule(seed=st.integers(0, 9_999))
    def much_happens(self, seed: int) -> None:
        """Between two looks: Hypothesis alone takes few steps."""
        random = Random(seed)
        for _ in range(12):
            n, m = random.randrange(12), random.randrange(12)
            match random.randrange(21):
                case 0 | 1 | 2:
                    self.post(n, random.choice(AUDIENCES), m)
                case 3:
                    self.delete(n)
                case 4 | 5 | 6:
                    self.like(n, m, random.choice(("like", "unlike")))
                case 7 | 8 | 9:
                    self.change_edge(n, m, random.choice(VERBS))
                case 10:
                    self.rename(n)
                case 11:
                    self.mark_read(n, m)
                case 12:
                    self.work()
                case 13:
                    self.connect_or_lose(n % 4, m % 2, random.randrange(6))
                case 14 | 15:
                    self.come_or_go(n, m % 2, random.random() < 0.6, random.choice((1, 10)))
                case 16:
                    self.hide(n, random.random() < 0.3)
                case _:
                    self.talk(n, m, random.choice(TALK), random.randrange(1, 6))

    # Processes

    @rule()
    def work(self) -> None:
        self.run(self._work())

    async def _work(self) -> None:
        """Of a worker what tells of notifications: which timelines are kept for whom is the business of other tests."""
        for id in await self.world.timelines.outbox.oldest(Notifier.name, 1_000):
            await self.notifier.handle(id, None)

    @rule(read=st.sampled_from(SLUGS))
    def switch(self, read: str) -> None:
        self.act(self.world.timelines.change(read=read))
        self.clock.advance(1)

    @rule(n=hub)
    def lose_hints(self, n: int) -> None:
        self.bus.deaf.add(n)
        self.lost[n] = True

    @rule(n=hub)
    def hear(self, n: int) -> None:
        """And tell, at any moment."""
        self.run(self.hubs[n].settled())

    @rule(n=hub)
    def poll(self, n: int) -> None:
        self.run(self._poll(n))

    async def _poll(self, n: int) -> None:
        self.bus.deaf.discard(n)
        self.hubs[n].listener.missed()
        await self.hubs[n].settled()
        self.lost[n] = False
        self.tally["polls"] += 1

    # Clients

    @rule(n=clients, to=hub, after=st.integers(0, 5))
    def connect_or_lose(self, n: int, to: int, after: int) -> None:
        """Who loses the connection has got only the first events of what was on its way."""
        client = self.clients[n]
        if client.connection is None:
            self.run(self._connect(client, to))
        else:
            client.take(after)
            client.leave()

    async def _connect(self, client: Client, to: int) -> None:
        client.hub, again = self.hubs[to], client.last is not None
        await client.connect()
        client.take(None if again else 1)
        if client.state is None:
            client.state = await fetched(self.world, client.me)
        self.tally["resumed" if again else "connected"] += 1

    @rule()
    def compare(self) -> None:
        self.run(self._compare())

    async def _compare(self) -> None:
        await self._work()
        for each in self.presences:
            await each.look()
        for n, hub in enumerate(self.hubs):
            await (self._poll(n) if self.lost[n] else hub.settled())
        for client in self.clients:
            if client.connection:
                client.take()
                now = await fetched(self.world, client.me)
                client.forget_unlisted(now)
                different = [part for part in now if client.state is None or client.state[part] != now[part]]
                assert not different, [(client.state and client.state[part], now[part]) for part in different]
                assert "reset" not in client.said()
                self.tally["compared"] += 1
                self.tally.update(client.said())
                client.heard.clear()
