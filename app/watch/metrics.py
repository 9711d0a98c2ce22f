"""The metrics of a process: declared here, and counted where something happens.

Names follow Prometheus' conventions. Each process is a target of its own: nothing is added up over processes here. The
state of the whole system (pending, queued, servers) is sampled, and is the same in every process.
"""

from typing import Literal, get_args

from prometheus_client import (
    CollectorRegistry,
    Counter,
    Gauge,
    GCCollector,
    Histogram,
    PlatformCollector,
    ProcessCollector,
    start_http_server,
)
from prometheus_client import generate_latest as _generate

from app.watch.machine import Machine
from app.watch.objectives import BUCKETS_S, DELIVERED_S

# What nobody waits for; `ended`: whatever of it goes on no more
Work = Literal["after_answer", "departures", "hints", "live", "presence", "sample", "stream", "sweep", "watch", "ended"]

REGISTRY = CollectorRegistry()
ProcessCollector(registry=REGISTRY)  # processor, memory, file descriptors
PlatformCollector(registry=REGISTRY)
GCCollector(registry=REGISTRY)
MACHINE = Machine()
REGISTRY.register(MACHINE)


def _counter(name: str, text: str, *labels: str) -> Counter:
    return Counter(f"feedlab_{name}", text, labels, registry=REGISTRY)


def _gauge(name: str, text: str, *labels: str) -> Gauge:
    return Gauge(f"feedlab_{name}", text, labels, registry=REGISTRY)


def _histogram(name: str, text: str, buckets: tuple[float, ...], *labels: str) -> Histogram:
    return Histogram(f"feedlab_{name}", text, labels, buckets=buckets, registry=REGISTRY)


# Requests, of a web process

REQUESTS = _counter("http_requests", "Requests answered", "route", "method", "status")
REQUEST_SECONDS = _histogram(
    "http_request_duration_seconds", "Time to the whole answer; of a stream, to its beginning", BUCKETS_S, "route"
)

# Statuses and pages, wherever they are made

POSTS = _counter("posts", "Statuses acknowledged")
POSTS_LATE = _counter(
    "posts_stored_late", "Statuses stored over 2 s after their id by MongoDB's time: one more write each"
)
MESSAGES = _counter("messages", "Messages acknowledged")
READS = _counter("timeline_reads", "Pages of home timelines", "phase", "source")
LOOKUPS = _counter("kept_timeline_lookups", "Pages of phases that keep timelines: what was found", "phase", "result")
REBUILDS = _counter("kept_timeline_rebuilds", "Timelines filled anew for a reader who came back", "phase")

# Deliveries, of a worker or a poster

DELIVERY_LAG = _histogram(
    "delivery_lag_seconds", "From what happened to the end of its delivery; up to a second too long", DELIVERED_S,
    "consumer",
)  # fmt: skip
RETRIES = _counter("delivery_retries", "Jobs begun that had failed before", "consumer")

# Live, of a web process

LIVE_CONNECTIONS = _gauge("live_connections", "Live streams that are open")
PRESENT = _gauge("present_people", "People with a live stream here")
LIVE_EVENTS = _counter("live_events", "Events put on live streams, resets among them", "event")
LIVE_EVENTS.labels("reset")  # none is a figure, too

# This process

COMMANDS = _counter("server_commands", "Commands sent", "server")
BACKGROUND_ERRORS = _counter("background_errors", "Errors of ours in work that nobody waits for", "work")
for work in get_args(Work):
    BACKGROUND_ERRORS.labels(work)  # none is a figure, too
LOOP_LAG = _histogram(
    "event_loop_lag_seconds", "How much later than due the event loop does something", (0.005, 0.02, 0.1, 0.5, 2.0)
)

# The whole system, as it was sampled

SAMPLED = _gauge("sampled_timestamp_seconds", "When what follows was sampled")
SERVER_UP = _gauge("server_up", "Whether it answers", "server")
PENDING = _gauge(
    "pending_deliveries", "Statuses and events that a consumer still has to handle, 100,000 of each at most", "consumer"
)
OLDEST = _gauge("oldest_pending_seconds", "Age of the oldest of them that is no dead letter", "consumer")
QUEUED = _gauge("queued_jobs", "Jobs that wait for a worker, or for their next attempt", "consumer")
DEAD = _gauge("dead_letters", "Jobs that failed for good", "consumer")
BACKUP = _gauge("backup_timestamp_seconds", "When the last backup was made; 0 where none is known")
STREAM_SILENT = _gauge("stream_silent_seconds", "Age of the change stream's token: since it has moved on", "owner")
STREAM_LAG = _gauge("stream_lag_seconds", "From an insert to its delivery by the change stream, the last", "owner")


def sent_live(event: str, streams: int) -> None:
    LIVE_EVENTS.labels(event).inc(streams)


def text() -> bytes:
    """Return all metrics in Prometheus' text format."""
    return _generate(REGISTRY)


def listen(address: str) -> None:
    """Serve the metrics at `host:port`, from a thread of their own, until this process ends. Raises OSError."""
    host, _, port = address.rpartition(":")
    start_http_server(int(port), host.strip("[]"), REGISTRY)
