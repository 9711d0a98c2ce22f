"""Addresses at the root for operators: whether the process is alive, whether it can work, and its metrics."""

import asyncio
from collections.abc import Callable
from contextlib import suppress
from time import perf_counter

from prometheus_client.exposition import CONTENT_TYPE_LATEST
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import BaseRoute, Mount, Route
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from app.stack import OutOfTime, is_away, within
from app.watch import metrics
from app.web.problems import RETRY_LATER, Problem
from app.web.sampled import Sampled
from phases.timelines import State, Timelines
from workers.sampler import sample
from workers.tailer import StreamState, stream_state

NO_STORE = {"Cache-Control": "no-store"}
METHODS = frozenset({"GET", "HEAD", "POST", "PUT", "DELETE", "OPTIONS", "PATCH"})
LASTING = (b"text/event-stream", b"image/")  # what takes as long as its reader does
PATIENCE_S = 1.0  # of whoever asks for metrics while a server hangs: what was sampled before is told


class Health:
    """The servers' health, sampled: however many ask, and how often, the servers are asked once.

    `hear` is called with each state; `note` is called to note the process's own metrics.
    """

    def __init__(self, timelines: Timelines, hear: Callable[[State], None], note: Callable[[], None]) -> None:
        self._timelines, self._hear, self._note = timelines, hear, note
        self.sample = Sampled(self._sample)
        self.servers = Sampled(timelines.stack.check)  # the version of each, or None where it does not answer
        self.stream = Sampled(self._stream)

    async def _sample(self) -> None:
        self._note()
        if state := await sample(self._timelines):
            self._hear(state)

    async def _stream(self) -> StreamState | None:
        try:
            return await stream_state(self._timelines)
        except Exception as error:
            if not is_away(error):
                raise
            return None


class Measured:
    """Counts and times every request by the template of its route, so that there are as many labels as routes.

    Of a stream and of a picture it times the beginning.
    """

    def __init__(self, app: ASGIApp) -> None:
        self.app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            return await self.app(scope, receive, send)
        status, elapsed_s, started_s = 0, 0.0, perf_counter()

        async def watched(message: Message) -> None:
            nonlocal status, elapsed_s
            if message["type"] == "http.response.start":
                status = message["status"]
                if any(value.startswith(LASTING) for _, value in message["headers"]):
                    elapsed_s = perf_counter() - started_s
            await send(message)

        try:
            await self.app(scope, receive, watched)
        except Exception:
            status = 500  # who has the beginning of an answer does not get the rest
            raise
        finally:
            route = _template(scope)
            method = scope["method"] if scope["method"] in METHODS else "other"
            metrics.REQUESTS.labels(route, method, status).inc()
            metrics.REQUEST_SECONDS.labels(route).observe(elapsed_s or perf_counter() - started_s)


def _template(scope: Scope) -> str:
    route = scope.get("route")
    if isinstance(route, Route):
        return str(scope.get("root_path", "")) + route.path
    return route.path if isinstance(route, Mount) else "unmatched"


async def healthz(request: Request) -> Response:
    """Answer 200: the process is alive."""
    return JSONResponse({"status": "ok"}, headers=NO_STORE)


async def readyz(request: Request) -> Response:
    """Answer whether every server answers, with the version of each; 503 when one does not.

    It is 503 also when a phase lives by a change stream that nobody follows: MongoDB has no majority, or no worker
    runs.
    """
    health = request.app.state.health
    found, stream = await asyncio.gather(health.servers.latest(), health.stream.latest())
    servers = {name: {"status": "ok" if version else "away", "version": version} for name, version in found.items()}
    if stream:
        servers["stream"] = {"status": "silent" if stream.is_silent else "ok", "version": None}
        if stream.is_silent and all(found.values()):
            silent = f"The change stream has been silent for {stream.silent_s:.0f} s."
            return Problem(503, silent, RETRY_LATER, more={"servers": servers}).response()
    if all(found.values()):
        return JSONResponse({"status": "ok", "servers": servers}, headers=NO_STORE)
    away = ", ".join(name for name, version in found.items() if not version)
    return Problem(503, f"No answer from {away}.", RETRY_LATER, more={"servers": servers}).response()


async def prometheus(request: Request) -> Response:
    """Answer the metrics of this process."""
    with suppress(OutOfTime):
        await within(PATIENCE_S, request.app.state.health.sample.latest())
    return Response(metrics.text(), headers=NO_STORE, media_type=CONTENT_TYPE_LATEST)


ROUTES: list[BaseRoute] = [Route("/healthz", healthz), Route("/readyz", readyz), Route("/metrics", prometheus)]
