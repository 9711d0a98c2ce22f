"""A deterministic scheduler: one command at a time, and every order of them once.

Actors are coroutines. Each call of a server first waits at a `point`, with the task it was made in, so the reads of one
`gather` are points of their own. When every task waits, the explorer chooses which command goes next. The search is
stateless: a schedule is run again from the beginning up to its last choice, which then is made differently.

Orders that differ only in commands that cannot notice each other are the same order, and are run once (sleep sets:
Godefroid, Partial-Order Methods, 1996, chapter 5). Two commands can notice each other when they touch the same
documents and fields, or the same key, and one of them writes; or when they are the same actor's.
"""

import asyncio
from collections.abc import Awaitable, Callable, Coroutine
from contextvars import ContextVar
from dataclasses import dataclass, field
from functools import lru_cache
from typing import Any, NamedTuple
from weakref import WeakKeyDictionary


class Touch(NamedTuple):
    """What a command reads or writes. None stands for all keys, or all fields."""

    store: str
    keys: frozenset[object] | None = None
    fields: frozenset[str] | None = None
    write: bool = False

    def notices(self, other: "Touch") -> bool:
        return (
            (self.write or other.write)
            and self.store == other.store
            and (self.keys is None or other.keys is None or not self.keys.isdisjoint(other.keys))
            and (self.fields is None or other.fields is None or not self.fields.isdisjoint(other.fields))
        )


@dataclass(frozen=True)
class Step:
    """A command about to be sent, or the end of an actor that is killed."""

    actor: str
    name: str
    touches: tuple[Touch, ...] = ()
    everything: bool = False  # time passes: everybody may notice
    kill: bool = False

    def notices(self, other: "Step") -> bool:
        if self.kill or other.kill:
            return self.actor == other.actor or (self.kill and other.kill)
        if self.everything or other.everything:
            return True
        return _notice(self.touches, other.touches)

    @property
    def writes(self) -> bool:
        return any(touch.write for touch in self.touches)

    def __str__(self) -> str:
        return f"{self.actor}: {'killed' if self.kill else self.name}"


@lru_cache(100_000)
def _notice(some: tuple[Touch, ...], others: tuple[Touch, ...]) -> bool:
    return any(mine.notices(theirs) for mine in some for theirs in others)


class Violation(AssertionError):
    """What went wrong, and the order in which it did."""

    def __init__(self, text: str, order: list[Step]) -> None:
        super().__init__(f"{text}\n" + "\n".join(f"  {n:2} {step}" for n, step in enumerate(order, 1)))


@dataclass
class Actor:
    """`shares`: what all its commands touch besides, in the memory of a process that it shares with others."""

    name: str
    schedule: "Schedule"
    shares: tuple[Touch, ...] = ()
    dead: bool = False
    wrote: bool = False  # its last command was a write: a crash here leaves something behind


ACTOR: ContextVar[Actor | None] = ContextVar("actor", default=None)


async def point(name: str, *touches: Touch, everything: bool = False) -> None:
    """Wait for one's turn; outside a schedule nobody waits."""
    if actor := ACTOR.get():
        await actor.schedule.park(actor, Step(actor.name, name, (*touches, *actor.shares), everything))


def written() -> None:
    """Tell the schedule that what is true may have changed."""
    if actor := ACTOR.get():
        actor.schedule.changed()


@dataclass
class Parked:
    step: Step
    turn: asyncio.Future[None]


