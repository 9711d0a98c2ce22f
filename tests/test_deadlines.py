"""A server that hangs holds nobody longer than one request may wait, however many others wait for it."""

import asyncio
import threading
from io import BytesIO
from pathlib import Path
from typing import Any
from unittest.mock import Mock, patch

import httpx
import psutil
import pytest
from bson import ObjectId
from PIL import Image
from pymongo.asynchronous.database import AsyncDatabase

from app.accounts import Accounts
from app.config import Config
from app.inbox import pictures
from app.models import User
from app.servers.borrow import running_servers
from app.servers.datadir import DataDirectory
from app.stack import MemcachedDown, connected, within
from app.stack.deadline import OutOfTime
from app.stack.memcached import POOL_SIZE, MemcachedNodes, _Pool
from app.web import create_app
from app.web.session import SESSION
from phases.timelines import Timelines
from tests.conftest import real_servers
from tests.site import PASSWORD, opened
from tests.waiting import for_ever
from tests.world import STAND_INS

pytestmark = pytest.mark.anyio

PATIENCE_S = 20  # of a test, with a request that waits for ever
READERS = 200


@pytest.mark.parametrize("hangs", ["authenticate", "page"])
async def test_a_request_ends_with_503_while_what_it_waits_for_hangs(hangs: str) -> None:
    config = Config(server_timeout_s=0.1)
    async with connected(STAND_INS, config) as stack:
        timelines = await Timelines.open(stack)
        app = create_app(stack, timelines)
        headers = await signed_in(stack)
        hanging: Any = app.state.services.accounts if hangs == "authenticate" else timelines
        async with httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://feedlab.test") as http:
            with patch.object(hanging, hangs, for_ever):
                for path in ("/api/v1/timeline", "/"):
                    answer = await asyncio.wait_for(http.get(path, headers=headers), PATIENCE_S)
                    assert answer.status_code == 503, path
                    assert answer.headers["Retry-After"]
            stack.config = config.model_copy(update={"server_timeout_s": PATIENCE_S})
            assert (await http.get("/api/v1/timeline", headers=headers)).status_code == 200


def png() -> bytes:
    made = BytesIO()
    Image.new("RGB", (1, 1)).save(made, "PNG")
    return made.getvalue()


async def signed_in(stack: Any) -> dict[str, str]:
    user = User(handle="ann", name="Ann", created_at=stack.clock.now())
    await user.insert()
    token, _ = await Accounts(stack).new_token(user.id)
    return {"Authorization": f"Bearer {token}", "Cookie": f"{SESSION}={token}"}


@pytest.mark.parametrize(
    ("path", "hangs"), [("/sign-in", "page"), ("/sign-in-as", "by_handle"), ("/sign-out", "sign_out")]
)
async def test_so_does_coming_in_and_going(path: str, hangs: str) -> None:
    """Hashing a password takes its time; what comes before and after it has that of any other request."""
    async with opened(demo=True, server_timeout_s=PATIENCE_S) as site:
        ann = site.browser()
        await ann.sign_up("ann")
        if path != "/sign-out":
            await ann.submit("/sign-out")
            await ann.open("/sign-in?next=/")
        ours = site.app.state.services
        hanging: Any = {"page": site.timelines, "by_handle": ours.people, "sign_out": ours.accounts}[hangs]
        site.stack.config = site.stack.config.model_copy(update={"server_timeout_s": 0.1})
        typed = {"handle": "ann", "password": PASSWORD, "text": "typed before"}
        with patch.object(hanging, hangs, for_ever):
            await asyncio.wait_for(ann.submit(path, **typed), PATIENCE_S)
        assert ann.status == 503


