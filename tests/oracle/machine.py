"""Random histories: Hypothesis plays people, processes, servers and workers, and reads every page after every step."""

import asyncio
from collections import Counter
from collections.abc import Coroutine
from contextlib import AsyncExitStack
from datetime import timedelta
from random import Random
from typing import Any, ClassVar, TypeVar
from unittest.mock import patch

from bson import ObjectId
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from app.clock import id_at
from app.departures import clear_departures, depart, take_likes_back
from app.errors import Conflict, Forbidden, NotFound
from app.inbox.notifications import Notifications
from app.models import SETTINGS, Account, Audience, StatusRow, like_key
from app.stack import Addresses
from app.stack.mongodb.connection import Database
from app.stack.mongodb.write import insert_with_new_id
from app.stack.outage import UNAVAILABLE
from app.stack.queue import jobs
from benchmarks.oracle import Oracle, Told
from phases.delivering.backlog import LATE_S, REREAD_S
from phases.home.page import Page
from phases.p2_push import PUSH
from phases.p4_cache import CACHE
from phases.p5_stream import STREAM
from phases.pulling import author as authors
from phases.pulling.markers import KNOWN_S
from phases.timelines import Timelines
from tests.dates import NOON, ManualClock
from tests.oracle.system import Crash, Cut, GivenUp, Job, System, all_made, in_time
from tests.world import KEEPING, SLUGS, STAND_INS, flush, flush_sets
from workers.sweeper import OVERDUE_S, sweep
from workers.worker import drain_queues

T = TypeVar("T")

MOST_PEOPLE = 6
HANDLES = "abcdefgh"  # of everybody who ever was
LARGE = 60  # statuses: beyond that a history only gets slower
WALK_EVERY = 8  # steps
SELDOM = 12  # steps

some = st.integers(0, 11)  # taken modulo how many there are
process = st.integers(0, 1)
limits = st.integers(1, 8)
dies_after = st.none() | st.integers(0, 14)  # commands
slow_s = st.sampled_from([0.0, 0.0, 0.0, 0.0, 1.5, 3.0, 8.0])  # from a status's id to its insert
lags_s = st.sampled_from([0.0, 0.0, 0.0, 0.1, 0.4])
audience = st.sampled_from(["followers", "followers", "mutuals", "circle"])
slugs = st.sampled_from(SLUGS)
delivering = st.just(list(KEEPING)) | st.lists(slugs, unique=True, max_size=4)
seconds = st.sampled_from([0.0, 0.3, 1.0, 1.0, 3.0])


def cut_off(least: int, most: int) -> st.SearchStrategy[Cut]:
    """Behind so many commands the process dies, or its request is given up: sooner than a server answers, so that the
    same history goes on in the same way.
    """
    commands = st.integers(least, most)
    return commands | st.builds(GivenUp, commands, st.integers(0, 4))


anywhere = st.none() | cut_off(0, 14)
early = st.none() | cut_off(0, 3)


