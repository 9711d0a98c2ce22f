"""The rules for Prometheus, made from the objectives. `python -m app.watch.rules` writes deploy/prometheus anew.

With a number as argument it prints them instead, with all windows and pauses so many times shorter.
"""

import json
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from app.watch.objectives import (
    BURNS,
    CAPACITY_PER_S,
    DAY_S,
    HOUR_S,
    LEAST_PER_S,
    MACHINES,
    MINUTE_S,
    OBJECTIVES,
    UNPROMISED,
    Burn,
    Objective,
)

FILE = Path(__file__).parents[2] / "deploy" / "prometheus" / "feedlab.rules.yml"
RUNBOOK = "docs/operations.md"
JOBS = ("feedlab-web", "feedlab-worker")  # the names of Prometheus' jobs
WINDOWS_S = sorted({window for burn in BURNS for window in (burn.long_s, burn.short_s)})


@dataclass(frozen=True)
class Alert:
    """An alert: where `when` holds for `for_s` seconds, somebody is told.

    `severity`: at once (`page`), in working hours (`ticket`), or nobody (`none`).
    """

    name: str
    severity: str
    when: str
    for_s: float
    summary: str
    objective: str | None = None


@dataclass(frozen=True)
class Scale:
    """A scale of time. `faster`: how many times shorter all durations are than in production."""

    faster: float = 1

    def span(self, seconds: float) -> str:
        """Return a duration in Prometheus' notation, at least a second."""
        left = max(1, round(seconds / self.faster))
        for unit_s, unit in ((DAY_S, "d"), (HOUR_S, "h"), (MINUTE_S, "m")):
            if left % unit_s == 0:
                return f"{left // unit_s}{unit}"
        return f"{left}s"

    def age(self, seconds: float, least_s: float) -> float:
        """Return the seconds from which an age is too high.

        Never below `least_s`: ids count whole seconds, and samples come every five, whatever the scale.
        """
        return max(least_s, seconds / self.faster)


def bad(objective: Objective, window: str) -> str:
    """Return the expression for the share of bad requests in the window. Few of them count as LEAST_PER_S."""
    if objective.within_s is None:
        asked = f'feedlab_http_requests_total{{route!~"{MACHINES}"%s}}[{window}]'
        failed, every = asked % ',status=~"5.."', asked % ""
        return f"(sum(rate({failed})) or vector(0)) / clamp_min(sum(rate({every})), {LEAST_PER_S})"
    timed = f'feedlab_http_request_duration_seconds_%s{{route!~"{UNPROMISED}"%s}}[{window}]'
    bound = f',le=~"{objective.within_s:g}(\\\\.0)?"'  # newer versions of Prometheus write whole numbers without .0
    every, good = f"sum(rate({timed % ('count', '')}))", f"sum(rate({timed % ('bucket', bound)}))"
    return f"({every} - {good}) / clamp_min({every}, {LEAST_PER_S})"


def recorded(window_s: int, objective: Objective | None = None) -> str:
    """Return the name under which the share of bad requests in a window is recorded, whatever the scale."""
    name = f"feedlab:bad_requests:ratio_rate{Scale().span(window_s)}"
    return f'{name}{{objective="{objective.name}"}}' if objective else name


def burning(objective: Objective, burns: list[Burn]) -> str:
    return " or ".join(
        f"({recorded(burn.long_s, objective)} > {burn.threshold(objective):.4g}"
        f" and {recorded(burn.short_s, objective)} > {burn.threshold(objective):.4g})"
        for burn in burns
    )


