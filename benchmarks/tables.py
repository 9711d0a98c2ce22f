"""The words and tables of a report, for every place that shows it; and the terminal, the first such place."""

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from functools import partial
from typing import get_args

from rich.console import Console
from rich.table import Table

from benchmarks import report as reports
from benchmarks import verdict
from benchmarks.measure import PERCENTILES, SAMPLES
from benchmarks.report import PROGRAMS
from benchmarks.verdict import number
from phases import PHASES

MEANINGLESS = "MEANINGLESS: measured on stand-ins"
TOO_FEW = "too few"
SMALLER = "Sizes are smaller than those that are promised for: no verdict."
WIDTH = 140  # columns, without a terminal

Line = list[str]


@dataclass(frozen=True)
class Grid:
    """A table, for any place. `texts`: so many columns are words, the others are numbers."""

    title: str
    columns: list[str]
    rows: list[Line]
    note: str = ""
    texts: int = 1


def show(report: reports.Report) -> None:
    """Show the verdict, the tables, and what they are about, on the terminal."""
    plain = partial(Console, highlight=False, emoji=False, markup=False)  # names and paths say what they say
    console = plain()
    if not console.is_terminal:
        console = plain(width=WIDTH)
    for sentence in says(report):
        console.print(f"- {sentence}")
    for grid in grids(report):
        marked = f"{MEANINGLESS}\n" if report.meaningless else ""
        table = Table(title=marked + grid.title, title_justify="left")
        for at, column in enumerate(grid.columns):
            table.add_column(column, justify="left" if at < grid.texts else "right")
        for row in grid.rows:
            table.add_row(*row)
        console.print(table)
        if grid.note:
            console.print(grid.note)
    if about := lead(report):
        console.print(about)
    console.print(f"On {where(report)}.")


def where(report: reports.Report) -> str:
    """Return the servers in words: versions, and topology where the report knows it."""
    kinds = report.topology
    return ", ".join(
        f"{name} {version}{f' ({kinds[name]})' if name in kinds else ''}" for name, version in report.servers.items()
    )


def says(report: reports.Report) -> list[str]:
    """Return the sentences that say what was found, which come first; and before them whether all was measured."""
    broken_off = report.broken_off if isinstance(report, reports.Interruptible) else ""
    return [*([f"BROKEN OFF: {broken_off}."] if broken_off else []), *_found(report)]


def _found(report: reports.Report) -> list[str]:
    if report.meaningless:
        return [f"{MEANINGLESS}. Nothing is said of what is quicker."]
    match report:
        case reports.Comparison():
            return verdict.compared(report)
        case reports.Crossover():
            return verdict.crossed(report)
        case reports.Curves():
            return [_growth(report.x, series) for series in report.series if series.exponent is not None]
        case reports.Targets():
            return [SMALLER] if report.smaller else _outcomes(report.rows)
        case reports.HttpReport():
            return verdict.served(report)
        case reports.Backlog():
            return verdict.waited(report)
        case reports.MessagesReport():
            return verdict.sent(report)
        case reports.Units():
            return verdict.cheapest(report)
        case reports.Plan():
            return [report.recommendation.reason]


def _outcomes(rows: list[reports.Row]) -> list[str]:
    names = {outcome: [row.name for row in rows if row.outcome == outcome] for outcome in get_args(reports.Outcome)}
    met, of = len(names.pop("met")), sum(row.outcome is not None for row in rows)
    return [
        f"{met} of {of} targets met.",
        *(f"{outcome.capitalize()}, {len(some)}: {', '.join(some)}." for outcome, some in names.items() if some),
    ]


def _growth(x: str, series: reports.Series) -> str:
    assert series.exponent is not None
    return f"{series.title}: ten times as many {x} take {10**series.exponent:.1f} times as long."


