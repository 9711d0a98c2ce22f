"""The cliff of `$in`: up to 200 values MongoDB merges sorted ranges, from 201 on it reads and sorts everything."""

from collections.abc import Mapping
from typing import Any

from bson import ObjectId

from app.clock import LAST_ID
from app.walkthrough.experiments.base import Experiment, Knob
from app.walkthrough.lab import Lab, median_ms
from app.walkthrough.result import Bar, Chart, Result, times, written
from phases.home.newest import GROUP
from phases.p1_query import QUERY, statuses_by

PAGE = 50
OTHERS = 2  # statuses of others for each of the followees', on real servers
REPEATS = 9  # on real servers; the stand-in is asked once


class Cliff(Experiment):
    slug = QUERY.slug
    title = "The cliff at 200 followees"
    about = (
        f"A reader asks for the newest {PAGE} statuses of everybody they follow: once with all of them in one $in, "
        f"once as phase 1 does it, in groups of {GROUP} and of many people in a window. Others have posted "
        "more, and more lately, than the people this reader follows; so it is in any large system."
    )
    knobs = (
        Knob("followees", "Followees, at most", 400, 2_000, 100, 1_000, 400),
        Knob("history", "Statuses of each", 5, 40, 5, 30, 5),
    )

    async def run(self, lab: Lab, values: Mapping[str, int]) -> Result:
        most, history = values["followees"], values["history"]
        authors = [lab.person() for _ in range(most)]
        others = OTHERS if lab.real else 0
        lab.say(f"Writing {most * history * (1 + others):,} statuses")
        await lab.history(authors, history, ended_days_ago=5)
        if others:
            await lab.history([lab.person() for _ in range(most)], history * others)
        bars, examined = [], []
        for n in sorted({100, GROUP, GROUP + 1, 400, most}):
            lab.say(f"Asking for {n:,} followees")
            some, repeats = authors[:n], REPEATS if lab.real else 1
            one = await median_ms(lambda some=some: _one_in(lab, some), repeats)  # type: ignore[misc]
            groups = await median_ms(
                lambda some=some: statuses_by(lab.stack.db, some).older_than(LAST_ID, PAGE),  # type: ignore[misc]
                repeats,
            )
            bars += [Bar(label=f"{n:,} followees", value=one), Bar(label=f"{n:,} followees", value=groups, series=1)]
            if lab.real:
                keys = await lab.looked_at("Keys", "statuses", _by(some), PAGE)
                examined.append(Bar(label=f"{n:,} followees", value=keys))
        charts = [Chart(title="One page", unit="ms", bars=tuple(bars), series=("one $in", "as phase 1 asks"))]
        if examined:
            charts.append(Chart(title="Index keys read by one $in", unit="", bars=tuple(examined)))
        return Result(sentence=_sentence(bars, examined, most), charts=tuple(charts))


def _by(authors: list[ObjectId]) -> dict[str, Any]:
    return {"user_id": {"$in": authors}, "_id": {"$lt": LAST_ID}}


async def _one_in(lab: Lab, authors: list[ObjectId]) -> None:
    await lab.stack.db["statuses"].find(_by(authors), {"user_id": 1}).sort("_id", -1).limit(PAGE).to_list(None)


def _sentence(bars: list[Bar], examined: list[Bar], most: int) -> str:
    one = {bar.label: bar.value for bar in bars if bar.series == 0}
    grouped = {bar.label: bar.value for bar in bars if bar.series == 1}
    below, above, last = f"{GROUP} followees", f"{GROUP + 1} followees", f"{most:,} followees"
    keys = {bar.label: bar.value for bar in examined}
    read = f": it reads {keys[above]:,.0f} index keys instead of {keys[below]:,.0f}" if keys else ""
    return (
        f"One $in takes {written(one[below])} ms for {GROUP} followees. For one followee more it takes "
        f"{written(one[above])} ms, {times(one[above], one[below])}{read}. At {most:,} followees it takes "
        f"{written(one[last])} ms; as phase 1 asks it takes {written(grouped[last])} ms, "
        f"{times(grouped[last], one[last])}."
    )
