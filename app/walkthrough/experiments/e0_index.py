"""Experiment: the missing index, harmless on a desk, and a full scan for whoever follows quiet people."""

from collections.abc import Mapping
from datetime import timedelta
from typing import Any

from bson import ObjectId

from app.clock import id_at
from app.walkthrough.experiments.base import Experiment, Knob
from app.walkthrough.lab import Lab, in_turn, status_row
from app.walkthrough.result import Bar, Chart, Result, Sample, compared, differ

FOLLOWEES, BUSY, QUIET_EACH, PAGE = 20, 200, 5, 20
WITH, WITHOUT = "statuses", "statuses_without_index"
ROUNDS, FEW_ROUNDS = 9, 2  # on real servers, and on stand-ins


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
        readers = {"busy": busy[:FOLLOWEES], "quiet": quiet}
        lab.say("Reading, with the index and without it")
        works = {
            (whose, collection): lambda c=collection, f=followees: _newest(lab, c, f)
            for whose, followees in readers.items()
            for collection in (WITHOUT, WITH)
        }
        samples = await in_turn(works, ROUNDS if lab.real else FEW_ROUNDS)
        examined = {}
        if lab.real:
            for whose, collection in works:
                by = _by(readers[whose])
                examined[whose, collection] = await lab.looked_at("Docs", collection, by, PAGE)
        series = {WITHOUT: 0, WITH: 1}
        names = ("without the index", "with the index")
        bars = tuple(sample.bar(f"{whose} people", series[where]) for (whose, where), sample in samples.items())
        charts = [Chart(title="One page of whoever follows", unit="ms", bars=bars, series=names)]
        if examined:
            counts = tuple(
                Bar(label=f"{whose} people", value=n, series=series[where]) for (whose, where), n in examined.items()
            )
            charts.append(Chart(title="Documents fetched for that page", unit="", bars=counts, series=names))
        return Result(sentence=sentence(total, samples, examined), charts=tuple(charts))


def _rows(lab: Lab, quiet: list[ObjectId], n_quiet: int, busy: list[ObjectId], total: int) -> list[dict[str, Any]]:
    begin = lab.clock.now() - timedelta(seconds=total)
    authors = [quiet[n % len(quiet)] for n in range(n_quiet)] + [busy[n % len(busy)] for n in range(total - n_quiet)]
    return [status_row(id_at(begin + timedelta(seconds=n)), author) for n, author in enumerate(authors)]


def _by(followees: list[ObjectId]) -> dict[str, Any]:
    return {"user_id": {"$in": followees}}


async def _newest(lab: Lab, collection: str, followees: list[ObjectId]) -> None:
    found = lab.stack.db[collection].find(_by(followees)).sort("_id", -1).limit(PAGE)
    assert len(await found.to_list(None)) == PAGE


def sentence(total: int, samples: Mapping[tuple[str, str], Sample], examined: Mapping[tuple[str, str], int]) -> str:
    quiet_without, quiet_with = samples["quiet", WITHOUT], samples["quiet", WITH]
    busy_without, busy_with = samples["busy", WITHOUT], samples["busy", WITH]
    fetched = ""
    if examined:
        fetched = (
            f" For its {PAGE} statuses MongoDB fetched {examined['quiet', WITHOUT]:,} documents without the index, and "
            f"{examined['quiet', WITH]:,} with it."
        )
    worse = differ(busy_without, busy_with) and busy_without.median > busy_with.median
    noticed = "here busy people show it too" if worse else "nobody who tries it with busy people notices"
    return (
        f"With {total:,} statuses, a page of whoever follows quiet people takes {quiet_with} ms with the index and "
        f"{quiet_without} ms without it: {compared(quiet_without, quiet_with)}.{fetched} A page of whoever follows "
        f"busy people takes {busy_with} ms with the index and {busy_without} ms without it: "
        f"{compared(busy_without, busy_with)}, so {noticed}."
    )