def lead(report: reports.Report) -> str:
    """Return one paragraph that says what was measured."""
    match report:
        case reports.Comparison():
            return _comparison_lead(report)
        case reports.HttpReport() | reports.Backlog():
            return _over_http_lead(report)
        case reports.MessagesReport():
            return (
                f"{report.settings.conversations:,} conversations, open loop, "
                f"{report.settings.seconds:g} s a rate, seed {report.settings.seed}."
            )
        case reports.Crossover():
            of = report.settings
            return (
                f"One post in {of['one_post_in']} is a celebrity's, who has {of['followers']:,} active followers. "
                f"Readers follow the celebrity and {of['followees']} others. The median of {of['measured']} of each."
            )
        case reports.Curves():
            return f"The median of {report.settings['repeats']} of each, taken in turn."
        case _:
            return ""


def _comparison_lead(report: reports.Comparison) -> str:
    of, phases = report.settings, report.phases.values()
    pages, lists = sum(phase.checked_pages for phase in phases), sum(phase.lag_checked for phase in phases)
    loop = f"{of.rate:g}/s, open loop" if of.rate else f"{of.clients} clients, closed loop"
    return (
        f"Workload {report.workload.name} on {report.graph.source}: {loop}, {of.seconds:g} s in each of "
        f"{of.rounds} rounds, through {of.through}, seed {of.seed}. {pages:,} pages were compared with the "
        f"oracle's and {lists:,} lists of last followers were read: no difference. In brackets behind a ratio: its "
        f"{verdict.INTERVAL} interval over the rounds."
    )


def _over_http_lead(report: reports.HttpReport | reports.Backlog) -> str:
    of = report.settings
    climbs = report.climbs if isinstance(report, reports.HttpReport) else [level.climb for level in report.levels]
    answered = sum(step.answered for climb in climbs for step in climb.steps)
    return (
        f"GET /timeline of {of.limit} over HTTP on {report.graph.source}, {report.graph.readers:,} readers, open loop, "
        f"{of.seconds:g} s a step or as long as its samples take, seed {of.seed}. Each of {answered:,} answers was "
        f"compared with the oracle's page: no difference."
    )


def grids(report: reports.Report) -> list[Grid]:
    match report:
        case reports.Comparison():
            return [*_of_comparison(report)]
        case reports.Crossover():
            return [_crossed(report)]
        case reports.Curves():
            return [*_of_curves(report)]
        case reports.Targets():
            return [_ratios(report), _measured(report)]
        case reports.HttpReport():
            several = ", of the climbs in the middle" if report.settings.rounds > 1 else ""
            return [_capacities(report), _steps(_middles(report), several)]
        case reports.Backlog():
            return [_backlogs(report), _drains(report), _steps([level.climb for level in report.levels])]
        case reports.MessagesReport():
            return [_messages(report), _commands_of_messages(report)]
        case reports.Units():
            return [_of_units(report)]
        case reports.Plan():
            return _of_plan(report)


def _of_comparison(report: reports.Comparison) -> Iterable[Grid]:
    columns = ["phase", "what", "n", *(f"{name}, ms" for name in PERCENTILES)]
    yield Grid("Latency", columns, _latencies(report.phases), FEW, texts=2)
    phases = report.phases.values()
    costs = [[title, *map(shown, phases)] for title, shown in COSTS]
    if any(phase.pulled for phase in phases):  # else nobody need ask what that is
        costs.insert(PULLED_BEHIND, ["posts that are pulled", *(f"{phase.pulled:,}" for phase in phases)])
    for title, counts in COMMANDS:
        costs += [
            [
                f"{title}, {PROGRAMS[server]}",
                *(number(of[server] if (of := counts(phase)) else None) for phase in phases),
            ]
            for server in reports.SERVERS
        ]
    names = PROGRAMS | {"harness": "load generator" if report.settings.through == "api" else HARNESS}
    costs += [
        [f"processor, {names[name]}: % of a core", *(number(100 * of.cpu_share[name]) for of in phases)]
        for name in next(iter(phases)).cpu_share
    ]
    yield Grid("What it costs", ["what", *report.phases], costs)
    if rows := _to_phase_1(report):
        columns = ["what", "phase", "median", "least", "most"]
        yield Grid("÷ phase 1 in the same round, over the rounds", columns, rows, texts=2)