class Schedule:
    """One run of some actors in one order."""

    def __init__(self, changed: Callable[[], None]) -> None:
        self.changed = changed
        self.order: list[Step] = []
        self._parked: dict[str, Parked] = {}
        self._actors: dict[str, Actor] = {}
        self._tasks: dict[str, asyncio.Task[None]] = {}
        self._killed = False
        self._abandoned: list[asyncio.Future[None]] = []

    def start(self, name: str, work: Coroutine[Any, Any, None], *shares: Touch) -> None:
        actor = self._actors[name] = Actor(name, self, shares)
        token = ACTOR.set(actor)
        self._tasks[name] = asyncio.get_running_loop().create_task(work, name=name)
        ACTOR.reset(token)

    async def park(self, actor: Actor, step: Step) -> None:
        task = asyncio.current_task()
        assert task
        if actor.dead:
            raise asyncio.CancelledError
        turn: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        assert task.get_name() not in self._parked, "one task, one command at a time"
        self._parked[task.get_name()] = Parked(step, turn)
        await turn

    async def quiet(self) -> dict[str, Step]:
        """Let everybody run until they wait; what may happen next, by the name of its task."""
        ready: Any = asyncio.get_running_loop()._ready  # type: ignore[attr-defined]
        while ready:  # noqa: ASYNC110 - no event tells that a loop has nothing left to do
            await asyncio.sleep(0)
        return {name: parked.step for name, parked in sorted(self._parked.items())}

    def may_kill(self, crashing: tuple[str, ...]) -> dict[str, Step]:
        """At most one actor per schedule dies, right after it wrote something."""
        mortal = () if self._killed else crashing
        return {
            f"kill {name}": Step(name, "killed", kill=True)
            for name in mortal
            if self._actors[name].wrote and not self._tasks[name].done()
        }

    def take(self, name: str, step: Step) -> None:
        self.order.append(step)
        if step.kill:
            self._killed = self._actors[step.actor].dead = True
            self._abandoned = [p.turn for p in self._parked.values() if p.step.actor == step.actor]
            self._parked = {task: p for task, p in self._parked.items() if p.step.actor != step.actor}
            return
        self._actors[step.actor].wrote = step.writes
        self._parked.pop(name).turn.set_result(None)

    async def end(self) -> dict[str, BaseException | None]:
        """How each actor ended; the dead, and those whom nobody waits for any more, are buried."""
        for name, task in self._tasks.items():
            if not task.done():
                self._actors[name].dead = True
                task.cancel()
        for turn in (*self._abandoned, *(parked.turn for parked in self._parked.values())):
            turn.cancel()
        await asyncio.gather(*self._tasks.values(), return_exceptions=True)
        await self.quiet()
        left = asyncio.all_tasks() - {asyncio.current_task()}  # a shared reading whose last waiter is gone
        for orphan in left:
            orphan.cancel()
        await asyncio.gather(*left, return_exceptions=True)
        return {name: None if task.cancelled() else task.exception() for name, task in self._tasks.items()}

    def stuck(self) -> list[str]:
        """Actors that wait although nothing can happen any more."""
        return [name for name, task in self._tasks.items() if not task.done() and not self._actors[name].dead]


@dataclass
class Choice:
    """A state on the current path: what could happen there, what has been tried or will be, what happens now.

    `causes`: for each task the event that brought it to its command. `past`: the events that the one chosen here
    comes after in every equivalent order, as bits.
    """

    enabled: dict[str, Step]
    causes: dict[str, int | None]
    asleep: dict[str, Step]
    wanted: set[str] = field(default_factory=set)
    chosen: str = ""
    past: int | None = None

    @property
    def event(self) -> Step:
        return self.enabled[self.chosen]

    def asleep_after(self) -> dict[str, Step]:
        return {name: other for name, other in self.asleep.items() if not other.notices(self.event)}

    def wake(self) -> bool:
        """Choose what is wanted and not asleep, deaths first: nobody else notices them. False when there is nothing."""
        self.chosen = next((name for name in self.enabled if name in self.wanted and name not in self.asleep), "")
        self.past = None
        return bool(self.chosen)


@dataclass
class Count:
    """`schedules` were run to their end; `pruned` were cut short: each was a known one in another guise.

    `states`: different ones that the schedules ended in.
    """

    schedules: int = 0
    pruned: int = 0
    states: int = 0
    commands: int = 0
    complete: bool = True


