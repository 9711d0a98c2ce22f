"""The tables of a report, wherever they are shown, and the terminal as the first such place."""

from collections.abc import Callable, Iterable
from dataclasses import dataclass

from rich.console import Console
from rich.table import Table

from benchmarks import report as reports
from benchmarks.measure import PERCENTILES

MEANINGLESS = "MEANINGLESS: measured on stand-ins"
WIDTH = 140  # columns, without a terminal

Line = list[str]


@dataclass(frozen=True)
class Grid:
    """A table, on whatever it is shown."""

    title: str
    columns: list[str]
    rows: list[Line]
    note: str = ""


def show(report: reports.Report) -> None:
    """Tables and what they are about, on the terminal."""
    console = Console()
    if not console.is_terminal:
        console = Console(width=WIDTH)
    for grid in grids(report):
        marked = f"{MEANINGLESS}\n" if report.meaningless else ""
        table = Table(title=marked + grid.title, title_justify="left")
        for number, column in enumerate(grid.columns):
            table.add_column(column, justify="left" if number == 0 or column in ("what", "figures", "") else "right")
        for row in grid.rows:
            table.add_row(*row)
        console.print(table)
        if grid.note:
            console.print(grid.note)
    console.print(lead(report))
    console.print(f"On {where(report)}.")


def where(report: reports.Report) -> str:
    """The servers: versions, and topology where the report knows it."""
    kinds = report.topology
    return ", ".join(
        f"{name} {version}{f' ({kinds[name]})' if name in kinds else ''}" for name, version in report.servers.items()
    )


def lead(report: reports.Report) -> str:
    """One paragraph: what was measured."""
    match report:
        case reports.Comparison():
            return _comparison_lead(report)
        case reports.Curves():
            exponents = ", ".join(f"{s.name} {s.exponent}" for s in report.series if s.exponent is not None)
            return f"Time grows with {report.x} to the power of: {exponents}."
        case reports.Targets():
            judged = [row.met for row in report.rows if row.met is not None]
            return f"{sum(judged)} of {len(judged)} targets met."
        case reports.HttpReport() | reports.Backlog():
            return _over_http_lead(report)
        case reports.Units():
            return "Processor time of one post, one delivery and one read, by process."
        case reports.Plan():
            return report.recommendation.reason


def _comparison_lead(report: reports.Comparison) -> str:
    of, phases = report.settings, report.phases.values()
    pages, lists = sum(phase.checked_pages for phase in phases), sum(phase.lag_checked for phase in phases)
    loop = f"{of.rate:g}/s, open loop" if of.rate else f"{of.clients} clients, closed loop"
    broken_off = f"BROKEN OFF: {report.missing} of {report.missing + len(report.cells)} are missing. "
    return (broken_off if report.missing else "") + (
        f"Workload {report.workload.name} on {report.graph.source}: {loop}, {of.seconds:g} s in each of "
        f"{of.rounds} rounds, through {of.through}, seed {of.seed}. {pages:,} pages were compared with the "
        f"oracle's and {lists:,} lists of last followers were read: no difference."
    )


def _over_http_lead(report: reports.HttpReport | reports.Backlog) -> str:
    of = report.settings
    climbs = report.climbs if isinstance(report, reports.HttpReport) else [level.climb for level in report.levels]
    answered = sum(step.answered for climb in climbs for step in climb.steps)
    return ("BROKEN OFF before its end. " if report.unfinished else "") + (
        f"GET /timeline of {of.limit} over HTTP on {report.graph.source}, {report.graph.readers:,} readers, open loop, "
        f"{of.seconds:g} s a step or as long as its samples take, seed {of.seed}. Each of {answered:,} answers was "
        f"compared with the oracle's page: no difference."
    )


def grids(report: reports.Report) -> list[Grid]:
    match report:
        case reports.Comparison():
            return [*_of_comparison(report)]
        case reports.Curves():
            return [_of_curves(report)]
        case reports.Targets():
            columns = ["row", "what", "ratio", "target", "", "figures"]
            rows, note = (
                [*map(_target, report.rows)],
                "In brackets: where nine of ten such ratios lie. A target is met when one of these meets it.",
            )
            return [Grid("Ratios, both sides measured in turn in one run", columns, rows, note)]
        case reports.HttpReport():
            return [_capacities(report), _steps(report.climbs)]
        case reports.Backlog():
            return [_backlogs(report), _drains(report), _steps([level.climb for level in report.levels])]
        case reports.Units():
            return [_of_units(report)]
        case reports.Plan():
            return _of_plan(report)