FEW = f"“{TOO_FEW}”: a percentile takes samples, {', '.join(f'{name} {n:,}' for name, n in SAMPLES.items() if n > 1)}."


def _latencies(phases: dict[str, reports.Summary]) -> list[Line]:
    rows = []
    for slug, summary in phases.items():
        for kind, title in reports.KINDS.items():
            figures, count = summary.latency_ms[kind], summary.counts[kind]
            if figures and not verdict.at_once(kind, slug):
                carried = [number(figures[name]) if count >= SAMPLES[name] else TOO_FEW for name in PERCENTILES]
                rows.append([slug, title, f"{count:,}", *carried])
    return rows


def _to_phase_1(report: reports.Comparison) -> list[Line]:
    """Return the ratios to phase 1, without percentiles that a round has too few samples for, as older reports have."""
    found: dict[str, list[Line]] = {}
    for slug, ratios in report.ratios.items():
        for name, of in ratios.items():
            if name == "operations per s" and report.settings.rate:
                continue  # an open loop gets what it asks for
            kind, _, percentile = name.partition("_ms ")
            if percentile and (not verdict.carries(report, slug, kind, percentile) or verdict.at_once(kind, slug)):
                continue
            title = f"{reports.KINDS[kind]}, {percentile}" if percentile else RATIOS[name]
            found.setdefault(title, []).append([title, slug, *(f"{each:.2f}" for each in (of.median, of.min, of.max))])
    return [row for rows in found.values() for row in rows]


HARNESS = "web and load generator, one process"
RATIOS = {
    "commands per post": "commands a post",
    "commands per read": "commands a page",
    "cpu an operation": "processor time of an operation",
    "cpu, all processes": "processor time a second",  # of older reports: with the load generator
    "operations per s": "operations a second",
}
PULLED_BEHIND = 2  # rows
COSTS: tuple[tuple[str, Callable[[reports.Summary], str]], ...] = (
    ("operations a second", lambda of: number(of.operations_per_s)),
    ("deliveries a second", lambda of: number(of.deliveries_per_s)),
    ("kept: bytes a person", lambda of: number(of.kept.bytes_per_person)),
    ("kept: bytes an entry", lambda of: number(of.kept.bytes_per_entry)),
    ("kept: entries", lambda of: number(of.kept.entries)),
    ("failed operations", lambda of: number(sum(of.errors.values()))),
    ("delivered in time", lambda of: "yes" if of.drained else "NO"),
)
COMMANDS: tuple[tuple[str, Callable[[reports.Summary], reports.PerServer | None]], ...] = (
    ("commands a post", lambda of: of.commands.get("post")),
    ("commands a page", lambda of: of.commands.get("read")),
    ("commands a second at the server, workers included", lambda of: of.server_commands_per_s),
)


def _crossed(report: reports.Crossover) -> Grid:
    phases = list(report.shares[0].used_ms)
    rows = [
        [
            f"{share.pages_per_post:,}",
            "pulled" if share.pulled else "delivered",
            *(number(share.used_ms[slug]) for slug in phases),
            *("-" if each is None else f"{each:.2f}" for each in (share.ratio, share.low, share.high)),
        ]
        for share in report.shares
    ]
    title = "Processor milliseconds of an operation, all processes, by pages for each post"
    columns = ["pages a post", "the celebrity is", *phases, f"{phases[-1]} ÷ the better", "from", "to"]
    return Grid(title, columns, rows, f"From, to: {report.interval}.", texts=2)


