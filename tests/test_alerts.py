"""The alerts as code: when each fires, when it does not, when it ends, and what it does where nothing is told."""

import itertools
import json
import os
import re
import shutil
import subprocess
import sys
import threading
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import psutil
import pytest
import yaml

from app.watch import rules
from app.watch.machine import THREADS, Machine, memory_limit
from app.watch.objectives import CAPACITY_PER_S
from app.watch.rules import Scale, alerts, of_watchers, written
from benchmarks.faults import alerted

DEPLOY = Path(__file__).parents[1] / "deploy"
RULES, ALERTMANAGER = DEPLOY / "prometheus" / "feedlab.rules.yml", DEPLOY / "alertmanager" / "alertmanager.yml"
OPERATIONS = (Path(__file__).parents[1] / "docs" / "operations.md").read_text(encoding="utf-8")

EVERY = [*alerts(Scale()), *of_watchers(Scale())]
UNSENT, WATCHDOG = "FeedlabAlertsUnsent", "FeedlabWatchdog"

thorough = pytest.mark.thorough
linux = pytest.mark.skipif(not THREADS.exists(), reason="Linux alone says how long somebody waited")


def tool(name: str, *arguments: object) -> str:
    """What Prometheus' own tool says, which has to be content. In CI it has to be there."""
    if (program := shutil.which(name)) is None:
        assert os.environ.get("CI") != "true", f"{name} is missing"
        pytest.skip(f"needs {name}")
    less_work = os.environ | {"GOGC": "400"}
    done = subprocess.run([program, *map(str, arguments)], env=less_work, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def test_the_committed_rules_are_those_that_are_made() -> None:
    assert RULES.read_text(encoding="utf-8") == written(Scale()), "python -m app.watch.rules"


def test_every_alert_has_both_severities_and_a_section_in_the_runbook() -> None:
    severities: dict[str, set[str]] = {}
    for alert in EVERY:
        severities.setdefault(f"{alert.name} {alert.objective or ''}".strip(), set()).add(alert.severity)
        assert re.search(rf"^### {alert.name}$", OPERATIONS, re.MULTILINE), f"no section for {alert.name}"
    assert severities.pop(WATCHDOG) == {"none"}
    assert all(found == {"ticket", "page"} for found in severities.values()), severities
    assert set(re.findall(r"^### (Feedlab\w+)$", OPERATIONS, re.MULTILINE)) == {alert.name for alert in EVERY}
    assert set(re.findall(r"runbook: (\S+)#", written(Scale()))) == {rules.RUNBOOK}


@thorough
@pytest.mark.parametrize("faster", [1, 60])
def test_prometheus_takes_the_rules(tmp_path: Path, faster: float) -> None:
    file = tmp_path / "rules.yml"
    file.write_text(written(Scale(faster)))
    assert "SUCCESS" in tool("promtool", "check", "rules", file)
    assert "SUCCESS" in tool("promtool", "check", "config", DEPLOY / "prometheus" / "prometheus.yml")
    [of_others] = re.findall(r"^```yaml\n(groups:.+?)^```", OPERATIONS, re.MULTILINE | re.DOTALL)
    file.write_text(of_others)
    assert "SUCCESS" in tool("promtool", "check", "rules", file)


SITE, MACHINE = ("site", "https://feed.example/healthz"), ("machine", "192.0.2.11:9100")


@thorough
@pytest.mark.parametrize(
    ("gone", "told"),
    [("", []), (SITE[0], [SITE]), (MACHINE[0], [MACHINE]), ("both", [SITE, MACHINE]), ("all", [SITE[:1], MACHINE[:1]])],
)
def test_whoever_watches_machines_is_missed(tmp_path: Path, gone: str, told: list[tuple[str, ...]]) -> None:
    """The rules of the document, while the jobs of the document answer, do not answer, or are not asked any more."""
    jobs, of_others = (
        re.findall(rf"^```yaml\n({key}:.+?)^```", OPERATIONS, re.MULTILINE | re.DOTALL)[-1]
        for key in ("scrape_configs", "groups")
    )
    (tmp_path / "machines.rules.yml").write_text(of_others)
    assert re.findall(r"job_name: (\w+)", jobs) == [SITE[0], MACHINE[0]]
    assert all(target in jobs for _, target in (SITE, MACHINE))
    series = [
        {"series": f'up{{job="{job}",instance="{target}"}}', "values": "0x20" if gone in (job, "both") else "1x20"}
        for job, target in (SITE, MACHINE)
    ]
    labels = [dict(zip(("job", "instance"), names, strict=False)) for names in told]
    fires = {
        "eval_time": "15m",
        "alertname": "ExporterDown",
        "exp_alerts": [{"exp_labels": {"severity": "page", **each}} for each in labels],
    }
    test = {"interval": "1m", "input_series": [] if gone == "all" else series, "alert_rule_test": [fires]}
    file = tmp_path / "test.yml"
    file.write_text(json.dumps({"rule_files": ["machines.rules.yml"], "evaluation_interval": "1m", "tests": [test]}))
    tool("promtool", "test", "rules", file)


@thorough
def test_prometheus_on_another_machine_asks_where_the_units_answer(tmp_path: Path) -> None:
    """With the drop-in of the document, and by the names that the rules know."""
    file = tmp_path / "prometheus.yml"
    text, of_others = re.findall(r"^```yaml\n(scrape_configs:.+?)^```", OPERATIONS, re.MULTILINE | re.DOTALL)
    for jobs in (text, of_others):
        file.write_text(jobs)
        assert "SUCCESS" in tool("promtool", "check", "config", file)
    assert tuple(re.findall(r"job_name: (\S+)", text)) == rules.JOBS
    [[host, web]] = re.findall(r"^Environment=FEEDLAB_METRICS=(\S+):(\S+)$", OPERATIONS, re.MULTILINE)
    units = {name: (DEPLOY / "systemd" / f"feedlab-{name}@.service").read_text() for name in ("web", "worker")}
    ports = {name: re.findall(r"FEEDLAB_METRICS=127\.0\.0\.1:(\S+)", text)[0] for name, text in units.items()}
    assert ports["web"] == web
    assert f"`{ports['worker']}`" in OPERATIONS
    instances = [("web", "8000"), ("web", "8001"), ("worker", "1")]
    expected = [f"{host}:{ports[name].replace('%i', instance)}" for name, instance in instances]
    assert re.findall(r'"(\S+:\d+)"', text) == expected


@thorough
@pytest.mark.parametrize(
    ("labels", "receiver"),
    [
        (["severity=page"], "pager"),
        (["severity=ticket"], "tickets"),
        (["alertname=SomethingElse"], "tickets"),
        (["severity=none", f"alertname={WATCHDOG}"], "watchdog"),
    ],
)
def test_each_severity_has_its_channel(labels: list[str], receiver: str) -> None:
    assert "SUCCESS" in tool("amtool", "check-config", ALERTMANAGER)
    file = f"--config.file={ALERTMANAGER}"
    assert tool("amtool", "config", "routes", "test", file, *labels).split() == [receiver]


def test_no_secret_and_no_real_address_is_in_the_configuration() -> None:
    text = ALERTMANAGER.read_text(encoding="utf-8")
    addresses = re.findall(r"(?:https?://|@|smarthost: )([\w.-]+)", text)
    assert addresses
    assert all(address.endswith(".invalid") for address in addresses)
    secrets = re.findall(r"^ *(\w*(?:password|credentials|secret|key|token)\w*): *(\S+)$", text, re.MULTILINE)
    assert secrets
    assert all(name.endswith("_file") and value.startswith("/") for name, value in secrets)


# What fires when. Times are minutes; a series is a name and how it goes on: (for so many minutes, value or growth).


class Fires(NamedTuple):
    severity: str
    labels: dict[str, str]
    summary: str


class Moment(NamedTuple):
    minute: int
    fires: list[Fires]


class Case(NamedTuple):
    alert: str
    series: Mapping[str, Sequence[tuple[int, float | None]]]
    moments: list[Moment]


def gauge(steps: Sequence[tuple[int, float | None]]) -> str:
    return " ".join(itertools.chain(*(["_" if value is None else f"{value:g}"] * n for n, value in steps)))


def counter(steps: Sequence[tuple[int, float | None]]) -> str:
    """From the growth a minute."""
    values, total = list[str](), 0.0
    for n, growth in steps:
        for _ in range(n):
            total += growth or 0
            values.append("_" if growth is None else f"{total:g}")
    return " ".join(values)


def both(labels: dict[str, str], *summary: str) -> list[Fires]:
    """The same text of both severities, or that of the ticket and that of the page."""
    return [Fires("ticket", labels, summary[0]), Fires("page", labels, summary[-1])]


WEB, WORKER = 'job="feedlab-web",instance="a"', 'job="feedlab-worker",instance="b"'
OF_A, OF_B = {"job": "feedlab-web", "instance": "a"}, {"job": "feedlab-worker", "instance": "b"}
BY_MAIL = {"integration": "email"}
LIVE, SWEEP = {"job": "feedlab-web", "work": "live"}, {"job": "feedlab-worker", "work": "sweep"}
TIMELINE = 'route="/api/v1/timeline"'
NOBODY_TELLS = [Fires("page", {"job": job}, f"{job}  says nothing") for job in rules.JOBS]
HOURS = {"FeedlabAvailability", "FeedlabLatency", "FeedlabBackupOld"}  # of which every tenth minute is enough
PROCESS_DOWN = "FeedlabProcessDown"
QUIET, UNTOLD = (10, None), (11, None)  # nothing is told

# A quiet hour, eight hours in which some requests are bad, one hour in which all are, and seven hours without.
HEALTHY, SOME, ALL, HEALED = 70, 550, 610, 1_030  # the last minute of each
A_MINUTE = 1_000
A_MINUTES_CALLS = 60 * CAPACITY_PER_S  # the most that one web process holds


def good(share_of_some: float) -> list[tuple[int, float | None]]:
    return [UNTOLD, (60, A_MINUTE), (480, A_MINUTE * share_of_some), (60, 0), (420, A_MINUTE)]


def burns(objective: str, *values: str) -> list[Fires]:
    """`values`: of the ticket, and of the page where there is one."""
    return [
        Fires(severity, {"objective": objective}, f"The budget of {objective} burns: {value} of the requests are bad")
        for severity, value in zip(("ticket", "page"), values, strict=False)
    ]


CASES = [
    Case(
        "FeedlabAvailability",
        {
            f'feedlab_http_requests_total{{{TIMELINE},status="200"}}': good(0.995),
            f'feedlab_http_requests_total{{{TIMELINE},status="503"}}': [
                UNTOLD, (60, 0), (480, A_MINUTE * 0.005), (60, A_MINUTE), (420, 0),
            ],
            'feedlab_http_requests_total{route="/readyz",status="503"}': [UNTOLD, (1_020, A_MINUTE)],
        },
        [
            Moment(5, []),
            Moment(HEALTHY, []),
            Moment(SOME, burns("availability", "0.4444%")),
            Moment(ALL, burns("availability", "10.41%", "100%")),
            Moment(ALL + 40, burns("availability", "9.758%")),
            Moment(HEALED, []),
        ],
    ),
    Case(
        "FeedlabLatency",
        {
            f"feedlab_http_request_duration_seconds_count{{{TIMELINE}}}": [UNTOLD, (1_020, A_MINUTE)],
            **{
                f'feedlab_http_request_duration_seconds_bucket{{{TIMELINE},le="{le}"}}': good(share)
                for le, share in (("0.05", 0.3), ("0.1", 0.7), ("0.25", 0.97), ("1.0", 0.997))
            },
            'feedlab_http_request_duration_seconds_count{route="/sign-in"}': [UNTOLD, (1_020, A_MINUTE)],
            'feedlab_http_request_duration_seconds_bucket{route="/sign-in",le="1.0"}': [UNTOLD, (1_020, 0)],
        },
        [
            Moment(5, []),
            Moment(HEALTHY, []),
            Moment(
                SOME,
                burns("latency-p50", "62.37%") + burns("latency-p90", "26.78%")
                + burns("latency-p99", "2.667%") + burns("latency-p99.9", "0.2667%"),
            ),
            Moment(
                ALL,
                burns("latency-p50", "66.14%", "100%") + burns("latency-p90", "34.11%", "100%")
                + burns("latency-p99", "12.49%", "100%") + burns("latency-p99.9", "10.33%", "100%"),
            ),
            Moment(
                ALL + 40,
                burns("latency-p50", "62%") + burns("latency-p90", "31.98%")
                + burns("latency-p99", "11.71%") + burns("latency-p99.9", "9.686%"),
            ),
            Moment(HEALED, []),
        ],
    ),
    Case(
        "FeedlabAvailability",
        {  # at night: one of sixty in an hour
            f'feedlab_http_requests_total{{{TIMELINE},status="200"}}': [UNTOLD, (298, 1), (1, 0), (300, 1)],
            f'feedlab_http_requests_total{{{TIMELINE},status="503"}}': [UNTOLD, (298, 0), (1, 1), (300, 0)],
        },
        [Moment(310, []), Moment(600, [])],
    ),
    Case(
        "FeedlabAvailability",
        {f'feedlab_http_requests_total{{{TIMELINE},status="503"}}': [UNTOLD, (240, 0), (60, 1), (800, 0)]},
        [Moment(310, burns("availability", "0.1157%", "8.333%")), Moment(1_100, [])],
    ),
    Case(
        "FeedlabLatency",
        {
            f"feedlab_http_request_duration_seconds_count{{{TIMELINE}}}": [UNTOLD, (599, 1)],
            **{
                f'feedlab_http_request_duration_seconds_bucket{{{TIMELINE},le="{le}"}}': [
                    UNTOLD, (298, 1), (1, 0), (300, 1),
                ]
                for le in ("0.05", "0.1", "0.25", "1.0")
            },
        },
        [Moment(310, []), Moment(600, [])],
    ),
    Case(
        "FeedlabDeliveryLate",
        {
            'feedlab_oldest_pending_seconds{consumer="cache",instance="a"}': [
                QUIET, (10, 2), (10, 90), (10, 700), (10, 0),
            ],
            'feedlab_oldest_pending_seconds{consumer="cache",instance="b"}': [QUIET, (40, 1)],
        },
        [
            Moment(5, []),
            Moment(15, []),
            Moment(21, []),
            Moment(25, both({"consumer": "cache"}, "a delivery of cache has been pending for 1m 30s")[:1]),
            Moment(35, both({"consumer": "cache"}, "a delivery of cache has been pending for 11m 40s")),
            Moment(45, []),
        ],
    ),
    Case(
        "FeedlabCompute",
        {  # a waits for processors that others fill, in the end nearly always; b does not say how long it waited
            f"process_cpu_seconds_total{{{WEB}}}": [QUIET, (20, 12), (30, 20), (30, 8), (30, 6)],
            f"feedlab_processor_wait_seconds_total{{{WEB}}}": [QUIET, (20, 6), (30, 28), (30, 49), (30, 0)],
            f"process_cpu_seconds_total{{{WORKER}}}": [QUIET, (50, 6), (60, 48)],
        },
        [
            Moment(5, []),
            Moment(25, []),
            Moment(40, []),
            Moment(58, both(OF_A, "a needs 80% of the one core that it can use")[:1]),
            Moment(
                88,
                both(OF_A, "a needs 95% of the one core that it can use")
                + both(OF_B, "b needs 80% of the one core that it can use")[:1],
            ),
            Moment(110, both(OF_B, "b needs 80% of the one core that it can use")[:1]),
            Moment(140, []),
        ],
    ),
    Case(
        "FeedlabMemory",
        {
            f"process_resident_memory_bytes{{{WEB}}}": [QUIET, (20, 2e8), (30, 8e8), (10, 9.5e8), (10, 2e8)],
            f"feedlab_memory_limit_bytes{{{WEB}}}": [QUIET, (70, 1e9)],
            f"process_resident_memory_bytes{{{WORKER}}}": [QUIET, (70, 2e8)],
            f"feedlab_memory_limit_bytes{{{WORKER}}}": [QUIET, (70, 1e9)],
        },
        [
            Moment(5, []),
            Moment(25, []),
            Moment(40, []),
            Moment(58, both(OF_A, "a uses 80% of the memory that it may use")[:1]),
            Moment(68, both(OF_A, "a uses 95% of the memory that it may use")),
            Moment(75, []),
        ],
    ),
    Case(
        "FeedlabFileDescriptors",
        {
            f"process_open_fds{{{WEB}}}": [QUIET, (20, 60), (30, 800), (10, 950), (10, 60)],
            f"process_max_fds{{{WEB}}}": [QUIET, (70, 1_000)],
            f"process_open_fds{{{WORKER}}}": [QUIET, (70, 60)],
            f"process_max_fds{{{WORKER}}}": [QUIET, (70, 1_000)],
        },
        [
            Moment(5, []),
            Moment(25, []),
            Moment(40, []),
            Moment(58, both(OF_A, "a has opened 80% of the files and connections that it may")[:1]),
            Moment(68, both(OF_A, "a has opened 95% of the files and connections that it may")),
            Moment(75, []),
        ],
    ),
    Case(
        "FeedlabCallVolume",
        {
            f"up{{{WEB}}}": [QUIET, (80, 1)],
            f'feedlab_http_requests_total{{{WEB},{TIMELINE},status="200"}}': [
                QUIET, *((20, share * A_MINUTES_CALLS) for share in (0.1, 0.8, 0.95, 0.05)),
            ],
            f'feedlab_http_requests_total{{{WEB},route="/healthz",status="200"}}': [QUIET, (80, 5 * A_MINUTES_CALLS)],
        },
        [
            Moment(5, []),
            Moment(28, []),
            Moment(34, []),
            Moment(48, both({}, "Requests are at 80% of what the web processes were measured to hold")[:1]),
            Moment(68, both({}, "Requests are at 95% of what the web processes were measured to hold")),
            Moment(88, []),
        ],
    ),
    Case(
        "FeedlabStreamTokenOld",
        {'feedlab_stream_silent_seconds{owner="host:1"}': [QUIET, (10, 1), (10, 30), (10, 90), (10, 1)]},
        [
            Moment(5, []),
            Moment(15, []),
            Moment(25, both({}, "The change stream has not moved for 30s")[:1]),
            Moment(35, both({}, "The change stream has not moved for 1m 30s")),
            Moment(45, []),
        ],
    ),
    Case(
        "FeedlabDeadLetters",
        {'feedlab_dead_letters{consumer="notifications"}': [QUIET, (10, 0), (10, 3), (10, 200), (10, 0)]},
        [
            Moment(5, []),
            Moment(15, []),
            Moment(23, []),
            Moment(28, both({"consumer": "notifications"}, "3 jobs of notifications have failed for good")[:1]),
            Moment(38, both({"consumer": "notifications"}, "200 jobs of notifications have failed for good")),
            Moment(45, []),
        ],
    ),
    Case(
        "FeedlabBackgroundErrors",
        {  # one error in the web process, and a sweep that gets nowhere for half an hour
            f'feedlab_background_errors_total{{{WEB},work="live"}}': [QUIET, (10, 0), (1, 1), (70, 0)],
            f'feedlab_background_errors_total{{{WORKER},work="sweep"}}': [QUIET, (30, 0), (30, 6), (30, 0)],
        },
        [
            Moment(5, []),
            Moment(15, []),
            Moment(25, both(LIVE, "live of feedlab-web went wrong 1 times in a quarter of an hour")[:1]),
            Moment(38, []),
            Moment(42, both(SWEEP, "sweep of feedlab-worker went wrong 18 times in a quarter of an hour")[:1]),
            Moment(60, both(SWEEP, "sweep of feedlab-worker went wrong 90 times in a quarter of an hour")),
            Moment(85, []),
        ],
    ),
    Case(
        "FeedlabServerDown",
        {
            'feedlab_server_up{server="redis",instance="a"}': [QUIET, (10, 1), (10, 0), (10, 0), (10, 1)],
            'feedlab_server_up{server="redis",instance="b"}': [QUIET, (10, 1), (10, 1), (10, 0), (10, 1)],
        },
        [
            Moment(5, []),
            Moment(15, []),
            Moment(20, []),
            Moment(28, both({"server": "redis"}, "redis does not answer")[:1]),
            Moment(38, both({"server": "redis"}, "redis does not answer")),
            Moment(45, []),
        ],
    ),
    Case(
        "FeedlabBackupOld",
        {  # made when an hour had gone, and then when 5,200 minutes had; b has not sampled yet
            f"feedlab_backup_timestamp_seconds{{{WEB}}}": [QUIET, (60, 0), (5_130, 3_600), (100, 312_000)],
            f"feedlab_backup_timestamp_seconds{{{WORKER}}}": [QUIET, (5_290, 0)],
        },
        [
            Moment(5, []),
            Moment(60, []),
            Moment(2_210, []),
            Moment(2_230, both({}, "The last backup is 1d 12h 10m 0s old")[:1]),
            Moment(5_090, both({}, "The last backup is 3d 11h 50m 0s old")[:1]),
            Moment(5_110, both({}, "The last backup is 3d 12h 10m 0s old")),
            Moment(5_210, []),
        ],
    ),
    Case(
        "FeedlabProcessDown",
        {
            f"up{{{WEB}}}": [QUIET, (10, 1), (10, 0), (10, 0), (10, 1)],
            'up{job="feedlab-web",instance="c"}': [QUIET, (10, 1), (10, 1), (10, 0), (10, 1)],
            f"up{{{WORKER}}}": [QUIET, (40, 1)],
        },
        [
            Moment(5, NOBODY_TELLS),
            Moment(15, []),
            Moment(20, []),
            Moment(28, [Fires("ticket", {"job": "feedlab-web", "instance": "a"}, "feedlab-web a says nothing")]),
            Moment(
                38,
                [
                    Fires("ticket", {"job": "feedlab-web", "instance": "a"}, "feedlab-web a says nothing"),
                    Fires("ticket", {"job": "feedlab-web", "instance": "c"}, "feedlab-web c says nothing"),
                    Fires("page", {"job": "feedlab-web"}, "feedlab-web  says nothing"),
                ],
            ),
            Moment(45, []),
        ],
    ),
    Case(
        "FeedlabProcessDown",
        {  # it answers, and samples nothing any more
            f"up{{{WEB}}}": [(30, 1)],
            f"up{{{WORKER}}}": [(30, 1)],
            f"feedlab_sampled_timestamp_seconds{{{WORKER}}}": [(10, 0), (10, 300), (10, 1_800)],
        },
        [
            Moment(19, [Fires("ticket", {"job": "feedlab-worker", "instance": "b"}, "feedlab-worker b says nothing")]),
            Moment(29, []),
        ],
    ),
    Case(
        "FeedlabProcessDown",
        {  # it hangs, while its metrics have a thread of their own; the proxy takes it for one that lives
            f"up{{{WEB}}}": [(30, 1)],
            'up{job="feedlab-web",instance="c"}': [(30, 1)],
            f"up{{{WORKER}}}": [(30, 1)],
            f"feedlab_sampled_timestamp_seconds{{{WEB}}}": [(20, 300), (10, 1_800)],
            'feedlab_sampled_timestamp_seconds{job="feedlab-web",instance="c"}': [(30, 1_800)],
        },
        [
            Moment(5, []),
            Moment(8, both(OF_A, "feedlab-web a says nothing")[:1]),
            Moment(19, both(OF_A, "feedlab-web a says nothing")),
            Moment(29, []),
        ],
    ),
    Case(
        UNSENT,
        {  # once, and then for an hour
            'alertmanager_notifications_failed_total{integration="email",reason="other"}': [
                QUIET, (10, 0), (1, 1), (30, 0), (60, 1), (40, 0),
            ],
            'alertmanager_notifications_failed_total{integration="webhook",reason="other"}': [QUIET, (141, 0)],
        },
        [
            Moment(5, []),
            Moment(15, []),
            Moment(25, both(BY_MAIL, "Alertmanager cannot send by email")[:1]),
            Moment(45, []),
            Moment(70, both(BY_MAIL, "Alertmanager cannot send by email")[:1]),
            Moment(100, both(BY_MAIL, "Alertmanager cannot send by email")),
            Moment(145, []),
        ],
    ),
    Case(
        WATCHDOG,
        {f"up{{{WEB}}}": [(5, 1), (10, None)]},
        [Moment(n, [Fires("none", {}, "Alerts are told: where this is not, they are not either")]) for n in (0, 4, 14)],
    ),
]  # fmt: skip


def test_every_alert_has_a_case() -> None:
    assert {case.alert for case in CASES} == {alert.name for alert in EVERY}
    fired = {(case.alert, one.severity) for case in CASES for moment in case.moments for one in moment.fires}
    assert fired == {(alert.name, alert.severity) for alert in EVERY}, "and fires in it"
    assert {case.alert for case in CASES if case.moments[-1].fires} == {WATCHDOG}, "and ends in it"


def test_a_page_hides_no_ticket_about_something_else() -> None:
    """Of the same alert, they may be about two jobs, or about different work of one."""
    text = ALERTMANAGER.read_text(encoding="utf-8")
    (compared,) = re.findall(r"equal: \[(.+)\]", text)
    assert f'source_matchers: [severity="page", alertname!="{UNSENT}"]' in text, "it may be the page that is not sent"
    hiding = [case for case in CASES if case.alert != UNSENT]
    labels = {label for case in hiding for moment in case.moments for one in moment.fires for label in one.labels}
    assert {"work", "job"} <= labels
    assert labels <= set(compared.split(", "))


@thorough
@pytest.mark.parametrize("case", CASES, ids=[f"{n} {case.alert}" for n, case in enumerate(CASES)])
def test_each_alert_fires_when_it_should_and_only_then(tmp_path: Path, case: Case) -> None:
    """Only the rules that it is about are evaluated, as they are committed; all of them take many times as long."""
    [group] = yaml.safe_load(RULES.read_text(encoding="utf-8"))["groups"]
    fire = [rule for rule in group["rules"] if rule.get("alert") in (case.alert, PROCESS_DOWN)]
    objectives = {rule["labels"].get("objective") for rule in fire} - {None}
    record = [rule for rule in group["rules"] if "record" in rule and rule["labels"]["objective"] in objectives]
    some, file = tmp_path / "rules.yml", tmp_path / "tests.yml"
    some.write_text(json.dumps({"groups": [group | {"rules": record + fire}]}))
    every = "10m" if case.alert in HOURS else "1m"
    written = {"rule_files": [str(some)], "evaluation_interval": every, "tests": [_written(case), *_absent(case)]}
    file.write_text(json.dumps(written))
    tool("promtool", "test", "rules", file)


def _absent(case: Case) -> Iterator[dict[str, Any]]:
    """While it is a page, what it is about is told no more: it ends, and that nobody tells anything is a page."""
    pages = [moment for moment in case.moments if any(one.severity == "page" for one in moment.fires)]
    if case.alert == PROCESS_DOWN or not pages:
        return
    last = pages[-1].minute
    # All that its longest window needs has to be over.
    end = last + (370 if case.alert in HOURS else 17)
    series = {name: [*_until(last, steps), (end - last, None)] for name, steps in case.series.items()}
    gone = _written(Case(case.alert, series, [pages[-1], Moment(end, [])]))
    gone["alert_rule_test"] += _written(Case(PROCESS_DOWN, {}, [Moment(end, NOBODY_TELLS)]))["alert_rule_test"]
    yield gone


def _until(minute: int, steps: Sequence[tuple[int, float | None]]) -> Iterator[tuple[int, float | None]]:
    left = minute + 1  # the first is that of minute 0
    for n, value in steps:
        yield min(n, left), value
        left -= min(n, left)


def _written(case: Case) -> dict[str, Any]:
    return {
        "interval": "1m",
        "input_series": [
            {"series": name, "values": (counter if re.match(r"\w+_(total|bucket|count){", name) else gauge)(steps)}
            for name, steps in case.series.items()
        ],
        "alert_rule_test": [
            {
                "eval_time": f"{moment.minute}m",
                "alertname": case.alert,
                "exp_alerts": [
                    {
                        "exp_labels": {"severity": one.severity, **one.labels},
                        "exp_annotations": {
                            "summary": one.summary,
                            "runbook": f"docs/operations.md#{case.alert.lower()}",
                        },
                    }
                    for one in moment.fires
                ],
            }
            for moment in case.moments
        ],
    }


def test_every_alert_is_provoked_by_one_fault() -> None:
    """By `feedlab bench faults --alerts`, which takes too long to run here."""
    about = [name for _, _, names in alerted.FAULTS for name in names]
    assert sorted(about) == sorted({alert.name for alert in alerts(Scale())})


BUSY = """
import os, sys, time
from app.watch.metrics import REGISTRY

def told():
    return [REGISTRY.get_sample_value(name) for name in (
        "process_cpu_seconds_total", "feedlab_processor_wait_seconds_total")]

os.sched_setaffinity(0, {min(os.sched_getaffinity(0))})
print("ready", flush=True)
sys.stdin.readline()
before, began_s = told(), time.monotonic()
while time.monotonic() < began_s + 2:
    pass
print(*((after - was) / (time.monotonic() - began_s) for after, was in zip(told(), before)))
"""


def throttled() -> int:
    """How often a quota has stopped a control group that this process is in."""
    times = 0
    for line in Path("/proc/self/cgroup").read_text().splitlines():
        _, controllers, path = line.split(":", 2)
        if controllers and "cpu" not in controllers.split(","):
            continue
        root = Path("/sys/fs/cgroup") / ("cpu" if controllers else "")
        group = root / path.lstrip("/")
        for file in (folder / "cpu.stat" for folder in (group, *group.parents) if folder.is_relative_to(root)):
            said = file.read_text() if file.is_file() else ""
            times += sum(map(int, re.findall(r"^nr_throttled (\d+)$", said, re.MULTILINE)))
    return times


@thorough
@linux
def test_where_the_processors_are_full_what_is_told_adds_up_to_a_page() -> None:
    """Three that never rest have one processor. None gets what FeedlabCompute is about, and each waits for the rest."""
    start = partial(subprocess.Popen[str], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    processes = [start([sys.executable, "-c", BUSY]) for _ in range(3)]
    assert [process.stdout and process.stdout.readline() for process in processes] == ["ready\n"] * 3
    before = throttled()
    for process in processes:
        assert process.stdin
        process.stdin.write("\n")
        process.stdin.flush()
    shares = [[float(share) for share in process.communicate()[0].split()] for process in processes]
    adds_up = all(used < 0.7 < 0.9 < used + waited for used, waited in shares)
    if not adds_up and throttled() > before:
        pytest.skip("a quota stopped these processes, which some kernels do not count as waiting")
    assert adds_up, shares


@linux
def test_what_is_told_to_wait_is_the_thread_with_the_event_loop() -> None:
    """A worker has another one besides, which waits for jobs."""
    machine, begun, looked = Machine(), threading.Event(), threading.Event()

    def loop() -> None:
        machine.loop_thread = threading.get_native_id()
        begun.set()
        looked.wait()

    def waited_s() -> float:
        return int((THREADS / str(machine.loop_thread) / "schedstat").read_text().split()[1]) / 1e9

    with ThreadPoolExecutor(1) as threads:
        threads.submit(loop)
        begun.wait()
        before_s = waited_s()
        (told,) = [one for one in machine.collect() if one.name == "feedlab_processor_wait_seconds"]
        after_s = waited_s()
        looked.set()
    assert before_s <= told.samples[0].value <= after_s


def test_the_memory_that_may_be_used_is_the_least_that_anybody_allows(tmp_path: Path) -> None:
    groups, member_of = tmp_path / "cgroup", tmp_path / "member_of"
    unlimited = memory_limit(groups, member_of)  # of neither version
    assert 0 < unlimited <= psutil.virtual_memory().total
    unit = groups / "system.slice" / "feedlab-web@8000.service"
    unit.mkdir(parents=True)
    member_of.write_text("0::/system.slice/feedlab-web@8000.service\n")
    (unit / "memory.max").write_text("max\n")
    assert memory_limit(groups, member_of) == unlimited
    (unit.parent / "memory.max").write_text("2000000\n")
    assert memory_limit(groups, member_of) == 2_000_000, "what all of them may use together"
    (unit / "memory.max").write_text("1000000\n")
    assert memory_limit(groups, member_of) == 1_000_000
    older = groups / "memory"  # seen from inside a container: its group is the root
    older.mkdir()
    member_of.write_text("3:cpu,cpuacct:/docker/1\n2:memory:/docker/1\n")
    (older / "memory.limit_in_bytes").write_text("3000000\n")
    assert memory_limit(groups, member_of) == 3_000_000