@pytest.mark.parametrize(
    ("call", "first", "then"),
    [
        ("GET /api/v1/timeline", "accounts.authenticate", "timelines.page"),
        ("GET /", "accounts.authenticate", "timelines.page"),
        ("DELETE /api/v1/tokens/current", "accounts.authenticate", "accounts.sign_out"),
        ("PUT /api/v1/phases", "accounts.authenticate", "accounts.operates"),
        ("PUT /api/v1/phases", "accounts.operates", "timelines.change"),
        ("PUT {upload}", "pictures.admitted", "insert"),
        ("GET /operations", "accounts.authenticate", "accounts.operates"),
    ],
)
async def test_all_steps_of_a_request_have_the_time_of_one(call: str, first: str, then: str) -> None:
    """The first takes nearly all of it. Were it given anew, the next would have 30 s left when it hangs."""
    loop, passed_s = asyncio.get_running_loop(), 0.0
    async with connected(STAND_INS, Config(server_timeout_s=60)) as stack:
        timelines = await Timelines.open(stack)
        app = create_app(stack, timelines)
        ours, headers = app.state.services, await signed_in(stack)
        await User.find_one(User.handle == "ann").update({"$set": {"admin": True}})
        address, _ = await ours.pictures.address(ObjectId(), "image/png", len(png()))
        method, path = call.format(upload=f"/api/v1/uploads/{address}").split()
        service, step = first.split(".")
        takes = getattr(getattr(ours, service), step)

        async def takes_long(*args: Any, **named: Any) -> Any:
            nonlocal passed_s
            found = await takes(*args, **named)
            passed_s += 59
            return found

        async def hangs(*_: Any, **__: Any) -> None:
            nonlocal passed_s
            passed_s += 30
            await for_ever()

        hanging: Any = pictures if then == "insert" else getattr(ours, then.split(".")[0])
        sent: dict[str, Any] = (
            {"content": png()} if then == "insert" else {"json": {"delivering": []}} if method == "PUT" else {}
        )
        clock_s = loop.time
        with (
            patch.object(loop, "time", lambda: clock_s() + passed_s),
            patch.object(getattr(ours, service), step, takes_long),
            patch.object(hanging, then.split(".")[-1], hangs),
        ):
            async with httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://feedlab.test") as http:
                asked = http.request(method, path, headers=headers, **sent)
                answer = await asyncio.wait_for(asked, 59 + 30 + PATIENCE_S / 2)
        assert (answer.status_code, passed_s) == (503, 59 + 30)


async def test_a_time_out_from_within_is_not_taken_for_the_end_of_the_time() -> None:
    async def fails() -> None:
        raise TimeoutError("a socket's")

    with pytest.raises(TimeoutError, match="a socket's"):
        await within(60, fails())
    with pytest.raises(OutOfTime):
        await asyncio.wait_for(within(0.01, for_ever()), PATIENCE_S)


async def test_whoever_waits_for_a_thread_while_memcached_hangs_does_not_try_it_too() -> None:
    memcached, tries, everybody_waits = MemcachedNodes(["127.0.0.1:9"], 1.0), [], threading.Event()

    def hangs(_: _Pool, key: str) -> None:
        tries.append(key)
        everybody_waits.wait()
        raise TimeoutError

    with patch.object(_Pool, "delete", hangs), patch("app.stack.breaker.time", Mock(monotonic=lambda: 1.0)):
        reads = [asyncio.create_task(memcached.delete(f"{n}")) for n in range(READERS)]
        await asyncio.sleep(0)
        everybody_waits.set()
        ends = await asyncio.gather(*reads, return_exceptions=True)
    assert all(isinstance(end, MemcachedDown) for end in ends)
    assert len(tries) <= POOL_SIZE
    await memcached.close()


@pytest.mark.servers
async def test_with_mongod_frozen_everybody_has_their_answer_when_the_first_has_theirs(tmp_path: Path) -> None:
    """Its threads are few: were each read to wait its own time-out in one, the last would wait for all of them."""
    config = Config(server_timeout_s=2, database=f"frozen_{ObjectId()}")
    with real_servers(), running_servers(tmp_path, config) as addresses:
        async with connected(addresses, config) as stack:
            app = create_app(stack, await Timelines.open(stack))
            headers = await signed_in(stack)
            transport = httpx.ASGITransport(app)
            mongod = psutil.Process(DataDirectory(tmp_path).note().children["mongodb"].pid)
            async with httpx.AsyncClient(transport=transport, base_url="http://feedlab.test") as http:

                async def read() -> int:
                    return (await http.get("/api/v1/timeline", headers=headers)).status_code

                assert await read() == 200
                mongod.suspend()
                command = AsyncDatabase.command
                try:
                    with patch.object(AsyncDatabase, "command", autospec=True, side_effect=command) as sent:
                        ends = await asyncio.gather(*(read() for _ in range(READERS)))
                finally:
                    mongod.resume()
                assert set(ends) == {503}
                assert 1 <= sent.call_count < 5, "whoever waits for the answer of others asks nothing later"
