"""At the root, for those who run the system: is it alive, can it work, what has it done."""

from time import perf_counter

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest
from prometheus_client.exposition import CONTENT_TYPE_LATEST
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import BaseRoute, Mount, Route
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from app.stack import UNAVAILABLE
from app.web.problems import RETRY_LATER, Problem
from app.web.sampled import Sampled
from phases.timelines import State, Timelines
from workers.follower import StreamState, stream_state

NO_STORE = {"Cache-Control": "no-store"}
METHODS = frozenset({"GET", "HEAD", "POST", "PUT", "DELETE", "OPTIONS", "PATCH"})
BUCKETS_S = (0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1.0, 2.0, 5.0)


class Metrics:
    """Figures of one application in one process."""

    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        self.requests = Counter(
            "feedlab_requests", "Requests answered", ["route", "method", "status"], registry=self.registry
        )
        self.seconds = Histogram(
            "feedlab_request_seconds", "Time to the whole answer", ["route"], buckets=BUCKETS_S, registry=self.registry
        )
        self.posts = Counter("feedlab_posts", "Statuses acknowledged", registry=self.registry)
        self.reads = Counter(
            "feedlab_timeline_reads", "Pages of home timelines", ["phase", "source"], registry=self.registry
        )
        self.pending = Gauge(
            "feedlab_pending_statuses", "Statuses a phase still has to deliver", ["phase"], registry=self.registry
        )
        self.queued = Gauge("feedlab_queued_jobs", "Jobs waiting", ["phase"], registry=self.registry)
        self.silent = Gauge(
            "feedlab_stream_silent_seconds", "Since the change stream has moved on", ["owner"], registry=self.registry
        )
        self.lag = Gauge(
            "feedlab_stream_lag_seconds", "From an insert to its delivery, the last", ["owner"], registry=self.registry
        )

        self.live_connections = Gauge("feedlab_live_connections", "Live streams that are open", registry=self.registry)
        self.live_events = Counter(
            "feedlab_live_events", "Events put on live streams", ["event"], registry=self.registry
        )

    def sent_live(self, event: str, streams: int) -> None:
        self.live_events.labels(event).inc(streams)

    def text(self, state: State | None, stream: StreamState | None) -> bytes:
        """The Prometheus text. Figures that the servers know are left out while they do not answer, and those of the
        change stream where nobody has to follow it.
        """
        for gauge in (self.pending, self.queued, self.silent, self.lag):
            gauge.clear()
        if stream:
            self.silent.labels(stream.owner or "").set(stream.silent_s)
            if stream.lag_s is not None:
                self.lag.labels(stream.owner or "").set(stream.lag_s)
        for phase in state.phases if state else ():
            self.pending.labels(phase.slug).set(phase.pending)
            self.queued.labels(phase.slug).set(phase.queued)
        return generate_latest(self.registry)


class Health:
    """How the servers are, sampled: whoever asks, and how often, the servers are asked once."""

    def __init__(self, timelines: Timelines) -> None:
        self._timelines = timelines
        self.state = Sampled(self._state)
        self.servers = Sampled(timelines.stack.check)  # the version of each, or None where it does not answer
        self.stream = Sampled(self._stream)

    async def _state(self) -> State | None:
        try:
            return await self._timelines.state()
        except UNAVAILABLE:
            return None

    async def _stream(self) -> StreamState | None:
        try:
            return await stream_state(self._timelines)
        except UNAVAILABLE:
            return None


class Measured:
    """Counts and times every request by the template of its route, so that there are as many labels as routes."""

    def __init__(self, app: ASGIApp, metrics: Metrics) -> None:
        self.app = app
        self.metrics = metrics

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            return await self.app(scope, receive, send)
        status = 0

        async def watched(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
            await send(message)

        started_s = perf_counter()
        try:
            await self.app(scope, receive, watched)
        finally:
            route = _template(scope)
            method = scope["method"] if scope["method"] in METHODS else "other"
            self.metrics.requests.labels(route, method, status).inc()
            self.metrics.seconds.labels(route).observe(perf_counter() - started_s)


def _template(scope: Scope) -> str:
    route = scope.get("route")
    if isinstance(route, Route):
        return str(scope.get("root_path", "")) + route.path
    return route.path if isinstance(route, Mount) else "unmatched"


async def healthz(request: Request) -> Response:
    """The process lives."""
    return JSONResponse({"status": "ok"}, headers=NO_STORE)


async def readyz(request: Request) -> Response:
    """Whether every server answers, with the version of each; 503 when one does not, or when a phase lives by a change
    stream that nobody hears: MongoDB has no majority, or no worker is there.
    """
    health = request.app.state.health
    found, stream = await health.servers.latest(), await health.stream.latest()
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


async def metrics(request: Request) -> Response:
    """Prometheus text."""
    health = request.app.state.health
    text = request.app.state.metrics.text(await health.state.latest(), await health.stream.latest())
    return Response(text, headers=NO_STORE, media_type=CONTENT_TYPE_LATEST)


ROUTES: list[BaseRoute] = [Route("/healthz", healthz), Route("/readyz", readyz), Route("/metrics", metrics)]
