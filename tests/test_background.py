"""Work that nobody waits for: an error in it is counted by the work, logged, and ends nothing else."""

import asyncio
import threading
from unittest.mock import patch

import httpx
import pytest
from bson import ObjectId
from pymongo.errors import AutoReconnect

from app import departures
from app.accounts import Accounts
from app.config import Config
from app.departures import depart
from app.live import hub, presence
from app.live.poll import Poll
from app.live.presence import Presences
from app.models import SETTINGS
from app.stack import connected
from app.watch import metrics
from app.watch.background import beside
from app.web import create_app
from phases.pulling.author import PAGES, READS
from phases.timelines import Timelines
from tests.world import STAND_INS
from workers import sampler, sweeper, worker

pytestmark = pytest.mark.anyio

PATIENCE_S = 30.0
LOOPS = ("departures", "live", "presence", "sample")  # of a web process


def counted(work: str) -> float:
    return metrics.REGISTRY.get_sample_value("feedlab_background_errors_total", {"work": work}) or 0


async def fails(*_: object) -> None:
    raise ValueError("a fault of ours")


async def test_a_fault_in_each_loop_of_a_web_process_is_counted_and_the_loop_goes_on(
    caplog: pytest.LogCaptureFixture,
) -> None:
    async with connected(STAND_INS, Config()) as stack:
        app = create_app(stack, await Timelines.open(stack))
        before = {work: counted(work) for work in LOOPS}
        with (
            patch.multiple(departures, EVERY_S=0.01, clear_departures=fails),
            patch.multiple(hub, RETRY_S=0.01),
            patch.object(Poll, "look", fails),
            patch.multiple(presence, LOOK_S=0.01),
            patch.object(Presences, "look", fails),
            patch.multiple(sampler, EVERY_S=0.01, _dead=fails),
        ):
            async with (
                app.router.lifespan_context(app),
                httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://feedlab.test") as http,
                asyncio.timeout(PATIENCE_S),
            ):
                while not all(counted(work) >= before[work] + 2 for work in LOOPS):  # noqa: ASYNC110
                    await asyncio.sleep(0.01)
                assert (await http.get("/healthz")).status_code == 200
    assert "ValueError: a fault of ours" in caplog.text


async def test_a_web_process_stores_what_it_has_counted_and_an_outage_ends_nothing() -> None:
    """Pages and posts: phase 6 decides by them, and no page waits for that."""
    outages = iter([True])

    async def stored(timelines: Timelines) -> None:
        if next(outages, False):
            raise AutoReconnect("no primary")
        await store(timelines)

    store = Timelines.store_counts
    async with connected(STAND_INS, Config()) as stack:
        app = create_app(stack, timelines := await Timelines.open(stack))
        before = counted("sample")
        with patch.object(sampler, "COUNTS_EVERY_S", 0.01), patch.object(Timelines, "store_counts", stored):
            async with app.router.lifespan_context(app), asyncio.timeout(PATIENCE_S):
                while not (found := await stack.db[SETTINGS].find_one({"_id": READS})):
                    await timelines.page(ObjectId())
                    await asyncio.sleep(0.01)
        assert found[PAGES]
        assert counted("sample") == before, "an outage is no error of ours"


async def test_a_process_that_ends_stores_what_it_has_counted() -> None:
    async with connected(STAND_INS, Config()) as stack:
        app = create_app(stack, timelines := await Timelines.open(stack))
        async with app.router.lifespan_context(app):
            await timelines.page(ObjectId())
        assert ((await stack.db[SETTINGS].find_one({"_id": READS})) or {})[PAGES]


async def test_a_loop_that_dies_is_counted_and_ends_nothing_else(
    caplog: pytest.LogCaptureFixture,
) -> None:
    before, going_on = counted("ended"), asyncio.Event()

    async def neighbour() -> None:
        while counted("ended") == before:  # noqa: ASYNC110
            await asyncio.sleep(0.01)
        going_on.set()
        await asyncio.Event().wait()

    async with beside(fails(), neighbour()):
        await asyncio.wait_for(going_on.wait(), PATIENCE_S)
    assert counted("ended") == before + 1
    assert "fails" in caplog.text, "which it was"


async def test_no_sweep_waits_until_what_an_account_left_is_cleared_away() -> None:
    begun = asyncio.Event()

    async def never_ends(*_: object) -> None:
        begun.set()
        await asyncio.Event().wait()

    with patch.multiple(departures, EVERY_S=0.01, _clear=never_ends), patch.object(sweeper, "EVERY_S", 0.01):
        async with worker._connected_runtime(STAND_INS, Config(), ()) as runtime, asyncio.timeout(PATIENCE_S):
            stack = runtime.timelines.stack

            async def sweeps() -> int:
                settings = await stack.db["settings"].find_one({"_id": "phases"})
                return max((settings or {}).get("pulses", {}).values(), default=0)

            await depart(stack.db, stack.clock, (await Accounts(stack).sign_up("ann", None, "correct horse")).id)
            await begun.wait()
            before = await sweeps()
            while await sweeps() < before + 2:  # noqa: ASYNC110
                await asyncio.sleep(0.01)


async def test_a_worker_says_in_which_thread_its_event_loop_is() -> None:
    """How long that waits for a processor is told."""
    with patch.object(metrics.MACHINE, "loop_thread", None):
        async with worker._connected_runtime(STAND_INS, Config(), ()):
            assert metrics.MACHINE.loop_thread == threading.get_native_id()
