"""The HTTP client of a fault run: it tells clean failures from others, and tries again."""

import asyncio
import json
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from math import inf
from random import Random
from typing import Any, TypeVar

import httpx

from benchmarks.faults.outcome import NeverRecovered, Outcome

T = TypeVar("T")

PASSWORD = "sesame open"  # of everybody in a directory that lives as long as the run
ANSWER_DEADLINE_S = 45.0  # a request without any answer for longer hangs
GIVE_UP_S = 150.0  # an operation that still fails so long after it was first tried never recovers
RETRY_PAUSE_S = 0.25
CONNECTIONS = 100
IMPATIENT = 0.15  # share of what is sent whose client hangs up early and tries again: as if the answer had been lost
PATIENCE_S = 0.04  # at most, of those
NEVER_REPLAYED = 0.1  # share of what is sent with an unknown outcome that is left so

BROKEN = (httpx.ReadError, httpx.WriteError, httpx.CloseError, httpx.RemoteProtocolError)


class Client:
    """One HTTP client for everybody. `call` returns None when it is not known whether the request was carried out."""

    def __init__(self, http: httpx.AsyncClient, outcome: Outcome) -> None:
        self.http, self.outcome = http, outcome
        self._tokens: dict[str, str] = {}

    async def sign_in(self, handle: str) -> None:
        body = {"handle": handle, "password": PASSWORD}
        answer = await persist(lambda _: self.call("", "sign in", "POST", "/tokens", 200, 201, json=body))
        self._tokens[handle] = answer.json()["token"]

    async def call(
        self,
        who: str,
        kind: str,
        method: str,
        path: str,
        *accepted: int,
        headers: dict[str, str] | None = None,
        patience_s: float = inf,
        **more: Any,
    ) -> httpx.Response | None:
        self.outcome.requests += 1
        began_s = time.monotonic()
        authorization = {"Authorization": f"Bearer {self._tokens[who]}"} if who else {}
        # Only while it waits for an answer: httpx leaves a socket open when it is cancelled in a TLS handshake.
        hang_up = httpx.Timeout(None, read=None if patience_s == inf else patience_s)
        more |= {"headers": authorization | (headers or {}), "timeout": hang_up}
        try:
            async with asyncio.timeout(ANSWER_DEADLINE_S):
                answer = await self.http.request(method, path, **more)
        except httpx.ConnectError:
            self.outcome.errors["connection refused"] += 1
        except BROKEN:
            self.outcome.errors["connection broken"] += 1
        except httpx.ReadTimeout:
            self.outcome.errors["hung up by the client"] += 1
        except TimeoutError:
            self.outcome.unclean.append(f"{method} {path}: no answer within {ANSWER_DEADLINE_S:.0f} s")
        else:
            if answer.status_code in accepted:
                self.outcome.success(kind, began_s)
                return answer
            if _is_clean_503(answer):
                self.outcome.errors["503"] += 1
            else:
                self.outcome.unclean.append(f"{method} {path}: {answer.status_code} {answer.text[:300]}")
        finally:
            self.outcome.slowest_answer_s = max(self.outcome.slowest_answer_s, time.monotonic() - began_s)
        return None


def _is_clean_503(answer: httpx.Response) -> bool:
    if answer.status_code != 503 or answer.headers.get("content-type") != "application/problem+json":
        return False
    try:
        problem = answer.json()
    except json.JSONDecodeError:
        return False
    return {"type", "title", "status", "detail"} <= problem.keys() and "retry-after" in answer.headers


async def persist(attempt: Callable[[int], Awaitable[T | None]]) -> T:
    """Call `attempt` with the number of the try, until it returns a result. Raises NeverRecovered."""
    deadline, number = time.monotonic() + GIVE_UP_S, 1
    while (result := await attempt(number)) is None:
        if time.monotonic() > deadline:
            raise NeverRecovered(f"an operation still fails after {GIVE_UP_S:.0f} s")
        await asyncio.sleep(RETRY_PAUSE_S)
        number += 1
    return result


def patience_s(number: int, random: Random) -> float:
    """Return the seconds to wait for the answer to a try: sometimes short at the first one, else without end."""
    return random.uniform(0, PATIENCE_S) if number == 1 and random.random() < IMPATIENT else inf


@asynccontextmanager
async def client(url: str, outcome: Outcome) -> AsyncIterator[Client]:
    limits = httpx.Limits(max_connections=CONNECTIONS, max_keepalive_connections=CONNECTIONS)
    async with httpx.AsyncClient(base_url=f"{url}/api/v1", timeout=None, limits=limits, trust_env=False) as http:
        yield Client(http, outcome)