def number(value: float | None) -> str:
    """Three significant digits, thousands separated."""
    if value is None:
        return "-"
    if value == 0:
        return "0"
    return f"{value:,.0f}" if abs(value) >= 100 else f"{value:.3g}"


def _of_comparison(report: reports.Comparison) -> Iterable[Grid]:
    yield Grid("Latency, ms", ["phase", "", "n", *PERCENTILES], _latencies(report.phases))
    phases = report.phases.values()
    costs = [[title, *map(shown, phases)] for title, shown in COSTS]
    costs += [
        [f"processor, {name}: % of a core", *(number(100 * of.cpu_share[name]) for of in phases)]
        for name in next(iter(phases)).cpu_share
    ]
    yield Grid("What it costs", ["", *report.phases], costs)
    if report.ratios:
        names = list(dict.fromkeys(name for figures in report.ratios.values() for name in figures))
        ratios = [[name, *(_spread(figures.get(name)) for figures in report.ratios.values())] for name in names]
        yield Grid("÷ phase 1 in the same round: median (smallest to largest)", ["", *report.ratios], ratios)


def _latencies(phases: dict[str, reports.Summary]) -> list[Line]:
    rows = []
    for slug, summary in phases.items():
        shown = slug
        for kind, title in reports.KINDS.items():
            if figures := summary.latency_ms[kind]:
                rows.append([shown, title, f"{summary.counts[kind]:,}", *map(number, figures.values())])
                shown = ""
    return rows


COSTS: tuple[tuple[str, Callable[[reports.Summary], str]], ...] = (
    ("operations/s", lambda of: number(of.operations_per_s)),
    ("deliveries/s", lambda of: number(of.deliveries_per_s)),
    ("commands a post: MongoDB, Memcached, Redis", lambda of: _triple(of.commands.get("post"))),
    ("commands a read: MongoDB, Memcached, Redis", lambda of: _triple(of.commands.get("read"))),
    ("commands/s at the servers, workers included", lambda of: _triple(of.server_commands_per_s)),
    ("kept: bytes a person", lambda of: number(of.kept.bytes_per_person)),
    ("kept: bytes an entry", lambda of: number(of.kept.bytes_per_entry)),
    ("kept: entries", lambda of: number(of.kept.entries)),
    ("errors", lambda of: number(sum(of.errors.values()))),
    ("delivered in time", lambda of: "yes" if of.drained else "NO"),
)


def _triple(counts: reports.PerServer | None) -> str:
    return " ".join(number(counts[server]) for server in reports.SERVERS) if counts else "-"


def _spread(ratio: reports.Spread | None) -> str:
    return f"{ratio.median:.2f} ({ratio.min:.2f} to {ratio.max:.2f})" if ratio else "-"


def _of_curves(report: reports.Curves) -> Grid:
    sizes = sorted({size for series in report.series for size, _, _ in series.points})
    rows = []
    for series in report.series:
        at = {size: f"{number(p50)} ({number(p99)})" for size, p50, p99 in series.points}
        exponent = "-" if series.exponent is None else f"{series.exponent:.2f}"
        rows.append([series.title, *(at.get(size, "-") for size in sizes), exponent])
    title = f"Milliseconds, p50 (p99), by {report.x}; the exponent is of the p50 from 100 on"
    return Grid(title, ["what", *(f"{size:,}" for size in sizes), "exponent"], rows)


def _target(row: reports.Row) -> Line:
    bound = f"≥ {row.at_least:g}" if row.at_least is not None else f"≤ {row.at_most:g}" if row.at_most else ""
    verdict = "" if row.met is None else "met" if row.met else "MISSED"
    figures = ", ".join(f"{name} {number(value)}" for name, value in row.figures.items())
    interval = "" if row.low is None else f" ({number(row.low)} to {number(row.high)})"
    return [row.name, row.title, f"{number(row.ratio)}{interval}", bound, verdict, figures]


NOT_ENOUGH = "-: fewer samples than carry the percentile, or no figures, since who asked was late itself or gave up."


def _capacities(report: reports.HttpReport) -> Grid:
    of = report.settings
    ways = [(web, who) for web in of.web for who in of.readers]
    found = {(each.phase, each.web, each.readers): each for each in report.climbs}
    rows = [[slug, *(_capacity(found.get((slug, *way))) for way in ways)] for slug in of.phases]
    columns = [f"{web} web process{'es' if web > 1 else ''}, {who}" for web, who in ways]
    title = f"Pages a second at p99 ≤ {of.slo_ms:g} ms: the highest rate that was held"
    return Grid(title, ["phase", *columns], rows, "≥: more was not asked for, or the load generator was late at more.")


