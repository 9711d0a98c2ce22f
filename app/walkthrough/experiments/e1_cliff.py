"""Experiment: the cliff of `$in`. Up to 200 values MongoDB merges sorted ranges; from 201 on it reads and sorts all."""

from collections.abc import Awaitable, Callable, Mapping
from functools import partial
from typing import Any

from bson import ObjectId

from app.clock import LAST_ID
from app.walkthrough.experiments.base import Experiment, Knob
from app.walkthrough.lab import Lab, in_turn
from app.walkthrough.result import Bar, Chart, Result, Sample, compared
from phases.home.newest import GROUP, Newest
from phases.p1_query import QUERY, written_by

PAGE = 50
OTHERS = 2  # statuses of others for each of the followees', on real servers
ROUNDS, FEW_ROUNDS = 9, 1  # on real servers, and on stand-ins
ONE, AS_PHASE_1 = "one $in", "as phase 1 asks"


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
        counts = sorted({100, GROUP, GROUP + 1, 400, most})
        lab.say(f"Asking for up to {most:,} followees")
        works: dict[tuple[int, str], Callable[[], Awaitable[object]]] = {}
        for n in counts:
            works[n, ONE] = partial(_one_in, lab, authors[:n])
            works[n, AS_PHASE_1] = partial(Newest(lab.stack.db, written_by, authors[:n]).older_than, LAST_ID, PAGE)
        samples = await in_turn(works, ROUNDS if lab.real else FEW_ROUNDS)
        keys = {}
        if lab.real:
            keys = {n: await lab.looked_at("Keys", "statuses", _by(authors[:n]), PAGE) for n in counts}
        bars = tuple(
            sample.bar(f"{n:,} followees", (ONE, AS_PHASE_1).index(how)) for (n, how), sample in samples.items()
        )
        charts = [Chart(title="One page", unit="ms", bars=bars, series=(ONE, AS_PHASE_1))]
        if keys:
            read = tuple(Bar(label=f"{n:,} followees", value=read) for n, read in keys.items())
            charts.append(Chart(title="Index keys read by one $in", unit="", bars=read))
        return Result(pain=pain(samples, keys), sentence=sentence(samples, most), charts=tuple(charts))


def _by(authors: list[ObjectId]) -> dict[str, Any]:
    return {"user_id": {"$in": authors}, "_id": {"$lt": LAST_ID}}


async def _one_in(lab: Lab, authors: list[ObjectId]) -> None:
    await lab.stack.db["statuses"].find(_by(authors), {"user_id": 1}).sort("_id", -1).limit(PAGE).to_list(None)


def pain(samples: Mapping[tuple[int, str], Sample], keys: Mapping[int, int]) -> str:
    below, above = samples[GROUP, ONE], samples[GROUP + 1, ONE]
    read = f" It reads {keys[GROUP + 1]:,} index keys, and for {GROUP} followees {keys[GROUP]:,}." if keys else ""
    return (
        f"One $in takes {below} ms for {GROUP} followees, and {above} ms for one followee more: "
        f"{compared(above, below)}.{read}"
    )


def sentence(samples: Mapping[tuple[int, str], Sample], most: int) -> str:
    one, cut = samples[most, ONE], samples[most, AS_PHASE_1]
    return f"At {most:,} followees one $in takes {one} ms, and as phase 1 asks it takes {cut} ms: {compared(cut, one)}."
