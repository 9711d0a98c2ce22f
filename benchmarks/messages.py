"""`feedlab bench messages`: the time from the moment a message was due to its event at the other's open stream.

Without receipts one of the two people writes, and the other has a stream open. With receipts both do both, and say of
each message that it has come, and then that it has been read. Streams are spread over the web processes, and requests
go to any of these. Each stream is to tell all that is said, once, in the order of the numbers; so are the pages at the
end.
"""

import asyncio
import itertools
import json
import statistics
from collections import Counter
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field, replace
from functools import partial
from http import HTTPStatus
from random import Random
from typing import Any

from app.demo.progress import Progress, silent
from app.inbox.conversations import Conversations
from benchmarks.dialogue import Dialogue, Wrong
from benchmarks.measure import Latencies, open_loop
from benchmarks.observe import Meters, counted_by_servers
from benchmarks.origin import origin
from benchmarks.readers import crowd
from benchmarks.report import MessagesReport, MessagesSettings, MessagesStep
from benchmarks.rig import BenchRefused, Rig, web_processes
from benchmarks.subject import Failed, Http
from benchmarks.wire import PREFIX, EventSource, WebSocket, Wire

KINDS = (WebSocket, EventSource, EventSource, EventSource)  # of streams, in turn
PEOPLE_EACH, LEAST_PEOPLE, READERS_EACH = 10, 60, 4  # of the small world, a conversation
IN_TIME_MS = 250.0  # for p99: at a higher rate it would be later still
BURN_IN_S = 2.0  # the web processes have just been started
READY_S, LATE_S = 60.0, 35.0  # LATE_S: where a hint was lost
COUNTED, PAUSE_S = 31, 0.05  # posts one after another whose commands are counted; what follows from one
PAGE = 100


@dataclass(eq=False)
class Person:
    """One of the two people in a conversation.

    `told`: what they know of the conversation, as (number, text): fetched once, and then what their stream tells.
    `unread`: when those of their own messages were due that the other has not read yet, by number.
    """

    token: str
    told: list[tuple[int, str]] = field(default_factory=list)
    unread: dict[int, float] = field(default_factory=dict)
    ready: asyncio.Event = field(default_factory=asyncio.Event)
    news: asyncio.Event = field(default_factory=asyncio.Event)


@dataclass(eq=False)
class Talk:
    id: str
    people: tuple[Person, Person]
    dialogue: Dialogue = field(default_factory=Dialogue)


@dataclass
class Delays:
    """Delays in seconds from when a message was due. `read`: until its sender is told that the other has read it."""

    received: list[float] = field(default_factory=list)
    acknowledged: Latencies = field(default_factory=Latencies)
    read: Latencies = field(default_factory=Latencies)
    errors: Counter[str] = field(default_factory=Counter)
    sent: int = 0
    late_s: float = 0


