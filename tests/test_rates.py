"""Limits that all processes share, and what holds while Redis is away."""

import asyncio
import logging
import socket
import time
from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack
from unittest.mock import Mock, patch
from uuid import uuid4

import pytest

from app.errors import TooMany
from app.stack import Addresses
from app.stack.rates import Rates

pytestmark = pytest.mark.anyio

Opening = Callable[[str | None], Rates]


@pytest.fixture
async def opening() -> AsyncIterator[Opening]:
    """Limits as one process after another opens them."""
    prefix = uuid4().hex
    async with AsyncExitStack() as stack:

        def opened(url: str | None) -> Rates:
            rates = Rates(url, prefix)
            stack.push_async_callback(rates.close)
            return rates

        yield opened


async def test_above_the_limit_it_is_said_when_to_come_back(opening: Opening) -> None:
    rate = opening(None).rate("tries", 2, "Enough.")
    for _ in range(2):
        await rate.check("ann")
        await rate.count("ann")
    for refused in (rate.check, rate.count):
        with pytest.raises(TooMany, match="Enough") as error:
            await refused("ann")
        assert 1 <= error.value.retry_after_s <= 60
    await rate.count("bob")


async def test_nobody_is_asked_again_about_whoever_is_above_the_limit(opening: Opening) -> None:
    rates = opening(None)
    rate = rates.rate("tries", 200, "Enough.")
    rate.refuse_known("ann")
    assert [await rate.hit("ann") for _ in range(201)] == [True] * 200 + [False]
    with patch.object(rates, "on", side_effect=AssertionError("it is known")):
        assert not await rate.hit("ann")
        assert await rate.reached("ann")
        for refused in (rate.count("ann"), rate.check("ann")):
            with pytest.raises(TooMany):
                await refused
        with pytest.raises(TooMany):
            rate.refuse_known("ann")
    rate.refuse_known("bob")
    with patch("time.time", return_value=time.time() + 61):
        rate.refuse_known("ann")


async def test_counting_ahead_lets_no_more_through(opening: Opening) -> None:
    rate = opening(None).rate("tries", 500, "Enough.")
    assert [await rate.hit("ann") for _ in range(510)] == [True] * 500 + [False] * 10
    assert await rate.hit("bob")


async def test_of_very_many_the_last_ones_are_remembered(opening: Opening, monkeypatch: pytest.MonkeyPatch) -> None:
    """While Redis is away, whoever has many addresses fills no memory, and nobody's count takes longer for them."""
    monkeypatch.setattr("app.stack.rates.HERE_REMEMBERED", 50)
    rate = opening(None).rate("tries", 1, "Enough.")
    assert all([await rate.hit(n) for n in range(200)])
    assert [await rate.hit(n) for n in (199, 150, 0)] == [False, False, True]


async def test_here_too_a_window_ends(opening: Opening, monkeypatch: pytest.MonkeyPatch) -> None:
    now = Mock(return_value=1_000.0)
    monkeypatch.setattr("time.time", now)
    rates = opening(None)
    short, long = (rates.rate("tries", 2, "Enough.", minutes=minutes) for minutes in (1, 2))
    windows = {0: (True, True), 30: (True, True), 59: (False, False), 60: (True, False), 119: (True, False)}
    for seconds, within in (windows | {120: (True, True)}).items():
        now.return_value = 1_000.0 + seconds
        assert (await short.hit("ann"), await long.hit("ann")) == within, seconds


@pytest.mark.parametrize("amount", [5, 500])
async def test_many_at_once_use_up_no_more_than_they_are(opening: Opening, addresses: Addresses, amount: int) -> None:
    """A limit of 500 is counted five at a time. Of those who come at once the first one counts for the others."""
    rate = opening(addresses.redis).rate("tries", amount, "Enough.")
    for within in (True, False):
        assert await asyncio.gather(*(rate.hit("ann") for _ in range(amount))) == [within] * amount
    assert all(await asyncio.gather(*(rate.hit("bob") for _ in range(3))))


@pytest.mark.parametrize("amount", [2, 500])
async def test_a_window_that_begins_anew_has_one(opening: Opening, addresses: Addresses, amount: int) -> None:
    rate = opening(addresses.redis).rate("tries", amount, "Enough.")
    for who, hits in (("ann", 1), ("bob", amount + 1)):
        for _ in range(hits):
            await rate.hit(who)
        await rate.renew(who)
        assert [await rate.hit(who) for _ in range(amount)] == [True] * (amount - 1) + [False]


@pytest.mark.servers
async def test_processes_that_count_ahead_let_no_more_through(opening: Opening, servers: Addresses) -> None:
    each = [opening(servers.redis).rate("tries", 500, "Enough.") for _ in range(2)]
    assert sum([await rate.hit("ann") for _ in range(300) for rate in each]) == 500


@pytest.mark.servers
async def test_processes_count_together(opening: Opening, servers: Addresses) -> None:
    one, other = (opening(servers.redis).rate("tries", 2, "Enough.") for _ in range(2))
    await one.count("ann")
    await other.count("ann")
    for each in (one, other):
        with pytest.raises(TooMany):
            await each.count("ann")
    assert not await other.reached("bob")


async def test_while_redis_is_away_each_process_counts_and_says_so_once(
    opening: Opening, caplog: pytest.LogCaptureFixture
) -> None:
    with socket.socket() as nobody_listens:
        nobody_listens.bind(("127.0.0.1", 0))
        rate = opening(f"redis://127.0.0.1:{nobody_listens.getsockname()[1]}/0").rate("tries", 2, "Enough.")
        assert [await rate.hit("ann") for _ in range(3)] == [True, True, False]
    assert len([record for record in caplog.records if record.levelno == logging.WARNING]) == 1