def _of_curves(report: reports.Curves) -> Iterable[Grid]:
    sizes = sorted({size for series in report.series for size, _, _ in series.points})
    columns = ["what", *(f"{size:,}" for size in sizes)]
    rows = []
    for series in report.series:
        at = {size: number(p50) for size, p50, _ in series.points}
        exponent = "-" if series.exponent is None else f"{series.exponent:.2f}"
        rows.append([series.title, *(at.get(size, "-") for size in sizes), exponent])
    title = f"Milliseconds by {report.x}, median"
    yield Grid(
        title,
        [*columns, "exponent"],
        rows,
        "The exponent says how they grow from 100 on: 1 in proportion, 0 not at all.",
    )
    if int(str(report.settings["repeats"])) >= SAMPLES["p99"]:
        slow = [
            [series.title, *(number({size: p99 for size, _, p99 in series.points}.get(size)) for size in sizes)]
            for series in report.series
        ]
        yield Grid(f"Milliseconds by {report.x}, p99", columns, slow)


def _ratios(report: reports.Targets) -> Grid:
    columns = ["row", "what", "outcome", "ratio", "from", "to", "target"]
    note = (
        "From, to: the 90 % interval over the turns of this run. Met: all of it meets the target. Within the noise: a "
        "part of it does."
    )
    rows = [_target(row, "" if report.smaller else row.outcome) for row in report.rows]
    return Grid("Ratios, both sides measured in turn in one run", columns, rows, note, texts=3)


def _target(row: reports.Row, outcome: str | None) -> Line:
    bound = (
        f"≥ {row.at_least:g}" if row.at_least is not None else f"≤ {row.at_most:g}" if row.at_most is not None else ""
    )
    shown = "MISSED" if outcome == "missed" else outcome or ""
    return [row.name, row.title, shown, number(row.ratio), number(row.low), number(row.high), bound]


UNITS = {"_per_s": "a second", "_ms": "ms"}  # by the ends of what is measured


def _measured(report: reports.Targets) -> Grid:
    """Return the table of figures. Those that neighbours share stand once, under the first one's name."""
    rows, before = list[Line](), None
    for row in report.rows:
        if row.figures != before:
            rows += [[row.name, *_figure(name, value)] for name, value in row.figures.items()]
        before = row.figures
    return Grid("What was measured for them", ["row", "what", "figure", "unit"], rows, texts=2)


def _figure(name: str, value: float) -> Line:
    end = next((end for end in UNITS if name.endswith(end)), "")
    return [name.removesuffix(end).replace("_", " "), number(value), UNITS.get(end, "")]


NOT_ENOUGH = "-: fewer samples than carry the percentile, or no figures, since who asked was late itself or gave up."


def _capacities(report: reports.HttpReport) -> Grid:
    of = report.settings
    ways = [(web, who) for web in of.web for who in of.readers]
    rows = [[slug, *(_of_several(report, slug, *way) for way in ways)] for slug in of.phases]
    columns = [verdict.way_of(*way) for way in ways]
    title = f"Pages a second at p99 ≤ {of.slo_ms:g} ms: the highest rate that was held"
    several = f"The median of {of.rounds} climbs, and the least and the most. " if of.rounds > 1 else ""
    note = f"{several}≥: more was not asked for, or the load generator was late at more."
    return Grid(title, ["phase", *columns], rows, note)


def _of_several(report: reports.HttpReport, slug: str, web: int, who: reports.Who) -> str:
    shown = _capacity(report.middle(slug, web, who))
    ended = [climb for climb in report.of(slug, web, who) if climb.ended_by != "unfinished"]
    return f"{shown} ({_capacity(ended[0])} to {_capacity(ended[-1])})" if len(ended) > 1 else shown


def _capacity(climb: reports.Climb | None) -> str:
    if climb is None or climb.ended_by == "unfinished":
        return "-"
    if climb.capacity is None:
        return "none"
    return f"{'≥ ' if climb.ended_by != 'slo' else ''}{number(climb.capacity)}"


def _middles(report: reports.HttpReport) -> list[reports.Climb]:
    """Return the climb with the median capacity of each phase and way to ask."""
    of = report.settings
    found = [report.middle(slug, web, who) for slug in of.phases for web in of.web for who in of.readers]
    return [climb for climb in found if climb]


