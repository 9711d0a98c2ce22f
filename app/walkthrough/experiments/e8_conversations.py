"""Experiment: a restart, a lost answer and a second process, for a list in memory, plain inserts, and conversations."""

import asyncio
from collections.abc import Awaitable, Callable, Iterable, Mapping
from itertools import count, pairwise
from typing import NamedTuple, Protocol

from bson import ObjectId

from app.inbox.changes import Changes
from app.inbox.conversations import Conversations
from app.inbox.messages import Messages
from app.inbox.sides import Message
from app.models import LAST_SEQ
from app.stack.cost import counted
from app.walkthrough.experiments.base import Experiment, Knob
from app.walkthrough.ideas.i8_messages import Messenger
from app.walkthrough.lab import Lab, in_turn
from app.walkthrough.result import Bar, Chart, Check, Result, Sample, compared

ROUNDS, FEW_ROUNDS = 40, 3  # messages that are timed, on real servers and on stand-ins
LOST_OF = 3  # of so many answers one is lost, and the message is sent again
MOST_COMMANDS = 6  # that a message may take
LATE = ({"delivered": 3}, {"read": 2}, {"delivered": 1}, {"read": 1}, {"delivered": 3})  # receipts, as they come
MOST = 1_000  # messages that Ben fetches at once
LISTS, STORED, HERE = "lists in memory", "plain inserts", "here"
INSERT, MESSAGE = "a plain insert", "a message here"


class Once(Experiment):
    slug = "conversations"
    title = "Lost, doubled, reordered"
    about = (
        "Ann writes to Ben through the ten lines of this chapter, then through the same with a plain insert into "
        "MongoDB for the list, and then through the conversations of this site. First Ben is away while the process "
        f"restarts. Then every {LOST_OF}rd answer is lost, and Ann’s client sends the message again, to another "
        "process. Then the messages go through two processes in turn, and one restarts on the way. What is on Ben’s "
        "page? In the end: what does a message cost, beside a plain insert?"
    )
    knobs = (Knob("messages", "Messages", 12, 480, 12, 120, 12),)

    async def run(self, lab: Lab, values: Mapping[str, int]) -> Result:
        n = values["messages"]

        async def in_memory() -> Way:
            return InMemory()

        async def stored() -> Way:
            return Stored(lab)

        ways = {LISTS: in_memory, STORED: stored, HERE: lambda: Here.open(lab)}
        fared = {}
        for name, opened in ways.items():
            lab.say(f"Sending {n:,} messages three times: {name}")
            fared[name] = await _fared(opened, n)
        at_once = await _both_at_once(lab, n)
        lab.say("Timing messages")
        took, commands = await _took(lab)
        return Result(
            pain=pain(n, fared[LISTS]),
            sentence=sentence(n, fared, took),
            charts=(
                Chart(
                    title=f"Messages on Ben’s page, of {n:,} that Ann wrote",
                    unit="",
                    series=tuple(fared),
                    bars=tuple(
                        Bar(label=label, value=value, series=series)
                        for label, values in _charted(fared).items()
                        for series, value in enumerate(values)
                    ),
                ),
                Chart(
                    title="Until it is acknowledged",
                    unit="ms",
                    bars=tuple(sample.bar(name) for name, sample in took.items()),
                ),
            ),
            checks=(*_checks(n, fared, at_once), await _receipts(lab), commands),
        )


class Way(Protocol):
    """A way in which Ann writes to Ben, through either of two processes."""

    def restart(self, process: int) -> None: ...

    async def send(self, process: int, n: int) -> None: ...

    async def fetch(self) -> list[tuple[int, int]]:
        """Return what Ben does not have yet: (number, which message)."""
        ...


class InMemory:
    def __init__(self) -> None:
        self._processes = [Messenger(), Messenger()]

    def restart(self, process: int) -> None:
        self._processes[process] = Messenger()

    async def send(self, process: int, n: int) -> None:
        self._processes[process].send("ben", str(n))

    async def fetch(self) -> list[tuple[int, int]]:
        return [(number, int(text)) for process in self._processes for number, text in process.fetch("ben")]


