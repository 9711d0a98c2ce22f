"""A live run: readers with open streams, people who post and change what they see, and what comes of it."""

import asyncio
import itertools
import json
from collections.abc import Coroutine, Iterator, Sequence
from dataclasses import dataclass, field
from random import Random
from typing import Any
from urllib.parse import urlsplit
from uuid import UUID

from benchmarks.faults.client import persist
from benchmarks.live.outcome import Outcome, Step
from benchmarks.live.reader import Reader, Stream
from benchmarks.live.state import Json, State
from benchmarks.live.system import People
from benchmarks.live.truth import Change, Post, Truth
from benchmarks.measure import open_loop
from benchmarks.oracle import Relation
from benchmarks.subject import Failed, Http
from benchmarks.wire import PREFIX

AUDIENCES = ("followers",) * 8 + ("mutuals", "circle")
NAMED = 0.1  # share of the posts that mention a reader
RESTLESS = 0.1  # share of the readers who follow, unfollow, block
EACH_RESTLESS = 3  # of whom they follow
CHANGES = 0.1  # of everything but posts, for each post
RECENT = 50  # posts that are liked and deleted
OPENING = 40  # at the same time
FETCHES = 8
PUSHED_OFF_S, PAGE = 40.0, 20  # so many newer statuses within that time, and one may never have been on a page
COMPARE_S, AGAIN_S = 35.0, 0.5  # where hints were lost
GRACE_S = 10.0  # on top, for the comparing itself