def _capacity(climb: reports.Climb | None) -> str:
    if climb is None or climb.ended_by == "unfinished":
        return "-"
    if climb.capacity is None:
        return "none"
    return f"{'≥ ' if climb.ended_by != 'slo' else ''}{number(climb.capacity)}"


def _steps(climbs: Iterable[reports.Climb]) -> Grid:
    shown = ("p50", "p99", "p99.9")
    rows = []
    for climb in climbs:
        who = f"{climb.phase}, {climb.web} web, {climb.readers}"
        who += f", {climb.pending:,} pending" if climb.pending else ""
        for step in sorted(climb.steps, key=lambda step: (step.rate, step.answered)):
            figures = [number(step.latency_ms.get(name)) for name in shown]
            counts = [f"{step.rate:g}", f"{step.answered:,}", number(step.answered_per_s)]
            rows.append([who, *counts, *figures, number(step.late_ms), step.outcome])
            who = ""
    columns = ["", "rate/s", "n", "answered/s", *(f"{name}, ms" for name in shown), "generator late, p99 ms", "p99"]
    return Grid("At fixed rates, latency from the intended start", columns, rows, NOT_ENOUGH)


def _backlogs(report: reports.Backlog) -> Grid:
    of = report.settings
    rows = [
        [level.phase, f"{level.pending:,}", number(each.pages_per_s), number(each.to_none), _capacity(level)]
        for each in report.levels
        for level in (each.climb,)
    ]
    columns = ["phase", "pending", "pages/s", "÷ with none", f"held at p99 ≤ {of.slo_ms:g} ms"]
    return Grid("Pages with a backlog: in a closed loop, and the highest rate that was held", columns, rows)


def _drains(report: reports.Backlog) -> Grid:
    rows = [
        [each.phase, f"{each.pending:,}", number(each.rate), "too long" if each.gone_s is None else number(each.gone_s)]
        + [number(each.latency_ms.get(name)) for name in ("p50", "p99", "p99.9")]
        for each in report.drains
    ]
    columns = ["phase", "pending", "pages asked for a second", "gone after, s", "p50, ms", "p99, ms", "p99.9, ms"]
    return Grid("The worker begins again, under load", columns, rows, NOT_ENOUGH)


def _of_units(report: reports.Units) -> Grid:
    def line(what: str, costs: reports.Costs) -> Line:
        return [what, *(number(1e6 * seconds) for seconds in costs.cpu_s.values())]

    rows = []
    for slug, units in report.units.items():
        rows += [line(f"{slug}: a post", units.post), line(f"{slug}: a delivery", units.delivery)]
        for followees, read in zip(report.followees, units.reads, strict=True):
            rows.append(line(f"{slug}: a read, {followees:,} followees", read))
    processes = next(iter(report.units.values())).post.cpu_s
    return Grid("Processor time, µs (the harness is the web process)", ["what", *processes], rows)


def _of_plan(report: reports.Plan) -> list[Grid]:
    needs = report.needs
    rows = [
        ["deliveries a day", *(f"{n.deliveries_per_day:,.0f}" for n in needs)],
        ["processor hours a day", *(f"{n.cpu_s_per_day / 3600:.2f}" for n in needs)],
        *([f"cores at the peak, {name}", *(f"{n.cores[name]:.3f}" for n in needs)] for name in needs[0].cores),
        *(
            [f"commands/s at the peak, {name}", *(f"{n.commands_per_s[name]:,.1f}" for n in needs)]
            for name in needs[0].commands_per_s
        ),
        ["memory for what is kept", *(size(n.memory_bytes) for n in needs)],
        ["disk for what is kept", *(size(n.disk_bytes) for n in needs)],
        ["post acknowledged, ms", *(f"{n.post_ms:.1f}" for n in needs)],
        ["the heaviest author's, ms", *(f"{n.post_heaviest_ms:,.1f}" for n in needs)],
        ["read, ms", *(f"{n.read_ms:.1f}" for n in needs)],
        ["delivery lag, s", *(_lag(n, n.lag_s) for n in needs)],
        ["the heaviest author's, s", *(_lag(n, n.lag_heaviest_s) for n in needs)],
        ["full first", *(f"{n.first} ({100 * n.fullest:.1f} %)" for n in needs)],
    ]
    crossings = "Where two of them cost the same processor time"
    margins = [[between, f"{cost_us:.2f}"] for between, cost_us in report.marginal_author_us]
    note = "The first author costs a whole command; the next ones ride along, up to 200 in one."
    return [
        Grid("What each phase needs", ["", *(n.phase for n in needs)], rows),
        Grid(crossings, ["what", "at", ""], [list(row) for row in report.crossings]),
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