class Stored:
    """A way with plain inserts: messages survive a restart, and each process still counts on its own."""

    def __init__(self, lab: Lab) -> None:
        self._rows, self._ben = lab.stack.db["plain_messages"], lab.person()
        self._last, self._has = [0, 0], 0

    def restart(self, process: int) -> None:
        self._last[process] = 0

    async def send(self, process: int, n: int) -> None:
        self._last[process] += 1
        row = {"_id": ObjectId(), "to": self._ben, "seq": self._last[process], "text": str(n)}
        await self._rows.insert_one(row)

    async def fetch(self) -> list[tuple[int, int]]:
        rows = await self._rows.find({"to": self._ben}).sort("_id", 1).skip(self._has).to_list(MOST)
        self._has += len(rows)
        return [(row["seq"], int(row["text"])) for row in rows]


class Here:
    def __init__(self, lab: Lab, ann: ObjectId, ben: ObjectId, id: ObjectId) -> None:
        self._lab, self.ann, self.ben, self.id = lab, ann, ben, id
        self.processes, self.changes = [Messages(lab.stack), Messages(lab.stack)], Changes(lab.stack)
        self._has = 0  # Ben's client, of all that concerns Ben

    @classmethod
    async def open(cls, lab: Lab) -> "Here":
        ann, ben = lab.person(), lab.person()
        found, _ = await Conversations(lab.stack).open(ann, ben)
        return cls(lab, ann, ben, found.id)

    def restart(self, process: int) -> None:
        self.processes[process] = Messages(self._lab.stack)

    async def send(self, process: int, n: int) -> None:
        await self.processes[process].send(self.ann, self.id, f"ann-{n}", str(n))

    async def fetch(self) -> list[tuple[int, int]]:
        changes = await self.changes.between(self.ben, self._has, LAST_SEQ, MOST)
        self._has = max((change.seq for change in changes), default=self._has)
        whats = (change.what for change in changes)
        return [(what.seq, int(what.text or 0)) for what in whats if isinstance(what, Message)]


class Fared(NamedTuple):
    """What became of messages that were sent to somebody who was away.

    `gapless`: they are numbered 1, 2, 3 … `doubled`: how many numbers were given again.
    """

    found: int
    gapless: bool
    after_retries: int
    in_order: int
    doubled: int


async def _fared(opened: Callable[[], Awaitable[Way]], n: int) -> Fared:
    away = await _away(await opened(), n)
    after_retries = len(await _retried(await opened(), n))
    in_turn = await _in_turn(await opened(), n)
    shown = [which for _, which in sorted(in_turn, key=lambda one: one[0])]
    in_order = sum(which == before + 1 for before, which in pairwise([-1, *shown]))
    gapless = [number for number, _ in away] == list(range(1, n + 1))
    return Fared(len(away), gapless, after_retries, in_order, n - len({number for number, _ in in_turn}))


async def _away(way: Way, n: int) -> list[tuple[int, int]]:
    for which in range(n):
        if which == n // 2:
            way.restart(0)
        await way.send(0, which)
    return sorted(await way.fetch())


async def _retried(way: Way, n: int) -> list[tuple[int, int]]:
    for which in range(n):
        await way.send(0, which)
        if which % LOST_OF == 0:
            await way.send(1, which)
    return await way.fetch()


async def _in_turn(way: Way, n: int) -> list[tuple[int, int]]:
    """Return what Ben's client has got when he fetches after each message, with a restart halfway."""
    got = []
    for which in range(n):
        if which == n // 2:
            way.restart(1)
        await way.send(which % 2, which)
        got += await way.fetch()
    return got


