"""The hub of a process: it hears hints, and its connections are told what has changed for them.

A new status is looked up once, and judged for each of its readers by edges that are looked up together (`news`).
What has been said in conversations is looked up for many people at once (`talk`).
Whatever else changes is read anew for each person whom it may concern, and compared with what they have (`truth`).
Hints may be lost: what they would have said is found by looking every half minute (`poll`). Every event carries the
position after it, so that whoever loses the connection comes back and gets the rest (`behind`).
"""

import asyncio
import logging
import random
from collections.abc import Awaitable, Callable, Collection, Sequence
from contextlib import suppress
from functools import partial

from bson import ObjectId

from app.accounts import Accounts
from app.errors import TooMany
from app.inbox.notifications import Notifications
from app.live.behind import Behind
from app.live.connection import EACH, OVER, STILL_HERE, STOPPED, Connection
from app.live.news import News
from app.live.poll import Poll
from app.live.position import Has, Shown
from app.live.presence import Presences
from app.live.slow import Slow
from app.live.steps import Faces, Step, counted
from app.live.talk import Talk
from app.live.truth import PersonState, Truth
from app.live.watchers import EVERYTHING, NONE, Part, Watcher, Watchers
from app.same import IDS
from app.social.people import People
from app.stack import Hint, OutOfTime, Stack, is_away, outages_told, within
from app.stack.bus import Listener
from app.watch.background import errors_counted
from phases.timelines import Timelines

log = logging.getLogger(__name__)

POLL_S = 30.0  # at most, between polls; jittered down to two thirds
TURN_S = 3.0  # tokens that have ended are looked for, and who has been told nothing hears that the stream lives
RETRY_S = 1.0
PAGE_S, PAGES_AT_ONCE = 1.0, 5  # somebody's page is read anew so often, and a few times more at once
READS_AT_ONCE = 3  # people who are read at once; more would make news wait
MOST_HEARD = 20_000  # hints that wait; where there are more, the poll looks instead
RETRY_AFTER_S = 5

Posted = dict[ObjectId, ObjectId]  # status -> its author
Liked = dict[ObjectId, set[ObjectId]]  # status -> who has liked it, or no longer
Talked = dict[ObjectId, set[ObjectId]]  # person -> conversations