class Histories(RuleBasedStateMachine):
    addresses: ClassVar[Addresses] = STAND_INS
    tally: ClassVar[Counter[str]] = Counter()

    def __init__(self) -> None:
        super().__init__()
        self.loop = asyncio.Runner()
        self.exits = AsyncExitStack()
        self.people: list[ObjectId] = []
        self.names: dict[ObjectId, str] = {}
        self.handles: dict[ObjectId, str] = {}
        self.oracle: Oracle[ObjectId] = Oracle()
        self.keys: list[tuple[ObjectId, str, Audience, str]] = []  # what was posted with an idempotency key
        self.old_jobs: list[Job] = []
        self.told: list[dict[str, Any]] = []
        self.regulars = 0
        self.steps = 0
        self.last: dict[str, int] = {}

    # The system

    @initialize(
        comeback=st.sampled_from(["auto", "auto", "manual"]),
        pending_scan=st.sampled_from([3, 50, 50]),
        pull_from=st.integers(1, 3),
        pull_beyond=st.sampled_from([1, 2, 50]),
        cap=st.integers(2, 5),
        chunk=st.integers(1, 3),
        people=st.integers(2, 4),
        follows=st.integers(0, 4095),
        regulars=st.integers(0, 63),
        pulled=st.integers(0, 15),
    )
    def begin(
        self,
        comeback: str,
        pending_scan: int,
        pull_from: int,
        pull_beyond: int,
        cap: int,
        chunk: int,
        people: int,
        follows: int,
        regulars: int,
        pulled: int,
    ) -> None:
        """`follows`: a bit for each possible edge. `regulars`: one for each who reads after every step; `pulled`: for
        each whose statuses are pulled until somebody says otherwise.
        """
        self.regulars = regulars
        self.clock = ManualClock(NOON)
        opening = System.open(
            self.addresses,
            self.clock,
            comeback=comeback,
            pending_scan=pending_scan,
            pull_from=pull_from,
            pull_beyond=pull_beyond,
            cap=cap,
            chunk=chunk,
            inline_chunk=chunk,
            list_chunk=chunk,
            timeline_ttl_s=60,
            activity_slack_s=30,
            lease_s=2,
        )
        self.system = self.run(self.exits.enter_async_context(opening))
        self.tally["histories"] += 1
        for _ in range(people):
            self._sign_up()
        pairs = [(one, other) for one in self.people for other in self.people if one != other]
        for n, (reader, followee) in enumerate(pairs):
            if follows >> n & 1:
                self.run(self.system.processes[0].relations.follow(reader, followee))
                self.oracle.follows.add((reader, followee))
        for n, author in enumerate(self.people):
            if pulled >> n & 1:
                self.run(self.system.processes[0].timelines.force(author, True))
        self.clock.advance(5)

    def run(self, work: Coroutine[Any, Any, T]) -> T:
        return self.loop.run(in_time(work))

    def seldom(self, name: str) -> bool:
        """What ends all lists at once is not worth doing often."""
        return self.steps - self.last.get(name, -SELDOM) >= SELDOM

    def step(self, name: str) -> None:
        self.steps += 1
        self.last[name] = self.steps
        self.tally["steps"] += 1
        self.tally[name] += 1

    def teardown(self) -> None:
        try:
            if self.people and not self.failed:
                self.settle()
        finally:
            self.run(self.exits.aclose())
            self.loop.close()

    failed = False

    def settle(self) -> None:
        """Everything comes back, what was lost is found, and nothing is owed any more."""
        self.system.memcached.down = self.system.redis_down = False
        self.clock.advance(OVERDUE_S + 5)
        self.run(self.raw_queue_forgotten())
        for _ in range(2):
            self.run(sweep(self.system.processes[0].timelines))
            self.run(drain_queues(self.system.processes[0].timelines))
        state = self.run(self.system.processes[0].timelines.state())
        assert [phase.pending for phase in state.phases] == [0] * len(SLUGS), "something is owed for ever"
        self.run(self._everybody_is_told())
        self.compare(walk=True)
        self.run(self._read_at_once(SLUGS))
        self.compare(walk=True)

    async def _everybody_is_told(self) -> None:
        """Of what is true now, each thing once; and no number is missing."""
        db = self.system.raw.db
        for reader in self.people:
            shown, _ = await Notifications(self.system.raw).page(reader, None, 100)
            told = sorted((one.kind, str(one.who), str(one.status and one.status.id)) for one in shown)
            true, name = self.oracle.told(reader, self.handles[reader]), self.handles[reader]
            assert told == sorted((kind, str(who), str(what)) for kind, who, what in true), name
            seqs = sorted([row["seq"] for row in await db["notifications"].find({"whom": reader}).to_list(None)])
            assert seqs == list(range(1, len(seqs) + 1)), name
            self.tally["notifications compared"] += len(told)
        assert not await db["events"].count_documents({}), "an event is owed for ever"

    async def raw_queue_forgotten(self) -> None:
        await self.system.raw.queue.forget()

    def act(self, who: int, work: Coroutine[Any, Any, T], cut: Cut = None, lag_s: float = 0.0) -> T | BaseException:
        """What it returned, or how it ended. A process that died is replaced. One of which a request was given up goes
        on, with all that it remembers.
        """
        try:
            return self.run(self.system.fuse.lit(work, cut, lag_s))
        except Crash as crash:
            self.tally["crashes"] += 1
            self.system.processes[who] = self.run(self.system.start())
            return crash
        except asyncio.CancelledError as gone:
            self.tally["given up"] += 1
            self.run(all_made(self.system.raw.db))
            return gone
        except UNAVAILABLE as away:
            self.tally["unavailable"] += 1
            return away

    def person(self, n: int) -> ObjectId:
        return self.people[n % len(self.people)]

    def one_of(self, pairs: set[tuple[ObjectId, ObjectId]], n: int) -> tuple[ObjectId, ObjectId]:
        return sorted(pairs)[n % len(pairs)]

    def jobs_wait(self) -> bool:
        return bool(self.people) and bool(self.system.waiting())

    def pair(self, one: int, other: int) -> tuple[ObjectId, ObjectId]:
        """Two different people."""
        first = one % len(self.people)
        second = other % (len(self.people) - 1)
        return self.people[first], self.people[second + (second >= first)]

    # People

    def _sign_up(self) -> None:
        handle = HANDLES[len(self.handles)]
        self.people.append(self.run(self.system.sign_up(handle)))
        self.names[self.people[-1]], self.handles[self.people[-1]] = handle.title(), handle

    @precondition(lambda self: len(self.people) < MOST_PEOPLE and len(self.handles) < len(HANDLES))
    @rule()
    def sign_up(self) -> None:
        self.step("sign up")
        self._sign_up()

    @rule(who=process, one=some, cut=early)
    def rename(self, who: int, one: int, cut: Cut) -> None:
        self.step("rename")
        id, name = self.person(one), f"Name {self.steps}"
        account = Account(id, self.handles[id])
        if self.act(who, self.system.processes[who].people.rename(account, name), cut) is None:
            self.names[id] = name
        else:
            stored = self.run(self._stored("users", {"_id": id}))
            assert stored
            self.names[id] = stored["name"]

    @precondition(lambda self: len(self.people) > 2 and self.seldom("leave"))
    @rule(who=process, one=some, cut=early)
    def leave(self, who: int, one: int, cut: Cut) -> None:
        """An account is deleted, and its likes with it. What else is left of it goes when a worker comes by."""
        self.step("leave")
        id = self.person(one)
        if self.act(who, self._leave(id), cut) is None:
            self.oracle.likes = {pair for pair in self.oracle.likes if pair[0] != id}
        if self.run(self._stored("departures", {"_id": id})):
            self.people.remove(id)
            self.oracle.depart(id)
            self.keys = [key for key in self.keys if key[0] != id]
            self.tally["accounts deleted"] += 1

    async def _leave(self, id: ObjectId) -> None:
        await depart(self.system.stack.db, self.clock, id)
        await take_likes_back(self.system.stack, id)

    async def _likes_that_are_left(self) -> None:
        """Of those whose process died when they left: they are counted for as long as they are there."""
        for pair in [pair for pair in self.oracle.likes if pair[0] in self.oracle.departed]:
            if not await self._stored("likes", {"_id": like_key(*pair)}):
                self.oracle.likes.discard(pair)

    @rule(who=process, one=some, other=some, cut=anywhere, lag_s=lags_s)
    def follow(self, who: int, one: int, other: int, cut: Cut, lag_s: float) -> None:
        self.step("follow")
        reader, followee = self.pair(one, other)
        try:
            ended = self.act(who, self.system.processes[who].relations.follow(reader, followee), cut, lag_s)
        except Forbidden:
            assert self.oracle.across_block(reader, followee)
            return
        if ended is None:
            assert not self.oracle.across_block(reader, followee)
            self.oracle.follows.add((reader, followee))
        else:
            self.learn(reader, followee)

    @precondition(lambda self: self.closer())
    @rule(who=process, one=some, cut=cut_off(2, 10))
    def come_halfway_closer(self, who: int, one: int, cut: Cut) -> None:
        """Somebody with a warm timeline would see more from now on; that is cut off before or while it is merged."""
        self.step("come halfway closer")
        name, reader, author = (pairs := self.closer())[one % len(pairs)]
        for slug in KEEPING:
            self.act(who, self.system.processes[who].timelines.refresh(reader, phase=slug))
        relations = self.system.processes[who].relations
        work = relations.follow(reader, author) if name == "follow" else relations.add_to_circle(author, reader)
        self.act(who, work, cut)
        self.learn(reader, author)

    def closer(self) -> list[tuple[str, ObjectId, ObjectId]]:
        """(what, reader, author) of each edge that is missing and would show something."""
        live = [status for status in self.oracle.statuses.values() if not status.deleted]
        authors = sorted({status.author for status in live})
        whispering = sorted({status.author for status in live if status.audience == "circle"})
        follows, circles = self.oracle.follows, self.oracle.circles
        return [
            ("follow", reader, author)
            for author in authors
            for reader in self.people
            if reader != author and (reader, author) not in follows and not self.oracle.across_block(reader, author)
        ] + [
            ("circle in", reader, owner)
            for owner in whispering
            for reader in self.people
            if (reader, owner) in follows and (owner, reader) not in circles
        ]

    @precondition(lambda self: self.oracle.follows)
    @rule(who=process, one=some)
    def unfollow(self, who: int, one: int) -> None:
        self.step("unfollow")
        reader, followee = self.one_of(self.oracle.follows, one)
        self.run(self.system.processes[who].relations.unfollow(reader, followee))
        self.oracle.follows.discard((reader, followee))

    @precondition(lambda self: self.oracle.follows)
    @rule(who=process, one=some)
    def unfollow_and_follow_again(self, who: int, one: int) -> None:
        self.step("follow again")
        reader, followee = self.one_of(self.oracle.follows, one)
        self.run(self.system.processes[who].relations.unfollow(reader, followee))
        try:
            self.run(self.system.processes[1 - who].relations.follow(reader, followee))
        except Forbidden:  # a block was cut short before it ended the follow
            assert self.oracle.across_block(reader, followee)
            self.oracle.follows.discard((reader, followee))

    @rule(who=process, one=some, other=some, cut=early)
    def block(self, who: int, one: int, other: int, cut: Cut) -> None:
        self.step("block")
        blocker, blocked = self.pair(one, other)
        if self.act(who, self.system.processes[who].relations.block(blocker, blocked), cut) is None:
            self.oracle.block(blocker, blocked)
        else:
            self.learn(blocker, blocked)

    @precondition(lambda self: self.oracle.blocks)
    @rule(who=process, one=some, cut=early)
    def unblock(self, who: int, one: int, cut: Cut) -> None:
        self.step("unblock")
        blocker, blocked = self.one_of(self.oracle.blocks, one)
        ended = self.act(who, self.system.processes[who].relations.unblock(blocker, blocked), cut)
        if ended is None:
            self.oracle.blocks.discard((blocker, blocked))
        self.learn(blocker, blocked)

    @rule(who=process, one=some, other=some, cut=anywhere)
    def circle_in(self, who: int, one: int, other: int, cut: Cut) -> None:
        self.step("circle in")
        owner, member = self.pair(one, other)
        if self.act(who, self.system.processes[who].relations.add_to_circle(owner, member), cut) is None:
            self.oracle.circles.add((owner, member))
        else:
            self.learn(owner, member)

    @precondition(lambda self: self.oracle.circles)
    @rule(who=process, one=some)
    def circle_out(self, who: int, one: int) -> None:
        self.step("circle out")
        owner, member = self.one_of(self.oracle.circles, one)
        self.run(self.system.processes[who].relations.remove_from_circle(owner, member))
        self.oracle.circles.discard((owner, member))

    @rule(who=process, one=some, other=some, cut=early)
    def mute(self, who: int, one: int, other: int, cut: Cut) -> None:
        self.step("mute")
        muter, muted = self.pair(one, other)
        if self.act(who, self.system.processes[who].relations.mute(muter, muted), cut) is None:
            self.oracle.mutes.add((muter, muted))
        else:
            self.learn(muter, muted)

    @precondition(lambda self: self.oracle.mutes)
    @rule(who=process, one=some, cut=early)
    def unmute(self, who: int, one: int, cut: Cut) -> None:
        self.step("unmute")
        muter, muted = self.one_of(self.oracle.mutes, one)
        if self.act(who, self.system.processes[who].relations.unmute(muter, muted), cut) is None:
            self.oracle.mutes.discard((muter, muted))
        self.learn(muter, muted)

    def learn(self, one: ObjectId, other: ObjectId) -> None:
        """After it was cut off: whatever rows are stored between the two is what holds."""
        for rows, name, ends in (
            (self.oracle.follows, "follows", ("follower", "followee")),
            (self.oracle.blocks, "blocks", ("blocker", "blocked")),
            (self.oracle.circles, "circles", ("owner", "member")),
            (self.oracle.mutes, "mutes", ("muter", "muted")),
        ):
            for pair in ((one, other), (other, one)):
                stored = self.run(self._stored(name, dict(zip(ends, pair, strict=True))))
                (rows.add if stored else rows.discard)(pair)

    async def _stored(self, collection: str, row: dict[str, Any]) -> dict[str, Any] | None:
        return await self.system.raw.db[collection].find_one(row)

    # Statuses

    @precondition(lambda self: len(self.oracle.statuses) < LARGE)
    @rule(
        who=process,
        author=some,
        audience=audience,
        after_s=seconds,
        slow_s=slow_s,
        cut=anywhere,
        lag_s=lags_s,
        keyed=st.booleans(),
    )
    def post(
        self,
        who: int,
        author: int,
        audience: Audience,
        after_s: float,
        slow_s: float,
        cut: Cut,
        lag_s: float,
        keyed: bool,
    ) -> None:
        """`slow_s`: so long before the insert the id was made, or so slow is the clock of the process."""
        self.step("post")
        self.pass_time(after_s)
        n, people = len(self.oracle.statuses), [self.handles[id] for id in self.people]
        text = f"@{people[n % len(people)]} {n} by {people[author % len(people)]} to {audience}"
        key = f"k{len(self.keys)}" if keyed else None
        if key:
            self.keys.append((self.person(author), text, audience, key))
        posting = self.system.processes[who].statuses.post(self.person(author), text, audience, key)
        began = self.clock.now() - timedelta(seconds=slow_s)
        with patch.object(self.clock, "new_id", lambda: id_at(began)):
            ended = self.act(who, posting, cut, lag_s)
        if isinstance(ended, tuple):
            row, created = ended
            assert created
            self.posted(row, audience)
        elif stored := self.run(self._stored("statuses", {"user_id": self.person(author), "text": text})):
            self.oracle.statuses[stored["_id"]] = Told(stored["user_id"], text, audience)
            self.tally["posts that were cut off"] += 1
            if slow_s > LATE_S:
                self.pass_time(REREAD_S)  # nobody was told of it

    @precondition(lambda self: self.people and len(self.oracle.statuses) < LARGE)
    @rule(author=some, n=st.integers(3, 7))
    def post_many(self, author: int, n: int) -> None:
        """More than the cap, and what waits is delivered."""
        self.step("post many")
        for _ in range(n):
            self.clock.advance(1)
            row, _ = self.run(
                self.system.processes[0].statuses.post(self.person(author), f"{len(self.oracle.statuses)} of many")
            )
            self.posted(row, "followers")

    def posted(self, row: StatusRow, audience: Audience) -> None:
        self.oracle.statuses[row.id] = Told(row.user_id, row.text, audience)
        self.tally["posts"] += 1
        stored = self.run(self._stored("statuses", {"_id": row.id}))
        self.tally["posts that are pulled"] += bool(stored and stored.get("pulled"))

    @precondition(lambda self: self.oracle.statuses)
    @rule(who=process, which=some, newest=st.booleans(), cut=early)
    def delete(self, who: int, which: int, newest: bool, cut: Cut) -> None:
        self.step("delete")
        ids = sorted(self.oracle.statuses, reverse=newest)
        id = ids[which % len(ids)]
        status = self.oracle.statuses[id]
        if status.author in self.oracle.departed:
            return
        try:
            ended = self.act(who, self.system.processes[who].statuses.delete(status.author, id), cut)
        except NotFound:
            assert status.deleted
            return
        if ended is None:
            assert not status.deleted
            self.oracle.delete(id)
        else:
            row = self.run(self._stored("statuses", {"_id": id}))
            assert row
            if row["deleted"]:
                self.oracle.delete(id)

    @precondition(lambda self: self.keys)
    @rule(who=process, which=some, another=st.booleans())
    def replay(self, who: int, which: int, another: bool) -> None:
        """The same request once more; or the key of a request with another text."""
        self.step("replay")
        which %= len(self.keys)
        author, text, audience, key = self.keys[which]
        told = [s for s in self.oracle.statuses.values() if (s.author, s.text) == (author, text)]
        assert len(told) <= 1
        if another:
            text += ", changed"
        try:
            ended = self.act(who, self.system.processes[who].statuses.post(author, text, audience, key))
        except Conflict:
            assert told
            assert another or told[0].deleted
            return
        assert isinstance(ended, tuple)
        row, created = ended
        assert row.text == text
        assert created == (not told)
        assert not (told and another)
        self.oracle.statuses[row.id] = Told(author, text, audience)
        self.keys[which] = (author, text, audience, key)

    @precondition(lambda self: self.oracle.statuses)
    @rule(who=process, reader=some, which=some, newest=st.booleans(), likes=st.booleans(), cut=anywhere)
    def like(self, who: int, reader: int, which: int, newest: bool, likes: bool, cut: Cut) -> None:
        """Or take it back."""
        self.step("like" if likes else "unlike")
        ids = sorted(self.oracle.statuses, reverse=newest)
        pair = self.person(reader), ids[which % len(ids)]
        statuses = self.system.processes[who].statuses
        may = self.oracle.visible(pair[1], pair[0])
        try:
            ended = self.act(who, (statuses.like if likes else statuses.unlike)(*pair), cut)
        except NotFound:
            assert not may
            assert likes or pair not in self.oracle.likes
            return
        if ended is not None:
            likes = self.run(self._stored("likes", {"_id": like_key(*pair)})) is not None
        else:
            assert may or (not likes and (pair in self.oracle.likes or self.oracle.statuses[pair[1]].deleted))
        (self.oracle.likes.add if likes else self.oracle.likes.discard)(pair)

    # Reading, for good: what is missing is rebuilt, what is old renewed

    @rule(who=process, reader=some, slug=slugs, before=st.none() | some, limit=limits, cut=anywhere, lag_s=lags_s)
    def read(self, who: int, reader: int, slug: str, before: int | None, limit: int, cut: Cut, lag_s: float) -> None:
        self.step("read")
        cursor = self.cursor(before)
        reading = self.system.processes[who].timelines.page(self.person(reader), phase=slug, before=cursor, limit=limit)
        page = self.act(who, reading, cut, lag_s)
        if not isinstance(page, BaseException):
            self.same(self.person(reader), slug, cursor, limit, page)

    @rule(some=st.sampled_from([SLUGS, (PUSH.slug,), (CACHE.slug,), (STREAM.slug,), (PUSH.slug, CACHE.slug)]))
    def everybody_reads(self, some: tuple[str, ...]) -> None:
        """All at once, by both processes."""
        self.step("everybody reads")
        self.run(self._read_at_once(some))

    @rule(
        which=some,
        turns=st.integers(0, 3) | st.integers(4, 30),  # with stand-ins nothing takes many
        after_s=st.sampled_from([0.0, 1.0, KNOWN_S + 1]),
    )
    def one_of_all_who_read_goes_away(self, which: int, turns: int, after_s: float) -> None:
        """Also while what processes remember is looked up anew, for all who are there."""
        self.step("one of all who read goes away")
        self.pass_time(after_s)
        self.run(self._read_at_once(SLUGS, (which, turns)))

    async def _read_at_once(self, slugs: tuple[str, ...], gone: tuple[int, int] | None = None) -> None:
        """`gone`: which of them gives up, and after how many turns. All others get their page."""
        reads = [
            asyncio.create_task(self._page(process.timelines, reader, slug, None, 5))
            for process in self.system.processes
            for reader in self.people
            for slug in slugs
        ]
        given_up = None
        if gone:
            given_up = reads[gone[0] % len(reads)]
            for _ in range(gone[1]):
                await asyncio.sleep(0)
            given_up.cancel()
        for read, end in zip(reads, await asyncio.gather(*reads, return_exceptions=True), strict=True):
            if isinstance(end, asyncio.CancelledError):
                assert read is given_up, "somebody else has taken them along"
            elif isinstance(end, BaseException):
                raise end

    @rule(who=process, reader=some, slug=slugs, limit=limits, cut=anywhere, lag_s=lags_s)
    def refresh(self, who: int, reader: int, slug: str, limit: int, cut: Cut, lag_s: float) -> None:
        self.step("refresh")
        refreshing = self.system.processes[who].timelines.refresh(self.person(reader), phase=slug, limit=limit)
        page = self.act(who, refreshing, cut, lag_s)
        if not isinstance(page, BaseException):
            self.same(self.person(reader), slug, None, limit, page)

    def cursor(self, before: int | None) -> ObjectId | None:
        """The id of any status, seen by the reader or not."""
        ids = sorted(self.oracle.statuses)
        return None if before is None or not ids else ids[before % len(ids)]

    # Time

    @rule(s=st.sampled_from([0.4, 1, 3, 5, 20, 40]), asleep=st.booleans())
    def time_passes(self, s: float, asleep: bool) -> None:
        self.step("time passes")
        self.pass_time(s, asleep=asleep)

    @precondition(lambda self: self.seldom("everybody goes away"))
    @rule(asleep=st.booleans())
    def everybody_goes_away(self, asleep: bool) -> None:
        """For longer than any list lives and any edge is active."""
        self.step("everybody goes away")
        self.pass_time(60 + 30 + 5, asleep=asleep)

    def pass_time(self, s: float, *, asleep: bool = False) -> None:
        """`asleep`: Memcached's clock stands still meanwhile. A real one's does in any case."""
        (self.clock.sleep if asleep else self.clock.advance)(s)

    # Servers

    @rule(reader=some)
    def evict(self, reader: int) -> None:
        self.step("evict")
        self.run(self.system.evict(self.person(reader)))

    @precondition(lambda self: self.seldom("flush memcached"))
    @rule()
    def flush_memcached(self) -> None:
        self.step("flush memcached")
        self.run(flush(self.system.raw.memcached))

    @precondition(lambda self: self.people and (self.system.memcached.down or self.seldom("memcached down")))
    @rule(down=st.booleans(), empty=st.booleans())
    def memcached_goes_or_comes(self, down: bool, empty: bool) -> None:
        """Back after a restart, or after having been unreachable only."""
        if self.system.memcached.down != down:
            self.step("memcached down" if down else "memcached back")
            self.system.memcached.down = down
            if empty and not down:
                self.run(flush(self.system.raw.memcached))

    @rule(down=st.booleans())
    def redis_goes_or_comes(self, down: bool) -> None:
        if self.system.redis_down != down:
            self.step("redis down" if down else "redis back")
            self.system.redis_down = down

    @precondition(lambda self: self.jobs_wait())
    @rule()
    def flush_redis(self) -> None:
        self.step("flush redis")
        jobs.forget(self.system.raw.queue.queues)  # also while the processes are cut off from it
        self.run(flush_sets(self.system.raw))

    # Workers

    @precondition(lambda self: self.oracle.statuses)
    @rule(who=process, first=some, n=st.integers(1, 4), again=st.booleans(), dies=dies_after, lag_s=lags_s)
    def the_stream_tells(self, who: int, first: int, n: int, again: bool, dies: int | None, lag_s: float) -> None:
        """Some of what is pending, in any order, or `again` what was told before, also to who follows no more."""
        self.step("the stream tells")
        rows = self.told if again else self.run(self.system.insertions(STREAM.slug))
        if rows := (rows[first % len(rows) :] + rows)[:n] if rows else []:
            self.act(who, self.system.tell(self.system.processes[who], STREAM.slug, rows), dies, lag_s)
            self.told += [row for row in rows if not again]

    @precondition(lambda self: self.jobs_wait())
    @rule(
        who=process,
        which=some,
        dies=dies_after,
        lag_s=lags_s,
        found_again=st.booleans(),
    )
    def run_a_job(self, who: int, which: int, dies: int | None, lag_s: float, found_again: bool) -> None:
        """Any of those waiting. `found_again`: the job stays in the queue, although it was done or begun."""
        self.step("run a job")
        waiting = self.system.waiting()
        taken = waiting[which % len(waiting)]
        job = self.system.read(taken)
        self.old_jobs.append(job)
        self.system.take(taken)
        ended = self.act(who, self.system.run(self.system.processes[who], job), dies, lag_s)
        if ended is True and not found_again:
            taken.delete()
        elif found_again or ended is False:
            self.run(self._queue_again(taken))

    async def _queue_again(self, job: Any) -> None:
        self.system.raw.queue.queues["deliver-first"].push_job_id(job.id)
        job.save()

    @precondition(lambda self: self.jobs_wait())
    @rule(which=some)
    def lose_a_job(self, which: int) -> None:
        self.step("lose a job")
        waiting = self.system.waiting()
        self.system.take(waiting[which % len(waiting)])

    @precondition(lambda self: self.old_jobs)
    @rule(who=process, which=some)
    def run_an_old_job(self, who: int, which: int) -> None:
        self.step("run an old job")
        self.act(who, self.system.run(self.system.processes[who], self.old_jobs[which % len(self.old_jobs)]))

    @precondition(lambda self: self.jobs_wait())
    @rule(who=process, most=st.integers(1, 30))
    def run_jobs(self, who: int, most: int) -> None:
        self.step("run jobs")
        for _ in range(most):
            if not (waiting := self.system.waiting()):
                break
            job = self.system.read(waiting[0])
            self.system.take(waiting[0])
            if self.act(who, self.system.run(self.system.processes[who], job)) is not True:
                break
            waiting[0].delete()

    @precondition(lambda self: self.jobs_wait() and not self.system.memcached.down and not self.system.redis_down)
    @rule(who=process)
    def drain(self, who: int) -> None:
        """As a worker does it."""
        self.step("drain")
        self.run(drain_queues(self.system.processes[who].timelines))

    @rule(who=process, overdue=st.booleans(), dies=dies_after, lag_s=lags_s)
    def sweep(self, who: int, overdue: bool, dies: int | None, lag_s: float) -> None:
        self.step("sweep")
        if overdue:
            self.pass_time(OVERDUE_S + 2)
        self.act(who, self._swept(who), dies, lag_s)

    async def _swept(self, who: int) -> None:
        """What a worker does every few seconds."""
        await sweep(self.system.processes[who].timelines)
        await clear_departures(self.system.stack.db, self.clock, self.system.stack.bus)

    @rule(who=process, passes=st.booleans(), dies=dies_after)
    def trim(self, who: int, passes: bool, dies: int | None) -> None:
        self.step("trim")
        if passes:
            self.pass_time(61)
        self.act(who, self.system.processes[who].timelines.sweep(), dies)

    # Phases

    @rule(
        who=process,
        read=st.none() | slugs,
        delivering=st.none() | delivering,
        grace=st.booleans(),
        cut=anywhere,
        lag_s=lags_s,
    )
    def switch(
        self, who: int, read: str | None, delivering: list[str] | None, grace: bool, cut: Cut, lag_s: float
    ) -> None:
        self.step("switch")
        self.act(who, self.system.processes[who].timelines.change(read=read, delivering=delivering), cut, lag_s)
        if grace:
            self.pass_time(self.system.raw.config.grace_s + 2)

    @rule(who=process, author=some, pulled=st.sampled_from([None, True, True, False]), cut=early)
    def force(self, who: int, author: int, pulled: bool | None, cut: Cut) -> None:
        """Whatever the rule says, or as it says again: the other process hears of it a little later."""
        self.step("force")
        self.act(who, self.system.processes[who].timelines.force(self.person(author), pulled), cut)

    @rule(hardly=st.booleans())
    def how_often_people_read(self, hardly: bool) -> None:
        """So seldom, by what was counted, that everybody is pulled; or often. Each process hears of it by and by."""
        self.step("hardly anybody reads" if hardly else "people read")
        hour = f"{self.clock.now():%Y%m%d%H}"
        counts = {authors.PAGES: {hour: 1 if hardly else 10**6}, authors.POSTS: {hour: 10**4}}

        async def counted() -> None:
            settings = self.system.raw.db[SETTINGS]
            change = {"$set": counts | {"since": self.clock.now()}}
            await settings.update_one({"_id": authors.READS}, change, upsert=True)

        self.run(counted())

    @precondition(lambda self: self.seldom("restart stores"))
    @rule(who=process, grace=st.booleans())
    def restart_stores(self, who: int, grace: bool) -> None:
        self.step("restart stores")
        self.run(self.system.processes[who].timelines.restart())
        if grace:
            self.pass_time(self.system.raw.config.grace_s + 2)

    @precondition(lambda self: self.seldom("post by one who has not heard"))
    @rule(who=process, author=some, before=delivering, after=delivering, late_s=st.sampled_from([0.0, 0.3, 0.5]))
    def post_by_one_who_has_not_heard(
        self, who: int, author: int, before: list[str], after: list[str], late_s: float
    ) -> None:
        """The other process still acts on the settings from before the switch, as it may; everybody else reads."""
        self.step("post by one who has not heard")
        knows, other = self.system.processes[who], self.system.processes[1 - who]
        self.run(knows.timelines.change(delivering=[slug for slug in before if slug not in after]))
        self.pass_time(self.system.raw.config.grace_s + 2)
        self.run(other.timelines.switch.current())
        self.run(knows.timelines.change(delivering=after))
        self.run(self._read_at_once(SLUGS))
        self.clock.advance(late_s)
        text = f"{len(self.oracle.statuses)} by one who has not heard"
        row, _ = self.run(other.statuses.post(self.person(author), text))
        self.oracle.statuses[row.id] = Told(row.user_id, text, "followers")
        self.tally["posts"] += 1

    @precondition(lambda self: self.seldom("post that one reads who has not heard"))
    @rule(who=process, author=some, after=delivering, late_s=st.sampled_from([0.0, 0.3, 0.5]))
    def post_that_one_reads_who_has_not_heard(self, who: int, author: int, after: list[str], late_s: float) -> None:
        """The other process still reads what has just been switched off."""
        self.step("post that one reads who has not heard")
        knows, other = self.system.processes[who], self.system.processes[1 - who]
        self.run(knows.timelines.change(delivering=KEEPING))
        self.pass_time(self.system.raw.config.grace_s + 2)
        self.run(self._read_at_once(SLUGS))
        self.run(knows.timelines.change(delivering=after if len(after) < len(KEEPING) else []))
        self.clock.advance(late_s)
        text = f"{len(self.oracle.statuses)} after what one has not heard"
        row, _ = self.run(knows.statuses.post(self.person(author), text))
        self.oracle.statuses[row.id] = Told(row.user_id, text, "followers")
        self.tally["posts"] += 1
        for reader in self.people:
            for slug in SLUGS:
                self.run(self._page(other.timelines, reader, slug, None, 5))

    @precondition(lambda self: self.seldom("post that hangs"))
    @rule(who=process, author=some, delivering=delivering, reads=slugs)
    def post_that_hangs(self, who: int, author: int, delivering: list[str], reads: str) -> None:
        """While its insert hangs, the phases are switched, the grace passes, and everybody reads."""
        self.step("post that hangs")

        async def hangs(db: Database, name: str, fields: dict[str, Any]) -> None:
            await self.system.processes[1 - who].timelines.change(delivering=delivering)
            self.clock.advance(self.system.raw.config.grace_s + 2)
            for reader in self.people:
                await self.system.processes[1 - who].timelines.page(reader, phase=reads)
            await insert_with_new_id(db, name, fields)

        text = f"{len(self.oracle.statuses)} hung"
        with patch("app.social.statuses.insert_with_new_id", hangs):
            row, _ = self.run(self.system.processes[who].statuses.post(self.person(author), text))
        self.oracle.statuses[row.id] = Told(row.user_id, text, "followers")
        self.tally["posts"] += 1

    # After every step

    @invariant()
    def every_page_is_right(self) -> None:
        """Before the regulars have read, and after."""
        if self.people:
            self.compare(walk=self.steps % WALK_EVERY == 0)
            self.run(self._regulars_read())

    async def _regulars_read(self) -> None:
        timelines = self.system.processes[self.steps % 2].timelines
        for n, reader in enumerate(self.people):
            if self.regulars >> n & 1:
                for slug in SLUGS:
                    page = await timelines.page(reader, phase=slug, limit=3)
                    self.same(reader, slug, None, 3, page)
                    if page.cold and self.system.raw.config.comeback == "manual":
                        page = await timelines.refresh(reader, phase=slug, limit=3)
                        self.same(reader, slug, None, 3, page)

    def compare(self, walk: bool) -> None:
        """Nothing is changed by it: what is cold, owed or old stays so."""
        with self.system.undisturbed():
            self.run(self._likes_that_are_left())
            self.run(self._compare(Random(self.steps), walk))

    async def _compare(self, random: Random, walk: bool) -> None:
        for reader in self.people:
            for slug in SLUGS:
                process = random.choice(self.system.processes)
                timelines = process.timelines
                page = await self._page(timelines, reader, slug, None, random.randint(1, 8))
                people = await process.people.by_ids({row.user_id for row in page.statuses}, page.names)
                assert {id: person.name for id, person in people.items()} == {id: self.names[id] for id in people}
                if self.oracle.statuses:
                    cursor = self.cursor(random.randrange(len(self.oracle.statuses)))
                    await self._page(timelines, reader, slug, cursor, random.randint(1, 8))
                if walk:
                    await self._walk(timelines, reader, slug, random.randint(1, 4))

    async def _page(
        self, timelines: Timelines, reader: ObjectId, slug: str, before: ObjectId | None, limit: int
    ) -> Page:
        page = await timelines.page(reader, phase=slug, before=before, limit=limit)
        self.same(reader, slug, before, limit, page)
        return page

    async def _walk(self, timelines: Timelines, reader: ObjectId, slug: str, limit: int) -> None:
        seen: list[StatusRow] = []
        before: ObjectId | None = None
        while True:
            page = await timelines.page(reader, phase=slug, before=before, limit=limit)
            seen += page.statuses
            if page.next is None:
                break
            before = page.next
        self.tally["walks compared"] += 1
        assert [row.id for row in seen] == self.oracle.timeline(reader), f"walk of {reader} in {slug}"

    def same(self, reader: ObjectId, slug: str, before: ObjectId | None, limit: int, page: Any) -> None:
        self.tally["pages compared"] += 1
        self.tally[f"pages from {page.source}"] += 1
        ids, more = self.oracle.page(reader, before, limit)
        found = [row.id for row in page.statuses]
        if found == ids and (page.next is not None) == more and page.next in (None, ids[-1:] and ids[-1]):
            assert [row.text for row in page.statuses] == [self.oracle.statuses[id].text for id in ids]
            likes = [(row.likes, row.you_like) for row in page.statuses]
            assert likes == [self.oracle.liked(id, reader) for id in ids], f"likes for {reader} in {slug}"
            return
        self.failed = True
        name = self.handles[reader]
        told = [self.oracle.statuses[id].text for id in ids]
        raise AssertionError(
            f"@{name} in {slug}, before {before}, limit {limit}: expected {told}{' and more' if more else ''}, "
            f"got {[row.text for row in page.statuses]}{' and more' if page.next else ''} from {page.source}"
        )