class Run:
    """A run of conversations over web processes. What is wrong is in `wrongs`."""

    def __init__(
        self, talks: list[Talk], ports: list[int], seed: int, texts: "itertools.count[int]", *, receipts: bool
    ) -> None:
        self.talks, self.wrongs = talks, list[Wrong]()
        self._ports, self._random, self._texts, self._receipts = ports, Random(seed), texts, receipts
        self._listening = [(talk, person) for talk in talks for person in talk.people[0 if receipts else 1 :]]
        self._clients = [Http("127.0.0.1", port) for port in ports]
        self._due: dict[str, float] = {}  # of those that count
        self._delays = Delays()
        self._answering: asyncio.TaskGroup | None = None

    @asynccontextmanager
    async def streams(self) -> AsyncIterator[None]:
        """Keep the streams and the connections for requests open until the block ends.

        Raises TimeoutError, BenchRefused.
        """
        wires, ports, kinds = list[Wire](), itertools.cycle(self._ports), itertools.cycle(KINDS)
        try:
            for (talk, person), port, kind in zip(self._listening, ports, kinds, strict=False):
                person.ready.clear()
                wires.append(kind(f"127.0.0.1:{port}", person.token, None, partial(self._heard, talk, person)))
                await wires[-1].connect("127.0.0.1", port)
                await asyncio.wait_for(person.ready.wait(), READY_S)
                person.told = (await self._pages(talk))[::-1]
            yield
            self.wrongs += [Wrong("missing", f"a {wire.kind} has ended") for wire in wires if wire.ended.done()]
        finally:
            for wire in wires:
                wire.abort()
            for client in self._clients:
                await client.close()

    async def at_rate(self, rate: float, seconds: float) -> Delays:
        """Send messages at a fixed rate, in conversations at random."""
        self._delays = delays = Delays()
        async with asyncio.TaskGroup() as tasks:
            self._answering = tasks
            offered = await open_loop(self._texts, self._send, rate=rate, burn_in_s=BURN_IN_S, seconds=seconds)
            with suppress(TimeoutError):  # the judge says who was told nothing
                await asyncio.wait_for(self._told(), LATE_S)
            self._answering = None  # what comes too late is wrong, and answered by nobody
        delays.sent, delays.late_s = offered.operations, round(offered.late_s, 3)
        return delays

    async def _told(self) -> None:
        for talk, person in self._listening:
            while len(person.told) < len(talk.dialogue.acknowledged) or person.unread:
                person.news.clear()
                await person.news.wait()

    async def _send(self, number: int, due_s: float, counts: bool) -> None:
        talk = self._random.choice(self.talks)
        if counts:
            self._due[f"message {number}"] = due_s
        if await self.send(talk, self._random.choice(talk.people[: 2 if self._receipts else 1]), number) and counts:
            self._delays.acknowledged.record(asyncio.get_running_loop().time() - due_s)

    async def send(self, talk: Talk, sender: Person, number: int) -> bool:
        """Send a message; return whether it was acknowledged."""
        text = f"message {number}"
        talk.dialogue.begin(text)
        body = {"client_id": str(number), "text": text}
        answer = await self._ask(sender, "POST", f"/{talk.id}/messages", HTTPStatus.CREATED, body)
        if answer:
            self.wrongs += talk.dialogue.acknowledge(text, json.loads(answer)["seq"])
        return bool(answer)

    async def _ask(
        self, person: Person, method: str, path: str, accepted: HTTPStatus, body: Any = None
    ) -> bytes | None:
        headers = f"Authorization: Bearer {person.token}\r\n"
        try:
            client = self._random.choice(self._clients)
            status, answer = await client.ask(method, f"{PREFIX}/conversations{path}", body, headers)
        except Failed as error:
            self._delays.errors[error.kind] += 1
            return None
        if status != accepted:
            self._delays.errors[f"HTTP {status}"] += 1
            return None
        return answer

    def _heard(self, talk: Talk, person: Person, _id: str, event: str, data: Any) -> None:
        now_s = asyncio.get_running_loop().time()
        person.news.set()
        match event:
            case "ready":
                person.ready.set()
            case "reset":
                self.wrongs.append(Wrong("missing", f"a stream of conversation {talk.id} is told `reset`"))
            case "message":
                self._came(talk, person, data["message"], now_s)
            case "conversation":
                for seq in [seq for seq in person.unread if seq <= data["read_to"]]:
                    self._delays.read.record(now_s - person.unread.pop(seq))

    def _came(self, talk: Talk, person: Person, message: Any, now_s: float) -> None:
        seq, text = message["seq"], message["text"]
        person.told.append((seq, text))
        is_own, due_s = message["client_id"] is not None, self._due.get(text)
        if is_own and due_s and self._receipts:
            person.unread[seq] = due_s
        if not is_own and due_s:
            self._delays.received.append(now_s - due_s)
        if not is_own and self._receipts and self._answering:
            self._answering.create_task(self._receive(talk, person, seq))

    async def _receive(self, talk: Talk, person: Person, seq: int) -> None:
        """Say of a message that it has come, and then that it has been read."""
        for mark in ("delivered", "read"):
            await self._ask(person, "PUT", f"/{talk.id}/receipt", HTTPStatus.NO_CONTENT, {mark: seq})

    async def judge(self) -> None:
        """Judge what the streams have told and what the pages show, once nothing is under way. Raises BenchRefused."""
        for talk, person in self._listening:
            for shown in (person.told[::-1], await self._pages(talk)):
                self.wrongs += talk.dialogue.check(shown, talk.dialogue.acknowledged)

    async def _pages(self, talk: Talk) -> list[tuple[int, str]]:
        """Return all that the pages show. One that is refused shows nothing, and is asked for again."""
        shown, before, until_s = list[tuple[int, str]](), "", asyncio.get_running_loop().time() + LATE_S
        while True:
            answer = await self._ask(talk.people[0], "GET", f"/{talk.id}/messages?limit={PAGE}{before}", HTTPStatus.OK)
            if answer is None:
                if asyncio.get_running_loop().time() > until_s:
                    raise BenchRefused(f"a page of messages is refused again and again: {dict(self._delays.errors)}")
                await asyncio.sleep(PAUSE_S)
                continue
            page = json.loads(answer)
            shown += [(message["seq"], message["text"]) for message in page["messages"]]
            if page["next"] is None:
                return shown
            before = f"&before={page['next']}"