class Hub:
    """The live streams of this process. There is one instance per process.

    `messages_unread`: counts a person's conversations with unread messages. `sent`: is told the name of each event and
    how many connections it goes to. `talk`: None where nobody is told of conversations.
    """

    def __init__(
        self,
        stack: Stack,
        timelines: Timelines,
        people: People,
        accounts: Accounts,
        notifications: Notifications,
        presences: Presences,
        faces: Faces,
        messages_unread: Callable[[ObjectId], Awaitable[int]],
        sent: Callable[[str, int], None] = lambda _name, _times: None,
        talk: Talk | None = None,
    ) -> None:
        self._stack, self._accounts = stack, accounts
        self.watchers = here = Watchers(stack.secret, sent, self._refresh_if_dirty)
        self._truth = Truth(stack.db, timelines, people, notifications, presences, messages_unread, faces, talk, here)
        self._news = News(stack.db, people, faces, here)
        self._talk = talk
        self._behind = Behind(here, self._truth, timelines)
        self._poll = Poll(stack, notifications, presences, here, self._hear)
        self._heard: list[Hint] = []
        self._wake, self._gap = asyncio.Event(), asyncio.Event()  # something has been heard; may have been missed
        self._reads = asyncio.Semaphore(READS_AT_ONCE)
        self._failures = 0  # readings that have waited for a server in vain
        self._forgiven = 0  # those of them before the last reading that was answered
        self._slow = Slow(stack.clock.monotonic)
        self._stopped = False
        self.listener = Listener(self._hear, self._gap.set)

    @property
    def connections(self) -> int:
        return self.watchers.connections

    # From outside

    async def open(self, me: ObjectId, token: bytes, after: str | None = None) -> Connection:
        """Open a stream: `ready`, then what lies behind the position `after`, then what happens.

        This waits behind others who are read, for as long as that takes. Raises TooMany, and OutOfTime where a server
        does not answer, or did not in time for this person before, and they have a pause.
        """
        watcher = self.watchers.of(me) or Watcher(me)
        if len(watcher.connections) + watcher.opening >= EACH:
            raise TooMany(f"You have {EACH} live streams open already.", RETRY_AFTER_S)
        if self._stopped or self.connections >= self._stack.config.live_connections:
            raise TooMany("Too many live streams are open here.", RETRY_AFTER_S)
        if self._slow.left_s(me):
            raise OutOfTime("what this person has takes too long to read")
        connection = Connection(me, token)
        self.watchers.begin_opening(watcher)  # what is heard while they are read is not lost: it makes them dirty
        try:
            await self._in_turn(watcher, lambda: self._begin(watcher, connection, after))
        finally:
            self.watchers.end_opening(watcher)
            self._refresh_if_dirty(watcher)
        return connection

    async def _begin(self, watcher: Watcher, connection: Connection, after: str | None) -> None:
        read = await self._update(watcher, EVERYTHING)
        connection.begin(*await self._behind.beginning(watcher, read, after))
        self.watchers.add(watcher, connection)
        if self._stopped:  # while it waited
            connection.close(STOPPED)

    def close(self, connection: Connection) -> None:
        """Forget a connection whose client has gone, or has been told that it is over."""
        self.watchers.remove(connection)

    def stop(self) -> None:
        """End all streams, because the process ends."""
        self._stopped = True
        for watcher in self.watchers:
            for connection in watcher.connections:
                connection.close(STOPPED)

    async def run(self) -> None:
        """Hear hints and tell connections what they mean, until cancelled."""
        self._stack.bus.listen(self.listener)
        works = [
            asyncio.create_task(self._keep(self._wake, None, self._tell_heard)),
            asyncio.create_task(self._keep(self._gap, POLL_S, self._look)),
            asyncio.create_task(self._keep(asyncio.Event(), TURN_S, self.say_still_here)),
            asyncio.create_task(self._keep(asyncio.Event(), TURN_S, self.end_without_token)),
        ]
        try:
            await asyncio.gather(*works)
        finally:
            self._stack.bus.leave(self.listener)
            for work in works:
                work.cancel()
            await asyncio.gather(*works, return_exceptions=True)

    async def _keep(self, event: asyncio.Event, every_s: float | None, work: Callable[[], Awaitable[None]]) -> None:
        """Do `work` whenever the event is set, and at least every `every_s` seconds, until cancelled.

        The time is jittered down to two thirds. None: whenever the event is set.
        """
        while True:
            with suppress(TimeoutError):
                await asyncio.wait_for(event.wait(), every_s and every_s * random.uniform(2 / 3, 1))
            event.clear()
            with (
                errors_counted("live", "live streams have missed something"),
                outages_told(log.info, "live streams wait for a server"),
            ):
                await work()
                continue
            await asyncio.sleep(RETRY_S)
            self._gap.set()

    # Hear

    def _hear(self, hint: Hint) -> None:
        if len(self._heard) >= MOST_HEARD:
            self._gap.set()
            self._poll.forget()  # it may be what a look has found
            return
        self._heard.append(hint)
        self._wake.set()
        if hint.kind == "posted" and hint.what:
            self._poll.note_heard(hint.what)

    async def settle(self) -> None:
        """Do what has been heard, and look for what may have been missed: as `run` does, one after the other."""
        while self._heard or self._gap.is_set():
            await self._tell_heard()
            if self._gap.is_set():
                self._gap.clear()
                await self._poll.look()

    async def _look(self) -> None:
        anybody = bool(list(self.watchers))
        await self._poll.look()
        if anybody:  # else nothing was asked
            self._slow.note_answer()

    async def settled(self) -> None:
        """Settle until nothing has been heard and nobody is read anew."""
        await self.settle()
        while readings := [each.reading for each in self.watchers if each.reading and not each.reading.done()]:
            await asyncio.wait(readings)
            await self.settle()

    async def _tell_heard(self) -> None:
        try:
            while self._heard:
                hints, self._heard = self._heard, []
                await self._handle(hints)
        except BaseException as error:
            if not is_away(error):
                self._poll.note_told()  # it may fail for ever: after two minutes no look finds it any more
            self._poll.forget()  # some of it has not been told
            raise
        self._poll.note_told()

    async def _handle(self, hints: Sequence[Hint]) -> None:
        try:
            if signed_out := {hint.about for hint in hints if hint.kind == "tokens"}:
                await self.end_without_token(signed_out)  # first: they are told nothing more
        finally:
            posted, liked, talked = self._mark(hints)  # asks no server: no outage keeps anybody from being read anew
        if any(hint.kind == "named" for hint in hints):
            await self._news.tell_names()
        await self._news.tell(posted, liked)
        if self._talk:
            await self._talk.tell(self.watchers, talked)

    def _mark(self, hints: Sequence[Hint]) -> tuple[Posted, Liked, Talked]:
        """Have those read anew whom the hints concern. Return what is told of one by one."""
        posted: Posted = {}
        liked: Liked = {}
        talked: Talked = {}
        for hint in hints:
            match hint:
                case Hint("posted", author, what) if what:
                    posted[what] = author
                case Hint("deleted", _, what) if what:
                    self._news.mark_deleted(what)
                case Hint("liked", who, what) if what:
                    liked.setdefault(what, set()).add(who)
                case Hint("edges", who, _, other):
                    self.watchers.mark_dirty(who, EVERYTHING)
                    if other:
                        self.watchers.mark_dirty(other, {"page", "inbox"})
                        self.watchers.see_anew(self.watchers.of(who), {other})
                        self.watchers.see_anew(self.watchers.of(other), {who})
                case Hint("talked", one, what, other) if what:
                    for whom in filter(None, (one, other)):
                        talked.setdefault(whom, set()).add(what)
                case Hint("concerns", whom):
                    self.watchers.mark_dirty(whom, {"inbox"})
        came_or_gone = {hint.about for hint in hints if hint.kind == "presence"}
        for watcher in self.watchers if came_or_gone else ():
            self.watchers.see_anew(watcher, came_or_gone)
        return posted, liked, talked

    # What is read anew

    def _refresh_if_dirty(self, watcher: Watcher) -> None:
        if watcher.dirty and watcher.connections and (watcher.reading is None or watcher.reading.done()):
            watcher.reading = asyncio.create_task(self._refresh(watcher))

    async def _refresh(self, watcher: Watcher) -> None:
        while watcher.dirty and watcher.connections:
            if (early_s := _early_s(watcher)) > 0:
                await asyncio.sleep(early_s)
                continue
            with (
                errors_counted("live", "a live stream has missed something"),
                outages_told(log.info, "a live stream waits for a server"),
            ):
                await self._in_turn(watcher, lambda: self._update_what_is_dirty(watcher))
                continue
            await asyncio.sleep(max(RETRY_S, self._slow.left_s(watcher.me)))
        watcher.reading = None  # it would keep what has been done here

    async def _in_turn(self, watcher: Watcher, read: Callable[[], Awaitable[None]]) -> None:
        """Read somebody's state in one of READS_AT_ONCE places, and while nothing else changes what they have.

        Whoever waits for a place waits as long as others are read. Whoever waits for a server in vain waits for
        themselves alone. Once as many have as there are places, and nobody was read meanwhile, nobody behind them tries
        it too; whoever waits in vain again and again, while others are read, does not count. Raises OutOfTime.
        """
        own, failures = watcher.failures, self._failures
        # Who waits for themselves takes no place from others; and who waits for a place is told of news meanwhile.
        async with watcher.line, self._reads, watcher.turn:
            if self._failures - max(failures, self._forgiven) >= READS_AT_ONCE or watcher.failures > own:
                raise OutOfTime("a server has been waited for in vain")
            try:
                await within(self._stack.config.server_timeout_s, read())
            except Exception as error:
                if is_away(error):
                    self._failures += not self._slow.note_in_vain(watcher.me)
                    watcher.failures += 1
                raise
            self._forgiven = self._failures
            self._slow.note_read(watcher.me)

    async def _update_what_is_dirty(self, watcher: Watcher) -> None:
        parts, watcher.dirty = watcher.dirty, NONE
        if "page" in parts:
            watcher.pages_until_s = max(watcher.pages_until_s, asyncio.get_running_loop().time()) + PAGE_S
        await self._update(watcher, parts)

    async def _update(self, watcher: Watcher, parts: Collection[Part]) -> PersonState:
        """Read a person's state, or these parts of it, in their turn, and tell what has changed."""
        try:
            read = await self._truth.read(watcher, parts)
            steps = await self._truth.steps(watcher, watcher.has, read, watcher.seen) if watcher.connections else []
        except BaseException:
            watcher.dirty = watcher.dirty.union(parts)  # some of it counts as looked at, and nobody was told of it
            raise
        if steps is None:  # they fetch everything: a position from now on says that they have it
            steps = [Step("reset", "{}", partial(_have, read))]
        told = any(step.event.startswith("notification") for step in steps)  # each says how many are unread
        if read.counts != (watcher.counts._replace(unread=read.counts.unread) if told else watcher.counts):
            steps.append(counted(read.counts))
        had = watcher.has.notes, watcher.counts.unread
        self.watchers.tell(watcher, steps)
        watcher.counts = read.counts
        _have(read, watcher.has)
        watcher.told += (watcher.has.notes, watcher.counts.unread) != had
        if read.notes is not None:
            watcher.tellers = frozenset(IDS.of(one.who) for one in read.told) or NONE
            watcher.about = frozenset(one.status.id for one in read.told if one.status) or NONE
            watcher.down_to = read.down_to
        if read.seen is not None:
            watcher.seen = dict(read.seen)
        for step in steps:
            if step.shows:
                watcher.seen.pop(step.shows, None)  # it was looked up at another moment
        watcher.reads += 1
        if watcher.acquainted - watcher.seen.keys():
            self.watchers.mark_dirty(watcher.me, {"presence"})
        return read

    # What does not depend on news

    async def say_still_here(self) -> None:
        """Give every quiet connection a sign of life, every few seconds and whichever server is away."""
        for watcher in self.watchers:
            for connection in watcher.connections:
                if connection.is_quiet:
                    connection.put(STILL_HERE)
                connection.is_quiet = True

    async def end_without_token(self, people: Collection[ObjectId] | None = None) -> None:
        """End the streams whose tokens have ended: those of these people, or of all (every few seconds)."""
        theirs = self.watchers if people is None else filter(None, map(self.watchers.of, people))
        here = [connection for watcher in theirs for connection in watcher.connections]
        if not here:
            return
        ended = await self._accounts.ended({connection.token for connection in here})
        for connection in here:
            if connection.token in ended:
                connection.close(OVER)


def _early_s(watcher: Watcher) -> float:
    """Return how long it is too early to read somebody anew: anybody may change their edges, as often as they write."""
    if "page" not in watcher.dirty:
        return 0.0
    return watcher.pages_until_s - asyncio.get_running_loop().time() - (PAGES_AT_ONCE - 1) * PAGE_S


def _have(read: PersonState, has: Has) -> None:
    """Note that somebody has been told of all that was read."""
    if read.page is not None:
        has.names = read.names
        has.page = {row.id: Shown.of(row) for row in read.page}
    if read.notes is not None:
        has.seq = read.seq
        has.notes = [one.seq for one in read.notes]
