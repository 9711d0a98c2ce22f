"""The verdict in words: what is quicker, by how much, and where no difference can be told.

It compares as hyperfine does, and paired: a ratio is of two phases in the same round. A difference is told where its
interval leaves out 1; the ratio itself is the geometric mean. Of two the interval is Student's, of the logarithms of
their ratios. Of more it is Tukey's, which holds for all pairs at once: of six that are equal one is the quickest, and
Student's interval of some other one leaves out 1 in three of ten such sentences.
"""

import math
import statistics
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass

from benchmarks.measure import SAMPLES
from benchmarks.report import (
    KINDS,
    Backlog,
    Cell,
    Climb,
    Comparison,
    Costs,
    Crossover,
    HttpReport,
    MessagesReport,
    MessagesStep,
    Units,
    Who,
)
from phases import PHASES

INTERVAL = "95 %"
RANGE = {
    1: (17.97, 26.98, 32.82, 37.08, 40.41, 43.12, 45.40),
    2: (6.085, 8.331, 9.798, 10.88, 11.74, 12.44, 13.03),
    3: (4.501, 5.910, 6.825, 7.502, 8.037, 8.478, 8.853),
    4: (3.927, 5.040, 5.757, 6.287, 6.707, 7.053, 7.347),
    5: (3.635, 4.602, 5.218, 5.673, 6.033, 6.330, 6.582),
    6: (3.461, 4.339, 4.896, 5.305, 5.628, 5.895, 6.122),
    7: (3.344, 4.165, 4.681, 5.060, 5.359, 5.606, 5.815),
    8: (3.261, 4.041, 4.529, 4.886, 5.167, 5.399, 5.597),
    9: (3.199, 3.949, 4.415, 4.756, 5.024, 5.244, 5.432),
    10: (3.151, 3.877, 4.327, 4.654, 4.912, 5.124, 5.305),
    12: (3.081, 3.773, 4.199, 4.508, 4.751, 4.950, 5.119),
    15: (3.014, 3.674, 4.076, 4.367, 4.595, 4.782, 4.940),
    20: (2.950, 3.578, 3.958, 4.232, 4.445, 4.620, 4.768),
    30: (2.888, 3.486, 3.845, 4.102, 4.302, 4.464, 4.602),
    60: (2.829, 3.399, 3.737, 3.977, 4.163, 4.314, 4.441),
}  # the studentized range, 95 %: by degrees of freedom, for 2, 3, … that are compared
PRECISION = 1.1  # a step on the way to a capacity
LATE_S = 1.0  # an open loop that was answered for so long after its end did not get what was asked for
DELIVER_AT_ONCE = {phase.slug for phase in PHASES if phase.carrier and not phase.carrier.in_worker}

ByRound = Mapping[int, float]


@dataclass(frozen=True)
class Times:
    """A ratio, how many times as much, with its interval."""

    ratio: float
    low: float
    high: float

    @property
    def told(self) -> bool:
        """Whether the interval leaves out 1, as it is shown: with an end at 1.00 it does not."""
        return round(self.low, 2) > 1 or round(self.high, 2) < 1

    def __str__(self) -> str:
        return f"{self.ratio:.2f} times ({self.low:.2f} to {self.high:.2f})"


def to_the_best(figures: Mapping[str, ByRound]) -> tuple[str, dict[str, Times]]:
    """Return which has the least over the rounds that all have, two at least, and the others' ratios to it."""
    means = {slug: statistics.fmean(each) for slug, each in _logs(figures).items()}
    best = min(means, key=means.__getitem__)
    return best, {slug: ratio(figures, slug, best) for slug in means if slug != best}


def ratio(figures: Mapping[str, ByRound], one: str, other: str) -> Times:
    """Return the ratio of two of them, over the rounds that all have, two at least. Its interval is one of those that
    hold for all pairs at once: these two may have been chosen by the same figures.
    """
    logs = _logs(figures)
    means, rounds = {slug: statistics.fmean(each) for slug, each in logs.items()}, len(logs[one])
    of_rounds = [statistics.fmean(each) for each in zip(*logs.values(), strict=True)]
    of_all = statistics.fmean(means.values())
    left = sum(
        (y - means[slug] - at + of_all) ** 2
        for slug, each in logs.items()
        for y, at in zip(each, of_rounds, strict=True)
    )
    freedom = (len(logs) - 1) * (rounds - 1)
    factor = RANGE[max(known for known in RANGE if known <= freedom)][len(logs) - 2]
    by, half = means[one] - means[other], factor * math.sqrt(left / freedom / rounds)
    return Times(*(math.exp(at) for at in (by, by - half, by + half)))


