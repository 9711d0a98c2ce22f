"""Posts acknowledged: whoever has many followers waits no longer, where a worker delivers."""

import time

from app.social import Social
from benchmarks import answers, scenes
from benchmarks.report import Row
from benchmarks.rig import Rig
from benchmarks.targets.base import Scale, delivered, only, row
from benchmarks.turns import p50_ms, ratio


async def acknowledged(rig: Rig, scale: Scale) -> list[Row]:
    large, small = await scenes.star(rig, scale.most, scale.most // 100), await scenes.star(rig, 10, 10)
    rows = []
    social = Social(rig.stack, rig.timelines.outbox)
    for slug in (phase.slug for phase in answers.IN_WORKER):
        await only(rig, slug)
        seconds: dict[str, list[float]] = {"large": [], "small": []}
        for turn in range(2 * scale.repeats + 1):
            for name, star in (("large", large), ("small", small)):
                began = time.perf_counter()
                status, _ = await social.post(star.author, "a status")
                if turn:
                    seconds[name].append(time.perf_counter() - began)
                await delivered(rig, slug, [status.id])
        title = f"post acknowledged in phase {slug}, p50 at {scale.most:,} followers ÷ at 10"
        rows.append(
            row(f"ack-{slug}", title, ratio(seconds["large"], seconds["small"]), p50_ms(**seconds), at_most=1.2)
        )
    await scenes.everything_delivers(rig)
    return rows
