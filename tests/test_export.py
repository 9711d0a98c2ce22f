"""A copy of everything of one's own, while a server is away: over a real uvicorn, since its end is what it is about."""

import re
from collections.abc import AsyncIterator
from typing import Any

import httpx
import pytest
from pymongo.errors import ServerSelectionTimeoutError

from app.models import User
from app.social.people import People
from tests.live.test_wire import Site, running

pytestmark = pytest.mark.anyio

ADDRESSES = ("/api/v1/me/export", "/settings/export")


@pytest.fixture
async def site() -> AsyncIterator[Site]:
    async with running() as site:
        yield site


@pytest.fixture
async def ann(site: Site) -> dict[str, str]:
    """Headers for both addresses."""
    token = await site.person("ann")
    cookie = f"feedlab_session_{site.port}={token['Authorization'].split()[1]}"
    return {**token, "Cookie": cookie}


async def away(*_: Any, **__: Any) -> None:
    raise ServerSelectionTimeoutError("no primary")


def at(site: Site, address: str) -> str:
    return f"http://127.0.0.1:{site.port}{address}"


@pytest.mark.parametrize("address", ADDRESSES)
async def test_an_export_that_cannot_begin_is_503(
    site: Site, ann: dict[str, str], address: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(User, "find_one", away)
    answer = await site.http.get(at(site, address), headers=ann)
    assert answer.status_code == 503
    assert answer.headers["Retry-After"]
    assert answer.headers.get("Content-Disposition") is None
    assert (answer.headers["Content-Type"] == "application/problem+json") == address.startswith("/api")
    assert (await site.http.head(at(site, address), headers=ann)).status_code == 200, "nothing is looked up"


@pytest.mark.parametrize("address", ADDRESSES)
async def test_an_export_that_cannot_go_on_breaks_off_and_is_counted_as_an_error(
    site: Site, ann: dict[str, str], address: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(People, "followers", away)
    before = await counted(site, address)
    received = bytearray()
    async with site.http.stream("GET", at(site, address), headers=ann) as answer:
        assert answer.status_code == 200
        with pytest.raises(httpx.RemoteProtocolError):
            await read(answer, received)
    assert b'"account":' in received
    assert b'"messages"' not in received
    assert await counted(site, address) == {**before, "500": before.get("500", 0) + 1}


async def read(answer: httpx.Response, received: bytearray) -> None:
    async for part in answer.aiter_bytes():
        received += part


async def counted(site: Site, address: str) -> dict[str, float]:
    """Answers by status."""
    text = (await site.http.get(at(site, "/metrics"))).text
    pattern = rf'^feedlab_http_requests_total{{method="GET",route="{address}",status="(\d+)"}} (\S+)$'
    return {status: float(number) for status, number in re.findall(pattern, text, re.MULTILINE)}