async def _both_at_once(lab: Lab, n: int) -> bool:
    """Return whether the numbers are 1, 2, 3 …, and what each of the two wrote is in order."""
    here = await Here.open(lab)

    async def write(me: ObjectId, process: Messages) -> None:
        for which in range(n // 2):
            await process.send(me, here.id, str(which), str(which))

    both = (here.ann, here.ben)
    await asyncio.gather(*map(write, both, here.processes))
    found, _ = await here.processes[0].page(here.ann, here.id, None, n + 1)
    found.reverse()
    wanted = list(map(str, range(n // 2)))
    in_order = all([one.text for one in found if one.who == me] == wanted for me in both)
    return in_order and [one.seq for one in found] == list(range(1, len(found) + 1))


async def _receipts(lab: Lab) -> Check:
    here = await Here.open(lab)
    for which in range(3):
        await here.send(0, which)
    for receipt in LATE:
        await here.processes[1].receive(here.ben, here.id, receipt.get("delivered"), receipt.get("read"))
    found, _ = await here.processes[0].page(here.ann, here.id, None, 3)
    states = ", ".join(one.state for one in reversed(found))
    return Check(
        what="Receipts: all 3 delivered, 2 read; then older ones come late, and one twice. What does Ann see of the 3?",
        found=states,
        as_told=states == "read, read, delivered",
    )


async def _took(lab: Lab) -> tuple[dict[str, Sample], Check]:
    stored, here, numbers = Stored(lab), await Here.open(lab), count()
    works = {INSERT: lambda: stored.send(0, next(numbers)), MESSAGE: lambda: here.send(0, next(numbers))}
    took = await in_turn(works, ROUNDS if lab.real else FEW_ROUNDS)
    with counted() as cost:
        await here.send(0, next(numbers))
    return took, Check(
        what="Commands to MongoDB for a message, while nobody else writes into the conversation",
        found=str(cost.mongodb),
        as_told=cost.mongodb <= MOST_COMMANDS,
    )


def _charted(fared: Mapping[str, Fared]) -> dict[str, list[int]]:
    return {
        "away during a restart": [each.found for each in fared.values()],
        f"every {LOST_OF}rd answer lost": [each.after_retries for each in fared.values()],
        "two processes: in order": [each.in_order for each in fared.values()],
    }


def _told(values: Iterable[int]) -> str:
    """Join the ways' values, in their order, with commas and "and"."""
    *others, last = [f"{value:,}" for value in values]
    return f"{', '.join(others)} and {last}"


def _each(values: Iterable[int]) -> str:
    return ", ".join(f"{name} {value:,}" for name, value in zip(("lists", "inserts", "here"), values, strict=True))


def _checks(n: int, fared: Mapping[str, Fared], at_once: bool) -> list[Check]:
    lists, stored, here = (fared[way] for way in (LISTS, STORED, HERE))
    found, after_retries, in_order = _charted(fared).values()
    doubled = [each.doubled for each in fared.values()]
    return [
        Check(
            what=f"Lost: the process restarts while Ben is away. How many of {n:,} messages does he find?",
            found=_each(found),
            as_told=lists.found < n == stored.found == here.found,
        ),
        Check(
            what="Lost: and are the numbers of those that he finds here 1, 2, 3 …?",
            found="yes" if here.gapless else "no",
            as_told=here.gapless,
        ),
        Check(
            what=f"Doubled: every {LOST_OF}rd answer is lost and the message sent again. How many of {n:,} are there?",
            found=_each(after_retries),
            as_told=min(after_retries[:2]) > n == here.after_retries,
        ),
        Check(
            what=f"Reordered: two processes in turn, and one restarts. How many of {n:,} stand right after the one "
            "before?",
            found=_each(in_order),
            as_told=max(in_order[:2]) < n == here.in_order,
        ),
        Check(
            what="Reordered: and how many have a number that was given already?",
            found=_each(doubled),
            as_told=min(doubled[:2]) > 0 == here.doubled,
        ),
        Check(
            what="Reordered: Ann and Ben write at once, each through a process of their own. Are the numbers without "
            "gaps, and is what each of them wrote in order?",
            found="yes" if at_once else "no",
            as_told=at_once,
        ),
    ]


def pain(n: int, lists: Fared) -> str:
    return (
        f"Of {n:,} messages in a list in memory, Ben finds {lists.found:,} when the process restarts while he is away. "
        f"When every {LOST_OF}rd answer is lost, he finds {lists.after_retries:,}. When they go through two processes, "
        f"{lists.in_order:,} stand right after the one before."
    )


def sentence(n: int, fared: Mapping[str, Fared], took: Mapping[str, Sample]) -> str:
    insert, message = took[INSERT], took[MESSAGE]
    found, after_retries, in_order = map(_told, _charted(fared).values())
    return (
        f"In a list in memory, as plain inserts and here Ben finds {found} of {n:,} messages after a restart, and "
        f"{after_retries} where every {LOST_OF}rd answer was lost. Through two processes {in_order} are in order. A "
        f"plain insert takes {insert} ms and a message here {message} ms: {compared(message, insert)}."
    )
