"""What goes on after somebody has been answered: a post does not wait for its enqueue, and none is forgotten."""

import asyncio
import threading

import httpx
import pytest

from app.config import Config
from app.stack import connected
from app.watch import metrics
from app.web import create_app
from app.web.afterwards import MOST, Afterwards
from phases.timelines import Timelines
from tests.test_deadlines import PATIENCE_S, signed_in
from tests.world import STAND_INS

pytestmark = pytest.mark.anyio


async def test_a_post_is_acknowledged_before_its_job_is_queued_and_a_stop_waits_for_that(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    async with connected(STAND_INS, Config()) as stack:
        app = create_app(stack, await Timelines.open(stack))
        headers, may_go_on, offer, offered = await signed_in(stack), threading.Event(), stack.queue._offer, []

        def slowly(phase: str, *job: object) -> bool:
            may_go_on.wait(PATIENCE_S)
            offered.append(phase)
            return offer(phase, *job)  # type: ignore[arg-type]

        monkeypatch.setattr(stack.queue, "_offer", slowly)
        async with (
            app.router.lifespan_context(app),
            httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://feedlab.test") as http,
        ):
            post = http.post("/api/v1/statuses", json={"text": "hello"}, headers=headers)
            assert (await asyncio.wait_for(post, PATIENCE_S)).status_code == 201
            assert not offered
            page = await http.get("/api/v1/timeline", headers=headers)
            assert [status["text"] for status in page.json()["statuses"]] == ["hello"], "what is owed is shown"
            may_go_on.set()
        assert offered == ["cache"]
        assert len(await stack.queue.known()) == 1


async def test_whoever_comes_when_too_much_goes_on_waits_for_their_own() -> None:
    afterwards, end, done = Afterwards(), asyncio.Event(), 0

    async def work() -> None:
        nonlocal done
        await end.wait()
        done += 1

    async with afterwards.open():
        for _ in range(MOST):
            await afterwards.do(work())
        last = asyncio.create_task(afterwards.do(work()))
        assert not (await asyncio.wait([last], timeout=0.05))[0]
        end.set()
        await last
    assert done == MOST + 1
    await afterwards.do(work())
    assert done == MOST + 2, "after the end there is nobody to do it later"


async def test_what_fails_after_an_answer_is_logged_and_counted_and_stops_nothing(
    caplog: pytest.LogCaptureFixture,
) -> None:
    async def fails() -> None:
        raise ValueError("wrong")

    afterwards, before = Afterwards(), _failed()
    async with afterwards.open():
        await afterwards.do(fails())
    assert "ValueError: wrong" in caplog.text
    assert _failed() == before + 1


def _failed() -> float:
    return metrics.REGISTRY.get_sample_value("feedlab_background_errors_total", {"work": "after_answer"}) or 0
