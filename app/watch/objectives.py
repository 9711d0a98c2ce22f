"""The objectives: what is promised to users. Buckets, alerts and the operations page are made from them."""

from dataclasses import dataclass

WINDOW_DAYS = 30  # that the promises are about


@dataclass(frozen=True)
class Objective:
    """A promise that a `share` of the requests is good.

    `within_s`: good is answered within so many seconds; with None, good is anything but a 5xx.
    """

    name: str
    share: float
    within_s: float | None = None

    @property
    def budget(self) -> float:
        """The share of requests that may be bad."""
        return 1 - self.share


OBJECTIVES = (
    Objective("availability", 0.999),
    Objective("latency-p50", 0.5, 0.05),
    Objective("latency-p90", 0.9, 0.1),
    Objective("latency-p99", 0.99, 0.25),
    Objective("latency-p99.9", 0.999, 1.0),
)


@dataclass(frozen=True)
class Burn:
    """A burn rate at which somebody is told: `factor` times what the budget allows.

    It has to hold in a long window, and in a short one that ends the alert soon after its cause. (The SRE workbook,
    "Alerting on SLOs".)
    """

    severity: str
    factor: float
    long_s: int
    short_s: int

    def threshold(self, objective: Objective) -> float:
        """Return the share of bad requests at which the alert fires.

        A budget of a half cannot be used up 14.4 times as fast: there the alert fires when nearly all requests are bad.
        """
        return min(self.factor * objective.budget, NEARLY_ALL)


# Requests a second, below which the bad ones are compared with so many: at night one 5xx among ten would be a page.
LEAST_PER_S = 0.2
MINUTE_S, HOUR_S, DAY_S = 60, 3_600, 86_400
NEARLY_ALL = 0.9
BURNS = (
    Burn("page", 14.4, HOUR_S, 5 * MINUTE_S),
    Burn("page", 6, 6 * HOUR_S, 30 * MINUTE_S),
    Burn("ticket", 1, 3 * DAY_S, 6 * HOUR_S),
)

BUCKETS_S = (0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0)
DELIVERED_S = (1.0, 2.0, 5.0, 10.0, 30.0, 60.0, 300.0, 1_800.0)  # ids are of a second

MACHINES = "/(healthz|readyz|metrics)"  # routes that nobody but machines asks

# A route about which nothing is promised: for machines, hashing a password, experiments, streams, files.
UNPROMISED = r"/(healthz|readyz|metrics|static|sign-in|sign-up|compare.*|walkthrough.*|operations.*|live)"
UNPROMISED += r"|/api/v1/(users|tokens|me/password|live.*|uploads.*|images.*)|unmatched"

# Pages a second that one web process answers at p99 below 50 ms, to readers it knows: `feedlab bench http`, phase 4, on
# 2 cores, the median of three climbs, as in docs/results/http.json. Other calls cost more: where they are many,
# FeedlabCompute comes first.
CAPACITY_PER_S = 1_212.5