def _logs(figures: Mapping[str, ByRound]) -> dict[str, list[float]]:
    rounds = sorted(set.intersection(*(set(each) for each in figures.values())))
    return {slug: [math.log(each[number]) for number in rounds] for slug, each in figures.items()}


def compared(report: Comparison) -> list[str]:
    """Return a sentence for each kind of operation and for processor time, after those that say what is doubtful."""
    said = [*_doubts(report)]
    if len(report.phases) < 2:
        return [*said, f"Only {', '.join(report.phases)} was measured: there is nothing to compare it with."]
    for kind, title in KINDS.items():
        if medians := _percentiles(report, kind, "p50"):
            said.append(_sentence(f"{title[0].upper()}{title[1:]}, median", medians))
        for tail in ("p99", "p90"):  # the farthest that there are samples for
            slow = _percentiles(report, kind, tail)
            if any(slow.values()):
                said.append(_sentence(f"{title[0].upper()}{title[1:]}, {tail}", slow))
                break
    measured = report.settings.seconds / (report.settings.seconds + report.settings.burn_in_s)
    cpu_ms = _by_round(report, lambda cell: 1000 * cell.cpu_s_an_operation * measured)  # the burn-in is in it
    said.append(_sentence("Processor time of an operation, the whole system", cpu_ms, "needs least", "much"))
    if report.settings.clients:
        said.append(_sentence("From one operation to the next, all clients", _by_round(report, _spacing_ms)))
    return said


def at_once(kind: str, slug: str) -> bool:
    """Return whether there is no such wait, since the poster waits for the delivery."""
    return kind == "lag" and slug in DELIVER_AT_ONCE


def _doubts(report: Comparison) -> list[str]:
    doubts = []
    for slug, summary in report.phases.items():
        late_s = max(cell.offered.seconds for cell in report.cells if cell.phase == slug) - report.settings.seconds
        if report.settings.rate and late_s > LATE_S:
            doubts.append(
                f"{slug} did not keep up with {report.settings.rate:g}/s: the last answer came {late_s:.1f} s after "
                "the last operation was due."
            )
        if not summary.drained:
            doubts.append(
                f"{slug} had not delivered everything when its time was up: its delivery lag is of the rest, and is "
                "compared in no such round."
            )
        if failed := sum(summary.errors.values()):
            doubts.append(
                f"{failed:,} operations of {slug} failed; its figures are of the others, and are compared in no such "
                "round."
            )
    return doubts


def _percentiles(report: Comparison, kind: str, percentile: str) -> dict[str, ByRound]:
    """Return a percentile by phase and round, without rounds with too few samples.

    A phase that delivers at once has no delivery lag. Where some deliveries were not over, the longest are missing.
    """
    cells = [cell for cell in _sound(report) if kind != "lag" or cell.drained]
    return {
        slug: {
            cell.round: ms
            for cell in cells
            if cell.phase == slug and (ms := (cell.latency_ms[kind] or {}).get(percentile))
        }
        if carries(report, slug, kind, percentile)
        else {}
        for slug, summary in report.phases.items()
        if summary.counts[kind] and not at_once(kind, slug) and any(cell.phase == slug for cell in cells)
    }


def carries(report: Comparison, slug: str, kind: str, percentile: str) -> bool:
    """Return whether a round of the phase has samples enough on average. Older reports have percentiles of fewer."""
    rounds = sum(cell.phase == slug for cell in report.cells)
    return report.phases[slug].counts[kind] / rounds >= SAMPLES[percentile]


def _by_round(report: Comparison, figure: Callable[[Cell], float]) -> dict[str, ByRound]:
    sound = _sound(report)
    return {
        slug: {cell.round: value for cell in sound if cell.phase == slug and (value := figure(cell)) > 0}
        for slug in report.phases
        if any(cell.phase == slug for cell in sound)
    }


def _sound(report: Comparison) -> list[Cell]:
    """Return what may be compared: those that fail may be just those that take longest."""
    return [cell for cell in report.cells if not cell.errors]


def _spacing_ms(cell: Cell) -> float:
    return 1000 / cell.operations_per_s if cell.operations_per_s else 0