def _steps(climbs: Iterable[reports.Climb], which: str = "") -> Grid:
    shown = ("p50", "p99", "p99.9")
    rows = []
    for climb in climbs:
        who = f"{climb.phase}, {verdict.way(climb)}"
        who += f", {climb.pending:,} pending" if climb.pending else ""
        for step in sorted(climb.steps, key=lambda step: (step.rate, step.answered)):
            figures = [number(step.latency_ms.get(name)) for name in shown]
            counts = [f"{step.rate:g}", f"{step.answered:,}", number(step.answered_per_s)]
            rows.append([who, *counts, *figures, number(step.late_ms), step.outcome])
    columns = ["what", "asked a second", "n", "answered a second", *(f"{name}, ms" for name in shown)]
    columns += ["generator late, p99, ms", "objective"]
    return Grid(f"At fixed rates, latency from the intended start{which}", columns, rows, NOT_ENOUGH)


def _backlogs(report: reports.Backlog) -> Grid:
    of = report.settings
    rows = [
        [level.phase, f"{level.pending:,}", number(each.pages_per_s), number(each.to_none), _capacity(level)]
        for each in report.levels
        for level in (each.climb,)
    ]
    columns = ["phase", "pending", "pages a second", "÷ with none", f"held at p99 ≤ {of.slo_ms:g} ms"]
    return Grid("Pages with a backlog: in a closed loop, and the highest rate that was held", columns, rows)


def _drains(report: reports.Backlog) -> Grid:
    rows = [
        [each.phase, f"{each.pending:,}", number(each.rate), "too long" if each.gone_s is None else number(each.gone_s)]
        + [number(each.latency_ms.get(name)) for name in ("p50", "p99", "p99.9")]
        for each in report.drains
    ]
    columns = ["phase", "pending", "pages asked for a second", "gone after, s", "p50, ms", "p99, ms", "p99.9, ms"]
    return Grid("The worker begins again, under load", columns, rows, NOT_ENOUGH)


def _messages(report: reports.MessagesReport) -> Grid:
    rows = [
        [way, f"{step.rate:g}", f"{step.received:,}"]
        + [number(step.received_ms.get(name)) for name in ("p50", "p90", "p99", "max")]
        + [number(times.get(name)) for times in (step.acknowledged_ms, step.read_ms) for name in ("p50", "p99")]
        + [number(step.late_s)]
        for way, steps in verdict.of_steps(report).items()
        for step in steps
    ]
    columns = ["what", "a second", "n", *(f"received {name}" for name in ("p50", "p90", "p99", "max"))]
    columns += [f"{what} {name}" for what in ("acknowledged", "read") for name in ("p50", "p99")] + ["late, s"]
    return Grid("From the moment a message was due, ms", columns, rows, NOT_ENOUGH_MESSAGES)


NOT_ENOUGH_MESSAGES = (
    "-: fewer samples than carry the percentile. read: until its sender is told. late: who asked, at last."
)


def _commands_of_messages(report: reports.MessagesReport) -> Grid:
    rows = [["one POST, authentication included", "-", *(number(report.commands[name]) for name in TALKING), "-"]]
    for way, steps in verdict.of_steps(report).items():
        for step in steps:
            counts = [number(step.commands.get(name)) for name in TALKING]
            rows.append([f"{way}, all that follows", f"{step.rate:g}", *counts, number(sum(step.cpu_ms.values()))])
    columns = ["what", "a second", *(f"{PROGRAMS[name]}, commands" for name in TALKING), "processor, ms"]
    return Grid("What a message costs", columns, rows, "Processor time is the web processes' and the servers'.")


TALKING = ("mongodb", "redis")  # servers that a message needs


