"""The API over HTTP, beside its own page and an empty Starlette route."""

import asyncio
from functools import partial
from http import HTTPStatus

from benchmarks import raw_page, scenes
from benchmarks.report import Row
from benchmarks.rig import Rig
from benchmarks.subject import Api, Http
from benchmarks.targets.base import Scale, in_turn, p50_ms, ratio, row
from phases import PHASES


async def overhead(rig: Rig, scale: Scale) -> list[Row]:
    api = rig.subject
    assert isinstance(api, Api)
    reader = await scenes.follower_of(rig, await scenes.authors(rig, scale.followees // 5, 10))
    rows = []
    with raw_page.serving() as port:
        http = Http("127.0.0.1", port)
        status, _ = await asyncio.wait_for(http.ask("GET", "/"), 30)  # the process may still be starting
        assert status == HTTPStatus.OK
        for slug in (phase.slug for phase in PHASES):
            seconds = await in_turn(
                scale.reads,
                http=partial(api.ask, reader, "GET", f"/timeline?phase={slug}"),
                page=partial(rig.timelines.page, reader, phase=slug),
                empty=lambda: http.ask("GET", "/"),
            )
            own = [page + empty for page, empty in zip(seconds["page"], seconds["empty"], strict=True)]
            title = f"GET /timeline in phase {slug} over HTTP p50 ÷ (its own page + an empty Starlette route)"
            rows.append(row(f"http-{slug}", title, ratio(seconds["http"], own), p50_ms(**seconds), at_most=1.3))
        await http.close()
    return rows
