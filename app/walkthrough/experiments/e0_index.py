"""The missing index: harmless on a desk, and a full scan for whoever follows quiet people."""

from collections.abc import Mapping
from datetime import timedelta
from typing import Any

from bson import ObjectId

from app.clock import id_at
from app.walkthrough.experiments.base import Experiment, Knob
from app.walkthrough.lab import Lab, median_ms, status_row
from app.walkthrough.result import Bar, Chart, Result, times, written

FOLLOWEES, BUSY, QUIET_EACH, PAGE = 20, 200, 5, 20
WITH, WITHOUT = "statuses", "statuses_without_index"
REPEATS = 5


class MissingIndex(Experiment):
    slug = "index"
    title = "The missing index"
    about = (
        f"Two readers follow {FOLLOWEES} people each. One follows people who post all the time; the other follows "
        f"people who posted {QUIET_EACH} times, long ago. Both ask for the newest {PAGE} statuses, with the index "
        "(user_id, _id) and without it."
    )
    knobs = (Knob("statuses", "Statuses in the database", 2_000, 50_000, 1_000, 20_000, 2_000),)

    async def run(self, lab: Lab, values: Mapping[str, int]) -> Result:
        busy = [lab.person() for _ in range(BUSY)]
        quiet = [lab.person() for _ in range(FOLLOWEES)]
        total = values["statuses"]
        lab.say(f"Writing {total:,} statuses twice: with the index and without")
        rows = _rows(lab, quiet, QUIET_EACH * FOLLOWEES, busy, total)
        await lab.insert(WITH, rows)
        await lab.insert(WITHOUT, rows)
        bars, examined = [], []
        for whose, followees in (("busy", busy[:FOLLOWEES]), ("quiet", quiet)):
            for series, collection in enumerate((WITHOUT, WITH)):
                lab.say(f"Reading: {whose} followees, {'with' if series else 'without'} the index")
                label = f"{whose} people"
                ms = await median_ms(lambda c=collection, f=followees: _newest(lab, c, f), REPEATS)  # type: ignore[misc]
                bars.append(Bar(label=label, value=ms, series=series))
                if lab.real:
                    documents = await lab.looked_at("Docs", collection, _by(followees), PAGE)
                    examined.append(Bar(label=label, value=documents, series=series))
        series_names = ("without the index", "with the index")
        charts = [Chart(title="One page of whoever follows", unit="ms", bars=tuple(bars), series=series_names)]
        if examined:
            charts.append(
                Chart(title="Documents fetched for that page", unit="", bars=tuple(examined), series=series_names)
            )
        return Result(sentence=_sentence(bars, examined, total), charts=tuple(charts))


def _rows(lab: Lab, quiet: list[ObjectId], n_quiet: int, busy: list[ObjectId], total: int) -> list[dict[str, Any]]:
    begin = lab.clock.now() - timedelta(seconds=total)
    authors = [quiet[n % len(quiet)] for n in range(n_quiet)] + [busy[n % len(busy)] for n in range(total - n_quiet)]
    return [status_row(id_at(begin + timedelta(seconds=n)), author) for n, author in enumerate(authors)]


def _by(followees: list[ObjectId]) -> dict[str, Any]:
    return {"user_id": {"$in": followees}}


async def _newest(lab: Lab, collection: str, followees: list[ObjectId]) -> None:
    found = lab.stack.db[collection].find(_by(followees)).sort("_id", -1).limit(PAGE)
    assert len(await found.to_list(None)) == PAGE


def _sentence(bars: list[Bar], examined: list[Bar], total: int) -> str:
    busy_without, busy_with, quiet_without, quiet_with = (bar.value for bar in bars)
    looked = ""
    if examined:
        looked = (
            f" MongoDB walked back through the whole history and fetched {examined[2].value:,.0f} documents to find "
            f"{PAGE}, where the index led to {examined[3].value:,.0f}."
        )
    unnoticed = ", so nobody who tries it out with busy people notices" if busy_without < 4 * busy_with else ""
    return (
        f"With {total:,} statuses, a page for whoever follows quiet people takes {written(quiet_without)} ms without "
        f"the index and {written(quiet_with)} ms with it: {times(quiet_without, quiet_with)}.{looked} For whoever "
        f"follows busy people it is {written(busy_without)} ms against {written(busy_with)} ms{unnoticed}."
    )
