"""The API over HTTP, beside its own page and an empty Starlette route."""

import asyncio
import time
from functools import partial
from http import HTTPStatus

from benchmarks import answers, limits, raw_page, scenes
from benchmarks.readers import LIMIT
from benchmarks.report import Row
from benchmarks.rig import Rig
from benchmarks.subject import Api, Http
from benchmarks.targets.base import (
    REST_S,
    Scale,
    delivered,
    in_turn,
    only,
    p50_ms,
    ratio,
    row,
    seconds_of,
    timed_in_turn,
)
from phases import PHASES


async def post(rig: Rig, scale: Scale) -> list[Row]:
    """Measure what an author with some followers waits for, beside the one write that every phase makes."""
    api, slug = rig.subject, answers.LISTS.slug
    assert isinstance(api, Api)
    star = await scenes.star(rig, 10, 10)
    await api.enter([star.author])
    await only(rig, slug)

    async def posted() -> float:
        began = time.perf_counter()
        status, _ = await api.post(star.author, "a status", "followers", "")
        took_s = time.perf_counter() - began
        await delivered(rig, slug, [status])
        await asyncio.sleep(REST_S)
        return took_s

    with raw_page.serving() as port, scenes.raw(rig) as db:
        http = Http("127.0.0.1", port)
        await asyncio.wait_for(http.ask("GET", "/"), 30)
        seconds = await timed_in_turn(
            scale.reads,
            post=posted,
            insert=partial(seconds_of, limits.measured(limits.insert_status, db, star.author)),
            empty=partial(seconds_of, partial(http.ask, "GET", "/")),
        )
        await http.close()
    await scenes.everything_delivers(rig)
    bare = [insert + empty for insert, empty in zip(seconds["insert"], seconds["empty"], strict=True)]
    title = f"post acknowledged over HTTP in phase {slug}, p50 ÷ (a bare majority insert + an empty route)"
    return [row("post-http", title, ratio(seconds["post"], bare), p50_ms(**seconds), at_most=1.8)]


async def overhead(rig: Rig, scale: Scale) -> list[Row]:
    api = rig.subject
    assert isinstance(api, Api)
    reader = await scenes.follower_of(rig, await scenes.authors(rig, scale.followees // 5, 10))
    await api.enter([reader])
    rows, slugs, due = [], [phase.slug for phase in PHASES], await scenes.newest(rig, reader, LIMIT)
    for slug in slugs:
        await scenes.check_page(rig, reader, slug, LIMIT)
        scenes.check(slug, reader, (await api.page(reader, slug, None, LIMIT)).ids, due)
    with raw_page.serving() as port:
        http = Http("127.0.0.1", port)
        status, _ = await asyncio.wait_for(http.ask("GET", "/"), 30)  # the process may still be starting
        assert status == HTTPStatus.OK
        for slug in slugs:
            seconds = await in_turn(
                scale.reads,
                http=partial(api.ask, reader, "GET", f"/timeline?phase={slug}&limit={LIMIT}"),
                page=partial(rig.timelines.page, reader, phase=slug, limit=LIMIT),
                empty=lambda: http.ask("GET", "/"),
            )
            own = [page + empty for page, empty in zip(seconds["page"], seconds["empty"], strict=True)]
            title = f"GET /timeline in phase {slug} over HTTP p50 ÷ (its own page + an empty Starlette route)"
            rows.append(row(f"http-{slug}", title, ratio(seconds["http"], own), p50_ms(**seconds), at_most=1.3))
        await http.close()
    return rows