def cheapest(report: Units) -> list[str]:
    """Say which phase needs the least processor time for each of what is counted."""
    delivering = {phase.slug for phase in PHASES if phase.store}

    def sentence(what: str, costs: Mapping[str, Costs]) -> str:
        us = {
            slug: {number: 1e6 * s for number, s in enumerate(each.rounds_s or [each.cpu_total_s]) if s > 0}
            for slug, each in costs.items()
        }
        return _sentence(what, us, "needs the least processor time", "much", "µs")

    said = [sentence("A post", {slug: units.post for slug, units in report.units.items()})]
    deliveries = {slug: units.delivery for slug, units in report.units.items() if slug in delivering}
    said += [sentence("A delivery to one more follower", deliveries)] if deliveries else []
    for place, followees in enumerate(report.followees):
        reads = {slug: units.reads[place] for slug, units in report.units.items()}
        said.append(sentence(f"A warm page at {followees:,} followees", reads))
    return said


def _sentence(
    title: str, figures: Mapping[str, ByRound], is_best: str = "is quickest", much: str = "long", unit: str = "ms"
) -> str:
    """Return a sentence that compares figures of which less is better."""
    needed = min(2, max(map(len, figures.values()), default=0))  # rounds of a figure: one has no spread
    few = [slug for slug, rounds in figures.items() if not rounds or len(rounds) < needed]
    known = {slug: rounds for slug, rounds in figures.items() if slug not in few}
    words = _told(known, is_best, much, unit)
    if few:
        words += f"; too few samples of {listed(few)}"
    return f"{title}: {words}."


def _told(known: Mapping[str, ByRound], is_best: str, much: str, unit: str) -> str:
    if not known:
        return "nothing can be told"
    common = set.intersection(*(set(rounds) for rounds in known.values()))
    if len(common) > 1:  # a broken-off run leaves some with a round more, which is in no ratio
        known = {slug: {number: rounds[number] for number in common} for slug, rounds in known.items()}
    shown = {slug: f"{slug} ({_middle(rounds)} {unit})" for slug, rounds in known.items()}
    if len(known) == 1:
        return f"{next(iter(shown.values()))}, with nothing to compare it with"
    if len(common) < 2:
        return f"{listed([*shown.values()])}; one round has no spread, so no difference can be told"
    best, others = to_the_best(known)
    tied = [shown[best], *(shown[slug] for slug, of in others.items() if not of.told)]
    slower = [f"{slug} takes {of}" for slug, of in sorted(others.items(), key=lambda each: each[1].ratio) if of.told]
    if not slower:
        return f"no difference can be told between {listed(tied)}"
    head = f"{tied[0]} {is_best}" if len(tied) == 1 else f"no difference can be told between {listed(tied)}"
    return f"{head}; {listed(slower)} as {much}{'' if len(tied) == 1 else f' as {best}'}"


def number(value: float | None) -> str:
    """Return a number with three significant digits, thousands separated."""
    if value is None:
        return "-"
    if value == 0:
        return "0"
    return f"{value:,.0f}" if abs(value) >= 100 else f"{value:.3g}"


def _middle(rounds: ByRound) -> str:
    return number(statistics.median(rounds.values()))


def counted(n: int, what: str) -> str:
    """Return a number of things, thousands separated."""
    return f"{n:,} {what}{'' if n == 1 else 's'}"


def listed(words: Sequence[str]) -> str:
    return " and ".join(filter(None, [", ".join(words[:-1]), words[-1]]))


# Over HTTP


def way(climb: Climb) -> str:
    return way_of(climb.web, climb.readers)


def way_of(web: int, readers: Who) -> str:
    return f"{web} web process{'es' if web > 1 else ''}, {readers}"


def served(report: HttpReport) -> list[str]:
    """Say which phase holds the highest rate, by way of asking."""
    of = report.settings
    return [f"{way_of(web, who)}: {_most(report, web, who)}." for web in of.web for who in of.readers]


