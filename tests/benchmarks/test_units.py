"""What `bench units` says of a post, beside what the servers count for one."""

import asyncio
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from statistics import median
from typing import Any

import pytest

from app.loop import event_loop
from benchmarks import rig as rigs
from benchmarks import scenes, units
from benchmarks.observe import Meters
from benchmarks.report import SERVERS, PhaseUnits
from benchmarks.rig import Rig
from benchmarks.targets import base
from benchmarks.targets.base import alone, only
from phases.p3_queue import QUEUE
from tests.conftest import real_servers

pytestmark = pytest.mark.servers
POSTS = 20


@asynccontextmanager
async def running() -> AsyncIterator[Rig]:
    with real_servers(), rigs.servers("servers", False) as served:
        async with rigs.rig(*served, "inprocess") as rig:
            yield rig


async def of_queue(rig: Rig) -> PhaseUnits:
    return (await units.measure(rig, 2 * POSTS, 1)).units[QUEUE.slug]


async def commands_alone(rig: Rig) -> dict[str, float]:
    """Return the commands of a post that comes alone, by server: the median, since the worker sweeps every 5 s."""
    star, each = await scenes.star(rig, units.FEW, units.FEW), list[Mapping[str, float]]()
    await only(rig, QUEUE.slug)
    for _ in range(POSTS):
        before = await Meters.read(rig)
        looks = (await alone(rig, QUEUE.slug, star.author)).looks
        each.append((await Meters.read(rig)).since(before, looks).commands or {})
    return {server: median(commands[server] for commands in each) for server in SERVERS}


def test_a_post_costs_what_one_costs_that_comes_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    """Of a burst, of which a job takes along what waits, a post costs a fifth of the commands. However often the
    harness looks whether something is delivered, that is nobody's cost.
    """
    monkeypatch.setattr(units, "PHASES", (QUEUE,))
    right = base.delivered

    async def often(*asked: Any, **more: Any) -> int:
        return sum([await right(*asked, **more) for _ in range(11)])

    async def work() -> None:
        async with running() as rig:
            one = await commands_alone(rig)
            monkeypatch.setattr(base, "delivered", often)
            monkeypatch.setattr(units, "delivered", often)
            measured = await of_queue(rig)
            assert measured.post.commands["redis"] == pytest.approx(one["redis"], rel=0.2)
            assert measured.post.commands["mongodb"] == pytest.approx(one["mongodb"], abs=8), "of ten looks more"
            assert measured.along
            assert measured.along.commands["redis"] < one["redis"] / 2  # of MongoDB the worker's sweeps ask, too

    with asyncio.Runner(loop_factory=event_loop) as runner:
        runner.run(work())
