"""Where pages and deliveries are timed one by one, a wrong one leaves no figures either."""

import asyncio
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from bson import ObjectId

from app.config import Config
from app.loop import event_loop
from app.social.statuses import Statuses
from app.stack import Addresses
from benchmarks import answers, cli, crossover, curves, rig, scenes, targets, units
from benchmarks.report import Targets
from benchmarks.rig import Rig
from benchmarks.subject import WrongAnswer
from benchmarks.targets.base import Scale
from phases.home.page import Page
from phases.p2_push import PUSH
from phases.timelines import Timelines
from tests.benchmarks.command import bench
from tests.benchmarks.test_compare import virtual_rig
from tests.benchmarks.virtual import run
from tests.conftest import real_servers


async def to_nobody(*_: object) -> None:
    """Makes no step of a walk, and says that it was the last."""


@contextmanager
def empty_pages() -> Iterator[None]:
    right = Timelines.page

    async def page(*asked: Any, **more: Any) -> Page:
        return replace(await right(*asked, **more), statuses=[])

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Timelines, "page", page)
        yield


@contextmanager
def deliveries_to_nobody() -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(answers, "put_on_timelines", to_nobody)
        yield


def rows(*names: str) -> Callable[[Rig], Awaitable[Targets]]:
    return lambda rig: targets.measure(rig, names, Scale().smaller(0.01))


@pytest.mark.servers
def test_nothing_is_shown_of_what_is_wrong(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(crossover, "OPERATIONS", 10)
    monkeypatch.setattr(crossover, "AT_ONCE", 1)
    measurements: list[tuple[Any, Callable[[Rig], Awaitable[object]]]] = [
        (empty_pages, rows("read-push")),
        (empty_pages, rows("read-followees")),
        (empty_pages, rows("page-redis")),
        (empty_pages, rows("cold")),
        (empty_pages, rows("http")),
        (empty_pages, rows("page-pulled")),
        (empty_pages, lambda rig: curves.read(rig, 10, 1)),
        (empty_pages, lambda rig: units.measure(rig, 2, 1)),
        (empty_pages, lambda rig: crossover.crossover(rig, 10, (30,), 1)),
        (deliveries_to_nobody, rows("fanout-raw")),
        (deliveries_to_nobody, rows("fanout-stream-raw")),
        (deliveries_to_nobody, rows("fanout-inactive")),
        (deliveries_to_nobody, lambda rig: curves.fanout(rig, 10, 1)),
    ]

    async def work(served: tuple[Addresses, Path, Config]) -> None:
        async with rig.rig(*served, "api") as running:
            before = await rows("page-asks")(running)
            for wrong, measure in measurements:
                running.so_far = before
                with wrong(), pytest.raises(WrongAnswer):
                    await measure(running)
                assert running.so_far is None

    with real_servers(), rig.servers("servers", False) as served, asyncio.Runner(loop_factory=event_loop) as runner:
        runner.run(work(served))


@pytest.mark.parametrize("command", ["targets", "fanout", "read", "units", "crossover"])
def test_what_is_wrong_is_exit_status_1(command: str, monkeypatch: pytest.MonkeyPatch) -> None:
    def measured(*_: object, **__: object) -> None:
        raise WrongAnswer("another page")

    monkeypatch.setattr(cli, "_measured", measured)
    done = bench(command)
    assert (done.exit_code, done.output) == (1, "wrong, so there are no figures: another page\n")


def test_what_is_delivered_is_looked_for_at_the_last_follower() -> None:
    async def work() -> None:
        async with virtual_rig((PUSH,)) as rig:
            await answers.deliver_only(rig.timelines, [PUSH.slug])
            star = await scenes.star(rig, 3, 3)
            await scenes.check_fan_out(rig, PUSH, star)
            status, _ = await Statuses(rig.stack, rig.timelines.outbox).post(star.author, "a status")
            await scenes.check_kept(rig, PUSH, star, status.id)
            with pytest.raises(WrongAnswer, match="does not have it"):
                await scenes.check_kept(rig, PUSH, star, ObjectId())
            await scenes.check_page(rig, star.last, PUSH.slug, 20)
            with pytest.raises(WrongAnswer, match="shows 0 statuses"):
                scenes.check(PUSH.slug, star.last, [], [status.id])

    run(work())