def _of_units(report: reports.Units) -> Grid:
    processes = [*next(iter(report.units.values())).post.cpu_s]

    def line(slug: str, what: str, costs: reports.Costs) -> Line:
        least_most = [number(1e6 * end(costs.rounds_s)) if costs.rounds_s else "" for end in (min, max)]
        each = (number(1e6 * costs.cpu_s[name]) for name in processes)
        return [slug, what, number(1e6 * costs.cpu_total_s), *least_most, *each]

    delivering = {phase.slug for phase in PHASES if phase.store}
    rows = []
    for slug, units in report.units.items():
        rows.append(line(slug, "a post", units.post))
        if units.along:
            rows.append(line(slug, "a post that a job takes along", units.along))
        if slug in delivering:
            rows.append(line(slug, "a delivery to one more follower", units.delivery))
        for what, pages in (("a warm page", units.reads), ("a cold page", units.cold)):
            for followees, page in zip(report.followees, pages or (), strict=bool(pages)):
                rows.append(line(slug, f"{what}, {followees:,} followees", page))
        if units.pulled:
            rows.append(line(slug, "one more pulled author on a page", units.pulled))
    names = PROGRAMS | {"harness": "web"}
    columns = ["phase", "what", "all", "from", "to", *(names[name] for name in processes)]
    note = (
        "Medians of the rounds, in which the phases take turns in an order of their own. "
        "From, to: all processes in the least and in the most of them."
    )
    return Grid("Processor time, µs", columns, rows, note, texts=2)


def _of_plan(report: reports.Plan) -> list[Grid]:
    needs = report.needs
    rows = [
        ["deliveries a day", *(f"{n.deliveries_per_day:,.0f}" for n in needs)],
        ["processor hours a day", *(f"{n.cpu_s_per_day / 3600:.2f}" for n in needs)],
        *(
            [f"cores at the peak, {PROGRAMS[name]}", *(f"{n.cores[name]:.3f}" for n in needs)]
            for name in needs[0].cores
        ),
        *(
            [
                f"commands a second at the peak, {PROGRAMS[name]}",
                *(f"{n.commands_per_s[name]:,.1f}" for n in needs),
            ]
            for name in needs[0].commands_per_s
        ),
        ["memory for what is kept", *(size(n.memory_bytes) for n in needs)],
        ["disk for what is kept", *(size(n.disk_bytes) for n in needs)],
        ["post acknowledged, ms", *(f"{n.post_ms:.1f}" for n in needs)],
        ["the heaviest author's, ms", *(f"{n.post_heaviest_ms:,.1f}" for n in needs)],
        ["read, ms", *(f"{n.read_ms:.1f}" for n in needs)],
        ["delivery lag, s", *(_lag(n, n.lag_s) for n in needs)],
        ["the heaviest author's, s", *(_lag(n, n.lag_heaviest_s) for n in needs)],
        ["full first", *(PROGRAMS[n.first] for n in needs)],
        ["how full at the peak, %", *(f"{100 * n.fullest:.1f}" for n in needs)],
    ]
    if fits := report.recommendation.fits:
        rows.insert(0, ["fits", *("yes" if n.phase in fits else "NO" for n in needs)])
    crossings = "Where two of them cost the same processor time"
    margins = [[between, f"{cost_us:.2f}"] for between, cost_us in report.marginal_author_us]
    note = "The first author costs a whole command; the next ones ride along, up to 200 in one."
    return [
        Grid("What each phase needs", ["what", *(n.phase for n in needs)], rows),
        Grid(
            crossings, ["what", "beyond", "at"], [[what, beyond, at] for what, at, beyond in report.crossings], texts=2
        ),
        Grid("What one more pulled author costs a read", ["followees", "µs of processor"], margins, note),
    ]


def _lag(need: reports.Need, seconds: float | None) -> str:
    if not need.deliveries_per_day:
        return "-"
    return "grows without end" if seconds is None else f"{seconds:,.3f}"


def size(count: float) -> str:
    for unit in ("B", "kB", "MB", "GB"):
        if count < 1_000:
            return f"{count:,.0f} {unit}"
        count /= 1_000
    return f"{count:,.1f} TB"
