"""What `bench units` says of a post, beside what the servers count for one."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest

from app.loop import event_loop
from benchmarks import rig as rigs
from benchmarks import scenes, units
from benchmarks.observe import Meters
from benchmarks.report import PhaseUnits
from benchmarks.rig import Rig
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
    """Return the commands of a post that comes alone, by server."""
    star = await scenes.star(rig, units.FEW, units.FEW)
    await only(rig, QUEUE.slug)
    before = await Meters.read(rig)
    for _ in range(POSTS):
        await alone(rig, QUEUE.slug, star.author)
    used = (await Meters.read(rig)).since(before).commands
    assert used
    return {server: count / POSTS for server, count in used.items()}


def test_a_post_costs_what_one_costs_that_comes_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    """Of a burst, of which a job takes along what waits, a post costs a fifth of the commands."""
    monkeypatch.setattr(units, "PHASES", (QUEUE,))

    async def work() -> None:
        async with running() as rig:
            measured, redis = await of_queue(rig), (await commands_alone(rig))["redis"]
            assert measured.post.commands["redis"] == pytest.approx(redis, rel=0.2)
            assert measured.along
            assert measured.along.commands["redis"] < redis / 2

    with asyncio.Runner(loop_factory=event_loop) as runner:
        runner.run(work())