def _most(report: HttpReport, web: int, who: Who) -> str:
    """Compare the capacities. What ended without a miss may hold more: it is never called less than another.

    A phase that held nothing in some round has no ratio there, and the other rounds alone would flatter it.
    """
    climbs = {
        slug: each
        for slug in report.settings.phases
        if (each := [climb for climb in report.of(slug, web, who) if climb.ended_by != "unfinished"])
    }
    if not climbs:
        return "nothing was measured to its end"
    more = {slug for slug, each in climbs.items() if any(climb.ended_by != "slo" for climb in each)}
    held = {slug: {climb.round: climb.capacity for climb in each if climb.capacity} for slug, each in climbs.items()}
    known = {slug: rounds for slug, rounds in held.items() if len(rounds) == len(climbs[slug])}
    middle = {slug: statistics.median_low(rounds.values()) for slug, rounds in known.items()}
    shown = {
        slug: f"{slug} ({'≥ ' if slug in more else ''}{number(middle[slug])})"
        for slug in sorted(middle, key=middle.__getitem__, reverse=True)
    }
    what = f"pages a second at p99 ≤ {report.settings.slo_ms:g} ms"
    words = [_holding(known, shown, more, what)] if known else []
    for slug, each in climbs.items():
        if slug not in known:
            usual = each[(len(each) - 1) // 2].capacity
            named = f"{slug} ({number(usual)})" if usual else slug
            words.append(f"{named} held no rate in {len(each) - len(held[slug])} of {len(each)} rounds")
    return "; ".join(words)


def _holding(known: Mapping[str, ByRound], shown: Mapping[str, str], more: Collection[str], what: str) -> str:
    if len(known) == 1:
        return f"{next(iter(shown.values()))} {what}, with nothing to compare it with"
    if len(set.intersection(*map(set, known.values()))) < 2:
        return f"{listed([*shown.values()])} {what}; one round has no spread, so no difference can be told"
    times = {slug: {number: 1 / rate for number, rate in rounds.items()} for slug, rounds in known.items()}
    best, others = to_the_best(times)
    tied = [slug for slug in shown if slug == best or slug in more or not others[slug].told]
    fewer = [
        f"{'at least ' if best in more else ''}{others[slug]} as many as {slug}" for slug in shown if slug not in tied
    ]
    if len(tied) == 1:
        return f"{shown[best]} holds the most {what}, {listed(fewer)}"
    words = f"no difference can be told between {listed([shown[slug] for slug in tied])} {what}"
    return f"{words}; {best} holds {listed(fewer)}" if fewer else words


def waited(report: Backlog) -> list[str]:
    """Say how many pages a second there are with the least and the largest backlog.

    One comes minutes after the other, on a machine whose speed changes: of that no ratio is told.
    """
    said = []
    for slug in dict.fromkeys(level.climb.phase for level in report.levels):
        levels = sorted(
            (each for each in report.levels if each.climb.phase == slug), key=lambda each: each.climb.pending
        )
        ends = [f"{number(each.pages_per_s)} pages a second with {each.climb.pending:,} pending" for each in levels]
        words = f"{ends[0]} and later {ends[-1]}; levels that are not in turn tell no difference"
        said.append(f"{slug}: a closed loop gets {words if len(ends) > 1 else ends[0]}.")
    return said


# Messages


def of_steps(report: MessagesReport) -> dict[str, list[MessagesStep]]:
    """Group the steps by web processes and receipts, each group by its rates."""
    ways: dict[str, list[MessagesStep]] = {}
    for step in report.steps:
        way = f"{step.web} web process{'es' if step.web > 1 else ''}, {'with' if step.receipts else 'no'} receipts"
        ways.setdefault(way, []).append(step)
    return ways


def crossed(report: Crossover) -> list[str]:
    """Compare the hybrid with the better of pull and push, at each proportion of pages to posts."""
    said = []
    for share in report.shares:
        *_, hybrid = share.used_ms
        at = f"At {counted(share.pages_per_post, 'page')} a post"
        if share.low is None or share.high is None or share.low <= 1 <= share.high:
            said.append(
                f"{at} no difference can be told between {hybrid} and {share.better}, the better of the others."
            )
        else:
            interval = f"({share.low:.2f} to {share.high:.2f})"
            said.append(
                f"{at} {hybrid} needs {share.ratio:.2f} times {interval} the processor time of {share.better}, "
                f"the better of the others."
            )
    return said


def sent(report: MessagesReport) -> list[str]:
    """Say whether any message was lost, and then how late they are at the highest rate."""
    total, errors = (sum(step.sent for step in report.steps), sum(sum(step.errors.values()) for step in report.steps))
    said = [f"{len(report.wrongs)} of {total:,} messages lost, doubled or out of order; {errors} requests refused."]
    for way, steps in of_steps(report).items():
        last = steps[-1]
        ms = listed(
            [f"{name} {round(last.received_ms[name]):,} ms" for name in ("p50", "p99") if name in last.received_ms]
        )
        said.append(f"{way}: at {last.rate:g} a second the other's stream tells after {ms or 'too few to say'}.")
    return said
