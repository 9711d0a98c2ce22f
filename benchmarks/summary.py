"""The summary of a comparison's cells: each phase over all rounds, and its ratios to the first one."""

import statistics
from collections import Counter
from collections.abc import Iterable, Sequence

from benchmarks.measure import Latencies
from benchmarks.report import KINDS, Cell, Kept, Spread, Summary


def summary(cells: Sequence[Cell]) -> Summary:
    """Summarize the cells of one phase: merged histograms, means of the rest."""
    latencies = {kind: Latencies() for kind in KINDS}
    errors: Counter[str] = Counter()
    for cell in cells:
        errors.update(cell.errors)
        for kind, encoded in cell.histograms.items():
            latencies[kind].add(Latencies.decoded(encoded))
    return Summary(
        latency_ms={kind: latencies[kind].figures() for kind in KINDS},
        counts={kind: latencies[kind].count for kind in KINDS},
        curves={kind: latencies[kind].curve() for kind in KINDS if latencies[kind].count},
        operations=sum(sum(cell.counts.values()) for cell in cells),
        operations_per_s=_mean(cell.operations_per_s for cell in cells),
        deliveries_per_s=_mean(cell.deliveries_per_s for cell in cells),
        commands={
            what: _means([cell.commands[what] for cell in cells])
            for what in ("post", "read")
            if all(what in cell.commands for cell in cells)
        },
        server_commands_per_s=_means([_per_s(cell.server_commands, cell) for cell in cells if cell.server_commands])
        if all(cell.server_commands for cell in cells)
        else None,
        cpu_share=_means([_per_s(cell.cpu_s, cell) for cell in cells], digits=4),
        kept=Kept(store=cells[0].kept.store, **_means([cell.kept.model_dump(exclude={"store"}) for cell in cells])),
        errors=dict(errors),
        drained=all(cell.drained for cell in cells),
        checked_pages=sum(cell.checked_pages for cell in cells),
        lag_checked=sum(cell.lag_checked for cell in cells),
        pulled=sum(cell.pulled for cell in cells),
    )


def _per_s(totals: dict[str, float], cell: Cell) -> dict[str, float]:
    return {name: total / cell.elapsed_s for name, total in totals.items()}


def _means(each: Sequence[dict[str, float]], digits: int = 2) -> dict[str, float]:
    return {name: _mean((figures[name] for figures in each), digits) for name in each[0]}


def _mean(numbers: Iterable[float], digits: int = 2) -> float:
    return round(statistics.fmean(numbers), digits)


def ratios(cells: Sequence[Cell], base: str) -> dict[str, dict[str, Spread]]:
    """Return each figure ÷ the base phase's in the same round, by phase: median, least and most over the rounds.

    Rounds in which operations of either have failed are left out: those may be just the ones that take longest.
    """
    cells = [cell for cell in cells if not cell.errors]
    bases = {cell.round: _figures(cell) for cell in cells if cell.phase == base}
    each: dict[str, dict[str, list[float]]] = {cell.phase: {} for cell in cells if bases and cell.phase != base}
    for cell in cells:
        for name, value in _figures(cell).items():
            if cell.phase in each and (one := bases.get(cell.round, {}).get(name)):
                each[cell.phase].setdefault(name, []).append(value / one)
    return {slug: {name: _spread(of) for name, of in figures.items()} for slug, figures in each.items()}


def _spread(numbers: Sequence[float]) -> Spread:
    median, least, most = (round(of(numbers), 3) for of in (statistics.median, min, max))
    return Spread(median=median, min=least, max=most)


def _figures(cell: Cell) -> dict[str, float]:
    """Return the figures that are worth a ratio."""
    worth: dict[str, float] = {}
    for kind in KINDS:
        if (figures := cell.latency_ms[kind]) and (kind != "lag" or cell.drained):
            worth |= {f"{kind}_ms {name}": figures[name] for name in ("p50", "p99") if name in figures}
    worth |= {f"commands per {what}": sum(counts.values()) for what, counts in cell.commands.items()}
    worth["cpu an operation"] = cell.cpu_s_an_operation
    worth["operations per s"] = cell.operations_per_s
    return worth
