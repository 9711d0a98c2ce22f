"""Races of a live stream: it is opened while Zoe posts, while the hub of its process begins to hear, and while the bus
breaks.

Ann follows Zoe. What has not come to her stream at the end of an order is missing: nothing is looked for but what a hub
looks for whose subscription is new, and the look of every 30 s, which finds the rest, has not come by.

Ann's stream and the hub share the memory of a process, so every order of their commands is another one. There are too
many of these: one of the two does all between two of its steps at once.
"""

from copy import deepcopy
from typing import Any, NamedTuple

from phases.timelines import Timelines
from tests.interleavings.scheduler import ACTOR, point
from tests.interleavings.servers import StagedBus
from tests.interleavings.stage import MEMORY, Act, Process, Race, Town, in_turn
from tests.live.listeners import Client, State, deaf_hub, fetched
from tests.world import World


class Before(NamedTuple):
    """`settings`: as every process knows them. `state`, `last`: what Ann has of a stream that she had."""

    settings: Any
    state: State | None = None
    last: str | None = None


class Web:
    """The memory of one web process in one order: its hub, and Ann's client."""

    def __init__(self, town: Town) -> None:
        self.bus = town.stack.bus = StagedBus(MEMORY)
        self.hub = deaf_hub(_another(town))
        before = _before[town.stack.db.name]
        self.ann = Client(self.hub, town.ids["ann"], state=deepcopy(before.state), last=before.last)


_before: dict[str, Before] = {}  # by the database


def _another(town: Town) -> World:
    """A process that remembers nothing but the settings."""
    timelines = Timelines(town.stack)
    timelines.switch._copy = _before[town.stack.db.name].settings
    return World(town.stack, town.clock, timelines, town.ids)


def _web(town: Town) -> Web:
    assert isinstance(town.web, Web)
    return town.web


def _begun(town: Town) -> None:
    town.web = Web(town)


async def _has_been_here(town: Town) -> None:
    """Ann has a page of Zoe's, and a position."""
    await town.deliver_only()
    await town.sign_up("ann", "zoe")
    await town.follow("ann", "zoe")
    await town.post("zoe", "old")
    _before[town.stack.db.name] = Before(await town.timelines.switch.current())
    client = Client(deaf_hub(_another(town)), town.ids["ann"])
    await client.connect()
    client.take()
    now = await fetched(_another(town), client.me)
    _before[town.stack.db.name] = _before[town.stack.db.name]._replace(state=now, last=client.last)


async def opens(process: Process) -> None:
    await point("Ann comes")
    await _web(process.town).ann.connect()


async def posts(process: Process) -> None:
    await process.post("zoe", "new")


async def hears(process: Process) -> None:
    """The hub tells what it has been told of, and looks for what may have been missed."""
    await point("the hub goes on")
    await _web(process.town).hub.settle()


async def subscribes(process: Process) -> None:
    web = _web(process.town)
    await web.bus.subscribe(web.hub.listener)


async def breaks(process: Process) -> None:
    await _web(process.town).bus.breaks()


def whole(act: Act) -> Act:
    """At one moment."""

    async def acting(process: Process) -> None:
        await point(act.__name__, everything=True)
        token = ACTOR.set(None)
        try:
            await act(process)
        finally:
            ACTOR.reset(token)

    return acting


async def _ann_has_it_once(town: Town) -> None:
    web = _web(town)
    await web.hub.settled()
    web.ann.take()
    now = await fetched(_another(town), web.ann.me)
    assert web.ann.state == now, f"Ann has {web.ann.state}, and there is {now}"
    said = web.ann.said()
    assert said.count("status") <= 1, f"she is told twice: {said}"
    assert "reset" not in said, said


def _race(name: str, *, fast: bool = True, **actors: Act) -> Race:
    return Race(
        name,
        _has_been_here,
        actors,
        readers=(),
        together=("ann", "hub"),
        begun=_begun,
        ended=_ann_has_it_once,
        fast=fast,
    )


LISTENING: tuple[Race, ...] = (
    _race(
        "stream resumes x publish x subscribe",
        ann=opens,
        zoe=posts,
        hub=whole(in_turn(subscribes, hears)),
        fast=False,
    ),
    _race(
        "look x stream resumes x publish x the bus breaks",
        ann=whole(opens),
        zoe=posts,
        hub=in_turn(subscribes, hears),
        redis=breaks,
    ),
)
