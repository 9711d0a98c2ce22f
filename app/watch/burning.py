"""The rate at which error budgets burn, as one process knows it from its own metrics, remembered for an hour."""

from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from re import compile as pattern

from app.watch import metrics
from app.watch.objectives import BURNS, HOUR_S, LEAST_PER_S, MACHINES, MINUTE_S, OBJECTIVES, UNPROMISED, Objective

LONG_S, SHORT_S = HOUR_S, 5 * MINUTE_S
EVERY_S = 15.0
_machines, _unpromised = pattern(MACHINES), pattern(UNPROMISED)


@dataclass(frozen=True)
class Burning:
    """The shares of bad requests in the last hour (`long`) and the last five minutes (`short`); None without requests,
    and of LEAST_PER_S where there were fewer.

    `burn`: how many times too fast the budget is used up, by the hour. `severity`: that of the fastest alert that
    holds; "" while all is well.
    """

    objective: Objective
    requests: int
    long: float | None
    short: float | None

    @property
    def burn(self) -> float:
        return (self.long or 0) / self.objective.budget

    @property
    def severity(self) -> str:
        for burn in BURNS[:1]:
            threshold = burn.threshold(self.objective)
            if (self.long or 0) > threshold and (self.short or 0) > threshold:
                return burn.severity
        return "ticket" if self.burn > 1 and (self.short or 0) > self.objective.budget else ""


def counts() -> dict[str, tuple[float, float]]:
    """Return, for each objective, how many requests it is about and how many were bad, since the process began."""
    found = {objective.name: [0.0, 0.0] for objective in OBJECTIVES}
    for family in metrics.REQUESTS.collect():
        for sample in family.samples:
            if sample.name.endswith("_total") and not _machines.fullmatch(sample.labels["route"]):
                found["availability"][0] += sample.value
                found["availability"][1] += sample.value if sample.labels["status"].startswith("5") else 0
    for family in metrics.REQUEST_SECONDS.collect():
        for sample in family.samples:
            if _unpromised.fullmatch(sample.labels["route"]):
                continue
            for objective in OBJECTIVES:
                if objective.within_s is not None and sample.name.endswith("_count"):
                    found[objective.name][0] += sample.value
                    found[objective.name][1] += sample.value
                elif sample.name.endswith("_bucket") and float(sample.labels["le"]) == objective.within_s:
                    found[objective.name][1] -= sample.value
    return {name: (every, bad) for name, (every, bad) in found.items()}


class Budgets:
    """The budgets of one web process. Call `note` every few seconds."""

    def __init__(self, now_s: Callable[[], float]) -> None:
        self._now_s = now_s
        self._noted = deque([(now_s(), counts())])

    def note(self) -> None:
        now_s = self._now_s()
        if now_s - self._noted[-1][0] >= EVERY_S:
            self._noted.append((now_s, counts()))
        while len(self._noted) > 2 and self._noted[1][0] <= now_s - LONG_S:
            self._noted.popleft()

    def burning(self) -> list[Burning]:
        """Return how fast the budget of each objective burns now."""
        now, hour, minutes = counts(), self._at(LONG_S), self._at(SHORT_S)
        return [
            Burning(
                objective,
                int(now[objective.name][0] - hour[objective.name][0]),
                _share(now[objective.name], hour[objective.name], LONG_S),
                _share(now[objective.name], minutes[objective.name], SHORT_S),
            )
            for objective in OBJECTIVES
        ]

    def _at(self, ago_s: float) -> dict[str, tuple[float, float]]:
        """Return what was noted so many seconds ago or last before; the first note, where that is later."""
        before = [noted for at_s, noted in self._noted if at_s <= self._now_s() - ago_s]
        return before[-1] if before else self._noted[0][1]


def _share(now: tuple[float, float], then: tuple[float, float], window_s: float) -> float | None:
    every = now[0] - then[0]
    return (now[1] - then[1]) / max(every, LEAST_PER_S * window_s) if every else None