class Explorer:
    """Depth first over the choices. `begin` starts the actors of a fresh run; `check` judges one that has ended.

    At each state one command is tried, and others only where an order that was run shows that turning two of its
    commands round would matter (source sets: Abdulla, Aronis, Jonsson, Sagonas, Optimal Dynamic Partial Order
    Reduction, 2014, algorithm 1).
    """

    def __init__(
        self,
        begin: Callable[[], Schedule],
        check: Callable[[Schedule, dict[str, BaseException | None]], Awaitable[None]],
        crashing: tuple[str, ...],
        limit: int,
    ) -> None:
        self._begin, self._check, self._crashing, self._limit = begin, check, crashing, limit
        self._path: list[Choice] = []
        self.count = Count()

    async def run(self) -> Count:
        """Raises Violation."""
        asyncio.get_running_loop().set_task_factory(_named_by_birth)
        try:
            await self._one()
            while self._another():
                if self.count.schedules >= self._limit:
                    self.count.complete = False
                    break
                await self._one()
        finally:
            asyncio.get_running_loop().set_task_factory(None)
        return self.count

    async def _one(self) -> None:
        schedule, depth = self._begin(), 0
        while enabled := await self._enabled(schedule):
            if depth == len(self._path) and not self._extend(enabled):
                await schedule.end()
                self.count.pruned += 1
                return
            choice = self._path[depth]
            if choice.past is None:
                self._happen(depth)
            schedule.take(choice.chosen, enabled[choice.chosen])
            depth += 1
            self.count.commands += 1
        if stuck := schedule.stuck():
            raise Violation(f"waiting for ever: {', '.join(stuck)}", schedule.order)
        self.count.schedules += 1
        await self._check(schedule, await schedule.end())

    async def _enabled(self, schedule: Schedule) -> dict[str, Step]:
        waiting = await schedule.quiet()
        return schedule.may_kill(self._crashing) | waiting if waiting else {}

    def _extend(self, enabled: dict[str, Step]) -> bool:
        """A new state at the end of the path; False when all that can happen there has happened elsewhere."""
        last = self._path[-1] if self._path else None
        asleep = last.asleep_after() if last else {}
        causes: dict[str, int | None] = dict.fromkeys(enabled)
        for name in enabled if last else ():
            assert last
            known = name in last.enabled and name != last.chosen
            causes[name] = last.causes[name] if known else len(self._path) - 1
        choice = Choice(enabled, causes, asleep)
        first = next((name for name, step in enabled.items() if name not in asleep and not step.kill), None)
        deaths = {name for name, step in enabled.items() if step.kill and last and last.event.actor == step.actor}
        choice.wanted = {first, *deaths} if first else deaths
        if not choice.wake():
            return False
        self._path.append(choice)
        return True

    def _happen(self, now: int) -> None:
        """Note what the event that is next comes after, and where it could have come earlier."""
        choice = self._path[now]
        before = [
            then
            for then in range(now)
            if then == choice.causes[choice.chosen]
            or _same_line(self._path[then].chosen, choice.chosen)
            or self._path[then].event.notices(choice.event)
        ]
        past, races = 0, []
        for then in reversed(before):  # the latest first: what they come after is no race of ours
            if not past >> then & 1 and self._path[then].event.actor != choice.event.actor:
                races.append(then)
            past |= 1 << then | (self._path[then].past or 0)
        choice.past = past
        for then in races:
            self._reverse(then, now)

    def _reverse(self, then: int, now: int) -> None:
        """Have the other order of two commands tried, unless one that begins it will be anyway."""
        free = [n for n in range(then + 1, now) if not (self._path[n].past or 0) >> then & 1] + [now]
        bits = sum(1 << n for n in free)
        initials = [self._path[n].chosen for n in free if not (self._path[n].past or 0) & ~(1 << then) & bits]
        state = self._path[then]
        if any(name in state.wanted or name in state.asleep for name in initials):
            return
        possible = [name for name in initials if name in state.enabled]
        state.wanted.update(possible[:1] or state.enabled)

    def _another(self) -> bool:
        """Make the last choice that should also be made differently differently."""
        while self._path:
            last = self._path[-1]
            last.asleep[last.chosen] = last.event
            if last.wake():
                return True
            self._path.pop()
        return False


def _same_line(one: str, other: str) -> bool:
    """Whether one task is the other, or descends from it: a task waits for those it has started."""
    return one == other or one.startswith(f"{other}.") or other.startswith(f"{one}.")


_births: WeakKeyDictionary[asyncio.Task[Any], int] = WeakKeyDictionary()


def _named_by_birth(loop: asyncio.AbstractEventLoop, work: Any, **options: Any) -> asyncio.Task[Any]:
    """A task is named after the one that started it, and by how many that one had started before."""
    task = asyncio.Task(work, loop=loop, **options)
    parent, actor = asyncio.current_task(loop), ACTOR.get()
    if actor and parent and parent.get_name().split(".")[0] == actor.name:
        born = _births.get(parent, 0)
        _births[parent] = born + 1
        task.set_name(f"{parent.get_name()}.{born}")
    return task