async def talks(rig: Rig, count: int, people: int | None = None, readers: int | None = None) -> list[Talk]:
    """Make conversations among the people of a small world."""
    world = people or max(LEAST_PEOPLE, PEOPLE_EACH * count)
    known = await crowd(rig, world, readers or min(world, READERS_EACH * count))
    numbers, ids, conversations = known.numbers[: 2 * count], rig.loaded.ids, Conversations(rig.stack)
    if len(numbers) < 2 * count:
        raise BenchRefused(f"{count} conversations take {2 * count} people, and there are {len(numbers)}")
    await known.enter(numbers)
    made = []
    for one, other in zip(numbers[::2], numbers[1::2], strict=True):
        found, _ = await conversations.open(ids[one], ids[other])
        made.append(Talk(str(found.id), (Person(known.tokens[one]), Person(known.tokens[other]))))
    return made


async def commands_of_a_post(rig: Rig, run: Run, talk: Talk, times: int = COUNTED) -> dict[str, float]:
    """Return the commands of one message by the servers' own counts, while no stream is open.

    It is the median of messages that are sent one after another.
    """
    found = list[dict[str, float]]()
    for number in range(times):
        before = await _counts(rig)
        if not await run.send(talk, talk.people[number % 2], number):
            raise BenchRefused("a message was refused while nothing else was asked for")
        await asyncio.sleep(PAUSE_S)
        after = await _counts(rig)
        found.append({server: after[server] - before[server] for server in before})
    asked = {"redis": 1}  # by each look itself
    return {name: statistics.median(each[name] for each in found) - asked.get(name, 0) for name in ("mongodb", "redis")}


async def _counts(rig: Rig) -> dict[str, float]:
    counted = await counted_by_servers(rig.stack)
    assert counted, "real servers"
    return counted[0]


async def messages(rig: Rig, settings: MessagesSettings, progress: Progress = silent) -> MessagesReport:
    """Measure each number of web processes, without receipts and with them, at each rate until p99 is too late."""
    texts, about = itertools.count(), vars(await origin(rig))
    *those, apart = await talks(rig, settings.conversations + 1)
    report = MessagesReport(**about, settings=settings, commands={}, steps=[], wrongs=[], unfinished=True)
    each = list(itertools.product(settings.web, settings.receipts))
    for done, (web, receipts) in enumerate(each):
        async with web_processes(rig, web) as processes:
            ports = [process.port for process in processes]
            run = Run(those, ports, settings.seed, texts, receipts=receipts == "with")
            commands = report.commands or await commands_of_a_post(rig, run, apart)
            mine = replace(rig, processes={f"web {n}": process.pid for n, process in enumerate(processes, 1)})
            steps = list[MessagesStep]()
            async with run.streams():
                for rate in settings.rates:
                    progress(f"{rate:g} messages a second, {web} web, {receipts} receipts", done, len(each))
                    steps.append(await _step(mine, run, web, rate, settings.seconds, receipts == "with"))
                    if steps[-1].received_ms.get("p99", 0) > IN_TIME_MS:
                        break
                await run.judge()
        wrongs = [*report.wrongs, *(f"{wrong.kind}: {wrong.what}" for wrong in run.wrongs)]
        changed = {"commands": commands, "steps": [*report.steps, *steps], "wrongs": wrongs}
        rig.so_far = report = report.model_copy(update=changed)
    return report.model_copy(update={"unfinished": False})


async def _step(rig: Rig, run: Run, web: int, rate: float, seconds: float, receipts: bool) -> MessagesStep:
    before = await Meters.read(rig)
    delays = await run.at_rate(rate, seconds)
    used, received = (await Meters.read(rig)).since(before), Latencies()
    for each in delays.received:
        received.record(each)
    sent = delays.sent + BURN_IN_S * rate
    return MessagesStep(
        web=web,
        receipts=receipts,
        rate=rate,
        sent=delays.sent,
        received=received.count,
        received_ms=received.figures(),
        acknowledged_ms=delays.acknowledged.figures(),
        read_ms=delays.read.figures(),
        late_s=delays.late_s,
        errors=dict(delays.errors),
        commands={server: round(count / sent, 2) for server, count in (used.commands or {}).items()},
        cpu_ms={name: round(1000 * cpu_s / sent, 3) for name, cpu_s in used.cpu_s.items()},
    )