def alerts(scale: Scale) -> Iterator[Alert]:
    """Yield the alerts about Feedlab. Each has a low and a high severity, the lower one earlier."""
    minute, five, quarter = MINUTE_S, 5 * MINUTE_S, 15 * MINUTE_S
    for objective in OBJECTIVES:
        name = "FeedlabAvailability" if objective.within_s is None else "FeedlabLatency"
        for severity in ("ticket", "page"):
            when = burning(objective, [burn for burn in BURNS if burn.severity == severity])
            text = (
                f"The budget of {objective.name} burns: {{{{ $value | humanizePercentage }}}} of the requests are bad"
            )
            yield Alert(name, severity, when, 0, text, objective.name)

    def two(name: str, summary: str, ticket: tuple[str, float], page: tuple[str, float]) -> Iterator[Alert]:
        for severity, (when, for_s) in (("ticket", ticket), ("page", page)):
            yield Alert(name, severity, when, for_s, summary)

    oldest = "max by (consumer) (feedlab_oldest_pending_seconds)"
    yield from two(
        "FeedlabDeliveryLate",
        "a delivery of {{ $labels.consumer }} has been pending for {{ $value | humanizeDuration }}",
        (f"{oldest} > {scale.age(60, 8):g}", 2 * minute),
        (f"{oldest} > {scale.age(600, 16):g}", 2 * minute),
    )
    jobs = 'job=~"feedlab-.*"'
    used = f"rate(process_cpu_seconds_total{{{jobs}}}[{scale.span(five)}])"
    waited = f"rate(feedlab_processor_wait_seconds_total{{{jobs}}}[{scale.span(five)}])"
    busy = f"({used} + {waited} or {used})"  # a machine that others fill is no reason to be silent
    yield from two(
        "FeedlabCompute",
        "{{ $labels.instance }} needs {{ $value | humanizePercentage }} of the one core that it can use",
        (f"{busy} > 0.7", quarter),
        (f"{busy} > 0.9", quarter),
    )
    memory = f"process_resident_memory_bytes{{{jobs}}} / feedlab_memory_limit_bytes"
    yield from two(
        "FeedlabMemory",
        "{{ $labels.instance }} uses {{ $value | humanizePercentage }} of the memory that it may use",
        (f"{memory} > 0.7", quarter),
        (f"{memory} > 0.9", five),
    )
    files = f"process_open_fds{{{jobs}}} / process_max_fds"
    yield from two(
        "FeedlabFileDescriptors",
        "{{ $labels.instance }} has opened {{ $value | humanizePercentage }} of the files and connections that it may",
        (f"{files} > 0.7", quarter),
        (f"{files} > 0.9", five),
    )
    volume = (
        f'sum(rate(feedlab_http_requests_total{{route!~"{MACHINES}"}}[{scale.span(five)}]))'
        f' / (count(up{{job="feedlab-web"}} == 1) * {CAPACITY_PER_S})'
    )
    yield from two(
        "FeedlabCallVolume",
        "Requests are at {{ $value | humanizePercentage }} of what the web processes were measured to hold",
        (f"{volume} > 0.7", five),
        (f"{volume} > 0.9", five),
    )
    token = "max(feedlab_stream_silent_seconds)"
    yield from two(
        "FeedlabStreamTokenOld",
        "The change stream has not moved for {{ $value | humanizeDuration }}",
        (f"{token} > {scale.age(15, 5):g}", minute),
        (f"{token} > {scale.age(60, 10):g}", minute),
    )
    dead = "max by (consumer) (feedlab_dead_letters)"
    yield from two(
        "FeedlabDeadLetters",
        "{{ $value }} jobs of {{ $labels.consumer }} have failed for good",
        (f"{dead} > 0", five),
        (f"{dead} > 100", five),
    )
    wrong = f"sum by (job, work) (rate(feedlab_background_errors_total[{scale.span(quarter)}])) * {quarter}"
    yield from two(
        "FeedlabBackgroundErrors",
        "{{ $labels.work }} of {{ $labels.job }} went wrong {{ $value | printf `%.0f` }} times in a quarter of an hour",
        (f"{wrong} > 0", 0),
        (f"{wrong} > 30", five),  # what gets nowhere is tried again every few seconds
    )
    yield from two(
        "FeedlabServerDown",
        "{{ $labels.server }} does not answer",
        ("min by (server) (feedlab_server_up) == 0", minute),
        ("max by (server) (feedlab_server_up) == 0", five),
    )
    age = "time() - max(feedlab_backup_timestamp_seconds > 0)"  # silent where nobody ever made one
    yield from two(
        "FeedlabBackupOld",
        "The last backup is {{ $value | humanizeDuration }} old",
        (f"{age} > {scale.age(36 * HOUR_S, 60):g}", 0),
        (f"{age} > {scale.age(84 * HOUR_S, 60):g}", 0),
    )
    nobody = " or ".join([f"sum by (job) (up{{{jobs}}}) == 0", *(f'absent(up{{job="{job}"}})' for job in JOBS)])
    hangs = f"time() - feedlab_sampled_timestamp_seconds{{%s}} > {scale.age(minute, 20):g}"  # its metrics still answer
    hangs_at_the_proxy = hangs % 'job="feedlab-web"'  # who goes on handing it requests
    yield from two(
        "FeedlabProcessDown",
        "{{ $labels.job }} {{ $labels.instance }} says nothing",
        (f"up{{{jobs}}} == 0 or {hangs % jobs}", minute),
        (f"{nobody} or {hangs_at_the_proxy}", 2 * minute),
    )


def of_watchers(scale: Scale) -> Iterator[Alert]:
    """Yield the alerts about those who tell of the others."""
    window = scale.span(15 * MINUTE_S)
    unsent = f"sum by (integration) (rate(alertmanager_notifications_failed_total[{window}])) > 0"
    for severity, for_s in (("ticket", 0), ("page", 30 * MINUTE_S)):
        text = "Alertmanager cannot send by {{ $labels.integration }}"
        yield Alert("FeedlabAlertsUnsent", severity, unsent, for_s, text)
    yield Alert("FeedlabWatchdog", "none", "vector(1)", 0, "Alerts are told: where this is not, they are not either")


def written(scale: Scale) -> str:
    """Return the file that Prometheus reads. Every text in it is quoted as in JSON, which is valid YAML too."""
    lines = [
        "# Made by `python -m app.watch.rules` from app/watch/objectives.py: change it there.",
        "groups:",
        "  - name: feedlab # one group: what is recorded is there when an alert asks for it",
        "    rules:",
    ]
    for objective in OBJECTIVES:
        for window_s in WINDOWS_S:
            lines += [
                f"      - record: {recorded(window_s)}",
                f"        labels: {{objective: {objective.name}}}",
                f"        expr: {json.dumps(bad(objective, scale.span(window_s)))}",
            ]
    for alert in (*alerts(scale), *of_watchers(scale)):
        labels = {"severity": alert.severity} | ({"objective": alert.objective} if alert.objective else {})
        lines += [
            f"      - alert: {alert.name}",
            f"        expr: {json.dumps(alert.when)}",
            *([f"        for: {scale.span(alert.for_s)}"] if alert.for_s else []),
            f"        labels: {json.dumps(labels)}",
            "        annotations:",
            f"          summary: {json.dumps(alert.summary)}",
            f"          runbook: {RUNBOOK}#{alert.name.lower()}",
        ]
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    if sys.argv[1:]:
        sys.stdout.write(written(Scale(float(sys.argv[1]))))
    else:
        FILE.write_text(written(Scale()), encoding="utf-8")