@dataclass
class Run:
    url: str
    people: People
    outcome: Outcome
    random: Random
    step: Step | None = None
    readers: list[Reader] = field(default_factory=list)
    _acts: list[float] = field(default_factory=list)  # moments
    _recent: list[Post] = field(default_factory=list)
    _busy: set[tuple[int, int]] = field(default_factory=set)
    _texts: Iterator[int] = field(default_factory=itertools.count)
    _tasks: "set[asyncio.Task[None]]" = field(default_factory=set)

    def __post_init__(self) -> None:
        split = urlsplit(self.url)
        self.address = (str(split.hostname), int(split.port or 80))
        self.host = split.netloc
        self.truth = Truth(self.people.follows, self.people.circles)
        self._http = Http(*self.address)
        self._fetches = asyncio.Semaphore(FETCHES)
        self._began_s = asyncio.get_running_loop().time()

    # Streams

    async def open(self, count: int, kinds: Sequence[Stream]) -> None:
        """Open streams until there are so many readers in all, and each is `ready`."""
        numbers, kind = itertools.cycle(self.people.readers), itertools.cycle(kinds)
        these = itertools.islice(zip(numbers, kind, strict=False), len(self.readers), count)
        opening = asyncio.Semaphore(OPENING)

        async def begin(reader: Reader) -> None:
            async with opening:
                self.spawn(reader.live())
                await reader.ready.wait()

        async with asyncio.TaskGroup() as tasks:
            for number, wire in these:
                one = Reader(self, number, self.people.tokens[number], wire, Random(self.random.random()))
                self.readers.append(one)
                tasks.create_task(begin(one))

    async def close(self) -> None:
        tasks = list(self._tasks)
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        self.readers.clear()
        await self._http.close()

    def spawn(self, work: Coroutine[Any, Any, None]) -> "asyncio.Task[None]":
        task = asyncio.get_running_loop().create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._ended)
        return task

    def _ended(self, task: "asyncio.Task[None]") -> None:
        self._tasks.discard(task)
        if not task.cancelled() and (error := task.exception()):
            self.outcome.wrong("failed", repr(error))

    async def prepare(self) -> None:
        """Wait until everybody has fetched, and note who follows whom among them."""
        await asyncio.gather(*(reader.shows.wait() for reader in self.readers))
        here = {reader.number for reader in self.readers}
        self._following: dict[int, list[Reader]] = {}
        for reader in self.readers:
            for author in {*self.people.followees[reader.number], reader.number}:
                self._following.setdefault(author, []).append(reader)
        self._authors = sorted(self._following)
        restless = self.random.sample(sorted(here), max(1, round(RESTLESS * len(here))))
        self._pairs = [
            (reader, author) for reader in restless for author in sorted(self.people.followees[reader])[:EACH_RESTLESS]
        ]

    # Judged

    def may_see(self, reader: int, status: Json, now_s: float) -> bool:
        author = self.people.numbers[status["author"]["handle"]]
        post = self.truth.posts.get(status["text"])
        since_s = post.began_s if post else self._began_s
        return self.truth.may_see(reader, author, status["audience"], since_s, now_s)

    def acts_since(self, moment_s: float) -> int:
        return sum(act > moment_s for act in self._acts)

    def came(self, id: str, reader: Reader, now_s: float) -> None:
        """Record how late a status came, if its reader was here and could see it all the time.

        A new follow brings older ones, which are not late.
        """
        post = self.truth.by_id.get(id)
        if post and reader.was_open_since(post.acknowledged_s) and self.truth.is_steady(reader.number, post.author):
            self.outcome.steps[post.step].delay(now_s - post.acknowledged_s)

    def _acknowledged(self, post: Post) -> None:
        post.acknowledged_s = asyncio.get_running_loop().time()
        assert post.id
        self.truth.by_id[post.id] = post
        self._recent = [*self._recent[1 - RECENT :], post]
        if post.audience == "followers":
            for reader in self._following[post.author]:
                if not self.truth.is_steady(reader.number, post.author):
                    continue
                if post.id not in reader.got:
                    reader.due[post.id] = post.acknowledged_s
                elif reader.was_open_since(reader.got[post.id]):
                    self.outcome.steps[post.step].delay(0)

    # Acts

    async def ask(self, number: int, method: str, path: str, *accepted: int, body: Any = None, key: str = "") -> bytes:
        """Ask until the answer is an accepted one, and return it. Raises NeverRecovered."""
        headers = f"Authorization: Bearer {self.people.tokens[number]}\r\n"
        headers += f"Idempotency-Key: {key}\r\n" if key else ""

        async def attempt(_: int) -> bytes | None:
            try:
                status, answer = await self._http.ask(method, PREFIX + path, body, headers)
            except Failed as error:
                self.outcome.refused[error.kind] += 1
                return None
            if status in accepted:
                return answer
            if status == 503:
                self.outcome.refused["503"] += 1
            else:
                self.outcome.wrong("unclean", f"{method} {path}: {status} {answer[:300].decode()}")
            return None

        return await persist(attempt)

    async def load(self, rate: float, seconds: float) -> None:
        self.step = step = Step(rate=rate)
        self.outcome.steps.append(step)
        number = len(self.outcome.steps) - 1

        async def post(_: int, _due: float, _counts: bool) -> None:
            await self._post(number)

        async def change(_: int, _due: float, _counts: bool) -> None:
            await self.random.choice((self._like, self._like, self._delete, self._relate, self._mark_read))()

        async with asyncio.TaskGroup() as tasks:
            posts = tasks.create_task(open_loop(itertools.count(), post, rate=rate, burn_in_s=0, seconds=seconds))
            tasks.create_task(open_loop(itertools.count(), change, rate=CHANGES * rate, burn_in_s=0, seconds=seconds))
        offered = posts.result()
        step.posts, step.late_s = offered.operations, round(offered.late_s, 3)

    async def _post(self, step: int) -> None:
        random, author = self.random, self.random.choice(self._authors)
        text = f"status {next(self._texts)}"
        if random.random() < NAMED:
            text += f" for @{self.people.handles[random.choice(self.readers).number]}"
        post = Post(author, text, random.choice(AUDIENCES), asyncio.get_running_loop().time(), step)
        self.truth.posts[text] = post
        body, key = {"text": text, "audience": post.audience}, str(UUID(int=random.getrandbits(128)))
        answer = await self.ask(author, "POST", "/statuses", 200, 201, body=body, key=key)
        self._act()
        post.id = json.loads(answer)["id"]
        self._acknowledged(post)

    def _act(self) -> None:
        self._acts.append(asyncio.get_running_loop().time())

    async def _like(self) -> None:
        reader = self.random.choice(self.readers)
        recent = [post.id for post in self._recent if post.id in reader.got]
        if recent:
            method = self.random.choice(("PUT", "PUT", "DELETE"))
            self._act()
            await self.ask(reader.number, method, f"/statuses/{self.random.choice(recent)}/like", 204, 404)

    async def _delete(self) -> None:
        if self._recent:
            post = self.random.choice(self._recent)
            post.is_deleted = True
            self._act()
            await self.ask(post.author, "DELETE", f"/statuses/{post.id}", 204, 404)

    async def _mark_read(self) -> None:
        reader = self.random.choice(self.readers)
        if reader.state and reader.state.notes:
            self._act()
            to = self.random.choice(list(reader.state.notes))
            await self.ask(reader.number, "PUT", "/notifications/read", 204, body={"to": to})

    async def _relate(self) -> None:
        free = [pair for pair in self._pairs if not self._busy & {pair, pair[::-1]}]
        if not free:
            return
        reader, author = pair = self.random.choice(free)
        self._busy.add(pair)
        method, what, change = self._next(self.truth.relation(reader, author))
        clock = asyncio.get_running_loop().time
        self.truth.asked(reader, author, change, clock())
        self._act()
        await self.ask(reader, method, f"/{what}/{self.people.handles[author]}", 204)
        self.truth.answered(reader, author, change, clock())
        self._busy.discard(pair)

    def _next(self, now: Relation) -> tuple[str, str, Change]:
        if now.blocked:
            return "DELETE", "blocks", lambda relation: relation._replace(blocked=False)
        if not now.follows:
            return "PUT", "follows", lambda relation: relation._replace(follows=True)
        if self.random.random() < 0.3:
            ended = {"follows": False, "followed_back": False, "blocked": True}
            return "PUT", "blocks", lambda relation: relation._replace(**ended)
        return "DELETE", "follows", lambda relation: relation._replace(follows=False)

    # The equation

    async def fetched(self, reader: Reader) -> State:
        async with self._fetches:
            timeline = json.loads(await self.ask(reader.number, "GET", f"/timeline?limit={PAGE}", 200))
            notifications = json.loads(await self.ask(reader.number, "GET", f"/notifications?limit={PAGE}", 200))
        return State.fetched(timeline, notifications)

    async def compare(self) -> None:
        """Compare, once it is quiet, what everybody shows with what a fetch shows, until it is equal or too late."""
        clock = asyncio.get_running_loop().time
        began_s = clock()
        different: dict[Reader, list[str]] = {reader: ["never fetched"] for reader in self.readers}

        async def look(reader: Reader) -> None:
            now = await self.fetched(reader)
            different[reader] = list(reader.state.differences(now)) if reader.state else ["never fetched"]

        while True:
            async with asyncio.TaskGroup() as tasks:
                for reader in different:
                    tasks.create_task(look(reader))
            different = {reader: words for reader, words in different.items() if words}
            if not different or clock() > began_s + COMPARE_S + GRACE_S:
                break
            await asyncio.sleep(AGAIN_S)
        self.outcome.compared = len(self.readers)
        self.outcome.equal_after_s = round(clock() - began_s, 1)
        for reader, words in different.items():
            for each in words:
                self.outcome.wrong("missing", f"reader {reader.number} ({reader.kind}): {each}")
        for reader in self.readers:
            for id in sorted(reader.due):
                if self._had_to_come(reader, id):
                    self.outcome.wrong("missing", f"reader {reader.number} was never told of status {id}")

    def _had_to_come(self, reader: Reader, id: str) -> bool:
        post = self.truth.by_id[id]
        if post.is_deleted or not self.truth.is_steady(reader.number, post.author):
            return False
        until_s = post.acknowledged_s + PUSHED_OFF_S
        newer = [
            other
            for other in self.truth.by_id.values()
            if str(other.id) > id
            and other.acknowledged_s < until_s
            and other.author in self.people.followees[reader.number]
        ]
        return len(newer) < PAGE
